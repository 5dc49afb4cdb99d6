/* What joining would do is told beforehand, from digests, and then it is what joining does. */
#include "store_rig.h"

#include "node/store/compare.h"

#define SCHEMA                                                                                                                             \
    "CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT UNIQUE);"                                                                         \
    "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT, role INTEGER REFERENCES role(id), boss INTEGER REFERENCES user(id));"            \
    "CREATE TABLE profile(user INTEGER PRIMARY KEY REFERENCES user(id), text);"                                                            \
    "CREATE TABLE may(role INTEGER REFERENCES role(id), what TEXT, PRIMARY KEY(role, what));"                                              \
    "CREATE TABLE setting(key TEXT PRIMARY KEY COLLATE NOCASE, v);"                                                                        \
    "CREATE TABLE note(text);"

struct asked {
    struct peer *cluster;
    uint32_t questions;
    size_t bytes;     /* of answers */
    uint32_t fail_at; /* this question finds the line cut; 0: none */
};

static json_t *ask(void *ctx, json_t *question, char *why, size_t why_len) {
    struct asked *a = ctx;
    json_t *answer = ++a->questions == a->fail_at ? NULL : store_survey(a->cluster->s.store, question);
    json_decref(question);
    const char *error = json_string_value(json_object_get(answer, "error"));
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    a->bytes += text ? strlen(text) : 0;
    free(text);
    if (answer && !error)
        return answer;
    snprintf(why, why_len, "%s", error ? error : "the line is cut");
    json_decref(answer);
    return NULL;
}

static json_t *compared(struct asked *a, sqlite3 *db, bool match) {
    struct compare_config config = {.db = SIDE_DB_NAME, .match = match, .ask = ask, .ctx = a};
    char why[300];
    json_t *tables = compare_database(db, &config, why, sizeof why);
    if (!tables)
        fail_msg("%s", why);
    return tables;
}

static json_int_t counted(const json_t *tables, const char *table, const char *field) {
    size_t i;
    json_t *t;
    json_array_foreach(tables, i, t) {
        if (!strcmp(json_string_value(json_object_get(t, "name")), table))
            return json_integer_value(json_object_get(t, field));
    }
    fail_msg("no table %s", table);
    return -1;
}

/* equal, matched, renumbered, conflicts, only_here, only_there */
static void assert_counts(const json_t *tables, const char *table, const char *want) {
    static const char *const FIELDS[] = {"equal", "matched", "renumbered", "conflicts", "only_here", "only_there"};
    char got[200] = "";
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%lld", i ? " " : "", (long long)counted(tables, table, FIELDS[i]));
    if (strcmp(got, want) != 0)
        fail_msg("%s: %s instead of %s", table, got, want);
}

/* Server 0 is the cluster; server 1 has a file and never ran. */
static void begin(struct rig *r, const char *schema, const char *there, const char *here) {
    rig_start(r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
        app_exec(rig_app(r, i), schema);
        app_exec(rig_app(r, i), i ? here : there);
    }
    peer_open(&r->peers[0]);
    peer_rest(&r->peers[0]);
}

static void join(struct rig *r) {
    struct peer *p = &r->peers[1];
    peer_open(p);
    peer_rest(p);
    side_close_store(&p->s);
    assert_int_equal(store_set_aside(p->s.state_path, p->s.app_path), 0);
    peer_open(p);
    peer_rest(p);
    rig_share(r);
}

/* No row vanishes: what is not the same row as one there is a row more. */
static void assert_came_true(struct rig *r, const json_t *tables) {
    size_t i;
    json_t *t;
    json_array_foreach(tables, i, t) {
        const char *name = json_string_value(json_object_get(t, "name"));
        char sql[200];
        snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", name);
        json_int_t want = counted(tables, name, "here") + counted(tables, name, "only_there");
        if (app_int(rig_app(r, 0), sql) != want)
            fail_msg("%s has %lld rows, and %lld were foretold", name, (long long)app_int(rig_app(r, 0), sql), (long long)want);
    }
}

