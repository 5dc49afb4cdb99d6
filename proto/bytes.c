#include "proto/bytes.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct bytes *bytes_new(const void *data, size_t len) {
    if (len > SIZE_MAX - sizeof(struct bytes))
        return NULL;
    struct bytes *b = malloc(sizeof *b + len);
    if (!b)
        return NULL;
    atomic_init(&b->refs, 1);
    b->len = len;
    if (data && len)
        memcpy(b->data, data, len);
    return b;
}

struct bytes *bytes_shrink(struct bytes *b, size_t len) {
    assert(len <= b->len);
    assert(atomic_load_explicit(&b->refs, memory_order_relaxed) == 1);
    b->len = len;
    struct bytes *smaller = realloc(b, sizeof *b + len);
    return smaller ? smaller : b;
}

struct bytes *bytes_ref(struct bytes *b) {
    uint32_t before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    assert(before > 0 && before < UINT32_MAX);
    return b;
}

void bytes_unref(struct bytes *b) {
    if (!b)
        return;
    /* acq_rel: whoever frees must see what all others did with the bytes before they let go */
    uint32_t before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before == 1)
        free(b);
}
