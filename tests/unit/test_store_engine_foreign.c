/* The engine: constraints that a merge of two authors' changes would break. Rows are kept and said in red; what one author wrote while he saw
 * everything is his own, and shown as it is. */
#include "store_rig.h"

#define FAMILY                                                                                                                             \
    "CREATE TABLE parent(k TEXT PRIMARY KEY, v);"                                                                                          \
    "CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent(k), v); CREATE INDEX child_p ON child(p)"

#define NUMBERED                                                                                                                           \
    "CREATE TABLE parent(id INTEGER PRIMARY KEY, v); CREATE TABLE child(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent, v)"

static void assert_never_parked(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        if (strstr(r->peers[i].log, "cannot be shown"))
            fail_msg("server %u: %s", i, r->peers[i].log);
}

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void assert_parked(struct rig *r, uint32_t i, int64_t count) {
    if (peer_status(&r->peers[i], "parked") != count || peer_settled(&r->peers[i]) != (count == 0))
        fail_msg("server %u: parked %lld, expected %lld\n%s", i, (long long)peer_status(&r->peers[i], "parked"), (long long)count,
                 r->peers[i].log);
}

static void settle(struct rig *r) {
    for (int round = 0; round < 3; round++) {
        rig_share(r);
        for (uint32_t i = 0; i < r->count; i++)
            peer_retry(&r->peers[i]);
    }
    share_same(r);
}

static void open_with(struct rig *r, uint32_t count, const char *sql, bool enforced) {
    rig_open(r, count, sql);
    for (uint32_t i = 0; i < count && enforced; i++)
        app_exec(rig_app(r, i), "PRAGMA foreign_keys=ON");
}

static void assert_no_orphans(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        assert_rows(rig_app(r, i), "PRAGMA foreign_key_check", "");
}

/* ---- the other constraints */

static void test_every_other_constraint_parks(void **state) {
    (void)state;
    static const struct {
        const char *strict, *sql, *reason;
    } CASES[] = {
        {"CREATE TABLE t(k TEXT PRIMARY KEY, v NOT NULL)", "INSERT INTO t VALUES('x', NULL)", "NOT NULL constraint failed"},
        {"CREATE TABLE t(k TEXT PRIMARY KEY, v CHECK(v < 10))", "INSERT INTO t VALUES('x', 10)", "CHECK constraint failed"},
        {"CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER) STRICT", "INSERT INTO t VALUES('x', 'text')", "cannot store TEXT value"},
        {"CREATE TABLE t(k TEXT PRIMARY KEY, v UNIQUE)", "INSERT INTO t VALUES('x', 1)", "UNIQUE constraint failed"},
        {"CREATE TABLE t(k TEXT PRIMARY KEY, v); CREATE UNIQUE INDEX u ON t(v + 1)", "INSERT INTO t VALUES('x', 1)", "UNIQUE"},
    };
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++)
        for (int update = 0; update < 2; update++) {
            struct rig r;
            rig_start(&r, 2);
            for (uint32_t i = 0; i < 2; i++) {
                assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
                app_exec(rig_app(&r, i), i ? CASES[n].strict : "CREATE TABLE t(k TEXT PRIMARY KEY, v)");
                app_exec(rig_app(&r, i), "CREATE TABLE other(k TEXT PRIMARY KEY)");
                peer_open(&r.peers[i]);
            }
            rig_share(&r);
            rig_act(&r, 0, "INSERT INTO t VALUES('old', 1)");
            if (update)
                rig_act(&r, 0, "INSERT INTO t VALUES('x', 2)");
            rig_share(&r);
            rig_act(&r, 0, "BEGIN; DELETE FROM t WHERE k = 'x'");
            rig_act(&r, 0, CASES[n].sql);
            rig_act(&r, 0, "INSERT INTO other VALUES('behind'); COMMIT");
            rig_share(&r);
            assert_parked(&r, 1, 1);
            assert_problem(&r.peers[1], "t", CASES[n].reason);
            assert_rows(rig_app(&r, 1), "SELECT k FROM other", "tbehind|;");
            assert_rows(rig_app(&r, 1), "SELECT * FROM t ORDER BY k", update ? "told|i1|;tx|i2|;" : "told|i1|;");
            rig_act(&r, 0, "UPDATE t SET v = 5 WHERE k = 'x'");
            share_same(&r);
            rig_close(&r);
        }
}

