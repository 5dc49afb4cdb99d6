/* The engine: rows without notes. First captures while the application writes, and rescans after triggers were missing. */
#include "store_rig.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(x TEXT, y INTEGER, v, PRIMARY KEY(x, y)); CREATE TABLE w(k TEXT "        \
    "PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID"

static void fill(sqlite3 *db, int rows) {
    char *sql = sqlite3_mprintf(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t(a, b) SELECT 'a' || i, i FROM n;"
        "INSERT INTO k SELECT 'k' || (id %% 100), id, a FROM t; INSERT INTO w SELECT 'W' || id, id FROM t",
        rows);
    app_exec(db, sql);
    sqlite3_free(sql);
}

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void start_app(struct rig *r, uint32_t i, const char *sql) {
    assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
    app_exec(rig_app(r, i), sql);
}

static void test_a_first_capture_while_the_application_writes(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        struct rig_random rnd = {rig_seed()};
        rig_start(&r, 2);
        start_app(&r, 0, TABLES);
        fill(rig_app(&r, 0), 12000);
        peer_open(&r.peers[0]);
        assert_false(store_ready(r.peers[0].s.store));
        assert_int_equal(store_barrier(r.peers[0].s.store), 0);
        int slices = 0;
        while (!store_ready(r.peers[0].s.store)) {
            assert_int_equal(r.peers[0].s.made.count, 0); /* nothing leaves before it is complete */
            char *sql = sqlite3_mprintf("UPDATE t SET b = 'w%d' WHERE id = %d; DELETE FROM t WHERE id = %d; INSERT INTO t(a) "
                                        "VALUES('new'); DELETE FROM k WHERE y = %d;"
                                        "INSERT OR REPLACE INTO w VALUES('w%d', 'replaced'); UPDATE t SET id = -10 - id WHERE id = %d",
                                        slices, 1 + rig_below(&rnd, 12000), 1 + rig_below(&rnd, 12000), 1 + rig_below(&rnd, 12000),
                                        1 + rig_below(&rnd, 13000), 1 + rig_below(&rnd, 12000));
            app_exec(rig_app(&r, 0), sql);
            sqlite3_free(sql);
            if (restart && slices % 4 == 3)
                peer_reopen(&r.peers[0]);
            peer_turn(&r.peers[0]);
            assert_true(slices++ < 1000);
        }
        assert_true(slices > 6);
        peer_rest(&r.peers[0]);
        r.peers[1].create = true;
        peer_open(&r.peers[1]);
        rig_share(&r);
        assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
        share_same(&r);
        assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
        rig_close(&r);
    }
}

/* Two copies of one database, written to before the node first ran, meet. */
static void test_copies_of_one_database_join(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 3; i++) {
        start_app(&r, i, TABLES);
        fill(rig_app(&r, i), 200);
    }
    app_exec(rig_app(&r, 1), "UPDATE k SET v = 'differs' WHERE y = 7");
    for (uint32_t i = 0; i < 3; i++)
        peer_open(&r.peers[i]);
    share_same(&r);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 200);
    assert_true(peer_lost(&r.peers[0], "v", "\"differs\"") || peer_lost(&r.peers[0], "v", "\"a7\""));
    assert_int_equal(peer_conflicts(&r.peers[0]), peer_conflicts(&r.peers[2]));
    rig_act(&r, 2, "UPDATE t SET b = 'after' WHERE id = 5; DELETE FROM t WHERE id = 6; INSERT INTO t(a) VALUES('new')");
    share_same(&r);
    rig_close(&r);
}

static const char *const UNSEEN = "UPDATE t SET b = 'unseen' WHERE id BETWEEN 10 AND 12; DELETE FROM t WHERE id BETWEEN 20 AND 24; INSERT "
                                  "INTO t(id, a) VALUES(5000, 'unseen');"
                                  "UPDATE k SET v = 'unseen' WHERE y = 3; DELETE FROM k WHERE y = 4; INSERT INTO k VALUES('new', 1, "
                                  "'unseen'); DELETE FROM w WHERE k = 'w9'";

