/* Starling node: `verify`. For one database after the other, all alive members are asked for digests of what is really in the tables. Where these
 * differ while versions are equal, 256 buckets by key are compared, then the rows of the buckets that differ. While versions differ (writes are on
 * their way) it is asked again for a while. Of the files, everything is read again first, at each member.
 *
 *   next_database (files: ─▶ VERIFY_READ) ─▶ VERIFY_TABLES ─ all equal ─────────────────────────────▶ next_database … finish
 *                      │    ▲ versions differ: again, until SETTLE_MS passed
 *                      └─▶ VERIFY_BUCKETS (next differing table) ─▶ VERIFY_ROWS (next differing bucket) ─▶ … ─▶ next_database */
#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"
#include "node/clock.h"
#include "node/files/files.h"

#define SETTLE_MS 10000
#define AGAIN_MS 150
#define TOKEN_BYTES 12
#define DIFFERENCES_MAX 100
#define BUCKETS 256

enum verify_phase { VERIFY_READ, VERIFY_TABLES, VERIFY_BUCKETS, VERIFY_ROWS };

struct verify_member {
    uint8_t id[NODE_ID_BYTES];
    char name[CORE_NAME_MAX + 16];
    uint64_t asked; /* number of the question under way; 0 answered */
    json_t *answer;
};

struct verify {
    struct verify_member *members; /* [0] is this node */
    uint32_t members_count, left;
    char **names; /* of the databases */
    uint32_t names_count, name_at;
    char *only_table;
    enum verify_phase phase;
    char token[2 * TOKEN_BYTES + 1]; /* of the reading */
    uint64_t deadline_ms;
    json_t *tables; /* of this database: the result's entries */
    size_t table_at;
    bool buckets[BUCKETS]; /* those that differ and were not looked into yet */
    json_t *databases, *differences;
    bool equal;
};

static void next_database(struct conn *c);
static void narrow(struct conn *c);

static void answers_clear(struct verify *v) {
    for (uint32_t i = 0; i < v->members_count; i++) {
        json_decref(v->members[i].answer);
        v->members[i].answer = NULL;
        v->members[i].asked = 0;
    }
    v->left = 0;
}

static void verify_release(struct conn *c) {
    struct verify *v = c->task;
    answers_clear(v);
    for (uint32_t i = 0; i < v->names_count; i++)
        free(v->names[i]);
    free(v->names);
    free(v->members);
    free(v->only_table);
    json_decref(v->tables);
    json_decref(v->databases);
    json_decref(v->differences);
    free(v);
}

static const char *database(const struct verify *v) { return v->names[v->name_at - 1]; }

static const char *shown_name(const struct verify *v) { return strcmp(database(v), FILES_DB) == 0 ? FILES_SHOWN : database(v); }

/* ---- asking everyone */

static void read_look(struct conn *c);
static void tables_compare(struct conn *c);
static void buckets_compare(struct conn *c);
static void rows_compare(struct conn *c);

static void answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct verify *v = c->task;
    for (uint32_t i = 0; i < v->members_count; i++) {
        if (v->members[i].asked != number)
            continue;
        v->members[i].asked = 0;
        v->members[i].answer = json_incref(answer);
        v->left--;
    }
    json_decref(answer);
    if (v->left > 0)
        return;
    if (v->phase == VERIFY_READ)
        read_look(c);
    else if (v->phase == VERIFY_TABLES)
        tables_compare(c);
    else if (v->phase == VERIFY_BUCKETS)
        buckets_compare(c);
    else
        rows_compare(c);
}

/* One member; the number of the question. */
static uint64_t ask_one(struct conn *c, uint32_t i, enum verify_phase phase, const char *table, int bucket) {
    struct verify *v = c->task;
    struct database *db = databases_find(c->node->databases, database(v));
    json_t *reading = phase == VERIFY_READ ? json_pack("{s:s, s:s}", "ask", "read", "token", v->token) : NULL;
    if (i == 0 && reading != NULL)
        return node_ask_files(c->node, reading, answered, c);
    if (i == 0)
        return db == NULL ? 0 : node_ask(c->node, db, QUESTION_VERIFY, table, bucket, answered, c);
    if (reading == NULL)
        reading = json_pack("{s:s, s:s, s:s?, s:i}", "ask", "verify", "db", database(v), "table", table, "bucket", bucket);
    return node_ask_peer(c->node, v->members[i].id, reading, answered, c);
}

static void ask_all(struct conn *c, enum verify_phase phase, const char *table, int bucket) {
    struct verify *v = c->task;
    answers_clear(v);
    v->phase = phase;
    for (uint32_t i = 0; i < v->members_count; i++) {
        v->members[i].asked = ask_one(c, i, phase, table, bucket);
        v->left += v->members[i].asked != 0;
    }
    if (v->left == 0)
        conn_done(c, 1, NULL, "out of memory");
}

