/* The engine: servers whose schemas differ, databases that are missing here, and schema text from the network. */
#include "store_forge.h"
#include "store_intruder.h"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* Each server with a schema of its own. */
static void open_different(struct rig *r, const char *zero, const char *one) {
    rig_start(r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
        app_exec(rig_app(r, i), i ? one : zero);
        peer_open(&r->peers[i]);
    }
    rig_share(r);
    rig_time_passes(r);
}

static void test_a_table_that_is_missing_here(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        open_different(&r,
                       "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE more(k TEXT PRIMARY KEY, v); CREATE TABLE numbered(id "
                       "INTEGER PRIMARY KEY, v)",
                       "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
        rig_act(&r, 0,
                "INSERT INTO t(a) VALUES('t'); INSERT INTO more VALUES('a', 1), ('b', 2), ('c', 3); INSERT INTO numbered(v) VALUES('x'), "
                "('y')");
        rig_share(&r);
        rig_time_passes(&r);
        assert_rows(rig_app(&r, 1), "SELECT a FROM t", "tt|;");
        assert_int_equal(peer_status(&r.peers[1], "parked"), 5);
        assert_false(peer_settled(&r.peers[1]));
        assert_problem(&r.peers[1], "more", "the application has no such table here");
        assert_problem(&r.peers[1], "numbered", "the application has no such table here");
        rig_act(&r, 0, "UPDATE more SET v = 10 WHERE k = 'a'; DELETE FROM more WHERE k = 'b'; DELETE FROM numbered WHERE v = 'x'");
        rig_share(&r);
        assert_int_equal(peer_status(&r.peers[1], "parked"), 3);
        if (restart)
            peer_reopen(&r.peers[1]);
        rig_act(&r, 1, "CREATE TABLE more(v, k TEXT PRIMARY KEY)");
        assert_rows(rig_app(&r, 1), "SELECT k, v FROM more ORDER BY k", "ta|i10|;tc|i3|;");
        rig_act(&r, 1, "CREATE TABLE numbered(id INTEGER PRIMARY KEY, v); INSERT INTO numbered(v) VALUES('mine')");
        share_same(&r);
        rig_close(&r);
    }
}

static void test_a_column_that_is_missing_here(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        open_different(&r, "CREATE TABLE t(k TEXT PRIMARY KEY, a, c DEFAULT 'dc')", "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1, 'cx'), ('y', 2, NULL); INSERT INTO t(k, a) VALUES('z', 3)");
        rig_act(&r, 1, "INSERT INTO t VALUES('old', 0)");
        rig_share(&r);
        rig_time_passes(&r);
        assert_rows(rig_app(&r, 1), "SELECT * FROM t ORDER BY k", "told|i0|;tx|i1|;ty|i2|;tz|i3|;");
        assert_rows(rig_app(&r, 0), "SELECT * FROM t WHERE k = 'old'", "told|i0|tdc|;");
        assert_false(peer_settled(&r.peers[1]));
        assert_problem(&r.peers[1], "t", "column \"c\" is not here");
        rig_act(&r, 0, "UPDATE t SET c = 'changed' WHERE k = 'y'");
        rig_act(&r, 1, "UPDATE t SET a = a + 10");
        rig_share(&r);
        if (restart)
            peer_reopen(&r.peers[1]);
        rig_act(&r, 1, "ALTER TABLE t ADD COLUMN c DEFAULT 'dc'");
        share_same(&r);
        assert_rows(rig_app(&r, 1), "SELECT k, a, c FROM t ORDER BY k", "told|i10|tdc|;tx|i11|tcx|;ty|i12|tchanged|;tz|i13|tdc|;");
        rig_close(&r);
    }
}

