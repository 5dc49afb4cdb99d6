/* Starling: the insides of struct core, shared by the core's own files (core link greet stream probe member gossip clock dial sync announce fork hold pull
 * call).
 * Nothing here is waited for: work that is due later is a moment in one of the structs, and core_arm() makes sure that the
 * timers run then. */
#ifndef PROTO_CORE_STATE_H
#define PROTO_CORE_STATE_H

#include <stdarg.h>

#include "proto/card.h"
#include "proto/clock.h"
#include "proto/core.h"
#include "proto/effects.h"
#include "proto/link.h"
#include "proto/member.h"
#include "proto/probe.h"
#include "proto/sync.h"
#include "proto/wire.h"

#define HELLO_TIMEOUT_MS 5000u
#define CALL_TIMEOUT_MS 30000u
#define CALL_VISIT_MS 5000u /* for a link, where there is none yet */
#define CALLS_MAX 256u      /* requests of ours without an answer */
#define LINK_CALLS_MAX 16u  /* of one peer's, given to the caller */
#define LOG_RING 32u
#define LOG_REPEAT_MS 600000u

enum core_phase { CORE_RUNNING, CORE_STOPPING };

/* Where we are reached, by the word of our own end of a link or of two members. */
struct own_host {
    char host[CORE_ADDRESS_MAX];
    bool sure;
    uint8_t by[NODE_ID_BYTES]; /* who said so first */
};

struct call {
    uint64_t request, number, link, deadline_ms;
    struct bytes *kept; /* waits for a link; NULL: it is sent */
    uint8_t peer[NODE_ID_BYTES];
};

struct core {
    struct core_config config;
    struct overlay overlay;
    uint8_t id[NODE_ID_BYTES];
    uint64_t incarnation;
    uint32_t issue;
    uint8_t card[CARD_BYTES_MAX]; /* ours, as it was signed last */
    size_t card_len;
    struct own_host hosts[CARD_ADDRESSES_MAX];
    uint32_t hosts_count;
    uint64_t now, wall;
    int64_t offset_ms;   /* clock.c: of the cluster's time to `wall` */
    uint64_t difference; /* of the two clocks, when they were looked at last */
    bool looked;
    uint64_t deadline;
    uint64_t asleep_ms; /* for how long timers were late, in all: silence then was ours */
    uint64_t random;
    enum core_phase phase;
    bool paused;
    struct effects fx;
    struct buf scratch; /* frames are built here */
    struct vv vv_scratch;
    struct link **links; /* by id */
    uint32_t links_count, links_cap;
    uint64_t links_changed; /* how often one came up or ended */
    uint64_t linked_ms;     /* when one came up last */
    struct peer **peers;    /* by node id; forgotten ones too */
    uint32_t peers_count, peers_cap;
    struct seed **seeds;
    uint32_t seeds_count, seeds_cap;
    struct db **dbs; /* by index */
    uint32_t dbs_count;
    uint8_t (*blocked)[NODE_ID_BYTES]; /* nodes that may not link */
    uint32_t blocked_count;
    struct call calls[CALLS_MAX];
    uint32_t calls_count;
    uint64_t last_dial, last_number;
    uint64_t gossip_at;
    uint64_t dials_ms, dials_left;                     /* budget for members that were never met, see dial.c */
    uint32_t outbid;                                   /* how often somebody knew a later incarnation of us than there ever was */
    char twin[CORE_ADDRESS_MAX + CORE_NAME_MAX + 160]; /* the clear line about another node with our key, or "" */
    struct {
        uint64_t hash, ms;
    } logged[LOG_RING];
    uint32_t logged_next;
};

/* ---- core.c */
void core_arm(struct core *core, uint64_t at_ms);
bool core_emit(struct core *core, const struct effect *e);
void core_log(struct core *core, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same line again within LOG_REPEAT_MS becomes a debug line. */
void core_log_once(struct core *core, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));
uint64_t core_random(struct core *core);
/* Room for one more pointer in a growing array. */
bool core_grow(void *array, uint32_t *cap, uint32_t count);
char *core_text(const char *s); /* a copy, NULL without memory */

/* ---- greet.c: opening, HELLO, ending */
struct link *greet_link(const struct core *core, uint64_t id);
void greet_open(struct core *core, const struct event *e);
/* The first frame. */
void greet_receive(struct core *core, struct link *l, const uint8_t *frame, size_t len);
/* No link with that node from now on, or again. */
void greet_block(struct core *core, const uint8_t id[NODE_ID_BYTES], bool block);
bool greet_blocked(const struct core *core, const uint8_t id[NODE_ID_BYTES]);
void greet_garbage(struct core *core, struct link *l, const uint8_t *data, size_t len);
void greet_refuse(struct core *core, struct link *l, const char *text);
/* Starts closing; why is for the log and the caller. bye: 0, WIRE_BYE or WIRE_LEAVE is said first. */
void greet_close(struct core *core, struct link *l, int bye, const char *why);
/* The end of a link, LINK_CLOSED. */
void greet_closed(struct core *core, uint64_t id, const char *why);
/* What a log line calls the other side: `"name" (address)`, or the address alone. */
const char *greet_who(const struct link *l, char *out, size_t cap);

/* ---- stream.c: sending on links, taking frames, beats */
void stream_begin(struct core *core);                /* clears core->scratch */
void stream_send(struct core *core, struct link *l); /* the frames in core->scratch */
/* Fresh ones go at once. bulk (or what is large): in chunks, each when the link's queue is short. */
void stream_batch(struct core *core, struct link *l, struct bytes *batch, bool bulk);
void stream_behind(struct core *core, struct link *l); /* the frame in core->scratch, behind the bulk */
void stream_receive(struct core *core, struct link *l, const uint8_t *data, size_t len);
void stream_beat(struct core *core, struct link *l, unsigned flags);
void stream_sent(struct core *core, struct link *l, const struct event *e); /* EVENT_LINK_SENT */
void stream_timers(struct core *core);
bool stream_takes(const struct core *core, const struct link *l, const struct bytes *batch); /* may it be pushed? */
bool stream_room(const struct core *core, const struct link *l);                             /* below its bound */

/* ---- call.c */
void call_request(struct core *core, const uint8_t *peer, uint64_t request, const uint8_t *data, size_t len);
void call_reply(struct core *core, uint64_t link, uint64_t request, const uint8_t *data, size_t len);
void call_receive(struct core *core, struct link *l, enum wire_type type, const struct wire_call *c);
void call_link_up(struct core *core, struct link *l);
bool call_under_way(const struct core *core, const struct link *l);
void call_release(struct core *core);
void call_link_down(struct core *core, const struct link *l);
void call_timers(struct core *core);

#endif
