/* Starling node: what the files of the content module share; nobody else includes this.
 *
 *   content.c         opening, closing, peers and their connections, the timer, what comes in
 *   content_scan.c    reading files whole
 *   content_get.c     what is wanted, from the wish to the list of chunks to `staged`
 *   content_stage.c   the staging file and its journal, and when they are synced
 *   content_write.c   what is written into it: what came, and what other files here have
 *   content_serve.c   answering peers
 *
 * Jobs run on libuv's pool and touch nothing but what they were given. */
#ifndef NODE_FILES_CONTENT_STATE_H
#define NODE_FILES_CONTENT_STATE_H

#include <stdatomic.h>
#include <sys/uio.h>
#include <uthash.h>
#include <utlist.h>

#include "node/content_door.h"
#include "node/files/chunker.h"
#include "node/files/content.h"
#include "node/files/content_link.h"
#include "node/files/content_table.h"
#include "node/files/fetch.h"
#include "proto/wire_content.h"
#include "proto/zip.h"

#define STORE_HIGH_BYTES (6u << 20) /* came and not yet written: nothing is read meanwhile */
#define STORE_LOW_BYTES (3u << 20)
#define LINKS_OF_PEER 4
#define IDLE_MS 60000
#define STUCK_LINK_MS 30000 /* something is queued, and nothing passes */
#define DIAL_AGAIN_MS 3000

struct job {
    uv_work_t work;
    struct content *content;
    void (*run)(struct job *j);  /* on the pool */
    void (*done)(struct job *j); /* on the loop; frees it */
};

/* Runs that a peer wants, in a ring. */
struct runs {
    struct wire_run *ring;
    uint32_t at, count, cap;
};

struct source; /* an open local file with its list: content_serve.c */

/* A connection. */
struct conn {
    struct content *content;
    struct peer *peer;
    struct content_link *link;
    struct runs small, large; /* what the peer wants: small contents, or the first chunk of one, go before the others */
    bool serving, over;       /* over: the link is gone, freed with the job */
    uint32_t plain;           /* bodies to go before compressing is tried again */
    struct zip *zip;
    struct source *source;
    uint64_t opened_ms;
    struct conn *prev, *next;
};

struct peer {
    uint8_t id[NODE_ID_BYTES];
    bool up, dialling;
    uint64_t again_ms; /* not dialled before */
    struct conn *conns;
    uint32_t conns_count;
    struct buf asks;       /* frames that wait for a connection */
    struct wire_run *runs; /* that the next WANT names */
    uint32_t runs_count, runs_cap;
    struct peer *next;
};

struct want {
    uint64_t number;
    struct content_want want;
    struct target *target;
    UT_hash_handle hh;
    struct want *prev, *next; /* of the same target */
};

/* The list of chunks as it comes, group by group. */
struct assembly {
    uint32_t chunks, covered; /* as said first; entries of the groups that were named */
    struct {
        uint32_t first, count;
        uint8_t name[GROUP_BYTES];
        bool known;
    } * groups;
    uint32_t groups_count, groups_cap, missing;
    uint8_t *entries;
};

struct copy {
    uint32_t chunk;
    uint32_t source;
    uint64_t at; /* in the source */
};

#define SOURCES_MAX 4

struct target {
    struct content *content;
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t size;
    uint32_t root;
    bool small, listed, syncing, dropped, staged;
    bool queued;  /* in content->fresh */
    bool resumed; /* the first source is the staging file of an earlier run */
    int error;
    struct fetch_item *item;
    struct assembly assembly;
    struct chunklist list;
    int fd, dir, map; /* the staging file, its folder (borrowed), the journal */
    char name[CONTENT_NAME_MAX], map_name[CONTENT_NAME_MAX];
    uint32_t jobs;
    uint64_t here, fetched, unsynced;
    struct copy *copies;
    uint32_t copies_count, copies_at, copying;
    uint32_t tried;           /* files here that were noted to have it; while content.db cannot be written, the same ones */
    int sources[SOURCES_MAX]; /* descriptors; the last one may be the staging file itself */
    uint32_t sources_count;
    struct want *wants;
    UT_hash_handle hh;
    struct target *prev, *next; /* in fresh, or written */
};

struct bucket {
    double bytes; /* that may pass now; below 0: none */
    uint64_t at_ms;
};

struct scan;

#define SCANS_AT_ONCE 2
#define SCAN_GROUP_MAX 256

/* Files that a job on the pool reads: some small ones, or a large one. */
struct scan_group {
    struct job job;
    struct scan *scans[SCAN_GROUP_MAX];
    uint32_t count; /* 0: not under way */
    bool large;
};

