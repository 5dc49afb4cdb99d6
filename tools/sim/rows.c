#include "tools/sim/rows.h"

#include <assert.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/store/store.h"
#include "proto/err.h"
#include "tools/sim/ledger.h"
#include "tools/sim/moment.h"

#define OPENING_TURNS 1000u

struct sim_rows {
    struct sim *sim;
    unsigned node;
    sqlite3 *app;
    struct store *store;
    char app_path[100], state_path[100];
    bool announced, told; /* told: there is a state that the core was not told */
    uint64_t turn_us;     /* the next turn; 0 none */
    struct bytes **made;  /* batches that the core was not told */
    unsigned made_count, made_cap;
    uint32_t epoch_above; /* epochs up to this one were of a state that was set aside */
    char *conflicts;      /* that were open when its node went down; NULL none */
};

struct sim_databases {
    char folder[64];
    struct ledger ledger;
    struct sim_rows rows[SIM_MERGE_NODES_MAX];
};

static struct sim_rows *of(const struct sim *sim, unsigned node) { return &sim->databases->rows[node]; }

/* What is called next runs on that node. */
static struct sim_rows *enter(const struct sim *sim, unsigned node) {
    uint64_t mono_us, wall_ms;
    sim_clocks(sim, node, &mono_us, &wall_ms);
    moment_is(mono_us, wall_ms);
    return of(sim, node);
}

static void later(struct sim_rows *r, uint64_t delay_us) {
    uint64_t at = r->sim->now_us + delay_us;
    if (r->turn_us && r->turn_us <= at)
        return;
    r->turn_us = at;
    sim_schedule(r->sim, SIM_TURN, delay_us, r->node);
}

/* How long a worker takes until it is at it. */
static void soon(struct sim_rows *r) {
    struct sim *sim = r->sim;
    bool noise = sim->weather.noise;
    later(r, 200 + sim_below(sim, !noise ? 500 : !sim->healing && sim_chance(sim, 20) ? 1500000 : 15000));
}

/* ---- what the store tells */

static void on_batch(void *ctx, struct bytes *batch) {
    struct sim_rows *r = ctx;
    sim_store_made(r->sim, r->node, 0, batch);
    if (r->made_count == r->made_cap) {
        r->made_cap = r->made_cap ? r->made_cap * 2 : 8;
        r->made = realloc(r->made, r->made_cap * sizeof *r->made);
        assert(r->made);
    }
    r->made[r->made_count++] = bytes_ref(batch);
}

static void on_stored(void *ctx, const struct db_state *state) {
    (void)state;
    ((struct sim_rows *)ctx)->told = true;
}

static void on_bad(void *ctx, const struct origin *o, uint64_t version, const char *why) {
    struct sim_rows *r = ctx;
    char who[ORIGIN_TEXT_BYTES];
    sim_fail(r->sim, "node %u does not take version %llu of %s: %s", r->node, (unsigned long long)version, origin_text(o, who), why);
}

static void on_change(void *ctx, json_t *change) {
    (void)ctx;
    json_decref(change);
}

static void on_log(void *ctx, int level, const char *text) {
    struct sim_rows *r = ctx;
    sim_say(r->sim, "n%u store log %d: %s", r->node, level, text);
    if (level == 0)
        sim_fail(r->sim, "node %u: %s", r->node, text);
}

/* ---- telling the core */

static void forget_made(struct sim_rows *r) {
    while (r->made_count)
        bytes_unref(r->made[--r->made_count]);
}

static void say_state(struct sim_rows *r, enum event_type type) {
    struct sim_db *d = &r->sim->node[r->node].dbs[0];
    struct db_state state;
    store_state(r->store, &state);
    int err = vv_copy(&d->have, &state.have); /* its own is valid until the next call */
    assert(err == 0);
    state.have = d->have;
    r->told = false;
    sim_store_settle(d);
    sim_step(r->sim, r->node, &(struct event){.type = type, .db = sim_db_name(0), .state = &state});
}

static void hand_out(struct sim_rows *r) {
    struct sim_db *d = &r->sim->node[r->node].dbs[0];
    if (!r->announced && store_ready(r->store)) {
        struct db_state state;
        store_state(r->store, &state);
        int err = vv_copy(&d->delivered, &state.have);
        assert(err == 0);
        forget_made(r); /* its vector has them */
        r->announced = true;
        say_state(r, EVENT_DB_OPEN);
    }
    if (!r->announced)
        return;
    for (unsigned i = 0; i < r->made_count; i++)
        sim_step(r->sim, r->node, &(struct event){.type = EVENT_BATCH_LOCAL, .db = sim_db_name(0), .batch = r->made[i]});
    forget_made(r);
    if (r->told)
        say_state(r, EVENT_STORED);
}

