/* Starling store: the notes of one drain, read and put in order. Shared by notes.c and drain.c. */
#ifndef NODE_STORE_NOTES_H
#define NODE_STORE_NOTES_H

#include "node/store/engine.h"

#define DRAIN_NOTES_MAX 50000
#define NOTE_ARRIVED 100 /* an UPDATE directly behind the MOVED of the same row: it came under this key from another */

struct note {
    struct tio *io;
    int64_t seq, ms, number;
    double at;                /* as noted: the same for all notes of one statement */
    uint32_t key_at, key_len; /* in `keys`, for keys that are not one integer */
    uint8_t kind;
};

struct notes {
    struct note *list;
    uint32_t count, cap;
    struct buf keys;
    int64_t last_seq, last_nonce, earliest_ms;
    bool more;
    bool coming; /* the key at hand is that of a row which came */
};

/* The notes beyond our mark. 0, DRAIN_RESCAN, ERR_SCHEMA, or an error. */
int notes_read(struct store *s, struct notes *n, bool locked);
/* Those of one row together, in their order; tables that others refer to first. In the transaction of the state. */
int notes_sort(struct store *s, struct notes *n, bool locked);
/* Adds those of rows that came into a table before its triggers were back, where those at hand tell of them, or refer to them (rebuilt.c). */
int rebuilt_note(struct store *s, struct notes *n, bool locked, bool *any);
bool notes_same_row(const struct notes *n, const struct note *a, const struct note *b);
void notes_look(const struct notes *n, uint32_t from, uint32_t to, struct row_look *look); /* what the notes of one row say */

#endif
