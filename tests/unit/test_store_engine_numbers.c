/* The engine: numbers that several rows have one after the other, or at once, and who is meant by them. Each test is the shortest schedule of
 * something that the random ones found. */
#include "store_rig.h"

#include "node/store/engine.h"
#include "node/store/project.h"

#define PAIRS                                                                                                                              \
    "PRAGMA foreign_keys=ON;"                                                                                                              \
    "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT UNIQUE);"                                                                       \
    "CREATE TABLE event(id INTEGER PRIMARY KEY, title TEXT, lead INTEGER REFERENCES person(id) ON DELETE CASCADE);"                        \
    "CREATE TABLE present(person INTEGER NOT NULL REFERENCES person(id) ON DELETE CASCADE, event INTEGER NOT NULL REFERENCES event(id) "   \
    "ON DELETE CASCADE, note TEXT, PRIMARY KEY(person, event))"
#define PRESENT                                                                                                                            \
    "SELECT note, name, title FROM present LEFT JOIN person ON person.id = person LEFT JOIN event ON event.id = event ORDER BY 1"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static size_t conflicts_in(struct peer *p, const char *column) {
    json_t *list = store_conflicts(p->s.store), *c;
    size_t i, n = 0;
    json_array_foreach(list, i, c) n += strcmp(json_string_value(json_object_get(c, "column")), column) == 0;
    json_decref(list);
    return n;
}

/* Two keys read alike for a moment: one holds a given key, the other a row that is about to get another number than that. */
static void test_a_key_beside_one_that_moves(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PAIRS);
    rig_act(&r, 1, "INSERT INTO event(id, title) VALUES(1, 'given'); INSERT INTO person(name) VALUES('other'), ('one')");
    rig_act(&r, 1, "INSERT INTO present VALUES(2, 1, 'of given')");
    rig_tick();
    rig_act(&r, 0, "INSERT INTO event(title) VALUES('born'); INSERT INTO person(name) VALUES('one')");
    rig_act(&r, 0, "INSERT INTO present VALUES(1, 1, 'of born')");
    peer_pull(&r.peers[1], &r.peers[0]);
    peer_pull(&r.peers[0], &r.peers[1]); /* who is one with whom, and who moves, comes with the rows */
    share_same(&r);
    assert_everywhere(&r, PRESENT, "tof born|tone|tborn|;tof given|tone|tgiven|;");
    rig_close(&r);
}

/* What was said in a row's first life, of a row that died with it, is not what its second life says. */
static void test_two_lives_and_one_number(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PAIRS);
    rig_act(&r, 0, "INSERT INTO person(name) VALUES('first'), ('second')");
    rig_act(&r, 0, "INSERT INTO event VALUES(8, 'one life', 2)");
    rig_act(&r, 0, "DELETE FROM person WHERE id = 2");
    rig_act(&r, 0, "INSERT INTO person(name) VALUES('third')");
    rig_act(&r, 0, "INSERT INTO event VALUES(8, 'another', 1)");
    uint32_t made = r.peers[1].s.made.count;
    share_same(&r);
    assert_everywhere(&r, "SELECT id, name FROM person ORDER BY 1", "i1|tfirst|;i2|tthird|;");
    assert_everywhere(&r, "SELECT title, name FROM event JOIN person ON person.id = lead", "tanother|tfirst|;");
    assert_int_equal(rig_made_rows(&r, 1, made), 0);
    rig_close(&r);
}

/* A given key that lived before, and waits beside another row that had its number since: what was known of it is known again. */
static void test_a_given_key_comes_back(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT)");
    rig_act(&r, 1, "INSERT INTO team VALUES(1, 'given')");
    rig_share(&r); /* just now: who writes then has not seen it */
    rig_act(&r, 0, "DELETE FROM team");
    rig_act(&r, 0, "INSERT INTO team(name) VALUES('numbered')");
    rig_act(&r, 0, "DELETE FROM team");
    rig_act(&r, 0, "INSERT INTO team VALUES(1, 'again')");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM team", "i1|tagain|;");
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_lost(&r.peers[i], "name", "\"given\""));
    rig_close(&r);
}

/* Rows that refer to each other in a circle, of which one holds a UNIQUE value that another row here has: mended, though it cannot be shown alone. */
static void test_a_value_in_a_circle(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT UNIQUE, lead INTEGER REFERENCES person(id));"
             "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, team INTEGER REFERENCES team(id))");
    for (uint32_t i = 0; i < 2; i++) {
        rig_act(&r, i, i ? "INSERT INTO team(name) VALUES('of 1')" : "INSERT INTO team(name) VALUES('of 0')");
        rig_act(&r, i, i ? "INSERT INTO person(name, team) VALUES('led by 1', 1)" : "INSERT INTO person(name, team) VALUES('led by 0', 1)");
        rig_act(&r, i, "UPDATE team SET lead = 1, name = 'same'");
        rig_tick();
    }
    share_same(&r);
    assert_everywhere(&r, "SELECT person.name, team.name, lead = person.id FROM person JOIN team ON team = team.id ORDER BY 1",
                      "tled by 0|n|i1|;tled by 1|tsame|i1|;");
    rig_close(&r);
}

