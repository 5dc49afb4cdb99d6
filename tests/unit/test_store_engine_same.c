/* The engine: what two servers entered apart, each as a row of its own, is one row: columns merge, references of both point to one, and it can be taken apart. */
#include "store_rig.h"

#define TEAMS                                                                                                                              \
    "CREATE TABLE team(id INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER UNIQUE, name TEXT, town TEXT); CREATE TABLE match(id INTEGER " \
    "PRIMARY KEY AUTOINCREMENT, event TEXT, red INTEGER REFERENCES team(id), blue INTEGER REFERENCES team(id), note TEXT, UNIQUE(event, "  \
    "red, "                                                                                                                                \
    "blue)); CREATE TABLE tag(team INTEGER REFERENCES team(id), label TEXT, note TEXT, PRIMARY KEY(team, label)); CREATE TABLE "           \
    "profile(team "                                                                                                                        \
    "INTEGER PRIMARY KEY REFERENCES team(id), photo TEXT)"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static void restart_all(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        peer_reopen(&r->peers[i]);
    share_same(r);
}

/* Servers that import the same, in another order. */
static void test_the_same_import(void **state) {
    (void)state;
    for (uint32_t count = 2; count <= 3; count++) {
        struct rig r;
        rig_open(&r, count, TEAMS);
        for (uint32_t i = 0; i < count; i++) {
            static const char *const ORDER[] = {"254, 1114, 118, 2056", "2056, 118, 254, 1114, 971", "118, 254, 2056, 1114"};
            char sql[1000];
            snprintf(
                sql, sizeof sql,
                "INSERT INTO team(number, name) SELECT value, 'Team ' || value FROM json_each('[%s]');"
                "INSERT INTO match(event, red, blue, note) SELECT 'final', a.id, b.id, 'by ' || %u FROM team a, team b WHERE a.number < "
                "b.number AND 971 NOT IN (a.number, b.number);"
                "INSERT INTO tag SELECT id, 'seen', number || ' by ' || %u FROM team; INSERT INTO profile SELECT id, number || '.png' FROM "
                "team",
                ORDER[i], i, i);
            rig_tick();
            rig_act(&r, i, sql);
        }
        share_same(&r);
        for (int again = 0; again < 2; again++) {
            assert_everywhere(&r, "SELECT number, name FROM team ORDER BY number",
                              "i118|tTeam 118|;i254|tTeam 254|;i971|tTeam 971|;i1114|tTeam 1114|;i2056|tTeam 2056|;");
            assert_everywhere(
                &r, "SELECT r.number, b.number FROM match m JOIN team r ON r.id = m.red JOIN team b ON b.id = m.blue ORDER BY 1, 2",
                "i118|i254|;i118|i1114|;i118|i2056|;i254|i1114|;i254|i2056|;i1114|i2056|;");
            assert_everywhere(&r, "SELECT count(*), count(DISTINCT team) FROM tag", "i5|i5|;");
            assert_everywhere(&r, "SELECT number FROM tag JOIN team ON team.id = tag.team WHERE note NOT GLOB number || ' by *'", "");
            assert_everywhere(&r, "SELECT number, photo FROM team JOIN profile ON team.id = profile.team WHERE photo <> number || '.png'",
                              "");
            assert_everywhere(&r, "SELECT count(*) FROM profile", "i5|;");
            assert_everywhere(&r, "PRAGMA foreign_key_check", "");
            restart_all(&r);
        }
        rig_close(&r);
    }
}

/* Columns merge: of each the later write; what lost is an open conflict. */
static void test_columns_merge(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(number, name, town) VALUES(1, 'x', 'a'), (254, 'Poofs', 'San Jose')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(number, name, town) VALUES(254, 'Cheesy Poofs', NULL)");
    rig_tick();
    rig_act(&r, 0, "UPDATE team SET town = 'San José' WHERE number = 254");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM team ORDER BY number", "i1|i1|tx|ta|;i2|i254|tCheesy Poofs|tSan José|;");
    assert_true(peer_lost(&r.peers[0], "name", "\"Poofs\"") && peer_lost(&r.peers[1], "name", "\"Poofs\""));
    rig_act(&r, 1, "UPDATE team SET name = 'The Poofs' WHERE number = 254");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, town FROM team WHERE number = 254", "tThe Poofs|tSan José|;");
    assert_false(peer_lost(&r.peers[0], "name", "\"Poofs\""));
    rig_close(&r);
}

/* A server that does not know yet that they are one goes on writing to its own. */
static void test_written_while_apart(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(1, 'one'), (254, 'a')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(number, name) VALUES(254, 'b')");
    peer_pull(&r.peers[2], &r.peers[1]);
    rig_time_passes(&r);
    peer_pull(&r.peers[0], &r.peers[1]); /* they are one here */
    rig_tick();
    rig_act(&r, 2,
            "UPDATE team SET name = 'c', town = 'there' WHERE number = 254; INSERT INTO match(event, red) VALUES('e', 1); INSERT INTO tag "
            "VALUES(1, 'l', 'n')");
    share_same(&r);
    assert_everywhere(&r, "SELECT number, name, town FROM team ORDER BY number", "i1|tone|n|;i254|tc|tthere|;");
    assert_everywhere(&r, "SELECT t.number FROM match JOIN team t ON t.id = red", "i254|;");
    assert_everywhere(&r, "SELECT t.number FROM tag JOIN team t ON t.id = team", "i254|;");
    restart_all(&r);
    rig_act(&r, 1, "DELETE FROM match; DELETE FROM tag; DELETE FROM team WHERE number = 254"); /* all of it */
    share_same(&r);
    assert_everywhere(&r, "SELECT number FROM team", "i1|;");
    restart_all(&r);
    rig_act(&r, 2, "INSERT INTO team(number, name) VALUES(254, 'again')");
    share_same(&r);
    assert_everywhere(&r, "SELECT number, name FROM team ORDER BY number", "i1|tone|;i254|tagain|;");
    rig_close(&r);
}

/* Keys that the application gave are not the same, whatever else agrees; nor are rows that differ in another UNIQUE key, or of which one got the value later. */
static void test_not_the_same(void **state) {
    (void)state;
    static const struct {
        const char *create, *first, *second, *rows;
    } CASES[] = {
        {"CREATE TABLE t(k TEXT PRIMARY KEY, u UNIQUE)", "INSERT INTO t VALUES('a', 1)", "INSERT INTO t VALUES('b', 1)", "n|;i1|;"},
        {"CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)", "INSERT INTO t VALUES(7, 1)", "INSERT INTO t VALUES(8, 1)", "n|;i1|;"},
        {"CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, v UNIQUE)", "INSERT INTO t(u, v) VALUES(1, 1)",
         "INSERT INTO t(u, v) VALUES(1, 2)", "n|;i1|;"},
        {"CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)", "INSERT INTO t(u) VALUES(1)", "INSERT INTO t(u) VALUES(2); ;", "i1|;i2|;"},
        {"CREATE TABLE t(id INTEGER PRIMARY KEY, u)", "INSERT INTO t(u) VALUES(1)", "INSERT INTO t(u) VALUES(1)", "i1|;i1|;"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct rig r;
        rig_open(&r, 2, CASES[i].create);
        rig_act(&r, 0, CASES[i].first);
        rig_tick();
        rig_act(&r, 1, CASES[i].second);
        share_same(&r);
        assert_everywhere(&r, "SELECT u FROM t ORDER BY u", CASES[i].rows);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_import),
        cmocka_unit_test(test_columns_merge),
        cmocka_unit_test(test_written_while_apart),
        cmocka_unit_test(test_not_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
