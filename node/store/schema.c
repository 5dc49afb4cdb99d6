/* Reads the application's schema through SQLite's own pragmas: what SQLite says about a table counts, its CREATE text is never
 * parsed. All in one read transaction, so that tables, indexes and foreign keys are of one schema version. */
#include "node/store/schema.h"

#include <assert.h>
#include <ctype.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/appfile.h"
#include "node/store/capture.h"
#include "node/store/ddl.h"
#include "node/store/sql.h"
#include "proto/err.h"

#define KEY_COLUMNS_MAX 16

static const char *text(sqlite3_stmt *q, int at) {
    const char *p = (const char *)sqlite3_column_text(q, at);
    return p ? p : "";
}

/* array[count] for one more element of `size` bytes, zeroed; NULL without memory. Grows by doubling at powers of two. */
static void *append(void *array_of, uint32_t *count, size_t size) {
    void **array = array_of;
    uint32_t n = *count;
    if ((n & (n - 1)) == 0) {
        void *bigger = realloc(*array, (n ? 2 * (size_t)n : 1) * size);
        if (!bigger)
            return NULL;
        *array = bigger;
    }
    *count = n + 1;
    return memset((char *)*array + n * size, 0, size);
}

/* SQLite's documented rules, in their order. */
static enum affinity affinity_of(const char *type, bool strict) {
    static const struct {
        const char *part;
        enum affinity affinity;
    } rules[] = {{"INT", AFFINITY_INTEGER}, {"CHAR", AFFINITY_TEXT}, {"CLOB", AFFINITY_TEXT}, {"TEXT", AFFINITY_TEXT},
                 {"BLOB", AFFINITY_BLOB},   {"REAL", AFFINITY_REAL}, {"FLOA", AFFINITY_REAL}, {"DOUB", AFFINITY_REAL}};
    if (!*type || (strict && !sqlite3_stricmp(type, "ANY")))
        return AFFINITY_BLOB;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (const char *p = type; *p; p++)
            if (!sqlite3_strnicmp(p, rules[i].part, (int)strlen(rules[i].part)))
                return rules[i].affinity;
    return AFFINITY_NUMERIC;
}

static enum collation collation_of(const char *name) {
    if (!name || !sqlite3_stricmp(name, "BINARY"))
        return COLLATION_BINARY;
    if (!sqlite3_stricmp(name, "NOCASE"))
        return COLLATION_NOCASE;
    if (!sqlite3_stricmp(name, "RTRIM"))
        return COLLATION_RTRIM;
    return COLLATION_OTHER;
}

const char *schema_collate(enum collation c) {
    switch (c) {
    case COLLATION_NOCASE: return " COLLATE NOCASE";
    case COLLATION_RTRIM: return " COLLATE RTRIM";
    default: return " COLLATE BINARY";
    }
}

static int unsupported(struct table *t, char *why, const char *mend) {
    if (!why)
        return ERR_NOMEM;
    if (!t->unsupported) {
        t->unsupported = strdup(why);
        t->mend = mend;
    }
    sqlite3_free(why);
    return t->unsupported ? 0 : ERR_NOMEM;
}

static struct column *column_find(const struct table *t, const char *name) {
    for (uint32_t i = 0; i < t->columns_count; i++)
        if (!sqlite3_stricmp(t->columns[i].name, name))
            return &t->columns[i];
    return NULL;
}

#define ROWID_NAMES 3
static const char *const rowid_names[ROWID_NAMES] = {"rowid", "_rowid_", "oid"};

