/* The engine: rows of different servers that want one place. Two rows are never blended, both survive: one of two that SQLite numbered gets
 * another number, and what refers to it follows. */
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

/* Both rows, on both servers, under equal numbers: one keeps its own. Nothing is parked, nobody waits. */
static void assert_both_shown(struct rig *r) {
    share_same(r);
    assert_everywhere(r, "SELECT a, b FROM t ORDER BY a IS NULL", "tzero|n|;n|tone|;");
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(app_int(rig_app(r, i), "SELECT count(*) FROM t WHERE id = 1"), 1);
        assert_int_equal(app_int(rig_app(r, i), "SELECT max(id) < 100 FROM t"), 1); /* a little above */
        assert_parked(r, i, 0);
    }
}

static void test_equal_numbers_are_not_blended(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    assert_both_shown(&r);
    for (uint32_t i = 0; i < 2; i++) { /* nothing changes that: not time, not a restart */
        peer_retry(&r.peers[i]);
        peer_reopen(&r.peers[i]);
        peer_rest(&r.peers[i]);
        peer_retry(&r.peers[i]);
    }
    assert_both_shown(&r);
    rig_close(&r);
}

static void test_a_renumbered_row_dies(void **state) {
    (void)state;
    for (uint32_t who = 0; who < 2; who++)
        for (int restart = 0; restart < 2; restart++) {
            struct rig r;
            collide(&r, 2);
            if (restart)
                peer_reopen(&r.peers[who]);
            rig_act(&r, who, "DELETE FROM t WHERE b = 'one'");
            share_same(&r);
            assert_everywhere(&r, "SELECT * FROM t", "i1|tzero|n|;");
            rig_act(&r, 1 - who, "INSERT INTO t(a) VALUES('next')");
            share_same(&r);
            assert_everywhere(&r, "SELECT * FROM t", "i1|tzero|n|;i2|tnext|n|;");
            rig_close(&r);
        }
}

static void test_a_renumbered_row_takes_changes(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    rig_act(&r, 1, "UPDATE t SET b = 'changed', a = 'new' WHERE b = 'one'");
    rig_act(&r, 0, "UPDATE t SET a = 'changed here' WHERE a = 'zero'");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b FROM t ORDER BY id", "tchanged here|n|;tnew|tchanged|;");
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    rig_act(&r, 0, "UPDATE t SET a = 'both'");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b FROM t ORDER BY id", "tboth|n|;tboth|tchanged|;");
    rig_close(&r);
}

/* A server that never met the clash by itself: everything comes at once, mends too. */
static void test_who_comes_later(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), NUMBERED);
        peer_open(&r.peers[i]);
        rig_act(&r, i, i ? "INSERT INTO t(b) VALUES('one')" : "INSERT INTO t(a) VALUES('zero')");
    }
    peer_pull(&r.peers[0], &r.peers[1]);
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_int_equal(side_open_app(&r.peers[2].s), SQLITE_OK);
    app_exec(rig_app(&r, 2), NUMBERED);
    peer_open(&r.peers[2]);
    rig_act(&r, 2, "INSERT INTO t(a, b) VALUES('two', 'two')");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b FROM t ORDER BY a IS NULL, a", "ttwo|ttwo|;tzero|n|;n|tone|;");
    rig_close(&r);
}

static void test_a_row_that_is_given_another_number(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    rig_act(&r, 0, "UPDATE t SET id = 2 WHERE id = 1");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a, b FROM t WHERE id < 3", "i2|tzero|n|;");
    assert_everywhere(&r, "SELECT a, b FROM t WHERE id > 2", "n|tone|;");
    rig_close(&r);
}

static void test_both_die(void **state) {
    (void)state;
    struct rig r;
    collide(&r, 2);
    rig_act(&r, 0, "DELETE FROM t");
    rig_act(&r, 1, "DELETE FROM t");
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
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b FROM t ORDER BY a IS NULL, a", "ttwo|ttwo|;tzero|n|;n|tone|;");
    rig_act(&r, 1, "UPDATE t SET a = 'kept' WHERE b = 'one'");
    rig_act(&r, 0, "DELETE FROM t WHERE a = 'zero'");
    rig_act(&r, 2, "DELETE FROM t WHERE a = 'two'");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b FROM t", "tkept|tone|;");
    rig_close(&r);
}

