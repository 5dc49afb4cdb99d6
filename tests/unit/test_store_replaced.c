/* The engine: another file in the application's place, or the same one from which our triggers were removed. See generation.c. */
#include "store_rig.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE k(x TEXT PRIMARY KEY, a, b); CREATE TABLE n(id INTEGER PRIMARY KEY, a, b); CREATE TABLE link(x TEXT, y INTEGER, "        \
    "PRIMARY KEY(x, y)) WITHOUT ROWID"
#define ROWS                                                                                                                               \
    "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 40) INSERT INTO k SELECT 'k' || i, 'a' || i, 'b' FROM s;"    \
    "INSERT INTO n(a, b) SELECT a, b FROM k ORDER BY rowid; INSERT INTO link SELECT x, 1 FROM k"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void prepare(struct rig *r, uint32_t count) {
    rig_open(r, count, TABLES);
    rig_act(r, 0, ROWS);
    share_same(r);
    rig_act(r, 1, "UPDATE k SET b = 'remote' WHERE x = 'k1'"); /* so that server 0 has shown something */
    share_same(r);
}

static void down(struct rig *r, uint32_t i) {
    side_close_store(&r->peers[i].s);
    side_close_app(&r->peers[i].s);
}

static void remove_tails(const char *path) {
    static const char *const tails[] = {"-wal", "-shm", "-journal"};
    for (int i = 0; i < 3; i++) {
        char name[300];
        snprintf(name, sizeof name, "%s%s", path, tails[i]);
        remove(name);
    }
}

static void start_app(struct rig *r, uint32_t i, const char *sql) {
    assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
    if (sql)
        app_exec(rig_app(r, i), sql);
}

/* Everything in one file, as VACUUM INTO or a backup program makes it. */
static void copy_take(struct rig *r, uint32_t i, char path[300]) {
    char sql[400];
    snprintf(path, 300, "%s/copy%u", r->scratch.folder, i);
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", path);
    app_exec(rig_app(r, i), sql);
    rig_tick();
}

static void copy_put(struct rig *r, uint32_t i, const char *path) {
    remove_tails(r->peers[i].s.app_path);
    assert_int_equal(rename(path, r->peers[i].s.app_path), 0);
    rig_tick();
}

static uint32_t own_epoch(struct peer *p) {
    struct db_state state;
    uint32_t epoch = 0;
    store_state(p->s.store, &state);
    for (uint32_t i = 0; i < state.have.count; i++)
        if (memcmp(state.have.entries[i].origin.node, p->s.origin.node, NODE_ID_BYTES) == 0 && state.have.entries[i].origin.epoch > epoch)
            epoch = state.have.entries[i].origin.epoch;
    return epoch;
}

static void reopen_now_and_then(struct rig *r, uint32_t i, int restarts) {
    for (int n = 0; n < restarts; n++) {
        peer_turn(&r->peers[i]);
        peer_reopen(&r->peers[i]);
    }
}

/* ---- our triggers and tables removed */

static void uninstall(struct rig *r, uint32_t i) {
    char why[500];
    side_close_store(&r->peers[i].s);
    assert_int_equal(store_uninstall(r->peers[i].s.app_path, why, sizeof why), 0);
}

