/* Starling bench: the store alone, in one process and one thread: two stores on files of this disk, batches handed over directly.
 *
 *   bench_store FOLDER ROWS ROUNDS
 * Each round, for inserts and for one-column updates of ROWS rows: the same by plain SQLite in one transaction; the application's
 * transaction beside store A; drain: turns of A until every row is in a batch that is durable; apply: the batches given to store B, turns
 * of B until everything is shown. Then the same for commits of one row. Prints rates and bytes; the state files stay for those who
 * want to measure them. */
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/store.h"
#include "proto/err.h"
#include "tests/bench/bench.h"

#define BATCHES_MAX 65536
#define GIVE_UP_NS 120000000000u
#define SINGLES 300

struct side {
    struct store *store;
    char app[4096], state[4096];
    struct bench_writer w;
    struct bytes *batches[BATCHES_MAX]; /* of ours, not handed over yet */
    uint32_t batches_count;
    uint64_t rows_out, bytes_out; /* in batches so far */
    bool settled;
    struct vv have;
};

static void on_batch(void *ctx, struct bytes *batch) {
    struct side *s = ctx;
    struct batch_head head;
    if (batch_head_read(&head, batch->data, batch->len) != 0 || s->batches_count == BATCHES_MAX) {
        bench_die("the store wrote a batch that cannot be used");
    }
    s->rows_out += head.rows;
    s->bytes_out += batch->len;
    batch_head_release(&head);
    s->batches[s->batches_count++] = bytes_ref(batch);
}

static void on_stored(void *ctx, const struct db_state *state) {
    struct side *s = ctx;
    s->settled = state->settled;
    if (vv_copy(&s->have, &state->have) != 0) {
        bench_die("out of memory");
    }
}

static void on_bad(void *ctx, const struct origin *o, uint64_t version, const char *why) {
    (void)ctx;
    (void)o;
    bench_die("version %" PRIu64 " was not taken: %s", version, why);
}

static void on_log(void *ctx, int level, const char *text) {
    (void)ctx;
    if (level < 2) {
        fprintf(stderr, "store: %s\n", text);
    }
}

static void on_change(void *ctx, json_t *change) {
    (void)ctx;
    json_decref(change);
}

static void turn(struct side *s, uint64_t since) {
    char why[512] = "";
    int wait = store_turn(s->store, why, sizeof why);
    if (wait < -999) {
        bench_die("%s: %s (%s)", s->app, why, err_text(wait));
    }
    if (bench_ns() - since > GIVE_UP_NS) {
        json_t *status = store_status(s->store);
        char *text = json_dumps(status, 0);
        bench_die("%s: does not end: %s", s->app, text != NULL ? text : "");
    }
    if (wait != 0) {
        bench_sleep_us(50);
    }
}

static void open_side(struct side *s, const char *folder, const char *name) {
    snprintf(s->app, sizeof s->app, "%s/%s.db", folder, name);
    snprintf(s->state, sizeof s->state, "%s/%s.state", folder, name);
    vv_init(&s->have);
    bench_writer_open(&s->w, s->app, false);
    struct store_config config = {.app_path = s->app,
                                  .state_path = s->state,
                                  .db = "app.db",
                                  .ctx = s,
                                  .on_batch = on_batch,
                                  .on_stored = on_stored,
                                  .on_bad = on_bad,
                                  .on_change = on_change,
                                  .on_log = on_log};
    crypto_sign_keypair(config.key, config.secret);
    char why[512] = "";
    int r = store_open(&s->store, &config, why, sizeof why);
    if (r != 0) {
        bench_die("%s: %s (%s)", s->app, why, err_text(r));
    }
    uint64_t start = bench_ns();
    while (!s->settled && bench_ns() - start < 3000000000u) {
        turn(s, start);
    }
}

static void close_side(struct side *s) {
    store_close(s->store);
    bench_writer_close(&s->w);
    vv_release(&s->have);
}

/* Turns of the author until `rows` more rows are out. */
static double drain(struct side *a, uint64_t rows) {
    uint64_t start = bench_ns(), goal = a->rows_out + rows;
    while (a->rows_out < goal) {
        turn(a, start);
    }
    return (double)(bench_ns() - start) / 1e9;
}

/* Hands everything over; turns of the receiver until it shows it all. */
static double apply(struct side *a, struct side *b) {
    struct db_state state;
    store_state(a->store, &state);
    struct vv goal;
    vv_init(&goal);
    vv_copy(&goal, &state.have);
    uint64_t start = bench_ns();
    for (uint32_t i = 0; i < a->batches_count; i++) {
        store_deliver(b->store, a->batches[i]);
    }
    do {
        turn(b, start);
    } while (!b->settled || !vv_covers(&b->have, &goal));
    double seconds = (double)(bench_ns() - start) / 1e9;
    for (uint32_t i = 0; i < a->batches_count; i++) {
        bytes_unref(a->batches[i]);
    }
    a->batches_count = 0;
    vv_release(&goal);
    return seconds;
}

