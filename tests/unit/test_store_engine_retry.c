/* The engine: what it costs the application that rows cannot be shown at once. It is kept out while they are tried, so what is counted is what SQLite is
 * asked to do meanwhile. */
#include "store_rig.h"

struct counted {
    uint64_t statements, remade; /* remade: those that SQLite had to compile anew, since it read the schema again */
};

static int count(unsigned type, void *ctx, void *stmt, void *text) {
    struct counted *c = ctx;
    (void)type;
    (void)stmt;
    (void)text;
    c->statements++;
    return 0;
}

/* From now on what our writing connection does in the file of server i is counted. */
static void count_from(struct rig *r, uint32_t i, struct counted *c) {
    *c = (struct counted){0};
    assert_int_equal(sqlite3_trace_v2(store_appfile(r->peers[i].s.store)->writer, SQLITE_TRACE_STMT, count, c), SQLITE_OK);
}

/* Before the statements are made for another schema. */
static void count_remade(struct rig *r, uint32_t i, struct counted *c) {
    sqlite3 *db = store_appfile(r->peers[i].s.store)->writer;
    for (sqlite3_stmt *q = sqlite3_next_stmt(db, NULL); q; q = sqlite3_next_stmt(db, q))
        c->remade += (uint64_t)sqlite3_stmt_status(q, SQLITE_STMTSTATUS_REPREPARE, 0);
}

static void open_apart(struct rig *r, const char *first, const char *second) {
    rig_start(r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(side_open_app(&r->peers[i].s), SQLITE_OK);
        app_exec(r->peers[i].s.app, i ? second : first);
        peer_open(&r->peers[i]);
        peer_rest(&r->peers[i]);
    }
    rig_share(r);
    rig_time_passes(r);
}

#define FILL(n, what) "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < " n ") INSERT INTO " what " FROM c"

/* A server that was upgraded has no such column any more, and the others demand it: nothing that comes lets these rows in, nor what refers to them. */
static void test_rows_whose_form_is_refused_are_left_alone(void **state) {
    (void)state;
    struct rig r;
    struct counted c;
    open_apart(
        &r,
        "CREATE TABLE book(id INTEGER PRIMARY KEY, name); CREATE TABLE tag(id INTEGER PRIMARY KEY, book INTEGER REFERENCES book(id));"
        "CREATE TABLE note(k TEXT PRIMARY KEY)",
        "CREATE TABLE book(id INTEGER PRIMARY KEY, name, shelf NOT NULL);"
        "CREATE TABLE tag(id INTEGER PRIMARY KEY, book INTEGER REFERENCES book(id)); CREATE TABLE note(k TEXT PRIMARY KEY)");
    rig_act(&r, 1, FILL("100", "book(name, shelf) SELECT 'theirs', 's'")); /* ours get other numbers, so what refers to them waits */
    rig_act(&r, 0, FILL("100", "book(name) SELECT 'ours'"));
    rig_act(&r, 0, "INSERT INTO tag(book) SELECT id FROM book");
    rig_share(&r);
    int64_t parked = peer_status(&r.peers[1], "parked");
    assert_true(parked >= 200);
    count_from(&r, 1, &c);
    for (int i = 0; i < 20; i++) {
        rig_act(&r, 0, "INSERT INTO note VALUES(hex(randomblob(8)))");
        peer_pull(&r.peers[1], &r.peers[0]);
        side_skip(200);
    }
    assert_int_equal(app_int(rig_app(&r, 1), "SELECT count(*) FROM note"), 20);
    assert_in_range(c.statements, 1, 20 * 20);

    for (int i = 0; i < 8; i++) /* old notes are trimmed */
        peer_retry(&r.peers[1]);
    int64_t version = app_int(rig_app(&r, 1), "PRAGMA data_version");
    for (int i = 0; i < 8; i++)
        peer_retry(&r.peers[1]);
    assert_int_equal(app_int(rig_app(&r, 1), "PRAGMA data_version"), version); /* nothing is committed where nothing was shown */
    side_skip(31000);                                                          /* all the same, they are tried now and then */
    count_from(&r, 1, &c);
    peer_rest(&r.peers[1]);
    assert_true(c.statements >= 100);
    assert_int_equal(app_int(rig_app(&r, 1), "PRAGMA data_version"), version);

    rig_act(&r, 1, "ALTER TABLE book DROP COLUMN shelf");
    for (int i = 0; i < 5; i++)
        peer_retry(&r.peers[1]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same(&r, "SELECT * FROM book ORDER BY id");
    assert_same(&r, "SELECT * FROM tag ORDER BY id");
    assert_everywhere(&r, "SELECT count(*), count(DISTINCT book) FROM tag", "i100|i100|;");
    rig_close(&r);
}

/* Each row refers to the next, there and back; all that were here get other numbers, and those that come wait for the ones that they refer to; and every other one
 * has a value that only the second server wants once, so that it cannot be mended, and what was tried is taken back. */
static struct counted chains(int rows) {
    struct rig r;
    struct counted c;
    char sql[400];
    open_apart(
        &r, "CREATE TABLE step(id INTEGER PRIMARY KEY, name TEXT, next INTEGER REFERENCES step(id))",
        "CREATE TABLE step(id INTEGER PRIMARY KEY, name TEXT, next INTEGER REFERENCES step(id)); CREATE UNIQUE INDEX once ON step(name)");
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(sql, sizeof sql,
                 "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < %d)"
                 "INSERT INTO step(name) SELECT iif(i %% 2, '%u of ', 'of both ') || i FROM c;"
                 "UPDATE step SET next = id %s 1 WHERE id %s 1 BETWEEN 1 AND %d",
                 rows, i, i ? "-" : "+", i ? "-" : "+", rows);
        rig_act(&r, i, sql);
        rig_tick();
    }
    count_from(&r, 1, &c);
    for (int i = 0; i < 3; i++)
        rig_share(&r);
    count_remade(&r, 1, &c);
    assert_true(peer_status(&r.peers[1], "parked") >= rows / 2);
    rig_act(&r, 1, "DROP INDEX once");
    for (int i = 0; i < 5; i++)
        peer_retry(&r.peers[1]);
    rig_share(&r);
    count_remade(&r, 1, &c);
    rig_assert_settled(&r);
    assert_same(&r, "SELECT * FROM step ORDER BY id");
    assert_everywhere(&r, "SELECT count(*) FROM step WHERE next NOT IN (SELECT id FROM step)", "i0|;");
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM step"), 2 * rows);
    rig_close(&r);
    return c;
}

