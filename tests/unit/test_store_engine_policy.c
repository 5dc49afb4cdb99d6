/* The engine: policies per table: what they change, that all servers follow them, and what is said of those that cannot hold. */
#include "store_rig.h"

#define LINE(t, n, v)                                                                                                                      \
    { .table = t, .name = n, .value = v, .where = "test.conf:1" }

/* As rig_open(), server 0 has these policies in its configuration, and the others hear of them. */
static void open_with(struct rig *r, uint32_t count, const char *sql, const struct policy_line *lines, uint32_t lines_count) {
    rig_start(r, count);
    r->peers[0].policies = lines;
    r->peers[0].policies_count = lines_count;
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
        app_exec(r->peers[i].s.app, sql);
        peer_open(&r->peers[i]);
        peer_rest(&r->peers[i]);
    }
    rig_share(r);
    rig_time_passes(r);
}

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
}

/* "table policy value, " of what is in force, or "table policy: problem". */
static char *policies_of(struct peer *p) {
    json_t *j = store_status(p->s.store), *each;
    size_t i, len;
    char *text;
    FILE *out = open_memstream(&text, &len);
    json_array_foreach(json_object_get(j, "policies"), i, each) {
        const char *problem = json_string_value(json_object_get(each, "problem"));
        fprintf(out, "%s%s %s = %s%s%s", i ? ", " : "", json_string_value(json_object_get(each, "table")),
                json_string_value(json_object_get(each, "policy")), json_string_value(json_object_get(each, "value")), problem ? ": " : "",
                problem ? problem : "");
    }
    fclose(out);
    json_decref(j);
    return text;
}

static void assert_policies(struct peer *p, const char *want) {
    char *text = policies_of(p);
    assert_string_equal(text, want);
    free(text);
}

static void assert_policies_say(struct peer *p, const char *part) {
    char *text = policies_of(p);
    if (!strstr(text, part))
        fail_msg("\"%s\" is not said: %s", part, text);
    free(text);
}

/* ---- unique */

static void test_rename_keeps_both_values(void **state) {
    (void)state;
    static const struct policy_line RENAME[] = {LINE("t", "unique", "rename")};
    struct rig r;
    open_with(&r, 3, "CREATE TABLE t(k TEXT PRIMARY KEY, name TEXT UNIQUE)", RENAME, 1);
    rig_act(&r, 0, "INSERT INTO t VALUES('a', 'x'), ('b', 'y')");
    share_same(&r);
    rig_time_passes(&r);
    rig_act(&r, 1, "UPDATE t SET name = 'same' WHERE k = 'a'");
    rig_tick();
    rig_act(&r, 2, "UPDATE t SET name = 'same' WHERE k = 'b'");
    share_same(&r);
    assert_everywhere(&r, "SELECT k, name = 'same', name LIKE 'same (______)' FROM t ORDER BY k", "ta|i0|i1|;tb|i1|i0|;");
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(peer_lost(&r.peers[i], "name", "\"same\""));
        assert_policies(&r.peers[i], "t unique = rename");
    }
    char *problems = peer_problems(&r.peers[0], "t"); /* a policy in force is none */
    assert_string_equal(problems, "");
    free(problems);
    rig_close(&r);
}

/* ---- orphans */

#define FAMILY                                                                                                                             \
    "CREATE TABLE p(id INTEGER PRIMARY KEY, v); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p, v); "                               \
    "CREATE TABLE g(id INTEGER PRIMARY KEY, c REFERENCES c, v)"

static void orphaned(struct rig *r, const char *policy, uint32_t author, uint32_t deleter) {
    static struct policy_line lines[1]; /* they outlive the store */
    lines[0] = (struct policy_line)LINE("c", "orphans", policy);
    open_with(r, 3, FAMILY, lines, 1);
    rig_act(r, 0, "INSERT INTO p(v) VALUES('one'), ('two')");
    share_same(r);
    rig_time_passes(r);
    rig_act(r, deleter, "DELETE FROM p WHERE v = 'one'");
    rig_act(r, author, "INSERT INTO c(p, v) SELECT id, 'child' FROM p WHERE v = 'one'; INSERT INTO g(c, v) SELECT id, 'grand' FROM c");
    share_same(r);
}

