/* Tables without a key: a multiset of rows, each with a name of its own.
 *
 * SQLite knows such a row by its rowid, which is nobody's elsewhere, and which VACUUM changes. So each row gets a name, 16 bytes, when it is first
 * seen, and to all the rest of the store the name is its key: registers, batches and merging know nothing of rowids. Only where the application's
 * file is touched the name becomes a rowid: the table `place` in our state says which, here.
 *
 *   place(tbl, r, k)   the file's row r is the one named k (a normalised key); also of dead rows, until another takes the rowid
 *
 * A row that is inserted is another row, whatever it holds and whatever rowid it has: two servers that insert equal rows have two. Rows that were
 * there before us are named by content and a count among equals, so that two copies of one database agree.
 *
 * After any change of the schema, since VACUUM shows as one, the rows are found again by content: equal rows in the order of their rowids, as VACUUM
 * leaves it. What finds no partner is an insert or a deletion; where nothing has moved, a row of the same rowid is one that was updated.
 *
 * The rowid of a row that is shown here is durable in our state before the application's COMMIT: after a crash nobody would know whose row it is. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/carried.h"
#include "node/store/keyed.h"
#include "proto/err.h"

/* ---- whose key is it */

static bool may_be_name(const struct rowid *who) {
    struct value v;
    return who->text && who->key_len == KEYLESS_KEY_BYTES && tables_key_values(who, &v, 1) == 1 && v.type == VALUE_BLOB;
}

/* A name, or a key of one column that holds BLOBs of that length. Nobody makes up the same twice, so a row that is known is the one; of a row that
 * comes its author's schema says it, which is told before, or with, the first row of a table. */
int keyless_shape(struct store *s, const char *table, size_t len, const struct rowid *who, uint32_t origin, enum shape *shape) {
    int kind;
    *shape = state_shape_of(who);
    if (!may_be_name(who))
        return 0;
    const struct tbl *keyed = state_find_table(s, table, len, SHAPE_KEY), *named = state_find_table(s, table, len, SHAPE_NAMES);
    if (keyed && named && keyed != named) {
        const struct tbl *both[2] = {named, keyed};
        bool known = false;
        struct reg r;
        int err = 0;
        reg_init(&r);
        for (int i = 0; i < 2 && !err && !known; i++)
            if (!(err = rows_at_home(s, both[i], who, &r)) && (known = reg_known(&r)))
                *shape = both[i]->shape;
        reg_release(&r);
        if (err || known)
            return err;
    }
    int err = follow_kind(s, origin, table, len, &kind);
    bool here = named && named->shape == SHAPE_NAMES && (named->io || !keyed);
    if (kind == KEY_ROWID || (kind < 0 && (here || !keyed || keyed->shape != SHAPE_KEY)))
        *shape = SHAPE_NAMES;
    return err;
}

/* ---- places */

static void put_key(uint8_t key[KEYLESS_KEY_BYTES], const uint8_t name[KEYLESS_NAME_BYTES]) {
    struct buf b;
    struct value v = {.type = VALUE_BLOB, .p = name, .len = KEYLESS_NAME_BYTES};
    buf_init(&b, 64);
    tables_put_key_value(&b, &v, COLLATION_BINARY);
    memcpy(key, b.data, KEYLESS_KEY_BYTES);
    buf_release(&b);
}

int keyless_name(struct tio *io, int64_t rowid, uint8_t key[KEYLESS_KEY_BYTES]) {
    sqlite3_bind_int64(io->name_of, 1, rowid);
    int row = sql_step(io->name_of);
    if (row == 1 && sqlite3_column_bytes(io->name_of, 0) != KEYLESS_KEY_BYTES)
        row = ERR_CORRUPT;
    if (row == 1)
        memcpy(key, sqlite3_column_blob(io->name_of, 0), KEYLESS_KEY_BYTES);
    sqlite3_reset(io->name_of);
    return row;
}

