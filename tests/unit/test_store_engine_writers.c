/* The engine: whatever way an application writes, the other server holds the same rows. Each script runs six times: with and without
 * recursive_triggers (SQLite then tells of rows that REPLACE deletes, or does not), and looked at after every statement, only at the end,
 * and after the node was down. */
#include "store_rig.h"

enum look { LOOK_EACH, LOOK_LAST, LOOK_AWAY, LOOKS };

struct script {
    const char *name, *tables, *before, *act;
    const char *select, *want; /* what all servers show then; NULL: the scripts' own select is not needed */
};

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* Statement by statement, as programs do; with a look after each that ended its transaction. */
static void act(struct rig *r, const char *sql, enum look look) {
    struct peer *p = &r->peers[0];
    if (look == LOOK_AWAY)
        side_close_store(&p->s);
    while (*sql) {
        sqlite3_stmt *q;
        const char *rest;
        if (sqlite3_prepare_v2(p->s.app, sql, -1, &q, &rest) != SQLITE_OK)
            fail_msg("%s: %s", sql, sqlite3_errmsg(p->s.app));
        int rc = SQLITE_DONE;
        while (q && (rc = sqlite3_step(q)) == SQLITE_ROW)
            ;
        bool refused = q && strstr(sqlite3_sql(q), "/* refused */");
        if (refused ? (rc & 0xff) != SQLITE_CONSTRAINT : rc != SQLITE_DONE)
            fail_msg("%.*s: %s", (int)(rest - sql), sql, sqlite3_errmsg(p->s.app));
        sqlite3_finalize(q);
        sql = rest;
        if (look == LOOK_EACH && sqlite3_get_autocommit(p->s.app))
            peer_rest(p);
    }
    if (look == LOOK_AWAY)
        peer_open(p);
    peer_rest(p);
}

static void run(const struct script *s, bool recursive, enum look look) {
    struct rig r;
    rig_open(&r, 2, s->tables);
    app_exec(rig_app(&r, 0), recursive ? "PRAGMA recursive_triggers=ON" : "PRAGMA recursive_triggers=OFF");
    rig_act(&r, 0, s->before);
    share_same(&r);
    act(&r, s->act, look);
    share_same(&r);
    if (s->select)
        assert_everywhere(&r, s->select, s->want);
    assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
    assert_int_equal(r.peers[0].reopened + r.peers[1].reopened, 0);
    peer_reopen(&r.peers[0]); /* nothing was overlooked: another look finds no more */
    uint32_t made = r.peers[0].s.made.count;
    app_exec(rig_app(&r, 0), "CREATE TABLE another(id INTEGER PRIMARY KEY)");
    peer_rest(&r.peers[0]);
    assert_int_equal(rig_made_rows(&r, 0, made), 0);
    rig_close(&r);
}

static void test_script(void **state) {
    for (int how = 0; how < 2 * LOOKS; how++) {
        print_message("recursive_triggers %s, %s\n", how & 1 ? "on" : "off",
                      how / 2 == LOOK_EACH   ? "looked at each"
                      : how / 2 == LOOK_LAST ? "looked at the end"
                                             : "the node was away");
        run(*state, how & 1, (enum look)(how / 2));
    }
}

/* ---- rows that REPLACE throws out through another UNIQUE index */

#define EVICTED                                                                                                                            \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, u UNIQUE, v UNIQUE, p, e TEXT); CREATE UNIQUE INDEX t_p ON t(p) WHERE a > 0; CREATE "       \
    "UNIQUE INDEX t_e ON t(lower(e));"                                                                                                     \
    "CREATE TABLE k(x TEXT, y INTEGER, u UNIQUE, a, PRIMARY KEY(x, y)); CREATE TABLE w(k TEXT PRIMARY KEY COLLATE NOCASE, u TEXT UNIQUE "  \
    "COLLATE NOCASE, a) WITHOUT ROWID; CREATE TABLE n(id INTEGER PRIMARY KEY, a, b)"
#define EVICTED_ROWS                                                                                                                       \
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 9) INSERT INTO t SELECT i, i, 'u' || i, 'v' || i, 'p' || i," \
    "'E' || i FROM c; INSERT INTO k SELECT 'x', id, u, a FROM t; INSERT INTO w SELECT 'K' || id, u, a FROM t;"                             \
    "INSERT INTO n SELECT id, a, a % 3 FROM t"
#define T_IDS "SELECT group_concat(id, ' ') FROM (SELECT id FROM t ORDER BY id)"

