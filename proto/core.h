/* Starling: the protocol core. Links, members, push, pull, causal holding. No I/O, no clock, no threads, no randomness of
 * its own: events in (core_step), effects out (core_poll until it returns false), one deadline (core_deadline). The same
 * events give the same effects. Nobody re-enters the core.
 *
 * What it does
 *   links    A link is a byte stream that the caller dialled or accepted. Frames: u32 big-endian length (<= FRAME_BYTES_MAX)
 *            then msgpack. First frame each way is HELLO. Whose link it is the caller knows (its handshake proved a key). Two nodes that dialled each other keep one link: the one dialled
 *            by the smaller node id. A link to ourselves is closed and that address not dialled again.
 *   members  Everyone known: alive (a live link, or vouched for by an alive member), suspect, dead, left, forgotten. Learned
 *            from HELLO and from MEMBERS frames, by signed cards (card.h); the higher incarnation wins. Up to mesh_max members
 *            all are linked with all; beyond, overlay.h says who with whom. There every alive
 *            or unknown member is dialled (backoff 200 ms doubling to 15 s, with jitter; within a budget until it was met);
 *            seeds for ever. A closed socket makes the member suspect at
 *            once and is redialled at once; refused or silent then: dead. Silence on a link that was asked for a sign of life
 *            (probe.h): suspect after suspect_ms, dead after dead_ms (link closed).
 *   beats    A BEAT (about 30 bytes) asks for a sign of life and is one: every beat_ms between neighbours, every idle_ms on other
 *            links, with one digest of all that was announced on that link and whether that is still our latest word; round
 *            trips are measured by echo.
 *   push     A local batch (already durable) goes at once to every link whose peer has, or was sent, the version before
 *            it (or lacks only a few, which it then pulls), while that link's queue is below its bound; else it is dropped
 *            there and pulled later.
 *   pull     VECTOR frames (in full on link up and when a digest differs, as a difference in acknowledgement after
 *            storing, at most every ack_ms and, in the long run, 100 a second) carry the vector of a database. What the peer has more of is pulled in exact
 *            ranges, from one peer at a time per origin (another peer after pull_timeout_ms without progress). While the
 *            author is linked and may be pushing the same versions, nobody is asked for a short grace of lazy_ms.
 *   serving  Pulls are answered with EFFECT_READ from the caller's log, one outstanding read a link, next when the
 *            link's queue has room: a slow peer costs bounded memory. A batch spans as many frames as it needs;
 *            reassembly is bounded by BATCH_BYTES_MAX a batch, and of one fresh and one large batch a link. What is fresh
 *            overtakes what has time: answers, and large batches.
 *   holding  A batch is delivered (EFFECT_DELIVER) when it is the next of its origin and its `after` differences are
 *            covered by what was delivered; else it is held, in memory within hold_bytes_max a database; beyond it is
 *            dropped and pulled again later. At most 256 batches or 32 MiB are delivered and not confirmed (EVENT_STORED). Of each of these
 *            one member's writes take three quarters at most, and whose turn it is goes round.
 *   refusal  Other cluster name, other protocol version, not allowed: REFUSE frame with one clear sentence, close, log.
 *   joining  A database whose base differs from ours (both had different rows before they ever met) is not exchanged with
 *            that peer until one side has taken up what the other has. Who is alone with its base yields (EFFECT_YIELD), of two
 *            who are the one that was told to join, or else the one with the greater base. Between two clusters nobody does: EFFECT_LOG with one clear line on both
 *            sides, and core_database_refused().
 *
 * Safety: the core never says it has what EVENT_STORED has not confirmed as durable. */
#ifndef PROTO_CORE_H
#define PROTO_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/bytes.h"
#include "proto/origin.h"
#include "proto/vv.h"

