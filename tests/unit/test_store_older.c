/* The engine: what no note tells. An older copy of the file in its place, rows that OR REPLACE threw out, and rows with NULL in their key. */
#include "store_rig.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE k(x TEXT PRIMARY KEY, a, b); CREATE TABLE n(id INTEGER PRIMARY KEY, a, b); CREATE TABLE link(x TEXT, y INTEGER, "        \
    "PRIMARY KEY(x, y)) WITHOUT ROWID"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* ---- an older copy */

struct older_copy {
    char path[300];
};

static void copy_take(struct rig *r, struct older_copy *c) {
    char sql[400];
    rig_tick();
    snprintf(c->path, sizeof c->path, "%s/copy", r->scratch.folder);
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", c->path);
    app_exec(rig_app(r, 0), sql);
    rig_tick();
}

/* Store and application of server 0 are closed; the copy is in place, and the application is open again. */
static void copy_restore(struct rig *r, struct older_copy *c) {
    static const char *const tails[] = {"-wal", "-shm"};
    struct side *s = &r->peers[0].s;
    side_close_store(s);
    side_close_app(s);
    for (int i = 0; i < 2; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s%s", s->app_path, tails[i]);
        remove(path);
    }
    assert_int_equal(rename(c->path, s->app_path), 0);
    assert_int_equal(side_open_app(s), SQLITE_OK);
    rig_tick();
}

static uint32_t lines_with(const struct peer *p, const char *part) {
    uint32_t n = 0;
    for (const char *at = p->log; (at = strstr(at, part)); at++)
        n++;
    return n;
}

static void prepare(struct rig *r, struct older_copy *c) {
    rig_open(r, 2, TABLES);
    rig_act(
        r, 0,
        "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 40) INSERT INTO k SELECT 'k' || i, 'a' || i, 'b' FROM s;"
        "INSERT INTO n(a, b) SELECT a, b FROM k ORDER BY rowid; INSERT INTO link SELECT x, 1 FROM k");
    share_same(r);
    copy_take(r, c);
}

/* Both servers write after the copy was made: far more rows than a rescan would take for deletions. */
static void write_on(struct rig *r) {
    rig_act(
        r, 0,
        "WITH RECURSIVE s(i) AS (SELECT 41 UNION ALL SELECT i + 1 FROM s WHERE i < 90) INSERT INTO k SELECT 'k' || i, 'a' || i, 'b' FROM s;"
        "UPDATE k SET a = 'changed' WHERE x IN ('k1', 'k2'); DELETE FROM k WHERE x = 'k3'; DELETE FROM link WHERE x = 'k3';"
        "INSERT INTO n(a, b) VALUES('n41', 0), ('n42', 0), ('n43', 0); UPDATE n SET b = NULL WHERE id = 1; DELETE FROM n WHERE id = 3");
    share_same(r);
    rig_act(r, 1,
            "UPDATE k SET b = 'remote' WHERE x IN ('k1', 'k5'); DELETE FROM k WHERE x = 'k6'; INSERT INTO k VALUES('r1', 'remote', 1);"
            "DELETE FROM link WHERE x = 'k6'; UPDATE n SET a = 'remote' WHERE id = 42");
    share_same(r);
}

static char *content(struct rig *r, uint32_t i) {
    int rc;
    return app_rows(
        rig_app(r, i),
        "SELECT 'k', x, a, b FROM k UNION ALL SELECT 'n', id, a, b FROM n UNION ALL SELECT 'l', x, y, NULL FROM link ORDER BY 1, 2", &rc);
}

static void test_an_older_copy_undoes_nothing(void **state) {
    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        struct older_copy c;
        prepare(&r, &c);
        write_on(&r);
        char *before = content(&r, 1);
        uint32_t made = r.peers[0].s.made.count;
        copy_restore(&r, &c);
        peer_open(&r.peers[0]);
        for (int i = 0; i < 12 * restart; i++) {
            peer_turn(&r.peers[0]);
            peer_reopen(&r.peers[0]);
        }
        share_same(&r);
        char *after = content(&r, 0);
        assert_string_equal(after, before);
        assert_int_equal(rig_made_rows(&r, 0, made), 0); /* nothing was taken for a write */
        assert_true(lines_with(&r.peers[0], "older copy") > 0);
        if (!restart)
            assert_int_equal(lines_with(&r.peers[0], "older copy"), 1);
        free(before);
        free(after);
        peer_reopen(&r.peers[0]);
        rig_act(&r, 0, "UPDATE k SET a = 'later' WHERE x = 'k1'; INSERT INTO n(a) VALUES('later')");
        share_same(&r);
        assert_int_equal(lines_with(&r.peers[0], "older copy"), restart ? lines_with(&r.peers[0], "older copy") : 1);
        rig_close(&r);
    }
}

