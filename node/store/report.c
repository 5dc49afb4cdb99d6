/* What the interface shows of one database, as JSON. Derived from the state at hand at each call, never kept. */
#include "node/store/report.h"

#include <inttypes.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

/* ---- values */

static json_t *base64(const uint8_t *p, size_t len) {
    size_t n = sodium_base64_ENCODED_LEN(len, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(n);
    if (!text)
        return json_null();
    sodium_bin2base64(text, n, p ? p : (const uint8_t *)"", len, sodium_base64_VARIANT_ORIGINAL);
    json_t *j = json_pack("{s:s}", "base64", text);
    free(text);
    return j;
}

json_t *report_value(const struct value *v) {
    char text[40];
    json_t *j = NULL;
    switch (v->type) {
    case VALUE_NULL: return json_null();
    case VALUE_INT:
        if (v->as.i <= (1LL << 53) && v->as.i >= -(1LL << 53))
            return json_integer(v->as.i);
        snprintf(text, sizeof text, "%lld", (long long)v->as.i);
        return json_pack("{s:s}", "int", text);
    case VALUE_FLOAT:
        if (isfinite(v->as.f))
            return json_real(v->as.f);
        return json_pack("{s:s}", "float", v->as.f > 0 ? "inf" : "-inf");
    case VALUE_TEXT: j = json_stringn(v->len ? (const char *)v->p : "", v->len); break;
    case VALUE_BLOB: break;
    }
    return j ? j : base64(v->p, v->len);
}

/* {"column": value…} of the key. */
json_t *report_key(const struct tbl *t, const struct rowid *who) {
    json_t *key = json_object();
    struct value values[16];
    int n = tables_key_values(who, values, 16);
    for (int i = 0; i < n; i++) {
        char name[24];
        snprintf(name, sizeof name, "%d", i);
        const char *column = t->io && (uint32_t)i < t->io->table->key_count ? t->io->table->columns[t->io->table->key[i]].name : name;
        json_object_set_new(key, column, report_value(&values[i]));
    }
    return key;
}

static json_t *key_array(const struct rowid *who) {
    json_t *key = json_array();
    struct value values[16];
    int n = tables_key_values(who, values, 16);
    for (int i = 0; i < n; i++)
        json_array_append_new(key, report_value(&values[i]));
    return key;
}

/* ---- watch */

static const char *const OPS[] = {"insert", "update", "delete"};

static json_t *change_object(struct store *s, struct tbl *t, const struct rowid *who, unsigned kind, json_t *changes, uint32_t origin,
                             int64_t ms) {
    char text[2 * NODE_ID_BYTES + 1];
    sodium_bin2hex(text, sizeof text, s->origin_ids[origin].node, NODE_ID_BYTES);
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:s, s:I, s:b}", "db", s->config.db, "table", t->name, "op", OPS[kind < 3 ? kind : 1],
                     "key", report_key(t, who), "changes", changes, "node", text, "time_ms", (json_int_t)ms, "local", origin == s->own);
}

void report_change(struct store *s, struct tbl *t, const struct rowid *who, enum change_kind kind, const struct column_set *set,
                   const struct value *values, int64_t ms) {
    json_t *changes = json_object();
    for (uint32_t i = 0; set && i < set->count; i++)
        json_object_set_new(changes, set->names[i], report_value(&values[i]));
    json_t *j = change_object(s, t, who, kind, changes, s->own, ms);
    if (s->config.on_change && j)
        s->config.on_change(s->config.ctx, j);
    else
        json_decref(j);
}

void report_remote(struct store *s, uint32_t origin, const struct op *op) {
    json_t *changes = json_object();
    for (uint32_t i = 0; i < op->count; i++)
        json_object_set_new(changes, op->tbl->columns[op->columns[i]], report_value(&op->values[i]));
    json_t *j = change_object(s, op->tbl, &op->who, op->kind, changes, origin, store_wall_ms(s));
    if (s->config.on_change && j)
        s->config.on_change(s->config.ctx, j);
    else
        json_decref(j);
}

/* ---- what has no place here */

/* Columns that others write and the application here does not have. */
static uint32_t missing_columns(const struct tbl *t) {
    uint32_t n = 0;
    for (uint32_t c = 0; c < t->columns_count && t->io; c++)
        n += t->moves[c].placed == COLUMN_NEVER && (c >= t->io->by_number_count || !t->io->by_number[c]);
    return n;
}

int64_t tables_unshown(struct store *s) {
    int64_t n = 0;
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        const struct tbl *t = s->tbls[i];
        if (!t->io)
            n += t->unbound ? t->rows + 1 : t->placed ? 0 : t->rows; /* a table that the application dropped by itself is not missed */
        else if (t->rows)
            n += missing_columns(t);
        n += (int64_t)(t->lost + t->null_keys);
    }
    return n + s->too_large;
}

/* ---- status */

static int64_t pending_notes(struct store *s) {
    int64_t n = 0;
    if (!s->app_open ||
        sql_int(s->app.reader, 0, &n, "SELECT count(*) FROM (SELECT 1 FROM main._starling_dirty WHERE seq > %lld LIMIT 100000)",
                (long long)s->hot.note_seq))
        return 0;
    return n;
}

