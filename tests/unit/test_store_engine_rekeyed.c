/* The engine: a rebuild gives a table a key of another kind, on one server before the other, while rows are written. */
#include "store_rig.h"

/* They are linked: what was written until now may have left. */
static void meet(struct rig *r) {
    bool restamped;
    for (uint32_t i = 0; i < r->count; i++)
        assert_int_equal(store_meet(r->peers[i].s.store, 0, &restamped), 0);
    rig_share(r);
}

static void share_same(struct rig *r) {
    meet(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void share(struct rig *r) {
    meet(r);
    rig_time_passes(r);
    rig_tick();
}

/* But for numbers: two rows that got one while they were copied are told apart by another. */
static size_t lost_values(struct peer *p) {
    json_t *list = store_conflicts(p->s.store), *c;
    size_t i, n = 0;
    json_array_foreach(list, i, c) n += strcmp(json_string_value(json_object_get(c, "kind")), "number") != 0;
    json_decref(list);
    return n;
}

struct rebuild {
    const char *name, *before; /* the table t */
    const char *rows;          /* a, b and c with v = 1, written on server 0 */
    const char *after;         /* its columns, in the new one */
    const char *copy;          /* "columns of the new … of the old" */
};

/* Names are in `id`; numbers that SQLite draws while rows are copied differ: server 1 copies them in another order. */
static const struct rebuild REBUILDS[] = {
    {"a number becomes text", "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)",
     "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "code TEXT PRIMARY KEY, v", "(code, v) SELECT code, v"},
    {"a number becomes text, and stays beside it", "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)",
     "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'gone', 1)", "code TEXT PRIMARY KEY, id, v",
     "(code, id, v) SELECT code, id, v"},
    {"text becomes a number", "CREATE TABLE t(code TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)",
     "id INTEGER PRIMARY KEY, code TEXT UNIQUE, v", "(code, v) SELECT code, v"},
    {"text becomes a number, and may come twice", "CREATE TABLE t(code TEXT PRIMARY KEY, v)",
     "INSERT INTO t VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "id INTEGER PRIMARY KEY, code TEXT, v", "(code, v) SELECT code, v"},
    {"a rowid alias no more", "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)",
     "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'gone', 1)", "id BIGINT PRIMARY KEY, code TEXT, v",
     "(id, code, v) SELECT id, code, v"},
    {"a rowid alias now", "CREATE TABLE t(id BIGINT PRIMARY KEY, code TEXT, v)",
     "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'gone', 1)",
     "id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT, v", "(id, code, v) SELECT id, code, v"},
    {"one more column", "CREATE TABLE t(code TEXT PRIMARY KEY, season DEFAULT 7, v)",
     "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "code TEXT, season DEFAULT 7, v, PRIMARY KEY(code, season)",
     "(code, season, v) SELECT code, season, v"},
    {"two columns become a number", "CREATE TABLE t(code TEXT, season DEFAULT 7, v, PRIMARY KEY(code, season)) WITHOUT ROWID",
     "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)",
     "id INTEGER PRIMARY KEY, code TEXT, season DEFAULT 7, v, UNIQUE(code, season)", "(code, season, v) SELECT code, season, v"},
    {"no key becomes a number", "CREATE TABLE t(code TEXT, v)", "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)",
     "id INTEGER PRIMARY KEY, code TEXT, v", "(code, v) SELECT code, v"},
    {"two columns become one", "CREATE TABLE t(code TEXT, season DEFAULT 7, v, PRIMARY KEY(code, season))",
     "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "code TEXT PRIMARY KEY, season DEFAULT 7, v",
     "(code, season, v) SELECT code, season, v"},
    {"text, and no key", "CREATE TABLE t(code TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)",
     "code TEXT, v", "(code, v) SELECT code, v"},
    {"no key becomes text", "CREATE TABLE t(code TEXT, v)", "INSERT INTO t VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)",
     "code TEXT PRIMARY KEY, v", "(code, v) SELECT code, v"},
    {"no key becomes text, without a rowid", "CREATE TABLE t(code TEXT, v)",
     "INSERT INTO t VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "code TEXT PRIMARY KEY, v", "(code, v) SELECT code, v"},
    {"a key that had no rowid, and none", "CREATE TABLE t(id BIGINT PRIMARY KEY, code TEXT, v) WITHOUT ROWID",
     "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'gone', 1)", "id BIGINT, code TEXT, v",
     "(id, code, v) SELECT id, code, v"},
    {"the key goes with its column", "CREATE TABLE t(id BIGINT PRIMARY KEY, code TEXT, v)",
     "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'gone', 1)", "code TEXT, v", "(code, v) SELECT code, v"},
    {"no key becomes BLOBs as long as names", "CREATE TABLE t(code TEXT, id BLOB DEFAULT(randomblob(16)), v)",
     "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "id BLOB PRIMARY KEY DEFAULT(randomblob(16)), code TEXT, v",
     "(id, code, v) SELECT id, code, v"},
    {"BLOBs as long as names, and no key", "CREATE TABLE t(code TEXT, id BLOB PRIMARY KEY DEFAULT(randomblob(16)), v)",
     "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1), ('c', 1), ('gone', 1)", "id BLOB DEFAULT(randomblob(16)), code TEXT, v",
     "(id, code, v) SELECT id, code, v"},
    {"a number, and no key", "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)",
     "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'gone', 1)", "id INTEGER, code TEXT, v",
     "(id, code, v) SELECT id, code, v"},
};

static char *rebuild_sql(const struct rebuild *b, bool renamed_first, bool backwards) {
    const char *order = backwards ? "ORDER BY code DESC" : "ORDER BY code",
               *tail = strstr(b->name, "without a rowid") ? " WITHOUT ROWID" : "";
    return renamed_first ? sqlite3_mprintf("ALTER TABLE t RENAME TO old; CREATE TABLE t(%s)%s; INSERT INTO t%s FROM old %s; DROP TABLE old",
                                           b->after, tail, b->copy, order)
                         : sqlite3_mprintf("CREATE TABLE tmp(%s)%s; INSERT INTO tmp%s FROM t %s; DROP TABLE t; ALTER TABLE tmp RENAME TO t",
                                           b->after, tail, b->copy, order);
}

static void rebuild(struct rig *r, uint32_t i, const struct rebuild *b, bool renamed_first, bool restart) {
    char *sql = rebuild_sql(b, renamed_first, i == 1);
    if (restart)
        side_close_store(&r->peers[i].s);
    app_exec(rig_app(r, i), sql);
    if (restart)
        peer_open(&r->peers[i]);
    peer_rest(&r->peers[i]);
    sqlite3_free(sql);
}

/* Server 0 migrates first; both go on writing; then server 1 does. */
static void test_a_key_of_another_kind_on_one_server_first(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof REBUILDS / sizeof *REBUILDS; n++)
        for (int mode = 0; mode < 4; mode++) {
            const struct rebuild *b = &REBUILDS[n];
            struct rig r;
            print_message("%s, mode %d\n", b->name, mode);
            rig_open(&r, 2, b->before);
            rig_act(&r, 0, b->rows);
            share_same(&r);
            rig_act(&r, 1, "UPDATE t SET v = 'before' WHERE code = 'b'; DELETE FROM t WHERE code = 'gone'");
            if (mode & 2) /* known to both, or to server 1 alone */
                share_same(&r);
            rebuild(&r, 0, b, mode & 1, mode & 1);
            share(&r);
            rig_act(&r, 0, "UPDATE t SET v = 'zero' WHERE code = 'a'");
            rig_act(&r, 0,
                    strstr(b->after, "id BIGINT") || strstr(b->after, "id INTEGER,") ? "INSERT INTO t(id, code, v) VALUES(100, 'new0', 0)"
                                                                                     : "INSERT INTO t(code, v) VALUES('new0', 0)");
            share(&r);
            rig_act(&r, 1, "UPDATE t SET v = 'one' WHERE code = 'c'");
            rig_act(&r, 1,
                    strstr(b->before, "BIGINT") ? "INSERT INTO t(id, code, v) VALUES(200, 'new1', 1)"
                                                : "INSERT INTO t(code, v) VALUES('new1', 1)");
            share(&r);
            rebuild(&r, 1, b, mode & 1, mode & 1);
            peer_retry(&r.peers[0]);
            share_same(&r);
            assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tzero|;tb|tbefore|;tc|tone|;tnew0|i0|;tnew1|i1|;");
            for (uint32_t i = 0; i < 2; i++)
                assert_int_equal(lost_values(&r.peers[i]), 0);
            rig_act(&r, 0, "UPDATE t SET v = 'later' WHERE code = 'b'");
            rig_act(&r, 1, "UPDATE t SET v = 'last' WHERE code = 'a'; DELETE FROM t WHERE code = 'new0'");
            share_same(&r);
            assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tlast|;tb|tlater|;tc|tone|;tnew1|i1|;");
            peer_reopen(&r.peers[0]);
            peer_rest(&r.peers[0]);
            share_same(&r);
            rig_close(&r);
        }
}

/* Both migrate apart, each with writes of its own; and then the way back. */
static void test_a_key_of_another_kind_on_both_and_back(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        static const char *const TO =
            "CREATE TABLE tmp(code TEXT PRIMARY KEY, id, v); INSERT INTO tmp(code, id, v) SELECT code, id, v FROM t;"
            "DROP TABLE t; ALTER TABLE tmp RENAME TO t";
        static const char *const BACK =
            "CREATE TABLE tmp(id INTEGER PRIMARY KEY, code TEXT, v); INSERT INTO tmp(id, code, v) SELECT id, code, "
            "v FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t";
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)");
        rig_act(&r, 0, "INSERT INTO t(id, code, v) VALUES(1, 'a', 1), (2, 'b', 1), (3, 'c', 1)");
        share_same(&r);
        for (uint32_t i = 0; i < 2; i++) {
            rig_act(&r, i, i ? "UPDATE t SET v = 'one' WHERE code = 'b'" : "UPDATE t SET v = 'zero' WHERE code = 'a'");
            rig_act(&r, i, TO);
            rig_tick();
        }
        rig_act(&r, 0, "INSERT INTO t(code, id, v) VALUES('x', 10, 'x')");
        rig_act(&r, 1, "INSERT INTO t(code, id, v) VALUES('y', 11, 'y'); DELETE FROM t WHERE code = 'c'");
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tzero|;tb|tone|;tx|tx|;ty|ty|;");
        for (uint32_t i = 0; i < 2; i++) {
            rig_act(&r, i, BACK);
            if (!mode)
                share(&r);
        }
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT id, code, v FROM t ORDER BY id", "i1|ta|tzero|;i2|tb|tone|;i10|tx|tx|;i11|ty|ty|;");
        rig_act(&r, 0, "INSERT INTO t(code, v) VALUES('z', 'z')");
        rig_act(&r, 1, "UPDATE t SET v = 'end' WHERE code = 'a'");
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tend|;tb|tone|;tx|tx|;ty|ty|;tz|tz|;");
        rig_close(&r);
    }
}

/* Two rows that two servers gave one number, who had not met: under the new key they are one, and what lost is listed. */
static void test_two_rows_that_get_one_key(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    rig_act(&r, 0, "INSERT INTO t(v) VALUES('zero')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO t(v) VALUES('one')");
    for (uint32_t i = 0; i < 2; i++)
        rig_act(
            &r, i,
            "CREATE TABLE tmp(id BIGINT PRIMARY KEY, v); INSERT INTO tmp SELECT id, v FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, v FROM t", "i1|tone|;");
    assert_true(peer_lost(&r.peers[0], "v", "\"zero\""));
    assert_true(peer_lost(&r.peers[1], "v", "\"zero\""));
    rig_close(&r);
}

/* Server 0 wrote under the new key, or name, what server 1 has got but never shown: a later write there, under the old one, had not seen it. */
static void test_a_write_that_was_never_on_show(void **state) {
    (void)state;
    static const char *const MIGRATE[] = {
        "CREATE TABLE tmp(code TEXT PRIMARY KEY, v); INSERT INTO tmp SELECT code, v FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t",
        "ALTER TABLE t RENAME TO u"};
    for (int mode = 0; mode < 2; mode++) {
        const char *sql[] = {mode ? "UPDATE u SET v = 'zero'" : "UPDATE t SET v = 'zero'", mode ? "SELECT v FROM u" : "SELECT v FROM t"};
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)");
        rig_act(&r, 0, "INSERT INTO t(code, v) VALUES('a', 1)");
        share_same(&r);
        rig_act(&r, 0, MIGRATE[mode]);
        rig_act(&r, 0, sql[0]);
        for (int i = 0; i < 3; i++) {
            share(&r);
            side_skip(3000);
        }
        rig_act(&r, 1, "UPDATE t SET v = 'one'");
        share(&r);
        rig_act(&r, 1, MIGRATE[mode]);
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, sql[1], "tone|;");
        for (uint32_t i = 0; i < 2; i++)
            assert_true(peer_lost(&r.peers[i], "v", "\"zero\""));
        rig_close(&r);
    }
}

