/* The engine: tables and files as applications make them, beyond the shapes of keys and values: AUTOINCREMENT, many columns, names, collations, indexes over
 * what only the application has, references in circles, encodings and page sizes. */
#include "store_rig.h"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* Each server's application opens its file with these pragmas first, and makes its own schema; sql NULL: the file is not there yet. */
static void open_each(struct rig *r, const char *const *pragmas, const char *const *sql) {
    rig_start(r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct peer *p = &r->peers[i];
        p->s.pragmas = pragmas[i];
        p->create = !sql[i];
        if (sql[i]) {
            assert_int_equal(side_open_app(&p->s), SQLITE_OK);
            app_exec(p->s.app, sql[i]);
        }
        peer_open(p);
        peer_rest(p);
    }
    rig_share(r);
    for (uint32_t i = 0; i < 2; i++)
        if (!sql[i]) {
            assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
            app_exec(rig_app(r, i), "SELECT 1 FROM sqlite_schema");
        }
    rig_time_passes(r);
}

/* A number that any server gave is not given again, nor after the row is gone. */
static void test_autoincrement(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v)");
    rig_act(&r, 0, "INSERT INTO t(v) VALUES('a'), ('b'), ('c')");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM sqlite_sequence", "tt|i3|;");
    rig_act(&r, 0, "DELETE FROM t WHERE id = 3");
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO t(v) VALUES('d')");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "i1|ta|;i2|tb|;i4|td|;");
    rig_act(&r, 0, "BEGIN; INSERT INTO t(id, v) VALUES(100, 'e'); DELETE FROM t; COMMIT; INSERT INTO t(v) VALUES('f')"); /* 101 */
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO t(v) VALUES('g')");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "i101|tf|;i102|tg|;");
    rig_act(&r, 1, "UPDATE t SET id = 500 WHERE id = 102");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "i101|tf|;i500|tg|;");
    rig_act(&r, 0, "DELETE FROM t WHERE id = 101");
    share_same(&r);
    rig_close(&r);
}

/* Numbers that were given and gone before the node looked. */
static void test_autoincrement_of_rows_that_nobody_saw(void **state) {
    (void)state;
    for (int away = 0; away < 2; away++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); CREATE TABLE n(id INTEGER PRIMARY KEY, v)");
        rig_act(&r, 0, "INSERT INTO t(v) VALUES('a'), ('b'), ('c')");
        share_same(&r);
        if (away)
            side_close_store(&r.peers[0].s);
        app_exec(rig_app(&r, 0),
                 "INSERT INTO t(v) VALUES('d'), ('e'); DELETE FROM t WHERE id > 3; INSERT OR IGNORE INTO t(id, v) VALUES(1, "
                 "'ignored'); INSERT INTO n VALUES(9, 9); DELETE FROM n");
        if (away)
            peer_open(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM sqlite_sequence", "tt|i5|;");
        rig_act(&r, 1, "INSERT INTO t(v) VALUES('f')");
        share_same(&r);
        assert_everywhere(&r, "SELECT max(id), count(*) FROM t", "i6|i4|;");
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        uint32_t made = r.peers[0].s.made.count;
        rig_act(&r, 0, "UPDATE t SET v = 'x' WHERE id = 1"); /* it is told once */
        assert_int_equal(rig_made_rows(&r, 0, made), 1);
        rig_close(&r);
    }
}

/* A number whose row came and went before it was shown here. */
static void test_autoincrement_of_rows_that_were_never_shown(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE \"T 'x'\"(id INTEGER PRIMARY KEY AUTOINCREMENT, v)");
    rig_act(&r, 0, "INSERT INTO \"T 'x'\"(v) VALUES('a'), ('b'), ('c')");
    rig_act(&r, 0, "DELETE FROM \"T 'x'\"");
    app_exec(rig_app(&r, 1), "BEGIN IMMEDIATE"); /* it is merged, and cannot be shown */
    for (uint32_t k = 0; k < r.peers[0].s.made.count; k++)
        side_queue(&r.peers[1].s, r.peers[0].s.made.items[k]);
    for (int k = 0; k < 3; k++)
        peer_turn(&r.peers[1]);
    app_exec(rig_app(&r, 1), "ROLLBACK");
    peer_reopen(&r.peers[1]);
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO \"T 'x'\"(v) VALUES('d')");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, v FROM \"T 'x'\"", "i4|td|;");
    rig_close(&r);
}

