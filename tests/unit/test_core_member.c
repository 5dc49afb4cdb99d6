/* Who is there: neighbours and silence, own health, what others say, cards, forgetting, where somebody is dialled. */
#include "proto/card.h"
#include "tests/unit/core_rig.h"

static void mesh(struct rig *r, unsigned nodes) {
    rig_init(r, nodes);
    rig_start_all(r);
    for (unsigned a = 0; a < nodes; a++)
        for (unsigned b = a + 1; b < nodes; b++)
            rig_connect(r, a, b);
    rig_wait(r, 1000);
}

static uint64_t link_of(const struct rig *r, unsigned a, unsigned b) {
    for (unsigned i = 0; i < r->links; i++)
        if (r->link[i].open &&
            ((r->link[i].node[0] == a && r->link[i].node[1] == b) || (r->link[i].node[0] == b && r->link[i].node[1] == a)))
            return i + 1;
    return 0;
}

static void cut(struct rig *r, uint64_t link) { r->link[link - 1].hold[0] = r->link[link - 1].hold[1] = true; }

/* Nobody hears it, and it hears nobody. */
static void freeze(struct rig *r, unsigned n) {
    r->node[n].frozen = true;
    for (unsigned m = 0; m < r->nodes; m++)
        if (m != n)
            cut(r, link_of(r, n, m));
}

static void idle_nodes_talk_to_their_neighbours_only(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 12);
    uint64_t before = 0, after = 0;
    for (unsigned n = 0; n < 12; n++)
        before += r.node[n].sent;
    rig_wait(&r, 100000);
    for (unsigned n = 0; n < 12; n++)
        after += r.node[n].sent;
    /* a node: two neighbours, two beats a second each, of about 30 bytes, and nine others once in 10 s */
    assert_in_range((after - before) / 12 / 100, 60, 200);
    for (unsigned n = 0; n < 12; n++)
        for (unsigned m = 0; m < 12; m++)
            assert_true(n == m || rig_in_sync(&r, n, m));
    rig_release(&r);
}

static void silence_is_noticed_by_all(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 12);
    rig_wait(&r, 7777);
    freeze(&r, 5);
    rig_wait(&r, 1000);
    for (unsigned n = 0; n < 12; n++)
        assert_true(n == 5 || rig_member(&r, n, 5) == MEMBER_ALIVE);
    rig_wait(&r, 500);
    for (unsigned n = 0; n < 12; n++)
        assert_true(n == 5 || rig_member(&r, n, 5) == MEMBER_SUSPECT);
    rig_wait(&r, 1500);
    for (unsigned n = 0; n < 12; n++) {
        assert_true(n == 5 || rig_member(&r, n, 5) == MEMBER_DEAD);
        for (unsigned m = 0; m < 12; m++)
            assert_true(n == 5 || m == 5 || m == n || rig_member(&r, n, m) == MEMBER_ALIVE);
    }
    rig_release(&r);
}

static void half_of_the_cluster_is_noticed(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 12);
    for (unsigned n = 0; n < 12; n += 2)
        freeze(&r, n);
    rig_wait(&r, 6000);
    for (unsigned n = 1; n < 12; n += 2)
        for (unsigned m = 0; m < 12; m++)
            assert_true(m == n || rig_member(&r, n, m) == (m % 2 ? MEMBER_ALIVE : MEMBER_DEAD));
    rig_release(&r);
}

static void one_broken_link_kills_nobody(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 10);
    for (unsigned n = 1; n < 10; n++) {
        unsigned m = n == 9 ? 1 : n + 1;
        cut(&r, link_of(&r, 0, n));
        for (unsigned i = 0; i < 400; i++) {
            rig_wait(&r, 50);
            assert_int_not_equal(rig_member(&r, m, n), MEMBER_SUSPECT); /* its own question is answered */
            assert_int_not_equal(rig_member(&r, 0, n), MEMBER_DEAD);    /* others have its answers */
            if (!rig_linked(&r, 0, n) && rig_member(&r, 0, n) == MEMBER_ALIVE)
                break;
        }
        assert_false(rig_linked(&r, 0, n));
        assert_int_equal(rig_member(&r, 0, n), MEMBER_ALIVE);
        rig_connect(&r, 0, n);
        rig_wait(&r, 200);
    }
    rig_release(&r);
}

static void a_batch_into_silence_asks(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 10);
    struct peer_info info;
    for (unsigned n = 1; n < 10; n++)
        cut(&r, link_of(&r, 0, n));
    rig_write(&r, 0, NULL);
    rig_wait(&r, 4000);
    for (unsigned n = 1; n < 10; n++) {
        assert_true(rig_peer(&r, 0, n, &info));
        assert_false(info.linked);
    }
    rig_release(&r);
}

