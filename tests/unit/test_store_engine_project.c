/* The engine: showing what came. Readers are not disturbed, writes of the application come first, its triggers and cascades rest. */
#include <sys/wait.h>

#include "store_rig.h"

#define TABLES "CREATE TABLE t(k TEXT PRIMARY KEY, a, b); CREATE TABLE n(id INTEGER PRIMARY KEY, a)"

/* ---- another process that reads */

struct reader {
    pid_t pid;
    int go[2], ready[2];
};

/* Opens the file, leaves a SELECT open, says so, and ends when told. */
static int reading_process(const char *path, const struct reader *r) {
    sqlite3 *db;
    sqlite3_stmt *q;
    char c;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db, "SELECT k FROM t UNION ALL SELECT 'x' UNION ALL SELECT 'y'", -1, &q, NULL) != SQLITE_OK ||
        sqlite3_step(q) != SQLITE_ROW)
        return 1;
    if (write(r->ready[1], "r", 1) != 1 || read(r->go[0], &c, 1) != 1)
        return 2;
    sqlite3_finalize(q);
    return sqlite3_close(db) == SQLITE_OK ? 0 : 3;
}

static void reader_start(struct reader *r, const char *path) {
    char c;
    assert_int_equal(pipe(r->go) | pipe(r->ready), 0);
    r->pid = fork();
    if (r->pid == 0)
        _exit(reading_process(path, r));
    assert_int_equal(read(r->ready[0], &c, 1), 1);
}

static void reader_stop(struct reader *r) {
    int status;
    assert_int_equal(write(r->go[1], "g", 1), 1);
    assert_int_equal(waitpid(r->pid, &status, 0), r->pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(r->go[0]);
    close(r->go[1]);
    close(r->ready[0]);
    close(r->ready[1]);
}

/* Milliseconds of the store's time until server i shows something in t; -1 when it does not within `limit`. */
static int64_t shown_after(struct rig *r, uint32_t i, int64_t limit) {
    for (int64_t spent = 0; spent <= limit; spent += 10) {
        for (int k = 0; k < 3; k++)
            peer_turn(&r->peers[i]);
        if (app_int(rig_app(r, i), "SELECT count(*) FROM t"))
            return spent;
        side_skip(10);
    }
    return -1;
}

/* What server `from` made since `first` is given to server `to`; no turn is made. */
static void give_since(struct rig *r, uint32_t from, uint32_t first, uint32_t to) {
    for (uint32_t k = first; k < r->peers[from].s.made.count; k++)
        side_queue(&r->peers[to].s, r->peers[from].s.made.items[k]);
}

static void test_a_reader_is_waited_for(void **state) {
    (void)state;
    struct rig r;
    struct reader reader;
    rig_open(&r, 2, TABLES);
    uint32_t first = r.peers[0].s.made.count;
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 1, 1)");
    reader_start(&reader, r.peers[1].s.app_path);
    give_since(&r, 0, first, 1);
    assert_int_equal(shown_after(&r, 1, 5000), -1);
    assert_false(peer_settled(&r.peers[1]));
    json_t *doctor = store_doctor(r.peers[1].s.store);
    char *text = json_dumps(doctor, 0);
    assert_non_null(strstr(text, "a reader has been open"));
    free(text);
    json_decref(doctor);
    reader_stop(&reader);
    assert_in_range(shown_after(&r, 1, 5000), 0, 100);
    rig_share(&r);
    rig_assert_settled(&r);
    rig_close(&r);
}

static void test_a_reader_that_never_ends_is_waited_for_so_long(void **state) {
    (void)state;
    struct rig r;
    struct reader reader;
    for (int own_limit = 0; own_limit < 2; own_limit++) {
        rig_open(&r, 2, TABLES);
        if (own_limit) {
            r.peers[1].readers_wait_ms = 300;
            peer_reopen(&r.peers[1]);
            peer_rest(&r.peers[1]);
        }
        uint32_t first = r.peers[0].s.made.count;
        rig_act(&r, 0, "INSERT INTO t VALUES('k', 1, 1)");
        reader_start(&reader, r.peers[1].s.app_path);
        give_since(&r, 0, first, 1);
        int64_t ms = shown_after(&r, 1, 20000);
        if (own_limit)
            assert_in_range(ms, 200, 600);
        else
            assert_in_range(ms, 9000, 11500);
        reader_stop(&reader);
        rig_share(&r);
        rig_assert_settled(&r);
        rig_close(&r);
    }
}

