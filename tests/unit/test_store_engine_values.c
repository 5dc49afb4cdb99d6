/* The engine: from a write on one server to the row on another, for every shape of key and every kind of value. */
#include "store_rig.h"

/* Batches made from here on. */
static uint32_t made(const struct rig *r, uint32_t i) { return r->peers[i].s.made.count; }

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static const char *const SHAPES =
    "CREATE TABLE numbered(id INTEGER PRIMARY KEY, a, b);"
    "CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, a);"
    "CREATE TABLE txt(k TEXT PRIMARY KEY, a);"
    "CREATE TABLE blb(k BLOB PRIMARY KEY, a);"
    "CREATE TABLE anykey(k PRIMARY KEY, a);"
    "CREATE TABLE rkey(k REAL PRIMARY KEY, a);"
    "CREATE TABLE intkey(k INT PRIMARY KEY, a);"
    "CREATE TABLE descending(k INTEGER PRIMARY KEY DESC, a);"
    "CREATE TABLE folded(x TEXT COLLATE NOCASE, y TEXT COLLATE RTRIM, z INTEGER, a, PRIMARY KEY(x, y, z));"
    "CREATE TABLE late(a, y INTEGER, x TEXT, PRIMARY KEY(x, y));"
    "CREATE TABLE rowless(k TEXT, n INTEGER, a, PRIMARY KEY(k, n)) WITHOUT ROWID;"
    "CREATE TABLE rowless_number(k INTEGER PRIMARY KEY, a) WITHOUT ROWID;"
    "CREATE TABLE only_number(id INTEGER PRIMARY KEY);"
    "CREATE TABLE only_key(x TEXT, y TEXT, PRIMARY KEY(x, y));"
    "CREATE TABLE strict_one(k TEXT PRIMARY KEY, n INT, r REAL, b BLOB, any_one ANY) STRICT;"
    "CREATE TABLE \"odd \"\" name; --\"(\"select\" TEXT PRIMARY KEY, \"a \"\" b\" INTEGER, \"c]d\" TEXT, \"é\" TEXT);";

