/* Starling tests: one server of a test: an application's connection and a store on the same database, and the protocol
 * core's part of the bargain: batches are handed to the store in order, causes first.
 *
 * Everything runs on the caller's thread; nothing waits: when the store asks for a pause, its clock is moved on. */
#ifndef TESTS_MODEL_SIDE_H
#define TESTS_MODEL_SIDE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/store/store.h"

#define SIDE_DB_NAME "app.db" /* on the wire */

struct side_batches {
    struct bytes **items; /* a reference each */
    uint32_t count, cap;
};

struct side {
    char app_path[200], state_path[200];
    const char *vfs;
    const char *pragmas; /* run on each new connection of the application; may be NULL */
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
    struct origin origin;
    sqlite3 *app;
    struct store *store;
    struct side_batches made; /* what the store said is durable, since side_init() */
    struct side_batches held; /* offered, but causes are missing */
    struct vv delivered;      /* what the store was given or had */
    bool refused;             /* the store could not take a batch that was delivered; why has its words */
    char why[400];
};

/* Files are folder/name.db and folder/name.state. Keys derive from seed. Opens nothing. */
void side_init(struct side *s, const char *folder, const char *name, uint32_t seed, const char *vfs);
/* Closes what is open, forgets the batches, keeps the files. */
void side_release(struct side *s);
/* Sorts sides by origin, so that ties between stamps fall as the places in the array do. Before anything is opened. */
void side_sort(struct side *sides, uint32_t count);
void side_unlink(const struct side *s);

int side_open_app(struct side *s);   /* a SQLite code */
int side_open_store(struct side *s); /* enum err; clears `held`, as a core that starts anew */
void side_close_app(struct side *s);
void side_close_store(struct side *s);
/* Runs SQL on the application's connection. A SQLite code; the message is in s->why. */
int side_sql(struct side *s, const char *sql);
/* The store's clock of waits (CLOCK_MONOTONIC, in this whole program) goes on by so much. The wall clock does not. */
void side_skip(uint64_t ms);
/* Turns the store until everything is drained, merged and shown. 0, or an enum err with why; ERR_BUSY if it never comes
 * to rest. */
int side_quiet(struct side *s);
/* Gives a batch to the store as soon as its causes were given, and then those that waited for it. No turn is made. */
void side_queue(struct side *s, struct bytes *batch);
/* The same, and then to rest. */
int side_offer(struct side *s, struct bytes *batch);
/* Everything that `from` has and `to` lacks, read from the log of `from`. */
int side_pull(struct side *to, struct side *from);
/* Until neither has news for the other. */
int side_exchange(struct side *a, struct side *b);

/* Rows of a query, columns joined by blanks, sorted; freed with side_lines_free. NULL when the query fails. */
char **side_query(sqlite3 *db, const char *sql, uint32_t *count);
void side_lines_sort(char **lines, uint32_t count);
void side_lines_free(char **lines, uint32_t count);

void side_batches_add(struct side_batches *b, struct bytes *batch); /* takes a reference of its own */
void side_batches_clear(struct side_batches *b);

#endif