static void test_rows_that_wait_for_each_other(void **state) {
    (void)state;
    struct counted few = chains(40), many = chains(160);
    print_message("40 rows: %llu statements, %llu remade; 160 rows: %llu, %llu\n", (unsigned long long)few.statements,
                  (unsigned long long)few.remade, (unsigned long long)many.statements, (unsigned long long)many.remade);
    assert_in_range(many.statements, 160, 6 * few.statements);
    assert_in_range(many.remade, 0, 60);
}

/* Rows that refer to each other in one large circle, and one of them is kept out: none can come before all do. */
static void test_a_large_circle(void **state) {
    (void)state;
    struct rig r;
    struct counted c;
    open_apart(&r,
               "CREATE TABLE step(id INTEGER PRIMARY KEY, name TEXT, next INTEGER REFERENCES step(id), last INTEGER REFERENCES step(id))",
               "CREATE TABLE step(id INTEGER PRIMARY KEY, name TEXT, next INTEGER REFERENCES step(id), last INTEGER REFERENCES step(id));"
               "CREATE UNIQUE INDEX once ON step(name)");
    rig_act(&r, 1, "INSERT INTO step(name) VALUES('once')");
    rig_act(&r, 0,
            "BEGIN;" FILL(
                "1200",
                "step(name) SELECT iif(i = 700, 'once', i)") ";"
                                                             "UPDATE step SET next = id % 1200 + 1, last = (id + 1198) % 1200 + 1; COMMIT");
    count_from(&r, 1, &c);
    rig_share(&r);
    peer_retry(&r.peers[1]);
    assert_int_equal(peer_status(&r.peers[1], "parked"), 1200);
    assert_in_range(c.statements, 1200, 40 * 1200); /* who is missed is found at once, not one ring around the other */
    rig_act(&r, 1, "DROP INDEX once");
    for (int i = 0; i < 1000 && peer_status(&r.peers[1], "parked");
         i++) /* all at once now and then, and the seldomer the longer it takes */
        peer_retry(&r.peers[1]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same(&r, "SELECT * FROM step ORDER BY id");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_whose_form_is_refused_are_left_alone),
        cmocka_unit_test(test_rows_that_wait_for_each_other),
        cmocka_unit_test(test_a_large_circle),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
