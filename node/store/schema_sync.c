/* The application's schema: ours into a batch, theirs into a database that is missing here, and ours again after it changed.
 *
 * A database that is missing here (or holds no table yet) is created whole from the first author's schema. What comes later is made in those that
 * follow (follow.c): one that we created, until the application changes the schema by itself, and with ddl = follow any. Else DDL is the application's own
 * matter. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/ddl.h"
#include "node/store/mend.h"
#include "node/store/trial.h"
#include "proto/err.h"

#define INSTALL_TRY_MS 50     /* in one turn */
#define INSTALL_ALONE_MS 2000 /* so long for a moment without readers */

/* ---- ours, into the batch being written */

static int pack_items(struct store *s, bool schema) {
    struct schema_item *items = NULL;
    struct arena arena = {0};
    uint32_t n = 0, cap = 0;
    char base[17];
    sqlite3_stmt *q = NULL;
    int err =
        sql_prepare(s->app.reader, &q,
                    "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE %s AND sql IS NOT NULL AND name NOT LIKE "
                    "'\\_starling\\_%%' ESCAPE '\\'"
                    " AND name NOT LIKE 'sqlite\\_%%' ESCAPE '\\' AND name NOT IN (SELECT name FROM pragma_table_list WHERE type='shadow')"
                    " ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid",
                    schema ? "1" : "0");
    int row = 0;
    while (!err && (row = sql_step(q)) == 1) {
        if (n + 2 > cap) {
            cap = cap ? cap * 2 : 32;
            struct schema_item *p = realloc(items, cap * sizeof *p);
            if (!p) {
                err = ERR_NOMEM;
                break;
            }
            items = p;
        }
        const char **texts[4] = {&items[n].type, &items[n].name, &items[n].table, &items[n].sql};
        size_t *lens[4] = {&items[n].type_len, &items[n].name_len, &items[n].table_len, &items[n].sql_len};
        for (int i = 0; i < 4 && !err; i++) {
            *lens[i] = (size_t)sqlite3_column_bytes(q, i);
            char *copy = arena_alloc(&arena, *lens[i] + 1);
            if (!copy) {
                err = ERR_NOMEM;
                break;
            }
            memcpy(copy, *lens[i] ? (const char *)sqlite3_column_text(q, i) : "", *lens[i] + 0);
            copy[*lens[i]] = 0;
            *texts[i] = copy;
        }
        n++;
    }
    if (!err && row < 0)
        err = row;
    sqlite3_finalize(q);
    if (!err && s->hot.base) {
        struct schema_item *p = realloc(items, (n + 1) * sizeof *p);
        if (p) {
            items = p;
            snprintf(base, sizeof base, "%016" PRIx64, s->hot.base);
            items[n++] = (struct schema_item){.type = "base", .type_len = 4, .name = base, .name_len = 16, .table = "", .sql = ""};
        } else {
            err = ERR_NOMEM;
        }
    }
    uint32_t due = err ? 0 : policies_due(s);
    if (due) {
        struct schema_item *p = realloc(items, (n + due) * sizeof *p);
        items = p ? p : items;
        err = p ? policies_pack(s, &arena, items + n) : ERR_NOMEM;
        n += due;
    }
    if (!err && n)
        err = batch_writer_schema(s->writer, items, n);
    free(items);
    arena_release(&arena);
    return err;
}

int schema_pack(struct store *s) { return pack_items(s, true); }
int schema_pack_base(struct store *s) { return pack_items(s, false); }

/* ---- reading it */

static bool excluded(const struct store *s, const char *name) {
    for (const char *const *e = s->config.excluded; e && *e; e++)
        if (sqlite3_stricmp(*e, name) == 0)
            return true;
    return false;
}

static int read_schema(struct store *s, sqlite3 *app, struct schema *out) {
    int err = schema_read(app, out);
    for (uint32_t i = 0; i < out->count && !err; i++)
        out->tables[i].excluded = excluded(s, out->tables[i].name);
    if (!err)
        err = policies_refs(s, out);
    out->numbers_used = moves_numbers(s);
    if (out->numbers_used < s->numbers_used)
        out->numbers_used = s->numbers_used;
    return err;
}

