/* The engine: what rows met, and were to meet, when their table or column gets another name, or is made anew. */
#include "store_rig.h"

static void share(struct rig *r) {
    rig_share(r);
    rig_time_passes(r);
    rig_tick();
}

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static size_t conflicts(struct rig *r) {
    size_t n = 0;
    for (uint32_t i = 0; i < r->count; i++)
        n += peer_conflicts(&r->peers[i]);
    return n;
}

/* The death met all that the row held, under whatever name: the copy of somebody who renames without having heard of it is no write. */
static void test_a_row_that_dies_before_its_column_is_renamed(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) { /* there before the nodes, or not; written over before it died, or not */
        struct rig r;
        rig_open(&r, 2,
                 mode & 1 ? "CREATE TABLE t(k INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 'old'), (2, 'stays')"
                          : "CREATE TABLE t(k INTEGER PRIMARY KEY, a)");
        if (!(mode & 1))
            rig_act(&r, 0, "INSERT INTO t VALUES(1, 'old'), (2, 'stays')");
        share(&r);
        if (mode & 2)
            rig_act(&r, 0, "UPDATE t SET a = 'new' WHERE k = 1");
        rig_act(&r, 0, "DELETE FROM t WHERE k = 1");
        rig_act(&r, 1, "ALTER TABLE t RENAME COLUMN a TO b");
        rig_act(&r, 0, "ALTER TABLE t RENAME COLUMN a TO b");
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM t", "i2|tstays|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* But what its author had not seen is open, under the name that it was written under. */
static void test_a_write_that_such_a_death_had_not_seen(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, a)");
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 'old')");
    share(&r);
    rig_act(&r, 0, "DELETE FROM t WHERE k = 1");
    rig_act(&r, 1, "UPDATE t SET a = 'met' WHERE k = 1");
    rig_act(&r, 1, "ALTER TABLE t RENAME COLUMN a TO b");
    rig_act(&r, 0, "ALTER TABLE t RENAME COLUMN a TO b");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "");
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_conflicts(&r.peers[i]) == 1 && peer_lost(&r.peers[i], "a", "\"met\""));
    rig_close(&r);
}

/* A row on its way comes with its key, whatever the columns of that are called by then. */
static void test_a_row_that_comes_after_its_key_was_renamed(void **state) {
    static const char *const TABLES[] = {"CREATE TABLE t(k INTEGER, l INT, a, PRIMARY KEY(k, l))",
                                         "CREATE TABLE t(k TEXT PRIMARY KEY, l, a)",
                                         "CREATE TABLE t(k INTEGER NOT NULL, l TEXT NOT NULL, a, PRIMARY KEY(l, k)) WITHOUT ROWID",
                                         "CREATE TABLE t(k INTEGER PRIMARY KEY, l, a)"};
    (void)state;
    for (size_t n = 0; n < sizeof TABLES / sizeof *TABLES; n++)
        for (int mode = 0; mode < 4; mode++) { /* the author, too, at once or later; merged before, and shown from the registers, or not */
            struct rig r;
            rig_open(&r, 2, TABLES[n]);
            rig_act(&r, 0, "INSERT INTO t VALUES(1, 2, 3)");
            if (mode & 1)
                app_exec(rig_app(&r, 0), "ALTER TABLE t RENAME COLUMN k TO z");
            if (mode & 2) {
                app_exec(rig_app(&r, 1), "BEGIN IMMEDIATE");
                peer_queue(&r.peers[1], &r.peers[0]);
                for (int i = 0; i < 10; i++)
                    peer_turn(&r.peers[1]);
                app_exec(rig_app(&r, 1), "ALTER TABLE t RENAME COLUMN k TO z; COMMIT");
                peer_reopen(&r.peers[1]);
            } else {
                app_exec(rig_app(&r, 1), "ALTER TABLE t RENAME COLUMN k TO z");
            }
            rig_share(&r);
            if (!(mode & 1))
                app_exec(rig_app(&r, 0), "ALTER TABLE t RENAME COLUMN k TO z");
            share_same(&r);
            assert_everywhere(&r, "SELECT CAST(z AS INTEGER), CAST(l AS INTEGER), a FROM t", "i1|i2|i3|;");
            assert_int_equal(conflicts(&r), 0);
            rig_act(&r, 1, "UPDATE t SET a = 4 WHERE z = 1");
            share_same(&r);
            assert_everywhere(&r, "SELECT a FROM t", "i4|;");
            rig_close(&r);
        }
}

