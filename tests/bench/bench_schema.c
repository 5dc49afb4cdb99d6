/* Starling bench: an application that migrates: how long after its COMMIT a table has the node's triggers.
 *
 *   bench_schema PATH ROUNDS
 * A round: a table that is new; a rebuild (create, copy, drop, rename) in one transaction, which leaves no trigger; the same, each statement a commit
 * of its own; and ADD COLUMN, where the triggers stay. Pauses in between as they come, from 1 ms to 300, every 20th one so long that
 * the node has read the tables again and rests. Polls with a SELECT of the schema, which holds nothing when it has ended. */
#include <inttypes.h>
#include <stdio.h>

#include "tests/bench/bench.h"

#define OTHERS 8 /* tables beside these, as applications have */
#define SMALL_ROWS 100
#define PAUSE_US_MAX 300000u
#define LONG_PAUSE_US 3000000u
#define GIVE_UP_S 30
#define POLL_US 100

enum { CREATE, REBUILD, STEPS, KINDS };

struct app {
    sqlite3 *db;
    sqlite3_stmt *look;
    uint64_t random, pauses;
    struct samples back[KINDS];
    uint64_t columns, missing; /* ADD COLUMN: how often, and after how many of them a trigger was missing */
};

static bool has_triggers(struct app *a, const char *table) {
    sqlite3_bind_text(a->look, 1, table, -1, SQLITE_STATIC);
    int r = sqlite3_step(a->look);
    if (r != SQLITE_ROW && r != SQLITE_DONE) {
        bench_die("the schema cannot be read: %s", sqlite3_errmsg(a->db));
    }
    sqlite3_reset(a->look);
    return r == SQLITE_ROW;
}

/* The node installs all triggers of a table in one commit: one tells. */
static double until_triggers(struct app *a, const char *table) {
    uint64_t start = bench_ns(), now = start;
    while (!has_triggers(a, table)) {
        if (now - start > GIVE_UP_S * 1000000000ull) {
            bench_die("%s has no triggers after %d s", table, GIVE_UP_S);
        }
        bench_sleep_us(POLL_US);
        now = bench_ns();
    }
    return (double)(now - start) / 1e6;
}

static void pause_between(struct app *a) {
    uint64_t us = PAUSE_US_MAX >> (bench_random(&a->random) % 9);
    bench_sleep_us(++a->pauses % 20 == 0 ? LONG_PAUSE_US : us);
}

/* The one of the round before goes with the same commit, so that the schema does not grow. */
static void create(struct app *a, uint64_t round) {
    char sql[300], name[32];
    snprintf(name, sizeof name, "made_%" PRIu64, round);
    snprintf(sql, sizeof sql,
             "BEGIN; DROP TABLE IF EXISTS made_%" PRIu64 "; CREATE TABLE %s(id INTEGER PRIMARY KEY, name TEXT, value REAL); COMMIT",
             round - 1, name);
    bench_sql(a->db, sql);
    samples_add(&a->back[CREATE], until_triggers(a, name));
}

static void rebuild(struct app *a, int kind) {
    static const char *const statements[] = {"CREATE TABLE small_new(id INTEGER PRIMARY KEY, name TEXT, value REAL)",
                                             "INSERT INTO small_new SELECT id, name, value FROM small", "DROP TABLE small",
                                             "ALTER TABLE small_new RENAME TO small"};
    if (kind == REBUILD) {
        bench_sql(a->db, "BEGIN");
    }
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        bench_sql(a->db, statements[i]);
    }
    if (kind == REBUILD) {
        bench_sql(a->db, "COMMIT");
    }
    samples_add(&a->back[kind], until_triggers(a, "small"));
}

static void add_column(struct app *a, uint64_t round) {
    char sql[100];
    snprintf(sql, sizeof sql, "ALTER TABLE small ADD COLUMN extra_%" PRIu64 " TEXT", round);
    bench_sql(a->db, sql);
    a->columns++;
    a->missing += !has_triggers(a, "small");
}

static void prepare(struct app *a, const char *path) {
    a->db = bench_open(path, false);
    for (int i = 0; i < OTHERS; i++) {
        char sql[200];
        snprintf(sql, sizeof sql,
                 "CREATE TABLE other_%d(id INTEGER PRIMARY KEY, name TEXT UNIQUE, value REAL, at TEXT DEFAULT CURRENT_TIMESTAMP)", i);
        bench_sql(a->db, sql);
    }
    bench_sql(a->db, "CREATE TABLE small(id INTEGER PRIMARY KEY, name TEXT, value REAL)");
    char sql[200];
    snprintf(
        sql, sizeof sql,
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<%d) INSERT INTO small SELECT x, 'name '||x, x*0.5 FROM c",
        SMALL_ROWS);
    bench_sql(a->db, sql);
    a->look =
        bench_prepare(a->db, "SELECT 1 FROM sqlite_schema WHERE type='trigger' AND tbl_name=?1 AND name GLOB '_starling_[0-9]*' LIMIT 1");
    (void)until_triggers(a, "small");
    bench_sleep_us(LONG_PAUSE_US);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        bench_die("usage: PATH ROUNDS");
    }
    static const char *const names[KINDS] = {"create", "rebuild", "steps"};
    struct app a = {.random = 13};
    uint64_t rounds = (uint64_t)bench_number(argv[2], 1, 100000);
    bench_exact_timers();
    prepare(&a, argv[1]);
    for (uint64_t round = 1; round <= rounds; round++) {
        create(&a, round);
        pause_between(&a);
        rebuild(&a, REBUILD);
        pause_between(&a);
        add_column(&a, round);
        pause_between(&a);
        rebuild(&a, STEPS);
        pause_between(&a);
    }
    printf("{");
    for (int kind = 0; kind < KINDS; kind++) {
        struct samples *s = &a.back[kind];
        printf("\"%s\":{\"count\":%zu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f},", names[kind], s->count, samples_at(s, 0.5),
               samples_at(s, 0.99), samples_at(s, 1));
        samples_release(s);
    }
    printf("\"columns\":%" PRIu64 ",\"missing\":%" PRIu64 "}\n", a.columns, a.missing);
    sqlite3_finalize(a.look);
    bench_close(a.db);
    return 0;
}