/* By the writer, which installs the triggers: SQLite parses the schema anew in each connection that uses it, and the reader's turn comes when they are
 * there. */
static int read_schema_again(struct store *s) {
    schema_release(&s->schema);
    sqlite3_busy_timeout(s->app.writer, APPFILE_READER_BUSY_MS);
    int err = read_schema(s, s->app.writer, &s->schema);
    sqlite3_busy_timeout(s->app.writer, 0);
    return err;
}

/* ---- theirs, into a file of ours */

/* One statement to its end, and nothing behind it: the type and the default of a column are text of another server. */
static int run_one(sqlite3 *db, const char *format, ...) {
    va_list args;
    sqlite3_stmt *q = NULL;
    const char *tail = NULL;
    va_start(args, format);
    char *text = sqlite3_vmprintf(format, args);
    va_end(args);
    int rc = text ? sqlite3_prepare_v2(db, text, -1, &q, &tail) : SQLITE_NOMEM, err = appfile_error(rc);
    if (!err)
        err = *tail ? ERR_DENIED : sql_run(q);
    sqlite3_finalize(q);
    sqlite3_free(text);
    return err;
}

/* What ALTER TABLE ADD COLUMN needs to know of a column of theirs: a reference, a collation; as SQL. Text of theirs comes quoted. */
static int column_more(const struct trial *trial, const char *table, const char *name, sqlite3_str *out) {
    const char *collation = NULL;
    sqlite3_stmt *q = NULL;
    if (sqlite3_table_column_metadata(trial->db, "main", table, name, NULL, &collation, NULL, NULL, NULL) == SQLITE_OK && collation &&
        sqlite3_stricmp(collation, "BINARY") != 0)
        sqlite3_str_appendf(out, " COLLATE \"%w\"", collation);
    int err = sql_prepare(trial->db, &q,
                          "SELECT f.\"table\", f.\"to\", f.on_update, f.on_delete FROM pragma_foreign_key_list(%Q) f WHERE f.\"from\"=%Q"
                          " AND (SELECT count(*) FROM pragma_foreign_key_list(%Q) g WHERE g.id=f.id)=1",
                          table, name, table);
    if (!err && (err = sql_step(q)) == 1) {
        sqlite3_str_appendf(out, " REFERENCES \"%w\"", sqlite3_column_text(q, 0));
        if (sqlite3_column_type(q, 1) != SQLITE_NULL)
            sqlite3_str_appendf(out, "(\"%w\")", sqlite3_column_text(q, 1));
        sqlite3_str_appendf(out, " ON UPDATE %s ON DELETE %s", sqlite3_column_text(q, 2), sqlite3_column_text(q, 3));
        err = 0;
    }
    sqlite3_finalize(q);
    return err;
}

static int add_column(struct store *s, const char *table, sqlite3_stmt *q, const struct trial *trial) {
    const char *name = (const char *)sqlite3_column_text(q, 0), *value = (const char *)sqlite3_column_text(q, 3);
    const char *type = (const char *)sqlite3_column_text(q, 1), *null = sqlite3_column_int(q, 2) && value ? " NOT NULL" : "";
    sqlite3_str *more = sqlite3_str_new(s->app.writer);
    int err = column_more(trial, table, name, more);
    char *text = sqlite3_str_finish(more);
    if (!err)
        err = run_one(s->app.writer, "ALTER TABLE main.\"%w\" ADD COLUMN \"%w\" %s%s%s%s%s", table, name, type, null,
                      value ? " DEFAULT " : "", value ? value : "", text ? text : "");
    sqlite3_free(text);
    if (err == 0 || err == ERR_FULL || err == ERR_IO || err == ERR_NOMEM)
        return err;
    store_log(s, LOG_WARNING,
              "%s: column \"%s\" of another server cannot be added to \"%s\" here (%s): its values wait until the application adds it",
              s->config.db, name, table, sqlite3_errmsg(s->app.writer));
    return 0;
}

