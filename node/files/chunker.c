#include "node/files/chunker.h"

#include <sodium.h>
#include <string.h>

#define MASK_BEFORE 0xffffc00000000000u /* 18 bits: harder than one in 64 KiB, up to the normal size */
#define MASK_BEHIND 0xfffc000000000000u /* 14 bits: easier, above it */

void chunker_init(struct chunker *c) {
    uint8_t seed[] = "starling gear", hash[crypto_generichash_BYTES_MIN];
    for (unsigned i = 0; i < 256; i++) {
        seed[sizeof seed - 1] = (uint8_t)i; /* in place of the NUL */
        crypto_generichash(hash, sizeof hash, seed, sizeof seed, NULL, 0);
        c->gear[i] = 0;
        for (unsigned j = 0; j < 8; j++)
            c->gear[i] |= (uint64_t)hash[j] << 8 * j;
    }
}

/* Behind which byte from `at` on, before `end`, h ends a chunk; end: behind none. Two bytes a round: one shift less in the chain of
 * operations that wait for each other. */
static size_t find(const uint64_t *gear, const uint8_t *data, size_t at, size_t end, uint64_t mask, uint64_t *state) {
    uint64_t h = *state;
    for (; at + 1 < end; at += 2) {
        uint64_t first = (h << 1) + gear[data[at]];
        h = (h << 2) + (gear[data[at]] << 1) + gear[data[at + 1]];
        if ((first & mask) == 0)
            return at + 1;
        if ((h & mask) == 0)
            return at + 2;
    }
    if (at < end) {
        h = (h << 1) + gear[data[at++]];
        if ((h & mask) == 0)
            return at;
    }
    *state = h;
    return 0;
}

size_t chunker_cut(const struct chunker *c, const uint8_t *data, size_t len) {
    if (len <= CHUNK_MIN)
        return len;
    size_t end = len < CHUNK_MAX ? len : CHUNK_MAX, normal = end < CHUNK_NORMAL ? end : CHUNK_NORMAL;
    uint64_t h = 0;
    size_t cut = find(c->gear, data, CHUNK_MIN, normal, MASK_BEFORE, &h);
    if (cut == 0)
        cut = find(c->gear, data, normal, end, MASK_BEHIND, &h);
    return cut == 0 ? end : cut;
}
