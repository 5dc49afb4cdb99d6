/* Beyond the mesh: four nodes, of which three are many. */
#include "proto/card.h"
#include "tests/unit/core_rig.h"

static void many(struct rig *r, unsigned nodes) {
    rig_init(r, nodes);
    for (unsigned n = 0; n < nodes; n++)
        r->node[n].config.mesh_max = 2;
    rig_start_all(r);
}

/* Three, the first and the last of which have no link. */
static void in_a_line(struct rig *r) {
    many(r, 3);
    rig_connect(r, 0, 1);
    rig_connect(r, 1, 2);
}

static void all_linked(struct rig *r, unsigned nodes) {
    many(r, nodes);
    for (unsigned a = 0; a < nodes; a++)
        for (unsigned b = 0; b < a; b++)
            rig_connect(r, a, b);
    rig_wait(r, 2000);
    for (unsigned n = 0; n < nodes; n++)
        assert_true(core_overlay(r->node[n].core));
}

static unsigned batches_sent(const struct rig *r) {
    unsigned all = 0;
    for (unsigned n = 0; n < r->nodes; n++)
        all += r->node[n].batch_sends;
    return all;
}

static void duplicates_prune_the_tree(void **state) {
    (void)state;
    struct rig r;
    all_linked(&r, 4);
    for (int i = 0; i < 5; i++) {
        rig_write(&r, 0, NULL);
        rig_wait(&r, 100);
    }
    unsigned before = batches_sent(&r);
    for (int i = 0; i < 10; i++) {
        rig_write(&r, 0, NULL);
        rig_wait(&r, 100);
    }
    assert_int_equal(batches_sent(&r) - before, 30); /* each of three others once */
    for (unsigned n = 1; n < 4; n++)
        assert_int_equal(r.node[n].delivered_count, 15);
    rig_release(&r);
}

/* In a line the one in the middle passes on what its store took, at once and not when it is asked. */
static void what_is_stored_is_passed_on(void **state) {
    (void)state;
    struct rig r;
    in_a_line(&r);
    rig_wait(&r, 1500);
    assert_true(core_overlay(r.node[0].core) && core_overlay(r.node[1].core) && core_overlay(r.node[2].core));
    rig_write(&r, 0, NULL);
    rig_wait(&r, 100);
    r.node[1].slow_store = true;
    rig_write(&r, 0, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 2);
    assert_int_equal(r.node[2].delivered_count, 1);
    rig_store_one(&r, 1);
    rig_run(&r);
    assert_int_equal(r.node[2].delivered_count, 2);
    rig_release(&r);
}

static void fail_dials(struct rig *r, unsigned n) {
    uint64_t dial = r->node[n].last_dial;
    if (dial)
        rig_step(r, n, (struct event){.type = EVENT_DIAL_FAILED, .dial = dial, .text = "refused"});
    r->node[n].last_dial = 0;
}

/* Two lose the fourth and doubt it; the one that still has a link tells it, and nobody calls it dead. */
static void who_is_in_doubt_says_no(void **state) {
    (void)state;
    struct rig r;
    all_linked(&r, 4);
    for (unsigned i = 0; i < r.links; i++) {
        const struct rig_link *l = &r.link[i];
        unsigned other = l->node[0] == 3 ? l->node[1] : l->node[0];
        if (l->open && (l->node[0] == 3 || l->node[1] == 3) && other != 0)
            rig_close(&r, i + 1, 0, 1);
    }
    bool dead = false, doubted = false;
    for (int i = 0; i < 100; i++) {
        fail_dials(&r, 1);
        fail_dials(&r, 2);
        rig_wait(&r, 10);
        doubted = doubted || rig_member(&r, 1, 3) == MEMBER_SUSPECT;
        dead = dead || rig_member(&r, 1, 3) == MEMBER_DEAD || rig_member(&r, 2, 3) == MEMBER_DEAD;
    }
    assert_true(doubted && !dead);
    for (unsigned n = 0; n < 3; n++)
        assert_int_equal(rig_member(&r, n, 3), MEMBER_ALIVE);
    rig_release(&r);
}

/* When nobody has a link with it any more, it stays dead everywhere. */
static void who_is_gone_is_dead_for_all(void **state) {
    (void)state;
    struct rig r;
    all_linked(&r, 4);
    for (unsigned i = 0; i < r.links; i++)
        if (r.link[i].open && (r.link[i].node[0] == 3 || r.link[i].node[1] == 3))
            rig_close(&r, i + 1, 0, 1);
    for (int i = 0; i < 100; i++) {
        for (unsigned n = 0; n < 3; n++)
            fail_dials(&r, n);
        rig_wait(&r, 10);
    }
    for (unsigned n = 0; n < 3; n++)
        assert_int_equal(rig_member(&r, n, 3), MEMBER_DEAD);
    rig_release(&r);
}

