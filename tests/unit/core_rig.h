/* Starling: a rig for tests of the protocol core: a few cores, links between them without delay, mock stores, and everything
 * that the cores said kept for looking at. Time stands still unless a test moves it. */
#ifndef TESTS_CORE_RIG_H
#define TESTS_CORE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/batch.h"
#include "proto/core.h"
#include "proto/wire.h"

#define RIG_NODES 12
#define RIG_LINKS 128
#define RIG_LOG 400
#define RIG_DB "scouting.db"

struct rig_node {
    struct core *core;
    struct core_config config;
    uint8_t secret[NODE_SECRET_BYTES];
    struct db_state state; /* of RIG_DB */
    uint8_t chain[BATCH_CHAIN_BYTES];
    uint64_t version;
    uint32_t epoch;
    struct bytes *log[RIG_LOG]; /* own batches by version */
    struct bytes *delivered[RIG_LOG];
    unsigned delivered_count, stored_count;
    bool slow_store;                     /* the test says STORED by itself */
    bool silent_reads;                   /* EFFECT_READ is not answered */
    int64_t wall_ms;                     /* its clock is off by this */
    uint64_t meets, meeting, alone_from; /* EFFECT_MEET; the one without an answer; EFFECT_ALONE */
    int64_t offset_ms;
    bool slow_meet; /* the test says MET by itself */
    uint64_t stamp; /* of its batches; 0: 1 */
    bool frozen;    /* stopped: no ticks, and what comes waits */
    uint64_t last_read;
    unsigned reads, wanted, epochs, yields, shared, requests, replies, dials;
    uint64_t last_dial, last_request, last_request_link;
    char last_dial_text[CORE_ADDRESS_MAX], last_log[1200], logs[8000], closed_why[1200];
    char reply[64];
    bool reply_null;
    struct origin epoch_origin;
    uint64_t sent; /* bytes of SENDs */
    unsigned batch_sends, vectors, closes;
};

struct rig_link {
    bool open;
    unsigned node[2];
    uint8_t *data[2]; /* towards that end */
    size_t len[2];
    bool hold[2]; /* not handed over for now */
    bool closing;
};

struct rig {
    unsigned nodes;
    struct rig_node node[RIG_NODES];
    struct rig_link link[RIG_LINKS]; /* link ids are index + 1, the same on both ends */
    unsigned links;
    uint64_t now;
};

static void rig_step(struct rig *r, unsigned n, struct event e);

static inline void rig_state(struct rig *r, unsigned n, enum event_type type) {
    struct rig_node *node = &r->node[n];
    uint64_t digest = vv_digest(&node->state.have);
    memcpy(node->state.digest, &digest, sizeof digest);
    rig_step(r, n, (struct event){.type = type, .db = RIG_DB, .state = &node->state});
}

/* Marks the oldest delivered batch that is not stored as durable. */
static inline void rig_store_one(struct rig *r, unsigned n) {
    struct rig_node *node = &r->node[n];
    assert_true(node->stored_count < node->delivered_count);
    struct batch_head h;
    const struct bytes *b = node->delivered[node->stored_count++];
    assert_int_equal(batch_head_read(&h, b->data, b->len), 0);
    assert_int_equal(vv_raise(&node->state.have, &h.origin, h.version), 0);
    batch_head_release(&h);
    rig_state(r, n, EVENT_STORED);
}

static inline void rig_answer_read(struct rig *r, unsigned n, const struct effect *fx) {
    struct bytes *batches[RIG_LOG];
    uint32_t count = 0;
    struct rig_node *node = &r->node[n];
    for (uint64_t v = fx->version; v <= fx->version_last; v++) {
        struct bytes *b = NULL;
        if (memcmp(fx->origin.node, core_id(node->core), NODE_ID_BYTES) == 0)
            b = node->log[v];
        for (unsigned i = 0; !b && i < node->delivered_count; i++) {
            struct batch_head h;
            assert_int_equal(batch_head_read(&h, node->delivered[i]->data, node->delivered[i]->len), 0);
            if (h.version == v && origin_cmp(&h.origin, &fx->origin) == 0)
                b = node->delivered[i];
            batch_head_release(&h);
        }
        if (!b)
            break;
        batches[count++] = b;
    }
    rig_step(r, n, (struct event){.type = EVENT_READ, .request = fx->request, .batches = batches, .batches_count = count});
}

