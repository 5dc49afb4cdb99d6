/* The engine: a database that is missing here is made from another server's schema, and text from the network does nothing else. */
#include "store_forge.h"
#include "store_intruder.h"

#include <sys/stat.h>

/* Server 1 has no file yet. */
static void open_missing(struct rig *r, const char *sql) {
    rig_start(r, 2);
    assert_int_equal(side_open_app(&r->peers[0].s), SQLITE_OK);
    app_exec(rig_app(r, 0), sql);
    peer_open(&r->peers[0]);
    r->peers[1].create = true;
    peer_open(&r->peers[1]);
    assert_int_equal(access(r->peers[1].s.app_path, F_OK), -1);
    peer_rest(&r->peers[0]);
    peer_rest(&r->peers[1]);
}

static void test_a_missing_database_is_made_whole(void **state) {
    (void)state;
    struct rig r;
    open_missing(&r, "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a INTEGER DEFAULT 5 CHECK(a < 100), g AS (a + 1) STORED, u TEXT "
                     "UNIQUE COLLATE NOCASE);"
                     "CREATE TABLE w(k TEXT PRIMARY KEY, t REFERENCES t(id)) WITHOUT ROWID; CREATE INDEX ta ON t(a) WHERE a > 3; CREATE "
                     "VIEW v AS SELECT a FROM t;"
                     "CREATE TABLE \"odd; name\"(\"a b\" INTEGER PRIMARY KEY); CREATE TRIGGER tr AFTER INSERT ON t BEGIN UPDATE t SET u = "
                     "'trigger ' || new.a WHERE id = new.id AND u IS NULL; END;"
                     "INSERT INTO t(a) VALUES(1); INSERT INTO w VALUES('before', 1)");
    rig_share(&r);
    assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_same(&r,
                "SELECT type, name, sql FROM sqlite_schema WHERE name NOT GLOB '_starling_*' AND name NOT GLOB 'sqlite_*' ORDER BY 1, 2");
    rig_time_passes(&r);
    rig_act(&r, 1, "INSERT INTO t(a) VALUES(2); DELETE FROM w");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_rows(rig_app(&r, 1), "SELECT a, g, u FROM t ORDER BY id", "i1|i2|ttrigger 1|;i2|i3|ttrigger 2|;");
    rig_close(&r);
}

static void rig_on_file(void *ctx, uint64_t dev, uint64_t ino) {
    struct peer *p = ctx;
    struct stat st;
    assert_int_equal(stat(p->s.app_path, &st), 0);
    assert_true(dev == st.st_dev && ino == st.st_ino && st.st_size == 0);
    p->told_file++;
}

/* Whoever else in the process opened and closed a file that SQLite has open would drop its locks: so it is told which one, before. */
static void test_a_file_is_told_before_it_is_opened(void **state) {
    (void)state;
    struct rig r;
    open_missing(&r, "CREATE TABLE t(k TEXT PRIMARY KEY); INSERT INTO t VALUES('a')");
    side_close_store(&r.peers[1].s);
    r.peers[1].on_file = rig_on_file;
    peer_open(&r.peers[1]);
    rig_share(&r);
    assert_int_equal(r.peers[1].told_file, 1);
    rig_close(&r);
}

