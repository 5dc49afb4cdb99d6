/* Starling store: renamed tables, as keys name them. */
#ifndef NODE_STORE_FIRST_NAME_H
#define NODE_STORE_FIRST_NAME_H

#include "node/store/engine.h"

int first_name_load(struct store *s);
struct tbl *first_name(const struct tbl *t);
int first_name_renamed(struct store *s, struct tbl *t, struct tbl *from);        /* t's rows were those of `from` */
int first_name_carried(struct store *s, struct tbl *t, const struct rowid *who); /* another server says so of this row */
/* Of all tables that had this name first the one under which the file has this row. */
struct tbl *first_name_here(struct store *s, struct tbl *t, const struct rowid *who);
/* A reference to it, as keys have it: the bytes used. */
size_t first_name_pack(struct store *s, const struct tbl *t, const struct rowid *who, uint8_t bytes[VALUE_REF_BORN_BYTES]);

#endif
