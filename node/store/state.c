/* The state database of one replicated database: registers, log, marks. One connection, one thread, exclusive: a second
 * daemon cannot open it. Commits are not synced by SQLite (synchronous NORMAL in WAL mode); state_sync() does it when the
 * protocol asks for it, once for all that is pending. */
#include <assert.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/first_name.h"
#include "node/store/engine.h"
#include "proto/err.h"

#define STATE_FORMAT 2

#define TABLE_OF_TABLES                                                                                                                    \
    "CREATE TABLE tbl(no INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, shape INTEGER, rows INTEGER, last_change INTEGER, captured "       \
    "INTEGER, placed INTEGER, UNIQUE(name, shape));"

static const char SCHEMA[] =
    "CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;"
    "CREATE TABLE hot(id INTEGER PRIMARY KEY, note_seq, note_nonce, hlc, digest_a, digest_b, base, flight_seq, projected_seq,"
    "  published, schema_sent, shown_ms, created, epoch);"
    "CREATE TABLE origin(no INTEGER PRIMARY KEY, node BLOB, epoch INTEGER, key BLOB, version INTEGER, shown INTEGER, known INTEGER, chain "
    "BLOB, knew BLOB,"
    "  UNIQUE(node, epoch));" TABLE_OF_TABLES
    "CREATE TABLE col(tbl INTEGER, no INTEGER, name TEXT, placed INTEGER, PRIMARY KEY(tbl, no)) WITHOUT ROWID;"
    "CREATE TABLE extra(tbl INTEGER, who BLOB, b BLOB, PRIMARY KEY(tbl, who)) WITHOUT ROWID;"
    "CREATE TABLE log(id INTEGER PRIMARY KEY, b BLOB);"
    "CREATE TABLE flight(seq INTEGER PRIMARY KEY, origin INTEGER, version INTEGER, part INTEGER, before BLOB);"
    "CREATE TABLE shown(name BLOB PRIMARY KEY, present INTEGER, cells BLOB, reason TEXT, part_of INTEGER) WITHOUT ROWID;"
    "CREATE TABLE open(tbl INTEGER, who BLOB, n INTEGER, PRIMARY KEY(tbl, who)) WITHOUT ROWID;"
    "CREATE TABLE seen(origin INTEGER, version INTEGER, knew BLOB, PRIMARY KEY(origin, version)) WITHOUT ROWID;"
    "CREATE TABLE place(tbl INTEGER, r INTEGER, k BLOB, PRIMARY KEY(tbl, r), UNIQUE(tbl, k)) WITHOUT ROWID;"
    "CREATE TABLE moved(tbl INTEGER, who BLOB, home INTEGER, PRIMARY KEY(tbl, who)) WITHOUT ROWID;"
    "CREATE TABLE moving(seq INTEGER, tbl INTEGER, who BLOB, shown INTEGER, PRIMARY KEY(tbl, who)) WITHOUT ROWID;"
    "CREATE TABLE large(tbl INTEGER, place BLOB, PRIMARY KEY(tbl, place)) WITHOUT ROWID;"
    "INSERT INTO hot VALUES(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);";

/* Came later than the format: made in states that are there, too. */
static const char SCHEMAS[] =
    "CREATE TABLE IF NOT EXISTS told(node BLOB PRIMARY KEY, origin INTEGER, version INTEGER, done INTEGER) WITHOUT ROWID;"
    /* kind: of the table's key, and 16 times 1 + the column's affinity; 0, not known */
    "CREATE TABLE IF NOT EXISTS told_column(node BLOB, tbl TEXT COLLATE NOCASE, col TEXT COLLATE NOCASE, place INTEGER, kind INTEGER,"
    "  PRIMARY KEY(node, tbl, col)) WITHOUT ROWID;"
    /* names of rows without a key, by who they were while their table had one */
    "CREATE TABLE IF NOT EXISTS kin(tbl INTEGER, who BLOB, k BLOB, PRIMARY KEY(tbl, who)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS had(name TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS demanded(schema INTEGER, name INTEGER, hash INTEGER, PRIMARY KEY(schema, name)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS same(tbl INTEGER, a BLOB, b BLOB, rank_a INTEGER, rank_b INTEGER, origin INTEGER, version INTEGER, at "
    "INTEGER, state INTEGER,"
    "  PRIMARY KEY(tbl, a, b, origin, version, state)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS own(tbl INTEGER, who BLOB, b BLOB, PRIMARY KEY(tbl, who)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS policy(tbl TEXT COLLATE NOCASE, name TEXT, value TEXT, stamp INTEGER, node BLOB, due INTEGER,"
    "  PRIMARY KEY(tbl, name)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS policy_here(tbl TEXT COLLATE NOCASE, name TEXT, value TEXT, PRIMARY KEY(tbl, name)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS gone(hash INTEGER, origin INTEGER, version INTEGER, unseen INTEGER, PRIMARY KEY(hash, origin, version))"
    "  WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS given(hash INTEGER, origin INTEGER, version INTEGER, PRIMARY KEY(hash, origin, version)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS holder(tbl INTEGER, h INTEGER, k, PRIMARY KEY(tbl, h, k)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS afar(name TEXT, ref BLOB, number INTEGER, was INTEGER, birth INTEGER, state INTEGER, due INTEGER,"
    " PRIMARY KEY(name, ref)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS before(name TEXT, number INTEGER, ref BLOB, today INTEGER, PRIMARY KEY(name, number)) WITHOUT ROWID;";

