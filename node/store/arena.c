/* Memory that is freed at once: blocks of at least 64 KiB, each with the next one behind it. */
#include <stdlib.h>

#include "node/store/engine.h"

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(16) uint8_t data[];
};

void *arena_alloc(struct arena *a, size_t size) {
    size = (size + 15) & ~(size_t)15;
    struct arena_block *b = a->block;
    if (!b || b->size - b->used < size) {
        size_t n = size > 65536 - 64 ? size : 65536 - 64;
        if (!(b = malloc(sizeof *b + n)))
            return NULL;
        b->next = a->block;
        b->used = 0;
        b->size = n;
        a->block = b;
    }
    void *p = b->data + b->used;
    b->used += size;
    return p;
}

void arena_release(struct arena *a) {
    while (a->block) {
        struct arena_block *next = a->block->next;
        free(a->block);
        a->block = next;
    }
}
