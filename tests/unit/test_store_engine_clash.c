/* The engine: where numbers, references, deletions and orphans meet. Each test is the shortest schedule of something that the random ones found. */
#include "store_rig.h"

#define TEAMS                                                                                                                              \
    "PRAGMA foreign_keys=ON;"                                                                                                              \
    "CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT);"                                                                                \
    "CREATE TABLE match(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(id) ON DELETE CASCADE, score TEXT);"                          \
    "CREATE TABLE tag(team INTEGER REFERENCES team(id) ON DELETE CASCADE, label TEXT, note TEXT, PRIMARY KEY(team, label))"
#define MATCHES "SELECT score, name FROM match LEFT JOIN team ON team.id = match.team ORDER BY 1"
#define TAGS "SELECT note, name FROM tag LEFT JOIN team ON team.id = tag.team ORDER BY 1"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* A number is free in the projection that deletes the row which had it, also when that is written a second time, with a mend. */
static void test_a_number_that_is_left_and_taken_at_once(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TEAMS);
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('first'); INSERT INTO match(team, score) VALUES(1, 'goes')");
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('second')");
    share_same(&r);
    rig_act(&r, 1, "BEGIN; DELETE FROM team WHERE id = 1; DELETE FROM team WHERE id = 2; INSERT INTO team(name) VALUES('third'); COMMIT");
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('fourth')");
    rig_act(&r, 1, "INSERT INTO tag VALUES(2, 'a', 'of fourth')");
    rig_act(&r, 0, "INSERT INTO match(team, score) VALUES(1, 'of first')");
    peer_pull(&r.peers[0], &r.peers[1]);
    assert_int_equal(peer_status(&r.peers[0], "parked"), 0);
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM team ORDER BY 1", "tfirst|;tfourth|;tthird|;");
    assert_everywhere(&r, MATCHES, "tof first|tfirst|;");
    assert_everywhere(&r, TAGS, "tof fourth|tfourth|;");
    rig_close(&r);
}

/* A row that died under one number is known elsewhere by another one: who refers to it means it, whatever the number. */
static void test_a_parent_that_died_under_another_number(void **state) {
    (void)state;
    for (int tag = 0; tag < 2; tag++) {
        struct rig r;
        rig_open(&r, 3, TEAMS);
        rig_act(&r, 1, "INSERT INTO team(name) VALUES('wanted')");
        peer_pull(&r.peers[0], &r.peers[1]);
        rig_act(&r, 0, "INSERT INTO match(team, score) VALUES(1, 'old')");
        rig_act(&r, 2, "INSERT INTO team(name) VALUES('other')");
        rig_tick();
        rig_act(&r, 1, "DELETE FROM team");
        peer_pull(&r.peers[1], &r.peers[2]);
        peer_pull(&r.peers[1], &r.peers[0]); /* it lives again, and is the junior now */
        assert_rows(rig_app(&r, 1), "SELECT name FROM team WHERE id = 1", "tother|;");
        peer_pull(&r.peers[0], &r.peers[2]);
        peer_reopen(&r.peers[0]);
        rig_act(&r, 0, "DELETE FROM team WHERE name = 'wanted'");
        rig_act(&r, 1,
                tag ? "INSERT INTO tag SELECT id, 'a', 'new' FROM team WHERE name = 'wanted'"
                    : "INSERT INTO match(team, score) SELECT id, 'new' FROM team WHERE name = 'wanted'");
        peer_pull(&r.peers[0], &r.peers[1]);
        assert_rows(rig_app(&r, 0), tag ? TAGS : MATCHES, "tnew|twanted|;");
        share_same(&r);
        rig_close(&r);
    }
}

