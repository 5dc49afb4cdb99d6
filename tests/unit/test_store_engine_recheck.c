/* The engine: what nobody noted is found in the background. */
#include "store_rig.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, u UNIQUE); CREATE TABLE k(x TEXT, y INTEGER, v, PRIMARY KEY(x, y)); CREATE TABLE w(k TEXT " \
    "PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID; CREATE TABLE n(a, b); CREATE TABLE mine(id INTEGER PRIMARY KEY, v)"
#define FILL                                                                                                                               \
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < %d) INSERT INTO t SELECT i, 'a' || i, 'u' || i FROM c;"      \
    "INSERT INTO k SELECT 'k' || (id %% 10), id, a FROM t; INSERT INTO w SELECT 'W' || id, id FROM t; INSERT INTO n SELECT id / 2, a "     \
    "FROM t"
#define UNNOTED                                                                                                                            \
    "UPDATE t SET a = 'unseen' WHERE id IN (5, 7); DELETE FROM t WHERE id = 9; INSERT INTO t(a) VALUES('unseen');"                         \
    "UPDATE k SET v = 'unseen' WHERE y = 3; DELETE FROM k WHERE y = 4; INSERT INTO k VALUES('new', 1, 'unseen');"                          \
    "DELETE FROM w WHERE k = 'w8'; UPDATE w SET k = 'other' WHERE k = 'w2'; UPDATE n SET b = 'unseen' WHERE a = 3; DELETE FROM n WHERE b " \
    "= 'a20'; INSERT INTO n VALUES(1, 'a2')"

static const char *const NOT_SENT[] = {"mine", NULL};

static void fill(struct rig *r, int rows) {
    char *sql = sqlite3_mprintf(FILL, rows);
    rig_act(r, 0, sql);
    sqlite3_free(sql);
    rig_share(r);
    rig_time_passes(r);
}

static void start(struct rig *r, int rows) {
    rig_open(r, 2, TABLES);
    fill(r, rows);
}

static void triggers(sqlite3 *db, int on) { assert_int_equal(sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, on, NULL), SQLITE_OK); }

static void act_unnoted(struct rig *r, const char *sql) {
    triggers(rig_app(r, 0), 0);
    app_exec(rig_app(r, 0), sql);
    triggers(rig_app(r, 0), 1);
}

/* For so long in all; as its owner waits. */
static void wait(struct peer *p, int64_t ms) {
    for (int64_t until = clock_us() / 1000 + ms; clock_us() / 1000 < until;) {
        int turn = peer_turn(p);
        side_skip(turn < 0 || turn > 100 ? 100 : (uint64_t)turn);
    }
}

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void test_writes_without_triggers_are_found_in_seconds(void **state) {
    (void)state;
    for (int wal = 0; wal < 2; wal++) {
        struct rig r;
        rig_start(&r, 2);
        r.peers[0].s.pragmas = wal ? "PRAGMA journal_mode=WAL" : "PRAGMA journal_mode=DELETE";
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
            app_exec(rig_app(&r, i), TABLES);
            peer_open(&r.peers[i]);
            peer_rest(&r.peers[i]);
        }
        fill(&r, 300);
        act_unnoted(&r, UNNOTED);
        wait(&r.peers[0], 3000);
        share_same(&r);
        assert_rows(rig_app(&r, 1), "SELECT count(*) FROM t WHERE a = 'unseen'", "i3|;");
        assert_int_equal(peer_conflicts(&r.peers[0]), 0);
        assert_non_null(strstr(r.peers[0].log, "4 rows of \"t\" were changed without a note"));
        rig_close(&r);
    }
}