static int load_hot(struct store *s) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q,
                          "SELECT note_seq, note_nonce, hlc, digest_a, digest_b, base, flight_seq, projected_seq, published,"
                          " schema_sent, shown_ms, created, epoch FROM hot");
    if (err)
        return err;
    int row = sql_step(q);
    if (row == 1) {
        struct hot *h = &s->hot;
        h->note_seq = sqlite3_column_int64(q, 0);
        h->note_nonce = sqlite3_column_int64(q, 1);
        h->hlc = (uint64_t)sqlite3_column_int64(q, 2);
        h->digest_a = (uint64_t)sqlite3_column_int64(q, 3);
        h->digest_b = (uint64_t)sqlite3_column_int64(q, 4);
        h->base = (uint64_t)sqlite3_column_int64(q, 5);
        h->flight_seq = sqlite3_column_int64(q, 6);
        h->projected_seq = sqlite3_column_int64(q, 7);
        h->published = (uint64_t)sqlite3_column_int64(q, 8);
        h->schema_sent = (uint64_t)sqlite3_column_int64(q, 9);
        h->shown_ms = sqlite3_column_int64(q, 10);
        h->created = sqlite3_column_int64(q, 11);
        h->epoch = (uint32_t)sqlite3_column_int64(q, 12);
        s->clock.last = h->hlc;
    }
    sqlite3_finalize(q);
    return row == 1 ? 0 : row ? row : ERR_CORRUPT;
}

static int save_hot(struct store *s) {
    struct hot *h = &s->hot;
    const int64_t values[] = {
        h->note_seq,   h->note_nonce,    (int64_t)s->clock.last, (int64_t)h->digest_a,    (int64_t)h->digest_b, (int64_t)h->base,
        h->flight_seq, h->projected_seq, (int64_t)h->published,  (int64_t)h->schema_sent, h->shown_ms,          h->created,
        h->epoch};
    h->hlc = s->clock.last;
    for (int i = 0; i < 13; i++)
        sqlite3_bind_int64(s->s_hot, i + 1, values[i]);
    return sql_run(s->s_hot);
}

/* ---- vectors as blobs: pairs of u64, origin number and version */

static void pack_versions(struct buf *b, const uint64_t *versions, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (versions[i]) {
            uint64_t pair[2] = {i, versions[i]};
            buf_append(b, pair, sizeof pair);
        }
}