/* A column that is computed when it is read is added by the text that made it. */
static int add_generated(struct store *s, const char *table, const char *name, const struct trial *trial) {
    sqlite3_stmt *q = NULL;
    size_t len = 0;
    int err = sql_prepare(trial->db, &q, "SELECT sql FROM main.sqlite_schema WHERE type='table' AND name=%Q COLLATE NOCASE", table);
    if (!err && (err = sql_step(q)) == 1) {
        const char *text = ddl_column((const char *)sqlite3_column_text(q, 0), name, &len);
        err = text ? run_one(s->app.writer, "ALTER TABLE main.\"%w\" ADD COLUMN %.*s", table, (int)len, text) : ERR_DENIED;
    }
    sqlite3_finalize(q);
    return err == ERR_FULL || err == ERR_IO || err == ERR_NOMEM ? err : 0; /* what is still lacking is said */
}

static int follow_generated(struct store *s, const char *table, const struct trial *trial) {
    sqlite3_stmt *q = NULL;
    int err = sql_prepare(trial->db, &q, "SELECT name FROM pragma_table_xinfo(%Q) WHERE hidden=2", table);
    while (!err && (err = sql_step(q)) == 1) {
        const char *name = (const char *)sqlite3_column_text(q, 0);
        bool had;
        int64_t there;
        if (!(err = sql_int(s->app.writer, 0, &there, "SELECT count(*) FROM pragma_table_xinfo(%Q) WHERE name=%Q COLLATE NOCASE", table,
                            name)) &&
            !(err = follow_had(s, "column", 6, table, strlen(table), name, &had)) && !there && !had)
            err = add_generated(s, table, name, trial);
    }
    sqlite3_finalize(q);
    return err;
}

/* Columns of their table that ours lacks and never had, as ALTER TABLE can add them. */
static int follow_columns(struct store *s, const char *table, const struct trial *trial) {
    sqlite3_stmt *q = NULL;
    int err = sql_prepare(trial->db, &q, "SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info(%Q)", table);
    while (!err && (err = sql_step(q)) == 1) {
        const char *name = (const char *)sqlite3_column_text(q, 0);
        bool had;
        int64_t there;
        if ((err = sql_int(s->app.writer, 0, &there, "SELECT count(*) FROM pragma_table_xinfo(%Q) WHERE name=%Q COLLATE NOCASE", table,
                           name)) ||
            (err = follow_had(s, "column", 6, table, strlen(table), name, &had)) || there || had)
            continue;
        err = add_column(s, table, q, trial);
    }
    sqlite3_finalize(q);
    if (!err)
        err = follow_generated(s, table, trial);
    return err ? err : follow_say_rest(s, table, trial->db);
}

static void say_not_created(struct store *s, const struct schema_item *item, const char *why) {
    store_log(s, LOG_WARNING,
              "%s: %.*s \"%.*s\" of another server cannot be created here (%s): its rows wait until the application creates it",
              s->config.db, (int)item->type_len, item->type, (int)item->name_len, item->name, why);
}

static int run_create(struct store *s, const struct schema_item *item) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(s->app.writer, item->sql, (int)item->sql_len, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(s->app.writer);
    char text[300];
    snprintf(text, sizeof text, "%s", sqlite3_errmsg(s->app.writer));
    sqlite3_finalize(stmt);
    int err = rc == SQLITE_OK ? 0 : appfile_error(rc);
    if (!err || err == ERR_FULL || err == ERR_IO || err == ERR_NOMEM)
        return err;
    say_not_created(s, item, text);
    return 0;
}

/* Is there such a table or view? */
static int find_item(struct store *s, const char *name, size_t len, int64_t *there) {
    return sql_int(s->app.writer, 0, there, "SELECT count(*) FROM main.sqlite_schema WHERE name='%.*q' COLLATE NOCASE", (int)len, name);
}

