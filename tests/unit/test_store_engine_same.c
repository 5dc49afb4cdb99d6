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

/* Who writes knowing that they are one replaces what each of them held. */
static void test_what_is_overwritten(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(1, 'x'), (254, 'a')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(number, name) VALUES(254, 'b')");
    rig_tick();
    rig_act(&r, 0, "UPDATE team SET name = 'later' WHERE number = 254");
    share_same(&r);
    assert_true(peer_lost(&r.peers[0], "name", "\"b\"")); /* the younger one's */
    rig_act(&r, 0, "UPDATE team SET name = 'decided' WHERE number = 254");
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM team WHERE number = 254", "tdecided|;");
    for (uint32_t i = 0; i < 2; i++)
        assert_false(peer_lost(&r.peers[i], "name", "\"b\"") || peer_lost(&r.peers[i], "name", "\"later\""));
    rig_close(&r);
}

/* Entered again by somebody who had deleted the first, which lives again for the sake of a match: that is another row. */
static void test_known_before(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(254, 'old')");
    share_same(&r);
    rig_tick();
    rig_act(&r, 1, "DELETE FROM team; INSERT INTO team(number, name) VALUES(254, 'new')");
    rig_act(&r, 2, "INSERT INTO match(event, red) VALUES('e', 1)");
    share_same(&r);
    assert_everywhere(&r, "SELECT number, name FROM team ORDER BY name", "i254|tnew|;n|told|;");
    assert_everywhere(&r, "SELECT name FROM match JOIN team ON team.id = red", "told|;");
    rig_close(&r);
}

/* Deleted, and kept for the sake of what somebody else hangs on it: one deletion, wherever it is told, though it killed several. */
static void test_deleted_and_kept(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, TEAMS);
    for (uint32_t i = 0; i < 3; i++) {
        rig_act(&r, 2 - i, "INSERT INTO team(number, name) VALUES(254, 'team')");
        rig_tick();
    }
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM team");
    rig_act(&r, 1, "INSERT INTO match(event, red) SELECT 'e', id FROM team");
    share_same(&r);
    assert_everywhere(&r, "SELECT number FROM team JOIN match ON red = team.id", "i254|;");
    assert_true(peer_conflicts(&r.peers[0]) > 0);
    assert_same_conflicts(&r);
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

/* Who deletes one of them, and does not know that they are one, decides about that one: the row shows what the other holds, and is his to write to. */
static void test_one_of_them_is_deleted(void **state) {
    (void)state;
    for (uint32_t gone = 0; gone < 2; gone++) { /* the elder, which stands for both; the younger */
        static const char *const LEFT[] = {"\"b\"", "\"a\""}, *const ROW[] = {"i254|tb|n|;", "i254|ta|n|;"};
        struct rig r;
        rig_open(&r, 3, TEAMS);
        rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(1, 'one'), (254, 'a')");
        rig_tick();
        rig_act(&r, 1, "INSERT INTO team(number, name) VALUES(254, 'b')");
        peer_pull(&r.peers[2], &r.peers[gone]); /* he knows only this one */
        rig_tick();
        rig_act(&r, 2, "UPDATE team SET town = 'unseen' WHERE number = 254");
        peer_pull(&r.peers[2], &r.peers[1 - gone]); /* here they are one */
        rig_tick();
        rig_act(&r, gone, "DELETE FROM team WHERE number = 254");
        share_same(&r);
        assert_everywhere(&r, "SELECT number, name, town FROM team WHERE number = 254", ROW[gone]);
        for (uint32_t i = 0; i < r.count; i++) {
            assert_false(peer_lost(&r.peers[i], "name", gone ? "\"b\"" : "\"a\"")); /* he had seen it */
            assert_false(peer_lost(&r.peers[i], "name", LEFT[gone]));
            assert_true(peer_lost(&r.peers[i], "town", "\"unseen\""));
        }
        restart_all(&r);
        rig_act(&r, 2, "UPDATE team SET name = 'now', town = 'here' WHERE number = 254");
        share_same(&r);
        assert_everywhere(&r, "SELECT number, name, town FROM team WHERE number = 254", "i254|tnow|there|;");
        assert_false(peer_lost(&r.peers[0], "town", "\"unseen\"")); /* decided */
        restart_all(&r);
        rig_act(&r, 1, "DELETE FROM team WHERE number = 254");
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM team WHERE number = 254", "i0|;");
        for (uint32_t i = 0; i < r.count; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        restart_all(&r);
        rig_close(&r);
    }
}

/* A match comes under one that was deleted with the other: both live again, with what they showed. */
static void test_both_are_revived(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(1, 'one'), (254, 'a')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(number, name, town) VALUES(254, 'b', 'there')");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, town FROM team WHERE number = 254", "tb|tthere|;");
    rig_act(&r, 0, "DELETE FROM team WHERE number = 254");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO match(event, red) SELECT 'e', id FROM team WHERE number = 254");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, town, event FROM team JOIN match ON red = team.id", "tb|tthere|te|;");
    restart_all(&r);
    assert_everywhere(&r, "SELECT name, town FROM team WHERE number = 254", "tb|tthere|;");
    rig_close(&r);
}

