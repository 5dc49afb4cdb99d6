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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_row_that_dies_before_its_column_is_renamed),
        cmocka_unit_test(test_an_orphan_of_a_table_that_both_drop),
        cmocka_unit_test(test_a_write_that_such_a_death_had_not_seen),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
