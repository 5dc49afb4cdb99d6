/* Links and members: HELLO, refusals, duplicates, beats, silence, leaving, and what strangers send. */
#include "tests/unit/core_rig.h"

static void hello_makes_members(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    assert_int_equal(core_peers(r.node[0].core), 0);
    rig_connect(&r, 0, 1);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_ALIVE);
    assert_int_equal(rig_member(&r, 1, 0), MEMBER_ALIVE);
    struct peer_info info;
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_string_equal(info.member->name, "n0");
    assert_string_equal(info.member->address, "10.0.0.1:7171"); /* what it advertised, not where the link came from */
    rig_release(&r);
}

static void advertise_without_host_takes_the_links(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    snprintf(r.node[0].config.advertise, CORE_ADDRESS_MAX, ":9000");
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    struct peer_info info;
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_string_equal(info.member->address, "10.0.0.1:9000");
    rig_release(&r);
}

static void other_cluster_is_refused_on_both_sides(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    snprintf(r.node[1].config.cluster, CORE_NAME_MAX, "other");
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    assert_string_equal(r.node[0].last_log, "peer 10.0.0.2:7171 belongs to cluster \"other\", this node to \"default\": start "
                                            "one of them with --cluster of the other");
    assert_string_equal(r.node[1].last_log, "peer 10.0.0.1:40000 belongs to cluster \"default\", this node to \"other\": start "
                                            "one of them with --cluster of the other");
    assert_int_equal(core_peers(r.node[0].core), 0);
    rig_release(&r);
}

/* A HELLO as another version of the protocol may send it. */
static void other_protocol_is_refused(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 1);
    rig_start_all(&r);
    uint64_t link = rig_stranger(&r, 0);
    struct buf b;
    buf_init(&b, 1000);
    buf_append(&b, "\0\0\0\0", 4);
    buf_pack_array(&b, 4);
    buf_pack_u64(&b, WIRE_HELLO);
    buf_pack_cstr(&b, "starling");
    buf_pack_u64(&b, 7);
    buf_pack_cstr(&b, "something new");
    wire_end(&b, 0);
    rig_says(&r, 0, link, b.data, b.len);
    assert_string_equal(r.node[0].last_log,
                        "peer 192.168.1.9:5555 speaks protocol 7, this node 1: run the same version of starlingd on both");
    assert_int_equal(r.node[0].closes, 1);
    buf_release(&b);
    rig_release(&r);
}

static void garbage_is_named(void **state) {
    (void)state;
    static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    static const char zeros[] = "\0\0\0\5\xff\xff\xff\xff\xff";
    static const char early_beat[] = "\0\0\0\7\x96\4\0\0\0\0\0";
    static struct rig r;
    rig_init(&r, 1);
    rig_start_all(&r);
    uint64_t link = rig_stranger(&r, 0);
    rig_says(&r, 0, link, http, sizeof http - 1);
    assert_string_equal(r.node[0].last_log,
                        "192.168.1.9:5555 is not a Starling peer: it began with \"GET / HTTP/1.1??\", not with a HELLO");
    assert_int_equal(r.node[0].closes, 1);
    rig_says(&r, 0, link, http, sizeof http - 1); /* what comes later is ignored */
    link = rig_stranger(&r, 0);
    rig_says(&r, 0, link, zeros, sizeof zeros - 1);
    link = rig_stranger(&r, 0);
    for (size_t i = 0; i < sizeof early_beat - 1; i++)
        rig_says(&r, 0, link, early_beat + i, 1);
    assert_int_equal(r.node[0].closes, 3);
    rig_step(&r, 0, (struct event){.type = EVENT_LINK_CLOSED, .link = link, .text = "x"});
    rig_release(&r);
}

static void silent_stranger_is_closed_after_5_s(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 1);
    rig_start_all(&r);
    rig_stranger(&r, 0);
    rig_wait(&r, 4990);
    assert_int_equal(r.node[0].closes, 0);
    rig_wait(&r, 20);
    assert_int_equal(r.node[0].closes, 1);
    rig_release(&r);
}

