/* The engine: what a migration writes into columns and tables that it makes, while others write there, too. */
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

/* Server 1 comes later with the same column, and fills it: what was written on server 0 since stays. */
static void test_a_backfill_does_not_undo_what_others_wrote(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) { /* one transaction or many; ADD COLUMN or a rebuild */
        static const char *const ADD[] = {
            "ALTER TABLE t ADD COLUMN c; UPDATE t SET c = 'f' || a", "BEGIN; ALTER TABLE t ADD COLUMN c; UPDATE t SET c = 'f' || a; COMMIT",
            "BEGIN; CREATE TABLE \"new__t\"(id INTEGER PRIMARY KEY, c, a); INSERT INTO \"new__t\"(id, c, a) SELECT id, 'f' || a, a FROM t;"
            "DROP TABLE t; ALTER TABLE \"new__t\" RENAME TO t; COMMIT",
            "CREATE TABLE _alembic_tmp_t(id INTEGER PRIMARY KEY, c, a); INSERT INTO _alembic_tmp_t(id, c, a) SELECT id, 'f' || a, a FROM t;"
            "DROP TABLE t; ALTER TABLE _alembic_tmp_t RENAME TO t"};
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
        rig_act(&r, 0, "INSERT INTO t(a) VALUES(1), (2), (3)");
        share_same(&r);
        rig_act(&r, 0, ADD[mode]);
        rig_act(&r, 0, "UPDATE t SET c = 'edited' WHERE id = 2");
        share(&r);
        uint32_t before = r.peers[1].s.made.count;
        rig_act(&r, 1, ADD[mode]);
        share_same(&r);
        assert_everywhere(&r, "SELECT id, a, c FROM t ORDER BY id", "i1|i1|tf1|;i2|i2|tedited|;i3|i3|tf3|;");
        assert_int_equal(rig_made_rows(&r, 1, before), 1); /* the one that differs, which is listed */
        assert_true(peer_lost(&r.peers[0], "c", "\"f2\"") && peer_lost(&r.peers[1], "c", "\"f2\""));
        rig_act(&r, 1, "UPDATE t SET c = 'known' WHERE id IN (1, 2)");
        share_same(&r);
        assert_everywhere(&r, "SELECT c FROM t ORDER BY id", "tknown|;tknown|;tf3|;");
        assert_int_equal(conflicts(&r), 0);
        rig_close(&r);
    }
}

/* Both make the same new table, each with its first rows, one server long after the other. */
static void test_a_new_table_with_its_first_rows(void **state) {
    (void)state;
    static const char *const NEW =
        "CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE setting(k TEXT PRIMARY KEY, v);"
        "INSERT INTO role(name) VALUES('admin'), ('scout'), ('guest'); INSERT INTO setting VALUES('lang', 'en'), "
        "('color', 'blue'), ('size', 'big')";
    for (int restart = 0; restart < 2; restart++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
        rig_act(&r, 0, NEW);
        rig_act(&r, 0,
                "UPDATE setting SET v = 'red' WHERE k = 'color'; DELETE FROM setting WHERE k = 'size'; INSERT INTO setting VALUES('x', 1)");
        share(&r);
        assert_problem(&r.peers[1], "role", "the application has no such table here");
        restart_between(&r, 1, NEW, restart);
        share_same(&r);
        assert_everywhere(&r, "SELECT id, name FROM role ORDER BY id", "i1|tadmin|;i2|tscout|;i3|tguest|;");
        assert_everywhere(&r, "SELECT k, v FROM setting ORDER BY k", "tcolor|tred|;tlang|ten|;tx|i1|;");
        rig_act(&r, 1, "UPDATE role SET name = 'chief' WHERE id = 1; UPDATE setting SET v = 'de' WHERE k = 'lang'");
        share_same(&r);
        assert_everywhere(&r, "SELECT name FROM role WHERE id = 1", "tchief|;");
        rig_close(&r);
    }
}

/* Django makes a column that can be neither NULL nor a default of the schema's, and fills it in by itself, on each server alike: nobody wrote that over
 * anything, and it is no conflict where somebody edits it at once. Renamed since, or not. */
static void test_a_default_that_a_migration_fills_in(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) {
        static const char *const FILL =
            "BEGIN; CREATE TABLE new__t(id INTEGER PRIMARY KEY, a, isbn VARCHAR(20) NOT NULL); INSERT INTO new__t "
            "SELECT id, a, 'none' FROM t; DROP TABLE t; ALTER TABLE new__t RENAME TO t; COMMIT";
        const char *name = mode & 1 ? "ean" : "isbn";
        char *edit = sqlite3_mprintf("UPDATE t SET %s = 'edited' WHERE id = 2", name),
             *look = sqlite3_mprintf("SELECT a, %s FROM t ORDER BY id", name);
        struct rig r;
        rig_open(&r, 2,
                 mode & 2 ? "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t(a) VALUES(1), (2), (3)"
                          : "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
        if (!(mode & 2))
            rig_act(&r, 0, "INSERT INTO t(a) VALUES(1), (2), (3)");
        share_same(&r);
        rig_act(&r, 0, FILL);
        rig_act(&r, 0, "UPDATE t SET isbn = 'mine' WHERE id = 3");
        if (mode & 1)
            rig_act(&r, 0, "ALTER TABLE t RENAME COLUMN isbn TO ean");
        rig_share(&r);
        app_exec(rig_app(&r, 1), FILL);
        if (mode & 1)
            app_exec(rig_app(&r, 1), "ALTER TABLE t RENAME COLUMN isbn TO ean");
        peer_rest(&r.peers[1]);
        rig_act(&r, 1, edit);
        share_same(&r);
        assert_everywhere(&r, look, "i1|tnone|;i2|tedited|;i3|tmine|;");
        assert_int_equal(conflicts(&r), 0);
        sqlite3_free(edit);
        sqlite3_free(look);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_backfill_does_not_undo_what_others_wrote),
        cmocka_unit_test(test_a_new_table_with_its_first_rows),
        cmocka_unit_test(test_a_default_that_a_migration_fills_in),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