static void test_keep_leaves_an_orphan(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct rig r;
        orphaned(&r, "keep", 1 + i, 2 - i);
        assert_everywhere(&r, "SELECT v FROM p", "ttwo|;");
        assert_everywhere(&r, "SELECT c.p, c.v, g.v FROM c JOIN g ON g.c = c.id", "i1|tchild|tgrand|;");
        assert_int_equal(peer_conflicts(&r.peers[0]), 0);
        rig_close(&r);
    }
}

static void resolve_loser(struct rig *r, uint32_t i, const char *table, const char *value) {
    json_t *list = store_conflicts(r->peers[i].s.store), *c, *answer = NULL, *how = json_pack("{s:s}", "keep", "loser");
    char id[40] = "";
    size_t n;
    json_array_foreach(list, n, c) {
        if (!strcmp(json_string_value(json_object_get(c, "table")), table) &&
            !strcmp(json_string_value(json_object_get(c, "kind")), "orphan"))
            snprintf(id, sizeof id, "%s", json_string_value(json_object_get(c, "id")));
    }
    json_decref(list);
    assert_true(*id);
    (void)value;
    for (int tries = 0; tries < 50; tries++) {
        json_decref(answer);
        assert_int_equal(store_resolve(r->peers[i].s.store, id, how, &answer), 0);
        if (!json_object_get(answer, "retry"))
            break;
        peer_rest(&r->peers[i]);
        rig_time_passes(r);
    }
    if (!json_object_get(answer, "done"))
        fail_msg("%s", json_dumps(answer, 0));
    json_decref(answer);
    json_decref(how);
}

static void test_cascade_deletes_and_lists(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct rig r;
        orphaned(&r, "cascade", 1 + i, 2 - i);
        assert_everywhere(&r, "SELECT v FROM p UNION ALL SELECT v FROM c UNION ALL SELECT v FROM g", "ttwo|;");
        for (uint32_t k = 0; k < 3; k++)
            assert_int_equal(peer_conflicts(&r.peers[k]), 2); /* the child and the grandchild */
        rig_time_passes(&r);
        resolve_loser(&r, i, "g", "\"grand\""); /* brings its parents along */
        share_same(&r);
        assert_everywhere(&r, "SELECT p.v, c.v, g.v FROM g JOIN c ON g.c = c.id JOIN p ON c.p = p.id", "tone|tchild|tgrand|;");
        assert_int_equal(peer_conflicts(&r.peers[0]), 0);
        rig_close(&r);
    }
}

/* ---- key */

#define TEAMS "CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER, season INTEGER, name TEXT)"

static void test_a_key_that_the_schema_does_not_declare(void **state) {
    (void)state;
    static const struct policy_line KEY[] = {LINE("team", "key", "number\nseason")};
    for (int indexed = 0; indexed < 2; indexed++) {
        struct rig r;
        open_with(&r, 3, indexed ? TEAMS "; CREATE INDEX i ON team(season, number)" : TEAMS, KEY, 1);
        rig_act(&r, 0, "INSERT INTO team(number, season, name) VALUES(254, 2023, 'old'), (254, 2023, 'on purpose'), (9, 2023, 'nine')");
        share_same(&r);
        rig_time_passes(&r);
        rig_act(&r, 1, "UPDATE team SET number = 9, season = 2024 WHERE name = 'nine'");
        rig_tick();
        rig_act(&r, 2, "INSERT INTO team(number, season, name) VALUES(9, 2024, 'other')");
        share_same(&r);
        assert_everywhere(&r, "SELECT name FROM team WHERE number = 9 AND season = 2024", "tother|;");
        assert_everywhere(&r, "SELECT count(*) FROM team WHERE number = 254", "i2|;");
        for (uint32_t i = 0; i < 3; i++)
            assert_policies_say(&r.peers[i], "1 value of it is in several rows here");
        /* who knows of the other row may make a second one */
        rig_time_passes(&r);
        rig_act(&r, 1, "INSERT INTO team(number, season, name) VALUES(9, 2024, 'knowing')");
        share_same(&r);
        assert_everywhere(&r, "SELECT count(*) FROM team WHERE number = 9 AND season = 2024", "i2|;");
        rig_close(&r);
    }
}

