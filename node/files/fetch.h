/* Starling: which content is asked of whom, and when of another. A pure state machine: no I/O, no clock, no randomness of its own.
 *
 * Small contents (at most CHUNK_MIN: one chunk) are asked for as they are, as many as the windows of the peers hold. Of larger ones, a few at a
 * time and small before large, it is first asked who has them; then one peer for the list of chunks; then all who have them, or some of
 * them, for runs of chunks, each peer as much as fits its window. So who is fast is asked for more, and who is fetching himself gives
 * what he has. With several peers around runs begin anywhere, so that two who fetch the same have different halves to give each other.
 *
 *   READY ─▶ BUSY ─▶ (all chunks are here) removed by the caller
 *     ▲        │ nobody who is linked has it
 *     └─ STUCK ◀┘      again after a while, or when somebody else is linked
 *
 * A peer that gives nothing for STALL_MS has its runs asked of others; after DEAD_MS it is not asked for a while. From one that gives little,
 * others who have nothing to do take over what it owes, so that nobody is waited for at the end. One that gives what is
 * wrong is not asked for that content again for a while, and after FAULTS_MAX times for nothing. */
#ifndef NODE_FILES_FETCH_H
#define NODE_FILES_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/files/chunklist.h"
#include "proto/origin.h"

#define FETCH_WINDOW_BYTES (4u << 20) /* asked of one peer and not come */
#define FETCH_RUN_CHUNKS 16
#define FETCH_LARGE_MAX 3 /* large contents at once */
#define FETCH_STALL_MS 2000
#define FETCH_DEAD_MS 10000
#define FETCH_SLOW_MS 4000 /* a run of chunks that is owed for so long is asked of somebody who has nothing to do */
#define FETCH_FAULTS_MAX 3
#define FETCH_SHUN_MS 600000

struct fetch;
struct fetch_item;

enum fetch_kind { FETCH_WHO, FETCH_LIST, FETCH_CHUNKS };

struct fetch_ask {
    enum fetch_kind kind;
    uint8_t peer[NODE_ID_BYTES];
    struct fetch_item *item;
    uint32_t first, count; /* CHUNKS */
};

struct fetch *fetch_new(uint64_t seed); /* NULL without memory */
void fetch_free(struct fetch *f);

/* ---- what is wanted. ctx is the caller's. */
struct fetch_item *fetch_add(struct fetch *f, const uint8_t hash[CONTENT_HASH_BYTES], uint64_t size, const uint8_t *hint, void *ctx);
void fetch_remove(struct fetch *f, struct fetch_item *item);
struct fetch_item *fetch_find(const struct fetch *f, const uint8_t hash[CONTENT_HASH_BYTES]);
void *fetch_ctx(const struct fetch_item *item);
const uint8_t *fetch_hash(const struct fetch_item *item);
/* The list of a large content is known: so many chunks. 0 or ERR_NOMEM. */
int fetch_listed(struct fetch *f, struct fetch_item *item, uint32_t chunks);
bool fetch_is_listed(const struct fetch_item *item);
/* This chunk is here: fetched and verified, or found in another file. */
void fetch_here(struct fetch *f, struct fetch_item *item, uint32_t chunk);
/* This chunk is being looked for here: it is not asked for, until `here`, or until it is freed. */
void fetch_hold(struct fetch_item *item, uint32_t chunk);
void fetch_unhold(struct fetch_item *item, uint32_t chunk);
bool fetch_is_held(const struct fetch_item *item, uint32_t chunk); /* here, held, or asked for */
bool fetch_is_here(const struct fetch_item *item, uint32_t chunk);
uint32_t fetch_left(const struct fetch_item *item); /* chunks that are not here; 0: whole. Only once it is listed */
const uint8_t *fetch_bitmap(const struct fetch_item *item, size_t *len);
/* Who has it, or some of it; and whether anything was asked. */
uint32_t fetch_sources(const struct fetch *f, const struct fetch_item *item);
bool fetch_is_stuck(const struct fetch_item *item);

/* ---- what happens */
void fetch_peer_up(struct fetch *f, const uint8_t *peer);
void fetch_peer_down(struct fetch *f, const uint8_t *peer);
/* HAVE; chunks as there. What cannot be of this content counts as a fault. */
void fetch_said(struct fetch *f, const uint8_t *peer, const uint8_t *hash, uint32_t chunks, const uint8_t *bitmap, size_t len,
                uint64_t now);
/* The peer asked who has it: so it will have some of it. */
void fetch_interest(struct fetch *f, const uint8_t *peer, const uint8_t *hash, uint64_t now);
/* Part of the list came from the peer that was asked for it. False: it was not asked. */
bool fetch_list_came(struct fetch *f, const uint8_t *peer, struct fetch_item *item, uint64_t now);
/* A chunk came. False: it was not asked of this peer. Then it is verified: `here` or `wrong`, or `unhold` when it could not be kept. */
bool fetch_came(struct fetch *f, const uint8_t *peer, struct fetch_item *item, uint32_t chunk, uint64_t now);
/* What came was not what it had to be: a chunk (chunk < count), or the list. One fault a content, however many chunks of it. */
void fetch_misfit(struct fetch *f, const uint8_t *peer, struct fetch_item *item, uint64_t now); /* it may as well be the index that lies */
void fetch_wrong(struct fetch *f, const uint8_t *peer, struct fetch_item *item, uint32_t chunk, uint64_t now);
void fetch_gone(struct fetch *f, const uint8_t *peer, const uint8_t *hash, uint32_t first, uint32_t count, uint64_t now);
/* A fault that belongs to no content. */
void fetch_fault(struct fetch *f, const uint8_t *peer, uint64_t now);
bool fetch_shunned(const struct fetch *f, const uint8_t *peer, uint64_t now);

/* The next question; false: none now. Then again after any of the above, and at the deadline. */
bool fetch_next(struct fetch *f, uint64_t now, struct fetch_ask *ask);
uint64_t fetch_deadline(const struct fetch *f); /* UINT64_MAX: none */

#endif
