/* Versions of a path: bytes from anywhere, who knew whom, and which of two stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "node/files/version.h"
#include "proto/err.h"

static uint64_t state_of_random = 1;

static uint32_t next_random(void) {
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_of_random >> 33);
}

static void node(uint8_t id[NODE_ID_BYTES], unsigned n) {
    memset(id, 0, NODE_ID_BYTES);
    id[0] = (uint8_t)n;
    id[1] = (uint8_t)(n >> 8);
}

/* A version by server n, made knowing `after` (NULL: nothing). */
static struct version made(unsigned n, const struct version *after, uint64_t ms) {
    struct version v = {.kind = VERSION_FILE, .size = ms, .hash = {(uint8_t)n, (uint8_t)ms}};
    uint8_t id[NODE_ID_BYTES];
    node(id, n);
    if (after != NULL)
        version_knows(&v, after);
    version_sign(&v, id, "pit", ms);
    return v;
}

static void bytes_there_and_back(void **state) {
    uint8_t bytes[VERSION_BYTES_MAX];
    struct version back, v = made(1, NULL, 1000);
    (void)state;
    for (unsigned n = 2; n < 20; n++)
        v = made(n, &v, 1000 + n);
    v.mtime_ns = -5;
    size_t len = version_write(&v, bytes);
    assert_int_equal(version_read(&back, bytes, len), 0);
    assert_true(version_equal(&v, &back));
    assert_int_equal(back.seen_count, 19);
    assert_int_equal(back.mtime_ns, -5);
    assert_string_equal(back.name, "pit");
    struct version link = {.kind = VERSION_LINK, .target = "../there"};
    len = version_write(&link, bytes);
    assert_int_equal(version_read(&back, bytes, len), 0);
    assert_string_equal(back.target, "../there");
    for (size_t cut = 0; cut < len - strlen("../there") + 1; cut++)
        assert_int_not_equal(version_read(&back, bytes, cut), 0);
    bytes[0] = 9;
    assert_int_equal(version_read(&back, bytes, len), ERR_FORMAT);
}

/* Whatever comes is refused, or is a version that can be written again. */
static void any_bytes(void **state) {
    uint8_t bytes[VERSION_BYTES_MAX + 8], again[VERSION_BYTES_MAX];
    struct version v, link = {.kind = VERSION_LINK, .target = "a", .name = "x/y"};
    (void)state;
    for (int i = 0; i < 200000; i++) {
        size_t len = version_write(&link, bytes);
        for (int k = 0; k < 4; k++)
            bytes[next_random() % len] = (uint8_t)next_random();
        len = next_random() % 8 == 0 ? next_random() % (len + 1) : len;
        if (version_read(&v, bytes, len) != 0)
            continue;
        assert_null(strchr(v.name, '/'));
        assert_true(version_write(&v, again) <= sizeof(again));
        struct version twice;
        assert_int_equal(version_read(&twice, again, version_write(&v, again)), 0);
    }
}

static void who_knew_whom(void **state) {
    struct version a = made(1, NULL, 100), b = made(2, &a, 50), c = made(3, &a, 300), d = made(1, &b, 60), e = made(1, &b, 60);
    (void)state;
    assert_true(version_descends(&a, &a));
    assert_true(version_descends(&b, &a) && !version_descends(&a, &b));
    assert_true(!version_descends(&c, &b) && !version_descends(&b, &c));
    assert_true(version_descends(&d, &a) && version_descends(&d, &b) && !version_descends(&b, &d)); /* though its clock had gone back */
    assert_int_equal(e.seen[0].count, 101);
    version_knows(&c, &d);
    assert_true(version_descends(&c, &d));
}

static void many_servers(void **state) {
    struct version v = made(0, NULL, 1);
    (void)state;
    for (unsigned n = 1; n < 200; n++) {
        struct version before = v;
        v = made(n, &v, n + 1);
        assert_true(v.seen_count <= VERSION_SEEN_MAX);
        assert_true(version_descends(&v, &before));
        assert_false(version_descends(&before, &v));
    }
    struct version behind = made(250, &v, 1); /* by its clock all of them wrote later; it knows its own version nevertheless */
    assert_true(version_descends(&behind, &behind) && version_descends(&behind, &v) && !version_descends(&v, &behind));
}

static void who_stays(void **state) {
    struct version early = made(1, NULL, 100), late = made(2, NULL, 200), gone = made(3, NULL, 300);
    (void)state;
    gone.kind = VERSION_GONE;
    assert_true(version_prevails(&late, &early));
    assert_false(version_prevails(&gone, &early)); /* an edit lives on beside a deletion */
    assert_true(version_prevails(&early, &gone));
    late.rank = RANK_BEFORE_JOINING; /* a default of who joins, though later */
    assert_false(version_prevails(&late, &early));
    early.rank = RANK_FIRST;
    assert_false(version_prevails(&late, &early));
    late.rank = RANK_FIRST; /* among first ones the first */
    assert_false(version_prevails(&late, &early));
    assert_true(version_prevails(&early, &late));
    late.rank = RANK_MEANT; /* meant, and later than a first one, which is therefore not the one that stays */
    assert_true(version_prevails(&late, &early));
    assert_false(version_prevails(&early, &late));
    late.rank = RANK_FIRST;
    early.rank = RANK_BEFORE_JOINING;
    assert_false(version_prevails(&early, &late));
    assert_true(version_prevails(&late, &early));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_there_and_back), cmocka_unit_test(any_bytes), cmocka_unit_test(who_knew_whom),
        cmocka_unit_test(many_servers),         cmocka_unit_test(who_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