#define PROTOCOL_VERSION 1
#define FRAME_BYTES_MAX (1u << 20)
#define MEMBERS_MAX 4096
#define BLOCKED_MAX 1024
#define CORE_ADDRESS_MAX 300
#define CORE_NAME_MAX 64
#define CARD_BYTES_MAX 768u /* proto/card.h */

struct core;

struct core_config {
    uint8_t key[NODE_KEY_BYTES]; /* our public key; the id follows from it */
    uint8_t secret[NODE_SECRET_BYTES];
    char name[CORE_NAME_MAX];
    char cluster[CORE_NAME_MAX];
    char advertise[CORE_ADDRESS_MAX]; /* host:port others may dial; host may be empty: those that our links have, and others see us at */
    uint64_t incarnation;             /* above that of any earlier run (e.g. wall-clock ms at start) */
    uint64_t seed;                    /* for jitter */
    bool clocks; /* whose clock is right is worked out, and stamps by it: EFFECT_MEET and EFFECT_ALONE are dealt with */
    /* milliseconds; 0 takes the default */
    uint32_t beat_ms, idle_ms, suspect_ms, dead_ms, ack_ms, lazy_ms, pull_timeout_ms; /* 500 10000 1300 2700 20 40 3000 */
    uint32_t mesh_max;     /* up to so many members all are linked with all; default 50 */
    size_t link_queue_max; /* bytes queued to one link before pushes are dropped, default 4 MiB */
    size_t hold_bytes_max; /* default 16 MiB a database */
};

enum member_state { MEMBER_ALIVE, MEMBER_SUSPECT, MEMBER_DEAD, MEMBER_LEFT, MEMBER_BLOCKED, MEMBER_FORGOTTEN };

struct member {
    uint8_t id[NODE_ID_BYTES], key[NODE_KEY_BYTES];
    char name[CORE_NAME_MAX];
    char address[CORE_ADDRESS_MAX]; /* host:port to dial first; its card may name others */
    enum member_state state;
    uint64_t incarnation;
    uint8_t card[CARD_BYTES_MAX]; /* its own word, to be passed on; card_len 0: none yet */
    uint16_t card_len;
};

#define BASE_ALONE 1u                  /* these bits of a base are no part of the digest */
#define BASE_JOINS (UINT64_C(1) << 63) /* on the wire: alone, and told to join others: of two who are alone this one is the newcomer */
#define BASE_FLAGS (BASE_JOINS | BASE_ALONE)

/* What the store of one database says about itself. */
struct db_state {
    struct vv have; /* merged and durable, for every origin (ours too): what we may tell others */
    uint64_t
        base; /* digest of the rows that were there before the first meeting; 0 none; with BASE_ALONE if nobody else is known to share it */
    uint8_t digest[16]; /* of the content shown */
    bool settled;       /* nothing pending, waiting to be shown or parked: the digest belongs to `have` */
    uint64_t clock;     /* the highest stamp in it */
};