/* What is parked here was not seen here, though it is merged: a write that meets it leaves it an open conflict, on every server. */
static void test_a_parked_value_was_not_seen(void **state) {
    (void)state;
    for (int deleted = 0; deleted < 2; deleted++) {
        struct rig r;
        rig_start(&r, 3);
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
            app_exec(rig_app(&r, i),
                     i == 1 ? "CREATE TABLE t(k TEXT PRIMARY KEY, v CHECK(v < 10))" : "CREATE TABLE t(k TEXT PRIMARY KEY, v)");
            peer_open(&r.peers[i]);
        }
        rig_share(&r);
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 1), ('y', 1)");
        share_same(&r);
        rig_act(&r, 0, "UPDATE t SET v = 50 WHERE k = 'x'");
        rig_share(&r);
        assert_parked(&r, 1, 1);
        rig_time_passes(&r);
        rig_act(&r, 1, "UPDATE t SET v = 3 WHERE k = 'y'"); /* of another row: this one was seen */
        rig_tick();
        rig_act(&r, 1, deleted ? "DELETE FROM t WHERE k = 'x'" : "UPDATE t SET v = 2 WHERE k = 'x'");
        settle(&r);
        assert_everywhere(&r, "SELECT * FROM t ORDER BY k", deleted ? "ty|i3|;" : "tx|i2|;ty|i3|;");
        for (uint32_t i = 0; i < 3; i++) {
            assert_true(peer_lost(&r.peers[i], "v", "50"));
            assert_int_equal(peer_conflicts(&r.peers[i]), 1);
        }
        rig_close(&r);
    }
}

/* ---- what is no clash */

static const char *const ENFORCED =
    "CREATE TABLE parent(k TEXT PRIMARY KEY, v); CREATE TABLE child(k TEXT PRIMARY KEY, p NOT NULL REFERENCES parent(k) ON DELETE CASCADE "
    "ON "
    "UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE node(id INTEGER PRIMARY KEY, up INTEGER REFERENCES node(id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE a(k TEXT PRIMARY KEY, b REFERENCES b(k) DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE b(k TEXT PRIMARY KEY, a REFERENCES a(k) DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE pair(x INTEGER, y TEXT COLLATE NOCASE, v, PRIMARY KEY(y, x));"
    "CREATE TABLE part(id INTEGER PRIMARY KEY, y TEXT, x TEXT, FOREIGN KEY(x, y) REFERENCES pair(x, y));"
    "CREATE TABLE coded(id INTEGER PRIMARY KEY, code TEXT UNIQUE); CREATE TABLE use(id INTEGER PRIMARY KEY, code REFERENCES coded(code) ON "
    "UPDATE CASCADE ON DELETE SET DEFAULT);"
    "CREATE TABLE one(id INTEGER PRIMARY KEY REFERENCES parent_number(id)); CREATE TABLE parent_number(id INTEGER PRIMARY KEY, v);"
    "CREATE TABLE lost(k TEXT PRIMARY KEY, p REFERENCES no_such_table(k))";

static void test_whole_commits_pass(void **state) {
    (void)state;
    struct rig r;
    open_with(&r, 3, ENFORCED, true);
    rig_act(&r, 0, "BEGIN; INSERT INTO child VALUES('c', 'p'), ('d', 'p'); INSERT INTO parent VALUES('p', 1); COMMIT");
    rig_act(&r, 0, "INSERT INTO node VALUES(1, 1), (2, 3), (3, 2), (4, NULL), (5, 4)");
    rig_act(&r, 0, "BEGIN; INSERT INTO a VALUES('a', 'b'); INSERT INTO b VALUES('b', 'a'); COMMIT");
    rig_act(&r, 0,
            "INSERT INTO pair VALUES(1, 'One', 0), (2, 'two', 0); INSERT INTO part(x, y) VALUES('1', 'ONE'), (2, 'TWO'), (NULL, 'x'), (7, "
            "NULL)");
    rig_act(&r, 0, "INSERT INTO coded(code) VALUES('A'), ('B'); INSERT INTO use(code) VALUES('A'), ('A'), ('B'), (NULL)");
    rig_act(&r, 0, "INSERT INTO parent_number VALUES(7, 0); INSERT INTO one VALUES(7)");
    share_same(&r);
    rig_act(&r, 1, "BEGIN; UPDATE parent SET k = 'q'; INSERT INTO parent VALUES('p', 2); COMMIT");
    rig_act(&r, 1, "DELETE FROM node WHERE id IN (3, 4)");
    rig_act(&r, 1, "UPDATE coded SET code = 'C' WHERE code = 'A'; DELETE FROM coded WHERE code = 'B'");
    rig_act(&r, 1, "BEGIN; DELETE FROM part; DELETE FROM pair; COMMIT; BEGIN; DELETE FROM one; DELETE FROM parent_number; COMMIT");
    share_same(&r);
    rig_act(&r, 2, "BEGIN; DELETE FROM a; DELETE FROM b; COMMIT; DELETE FROM parent WHERE k = 'q'");
    share_same(&r);
    assert_everywhere(&r, "SELECT (SELECT count(*) FROM child), (SELECT count(*) FROM parent), (SELECT count(*) FROM a)", "i0|i1|i0|;");
    assert_everywhere(&r, "SELECT * FROM node ORDER BY id", "i1|i1|;i2|n|;i5|n|;");
    assert_everywhere(&r, "SELECT code FROM use ORDER BY id", "tC|;tC|;n|;n|;");
    assert_never_parked(&r);
    rig_close(&r);
}

