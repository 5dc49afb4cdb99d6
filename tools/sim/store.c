/* The mock store of each node, and the checks on every delivery, to it or to a real one (rows.c). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/rows.h"

#define LARGE_BYTES 300000u
#define SLOW_US 300000u     /* a delivery that is worth a line */
#define JOINING_US 1000000u /* after its start a node is one of them */

static struct origin own(const struct sim *sim, unsigned node, unsigned db) {
    struct origin o;
    memcpy(o.node, sim->node[node].id, NODE_ID_BYTES);
    o.epoch = sim->node[node].dbs[db].epoch;
    return o;
}

static unsigned db_of(const struct sim *sim, const char *name) {
    for (unsigned db = 0; db < sim->dbs; db++)
        if (strcmp(name, sim_db_name(db)) == 0)
            return db;
    abort(); /* a name that the simulator never made */
}

static struct sim_chain *chain_of(struct sim *sim, unsigned db, const struct origin *o) {
    int author = sim_node_of(sim, o->node);
    struct sim_chain *chains = author < 0 ? NULL : sim->node[author].dbs[db].chains;
    for (unsigned i = 0; chains && sim->merge && i < SIM_EPOCHS_MAX; i++)
        if (chains[i].count == 0 || chains[i].epoch == o->epoch) /* real stores also begin somewhere far up */
            return &chains[i];
    return !chains || sim->merge || o->epoch >= SIM_EPOCHS_MAX ? NULL : &chains[o->epoch];
}

/* Its part of the digest of what is there. */
static uint64_t content_of(const struct origin *o, uint64_t version) {
    uint64_t words[2];
    memcpy(words, o->node, sizeof words);
    return version ? (words[0] ^ (words[1] + o->epoch) * 0x9e3779b97f4a7c15u) * (version | 1) + version : 0;
}

/* Durable from now on. */
static void have(struct sim_db *d, const struct origin *o, uint64_t version) {
    uint64_t before = vv_get(&d->have, o);
    if (version <= before)
        return;
    d->content += content_of(o, version) - content_of(o, before);
    int r = vv_set(&d->have, o, version);
    assert(r == 0);
}

static void say_state(struct sim *sim, unsigned node, unsigned db, enum event_type type) {
    const struct sim_db *d = &sim->node[node].dbs[db];
    struct db_state state = {.have = d->have, .settled = d->pending_count == 0}; /* borrowed for one step */
    memcpy(state.digest, &d->content, sizeof d->content);
    sim_step(sim, node, &(struct event){.type = type, .db = sim_db_name(db), .state = &state});
}

void sim_store_open(struct sim *sim, unsigned node, unsigned db) {
    struct sim_db *d = &sim->node[node].dbs[db];
    d->exists = true;
    d->pending_count = 0;
    if (sim->merge) {
        sim_rows_open(sim, node);
        return;
    }
    assert(vv_copy(&d->delivered, &d->have) == 0);
    d->content = 0;
    for (uint32_t i = 0; i < d->have.count; i++)
        d->content += content_of(&d->have.entries[i].origin, d->have.entries[i].version);
    say_state(sim, node, db, EVENT_DB_OPEN);
}

void sim_store_down(struct sim *sim, unsigned node) {
    for (unsigned db = 0; db < sim->dbs; db++) {
        struct sim_db *d = &sim->node[node].dbs[db];
        if (sim->options.canary == CANARY_FORGET && d->have.count) /* a store that said durable and lied */
            vv_set(&d->have, &d->have.entries[0].origin, d->have.entries[0].version - 1);
        d->pending_count = 0;
        d->storing = false;
    }
    if (sim->merge)
        sim_rows_down(sim, node);
}

void sim_store_epoch(struct sim *sim, unsigned node, const struct effect *fx) {
    unsigned db = db_of(sim, fx->db);
    struct sim_event *e = sim_schedule(sim, SIM_WANTED, 1000 + sim_below(sim, 20000), node);
    e->db = db;
    e->number = 1;
    e->origin = fx->origin;
    /* A node that restarts before it wrote in its new epoch may be asked once more about the old one. */
    if (!sim->node[node].dbs[db].writes_held && fx->origin.epoch >= sim->node[node].dbs[db].epoch)
        sim_fail(sim, "node %u (epoch %u) is asked for a new epoch of %s after %u:%llu, though it lost nothing", node,
                 sim->node[node].dbs[db].epoch, fx->db, fx->origin.epoch, (unsigned long long)fx->version);
}

