/* Starling: the frames of a link, as bytes. A frame is a u32 big-endian length (of what follows, <= FRAME_BYTES_MAX) and one
 * msgpack array [type, field...]; PROTOCOL.md has the table. Each message has one pack and one unpack function.
 *
 * Packing appends a whole frame to a struct buf (sticky failure there). Unpacking reads a frame's payload with the bounded
 * cursor: 0, ERR_MALFORMED, ERR_TOOBIG (or ERR_NOMEM for a vector). What is unpacked borrows from the payload; lists are
 * checked whole by the unpack function and then walked with a copy of the cursor, so that walking cannot fail. */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/core.h"
#include "proto/hyparview.h"
#include "proto/mpk.h"
#include "proto/origin.h"
#include "proto/vv.h"

#define WIRE_HEAD_BYTES 4u               /* the length before each frame */
#define WIRE_HELLO_BYTES_MAX (64u << 10) /* a frame before the HELLO is complete */
#define WIRE_CHUNK_BYTES (60u << 10)     /* of a batch in one frame: small, so that a link's buffers stay small */
#define WIRE_DATABASES_MAX 256u          /* databases that one node may speak of */
#define WIRE_CONTENT_BYTES 16u
#define WIRE_TEXT_MAX 1024u
#define WIRE_MEMBERS_FRAME 256u /* members in one frame, so that it fits */

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_REFUSE,
    WIRE_MEMBERS,
    WIRE_BEAT,
    WIRE_VECTOR,
    WIRE_PULL,
    WIRE_DONE,
    WIRE_BATCH,
    WIRE_REQUEST,
    WIRE_REPLY,
    WIRE_BYE,
    WIRE_LEAVE,
    WIRE_OVERLAY,
    WIRE_FORK,
};

enum { WIRE_PAUSED = 1 };  /* hello, beat: exchanges nothing for now */
enum { WIRE_COMPANY = 2 }; /* hello: the sender is linked to others, and has their time */
enum {
    WIRE_BEAT_CURRENT = 2,
    WIRE_BEAT_WANT = 4,
    WIRE_BEAT_ASK = 8
}; /* beat: what was announced here is my latest; tell me everything again; answer */
enum {
    WIRE_LINKED = 1,
    WIRE_FORGOTTEN = 2,
    WIRE_ALIVE = 4,
    WIRE_DEAD = 8,
    WIRE_DOUBT = 16
}; /* member: the sender has a live link to it; nobody waits for it any more; it counts it as alive; it was told that it is dead; that it is in doubt */
enum { WIRE_FULL = 1, WIRE_SETTLED = 2, WIRE_CLOSED = 4 }; /* vector */
enum { WIRE_BULK = 1 };                                    /* batch: it answers a PULL, or is large: fresh ones overtake it */

struct wire_text {
    const char *p; /* not terminated */
    size_t len;
};

/* What a node says of one database, without the vector itself. */
struct wire_db {
    struct wire_text name;
    uint64_t base;
    uint64_t vector;        /* vv_digest */
    const uint8_t *content; /* WIRE_CONTENT_BYTES */
    bool settled;
};

struct wire_hello {
    uint64_t protocol; /* when it is not ours, nothing behind it was read */
    struct wire_text cluster, name, advertise;
    struct wire_text seen; /* the host at which the sender sees the other side */
    const uint8_t *card;   /* the sender's */
    size_t card_len;
    uint64_t incarnation, wall_ms;
    uint64_t dial; /* the dialler's number of this attempt, rising; 0 from the side that accepted */
    unsigned flags;
    uint32_t dbs_count;
    struct mpk dbs;
};

struct wire_member {
    const uint8_t *card; /* signed, see card.h */
    size_t card_len;
    unsigned flags;
};

struct wire_members {
    uint32_t count;
    struct mpk members;
};

struct wire_beat {
    uint32_t sent, echo, held; /* sender's clock; the last `sent` of the other side, and how long ago it came. ms */
    unsigned flags;
    uint64_t digest; /* of all that the sender announced on this link, see wire_db_digest */
};

struct wire_vector {
    struct wire_db db;
    unsigned flags;
};

struct wire_pull {
    struct wire_text db;
    struct origin origin;
    uint64_t from, to;
    uint64_t bytes; /* stop after this many, though never before one batch */
};

struct wire_done {
    struct wire_text db;
    struct origin origin;
    uint64_t next; /* first version that was not sent */
};

