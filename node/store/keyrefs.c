/* Keys of several columns that refer to numbered rows: which row does the file show under these numbers? The one that they mean today, as a rule. But
 * where a row was left behind when the one that it refers to went (the application does not enforce its foreign keys), and another has got that number
 * since, it is still the row that it was, until it is deleted or written over. */
#include <stdlib.h>
#include <string.h>

#include "node/store/first_name.h"
#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

struct search {
    struct store *s;
    struct tio *io;
    const struct value *values; /* as the file has them */
    struct value told[16];
    uint8_t bytes[16][VALUE_REF_BORN_BYTES];
    struct buf *out;
};

static int is_shown(struct store *s, const struct tbl *t, const struct buf *key) {
    const struct rowid place = {.kind = IDENT_GIVEN, .text = true, .key = key->data, .key_len = key->len};
    struct origins_order o = store_order(s);
    int err = rows_at_home(s, t, &place, &s->meant);
    if (err || !reg_known(&s->meant))
        return err;
    const struct pending_row *p = pending_find(s, t, &place);
    return p ? p->present : reg_alive(&s->meant, &o) && !same_is_junior(s, t, &place);
}

static int look_with(struct search *f, uint32_t column);

/* As a row that had the number once: it may have another one now. */
static int look_as(struct search *f, uint32_t column, const struct rowid *who) {
    struct tbl *to = f->io->ref_to[column];
    size_t len = 0;
    if (numbers_in_file(f->s, to, who) != f->values[column].as.i || !(len = first_name_pack(f->s, to, who, f->bytes[column])))
        return 0;
    f->told[column] = (struct value){.type = VALUE_REF, .p = f->bytes[column], .len = len};
    return look_with(f, column + 1);
}

/* Those that have left it: known by their number at birth. */
static int look_at_lives(struct search *f, uint32_t column, uint8_t kind) {
    struct rowid from = {.kind = kind, .number = f->values[column].as.i}, who;
    uint8_t last[32];
    struct buf first;
    sqlite3_stmt *q = NULL;
    buf_init(&first, sizeof last);
    memset(last, 0xff, sizeof last);
    int row = rowid_pack(&from, &first);
    first.len = 1 + sizeof from.number; /* behind kind and number comes what tells the lives apart */
    memcpy(last, first.data, row ? 0 : first.len);
    if (!row &&
        !(row = sql_prepare(f->s->db, &q, "SELECT who FROM extra WHERE tbl=%u AND who BETWEEN ? AND ?", f->io->ref_to[column]->no))) {
        sqlite3_bind_blob64(q, 1, first.data, first.len, SQLITE_STATIC);
        sqlite3_bind_blob64(q, 2, last, sizeof last, SQLITE_STATIC);
    }
    while (!row && (row = sql_step(q)) == 1) {
        const uint8_t *at = sqlite3_column_blob(q, 0);
        if (!(row = rowid_unpack(&who, &at, at + sqlite3_column_bytes(q, 0))))
            row = look_as(f, column, &who);
    }
    sqlite3_finalize(q);
    buf_release(&first);
    return row;
}

static int look_with(struct search *f, uint32_t column) {
    const struct table *t = f->io->table;
    if (column == t->key_count) {
        buf_clear(f->out);
        for (uint32_t i = 0; i < column; i++)
            tables_put_key_value(f->out, &f->told[i], t->columns[t->key[i]].collation);
        return f->out->failed ? f->out->failed : is_shown(f->s, f->io->tbl, f->out);
    }
    struct tbl *to = f->values[column].type == VALUE_INT ? f->io->ref_to[column] : NULL;
    const struct rowid place = {.kind = IDENT_GIVEN, .number = f->values[column].as.i};
    int found = 0;
    if (to && !(found = rows_at_home(f->s, to, &place, &f->s->meant)) && reg_known(&f->s->meant)) {
        struct rowid who = f->s->meant.who; /* the drain at hand may have another one there */
        found = look_as(f, column, &who);
    }
    if (!found) {
        f->told[column] = f->values[column]; /* a given key; of a row that nobody knows; or no reference */
        found = look_with(f, column + 1);
    }
    if (to && to->extras && !found && !(found = look_at_lives(f, column, IDENT_BORN)))
        found = look_at_lives(f, column, IDENT_ADOPTED);
    return found;
}

int keyrefs_shown(struct store *s, struct tio *io, const struct value *values, int64_t seq, struct buf *out) {
    struct search f = {.s = s, .io = io, .values = values, .out = out};
    int found = refs_key(s, io, values, seq, 0, out);
    if (found || (found = is_shown(s, io->tbl, out)) || (found = look_with(&f, 0)))
        return found;
    return refs_key(s, io, values, seq, 0, out);
}

int keyrefs_here(struct tio *io, const struct value *values, struct buf *out) {
    int found = io->key_refs ? keyrefs_shown(io->store, io, values, INT64_MAX, out) : tables_key_plain(io, values, out);
    return found < 0 ? found : 0;
}

int keyrefs_meet(struct store *s, struct row_look *look) {
    struct row_look gone = {
        .io = look->io, .place = {.kind = IDENT_GIVEN, .text = true}, .locked = look->locked, .noted = true, .died = true, .ms = look->ms};
    struct buf key;
    if (!look->io->key_refs || !look->present)
        return 0;
    buf_init(&key, 1 << 20);
    int found = keyrefs_shown(s, look->io, look->values, INT64_MAX, &key);
    gone.place.key = key.data;
    gone.place.key_len = key.len;
    bool other = found == 1 && !rowid_same(&gone.place, &look->place);
    if (other && look->born)
        found = drain_row(s, &gone);
    else if (other)
        look->present = false;
    buf_release(&key);
    return found < 0 ? found : 0;
}
