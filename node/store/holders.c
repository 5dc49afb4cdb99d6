/* Who holds which UNIQUE value: REPLACE throws a row out through a second UNIQUE index, and no note tells of it. So the drain looks up here who held
 * the values of a row that was written, and looks at that one as well.
 *
 *   holder(tbl, h, k)   h: hash of the index and of the values that a living register has for it; k: the register's place
 *
 * It is a help, not the truth: it may name rows that are there, or hold other values by now, and it does not know of every row (collations,
 * expressions, partial indexes; values that a row had only within a transaction). What it misses is found by counting (scan.c), or by recheck.c.
 *
 * It is built in quiet moments, in parts by h, each sorted: in the order of the rows each insert would touch another page. */
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

#define PART_ROWS 100000 /* of an index, at once in memory */
#define SLICE_US 10000
#define LOOK_MAX 8 /* rows that one value may name */

struct unique_index {
    uint32_t count, *at; /* columns, in io's order */
    uint64_t seed;
};

struct entry { /* while a part is built */
    uint64_t h;
    size_t place; /* packed, in `places` */
};

struct holders {
    struct unique_index *indexes;
    uint32_t count;
    int64_t signature;
    bool kept, built; /* kept: each stored register is entered; built: so were those before */
    sqlite3_stmt *put, *del, *look;
    struct reg was;
    struct buf missing; /* places to be looked at when the drain has read all notes */
    /* building */
    uint32_t part, parts;
    bool began;
    struct buf last; /* the key that was read last */
    int64_t last_number;
    struct entry *entries;
    size_t entries_count, entries_cap;
    struct buf places;
};

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t null_hash(void) {
    struct value null = {.type = VALUE_NULL};
    return value_hash(&null);
}

/* ---- which indexes */

static int add_index(struct store *s, struct tio *io, const char *name) {
    struct holders *h = io->holders;
    sqlite3_stmt *q;
    struct unique_index x = {.seed = io->tbl->hash};
    bool plain = true;
    int row = sql_prepare(s->app.reader, &q, "SELECT cid, name, coll FROM pragma_index_xinfo(%Q, 'main') WHERE key ORDER BY seqno", name);
    if (row || !(x.at = calloc(io->count + 1, sizeof *x.at))) {
        sqlite3_finalize(q);
        return row ? row : ERR_NOMEM;
    }
    while ((row = sql_step(q)) == 1) {
        const char *column = (const char *)sqlite3_column_text(q, 1), *coll = (const char *)sqlite3_column_text(q, 2);
        uint32_t i = 0;
        while (column && i < io->count && sqlite3_stricmp(io->names[i], column) != 0)
            i++;
        plain = plain && column && i < io->count && x.count < io->count && coll && !sqlite3_stricmp(coll, "BINARY");
        if (!plain)
            break;
        x.at[x.count++] = i;
        x.seed = mix(x.seed ^ io->tbl->column_hashes[io->numbers[i]]);
    }
    sqlite3_finalize(q);
    struct unique_index *bigger = row < 0 || !plain || !x.count ? NULL : realloc(h->indexes, (h->count + 1) * sizeof *bigger);
    if (!bigger) {
        free(x.at);
        return row < 0 ? row : plain && x.count ? ERR_NOMEM : 0;
    }
    h->indexes = bigger;
    h->indexes[h->count++] = x;
    h->signature = (int64_t)(mix((uint64_t)h->signature ^ x.seed) >> 1);
    return 0;
}

