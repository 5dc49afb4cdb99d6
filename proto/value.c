#include "proto/batch.h"

#include <sodium.h>
#include <string.h>

/* The key carries the storage class in its first byte, so that the value's own bytes are hashed without a copy. */
static const uint8_t key_of_class[VALUE_REF + 1][crypto_shorthash_KEYBYTES] = {
    [VALUE_NULL] = {VALUE_NULL, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_INT] = {VALUE_INT, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_FLOAT] = {VALUE_FLOAT, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_TEXT] = {VALUE_TEXT, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_BLOB] = {VALUE_BLOB, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_REF] = {VALUE_REF, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
};

/* Written out, so that the compiler makes one load of it: this is done for each value of each row. */
static uint64_t load64(const uint8_t *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
           (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

uint64_t value_hash(const struct value *v) {
    uint8_t number[8];
    const uint8_t *p = v->p;
    size_t len = v->len;
    uint64_t bits = 0;
    switch (v->type) {
    case VALUE_NULL: len = 0; break;
    case VALUE_INT: bits = (uint64_t)v->as.i; break;
    case VALUE_FLOAT: memcpy(&bits, &v->as.f, sizeof bits); break;
    case VALUE_TEXT:
    case VALUE_BLOB:
    case VALUE_REF: break;
    }
    if (v->type == VALUE_INT || v->type == VALUE_FLOAT) {
        for (int i = 0; i < 8; i++)
            number[i] = (uint8_t)(bits >> (8 * i));
        p = number;
        len = sizeof number;
    }
    uint8_t hash[crypto_shorthash_BYTES];
    crypto_shorthash(hash, len ? p : number, len, key_of_class[v->type]);
    return load64(hash);
}

static uint8_t *put(uint8_t *to, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++)
        *to++ = (uint8_t)(v >> (8 * i));
    return to;
}

size_t value_ref_pack(const struct value_ref *r, uint8_t out[VALUE_REF_BORN_BYTES]) {
    uint8_t *at = put(put(out, r->table, 8), (uint64_t)r->number, 8);
    if (r->adopted) {
        at = put(at, r->hash, 8);
    } else {
        memcpy(at, r->origin.node, NODE_ID_BYTES);
        at = put(put(at + NODE_ID_BYTES, r->origin.epoch, 4), r->version, 8);
    }
    return (size_t)(at - out);
}

bool value_ref_unpack(struct value_ref *r, const uint8_t *p, size_t len) {
    memset(r, 0, sizeof *r);
    if (len != VALUE_REF_BORN_BYTES && len != VALUE_REF_ADOPTED_BYTES)
        return false;
    r->table = load64(p);
    r->number = (int64_t)load64(p + 8);
    r->adopted = len == VALUE_REF_ADOPTED_BYTES;
    p += 16;
    if (r->adopted) {
        r->hash = load64(p);
        return true;
    }
    memcpy(r->origin.node, p, NODE_ID_BYTES);
    p += NODE_ID_BYTES;
    r->origin.epoch = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    r->version = load64(p + 4);
    return true;
}
