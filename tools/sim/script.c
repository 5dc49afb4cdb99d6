/* Runs a script: sets the world up, lets things happen, and holds what is against what is expected. */
#include "tools/sim/script.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/rows.h"

#define STEP_US 10000u       /* between two looks at what is expected */
#define ROWS_STEP_US 500000u /* ... when all rows are looked at */

struct play {
    struct sim *sim;
    struct line line;
    const char *name;
    bool wrong;
};

static void wrong(struct play *p, const char *format, ...) {
    if (p->wrong)
        return;
    p->wrong = true;
    struct sim_result *r = p->sim->result;
    r->failed = true;
    int n = snprintf(r->why, sizeof r->why, "%s:%u: ", p->name, p->line.number);
    va_list args;
    va_start(args, format);
    vsnprintf(r->why + n, sizeof r->why - (size_t)n, format, args);
    va_end(args);
}

/* ---- latencies: buckets that are an eighth wide */

static unsigned bucket(uint64_t us) {
    if (us < 8)
        return (unsigned)us;
    unsigned top = 63u - (unsigned)__builtin_clzll(us);
    unsigned at = (top - 2) * 8 + (unsigned)(us >> (top - 3) & 7);
    return at < SIM_BUCKETS ? at : SIM_BUCKETS - 1;
}

static uint64_t bucket_end(unsigned at) { return at < 8 ? at : ((uint64_t)(at % 8) + 9) << (at / 8 - 1); }

void sim_latency_add(struct sim *sim, uint64_t us) {
    sim->latency[bucket(us)]++;
    sim->latency_count++;
    if (us > sim->latency_max_us)
        sim->latency_max_us = us;
}

uint64_t sim_latency(const struct sim *sim, unsigned per_mille) {
    if (per_mille >= 1000)
        return sim->latency_max_us;
    uint64_t below = 0;
    for (unsigned i = 0; i < SIM_BUCKETS; i++) {
        below += sim->latency[i];
        if (below * 1000 >= sim->latency_count * per_mille && below)
            return bucket_end(i) < sim->latency_max_us ? bucket_end(i) : sim->latency_max_us;
    }
    return sim->latency_max_us;
}

static void measure(struct sim *sim) {
    struct sim_result *r = sim->result;
    memset(sim->latency, 0, sizeof sim->latency);
    sim->latency_count = sim->latency_max_us = 0;
    sim->measured_us = sim->now_us;
    r->copies = r->delivered = r->frames = r->bytes = r->deaths = r->false_deaths = r->batches = 0;
}

/* ---- ranges of nodes */

static bool range(struct play *p, unsigned at, bool *in) {
    struct sim *sim = p->sim;
    const char *word = line_word(&p->line, at);
    uint64_t low = 0, high = sim->nodes - 1;
    uint32_t share;
    memset(in, 0, sim->nodes);
    if (script_share(word, &share)) {
        for (uint64_t left = (uint64_t)sim->nodes * share / 1000000; left;) {
            uint64_t i = sim_below(sim, sim->nodes);
            left -= !in[i];
            in[i] = true;
        }
        return true;
    }
    if (strcmp(word, "all") != 0 && !script_span(word, &low, &high)) {
        wrong(p, "\"%s\" is no range of nodes: all, 7, 0..9 or 80%%", word);
        return false;
    }
    if (high >= sim->nodes) {
        wrong(p, "there are %u nodes only, from 0", sim->nodes);
        return false;
    }
    for (uint64_t i = low; i <= high; i++)
        in[i] = true;
    return true;
}

static uint64_t time_at(struct play *p, unsigned at) {
    uint64_t us = 0;
    if (!script_time(line_word(&p->line, at), &us))
        wrong(p, "a time is missing, as in 10ms, 2s, 5min");
    return us;
}

static uint32_t share_at(struct play *p, unsigned at) {
    uint32_t share = 0;
    if (!script_share(line_word(&p->line, at), &share))
        wrong(p, "a share is missing, as in 20%%");
    return share;
}

