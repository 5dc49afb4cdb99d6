/* What of a database is treated specially, and why, for `tables` and `doctor`: what is not replicated, not shown, or shown otherwise than
 * elsewhere. Each with the way to mend it. Derived from the state at hand at each call, never kept. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/report.h"
#include "proto/err.h"

#define PARKED_NAMED 10

/* Both are sentences without an end; `note`: it is as it should be, and said so that nobody has to wonder. */
__attribute__((format(printf, 4, 5))) static void found(json_t *list, bool note, const char *mend, const char *format, ...) {
    char what[700];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    json_t *j = json_pack("{s:s, s:s?}", "what", what, "mend", mend);
    if (!j) /* a name that is no text, or was cut in the middle of a letter */
        j = json_pack("{s:s, s:s?}", "what", "something whose name is not valid text", "mend", mend);
    if (note)
        json_object_set_new(j, "note", json_true());
    json_array_append_new(list, j);
}

/* ---- one table */

static void parked(struct store *s, const struct tbl *t, json_t *list, uint32_t *count) {
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) {
        if (p->tbl != t || !p->reason)
            continue;
        if ((*count)++ < PARKED_NAMED) {
            json_t *key = report_key(t, &p->who);
            char *text = json_dumps(key, JSON_COMPACT);
            found(list, false, "it is kept, and shown as soon as it can be", "parked %s: %s", text ? text : "?", p->reason);
            free(text);
            json_decref(key);
        }
    }
    if (*count > PARKED_NAMED)
        found(list, false, NULL, "… and %u more parked rows", *count - PARKED_NAMED);
}

static bool is_missing(const struct tbl *t, uint32_t column) {
    return t->moves[column].placed == COLUMN_NEVER && column + 1 != t->number_column && t->moves[column].elsewhere &&
           (column >= t->io->by_number_count || !t->io->by_number[column]);
}

/* By what the others told last: has one of them this column with another type? */
static bool is_of_another_type(struct store *s, const struct tbl *t, const char *name, enum affinity ours) {
    sqlite3_stmt *q;
    if (sql_prepare(s->db, &q, "SELECT 1 FROM told_column WHERE node<>? AND tbl=? AND col=? AND kind>>4 NOT IN (0, ?)"))
        return true;
    sqlite3_bind_blob(q, 1, s->origin_ids[s->own].node, NODE_ID_BYTES, SQLITE_STATIC);
    sqlite3_bind_text(q, 2, t->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 3, name, -1, SQLITE_STATIC);
    sqlite3_bind_int(q, 4, (int)ours + 1);
    bool found_one = sql_step(q) == 1;
    sqlite3_finalize(q);
    return found_one;
}

/* Columns whose type here, or whose file's encoding, changes what comes from other servers. */
static void converted(struct store *s, const struct tbl *t, json_t *list) {
    static const char *const TYPES[] = {"BLOB", "TEXT", "NUMERIC", "INTEGER", "REAL"};
    for (uint32_t i = 0; i < t->io->count; i++) {
        if (!tables_converted(t->io, i))
            continue;
        if (!is_of_another_type(s, t, t->io->names[i], t->io->table->columns[t->io->order[i]].affinity)) {
            if (s->app.utf16)
                found(list, false, "let the application write valid text, or BLOBs",
                      "column \"%s\" was given text on another server that is not valid UTF-8: this file is UTF-16, and shows U+FFFD for "
                      "it, so "
                      "that the servers show different values",
                      t->io->names[i]);
            continue;
        }
        found(list, false, "declare it with the same type on every server, and write those values again",
              "column \"%s\" is %s here and of another type on another server: values from there are converted, so that the servers show "
              "different values",
              t->io->names[i], TYPES[t->io->table->columns[t->io->order[i]].affinity]);
    }
}

static void large(struct store *s, const struct tbl *t, json_t *list) {
    int64_t n = 0;
    if (s->too_large && sql_int(s->db, 0, &n, "SELECT count(*) FROM large WHERE tbl=%u", t->no) == 0 && n)
        found(list, false, "make their values smaller", "%lld %s larger than %u MiB and not replicated", (long long)n,
              n == 1 ? "row is" : "rows are", BATCH_RAW_MAX >> 20);
}

/* ---- what other servers told of their schemas */

