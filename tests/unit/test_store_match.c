/* A server that joins with --adopt match: the cluster's rows are fetched first, beside the application's file; then the file is looked at as another copy of
 * the same data. What is equal costs nothing, what differs loses and is listed, what is new is kept. */
#include "store_rig.h"

#define SCHEMA                                                                                                                             \
    "CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT UNIQUE);"                                                                         \
    "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT, role INTEGER REFERENCES role(id));"                                              \
    "CREATE TABLE visit(id INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER REFERENCES user(id), what TEXT);"                               \
    "CREATE TABLE setting(key TEXT PRIMARY KEY, v);"                                                                                       \
    "CREATE TABLE note(text);"

/* Server 0 is the cluster; the application of server 1 has a file. */
static void begin(struct rig *r, const char *there) {
    rig_start(r, 2);
    assert_int_equal(side_open_app(&r->peers[0].s), SQLITE_OK);
    app_exec(rig_app(r, 0), SCHEMA);
    app_exec(rig_app(r, 0), there);
    peer_open(&r->peers[0]);
    peer_rest(&r->peers[0]);
}

static void copy_to_1(struct rig *r) {
    char sql[400];
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", r->peers[1].s.app_path);
    app_exec(rig_app(r, 0), sql);
    rig_tick();
}

/* As the worker does it. restarts: the store is opened anew so often while the file is looked at. */
static void join(struct rig *r, int restarts) {
    struct peer *p = &r->peers[1];
    char path[sizeof p->s.app_path];
    if (p->s.store) {
        side_close_store(&p->s);
        assert_int_equal(store_set_aside(p->s.state_path, p->s.app_path), 0);
    }
    memcpy(path, p->s.app_path, sizeof path);
    snprintf(p->s.app_path, sizeof p->s.app_path, "%.190s.fetch", path);
    p->create = true;
    peer_open(p);
    peer_rest(p);
    peer_pull(p, &r->peers[0]);
    assert_true(peer_settled(p));
    side_close_store(&p->s);
    p->create = false;
    memcpy(p->s.app_path, path, sizeof path);
    peer_open(p);
    for (int i = 0; i < restarts; i++) {
        peer_turn(p);
        peer_reopen(p);
    }
    peer_rest(p);
}

static void test_a_copy_of_a_running_server(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 6; restarts += 5) {
        struct rig r;
        begin(&r, "INSERT INTO role(name) VALUES('admin')");
        rig_act(&r, 0,
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO user(name, role) SELECT 'u' || "
                "i, 1 FROM n;"
                "INSERT INTO visit(user, what) SELECT id, 'came' FROM user; INSERT INTO note SELECT 'n' || (id % 7) FROM user;"
                "INSERT INTO setting SELECT 'k' || id, id FROM user");
        rig_act(&r, 0, "DELETE FROM visit WHERE id > 490; UPDATE user SET name = 'renamed' WHERE id = 7");
        copy_to_1(&r);
        assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
        join(&r, restarts);
        uint32_t made = r.peers[0].s.made.count;
        assert_int_equal(rig_made_rows(&r, 1, 0), 0);
        rig_share(&r);
        rig_assert_settled(&r);
        assert_same_tables(&r);
        assert_int_equal(rig_made_rows(&r, 1, 0), 0);
        assert_int_equal(rig_made_rows(&r, 0, made), 0);
        assert_int_equal(peer_conflicts(&r.peers[0]), 0);
        assert_everywhere(
            &r,
            "SELECT (SELECT count(*) FROM user), (SELECT count(*) FROM visit), (SELECT count(*) FROM note), (SELECT count(*) FROM setting)",
            "i500|i490|i500|i500|;");
        rig_act(&r, 1, "INSERT INTO visit(user, what) VALUES(7, 'after')");
        rig_act(&r, 0, "UPDATE user SET name = 'again' WHERE id = 8");
        rig_share(&r);
        assert_same_tables(&r);
        rig_close(&r);
    }
}