static void new_epoch(struct sim *sim, const struct sim_event *e) {
    struct sim_node *n = &sim->node[e->node];
    struct sim_db *d = &n->dbs[e->db];
    if (e->origin.epoch >= d->epoch) {
        d->epoch = e->origin.epoch + 1;
        while (d->epoch < SIM_EPOCHS_MAX && d->chains[d->epoch].count)
            d->epoch++;
        assert(d->epoch < SIM_EPOCHS_MAX);
        memset(d->chain, 0, sizeof d->chain);
        vv_clear(&d->after);
        sim->result->epochs++;
        d->writes_held = false;
    }
    sim_store_open(sim, e->node, e->db);
}

/* ---- writing */

static struct bytes *make_batch(struct sim *sim, unsigned node, unsigned db, size_t len) {
    struct sim_node *n = &sim->node[node];
    struct sim_db *d = &n->dbs[db];
    struct origin me = own(sim, node, db);
    struct batch_head head = {.origin = me, .version = vv_get(&d->have, &me) + 1, .db = sim_db_name(db), .schema = 1};
    head.db_len = strlen(head.db);
    head.key = head.version == 1 ? n->key : NULL;
    if (sim->options.canary != CANARY_CAUSAL)
        assert(vv_diff(&head.after, &d->after, &d->have) == 0);
    static const char *const columns[] = {"v"};
    static const size_t lens[] = {1};
    uint8_t *blob = malloc(len);
    assert(blob);
    for (size_t i = 0; i < len; i++) /* incompressible, so that it spans frames */
        blob[i] = (uint8_t)(i % 8 ? blob[i - 1] * 167 + i : sim_random(sim));
    struct value value = {.type = VALUE_BLOB, .p = blob, .len = len};
    struct change c = {.kind = CHANGE_INSERT,
                       .table = "t",
                       .table_len = 1,
                       .stamp = sim->now_us << 6,
                       .ident = {.kind = IDENT_GIVEN, .number = (int64_t)head.version},
                       .columns_count = 1,
                       .columns = columns,
                       .columns_len = lens,
                       .values = &value};
    struct bytes *batch = NULL;
    batch_writer_clear(sim->writer);
    int r = batch_writer_add(sim->writer, &c);
    if (!r)
        r = batch_seal(sim->writer, &head, n->secret, d->chain, &batch);
    assert(r == 0 && batch);
    free(blob);
    vv_release(&head.after);
    assert(vv_copy(&d->after, &d->have) == 0);
    return batch;
}

static void keep_batch(struct sim *sim, struct sim_chain *chain, struct bytes *batch, struct vv *after) {
    if (chain->count == chain->cap) {
        chain->cap = chain->cap ? chain->cap * 2 : 16;
        chain->batches = realloc(chain->batches, chain->cap * sizeof *chain->batches);
        chain->after = realloc(chain->after, chain->cap * sizeof *chain->after);
        chain->written_us = realloc(chain->written_us, chain->cap * sizeof *chain->written_us);
        assert(chain->batches && chain->after && chain->written_us);
    }
    chain->batches[chain->count] = batch;
    chain->after[chain->count] = *after;
    chain->written_us[chain->count++] = sim->now_us;
}

