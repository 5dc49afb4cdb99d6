/* Starling store: a projection at hand. project.c is the transaction, show.c writes its rows, retry.c those that were not written at once. */
#ifndef NODE_STORE_PROJECT_H
#define NODE_STORE_PROJECT_H

#include "node/store/keyed.h"

#define NOT_SHOWN "what it refers to is not shown here yet"

struct projecting {
    struct store *s;
    const uint32_t *mapped; /* the columns array that `at` belongs to */
    struct tio *mapped_io;
    uint32_t *at;          /* its columns as indexes into io's order; UINT32_MAX: not here */
    uint32_t at_cap, here; /* how many are here */
    bool whole;            /* they are all of io's columns */
    sqlite3_stmt *update;
    struct arena arena;
    bool parked; /* something new was parked, or has moved: to be durable before COMMIT */
    bool placed; /* a row was to get another number: the same, if it was shown */
    bool last;   /* what fails now is mended, or parked */
    bool mends;  /* what a constraint refuses is mended, and what only waits is left */
    char why[300];
    bool can_move; /* rows may get other numbers: the mark will tell this projection from any other */
    int64_t seq;   /* that it will say */
};

int show_op(struct projecting *p, const struct op *op);
/* From the registers. 1: not now, something is in its way or it waits for another row; p->why may tell. */
int show_row(struct projecting *p, struct pending_row *row);
int show_delete(struct store *s, struct tio *io, const struct rowid *who);
/* What the file holds of the row now, inside this transaction: no note is undrained, so every difference from the registers is to be shown. */
int show_look(struct projecting *p, struct pending_row *row, uint64_t *hashes);
/* The columns whose value is not what the file holds (hashes NULL: all). 1: what it refers to is not shown yet. */
int show_gather(struct projecting *p, struct tbl *t, struct reg *r, bool home, const struct pending_row *row, const uint64_t *hashes,
                uint32_t **columns, struct value **values, uint32_t *count);
int show_park(struct projecting *p, struct pending_row *row, const char *why);
int show_again(struct projecting *p, struct pending_row *const *all, uint32_t count); /* retry.c */

int renumber_tables(struct store *s); /* the temporary ones, ahead of the transaction; 0, ERR_BUSY, … */

#endif
