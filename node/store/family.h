/* Starling store: rows that refer to each other, as far as they come back or go together: what family.c and resolve.c share. */
#ifndef NODE_STORE_FAMILY_H
#define NODE_STORE_FAMILY_H

#include "node/store/engine.h"

struct family {      /* one for each reference: equal numbers where a child refers to its parent, 0 where it does not */
    uint64_t *links; /* in the arena that was given */
    uint32_t count;
};
/* What the row in r (r->who is set) refers to, or is referred to by. Values are compared as the registers have them. */
int family_links(struct store *s, struct tio *io, const struct reg *r, bool as_child, struct arena *arena, struct family *out);
/* The row that a child with these values (in io's order) means by its foreign key `which`, if that names a key. 1: it is in r, and *parent is its table. */
int family_parent(struct store *s, const struct tio *io, uint32_t which, const struct value *row, struct arena *arena, struct tio **parent,
                  struct reg *r);
/* 1: other rows, of the table *by, refer to what this op takes away. On the writer. */
int family_held(struct store *s, const struct op *op, const char **by);

#endif
