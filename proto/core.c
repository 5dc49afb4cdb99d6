#include "proto/core.h"

#include <assert.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define TIMER_ROUNDS 8 /* of timers that make other timers due at once; what is left runs with the next step */

/* ---- what the core's other files use */

void core_arm(struct core *core, uint64_t at_ms) {
    if (at_ms < core->deadline)
        core->deadline = at_ms;
}

bool core_emit(struct core *core, const struct effect *e) { return effects_put(&core->fx, e); }

static void log_text(struct core *core, int level, const char *text) {
    core_emit(core, &(struct effect){.type = EFFECT_LOG, .level = level, .text = text});
}

void core_log(struct core *core, int level, const char *format, ...) {
    char text[WIRE_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_text(core, level, text);
}

void core_log_once(struct core *core, int level, const char *format, ...) {
    char text[WIRE_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = text; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    for (uint32_t i = 0; i < LOG_RING; i++) {
        if (core->logged[i].hash == hash && core->now - core->logged[i].ms < LOG_REPEAT_MS) {
            log_text(core, 3, text);
            return;
        }
    }
    core->logged[core->logged_next].hash = hash;
    core->logged[core->logged_next].ms = core->now;
    core->logged_next = (core->logged_next + 1) % LOG_RING;
    log_text(core, level, text);
}

uint64_t core_random(struct core *core) { /* splitmix64 */
    uint64_t z = core->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bool core_grow(void *array, uint32_t *cap, uint32_t count) {
    if (count < *cap)
        return true;
    void **old;
    memcpy(&old, array, sizeof old);
    uint32_t more = *cap ? *cap * 2 : 8;
    void **grown = realloc(old, more * sizeof *grown);
    if (!grown)
        return false;
    memcpy(array, &grown, sizeof grown);
    *cap = more;
    return true;
}

char *core_text(const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = malloc(n);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

/* ---- life */

static void take_default(uint32_t *value, uint32_t otherwise) {
    if (!*value)
        *value = otherwise;
}

static void take_config(struct core *core, const struct core_config *config) {
    core->config = *config;
    struct core_config *c = &core->config;
    take_default(&c->beat_ms, 500);
    take_default(&c->idle_ms, 10000);
    take_default(&c->suspect_ms, 1300); /* others hear of it and ask for themselves, all within 1.5 s */
    take_default(&c->dead_ms, 2700);
    take_default(&c->ack_ms, 20);
    take_default(&c->lazy_ms, 40);
    take_default(&c->pull_timeout_ms, 3000);
    take_default(&c->mesh_max, 50);
    if (!c->link_queue_max)
        c->link_queue_max = 4u << 20;
    if (!c->hold_bytes_max)
        c->hold_bytes_max = 16u << 20;
    c->name[sizeof c->name - 1] = c->cluster[sizeof c->cluster - 1] = c->advertise[sizeof c->advertise - 1] = 0;
    node_id_of_key(core->id, c->key);
    core->incarnation = c->incarnation;
    core->random = c->seed;
    for (unsigned i = 0; i < NODE_ID_BYTES; i++) /* nodes with the same seed must not move in step */
        core->random = (core->random ^ core->id[i]) * 0x100000001b3u;
}

struct core *core_new(const struct core_config *config) {
    struct core *core = calloc(1, sizeof *core);
    if (!core)
        return NULL;
    take_config(core, config);
    core->deadline = core->gossip_at = UINT64_MAX;
    effects_init(&core->fx);
    buf_init(&core->scratch, 16u << 20); /* several frames of at most FRAME_BYTES_MAX */
    vv_init(&core->vv_scratch);
    core->dials_left = DIALS_BURST;
    overlay_init(core);
    gossip_card(core);
    return core;
}

void core_free(struct core *core) {
    if (!core)
        return;
    effects_release(&core->fx);
    call_release(core);
    buf_release(&core->scratch);
    vv_release(&core->vv_scratch);
    for (uint32_t i = 0; i < core->links_count; i++)
        link_free(core->links[i]);
    for (uint32_t i = 0; i < core->peers_count; i++)
        member_free(core->peers[i]);
    for (uint32_t i = 0; i < core->seeds_count; i++)
        dial_free(core->seeds[i]);
    for (uint32_t i = 0; i < core->dbs_count; i++)
        sync_db_free(core->dbs[i]);
    sodium_memzero(&core->config, sizeof core->config);
    free(core->blocked);
    free(core->links);
    free(core->peers);
    free(core->seeds);
    free(core->dbs);
    free(core);
}

/* ---- stepping */

static void run_timers(struct core *core) {
    for (int round = 0; round < TIMER_ROUNDS && core->deadline <= core->now; round++) {
        core->deadline = UINT64_MAX; /* each of these arms what it still waits for */
        stream_timers(core);
        probe_timers(core);
        member_timers(core);
        gossip_timers(core);
        overlay_timers(core);
        dial_timers(core);
        call_timers(core);
        pull_timers(core);
        sync_timers(core);
        announce_timers(core);
    }
}

static void set_paused(struct core *core, bool paused) {
    if (core->paused == paused)
        return;
    core->paused = paused;
    if (paused)
        pull_stop(core);
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        if (!paused)
            hold_ready(core, core->dbs[i]);
        pull_plan_at(core, core->dbs[i], core->now);
    }
    for (uint32_t i = 0; i < core->links_count; i++) {
        if (core->links[i]->state != LINK_UP)
            continue;
        if (!paused)
            announce_all(core, core->links[i]);
        stream_beat(core, core->links[i], paused ? 0 : WIRE_BEAT_WANT);
    }
}

static void end(struct core *core, int bye) {
    if (bye == WIRE_LEAVE)
        gossip_leave(core);
    core->phase = CORE_STOPPING;
    for (uint32_t i = 0; i < core->links_count; i++)
        greet_close(core, core->links[i], bye, bye == WIRE_LEAVE ? "this node left the cluster" : "this node stops");
}

static void step_link(struct core *core, const struct event *e) {
    struct link *l = greet_link(core, e->link);
    switch (e->type) {
    case EVENT_LINK_OPEN: greet_open(core, e); break;
    case EVENT_LINK_DATA:
        if (l) {
            l->received_bytes = e->wire ? e->wire : l->received_bytes + e->len;
            stream_receive(core, l, e->data, e->len);
        }
        break;
    case EVENT_LINK_SENT:
        if (l)
            stream_sent(core, l, e);
        break;
    default: greet_closed(core, e->link, e->text); break;
    }
}

static void step_db(struct core *core, const struct event *e) {
    switch (e->type) {
    case EVENT_DB_OPEN: sync_open(core, e->db, e->state); break;
    case EVENT_DB_CLOSED: sync_close(core, e->db); break;
    case EVENT_BATCH_LOCAL: sync_local(core, e->db, e->batch); break;
    case EVENT_STORED: sync_stored(core, e->db, e->state); break;
    case EVENT_BATCH_FORGED: fork_found(core, e); break;
    case EVENT_MET: clock_met(core, e->db, e->request); break;
    case EVENT_READ: pull_read(core, e->request, e->batches, e->batches_count); break;
    default: sync_batch_bad(core, e->db, &e->origin, e->version, e->text); break;
    }
}

void core_step(struct core *core, const struct event *e) {
    effects_settle(&core->fx);
    uint64_t before = core->now;
    if (e->now_ms > core->now)
        core->now = e->now_ms;
    core->wall = e->wall_ms;
    probe_woke(core, before);
    clock_look(core);
    switch (e->type) {
    case EVENT_TICK: break;
    case EVENT_LINK_OPEN:
    case EVENT_LINK_DATA:
    case EVENT_LINK_SENT:
    case EVENT_LINK_CLOSED: step_link(core, e); break;
    case EVENT_DIAL_FAILED: dial_failed(core, e->dial, e->text, e->refused); break;
    case EVENT_SEED: dial_seed(core, e->text); break;
    case EVENT_MEMBER: member_remember(core, e->member); break;
    case EVENT_DB_OPEN:
    case EVENT_DB_CLOSED:
    case EVENT_BATCH_LOCAL:
    case EVENT_STORED:
    case EVENT_BATCH_FORGED:
    case EVENT_MET:
    case EVENT_READ:
    case EVENT_BATCH_BAD: step_db(core, e); break;
    case EVENT_PAUSE:
    case EVENT_RESUME: set_paused(core, e->type == EVENT_PAUSE); break;
    case EVENT_LEAVE: end(core, WIRE_LEAVE); break;
    case EVENT_STOP: end(core, WIRE_BYE); break;
    case EVENT_FORGET: member_forget(core, e->member->id); break;
    case EVENT_BLOCK:
    case EVENT_UNBLOCK: greet_block(core, e->peer, e->type == EVENT_BLOCK); break;
    case EVENT_VISIT: overlay_visit(core, e->peer); break;
    case EVENT_REQUEST: call_request(core, e->peer, e->request, e->data, e->len); break;
    case EVENT_REPLY: call_reply(core, e->link, e->request, e->data, e->len); break;
    }
    run_timers(core);
}

bool core_poll(struct core *core, struct effect *effect) { return effects_take(&core->fx, effect); }

uint64_t core_deadline(const struct core *core) { return core->deadline; }

/* ---- looking in */

static struct peer *visible(const struct core *core, uint32_t i) {
    for (uint32_t k = 0; k < core->peers_count; k++)
        if (core->peers[k]->m.state != MEMBER_FORGOTTEN && i-- == 0)
            return core->peers[k];
    return NULL;
}

uint32_t core_peers(const struct core *core) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < core->peers_count; i++)
        count += core->peers[i]->m.state != MEMBER_FORGOTTEN;
    return count;
}

static const char *refusal(const struct peer *p) {
    for (uint32_t i = 0; i < p->dbs_count; i++)
        if (p->dbs[i].open && p->dbs[i].refused)
            return p->dbs[i].refused;
    return p->refused;
}

bool core_peer(const struct core *core, uint32_t i, struct peer_info *out) {
    struct peer *p = visible(core, i);
    if (!p)
        return false;
    *out = (struct peer_info){.member = &p->m,
                              .linked = p->link != NULL,
                              .link = p->link ? p->link->id : 0,
                              .rtt_us = p->rtt_us,
                              .in_sync = sync_in_sync(core, p),
                              .last_seen_ms = p->link ? p->link->received_ms : p->last_seen_ms,
                              .sent_bytes = p->sent_bytes + (p->link ? p->link->sent_bytes : 0),
                              .received_bytes = p->received_bytes + (p->link ? p->link->received_bytes : 0),
                              .refused = refusal(p)};
    for (uint32_t k = 0; k < core->dbs_count; k++) {
        const struct db *db = core->dbs[k];
        const struct peer_db *pd = sync_peer_db(core, p, db);
        static const struct vv none;
        const struct vv *theirs = pd && pd->open ? &pd->have : &none, *ours = db->open ? &db->have : &none;
        out->we_lack += vv_missing(ours, theirs);
        out->they_lack += vv_missing(theirs, ours);
    }
    return true;
}

bool core_any_in_sync(const struct core *core) {
    for (uint32_t i = 0; i < core->peers_count; i++)
        if (sync_in_sync(core, core->peers[i]))
            return true;
    return false;
}

bool core_linked(const struct core *core, uint64_t link) {
    const struct link *l = greet_link(core, link);
    return l && l->peer && l->peer->link == l;
}

uint64_t core_links_changed(const struct core *core) { return core->links_changed; }

const uint8_t *core_id(const struct core *core) { return core->id; }

static struct db *find(const struct core *core, const char *name) { return sync_find(core, name, strlen(name)); }

uint64_t core_waiting(const struct core *core, const char *name) {
    const struct db *db = find(core, name);
    return db ? db->held_count : 0;
}

const char *core_database_refused(const struct core *core, const char *name) {
    const struct db *db = find(core, name);
    if (!db)
        return NULL;
    for (uint32_t i = 0; i < core->peers_count; i++) {
        const struct peer_db *pd = sync_peer_db(core, core->peers[i], db);
        if (core->peers[i]->link && pd && pd->open && pd->refused)
            return pd->refused;
    }
    return db->bad;
}

const struct vv *core_vector(const struct core *core, const char *name) {
    const struct db *db = find(core, name);
    return db && db->open ? &db->have : NULL;
}

const char *core_twin(const struct core *core) { return core->twin[0] ? core->twin : NULL; }
bool core_overlay(const struct core *core) { return core->overlay.on; }
bool core_paused(const struct core *core) { return core->paused; }

const struct vv *core_acked(const struct core *core, uint32_t i, const char *name) {
    static const struct vv none;
    struct peer *p = visible(core, i);
    const struct db *db = find(core, name);
    const struct peer_db *pd = p && db ? sync_peer_db(core, p, db) : NULL;
    return pd && pd->open ? &pd->have : &none;
}
