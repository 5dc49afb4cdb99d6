/* Starling: what the two halves of fetch share: fetch.c knows what is wanted, who has it and what happened; fetch_ask.c decides what to ask next.
 * Nobody else includes this. */
#ifndef NODE_FILES_FETCH_STATE_H
#define NODE_FILES_FETCH_STATE_H

#include <uthash.h>
#include <utlist.h>

#include "node/files/chunker.h"
#include "node/files/fetch.h"

#define CLASSES 40      /* of size: small before large, within a class in order */
#define SMALL_COST 1024 /* of a window, besides its bytes */
#define WHO_PEERS 4     /* asked at once who have not said that they have it */
#define SOME_AGAIN_MS 100
#define SHARED_WINDOW_BYTES (1u << 20) /* of who has all, while somebody else fetches the same: they can help each other */
#define NONE_AGAIN_MS 2000
#define STUCK_MS 5000
#define LIST_MS 30000      /* for a list, where somebody else has it, and */
#define LIST_BYTES_A_MS 64 /* beyond that as long as this takes */

enum knowing { KNOW_NOTHING, KNOW_ASKED, KNOW_ALL, KNOW_SOME, KNOW_NONE };

struct know {
    struct peer *peer;
    enum knowing state;
    uint64_t again_ms; /* when to ask who has it again; of NONE and nothing else, not before */
    uint8_t *bitmap;   /* SOME */
    bool interested;   /* it fetches the same */
};

enum where { WHERE_READY, WHERE_BUSY, WHERE_STUCK };

struct fetch_item {
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t size;
    void *ctx;
    enum where where;
    bool small, listed, shared; /* shared: others fetch it, too */
    uint32_t chunks, left, cursor;
    uint8_t *here, *asked;
    struct know *know;
    uint32_t know_count, know_cap;
    struct peer *list_peer; /* asked for the list */
    uint64_t list_asked_ms, list_ms;
    uint32_t runs, live; /* outstanding; of these, not given back */
    uint64_t again_ms;
    UT_hash_handle hh;
    struct fetch_item *prev, *next;
};

struct run {
    struct fetch_item *item;
    uint32_t first, count;
    uint8_t came[(FETCH_RUN_CHUNKS + 7) / 8];
    uint32_t left;
    uint64_t asked_ms;
    bool given_back; /* asked of others, too; what comes nevertheless is taken */
    struct run *prev, *next;
};

struct peer {
    uint8_t id[NODE_ID_BYTES];
    bool up;
    uint64_t outstanding; /* cost of runs */
    uint64_t progress_ms, shun_ms;
    uint32_t faults, stalls;
    struct run *runs;
    struct peer *next;
};

struct fetch {
    uint64_t seed;
    struct fetch_item *items;                /* by hash */
    struct fetch_item *ready[CLASSES];       /* DL */
    struct fetch_item *busy, *asked, *stuck; /* DL; busy: large ones, asked: small ones; stuck: in the order in which they are due */
    uint32_t large;
    struct peer *peers;
    uint32_t up;
    bool unstick;
    uint64_t now;
};

static inline bool bit(const uint8_t *bits, uint32_t i) { return (bits[i / 8] >> i % 8 & 1) != 0; }
static inline void bit_set(uint8_t *bits, uint32_t i) { bits[i / 8] |= (uint8_t)(1u << i % 8); }
static inline void bit_clear(uint8_t *bits, uint32_t i) { bits[i / 8] &= (uint8_t) ~(1u << i % 8); }
static inline bool fetch_usable(const struct peer *p, uint64_t now) { return p->up && now >= p->shun_ms; }

uint64_t fetch_cost(const struct fetch_item *item, uint32_t count); /* of so many chunks, in a peer's window */
void fetch_move(struct fetch *f, struct fetch_item *item, enum where to);
struct know *fetch_know_of(const struct fetch_item *item, const struct peer *p);
struct know *fetch_know_get(struct fetch_item *item, struct peer *p); /* NULL: no memory */
void fetch_know_set(struct know *k, enum knowing state, uint64_t again_ms);
void fetch_shun(struct fetch *f, struct peer *p, uint64_t until);
void fetch_not_from(struct fetch *f, struct peer *p, struct fetch_item *item, uint64_t again_ms);

#endif