/* Tables that come later follow, until the application here changes the schema by itself. */
static void test_later_tables_follow(void **state) {
    (void)state;
    struct rig r;
    open_missing(&r, "CREATE TABLE t(k TEXT PRIMARY KEY)");
    rig_share(&r);
    rig_act(&r, 0, "CREATE TABLE later(k TEXT PRIMARY KEY, v); CREATE INDEX later_v ON later(v)");
    rig_act(&r, 0, "INSERT INTO later VALUES('k', 1)");
    rig_share(&r);
    assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    peer_reopen(&r.peers[1]);
    rig_act(&r, 0, "CREATE TABLE third(k TEXT PRIMARY KEY, v)");
    rig_act(&r, 0, "INSERT INTO third VALUES('k', 1)");
    rig_share(&r);
    assert_same_tables(&r);
    rig_act(&r, 1, "CREATE TABLE own(k TEXT PRIMARY KEY)");
    rig_act(&r, 0, "CREATE TABLE fourth(k TEXT PRIMARY KEY, v)");
    rig_act(&r, 0, "INSERT INTO fourth VALUES('k', 1)");
    rig_share(&r);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM sqlite_schema WHERE name = 'fourth'"), 0);
    assert_problem(&r.peers[1], "fourth", "no such table here");
    rig_act(&r, 1, "CREATE TABLE fourth(k TEXT PRIMARY KEY, v)");
    assert_same_table(&r, "fourth");
    rig_close(&r);
}

/* An existing file without a table is filled; one with tables of its own keeps its schema. */
static void test_files_that_exist(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        if (i != 1)
            app_exec(rig_app(&r, i),
                     i ? "CREATE TABLE mine(k TEXT PRIMARY KEY)" : "CREATE TABLE t(k TEXT PRIMARY KEY); INSERT INTO t VALUES('x')");
        peer_open(&r.peers[i]);
    }
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT k FROM t", "tx|;");
    assert_int_equal(app_int(rig_app(&r, 2), "SELECT count(*) FROM sqlite_schema WHERE name = 't'"), 0);
    assert_problem(&r.peers[2], "t", "no such table here");
    rig_close(&r);
}

/* ---- the application in between */

/* Whatever the application commits while its database is being made arrives at server 0. False: the store ran fewer statements. */
static bool intrude_once(const char *sql, uint32_t at, const char *table, const char *want) {
    struct rig r;
    open_missing(&r, "CREATE TABLE t(k TEXT PRIMARY KEY); INSERT INTO t VALUES('theirs')");
    intruder_begin(r.peers[1].s.app_path, sql, at);
    rig_share(&r);
    bool reached = intruder_end();
    if (intruder.done) {
        assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
        for (uint32_t i = 0; i < 2; i++)
            rig_act(&r, i, "CREATE TABLE IF NOT EXISTS own(k TEXT PRIMARY KEY); CREATE TABLE IF NOT EXISTS t(k TEXT PRIMARY KEY)");
        rig_share(&r);
        char *rows = sqlite3_mprintf("SELECT k FROM %s ORDER BY k", table);
        assert_same(&r, rows);
        assert_rows(rig_app(&r, 0), rows, want);
        sqlite3_free(rows);
        rig_assert_settled(&r);
    }
    assert_int_equal(r.peers[0].errors + r.peers[1].errors, 0);
    rig_close(&r);
    return reached;
}

static void test_the_application_writes_while_its_database_is_made(void **state) {
    (void)state;
    for (uint32_t at = 1; intrude_once("INSERT INTO t VALUES('ours')", at, "t", "tours|;ttheirs|;"); at++) {
    }
}

static void test_the_application_makes_tables_meanwhile(void **state) {
    (void)state;
    for (uint32_t at = 1; intrude_once("BEGIN IMMEDIATE; CREATE TABLE own(k TEXT PRIMARY KEY); INSERT INTO own VALUES('ours'); COMMIT", at,
                                       "own", "tours|;");
         at++) {
    }
}

/* It makes the file itself, and nothing came from others yet. */
static void test_the_application_makes_the_file_first(void **state) {
    (void)state;
    struct rig r;
    open_missing(&r, "CREATE TABLE t(k TEXT PRIMARY KEY)");
    assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
    app_exec(rig_app(&r, 1), "CREATE TABLE t(k TEXT PRIMARY KEY); INSERT INTO t VALUES('ours')");
    peer_rest(&r.peers[1]);
    assert_int_equal(rig_made_rows(&r, 1, 0), 1);
    rig_share(&r);
    assert_everywhere(&r, "SELECT k FROM t", "tours|;");
    assert_int_equal(r.peers[1].errors, 0);
    rig_close(&r);
}