static void same_content(struct side *a, struct side *b) {
    static const char *const sums[] = {"SELECT count(*) FROM " BENCH_TABLE, "SELECT sum(score*(id%1000)) FROM " BENCH_TABLE,
                                       "SELECT sum(length(data)+length(team)+match) FROM " BENCH_TABLE};
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) {
        if (bench_int(a->w.db, sums[i]) != bench_int(b->w.db, sums[i])) {
            bench_die("both sides should be equal: %s", sums[i]);
        }
    }
}

struct round {
    const struct bench_row *rows;
    uint64_t count;
    int64_t first;
    bool update;
};

/* One transaction of plain SQLite. */
static double plain(struct bench_writer *w, const struct round *r, bool upsert) {
    uint64_t start = bench_ns();
    if (r->update) {
        bench_update(w, r->first, r->count, r->count, r->count + 1, NULL);
    } else if (!upsert) {
        bench_insert(w, r->rows, r->count, r->count + 1);
    } else {
        bench_step(w->db, w->begin);
        for (uint64_t i = 0; i < r->count; i++) {
            bench_row_bind(w->upsert, &r->rows[i]);
            sqlite3_bind_int64(w->upsert, BENCH_KEY_PARAMETER, r->first + (int64_t)i);
            bench_step(w->db, w->upsert);
        }
        bench_step(w->db, w->commit);
    }
    return (double)(bench_ns() - start) / 1e9;
}

static void in_bulk(struct side *a, struct side *b, struct bench_writer *raw, struct bench_writer *raw2, const struct round *r,
                    bool first) {
    double insert_s = plain(raw, r, false), upsert_s = plain(raw2, r, true);
    plain(&a->w, r, false);
    uint64_t bytes = a->bytes_out;
    double drain_s = drain(a, r->count);
    bytes = a->bytes_out - bytes;
    double apply_s = apply(a, b);
    printf("%s{\"raw_s\":%.6f,\"upsert_s\":%.6f,\"drain_s\":%.6f,\"apply_s\":%.6f,\"bytes_row\":%.2f}", first ? "" : ",", insert_s,
           upsert_s, drain_s, apply_s, (double)bytes / (double)r->count);
    fflush(stdout);
}

static void one_by_one(struct side *a, struct side *b, const struct bench_row *rows) {
    struct samples drains = {0}, applies = {0}, bytes[2] = {{0}, {0}};
    for (int i = 0; i < 2 * SINGLES; i++) {
        int update = i & 1;
        if (update) {
            bench_update(&a->w, 1 + i, 1, 1, 1, NULL);
        } else {
            bench_insert(&a->w, rows + i / 2, 1, 1);
        }
        uint64_t before = a->bytes_out;
        double drain_s = drain(a, 1);
        samples_add(&bytes[update], (double)(a->bytes_out - before));
        double apply_s = apply(a, b);
        if (!update) {
            samples_add(&drains, drain_s * 1e6);
            samples_add(&applies, apply_s * 1e6);
        }
    }
    printf("\"single\":{\"drain_p50_us\":%.0f,\"drain_p99_us\":%.0f,\"apply_p50_us\":%.0f,\"apply_p99_us\":%.0f,\"bytes\":%.0f,"
           "\"update_bytes\":%.0f}",
           samples_at(&drains, 0.5), samples_at(&drains, 0.99), samples_at(&applies, 0.5), samples_at(&applies, 0.99),
           samples_at(&bytes[0], 0.5), samples_at(&bytes[1], 0.5));
    samples_release(&drains);
    samples_release(&applies);
    samples_release(&bytes[0]);
    samples_release(&bytes[1]);
}

int main(int argc, char **argv) {
    static struct side a, b;
    if (argc != 4) {
        bench_die("usage: FOLDER ROWS ROUNDS");
    }
    if (sodium_init() < 0) {
        bench_die("libsodium does not start");
    }
    struct round r = {.count = (uint64_t)bench_number(argv[2], SINGLES, 10000000), .first = 1};
    int64_t rounds = bench_number(argv[3], 1, 100);
    uint64_t count = r.count;
    struct bench_row *rows = bench_rows(0, count);
    r.rows = rows;
    struct bench_writer raw, raw2;
    char path[4096];
    snprintf(path, sizeof path, "%s/raw.db", argv[1]);
    bench_writer_open(&raw, path, false);
    snprintf(path, sizeof path, "%s/raw2.db", argv[1]);
    bench_writer_open(&raw2, path, false);
    open_side(&a, argv[1], "a");
    open_side(&b, argv[1], "b");
    printf("{\"rows\":%" PRIu64 ",", count);
    for (int update = 0; update < 2; update++) {
        printf("\"%s\":[", update ? "update" : "insert");
        r.update = update != 0;
        for (int64_t i = 0; i < rounds; i++) {
            r.first = 1 + i * (int64_t)count;
            in_bulk(&a, &b, &raw, &raw2, &r, i == 0);
        }
        printf("],");
    }
    same_content(&a, &b);
    one_by_one(&a, &b, rows);
    same_content(&a, &b);
    printf(",\"table_rows\":%" PRId64 "}\n", bench_int(a.w.db, "SELECT count(*) FROM " BENCH_TABLE));
    free(rows);
    bench_writer_close(&raw);
    bench_writer_close(&raw2);
    close_side(&a);
    close_side(&b);
    return 0;
}