/* Contents of several chunks that were hashed here a moment ago. While their file looks as it did then it is not hashed again to be served: who gets it
 * hashes it. Later it is: what rotted on the disk is said to be gone, and nobody takes us for a liar. */
#define HASHED_MAX 64
#define HASHED_MS 600000

struct hashed {
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t at_ms; /* 0: none */
};

struct content {
    struct content_config config;
    struct content_table *table;
    struct fetch *fetch;
    struct chunker chunker;
    uv_timer_t timer;
    bool timer_open, in_timer, door_open, closing, closed_told;
    void (*closed)(void *ctx);
    uint64_t number_last;
    uint32_t jobs; /* on the pool */
    struct peer *peers;
    struct target *targets;
    struct want *wants;
    struct target *fresh;   /* to be started, or given up */
    struct target *written; /* small, not synced yet */
    bool syncing_small;
    struct scan *scans_waiting, *scans_large;
    struct scan_group scan_groups[SCANS_AT_ONCE];
    uint32_t scans_count;
    atomic_bool scans_over;
    size_t storing; /* bytes */
    bool paused;
    struct bucket out, in;
    uint64_t commit_ms;
    struct hashed hashed[HASHED_MAX]; /* a ring */
    uint32_t hashed_next;
    struct content_totals totals;
};

/* content.c */
void content_job(struct content *c, struct job *j); /* always done() later, also when it could not be started: then run() was not called */
void content_soon(struct content *c);               /* the timer's work, at once */
void content_pause_reading(struct content *c);
void content_say(struct content *c, enum log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool bucket_ready(struct content *c, struct bucket *b, uint64_t now);

/* content_scan.c */
int content_error(int number); /* of an errno */
void scans_start(struct content *c);
void scans_close(struct content *c);

/* content_get.c */
void get_pump(struct content *c);
void get_have(struct content *c, struct conn *conn, const struct wire_have *w);
int get_groups(struct content *c, struct conn *conn, const struct wire_groups *w);
int get_entries(struct content *c, struct conn *conn, const struct wire_entries *w);
void get_gone(struct content *c, struct conn *conn, const struct wire_run *run);
void get_ask_list(struct content *c, const struct fetch_ask *ask);
void target_check(struct target *t); /* whole, failed or dropped: what follows */
void target_fail(struct target *t, int error);
void targets_staged(struct content *c, struct target **list, uint32_t count); /* synced; frees them */
struct target *target_find(struct content *c, const uint8_t *hash);
void target_here(struct content *c, const uint8_t *hash); /* a file here was found to have it: if it is wanted, nobody needs to be asked */
void get_close(struct content *c);
void peer_send(struct content *c, const uint8_t *peer, const struct buf *frames);
void peer_forget_runs(struct peer *p);

/* content_stage.c */
int stage_make(int dir, const char *name, int how); /* a new file in the staging folder; as open() */
int stage_write(int fd, const uint8_t *data, size_t len, uint64_t at);
int stage_writev(int fd, struct iovec *pieces, uint32_t count, uint64_t at); /* one behind the other; they are used up */
int stage_read(int fd, uint8_t *data, size_t len, uint64_t at);              /* ERR_NOTFOUND: there is less */
int stage_open(struct target *t);                                            /* the staging file, once the list is known */
bool stage_resume(struct target *t);                                         /* the list and chunks of an earlier run */
void stage_wrote(struct target *t, uint32_t chunk, uint32_t len);
void stage_sync_maybe(struct target *t); /* now and then, so that the last sync is short and a restart finds most */
void stage_sync(struct target *t);
void stage_sync_small(struct content *c);
void stage_unlink(struct target *t);
void stage_map_remove(struct target *t);
void stage_map_write(struct target *t); /* which chunks are there, after they were synced or when all ends */

/* content_write.c */
int stage_data(struct content *c, struct conn *conn, const struct wire_data *w);
void stage_copies(struct target *t);
void stage_copies_go_on(struct target *t);
bool stage_small_copy(struct target *t); /* from a file here, if one has it; an empty one from nothing */

/* content_serve.c */
int serve_who(struct conn *conn, const uint8_t *hashes, uint32_t count);
int serve_list(struct conn *conn, const uint8_t *hash);
int serve_part(struct conn *conn, const struct wire_part *w);
void serve_hashed(struct content *c, const uint8_t *hash, const struct chunklist *list); /* a moment ago */
int serve_want(struct conn *conn, const uint8_t *runs, uint32_t count);
void serve_rest(struct conn *conn); /* nothing waits, and no job runs */
void serve_next(struct conn *conn);
bool serve_waits(const struct conn *conn); /* something that was asked for is not on its way yet */
void serve_release(struct conn *conn);

#endif
