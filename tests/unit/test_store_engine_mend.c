/* The engine: what merging would break is mended by a change of ours, alike on every server, and what lost by it is an open conflict. */
#include "store_rig.h"

#define USERS "CREATE TABLE k(k TEXT PRIMARY KEY, u UNIQUE, v)"

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

/* All open conflicts as "kind table column value, " in the order of their ids, which are checked to be the same everywhere; freed by the caller. */
static int by_id(const void *a, const void *b) {
    return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "id")),
                  json_string_value(json_object_get(*(json_t *const *)b, "id")));
}

static char *conflicts_of(struct peer *p, bool ids) {
    json_t *list = store_conflicts(p->s.store), *sorted[100];
    size_t n = json_array_size(list), len;
    char *text;
    FILE *out = open_memstream(&text, &len);
    assert_true(n <= 100);
    for (size_t i = 0; i < n; i++)
        sorted[i] = json_array_get(list, i);
    qsort(sorted, n, sizeof *sorted, by_id);
    for (size_t i = 0; i < n; i++) {
        char *value = json_dumps(json_object_get(sorted[i], "value"), JSON_ENCODE_ANY | JSON_COMPACT);
        fprintf(out, "%s%s %s %s %s",
                ids && i ? ", "
                : i      ? ", "
                         : "",
                json_string_value(json_object_get(sorted[i], "kind")), json_string_value(json_object_get(sorted[i], "column")), value,
                ids ? json_string_value(json_object_get(sorted[i], "id")) : "");
        free(value);
    }
    fclose(out);
    json_decref(list);
    return text;
}

static void assert_conflicts(struct rig *r, const char *want) {
    char *first = conflicts_of(&r->peers[0], true), *plain = conflicts_of(&r->peers[0], false);
    assert_string_equal(plain, want);
    for (uint32_t i = 1; i < r->count; i++) {
        char *other = conflicts_of(&r->peers[i], true);
        assert_string_equal(first, other);
        free(other);
    }
    free(first);
    free(plain);
}

/* ---- UNIQUE */

static void test_the_later_write_keeps_the_value(void **state) {
    (void)state;
    for (uint32_t later = 0; later < 2; later++) {
        struct rig r;
        rig_open(&r, 2, USERS);
        rig_act(&r, 0, "INSERT INTO k VALUES('a', 'U', 0), ('b', 'V', 0)");
        share_same(&r);
        rig_act(&r, !later, later ? "UPDATE k SET u = 'X', v = 1 WHERE k = 'a'" : "UPDATE k SET u = 'X', v = 2 WHERE k = 'b'");
        rig_tick();
        rig_act(&r, later, later ? "UPDATE k SET u = 'X', v = 2 WHERE k = 'b'" : "UPDATE k SET u = 'X', v = 1 WHERE k = 'a'");
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM k ORDER BY k", later ? "ta|n|i1|;tb|tX|i2|;" : "ta|tX|i1|;tb|n|i2|;");
        assert_conflicts(&r, "unique u \"X\" ");
        assert_never_parked(&r);
        rig_close(&r);
    }
}

