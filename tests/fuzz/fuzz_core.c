/* The protocol core as a whole: the input is a list of events, with frames whole, broken or made up, from several peers.
 * Whatever comes, no assertion fails, no memory is lost, and versions of an origin are delivered in order. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "proto/batch.h"
#include "proto/card.h"
#include "proto/core.h"
#include "proto/wire.h"

#define LINKS 4
#define DB "a.db"

struct input {
    const uint8_t *p;
    size_t left;
};

struct world {
    struct core *core;
    uint64_t now, link[LINKS], dialled[LINKS], next_link, dial, read, request, request_link;
    struct vv have, delivered;
    bool open, opening[LINKS]; /* opening: its LINK_OPEN waits for the frame that says whose link it is */
};

static uint8_t byte(struct input *in) {
    if (!in->left)
        return 0;
    in->left--;
    return *in->p++;
}

static void pair_of(uint8_t n, uint8_t key[NODE_KEY_BYTES], uint8_t secret[NODE_SECRET_BYTES]) {
    static uint8_t keys[5][NODE_KEY_BYTES], secrets[5][NODE_SECRET_BYTES];
    if (!secrets[n % 5][0] && !secrets[n % 5][1])
        crypto_sign_seed_keypair(keys[n % 5], secrets[n % 5], (uint8_t[32]){n % 5});
    memcpy(key, keys[n % 5], NODE_KEY_BYTES);
    memcpy(secret, secrets[n % 5], NODE_SECRET_BYTES);
}

static struct origin origin_of(uint8_t n) {
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
    pair_of(n, key, secret);
    struct origin o = {.epoch = n / 128};
    node_id_of_key(o.node, key);
    return o;
}

