/* The engine: tables that link rows of others: keys that hold references, and rows that two servers link apart. */
#include "store_rig.h"

#define TAGS                                                                                                                               \
    "CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER UNIQUE, name TEXT);"                                                         \
    "CREATE TABLE tag(team INTEGER REFERENCES team(id) ON DELETE CASCADE, label TEXT, note TEXT, PRIMARY KEY(team, label))"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* Two link a team that a third deletes meanwhile; both links arrive at once. */
static void test_linked_twice_to_what_was_deleted(void **state) {
    (void)state;
    for (int order = 0; order < 2; order++) {
        struct rig r;
        rig_open(&r, 3, TAGS);
        rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(4, 'four')");
        share_same(&r);
        rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(7, 'seven')");
        rig_act(&r, 0, "DELETE FROM team WHERE id = 1");
        rig_act(&r, 1, "INSERT INTO tag VALUES(1, 'a', 'x')");
        rig_tick();
        rig_act(&r, 2, "BEGIN; INSERT INTO tag VALUES(1, 'a', 'y'); INSERT INTO team(number, name) VALUES(8, 'eight'); COMMIT");
        peer_queue(&r.peers[0], &r.peers[1 + order]);
        peer_queue(&r.peers[0], &r.peers[2 - order]);
        peer_pull(&r.peers[2], &r.peers[0]);
        peer_pull(&r.peers[1], &r.peers[2]);
        peer_queue(&r.peers[0], &r.peers[1]);
        peer_rest(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT name, label FROM tag JOIN team ON team.id = tag.team", "tfour|ta|;");
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linked_twice_to_what_was_deleted),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
