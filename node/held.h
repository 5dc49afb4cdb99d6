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
/* Is it a SQLite database: one that is open here, or one by its first bytes? look: an O_PATH descriptor of a regular file. Nobody begins to
 * open it meanwhile. */
bool held_database(struct held *h, int look);

#endif