/* References to the rows, by their numbers and as keys of a table between two others. */
static void test_references_to_a_table_whose_key_changes(void **state) {
    (void)state;
    static const char *const TABLES = "CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT);"
                                      "CREATE TABLE player(id INTEGER PRIMARY KEY, name TEXT, team INTEGER REFERENCES team(id));"
                                      "CREATE TABLE plays(team INTEGER REFERENCES team(id), player INTEGER REFERENCES player(id), since,"
                                      " PRIMARY KEY(team, player))";
    static const char *const NUMBERED =
        "CREATE TABLE tmp(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(id), player INTEGER REFERENCES "
        "player(id), since, UNIQUE(team, player)); INSERT INTO tmp(team, player, since) SELECT team, player, since "
        "FROM plays; DROP TABLE plays; ALTER TABLE tmp RENAME TO plays";
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('other')");
    rig_act(&r, 0,
            "INSERT INTO team(name) VALUES('t1'), ('t2'); INSERT INTO player(name, team) VALUES('p1', 1), ('p2', 2);"
            "INSERT INTO plays VALUES(1, 1, 2020), (2, 2, 2021)");
    share_same(&r);
    rig_act(&r, 0, NUMBERED);
    share(&r);
    rig_act(
        &r, 1,
        "UPDATE plays SET since = 1999 WHERE since = 2021; INSERT INTO player(name, team) SELECT 'p3', id FROM team WHERE name = 'other';"
        "INSERT INTO plays SELECT team, id, 2022 FROM player WHERE name = 'p3'");
    share(&r);
    rig_act(&r, 1, NUMBERED);
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(
        &r, "SELECT t.name, p.name, since FROM plays JOIN team t ON t.id = plays.team JOIN player p ON p.id = plays.player ORDER BY 2",
        "tt1|tp1|i2020|;tt2|tp2|i1999|;tother|tp3|i2022|;");
    rig_close(&r);
}