/* Nobody else wrote since: only the note at the mark tells, which is missing, also where the copy has none at all. */
static void test_an_older_copy_of_what_only_this_server_wrote(void **state) {
    (void)state;
    for (int notes = 0; notes < 2; notes++) {
        struct rig r;
        struct older_copy c;
        rig_open(&r, 2, "CREATE TABLE k(x TEXT PRIMARY KEY, a); INSERT INTO k VALUES('a', 1), ('b', 1), ('c', 1)");
        if (notes)
            rig_act(&r, 0, "UPDATE k SET a = 2");
        share_same(&r);
        copy_take(&r, &c);
        rig_act(&r, 0, "UPDATE k SET a = 3 WHERE x <> 'c'; DELETE FROM k WHERE x = 'b'; INSERT INTO k VALUES('d', 1)");
        share_same(&r);
        uint32_t made = r.peers[0].s.made.count;
        copy_restore(&r, &c);
        peer_open(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM k ORDER BY x", notes ? "ta|i3|;tc|i2|;td|i1|;" : "ta|i3|;tc|i1|;td|i1|;");
        assert_int_equal(rig_made_rows(&r, 0, made), 0);
        rig_close(&r);
    }
}

static void test_what_is_new_in_an_older_copy_is_taken(void **state) {
    (void)state;
    struct rig r;
    struct older_copy c;
    prepare(&r, &c);
    write_on(&r);
    copy_restore(&r, &c);
    app_exec(
        rig_app(&r, 0),
        "UPDATE k SET a = 'new in the copy' WHERE x IN ('k1', 'k10'); INSERT INTO k VALUES('mine', 1, 2); DELETE FROM k WHERE x = 'k11';"
        "INSERT INTO link VALUES('k3', 2); DELETE FROM link WHERE x = 'k20'; UPDATE n SET b = 'new' WHERE id = 5; DELETE FROM n WHERE id = "
        "6;"
        "UPDATE k SET x = 'moved' WHERE x = 'k12'; INSERT INTO k(x, a) VALUES('k50', 'inserted again')");
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(
        &r, "SELECT x, a, b FROM k WHERE x IN ('k1', 'k10', 'k11', 'k12', 'k3', 'k6', 'mine', 'moved', 'r1', 'k50', 'k51') ORDER BY x",
        "tk1|tnew in the copy|tremote|;tk10|tnew in the copy|tb|;tk50|tinserted "
        "again|n|;tk51|ta51|tb|;tmine|i1|i2|;tmoved|ta12|tb|;tr1|tremote|i1|;");
    assert_everywhere(&r, "SELECT count(*) FROM k", "i89|;"); /* 90 + r1 + mine + k12 as moved - k12 - k3 - k6 - k11 */
    assert_everywhere(&r, "SELECT count(*), sum(x = 'k3' AND y = 2), sum(x = 'k20'), sum(x = 'k6') FROM link", "i38|i1|i0|i0|;");
    assert_everywhere(&r, "SELECT id, a, b FROM n WHERE id IN (1, 3, 5, 6, 42)", "i1|ta1|n|;i5|ta5|tnew|;i42|tremote|i0|;");
    rig_close(&r);
}

/* Only what others wrote is missing in the copy: every note of this server is in it. */
static void test_a_copy_without_what_others_wrote(void **state) {
    (void)state;
    struct rig r;
    struct older_copy c;
    prepare(&r, &c);
    rig_act(&r, 1,
            "UPDATE k SET a = 'remote' WHERE x = 'k1'; INSERT INTO k VALUES('r', 1, 1); DELETE FROM k WHERE x = 'k2'; DELETE FROM link "
            "WHERE x = 'k2'");
    share_same(&r);
    copy_restore(&r, &c);
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a FROM k WHERE x IN ('k1', 'k2', 'r')", "tk1|tremote|;tr|i1|;");
    assert_everywhere(&r, "SELECT count(*) FROM link", "i39|;");
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_int_equal(lines_with(&r.peers[0], "older copy"), 1);
    rig_close(&r);
}

/* The application numbers a row in the copy as another row was numbered since: that one is not overwritten. */
static void test_a_number_that_is_taken_in_a_copy(void **state) {
    (void)state;
    struct rig r;
    struct older_copy c;
    prepare(&r, &c);
    rig_act(&r, 0, "INSERT INTO n(a, b) VALUES('first', 41)");
    share_same(&r);
    copy_restore(&r, &c);
    app_exec(rig_app(&r, 0), "INSERT INTO n(a, b) VALUES('second', 41)");
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT a FROM n WHERE b = 41 ORDER BY a", "tfirst|;tsecond|;");
    assert_everywhere(&r, "SELECT count(*) FROM n WHERE b = 41 AND id = 41", "i1|;");
    assert_int_equal(peer_status(&r.peers[0], "rows"), 40 * 3 + 2);
    rig_close(&r);
}

/* SQLite's own restore, into the open file. */
static void test_a_restore_into_the_open_file(void **state) {
    (void)state;
    struct rig r;
    struct older_copy c;
    prepare(&r, &c);
    write_on(&r);
    char *before = content(&r, 1);
    sqlite3 *from = app_open(c.path);
    sqlite3_backup *b = sqlite3_backup_init(rig_app(&r, 0), "main", from, "main");
    assert_non_null(b);
    assert_int_equal(sqlite3_backup_step(b, -1), SQLITE_DONE);
    assert_int_equal(sqlite3_backup_finish(b), SQLITE_OK);
    sqlite3_close(from);
    peer_rest(&r.peers[0]);
    share_same(&r);
    char *after = content(&r, 0);
    assert_string_equal(after, before);
    free(before);
    free(after);
    rig_close(&r);
}

/* From before the node first ran, and with fewer columns and tables than now. */
static void test_a_copy_from_before_the_node(void **state) {
    (void)state;
    struct rig r;
    struct older_copy c;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), TABLES "; INSERT INTO k VALUES('k1', 1, 1), ('k2', 2, 2); INSERT INTO n(a) VALUES(1), (2)");
    }
    copy_take(&r, &c);
    for (uint32_t i = 0; i < 2; i++)
        peer_open(&r.peers[i]);
    share_same(&r);
    rig_act(&r, 0, "ALTER TABLE k ADD COLUMN late; CREATE TABLE later(x TEXT PRIMARY KEY, v)");
    rig_act(&r, 1, "ALTER TABLE k ADD COLUMN late; CREATE TABLE later(x TEXT PRIMARY KEY, v)");
    share_same(&r);
    rig_act(&r, 0,
            "UPDATE k SET late = 'l1', a = 10 WHERE x = 'k1'; DELETE FROM k WHERE x = 'k2'; INSERT INTO later VALUES('z', 1); INSERT INTO "
            "n(a) VALUES(3)");
    rig_act(&r, 1, "INSERT INTO k VALUES('k3', 3, 3, 3); DELETE FROM n WHERE id = 1");
    share_same(&r);
    copy_restore(&r, &c);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_rows(rig_app(&r, 0), "SELECT x, a FROM k ORDER BY x", "tk1|i10|;tk3|i3|;");
    assert_rows(rig_app(&r, 0), "SELECT a FROM n ORDER BY a", "i2|;i3|;");
    assert_false(peer_settled(&r.peers[0]));
    rig_act(&r, 0, "ALTER TABLE k ADD COLUMN late; CREATE TABLE later(x TEXT PRIMARY KEY, v)");
    share_same(&r);
    assert_everywhere(&r, "SELECT x, a, late FROM k ORDER BY x", "tk1|i10|tl1|;tk3|i3|i3|;");
    assert_everywhere(&r, "SELECT x, v FROM later", "tz|i1|;");
    rig_close(&r);
}