/* sqlite3_blob_write() fires no trigger: it is found as a commit that left no note, or behind one. */
static void test_blobs_that_are_written_in_place(void **state) {
    (void)state;
    struct rig r;
    start(&r, 30);
    rig_act(&r, 0, "UPDATE t SET a = zeroblob(4)");
    wait(&r.peers[0], 120000);
    for (int mode = 0; mode < 2; mode++) {
        sqlite3_blob *b;
        assert_int_equal(sqlite3_blob_open(rig_app(&r, 0), "main", "t", "a", 7, 1, &b), SQLITE_OK);
        assert_int_equal(sqlite3_blob_write(b, mode ? "more" : "some", 4, 0), SQLITE_OK);
        assert_int_equal(sqlite3_blob_close(b), SQLITE_OK);
        if (mode)
            rig_act(&r, 0, "UPDATE t SET a = 1 WHERE id = 8");
        wait(&r.peers[0], mode ? 8000 : 3000);
        share_same(&r);
        assert_everywhere(&r, "SELECT a FROM t WHERE id = 7", mode ? "tmore|;" : "tsome|;");
    }
    rig_close(&r);
}

/* Newer elsewhere wins: what was found has the age of what it replaced. */
static void test_what_is_found_is_old(void **state) {
    (void)state;
    struct rig r;
    start(&r, 30);
    act_unnoted(&r, "UPDATE t SET a = 'found' WHERE id < 3");
    rig_tick();
    rig_act(&r, 1, "UPDATE t SET a = 'newer' WHERE id = 1");
    wait(&r.peers[0], 3000);
    share_same(&r);
    assert_everywhere(&r, "SELECT a FROM t WHERE id < 3", "tnewer|;tfound|;");
    assert_true(peer_lost(&r.peers[1], "a", "\"found\""));
    rig_close(&r);
}

/* An eviction and a row that came without a note make up for each other where rows are counted. */
static void test_what_makes_up_for_each_other_is_found_in_seconds(void **state) {
    (void)state;
    struct rig r;
    start(&r, 300);
    wait(&r.peers[0], 120000);
    app_exec(rig_app(&r, 0), "BEGIN; UPDATE OR REPLACE t SET u = 'u3' WHERE id = 5; UPDATE t SET u = 'u5' WHERE id = 5");
    act_unnoted(&r, "INSERT INTO t(a) VALUES('unseen'); COMMIT");
    peer_rest(&r.peers[0]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT count(*) FROM t WHERE a = 'unseen' OR id = 3", "i1|;");
    wait(&r.peers[0], 8000);
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM t WHERE a = 'unseen' OR id = 3", "i1|;");
    rig_close(&r);
}

/* What is written without triggers hides behind notes, and behind what others wrote. */
static void test_what_hides_behind_other_commits_is_found_in_seconds(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        struct rig r;
        start(&r, 30);
        wait(&r.peers[0], 120000);
        act_unnoted(&r, "UPDATE t SET a = 'unseen' WHERE id < 4");
        if (mode) {
            rig_act(&r, 1, "UPDATE t SET a = 'remote' WHERE id = 20");
            rig_share(&r);
        } else {
            rig_act(&r, 0, "UPDATE t SET a = 'noted' WHERE id = 20");
        }
        wait(&r.peers[0], 8000);
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM t WHERE a = 'unseen'", "i3|;");
        rig_close(&r);
    }
}

/* Whoever works is not disturbed, and what passes take stays small: as many as the time allows. */
static void test_passes_keep_out_of_the_way(void **state) {
    (void)state;
    struct rig r;
    start(&r, 30);
    wait(&r.peers[0], 120000);
    act_unnoted(&r, "UPDATE t SET a = 'unseen' WHERE id = 1");
    for (int i = 0; i < 100; i++) { /* an application that never rests: within the hour */
        rig_act(&r, 0, "UPDATE t SET a = a || '.' WHERE id = 20");
        wait(&r.peers[0], 100);
    }
    assert_null(strstr(r.peers[0].log, "without a note"));
    wait(&r.peers[0], 8000);
    assert_non_null(strstr(r.peers[0].log, "without a note"));
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM t WHERE a = 'unseen'", "i1|;");
    rig_close(&r);
}