/* What a server that was not migrated yet says of it. */
static void test_a_key_of_another_kind_is_said(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)");
    rig_act(&r, 0, "INSERT INTO t(code, v) VALUES('a', 1), ('b', 1)");
    share_same(&r);
    rebuild(&r, 0, &REBUILDS[0], false, false);
    share(&r);
    assert_problem(&r.peers[1], "t", "its key is of another kind on another server: 2 rows from there are kept");
    assert_false(peer_settled(&r.peers[1]));
    rig_act(&r, 1, "INSERT INTO t(code, v) VALUES('c', 1)"); /* and goes on under its own */
    peer_reopen(&r.peers[1]);
    peer_rest(&r.peers[1]);
    assert_problem(&r.peers[1], "t", "its key is of another kind on another server: 2 rows from there are kept");
    rebuild(&r, 1, &REBUILDS[0], false, false);
    share_same(&r);
    assert_everywhere(&r, "SELECT code FROM t ORDER BY code", "ta|;tb|;tc|;");
    char *said = peer_problems(&r.peers[1], "t");
    assert_null(strstr(said, "kind"));
    free(said);
    rig_close(&r);
}

/* A key of one column that comes, or goes, on both servers apart; and back. */
static void test_a_key_of_one_column_on_both_and_back(void **state) {
    (void)state;
    static const char *const COLUMNS[] = {"code TEXT PRIMARY KEY, v", "code TEXT, v"};
    for (int mode = 0; mode < 4; mode++) {
        struct rig r;
        char *sql[2], *first = sqlite3_mprintf("CREATE TABLE t(%s)", COLUMNS[mode & 1]);
        for (int i = 0; i < 2; i++)
            sql[i] = sqlite3_mprintf("CREATE TABLE tmp(%s); INSERT INTO tmp SELECT * FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t",
                                     COLUMNS[(mode + i) & 1]);
        print_message("%s, mode %d\n", first, mode);
        rig_open(&r, 2, first);
        rig_act(&r, 0, "INSERT INTO t VALUES('a', 1), ('b', 1), ('c', 1)");
        share_same(&r);
        for (uint32_t i = 0; i < 2; i++) {
            rig_act(&r, i, i ? "UPDATE t SET v = 'one' WHERE code = 'b'" : "UPDATE t SET v = 'zero' WHERE code = 'a'");
            rig_act(&r, i, sql[1]);
            rig_tick();
        }
        rig_act(&r, 0, "INSERT INTO t VALUES('x', 'x')");
        rig_act(&r, 1, "INSERT INTO t VALUES('y', 'y'); DELETE FROM t WHERE code = 'c'");
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tzero|;tb|tone|;tx|tx|;ty|ty|;");
        for (uint32_t i = 0; i < 2; i++) {
            rig_act(&r, i, sql[0]);
            if (mode & 2)
                share(&r);
        }
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tzero|;tb|tone|;tx|tx|;ty|ty|;");
        rig_act(&r, 0, "INSERT INTO t VALUES('z', 'z')");
        rig_act(&r, 1, "UPDATE t SET v = 'end' WHERE code = 'a'; DELETE FROM t WHERE code = 'y'");
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|tend|;tb|tone|;tx|tx|;tz|tz|;");
        for (int i = 0; i < 2; i++)
            sqlite3_free(sql[i]);
        sqlite3_free(first);
        rig_close(&r);
    }
}

