/* The application's tables, bound to our numbers and to prepared statements. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/same.h"
#include "node/store/recheck.h"
#include "proto/err.h"

/* ---- SQL text */

static void put_name(sqlite3_str *q, const char *name) { sqlite3_str_appendf(q, "\"%w\"", name); }

static void put_where_key(sqlite3_str *q, const struct table *t) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, " WHERE %s=?", t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        sqlite3_str_appendf(q, "%s\"%w\"%s=?", i ? " AND " : " WHERE ", c->name,
                            t->key_kind == KEY_COLUMNS ? schema_collate(c->collation) : "");
    }
}

static int prepare(sqlite3 *db, sqlite3_str *q, sqlite3_stmt **out) {
    char *text = sqlite3_str_finish(q);
    if (!text)
        return ERR_NOMEM;
    int err = sql_prepare(db, out, "%s", text);
    sqlite3_free(text);
    return err;
}

static int prepare_read(sqlite3 *db, struct tio *io, sqlite3_stmt **out) {
    sqlite3_str *q = sqlite3_str_new(db);
    sqlite3_str_appendall(q, "SELECT ");
    for (uint32_t i = 0; i < io->count; i++) {
        if (i)
            sqlite3_str_appendchar(q, 1, ',');
        put_name(q, io->names[i]);
    }
    if (io->count == 0)
        sqlite3_str_appendall(q, "1");
    sqlite3_str_appendf(q, " FROM main.\"%w\"", io->table->name);
    put_where_key(q, io->table);
    return prepare(db, q, out);
}

/* A conflict clause of the schema's own would throw out rows, swallow ours or end our transaction. */
const char *tables_or_abort(const struct tio *io) { return io->plain ? "" : " OR ABORT"; }

/* at NULL: all columns. */
static int prepare_insert(struct store *s, const struct tio *io, const uint32_t *at, uint32_t count, sqlite3_stmt **out) {
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    const struct table *t = io->table;
    sqlite3_str_appendf(q, "INSERT%s INTO main.\"%w\"(", tables_or_abort(io), t->name);
    bool number = t->key_kind != KEY_COLUMNS;
    if (number)
        put_name(q, t->key_kind == KEY_ROWID ? t->rowid : t->columns[t->key[0]].name);
    for (uint32_t i = 0; i < count; i++) {
        if (i || number)
            sqlite3_str_appendchar(q, 1, ',');
        put_name(q, io->names[at ? at[i] : i]);
    }
    sqlite3_str_appendall(q, ") VALUES(?");
    for (uint32_t i = 1; i < count + number; i++)
        sqlite3_str_appendall(q, ",?");
    sqlite3_str_appendchar(q, 1, ')');
    return prepare(s->app.writer, q, out);
}

static int prepare_delete(struct store *s, struct tio *io) {
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendf(q, "DELETE FROM main.\"%w\"", io->table->name);
    put_where_key(q, io->table);
    return prepare(s->app.writer, q, &io->del);
}

static int prepare_update(struct store *s, const struct tio *io, const uint32_t *at, uint32_t count, sqlite3_stmt **out) {
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendf(q, "UPDATE%s main.\"%w\" SET ", tables_or_abort(io), io->table->name);
    for (uint32_t i = 0; i < count; i++) {
        if (i)
            sqlite3_str_appendchar(q, 1, ',');
        put_name(q, io->names[at[i]]);
        sqlite3_str_appendall(q, "=?");
    }
    put_where_key(q, io->table);
    return prepare(s->app.writer, q, out);
}

/* NULL: it is not among them, and *free_one is for it. */
static sqlite3_stmt *find_some(struct some_stmt *all, unsigned n, uint32_t *next, const uint32_t *at, uint32_t count,
                               struct some_stmt **free_one) {
    for (unsigned i = 0; i < n; i++)
        if (all[i].stmt && all[i].count == count && memcmp(all[i].columns, at, count * sizeof *at) == 0)
            return all[i].stmt;
    *free_one = &all[(*next)++ % n];
    return NULL;
}

