/* Digests of what the application's file really holds, row by row, for comparing servers: independent of the registers. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "node/store/report.h"
#include "proto/err.h"

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

struct digest {
    uint64_t rows, sum;
};

struct verifying {
    struct store *s;
    struct tio *io;
    int bucket; /* list the rows of this one; -1 none */
    struct digest total, buckets[256];
    json_t *rows;
};

static void hex64(char out[17], uint64_t v) { snprintf(out, 17, "%016" PRIx64, v); }

static void put_row(struct verifying *v, sqlite3_stmt *q) {
    struct tio *io = v->io;
    const struct table *t = io->table;
    uint64_t sum = 0, key_hash = 0;
    struct value value;
    for (uint32_t i = 0; i < t->key_count; i++) {
        sql_column_value(q, (int)i, &value);
        key_hash = mix(key_hash + value_hash(&value));
    }
    sum = mix(key_hash);
    for (uint32_t i = 0; i < io->count; i++) {
        sql_column_value(q, (int)(i + (t->key_kind == KEY_INTEGER)), &value);
        sum += mix(io->tbl->column_hashes[io->numbers[i]] ^ value_hash(&value) * 0x9e3779b97f4a7c15u);
    }
    sum = mix(sum);
    if (t->key_kind == KEY_ROWID) /* by its content */
        key_hash = mix(sum);
    unsigned b = (unsigned)(key_hash >> 56);
    v->total.rows++;
    v->total.sum += sum;
    v->buckets[b].rows++;
    v->buckets[b].sum += sum;
    if ((int)b != v->bucket || json_array_size(v->rows) >= 8000)
        return;
    json_t *key = json_array();
    for (uint32_t i = 0; i < t->key_count; i++) {
        sql_column_value(q, (int)i, &value);
        json_array_append_new(key, report_value(&value));
    }
    char hex[17];
    hex64(hex, sum);
    if (t->key_kind == KEY_ROWID)
        json_array_append_new(key, json_string(hex));
    json_array_append_new(v->rows, json_pack("[o, s]", key, hex));
}

static int read_table(struct verifying *v) {
    struct store *s = v->s;
    const struct table *t = v->io->table;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"", i ? "," : "SELECT ", t->columns[t->key[i]].name);
    for (uint32_t i = t->key_kind == KEY_COLUMNS ? t->key_count : 0; i < v->io->count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"", i || t->key_count ? "," : "SELECT ", v->io->names[i]);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", t->name);
    tables_put_null_test(q, v->io, " WHERE ", false); /* those are not replicated, and `tables` says so */
    char *text = sqlite3_str_finish(q);
    sqlite3_stmt *stmt = NULL;
    int row = text ? sql_prepare(s->app.reader, &stmt, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    if (row)
        return row;
    while ((row = sql_step(stmt)) == 1)
        put_row(v, stmt);
    sqlite3_finalize(stmt);
    return row;
}

/* The vector of what the file shows: only then do two servers have to agree. */
static void add_vector(struct store *s, json_t *out) {
    struct db_state state;
    char hex[17];
    int64_t seq = 0;
    store_state(s, &state);
    /* In this snapshot: a write that is not drained yet is in the rows but not in the vector, one that is not shown yet the other way round. Then the
     * rows belong to no vector that another server could have, and one of our own says so. */
    bool drained = sql_int(s->app.reader, 0, &seq, "SELECT max(seq) FROM main._starling_dirty") == 0 && seq <= s->hot.note_seq;
    bool exact = drained && !s->flights && !s->delivered_count;
    hex64(hex, exact ? vv_digest(&state.have) : vv_digest(&state.have) ^ (uint64_t)store_mono_us());
    json_object_set_new(out, "vector", json_string(hex));
    json_object_set_new(out, "settled", json_boolean(state.settled && drained));
}

static json_t *all_tables(struct store *s) {
    json_t *tables = json_object();
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct verifying v = {.s = s, .io = &s->tios[i], .bucket = -1};
        char hex[17];
        if (!v.io->tbl)
            continue;
        int err = read_table(&v);
        if (err) { /* left out, it would look as if nobody had it */
            char *what = sqlite3_mprintf("table %s cannot be read: %s", v.io->table->name, sqlite3_errmsg(s->app.reader));
            json_t *error = json_pack("{s:s?, s:b}", "error", what, "lasts", err == ERR_CORRUPT || err == ERR_IO);
            sqlite3_free(what);
            json_decref(tables);
            return error;
        }
        hex64(hex, v.total.sum);
        json_object_set_new(tables, v.io->table->name, json_pack("{s:I, s:s}", "rows", (json_int_t)v.total.rows, "digest", hex));
    }
    return json_pack("{s:o}", "tables", tables);
}

static json_t *one_table(struct store *s, const char *table, int bucket) {
    struct tio *io = NULL;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && sqlite3_stricmp(s->tios[i].table->name, table) == 0)
            io = &s->tios[i];
    if (!io)
        return NULL;
    struct verifying v = {.s = s, .io = io, .bucket = bucket, .rows = json_array()};
    if (read_table(&v)) {
        json_decref(v.rows);
        return NULL;
    }
    if (bucket >= 0)
        return json_pack("{s:o}", "rows", v.rows);
    json_decref(v.rows);
    json_t *buckets = json_array();
    for (int i = 0; i < 256; i++) {
        char hex[17];
        hex64(hex, v.buckets[i].sum + v.buckets[i].rows);
        json_array_append_new(buckets, json_string(hex));
    }
    return json_pack("{s:I, s:o}", "rows", (json_int_t)v.total.rows, "buckets", buckets);
}

json_t *store_verify(struct store *s, const char *table, int bucket) {
    if (!s->app_open)
        return table ? NULL : json_pack("{s:{}, s:s, s:b}", "tables", "vector", "0000000000000000", "settled", 0);
    if (sql_run(s->a_begin))
        return NULL;
    json_t *out = table ? one_table(s, table, bucket) : all_tables(s);
    if (out)
        add_vector(s, out);
    sql_run(s->a_end);
    return out;
}
