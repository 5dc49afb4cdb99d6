/* The engine: tables without a key are multisets of rows, the same on every server. */
#include "store_rig.h"

#define BAG "CREATE TABLE bag(a, b TEXT)"
#define ROWS "SELECT a, b FROM bag ORDER BY a, b"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_table(r, "bag");
    rig_time_passes(r);
}

static void test_equal_rows_are_rows_of_their_own(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'x'), (1, 'x'), (2, 'y')");
    share_same(&r);
    for (uint32_t i = 0; i < 3; i++) /* at once, all with the same rowid */
        app_exec(rig_app(&r, i), "INSERT INTO bag VALUES(1, 'x')");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b, count(*) FROM bag GROUP BY a, b ORDER BY a", "i1|tx|i5|;i2|ty|i1|;");
    rig_act(&r, 1, "DELETE FROM bag WHERE rowid IN (SELECT rowid FROM bag WHERE a = 1 LIMIT 2)");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b, count(*) FROM bag GROUP BY a, b ORDER BY a", "i1|tx|i3|;i2|ty|i1|;");
    rig_act(&r, 2, "UPDATE bag SET b = 'new' WHERE a = 2; UPDATE bag SET a = a + 10 WHERE b = 'x'; INSERT INTO bag SELECT * FROM bag");
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b, count(*) FROM bag GROUP BY a, b ORDER BY a", "i2|tnew|i2|;i11|tx|i6|;");
    rig_act(&r, 0, "DELETE FROM bag; INSERT INTO bag VALUES(7, 'seven')");
    share_same(&r);
    for (uint32_t i = 0; i < 3; i++)
        peer_reopen(&r.peers[i]);
    rig_time_passes(&r);
    rig_act(&r, 1, "UPDATE bag SET a = 8; UPDATE bag SET rowid = 100; INSERT INTO bag VALUES(NULL, NULL)");
    share_same(&r);
    assert_everywhere(&r, ROWS, "n|n|;i8|tseven|;");
    assert_int_equal(peer_conflicts(&r.peers[0]), 0);
    rig_close(&r);
}

/* A row is named by the rowid that it has here. */
static void test_why(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag(rowid, a, b) VALUES(50, 1, 'x'), (60, 2, 'y')");
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++) {
        json_t *key = json_integer(app_int(rig_app(&r, i), "SELECT rowid FROM bag WHERE a = 2")), *none = json_string("999"),
               *bad = json_string("x"), *why = store_why(r.peers[i].s.store, "bag", key, NULL);
        char *text = json_dumps(why, 0);
        if (!strstr(text, "\"y\"") || strstr(text, "\"error\""))
            fail_msg("%s", text);
        free(text);
        json_decref(why);
        why = store_why(r.peers[i].s.store, "bag", none, NULL);
        assert_non_null(json_object_get(why, "error"));
        json_decref(why);
        why = store_why(r.peers[i].s.store, "bag", bad, NULL);
        assert_non_null(json_object_get(why, "error"));
        json_decref(why);
        json_decref(key);
        json_decref(none);
        json_decref(bad);
    }
    rig_close(&r);
}

static void test_what_changes_nothing_sends_nothing(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'x'), (1, 'x'), (2, 'y')");
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t before = r.peers[i].s.made.count;
        rig_act(&r, i, "UPDATE bag SET a = a, b = b");
        rig_act(&r, i, "BEGIN; INSERT INTO bag VALUES(5, 'z'); DELETE FROM bag WHERE a = 5; COMMIT");
        peer_reopen(&r.peers[i]);
        peer_rest(&r.peers[i]);
        assert_int_equal(r.peers[i].s.made.count, before);
    }
    rig_close(&r);
}