static int cmp_int64(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static double lock_p99_ms(const struct store *s) {
    int64_t sorted[256];
    if (!s->lock_count)
        return 0;
    memcpy(sorted, s->lock_us, s->lock_count * sizeof *sorted);
    qsort(sorted, s->lock_count, sizeof *sorted, cmp_int64);
    return (double)sorted[s->lock_count * 99 / 100] / 1000.0;
}

static json_t *versions(struct store *s) {
    struct db_state state;
    json_t *j = json_object();
    store_state(s, &state);
    for (uint32_t i = 0; i < state.have.count; i++) {
        char text[ORIGIN_TEXT_BYTES];
        json_object_set_new(j, origin_text(&state.have.entries[i].origin, text), json_integer((json_int_t)state.have.entries[i].version));
    }
    return j;
}

json_t *store_status(struct store *s) {
    int64_t rows = 0, tables = 0, log_bytes = 0, in_flight = 0;
    for (uint32_t i = 0; i < s->tbls_count; i++)
        rows += s->tbls[i]->rows;
    for (uint32_t i = 0; i < s->schema.count; i++)
        tables++;
    for (struct flight *f = s->flights; f; f = f->next)
        in_flight += f->ops_count;
    sql_int(s->db, 0, &log_bytes, "SELECT total(n) FROM (SELECT length(b) AS n FROM log ORDER BY id DESC LIMIT 20000)");
    char digest[33];
    uint8_t bytes[16];
    memcpy(bytes, &s->hot.digest_a, 8);
    memcpy(bytes + 8, &s->hot.digest_b, 8);
    sodium_bin2hex(digest, sizeof digest, bytes, sizeof bytes);
    char base[17];
    snprintf(base, sizeof base, "%016" PRIx64, s->hot.base);
    return json_pack("{s:s, s:s, s:n, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:I, s:s, s:o, s:I, s:I, s:I, s:f, s:I}", "name", s->config.db,
                     "state", s->scan ? "adopting" : "ok", "error", "tables", (json_int_t)tables, "rows", (json_int_t)rows, "pending",
                     (json_int_t)pending_notes(s), "waiting", (json_int_t)s->held_count, "parked",
                     (json_int_t)(s->parked_count + tables_unshown(s)), "version", versions(s), "digest", digest, "conflicts",
                     (json_int_t)s->open_conflicts, "base", base, "capturing", scan_json(s), "log_bytes", (json_int_t)log_bytes, "drained",
                     (json_int_t)s->drained_rows, "projected", (json_int_t)s->projected_rows, "lock_ms_p99", lock_p99_ms(s), "in_flight",
                     (json_int_t)in_flight);
}

json_t *store_decide(struct store *s, const char *table, bool accept) {
    uint64_t rows = 0;
    if (!table || !s->app_open)
        return json_pack("{s:s}", "error", "the database is not served now");
    int err = scan_decide(s, table, accept, &rows);
    if (err)
        return json_pack("{s:s}", "error", err_text(err));
    if (!rows)
        return json_pack("{s:s}", "error", "no rows of that table are gone without a note: nothing is to be decided");
    return json_pack("{s:I}", "rows", (json_int_t)rows);
}

/* ---- open conflicts */

struct listing {
    struct store *s;
    struct tbl *tbl;
    struct rowid who;
    json_t *list;
};

static int list_one(void *ctx, const struct cell *c, const struct death *d) {
    struct listing *l = ctx;
    const struct write *w = c ? &l->s->reg.writes[c->write] : NULL;
    struct value v = {.type = VALUE_NULL};
    uint32_t origin = c ? w->origin : d->origin;
    if (c) {
        int err = values_find(l->s, w->origin, w->version, l->tbl, &l->who, c->column, &v);
        if (err && err != ERR_NOTFOUND)
            return err;
    }
    char stamp[24], text[ORIGIN_TEXT_BYTES];
    snprintf(stamp, sizeof stamp, "%" PRIu64, c ? w->at : d->at);
    json_array_append_new(l->list, json_pack("{s:s, s:o, s:s, s:s, s:s, s:o}", "table", l->tbl->name, "key", key_array(&l->who), "column",
                                             c ? l->tbl->columns[c->column] : "(deleted)", "stamp", stamp, "origin",
                                             origin_text(&l->s->origin_ids[origin], text), "value", report_value(&v)));
    return 0;
}

json_t *store_conflicts(struct store *s) {
    sqlite3_stmt *q;
    json_t *list = json_array();
    if (sql_prepare(s->db, &q, "SELECT tbl, who FROM open"))
        return list;
    while (sql_step(q) == 1) {
        struct listing l = {.s = s, .list = list};
        for (uint32_t i = 0; i < s->tbls_count; i++)
            if (s->tbls[i]->no == (uint32_t)sqlite3_column_int64(q, 0))
                l.tbl = s->tbls[i];
        const uint8_t *at = sqlite3_column_blob(q, 1), *end = at + sqlite3_column_bytes(q, 1);
        bool home;
        if (!l.tbl || rowid_unpack(&l.who, &at, end) || rows_find(s, l.tbl, &l.who, &s->reg, &home) ||
            rows_each_conflict(s, l.tbl, &s->reg, list_one, &l))
            break;
    }
    sqlite3_finalize(q);
    return list;
}
