/* What one peer that lies may take of a node: memory, the room for what is fetched, epochs. */
#include "core_rig.h"
#include "proto/core_state.h"

static struct origin nobody(uint32_t i) {
    struct origin o = {0};
    memcpy(o.node, &i, sizeof i);
    o.node[15] = 1;
    return o;
}

static void claim(struct rig *r, unsigned n, const struct origin *o, uint64_t version) {
    assert_int_equal(vv_set(&r->node[n].state.have, o, version), 0);
    rig_state(r, n, EVENT_STORED);
    rig_wait(r, 50);
}

/* It says that it has much, and sends nothing: what others have is fetched at once all the same. */
static void claims_do_not_take_all_room(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    for (unsigned i = 0; i < 100; i++) {
        struct origin o = nobody(i);
        assert_int_equal(vv_set(&r.node[1].state.have, &o, 1000), 0);
    }
    rig_state(&r, 1, EVENT_STORED);
    r.node[1].silent_reads = true;
    for (unsigned i = 0; i < 50; i++)
        rig_write(&r, 2, NULL);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 200);
    assert_true(r.node[1].reads > 0);
    rig_connect(&r, 0, 2);
    rig_wait(&r, 200);
    assert_int_equal(r.node[0].delivered_count, 50);
    rig_release(&r);
}

/* It names as many members as a database can have: those who write have their place all the same, whether it is told by others or comes by itself. */
static void made_up_members_leave_a_place(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 4);
    rig_start_all(&r);
    for (unsigned i = 0; i < VV_ENTRIES_MAX; i++) {
        struct origin o = nobody(i);
        assert_int_equal(vv_set(&r.node[1].state.have, &o, 1000), 0);
    }
    rig_state(&r, 1, EVENT_STORED);
    r.node[1].silent_reads = true;
    rig_connect(&r, 0, 1);
    rig_wait(&r, 200);
    rig_connect(&r, 0, 2);
    rig_write(&r, 2, NULL);
    rig_wait(&r, 200);
    assert_int_equal(r.node[0].delivered_count, 1);
    rig_write(&r, 3, NULL);
    rig_connect(&r, 0, 3);
    rig_wait(&r, 200);
    assert_int_equal(r.node[0].delivered_count, 2);
    rig_write(&r, 0, NULL); /* and we tell of ours */
    rig_wait(&r, 200);
    assert_int_equal(rig_acked(&r, 2, 0, 0), 1);
    rig_release(&r);
}

/* Its writes from now on are of another epoch; all those before are delivered, and asked for by nobody. */
static void next_epoch(struct rig_node *n) {
    for (; n->version; n->version--) {
        bytes_unref(n->log[n->version]);
        n->log[n->version] = NULL;
    }
    n->epoch++;
    memset(n->chain, 0, sizeof n->chain);
}

/* Who writes more than the store takes, under whatever epochs, leaves the others' writes their part of it, and of the room to wait. */
static void floods_do_not_take_all_room(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 4);
    r.node[1].config.hold_bytes_max = 16000;
    rig_start_all(&r);
    for (unsigned n = 0; n < 4; n++)
        if (n != 1)
            rig_connect(&r, n, 1);
    rig_wait(&r, 100);
    r.node[1].slow_store = true;
    for (int i = 0; i < 300; i++) {
        if (i == 150)
            next_epoch(&r.node[0]);
        rig_write(&r, 0, NULL);
        rig_run(&r);
    }
    assert_int_equal(r.node[1].delivered_count, 192);
    rig_write(&r, 2, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 193);
    /* and one that waits for another's write finds its place */
    struct vv after = {0};
    struct origin on = rig_origin(&r, 3);
    uint64_t waiting = core_waiting(r.node[1].core, RIG_DB);
    assert_int_equal(vv_set(&after, &on, 1), 0);
    rig_write(&r, 2, &after);
    rig_run(&r);
    assert_int_equal(core_waiting(r.node[1].core, RIG_DB), waiting + 1);
    rig_write(&r, 3, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 195);
    r.node[1].slow_store = false;
    rig_wait(&r, 8000);
    assert_int_equal(r.node[1].delivered_count, 303);
    vv_release(&after);
    rig_release(&r);
}

