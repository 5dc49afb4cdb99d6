#include "tests/unit/store_scratch.h"

#include "node/store/schema.h"
#include "proto/err.h"

static sqlite3 *memory(const char *sql) {
    sqlite3 *db = app_open(":memory:");
    app_exec(db, sql);
    return db;
}

static const struct table *find(const struct schema *s, const char *name) {
    const struct table *t = schema_find(s, name, strlen(name));
    if (!t)
        fail_msg("no table %s", name);
    return t;
}

static void test_affinity(void **state) {
    (void)state;
    struct schema s;
    sqlite3 *db = memory(
        "CREATE TABLE t(a INT, b CHARINT, c VARCHAR(9), d BLOB, e, f FLOATING, g DOUBLE, h DECIMAL(9), i STRING, j \"native character\","
        "k REALBLOB, l BOOLEAN, m FLOATING POINT, n ANY, PRIMARY KEY(a));"
        "CREATE TABLE s(a INTEGER PRIMARY KEY, b ANY, c TEXT, d REAL, e BLOB) STRICT;");
    static const enum affinity want[] = {AFFINITY_INTEGER, AFFINITY_INTEGER, AFFINITY_TEXT,    AFFINITY_BLOB,    AFFINITY_BLOB,
                                         AFFINITY_REAL,    AFFINITY_REAL,    AFFINITY_NUMERIC, AFFINITY_NUMERIC, AFFINITY_TEXT,
                                         AFFINITY_BLOB,    AFFINITY_NUMERIC, AFFINITY_INTEGER, AFFINITY_NUMERIC};
    assert_int_equal(schema_read(db, &s), 0);
    const struct table *t = find(&s, "T");
    for (uint32_t i = 0; i < t->columns_count; i++)
        assert_int_equal(t->columns[i].affinity, want[i]);
    t = find(&s, "s");
    assert_true(t->strict);
    assert_int_equal(t->columns[1].affinity, AFFINITY_BLOB);
    schema_release(&s);
    /* The rules are SQLite's: what it makes of '1' and of 1 in a column of each type. */
    static const char *const types[] = {
        "INT",  "CHARINT",  "VARCHAR(9)", "BLOB", "",         "FLOATING", "DOUBLE PRECISION", "DECIMAL(9)", "STRING",
        "CLOB", "REALTEXT", "REALBLOB",   "ANY",  "DATETIME", "INTBLOB",  "BLOBFLOAT",        "POINT",      "UNSIGNED BIG INT"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char sql[200];
        snprintf(sql, sizeof sql, "CREATE TABLE x%zu(id INTEGER PRIMARY KEY, v %s); INSERT INTO x%zu VALUES(1, '1'), (2, 1);", i, types[i],
                 i);
        app_exec(db, sql);
        snprintf(sql, sizeof sql, "SELECT typeof(v) FROM x%zu ORDER BY id", i);
        int rc;
        char *rows = app_rows(db, sql, &rc), name[20];
        snprintf(name, sizeof name, "x%zu", i);
        assert_int_equal(schema_read(db, &s), 0);
        static const char *const made[] = {[AFFINITY_BLOB] = "ttext|;tinteger|;",
                                           [AFFINITY_TEXT] = "ttext|;ttext|;",
                                           [AFFINITY_NUMERIC] = "tinteger|;tinteger|;",
                                           [AFFINITY_INTEGER] = "tinteger|;tinteger|;",
                                           [AFFINITY_REAL] = "treal|;treal|;"};
        assert_string_equal(rows, made[find(&s, name)->columns[1].affinity]);
        free(rows);
        schema_release(&s);
    }
    sqlite3_close(db);
}