/* `follow`: the file has a schema; what it had once, and what belongs to a table that is not here, is not made again. */
static int create_item(struct store *s, const struct schema_item *item, const struct trial *trial, bool follow) {
    int64_t there, table = 1;
    bool had = false;
    int err = find_item(s, item->name, item->name_len, &there);
    if (!err && there && follow && trial_is_type(item, "table")) {
        char *name = sqlite3_mprintf("%.*s", (int)item->name_len, item->name);
        err = name ? follow_columns(s, name, trial) : ERR_NOMEM;
        sqlite3_free(name);
    }
    if (err || there)
        return err;
    if (follow &&
        ((err = follow_had(s, item->type, item->type_len, item->name, item->name_len, NULL, &had)) ||
         (!trial_is_type(item, "table") && !trial_is_type(item, "view") && (err = find_item(s, item->table, item->table_len, &table)))))
        return err;
    return had || !table ? 0 : run_create(s, item);
}

/* Under the lock: the tables are those that we know. Else the application has begun a schema of its own, and the store is opened anew to see it. */
static int nobody_else(struct store *s) {
    int64_t now, tables = 0;
    int err = sql_int(s->app.writer, 0, &now, "PRAGMA main.schema_version");
    if (!err && s->schema.version == 0)
        err = sql_int(s->app.writer, 0, &tables, "SELECT count(*) FROM main.sqlite_schema");
    return err ? err : tables || (s->schema.version && now != s->schema.version) ? ERR_SCHEMA : 0;
}

struct taking {
    bool follow; /* the file has a schema already */
    bool alone;  /* in a moment without readers; if there is none, another time */
};

/* The notes are read once: what comes into them later is of triggers that were installed by us, and bind() knows those. */
static int count_numbers(struct store *s) {
    int64_t number = 0;
    int err = s->numbers_known ? 0 : capture_noted(s->app.writer, &number);
    if (number > s->numbers_used)
        s->numbers_used = (uint32_t)number;
    s->numbers_known = !err;
    return err;
}

/* One transaction makes tables and triggers: the application may write as soon as it sees a table. made is what the file holds then;
 * *count 0: nothing was missing. */
static int create_all(struct store *s, const struct batch_reader *r, const struct trial *trial, const struct taking *how,
                      struct schema *made, bool **anew, uint32_t *count) {
    const struct capture_mark mark = generation_mark(s);
    int64_t before = 0, after = 0;
    int err = count_numbers(s);
    if (!err && (err = appfile_begin_within(&s->app, how->alone, INSTALL_TRY_MS)) == ERR_BUSY && !how->follow)
        err = appfile_begin(&s->app, false);
    if (err)
        return err;
    int64_t began = store_mono_us();
    if (!(err = nobody_else(s)))
        err = sql_int(s->app.writer, 0, &before, "PRAGMA main.schema_version");
    for (unsigned o = 0; o < TRIAL_TYPES && !err; o++)
        for (uint32_t i = 0; i < trial->count && !err; i++) {
            const struct schema_item *item = batch_reader_schema(r, i);
            if (!trial_is_type(item, TRIAL_ORDER[o]))
                continue;
            if (trial->why[i])
                say_not_created(s, item, trial->why[i]);
            else
                err = create_item(s, item, trial, how->follow);
        }
    if (!err)
        err = sql_int(s->app.writer, 0, &after, "PRAGMA main.schema_version");
    *count = (uint32_t)(after - before);
    if (!err && *count && !(err = read_schema(s, s->app.writer, made)))
        err = capture_install(s->app.writer, made, &mark, s->numbers_used, anew);
    if (!err)
        err = how->follow ? appfile_commit_patiently(&s->app) : appfile_commit(&s->app);
    if (err)
        appfile_rollback(&s->app);
    store_lock_time(s, store_mono_us() - began);
    return err;
}

static void take_base(struct store *s, const struct batch_reader *r) {
    for (uint32_t i = 0; i < batch_reader_schema_count(r); i++) {
        const struct schema_item *item = batch_reader_schema(r, i);
        char hex[17] = "";
        if (!trial_is_type(item, "base") || item->name_len != 16 || s->hot.base)
            continue;
        memcpy(hex, item->name, 16);
        s->hot.base = strtoull(hex, NULL, 16) & ~BASE_FLAGS;
    }
}