static char *wide(int columns, const char *format, const char *head, const char *tail) {
    sqlite3_str *q = sqlite3_str_new(NULL);
    sqlite3_str_appendall(q, head);
    for (int i = 0; i < columns; i++)
        sqlite3_str_appendf(q, format, i ? "," : "", i);
    sqlite3_str_appendall(q, tail);
    return sqlite3_str_finish(q);
}

static void test_two_thousand_columns(void **state) {
    (void)state;
    struct rig r;
    char *create = wide(1998, "%sc%d", "CREATE TABLE wide(id INTEGER PRIMARY KEY, k TEXT, ", ");"),
         *create_keyed = wide(1999, "%sc%d", "CREATE TABLE keyed(k TEXT PRIMARY KEY, ", ")"),
         *both = sqlite3_mprintf("%s%s", create, create_keyed), *insert = wide(1998, "%s%d", "INSERT INTO wide VALUES(1, 'k', ", ");"),
         *insert_keyed = wide(1999, "%s%d", "INSERT INTO keyed VALUES('k', ", ")");
    rig_open(&r, 2, both);
    rig_act(&r, 0, insert);
    rig_act(&r, 0, insert_keyed);
    share_same(&r);
    rig_act(&r, 1, "UPDATE wide SET c7 = 'seven', c1997 = NULL, k = x'00'; UPDATE keyed SET c1998 = 1.5");
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO wide(id) VALUES(77); DELETE FROM wide WHERE id = 1; DELETE FROM keyed");
    share_same(&r);
    sqlite3_free(create);
    sqlite3_free(create_keyed);
    sqlite3_free(both);
    sqlite3_free(insert);
    sqlite3_free(insert_keyed);
    rig_close(&r);
}

static void test_names(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE \"select\"(\"from\" TEXT PRIMARY KEY, \"or\"\"der\" INT, \"группа \U0001F600\" TEXT, \"a b.c\" INT, [x[y] INT);"
             "CREATE TABLE \"it's \"\"odd\"\"\"(\"order\" INTEGER PRIMARY KEY, \"index\" TEXT UNIQUE);"
             "CREATE TABLE \"Größe\"(\"schlüssel\" TEXT PRIMARY KEY, \"NEW\" INT, \"old\" INT, \"%s%d\" DEFAULT '%q');"
             "CREATE TABLE \"new\"(\"rowid\" TEXT PRIMARY KEY, \"oid\" INT, \"_rowid_\" INT);"
             "CREATE TABLE \"excluded\"(\"seq\" INTEGER PRIMARY KEY, \"tbl\" TEXT, \"kind\" INT, \"at\" INT, \"nonce\" INT, \"k0\" INT);"
             "CREATE TABLE \" \"(\"\" TEXT PRIMARY KEY, \" \" INT);"
             "CREATE TABLE \"main\"(\"main\" INTEGER PRIMARY KEY, \"temp\" INT);"
             "CREATE TABLE \"sqlite schema\"(\"?1\" INTEGER PRIMARY KEY, \":a\" INT, \"$b\" TEXT, \"a\nb\" INT);"
             "CREATE TABLE \"stärling_dirty\"(\"id\" INTEGER PRIMARY KEY, \"-- x\" INT, \"/* y\" INT);"
             "CREATE UNIQUE INDEX \"idx \"\" '\" ON \"Größe\"(\"NEW\", \"%s%d\")");
    rig_act(
        &r, 0,
        "INSERT INTO \"select\" VALUES('k', 1, 'два', 3, 4); INSERT INTO \"it's \"\"odd\"\"\"(\"index\") VALUES('i');"
        "INSERT INTO \"Größe\" VALUES('ß', 1, 2, 3); INSERT INTO \"new\" VALUES('r', 1, 2); INSERT INTO \"excluded\" VALUES(1,2,3,4,5,6);"
        "INSERT INTO \" \" VALUES('', 1); INSERT INTO \"main\" VALUES(1, 2); INSERT INTO \"sqlite schema\" VALUES(1, 2, 3, 4);"
        "INSERT INTO \"stärling_dirty\" VALUES(1, 2, 3)");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM \"main\".\"main\"", "i1|;");
    rig_act(
        &r, 1,
        "UPDATE \"select\" SET \"or\"\"der\" = 5, \"группа \U0001F600\" = NULL; UPDATE \"Größe\" SET \"NEW\" = \"old\", \"%s%d\" = 9;"
        "UPDATE \"new\" SET \"rowid\" = 's'; UPDATE \"new\" SET \"oid\" = 7; UPDATE \"excluded\" SET \"at\" = 0, \"seq\" = 9;"
        "UPDATE \" \" SET \" \" = 2; UPDATE \"main\" SET \"temp\" = 3; UPDATE \"sqlite schema\" SET \"?1\" = 2, \":a\" = 'x', \"a\nb\" = 5;"
        "UPDATE \"stärling_dirty\" SET \"-- x\" = 'y', \"/* y\" = 4");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM \"select\"; DELETE FROM \"new\"; DELETE FROM \" \"; DELETE FROM \"sqlite schema\"");
    share_same(&r);
    rig_close(&r);
}