struct wire_fork {
    struct wire_text db;
    uint32_t epoch; /* of the receiver's own origin */
    uint64_t version;
};

struct wire_batch {
    unsigned flags;
    uint64_t total, at;
    const uint8_t *chunk;
    size_t chunk_len;
};

/* overlay: those of enum hyparview_type, and */
enum { WIRE_OVERLAY_GRAFT = 32, WIRE_OVERLAY_PRUNE, WIRE_OVERLAY_SUMMARY, WIRE_OVERLAY_TELL };

struct wire_overlay {
    unsigned kind;
    uint32_t steps;
    bool urgent;
    uint64_t digest; /* SUMMARY */
    uint32_t members_count, path_count;
    struct mpk members, path; /* the path: node ids */
};

struct wire_call { /* REQUEST, REPLY */
    uint64_t number;
    const uint8_t *data;
    size_t len;
};

/* The type in a payload's front, or an error; *m then stands behind it with `fields` objects to come. */
int wire_type(struct mpk *m, const uint8_t *payload, size_t len, uint32_t *fields);

/* hello: pass dbs_count, then the databases with wire_pack_hello_db, then wire_end. */
size_t wire_pack_hello(struct buf *b, const struct wire_hello *h);
void wire_pack_hello_db(struct buf *b, const struct wire_db *db);
size_t wire_pack_members(struct buf *b, uint32_t count);
void wire_pack_member(struct buf *b, const struct wire_member *m);
/* Completes the frame that began at `at` (what the two above returned). */
void wire_end(struct buf *b, size_t at);
void wire_pack_refuse(struct buf *b, const char *text);
void wire_pack_beat(struct buf *b, const struct wire_beat *w);
size_t wire_pack_vector(struct buf *b, const struct wire_db *db, unsigned flags, uint32_t entries);
void wire_pack_entry(struct buf *b, const struct origin *o, uint64_t version);
void wire_pack_pull(struct buf *b, const struct wire_pull *p);
void wire_pack_fork(struct buf *b, const struct wire_fork *f);
void wire_pack_done(struct buf *b, const struct wire_done *d);
/* The frame's front alone: chunk_len bytes of the batch follow it. */
void wire_pack_batch(struct buf *b, const struct wire_batch *w);
void wire_pack_call(struct buf *b, enum wire_type type, const struct wire_call *c);
/* overlay: pass members_count, then the members with wire_pack_member, then wire_pack_path, then wire_end. */
size_t wire_pack_overlay(struct buf *b, const struct wire_overlay *w);
void wire_pack_path(struct buf *b, const hyparview_id *path, uint32_t count);
void wire_pack_bye(struct buf *b, enum wire_type type); /* BYE, LEAVE */

int wire_unpack_hello(struct wire_hello *h, struct mpk *m, uint32_t fields);
int wire_unpack_refuse(struct wire_text *text, struct mpk *m, uint32_t fields);
int wire_unpack_members(struct wire_members *w, struct mpk *m, uint32_t fields);
int wire_unpack_beat(struct wire_beat *w, struct mpk *m, uint32_t fields);
int wire_unpack_vector(struct wire_vector *v, struct vv *entries, struct mpk *m, uint32_t fields);
int wire_unpack_pull(struct wire_pull *p, struct mpk *m, uint32_t fields);
int wire_unpack_fork(struct wire_fork *f, struct mpk *m, uint32_t fields);
int wire_unpack_done(struct wire_done *d, struct mpk *m, uint32_t fields);
int wire_unpack_batch(struct wire_batch *w, struct mpk *m, uint32_t fields);
int wire_unpack_call(struct wire_call *c, struct mpk *m, uint32_t fields);
int wire_unpack_overlay(struct wire_overlay *w, struct mpk *m, uint32_t fields);
int wire_unpack_bye(struct mpk *m, uint32_t fields);
void wire_next_db(struct mpk *m, struct wire_db *db);
void wire_next_member(struct mpk *m, struct wire_member *w);

/* 64 bits over name, base, vector, content and settled; several databases are combined with exclusive or. */
uint64_t wire_db_digest(const struct wire_db *db);

/* Text from outside, made fit for a log line: control characters and what is not UTF-8 become '?'. Terminated, cut to cap. */
void wire_clean(char *out, size_t cap, const char *p, size_t len);
bool wire_text_equal(const struct wire_text *t, const char *s);

#endif
