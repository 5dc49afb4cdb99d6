/* The engine: REPLACE beside other servers, beside scans and restarts, and in tables of every size. test_store_engine_writers.c has the statements
 * themselves. */
#include "store_rig.h"

#include "node/store/engine.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, u UNIQUE); CREATE TABLE k(x TEXT, y INTEGER, a, b, PRIMARY KEY(x, y));"                  \
    "CREATE TABLE w(k TEXT PRIMARY KEY COLLATE NOCASE, a, b) WITHOUT ROWID"
#define ROWS                                                                                                                               \
    "INSERT INTO t VALUES(5, 1, 1, 'U'); INSERT INTO t(a, b, u) VALUES(1, 1, 'V'); INSERT INTO k VALUES('x', 1, 1, 1); INSERT INTO w "     \
    "VALUES('p', 1, 1)"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* ---- one server replaces a row, another changes or deletes it */

static const char *const REPLACE[] = {
    "REPLACE INTO t VALUES(5, 1, 1, 'U'), (6, 1, 1, 'V'); REPLACE INTO k VALUES('x', 1, 1, 1); REPLACE INTO w VALUES('p', 1, 1)",
    "REPLACE INTO t VALUES(5, 2, 1, 'U'), (6, 2, 1, 'V'); REPLACE INTO k VALUES('x', 1, 2, 1); REPLACE INTO w VALUES('p', 2, 1)"};

static void start(struct rig *r, int recursive) {
    rig_open(r, 2, TABLES);
    app_exec(rig_app(r, 0), recursive ? "PRAGMA recursive_triggers=ON" : "PRAGMA recursive_triggers=OFF");
    rig_act(r, 0, ROWS);
    share_same(r);
}

static void test_a_row_that_was_replaced_outlives_an_older_deletion(void **state) {
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct rig r;
        start(&r, how & 1);
        rig_act(&r, 1, "DELETE FROM t; DELETE FROM k; DELETE FROM w");
        rig_tick();
        rig_act(&r, 0, REPLACE[how / 2]);
        share_same(&r);
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM k), (SELECT count(*) FROM w)", "i2|i1|i1|;");
        assert_everywhere(&r, "SELECT t.a, t.b, k.a, w.a FROM t, k, w WHERE t.id = 6", how / 2 ? "i2|i1|i2|i2|;" : "i1|i1|i1|i1|;");
        for (uint32_t i = 0; i < 2; i++)
            assert_true(peer_lost(&r.peers[i], "(deleted)", "null"));
        rig_act(&r, 1, "DELETE FROM t; DELETE FROM k; DELETE FROM w"); /* by somebody who knew */
        share_same(&r);
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM k), (SELECT count(*) FROM w)", "i0|i0|i0|;");
        rig_close(&r);
    }
}

static void test_a_later_deletion_beats_a_replaced_row(void **state) {
    (void)state;
    struct rig r;
    start(&r, 0);
    rig_act(&r, 0, REPLACE[1]);
    rig_tick();
    rig_act(&r, 1, "DELETE FROM t; DELETE FROM k; DELETE FROM w");
    share_same(&r);
    assert_everywhere(&r, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM k), (SELECT count(*) FROM w)", "i0|i0|i0|;");
    assert_true(peer_lost(&r.peers[0], "a", "2"));
    rig_close(&r);
}

/* What REPLACE did not change is not written by it: many applications import the same rows again and again. */
static void test_a_replaced_row_keeps_what_others_changed(void **state) {
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct rig r;
        start(&r, how & 1);
        rig_act(&r, 1, "UPDATE t SET b = 'other'; UPDATE k SET b = 'other'; UPDATE w SET b = 'other'");
        rig_tick();
        rig_act(&r, 0, REPLACE[how / 2]);
        share_same(&r);
        assert_everywhere(&r, "SELECT a, b FROM t", how / 2 ? "i2|tother|;i2|tother|;" : "i1|tother|;i1|tother|;");
        if (!(how & 1)) /* with recursive_triggers a deletion and an insertion of such a key look the same */
            assert_everywhere(&r, "SELECT k.b, w.b FROM k, w", "tother|tother|;");
        rig_act(&r, 1, "UPDATE t SET a = 3; UPDATE k SET a = 3; UPDATE w SET a = 3"); /* still one row for both */
        share_same(&r);
        rig_close(&r);
    }
}