static void test_collations(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE n(k TEXT COLLATE NOCASE PRIMARY KEY, v TEXT COLLATE RTRIM UNIQUE); CREATE TABLE t(k TEXT COLLATE RTRIM PRIMARY "
             "KEY, v) "
             "WITHOUT ROWID; CREATE TABLE x(a TEXT, b TEXT, v, PRIMARY KEY(a COLLATE NOCASE, b COLLATE RTRIM));"
             "CREATE TABLE u(id INTEGER PRIMARY KEY, v TEXT); CREATE UNIQUE INDEX uv ON u(v COLLATE NOCASE)");
    rig_act(&r, 0,
            "INSERT INTO n VALUES('Abc', 'x  '), ('ÄBC', 'y'), ('äbc', 'z'); INSERT INTO t VALUES('a  ', 1), ('b', 2);"
            "INSERT INTO x VALUES('K', 'l  ', 1), ('m', 'N', 2); INSERT INTO u VALUES(1, 'Aa'), (2, 'b')");
    share_same(&r);
    rig_act(&r, 1,
            "UPDATE n SET v = 'X' WHERE k = 'aBC'; UPDATE t SET v = 5 WHERE k = 'a'; UPDATE x SET v = 7 WHERE a = 'k' COLLATE NOCASE;"
            "UPDATE u SET v = upper(v)");
    share_same(&r);
    rig_act(&r, 0,
            "UPDATE n SET k = 'ABC' WHERE k = 'abc'; UPDATE t SET k = 'a' WHERE k = 'a'; INSERT OR REPLACE INTO n VALUES('abc', 'r');"
            "UPDATE x SET a = 'k', b = 'l'  WHERE b = 'l  ' COLLATE RTRIM; UPDATE u SET v = 'B' WHERE id = 1 AND 0; DELETE FROM t WHERE k "
            "= 'b '");
    share_same(&r);
    rig_act(&r, 1,
            "BEGIN; UPDATE u SET v = 'tmp' WHERE id = 1; UPDATE u SET v = 'aA' WHERE id = 2; UPDATE u SET v = 'b' WHERE id = 1; COMMIT");
    share_same(&r);
    rig_close(&r);
}

/* ---- what only the application has */

static void twice(sqlite3_context *c, int n, sqlite3_value **v) {
    (void)n;
    sqlite3_result_int64(c, 2 * sqlite3_value_int64(v[0]));
}

static int reverse(void *ctx, int an, const void *a, int bn, const void *b) {
    (void)ctx;
    int d = memcmp(b, a, (size_t)(an < bn ? an : bn));
    return d ? d : bn - an;
}

static void app_own(sqlite3 *db) {
    assert_int_equal(
        sqlite3_create_function(db, "twice", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, NULL, twice, NULL, NULL), 0);
    assert_int_equal(sqlite3_create_collation(db, "reverse", SQLITE_UTF8, NULL, reverse), 0);
}

static void assert_found(struct peer *p, const char *what, const char *mend) {
    json_t *doctor = store_doctor(p->s.store), *f;
    char *all = json_dumps(doctor, 0);
    size_t i;
    bool found = false;
    json_array_foreach(json_object_get(doctor, "problems"), i, f) {
        const char *said = json_string_value(json_object_get(f, "mend"));
        found = found || (strstr(json_string_value(json_object_get(f, "what")), what) && said && strstr(said, mend));
    }
    if (!found)
        fail_msg("doctor does not say \"%s\" and \"%s\" but: %s", what, mend, all);
    free(all);
    json_decref(doctor);
}

static void assert_no_damage(struct peer *p) {
    json_t *doctor = store_doctor(p->s.store);
    char *all = json_dumps(doctor, 0);
    if (strstr(all, "damaged"))
        fail_msg("doctor says %s", all);
    free(all);
    json_decref(doctor);
}