static void release_some(struct some_stmt *u) {
    sqlite3_finalize(u->stmt);
    free(u->columns);
    memset(u, 0, sizeof *u);
}

static int keep_columns(struct some_stmt *u, const uint32_t *at, uint32_t count) {
    release_some(u);
    if (!(u->columns = malloc((count ? count : 1) * sizeof *at)))
        return ERR_NOMEM;
    memcpy(u->columns, at, count * sizeof *at);
    u->count = count;
    return 0;
}

int tables_update_stmt(struct store *s, struct tio *io, const uint32_t *at, uint32_t count, sqlite3_stmt **out) {
    struct some_stmt *u = NULL;
    int err = 0;
    if (!(*out = find_some(io->updates, sizeof io->updates / sizeof *io->updates, &io->updates_next, at, count, &u)) &&
        !(err = keep_columns(u, at, count)) && !(err = prepare_update(s, io, at, count, &u->stmt)))
        *out = u->stmt;
    return err;
}

int tables_insert_stmt(struct store *s, struct tio *io, const uint32_t *at, uint32_t count, sqlite3_stmt **out) {
    struct some_stmt *u = NULL;
    int err = 0;
    if (!(*out = find_some(io->inserts, sizeof io->inserts / sizeof *io->inserts, &io->inserts_next, at, count, &u)) &&
        !(err = keep_columns(u, at, count)) && !(err = prepare_insert(s, io, at, count, &u->stmt)))
        *out = u->stmt;
    return err;
}

/* ---- keys */

/* Normalised key: per column a class byte, then: INT 8 bytes, FLOAT 8 bytes (only when not integral), TEXT and BLOB u32 length and bytes.
 * Two keys are equal bytes exactly when SQLite compares them equal. */
void tables_put_key_value(struct buf *b, const struct value *v, enum collation collation) {
    uint8_t head = (uint8_t)v->type;
    if (v->type == VALUE_FLOAT && v->as.f >= -9.2233720368547758e18 && v->as.f < 9.2233720368547758e18 &&
        (double)(int64_t)v->as.f == v->as.f) {
        int64_t i = (int64_t)v->as.f;
        head = VALUE_INT;
        buf_append(b, &head, 1);
        buf_append(b, &i, 8);
        return;
    }
    buf_append(b, &head, 1);
    if (v->type == VALUE_INT || v->type == VALUE_FLOAT) {
        buf_append(b, &v->as, 8);
        return;
    }
    if (v->type == VALUE_NULL)
        return;
    size_t len = v->len;
    if (v->type == VALUE_TEXT && collation == COLLATION_RTRIM)
        while (len && v->p[len - 1] == ' ')
            len--;
    uint32_t n = (uint32_t)len;
    buf_append(b, &n, 4);
    uint8_t *to = buf_reserve(b, len);
    if (!to)
        return;
    if (len)
        memcpy(to, v->p, len);
    if (v->type == VALUE_TEXT && collation == COLLATION_NOCASE)
        for (size_t i = 0; i < len; i++)
            if (to[i] >= 'A' && to[i] <= 'Z')
                to[i] = (uint8_t)(to[i] + 32);
    b->len += len;
}

int tables_key_of(struct tio *io, const struct value *key_values, struct buf *out) {
    return io->key_refs ? refs_key(io->store, io, key_values, INT64_MAX, 0, out) : tables_key_plain(io, key_values, out);
}

int tables_key_plain(struct tio *io, const struct value *key_values, struct buf *out) {
    buf_clear(out);
    for (uint32_t i = 0; i < io->table->key_count; i++)
        tables_put_key_value(out, &key_values[i], io->table->columns[io->table->key[i]].collation);
    return out->failed;
}

