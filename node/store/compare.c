/* In two passes. The first one looks at the tables whose rows SQLite numbered, parents first, for what their numbers will be: of rows with equal identity,
 * or that agree on their UNIQUE keys, nothing but the number; the results are in `moves`, a temporary database, so that memory stays bounded. The
 * second one compares all values, references by what they will mean. Both go by ranges of keys: where digests are equal nothing else is asked. */
#include "node/store/compare.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "node/store/engine.h"
#include "node/store/report.h"
#include "node/store/survey.h"
#include "proto/err.h"

#define PAGE_ROWS 500u
#define THERE_MAX 100000u /* of a range of 500 a moment ago */

struct there { /* a row of the cluster */
    UT_hash_handle hh;
    uint64_t digest, hash, uniques[SURVEY_UNIQUES_MAX];
    bool given, adopted;
    uint32_t key_len;
    uint8_t key[];
};

struct counts {
    json_int_t here, there, equal, matched, renumbered, conflicts, only_here, met;
};

/* A row that is to be looked up over there. */
struct wanted {
    int64_t number;
    bool meets;  /* another row has its number */
    bool by_key; /* of a table with given keys: who has that key, as it will be */
    uint64_t digest, uniques[SURVEY_UNIQUES_MAX];
    json_t *values[SURVEY_UNIQUES_MAX];
};

struct compare {
    const struct compare_config *config;
    char *why;
    size_t why_len;
    struct survey survey;
    struct schema schema;
    sqlite3 *moves;
    sqlite3_stmt *put_move, *get_move;
    /* of the table at hand */
    json_t *base; /* what every question about it says */
    struct survey_plan plan;
    bool first; /* pass */
    struct counts counts;
    struct wanted wanted[PAGE_ROWS];
    uint32_t wanted_count;
};

static int lost(struct compare *p) { return p->why[0] != 0 ? ERR_IO : ERR_NOMEM; }

/* ---- asking */

/* Takes question. NULL: why says the reason. */
static json_t *ask(struct compare *p, json_t *question) { return p->config->ask(p->config->ctx, question, p->why, p->why_len); }

static json_t *question(const struct compare *p, const char *what) {
    json_t *q = json_deep_copy(p->base);
    json_object_set_new(q, "ask", json_string(what));
    return q;
}

static void set_key(json_t *q, const char *name, const struct buf *key) {
    if (key != NULL)
        json_object_set_new(q, name, survey_hex(key->data, key->len));
}

static uint64_t read_hex(const json_t *j) {
    const char *text = json_string_value(j);
    return text == NULL ? 0 : strtoull(text, NULL, 16);
}

/* NULL: no memory, or no row. */
static struct there *read_there(const json_t *row) {
    struct buf key;
    buf_init(&key, 64u << 20);
    struct there *t = survey_unhex(json_array_get(row, 0), &key) ? calloc(1, sizeof(*t) + key.len) : NULL;
    if (t != NULL) {
        const char *identity = json_string_value(json_array_get(row, 2));
        memcpy(t->key, key.data, key.len);
        t->key_len = (uint32_t)key.len;
        t->digest = read_hex(json_array_get(row, 1));
        t->given = identity != NULL && strcmp(identity, "given") == 0;
        t->adopted = identity != NULL && !t->given && strcmp(identity, "born") != 0;
        t->hash = t->adopted ? read_hex(json_array_get(row, 2)) : 0;
        for (size_t u = 0; u < SURVEY_UNIQUES_MAX; u++)
            t->uniques[u] = read_hex(json_array_get(json_array_get(row, 3), u));
    }
    buf_release(&key);
    return t;
}

static int64_t number_of(const struct there *t) {
    struct value v = {0};
    struct rowid who = {.text = true, .key = t->key, .key_len = t->key_len};
    return tables_key_values(&who, &v, 1) == 1 && v.type == VALUE_INT ? v.as.i : 0;
}

/* ---- what numbers will be */