/* Any index that SQLite can enforce. Server 1 writes later than server 0; the third hears of them in one order or the other. */
static const struct unique_case {
    const char *name, *create, *before, *earlier, *later, *rows, *want, *conflicts;
} UNIQUE_CASES[] = {
    {"several columns", "CREATE TABLE t(k TEXT PRIMARY KEY, a, b, v, UNIQUE(a, b))", "INSERT INTO t VALUES('x', 1, 1, 0), ('y', 1, 2, 0)",
     "UPDATE t SET b = 7, v = 1 WHERE k = 'x'", "UPDATE t SET b = 7, v = 2 WHERE k = 'y'", "SELECT * FROM t ORDER BY k",
     "tx|i1|n|i1|;ty|i1|i7|i2|;", "unique b 7 "},
    {"several columns, one of them a reference",
     "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE t(k TEXT PRIMARY KEY, a, p REFERENCES p, UNIQUE(a, p))",
     "INSERT INTO p VALUES(1), (2); INSERT INTO t VALUES('x', 1, NULL), ('y', 1, NULL)", "UPDATE t SET p = 2 WHERE k = 'x'",
     "UPDATE t SET p = 2 WHERE k = 'y'", "SELECT * FROM t ORDER BY k", "tx|n|i2|;ty|i1|i2|;", "unique a 1 "},
    {"partial", "CREATE TABLE t(k TEXT PRIMARY KEY, a, live); CREATE UNIQUE INDEX i ON t(a) WHERE live",
     "INSERT INTO t VALUES('x', 1, 0), ('y', 1, 0), ('z', 1, 0)", "UPDATE t SET live = 1 WHERE k = 'x'",
     "UPDATE t SET live = 1 WHERE k = 'y'", "SELECT * FROM t ORDER BY k", "tx|n|i1|;ty|i1|i1|;tz|i1|i0|;", "unique a 1 "},
    {"a collation", "CREATE TABLE t(k TEXT PRIMARY KEY, a TEXT COLLATE NOCASE UNIQUE)", "INSERT INTO t VALUES('x', 'p'), ('y', 'q')",
     "UPDATE t SET a = 'Same' WHERE k = 'x'", "UPDATE t SET a = 'sAME' WHERE k = 'y'", "SELECT * FROM t ORDER BY k", "tx|n|;ty|tsAME|;",
     "unique a \"Same\" "},
    {"an expression", "CREATE TABLE t(k TEXT PRIMARY KEY, v, e TEXT, w); CREATE UNIQUE INDEX i ON t(lower(trim(e))) WHERE v > 0",
     "INSERT INTO t VALUES('x', 1, 'p', 0), ('y', 1, 'q', 0)", "UPDATE t SET e = 'Same', w = 1 WHERE k = 'x'",
     "UPDATE t SET e = ' sAME', w = 2 WHERE k = 'y'", "SELECT * FROM t ORDER BY k", "tx|i1|n|i1|;ty|i1|t sAME|i2|;", "unique e \"Same\" "},
    {"a generated column", "CREATE TABLE t(k TEXT PRIMARY KEY, g AS (a / 10) UNIQUE, a, s AS (a) STORED)",
     "INSERT INTO t VALUES('x', 10), ('y', 20)", "UPDATE t SET a = 31 WHERE k = 'x'", "UPDATE t SET a = 32 WHERE k = 'y'",
     "SELECT k, a FROM t ORDER BY k", "tx|n|;ty|i32|;", "unique a 31 "},
    {"two indexes at once", "CREATE TABLE t(k TEXT PRIMARY KEY, a UNIQUE, b UNIQUE)", "INSERT INTO t VALUES('x', 1, 1), ('y', 2, 2)",
     "UPDATE t SET a = 7, b = 7 WHERE k = 'x'", "UPDATE t SET a = 7, b = 7 WHERE k = 'y'", "SELECT * FROM t ORDER BY k",
     "tx|n|n|;ty|i7|i7|;", NULL},
    {"two rows in its way", "CREATE TABLE t(k TEXT PRIMARY KEY, a UNIQUE, b UNIQUE)",
     "INSERT INTO t VALUES('w', 0, 0), ('x', 1, 1), ('y', 2, 2)", "UPDATE t SET a = 7 WHERE k = 'x'; UPDATE t SET b = 7 WHERE k = 'w'",
     "UPDATE t SET a = 7, b = 7 WHERE k = 'y'", "SELECT * FROM t ORDER BY k", "tw|i0|n|;tx|n|i1|;ty|i7|i7|;", NULL},
    {"numbered rows", "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)", "INSERT INTO t(a) VALUES(1), (2)",
     "UPDATE t SET a = 7 WHERE id = 1", "UPDATE t SET a = 7 WHERE id = 2", "SELECT * FROM t ORDER BY id", "i1|n|;i2|i7|;", "unique a 7 "},
    {"no key", "CREATE TABLE t(a UNIQUE, b)", "INSERT INTO t VALUES(1, 'x'), (2, 'y')", "UPDATE t SET a = 7 WHERE b = 'x'",
     "UPDATE t SET a = 7 WHERE b = 'y'", "SELECT * FROM t ORDER BY b", "n|tx|;i7|ty|;", "unique a 7 "},
    {"without rowid", "CREATE TABLE t(v, a UNIQUE, x, y COLLATE NOCASE, PRIMARY KEY(y, x)) WITHOUT ROWID",
     "INSERT INTO t VALUES(0, 1, 1, 'A'), (0, 2, 2, 'B')", "UPDATE t SET a = 7 WHERE x = 1", "UPDATE t SET a = 7 WHERE x = 2",
     "SELECT * FROM t ORDER BY x", "i0|n|i1|tA|;i0|i7|i2|tB|;", "unique a 7 "},
    {"new rows", "CREATE TABLE t(k TEXT PRIMARY KEY, a UNIQUE, v)", "INSERT INTO t VALUES('old', 1, 0)", "INSERT INTO t VALUES('x', 7, 1)",
     "UPDATE t SET a = 7 WHERE k = 'old'", "SELECT * FROM t ORDER BY k", "told|i7|i0|;tx|n|i1|;", "unique a 7 "},
    {"a key as part of it", "CREATE TABLE t(k TEXT, a, v, PRIMARY KEY(k, a), UNIQUE(a, v))", "INSERT INTO t VALUES('x', 1, 1), ('y', 1, 2)",
     "UPDATE t SET v = 7 WHERE k = 'x'", "UPDATE t SET v = 7 WHERE k = 'y'", "SELECT * FROM t ORDER BY k", "tx|i1|n|;ty|i1|i7|;",
     "unique v 7 "},
    {"a value that triggers put into a full-text index",
     "CREATE TABLE t(k INTEGER PRIMARY KEY, a TEXT UNIQUE); CREATE VIRTUAL TABLE f USING fts5(a, content=''); CREATE TRIGGER ti AFTER "
     "INSERT ON t BEGIN "
     "INSERT INTO f(rowid, a) VALUES(new.k, new.a); END; CREATE TRIGGER tu AFTER UPDATE ON t BEGIN INSERT INTO f(f, rowid, a) "
     "VALUES('delete', old.k, old.a); INSERT INTO f(rowid, a) VALUES(new.k, new.a); END",
     "INSERT INTO t VALUES(1, 'one'), (2, 'two')", "UPDATE t SET a = 'same' WHERE k = 1", "UPDATE t SET a = 'same' WHERE k = 2",
     "SELECT * FROM t ORDER BY k", "i1|n|;i2|tsame|;", "unique a \"same\" "},
};