/* ---- the world */

static void set_up(struct play *p) {
    const char *what = line_word(&p->line, 0), *value = line_word(&p->line, 1);
    struct sim *sim = p->sim;
    uint64_t low = 0, high = 0;
    if (strcmp(what, "level") == 0) {
        sim->merge = strcmp(value, "merge") == 0;
        if (!sim->nodes || sim->nodes > SIM_MERGE_NODES_MAX || sim->databases)
            wrong(p, "level merge: behind nodes, of which there are at most %u, and before they start", SIM_MERGE_NODES_MAX);
        return;
    }
    if (strcmp(value, "any") != 0 && !script_span(value, &low, &high)) {
        wrong(p, "%s: \"%s\" is no number", what, value);
        return;
    }
    bool any = strcmp(value, "any") == 0;
    uint64_t n = low + sim_below(sim, high - low + 1);
    static const size_t queues[] = {4096, 65536, 4u << 20}, holds[] = {4096, 100000, 16u << 20};
    if (strcmp(what, "nodes") == 0) {
        if (n < 1 || n > 20000 || sim->nodes)
            wrong(p, "nodes: once, 1 to 20000");
        else
            sim_open(sim, (unsigned)n);
    } else if (strcmp(what, "databases") == 0) {
        sim->dbs = n < 1 ? 1 : n > SIM_DBS_MAX ? SIM_DBS_MAX : (unsigned)n;
    } else if (strcmp(what, "queue") == 0) {
        sim->queue_max = any ? queues[sim_below(sim, 3)] : (size_t)n;
    } else if (strcmp(what, "hold") == 0) {
        sim->hold_max = any ? holds[sim_below(sim, 3)] : (size_t)n;
    } else if (strcmp(what, "mesh") == 0) {
        sim->config.mesh_max = (uint32_t)n;
    } else if (strcmp(what, "batch") == 0) {
        sim->write_bytes = (size_t)n;
    }
}

static void weather(struct play *p) {
    struct sim_weather *w = &p->sim->weather;
    const char *what = line_word(&p->line, 0);
    if (strcmp(what, "delay") == 0) {
        uint64_t low, high;
        if (!script_span(line_word(&p->line, 1), &low, &high)) {
            wrong(p, "delay: a time or a span is missing, as in 0.1..2ms");
            return;
        }
        w->delay_us = low;
        w->jitter_us = high - low + 1;
    } else if (strcmp(what, "bandwidth") == 0) { /* a second */
        size_t bytes = 0;
        if (!script_bytes(line_word(&p->line, 1), &bytes))
            wrong(p, "bandwidth BYTES (a second, of each link), as in bandwidth 10MiB");
        w->bytes_s = bytes;
    } else if (strcmp(what, "loss") == 0) {
        w->loss = share_at(p, 1);
    } else if (strcmp(what, "duplicate") == 0) {
        w->duplicate = share_at(p, 1);
    } else if (strcmp(what, "reorder") == 0) {
        w->reorder = share_at(p, 1);
    } else if (strcmp(what, "noise") == 0) {
        w->noise = line_is(&p->line, 1, "on");
    } else { /* stalls 1% 1s */
        bool begins = !w->stalls;
        w->stalls = line_is(&p->line, 1, "off") ? 0 : share_at(p, 1);
        w->stall_us = w->stalls ? time_at(p, 2) : 0;
        if (begins && w->stalls)
            sim_schedule(p->sim, SIM_STALLS, 1000000, 0);
    }
}

/* ---- what happens to nodes */