static void malformed_frame_closes_unknown_type_does_not(void **state) {
    (void)state;
    static const uint8_t unknown[] = {0, 0, 0, 3, 0x92, 0x64, 0xc0}, bad[] = {0, 0, 0, 2, 0x91, WIRE_BEAT};
    static const uint8_t huge[] = {0, 0x10, 0, 1};
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    rig_says(&r, 0, link, unknown, sizeof unknown);
    assert_true(rig_linked(&r, 0, 1));
    rig_says(&r, 0, link, bad, sizeof bad);
    assert_false(rig_linked(&r, 0, 1));
    assert_non_null(strstr(r.node[0].last_log, "\"n1\" (10.0.0.2:7171) sent a frame that cannot be read"));
    rig_run(&r);
    link = rig_connect(&r, 0, 1);
    assert_true(rig_linked(&r, 0, 1));
    rig_says(&r, 0, link, huge, sizeof huge);
    assert_false(rig_linked(&r, 0, 1));
    rig_release(&r);
}

static void link_to_itself_is_closed_and_not_dialled_again(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 1);
    rig_start_all(&r);
    rig_step(&r, 0, (struct event){.type = EVENT_SEED, .text = "10.0.0.1:7171"});
    assert_int_equal(r.node[0].dials, 1);
    struct event open = {.type = EVENT_LINK_OPEN,
                         .now_ms = r.now,
                         .link = 21,
                         .dial = r.node[0].last_dial,
                         .address = "10.0.0.1:7171",
                         .key = r.node[0].config.key};
    core_step(r.node[0].core, &open);
    struct effect fx;
    uint8_t hello[2000];
    size_t len = 0;
    while (core_poll(r.node[0].core, &fx))
        if (fx.type == EFFECT_SEND) {
            memcpy(hello, fx.head, fx.len);
            len = fx.len;
        }
    assert_true(len > 0);
    rig_says(&r, 0, 21, hello, len);
    assert_int_equal(r.node[0].closes, 1);
    assert_int_equal(core_peers(r.node[0].core), 0);
    rig_step(&r, 0, (struct event){.type = EVENT_LINK_CLOSED, .link = 21, .text = "closed"});
    rig_wait(&r, 60000);
    assert_int_equal(r.node[0].dials, 1);
    rig_release(&r);
}

static void copied_identity_is_refused(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    memcpy(r.node[1].config.key, r.node[0].config.key, NODE_KEY_BYTES);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    assert_non_null(strstr(r.node[0].last_log, "has the identity of this node (a copied state folder?)"));
    assert_non_null(strstr(r.node[1].last_log, "has the identity of this node"));
    assert_non_null(strstr(core_twin(r.node[0].core), "another node \"n1\" at 10.0.0.2:7171 has the identity of this node"));
    rig_release(&r);
}

static void blocked_is_refused_and_not_dialled(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    struct origin other = rig_origin(&r, 1);
    rig_step(&r, 0, (struct event){.type = EVENT_BLOCK, .peer = other.node});
    rig_run(&r);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_BLOCKED);
    assert_false(rig_linked(&r, 0, 1) || rig_linked(&r, 1, 0));
    assert_non_null(strstr(r.node[0].logs, "peer \"n1\" is blocked on \"n0\": starling peers unblock there lets it in again"));
    assert_non_null(strstr(r.node[1].logs, "refused this node: peer \"n1\" is blocked on \"n0\""));
    unsigned dials = r.node[0].dials;
    rig_wait(&r, 60000);
    assert_int_equal(r.node[0].dials, dials);
    rig_connect(&r, 1, 0); /* it tries, and hears that before a HELLO */
    assert_false(rig_linked(&r, 0, 1) || rig_linked(&r, 1, 0));
    rig_step(&r, 0, (struct event){.type = EVENT_UNBLOCK, .peer = other.node});
    assert_int_equal(r.node[0].dials, dials + 1);
    rig_connect(&r, 1, 0);
    assert_true(rig_linked(&r, 0, 1) && rig_linked(&r, 1, 0));
    rig_release(&r);
}

static unsigned open_links(const struct rig *r, uint64_t *last) {
    unsigned n = 0;
    for (unsigned i = 0; i < r->links; i++)
        if (r->link[i].open) {
            n++;
            *last = i + 1;
        }
    return n;
}