void sim_store_made(struct sim *sim, unsigned node, unsigned db, struct bytes *batch) {
    struct sim_db *d = &sim->node[node].dbs[db];
    struct batch_head head;
    assert(batch_head_read(&head, batch->data, batch->len) == 0);
    struct sim_chain *chain = chain_of(sim, db, &head.origin);
    if (!chain || sim_node_of(sim, head.origin.node) != (int)node || head.version != chain->count + 1) {
        sim_fail(sim, "node %u made version %llu, behind %u", node, (unsigned long long)head.version, chain ? chain->count : 0);
    } else {
        struct vv after = {0};
        int r = chain->count ? vv_copy(&after, &chain->after[chain->count - 1]) : 0;
        if (!r)
            r = vv_merge(&after, &head.after); /* `after` is a difference */
        if (!r)
            r = vv_raise(&d->delivered, &head.origin, head.version);
        assert(r == 0);
        chain->epoch = head.origin.epoch;
        keep_batch(sim, chain, bytes_ref(batch), &after);
        sim->result->batches++;
    }
    batch_head_release(&head);
}

/* False: it cannot write now. */
static bool commit(struct sim *sim, unsigned node, unsigned db, size_t len) {
    struct sim_db *d = &sim->node[node].dbs[db];
    if (!sim->node[node].core || !sim->node[node].wanted || !d->exists || d->writes_held)
        return false;
    struct origin me = own(sim, node, db);
    struct sim_chain *chain = &d->chains[d->epoch];
    if (chain->count != vv_get(&d->have, &me))
        sim_fail(sim, "node %u uses version %llu of %s twice", node, (unsigned long long)vv_get(&d->have, &me) + 1, sim_db_name(db));
    struct vv after = {0};
    assert(vv_copy(&after, &d->have) == 0);
    keep_batch(sim, chain, make_batch(sim, node, db, len), &after);
    have(d, &me, chain->count);
    assert(vv_set(&d->delivered, &me, chain->count) == 0);
    sim->result->batches++;
    return true;
}

void sim_store_write(struct sim *sim, unsigned node) {
    unsigned write_db = sim->node[node].write_db, db = write_db < sim->dbs ? write_db : (unsigned)sim_below(sim, sim->dbs);
    struct sim_db *d = &sim->node[node].dbs[db];
    size_t len = sim->write_bytes;
    if (sim->merge) {
        sim_rows_write(sim, node);
        return;
    }
    if (sim->weather.noise)
        len = sim_chance(sim, 15) ? (size_t)sim_below(sim, LARGE_BYTES) : 8 + (size_t)sim_below(sim, 100);
    if (!commit(sim, node, db, len))
        return;
    struct sim_chain *chain = &d->chains[d->epoch];
    bool stored_first = !sim->weather.noise || sim_chance(sim, 300);
    if (stored_first)
        say_state(sim, node, db, EVENT_STORED);
    sim_step(sim, node, &(struct event){.type = EVENT_BATCH_LOCAL, .db = sim_db_name(db), .batch = chain->batches[chain->count - 1]});
    if (!stored_first)
        sim_schedule(sim, SIM_LOCAL, sim_below(sim, 5000), node)->db = db;
}

/* What a node wrote while nobody heard of it: nothing is pushed. */
void sim_store_bulk(struct sim *sim, unsigned node, unsigned versions, size_t bytes) {
    struct sim_db *d = &sim->node[node].dbs[0];
    for (unsigned i = 0; i < versions; i++) {
        if (!commit(sim, node, 0, bytes))
            return;
        d->chains[d->epoch].written_us[d->chains[d->epoch].count - 1] = 0; /* how long it takes counts for nothing */
    }
    say_state(sim, node, 0, EVENT_STORED);
}

/* ---- receiving */