static const struct script evictions[] = {
    {"one, by INSERT OR REPLACE", EVICTED, EVICTED_ROWS, "INSERT OR REPLACE INTO t(id, u) VALUES(20, 'u3')", T_IDS,
     "t1 2 4 5 6 7 8 9 20|;"},
    {"one, by UPDATE OR REPLACE", EVICTED, EVICTED_ROWS, "UPDATE OR REPLACE t SET u = 'u3' WHERE id = 5", T_IDS, "t1 2 4 5 6 7 8 9|;"},
    {"several at once", EVICTED, EVICTED_ROWS, "REPLACE INTO t VALUES(1, 1, 'u2', 'v3', 'p4', 'e5')", T_IDS, "t1 6 7 8 9|;"},
    {"several at once, by a new row", EVICTED, EVICTED_ROWS, "REPLACE INTO t VALUES(NULL, 1, 'u2', 'v3', 'p4', 'e5')", T_IDS,
     "t1 6 7 8 9 10|;"},
    {"all rows by one statement", EVICTED, EVICTED_ROWS, "UPDATE OR REPLACE t SET u = 'one for all'", "SELECT count(*), u FROM t",
     "i1|tone for all|;"},
    {"by a partial index", EVICTED, EVICTED_ROWS, "REPLACE INTO t(id, a, p) VALUES(20, 0, 'p2'), (21, 1, 'p3')", T_IDS,
     "t1 2 4 5 6 7 8 9 20 21|;"},
    {"by entering a partial index", EVICTED, EVICTED_ROWS "; UPDATE t SET a = -1, p = 'p9' WHERE id = 2",
     "UPDATE OR REPLACE t SET a = 1 WHERE id = 2", T_IDS, "t1 2 3 4 5 6 7 8|;"},
    {"by an expression", EVICTED, EVICTED_ROWS, "UPDATE OR REPLACE t SET e = 'e7' WHERE id = 1", T_IDS, "t1 2 3 4 5 6 8 9|;"},
    {"by a row that is as before in the end", EVICTED, EVICTED_ROWS,
     "BEGIN; UPDATE OR REPLACE t SET u = 'u3' WHERE id = 5; UPDATE t SET u = 'u5' WHERE id = 5; COMMIT", T_IDS, "t1 2 4 5 6 7 8 9|;"},
    {"by a row that is gone in the end", EVICTED, EVICTED_ROWS,
     "BEGIN; REPLACE INTO t(id, u) VALUES(20, 'u3'); DELETE FROM t WHERE id = 20; COMMIT", T_IDS, "t1 2 4 5 6 7 8 9|;"},
    {"the number of the evicted row is used again", EVICTED, EVICTED_ROWS,
     "BEGIN; UPDATE OR REPLACE t SET u = 'u9' WHERE id = 5; INSERT INTO t(a) VALUES('another'); COMMIT",
     "SELECT id, a, u FROM t WHERE id > 8", "i9|tanother|n|;"},
    {"the evicted row is given again", EVICTED, EVICTED_ROWS,
     "UPDATE OR REPLACE t SET u = 'u3' WHERE id = 5; INSERT INTO t(id, a) VALUES(3, 'again')", "SELECT id, a, u FROM t WHERE id = 3",
     "i3|tagain|n|;"},
    {"a chain", EVICTED, EVICTED_ROWS,
     "UPDATE OR REPLACE t SET u = 'u2' WHERE id = 1; UPDATE OR REPLACE t SET u = 'u2' WHERE id = 3; UPDATE OR REPLACE t SET u = 'u2' WHERE "
     "id = 4; REPLACE INTO t(u) VALUES('u2')",
     T_IDS, "t5 6 7 8 9 10|;"},
    {"by the key that a row changes to", EVICTED, EVICTED_ROWS,
     "UPDATE OR REPLACE t SET id = 5 WHERE id = 7; UPDATE OR REPLACE k SET y = 5 WHERE y = 7; UPDATE OR REPLACE w SET k = 'k5' WHERE k = "
     "'K7'",
     "SELECT t.u, k.u, w.u FROM t, k, w WHERE id = 5 AND y = 5 AND w.k = 'k5'", "tu7|tu7|tu7|;"},
    {"in tables with other keys", EVICTED, EVICTED_ROWS,
     "REPLACE INTO k VALUES('new', 1, 'u2', 0); UPDATE OR REPLACE k SET u = 'u5' WHERE y = 4; REPLACE INTO w VALUES('new', 'U2', 0), "
     "('k3', "
     "'u4', 0); UPDATE OR REPLACE w SET u = 'U9' WHERE k = 'K1'",
     "SELECT (SELECT group_concat(y, ' ') FROM (SELECT y FROM k ORDER BY x DESC, y)), (SELECT group_concat(k, ' ') FROM w)",
     "t1 3 4 6 7 8 9 1|tK1 k3 K5 K6 K7 K8 new|;"},
    {"by an index that came and went", EVICTED, EVICTED_ROWS,
     "DELETE FROM n WHERE id IN (4, 5, 6, 7, 8, 9); CREATE UNIQUE INDEX n_b ON n(b); REPLACE INTO n VALUES(20, 0, 1), (21, 0, 2); DROP "
     "INDEX n_b",
     "SELECT group_concat(id, ' ') FROM (SELECT id FROM n ORDER BY id)", "t3 20 21|;"},
    {"by an index that came and went in one transaction", EVICTED, EVICTED_ROWS,
     "BEGIN; DELETE FROM n WHERE id > 3; CREATE UNIQUE INDEX n_b ON n(b); UPDATE OR REPLACE n SET b = 0; DROP INDEX n_b; COMMIT",
     "SELECT count(*), b FROM n", "i1|i0|;"},
    {"by an index that went", EVICTED "; CREATE UNIQUE INDEX n_a ON n(a)", EVICTED_ROWS,
     "UPDATE OR REPLACE n SET a = 3 WHERE id = 1; DROP INDEX n_a", "SELECT count(*) FROM n", "i8|;"},
    {"by the only index, which is partial",
     "CREATE TABLE o(id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX o_a ON o(a) WHERE a > 0; CREATE TABLE e(k TEXT PRIMARY KEY, a); "
     "CREATE "
     "UNIQUE INDEX e_a ON e(lower(a))",
     "INSERT INTO o VALUES(1, 1), (2, 2); INSERT INTO e VALUES('x', 'A'), ('y', 'b')",
     "REPLACE INTO o VALUES(3, 1); UPDATE OR REPLACE e SET a = 'a' WHERE k = 'y'", "SELECT group_concat(id), k FROM o, e", "t2,3|ty|;"},
    {"by many rows, and most of the table", EVICTED, EVICTED_ROWS,
     "WITH RECURSIVE c(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM c WHERE i < 300) INSERT INTO t(id, u) SELECT i, 'u' || i FROM c;"
     "WITH RECURSIVE c(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM c WHERE i < 1200) INSERT OR REPLACE INTO t(id, u) SELECT i, 'u' || "
     "(i - 900) FROM c",
     "SELECT count(*), min(id), max(id) FROM t", "i210|i1|i1200|;"},
    {"by the application's own trigger",
     EVICTED "; CREATE TRIGGER app AFTER INSERT ON n BEGIN INSERT INTO t(id, u) VALUES(NEW.id, NEW.a); END",
     "INSERT INTO t(id, u) VALUES(1, 'u1'), (2, 'u2'), (3, 'u3')", "INSERT OR REPLACE INTO n VALUES(50, 'u2', 0)", T_IDS, "t1 3 50|;"},
};

