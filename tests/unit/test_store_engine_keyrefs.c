/* Rows whose key is a reference, or holds one, while the application gives the parent another number: they go on meaning whom they meant. */
#include "store_rig.h"

static const char SCHEMA[] = "CREATE TABLE team(id INTEGER PRIMARY KEY, nick TEXT);"
                             "CREATE TABLE cat(id INTEGER PRIMARY KEY, name TEXT);"
                             "CREATE TABLE detail(team INTEGER PRIMARY KEY REFERENCES team(id) ON DELETE CASCADE ON UPDATE CASCADE, body);"
                             "CREATE TABLE member(team INTEGER REFERENCES team(id) ON DELETE CASCADE ON UPDATE CASCADE,"
                             "cat INTEGER REFERENCES cat(id) ON DELETE CASCADE, role, PRIMARY KEY(team, cat));"
                             "INSERT INTO team(nick) VALUES('a'), ('b'), ('c'); INSERT INTO cat(name) VALUES('x');";
static const char SWAP[] =
    "BEGIN; UPDATE team SET id=-1 WHERE id=1; UPDATE team SET id=1 WHERE id=2; UPDATE team SET id=2 WHERE id=-1; COMMIT";
static const char MEMBERS[] = "SELECT nick, role FROM team JOIN member ON team=team.id ORDER BY 1, 2";

static void begin(struct rig *r, uint32_t count, const char *schema) {
    rig_open(r, count, schema);
    for (uint32_t i = 0; i < count; i++)
        app_exec(rig_app(r, i), "PRAGMA foreign_keys=ON");
}

static void end(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        peer_retry(&r->peers[i]);
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    assert_same_conflicts(r);
    assert_everywhere(r, "PRAGMA foreign_key_check", "");
    rig_close(r);
}

/* ON UPDATE CASCADE writes the child, and its note, before the parent's: under the number that another row had until then. */
static void test_cascade_to_a_number_that_was_left(void **state) {
    (void)state;
    static const char *moves[] = {SWAP, "UPDATE team SET id=7 WHERE id=2; UPDATE team SET id=2 WHERE id=1",
                                  "DELETE FROM team WHERE id=2; UPDATE team SET id=2 WHERE id=1"};
    for (size_t i = 0; i < 3; i++)
        for (int several = 0; several < 2; several++) {
            struct rig r;
            begin(&r, 2, SCHEMA);
            rig_act(&r, 0, "INSERT INTO member VALUES(1, 1, 'of a')");
            if (several)
                rig_act(&r, 0, "DELETE FROM team WHERE id=3");
            rig_act(&r, 0, moves[i]);
            rig_share(&r);
            rig_time_passes(&r);
            assert_everywhere(&r, MEMBERS, "ta|tof a|;");
            rig_act(&r, 0, "UPDATE member SET role='new' WHERE team=2");
            rig_share(&r);
            assert_everywhere(&r, MEMBERS, "ta|tnew|;");
            rig_act(&r, several, "DELETE FROM member WHERE team=2");
            rig_share(&r);
            assert_everywhere(&r, "SELECT * FROM member", "");
            end(&r);
        }
}

/* The parent's number was left in an earlier drain, by a row that died. */
static void test_cascade_to_a_number_that_is_free(void **state) {
    (void)state;
    struct rig r;
    begin(&r, 2, SCHEMA);
    rig_act(&r, 0, "INSERT INTO member VALUES(1, 1, 'of a')");
    rig_act(&r, 0, "DELETE FROM team WHERE id=2");
    rig_act(&r, 0, "UPDATE team SET id=2 WHERE id=1");
    rig_share(&r);
    assert_everywhere(&r, MEMBERS, "ta|tof a|;");
    rig_act(&r, 0, "DELETE FROM member WHERE team=2");
    rig_share(&r);
    assert_everywhere(&r, "SELECT * FROM member", "");
    end(&r);
}

/* Its parent died unseen, another row has the number by now: the parent lives again, under another number, and the row is there with it. */
static void test_key_follows_a_parent_that_lives_again(void **state) {
    (void)state;
    struct rig r;
    begin(&r, 2, SCHEMA);
    rig_act(&r, 1, SWAP);
    rig_act(&r, 0, "INSERT INTO detail VALUES(1, 'of a')");
    rig_share(&r);
    assert_everywhere(&r, "SELECT nick, body FROM team JOIN detail ON team=id", "ta|tof a|;");
    assert_everywhere(&r, "SELECT count(*) FROM team WHERE nick='a'", "i2|;");
    end(&r);
}