int keyless_rowid(struct tio *io, const struct rowid *who, int64_t *rowid) {
    if (!who->text)
        return 0;
    sqlite3_bind_blob64(io->place_of, 1, who->key, who->key_len, SQLITE_STATIC);
    int row = sql_step(io->place_of);
    if (row == 1)
        *rowid = sqlite3_column_int64(io->place_of, 0);
    sqlite3_reset(io->place_of);
    return row;
}

static int put_place(struct tio *io, int64_t rowid, const void *key, size_t len) {
    sqlite3_bind_int64(io->put_place, 1, rowid);
    sqlite3_bind_blob64(io->put_place, 2, key, len, SQLITE_STATIC);
    return sql_run(io->put_place);
}

static struct rowid named(const uint8_t *key) {
    return (struct rowid){.kind = IDENT_GIVEN, .text = true, .key = key, .key_len = KEYLESS_KEY_BYTES};
}

/* In the state's transaction. *made: a new place, to be durable before the file's COMMIT. */
int keyless_reserve(struct store *s, struct tio *io, const struct rowid *who, int64_t *rowid, bool *made) {
    int row = keyless_rowid(io, who, rowid);
    *made = row == 0;
    if (row)
        return row < 0 ? row : 0;
    int64_t here = 0, known = 0;
    int err = state_begin(s);
    if (!err && !io->next_rowid) {
        err = sql_int(s->app.writer, 0, &here, "SELECT max(%s) FROM main.\"%w\"", io->table->rowid, io->table->name);
        if (!err)
            err = sql_int(s->db, 0, &known, "SELECT max(r) FROM place WHERE tbl=%u", io->tbl->no);
        here = here > known ? here : known;
        if (!err && here == INT64_MAX)
            return ERR_CONSTRAINT;
        io->next_rowid = here < 0 ? 1 : here + 1;
    }
    if (err || io->next_rowid == INT64_MAX)
        return err ? err : ERR_CONSTRAINT;
    *rowid = io->next_rowid++;
    return put_place(io, *rowid, who->key, who->key_len);
}

int keyless_load(struct store *s, struct tio *io) {
    int64_t version;
    uint32_t no = io->tbl->no;
    int err;
    if ((err = sql_prepare(s->db, &io->name_of, "SELECT k FROM place WHERE tbl=%u AND r=?", no)) ||
        (err = sql_prepare(s->db, &io->place_of, "SELECT r FROM place WHERE tbl=%u AND k=?", no)) ||
        (err = sql_prepare(s->db, &io->put_place, "INSERT OR REPLACE INTO place(tbl, r, k) VALUES(%u, ?, ?)", no)) ||
        (err = sql_int(s->db, -1, &version, "SELECT v FROM meta WHERE k='places %u'", no)) || version == s->schema.version)
        return err;
    if (version != -1 && io->tbl->captured) { /* perhaps VACUUM */
        io->tbl->captured = false;
        io->tbl->itself = io->tbl->dirty = true;
    }
    return sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('places %u', %lld)", no, (long long)s->schema.version);
}

void keyless_unload(struct tio *io) {
    sqlite3_finalize(io->name_of);
    sqlite3_finalize(io->place_of);
    sqlite3_finalize(io->put_place);
}

/* ---- names */

static void new_name(struct store *s, const struct tio *io, int64_t rowid, uint8_t key[KEYLESS_KEY_BYTES]) {
    uint8_t name[KEYLESS_NAME_BYTES];
    crypto_generichash_state h;
    uint64_t version = s->origins[s->own].version + 1;
    crypto_generichash_init(&h, NULL, 0, sizeof name);
    crypto_generichash_update(&h, s->origin_ids[s->own].node, NODE_ID_BYTES);
    crypto_generichash_update(&h, (const void *)&s->origin_ids[s->own].epoch, sizeof s->origin_ids[s->own].epoch);
    crypto_generichash_update(&h, (const void *)&version, sizeof version);
    crypto_generichash_update(&h, (const void *)&io->tbl->hash, sizeof io->tbl->hash);
    crypto_generichash_update(&h, (const void *)&rowid, sizeof rowid);
    crypto_generichash_final(&h, name, sizeof name);
    put_key(key, name);
}