/* A number that the application gave is another row than one that SQLite numbered, and never moves. */
static void test_given_and_numbered(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, NUMBERED);
    rig_act(&r, 1, "INSERT INTO t(b) VALUES('one')");
    rig_act(&r, 0, "INSERT INTO t(id, a) VALUES(1, 'zero')");
    rig_share(&r);
    rig_time_passes(&r);
    assert_both_shown(&r);
    assert_everywhere(&r, "SELECT a FROM t WHERE id = 1", "tzero|;");
    rig_act(&r, 1, "DELETE FROM t WHERE b = 'one'");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "i1|tzero|n|;");
    rig_close(&r);
}

/* What refers to a row goes on meaning it: by a column, as part of a key, as the key, through another table, and to itself. */
static void test_references_follow(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3,
             "CREATE TABLE t(id INTEGER PRIMARY KEY, a, boss INTEGER REFERENCES t(id));"
             "CREATE TABLE child(id INTEGER PRIMARY KEY, t INTEGER REFERENCES t(id), v);"
             "CREATE TABLE tag(t INTEGER REFERENCES t(id), label TEXT, v, PRIMARY KEY(t, label));"
             "CREATE TABLE more(t INTEGER, label TEXT, n, FOREIGN KEY(t, label) REFERENCES tag(t, label));"
             "CREATE TABLE one(t INTEGER PRIMARY KEY REFERENCES t(id), v);"
             "CREATE TABLE deep(id INTEGER PRIMARY KEY, one INTEGER REFERENCES one(t))");
    for (uint32_t i = 0; i < 3; i++) {
        char *sql = sqlite3_mprintf("BEGIN; INSERT INTO t(a) VALUES('boss%u'); INSERT INTO t(a, boss) VALUES('t%u', 1);"
                                    "INSERT INTO child(t, v) VALUES(2, 'c%u'), (1, 'b%u'); INSERT INTO tag VALUES(2, 'x', 'g%u');"
                                    "INSERT INTO more VALUES(2, 'x', 'm%u'); INSERT INTO one VALUES(2, 'o%u');"
                                    "INSERT INTO deep(one) VALUES(2); COMMIT",
                                    i, i, i, i, i, i, i);
        rig_act(&r, i, sql);
        sqlite3_free(sql);
    }
    for (int later = 0; later < 3; later++) {
        share_same(&r);
        assert_everywhere(&r, "SELECT t.a, b.a FROM t JOIN t AS b ON b.id = t.boss ORDER BY 1", "tt0|tboss0|;tt1|tboss1|;tt2|tboss2|;");
        assert_everywhere(&r, "SELECT v, a FROM child JOIN t ON t.id = child.t ORDER BY 1",
                          "tb0|tboss0|;tb1|tboss1|;tb2|tboss2|;tc0|tt0|;tc1|tt1|;tc2|tt2|;");
        assert_everywhere(&r, "SELECT tag.v, a, n FROM tag JOIN t ON t.id = tag.t JOIN more USING(t, label) ORDER BY 1",
                          later < 1 ? "tg0|tt0|tm0|;tg1|tt1|tm1|;tg2|tt2|tm2|;" : "tG0|tt0|tm0|;tG1|tt1|tm1|;tG2|tt2|tm2|;");
        assert_everywhere(&r, "SELECT one.v, a FROM deep JOIN one ON one.t = deep.one JOIN t ON t.id = one.t ORDER BY 1",
                          "to0|tt0|;to1|tt1|;to2|tt2|;");
        assert_everywhere(&r, "SELECT count(*) FROM pragma_foreign_key_check", "i0|;");
        if (later == 0) { /* rows whose numbers moved are written, by others too */
            rig_act(&r, 1, "UPDATE tag SET v = upper(v)");
            peer_reopen(&r.peers[2]);
        } else {
            rig_act(&r, 2, "UPDATE child SET v = v; UPDATE one SET v = v");
        }
    }
    rig_act(&r, 0, "DELETE FROM deep; DELETE FROM more; DELETE FROM tag WHERE v = 'G2'; DELETE FROM one WHERE v = 'o1'");
    share_same(&r);
    assert_everywhere(&r, "SELECT v FROM tag UNION ALL SELECT v FROM one ORDER BY 1", "tG0|;tG1|;to0|;to2|;");
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

