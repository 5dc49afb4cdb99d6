/* Starling node: one thread per database. It owns a struct store and nobody else touches that. Jobs come in through a queue
 * and an eventfd, what happened goes out through the inbox. SQLite and fsync block here and never on the loop.
 *
 * When the store cannot be opened or a turn fails, the database is closed, said to be in error (once), and tried again with
 * backoff up to 10 s, and as soon as the file looks different. The rest of the node keeps working. */
#ifndef NODE_WORKER_H
#define NODE_WORKER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "node/held.h"
#include "node/inbox.h"
#include "proto/core.h"

struct worker;

struct worker_config {
    struct database *database; /* for messages */
    struct inbox *inbox;
    struct held *held;                      /* which file it has open is told there */
    const char *db, *app_path, *state_path; /* copied */
    const char *const *excluded;            /* must outlive the worker */
    const struct policy_line *policies;     /* likewise */
    uint32_t policies_count;
    bool follow; /* new tables and columns of other servers are made here, too */
    bool create; /* the file may be missing: a peer has this database */
    bool match;  /* adopt = match: before its rows join others, those are fetched, beside it; then it counts as another copy of them */
    bool joins;  /* there is a cluster to fetch from */
    const uint8_t *key, *secret;
};

enum job_type {
    JOB_DELIVER,  /* batch (owned) */
    JOB_READ,     /* number, origin, from, to, bytes_max; answered with MESSAGE_READ */
    JOB_EPOCH,    /* start a new epoch; then CLOSED and OPENED follow */
    JOB_YIELD,    /* take up anew what the file holds, below what others have; the same */
    JOB_FETCHED,  /* all that linked peers have is here: the end of what `match` began */
    JOB_MEET,     /* number, offset_ms: somebody is linked; answered with MESSAGE_MET, or CLOSED and OPENED */
    JOB_ALONE,    /* origin, from: nobody is; versions behind that one have not left */
    JOB_SHARED,   /* others have the same base: remember it */
    JOB_WATCH,    /* on */
    JOB_FOLLOW,   /* on: as in worker_config */
    JOB_FOLLOWED, /* table: as store_followed() takes it */
    JOB_NUMBERS,  /* table, batch, number: as store_numbers() takes them */
    JOB_QUESTION, /* number, question, table, bucket, args; answered with MESSAGE_ANSWER */
};

enum question {
    QUESTION_STATUS,
    QUESTION_TABLES,
    QUESTION_DOCTOR,
    QUESTION_BARRIER, /* true when everything committed before is durable */
    QUESTION_ACCEPT,  /* table: rows that are gone were deleted */
    QUESTION_RESTORE, /* table: they were not, and are shown again */
    QUESTION_VERIFY,  /* table (NULL: all), bucket (-1: digests of all) */
    QUESTION_CONFLICTS,
    QUESTION_RESOLVE, /* args: {"id", "how"}, see store_resolve() */
    QUESTION_WHY,     /* args: {"table", "key", "column"?} */
    QUESTION_SURVEY,  /* args: see survey.h */
};

struct job {
    enum job_type type;
    struct bytes *batch;
    uint64_t number;
    struct origin origin;
    uint64_t from, to;
    size_t bytes_max;
    int64_t offset_ms;
    bool on;
    enum question question;
    char *table; /* owned */
    int bucket;
    json_t *args; /* owned, by the job alone */
    struct job *prev, *next;
};

int worker_start(struct worker **out, const struct worker_config *config); /* 0, ERR_NOMEM, ERR_IO */
/* Takes the job. */
void worker_post(struct worker *w, struct job *job);
struct job *job_new(enum job_type type); /* never fails */
void job_free(struct job *job);          /* one that was not posted; NULL is fine */
/* Asks it to end after the turn at hand; MESSAGE_ENDED follows. */
void worker_stop(struct worker *w);
/* Waits for the thread and frees. Only after MESSAGE_ENDED, unless waiting is wanted. */
void worker_join(struct worker *w);
/* True if SQLite may have this file open in this thread: then nobody may open and close it, since that drops SQLite's locks. */
bool worker_holds(struct worker *w, dev_t dev, ino_t ino);

#endif
