/* Starling store: how a table's rows are known where it has no key (keyless.c), another one than before (rekeyed.c), or one that is a reference. */
#ifndef NODE_STORE_KEYED_H
#define NODE_STORE_KEYED_H

#include "node/store/engine.h"

/* ---- keyless.c: tables without a key */
struct row_look;
/* The kind of a table's key, as an author told last (follow.c); -1: nothing was. */
int follow_kind(struct store *s, uint32_t origin, const char *table, size_t len, int *kind);
/* The kind of key by which this row of an author's table is known. */
int keyless_shape(struct store *s, const char *table, size_t len, const struct rowid *who, uint32_t origin, enum shape *shape);
#define KEYLESS_NAME_BYTES 16
#define KEYLESS_KEY_BYTES 21                                                     /* a name as a normalised key */
int keyless_name(struct tio *io, int64_t rowid, uint8_t key[KEYLESS_KEY_BYTES]); /* 1 found, 0 not */
int keyless_rowid(struct tio *io, const struct rowid *who, int64_t *rowid);      /* the same */
int keyless_reserve(struct store *s, struct tio *io, const struct rowid *who, int64_t *rowid, bool *made);
int keyless_load(struct store *s, struct tio *io);
void keyless_unload(struct tio *io);
int keyless_drain(struct store *s, struct row_look *look); /* drain_row() for a look by rowid */
/* The name of a row that was this one of another table, which had a key; and a name that is known by such a row from now on. */
int keyless_name_of_key(struct store *s, const struct tbl *t, const struct tbl *of, const struct rowid *was,
                        uint8_t out[KEYLESS_KEY_BYTES]);
int keyless_note_kin(struct store *s, const struct tbl *t, const struct rowid *name, const struct tbl *of, const struct rowid *who);
int keyless_note_row(struct store *s, const struct row_look *look, bool first);
/* After every row was noted (none: there is not one). lacking: what the file lacks is no deletion. notes_hold: the rowids are as they were, and the
 * notes that are not drained yet say what they say. */
int keyless_settle(struct store *s, struct tio *io, bool adopt, bool none, bool lacking, bool *notes_hold);
int keyless_find_again(struct store *s, struct tio *io, bool other);
int keyless_withdraw(
    struct store *s); /* in a quiet moment: rows that came twice, since our state was lost; may begin the state's transaction */

int tables_keeps_key(struct store *s, struct tio *io, const struct rowid *who); /* tables.c; 1: no column of it would store it otherwise */

/* ---- keyrefs.c: keys with references in them */
/* The key of the row that the file showed under these key columns until the note `seq`. 1: it did; 0: none; then it is the key that they mean. */
int keyrefs_shown(struct store *s, struct tio *io, const struct value *values, int64_t seq, struct buf *out);
int keyrefs_here(struct tio *io, const struct value *values, struct buf *out); /* now; of any key of columns */
int keyrefs_meet(struct store *s, struct row_look *look); /* a noted row: who was there before it is gone, or is there and it is not */

/* ---- rekeyed.c: a table that has a key of another kind now */
int rekeyed_note(struct store *s, const struct tio *io);                 /* what its key is, for when it will be another one */
int rekeyed_unlike(struct store *s, const struct tio *io, bool *unlike); /* its key is of as many other columns now */
int rekeyed_begin(struct store *s, struct tio *io);                      /* a table that came: was it this one? */
void rekeyed_unload(struct tio *io);
bool rekeyed_was_key(const struct tio *io, const char *column); /* the one that numbered its rows */
void rekeyed_again(const struct tio *io);
int rekeyed_source(struct store *s, const struct row_look *look); /* what the row was: into s->source */
void rekeyed_identity(struct store *s, const struct row_look *look, const uint64_t *hashes, struct rowid *who);
int rekeyed_number(struct store *s, const struct row_look *look, struct reg *r); /* after drain_new_identity(): under which number it is */
int rekeyed_deaths(struct store *s, struct tio *io);                             /* carried_deaths() */

/* ---- clash.c: rows that are known as the one that their key refers to */
/* That one is dead. 0: the row r was left behind knowingly; above 0: a mend is planned. */
int foreign_named_gone(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r);

#endif