/* VACUUM gives every row another rowid. */
static void test_vacuum(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO bag SELECT i / 3, 'row' FROM n");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM bag WHERE a % 2");
    share_same(&r);
    int64_t top = app_int(rig_app(&r, 0), "SELECT max(rowid) FROM bag");
    uint32_t before = r.peers[0].s.made.count;
    rig_act(&r, 0, "VACUUM");
    assert_true(app_int(rig_app(&r, 0), "SELECT max(rowid) FROM bag") < top);
    assert_int_equal(rig_made_rows(&r, 0, before), 0);
    share_same(&r);
    rig_act(&r, 0, "UPDATE bag SET b = 'changed' WHERE a = 20");
    rig_act(&r, 1, "UPDATE bag SET b = 'there' WHERE a = 30; DELETE FROM bag WHERE a = 40");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM bag WHERE b = 'row'", "i92|;");
    /* with writes on both sides of it that nobody has drained */
    app_exec(rig_app(&r, 0),
             "DELETE FROM bag WHERE a = 2; INSERT INTO bag VALUES(500, 'before'); UPDATE bag SET b = 'kept' WHERE a = 4; VACUUM;"
             "INSERT INTO bag VALUES(501, 'after'); UPDATE bag SET b = 'moved' WHERE a = 6; DELETE FROM bag WHERE a = 8");
    share_same(&r);
    side_close_store(&r.peers[1].s); /* while the node is down */
    app_exec(rig_app(&r, 1),
             "DELETE FROM bag WHERE a = 10; VACUUM; INSERT INTO bag VALUES(502, 'down'); DELETE FROM bag WHERE a = 12; VACUUM");
    peer_open(&r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT a, b FROM bag WHERE a >= 500 OR a IN (2, 8, 10, 12) ORDER BY a",
                      "i500|tbefore|;i501|tafter|;i502|tdown|;");
    rig_close(&r);
}

static void test_first_capture_and_joining(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 2; i++) { /* two copies of one database, with other rowids */
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), i ? "CREATE TABLE bag(b TEXT, a); INSERT INTO bag(rowid, a, b) VALUES(7, 2, 'y'), (8, 1, 'x'), (9, 1, 'x')"
                                   : BAG "; INSERT INTO bag VALUES(1, 'x'), (1, 'x'), (2, 'y')");
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
        assert_int_equal(r.peers[i].s.made.count ? rig_made_rows(&r, i, 0) : 3, 3);
    }
    r.peers[2].create = true;
    peer_open(&r.peers[2]);
    rig_share(&r);
    assert_int_equal(side_open_app(&r.peers[2].s), SQLITE_OK);
    rig_time_passes(&r);
    assert_everywhere(&r, ROWS, "i1|tx|;i1|tx|;i2|ty|;");
    rig_act(&r, 2, "DELETE FROM bag WHERE rowid = (SELECT rowid FROM bag WHERE a = 1 LIMIT 1); UPDATE bag SET b = 'z' WHERE a = 2");
    share_same(&r);
    assert_everywhere(&r, ROWS, "i1|tx|;i2|tz|;");
    rig_close(&r);
}

static void test_schemas_on_the_move(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'x'), (1, 'x'), (2, 'y')");
    share_same(&r);
    uint32_t before = r.peers[0].s.made.count;
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "ALTER TABLE bag ADD COLUMN rowid INT DEFAULT 5");
    rig_share(&r);
    assert_int_equal(rig_made_rows(&r, 0, before), 0);
    rig_act(&r, 1, "UPDATE bag SET rowid = 6 WHERE a = 2");
    share_same(&r);
    rig_act(&r, 0,
            "BEGIN; CREATE TABLE n(b TEXT, a, \"rowid\" INT, c DEFAULT 1); INSERT INTO n(a, b, \"rowid\") SELECT a, b, \"rowid\" FROM bag "
            "ORDER BY a DESC; DROP "
            "TABLE bag; ALTER TABLE n RENAME TO bag; COMMIT; INSERT INTO bag(a) VALUES(3)");
    rig_share(&r);
    rig_time_passes(&r);
    assert_everywhere(&r, "SELECT a, b, \"rowid\" FROM bag ORDER BY a, b", "i1|tx|i5|;i1|tx|i5|;i2|ty|i6|;i3|n|n|;");
    rig_act(&r, 1, "CREATE UNIQUE INDEX bu ON bag(b, a) WHERE a > 1; INSERT OR REPLACE INTO bag(a, b) VALUES(2, 'y')");
    rig_share(&r);
    assert_everywhere(&r, "SELECT a, b, \"rowid\" FROM bag WHERE a = 2 ORDER BY a, b", "i2|ty|i5|;");
    rig_close(&r);
}