/* Our triggers are taken out of sqlite_schema by hand: who has the schema in memory goes on noting, a new connection does not. */
static void test_triggers_that_are_edited_away_come_back(void **state) {
    (void)state;
    struct rig r;
    start(&r, 30);
    app_exec(rig_app(&r, 0), "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE type = 'trigger'; PRAGMA writable_schema=OFF");
    sqlite3 *db;
    assert_int_equal(sqlite3_open(r.peers[0].s.app_path, &db), SQLITE_OK);
    app_exec(db, "UPDATE t SET a = 'unseen' WHERE id = 1");
    wait(&r.peers[0], 8000);
    assert_true(app_int(rig_app(&r, 0), "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'") > 0);
    assert_int_equal(r.peers[0].reopened, 1);
    share_same(&r);
    app_exec(db, "UPDATE t SET a = 'seen' WHERE id = 2");
    peer_rest(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT a FROM t WHERE id < 3", "tunseen|;tseen|;");
    sqlite3_close(db);
    rig_close(&r);
}

static void copy_file(const char *from, const char *to) {
    char block[4096];
    size_t n;
    FILE *in = fopen(from, "rb"), *out = fopen(to, access(to, F_OK) ? "wb" : "r+b");
    assert_true(in && out);
    while ((n = fread(block, 1, sizeof block, in)) > 0)
        assert_int_equal(fwrite(block, 1, n, out), n);
    assert_int_equal(ftruncate(fileno(out), ftell(out)) | fclose(in) | fclose(out), 0);
}

/* An older copy over the file, which stays the same one: nothing but its content tells. What came from others since is no write of the application. */
static void test_an_older_copy_in_the_same_file(void **state) {
    (void)state;
    for (int hour = 0; hour < 2; hour++) {
        struct rig r;
        char copy[600];
        rig_start(&r, 2);
        r.peers[0].s.pragmas = "PRAGMA journal_mode=DELETE";
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
            app_exec(rig_app(&r, i), TABLES);
            peer_open(&r.peers[i]);
            peer_rest(&r.peers[i]);
        }
        fill(&r, 30);
        peer_rest(&r.peers[0]);
        snprintf(copy, sizeof copy, "%s.copy", r.peers[0].s.app_path);
        copy_file(r.peers[0].s.app_path, copy);
        rig_act(&r, 1, "UPDATE t SET a = 'newer' WHERE id < 5; DELETE FROM k WHERE y > 28; INSERT INTO n VALUES('newer', 1)");
        share_same(&r);
        wait(&r.peers[0], 3000);
        copy_file(copy, r.peers[0].s.app_path);
        if (hour)
            side_skip(3700 * 1000);
        wait(&r.peers[0], 5000);
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*), (SELECT count(*) FROM k), (SELECT count(*) FROM n) FROM t WHERE a = 'newer'",
                          "i4|i28|i31|;");
        assert_null(strstr(r.peers[0].log, "without a note"));
        rig_close(&r);
    }
}

/* Looks like an older copy, once. */
static void test_the_mark_is_taken_away(void **state) {
    (void)state;
    struct rig r;
    start(&r, 30);
    rig_act(&r, 1, "UPDATE t SET a = 'remote' WHERE id < 5");
    share_same(&r);
    app_exec(rig_app(&r, 0), "DELETE FROM _starling_mark");
    wait(&r.peers[0], 20000);
    side_skip(3700 * 1000);
    wait(&r.peers[0], 20000);
    share_same(&r);
    char *said = strstr(r.peers[0].log, "is an older copy");
    assert_true(!said || !strstr(said + 1, "is an older copy"));
    rig_act(&r, 0, "UPDATE t SET a = 'local' WHERE id < 3");
    share_same(&r);
    assert_everywhere(&r, "SELECT a FROM t WHERE id IN (1, 4)", "tlocal|;tremote|;");
    rig_close(&r);
}