static void test_every_shape_of_key(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, SHAPES);
    rig_act(&r, 0,
            "INSERT INTO numbered(a, b) VALUES('n1', 1), ('n2', 2);"
            "INSERT INTO numbered VALUES(100, 'given', 3), (-5, 'negative', 4), (9223372036854775807, 'last', 5), (-9223372036854775808, "
            "'first', 6), (0, 'zero', 7);"
            "INSERT INTO auto(a) VALUES('a1'), ('a2'); INSERT INTO auto VALUES(50, 'given');"
            "INSERT INTO txt VALUES('one', 1), ('', 2), ('Ünï \U0001F600', 3), ('a' || char(0) || 'b', 4), (CAST(x'ff00fe' AS TEXT), 5);"
            "INSERT INTO blb VALUES(x'', 1), (x'00ff', 2), ('text in blob', 3), (7, 4);"
            "INSERT INTO anykey VALUES(1, 'int'), ('1', 'text'), (x'31', 'blob'), (1.5, 'real'), (1e300, 'huge');"
            "INSERT INTO rkey VALUES(1, 'one'), (2.5, 'two and a half'), (-0.0, 'zero'), (9007199254740993, 'big');"
            "INSERT INTO intkey VALUES(1, 'int'), ('581B', 'text'), (2.5, 'real');"
            "INSERT INTO descending VALUES(1, 'x'), (3, 'y');"
            "INSERT INTO folded VALUES('Team', 'x ', 1, 'a'), ('other', 'y', 2, 'b');"
            "INSERT INTO late VALUES('l1', 1, 'x'), ('l2', 2, 'x');"
            "INSERT INTO rowless VALUES('k', 1, 'a'), ('k', 2, 'b'); INSERT INTO rowless_number VALUES(7, 'seven'), (-1, 'minus');"
            "INSERT INTO only_number DEFAULT VALUES; INSERT INTO only_number VALUES(9);"
            "INSERT INTO only_key VALUES('a', 'b'), ('a', 'c');"
            "INSERT INTO strict_one VALUES('k', 1, 2.0, x'03', 'any'), ('l', 2, 3, x'04', 5), ('m', NULL, NULL, NULL, x'06');"
            "INSERT INTO \"odd \"\" name; --\" VALUES('k', 1, 'c', 'e')");
    share_same(&r);
    assert_true(app_int(rig_app(&r, 1), "SELECT count(*) FROM numbered") == 7);
    rig_act(
        &r, 1,
        "UPDATE numbered SET b = b * 10 WHERE id <> 0; DELETE FROM numbered WHERE id = -5; UPDATE auto SET a = 'changed' WHERE id = 2;"
        "UPDATE txt SET a = a + 10; DELETE FROM txt WHERE k = ''; UPDATE blb SET a = a + 10; DELETE FROM blb WHERE k = x'';"
        "UPDATE anykey SET a = a || '!'; DELETE FROM anykey WHERE k = '1'; UPDATE rkey SET a = a || '!' WHERE k < 3;"
        "UPDATE intkey SET a = a || '!'; DELETE FROM intkey WHERE k = '581B'; UPDATE descending SET a = 'z' WHERE k = 3;"
        "UPDATE folded SET a = 'changed' WHERE x = 'TEAM'; DELETE FROM folded WHERE x = 'OTHER'; UPDATE late SET a = 'changed' WHERE y = 2;"
        "UPDATE rowless SET a = 'changed' WHERE n = 2; DELETE FROM rowless WHERE n = 1; UPDATE rowless_number SET a = 'x';"
        "DELETE FROM only_number WHERE id = 9; DELETE FROM only_key WHERE y = 'c'; UPDATE strict_one SET n = 5, any_one = 2.5 WHERE k = "
        "'k';"
        "UPDATE \"odd \"\" name; --\" SET \"a \"\" b\" = 2, \"c]d\" = NULL");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM numbered; DELETE FROM txt; DELETE FROM blb; DELETE FROM anykey; DELETE FROM folded; DELETE FROM rowless");
    share_same(&r);
    assert_int_equal(
        app_int(rig_app(&r, 1), "SELECT (SELECT count(*) FROM numbered) + (SELECT count(*) FROM blb) + (SELECT count(*) FROM rowless)"), 0);
    rig_close(&r);
}

/* A key that the application gave is one row, whoever writes it, as SQLite compares it. */
static void test_given_keys_are_one_row_on_both_servers(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, SHAPES);
    app_exec(rig_app(&r, 0), "INSERT INTO folded VALUES('Team', 'x', 1, 'old'); INSERT INTO anykey VALUES(3, 'old'); INSERT INTO numbered "
                             "VALUES(254, 'old', NULL)");
    peer_rest(&r.peers[0]);
    rig_tick();
    app_exec(rig_app(&r, 1), "INSERT INTO folded VALUES('TEAM', 'x   ', 1, 'new'); INSERT INTO anykey VALUES(3.0, 'new'); INSERT INTO "
                             "numbered VALUES(254, 'new', NULL)");
    peer_rest(&r.peers[1]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT a FROM folded UNION ALL SELECT a FROM anykey UNION ALL SELECT a FROM numbered", "tnew|;tnew|;tnew|;");
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_lost(&r.peers[i], "a", "\"old\"") && peer_conflicts(&r.peers[i]) >= 3);
    assert_same_table(&r, "numbered");
    assert_same_table(&r, "folded"); /* also the spelling of the key */
    rig_close(&r);
}