/* ---- the application's, after it changed */

/* Writes to a table without triggers were missed: it is read again. Triggers that are all new have a number of their own, by which moves.c will know
 * that; those that are mended do not tell when they were made, so that it is made durable before. */
static int scan_again(struct store *s, const bool *missing) {
    bool mended = false;
    int err = 0;
    for (uint32_t i = 0; i < s->schema.count && !err; i++) {
        const struct table *table = &s->schema.tables[i];
        struct tbl *t;
        if (!missing[i] || (err = state_begin(s)) ||
            (err = state_table(s, table->name, strlen(table->name), state_shape_of_table(table), &t)) || !t->captured)
            continue;
        t->captured = false;
        t->dirty = true;
        mended |= table->number != 0;
    }
    return err || !mended || (err = state_commit(s)) ? err : state_sync(s);
}

/* Whoever reads, and means to write afterwards, would be refused at once by a schema that changed beside it, as by rows (project.c). So we
 * wait for a moment without readers, but not for long: what is not noted meanwhile must be found by reading all of it again. Where no write
 * succeeds, there is nobody to be careful of. */
static int install_now(struct store *s, enum capture_is is) {
    const struct capture_mark mark = generation_mark(s);
    int64_t now = store_mono_us() / 1000;
    if (!s->install_since_ms)
        s->install_since_ms = now - s->config.refused_ms;
    bool alone = is != CAPTURE_BROKEN && now - s->install_since_ms < INSTALL_ALONE_MS;
    int err = count_numbers(s);
    if (err || (err = appfile_begin_within(&s->app, alone, INSTALL_TRY_MS)))
        return err;
    int64_t began = store_mono_us();
    if ((err = capture_install(s->app.writer, &s->schema, &mark, s->numbers_used, NULL)) || (err = appfile_commit_patiently(&s->app)))
        appfile_rollback(&s->app);
    store_lock_time(s, store_mono_us() - began);
    return err;
}

static int install(struct store *s) {
    enum capture_is is;
    bool *missing = NULL;
    int err = capture_check(s->app.writer, &s->schema, &is, &missing);
    if (!err && !(is == CAPTURE_COMPLETE && s->marked) && !(err = scan_again(s, missing)))
        err = install_now(s, is);
    free(missing);
    if (!err)
        s->install_since_ms = 0;
    return err;
}

static int note_statements(struct store *s) {
    int64_t keys;
    int err = sql_int(s->app.reader, 0, &keys, "SELECT count(*) FROM pragma_table_info('_starling_dirty') WHERE name GLOB 'k[0-9]*'");
    sqlite3 *connections[2] = {s->app.reader, s->app.writer};
    char columns[400] = "";
    size_t n = 0;
    for (int64_t i = 0; i < keys && n < sizeof columns - 16; i++)
        n += (size_t)snprintf(columns + n, sizeof columns - n, ", k%lld", (long long)i);
    for (int i = 0; i < 2 && !err; i++) {
        sqlite3_finalize(s->a_notes[i]);
        sqlite3_finalize(s->a_nonce[i]);
        sqlite3_finalize(s->a_version[i]);
        s->a_notes[i] = s->a_nonce[i] = s->a_version[i] = NULL;
        if ((err = sql_prepare(connections[i], &s->a_notes[i],
                               "SELECT seq, tbl, kind, at, nonce%s FROM main._starling_dirty WHERE seq>? ORDER BY seq LIMIT ?", columns)) ||
            (err = sql_prepare(connections[i], &s->a_nonce[i], "SELECT nonce FROM main._starling_dirty WHERE seq=?")))
            break;
        err = sql_prepare(connections[i], &s->a_version[i], "PRAGMA main.schema_version");
    }
    sqlite3_finalize(s->w_last);
    sqlite3_finalize(s->w_mark);
    sqlite3_finalize(s->w_trim);
    s->w_last = s->w_mark = s->w_trim = NULL;
    if (err || (err = sql_prepare(s->app.writer, &s->w_last, "SELECT seq FROM main._starling_dirty ORDER BY seq DESC LIMIT 1")) ||
        (err = sql_prepare(s->app.writer, &s->w_mark,
                           "INSERT INTO main._starling_mark(id, state, projection, note) VALUES(1, ?, ?, ?)"
                           " ON CONFLICT(id) DO UPDATE SET state=excluded.state, projection=excluded.projection, note=excluded.note")))
        return err;
    return sql_prepare(s->app.writer, &s->w_trim,
                       "DELETE FROM main._starling_dirty WHERE seq < ?1 AND seq < (SELECT min(seq) FROM main._starling_dirty) + ?2");
}