/* Both under one number, too; server 1 was made from what server 0 told, policies and all. */
static void new_rows(bool renames) {
    static const struct policy_line KEY[] = {LINE("team", "key", "number\nseason"), LINE("team", "unique", "rename")};
    struct rig r;
    rig_start(&r, 2);
    r.peers[0].policies = KEY;
    r.peers[0].policies_count = renames ? 2 : 1;
    assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
    app_exec(rig_app(&r, 0), TEAMS);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    r.peers[1].create = true;
    peer_open(&r.peers[1]);
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
    rig_share(&r);
    rig_time_passes(&r);
    rig_act(&r, 0, "INSERT INTO team(number, season, name) VALUES(254, 2024, 'Poofs')");
    rig_act(&r, 1, "INSERT INTO team(number, season, name) VALUES(254, 2024, 'The Poofs')");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM team WHERE number = 254 AND season = 2024", "i1|;");
    assert_everywhere(&r, "SELECT count(*) FROM team", renames ? "i2|;" : "i1|;"); /* entered twice: one row */
    rig_close(&r);
}

static void test_new_rows_with_a_key(void **state) {
    (void)state;
    new_rows(false);
    new_rows(true);
}

/* Many at once in a table without an index: once through it. */
static void test_many_rows_with_a_key(void **state) {
    (void)state;
    static const struct policy_line KEY[] = {LINE("team", "key", "number\nseason"), LINE("team", "unique", "rename")};
    struct rig r;
    open_with(&r, 2, TEAMS, KEY, 2);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(
            &r, i,
            "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 200) INSERT INTO team(number, season, name) SELECT x, 2024, "
            "'imported' FROM n");
    share_same(&r);
    assert_everywhere(&r, "SELECT count(*) FROM (SELECT 1 FROM team GROUP BY number, season HAVING count(*) > 1)", "i0|;");
    rig_close(&r);
}

/* ---- refs */

static void test_references_that_the_schema_does_not_declare(void **state) {
    (void)state;
    static const struct policy_line REFS[] = {LINE("match", "refs", "team_id -> team.id\nother -> side.db/team.id")};
    struct policy_line refs[2] = {REFS[0], LINE("match", "orphans", "revive")};
    struct rig r;
    (void)refs;
    open_with(&r, 2, "CREATE TABLE team(id INTEGER PRIMARY KEY, name); CREATE TABLE match(id INTEGER PRIMARY KEY, team_id, other)", REFS,
              1);
    for (uint32_t i = 0; i < 2; i++)
        rig_act(&r, i,
                i ? "INSERT INTO team VALUES(NULL, 'b'); INSERT INTO match(team_id) VALUES(last_insert_rowid())"
                  : "INSERT INTO team VALUES(NULL, 'a'); INSERT INTO match(team_id) VALUES(last_insert_rowid())");
    share_same(&r);
    assert_everywhere(&r, "SELECT name, count(*) FROM match JOIN team ON team.id = team_id GROUP BY 1 ORDER BY 1", "ta|i1|;tb|i1|;");
    rig_close(&r);
}

/* ---- all servers, alike */