static void test_a_large_table_is_read_in_slices(void **state) {
    (void)state;
    struct rig r;
    start(&r, 40000);
    uint32_t made = r.peers[0].s.made.count;
    act_unnoted(&r, "UPDATE t SET a = 'unseen' WHERE id = 39999; DELETE FROM t WHERE id = 40000; DELETE FROM k WHERE y = 39990");
    for (int i = 0; i < 40; i++) { /* beside an application that goes on */
        char *sql = sqlite3_mprintf("UPDATE t SET a = 'seen' WHERE id = %d; DELETE FROM t WHERE id = %d; INSERT INTO k VALUES('z', %d, 0)",
                                    1 + i * 100, 2 + i * 100, i);
        app_exec(rig_app(&r, 0), sql);
        sqlite3_free(sql);
        wait(&r.peers[0], 1000);
    }
    wait(&r.peers[0], 600000);
    share_same(&r);
    assert_int_equal(rig_made_rows(&r, 0, made), 3 + 40 * 3); /* and nothing else was found */
    rig_close(&r);
}

static void test_many_missing_rows_are_not_believed(void **state) {
    (void)state;
    struct rig r;
    start(&r, 300);
    act_unnoted(&r, "DELETE FROM t WHERE id > 100; DELETE FROM k WHERE y > 295");
    wait(&r.peers[0], 3000);
    rig_share(&r);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t"), 300);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM k"), 295);
    assert_non_null(strstr(r.peers[0].error, "200 of 300 rows of \"t\" are gone"));
    json_t *answer = store_decide(r.peers[0].s.store, "t", true);
    assert_int_equal(json_integer_value(json_object_get(answer, "rows")), 200);
    json_decref(answer);
    peer_rest(&r.peers[0]);
    share_same(&r);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t"), 100);
    rig_close(&r);
}

/* Rows that are pending, parked, dead, in tables that are not replicated: there is nothing to find, and nothing is said. */
static void test_nothing_is_found_where_nothing_is_wrong(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        r.peers[i].excluded = NOT_SENT;
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), TABLES);
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
    }
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 'a', 'u'), (2, 'b', 'v'); INSERT INTO n VALUES(1, 1), (1, 1); DELETE FROM t WHERE id = 2");
    rig_act(&r, 1, "INSERT INTO t VALUES(3, 'a', 'u')"); /* parked on both */
    rig_share(&r);
    app_exec(rig_app(&r, 0), "ALTER TABLE k ADD COLUMN later DEFAULT 5; INSERT INTO k(x, y) VALUES('x', 1)");
    peer_rest(&r.peers[0]);
    rig_share(&r);
    uint32_t made[2] = {r.peers[0].s.made.count, r.peers[1].s.made.count};
    for (int i = 0; i < 5; i++) {
        app_exec(rig_app(&r, 0), "INSERT INTO mine(v) VALUES('note to self')");
        wait(&r.peers[0], 3000);
        side_skip(3700 * 1000);
        wait(&r.peers[1], 3000);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(r.peers[i].s.made.count, made[i]);
        assert_null(strstr(r.peers[i].log, "without a note"));
        assert_int_equal(r.peers[i].reopened, 0);
    }
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_without_triggers_are_found_in_seconds),
        cmocka_unit_test(test_blobs_that_are_written_in_place),
        cmocka_unit_test(test_what_is_found_is_old),
        cmocka_unit_test(test_what_makes_up_for_each_other_is_found_in_seconds),
        cmocka_unit_test(test_what_hides_behind_other_commits_is_found_in_seconds),
        cmocka_unit_test(test_passes_keep_out_of_the_way),
        cmocka_unit_test(test_triggers_that_are_edited_away_come_back),
        cmocka_unit_test(test_an_older_copy_in_the_same_file),
        cmocka_unit_test(test_the_mark_is_taken_away),
        cmocka_unit_test(test_a_large_table_is_read_in_slices),
        cmocka_unit_test(test_many_missing_rows_are_not_believed),
        cmocka_unit_test(test_nothing_is_found_where_nothing_is_wrong),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