/* The same, heard late and all at once, by servers that were away. */
static void test_a_late_server_takes_it_all(void **state) {
    (void)state;
    for (int enforced = 0; enforced < 2; enforced++) {
        struct rig r;
        open_with(&r, 2, FAMILY, enforced);
        rig_act(&r, 0, "INSERT INTO parent VALUES('p', 1), ('q', 1); INSERT INTO child VALUES('c', 'p', 1), ('d', 'q', 1)");
        rig_act(&r, 0, enforced ? "DELETE FROM child WHERE p = 'p'; DELETE FROM parent WHERE k = 'p'" : "DELETE FROM parent");
        rig_act(&r, 0, "UPDATE child SET v = 2; INSERT INTO parent VALUES('r', 1); UPDATE child SET p = 'r' WHERE k = 'd'");
        share_same(&r);
        assert_never_parked(&r);
        rig_close(&r);
    }
}

/* Foreign keys are off in the application, as they are by default: its orphans are its own. */
static void test_orphans_that_their_author_knew(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i),
                 FAMILY "; CREATE TABLE coded(id INTEGER PRIMARY KEY, code UNIQUE); CREATE TABLE use(id INTEGER PRIMARY KEY, c "
                        "REFERENCES coded(code))");
        if (i == 0)
            app_exec(rig_app(&r, i), "INSERT INTO child VALUES('adopted', 'nowhere', 0)");
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
    }
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO child VALUES('o', 'never', 1); INSERT INTO use(c) VALUES('x')");
    rig_act(&r, 1, "INSERT INTO parent VALUES('p', 1); INSERT INTO child VALUES('c', 'p', 1)");
    rig_act(&r, 1, "INSERT INTO coded(code) VALUES('A'), ('B'); INSERT INTO use(c) VALUES('A'), ('B')");
    share_same(&r);
    rig_act(&r, 2, "DELETE FROM parent; DELETE FROM coded WHERE code = 'A'; UPDATE coded SET code = 'Z'"); /* it had seen the children */
    share_same(&r);
    rig_act(&r, 0,
            "INSERT INTO child VALUES('after', 'p', 1); UPDATE child SET p = 'elsewhere' WHERE k = 'adopted'; UPDATE child SET v = 9");
    share_same(&r);
    assert_everywhere(&r, "SELECT k, p, v FROM child ORDER BY k", "tadopted|telsewhere|i9|;tafter|tp|i9|;tc|tp|i9|;to|tnever|i9|;");
    assert_never_parked(&r);
    rig_close(&r);
}

/* Rows that were there before the node go, and one of their numbers comes again with the old reference: the row at home under it is dead, and
 * what refers is the new one. */
static void test_an_orphan_under_an_old_number(void **state) {
    (void)state;
    struct rig r;
    open_with(&r, 2,
              "CREATE TABLE t(id INTEGER PRIMARY KEY, v, up INTEGER REFERENCES t(id));"
              "INSERT INTO t VALUES(1, 'top', NULL), (3, 'old', 1)",
              false);
    rig_act(&r, 0, "DELETE FROM t");
    rig_act(&r, 0, "INSERT INTO t VALUES(3, 'new', 1)");
    peer_pull(&r.peers[1], &r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT id, v, up FROM t", "i3|tnew|i1|;");
    assert_never_parked(&r);
    rig_close(&r);
}

/* Only a table that is here, and a key that SQLite would enforce. */
static void test_keys_that_bind_nothing(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i),
                 "CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent(k), m REFERENCES mismatch(v), h REFERENCES heap(v));"
                 "CREATE TABLE mismatch(k TEXT PRIMARY KEY, v); CREATE TABLE heap(v UNIQUE)");
        if (i == 0)
            app_exec(rig_app(&r, i), "CREATE TABLE parent(k TEXT PRIMARY KEY)");
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO parent VALUES('p'); INSERT INTO mismatch VALUES('m', 'm'); INSERT INTO heap VALUES('h')");
    rig_act(&r, 0, "INSERT INTO child VALUES('c', 'p', 'm', 'h')");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT * FROM child", "tc|tp|tm|th|;");
    rig_act(&r, 1, "INSERT INTO child VALUES('d', 'q', 'n', 'i')");
    rig_act(&r, 0, "DELETE FROM mismatch");
    rig_share(&r);
    assert_same_table(&r, "child");
    assert_never_parked(&r);
    rig_close(&r);
}

