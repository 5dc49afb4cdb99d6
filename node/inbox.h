/* Starling node: what worker threads tell the loop. One queue for all workers, in the order in which each said it, and one
 * uv_async_t to wake the loop. Bounded in bytes: a worker that is far ahead of the loop waits in inbox_put().
 *
 * The happy path for inbox is: a worker puts a message -> the loop wakes, takes it, acts, frees it with message_free().
 * Possible failure modes are:
 *   - the loop ends first: inbox_end() lets everyone through, and what is left is freed with the inbox. */
#ifndef NODE_INBOX_H
#define NODE_INBOX_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <uv.h>

#include "proto/bytes.h"
#include "proto/core.h"

#define INBOX_BYTES_MAX (32u << 20)

struct database;

enum message_type {
    MESSAGE_OPENED,  /* state: the database is served from now on */
    MESSAGE_CLOSED,  /* text: why it is not served (any more) */
    MESSAGE_BATCH,   /* batches[0]: ours, durable */
    MESSAGE_STORED,  /* state */
    MESSAGE_BAD,     /* origin, version, text */
    MESSAGE_FORGED,  /* origin, version */
    MESSAGE_MET,     /* number: of the core's request */
    MESSAGE_READ,    /* number: of the core's request; batches */
    MESSAGE_LOG,     /* level, text */
    MESSAGE_CHANGE,  /* json: a `watch` object */
    MESSAGE_ANSWER,  /* number: of the question; json or NULL */
    MESSAGE_FOLLOW,  /* text: rows here refer to those of "db/table.column" */
    MESSAGE_NUMBERS, /* text: "table.column" of this database; batches[0], number: as store_numbers() takes them */
    MESSAGE_ENDED,   /* the thread is about to end: join it */
};

struct message {
    enum message_type type;
    struct database *database;
    uint64_t number;
    struct bytes **batches;
    uint32_t batches_count;
    struct db_state state; /* have is owned */
    bool fetching;         /* OPENED: JOB_FETCHED is waited for */
    struct origin origin;
    uint64_t version;
    int level;
    char *text;
    json_t *json;
    size_t bytes;
    struct message *prev, *next;
};

struct inbox {
    uv_async_t async;
    pthread_mutex_t lock;
    pthread_cond_t room;
    struct message *list;
    size_t bytes;
    bool ended;
};

int inbox_init(struct inbox *in, uv_loop_t *loop, uv_async_cb woken, void *ctx); /* ctx becomes async.data */
void inbox_end(struct inbox *in);                                                /* nobody waits any more */
void inbox_release(struct inbox *in); /* after the async handle is closed and all workers ended */

/* Any thread. */
struct message *message_new(enum message_type type, struct database *database); /* never fails, see job_new() */
void message_free(struct message *m);
void inbox_put(struct inbox *in, struct message *m); /* m passes to the inbox */
/* As inbox_put(), for MESSAGE_STORED: an older one of the same database that is still queued is dropped. */
void inbox_put_latest(struct inbox *in, struct message *m);
/* Loop thread: the oldest message, or NULL. */
struct message *inbox_take(struct inbox *in);

#endif