static void test_every_type_of_value(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE t(k TEXT PRIMARY KEY, plain, i INTEGER, n NUMERIC, f REAL, t TEXT, b BLOB);"
             "CREATE TABLE numbers(id INTEGER PRIMARY KEY, plain, i INTEGER, n NUMERIC, f REAL, t TEXT, b BLOB)");
    static const char *const VALUES[] = {
        "NULL",
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "4294967296",
        "0.0",
        "-0.0",
        "1.5",
        "1e308",
        "-1e-308",
        "9e999",
        "-9e999",
        "9007199254740993.0",
        "''",
        "'text'",
        "'581B'",
        "'12'",
        "'1.0'",
        "' 7 '",
        "x''",
        "x'00'",
        "x'0001ff'",
        "CAST(x'ff' AS TEXT)",
        "'a'||char(0)||'b'",
        "'\U0001F600é'",
        "zeroblob(3)",
        "printf('%.*c', 5000, 'x')",
        "randomblob(5000)",
        "4.9e-324",
    };
    size_t n = sizeof VALUES / sizeof *VALUES;
    for (int round = 0; round < 2; round++) { /* inserted, then updated to the neighbour's value on the other server */
        for (size_t i = 0; i < n; i++) {
            const char *v = VALUES[(i + (size_t)round) % n];
            char *sql =
                round ? sqlite3_mprintf("UPDATE t SET plain=%s, i=%s, n=%s, f=%s, t=%s, b=%s WHERE k='%d';"
                                        "UPDATE numbers SET plain=%s, i=%s, n=%s, f=%s, t=%s, b=%s WHERE id=%d",
                                        v, v, v, v, v, v, (int)i, v, v, v, v, v, v, (int)i)
                      : sqlite3_mprintf(
                            "INSERT INTO t VALUES('%d', %s, %s, %s, %s, %s, %s); INSERT INTO numbers VALUES(%d, %s, %s, %s, %s, %s, %s)",
                            (int)i, v, v, v, v, v, v, (int)i, v, v, v, v, v, v);
            app_exec(rig_app(&r, (uint32_t)round), sql);
            sqlite3_free(sql);
        }
        share_same(&r);
    }
    uint32_t before[2] = {made(&r, 0), made(&r, 1)};
    rig_act(&r, 0, "UPDATE t SET plain=plain, i=i, n=n, f=f, t=t, b=b; UPDATE numbers SET plain=plain, i=i, n=n, f=f, t=t, b=b");
    rig_act(&r, 1, "UPDATE t SET plain=plain, i=i, n=n, f=f, t=t, b=b; UPDATE numbers SET plain=plain, i=i, n=n, f=f, t=t, b=b");
    assert_int_equal(made(&r, 0), before[0]);
    assert_int_equal(made(&r, 1), before[1]);
    rig_close(&r);
}

/* The same column has another type elsewhere: SQLite converts what arrives, and that is no write of this server's. */
static void test_other_types_elsewhere(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), i ? "CREATE TABLE t(v TEXT, w INTEGER, x REAL, k TEXT PRIMARY KEY)"
                                   : "CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER, w TEXT, x)");
        peer_open(&r.peers[i]);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO t(k, v, w, x) VALUES('a', 5, '7', 3), ('b', 'x', 'y', 'z'), ('c', 2.5, '2.5', NULL)");
    peer_pull(&r.peers[1], &r.peers[0]); /* the digests are of what the files hold, and differ */
    assert_rows(rig_app(&r, 1), "SELECT k, v, w, x FROM t ORDER BY k", "ta|t5|i7|f3.0|;tb|tx|ty|tz|;tc|t2.5|f2.5|n|;");
    uint32_t before = made(&r, 1);
    rig_act(&r, 1, "UPDATE t SET v=v, w=w, x=x");
    assert_int_equal(made(&r, 1), before);
    rig_act(&r, 1, "UPDATE t SET v='9' WHERE k='a'");
    peer_pull(&r.peers[0], &r.peers[1]);
    assert_rows(rig_app(&r, 0), "SELECT v FROM t WHERE k='a'", "i9|;");
    rig_close(&r);
}