/* ---- clashes: server 0 deletes the parent, server 1 puts a child under it */

static const char *const ADD_TEXT[] = {"INSERT INTO child VALUES('c', 'p', 'new')",
                                       "UPDATE child SET p = 'p', v = 'new' WHERE k = 'moved'"};

static void clash(struct rig *r, uint32_t servers, int how, bool enforced) {
    open_with(r, servers, FAMILY "; CREATE TABLE other(k TEXT PRIMARY KEY)", enforced);
    rig_act(r, 0, "INSERT INTO parent VALUES('p', 1), ('q', 1); INSERT INTO child VALUES('moved', 'q', 'old')");
    share_same(r);
    rig_act(r, 0, "DELETE FROM parent WHERE k = 'p'; INSERT INTO other VALUES('behind 0')");
    rig_act(r, 1, ADD_TEXT[how]);
    rig_act(r, 1, "INSERT INTO other VALUES('behind 1')");
    rig_share(r);
}

static void assert_kinds(struct rig *r, uint32_t i, size_t count, const char *kind) {
    json_t *list = store_conflicts(r->peers[i].s.store), *c;
    size_t n;
    assert_int_equal(json_array_size(list), count);
    json_array_foreach(list, n, c) assert_string_equal(json_string_value(json_object_get(c, "kind")), kind);
    json_decref(list);
}

static void test_a_clash_revives_the_parent(void **state) {
    (void)state;
    for (int how = 0; how < 2; how++)
        for (int enforced = 0; enforced < 2; enforced++) {
            struct rig r;
            clash(&r, 2 + enforced, how, enforced);
            share_same(&r);
            assert_no_orphans(&r);
            assert_never_parked(&r);
            assert_everywhere(&r, "SELECT * FROM parent ORDER BY k", "tp|i1|;tq|i1|;");
            assert_everywhere(&r, "SELECT k, p, v FROM child ORDER BY k", how ? "tmoved|tp|tnew|;" : "tc|tp|tnew|;tmoved|tq|told|;");
            assert_everywhere(&r, "SELECT k FROM other ORDER BY k", "tbehind 0|;tbehind 1|;");
            for (uint32_t i = 0; i < r.count; i++) {
                peer_reopen(&r.peers[i]);
                peer_rest(&r.peers[i]);
                assert_kinds(&r, i, 1, "orphan");
            }
            rig_close(&r);
        }
}

/* The deletion that lost is an open conflict, until somebody decides it or deletes the parent again. */
static void test_a_lost_deletion_is_decided(void **state) {
    (void)state;
    for (int way = 0; way < 4; way++) {
        struct rig r;
        clash(&r, 3, 0, true);
        share_same(&r);
        if (way == 2)
            rig_act(&r, 1, "DELETE FROM child WHERE p = 'p'");
        if (way == 3)
            rig_act(&r, 1, "DELETE FROM child WHERE p = 'p'; DELETE FROM parent WHERE k = 'p'");
        share_same(&r);
        json_t *list = store_conflicts(r.peers[2].s.store), *answer = NULL,
               *how = json_pack("{s:s}", "keep", way == 0 ? "winner" : "loser");
        const char *id = json_string_value(json_object_get(json_array_get(list, 0), "id"));
        if (way < 3) {
            assert_int_equal(store_resolve(r.peers[2].s.store, id, how, &answer), 0);
            assert_true((json_object_get(answer, "done") != NULL) == (way != 1));
            if (way == 1)
                assert_non_null(strstr(json_string_value(json_object_get(answer, "error")), "refer to it"));
            json_decref(answer);
        }
        json_decref(how);
        json_decref(list);
        share_same(&r);
        assert_no_orphans(&r);
        assert_everywhere(&r, "SELECT k FROM parent ORDER BY k", way < 2 ? "tp|;tq|;" : "tq|;");
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), way == 1);
        rig_close(&r);
    }
}

