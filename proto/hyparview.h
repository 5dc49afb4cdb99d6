/* Starling: whom a node of a large cluster is linked with. HyParView (J. Leitão, J. Pereira, L. Rodrigues: HyParView: a membership
 * protocol for reliable gossip-based broadcast, DSN 2007), as a pure state machine.
 *
 * A node has two views. The active one is small, ceil(log10 n) + 2, and symmetric: each entry is a link, watched by both ends. The passive
 * one has 12 times as many, is no more than names to try when an active one is lost, and is mixed with those of others by shuffles.
 *
 *   joining    JOIN to one member; it takes the newcomer in and sends FORWARD_JOIN on a walk from each of its others, whose ends ask
 *              the newcomer with an urgent NEIGHBOR.
 *   repair     a lost neighbour is replaced from the passive view: NEIGHBOR, urgent when less than half of the active view is there (the paper: none). Urgent ones are
 *              always taken in, if need be in place of another, which is told with DISCONNECT; others only where there is room.
 *   shuffle    now and then some of both views go on a walk; its end answers with as many of its own. The walk notes its way and the
 *              answer goes back along it, so that it needs no link of its own (which the paper opens).
 *
 * Nodes are ids here; who dials, and what else is known of a node, is the caller's affair. What is to be done comes out in the caller's
 * struct hyparview_out, which each call empties first. A message to a node without a link means: dial it, then send. When a node
 * cannot be reached, or its link is lost, say hyparview_lost(). */
#ifndef PROTO_HYPARVIEW_H
#define PROTO_HYPARVIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/origin.h"

#define HYPARVIEW_ACTIVE_MAX 8u /* for a million nodes */
#define HYPARVIEW_PASSIVE_FACTOR 12u
#define HYPARVIEW_PASSIVE_MAX (HYPARVIEW_ACTIVE_MAX * HYPARVIEW_PASSIVE_FACTOR)
#define HYPARVIEW_WALK 6u    /* steps of a FORWARD_JOIN or SHUFFLE at most */
#define HYPARVIEW_SETTLE 3u  /* with so many steps to go the newcomer is put into the passive view */
#define HYPARVIEW_SHUFFLE 8u /* the sender, 3 active, 4 passive */
#define HYPARVIEW_ASKING 3u  /* NEIGHBORs on their way at a time */
#define HYPARVIEW_ACTIONS_MAX 64u

enum hyparview_type {
    HYPARVIEW_JOIN,
    HYPARVIEW_FORWARD_JOIN, /* ids: the newcomer */
    HYPARVIEW_NEIGHBOR,     /* urgent */
    HYPARVIEW_ACCEPT,       /* answers JOIN and NEIGHBOR */
    HYPARVIEW_REFUSE,
    HYPARVIEW_DISCONNECT,
    HYPARVIEW_SHUFFLE_WALK,  /* ids: the first is whose it is */
    HYPARVIEW_SHUFFLE_REPLY, /* ids */
    HYPARVIEW_TYPES
};

typedef uint8_t hyparview_id[NODE_ID_BYTES];

struct hyparview_message {
    enum hyparview_type type;
    uint32_t steps; /* to go */
    bool urgent;
    uint32_t ids_count, path_count; /* path: the way back, the last first to be gone to */
    hyparview_id ids[HYPARVIEW_SHUFFLE], path[HYPARVIEW_WALK];
};

enum hyparview_what { HYPARVIEW_SEND, HYPARVIEW_UP, HYPARVIEW_DOWN };

struct hyparview_action {
    enum hyparview_what what; /* UP, DOWN: id came into, or left the active view */
    hyparview_id id;
    struct hyparview_message message; /* SEND */
};

struct hyparview_out {
    uint32_t count;
    struct hyparview_action actions[HYPARVIEW_ACTIONS_MAX];
};

struct hyparview_asking {
    hyparview_id id;
    uint64_t until_ms;
};

struct hyparview {
    hyparview_id self;
    uint64_t random;
    uint32_t active_max, passive_max;
    uint32_t active_count, passive_count, asking_count;
    hyparview_id active[HYPARVIEW_ACTIVE_MAX];
    hyparview_id passive[HYPARVIEW_PASSIVE_MAX];
    bool tried[HYPARVIEW_PASSIVE_MAX]; /* asked in this round */
    struct hyparview_asking asking[HYPARVIEW_ASKING];
    uint32_t sent_count; /* of the passive view, in the last shuffle: the first to make room */
    hyparview_id sent[HYPARVIEW_SHUFFLE];
    uint64_t shuffle_ms, round_ms; /* the next ones */
};

/* nodes: how many there are, roughly. */
void hyparview_init(struct hyparview *h, const hyparview_id self, uint64_t seed, uint64_t nodes, uint64_t now_ms);
uint32_t hyparview_active_for(uint64_t nodes);
/* The cluster has grown or shrunk. */
void hyparview_resize(struct hyparview *h, uint64_t nodes, uint64_t now_ms, struct hyparview_out *out);
void hyparview_join(struct hyparview *h, const hyparview_id contact, struct hyparview_out *out);
/* Into the active view with it, whoever else is there: the link joins two parts that had lost each other. */
void hyparview_invite(struct hyparview *h, const hyparview_id id, uint64_t now_ms, struct hyparview_out *out);
/* A node that exists, heard of elsewhere: into the passive view. */
void hyparview_offer(struct hyparview *h, const hyparview_id id);
/* The link to id is lost, or cannot be made; gone: it is not there any more, so that it is not tried again. */
void hyparview_lost(struct hyparview *h, const hyparview_id id, bool gone, uint64_t now_ms, struct hyparview_out *out);
/* Asserts that counts are within their bounds; whatever else is in it comes from outside. */
void hyparview_receive(struct hyparview *h, const hyparview_id from, const struct hyparview_message *m, uint64_t now_ms,
                       struct hyparview_out *out);
/* Due at hyparview_deadline(). */
void hyparview_tick(struct hyparview *h, uint64_t now_ms, struct hyparview_out *out);
uint64_t hyparview_deadline(const struct hyparview *h);
bool hyparview_is_active(const struct hyparview *h, const hyparview_id id);
bool hyparview_is_asking(const struct hyparview *h, const hyparview_id id);
bool hyparview_is_known(const struct hyparview *h, const hyparview_id id); /* in either view, or being asked */

#endif
