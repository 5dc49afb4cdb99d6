/* What the interface shows of one database, as JSON. Derived from the state at hand at each call, never kept. */
#include "node/store/keyed.h"
#include "node/store/report.h"

#include <inttypes.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define EARLIEST_MS 315532800000 /* 1980: no clock is before it */

json_int_t report_time(int64_t ms) { return ms < EARLIEST_MS ? 0 : ms; }

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
    case VALUE_REF:
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

int report_value_read(const json_t *j, struct arena *arena, struct value *v) {
    const char *text = json_string_value(json_object_get(j, "base64")), *number = json_string_value(json_object_get(j, "int"));
    char *end = NULL;
    *v = (struct value){.type = VALUE_NULL};
    if (json_is_null(j))
        return 0;
    if (json_is_integer(j) || json_is_boolean(j) || number) {
        v->type = VALUE_INT;
        v->as.i = number ? strtoll(number, &end, 10) : json_is_boolean(j) ? json_is_true(j) : json_integer_value(j);
        return number && (end == number || *end);
    }
    if (json_is_real(j)) {
        v->type = VALUE_FLOAT;
        v->as.f = json_real_value(j);
        return 0;
    }
    if (json_is_string(j)) {
        v->type = VALUE_TEXT;
        v->p = (const uint8_t *)json_string_value(j);
        v->len = json_string_length(j);
        return 0;
    }
    if (!text)
        return 1;
    size_t max = strlen(text);
    uint8_t *bin = arena_alloc(arena, max + 1);
    if (!bin)
        return ERR_NOMEM;
    v->type = VALUE_BLOB;
    v->p = bin;
    return sodium_base642bin(bin, max + 1, text, max, NULL, &v->len, NULL, sodium_base64_VARIANT_ORIGINAL) != 0;
}

/* {"column": value…} of the key. */
json_t *report_key(const struct tbl *t, const struct rowid *who) {
    json_t *key = json_object();
    struct value values[16];
    int64_t rowid;
    if (t->io && t->io->table->key_kind == KEY_ROWID &&
        keyless_rowid(t->io, who, &rowid) == 1) { /* as the application could find it here */
        json_object_set_new(key, t->io->table->rowid, json_integer(rowid));
        return key;
    }
    int n = t->io ? tables_key_shown(t->io->store, t, who, values, 16) : tables_key_values(who, values, 16);
    for (int i = 0; i < n; i++) {
        char name[24];
        snprintf(name, sizeof name, "%d", i);
        const char *column = t->io && (uint32_t)i < t->io->table->key_count ? t->io->table->columns[t->io->table->key[i]].name : name;
        json_object_set_new(key, column, report_value(&values[i]));
    }
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
        n += t->moves[c].placed == COLUMN_NEVER && c + 1 != t->number_column && t->moves[c].elsewhere &&
             (c >= t->io->by_number_count || !t->io->by_number[c]);
    return n;
}

int64_t tables_unshown(struct store *s) {
    int64_t n = 0;
    follow_elsewhere(s);
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        const struct tbl *t = s->tbls[i];
        if (!t->io)
            n += t->unbound                   ? t->rows + 1
                 : t->placed || !t->elsewhere ? 0
                                              : t->rows; /* a table that the application dropped by itself is not missed */
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
    /* in eighths, which have three decimals at most: a real is printed with all that it takes to tell it from its neighbours */
    return (double)((sorted[s->lock_count * 99 / 100] * 8 + 999) / 1000) / 8.0;
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
    return json_pack("{s:s, s:s, s:n, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:I, s:s, s:o, s:I, s:I, s:I, s:I, s:f, s:I, s:o}", "name",
                     s->config.db, "state", s->scan ? "adopting" : "ok", "error", "tables", (json_int_t)tables, "rows", (json_int_t)rows,
                     "pending", (json_int_t)pending_notes(s), "waiting", (json_int_t)s->held_count, "parked",
                     (json_int_t)(s->parked_count + tables_unshown(s)), "version", versions(s), "digest", digest, "conflicts",
                     (json_int_t)s->open_conflicts, "base", base, "capturing", scan_json(s), "log_bytes", (json_int_t)log_bytes, "drained",
                     (json_int_t)s->drained_rows, "mends", (json_int_t)s->mended_rows, "projected", (json_int_t)s->projected_rows,
                     "lock_ms_p99", lock_p99_ms(s), "in_flight", (json_int_t)in_flight, "policies", policies_json(s));
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