/* What nobody who deleted the parent knew of it comes back with it; what is written to it later is written to a living row. */
static void test_writes_to_a_parent_that_lives_again(void **state) {
    (void)state;
    struct rig r;
    open_with(&r, 3, FAMILY "; CREATE TABLE other(k TEXT PRIMARY KEY)", true);
    rig_act(&r, 0, "INSERT INTO parent VALUES('p', 1), ('q', 1)");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM parent WHERE k = 'p'");
    rig_act(&r, 1, "INSERT INTO child VALUES('c', 'p', 1)");
    rig_act(&r, 2, "UPDATE parent SET v = 'unseen' WHERE k = 'p'");
    share_same(&r);
    assert_everywhere(&r, "SELECT v FROM parent WHERE k = 'p'", "tunseen|;");
    rig_act(&r, 0, "UPDATE parent SET v = 'edited' WHERE k = 'p'");
    share_same(&r);
    assert_everywhere(&r, "SELECT v FROM parent WHERE k = 'p'", "tedited|;");
    rig_act(&r, 1, "BEGIN; DELETE FROM child WHERE p = 'p'; DELETE FROM parent WHERE k = 'p'; COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT k FROM parent", "tq|;");
    assert_never_parked(&r);
    rig_close(&r);
}

static void test_a_clash_of_numbered_rows(void **state) {
    (void)state;
    struct rig r;
    open_with(&r, 3, NUMBERED, true);
    rig_act(&r, 0, "INSERT INTO parent(v) VALUES('p'), ('q')");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM parent WHERE id = 1");
    rig_act(&r, 1, "INSERT INTO child(p, v) VALUES(1, 'c'), (1, 'd'), (2, 'e')");
    share_same(&r);
    assert_no_orphans(&r);
    assert_never_parked(&r);
    assert_everywhere(&r, "SELECT v FROM parent ORDER BY id", "tp|;tq|;");
    assert_everywhere(&r, "SELECT v FROM child ORDER BY id", "tc|;td|;te|;");
    rig_close(&r);
}

/* A row that the application numbered itself is meant by that number, also where another one was at home there since. */
static void test_a_given_number_is_meant(void **state) {
    (void)state;
    struct rig r;
    open_with(&r, 3, NUMBERED, true);
    rig_act(&r, 2, "INSERT INTO parent(v) VALUES('numbered')");
    rig_act(&r, 0, "INSERT INTO parent VALUES(1, 'given')");
    peer_pull(&r.peers[1], &r.peers[0]);
    peer_pull(&r.peers[1], &r.peers[2]);
    rig_act(&r, 1, "INSERT INTO child(p, v) VALUES(1, 'c')");
    rig_act(&r, 0, "DELETE FROM parent");
    peer_pull(&r.peers[0], &r.peers[1]);
    assert_no_orphans(&r);
    share_same(&r);
    assert_no_orphans(&r);
    assert_never_parked(&r);
    assert_everywhere(&r, "SELECT p.v, c.v FROM parent AS p LEFT JOIN child AS c ON c.p = p.id ORDER BY 1", "tgiven|tc|;tnumbered|n|;");
    rig_close(&r);
}

/* A third server hears of both sides in any order, or at once. */
static void test_a_third_server_in_any_order(void **state) {
    (void)state;
    for (int order = 0; order < 3; order++) {
        struct rig r;
        open_with(&r, 3, FAMILY, true);
        rig_act(&r, 0, "INSERT INTO parent VALUES('p', 1)");
        share_same(&r);
        rig_act(&r, 0, "DELETE FROM parent");
        rig_act(&r, 1, "INSERT INTO child VALUES('c', 'p', 1)");
        if (order == 2) {
            peer_pull(&r.peers[0], &r.peers[1]); /* both from one */
            peer_pull(&r.peers[2], &r.peers[0]);
        } else {
            peer_pull(&r.peers[2], &r.peers[order]);
            peer_pull(&r.peers[2], &r.peers[!order]);
        }
        assert_rows(rig_app(&r, 2), "SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child)", "i1|i1|;");
        share_same(&r);
        assert_no_orphans(&r);
        assert_never_parked(&r);
        for (uint32_t i = 0; i < 3; i++)
            assert_kinds(&r, i, 1, "orphan");
        rig_act(&r, 1, "DELETE FROM child; DELETE FROM parent");
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM parent", "i0|;");
        rig_close(&r);
    }
}