static void drop_triggers(sqlite3 *db) {
    uint32_t count;
    char **names = side_query(db, "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '_starling_*'", &count);
    assert_true(names && count);
    for (uint32_t i = 0; i < count; i++) {
        char *sql = sqlite3_mprintf("DROP TRIGGER \"%w\"", names[i]);
        app_exec(db, sql);
        sqlite3_free(sql);
    }
    side_lines_free(names, count);
}

static void test_writes_without_triggers_are_found(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) { /* while the node runs; while it is down; and the note table is dropped as well */
        struct rig r;
        rig_open(&r, 2, TABLES);
        fill(rig_app(&r, 0), 300);
        share_same(&r);
        if (mode)
            side_close_store(&r.peers[0].s);
        drop_triggers(rig_app(&r, 0));
        if (mode == 2)
            app_exec(rig_app(&r, 0), "DROP TABLE _starling_dirty");
        app_exec(rig_app(&r, 0), UNSEEN);
        if (mode)
            peer_open(&r.peers[0]);
        peer_rest(&r.peers[0]);
        share_same(&r);
        assert_rows(rig_app(&r, 1), "SELECT count(*), sum(b = 'unseen'), max(id) FROM t", "i296|i3|i5000|;");
        assert_null(strstr(r.peers[0].log, "1000000 writes"));
        assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
        rig_act(&r, 0, "UPDATE t SET a = 'noted again' WHERE id = 1"); /* the triggers are back */
        share_same(&r);
        assert_rows(rig_app(&r, 1), "SELECT a FROM t WHERE id = 1", "tnoted again|;");
        rig_close(&r);
    }
}

/* A large table is read in slices, and so are its registers for what the file lacks: each step short, and the application writes in between. */
static void test_what_a_large_table_lacks_is_found_in_slices(void **state) {
    (void)state;
    struct rig r;
    struct rig_random rnd = {rig_seed()};
    rig_open(&r, 2, TABLES);
    fill(rig_app(&r, 0), 12000);
    share_same(&r);
    for (int lacking = 0; lacking < 2; lacking++) {
        side_close_store(&r.peers[0].s);
        drop_triggers(rig_app(&r, 0));
        app_exec(rig_app(&r, 0),
                 lacking ? "DELETE FROM t WHERE id IN (1, 4999, 5000, 5001, 9999, 10001, 12000); DELETE FROM k WHERE y % 20 = 0;"
                           "DELETE FROM w WHERE v % 20 = 7; UPDATE t SET b = 'unseen' WHERE id % 500 = 3"
                         : "UPDATE t SET b = 'first' WHERE id % 500 = 4");
        peer_open(&r.peers[0]);
        int slices = 0;
        for (int turns = 0; slices == 0 || !store_ready(r.peers[0].s.store); turns++) {
            int wait = peer_turn(&r.peers[0]);
            assert_true(turns < 1000);
            if (store_ready(r.peers[0].s.store)) {
                side_skip(wait > 0 ? (uint64_t)wait : 0);
                continue;
            }
            slices++;
            char *sql = sqlite3_mprintf("DELETE FROM t WHERE id = %d; INSERT INTO t(a) VALUES('new'); DELETE FROM k WHERE y = %d; "
                                        "INSERT OR REPLACE INTO w VALUES('w%d', 'replaced'); UPDATE t SET id = %d WHERE id = %d;"
                                        "INSERT OR IGNORE INTO t(id, a) VALUES(4999, 'again'), (12000, 'again')",
                                        1 + rig_below(&rnd, 12000), 1 + rig_below(&rnd, 12000), 1 + rig_below(&rnd, 13000),
                                        -1000 * lacking - slices, 1 + rig_below(&rnd, 12000));
            app_exec(rig_app(&r, 0), sql);
            sqlite3_free(sql);
        }
        assert_true(slices >= (lacking ? 18 : 9)); /* three slices a table, and as many of its registers where rows are missing */
        share_same(&r);
        assert_rows(rig_app(&r, 1), "SELECT count(*) > 0 FROM t WHERE b = 'first'", "i1|;");
        assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
    }
    assert_rows(rig_app(&r, 1),
                "SELECT (SELECT count(*) FROM t WHERE id IN (1, 5000, 5001, 9999, 10001)), (SELECT count(*) FROM k WHERE y % 20 = 0), "
                "(SELECT count(*) FROM w WHERE v % 20 = 7), (SELECT count(*) FROM t WHERE id IN (4999, 12000))",
                "i0|i0|i0|i2|;");
    rig_close(&r);
}

