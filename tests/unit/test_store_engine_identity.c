/* The engine: rows of different servers that want one place. Two rows are never blended, both survive, and the one without a place
 * waits for it. */
#include "store_rig.h"

#define NUMBERED "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)"
#define UNIQUE_VALUE "CREATE TABLE k(k TEXT PRIMARY KEY, u UNIQUE, v)"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void assert_parked(struct rig *r, uint32_t i, int64_t count) {
    assert_int_equal(peer_status(&r->peers[i], "parked"), count);
    assert_int_equal(peer_settled(&r->peers[i]), count == 0);
}

/* Server 0 has its row 1 ('zero', NULL), server 1 has its row 1 (NULL, 'one'). */
static void collide(struct rig *r, uint32_t count) {
    static const char *const SQL[] = {"INSERT INTO t(a) VALUES('zero')", "INSERT INTO t(b) VALUES('one')",
                                      "INSERT INTO t(a, b) VALUES('two', 'two')"};
    rig_open(r, count, NUMBERED);
    for (uint32_t i = 0; i < count; i++) {
        app_exec(rig_app(r, i), SQL[i]);
        assert_int_equal(sqlite3_last_insert_rowid(rig_app(r, i)), 1);
        peer_rest(&r->peers[i]);
    }
    rig_share(r);
    rig_time_passes(r);
}

static void assert_each_its_own(struct rig *r) {
    assert_rows(rig_app(r, 0), "SELECT * FROM t", "i1|tzero|n|;");
    assert_rows(rig_app(r, 1), "SELECT * FROM t", "i1|n|tone|;");
    assert_parked(r, 0, 1);
    assert_parked(r, 1, 1);
    for (uint32_t i = 0; i < 2; i++)
        assert_problem(&r->peers[i], "t", "its number belongs to another row");
}

static void test_equal_numbers_are_not_blended(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    assert_each_its_own(&r);
    for (uint32_t i = 0; i < 2; i++) { /* nothing changes that by itself: not time, not a restart */
        peer_retry(&r.peers[i]);
        peer_reopen(&r.peers[i]);
        peer_rest(&r.peers[i]);
        peer_retry(&r.peers[i]);
    }
    assert_each_its_own(&r);
    rig_close(&r);
}

static void test_the_row_without_a_place_gets_it_when_the_holder_is_deleted(void **state) {
    (void)state;
    for (uint32_t who = 0; who < 2; who++) {
        struct rig r;
        collide(&r, 2);
        rig_act(&r, who, "DELETE FROM t WHERE id = 1");
        peer_retry(&r.peers[who]);
        assert_rows(rig_app(&r, who), "SELECT * FROM t", who ? "i1|tzero|n|;" : "i1|n|tone|;");
        assert_parked(&r, who, 0);
        share_same(&r);
        assert_rows(rig_app(&r, 1 - who), "SELECT * FROM t", who ? "i1|tzero|n|;" : "i1|n|tone|;");
        assert_int_equal(peer_conflicts(&r.peers[0]), 0);
        rig_close(&r);
    }
}

static void test_a_row_without_a_place_takes_changes(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    rig_act(&r, 1, "UPDATE t SET b = 'changed', a = 'new'");
    rig_act(&r, 0, "UPDATE t SET a = 'changed here'");
    rig_share(&r);
    assert_rows(rig_app(&r, 0), "SELECT * FROM t", "i1|tchanged here|n|;");
    assert_rows(rig_app(&r, 1), "SELECT * FROM t", "i1|tnew|tchanged|;");
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    rig_act(&r, 0, "DELETE FROM t");
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "i1|tnew|tchanged|;");
    rig_close(&r);
}

/* The holder goes away by getting another number. */
static void test_the_holder_moves(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    rig_act(&r, 0, "UPDATE t SET id = 2 WHERE id = 1");
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "i1|n|tone|;i2|tzero|n|;");
    rig_close(&r);
}

static void test_both_die(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    rig_act(&r, 0, "DELETE FROM t");
    rig_act(&r, 1, "DELETE FROM t");
    share_same(&r); /* each deleted what it saw: its own row, and not the other's, which appeared then */
    rig_act(&r, 0, "DELETE FROM t");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM t", "i0|;");
    rig_act(&r, 1, "INSERT INTO t(a) VALUES('again')");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "i1|tagain|n|;");
    rig_close(&r);
}

static void test_three_rows_with_one_number(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_parked(&r, i, 2);
    assert_rows(rig_app(&r, 2), "SELECT * FROM t", "i1|ttwo|ttwo|;");
    rig_act(&r, 1, "UPDATE t SET a = 'kept' WHERE b = 'one'"); /* shown at 1 alone */
    rig_share(&r);
    rig_act(&r, 0, "DELETE FROM t WHERE a = 'zero'");
    peer_retry(&r.peers[0]);
    rig_share(&r);
    for (uint32_t i = 0; i < 3; i++)
        assert_parked(&r, i, 1);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 1);
    rig_act(&r, 2, "DELETE FROM t WHERE a = 'two'");
    for (int i = 0; i < 3; i++) {
        rig_share(&r);
        peer_retry(&r.peers[i]);
    }
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "i1|tkept|tone|;");
    rig_close(&r);
}