/* Adding a column to many rows sends none, also when its default differs from server to server. */
static void test_adding_a_column_sends_no_rows(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    rig_act(&r, 0, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO t(a) SELECT i FROM n");
    share_same(&r);
    uint32_t before[2] = {r.peers[0].s.made.count, r.peers[1].s.made.count};
    rig_act(&r, 0, "ALTER TABLE t ADD COLUMN b DEFAULT 'none'; ALTER TABLE t ADD COLUMN n INTEGER NOT NULL DEFAULT 0");
    rig_share(&r);
    rig_act(&r, 1, "ALTER TABLE t ADD COLUMN n INTEGER NOT NULL DEFAULT 0; ALTER TABLE t ADD COLUMN b DEFAULT 'none'");
    share_same(&r);
    assert_int_equal(rig_made_rows(&r, 0, before[0]) + rig_made_rows(&r, 1, before[1]), 0);
    rig_act(&r, 0, "UPDATE t SET a = a"); /* an ORM writes the row whole */
    assert_int_equal(rig_made_rows(&r, 0, before[0]), 0);
    rig_act(&r, 1, "UPDATE t SET b = 'some' WHERE id = 7; UPDATE t SET n = 1, b = 'none' WHERE id = 8");
    share_same(&r);
    assert_int_equal(rig_made_rows(&r, 1, before[1]), 2);
    rig_close(&r);
}

static void test_columns_and_tables_that_go(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE t(k TEXT PRIMARY KEY, a, b); CREATE TABLE gone(id INTEGER PRIMARY KEY, v); CREATE TABLE renamed(k TEXT PRIMARY "
             "KEY, v)");
    rig_act(&r, 0, "INSERT INTO t VALUES('x', 1, 1), ('y', 2, 2); INSERT INTO gone(v) VALUES(1); INSERT INTO renamed VALUES('r', 1)");
    share_same(&r);
    rig_act(&r, 0, "ALTER TABLE t DROP COLUMN b; DROP TABLE gone");
    rig_act(&r, 0, "UPDATE t SET a = 10 WHERE k = 'x'");
    rig_share(&r);
    rig_time_passes(&r);
    assert_rows(rig_app(&r, 1), "SELECT * FROM t ORDER BY k", "tx|i10|i1|;ty|i2|i2|;");
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM gone"), 1); /* a dropped table is no deletion of its rows */
    assert_problem(&r.peers[0], "gone", "shown when it is created");
    rig_act(&r, 1, "UPDATE t SET b = 50, a = 11 WHERE k = 'x'; INSERT INTO t VALUES('z', 3, 3)");
    rig_share(&r);
    rig_time_passes(&r);
    assert_rows(rig_app(&r, 0), "SELECT * FROM t ORDER BY k", "tx|i11|;ty|i2|;tz|i3|;");
    rig_act(&r, 1, "ALTER TABLE t DROP COLUMN b; DROP TABLE gone; DROP TABLE renamed");
    rig_act(&r, 0, "DROP TABLE renamed; UPDATE t SET a = 12");
    rig_share(&r);
    assert_same_table(&r, "t");
    rig_close(&r);
}

/* A migration that rebuilds a table leaves no triggers: the table is read again. */
static void test_a_table_that_is_rebuilt(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)");
    rig_act(&r, 0, "INSERT INTO t(a, b) VALUES(1, 'x'), (2, 'y'), (3, 'z')");
    share_same(&r);
    uint32_t before = r.peers[0].s.made.count;
    static const char *const REBUILD = "BEGIN; CREATE TABLE t_new(id INTEGER PRIMARY KEY, b TEXT NOT NULL, a, extra DEFAULT 'e'); INSERT "
                                       "INTO t_new(id, a, b) SELECT id, a, b FROM t;"
                                       "DROP TABLE t; ALTER TABLE t_new RENAME TO t; COMMIT";
    rig_act(&r, 0, REBUILD);
    assert_int_equal(rig_made_rows(&r, 0, before), 0);
    rig_act(&r, 0, "UPDATE t SET a = 20 WHERE id = 2; INSERT INTO t(a, b) VALUES(4, 'w'); DELETE FROM t WHERE id = 1");
    rig_share(&r);
    assert_same(&r, "SELECT id, a, b FROM t ORDER BY id");
    app_exec(rig_app(&r, 1), "BEGIN; CREATE TABLE t_new(id INTEGER PRIMARY KEY, b TEXT NOT NULL, a, extra DEFAULT 'e'); INSERT INTO "
                             "t_new(id, a, b) SELECT id, a, b || '!' FROM t WHERE id <> 3;"
                             "DROP TABLE t; ALTER TABLE t_new RENAME TO t; COMMIT"); /* this one changes rows, too */
    peer_rest(&r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a, b FROM t ORDER BY id", "i2|i20|ty!|;i4|i4|tw!|;");
    rig_close(&r);
}

static void test_what_cannot_be_replicated_is_named(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE nokey(a, b); CREATE VIRTUAL TABLE search USING fts5(x); CREATE VIEW "
             "v AS SELECT * FROM t");
    rig_act(&r, 0, "INSERT INTO t(a) VALUES(1); INSERT INTO nokey VALUES(1, 2); INSERT INTO search VALUES('words')");
    rig_share(&r);
    assert_problem(&r.peers[0], "nokey", "has no primary key");
    assert_problem(&r.peers[0], "search", "virtual table");
    assert_same_table(&r, "t");
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM nokey"), 1); /* replicated, and named */
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM search"), 0);
    rig_close(&r);
}