/* The migration throws out what would be twice under the new key: the row that stays has the key of one that died, and lives. */
static void test_twins_are_thrown_out_before_the_key_comes(void **state) {
    (void)state;
    static const char *const BEFORE[] = {"CREATE TABLE t(code TEXT, v)", "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)",
                                         "CREATE TABLE t(id BIGINT DEFAULT(random()), code TEXT, v, PRIMARY KEY(id, v))"};
    static const char *const OUT = "DELETE FROM t WHERE v > (SELECT min(o.v) FROM t AS o WHERE o.code = t.code)"; /* rowids differ */
    static const char *const MIGRATE =
        "CREATE TABLE tmp(code TEXT PRIMARY KEY, v); INSERT INTO tmp SELECT code, v FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t";
    for (int mode = 0; mode < 6; mode++) {
        struct rig r;
        print_message("%s, mode %d\n", BEFORE[mode / 2], mode);
        rig_open(&r, 2, BEFORE[mode / 2]);
        rig_act(&r, 0, "INSERT INTO t(code, v) VALUES('a', 1), ('a', 2), ('b', 1)");
        share_same(&r);
        rig_tick();
        for (uint32_t i = 0; i < 2; i++) {
            rig_act(&r, i, OUT);
            rig_act(&r, i, MIGRATE);
            if (mode & 1)
                share(&r);
        }
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|i1|;tb|i1|;");
        rig_act(&r, 1, "UPDATE t SET v = 3");
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code", "ta|i3|;tb|i3|;");
        rig_close(&r);
    }
}

