/* The engine: ddl = follow: what another server adds to its schema is made in a database that is there, and what was dropped here stays so. */
#include "store_intruder.h"
#include "store_rig.h"

#define SCHEMA "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT GLOB '_starling_*' AND name NOT GLOB 'sqlite_*' ORDER BY 1, 2"

/* Servers 1 and up follow, as the mask says. */
static void open_following(struct rig *r, uint32_t count, const char *sql, unsigned mask) {
    rig_start(r, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
        app_exec(rig_app(r, i), sql);
        r->peers[i].follow = mask >> i & 1;
        peer_open(&r->peers[i]);
        peer_rest(&r->peers[i]);
    }
    rig_share(r);
    rig_time_passes(r);
}

static int64_t has(struct rig *r, uint32_t i, const char *name) {
    char *sql = sqlite3_mprintf("SELECT count(*) FROM sqlite_schema WHERE name=%Q", name);
    int64_t n = app_int(rig_app(r, i), sql);
    sqlite3_free(sql);
    return n;
}

static const char *const GROWTH[] = {
    "CREATE TABLE more(k TEXT PRIMARY KEY, v); INSERT INTO more VALUES('m', 1); CREATE INDEX more_v ON more(v)",
    "ALTER TABLE t ADD COLUMN b DEFAULT 'd'; ALTER TABLE t ADD COLUMN n INTEGER NOT NULL DEFAULT 7; UPDATE t SET b = 'b' WHERE id = 1",
    "ALTER TABLE t ADD COLUMN name TEXT COLLATE NOCASE; ALTER TABLE t ADD COLUMN e DEFAULT (-1);"
    "ALTER TABLE t ADD COLUMN parent TEXT REFERENCES more(k) ON DELETE CASCADE; UPDATE t SET parent = 'm', name = 'N'",
    "CREATE UNIQUE INDEX t_name ON t(name) WHERE name IS NOT NULL; CREATE VIEW both AS SELECT t.a, more.v FROM t JOIN more ON parent = k;"
    "CREATE TRIGGER t_counts AFTER INSERT ON t BEGIN UPDATE more SET v = v + 1; END",
    "INSERT INTO t(a, name) VALUES('second', 'O'); CREATE TABLE bag(x, y); INSERT INTO bag VALUES(1, 1), (1, 1)",
};

/* At once, after a restart, or when somebody says so. */
static void test_what_is_added_elsewhere(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        struct rig r;
        open_following(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t(a) VALUES('first')", mode ? 0 : 2);
        for (size_t i = 0; i < sizeof GROWTH / sizeof *GROWTH; i++) {
            rig_act(&r, 0, GROWTH[i]);
            rig_share(&r);
            rig_time_passes(&r);
            if (!mode)
                rig_assert_settled(&r);
        }
        if (mode) {
            assert_false(peer_settled(&r.peers[1]));
            assert_int_equal(has(&r, 1, "more") + has(&r, 1, "t_counts"), 0);
            assert_problem(&r.peers[1], "more", "it: its rows are kept: they are shown when it is created: run the same version");
            assert_problem(&r.peers[1], "t", "column \"b\" is not here, and node ");
            assert_problem(&r.peers[1], "t", "set ddl = follow");
        }
        if (mode == 1) {
            r.peers[1].follow = true;
            peer_reopen(&r.peers[1]);
        } else if (mode) {
            store_follow(r.peers[1].s.store, true);
        }
        rig_share(&r);
        rig_assert_settled(&r);
        assert_same(&r, SCHEMA);
        assert_same_tables(&r);
        assert_same(&r, "SELECT \"table\", \"from\", \"to\", on_delete FROM pragma_foreign_key_list('t')");
        assert_rows(rig_app(&r, 1), "SELECT id FROM t WHERE name = 'n'", "i1|;"); /* its collation came, too */
        rig_time_passes(&r);
        rig_act(&r, 1, "INSERT INTO t(a, name) VALUES('third', 'P'); DELETE FROM bag WHERE rowid = 1");
        rig_share(&r);
        assert_same_tables(&r);
        assert_rows(rig_app(&r, 0), "SELECT v FROM more", "i3|;"); /* each of the two inserts was counted once */
        assert_int_equal(r.peers[0].errors + r.peers[1].errors, 0);
        rig_close(&r);
    }
}

