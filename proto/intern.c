#include "proto/intern.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define INTERN_KEEP_MAX 4096u /* items for which memory is kept over a clear */
#define INTERN_BYTES_KEEP_MAX (64u << 10)

void intern_init(struct intern *t, uint32_t count_max) {
    *t = (struct intern){.count_max = count_max};
    buf_init(&t->bytes, SIZE_MAX);
}

void intern_release(struct intern *t) {
    buf_release(&t->bytes);
    free(t->items);
    free(t->slots);
    intern_init(t, t->count_max);
}

void intern_clear(struct intern *t) {
    if (t->cap > INTERN_KEEP_MAX || t->bytes.cap > INTERN_BYTES_KEEP_MAX) {
        intern_release(t);
        return;
    }
    buf_clear(&t->bytes);
    t->count = 0;
    if (t->slots)
        memset(t->slots, 0, t->slots_count * sizeof *t->slots);
}

static uint32_t hash_of(const uint8_t *p, size_t len) { /* FNV-1a: these strings come from our own side */
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 16777619u;
    return h ^ h >> 15;
}

/* The slot that holds these bytes, or the free one where they belong. */
static uint32_t *slot_of(const struct intern *t, const void *p, size_t len, uint32_t hash) {
    uint32_t mask = t->slots_count - 1;
    for (uint32_t at = hash & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &t->slots[at];
        if (!*slot)
            return slot;
        const struct intern_item *item = &t->items[*slot - 1];
        if (item->hash == hash && item->len == len && (!len || !memcmp(t->bytes.data + item->offset, p, len)))
            return slot;
    }
}

uint32_t intern_find(const struct intern *t, const void *p, size_t len) {
    if (!t->count || len > UINT32_MAX)
        return INTERN_NONE;
    return *slot_of(t, p, len, hash_of(p, len)) - 1; /* 0, free, wraps to INTERN_NONE */
}

static int grow(struct intern *t) {
    uint32_t cap = t->cap ? t->cap * 2 : 16;
    struct intern_item *items = realloc(t->items, cap * sizeof *items);
    if (!items)
        return ERR_NOMEM;
    t->items = items;
    uint32_t *slots = calloc(cap * 2, sizeof *slots);
    if (!slots)
        return ERR_NOMEM;
    free(t->slots);
    t->slots = slots;
    t->slots_count = cap * 2;
    t->cap = cap;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t at = items[i].hash & (t->slots_count - 1);
        while (slots[at])
            at = (at + 1) & (t->slots_count - 1);
        slots[at] = i + 1;
    }
    return 0;
}

int intern_add(struct intern *t, const void *p, size_t len, uint32_t *index) {
    if (len > UINT32_MAX)
        return ERR_TOOBIG;
    uint32_t hash = hash_of(p, len);
    if (t->count) {
        *index = *slot_of(t, p, len, hash) - 1;
        if (*index != INTERN_NONE)
            return 0;
    }
    if (t->count == t->count_max)
        return ERR_TOOBIG;
    int r = t->count == t->cap ? grow(t) : 0;
    if (r)
        return r;
    size_t offset = t->bytes.len;
    buf_append(&t->bytes, p, len);
    if (t->bytes.failed) {
        r = t->bytes.failed;
        t->bytes.failed = 0;
        return r;
    }
    t->items[t->count] = (struct intern_item){offset, (uint32_t)len, hash};
    *index = t->count++;
    *slot_of(t, p, len, hash) = *index + 1;
    return 0;
}

const void *intern_get(const struct intern *t, uint32_t index, size_t *len) {
    assert(index < t->count);
    *len = t->items[index].len;
    return t->bytes.data + t->items[index].offset;
}
