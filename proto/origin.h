/* Starling: who wrote. A node's id is the first 16 bytes of BLAKE2b-256 of its Ed25519 public key. An origin is a node in
 * one epoch: a node whose older versions may have been lost (a restored image, a clone) starts a new epoch with version 1. */
#ifndef PROTO_ORIGIN_H
#define PROTO_ORIGIN_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NODE_ID_BYTES 16
#define NODE_KEY_BYTES 32    /* Ed25519 public key */
#define NODE_SECRET_BYTES 64 /* Ed25519 secret key as libsodium keeps it */
#define ORIGIN_TEXT_BYTES 48 /* with terminator */

struct origin {
    uint8_t node[NODE_ID_BYTES];
    uint32_t epoch; /* from 0 */
};

void node_id_of_key(uint8_t id[NODE_ID_BYTES], const uint8_t key[NODE_KEY_BYTES]);

/* Total order: node bytes, then epoch. In line, since vectors are searched and merged all the time. */
static inline int origin_cmp(const struct origin *a, const struct origin *b) {
    for (unsigned at = 0; at < NODE_ID_BYTES; at += 8) {
        uint64_t x, y;
        memcpy(&x, a->node + at, 8);
        memcpy(&y, b->node + at, 8);
        if (x != y)
            return be64toh(x) < be64toh(y) ? -1 : 1;
    }
    return (a->epoch > b->epoch) - (a->epoch < b->epoch);
}

static inline bool origin_equal(const struct origin *a, const struct origin *b) {
    uint64_t ahead, behind, of_b;
    memcpy(&ahead, a->node, 8);
    memcpy(&of_b, b->node, 8);
    ahead ^= of_b;
    memcpy(&behind, a->node + 8, 8);
    memcpy(&of_b, b->node + 8, 8);
    return (ahead | (behind ^ of_b) | (a->epoch ^ b->epoch)) == 0;
}

/* "<32 hex>" for epoch 0, "<32 hex>.<epoch>" otherwise. */
const char *origin_text(const struct origin *o, char out[ORIGIN_TEXT_BYTES]);

#endif