static void test_any_index(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof UNIQUE_CASES / sizeof *UNIQUE_CASES; n++)
        for (int order = 0; order < 3; order++) {
            const struct unique_case *c = &UNIQUE_CASES[n];
            struct rig r;
            if (getenv("VERBOSE"))
                print_message("%s, order %d\n", c->name, order);
            rig_open(&r, 3, c->create);
            rig_act(&r, 0, c->before);
            rig_share(&r);
            rig_time_passes(&r);
            rig_act(&r, 0, c->earlier);
            rig_tick();
            rig_act(&r, 1, c->later);
            if (order < 2) { /* the third mends by itself, and hears of the others' mends later */
                peer_pull(&r.peers[2], &r.peers[order]);
                peer_pull(&r.peers[2], &r.peers[!order]);
            } else { /* two find it at once */
                peer_queue(&r.peers[0], &r.peers[1]);
                peer_pull(&r.peers[1], &r.peers[0]);
                peer_rest(&r.peers[0]);
            }
            rig_share(&r);
            rig_assert_settled(&r);
            assert_everywhere(&r, c->rows, c->want);
            if (c->conflicts)
                assert_conflicts(&r, c->conflicts);
            else
                assert_int_equal(peer_conflicts(&r.peers[2]), 2);
            assert_never_parked(&r);
            for (uint32_t i = 0; i < 3; i++)
                assert_rows(rig_app(&r, i), "PRAGMA integrity_check", "tok|;");
            rig_close(&r);
        }
}