/* Its number was that of several rows that are gone, and of nobody when it came: with the new name it stays who it is. */
static void test_a_row_named_after_nobody_beside_its_tables_rename(void **state) {
    (void)state;
    for (uint32_t first = 0; first < 2; first++) {
        struct rig r;
        rig_open(&r, 2,
                 "CREATE TABLE h(k INTEGER PRIMARY KEY, p REFERENCES h(k)); CREATE TABLE d(k INTEGER PRIMARY KEY REFERENCES h(k), z)");
        rig_act(&r, 0, "INSERT INTO d VALUES(6, 'stays')");
        rig_act(&r, 0, "INSERT INTO h VALUES(8, 6)");
        share(&r);
        rig_act(&r, 0, "UPDATE h SET k = 4 WHERE k = 8");
        rig_act(&r, 0, "INSERT INTO h(p) VALUES(NULL)");
        rig_act(&r, 0, "INSERT INTO h(p) VALUES(NULL)");
        rig_act(&r, 0, "DELETE FROM h");
        share(&r);
        rig_act(&r, 0, "INSERT INTO h VALUES(3, 6)");
        rig_act(&r, 0, "INSERT INTO h VALUES(6, 5)");
        rig_act(&r, 0, "UPDATE h SET k = 5 WHERE k = 6");
        share(&r);
        rig_act(&r, first, "ALTER TABLE d RENAME TO e");
        rig_act(&r, !first, "ALTER TABLE d RENAME TO e");
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM e", "i6|tstays|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Emptied before it was rebuilt; what others wrote meanwhile was never in it, and says nothing of that. */
static void test_a_table_that_was_emptied_before_its_rebuild(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, a)");
    rig_act(&r, 1, "INSERT INTO t VALUES(1, 'goes')");
    share(&r);
    rig_act(&r, 0, "INSERT INTO t VALUES(2, 'comes'), (3, 'comes')");
    app_exec(rig_app(&r, 1), "DELETE FROM t; CREATE TABLE n(k INTEGER PRIMARY KEY, a); INSERT INTO n SELECT * FROM t;"
                             "DROP TABLE t; ALTER TABLE n RENAME TO t");
    peer_queue(&r.peers[1], &r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT k FROM t", "i2|;i3|;");
    rig_close(&r);
}

/* Deleted before anybody looked: under the old name its author had it before him, wherever it came from. */
static void test_a_row_that_dies_beside_its_tables_rename(void **state) {
    static const struct {
        const char *table, *before, *after, *gone;
    } CASES[] = {
        {"CREATE TABLE t(k INTEGER PRIMARY KEY, a)", "", "ALTER TABLE t RENAME TO u", "DELETE FROM u WHERE k = 1"},
        {"CREATE TABLE t(k INTEGER PRIMARY KEY, a)", "DELETE FROM t WHERE k = 1", "ALTER TABLE t RENAME TO u", ""},
        {"CREATE TABLE t(k TEXT PRIMARY KEY, a)", "", "ALTER TABLE t RENAME TO u", "DELETE FROM u WHERE k = '1'"},
        {"CREATE TABLE t(k TEXT PRIMARY KEY, a)", "DELETE FROM t WHERE k = '1'", "ALTER TABLE t RENAME TO u", ""},
        {"CREATE TABLE t(k INT PRIMARY KEY, a)", "DELETE FROM t WHERE k = 1",
         "CREATE TABLE n(k INTEGER PRIMARY KEY, a); INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t;"
         "CREATE VIEW u AS SELECT * FROM t",
         ""},
        {"CREATE TABLE t(k INTEGER PRIMARY KEY, a)", "DELETE FROM t WHERE k = 1",
         "CREATE TABLE n(k, a, PRIMARY KEY(k, a)); INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t;"
         "CREATE VIEW u AS SELECT * FROM t",
         ""},
    };
    (void)state;
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++)
        for (uint32_t who = 0; who < 2; who++) {
            struct rig r;
            rig_open(&r, 2, CASES[n].table);
            rig_act(&r, 0, "INSERT INTO t VALUES(1, 'goes'), (2, 'stays')");
            share(&r);
            app_exec(rig_app(&r, who), CASES[n].before);
            for (uint32_t i = 0; i < 2; i++)
                app_exec(rig_app(&r, i), CASES[n].after);
            app_exec(rig_app(&r, who), CASES[n].gone);
            share_same(&r);
            assert_everywhere(&r, "SELECT a FROM u", "tstays|;");
            if (conflicts(&r))
                fail_msg("case %zu, deleted by %u: %zu conflicts", n, who, conflicts(&r));
            rig_close(&r);
        }
}

/* It is merged where the table is gone already: what a reference means is then told as the number that its author had. */
static void test_an_orphan_of_a_table_that_both_drop(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, p REFERENCES t(k)); INSERT INTO t VALUES(1, 2), (2, NULL)");
    rig_act(&r, 0, "DELETE FROM t");
    share(&r);
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 2)");
    rig_act(&r, 0, "DROP TABLE t");
    rig_act(&r, 1, "DROP TABLE t");
    rig_share(&r);
    rig_assert_settled(&r);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "CREATE TABLE t(k INTEGER PRIMARY KEY, p REFERENCES t(k))");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t", "i1|i2|;");
    rig_close(&r);
}