static void of_two_links_the_smaller_ids_stays(void **state) {
    (void)state;
    for (int order = 0; order < 2; order++) {
        static struct rig r;
        rig_init(&r, 2);
        rig_start_all(&r);
        struct origin a = rig_origin(&r, 0), b = rig_origin(&r, 1);
        unsigned small = origin_cmp(&a, &b) < 0 ? 0 : 1;
        uint64_t kept, left = 0;
        if (order == 0) {
            kept = rig_link(&r, small, !small, 0);
            rig_link(&r, !small, small, 0);
        } else {
            rig_link(&r, !small, small, 0);
            kept = rig_link(&r, small, !small, 0);
        }
        rig_run(&r);
        assert_int_equal(open_links(&r, &left), 1);
        assert_int_equal(left, kept);
        assert_true(rig_linked(&r, 0, 1) && rig_linked(&r, 1, 0));
        rig_write(&r, 0, NULL);
        rig_run(&r);
        assert_int_equal(r.node[1].delivered_count, 1);
        rig_release(&r);
    }
}

static void beats_are_small_and_silence_is_noticed(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    rig_wait(&r, 1000);
    uint64_t before = r.node[0].sent;
    rig_wait(&r, 10000);
    assert_in_range(r.node[0].sent - before, 20 * 20, 21 * 60);
    struct peer_info info;
    assert_true(rig_peer(&r, 0, 1, &info));
    assert_true(info.in_sync);
    r.link[link - 1].hold[0] = r.link[link - 1].hold[1] = true;
    rig_wait(&r, 2100);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_SUSPECT);
    assert_false(rig_in_sync(&r, 0, 1)); /* no beat for more than three of them */
    rig_wait(&r, 1500);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_DEAD);
    assert_false(rig_linked(&r, 0, 1));
    rig_release(&r);
}

static void lost_link_is_suspect_and_redialled_at_once(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    rig_wait(&r, 2000);
    unsigned before = r.node[0].dials;
    rig_close(&r, link, 0, 1);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_SUSPECT);
    assert_int_equal(r.node[0].dials, before + 1);
    assert_string_equal(r.node[0].last_dial_text, "10.0.0.2:7171");
    rig_step(&r, 0, (struct event){.type = EVENT_DIAL_FAILED, .dial = r.node[0].last_dial, .text = "refused"});
    rig_wait(&r, 250);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_DEAD);
    assert_int_equal(r.node[0].dials, before + 2); /* and it goes on trying */
    rig_release(&r);
}

static void backoff_doubles_to_15_s(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 1);
    rig_start_all(&r);
    rig_step(&r, 0, (struct event){.type = EVENT_SEED, .text = "seed.example.org"});
    uint64_t last = r.now, gap = 0;
    for (int i = 0; i < 12; i++) {
        unsigned dials = r.node[0].dials;
        rig_step(&r, 0, (struct event){.type = EVENT_DIAL_FAILED, .dial = r.node[0].last_dial, .text = "no such host"});
        while (r.node[0].dials == dials)
            rig_wait(&r, 1);
        gap = r.now - last;
        last = r.now;
        assert_in_range(gap, 100, 18751);
    }
    assert_in_range(gap, 11249, 18751);
    assert_string_equal(r.node[0].last_dial_text, "seed.example.org");
    rig_release(&r);
}

static void stopping_is_told(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_step(&r, 1, (struct event){.type = EVENT_STOP});
    rig_run(&r);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_DEAD);
    uint64_t left;
    assert_int_equal(open_links(&r, &left), 0);
    unsigned dials = r.node[1].dials;
    rig_wait(&r, 5000);
    assert_int_equal(r.node[1].dials, dials);
    assert_true(r.node[0].dials > 0); /* it may come back */
    rig_release(&r);
}

static void leaving_lasts_until_a_higher_incarnation(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_connect(&r, 1, 2);
    rig_wait(&r, 100);
    assert_int_equal(core_peers(r.node[0].core), 2);      /* learned of the third from the second */
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_ALIVE); /* which vouches for it */
    rig_step(&r, 2, (struct event){.type = EVENT_LEAVE});
    rig_run(&r);
    rig_wait(&r, 100);
    assert_int_equal(rig_member(&r, 1, 2), MEMBER_LEFT);
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_LEFT);
    r.node[1].dials = 0;
    rig_wait(&r, 30000);
    assert_int_equal(rig_member(&r, 1, 2), MEMBER_LEFT);
    core_free(r.node[2].core);
    r.node[2].config.incarnation++;
    rig_start(&r, 2);
    rig_connect(&r, 2, 1);
    rig_wait(&r, 100);
    assert_int_equal(rig_member(&r, 1, 2), MEMBER_ALIVE);
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_ALIVE);
    rig_release(&r);
}