static int read_column(sqlite3 *app, struct table *t, sqlite3_stmt *q) {
    int hidden = sqlite3_column_int(q, 4), key_place = sqlite3_column_int(q, 3);
    const char *collation = NULL;
    int autoincrement = 0;
    for (int i = 0; i < ROWID_NAMES; i++)
        t->rowid_taken |= !sqlite3_stricmp(text(q, 0), rowid_names[i]) ? 1u << i : 0;
    if (hidden) /* 2 and 3: generated; SQLite allows none in a PRIMARY KEY, but a file is outside data */
        return key_place ? unsupported(t, sqlite3_mprintf("has a generated column in its primary key: %s", text(q, 0)), NULL) : 0;
    struct column *c = append(&t->columns, &t->columns_count, sizeof *c);
    if (!c || !(c->name = strdup(text(q, 0))))
        return ERR_NOMEM;
    c->affinity = affinity_of(text(q, 1), t->strict);
    c->not_null = sqlite3_column_int(q, 2) != 0;
    c->key_place = key_place;
    t->key_count += key_place > 0;
    if (sqlite3_table_column_metadata(app, "main", t->name, c->name, NULL, &collation, NULL, NULL, &autoincrement) == SQLITE_OK)
        c->collation = c->own = collation_of(collation);
    t->autoincrement = t->autoincrement || autoincrement;
    return 0;
}

/* The columns, and the key from their places in it. */
static int read_columns(sqlite3 *app, struct table *t, bool *integer) {
    sqlite3_stmt *q = NULL;
    int row,
        err = sql_prepare(app, &q, "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(%Q, 'main') ORDER BY cid", t->name);
    if (err)
        return err;
    *integer = false;
    while (!err && (row = sql_step(q)) != 0) {
        if (row > 0 && sqlite3_column_int(q, 3) && !sqlite3_stricmp(text(q, 1), "INTEGER"))
            *integer = true;
        err = row < 0 ? row : read_column(app, t, q);
    }
    sqlite3_finalize(q);
    if (err || !t->key_count)
        return err;
    t->key = calloc(t->key_count, sizeof *t->key);
    if (!t->key)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < t->columns_count; i++)
        if (t->columns[i].key_place && (uint32_t)t->columns[i].key_place <= t->key_count)
            t->key[t->columns[i].key_place - 1] = i;
    return 0;
}

/* The hashes of a table's parts are summed, so that their order does not count. */
static uint64_t hash_of(const char *p, size_t len) {
    uint8_t out[crypto_generichash_BYTES_MIN];
    uint64_t h = 0;
    crypto_generichash(out, sizeof out, (const uint8_t *)p, len, NULL, 0);
    for (int i = 0; i < 8; i++)
        h = h << 8 | out[i];
    return h;
}

/* Takes over the text that str gathered. */
static int hash_text(sqlite3_str *str, uint64_t *sum) {
    int len = sqlite3_str_length(str), rc = sqlite3_str_errcode(str);
    char *s = sqlite3_str_finish(str);
    if (rc != SQLITE_OK)
        return ERR_NOMEM;
    *sum += hash_of(s ? s : "", (size_t)len);
    sqlite3_free(s);
    return 0;
}

/* Names as SQLite compares them: ASCII letters in one case. A zero byte parts it from what follows. */
static void put_name(sqlite3_str *str, const char *name) {
    for (; *name; name++)
        sqlite3_str_appendchar(str, 1, *name >= 'A' && *name <= 'Z' ? (char)(*name + 'a' - 'A') : *name);
    sqlite3_str_appendchar(str, 1, 0);
}

/* ---- what a constraint says, where SQLite has only its text */

/* Each CHECK of the CREATE TABLE, in any order. */
static int hash_checks(sqlite3 *app, const struct table *t, uint64_t *sum) {
    sqlite3_stmt *q = NULL;
    bool counts;
    int row = 0, err = sql_prepare(app, &q, "SELECT sql FROM main.sqlite_schema WHERE type='table' AND name=%Q", t->name);
    if (!err && (row = sql_step(q)) < 0)
        err = row;
    for (const char *p = row > 0 ? text(q, 0) : ""; *p && !err;) {
        const char *end = ddl_behind_token(p, &counts), *from = end;
        bool check = end - p == 5 && !sqlite3_strnicmp(p, "check", 5);
        for (counts = false; check && *from && *from != '(' && !counts;)
            from = ddl_behind_token(from, &counts);
        if (check && *from == '(') {
            end = ddl_behind_parentheses(from);
            sqlite3_str *str = sqlite3_str_new(app);
            sqlite3_str_appendall(str, "check ");
            ddl_put_words(str, from, end);
            err = hash_text(str, sum);
        }
        p = end;
    }
    sqlite3_finalize(q);
    return err;
}