/* Random writes on both sides, and the file of server 0 goes back now and then: in the end all agree, and nothing of server 1 is lost. */
static void test_copies_at_random(void **state) {
    (void)state;
    struct rig r;
    struct older_copy c;
    struct rig_random rnd = {rig_seed()};
    int next = 0;
    rig_open(&r, 2, TABLES);
    share_same(&r);
    for (int round = 0; round < 6; round++) {
        copy_take(&r, &c);
        for (int i = 0; i < 10; i++) {
            uint32_t at = rig_below(&rnd, 2);
            char *sql = sqlite3_mprintf(
                "INSERT INTO k VALUES('%d', %d, 0); INSERT OR REPLACE INTO link VALUES('%u', %u); UPDATE k SET a = 'u%d' WHERE x = '%u';"
                "UPDATE k SET b = NULL WHERE x = '%u'; DELETE FROM link WHERE x = '%u'",
                next, next, rig_below(&rnd, 9), rig_below(&rnd, 3), next, rig_below(&rnd, (uint32_t)next + 1),
                rig_below(&rnd, (uint32_t)next + 1), rig_below(&rnd, 9));
            rig_tick();
            rig_act(&r, at, sql);
            sqlite3_free(sql);
            next++;
            if (rig_below(&rnd, 2))
                share_same(&r);
        }
        share_same(&r);
        char *before = content(&r, 1);
        copy_restore(&r, &c);
        peer_open(&r.peers[0]);
        share_same(&r);
        char *after = content(&r, 1);
        assert_string_equal(after, before);
        free(before);
        free(after);
    }
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM k"), next);
    rig_close(&r);
}