/* Reads one value of a normalised key. */
static int key_value(const uint8_t **at, const uint8_t *end, struct value *v) {
    uint32_t n;
    memset(v, 0, sizeof *v);
    v->type = (enum value_type) * (*at)++;
    switch (v->type) {
    case VALUE_NULL: return 0;
    case VALUE_INT:
    case VALUE_FLOAT:
        if (end - *at < 8)
            return ERR_MALFORMED;
        memcpy(&v->as, *at, 8);
        *at += 8;
        return 0;
    case VALUE_TEXT:
    case VALUE_BLOB:
    case VALUE_REF:
        if (end - *at < 4)
            return ERR_MALFORMED;
        memcpy(&n, *at, 4);
        *at += 4;
        if (n > (size_t)(end - *at))
            return ERR_MALFORMED;
        v->p = *at;
        v->len = n;
        *at += n;
        if (v->type == VALUE_REF) {
            struct value_ref ref;
            if (!value_ref_unpack(&ref, v->p, v->len))
                return ERR_MALFORMED;
            v->as.i = ref.number;
        }
        return 0;
    default: return ERR_MALFORMED;
    }
}

int tables_key_check(const uint8_t *key, size_t len) {
    const uint8_t *at = key, *end = key + len;
    struct value v;
    int err = len ? 0 : ERR_MALFORMED;
    while (!err && at < end)
        err = key_value(&at, end, &v);
    return err;
}

int tables_key_values(const struct rowid *who, struct value *out, uint32_t max) {
    uint32_t n = 0;
    if (!who->text) {
        out[0] = (struct value){.type = VALUE_INT, .as.i = who->number};
        return 1;
    }
    const uint8_t *at = who->key, *end = who->key + who->key_len;
    while (at < end) {
        if (n == max || key_value(&at, end, &out[n++]))
            return ERR_MALFORMED;
    }
    return (int)n;
}

int tables_key_shown(struct store *s, const struct tbl *t, const struct rowid *who, struct value *out, uint32_t max) {
    int n = tables_key_values(who, out, max);
    if (n > 0 && !who->text)
        out[0].as.i = numbers_today(s, t, who);
    int err = n > 0 ? refs_show(s, out, (uint32_t)n) : 0;
    return err < 0 ? err : n;
}

int tables_bind_key(struct store *s, sqlite3_stmt *stmt, int at, const struct rowid *who) {
    struct value values[16];
    int n = tables_key_values(who, values, 16);
    s->same->literal = true; /* also of a row for which another one stands, and which is about to go from the file */
    int err = n > 0 && who->text ? refs_in_file(s, values, (uint32_t)n) : 0;
    s->same->literal = false;
    if (err < 0)
        return err;
    for (int i = 0; i < n; i++)
        if (err == 1) /* what it refers to is not shown here: nor is it */
            sqlite3_bind_null(stmt, at + i);
        else
            sql_bind_value(stmt, at + i, &values[i]);
    return n < 0 ? n : at + n;
}

int tables_bind_place(struct tio *io, sqlite3_stmt *stmt, int at, const struct rowid *who) {
    if (io->table->key_kind == KEY_INTEGER) {
        sqlite3_bind_int64(stmt, at, numbers_shown(io->tbl, who));
        return at + 1;
    }
    if (io->table->key_kind == KEY_COLUMNS)
        return tables_bind_key(io->store, stmt, at, who);
    int64_t rowid;
    int found = keyless_rowid(io, who, &rowid);
    if (found < 0)
        return found;
    if (found)
        sqlite3_bind_int64(stmt, at, rowid);
    else
        sqlite3_bind_null(stmt, at);
    return at + 1;
}

/* ---- conversions: a value of another storage class than the column prefers may be stored otherwise than it came, and so may text that is none in the
 * file's encoding */