static void write_rate(struct play *p, bool *in) {
    double per_s = 0, db = SIM_DBS_MAX;
    bool off = line_is(&p->line, 1, "off");
    if (line_is(&p->line, 3, "in") && (!script_number(line_word(&p->line, 4), &db) || db < 0 || db >= SIM_DBS_MAX))
        wrong(p, "write RATE RANGE in DATABASE, from 0");
    if (!off && !script_rate(line_word(&p->line, 1), &per_s)) {
        wrong(p, "write RATE [RANGE], as in write 10/s 0..4; or write off");
        return;
    }
    memset(in, 1, p->sim->nodes);
    if (p->line.count > 2 && !range(p, 2, in))
        return;
    for (unsigned i = 0; i < p->sim->nodes; i++) {
        struct sim_node *n = &p->sim->node[i];
        if (!in[i])
            continue;
        bool begins = !n->write_us;
        n->write_db = (unsigned)db;
        n->write_us = off ? 0 : (uint64_t)(1e6 / per_s) + 1;
        if (begins && n->write_us && (n->core || p->sim->merge))
            sim_schedule(p->sim, SIM_WRITE, sim_below(p->sim, n->write_us), i);
    }
}

static void start(struct play *p, bool *in) {
    struct sim *sim = p->sim;
    uint64_t over = line_is(&p->line, 2, "over") ? time_at(p, 3) : 0;
    for (unsigned i = 0; i < sim->nodes && !p->wrong; i++) {
        if (!in[i])
            continue;
        sim->node[i].wanted = true;
        if (over)
            sim_schedule(sim, SIM_RESTART, sim_below(sim, over), i);
        else
            sim_start(sim, i);
    }
}

static void one_node(struct play *p, unsigned i) {
    struct sim *sim = p->sim;
    struct sim_node *n = &sim->node[i];
    const char *what = line_word(&p->line, 0);
    double number = 0;
    if (strcmp(what, "crash") == 0) {
        sim_crash(sim, i, line_is(&p->line, 2, "for") ? time_at(p, 3) : UINT64_MAX);
    } else if (strcmp(what, "stop") == 0 || strcmp(what, "leave") == 0) {
        sim_end(sim, i, strcmp(what, "leave") == 0);
    } else if (strcmp(what, "stall") == 0) {
        n->stalled_until_us = sim->now_us + (line_is(&p->line, 2, "for") ? time_at(p, 3) : 1000000);
    } else if (strcmp(what, "pause") == 0 || strcmp(what, "resume") == 0) {
        sim_pause(sim, i, strcmp(what, "pause") == 0);
    } else if (strcmp(what, "fakes") == 0) {
        if (!script_number(line_word(&p->line, 2), &number) || number > 200)
            wrong(p, "fakes RANGE COUNT, up to 200");
        bool begins = !n->fakes && number > 0;
        n->fakes = (unsigned)number;
        if (begins)
            sim_schedule(sim, SIM_LIE, 0, i);
    } else if (strcmp(what, "bulk") == 0) { /* bulk 0 1000 16KiB */
        size_t bytes = 0;
        if (sim->merge || !script_number(line_word(&p->line, 2), &number) || !script_bytes(line_word(&p->line, 3), &bytes))
            wrong(p, "bulk RANGE VERSIONS BYTES, as in bulk 0 1000 16KiB");
        else
            sim_store_bulk(sim, i, (unsigned)number, bytes);
    } else if (strcmp(what, "clock") == 0 || strcmp(what, "drift") == 0) {
        if (!script_number(line_word(&p->line, 2), &number))
            wrong(p, "%s RANGE NUMBER, as in clock 3 -5s, drift all 100ppm", what);
        else if (strcmp(what, "clock") == 0)
            n->clock_ms += (int64_t)number / 1000;
        else
            n->drift_ppm = (int64_t)(sim_below(sim, (uint64_t)number * 2 + 1)) - (int64_t)number;
    }
}

/* cut 1 -> 2, cut 1 - 2..4, mend likewise */
static void cut(struct play *p, bool *in) {
    struct sim *sim = p->sim;
    bool *to = calloc(sim->nodes, 1);
    assert(to);
    bool both = line_is(&p->line, 2, "-"), cuts = line_is(&p->line, 0, "cut");
    if (!both && !line_is(&p->line, 2, "->"))
        wrong(p, "cut RANGE -> RANGE (one way) or RANGE - RANGE");
    else if (range(p, 1, in) && range(p, 3, to))
        for (unsigned a = 0; a < sim->nodes; a++)
            for (unsigned b = 0; b < sim->nodes; b++)
                if (a != b && in[a] && to[b]) {
                    sim_cut(sim, a, b, cuts);
                    if (both)
                        sim_cut(sim, b, a, cuts);
                }
    free(to);
}