/* ---- rows thrown out by OR REPLACE */

#define UNIQUES                                                                                                                            \
    "CREATE TABLE u(id INTEGER PRIMARY KEY, a UNIQUE, b); CREATE TABLE v(x TEXT PRIMARY KEY, a, b, UNIQUE(a, b)); CREATE UNIQUE INDEX "    \
    "v_b ON v(b)"

static void test_rows_that_a_replace_throws_out(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUES);
    rig_act(&r, 0,
            "INSERT INTO u VALUES(1, 'one', 1), (2, 'two', 2), (3, 'three', 3); INSERT INTO v VALUES('x', 1, 1), ('y', 2, 2), ('z', 3, 3)");
    share_same(&r);
    rig_act(&r, 0, "INSERT OR REPLACE INTO u VALUES(4, 'one', 4)");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a FROM u ORDER BY id", "i2|ttwo|;i3|tthree|;i4|tone|;");
    rig_act(&r, 1, "UPDATE OR REPLACE u SET a = 'two' WHERE id = 3");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a FROM u ORDER BY id", "i3|ttwo|;i4|tone|;");
    rig_act(&r, 0, "REPLACE INTO v VALUES('w', 1, 2)"); /* y by its b; x stays */
    share_same(&r);
    assert_everywhere(&r, "SELECT x FROM v ORDER BY x", "tw|;tx|;tz|;");
    rig_act(&r, 0,
            "BEGIN; REPLACE INTO v VALUES('p', 9, 1); REPLACE INTO v VALUES('q', 9, 3); INSERT INTO v VALUES('o', 8, 8); DELETE FROM v "
            "WHERE x = 'w'; COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT x FROM v ORDER BY x", "to|;tp|;tq|;");
    rig_close(&r);
}

/* More than the limit of a rescan at once, beside rows of the other server that cannot be shown yet. */
static void test_many_replaced_rows(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUES);
    rig_act(&r, 0,
            "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 100) INSERT INTO u SELECT i, 'a' || i, i FROM s");
    share_same(&r);
    app_exec(rig_app(&r, 0), "INSERT OR REPLACE INTO u SELECT id + 1000, a, b FROM u WHERE id <= 60");
    app_exec(rig_app(&r, 1), "INSERT INTO u VALUES(500, 'r', 1); UPDATE u SET b = 'r' WHERE id = 90; DELETE FROM u WHERE id = 91");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), sum(id > 1000), sum(id <= 60) FROM u", "i100|i60|i0|;");
    rig_close(&r);
}

static void test_replaced_rows_of_a_large_table(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUES);
    rig_act(&r, 0,
            "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 51000) INSERT INTO u SELECT i, 'a' || i, i FROM s");
    share_same(&r);
    rig_act(&r, 0, "INSERT OR REPLACE INTO u VALUES(100000, 'a7', 0)");
    side_skip(1000);
    rig_share(&r);
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), sum(id = 7) FROM u", "i51000|i0|;");
    rig_close(&r);
}

