/* The engine: what it tells: watch events, verification of the real content, tables, status. */
#include "store_forge.h"

#define TABLES "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(x TEXT, y INTEGER, v, PRIMARY KEY(x, y))"

static const char *text_of(const json_t *o, const char *name) {
    const char *t = json_string_value(json_object_get(o, name));
    assert_non_null(t);
    return t;
}

/* The next watch object of server i, which must be this one; key and changes as compact JSON. */
static void assert_event(struct rig *r, uint32_t i, const char *table, const char *op, const char *key, const char *changes,
                         uint32_t writer) {
    json_t *e = json_array_get(r->peers[i].watched, 0);
    assert_non_null(e);
    char *k = json_dumps(json_object_get(e, "key"), JSON_COMPACT | JSON_SORT_KEYS),
         *c = json_dumps(json_object_get(e, "changes"), JSON_COMPACT | JSON_SORT_KEYS);
    char node[2 * NODE_ID_BYTES + 1];
    sodium_bin2hex(node, sizeof node, r->peers[writer].s.origin.node, NODE_ID_BYTES);
    assert_string_equal(text_of(e, "db"), SIDE_DB_NAME);
    assert_string_equal(text_of(e, "table"), table);
    assert_string_equal(text_of(e, "op"), op);
    assert_string_equal(k, key);
    assert_string_equal(c, changes);
    assert_string_equal(text_of(e, "node"), node);
    assert_int_equal(json_is_true(json_object_get(e, "local")), i == writer);
    int64_t age = (int64_t)time(NULL) * 1000 - json_integer_value(json_object_get(e, "time_ms"));
    assert_true(age > -5000 && age < 600000);
    free(k);
    free(c);
    json_array_remove(r->peers[i].watched, 0);
}

static void test_watching(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t(a) VALUES('nobody looks')");
    rig_share(&r);
    rig_time_passes(&r);
    for (uint32_t i = 0; i < 2; i++)
        store_watch(r.peers[i].s.store, true);
    rig_act(&r, 0, "INSERT INTO t(a, b) VALUES('x', x'00ff')");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_event(&r, i, "t", "insert", "{\"id\":2}", "{\"a\":\"x\",\"b\":{\"base64\":\"AP8=\"}}", 0);
    rig_act(&r, 1, "UPDATE t SET a = 9007199254740993 WHERE id = 2; UPDATE t SET b = b");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_event(&r, i, "t", "update", "{\"id\":2}", "{\"a\":{\"int\":\"9007199254740993\"}}", 1);
    rig_act(&r, 0, "INSERT INTO k VALUES('k', 1, 2.5)");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_event(&r, i, "k", "insert", "{\"x\":\"k\",\"y\":1}", "{\"v\":2.5,\"x\":\"k\",\"y\":1}", 0);
    rig_act(&r, 1, "DELETE FROM k");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_event(&r, i, "k", "delete", "{\"x\":\"k\",\"y\":1}", "{}", 1);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(json_array_size(r.peers[i].watched), 0);
        store_watch(r.peers[i].s.store, false);
    }
    rig_act(&r, 0, "UPDATE t SET a = 'nobody looks'");
    rig_share(&r);
    assert_int_equal(json_array_size(r.peers[0].watched) + json_array_size(r.peers[1].watched), 0);
    rig_close(&r);
}

/* What is shown from the registers (here: rows of which one gets another number) is an event like others. */
static void test_watching_a_renumbered_row(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t(a) VALUES('zero')");
    rig_act(&r, 1, "INSERT INTO t(a) VALUES('one')");
    store_watch(r.peers[0].s.store, true);
    rig_share(&r);
    assert_int_equal(json_array_size(r.peers[0].watched), 1);
    char *text = json_dumps(json_array_get(r.peers[0].watched, 0), JSON_SORT_KEYS);
    assert_non_null(strstr(text, "\"a\": \"one\""));
    assert_non_null(strstr(text, "\"op\": \"insert\""));
    free(text);
    rig_close(&r);
}

static char *verify(struct rig *r, uint32_t i, const char *table, int bucket) {
    json_t *j = store_verify(r->peers[i].s.store, table, bucket);
    if (!j)
        return NULL;
    char *text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(j);
    return text;
}

static void assert_verify(struct rig *r, const char *table, int bucket, bool equal) {
    char *a = verify(r, 0, table, bucket), *b = verify(r, 1, table, bucket);
    assert_true(a && b);
    assert_int_equal(strcmp(a, b) == 0, equal);
    free(a);
    free(b);
}