/* Two of them fill the store together; who comes after has its turn when there is room. */
static void two_floods_leave_a_turn(void **state) {
    (void)state;
    static struct rig r;
    unsigned last = 0;
    rig_init(&r, 4);
    rig_start_all(&r);
    for (unsigned n = 0; n < 3; n++) {
        rig_connect(&r, n, 3);
        if (memcmp(core_id(r.node[n].core), core_id(r.node[last].core), NODE_ID_BYTES) > 0)
            last = n; /* in every list behind the others */
    }
    rig_wait(&r, 100);
    r.node[3].slow_store = true;
    for (unsigned n = 0; n < 3; n++)
        for (int i = 0; n != last && i < 250; i++) {
            rig_write(&r, n, NULL);
            rig_run(&r);
        }
    assert_int_equal(r.node[3].delivered_count, 256);
    rig_write(&r, last, NULL);
    rig_run(&r);
    for (unsigned i = 0; i < 4; i++)
        rig_store_one(&r, 3);
    struct batch_head h;
    struct origin o = rig_origin(&r, last);
    bool came = false;
    for (unsigned i = 256; i < r.node[3].delivered_count; i++) {
        assert_int_equal(batch_head_read(&h, r.node[3].delivered[i]->data, r.node[3].delivered[i]->len), 0);
        came = came || origin_equal(&h.origin, &o);
        batch_head_release(&h);
    }
    assert_true(came);
    rig_release(&r);
}

static void reopen_under(struct rig *r, uint32_t epoch) {
    r->node[0].epoch = epoch;
    r->node[0].version = 0;
    rig_state(r, 0, EVENT_DB_OPEN);
    rig_wait(r, 50);
}

/* An epoch beyond the last would begin with the first again, and versions would be used twice. */
static void epochs_that_cannot_be(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    struct origin o = rig_origin(&r, 0);
    static const uint32_t beyond[] = {UINT32_MAX, UINT32_MAX - 1, 1700000000 + (1u << 22)};
    for (unsigned i = 0; i < 3; i++) {
        o.epoch = beyond[i];
        claim(&r, 1, &o, 1);
        assert_int_equal(r.node[0].epochs, 0);
    }
    assert_non_null(strstr(r.node[0].logs, "which it did not: not believed"));
    o.epoch = 1700000000 + (1u << 20); /* as of a copy, begun in the second that its clock had, and drawn */
    claim(&r, 1, &o, 1);
    assert_int_equal(r.node[0].epochs, 1);
    assert_int_equal(r.node[0].epoch_origin.epoch, o.epoch); /* and no other */
    rig_release(&r);
}

static void epochs_without_end(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    struct origin o = rig_origin(&r, 0);
    for (; o.epoch < 50; o.epoch++) {
        unsigned had = r.node[0].epochs;
        claim(&r, 1, &o, 1000);
        if (r.node[0].epochs > had)
            reopen_under(&r, o.epoch + 1);
    }
    assert_int_equal(r.node[0].epochs, 4);
    rig_wait(&r, 600000);
    o.epoch = r.node[0].epoch;
    claim(&r, 1, &o, 2000);
    assert_int_equal(r.node[0].epochs, 5); /* it may be true */
    rig_release(&r);
}

static void send_chunk(struct rig *r, uint64_t link, unsigned flags, size_t total, size_t at) {
    static uint8_t chunk[WIRE_CHUNK_BYTES];
    struct buf b;
    buf_init(&b, FRAME_BYTES_MAX);
    wire_pack_batch(&b, &(struct wire_batch){.flags = flags, .total = total, .at = at, .chunk_len = sizeof chunk});
    buf_append(&b, chunk, sizeof chunk);
    rig_step(r, 0, (struct event){.type = EVENT_LINK_DATA, .link = link, .data = b.data, .len = b.len});
    buf_release(&b);
}

static size_t arriving(const struct rig *r) {
    size_t bytes = 0;
    const struct core *core = r->node[0].core;
    for (uint32_t i = 0; i < core->links_count; i++)
        bytes += core->links[i]->arriving[0].buf.len + core->links[i]->arriving[1].buf.len;
    return bytes;
}

/* Batches that are begun and never end. */
static void unfinished_batches_have_a_bound(void **state) {
    (void)state;
    static struct rig r;
    uint64_t links[8];
    rig_init(&r, 10);
    rig_start_all(&r);
    for (unsigned i = 0; i < 8; i++)
        links[i] = rig_connect(&r, 0, 1 + i);
    for (size_t at = 0; at < 20u << 20; at += WIRE_CHUNK_BYTES)
        for (unsigned i = 0; i < 8; i++)
            for (unsigned flags = 0; flags < 2; flags++)
                send_chunk(&r, links[i], flags, BATCH_BYTES_MAX, at);
    assert_true(arriving(&r) <= BATCH_BYTES_MAX + 17 * ((512u << 10) + WIRE_CHUNK_BYTES));
    /* who goes on gets the room of those who do not */
    r.now += 3000;
    size_t total = BATCH_BYTES_MAX / WIRE_CHUNK_BYTES * WIRE_CHUNK_BYTES;
    uint64_t fresh = rig_connect(&r, 0, 9);
    for (size_t at = 0; at < total - WIRE_CHUNK_BYTES; at += WIRE_CHUNK_BYTES)
        send_chunk(&r, fresh, 0, total, at);
    assert_true(greet_link(r.node[0].core, fresh)->arriving[0].buf.len == total - WIRE_CHUNK_BYTES);
    assert_true(arriving(&r) <= BATCH_BYTES_MAX + 17 * ((512u << 10) + WIRE_CHUNK_BYTES));
    rig_release(&r);
}