enum event_type {
    EVENT_TICK,
    EVENT_LINK_OPEN, /* link, dial (0: accepted), address of the other side, local: host:port of ours, key: the one it has proven to have */
    EVENT_LINK_DATA, /* link, data, len; wire: bytes that came in all, as the network counts them (0: as data) */
    EVENT_LINK_SENT, /* link, queued: bytes handed out for this link that the socket has not taken yet; whenever it fell; wire: likewise */
    EVENT_LINK_CLOSED,  /* link, text why; the last event of that link */
    EVENT_DIAL_FAILED,  /* dial, text why, refused: it is reached, but one of us does not want the other; said in the log already */
    EVENT_SEED,         /* text: host[:port] to join, kept for ever */
    EVENT_MEMBER,       /* member: remembered from an earlier run (LEFT and FORGOTTEN stay that, others are dead until met) */
    EVENT_DB_OPEN,      /* db, state: serve and fetch this database */
    EVENT_DB_CLOSED,    /* db */
    EVENT_BATCH_LOCAL,  /* db, batch: ours, durable, in version order; state.have covers it already or with the next STORED */
    EVENT_STORED,       /* db, state: the store's latest. Each delivered batch ends in one, in BATCH_BAD, or in DB_OPEN */
    EVENT_READ,         /* request, batches: answers EFFECT_READ; consecutive versions, maybe fewer than asked; none: not in the log */
    EVENT_BATCH_BAD,    /* db, origin, version, text: delivered but not taken; this origin stops (others go on) until DB_OPEN */
    EVENT_MET,          /* db, request: answers EFFECT_MEET */
    EVENT_BATCH_FORGED, /* db, origin, version: delivered, but it does not follow what its author said before, or he did not sign it */
    EVENT_PAUSE,
    EVENT_RESUME,
    EVENT_LEAVE,   /* tell everyone that we leave for good */
    EVENT_STOP,    /* we end for now: peers learn at once (BYE), links close when flushed */
    EVENT_FORGET,  /* member.id: nobody waits for that member any more; all are told */
    EVENT_BLOCK,   /* peer id: no link with that node, whether it is known or not */
    EVENT_UNBLOCK, /* peer id */
    EVENT_VISIT,   /* peer id: a link for a moment, so that it is known what it has; where all are linked with all there is nothing to do */
    EVENT_REQUEST, /* peer id, request (caller's number), data: an application request (verify) for that peer */
    EVENT_REPLY,   /* link, request, data: answers EFFECT_REQUEST; at most FRAME_BYTES_MAX - 1024 bytes */
};

struct event {
    enum event_type type;
    uint64_t now_ms; /* monotonic; never goes back between steps */
    uint64_t wall_ms;
    uint64_t link, dial, request;
    const char *db; /* database name */
    const char *text, *address, *local;
    const uint8_t *data;
    size_t len, queued;
    uint64_t wire;
    const struct db_state *state;
    const struct member *member;
    const uint8_t *peer; /* node id */
    const uint8_t *key;  /* NODE_KEY_BYTES */
    bool refused;
    struct bytes *batch; /* borrowed; the core takes its own reference */
    struct bytes *const *batches;
    uint32_t batches_count;
    struct origin origin;
    uint64_t version;
};

enum effect_type {
    EFFECT_DIAL,      /* dial, text host:port: connect; answer with LINK_OPEN (dial) or DIAL_FAILED */
    EFFECT_SEND,      /* link, chunks: bytes to append to that link's stream, in this order. `head` (len) then `batch` from..to */
    EFFECT_CLOSE,     /* link, text why: flush what was sent, close; then LINK_CLOSED follows */
    EFFECT_DELIVER,   /* db, batch (reference passes to the caller), origin, version, peer: who sent it */
    EFFECT_READ,      /* request, db, origin, version..version_last, bytes_max: the first whatever its size, more within this.
                       * Exactly one EVENT_READ must answer, also when the database was closed meanwhile */
    EFFECT_DB_WANTED, /* db: a peer has a database that we do not */
    EFFECT_YIELD,     /* db: what it holds is to be taken up anew, below what a peer has; then DB_CLOSED and DB_OPEN follow */
    EFFECT_SHARED,    /* db: a peer has its base, too: to be remembered, and told without BASE_ALONE from then on */
    EFFECT_EPOCH,     /* db, origin, version: a peer has versions of our origin that we do not: start an epoch above origin.epoch
                       * that was never used before (an image may be restored twice), then DB_OPEN again. If ours is above it
                       * already (restarted before it wrote anything): just DB_OPEN. The lost versions are then fetched */
    EFFECT_ALONE,     /* db, origin, version: nobody is linked; of our own versions those above this one have not left */
    EFFECT_MEET,      /* db, request, offset_ms: somebody is. Before anything leaves, what nobody has seen is to be stamped by the cluster's
                    * time, so far from our clock; then MET, or CLOSED and DB_OPEN */
    EFFECT_MEMBER,    /* member: changed; remember it */
    EFFECT_REQUEST,   /* link, request, data, peer: a peer asks; answer with EVENT_REPLY */
    EFFECT_REPLY,     /* request (the caller's), data or NULL when the peer is gone or did not answer in 30 s */
    EFFECT_LOG,       /* level (0 error 1 warning 2 info 3 debug), text */
};