/* Rows that were there before anybody's node: nobody wrote them, also where two servers mend what becomes of them. */
static void test_what_was_there_before_has_no_author(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3,
             NUMBERED "; CREATE TABLE child(id INTEGER PRIMARY KEY, t REFERENCES t(id)); CREATE TABLE k(id INTEGER PRIMARY KEY, u UNIQUE);"
                      "INSERT INTO t(a) VALUES('first'), ('second'); INSERT INTO k(u) VALUES('x'), ('y')");
    rig_act(&r, 0, "DELETE FROM t WHERE id = 2");
    rig_act(&r, 0, "INSERT INTO t(id, a) VALUES(2, 'third'); UPDATE k SET u = 'z' WHERE u = 'x'");
    rig_act(&r, 1, "INSERT INTO child(t) VALUES(2); UPDATE k SET u = 'X' WHERE u = 'x'; INSERT INTO k(u) VALUES('z')");
    rig_act(&r, 2, "UPDATE k SET id = 9 WHERE u = 'y'");
    for (uint32_t i = 0; i < 6; i++) /* all find the clashes, and mend them, before they hear of each other's mends */
        peer_queue(&r.peers[i % 3], &r.peers[(i + 1 + i / 3) % 3]);
    share_same(&r);
    assert_everywhere(&r, "SELECT a FROM t JOIN child ON child.t = t.id", "tsecond|;");
    assert_same_conflicts(&r);
    assert_everywhere(&r, "SELECT a, id = 2 FROM t ORDER BY a", "tfirst|i0|;tsecond|i0|;tthird|i1|;");
    rig_close(&r);
}

/* Two servers give two rows one new number. A third hears of both at once, and cannot show one of them: the other's row is not written over. */
static void test_one_new_number_for_two(void **state) {
    (void)state;
    static const char *const MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) INSERT INTO t(a, b) "
                                    "SELECT '%s' || i, %s FROM n";
    static const char *const ROWS[][2] = {{"zero ", "1"}, {"more ", "1"}, {"one ", "NULL"}, {"two ", "1"}};
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), i == 2 ? "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b NOT NULL)" : NUMBERED);
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
    }
    rig_share(&r);
    for (uint32_t i = 0; i < 4; i++) { /* 0 has 1 to 120, 1 has 61 to 120, 2 has 1 to 60 */
        uint32_t who = i ? i - 1 : 0;
        char *sql = sqlite3_mprintf(MANY, ROWS[i][0], ROWS[i][1]);
        if (i == 2)
            app_exec(rig_app(&r, 1), "INSERT INTO t VALUES(60, 'gone', 1)");
        rig_act(&r, who, sql);
        if (i == 2)
            rig_act(&r, 1, "DELETE FROM t WHERE a = 'gone'");
        rig_tick();
        sqlite3_free(sql);
    }
    peer_queue(&r.peers[2], &r.peers[1]);
    peer_pull(&r.peers[1], &r.peers[0]); /* renumbers its own */
    peer_pull(&r.peers[0], &r.peers[2]); /* renumbers those of 2 */
    peer_queue(&r.peers[2], &r.peers[0]);
    peer_queue(&r.peers[2], &r.peers[1]);
    peer_rest(&r.peers[2]);
    rig_share(&r);
    assert_rows(rig_app(&r, 2), "SELECT substr(a, 1, instr(a, ' ')), count(*), count(DISTINCT a) FROM t GROUP BY 1",
                "tmore |i60|i60|;ttwo |i60|i60|;tzero |i60|i60|;");
    rig_time_passes(&r);
    rig_act(&r, 0, "UPDATE t SET b = 2 WHERE b IS NULL");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), count(DISTINCT a), sum(b = 2) FROM t", "i240|i240|i60|;");
    rig_close(&r);
}