static inline void rig_put(struct rig *r, unsigned n, const struct effect *fx) {
    if (fx->link == 0 || fx->link > r->links)
        return;
    struct rig_link *l = &r->link[fx->link - 1];
    if (!l->open)
        return;
    unsigned to = l->node[0] == n ? 1 : 0;
    size_t body = fx->batch ? fx->batch_to - fx->batch_from : 0;
    l->data[to] = realloc(l->data[to], l->len[to] + fx->len + body);
    assert_non_null(l->data[to]);
    memcpy(l->data[to] + l->len[to], fx->head, fx->len);
    if (body)
        memcpy(l->data[to] + l->len[to] + fx->len, fx->batch->data + fx->batch_from, body);
    l->len[to] += fx->len + body;
    r->node[n].sent += fx->len + body;
    r->node[n].batch_sends += body > 0;
    r->node[n].vectors += fx->len > 5 && fx->head[5] == WIRE_VECTOR;
}

static inline void rig_effect(struct rig *r, unsigned n, const struct effect *fx, struct effect *read, bool *has_read) {
    struct rig_node *node = &r->node[n];
    switch (fx->type) {
    case EFFECT_SEND: rig_put(r, n, fx); break;
    case EFFECT_CLOSE:
        node->closes++;
        snprintf(node->closed_why, sizeof node->closed_why, "%s", fx->text);
        if (fx->link <= r->links)
            r->link[fx->link - 1].closing = true;
        break;
    case EFFECT_DELIVER:
        assert_true(node->delivered_count < RIG_LOG);
        node->delivered[node->delivered_count++] = fx->batch;
        break;
    case EFFECT_READ:
        node->reads++;
        node->last_read = fx->request;
        *read = *fx;
        *has_read = !node->silent_reads;
        break;
    case EFFECT_LOG:
        if (fx->level < 3) {
            snprintf(node->last_log, sizeof node->last_log, "%s", fx->text);
            size_t len = strlen(node->logs);
            snprintf(node->logs + len, sizeof node->logs - len, "%s\n", fx->text);
        }
        break;
    case EFFECT_DIAL:
        node->dials++;
        node->last_dial = fx->dial;
        snprintf(node->last_dial_text, sizeof node->last_dial_text, "%s", fx->text);
        break;
    case EFFECT_DB_WANTED: node->wanted++; break;
    case EFFECT_YIELD: node->yields++; break;
    case EFFECT_ALONE: node->alone_from = fx->version + 1; break;
    case EFFECT_MEET:
        node->meets++;
        node->meeting = fx->request;
        node->offset_ms = fx->offset_ms;
        break;
    case EFFECT_SHARED: node->shared++; break;
    case EFFECT_EPOCH:
        node->epochs++;
        node->epoch_origin = fx->origin;
        break;
    case EFFECT_REQUEST:
        node->requests++;
        node->last_request = fx->request;
        node->last_request_link = fx->link;
        break;
    case EFFECT_REPLY:
        node->replies++;
        node->reply_null = fx->data == NULL;
        snprintf(node->reply, sizeof node->reply, "%.*s", (int)fx->len, fx->data ? (const char *)fx->data : "");
        break;
    case EFFECT_MEMBER: break;
    }
}

static void rig_step(struct rig *r, unsigned n, struct event e) {
    struct rig_node *node = &r->node[n];
    e.now_ms = r->now;
    if (!e.wall_ms)
        e.wall_ms = 1700000000000u + r->now + (uint64_t)node->wall_ms;
    core_step(node->core, &e);
    struct effect fx, read;
    bool has_read = false;
    while (core_poll(node->core, &fx))
        rig_effect(r, n, &fx, &read, &has_read);
    if (has_read)
        rig_answer_read(r, n, &read);
    if (node->meeting && !node->slow_meet) {
        uint64_t request = node->meeting;
        node->meeting = 0;
        rig_step(r, n, (struct event){.type = EVENT_MET, .db = RIG_DB, .request = request});
    }
    while (!node->slow_store && node->stored_count < node->delivered_count)
        rig_store_one(r, n);
}

static inline void rig_close(struct rig *r, uint64_t link, unsigned first, unsigned last) {
    struct rig_link *l = &r->link[link - 1];
    if (!l->open)
        return;
    l->open = false;
    for (unsigned end = first; end <= last; end++)
        rig_step(r, l->node[end], (struct event){.type = EVENT_LINK_CLOSED, .link = link, .text = "closed"});
    free(l->data[0]);
    free(l->data[1]);
    l->data[0] = l->data[1] = NULL;
    l->len[0] = l->len[1] = 0;
}