/* Who gives one of them another UNIQUE value, and does not know that they are one, decides about that one: however the batches were cut, both are there in
 * the end, and the value is free for another row of his. */
static void test_one_of_them_is_renamed(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t by = i & 1, first = i >> 1 & 1, again = i >> 2 & 1, ended = i >> 3;
        struct rig r;
        rig_open(&r, 3, TEAMS);
        rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(1, 'one'), (254, 'a'); INSERT INTO match(event, red) VALUES('ea', 2)");
        rig_tick();
        rig_act(&r, 1, "INSERT INTO team(number, name) VALUES(254, 'b'); INSERT INTO match(event, red) VALUES('eb', 1)");
        rig_tick();
        peer_pull(&r.peers[first ? 2 : 1 - by], &r.peers[by]);
        peer_pull(&r.peers[2], &r.peers[1 - by]); /* here they are one */
        rig_tick();
        rig_act(&r, by, "UPDATE team SET number = 9 WHERE number = 254");
        if (again)
            rig_act(&r, by, "INSERT INTO team(number, name) VALUES(254, 'c')");
        if (ended)
            restart_all(&r);
        share_same(&r);
        assert_everywhere(&r, "SELECT number, name FROM team WHERE number IN (9, 254) ORDER BY number",
                          again ? by ? "i9|tb|;i254|tc|;" : "i9|ta|;i254|tc|;"
                          : by  ? "i9|tb|;i254|ta|;"
                                : "i9|ta|;i254|tb|;");
        assert_everywhere(&r, "SELECT event, number FROM match JOIN team ON team.id = red ORDER BY event",
                          by ? "tea|i254|;teb|i9|;" : "tea|i9|;teb|i254|;");
        assert_everywhere(&r, "PRAGMA foreign_key_check", "");
        assert_int_equal(peer_lost(&r.peers[0], "name", by ? "\"a\"" : "\"b\""), again);
        assert_false(peer_lost(&r.peers[0], "number", "254"));
        assert_same_conflicts(&r);
        restart_all(&r);
        rig_close(&r);
    }
}

/* Who knows renames both; and what an index does not tell apart is no other value. */
static void test_renamed_and_one(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE UNIQUE, data)");
    rig_act(&r, 0, "INSERT INTO t(name, data) VALUES('bob', 0), ('ann', 0)");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO t(name, data) VALUES('bob', 1), ('ann', 1)");
    peer_pull(&r.peers[2], &r.peers[0]);
    peer_pull(&r.peers[2], &r.peers[1]);
    peer_pull(&r.peers[0], &r.peers[2]);
    rig_tick();
    rig_act(&r, 1, "UPDATE t SET name = 'Bob' WHERE name = 'bob'; UPDATE t SET data = 2");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, data FROM t ORDER BY name", "tann|i2|;tBob|i2|;");
    rig_act(&r, 1, "UPDATE t SET name = 'eve' WHERE name = 'ann'");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, data FROM t ORDER BY name", "tBob|i2|;teve|i2|;");
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

/* ---- as people see it */