/* Rows that no key names cannot be told apart elsewhere: they stay here, and are named. */
static void test_rows_with_null_in_the_key(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE k(x TEXT, y INTEGER, v, PRIMARY KEY(x, y))");
    rig_act(&r, 0, "INSERT INTO k VALUES(NULL, 1, 'a'), (NULL, 1, 'b'), ('x', NULL, 'c'), ('x', 1, 'd')");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT * FROM k", "tx|i1|td|;");
    rig_act(&r, 0, "UPDATE k SET v = 'e'; DELETE FROM k WHERE v = 'e' AND y = 1 AND x IS NULL");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT * FROM k", "tx|i1|te|;");
    assert_problem(&r.peers[0], "k", "NULL");
    assert_false(peer_settled(&r.peers[0]));
    rig_act(&r, 0, "DELETE FROM k WHERE y IS NULL");
    share_same(&r);
    rig_close(&r);
}

/* The excluded table belongs to each server alone. */
static void test_excluded_tables(void **state) {
    (void)state;
    static const char *const OUT[] = {"outbox", NULL};
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE Outbox(id INTEGER PRIMARY KEY, mail)");
        r.peers[i].excluded = OUT;
        peer_open(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO t(a) VALUES(1); INSERT INTO outbox(mail) VALUES('once')");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM outbox"), 0);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name LIKE 'outbox'"), 0);
    rig_close(&r);
}

/* A migration goes on, in a commit of its own, while the store takes over its first step: just before the statement with this number. */
static bool migrate_in_two(const char *first, const char *second, uint32_t at, const char *sql, const char *want) {
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, v); CREATE TABLE u(k TEXT PRIMARY KEY); INSERT INTO t VALUES('old', 1)");
    intruder_begin(r.peers[0].s.app_path, second, at);
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    intruder.count = 0;
    rig_act(&r, 0, first);
    bool reached = intruder_end();
    if (reached) {
        if (!intruder.done)
            rig_act(&r, 0, second);
        rig_share(&r);
        app_exec(rig_app(&r, 1), first);
        rig_act(&r, 1, second);
        share_same(&r);
        assert_rows(rig_app(&r, 0), sql, want);
        rig_assert_settled(&r);
        assert_int_equal(r.peers[0].errors, 0);
        assert_int_equal(r.peers[0].reopened, 0); /* an owner would wait before that, and writes without triggers be missed */
    }
    rig_close(&r);
    return reached;
}

static void test_a_migration_goes_on_meanwhile(void **state) {
    (void)state;
    for (uint32_t at = 1;
         migrate_in_two("CREATE TABLE n(k TEXT PRIMARY KEY, v)",
                        "BEGIN IMMEDIATE; INSERT INTO n SELECT * FROM t; INSERT OR IGNORE INTO n VALUES('n', 1); DROP TABLE t; "
                        "ALTER TABLE n RENAME TO t; COMMIT",
                        at, "SELECT k, v FROM t ORDER BY k", "tn|i1|;told|i1|;");
         at++) {
    }
    for (uint32_t at = 1; migrate_in_two("ALTER TABLE t ADD COLUMN a DEFAULT 5",
                                         "BEGIN IMMEDIATE; ALTER TABLE t ADD COLUMN b; UPDATE t SET b = 'b', a = 6; COMMIT", at,
                                         "SELECT k, v, a, b FROM t", "told|i1|i6|tb|;");
         at++) {
    }
    for (uint32_t at = 1; migrate_in_two("ALTER TABLE t ADD COLUMN a", /* gone again before it was taken up */
                                         "BEGIN IMMEDIATE; CREATE TABLE n(k TEXT PRIMARY KEY, v); INSERT INTO n SELECT k, v FROM t; "
                                         "DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT",
                                         at, "SELECT k, v FROM t", "told|i1|;");
         at++) {
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_table_that_is_missing_here),  cmocka_unit_test(test_a_column_that_is_missing_here),
        cmocka_unit_test(test_adding_a_column_sends_no_rows), cmocka_unit_test(test_columns_and_tables_that_go),
        cmocka_unit_test(test_a_table_that_is_rebuilt),       cmocka_unit_test(test_what_cannot_be_replicated_is_named),
        cmocka_unit_test(test_rows_with_null_in_the_key),     cmocka_unit_test(test_excluded_tables),
        cmocka_unit_test(test_a_migration_goes_on_meanwhile),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