int state_knew_set(struct store *s, uint32_t origin, uint32_t of, uint64_t version) {
    struct origin_row *o = &s->origins[origin];
    if (of >= o->knew_count) {
        uint64_t *p = realloc(o->knew, (of + 1) * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        memset(p + o->knew_count, 0, (of + 1 - o->knew_count) * sizeof *p);
        o->knew = p;
        o->knew_count = of + 1;
    }
    if (version > o->knew[of])
        o->knew[of] = version;
    o->changed = true;
    return 0;
}

/* ---- origins */

static void origins_release(struct store *s) {
    for (uint32_t i = 0; i < s->origins_count; i++)
        free(s->origins[i].knew);
    free(s->origins);
    free(s->origin_ids);
    s->origins = NULL;
    s->origin_ids = NULL;
    s->origins_count = 0;
}

static int origins_add(struct store *s, const struct origin *id) {
    struct origin_row *p = realloc(s->origins, (s->origins_count + 1) * sizeof *p);
    if (!p)
        return ERR_NOMEM;
    s->origins = p;
    struct origin *ids = realloc(s->origin_ids, (s->origins_count + 1) * sizeof *ids);
    if (!ids)
        return ERR_NOMEM;
    s->origin_ids = ids;
    ids[s->origins_count] = *id;
    memset(&p[s->origins_count], 0, sizeof *p);
    p[s->origins_count++].id = *id;
    return 0;
}

int state_find_origin(const struct store *s, const struct origin *id) {
    for (uint32_t i = 0; i < s->origins_count; i++)
        if (origin_cmp(&s->origin_ids[i], id) == 0)
            return (int)i;
    return -1;
}

int state_origin(struct store *s, const struct origin *id, uint32_t *no) {
    int at = state_find_origin(s, id);
    if (at < 0) {
        if (s->origins_count >= VV_ENTRIES_MAX)
            return ERR_TOOBIG;
        int err = origins_add(s, id);
        if (err)
            return err;
        at = (int)s->origins_count - 1;
        s->origins[at].changed = true;
    }
    *no = (uint32_t)at;
    return 0;
}

static int save_origins(struct store *s) {
    for (uint32_t i = 0; i < s->origins_count; i++) {
        struct origin_row *o = &s->origins[i];
        if (!o->changed)
            continue;
        struct buf b;
        buf_init(&b, 1 << 20);
        pack_versions(&b, o->knew, o->knew_count);
        sqlite3_bind_int64(s->s_origin_put, 1, i);
        sqlite3_bind_blob(s->s_origin_put, 2, o->id.node, NODE_ID_BYTES, SQLITE_STATIC);
        sqlite3_bind_int64(s->s_origin_put, 3, o->id.epoch);
        if (o->keyed)
            sqlite3_bind_blob(s->s_origin_put, 4, o->key, NODE_KEY_BYTES, SQLITE_STATIC);
        else
            sqlite3_bind_null(s->s_origin_put, 4);
        sqlite3_bind_int64(s->s_origin_put, 5, (int64_t)o->version);
        sqlite3_bind_blob(s->s_origin_put, 6, o->chain, BATCH_CHAIN_BYTES, SQLITE_STATIC);
        sqlite3_bind_blob64(s->s_origin_put, 7, b.data ? (const void *)b.data : "", b.len, SQLITE_STATIC);
        sqlite3_bind_int64(s->s_origin_put, 8, (int64_t)o->shown);
        sqlite3_bind_int64(s->s_origin_put, 9, (int64_t)o->known);
        int err = b.failed ? b.failed : sql_run(s->s_origin_put);
        buf_release(&b);
        if (err)
            return err;
        o->changed = false;
    }
    return 0;
}

static int load_origins(struct store *s) {
    origins_release(s);
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "SELECT node, epoch, key, version, chain, knew, shown, known FROM origin ORDER BY no");
    if (err)
        return err;
    int row;
    while ((row = sql_step(q)) == 1) {
        struct origin id;
        if (sqlite3_column_bytes(q, 0) != NODE_ID_BYTES || sqlite3_column_bytes(q, 4) != BATCH_CHAIN_BYTES) {
            row = ERR_CORRUPT;
            break;
        }
        memcpy(id.node, sqlite3_column_blob(q, 0), NODE_ID_BYTES);
        id.epoch = (uint32_t)sqlite3_column_int64(q, 1);
        if ((row = origins_add(s, &id)))
            break;
        struct origin_row *o = &s->origins[s->origins_count - 1];
        if (sqlite3_column_bytes(q, 2) == NODE_KEY_BYTES) {
            memcpy(o->key, sqlite3_column_blob(q, 2), NODE_KEY_BYTES);
            o->keyed = true;
        }
        o->version = (uint64_t)sqlite3_column_int64(q, 3);
        o->shown = (uint64_t)sqlite3_column_int64(q, 6);
        o->known = (uint64_t)sqlite3_column_int64(q, 7);
        memcpy(o->chain, sqlite3_column_blob(q, 4), BATCH_CHAIN_BYTES);
        size_t n = (size_t)sqlite3_column_bytes(q, 5) / 16;
        const uint8_t *pairs = sqlite3_column_blob(q, 5);
        for (size_t i = 0; i < n; i++) {
            uint64_t pair[2];
            memcpy(pair, pairs + 16 * i, 16);
            if (pair[0] < VV_ENTRIES_MAX && (row = state_knew_set(s, s->origins_count - 1, (uint32_t)pair[0], pair[1])))
                break;
        }
        s->origins[s->origins_count - 1].changed = false;
    }
    sqlite3_finalize(q);
    return row;
}

/* Our own origin. Its epoch is ours to say: others may name any. */
static int find_own(struct store *s) {
    struct origin me = {.epoch = s->hot.epoch};
    node_id_of_key(me.node, s->config.key);
    int err = state_origin(s, &me, &s->own);
    if (!err && !s->origins[s->own].keyed) {
        memcpy(s->origins[s->own].key, s->config.key, NODE_KEY_BYTES);
        s->origins[s->own].keyed = s->origins[s->own].changed = true;
    }
    return err;
}

/* ---- tables and columns */