/* What others write to the row that had the number before is not of the new one, neither before nor after. */
static void test_a_number_taken_after_an_eviction_is_another_row(void **state) {
    (void)state;
    for (int later = 0; later < 2; later++) {
        struct rig r;
        start(&r, 0);
        if (!later)
            rig_act(&r, 1, "UPDATE t SET b = 'of the evicted' WHERE id = 6");
        rig_tick();
        app_exec(rig_app(&r, 0), "UPDATE OR REPLACE t SET u = 'V' WHERE id = 5; INSERT INTO t(a) VALUES('another')");
        assert_int_equal(sqlite3_last_insert_rowid(rig_app(&r, 0)), 6);
        peer_rest(&r.peers[0]);
        rig_tick();
        if (later)
            rig_act(&r, 1, "UPDATE t SET b = 'of the evicted' WHERE id = 6");
        share_same(&r);
        assert_everywhere(&r, "SELECT id, a, b, u FROM t ORDER BY id", "i5|i1|i1|tV|;i6|tanother|n|n|;");
        assert_true(peer_lost(&r.peers[0], "b", "\"of the evicted\"") && peer_lost(&r.peers[1], "b", "\"of the evicted\""));
        rig_close(&r);
    }
}

/* A drain never ends between the note of a given key and its INSERT: the row would be taken for one that SQLite numbered. */
static void test_a_drain_that_ends_within_the_notes_of_a_row(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    static const char *const SQL[2] = {
        "INSERT INTO t(v) VALUES('five notes'); UPDATE t SET id = 1000000; UPDATE t SET v = 'given';"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 26000) INSERT INTO t SELECT i, i FROM n",
        "INSERT INTO t VALUES(1000000, 'given');"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 26000) INSERT INTO t SELECT i, i FROM n"};
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, SQL[i]);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT kind FROM _starling_dirty WHERE seq = 50000"), 2);
    share_same(&r);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 26001);
    rig_close(&r);
}

/* ---- while other things go on */

#define UNIQUE_TABLE "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, v); CREATE TABLE k(k TEXT PRIMARY KEY, u UNIQUE, v)"
#define FILL                                                                                                                               \
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t SELECT i, 'u' || i, 'v' FROM n; INSERT "   \
    "INTO k SELECT 'k' || id, u, v FROM t"

static void fill(sqlite3 *db, int rows) {
    char *sql = sqlite3_mprintf(FILL, rows);
    app_exec(db, sql);
    sqlite3_free(sql);
}

static void evict_one(struct rig *r, int id, int other) {
    char *sql = sqlite3_mprintf("UPDATE OR REPLACE t SET u = 'u%d' WHERE id = %d; REPLACE INTO k VALUES('new%d', 'u%d', %d)", id, other, id,
                                other, id);
    app_exec(rig_app(r, 0), sql);
    sqlite3_free(sql);
}

static void test_evictions_while_the_tables_are_read(void **state) {
    (void)state;
    for (int rescan = 0; rescan < 2; rescan++)
        for (int restart = 0; restart < 2; restart++) {
            struct rig r;
            print_message("%s, %s\n", rescan ? "rescan" : "first capture", restart ? "restarts" : "no restart");
            rig_start(&r, 2);
            assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
            app_exec(rig_app(&r, 0), UNIQUE_TABLE);
            fill(rig_app(&r, 0), 12000);
            peer_open(&r.peers[0]);
            if (rescan) {
                peer_rest(&r.peers[0]);
                app_exec(rig_app(&r, 0), "DROP TABLE _starling_dirty");
                do
                    peer_turn(&r.peers[0]); /* puts it back */
                while (store_ready(r.peers[0].s.store) ||
                       !app_int(rig_app(&r, 0), "SELECT count(*) FROM sqlite_schema WHERE name = '_starling_dirty'"));
            }
            int slices = 0;
            while (!store_ready(r.peers[0].s.store)) {
                evict_one(&r, 1 + (slices * 997) % 6000, 6001 + (slices * 997) % 6000);
                if (restart && slices % 8 == 7) /* a table that was not read to its end is read again */
                    peer_reopen(&r.peers[0]);
                peer_turn(&r.peers[0]);
                assert_true(slices++ < 1000);
            }
            assert_true(slices > 3);
            peer_rest(&r.peers[0]);
            r.peers[1].create = true;
            peer_open(&r.peers[1]);
            rig_share(&r);
            assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
            peer_retry(&r.peers[1]); /* slices are of different moments: a value may have been in two rows until all were shown */
            share_same(&r);
            assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t"), 12000 - slices);
            rig_close(&r);
        }
}

static void evict_in_between(struct peer *p) {
    char *sql = sqlite3_mprintf("UPDATE OR REPLACE t SET u = 'u%u' WHERE id = 1; REPLACE INTO k VALUES('k', 'u%u', 0)", p->s.made.count,
                                p->s.made.count);
    app_exec(p->s.app, sql);
    sqlite3_free(sql);
}

