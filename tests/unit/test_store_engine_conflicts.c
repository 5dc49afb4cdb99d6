/* The engine: open conflicts, decided on one server, are closed on all of them. */
#include "store_rig.h"

#define SHAPES 3
static const struct shape_of {
    const char *create, *insert, *where, *key;
} SHAPE_OF[SHAPES] = {
    {"CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, v, w TEXT)", "INSERT INTO t VALUES(1, 1, 'start', 'w')", "id = 1", "{\"id\":1}"},
    {"CREATE TABLE t(k TEXT PRIMARY KEY, n INTEGER, v, w TEXT)", "INSERT INTO t VALUES('k', 1, 'start', 'w')", "k = 'k'", "{\"k\":\"k\"}"},
    {"CREATE TABLE t(y TEXT COLLATE NOCASE, n INTEGER, x INTEGER, v, w TEXT, g AS (n + 1), PRIMARY KEY(x, y))",
     "INSERT INTO t VALUES('Y', 1, 7, 'start', 'w')", "x = 7", "{\"x\":7,\"y\":\"y\"}"},
};

static const char *text_of(const json_t *j, const char *name) { return json_string_value(json_object_get(j, name)); }

static void act(struct rig *r, uint32_t i, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *sql = sqlite3_vmprintf(format, args);
    va_end(args);
    rig_act(r, i, sql);
    sqlite3_free(sql);
}