/* What is read under the new name for the first time is told as it is written now. */
static void test_a_key_that_is_written_otherwise_after_a_rename(void **state) {
    (void)state;
    for (uint32_t who = 0; who < 2; who++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE, a)");
        rig_act(&r, 0, "INSERT INTO t VALUES('key', 1)");
        share(&r);
        for (uint32_t i = 0; i < 2; i++)
            app_exec(rig_app(&r, i), "ALTER TABLE t RENAME TO u");
        app_exec(rig_app(&r, who), "UPDATE u SET k = 'KEY'");
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM u", "tKEY|i1|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Rows that no key names, on both sides of a rename: they stay who they are, and those that went are gone, whatever noted it. */
static void test_rows_without_a_key_beside_a_rename(void **state) {
    static const struct {
        const char *before, *after, *want;
    } CASES[] = {
        {"DELETE FROM t WHERE a < 3", "", "i3|i30|;i4|i40|;"},
        {"DELETE FROM t", "", ""},
        {"", "DELETE FROM u WHERE a < 3", "i3|i30|;i4|i40|;"},
        {"UPDATE t SET b = 11 WHERE a = 1", "UPDATE u SET b = 22 WHERE a = 2", "i1|i11|;i2|i22|;i3|i30|;i4|i40|;"},
        {"INSERT INTO t VALUES(5, 50)", "INSERT INTO u VALUES(6, 60)", "i1|i10|;i2|i20|;i3|i30|;i4|i40|;i5|i50|;i6|i60|;"},
        {"DELETE FROM t WHERE a = 4; INSERT INTO t VALUES(5, 50)", "DELETE FROM u WHERE a = 5; INSERT INTO u VALUES(6, 60)",
         "i1|i10|;i2|i20|;i3|i30|;i6|i60|;"},
        {"DELETE FROM t WHERE a = 1; VACUUM", "", "i2|i20|;i3|i30|;i4|i40|;"},
        {"", "DELETE FROM u WHERE a = 1; VACUUM; INSERT INTO u VALUES(5, 50)", "i2|i20|;i3|i30|;i4|i40|;i5|i50|;"},
    };
    (void)state;
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++)
        for (int mode = 0; mode < 12; mode++) { /* who writes; what is drained at once; the other one renames first, last or meanwhile */
            uint32_t who = mode & 1, other = !who;
            struct rig r;
            rig_open(&r, 2, "CREATE TABLE t(a, b)");
            rig_act(&r, 0, "INSERT INTO t VALUES(1, 10), (2, 20), (3, 30), (4, 40)");
            share(&r);
            if (mode / 4 == 0)
                rig_act(&r, other, "ALTER TABLE t RENAME TO u");
            if (mode / 4 == 2)
                app_exec(rig_app(&r, other), "ALTER TABLE t RENAME TO u");
            app_exec(rig_app(&r, who), CASES[n].before);
            if (mode & 2)
                peer_turn(&r.peers[who]);
            app_exec(rig_app(&r, who), "ALTER TABLE t RENAME TO u");
            if (mode & 2)
                peer_turn(&r.peers[who]);
            app_exec(rig_app(&r, who), CASES[n].after);
            if (mode / 4 == 1) {
                peer_rest(&r.peers[who]);
                rig_act(&r, other, "ALTER TABLE t RENAME TO u");
            }
            share_same(&r);
            assert_everywhere(&r, "SELECT * FROM u ORDER BY a", CASES[n].want);
            if (conflicts(&r))
                fail_msg("case %zu, mode %d: %zu conflicts", n, mode, conflicts(&r));
            rig_close(&r);
        }
}