/* What the application changes from here on shows as another version; statements are made for what was read. (Beside a rollback journal a snapshot would
 * keep it from committing: there it is found when a statement fails.) ERR_SCHEMA: it has changed already. */
static int hold_still(struct store *s) {
    int64_t reads = s->schema.version, writes = reads;
    int err = s->app.wal ? sql_run(s->a_begin) : 0;
    if (!err && s->app.wal && !(err = sql_exec(s->app.writer, "BEGIN")))
        err = sql_int(s->app.reader, 0, &reads, "PRAGMA main.schema_version");
    if (!err)
        err = sql_int(s->app.writer, 0, &writes, "PRAGMA main.schema_version");
    return err ? err : reads != s->schema.version || writes != s->schema.version ? ERR_SCHEMA : 0;
}

static void let_go(struct store *s) {
    if (!sqlite3_get_autocommit(s->app.reader))
        (void)sql_run(s->a_end);
    if (!sqlite3_get_autocommit(s->app.writer)) /* TEMP triggers were made */
        (void)sql_exec(s->app.writer, "COMMIT");
}

/* Statements and tables for s->schema, whose triggers are there. */
static int bind(struct store *s) {
    for (uint32_t i = 0; i < s->schema.count; i++)
        if (s->schema.tables[i].number > s->numbers_used)
            s->numbers_used = s->schema.tables[i].number;
    int err = generation_keep(s);
    if (err || (err = moves_tables(s)))
        return err;
    s->held_new = moves_hold(s);
    if ((err = tables_load(s)) || (err = note_statements(s)) || (err = moves_columns(s)) || (err = mend_remember_schema(s)))
        return err;
    s->schema_stale = s->policies_moved = false;
    return policies_say(s, false);
}

/* What came is read, unless a migration is under way. */
static int take_up(struct store *s) {
    if (s->held_new || moves_hold(s)) {
        scan_stop(s);
        return 0;
    }
    s->held_since_ms = 0;
    s->held_project = s->held_merge = s->hold_over = false;
    return scan_start(s, false);
}

/* Reads it, and installs the triggers: until they are back, writes are missed. ERR_SCHEMA: it has changed again, and nothing was judged. */
static int catch_up(struct store *s, bool first, bool *at_once, bool *other) {
    uint64_t hash = s->schema.hash;
    int64_t version = s->schema.version;
    bool kept = false;
    tables_unload(s); /* they point into the schema */
    int err = read_schema_again(s);
    if (err)
        return err;
    if (s->schema.version != version) {
        s->schema_changed_ms = store_mono_us() / 1000;
        s->hold_over = false;
        if (!first) /* it is at work: tidying up can wait */
            s->app_ms = s->active_ms = s->schema_changed_ms;
    }
    if (!first && s->schema.hash != hash)
        s->hot.created = 0;
    if (!(err = generation_look(s)) && s->file == FILE_OTHER)
        s->hot.created = 0; /* it is the application's, not the one that we made */
    if (err || (first && (err = generation_kept(s, &kept))) || (err = install(s)))
        return err;
    *at_once |= s->file != FILE_OURS || (first && kept); /* as we left it: what had begun goes on */
    *other |= s->file == FILE_OTHER;
    if (first && !*at_once && (err = older_find(s, other)))
        return err;
    s->hold_over |= *at_once || *other;
    err = hold_still(s);
    if (err)
        let_go(s);
    return err;
}