/* "node 1a2b… has" or "node 1a2b… and 2 more have". */
static void put_who(char out[120], sqlite3_stmt *q, int node, int count) {
    int64_t n = sqlite3_column_int64(q, count);
    char more[40] = " has";
    if (n > 1)
        snprintf(more, sizeof more, " and %lld more have", (long long)n - 1);
    snprintf(out, 120, "node %s%s", (const char *)sqlite3_column_text(q, node), more);
}

static int told_by_others(struct store *s, sqlite3_stmt **q, const char *what, const char *rest) {
    int err = sql_prepare(s->db, q, "SELECT %s, lower(hex(min(node))), count(DISTINCT node) FROM told_column WHERE node<>? AND tbl<>'' %s",
                          what, rest);
    if (!err)
        sqlite3_bind_blob(*q, 1, s->origin_ids[s->own].node, NODE_ID_BYTES, SQLITE_STATIC);
    return err;
}

static const char *mend_missing(const struct store *s, bool column) {
    if (follow_wanted(s))
        return column ? "it could not be added by itself, the log says why: run the same version of the application here"
                      : "it could not be created by itself, the log says why: run the same version of the application here";
    return column ? "they are shown when it is added: run the same version of the application here, or, if it does not migrate by itself, "
                    "set ddl = follow"
                  : "they are shown when it is created: run the same version of the application here, or, if it does not migrate by "
                    "itself, set ddl = follow";
}

static bool has_column(const struct table *table, const char *name) {
    for (uint32_t i = 0; i < table->columns_count; i++)
        if (sqlite3_stricmp(table->columns[i].name, name) == 0)
            return true;
    return false;
}

/* `said` gets those that were named. */
static void missing_column(struct store *s, struct tbl *t, sqlite3_stmt *q, bool *said, json_t *list) {
    const char *name = (const char *)sqlite3_column_text(q, 0);
    char who[120];
    uint32_t c = 0;
    while (c < t->columns_count && sqlite3_stricmp(t->columns[c], name) != 0)
        c++;
    put_who(who, q, 1, 2);
    bool known = c < t->columns_count, gone = known && t->moves[c].placed == COLUMN_GONE;
    if (gone)
        found(list, true, "run the same version of the application on every server",
              "column \"%s\" was renamed or dropped here, and %s it still: what is written into it there is kept", name, who);
    else
        found(list, !known || !t->rows, mend_missing(s, true), "column \"%s\" is not here, and %s it: its values are kept", name, who);
    if (known)
        said[c] = true;
}

static void missing_columns_of(struct store *s, const struct table *table, struct tbl *t, json_t *list) {
    sqlite3_stmt *q = NULL;
    bool *said = calloc(t->columns_count + 1, sizeof *said);
    if (said && told_by_others(s, &q, "col", "AND tbl=? GROUP BY col COLLATE NOCASE") == 0) {
        sqlite3_bind_text(q, 2, t->name, -1, SQLITE_STATIC);
        while (sql_step(q) == 1)
            if (!has_column(table, (const char *)sqlite3_column_text(q, 0)))
                missing_column(s, t, q, said, list);
    }
    sqlite3_finalize(q);
    for (uint32_t c = 0; said && t->rows && c < t->columns_count; c++)
        if (!said[c] && is_missing(t, c))
            found(list, false, mend_missing(s, true), "column \"%s\" of another server is not here: its values are kept", t->columns[c]);
    free(said);
}

/* Nothing here bears this name. */
static void missing_table(struct store *s, const char *name, const struct tbl *t, json_t *list) {
    sqlite3_stmt *q = NULL;
    char who[120] = "";
    if (told_by_others(s, &q, "tbl", "AND tbl=? GROUP BY tbl COLLATE NOCASE") == 0) {
        sqlite3_bind_text(q, 2, name, -1, SQLITE_STATIC);
        if (sql_step(q) == 1)
            put_who(who, q, 1, 2);
    }
    sqlite3_finalize(q);
    bool rows = t && t->rows;
    if (t && !t->elsewhere)
        found(list, true, "they are shown if it is created again", "no server has this table any more: its rows are kept");
    else if (t && t->placed)
        found(list, !rows || *who, "they are shown when it is created again",
              "renamed or dropped by the application here%s%s%s: the rows of other servers are kept", *who ? ", and " : "", who,
              *who ? " it still" : "");
    else
        found(list, !rows, mend_missing(s, false), "the application has no such table here%s%s%s: its rows are kept", *who ? ", and " : "",
              who, *who ? " it" : "");
}

