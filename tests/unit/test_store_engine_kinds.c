/* The engine: every kind of statement arrives as what it means, and nothing more is sent than it takes. */
#include "store_rig.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, u UNIQUE);"                                                                              \
    "CREATE TABLE k(x TEXT, y INTEGER, a, b, PRIMARY KEY(x, y));"                                                                          \
    "CREATE TABLE w(k TEXT PRIMARY KEY, a) WITHOUT ROWID;"

static uint32_t made(const struct rig *r, uint32_t i) { return r->peers[i].s.made.count; }

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void test_inserts_updates_deletes(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0,
            "INSERT INTO t(a) VALUES(1), (2), (3); INSERT INTO k VALUES('x', 1, 1, 1), ('x', 2, 2, 2); INSERT INTO w VALUES('k', 1)");
    share_same(&r);
    rig_act(&r, 1, "UPDATE t SET a = a + 10; UPDATE k SET b = NULL WHERE y = 1; DELETE FROM w");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM t WHERE a = 12; DELETE FROM k; INSERT INTO w VALUES('k', 2), ('l', 3)");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a FROM t ORDER BY id", "i1|i11|;i3|i13|;");
    assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
    rig_close(&r);
}

static void test_what_changes_nothing_sends_nothing(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t(a, b) VALUES(1, 'x'), (2, 'y'); INSERT INTO k VALUES('x', 1, 1, 1)");
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t before = made(&r, i);
        rig_act(&r, i, "UPDATE t SET a = a, b = b; UPDATE k SET x = x, y = y, a = a; UPDATE t SET id = id");
        rig_act(&r, i, "BEGIN; UPDATE t SET a = 99; UPDATE t SET a = id; COMMIT");
        rig_act(&r, i, "BEGIN; INSERT INTO t(a) VALUES(5); ROLLBACK");
        rig_act(&r, i, "BEGIN; INSERT INTO t(id, a) VALUES(50, 5); DELETE FROM t WHERE id = 50; COMMIT");
        rig_act(&r, i, "INSERT OR IGNORE INTO t(id, a) VALUES(1, 7); INSERT INTO k VALUES('x', 1, 5, 5) ON CONFLICT DO NOTHING");
        rig_act(&r, i,
                "BEGIN; INSERT INTO k VALUES('y', 1, 1, 1); UPDATE k SET x = 'z' WHERE x = 'y'; DELETE FROM k WHERE x = 'z'; COMMIT");
        assert_int_equal(made(&r, i), before);
    }
    rig_close(&r);
}

static void test_many_updates_become_one_change(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t(id, a) VALUES(1, 0), (2, 0)");
    uint32_t before = made(&r, 0);
    for (int i = 0; i < 1000; i++) /* each its own transaction, as applications in autocommit do */
        app_exec(rig_app(&r, 0), "UPDATE t SET a = a + 1 WHERE id = 1");
    app_exec(rig_app(&r, 0), "INSERT INTO t(id, a) VALUES(3, 1); UPDATE t SET a = 2 WHERE id = 3; UPDATE t SET b = 'b' WHERE id = 3");
    peer_rest(&r.peers[0]);
    assert_int_equal(made(&r, 0), before + 1);
    assert_int_equal(rig_made_rows(&r, 0, before), 2);
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a, b FROM t ORDER BY id", "i1|i1000|n|;i2|i0|n|;i3|i2|tb|;");
    rig_close(&r);
}

static void test_changed_keys(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0,
            "INSERT INTO t(id, a) VALUES(1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO k VALUES('x', 1, 'k1', 0), ('x', 2, 'k2', 0); "
            "INSERT INTO w VALUES('k', 'w')");
    share_same(&r);
    rig_act(&r, 1, "UPDATE t SET id = 100 WHERE id = 2; UPDATE k SET x = 'moved' WHERE y = 1; UPDATE w SET k = 'other'");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a FROM t ORDER BY id", "i1|tone|;i3|tthree|;i100|ttwo|;");
    assert_everywhere(&r, "SELECT x, y, a FROM k ORDER BY 1", "tmoved|i1|tk1|;tx|i2|tk2|;");
    rig_act(&r, 0, "UPDATE t SET id = id + 1000; UPDATE k SET y = y + 1; UPDATE k SET x = 'MOVED' WHERE x = 'moved'");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a FROM t ORDER BY id", "i1001|tone|;i1003|tthree|;i1100|ttwo|;");
    rig_close(&r);
}

