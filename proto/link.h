/* Starling: one link, from its opening to its end, and the frames in its byte stream.
 *
 *                 HELLO taken                      LINK_CLOSED
 *   GREETING ───────────────▶ UP ────────────────────────────┐
 *      │  │                    │ BYE, silence, bad frame,     │
 *      │  │ refused, bad       │ duplicate, STOP              ▼
 *      │  └──────────────▶ CLOSING ───────────────────────▶ GONE
 *      └────────────────────────── LINK_CLOSED ──────────────┘
 *
 * CLOSING: EFFECT_CLOSE is out; what still arrives is ignored; the caller's LINK_CLOSED ends it. A link belongs to a peer
 * (link->peer) from UP on, and only while the peer says so too (peer->link). */
#ifndef PROTO_LINK_H
#define PROTO_LINK_H

#include <stdbool.h>

#include "proto/buf.h"
#include "proto/core.h"
#include "proto/wire.h"

struct peer;
struct db;

enum link_state { LINK_GREETING, LINK_UP, LINK_CLOSING, LINK_GONE, LINK_STATES };

/* A range that the peer asked us for. */
struct serve_range {
    struct db *db;
    struct origin origin;
    uint64_t from, to, bytes; /* bytes: credit left */
};

/* A batch as its chunks come. */
struct arriving {
    struct buf buf;
    size_t total, came;
    uint64_t came_ms; /* the last chunk */
    bool passed_over; /* there is no room for it: its chunks are let go as they come, and it is pulled again */
};

/* What has time: a batch that goes out in chunks, or a frame that follows such ones. */
struct bulk {
    struct bytes *bytes;
    bool frame;
};

struct link {
    uint64_t id, dial; /* dial: 0 accepted */
    enum link_state state;
    char address[CORE_ADDRESS_MAX];
    uint8_t key[NODE_KEY_BYTES]; /* the other side's, proven */
    struct peer *peer;
    uint64_t serial; /* of the dialler's attempts: of two links that one side dialled, the higher is the later */
    uint64_t opened_ms, received_ms;
    /* probe.c, in time that this node was awake: last heard; a batch was sent into the silence since (0 no); asked, and not heard since */
    uint64_t heard_ms, spoke_ms, silent_from_ms;
    bool asked;
    uint32_t echo; /* `sent` of the peer's last BEAT, and when that came */
    uint64_t echo_ms;
    uint64_t visited_ms; /* EVENT_VISIT asked it then */
    size_t queued;       /* bytes that the socket has not taken */
    uint64_t sent_bytes, received_bytes;
    bool wired; /* who moves the bytes counts them, as they are on the wire */
    /* arriving */
    struct buf rx;               /* an incomplete frame */
    bool rx_taken;               /* what is in rx was handed out */
    struct arriving arriving[2]; /* by WIRE_BULK */
    uint64_t answer_ms;          /* when the last chunk came that answers a PULL of ours */
    uint32_t pulls;              /* ranges asked here and not done */
    size_t pull_bytes, credit;   /* of these; how much may be out: more the better it answers */
    /* going out while the queue is short: from bulk[bulk_first] on, of which bulk_at bytes are gone */
    struct bulk *bulk;
    uint32_t bulk_first, bulk_count, bulk_cap;
    size_t bulk_at, bulk_bytes;
    /* serving */
    struct serve_range *ranges;
    uint32_t ranges_count, ranges_cap;
    uint64_t read_request; /* outstanding EFFECT_READ, 0 none */
    bool read_void;        /* its range was dropped meanwhile */
    uint32_t calls;        /* requests of the peer that the caller has not answered */
    uint32_t issue;        /* of our card, as it was told here */
    bool members_due;      /* a MEMBERS frame did not fit the queue: send all when there is room */
};

struct link *link_new(uint64_t id, uint64_t dial, const char *address, const uint8_t key[NODE_KEY_BYTES]);
void link_free(struct link *l);
/* The only way to change the state; asserts that the table in link.c allows the move. */
void link_advance(struct link *l, enum link_state to);
/* The next whole frame of the stream. 1: *frame, *frame_len (the payload; borrowed until the next call); 0: all of the data
 * was taken; ERR_TOOBIG: the length is above the bound of this state; ERR_NOMEM. */
int link_frame(struct link *l, const uint8_t **data, size_t *len, const uint8_t **frame, size_t *frame_len);
/* Puts something behind what has time; takes the reference over on success. False without memory. */
bool link_bulk(struct link *l, struct bytes *bytes, bool frame);
void link_bulk_drop(struct link *l); /* the first one */
/* Adds a chunk. 0 and *whole NULL: more is to come, or it is passed over; 0 and *whole: complete; ERR_MALFORMED: not the chunk that follows. */
int link_chunk(struct link *l, const struct wire_batch *w, struct bytes **whole);

#endif