/* partition 0..4 5..9: whoever is not named makes one more part */
static void partition(struct play *p, bool *in) {
    for (unsigned i = 0; i < p->sim->nodes; i++)
        p->sim->node[i].group = 0;
    for (unsigned w = 1; w < p->line.count && range(p, w, in); w++)
        for (unsigned i = 0; i < p->sim->nodes; i++)
            if (in[i])
                p->sim->node[i].group = w;
}

/* ---- what is expected */

static bool holds(struct play *p, double is, unsigned at) {
    const char *sign = line_word(&p->line, at);
    double bound = 0;
    if (!script_number(line_word(&p->line, at + 1), &bound)) {
        wrong(p, "a number is missing that is expected: <= NUMBER (or >=, =)");
        return true;
    }
    return strcmp(sign, "<=") == 0   ? is <= bound
           : strcmp(sign, ">=") == 0 ? is >= bound
                                     : strcmp(sign, "=") == 0 && is >= bound && is <= bound;
}

static void compare(struct play *p, const char *what, double is, unsigned at, double unit) {
    double bound = 0;
    if (holds(p, is, at))
        return;
    script_number(line_word(&p->line, at + 1), &bound);
    sim_fail(p->sim, "%s:%u: %s is %g, expected %s %g", p->name, p->line.number, what, is / unit, line_word(&p->line, at), bound / unit);
}

static void expect_well(struct play *p, uint64_t within_us) {
    struct sim *sim = p->sim;
    uint64_t from = sim->now_us;
    char text[600];
    const char *still = "";
    while (!sim->result->failed) {
        sim_until(sim, sim->now_us + (sim->merge ? ROWS_STEP_US : STEP_US));
        still = sim_unwell(sim, text, sizeof text);
        if (!still)
            break;
        if (sim->now_us > from + within_us)
            sim_fail(sim, "not healed after %g s: %s", (double)within_us / 1e6, still);
    }
    sim->result->healed_ms = (sim->now_us - from) / 1000;
}

/* Everybody counts n others as alive, or so. */
static void expect_alive(struct play *p, double n, uint64_t within_us) {
    struct sim *sim = p->sim;
    for (uint64_t from = sim->now_us;;) {
        unsigned at = sim->nodes, has = 0;
        for (unsigned i = 0; i < sim->nodes && at == sim->nodes; i++) {
            struct peer_info info;
            has = 0;
            for (uint32_t k = 0; sim->node[i].core && core_peer(sim->node[i].core, k, &info); k++)
                has += info.member->state == MEMBER_ALIVE;
            if (sim->node[i].core && has != (unsigned)n)
                at = i;
        }
        if (at == sim->nodes || sim->result->failed)
            return;
        if (sim->now_us > from + within_us) {
            sim_fail(sim, "%s:%u: node %u counts %u others as alive, not %g", p->name, p->line.number, at, has, n);
            return;
        }
        sim_until(sim, sim->now_us + 1000);
    }
}

static double most_links(const struct sim *sim) {
    unsigned most = 0;
    for (unsigned i = 0; i < sim->nodes; i++)
        if (sim_net_links(sim, i) > most)
            most = sim_net_links(sim, i);
    return most;
}

static double overlays(const struct sim *sim) {
    unsigned count = 0;
    for (unsigned i = 0; i < sim->nodes; i++)
        count += sim->node[i].core && core_overlay(sim->node[i].core);
    return count;
}

/* How it is within a time; without one, now. */
static void expect_soon(struct play *p, const char *what, double (*is)(const struct sim *), uint64_t within_us) {
    struct sim *sim = p->sim;
    uint64_t until = sim->now_us + within_us;
    while (!sim->result->failed && sim->now_us < until && !holds(p, is(sim), 2))
        sim_until(sim, sim->now_us + STEP_US);
    compare(p, what, is(sim), 2, 1);
}