/* ---- hostile text */

static const char *const HOSTILE[][3] = {
    {"table", "good", "CREATE TABLE good(id INTEGER PRIMARY KEY, a)"},
    {"table", "a1", "ATTACH '/tmp/starling-attached.db' AS x"},
    {"table", "a2", "PRAGMA writable_schema=ON"},
    {"table", "a3", "CREATE TABLE a3(k TEXT PRIMARY KEY); DROP TABLE good"},
    {"table", "a4", "CREATE TABLE _starling_evil(a)"},
    {"table", "_starling_mark", "CREATE TABLE _starling_mark(a)"},
    {"table", "a5", "DROP TABLE good"},
    {"table", "a6", "create table sqlite_evil(a)"},
    {"table", "a7", "CREATE TEMP TABLE a7(a)"},
    {"table", "a8", "CREATE TABLE a8 AS SELECT load_extension('/tmp/x')"},
    {"table", "a9", "CREATE TABLE other.a9(a)"},
    {"table", "b1", "CREATE TABLE b1(a DEFAULT (readfile('/etc/passwd')), broken syntax"},
    {"table", "b2", "SELECT 1"},
    {"table", "b3", "CREATE "},
    {"table", "b4", ""},
    {"index", "b5", "CREATE INDEX b5 ON _starling_dirty(tbl)"},
    {"index", "_starling_i", "CREATE INDEX _starling_i ON good(a)"},
    {"view", "_starling_v", "CREATE VIEW _starling_v AS SELECT 1"},
    {"trigger", "b6", "CREATE TRIGGER b6 AFTER INSERT ON _starling_dirty BEGIN SELECT 1; END"},
    {"trigger", "_starling_9_i", "CREATE TRIGGER _starling_9_i AFTER INSERT ON good BEGIN SELECT 1; END"},
    {"pragma", "b7", "PRAGMA journal_mode=DELETE"},
    {"table", "also_good", "CREATE TABLE also_good(k TEXT PRIMARY KEY, v)"},
    {"table", "c1", "CREATE TABLE c1 AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"},
    {"table", "c2", "CREATE TABLE another_name(a)"},
    {"table", "c3", "CREATE VIRTUAL TABLE c3 USING dbstat"},
    {"table", "c4", "CREATE VIRTUAL TABLE c4 USING csv(filename='/etc/passwd')"},
    {"view", "c5", "CREATE VIEW c5 AS SELECT * FROM _starling_mark"},
    {"view", "c6", "CREATE VIEW c6 AS SELECT load_extension('/tmp/x')"},
    {"view", "c7", "CREATE VIEW c7 AS SELECT 1; DROP TABLE good"},
    {"trigger", "c8", "CREATE TRIGGER c8 AFTER INSERT ON good BEGIN DELETE FROM _starling_dirty; END"},
    {"trigger", "c9", "CREATE TRIGGER c9 AFTER DELETE ON good BEGIN INSERT INTO _starling_dirty(tbl) VALUES(1); END"},
    {"trigger", "d1", "CREATE TRIGGER d1 AFTER UPDATE ON good BEGIN SELECT load_extension('/tmp/x'); END"},
    {"trigger", "d2", "CREATE TRIGGER d2 AFTER UPDATE ON good WHEN fts3_tokenizer('x') BEGIN SELECT 1; END"},
    {"trigger", "d3", "CREATE TRIGGER d3 AFTER UPDATE OF a ON good BEGIN UPDATE sqlite_schema SET sql = ''; END"},
    {"trigger", "d4", "CREATE TRIGGER d4 AFTER INSERT ON good BEGIN UPDATE good SET a = (SELECT max(note) FROM _starling_mark); END"},
    {"trigger", "d5", "CREATE TRIGGER d5 AFTER INSERT ON good BEGIN INSERT INTO missing VALUES(1); END"},
    {"view", "good_view", "CREATE VIEW good_view AS SELECT shout(a) AS a FROM good_view_of"},
    {"view", "good_view_of", "CREATE VIEW good_view_of AS SELECT a FROM good"},
    {"trigger", "good_trigger",
     "CREATE TRIGGER good_trigger AFTER UPDATE ON also_good BEGIN UPDATE good SET a = shout(NEW.v) COLLATE loud; END"},
    {"trigger", "good_view_trigger",
     "CREATE TRIGGER good_view_trigger INSTEAD OF DELETE ON good_view_of BEGIN DELETE FROM good WHERE a = OLD.a; END"},
};