/* A table whose rows the others know by their keys only with our schema (keyless_shape). */
static bool arrives(const struct store *s) {
    bool any = false;
    for (uint32_t i = 0; i < s->tios_count; i++)
        any |= s->tios[i].tbl && tbl_is_text(s->tios[i].tbl) && s->tios[i].tbl->placed <= 0;
    return any;
}

int schema_refresh(struct store *s) {
    bool first = s->schema.version == 0, at_once = scan_first_time(s), other = false;
    int err = ERR_SCHEMA;
    s->schema_stale = true;
    for (int tries = 0; tries < 5 && err == ERR_SCHEMA; tries++) /* the application may be changing it at this moment */
        err = catch_up(s, first, &at_once, &other);
    if (err)
        return err == ERR_SCHEMA ? ERR_BUSY : err;
    if (!(other && (err = follow_forget(s))) && !(err = bind(s)))
        err = follow_note(s);
    let_go(s);
    if (err)
        return err;
    if (s->hot.schema_sent != s->schema.text && s->schema.count)
        s->schema_waits = !first && !arrives(s); /* a migration is many statements */
    return take_up(s);
}

/* ---- theirs is taken over */

bool schema_told(const struct batch_reader *r) {
    for (uint32_t i = 0; i < batch_reader_schema_count(r); i++)
        if (trial_is_type(batch_reader_schema(r, i), "table"))
            return true;
    return false;
}

/* Tables that were empty when they got their triggers need no scan, unless others have told of rows. */
static int nothing_to_scan(struct store *s, const bool *anew) {
    int err = 0;
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        if (io->tbl && anew[io->table - s->schema.tables] && io->tbl->placed <= 0 && !io->tbl->rows)
            err = moves_place(s, io);
    }
    return err;
}

/* What is missing here of a schema that passed its trial. */
static int take_over(struct store *s, const struct batch_reader *r, const struct trial *trial, const struct taking *how) {
    struct schema made = {0};
    bool *anew = NULL, told = !s->schema.count || s->hot.schema_sent == s->schema.text;
    uint32_t count = 0;
    int err = create_all(s, r, trial, how, &made, &anew, &count);
    if (err || !count) {
        free(anew);
        schema_release(&made);
        return err || s->schema.version ? err : schema_refresh(s); /* of a new file nothing could be made */
    }
    tables_unload(s); /* they point into the schema */
    schema_release(&s->schema);
    s->schema = made; /* not read again: what the application has changed by now is its own, and is found by the next drain */
    if (!how->follow)
        s->hot.created = 1;
    if (told)
        s->hot.schema_sent = made.text; /* the others have it: it is theirs */
    s->schema_waits = false;
    store_log(s, LOG_INFO, "%s: the schema of the other servers is taken over (%u changes)", s->config.db, count);
    s->hold_over = s->held_since_ms == 0; /* it is not the application that changes it */
    if (!(err = bind(s)) && !(err = follow_note(s)))
        err = nothing_to_scan(s, anew);
    free(anew);
    return err ? err : take_up(s);
}

int schema_follow(struct store *s, const struct batch_reader *r, bool alone) {
    const struct taking how = {.follow = true, .alone = alone};
    struct trial trial;
    int err = trial_run(&trial, r);
    if (!err)
        err = take_over(s, r, &trial, &how);
    trial_end(&trial);
    return err;
}

int schema_take(struct store *s, const struct batch_reader *r, uint32_t origin, uint64_t version) {
    static const struct taking HOW = {.alone = true};
    if (!batch_reader_schema_count(r))
        return 0;
    take_base(s, r);
    if (!schema_told(r))
        return 0;
    bool there = s->app_open && s->schema.count;
    char why[600] = "";
    struct trial trial;
    int err = trial_run(&trial, r);
    if (!err && !(err = follow_told(s, r, &trial, origin, version, !there)) && there)
        s->follow_due |= follow_wanted(s);
    if (!err && !s->app_open && (err = store_open_app(s, true, why, sizeof why)))
        store_log(s, LOG_ERROR, "%s", why);
    if (!err && !there)
        err = take_over(s, r, &trial, &HOW);
    trial_end(&trial);
    return err;
}