/* ---- writes of the application between merge and projection */

/* Server 1's change to row 'k' is merged on server 0, and cannot be shown, while the application has the lock and runs `sql`. */
static void merge_while_locked(struct rig *r, const char *sql) {
    uint32_t first = r->peers[1].s.made.count;
    app_exec(rig_app(r, 0), "BEGIN IMMEDIATE");
    app_exec(rig_app(r, 0), sql);
    rig_tick();
    rig_act(r, 1, "UPDATE t SET a = 'remote', b = 'b' WHERE k = 'k'");
    give_since(r, 1, first, 0);
    for (int i = 0; i < 10; i++)
        peer_turn(&r->peers[0]);
    assert_rows(rig_app(r, 1), "SELECT a, b FROM t", "tremote|tb|;");
    struct db_state state;
    store_state(r->peers[0].s.store, &state);
    assert_int_equal(vv_get(&state.have, &r->peers[1].s.origin), r->peers[1].s.made.count);
    assert_false(state.settled);
}

static void test_a_write_between_merge_and_projection_comes_first(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 0, 0)");
    rig_share(&r);
    rig_time_passes(&r);
    merge_while_locked(&r, "UPDATE t SET a = 'local' WHERE k = 'k'; INSERT INTO n(a) VALUES('mine')");
    app_exec(rig_app(&r, 0), "COMMIT");
    peer_rest(&r.peers[0]);
    assert_rows(rig_app(&r, 0), "SELECT a, b FROM t",
                "tlocal|tb|;"); /* noticed later, so it wins; the rest of the remote change is there */
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_lost(&r.peers[i], "a", "\"remote\"") && peer_conflicts(&r.peers[i]) == 1);
    rig_close(&r);
}

static void test_a_delete_between_merge_and_projection(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 0, 0)");
    rig_share(&r);
    rig_time_passes(&r);
    merge_while_locked(&r, "DELETE FROM t WHERE k = 'k'");
    app_exec(rig_app(&r, 0), "COMMIT");
    peer_rest(&r.peers[0]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT count(*) FROM t", "i0|;"); /* an update that met a delete does not bring the row back */
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_lost(&r.peers[i], "a", "\"remote\""));
    rig_close(&r);
}

/* What the file still shows of a row that has died, and was written since, is no write. */
static void test_a_write_to_a_row_that_others_deleted_and_wrote(void **state) {
    (void)state;
    for (int again = 0; again < 2; again++) { /* it came again, or was updated by somebody who had not heard of its death */
        struct rig r;
        uint32_t first[3];
        rig_open(&r, 3, TABLES);
        rig_act(&r, 0, "INSERT INTO t VALUES('k', 'old', 'old')");
        rig_share(&r);
        rig_time_passes(&r);
        for (uint32_t i = 0; i < 3; i++)
            first[i] = r.peers[i].s.made.count;
        rig_act(&r, 1, "DELETE FROM t");
        rig_tick();
        rig_act(&r, again ? 1 : 2, again ? "INSERT INTO t VALUES('k', 'new', 'new')" : "UPDATE t SET a = 'new'");
        app_exec(rig_app(&r, 0), "BEGIN IMMEDIATE; UPDATE t SET b = 'mine'");
        for (uint32_t i = 1; i < 3; i++)
            give_since(&r, i, first[i], 0);
        for (int i = 0; i < 10; i++)
            peer_turn(&r.peers[0]);
        assert_false(peer_settled(&r.peers[0]));
        app_exec(rig_app(&r, 0), "COMMIT");
        rig_share(&r);
        rig_assert_settled(&r);
        assert_everywhere(&r, "SELECT a FROM t", again ? "tnew|;" : "");
        for (uint32_t i = 0; i < 3; i++) {
            assert_false(peer_lost(&r.peers[i], "a", "\"old\"") || peer_lost(&r.peers[i], "b", "\"old\""));
            assert_int_equal(peer_conflicts(&r.peers[i]), again ? 1 : 2);
        }
        rig_close(&r);
    }
}

