/* The engine: the application changes its schema, on one server before the other, while rows are written. */
#include "store_rig.h"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* What each of them has, though not the same schema. */
static void share(struct rig *r) {
    rig_share(r);
    rig_time_passes(r);
    rig_tick();
}

static void restart_between(struct rig *r, uint32_t i, const char *sql, bool restart) {
    if (restart)
        side_close_store(&r->peers[i].s);
    app_exec(rig_app(r, i), sql);
    if (restart)
        peer_open(&r->peers[i]);
    peer_rest(&r->peers[i]);
}

static size_t conflicts(struct rig *r) {
    size_t n = 0;
    for (uint32_t i = 0; i < r->count; i++)
        n += peer_conflicts(&r->peers[i]);
    return n;
}

/* ---- columns */

/* Dropped here, written there, added again: what others wrote is shown, and not overwritten by the default. */
static void test_a_column_that_is_dropped_and_added_again(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) { /* with a restart or not; seen in between or not */
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a, b DEFAULT 'd', c)");
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1, 'bx', 1), ('y', 2, 'by', 2)");
        share_same(&r);
        if (mode & 2) {
            restart_between(&r, 0, "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b DEFAULT 'd'", mode & 1);
        } else {
            restart_between(&r, 0, "ALTER TABLE t DROP COLUMN b", mode & 1);
            rig_act(&r, 1, "UPDATE t SET b = 'changed' WHERE k = 'x'; INSERT INTO t VALUES('z', 3, 'bz', 3)");
            rig_act(&r, 0, "UPDATE t SET a = 10 WHERE k = 'y'");
            share(&r);
            restart_between(&r, 0, "ALTER TABLE t ADD COLUMN b DEFAULT 'd'", mode & 1);
        }
        share_same(&r);
        assert_everywhere(&r, "SELECT k, b FROM t ORDER BY k", mode & 2 ? "tx|tbx|;ty|tby|;" : "tx|tchanged|;ty|tby|;tz|tbz|;");
        rig_act(&r, 0, "UPDATE t SET a = 11, b = b"); /* an ORM writes the row whole */
        share_same(&r);
        assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t WHERE b = 'd'"), 0);
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Server 0 renames first, both go on writing, each in its own name; then server 1 renames. */
static void test_a_column_that_is_renamed_on_one_server_first(void **state) {
    (void)state;
    for (int mode = 0; mode < 8; mode++) {
        static const char *const ROWS =
            "INSERT INTO t(k, a, x) VALUES('same', 1, 1), ('zero', 1, 1), ('one', 1, 1), ('both', 1, 1), ('touched', 1, 1)";
        static const char *const RENAME[] = {"ALTER TABLE t RENAME COLUMN a TO b",
                                             "ALTER TABLE t RENAME COLUMN a TO b; UPDATE t SET b = b || '!' WHERE k = 'never'"};
        struct rig r;
        char *sql =
            sqlite3_mprintf("%s; %s", mode & 2 ? "CREATE TABLE t(k TEXT PRIMARY KEY, x, a)" : "CREATE TABLE t(k TEXT PRIMARY KEY, a, x)",
                            mode < 4 ? "" : ROWS); /* there before the nodes, or not */
        rig_open(&r, 2, sql);
        sqlite3_free(sql);
        if (mode < 4)
            rig_act(&r, 0, ROWS);
        share_same(&r);
        restart_between(&r, 0, RENAME[0], mode & 1);
        share(&r);
        assert_problem(&r.peers[1], "t", "column \"b\" is not here");
        rig_act(&r, 0,
                "UPDATE t SET b = 'zero' WHERE k = 'zero'; UPDATE t SET b = 'both0' WHERE k = 'both'; UPDATE t SET x = 2 WHERE k = "
                "'touched'");
        share(&r);
        rig_act(&r, 1,
                "UPDATE t SET a = 'one' WHERE k = 'one'; UPDATE t SET a = 'both1' WHERE k = 'both'; UPDATE t SET a = 'touched' "
                "WHERE k = 'touched'; INSERT INTO t(k, a, x) VALUES('new', 'new', 1)");
        share(&r);
        assert_rows(rig_app(&r, 0), "SELECT x FROM t WHERE k = 'new'", "i1|;"); /* what they share goes on */
        restart_between(&r, 1, RENAME[1], mode & 1);
        share_same(&r);
        assert_everywhere(&r, "SELECT k, b FROM t ORDER BY k",
                          "tboth|tboth1|;tnew|tnew|;tone|tone|;tsame|i1|;ttouched|ttouched|;tzero|tzero|;");
        rig_act(&r, 0, "UPDATE t SET b = 'later' WHERE k = 'same'");
        rig_act(&r, 1, "UPDATE t SET b = 'last' WHERE k = 'one'");
        share_same(&r);
        rig_close(&r);
    }
}