/* The same of a column. */
static void test_rows_without_a_key_beside_a_renamed_column(void **state) {
    (void)state;
    for (int mode = 0; mode < 12; mode++) {
        uint32_t who = mode & 1, other = !who;
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(a, b)");
        rig_act(&r, 0, "INSERT INTO t VALUES(1, 10), (2, 20), (3, 30), (4, 40)");
        share(&r);
        if (mode / 4 == 0)
            rig_act(&r, other, "ALTER TABLE t RENAME COLUMN b TO c");
        if (mode / 4 == 2)
            app_exec(rig_app(&r, other), "ALTER TABLE t RENAME COLUMN b TO c");
        app_exec(rig_app(&r, who), "UPDATE t SET b = 11 WHERE a = 1");
        if (mode & 2)
            peer_turn(&r.peers[who]);
        app_exec(rig_app(&r, who), "ALTER TABLE t RENAME COLUMN b TO c");
        if (mode & 2)
            peer_turn(&r.peers[who]);
        app_exec(rig_app(&r, who), "UPDATE t SET c = 22 WHERE a = 2; UPDATE t SET a = 33 WHERE a = 3; DELETE FROM t WHERE a = 4");
        if (mode / 4 == 1) {
            peer_rest(&r.peers[who]);
            rig_act(&r, other, "ALTER TABLE t RENAME COLUMN b TO c");
        }
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM t ORDER BY a", "i1|i11|;i2|i22|;i33|i30|;");
        if (conflicts(&r))
            fail_msg("mode %d: %zu conflicts", mode, conflicts(&r));
        rig_close(&r);
    }
}

/* Thrown out by REPLACE, which no note tells. */
static void test_a_row_without_a_key_that_was_thrown_out_before_a_rename(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(a, b UNIQUE)");
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 10), (2, 20)");
    share(&r);
    app_exec(rig_app(&r, 0), "REPLACE INTO t VALUES(3, 20)");
    for (uint32_t i = 0; i < 2; i++)
        app_exec(rig_app(&r, i), "ALTER TABLE t RENAME TO u");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM u ORDER BY a", "i1|i10|;i3|i20|;");
    assert_int_equal(conflicts(&r), 0);
    rig_close(&r);
}