/* DROP and RENAME are not followed, and what follows does not undo them. */
static void test_what_goes_stays_gone_and_stays_elsewhere(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        open_following(
            &r, 2,
            "CREATE TABLE t(k TEXT PRIMARY KEY, a, b, c); CREATE TABLE old(k TEXT PRIMARY KEY, v); CREATE TABLE gone(k TEXT PRIMARY "
            "KEY); CREATE INDEX ta ON t(a); CREATE VIEW v AS SELECT a FROM t; CREATE TRIGGER tr AFTER INSERT ON gone BEGIN SELECT 1; END",
            3);
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1, 2, 3); INSERT INTO old VALUES('o', 1); INSERT INTO gone VALUES('g')");
        rig_share(&r);
        rig_time_passes(&r);
        rig_act(&r, 1,
                "DROP VIEW v; DROP INDEX ta; DROP TRIGGER tr; DROP TABLE gone; ALTER TABLE old RENAME TO new; ALTER TABLE t RENAME COLUMN "
                "a TO z;"
                "ALTER TABLE t DROP COLUMN b");
        rig_share(&r);
        if (restart)
            peer_reopen(&r.peers[1]);
        rig_act(&r, 0, "ALTER TABLE t ADD COLUMN d DEFAULT 'd'; CREATE TABLE last(k TEXT PRIMARY KEY); INSERT INTO gone VALUES('h')");
        rig_share(&r);
        rig_time_passes(&r);
        assert_rows(rig_app(&r, 1), "SELECT name FROM pragma_table_info('t')", "tk|;tz|;tc|;td|;");
        assert_rows(rig_app(&r, 1), SCHEMA, "ttable|tlast|tlast|;ttable|tnew|tnew|;ttable|tt|tt|;");
        assert_rows(rig_app(&r, 0), "SELECT name FROM pragma_table_info('t') ORDER BY 1", "ta|;tb|;tc|;td|;tk|;tz|;");
        assert_int_equal(has(&r, 0, "old") + has(&r, 0, "new") + has(&r, 0, "gone") + has(&r, 0, "ta") + has(&r, 0, "v"), 5);
        assert_rows(rig_app(&r, 0), "SELECT * FROM new", "to|i1|;");
        assert_problem(&r.peers[1], "t", "column \"b\" was renamed or dropped here, and node ");
        assert_problem(&r.peers[1], "gone", "renamed or dropped by the application here, and node ");
        rig_close(&r);
    }
}

/* Each adds something of its own, before it heard of the other: both have both, and a third, too. */
static void test_two_that_add(void **state) {
    (void)state;
    struct rig r;
    open_following(&r, 3, "CREATE TABLE t(k TEXT PRIMARY KEY, a); INSERT INTO t VALUES('x', 1)", 7);
    app_exec(rig_app(&r, 0), "ALTER TABLE t ADD COLUMN zero; UPDATE t SET zero = 0; CREATE TABLE common(k TEXT PRIMARY KEY, v0)");
    app_exec(rig_app(&r, 1), "ALTER TABLE t ADD COLUMN one; UPDATE t SET one = 1; CREATE TABLE common(k TEXT PRIMARY KEY, v1)");
    rig_share(&r);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_everywhere(&r, "SELECT k, a, zero, one FROM t", "tx|i1|i0|i1|;");
    assert_everywhere(&r, "SELECT name FROM pragma_table_info('common') ORDER BY 1", "tk|;tv0|;tv1|;");
    rig_close(&r);
}

/* A table of this server alone is made, and stays empty. */
static void test_tables_that_are_not_replicated(void **state) {
    static const char *const OUTBOX[] = {"outbox", NULL};
    (void)state;
    struct rig r;
    open_following(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY)", 2);
    for (uint32_t i = 0; i < 2; i++) {
        r.peers[i].excluded = OUTBOX;
        peer_reopen(&r.peers[i]);
    }
    rig_act(&r, 0, "CREATE TABLE outbox(k TEXT PRIMARY KEY); INSERT INTO outbox VALUES('mine')");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_rows(rig_app(&r, 1), "SELECT count(*) FROM outbox", "i0|;");
    rig_act(&r, 0, "ALTER TABLE outbox ADD COLUMN more");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT name FROM pragma_table_info('outbox')", "tk|;tmore|;");
    rig_close(&r);
}

/* What cannot be made here is said, and no obstacle. */
static void test_an_index_that_does_not_fit(void **state) {
    (void)state;
    struct rig r;
    open_following(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a); CREATE TABLE other(k TEXT PRIMARY KEY)", 2);
    app_exec(rig_app(&r, 1), "INSERT INTO t VALUES('x', 1), ('y', 1)");
    rig_act(&r, 0, "CREATE UNIQUE INDEX ta ON t(a); CREATE TABLE more(k TEXT PRIMARY KEY)");
    peer_rest(&r.peers[1]);
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_int_equal(has(&r, 1, "more"), 1);
    assert_int_equal(has(&r, 1, "ta"), 0);
    assert_non_null(strstr(r.peers[1].log, "index \"ta\" of another server cannot be created here (UNIQUE constraint failed: t.a)"));
    assert_int_equal(r.peers[1].errors + r.peers[1].reopened, 0);
    rig_close(&r);
}

