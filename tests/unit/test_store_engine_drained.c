/* The engine: who is who when several commits of an application are found in one drain, or several batches are shown in one projection. A number may
 * have meant more than one row by then; two servers that wrote the same numbers apart keep all rows, and each reference its own. */
#include "store_rig.h"

#define TEAMS                                                                                                                              \
    "CREATE TABLE team(id INTEGER PRIMARY KEY, name);"                                                                                     \
    "CREATE TABLE scouted(team_id INTEGER REFERENCES team(id) ON DELETE CASCADE, scout, note, PRIMARY KEY (team_id, scout))"

static void open_apart(struct rig *r, const char *sql) {
    rig_open(r, 2, sql);
    for (uint32_t i = 0; i < 2; i++)
        app_exec(rig_app(r, i), "PRAGMA foreign_keys=ON");
}

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    for (uint32_t i = 0; i < r->count; i++)
        assert_rows(rig_app(r, i), "PRAGMA foreign_key_check", "");
}

/* SQLite numbered it, the application writes it back with its number: before anybody saw the first of the two. */
static void test_written_back_before_it_was_seen(void **state) {
    (void)state;
    struct rig r;
    open_apart(&r, TEAMS);
    rig_act(&r, 0, "BEGIN; INSERT INTO team(name) VALUES('new'); INSERT OR REPLACE INTO team VALUES(1, 'zero'); COMMIT");
    rig_act(&r, 1, "BEGIN; INSERT INTO team(name) VALUES('new'); INSERT OR REPLACE INTO team VALUES(1, 'one'); COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM team ORDER BY name", "tone|;tzero|;");
    rig_close(&r);
}

/* A key that holds the number of a row which is written back in the same drain. */
static void test_a_key_beside_a_row_that_is_written_back(void **state) {
    (void)state;
    struct rig r;
    open_apart(&r, TEAMS);
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('one')");
    rig_tick();
    rig_act(&r, 0, "INSERT INTO team(name) VALUES('new')");
    rig_act(&r, 0, "BEGIN; INSERT OR REPLACE INTO team VALUES(1, 'zero'); INSERT INTO scouted VALUES(1, 's', 'of zero'); COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, note FROM scouted JOIN team ON id = team_id", "tzero|tof zero|;");
    rig_act(&r, 0, "DELETE FROM team WHERE name = 'zero'");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM scouted", "i0|;");
    rig_close(&r);
}

/* A number that goes to another row, and what is keyed by it comes again: another row, too. */
static void test_a_key_whose_number_was_given_anew(void **state) {
    (void)state;
    struct rig r;
    open_apart(&r, TEAMS);
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('one')");
    rig_tick();
    rig_act(&r, 0, "INSERT INTO team(name) VALUES('old'); INSERT INTO scouted VALUES(1, 's', 'of the old one')");
    rig_act(&r, 0,
            "BEGIN; DELETE FROM team; INSERT INTO team(name) VALUES('new'); INSERT INTO scouted VALUES(1, 's', 'of the new one'); COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, note FROM team LEFT JOIN scouted ON id = team_id ORDER BY name", "tnew|tof the new one|;tone|n|;");
    assert_everywhere(&r, "SELECT count(*) FROM scouted", "i1|;");
    rig_close(&r);
}