/* The number goes: rows that two servers had born under one, and rows that are equal without it, stay as many as they were. */
static void test_rows_that_nothing_but_a_number_told_apart(void **state) {
    (void)state;
    static const char *const MIGRATE =
        "CREATE TABLE tmp(code TEXT, v); INSERT INTO tmp SELECT code, v FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t";
    for (int mode = 0; mode < 4; mode++) {
        struct rig r;
        rig_open(&r, 2,
                 mode & 1 ? "CREATE TABLE t(id BIGINT DEFAULT(random()) PRIMARY KEY, code TEXT, v)"
                          : "CREATE TABLE t(id INTEGER PRIMARY KEY, code TEXT, v)");
        rig_act(&r, 0, "INSERT INTO t(code, v) VALUES('a', 1)");
        rig_act(&r, 1, "INSERT INTO t(code, v) VALUES('b', 1), ('twin', 1), ('twin', 1), ('twin', 1)");
        share_same(&r);
        rig_act(&r, 0, MIGRATE);
        if (mode & 2)
            share(&r);
        rig_act(&r, 1,
                "UPDATE t SET v = 2 WHERE code = 'a'; UPDATE t SET v = 2 WHERE rowid = (SELECT max(rowid) FROM t WHERE code = 'twin')");
        share(&r);
        rig_act(&r, 1, MIGRATE);
        peer_retry(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code, v", "ta|i2|;tb|i1|;ttwin|i1|;ttwin|i1|;ttwin|i2|;");
        rig_act(&r, 0, "DELETE FROM t WHERE code = 'a' OR v = 2");
        share_same(&r);
        assert_everywhere(&r, "SELECT code, v FROM t ORDER BY code, v", "tb|i1|;ttwin|i1|;ttwin|i1|;");
        rig_close(&r);
    }
}

/* A key of as many other columns: left alone and said, until it is as it was. */
static void test_a_key_of_another_column(void **state) {
    (void)state;
    static const char *const COLUMNS[] = {"code TEXT PRIMARY KEY, id BIGINT, v", "code TEXT, id BIGINT PRIMARY KEY, v"};
    struct rig r;
    char *sql[2], *first = sqlite3_mprintf("CREATE TABLE t(%s); CREATE TABLE u(k PRIMARY KEY)", COLUMNS[0]);
    for (int i = 0; i < 2; i++)
        sql[i] = sqlite3_mprintf("CREATE TABLE tmp(%s); INSERT INTO tmp SELECT * FROM t; DROP TABLE t; ALTER TABLE tmp RENAME TO t",
                                 COLUMNS[!i]);
    rig_open(&r, 2, first);
    rig_act(&r, 0, "INSERT INTO t VALUES('a', 10, 1), ('b', 20, 2)");
    share_same(&r);
    rig_act(&r, 0, sql[0]);
    rig_act(&r, 0, "INSERT INTO t VALUES('c', 30, 3); INSERT INTO u VALUES(1)");
    rig_act(&r, 1, "UPDATE t SET v = 'one' WHERE code = 'a'");
    share(&r);
    assert_problem(&r.peers[0], "t", "not replicated: a migration gave it a key of as many other columns");
    assert_everywhere(&r, "SELECT k FROM u", "i1|;");
    assert_rows(rig_app(&r, 1), "SELECT code, v FROM t ORDER BY code", "ta|tone|;tb|i2|;");
    assert_int_equal(r.peers[0].reopened + r.peers[1].reopened, 0);
    rig_act(&r, 0, sql[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT code FROM t ORDER BY code", "ta|;tb|;tc|;");
    for (int i = 0; i < 2; i++)
        sqlite3_free(sql[i]);
    sqlite3_free(first);
    rig_close(&r);
}

/* A state of before: one name, one table, and none for those without a key. Server 1 alone has the tables `far…`. */
static void test_a_state_that_knows_one_table_a_name(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE t(a, b, v, PRIMARY KEY(a, b)); CREATE TABLE n(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v);"
             "CREATE TABLE k(id BLOB PRIMARY KEY, v)");
    app_exec(rig_app(&r, 1), "CREATE TABLE far(v); CREATE TABLE far_key(id BLOB PRIMARY KEY, v)");
    share(&r);
    rig_act(
        &r, 0,
        "INSERT INTO t VALUES(1, 2, 3); INSERT INTO n(v) VALUES(1); INSERT INTO bag VALUES(1); INSERT INTO k VALUES(randomblob(16), 1)");
    rig_act(&r, 1, "INSERT INTO far VALUES(1); INSERT INTO far_key VALUES(randomblob(16), 1)");
    share(&r);
    side_close_store(&r.peers[0].s);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(r.peers[0].s.state_path, &db), SQLITE_OK);
    app_exec(
        db, "CREATE TABLE o(no INTEGER PRIMARY KEY, name TEXT UNIQUE COLLATE NOCASE, shape INTEGER, rows INTEGER, last_change INTEGER, "
            "captured INTEGER, placed INTEGER); INSERT INTO o SELECT no, name, min(shape, 2), rows, last_change, captured, placed FROM tbl;"
            "DROP TABLE tbl; ALTER TABLE o RENAME TO tbl; DELETE FROM meta WHERE k='names'");
    sqlite3_close(db);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    rig_act(&r, 0, "UPDATE t SET v = 4; UPDATE n SET v = 5; UPDATE bag SET v = 6; UPDATE k SET v = 7");
    rig_act(&r, 1, "UPDATE far SET v = 8; UPDATE far_key SET v = 9");
    rig_act(&r, 0, "CREATE TABLE far(v); CREATE TABLE far_key(id BLOB PRIMARY KEY, v)");
    share(&r);
    peer_retry(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r,
                      "SELECT v FROM t UNION ALL SELECT v FROM n UNION ALL SELECT v FROM bag UNION ALL SELECT v FROM k UNION ALL "
                      "SELECT v FROM far UNION ALL SELECT v FROM far_key",
                      "i4|;i5|;i6|;i7|;i8|;i9|;");
    rig_close(&r);
}

/* A key that was text and is a number now, or the other way round: '1' is 1. */
static void test_a_key_of_another_type(void **state) {
    (void)state;
    static const char *const TYPES[][2] = {{"TEXT", "INTEGER"}, {"INTEGER", "TEXT"}};
    for (int mode = 0; mode < 4; mode++) {
        const char *was = TYPES[mode & 1][0], *is = TYPES[mode & 1][1];
        struct rig r;
        char *made = sqlite3_mprintf("CREATE TABLE t(k %s PRIMARY KEY, v)", was),
             *go = sqlite3_mprintf("CREATE TABLE made(k %s PRIMARY KEY, v); INSERT INTO made SELECT k, v FROM t; DROP TABLE t;"
                                   "ALTER TABLE made RENAME TO t",
                                   is);
        rig_open(&r, 2, made);
        rig_act(&r, 1, "INSERT INTO t VALUES('1', 'one'), ('2', 'two'), ('3', 'goes'), ('4', 'goes, too')");
        share_same(&r);
        rig_act(&r, 1, "DELETE FROM t WHERE k = '3'"); /* not known where the key changes */
        rig_act(&r, 0, go);
        if (mode & 2)
            share(&r);
        rig_act(&r, 0, "UPDATE t SET v = 'TWO' WHERE k = '2'; DELETE FROM t WHERE k = '4'");
        rig_act(&r, 1, "UPDATE t SET v = 'ONE' WHERE k = '1'; INSERT INTO t VALUES('5', 'five')");
        share(&r);
        rig_act(&r, 1, go);
        share_same(&r);
        assert_everywhere(&r, "SELECT v FROM t ORDER BY k", "tONE|;tTWO|;tfive|;");
        for (uint32_t i = 0; i < r.count; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        rig_close(&r);
        sqlite3_free(made);
        sqlite3_free(go);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_of_another_kind_on_one_server_first),
        cmocka_unit_test(test_a_key_of_another_kind_on_both_and_back),
        cmocka_unit_test(test_two_rows_that_get_one_key),
        cmocka_unit_test(test_a_write_that_was_never_on_show),
        cmocka_unit_test(test_references_to_a_table_whose_key_changes),
        cmocka_unit_test(test_a_key_of_another_kind_is_said),
        cmocka_unit_test(test_a_key_of_one_column_on_both_and_back),
        cmocka_unit_test(test_twins_are_thrown_out_before_the_key_comes),
        cmocka_unit_test(test_rows_that_nothing_but_a_number_told_apart),
        cmocka_unit_test(test_a_key_of_another_column),
        cmocka_unit_test(test_a_state_that_knows_one_table_a_name),
        cmocka_unit_test(test_a_key_of_another_type),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