/* ---- everything else that writes */

#define FAMILY                                                                                                                             \
    "PRAGMA foreign_keys=ON; CREATE TABLE p(id INTEGER PRIMARY KEY, name TEXT UNIQUE, v); CREATE TABLE c(id INTEGER PRIMARY KEY, p "       \
    "REFERENCES p(id) "                                                                                                                    \
    "ON DELETE CASCADE ON UPDATE CASCADE, v); CREATE TABLE l(id INTEGER PRIMARY KEY, p REFERENCES p(id) ON DELETE SET NULL ON UPDATE "     \
    "CASCADE, d DEFAULT 1 "                                                                                                                \
    "REFERENCES p(id) ON DELETE SET DEFAULT); CREATE TABLE tree(id INTEGER PRIMARY KEY, up REFERENCES tree(id) ON DELETE CASCADE "         \
    "DEFERRABLE "                                                                                                                          \
    "INITIALLY DEFERRED, v); CREATE TABLE g(c REFERENCES c(id) ON DELETE CASCADE, n, PRIMARY KEY(c, n))"
#define FAMILY_ROWS                                                                                                                        \
    "INSERT INTO p VALUES(1, 'a', 1), (2, 'b', 2), (3, 'c', 3); INSERT INTO c VALUES(10, 1, 0), (20, 2, 0), (21, 2, 0), (30, 3, 0); "      \
    "INSERT INTO l "                                                                                                                       \
    "VALUES(1, 2, 2), (2, 3, 1); INSERT INTO tree VALUES(1, NULL, 0), (2, 1, 0), (3, 2, 0), (4, 3, 0), (5, 1, 0), (6, NULL, 0); INSERT "   \
    "INTO g "                                                                                                                              \
    "VALUES(20, 1), (21, 1), (30, 1)"