/* Where NULL is not allowed it is a value that nobody else has, which shows what it was. */
static void test_where_null_is_not_allowed(void **state) {
    (void)state;
    static const struct {
        const char *type, *value, *like;
    } CASES[] = {
        {"TEXT", "'same'", "a GLOB 'same (*)' AND length(a) = 13"},
        {"INTEGER", "254", "a > 254 AND a % 1000000 = 254"},
        {"REAL", "2.5", "typeof(a) = 'real' AND a > 2.5 AND a - CAST(a AS INTEGER) = 0.5"},
        {"BLOB", "x'6162'", "typeof(a) = 'blob' AND substr(a, 1, 2) = x'6162' AND length(a) = 6"},
        {"TEXT CHECK(length(a) > 2)", "'abc'", "a GLOB 'abc (*)'"},
    };
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++) {
        struct rig r;
        char sql[300];
        snprintf(sql, sizeof sql, "CREATE TABLE t(k TEXT PRIMARY KEY, a %s NOT NULL UNIQUE)", CASES[n].type);
        rig_open(&r, 3, sql);
        for (uint32_t i = 0; i < 3; i++) {
            snprintf(sql, sizeof sql, "INSERT INTO t VALUES('k%u', %s)", i, CASES[n].value);
            rig_act(&r, i, sql);
            rig_tick();
        }
        share_same(&r);
        snprintf(sql, sizeof sql, "SELECT k, %s FROM t ORDER BY k", CASES[n].like);
        assert_everywhere(&r, sql, "tk0|i1|;tk1|i1|;tk2|i0|;");
        snprintf(sql, sizeof sql, "SELECT count(DISTINCT a), sum(a = %s) FROM t", CASES[n].value);
        assert_everywhere(&r, sql, "i3|i1|;");
        assert_int_equal(peer_conflicts(&r.peers[0]), 2);
        assert_never_parked(&r);
        rig_close(&r);
    }
}

/* What loses is an open conflict like any: decided on one server, closed on all. */
static void test_a_lost_value_is_decided(void **state) {
    (void)state;
    for (int way = 0; way < 3; way++) {
        struct rig r;
        rig_open(&r, 3, USERS);
        rig_act(&r, 0, "INSERT INTO k VALUES('a', 'U', 0), ('b', 'V', 0)");
        share_same(&r);
        rig_act(&r, 0, "UPDATE k SET u = 'X' WHERE k = 'a'");
        rig_tick();
        rig_act(&r, 1, "UPDATE k SET u = 'X' WHERE k = 'b'");
        share_same(&r);
        json_t *list = store_conflicts(r.peers[2].s.store), *how, *answer = NULL;
        char *id = strdup(json_string_value(json_object_get(json_array_get(list, 0), "id")));
        json_decref(list);
        how = json_pack("{s:s}", "keep", "loser");
        assert_int_equal(store_resolve(r.peers[2].s.store, id, how, &answer), 0);
        assert_non_null(strstr(json_string_value(json_object_get(answer, "error")), "UNIQUE constraint failed: k.u"));
        json_decref(answer);
        json_decref(how);
        if (way == 0)
            rig_act(&r, 1, "UPDATE k SET u = 'Y' WHERE k = 'b'");
        share_same(&r);
        how = way == 0   ? json_pack("{s:s}", "keep", "loser")
              : way == 1 ? json_pack("{s:s}", "keep", "winner")
                         : json_pack("{s:{s:s}}", "set", "u", "Z");
        assert_int_equal(store_resolve(r.peers[2].s.store, id, how, &answer), 0);
        assert_non_null(json_object_get(answer, "done"));
        json_decref(answer);
        json_decref(how);
        share_same(&r);
        assert_everywhere(&r, "SELECT k, u FROM k ORDER BY k", way == 0 ? "ta|tX|;tb|tY|;" : way == 1 ? "ta|n|;tb|tX|;" : "ta|tZ|;tb|tX|;");
        for (uint32_t i = 0; i < 3; i++) {
            peer_reopen(&r.peers[i]);
            peer_rest(&r.peers[i]);
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
            assert_int_equal(peer_status(&r.peers[i], "conflicts"), 0);
        }
        free(id);
        rig_close(&r);
    }
}

/* The application's next write goes over a mend, and over what it knew to be lost. */
static void test_the_application_writes_over_a_mend(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, USERS);
    rig_act(&r, 0, "INSERT INTO k VALUES('a', 'X', 0)");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO k VALUES('b', 'X', 0)");
    share_same(&r);
    assert_everywhere(&r, "SELECT k, u FROM k ORDER BY k", "ta|n|;tb|tX|;");
    rig_act(&r, 1, "UPDATE k SET u = 'mine' WHERE k = 'a'");
    share_same(&r);
    assert_everywhere(&r, "SELECT k, u FROM k ORDER BY k", "ta|tmine|;tb|tX|;");
    assert_conflicts(&r, "");
    rig_close(&r);
}