static void test_writes_after_an_uninstall_are_taken(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 12; restarts += 4) {
        struct rig r;
        prepare(&r, 2);
        app_exec(rig_app(&r, 0), "UPDATE k SET a = 'not drained yet' WHERE x = 'k9'");
        uninstall(&r, 0);
        app_exec(rig_app(&r, 0),
                 "DELETE FROM k WHERE x IN ('k2', 'k3'); DELETE FROM n WHERE id = 4; UPDATE k SET a = 'after' WHERE x = 'k5';"
                 "UPDATE k SET a = 'a6' WHERE x = 'k6'; INSERT INTO k VALUES('new', 1, 2); DELETE FROM link WHERE x = 'k2'");
        rig_tick();
        rig_act(&r, 1, "UPDATE k SET a = 'newer there' WHERE x = 'k5'; INSERT INTO n(a) VALUES('there')");
        peer_open(&r.peers[0]);
        reopen_now_and_then(&r, 0, restarts);
        share_same(&r);
        assert_everywhere(&r, "SELECT x, a FROM k WHERE x IN ('k1', 'k2', 'k3', 'k5', 'k9', 'new') ORDER BY x",
                          "tk1|ta1|;tk5|tnewer there|;tk9|tnot drained yet|;tnew|i1|;");
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM k), (SELECT count(*) FROM n), (SELECT count(*) FROM link)", "i39|i40|i39|;");
        assert_true(peer_lost(&r.peers[0], "a", "\"after\""));
        rig_act(&r, 0, "DELETE FROM k WHERE x = 'k7'; INSERT INTO n(a) VALUES('noted again')");
        share_same(&r);
        uninstall(&r, 0); /* again */
        app_exec(rig_app(&r, 0), "DELETE FROM k WHERE x = 'k8'");
        peer_open(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*), sum(x IN ('k7', 'k8')) FROM k", "i37|i0|;");
        rig_close(&r);
    }
}

/* A row that was there before the node first ran has the lowest stamp: what is found in it later goes above that. */
static void test_an_adopted_row_after_an_uninstall(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE a(x TEXT PRIMARY KEY, v); INSERT INTO a VALUES('k', 1), ('l', 1)");
    rig_share(&r);
    uninstall(&r, 0);
    app_exec(rig_app(&r, 0), "UPDATE a SET v = 99 WHERE x = 'k'");
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT v FROM a ORDER BY x", "i99|;i1|;");
    rig_close(&r);
}

static void test_many_deletions_after_an_uninstall_are_asked_for(void **state) {
    (void)state;
    struct rig r;
    prepare(&r, 2);
    uninstall(&r, 0);
    app_exec(rig_app(&r, 0), "DELETE FROM k WHERE x <> 'k1'; DELETE FROM link WHERE x <> 'k1'");
    peer_open(&r.peers[0]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT (SELECT count(*) FROM k), (SELECT count(*) FROM link)", "i40|i40|;");
    assert_false(peer_settled(&r.peers[0]));
    assert_problem(&r.peers[0], "k", "39 rows are gone");
    rig_close(&r);
}

/* Somebody drops all that is ours from the running application's database. */
static void test_all_of_ours_dropped_by_hand(void **state) {
    (void)state;
    for (int running = 0; running < 2; running++) {
        struct rig r;
        uint32_t count;
        prepare(&r, 2);
        if (!running)
            side_close_store(&r.peers[0].s);
        char **names = side_query(rig_app(&r, 0),
                                  "SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name NOT GLOB "
                                  "'_starling_*' UNION ALL SELECT 'DROP TABLE ' || name FROM sqlite_schema WHERE type = 'table' AND "
                                  "name GLOB '_starling_*'",
                                  &count);
        app_exec(rig_app(&r, 0), "BEGIN");
        for (uint32_t i = 0; i < count; i++)
            app_exec(rig_app(&r, 0), names[i]);
        app_exec(rig_app(&r, 0), "COMMIT");
        side_lines_free(names, count);
        app_exec(rig_app(&r, 0), "DELETE FROM k WHERE x = 'k2'; UPDATE k SET a = 'unseen' WHERE x = 'k3'; INSERT INTO n(a) VALUES('new')");
        if (!running)
            peer_open(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT x, a FROM k WHERE x IN ('k2', 'k3')", "tk3|tunseen|;");
        assert_everywhere(&r, "SELECT count(*) FROM n", "i41|;");
        rig_close(&r);
    }
}

/* ---- another file */

#define DEFAULTS                                                                                                                           \
    "INSERT INTO k VALUES('k1', 'default', 'default'), ('only here', 1, 1); INSERT INTO n VALUES(1, 'a1', 'default'), (2, 'a2', 'b');"     \
    "INSERT INTO link VALUES('k9', 1)"

/* The application deletes its database and makes it anew, with the defaults that it gives to every new one. */
static void test_deleted_and_made_anew(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 12; restarts += 4) {
        struct rig r;
        prepare(&r, 3);
        down(&r, 0);
        rig_act(&r, 1, "DELETE FROM k WHERE x = 'k30'");
        remove_tails(r.peers[0].s.app_path);
        assert_int_equal(remove(r.peers[0].s.app_path), 0);
        start_app(&r, 0, TABLES ";" DEFAULTS);
        peer_open(&r.peers[0]);
        reopen_now_and_then(&r, 0, restarts);
        share_same(&r);
        assert_everywhere(&r, "SELECT x, a, b FROM k WHERE x IN ('k1', 'only here') ORDER BY x", "tk1|ta1|tremote|;tonly here|i1|i1|;");
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM k), (SELECT count(*) FROM n), (SELECT count(*) FROM link)", "i40|i40|i40|;");
        assert_everywhere(&r, "SELECT a, b FROM n WHERE id = 1", "ta1|tb|;");
        for (uint32_t i = 0; i < 3; i++) { /* what lost is listed, everywhere */
            assert_true(peer_lost(&r.peers[i], "a", "\"default\""));
            assert_true(peer_lost(&r.peers[i], "b", "\"default\""));
            assert_int_equal(peer_conflicts(&r.peers[i]), 3);
        }
        assert_true(own_epoch(&r.peers[0]) > 0);
        rig_act(&r, 0, "UPDATE k SET a = 'after' WHERE x = 'k1'; DELETE FROM n WHERE id = 2");
        share_same(&r);
        assert_everywhere(&r, "SELECT a, b FROM k WHERE x = 'k1'", "tafter|tremote|;");
        peer_reopen(&r.peers[0]);
        uint32_t epoch = own_epoch(&r.peers[0]);
        share_same(&r);
        assert_int_equal(own_epoch(&r.peers[0]), epoch);
        rig_close(&r);
    }
}