uint64_t state_name_hash(const char *name, size_t len) {
    char folded[256];
    size_t n = len < sizeof folded ? len : sizeof folded;
    for (size_t i = 0; i < n; i++)
        folded[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    struct value v = {.type = VALUE_TEXT, .p = (const uint8_t *)folded, .len = n};
    return value_hash(&v);
}

static void tbl_free(struct tbl *t) {
    for (uint32_t i = 0; i < t->columns_count; i++)
        free(t->columns[i]);
    free(t->columns);
    free(t->column_hashes);
    free(t->moves);
    free(t->moved);
    numbers_clear(t);
    sqlite3_finalize(t->get);
    sqlite3_finalize(t->put);
    sqlite3_finalize(t->del);
    free(t->name);
    free(t);
}

static int tbl_statements(struct store *s, struct tbl *t) {
    int err;
    if ((err = sql_prepare(s->db, &t->get, "SELECT b FROM r%u WHERE k=?", t->no)) ||
        (err = sql_prepare(s->db, &t->put, "INSERT INTO r%u(k,b) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET b=excluded.b", t->no)) ||
        (err = sql_prepare(s->db, &t->del, "DELETE FROM r%u WHERE k=?", t->no)))
        return err;
    if (t->shape == SHAPE_NUMBER)
        return sql_int(s->db, INT64_MIN, &t->top, "SELECT max(k) FROM r%u", t->no);
    return 0;
}

static int tbl_column(struct tbl *t, const char *name, size_t len, int32_t placed) {
    if (t->columns_count == t->columns_cap) {
        uint32_t cap = t->columns_cap ? t->columns_cap * 2 : 16;
        char **p = realloc(t->columns, cap * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        t->columns = p;
        uint64_t *h = realloc(t->column_hashes, cap * sizeof *h);
        if (!h)
            return ERR_NOMEM;
        t->column_hashes = h;
        struct column_move *m = realloc(t->moves, cap * sizeof *m);
        if (!m)
            return ERR_NOMEM;
        t->moves = m;
        t->columns_cap = cap;
    }
    char *copy = strndup(name, len);
    if (!copy)
        return ERR_NOMEM;
    t->columns[t->columns_count] = copy;
    if (strcmp(copy, NUMBER_COLUMN) == 0)
        t->number_column = t->columns_count + 1;
    t->moves[t->columns_count] = (struct column_move){.placed = placed, .noted = placed};
    t->column_hashes[t->columns_count++] = state_name_hash(name, len);
    return 0;
}

static int tbls_add(struct store *s, uint32_t no, const char *name, size_t len, struct tbl **out) {
    struct tbl **p = realloc(s->tbls, (s->tbls_count + 1) * sizeof *p);
    struct tbl *t = calloc(1, sizeof *t);
    if (p)
        s->tbls = p;
    if (!p || !t || !(t->name = strndup(name, len))) {
        free(t);
        return ERR_NOMEM;
    }
    t->no = no;
    t->hash = state_name_hash(name, len);
    t->top = INT64_MIN;
    s->tbls[s->tbls_count++] = t;
    *out = t;
    return 0;
}

enum { CAPTURED_NOT, CAPTURED, CAPTURED_ITSELF }; /* tbl.captured */

static int load_tables(struct store *s) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "SELECT no, name, shape, rows, last_change, captured, placed FROM tbl ORDER BY no");
    if (err)
        return err;
    int row;
    while ((row = sql_step(q)) == 1) {
        struct tbl *t;
        if ((row = tbls_add(s, (uint32_t)sqlite3_column_int64(q, 0), (const char *)sqlite3_column_text(q, 1),
                            (size_t)sqlite3_column_bytes(q, 1), &t)))
            break;
        t->shape = (enum shape)sqlite3_column_int(q, 2);
        if (t->shape < SHAPE_NONE || t->shape > SHAPE_NAMES) {
            row = ERR_CORRUPT;
            break;
        }
        t->rows = sqlite3_column_int64(q, 3);
        t->last_change_ms = sqlite3_column_int64(q, 4);
        t->captured = sqlite3_column_int(q, 5) == CAPTURED;
        t->itself = sqlite3_column_int(q, 5) == CAPTURED_ITSELF;
        t->remade = !t->captured && !t->itself; /* it was to be read again: why is not known any more */
        t->placed = sqlite3_column_int64(q, 6);
        if (t->shape != SHAPE_NONE && (row = tbl_statements(s, t)))
            break;
    }
    sqlite3_finalize(q);
    if (row || (err = sql_prepare(s->db, &q, "SELECT tbl, name, placed FROM col ORDER BY tbl, no")))
        return row ? row : err;
    while ((row = sql_step(q)) == 1) {
        uint32_t no = (uint32_t)sqlite3_column_int64(q, 0);
        err = 0;
        for (uint32_t i = 0; i < s->tbls_count && !err; i++)
            if (s->tbls[i]->no == no)
                err = tbl_column(s->tbls[i], (const char *)sqlite3_column_text(q, 1), (size_t)sqlite3_column_bytes(q, 1),
                                 sqlite3_column_int(q, 2));
        if (err) {
            row = err;
            break;
        }
    }
    sqlite3_finalize(q);
    return row;
}

