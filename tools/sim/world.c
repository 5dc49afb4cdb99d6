/* Time, chance, the nodes and what befalls them. */
#include <assert.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/rows.h"

#define WALL_MS 1700000000000u
#define LOOK_US 50000u  /* between two looks at what others were told */
#define PART_US 200000u /* for a process that ends in order */
#define LIE_US 1000000u
#define LOOK_ALL 8u /* up to so many nodes are all looked at, of more one in turn */

/* ---- chance, hash, words */

uint64_t sim_random(struct sim *sim) { /* splitmix64 */
    uint64_t z = sim->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_below(struct sim *sim, uint64_t n) { return n ? sim_random(sim) % n : 0; }

bool sim_chance(struct sim *sim, unsigned per_mille) { return sim_below(sim, 1000) < per_mille; }

bool sim_millionth(struct sim *sim, uint32_t chance) { return chance && sim_below(sim, 1000000) < chance; }

void sim_hash(struct sim *sim, uint64_t a, uint64_t b) {
    const uint64_t words[3] = {a, b, sim->now_us};
    for (unsigned i = 0; i < 3; i++)
        sim->result->hash = (sim->result->hash ^ words[i]) * 0x100000001b3u + (sim->result->hash >> 47);
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

/* ---- time: a heap of events from a pool */

static bool before(const struct sim_slot *a, const struct sim_slot *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->serial < b->serial;
}

static void put(struct sim *sim, uint64_t at_us, struct sim_event *event) {
    if (sim->heap_count == sim->heap_cap) {
        sim->heap_cap = sim->heap_cap ? sim->heap_cap * 2 : 256;
        sim->heap = realloc(sim->heap, sim->heap_cap * sizeof *sim->heap);
        assert(sim->heap);
    }
    struct sim_slot slot = {at_us, ++sim->serial, event};
    size_t i = sim->heap_count++;
    while (i && before(&slot, &sim->heap[(i - 1) / 2])) {
        sim->heap[i] = sim->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    sim->heap[i] = slot;
}

static struct sim_event *take(struct sim *sim) {
    struct sim_event *event = sim->heap[0].event;
    struct sim_slot last = sim->heap[--sim->heap_count];
    size_t i = 0, left;
    while ((left = 2 * i + 1) < sim->heap_count) {
        size_t least = left + 1 < sim->heap_count && before(&sim->heap[left + 1], &sim->heap[left]) ? left + 1 : left;
        if (!before(&sim->heap[least], &last))
            break;
        sim->heap[i] = sim->heap[least];
        i = least;
    }
    sim->heap[i] = last;
    return event;
}

struct sim_event *sim_schedule(struct sim *sim, enum sim_kind kind, uint64_t delay_us, unsigned node) {
    struct sim_event *e = sim->pool;
    if (e)
        sim->pool = e->next;
    else
        e = malloc(sizeof *e);
    assert(e);
    *e = (struct sim_event){.kind = kind, .node = node, .life = sim->node[node].life};
    put(sim, sim->now_us + delay_us, e);
    return e;
}

/* ---- names */

const char *sim_db_name(unsigned db) {
    static const char *const names[SIM_DBS_MAX] = {"scouting.db", "users.db", "pit/photos.db"};
    return names[db];
}

static uint32_t place(const struct sim *sim, const uint8_t id[NODE_ID_BYTES]) {
    uint32_t at;
    memcpy(&at, id, sizeof at);
    at %= sim->by_id_size;
    while (sim->by_id[at] && memcmp(sim->node[sim->by_id[at] - 1].id, id, NODE_ID_BYTES) != 0)
        at = (at + 1) % sim->by_id_size;
    return at;
}

int sim_node_of(const struct sim *sim, const uint8_t id[NODE_ID_BYTES]) { return (int)sim->by_id[place(sim, id)] - 1; }

/* ---- ways */

void sim_cut(struct sim *sim, unsigned from, unsigned to, bool cut) {
    size_t bit = (size_t)from * sim->nodes + to;
    if (!sim->cuts && cut)
        sim->cuts = calloc((size_t)sim->nodes * sim->nodes / 8 + 1, 1);
    if (!sim->cuts)
        return;
    if (cut)
        sim->cuts[bit / 8] |= (uint8_t)(1u << bit % 8);
    else
        sim->cuts[bit / 8] &= (uint8_t) ~(1u << bit % 8);
}

bool sim_passes(const struct sim *sim, unsigned from, unsigned to) {
    size_t bit = (size_t)from * sim->nodes + to;
    return sim->node[from].group == sim->node[to].group && !(sim->cuts && sim->cuts[bit / 8] >> bit % 8 & 1);
}

/* ---- one node */

static void member_changed(struct sim *sim, unsigned node, const struct member *m) {
    sim_say(sim, "n%u: member %s is in state %d", node, m->name, (int)m->state);
    int other = sim_node_of(sim, m->id);
    if (other < 0 || (m->state != MEMBER_DEAD && m->state != MEMBER_ALIVE))
        return;
    size_t bit = (size_t)node * sim->nodes + (size_t)other;
    uint8_t mask = (uint8_t)(1u << bit % 8);
    bool was = sim->alive[bit / 8] & mask;
    if (m->state == MEMBER_ALIVE)
        sim->alive[bit / 8] |= mask;
    else
        sim->alive[bit / 8] &= (uint8_t)~mask;
    if (m->state == MEMBER_ALIVE || !was)
        return; /* who was only heard of did not die */
    sim->result->deaths++;
    if (sim->node[other].core && sim->node[other].wanted && sim_passes(sim, node, (unsigned)other) &&
        sim_passes(sim, (unsigned)other, node)) {
        sim->result->false_deaths++;
        sim_say(sim, "n%u calls n%d dead, which lives", node, other);
    }
}

static void carry_out(struct sim *sim, unsigned node, const struct effect *fx) {
    sim_hash(sim, (uint64_t)fx->type << 32 | node, fx->len ^ fx->version << 20 ^ fx->link << 40);
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
    case EFFECT_ALONE:
    case EFFECT_MEET: break; /* all have the same time */
    case EFFECT_YIELD: sim_schedule(sim, SIM_YIELD, sim_below(sim, 20000), node); break;
    case EFFECT_SHARED:
        if (sim->merge)
            sim_rows_shared(sim, node);
        break;
    case EFFECT_MEMBER: member_changed(sim, node, fx->member); break;
    case EFFECT_LOG: sim_say(sim, "n%u log %d: %s", node, fx->level, fx->text); break;
    default: break; /* requests: the simulation asks none */
    }
}

/* A node's own clock, in us, at a moment of the world; clocks differ, and run at different speeds. */
static uint64_t own_us(const struct sim_node *n, unsigned node, uint64_t us) {
    return us + (uint64_t)((int64_t)us / 1000000 * n->drift_ppm) + 1000 + node % 1000 * 1000000ull;
}

static uint64_t world_us(const struct sim_node *n, unsigned node, uint64_t us) {
    uint64_t base = 1000 + node % 1000 * 1000000ull, at = us > base ? us - base : 0;
    return n->drift_ppm ? (uint64_t)((double)at / (1 + (double)n->drift_ppm / 1e6)) + 1 : at;
}

void sim_clocks(const struct sim *sim, unsigned node, uint64_t *mono_us, uint64_t *wall_ms) {
    const struct sim_node *n = &sim->node[node];
    *mono_us = own_us(n, node, sim->now_us);
    *wall_ms = (uint64_t)((int64_t)WALL_MS + n->clock_ms) + sim->now_us / 1000;
}

void sim_step(struct sim *sim, unsigned node, struct event *e) {
    struct sim_node *n = &sim->node[node];
    if (!n->core)
        return;
    uint64_t mono_us;
    sim_clocks(sim, node, &mono_us, &e->wall_ms);
    e->now_ms = mono_us / 1000;
    core_step(n->core, e);
    struct effect fx;
    while (core_poll(n->core, &fx))
        carry_out(sim, node, &fx);
    uint64_t deadline = core_deadline(n->core);
    uint64_t at_us = deadline == UINT64_MAX ? UINT64_MAX : world_us(n, node, deadline * 1000);
    if (at_us <= sim->now_us)
        at_us = sim->now_us + (n->drift_ppm ? 1000 : 10);
    if (at_us == UINT64_MAX || (n->tick_at_us > sim->now_us && n->tick_at_us <= at_us))
        return;
    n->tick_at_us = at_us;
    sim_schedule(sim, SIM_TICK, at_us - sim->now_us, node);
}

void sim_start(struct sim *sim, unsigned node) {
    struct sim_node *n = &sim->node[node];
    n->wanted = true;
    if (n->core || n->gone)
        return;
    sim_say(sim, "n%u starts", node);
    struct core_config config = sim->config;
    config.incarnation = ++n->incarnation * 1000 + node;
    config.seed = sim->options.seed;
    config.link_queue_max = sim->queue_max;
    config.hold_bytes_max = sim->hold_max;
    memcpy(config.key, n->key, sizeof config.key);
    memcpy(config.secret, n->secret, sizeof config.secret);
    snprintf(config.name, sizeof config.name, "n%u", node);
    snprintf(config.cluster, sizeof config.cluster, "sim");
    snprintf(config.advertise, sizeof config.advertise, node % 2 ? "n%u:1" : "n%u.other:1", node);
    n->started_us = sim->now_us;
    n->core = core_new(&config);
    assert(n->core);
    n->paused = false;
    n->tick_at_us = n->stalled_until_us = 0;
    for (unsigned db = 0; db < sim->dbs; db++)
        if (n->dbs[db].exists)
            sim_store_open(sim, node, db);
    char seed[32];
    for (unsigned i = 0; i < 2; i++) { /* the first two nodes are known to all, under one name or two */
        snprintf(seed, sizeof seed, "n%u:1", i);
        sim_step(sim, node, &(struct event){.type = EVENT_SEED, .text = seed});
    }
    if (n->write_us && !sim->merge)
        sim_schedule(sim, SIM_WRITE, sim_below(sim, n->write_us), node);
}

static void down(struct sim *sim, unsigned node) {
    struct sim_node *n = &sim->node[node];
    core_free(n->core);
    n->core = NULL;
    n->life++;
    for (size_t other = 0; other < sim->nodes; other++) {
        size_t bit = (size_t)node * sim->nodes + other;
        sim->alive[bit / 8] &= (uint8_t) ~(1u << bit % 8);
    }
    sim_net_down(sim, node);
    sim_store_down(sim, node);
}

void sim_end(struct sim *sim, unsigned node, bool leave) {
    sim->node[node].wanted = false;
    sim->node[node].gone = leave;
    sim_step(sim, node, &(struct event){.type = leave ? EVENT_LEAVE : EVENT_STOP});
    sim_schedule(sim, SIM_ENDED, PART_US, node);
}

void sim_crash(struct sim *sim, unsigned node, uint64_t restart_us) {
    if (restart_us == UINT64_MAX)
        sim->node[node].wanted = false;
    if (!sim->node[node].core)
        return;
    sim_say(sim, "n%u crashes", node);
    down(sim, node);
    sim->result->crashes++;
    if (restart_us != UINT64_MAX)
        sim_schedule(sim, SIM_RESTART, restart_us, node);
}

/* An older image of one database is put back while the node is down. */
static void restore(struct sim *sim, unsigned node) {
    struct sim_node *n = &sim->node[node];
    struct sim_db *d = &n->dbs[sim_below(sim, sim->dbs)];
    if (!d->exists || d->epoch + 2 >= SIM_EPOCHS_MAX || sim->merge)
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
    if (sim->node[node].core || !sim->node[node].wanted)
        return;
    if (sim->faults && !sim->healing && sim_chance(sim, 150))
        restore(sim, node);
    sim_start(sim, node);
}

void sim_pause(struct sim *sim, unsigned node, bool paused) {
    struct sim_node *n = &sim->node[node];
    if (!n->core || n->paused == paused)
        return;
    n->paused = paused;
    sim_say(sim, "n%u %s", node, paused ? "pauses" : "resumes");
    sim_step(sim, node, &(struct event){.type = paused ? EVENT_PAUSE : EVENT_RESUME});
}

/* ---- faults */

static void unite(struct sim *sim) {
    free(sim->cuts);
    sim->cuts = NULL;
    for (unsigned i = 0; i < sim->nodes; i++)
        sim->node[i].group = 0;
}

static void fault(struct sim *sim) {
    unsigned a = (unsigned)sim_below(sim, sim->nodes), b = (unsigned)sim_below(sim, sim->nodes);
    switch (sim_below(sim, 10)) {
    case 0: /* one pair */
        sim_cut(sim, a, b, a != b);
        sim_cut(sim, b, a, a != b);
        break;
    case 1: /* two halves */
        for (unsigned i = 0; i < sim->nodes; i++)
            sim->node[i].group = i < a;
        break;
    case 2:
    case 3: unite(sim); break;
    case 4: sim_crash(sim, a, sim_below(sim, 3000000)); break;
    case 5: sim_pause(sim, a, true); break;
    case 6:
        sim_pause(sim, a, false);
        sim_pause(sim, b, false);
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

static void churn(struct sim *sim) {
    if (!sim->churn_us || sim->healing)
        return;
    unsigned a = 2 + (unsigned)sim_below(sim, sim->nodes - 2); /* those that all know stay */
    if (sim->node[a].wanted)
        sim_crash(sim, a, sim_below(sim, 5000000));
    sim_schedule(sim, SIM_CHURN, sim_below(sim, sim->churn_us * 2), 0);
}

static void lie(struct sim *sim, unsigned node) {
    if (sim->node[node].core)
        sim_net_lie(sim, node);
    if (sim->node[node].fakes)
        sim_schedule(sim, SIM_LIE, LIE_US, node);
}

static void stalls(struct sim *sim) {
    if (!sim->weather.stalls)
        return;
    for (unsigned i = 0; i < sim->nodes; i++)
        if (sim->node[i].core && sim_millionth(sim, sim->weather.stalls))
            sim->node[i].stalled_until_us = sim->now_us + sim_below(sim, sim->weather.stall_us);
    sim_schedule(sim, SIM_STALLS, 1000000, 0);
}

void sim_heal(struct sim *sim) {
    sim->healing = true;
    if (sim->options.canary != CANARY_HEAL)
        unite(sim);
    else
        sim->node[0].group = 1;
    for (struct sim_conn *c = sim->conns; c; c = c->next)
        c->stalled_until_us = 0;
    for (unsigned i = 0; i < sim->nodes; i++) {
        sim->node[i].stalled_until_us = 0;
        restart(sim, i);
        sim_pause(sim, i, false);
    }
    sim_say(sim, "---- healing");
}

/* ---- a run */

static void dispatch(struct sim *sim, struct sim_event *e) {
    bool lived = e->life == sim->node[e->node].life || (e->kind == SIM_WRITE && sim->merge); /* applications outlive their nodes */
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
    case SIM_ENDED:
        if (lived && sim->node[e->node].core)
            down(sim, e->node);
        break;
    case SIM_CHURN: churn(sim); break;
    case SIM_STALLS: stalls(sim); break;
    case SIM_LIE: lie(sim, e->node); break;
    case SIM_FAULT:
        if (sim->healing || !sim->faults)
            break;
        fault(sim);
        sim_schedule(sim, SIM_FAULT, sim_below(sim, 400000), 0);
        break;
    default:
        if (lived)
            sim_store_event(sim, e);
        break;
    }
}

/* A process that stands still does all that was due when it goes on. */
static bool stalled(struct sim *sim, struct sim_event *e) {
    uint64_t until = sim->node[e->node].stalled_until_us;
    bool own = e->kind != SIM_RESTART && e->kind != SIM_CHURN && e->kind != SIM_STALLS && e->kind != SIM_FAULT;
    if (!own || until <= sim->now_us)
        return false;
    put(sim, until, e);
    return true;
}

static void look(struct sim *sim) {
    sim->look_us = sim->now_us + LOOK_US;
    for (unsigned i = 0; i < (sim->nodes <= LOOK_ALL ? sim->nodes : 1); i++) {
        sim_store_check(sim, sim->look_node);
        sim->look_node = (sim->look_node + 1) % sim->nodes;
    }
}

void sim_until(struct sim *sim, uint64_t at_us) {
    while (!sim->result->failed && sim->heap_count && sim->heap[0].at_us <= at_us) {
        sim->now_us = sim->heap[0].at_us;
        struct sim_event *e = take(sim);
        if (!stalled(sim, e)) {
            dispatch(sim, e);
            e->next = sim->pool;
            sim->pool = e;
        }
        if (sim->now_us >= sim->look_us)
            look(sim);
    }
    if (!sim->result->failed && sim->now_us < at_us)
        sim->now_us = at_us;
}

static const char *unwell_peer(const struct sim *sim, unsigned i, const struct peer_info *info, bool *up, char *text, size_t cap) {
    int other = sim_node_of(sim, info->member->id);
    *up = other >= 0 && sim->node[other].core != NULL;
    bool mesh = !core_overlay(sim->node[i].core), linked = info->linked && info->in_sync && !info->we_lack && !info->they_lack;
    if (!*up || (info->member->state == MEMBER_ALIVE && (linked || (!info->linked && !mesh))))
        return NULL;
    snprintf(text, cap, "node %u says of %s: state %d, linked %d, in sync %d, we lack %llu, they lack %llu", i, info->member->name,
             (int)info->member->state, info->linked, info->in_sync, (unsigned long long)info->we_lack, (unsigned long long)info->they_lack);
    return text;
}

const char *sim_unwell(struct sim *sim, char *text, size_t cap) {
    unsigned first = sim->nodes, running = 0;
    for (unsigned i = 0; i < sim->nodes; i++) {
        const struct sim_node *n = &sim->node[i];
        if (n->wanted && !n->core)
            return "a node is down";
        if (!n->core)
            continue;
        running++;
        if (first == sim->nodes)
            first = i;
        for (unsigned db = 0; db < sim->dbs; db++) {
            if (vv_equal(&n->dbs[db].have, &sim->node[first].dbs[db].have))
                continue;
            snprintf(text, cap, "nodes %u and %u differ in %s (waiting %llu)", first, i, sim_db_name(db),
                     (unsigned long long)core_waiting(n->core, sim_db_name(db)));
            return text;
        }
    }
    for (unsigned i = 0; i < sim->nodes; i++) {
        struct core *core = sim->node[i].core;
        struct peer_info info;
        unsigned known = 0;
        for (uint32_t k = 0; core && core_peer(core, k, &info); k++) {
            bool up = false;
            const char *still = unwell_peer(sim, i, &info, &up, text, cap);
            if (still)
                return still;
            known += up;
        }
        if (core && known != running - 1) {
            snprintf(text, cap, "node %u knows %u of %u other members", i, known, running - 1);
            return text;
        }
    }
    return sim->merge ? sim_rows_unequal(sim, text, cap) : NULL;
}

void sim_open(struct sim *sim, unsigned nodes) {
    sim->nodes = nodes;
    sim->node = calloc(nodes, sizeof *sim->node);
    sim->by_id_size = nodes * 2 + 1;
    sim->by_id = calloc(sim->by_id_size, sizeof *sim->by_id);
    sim->alive = calloc((size_t)nodes * nodes / 8 + 1, 1);
    sim->writer = batch_writer_new();
    assert(sim->node && sim->by_id && sim->alive && sim->writer);
    batch_writer_unsigned(sim->writer);
    for (unsigned i = 0; i < nodes; i++) {
        struct sim_node *n = &sim->node[i];
        uint8_t seed[32] = {(uint8_t)(i + 1), (uint8_t)sim->options.seed, (uint8_t)((i + 1) >> 8), (uint8_t)((i + 1) >> 16)};
        assert(crypto_sign_seed_keypair(n->key, n->secret, seed) == 0);
        node_id_of_key(n->id, n->key);
        sim->by_id[place(sim, n->id)] = i + 1;
    }
}

void sim_close(struct sim *sim) {
    for (unsigned i = 0; i < sim->nodes; i++)
        core_free(sim->node[i].core);
    sim_rows_end(sim);
    sim_store_free(sim);
    sim_net_free(sim);
    batch_writer_free(sim->writer);
    for (size_t i = 0; i < sim->heap_count; i++)
        free(sim->heap[i].event);
    while (sim->pool) {
        struct sim_event *e = sim->pool;
        sim->pool = e->next;
        free(e);
    }
    for (unsigned i = 0; i < sim->nodes; i++)
        free(sim->node[i].links);
    free(sim->heap);
    free(sim->by_id);
    free(sim->cuts);
    free(sim->alive);
    free(sim->node);
}