static void turn(struct sim *sim, const struct sim_event *e) {
    struct sim_rows *r = of(sim, e->node);
    char why[300];
    if (r->turn_us != sim->now_us || !r->store)
        return; /* an earlier one was made instead */
    r->turn_us = 0;
    enter(sim, e->node);
    int wait = store_turn(r->store, why, sizeof why);
    if (wait < -1) {
        sim_fail(sim, "node %u: a turn fails (%s): %s", e->node, err_text(wait), why);
        return;
    }
    hand_out(r);
    if (wait >= 0)
        later(r, wait ? (uint64_t)wait * 1000 : 50 + sim_below(sim, 200));
}

/* ---- open conflicts */

static int line_cmp(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* A line each; their order is each server's own. */
static char *conflicts_of(struct sim *sim, unsigned node) {
    json_t *list = store_conflicts(enter(sim, node)->store), *one;
    size_t count = json_array_size(list), i, len;
    char **lines = calloc(count + 1, sizeof *lines), *text = NULL;
    assert(lines);
    json_array_foreach(list, i, one) lines[i] = json_dumps(one, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(list);
    qsort(lines, count, sizeof *lines, line_cmp);
    FILE *out = open_memstream(&text, &len);
    assert(out);
    for (i = 0; i < count; i++) {
        fprintf(out, "%s\n", lines[i]);
        free(lines[i]);
    }
    free(lines);
    fclose(out);
    return text;
}

/* ---- life */

void sim_rows_open(struct sim *sim, unsigned node) {
    struct sim_rows *r = enter(sim, node);
    char why[300];
    struct store_config config = {.app_path = r->app_path,
                                  .state_path = r->state_path,
                                  .db = sim_db_name(0),
                                  .epoch_above = r->epoch_above,
                                  .ctx = r,
                                  .on_batch = on_batch,
                                  .on_stored = on_stored,
                                  .on_bad = on_bad,
                                  .on_change = on_change,
                                  .on_log = on_log};
    memcpy(config.key, sim->node[node].key, sizeof config.key);
    memcpy(config.secret, sim->node[node].secret, sizeof config.secret);
    int err = store_open(&r->store, &config, why, sizeof why);
    if (err) {
        r->store = NULL;
        sim_fail(sim, "node %u: its database does not open (%s): %s", node, err_text(err), why);
        return;
    }
    r->announced = r->told = false;
    r->turn_us = 0;
    hand_out(r);
    soon(r);
}

void sim_rows_down(struct sim *sim, unsigned node) {
    struct sim_rows *r = enter(sim, node);
    if (r->store) {
        free(r->conflicts);
        r->conflicts = conflicts_of(sim, node);
        store_close(r->store);
    }
    r->store = NULL;
    forget_made(r);
}

static void make(struct sim *sim, unsigned node) {
    struct sim_rows *r = enter(sim, node);
    r->sim = sim;
    r->node = node;
    snprintf(r->app_path, sizeof r->app_path, "%s/%u.db", sim->databases->folder, node);
    snprintf(r->state_path, sizeof r->state_path, "%s/%u.state", sim->databases->folder, node);
    int err = sqlite3_open(r->app_path, &r->app);
    if (err == SQLITE_OK)
        err = sqlite3_exec(r->app, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON", NULL, NULL, NULL);
    if (err == SQLITE_OK)
        err = sqlite3_exec(r->app, ledger_schema, NULL, NULL, NULL);
    if (err != SQLITE_OK)
        sim_fail(sim, "node %u: %s", node, sqlite3_errmsg(r->app));
}

void sim_rows_begin(struct sim *sim) {
    assert(sim->nodes <= SIM_MERGE_NODES_MAX);
    sim->databases = calloc(1, sizeof *sim->databases);
    assert(sim->databases);
    bool shm = access("/dev/shm", W_OK) == 0;
    snprintf(sim->databases->folder, sizeof sim->databases->folder, "%s/starling-sim.XXXXXX", shm ? "/dev/shm" : "/tmp");
    if (!mkdtemp(sim->databases->folder))
        sim_fail(sim, "there is no place for databases: %s", sim->databases->folder);
    moment_begin(sim->options.seed);
    for (unsigned node = 0; node < sim->nodes && !sim->result->failed; node++)
        make(sim, node);
}

static void remove_folder(const char *folder) {
    char path[400];
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(folder);
}

void sim_rows_end(struct sim *sim) {
    if (!sim->databases)
        return;
    for (unsigned node = 0; node < sim->nodes; node++) {
        struct sim_rows *r = of(sim, node);
        sim_rows_down(sim, node);
        free(r->made);
        free(r->conflicts);
        sqlite3_close(r->app);
    }
    remove_folder(sim->databases->folder);
    moment_end();
    ledger_release(&sim->databases->ledger);
    free(sim->databases);
    sim->databases = NULL;
}

/* ---- rows in, batches in and out */

void sim_rows_write(struct sim *sim, unsigned node) {
    struct sim_rows *r = enter(sim, node);
    char *open = r->store ? conflicts_of(sim, node) : NULL;
    struct ledger_view view = {.app = r->app, .node = node, .conflicts = open ? open : r->conflicts ? r->conflicts : ""};
    view.forgets = sim->options.canary == CANARY_ROWS && sim_chance(sim, 100);
    const char *wrong = ledger_write(&sim->databases->ledger, &view, sim_random(sim));
    free(open);
    if (wrong)
        sim_fail(sim, "the application of node %u could not write: %s", node, wrong);
    if (r->store)
        soon(r);
}

void sim_rows_deliver(struct sim *sim, unsigned node, struct bytes *batch) {
    struct sim_rows *r = enter(sim, node);
    assert(r->store);
    store_deliver(r->store, batch);
    soon(r);
}

static void answer_read(struct sim *sim, const struct sim_event *e) {
    struct sim_rows *r = enter(sim, e->node);
    struct bytes **batches = NULL;
    uint32_t count = 0;
    int err = r->store ? store_read(r->store, &e->origin, e->from, e->to, e->bytes_max, &batches, &count) : 0;
    if (err || (r->store && !count))
        sim_fail(sim, "node %u: its log lacks version %llu, which it has (%s)", e->node, (unsigned long long)e->from, err_text(err));
    sim_step(sim, e->node, &(struct event){.type = EVENT_READ, .request = e->number, .batches = batches, .batches_count = count});
    for (uint32_t i = 0; i < count; i++)
        bytes_unref(batches[i]);
    free(batches);
}

void sim_rows_shared(struct sim *sim, unsigned node) {
    struct sim_rows *r = enter(sim, node);
    if (r->store)
        store_shared(r->store);
}

/* It had rows before it met the others: they are taken up anew, below what is there. */
static void yield(struct sim *sim, unsigned node) {
    struct sim_rows *r = enter(sim, node);
    if (!r->store)
        return;
    r->epoch_above = store_epoch(r->store);
    sim_rows_down(sim, node);
    if (store_set_aside(r->state_path, r->app_path) != 0)
        sim_fail(sim, "node %u: its state cannot be set aside", node);
    sim->node[node].dbs[0].pending_count = 0;
    sim_step(sim, node, &(struct event){.type = EVENT_DB_CLOSED, .db = sim_db_name(0)});
    sim_rows_open(sim, node);
}

void sim_rows_event(struct sim *sim, struct sim_event *e) {
    switch (e->kind) {
    case SIM_READ: answer_read(sim, e); break;
    case SIM_YIELD: yield(sim, e->node); break;
    default: turn(sim, e); break;
    }
}

/* ---- looking */

/* The first line in which they differ. */
static const char *difference(unsigned a, unsigned b, const char *what, const char *is, const char *other, char *text, size_t cap) {
    size_t n = 0;
    for (; strcmp(is, other) != 0; is += n + (is[n] == '\n'), other += n + (other[n] == '\n')) {
        n = strcspn(is, "\n");
        if (n == strcspn(other, "\n") && memcmp(is, other, n) == 0)
            continue;
        snprintf(text, cap, "nodes %u and %u have different %s: %.*s and %.*s", a, b, what, (int)n, is, (int)strcspn(other, "\n"), other);
        return text;
    }
    return NULL;
}

const char *sim_rows_unequal(struct sim *sim, char *text, size_t cap) {
    char *rows = NULL, *conflicts = NULL;
    const char *why = NULL;
    unsigned first = 0;
    for (unsigned node = 0; node < sim->nodes && !why; node++) {
        ledger_excuse(&sim->databases->ledger, node, !of(sim, node)->store);
        if (!of(sim, node)->store)
            continue;
        char *its = ledger_rows(enter(sim, node)->app), *open = conflicts_of(sim, node);
        if (rows && !(why = difference(first, node, "rows", rows, its, text, cap)))
            why = difference(first, node, "open conflicts", conflicts, open, text, cap);
        if (rows) {
            free(its);
            free(open);
            continue;
        }
        first = node;
        rows = its;
        conflicts = open;
    }
    if (rows && !why)
        why = ledger_lost(&sim->databases->ledger, rows, conflicts, text, cap);
    free(rows);
    free(conflicts);
    return why;
}