struct tbl *state_table_of(const struct store *s, uint32_t no) {
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (s->tbls[i]->no == no)
            return s->tbls[i];
    return NULL;
}

/* More columns than any key has that is replicated are one kind. */
enum shape state_shape_of(const struct rowid *who) {
    struct value values[SHAPE_WIDEST - SHAPE_KEY];
    int n = who->text ? tables_key_values(who, values, SHAPE_WIDEST - SHAPE_KEY) : 0;
    return !who->text ? SHAPE_NUMBER : n < 1 ? SHAPE_WIDEST : (enum shape)(SHAPE_KEY + n - 1);
}

enum shape state_shape_of_table(const struct table *t) {
    uint32_t width = t->key_count, most = SHAPE_WIDEST - SHAPE_KEY;
    switch (t->key_kind) {
    case KEY_INTEGER: return SHAPE_NUMBER;
    case KEY_ROWID: return SHAPE_NAMES;
    default: return (enum shape)(SHAPE_KEY + (width < 1 ? 0 : width > most ? most : width - 1));
    }
}

struct tbl *state_find_table(const struct store *s, const char *name, size_t len, enum shape shape) {
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (sqlite3_strnicmp(s->tbls[i]->name, name, (int)len) == 0 && strlen(s->tbls[i]->name) == len &&
            (s->tbls[i]->shape == shape || s->tbls[i]->shape == SHAPE_NONE))
            return s->tbls[i];
    return NULL;
}

static int make_registers(struct store *s, struct tbl *t, enum shape shape) {
    int err = shape == SHAPE_NUMBER ? sql_exec(s->db, "CREATE TABLE r%u(k INTEGER PRIMARY KEY, b BLOB)", t->no)
                                    : sql_exec(s->db, "CREATE TABLE r%u(k BLOB PRIMARY KEY, b BLOB) WITHOUT ROWID", t->no);
    if (err || (err = sql_exec(s->db, "UPDATE tbl SET shape=%d WHERE no=%u", shape, t->no)))
        return err;
    t->shape = shape;
    return tbl_statements(s, t);
}

int state_table(struct store *s, const char *name, size_t len, enum shape shape, struct tbl **out) {
    assert(shape > SHAPE_NONE && shape <= SHAPE_NAMES);
    if ((*out = state_find_table(s, name, len, shape)) && (*out)->shape == shape)
        return 0;
    assert(s->in_tx);
    s->elsewhere_known = false;
    uint32_t no = s->tbls_count ? s->tbls[s->tbls_count - 1]->no + 1 : 1;
    int err = *out ? 0 : sql_exec(s->db, "INSERT INTO tbl VALUES(%u, '%.*q', 0, 0, 0, 0, 0)", no, (int)len, name);
    if (!err && !*out)
        err = tbls_add(s, no, name, len, out);
    return err ? err : make_registers(s, *out, shape);
}

int state_column(struct store *s, struct tbl *t, const char *name, size_t len, uint32_t *no) {
    for (uint32_t i = 0; i < t->columns_count; i++)
        if (sqlite3_strnicmp(t->columns[i], name, (int)len) == 0 && strlen(t->columns[i]) == len) {
            *no = i;
            return 0;
        }
    assert(s->in_tx);
    *no = t->columns_count;
    s->elsewhere_known = false;
    int err = sql_exec(s->db, "INSERT INTO col VALUES(%u, %u, '%.*q', 0)", t->no, t->columns_count, (int)len, name);
    return err ? err : tbl_column(t, name, len, COLUMN_NEVER);
}

int state_place_column(struct store *s, struct tbl *t, uint32_t no, int32_t placed) {
    t->moves[no].placed = placed;
    if (t->moves[no].noted == placed)
        return 0;
    assert(s->in_tx);
    t->moves[no].noted = placed;
    return sql_exec(s->db, "UPDATE col SET placed=%d WHERE tbl=%u AND no=%u", placed, t->no, no);
}

static int save_tables(struct store *s) {
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        if (!t->dirty)
            continue;
        int64_t captured = t->captured ? CAPTURED : t->itself ? CAPTURED_ITSELF : CAPTURED_NOT;
        const int64_t values[] = {t->rows, t->last_change_ms, captured, t->placed, t->no};
        for (int v = 0; v < 5; v++)
            sqlite3_bind_int64(s->s_table, v + 1, values[v]);
        int err = sql_run(s->s_table);
        if (err)
            return err;
        t->dirty = false;
    }
    return 0;
}

/* ---- batches that cannot be taken: known by program version too, since a newer program may read them */