static void a_visit_is_a_dial(void **state) {
    (void)state;
    struct rig r;
    in_a_line(&r);
    rig_wait(&r, 1500);
    fail_dials(&r, 0);
    rig_wait(&r, 5000);
    unsigned dials = r.node[0].dials;
    struct origin o = rig_origin(&r, 2);
    rig_step(&r, 0, (struct event){.type = EVENT_VISIT, .peer = o.node});
    assert_true(r.node[0].dials <= dials + 1);
    rig_step(&r, 1, (struct event){.type = EVENT_VISIT, .peer = o.node}); /* linked: nothing to do */
    rig_release(&r);
}

/* A question to a member without a link makes one, and is put then. */
static void who_is_asked_is_visited(void **state) {
    (void)state;
    struct rig r;
    in_a_line(&r);
    rig_wait(&r, 100);
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_ALIVE);
    assert_false(rig_linked(&r, 0, 2));
    struct origin o = rig_origin(&r, 2);
    rig_step(&r, 0, (struct event){.type = EVENT_REQUEST, .peer = o.node, .request = 7, .data = (const uint8_t *)"{}", .len = 2});
    assert_int_equal(r.node[0].replies, 0);
    rig_link(&r, 0, 2, r.node[0].last_dial);
    rig_run(&r);
    assert_int_equal(r.node[2].requests, 1);
    rig_step(&r, 2,
             (struct event){.type = EVENT_REPLY,
                            .link = r.node[2].last_request_link,
                            .request = r.node[2].last_request,
                            .data = (const uint8_t *)"yes",
                            .len = 3});
    rig_run(&r);
    assert_int_equal(r.node[0].replies, 1);
    assert_string_equal(r.node[0].reply, "yes");
    rig_step(&r, 0, (struct event){.type = EVENT_REQUEST, .peer = o.node, .request = 8, .data = (const uint8_t *)"{}", .len = 2});
    rig_release(&r); /* with a question that waits for its answer */
}

/* Members of whom somebody only tells, `count` from number `first` on. */
static void tell_of(struct rig *r, unsigned n, uint64_t link, unsigned first, unsigned count) {
    struct buf b;
    buf_init(&b, FRAME_BYTES_MAX);
    for (unsigned i = first; i < first + count; i++) {
        uint8_t secret[NODE_SECRET_BYTES], bytes[CARD_BYTES_MAX], seed[32] = {0xfa, (uint8_t)i, (uint8_t)(i >> 8)};
        struct card c = {.incarnation = 1};
        crypto_sign_seed_keypair(c.key, secret, seed);
        snprintf(c.name, sizeof c.name, "m%u", i);
        size_t len = card_sign(&c, "default", secret, bytes);
        buf_clear(&b);
        size_t at = wire_pack_members(&b, 1);
        wire_pack_member(&b, &(struct wire_member){.card = bytes, .card_len = len, .flags = WIRE_ALIVE});
        wire_end(&b, at);
        rig_says(r, n, link, b.data, b.len);
    }
    buf_release(&b);
}

/* Of those with these numbers. */
static unsigned known(const struct rig *r, unsigned n, unsigned first, unsigned count) {
    struct peer_info info;
    unsigned known = 0, number;
    for (uint32_t i = 0; core_peer(r->node[n].core, i, &info); i++)
        known += sscanf(info.member->name, "m%u", &number) == 1 && number >= first && number < first + count;
    return known;
}

/* Where there are more members than anybody knows, who was heard of last takes the place of another, but not of one that was met. */
static void of_too_many_the_latest_are_known(void **state) {
    (void)state;
    static struct rig r;
    all_linked(&r, 4);
    uint64_t link = 0;
    for (unsigned i = 0; i < r.links && !link; i++)
        if (r.link[i].open && (r.link[i].node[0] == 0 || r.link[i].node[1] == 0))
            link = i + 1;
    tell_of(&r, 0, link, 0, MEMBERS_MAX);
    assert_int_equal(core_peers(r.node[0].core), MEMBERS_MAX);
    tell_of(&r, 0, link, MEMBERS_MAX, 500);
    assert_int_equal(core_peers(r.node[0].core), MEMBERS_MAX);
    assert_in_range(known(&r, 0, MEMBERS_MAX, 500), 400, 500);
    for (unsigned n = 1; n < 4; n++)
        assert_int_equal(rig_member(&r, 0, n), MEMBER_ALIVE);
    rig_write(&r, 0, NULL);
    rig_wait(&r, 1000);
    for (unsigned n = 1; n < 4; n++)
        assert_int_equal(r.node[n].delivered_count, 1);
    rig_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(duplicates_prune_the_tree),
        cmocka_unit_test(what_is_stored_is_passed_on),
        cmocka_unit_test(who_is_in_doubt_says_no),
        cmocka_unit_test(who_is_gone_is_dead_for_all),
        cmocka_unit_test(a_visit_is_a_dial),
        cmocka_unit_test(who_is_asked_is_visited),
        cmocka_unit_test(of_too_many_the_latest_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