static void test_the_last_to_say_decides(void **state) {
    (void)state;
    static const struct policy_line RENAME[] = {LINE("t", "unique", "rename")}, MERGE[] = {LINE("t", "unique", "merge")};
    struct rig r;
    open_with(&r, 3, "CREATE TABLE t(k TEXT PRIMARY KEY, name TEXT UNIQUE)", RENAME, 1);
    side_skip(1000);
    r.peers[1].policies = MERGE;
    r.peers[1].policies_count = 1;
    peer_reopen(&r.peers[1]);
    share_same(&r);
    assert_policies(&r.peers[1], "");
    assert_policies(&r.peers[2], "");
    assert_policies_say(&r.peers[0], "test.conf:1: unique = rename is not in force");
    peer_reopen(&r.peers[0]); /* a restart says nothing new */
    share_same(&r);
    assert_policies(&r.peers[2], "");
    r.peers[1].policies_count = 0; /* taken back: it is the default already */
    peer_reopen(&r.peers[1]);
    r.peers[0].policies_count = 0;
    peer_reopen(&r.peers[0]);
    share_same(&r);
    assert_policies(&r.peers[0], "");
    side_skip(1000);
    r.peers[2].policies = RENAME;
    r.peers[2].policies_count = 1;
    peer_reopen(&r.peers[2]);
    share_same(&r);
    assert_policies(&r.peers[0], "t unique = rename");
    side_skip(1000);
    r.peers[2].policies_count = 0;
    peer_reopen(&r.peers[2]);
    share_same(&r);
    assert_policies(&r.peers[0], "");
    rig_close(&r);
}

static void test_what_cannot_hold_is_said(void **state) {
    (void)state;
    static const struct policy_line BAD[] = {LINE("nobody", "unique", "rename"),
                                             LINE("team", "key", "number\nseasn"),
                                             LINE("team", "refs", "name -> team.number"),
                                             LINE("match", "refs", "team_id -> teem.id"),
                                             LINE("a", "refs", "b -> b.a"),
                                             LINE("b", "refs", "a -> a.b"),
                                             LINE("b", "key", "v")};
    struct rig r;
    open_with(&r, 2,
              TEAMS
              "; CREATE TABLE match(id INTEGER PRIMARY KEY, team_id); CREATE TABLE a(b INTEGER PRIMARY KEY); CREATE TABLE b(a INTEGER "
              "PRIMARY KEY, v); INSERT INTO b(v) VALUES('x'), ('x'), ('y'), (NULL), (NULL)",
              BAD, sizeof BAD / sizeof *BAD);
    struct peer *p = &r.peers[0];
    assert_policies_say(p, "test.conf:1: unique = rename: the application here has no table \"nobody\"");
    assert_policies_say(p, "key = number, seasn: it has no column \"seasn\"");
    assert_policies_say(p, "column \"number\" is not the key of \"team\"");
    assert_policies_say(p, "there is no table \"teem\"");
    assert_policies_say(p, "b -> b.a: these references go in a loop");
    assert_policies_say(p, "key = v: 1 value of it is in several rows here");
    assert_problem(p, "team", "until then the default is in force");
    assert_non_null(strstr(p->log, "test.conf:1: unique = rename"));
    assert_policies_say(&r.peers[1], "said by another server");
    rig_act(&r, 0, "INSERT INTO match VALUES(1, 2); INSERT INTO team(number) VALUES(1)");
    share_same(&r);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rename_keeps_both_values),
        cmocka_unit_test(test_keep_leaves_an_orphan),
        cmocka_unit_test(test_cascade_deletes_and_lists),
        cmocka_unit_test(test_a_key_that_the_schema_does_not_declare),
        cmocka_unit_test(test_new_rows_with_a_key),
        cmocka_unit_test(test_many_rows_with_a_key),
        cmocka_unit_test(test_references_that_the_schema_does_not_declare),
        cmocka_unit_test(test_the_last_to_say_decides),
        cmocka_unit_test(test_what_cannot_hold_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
