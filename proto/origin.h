/* Starling: who wrote. A node's id is the first 16 bytes of BLAKE2b-256 of its Ed25519 public key. An origin is a node in
 * one epoch: a node whose older versions may have been lost (a restored image, a clone) starts a new epoch with version 1. */
#ifndef PROTO_ORIGIN_H
#define PROTO_ORIGIN_H

#include <stdint.h>

#define NODE_ID_BYTES 16
#define NODE_KEY_BYTES 32    /* Ed25519 public key */
#define NODE_SECRET_BYTES 64 /* Ed25519 secret key as libsodium keeps it */
#define ORIGIN_TEXT_BYTES 48 /* with terminator */

struct origin {
    uint8_t node[NODE_ID_BYTES];
    uint32_t epoch; /* from 0 */
};

void node_id_of_key(uint8_t id[NODE_ID_BYTES], const uint8_t key[NODE_KEY_BYTES]);
int origin_cmp(const struct origin *a, const struct origin *b); /* total order: node bytes, then epoch */
/* "<32 hex>" for epoch 0, "<32 hex>.<epoch>" otherwise. */
const char *origin_text(const struct origin *o, char out[ORIGIN_TEXT_BYTES]);

#endif
