/* Starling node: which databases there are. Finds them in the instance folder, makes those that peers have, and knows what
 * state each is in. Each has a worker thread, except a file that only looks like one by its name.
 *
 * A file that SQLite has open in this process is never opened here: closing any descriptor of a file drops all POSIX locks that the process
 * has on it, SQLite's among them. So only files with an unknown device and inode number are looked into. */
#ifndef NODE_DATABASES_H
#define NODE_DATABASES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <uthash.h>
#include <uv.h>

#include "node/worker.h"

struct node;
struct databases;

/*              OPENED                 CLOSED with a reason
 *  DB_OPENING ────────▶ DB_SERVED ─────────────────────────▶ DB_FAILED ── OPENED ──▶ DB_SERVED
 *  CLOSED without a reason: DB_OPENING again (it is being reopened). DB_ALIEN: not a SQLite database; becomes DB_OPENING when the file turns into one */
enum database_state { DB_OPENING, DB_SERVED, DB_FAILED, DB_ALIEN };

struct database {
    struct node *node;
    char *name, *path;
    struct worker *worker; /* NULL: DB_ALIEN */
    enum database_state state;
    char *error;         /* NULL while it is served */
    bool wanted;         /* a peer has it; something else stood in its place */
    bool internal;       /* not the application's: the index of the files, in the state folder */
    bool in_core;        /* the core was told DB_OPEN */
    bool fetching;       /* its worker waits for JOB_FETCHED; it was complete, as far as it is known, since: */
    uint64_t fetched_ms; /* 0: not */
    bool settled;        /* as the store said last */
    json_t *status;      /* the last `databases` entry; NULL none yet */
    char **follows;      /* across.c: "db/table.column" that rows here refer to */
    uint32_t follows_count;
    struct stat look;       /* DB_ALIEN: as it was looked into */
    struct vv stored, told; /* what it has, and of which the log has told (activity.c) */
    uint64_t told_ms;
    bool untold;
    UT_hash_handle hh;
};

struct databases *databases_open(struct node *node, const char *instance, const char *state); /* NULL without memory */
/* Starts looking, now and whenever the folder changes. */
void databases_start(struct databases *d);
void databases_scan(struct databases *d); /* looks now */
/* Stops looking and asks all workers to end. */
void databases_follow(struct databases *d); /* the configuration has changed */
void databases_stop(struct databases *d);
/* MESSAGE_ENDED came: joins that thread. */
void databases_ended(struct databases *d, struct database *db);
bool databases_running(const struct databases *d); /* a worker has not ended yet */
void databases_close(struct databases *d);         /* closes the handles; then databases_free() once they are closed */
void databases_free(struct databases *d);

struct database *databases_find(const struct databases *d, const char *name); /* NULL */
struct database *databases_first(const struct databases *d);                  /* in order of names; then hh.next */
/* The application's own alone. */
struct database *databases_app_first(const struct databases *d);
struct database *databases_app_next(const struct database *db);
uint32_t databases_count(const struct databases *d);
/* A database of the node's own, at this path, replicated as any other under a name that no file in an instance can have. */
struct database *databases_serve(struct databases *d, const char *name, const char *path); /* NULL without memory */
/* A peer has this database and we do not: makes it, empty, to be filled. Bad names are refused with a line in the log. */
void databases_want(struct databases *d, const char *name);
void database_failed(struct database *db, const char *why); /* sets state and error */
bool database_broken(const struct database *db);            /* cannot be served: nothing is in sync before that is mended */
/* Stores name the database or its file in front of a sentence: text without that, for where the name is said anyway. */
const char *database_words(const struct database *db, const char *text);

/* For --check and --uninstall. */
struct databases_listing {
    void *ctx;
    void (*found)(void *ctx, const char *name, const char *path, bool alien); /* alien: it has only the name, not SQLite's header */
    void (*closed)(void *ctx, const char *folder, int error);                 /* a folder that cannot be looked into */
};
int databases_list(const char *instance, const char *state, const struct databases_listing *listing);
const char *databases_closed_mend(int error); /* what to do about a folder that cannot be looked into */

#endif