/* Both servers rename the table, the first one while the other does not know of it yet; then the name is used for another table. */
static void test_renamed_tables(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'x'), (1, 'x'), (2, 'y')");
    share_same(&r);
    rig_act(&r, 0, "ALTER TABLE bag RENAME TO sack");
    rig_share(&r);
    rig_act(&r, 0, "UPDATE sack SET b = 'z' WHERE a = 2; INSERT INTO sack VALUES(3, 'n')");
    rig_share(&r);
    rig_act(&r, 1, "ALTER TABLE bag RENAME TO sack");
    peer_retry(&r.peers[1]);
    rig_share(&r);
    assert_everywhere(&r, "SELECT a, b FROM sack ORDER BY a, b", "i1|tx|;i1|tx|;i2|tz|;i3|tn|;");
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "DELETE FROM sack WHERE a = 1 AND rowid = (SELECT min(rowid) FROM sack WHERE a = 1)");
    rig_share(&r);
    assert_same(&r, "SELECT a, b FROM sack ORDER BY a, b");
    rig_close(&r);
}

/* Apart, each server changes what the other one does. */
static void test_apart(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'one'), (2, 'two'), (3, 'three')");
    share_same(&r);
    app_exec(rig_app(&r, 0), "UPDATE bag SET a = 10 WHERE b = 'one'; DELETE FROM bag WHERE b = 'three'; INSERT INTO bag VALUES(4, 'zero')");
    app_exec(rig_app(&r, 1),
             "UPDATE bag SET b = 'uno' WHERE a = 1; DELETE FROM bag WHERE a = 3; INSERT INTO bag VALUES(4, 'zero'); VACUUM");
    share_same(&r);
    assert_everywhere(&r, ROWS, "i2|ttwo|;i4|tzero|;i4|tzero|;i10|tuno|;");
    rig_close(&r);
}

static void test_rescans(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'one'), (2, 'two'), (3, 'three'), (3, 'three')");
    share_same(&r);
    side_close_store(&r.peers[0].s);
    app_exec(rig_app(&r, 0),
             "DROP TABLE _starling_dirty; DROP TRIGGER _starling_1_i; DROP TRIGGER _starling_1_u; DROP TRIGGER _starling_1_m; DROP TRIGGER "
             "_starling_1_d; UPDATE bag SET b = 'TWO' WHERE a = 2; DELETE FROM bag WHERE a = 1; INSERT INTO bag VALUES(3, 'three')");
    peer_open(&r.peers[0]);
    uint32_t before = r.peers[0].s.made.count;
    share_same(&r);
    assert_everywhere(&r, ROWS, "i2|tTWO|;i3|tthree|;i3|tthree|;i3|tthree|;");
    assert_true(rig_made_rows(&r, 0, before) <= 4);
    rig_close(&r);
}

/* After any change of the schema it is read again, since VACUUM may have come, too: emptied meanwhile it is empty, and not a table made anew. */
static void test_a_table_that_is_emptied_after_a_change_of_schema(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE bag(a, b)");
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 1), (1, 1), (2, 2)");
    share_same(&r);
    app_exec(rig_app(&r, 0), "CREATE TABLE other(k TEXT PRIMARY KEY)");
    app_exec(rig_app(&r, 0), "DELETE FROM bag");
    rig_share(&r);
    rig_act(&r, 1, "CREATE TABLE other(k TEXT PRIMARY KEY)");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM bag", "i0|;");
    rig_close(&r);
}