/* Why all rows are read again is said as it was. */
static void test_why_all_rows_are_read_again(void **state) {
    (void)state;
    static const struct {
        const char *sql, *says;
    } LOST[] = {
        {"DROP TABLE _starling_dirty", "somebody dropped or emptied _starling_dirty"},
        {"UPDATE _starling_dirty SET seq = seq + 2000000", "more than 1000000 writes"},
    };
    for (size_t i = 0; i < sizeof LOST / sizeof *LOST; i++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        fill(rig_app(&r, 0), 300);
        share_same(&r);
        app_exec(rig_app(&r, 0), LOST[i].sql);
        peer_rest(&r.peers[0]);
        app_exec(rig_app(&r, 0), "SELECT * FROM t"); /* SQLite does not look at the schema anew to compile a trigger */
        rig_act(&r, 0, "UPDATE t SET a = 'after' WHERE id = 1; DELETE FROM t WHERE id = 2");
        share_same(&r);
        assert_non_null(strstr(r.peers[0].log, LOST[i].says));
        assert_true((i == 1) == (strstr(r.peers[0].log, "1000000 writes") != NULL));
        assert_rows(rig_app(&r, 1), "SELECT count(*), sum(a = 'after') FROM t", "i299|i1|;");
        rig_close(&r);
    }
}

/* What is found without a note loses to whatever is newer elsewhere. */
static void test_what_is_found_is_old(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    fill(rig_app(&r, 0), 50);
    share_same(&r);
    side_close_store(&r.peers[0].s);
    rig_act(&r, 1, "UPDATE t SET b = 'newer' WHERE id = 10");
    drop_triggers(rig_app(&r, 0));
    rig_tick();
    app_exec(rig_app(&r, 0), "UPDATE t SET b = 'unseen' WHERE id IN (10, 11)");
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT b FROM t WHERE id IN (10, 11)", "tnewer|;tunseen|;");
    assert_true(peer_lost(&r.peers[0], "b", "\"unseen\""));
    rig_close(&r);
}

static void test_too_many_missing_rows_are_not_taken_for_deletions(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    fill(rig_app(&r, 0), 300);
    share_same(&r);
    app_exec(rig_app(&r, 0), "CREATE TABLE kept AS SELECT * FROM t");
    drop_triggers(rig_app(&r, 0));
    app_exec(
        rig_app(&r, 0),
        "DELETE FROM t WHERE id <= 40; DELETE FROM k WHERE y <= 30; UPDATE t SET b = 'unseen' WHERE id = 100"); /* 10 % of 300 are 30 */
    peer_rest(&r.peers[0]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM k), (SELECT b FROM t WHERE id = 100)",
                "i300|i270|tunseen|;");
    assert_false(peer_settled(&r.peers[0]));
    assert_problem(&r.peers[0], "t", "40 rows are gone from the file without a note");
    assert_true(r.peers[0].errors > 0);
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_false(peer_settled(&r.peers[0]));
    assert_problem(&r.peers[0], "t", "40 rows are gone");
    assert_problem(&r.peers[0], "t", "`starling tables restore");
    rig_act(&r, 0, "INSERT INTO t SELECT * FROM kept WHERE id <= 40"); /* brought back */
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    rig_share(&r);
    assert_true(peer_settled(&r.peers[0]));
    assert_same_table(&r, "t");
    rig_close(&r);
}