/* Rows of a table that has another key elsewhere are other rows there. */
static void another_key(struct store *s, const struct table *table, json_t *list) {
    sqlite3_stmt *q = NULL;
    char who[120];
    bool differs = false;
    if (told_by_others(s, &q, "col, place", "AND tbl=? GROUP BY col COLLATE NOCASE, place ORDER BY col") == 0) {
        sqlite3_bind_text(q, 2, table->name, -1, SQLITE_STATIC);
        while (!differs && sql_step(q) == 1) {
            int place = 0;
            for (uint32_t i = 0; i < table->columns_count; i++)
                if (sqlite3_stricmp(table->columns[i].name, (const char *)sqlite3_column_text(q, 0)) == 0)
                    place = (int)table->columns[i].key_place;
            differs = place != sqlite3_column_int(q, 1);
        }
        if (differs) {
            put_who(who, q, 2, 3);
            found(list, false, "run the same version of the application on every server",
                  "%s another primary key for it (column \"%s\"): under another key a row is another row", who, sqlite3_column_text(q, 0));
        }
    }
    sqlite3_finalize(q);
}

/* What SQLite itself does otherwise in a table that has triggers. */
static void beside_triggers(const struct table *table, json_t *list) {
    bool itself = false;
    for (uint32_t i = 0; i < table->foreign_keys_count; i++)
        itself = itself || sqlite3_stricmp(table->foreign_keys[i].parent, table->name) == 0;
    if (table->strict)
        found(list, true, NULL,
              "STRICT: where a table has triggers, as each has beside a node, SQLite looks at a value's type before it looks whether the "
              "key is "
              "there: INSERT OR IGNORE of a row with a value of another type fails");
    if (itself)
        found(list, true, NULL,
              "refers to itself: where a table has triggers, as each has beside a node, and foreign keys are enforced, SQLite looks at "
              "what REPLACE "
              "leaves without a parent");
}

static void rows_of_table(struct store *s, const struct table *table, struct tbl *t, json_t *list) {
    if (t->unbound)
        found(list, false, t->unbound_mend, "not replicated: %s", t->unbound);
    for (uint32_t i = 0; i < s->tbls_count && table; i++) {
        const struct tbl *other = s->tbls[i];
        if (other != t && !other->placed && other->elsewhere && other->rows && sqlite3_stricmp(other->name, table->name) == 0)
            found(list, false,
                  "they are shown when it has the same primary key here: run the same version of the application on every server",
                  "its key is of another kind on another server: %lld rows from there are kept", (long long)other->rows);
    }
    if (t->io)
        missing_columns_of(s, table, t, list);
    if (table && !table->unsupported && !table->excluded)
        another_key(s, table, list);
    if (t->io)
        beside_triggers(t->io->table, list);
    if (t->io && t->io->table->key_kind == KEY_ROWID)
        found(list, true, "a PRIMARY KEY makes it cheaper: after each change of its schema, and VACUUM, all its rows are read",
              "has no primary key: each inserted row is a row of its own, also beside an equal one");
    if (t->null_keys)
        found(list, false, t->null_keys == 1 ? "give it a key" : "give them a key", "%llu %s NULL in %s key and %s not replicated",
              (unsigned long long)t->null_keys, t->null_keys == 1 ? "row has" : "rows have", t->null_keys == 1 ? "its" : "their",
              t->null_keys == 1 ? "is" : "are");
    if (t->lost)
        found(list, false, "`starling tables restore DB/TABLE` brings them back, `starling tables accept DB/TABLE` deletes them everywhere",
              "%llu rows are gone from the file without a note: not taken for deletions", (unsigned long long)t->lost);
    if (t->io)
        converted(s, t, list);
    large(s, t, list);
}

static void add_policy(void *ctx, const char *what, const char *mend) {
    found(ctx, !mend, mend, "%s", what);
    if (!mend) /* it is in force: nothing is the matter */
        json_object_set_new(json_array_get(ctx, json_array_size(ctx) - 1), "policy", json_true());
}