/* ---- NULL in a key */

static void test_null_in_a_key_is_said(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), "CREATE TABLE t(x TEXT PRIMARY KEY, v); CREATE TABLE c(x TEXT, y INTEGER, v, PRIMARY KEY(x, y))");
    }
    app_exec(rig_app(&r, 0),
             "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 12000) INSERT INTO t SELECT NULL, i FROM s;"
             "INSERT INTO t VALUES('a', 1); INSERT INTO c SELECT 'x', NULL, v FROM t WHERE x IS NULL; INSERT INTO c VALUES('x', 1, 1), "
             "('z', 1, 1)");
    for (uint32_t i = 0; i < 2; i++)
        peer_open(&r.peers[i]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM c)", "i1|i2|;");
    assert_problem(&r.peers[0], "t", "12000 rows have NULL in their key and are not replicated: give them a key");
    assert_problem(&r.peers[0], "c", "12000 rows have NULL in their key and are not replicated: give them a key");
    assert_false(peer_settled(&r.peers[0]));
    assert_int_equal(peer_status(&r.peers[0], "parked"), 24000);
    rig_act(&r, 0, "DELETE FROM t WHERE x IS NULL; DELETE FROM c WHERE y IS NULL");
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO t VALUES(NULL, 1), (NULL, 2), ('b', 2); INSERT INTO c VALUES(NULL, NULL, 1)");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT x FROM t ORDER BY x", "ta|;tb|;");
    assert_problem(&r.peers[0], "t", "2 rows have NULL in their key");
    assert_problem(&r.peers[0], "c", "1 row has NULL in its key and is not replicated: give it a key");
    assert_false(peer_settled(&r.peers[0]));
    json_t *a = store_verify(r.peers[0].s.store, NULL, -1), *b = store_verify(r.peers[1].s.store, NULL, -1);
    assert_true(json_equal(json_object_get(a, "tables"), json_object_get(b, "tables"))); /* no row that should be there differs */
    json_decref(a);
    json_decref(b);
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_false(peer_settled(&r.peers[0]));
    rig_act(&r, 0, "UPDATE t SET x = 'given' || v WHERE x IS NULL; UPDATE c SET x = 'g', y = 5 WHERE x IS NULL");
    share_same(&r);
    assert_everywhere(&r, "SELECT x FROM t ORDER BY x", "ta|;tb|;tgiven1|;tgiven2|;");
    rig_act(&r, 0, "UPDATE t SET x = NULL WHERE x = 'a'"); /* no key names it any more */
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT x FROM t ORDER BY x", "tb|;tgiven1|;tgiven2|;");
    assert_false(peer_settled(&r.peers[0]));
    rig_close(&r);
}

/* Such a row in a table with a second UNIQUE key is no row that was thrown out, nor does it hide one. */
static void test_null_keys_beside_replaced_rows(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, UNIQUES);
    rig_act(&r, 0, "INSERT INTO v VALUES('x', 1, 1), ('y', 2, 2), (NULL, 3, 3)");
    rig_act(&r, 0, "REPLACE INTO v VALUES('w', 1, 2)");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT x FROM v ORDER BY x", "tw|;tx|;");
    rig_act(&r, 0, "REPLACE INTO v VALUES('q', 7, 3)"); /* the nameless row goes */
    share_same(&r);
    assert_everywhere(&r, "SELECT x FROM v ORDER BY x", "tq|;tw|;tx|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_older_copy_undoes_nothing),          cmocka_unit_test(test_an_older_copy_of_what_only_this_server_wrote),
        cmocka_unit_test(test_what_is_new_in_an_older_copy_is_taken), cmocka_unit_test(test_a_copy_without_what_others_wrote),
        cmocka_unit_test(test_a_number_that_is_taken_in_a_copy),      cmocka_unit_test(test_a_restore_into_the_open_file),
        cmocka_unit_test(test_a_copy_from_before_the_node),           cmocka_unit_test(test_copies_at_random),
        cmocka_unit_test(test_rows_that_a_replace_throws_out),        cmocka_unit_test(test_many_replaced_rows),
        cmocka_unit_test(test_replaced_rows_of_a_large_table),        cmocka_unit_test(test_null_in_a_key_is_said),
        cmocka_unit_test(test_null_keys_beside_replaced_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
