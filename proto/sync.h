/* Starling: what is known of each database, here and at each peer: vectors and digests heard (sync.c) and told
 * (announce.c), batches on their way to the store (hold.c), and ranges asked for and served (pull.c).
 *
 * Three numbers per origin: `have`, confirmed as durable by the store (the only one that others are told); `delivered`,
 * given to the store or ours and committed; `claimed`, the highest that a linked peer says it has.
 *   have <= delivered;  delivered < claimed: there is something to fetch. */
#ifndef PROTO_SYNC_H
#define PROTO_SYNC_H

#include <stdbool.h>

#include "proto/batch.h"
#include "proto/core.h"
#include "proto/wire.h"

#define INFLIGHT_MAX 256u /* batches delivered and not confirmed, a database */
#define INFLIGHT_BYTES_MAX (32u << 20)
#define HELD_OVERHEAD 128u        /* counted for each held batch besides its bytes */
#define PULL_BYTES (4u << 20)     /* credit of one range */
#define PULLS_MAX 64u             /* ranges asked of one link at a time */
#define READ_BYTES (1u << 20)     /* asked of the caller at a time */
#define RANGES_MAX 256u           /* ranges that one peer may have waiting here */
#define DB_WANTED_MS 60000u       /* EFFECT_DB_WANTED comes again, */
#define DB_WANTED_QUIET_MS 50u    /* and first when everybody is met, and no link came up for so long, */
#define DB_WANTED_LATEST_MS 1000u /* or then */

struct core;
struct link;
struct peer;

/* A batch that waits for the ones before it. */
struct held {
    uint64_t version;
    struct bytes *batch;
    struct vv after;
    uint8_t from[NODE_ID_BYTES];
};

/* What one member's writes, under all its epochs, take of the room that a database has for everybody's: at most three quarters, so that
 * whoever floods it, or has much to bring, leaves the others theirs. */
struct share {
    uint32_t sources, inflight_count;
    size_t inflight_bytes, held_bytes, pull_bytes;
};

struct source {
    struct origin origin;
    struct share *share;
    uint64_t have, delivered, claimed;
    uint64_t gen;      /* db->gen when `have` last changed */
    bool bad;          /* the store refused a batch of it */
    bool forked;       /* its author said two things under one version: others do not wait for it */
    uint64_t misfit;   /* the version that did not follow what is here, as a third one has it; 0 none */
    struct held *held; /* by version: held[held_first] .. */
    uint32_t held_first, held_count, held_cap;
    /* The first dependency that the next batch lacks; version 0: none known. */
    struct origin wait;
    uint64_t wait_version;
    /* pulling */
    uint64_t pull_link; /* 0 none */
    uint64_t pull_from, pull_ms, pull_bytes;
    uint64_t due_ms;   /* not before: it may be on its way by push */
    uint64_t retry_ms; /* a batch was dropped for want of room: not before, or when wait_version is there */
    uint64_t avoid_link, avoid_ms;
};

struct inflight {
    struct source *source;
    uint64_t version;
    size_t bytes;
    struct bytes *batch; /* to be passed on when it is stored; NULL: not */
    uint8_t from[NODE_ID_BYTES];
};

struct db {
    char name[BATCH_DB_NAME_MAX + 1];
    uint32_t index;
    bool open;
    struct vv have;
    uint64_t base, vector; /* vector: digest of have, when vector_known */
    bool vector_known;
    uint8_t content[WIRE_CONTENT_BYTES];
    bool settled;
    uint64_t gen;            /* rises with every change of what others are told */
    uint64_t full_gen;       /* who was told before this must be told everything */
    struct source **sources; /* sorted by origin */
    uint32_t sources_count, sources_cap;
    struct inflight inflight[INFLIGHT_MAX];
    uint32_t inflight_count;
    uint32_t turn;     /* the source that is looked at first for what is held */
    uint32_t recycled; /* ... and for one whose place another one can have */
    size_t inflight_bytes;
    size_t held_bytes;
    uint64_t held_count;
    size_t pull_bytes; /* credit out */
    uint64_t announce_at, announced_ms, plan_at;
    uint64_t vectors_ms;              /* up to when the VECTORs that were sent are paid for, see announce.c */
    bool lacking;                     /* at the last look there was something to fetch */
    uint64_t wanted_ms, wanted_by_ms; /* others have it: EFFECT_DB_WANTED not before, the first one not after; 0 no */
    bool fork_told;                   /* ours was: once a run we believe that */
    bool epoch_asked;                 /* EFFECT_EPOCH is out and DB_OPEN has not come */
    bool yields;                      /* the same for EFFECT_YIELD */
    bool withheld;                    /* clock.c: nothing of it leaves yet */
    uint64_t meeting;                 /* the EFFECT_MEET that is out; 0 none */
    uint64_t clock;                   /* the highest stamp in it */
    bool shared;                      /* the same for EFFECT_SHARED */
    bool epoch_known;
    uint32_t epochs; /* that were begun since epochs_ms for a peer's word */
    uint64_t epochs_ms;
    uint32_t epoch_asked_up_to, epoch_past; /* epochs of ours up to here are over: fetched like anybody's */
    uint64_t rejoined_ms;                   /* somebody else's history had forked, and all here was taken up anew; 0 never */
    char *bad;                              /* text of the last EVENT_BATCH_BAD */
};