static void fill(struct rig *r) {
    rig_open(r, 2, TABLES);
    rig_act(r, 0,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t(a, b) SELECT i, 'b' || i FROM n");
    rig_act(
        r, 1,
        "INSERT INTO k SELECT 'k' || id, id, a FROM t WHERE id < 50; INSERT INTO k VALUES('x', 1, x'00'), ('x', 2, NULL), ('x', 3, 2.5)");
    rig_share(r);
    rig_time_passes(r);
}

static void test_verifying_equal_content(void **state) {
    (void)state;
    struct rig r;
    fill(&r);
    assert_verify(&r, NULL, -1, true);
    assert_verify(&r, "t", -1, true);
    assert_verify(&r, "T", -1, true);
    int64_t rows = 0;
    for (int b = 0; b < 256; b++) {
        assert_verify(&r, "t", b, true);
        json_t *j = store_verify(r.peers[0].s.store, "t", b);
        rows += (int64_t)json_array_size(json_object_get(j, "rows"));
        json_decref(j);
    }
    assert_int_equal(rows, 500);
    assert_null(verify(&r, 0, "none", -1));
    assert_null(verify(&r, 0, "none", 3));
    json_t *j = store_verify(r.peers[0].s.store, NULL, -1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(j, "tables"), "t"), "rows")), 500);
    assert_true(json_is_true(json_object_get(j, "settled")));
    json_decref(j);
    rig_close(&r);
}

/* A change behind our back: no trigger saw it, the registers say that all is well, the content does not. */
static void test_verifying_finds_what_nobody_noticed(void **state) {
    (void)state;
    static const char *const CHANGES[] = {"UPDATE t SET b = 'bit rot' WHERE id = 77", "DELETE FROM t WHERE id = 77",
                                          "INSERT INTO t VALUES(7777, 1, 1)", "UPDATE t SET a = '77' WHERE id = 77",
                                          "UPDATE t SET a = b, b = a WHERE id = 77"};
    for (size_t i = 0; i < sizeof CHANGES / sizeof *CHANGES; i++) {
        struct rig r;
        fill(&r);
        sqlite3_db_config(rig_app(&r, 1), SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
        app_exec(rig_app(&r, 1), CHANGES[i]);
        sqlite3_db_config(rig_app(&r, 1), SQLITE_DBCONFIG_ENABLE_TRIGGER, 1, NULL);
        assert_true(peer_settled(&r.peers[0]) && peer_settled(&r.peers[1]));
        assert_verify(&r, NULL, -1, false);
        assert_verify(&r, "t", -1, false);
        assert_verify(&r, "k", -1, true);
        int different = 0;
        for (int b = 0; b < 256; b++) {
            char *x = verify(&r, 0, "t", b), *y = verify(&r, 1, "t", b);
            different += strcmp(x, y) != 0;
            free(x);
            free(y);
        }
        assert_int_equal(different, 1);
        rig_close(&r);
    }
}

static void test_verifying_needs_equal_vectors(void **state) {
    (void)state;
    struct rig r;
    fill(&r);
    rig_act(&r, 0, "UPDATE t SET b = 'ahead' WHERE id = 1");
    json_t *a = store_verify(r.peers[0].s.store, "k", -1), *b = store_verify(r.peers[1].s.store, "k", -1);
    assert_string_not_equal(text_of(a, "vector"), text_of(b, "vector"));
    assert_true(json_equal(json_object_get(a, "buckets"), json_object_get(b, "buckets")));
    json_decref(a);
    json_decref(b);
    rig_close(&r);
}

static const json_t *table_entry(const json_t *list, const char *name) {
    size_t i;
    json_t *t;
    json_array_foreach(list, i, t) {
        if (strcmp(json_string_value(json_object_get(t, "name")), name) == 0)
            return t;
    }
    fail_msg("no table %s", name);
    return NULL;
}

static void test_tables_and_status(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES "; CREATE TABLE nokey(a); INSERT INTO nokey VALUES(1), (2)");
    rig_act(&r, 0, "INSERT INTO t(a) VALUES(1), (2); INSERT INTO k VALUES('k', 1, 1)");
    rig_share(&r);
    for (uint32_t i = 0; i < 2; i++) {
        json_t *list = store_tables(r.peers[i].s.store);
        const json_t *t = table_entry(list, "t"), *k = table_entry(list, "k"), *n = table_entry(list, "nokey");
        assert_int_equal(json_array_size(list), 3);
        assert_string_equal(text_of(t, "identity"), "numbered");
        assert_string_equal(text_of(k, "identity"), "given");
        assert_string_equal(text_of(n, "identity"), "none");
        assert_true(json_is_true(json_object_get(t, "replicated")) && json_is_true(json_object_get(n, "replicated")));
        assert_int_equal(json_integer_value(json_object_get(t, "rows")), 2);
        assert_int_equal(json_integer_value(json_object_get(n, "rows")), 2);
        assert_true(json_integer_value(json_object_get(t, "last_change_ms")) > 1600000000000);
        assert_int_equal(json_array_size(json_object_get(t, "problems")), 0);
        json_decref(list);
        assert_int_equal(peer_status(&r.peers[i], "rows"), 5);
        assert_int_equal(peer_status(&r.peers[i], "pending"), 0);
        assert_true(peer_status(&r.peers[i], "log_bytes") > 0);
    }
    app_exec(rig_app(&r, 0), "INSERT INTO t(a) VALUES(3)");
    assert_int_equal(peer_status(&r.peers[0], "pending"), 1);
    peer_rest(&r.peers[0]);
    assert_int_equal(peer_status(&r.peers[0], "pending"), 0);
    rig_share(&r);
    json_t *a = store_status(r.peers[0].s.store), *b = store_status(r.peers[1].s.store);
    assert_string_equal(text_of(a, "digest"), text_of(b, "digest"));
    assert_true(json_equal(json_object_get(a, "version"), json_object_get(b, "version")));
    assert_string_equal(text_of(a, "state"), "ok");
    json_decref(a);
    json_decref(b);
    json_t *doctor = store_doctor(r.peers[0].s.store);
    assert_int_equal(json_array_size(json_object_get(doctor, "problems")), 1);
    assert_non_null(strstr(text_of(json_array_get(json_object_get(doctor, "problems"), 0), "what"), "\"nokey\": has no primary key"));
    json_decref(doctor);
    rig_close(&r);
}