static void test_keys(void **state) {
    (void)state;
    struct schema s;
    sqlite3 *db =
        memory("CREATE TABLE k1(id INTEGER PRIMARY KEY, v); CREATE TABLE k2(id integer PRIMARY KEY AUTOINCREMENT, v);"
               "CREATE TABLE k3(id INT PRIMARY KEY, v); CREATE TABLE k4(id INTEGER PRIMARY KEY DESC, v);"
               "CREATE TABLE k5(id INTEGER, v, PRIMARY KEY(id DESC)); CREATE TABLE k6(id INTEGER PRIMARY KEY, v) WITHOUT ROWID;"
               "CREATE TABLE k7(a, b, c, PRIMARY KEY(c, a)); CREATE TABLE k8(a TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, b);"
               "CREATE TABLE k9(a TEXT COLLATE RTRIM, b, PRIMARY KEY(b COLLATE NOCASE, a)) WITHOUT ROWID; CREATE TABLE k10(v);"
               "CREATE TABLE k11(g AS (v + 1) STORED, v, h AS (v), id INTEGER PRIMARY KEY); CREATE TABLE k12(id BIGINTEGER PRIMARY KEY);"
               "CREATE TABLE k13(id INTEGER UNIQUE, x INTEGER, PRIMARY KEY(id)); CREATE TABLE k14(id \"INTEGER\" PRIMARY KEY);"
               "CREATE TABLE k15(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, PRIMARY KEY(a, b, c, d, e, f, g, h, i, j, k, l, m, n, "
               "o, p, q))");
    static const struct {
        const char *name;
        bool integer;
    } want[] = {{"k1", 1}, {"k2", 1}, {"k3", 0},  {"k4", 0},  {"k5", 1},  {"k6", 0}, {"k7", 0},
                {"k8", 0}, {"k9", 0}, {"k11", 1}, {"k12", 0}, {"k13", 1}, {"k14", 1}};
    assert_int_equal(schema_read(db, &s), 0);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const struct table *t = find(&s, want[i].name);
        char sql[200];
        assert_null(t->unsupported);
        assert_int_equal(t->key_kind, want[i].integer ? KEY_INTEGER : KEY_COLUMNS);
        /* The proof: an alias of the rowid is what rowid shows as a column name. */
        if (!t->without_rowid) {
            snprintf(sql, sizeof sql, "SELECT rowid FROM %s", t->name);
            sqlite3_stmt *q;
            assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
            assert_int_equal(strcmp(sqlite3_column_name(q, 0), "rowid") != 0, want[i].integer);
            sqlite3_finalize(q);
        }
    }
    assert_true(find(&s, "k2")->autoincrement && !find(&s, "k1")->autoincrement);
    assert_true(find(&s, "k6")->without_rowid);
    const struct table *t = find(&s, "k7");
    assert_int_equal(t->key_count, 2);
    assert_string_equal(t->columns[t->key[0]].name, "c");
    assert_string_equal(t->columns[t->key[1]].name, "a");
    assert_int_equal(t->columns[0].key_place, 2);
    t = find(&s, "k8");
    assert_int_equal(t->columns[0].collation, COLLATION_NOCASE);
    assert_true(t->columns[0].not_null && !t->columns[1].not_null);
    t = find(&s, "k9");
    assert_int_equal(t->columns[0].collation, COLLATION_RTRIM);
    assert_int_equal(t->columns[1].collation, COLLATION_NOCASE);
    t = find(&s, "k10");
    assert_true(!t->unsupported && t->key_kind == KEY_ROWID && t->key_count == 0);
    assert_string_equal(t->rowid, "rowid");
    assert_non_null(strstr(find(&s, "k15")->unsupported, "17 columns"));
    t = find(&s, "k11");
    assert_int_equal(t->columns_count, 2);
    assert_string_equal(t->columns[0].name, "v");
    schema_release(&s);
    sqlite3_close(db);
}

static int any_order(void *ctx, int n1, const void *a, int n2, const void *b) {
    (void)ctx;
    return n1 != n2 ? n1 - n2 : memcmp(a, b, (size_t)n1);
}