static void who_slept_suspects_nobody(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 4);
    for (unsigned n = 1; n < 4; n++) { /* what they say arrives late */
        uint64_t l = link_of(&r, 0, n);
        r.link[l - 1].hold[0] = r.link[l - 1].hold[1] = true;
    }
    rig_wait(&r, 600);
    r.now += 3600000;
    rig_step(&r, 0, (struct event){.type = EVENT_TICK});
    for (unsigned n = 1; n < 4; n++) {
        assert_int_equal(rig_member(&r, 0, n), MEMBER_ALIVE);
        r.link[link_of(&r, 0, n) - 1].hold[0] = r.link[link_of(&r, 0, n) - 1].hold[1] = false;
    }
    rig_wait(&r, 3000);
    for (unsigned n = 0; n < 4; n++)
        for (unsigned m = 0; m < 4; m++)
            assert_true(n == m || (rig_linked(&r, n, m) && rig_member(&r, n, m) == MEMBER_ALIVE));
    rig_release(&r);
}

static void questions_without_end_are_bounded(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    r.node[0].config.link_queue_max = 4096;
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    cut(&r, link);
    struct buf b;
    buf_init(&b, 1 << 20);
    wire_pack_beat(&b, &(struct wire_beat){.sent = 1, .flags = WIRE_BEAT_ASK | WIRE_BEAT_WANT});
    uint64_t before = r.node[0].sent;
    for (unsigned i = 0; i < 10000; i++)
        rig_says(&r, 0, link, b.data, b.len);
    assert_true(r.node[0].sent - before < 8192);
    assert_true(rig_linked(&r, 0, 1));
    buf_release(&b);
    rig_release(&r);
}

/* ---- cards */

static size_t card(const struct rig *r, unsigned n, uint64_t incarnation, bool left, const char *address, uint8_t out[CARD_BYTES_MAX]) {
    struct card c = {.incarnation = incarnation, .issue = 1, .left = left, .name = "card", .count = 1};
    memcpy(c.key, r->node[n].config.key, sizeof c.key);
    snprintf(c.addresses[0], sizeof c.addresses[0], "%s", address);
    return card_sign(&c, r->node[n].config.cluster, r->node[n].secret, out);
}

static void says_members(struct rig *r, unsigned n, uint64_t link, const uint8_t *data, size_t len, unsigned flags) {
    struct buf b;
    buf_init(&b, 1 << 20);
    size_t at = wire_pack_members(&b, 1);
    wire_pack_member(&b, &(struct wire_member){.card = data, .card_len = len, .flags = flags});
    wire_end(&b, at);
    rig_says(r, n, link, b.data, b.len);
    buf_release(&b);
}

static void only_its_own_word_moves_a_member(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    uint8_t data[CARD_BYTES_MAX];
    struct peer_info info;
    size_t len = card(&r, 2, 5000, false, "10.9.9.9:1", data);
    says_members(&r, 0, link, data, len, WIRE_LINKED);
    assert_true(rig_peer(&r, 0, 2, &info));
    assert_string_equal(info.member->address, "10.9.9.9:1");
    assert_int_equal(info.member->state, MEMBER_ALIVE);
    len = card(&r, 2, 4999, true, "10.8.8.8:1", data); /* older */
    says_members(&r, 0, link, data, len, WIRE_LINKED);
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_ALIVE);
    assert_true(rig_linked(&r, 0, 1));
    len = card(&r, 2, 5001, true, "10.8.8.8:1", data);
    data[len - 1] ^= 1; /* somebody else's words in its name */
    says_members(&r, 0, link, data, len, WIRE_LINKED);
    assert_false(rig_linked(&r, 0, 1));
    assert_true(rig_peer(&r, 0, 2, &info));
    assert_int_not_equal(info.member->state, MEMBER_LEFT);
    assert_int_equal(info.member->incarnation, 5000);
    link = rig_connect(&r, 0, 1);
    data[len - 1] ^= 1;
    says_members(&r, 0, link, data, len, 0);
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_LEFT);
    rig_release(&r);
}

static void it_rises_above_what_is_said_of_it(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    uint8_t data[CARD_BYTES_MAX];
    struct peer_info info;
    size_t len = card(&r, 0, 9000, false, "10.0.0.1:7171", data); /* of a run before its clock was set back */
    says_members(&r, 0, link, data, len, 0);
    rig_wait(&r, 100);
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_int_equal(info.member->incarnation, 9001);
    assert_int_equal(info.member->state, MEMBER_ALIVE);
    rig_release(&r);
}

