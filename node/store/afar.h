/* Starling store: references to rows of another database of this server, which `refs` in the configuration names ("scout_id -> users.db/user.id"). Each
 * database has a store of its own, and these share nothing; so who is referred to tells who has which number (roster.c), and who refers keeps that
 * (afar.c). A message that is lost is told again: whoever opens asks for all of it. */
#ifndef NODE_STORE_AFAR_H
#define NODE_STORE_AFAR_H

#include "node/store/engine.h"

/* A message of a roster begins so. */
struct roster_head {
    uint64_t seq;       /* one more than that of the message before */
    int64_t adopted_ms; /* when the rows were there first; 0: not known */
};

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
int afar_unheard(struct store *s);                                              /* a first capture goes on without being told */
int afar_wait_ms(struct store *s);    /* until there is something to do about it; INT_MAX: until something is told */
bool afar_due(const struct store *s); /* something was told that the rows here do not show yet */
int afar_learn(struct store *s);      /* for a first capture, which waits for it: what was told, into the state */
int afar_settle(struct store *s);     /* what was told, into the rows here, with every note drained */
/* A number that a file shows which is taken up is today's number of the row that it means. */
int afar_today(struct store *s, const struct tio *io, uint32_t at, struct value *v);
/* 1: whom the number means, written by a request at `ms` (negative: now): *v is a reference now; 0: nobody that is known. */
int afar_tell(struct store *s, struct afar *a, int64_t ms, struct value *v, uint8_t bytes[VALUE_REF_BORN_BYTES]);
bool afar_number(const struct store *s, const struct value *v, int64_t *number); /* of a VALUE_REF; false: to no such row */
void afar_pass(struct store *s, int64_t ms);                                     /* for tests: as if so much time had passed */
void afar_release(struct store *s);

/* ---- before.c */
int before_recall(struct store *s); /* while opening, before our triggers are made: what the state knew that served the file until now */

#endif
