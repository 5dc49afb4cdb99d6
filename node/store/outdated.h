/* Starling store: requests that read a number before its row was given another one. */
#ifndef NODE_STORE_OUTDATED_H
#define NODE_STORE_OUTDATED_H

#include "node/store/engine.h"

int outdated_note(struct store *s, struct tbl *t, const struct rowid *who,
                  int64_t number); /* the file showed this living row there until now */
/* Does the number, written by an application at `ms`, mean a living row that does not have it any more? 1: it does. */
int outdated_means(struct store *s, const struct tbl *t, int64_t number, int64_t ms, struct rowid *who);
void outdated_pass(struct store *s, int64_t ms); /* so much earlier */
void outdated_forget(struct outdated **list);

/* ---- refs.c */
/* What a request wrote with an old number shows another row in the file: the rows that are meant are shown instead. hashes: in io's order. */
int refs_outdated(struct store *s, struct tio *io, const struct rowid *who, const uint32_t *at, uint32_t count, const struct value *told,
                  const uint64_t *hashes);

#endif