static const char *text_of(const json_t *object, const char *field) { return json_string_value(json_object_get(object, field)); }

/* ---- the files are read again */

static void read_on(struct conn *c) { ask_all(c, VERIFY_READ, NULL, -1); }

static void read_look(struct conn *c) {
    struct verify *v = c->task;
    uint64_t read = 0, total = 0;
    bool over = true;
    for (uint32_t i = 0; i < v->members_count; i++) { /* who cannot be asked gives no digest, either */
        const json_t *answer = v->members[i].answer;
        over = over && (answer == NULL || text_of(answer, "error") != NULL || json_is_true(json_object_get(answer, "over")));
        read += (uint64_t)json_integer_value(json_object_get(answer, "read"));
        total += (uint64_t)json_integer_value(json_object_get(answer, "total"));
    }
    v->deadline_ms = clock_mono_ms() + SETTLE_MS;
    if (over) {
        ask_all(c, VERIFY_TABLES, NULL, -1);
        return;
    }
    conn_progress(c, "reading files", read, (int64_t)total);
    conn_timer(c, AGAIN_MS, read_on);
}

/* ---- comparing */

static bool same_text(const char *a, const char *b) { return (a == NULL) == (b == NULL) && (a == NULL || strcmp(a, b) == 0); }

static bool vectors_equal(const struct verify *v) {
    const char *first = text_of(v->members[0].answer, "vector");
    for (uint32_t i = 1; i < v->members_count; i++)
        if (!same_text(first, text_of(v->members[i].answer, "vector")))
            return false;
    return true;
}

static void difference(struct verify *v, const char *table, json_t *key, const char *what) {
    v->equal = false;
    if (json_array_size(v->differences) < DIFFERENCES_MAX)
        json_array_append_new(v->differences,
                              json_pack("{s:s, s:s?, s:O?, s:s}", "db", shown_name(v), "table", table, "key", key, "what", what));
}

static const json_t *table_of(const struct verify *v, uint32_t member, const char *name) {
    return json_object_get(json_object_get(v->members[member].answer, "tables"), name);
}

/* The result's entry for one table. */
static json_t *table_entry(const struct verify *v, const char *name) {
    bool equal = true;
    const char *digest = text_of(table_of(v, 0, name), "digest");
    json_t *rows = json_object_get(table_of(v, 0, name), "rows");
    for (uint32_t i = 0; i < v->members_count; i++) {
        const json_t *table = table_of(v, i, name);
        equal = equal && table != NULL && same_text(digest, text_of(table, "digest"));
        rows = rows != NULL ? rows : json_object_get(table, "rows");
    }
    return json_pack("{s:s, s:b, s:O?, s:s?, s:[]}", "name", name, "equal", equal, "rows", rows, "digest", digest, "differences");
}

/* Entries for the tables of all members, sorted by name. */
static json_t *tables_entries(const struct verify *v) {
    json_t *names = json_object(), *list = json_array(), *value;
    const char *name;
    for (uint32_t i = 0; i < v->members_count; i++)
        json_object_foreach(json_object_get(v->members[i].answer, "tables"), name, value) {
            if (v->only_table == NULL || strcmp(v->only_table, name) == 0)
                json_object_set_new(names, name, json_null());
        }
    json_object_foreach(names, name, value) {
        size_t at = 0;
        while (at < json_array_size(list) && strcmp(text_of(json_array_get(list, at), "name"), name) < 0)
            at++;
        json_array_insert_new(list, at, table_entry(v, name));
    }
    json_decref(names);
    return list;
}

static bool all_equal(const json_t *entries) {
    size_t i;
    json_t *entry;
    json_array_foreach(entries, i, entry) {
        if (!json_is_true(json_object_get(entry, "equal")))
            return false;
    }
    return true;
}

static void database_done(struct conn *c) {
    struct verify *v = c->task;
    json_array_append_new(v->databases, json_pack("{s:s, s:O}", "name", shown_name(v), "tables", v->tables));
    json_decref(v->tables);
    v->tables = NULL;
    next_database(c);
}

static void again(struct conn *c) { ask_all(c, VERIFY_TABLES, NULL, -1); }

/* Members that gave no answer. False: there were some, and nothing can be said of this database. */
static bool everyone_answered(struct verify *v) {
    bool all = true;
    for (uint32_t i = 0; i < v->members_count; i++) {
        const struct verify_member *m = &v->members[i];
        const char *error = text_of(m->answer, "error");
        char what[300];
        if (m->answer != NULL && error == NULL)
            continue;
        snprintf(what, sizeof(what), "%s gave no answer: %.150s", m->name, error != NULL ? error : "not there, or not served now");
        difference(v, NULL, NULL, what);
        all = false;
    }
    return all;
}