bool state_is_bad(struct store *s, uint32_t origin, uint64_t version) {
    int64_t n = 0;
    if (!s->any_bad)
        return false;
    sql_int(s->db, 0, &n, "SELECT count(*) FROM meta WHERE k='bad %u %llu %q'", origin, (unsigned long long)version, STARLING_VERSION);
    return n != 0;
}

int state_set_bad(struct store *s, struct bad_batch bad) {
    return sql_exec(s->db, "INSERT OR IGNORE INTO meta VALUES('bad %u %llu %q', 1)", bad.origin, (unsigned long long)bad.version,
                    STARLING_VERSION);
}

/* ---- transactions */

int state_begin(struct store *s) {
    if (s->in_tx)
        return 0;
    int err = sql_run(s->s_begin);
    s->in_tx = err == 0;
    return err;
}

int state_commit(struct store *s) {
    assert(s->in_tx);
    int err;
    if ((err = save_origins(s)) || (err = save_tables(s)) || (err = save_hot(s)) || (err = sql_run(s->s_commit)))
        return err;
    s->in_tx = false;
    return 0;
}

static void drop_caches(struct store *s) {
    tables_unload(s);
    same_release(s);
    for (uint32_t i = 0; i < s->tbls_count; i++)
        tbl_free(s->tbls[i]);
    free(s->tbls);
    s->tbls = NULL;
    s->tbls_count = 0;
}

int state_reload(struct store *s) {
    int err;
    drop_caches(s);
    if ((err = load_hot(s)) || (err = load_origins(s)) || (err = load_tables(s)) || (err = numbers_load(s)) || (err = first_name_load(s)) ||
        (err = same_load(s)) || (err = find_own(s)))
        return err;
    int64_t bad;
    if ((err = sql_int(s->db, 0, &bad, "SELECT count(*) FROM meta WHERE k GLOB 'bad *'")))
        return err;
    s->any_bad = bad != 0;
    if ((err = sql_int(s->db, 0, &bad, "SELECT count(*) FROM large")))
        return err;
    s->too_large = (uint32_t)bad;
    if ((err = sql_int(s->db, 0, &bad, "SELECT v FROM meta WHERE k='recapture'"))) /* when, in ms */
        return err;
    s->recapture = s->again_due = bad != 0;
    s->recaptured_at = hlc_of_ms((uint64_t)bad);
    if ((err = sql_int(s->db, 0, &s->adopted_ms, "SELECT v FROM meta WHERE k='adopted'")))
        return err;
    if (s->hot.published > s->origins[s->own].version) /* another key: an identity of its own, which has written nothing */
        s->hot.published = s->origins[s->own].version;
    return sql_int(s->db, 0, &s->open_conflicts, "SELECT total(n) FROM open");
}

void state_rollback(struct store *s) {
    if (!s->in_tx)
        return;
    sql_run(s->s_rollback);
    s->in_tx = false;
}

