/* Schemas of other servers: what each of them told last, what was ever here, and making here what is missing.
 *
 * Where the application migrates by itself (ddl = local) only a database that was missing here gets another server's schema: schema_sync.c. A database
 * that was made so, and each one with ddl = follow, is given the tables, columns, indexes, views and triggers that other servers tell of from then on. What was here once is not made again:
 * the application has dropped or renamed it. So DROP and RENAME are not followed, and not undone either.
 *
 * It is done between two turns of work and in a moment without readers, as a projection is; what others told is durable, and done after a restart if need
 * be, or when somebody says ddl = follow. */
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/trial.h"
#include "proto/err.h"

#define FOLLOW_READERS_MS 10000 /* who reads on and on is not waited for any longer */

/* ---- what others told */

/* A table without a name stands for what of their schema we could not read. */
static int columns_told(struct store *s, const struct batch_reader *r, const struct trial *trial, const uint8_t *node) {
    struct schema theirs = {0};
    sqlite3_stmt *q = NULL;
    bool whole = true;
    for (uint32_t i = 0; i < trial->count; i++)
        whole = whole && !(trial->why[i] && trial_is_type(batch_reader_schema(r, i), "table"));
    int err = sql_prepare(s->db, &q, "INSERT OR IGNORE INTO told_column VALUES(?, ?, ?, ?, ?)");
    if (!err && (err = schema_read(trial->db, &theirs)) && err != ERR_NOMEM) {
        whole = false;
        err = 0;
    }
    if (!err && !whole) {
        sqlite3_bind_blob(q, 1, node, NODE_ID_BYTES, SQLITE_STATIC);
        sqlite3_bind_text(q, 2, "", 0, SQLITE_STATIC);
        sqlite3_bind_text(q, 3, "", 0, SQLITE_STATIC);
        err = sql_run(q);
    }
    for (uint32_t i = 0; i < theirs.count && !err; i++) {
        const struct table *t = &theirs.tables[i];
        for (uint32_t c = 0; c < t->columns_count && !t->virtual && !err; c++) {
            sqlite3_bind_blob(q, 1, node, NODE_ID_BYTES, SQLITE_STATIC);
            sqlite3_bind_text(q, 2, t->name, -1, SQLITE_STATIC);
            sqlite3_bind_text(q, 3, t->columns[c].name, -1, SQLITE_STATIC);
            sqlite3_bind_int(q, 4, t->columns[c].key_place);
            sqlite3_bind_int(q, 5, (int)t->key_kind | ((int)t->columns[c].affinity + 1) << 4);
            err = sql_run(q);
        }
    }
    sqlite3_finalize(q);
    schema_release(&theirs);
    return err;
}

int follow_told(struct store *s, const struct batch_reader *r, const struct trial *trial, uint32_t origin, uint64_t version, bool done) {
    const uint8_t *node = s->origin_ids[origin].node;
    sqlite3_stmt *put = NULL, *old = NULL;
    int err = sql_prepare(s->db, &put, "INSERT OR REPLACE INTO told VALUES(?, ?, ?, ?)");
    if (!err && !(err = sql_prepare(s->db, &old, "DELETE FROM told_column WHERE node=?"))) {
        sqlite3_bind_blob(old, 1, node, NODE_ID_BYTES, SQLITE_STATIC);
        sqlite3_bind_blob(put, 1, node, NODE_ID_BYTES, SQLITE_STATIC);
        sqlite3_bind_int64(put, 2, origin);
        sqlite3_bind_int64(put, 3, (int64_t)version);
        sqlite3_bind_int(put, 4, done);
        if (!(err = sql_run(old)))
            err = sql_run(put);
    }
    sqlite3_finalize(old);
    sqlite3_finalize(put);
    s->elsewhere_known = s->told_kind.known = false;
    return err ? err : columns_told(s, r, trial, node);
}

static void set_elsewhere(struct store *s, bool elsewhere) {
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        s->tbls[i]->elsewhere = elsewhere;
        for (uint32_t c = 0; c < s->tbls[i]->columns_count; c++)
            s->tbls[i]->moves[c].elsewhere = elsewhere;
    }
}

/* With the kind of the table's key, and by how many columns it is more than one. */
#define TOLD_ELSEWHERE                                                                                                                     \
    "SELECT DISTINCT c.tbl, c.col, c.kind & 15, (SELECT max(max(k.place), 1) - 1 FROM told_column k WHERE k.node=c.node AND k.tbl=c.tbl) " \
    "FROM told_column c WHERE c.node<>? ORDER BY 1, 3, 4"