static void share(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* The list is the same on all servers; the name of the one conflict of this column, to be freed. */
static char *the_conflict(struct rig *r, const char *column) {
    json_t *list = store_conflicts(r->peers[0].s.store), *c;
    char *id = NULL;
    size_t i;
    assert_same_conflicts(r);
    json_array_foreach(list, i, c) {
        if (strcmp(text_of(c, "column"), column) == 0) {
            assert_null(id);
            id = strdup(text_of(c, "id"));
        }
    }
    json_decref(list);
    assert_non_null(id);
    return id;
}

/* The answer to a decision; how in JSON. */
static json_t *resolve(struct peer *p, const char *id, const char *how) {
    json_t *j = json_loads(how, 0, NULL), *answer;
    assert_non_null(j);
    assert_int_equal(store_resolve(p->s.store, id, j, &answer), 0);
    assert_non_null(answer);
    json_decref(j);
    return answer;
}

static void assert_answer(struct peer *p, const char *id, const char *how, const char *field, const char *part) {
    json_t *answer = resolve(p, id, how);
    char *text = json_dumps(answer, JSON_COMPACT);
    const json_t *said = json_object_get(answer, field);
    if (!said || (part && (!json_is_string(said) || !strstr(json_string_value(said), part))))
        fail_msg("%s: expected %s %s, got %s", how, field, part ? part : "", text);
    free(text);
    json_decref(answer);
    peer_rest(p);
}

static void decide(struct peer *p, const char *id, const char *how) { assert_answer(p, id, how, "done", NULL); }

static void assert_closed(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        assert_int_equal(peer_conflicts(&r->peers[i]), 0);
    for (uint32_t i = 0; i < r->count; i++) { /* and the counter says the same after a restart */
        peer_reopen(&r->peers[i]);
        peer_rest(&r->peers[i]);
        assert_int_equal(peer_status(&r->peers[i], "conflicts"), 0);
        assert_int_equal(peer_conflicts(&r->peers[i]), 0);
    }
}

/* Both edit v: 'zero' loses against 'one'. */
static char *edit_both(struct rig *r, const struct shape_of *t) {
    rig_open(r, 3, t->create);
    act(r, 0, "%s", t->insert);
    share(r);
    act(r, 0, "UPDATE t SET v = 'zero' WHERE %s", t->where);
    rig_tick();
    act(r, 1, "UPDATE t SET v = 'one' WHERE %s", t->where);
    share(r);
    return the_conflict(r, "v");
}

/* Server 0 edits what server 1 deletes. */
static char *edit_and_delete(struct rig *r, const struct shape_of *t) {
    rig_open(r, 3, t->create);
    act(r, 0, "%s", t->insert);
    share(r);
    act(r, 0, "UPDATE t SET v = 'zero' WHERE %s", t->where);
    rig_tick();
    act(r, 1, "DELETE FROM t WHERE %s", t->where);
    share(r);
    assert_everywhere(r, "SELECT count(*) FROM t", "i0|;");
    return the_conflict(r, "v");
}

/* Server 2 deletes what servers 0 and 1 edited apart, knowing of both: the two values stay open. */
static char *edit_both_and_delete(struct rig *r, const struct shape_of *t) {
    char *id = edit_both(r, t);
    act(r, 2, "DELETE FROM t WHERE %s", t->where);
    share(r);
    assert_everywhere(r, "SELECT count(*) FROM t", "i0|;");
    char *still = the_conflict(r, "v");
    assert_string_equal(id, still);
    free(still);
    return id;
}

/* Server 0 deletes what server 1 inserts over itself: the row lives. */
static char *delete_and_insert(struct rig *r, const struct shape_of *t) {
    rig_open(r, 3, t->create);
    act(r, 0, "%s", t->insert);
    share(r);
    act(r, 0, "DELETE FROM t WHERE %s", t->where);
    rig_tick();
    act(r, 1, "INSERT OR REPLACE%s", t->insert + strlen("INSERT"));
    share(r);
    assert_everywhere(r, "SELECT v FROM t", "tstart|;");
    return the_conflict(r, "(deleted)");
}

/* Two rows had one number: whoever is content with the new one says so. */
static void test_a_new_number(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    rig_act(&r, 0, "INSERT INTO t(v) VALUES('zero')");
    rig_tick();
    rig_act(&r, 1, "INSERT INTO t(v) VALUES('one')");
    share(&r);
    char *id = the_conflict(&r, "id");
    assert_answer(&r.peers[2], id, "{\"keep\": \"loser\"}", "error", "another row's");
    share(&r);
    decide(&r.peers[2], id, "{\"keep\": \"winner\"}");
    share(&r);
    assert_everywhere(&r, "SELECT v FROM t ORDER BY id", "tzero|;tone|;");
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* Long lists are cut, long values as well; each conflict can still be shown and decided. */
static void test_more_than_can_be_listed(void **state) {
    (void)state;
    struct rig r;
    json_t *answer;
    rig_open(&r, 2, SHAPE_OF[0].create);
    rig_act(
        &r, 0,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5500) INSERT INTO t SELECT i, 1, 'start', 'w' FROM n");
    share(&r);
    rig_act(&r, 0, "UPDATE t SET v = CASE WHEN id % 256 = 0 THEN replace(hex(zeroblob(40000)), '0', 'ä') ELSE 'zero' END");
    rig_tick();
    rig_act(&r, 1, "UPDATE t SET v = 'one'");
    share(&r);
    assert_int_equal(peer_status(&r.peers[1], "conflicts"), 5500);
    json_t *list = store_conflicts(r.peers[1].s.store), *c = json_array_get(list, 0),
           *value = json_object_get(json_object_get(c, "loser"), "value");
    assert_int_equal(json_array_size(list), STORE_CONFLICTS_MAX);
    assert_int_equal(json_integer_value(json_object_get(value, "bytes")), 160000);
    assert_int_equal(strlen(text_of(value, "begins")), 200);
    assert_int_equal(store_resolve(r.peers[1].s.store, text_of(c, "id"), NULL, &answer), 0);
    assert_true(json_equal(json_object_get(answer, "conflict"), c));
    json_decref(answer);
    decide(&r.peers[1], text_of(c, "id"), "{\"keep\":\"loser\"}");
    share(&r);
    assert_everywhere(&r, "SELECT count(*), sum(length(v)) FROM t WHERE v <> 'one'", "i1|i80000|;");
    assert_int_equal(peer_status(&r.peers[0], "conflicts"), 5499);
    json_decref(list);
    rig_close(&r);
}

/* ---- the table of resolve.c, line by line */

static void test_every_decision_closes_on_all(void **state) {
    (void)state;
    static const struct {
        char *(*make)(struct rig *r, const struct shape_of *t);
        const char *how, *rows;
    } CASES[] = {
        {edit_both, "{\"keep\":\"winner\"}", "i1|tone|tw|ttext|;"},
        {edit_both, "{\"keep\":\"loser\"}", "i1|tzero|tw|ttext|;"},
        {edit_both, "{\"set\":{\"v\":7}}", "i1|i7|tw|tinteger|;"},
        {edit_both, "{\"set\":{\"n\":\"7\",\"W\":5}}", "i7|tone|t5|ttext|;"},
        {edit_both, "{\"set\":{\"v\":null,\"n\":\"x\"}}", "tx|n|tw|tnull|;"},
        {edit_both, "{\"set\":{\"v\":{\"base64\":\"QUI=\"},\"n\":{\"int\":\"9007199254740993\"}}}", "i9007199254740993|tAB|tw|tblob|;"},
        {edit_both, "{\"set\":{\"v\":1.5,\"w\":\"\"}}", "i1|f1.5|t|treal|;"},
        {delete_and_insert, "{\"keep\":\"winner\"}", "i1|tstart|tw|ttext|;"},
        {delete_and_insert, "{\"keep\":\"loser\"}", ""},
        {edit_and_delete, "{\"keep\":\"winner\"}", ""},
        {edit_and_delete, "{\"keep\":\"loser\"}", "i1|tzero|tw|ttext|;"},
        {edit_and_delete, "{\"set\":{\"v\":\"new\"}}", "i1|tnew|tw|ttext|;"},
        {edit_and_delete, "{\"set\":{\"n\":2}}", "i2|tzero|tw|ttext|;"},
        {edit_both_and_delete, "{\"keep\":\"winner\"}", ""},
        {edit_both_and_delete, "{\"keep\":\"loser\"}", "i1|tzero|tw|ttext|;"},
        {edit_both_and_delete, "{\"set\":{\"n\":2}}", "i2|tzero|tw|ttext|;"},
    };
    for (uint32_t k = 0; k < SHAPES; k++)
        for (size_t n = 0; n < sizeof CASES / sizeof *CASES; n++) {
            uint32_t by = (k + (uint32_t)n) % 3;
            struct rig r;
            char *id = CASES[n].make(&r, &SHAPE_OF[k]);
            decide(&r.peers[by], id, CASES[n].how);
            share(&r);
            assert_everywhere(&r, "SELECT n, v, w, typeof(v) FROM t", CASES[n].rows);
            assert_closed(&r);
            assert_answer(&r.peers[by], id, CASES[n].how, "unknown", NULL);
            free(id);
            rig_close(&r);
        }
}

static void test_what_is_listed(void **state) {
    (void)state;
    struct rig r;
    for (uint32_t k = 0; k < SHAPES; k++) {
        char *id = edit_both(&r, &SHAPE_OF[k]), node[2 * NODE_ID_BYTES + 1];
        peer_reopen(&r.peers[0]);
        peer_rest(&r.peers[0]);
        char *again = the_conflict(&r, "v");
        assert_string_equal(id, again); /* the same name after a restart */
        json_t *list = store_conflicts(r.peers[2].s.store), *c = json_array_get(list, 0), *key = json_loads(SHAPE_OF[k].key, 0, NULL);
        assert_string_equal(text_of(c, "kind"), "update-update");
        assert_string_equal(text_of(c, "table"), "t");
        assert_string_equal(text_of(c, "state"), "open");
        assert_true(json_equal(json_object_get(c, "key"), key));
        assert_string_equal(text_of(json_object_get(c, "winner"), "value"), "one");
        assert_string_equal(text_of(json_object_get(c, "loser"), "value"), "zero");
        sodium_bin2hex(node, sizeof node, r.peers[0].s.origin.node, NODE_ID_BYTES);
        assert_string_equal(text_of(json_object_get(c, "loser"), "node"), node);
        json_decref(key);
        json_decref(list);
        free(again);
        free(id);
        rig_close(&r);
    }
}

/* ---- what a decision meets */

static void test_deciding_apart(void **state) {
    (void)state;
    struct rig r;
    const struct shape_of *t = &SHAPE_OF[1];
    for (int same = 0; same < 2; same++) {
        char *id = edit_both(&r, t);
        decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
        rig_tick();
        decide(&r.peers[1], id, same ? "{\"set\":{\"v\":\"zero\"}}" : "{\"set\":{\"v\":\"third\"}}");
        share(&r);
        assert_everywhere(&r, "SELECT v FROM t", same ? "tzero|;" : "tthird|;");
        assert_int_equal(peer_conflicts(&r.peers[2]), same ? 0 : 1); /* two that agree have decided */
        if (!same) {
            char *next = the_conflict(&r, "v");
            assert_string_not_equal(id, next);
            decide(&r.peers[2], next, "{\"keep\":\"loser\"}");
            share(&r);
            assert_everywhere(&r, "SELECT v FROM t", "tzero|;");
            assert_closed(&r);
            free(next);
        }
        free(id);
        rig_close(&r);
    }
}

static void test_deciding_while_the_application_edits(void **state) {
    (void)state;
    struct rig r;
    const struct shape_of *t = &SHAPE_OF[0];
    char *id = edit_both(&r, t);
    act(&r, 1, "UPDATE t SET v = 'edited' WHERE %s", t->where); /* knows of both: closed here, not yet elsewhere */
    assert_answer(&r.peers[1], id, "{\"keep\":\"winner\"}", "unknown", NULL);
    rig_tick();
    decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
    share(&r);
    assert_everywhere(&r, "SELECT v FROM t", "tzero|;");
    assert_true(peer_lost(&r.peers[2], "v", "\"edited\""));
    free(id);
    id = the_conflict(&r, "v");
    app_exec(rig_app(&r, 0), "UPDATE t SET w = 'undrained'"); /* committed, and not noticed yet */
    assert_answer(&r.peers[0], id, "{\"keep\":\"loser\"}", "retry", NULL);
    decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
    share(&r);
    assert_everywhere(&r, "SELECT v, w FROM t", "tedited|tundrained|;");
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* One who deletes again what another brings back: the row lives, and the deletion is listed; the other way round it stays dead. */
static void test_deciding_a_dead_row_apart(void **state) {
    (void)state;
    for (int restored_last = 0; restored_last < 2; restored_last++) {
        struct rig r;
        char *id = edit_and_delete(&r, &SHAPE_OF[1]);
        decide(&r.peers[0], id, restored_last ? "{\"keep\":\"winner\"}" : "{\"keep\":\"loser\"}");
        rig_tick();
        decide(&r.peers[1], id, restored_last ? "{\"keep\":\"loser\"}" : "{\"keep\":\"winner\"}");
        free(id);
        share(&r);
        assert_everywhere(&r, "SELECT v FROM t", restored_last ? "tzero|;" : "");
        id = the_conflict(&r, restored_last ? "(deleted)" : "v");
        decide(&r.peers[2], id, "{\"keep\":\"loser\"}");
        share(&r);
        assert_everywhere(&r, "SELECT v FROM t", restored_last ? "" : "tzero|;");
        assert_closed(&r);
        free(id);
        rig_close(&r);
    }
}

/* Three servers apart: two write the same columns, one deletes. That the row stays deleted closes all of it, and nobody's file is touched. */
static void test_a_dead_row_with_several_values(void **state) {
    (void)state;
    for (uint32_t by = 0; by < 3; by++) {
        struct rig r;
        rig_open(&r, 3, SHAPE_OF[by].create);
        act(&r, 0, "%s", SHAPE_OF[by].insert);
        share(&r);
        act(&r, 0, "UPDATE t SET v = 'zero', w = 'zero'");
        rig_tick();
        act(&r, 1, "UPDATE t SET v = 'one', w = 'one', n = 5");
        rig_tick();
        act(&r, 2, "DELETE FROM t");
        share(&r);
        assert_everywhere(&r, "SELECT count(*) FROM t", "i0|;");
        free(the_conflict(&r, "n"));
        assert_int_equal(peer_conflicts(&r.peers[by]), 5);
        for (uint32_t i = 0; i < 3; i++)
            store_watch(r.peers[i].s.store, true);
        json_t *list = store_conflicts(r.peers[by].s.store);
        const char *id = text_of(json_array_get(list, by), "id");
        json_t *answer = resolve(&r.peers[by], id, "{\"keep\":\"winner\"}");
        assert_true(json_is_true(json_object_get(answer, "done")));
        assert_int_equal(json_integer_value(json_object_get(answer, "rows")), 1);
        json_decref(answer);
        share(&r);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(json_array_size(r.peers[i].watched), 0);
        assert_everywhere(&r, "SELECT count(*) FROM t", "i0|;");
        assert_closed(&r);
        json_decref(list);
        rig_close(&r);
    }
}

static void test_deciding_too_soon(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, SHAPE_OF[1].create);
    act(&r, 0, "%s", SHAPE_OF[1].insert);
    share(&r);
    act(&r, 0, "UPDATE t SET v = 'zero'");
    rig_tick();
    act(&r, 1, "UPDATE t SET v = 'one'");
    rig_share(&r); /* shown just now */
    char *id = the_conflict(&r, "v");
    assert_answer(&r.peers[0], id, "{\"keep\":\"winner\"}", "retry", NULL);
    rig_time_passes(&r);
    app_exec(rig_app(&r, 0), "BEGIN IMMEDIATE"); /* the application writes */
    assert_answer(&r.peers[0], id, "{\"keep\":\"loser\"}", "retry", NULL);
    app_exec(rig_app(&r, 0), "ROLLBACK");
    assert_answer(&r.peers[0], "0123456789abcdef", "{\"keep\":\"winner\"}", "unknown", NULL);
    assert_int_equal(peer_conflicts(&r.peers[0]), 1);
    decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
    share(&r);
    assert_everywhere(&r, "SELECT v FROM t", "tzero|;");
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* A crash after the answer: the decision is in the state, and in the log. */
static void test_a_crash_between_deciding_and_showing(void **state) {
    (void)state;
    static const char *const HOW[] = {"{\"keep\":\"loser\"}", "{\"keep\":\"winner\"}"};
    for (int dead = 0; dead < 3; dead++)
        for (int h = 0; h < 2; h++) {
            struct rig r;
            char *id = (dead == 2 ? edit_both_and_delete : dead ? edit_and_delete : edit_both)(&r, &SHAPE_OF[dead]);
            json_t *answer = resolve(&r.peers[1], id, HOW[h]);
            assert_true(json_is_true(json_object_get(answer, "done")));
            json_decref(answer);
            peer_reopen(&r.peers[1]);
            peer_rest(&r.peers[1]);
            assert_rows(rig_app(&r, 1), "SELECT v FROM t", h ? dead ? "" : "tone|;" : "tzero|;");
            share(&r);
            assert_closed(&r);
            free(id);
            rig_close(&r);
        }
}

static void test_a_decision_is_watched(void **state) {
    (void)state;
    struct rig r;
    char *id = edit_and_delete(&r, &SHAPE_OF[1]);
    for (uint32_t i = 0; i < 2; i++)
        store_watch(r.peers[i].s.store, true);
    decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
    share(&r);
    for (uint32_t i = 0; i < 2; i++) {
        const json_t *e = json_array_get(r.peers[i].watched, 0);
        assert_int_equal(json_array_size(r.peers[i].watched), 1);
        assert_string_equal(text_of(e, "op"), "insert");
        assert_string_equal(text_of(json_object_get(e, "changes"), "v"), "zero");
        assert_int_equal(json_is_true(json_object_get(e, "local")), i == 0);
    }
    free(id);
    rig_close(&r);
}

/* Other columns' conflicts are not decided by the way. */
static void test_one_at_a_time(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, SHAPE_OF[0].create);
    act(&r, 0, "%s", SHAPE_OF[0].insert);
    share(&r);
    act(&r, 0, "UPDATE t SET v = 'zero', w = 'zero'");
    rig_tick();
    act(&r, 1, "UPDATE t SET v = 'one', w = 'one'");
    share(&r);
    char *id = the_conflict(&r, "w");
    act(&r, 1, "DELETE FROM t");
    act(&r, 0, "UPDATE t SET n = 5");
    share(&r);
    char *next = the_conflict(&r, "n");
    assert_int_equal(peer_conflicts(&r.peers[0]), 3); /* v and w as well: the deletion says nothing about them */
    decide(&r.peers[1], next, "{\"keep\":\"loser\"}");
    free(next);
    share(&r);
    assert_everywhere(&r, "SELECT n, v, w FROM t", "i5|tone|tone|;");
    next = the_conflict(&r, "w");
    assert_string_equal(next, id);
    decide(&r.peers[1], next, "{\"keep\":\"loser\"}");
    share(&r);
    assert_everywhere(&r, "SELECT n, v, w FROM t", "i5|tone|tzero|;");
    free(next);
    next = the_conflict(&r, "v");
    decide(&r.peers[1], next, "{\"keep\":\"winner\"}");
    share(&r);
    assert_everywhere(&r, "SELECT n, v, w FROM t", "i5|tone|tzero|;");
    assert_closed(&r);
    free(next);
    free(id);
    rig_close(&r);
}

/* ---- rows that refer to each other */

#define FAMILY                                                                                                                             \
    "CREATE TABLE team(id INTEGER PRIMARY KEY, name); "                                                                                    \
    "CREATE TABLE player(k TEXT PRIMARY KEY, team INTEGER REFERENCES team ON DELETE CASCADE, v); "                                         \
    "CREATE TABLE goal(id INTEGER PRIMARY KEY, player TEXT REFERENCES player(k) ON DELETE CASCADE, v)"

static void test_a_row_comes_back_with_its_children(void **state) {
    (void)state;
    static const char *const DELETES[] = {"PRAGMA foreign_keys=ON; DELETE FROM team WHERE id = 1; DELETE FROM team WHERE id = 3",
                                          "BEGIN; DELETE FROM team WHERE id IN (1, 3); DELETE FROM goal WHERE id IN (1, 2, 5); "
                                          "DELETE FROM player WHERE team IN (1, 3); COMMIT"};
    for (int n = 0; n < 2; n++) {
        struct rig r;
        rig_open(&r, 2, FAMILY);
        rig_act(&r, 0,
                "INSERT INTO team VALUES(1, 'a'), (2, 'b'), (3, 'c'); "
                "INSERT INTO player VALUES('p', 1, 'v'), ('q', 1, x'00'), ('r', 2, 'v'), ('s', 3, 'v'); "
                "INSERT INTO goal VALUES(1, 'p', 1), (2, 'p', 2), (3, 'r', 3), (4, NULL, 4), (5, 's', 5)");
        share(&r);
        rig_act(&r, 0, "UPDATE team SET name = 'zero' WHERE id = 1");
        rig_tick();
        app_exec(rig_app(&r, 1), DELETES[n]);
        rig_act(&r, 1, "DELETE FROM goal WHERE id = 4");
        share(&r);
        assert_everywhere(&r, "SELECT (SELECT count(*) FROM team), (SELECT count(*) FROM player), (SELECT count(*) FROM goal)",
                          "i1|i1|i1|;");
        char *id = the_conflict(&r, "name");
        decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
        share(&r);
        assert_everywhere(&r, "SELECT * FROM team ORDER BY 1", "i1|tzero|;i2|tb|;");
        assert_everywhere(&r, "SELECT k, team, quote(v) FROM player ORDER BY 1", "tp|i1|t'v'|;tq|i1|tX'00'|;tr|i2|t'v'|;");
        assert_everywhere(&r, "SELECT * FROM goal ORDER BY 1", "i1|tp|i1|;i2|tp|i2|;i3|tr|i3|;");
        assert_everywhere(&r, "PRAGMA foreign_key_check", "");
        assert_closed(&r);
        free(id);
        rig_close(&r);
    }
}

/* What would break a constraint is refused with SQLite's words, and nobody hears of it. */
static void test_what_does_not_fit_is_refused(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, FAMILY "; CREATE TABLE t(k TEXT PRIMARY KEY, u UNIQUE, n INTEGER NOT NULL CHECK(n > 0), team INTEGER REFERENCES team)");
    rig_act(&r, 0, "INSERT INTO team VALUES(1, 'a'), (2, 'b'); INSERT INTO t VALUES('k', 'x', 1, 1), ('l', 'y', 1, 2)");
    share(&r);
    rig_act(&r, 0, "UPDATE t SET u = 'zero' WHERE k = 'k'");
    rig_tick();
    rig_act(&r, 1, "UPDATE t SET u = 'one' WHERE k = 'k'");
    share(&r);
    rig_act(&r, 1, "UPDATE t SET u = 'zero' WHERE k = 'l'");
    share(&r);
    char *id = the_conflict(&r, "u");
    uint32_t made = r.peers[0].s.made.count;
    assert_answer(&r.peers[0], id, "{\"keep\":\"loser\"}", "error", "UNIQUE constraint failed: t.u");
    assert_answer(&r.peers[0], id, "{\"set\":{\"n\":null}}", "error", "NOT NULL constraint failed: t.n");
    assert_answer(&r.peers[0], id, "{\"set\":{\"n\":0}}", "error", "CHECK constraint failed");
    assert_answer(&r.peers[0], id, "{\"set\":{\"team\":9}}", "error", "a row that it refers to is not there");
    assert_answer(&r.peers[0], id, "{\"set\":{\"k\":\"other\"}}", "error", "belongs to the key");
    assert_answer(&r.peers[0], id, "{\"set\":{\"nothing\":1}}", "error", "no column \"nothing\"");
    assert_answer(&r.peers[0], id, "{\"set\":{\"u\":[1]}}", "error", "a value is null");
    rig_share(&r);
    assert_int_equal(r.peers[0].s.made.count, made);
    assert_int_equal(peer_conflicts(&r.peers[1]), 1);
    decide(&r.peers[0], id, "{\"set\":{\"u\":\"free\",\"team\":2,\"n\":\"5\"}}");
    share(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY 1", "tk|tfree|i5|i2|;tl|tzero|i1|i2|;");
    assert_closed(&r);
    free(id);

    rig_act(&r, 0, "DELETE FROM team WHERE id = 1"); /* the deletion loses, and then somebody refers to the row */
    rig_tick();
    rig_act(&r, 1, "INSERT OR REPLACE INTO team VALUES(1, 'again')");
    share(&r);
    rig_act(&r, 0, "UPDATE t SET team = 1 WHERE k = 'k'");
    share(&r);
    id = the_conflict(&r, "(deleted)");
    assert_answer(&r.peers[1], id, "{\"keep\":\"loser\"}", "error", "rows of \"t\" refer to it");
    assert_answer(&r.peers[1], id, "{\"set\":{\"name\":\"x\"}}", "error", "what lost is a deletion");
    decide(&r.peers[1], id, "{\"keep\":\"winner\"}");
    share(&r);
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* A number that another row has by now: the dead one is not brought back under it. */
static void test_a_place_that_is_taken(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, SHAPE_OF[0].create);
    act(&r, 0, "INSERT INTO t(v) VALUES('start')");
    share(&r);
    act(&r, 0, "UPDATE t SET v = 'zero'");
    rig_tick();
    act(&r, 1, "DELETE FROM t");
    act(&r, 1, "INSERT INTO t(v) VALUES('another')");
    share(&r);
    assert_everywhere(&r, "SELECT id, v FROM t", "i1|tanother|;");
    char *id = the_conflict(&r, "v");
    assert_answer(&r.peers[0], id, "{\"keep\":\"loser\"}", "error", "UNIQUE constraint failed: t.id");
    act(&r, 0, "UPDATE t SET id = 2");
    share(&r);
    decide(&r.peers[0], id, "{\"keep\":\"loser\"}");
    share(&r);
    assert_everywhere(&r, "SELECT id, v FROM t ORDER BY id", "i1|tzero|;i2|tanother|;");
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* A column that only others have: it is decided there. */
static void test_a_column_that_is_not_here(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, SHAPE_OF[1].create);
    act(&r, 0, "%s", SHAPE_OF[1].insert);
    share(&r);
    act(&r, 0, "ALTER TABLE t ADD COLUMN more");
    act(&r, 0, "UPDATE t SET more = 'm', v = 'zero'");
    rig_tick();
    act(&r, 1, "DELETE FROM t");
    rig_share(&r);
    rig_time_passes(&r);
    char *id = the_conflict(&r, "more");
    decide(&r.peers[1], id, "{\"keep\":\"loser\"}"); /* the whole row comes back, also what is not to be seen here */
    rig_share(&r);
    assert_rows(rig_app(&r, 0), "SELECT v, more FROM t", "tzero|tm|;");
    assert_rows(rig_app(&r, 1), "SELECT v FROM t", "tzero|;");
    act(&r, 1, "ALTER TABLE t ADD COLUMN more");
    share(&r);
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* Two values of it in a row that is deleted: only a write to it decides between them. */
static void test_two_values_of_a_column_that_is_not_here(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 3, SHAPE_OF[1].create);
    act(&r, 0, "%s", SHAPE_OF[1].insert);
    share(&r);
    for (uint32_t i = 0; i < 2; i++) {
        act(&r, i, "ALTER TABLE t ADD COLUMN more");
        act(&r, i, "UPDATE t SET more = %u", i);
        rig_tick();
    }
    rig_share(&r);
    rig_time_passes(&r);
    act(&r, 0, "DELETE FROM t");
    rig_share(&r);
    rig_time_passes(&r);
    char *id = the_conflict(&r, "more");
    assert_answer(&r.peers[2], id, "{\"keep\":\"winner\"}", "error", "has no column \"more\" now");
    assert_int_equal(peer_conflicts(&r.peers[2]), 1);
    decide(&r.peers[1], id, "{\"keep\":\"winner\"}");
    rig_share(&r);
    assert_closed(&r);
    free(id);
    rig_close(&r);
}

/* ---- why */

static void test_why(void **state) {
    (void)state;
    static const struct {
        const char *table, *key, *column, *error;
    } WRONG[] = {
        {"nothing", "1", NULL, "no table"},           {"t", "\"Y\"", NULL, "several columns"},
        {"t", "[7,\"Z\"]", NULL, "never had a row"},  {"t", "[7,\"Y\"]", "nothing", "nobody ever wrote"},
        {"t", "[7,{}]", NULL, "can have such a key"},
    };
    struct rig r;
    char *id = edit_both(&r, &SHAPE_OF[2]), node[2 * NODE_ID_BYTES + 1];
    free(id);
    json_t *key = json_loads("[\"7\",\"y\"]", 0, NULL), *why = store_why(r.peers[2].s.store, "T", key, "V");
    json_t *c = json_array_get(json_object_get(why, "columns"), 0), *beat = json_array_get(json_object_get(c, "beat"), 0);
    assert_string_equal(text_of(c, "value"), "one");
    assert_string_equal(text_of(beat, "value"), "zero");
    sodium_bin2hex(node, sizeof node, r.peers[1].s.origin.node, NODE_ID_BYTES);
    assert_string_equal(text_of(c, "node"), node);
    json_decref(why);
    why = store_why(r.peers[0].s.store, "t", key, NULL);
    assert_int_equal(json_array_size(json_object_get(why, "columns")), 5);
    json_decref(why);
    json_decref(key);
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        key = json_loads(WRONG[i].key, JSON_DECODE_ANY, NULL);
        why = store_why(r.peers[0].s.store, WRONG[i].table, key, WRONG[i].column);
        if (!text_of(why, "error") || !strstr(text_of(why, "error"), WRONG[i].error))
            fail_msg("%s: %s", WRONG[i].key, json_dumps(why, 0));
        json_decref(why);
        json_decref(key);
    }
    rig_close(&r);
}

/* One brings a row back with its children, another says at the same time that it stays deleted: the children keep their parent. */
static void test_back_and_deleted_again_at_once(void **state) {
    (void)state;
    for (uint32_t later = 0; later < 2; later++) {
        struct rig r;
        rig_open(&r, 2,
                 "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE k(id INTEGER PRIMARY KEY, t INTEGER REFERENCES t(id) ON DELETE "
                 "CASCADE);"
                 "INSERT INTO t(v) VALUES('a'); INSERT INTO k(t) VALUES(1), (1);");
        app_exec(rig_app(&r, 1), "PRAGMA foreign_keys=ON");
        rig_act(&r, 0, "UPDATE t SET v='b'");
        rig_act(&r, 1, "DELETE FROM t");
        share(&r);
        char *id = the_conflict(&r, "v");
        static const char *how[] = {"{\"keep\":\"loser\"}", "{\"keep\":\"winner\"}"};
        decide(&r.peers[later], id, how[later]);
        rig_tick();
        decide(&r.peers[!later], id, how[!later]);
        share(&r);
        assert_same_conflicts(&r);
        assert_everywhere(&r, "PRAGMA foreign_key_check", "");
        assert_everywhere(&r, "SELECT v, k.id FROM t JOIN k ON t=t.id ORDER BY 2", "tb|i1|;tb|i2|;");
        free(id);
        rig_close(&r);
    }
}

/* What a mend took from a row that was gone before, with its value in it: its author told of that only when he had read a table that was rebuilt. */
static void test_a_row_that_died_before_it_was_mended(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, "CREATE TABLE t(k INTEGER PRIMARY KEY, u UNIQUE, a)");
    rig_act(&r, 1, "INSERT INTO t VALUES(1, 'one', 0), (3, 'three', 0)");
    rig_share(&r);
    rig_time_passes(&r);
    for (uint32_t i = 0; i < 2; i++)
        app_exec(rig_app(&r, i), "CREATE TABLE n(k INTEGER PRIMARY KEY, u UNIQUE, a); INSERT INTO n SELECT * FROM t;"
                                 "DROP TABLE t; ALTER TABLE n RENAME TO t");
    app_exec(rig_app(&r, 1), "REPLACE INTO t VALUES(2, 'one', 0)");
    for (int i = 0; i < 5; i++)
        peer_turn(&r.peers[1]); /* our triggers are back */
    app_exec(rig_app(&r, 1), "UPDATE t SET a = 1");
    peer_turn(&r.peers[1]);
    peer_queue(&r.peers[0], &r.peers[1]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT * FROM t ORDER BY k", "i2|tone|i1|;i3|tthree|i1|;");
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(peer_conflicts(&r.peers[i]), 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back_and_deleted_again_at_once),
        cmocka_unit_test(test_every_decision_closes_on_all),
        cmocka_unit_test(test_what_is_listed),
        cmocka_unit_test(test_a_new_number),
        cmocka_unit_test(test_more_than_can_be_listed),
        cmocka_unit_test(test_deciding_apart),
        cmocka_unit_test(test_deciding_while_the_application_edits),
        cmocka_unit_test(test_deciding_a_dead_row_apart),
        cmocka_unit_test(test_a_dead_row_with_several_values),
        cmocka_unit_test(test_deciding_too_soon),
        cmocka_unit_test(test_a_crash_between_deciding_and_showing),
        cmocka_unit_test(test_a_decision_is_watched),
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_a_row_comes_back_with_its_children),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_a_place_that_is_taken),
        cmocka_unit_test(test_a_column_that_is_not_here),
        cmocka_unit_test(test_two_values_of_a_column_that_is_not_here),
        cmocka_unit_test(test_a_row_that_died_before_it_was_mended),
        cmocka_unit_test(test_why),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