/* Does SQLite make UTF-16 of it, and the same of that again? Not what is no UTF-8, surrogates, U+FFFE and U+FFFF. */
static bool fits_utf16(const uint8_t *p, size_t len) {
    static const uint32_t LEAST[] = {0, 0x80, 0x800, 0x10000};
    for (size_t i = 0; i < len;) {
        uint32_t first = p[i++], more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        uint32_t code = more ? first & (0x3fu >> more) : first;
        if ((more && (first < 0xc0 || first > 0xf7)) || len - i < more)
            return false;
        for (uint32_t k = 0; k < more; k++, i++) {
            if ((p[i] & 0xc0) != 0x80)
                return false;
            code = code << 6 | (p[i] & 0x3f);
        }
        if (code < LEAST[more] || code > 0x10ffff || (code & 0xfffff800) == 0xd800 || (code & 0xfffffffe) == 0xfffe)
            return false;
    }
    return true;
}

static bool is_recoded(const struct tio *io, const struct value *v) {
    return v->type == VALUE_TEXT && io->store->app.utf16 && !fits_utf16(v->p, v->len);
}

bool tables_converts(const struct tio *io, uint32_t at, const struct value *v) {
    if (is_recoded(io, v))
        return true;
    switch (io->table->columns[io->order[at]].affinity) {
    case AFFINITY_BLOB: return false;
    case AFFINITY_TEXT: return v->type == VALUE_INT || v->type == VALUE_FLOAT;
    case AFFINITY_REAL: return v->type == VALUE_INT || v->type == VALUE_TEXT;
    case AFFINITY_INTEGER:
    case AFFINITY_NUMERIC: return v->type == VALUE_TEXT || v->type == VALUE_FLOAT;
    }
    return false;
}

int tables_convert(struct store *s, struct tio *io, uint32_t at, const struct value *v, uint64_t *hash) {
    static const char *const TYPES[] = {"BLOB", "TEXT", "NUMERIC", "INTEGER", "REAL"};
    sqlite3_stmt *put = NULL, *get = NULL, *recode = NULL;
    enum affinity a = io->table->columns[io->order[at]].affinity;
    struct value text;
    int err;
    if (is_recoded(io, v)) { /* a parameter has the encoding of the connection's file */
        if ((err = sql_prepare(s->app.reader, &recode, "SELECT ?1")))
            return err;
        sql_bind_value(recode, 1, v);
        if ((err = sql_step(recode)) != 1)
            goto out;
        sql_column_value(recode, 0, &text);
        v = &text;
    }
    /* a TEMP table of one column a kind; SQLite's own conversion decides. Rare: schemas differ, or '581B' in an INTEGER column. */
    if ((err = sql_exec(s->db, "CREATE TEMP TABLE IF NOT EXISTS convert_%s(v %s)", TYPES[a], TYPES[a])) ||
        (err = sql_prepare(s->db, &put, "INSERT OR REPLACE INTO temp.convert_%s(rowid, v) VALUES(1, ?)", TYPES[a])) ||
        (err = sql_prepare(s->db, &get, "SELECT v FROM temp.convert_%s", TYPES[a])))
        goto out;
    sql_bind_value(put, 1, v);
    if ((err = sql_run(put)))
        goto out;
    if ((err = sql_step(get)) == 1) {
        struct value got;
        sql_column_value(get, 0, &got);
        *hash = value_hash(&got);
        err = 0;
    }
out:
    sqlite3_finalize(put);
    sqlite3_finalize(get);
    sqlite3_finalize(recode);
    return err;
}

/* 1: the file stores this key as it is. What it would store otherwise would be another row: a new one, written here. (Whole numbers compare equal,
 * whether they are REAL or not.) */