/* Each lie needs the card that answers the one before, and that is told as late as other news. */
static void lies_about_it_are_answered_together(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 4);
    rig_wait(&r, 200);
    struct peer_info info;
    assert_true(rig_peer(&r, 1, 0, &info));
    uint64_t link = link_of(&r, 0, 1), first = info.member->incarnation;
    for (unsigned i = 0; i < 50; i++) {
        uint8_t data[CARD_BYTES_MAX];
        assert_true(rig_peer(&r, 1, 0, &info));
        memcpy(data, info.member->card, info.member->card_len);
        says_members(&r, 0, link, data, info.member->card_len, WIRE_DEAD);
        rig_run(&r);
    }
    rig_wait(&r, 100);
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_int_equal(info.member->incarnation, first + 1);
    assert_int_equal(info.member->state, MEMBER_ALIVE);
    rig_release(&r);
}

static void it_is_dialled_at_each_address(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    struct card c = {.incarnation = 7, .issue = 1, .name = "x", .count = 3, .addresses = {"10.1.1.1:1", "[fd00::1]:1", "127.0.0.1:9"}};
    memcpy(c.key, r.node[2].config.key, sizeof c.key);
    uint8_t data[CARD_BYTES_MAX];
    size_t len = card_sign(&c, "default", r.node[2].secret, data);
    says_members(&r, 0, link, data, len, WIRE_LINKED);
    unsigned seen[2] = {0};
    for (int i = 0; i < 6; i++) {
        unsigned dials = r.node[0].dials;
        while (r.node[0].dials == dials && strcmp(r.node[0].last_dial_text, "10.1.1.1:1") != 0 &&
               strcmp(r.node[0].last_dial_text, "[fd00::1]:1") != 0)
            rig_wait(&r, 10);
        seen[0] += strcmp(r.node[0].last_dial_text, "10.1.1.1:1") == 0;
        seen[1] += strcmp(r.node[0].last_dial_text, "[fd00::1]:1") == 0;
        assert_string_not_equal(r.node[0].last_dial_text, "127.0.0.1:9"); /* another machine's */
        rig_step(&r, 0, (struct event){.type = EVENT_DIAL_FAILED, .dial = r.node[0].last_dial, .text = "refused"});
        dials = r.node[0].dials;
        while (r.node[0].dials == dials)
            rig_wait(&r, 10);
    }
    assert_true(seen[0] >= 2 && seen[1] >= 2);
    rig_release(&r);
}

static void announced_addresses_have_a_budget(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    r.node[0].dials = 0;
    for (unsigned i = 0; i < 300; i++) {
        uint8_t seed[32] = {1, 2, 3, (uint8_t)i, (uint8_t)(i >> 8)}, secret[NODE_SECRET_BYTES], data[CARD_BYTES_MAX];
        struct card c = {.incarnation = 7, .issue = 1, .name = "x", .count = 1, .addresses = {"10.1.1.1:1"}};
        crypto_sign_seed_keypair(c.key, secret, seed);
        size_t len = card_sign(&c, "default", secret, data);
        says_members(&r, 0, link, data, len, WIRE_LINKED);
    }
    rig_wait(&r, 200);
    assert_in_range(r.node[0].dials, 30, 80);
    rig_wait(&r, 10000);
    assert_in_range(r.node[0].dials, 100, 160);
    rig_release(&r);
}

static void a_seed_under_way_is_dialled_once(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_step(&r, 0, (struct event){.type = EVENT_SEED, .text = "10.0.0.3:7171"});
    assert_int_equal(r.node[0].dials, 1);
    uint64_t link = rig_connect(&r, 0, 1);
    uint8_t data[CARD_BYTES_MAX];
    size_t len = card(&r, 2, 5000, false, "10.0.0.3:7171", data);
    says_members(&r, 0, link, data, len, WIRE_LINKED);
    rig_wait(&r, 3000);
    assert_int_equal(r.node[0].dials, 1);
    rig_step(&r, 0, (struct event){.type = EVENT_DIAL_FAILED, .dial = r.node[0].last_dial, .text = "refused"});
    rig_wait(&r, 3000);
    assert_in_range(r.node[0].dials, 2, 20);
    rig_release(&r);
}

/* Two that a third one introduced: one dials, and the other one where that leads to nothing. */
static void one_of_two_dials(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 2);
    rig_connect(&r, 1, 2);
    rig_wait(&r, 500);
    unsigned smaller = memcmp(core_id(r.node[0].core), core_id(r.node[1].core), NODE_ID_BYTES) < 0 ? 0 : 1;
    assert_int_equal(r.node[smaller].dials, 1);
    assert_int_equal(r.node[!smaller].dials, 0);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[!smaller].dials, 1);
    rig_release(&r);
}