/* Many rows that are renumbered, and others among them that are not, in one commit. */
static void test_many_rows_under_one_number(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, NUMBERED "; CREATE TABLE child(id INTEGER PRIMARY KEY, t REFERENCES t(id), a)");
    static const char *const MANY =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t(a) SELECT '%s' || i FROM n;"
        "INSERT INTO child(t, a) SELECT id, a FROM t";
    for (uint32_t i = 0; i < 2; i++) {
        char *sql = sqlite3_mprintf(MANY, i ? 500 : 300, i ? "one" : "zero");
        rig_act(&r, i, sql);
        sqlite3_free(sql);
    }
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), sum(a GLOB 'zero*') FROM t", "i800|i300|;");
    assert_everywhere(&r, "SELECT count(*), sum(child.a = t.a) FROM child JOIN t ON t.id = child.t", "i800|i800|;");
    assert_everywhere(&r, "SELECT max(id) < 2000 FROM t", "i1|;");
    rig_time_passes(&r);
    rig_act(&r, 0, "DELETE FROM child; DELETE FROM t WHERE a GLOB 'zero*'");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), sum(a GLOB 'one*') FROM t", "i500|i500|;");
    rig_close(&r);
}

/* Rows numbered alike apart: whose rows must give way mends them, and the other one waits for that, also when it comes behind more than may wait for the
 * file. Who is gone is not waited for. */
static void test_each_mend_is_made_once(void **state) {
    (void)state;
    for (int gone = 0; gone < 2; gone++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
        for (uint32_t i = 0; i < 2; i++) {
            r.peers[i].mend_wait_ms = 500;
            peer_reopen(&r.peers[i]);
        }
        rig_share(&r);
        for (uint32_t i = 0; i < 2; i++) {
            for (int k = 0; k < 200; k += 20) {
                char *sql =
                    sqlite3_mprintf("WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t(a) SELECT "
                                    "'of %u: ' || i || hex(randomblob(%d)) FROM n",
                                    k, k + 19, i, i && !gone ? 50000 : 5);
                rig_act(&r, i, sql);
                sqlite3_free(sql);
            }
            rig_tick();
        }
        if (gone)
            peer_queue(&r.peers[0], &r.peers[1]);
        peer_pull(&r.peers[1], &r.peers[0]);
        if (!gone)
            peer_queue(&r.peers[0], &r.peers[1]);
        assert_int_equal(peer_status(&r.peers[1], "mends"), 200);
        peer_rest(&r.peers[0]);
        assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 400);
        assert_int_equal(peer_status(&r.peers[0], "mends"), gone ? 200 : 0);
        share_same(&r);
        assert_int_equal(app_int(rig_app(&r, 0), "SELECT max(id) FROM t"), 400);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_numbers_are_not_blended),
        cmocka_unit_test(test_a_renumbered_row_dies),
        cmocka_unit_test(test_a_renumbered_row_takes_changes),
        cmocka_unit_test(test_who_comes_later),
        cmocka_unit_test(test_a_row_that_is_given_another_number),
        cmocka_unit_test(test_references_follow),
        cmocka_unit_test(test_both_die),
        cmocka_unit_test(test_three_rows_with_one_number),
        cmocka_unit_test(test_given_and_numbered),
        cmocka_unit_test(test_swaps_of_unique_values),
        cmocka_unit_test(test_what_was_there_before_has_no_author),
        cmocka_unit_test(test_a_constraint_that_only_one_server_has),
        cmocka_unit_test(test_one_new_number_for_two),
        cmocka_unit_test(test_many_rows_under_one_number),
        cmocka_unit_test(test_each_mend_is_made_once),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