int tables_keeps_key(struct store *s, struct tio *io, const struct rowid *who) {
    struct value values[16];
    int n = io->table->key_kind == KEY_COLUMNS ? tables_key_values(who, values, 16) : 0, kept = n < 0 ? n : 1;
    for (uint32_t i = 0; (int)i < n && i < io->table->key_count && kept == 1; i++) {
        uint64_t hash = 0;
        bool text = values[i].type == VALUE_TEXT || io->table->columns[io->order[i]].affinity == AFFINITY_TEXT;
        if (!text || values[i].type == VALUE_REF || !tables_converts(io, i, &values[i]))
            continue;
        int err = tables_convert(s, io, i, &values[i], &hash);
        kept = err ? err : hash == value_hash(&values[i]);
    }
    return kept;
}

/* In the state's `meta`: "converted TABLE COLUMN", the affinity that did it. */
int tables_note_converted(struct store *s, struct tio *io, uint32_t at) {
    if (io->converted[at])
        return 0;
    io->converted[at] = true;
    return sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('converted %u %u', %d)", io->tbl->no, io->numbers[at],
                    io->table->columns[io->order[at]].affinity);
}

bool tables_converted(const struct tio *io, uint32_t at) { return io->converted[at]; }

static int load_converted(struct store *s, struct tio *io) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q,
                               "SELECT CAST(substr(k, length('converted %u ') + 1) AS INTEGER), v FROM meta WHERE k GLOB 'converted %u *'",
                               io->tbl->no, io->tbl->no);
    if (err)
        return err;
    while ((row = sql_step(q)) == 1) {
        uint32_t number = (uint32_t)sqlite3_column_int64(q, 0), at = number < io->by_number_count ? io->by_number[number] : 0;
        if (at && sqlite3_column_int(q, 1) == (int)io->table->columns[io->order[at - 1]].affinity)
            io->converted[at - 1] = true;
    }
    sqlite3_finalize(q);
    return row;
}

/* The hash of what a row shows in a column that was added after it was written: the declared default. */
int tables_default_hash(struct store *s, struct tio *io, uint32_t at, uint64_t *hash) {
    if (!io->defaults && !(io->defaults = calloc(io->count + 1, sizeof *io->defaults)))
        return ERR_NOMEM;
    if (io->defaults[at]) {
        *hash = io->defaults[at];
        return 0;
    }
    struct value v = {.type = VALUE_NULL};
    sqlite3_stmt *q = NULL, *e = NULL;
    int err = sql_prepare(s->app.reader, &q, "SELECT dflt_value FROM pragma_table_info(%Q) WHERE name=%Q AND dflt_value IS NOT NULL",
                          io->table->name, io->names[at]);
    if (!err && (err = sql_step(q)) == 1) {
        const char *text = (const char *)sqlite3_column_text(q, 0);
        bool word = sqlite3_column_bytes(q, 0) > 0 && (text[0] == '_' || (text[0] | 32) >= 'a') && !strpbrk(text, " ('\"");
        static const char *const names[] = {"null", "true", "false", "current_time", "current_date", "current_timestamp"};
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
            word = word && sqlite3_stricmp(text, names[i]) != 0;
        err = word ? sql_prepare(s->app.reader, &e, "SELECT %Q", text) /* DEFAULT active: a bare word is a string there */
                   : sql_prepare(s->app.reader, &e, "SELECT %s", text);
        if (!err && sql_step(e) == 1)
            sql_column_value(e, 0, &v);
        err = 0; /* what cannot be told counts as NULL: then the column is sent once more than needed */
    }
    if (!err) {
        *hash = value_hash(&v);
        if (tables_converts(io, at, &v))
            err = tables_convert(s, io, at, &v, hash);
        io->defaults[at] = *hash;
    }
    sqlite3_finalize(e);
    sqlite3_finalize(q);
    return err;
}

/* ---- column sets */

static void column_set_free(struct column_set *c) {
    free(c->names);
    free(c->lens);
    free(c->at);
    free(c);
}