static void test_left_out(void **state) {
    (void)state;
    struct schema s;
    struct scratch f;
    scratch_open(&f);
    sqlite3 *db = app_open(f.path);
    sqlite3_create_collation(db, "mine", SQLITE_UTF8, NULL, any_order);
    app_exec(db, "CREATE TABLE own(k TEXT PRIMARY KEY COLLATE mine); CREATE TABLE other(k INTEGER PRIMARY KEY, v COLLATE mine UNIQUE);"
                 "CREATE VIRTUAL TABLE fts USING fts5(body); CREATE VIRTUAL TABLE box USING rtree(id, a, b); CREATE VIEW v AS SELECT 1;"
                 "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE TABLE _starling_dirty(seq INTEGER PRIMARY KEY); ANALYZE;"
                 "CREATE TABLE \"Größe \"\"x\"\"\"(\"ä'b\" PRIMARY KEY); CREATE TABLE fts_of_ours(id INTEGER PRIMARY KEY); CREATE VIEW "
                 "broken AS SELECT * FROM nowhere");
    sqlite3_close(db);
    /* Read by a program that lacks the collation. */
    db = app_open(f.path);
    assert_int_equal(schema_read(db, &s), 0);
    assert_int_equal(s.count, 7);
    assert_string_equal(s.tables[0].name, "a");
    assert_non_null(strstr(find(&s, "own")->unsupported, "collation"));
    assert_null(find(&s, "other")->unsupported);
    assert_int_equal(find(&s, "other")->columns[1].collation, COLLATION_OTHER);
    assert_non_null(strstr(find(&s, "fts")->unsupported, "virtual"));
    assert_non_null(find(&s, "box")->unsupported);
    assert_null(find(&s, "fts_of_ours")->unsupported);
    assert_string_equal(find(&s, "Größe \"x\"")->columns[0].name, "ä'b");
    assert_null(schema_find(&s, "fts_data", 8));
    assert_null(schema_find(&s, "v", 1));
    assert_null(schema_find(&s, "", 0));
    assert_null(schema_find(&s, "a\0b", 3));
    assert_null(schema_find(&s, "a\0", 2));
    assert_ptr_equal(schema_find(&s, "OTHERS", 5), find(&s, "other"));
    assert_int_equal(sqlite3_get_autocommit(db), 1);
    schema_release(&s);
    /* A module that this SQLite lacks: neither the table nor its shadows are taken for ordinary ones. */
    app_exec(db, "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'USING fts5', 'USING nosuch') WHERE name = 'fts'; "
                 "PRAGMA writable_schema=OFF");
    sqlite3_close(db);
    db = app_open(f.path);
    assert_int_equal(schema_read(db, &s), 0);
    assert_non_null(strstr(find(&s, "fts_data")->unsupported, "lacks"));
    assert_non_null(find(&s, "fts")->unsupported);
    schema_release(&s);
    sqlite3_close(db);
    scratch_close(&f);
}

static void test_foreign_keys(void **state) {
    (void)state;
    struct schema s;
    sqlite3 *db = memory("CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE); CREATE TABLE q(a, b, PRIMARY KEY(b, a));"
                         "CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p, u REFERENCES P(u), x, y, gone REFERENCES nowhere,"
                         " gone2 REFERENCES nowhere(z), bad REFERENCES q, self REFERENCES c, FOREIGN KEY(x, y) REFERENCES q)");
    assert_int_equal(schema_read(db, &s), 0);
    const struct table *t = find(&s, "c");
    int seen = 0;
    for (uint32_t i = 0; i < t->foreign_keys_count; i++) {
        const struct foreign_key *f = &t->foreign_keys[i];
        if (!strcmp(f->from[0], "p"))
            seen |= 1 * (!strcmp(f->to[0], "id") && !strcmp(f->parent, "p") && f->count == 1);
        else if (!strcmp(f->from[0], "u"))
            seen |= 2 * (!strcmp(f->to[0], "u") && !strcmp(f->parent, "P"));
        else if (!strcmp(f->from[0], "x"))
            seen |= 4 * (f->count == 2 && !strcmp(f->from[1], "y") && !strcmp(f->to[0], "b") && !strcmp(f->to[1], "a"));
        else if (!strcmp(f->from[0], "gone2"))
            seen |= 8 * !strcmp(f->to[0], "z");
        else if (!strcmp(f->from[0], "self"))
            seen |= 16 * !strcmp(f->to[0], "id");
        else
            fail_msg("%s", f->from[0]);
    }
    assert_int_equal(seen, 31);
    schema_release(&s);
    sqlite3_close(db);
}

static uint64_t hash_of(const char *sql) {
    struct schema s;
    sqlite3 *db = memory(sql);
    assert_int_equal(schema_read(db, &s), 0);
    uint64_t h = s.hash;
    schema_release(&s);
    sqlite3_close(db);
    return h;
}