static unsigned running(const struct sim *sim) {
    unsigned count = 0;
    for (unsigned i = 0; i < sim->nodes; i++)
        count += sim->node[i].core != NULL;
    return count;
}

static void expect(struct play *p) {
    struct sim *sim = p->sim;
    const struct sim_result *r = sim->result;
    const char *what = line_word(&p->line, 1);
    uint64_t within = line_is(&p->line, p->line.count - 2, "within") ? time_at(p, p->line.count - 1) : 0;
    double days = (double)(sim->now_us - sim->measured_us) / 86400e6 * running(sim), n = 0;
    if (strcmp(what, "well") == 0) {
        expect_well(p, within);
    } else if (strcmp(what, "alive") == 0) {
        if (script_number(line_word(&p->line, 2), &n))
            expect_alive(p, n, within);
        else
            wrong(p, "expect alive OTHERS within TIME");
    } else if (strcmp(what, "copies") == 0) {
        compare(p, what, (double)r->copies / (double)(r->delivered ? r->delivered : 1), 2, 1);
    } else if (strcmp(what, "latency") == 0) {
        double per_cent = 100;
        const char *which = line_word(&p->line, 2);
        if (strcmp(which, "max") != 0 && (*which != 'p' || !script_number(which + 1, &per_cent)))
            wrong(p, "expect latency p50 (or p99.9, max) <= TIME");
        else
            compare(p, what, (double)sim_latency(sim, (unsigned)(per_cent * 10)), 3, 1000);
    } else if (strcmp(what, "deaths") == 0) {
        compare(p, what, (double)r->deaths, 2, 1);
    } else if (strcmp(what, "false_deaths") == 0) { /* a node and day */
        compare(p, what, days > 0 ? (double)r->false_deaths / days : 0, 2, 1);
    } else if (strcmp(what, "delivered") == 0) {
        compare(p, what, (double)r->delivered, 2, 1);
    } else if (strcmp(what, "bytes") == 0) { /* a node and second */
        compare(p, what, days > 0 ? (double)r->bytes / days / 86400 : 0, 2, 1);
    } else if (strcmp(what, "links") == 0) { /* the most that a node has; who looks for a neighbour has more for a moment */
        expect_soon(p, what, most_links, within);
    } else if (strcmp(what, "overlays") == 0) {
        expect_soon(p, what, overlays, within);
    } else {
        wrong(p, "nothing is known of \"%s\" that could be expected", what);
    }
}

static void report(const struct play *p) {
    const struct sim *sim = p->sim;
    const struct sim_result *r = sim->result;
    double s = (double)(sim->now_us - sim->measured_us) / 1e6, nodes = running(sim);
    printf("%8.1f s: %g nodes, %llu batches, %llu delivered, %.3f copies each, latency ms p50 %.2f p99 %.2f max %.2f, %.1f frames and %.0f "
           "B/s a "
           "node, %llu deaths (%llu false)\n",
           (double)sim->now_us / 1e6, nodes, (unsigned long long)r->batches, (unsigned long long)r->delivered,
           (double)r->copies / (double)(r->delivered ? r->delivered : 1), (double)sim_latency(sim, 500) / 1e3,
           (double)sim_latency(sim, 990) / 1e3, (double)sim->latency_max_us / 1e3, (double)r->frames / s / nodes,
           (double)r->bytes / s / nodes, (unsigned long long)r->deaths, (unsigned long long)r->false_deaths);
}

/* ---- lines */

static bool among(const char *word, const char *const *words) {
    while (*words && strcmp(*words, word) != 0)
        words++;
    return *words != NULL;
}

static void begin(struct sim *sim) { /* the databases are there before anybody starts */
    if (sim->merge) {
        sim->dbs = 1;
        sim_rows_begin(sim);
    }
    for (unsigned i = 0; i < sim->nodes; i++)
        for (unsigned db = 0; db < sim->dbs; db++)
            sim->node[i].dbs[db].exists = sim->merge || i == db % sim->nodes || !sim->weather.noise || sim_chance(sim, 600);
}