static void adopted_name(const struct tio *io, int64_t content, int64_t ordinal, uint8_t key[KEYLESS_KEY_BYTES]) {
    uint8_t name[KEYLESS_NAME_BYTES];
    int64_t parts[3] = {(int64_t)io->tbl->hash, content, ordinal};
    crypto_generichash(name, sizeof name, (const uint8_t *)parts, sizeof parts, NULL, 0);
    put_key(key, name);
}

/* ---- a row of the file, found under its rowid */

static int is_shown(struct store *s, struct tio *io, const struct rowid *place, bool *shown) {
    struct origins_order o = store_order(s);
    int err = rows_at_home(s, io->tbl, place, &s->reg);
    if (err)
        return err;
    struct rowid who = s->reg.who;
    struct pending_row *p = reg_known(&s->reg) ? pending_find(s, io->tbl, &who) : NULL;
    *shown = reg_known(&s->reg) && (p ? p->present : reg_alive(&s->reg, &o));
    return 0;
}

int keyless_drain(struct store *s, struct row_look *look) {
    uint8_t key[KEYLESS_KEY_BYTES];
    struct row_look row = *look;
    bool shown = false;
    int err, known = keyless_name(look->io, look->rowid, key);
    row.by_rowid = false;
    row.place = named(key);
    if (known < 0 || (known && (err = is_shown(s, look->io, &row.place, &shown))))
        return known < 0 ? known : err;
    if (!look->present)
        return known ? drain_row(s, &row) : 0;
    if (shown && !look->reborn)
        return drain_row(s, &row);
    if (shown) {
        struct row_look gone = row;
        gone.present = gone.reborn = gone.born = false;
        if ((err = drain_row(s, &gone)))
            return err;
    }
    bool carried = look->ms == LOOK_ADOPTED || (carried_arrives(look) && look->io->tbl->renamed_from && !look->io->rekeyed);
    if (!known || !carried) {
        new_name(s, look->io, look->rowid, key);
        if ((err = put_place(look->io, look->rowid, key, sizeof key)))
            return err;
    }
    row.born = row.given = true;
    row.reborn = row.again = false;
    return drain_row(s, &row);
}

/* ---- rows by content */

static int64_t mix_column(const struct tio *io, uint32_t i, uint64_t hash) {
    uint64_t x = (io->tbl->column_hashes[io->numbers[i]] ^ hash) * 0x9e3779b97f4a7c15u;
    return (int64_t)(x ^ (x >> 29));
}

static int begin_match(struct store *s) {
    return sql_exec(s->db, "CREATE TEMP TABLE IF NOT EXISTS loose(r INTEGER PRIMARY KEY, h INTEGER);"
                           "CREATE TEMP TABLE IF NOT EXISTS known(k BLOB PRIMARY KEY, r INTEGER, h INTEGER) WITHOUT ROWID;"
                           "CREATE TEMP TABLE IF NOT EXISTS pair(r INTEGER PRIMARY KEY, k BLOB UNIQUE, updated INTEGER);"
                           "CREATE TEMP TABLE IF NOT EXISTS noted(r INTEGER PRIMARY KEY); DELETE FROM temp.noted;"
                           "DELETE FROM temp.loose; DELETE FROM temp.known; DELETE FROM temp.pair");
}

/* By what all servers know it by. */
static void name_from(const struct store *s, const struct tbl *t, const struct rowid *was, uint8_t out[KEYLESS_KEY_BYTES]) {
    uint8_t name[KEYLESS_NAME_BYTES];
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, sizeof name);
    crypto_generichash_update(&h, (const void *)&t->hash, sizeof t->hash);
    if (was->text)
        crypto_generichash_update(&h, was->key, was->key_len);
    else
        crypto_generichash_update(&h, (const void *)&was->number, sizeof was->number);
    if (was->kind == IDENT_BORN) { /* others may have been born with that number, or were there before */
        const struct origin *o = &s->origin_ids[was->origin];
        crypto_generichash_update(&h, o->node, NODE_ID_BYTES);
        crypto_generichash_update(&h, (const void *)&o->epoch, sizeof o->epoch);
        crypto_generichash_update(&h, (const void *)&was->version, sizeof was->version);
    } else if (was->kind == IDENT_ADOPTED) {
        crypto_generichash_update(&h, (const void *)&was->hash, sizeof was->hash);
    }
    crypto_generichash_final(&h, name, sizeof name);
    put_key(out, name);
}

