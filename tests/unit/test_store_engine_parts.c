/* The engine: commits that are too large for one batch. Their rows are shown together, or not yet. */
#include <sched.h>
#include <sys/wait.h>

#include "store_rig.h"

#define PHOTOS                                                                                                                             \
    "CREATE TABLE photo(id INTEGER PRIMARY KEY, data BLOB); CREATE TABLE other(k TEXT PRIMARY KEY, v); CREATE TABLE given(k TEXT PRIMARY " \
    "KEY, v)"
#define EIGHT                                                                                                                              \
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8) INSERT INTO photo SELECT i, zeroblob(10000000 + i) FROM " \
    "n"
#define GIVEN_30000                                                                                                                        \
    "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO given SELECT 'k' || i, 0 FROM n; " \
    "UPDATE given SET v = substr(k, 2) + 0; COMMIT"

static struct bytes *made(const struct rig *r, uint32_t i, uint32_t at) {
    assert_true(at < r->peers[i].s.made.count);
    return r->peers[i].s.made.items[at];
}

static bool is_part(const struct bytes *b) {
    struct batch_head head;
    assert_int_equal(batch_head_read(&head, b->data, b->len), 0);
    bool part = head.flags & BATCH_PART;
    batch_head_release(&head);
    return part;
}

static void hand(struct peer *to, struct bytes *b) {
    side_queue(&to->s, b);
    for (int i = 0; i < 20; i++) /* much less than the store waits for a last part */
        peer_turn(to);
}

static int64_t photos(struct rig *r, uint32_t i) { return app_int(rig_app(r, i), "SELECT count(*) FROM photo"); }

static void test_many_megabytes_are_shown_at_once(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        rig_open(&r, 2, PHOTOS);
        uint32_t first = r.peers[0].s.made.count;
        rig_act(&r, 0, EIGHT);
        assert_int_equal(r.peers[0].s.made.count, first + 2);
        assert_true(is_part(made(&r, 0, first)) && !is_part(made(&r, 0, first + 1)));
        hand(&r.peers[1], made(&r, 0, first));
        assert_int_equal(photos(&r, 1), 0);
        assert_false(peer_settled(&r.peers[1]));
        if (restart) {
            peer_reopen(&r.peers[1]);
            for (int i = 0; i < 20; i++)
                peer_turn(&r.peers[1]);
            assert_int_equal(photos(&r, 1), 0);
        }
        hand(&r.peers[1], made(&r, 0, first + 1));
        assert_int_equal(photos(&r, 1), 8);
        rig_share(&r);
        rig_assert_settled(&r);
        assert_rows(rig_app(&r, 1), "SELECT sum(length(data)) FROM photo", "i80000036|;");
        rig_close(&r);
    }
}

/* The last part does not come: others are shown after a while, and the rows of the parts still together at the end. */
static void test_others_do_not_wait_for_ever(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, PHOTOS);
    uint32_t first = r.peers[0].s.made.count, other = r.peers[2].s.made.count;
    rig_act(&r, 0, EIGHT);
    rig_act(&r, 2, "INSERT INTO other VALUES('k', 1)");
    hand(&r.peers[1], made(&r, 0, first));
    hand(&r.peers[1], made(&r, 2, other));
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM other"), 0);
    for (int i = 0; i < 100; i++) {
        side_skip(100);
        peer_turn(&r.peers[1]);
    }
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM other"), 1);
    assert_int_equal(photos(&r, 1), 0);
    assert_false(peer_settled(&r.peers[1]));
    peer_reopen(&r.peers[1]);
    rig_act(&r, 1, "INSERT INTO other VALUES('mine', 1)");
    assert_int_equal(photos(&r, 1), 0);
    hand(&r.peers[1], made(&r, 0, first + 1));
    assert_int_equal(photos(&r, 1), 8);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_table(&r, "other");
    assert_same(&r, "SELECT id, length(data) FROM photo ORDER BY id");
    rig_close(&r);
}

/* More notes than one drain takes, and the application commits meanwhile. */
static void test_more_notes_than_one_drain_takes(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PHOTOS);
    uint32_t first = r.peers[0].s.made.count;
    app_exec(rig_app(&r, 0), GIVEN_30000); /* two notes a row */
    peer_turn(&r.peers[0]);
    assert_int_equal(r.peers[0].s.made.count, first); /* a part alone does not leave */
    app_exec(rig_app(&r, 0), "INSERT INTO other VALUES('meanwhile', 1)");
    peer_rest(&r.peers[0]);
    assert_int_equal(r.peers[0].s.made.count, first + 2);
    assert_true(is_part(made(&r, 0, first)) && !is_part(made(&r, 0, first + 1)));
    assert_int_equal(rig_made_rows(&r, 0, first), 30001);
    hand(&r.peers[1], made(&r, 0, first));
    assert_rows(rig_app(&r, 1), "SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM other)", "i0|i0|;");
    hand(&r.peers[1], made(&r, 0, first + 1));
    assert_rows(rig_app(&r, 1), "SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM other)", "i30000|i1|;");
    rig_share(&r);
    rig_assert_settled(&r);
    rig_time_passes(&r);
    rig_act(&r, 1, "UPDATE given SET v = v + 1");
    rig_share(&r);
    rig_act(&r, 0, "DELETE FROM given WHERE v % 3 = 0");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_table(&r, "given");
    rig_close(&r);
}