/* Many servers, one value: whoever wrote it last has it. */
static void test_many_rows_with_one_value(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, USERS);
    for (uint32_t round = 0; round < 5; round++)
        for (uint32_t i = 0; i < 3; i++) {
            char sql[200];
            snprintf(sql, sizeof sql, "UPDATE k SET u = k WHERE u = 'X'; INSERT INTO k VALUES('k%u%u', 'X', 0)", i, round);
            rig_act(&r, i, sql);
            rig_tick();
            if (round % 2)
                peer_pull(&r.peers[i], &r.peers[(i + 1) % 3]);
        }
    share_same(&r);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM k WHERE u = 'X'"), 1);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM k"), 15);
    rig_close(&r);
}

/* A crash at any step leaves the mend made, or to be made. */
static void test_a_restart_amid_it(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, USERS);
    rig_act(&r, 0, "INSERT INTO k VALUES('a', 'X', 0)");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO k VALUES('b', 'X', 0)");
    app_exec(rig_app(&r, 0), "BEGIN; SELECT * FROM k");
    sqlite3_exec(rig_app(&r, 0), "COMMIT", NULL, NULL, NULL);
    peer_queue(&r.peers[0], &r.peers[1]);
    peer_turn(&r.peers[0]);
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_rows(rig_app(&r, 0), "SELECT k, u FROM k ORDER BY k", "ta|n|;tb|tX|;");
    share_same(&r);
    rig_close(&r);
}

/* A server whose schema says nothing of it wrote both values, and they are right there: here the second one waits, and nothing is mended away. */
static void test_values_of_a_server_without_the_constraint(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), i ? USERS : "CREATE TABLE k(k TEXT PRIMARY KEY, u, v)");
        peer_open(&r.peers[i]);
        peer_rest(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO k VALUES('a', 'X', 0), ('b', 'X', 0)");
    rig_share(&r);
    assert_rows(rig_app(&r, 0), "SELECT k, u FROM k ORDER BY k", "ta|tX|;tb|tX|;");
    assert_int_equal(peer_status(&r.peers[1], "parked"), 1);
    assert_problem(&r.peers[1], "k", "UNIQUE constraint failed: k.u");
    rig_act(&r, 0, "UPDATE k SET u = 'Y' WHERE k = 'a'");
    rig_share(&r);
    peer_retry(&r.peers[1]);
    share_same(&r);
    assert_conflicts(&r, "");
    rig_close(&r);
}

/* Servers are upgraded one by one: what was written under a schema that was ours, with the same constraints on the table, is mended. */
static void test_an_upgrade_between(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, USERS);
    rig_act(&r, 0, "INSERT INTO k VALUES('a', 'X', 0)");
    rig_tick();
    app_exec(rig_app(&r, 1), "ALTER TABLE k ADD COLUMN more; CREATE TABLE extra(k TEXT PRIMARY KEY, u UNIQUE)");
    side_skip(3000);
    peer_rest(&r.peers[1]);
    rig_act(&r, 1, "INSERT INTO k VALUES('b', 'X', 0, 1)");
    rig_share(&r);
    assert_rows(rig_app(&r, 1), "SELECT k, u FROM k ORDER BY k", "ta|n|;tb|tX|;");
    app_exec(rig_app(&r, 0), "ALTER TABLE k ADD COLUMN more; CREATE TABLE extra(k TEXT PRIMARY KEY, u UNIQUE)");
    side_skip(3000);
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT k, u, more FROM k ORDER BY k", "ta|n|n|;tb|tX|i1|;");
    assert_conflicts(&r, "unique u \"X\" ");
    rig_close(&r);
}

/* Rows that have other numbers than at their birth, and references to them by what they mean. */
static void test_rows_with_new_numbers(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3,
             "CREATE TABLE p(id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE c(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id), "
             "slot, "
             "UNIQUE(p, slot)); CREATE UNIQUE INDEX c_e ON c(p, slot * 2)");
    for (uint32_t i = 0; i < 3; i++) {
        char sql[200];
        snprintf(sql, sizeof sql, "INSERT INTO p(name) VALUES('a%u'), ('b%u'); INSERT INTO c(p, slot) VALUES(1, 1), (2, 2)", i, i);
        rig_act(&r, i, sql);
        rig_tick();
    }
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*), count(DISTINCT id) FROM p", "i6|i6|;");
    for (uint32_t i = 0; i < 3; i++) {
        char sql[200];
        snprintf(sql, sizeof sql,
                 "UPDATE p SET name = 'same' WHERE name = 'a%u'; UPDATE c SET slot = 7, p = (SELECT id FROM p WHERE name = 'b1') "
                 "WHERE p = (SELECT id FROM p WHERE name = 'b%u')",
                 i, i);
        rig_act(&r, i, sql);
        rig_tick();
    }
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM p ORDER BY name", "n|;n|;tb0|;tb1|;tb2|;tsame|;");
    assert_everywhere(&r, "SELECT name, slot FROM c JOIN p ON p.id = p WHERE name = 'b1' ORDER BY slot", "tb1|n|;tb1|n|;tb1|i7|;");
    assert_int_equal(peer_conflicts(&r.peers[0]), 8 + 4); /* numbers that others got, values that were lost */
    assert_never_parked(&r);
    rig_close(&r);
}

