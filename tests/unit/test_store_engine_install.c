/* The engine: triggers are put in, and put back, without disturbing the application. */
#include <sys/wait.h>

#include "store_rig.h"

#define TABLES "CREATE TABLE t(k TEXT PRIMARY KEY, a); INSERT INTO t VALUES('k', 1)"

/* ---- a process of the application that reads, goes on, and then writes, in one deferred transaction */

struct thinker {
    pid_t pid;
    int go[2], ready[2];
};

static int thinking_process(const char *path, const struct thinker *t) {
    sqlite3 *db;
    char c;
    close(t->go[1]); /* so that it ends with the test, however that one ends */
    if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_busy_timeout(db, 5000) != SQLITE_OK ||
        sqlite3_exec(db, "BEGIN; SELECT * FROM t", NULL, NULL, NULL) != SQLITE_OK)
        return 1;
    if (write(t->ready[1], "r", 1) != 1 || read(t->go[0], &c, 1) != 1)
        return 2;
    int rc = sqlite3_exec(db, "UPDATE t SET a = a + 1; COMMIT", NULL, NULL, NULL);
    return (rc & 0xff) == SQLITE_BUSY ? 3 : rc != SQLITE_OK ? 4 : sqlite3_close(db) == SQLITE_OK ? 0 : 5;
}

static void thinker_start(struct thinker *t, const char *path) {
    char c;
    assert_int_equal(pipe(t->go) | pipe(t->ready), 0);
    t->pid = fork();
    if (t->pid == 0)
        _exit(thinking_process(path, t));
    assert_int_equal(read(t->ready[0], &c, 1), 1);
}

static int thinker_end(struct thinker *t) {
    int status;
    assert_int_equal(write(t->go[1], "g", 1), 1);
    assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
    for (int i = 0; i < 2; i++) {
        close(t->go[i]);
        close(t->ready[i]);
    }
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int64_t triggers_of(struct peer *p, const char *table) {
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = '%s'", table);
    return app_int(p->s.app, sql);
}

/* Milliseconds of the store's time until the table has triggers; -1 when it has none within `limit`. */
static int64_t noted_after(struct peer *p, const char *table, int64_t limit) {
    int64_t began = clock_us() / 1000, now;
    while ((now = clock_us() / 1000) <= began + limit) {
        for (int k = 0; k < 3; k++)
            peer_turn(p);
        if (triggers_of(p, table) > 1)
            return clock_us() / 1000 - began;
        side_skip(100);
    }
    return -1;
}

static void test_who_reads_is_waited_for(void **state) {
    (void)state;
    struct rig r;
    struct thinker t;
    rig_open(&r, 2, TABLES);
    app_exec(rig_app(&r, 0), "CREATE TABLE fresh(id INTEGER PRIMARY KEY, v); INSERT INTO fresh VALUES(1, 'x')");
    thinker_start(&t, r.peers[0].s.app_path);
    assert_int_equal(noted_after(&r.peers[0], "fresh", 800), -1);
    assert_int_equal(thinker_end(&t), 0);
    assert_in_range(noted_after(&r.peers[0], "fresh", 500), 0, 400);
    app_exec(rig_app(&r, 1), "CREATE TABLE fresh(id INTEGER PRIMARY KEY, v)");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    rig_close(&r);
}

static void test_who_reads_on_and_on_is_waited_for_so_long(void **state) {
    (void)state;
    struct rig r;
    struct thinker t;
    rig_open(&r, 2, TABLES);
    app_exec(rig_app(&r, 0), "CREATE TABLE fresh(id INTEGER PRIMARY KEY, v)");
    thinker_start(&t, r.peers[0].s.app_path);
    assert_in_range(noted_after(&r.peers[0], "fresh", 10000), 1500, 5000);
    assert_int_equal(thinker_end(&t), 3); /* as beside any second writer */
    rig_close(&r);
}

static void test_who_reads_is_waited_for_when_the_node_starts(void **state) {
    (void)state;
    struct rig r;
    struct thinker t;
    rig_open(&r, 1, TABLES);
    side_close_store(&r.peers[0].s);
    app_exec(rig_app(&r, 0), "CREATE TABLE fresh(id INTEGER PRIMARY KEY, v)");
    thinker_start(&t, r.peers[0].s.app_path);
    assert_int_equal(peer_try_open(&r.peers[0]), ERR_BUSY);
    assert_int_equal(thinker_end(&t), 0);
    peer_open(&r.peers[0]);
    assert_true(triggers_of(&r.peers[0], "fresh") > 1);
    rig_close(&r);
}

/* Every write fails then, so it is mended at once, whoever reads. */
static void test_a_dropped_note_table_is_back_at_once(void **state) {
    (void)state;
    struct rig r;
    struct thinker t;
    rig_open(&r, 2, TABLES);
    app_exec(rig_app(&r, 0), "DROP TABLE _starling_dirty");
    assert_int_equal(sqlite3_exec(rig_app(&r, 0), "UPDATE t SET a = 5", NULL, NULL, NULL), SQLITE_ERROR);
    thinker_start(&t, r.peers[0].s.app_path);
    for (int i = 0; i < 3; i++)
        peer_turn(&r.peers[0]);
    assert_rows(rig_app(&r, 0), "SELECT a FROM t",
                "i1|;"); /* SQLite looks at the schema before it reads, but not before it compiles a trigger */
    app_exec(rig_app(&r, 0), "UPDATE t SET a = 5");
    assert_int_not_equal(thinker_end(&t), 0);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT a FROM t", "i5|;");
    rig_close(&r);
}

static double lock_ms(struct peer *p) {
    json_t *status = store_status(p->s.store);
    double ms = json_real_value(json_object_get(status, "lock_ms_p99"));
    char *text = json_dumps(json_object_get(status, "lock_ms_p99"), JSON_ENCODE_ANY), *dot = strchr(text, '.');
    assert_true(dot && strlen(dot + 1) <= 3);
    free(text);
    json_decref(status);
    return ms;
}

static void test_the_lock_is_counted(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1, TABLES);
    assert_true(lock_ms(&r.peers[0]) > 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_reads_is_waited_for),
        cmocka_unit_test(test_who_reads_on_and_on_is_waited_for_so_long),
        cmocka_unit_test(test_who_reads_is_waited_for_when_the_node_starts),
        cmocka_unit_test(test_a_dropped_note_table_is_back_at_once),
        cmocka_unit_test(test_the_lock_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
