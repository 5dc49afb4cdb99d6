/* Starling: a growing list of distinct byte strings; each is stored once and known by its index, in order of arrival. */
#ifndef PROTO_INTERN_H
#define PROTO_INTERN_H

#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"

#define INTERN_NONE UINT32_MAX

struct intern_item {
    size_t offset;
    uint32_t len, hash;
};

struct intern {
    struct buf bytes;
    struct intern_item *items;
    uint32_t *slots; /* index + 1, 0 free; open addressing, at most half full */
    uint32_t count, cap, slots_count, count_max;
};

void intern_init(struct intern *t, uint32_t count_max);
void intern_release(struct intern *t);
void intern_clear(struct intern *t); /* memory is kept, unless it grew large */
/* The index of these bytes, INTERN_NONE if they are not in the list. */
uint32_t intern_find(const struct intern *t, const void *p, size_t len);
/* The same, added if need be. 0, ERR_NOMEM or ERR_TOOBIG. */
int intern_add(struct intern *t, const void *p, size_t len, uint32_t *index);
/* Borrowed until the next intern_add. */
const void *intern_get(const struct intern *t, uint32_t index, size_t *len);

#endif