static void tables_compare(struct conn *c) {
    struct verify *v = c->task;
    bool answers = true, lasts = false; /* lasts: asked again, it would say the same */
    for (uint32_t i = 0; i < v->members_count; i++) {
        answers = answers && v->members[i].answer != NULL && text_of(v->members[i].answer, "error") == NULL;
        lasts = lasts || json_is_true(json_object_get(v->members[i].answer, "lasts"));
    }
    json_decref(v->tables);
    v->tables = tables_entries(v);
    if (answers && all_equal(v->tables) && (v->only_table == NULL || json_array_size(v->tables) > 0)) {
        database_done(c);
        return;
    }
    if (!lasts && (!answers || !vectors_equal(v)) && clock_mono_ms() < v->deadline_ms) {
        conn_timer(c, AGAIN_MS, again);
        return;
    }
    if (!everyone_answered(v)) {
        database_done(c);
        return;
    }
    if (!vectors_equal(v))
        difference(v, NULL, NULL, "versions differ all the time: try again when nothing is being written, or see `starling status`");
    if (v->only_table != NULL && json_array_size(v->tables) == 0)
        difference(v, v->only_table, NULL, "no member has this table, or it is not replicated");
    v->table_at = 0;
    narrow(c);
}

/* The next table that differs, or the next bucket of this one. */
static void narrow(struct conn *c) {
    struct verify *v = c->task;
    json_t *entry = json_array_get(v->tables, v->table_at);
    if (v->phase != VERIFY_TABLES && entry != NULL) {
        for (int b = 0; b < BUCKETS; b++) {
            if (!v->buckets[b] || json_array_size(json_object_get(entry, "differences")) >= DIFFERENCES_MAX)
                continue;
            v->buckets[b] = false;
            ask_all(c, VERIFY_ROWS, text_of(entry, "name"), b);
            return;
        }
        v->table_at++;
    }
    for (; (entry = json_array_get(v->tables, v->table_at)) != NULL; v->table_at++) {
        if (json_is_true(json_object_get(entry, "equal")))
            continue;
        v->equal = false;
        ask_all(c, VERIFY_BUCKETS, text_of(entry, "name"), -1);
        return;
    }
    database_done(c);
}

static void buckets_compare(struct conn *c) {
    struct verify *v = c->task;
    const char *table = text_of(json_array_get(v->tables, v->table_at), "name");
    bool missing = false;
    memset(v->buckets, 0, sizeof(v->buckets));
    for (uint32_t i = 0; i < v->members_count; i++) {
        const json_t *first = json_object_get(v->members[0].answer, "buckets"), *buckets = json_object_get(v->members[i].answer, "buckets");
        char what[200];
        if (json_array_size(buckets) != BUCKETS) {
            snprintf(what, sizeof(what), "%s does not have this table, or does not replicate it", v->members[i].name);
            difference(v, table, NULL, what);
            missing = true;
        }
        for (size_t b = 0; b < BUCKETS && !missing; b++)
            if (!same_text(json_string_value(json_array_get(first, b)), json_string_value(json_array_get(buckets, b))))
                v->buckets[b] = true;
    }
    if (missing)
        memset(v->buckets, 0, sizeof(v->buckets));
    narrow(c);
}

/* What of a row that differs, in words. */
static void row_words(const struct verify *v, const json_t *nodes, char *out, size_t max) {
    size_t at = 0;
    for (uint32_t i = 0; i < v->members_count && at < max; i++) {
        const char *hash = text_of(nodes, v->members[i].name);
        at += (size_t)snprintf(out + at, max - at, "%s%s%s%.8s", i == 0 ? "" : ", ", v->members[i].name, hash == NULL ? " has none" : " ",
                               hash == NULL ? "" : hash);
    }
}

