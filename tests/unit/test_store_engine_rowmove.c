/* The engine: the application gives rows other numbers; what others wrote for them meanwhile follows. */
#include "store_rig.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); CREATE TABLE child(id INTEGER PRIMARY KEY, t INTEGER REFERENCES t(id) ON UPDATE "       \
    "CASCADE "                                                                                                                             \
    "ON DELETE CASCADE, v); CREATE TABLE tag(t INTEGER REFERENCES t(id) ON UPDATE CASCADE ON DELETE CASCADE, label TEXT, v, "              \
    "PRIMARY KEY(t, label)); CREATE TABLE face(t INTEGER PRIMARY KEY REFERENCES t(id) ON UPDATE CASCADE ON DELETE CASCADE, v)"

static void share(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    assert_everywhere(r, "PRAGMA foreign_key_check", "");
    rig_time_passes(r);
}

static void restart(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        peer_reopen(&r->peers[i]);
    share(r);
}

static void open_three(struct rig *r) {
    rig_open(r, 3, TABLES);
    for (uint32_t i = 0; i < 3; i++)
        rig_act(r, i, "PRAGMA foreign_keys=ON");
    rig_act(r, 0,
            "INSERT INTO t(v) VALUES('a'), ('b'), ('c'); INSERT INTO child(t, v) VALUES(1, 'of a'), (2, 'of b'); INSERT INTO tag "
            "VALUES(1, 'l', 'of a'), (2, 'l', 'of b'); INSERT INTO face VALUES(1, 'of a'), (3, 'of c')");
    share(r);
}

#define WHO                                                                                                                                \
    "SELECT t.v, child.v FROM t JOIN child ON child.t = t.id UNION ALL SELECT t.v, tag.v FROM t JOIN tag ON tag.t = t.id UNION ALL "       \
    "SELECT "                                                                                                                              \
    "t.v, face.v FROM t JOIN face ON face.t = t.id ORDER BY 1, 2"

/* References that others write meanwhile go on meaning the row; so do their changes to it. */
static void test_a_new_number(void **state) {
    (void)state;
    struct rig r;
    open_three(&r);
    rig_act(&r, 0, "UPDATE t SET id = 900 WHERE id = 1");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO child(t, v) VALUES(1, 'new'); UPDATE t SET w = 'w' WHERE id = 1; INSERT INTO tag VALUES(1, 'm', 'new')");
    share(&r);
    assert_everywhere(&r, "SELECT id, v, w FROM t ORDER BY id", "i2|tb|n|;i3|tc|n|;i900|ta|tw|;");
    assert_everywhere(&r, WHO, "ta|tnew|;ta|tnew|;ta|tof a|;ta|tof a|;ta|tof a|;tb|tof b|;tb|tof b|;tc|tof c|;");
    restart(&r);
    rig_act(&r, 2, "UPDATE t SET id = 1 WHERE id = 900");
    share(&r);
    assert_everywhere(&r, "SELECT id FROM t WHERE v = 'a'", "i1|;");
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(peer_conflicts(&r.peers[i]), 0);
    rig_close(&r);
}

/* Two rows change places, in one transaction or in several. */
static void test_a_swap(void **state) {
    (void)state;
    for (int apart = 0; apart < 2; apart++) {
        struct rig r;
        open_three(&r);
        rig_act(&r, 0,
                apart ? "UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1"
                      : "BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = "
                        "-1; COMMIT");
        rig_tick();
        rig_act(&r, 1, "UPDATE t SET w = 'a' WHERE id = 1; UPDATE t SET w = 'b' WHERE id = 2; INSERT INTO child(t, v) VALUES(2, 'of b')");
        share(&r);
        assert_everywhere(&r, "SELECT id, v, w FROM t ORDER BY id", "i1|tb|tb|;i2|ta|ta|;i3|tc|n|;");
        assert_everywhere(&r, WHO, "ta|tof a|;ta|tof a|;ta|tof a|;tb|tof b|;tb|tof b|;tb|tof b|;tc|tof c|;");
        restart(&r);
        rig_close(&r);
    }
}

/* Its old number is given to another row at once; and somebody else takes the new one. */
static void test_numbers_are_taken(void **state) {
    (void)state;
    struct rig r;
    open_three(&r);
    rig_act(&r, 0, "UPDATE t SET id = 4 WHERE id = 1; INSERT INTO t(id, v) VALUES(1, 'other')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO t(v) VALUES('d'); INSERT INTO child(t, v) VALUES(1, 'of a'), (4, 'of d')");
    share(&r);
    assert_everywhere(&r, "SELECT v FROM t ORDER BY v", "ta|;tb|;tc|;td|;tother|;");
    assert_everywhere(&r, "SELECT id FROM t WHERE v = 'other'", "i1|;");
    assert_everywhere(&r, WHO, "ta|tof a|;ta|tof a|;ta|tof a|;ta|tof a|;tb|tof b|;tb|tof b|;tc|tof c|;td|tof d|;");
    restart(&r);
    rig_close(&r);
}

/* Without foreign keys the application leaves what refers to it behind: it follows on its own server, too. */
static void test_without_cascades(void **state) {
    (void)state;
    struct rig r;
    open_three(&r);
    rig_act(&r, 0, "DELETE FROM tag; DELETE FROM face; PRAGMA foreign_keys=OFF; UPDATE t SET id = 900 WHERE id = 1");
    share(&r);
    assert_everywhere(&r, WHO, "ta|tof a|;tb|tof b|;");
    rig_act(&r, 0, "UPDATE OR REPLACE t SET id = 3 WHERE id = 900"); /* over another row */
    rig_share(&r);
    assert_everywhere(&r, "SELECT v FROM t ORDER BY v", "ta|;tb|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_number),
        cmocka_unit_test(test_a_swap),
        cmocka_unit_test(test_numbers_are_taken),
        cmocka_unit_test(test_without_cascades),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
