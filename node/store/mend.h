/* Starling store: mends; what mend.c, meet.c, evict.c and twice.c share. */
#ifndef NODE_STORE_MEND_H
#define NODE_STORE_MEND_H

#include "node/store/engine.h"

#define KEYS_MAX 16

struct plan {
    struct plan *next;
    struct tbl *tbl;
    struct rowid who;
    enum change_kind kind;
    uint32_t at;        /* column, in io's order; CHANGE_REVIVE: none */
    struct value value; /* what it gets */
    uint64_t stamp;
    struct rowid other; /* CHANGE_SAME */
    uint64_t rank, others_rank;
};

struct unique {
    uint32_t count, at[KEYS_MAX]; /* columns, in io's order */
    enum collation collations[KEYS_MAX];
    bool alike; /* the key of a policy, which the file knows nothing of */
    bool plain; /* nothing but columns that are stored; else `at` are those that may be meant */
};

/* A row of the file that keeps another one out, or the one that is kept out. */
struct party {
    struct rowid who, place; /* place: its number or key in the file; only of the one that is in the way */
    struct reg reg;
    struct value *values; /* in io's order, as the file holds them, or would */
};

struct refused { /* one row that the file does not take */
    struct store *s;
    struct tio *io;
    struct op op; /* with what was mended in it */
    struct arena *arena;
    struct party self;
    struct plan *plans;
    bool same;          /* it is the same row as one that is there: nothing more is tried */
    int cids[KEYS_MAX]; /* of the key's columns in the table */
    struct rowid *thrown;
    uint32_t thrown_count, thrown_cap;
    int failed;
};

/* ---- mend.c */
int mend_copy_bytes(struct arena *a, const uint8_t **p, size_t len);
bool mend_same_place(const struct rowid *a, const struct rowid *b);
bool mend_is_key(const struct tio *io, uint32_t at);
bool mend_is_unique(struct store *s, const struct tbl *t, uint32_t column); /* has an index this column for a key? */
int mend_shares_schema(struct store *s, const struct tbl *t, const struct write *w, bool *shares);
bool mend_names_column(const char *text, size_t len, const char *name);
int mend_try_begin(struct refused *f); /* what follows is taken back by _end, which passes err on */
int mend_try_end(struct refused *f, int err);
int mend_read_values(struct refused *f, const struct rowid *place, struct value **out);
void mend_op_set(struct refused *f, uint32_t at, const struct value *v);
int mend_write_column(struct refused *f, const struct rowid *place, uint32_t at, struct value *v);
int mend_write_planned(struct refused *f);
int mend_plan_same(struct store *s, struct tbl *t, const struct reg *a, const struct reg *b); /* 1 */
int mend_plan_add(struct refused *f, const struct party *who, uint32_t at, const struct value *v, uint64_t stamp);

/* ---- evict.c */
int evict_find_key(struct refused *f); /* before the first */
int evict_replace(struct refused *f);  /* writes the row, whoever is in its way: these are in f->thrown */
bool evict_is_thrown(const struct refused *f, const struct rowid *place);

/* ---- twice.c */
/* Are they the same row, entered twice? met: the key on which they were found to be in each other's way, or NULL. 1 yes, 0 no. */
enum { TWICE_APART = 2 }; /* they were, and a person took them apart */
int twice_entered(struct store *s, const struct tio *io, const struct unique *uniques, uint32_t count, const struct unique *met,
                  const struct party *a, const struct party *b);

bool twice_elder(struct store *s, const struct tbl *t, const struct party *a, const struct party *b); /* of such two: is a the elder? */

/* ---- meet.c */
int meet_uniques(struct refused *f, struct unique **out, uint32_t *count); /* of f->io */
bool meet_same_value(struct store *s, const struct value *a, const struct value *b, enum collation k);
int meet_mend(struct refused *f);                             /* 1: mends are planned that let the row in */
int meet_alike(struct refused *f, const struct rowid *place); /* the same of two rows that are there, and one by the policy's key */

/* Amid a projection: the file refuses this op, with this extended code of SQLite's, and these words. 1: a mend is planned, the op is written as it
 * will be, and the projection is to be taken back; 0: there is none. */
int mend_row(struct store *s, const struct op *op, int code, const char *why);
/* What is planned, as a batch of ours, in the open transaction of the state; the projection was taken back. */
int mend_write(struct store *s);
int mend_remember_schema(struct store *s);                                       /* after the tables are bound */
bool mend_by_unique(struct store *s, const struct tbl *t, const struct cell *c); /* is this mend for the sake of a UNIQUE index? */

/* ---- twice.c */
/* Both live and want one number: were they entered twice, or a and a row that the file has under another number? Then a mend is planned that says so.
 * 1; 0 no. r->who is set in both. */
int twice_plan(struct store *s, struct tbl *t, const struct reg *a, const struct reg *b);

#endif