/* An envelope with a true head and no true signature: the core reads only the head. */
static struct bytes *batch_of(struct input *in) {
    struct origin o = origin_of(byte(in)), cause = origin_of(byte(in));
    uint8_t version = byte(in) % 16, wants = byte(in) % 16;
    struct buf b;
    buf_init(&b, 4096);
    buf_pack_array(&b, BATCH_HEAD_FIELDS);
    buf_pack_u64(&b, 1);
    buf_pack_u64(&b, 0);
    buf_pack_bin(&b, o.node, NODE_ID_BYTES);
    buf_pack_u64(&b, o.epoch);
    buf_pack_u64(&b, version);
    buf_pack_cstr(&b, DB);
    buf_pack_bin(&b, "prevprev", 8);
    if (version == 1)
        buf_pack_bin(&b, "0123456789abcdef0123456789abcdef", NODE_KEY_BYTES);
    else
        buf_pack_nil(&b);
    buf_pack_array(&b, wants ? 1 : 0);
    if (wants) {
        buf_pack_array(&b, 3);
        buf_pack_bin(&b, cause.node, NODE_ID_BYTES);
        buf_pack_u64(&b, cause.epoch);
        buf_pack_u64(&b, wants);
    }
    buf_pack_array(&b, 0);
    for (int i = 0; i < 4; i++) /* schema, stamp, rows, raw */
        buf_pack_u64(&b, 1);
    buf_pack_bin(&b, "x", 1);
    buf_append(&b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", BATCH_SIGNATURE_BYTES);
    assert(!b.failed);
    struct bytes *batch = bytes_new(b.data, b.len);
    assert(batch);
    buf_release(&b);
    return batch;
}

static void step(struct world *w, struct event e) {
    e.now_ms = w->now;
    e.wall_ms = w->now;
    core_step(w->core, &e);
    struct effect fx;
    while (core_poll(w->core, &fx)) {
        switch (fx.type) {
        case EFFECT_DELIVER: {
            struct batch_head h;
            assert(batch_head_read(&h, fx.batch->data, fx.batch->len) == 0);
            assert(w->open);
            assert(h.version == vv_get(&w->delivered, &h.origin) + 1);
            assert(vv_set(&w->delivered, &h.origin, h.version) == 0);
            batch_head_release(&h);
            bytes_unref(fx.batch);
            break;
        }
        case EFFECT_DIAL: w->dial = fx.dial; break;
        case EFFECT_READ: w->read = fx.request; break;
        case EFFECT_REQUEST:
            w->request = fx.request;
            w->request_link = fx.link;
            break;
        default: break;
        }
    }
    uint32_t peers = core_peers(w->core);
    struct peer_info info;
    for (uint32_t i = 0; i < peers; i++)
        assert(core_peer(w->core, i, &info));
}

static void state(struct world *w, enum event_type type) {
    if (type == EVENT_DB_OPEN) {
        w->open = true;
        assert(vv_copy(&w->delivered, &w->have) == 0);
    }
    struct db_state s = {.have = w->have, .settled = true, .base = type == EVENT_DB_OPEN ? w->now % 3 : 0};
    step(w, (struct event){.type = type, .db = DB, .state = &s});
}

static void link_open(struct world *w, unsigned slot, const uint8_t key[NODE_KEY_BYTES]) {
    struct event e = {.type = EVENT_LINK_OPEN, .link = w->link[slot], .dial = w->dialled[slot], .address = "h:2", .key = key};
    if (w->opening[slot])
        step(w, e);
    w->opening[slot] = false;
}

static size_t card_of(uint8_t n, const uint8_t key[NODE_KEY_BYTES], const uint8_t secret[NODE_SECRET_BYTES], uint8_t out[CARD_BYTES_MAX]) {
    struct card c = {
        .incarnation = n / 16, .issue = n % 4, .left = n & 1, .name = "m", .count = n % 3, .addresses = {"m:1", "127.0.0.1:2"}};
    memcpy(c.key, key, NODE_KEY_BYTES);
    return card_sign(&c, n == 255 ? "d" : "c", secret, out);
}

static void frame(struct world *w, struct input *in, unsigned slot) {
    struct buf b;
    buf_init(&b, 65536);
    static const uint8_t content[WIRE_CONTENT_BYTES];
    struct wire_db db = {.name = {DB, 4}, .content = content, .base = byte(in) % 3, .settled = true};
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES], card[CARD_BYTES_MAX];
    pair_of(byte(in), key, secret);
    struct bytes *batch = NULL;
    size_t at;
    link_open(w, slot, key);
    uint8_t n = byte(in);
    switch (byte(in) % 9) {
    case 0:
        at = wire_pack_hello(&b, &(struct wire_hello){.protocol = 1,
                                                      .cluster = {"c", 1},
                                                      .name = {"n", 1},
                                                      .advertise = {":1", 2},
                                                      .incarnation = n / 16,
                                                      .dial = n,
                                                      .card = card,
                                                      .card_len = card_of(n, key, secret, card),
                                                      .dbs_count = 1});
        wire_pack_hello_db(&b, &db);
        wire_end(&b, at);
        break;
    case 1: {
        at = wire_pack_vector(&b, &db, n % 8, 1);
        struct origin o = origin_of(n);
        wire_pack_entry(&b, &o, 1 + byte(in) % 16);
        wire_end(&b, at);
        break;
    }
    case 2:
        at = wire_pack_members(&b, 1);
        wire_pack_member(&b, &(struct wire_member){.card = card, .card_len = card_of(n, key, secret, card), .flags = n / 4 % 4});
        wire_end(&b, at);
        break;
    case 3: wire_pack_beat(&b, &(struct wire_beat){.sent = n, .flags = n % 16, .digest = n}); break;
    case 4: wire_pack_pull(&b, &(struct wire_pull){.db = {DB, 4}, .origin = origin_of(n), .from = 1, .to = 1 + n, .bytes = n}); break;
    case 5: wire_pack_done(&b, &(struct wire_done){.db = {DB, 4}, .origin = origin_of(n), .next = n}); break;
    case 6: wire_pack_call(&b, n & 1 ? WIRE_REQUEST : WIRE_REPLY, &(struct wire_call){n, content, n % 16}); break;
    case 7: wire_pack_bye(&b, n & 1 ? WIRE_BYE : WIRE_LEAVE); break;
    default: /* a batch in two chunks */
        batch = batch_of(in);
        for (size_t from = 0, half = batch->len / 2; from < batch->len; from += half, half = batch->len - half) {
            wire_pack_batch(&b, &(struct wire_batch){.flags = n & 1, .total = batch->len, .at = from, .chunk_len = half});
            buf_append(&b, batch->data + from, half);
        }
        break;
    }
    assert(!b.failed);
    step(w, (struct event){.type = EVENT_LINK_DATA, .link = w->link[slot], .data = b.data, .len = b.len});
    bytes_unref(batch);
    buf_release(&b);
}

static void link_event(struct world *w, struct input *in, uint8_t op) {
    unsigned slot = op / 16 % LINKS;
    uint8_t raw[256] = {0};
    if (op % 4 == 1 || op % 4 == 2)
        link_open(w, slot, raw);
    switch (op % 4) {
    case 0:
        link_open(w, slot, raw);
        if (w->link[slot])
            step(w, (struct event){.type = EVENT_LINK_CLOSED, .link = w->link[slot], .text = "gone"});
        w->link[slot] = ++w->next_link;
        w->dialled[slot] = op & 8 ? w->dial : 0;
        w->opening[slot] = true;
        break;
    case 1: {
        size_t n = byte(in);
        for (size_t i = 0; i < n; i++)
            raw[i] = byte(in);
        step(w, (struct event){.type = EVENT_LINK_DATA, .link = w->link[slot], .data = raw, .len = n});
        break;
    }
    case 2: step(w, (struct event){.type = EVENT_LINK_SENT, .link = w->link[slot], .queued = (size_t)byte(in) << 12}); break;
    default: frame(w, in, slot); break;
    }
}