/* Rows that come back by themselves, noted or not, end it; as long as one is missing it is said. */
static void test_missing_rows_that_come_back(void **state) {
    (void)state;
    for (int noted = 0; noted < 2; noted++) {
        struct rig r;
        rig_open(&r, 2, TABLES "; CREATE TABLE kept(id, a, b)");
        fill(rig_app(&r, 0), 300);
        app_exec(rig_app(&r, 0), "INSERT INTO kept SELECT * FROM t");
        share_same(&r);
        drop_triggers(rig_app(&r, 0));
        app_exec(rig_app(&r, 0), "DELETE FROM t WHERE id <= 40");
        rig_share(&r);
        assert_problem(&r.peers[0], "t", "40 rows are gone from the file without a note");
        for (int i = 0; i < 40; i += 13) {
            char *sql = sqlite3_mprintf("INSERT INTO t SELECT * FROM kept WHERE id > %d AND id <= min(40, %d)", i, i + 13);
            assert_false(peer_settled(&r.peers[0]));
            if (!noted)
                sqlite3_db_config(rig_app(&r, 0), SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
            app_exec(rig_app(&r, 0), sql);
            sqlite3_db_config(rig_app(&r, 0), SQLITE_DBCONFIG_ENABLE_TRIGGER, 1, NULL);
            sqlite3_free(sql);
            rig_share(&r);
        }
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM t", "i300|;");
        rig_act(&r, 0, "DELETE FROM t WHERE id = 7");
        share_same(&r);
        rig_close(&r);
    }
}

/* A person says what became of them. */
static void test_missing_rows_are_accepted_or_restored(void **state) {
    (void)state;
    for (int accept = 0; accept < 2; accept++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        fill(rig_app(&r, 0), 300);
        share_same(&r);
        drop_triggers(rig_app(&r, 0));
        app_exec(rig_app(&r, 0), "DELETE FROM t WHERE id <= 40; DELETE FROM k WHERE y <= 200; DELETE FROM w WHERE v <= 31");
        rig_share(&r);
        assert_false(peer_settled(&r.peers[0]));
        rig_act(&r, 1, "UPDATE t SET b = 'meanwhile' WHERE id IN (1, 100)");
        rig_share(&r);
        static const char *const tables[] = {"t", "K", "w"};
        for (int i = 0; i < 3; i++) {
            json_t *answer = store_decide(r.peers[0].s.store, tables[i], accept);
            assert_int_equal(json_integer_value(json_object_get(answer, "rows")), i == 0 ? 40 : i == 1 ? 200 : 31);
            json_decref(answer);
            if (i == 1)
                peer_reopen(&r.peers[0]); /* not heard: it is asked again */
            peer_rest(&r.peers[0]);
        }
        json_t *again = store_decide(r.peers[0].s.store, "K", accept);
        json_decref(again);
        share_same(&r);
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM k), (SELECT count(*) FROM w)",
                          accept ? "i261|i100|i269|;" /* what is written elsewhere comes back by itself */ : "i300|i300|i300|;");
        assert_everywhere(&r, "SELECT count(*) FROM t WHERE b = 'meanwhile'", "i2|;");
        json_t *none = store_decide(r.peers[0].s.store, "t", accept);
        assert_non_null(json_object_get(none, "error"));
        json_decref(none);
        rig_close(&r);
    }
}

/* More notes than the ring holds, or none of ours any more: everything is read again. */
static void test_notes_that_are_gone(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        fill(rig_app(&r, 0), 300);
        share_same(&r);
        side_close_store(&r.peers[0].s);
        app_exec(rig_app(&r, 0), UNSEEN);
        app_exec(rig_app(&r, 0), "DELETE FROM _starling_dirty WHERE seq < (SELECT max(seq) FROM _starling_dirty)");
        peer_open(&r.peers[0]);
        for (int i = 0; i < 3 * restart; i++) {
            peer_turn(&r.peers[0]);
            if (i)
                peer_turn(&r.peers[0]);
            peer_reopen(&r.peers[0]);
        }
        share_same(&r);
        assert_rows(rig_app(&r, 1), "SELECT count(*), sum(b = 'unseen'), max(id) FROM t", "i296|i3|i5000|;");
        rig_close(&r);
    }
}