/* An application that never rests is drained under its own lock in the end: what was thrown out leaves in the same batch, there too. */
static void test_evictions_in_a_drain_under_the_lock(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUE_TABLE);
    fill(rig_app(&r, 0), 100);
    share_same(&r);
    rig_act(&r, 1, "UPDATE t SET v = 'remote' WHERE id > 50");
    app_exec(rig_app(&r, 0), "UPDATE k SET v = 0");
    uint32_t before = r.peers[0].s.made.count;
    r.peers[0].in_between = evict_in_between;
    peer_queue(&r.peers[0], &r.peers[1]);
    int turns = 0;
    while (!app_int(rig_app(&r, 0), "SELECT count(*) FROM t WHERE v = 'remote'")) {
        peer_turn(&r.peers[0]);
        assert_true(turns++ < 20);
    }
    r.peers[0].in_between = NULL;
    assert_true(r.peers[0].s.made.count >= before + 4);
    for (uint32_t k = before; k < r.peers[0].s.made.count; k++) { /* each is shown by itself */
        side_queue(&r.peers[1].s, r.peers[0].s.made.items[k]);
        peer_rest(&r.peers[1]);
    }
    share_same(&r);
    assert_null(strstr(r.peers[1].log, "cannot be shown"));
    rig_close(&r);
}

/* Large tables are not counted after every commit. But nobody is told that all is in sync before they are. */
static void test_evictions_in_a_large_table(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) { /* one eviction after a rest; many; and an end of the node in between */
        struct rig r;
        int due = 0;
        rig_open(&r, 2, UNIQUE_TABLE);
        fill(rig_app(&r, 0), 60000);
        share_same(&r);
        side_skip(60000);
        if (mode == 0) {
            uint32_t before = r.peers[0].s.made.count;
            evict_one(&r, 7, 8);
            peer_rest(&r.peers[0]);
            assert_int_equal(r.peers[0].s.made.count, before + 1); /* at once: an atomic batch */
        }
        for (int i = 0; i < 20 * mode; i++) {
            evict_one(&r, 1 + i, 1000 + i);
            while (peer_turn(&r.peers[0]) == 0)
                ;
            if (replaced_due(r.peers[0].s.store)) {
                due++;
                assert_false(peer_settled(&r.peers[0]));
                assert_int_equal(store_barrier(r.peers[0].s.store), 0);
            }
            if (mode == 2 && i % 7 == 4)
                peer_reopen(&r.peers[0]);
        }
        assert_true(due > 0 || mode == 0);
        share_same(&r);
        assert_everywhere(&r, "SELECT 60000 - count(*) FROM t", mode == 0 ? "i1|;" : mode == 1 ? "i20|;" : "i40|;");
        rig_close(&r);
    }
}

/* Whoever held a value is known, so that one eviction after the other is found with the write itself. */
static void test_evictions_in_a_large_table_are_found_at_once(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUE_TABLE "; CREATE UNIQUE INDEX t_v ON t(v, u)");
    fill(rig_app(&r, 0), 60000);
    share_same(&r);
    peer_retry(&r.peers[0]);
    assert_false(holders_due(r.peers[0].s.store));
    for (int i = 0; i < 60; i++) {
        if (i == 20)
            peer_reopen(&r.peers[0]);
        if (i == 40) { /* another index: it is built again */
            app_exec(rig_app(&r, 0), "CREATE UNIQUE INDEX k_v ON k(v, u)");
            app_exec(rig_app(&r, 1), "CREATE UNIQUE INDEX k_v ON k(v, u)");
            peer_turn(&r.peers[0]);
            peer_turn(&r.peers[0]);
            assert_true(holders_due(r.peers[0].s.store));
            peer_retry(&r.peers[0]);
            assert_false(holders_due(r.peers[0].s.store));
        }
        uint32_t made = r.peers[0].s.made.count;
        evict_one(&r, 1 + i, 1000 + i);
        while (peer_turn(&r.peers[0]) == 0)
            ;
        assert_int_equal(rig_made_rows(&r, 0, made), 4); /* two writes, two evictions */
    }
    rig_act(&r, 1, "UPDATE t SET u = 'z' || id WHERE id BETWEEN 3000 AND 3010"); /* what others wrote is known as well */
    share_same(&r);
    uint32_t made = r.peers[0].s.made.count;
    app_exec(rig_app(&r, 0), "REPLACE INTO t(u) VALUES('z3005'), ('nobody')");
    while (peer_turn(&r.peers[0]) == 0)
        ;
    assert_int_equal(rig_made_rows(&r, 0, made), 3);
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), (SELECT count(*) FROM k) FROM t", "i59941|i60000|;");
    rig_close(&r);
}