static void test_generated_columns_and_defaults(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE g(id INTEGER PRIMARY KEY, a INTEGER DEFAULT 7, s AS (a * 2) STORED, v AS (a || '!'), c TEXT DEFAULT "
             "(lower('ABC')), d TEXT NOT NULL DEFAULT 'x',"
             " t TEXT DEFAULT CURRENT_TIMESTAMP); CREATE INDEX gs ON g(s); CREATE UNIQUE INDEX gv ON g(v)");
    rig_act(&r, 0, "INSERT INTO g(id) VALUES(1); INSERT INTO g(a, c) VALUES(8, NULL)");
    share_same(&r);
    assert_rows(rig_app(&r, 1), "SELECT a, s, v, c, d FROM g ORDER BY id", "i7|i14|t7!|tabc|tx|;i8|i16|t8!|n|tx|;");
    rig_act(&r, 1, "UPDATE g SET a = 20 WHERE id = 1");
    share_same(&r);
    assert_rows(rig_app(&r, 0), "SELECT s, v FROM g WHERE id = 1", "i40|t20!|;");
    rig_close(&r);
}

static void test_values_of_20_mb(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE photo(id INTEGER PRIMARY KEY, name TEXT, data BLOB, note TEXT)");
    rig_act(&r, 0,
            "INSERT INTO photo VALUES(1, 'random', randomblob(20971520), 'n'), (2, 'zero', zeroblob(20971520), 'n'), (3, 'text', "
            "printf('%.*c', 20971520, 'x'), 'n')");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_rows(rig_app(&r, 1), "SELECT id, typeof(data), length(data) FROM photo ORDER BY id",
                "i1|tblob|i20971520|;i2|tblob|i20971520|;i3|ttext|i20971520|;");
    sqlite3_blob *a, *b;
    assert_int_equal(sqlite3_blob_open(rig_app(&r, 0), "main", "photo", "data", 1, 0, &a), SQLITE_OK);
    assert_int_equal(sqlite3_blob_open(rig_app(&r, 1), "main", "photo", "data", 1, 0, &b), SQLITE_OK);
    static char x[1 << 16], y[1 << 16];
    for (int at = 0; at < 20971520; at += (int)sizeof x) {
        assert_int_equal(sqlite3_blob_read(a, x, sizeof x, at) | sqlite3_blob_read(b, y, sizeof y, at), SQLITE_OK);
        assert_memory_equal(x, y, sizeof x);
    }
    sqlite3_blob_close(a);
    sqlite3_blob_close(b);
    rig_act(&r, 1, "UPDATE photo SET note = 'changed'"); /* sends the note alone */
    const struct side_batches *m = &r.peers[1].s.made;
    assert_true(m->items[m->count - 1]->len < 2000);
    rig_share(&r);
    rig_act(&r, 0, "DELETE FROM photo WHERE id = 2; UPDATE photo SET data = x'01' WHERE id = 3");
    share_same(&r);
    rig_close(&r);
}

/* A row that fits in no batch cannot be sent: it is said aloud, and nothing else suffers. */
static void test_a_row_too_large_is_named(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 'small'); INSERT INTO t VALUES(2, zeroblob(70000000)); INSERT INTO t VALUES(3, 'small')");
    assert_false(peer_settled(&r.peers[0]));
    assert_true(r.peers[0].errors == 1 && strstr(r.peers[0].error, "larger than"));
    for (int i = 0; i < 3; i++)
        peer_pull(&r.peers[1], &r.peers[0]);
    assert_rows(rig_app(&r, 1), "SELECT id FROM t ORDER BY id", "i1|;i3|;");
    peer_reopen(&r.peers[0]);
    peer_rest(&r.peers[0]);
    assert_false(peer_settled(&r.peers[0])); /* still true after a restart */
    rig_act(&r, 0, "UPDATE t SET v = 'smaller' WHERE id = 2");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape_of_key),
        cmocka_unit_test(test_given_keys_are_one_row_on_both_servers),
        cmocka_unit_test(test_every_type_of_value),
        cmocka_unit_test(test_other_types_elsewhere),
        cmocka_unit_test(test_generated_columns_and_defaults),
        cmocka_unit_test(test_values_of_20_mb),
        cmocka_unit_test(test_a_row_too_large_is_named),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
