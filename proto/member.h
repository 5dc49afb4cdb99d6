/* Starling: the members, everyone known besides ourselves, and how we reach them.
 * The table is sorted by node id, so that walking it is the same on every run. A member's state follows from what is known
 * (member_refresh): its link, a link just lost, or the word of members that have a link to it. Entries live until
 * EVENT_FORGET; a forgotten one stays as a hidden tombstone, so that gossip does not bring it back at the same incarnation.
 * What is known of it is its own card; its link, and others' links to it, are what the tellers say themselves.
 *
 *   learned (HELLO, MEMBERS, EVENT_MEMBER)
 *        │            linked, or vouched for
 *        ▼           ┌──────────────────────▶ ALIVE ◀──────────┐
 *      DEAD ─────────┘                          │ silence, or  │ heard again
 *        ▲                                      ▼ link lost    │
 *        └── redial refused, or silence ───── SUSPECT ─────────┘
 *   any ── its card says so ──▶ LEFT ── higher incarnation ──▶ as learned
 *   any but linked ── EVENT_FORGET, here or elsewhere ──▶ FORGOTTEN ── a link, higher incarnation ──▶ as learned */
#ifndef PROTO_MEMBER_H
#define PROTO_MEMBER_H

#include "proto/core.h"
#include "proto/overlay.h"
#include "proto/sync.h"
#include "proto/wire.h"

#define VOUCHERS_MAX 16

struct dialling {
    uint64_t dial; /* in progress (until the link is up or failed), 0 none */
    uint64_t started_ms, next_ms;
    uint32_t backoff_ms;
    bool self;     /* this address leads to ourselves: never again */
    uint32_t turn; /* which of its addresses comes next */
};

/* What goes round of a member, where not everybody is linked with everybody (overlay.h). */
enum rumour { RUMOUR_NONE, RUMOUR_ALIVE, RUMOUR_SUSPECT, RUMOUR_DEAD };

struct peer {
    struct member m;
    struct link *link;   /* up, or NULL */
    struct peer_db *dbs; /* by db->index */
    uint32_t dbs_count;
    struct dialling dialling;
    uint64_t doubt_until_ms; /* whoever had its word lost it: suspect until then; 0 no */
    uint32_t issue;          /* of its card */
    bool left, forgotten;
    bool met; /* we had a link, in this run or an earlier one */
    bool gossip_due;
    bool told; /* the caller has seen it (EFFECT_MEMBER) */
    enum rumour rumour;
    /* overlay.c */
    struct hyparview_message *letter; /* waits for a link; NULL none */
    uint64_t wanted_ms, idle_ms;      /* dialled until then; its link is nobody's since then */
    bool lost;                        /* its last link ended without a word */
    bool parted;                      /* DISCONNECT was said: the end of the link means nothing */
    bool unreached;                   /* the last dial failed, and there was no link since */
    bool overlays;                    /* over its link it spoke as one that is not linked with all */
    uint64_t vouchers[VOUCHERS_MAX];  /* links whose peers have a link to it */
    uint32_t vouchers_count;
    /* from its beats */
    bool paused, current;
    uint64_t last_seen_ms;
    uint32_t rtt_us;
    uint64_t sent_bytes, received_bytes; /* of links that are gone */
    char *refused;                       /* its last refusal of us, or ours of it */
};

#define DIALS_BURST 64u /* of dials to members that were never met, see dial.c */

struct seed {
    char address[CORE_ADDRESS_MAX];
    struct dialling dialling;
    bool met;
    uint8_t id[NODE_ID_BYTES]; /* who answered there, when met */
    char *failed;              /* why the last attempt failed; NULL after one that did not */
    bool refused;              /* failed: somebody is there, but does not want us or is not wanted */
    bool rests;                /* who answers there is linked: nothing to dial for now */
};

struct core;

struct peer *member_find(const struct core *core, const uint8_t id[NODE_ID_BYTES]);
/* Finds or adds by key; NULL when the table is full or without memory. present: it is linked, and may have the place of one that was
 * never met. */
struct peer *member_take(struct core *core, const uint8_t key[NODE_KEY_BYTES], bool present);
void member_free(struct peer *p);
void member_drop(struct core *core, struct peer *p);             /* of whom nobody was told */
void member_remember(struct core *core, const struct member *m); /* EVENT_MEMBER */
void member_forget(struct core *core, const uint8_t id[NODE_ID_BYTES]);
/* Works out the state, and tells the caller if anything changed (or `changed`). */
void member_refresh(struct core *core, struct peer *p, bool changed);
void member_linked(struct core *core, struct peer *p, struct link *l);
/* The link of p ended; bye: on purpose. */
void member_unlinked(struct core *core, struct peer *p, bool bye);
/* Voucher i does not speak for it any more; when he was the last, it is in doubt. */
void member_unvouched(struct core *core, struct peer *p, uint32_t i);
/* Nothing is in doubt any more: it is dead, but for what others say. */
void member_decided(struct core *core, struct peer *p);
void member_unreached(struct core *core, struct peer *p); /* the dial failed */
void member_timers(struct core *core);

/* gossip.c: what members are told of members */
void gossip_card(struct core *core);                                                  /* ours is signed anew, and told */
void gossip_host(struct core *core, const char *host, size_t len, const uint8_t *by); /* ours; by NULL: our end of a link has it */
void gossip_leave(struct core *core);                                                 /* everybody hears that we do */
void gossip_soon(struct core *core, struct peer *p);
/* It was lost to whoever vouched for it with link id. */
void gossip_unvouch(struct core *core, uint64_t link);
/* Its card, when it is newer and holds: 1 taken, 0 not newer, ERR_MALFORMED: forged, or not a card. */
int gossip_take(struct core *core, struct peer *p, const uint8_t *card, size_t len);
/* Another process has our key: says so. */
void gossip_twin(struct core *core, const char *name, const char *address);
int gossip_receive(struct core *core, struct link *l, const struct wire_members *w); /* 0, or an error that ends the link */
/* One member, as a link's peer tells it: its id. 1, 0 (not taken in), or an error that ends the link. */
int gossip_learn(struct core *core, struct link *l, const struct wire_member *w, uint8_t id[NODE_ID_BYTES]);
void gossip_itself(struct core *core, struct peer *p);                /* it is told, over its link, that it was called dead */
unsigned gossip_flags(const struct core *core, const struct peer *p); /* as it is told to others */
uint64_t gossip_digest(const uint8_t id[NODE_ID_BYTES], uint64_t incarnation, uint32_t issue, unsigned flags);
/* Everyone. */
void gossip_tell_all(struct core *core, struct link *l);
void gossip_timers(struct core *core);

/* dial.c: whom to dial, and when */
void dial_seed(struct core *core, const char *address);
void dial_free(struct seed *s);
/* The attempt came to an end: `up` a link (to `peer`, NULL: to ourselves), or it failed. */
void dial_up(struct core *core, uint64_t dial, const struct peer *peer);
void dial_failed(struct core *core, uint64_t dial, const char *why, bool refused);
void dial_soon(struct core *core, struct dialling *d, uint64_t delay_ms);
/* The link that came of it was lost: at once when it had been stable, else after a pause. */
void dial_again(struct core *core, struct dialling *d, bool stable);
/* Where to dial it next; false: nowhere. */
bool dial_address(const struct core *core, const struct peer *p, char out[CORE_ADDRESS_MAX]);
/* Is somebody known to whom there is no link yet, and no attempt has failed? */
bool dial_meeting(const struct core *core);
void dial_timers(struct core *core);

#endif