/* ---- CHECK */

#define SPAN "CREATE TABLE span(k TEXT PRIMARY KEY, low INT, high INT, note, %s)"

/* Two columns that do not go together: what was written first goes back, on every server. */
static void test_columns_that_break_a_check_together(void **state) {
    (void)state;
    static const char *const CHECKS[] = {"CHECK(low < high)", "CONSTRAINT range CHECK(low < high)"};
    for (int named = 0; named < 2; named++)
        for (uint32_t order = 0; order < 3; order++)
            for (uint32_t later = 0; later < 2; later++) {
                struct rig r;
                char sql[200];
                snprintf(sql, sizeof sql, SPAN, CHECKS[named]);
                rig_open(&r, 3, sql);
                rig_act(&r, 0, "INSERT INTO span VALUES('s', 1, 9, 'old')");
                share_same(&r);
                rig_act(&r, 0, later ? "UPDATE span SET low = 7, note = 'low'" : "UPDATE span SET high = 4, note = 'high'");
                rig_tick();
                rig_act(&r, 1, later ? "UPDATE span SET high = 4" : "UPDATE span SET low = 7");
                if (order < 2) {
                    peer_pull(&r.peers[2], &r.peers[order]);
                    peer_pull(&r.peers[2], &r.peers[!order]);
                }
                for (int n = 0; n < 2; n++) {
                    rig_share(&r);
                    for (uint32_t i = 0; i < 3; i++)
                        peer_retry(&r.peers[i]);
                }
                share_same(&r);
                snprintf(sql, sizeof sql, "ts|%s|t%s|;", later ? "i1|i4" : "i7|i9", later ? "low" : "high");
                assert_everywhere(&r, "SELECT * FROM span", sql);
                assert_conflicts(&r, later ? "constraint low 7 " : "constraint high 4 ");
                rig_close(&r);
            }
}

static void test_a_lost_column_is_decided(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE span(k TEXT PRIMARY KEY, low INT, high INT, CHECK(low < high))");
    rig_act(&r, 0, "INSERT INTO span VALUES('s', 1, 9)");
    share_same(&r);
    rig_act(&r, 0, "UPDATE span SET low = 7");
    rig_tick();
    rig_act(&r, 1, "UPDATE span SET high = 4");
    share_same(&r);
    assert_everywhere(&r, "SELECT low, high FROM span", "i1|i4|;");
    json_t *list = store_conflicts(r.peers[0].s.store), *how = json_pack("{s:s}", "keep", "loser"), *answer;
    const char *id = json_string_value(json_object_get(json_array_get(list, 0), "id"));
    assert_int_equal(store_resolve(r.peers[0].s.store, id, how, &answer), 0);
    assert_non_null(strstr(json_string_value(json_object_get(answer, "error")), "CHECK constraint failed"));
    json_decref(answer);
    rig_act(&r, 1, "UPDATE span SET high = 8");
    share_same(&r);
    assert_int_equal(store_resolve(r.peers[0].s.store, id, how, &answer), 0);
    assert_non_null(json_object_get(answer, "done"));
    json_decref(answer);
    json_decref(how);
    json_decref(list);
    share_same(&r);
    assert_everywhere(&r, "SELECT low, high FROM span", "i7|i8|;");
    assert_conflicts(&r, "");
    rig_close(&r);
}

/* ---- anything: whatever is written apart and told in whatever order, in the end all servers show the same, nothing is parked, and what lost is listed
 * alike */