/* A row that came without a note makes up for the one that went, where rows are counted. */
static void test_an_eviction_that_the_count_does_not_show(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUE_TABLE);
    fill(rig_app(&r, 0), 9);
    share_same(&r);
    peer_retry(&r.peers[0]);
    app_exec(rig_app(&r, 0), "BEGIN; UPDATE OR REPLACE t SET u = 'u3' WHERE id = 5");
    sqlite3_db_config(rig_app(&r, 0), SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    app_exec(rig_app(&r, 0), "INSERT INTO t(id) VALUES(100); COMMIT");
    sqlite3_db_config(rig_app(&r, 0), SQLITE_DBCONFIG_ENABLE_TRIGGER, 1, NULL);
    peer_rest(&r.peers[0]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT count(*) FROM t WHERE id = 3", "i0|;");
    rig_close(&r);
}

/* A row that fits in no batch is in the file and in no register: it must not hide that another one is gone. */
static void test_evictions_beside_rows_that_are_too_large(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUE_TABLE);
    fill(rig_app(&r, 0), 9);
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO t VALUES(100, 'large', zeroblob(70 << 20))");
    assert_problem(&r.peers[0], "t", "64 MiB");
    rig_share(&r);
    rig_act(&r, 0, "UPDATE OR REPLACE t SET u = 'u1' WHERE id = 2");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT count(*) FROM t", "i8|;");
    rig_act(&r, 0, "UPDATE OR REPLACE t SET u = 'large' WHERE id = 3"); /* itself */
    share_same(&r);
    char *problems = peer_problems(&r.peers[0], "t");
    assert_string_equal(problems, "");
    free(problems);
    rig_close(&r);
}

/* Rows that wait to be shown are counted as the file holds them. */
static void test_evictions_beside_rows_that_wait(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUE_TABLE);
    rig_act(&r, 0, "CREATE UNIQUE INDEX here ON k(v) WHERE v = 101"); /* neither server has what the other one wrote against */
    rig_act(&r, 1, "CREATE UNIQUE INDEX there ON k(v) WHERE v BETWEEN 101 AND 200");
    fill(rig_app(&r, 0), 9);
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO k VALUES('a', 'taken', 101)");
    rig_act(&r, 1, "INSERT INTO k VALUES('b', 'free', 101); DELETE FROM k WHERE k = 'k9'; UPDATE k SET u = 'mine' WHERE k = 'k8'");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(peer_status(&r.peers[i], "parked"), 1);
    rig_time_passes(&r);
    rig_act(&r, 0, "UPDATE OR REPLACE k SET u = 'u1' WHERE k = 'k2'; REPLACE INTO k VALUES('new', 'taken', 2)");
    rig_share(&r);
    peer_retry(&r.peers[1]);
    rig_act(&r, 1, "DELETE FROM k WHERE k = 'b'");
    peer_retry(&r.peers[1]);
    rig_share(&r);
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT group_concat(k, ' ') FROM (SELECT k FROM k ORDER BY k)", "tk2 k3 k4 k5 k6 k7 k8 new|;");
    rig_close(&r);
}

/* A column is renamed, and the table is to be read again: who is thrown out meanwhile goes with the row that threw it out, and nobody mends the two. */
static void test_evictions_after_a_column_was_renamed(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, ROWS);
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++)
        app_exec(rig_app(&r, i), "ALTER TABLE t RENAME COLUMN b TO c");
    for (int i = 0; i < 3; i++)
        peer_turn(&r.peers[0]);
    app_exec(rig_app(&r, 0), "REPLACE INTO t VALUES(8, 2, 2, 'U')");
    peer_turn(&r.peers[0]);
    peer_pull(&r.peers[1], &r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "i6|i1|i1|tV|;i8|i2|i2|tU|;");
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(peer_conflicts(&r.peers[i]), 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_row_that_was_replaced_outlives_an_older_deletion),
        cmocka_unit_test(test_a_later_deletion_beats_a_replaced_row),
        cmocka_unit_test(test_a_replaced_row_keeps_what_others_changed),
        cmocka_unit_test(test_a_number_taken_after_an_eviction_is_another_row),
        cmocka_unit_test(test_a_drain_that_ends_within_the_notes_of_a_row),
        cmocka_unit_test(test_evictions_while_the_tables_are_read),
        cmocka_unit_test(test_evictions_in_a_drain_under_the_lock),
        cmocka_unit_test(test_evictions_in_a_large_table),
        cmocka_unit_test(test_evictions_in_a_large_table_are_found_at_once),
        cmocka_unit_test(test_an_eviction_that_the_count_does_not_show),
        cmocka_unit_test(test_evictions_beside_rows_that_are_too_large),
        cmocka_unit_test(test_evictions_beside_rows_that_wait),
        cmocka_unit_test(test_evictions_after_a_column_was_renamed),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