struct effect {
    enum effect_type type;
    uint64_t link, dial, request;
    const char *db, *text; /* valid until the next core_step or core_poll */
    const uint8_t *head;   /* SEND; likewise */
    size_t len;
    struct bytes *batch; /* SEND: borrowed body, bytes batch_from .. batch_to follow the head; NULL none. DELIVER: owned */
    size_t batch_from, batch_to;
    struct origin origin;
    uint64_t version, version_last;
    size_t bytes_max;
    int64_t offset_ms;
    const struct member *member;
    const uint8_t *data, *peer;
    int level;
};

struct core *core_new(const struct core_config *config); /* NULL without memory */
void core_free(struct core *core);
/* Takes one event; never fails (without memory it closes the link at fault and logs). Then poll until false. */
void core_step(struct core *core, const struct event *event);
bool core_poll(struct core *core, struct effect *effect);
/* Monotonic ms at which an EVENT_TICK is due; UINT64_MAX: none. */
uint64_t core_deadline(const struct core *core);

/* ---- looking in, for status; pointers valid until the next step */
struct peer_info {
    const struct member *member;
    bool linked;
    uint64_t link;               /* 0 when not linked */
    uint32_t rtt_us;             /* from ms clocks the caller may overwrite with better */
    bool in_sync;                /* the peer acknowledged, within the last 3 beats, equal vectors and digests for every database
                               * that it or we have, all settled, and nothing of ours is ahead of our own store's word */
    uint64_t we_lack, they_lack; /* versions, over all databases, as that peer acknowledged them */
    uint64_t last_seen_ms;       /* monotonic; 0 never */
    uint64_t sent_bytes, received_bytes;
    const char *refused; /* NULL, or why we do not exchange (a database, or all) */
};
uint32_t core_peers(const struct core *core); /* count of members other than us that were not forgotten */
bool core_peer(const struct core *core, uint32_t i, struct peer_info *out);
bool core_any_in_sync(const struct core *core);           /* with some peer */
bool core_linked(const struct core *core, uint64_t link); /* up: it is known whose it is */
uint64_t core_links_changed(const struct core *core);     /* rises whenever a link comes up or ends */
const uint8_t *core_id(const struct core *core);
/* Versions that are held for their dependencies in this database. */
uint64_t core_waiting(const struct core *core, const char *db);
/* Somebody is linked, and what linked peers have of db is here. *somebody: one of them has it. */
bool core_database_complete(const struct core *core, const char *db, bool *somebody);
/* What it tells others as the base of db, with BASE_ flags; 0: none, or not open. */
uint64_t core_database_base(const struct core *core, const char *db);
const char *core_database_refused(const struct core *core, const char *db); /* NULL, or the clear line */
const struct vv *core_vector(const struct core *core, const char *db);      /* what EVENT_STORED last said; NULL unknown */
bool core_paused(const struct core *core);
bool core_overlay(const struct core *core);     /* linked with some members only (proto/overlay.h) */
const char *core_twin(const struct core *core); /* NULL, or the clear line about another node with our key */
struct seed_info {
    const char *address; /* to join */
    const char *failed;  /* why nobody is met there; NULL when somebody is, or the first attempt still runs */
    bool refused;        /* failed: it is reached, but this node and that one do not go together */
};
bool core_seed(const struct core *core, uint32_t i, struct seed_info *out);
/* What peer i acknowledged of db, never NULL. */
const struct vv *core_acked(const struct core *core, uint32_t i, const char *db);

#endif