/* A column is renamed, and then its table made anew, twice; the node looks at any moment of it, or at none. */
static void test_a_renamed_column_and_then_rebuilds(void **state) {
    static const char *const STEPS[] = {
        "ALTER TABLE t RENAME COLUMN a TO b",
        "BEGIN; CREATE TABLE new__t(k TEXT PRIMARY KEY, b, n BIGINT); INSERT INTO new__t SELECT k, b, n FROM t; DROP TABLE t; ALTER "
        "TABLE "
        "new__t RENAME TO t; COMMIT",
        "BEGIN; CREATE TABLE new__t(k TEXT PRIMARY KEY, n BIGINT, b, CHECK (n < 1000)); INSERT INTO new__t SELECT k, n, b FROM t; DROP "
        "TABLE "
        "t; ALTER TABLE new__t RENAME TO t; COMMIT"};
    (void)state;
    for (int mode = 0; mode < 64; mode++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, a, n INT)");
        rig_act(&r, 1, "INSERT INTO t VALUES('one', 1, 1), ('two', 2, 2), ('three', 3, 3), ('four', 4, 4), ('five', 5, 5)");
        share(&r);
        for (int i = 0; i < 3; i++)
            rig_act(&r, 0, STEPS[i]);
        share(&r);
        rig_act(&r, 1, "UPDATE t SET a = 11 WHERE k = 'one'");
        if (mode & 32)
            share(&r);
        app_exec(rig_app(&r, 1), "UPDATE t SET a = 22 WHERE k = 'two'");
        if (mode & 1)
            peer_turn(&r.peers[1]);
        for (int i = 0; i < 3; i++) {
            app_exec(rig_app(&r, 1), STEPS[i]);
            for (int n = 0; n < 3 && (mode & 2 << i); n++)
                peer_turn(&r.peers[1]);
            if (i < 2 && (mode & 16))
                app_exec(rig_app(&r, 1), i ? "UPDATE t SET b = 33 WHERE k = 'three'" : "UPDATE t SET n = 44 WHERE k = 'four'");
        }
        share_same(&r);
        assert_everywhere(&r, "SELECT b FROM t WHERE k < 'three' ORDER BY k", "i5|;i4|;i11|;");
        assert_everywhere(&r, "SELECT b, n FROM t WHERE k >= 'three' ORDER BY k", mode & 16 ? "i33|i3|;i22|i2|;" : "i3|i3|;i22|i2|;");
        if (conflicts(&r))
            fail_msg("mode %d: %zu conflicts", mode, conflicts(&r));
        rig_close(&r);
    }
}

/* The old value in its new type is no write: what others wrote meanwhile is newer, whether it is merged already or not. */
static void test_a_column_that_gets_another_type(void **state) {
    static const char *const REBUILD[] = {"BEGIN; CREATE TABLE tmp(k TEXT PRIMARY KEY, a TEXT, b); INSERT INTO tmp SELECT k, a, b FROM t; "
                                          "DROP TABLE t; ALTER TABLE tmp RENAME TO "
                                          "t; COMMIT",
                                          "BEGIN; CREATE TABLE tmp(k TEXT PRIMARY KEY, a INTEGER, b); INSERT INTO tmp SELECT k, a, b FROM "
                                          "t; DROP TABLE t; ALTER TABLE tmp RENAME "
                                          "TO t; COMMIT"};
    (void)state;
    for (int mode = 0; mode < 16;
         mode++) { /* to text, or to a number; it comes before, while or after the node looks; another column is written */
        struct rig r;
        bool number = mode & 1;
        rig_open(&r, 2, number ? "CREATE TABLE t(k TEXT PRIMARY KEY, a TEXT, b)" : "CREATE TABLE t(k TEXT PRIMARY KEY, a INTEGER, b)");
        rig_act(&r, 0, "INSERT INTO t VALUES('one', 1, 1), ('two', 2, 1), ('three', 3, 1)");
        share(&r);
        rig_act(&r, 0, "UPDATE t SET a = 7 WHERE k = 'one'");
        rig_tick();
        if ((mode >> 1 & 3) == 0)
            peer_queue(&r.peers[1], &r.peers[0]);
        app_exec(rig_app(&r, 1), REBUILD[number]);
        if ((mode >> 1 & 3) < 2)
            peer_turn(&r.peers[1]);
        if ((mode >> 1 & 3) == 1)
            peer_queue(&r.peers[1], &r.peers[0]);
        for (int i = 0; i < 3 && (mode >> 1 & 3) < 3; i++)
            peer_turn(&r.peers[1]);
        if (mode & 8)
            app_exec(rig_app(&r, 1), "UPDATE t SET b = 2 WHERE k = 'one'");
        peer_rest(&r.peers[1]);
        for (uint32_t i = 0; i < 4; i++) /* with two types there are two digests */
            peer_pull(&r.peers[i & 1], &r.peers[!(i & 1)]);
        rig_time_passes(&r);
        rig_act(&r, 0, REBUILD[number]);
        share_same(&r);
        assert_everywhere(&r, "SELECT a FROM t ORDER BY k", number ? "i7|;i3|;i2|;" : "t7|;t3|;t2|;");
        if (conflicts(&r))
            fail_msg("mode %d: %zu conflicts", mode, conflicts(&r));
        rig_close(&r);
    }
}

