/* Starling store: rows that a migration wrote, or took along. Shared by carried.c and those who read rows. */
#ifndef NODE_STORE_CARRIED_H
#define NODE_STORE_CARRIED_H

#include "node/store/engine.h"

bool carried_arrives(const struct row_look *look); /* a row of a table that has come, read for the first time */
bool carried_is_another(struct store *s, const struct row_look *look, const struct reg *r, const uint64_t *hashes);
#define AT_BEFORE_US UINT64_MAX /* stamp 0: a default, which nobody wrote over anything */
struct moved_cell {             /* a column that is to be written */
    uint32_t column;            /* index in io's order */
    enum carried carried;
    uint64_t at; /* 0: as any write of now; AT_BEFORE_US */
};
int carried_judge(struct store *s, const struct row_look *look, const struct reg *r, const struct pending_row *p, uint32_t i, uint64_t hash,
                  struct moved_cell *cells, uint32_t *count, bool *overruled);
/* What a row that came with its table's new name tells, at most two cells a column; life: as which of them it was inserted. */
int carried_cells(struct store *s, const struct row_look *look, const uint64_t *hashes, struct moved_cell *cells, uint32_t *count,
                  struct moved_cell *life);
/* The same of columns that have a new name, in a row that another life comes in the place of. */
uint32_t carried_replaced(struct store *s, const struct row_look *look, const struct reg *r, struct moved_cell *cells);
int carried_deaths(struct store *s, struct tio *io); /* the same of the rows that it had lost, after all of it was read */
int carried_see(struct store *s, bool blind); /* what others have the author of what follows has not seen: from here on another batch */

#endif