#define OWN                                                                                                                                \
    "CREATE TABLE good(id INTEGER PRIMARY KEY, v);"                                                                                        \
    "CREATE TABLE f(id INTEGER PRIMARY KEY, v); CREATE INDEX fi ON f(twice(v));"                                                           \
    "CREATE TABLE p(id INTEGER PRIMARY KEY, v); CREATE INDEX pi ON p(v) WHERE twice(v) > 10;"                                              \
    "CREATE TABLE g(id INTEGER PRIMARY KEY, v, w AS (twice(v)) STORED);"                                                                   \
    "CREATE TABLE gv(id INTEGER PRIMARY KEY, v, w AS (twice(v)) VIRTUAL);"                                                                 \
    "CREATE TABLE c(id INTEGER PRIMARY KEY, v CHECK (twice(v) < 1000));"                                                                   \
    "CREATE TABLE i(id INTEGER PRIMARY KEY, v TEXT COLLATE reverse UNIQUE);"                                                               \
    "CREATE TABLE free(id INTEGER PRIMARY KEY, v TEXT COLLATE reverse);"                                                                   \
    "CREATE TABLE k(k TEXT COLLATE reverse PRIMARY KEY, v);"                                                                               \
    "CREATE TABLE kw(k TEXT COLLATE reverse PRIMARY KEY, v) WITHOUT ROWID;"                                                                \
    "CREATE VIEW see AS SELECT twice(v) FROM good; CREATE TRIGGER gt AFTER INSERT ON good BEGIN UPDATE good SET v = twice(NEW.v) WHERE "   \
    "id = NEW.id; END;"

static void test_functions_and_collations_of_the_application(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct peer *p = &r.peers[i];
        assert_int_equal(side_open_app(&p->s), SQLITE_OK);
        app_own(p->s.app);
        app_exec(p->s.app, OWN);
        peer_open(p);
        peer_rest(p);
    }
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++) {
        rig_act(
            &r, i,
            i ? "UPDATE good SET v = 7; INSERT INTO f VALUES(2, 2); DELETE FROM f WHERE id = 1; UPDATE free SET v = 'b'"
              : "INSERT INTO good(v) VALUES(1); INSERT INTO f VALUES(1, 1); INSERT INTO p VALUES(1, 6); INSERT INTO g(v) VALUES(1);"
                "INSERT INTO gv(v) VALUES(1); INSERT INTO c(v) VALUES(1); INSERT INTO i(v) VALUES('x'); INSERT INTO free VALUES(1, 'x');"
                "INSERT INTO k VALUES('x', 1); INSERT INTO kw VALUES('x', 1)");
        rig_share(&r);
        rig_time_passes(&r);
        assert_same_table(&r, "good");
        assert_same_table(&r, "free");
    }
    for (uint32_t i = 0; i < 2; i++) {
        static const char *const PARTED[] = {"f", "p", "g", "gv", "c"};
        for (int k = 0; k < 5; k++)
            assert_problem(&r.peers[i], PARTED[k], "twice");
        assert_problem(&r.peers[i], "i", "no such collation sequence: reverse");
        assert_problem(&r.peers[i], "k", "collation of the application's own");
        assert_problem(&r.peers[i], "kw", "collation of the application's own");
        assert_found(&r.peers[i], "\"f\"", "out of this table's indexes");
        assert_no_damage(&r.peers[i]);
        assert_false(peer_settled(&r.peers[i])); /* six tables are not the same: not in sync */
        assert_int_equal(r.peers[i].errors, 0);
    }
    rig_close(&r);
}

/* ---- references */

static void test_references_in_circles(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE node(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES node(id) ON DELETE CASCADE, name TEXT UNIQUE);"
             "CREATE TABLE a(id INTEGER PRIMARY KEY, b INTEGER REFERENCES b(id) DEFERRABLE INITIALLY DEFERRED);"
             "CREATE TABLE b(id INTEGER PRIMARY KEY, a INTEGER NOT NULL REFERENCES a(id) DEFERRABLE INITIALLY DEFERRED)");
    rig_act(&r, 0,
            "PRAGMA foreign_keys = ON; INSERT INTO node VALUES(1, NULL, 'root'), (2, 1, 'child'), (3, 2, 'leaf'), (4, 4, 'itself');"
            "BEGIN; INSERT INTO a VALUES(1, 1); INSERT INTO b VALUES(1, 1); COMMIT");
    share_same(&r);
    rig_act(&r, 1,
            "PRAGMA foreign_keys = ON; UPDATE node SET parent = 1 WHERE id = 3; BEGIN; INSERT INTO a VALUES(2, 2); INSERT INTO b VALUES(2, "
            "1); COMMIT");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM node WHERE id = 1; BEGIN; UPDATE b SET a = 2; DELETE FROM a WHERE id = 1; COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT id FROM node ORDER BY 1", "i4|;");
    assert_everywhere(&r, "PRAGMA foreign_key_check", "");
    rig_close(&r);
}