/* The same where its parent got another number elsewhere before it was deleted there. */
static void test_key_follows_a_parent_renumbered_and_deleted(void **state) {
    (void)state;
    struct rig r;
    begin(&r, 2, SCHEMA);
    rig_act(&r, 0, "INSERT INTO team(nick) VALUES('zero'); INSERT INTO detail VALUES(4, 'of zero')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(nick) VALUES('one')");
    peer_pull(&r.peers[0], &r.peers[1]);
    rig_time_passes(&r);
    rig_act(&r, 1, "INSERT INTO detail VALUES(4, 'of one')");
    rig_act(&r, 0, "DELETE FROM team WHERE nick='one'");
    peer_pull(&r.peers[1], &r.peers[0]);
    rig_share(&r);
    assert_everywhere(&r, "SELECT nick, body FROM team JOIN detail ON team=id ORDER BY 1", "tone|tof one|;tzero|tof zero|;");
    end(&r);
}

/* A row that is gone is listed under the number that its parent would have, wherever it was shown before, if at all. */
static void test_key_of_a_row_that_is_gone(void **state) {
    (void)state;
    struct rig r;
    begin(&r, 3, SCHEMA);
    rig_act(&r, 0, "INSERT INTO team(nick) VALUES('zero'); INSERT INTO detail VALUES(4, 'of zero')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO team(nick) VALUES('one'); INSERT INTO detail VALUES(4, 'of one')");
    peer_pull(&r.peers[2], &r.peers[1]);
    rig_time_passes(&r);
    rig_act(&r, 1, "UPDATE detail SET body='unseen'");
    rig_act(&r, 2, "DELETE FROM team WHERE nick='one'");
    rig_share(&r);
    assert_everywhere(&r, "SELECT nick, body FROM team JOIN detail ON team=id", "tzero|tof zero|;");
    assert_true(peer_lost(&r.peers[0], "body", "\"unseen\""));
    end(&r);
}

/* Each key is a reference to the other: a row and its other half stay together. */
static void test_two_keys_that_refer_to_each_other(void **state) {
    (void)state;
    static const char *write[] = {
        "BEGIN; PRAGMA defer_foreign_keys=ON; INSERT INTO b(y) VALUES('zero'); INSERT INTO a(x) VALUES('zero'); COMMIT",
        "BEGIN; PRAGMA defer_foreign_keys=ON; INSERT INTO a(x) VALUES('one'); INSERT INTO b(y) VALUES('one'); COMMIT"};
    struct rig r;
    begin(&r, 2, "CREATE TABLE b(id INTEGER PRIMARY KEY REFERENCES a(id), y); CREATE TABLE a(id INTEGER PRIMARY KEY REFERENCES b(id), x);");
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i, write[i]);
    rig_share(&r);
    assert_everywhere(&r, "SELECT x, y FROM a JOIN b USING(id) ORDER BY 1", "tone|tone|;tzero|tzero|;");
    end(&r);
}

/* Its author leaves it behind on purpose, with foreign keys off: it stays what it is everywhere, and brings nobody back. */
static void test_key_of_a_row_left_behind(void **state) {
    (void)state;
    static const char *born[] = {"", "INSERT INTO team(nick) VALUES('d')"};
    static const char *inserts[] = {"INSERT INTO detail VALUES(%d, 'new')", "INSERT INTO member VALUES(%d, 1, 'new')"};
    static const char *looks[] = {"SELECT * FROM detail", "SELECT * FROM member"};
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 2; i++)
            for (int apart = 0; apart < 6; apart++) {
                struct rig r;
                char insert[80], delete[60], both[150], update[80], want[40];
                int id = b ? 4 : 3;
                rig_open(&r, 2, SCHEMA);
                rig_act(&r, 0, born[b]);
                rig_share(&r);
                rig_time_passes(&r);
                snprintf(insert, sizeof insert, inserts[i], id);
                snprintf(delete, sizeof delete, "DELETE FROM team WHERE id=%d", id);
                snprintf(both, sizeof both, "%s; %s", insert, delete);
                snprintf(update, sizeof update,
                         i ? "UPDATE member SET role='left' WHERE team=%d" : "UPDATE detail SET body='left' WHERE team=%d", id);
                snprintf(want, sizeof want, i ? "i%d|i1|t%s|;" : "i%d|t%s|;", id, apart < 3 ? "new" : "left");
                rig_act(&r, 0, apart ? insert : both);
                if (apart == 2 || apart == 3)
                    rig_share(&r);
                if (apart == 3)
                    rig_act(&r, 0, update);
                if (apart)
                    rig_act(&r, 0, delete);
                if (apart == 4)
                    rig_share(&r);
                if (apart >= 4)
                    rig_act(&r, 0, update);
                rig_share(&r);
                for (uint32_t k = 0; k < r.count; k++)
                    peer_retry(&r.peers[k]);
                rig_share(&r);
                rig_assert_settled(&r);
                assert_everywhere(&r, looks[i], want);
                assert_everywhere(&r, "SELECT count(*) FROM team", b ? "i3|;" : "i2|;");
                for (uint32_t k = 0; k < r.count; k++)
                    assert_int_equal(peer_conflicts(&r.peers[k]), 0);
                rig_close(&r);
            }
}