/* The same, but server 0 wrote last: server 1's own write loses, and is an open conflict. */
static void test_a_renamed_column_that_both_wrote(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
    rig_act(&r, 0, "INSERT INTO t VALUES('x', 1)");
    share_same(&r);
    rig_act(&r, 0, "ALTER TABLE t RENAME COLUMN a TO b");
    share(&r);
    rig_act(&r, 1, "UPDATE t SET a = 'one'");
    share(&r);
    rig_act(&r, 0, "UPDATE t SET b = 'zero'");
    share(&r);
    rig_act(&r, 1, "ALTER TABLE t RENAME COLUMN a TO b");
    share_same(&r);
    assert_everywhere(&r, "SELECT b FROM t", "tzero|;");
    assert_true(peer_lost(&r.peers[0], "b", "\"one\""));
    assert_true(peer_lost(&r.peers[1], "b", "\"one\""));
    rig_close(&r);
}

/* Both rename at the same time, and server 0 writes right after: what it replaced is the same on server 1, and no conflict. */
static void test_a_column_that_both_rename_at_once(void **state) {
    (void)state;
    static const char *const RENAME = "ALTER TABLE t RENAME COLUMN a TO b";
    for (int mode = 0; mode < 6; mode++) {
        static const char *const WRITES[] = {"UPDATE t SET b = 'zero' WHERE k = 2", "DELETE FROM t WHERE k = 2",
                                             "REPLACE INTO t(k, b) VALUES(2, 'zero')"};
        struct rig r;
        rig_open(&r, 2,
                 mode < 3 ? "CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)"
                          : "CREATE TABLE t(k INTEGER PRIMARY KEY, a)");
        if (mode >= 3)
            rig_act(&r, 0, "INSERT INTO t VALUES(1, 1), (2, 2), (3, 3)");
        share_same(&r);
        app_exec(rig_app(&r, 0), RENAME);
        app_exec(rig_app(&r, 1), RENAME);
        app_exec(rig_app(&r, 0), WRITES[mode % 3]);
        share_same(&r);
        assert_everywhere(&r, "SELECT k, b FROM t ORDER BY k", mode % 3 == 1 ? "i1|i1|;i3|i3|;" : "i1|i1|;i2|tzero|;i3|i3|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Server 0, which has not renamed yet, writes while server 1 waits whether its migration goes on. */
static void test_a_write_that_comes_while_a_column_is_renamed(void **state) {
    (void)state;
    for (int pending = 0; pending < 2; pending++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1), ('y', 2)");
        share_same(&r);
        rig_act(&r, 0, "UPDATE t SET a = 'new' WHERE k = 'x'");
        if (!pending) {
            app_exec(rig_app(&r, 1), "ALTER TABLE t RENAME COLUMN a TO b");
            peer_turn(&r.peers[1]);
        }
        peer_queue(&r.peers[1], &r.peers[0]);
        if (pending)
            app_exec(rig_app(&r, 1), "ALTER TABLE t RENAME COLUMN a TO b");
        share(&r);
        rig_act(&r, 0, "ALTER TABLE t RENAME COLUMN a TO b");
        share_same(&r);
        assert_everywhere(&r, "SELECT k, b FROM t ORDER BY k", "tx|tnew|;ty|i2|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* ---- tables */

/* No deletions: its rows are kept elsewhere, and shown when it is created again, with other columns, too. */
static void test_a_table_that_is_dropped_and_created_again(void **state) {
    (void)state;
    static const char *const AGAIN = "CREATE TABLE t(b, more DEFAULT 'm', id INTEGER PRIMARY KEY); CREATE TABLE k(v, x TEXT PRIMARY KEY)";
    for (int mode = 0; mode < 6; mode++) { /* restart or not; at once, one after the other, one after the other and seen in between */
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(x TEXT PRIMARY KEY, v)");
        rig_act(&r, 0, "INSERT INTO t(a, b) VALUES(1, 1), (2, 2), (3, 3); INSERT INTO k VALUES('a', 1), ('b', 2)");
        share_same(&r);
        char *sql = sqlite3_mprintf("%sDROP TABLE t; DROP TABLE k; %s%s", mode % 3 == 0 ? "BEGIN; " : "", mode % 3 == 2 ? "" : AGAIN,
                                    mode % 3 == 0 ? "; COMMIT" : "");
        restart_between(&r, 0, sql, mode / 3);
        sqlite3_free(sql);
        rig_act(&r, 1, "UPDATE t SET b = 'changed' WHERE id = 2; DELETE FROM t WHERE id = 3; INSERT INTO t(id, b) VALUES(9, 'new')");
        share(&r);
        assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t"), 3);
        if (mode % 3 == 2)
            restart_between(&r, 0, AGAIN, mode / 3);
        share(&r);
        assert_everywhere(&r, "SELECT id, b FROM t ORDER BY id", "i1|i1|;i2|tchanged|;i9|tnew|;");
        assert_everywhere(&r, "SELECT x, v FROM k ORDER BY x", "ta|i1|;tb|i2|;");
        rig_act(&r, 0, "DELETE FROM k WHERE x = 'a'; INSERT INTO k(x, v) VALUES('c', 3)");
        share(&r);
        assert_everywhere(&r, "SELECT x, v FROM k ORDER BY x", "tb|i2|;tc|i3|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Emptied, as its notes say, and only then rebuilt: that is a deletion. */
static void test_a_table_that_is_emptied_and_rebuilt(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    rig_act(&r, 0, "INSERT INTO t(a) VALUES(1), (2), (3)");
    share_same(&r);
    app_exec(rig_app(&r, 0), "DELETE FROM t; BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, a, b); INSERT INTO n(id, a) SELECT id, a FROM t;"
                             "DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT");
    share(&r);
    assert_everywhere(&r, "SELECT count(*) FROM t", "i0|;");
    rig_close(&r);
}

/* Rows keep who they are, so that the other server, which renames later, means the same ones. */
static void test_a_table_that_is_renamed_on_one_server_first(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) {
        static const char *const RENAME = "ALTER TABLE t RENAME TO u; ALTER TABLE k RENAME TO l";
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(x TEXT PRIMARY KEY, v)");
        rig_act(&r, 0, "INSERT INTO t(a, b) VALUES(1, 1), (2, 2); INSERT INTO k VALUES('a', 1), ('b', 2)");
        rig_act(&r, 1, "INSERT INTO t(id, a, b) VALUES(10, 10, 10), (11, 11, 11)");
        share_same(&r);
        if (mode & 2)
            app_exec(rig_app(&r, 0), "PRAGMA legacy_alter_table=ON");
        restart_between(&r, 0, RENAME, mode & 1);
        share(&r);
        rig_act(&r, 0, "UPDATE u SET a = 'zero' WHERE id = 1; UPDATE l SET v = 'zero' WHERE x = 'a'; INSERT INTO u(a) VALUES('new0')");
        rig_act(&r, 1, "UPDATE t SET b = 'one' WHERE id = 11; UPDATE k SET v = 'one' WHERE x = 'b'");
        share(&r);
        restart_between(&r, 1, RENAME, mode & 1);
        share_same(&r);
        assert_everywhere(&r, "SELECT id, a, b FROM u ORDER BY id", "i1|tzero|i1|;i2|i2|i2|;i10|i10|i10|;i11|i11|tone|;i12|tnew0|n|;");
        assert_everywhere(&r, "SELECT x, v FROM l ORDER BY x", "ta|tzero|;tb|tone|;");
        rig_act(&r, 0, "DELETE FROM u WHERE id = 2; UPDATE u SET b = 'last' WHERE id = 10");
        share_same(&r);
        assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM u"), 4);
        rig_close(&r);
    }
}

/* Deleted just before, and seen by nobody when the other server renames, too: it stays deleted. */
static void test_rows_that_die_before_their_table_is_renamed(void **state) {
    (void)state;
    for (int mode = 0; mode < 8; mode++) { /* the deletion is drained before the rename; and known to the other; the other renames later */
        struct rig r;
        rig_open(&r, 2,
                 mode & 1 ? "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE k(x TEXT PRIMARY KEY, v)"
                          : "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE k(x TEXT PRIMARY KEY, v);"
                            "INSERT INTO t VALUES(1, 1), (2, 2), (3, 3); INSERT INTO k VALUES('a', 1), ('b', 2), ('c', 3)");
        if (mode & 1)
            rig_act(&r, 0, "INSERT INTO t(a) VALUES(1), (2), (3); INSERT INTO k VALUES('a', 1), ('b', 2), ('c', 3)");
        share_same(&r);
        app_exec(rig_app(&r, 0), "DELETE FROM t WHERE id = 2; DELETE FROM k WHERE x = 'b'; UPDATE t SET a = 'before' WHERE id = 3");
        if (mode & 2)
            peer_rest(&r.peers[0]);
        app_exec(rig_app(&r, 0), "ALTER TABLE t RENAME TO u; ALTER TABLE k RENAME TO l");
        if (mode & 4)
            share(&r);
        app_exec(rig_app(&r, 1), "ALTER TABLE t RENAME TO u; ALTER TABLE k RENAME TO l");
        share_same(&r);
        assert_everywhere(&r, "SELECT id, a FROM u ORDER BY id", "i1|i1|;i3|tbefore|;");
        assert_everywhere(&r, "SELECT x, v FROM l ORDER BY x", "ta|i1|;tc|i3|;");
        assert_int_equal(conflicts(&r), 0);
        rig_act(&r, 1, "INSERT INTO u VALUES(2, 'again'); INSERT INTO l VALUES('b', 'again')");
        share_same(&r);
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM u), (SELECT count(*) FROM l)", "i3|i3|;");
        rig_close(&r);
    }
}

/* Each server wrote another column of the row before both renamed the table: both stay. */
static void test_columns_of_a_table_that_both_rename_at_once(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 1, 1)");
    share_same(&r);
    rig_act(&r, 0, "UPDATE t SET a = 'zero'");
    rig_tick();
    rig_act(&r, 1, "UPDATE t SET b = 'one'");
    for (uint32_t i = 0; i < 2; i++)
        app_exec(rig_app(&r, i), "ALTER TABLE t RENAME TO u");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, a, b FROM u", "i1|tzero|tone|;");
    assert_int_equal(conflicts(&r), 0);
    rig_close(&r);
}

/* A renamed row is told in several changes, as its columns have several stamps: each of them finds its value again. */
static void test_a_renamed_table_that_is_shown_from_the_log(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c)");
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 1, 1, 1)");
    share_same(&r);
    rig_act(&r, 0, "UPDATE t SET b = 'b'");
    rig_tick();
    rig_act(&r, 0, "UPDATE t SET c = 'c'");
    app_exec(rig_app(&r, 0), "ALTER TABLE t RENAME TO u");
    share(&r);
    rig_act(&r, 1, "CREATE TABLE u(id INTEGER PRIMARY KEY, a, b, c)");
    share(&r);
    assert_everywhere(&r, "SELECT id, a, b, c FROM u", "i1|i1|tb|tc|;");
    rig_close(&r);
}

/* The row was dead when its column, or table, was renamed, and comes again before the others' copies count as seen. */
static void test_a_row_that_comes_again_after_a_rename(void **state) {
    (void)state;
    for (int table = 0; table < 2; table++) {
        struct rig r;
        const char *rename = table ? "ALTER TABLE t RENAME TO u" : "ALTER TABLE t RENAME COLUMN a TO b";
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1)");
        share_same(&r);
        app_exec(rig_app(&r, 0), rename);
        app_exec(rig_app(&r, 1), rename);
        app_exec(rig_app(&r, 0), table ? "DELETE FROM u" : "DELETE FROM t");
        peer_rest(&r.peers[0]);
        rig_act(&r, 0, table ? "INSERT INTO u VALUES('x', 'again')" : "INSERT INTO t VALUES('x', 'again')");
        share_same(&r);
        assert_everywhere(&r, table ? "SELECT * FROM u" : "SELECT * FROM t", "tx|tagain|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* A row that both knew to be dead before they renamed, and that comes again while server 0 waits. */
static void test_a_dead_row_that_comes_again_while_its_table_is_renamed(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
    rig_act(&r, 0, "INSERT INTO t VALUES('x', 1)");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM t");
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++)
        app_exec(rig_app(&r, i), "ALTER TABLE t RENAME TO u");
    app_exec(rig_app(&r, 0), "INSERT INTO u VALUES('x', 'again')");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM u", "tx|tagain|;");
    assert_int_equal(conflicts(&r), 0);
    rig_close(&r);
}

/* ---- rebuilds: create new, copy, drop old, rename */

static const char *const REBUILDS[] = {
    /* Django */
    "PRAGMA foreign_keys=OFF; BEGIN; UPDATE t SET v = 'before' WHERE id = 1; CREATE TABLE \"new__t\"(\"id\" integer NOT NULL PRIMARY KEY "
    "AUTOINCREMENT, \"v\" text NULL, \"n\" varchar(10) NOT NULL DEFAULT ''); INSERT INTO \"new__t\"(\"id\", \"v\", \"n\") SELECT \"id\", "
    "\"v\", coalesce(\"n\", '') FROM \"t\"; DROP TABLE \"t\"; ALTER TABLE \"new__t\" RENAME TO \"t\"; UPDATE t SET v = 'after' WHERE id = "
    "2;"
    "INSERT INTO t(v) VALUES('inserted'); DELETE FROM t WHERE id = 3; COMMIT; PRAGMA foreign_keys=ON",
    /* Alembic, each statement a transaction of its own */
    "UPDATE t SET v = 'before' WHERE id = 1; CREATE TABLE _alembic_tmp_t(id INTEGER NOT NULL, v TEXT, n TEXT NOT NULL DEFAULT '', PRIMARY "
    "KEY(id));"
    "INSERT INTO _alembic_tmp_t(id, v, n) SELECT id, v, coalesce(n, '') FROM t; DROP TABLE t; ALTER TABLE _alembic_tmp_t RENAME TO t;"
    "UPDATE t SET v = 'after' WHERE id = 2; INSERT INTO t(v) VALUES('inserted'); DELETE FROM t WHERE id = 3",
    /* the old one is moved away first */
    "PRAGMA legacy_alter_table=ON; UPDATE t SET v = 'before' WHERE id = 1; ALTER TABLE t RENAME TO t_old; CREATE TABLE t(n TEXT NOT NULL "
    "DEFAULT "
    "'', v, id INTEGER PRIMARY KEY); INSERT INTO t(id, v, n) SELECT id, v, coalesce(n, '') FROM t_old; DROP TABLE t_old; PRAGMA "
    "legacy_alter_table=OFF; UPDATE t SET v = 'after' WHERE id = 2; INSERT INTO t(v) VALUES('inserted'); DELETE FROM t WHERE id = 3"};

/* Statement by statement, with the store turning after each, or at once. */
static void run_steps(struct rig *r, uint32_t i, const char *sql, bool look) {
    for (const char *at = sql; *at;) {
        sqlite3_stmt *stmt = NULL;
        const char *rest;
        assert_int_equal(sqlite3_prepare_v2(rig_app(r, i), at, -1, &stmt, &rest), SQLITE_OK);
        while (sqlite3_step(stmt) == SQLITE_ROW)
            ;
        if (sqlite3_finalize(stmt) != SQLITE_OK)
            fail_msg("%.60s…: %s", at, sqlite3_errmsg(rig_app(r, i)));
        at = rest;
        if (look)
            for (int turns = 0; turns < 3; turns++)
                peer_turn(&r->peers[i]);
    }
}

static void test_rebuilds(void **state) {
    (void)state;
    for (unsigned mode = 0; mode < 8 * sizeof REBUILDS / sizeof *REBUILDS; mode++) {
        struct rig r;
        static const char *const TABLES = "CREATE TABLE t(id INTEGER PRIMARY KEY, n, v); CREATE TABLE other(id INTEGER PRIMARY KEY, t "
                                          "REFERENCES t(id) ON DELETE CASCADE)";
        static const char *const ROWS =
            "INSERT INTO t(n, v) VALUES('a', 1), (NULL, 2), ('c', 3), ('d', 4), (NULL, 5); INSERT INTO other VALUES(1, 5)";
        char *sql = sqlite3_mprintf("%s; %s", TABLES, mode & 4 ? ROWS : ""); /* there before the nodes, or not */
        rig_open(&r, 2, sql);
        sqlite3_free(sql);
        if (!(mode & 4))
            rig_act(&r, 0, ROWS);
        share_same(&r);
        bool down = mode & 1, look = mode & 2;
        if (getenv("SIDE_LOG"))
            fprintf(stderr, "mode %u\n", mode);
        if (down)
            side_close_store(&r.peers[0].s);
        run_steps(&r, 0, REBUILDS[mode / 8], look && !down);
        rig_act(&r, 1, "UPDATE t SET v = 'other' WHERE id = 4");
        if (down)
            peer_open(&r.peers[0]);
        peer_rest(&r.peers[0]);
        share(&r);
        assert_everywhere(&r, "SELECT id, CAST(v AS TEXT), coalesce(n, '') FROM t ORDER BY id",
                          "i1|tbefore|ta|;i2|tafter|t|;i4|tother|td|;i5|t5|t|;i6|tinserted|t|;");
        assert_everywhere(&r, "SELECT * FROM other", "i1|i5|;");
        rig_assert_settled(&r);
        json_t *list = store_tables(r.peers[1].s.store), *t;
        size_t i;
        json_array_foreach(list, i, t) { /* nothing is told of what lies between */
            const char *name = json_string_value(json_object_get(t, "name"));
            assert_true(strcmp(name, "t") == 0 || strcmp(name, "other") == 0);
        }
        json_decref(list);
        run_steps(&r, 1, REBUILDS[mode / 8], look);
        share(&r);
        assert_same(&r, "SELECT id, v, n FROM t ORDER BY id");
        rig_assert_settled(&r);
        rig_close(&r);
    }
}

static int64_t state_int(struct peer *p, const char *sql) {
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(p->s.state_path, &db), SQLITE_OK);
    int64_t n = app_int(db, sql);
    sqlite3_close(db);
    return n;
}

/* What lay between, and tables that never had a row, are not remembered for ever; what had rows is. */
static void test_nothing_is_left_of_what_never_had_a_row(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE t(id INTEGER PRIMARY KEY, v, n); CREATE TABLE empty(id INTEGER PRIMARY KEY); CREATE TABLE full(k TEXT PRIMARY "
             "KEY); CREATE TABLE dead(k TEXT PRIMARY KEY)");
    rig_act(&r, 0, "INSERT INTO t(v, n) VALUES(1, 1); INSERT INTO full VALUES('x'); INSERT INTO dead VALUES('x')");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM dead");
    share_same(&r);
    for (int i = 0; i < 3; i++)
        run_steps(&r, 0, REBUILDS[1], true);
    rig_act(&r, 0, "CREATE TABLE brief(id INTEGER PRIMARY KEY)");
    share(&r);
    rig_act(&r, 0, "DROP TABLE brief; DROP TABLE empty; DROP TABLE full; DROP TABLE dead");
    share(&r);
    side_close_store(&r.peers[0].s);
    assert_int_equal(state_int(&r.peers[0], "SELECT count(*) FROM tbl WHERE name='empty' OR name='brief'"), 2);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    side_close_store(&r.peers[0].s);
    assert_int_equal(state_int(&r.peers[0], "SELECT count(*) FROM tbl"), 3); /* t, full, dead */
    assert_int_equal(state_int(&r.peers[0], "SELECT count(*) FROM sqlite_schema WHERE type='table' AND name GLOB 'r[0-9]*'"), 3);
    peer_open(&r.peers[0]);
    rig_act(&r, 0,
            "CREATE TABLE empty(id INTEGER PRIMARY KEY); CREATE TABLE full(k TEXT PRIMARY KEY); CREATE TABLE dead(k TEXT PRIMARY KEY);"
            "INSERT INTO empty VALUES(1)");
    share(&r);
    assert_everywhere(&r, "SELECT (SELECT count(*) FROM empty), (SELECT count(*) FROM full), (SELECT count(*) FROM dead)", "i1|i1|i0|;");
    rig_close(&r);
}

/* A copy that takes longer than the schema is quiet: what is not copied yet is no deletion, and it is well again once it is. */
static void test_a_table_that_is_half_copied(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    rig_act(&r, 0, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t(v) SELECT i FROM n");
    share_same(&r);
    app_exec(rig_app(&r, 0), "PRAGMA legacy_alter_table=ON; ALTER TABLE t RENAME TO t_old; CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)");
    for (int i = 0; i < 300; i += 60) {
        char *sql = sqlite3_mprintf("INSERT INTO t(id, v) SELECT id, v FROM t_old WHERE id > %d AND id <= %d", i, i + 60);
        for (int turns = 0; turns < 5; turns++, side_skip(1000))
            peer_turn(&r.peers[0]);
        app_exec(rig_app(&r, 0), sql);
        sqlite3_free(sql);
        assert_false(peer_settled(&r.peers[0]));
        assert_int_equal(store_barrier(r.peers[0].s.store), 0);
        peer_pull(&r.peers[1], &r.peers[0]);
        assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM t"), 300);
    }
    rig_act(&r, 0, "DROP TABLE t_old");
    share(&r);
    assert_everywhere(&r, "SELECT count(*), sum(v) FROM t", "i300|i45150|;");
    peer_retry(&r.peers[0]);
    rig_share(&r);
    rig_act(&r, 0, "DELETE FROM t WHERE id = 7");
    share(&r);
    assert_everywhere(&r, "SELECT count(*), sum(v) FROM t", "i299|i45143|;");
    rig_close(&r);
}

/* A rebuild that takes its time: the new table is known and noted by the time that it gets the old one's name. */
static void test_a_rebuild_that_takes_its_time(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, v)");
    rig_act(&r, 0, "INSERT INTO t VALUES('a', 1), ('b', 2), ('c', 3)");
    share_same(&r);
    rig_act(&r, 0, "CREATE TABLE fresh(k TEXT PRIMARY KEY, v, w DEFAULT 'w')");
    peer_retry(&r.peers[0]);
    rig_act(&r, 0, "INSERT INTO fresh(k, v) SELECT k, 'new ' || k FROM t WHERE k < 'c'");
    peer_retry(&r.peers[0]);
    rig_act(&r, 0, "BEGIN; DROP TABLE t; ALTER TABLE fresh RENAME TO t; COMMIT");
    peer_retry(&r.peers[0]);
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT * FROM t ORDER BY k", "ta|tnew a|;tb|tnew b|;");
    rig_act(&r, 1,
            "BEGIN; CREATE TABLE fresh(k TEXT PRIMARY KEY, v, w DEFAULT 'w'); INSERT INTO fresh(k, v) SELECT k, 'new ' || k FROM t WHERE k "
            "< 'c'; "
            "DROP TABLE t; ALTER TABLE fresh RENAME TO t; COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY k", "ta|tnew a|tw|;tb|tnew b|tw|;");
    assert_int_equal(peer_conflicts(&r.peers[0]), 0);
    rig_close(&r);
}

/* Hundreds of statements at every start of the application, most of which fail: nothing of ours makes one fail that would not. */
static void test_many_statements_beside_the_store(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1, "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t(a) VALUES(1), (2)");
    for (int start = 0; start < 3; start++)
        for (int i = 0; i < 110; i++) {
            char *sql = sqlite3_mprintf("ALTER TABLE t ADD COLUMN c%d DEFAULT %d", i % (20 + 20 * start), i);
            bool there = app_int(rig_app(&r, 0), "SELECT count(*) FROM pragma_table_info('t')") > i % (20 + 20 * start) + 2;
            int rc = sqlite3_exec(rig_app(&r, 0), sql, NULL, NULL, NULL);
            sqlite3_free(sql);
            assert_int_equal(rc, there ? SQLITE_ERROR : SQLITE_OK);
            app_exec(rig_app(&r, 0), "UPDATE t SET a = a + 1");
            peer_turn(&r.peers[0]);
        }
    peer_rest(&r.peers[0]);
    assert_true(peer_settled(&r.peers[0]));
    rig_close(&r);
}

/* A tool that cannot rename in place makes the table anew: what is written elsewhere under the old name meanwhile is carried over, too. */
static void test_a_column_that_is_renamed_by_a_rebuild(void **state) {
    static const char *const REBUILD[] = {
        "BEGIN; CREATE TABLE tmp(k TEXT PRIMARY KEY, b TEXT DEFAULT 'none', x); INSERT INTO tmp SELECT k, a, x FROM t; "
        "DROP TABLE t; ALTER TABLE tmp RENAME TO t; COMMIT",
        "CREATE TABLE tmp(k TEXT PRIMARY KEY, b TEXT DEFAULT 'none', x); INSERT INTO tmp SELECT k, a, x FROM t;"
        "ALTER TABLE t RENAME TO old; ALTER TABLE tmp RENAME TO t; DROP TABLE old"};
    (void)state;
    for (int mode = 0; mode < 8; mode++) {
        struct rig r;
        const char *rebuild = REBUILD[mode >> 2];
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a TEXT DEFAULT 'none', x)");
        rig_act(&r, 0, "INSERT INTO t VALUES('same', 's', 1), ('zero', 'z', 1), ('one', 'o', 1), ('late', 'l', 1)");
        share_same(&r);
        restart_between(&r, 0, rebuild, mode & 1);
        share(&r);
        rig_act(&r, 0, "UPDATE t SET b = 'zero' WHERE k = 'zero'; INSERT INTO t(k, x) VALUES('new', 1)");
        share(&r);
        rig_act(
            &r, 1,
            "UPDATE t SET a = 'one' WHERE k = 'one'; UPDATE t SET a = 'named' WHERE k = 'new'; UPDATE t SET a = 'late' WHERE k = 'late'");
        share(&r);
        restart_between(&r, 1, rebuild, mode & 2);
        share_same(&r);
        assert_everywhere(&r, "SELECT k, b, x FROM t ORDER BY k",
                          "tlate|tlate|i1|;tnew|tnamed|i1|;tone|tone|i1|;tsame|ts|i1|;tzero|tzero|i1|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* A column comes, and before what others know of it is shown it has another name already: with a restart in between, or not. */
static void test_a_column_that_is_renamed_before_it_was_shown(void **state) {
    static const char *const
        FIRST[] = {"ALTER TABLE t ADD COLUMN b DEFAULT 'none'",
                   "CREATE TABLE tmp(k TEXT PRIMARY KEY, a, b DEFAULT 'none'); INSERT INTO tmp(k, a) SELECT k, a FROM t; DROP TABLE "
                   "t; ALTER TABLE tmp RENAME TO t"},
        *const THEN = "CREATE TABLE tmp(k TEXT PRIMARY KEY, a, c DEFAULT 'none', d DEFAULT 0); INSERT INTO tmp(k, a, c) SELECT k, a, b "
                      "FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t; UPDATE t SET d = 5",
        *const RENAME = "ALTER TABLE t RENAME COLUMN b TO c; ALTER TABLE t ADD COLUMN d DEFAULT 0; UPDATE t SET d = 5";
    (void)state;
    for (int mode = 0; mode < 16; mode++) {
        const char *first = FIRST[mode & 1], *then = mode & 2 ? THEN : RENAME;
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1), ('y', 2)");
        share_same(&r);
        rig_act(&r, 0, first);
        rig_act(&r, 0, "UPDATE t SET b = 'bx' WHERE k = 'x'");
        if (mode & 8)
            rig_act(&r, 0, then);
        share(&r);
        app_exec(rig_app(&r, 1), first);
        for (int i = 0; i < 3; i++)
            peer_turn(&r.peers[1]);
        restart_between(&r, 1, then, mode & 4);
        share(&r);
        if (!(mode & 8))
            rig_act(&r, 0, then);
        share_same(&r);
        assert_everywhere(&r, "SELECT k, a, c, d FROM t ORDER BY k", "tx|i1|tbx|i5|;ty|i2|tnone|i5|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Each statement of a rebuild by itself, and rows of others come at any moment of it. */
static void test_rows_that_come_amid_a_rebuild(void **state) {
    static const char *const STEPS[] = {"CREATE TABLE tmp(k TEXT PRIMARY KEY, a, b)", "INSERT INTO tmp(k, a) SELECT k, a FROM t",
                                        "DROP TABLE t", "ALTER TABLE tmp RENAME TO t"};
    (void)state;
    for (size_t at = 0; at < 5; at++)
        for (int turns = 0; turns < 2; turns++) {
            struct rig r;
            rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a)");
            rig_act(&r, 0, "INSERT INTO t VALUES('same', 1), ('changed', 1), ('gone', 1)");
            share_same(&r);
            rig_act(&r, 1, "UPDATE t SET a = 2 WHERE k = 'changed'; INSERT INTO t VALUES('new', 1); DELETE FROM t WHERE k = 'gone'");
            for (size_t i = 0; i <= 4; i++) {
                if (i == at)
                    peer_queue(&r.peers[0], &r.peers[1]);
                for (int n = 0; n < (turns ? 3 : 1) && i < 4; n++)
                    peer_turn(&r.peers[0]);
                if (i < 4)
                    app_exec(rig_app(&r, 0), STEPS[i]);
            }
            share(&r);
            restart_between(&r, 1, "ALTER TABLE t ADD COLUMN b", false);
            share_same(&r);
            assert_everywhere(&r, "SELECT k, a FROM t ORDER BY k", "tchanged|i2|;tnew|i1|;tsame|i1|;");
            assert_int_equal(conflicts(&r), 0);
            rig_close(&r);
        }
}

/* A column's default, shown while what another says of the row is under way and nothing was known of the column, is nobody's write. */
static void test_a_row_that_comes_again_while_its_column_is_new(void **state) {
    static const char *const REBUILD =
        "BEGIN; CREATE TABLE tmp(k INTEGER PRIMARY KEY, a, b INT DEFAULT 0); INSERT INTO tmp(k, a) SELECT k, a "
        "FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t; COMMIT";
    (void)state;
    for (int stated = 0; stated < 2; stated++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, a)");
        rig_act(&r, 0, "INSERT INTO t VALUES(5, 'five'), (6, 'six')");
        share_same(&r);
        app_exec(rig_app(&r, 0), REBUILD);
        app_exec(rig_app(&r, 1), REBUILD);
        for (int i = 0; i < 3; i++)
            peer_turn(&r.peers[0]);
        rig_act(&r, 0,
                stated ? "DELETE FROM t WHERE k = 5; INSERT INTO t VALUES(5, 'again', 0)"
                       : "DELETE FROM t WHERE k = 5; INSERT INTO t(k, a) VALUES(5, 'again')");
        peer_queue(&r.peers[1], &r.peers[0]);
        peer_turn(&r.peers[1]);
        rig_act(&r, 0, "UPDATE t SET b = 9");
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM t ORDER BY k", "i5|tagain|i9|;i6|tsix|i9|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Rows that came during a migration, for a table that it then renames or drops, are not missed for ever. */
static void test_a_table_that_goes_while_its_rows_are_in_flight(void **state) {
    (void)state;
    for (int renamed = 0; renamed < 2; renamed++) {
        const char *go = renamed ? "ALTER TABLE tag RENAME TO label" : "DROP TABLE tag";
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a); CREATE TABLE tag(k TEXT PRIMARY KEY, v)");
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1); INSERT INTO tag VALUES('first', 1)");
        share_same(&r);
        rig_act(&r, 1, "INSERT INTO tag VALUES('late', 1); UPDATE tag SET v = 2 WHERE k = 'first'");
        app_exec(rig_app(&r, 0),
                 "CREATE TABLE tmp(k TEXT PRIMARY KEY, a, b); INSERT INTO tmp(k, a) SELECT k, a FROM t; DROP TABLE t; ALTER TABLE "
                 "tmp RENAME TO t");
        peer_turn(&r.peers[0]);
        peer_queue(&r.peers[0], &r.peers[1]);
        for (int i = 0; i < 5; i++)
            peer_turn(&r.peers[0]);
        app_exec(rig_app(&r, 0), go);
        share(&r);
        peer_retry(&r.peers[0]);
        assert_int_equal(peer_status(&r.peers[0], "parked"), 0);
        restart_between(&r, 1, "ALTER TABLE t ADD COLUMN b", false);
        restart_between(&r, 1, go, false);
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, renamed ? "SELECT * FROM label ORDER BY k" : "SELECT k, a FROM t",
                          renamed ? "tfirst|i2|;tlate|i1|;" : "tx|i1|;");
        if (!renamed) {
            for (uint32_t i = 0; i < 2; i++)
                rig_act(&r, i, "CREATE TABLE tag(k TEXT PRIMARY KEY, v)");
            share_same(&r);
            assert_everywhere(&r, "SELECT * FROM tag ORDER BY k", "tfirst|i2|;tlate|i1|;");
        }
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_column_that_is_renamed_by_a_rebuild),
        cmocka_unit_test(test_a_column_that_is_renamed_before_it_was_shown),
        cmocka_unit_test(test_rows_that_come_amid_a_rebuild),
        cmocka_unit_test(test_a_row_that_comes_again_while_its_column_is_new),
        cmocka_unit_test(test_a_table_that_goes_while_its_rows_are_in_flight),
        cmocka_unit_test(test_a_column_that_is_dropped_and_added_again),
        cmocka_unit_test(test_a_column_that_is_renamed_on_one_server_first),
        cmocka_unit_test(test_a_renamed_column_that_both_wrote),
        cmocka_unit_test(test_a_column_that_both_rename_at_once),
        cmocka_unit_test(test_a_write_that_comes_while_a_column_is_renamed),
        cmocka_unit_test(test_a_table_that_is_dropped_and_created_again),
        cmocka_unit_test(test_a_table_that_is_emptied_and_rebuilt),
        cmocka_unit_test(test_a_table_that_is_renamed_on_one_server_first),
        cmocka_unit_test(test_rows_that_die_before_their_table_is_renamed),
        cmocka_unit_test(test_columns_of_a_table_that_both_rename_at_once),
        cmocka_unit_test(test_a_renamed_table_that_is_shown_from_the_log),
        cmocka_unit_test(test_a_row_that_comes_again_after_a_rename),
        cmocka_unit_test(test_a_dead_row_that_comes_again_while_its_table_is_renamed),
        cmocka_unit_test(test_rebuilds),
        cmocka_unit_test(test_nothing_is_left_of_what_never_had_a_row),
        cmocka_unit_test(test_a_table_that_is_half_copied),
        cmocka_unit_test(test_a_rebuild_that_takes_its_time),
        cmocka_unit_test(test_many_statements_beside_the_store),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