/* ---- files */

#define FILES                                                                                                                              \
    "CREATE TABLE t(k TEXT PRIMARY KEY, v, n NUMERIC, u TEXT UNIQUE); CREATE TABLE i(id INTEGER PRIMARY KEY, v); CREATE INDEX iv ON i(v);" \
    "CREATE TABLE \"Größe\"(\"ключ\" TEXT COLLATE NOCASE PRIMARY KEY, \"\U0001F600\" TEXT DEFAULT 'ä');"

static void walk_file(struct rig *r) {
    rig_act(r, 0,
            "INSERT INTO t VALUES('a', 'text \U0001F600', '581B', 'u'), ('ä', x'00ff', 1.5, NULL), ('a'||char(0)||'b', 'x'||char(0)||'y', "
            "9223372036854775807, 'é'), ('', -0.0, 9e999, char(0xfffd)); INSERT INTO i(v) VALUES('one'), (2), (NULL);"
            "INSERT INTO \"Größe\"(\"ключ\") VALUES('Straße')");
    share_same(r);
    rig_act(
        r, 1,
        "UPDATE t SET v = v || '!' WHERE k = 'a'; UPDATE t SET k = 'b' WHERE k = 'ä'; DELETE FROM i WHERE v = 2; UPDATE t SET n = -9e999 "
        "WHERE k = ''; UPDATE \"Größe\" SET \"\U0001F600\" = 'ü'; INSERT INTO i(v) VALUES(zeroblob(100000)), ('\U0001F600')");
    share_same(r);
    rig_act(r, 0, "UPDATE i SET v = NULL WHERE typeof(v) = 'blob'; DELETE FROM t WHERE k = 'a'||char(0)||'b'; UPDATE t SET u = k");
    share_same(r);
    uint32_t before[2] = {r->peers[0].s.made.count, r->peers[1].s.made.count};
    for (uint32_t i = 0; i < 2; i++) { /* what was shown is as the registers say: nothing to send */
        rig_act(r, i, "UPDATE t SET v = v, n = n, u = u; UPDATE i SET v = v; UPDATE \"Größe\" SET \"\U0001F600\" = \"\U0001F600\"");
        assert_int_equal(r->peers[i].s.made.count, before[i]);
        assert_rows(rig_app(r, i), "PRAGMA integrity_check", "tok|;");
    }
    for (uint32_t i = 0; i < 2; i++)
        peer_reopen(&r->peers[i]);
    rig_act(r, 1, "INSERT INTO t VALUES('again', 1, 2, 'w')");
    share_same(r);
}