struct column_set *tables_column_set_new(struct tio *io, const uint32_t *at, uint32_t count) {
    struct column_set *c = calloc(1, sizeof *c);
    size_t n = count ? count : 1;
    if (!c || !(c->names = malloc(n * sizeof *c->names)) || !(c->lens = malloc(n * sizeof *c->lens)) ||
        !(c->at = malloc(n * sizeof *c->at))) {
        if (c)
            column_set_free(c);
        return NULL;
    }
    c->count = count;
    for (uint32_t i = 0; i < count; i++) {
        c->at[i] = at[i];
        c->names[i] = io->names[at[i]];
        c->lens[i] = io->lens[at[i]];
    }
    return c;
}

const struct column_set *tables_columns(struct tio *io, const uint32_t *at, uint32_t count) {
    for (uint32_t i = io->sets_count; i-- > 0;)
        if (io->sets[i]->count == count && memcmp(io->sets[i]->at, at, count * sizeof *at) == 0)
            return io->sets[i];
    if (io->sets_count == io->sets_cap) {
        uint32_t cap = io->sets_cap ? io->sets_cap * 2 : 4;
        struct column_set **p = realloc(io->sets, cap * sizeof(struct column_set *));
        if (!p)
            return NULL;
        io->sets = p;
        io->sets_cap = cap;
    }
    struct column_set *c = tables_column_set_new(io, at, count);
    if (c)
        io->sets[io->sets_count++] = c;
    return c;
}

static void drop_sets(struct tio *io) {
    for (uint32_t i = 0; i < io->sets_count; i++)
        column_set_free(io->sets[i]);
    io->sets_count = 0;
}

void tables_batch_done(struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].sets_count > 64)
            drop_sets(&s->tios[i]);
}

/* ---- keys with NULL in them */

void tables_put_null_test(sqlite3_str *q, const struct tio *io, const char *word, bool null) {
    const struct table *t = io->table;
    uint32_t n = 0;
    for (uint32_t i = 0; io->null_key && i < t->key_count; i++)
        if (!t->columns[t->key[i]].not_null)
            sqlite3_str_appendf(q, "%s\"%w\"%s", n++ ? (null ? " OR " : " AND ") : word, t->columns[t->key[i]].name,
                                null ? " IS NULL" : " NOT NULL");
}