static void test_swapped_keys(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0,
            "INSERT INTO t(a, u) VALUES('one', 'U1'), ('two', 'U2'); INSERT INTO k VALUES('x', 1, 'k1', 0), ('x', 2, 'k2', 0); INSERT INTO "
            "w VALUES('p', 'wp'), ('q', 'wq')");
    share_same(&r);
    rig_act(&r, 1,
            "BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1;"
            "UPDATE k SET y = 99 WHERE y = 1; UPDATE k SET y = 1 WHERE y = 2; UPDATE k SET y = 2 WHERE y = 99;"
            "UPDATE w SET k = 'z' WHERE k = 'p'; UPDATE w SET k = 'p' WHERE k = 'q'; UPDATE w SET k = 'q' WHERE k = 'z'; COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a, u FROM t ORDER BY id", "i1|ttwo|tU2|;i2|tone|tU1|;");
    assert_everywhere(&r, "SELECT y, a FROM k ORDER BY y", "i1|tk2|;i2|tk1|;");
    assert_everywhere(&r, "SELECT k, a FROM w ORDER BY k", "tp|twq|;tq|twp|;");
    rig_close(&r);
}

/* The number of a deleted row is used again: another row, in one drain and across drains. */
static void test_a_number_used_again_is_another_row(void **state) {
    (void)state;
    for (int together = 0; together < 2; together++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        rig_act(&r, 0, "INSERT INTO t(a, b) VALUES('first', 'first')");
        share_same(&r);
        store_time_passes(r.peers[1].s.store);
        app_exec(rig_app(&r, 1), "UPDATE t SET b = 'of the first' WHERE id = 1"); /* server 1 writes to the row that dies meanwhile */
        peer_rest(&r.peers[1]);
        rig_tick();
        app_exec(rig_app(&r, 0), "DELETE FROM t WHERE id = 1");
        if (!together)
            peer_rest(&r.peers[0]);
        app_exec(rig_app(&r, 0), "INSERT INTO t(a) VALUES('second')");
        assert_int_equal(sqlite3_last_insert_rowid(rig_app(&r, 0)), 1);
        peer_rest(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT id, a, b FROM t", "i1|tsecond|n|;"); /* nothing of the first is in it */
        for (uint32_t i = 0; i < 2; i++)
            assert_true(peer_lost(&r.peers[i], "b", "\"of the first\"") || peer_lost(&r.peers[i], "(deleted)", "null"));
        rig_close(&r);
    }
}

/* The same, when both lives arrive together; also with so much between them that they are not shown at once. */
static void test_both_lives_of_a_number_arrive_together(void **state) {
    (void)state;
    for (int batches = 1; batches < 4; batches++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        app_exec(rig_app(&r, 0), "INSERT INTO t(a) VALUES('first'), ('second')");
        if (batches > 1)
            peer_rest(&r.peers[0]);
        if (batches > 2)
            rig_act(&r, 0,
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO w SELECT i, i FROM n");
        app_exec(rig_app(&r, 0), "DELETE FROM t WHERE id = 2");
        app_exec(rig_app(&r, 0), "INSERT INTO t(a) VALUES('another')");
        share_same(&r);
        assert_everywhere(&r, "SELECT id, a FROM t ORDER BY id", "i1|tfirst|;i2|tanother|;");
        rig_close(&r);
    }
}

/* A given key that is deleted and inserted again is the same row. */
static void test_a_given_key_used_again_is_the_same_row(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    for (int together = 0; together < 2; together++) {
        app_exec(rig_app(&r, 0), "INSERT INTO w VALUES('k', 1); INSERT INTO k VALUES('x', 1, 1, 1)");
        if (!together)
            peer_rest(&r.peers[0]);
        app_exec(rig_app(&r, 0), "DELETE FROM w; DELETE FROM k");
        if (!together)
            peer_rest(&r.peers[0]);
        app_exec(rig_app(&r, 0), "INSERT INTO w VALUES('k', 2); INSERT INTO k(x, y, a) VALUES('x', 1, 2)");
        share_same(&r);
        assert_everywhere(&r, "SELECT k, w.a, k.a, b FROM w, k", "tk|i2|i2|n|;");
        rig_act(&r, 1, "DELETE FROM w; DELETE FROM k");
        share_same(&r);
    }
    rig_close(&r);
}

static void test_replace_and_upsert(void **state) {
    (void)state;
    for (int recursive = 0; recursive < 2; recursive++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        app_exec(rig_app(&r, 0), recursive ? "PRAGMA recursive_triggers=ON" : "PRAGMA recursive_triggers=OFF");
        rig_act(
            &r, 0,
            "INSERT INTO t VALUES(1, 'a', 'b', 'U'), (2, 'c', 'd', 'V'); INSERT INTO w VALUES('k', 1); INSERT INTO k VALUES('x', 1, 1, 1)");
        share_same(&r);
        rig_act(&r, 0,
                "REPLACE INTO t VALUES(1, 'a2', 'b2', 'U'); REPLACE INTO w VALUES('k', 2); REPLACE INTO k(x, y, b) VALUES('x', 1, 9)");
        share_same(&r);
        assert_everywhere(&r, "SELECT t.a, t.b, w.a, k.a, k.b FROM t, w, k WHERE id = 1", "ta2|tb2|i2|n|i9|;");
        rig_act(&r, 0,
                "INSERT INTO w VALUES('k', 5), ('l', 6) ON CONFLICT(k) DO UPDATE SET a = excluded.a + 100;"
                "INSERT INTO t(id, a) VALUES(1, 'up') ON CONFLICT(id) DO UPDATE SET a = excluded.a; INSERT INTO t(a, u) VALUES('x', 'V') "
                "ON CONFLICT(u) DO UPDATE SET b = 'met'");
        share_same(&r);
        assert_everywhere(&r, "SELECT k, a FROM w ORDER BY k", "tk|i105|;tl|i6|;");
        assert_everywhere(&r, "SELECT id, a, b, u FROM t ORDER BY id", "i1|tup|tb2|tU|;i2|tc|tmet|tV|;");
        uint32_t before = made(&r, 0);
        rig_act(&r, 0, "REPLACE INTO w VALUES('k', 105)"); /* an identical row */
        share_same(&r);
        assert_true(made(&r, 0) <= before + 1);
        rig_close(&r);
    }
}

static void evict(bool recursive) {
    struct rig r;
    rig_open(&r, 2, TABLES);
    app_exec(rig_app(&r, 0), recursive ? "PRAGMA recursive_triggers=ON" : "PRAGMA recursive_triggers=OFF");
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 'a', 'b', 'U'), (2, 'c', 'd', 'V')");
    share_same(&r);
    rig_act(&r, 0, "REPLACE INTO t VALUES(3, 'new', NULL, 'U')");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, u FROM t ORDER BY id", "i2|tV|;i3|tU|;");
    rig_act(&r, 0, "UPDATE OR REPLACE t SET u = 'V' WHERE id = 3");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, u FROM t ORDER BY id", "i3|tV|;");
    rig_close(&r);
}

static void test_replace_that_evicts_with_recursive_triggers(void **state) {
    (void)state;
    evict(true);
}

/* Without them, REPLACE fires no DELETE trigger for the row that it evicts through another UNIQUE index. */
static void test_replace_that_evicts(void **state) {
    (void)state;
    evict(false);
}

static void test_bursts_in_autocommit(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    for (int i = 0; i < 300; i++) { /* the store looks in between, anywhere */
        char *sql = sqlite3_mprintf(
            "INSERT INTO t(a) VALUES(%d); UPDATE t SET b = %d WHERE id = (SELECT max(id) FROM t) - %d; DELETE FROM t WHERE a = %d", i, i,
            i % 5, i - 50);
        app_exec(rig_app(&r, (uint32_t)(i / 100) % 2), sql);
        sqlite3_free(sql);
        if (i % 3 == 0)
            peer_turn(&r.peers[(i / 100) % 2]);
        if (i % 100 == 99) /* one server writes at a time: its numbers go on where the other's ended */
            share_same(&r);
    }
    share_same(&r);
    assert_int_equal(peer_conflicts(&r.peers[0]), 0);
    rig_close(&r);
}

/* Cascades and the application's own triggers are captured where they ran. */
static void test_cascades_and_triggers(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE parent(id INTEGER PRIMARY KEY, v); CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent(id) ON DELETE "
             "CASCADE ON UPDATE CASCADE, v);"
             "CREATE TABLE audit(id INTEGER PRIMARY KEY, what); CREATE TRIGGER audit_child AFTER DELETE ON child BEGIN INSERT INTO "
             "audit(what) VALUES('child ' || old.id); END");
    app_exec(rig_app(&r, 0), "PRAGMA foreign_keys=ON");
    rig_act(&r, 0, "INSERT INTO parent VALUES(1, 'a'), (2, 'b'); INSERT INTO child(p, v) VALUES(1, 'x'), (1, 'y'), (2, 'z')");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM parent WHERE id = 1; UPDATE parent SET id = 20 WHERE id = 2");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, p FROM child", "i3|i20|;");
    assert_everywhere(&r, "SELECT what FROM audit ORDER BY id", "tchild 1|;tchild 2|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inserts_updates_deletes),
        cmocka_unit_test(test_what_changes_nothing_sends_nothing),
        cmocka_unit_test(test_many_updates_become_one_change),
        cmocka_unit_test(test_changed_keys),
        cmocka_unit_test(test_swapped_keys),
        cmocka_unit_test(test_a_number_used_again_is_another_row),
        cmocka_unit_test(test_both_lives_of_a_number_arrive_together),
        cmocka_unit_test(test_a_given_key_used_again_is_the_same_row),
        cmocka_unit_test(test_replace_and_upsert),
        cmocka_unit_test(test_replace_that_evicts_with_recursive_triggers),
        cmocka_unit_test(test_replace_that_evicts),
        cmocka_unit_test(test_bursts_in_autocommit),
        cmocka_unit_test(test_cascades_and_triggers),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