static void test_encodings(void **state) {
    (void)state;
    static const char *const ENCODINGS[] = {"UTF-8", "UTF-16le", "UTF-16be"};
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 4; b++) {
            struct rig r;
            char pragmas[2][200];
            snprintf(pragmas[0], sizeof pragmas[0], "PRAGMA encoding='%s'; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                     ENCODINGS[a]);
            snprintf(pragmas[1], sizeof pragmas[1], "PRAGMA encoding='%s'; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                     ENCODINGS[b % 3]);
            open_each(&r, (const char *[]){pragmas[0], pragmas[1]}, (const char *[]){FILES, b == 3 ? NULL : FILES});
            walk_file(&r);
            rig_close(&r);
        }
}

static void test_page_sizes_and_vacuums(void **state) {
    (void)state;
    static const char *const SIZES[] = {"512", "65536", "1024", "32768"};
    for (int i = 0; i < 4; i++) {
        struct rig r;
        char pragmas[2][200];
        snprintf(pragmas[0], sizeof pragmas[0], "PRAGMA page_size=%s; PRAGMA auto_vacuum=%d; PRAGMA journal_mode=WAL", SIZES[i], i % 3);
        snprintf(pragmas[1], sizeof pragmas[1], "PRAGMA page_size=%s; PRAGMA auto_vacuum=%d; PRAGMA journal_mode=%s", SIZES[(i + 1) % 4],
                 (i + 1) % 3, i % 2 ? "WAL" : "DELETE");
        open_each(&r, (const char *[]){pragmas[0], pragmas[1]}, (const char *[]){FILES, FILES});
        walk_file(&r);
        rig_act(&r, 0, "PRAGMA incremental_vacuum; VACUUM");
        rig_act(&r, 1, "DELETE FROM i");
        share_same(&r);
        rig_close(&r);
    }
}

/* So long that every row is read again, and whatever differs from its register is found. */
static void read_all_again(struct peer *p) {
    side_skip(3700 * 1000);
    for (int64_t until = clock_us() / 1000 + 3000; clock_us() / 1000 < until;) {
        int turn = peer_turn(p);
        side_skip(turn < 0 || turn > 100 ? 100 : (uint64_t)turn);
    }
}

/* Bytes that are no text in the file's encoding arrive as the bytes that they are, where the file can hold them; where it cannot, what it shows for
 * them is nobody's write. */
static void test_invalid_text(void **state) {
    (void)state;
    static const char *const WAL = "PRAGMA journal_mode=WAL", *const UTF16 = "PRAGMA encoding='UTF-16le'; PRAGMA journal_mode=WAL";
    static const char *const WRITTEN[] = {
        "INSERT INTO t(k, v) VALUES('a', CAST(x'ff' AS TEXT)), ('b', CAST(x'610062c3' AS TEXT)), ('c', char(0xfffe, 0xffff, 0xfeff)), "
        "('d', 'x' || char(0) || 'y'), ('e', CAST(x'eda080' AS TEXT)), ('f', CAST(x'c080f4908080' AS TEXT))",
        "INSERT INTO t(k, v) VALUES('a', CAST(x'00d8' AS TEXT)), ('b', CAST(x'61006200d8' AS TEXT)), ('c', char(0xfffe, 0xffff, 0xfeff)), "
        "('d', 'x' || char(0) || 'y'), ('e', CAST(x'00d86100' AS TEXT)), ('f', CAST(x'00dc' AS TEXT))"};
    for (int i = 0; i < 4; i++) {
        struct rig r;
        int rc;
        print_message("%s to %s\n", i & 1 ? "UTF-16" : "UTF-8", i & 2 ? "UTF-16" : "UTF-8");
        open_each(&r, (const char *[]){i & 1 ? UTF16 : WAL, i & 2 ? UTF16 : WAL}, (const char *[]){FILES, FILES});
        rig_act(&r, 0, WRITTEN[i & 1]);
        char *wrote = app_rows(rig_app(&r, 0), "SELECT k, CAST(v AS BLOB) FROM t ORDER BY k", &rc);
        peer_pull(&r.peers[1], &r.peers[0]);
        rig_time_passes(&r);
        uint32_t made = r.peers[1].s.made.count;
        read_all_again(&r.peers[1]);
        rig_act(&r, 1, "UPDATE t SET v = v");
        assert_int_equal(r.peers[1].s.made.count, made);
        rig_act(&r, 1, "UPDATE t SET n = 1");
        peer_pull(&r.peers[0], &r.peers[1]);
        assert_rows(rig_app(&r, 0), "SELECT k, CAST(v AS BLOB) FROM t ORDER BY k", wrote);
        assert_int_equal(rig_made_rows(&r, 1, made), 6);
        peer_reopen(&r.peers[1]);
        read_all_again(&r.peers[1]);
        assert_int_equal(rig_made_rows(&r, 1, made), 6);
        if (!(i & 2)) /* whatever it is, these are bytes */
            assert_same(&r, "SELECT k, v, n FROM t ORDER BY k");
        else
            assert_problem(&r.peers[1], "t", "column \"v\" was given text on another server that is not valid UTF-8");
        assert_same(&r, "SELECT v, n FROM t WHERE k = 'd'");
        rig_act(&r, 1, "UPDATE t SET v = 'valid'"); /* a write is one */
        rig_share(&r);
        assert_same_tables(&r);
        free(wrote);
        rig_close(&r);
    }
}

/* The same of what came before the table did. */
static void test_values_that_waited_for_a_file_that_cannot_hold_them(void **state) {
    (void)state;
    static const char *const TABLES[] = {"CREATE TABLE t(k TEXT PRIMARY KEY, v, n INTEGER)",
                                         "CREATE TABLE t(k TEXT PRIMARY KEY, v, n TEXT)"};
    struct rig r;
    open_each(&r, (const char *[]){"PRAGMA journal_mode=WAL", "PRAGMA encoding='UTF-16le'; PRAGMA journal_mode=WAL"},
              (const char *[]){"CREATE TABLE u(k PRIMARY KEY)", "CREATE TABLE u(k PRIMARY KEY)"});
    rig_act(&r, 0, TABLES[0]);
    rig_act(&r, 0, "INSERT INTO t VALUES('a', CAST(x'ff' AS TEXT), 1)");
    peer_pull(&r.peers[1], &r.peers[0]);
    rig_act(&r, 1, TABLES[1]);
    side_skip(5000);
    peer_rest(&r.peers[1]);
    assert_rows(rig_app(&r, 1), "SELECT k, n FROM t", "ta|t1|;");
    uint32_t made = r.peers[1].s.made.count;
    read_all_again(&r.peers[1]);
    rig_act(&r, 1, "UPDATE t SET k = k");
    assert_int_equal(rig_made_rows(&r, 1, made), 0);
    assert_problem(&r.peers[1], "t", "column \"v\" was given text on another server that is not valid UTF-8");
    assert_problem(&r.peers[1], "t", "column \"n\" is TEXT here and of another type");
    rig_close(&r);
}

/* A key that the file would store as another one is another row: so it waits, and is said. */
static void test_keys_that_a_file_cannot_hold(void **state) {
    (void)state;
    static const char *const WAL = "PRAGMA journal_mode=WAL", *const UTF16 = "PRAGMA encoding='UTF-16le'; PRAGMA journal_mode=WAL";
    static const char *const TABLES[] = {"CREATE TABLE t(k TEXT PRIMARY KEY, v)", "CREATE TABLE t(k TEXT PRIMARY KEY, v)",
                                         "CREATE TABLE t(k BIGINT PRIMARY KEY, v)"};
    static const char *const KEYS[] = {"CAST(x'80' AS TEXT)", "CAST(x'81' AS TEXT)", "'007'"};
    for (int i = 1; i < 3; i++) {
        struct rig r;
        open_each(&r, (const char *[]){WAL, i == 1 ? UTF16 : WAL}, (const char *[]){TABLES[0], TABLES[i]});
        char *sql = sqlite3_mprintf("INSERT INTO t VALUES(%s, 1), (%s, 2), ('good', 3)", KEYS[i == 2 ? 2 : 0], i == 2 ? "'7.50'" : KEYS[1]);
        rig_act(&r, 0, sql);
        sqlite3_free(sql);
        uint32_t made = r.peers[1].s.made.count;
        rig_share(&r);
        read_all_again(&r.peers[1]);
        rig_share(&r);
        assert_rows(rig_app(&r, 1), "SELECT k, v FROM t", "tgood|i3|;");
        assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 3);
        assert_int_equal(r.peers[1].s.made.count, made);
        assert_int_equal(peer_status(&r.peers[1], "parked"), 2);
        assert_problem(&r.peers[1], "t", "its key would be another one in this file");
        rig_act(&r, 0, "DELETE FROM t WHERE v < 3");
        rig_share(&r);
        rig_assert_settled(&r);
        assert_same_tables(&r);
        rig_close(&r);
    }
}

