#include "tests/sim/sim.h"

#include <assert.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAL_US 60000000u /* all must be well within this: the longest dial backoff is 19 s, then one more may be needed */
#define WALL_MS 1700000000000u

/* ---- chance, trace, time */

uint64_t sim_random(struct sim *sim) { /* splitmix64 */
    uint64_t z = sim->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_below(struct sim *sim, uint64_t n) { return n ? sim_random(sim) % n : 0; }

bool sim_chance(struct sim *sim, unsigned per_mille) { return sim_below(sim, 1000) < per_mille; }

void sim_trace(struct sim *sim, uint64_t a, uint64_t b) {
    const uint64_t words[3] = {a, b, sim->now_us};
    for (unsigned i = 0; i < 3; i++)
        sim->result->trace = (sim->result->trace ^ words[i]) * 0x100000001b3u + (sim->result->trace >> 47);
}

void sim_fail(struct sim *sim, const char *format, ...) {
    if (sim->result->failed)
        return;
    sim->result->failed = true;
    int n = snprintf(sim->result->why, sizeof sim->result->why, "at %llu us: ", (unsigned long long)sim->now_us);
    va_list args;
    va_start(args, format);
    vsnprintf(sim->result->why + n, sizeof sim->result->why - (size_t)n, format, args);
    va_end(args);
}

void sim_say(struct sim *sim, const char *format, ...) {
    if (!sim->options.verbose)
        return;
    printf("%10.3f ", (double)sim->now_us / 1000);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

static bool before(const struct sim_event *a, const struct sim_event *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->serial < b->serial;
}

static void swap(struct sim_event *a, struct sim_event *b) {
    struct sim_event t = *a;
    *a = *b;
    *b = t;
}

struct sim_event *sim_schedule(struct sim *sim, enum sim_kind kind, uint64_t delay_us, unsigned node) {
    if (sim->heap_count == sim->heap_cap) {
        sim->heap_cap = sim->heap_cap ? sim->heap_cap * 2 : 256;
        sim->heap = realloc(sim->heap, sim->heap_cap * sizeof *sim->heap);
        assert(sim->heap);
    }
    size_t i = sim->heap_count++;
    sim->heap[i] = (struct sim_event){
        .kind = kind, .at_us = sim->now_us + delay_us, .serial = ++sim->serial, .node = node, .life = sim->node[node].life};
    while (i && before(&sim->heap[i], &sim->heap[(i - 1) / 2])) {
        swap(&sim->heap[i], &sim->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    return &sim->heap[i];
}

bool sim_next(struct sim *sim, struct sim_event *e) {
    if (!sim->heap_count)
        return false;
    *e = sim->heap[0];
    sim->heap[0] = sim->heap[--sim->heap_count];
    for (size_t i = 0;;) {
        size_t least = i, left = 2 * i + 1;
        for (size_t k = left; k < left + 2 && k < sim->heap_count; k++)
            if (before(&sim->heap[k], &sim->heap[least]))
                least = k;
        if (least == i)
            return true;
        swap(&sim->heap[i], &sim->heap[least]);
        i = least;
    }
}

const char *sim_db_name(unsigned db) {
    static const char *const names[SIM_DBS_MAX] = {"scouting.db", "users.db", "pit/photos.db"};
    return names[db];
}

int sim_node_of(const struct sim *sim, const uint8_t id[NODE_ID_BYTES]) {
    for (unsigned i = 0; i < sim->nodes; i++)
        if (memcmp(sim->node[i].id, id, NODE_ID_BYTES) == 0)
            return (int)i;
    return -1;
}

/* ---- one node */

static void carry_out(struct sim *sim, unsigned node, const struct effect *fx) {
    sim_trace(sim, (uint64_t)fx->type << 32 | node, fx->len ^ fx->version << 20 ^ fx->link << 40);
    switch (fx->type) {
    case EFFECT_DIAL: sim_net_dial(sim, node, fx); break;
    case EFFECT_SEND: sim_net_send(sim, node, fx); break;
    case EFFECT_CLOSE:
        sim_say(sim, "n%u closes link %llu: %s", node, (unsigned long long)fx->link, fx->text);
        sim_net_close(sim, node, fx->link);
        break;
    case EFFECT_DELIVER: sim_store_deliver(sim, node, fx); break;
    case EFFECT_READ: sim_store_read(sim, node, fx); break;
    case EFFECT_DB_WANTED:
        for (unsigned db = 0; db < sim->dbs; db++)
            if (strcmp(fx->db, sim_db_name(db)) == 0)
                sim_schedule(sim, SIM_WANTED, sim_below(sim, 300000), node)->db = db;
        break;
    case EFFECT_EPOCH: sim_store_epoch(sim, node, fx); break;
    case EFFECT_YIELD: break; /* every server of the simulation begins empty */
    case EFFECT_MEMBER: sim_say(sim, "n%u: member %s is in state %d", node, fx->member->name, (int)fx->member->state); break;
    case EFFECT_LOG: sim_say(sim, "n%u log %d: %s", node, fx->level, fx->text); break;
    case EFFECT_REQUEST:
    case EFFECT_REPLY: break;
    }
}

void sim_step(struct sim *sim, unsigned node, struct event *e) {
    struct sim_node *n = &sim->node[node];
    if (!n->core)
        return;
    e->now_ms = sim->now_us / 1000 + 1 + node * 1000; /* clocks differ */
    e->wall_ms = WALL_MS + sim->now_us / 1000;
    core_step(n->core, e);
    struct effect fx;
    while (core_poll(n->core, &fx))
        carry_out(sim, node, &fx);
    uint64_t deadline = core_deadline(n->core);
    uint64_t at_us = deadline == UINT64_MAX ? UINT64_MAX : (deadline - 1 - node * 1000) * 1000;
    if (at_us < sim->now_us)
        at_us = sim->now_us + 10;
    if (at_us == UINT64_MAX || (n->tick_at_us > sim->now_us && n->tick_at_us <= at_us))
        return;
    n->tick_at_us = at_us;
    sim_schedule(sim, SIM_TICK, at_us - sim->now_us, node);
}

static void start(struct sim *sim, unsigned node) {
    struct sim_node *n = &sim->node[node];
    struct core_config config = {.incarnation = ++n->incarnation * 1000 + node,
                                 .seed = sim->options.seed,
                                 .link_queue_max = sim->queue_max,
                                 .hold_bytes_max = sim->hold_max};
    memcpy(config.key, n->key, sizeof config.key);
    snprintf(config.name, sizeof config.name, "n%u", node);
    snprintf(config.cluster, sizeof config.cluster, "sim");
    snprintf(config.advertise, sizeof config.advertise, node % 2 ? "n%u:1" : "n%u.other:1", node);
    n->core = core_new(&config);
    assert(n->core);
    n->paused = false;
    n->tick_at_us = 0;
    for (unsigned db = 0; db < sim->dbs; db++)
        if (n->dbs[db].exists)
            sim_store_open(sim, node, db);
    char seed[32];
    for (unsigned i = 0; i < 2; i++) { /* the first two nodes are known to all, under one name or two */
        snprintf(seed, sizeof seed, "n%u:1", i);
        sim_step(sim, node, &(struct event){.type = EVENT_SEED, .text = seed});
    }
}

static void crash(struct sim *sim, unsigned node) {
    struct sim_node *n = &sim->node[node];
    if (!n->core)
        return;
    sim_say(sim, "n%u crashes", node);
    core_free(n->core);
    n->core = NULL;
    n->life++;
    sim_net_down(sim, node);
    sim_store_down(sim, node);
    sim->result->crashes++;
    sim_schedule(sim, SIM_RESTART, sim_below(sim, 3000000), node);
}

/* An older image of one database is put back while the node is down. */
static void restore(struct sim *sim, unsigned node) {
    struct sim_node *n = &sim->node[node];
    struct sim_db *d = &n->dbs[sim_below(sim, sim->dbs)];
    if (!d->exists || d->epoch + 2 >= SIM_EPOCHS_MAX)
        return;
    if (vv_equal(&d->have, &d->image))
        return;
    sim_say(sim, "n%u is restored from an older image", node);
    assert(vv_copy(&d->have, &d->image) == 0);
    d->epoch = d->image_epoch;
    d->writes_held = true;
    n->restored = true;
}

static void restart(struct sim *sim, unsigned node) {
    if (sim->node[node].core)
        return;
    if (!sim->healing && sim_chance(sim, 150))
        restore(sim, node);
    sim_say(sim, "n%u starts", node);
    start(sim, node);
}

static void pause_or_resume(struct sim *sim, unsigned node, bool paused) {
    struct sim_node *n = &sim->node[node];
    if (!n->core || n->paused == paused)
        return;
    n->paused = paused;
    sim_say(sim, "n%u %s", node, paused ? "pauses" : "resumes");
    sim_step(sim, node, &(struct event){.type = paused ? EVENT_PAUSE : EVENT_RESUME});
}

static void reach(struct sim *sim, unsigned a, unsigned b, bool apart) { sim->apart[a][b] = sim->apart[b][a] = apart; }

static void fault(struct sim *sim) {
    unsigned a = (unsigned)sim_below(sim, sim->nodes), b = (unsigned)sim_below(sim, sim->nodes);
    switch (sim_below(sim, 10)) {
    case 0: /* one pair */ reach(sim, a, b, a != b); break;
    case 1: /* two halves */
        for (unsigned i = 0; i < sim->nodes; i++)
            for (unsigned k = 0; k < i; k++)
                reach(sim, i, k, (i < a) != (k < a));
        break;
    case 2:
    case 3: memset(sim->apart, 0, sizeof sim->apart); break;
    case 4: crash(sim, a); break;
    case 5: pause_or_resume(sim, a, true); break;
    case 6:
        pause_or_resume(sim, a, false);
        pause_or_resume(sim, b, false);
        break;
    case 7: /* an image is taken, perhaps to be put back later */
        for (unsigned db = 0; db < sim->dbs; db++) {
            struct sim_db *d = &sim->node[a].dbs[db];
            if (d->writes_held)
                continue;
            assert(vv_copy(&d->image, &d->have) == 0);
            d->image_epoch = d->epoch;
        }
        break;
    default: sim_net_fault(sim); break;
    }
}

/* ---- a run */

static void dispatch(struct sim *sim, struct sim_event *e) {
    bool lived = e->life == sim->node[e->node].life;
    switch (e->kind) {
    case SIM_DATA:
    case SIM_CLOSED: sim_net_event(sim, e); break;
    case SIM_DIALLED:
        if (lived)
            sim_net_event(sim, e);
        break;
    case SIM_TICK:
        if (lived)
            sim_step(sim, e->node, &(struct event){.type = EVENT_TICK});
        break;
    case SIM_RESTART: restart(sim, e->node); break;
    case SIM_FAULT:
        if (sim->healing)
            break;
        fault(sim);
        sim_schedule(sim, SIM_FAULT, sim_below(sim, 400000), 0);
        break;
    case SIM_WRITE: sim_store_event(sim, e); break;
    default:
        if (lived)
            sim_store_event(sim, e);
        break;
    }
}

/* NULL: all is well; else what is not. */
static const char *unwell(struct sim *sim, char *text, size_t cap) {
    for (unsigned i = 0; i < sim->nodes; i++) {
        const struct sim_node *n = &sim->node[i];
        if (!n->core)
            return "a node is down";
        for (unsigned db = 0; db < sim->dbs; db++) {
            if (vv_equal(&n->dbs[db].have, &sim->node[0].dbs[db].have))
                continue;
            snprintf(text, cap, "nodes 0 and %u differ in %s (waiting %llu)", i, sim_db_name(db),
                     (unsigned long long)core_waiting(n->core, sim_db_name(db)));
            return text;
        }
        if (core_peers(n->core) != sim->nodes - 1) {
            snprintf(text, cap, "node %u knows %u members", i, core_peers(n->core));
            return text;
        }
        struct peer_info info;
        for (uint32_t k = 0; core_peer(n->core, k, &info); k++) {
            if (info.member->state == MEMBER_ALIVE && info.linked && info.in_sync && !info.we_lack && !info.they_lack)
                continue;
            snprintf(text, cap, "node %u says of %s: state %d, linked %d, in sync %d, we lack %llu, they lack %llu", i, info.member->name,
                     (int)info.member->state, info.linked, info.in_sync, (unsigned long long)info.we_lack,
                     (unsigned long long)info.they_lack);
            return text;
        }
    }
    return NULL;
}

static void heal(struct sim *sim) {
    sim->healing = true;
    sim->writing = false;
    if (sim->options.canary != CANARY_HEAL)
        memset(sim->apart, 0, sizeof sim->apart);
    else
        for (unsigned i = 1; i < sim->nodes; i++)
            reach(sim, 0, i, true);
    for (struct sim_conn *c = sim->conns; c; c = c->next)
        c->stalled_until_us = 0;
    for (unsigned i = 0; i < sim->nodes; i++) {
        restart(sim, i);
        pause_or_resume(sim, i, false);
    }
    sim_say(sim, "---- healing");
}

static void world(struct sim *sim) {
    sim->random = sim->options.seed * 0x2545f4914f6cdd1du + 1;
    sim->nodes = sim->options.nodes ? sim->options.nodes : 2 + (unsigned)sim_below(sim, 5);
    sim->dbs = 1 + (unsigned)sim_below(sim, SIM_DBS_MAX);
    static const size_t queues[] = {4096, 65536, 4u << 20}, holds[] = {4096, 100000, 16u << 20};
    sim->queue_max = queues[sim_below(sim, 3)];
    sim->hold_max = holds[sim_below(sim, 3)];
    sim->writer = batch_writer_new();
    assert(sim->writer);
    for (unsigned i = 0; i < sim->nodes; i++) {
        struct sim_node *n = &sim->node[i];
        uint8_t seed[32] = {(uint8_t)(i + 1), (uint8_t)sim->options.seed};
        assert(crypto_sign_seed_keypair(n->key, n->secret, seed) == 0);
        node_id_of_key(n->id, n->key);
        for (unsigned db = 0; db < sim->dbs; db++)
            n->dbs[db].exists = i == db % sim->nodes || sim_chance(sim, 600);
    }
    for (unsigned i = 0; i < sim->nodes; i++) {
        start(sim, i);
        sim_schedule(sim, SIM_WRITE, sim_below(sim, 50000), i);
    }
    sim->writing = true;
    sim_schedule(sim, SIM_FAULT, 500000, 0);
}

void sim_run(const struct sim_options *options, struct sim_result *result) {
    assert(options->nodes <= SIM_NODES_MAX);
    struct sim *sim = calloc(1, sizeof *sim);
    assert(sim);
    *result = (struct sim_result){.trace = 0xcbf29ce484222325u};
    sim->options = *options;
    sim->result = result;
    world(sim);
    uint64_t faults_us = (uint64_t)options->seconds * 1000000, look_us = 0;
    char text[256];
    struct sim_event e;
    while (!result->failed && sim_next(sim, &e)) {
        sim->now_us = e.at_us;
        dispatch(sim, &e);
        if (!sim->healing && sim->now_us >= faults_us)
            heal(sim);
        if (sim->now_us < look_us)
            continue;
        look_us = sim->now_us + 50000;
        sim_store_check(sim);
        if (!sim->healing)
            continue;
        const char *still = unwell(sim, text, sizeof text);
        result->healed_ms = (sim->now_us - faults_us) / 1000;
        if (!still)
            break;
        if (sim->now_us > faults_us + HEAL_US)
            sim_fail(sim, "not healed after %u s: %s", HEAL_US / 1000000, still);
    }
    for (unsigned i = 0; i < sim->nodes; i++)
        core_free(sim->node[i].core);
    sim_store_free(sim);
    sim_net_free(sim);
    batch_writer_free(sim->writer);
    free(sim->heap);
    free(sim);
}