#define PLAIN                                                                                                                              \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, u UNIQUE); CREATE TABLE k(x TEXT, y INTEGER, a, b, PRIMARY KEY(x, y)); CREATE TABLE "    \
    "w(k "                                                                                                                                 \
    "TEXT PRIMARY KEY, a) WITHOUT ROWID; CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, a)"
#define PLAIN_ROWS                                                                                                                         \
    "INSERT INTO t VALUES(1, 'one', 1, 'u1'), (2, 'two', 2, 'u2'), (3, 'three', 3, 'u3'); INSERT INTO k VALUES('x', 1, 1, 1), ('x', 2, "   \
    "2, "                                                                                                                                  \
    "2); INSERT INTO w VALUES('p', 1), ('q', 2); INSERT INTO auto(a) VALUES(1), (2)"

static const struct script writers[] = {
    {"cascades", FAMILY, FAMILY_ROWS, "DELETE FROM p WHERE id = 2",
     "SELECT (SELECT count(*) FROM c), (SELECT count(*) FROM g), p, d FROM l WHERE id = 1", "i2|i1|n|i1|;"},
    {"cascades of a new key", FAMILY, FAMILY_ROWS, "UPDATE p SET id = id + 100 WHERE id = 3", "SELECT p FROM c WHERE id = 30", "i103|;"},
    {"cascades of a new key, through a key of several columns",
     "PRAGMA foreign_keys=ON; CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE d(p REFERENCES p ON UPDATE CASCADE, n, PRIMARY KEY(p, "
     "n)); CREATE TABLE e(id INTEGER PRIMARY KEY, p, n, FOREIGN KEY(p, n) REFERENCES d ON UPDATE CASCADE);"
     "INSERT INTO p VALUES(1), (3); INSERT INTO d VALUES(3, 'q'); INSERT INTO e VALUES(8, 3, 'q')",
     "", "UPDATE p SET id = 33 WHERE id = 3", "SELECT p.id, d.p, e.p FROM p, d, e WHERE p.id > 1", "i33|i33|i33|;"},
    {"cascades within one table", FAMILY, FAMILY_ROWS, "DELETE FROM tree WHERE id = 1", "SELECT id FROM tree", "i6|;"},
    {"REPLACE of an identical row, which cascades", FAMILY, FAMILY_ROWS, "REPLACE INTO p VALUES(2, 'b', 2)",
     "SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c), (SELECT count(*) FROM g)", "i3|i2|i1|;"},
    {"a row that is evicted, which cascades", FAMILY, FAMILY_ROWS, "REPLACE INTO p VALUES(9, 'b', 9)",
     "SELECT (SELECT group_concat(id, ' ') FROM (SELECT id FROM p ORDER BY id)), (SELECT count(*) FROM c), (SELECT count(*) FROM g)",
     "t1 3 9|i2|i1|;"},
    {"a row that is evicted in a tree", FAMILY "; CREATE UNIQUE INDEX tree_v ON tree(v) WHERE v > 0",
     FAMILY_ROWS "; UPDATE tree SET v = id", "REPLACE INTO tree VALUES(6, NULL, 2)", "SELECT group_concat(id, ' ') FROM tree", "t1 5 6|;"},
    {"deferred foreign keys", FAMILY, FAMILY_ROWS,
     "BEGIN; INSERT INTO tree VALUES(50, 51, 0); INSERT INTO tree VALUES(51, NULL, 0); UPDATE tree SET up = 50 WHERE id = 51; COMMIT; "
     "BEGIN; PRAGMA "
     "defer_foreign_keys=ON; INSERT INTO c VALUES(99, 99, 0); INSERT INTO p VALUES(99, 'z', 0); COMMIT",
     "SELECT (SELECT up FROM tree WHERE id = 51), (SELECT p FROM c WHERE id = 99)", "i50|i99|;"},
    {"a wipe with foreign keys off", FAMILY, FAMILY_ROWS,
     "PRAGMA foreign_keys=OFF; DELETE FROM p; DELETE FROM c WHERE id > 20; PRAGMA foreign_keys=ON",
     "SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c), (SELECT count(*) FROM g)", "i0|i2|i3|;"},
    {"OR IGNORE, OR FAIL, OR ABORT", PLAIN, PLAIN_ROWS,
     "INSERT OR IGNORE INTO t VALUES(1, 'no', 0, 'x'), (8, 'no', 0, 'u1'), (9, 'yes', 0, 'u9'); UPDATE OR IGNORE t SET u = 'u1'; UPDATE /* "
     "refused */ OR "
     "FAIL t SET u = 'same';"
     "UPDATE /* refused */ OR ABORT t SET u = 'same too', a = 'no'; INSERT /* refused */ OR FAIL INTO t VALUES(20, 'kept', 0, 'u20'), (1, "
     "'no', 0, 'u21'); INSERT OR "
     "IGNORE INTO w "
     "VALUES('p', 99), ('r', 3); INSERT OR IGNORE INTO k VALUES('x', 1, 9, 9)",
     "SELECT group_concat(id || a, ' ') FROM (SELECT * FROM t ORDER BY id)", "t1one 2two 3three 9yes 20kept|;"},
    {"OR ROLLBACK", PLAIN, PLAIN_ROWS,
     "BEGIN; UPDATE t SET a = 'no'; INSERT /* refused */ OR ROLLBACK INTO t(id) VALUES(1); UPDATE t SET b = 7 WHERE id = 3",
     "SELECT id, a, b FROM t", "i1|tone|i1|;i2|ttwo|i2|;i3|tthree|i7|;"},
    {"UPSERT and RETURNING", PLAIN, PLAIN_ROWS,
     "INSERT INTO t(id, a) VALUES(1, 'up'), (10, 'new') ON CONFLICT(id) DO UPDATE SET a = excluded.a RETURNING id; INSERT INTO t(a, u) "
     "VALUES('x', 'u2') ON "
     "CONFLICT(u) DO UPDATE SET b = 'met' RETURNING *; INSERT INTO t(a, u) VALUES('x', 'u3') ON CONFLICT DO NOTHING; INSERT INTO w "
     "VALUES('p', 5) ON CONFLICT(k) "
     "DO UPDATE SET k = 'moved', a = excluded.a; UPDATE t SET b = b || '!' RETURNING b; DELETE FROM t WHERE id = 3 RETURNING id; INSERT "
     "INTO t(id, u) VALUES(1, "
     "'elsewhere') ON CONFLICT(id) DO UPDATE SET id = 77",
     "SELECT id, a, b FROM t ORDER BY id", "i2|ttwo|tmet!|;i10|tnew|n|;i77|tup|t1!|;"},
    {"keys swapped", PLAIN, PLAIN_ROWS,
     "BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1; UPDATE k SET y = 3 - "
     "y + 100; UPDATE k SET y = "
     "y - 100; UPDATE w SET k = CASE k WHEN 'p' THEN 'q2' ELSE 'p2' END; UPDATE w SET k = substr(k, 1, 1); COMMIT",
     "SELECT t.a, k.a, w.a FROM t, k, w WHERE t.id = 1 AND y = 1 AND k = 'p'", "ttwo|i2|i2|;"},
    {"keys moved on by one", PLAIN, PLAIN_ROWS, "UPDATE t SET id = id + 1000; UPDATE t SET id = id - 999; UPDATE auto SET id = -id",
     "SELECT group_concat(id || a, ' ') FROM t", "t2one 3two 4three|;"},
    {"rowid written by other names", PLAIN, PLAIN_ROWS,
     "UPDATE t SET rowid = 50 WHERE oid = 1; INSERT INTO t(_rowid_, a) VALUES(60, 'sixty')", "SELECT id, a FROM t WHERE id > 40",
     "i50|tone|;i60|tsixty|;"},
    {"deleted and inserted again", PLAIN, PLAIN_ROWS,
     "DELETE FROM t WHERE id = 3; INSERT INTO t(a) VALUES('other three'); DELETE FROM t WHERE id = 1; INSERT INTO t(id, a) VALUES(1, "
     "'given again'); DELETE FROM w; INSERT INTO "
     "w VALUES('p', 'again'); DELETE FROM k WHERE y = 1; INSERT INTO k VALUES('x', 1, 'again', NULL); DELETE FROM auto; INSERT INTO "
     "auto(a) VALUES(3)",
     "SELECT group_concat(id || a, ' '), (SELECT id FROM auto) FROM (SELECT * FROM t ORDER BY id)", "t1given again 2two 3other three|i3|;"},
    {"inserted, deleted, inserted, replaced", PLAIN, PLAIN_ROWS,
     "INSERT INTO t(id, a) VALUES(30, 'x'); DELETE FROM t WHERE id = 30; INSERT INTO t(id, a) VALUES(30, 'y'); REPLACE INTO t(id, a, u) "
     "VALUES(30, 'z', 'u1'); DELETE FROM t "
     "WHERE id = 30; INSERT INTO t(a) VALUES('four'); REPLACE INTO w VALUES('p', 1); DELETE FROM w WHERE k = 'p'; REPLACE INTO w "
     "VALUES('p', 7)",
     "SELECT group_concat(id || a, ' '), (SELECT a FROM w WHERE k = 'p') FROM (SELECT * FROM t ORDER BY id)", "t2two 3three 4four|i7|;"},
    {"savepoints", PLAIN, PLAIN_ROWS,
     "BEGIN; INSERT INTO t(id, a) VALUES(40, 'kept'); SAVEPOINT s; INSERT INTO t(id, a) VALUES(41, 'no'); DELETE FROM t WHERE id = 1; "
     "UPDATE OR REPLACE t SET u = 'u3' WHERE id = "
     "2; ROLLBACK TO s; UPDATE t SET b = 'kept' WHERE id = 2; RELEASE s; SAVEPOINT z; DELETE FROM k; ROLLBACK TO z; COMMIT; SAVEPOINT "
     "outer; INSERT INTO t(id) VALUES(50); RELEASE "
     "outer; SAVEPOINT outer; DELETE FROM t; ROLLBACK TO outer; RELEASE outer; BEGIN; DELETE FROM t; ROLLBACK",
     "SELECT group_concat(id, ' ') FROM (SELECT id FROM t ORDER BY id)", "t1 2 3 40 50|;"},
    {"a table emptied and filled", PLAIN, PLAIN_ROWS,
     "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM t; DELETE FROM t; INSERT INTO t SELECT * FROM kept; DELETE FROM k; INSERT INTO k "
     "VALUES('x', 1, 1, 1); COMMIT; DROP TABLE kept",
     "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM k)", "i3|i1|;"},
    {"INSERT and UPDATE from a SELECT of the same table", PLAIN, PLAIN_ROWS,
     "INSERT INTO t(a, b) SELECT a || '2', b FROM t; UPDATE t SET b = s.n FROM (SELECT count(*) AS n FROM t) AS s; REPLACE INTO t(id, a, "
     "u) SELECT id, a, u FROM t WHERE id < 3",
     "SELECT count(*), sum(b) FROM t", "i6|i24|;"},
    {"views with INSTEAD OF triggers",
     PLAIN "; CREATE VIEW seen AS SELECT id, a FROM t; CREATE TRIGGER seen_i INSTEAD OF INSERT ON seen BEGIN INSERT INTO t(id, a) "
           "VALUES(NEW.id, NEW.a); END; "
           "CREATE TRIGGER seen_d INSTEAD OF DELETE ON seen BEGIN DELETE FROM t WHERE id = OLD.id; END",
     PLAIN_ROWS, "INSERT INTO seen VALUES(70, 'seen'); DELETE FROM seen WHERE id = 1",
     "SELECT group_concat(id, ' ') FROM (SELECT id FROM t ORDER BY id)", "t2 3 70|;"},
    {"VACUUM", PLAIN, PLAIN_ROWS,
     "DELETE FROM t WHERE id = 1; DELETE FROM k WHERE y = 1; VACUUM; INSERT INTO k VALUES('new', 1, 1, 1); REPLACE INTO t(id, u) VALUES(9, "
     "'u2'); VACUUM",
     "SELECT group_concat(id, ' ') FROM (SELECT id FROM t ORDER BY id)", "t3 9|;"},
};

#define EVICTIONS (sizeof evictions / sizeof *evictions)
#define WRITERS (sizeof writers / sizeof *writers)

int main(void) {
    struct CMUnitTest tests[EVICTIONS + WRITERS];
    for (size_t i = 0; i < EVICTIONS + WRITERS; i++) {
        const struct script *s = i < EVICTIONS ? &evictions[i] : &writers[i - EVICTIONS];
        tests[i] = (struct CMUnitTest){s->name, test_script, NULL, NULL, (void *)(uintptr_t)s};
    }
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