int tables_count_nulls(struct store *s, struct tio *io) {
    int64_t n = 0;
    if (!io->null_key)
        return 0;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    sqlite3_str_appendf(q, "SELECT count(*) FROM main.\"%w\"", io->table->name);
    tables_put_null_test(q, io, " WHERE ", true);
    char *text = sqlite3_str_finish(q);
    int err = text ? sql_int(s->app.reader, 0, &n, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    if (err)
        return err;
    s->stored_changed |= io->tbl->null_keys != (uint64_t)n;
    io->tbl->null_keys = (uint64_t)n;
    io->tbl->nulls_changed = false;
    return 0;
}

/* ---- loading */

static void tio_release(struct tio *io) {
    drop_sets(io);
    holders_unload(io);
    free(io->sets);
    if (io->all)
        column_set_free(io->all);
    free(io->defaults);
    for (unsigned i = 0; i < sizeof io->updates / sizeof *io->updates; i++)
        release_some(&io->updates[i]);
    for (unsigned i = 0; i < sizeof io->inserts / sizeof *io->inserts; i++)
        release_some(&io->inserts[i]);
    sqlite3_finalize(io->read);
    sqlite3_finalize(io->peek);
    sqlite3_finalize(io->insert);
    sqlite3_finalize(io->del);
    keyless_unload(io);
    rekeyed_unload(io);
    alike_unload(io);
    free(io->order);
    free(io->numbers);
    free(io->names);
    free(io->lens);
    free(io->by_number);
    free(io->converted);
    free(io->ref_to);
    free(io->afar);
    if (io->tbl)
        io->tbl->io = NULL;
}

void tables_unload(struct store *s) {
    foreign_unload(s);
    for (uint32_t i = 0; i < s->tios_count; i++)
        tio_release(&s->tios[i]);
    free(s->tios);
    free(s->by_trigger);
    s->tios = NULL;
    s->by_trigger = NULL;
    s->tios_count = s->by_trigger_count = 0;
}

static int tio_columns(struct store *s, struct tio *io) {
    const struct table *t = io->table;
    uint32_t n = t->columns_count ? t->columns_count : 1;
    io->order = calloc(n, sizeof *io->order);
    io->numbers = calloc(n, sizeof *io->numbers);
    io->names = calloc(n, sizeof *io->names);
    io->lens = calloc(n, sizeof *io->lens);
    io->converted = calloc(n, sizeof *io->converted);
    if (!io->order || !io->numbers || !io->names || !io->lens || !io->converted)
        return ERR_NOMEM;
    io->binary_key = t->key_kind == KEY_COLUMNS;
    for (uint32_t i = 0; i < t->key_count && t->key_kind == KEY_COLUMNS && !t->without_rowid && !t->strict; i++)
        io->null_key |= !t->columns[t->key[i]].not_null;
    if (t->key_kind == KEY_COLUMNS)
        for (uint32_t i = 0; i < t->key_count; i++) {
            io->order[io->count++] = t->key[i];
            if (t->columns[t->key[i]].collation != COLLATION_BINARY)
                io->binary_key = false;
        }
    for (uint32_t i = 0; i < t->columns_count; i++)
        if (!t->columns[i].key_place)
            io->order[io->count++] = i;
    uint32_t top = 0;
    for (uint32_t i = 0; i < io->count; i++) {
        io->names[i] = t->columns[io->order[i]].name;
        io->lens[i] = strlen(io->names[i]);
        int err = state_column(s, io->tbl, io->names[i], io->lens[i], &io->numbers[i]);
        if (err)
            return err;
        if (io->numbers[i] >= top)
            top = io->numbers[i] + 1;
    }
    if (!(io->by_number = calloc(top ? top : 1, sizeof *io->by_number)))
        return ERR_NOMEM;
    io->by_number_count = top;
    for (uint32_t i = 0; i < io->count; i++)
        io->by_number[io->numbers[i]] = i + 1;
    return load_converted(s, io);
}

void tables_put_key(sqlite3_str *q, const struct table *t, const char *of) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, ", %s.%s", of, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(q, ", %s.\"%w\"", of, t->columns[t->key[i]].name);
}

static int prepare_all(struct store *s, struct tio *io) {
    int err = prepare_read(s->app.reader, io, &io->read);
    if (!err)
        err = prepare_read(s->app.writer, io, &io->peek);
    if (!err)
        err = prepare_insert(s, io, NULL, io->count, &io->insert);
    return err ? err : prepare_delete(s, io);
}