/* What a peer says of a database. */
struct peer_db {
    bool open;  /* it has it */
    bool known; /* its whole vector came over this link */
    struct vv have;
    uint64_t base, vector;
    uint8_t content[WIRE_CONTENT_BYTES];
    bool settled;
    char *refused;     /* why it is not exchanged with this peer, or NULL */
    uint64_t sent_gen; /* what was told over this link */
    bool sent_full;
    struct origin pushed_origin; /* ours, pushed over this link without a gap up to `pushed` */
    uint64_t pushed;
};

/* ---- sync.c */
struct db *sync_find(const struct core *core, const char *name, size_t len);
void sync_open(struct core *core, const char *name, const struct db_state *state);
void sync_close(struct core *core, const char *name);
void sync_stored(struct core *core, const char *name, const struct db_state *state);
void sync_batch_bad(struct core *core, const char *name, const struct origin *o, uint64_t version, const char *text);
void sync_local(struct core *core, const char *name, struct bytes *batch);
/* What came from another one, and is stored, to those neighbours in the tree that lack it. */
void sync_relay(struct core *core, struct db *db, const struct inflight *f);
struct source *sync_source(struct db *db, const struct origin *o, bool add); /* NULL: absent, or without memory */
struct source *sync_seek_source(struct db *db, uint32_t *at, const struct origin *o, bool add);
/* The same of origins that are asked for in their order: *at, 0 at first, goes along. */
static inline struct source *sync_next_source(struct db *db, uint32_t *at, const struct origin *o, bool add) {
    if (*at < db->sources_count && origin_equal(&db->sources[*at]->origin, o))
        return db->sources[(*at)++];
    return sync_seek_source(db, at, o, add);
}
/* An origin of this very node that must not be fetched (its versions are ours to make). */
bool sync_ours(const struct core *core, const struct db *db, const struct origin *o);
struct peer_db *sync_peer_db(const struct core *core, struct peer *p, const struct db *db);
/* May batches of db go between us and this link's peer? */
bool sync_exchanges(const struct core *core, const struct link *l, const struct db *db);
void sync_hello(struct core *core, struct peer *p, const struct wire_hello *h);
void sync_receive(struct core *core, struct link *l, const struct wire_vector *v);
uint64_t sync_base(const struct core *core, const struct db *db); /* as others are told it */
uint64_t sync_peer_digest(const struct core *core, const struct peer *p);
bool sync_in_sync(const struct core *core, const struct peer *p);
uint64_t sync_vector_digest(struct db *db);
void sync_db_free(struct db *db);
void sync_peer_release(struct peer *p);
void sync_timers(struct core *core);

/* ---- announce.c */
void announce_changed(struct core *core, struct db *db); /* something that others are told is new: tell them soon */
bool announce_untold(const struct db *db, const struct peer_db *pd);
void announce_hello(const struct core *core, struct buf *b, struct wire_hello *h);
void announce_link_up(struct core *core, struct link *l);
void announce_all(struct core *core, struct link *l);                       /* everything in full, again */
void announce_beat(struct core *core, struct link *l, struct wire_beat *w); /* fills in our digest and flags */
void announce_timers(struct core *core);

/* ---- fork.c */
void fork_found(struct core *core, const struct event *e);                            /* EVENT_BATCH_FORGED */
void fork_heard(struct core *core, const struct link *l, const struct wire_fork *w);  /* it is ours, a peer says */
void fork_healed(struct core *core, struct db *db, const struct origin *o);           /* o is the author's later epoch */
bool fork_over(const struct core *core, const struct db *db, const struct source *s); /* its author goes on under a later epoch */
void fork_passed(struct core *core, struct db *db, struct source *s, bool first);     /* the store took more of it */

/* ---- hold.c */
void hold_receive(struct core *core, struct link *l, struct bytes *batch, bool bulk);
void hold_ready(struct core *core, struct db *db); /* delivers what can be delivered now */
void hold_stored(struct core *core, struct db *db);
void hold_drop(struct db *db, struct source *s);             /* all that is held of s */
bool hold_full(const struct db *db, const struct source *s); /* the store has as much to do as it may, of all or of its author */
size_t hold_room(const struct core *core, const struct db *db, const struct source *s); /* bytes that can be asked for */

/* ---- pull.c */
void pull_plan_at(struct core *core, struct db *db, uint64_t at);
void pull_timers(struct core *core);
void pull_link_down(struct core *core, struct link *l);
/* What was asked of l in db (NULL: any) is not to come. */
void pull_cancel(struct core *core, struct link *l, const struct db *db);
void pull_stop(struct core *core); /* pause: forget what was asked and what is being served */
void pull_done(struct core *core, struct link *l, const struct wire_done *d);
void pull_forget_db(struct core *core, struct db *db);
void pull_asked(struct core *core, struct link *l, const struct wire_pull *p);
void pull_read(struct core *core, uint64_t request, struct bytes *const *batches, uint32_t count);
void pull_serve(struct core *core, struct link *l);

#endif