/* The part that is drained is lost in a crash before the last one: it is made again, or completed; nothing twice. */
static void test_a_restart_between_the_parts_of_a_drain(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PHOTOS);
    app_exec(rig_app(&r, 0), GIVEN_30000);
    peer_turn(&r.peers[0]);
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_table(&r, "given");
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM given"), 30000);
    rig_close(&r);
}

/* Another process that looks all the time sees none of the rows or all of them. */
static int watch_process(const char *path, int ready, int64_t all) {
    sqlite3 *db;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
        return 2;
    sqlite3_busy_timeout(db, 5000);
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(db, "SELECT count(*) FROM given", -1, &q, NULL) != SQLITE_OK || write(ready, "r", 1) != 1)
        return 3;
    int64_t until = (int64_t)time(NULL) + 60;
    while ((int64_t)time(NULL) < until) {
        if (sqlite3_step(q) != SQLITE_ROW)
            return 4;
        int64_t n = sqlite3_column_int64(q, 0);
        sqlite3_reset(q);
        if (n == all)
            return 0;
        if (n != 0)
            return 1;
        sched_yield();
    }
    return 5;
}

static void test_a_looking_process_never_sees_half(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PHOTOS);
    rig_act(&r, 0, GIVEN_30000);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(watch_process(r.peers[1].s.app_path, ready[1], 30000));
    char c;
    assert_int_equal(read(ready[0], &c, 1), 1);
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM given"), 30000);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(ready[0]);
    close(ready[1]);
    rig_close(&r);
}

/* More rows than are shown in one transaction: in parts, and all of them in the end. */
static void test_commits_of_very_many_rows_arrive(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PHOTOS "; CREATE TABLE n(id INTEGER PRIMARY KEY, v)");
    rig_act(&r, 0, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120000) INSERT INTO n(v) SELECT i FROM n");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same(&r, "SELECT count(*), sum(v), sum(id * v) FROM n");
    rig_close(&r);
}

/* Within one commit of several parts: rows that change places, and rows that die again. */
static void test_parts_with_every_kind_of_change(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PHOTOS "; CREATE TABLE u(id INTEGER PRIMARY KEY, v UNIQUE, data)");
    rig_act(&r, 0,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8) INSERT INTO u SELECT i, i, zeroblob(10) FROM n");
    rig_share(&r);
    rig_time_passes(&r);
    rig_act(&r, 0,
            "BEGIN; UPDATE u SET v = -v; UPDATE u SET v = 9 + v, data = zeroblob(9000000 + id);" /* values turned round */
            "DELETE FROM u WHERE id = 3; INSERT INTO u VALUES(33, 6, zeroblob(9000000)); UPDATE u SET id = 77 WHERE id = 7; COMMIT");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same(&r, "SELECT id, v, length(data) FROM u ORDER BY id");
    for (uint32_t i = 0; i < 2; i++)
        assert_null(strstr(r.peers[i].log, "cannot be shown"));
    rig_close(&r);
}

static void write_while_they_fly(struct peer *p) {
    p->in_between = NULL;
    app_exec(p->s.app, "UPDATE a SET w = 1");
}

/* A row that the application wrote before a commit of others was shown comes as it is in the end: not before the commit that made it so. */
static void test_a_row_that_is_ahead_of_its_commit(void **state) {
    (void)state;
    struct rig r;
    int looks = 0;
    rig_open(&r, 2,
             "CREATE TABLE a(k TEXT PRIMARY KEY, v, w); CREATE TABLE b(id INTEGER PRIMARY KEY, v); CREATE TABLE c(k TEXT PRIMARY KEY)");
    rig_act(&r, 0, "INSERT INTO a VALUES('r', 'old', 0)");
    rig_share(&r);
    rig_time_passes(&r);
    rig_act(&r, 0, "UPDATE a SET v = 'next'");
    rig_act(&r, 0, "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 2500) INSERT INTO b SELECT i, 'x' FROM n");
    rig_act(&r, 0, "BEGIN; UPDATE a SET v = 'late'; INSERT INTO c VALUES('late'); COMMIT");
    peer_queue(&r.peers[1], &r.peers[0]);
    r.peers[1].in_between = write_while_they_fly;
    app_exec(rig_app(&r, 1), "INSERT INTO a VALUES('another', 'late', 1)");
    peer_turn(&r.peers[1]);
    for (; looks < 200 && !peer_settled(&r.peers[1]); looks++) {
        peer_turn(&r.peers[1]);
        assert_rows(rig_app(&r, 1), "SELECT (SELECT v FROM a WHERE k = 'r') = 'late', (SELECT count(*) FROM c)",
                    peer_settled(&r.peers[1]) ? "i1|i1|;" : "i0|i0|;");
    }
    assert_true(looks > 0);
    rig_share(&r);
    assert_everywhere(&r, "SELECT v, w FROM a", "tlate|i1|;tlate|i1|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_row_that_is_ahead_of_its_commit),
        cmocka_unit_test(test_many_megabytes_are_shown_at_once),
        cmocka_unit_test(test_others_do_not_wait_for_ever),
        cmocka_unit_test(test_more_notes_than_one_drain_takes),
        cmocka_unit_test(test_a_restart_between_the_parts_of_a_drain),
        cmocka_unit_test(test_a_looking_process_never_sees_half),
        cmocka_unit_test(test_commits_of_very_many_rows_arrive),
        cmocka_unit_test(test_parts_with_every_kind_of_change),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