static void says(struct rig *r, uint64_t link, const struct buf *b) {
    assert_int_equal(b->failed, 0);
    rig_step(r, 0, (struct event){.type = EVENT_LINK_DATA, .link = link, .data = b->data, .len = b->len});
}

/* Requests and questions that are asked faster than they can be answered. */
static void what_waits_for_answers_has_a_bound(void **state) {
    (void)state;
    static struct rig r;
    struct buf b;
    rig_init(&r, 2);
    rig_start_all(&r);
    for (uint32_t i = 0; i < 400; i++) {
        struct origin o = nobody(i);
        assert_int_equal(vv_set(&r.node[0].state.have, &o, 10), 0);
    }
    rig_state(&r, 0, EVENT_STORED);
    r.node[0].silent_reads = true;
    uint64_t link = rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    buf_init(&b, 1 << 20);
    for (uint32_t i = 0; i < 400; i++) {
        struct wire_pull pull = {.db = {RIG_DB, strlen(RIG_DB)}, .origin = nobody(i), .from = 1, .to = 10, .bytes = 1 << 20};
        buf_clear(&b);
        wire_pack_pull(&b, &pull);
        says(&r, link, &b);
        buf_clear(&b);
        wire_pack_call(&b, WIRE_REQUEST, &(struct wire_call){.number = i, .data = (const uint8_t *)"{}", .len = 2});
        says(&r, link, &b);
    }
    assert_int_equal(greet_link(r.node[0].core, link)->ranges_count, RANGES_MAX);
    assert_int_equal(r.node[0].requests, LINK_CALLS_MAX);
    buf_release(&b);
    rig_release(&r);
}

static void frames_have_a_bound(void **state) {
    (void)state;
    static const uint32_t lengths[] = {FRAME_BYTES_MAX + 1, UINT32_MAX, FRAME_BYTES_MAX};
    for (unsigned i = 0; i < 3; i++)
        for (unsigned split = 0; split < 2; split++) {
            static struct rig r;
            rig_init(&r, 2);
            rig_start_all(&r);
            uint64_t link = rig_connect(&r, 0, 1);
            uint8_t head[6] = {(uint8_t)(lengths[i] >> 24), (uint8_t)(lengths[i] >> 16), (uint8_t)(lengths[i] >> 8), (uint8_t)lengths[i]};
            for (size_t at = 0, n = split ? 1 : 6; at < 6; at += n) /* also where it is not all there at once */
                rig_step(&r, 0, (struct event){.type = EVENT_LINK_DATA, .link = link, .data = head + at, .len = n});
            assert_int_equal(rig_linked(&r, 0, 1), i == 2);
            rig_release(&r);
        }
}

/* Members without end, each with a card that holds. */
static void members_have_a_bound(void **state) {
    (void)state;
    static struct rig r;
    struct buf b;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    buf_init(&b, 1 << 20);
    for (unsigned i = 0; i < MEMBERS_MAX + 100; i++) {
        uint8_t seed[32] = {1, 2, 3, (uint8_t)i, (uint8_t)(i >> 8)}, secret[NODE_SECRET_BYTES], data[CARD_BYTES_MAX];
        struct card c = {.incarnation = 7, .issue = 1, .name = "x", .count = 1, .addresses = {"10.1.1.1:1"}};
        crypto_sign_seed_keypair(c.key, secret, seed);
        struct wire_member m = {.card = data, .card_len = card_sign(&c, "default", secret, data)};
        buf_clear(&b);
        size_t at = wire_pack_members(&b, 1);
        wire_pack_member(&b, &m);
        wire_end(&b, at);
        says(&r, link, &b);
    }
    assert_int_equal(r.node[0].core->peers_count, MEMBERS_MAX);
    assert_true(rig_linked(&r, 0, 1));
    buf_release(&b);
    rig_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claims_do_not_take_all_room),
        cmocka_unit_test(made_up_members_leave_a_place),
        cmocka_unit_test(floods_do_not_take_all_room),
        cmocka_unit_test(two_floods_leave_a_turn),
        cmocka_unit_test(epochs_that_cannot_be),
        cmocka_unit_test(epochs_without_end),
        cmocka_unit_test(unfinished_batches_have_a_bound),
        cmocka_unit_test(what_waits_for_answers_has_a_bound),
        cmocka_unit_test(frames_have_a_bound),
        cmocka_unit_test(members_have_a_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
