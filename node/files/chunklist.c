#include "node/files/chunklist.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/files/chunker.h"
#include "proto/err.h"

#define GROUP_MASK 0x3f
#define MARK_EVERY 64

void chunk_hash(const void *data, size_t len, uint8_t out[CONTENT_HASH_BYTES]) {
    crypto_generichash(out, CONTENT_HASH_BYTES, data, len, NULL, 0);
}

static uint32_t length_of(const uint8_t *entry) {
    const uint8_t *p = entry + CONTENT_HASH_BYTES;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void entry_put(uint8_t *entry, const uint8_t hash[CONTENT_HASH_BYTES], uint32_t len) {
    memcpy(entry, hash, CONTENT_HASH_BYTES);
    for (unsigned i = 0; i < 4; i++)
        entry[CONTENT_HASH_BYTES + i] = (uint8_t)(len >> 8 * i);
}

void content_hash_one(const void *data, size_t len, uint8_t out[CONTENT_HASH_BYTES]) {
    uint8_t hash[CONTENT_HASH_BYTES], entry[ENTRY_BYTES];
    assert(len <= CHUNK_MAX);
    chunk_hash(data, len, hash);
    entry_put(entry, hash, (uint32_t)len);
    chunk_hash(entry, len == 0 ? 0 : sizeof entry, out);
}

void chunklist_init(struct chunklist *l) { *l = (struct chunklist){0}; }

void chunklist_release(struct chunklist *l) {
    free(l->entries);
    free(l->marks);
    chunklist_init(l);
}

static int room(struct chunklist *l, uint32_t count) {
    if (count > CHUNKS_MAX - l->count)
        return ERR_TOOBIG;
    if (l->count + count <= l->cap)
        return 0;
    uint32_t cap = l->cap + l->cap / 2; /* a file that grows by chunks: not twice what is needed */
    if (cap < l->count + count)
        cap = l->count + count;
    uint8_t *entries = realloc(l->entries, (size_t)cap * ENTRY_BYTES);
    if (entries == NULL)
        return ERR_NOMEM;
    l->entries = entries;
    l->cap = cap;
    return 0;
}

int chunklist_add(struct chunklist *l, const uint8_t hash[CONTENT_HASH_BYTES], uint32_t len) {
    assert(len > 0 && len <= CHUNK_MAX);
    int r = room(l, 1);
    if (r != 0)
        return r;
    entry_put(l->entries + (size_t)l->count++ * ENTRY_BYTES, hash, len);
    l->size += len;
    free(l->marks);
    l->marks = NULL;
    return 0;
}

int chunklist_append(struct chunklist *l, const uint8_t *entries, uint32_t count) {
    uint64_t size = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t len = length_of(entries + (size_t)i * ENTRY_BYTES);
        if (len == 0 || len > CHUNK_MAX)
            return ERR_MALFORMED;
        size += len;
    }
    int r = room(l, count);
    if (r != 0)
        return r;
    if (count > 0)
        memcpy(l->entries + (size_t)l->count * ENTRY_BYTES, entries, (size_t)count * ENTRY_BYTES);
    l->count += count;
    l->size += size;
    free(l->marks);
    l->marks = NULL;
    return 0;
}

void chunklist_hash(const struct chunklist *l, uint8_t out[CONTENT_HASH_BYTES]) {
    chunk_hash(l->entries, (size_t)l->count * ENTRY_BYTES, out);
}

/* Without memory for the marks every chunk before it is walked: slow, but right. */
static void marks_make(struct chunklist *l) {
    l->marks = malloc(((size_t)l->count / MARK_EVERY + 1) * sizeof *l->marks);
    uint64_t at = 0;
    for (uint32_t i = 0; l->marks != NULL && i < l->count; i++) {
        if (i % MARK_EVERY == 0)
            l->marks[i / MARK_EVERY] = at;
        at += length_of(l->entries + (size_t)i * ENTRY_BYTES);
    }
}

struct chunk chunklist_get(struct chunklist *l, uint32_t i) {
    struct chunk c = {0};
    assert(i < l->count);
    if (l->marks == NULL)
        marks_make(l);
    uint32_t from = l->marks == NULL ? 0 : i / MARK_EVERY * MARK_EVERY;
    c.at = l->marks == NULL ? 0 : l->marks[i / MARK_EVERY];
    for (; from < i; from++)
        c.at += length_of(l->entries + (size_t)from * ENTRY_BYTES);
    const uint8_t *entry = l->entries + (size_t)i * ENTRY_BYTES;
    memcpy(c.hash, entry, sizeof c.hash);
    c.len = length_of(entry);
    return c;
}

bool chunklist_group(const struct chunklist *l, uint32_t first, struct group *out) {
    uint8_t hash[CONTENT_HASH_BYTES];
    if (first >= l->count)
        return false;
    uint32_t n = 1;
    const uint8_t *entry = l->entries + (size_t)first * ENTRY_BYTES;
    while (first + n < l->count && n < GROUP_ENTRIES_MAX && (entry[(size_t)(n - 1) * ENTRY_BYTES] & GROUP_MASK) != 0)
        n++;
    chunk_hash(entry, (size_t)n * ENTRY_BYTES, hash);
    out->first = first;
    out->count = n;
    memcpy(out->name, hash, sizeof out->name);
    return true;
}