static void test_a_rollback_between_merge_and_projection(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 0, 0)");
    rig_share(&r);
    rig_time_passes(&r);
    merge_while_locked(&r, "UPDATE t SET a = 'local' WHERE k = 'k'");
    app_exec(rig_app(&r, 0), "ROLLBACK");
    peer_rest(&r.peers[0]);
    assert_rows(rig_app(&r, 0), "SELECT a, b FROM t", "tremote|tb|;");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
    rig_close(&r);
}

static void test_the_later_stamp_wins(void **state) {
    (void)state;
    for (uint32_t later = 0; later < 2; later++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        rig_act(&r, 0, "INSERT INTO t VALUES('k', 0, 0)");
        rig_share(&r);
        rig_time_passes(&r);
        for (uint32_t turn = 0; turn < 2; turn++) {
            uint32_t who = turn ? later : 1 - later;
            rig_act(&r, who, who ? "UPDATE t SET a = 'one'" : "UPDATE t SET a = 'zero'");
            rig_tick();
        }
        rig_share(&r);
        rig_assert_settled(&r);
        assert_everywhere(&r, "SELECT a FROM t", later ? "tone|;" : "tzero|;");
        for (uint32_t i = 0; i < 2; i++)
            assert_true(peer_lost(&r.peers[i], "a", later ? "\"zero\"" : "\"one\""));
        rig_time_passes(&r);
        rig_act(&r, 0, "UPDATE t SET a = 'a person has seen it'");
        rig_share(&r);
        assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
        rig_close(&r);
    }
}

static void test_a_busy_application_cannot_keep_it_out(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    uint32_t first = r.peers[0].s.made.count;
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 1, 1)");
    give_since(&r, 0, first, 1);
    int turns = 0;
    while (app_int(rig_app(&r, 1), "SELECT count(*) FROM t") == 0) {
        app_exec(rig_app(&r, 1), "INSERT INTO n(a) VALUES('busy')");
        peer_turn(&r.peers[1]);
        assert_true(turns++ < 20);
    }
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    rig_close(&r);
}

/* ---- the application's own triggers and foreign keys */

static void test_triggers_of_the_application_do_not_run(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             TABLES "; CREATE TABLE audit(id INTEGER PRIMARY KEY, what); CREATE TABLE stop(k TEXT PRIMARY KEY);"
                    "CREATE TRIGGER a1 AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES('insert ' || new.k); END;"
                    "CREATE TRIGGER a2 AFTER UPDATE ON t BEGIN INSERT INTO audit(what) VALUES('update ' || new.k); END;"
                    "CREATE TRIGGER a3 BEFORE DELETE ON t BEGIN INSERT INTO audit(what) VALUES('delete ' || old.k); END");
    app_exec(rig_app(&r, 1), "CREATE TRIGGER never BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'not here'); END");
    peer_rest(&r.peers[1]);
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 1, 1); UPDATE t SET a = 2; INSERT INTO t VALUES('l', 1, 1); DELETE FROM t WHERE k = 'l'");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT what FROM audit ORDER BY id", "tinsert k|;tupdate k|;tinsert l|;tdelete l|;");
    assert_same_tables(&r);
    rig_close(&r);
}