/* Statements of one millisecond: what was written over itself, then deleted, and then numbered by SQLite again is another row. */
static void test_given_once(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PAIRS);
    rig_act(&r, 0, "INSERT INTO person(name) VALUES('first'); INSERT INTO event(title, lead) VALUES('before', 1)");
    rig_act(&r, 0,
            "BEGIN; INSERT OR REPLACE INTO person VALUES(1, 'again'); DELETE FROM person; INSERT INTO person(name) VALUES('next');"
            "INSERT INTO event(title, lead) VALUES('of next', 1); COMMIT");
    rig_act(&r, 1, "INSERT INTO person(id, name) VALUES(1, 'given')");
    share_same(&r);
    assert_everywhere(&r, "SELECT title, name, lead = 1 FROM event JOIN person ON lead = person.id", "tof next|tnext|i0|;");
    rig_close(&r);
}

/* A key written with a number whose row has just got another one: the row's columns say the same as its name. */
static void test_a_key_with_an_old_number(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PAIRS);
    rig_act(&r, 0, "INSERT INTO person(name) VALUES('first'); INSERT INTO event(id, title) VALUES(5, 'e')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO person(name) VALUES('second')");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, i ? "INSERT INTO present VALUES(1, 5, 'b')" : "INSERT INTO event(id, title) VALUES(6, 'f')");
    share_same(&r);
    assert_everywhere(&r, PRESENT, "tb|tfirst|te|;");
    rig_close(&r);
}

/* The row that had the number was thrown out by the same commit: nobody means it any more. */
static void test_an_old_number_of_a_row_thrown_out(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, PAIRS);
    rig_act(&r, 1, "INSERT INTO person(name) VALUES('first')");
    rig_tick();
    rig_act(&r, 0, "INSERT INTO person(name) VALUES('second')");
    rig_share(&r);
    rig_act(&r, 0, "BEGIN; INSERT OR REPLACE INTO person VALUES(1, 'second'); INSERT INTO event(title, lead) VALUES('of 1', 1); COMMIT");
    share_same(&r);
    assert_everywhere(&r, "SELECT * FROM person", "i1|tsecond|;");
    assert_everywhere(&r, "SELECT title, lead FROM event", "tof 1|i1|;");
    rig_close(&r);
}

/* Whom two servers refer to had one number, one of them by a given key: another row is meant, whatever numbers a server was told. */
static void test_a_number_and_a_row_are_two(void **state) {
    (void)state;
    for (uint32_t born = 0; born < 2; born++) {
        struct rig r;
        rig_open(&r, 2, PAIRS);
        for (uint32_t i = 0; i < 2; i++) {
            rig_act(&r, i, i == born ? "INSERT INTO person(name) VALUES('born')" : "INSERT INTO person VALUES(1, 'given')");
            rig_act(&r, i, "INSERT INTO event VALUES(7, 'e', 1)");
            rig_tick();
        }
        share_same(&r);
        assert_everywhere(&r, "SELECT name FROM event JOIN person ON lead = person.id", born ? "tborn|;" : "tgiven|;");
        assert_same_conflicts(&r);
        assert_int_equal(conflicts_in(&r.peers[0], "lead"), 1);
        rig_close(&r);
    }
}

/* A row with a given key waited until after its number was free; now it is shown, and whom it refers to moves in the same projection. */
static void test_a_given_key_and_a_parent_that_moves(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, PAIRS);
    rig_act(&r, 0, "INSERT INTO person VALUES(1, 'given')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO person(name) VALUES('parent')");
    peer_pull(&r.peers[2], &r.peers[1]);
    rig_act(&r, 1, "INSERT INTO event(title) VALUES('t'); CREATE UNIQUE INDEX one ON event(title)");
    rig_act(&r, 2, "INSERT INTO event VALUES(1, 't', 1)");
    peer_pull(&r.peers[1], &r.peers[2]);
    assert_int_equal(peer_status(&r.peers[1], "parked"), 1);
    app_exec(rig_app(&r, 1), "UPDATE event SET title = 'other'");
    peer_queue(&r.peers[1], &r.peers[0]);
    peer_retry(&r.peers[1]);
    rig_act(&r, 1, "DROP INDEX one");
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM event JOIN person ON lead = person.id", "tparent|;");
    rig_close(&r);
}

/* A row that has another number here dies, and the same batch brings one that was born with this number: what is deleted, also when the projection is
 * done again, is not the row that has the number of its birth. */