/* What an index on expressions, or of some rows only, covers: its text from the columns on. */
static int hash_index_text(sqlite3 *app, const char *index, uint64_t *sum) {
    sqlite3_stmt *q = NULL;
    bool counts;
    int row = 0, err = sql_prepare(app, &q, "SELECT sql FROM main.sqlite_schema WHERE type='index' AND name=%Q", index);
    if (!err && (row = sql_step(q)) < 0)
        err = row;
    const char *p = row > 0 ? text(q, 0) : "";
    while (*p && *p != '(')
        p = ddl_behind_token(p, &counts);
    sqlite3_str *str = sqlite3_str_new(app);
    ddl_put_words(str, p, p + strlen(p));
    int hashed = hash_text(str, sum);
    sqlite3_finalize(q);
    return err ? err : hashed;
}

/* One index: the collations of the key's own, and what a UNIQUE one adds to the schema's hash: its columns, in any order. */
static int read_index(sqlite3 *app, struct table *t, const char *index, bool primary, bool partial, uint64_t *uniques) {
    sqlite3_stmt *q = NULL;
    int row, err = sql_prepare(app, &q, "SELECT cid, name, coll FROM pragma_index_xinfo(%Q, 'main') WHERE key ORDER BY seqno", index);
    uint64_t sum = 0;
    bool by_text = partial;
    while (!err && (row = sql_step(q)) != 0) {
        if (row < 0) {
            err = row;
            break;
        }
        by_text = by_text || sqlite3_column_int(q, 0) < 0;
        const char *name = sqlite3_column_int(q, 0) >= 0 ? text(q, 1) : "";
        struct column *c = column_find(t, name);
        if (primary && c)
            c->collation = collation_of(text(q, 2));
        sqlite3_str *str = sqlite3_str_new(app);
        put_name(str, name);
        put_name(str, text(q, 2));
        err = hash_text(str, &sum);
    }
    sqlite3_finalize(q);
    if (!err && !primary && by_text)
        err = hash_index_text(app, index, &sum);
    if (!err && !primary) {
        sqlite3_str *str = sqlite3_str_new(app);
        sqlite3_str_appendf(str, "unique %d %llx", partial, sum);
        err = hash_text(str, uniques);
    }
    return err;
}

/* *primary: the key has an index of its own, so that it is no alias of the rowid. */
static int read_indexes(sqlite3 *app, struct table *t, bool *primary, uint64_t *uniques) {
    sqlite3_stmt *q = NULL;
    int row, err = sql_prepare(app, &q, "SELECT name, origin, partial FROM pragma_index_list(%Q, 'main') WHERE \"unique\" ORDER BY seq",
                               t->name);
    *primary = false;
    while (!err && (row = sql_step(q)) != 0) {
        if (row < 0) {
            err = row;
            break;
        }
        bool is_primary = !strcmp(text(q, 1), "pk");
        *primary = *primary || is_primary;
        err = read_index(app, t, text(q, 0), is_primary, sqlite3_column_int(q, 2) != 0, uniques);
    }
    sqlite3_finalize(q);
    return err;
}

