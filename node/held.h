/* Starling node: which files SQLite has open in this process. Nobody else may open and close those: closing any descriptor of a file drops all POSIX
 * locks that the process has on it, SQLite's among them. Any thread. */
#ifndef NODE_HELD_H
#define NODE_HELD_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

struct held_file;

struct held {
    pthread_mutex_t lock;
    struct held_file *list;
};

void held_init(struct held *h);
void held_release(struct held *h);
/* What `owner` has open from now on, in place of what it had; on = false: nothing. Before it is opened. */
void held_set(struct held *h, const void *owner, bool on, dev_t dev, ino_t ino);
/* For reading, what look, an O_PATH descriptor, is of. -EINVAL: it is a SQLite database, one that is open here or one by its first bytes, or no regular
 * file; or another -errno. Nobody begins to open it as a database meanwhile. */
int held_open(struct held *h, int look);
/* Would that be -EINVAL? */
bool held_database(struct held *h, int look);

#endif