static void test_vacuum_changes_nothing(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    fill(rig_app(&r, 0), 300);
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM t WHERE id % 3 = 0; DELETE FROM k WHERE y % 3 = 1");
    share_same(&r);
    uint32_t before[2] = {r.peers[0].s.made.count, r.peers[1].s.made.count};
    rig_act(&r, 0, "VACUUM");
    rig_act(&r, 1, "VACUUM");
    share_same(&r);
    assert_int_equal(rig_made_rows(&r, 0, before[0]) + rig_made_rows(&r, 1, before[1]), 0);
    rig_act(&r, 0, "UPDATE k SET v = 'after'");
    share_same(&r);
    rig_close(&r);
}

/* Rows found without notes mean the rows behind them that were found with them, not those that had their numbers before, whatever number these get. */
static void test_references_to_rows_that_are_found_later(void **state) {
    (void)state;
    static const char *const MAKE = "CREATE TABLE %s(id INTEGER PRIMARY KEY, up INTEGER REFERENCES node, v)";
    for (int mode = 0; mode < 6;
         mode++) { /* rebuilt, or written without triggers; a number that a row had, or nobody, or somebody elsewhere */
        struct rig r;
        char sql[600];
        int number = mode >> 1;
        snprintf(sql, sizeof sql, MAKE, "node");
        rig_open(&r, 2, sql);
        rig_act(&r, 1,
                number ? "INSERT INTO node VALUES(1, NULL, 'first')" : "INSERT INTO node VALUES(1, NULL, 'first'), (3, NULL, 'goes')");
        share_same(&r);
        rig_act(&r, 0, "DELETE FROM node WHERE id = 3");
        share_same(&r);
        if (number == 2)
            rig_act(
                &r, 1,
                "INSERT INTO node VALUES(2, NULL, 'x'); DELETE FROM node WHERE id = 2; INSERT INTO node(v) VALUES('other'), ('another')");
        sqlite3 *app = rig_app(&r, 0);
        if (mode & 1) {
            drop_triggers(app);
            app_exec(app, "INSERT INTO node VALUES(2, 3, 'child'), (3, 4, 'parent'), (4, 2, 'circle')");
        } else {
            app_exec(app, "INSERT INTO node VALUES(2, 3, 'child'), (3, 4, 'parent'), (4, 2, 'circle')");
            snprintf(sql, sizeof sql, MAKE, "made");
            app_exec(app, sql);
            app_exec(app, "INSERT INTO made SELECT * FROM node; DROP TABLE node; ALTER TABLE made RENAME TO node");
        }
        peer_rest(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT c.v, p.v FROM node c JOIN node p ON p.id = c.up ORDER BY 1",
                          "tchild|tparent|;tcircle|tchild|;tparent|tcircle|;");
        assert_everywhere(&r, "SELECT count(*) FROM node WHERE v = 'goes'", "i0|;");
        if (number < 2)
            for (uint32_t i = 0; i < r.count; i++)
                assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_first_capture_while_the_application_writes),
        cmocka_unit_test(test_copies_of_one_database_join),
        cmocka_unit_test(test_writes_without_triggers_are_found),
        cmocka_unit_test(test_what_a_large_table_lacks_is_found_in_slices),
        cmocka_unit_test(test_why_all_rows_are_read_again),
        cmocka_unit_test(test_what_is_found_is_old),
        cmocka_unit_test(test_too_many_missing_rows_are_not_taken_for_deletions),
        cmocka_unit_test(test_missing_rows_that_come_back),
        cmocka_unit_test(test_missing_rows_are_accepted_or_restored),
        cmocka_unit_test(test_notes_that_are_gone),
        cmocka_unit_test(test_vacuum_changes_nothing),
        cmocka_unit_test(test_references_to_rows_that_are_found_later),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