/* What is named by a row that got another number, and died, all at once, is still found under the number that the file shows. */
static void test_a_key_under_a_number_that_moved_and_died(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(name) VALUES('senior')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('junior')");
    rig_act(&r, 1, "INSERT INTO tag VALUES(1, 'b', 'of junior')");
    peer_pull(&r.peers[2], &r.peers[1]);
    peer_pull(&r.peers[1], &r.peers[0]);
    rig_time_passes(&r);
    assert_rows(rig_app(&r, 1), "SELECT name FROM team WHERE id = 1", "tsenior|;");
    rig_act(&r, 1, "DELETE FROM team WHERE name = 'junior'");
    rig_act(&r, 0, "INSERT INTO tag VALUES(1, 'b', 'of senior')");
    peer_queue(&r.peers[2], &r.peers[1]);
    peer_pull(&r.peers[2], &r.peers[0]);
    assert_int_equal(peer_status(&r.peers[2], "parked"), 0);
    assert_rows(rig_app(&r, 2), TAGS, "tof senior|tsenior|;");
    share_same(&r);
    rig_close(&r);
}

/* A number that meant nobody does not follow the row that had it for a while; what meant that row does, in the same table and in one key. */
static void test_a_number_that_meant_nobody_stays(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3,
             TEAMS "; PRAGMA foreign_keys=OFF;"
                   "CREATE TABLE edge(a INTEGER REFERENCES team(id), b INTEGER REFERENCES team(id), v, PRIMARY KEY(a, b)) WITHOUT ROWID");
    rig_act(&r, 0, "INSERT INTO match(team, score) VALUES(1, 'nobody'); INSERT INTO tag VALUES(1, 'a', 'nobody')");
    rig_act(&r, 0, "INSERT INTO edge VALUES(1, 7, 'none'), (7, 1, 'none')");
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('senior')");
    rig_tick();
    rig_act(&r, 2, "INSERT INTO team(name) VALUES('junior')");
    rig_act(&r, 2, "INSERT INTO match(team, score) VALUES(1, 'of junior'); INSERT INTO tag VALUES(1, 'b', 'of junior')");
    rig_act(&r, 2, "INSERT INTO edge VALUES(1, 1, 'both')");
    peer_pull(&r.peers[0], &r.peers[2]);
    peer_pull(&r.peers[0], &r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, MATCHES, "tnobody|tsenior|;tof junior|tjunior|;");
    assert_everywhere(&r, TAGS, "tnobody|tsenior|;tof junior|tjunior|;");
    assert_everywhere(&r, "SELECT v, (SELECT name FROM team WHERE id = a), (SELECT name FROM team WHERE id = b) FROM edge ORDER BY 1, 2",
                      "tboth|tjunior|tjunior|;tnone|n|tsenior|;tnone|tsenior|n|;");
    rig_close(&r);
}

/* Where a row is to move there is, by a number that means nobody, what keeps out those that refer to it: that one row is parked, and the rest goes on. */
static void test_a_number_that_cannot_be_given(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, TEAMS "; PRAGMA foreign_keys=OFF");
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('senior')");
    rig_tick();
    rig_act(&r, 2, "INSERT INTO team(name) VALUES('junior'); INSERT INTO tag VALUES(1, 'b', 'of junior')");
    peer_pull(&r.peers[1], &r.peers[2]);
    int64_t number = app_int(rig_app(&r, 1), "SELECT id FROM team WHERE name = 'junior'");
    char sql[100];
    snprintf(sql, sizeof sql, "INSERT INTO tag VALUES(%lld, 'b', 'nobody')", (long long)number);
    rig_act(&r, 0, sql);
    peer_pull(&r.peers[2], &r.peers[0]);
    peer_pull(&r.peers[2], &r.peers[1]);
    assert_int_equal(r.peers[2].reopened, 0);
    assert_true(peer_status(&r.peers[2], "parked") > 0);
    rig_act(&r, 0, "INSERT INTO match(score) VALUES('goes on')");
    rig_share(&r);
    assert_everywhere(&r, "SELECT score FROM match", "tgoes on|;");
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(r.peers[i].reopened, 0);
    rig_close(&r);
}