/* Rows that change places die under their old keys, though each key has a row again. */
static void test_keys_that_change_places_before_a_rename(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a'), (2, 'b'), (3, 'c')");
    rig_act(&r, 1, "UPDATE t SET k = 9 WHERE k = 1; UPDATE t SET k = 1 WHERE k = 2; UPDATE t SET k = 2 WHERE k = 9");
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "ALTER TABLE t RENAME TO u");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM u", "i1|tb|;i2|ta|;i3|tc|;");
    assert_int_equal(conflicts(&r), 0);
    rig_close(&r);
}

/* What it meant is gone where it is carried last, and another row has its number: two copies of one write. */
static void test_a_reference_whose_row_changes_before_a_rename(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, g INTEGER REFERENCES t); INSERT INTO t VALUES(1, NULL), (4, 4), (6, 6)");
    rig_act(&r, 1, "UPDATE t SET g = 1");
    share_same(&r);
    rig_act(&r, 1, "UPDATE OR REPLACE t SET k = 1 WHERE k = 4");
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, "ALTER TABLE t RENAME TO u");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM u", "i1|i1|;i6|i1|;");
    assert_int_equal(conflicts(&r), 0);
    rig_close(&r);
}

/* Tables that take each other's names: no name says which rows are meant where servers migrate one by one, so what was under a name is shown under it again,
 * and nothing that anybody wrote is lost. */
static void names_change(const char *tables, const char *change, const char *first, const char *second) {
    for (int mode = 0; mode < 8; mode++) { /* heard of before the other migrates, or not; and what he wrote; at once, or later */
        struct rig r;
        rig_open(&r, 2, tables);
        rig_act(&r, 0, change);
        if (mode & 1)
            rig_share(&r);
        if (mode & 4) /* then nothing is read again soon after the other has migrated */
            side_skip(70000);
        rig_act(&r, 1, first);
        rig_act(&r, 0, second);
        if (mode & 2)
            rig_share(&r);
        rig_act(&r, 1, change);
        share_same(&r);
        bool open[] = {peer_lost(&r.peers[0], "v", "\"first\""), peer_lost(&r.peers[0], "v", "\"second\"")};
        for (uint32_t i = 0; i < 2; i++) {
            assert_true(open[0] || app_int(rig_app(&r, i), "SELECT 'first' IN (SELECT v FROM x UNION ALL SELECT v FROM y)"));
            assert_true(open[1] || app_int(rig_app(&r, i), "SELECT 'second' IN (SELECT v FROM x UNION ALL SELECT v FROM y)"));
        }
        uint32_t made = r.peers[0].s.made.count; /* what was overlooked is found within the hour */
        for (int64_t until = clock_us() + 4000LL * 1000000; clock_us() < until && mode < 4; side_skip(2000))
            peer_turn(&r.peers[0]);
        assert_int_equal(rig_made_rows(&r, 0, made), 0);
        for (uint32_t i = 0; i < 2; i++)
            if (strstr(r.peers[i].log, "without a note"))
                fail_msg("mode %d: server %u, what it read was not what it shows:\n%s", mode, i, r.peers[i].log);
        rig_close(&r);
    }
}