static int kin_statement(struct store *s, const struct tbl *t, const struct tbl *of, const struct rowid *who, const char *sql,
                         sqlite3_stmt **q) {
    buf_clear(&s->key);
    int err = rowid_name(of, who, &s->key);
    if (err || (err = sql_prepare(s->db, q, sql, t->no)))
        return err;
    sqlite3_bind_blob64(*q, 1, s->key.data, s->key.len, SQLITE_TRANSIENT);
    return 0;
}

int keyless_name_of_key(struct store *s, const struct tbl *t, const struct tbl *of, const struct rowid *was,
                        uint8_t out[KEYLESS_KEY_BYTES]) {
    sqlite3_stmt *q;
    int row = kin_statement(s, t, of, was, "SELECT k FROM kin WHERE tbl=%u AND who=?", &q);
    if (row)
        return row;
    if ((row = sql_step(q)) == 1 && sqlite3_column_bytes(q, 0) == KEYLESS_KEY_BYTES)
        memcpy(out, sqlite3_column_blob(q, 0), KEYLESS_KEY_BYTES);
    else
        name_from(s, t, was, out);
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

int keyless_note_kin(struct store *s, const struct tbl *t, const struct rowid *name, const struct tbl *of, const struct rowid *who) {
    sqlite3_stmt *q;
    int err = kin_statement(s, t, of, who, "INSERT OR REPLACE INTO kin VALUES(%u, ?1, ?2)", &q);
    if (err)
        return err;
    sqlite3_bind_blob64(q, 2, name->key, name->key_len, SQLITE_STATIC);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

/* The table had a key: so its row is known by that. 1: it was. */
static int keyless_of_key(struct store *s, const struct row_look *look) {
    uint8_t key[KEYLESS_KEY_BYTES];
    sqlite3_stmt *q;
    int err = rekeyed_source(s, look);
    if (err || !reg_known(&s->source))
        return err;
    if ((err = keyless_name_of_key(s, look->io->tbl, look->io->tbl->renamed_from, &s->source.who, key)) ||
        (err = sql_prepare(s->db, &q, "INSERT OR IGNORE INTO temp.pair VALUES(?, ?, 1)")))
        return err;
    sqlite3_bind_int64(q, 1, look->rowid);
    sqlite3_bind_blob(q, 2, key, sizeof key, SQLITE_STATIC);
    err = sql_run(q);
    bool taken = !err && !sqlite3_changes(s->db);
    sqlite3_finalize(q);
    return err ? err : !taken;
}

int keyless_note_row(struct store *s, const struct row_look *look, bool first) {
    sqlite3_stmt *q;
    uint64_t sum = look->io->tbl->hash;
    int err = first ? begin_match(s) : 0, known = 0;
    if (first)
        rekeyed_again(look->io);
    if (!err && look->io->rekeyed && carried_arrives(look) && (known = keyless_of_key(s, look)))
        return known < 0 ? known : 0;
    for (uint32_t i = 0; i < look->io->count; i++)
        sum += (uint64_t)mix_column(look->io, i, value_hash(&look->values[i]));
    if (err || (err = sql_prepare(s->db, &q, "INSERT OR REPLACE INTO temp.loose VALUES(?, ?)")))
        return err;
    sqlite3_bind_int64(q, 1, look->rowid);
    sqlite3_bind_int64(q, 2, (int64_t)sum);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

/* 1 + the number that a column had in the registers of `of` when the file was read last: before a rename. 0: none. */
static uint32_t column_in(const struct tbl *of, const struct tio *io, uint32_t i) {
    uint32_t number = io->numbers[i];
    if (of == io->tbl)
        return of->moves[number].from ? of->moves[number].from : number + 1;
    for (uint32_t c = 0; c < of->columns_count; c++)
        if (sqlite3_stricmp(of->columns[c], io->tbl->columns[number]) == 0)
            return c + 1;
    return 0;
}

/* What the file showed by these registers: name, rowid, content. */
static int list_known(struct store *s, struct tio *io, const struct tbl *of) {
    struct origins_order o = store_order(s);
    sqlite3_stmt *q, *put = NULL;
    int row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", of->no);
    if (!row)
        row = sql_prepare(s->db, &put, "INSERT INTO temp.known VALUES(?1, (SELECT r FROM place WHERE tbl=%u AND k=?1), ?2)", io->tbl->no);
    while (!row && (row = sql_step(q)) == 1) {
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = s->reg.who;
        who.text = true;
        who.key = sqlite3_column_blob(q, 0);
        who.key_len = (size_t)sqlite3_column_bytes(q, 0);
        struct pending_row *p = pending_find(s, of, &who);
        if (!(p ? p->present : reg_alive(&s->reg, &o)))
            continue;
        uint64_t sum = io->tbl->hash, hash;
        for (uint32_t i = 0; i < io->count && !row; i++) {
            uint32_t column = column_in(of, io, i);
            const struct cell *c = column ? reg_winner(&s->reg, column - 1, &o) : NULL;
            row = pending_content(s, p, column - 1, c, io, i, &hash);
            sum += row ? 0 : (uint64_t)mix_column(io, i, hash);
        }
        sqlite3_bind_blob64(put, 1, who.key, who.key_len, SQLITE_STATIC);
        sqlite3_bind_int64(put, 2, (int64_t)sum);
        row = row ? row : sql_run(put);
    }
    sqlite3_finalize(q);
    sqlite3_finalize(put);
    return row;
}

#define RANKED(of) "(SELECT *, row_number() OVER (PARTITION BY h ORDER BY r) AS n FROM temp." of ")"
#define TAKE_PAIRS                                                                                                                         \
    "DELETE FROM temp.loose WHERE r IN (SELECT r FROM temp.pair); DELETE FROM temp.known WHERE k IN (SELECT k FROM temp.pair)"

/* Rows of the file and names, paired: the same content under the same rowid, then the same content. */
static int match(struct store *s, struct tio *io, const struct tbl *of, bool *moved) {
    int err = list_known(s, io, of);
    if (err ||
        (err = sql_exec(s->db,
                        "INSERT INTO temp.pair SELECT loose.r, k, 0 FROM temp.loose JOIN temp.known ON known.r = loose.r AND known.h = "
                        "loose.h; " TAKE_PAIRS)) ||
        (err = sql_exec(s->db,
                        "INSERT INTO temp.pair SELECT a.r, b.k, 0 FROM " RANKED("loose") " a JOIN " RANKED("known") " b USING (h, n)")))
        return err;
    *moved = sqlite3_changes64(s->db) > 0;
    return sql_exec(s->db, TAKE_PAIRS);
}

#define PAIR_ROWIDS "INSERT INTO temp.pair SELECT loose.r, k, 1 FROM temp.loose JOIN temp.known ON known.r = loose.r; " TAKE_PAIRS

/* The rowids are as they were. Rows with notes that are not drained yet are left to these; of the others, what differs under one rowid was updated.
 * Something has another name now: then what the row held under the old one is to be carried over first. */
static int match_unmoved(struct store *s, struct tio *io, bool renamed) {
    sqlite3_stmt *q, *put = NULL;
    int row = renamed ? sql_exec(s->db, PAIR_ROWIDS) : 0;
    if (row || (io->tbl->renamed_from && !io->rekeyed))
        return row;
    row = sql_prepare(s->app.reader, &q, "SELECT DISTINCT k0 FROM main._starling_dirty WHERE seq > %lld AND tbl = %u",
                      (long long)s->hot.note_seq, io->table->number);
    if (!row)
        row = sql_prepare(s->db, &put, "INSERT OR IGNORE INTO temp.noted VALUES(?)");
    while (!row && (row = sql_step(q)) == 1) {
        sqlite3_bind_int64(put, 1, sqlite3_column_int64(q, 0));
        row = sql_run(put);
    }
    sqlite3_finalize(q);
    sqlite3_finalize(put);
    return row ? row
               : sql_exec(s->db,
                          "DELETE FROM temp.loose WHERE r IN (SELECT r FROM temp.noted); DELETE FROM temp.known WHERE r IN (SELECT r "
                          "FROM temp.noted); " PAIR_ROWIDS);
}

/* The old places go, but for those of rows that are left to their notes. */
static int take_places(struct store *s, const struct tio *io) {
    int err = sql_exec(s->db, "DELETE FROM place WHERE tbl=%u AND r NOT IN (SELECT r FROM temp.noted)", io->tbl->no);
    return err ? err : sql_exec(s->db, "INSERT OR REPLACE INTO place(tbl, r, k) SELECT %u, r, k FROM temp.pair", io->tbl->no);
}

/* A table that came: what was known of rowids under this name was of another one. One that was renamed brings its own along. */
static int begin_places(struct store *s, const struct tio *io) {
    int err = sql_exec(s->db, "DELETE FROM place WHERE tbl=%u", io->tbl->no);
    return err || !io->tbl->renamed_from || io->rekeyed
               ? err
               : sql_exec(s->db, "INSERT INTO place(tbl, r, k) SELECT %u, r, k FROM place WHERE tbl=%u", io->tbl->no,
                          io->tbl->renamed_from->no);
}

/* Each row of a query: a rowid, or a name, looked at and taken. */
static int take_each(struct store *s, struct tio *io, int64_t ms, const char *query) {
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "%s", query);
    while (!row && (row = sql_step(q)) == 1) {
        struct row_look look = {.io = io, .ms = ms, .born = true, .given = true};
        uint8_t key[KEYLESS_KEY_BYTES];
        if (sqlite3_column_type(q, 0) == SQLITE_INTEGER) {
            look.by_rowid = true;
            look.rowid = sqlite3_column_int64(q, 0);
            if (ms == LOOK_ADOPTED) {
                adopted_name(io, sqlite3_column_int64(q, 1), sqlite3_column_int64(q, 2), key);
                row = put_place(io, look.rowid, key, sizeof key);
            }
        } else if (sqlite3_column_bytes(q, 0) == KEYLESS_KEY_BYTES) {
            memcpy(key, sqlite3_column_blob(q, 0), sizeof key);
            look.place = named(key);
        }
        row = row == 1 ? 0 : row;
        if (!row && !(row = drain_look(s, &look, io->read)))
            row = drain_row(s, &look);
        sqlite3_reset(io->read);
    }
    sqlite3_finalize(q);
    return row;
}

static int take_gone(struct store *s, struct tio *io) {
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT k FROM temp.known");
    while (!row && (row = sql_step(q)) == 1) {
        uint8_t key[KEYLESS_KEY_BYTES];
        row = 0;
        if (sqlite3_column_bytes(q, 0) != sizeof key)
            continue;
        memcpy(key, sqlite3_column_blob(q, 0), sizeof key);
        struct rowid place = named(key);
        row = scan_gone_row(s, io, &place, &place);
    }
    sqlite3_finalize(q);
    return row;
}

static bool has_renamed_column(const struct tbl *t) {
    bool any = false;
    for (uint32_t c = 0; c < t->columns_count; c++)
        any = any || t->moves[c].from;
    return any;
}

/* A table that was renamed: its rows died under the old name if they are gone, and what others have under the new one is to be shown. */
static int settle_renamed(struct store *s, struct tio *io) {
    int err = carried_deaths(s, io);
    if (err || (err = sql_exec(s->db, "DELETE FROM temp.known")) || (err = list_known(s, io, io->tbl)))
        return err;
    return sql_exec(s->db, "DELETE FROM temp.known WHERE k IN (SELECT k FROM temp.pair)");
}

int keyless_settle(struct store *s, struct tio *io, bool adopt, bool none, bool lacking, bool *notes_hold) {
    int64_t gone = 0;
    bool moved = false, came = io->tbl->placed <= 0 && !adopt;
    const struct tbl *from = came && !io->rekeyed ? io->tbl->renamed_from : NULL;
    bool renamed = from || has_renamed_column(io->tbl);
    *notes_hold = false;
    int err = none ? begin_match(s) : 0; /* not one row */
    if (!err && adopt)
        return take_each(s, io, LOOK_ADOPTED, "SELECT r, h, n FROM " RANKED("loose") " ORDER BY r");
    if (!err && came)
        err = begin_places(s, io);
    if (err || (err = match(s, io, from ? from : io->tbl, &moved)) ||
        (!moved && (!came || from) && (err = match_unmoved(s, io, renamed))) || (err = take_places(s, io)) ||
        (err = take_each(s, io, LOOK_FOUND,
                         renamed ? "SELECT k FROM temp.pair ORDER BY r" : "SELECT k FROM temp.pair WHERE updated ORDER BY r")) ||
        (from && (err = settle_renamed(s, io))) || (err = sql_int(s->db, 0, &gone, "SELECT count(*) FROM temp.known")))
        return err;
    *notes_hold = !moved && !came;
    if (lacking || io->tbl->verdict != VERDICT_NONE || !scan_too_many(s, io->tbl, (uint64_t)gone)) {
        io->tbl->lost = 0;
        err = take_gone(s, io);
        io->tbl->verdict = VERDICT_NONE;
        s->stored_changed = true;
    }
    return err ? err : take_each(s, io, LOOK_FOUND, "SELECT r FROM temp.loose ORDER BY r");
}

/* The file went back, or is another one: places for what it holds now, before it is compared with the registers. Of the old places those are kept
 * that another content may still belong to. */
int keyless_find_again(struct store *s, struct tio *io, bool other) {
    struct row_cursor c;
    int err, row = 0;
    bool first = true;
    row_cursor_init(&c);
    if (!(err = begin_match(s)) && !(err = row_cursor_open(s, io, &c, UINT32_MAX)))
        while (!err && (row = sql_step(c.stmt)) == 1) {
            struct row_look look = {.io = io};
            if (!(err = row_cursor_row(io, &c, &look)))
                err = keyless_note_row(s, &look, first);
            first = false;
            free(look.values);
        }
    row_cursor_release(&c);
    if (err || row < 0)
        return err ? err : row;
    bool moved;
    if ((err = match(s, io, io->tbl, &moved)) || other)
        return err ? err : take_places(s, io);
    return sql_exec(s->db,
                    "DELETE FROM place WHERE tbl=%u AND (r IN (SELECT r FROM temp.pair) OR k IN (SELECT k FROM temp.pair));"
                    "INSERT INTO place(tbl, r, k) SELECT %u, r, k FROM temp.pair",
                    io->tbl->no, io->tbl->no);
}

/* ---- a state that was lost
 *
 * The rows were taken anew, under names of their own, and come again under those that the cluster knows. One of each two equal ones is withdrawn then:
 * one that was taken anew and not touched since, for each that the others had before. Not for one that is dead: perhaps ours was never told. */

#define AGAIN_QUIET_MS 1000 /* while batches come, rows are on their way to what they are in the end */

static bool taken_anew(const struct store *s, const struct reg *r) {
    return r->inserted.at == STAMP_COPY && r->writes_count == 1 && r->writes[0].at == STAMP_COPY &&
           memcmp(s->origin_ids[r->inserted.origin].node, s->origin_ids[s->own].node, NODE_ID_BYTES) == 0;
}

/* Rows by content: a, taken anew; w, the same and withdrawn; b, of the cluster. */
static int list_again(struct store *s, struct tio *io, bool *any) {
    struct origins_order o = store_order(s);
    sqlite3_stmt *q = NULL, *put = NULL;
    int row = sql_exec(s->db, "CREATE TEMP TABLE IF NOT EXISTS again(kind TEXT, h INTEGER, k BLOB); DELETE FROM temp.again");
    *any = false;
    if (!row && !(row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", io->tbl->no)))
        row = sql_prepare(s->db, &put, "INSERT INTO temp.again VALUES(?, ?, ?)");
    while (!row && (row = sql_step(q)) == 1) {
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        bool ours = taken_anew(s, &s->reg), alive = reg_alive(&s->reg, &o);
        bool theirs = alive && s->reg.inserted.at != STAMP_COPY && reg_top(&s->reg) < s->recaptured_at;
        uint64_t sum = io->tbl->hash;
        for (uint32_t i = 0; i < io->count && !row && (ours || theirs); i++) {
            const struct cell *c = reg_winner(&s->reg, io->numbers[i], &o);
            uint64_t hash = c ? c->hash : 0;
            row = c ? 0 : tables_default_hash(s, io, i, &hash);
            sum += (uint64_t)mix_column(io, i, hash);
        }
        if (row || !(ours || theirs))
            continue;
        *any = *any || (ours && alive);
        sqlite3_bind_text(put, 1, !ours ? "b" : alive ? "a" : "w", 1, SQLITE_STATIC);
        sqlite3_bind_int64(put, 2, (int64_t)sum);
        sqlite3_bind_blob64(put, 3, sqlite3_column_blob(q, 0), (uint64_t)sqlite3_column_bytes(q, 0), SQLITE_STATIC);
        row = sql_run(put);
    }
    sqlite3_finalize(q);
    sqlite3_finalize(put);
    return row;
}

static int withdraw_one(struct store *s, struct tio *io, const uint8_t key[KEYLESS_KEY_BYTES]) {
    struct rowid who = named(key);
    struct pending_row *p = NULL;
    struct reg r;
    bool home;
    if (pending_find(s, io->tbl, &who))
        return 0;
    reg_init(&r);
    int err = rows_find(s, io->tbl, &who, &r, &home);
    r.who = who;
    if (!err)
        err = drain_author(s, io, &r, home, CHANGE_DELETE, NULL, NULL, NULL, 0);
    reg_release(&r);
    if (!err && !(err = pending_set(s, io->tbl, &who, true, NULL, 0, NULL, &p)))
        err = pending_store(s, p);
    return err;
}

static int withdraw(struct store *s, struct tio *io) {
    sqlite3_stmt *q = NULL;
    bool any;
    uint64_t rows = 0;
    int row = list_again(s, io, &any);
    if (row || !any)
        return row;
    row = sql_prepare(
        s->db, &q,
        "SELECT k FROM (SELECT k, h, row_number() OVER (PARTITION BY h ORDER BY k) AS n FROM temp.again WHERE kind = 'a')"
        " JOIN (SELECT h, total(kind = 'b') - total(kind = 'w') AS twice FROM temp.again GROUP BY h) USING (h) WHERE n <= twice");
    while (!row && (row = sql_step(q)) == 1) {
        uint8_t key[KEYLESS_KEY_BYTES];
        row = 0;
        if (sqlite3_column_bytes(q, 0) != sizeof key)
            continue;
        memcpy(key, sqlite3_column_blob(q, 0), sizeof key);
        if (!rows && ((row = state_begin(s)) || (row = drain_begin_changes(s, store_wall_ms(s)))))
            break;
        row = withdraw_one(s, io, key);
        rows++;
    }
    sqlite3_finalize(q);
    if (!row && rows)
        store_log(s, LOG_INFO, "%s: %llu rows of \"%s\" had come twice, since the node's state was lost: they are one each again",
                  s->config.db, (unsigned long long)rows, io->tbl->name);
    return row;
}

int keyless_withdraw(struct store *s) {
    if (!s->again_due || s->scan || s->schema_stale || s->held_since_ms || s->flights || s->delivered_count || s->in_tx ||
        store_mono_us() / 1000 - s->active_ms < AGAIN_QUIET_MS)
        return 0;
    bool drained, back;
    int err = sql_run(s->a_begin);
    if (err)
        return err == ERR_BUSY ? 0 : err;
    if (!(err = scan_drained(s, &drained, &back)) && drained) {
        s->again_due = false;
        for (uint32_t i = 0; i < s->tios_count && !err; i++)
            if (s->tios[i].tbl && s->tios[i].table->key_kind == KEY_ROWID)
                err = withdraw(s, &s->tios[i]);
    }
    sql_run(s->a_end);
    return err || batch_writer_rows(s->writer) == 0 ? err : drain_seal(s, false);
}