static int read_foreign_keys(sqlite3 *app, struct table *t) {
    sqlite3_stmt *q = NULL;
    struct foreign_key *f = NULL;
    int row, id = -1,
             err = sql_prepare(app, &q, "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(%Q, 'main') ORDER BY id, seq",
                               t->name);
    while (!err && (row = sql_step(q)) != 0) {
        if (row < 0) {
            err = row;
            break;
        }
        if (!f || sqlite3_column_int(q, 0) != id) {
            id = sqlite3_column_int(q, 0);
            f = append(&t->foreign_keys, &t->foreign_keys_count, sizeof *f);
            if (!f || !(f->parent = strdup(text(q, 1)))) {
                err = ERR_NOMEM;
                break;
            }
        }
        char **from = realloc(f->from, (f->count + 1) * sizeof *from), **to = NULL;
        if (from) {
            f->from = from;
            to = realloc(f->to, (f->count + 1) * sizeof *to);
        }
        if (!to) {
            err = ERR_NOMEM;
            break;
        }
        f->to = to;
        f->from[f->count] = strdup(text(q, 2));
        f->to[f->count] = sqlite3_column_type(q, 3) == SQLITE_NULL ? NULL : strdup(text(q, 3));
        f->count++;
        if (!f->from[f->count - 1] || (sqlite3_column_type(q, 3) != SQLITE_NULL && !f->to[f->count - 1]))
            err = ERR_NOMEM;
    }
    sqlite3_finalize(q);
    return err;
}

static void foreign_key_release(struct foreign_key *f) {
    for (uint32_t i = 0; i < f->count; i++) {
        free(f->from[i]);
        free(f->to[i]);
    }
    free(f->from);
    free(f->to);
    free(f->parent);
}

/* Parent columns that the schema leaves out are the parent's key. A reference that points nowhere (no such table, or a key of another width: SQLite
 * calls it a mismatch) binds nothing, and is left out. */
static int resolve_foreign_keys(const struct schema *s, struct table *t) {
    uint32_t kept = 0;
    int err = 0;
    for (uint32_t i = 0; i < t->foreign_keys_count; i++) {
        struct foreign_key *f = &t->foreign_keys[i];
        const struct table *parent = schema_find(s, f->parent, strlen(f->parent));
        bool named = f->count && f->to[0], good = named || (parent && parent->key_count == f->count);
        for (uint32_t k = 0; good && !named && k < f->count; k++)
            if (!(f->to[k] = strdup(parent->columns[parent->key[k]].name)))
                err = ERR_NOMEM;
        if (good)
            t->foreign_keys[kept++] = *f;
        else
            foreign_key_release(f);
    }
    t->foreign_keys_count = kept;
    return err;
}

static int name_rowid(struct table *t) {
    t->key_kind = KEY_ROWID;
    for (int i = 0; i < ROWID_NAMES && !t->rowid; i++)
        if (!(t->rowid_taken & 1u << i))
            t->rowid = rowid_names[i];
    return t->rowid ? 0
                    : unsupported(t,
                                  sqlite3_mprintf("has no primary key, and columns called rowid, _rowid_ and oid, so that its rows "
                                                  "cannot be told apart"),
                                  "give it a PRIMARY KEY");
}

/* What decides whether and how rows are identified. */
static int judge_key(struct table *t, bool integer, bool key_index) {
    /* Only "INTEGER PRIMARY KEY" is the rowid. INT PRIMARY KEY, INTEGER PRIMARY KEY DESC and WITHOUT ROWID have an index for the key. */
    t->key_kind = t->key_count == 1 && integer && !key_index && !t->without_rowid ? KEY_INTEGER : KEY_COLUMNS;
    size_t longest = strlen(t->name);
    for (uint32_t i = 0; i < t->columns_count; i++)
        longest = strlen(t->columns[i].name) > longest ? strlen(t->columns[i].name) : longest;
    if (longest > SCHEMA_NAME_MAX)
        return unsupported(t, sqlite3_mprintf("has a name of %zu bytes: at most %u are supported", longest, SCHEMA_NAME_MAX),
                           "give it a shorter one");
    if (!t->key_count)
        return name_rowid(t);
    if (t->key_count > KEY_COLUMNS_MAX)
        return unsupported(t, sqlite3_mprintf("has %u columns in its primary key: at most %d are supported", t->key_count, KEY_COLUMNS_MAX),
                           "give it an INTEGER PRIMARY KEY, and make the columns UNIQUE");
    for (uint32_t i = 0; i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        if (c->collation == COLLATION_OTHER)
            return unsupported(t, sqlite3_mprintf("has a primary key with a collation of the application's own: column %s", c->name),
                               "use BINARY, NOCASE or RTRIM for the key, or give the table an INTEGER PRIMARY KEY");
    }
    return 0;
}