/* How many rows are listed as standing for others: the same on every server, under the same names. The name of one of them in id. */
static size_t listed(struct rig *r, char id[32]) {
    size_t count[RIG_PEERS_MAX] = {0};
    for (uint32_t i = 0; i < r->count; i++) {
        json_t *list = store_conflicts(r->peers[i].s.store), *c;
        size_t k;
        json_array_foreach(list, k, c) {
            if (!json_is_true(json_object_get(c, "same")))
                continue;
            assert_string_equal(json_string_value(json_object_get(c, "kind")), "unique");
            if (i > 0 && count[i] == 0 && count[0] == 1)
                assert_string_equal(id, json_string_value(json_object_get(c, "id")));
            snprintf(id, 32, "%s", json_string_value(json_object_get(c, "id")));
            count[i]++;
        }
        json_decref(list);
        assert_int_equal(count[i], count[0]);
        assert_int_equal(peer_status(&r->peers[i], "conflicts"), peer_conflicts(&r->peers[i]));
    }
    return count[0];
}

static json_t *decide(struct peer *p, const char *id, const char *how) {
    json_t *answer = NULL, *j = json_loads(how, 0, NULL);
    for (int i = 0; i < 20; i++) {
        json_decref(answer);
        assert_int_equal(store_resolve(p->s.store, id, j, &answer), 0);
        peer_rest(p);
        if (!json_object_get(answer, "retry"))
            break;
        side_skip(300);
        store_time_passes(p->s.store);
    }
    json_decref(j);
    return answer;
}

static void assert_done(struct peer *p, const char *id, const char *how) {
    json_t *answer = decide(p, id, how);
    if (!json_object_get(answer, "done"))
        fail_msg("%s", json_dumps(answer, JSON_COMPACT));
    json_decref(answer);
}

#define APART                                                                                                                              \
    "SELECT ifnull(t.number, 'none'), t.name, (SELECT group_concat(event) FROM match WHERE red = t.id), (SELECT group_concat(note) FROM "  \
    "tag WHERE team = t.id), (SELECT photo FROM profile WHERE team = t.id) FROM team t ORDER BY t.name"

static void two_teams(struct rig *r, uint32_t count) {
    rig_open(r, count, TEAMS);
    rig_act(r, 0,
            "INSERT INTO team(number, name) VALUES(1, 'x'), (254, 'a'); INSERT INTO match(event, red) VALUES('ea', 2); INSERT INTO tag "
            "VALUES(2, 'l', 'ta'); INSERT INTO profile VALUES(2, 'pa')");
    rig_tick();
    rig_act(r, 1,
            "INSERT INTO team(number, name) VALUES(254, 'b'); INSERT INTO match(event, red) VALUES('eb', 1); INSERT INTO tag "
            "VALUES(1, 'l', 'tb'), (1, 'm', 'um'); INSERT INTO profile VALUES(1, 'pb')");
    share_same(r);
    assert_everywhere(r, APART, "i254|tb|tea,eb|ttb,um|tpb|;i1|tx|n|n|n|;");
}

static void test_taken_apart(void **state) {
    (void)state;
    for (uint32_t by = 0; by < 3; by++) {
        struct rig r;
        char id[32];
        two_teams(&r, 3);
        assert_int_equal(listed(&r, id), 1);
        json_t *answer = decide(&r.peers[by], id, "{\"keep\":\"loser\"}");
        assert_non_null(strstr(json_string_value(json_object_get(answer, "error")), "--split"));
        json_decref(answer);
        assert_done(&r.peers[by], id, "{\"split\":true}");
        share_same(&r);
        for (int again = 0; again < 2; again++) {
            assert_everywhere(&r, APART, "i254|ta|tea|tta|tpa|;tnone|tb|teb|ttb,um|tpb|;i1|tx|n|n|n|;");
            assert_everywhere(&r, "PRAGMA foreign_key_check", "");
            assert_int_equal(listed(&r, id), 0);
            assert_true(peer_lost(&r.peers[0], "number", "254"));
            restart_all(&r);
        }
        rig_act(&r, by,
                "UPDATE team SET name = 'c' WHERE name = 'b'; INSERT INTO match(event, red) SELECT 'ec', id FROM team WHERE name = 'c'");
        rig_act(&r, (by + 1) % 3,
                "DELETE FROM profile; DELETE FROM tag; DELETE FROM match WHERE event = 'ea'; DELETE FROM team WHERE name = 'a'");
        share_same(&r);
        assert_everywhere(&r, APART, "tnone|tc|teb,ec|n|n|;i1|tx|n|n|n|;");
        rig_close(&r);
    }
}