/* So early that nobody has written anything yet: what was there when the node first ran is known by its base alone. */
static void test_made_anew_after_a_first_capture(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        start_app(&r, i, TABLES "; INSERT INTO k VALUES('x', 1, 1), ('y', 2, 2); INSERT INTO n(a) VALUES(1), (2)");
        peer_open(&r.peers[i]);
    }
    share_same(&r);
    down(&r, 0);
    remove_tails(r.peers[0].s.app_path);
    assert_int_equal(remove(r.peers[0].s.app_path), 0);
    start_app(&r, 0, TABLES "; INSERT INTO k VALUES('x', 'default', 1)");
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a FROM k ORDER BY x", "tx|i1|;ty|i2|;");
    assert_everywhere(&r, "SELECT count(*) FROM n", "i2|;");
    rig_close(&r);
}

/* The tables come one by one, and late: nothing that is missing meanwhile is taken for deleted. */
static void test_made_anew_little_by_little(void **state) {
    (void)state;
    struct rig r;
    prepare(&r, 2);
    down(&r, 0);
    remove_tails(r.peers[0].s.app_path);
    assert_int_equal(remove(r.peers[0].s.app_path), 0);
    start_app(&r, 0, NULL);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    rig_act(&r, 0, "CREATE TABLE n(id INTEGER PRIMARY KEY, a, b)");
    rig_share(&r);
    rig_act(&r, 0, "CREATE TABLE k(x TEXT PRIMARY KEY, a)");
    rig_share(&r);
    assert_false(peer_settled(&r.peers[0]));
    rig_act(&r, 0, "ALTER TABLE k ADD COLUMN b; CREATE TABLE link(x TEXT, y INTEGER, PRIMARY KEY(x, y)) WITHOUT ROWID");
    share_same(&r);
    assert_everywhere(&r, "SELECT (SELECT count(*) FROM k), (SELECT count(*) FROM n), (SELECT count(*) FROM link)", "i40|i40|i40|;");
    rig_close(&r);
}