/* The application changes its schema, or writes, at any moment of it. False: the store ran fewer statements. */
static bool intrude_once(const char *sql, const char *look, const char *want, uint32_t at) {
    struct rig r;
    open_following(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a); INSERT INTO t VALUES('x', 1)", 2);
    rig_act(&r, 0,
            "ALTER TABLE t ADD COLUMN b DEFAULT 'd'; UPDATE t SET b = 'b'; CREATE TABLE more(k TEXT PRIMARY KEY); INSERT INTO more "
            "VALUES('m')");
    side_close_store(&r.peers[1].s);
    intruder_begin(r.peers[1].s.app_path, sql, at);
    peer_open(&r.peers[1]);
    rig_share(&r);
    bool reached = intruder_end();
    rig_share(&r);
    if (intruder.done)
        assert_everywhere(&r, look, want);
    assert_everywhere(&r, "SELECT b FROM t WHERE k = 'x'", "tb|;");
    assert_everywhere(&r, "SELECT k FROM more", "tm|;");
    assert_int_equal(r.peers[0].errors + r.peers[1].errors, 0);
    rig_close(&r);
    return reached;
}

static void test_the_application_in_between(void **state) {
    (void)state;
    for (uint32_t at = 1; intrude_once("INSERT INTO t(k, a) VALUES('y', 5)", "SELECT k, a FROM t", "tx|i1|;ty|i5|;", at); at += 3) {
    }
    for (uint32_t at = 2; intrude_once("ALTER TABLE t ADD COLUMN own DEFAULT 3", "SELECT k, a FROM t", "tx|i1|;", at); at += 9) {
    }
}

/* Columns that are computed when they are read, with names and texts of all kinds. What is stored can only be said. */
static void test_generated_columns(void **state) {
    (void)state;
    struct rig r;
    open_following(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, \"b,c\" TEXT); INSERT INTO t VALUES(1, 2, 'x')", 2);
    rig_act(&r, 0, "ALTER TABLE t ADD COLUMN g INT GENERATED ALWAYS AS (a * 10) VIRTUAL");
    rig_share(&r);
    assert_everywhere(&r, "SELECT g FROM t", "i20|;");
    rig_act(&r, 0, "ALTER TABLE t ADD COLUMN [h, (i)] TEXT AS (coalesce(\"b,c\", ',)') /* , */ || ')') COLLATE NOCASE");
    rig_act(&r, 0, "ALTER TABLE t ADD COLUMN d DEFAULT 3; ALTER TABLE t ADD COLUMN e AS (d + g); CREATE INDEX te ON t(e)");
    rig_share(&r);
    rig_act(&r, 1, "INSERT INTO t(a, \"b,c\") VALUES(5, 'y')");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT g, \"h, (i)\", e FROM t ORDER BY id", "i20|tx)|i23|;i50|ty)|i53|;");
    assert_same_tables(&r);
    rig_act(&r, 0, "CREATE INDEX ta ON t(a); CREATE VIEW tv AS SELECT e FROM t"); /* and nothing else */
    rig_share(&r);
    assert_everywhere(&r, "SELECT count(*) FROM sqlite_schema WHERE name IN ('ta', 'te', 'tv')", "i3|;");
    rig_close(&r);
}

/* A table made anew there has what ALTER TABLE cannot add here. */
static void test_what_cannot_be_added_is_said(void **state) {
    (void)state;
    struct rig r;
    open_following(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b CHECK (b < 10)); INSERT INTO t VALUES(1, 1, 1)", 2);
    rig_act(&r, 0,
            "BEGIN; CREATE TABLE tmp(id INTEGER PRIMARY KEY, a, b CHECK (b < 10), c NOT NULL, g AS (a + b) STORED, CHECK (a > 0), UNIQUE "
            "(a, b)); "
            "INSERT INTO tmp(id, a, b, c) SELECT id, a, b, 'filled' FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t; COMMIT");
    rig_share(&r);
    peer_retry(&r.peers[1]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT * FROM t", "i1|i1|i1|tfilled|;");
    static const char *const SAID[] = {"UNIQUE on \"a\", \"b\", which", "generated column g, which", "NOT NULL for column c, which",
                                       "CHECK constraints: 2, which"};
    for (size_t i = 0; i < sizeof SAID / sizeof *SAID; i++)
        if (!strstr(r.peers[1].log, SAID[i]))
            fail_msg("the log does not say \"%s\" but: %s", SAID[i], r.peers[1].log);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generated_columns),
        cmocka_unit_test(test_what_cannot_be_added_is_said),
        cmocka_unit_test(test_what_is_added_elsewhere),
        cmocka_unit_test(test_what_goes_stays_gone_and_stays_elsewhere),
        cmocka_unit_test(test_two_that_add),
        cmocka_unit_test(test_tables_that_are_not_replicated),
        cmocka_unit_test(test_an_index_that_does_not_fit),
        cmocka_unit_test(test_the_application_in_between),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