static void forgotten_members_stay_forgotten(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_connect(&r, 1, 2);
    rig_wait(&r, 100);
    rig_close(&r, 2, 0, 1);
    core_free(r.node[2].core);
    r.node[2].core = NULL;
    r.nodes = 2;
    struct origin third = rig_origin(&r, 2);
    struct member m = {.name = "n2"};
    memcpy(m.id, third.node, NODE_ID_BYTES);
    rig_step(&r, 0, (struct event){.type = EVENT_FORGET, .member = &m});
    assert_int_equal(core_peers(r.node[0].core), 1);
    rig_wait(&r, 5000);
    assert_int_equal(core_peers(r.node[0].core), 1);
    assert_int_equal(core_peers(r.node[1].core), 1);
    r.nodes = 3;
    rig_release(&r);
}

static void remembered_members_are_dead_and_dialled(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    struct origin other = rig_origin(&r, 1);
    struct member m = {.name = "n1", .address = "10.0.0.2:7171", .incarnation = 5};
    memcpy(m.id, other.node, NODE_ID_BYTES);
    memcpy(m.key, r.node[1].config.key, NODE_KEY_BYTES);
    rig_step(&r, 0, (struct event){.type = EVENT_MEMBER, .member = &m});
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_DEAD);
    assert_int_equal(r.node[0].dials, 1);
    rig_link(&r, 0, 1, r.node[0].last_dial);
    rig_run(&r);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_ALIVE);
    rig_release(&r);
}

static void requests_are_answered_or_given_up(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    struct origin other = rig_origin(&r, 1);
    struct event ask = {.type = EVENT_REQUEST, .peer = other.node, .request = 77, .data = (const uint8_t *)"how", .len = 3};
    rig_step(&r, 0, ask);
    assert_true(r.node[0].replies == 1 && r.node[0].reply_null); /* not linked */
    uint64_t link = rig_connect(&r, 0, 1);
    rig_step(&r, 0, ask);
    rig_run(&r);
    assert_int_equal(r.node[1].requests, 1);
    rig_step(&r, 1,
             (struct event){.type = EVENT_REPLY,
                            .link = r.node[1].last_request_link,
                            .request = r.node[1].last_request,
                            .data = (const uint8_t *)"well",
                            .len = 4});
    rig_run(&r);
    assert_string_equal(r.node[0].reply, "well");
    rig_step(&r, 0, ask);
    rig_run(&r);
    rig_wait(&r, 29000);
    assert_int_equal(r.node[0].replies, 2);
    rig_wait(&r, 1100);
    assert_true(r.node[0].replies == 3 && r.node[0].reply_null);
    rig_step(&r, 0, ask);
    rig_close(&r, link, 0, 1);
    assert_int_equal(r.node[0].replies, 4);
    rig_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_makes_members),
        cmocka_unit_test(advertise_without_host_takes_the_links),
        cmocka_unit_test(other_cluster_is_refused_on_both_sides),
        cmocka_unit_test(other_protocol_is_refused),
        cmocka_unit_test(garbage_is_named),
        cmocka_unit_test(silent_stranger_is_closed_after_5_s),
        cmocka_unit_test(malformed_frame_closes_unknown_type_does_not),
        cmocka_unit_test(link_to_itself_is_closed_and_not_dialled_again),
        cmocka_unit_test(copied_identity_is_refused),
        cmocka_unit_test(blocked_is_refused_and_not_dialled),
        cmocka_unit_test(of_two_links_the_smaller_ids_stays),
        cmocka_unit_test(beats_are_small_and_silence_is_noticed),
        cmocka_unit_test(lost_link_is_suspect_and_redialled_at_once),
        cmocka_unit_test(backoff_doubles_to_15_s),
        cmocka_unit_test(stopping_is_told),
        cmocka_unit_test(leaving_lasts_until_a_higher_incarnation),
        cmocka_unit_test(forgotten_members_stay_forgotten),
        cmocka_unit_test(remembered_members_are_dead_and_dialled),
        cmocka_unit_test(requests_are_answered_or_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
