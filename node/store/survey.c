#include "node/store/survey.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "node/store/report.h"
#include "node/store/sql.h"
#include "proto/err.h"

#define RANGE_ROWS 500u
#define RANGES_MAX 64u
#define ROWS_MAX 2000u
#define ANSWER_BYTES (400u << 10)
#define SLICE_US 20000
#define FIND_US 1000000
#define PARENTS_DEPTH 8
#define KEY_BYTES_MAX (200u << 10)

/* ---- small things */

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

json_t *survey_hex(const void *p, size_t len) {
    char *text = malloc(2 * len + 1);
    json_t *j = text ? json_string(sodium_bin2hex(text, 2 * len + 1, p, len)) : NULL;
    free(text);
    return j;
}

static json_t *hex64(uint64_t v) {
    uint8_t bytes[8];
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(v >> (56 - 8 * i));
    return survey_hex(bytes, sizeof bytes);
}

bool survey_unhex(const json_t *j, struct buf *out) {
    const char *text = json_string_value(j);
    size_t len = text ? strlen(text) : 0, got = 0;
    buf_clear(out);
    uint8_t *to = text && len % 2 == 0 ? buf_reserve(out, len / 2 + 1) : NULL;
    if (!to || sodium_hex2bin(to, len / 2 + 1, text, len, NULL, &got, NULL) != 0)
        return false;
    out->len += got;
    return true;
}

bool survey_names(const json_t *list, const char *text) {
    size_t i;
    json_t *each;
    json_array_foreach(list, i, each) {
        if (json_is_string(each) && sqlite3_stricmp(json_string_value(each), text) == 0)
            return true;
    }
    return false;
}

bool survey_same_names(const json_t *list, const json_t *names) {
    size_t i;
    json_t *name;
    json_array_foreach(names, i, name) {
        if (!json_is_string(name) || !survey_names(list, json_string_value(name)))
            return false;
    }
    return json_array_size(list) == json_array_size(names);
}

static json_t *cannot(const char *why) { return json_pack("{s:s}", "error", why); }

bool survey_serves(const struct survey *s, const struct table *t) {
    if (t->unsupported || t->virtual || t->excluded)
        return false;
    for (uint32_t i = 0; s->store && i < s->store->tios_count; i++)
        if (s->store->tios[i].tbl && s->store->tios[i].table == t)
            return true;
    return !s->store;
}

static struct tio *tio_of(const struct survey *s, const struct table *t) {
    for (uint32_t i = 0; s->store && i < s->store->tios_count; i++)
        if (s->store->tios[i].tbl && s->store->tios[i].table == t)
            return &s->store->tios[i];
    return NULL;
}

/* ---- the plan */

static uint32_t place_of(const struct survey_plan *p, const char *name) {
    for (uint32_t i = 0; name && i < p->values_count; i++)
        if (!sqlite3_stricmp(p->table->columns[p->order[i]].name, name))
            return i;
    return UINT32_MAX;
}

/* Whose numbers this column holds: a key that is a reference itself stands for what it refers to. */
static const struct table *parent_of(const struct survey *s, const struct table *t, const char *column, unsigned depth) {
    for (uint32_t i = 0; i < t->foreign_keys_count; i++) {
        const struct foreign_key *f = &t->foreign_keys[i];
        const struct table *parent = f->count == 1 ? schema_find(s->schema, f->parent, strlen(f->parent)) : NULL;
        if (parent && parent->key_kind == KEY_INTEGER && !sqlite3_stricmp(f->from[0], column) &&
            !sqlite3_stricmp(f->to[0], parent->columns[parent->key[0]].name)) {
            const struct table *further = depth ? parent_of(s, parent, parent->columns[parent->key[0]].name, depth - 1) : NULL;
            return further ? further : parent;
        }
    }
    return NULL;
}

static int read_places(struct survey_plan *p, const json_t *names, uint32_t *out, uint32_t max, uint32_t *count) {
    size_t i;
    json_t *name;
    *count = 0;
    json_array_foreach(names, i, name) {
        uint32_t at = place_of(p, json_string_value(name));
        if (at == UINT32_MAX || *count == max)
            return ERR_NOTFOUND;
        out[(*count)++] = at;
    }
    return 0;
}