static int moves_open(struct compare *p) {
    int err = sqlite3_open("", &p->moves) == SQLITE_OK ? 0 : ERR_NOMEM; /* a temporary file, once it does not fit memory any more */
    if (!err)
        err = sql_exec(p->moves, "CREATE TABLE move(t TEXT, old INTEGER, new INTEGER, digest INTEGER, lost INTEGER, PRIMARY KEY(t, old)) "
                                 "WITHOUT ROWID");
    if (!err)
        err = sql_exec(p->moves, "CREATE TABLE many(h INTEGER PRIMARY KEY, n INTEGER); BEGIN");
    if (!err)
        err = sql_prepare(p->moves, &p->put_move, "INSERT OR REPLACE INTO move VALUES(?,?,?,?,?)");
    return err ? err : sql_prepare(p->moves, &p->get_move, "SELECT new, digest, lost FROM move WHERE t=? AND old=?");
}

static void moves_close(struct compare *p) {
    sqlite3_finalize(p->put_move);
    sqlite3_finalize(p->get_move);
    sqlite3_close(p->moves);
    p->put_move = p->get_move = NULL;
    p->moves = NULL;
}

static int move_put(struct compare *p, int64_t old, const int64_t *new, uint64_t digest, bool loses) {
    sqlite3_bind_text(p->put_move, 1, p->plan.table->name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(p->put_move, 2, old);
    if (new != NULL)
        sqlite3_bind_int64(p->put_move, 3, *new);
    else
        sqlite3_bind_null(p->put_move, 3);
    sqlite3_bind_int64(p->put_move, 4, (int64_t)digest);
    sqlite3_bind_int(p->put_move, 5, loses);
    return sql_run(p->put_move);
}

struct move {
    bool found, known, loses;
    int64_t new;
    uint64_t digest;
};

static struct move move_get(struct compare *p, const char *table, int64_t old) {
    struct move m = {0};
    sqlite3_bind_text(p->get_move, 1, table, -1, SQLITE_STATIC);
    sqlite3_bind_int64(p->get_move, 2, old);
    if (sql_step(p->get_move) == 1) {
        m.found = true;
        m.known = sqlite3_column_type(p->get_move, 0) != SQLITE_NULL;
        m.new = sqlite3_column_int64(p->get_move, 0);
        m.digest = (uint64_t)sqlite3_column_int64(p->get_move, 1);
        m.loses = sqlite3_column_int(p->get_move, 2) != 0;
    }
    sqlite3_reset(p->get_move);
    return m;
}

static int today(void *ctx, const struct table *parent, int64_t *number) {
    struct move m = move_get(ctx, parent->name, *number);
    if (!m.found || (m.known && m.new == *number))
        return 0;
    *number = m.new;
    return m.known ? 1 : 2;
}

/* ---- one row */

static bool agree(const struct compare *p, const uint64_t *a, const struct there *t) {
    bool any = false;
    for (uint32_t u = 0; u < p->plan.uniques_count; u++) {
        if (a[u] != t->uniques[u])
            return false;
        any = any || a[u] != 0;
    }
    return any && !t->given;
}

static json_t *values_json(const struct survey_row *r, const uint32_t *at, uint32_t count) {
    json_t *values = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(values, report_value(&r->copy[at[i]]));
    return values;
}

static struct wanted *want(struct compare *p, const struct survey_row *r, bool meets) {
    struct wanted *w = &p->wanted[p->wanted_count++];
    *w = (struct wanted){.number = r->values[0].as.i, .meets = meets, .digest = r->digest};
    memcpy(w->uniques, r->uniques, sizeof(w->uniques));
    for (uint32_t u = 0; u < p->plan.uniques_count; u++)
        if (r->uniques[u] != 0)
            w->values[u] = values_json(r, p->plan.unique_at[u], p->plan.unique_len[u]);
    return w;
}

static int first_row(struct compare *p, const struct survey_row *r, const struct there *t) {
    bool same = t != NULL && (p->config->match || (t->adopted && t->hash == r->adopted) || agree(p, r->uniques, t));
    bool unique = false;
    for (uint32_t u = 0; u < p->plan.uniques_count; u++)
        unique = unique || r->uniques[u] != 0;
    if (same)
        return 0;
    if (unique)
        want(p, r, t != NULL);
    else if (t != NULL)
        return move_put(p, r->values[0].as.i, NULL, 0, false);
    return 0;
}

static void met(struct counts *c, bool equal, json_int_t *where) {
    c->met++;
    *(equal ? where : &c->conflicts) += 1;
}

static void numbered_row(struct compare *p, const struct survey_row *r, const struct there *t) {
    struct counts *c = &p->counts;
    struct move m = move_get(p, p->plan.table->name, r->values[0].as.i);
    if (m.found && m.known && m.new != r->values[0].as.i)
        met(c, m.digest == r->digest, &c->matched);
    else if (m.found && m.loses)
        c->conflicts++;
    else if (m.found)
        c->renumbered++;
    else if (t != NULL)
        met(c, t->digest == r->digest, &c->equal);
    else
        c->only_here++;
}

static void given_row(struct compare *p, const struct survey_row *r, const struct there *t) {
    struct counts *c = &p->counts;
    uint32_t key[SURVEY_KEYS_MAX];
    bool unknown = false;
    for (uint32_t i = 0; i < p->plan.table->key_count; i++) {
        key[i] = i;
        unknown = unknown || (r->key_changes && r->copy[i].type == VALUE_NULL);
    }
    if (!r->key_changes && t != NULL) {
        met(c, t->digest == r->digest, &c->equal);
    } else if (unknown) {
        c->only_here++;
    } else if (r->key_changes) {
        struct wanted *w = want(p, r, false);
        w->by_key = true;
        for (uint32_t u = 0; u < SURVEY_UNIQUES_MAX; u++) {
            json_decref(w->values[u]);
            w->values[u] = NULL;
        }
        w->values[0] = values_json(r, key, p->plan.table->key_count);
    } else {
        want(p, r, false);
    }
}

/* ---- rows that were looked up */

static int decide(struct compare *p, const struct wanted *w, struct there *const *found) {
    const struct there *one = NULL;
    bool loses = false;
    for (uint32_t u = 0; u < p->plan.uniques_count; u++) {
        if (found[u] == NULL)
            continue;
        loses = true;
        if (agree(p, w->uniques, found[u]))
            one = found[u];
    }
    if (!p->first) {
        *(loses ? &p->counts.conflicts : &p->counts.only_here) += 1;
        return 0;
    }
    int64_t number = one != NULL ? number_of(one) : w->number;
    if (one != NULL)
        return move_put(p, w->number, &number, one->digest, false);
    return w->meets || loses ? move_put(p, w->number, w->meets ? NULL : &number, 0, loses) : 0;
}

/* Fills in found[row][u] for the rows that have something there. */
static int find(struct compare *p, uint32_t u, bool by_key, struct there *(*found)[SURVEY_UNIQUES_MAX]) {
    json_t *q = question(p, "find"), *values = json_array(), *by = json_array(), *row;
    uint32_t count = by_key ? p->plan.table->key_count : p->plan.unique_len[u], asked[PAGE_ROWS], n = 0;
    size_t i;
    for (uint32_t k = 0; k < count; k++)
        json_array_append_new(by, json_string(p->plan.table->columns[p->plan.order[by_key ? k : p->plan.unique_at[u][k]]].name));
    for (uint32_t k = 0; k < p->wanted_count; k++)
        if (p->wanted[k].by_key == by_key && p->wanted[k].values[u] != NULL) {
            json_array_append(values, p->wanted[k].values[u]);
            asked[n++] = k;
        }
    json_object_set_new(q, "by", by);
    json_object_set_new(q, "values", values);
    if (n == 0) {
        json_decref(q);
        return 0;
    }
    json_t *a = ask(p, q);
    if (a == NULL)
        return lost(p);
    json_array_foreach(json_object_get(a, "rows"), i, row) {
        if (i < n && json_is_array(row))
            found[asked[i]][u] = read_there(row);
    }
    json_decref(a);
    return 0;
}

static int look_up(struct compare *p) {
    struct there *(*found)[SURVEY_UNIQUES_MAX] = calloc(PAGE_ROWS, sizeof(*found));
    int err = found == NULL ? ERR_NOMEM : find(p, 0, true, found);
    for (uint32_t u = 0; u < p->plan.uniques_count && err == 0; u++)
        err = find(p, u, false, found);
    for (uint32_t i = 0; i < p->wanted_count; i++) {
        struct wanted *w = &p->wanted[i];
        if (err == 0 && w->by_key) {
            if (found[i][0] != NULL)
                met(&p->counts, found[i][0]->digest == w->digest, &p->counts.matched);
            else
                p->counts.only_here++;
        } else if (err == 0) {
            err = decide(p, w, found[i]);
        }
        for (uint32_t u = 0; u < SURVEY_UNIQUES_MAX; u++) {
            json_decref(w->values[u]);
            if (found != NULL)
                free(found[i][u]);
        }
    }
    free(found);
    p->wanted_count = 0;
    return err;
}

/* ---- ranges */

static void rows_free(struct there *rows) {
    struct there *t, *next;
    HASH_ITER(hh, rows, t, next) {
        HASH_DEL(rows, t);
        free(t);
    }
}

static int load_there(struct compare *p, const struct buf *after, const struct buf *to, struct there **rows) {
    struct buf at;
    bool more = true;
    int err = 0;
    buf_init(&at, 64u << 20);
    for (const struct buf *from = after; more && err == 0; from = &at) {
        if (HASH_COUNT(*rows) > THERE_MAX) {
            snprintf(p->why, p->why_len, "it has more rows in a range of keys than it says");
            err = ERR_TOOBIG;
            break;
        }
        json_t *q = question(p, "rows"), *row;
        size_t i;
        set_key(q, "after", from);
        set_key(q, "to", to);
        json_t *a = ask(p, q);
        if (a == NULL) {
            err = lost(p);
            break;
        }
        more = !json_is_true(json_object_get(a, "end"));
        json_array_foreach(json_object_get(a, "rows"), i, row) {
            struct there *t = read_there(row);
            if (t == NULL)
                continue;
            HASH_ADD_KEYPTR(hh, *rows, t->key, t->key_len, t);
            buf_clear(&at);
            buf_append(&at, t->key, t->key_len);
        }
        more = more && at.len > 0;
        json_decref(a);
    }
    buf_release(&at);
    return err;
}

static int one_row(struct compare *p, const struct survey_row *r, const struct there *t) {
    if (p->first)
        return first_row(p, r, t);
    p->counts.here++;
    if (p->plan.table->key_kind == KEY_INTEGER && p->plan.parents[0] == NULL)
        numbered_row(p, r, t);
    else
        given_row(p, r, t);
    return 0;
}

static int range_differs(struct compare *p, const struct buf *after, const struct buf *to, bool empty) {
    struct there *rows = NULL, *t;
    struct survey_cursor c;
    struct buf at;
    uint32_t n = PAGE_ROWS;
    int err = empty ? 0 : load_there(p, after, to, &rows);
    buf_init(&at, 64u << 20);
    for (const struct buf *from = after; n == PAGE_ROWS && err == 0; from = &at) {
        n = 0;
        err = survey_open(&c, &p->plan, from, to, PAGE_ROWS);
        while (err == 0 && survey_next(&c)) {
            HASH_FIND(hh, rows, c.key.data, c.key.len, t);
            err = one_row(p, &c.row, t);
            n++;
            buf_clear(&at);
            buf_append(&at, c.key.data, c.key.len);
        }
        err = err != 0 ? err : c.error;
        survey_close(&c);
        if (err == 0 && p->wanted_count > 0)
            err = look_up(p);
    }
    buf_release(&at);
    rows_free(rows);
    return err;
}

static int range(struct compare *p, const struct buf *after, const struct buf *to, json_int_t rows, uint64_t digest) {
    struct survey_cursor c;
    uint64_t sum = 0;
    json_int_t n = 0;
    int err = rows > 0 ? survey_open(&c, &p->plan, after, to, (uint32_t)rows + 1) : 0;
    while (rows > 0 && err == 0 && survey_next(&c)) {
        sum += survey_in_range(&p->plan, &c.row, &c.key);
        n++;
    }
    if (rows > 0) {
        err = err != 0 ? err : c.error;
        survey_close(&c);
    }
    p->counts.there += p->first ? 0 : rows;
    if (err != 0 || n != rows || sum != digest || rows == 0)
        return err != 0 ? err : range_differs(p, after, to, rows == 0);
    if (!p->first) {
        p->counts.here += n;
        p->counts.equal += n;
        p->counts.met += n;
    }
    return 0;
}

static int walk(struct compare *p) {
    struct buf after, to;
    bool began = false, open = true, end = false;
    int err = 0;
    buf_init(&after, 64u << 20);
    buf_init(&to, 64u << 20);
    while (!end && err == 0) {
        json_t *q = question(p, "ranges"), *each;
        size_t i;
        set_key(q, "after", began ? &after : NULL);
        json_object_set_new(q, "identities", json_boolean(p->first));
        json_t *a = ask(p, q);
        if (a == NULL) {
            err = lost(p);
            break;
        }
        end = json_is_true(json_object_get(a, "end")) || json_array_size(json_object_get(a, "ranges")) == 0;
        json_array_foreach(json_object_get(a, "ranges"), i, each) {
            json_int_t rows = json_integer_value(json_array_get(each, 1));
            bool bound = survey_unhex(json_array_get(each, 0), &to);
            if (err == 0 && rows > 0 && rows < INT_MAX && open)
                err = range(p, began ? &after : NULL, bound ? &to : NULL, rows, read_hex(json_array_get(each, 2)));
            buf_clear(&after);
            buf_append(&after, to.data, to.len);
            began = true;
            open = open && bound;
        }
        json_decref(a);
    }
    if (err == 0 && open)
        err = range(p, began ? &after : NULL, NULL, 0, 0);
    buf_release(&after);
    buf_release(&to);
    return err;
}

/* ---- tables without a key: how often each content is there */

static int many_add(struct compare *p, uint64_t h, int n) {
    return sql_exec(p->moves, "INSERT INTO many VALUES(%lld, %d) ON CONFLICT(h) DO UPDATE SET n=n+excluded.n", (long long)h, n);
}

static int many_here(struct compare *p) {
    struct survey_cursor c;
    struct buf at;
    uint32_t n = PAGE_ROWS;
    int err = 0;
    buf_init(&at, 1024);
    for (const struct buf *from = NULL; n == PAGE_ROWS && err == 0; from = &at) {
        n = 0;
        err = survey_open(&c, &p->plan, from, NULL, PAGE_ROWS);
        while (err == 0 && survey_next(&c)) {
            err = many_add(p, c.row.digest, 1);
            n++;
            p->counts.here++;
            buf_clear(&at);
            buf_append(&at, c.key.data, c.key.len);
        }
        err = err != 0 ? err : c.error;
        survey_close(&c);
    }
    buf_release(&at);
    return err;
}

static int many_there(struct compare *p) {
    json_t *after = NULL;
    bool end = false;
    int err = 0;
    while (!end && err == 0) {
        json_t *q = question(p, "rows"), *row;
        size_t i;
        if (after != NULL)
            json_object_set_new(q, "after", after);
        after = NULL;
        json_t *a = ask(p, q);
        if (a == NULL)
            return lost(p);
        json_array_foreach(json_object_get(a, "rows"), i, row) {
            uint64_t h = read_hex(json_array_get(row, 1));
            int64_t left = 0;
            p->counts.there++;
            err = err != 0 ? err : sql_int(p->moves, 0, &left, "SELECT n FROM many WHERE h=%lld", (long long)h);
            if (err == 0 && left > 0)
                err = many_add(p, h, -1);
            p->counts.equal += err == 0 && left > 0;
        }
        size_t n = json_array_size(json_object_get(a, "rows"));
        end = json_is_true(json_object_get(a, "end")) || n == 0;
        if (!end)
            after = json_incref(json_array_get(json_array_get(json_object_get(a, "rows"), n - 1), 0));
        json_decref(a);
    }
    json_decref(after);
    return err;
}

static int many(struct compare *p) {
    int err = sql_exec(p->moves, "DELETE FROM many");
    err = err != 0 ? err : many_here(p);
    err = err != 0 ? err : many_there(p);
    p->counts.met = p->counts.equal;
    p->counts.only_here = p->counts.here - p->counts.equal;
    return err;
}

/* ---- tables */

static const json_t *named(const json_t *list, const char *name) {
    size_t i;
    json_t *each;
    json_array_foreach(list, i, each) {
        const char *other = json_string_value(json_object_get(each, "name"));
        if (other != NULL && sqlite3_stricmp(other, name) == 0)
            return each;
    }
    return NULL;
}

static bool lists_it(const json_t *lists, const json_t *names) {
    size_t i;
    json_t *each;
    json_array_foreach(lists, i, each) {
        if (survey_same_names(each, names))
            return true;
    }
    return false;
}

/* What both have, and what counts as UNIQUE for both. */
static json_t *shared_of(const struct compare *p, const json_t *ours, const json_t *theirs) {
    json_t *columns = json_array(), *uniques = json_array(), *each, *alike = json_object_get(theirs, "alike");
    size_t i;
    json_array_foreach(json_object_get(ours, "columns"), i, each) {
        if (survey_names(json_object_get(theirs, "columns"), json_string_value(each)))
            json_array_append(columns, each);
    }
    json_array_foreach(json_object_get(ours, "uniques"), i, each) {
        if (lists_it(json_object_get(theirs, "uniques"), each) && json_array_size(uniques) < SURVEY_UNIQUES_MAX)
            json_array_append(uniques, each);
    }
    if (json_array_size(alike) > 0 && json_array_size(uniques) < SURVEY_UNIQUES_MAX)
        json_array_append(uniques, alike);
    return json_pack("{s:s, s:O, s:o, s:o}", "db", p->config->db, "table", json_object_get(ours, "name"), "columns", columns, "uniques",
                     uniques);
}

/* Tables that others refer to come first, as far as references do not go in a circle. */
static void put_in_order(const struct compare *p, json_t *sorted, const json_t *all, const char *name, unsigned depth) {
    const json_t *table = named(all, name);
    const struct table *t = schema_find(&p->schema, name, strlen(name));
    if (table == NULL || t == NULL || named(sorted, name) != NULL || depth > json_array_size(all))
        return;
    for (uint32_t i = 0; i < t->foreign_keys_count; i++)
        if (sqlite3_stricmp(t->foreign_keys[i].parent, name) != 0)
            put_in_order(p, sorted, all, t->foreign_keys[i].parent, depth + 1);
    if (named(sorted, name) == NULL)
        json_array_append(sorted, (json_t *)table);
}

static json_t *in_order(const struct compare *p, const json_t *all) {
    json_t *sorted = json_array(), *each;
    size_t i;
    json_array_foreach(all, i, each) { put_in_order(p, sorted, all, json_string_value(json_object_get(each, "name")), 0); }
    return sorted;
}

static int table_begin(struct compare *p, const json_t *ours, const json_t *theirs, bool first) {
    p->base = shared_of(p, ours, theirs);
    p->first = first;
    p->counts = (struct counts){0};
    json_object_set_new(p->base, "identities", json_boolean(first));
    return survey_plan_init(&p->plan, &p->survey, p->base);
}

static void table_end(struct compare *p) {
    survey_plan_release(&p->plan);
    json_decref(p->base);
    p->base = NULL;
}

static const char *cannot_compare(const json_t *ours, const json_t *theirs) {
    if (theirs == NULL)
        return "the cluster does not have this table, or does not replicate it: its rows wait there until the application makes it";
    if (!survey_same_names(json_object_get(ours, "key"), json_object_get(theirs, "key")))
        return "its key is another one there: run the same version of the application on both";
    return NULL;
}

static int count_here(struct compare *p, const char *name) {
    int64_t n = 0;
    int err = sql_int(p->survey.db, 0, &n, "SELECT count(*) FROM main.\"%w\"", name);
    p->counts = (struct counts){.here = n, .only_here = n};
    return err;
}

static json_t *table_result(const struct compare *p, const json_t *ours, const char *note) {
    const struct counts *c = &p->counts;
    json_t *j = json_pack("{s:O, s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", json_object_get(ours, "name"), "identity",
                          json_object_get(ours, "identity"), "here", c->here, "there", c->there, "equal", c->equal, "matched", c->matched,
                          "renumbered", c->renumbered, "conflicts", c->conflicts, "only_here", c->only_here, "only_there",
                          c->there > c->met ? c->there - c->met : 0);
    if (note != NULL)
        json_object_set_new(j, "note", json_string(note));
    return j;
}

static int compare_tables(struct compare *p, const json_t *ours, const json_t *theirs, json_t *results) {
    size_t i;
    json_t *each;
    int err = 0;
    json_array_foreach(ours, i, each) {
        const json_t *other = named(theirs, json_string_value(json_object_get(each, "name")));
        const char *identity = json_string_value(json_object_get(each, "identity"));
        if (err != 0 || cannot_compare(each, other) != NULL || strcmp(identity, "numbered") != 0)
            continue;
        if ((err = table_begin(p, each, other, true)) == 0)
            err = walk(p);
        table_end(p);
    }
    json_array_foreach(ours, i, each) {
        const char *name = json_string_value(json_object_get(each, "name")), *why;
        const json_t *other = named(theirs, name);
        if (err != 0)
            break;
        if ((why = cannot_compare(each, other)) != NULL) {
            err = count_here(p, name);
        } else {
            if ((err = table_begin(p, each, other, false)) == 0)
                err = p->plan.table->key_kind == KEY_ROWID ? many(p) : walk(p);
            table_end(p);
        }
        if (err == 0)
            json_array_append_new(results, table_result(p, each, why));
    }
    return err;
}

static void only_there(const json_t *ours, const json_t *theirs, json_t *results) {
    size_t i;
    json_t *each;
    json_array_foreach(theirs, i, each) {
        if (named(ours, json_string_value(json_object_get(each, "name"))) == NULL)
            json_array_append_new(results, json_pack("{s:O, s:O, s:s}", "name", json_object_get(each, "name"), "identity",
                                                     json_object_get(each, "identity"), "note",
                                                     "only the cluster has this table: its rows wait here until the application makes it"));
    }
}

/* ---- the database */

static void leave_out(struct compare *p) {
    const char *const *excluded = p->config->excluded;
    for (; excluded && *excluded; excluded++)
        for (uint32_t i = 0; i < p->schema.count; i++)
            p->schema.tables[i].excluded |= sqlite3_stricmp(p->schema.tables[i].name, *excluded) == 0;
}

static int compare_all(struct compare *p, json_t *results) {
    json_t *q = json_pack("{s:s}", "ask", "tables"), *ours, *sorted, *theirs;
    leave_out(p);
    ours = survey_answer(&p->survey, q);
    sorted = in_order(p, json_object_get(ours, "tables"));
    theirs = ask(p, json_pack("{s:s, s:s}", "ask", "tables", "db", p->config->db));
    int err = theirs ? moves_open(p) : lost(p);
    if (!err)
        err = compare_tables(p, sorted, json_object_get(theirs, "tables"), results);
    if (!err)
        only_there(sorted, json_object_get(theirs, "tables"), results);
    moves_close(p);
    json_decref(q);
    json_decref(ours);
    json_decref(sorted);
    json_decref(theirs);
    return err;
}

json_t *compare_database(sqlite3 *db, const struct compare_config *config, char *why, size_t why_len) {
    struct compare *p = calloc(1, sizeof *p);
    json_t *results = json_array();
    int err = p ? 0 : ERR_NOMEM;
    why[0] = 0;
    if (p) {
        p->config = config;
        p->why = why;
        p->why_len = why_len;
        p->survey = (struct survey){.db = db, .schema = &p->schema, .today = today, .ctx = p};
        err = schema_read(db, &p->schema);
        if (!err)
            err = compare_all(p, results);
        schema_release(&p->schema);
    }
    free(p);
    if (!err)
        return results;
    if (!why[0])
        snprintf(why, why_len, "%s", err_text(err));
    json_decref(results);
    return NULL;
}