void sim_store_deliver(struct sim *sim, unsigned node, const struct effect *fx) {
    unsigned db = db_of(sim, fx->db);
    struct sim_db *d = &sim->node[node].dbs[db];
    const struct origin *author = &fx->origin;
    const struct sim_chain *chain = chain_of(sim, db, author);
    uint64_t version = fx->version;
    if (!d->exists || !chain || version > chain->count)
        sim_fail(sim, "node %u was given what nobody wrote", node);
    else if (fx->batch->len != chain->batches[version - 1]->len ||
             memcmp(fx->batch->data, chain->batches[version - 1]->data, fx->batch->len) != 0)
        sim_fail(sim, "node %u was given other bytes than were written", node);
    else if (version != vv_get(&d->delivered, author) + 1)
        sim_fail(sim, "order: node %u was given version %llu of a member after %llu in %s", node, (unsigned long long)version,
                 (unsigned long long)vv_get(&d->delivered, author), sim_db_name(db));
    else if (!vv_covers(&d->delivered, &chain->after[version - 1]))
        sim_fail(sim, "causal: node %u was given version %llu before what its author had seen, in %s", node, (unsigned long long)version,
                 sim_db_name(db));
    if (sim->node[node].paused)
        sim_fail(sim, "node %u is paused and was given a batch", node);
    vv_set(&d->delivered, author, version);
    /* Who comes later fetches what was before it. */
    uint64_t since = sim->node[node].started_us ? sim->node[node].started_us + JOINING_US : 0;
    since = since > sim->measured_us ? since : sim->measured_us;
    if (chain && version <= chain->count && chain->written_us[version - 1] > since) {
        sim_latency_add(sim, sim->now_us - chain->written_us[version - 1]);
        if (sim->now_us - chain->written_us[version - 1] > SLOW_US)
            sim_say(sim, "n%u is given version %llu of n%d, %llu ms old", node, (unsigned long long)version, sim_node_of(sim, author->node),
                    (unsigned long long)(sim->now_us - chain->written_us[version - 1]) / 1000);
    }
    if (d->pending_count == d->pending_cap) {
        d->pending_cap = d->pending_cap ? d->pending_cap * 2 : 16;
        d->pending = realloc(d->pending, d->pending_cap * sizeof *d->pending);
        assert(d->pending);
    }
    d->pending[d->pending_count++] = (struct sim_pending){*author, version};
    if (d->pending_count > 256)
        sim_fail(sim, "node %u was given more than 256 batches without a word of the store", node);
    sim->result->delivered++;
    if (sim->merge)
        sim_rows_deliver(sim, node, fx->batch);
    bytes_unref(fx->batch);
    if (!d->storing && !sim->merge) {
        d->storing = true;
        bool noise = sim->weather.noise;
        uint64_t slow = !noise ? 500 : !sim->healing && sim_chance(sim, 20) ? 1500000 : 15000;
        struct sim_event *e = sim_schedule(sim, SIM_STORE, (noise ? 500 : 300) + sim_below(sim, slow), node);
        e->db = db;
    }
}

void sim_store_settle(struct sim_db *d) {
    unsigned kept = 0;
    for (unsigned i = 0; i < d->pending_count; i++)
        if (d->pending[i].version > vv_get(&d->have, &d->pending[i].origin))
            d->pending[kept++] = d->pending[i];
    d->pending_count = kept;
}

static void store(struct sim *sim, const struct sim_event *e) {
    struct sim_db *d = &sim->node[e->node].dbs[e->db];
    unsigned n = d->pending_count;
    if (n && sim->weather.noise)
        n = 1 + (unsigned)sim_below(sim, n);
    for (unsigned i = 0; i < n; i++)
        have(d, &d->pending[i].origin, d->pending[i].version);
    d->pending_count -= n;
    memmove(d->pending, d->pending + n, d->pending_count * sizeof *d->pending);
    d->storing = d->pending_count > 0;
    if (d->storing)
        sim_schedule(sim, SIM_STORE, 500 + sim_below(sim, 5000), e->node)->db = e->db;
    say_state(sim, e->node, e->db, EVENT_STORED);
}

/* ---- serving */

void sim_store_read(struct sim *sim, unsigned node, const struct effect *fx) {
    struct sim_event *e = sim_schedule(sim, SIM_READ, 100 + sim_below(sim, 3000), node);
    e->db = db_of(sim, fx->db);
    e->number = fx->request;
    e->origin = fx->origin;
    e->from = fx->version;
    e->to = fx->version_last;
    e->bytes_max = fx->bytes_max;
    if (fx->version_last > vv_get(&sim->node[node].dbs[e->db].have, &fx->origin))
        sim_fail(sim, "node %u reads for a peer what is not durable", node);
}