/* A backup from before the node first ran: nobody has ever seen the values in it. */
static void test_a_backup_from_before_the_node(void **state) {
    (void)state;
    for (int into_open = 0; into_open < 2; into_open++) {
        struct rig r;
        char copy[300];
        rig_start(&r, 2);
        for (uint32_t i = 0; i < 2; i++)
            start_app(&r, i, TABLES "; INSERT INTO k VALUES('x', 'first', 1), ('y', 'first', 2)");
        copy_take(&r, 0, copy);
        for (uint32_t i = 0; i < 2; i++) {
            app_exec(rig_app(&r, i), "UPDATE k SET a = 'second'; INSERT INTO k VALUES('z', 1, 1)");
            peer_open(&r.peers[i]);
        }
        share_same(&r);
        rig_act(&r, 1, "UPDATE k SET a = 'third' WHERE x = 'y'; INSERT INTO n(a) VALUES(1)");
        share_same(&r);
        if (into_open) {
            sqlite3 *from = app_open(copy);
            sqlite3_backup *b = sqlite3_backup_init(rig_app(&r, 0), "main", from, "main");
            assert_int_equal(sqlite3_backup_step(b, -1), SQLITE_DONE);
            assert_int_equal(sqlite3_backup_finish(b), SQLITE_OK);
            sqlite3_close(from);
            remove(copy);
        } else {
            down(&r, 0);
            copy_put(&r, 0, copy);
            start_app(&r, 0, NULL);
            peer_open(&r.peers[0]);
        }
        share_same(&r);
        assert_everywhere(&r, "SELECT x, a FROM k ORDER BY x", "tx|tsecond|;ty|tthird|;tz|i1|;");
        assert_everywhere(&r, "SELECT count(*) FROM n", "i1|;");
        assert_true(peer_lost(&r.peers[1], "a", "\"first\""));
        rig_close(&r);
    }
}

/* The database of another server, with that one's notes and mark, is put in the place of ours: newer or older than what we know. */
static void test_the_file_of_another_server(void **state) {
    (void)state;
    for (int older = 0; older < 2; older++) {
        struct rig r;
        char copy[300];
        prepare(&r, 2);
        if (older)
            copy_take(&r, 1, copy);
        rig_act(&r, 1,
                "UPDATE k SET a = 'from 1' WHERE x IN ('k2', 'k3'); DELETE FROM k WHERE x = 'k4'; INSERT INTO k VALUES('new', 1, 1)");
        rig_share(&r);
        rig_time_passes(&r);
        rig_act(&r, 0, "UPDATE k SET a = 'from 0' WHERE x = 'k5'; DELETE FROM k WHERE x = 'k6'");
        if (!older) {
            rig_act(&r, 1, "UPDATE k SET a = 'not sent yet' WHERE x = 'k7'; DELETE FROM k WHERE x = 'k8'");
            copy_take(&r, 1, copy);
        }
        down(&r, 0);
        copy_put(&r, 0, copy);
        start_app(&r, 0, NULL);
        peer_open(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT x, a FROM k WHERE x IN ('k2', 'k4', 'k5', 'k6', 'new') ORDER BY x",
                          "tk2|tfrom 1|;tk5|tfrom 0|;tnew|i1|;");
        assert_everywhere(&r, "SELECT count(*) FROM n", "i40|;");
        if (!older)
            assert_everywhere(&r, "SELECT x, a FROM k WHERE x IN ('k7', 'k8')", "tk7|tnot sent yet|;");
        rig_act(&r, 0, "UPDATE k SET b = 'goes on' WHERE x = 'k9'");
        rig_act(&r, 1, "UPDATE k SET b = 'too' WHERE x = 'k10'");
        share_same(&r);
        rig_close(&r);
    }
}

/* The same before anything was written or shown here: the mark alone tells. */
static void test_the_file_of_another_server_at_first(void **state) {
    (void)state;
    struct rig r;
    char copy[300];
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        start_app(&r, i, TABLES "; INSERT INTO k VALUES('x', 1, 1), ('y', 2, 2)");
        peer_open(&r.peers[i]);
    }
    share_same(&r);
    rig_act(&r, 1, "DELETE FROM k WHERE x = 'x'; UPDATE k SET a = 'not sent yet' WHERE x = 'y'");
    copy_take(&r, 1, copy);
    down(&r, 0);
    copy_put(&r, 0, copy);
    start_app(&r, 0, NULL);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_rows(rig_app(&r, 0), "SELECT x, a FROM k ORDER BY x", "tx|i1|;ty|i2|;");
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a FROM k ORDER BY x", "ty|tnot sent yet|;");
    rig_close(&r);
}

