/* The log, and the value of a write found again in it. Registers keep hashes only: the value that a sibling, a dead row or a change
 * that could not be shown at once had is in the batch that brought it. A few batches are kept decoded, since rows that are looked up
 * together were mostly written together. */
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

#define CACHED_BATCHES 3

struct known_value {
    uint32_t column;
    struct value value;
};

struct known_row {
    UT_hash_handle hh;
    struct known_row *more; /* another change of the same row in this batch: other columns, or the same with another stamp */
    bool orphan;
    uint32_t count;
    struct known_value *values;
    uint32_t name_len;
    uint8_t name[];
};

struct cached_batch {
    uint32_t origin;
    uint64_t version, used;
    struct bytes *bytes;
    struct batch_reader *reader;
    struct arena arena;
    struct known_row *rows;
};

struct value_cache {
    struct cached_batch batches[CACHED_BATCHES];
    uint64_t clock;
};

/* A row of the log: 24 bits of origin, 40 bits of version: one origin's batches are neighbours. */
static int64_t log_id(uint32_t origin, uint64_t version) { return (int64_t)((uint64_t)origin << 40 | version); }

int log_write(struct store *s, uint32_t origin, uint64_t version, const struct bytes *b) {
    sqlite3_bind_int64(s->s_log_put, 1, log_id(origin, version));
    sqlite3_bind_blob64(s->s_log_put, 2, b->data, b->len, SQLITE_STATIC);
    return sql_run(s->s_log_put);
}

int log_replace(struct store *s, uint32_t origin, uint64_t version, const struct bytes *b) {
    sqlite3_stmt *put;
    int err = sql_prepare(s->db, &put, "UPDATE log SET b=? WHERE id=%lld", (long long)log_id(origin, version));
    if (!err) {
        sqlite3_bind_blob64(put, 1, b->data, b->len, SQLITE_STATIC);
        err = sql_run(put);
    }
    sqlite3_finalize(put);
    return err;
}

int log_read(struct store *s, uint32_t origin, uint64_t version, struct bytes **out) {
    *out = NULL;
    sqlite3_bind_int64(s->s_log_get, 1, log_id(origin, version));
    int row = sql_step(s->s_log_get);
    if (row < 0)
        return row;
    if (row)
        *out = bytes_new(sqlite3_column_blob(s->s_log_get, 0), (size_t)sqlite3_column_bytes(s->s_log_get, 0));
    sqlite3_reset(s->s_log_get);
    return !row ? ERR_NOTFOUND : *out ? 0 : ERR_NOMEM;
}

static void cached_release(struct cached_batch *c) {
    HASH_CLEAR(hh, c->rows); /* the rows themselves are in the arena */
    arena_release(&c->arena);
    batch_reader_free(c->reader);
    bytes_unref(c->bytes);
    memset(c, 0, sizeof *c);
}

void values_release(struct store *s) {
    if (!s->values)
        return;
    for (unsigned i = 0; i < CACHED_BATCHES; i++)
        cached_release(&s->values->batches[i]);
    free(s->values);
    s->values = NULL;
}

static int cache_change(struct store *s, struct cached_batch *c, const struct change *change) {
    struct tbl *t;
    struct rowid who;
    enum shape shape;
    int err = merge_rowid(s, change, &who);
    if (err || (err = keyless_shape(s, change->table, change->table_len, &who, c->origin, &shape)) ||
        (err = state_table(s, change->table, change->table_len, shape, &t)))
        return err;
    buf_clear(&s->key);
    if ((err = rowid_name(t, &who, &s->key)))
        return err;
    struct known_row *row = arena_alloc(&c->arena, sizeof *row + s->key.len);
    if (!row || !(row->values = arena_alloc(&c->arena, (change->columns_count + 1) * sizeof *row->values)))
        return ERR_NOMEM;
    memcpy(row->name, s->key.data, s->key.len);
    row->name_len = (uint32_t)s->key.len;
    row->orphan = change->orphan;
    row->count = change->columns_count;
    for (uint32_t i = 0; i < change->columns_count; i++) {
        if ((err = state_column(s, t, change->columns[i], change->columns_len[i], &row->values[i].column)))
            return err;
        row->values[i].value = change->values[i];
    }
    struct known_row *first;
    HASH_FIND(hh, c->rows, row->name, row->name_len, first);
    row->more = first ? first->more : NULL;
    if (first)
        first->more = row;
    else
        HASH_ADD(hh, c->rows, name, row->name_len, row);
    return 0;
}

static int cache_load(struct store *s, struct cached_batch *c, uint32_t origin, uint64_t version) {
    int err = log_read(s, origin, version, &c->bytes);
    if (err)
        return err;
    c->origin = origin;
    c->version = version;
    if (!(c->reader = batch_reader_new()))
        return ERR_NOMEM;
    if ((err = batch_reader_open(c->reader, c->bytes->data, c->bytes->len)))
        return err;
    struct change change;
    while ((err = batch_reader_next(c->reader, &change)) == 1)
        if (change.kind != CHANGE_SAME && (change.columns_count || change.orphan) && (err = cache_change(s, c, &change)))
            return err;
    return err;
}

static int find_row(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, struct known_row **row) {
    if (!s->values && !(s->values = calloc(1, sizeof *s->values)))
        return ERR_NOMEM;
    struct cached_batch *c = NULL, *oldest = &s->values->batches[0];
    for (unsigned i = 0; i < CACHED_BATCHES; i++) {
        struct cached_batch *b = &s->values->batches[i];
        if (b->bytes && b->origin == origin && b->version == version)
            c = b;
        if (b->used < oldest->used)
            oldest = b;
    }
    if (!c) {
        cached_release(oldest);
        int err = cache_load(s, oldest, origin, version);
        if (err) {
            cached_release(oldest);
            return err;
        }
        c = oldest;
    }
    c->used = ++s->values->clock;
    buf_clear(&s->key);
    int err = rowid_name(t, who, &s->key);
    if (err)
        return err;
    HASH_FIND(hh, c->rows, s->key.data, s->key.len, *row);
    return 0;
}

int values_told(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, uint32_t column, uint64_t hash,
                struct value *v) {
    struct known_row *row;
    struct arena arena = {0};
    struct rowid writer = *who;
    int err = same_any(s) ? unify_writer(s, t, &writer, column, hash, origin, version, &arena) : 0;
    if (!err)
        err = find_row(s, origin, version, t, &writer, &row);
    arena_release(&arena);
    for (; !err && row; row = row->more)
        for (uint32_t i = 0; i < row->count; i++)
            if (row->values[i].column == column) {
                *v = row->values[i].value;
                return 0;
            }
    return err ? err : ERR_NOTFOUND;
}

int values_find(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, uint32_t column, uint64_t hash,
                struct value *v) {
    int err = values_told(s, origin, version, t, who, column, hash, v);
    err = err ? err : refs_show(s, v, 1);
    return err < 0 ? err : 0;
}

int values_orphan(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, bool *orphan) {
    struct known_row *row;
    struct arena arena = {0};
    struct rowid *list;
    uint32_t count;
    int err = same_members(s, t, who, &arena, &list, &count);
    *orphan = false;
    for (uint32_t i = 0; i < count && !err; i++)
        for (err = find_row(s, origin, version, t, &list[i], &row); !err && row; row = row->more)
            *orphan |= row->orphan;
    arena_release(&arena);
    return err == ERR_NOTFOUND ? 0 : err;
}