void survey_plan_release(struct survey_plan *p) {
    free(p->order);
    free(p->parents);
    free(p->hashes);
    free(p->columns);
    memset(p, 0, sizeof *p);
}

static int plan_read(struct survey_plan *p, const json_t *question) {
    const struct table *t = p->table;
    json_t *columns = json_object_get(question, "columns"), *unique;
    size_t i;
    p->identities = json_is_true(json_object_get(question, "identities"));
    p->values_count = t->columns_count;
    p->order = calloc(t->columns_count + 1, sizeof *p->order);
    p->parents = calloc(t->columns_count + 1, sizeof *p->parents);
    p->hashes = calloc(t->columns_count + 1, sizeof *p->hashes);
    p->columns = calloc(t->columns_count + 1, sizeof *p->columns);
    if (!p->order || !p->parents || !p->hashes || !p->columns)
        return ERR_NOMEM;
    uint32_t n = 0;
    for (uint32_t k = 0; k < t->key_count; k++)
        p->order[n++] = t->key[k];
    for (uint32_t c = 0; c < t->columns_count; c++)
        if (!t->columns[c].key_place)
            p->order[n++] = c;
    p->table_hash = state_name_hash(t->name, strlen(t->name));
    for (uint32_t k = 0; k < n; k++) {
        const char *name = t->columns[p->order[k]].name;
        p->parents[k] = parent_of(p->survey, t, name, PARENTS_DEPTH);
        p->hashes[k] = state_name_hash(name, strlen(name));
    }
    int err = read_places(p, columns, p->columns, t->columns_count, &p->columns_count);
    json_array_foreach(json_object_get(question, "uniques"), i, unique) {
        if (!err && p->uniques_count < SURVEY_UNIQUES_MAX) {
            err = read_places(p, unique, p->unique_at[p->uniques_count], SURVEY_KEYS_MAX, &p->unique_len[p->uniques_count]);
            p->uniques_count++;
        }
    }
    return err;
}

int survey_plan_init(struct survey_plan *p, const struct survey *s, const json_t *question) {
    const char *name = json_string_value(json_object_get(question, "table"));
    memset(p, 0, sizeof *p);
    p->survey = s;
    p->table = name ? schema_find(s->schema, name, strlen(name)) : NULL;
    int err = p->table && survey_serves(s, p->table) ? plan_read(p, question) : ERR_NOTFOUND;
    if (err)
        survey_plan_release(p);
    return err;
}

/* ---- reading rows */

static void put_select(sqlite3_str *q, const struct survey_plan *p) {
    const struct table *t = p->table;
    sqlite3_str_appendf(q, "SELECT %s", t->key_kind == KEY_ROWID ? t->rowid : "0");
    for (uint32_t i = 0; i < p->values_count; i++)
        sqlite3_str_appendf(q, ",\"%w\"", t->columns[p->order[i]].name);
    sqlite3_str_appendf(q, " FROM main.\"%w\" WHERE 1", t->name);
    for (uint32_t i = 0; i < t->key_count && t->key_kind == KEY_COLUMNS; i++)
        if (!t->columns[t->key[i]].not_null && !t->without_rowid) /* NULL in its key: not replicated */
            sqlite3_str_appendf(q, " AND \"%w\" NOT NULL", t->columns[t->key[i]].name);
}

static void put_bound(sqlite3_str *q, const struct table *t, const char *compare) {
    row_cursor_put_key(q, t, " AND (", true);
    sqlite3_str_appendf(q, ") %s (", compare);
    for (uint32_t i = 0; i < table_key_width(t); i++)
        sqlite3_str_appendall(q, i ? ",?" : "?");
    sqlite3_str_appendall(q, ")");
}

static int bind_key(sqlite3_stmt *q, const struct table *t, const struct buf *key, int *at) {
    struct value values[SURVEY_KEYS_MAX];
    struct rowid who = {.text = true, .key = key->data, .key_len = key->len};
    int n = tables_key_values(&who, values, SURVEY_KEYS_MAX);
    if (n != (int)table_key_width(t))
        return ERR_MALFORMED;
    for (int i = 0; i < n; i++)
        sql_bind_value(q, (*at)++, &values[i]);
    return 0;
}