/* A database with our tables comes to a server without a state: its versions are nobody else's. */
static void test_a_copy_at_a_new_server(void **state) {
    (void)state;
    struct rig r;
    char copy[300];
    rig_start(&r, 2);
    start_app(&r, 0, TABLES);
    peer_open(&r.peers[0]);
    rig_act(&r, 0, "INSERT INTO k VALUES('x', 1, 1), ('y', 2, 2)");
    copy_take(&r, 0, copy);
    assert_int_equal(rename(copy, r.peers[1].s.app_path), 0);
    start_app(&r, 1, NULL);
    peer_open(&r.peers[1]);
    peer_rest(&r.peers[1]);
    assert_true(own_epoch(&r.peers[1]) > 0);
    assert_int_equal(r.peers[0].s.made.count > 0, 1);
    rig_act(&r, 1, "UPDATE k SET b = 'here' WHERE x = 'x'");
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a, b FROM k ORDER BY x", "tx|i1|there|;ty|i2|i2|;");
    rig_close(&r);
}

/* The same bytes in a file of its own. */
static void copy_in_place(const char *path) {
    char other[300], bytes[65536];
    size_t n;
    snprintf(other, sizeof other, "%s.copied", path);
    FILE *from = fopen(path, "rb"), *to = fopen(other, "wb");
    assert_true(from && to);
    while ((n = fread(bytes, 1, sizeof bytes, from)) > 0)
        assert_int_equal(fwrite(bytes, 1, n, to), n);
    fclose(from);
    assert_int_equal(fclose(to), 0);
    assert_int_equal(rename(other, path), 0);
}

/* The state folder is copied together with the database: whoever goes on with the copy writes under another epoch; and with a key of its own,
 * what the copy did under the old one is still everybody's. */
static void test_a_copied_state(void **state) {
    (void)state;
    struct rig r;
    prepare(&r, 2);
    down(&r, 0);
    copy_in_place(r.peers[0].s.state_path);
    start_app(&r, 0, NULL);
    peer_open(&r.peers[0]);
    rig_act(&r, 0, "UPDATE k SET a = 'copy' WHERE x = 'k2'");
    uint32_t epoch = own_epoch(&r.peers[0]);
    assert_true(epoch > 1000000000);
    share_same(&r);
    assert_everywhere(&r, "SELECT a FROM k WHERE x = 'k2'", "tcopy|;");
    peer_reopen(&r.peers[0]);
    rig_act(&r, 0, "UPDATE k SET a = 'the same copy' WHERE x = 'k2'");
    assert_int_equal(own_epoch(&r.peers[0]), epoch);
    side_close_store(&r.peers[0].s);
    uint8_t seed[crypto_sign_SEEDBYTES] = {77};
    crypto_sign_seed_keypair(r.peers[0].s.key, r.peers[0].s.secret, seed);
    node_id_of_key(r.peers[0].s.origin.node, r.peers[0].s.key);
    peer_open(&r.peers[0]);
    rig_time_passes(&r);
    rig_act(&r, 0, "UPDATE k SET a = 'another key' WHERE x = 'k4'; DELETE FROM k WHERE x = 'k3'");
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a FROM k WHERE x IN ('k2', 'k3', 'k4') ORDER BY x", "tk2|tthe same copy|;tk4|tanother key|;");
    assert_int_equal(peer_conflicts(&r.peers[1]), 0);
    rig_close(&r);
}