/* Too many rows that are gone without a note are not taken for deletions, until a person says so, or wants them back. */
static void test_many_missing_rows(void **state) {
    (void)state;
    for (int accept = 0; accept < 2; accept++) {
        struct rig r;
        rig_open(&r, 2, BAG);
        rig_act(&r, 0, "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO bag SELECT i / 3, 'row' FROM n");
        share_same(&r);
        side_close_store(&r.peers[0].s);
        app_exec(rig_app(&r, 0),
                 "DROP TRIGGER _starling_1_d; DELETE FROM bag WHERE a > 10; INSERT INTO bag(rowid, a, b) VALUES(1000, -1, 'new')");
        peer_open(&r.peers[0]);
        rig_share(&r);
        assert_problem(&r.peers[0], "bag", "gone from the file without a note");
        assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM bag"), 101);
        json_decref(store_decide(r.peers[0].s.store, "bag", accept));
        rig_share(&r);
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM bag", accept ? "i33|;" : "i101|;");
        rig_close(&r);
    }
}

static void copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (int c; (c = getc(in)) != EOF;)
        putc(c, out);
    assert_int_equal(fclose(in) | fclose(out), 0);
}

static void test_an_older_copy(void **state) {
    (void)state;
    struct rig r;
    char backup[300];
    rig_open(&r, 2, BAG);
    rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'one'), (2, 'two'), (3, 'three'), (3, 'three')");
    share_same(&r);
    side_close_store(&r.peers[0].s);
    side_close_app(&r.peers[0].s);
    snprintf(backup, sizeof backup, "%s.bak", r.peers[0].s.app_path);
    copy_file(r.peers[0].s.app_path, backup);
    assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
    peer_open(&r.peers[0]);
    rig_act(&r, 0, "INSERT INTO bag VALUES(5, 'five'); DELETE FROM bag WHERE a = 1; UPDATE bag SET b = 'TWO' WHERE a = 2");
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO bag VALUES(6, 'six')");
    share_same(&r);
    side_close_store(&r.peers[0].s);
    side_close_app(&r.peers[0].s);
    copy_file(backup, r.peers[0].s.app_path);
    remove(backup);
    assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, ROWS, "i2|tTWO|;i3|tthree|;i3|tthree|;i5|tfive|;i6|tsix|;");
    rig_close(&r);
}

