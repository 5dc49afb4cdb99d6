/* Starling bench: an application whose transactions read first and write then.
 *
 *   bench_deferred PATH SECONDS THINK_US GAP_US
 * In turn BEGIN; SELECT; (think) UPDATE; COMMIT, and, beside every fourth of them, the same with BEGIN IMMEDIATE and an UPDATE in autocommit.
 * A deferred transaction that finds its snapshot old when it comes to write fails at once, whatever its busy timeout: that is SQLite,
 * and any second writer causes it. Counted is how often it happens. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/bench.h"

enum { DEFERRED, IMMEDIATE, AUTOCOMMIT, KINDS };

struct app {
    struct bench_writer w;
    sqlite3_stmt *immediate, *select, *rollback;
    int64_t rows;
    uint64_t random, think_us;
    unsigned done[KINDS], failed[KINDS];
};

static bool step(sqlite3_stmt *stmt) {
    int r = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    return r == SQLITE_DONE || r == SQLITE_ROW;
}

static bool transaction(struct app *a, int kind) {
    int64_t key = 1 + (int64_t)(bench_random(&a->random) % (uint64_t)a->rows);
    sqlite3_bind_int64(a->select, 1, key);
    sqlite3_bind_int64(a->w.update, 1, (int64_t)(bench_random(&a->random) % 1000));
    sqlite3_bind_int64(a->w.update, 2, key);
    if (kind == AUTOCOMMIT) {
        return step(a->w.update);
    }
    if (!step(kind == IMMEDIATE ? a->immediate : a->w.begin)) {
        return false;
    }
    bool fine = step(a->select);
    if (fine && a->think_us > 0) {
        bench_sleep_us(a->think_us);
    }
    fine = fine && step(a->w.update) && step(a->w.commit);
    if (!fine && sqlite3_get_autocommit(a->w.db) == 0) {
        step(a->rollback);
    }
    return fine;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        bench_die("usage: PATH SECONDS THINK_US GAP_US");
    }
    struct app a = {.random = 3};
    bench_exact_timers();
    bench_writer_open(&a.w, argv[1], false);
    a.immediate = bench_prepare(a.w.db, "BEGIN IMMEDIATE");
    a.rollback = bench_prepare(a.w.db, "ROLLBACK");
    a.select = bench_prepare(a.w.db, "SELECT score FROM " BENCH_TABLE " WHERE id=?1");
    a.rows = bench_int(a.w.db, "SELECT max(id) FROM " BENCH_TABLE);
    uint64_t end = bench_ns() + (uint64_t)bench_number(argv[2], 1, 3600) * 1000000000u;
    a.think_us = (uint64_t)bench_number(argv[3], 0, 1000000);
    uint64_t gap_us = (uint64_t)bench_number(argv[4], 1, 1000000);
    for (unsigned i = 0; a.rows > 0 && bench_ns() < end; i++) {
        int kind = i % 6 == 4 ? IMMEDIATE : i % 6 == 5 ? AUTOCOMMIT : DEFERRED;
        a.done[kind]++;
        a.failed[kind] += !transaction(&a, kind);
        bench_sleep_us(bench_random(&a.random) % (2 * gap_us));
    }
    printf("{\"deferred\":%u,\"deferred_failed\":%u,\"immediate\":%u,\"immediate_failed\":%u,\"autocommit\":%u,\"autocommit_failed\":%u}\n",
           a.done[DEFERRED], a.failed[DEFERRED], a.done[IMMEDIATE], a.failed[IMMEDIATE], a.done[AUTOCOMMIT], a.failed[AUTOCOMMIT]);
    sqlite3_finalize(a.immediate);
    sqlite3_finalize(a.rollback);
    sqlite3_finalize(a.select);
    bench_writer_close(&a.w);
    return 0;
}