/* A whole branch was deleted, and somebody put a leaf on it: what the leaf hangs on comes back, level by level, and nothing else. */
static void test_a_branch_lives_again(void **state) {
    (void)state;
    for (int indexed = 0; indexed < 2; indexed++)
        for (uint32_t first = 0; first < 2; first++) {
            struct rig r;
            open_with(&r, 2, "CREATE TABLE node(k TEXT PRIMARY KEY, up REFERENCES node(k) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
                      true);
            if (indexed)
                for (uint32_t i = 0; i < 2; i++)
                    rig_act(&r, i, "CREATE INDEX up ON node(up)");
            rig_act(&r, 0, "INSERT INTO node VALUES('root', NULL), ('free', NULL), ('a', 'root'), ('b', 'a'), ('c', 'b'), ('other', 'a')");
            share_same(&r);
            rig_act(&r, 0, "DELETE FROM node WHERE k = 'root'");
            rig_act(&r, 1, "INSERT INTO node VALUES('leaf', 'c')");
            peer_pull(&r.peers[first], &r.peers[!first]);
            share_same(&r);
            assert_no_orphans(&r);
            assert_never_parked(&r);
            assert_everywhere(&r, "SELECT group_concat(k, ' ') FROM (SELECT k FROM node ORDER BY k)", "ta b c free leaf root|;");
            for (uint32_t i = 0; i < 2; i++)
                assert_kinds(&r, i, 4, "orphan");
            rig_close(&r);
        }
}

/* What hangs on a new row that hangs on the dead one comes with it. */
static void test_a_chain_of_new_rows(void **state) {
    (void)state;
    struct rig r;
    open_with(
        &r, 2,
        "CREATE TABLE node(k TEXT PRIMARY KEY, up REFERENCES node(k) DEFERRABLE INITIALLY DEFERRED, other REFERENCES node(k) DEFERRABLE "
        "INITIALLY DEFERRED)",
        true);
    rig_act(&r, 0, "INSERT INTO node VALUES('root', NULL, NULL), ('free', NULL, NULL)");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM node WHERE k = 'root'");
    rig_act(&r, 1, "BEGIN; INSERT INTO node VALUES('a', 'root', 'b'), ('b', 'a', 'b'), ('c', 'b', 'a'), ('d', 'free', 'd'); COMMIT");
    rig_act(&r, 1, "INSERT INTO node VALUES('e', 'c', NULL)");
    share_same(&r);
    assert_no_orphans(&r);
    assert_never_parked(&r);
    assert_everywhere(&r, "SELECT count(*) FROM node", "i7|;");
    rig_close(&r);
}

/* A parent that cannot be shown for another reason. */
static void test_a_child_of_a_parked_parent(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), i ? "CREATE TABLE parent(k TEXT PRIMARY KEY, u CHECK(u <> 'zero'))"
                                   : "CREATE TABLE parent(k TEXT PRIMARY KEY, u CHECK(u <> 'one'))");
        app_exec(rig_app(&r, i), "CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent(k)); PRAGMA foreign_keys=ON");
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO parent VALUES('a', 'zero'); INSERT INTO child VALUES('of a', 'a')");
    rig_act(&r, 1, "INSERT INTO parent VALUES('b', 'one'); INSERT INTO child VALUES('of b', 'b')");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_parked(&r, i, 2);
    assert_no_orphans(&r);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "UPDATE parent SET u = 'two'");
    rig_share(&r); /* what waits is tried again as soon as what it waits for has come */
    for (uint32_t i = 0; i < 2; i++)
        assert_parked(&r, i, 0);
    assert_everywhere(&r, "SELECT count(*) FROM child", "i2|;");
    settle(&r);
    rig_close(&r);
}

/* A reference to UNIQUE columns that are not the key. */
static void test_a_reference_to_other_columns(void **state) {
    (void)state;
    for (int moved = 0; moved < 2; moved++)
        for (int indexed = 0; indexed < 2; indexed++) {
            struct rig r;
            open_with(&r, 2,
                      "CREATE TABLE coded(k TEXT PRIMARY KEY, code UNIQUE); CREATE TABLE use(k TEXT PRIMARY KEY, c REFERENCES coded(code))",
                      true);
            for (uint32_t i = 0; i < 2 && indexed; i++)
                rig_act(&r, i, "CREATE INDEX use_c ON use(c)");
            rig_act(&r, 0, "INSERT INTO coded VALUES('a', 'A')");
            share_same(&r);
            rig_act(&r, 0, moved ? "UPDATE coded SET code = 'B'" : "DELETE FROM coded");
            rig_act(&r, 1, "INSERT INTO use VALUES('u', 'A')");
            peer_pull(&r.peers[1], &r.peers[0]);
            assert_parked(&r, 1, moved); /* a value that moved on is nobody's to take back */
            assert_no_orphans(&r);
            if (moved) {
                rig_share(&r);
                assert_parked(&r, 0, 1);
                assert_no_orphans(&r);
                rig_act(&r, 1, "DELETE FROM use");
            }
            settle(&r);
            assert_everywhere(&r, "SELECT code FROM coded", moved ? "tB|;" : "tA|;");
            rig_close(&r);
        }
}