static int cursor_begin(struct survey_cursor *c, struct survey_plan *p, sqlite3_str *text) {
    char *sql = sqlite3_str_finish(text);
    memset(c, 0, sizeof *c);
    c->plan = p;
    buf_init(&c->key, 256u << 20);
    c->values = calloc(2 * (p->values_count + 1), sizeof *c->values);
    c->copy = c->values ? c->values + p->values_count + 1 : NULL;
    int err = sql && c->values ? sql_prepare(p->survey->db, &c->stmt, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    return err;
}

int survey_open(struct survey_cursor *c, struct survey_plan *p, const struct buf *after, const struct buf *to, uint32_t limit) {
    sqlite3_str *q = sqlite3_str_new(p->survey->db);
    int at = 1;
    put_select(q, p);
    if (after)
        put_bound(q, p->table, ">");
    if (to)
        put_bound(q, p->table, "<=");
    row_cursor_put_key(q, p->table, " ORDER BY ", true);
    sqlite3_str_appendf(q, " LIMIT %u", limit);
    int err = cursor_begin(c, p, q);
    if (!err && after)
        err = bind_key(c->stmt, p->table, after, &at);
    return err || !to ? err : bind_key(c->stmt, p->table, to, &at);
}

void survey_close(struct survey_cursor *c) {
    sqlite3_finalize(c->stmt);
    free(c->values);
    buf_release(&c->key);
    memset(c, 0, sizeof *c);
}

/* What its references mean elsewhere, and its own number where that is one. */
static void translate(struct survey_cursor *c) {
    const struct survey *s = c->plan->survey;
    const struct table *t = c->plan->table;
    memcpy(c->copy, c->values, c->plan->values_count * sizeof *c->copy);
    for (uint32_t i = 0; s->today && i < c->plan->values_count; i++) {
        const struct table *of = c->plan->parents[i];
        bool key = i < t->key_count;
        if (!of && key && t->key_kind == KEY_INTEGER)
            of = t;
        int other = of && c->values[i].type == VALUE_INT ? s->today(s->ctx, of, &c->copy[i].as.i) : 0;
        if (other == 2)
            c->copy[i] = (struct value){.type = VALUE_NULL};
        c->row.unknown |= other == 2;
        c->row.key_changes |= other && key;
    }
}

static void sum_up(struct survey_cursor *c) {
    const struct survey_plan *p = c->plan;
    struct survey_row *r = &c->row;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->columns_count; i++)
        sum += mix(p->hashes[p->columns[i]] ^ value_hash(&c->copy[p->columns[i]]) * 0x9e3779b97f4a7c15u);
    r->digest = mix(sum + (r->unknown ? 0x5bd1e995u : 0));
    for (uint32_t u = 0; u < p->uniques_count; u++) {
        r->uniques[u] = 1;
        for (uint32_t i = 0; i < p->unique_len[u]; i++) {
            const struct value *v = &c->copy[p->unique_at[u][i]];
            enum collation k = p->table->columns[p->order[p->unique_at[u][i]]].own;
            buf_clear(&c->key);
            tables_put_key_value(&c->key, v, k);
            struct value as = {.type = VALUE_BLOB, .p = c->key.data, .len = c->key.len};
            r->uniques[u] = v->type == VALUE_NULL || !r->uniques[u] ? 0 : mix(r->uniques[u] ^ value_hash(&as)) | 1;
        }
    }
}

/* As drain_new_identity() does; of what the file holds, whatever it will mean. */
static uint64_t adopted_hash(const struct survey_cursor *c) {
    const struct survey_plan *p = c->plan;
    uint64_t sum = p->table_hash;
    for (uint32_t i = p->table->key_count; i < p->values_count; i++) {
        uint64_t x = (p->hashes[i] ^ value_hash(&c->values[i])) * 0x9e3779b97f4a7c15u;
        sum += x ^ (x >> 29);
    }
    return sum;
}