static void test_foreign_keys_do_not_cascade(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE parent(k TEXT PRIMARY KEY); CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent(k) ON DELETE CASCADE ON "
             "UPDATE CASCADE);"
             "CREATE TABLE strict(k TEXT PRIMARY KEY, p REFERENCES parent(k) ON DELETE RESTRICT)");
    app_exec(rig_app(&r, 1), "PRAGMA foreign_keys=ON");
    rig_act(&r, 0,
            "INSERT INTO parent VALUES('p'), ('q'); INSERT INTO child VALUES('c', 'p'), ('orphan', 'nowhere'); INSERT INTO strict "
            "VALUES('s', 'q')");
    rig_share(&r);
    rig_assert_settled(&r);
    rig_time_passes(&r);
    rig_act(&r, 0, "DELETE FROM parent"); /* foreign keys are off in this program */
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT k FROM child UNION ALL SELECT k FROM strict ORDER BY 1", "tc|;torphan|;ts|;");
    assert_everywhere(&r, "SELECT count(*) FROM parent", "i0|;");
    rig_close(&r);
}

/* What is shown here is no write of this server's: nothing comes back. */
static void test_what_is_shown_makes_no_notes(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    uint32_t before = r.peers[1].s.made.count;
    int64_t notes = app_int(rig_app(&r, 1), "SELECT count(*) FROM _starling_dirty");
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 1, 1); INSERT INTO n(a) VALUES(1), (2)");
    rig_share(&r);
    rig_act(&r, 0, "UPDATE t SET a = 2; DELETE FROM n WHERE id = 1");
    rig_share(&r);
    assert_int_equal(r.peers[1].s.made.count, before);
    assert_true(app_int(rig_app(&r, 1), "SELECT count(*) FROM _starling_dirty") <= notes);
    rig_close(&r);
}

/* As many rows as are shown at a time, nearly. */
#define FILLER "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 1999) INSERT INTO t SELECT 'f' || i, i, i FROM s"

/* Much is in flight, and the application writes to a row that is among it: it is shown from the registers, ahead of what is in flight about it, which
 * must not be written over it afterwards. */
static void test_a_row_is_shown_ahead_of_what_is_in_flight_about_it(void **state) {
    (void)state;
    static const char *const THEN[] = {"UPDATE t SET a = 'C' WHERE k = 'k'", "DELETE FROM t WHERE k = 'k'",
                                       "BEGIN; DELETE FROM n WHERE id = 2; INSERT INTO n(a) VALUES('another'); COMMIT"};
    for (int then = 0; then < 3; then++)
        for (int restart = 0; restart < 2; restart++) {
            struct rig r;
            rig_open(&r, 2, TABLES);
            rig_act(&r, 0, "INSERT INTO t VALUES('k', 'A', 1); INSERT INTO n(a) VALUES(1), (2)");
            rig_share(&r);
            rig_time_passes(&r);
            uint32_t first = r.peers[0].s.made.count;
            rig_act(&r, 0, FILLER);
            rig_act(&r, 0, "UPDATE t SET a = 1 WHERE k GLOB 'f*'");
            rig_act(&r, 0, "UPDATE t SET a = 2 WHERE k GLOB 'f*'");
            rig_act(&r, 0, "UPDATE t SET a = 'B' WHERE k = 'k'; UPDATE n SET a = 'B'");
            give_since(&r, 0, first, 1);
            peer_turn(&r.peers[1]);
            peer_turn(&r.peers[1]); /* all is merged, and the first two are shown */
            assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t WHERE a = 1"), 1999);
            rig_tick();
            app_exec(rig_app(&r, 1), "UPDATE t SET b = 'local' WHERE k = 'k'; UPDATE n SET a = 'local' WHERE id = 1");
            rig_tick();
            first = r.peers[0].s.made.count;
            rig_act(&r, 0, THEN[then]);
            give_since(&r, 0, first, 1);
            for (int i = 0; i < 1 + restart; i++)
                peer_turn(&r.peers[1]);
            if (restart)
                peer_reopen(&r.peers[1]);
            peer_rest(&r.peers[1]);
            rig_share(&r);
            rig_assert_settled(&r);
            assert_same_tables(&r);
            rig_close(&r);
        }
}

