/* Starling store: rows that are one: what same.c (which), unify.c (their registers) and twice.c (when) share. */
#ifndef NODE_STORE_SAME_H
#define NODE_STORE_SAME_H

#include "node/store/engine.h"

/* On the wire: columns of a CHANGE_SAME; no application has them. */
#define SAME_OTHER "\001same"      /* the other row: a reference, or the key of a row without one as a BLOB */
#define SAME_RANK "\001rank"       /* seniority of the row that the change names */
#define SAME_OTHERS "\001others"   /* of the other */
#define SAME_STATE "\001state"     /* enum same_state */
#define SAME_YOUNGEST (1ull << 62) /* rank of what a joining copy brought */

enum same_state {
    SAME_ONE,
    SAME_APART,
    SAME_SETTLED,
    SAME_STATES
}; /* a person took them apart; or saw that they are one, and was content */

struct same_fact {
    struct same_fact *next;
    uint32_t origin;
    uint64_t version, at;
    enum same_state state;
};

struct same_pair {
    struct same_node *a, *b; /* a is the senior */
    struct same_fact *facts;
};

struct same_node {
    UT_hash_handle hh;
    struct tbl *tbl;
    struct rowid who;
    uint64_t rank;                 /* when it was born: the lowest that was told */
    struct same_node *root, *next; /* the eldest of those that are one with it, and from that one on: all of them */
    struct same_pair **pairs;
    uint32_t pairs_count, mark;
    int64_t number; /* that it wants for itself, once that was asked; see same_by_number() */
    bool numbered;
    uint32_t name_len;
    uint8_t name[]; /* hash key: table number and identity */
};

struct same {
    struct arena arena;
    struct same_node *nodes;
    uint32_t mark;
    bool literal,
        told; /* references show what they say, whoever stands for it; some told since it was cleared means a row that another stands for */
    struct buf name, key;
    struct knowing *knowing; /* by origin: what its batches say that its author knew */
    uint32_t knowing_count;
    struct arena uncounted_arena;
    struct uncounted *uncounted; /* rows.c: their open conflicts are counted when the batch at hand is in the log */
    struct arena doubts_arena;
    struct doubt *doubts;         /* apart.c: writes to one of two rows, by who may not have known that they are one */
    const struct tbl *uniques_of; /* the same: of which table `unique` says which columns an index has for a key */
    uint8_t *unique;
    uint32_t unique_count;
    bool dead_refs; /* the projection at hand wrote references to rows that are dead */
};

static inline bool same_any(const struct store *s) { return s->same && s->same->nodes; }

/* ---- same.c */
struct same_node *same_node(struct store *s, const struct tbl *t, const struct rowid *who); /* NULL: nobody told anything of it */
/* Who stands for this row: in *out, a key of several columns in `key`. 1: another; 0: it does itself. */
int same_root(struct store *s, const struct tbl *t, const struct rowid *who, struct buf *key, struct rowid *out);
bool same_is_junior(struct store *s, const struct tbl *t, const struct rowid *who); /* another row stands for it */
/* All that may be one with this row, itself first; in the arena. */
int same_members(struct store *s, const struct tbl *t, const struct rowid *root, struct arena *arena, struct rowid **out, uint32_t *count);
/* Did somebody who had seen this know that they are one? */
bool same_known(struct store *s, const struct tbl *t, const struct rowid *a, const struct rowid *b, const struct seen *seen);
enum same_state same_pair_state(const struct store *s, const struct same_pair *p);
bool same_is_apart(struct store *s, const struct same_node *a,
                   const struct same_node *b); /* some of one and of the other were taken apart */
int same_add(struct store *s, struct tbl *t, const struct rowid *a, uint64_t rank_a, const struct rowid *b, uint64_t rank_b,
             const struct same_fact *fact, bool keep);
/* Had the author of this version seen that one? As his batches say. */
int same_had_seen(struct store *s, const struct write *author, const struct write *what, bool *seen);

/* All that he had seen, by origin; the array is the caller's. */
int same_seen_by(struct store *s, const struct write *author, struct seen *out);

bool same_elder(const struct store *s, const struct same_node *a, const struct same_node *b); /* is a the elder? */