/* A request that read a number before it was given to another row goes on meaning the row that it read: for 2 s. */
static void test_a_request_under_an_old_number(void **state) {
    (void)state;
    for (int late = 1; late >= 0; late--) {
        struct rig r;
        rig_open(&r, 2, TEAMS);
        rig_act(&r, 0, "INSERT INTO team(name) VALUES('senior')");
        rig_tick();
        rig_act(&r, 1, "INSERT INTO team(name) VALUES('junior'); INSERT INTO match(score) VALUES('old')");
        peer_pull(&r.peers[1], &r.peers[0]);
        assert_rows(rig_app(&r, 1), "SELECT name FROM team WHERE id = 1", "tsenior|;");
        if (!late)
            rig_time_passes(&r);
        rig_act(&r, 1, "INSERT INTO match(team, score) VALUES(1, 'new')");
        rig_act(&r, 1, "UPDATE match SET team = 1 WHERE score = 'old'");
        assert_rows(rig_app(&r, 1), MATCHES, late ? "tnew|tjunior|;told|tjunior|;" : "tnew|tsenior|;told|tsenior|;");
        share_same(&r);
        rig_act(&r, 1, "INSERT INTO match(team, score) VALUES(1, 'newest')");
        share_same(&r);
        assert_everywhere(&r, "SELECT name FROM match JOIN team ON team.id = match.team WHERE score = 'newest'", "tsenior|;");
        rig_close(&r);
    }
}

/* A row got another number, died there, and somebody gave that number away: who refers to it brings it back all the same. */
static void test_a_number_that_a_dead_row_had_got(void **state) {
    (void)state;
    struct rig r;
    char sql[100];
    rig_open(&r, 3, TEAMS);
    rig_act(&r, 0, "INSERT INTO team(name) VALUES('senior')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(name) VALUES('junior')");
    peer_pull(&r.peers[2], &r.peers[1]);
    peer_pull(&r.peers[1], &r.peers[0]);
    rig_time_passes(&r);
    int64_t number = app_int(rig_app(&r, 1), "SELECT id FROM team WHERE name = 'junior'");
    rig_act(&r, 1, "DELETE FROM team WHERE name = 'junior'");
    rig_act(&r, 2, "INSERT INTO match(team, score) VALUES(1, 'of junior')");
    snprintf(sql, sizeof sql, "INSERT INTO team VALUES(%lld, 'given')", (long long)number);
    rig_act(&r, 0, sql);
    peer_queue(&r.peers[1], &r.peers[2]);
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_rows(rig_app(&r, 1), MATCHES, "tof junior|tjunior|;");
    share_same(&r);
    assert_everywhere(&r, "SELECT name FROM team ORDER BY 1", "tgiven|;tjunior|;tsenior|;");
    rig_close(&r);
}

/* A row whose number is a reference, made where the row that it means was deleted before: it is let be, however it is written again, and though
 * the row between them is there. */