static void test_journal_mode_delete(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        r.peers[i].s.pragmas = "PRAGMA journal_mode=DELETE";
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), TABLES);
        peer_open(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO t VALUES('k', 1, 1); INSERT INTO n(a) VALUES(1), (2)");
    rig_share(&r);
    rig_time_passes(&r);
    struct reader reader; /* a reader shuts out the COMMIT in this mode; it is tried again, and does not shut out others */
    uint32_t first = r.peers[0].s.made.count;
    rig_act(&r, 0, "INSERT INTO t VALUES('l', 1, 1)");
    reader_start(&reader, r.peers[1].s.app_path);
    give_since(&r, 0, first, 1);
    for (int i = 0; i < 50; i++) {
        peer_turn(&r.peers[1]);
        side_skip(10);
    }
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t"), 1);
    reader_stop(&reader);
    rig_share(&r);
    rig_act(&r, 1, "UPDATE t SET a = 5; DELETE FROM n WHERE id = 1");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_rows(rig_app(&r, 0), "SELECT k, a FROM t ORDER BY k", "tk|i5|;tl|i5|;");
    assert_rows(rig_app(&r, 0), "PRAGMA journal_mode", "tdelete|;");
    app_exec(rig_app(&r, 0), "PRAGMA journal_mode=WAL"); /* the mode is the application's, and may change at any time */
    rig_act(&r, 0, "UPDATE t SET b = 7");
    rig_share(&r);
    rig_act(&r, 1, "UPDATE t SET b = 8 WHERE k = 'k'");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    rig_close(&r);
}

/* An application that keeps the file for itself alone, as PRAGMA locking_mode=EXCLUSIVE does: not "damaged", and not "in sync" for ever. */
static void test_a_file_that_is_kept_locked(void **state) {
    (void)state;
    struct rig r;
    int wait = 0;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        r.peers[i].s.pragmas = "PRAGMA journal_mode=DELETE";
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), TABLES);
        peer_open(&r.peers[i]);
    }
    rig_share(&r);
    struct side *s = &r.peers[1].s;
    app_exec(s->app, "PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES('k', 1, 1)");
    json_t *doctor = store_doctor(s->store);
    char *text = json_dumps(doctor, 0);
    assert_null(strstr(text, "damaged"));
    assert_non_null(strstr(text, "keeps the file locked"));
    assert_non_null(strstr(text, "locking_mode=EXCLUSIVE"));
    free(text);
    json_decref(doctor);
    for (int i = 0; i < 1000 && wait >= -1; i++) {
        wait = store_turn(s->store, s->why, sizeof s->why);
        side_skip(10);
    }
    assert_int_equal(wait, ERR_BUSY);
    assert_non_null(strstr(s->why, "locked"));
    side_close_store(s);
    assert_int_equal(peer_try_open(&r.peers[1]), ERR_BUSY);
    assert_non_null(strstr(s->why, "locking_mode=EXCLUSIVE"));
    app_exec(s->app, "PRAGMA locking_mode=NORMAL; SELECT * FROM t");
    peer_open(&r.peers[1]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 1);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_reader_is_waited_for),
        cmocka_unit_test(test_a_reader_that_never_ends_is_waited_for_so_long),
        cmocka_unit_test(test_a_write_between_merge_and_projection_comes_first),
        cmocka_unit_test(test_a_delete_between_merge_and_projection),
        cmocka_unit_test(test_a_write_to_a_row_that_others_deleted_and_wrote),
        cmocka_unit_test(test_a_rollback_between_merge_and_projection),
        cmocka_unit_test(test_the_later_stamp_wins),
        cmocka_unit_test(test_a_busy_application_cannot_keep_it_out),
        cmocka_unit_test(test_triggers_of_the_application_do_not_run),
        cmocka_unit_test(test_foreign_keys_do_not_cascade),
        cmocka_unit_test(test_what_is_shown_makes_no_notes),
        cmocka_unit_test(test_a_row_is_shown_ahead_of_what_is_in_flight_about_it),
        cmocka_unit_test(test_journal_mode_delete),
        cmocka_unit_test(test_a_file_that_is_kept_locked),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