/* The same column with another type elsewhere keeps the servers apart: why is said, on the server that converts, and that the schemas differ on both. */
static void test_types_that_differ_are_named(void **state) {
    (void)state;
    struct rig r;
    static const char *const WAL = "PRAGMA journal_mode=WAL";
    open_each(&r, (const char *[]){WAL, WAL},
              (const char *[]){"CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER, w)", "CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT, w)"});
    rig_act(&r, 0, "INSERT INTO t VALUES('a', NULL, 1), ('b', '581B', 2)");
    rig_share(&r); /* nothing is converted yet */
    char *text = peer_problems(&r.peers[1], "t");
    assert_string_equal(text, "");
    free(text);
    rig_act(&r, 0, "UPDATE t SET v = 7 WHERE k = 'a'");
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_rows(rig_app(&r, 1), "SELECT v FROM t ORDER BY k", "t7|;t581B|;");
    for (int round = 0; round < 2; round++) {
        assert_problem(&r.peers[1], "t", "column \"v\" is TEXT here and of another type on another server");
        assert_found(&r.peers[1], "\"v\" is TEXT", "same type on every server");
        peer_reopen(&r.peers[1]);
    }
    rig_act(&r, 1, "UPDATE t SET w = 5");
    peer_pull(&r.peers[0], &r.peers[1]);
    assert_found(&r.peers[0], "the schema of node", "same version of the application");
    rig_act(&r, 1,
            "BEGIN; CREATE TABLE n(k TEXT PRIMARY KEY, v INTEGER, w); INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO "
            "t; COMMIT");
    text = peer_problems(&r.peers[1], "t");
    assert_string_equal(text, "");
    free(text);
    rig_share(&r);
    assert_same_table(&r, "t");
    rig_close(&r);
}