static int identify(struct survey_cursor *c) {
    struct tio *io = tio_of(c->plan->survey, c->plan->table);
    struct store *s = c->plan->survey->store;
    struct survey_row *r = &c->row;
    bool numbered = c->plan->table->key_kind == KEY_INTEGER && !c->plan->parents[0];
    r->identity = numbered ? SURVEY_AS_ADOPTED : SURVEY_GIVEN;
    r->adopted = numbered ? adopted_hash(c) : 0;
    if (!numbered || !io)
        return 0;
    struct rowid place = {.kind = IDENT_GIVEN, .number = c->values[0].as.i};
    int err = rows_at_home(s, io->tbl, &place, &s->reg);
    if (err)
        return err;
    r->hash = s->reg.who.hash;
    if (!reg_known(&s->reg) || s->reg.who.kind == IDENT_BORN)
        r->identity = SURVEY_BORN;
    else if (s->reg.who.kind == IDENT_GIVEN)
        r->identity = SURVEY_GIVEN;
    else
        r->identity = r->hash == r->adopted ? SURVEY_AS_ADOPTED : SURVEY_ADOPTED;
    return 0;
}

bool survey_next(struct survey_cursor *c) {
    const struct table *t = c->plan->table;
    int row = sql_step(c->stmt);
    if (row != 1) {
        c->error = row;
        return false;
    }
    memset(&c->row, 0, sizeof c->row);
    c->row.values = c->values;
    c->row.copy = c->copy;
    c->row.rowid = sqlite3_column_int64(c->stmt, 0);
    for (uint32_t i = 0; i < c->plan->values_count; i++)
        sql_column_value(c->stmt, (int)i + 1, &c->values[i]);
    translate(c);
    sum_up(c);
    if ((c->error = identify(c)))
        return false;
    buf_clear(&c->key);
    struct value rowid = {.type = VALUE_INT, .as.i = c->row.rowid};
    if (t->key_kind == KEY_ROWID)
        tables_put_key_value(&c->key, &rowid, COLLATION_BINARY);
    for (uint32_t i = 0; i < t->key_count; i++)
        tables_put_key_value(&c->key, &c->values[i], t->columns[t->key[i]].collation);
    return (c->error = c->key.failed) == 0;
}

uint64_t survey_in_range(const struct survey_plan *p, const struct survey_row *row, const struct buf *key) {
    struct value k = {.type = VALUE_BLOB, .p = key->data, .len = key->len};
    bool other = p->identities ? row->identity != SURVEY_AS_ADOPTED : row->key_changes;
    return mix(row->digest ^ mix(value_hash(&k)) ^ (other ? 0x27d4eb2fu : 0));
}

/* ---- answers */

static json_t *row_json(const struct survey_cursor *c) {
    const struct survey_row *r = &c->row;
    json_t *uniques = json_array();
    for (uint32_t u = 0; u < c->plan->uniques_count; u++)
        json_array_append_new(uniques, hex64(r->uniques[u]));
    json_t *identity = r->identity == SURVEY_ADOPTED      ? hex64(r->hash)
                       : r->identity == SURVEY_AS_ADOPTED ? hex64(r->adopted)
                                                          : json_string(r->identity == SURVEY_GIVEN ? "given" : "born");
    return json_pack("[o, o, o, o]", survey_hex(c->key.data, c->key.len), hex64(r->digest), identity, uniques);
}

static json_t *read_ranges(struct survey_plan *p, const struct buf *after) {
    struct survey_cursor c;
    json_t *ranges = json_array();
    int64_t began = store_mono_us();
    uint64_t sum = 0;
    uint32_t rows = 0, all = 0;
    size_t bytes = 0;
    bool late = false;
    int err = survey_open(&c, p, after, NULL, RANGE_ROWS * RANGES_MAX);
    while (!err && !late && survey_next(&c)) {
        sum += survey_in_range(p, &c.row, &c.key);
        all++;
        if (++rows < RANGE_ROWS && c.key.len < KEY_BYTES_MAX)
            continue;
        json_array_append_new(ranges, json_pack("[o, i, o]", survey_hex(c.key.data, c.key.len), (int)rows, hex64(sum)));
        bytes += 2 * c.key.len + 40;
        late = store_mono_us() - began > SLICE_US || bytes > ANSWER_BYTES;
        rows = 0;
        sum = 0;
    }
    err = err ? err : c.error;
    bool end = !late && all < RANGE_ROWS * RANGES_MAX;
    if (!err && rows && end) /* the last one, without an upper bound */
        json_array_append_new(ranges, json_pack("[n, i, o]", (int)rows, hex64(sum)));
    survey_close(&c);
    if (!err)
        return json_pack("{s:o, s:b}", "ranges", ranges, "end", end);
    json_decref(ranges);
    return cannot(err_text(err));
}