static void test_each_kind_of_row(void **state) {
    (void)state;
    struct rig r;
    begin(&r, SCHEMA,
          "INSERT INTO role(name) VALUES('admin'), ('viewer'), ('scout'); INSERT INTO user(name, role) VALUES('ann', 1), ('al', 2);"
          "INSERT INTO profile VALUES(1, 'of ann'); INSERT INTO may VALUES(1, 'all'), (3, 'write');"
          "INSERT INTO setting VALUES('lang', 'de'), ('Same', 1); INSERT INTO note VALUES('both'), ('both'), ('there');",
          "INSERT INTO role(name) VALUES('admin'), ('scout'), ('judge'); INSERT INTO user(name, role) VALUES('bob', 2), ('al', 2);"
          "INSERT INTO profile VALUES(1, 'of bob'); INSERT INTO may VALUES(1, 'all'), (2, 'write'), (3, 'decide');"
          "INSERT INTO setting VALUES('lang', 'en'), ('Same', 1), ('mine', 1); INSERT INTO note VALUES('both'), ('here');");
    char *before = app_rows(rig_app(&r, 1), "SELECT * FROM sqlite_schema", &(int){0});
    json_t *tables = compared(&(struct asked){.cluster = &r.peers[0]}, rig_app(&r, 1), false);
    assert_counts(tables, "role", "1 1 1 0 0 1"); /* scout is the third one there; judge cannot stay the third */
    assert_counts(tables, "user", "0 0 1 1 0 1"); /* both are adopted by content: al, of whom the role differs, is one */
    assert_counts(tables, "profile", "0 0 0 0 1 1");
    assert_counts(tables, "may", "1 1 0 0 1 0");
    assert_counts(tables, "setting", "1 0 0 1 1 0");
    assert_counts(tables, "note", "1 0 0 0 1 2");
    assert_rows(rig_app(&r, 1), "SELECT * FROM sqlite_schema", before);
    free(before);
    join(&r);
    assert_came_true(&r, tables);
    json_decref(tables);
    rig_close(&r);
}

static void test_a_row_that_loses_its_unique_value(void **state) {
    (void)state;
    struct rig r;
    begin(
        &r,
        "CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER UNIQUE, name TEXT UNIQUE); CREATE TABLE k(k TEXT PRIMARY KEY, u UNIQUE);",
        "INSERT INTO team(number, name) VALUES(1, 'one'), (2, 'two'); INSERT INTO k VALUES('a', 1)",
        "INSERT INTO team(id, number, name) VALUES(7, 1, 'eins'), (8, 2, 'two'), (9, NULL, NULL); INSERT INTO k VALUES('b', 1), ('c', "
        "NULL)");
    json_t *tables = compared(&(struct asked){.cluster = &r.peers[0]}, rig_app(&r, 1), false);
    assert_counts(tables, "team", "0 1 0 1 1 1");
    assert_counts(tables, "k", "0 0 0 1 1 1");
    join(&r);
    assert_came_true(&r, tables);
    assert_true(peer_lost(&r.peers[0], "number", "1"));
    json_decref(tables);
    rig_close(&r);
}

/* Equal databases cost digests, and one row that differs costs its range. */
static void test_what_is_equal_is_not_fetched(void **state) {
    (void)state;
    struct rig r;
    const char *fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
                       "INSERT INTO setting SELECT 'key' || i, i FROM n; INSERT INTO role(name) SELECT key FROM setting";
    begin(&r, SCHEMA, fill, fill);
    struct asked a = {.cluster = &r.peers[0]};
    json_t *tables = compared(&a, rig_app(&r, 1), false);
    assert_counts(tables, "setting", "20000 0 0 0 0 0");
    assert_counts(tables, "role", "20000 0 0 0 0 0");
    assert_true(a.bytes < 20000);
    json_decref(tables);
    app_exec(rig_app(&r, 1), "UPDATE setting SET v = -1 WHERE key = 'key777'; DELETE FROM setting WHERE key = 'key19999'");
    rig_act(&r, 0, "INSERT INTO role(name) VALUES('born there')");
    a = (struct asked){.cluster = &r.peers[0]};
    tables = compared(&a, rig_app(&r, 1), false);
    assert_counts(tables, "setting", "19998 0 0 1 0 1");
    assert_counts(tables, "role", "20000 0 0 0 0 1");
    assert_true(a.bytes < 200000);
    json_decref(tables);
    rig_close(&r);
}