static void test_a_key_left_behind_on_purpose(void **state) {
    (void)state;
    static const char *const CASES[][3] = {
        {"CREATE TABLE top(id INTEGER PRIMARY KEY, v); CREATE TABLE leaf(id INTEGER PRIMARY KEY REFERENCES top, v, w)",
         "INSERT INTO leaf VALUES(1, 'a', 'a')", "REPLACE INTO leaf VALUES(1, 'b', 'b')"},
        {"CREATE TABLE top(id INTEGER PRIMARY KEY, v); CREATE TABLE leaf(id INTEGER PRIMARY KEY REFERENCES top, v, w)",
         "INSERT INTO leaf VALUES(1, 'a', 'a')", "UPDATE leaf SET v = 'b'; UPDATE leaf SET w = 'b'"},
        {"CREATE TABLE top(id INTEGER PRIMARY KEY, v); CREATE TABLE mid(k INTEGER PRIMARY KEY REFERENCES top, v) WITHOUT ROWID;"
         "CREATE TABLE leaf(id INTEGER PRIMARY KEY REFERENCES mid, v, w)",
         "INSERT INTO mid VALUES(1, 'm')", "INSERT INTO leaf VALUES(1, 'b', 'b')"},
        {"CREATE TABLE top(id INTEGER PRIMARY KEY, v); CREATE TABLE mid(k INTEGER PRIMARY KEY REFERENCES top, v) WITHOUT ROWID;"
         "CREATE TABLE leaf(id INTEGER PRIMARY KEY, t INTEGER REFERENCES mid, v)",
         "INSERT INTO mid VALUES(1, 'm')", "INSERT INTO leaf VALUES(1, 1, 'b')"},
        {"CREATE TABLE top(id INTEGER PRIMARY KEY, v); CREATE TABLE leaf(id INTEGER PRIMARY KEY REFERENCES mid, v, w);"
         "CREATE TABLE mid(k INTEGER PRIMARY KEY REFERENCES top, v) WITHOUT ROWID",
         "INSERT INTO leaf VALUES(1, 'a', 'a')", "UPDATE leaf SET v = 'b', w = 'b'"},
    };
    for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++)
        for (int late = 0; late < 2; late++) {
            struct rig r;
            rig_open(&r, 2, CASES[n][0]);
            rig_act(&r, 0, "INSERT INTO top(v) VALUES('goes')");
            share_same(&r);
            rig_act(&r, 0, "DELETE FROM top");
            share_same(&r);
            rig_act(&r, 0, CASES[n][1]);
            if (late)
                share_same(&r);
            rig_act(&r, 0, CASES[n][2]);
            share_same(&r);
            assert_everywhere(&r, "SELECT count(*) FROM top", "i0|;");
            assert_everywhere(&r, "SELECT id, v FROM leaf", "i1|tb|;");
            for (uint32_t i = 0; i < r.count; i++)
                assert_int_equal(peer_conflicts(&r.peers[i]), 0);
            rig_close(&r);
        }
}

/* A row whose number is a reference to nobody, found as the node began or as its table came: whoever gets that number later is no other row's. */
static void test_a_key_that_refers_to_nobody(void **state) {
    (void)state;
    static const char *const LEAF = "CREATE TABLE leaf(id INTEGER PRIMARY KEY REFERENCES top, v)",
                             *const COMES[] = {"INSERT INTO top VALUES(1, 'given')", "INSERT INTO top(v) VALUES('given')"};
    for (int mode = 0; mode < 8; mode++) {
        struct rig r;
        char *sql = sqlite3_mprintf("CREATE TABLE top(id INTEGER PRIMARY KEY, v); %s; %s", mode & 1 ? "SELECT 1" : LEAF,
                                    mode & 1 ? "SELECT 1" : "INSERT INTO leaf VALUES(1, 'l')");
        rig_open(&r, 2, sql);
        sqlite3_free(sql);
        for (uint32_t i = 0; i < r.count && (mode & 1); i++)
            app_exec(rig_app(&r, i), LEAF);
        if (mode & 1)
            rig_act(&r, 0, "INSERT INTO leaf VALUES(1, 'l')");
        rig_act(&r, mode >> 2, COMES[mode >> 1 & 1]);
        share_same(&r);
        assert_everywhere(&r, "SELECT leaf.v, top.v FROM leaf JOIN top ON top.id = leaf.id", "tl|tgiven|;");
        for (uint32_t i = 0; i < r.count; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_number_that_is_left_and_taken_at_once),
        cmocka_unit_test(test_a_parent_that_died_under_another_number),
        cmocka_unit_test(test_a_key_under_a_number_that_moved_and_died),
        cmocka_unit_test(test_a_number_that_meant_nobody_stays),
        cmocka_unit_test(test_a_number_that_cannot_be_given),
        cmocka_unit_test(test_a_request_under_an_old_number),
        cmocka_unit_test(test_a_number_that_a_dead_row_had_got),
        cmocka_unit_test(test_a_key_left_behind_on_purpose),
        cmocka_unit_test(test_a_key_that_refers_to_nobody),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