static void test_hostile_text_creates_nothing_else(void **state) {
    (void)state;
    for (int there = 0; there < 2; there++) { /* a file without a table, or none */
        struct rig r;
        struct forge f;
        rig_start(&r, 1);
        r.peers[0].create = true;
        if (there)
            assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
        peer_open(&r.peers[0]);
        peer_rest(&r.peers[0]);
        forge_init(&f, 1);
        forge_schema(&f, HOSTILE, sizeof HOSTILE / sizeof *HOSTILE);
        forge_change(&f, CHANGE_INSERT, "good", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_text("row")});
        forge_give(&f, &r.peers[0]);
        if (!there)
            assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
        assert_rows(rig_app(&r, 0),
                    "SELECT name FROM sqlite_schema WHERE name NOT GLOB '_starling_*' AND name NOT GLOB 'sqlite_*' ORDER BY 1",
                    "talso_good|;tgood|;tgood_trigger|;tgood_view|;tgood_view_of|;tgood_view_trigger|;");
        assert_int_equal(
            app_int(rig_app(&r, 0),
                    "SELECT count(*) FROM sqlite_schema WHERE name IN ('_starling_evil', '_starling_i', '_starling_v', '_starling_9_i')"),
            0);
        assert_int_equal(access("/tmp/starling-attached.db", F_OK), -1);
        assert_rows(rig_app(&r, 0), "SELECT * FROM good", "i1|trow|;");
        assert_int_equal(r.peers[0].bads, 0);
        rig_act(&r, 0, "INSERT INTO good(a) VALUES('goes on')"); /* the application works, and is captured */
        assert_int_equal(rig_made_rows(&r, 0, 0), 1);
        forge_release(&f);
        rig_close(&r);
    }
}

/* The type of a column that is added later is text of another server. */
static void test_hostile_types_of_columns(void **state) {
    (void)state;
    static const char *const FIRST[][3] = {{"table", "good", "CREATE TABLE good(id INTEGER PRIMARY KEY, a)"}},
                             *const LATER[][3] = {
                                 {"table", "good",
                                  "CREATE TABLE good(id INTEGER PRIMARY KEY, a, b TEXT DEFAULT 'x', c \"INT; DROP TABLE good; --\")"}};
    struct rig r;
    struct forge f;
    rig_start(&r, 1);
    r.peers[0].create = true;
    peer_open(&r.peers[0]);
    forge_init(&f, 1);
    forge_schema(&f, FIRST, 1);
    forge_change(&f, CHANGE_INSERT, "good", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_text("row")});
    forge_give(&f, &r.peers[0]);
    forge_schema(&f, LATER, 1);
    forge_give(&f, &r.peers[0]);
    assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
    assert_rows(rig_app(&r, 0), "SELECT id, a, b FROM good", "i1|trow|tx|;");
    forge_release(&f);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_missing_database_is_made_whole),
        cmocka_unit_test(test_a_file_is_told_before_it_is_opened),
        cmocka_unit_test(test_later_tables_follow),
        cmocka_unit_test(test_files_that_exist),
        cmocka_unit_test(test_the_application_writes_while_its_database_is_made),
        cmocka_unit_test(test_the_application_makes_tables_meanwhile),
        cmocka_unit_test(test_the_application_makes_the_file_first),
        cmocka_unit_test(test_hostile_text_creates_nothing_else),
        cmocka_unit_test(test_hostile_types_of_columns),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