static void act(struct play *p, bool *in) {
    static const char *const ranged[] = {"crash", "stop", "leave", "stall", "pause", "resume", "bulk", "clock", "drift", "fakes", NULL};
    const char *what = line_word(&p->line, 0);
    struct sim *sim = p->sim;
    double per_s = 0;
    if (strcmp(what, "run") == 0) {
        sim_until(sim, sim->now_us + time_at(p, 1));
    } else if (strcmp(what, "start") == 0) {
        if (sim->now_us == 0 && !sim->node[0].incarnation)
            begin(sim);
        if (range(p, 1, in))
            start(p, in);
    } else if (among(what, ranged)) {
        if (range(p, 1, in))
            for (unsigned i = 0; i < sim->nodes && !p->wrong; i++)
                if (in[i])
                    one_node(p, i);
    } else if (strcmp(what, "write") == 0) {
        write_rate(p, in);
    } else if (strcmp(what, "cut") == 0 || strcmp(what, "mend") == 0) {
        cut(p, in);
    } else if (strcmp(what, "partition") == 0) {
        partition(p, in);
    } else if (strcmp(what, "heal") == 0) {
        sim_heal(sim);
    } else if (strcmp(what, "faults") == 0) {
        sim->faults = line_is(&p->line, 1, "on");
        sim->healing = false;
        if (sim->faults)
            sim_schedule(sim, SIM_FAULT, 500000, 0);
    } else if (strcmp(what, "churn") == 0) {
        bool off = line_is(&p->line, 1, "off");
        if (sim->nodes < 3 || (!off && !script_rate(line_word(&p->line, 1), &per_s)))
            wrong(p, "churn RATE or off, with 3 nodes or more");
        sim->churn_us = off || p->wrong ? 0 : (uint64_t)(1e6 / per_s);
        if (sim->churn_us)
            sim_schedule(sim, SIM_CHURN, sim->churn_us, 0);
    } else if (strcmp(what, "measure") == 0) {
        measure(sim);
    } else if (strcmp(what, "report") == 0) {
        report(p);
    } else if (strcmp(what, "expect") == 0) {
        expect(p);
    } else {
        wrong(p, "\"%s\" is no command", what);
    }
}

static void play(struct play *p, const char *script) {
    static const char *const world[] = {"nodes", "databases", "queue", "hold", "batch", "mesh", "level", NULL};
    static const char *const weathers[] = {"delay", "bandwidth", "loss", "duplicate", "reorder", "noise", "stalls", NULL};
    bool *in = NULL;
    int r = 0;
    while (!p->sim->result->failed && (r = line_next(&script, &p->line)) > 0) {
        const char *what = line_word(&p->line, 0);
        if (among(what, world))
            set_up(p);
        else if (!p->sim->nodes)
            wrong(p, "how many nodes? (nodes 5)");
        else if (among(what, weathers))
            weather(p);
        else {
            if (!in)
                in = malloc(p->sim->nodes);
            assert(in);
            act(p, in);
        }
    }
    if (r < 0)
        wrong(p, "the line is too long");
    free(in);
}

bool sim_run(const struct sim_options *options, const char *name, const char *script, struct sim_result *result) {
    struct sim *sim = calloc(1, sizeof *sim);
    assert(sim);
    *result = (struct sim_result){.hash = 0xcbf29ce484222325u};
    sim->options = *options;
    sim->result = result;
    sim->random = options->seed * 0x2545f4914f6cdd1du + 1;
    sim->dbs = 1;
    sim->write_bytes = 40;
    sim->weather = (struct sim_weather){.delay_us = 100, .jitter_us = 1500};
    struct play p = {.sim = sim, .name = name};
    play(&p, script);
    result->simulated_us = sim->now_us;
    sim_close(sim);
    free(sim);
    return !p.wrong;
}
