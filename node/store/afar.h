/* Starling store: references to rows of another database of this server, which `refs` in the configuration names ("scout_id -> users.db/user.id"). Each
 * database has a store of its own, and these share nothing; so who is referred to tells who has which number (roster.c), and who refers keeps that
 * (afar.c). A message that is lost is told again: whoever opens asks for all of it. */
#ifndef NODE_STORE_AFAR_H
#define NODE_STORE_AFAR_H

#include "node/store/engine.h"

/* What one row of a roster says, one behind the other: head, and as many bytes of the identity (value_ref_pack(), the table's name left out). */
enum roster_state {
    ROSTER_GONE,
    ROSTER_LIVES,
    ROSTER_STANDS_BEHIND, /* another row stands for it, and has that number */
    ROSTER_WAITS,         /* lives, and is to get a number here */
    ROSTER_VANISHED,      /* not told: all that was told later does not have it */
    ROSTER_STATES
};
struct roster_row {
    int64_t number;
    uint64_t birth; /* a stamp */
    uint8_t state, len;
    uint8_t ours; /* it was entered on this server */
};

/* ---- roster.c: who of ours has which number */
int roster_tell(struct store *s);                                                 /* at the end of a turn */
void roster_touch(struct store *s, const struct tbl *t, const struct rowid *who); /* its register was written */
void roster_release(struct store *s);

/* ---- afar.c: who of theirs has which number */
struct afar;
int afar_get(struct store *s, const struct policy_ref *ref, struct afar **out); /* asks for it, too */
bool afar_none(const struct store *s, const struct policy_ref *ref);            /* there is no such table */
bool afar_awaited(struct store *s);                                             /* who has which number was asked and not told yet */
bool afar_due(const struct store *s);                                           /* something was told that the rows here do not show yet */
int afar_learn(struct store *s);  /* for a first capture, which waits for it: what was told, into the state */
int afar_settle(struct store *s); /* what was told, into the rows here, with every note drained */
/* 1: whom the number means, written by a request at `ms` (negative: now): *v is a reference now; 0: nobody that is known. */
int afar_tell(struct store *s, struct afar *a, int64_t ms, struct value *v, uint8_t bytes[VALUE_REF_BORN_BYTES]);
bool afar_number(const struct store *s, const struct value *v, int64_t *number); /* of a VALUE_REF; false: to no such row */
void afar_release(struct store *s);

#endif