static void test_a_server_that_knows_less(void **state) {
    (void)state;
    struct rig r;
    begin(&r, SCHEMA "CREATE TABLE extra(id INTEGER PRIMARY KEY, v); ALTER TABLE user ADD COLUMN mail",
          "INSERT INTO user(name, mail) VALUES('ann', 'a@b'); INSERT INTO extra(v) VALUES(1); INSERT INTO setting VALUES('a', 1)",
          "INSERT INTO user(name) VALUES('ann'); INSERT INTO extra(v) VALUES(1)");
    app_exec(rig_app(&r, 1), "DROP TABLE extra; CREATE TABLE mine(id INTEGER PRIMARY KEY); INSERT INTO mine VALUES(1); DROP TABLE setting;"
                             "CREATE TABLE setting(k TEXT PRIMARY KEY, v)");
    json_t *tables = compared(&(struct asked){.cluster = &r.peers[0]}, rig_app(&r, 1), false), *t;
    size_t i, notes = 0;
    json_array_foreach(tables, i, t) { notes += json_object_get(t, "note") != NULL; }
    assert_int_equal(notes, 3);
    assert_int_equal(counted(tables, "mine", "only_here"), 1);
    json_decref(tables);
    rig_close(&r);
}

static void test_a_line_that_is_cut(void **state) {
    (void)state;
    struct rig r;
    const char *fill = "INSERT INTO role(name) VALUES('a'), ('b'); INSERT INTO user(name, role) VALUES('u', 2); INSERT INTO note VALUES(1)";
    begin(&r, SCHEMA, fill,
          "INSERT INTO role(name) VALUES('b'), ('c'); INSERT INTO user(name, role) VALUES('v', 2); INSERT INTO note VALUES(2)");
    struct asked a = {.cluster = &r.peers[0]};
    json_decref(compared(&a, rig_app(&r, 1), false));
    for (uint32_t at = 1, all = a.questions; at <= all; at++) {
        struct asked cut = {.cluster = &r.peers[0], .fail_at = at};
        struct compare_config config = {.db = SIDE_DB_NAME, .ask = ask, .ctx = &cut};
        char why[300];
        assert_null(compare_database(rig_app(&r, 1), &config, why, sizeof why));
        assert_string_equal(why, "the line is cut");
    }
    rig_close(&r);
}

/* Whoever asks may ask anything. */
static void test_bad_questions(void **state) {
    (void)state;
    static const char *const QUESTIONS[] = {"{}",
                                            "{\"ask\":\"rows\"}",
                                            "{\"ask\":\"rows\",\"table\":\"none\"}",
                                            "{\"ask\":\"rows\",\"table\":\"sqlite_schema\"}",
                                            "{\"ask\":\"rows\",\"table\":\"_starling_dirty\"}",
                                            "{\"ask\":\"rows\",\"table\":\"setting\",\"columns\":[\"none\"]}",
                                            "{\"ask\":\"rows\",\"table\":\"setting\",\"columns\":[1,null]}",
                                            "{\"ask\":\"rows\",\"table\":\"setting\",\"columns\":[],\"after\":\"ff\"}",
                                            "{\"ask\":\"rows\",\"table\":\"setting\",\"columns\":[],\"after\":\"03ffffffff\"}",
                                            "{\"ask\":\"ranges\",\"table\":\"user\",\"columns\":[],\"after\":\"05\"}",
                                            "{\"ask\":\"drop\",\"table\":\"user\",\"columns\":[]}",
                                            "{\"ask\":\"find\",\"table\":\"setting\",\"columns\":[],\"by\":[\"key\"],\"values\":[[1,2]]}",
                                            "{\"ask\":\"find\",\"table\":\"setting\",\"columns\":[],\"by\":[\"x\"],\"values\":[[1]]}",
                                            "{\"ask\":\"find\",\"table\":\"setting\",\"columns\":[],\"by\":[\"v\"],\"values\":[[1]]}",
                                            "{\"ask\":\"find\",\"table\":\"note\",\"columns\":[],\"by\":[],\"values\":[[]]}",
                                            "{\"ask\":\"find\",\"table\":\"setting\",\"columns\":[],\"by\":[\"key\"],\"values\":[[{}]]}"};
    struct rig r;
    begin(&r, SCHEMA, "INSERT INTO setting VALUES('a', 1)", "");
    for (size_t i = 0; i < sizeof QUESTIONS / sizeof *QUESTIONS; i++) {
        json_t *q = json_loads(QUESTIONS[i], 0, NULL);
        assert_non_null(q);
        json_t *a = store_survey(r.peers[0].s.store, q);
        if (!json_object_get(a, "error"))
            fail_msg("%s is answered", QUESTIONS[i]);
        json_decref(a);
        json_decref(q);
    }
    peer_rest(&r.peers[0]);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_of_row),
        cmocka_unit_test(test_a_row_that_loses_its_unique_value),
        cmocka_unit_test(test_what_is_equal_is_not_fetched),
        cmocka_unit_test(test_a_server_that_knows_less),
        cmocka_unit_test(test_a_line_that_is_cut),
        cmocka_unit_test(test_bad_questions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