/* The value goes from one row to another, which its author does beside the child, and the other one loses it to somebody who knew of neither. */
static void test_a_reference_that_was_handed_on(void **state) {
    (void)state;
    struct rig r;
    open_with(&r, 2, "CREATE TABLE coded(k TEXT PRIMARY KEY, code UNIQUE); CREATE TABLE use(k TEXT PRIMARY KEY, c REFERENCES coded(code))",
              true);
    rig_act(&r, 0, "INSERT INTO coded VALUES('a', 1); INSERT INTO use VALUES('u', 1)");
    share_same(&r);
    rig_act(&r, 0, "UPDATE coded SET k = 'b' WHERE k = 'a'");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO coded VALUES('b', 2)");
    settle(&r);
    assert_no_orphans(&r);
    assert_everywhere(&r, "SELECT k, code FROM coded ORDER BY k", "ta|i1|;tb|i2|;");
    assert_everywhere(&r, "SELECT k, c FROM use", "tu|i1|;");
    rig_close(&r);
}

/* The key of the parent changes under a child that its author did not know. */
static void test_a_changed_key(void **state) {
    (void)state;
    struct rig r;
    open_with(
        &r, 2,
        "CREATE TABLE parent(k TEXT PRIMARY KEY, v); CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent(k) ON UPDATE CASCADE)",
        true);
    rig_act(&r, 0, "INSERT INTO parent VALUES('p', 1); INSERT INTO child VALUES('old', 'p')");
    share_same(&r);
    rig_act(&r, 0, "UPDATE parent SET k = 'q'");
    rig_act(&r, 1, "INSERT INTO child VALUES('new', 'p')");
    share_same(&r);
    assert_no_orphans(&r);
    assert_never_parked(&r);
    assert_everywhere(&r, "SELECT k, p FROM child ORDER BY k", "tnew|tp|;told|tq|;");
    assert_everywhere(&r, "SELECT k, v FROM parent ORDER BY k", "tp|i1|;tq|i1|;");
    rig_close(&r);
}

/* ---- anything: no server ever shows an orphan that nobody made, whatever is told in whatever order; and it all ends when the children go */

static const char *const RANDOM =
    "CREATE TABLE parent(k TEXT PRIMARY KEY, u UNIQUE, v);"
    "CREATE TABLE counted(id INTEGER PRIMARY KEY, up INTEGER REFERENCES counted ON DELETE SET NULL);"
    "CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent(k) ON UPDATE CASCADE, u REFERENCES parent(u), c REFERENCES counted(id));"
    "CREATE TABLE grandchild(k TEXT, p REFERENCES child(k) ON DELETE CASCADE, c INTEGER REFERENCES counted ON DELETE CASCADE, PRIMARY "
    "KEY(k, p));"
    "CREATE INDEX child_p ON child(p); CREATE INDEX grandchild_c ON grandchild(c)";

/* An application's transaction; what its own constraints refuse is taken back. */
static void try_sql(struct rig *r, struct rig_random *x, uint32_t who) {
    static const char *const SQL[] = {
        "INSERT INTO parent VALUES('p%u', %u, 0)",
        "DELETE FROM parent WHERE k = 'p%u'",
        "UPDATE parent SET k = 'p%u' WHERE k = 'p%u'",
        "UPDATE parent SET u = %u WHERE k = 'p%u'",
        "UPDATE parent SET v = random() WHERE k = 'p%u'",
        "INSERT INTO counted(up) SELECT id FROM counted LIMIT %u",
        "INSERT OR IGNORE INTO counted VALUES(%u, %u)",
        "DELETE FROM counted WHERE id = %u",
        "INSERT INTO child SELECT 'c%u', k, NULL, NULL FROM parent WHERE k = 'p%u'",
        "INSERT INTO child SELECT 'c%u', NULL, u, NULL FROM parent WHERE u = %u",
        "INSERT INTO child VALUES('c%u', NULL, NULL, %u)",
        "UPDATE child SET p = 'p%u' WHERE k = 'c%u'",
        "UPDATE child SET c = %u WHERE k = 'c%u'",
        "DELETE FROM child WHERE k = 'c%u'",
        "INSERT INTO grandchild VALUES('g', 'c%u', %u)",
        "UPDATE grandchild SET c = %u WHERE p = 'c%u'",
    };
    char sql[200];
    sqlite3 *db = rig_app(r, who);
    app_exec(db, "BEGIN");
    for (uint32_t n = 1 + rig_below(x, 3); n-- > 0;) {
        const char *form = SQL[rig_below(x, sizeof SQL / sizeof *SQL)];
        uint32_t a = rig_below(x, 5), b = rig_below(x, 5);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(sql, sizeof sql, form, a, b);
#pragma GCC diagnostic pop
        sqlite3_exec(db, sql, NULL, NULL, NULL);
    }
    if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        app_exec(db, "ROLLBACK");
}