static int hash_table(sqlite3 *app, struct table *t, uint64_t uniques, uint64_t *hash) {
    uint64_t columns = 0;
    int err = hash_checks(app, t, &uniques);
    t->constraints = uniques;
    for (uint32_t i = 0; i < t->columns_count && !err; i++) {
        const struct column *c = &t->columns[i];
        sqlite3_str *str = sqlite3_str_new(app);
        put_name(str, c->name);
        sqlite3_str_appendf(str, "%d %d %d %d", c->affinity, c->key_place, c->key_place ? c->collation : 0, c->not_null);
        err = hash_text(str, &columns);
        if (!err && c->not_null) {
            str = sqlite3_str_new(app);
            put_name(str, c->name);
            err = hash_text(str, &t->constraints);
        }
    }
    if (err)
        return err;
    sqlite3_str *str = sqlite3_str_new(app);
    put_name(str, t->name);
    sqlite3_str_appendf(str, "%d %d %llx %llx", t->key_kind, t->strict, columns, uniques);
    return hash_text(str, hash);
}

static int read_table(sqlite3 *app, struct table *t, uint64_t *hash) {
    bool integer = false, key_index = false;
    uint64_t uniques = 0;
    int err = read_columns(app, t, &integer);
    if (!err)
        err = read_indexes(app, t, &key_index, &uniques);
    if (!err)
        err = read_foreign_keys(app, t);
    if (!err)
        err = judge_key(t, integer, key_index);
    if (!err && !t->unsupported)
        err = hash_table(app, t, uniques, hash);
    return err;
}

/* Without its module SQLite does not know which tables are the shadows of a virtual table; by custom they begin with its name and "_". */
static int mark_shadows(sqlite3 *app, struct schema *s) {
    for (uint32_t i = 0; i < s->count; i++) {
        const struct table *v = &s->tables[i];
        sqlite3_stmt *q = NULL;
        if (!v->virtual)
            continue;
        int err = sql_prepare(app, &q, "SELECT 1 FROM main.\"%w\"", v->name);
        bool unknown = err && !strncmp(sqlite3_errmsg(app), "no such module", 14);
        sqlite3_finalize(q);
        if (!unknown)
            continue;
        size_t len = strlen(v->name);
        for (uint32_t k = 0; k < s->count; k++) {
            struct table *t = &s->tables[k];
            if (!sqlite3_strnicmp(t->name, v->name, (int)len) && t->name[len] == '_')
                if (unsupported(t, sqlite3_mprintf("seems to hold the virtual table %s, whose module this SQLite lacks", v->name), NULL))
                    return ERR_NOMEM;
        }
    }
    return 0;
}

static int by_name(const void *a, const void *b) {
    return sqlite3_stricmp(((const struct table *)a)->name, ((const struct table *)b)->name);
}

