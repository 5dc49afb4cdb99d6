/* Whose clock is right: what is withheld until a server knows, whose time it takes, and what comes from the future. */
#include "proto/hlc.h"
#include "tests/unit/core_rig.h"

#define HOUR_MS 3600000

static void start(struct rig *r, unsigned nodes, int64_t off_ms) {
    rig_init(r, nodes);
    for (unsigned n = 0; n < nodes; n++)
        r->node[n].config.clocks = true;
    r->node[nodes - 1].wall_ms = off_ms;
    rig_start_all(r);
}

static uint64_t has(const struct rig *r, unsigned n, unsigned of) {
    struct origin o = rig_origin(r, of);
    return vv_get(&r->node[n].state.have, &o);
}

static void nothing_leaves_before_it_is_met(void **state) {
    (void)state;
    static struct rig r;
    start(&r, 3, HOUR_MS);
    r.node[2].slow_meet = true;
    rig_connect(&r, 0, 1);
    rig_write(&r, 2, NULL);
    rig_write(&r, 2, NULL);
    assert_int_equal(r.node[2].alone_from, 1);
    rig_connect(&r, 2, 0);
    rig_connect(&r, 2, 1);
    rig_wait(&r, 2000);
    assert_int_equal(r.node[2].meets, 1);
    assert_int_equal(r.node[2].offset_ms, -HOUR_MS);
    assert_int_equal(r.node[2].batch_sends, 0);
    assert_int_equal(has(&r, 0, 2), 0);
    rig_step(&r, 2, (struct event){.type = EVENT_MET, .db = RIG_DB, .request = r.node[2].meeting});
    rig_wait(&r, 4000); /* of two reads in one step the rig answers one */
    assert_int_equal(has(&r, 0, 2), 2);
    assert_int_equal(has(&r, 1, 2), 2);
    rig_write(&r, 2, NULL);
    rig_wait(&r, 50);
    assert_int_equal(has(&r, 1, 2), 3);
    assert_true(rig_in_sync(&r, 2, 0) && rig_in_sync(&r, 0, 2));
    rig_close(&r, 2, 0, 1);
    rig_close(&r, 3, 0, 1);
    assert_int_equal(r.node[2].alone_from, 4);
    rig_release(&r);
}

static void who_takes_whose_time(void **state) {
    (void)state;
    static struct rig r;
    static const struct {
        int64_t off;
        int64_t first, second;
    } CASES[] = {
        {4000, 0, 0},                                         /* no matter */
        {HOUR_MS, 0, -HOUR_MS},                               /* who is ahead */
        {-HOUR_MS, -HOUR_MS, 0},                              /* the same */
        {-INT64_C(1700000000000), 0, INT64_C(1700000000000)}, /* was never set */
    };
    for (unsigned i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        start(&r, 2, CASES[i].off);
        rig_connect(&r, 0, 1);
        rig_wait(&r, 50);
        assert_int_equal(r.node[0].offset_ms, CASES[i].first);
        assert_int_equal(r.node[1].offset_ms, CASES[i].second);
        rig_release(&r);
    }
    start(&r, 3, -HOUR_MS); /* who is behind, and new: the others have company */
    rig_connect(&r, 0, 1);
    rig_connect(&r, 2, 1);
    rig_connect(&r, 2, 0);
    rig_wait(&r, 50);
    assert_int_equal(r.node[0].offset_ms, 0);
    assert_int_equal(r.node[2].offset_ms, HOUR_MS);
    rig_release(&r);
}

static void a_clock_that_is_set_is_measured_again(void **state) {
    (void)state;
    static struct rig r;
    start(&r, 3, 0);
    rig_connect(&r, 0, 1);
    rig_connect(&r, 2, 0);
    rig_write(&r, 2, NULL);
    rig_wait(&r, 2000);
    r.node[2].wall_ms = HOUR_MS;
    struct bytes *b = rig_batch(&r, 2, NULL, 20); /* made since */
    rig_step(&r, 2, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = b});
    rig_state(&r, 2, EVENT_STORED);
    rig_run(&r);
    assert_false(rig_linked(&r, 0, 2));
    assert_int_equal(has(&r, 0, 2), 1);
    assert_int_equal(r.node[2].alone_from, 2);
    for (unsigned n = 0; n < 3; n++) /* nothing else moved */
        assert_true(core_deadline(r.node[n].core) < r.now + 60000);
    rig_connect(&r, 2, 0);
    rig_wait(&r, 100);
    assert_int_equal(r.node[2].offset_ms, -HOUR_MS);
    assert_int_equal(has(&r, 0, 2), 2);
    rig_release(&r);
}

/* Of a clock that is known to be off the cluster's time does not follow when it is set, right or wrong. */
static void a_clock_that_is_off_is_set(void **state) {
    (void)state;
    static struct rig r;
    start(&r, 2, HOUR_MS);
    rig_connect(&r, 1, 0);
    rig_wait(&r, 2000);
    assert_int_equal(r.node[1].offset_ms, -HOUR_MS);
    static const int64_t set_ms[] = {-HOUR_MS, 3 * HOUR_MS, 0};
    for (unsigned i = 0; i < 3; i++) {
        r.node[1].wall_ms = set_ms[i];
        rig_wait(&r, 1000);
        rig_connect(&r, 1, 0);
        rig_wait(&r, 2000);
        assert_int_equal(r.node[1].offset_ms, -set_ms[i]);
        assert_int_equal(r.node[0].offset_ms, 0);
    }
    rig_release(&r);
}

static void the_future_is_refused_from_its_author_only(void **state) {
    (void)state;
    static struct rig r;
    start(&r, 3, 0);
    rig_connect(&r, 0, 1);
    uint64_t link = rig_connect(&r, 2, 0);
    r.node[2].stamp = hlc_of_ms(1700000000000u + r.now + HOUR_MS);
    rig_write(&r, 2, NULL);
    rig_run(&r);
    assert_int_equal(has(&r, 0, 2), 0);
    assert_false(rig_linked(&r, 0, 2));
    assert_non_null(strstr(r.node[0].logs, "s in the future, and was not stamped anew: set its clock"));
    assert_non_null(strstr(r.node[2].logs, "refused this node"));
    (void)link;
    r.node[1].config.clocks = true;
    r.node[1].state.clock = r.node[2].stamp; /* it has accepted such stamps before */
    rig_state(&r, 1, EVENT_STORED);
    rig_connect(&r, 2, 1);
    rig_wait(&r, 500);
    assert_int_equal(has(&r, 1, 2), 1);
    assert_int_equal(has(&r, 0, 2), 1); /* what one accepted all accept */
    rig_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_leaves_before_it_is_met),
        cmocka_unit_test(who_takes_whose_time),
        cmocka_unit_test(a_clock_that_is_set_is_measured_again),
        cmocka_unit_test(a_clock_that_is_off_is_set),
        cmocka_unit_test(the_future_is_refused_from_its_author_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