static json_t *read_rows(struct survey_plan *p, const struct buf *after, const struct buf *to) {
    struct survey_cursor c;
    json_t *rows = json_array();
    size_t bytes = 0;
    int err = survey_open(&c, p, after, to, ROWS_MAX);
    while (!err && bytes < ANSWER_BYTES && survey_next(&c)) {
        json_array_append_new(rows, row_json(&c));
        bytes += 2 * c.key.len + 60 + 20 * (size_t)p->uniques_count;
    }
    err = err ? err : c.error;
    survey_close(&c);
    if (!err)
        return json_pack("{s:o, s:b}", "rows", rows, "end", json_array_size(rows) < ROWS_MAX && bytes < ANSWER_BYTES);
    json_decref(rows);
    return cannot(err_text(err));
}

static int find_one(struct survey_cursor *c, const json_t *values, uint32_t count, struct arena *arena, json_t *rows) {
    int err = json_array_size(values) == count ? 0 : ERR_MALFORMED;
    sqlite3_reset(c->stmt);
    for (uint32_t i = 0; i < count && !err; i++) {
        struct value v;
        err = report_value_read(json_array_get(values, i), arena, &v);
        if (!err)
            sql_bind_value(c->stmt, (int)i + 1, &v);
    }
    bool found = !err && survey_next(c);
    if (!err)
        json_array_append_new(rows, found ? row_json(c) : json_null());
    return err == 1 ? ERR_MALFORMED : err ? err : c->error;
}

/* UNIQUE constraints and indexes besides the key, as far as they are columns and nothing else. */
static json_t *uniques_of(const struct survey *s, const struct table *t) {
    json_t *all = json_array();
    sqlite3_stmt *q = NULL;
    const char *now = NULL;
    char *last = NULL;
    json_t *one = NULL;
    bool plain = true;
    int err = sql_prepare(s->db, &q,
                          "SELECT l.name, x.name FROM pragma_index_list(%Q, 'main') AS l, pragma_index_info(l.name, 'main') AS x "
                          "WHERE l.\"unique\" AND l.origin<>'pk' AND NOT l.partial ORDER BY l.name, x.seqno",
                          t->name);
    while (!err && sql_step(q) == 1) {
        now = (const char *)sqlite3_column_text(q, 0);
        const char *column = (const char *)sqlite3_column_text(q, 1);
        if (!last || (now && strcmp(last, now) != 0)) {
            if (one && plain)
                json_array_append(all, one);
            json_decref(one);
            free(last);
            last = strdup(now ? now : "");
            one = json_array();
            plain = true;
        }
        plain = plain && column;
        if (column)
            json_array_append_new(one, json_string(column));
    }
    if (one && plain)
        json_array_append(all, one);
    json_decref(one);
    free(last);
    sqlite3_finalize(q);
    return all;
}

static json_t *table_json(const struct survey *s, const struct table *t) {
    struct tio *io = tio_of(s, t);
    json_t *key = json_array(), *columns = json_array(), *alike = json_array();
    for (uint32_t i = 0; i < t->key_count; i++)
        json_array_append_new(key, json_string(t->columns[t->key[i]].name));
    for (uint32_t i = 0; i < t->columns_count; i++)
        if (!t->columns[i].key_place)
            json_array_append_new(columns, json_string(t->columns[i].name));
    for (uint32_t i = 0; io && i < io->policy.key_count; i++)
        json_array_append_new(alike, json_string(io->names[io->policy.key[i]]));
    const char *identity = t->key_kind == KEY_ROWID                                                        ? "none"
                           : t->key_kind == KEY_INTEGER && !parent_of(s, t, t->columns[t->key[0]].name, 0) ? "numbered"
                                                                                                           : "given";
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "name", t->name, "identity", identity, "key", key, "columns", columns, "uniques",
                     uniques_of(s, t), "alike", alike);
}

