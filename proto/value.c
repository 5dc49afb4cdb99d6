#include "proto/batch.h"

#include <sodium.h>
#include <string.h>

/* The key carries the storage class in its first byte, so that the value's own bytes are hashed without a copy. */
static const uint8_t key_of_class[VALUE_BLOB + 1][crypto_shorthash_KEYBYTES] = {
    [VALUE_NULL] = {VALUE_NULL, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_INT] = {VALUE_INT, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_FLOAT] = {VALUE_FLOAT, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_TEXT] = {VALUE_TEXT, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
    [VALUE_BLOB] = {VALUE_BLOB, 's', 't', 'a', 'r', 'l', 'i', 'n', 'g', ' ', 'v', 'a', 'l', 'u', 'e', '1'},
};

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
    case VALUE_BLOB: break;
    }
    if (v->type == VALUE_INT || v->type == VALUE_FLOAT) {
        for (int i = 0; i < 8; i++)
            number[i] = (uint8_t)(bits >> (8 * i));
        p = number;
        len = sizeof number;
    }
    uint8_t hash[crypto_shorthash_BYTES];
    crypto_shorthash(hash, len ? p : number, len, key_of_class[v->type]);
    uint64_t out = 0;
    for (int i = 0; i < 8; i++)
        out |= (uint64_t)hash[i] << (8 * i);
    return out;
}