/* table NULL: only other servers have it; t NULL: no row of it is known. */
static json_t *table_findings(struct store *s, const char *name, const struct table *table, struct tbl *t, uint32_t *parked_count) {
    json_t *list = json_array();
    *parked_count = 0;
    if (table && table->virtual && table->fed)
        found(list, true, NULL, "a virtual table, not replicated itself: the application's triggers fill it on every server: %s",
              table->fed);
    else if (table && table->unsupported)
        found(list, table->virtual && !table->unfed, table->mend, "not replicated: %s", table->unsupported);
    if (table && table->unfed)
        found(list, false, "rebuild it in the application, and keep functions of its own out of that trigger",
              "a trigger that fills it cannot run here for changes of other servers: %s", table->unfed);
    if (table && table->excluded)
        found(list, true, "replicate = yes in the configuration, if it shall not", "belongs to this server alone: replicate = no");
    policies_each(s, name, add_policy, list);
    if (t)
        parked(s, t, list, parked_count);
    if (!table)
        missing_table(s, name, t, list);
    if (t)
        rows_of_table(s, table, t, list);
    return list;
}

/* ---- `tables` */

/* One line each: the policies in force, or all else. */
static json_t *lines_of(json_t *findings, bool policies) {
    json_t *lines = json_array(), *f;
    size_t i;
    json_array_foreach(findings, i, f) {
        if (policies != json_is_true(json_object_get(f, "policy")))
            continue;
        const char *what = json_string_value(json_object_get(f, "what")), *mend = json_string_value(json_object_get(f, "mend"));
        char text[1200];
        snprintf(text, sizeof text, "%s%s%s", what ? what : "?", mend ? ": " : "", mend ? mend : "");
        json_t *line = json_string(text);
        json_array_append_new(lines, line ? line : json_string("?"));
    }
    return lines;
}

static json_t *table_json(struct store *s, const char *name, const struct table *table, struct tbl *t) {
    uint32_t parked_count;
    json_t *findings = table_findings(s, name, table, t, &parked_count);
    const char *identity = !table || table->unsupported || table->excluded || table->key_kind == KEY_ROWID ? "none"
                           : table->key_kind == KEY_INTEGER && !table->without_rowid                       ? "numbered"
                                                                                                           : "given";
    bool replicated = table && !table->unsupported && !table->excluded && t && t->io;
    int64_t rows = t ? t->rows : 0;
    if (table && (table->unsupported || table->excluded) && s->app_open)
        (void)sql_int(s->app.reader, 0, &rows, "SELECT count(*) FROM main.\"%w\"", table->name);
    json_t *problems = lines_of(findings, false), *policies = lines_of(findings, true);
    json_decref(findings);
    return json_pack("{s:s, s:I, s:s, s:b, s:i, s:I, s:I, s:o, s:o}", "name", name, "rows", (json_int_t)rows, "identity", identity,
                     "replicated", replicated, "pending", 0, "parked", (json_int_t)parked_count + (t && !t->io ? (json_int_t)t->rows : 0),
                     "last_change_ms", t ? report_time(t->last_change_ms) : 0, "problems", problems, "policies", policies);
}

/* Of several under one name the one that has rows. */
static struct tbl *tbl_named(struct store *s, const char *name) {
    struct tbl *t = NULL;
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (sqlite3_stricmp(s->tbls[i]->name, name) == 0 && (!t || s->tbls[i]->rows))
            t = s->tbls[i];
    return t;
}

typedef void (*table_call)(struct store *s, const char *name, const struct table *table, struct tbl *t, void *ctx);

/* Every table, also those that only other servers have. */
static void each_table(struct store *s, table_call call, void *ctx) {
    sqlite3_stmt *q = NULL;
    follow_elsewhere(s);
    for (uint32_t i = 0; i < s->schema.count; i++)
        call(s, s->schema.tables[i].name, &s->schema.tables[i],
             state_find_table(s, s->schema.tables[i].name, strlen(s->schema.tables[i].name), state_shape_of_table(&s->schema.tables[i])),
             ctx);
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (s->tbls[i]->rows && tbl_named(s, s->tbls[i]->name) == s->tbls[i] &&
            !schema_find(&s->schema, s->tbls[i]->name, strlen(s->tbls[i]->name)))
            call(s, s->tbls[i]->name, NULL, s->tbls[i], ctx);
    if (told_by_others(s, &q, "tbl", "GROUP BY tbl COLLATE NOCASE") == 0)
        while (sql_step(q) == 1) {
            const char *name = (const char *)sqlite3_column_text(q, 0);
            struct tbl *t = tbl_named(s, name);
            if (!(t && t->rows) && !schema_find(&s->schema, name, strlen(name)))
                call(s, name, NULL, t, ctx);
        }
    sqlite3_finalize(q);
}