static int tio_load(struct store *s, struct tio *io, const struct table *t) {
    int err;
    io->store = s;
    io->table = t;
    if ((err = state_table(s, t->name, strlen(t->name), state_shape_of_table(t), &io->tbl)))
        return err;
    io->tbl->io = io;
    bool unlike;
    if ((err = rekeyed_unlike(s, io, &unlike)))
        return err;
    if (unlike) { /* said in `tables` */
        io->tbl->io = NULL;
        io->tbl->unbound = "a migration gave it a key of as many other columns";
        io->tbl->unbound_mend = "give it an INTEGER PRIMARY KEY, or the key that it had, or rename it";
        io->tbl = NULL;
        return 0;
    }
    int64_t uniques = 0;
    if ((err = tio_columns(s, io)) ||
        (err = sql_int(s->app.reader, 0, &uniques, "SELECT count(*) FROM pragma_index_list(%Q, 'main') WHERE \"unique\" AND origin<>'pk'",
                       t->name)))
        return err;
    io->uniques = (uint32_t)uniques;
    int64_t clauses = 0;
    if (t->feeds && (err = sql_int(s->app.reader, 1, &clauses,
                                   "SELECT sql LIKE '%%conflict%%' FROM main.sqlite_schema WHERE type='table' AND name=%Q", t->name)))
        return err;
    io->plain = t->feeds && !clauses;
    if (t->autoincrement &&
        (err = sql_int(s->app.reader, 0, &io->sequence, "SELECT max(seq) FROM main.sqlite_sequence WHERE name=%Q", t->name)))
        return err;
    /* An index may have come and gone since the last look, and what waited for a look when we were ended is not known any more. */
    if (!io->uniques && !io->tbl->replacers)
        io->tbl->replacers = 1;
    if (io->uniques > io->tbl->replacers)
        io->tbl->replacers = io->uniques;
    io->tbl->replacing += !io->tbl->replacing;
    if ((t->key_kind == KEY_ROWID && (err = keyless_load(s, io))) || (err = holders_load(s, io)))
        return err;
    io->tbl->nulls_changed = io->null_key; /* the next drain counts them */
    err = prepare_all(s, io);
    if (!err)
        err = rekeyed_note(s, io);
    if (!err)
        err = policies_bind(s, io);
    if (err == ERR_INTERNAL) { /* the SQL is right: what it calls is not here, or the application has changed the table since it was read */
        char lacks[sizeof io->tbl->lacks];
        int64_t version;
        snprintf(lacks, sizeof lacks, "%s", sqlite3_errmsg(s->app.writer));
        if ((err = sql_int(s->app.reader, 0, &version, "PRAGMA main.schema_version")) || version != s->schema.version)
            return err ? err : ERR_SCHEMA; /* nothing of what was read is kept */
        snprintf(io->tbl->lacks, sizeof io->tbl->lacks, "it uses what only the application has (%.150s)", lacks);
        io->tbl->unbound = io->tbl->lacks;
        io->tbl->unbound_mend =
            "keep functions and collations of the application's own out of this table's indexes, constraints and generated columns";
        io->tbl->io = NULL;
        io->tbl = NULL;
        return 0;
    }
    return err;
}

int tables_load(struct store *s) {
    int err = 0;
    tables_unload(s);
    if ((err = recheck_restart(s)))
        return err;
    if (!(s->tios = calloc(s->schema.count ? s->schema.count : 1, sizeof *s->tios)))
        return ERR_NOMEM;
    bool began = !s->in_tx;
    int64_t utf16;
    if ((err = sql_int(s->app.reader, 0, &utf16, "SELECT encoding LIKE 'UTF-16%%' FROM pragma_encoding")) || (err = state_begin(s)))
        return err;
    s->app.utf16 = utf16;
    uint32_t top = 0;
    for (uint32_t i = 0; i < s->tbls_count; i++)
        s->tbls[i]->unbound = NULL; /* also of one that is not there any more */
    err = feed_load(s);
    for (uint32_t i = 0; i < s->schema.count && !err; i++) {
        const struct table *t = &s->schema.tables[i];
        if (t->unsupported || t->excluded || (s->held_new && moves_is_new(s, t)))
            continue;
        err = tio_load(s, &s->tios[s->tios_count++], t);
        if (t->number >= top)
            top = t->number + 1;
    }
    if (!err && !(s->by_trigger = calloc(top ? top : 1, sizeof *s->by_trigger)))
        err = ERR_NOMEM;
    if (err)
        return err;
    s->by_trigger_count = top;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl)
            s->by_trigger[s->tios[i].table->number] = &s->tios[i];
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (!s->tbls[i]->io)
            s->tbls[i]->null_keys = s->tbls[i]->replacing = 0;
    for (uint32_t i = 0; i < s->tbls_count && !err; i++) /* what is stored without being entered */
        if (!s->tbls[i]->io || !s->tbls[i]->io->holders)
            err = sql_exec(s->db, "DELETE FROM meta WHERE k='holders %u'", s->tbls[i]->no);
    if (err || (err = foreign_load(s)) || (err = refs_load(s)))
        return err;
    return began ? state_commit(s) : 0;
}