static void addresses_are_what_links_and_two_others_say(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 4);
    snprintf(r.node[0].config.advertise, CORE_ADDRESS_MAX, ":7171");
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    struct peer_info info;
    struct card c;
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_int_equal(card_read(&c, info.member->card, info.member->card_len), 0);
    assert_int_equal(c.count, 0); /* one alone might lie */
    rig_connect(&r, 2, 0);
    rig_wait(&r, 100);
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_int_equal(card_read(&c, info.member->card, info.member->card_len), 0);
    assert_int_equal(c.count, 1);
    assert_string_equal(c.addresses[0], "10.0.0.1:7171");
    rig_release(&r);
}

/* ---- leaving, forgetting */

static void forgetting_reaches_all_and_lasts(void **state) {
    (void)state;
    static struct rig r;
    mesh(&r, 3);
    struct origin third = rig_origin(&r, 2);
    struct member m = {.name = "n2"};
    memcpy(m.id, third.node, NODE_ID_BYTES);
    rig_close(&r, link_of(&r, 0, 2), 0, 1);
    rig_close(&r, link_of(&r, 1, 2), 0, 1);
    rig_wait(&r, 4000);
    assert_int_equal(rig_member(&r, 1, 2), MEMBER_DEAD);
    rig_step(&r, 0, (struct event){.type = EVENT_FORGET, .member = &m});
    rig_wait(&r, 100);
    assert_int_equal(core_peers(r.node[0].core), 1);
    assert_int_equal(core_peers(r.node[1].core), 1);
    r.node[0].dials = r.node[1].dials = 0;
    rig_wait(&r, 60000);
    assert_int_equal(r.node[0].dials + r.node[1].dials, 0); /* nobody waits for it */
    /* It was alive all the time, with writes of its own: it comes back, and everybody takes it in again. */
    rig_write(&r, 2, NULL);
    rig_connect(&r, 2, 1);
    rig_wait(&r, 500);
    assert_int_equal(rig_member(&r, 1, 2), MEMBER_ALIVE);
    assert_int_equal(rig_member(&r, 0, 2), MEMBER_ALIVE);
    assert_true(rig_in_sync(&r, 1, 2));
    assert_int_equal(vv_get(&r.node[1].state.have, &third), 1);
    assert_int_equal(vv_get(&r.node[0].state.have, &third), 1);
    rig_release(&r);
}

static void who_was_forgotten_or_left_stays_so_over_a_restart(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    struct member m = {.name = "n1", .address = "10.0.0.2:7171", .incarnation = 5};
    struct origin other = rig_origin(&r, 1);
    memcpy(m.id, other.node, NODE_ID_BYTES);
    memcpy(m.key, r.node[1].config.key, NODE_KEY_BYTES);
    m.card_len = (uint16_t)card(&r, 1, 5, false, "10.0.0.2:7171", m.card);
    m.state = MEMBER_FORGOTTEN;
    rig_step(&r, 0, (struct event){.type = EVENT_MEMBER, .member = &m});
    assert_int_equal(core_peers(r.node[0].core), 0);
    rig_wait(&r, 60000);
    assert_int_equal(r.node[0].dials, 0);
    rig_connect(&r, 1, 0);
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_ALIVE);
    rig_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idle_nodes_talk_to_their_neighbours_only),
        cmocka_unit_test(silence_is_noticed_by_all),
        cmocka_unit_test(half_of_the_cluster_is_noticed),
        cmocka_unit_test(one_broken_link_kills_nobody),
        cmocka_unit_test(a_batch_into_silence_asks),
        cmocka_unit_test(who_slept_suspects_nobody),
        cmocka_unit_test(questions_without_end_are_bounded),
        cmocka_unit_test(only_its_own_word_moves_a_member),
        cmocka_unit_test(it_rises_above_what_is_said_of_it),
        cmocka_unit_test(lies_about_it_are_answered_together),
        cmocka_unit_test(it_is_dialled_at_each_address),
        cmocka_unit_test(announced_addresses_have_a_budget),
        cmocka_unit_test(a_seed_under_way_is_dialled_once),
        cmocka_unit_test(one_of_two_dials),
        cmocka_unit_test(addresses_are_what_links_and_two_others_say),
        cmocka_unit_test(forgetting_reaches_all_and_lasts),
        cmocka_unit_test(who_was_forgotten_or_left_stays_so_over_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