/* Each losing value is listed with who wrote it and when, on both servers alike. */
static void test_conflicts_are_listed_alike(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO k VALUES('k', 1, 'start'), ('l', 1, 'start')");
    rig_share(&r);
    rig_time_passes(&r);
    rig_act(&r, 0, "UPDATE k SET v = x'0102'");
    rig_tick();
    rig_act(&r, 1, "UPDATE k SET v = 'winner' WHERE x = 'k'; DELETE FROM k WHERE x = 'l'");
    rig_share(&r);
    json_t *a = store_conflicts(r.peers[0].s.store), *b = store_conflicts(r.peers[1].s.store);
    assert_true(json_equal(a, b));
    assert_int_equal(json_array_size(a), 2);
    size_t i;
    json_t *c;
    char node[ORIGIN_TEXT_BYTES];
    json_array_foreach(a, i, c) {
        char *v = json_dumps(json_object_get(c, "value"), JSON_COMPACT | JSON_ENCODE_ANY);
        assert_string_equal(text_of(c, "table"), "k");
        assert_string_equal(text_of(c, "column"), "v");
        assert_string_equal(text_of(c, "origin"), origin_text(&r.peers[0].s.origin, node));
        assert_string_equal(v, "{\"base64\":\"AQI=\"}");
        assert_int_equal(json_array_size(json_object_get(c, "row")), 2);
        free(v);
    }
    json_decref(a);
    json_decref(b);
    for (uint32_t who = 0; who < 2; who++)
        peer_reopen(&r.peers[who]);
    rig_time_passes(&r);
    rig_act(&r, 1, "UPDATE k SET v = 'settled by a person' WHERE x = 'k'");
    rig_share(&r);
    assert_int_equal(peer_conflicts(&r.peers[0]), 1);
    assert_int_equal(peer_conflicts(&r.peers[1]), 1);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watching),
        cmocka_unit_test(test_watching_a_renumbered_row),
        cmocka_unit_test(test_verifying_equal_content),
        cmocka_unit_test(test_verifying_finds_what_nobody_noticed),
        cmocka_unit_test(test_verifying_needs_equal_vectors),
        cmocka_unit_test(test_tables_and_status),
        cmocka_unit_test(test_conflicts_are_listed_alike),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