/* A number that the application gave is another row than one that SQLite numbered. */
static void test_given_and_numbered(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, NUMBERED);
    rig_act(&r, 0, "INSERT INTO t(id, a) VALUES(1, 'zero')");
    rig_act(&r, 1, "INSERT INTO t(b) VALUES('one')");
    rig_share(&r);
    assert_each_its_own(&r);
    rig_act(&r, 1, "DELETE FROM t");
    peer_retry(&r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "i1|tzero|n|;");
    rig_close(&r);
}

/* ---- UNIQUE values */

static void assert_never_parked(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        assert_null(strstr(r->peers[i].log, "cannot be shown"));
}

static void test_swaps_of_unique_values(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUE_VALUE "; CREATE TABLE seat(id INTEGER PRIMARY KEY, place INTEGER NOT NULL UNIQUE, who)");
    rig_act(&r, 0, "INSERT INTO k VALUES('a', 'U', 0), ('b', 'V', 0), ('c', 'W', 0)");
    rig_act(&r, 0,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO seat SELECT i, i, 'p' || i FROM n");
    share_same(&r);
    rig_act(&r, 1,
            "BEGIN; UPDATE k SET u = NULL WHERE k = 'a'; UPDATE k SET u = 'U' WHERE k = 'b'; UPDATE k SET u = 'V' WHERE k = 'a'; COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT k, u FROM k ORDER BY k", "ta|tV|;tb|tU|;tc|tW|;");
    rig_act(&r, 0,
            "BEGIN; UPDATE k SET u = k; UPDATE k SET u = 'V' WHERE k = 'c'; UPDATE k SET u = 'U' WHERE k = 'a'; UPDATE k SET u = 'W' WHERE "
            "k = 'b'; COMMIT");
    share_same(&r);
    rig_act(&r, 0, "BEGIN; UPDATE seat SET place = -place; UPDATE seat SET place = 1 - place; COMMIT"); /* each to its neighbour's place */
    share_same(&r);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT sum(place = id + 1) FROM seat"), 100);
    rig_act(&r, 1, "BEGIN; UPDATE seat SET place = -place; UPDATE seat SET place = 103 + place; COMMIT"); /* all turned round */
    share_same(&r);
    rig_act(&r, 1, "BEGIN; DELETE FROM seat WHERE id = 5; INSERT INTO seat VALUES(500, 97, 'takes over'); COMMIT");
    share_same(&r);
    assert_never_parked(&r);
    assert_int_equal(peer_conflicts(&r.peers[0]), 0);
    rig_close(&r);
}

/* ---- constraints of one server alone */

static void test_a_constraint_that_only_one_server_has(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), i ? "CREATE TABLE k(k TEXT PRIMARY KEY, v CHECK(v < 10), w NOT NULL DEFAULT 'w')"
                                   : "CREATE TABLE k(k TEXT PRIMARY KEY, v, w)");
        peer_open(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO k VALUES('ok', 1, 1), ('large', 50, 1), ('null', 1, NULL)");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT k FROM k", "tok|;");
    assert_parked(&r, 1, 2);
    assert_parked(&r, 0, 0);
    assert_problem(&r.peers[1], "k", "CHECK constraint failed");
    assert_problem(&r.peers[1], "k", "NOT NULL constraint failed: k.w");
    rig_act(&r, 0, "UPDATE k SET v = 60 WHERE k = 'ok'"); /* the row keeps its last valid form */
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT k, v FROM k", "tok|i1|;");
    rig_act(&r, 0, "UPDATE k SET v = 5, w = 'x'");
    share_same(&r);
    rig_close(&r);
}

/* Many rows without a place, and others among them that have one, in one commit. */
static void test_one_commit_of_rows_with_and_without_a_place(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, NUMBERED);
    static const char *const MANY =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t(a) SELECT '%s' || i FROM n";
    for (uint32_t i = 0; i < 2; i++) {
        char *sql = sqlite3_mprintf(MANY, i ? 500 : 300, i ? "one" : "zero");
        rig_act(&r, i, sql);
        sqlite3_free(sql);
    }
    rig_share(&r);
    assert_rows(rig_app(&r, 0), "SELECT count(*), sum(a GLOB 'zero*') FROM t", "i500|i300|;");
    assert_rows(rig_app(&r, 1), "SELECT count(*), sum(a GLOB 'one*') FROM t", "i500|i500|;");
    assert_parked(&r, 0, 300);
    assert_parked(&r, 1, 300);
    rig_time_passes(&r);
    rig_act(&r, 0, "DELETE FROM t WHERE a GLOB 'zero*'");
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), sum(a GLOB 'one*') FROM t", "i500|i500|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_numbers_are_not_blended),
        cmocka_unit_test(test_the_row_without_a_place_gets_it_when_the_holder_is_deleted),
        cmocka_unit_test(test_a_row_without_a_place_takes_changes),
        cmocka_unit_test(test_the_holder_moves),
        cmocka_unit_test(test_both_die),
        cmocka_unit_test(test_three_rows_with_one_number),
        cmocka_unit_test(test_given_and_numbered),
        cmocka_unit_test(test_swaps_of_unique_values),
        cmocka_unit_test(test_a_constraint_that_only_one_server_has),
        cmocka_unit_test(test_one_commit_of_rows_with_and_without_a_place),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