/* By what there is an index for, or should be: whoever asks may not make us read whole tables. */
static bool may_find(const struct survey_plan *p, const json_t *by) {
    json_t *table = table_json(p->survey, p->table), *unique;
    size_t i;
    bool may = survey_same_names(json_object_get(table, "key"), by) || survey_same_names(json_object_get(table, "alike"), by);
    json_array_foreach(json_object_get(table, "uniques"), i, unique) { may = may || survey_same_names(unique, by); }
    json_decref(table);
    return may && json_array_size(by) > 0;
}

static json_t *find_rows(struct survey_plan *p, const json_t *question) {
    uint32_t by[SURVEY_KEYS_MAX], count = 0;
    struct survey_cursor c;
    struct arena arena = {0};
    json_t *rows = json_array(), *values;
    size_t i;
    sqlite3_str *q = sqlite3_str_new(p->survey->db);
    int64_t began = store_mono_us();
    int err = may_find(p, json_object_get(question, "by")) ? read_places(p, json_object_get(question, "by"), by, SURVEY_KEYS_MAX, &count)
                                                           : ERR_USAGE;
    put_select(q, p);
    for (uint32_t k = 0; k < count; k++)
        sqlite3_str_appendf(q, " AND \"%w\"=?", p->table->columns[p->order[by[k]]].name);
    sqlite3_str_appendall(q, " LIMIT 1");
    int begun = cursor_begin(&c, p, q);
    err = err ? err : begun;
    json_array_foreach(json_object_get(question, "values"), i, values) {
        if (!err && store_mono_us() - began > FIND_US)
            err = ERR_BUSY;
        if (!err && i < ROWS_MAX)
            err = find_one(&c, values, count, &arena, rows);
    }
    survey_close(&c);
    arena_release(&arena);
    if (!err)
        return json_pack("{s:o}", "rows", rows);
    json_decref(rows);
    return cannot(err == ERR_BUSY ? "looking rows up takes too long: an index over the columns of the table's policy `key` makes it quick"
                                  : err_text(err));
}

json_t *survey_answer(const struct survey *s, const json_t *question) {
    const char *ask = json_string_value(json_object_get(question, "ask"));
    struct survey_plan plan;
    struct buf after, to;
    json_t *answer = NULL;
    if (ask && !strcmp(ask, "tables")) {
        json_t *tables = json_array();
        for (uint32_t i = 0; i < s->schema->count; i++)
            if (survey_serves(s, &s->schema->tables[i]))
                json_array_append_new(tables, table_json(s, &s->schema->tables[i]));
        return json_pack("{s:o}", "tables", tables);
    }
    int err = survey_plan_init(&plan, s, question);
    if (err)
        return cannot(err == ERR_NOTFOUND ? "there is no such table or column" : err_text(err));
    buf_init(&after, 64u << 20);
    buf_init(&to, 64u << 20);
    bool has_after = survey_unhex(json_object_get(question, "after"), &after), has_to = survey_unhex(json_object_get(question, "to"), &to);
    if (ask && !strcmp(ask, "ranges"))
        answer = read_ranges(&plan, has_after ? &after : NULL);
    else if (ask && !strcmp(ask, "rows"))
        answer = read_rows(&plan, has_after ? &after : NULL, has_to ? &to : NULL);
    else if (ask && !strcmp(ask, "find"))
        answer = find_rows(&plan, question);
    buf_release(&after);
    buf_release(&to);
    survey_plan_release(&plan);
    return answer ? answer : cannot("no such question");
}

json_t *store_survey(struct store *s, const json_t *question) {
    struct survey survey = {.db = s->app.reader, .schema = &s->schema, .store = s};
    if (!s->app_open)
        return json_pack("{s:[]}", "tables");
    if (sql_run(s->a_begin))
        return NULL;
    json_t *answer = survey_answer(&survey, question);
    sql_run(s->a_end);
    return answer;
}