/* Two people decide at one time, that they are one and that they are two: the later one has decided. */
static void test_two_people_decide(void **state) {
    (void)state;
    for (int split_last = 0; split_last < 2; split_last++) {
        static const char *const HOW[] = {"{\"keep\":\"winner\"}", "{\"split\":true}"};
        struct rig r;
        char id[32];
        two_teams(&r, 3);
        assert_int_equal(listed(&r, id), 1);
        assert_done(&r.peers[1], id, HOW[!split_last]);
        rig_tick();
        assert_done(&r.peers[0], id, HOW[split_last]);
        share_same(&r);
        for (int again = 0; again < 2; again++) {
            assert_everywhere(&r, "SELECT count(*) FROM team", split_last ? "i3|;" : "i2|;");
            assert_int_equal(listed(&r, id), 0);
            assert_same_conflicts(&r);
            restart_all(&r);
        }
        rig_close(&r);
    }
}

/* Somebody writes to the one row, another takes it apart: who hears of it in which order comes to the same, and the younger has its own values. */
static void test_taken_apart_and_written_to(void **state) {
    (void)state;
    struct rig r;
    char id[32];
    two_teams(&r, 3);
    assert_int_equal(listed(&r, id), 1);
    rig_act(&r, 0, "UPDATE team SET name = 'z' WHERE number = 254");
    assert_done(&r.peers[1], id, "{\"split\":true}");
    share_same(&r);
    for (int again = 0; again < 2; again++) {
        assert_everywhere(&r, APART, "tnone|tb|teb|ttb,um|tpb|;i1|tx|n|n|n|;i254|tz|tea|tta|tpa|;");
        assert_same_conflicts(&r);
        restart_all(&r);
    }
    rig_close(&r);
}

static void test_content_with_it(void **state) {
    (void)state;
    struct rig r;
    char id[32];
    two_teams(&r, 2);
    assert_int_equal(listed(&r, id), 1);
    assert_done(&r.peers[1], id, "{\"keep\":\"winner\"}");
    share_same(&r);
    assert_int_equal(listed(&r, id), 0);
    restart_all(&r);
    assert_int_equal(listed(&r, id), 0);
    assert_everywhere(&r, APART, "i254|tb|tea,eb|ttb,um|tpb|;i1|tx|n|n|n|;");
    rig_close(&r);
}

/* Ended after any turn, on both sides, and opened again. */
static void test_ended_in_between(void **state) {
    (void)state;
    for (int turns = 1; turns < 9; turns++) {
        struct rig r;
        char id[32];
        rig_open(&r, 2, TEAMS);
        rig_act(&r, 0,
                "INSERT INTO team(number, name) VALUES(1, 'x'), (254, 'a'); INSERT INTO match(event, red) VALUES('e', 2); INSERT INTO "
                "tag VALUES(2, 'l', 'ta'); INSERT INTO profile VALUES(2, 'pa')");
        rig_tick();
        rig_act(&r, 1,
                "INSERT INTO team(number, name) VALUES(254, 'b'), (7, 'y'); INSERT INTO match(event, red) VALUES('e', 1), ('f', 1); "
                "INSERT INTO tag VALUES(1, 'l', 'tb'); INSERT INTO profile VALUES(1, 'pb')");
        for (int round = 0; round < 6; round++)
            for (uint32_t i = 0; i < 2; i++) {
                peer_queue(&r.peers[i], &r.peers[1 - i]);
                for (int k = 0; k < turns; k++) {
                    int wait = peer_turn(&r.peers[i]);
                    side_skip(wait > 0 && wait < REST_MS ? (uint64_t)wait : 0);
                }
                peer_reopen(&r.peers[i]);
            }
        share_same(&r);
        assert_everywhere(&r, "SELECT number, name FROM team ORDER BY number", "i1|tx|;i7|ty|;i254|tb|;");
        assert_everywhere(&r, "SELECT event, number FROM match JOIN team ON team.id = red ORDER BY event", "te|i254|;te|i254|;tf|i254|;");
        assert_everywhere(&r, "SELECT number, note, photo FROM tag JOIN team ON id = tag.team JOIN profile USING(team)", "i254|ttb|tpb|;");
        assert_int_equal(listed(&r, id), 1);
        rig_close(&r);
    }
}