static void test_an_older_copy_that_went_its_own_way(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 6; restarts += 5) {
        struct rig r;
        begin(&r, "INSERT INTO role(name) VALUES('admin'), ('viewer'); INSERT INTO user(name, role) VALUES('ann', 1), ('al', 2); INSERT "
                  "INTO setting "
                  "VALUES('lang', 'de'), ('same', 1); INSERT INTO note VALUES('one')");
        rig_act(&r, 0, "INSERT INTO user(name, role) VALUES('cleo', 2); INSERT INTO visit(user, what) VALUES(3, 'first'), (1, 'second')");
        copy_to_1(&r);
        rig_act(&r, 0,
                "UPDATE user SET name = 'Ann' WHERE id = 1; DELETE FROM user WHERE id = 2; INSERT INTO user(name, role) VALUES('dora', 1);"
                "UPDATE setting SET v = 'fr' WHERE key = 'lang'; INSERT INTO role(name) VALUES('scout')");
        assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
        app_exec(
            rig_app(&r, 1),
            "UPDATE user SET name = 'Cleopatra' WHERE id = 3; INSERT INTO user(name, role) VALUES('emil', 2), "
            "('fay', 2);"
            "INSERT INTO visit(user, what) VALUES(5, 'by fay'); UPDATE setting SET v = 'default' WHERE key = 'lang';"
            "INSERT INTO setting VALUES('mine', 1); INSERT INTO note VALUES('two'); INSERT INTO role(name) VALUES('judge'), ('scout')");
        join(&r, restarts);
        rig_share(&r);
        rig_assert_settled(&r);
        assert_same_tables(&r);
        assert_everywhere(&r, "SELECT id, name, role FROM user ORDER BY id", "i1|tAnn|i1|;i3|tcleo|i2|;i4|tdora|i1|;i5|tfay|i2|;");
        assert_everywhere(&r, "SELECT id, user, what FROM visit ORDER BY id", "i1|i3|tfirst|;i2|i1|tsecond|;i3|i5|tby fay|;");
        assert_everywhere(&r, "SELECT key, v FROM setting ORDER BY key", "tlang|tfr|;tmine|i1|;tsame|i1|;");
        assert_everywhere(&r, "SELECT id, name FROM role ORDER BY id", "i1|tadmin|;i2|tviewer|;i3|tscout|;");
        assert_everywhere(&r, "SELECT text FROM note ORDER BY 1", "tone|;ttwo|;");
        static const char *const LOST[][2] = {
            {"name", "\"judge\""}, {"v", "\"default\""}, {"name", "\"Cleopatra\""}, {"name", "\"emil\""}, {"role", "2"}};
        for (size_t i = 0; i < sizeof LOST / sizeof *LOST; i++)
            assert_true(peer_lost(&r.peers[0], LOST[i][0], LOST[i][1]) && peer_lost(&r.peers[1], LOST[i][0], LOST[i][1]));
        assert_int_equal(peer_conflicts(&r.peers[0]), sizeof LOST / sizeof *LOST + 1); /* and that the two scouts are one */
        rig_close(&r);
    }
}

/* What is new in the file refers to what is new in it, also from a table that is read before, and also where that row is one of the cluster's. */
static void test_new_rows_that_refer_to_new_rows(void **state) {
    (void)state;
    struct rig r;
    begin(&r, "CREATE TABLE badge(id INTEGER PRIMARY KEY, role INTEGER REFERENCES role(id)); INSERT INTO role(name) VALUES('admin')");
    copy_to_1(&r);
    rig_act(&r, 0, "INSERT INTO role(id, name) VALUES(40, 'x'); DELETE FROM role WHERE id = 40; INSERT INTO role(name) VALUES('scout')");
    assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
    app_exec(rig_app(&r, 1), "INSERT INTO role(id, name) VALUES(7, 'scout'), (8, 'judge'); INSERT INTO badge(role) VALUES(7), (8)");
    join(&r, 0);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_everywhere(&r, "SELECT name FROM badge JOIN role ON role.id = role ORDER BY badge.id", "tscout|;tjudge|;");
    assert_everywhere(&r, "SELECT count(*), (SELECT id FROM role WHERE name = 'scout') FROM role", "i3|i2|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_of_a_running_server),
        cmocka_unit_test(test_an_older_copy_that_went_its_own_way),
        cmocka_unit_test(test_new_rows_that_refer_to_new_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