static void test_tables_that_take_each_others_names(void **state) {
    (void)state;
    static const char SWAP[] = "BEGIN; ALTER TABLE x RENAME TO z; ALTER TABLE y RENAME TO x; ALTER TABLE z RENAME TO y; COMMIT";
    names_change(
        "CREATE TABLE x(id TEXT PRIMARY KEY, v); CREATE TABLE y(id TEXT PRIMARY KEY, v); INSERT INTO x VALUES('x', 1); INSERT INTO y "
        "VALUES('y', 1), ('y2', 2)",
        SWAP, "UPDATE y SET v = 'first' WHERE id = 'y'", "UPDATE y SET v = 'second' WHERE id = 'x'");
    names_change("CREATE TABLE x(id INTEGER PRIMARY KEY, v); CREATE TABLE y(id INTEGER PRIMARY KEY, v); INSERT INTO x(v) VALUES('x1'); "
                 "INSERT INTO "
                 "y(v) VALUES('y1'), ('y2')",
                 SWAP, "UPDATE y SET v = 'first' WHERE v = 'y2'", "UPDATE y SET v = 'second' WHERE v = 'x1'");
    names_change(
        "CREATE TABLE w(id TEXT PRIMARY KEY, v); CREATE TABLE x(id TEXT PRIMARY KEY, v); INSERT INTO w VALUES('w', 1); INSERT INTO x "
        "VALUES('x', 1), ('x2', 2)",
        "ALTER TABLE x RENAME TO y; ALTER TABLE w RENAME TO x", "UPDATE x SET v = 'first' WHERE id = 'x2'",
        "UPDATE x SET v = 'second' WHERE id = 'w'");
}

/* Keys in which a row stands that is known by its birth (an association of two tables): they stay the same when the table of that row gets another name, on
 * whatever server first, and for who never knew it under the old one. */