/* Hands over all bytes until nothing moves. */
static inline void rig_run(struct rig *r) {
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned i = 0; i < r->links; i++) {
            struct rig_link *l = &r->link[i];
            for (unsigned end = 0; end < 2; end++) {
                if (!l->open || l->hold[end] || !l->len[end])
                    continue;
                uint8_t *data = l->data[end];
                size_t len = l->len[end];
                l->data[end] = NULL;
                l->len[end] = 0;
                rig_step(r, l->node[end], (struct event){.type = EVENT_LINK_DATA, .link = i + 1, .data = data, .len = len});
                free(data);
                rig_step(r, l->node[!end], (struct event){.type = EVENT_LINK_SENT, .link = i + 1, .queued = l->len[end]});
                moved = true;
            }
            if (l->open && l->closing && (!l->len[0] || l->hold[0]) && (!l->len[1] || l->hold[1])) {
                rig_close(r, i + 1, 0, 1);
                moved = true;
            }
        }
    }
}

/* Time passes, with ticks when they are due. */
static inline void rig_wait(struct rig *r, uint64_t ms) {
    rig_run(r);
    for (uint64_t end = r->now + ms; r->now < end;) {
        uint64_t next = end;
        for (unsigned n = 0; n < r->nodes; n++)
            if (!r->node[n].frozen && core_deadline(r->node[n].core) < next)
                next = core_deadline(r->node[n].core);
        r->now = next > r->now ? next : r->now + 1;
        for (unsigned n = 0; n < r->nodes; n++)
            if (!r->node[n].frozen)
                rig_step(r, n, (struct event){.type = EVENT_TICK});
        rig_run(r);
    }
}

static inline void rig_start(struct rig *r, unsigned n) {
    r->node[n].core = core_new(&r->node[n].config);
    assert_non_null(r->node[n].core);
    rig_state(r, n, EVENT_DB_OPEN);
}

static inline void rig_init(struct rig *r, unsigned nodes) {
    assert_true(sodium_init() >= 0);
    memset(r, 0, sizeof *r);
    r->nodes = nodes;
    r->now = 1000;
    for (unsigned n = 0; n < nodes; n++) {
        struct rig_node *node = &r->node[n];
        uint8_t seed[32] = {(uint8_t)(n + 1)};
        crypto_sign_seed_keypair(node->config.key, node->secret, seed);
        memcpy(node->config.secret, node->secret, sizeof node->secret);
        snprintf(node->config.name, sizeof node->config.name, "n%u", n);
        snprintf(node->config.cluster, sizeof node->config.cluster, "default");
        snprintf(node->config.advertise, sizeof node->config.advertise, "10.0.0.%u:7171", n + 1);
        node->config.incarnation = 1000 + n;
        node->state.settled = true;
    }
}

static inline void rig_start_all(struct rig *r) {
    for (unsigned n = 0; n < r->nodes; n++)
        rig_start(r, n);
}

static inline void rig_release(struct rig *r) {
    for (unsigned n = 0; n < r->nodes; n++) {
        struct rig_node *node = &r->node[n];
        core_free(node->core);
        vv_release(&node->state.have);
        for (unsigned i = 0; i < RIG_LOG; i++) {
            bytes_unref(node->log[i]);
            bytes_unref(node->delivered[i]);
        }
    }
    for (unsigned i = 0; i < RIG_LINKS; i++) {
        free(r->link[i].data[0]);
        free(r->link[i].data[1]);
    }
}

/* A link that a dialled; dial 0: nobody asked for it. Bytes do not move before rig_run. */
static inline uint64_t rig_link(struct rig *r, unsigned a, unsigned b, uint64_t dial) {
    assert_true(r->links < RIG_LINKS);
    uint64_t id = ++r->links;
    r->link[id - 1] = (struct rig_link){.open = true, .node = {a, b}};
    char address[64];
    snprintf(address, sizeof address, "10.0.0.%u:7171", b + 1);
    rig_step(r, a,
             (struct event){
                 .type = EVENT_LINK_OPEN, .link = id, .dial = dial ? dial : 1000 + id, .address = address, .key = r->node[b].config.key});
    snprintf(address, sizeof address, "10.0.0.%u:40000", a + 1);
    rig_step(r, b, (struct event){.type = EVENT_LINK_OPEN, .link = id, .address = address, .key = r->node[a].config.key});
    return id;
}