static void answer_read(struct sim *sim, const struct sim_event *e) {
    const struct sim_chain *chain = chain_of(sim, e->db, &e->origin);
    struct bytes *batches[64];
    uint32_t count = 0;
    size_t bytes = 0;
    bool noise = sim->weather.noise, none = noise && !sim->healing && sim_chance(sim, 20);
    for (uint64_t v = e->from; chain && !none && v <= e->to && v <= chain->count && count < 64; v++) {
        struct bytes *b = chain->batches[v - 1];
        if (count && bytes + b->len > e->bytes_max)
            break;
        bytes += b->len;
        batches[count++] = b;
        if (noise && sim_chance(sim, 50))
            break; /* fewer than asked */
    }
    sim_step(sim, e->node, &(struct event){.type = EVENT_READ, .request = e->number, .batches = batches, .batches_count = count});
}

void sim_store_event(struct sim *sim, struct sim_event *e) {
    struct sim_db *d = &sim->node[e->node].dbs[e->db];
    switch (e->kind) {
    case SIM_WRITE:
        if (!sim->node[e->node].write_us || sim->healing)
            return;
        sim_store_write(sim, e->node);
        sim_schedule(sim, SIM_WRITE, sim_below(sim, sim->node[e->node].write_us * 2), e->node);
        break;
    case SIM_LOCAL: say_state(sim, e->node, e->db, EVENT_STORED); break;
    case SIM_STORE: store(sim, e); break;
    case SIM_READ:
        if (sim->merge)
            sim_rows_event(sim, e);
        else
            answer_read(sim, e);
        break;
    case SIM_TURN:
    case SIM_YIELD: sim_rows_event(sim, e); break;
    default: /* SIM_WANTED */
        if (e->number)
            new_epoch(sim, e);
        else if (!d->exists)
            sim_store_open(sim, e->node, e->db);
        break;
    }
}

/* ---- the word of others */

static void check_pair(struct sim *sim, unsigned a, uint32_t i, const struct peer_info *info) {
    int b = sim_node_of(sim, info->member->id);
    if (b < 0 || sim->node[b].restored || sim->node[a].restored)
        return; /* who was restored did forget, and others find out by its next HELLO */
    for (unsigned db = 0; db < sim->dbs; db++) {
        const struct vv *theirs = &sim->node[b].dbs[db].have, *ours = &sim->node[a].dbs[db].have;
        const struct vv *acked = core_acked(sim->node[a].core, i, sim_db_name(db));
        for (uint32_t k = 0; k < acked->count && !vv_covers(theirs, acked); k++) {
            const struct vv_entry *e = &acked->entries[k];
            if (e->version > vv_get(theirs, &e->origin))
                sim_fail(sim, "forgotten: node %d acknowledged version %llu to node %u and has only %llu, in %s", b,
                         (unsigned long long)e->version, a, (unsigned long long)vv_get(theirs, &e->origin), sim_db_name(db));
        }
        if (info->in_sync && sim->node[a].dbs[db].exists && !vv_covers(theirs, ours))
            sim_fail(sim, "in sync: node %u says so of node %d, which lacks something in %s", a, b, sim_db_name(db));
    }
}

void sim_store_check(struct sim *sim, unsigned node) {
    struct peer_info info;
    for (uint32_t i = 0; sim->node[node].core && core_peer(sim->node[node].core, i, &info); i++)
        check_pair(sim, node, i, &info);
}

static void chain_free(struct sim_chain *c) {
    for (unsigned i = 0; i < c->count; i++) {
        bytes_unref(c->batches[i]);
        vv_release(&c->after[i]);
    }
    free(c->batches);
    free(c->after);
    free(c->written_us);
}

void sim_store_free(struct sim *sim) {
    for (unsigned node = 0; node < sim->nodes; node++) {
        for (unsigned db = 0; db < sim->dbs; db++) {
            struct sim_db *d = &sim->node[node].dbs[db];
            vv_release(&d->have);
            vv_release(&d->image);
            vv_release(&d->delivered);
            vv_release(&d->after);
            free(d->pending);
            for (unsigned epoch = 0; epoch < SIM_EPOCHS_MAX; epoch++)
                chain_free(&d->chains[epoch]);
        }
    }
}