/* ---- databases that were filled before */

static void yield_base(struct peer *p) {
    side_close_store(&p->s);
    assert_int_equal(store_set_aside(p->s.state_path, p->s.app_path), 0);
    peer_open(p);
    peer_rest(p);
}

static void test_databases_that_join(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    static const char *const FILLED[] = {
        "INSERT INTO team(number, name) VALUES(1, 'one'), (254, 'a'), (3, 'three'); INSERT INTO match(event, red) VALUES('ea', 2)",
        "INSERT INTO team(number, name) VALUES(254, 'b'), (7, 'seven'), (1, 'one'); INSERT INTO match(event, red) VALUES('eb', 1), ('e7', "
        "2)"};
    for (uint32_t i = 0; i < 2; i++) {
        struct peer *p = &r.peers[i];
        assert_int_equal(side_open_app(&p->s), SQLITE_OK);
        app_exec(p->s.app, TEAMS);
        app_exec(p->s.app, FILLED[i]);
        peer_open(p);
        peer_rest(p);
    }
    struct db_state mine, theirs;
    store_state(r.peers[0].s.store, &mine);
    store_state(r.peers[1].s.store, &theirs);
    assert_true(mine.base && theirs.base && mine.base != theirs.base);
    yield_base(&r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT number, name FROM team ORDER BY number", "i1|tone|;i3|tthree|;i7|tseven|;i254|ta|;");
    assert_everywhere(&r, "SELECT event, number FROM match JOIN team ON team.id = red ORDER BY event", "te7|i7|;tea|i254|;teb|i254|;");
    assert_everywhere(&r, "SELECT id FROM team WHERE number IN (1, 254, 3) ORDER BY number", "i1|;i3|;i2|;");
    assert_true(peer_lost(&r.peers[0], "name", "\"b\""));
    rig_close(&r);
}

static size_t conflicts_of_kind(struct peer *p, const char *kind) {
    json_t *list = store_conflicts(p->s.store), *c;
    size_t i, n = 0;
    json_array_foreach(list, i, c) { n += strcmp(json_string_value(json_object_get(c, "kind")), kind) == 0; }
    json_decref(list);
    return n;
}

/* Who is one with the row that stands in its place needs no number of its own; nor if it is one with a row beside that. */
static void test_no_number_is_given_to_what_is_one(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE)");
    rig_act(&r, 0, "INSERT INTO t(name) VALUES('admin'), ('superadmin')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO t(name) VALUES('superadmin'), ('admin')");
    uint32_t made = rig_made_rows(&r, 0, 0) + rig_made_rows(&r, 1, 0);
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY id", "i1|tadmin|;i2|tsuperadmin|;");
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(conflicts_of_kind(&r.peers[i], "number"), 0);
        assert_int_equal(conflicts_of_kind(&r.peers[i], "unique"), 2);
    }
    assert_int_equal(rig_made_rows(&r, 0, 0) + rig_made_rows(&r, 1, 0), made + 2); /* that they are one, and no more */
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_import),
        cmocka_unit_test(test_columns_merge),
        cmocka_unit_test(test_what_is_overwritten),
        cmocka_unit_test(test_deleted_and_kept),
        cmocka_unit_test(test_known_before),
        cmocka_unit_test(test_written_while_apart),
        cmocka_unit_test(test_not_the_same),
        cmocka_unit_test(test_taken_apart),
        cmocka_unit_test(test_two_people_decide),
        cmocka_unit_test(test_content_with_it),
        cmocka_unit_test(test_ended_in_between),
        cmocka_unit_test(test_no_number_is_given_to_what_is_one),
        cmocka_unit_test(test_databases_that_join),
        cmocka_unit_test(test_one_of_them_is_deleted),
        cmocka_unit_test(test_both_are_revived),
        cmocka_unit_test(test_one_of_them_is_renamed),
        cmocka_unit_test(test_taken_apart_and_written_to),
        cmocka_unit_test(test_renamed_and_one),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