/* A given key comes in the place of a row that leaves it, and what it refers to is shown by the same projection in the place of one that moves. */
static void test_given_keys_in_the_place_of_others(void **state) {
    (void)state;
    for (int dead = 0; dead < 2; dead++) {
        struct rig r;
        open_apart(&r, "CREATE TABLE area(id INTEGER PRIMARY KEY, name); CREATE TABLE spot(id INTEGER PRIMARY KEY, name UNIQUE, area_id "
                       "INTEGER REFERENCES area(id))");
        rig_act(&r, 0, "INSERT INTO area(name) VALUES('zero')");
        rig_act(&r, 0, "INSERT INTO spot(name, area_id) VALUES('a', 1)");
        rig_act(&r, 0, dead ? "DELETE FROM spot WHERE id = 1" : "INSERT INTO spot(name, area_id) VALUES('b', 1)");
        rig_act(&r, 1, "INSERT INTO area VALUES(1, 'one')");
        rig_act(&r, 1, "INSERT INTO spot(name, area_id) VALUES('a', NULL)");
        rig_act(&r, 1, "DELETE FROM spot");
        rig_act(&r, 1, "INSERT INTO spot VALUES(1, 'given', 1)");
        rig_act(&r, 1, "INSERT INTO spot(name, area_id) VALUES('a', 1)");
        share_same(&r);
        assert_everywhere(&r, "SELECT a.name FROM spot AS s JOIN area AS a ON a.id = area_id WHERE s.name = 'given'", "tone|;");
        assert_everywhere(&r, "SELECT a.name FROM spot AS s JOIN area AS a ON a.id = area_id WHERE s.name = 'b'", dead ? "" : "tzero|;");
        rig_close(&r);
    }
}

/* A row came and went before another server could show it, and the application gave its number to another one. */
static void test_a_given_key_after_a_row_that_was_never_shown(void **state) {
    (void)state;
    struct rig r;
    open_apart(&r, "CREATE TABLE area(id INTEGER PRIMARY KEY, name); CREATE TABLE spot(id INTEGER PRIMARY KEY, name, area_id INTEGER "
                   "REFERENCES area(id))");
    rig_act(&r, 0, "INSERT INTO area(name) VALUES('zero')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO area(name) VALUES('one')");
    rig_act(&r, 1, "INSERT INTO spot(name, area_id) VALUES('numbered', 1)");
    rig_act(&r, 1, "BEGIN; DELETE FROM spot; INSERT INTO spot VALUES(1, 'given', 1); COMMIT");
    peer_pull(&r.peers[1], &r.peers[0]);
    peer_pull(&r.peers[0], &r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT s.name, a.name FROM spot AS s JOIN area AS a ON a.id = area_id", "tgiven|tone|;");
    rig_close(&r);
}

/* Rows that refer to each other in a circle and all get other numbers: each waits for the others. */
static void test_a_circle_of_rows_with_new_numbers(void **state) {
    (void)state;
    struct rig r;
    open_apart(&r, "CREATE TABLE team(id INTEGER PRIMARY KEY, name, lead INTEGER REFERENCES person(id)); CREATE TABLE person(id INTEGER "
                   "PRIMARY KEY, name, team INTEGER REFERENCES team(id), boss INTEGER REFERENCES person(id))");
    for (uint32_t i = 0; i < 2; i++) {
        rig_act(&r, i, i ? "INSERT INTO team(name) VALUES('one')" : "INSERT INTO team(name) VALUES('zero')");
        rig_act(&r, i, "INSERT INTO person(name, team) SELECT 'lead of ' || name, id FROM team");
        rig_act(&r, i, "INSERT INTO person(name, team, boss) SELECT 'member of ' || name, id, 1 FROM team");
        rig_act(&r, i, "UPDATE team SET lead = 1; UPDATE person SET boss = 2 WHERE id = 1");
        rig_tick();
    }
    share_same(&r);
    assert_everywhere(
        &r,
        "SELECT t.name, l.name, b.name, m.name FROM team AS t JOIN person AS l ON l.id = t.lead JOIN person AS b ON b.id = l.boss "
        "JOIN team AS m ON m.id = b.team ORDER BY 1",
        "tone|tlead of one|tmember of one|tone|;tzero|tlead of zero|tmember of zero|tzero|;");
    assert_everywhere(&r, "SELECT count(*) FROM person AS p JOIN person AS b ON b.id = p.boss", "i4|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_back_before_it_was_seen),
        cmocka_unit_test(test_a_key_beside_a_row_that_is_written_back),
        cmocka_unit_test(test_a_key_whose_number_was_given_anew),
        cmocka_unit_test(test_given_keys_in_the_place_of_others),
        cmocka_unit_test(test_a_given_key_after_a_row_that_was_never_shown),
        cmocka_unit_test(test_a_circle_of_rows_with_new_numbers),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