/* ---- apart.c */
/* Rows for which this one stands, and of which that is an open conflict. */
struct same_node *same_next_open(struct store *s, const struct tbl *t, const struct rowid *root, const struct same_node *after);
uint32_t same_open(struct store *s, const struct tbl *t, const struct rowid *root);
int same_decide(struct store *s, struct tbl *t, const struct rowid *who, bool split); /* into the batch at hand */
/* This write changed the one whose register is `own`. */
int same_doubt(struct store *s, const struct tbl *t, const struct rowid *member, const struct reg *own, const struct write *by);
int same_judge(struct store *s); /* what is in doubt since the last turn; into a batch of its own */

/* ---- unify.c */
struct unify { /* a change to one of several rows that are one */
    struct rowid member, root;
    struct reg own, was; /* of the member; of what stood for all, before */
    struct buf key;
    bool home, roots_home; /* the registers are */
    bool formed;           /* a key that was met for the first time: until now the root stood for itself alone */
};
bool unify_is(struct store *s, const struct tbl *t, const struct rowid *who); /* is it one of several? */
int unify_begin(struct store *s, struct tbl *t, const struct rowid *member, struct unify *u);
/* u->own was changed by this write. */
int unify_end(struct store *s, struct tbl *t, struct unify *u, enum change_kind kind, struct write by);
int unify_pend(struct store *s, struct tbl *t, const struct unify *u); /* what it changed in the row that is shown */
void unify_release(struct unify *u);
int unify_own(struct store *s, const struct tbl *t, const struct rowid *who, struct reg *r, bool *home); /* its own register */
/* Out of it goes what was written to others of the list since, by who knew. */
int unify_overwritten(struct store *s, struct tbl *t, const struct rowid *list, uint32_t count, const struct rowid *who, struct reg *own);
/* Tells the registers of a fact; `before`: what the file shows of the rows of the flight at hand, or NULL. */
int unify_tell(struct store *s, struct tbl *t, const struct rowid *a, uint64_t rank_a, const struct rowid *b, uint64_t rank_b,
               const struct same_fact *fact, const struct buf *before);
/* Whose write is this, of those that the row stands for? *who may be changed. */
int unify_writer(struct store *s, struct tbl *t, struct rowid *who, uint32_t column, uint64_t hash, uint32_t origin, uint64_t version,
                 struct arena *arena);
/* A fact of ours, into the batch at hand. */
int unify_write(struct store *s, struct tbl *t, const struct rowid *a, uint64_t rank_a, const struct rowid *b, uint64_t rank_b,
                enum same_state state, uint64_t stamp);
/* A fact of others. */
int unify_merge(struct store *s, struct tbl *t, const struct change *c, const struct rowid *who, uint32_t origin, uint64_t version,
                const struct buf *before);
int unify_left(struct store *s, struct pending_row *p); /* the file does not show it any more */

/* ---- dead.c */
/* Which of those that the root stands for is changed by who changes what is shown: the root, or one that lives if it does not. In the arena. */
int dead_living(struct store *s, const struct tbl *t, const struct rowid *root, struct arena *arena, struct rowid *out);
/* Was this row deleted by somebody who had seen the write? Also where he deleted one that he knew to be the same. */
int dead_knowing(struct store *s, const struct tbl *t, const struct rowid *who, const struct write *w, bool *knew);
/* If others of the list live, and this one does not: what does not count for them is taken out of its register. */
int dead_strip(struct store *s, const struct tbl *t, const struct rowid *root, const struct rowid *list, uint32_t count,
               const struct rowid *member, struct reg *own);
/* Of a row that lives: what was written to one of them that is dead, and met its deletion. */
int dead_each_lost(struct store *s, const struct tbl *t, const struct rowid *root,
                   int (*call)(void *ctx, const struct reg *of, const struct cell *c, const struct death *d), void *ctx);
/* Of a row that is dead: had nobody who deleted it seen the write of this cell? */
int dead_written_unseen(struct store *s, const struct tbl *t, const struct rowid *root, const struct cell *c, const struct write *w,
                        bool *unseen);
/* Those that the last death took, the root first; in the arena. */
int dead_together(struct store *s, const struct tbl *t, const struct rowid *root, struct arena *arena, struct rowid **out, uint32_t *n);

/* ---- refs.c, rows.c */
bool rows_is_key(const struct tbl *t, uint32_t column);
int refs_find_said(struct store *s, const struct value *v, struct tbl **t, struct rowid *who); /* as refs_find(), whoever stands for it */
int rows_count_rest(struct store *s);                                                          /* the batch at hand is in the log */
int rows_death_seen(struct store *s, const struct death *d, uint64_t *versions); /* what its author had seen, by origin; 0 before */

/* ---- twice.c */
uint64_t twice_rank(const struct reg *r);

#endif