static int read_names(sqlite3 *app, struct schema *out) {
    sqlite3_stmt *q = NULL;
    int row, err = sql_prepare(app, &q,
                               "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
                               " AND name NOT LIKE 'sqlite\\_%%' ESCAPE '\\' AND lower(name) NOT IN ('_starling_dirty', '_starling_mark')");
    while (!err && (row = sql_step(q)) != 0) {
        struct table *t = row > 0 ? append(&out->tables, &out->count, sizeof *t) : NULL;
        if (row < 0)
            err = row;
        else if (!t || !(t->name = strdup(text(q, 0))))
            err = ERR_NOMEM;
        else if (!strcmp(text(q, 1), "virtual")) {
            t->virtual = true;
            err = unsupported(
                t, sqlite3_mprintf("is a virtual table: what the application writes into it directly cannot be seen by triggers"),
                "keep the content in an ordinary table, and let triggers fill this one");
        } else if (!sqlite3_strnicmp(t->name, "_starling_", 10)) {
            err = unsupported(t,
                              sqlite3_mprintf("has a name that begins with _starling_, which is kept for what the node puts into the file"),
                              "give it another name");
        } else {
            t->without_rowid = sqlite3_column_int(q, 2) != 0;
            t->strict = sqlite3_column_int(q, 3) != 0;
        }
    }
    sqlite3_finalize(q);
    if (!err && out->count)
        qsort(out->tables, out->count, sizeof *out->tables, by_name);
    return err;
}

/* All that others are told of it, word by word. */
static int hash_whole(sqlite3 *app, uint64_t *sum) {
    sqlite3_stmt *q = NULL;
    int row, err = sql_prepare(app, &q,
                               "SELECT sql FROM main.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '\\_starling\\_%%' ESCAPE '\\'");
    while (!err && (row = sql_step(q)) != 0) {
        sqlite3_str *str = sqlite3_str_new(app);
        if (row > 0)
            sqlite3_str_appendall(str, text(q, 0));
        int hashed = hash_text(str, sum);
        err = row < 0 ? row : hashed;
    }
    sqlite3_finalize(q);
    return err;
}

static int read_all(sqlite3 *app, struct schema *out) {
    /* The version first: it starts the read transaction, and makes SQLite read the schema again if it is an older one. */
    int err = sql_int(app, 0, &out->version, "PRAGMA main.schema_version");
    if (!err)
        err = read_names(app, out);
    if (!err)
        err = mark_shadows(app, out);
    if (!err)
        err = hash_whole(app, &out->text);
    for (uint32_t i = 0; i < out->count && !err; i++) {
        struct table *t = &out->tables[i];
        if (!t->unsupported)
            err = read_table(app, t, &out->hash);
    }
    for (uint32_t i = 0; i < out->count && !err; i++)
        err = resolve_foreign_keys(out, &out->tables[i]);
    return err;
}

int schema_read(sqlite3 *app, struct schema *out) {
    memset(out, 0, sizeof *out);
    bool own = sqlite3_get_autocommit(app);
    int err = own ? sql_exec(app, "BEGIN") : 0;
    if (err)
        return err;
    err = read_all(app, out);
    if (own)
        (void)sql_exec(app, "ROLLBACK"); /* nothing was written */
    if (err)
        schema_release(out);
    return err;
}

void schema_release(struct schema *s) {
    capture_forget(s);
    for (uint32_t i = 0; i < s->count; i++) {
        struct table *t = &s->tables[i];
        for (uint32_t k = 0; k < t->columns_count; k++)
            free(t->columns[k].name);
        for (uint32_t k = 0; k < t->foreign_keys_count; k++)
            foreign_key_release(&t->foreign_keys[k]);
        free(t->columns);
        free(t->key);
        free(t->foreign_keys);
        free(t->unsupported);
        free(t->fed);
        free(t->unfed);
        free(t->name);
    }
    free(s->tables);
    memset(s, 0, sizeof *s);
}

const struct table *schema_find(const struct schema *s, const char *name, size_t len) {
    uint32_t low = 0, high = s->count;
    assert(len <= INT32_MAX);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const char *other = s->tables[middle].name;
        int order = sqlite3_strnicmp(other, name, (int)len);
        if (!order && strlen(other) > len)
            order = 1;
        if (!order)
            return memchr(name, 0, len) ? NULL : &s->tables[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