static void key_of_renamed(const char *child, bool there_before) {
    static const char ROWS[] = "INSERT INTO u(n) VALUES('a'), ('b'), ('c'); INSERT INTO ur(u, r, x) VALUES(1, 7, 0), (2, 8, 0), (3, 9, 0)";
    struct rig r;
    rig_start(&r, 3);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r.peers[i].s), SQLITE_OK);
        app_exec(rig_app(&r, i), "CREATE TABLE u(id INTEGER PRIMARY KEY, n)");
        app_exec(rig_app(&r, i), child);
        if (there_before)
            app_exec(rig_app(&r, i), ROWS);
        peer_open(&r.peers[i]);
    }
    assert_int_equal(side_open_app(&r.peers[2].s), SQLITE_OK);
    app_exec(rig_app(&r, 2), "CREATE TABLE u(id INTEGER PRIMARY KEY, n)");
    app_exec(rig_app(&r, 2), child);
    app_exec(rig_app(&r, 2), "ALTER TABLE u RENAME TO v"); /* so it was made there */
    if (!there_before)
        rig_act(&r, 0, ROWS);
    peer_rest(&r.peers[0]);
    peer_pull(&r.peers[1], &r.peers[0]);
    rig_tick();
    rig_act(&r, 0, "ALTER TABLE u RENAME TO v");
    peer_retry(&r.peers[0]);
    rig_act(&r, 0, "UPDATE ur SET x = 1 WHERE u = 1; INSERT INTO v(n) VALUES('d'); INSERT INTO ur(u, r, x) VALUES(4, 1, 0)");
    peer_pull(&r.peers[1], &r.peers[0]); /* who has not renamed it yet */
    rig_act(&r, 1, "UPDATE ur SET x = 2 WHERE u = 2; DELETE FROM ur WHERE u = 3");
    rig_act(&r, 1, "ALTER TABLE u RENAME TO v");
    peer_retry(&r.peers[1]);
    peer_pull(&r.peers[0], &r.peers[1]);
    peer_reopen(&r.peers[0]);
    peer_open(&r.peers[2]);
    for (int i = 0; i < 4; i++)
        peer_pull(&r.peers[2], &r.peers[i % 2]);
    share_same(&r);
    assert_everywhere(&r, "SELECT u, r, x FROM ur ORDER BY u", "i1|i7|i1|;i2|i8|i2|;i4|i1|i0|;");
    for (uint32_t i = 0; i < 3; i++) {
        char *sql =
            sqlite3_mprintf("UPDATE ur SET x = x + 10 WHERE u = %u; UPDATE ur SET x = x + 100; INSERT INTO ur(u, r, x) VALUES(3, %u, "
                            "0); DELETE FROM ur WHERE u = 3 AND r = %u",
                            1 + i % 2, i, i);
        rig_act(&r, i, sql);
        sqlite3_free(sql);
        share_same(&r);
    }
    for (uint32_t i = 0; i < 3; i++)
        rig_act(&r, i, "ALTER TABLE v RENAME TO w");
    share_same(&r);
    rig_act(&r, 2, "DELETE FROM ur WHERE u = 2; UPDATE ur SET x = 0");
    share_same(&r);
    assert_everywhere(&r, "SELECT u, r, x FROM ur ORDER BY u", "i1|i7|i0|;i4|i1|i0|;");
    assert_int_equal(conflicts(&r), 0);
    rig_close(&r);
}

static void test_keys_of_what_refers_to_a_renamed_table(void **state) {
    (void)state;
    for (int before = 0; before < 2; before++) {
        key_of_renamed("CREATE TABLE ur(u INT REFERENCES u, r INT, x, PRIMARY KEY(u, r))", before);
        key_of_renamed("CREATE TABLE ur(u INTEGER REFERENCES u ON DELETE CASCADE, r, x, PRIMARY KEY(u)) WITHOUT ROWID", before);
        key_of_renamed("CREATE TABLE ur(u INTEGER PRIMARY KEY REFERENCES u, r, x)", before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_row_that_dies_before_its_column_is_renamed),
        cmocka_unit_test(test_an_orphan_of_a_table_that_both_drop),
        cmocka_unit_test(test_a_key_that_is_written_otherwise_after_a_rename),
        cmocka_unit_test(test_rows_without_a_key_beside_a_rename),
        cmocka_unit_test(test_rows_without_a_key_beside_a_renamed_column),
        cmocka_unit_test(test_a_row_without_a_key_that_was_thrown_out_before_a_rename),
        cmocka_unit_test(test_a_renamed_column_and_then_rebuilds),
        cmocka_unit_test(test_a_column_that_gets_another_type),
        cmocka_unit_test(test_keys_that_change_places_before_a_rename),
        cmocka_unit_test(test_a_reference_whose_row_changes_before_a_rename),
        cmocka_unit_test(test_a_write_that_such_a_death_had_not_seen),
        cmocka_unit_test(test_a_row_that_comes_after_its_key_was_renamed),
        cmocka_unit_test(test_a_row_named_after_nobody_beside_its_tables_rename),
        cmocka_unit_test(test_a_table_that_was_emptied_before_its_rebuild),
        cmocka_unit_test(test_a_row_that_dies_beside_its_tables_rename),
        cmocka_unit_test(test_tables_that_take_each_others_names),
        cmocka_unit_test(test_keys_of_what_refers_to_a_renamed_table),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