/* Random writes, VACUUMs and restarts on two servers that are apart now and then: the same rows, and as many as were inserted and not deleted. */
static void test_random_walks(void **state) {
    (void)state;
    const char *given = getenv("SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)clock_us();
    for (int walk = 0; walk < 6; walk++) {
        struct rig_random x = {seed + (uint64_t)walk};
        struct rig r;
        printf("seed %llu\n", (unsigned long long)seed + (unsigned)walk);
        rig_open(&r, 2, BAG ";CREATE TABLE other(id INTEGER PRIMARY KEY)");
        int64_t inserted = 0;
        for (int step = 0; step < 60; step++) {
            uint32_t i = (uint32_t)(rig_random(&x) % 2);
            char *sql = NULL;
            switch (rig_random(&x) % 8) {
            case 0:
            case 1:
            case 2:
                sql = sqlite3_mprintf("INSERT INTO bag VALUES(%d, 'w')", (int)(rig_random(&x) % 4));
                inserted++;
                break;
            case 3:
                sql = sqlite3_mprintf("UPDATE bag SET b = b || 'u' WHERE rowid = (SELECT rowid FROM bag ORDER BY random() LIMIT 1)");
                break;
            case 4: sql = sqlite3_mprintf("VACUUM"); break;
            case 5: sql = sqlite3_mprintf("CREATE INDEX i%d ON other(id); DROP INDEX i%d", step, step); break;
            case 6: peer_reopen(&r.peers[i]); break;
            default: rig_share(&r); break;
            }
            if (sql)
                app_exec(rig_app(&r, i), sql);
            sqlite3_free(sql);
            if (rig_random(&x) % 3 == 0)
                peer_rest(&r.peers[i]);
        }
        share_same(&r);
        char want[40];
        snprintf(want, sizeof want, "i%lld|;", (long long)inserted);
        assert_everywhere(&r, "SELECT count(*) FROM bag", want);
        rig_close(&r);
    }
}

/* A node that lost its state takes its rows anew, and gets them again from the others: equal ones are paired, as often as they are there. */
static void test_a_state_that_was_lost(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) { /* by whom the rows were, and whether they changed since; changes while the state is lost */
        struct rig r;
        bool here = mode & 1, meanwhile = mode & 2;
        char path[600];
        rig_open(&r, 3, BAG "; INSERT INTO bag VALUES(0, 'from the start'), (0, 'from the start')");
        rig_act(&r, here ? 0 : 1, "INSERT INTO bag VALUES(1, 'x'), (1, 'x'), (2, 'y'), (3, 'gone'), (4, 'old'), (5, 'five')");
        share_same(&r);
        rig_act(&r, 2, "UPDATE bag SET b = 'x', a = 1 WHERE a = 4; UPDATE bag SET b = 'new' WHERE a = 2; DELETE FROM bag WHERE a = 3");
        share_same(&r);
        side_close_store(&r.peers[0].s);
        static const char *const TAILS[] = {"", "-wal", "-shm"};
        for (int i = 0; i < 3; i++) {
            snprintf(path, sizeof path, "%s%s", r.peers[0].s.state_path, TAILS[i]);
            remove(path);
        }
        if (meanwhile) {
            app_exec(rig_app(&r, 0), "INSERT INTO bag VALUES(1, 'x'), (6, 'only here')");
            rig_act(&r, 1, "INSERT INTO bag VALUES(1, 'x'), (7, 'only there'); UPDATE bag SET b = 'FIVE' WHERE a = 5");
        }
        rig_tick();
        peer_open(&r.peers[0]);
        peer_rest(&r.peers[0]);
        rig_tick();
        rig_share(&r);
        for (uint32_t i = 0; i < 3; i++)
            peer_retry(&r.peers[i]);
        share_same(&r);
        assert_everywhere(&r, ROWS,
                          !meanwhile
                              ? "i0|tfrom the start|;i0|tfrom the start|;i1|tx|;i1|tx|;i1|tx|;i2|tnew|;i5|tfive|;"
                              : "i0|tfrom the start|;i0|tfrom the start|;i1|tx|;i1|tx|;i1|tx|;i1|tx|;i2|tnew|;i5|tFIVE|;i5|tfive|;i6|tonly "
                                "here|;i7|tonly there|;");
        rig_act(&r, 0, "INSERT INTO bag VALUES(1, 'x')"); /* one more is one more */
        rig_act(&r, 1, "INSERT INTO bag VALUES(2, 'new')");
        share_same(&r);
        peer_retry(&r.peers[0]);
        peer_reopen(&r.peers[0]);
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM bag WHERE b IN ('x', 'new')", meanwhile ? "i7|;" : "i6|;");
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_table_that_is_emptied_after_a_change_of_schema),
        cmocka_unit_test(test_equal_rows_are_rows_of_their_own),
        cmocka_unit_test(test_why),
        cmocka_unit_test(test_what_changes_nothing_sends_nothing),
        cmocka_unit_test(test_vacuum),
        cmocka_unit_test(test_first_capture_and_joining),
        cmocka_unit_test(test_schemas_on_the_move),
        cmocka_unit_test(test_renamed_tables),
        cmocka_unit_test(test_apart),
        cmocka_unit_test(test_rescans),
        cmocka_unit_test(test_many_missing_rows),
        cmocka_unit_test(test_an_older_copy),
        cmocka_unit_test(test_random_walks),
        cmocka_unit_test(test_a_state_that_was_lost),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
