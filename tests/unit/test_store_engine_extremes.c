/* The engine: keys at both ends of what an INTEGER PRIMARY KEY can be, and what refers to them. */
#include "store_rig.h"

static const char *const TABLES =
    "CREATE TABLE p(id INTEGER PRIMARY KEY, v); CREATE TABLE c(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id));"
    "INSERT INTO p VALUES(-9223372036854775808, 'least'), (9, 'nine'); INSERT INTO c VALUES(1, NULL), (2, -9223372036854775808)";

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* It was deleted, and then referred to, on purpose. */
static void test_an_orphan_of_the_least_number(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    app_exec(rig_app(&r, 1), "DELETE FROM p WHERE id < 0");
    rig_act(&r, 1, "UPDATE c SET p = -9223372036854775808 WHERE id = 1");
    share_same(&r);
    assert_everywhere(&r, "SELECT id, p FROM c", "i1|i-9223372036854775808|;i2|i-9223372036854775808|;");
    assert_everywhere(&r, "SELECT v FROM p", "tnine|;");
    rig_close(&r);
}

/* Rows that move to other numbers leave it alone, and what refers to it. */
static void test_numbers_that_move_beside_the_least(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i,
                i ? "INSERT INTO p(v) VALUES('one'); INSERT INTO c(p) SELECT id FROM p WHERE v = 'one'"
                  : "INSERT INTO p(v) VALUES('zero'); INSERT INTO c(p) SELECT id FROM p WHERE v = 'zero'");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(DISTINCT id) FROM p", "i4|;");
    assert_everywhere(&r, "SELECT p.v, count(*) FROM c LEFT JOIN p ON p.id = c.p GROUP BY 1 ORDER BY 1",
                      "n|i1|;tleast|i1|;tone|i1|;tzero|i1|;");
    rig_close(&r);
}

/* All numbers are used up: what the file does not take is nobody's fault, and the other rows go on. */
static void test_the_greatest_number(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO p VALUES(9223372036854775807, 'most'); INSERT INTO c VALUES(3, 9223372036854775807)");
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, i ? "INSERT INTO p(v) VALUES('one')" : "INSERT INTO p(v) VALUES('zero')");
    rig_act(&r, 1, "UPDATE p SET v = 'less' WHERE id < 0");
    share_same(&r);
    assert_everywhere(&r, "SELECT v FROM p ORDER BY v", "tless|;tmost|;tnine|;tone|;tzero|;");
    assert_everywhere(&r, "SELECT p.v FROM c JOIN p ON p.id = c.p ORDER BY c.id", "tless|;tmost|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_orphan_of_the_least_number),
        cmocka_unit_test(test_numbers_that_move_beside_the_least),
        cmocka_unit_test(test_the_greatest_number),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