static void add_table(struct store *s, const char *name, const struct table *table, struct tbl *t, void *ctx) {
    json_array_append_new(ctx, table_json(s, name, table, t));
}

json_t *store_tables(struct store *s) {
    json_t *list = json_array();
    each_table(s, add_table, list);
    return list;
}

/* ---- `doctor` */

static void add_findings(struct store *s, const char *name, const struct table *table, struct tbl *t, void *ctx) {
    uint32_t parked_count;
    json_t *findings = table_findings(s, name, table, t, &parked_count), *f;
    size_t i;
    json_array_foreach(findings, i, f) {
        found(ctx, json_is_true(json_object_get(f, "note")), json_string_value(json_object_get(f, "mend")), "table \"%s\": %s", name,
              json_string_value(json_object_get(f, "what")));
    }
    json_decref(findings);
}

static void check_file(struct store *s, json_t *list) {
    sqlite3_stmt *q;
    if (sql_prepare(s->app.reader, &q, "PRAGMA quick_check(1)"))
        return;
    int row = sql_step(q);
    const char *said = row == 1 ? (const char *)sqlite3_column_text(q, 0) : sqlite3_errmsg(s->app.reader);
    /* what only the application has (a function in a CHECK or an index) cannot be checked by us */
    bool unknown = row == ERR_INTERNAL || (said && (strstr(said, "no such function") || strstr(said, "no such collation")));
    if (row == ERR_BUSY)
        found(list, false, "end it, or take PRAGMA locking_mode=EXCLUSIVE out of it: what it wrote is taken up then, and nothing is lost",
              "another program keeps the file locked (%s)", said ? said : "?");
    else if (row < 0 ? !unknown : row == 1 && said && strcmp(said, "ok") != 0)
        found(list, false,
              "stop the application, restore the file from a backup or with sqlite3's .recover, and start again: other servers bring what "
              "is missing",
              "the file is damaged: %s", said ? said : "?");
    sqlite3_finalize(q);
}

/* Servers whose last batch was written under another schema: what they can share is shared, and the rest waits. */
static void check_schemas(struct store *s, json_t *list) {
    for (uint32_t i = 0; i < s->origins_count && s->schema.count; i++) {
        struct bytes *b;
        struct batch_head head;
        if (i == s->own || !s->origins[i].version || memcmp(s->origin_ids[i].node, s->origin_ids[s->own].node, NODE_ID_BYTES) == 0 ||
            log_read(s, i, s->origins[i].version, &b))
            continue;
        if (batch_head_read(&head, b->data, b->len) == 0) {
            char id[2 * NODE_ID_BYTES + 1];
            sodium_bin2hex(id, sizeof id, s->origin_ids[i].node, NODE_ID_BYTES);
            if (head.schema && head.schema != s->schema.hash)
                found(list, true, "run the same version of the application on both; `starling tables` says what waits for it",
                      "the schema of node %s was another one when it last wrote (tables, columns, types, keys or UNIQUE constraints)", id);
            batch_head_release(&head);
        }
        bytes_unref(b);
    }
}

json_t *store_doctor(struct store *s) {
    json_t *list = json_array();
    if (!s->app_open)
        return json_pack("{s:o}", "problems", list);
    check_file(s, list);
    if (!s->app.wal)
        found(list, true, "sqlite3 FILE 'PRAGMA journal_mode=WAL', if the application allows it",
              "journal mode is not WAL: readers and writers block each other, ours too");
    int64_t reading_ms = s->readers_since_ms ? store_mono_us() / 1000 - s->readers_since_ms : 0;
    if (reading_ms > 1000)
        found(list, false, "finish SELECTs (fetch all rows, or close the cursor) before writing or waiting in the application",
              "a reader has been open for %lld s: changes of other servers wait for it (10 s at most)", (long long)reading_ms / 1000);
    each_table(s, add_findings, list);
    policies_each(s, NULL, add_policy, list);
    check_schemas(s, list);
    char about[300];
    snprintf(about, sizeof about, "%s; an application that says \"database is locked\" needs a busy timeout: PRAGMA busy_timeout = 5000",
             s->app.wal ? "journal mode WAL, which can be left only while starlingd is stopped" : "not in WAL mode");
    return json_pack("{s:o, s:s}", "problems", list, "about", about);
}