static void test_random(void **state) {
    (void)state;
    struct rig_random x = {rig_seed()};
    for (int round = 0; round < 5; round++) {
        struct rig r;
        open_with(&r, 3, RANDOM, true);
        for (int step = 0; step < 60; step++) {
            uint32_t who = rig_below(&x, 3), from = rig_below(&x, 3);
            if (rig_below(&x, 3))
                try_sql(&r, &x, who);
            if (rig_below(&x, 3) == 0)
                peer_rest(&r.peers[who]);
            if (who != from && rig_below(&x, 2))
                peer_pull(&r.peers[who], &r.peers[from]);
            if (rig_below(&x, 10) == 0)
                peer_reopen(&r.peers[who]);
            if (rig_below(&x, 5) == 0)
                peer_retry(&r.peers[who]);
            if (rig_below(&x, 5) == 0)
                rig_time_passes(&r);
            assert_no_orphans(&r);
        }
        for (int end = 0; end < 6; end++) { /* what was parked appears as others go, and goes too */
            rig_share(&r);
            for (uint32_t i = 0; i < 3; i++) {
                rig_act(&r, i,
                        "DELETE FROM grandchild; DELETE FROM child; UPDATE counted SET up = NULL; DELETE FROM counted; DELETE FROM parent");
                peer_retry(&r.peers[i]);
            }
            rig_time_passes(&r);
        }
        settle(&r);
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), (SELECT count(*) FROM counted)",
                          "i0|i0|i0|;");
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(r.peers[i].reopened, 0);
        rig_close(&r);
    }
}

/* A number is given anew, referred to, and taken again, before another server, which shows the row that had it first, hears of any of it. */
static void test_a_number_given_and_taken_again(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE p(id INTEGER PRIMARY KEY, v); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p(id))");
    rig_share(&r);
    rig_act(&r, 1, "INSERT INTO p(v) VALUES('numbered')");
    rig_share(&r);
    rig_act(&r, 1, "DELETE FROM p");
    rig_act(&r, 1, "INSERT INTO p VALUES(1, 'given')");
    rig_act(&r, 1, "INSERT INTO c VALUES(1, 1)");
    rig_act(&r, 1, "DELETE FROM p");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_rows(rig_app(&r, 0), "SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)", "i0|i1|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_number_given_and_taken_again),
        cmocka_unit_test(test_every_other_constraint_parks),
        cmocka_unit_test(test_a_parked_value_was_not_seen),
        cmocka_unit_test(test_whole_commits_pass),
        cmocka_unit_test(test_a_late_server_takes_it_all),
        cmocka_unit_test(test_orphans_that_their_author_knew),
        cmocka_unit_test(test_an_orphan_under_an_old_number),
        cmocka_unit_test(test_keys_that_bind_nothing),
        cmocka_unit_test(test_a_clash_revives_the_parent),
        cmocka_unit_test(test_a_lost_deletion_is_decided),
        cmocka_unit_test(test_writes_to_a_parent_that_lives_again),
        cmocka_unit_test(test_a_clash_of_numbered_rows),
        cmocka_unit_test(test_a_given_number_is_meant),
        cmocka_unit_test(test_a_third_server_in_any_order),
        cmocka_unit_test(test_a_branch_lives_again),
        cmocka_unit_test(test_a_chain_of_new_rows),
        cmocka_unit_test(test_a_child_of_a_parked_parent),
        cmocka_unit_test(test_a_reference_to_other_columns),
        cmocka_unit_test(test_a_reference_that_was_handed_on),
        cmocka_unit_test(test_a_changed_key),
        cmocka_unit_test(test_random),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
