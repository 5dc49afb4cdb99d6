/* Cards: what reads as one is signed and read again the same, and only by its own key, for its own cluster. */
#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "proto/card.h"

static void same(const struct card *a, const struct card *b) {
    assert(memcmp(a->key, b->key, sizeof a->key) == 0 && a->incarnation == b->incarnation && a->issue == b->issue && a->left == b->left);
    assert(strcmp(a->name, b->name) == 0 && b->count <= a->count); /* addresses that do not fit are left out */
    for (uint32_t i = 0; i < b->count; i++)
        assert(strcmp(a->addresses[i], b->addresses[i]) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct card c, again;
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES], seed[32] = {1}, out[CARD_BYTES_MAX];
    if (sodium_init() < 0 || card_read(&c, data, size))
        return 0;
    assert(c.count <= CARD_ADDRESSES_MAX && memchr(c.name, 0, sizeof c.name));
    for (uint32_t i = 0; i < c.count; i++)
        assert(memchr(c.addresses[i], 0, sizeof c.addresses[i]));
    crypto_sign_seed_keypair(key, secret, seed);
    assert(!card_holds(data, size, "default", key)); /* nobody has its secret */
    memcpy(c.key, key, sizeof key);
    size_t len = card_sign(&c, "default", secret, out);
    assert(len > crypto_sign_BYTES && len <= sizeof out);
    assert(card_read(&again, out, len) == 0);
    same(&c, &again);
    assert(card_holds(out, len, "default", key) && !card_holds(out, len, "defaul", key));
    out[size % len] ^= 1;
    assert(!card_holds(out, len, "default", key));
    return 0;
}