/* Deleted and written again from somewhere else, without foreign keys: a row that stayed is the row that it was, also beside the new parent. */
static void test_key_of_a_row_that_stayed_when_its_parent_came_again(void **state) {
    static const char NEW[] = "INSERT INTO team(nick) VALUES('d'); INSERT INTO member VALUES(4, 1, 'of d')";
    static const char *const AGAIN[] = {"DELETE FROM team; INSERT INTO team VALUES(1, 'A'), (2, 'B'), (4, 'D')",
                                        "UPDATE team SET id = id + 10; INSERT INTO team VALUES(1, 'A'), (2, 'B'), (4, 'D')"};
    static const char *const THEN[] = {
        "UPDATE member SET role = 'new'",
        "INSERT INTO member VALUES(1, 1, 'new'), (4, 1, 'new') ON CONFLICT DO UPDATE SET role = excluded.role",
        "REPLACE INTO member VALUES(1, 1, 'new'), (4, 1, 'new')",
        "DELETE FROM member",
        "DELETE FROM member; INSERT INTO member VALUES(1, 1, 'new')",
        "ALTER TABLE member RENAME COLUMN role TO part",
    };
    (void)state;
    for (int mode = 0; mode < 8; mode++) /* there before the nodes, or not; how it came again; between two drains, or in one */
        for (size_t n = 0; n < sizeof THEN / sizeof *THEN; n++)
            for (uint32_t who = 0; who < 2; who++) {
                struct rig r;
                rig_open(&r, 2, SCHEMA);
                rig_act(&r, 0, mode & 1 ? NEW : "INSERT INTO member VALUES(1, 1, 'of a')");
                rig_share(&r);
                rig_time_passes(&r);
                rig_tick();
                app_exec(rig_app(&r, 1), AGAIN[mode >> 1 & 1]);
                if (mode & 4 || who == 0) {
                    rig_share(&r);
                    rig_time_passes(&r);
                    rig_tick();
                }
                for (uint32_t i = 0; i < 2; i++)
                    if (i == who || n == 5)
                        app_exec(rig_app(&r, i), THEN[n]);
                rig_share(&r);
                rig_assert_settled(&r);
                assert_same_tables(&r);
                if (peer_conflicts(&r.peers[0]))
                    fail_msg("mode %d, case %zu on %u: %zu conflicts", mode, n, who, peer_conflicts(&r.peers[0]));
                rig_close(&r);
            }
}

/* The application had it before there was a store, and never what it refers to: whoever gets that number is another one, for whom it does not wait. */
static void test_key_that_never_was_anybodys(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE team(id INTEGER PRIMARY KEY, nick);"
             "CREATE TABLE detail(team INTEGER PRIMARY KEY REFERENCES team(id), other INTEGER REFERENCES detail(team));"
             "INSERT INTO detail VALUES(3, NULL), (8, 8)");
    rig_act(&r, 0, "DELETE FROM detail WHERE team=3");
    rig_share(&r);
    rig_time_passes(&r);
    rig_act(&r, 0, "UPDATE detail SET other=3; INSERT INTO team VALUES(8, 'new')");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT nick, other FROM team JOIN detail ON team=id", "tnew|i3|;");
    for (uint32_t k = 0; k < r.count; k++)
        assert_int_equal(peer_conflicts(&r.peers[k]), 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cascade_to_a_number_that_was_left),
        cmocka_unit_test(test_cascade_to_a_number_that_is_free),
        cmocka_unit_test(test_key_follows_a_parent_that_lives_again),
        cmocka_unit_test(test_key_follows_a_parent_renumbered_and_deleted),
        cmocka_unit_test(test_key_of_a_row_that_is_gone),
        cmocka_unit_test(test_key_of_a_row_left_behind),
        cmocka_unit_test(test_key_of_a_row_that_stayed_when_its_parent_came_again),
        cmocka_unit_test(test_key_that_never_was_anybodys),
        cmocka_unit_test(test_two_keys_that_refer_to_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