static inline uint64_t rig_connect(struct rig *r, unsigned a, unsigned b) {
    uint64_t id = rig_link(r, a, b, 0);
    rig_run(r);
    return id;
}

static inline struct origin rig_origin(const struct rig *r, unsigned n) {
    struct origin o = {.epoch = r->node[n].epoch};
    node_id_of_key(o.node, r->node[n].config.key);
    return o;
}

/* A batch of n whose author had applied `after` (NULL: nothing new), of about `size` bytes. It becomes n's own, durable. */
static inline struct bytes *rig_batch(struct rig *r, unsigned n, const struct vv *after, size_t size) {
    struct rig_node *node = &r->node[n];
    struct batch_writer *w = batch_writer_new();
    assert_non_null(w);
    static const char *const columns[] = {"v"};
    static const size_t lens[] = {1};
    uint8_t *blob = malloc(size + 1);
    assert_non_null(blob);
    randombytes_buf(blob, size + 1);
    struct value value = {.type = VALUE_BLOB, .p = blob, .len = size + 1};
    struct change c = {.kind = CHANGE_INSERT,
                       .table = "t",
                       .table_len = 1,
                       .stamp = node->stamp ? node->stamp : 1,
                       .ident = {.kind = IDENT_GIVEN, .number = 1},
                       .columns_count = 1,
                       .columns = columns,
                       .columns_len = lens,
                       .values = &value};
    assert_int_equal(batch_writer_add(w, &c), 0);
    struct batch_head h = {.origin = rig_origin(r, n), .version = ++node->version, .db = RIG_DB, .db_len = strlen(RIG_DB)};
    h.key = h.version == 1 ? node->config.key : NULL;
    if (after)
        h.after = *after;
    struct bytes *b = NULL;
    assert_int_equal(batch_seal(w, &h, node->secret, node->chain, &b), 0);
    batch_writer_free(w);
    free(blob);
    node->log[node->version] = b;
    assert_int_equal(vv_set(&node->state.have, &h.origin, h.version), 0);
    return b;
}

/* n commits: the batch is pushed, then known as stored. */
static inline void rig_write(struct rig *r, unsigned n, const struct vv *after) {
    struct bytes *b = rig_batch(r, n, after, 20);
    rig_step(r, n, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = b});
    rig_state(r, n, EVENT_STORED);
}

/* What node n knows of node m; false when it does not know it. */
static inline bool rig_peer(const struct rig *r, unsigned n, unsigned m, struct peer_info *info) {
    struct origin o = rig_origin(r, m);
    for (uint32_t i = 0; core_peer(r->node[n].core, i, info); i++)
        if (memcmp(info->member->id, o.node, NODE_ID_BYTES) == 0)
            return true;
    return false;
}

static inline bool rig_in_sync(const struct rig *r, unsigned n, unsigned m) {
    struct peer_info info;
    return rig_peer(r, n, m, &info) && info.in_sync;
}

static inline int rig_member(const struct rig *r, unsigned n, unsigned m) {
    struct peer_info info;
    return rig_peer(r, n, m, &info) ? (int)info.member->state : -1;
}

static inline bool rig_linked(const struct rig *r, unsigned n, unsigned m) {
    struct peer_info info;
    return rig_peer(r, n, m, &info) && info.linked;
}

static inline uint64_t rig_acked(const struct rig *r, unsigned n, unsigned m, unsigned author) {
    struct peer_info info;
    struct origin who = rig_origin(r, m), o = rig_origin(r, author);
    for (uint32_t i = 0; core_peer(r->node[n].core, i, &info); i++)
        if (memcmp(info.member->id, who.node, NODE_ID_BYTES) == 0)
            return vv_get(core_acked(r->node[n].core, i, RIG_DB), &o);
    return 0;
}

/* Bytes from nowhere on a fresh accepted link of node n: what a stranger sends. */
static inline uint64_t rig_stranger(struct rig *r, unsigned n) {
    uint64_t id = ++r->links;
    static const uint8_t key[NODE_KEY_BYTES] = {99};
    r->link[id - 1] = (struct rig_link){.open = false};
    rig_step(r, n, (struct event){.type = EVENT_LINK_OPEN, .link = id, .address = "192.168.1.9:5555", .key = key});
    return id;
}

static inline void rig_says(struct rig *r, unsigned n, uint64_t link, const void *data, size_t len) {
    rig_step(r, n, (struct event){.type = EVENT_LINK_DATA, .link = link, .data = data, .len = len});
}

#endif