void follow_elsewhere(struct store *s) {
    sqlite3_stmt *q;
    struct tbl *t = NULL;
    if (s->elsewhere_known || sql_prepare(s->db, &q, TOLD_ELSEWHERE))
        return;
    sqlite3_bind_blob(q, 1, s->origin_ids[s->own].node, NODE_ID_BYTES, SQLITE_STATIC);
    int row = sql_step(q);
    set_elsewhere(s, row != 1 || !sqlite3_column_bytes(q, 0));
    for (; row == 1; row = sql_step(q)) {
        const char *table = (const char *)sqlite3_column_text(q, 0), *column = (const char *)sqlite3_column_text(q, 1);
        int kind = sqlite3_column_int(q, 2);
        enum shape shape = kind == KEY_INTEGER ? SHAPE_NUMBER
                           : kind == KEY_ROWID ? SHAPE_NAMES
                                               : (enum shape)(SHAPE_KEY + sqlite3_column_int(q, 3));
        if (!t || t->shape != shape || sqlite3_stricmp(t->name, table) != 0)
            t = state_find_table(s, table, strlen(table), shape);
        if (t)
            t->elsewhere = true;
        for (uint32_t c = 0; t && c < t->columns_count; c++)
            t->moves[c].elsewhere |= sqlite3_stricmp(t->columns[c], column) == 0;
    }
    sqlite3_finalize(q);
    s->elsewhere_known = row == 0;
}

int follow_kind(struct store *s, uint32_t origin, const char *table, size_t len, int *kind) {
    uint64_t name = state_name_hash(table, len);
    sqlite3_stmt *q;
    *kind = s->told_kind.kind;
    if (s->told_kind.known && s->told_kind.origin == origin && s->told_kind.table == name)
        return 0;
    int row = sql_prepare(s->db, &q, "SELECT kind & 15 FROM told_column WHERE node=? AND tbl=? LIMIT 1");
    if (row)
        return row;
    sqlite3_bind_blob(q, 1, s->origin_ids[origin].node, NODE_ID_BYTES, SQLITE_STATIC);
    sqlite3_bind_text(q, 2, table, (int)len, SQLITE_STATIC);
    row = sql_step(q);
    *kind = row == 1 ? sqlite3_column_int(q, 0) : -1;
    sqlite3_finalize(q);
    s->told_kind.known = row >= 0;
    s->told_kind.origin = origin;
    s->told_kind.table = name;
    s->told_kind.kind = *kind;
    return row < 0 ? row : 0;
}

/* ---- what was here */

/* Each thing of the application's schema that this file ever had, by kind and name. */
int follow_note(struct store *s) {
    static const char HERE[] = "SELECT type || ' ' || name FROM main.sqlite_schema WHERE name NOT LIKE '\\_starling\\_%%' ESCAPE '\\'"
                               " UNION ALL SELECT 'column ' || m.name || char(1) || c.name FROM main.sqlite_schema m, "
                               "pragma_table_xinfo(m.name) c WHERE m.type='table' AND m.name NOT LIKE '\\_starling\\_%%' ESCAPE '\\'";
    int64_t noted;
    int err = sql_int(s->db, -1, &noted, "SELECT v FROM meta WHERE k='had'");
    if (err || noted == s->schema.version)
        return err;
    sqlite3_stmt *q = NULL, *put = NULL;
    bool began = !s->in_tx;
    if ((err = state_begin(s)) || (err = sql_prepare(s->app.reader, &q, HERE)) ||
        (err = sql_prepare(s->db, &put, "INSERT OR IGNORE INTO had VALUES(?)")))
        goto out;
    int row;
    while ((row = sql_step(q)) == 1) {
        sqlite3_bind_value(put, 1, sqlite3_column_value(q, 0));
        if ((row = sql_run(put)))
            break;
    }
    err = row ? row : sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('had', %lld)", (long long)s->schema.version);
out:
    sqlite3_finalize(q);
    sqlite3_finalize(put);
    return err || !began ? err : state_commit(s);
}

/* Another file stands in its place, or none: what others told is to be looked at again. */
int follow_forget(struct store *s) {
    s->follow_due = s->app_open;
    return sql_exec(s->db, "DELETE FROM had; DELETE FROM meta WHERE k='had'; UPDATE told SET done=0");
}

int follow_had(struct store *s, const char *kind, size_t kind_len, const char *name, size_t name_len, const char *column, bool *had) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "SELECT 1 FROM had WHERE name = ?1 || ' ' || ?2 || coalesce(char(1) || ?3, '')");
    if (err)
        return err;
    sqlite3_bind_text(q, 1, kind, (int)kind_len, SQLITE_STATIC);
    sqlite3_bind_text(q, 2, name, (int)name_len, SQLITE_STATIC);
    if (column)
        sqlite3_bind_text(q, 3, column, -1, SQLITE_STATIC);
    int row = sql_step(q);
    *had = row == 1;
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

/* ---- what ALTER TABLE cannot add */