static void try_sql(struct rig *r, struct rig_random *x, uint32_t who) {
    static const char *const SQL[] = {
        "INSERT INTO parent VALUES('p%u', %u)",
        "DELETE FROM parent WHERE k = 'p%u'",
        "UPDATE parent SET u = %u WHERE k = 'p%u'",
        "UPDATE parent SET u = CASE u WHEN %u THEN %u ELSE u END",
        "UPDATE span SET low = %u, note = %u",
        "UPDATE span SET high = %u WHERE k = 's'",
        "UPDATE span SET note = %u WHERE low = %u",
        "INSERT INTO child SELECT 'c%u', k, %u, 1, 'x' FROM parent ORDER BY k LIMIT 1",
        "UPDATE child SET a = %u WHERE k = 'c%u'",
        "UPDATE child SET b = %u, e = 'E%u' WHERE k = 'c1'",
        "UPDATE child SET e = 'e%u' WHERE k = 'c%u'",
        "UPDATE child SET p = (SELECT min(k) FROM parent WHERE u > %u) WHERE k = 'c%u'",
        "DELETE FROM child WHERE k = 'c%u'",
        "INSERT OR REPLACE INTO child VALUES('c%u', NULL, %u, 2, NULL)",
        "INSERT INTO heap VALUES('v%u', %u)",
        "UPDATE heap SET v = 'V%u' WHERE w = %u",
        "DELETE FROM heap WHERE w = %u",
        "INSERT INTO num(name) VALUES('n%u')",
        "UPDATE num SET name = 'n%u' WHERE id = %u",
        "DELETE FROM num WHERE id = %u",
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
    for (int round = 0; round < 6; round++) {
        struct rig r;
        rig_open(&r, 3,
                 "CREATE TABLE parent(k TEXT PRIMARY KEY, u UNIQUE); CREATE TABLE span(k TEXT PRIMARY KEY, low INT, high INT, note, "
                 "CHECK(low <= high));"
                 "CREATE TABLE child(k TEXT PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE, a, b, e TEXT, UNIQUE(a, b));"
                 "CREATE UNIQUE INDEX child_e ON child(lower(e)) WHERE p NOT NULL;"
                 "CREATE TABLE num(id INTEGER PRIMARY KEY, name UNIQUE);"
                 "CREATE TABLE heap(v TEXT COLLATE NOCASE NOT NULL UNIQUE, w)");
        for (uint32_t i = 0; i < 3; i++)
            app_exec(rig_app(&r, i), "PRAGMA foreign_keys=ON");
        rig_act(&r, 0, "INSERT INTO span VALUES('s', 0, 4, 0), ('t', 2, 2, 0)");
        share_same(&r);
        for (int step = 0; step < 60; step++) {
            uint32_t who = rig_below(&x, 3), from = rig_below(&x, 3);
            if (rig_below(&x, 3))
                try_sql(&r, &x, who);
            if (rig_below(&x, 3) == 0)
                peer_rest(&r.peers[who]);
            if (who != from && rig_below(&x, 3) == 0)
                peer_pull(&r.peers[who], &r.peers[from]);
            if (rig_below(&x, 10) == 0)
                peer_reopen(&r.peers[who]);
            if (rig_below(&x, 5) == 0)
                rig_time_passes(&r);
            for (uint32_t i = 0; i < 3; i++)
                assert_rows(rig_app(&r, i), "PRAGMA foreign_key_check", "");
        }
        for (int n = 0; n < 3; n++) {
            rig_share(&r);
            for (uint32_t i = 0; i < 3; i++)
                peer_retry(&r.peers[i]);
        }
        share_same(&r);
        assert_same_conflicts(&r);
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(r.peers[i].reopened, 0);
            assert_rows(rig_app(&r, i), "PRAGMA integrity_check", "tok|;");
        }
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_later_write_keeps_the_value),
        cmocka_unit_test(test_any_index),
        cmocka_unit_test(test_where_null_is_not_allowed),
        cmocka_unit_test(test_a_lost_value_is_decided),
        cmocka_unit_test(test_the_application_writes_over_a_mend),
        cmocka_unit_test(test_many_rows_with_one_value),
        cmocka_unit_test(test_a_restart_amid_it),
        cmocka_unit_test(test_values_of_a_server_without_the_constraint),
        cmocka_unit_test(test_an_upgrade_between),
        cmocka_unit_test(test_rows_with_new_numbers),
        cmocka_unit_test(test_columns_that_break_a_check_together),
        cmocka_unit_test(test_a_lost_column_is_decided),
        cmocka_unit_test(test_random),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
