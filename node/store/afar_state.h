/* Starling store: what afar.c, before.c and referrers.c share: one table of another database, and which of its rows has which number. */
#ifndef NODE_STORE_AFAR_STATE_H
#define NODE_STORE_AFAR_STATE_H

#include "node/store/afar.h"

struct afar_row {
    UT_hash_handle hh, by_number, by_birth;
    struct afar_row *next_due;
    struct afar_row *below;    /* had the number before, and was not told to have left it */
    int64_t number, was, born; /* today; before it moved; at first */
    uint64_t birth;
    uint8_t state, len;
    bool placed;       /* in by_number, or below the one that is */
    bool adopted;      /* in by_birth: it was there before us, on this server */
    bool due, has_was; /* `was`: the rows here may still show it so */
    bool listed;
    bool over;                         /* it was gone, and that was shown, before this run */
    uint8_t ref[VALUE_REF_BORN_BYTES]; /* hash key; of the table named as we name it */
};

struct afar_moved { /* as in outdated.c */
    struct afar_moved *next;
    struct afar_row *row;
    int64_t number, ms;
};

struct afar {
    struct afar *next;
    char *name; /* "db/table.column" */
    uint64_t hash;
    bool asked, none, complete;
    bool unheard;     /* the file was read before it was told: what refers there was told as numbers */
    bool fresh;       /* its database was taken up no earlier than this one: both files show the numbers of that time */
    bool behind;      /* a message is missing: nothing counts until all is told again */
    bool missed;      /* and that is to be asked for */
    uint64_t seq;     /* of the message that comes next */
    int64_t asked_ms; /* or was heard of */
    struct afar_row *rows, *numbers, *births, *due;
    struct afar_moved *moved;
    struct afar_row *meant; /* by the reference that is told anew at hand */
    bool looked;            /* rows that wait to be shown were looked at for what is due */
    bool recalls;           /* before.c knows what its numbers meant */
    sqlite3_stmt *put, *drop, *before;
};

/* In the state, column `due`. */
#define AFAR_DUE 1
#define AFAR_BELOW 2 /* another one came to its number */

/* ---- afar.c */
struct afar_row *afar_holder(const struct afar *a, int64_t number);                 /* who has it; NULL: nobody that is known */
struct afar_row *afar_by_ref(const struct afar *a, const void *ref, size_t len);    /* NULL: unknown */
struct afar_row *afar_by_birth(const struct afar *a, int64_t number);               /* whose first number here it was */
const struct afar_row *afar_of_value(const struct store *s, const struct value *v); /* NULL: it is no reference to a row that is known */
void afar_make_due(struct afar *a, struct afar_row *r);
int afar_keep(const struct afar *a, const struct afar_row *r); /* in the state's transaction */

/* ---- before.c: what the numbers in a file mean that is taken up, for the first time or anew */
int before_begin(struct store *s, struct afar *a); /* all of it was told: what is not known from before is so from now on */
int before_means(const struct afar *a, int64_t number, struct afar_row **r); /* 1: it is known; *r NULL: to mean nobody of today */
int before_over(struct store *s);                                            /* the file was read */

/* ---- referrers.c */
int referrers_settle(struct store *s, struct afar *a, bool *wrote); /* what is due, into the rows here */

/* ---- aside.c */
/* The state that was set aside from here and has this id; *out NULL: there is none. */
int aside_find(const char *state_path, const char *vfs, const uint8_t id[16], sqlite3 **out);

/* ---- renumber.c */
/* Rows of the file that refer to others: `first`, then the key of each row c; `rest` has a place for the name of the column `at`. */
int renumber_select(sqlite3 *db, const struct tio *io, const char *first, const char *rest, uint32_t at, sqlite3_stmt **q);
/* Where the row at hand of that has its register: read into s->reg2; bytes in `name`. 1; 0: it has none. */
int renumber_register_at(struct store *s, struct tio *io, sqlite3_stmt *q, struct value key[16], struct buf *name);

#endif