static void test_a_number_left_and_given_again(void **state) {
    (void)state;
    struct rig r;
    char sql[300];
    rig_open(&r, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE u(k TEXT PRIMARY KEY, name TEXT UNIQUE)");
    rig_act(&r, 0, "INSERT INTO t(name) VALUES('eldest')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO t(name) VALUES('younger')");
    peer_pull(&r.peers[0], &r.peers[1]);
    int64_t moved = app_int(rig_app(&r, 0), "SELECT id FROM t WHERE name = 'younger'");
    assert_true(moved > 2);
    snprintf(sql, sizeof sql,
             "DELETE FROM t; INSERT INTO t(name) VALUES('again'); INSERT INTO t(id, name) VALUES(%lld, 'given'); INSERT INTO t(name) "
             "VALUES('there'); INSERT INTO u VALUES('one', 'x')",
             (long long)moved - 1);
    rig_tick();
    rig_act(&r, 1, sql);
    peer_pull(&r.peers[1], &r.peers[0]); /* here the new one gets another number */
    rig_act(&r, 0, "INSERT INTO u VALUES('other', 'x')");
    peer_pull(&r.peers[0], &r.peers[1]); /* two meet on the value: all of it is taken back, and done again with the mend */
    assert_rows(rig_app(&r, 0), "SELECT name FROM t ORDER BY name", "tagain|;teldest|;tgiven|;tthere|;");
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM t ORDER BY name", "tagain|;teldest|;tgiven|;tthere|;");
    rig_close(&r);
}

/* A row that references were seen to mean is looked up again once its register was written: here another row, with a given key, takes its place. */
static void test_what_a_reference_means_is_looked_up_again(void **state) {
    (void)state;
    for (int born = 0; born < 2; born++) {
        struct rig r;
        rig_open(
            &r, 3,
            born
                ? "CREATE TABLE team(id INTEGER PRIMARY KEY, name); CREATE TABLE entry(id INTEGER PRIMARY KEY, team REFERENCES team(id), v)"
                : "CREATE TABLE team(id INTEGER PRIMARY KEY, name); CREATE TABLE entry(id INTEGER PRIMARY KEY, team REFERENCES team(id), "
                  "v);"
                  "INSERT INTO team(name) VALUES('old'), ('other')");
        if (born)
            rig_act(&r, 0, "INSERT INTO team(name) VALUES('old'), ('other')");
        rig_share(&r);
        rig_time_passes(&r);
        rig_act(&r, 0, "INSERT INTO entry(team, v) VALUES(1, 'a'), (2, 'b'), (1, 'c')");
        rig_share(&r);
        rig_time_passes(&r);
        rig_tick();
        rig_act(&r, 2, "DELETE FROM entry WHERE team = 1; DELETE FROM team WHERE id = 1; INSERT INTO team VALUES(1, 'given')");
        rig_act(&r, 0, "INSERT INTO entry(team, v) VALUES(1, 'new')");
        peer_pull(&r.peers[1], &r.peers[2]);
        peer_pull(&r.peers[1], &r.peers[0]);
        rig_share(&r);
        assert_everywhere(&r, "SELECT e.v, t.name FROM entry e LEFT JOIN team t ON t.id = e.team ORDER BY 1", "tb|tother|;tnew|told|;");
        assert_same_table(&r, "team");
        assert_same_table(&r, "entry");
        rig_close(&r);
    }
}

static int no_index(void *ctx, int action, const char *a, const char *b, const char *c, const char *d) {
    (void)ctx, (void)b, (void)c, (void)d;
    return action == SQLITE_CREATE_TEMP_INDEX && strcmp(a, "starling_stay_key") == 0 ? SQLITE_DENY : SQLITE_OK;
}

/* What moving needs was made in part when memory, or the disk, was full: the rest is made by who comes next. */
static void test_tables_made_in_part(void **state) {
    (void)state;
    struct rig r;
    int64_t made = 0;
    rig_open(&r, 1, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    struct store *s = r.peers[0].s.store;
    assert_int_equal(sql_exec(s->app.writer, "DROP TABLE IF EXISTS temp.starling_stay; DROP TABLE IF EXISTS temp.starling_move"), 0);
    sqlite3_set_authorizer(s->app.writer, no_index, NULL);
    assert_int_not_equal(renumber_tables(s), 0);
    sqlite3_set_authorizer(s->app.writer, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(renumber_tables(s), 0);
        assert_int_equal(
            sql_int(s->app.writer, 0, &made, "SELECT count(*) FROM temp.sqlite_schema WHERE name LIKE 'starling%%' AND sql NOTNULL"), 0);
        assert_int_equal(made, 3);
    }
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_beside_one_that_moves),
        cmocka_unit_test(test_two_lives_and_one_number),
        cmocka_unit_test(test_a_given_key_comes_back),
        cmocka_unit_test(test_given_once),
        cmocka_unit_test(test_a_value_in_a_circle),
        cmocka_unit_test(test_a_key_with_an_old_number),
        cmocka_unit_test(test_an_old_number_of_a_row_thrown_out),
        cmocka_unit_test(test_a_number_and_a_row_are_two),
        cmocka_unit_test(test_a_given_key_and_a_parent_that_moves),
        cmocka_unit_test(test_a_number_left_and_given_again),
        cmocka_unit_test(test_what_a_reference_means_is_looked_up_again),
        cmocka_unit_test(test_tables_made_in_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
