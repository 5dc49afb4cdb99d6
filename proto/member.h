/* Starling: the members, everyone known besides ourselves, and how we reach them.
 * The table is sorted by node id, so that walking it is the same on every run. A member's state follows from what is known
 * (member_refresh): its link, a link just lost, or the word of members that have a link to it. Entries live until
 * EVENT_FORGET; a forgotten one stays as a hidden tombstone, so that gossip does not bring it back at the same incarnation.
 *
 *   learned (HELLO, MEMBERS, EVENT_MEMBER)
 *        │            linked, or vouched for
 *        ▼           ┌──────────────────────▶ ALIVE ◀──────────┐
 *      DEAD ─────────┘                          │ silence, or  │ heard again
 *        ▲                                      ▼ link lost    │
 *        └── redial refused, or silence ───── SUSPECT ─────────┘
 *   any ── LEAVE, forgotten ──▶ LEFT ── higher incarnation ──▶ as learned */
#ifndef PROTO_MEMBER_H
#define PROTO_MEMBER_H

#include "proto/core.h"
#include "proto/sync.h"
#include "proto/wire.h"

#define VOUCHERS_MAX 16

struct dialling {
    uint64_t dial; /* in progress (until the link is up or failed), 0 none */
    uint64_t started_ms, next_ms;
    uint32_t backoff_ms;
    bool self; /* this address leads to ourselves: never again */
};

struct peer {
    struct member m;
    struct link *link;   /* up, or NULL */
    struct peer_db *dbs; /* by db->index */
    uint32_t dbs_count;
    struct dialling dialling;
    uint64_t lost_ms; /* a link was lost then and the redial is not decided; 0 no */
    bool lost_failed; /* that redial failed */
    bool left, forgotten;
    bool direct; /* name and address are from itself */
    bool gossip_due;
    bool told;                       /* the caller has seen it (EFFECT_MEMBER) */
    uint64_t vouchers[VOUCHERS_MAX]; /* links whose peers have a link to it */
    uint32_t vouchers_count;
    /* from its beats */
    bool paused, current;
    uint64_t beat_ms;
    uint64_t last_seen_ms;
    uint32_t rtt_us;
    uint64_t sent_bytes, received_bytes; /* of links that are gone */
    char *refused;                       /* its last refusal of us, or ours of it */
};

struct seed {
    char address[CORE_ADDRESS_MAX];
    struct dialling dialling;
    bool met;
    uint8_t id[NODE_ID_BYTES]; /* who answered there, when met */
    char *failed;              /* why the last attempt failed; NULL after one that did not */
    bool refused;              /* failed: somebody is there, but does not want us or is not wanted */
};

struct core;

struct peer *member_find(const struct core *core, const uint8_t id[NODE_ID_BYTES]);
/* Finds or adds by key; NULL when the table is full or without memory. */
struct peer *member_take(struct core *core, const uint8_t key[NODE_KEY_BYTES]);
void member_free(struct peer *p);
void member_remember(struct core *core, const struct member *m); /* EVENT_MEMBER */
/* Another process has our key: says so. */
void member_twin(struct core *core, const char *name, const char *address);
void member_forget(struct core *core, const uint8_t id[NODE_ID_BYTES]);
/* Works out the state, and tells the caller if anything changed (or `changed`). */
void member_refresh(struct core *core, struct peer *p, bool changed);
void member_left(struct core *core, struct peer *p);
void member_linked(struct core *core, struct peer *p, struct link *l);
/* The link of p ended; bye: on purpose. */
void member_unlinked(struct core *core, struct peer *p, bool bye);
void member_receive(struct core *core, struct link *l, const struct wire_members *w);
/* Everyone, to a link that just came up. */
void member_tell_all(struct core *core, struct link *l);
void member_timers(struct core *core);

/* dial.c: whom to dial, and when */
void dial_seed(struct core *core, const char *address);
void dial_free(struct seed *s);
/* The attempt came to an end: `up` a link (to `peer`, NULL: to ourselves), or it failed. */
void dial_up(struct core *core, uint64_t dial, const struct peer *peer);
void dial_failed(struct core *core, uint64_t dial, const char *why, bool refused);
void dial_soon(struct core *core, struct dialling *d, uint64_t delay_ms);
/* The link that came of it was lost: at once when it had been stable, else after a pause. */
void dial_again(struct core *core, struct dialling *d, bool stable);
void dial_timers(struct core *core);

#endif