static void rows_compare(struct conn *c) {
    struct verify *v = c->task;
    json_t *entry = json_array_get(v->tables, v->table_at), *rows = json_object(), *row, *nodes;
    const char *text;
    size_t at;
    for (uint32_t i = 0; i < v->members_count; i++) {
        json_array_foreach(json_object_get(v->members[i].answer, "rows"), at, row) {
            char *key = json_dumps(json_array_get(row, 0), JSON_COMPACT | JSON_ENCODE_ANY);
            if (key == NULL)
                continue;
            nodes = json_object_get(rows, key);
            if (nodes == NULL) {
                nodes = json_object();
                json_object_set_new(rows, key, nodes);
            }
            json_object_set(nodes, v->members[i].name, json_array_get(row, 1));
            free(key);
        }
    }
    json_object_foreach(rows, text, nodes) {
        const char *hash = text_of(nodes, v->members[0].name);
        bool equal = true;
        char what[500] = "";
        for (uint32_t i = 0; i < v->members_count; i++) {
            equal = equal && same_text(hash, text_of(nodes, v->members[i].name));
            if (json_object_get(nodes, v->members[i].name) == NULL)
                json_object_set_new(nodes, v->members[i].name, json_null());
        }
        if (equal || json_array_size(json_object_get(entry, "differences")) >= DIFFERENCES_MAX)
            continue;
        json_t *key = json_loads(text, JSON_DECODE_ANY, NULL);
        row_words(v, nodes, what, sizeof(what));
        difference(v, text_of(entry, "name"), key, what);
        json_array_append_new(json_object_get(entry, "differences"), json_pack("{s:o?, s:O}", "key", key, "nodes", nodes));
    }
    json_decref(rows);
    narrow(c);
}

/* ---- start and end */

static void finish(struct conn *c) {
    struct verify *v = c->task;
    json_t *members = json_array();
    for (uint32_t i = 0; i < v->members_count; i++)
        json_array_append_new(members, json_string(v->members[i].name));
    json_t *result =
        json_pack("{s:b, s:O, s:o, s:O}", "equal", v->equal, "databases", v->databases, "members", members, "differences", v->differences);
    bool equal = v->equal;
    conn_done(c, equal ? 0 : 1, result, NULL);
}

static void next_database(struct conn *c) {
    struct verify *v = c->task;
    if (v->name_at == v->names_count) {
        finish(c);
        return;
    }
    v->name_at++;
    v->deadline_ms = clock_mono_ms() + SETTLE_MS;
    conn_progress(c, shown_name(v), v->name_at - 1, v->names_count);
    ask_all(c, c->node->files != NULL && strcmp(database(v), FILES_DB) == 0 ? VERIFY_READ : VERIFY_TABLES, NULL, -1);
}

static void member_add(struct verify *v, const uint8_t *id, const char *name) {
    struct verify_member *m = &v->members[v->members_count];
    char hex[2 * NODE_ID_BYTES + 1];
    memcpy(m->id, id, NODE_ID_BYTES);
    snprintf(m->name, sizeof(m->name), "%.63s", name);
    for (uint32_t i = 0; i < v->members_count; i++)
        if (strcmp(v->members[i].name, m->name) == 0)
            snprintf(m->name, sizeof(m->name), "%.63s-%.8s", name, identity_hex(id, hex));
    v->members_count++;
}

static bool verify_fill(struct verify *v, struct node *n, const char *db_name) {
    struct peer_info peer;
    if ((v->members = calloc(core_peers(n->core) + 1, sizeof(*v->members))) == NULL ||
        (v->names = calloc(databases_count(n->databases) + 1, sizeof(*v->names))) == NULL)
        return false;
    member_add(v, n->identity.id, n->name);
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        if (peer.member->state == MEMBER_ALIVE)
            member_add(v, peer.member->id, peer.member->name);
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next) {
        if (db_name != NULL && strcmp(db_name, db->name) != 0)
            continue;
        if ((v->names[v->names_count] = strdup(db->name)) == NULL)
            return false;
        v->names_count++;
    }
    uint8_t token[TOKEN_BYTES];
    randombytes_buf(token, sizeof(token));
    sodium_bin2hex(v->token, sizeof(v->token), token, sizeof(token));
    v->databases = json_array();
    v->differences = json_array();
    v->equal = true;
    return true;
}

void verb_verify(struct conn *c, const json_t *args) {
    const char *db_name = text_of(args, "db"), *table = text_of(args, "table");
    struct verify *v = calloc(1, sizeof(*v));
    char why[400];
    databases_scan(c->node->databases);
    if (db_name != NULL && strcmp(db_name, FILES_SHOWN) == 0 && databases_find(c->node->databases, FILES_SHOWN) == NULL)
        db_name = FILES_DB;
    c->task = v;
    c->release = v != NULL ? verify_release : NULL;
    if (v == NULL || !verify_fill(v, c->node, db_name) || (table != NULL && (v->only_table = strdup(table)) == NULL)) {
        conn_done(c, 1, NULL, "out of memory");
        return;
    }
    if (db_name != NULL && v->names_count == 0) {
        snprintf(why, sizeof(why), "%.200s: no such database: see `starling status`", db_name);
        conn_done(c, 1, NULL, why);
        return;
    }
    next_database(c);
}