/* A name like ours: left alone, and said; under another name it is a table like any other. */
static void test_a_table_with_a_name_like_ours(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY); CREATE TABLE _Starling_cache(k TEXT PRIMARY KEY)");
    rig_act(&r, 0, "INSERT INTO _starling_cache VALUES('a')");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_rows(rig_app(&r, 1), "SELECT count(*) FROM _starling_cache", "i0|;");
    assert_problem(&r.peers[0], "_Starling_cache", "begins with _starling_");
    assert_found(&r.peers[0], "begins with _starling_", "another name");
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "ALTER TABLE _starling_cache RENAME TO cache");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT k FROM cache", "ta|;");
    rig_close(&r);
}

/* Mended on the other side: then there is nothing to say any more. And a key that is another one is said on both. */
static void test_types_and_keys_that_are_mended_elsewhere(void **state) {
    (void)state;
    struct rig r;
    static const char *const WAL = "PRAGMA journal_mode=WAL";
    open_each(&r, (const char *[]){WAL, WAL},
              (const char *[]){"CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER); CREATE TABLE u(a TEXT PRIMARY KEY, b)",
                               "CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT); CREATE TABLE u(a TEXT, b, PRIMARY KEY(a, b))"});
    rig_act(&r, 0, "INSERT INTO t VALUES('a', 7); INSERT INTO u VALUES('x', 1)");
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_problem(&r.peers[1], "t", "column \"v\" is TEXT here and of another type on another server");
    rig_act(&r, 1, "UPDATE t SET v = 8");
    peer_pull(&r.peers[0], &r.peers[1]);
    for (uint32_t i = 0; i < 2; i++)
        assert_problem(&r.peers[i], "u", "has another primary key for it (column \"b\")");
    rig_act(&r, 0,
            "BEGIN; CREATE TABLE n(k TEXT PRIMARY KEY, v TEXT); INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; "
            "COMMIT");
    peer_pull(&r.peers[1], &r.peers[0]);
    for (uint32_t i = 0; i < 2; i++) {
        char *text = peer_problems(&r.peers[i], "t");
        assert_string_equal(text, "");
        free(text);
    }
    assert_same_table(&r, "t");
    rig_close(&r);
}

/* What SQLite does otherwise since there are triggers is said, and is no problem. */
static void test_what_triggers_change_is_said(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1, "CREATE TABLE s(k INTEGER PRIMARY KEY, a INT) STRICT; CREATE TABLE t(k INTEGER PRIMARY KEY, up REFERENCES T(k))");
    assert_problem(&r.peers[0], "s", "STRICT: where a table has triggers");
    assert_problem(&r.peers[0], "t", "refers to itself: where a table has triggers");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_autoincrement),
        cmocka_unit_test(test_autoincrement_of_rows_that_nobody_saw),
        cmocka_unit_test(test_autoincrement_of_rows_that_were_never_shown),
        cmocka_unit_test(test_two_thousand_columns),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_collations),
        cmocka_unit_test(test_functions_and_collations_of_the_application),
        cmocka_unit_test(test_references_in_circles),
        cmocka_unit_test(test_encodings),
        cmocka_unit_test(test_page_sizes_and_vacuums),
        cmocka_unit_test(test_invalid_text),
        cmocka_unit_test(test_values_that_waited_for_a_file_that_cannot_hold_them),
        cmocka_unit_test(test_keys_that_a_file_cannot_hold),
        cmocka_unit_test(test_types_that_differ_are_named),
        cmocka_unit_test(test_what_triggers_change_is_said),
        cmocka_unit_test(test_a_table_with_a_name_like_ours),
        cmocka_unit_test(test_types_and_keys_that_are_mended_elsewhere),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