static void local(struct world *w) {
    struct origin me = {.epoch = 0};
    memcpy(me.node, core_id(w->core), NODE_ID_BYTES);
    if (vv_get(&w->have, &me) >= 15) /* what batch_of can make */
        return;
    uint8_t which[4] = {0, 0, (uint8_t)(vv_get(&w->have, &me) + 1), 0};
    struct input in = {which, sizeof which};
    struct bytes *b = batch_of(&in);
    assert(vv_set(&w->have, &me, vv_get(&w->have, &me) + 1) == 0);
    assert(vv_raise(&w->delivered, &me, vv_get(&w->have, &me)) == 0);
    step(w, (struct event){.type = EVENT_BATCH_LOCAL, .db = DB, .batch = b});
    bytes_unref(b);
}

static void other_event(struct world *w, struct input *in, uint8_t op) {
    switch (op % 16) {
    case 0:
        w->now += (uint64_t)byte(in) * 40;
        step(w, (struct event){.type = EVENT_TICK});
        break;
    case 1: state(w, EVENT_DB_OPEN); break;
    case 2:
        if (w->open)
            assert(vv_merge(&w->have, &w->delivered) == 0);
        if (w->open)
            state(w, EVENT_STORED);
        break;
    case 3:
        w->open = false;
        step(w, (struct event){.type = EVENT_DB_CLOSED, .db = DB});
        break;
    case 4:
        if (w->open)
            local(w);
        break;
    case 5: {
        struct bytes *b = batch_of(in);
        struct bytes *two[2] = {b, b};
        step(w, (struct event){.type = EVENT_READ, .request = w->read, .batches = two, .batches_count = byte(in) % 3});
        bytes_unref(b);
        break;
    }
    case 6: step(w, (struct event){.type = EVENT_SEED, .text = op & 16 ? "s:1" : "m:1"}); break;
    case 7: step(w, (struct event){.type = EVENT_DIAL_FAILED, .dial = w->dial, .text = "no"}); break;
    case 8: step(w, (struct event){.type = op & 16 ? EVENT_PAUSE : EVENT_RESUME}); break;
    case 9: {
        struct origin o = origin_of(byte(in));
        struct event bad = {.type = EVENT_BATCH_BAD, .db = DB, .origin = o, .version = 1, .text = "bad"};
        assert(vv_set(&w->delivered, &o, vv_get(&w->have, &o)) == 0);
        step(w, bad);
        break;
    }
    case 10: {
        struct member m = {.name = "x"};
        struct origin o = origin_of(byte(in));
        memcpy(m.id, o.node, sizeof m.id);
        step(w, (struct event){.type = EVENT_FORGET, .member = &m});
        break;
    }
    case 11: step(w, (struct event){.type = EVENT_REPLY, .link = w->request_link, .request = w->request, .data = in->p, .len = 0}); break;
    case 12: {
        struct origin o = origin_of(byte(in));
        step(w, (struct event){.type = EVENT_REQUEST, .peer = o.node, .request = 9, .data = o.node, .len = 4});
        break;
    }
    case 13: {
        struct origin o = origin_of(byte(in));
        if (op == 0x7d)
            step(w, (struct event){.type = EVENT_LEAVE});
        else
            step(w, (struct event){.type = op & 16 ? EVENT_BLOCK : EVENT_UNBLOCK, .peer = o.node});
        break;
    }
    default:
        w->now += 21;
        step(w, (struct event){.type = EVENT_TICK});
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    struct core_config config = {.mesh_max = size % 2 ? 50 : 2, /* every other input: views and a tree from three members on */
                                 .name = "me",
                                 .cluster = "c",
                                 .advertise = ":1",
                                 .incarnation = 100,
                                 .link_queue_max = 4096,
                                 .hold_bytes_max = 4096};
    pair_of(0, config.key, config.secret);
    struct world w = {.core = core_new(&config), .now = 1000};
    assert(w.core);
    state(&w, EVENT_DB_OPEN);
    while (in.left) {
        uint8_t op = byte(&in);
        if (op & 128)
            other_event(&w, &in, op & 127);
        else
            link_event(&w, &in, op);
    }
    core_free(w.core);
    vv_release(&w.have);
    vv_release(&w.delivered);
    return 0;
}