static void test_hash(void **state) {
    (void)state;
    uint64_t h = hash_of("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT); CREATE TABLE u(k TEXT PRIMARY KEY)");
    static const char *const same[] = {
        "CREATE TABLE u(k TEXT PRIMARY KEY); CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT)",
        "create table T (b BIGINT DEFAULT 7, A VARCHAR(20), ID integer, primary key(id), unique(a)); CREATE TABLE U(\"k\" CLOB, PRIMARY "
        "KEY(k))",
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); ALTER TABLE t ADD COLUMN b INT DEFAULT 5; CREATE UNIQUE INDEX x ON t(a);"
         "CREATE INDEX y ON t(b); CREATE TABLE u(k TEXT PRIMARY KEY); CREATE VIEW v AS SELECT 1"),
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT, g AS (b + 1)); CREATE TABLE u(k TEXT PRIMARY KEY)",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (hash_of(same[i]) != h)
            fail_msg("%s", same[i]);
    static const char *const other[] = {
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INT); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INT UNIQUE); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, c INT); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT, c); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INT PRIMARY KEY, a TEXT UNIQUE, b INT); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT); CREATE TABLE u(k TEXT COLLATE NOCASE PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE NOT NULL, b INT); CREATE TABLE u(k TEXT PRIMARY KEY)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INT, UNIQUE(a, b)); CREATE TABLE u(k TEXT PRIMARY KEY)",
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INT); CREATE UNIQUE INDEX x ON t(a) WHERE b > 1; CREATE TABLE u(k TEXT PRIMARY "
         "KEY)"),
    };
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (hash_of(other[i]) == h)
            fail_msg("%s", other[i]);
    assert_int_equal(hash_of(""), 0);
    /* what a constraint says, however it is written */
    h = hash_of(
        "CREATE TABLE t(a INT CHECK (a > 0), b CHECK (b <> 'X )('), CHECK (a<b)); CREATE UNIQUE INDEX x ON t(lower(b)) WHERE a > 1");
    assert_true(h ==
                hash_of("create table T(b check(B<>'X )(' ), /* check (it) */ a int, constraint c check ( A < b ), check -- (\n(a>0)); "
                        "create unique index y on t(LOWER(b)) where a>1"));
    assert_true(h !=
                hash_of("CREATE TABLE t(a INT CHECK (a > 0), b CHECK (b <> 'x )('), CHECK (a<b)); CREATE UNIQUE INDEX x ON t(lower(b)) "
                        "WHERE a > 1"));
    assert_true(h !=
                hash_of("CREATE TABLE t(a INT CHECK (a > 0), b CHECK (b <> 'X )('), CHECK (a<b)); CREATE UNIQUE INDEX x ON t(lower(b)) "
                        "WHERE a > 2"));
    assert_true(h !=
                hash_of("CREATE TABLE t(a INT CHECK (a > 0), b CHECK (b <> 'X )('), CHECK (a<b)); CREATE UNIQUE INDEX x ON t(upper(b)) "
                        "WHERE a > 1"));
    assert_true(h !=
                hash_of("CREATE TABLE t(a INT CHECK (a > 0), b CHECK (b <> 'X )(')); CREATE UNIQUE INDEX x ON t(lower(b)) WHERE a > 1"));
}

/* One read transaction: within one of the caller's, too, and a stale connection sees the schema as it is now. */
static void test_transaction(void **state) {
    (void)state;
    struct scratch f;
    struct schema s;
    scratch_open(&f);
    sqlite3 *db = app_open(f.path), *other = app_open(f.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE a(id INTEGER PRIMARY KEY)");
    assert_int_equal(schema_read(db, &s), 0);
    int64_t version = s.version;
    schema_release(&s);
    app_exec(other, "CREATE TABLE b(id INTEGER PRIMARY KEY)");
    assert_int_equal(schema_read(db, &s), 0);
    assert_int_equal(s.count, 2);
    assert_true(s.version > version);
    schema_release(&s);
    app_exec(db, "BEGIN; SELECT * FROM a");
    app_exec(other, "ALTER TABLE b ADD COLUMN c; CREATE TABLE d(x)");
    assert_int_equal(schema_read(db, &s), 0);
    assert_int_equal(s.count, 2);
    assert_int_equal(find(&s, "b")->columns_count, 1);
    assert_int_equal(sqlite3_get_autocommit(db), 0);
    schema_release(&s);
    app_exec(db, "COMMIT");
    sqlite3_close(db);
    sqlite3_close(other);
    scratch_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_affinity),     cmocka_unit_test(test_keys), cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_foreign_keys), cmocka_unit_test(test_hash), cmocka_unit_test(test_transaction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
