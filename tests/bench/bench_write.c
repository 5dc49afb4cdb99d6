/* Starling bench: an application that writes.
 *
 *   bench_write create PATH ROWS                        a table of ROWS rows, everything checkpointed
 *   bench_write notes PATH COUNT                        fills the note table: what the ring costs once it is full
 *   bench_write compare OP PER_TX ROWS ROUNDS SYNC A B  OP insert|update, SYNC normal|full: in each round ROWS rows to A, then ROWS rows
 *                                                       to B (the other way round in every second round); seconds of each
 *   bench_write load PATH OP PER_TX RATE SECONDS        RATE transactions a second, 0: as fast as it goes; the longest commit */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"

static void create(const char *path, uint64_t count) {
    struct bench_writer w;
    bench_writer_open(&w, path, false);
    for (uint64_t done = 0; done < count;) {
        uint64_t part = count - done < 50000 ? count - done : 50000;
        struct bench_row *rows = bench_rows(done, part);
        bench_insert(&w, rows, part, part + 1);
        free(rows);
        done += part;
    }
    bench_sql(w.db, "PRAGMA wal_checkpoint(TRUNCATE)");
    bench_writer_close(&w);
    printf("{\"rows\":%" PRIu64 "}\n", count);
}

/* The columns of the note table are capture's own business: the newest note is copied. */
static void notes(const char *path, int64_t count) {
    sqlite3 *db = bench_open(path, false);
    sqlite3_stmt *stmt = bench_prepare(db, "SELECT group_concat(name) FROM pragma_table_info('_starling_dirty') WHERE name<>'seq'");
    if (sqlite3_step(stmt) != SQLITE_ROW || sqlite3_column_type(stmt, 0) == SQLITE_NULL) {
        bench_die("%s: no note table", path);
    }
    char columns[200], sql[800];
    snprintf(columns, sizeof columns, "%s", (const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<%" PRId64 ") INSERT INTO _starling_dirty(%s)"
             " SELECT %s FROM (SELECT * FROM _starling_dirty ORDER BY seq DESC LIMIT 1), c",
             count, columns, columns);
    bench_sql(db, sql);
    bench_sql(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    printf("{\"notes\":%" PRId64 "}\n", bench_int(db, "SELECT count(*) FROM _starling_dirty"));
    bench_close(db);
}

struct side {
    struct bench_writer w;
    int64_t rows; /* in the table at the start */
    uint64_t random;
};

static double slice(struct side *s, bool update, const struct bench_row *rows, uint64_t count, uint64_t per_tx) {
    uint64_t start = bench_ns();
    if (update) {
        bench_update(&s->w, 1, (uint64_t)s->rows, count, per_tx, &s->random);
    } else {
        bench_insert(&s->w, rows, count, per_tx);
    }
    return (double)(bench_ns() - start) / 1e9;
}

static void compare(char **argv) {
    bool update = strcmp(argv[0], "update") == 0, full = strcmp(argv[4], "full") == 0;
    uint64_t per_tx = (uint64_t)bench_number(argv[1], 1, 1000000), count = (uint64_t)bench_number(argv[2], 1, 10000000);
    uint64_t rounds = (uint64_t)bench_number(argv[3], 1, 10000);
    struct side sides[2];
    for (int i = 0; i < 2; i++) {
        bench_writer_open(&sides[i].w, argv[5 + i], full);
        sides[i].rows = bench_int(sides[i].w.db, "SELECT max(id) FROM " BENCH_TABLE);
        sides[i].random = 7;
    }
    struct bench_row *rows = bench_rows(0, count);
    printf("{\"rounds\":[");
    for (uint64_t round = 0; round <= rounds; round++) {
        double seconds[2];
        for (int i = 0; i < 2; i++) {
            int which = (i + (int)round) & 1;
            seconds[which] = slice(&sides[which], update, rows, count, per_tx);
        }
        if (round > 0) { /* the first warms both up */
            printf("%s[%.6f,%.6f]", round > 1 ? "," : "", seconds[0], seconds[1]);
        }
    }
    printf("],\"rows\":%" PRIu64 "}\n", count);
    free(rows);
    bench_writer_close(&sides[0].w);
    bench_writer_close(&sides[1].w);
}

static void load(char **argv) {
    bool update = strcmp(argv[1], "update") == 0;
    uint64_t per_tx = (uint64_t)bench_number(argv[2], 1, 1000000), rate = (uint64_t)bench_number(argv[3], 0, 1000000);
    uint64_t end = bench_ns() + (uint64_t)bench_number(argv[4], 1, 3600) * 1000000000u;
    struct bench_writer w;
    bench_exact_timers();
    bench_writer_open(&w, argv[0], false);
    struct bench_row *rows = bench_rows(5000000, per_tx);
    uint64_t span = (uint64_t)bench_int(w.db, "SELECT max(id) FROM " BENCH_TABLE), random = 11, due = bench_ns();
    struct samples waits = {0};
    for (uint64_t now = due; now < end; now = bench_ns()) {
        if (update) {
            bench_update(&w, 1, span, per_tx, per_tx, &random);
        } else {
            bench_insert(&w, rows, per_tx, per_tx);
        }
        samples_add(&waits, (double)(bench_ns() - now) / 1e6);
        if (rate > 0) {
            due += 1000000000u / rate;
            bench_sleep_until(due);
        }
    }
    printf("{\"transactions\":%zu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n", waits.count, samples_at(&waits, 0.5),
           samples_at(&waits, 0.99), samples_at(&waits, 1));
    samples_release(&waits);
    free(rows);
    bench_writer_close(&w);
}

int main(int argc, char **argv) {
    bench_used_heap();
    if (argc == 4 && strcmp(argv[1], "create") == 0) {
        create(argv[2], (uint64_t)bench_number(argv[3], 0, 100000000));
    } else if (argc == 4 && strcmp(argv[1], "notes") == 0) {
        notes(argv[2], bench_number(argv[3], 1, 100000000));
    } else if (argc == 9 && strcmp(argv[1], "compare") == 0) {
        compare(argv + 2);
    } else if (argc == 7 && strcmp(argv[1], "load") == 0) {
        load(argv + 2);
    } else {
        bench_die("usage: create PATH ROWS | notes PATH COUNT | compare OP PER_TX ROWS ROUNDS SYNC A B | load PATH OP PER_TX RATE SECONDS");
    }
    return 0;
}