/* Versions that the lost state had given away must not come again with other content: an epoch that was never used. */
int state_recapture(struct store *s) {
    struct origin me = s->origin_ids[s->own];
    me.epoch = (uint32_t)(store_wall_ms(s) / 1000);
    if (me.epoch <= s->config.epoch_above)
        me.epoch = s->config.epoch_above + 1;
    int err = state_begin(s);
    int64_t now = store_wall_ms(s);
    if (err || (err = sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('recapture', %lld)", (long long)now)) ||
        (err = state_origin(s, &me, &s->own)))
        return err;
    memcpy(s->origins[s->own].key, s->config.key, NODE_KEY_BYTES);
    s->origins[s->own].keyed = s->origins[s->own].changed = true;
    s->hot.epoch = me.epoch;
    s->recapture = true;
    s->recaptured_at = hlc_of_ms((uint64_t)now);
    return state_commit(s);
}

int state_sync(struct store *s) { return sql_sync(s->db); }

/* Our only connection, so no other one can checkpoint at the same time. In quiet moments, or when the WAL has become long. */
int state_checkpoint(struct store *s, bool quiet) {
    if (s->wal_pages < (quiet ? 500 : 16000))
        return 0;
    s->wal_pages = 0;
    int rc = sqlite3_wal_checkpoint_v2(s->db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    return rc == SQLITE_OK || rc == SQLITE_BUSY ? 0 : appfile_error(rc);
}

static int count_pages(void *ctx, sqlite3 *db, const char *name, int pages) {
    (void)db;
    (void)name;
    ((struct store *)ctx)->wal_pages = pages;
    return SQLITE_OK;
}

/* ---- opening */

static const struct {
    size_t at;
    const char *text;
} STATEMENTS[] = {
#define S(field, text)                                                                                                                     \
    { offsetof(struct store, field), text }
    S(s_begin, "BEGIN IMMEDIATE"),
    S(s_commit, "COMMIT"),
    S(s_rollback, "ROLLBACK"),
    S(s_hot, "UPDATE hot SET note_seq=?, note_nonce=?, hlc=?, digest_a=?, digest_b=?, base=?, flight_seq=?, projected_seq=?, published=?,"
             " schema_sent=?, shown_ms=?, created=?, epoch=?"),
    S(s_table, "UPDATE tbl SET rows=?, last_change=?, captured=?, placed=? WHERE no=?"),
    S(s_log_put, "INSERT INTO log VALUES(?,?)"),
    S(s_log_get, "SELECT b FROM log WHERE id=?"),
    S(s_extra_get, "SELECT b FROM extra WHERE tbl=? AND who=?"),
    S(s_extra_put, "INSERT INTO extra VALUES(?,?,?) ON CONFLICT DO UPDATE SET b=excluded.b"),
    S(s_extra_del, "DELETE FROM extra WHERE tbl=? AND who=?"),
    S(s_flight_put, "INSERT INTO flight VALUES(?,?,?,?,?)"),
    S(s_flight_del, "DELETE FROM flight WHERE seq<=?"),
    S(s_shown_put, "INSERT OR REPLACE INTO shown VALUES(?,?,?,?,?)"),
    S(s_shown_del, "DELETE FROM shown WHERE name=?"),
    S(s_open_put, "INSERT INTO open VALUES(?,?,?) ON CONFLICT DO UPDATE SET n=excluded.n"),
    S(s_open_del, "DELETE FROM open WHERE tbl=? AND who=?"),
    S(s_seen_put, "INSERT OR IGNORE INTO seen VALUES(?,?,?)"),
    S(s_gone_put, "INSERT OR IGNORE INTO gone VALUES(?,?,?,?)"),
    S(s_given_put, "INSERT OR IGNORE INTO given VALUES(?,?,?)"),
    S(s_origin_put,
      "INSERT INTO origin(no, node, epoch, key, version, chain, knew, shown, known) VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(no) DO "
      "UPDATE SET key=excluded.key,"
      " version=excluded.version, chain=excluded.chain, knew=excluded.knew, shown=excluded.shown, known=excluded.known"),
#undef S
};

static sqlite3_stmt **statement(struct store *s, size_t i) { return (sqlite3_stmt **)(void *)((char *)s + STATEMENTS[i].at); }

/* States that were begun before a name could have several tables: each has one, of whatever kind. */
static int allow_shapes(struct store *s) {
    int64_t old, no = 0, key;
    int err = sql_int(s->db, 0, &old, "SELECT count(*) FROM sqlite_schema WHERE name='tbl' AND sql LIKE '%%name TEXT UNIQUE%%'");
    if (err || !old || (err = state_begin(s)) ||
        (err = sql_exec(s->db,
                        "ALTER TABLE tbl RENAME TO old_tbl;" TABLE_OF_TABLES "INSERT INTO tbl SELECT * FROM old_tbl; DROP TABLE old_tbl")))
        return err;
    while (!err && !(err = sql_int(s->db, 0, &no, "SELECT min(no) FROM tbl WHERE shape=%d AND no>%lld", SHAPE_KEY, (long long)no)) && no) {
        sqlite3_stmt *q;
        if ((err = sql_prepare(s->db, &q, "SELECT k FROM r%lld LIMIT 1", (long long)no)))
            break;
        struct rowid who = {.text = true};
        if ((key = sql_step(q)) == 1) {
            who.key = sqlite3_column_blob(q, 0);
            who.key_len = (size_t)sqlite3_column_bytes(q, 0);
            err = sql_exec(s->db, "UPDATE tbl SET shape=%d WHERE no=%lld", state_shape_of(&who), (long long)no);
        }
        sqlite3_finalize(q);
        err = key < 0 ? (int)key : err;
    }
    if (err || (err = sql_run(s->s_commit)))
        return err;
    s->in_tx = false;
    return state_sync(s);
}

/* States that were begun before tables without a key were a kind of their own: what this file had, what others told of theirs, and where nobody said
 * anything, what all rows are known by. */
static int allow_names(struct store *s) {
    static const char BY_KEY[] =
        "SELECT no FROM tbl WHERE shape=%d AND no>%lld AND NOT EXISTS(SELECT 1 FROM meta WHERE k='key ' || no) AND NOT "
        "EXISTS(SELECT 1 FROM told_column c WHERE c.tbl=tbl.name AND c.kind & 15 <> %d) ORDER BY no LIMIT 1";
    int64_t done, no = 0, others;
    int err = sql_int(s->db, 0, &done, "SELECT count(*) FROM meta WHERE k='names'");
    if (err || done || (err = state_begin(s)) ||
        (err = sql_exec(s->db, "UPDATE tbl SET shape=%d WHERE shape=%d AND EXISTS(SELECT 1 FROM meta WHERE k='key ' || no AND length(v)=0)",
                        SHAPE_NAMES, SHAPE_KEY)))
        return err;
    while (!err && !(err = sql_int(s->db, 0, &no, BY_KEY, SHAPE_KEY, (long long)no, KEY_ROWID)) && no) {
        err = sql_int(s->db, 0, &others, "SELECT count(*) FROM r%lld WHERE length(k)<>21 OR substr(k, 1, 5)<>x'%02x10000000'",
                      (long long)no, VALUE_BLOB);
        if (!err && !others)
            err = sql_exec(s->db, "UPDATE tbl SET shape=%d WHERE no=%lld", SHAPE_NAMES, (long long)no);
    }
    if (err || (err = sql_exec(s->db, "INSERT INTO meta VALUES('names', 1)")) || (err = sql_run(s->s_commit)))
        return err;
    s->in_tx = false;
    return state_sync(s);
}

static int check_format(struct store *s, char *why, size_t why_len) {
    int64_t format;
    int err = sql_int(s->db, 0, &format, "SELECT count(*) FROM sqlite_schema WHERE name='meta'");
    if (!err && format == 0) {
        randombytes_buf(s->state_id, sizeof s->state_id);
        char hex[33];
        sodium_bin2hex(hex, sizeof hex, s->state_id, sizeof s->state_id);
        if ((err = state_begin(s)) || (err = sql_exec(s->db, "%s%s", SCHEMA, SCHEMAS)) ||
            (err = sql_exec(s->db, "INSERT INTO meta VALUES('format', %d), ('id', x'%s'), ('names', 1)", STATE_FORMAT, hex)))
            return err;
        err = sql_run(s->s_commit);
        s->in_tx = false;
        return err ? err : state_sync(s);
    }
    if (err || (err = sql_int(s->db, 0, &format, "SELECT v FROM meta WHERE k='format'")))
        return err;
    if (format != STATE_FORMAT) {
        snprintf(why, why_len,
                 "%s was written by another version of starlingd (format %lld, this one reads %d): run the version that wrote it",
                 s->config.state_path, (long long)format, STATE_FORMAT);
        return ERR_FORMAT;
    }
    sqlite3_stmt *q;
    if ((err = sql_prepare(s->db, &q, "SELECT v FROM meta WHERE k='id'")))
        return err;
    err = sql_step(q) == 1 && sqlite3_column_bytes(q, 0) == sizeof s->state_id ? 0 : ERR_CORRUPT;
    if (!err)
        memcpy(s->state_id, sqlite3_column_blob(q, 0), sizeof s->state_id);
    sqlite3_finalize(q);
    if (!err)
        err = allow_shapes(s);
    if (!err)
        err = sql_exec(s->db, "%s", SCHEMAS);
    return err ? err : allow_names(s);
}

int state_open(struct store *s, char *why, size_t why_len) {
    const struct store_config *c = &s->config;
    int rc =
        sqlite3_open_v2(c->state_path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI, c->vfs);
    int err = rc == SQLITE_OK ? 0 : appfile_error(rc);
    if (!err) {
        sqlite3_extended_result_codes(s->db, 1);
        err = sql_exec(s->db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-4096;"
                              " PRAGMA wal_autocheckpoint=0; PRAGMA temp_store=MEMORY");
    }
    if (!err) {
        sqlite3_wal_hook(s->db, count_pages, s);
        err = sql_prepare(s->db, &s->s_begin, "BEGIN IMMEDIATE");
        if (!err)
            err = sql_prepare(s->db, &s->s_commit, "COMMIT");
    }
    if (!err)
        err = check_format(s, why, why_len);
    for (size_t i = 2; !err && i < sizeof STATEMENTS / sizeof *STATEMENTS; i++)
        err = sql_prepare(s->db, statement(s, i), "%s", STATEMENTS[i].text);
    if (!err)
        err = state_sweep(s);
    if (!err)
        err = state_reload(s);
    if (err && !*why)
        snprintf(why, why_len, "cannot use the state database %s: %s%s%s: %s", c->state_path, err_text(err), s->db ? ": " : "",
                 s->db ? sqlite3_errmsg(s->db) : "",
                 err == ERR_FULL || err == ERR_IO ? "free space on that disk" : "check that folder, or move the state away to start anew");
    return err;
}

void state_close(struct store *s) {
    state_rollback(s);
    drop_caches(s);
    origins_release(s);
    for (size_t i = 0; i < sizeof STATEMENTS / sizeof *STATEMENTS; i++) {
        sqlite3_finalize(*statement(s, i));
        *statement(s, i) = NULL;
    }
    sqlite3_close(s->db);
    s->db = NULL;
}