int holders_load(struct store *s, struct tio *io) {
    sqlite3_stmt *q;
    int64_t built;
    if (!io->uniques)
        return 0;
    struct holders *h = io->holders = calloc(1, sizeof *h);
    if (!h)
        return ERR_NOMEM;
    reg_init(&h->was);
    buf_init(&h->missing, 64u << 20);
    buf_init(&h->last, 256u << 20);
    buf_init(&h->places, 256u << 20);
    int row = sql_prepare(s->app.reader, &q,
                          "SELECT name FROM pragma_index_list(%Q, 'main') WHERE \"unique\" AND origin<>'pk' AND NOT partial ORDER BY name",
                          io->table->name);
    while (!row && (row = sql_step(q)) == 1)
        row = add_index(s, io, (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    uint32_t no = io->tbl->no;
    if (row || (row = sql_prepare(s->db, &h->put, "INSERT OR IGNORE INTO holder VALUES(%u, ?2, ?1)", no)) ||
        (row = sql_prepare(s->db, &h->del, "DELETE FROM holder WHERE tbl=%u AND h=?2 AND k=?1", no)) ||
        (row = sql_prepare(s->db, &h->look, "SELECT k FROM holder WHERE tbl=%u AND h=?2 LIMIT %d", no, LOOK_MAX)) ||
        (row = sql_int(s->db, 0, &built, "SELECT v FROM meta WHERE k='holders %u'", no)))
        return row;
    h->kept = h->built = h->count && built == h->signature;
    return built && !h->built ? sql_exec(s->db, "DELETE FROM meta WHERE k='holders %u'", no) : 0;
}

void holders_unload(struct tio *io) {
    struct holders *h = io->holders;
    if (!h)
        return;
    for (uint32_t i = 0; i < h->count; i++)
        free(h->indexes[i].at);
    free(h->indexes);
    free(h->entries);
    sqlite3_finalize(h->put);
    sqlite3_finalize(h->del);
    sqlite3_finalize(h->look);
    reg_release(&h->was);
    buf_release(&h->missing);
    buf_release(&h->last);
    buf_release(&h->places);
    free(h);
    io->holders = NULL;
}

/* ---- hashes: 0, a NULL is in it, which is like no other */

static uint64_t hash_of_register(struct store *s, const struct tio *io, const struct unique_index *x, const struct reg *r) {
    struct origins_order o = store_order(s);
    uint64_t h = x->seed;
    if (!reg_known(r) || !reg_alive(r, &o))
        return 0;
    for (uint32_t i = 0; i < x->count; i++) {
        const struct cell *c = reg_winner(r, io->numbers[x->at[i]], &o);
        if (!c || c->hash == null_hash())
            return 0;
        h = mix(h ^ c->hash);
    }
    return h ? h : 1;
}

static uint64_t hash_of_row(const struct unique_index *x, const struct value *values) {
    uint64_t h = x->seed;
    for (uint32_t i = 0; i < x->count; i++) {
        if (values[x->at[i]].type == VALUE_NULL)
            return 0;
        h = mix(h ^ value_hash(&values[x->at[i]]));
    }
    return h ? h : 1;
}

/* ---- entering */

static int run_for(sqlite3_stmt *q, const struct rowid *place, uint64_t h) {
    if (place->text)
        sqlite3_bind_blob64(q, 1, place->key_len ? (const void *)place->key : "", place->key_len, SQLITE_STATIC);
    else
        sqlite3_bind_int64(q, 1, place->number);
    sqlite3_bind_int64(q, 2, (int64_t)h);
    return sql_run(q);
}

struct reg *holders_was(const struct tbl *t) {
    struct holders *h = t->io ? t->io->holders : NULL;
    return h && h->kept ? &h->was : NULL;
}

int holders_put(struct store *s, struct tbl *t, const struct rowid *place, const struct reg *was, const struct reg *now) {
    struct holders *h = t->io->holders;
    int err = 0;
    for (uint32_t i = 0; i < h->count && !err; i++) {
        uint64_t before = hash_of_register(s, t->io, &h->indexes[i], was);
        uint64_t after = now ? hash_of_register(s, t->io, &h->indexes[i], now) : 0;
        if (before == after)
            continue;
        if (before)
            err = run_for(h->del, place, before);
        if (!err && after)
            err = run_for(h->put, place, after);
    }
    return err;
}

/* ---- looking */

static int look_up(struct holders *h, uint64_t hash, const struct row_look *look) {
    int row, err = 0;
    sqlite3_bind_int64(h->look, 2, (int64_t)hash);
    while (!err && (row = sql_step(h->look)) != 0) {
        struct rowid place = {.text = tbl_is_text(look->io->tbl)};
        if (row < 0) {
            err = row;
            break;
        }
        if (place.text) {
            place.key = sqlite3_column_blob(h->look, 0);
            place.key_len = (size_t)sqlite3_column_bytes(h->look, 0);
        } else {
            place.number = sqlite3_column_int64(h->look, 0);
        }
        if (look->by_rowid || !rowid_same(&place, &look->place))
            err = rowid_pack(&place, &h->missing);
    }
    sqlite3_reset(h->look);
    return err;
}

int holders_note(const struct row_look *look) {
    struct holders *h = look->io->holders;
    int err = 0;
    if (!h || !h->built || !look->present)
        return 0;
    for (uint32_t i = 0; i < h->count && !err; i++) {
        uint64_t hash = hash_of_row(&h->indexes[i], look->values);
        err = hash ? look_up(h, hash, look) : 0;
    }
    return err;
}

int holders_look(struct store *s) {
    int err = 0;
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        if (!io->tbl || !io->holders || !io->holders->missing.len)
            continue;
        bool whole = io->tbl->captured || (io->tbl->placed > 0 && !io->tbl->remade); /* else half of it may be copied */
        if (whole && !io->tbl->lost)
            err = replaced_delete(s, io, &io->holders->missing);
        buf_clear(&io->holders->missing);
    }
    return err;
}

/* ---- building */

static int entry_cmp(const void *x, const void *y) {
    const struct entry *a = x, *b = y;
    return (int64_t)a->h < (int64_t)b->h ? -1 : (int64_t)a->h > (int64_t)b->h;
}

static int gather_row(struct store *s, struct tio *io, sqlite3_stmt *q) {
    struct holders *h = io->holders;
    struct rowid place = {.text = tbl_is_text(io->tbl)};
    buf_clear(&h->last);
    if (place.text)
        buf_append(&h->last, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
    else
        h->last_number = place.number = sqlite3_column_int64(q, 0);
    place.key = h->last.data;
    place.key_len = h->last.len;
    h->began = true;
    int err = reg_decode(&h->was, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1));
    for (uint32_t i = 0; i < h->count && !err; i++) {
        uint64_t hash = hash_of_register(s, io, &h->indexes[i], &h->was);
        if (!hash || (hash >> 32) * h->parts >> 32 != h->part)
            continue;
        if (h->entries_count == h->entries_cap) {
            size_t cap = h->entries_cap ? h->entries_cap * 2 : 1024;
            struct entry *p = realloc(h->entries, cap * sizeof *p);
            if (!p)
                return ERR_NOMEM;
            h->entries = p;
            h->entries_cap = cap;
        }
        h->entries[h->entries_count++] = (struct entry){hash, h->places.len};
        err = rowid_pack(&place, &h->places);
    }
    return err ? err : h->last.failed;
}

/* 1: all registers were read for the part at hand. */
static int gather(struct store *s, struct tio *io) {
    struct holders *h = io->holders;
    int64_t until = store_mono_us() + SLICE_US;
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u%s ORDER BY k", io->tbl->no, h->began ? " WHERE k > ?" : ""), err = 0, n = 0;
    if (row)
        return row;
    if (h->began && tbl_is_text(io->tbl))
        sqlite3_bind_blob64(q, 1, h->last.len ? (const void *)h->last.data : "", h->last.len, SQLITE_TRANSIENT);
    else if (h->began)
        sqlite3_bind_int64(q, 1, h->last_number);
    while (!err && (row = sql_step(q)) == 1) {
        err = gather_row(s, io, q);
        if (++n % 64 == 0 && store_mono_us() > until)
            break;
    }
    sqlite3_finalize(q);
    return err ? err : row < 0 ? row : row == 0;
}

static int enter_part(struct holders *h) {
    int err = 0;
    if (h->entries_count)
        qsort(h->entries, h->entries_count, sizeof *h->entries, entry_cmp);
    for (size_t i = 0; i < h->entries_count && !err; i++) {
        struct rowid place;
        const uint8_t *at = h->places.data + h->entries[i].place, *end = h->places.data + h->places.len;
        if (!(err = rowid_unpack(&place, &at, end)))
            err = run_for(h->put, &place, h->entries[i].h);
    }
    h->entries_count = 0;
    buf_clear(&h->places);
    h->began = false;
    h->part++;
    return err;
}

static bool wanted(const struct tio *io) {
    return io->tbl && io->holders && io->holders->count && !io->holders->built && io->tbl->captured && io->tbl->rows > 0;
}

bool holders_due(const struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (wanted(&s->tios[i]))
            return true;
    return false;
}

static int build(struct store *s, struct tio *io) {
    struct holders *h = io->holders;
    int err = h->kept ? gather(s, io) : 1;
    if (err != 1 || (err = state_begin(s)))
        return err;
    if (!h->kept) { /* from now on; what an earlier one left goes */
        h->kept = true;
        h->part = 0;
        h->parts = 1 + (uint32_t)((uint64_t)io->tbl->rows * h->count / PART_ROWS);
        return sql_exec(s->db, "DELETE FROM holder WHERE tbl=%u", io->tbl->no);
    }
    if ((err = enter_part(h)) || h->part < h->parts)
        return err;
    h->built = true;
    return sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('holders %u', %lld)", io->tbl->no, (long long)h->signature);
}

int holders_build(struct store *s) {
    if (s->scan || s->schema_stale || s->held_since_ms || s->flights || s->delivered_count)
        return 0;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (wanted(&s->tios[i]))
            return build(s, &s->tios[i]);
    return 0;
}