/* A query on their schema, with the table's name; of each row that it gives, ours must have as many by the second one, or it is said. */
static int say_lacking(struct store *s, const char *table, sqlite3 *theirs, const char *what, const char *in_theirs, const char *in_ours) {
    sqlite3_stmt *q = NULL, *ours = NULL;
    int row = sql_prepare(theirs, &q, "%s", in_theirs), err = row ? row : sql_prepare(s->app.writer, &ours, "%s", in_ours);
    if (!err)
        sqlite3_bind_text(q, 1, table, -1, SQLITE_STATIC);
    while (!err && (err = sql_step(q)) == 1) {
        sqlite3_bind_text(ours, 1, table, -1, SQLITE_STATIC);
        sqlite3_bind_value(ours, 2, sqlite3_column_value(q, 0));
        if ((err = sql_step(ours)) == 0)
            store_log(s, LOG_WARNING,
                      "%s: \"%s\" of another server has %s%s, which cannot be added to a table that is there: let the application do it",
                      s->config.db, table, what, (const char *)sqlite3_column_text(q, 0));
        sqlite3_reset(ours);
        err = err < 0 ? err : 0;
    }
    sqlite3_finalize(q);
    sqlite3_finalize(ours);
    return err;
}

#define INDEXED "(SELECT group_concat('\"' || name || '\"', ', ') FROM pragma_index_info(l.name))"
#define CHECKS "(length(sql) - length(replace(upper(sql), 'CHECK', ''))) / 5"

int follow_say_rest(struct store *s, const char *table, sqlite3 *theirs) {
    int err = say_lacking(s, table, theirs, "UNIQUE on ", "SELECT " INDEXED " FROM pragma_index_list(?) l WHERE origin='u'",
                          "SELECT 1 FROM pragma_index_list(?) l WHERE \"unique\" AND " INDEXED " = ?2 COLLATE NOCASE");
    if (!err)
        err = say_lacking(s, table, theirs, "generated column ", "SELECT name FROM pragma_table_xinfo(?) WHERE hidden > 1",
                          "SELECT 1 FROM pragma_table_xinfo(?) WHERE name = ?2 COLLATE NOCASE");
    if (!err)
        err = say_lacking(s, table, theirs, "NOT NULL for column ",
                          "SELECT name FROM pragma_table_info(?) WHERE \"notnull\" AND NOT pk AND dflt_value IS NULL",
                          "SELECT 1 FROM pragma_table_info(?) WHERE name = ?2 COLLATE NOCASE AND \"notnull\"");
    if (!err)
        err = say_lacking(s, table, theirs, "more than ours of CHECK constraints: ",
                          "SELECT " CHECKS " FROM sqlite_schema WHERE type='table' AND name = ? COLLATE NOCASE",
                          "SELECT 1 FROM main.sqlite_schema WHERE type='table' AND name = ? COLLATE NOCASE AND " CHECKS " >= ?2");
    return err;
}

/* ---- making it */

bool follow_wanted(const struct store *s) { return s->hot.created || s->config.follow; }

void store_follow(struct store *s, bool on) {
    s->config.follow = on;
    s->follow_due = s->app_open;
}

static int take_one(struct store *s, uint32_t origin, uint64_t version, bool alone) {
    struct bytes *b;
    int err = log_read(s, origin, version, &b);
    if (err)
        return err == ERR_NOTFOUND ? 0 : err;
    struct batch_reader *r = batch_reader_new();
    err = r ? batch_reader_open(r, b->data, b->len) : ERR_NOMEM;
    if (!err)
        err = schema_follow(s, r, alone);
    batch_reader_free(r);
    bytes_unref(b);
    return err;
}

static int take_next(struct store *s, bool alone, bool *any) {
    int64_t origin, version;
    int err = sql_int(s->db, -1, &origin, "SELECT origin FROM told WHERE NOT done ORDER BY node LIMIT 1");
    *any = origin >= 0;
    if (err || !*any)
        return err;
    if ((err = sql_int(s->db, 0, &version, "SELECT version FROM told WHERE origin=%lld AND NOT done", (long long)origin)))
        return err;
    if (origin < s->origins_count && (err = take_one(s, (uint32_t)origin, (uint64_t)version, alone)))
        return err;
    if ((err = state_begin(s)) || (err = sql_exec(s->db, "UPDATE told SET done=1 WHERE origin=%lld", (long long)origin)))
        return err;
    return state_commit(s);
}

/* The application is changing its schema, or rows are being read: not now. */
static bool is_inconvenient(const struct store *s) { return s->held_since_ms || s->schema_stale || s->schema_waits || s->scan; }

int follow(struct store *s) {
    int64_t now = store_mono_us() / 1000;
    if (!s->follow_due || !s->app_open || is_inconvenient(s))
        return 0;
    if (!s->schema.count) { /* the first schema that comes makes it whole */
        s->follow_due = false;
        return 0;
    }
    if (!s->follow_since_ms)
        s->follow_since_ms = now;
    bool alone = now - s->follow_since_ms < FOLLOW_READERS_MS, any = follow_wanted(s);
    int err = 0;
    while (any && !err && !is_inconvenient(s))
        err = take_next(s, alone, &any);
    if (err == ERR_SCHEMA) { /* the application was faster */
        s->schema_stale = true;
        return 0;
    }
    if (err || any)
        return err == ERR_BUSY ? 0 : err;
    s->follow_due = false;
    s->follow_since_ms = 0;
    s->stored_changed = true;
    return 0;
}
