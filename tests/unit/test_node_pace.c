/* Drains follow commits at once, unless these never stop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node/pace.h"

static void test_some_at_once(void **state) {
    struct pace p = {0};
    int64_t now = 1000000000;
    (void)state;
    for (int i = 0; i < PACE_AT_ONCE; i++) {
        assert_int_equal(pace_wait_us(&p, now), 0);
        pace_drain(&p, now);
    }
    assert_int_equal(pace_wait_us(&p, now), PACE_EVERY_US);
    assert_int_equal(pace_wait_us(&p, now + 1000), PACE_EVERY_US - 1000);
    now += PACE_EVERY_US;
    assert_int_equal(pace_wait_us(&p, now), 0);
    pace_drain(&p, now);
    assert_int_equal(pace_wait_us(&p, now), PACE_EVERY_US);
}

static void test_a_steady_stream_is_not_held_up(void **state) {
    struct pace p = {0};
    int64_t now = 1000000000;
    (void)state;
    for (int i = 0; i < 10000; i++, now += PACE_EVERY_US) {
        assert_int_equal(pace_wait_us(&p, now), 0);
        pace_drain(&p, now);
    }
}

static void test_one_without_an_end_is_paced(void **state) {
    struct pace p = {0};
    int64_t now = 1000000000, end = now + 1000000;
    int drains = 0;
    (void)state;
    for (; now < end; now += 50) { /* a commit every 50 us */
        int64_t us = pace_wait_us(&p, now);
        assert_in_range(us, 0, PACE_EVERY_US);
        now += drains % 7 ? us : us / 2; /* now and then a job wakes it before its time */
        pace_drain(&p, now);
        drains++;
    }
    assert_in_range(drains, 400, 480);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_some_at_once),
        cmocka_unit_test(test_a_steady_stream_is_not_held_up),
        cmocka_unit_test(test_one_without_an_end_is_paced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