/* The -wal is deleted, with all that had not been moved into the file. */
static void test_a_deleted_wal(void **state) {
    (void)state;
    struct rig r;
    char path[300];
    prepare(&r, 2);
    app_exec(rig_app(&r, 0), "PRAGMA wal_checkpoint(TRUNCATE)");
    rig_act(&r, 0, "UPDATE k SET a = 'in the wal' WHERE x = 'k2'; DELETE FROM k WHERE x = 'k3'; INSERT INTO n(a) VALUES('in the wal')");
    rig_act(&r, 1, "UPDATE k SET a = 'remote' WHERE x = 'k4'; DELETE FROM k WHERE x = 'k5'");
    share_same(&r);
    sqlite3_db_config(rig_app(&r, 0), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    down(&r, 0);
    snprintf(path, sizeof path, "%s-wal", r.peers[0].s.app_path);
    assert_int_equal(remove(path), 0);
    snprintf(path, sizeof path, "%s-shm", r.peers[0].s.app_path);
    remove(path);
    rig_tick();
    start_app(&r, 0, "UPDATE k SET b = 'after' WHERE x = 'k6'");
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM k WHERE a = 'in the wal'"), 0);
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a, b FROM k WHERE x IN ('k2', 'k3', 'k4', 'k5', 'k6') ORDER BY x",
                      "tk2|tin the wal|tb|;tk4|tremote|tb|;tk6|ta6|tafter|;");
    assert_everywhere(&r, "SELECT count(*) FROM n", "i41|;");
    rig_close(&r);
}

/* The node starts with its state and without the file: it is fetched, from its own log if need be. */
static void test_a_missing_file_is_made_again(void **state) {
    (void)state;
    struct rig r;
    prepare(&r, 2);
    down(&r, 0);
    remove_tails(r.peers[0].s.app_path);
    assert_int_equal(remove(r.peers[0].s.app_path), 0);
    r.peers[0].create = true;
    peer_open(&r.peers[0]);
    rig_share(&r);
    start_app(&r, 0, NULL);
    share_same(&r);
    assert_everywhere(&r, "SELECT (SELECT count(*) FROM k), (SELECT count(*) FROM n), (SELECT count(*) FROM link)", "i40|i40|i40|;");
    rig_act(&r, 0, "UPDATE k SET a = 'here' WHERE x = 'k1'; DELETE FROM k WHERE x = 'k2'");
    share_same(&r);
    rig_close(&r);
}

/* The same at the server that fetched it; the schema is a single table. */
static void test_a_missing_fetched_file_is_made_again(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    start_app(&r, 0, "CREATE TABLE t(id TEXT PRIMARY KEY, v); INSERT INTO t VALUES('a', 1), ('b', 2)");
    peer_open(&r.peers[0]);
    r.peers[1].create = true;
    peer_open(&r.peers[1]);
    rig_share(&r);
    start_app(&r, 1, NULL);
    rig_act(&r, 1, "INSERT INTO t VALUES('c', 3)");
    share_same(&r);
    down(&r, 1);
    remove_tails(r.peers[1].s.app_path);
    assert_int_equal(remove(r.peers[1].s.app_path), 0);
    peer_open(&r.peers[1]);
    rig_share(&r);
    start_app(&r, 1, NULL);
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "ta|i1|;tb|i2|;tc|i3|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_after_an_uninstall_are_taken),
        cmocka_unit_test(test_an_adopted_row_after_an_uninstall),
        cmocka_unit_test(test_many_deletions_after_an_uninstall_are_asked_for),
        cmocka_unit_test(test_all_of_ours_dropped_by_hand),
        cmocka_unit_test(test_deleted_and_made_anew),
        cmocka_unit_test(test_made_anew_after_a_first_capture),
        cmocka_unit_test(test_made_anew_little_by_little),
        cmocka_unit_test(test_a_backup_from_before_the_node),
        cmocka_unit_test(test_the_file_of_another_server),
        cmocka_unit_test(test_the_file_of_another_server_at_first),
        cmocka_unit_test(test_a_copy_at_a_new_server),
        cmocka_unit_test(test_a_copied_state),
        cmocka_unit_test(test_a_deleted_wal),
        cmocka_unit_test(test_a_missing_file_is_made_again),
        cmocka_unit_test(test_a_missing_fetched_file_is_made_again),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
