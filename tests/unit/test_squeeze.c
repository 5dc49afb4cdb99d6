/* Pieces of a stream, compressed together: the same bytes come out, in whatever pieces, and no record expands beyond its bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "proto/err.h"
#include "proto/squeeze.h"

static uint8_t record[SQUEEZE_RECORD_MAX], room[SQUEEZE_PLAIN_MAX];

static size_t row(uint8_t *out, unsigned n) {
    return (size_t)snprintf((char *)out, 300,
                            "team %u; scout number %u of the event 2026casj; match %u; score %u; {\"auto\": %u, \"climb\": true}",
                            n * 7919 % 9000, n % 6, n, n * 31 % 200, n % 13);
}

static void send(struct squeeze *from, struct squeeze *to, const uint8_t *bytes, size_t len, enum squeeze_kind kind) {
    const uint8_t *plain;
    size_t got, n = squeeze_pack(from, bytes, len, record);
    assert_true(n <= sizeof record);
    assert_int_equal(record[0], kind);
    assert_int_equal(squeeze_unpack(to, record, n, room, &plain, &got), 0);
    assert_int_equal(got, len);
    assert_memory_equal(plain, bytes, len);
}

/* One that has said as much as makes a stream worth it. */
static struct squeeze talkative(void) { return (struct squeeze){.spared = SQUEEZE_AFTER}; }

static void test_who_says_little_makes_no_stream(void **state) {
    struct squeeze a = {0}, b = {0};
    uint8_t bytes[300];
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        size_t said = 0;
        for (unsigned i = 0; said < SQUEEZE_AFTER; i++) {
            size_t len = row(bytes, i);
            send(&a, &b, bytes, len, SQUEEZE_PLAIN);
            send(&a, &b, bytes, SQUEEZE_MIN - 1, SQUEEZE_PLAIN); /* these do not count */
            said += len;
        }
        assert_null(a.pack);
        send(&a, &b, bytes, row(bytes, 1), SQUEEZE_FIRST);
        assert_true(squeeze_rest(&a));
    }
    squeeze_release(&a);
    squeeze_release(&b);
}

static void test_rows_come_out_as_they_went_in(void **state) {
    struct squeeze a = talkative(), b = {0};
    uint8_t bytes[300];
    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        size_t len = row(bytes, i);
        send(&a, &b, bytes, len, i ? SQUEEZE_NEXT : SQUEEZE_FIRST);
        if (i == 1999)
            assert_true(squeeze_pack(&a, bytes, len, record) < len / 2);
        if (i % 3 == 0)
            send(&a, &b, bytes, SQUEEZE_MIN - 1, SQUEEZE_PLAIN);
    }
    squeeze_release(&a);
    squeeze_release(&b);
}

static void test_any_length_and_content(void **state) {
    struct squeeze a = talkative(), b = {0};
    static uint8_t bytes[SQUEEZE_PLAIN_MAX];
    uint64_t random = 1;
    (void)state;
    for (unsigned i = 0; i < 400; i++) {
        size_t len = i < 4 ? SQUEEZE_PLAIN_MAX - i : SQUEEZE_MIN + random % (SQUEEZE_PLAIN_MAX - SQUEEZE_MIN);
        for (size_t k = 0; k < len; k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            bytes[k] = i % 3 ? (uint8_t)(random >> 56) : (uint8_t)i; /* noise, and what expands a thousandfold */
        }
        random >>= 3;
        send(&a, &b, bytes, len, i ? SQUEEZE_NEXT : SQUEEZE_FIRST);
    }
    squeeze_release(&a);
    squeeze_release(&b);
}

static void test_it_rests_and_begins_again(void **state) {
    struct squeeze a = talkative(), b = {0};
    static const uint8_t over = SQUEEZE_OVER;
    uint8_t bytes[300];
    const uint8_t *plain;
    size_t got, len = row(bytes, 1);
    (void)state;
    assert_false(squeeze_rest(&a));
    for (unsigned i = 0; i < 3; i++) {
        a.spared = SQUEEZE_AFTER;
        send(&a, &b, bytes, len, SQUEEZE_FIRST);
        send(&a, &b, bytes, len, SQUEEZE_NEXT);
        assert_true(squeeze_rest(&a));
        assert_null(a.pack);
        if (i == 1)
            continue; /* a FIRST alone begins anew, too */
        assert_int_equal(squeeze_unpack(&b, &over, 1, room, &plain, &got), 0);
        assert_int_equal(got, 0);
        assert_null(b.unpack);
    }
    squeeze_release(&a);
    squeeze_release(&b);
}

static int unpack(struct squeeze *s, size_t len) {
    const uint8_t *plain;
    size_t got;
    return squeeze_unpack(s, record, len, room, &plain, &got);
}

/* The stream `len` bytes of zeros long, as one flush. */
static size_t bomb(size_t len, int window, ZSTD_EndDirective end) {
    static uint8_t zeros[1 << 20];
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window);
    ZSTD_inBuffer from = {.src = zeros, .size = len};
    ZSTD_outBuffer to = {.dst = record + 1, .size = sizeof record - 1};
    assert_int_equal(ZSTD_compressStream2(c, &to, &from, end), 0);
    ZSTD_freeCCtx(c);
    record[0] = SQUEEZE_FIRST;
    return to.pos + 1;
}

static void test_what_no_sender_sends(void **state) {
    struct squeeze a = talkative(), b = {0};
    uint8_t bytes[300];
    (void)state;
    assert_int_equal(unpack(&b, 0), ERR_MALFORMED);
    record[0] = SQUEEZE_NEXT; /* of no stream */
    assert_int_equal(unpack(&b, 1), ERR_MALFORMED);
    record[0] = SQUEEZE_OVER + 1;
    assert_int_equal(unpack(&b, 1), ERR_MALFORMED);
    record[0] = SQUEEZE_OVER;
    assert_int_equal(unpack(&b, 2), ERR_MALFORMED);

    assert_int_equal(unpack(&b, bomb(SQUEEZE_PLAIN_MAX, 14, ZSTD_e_flush)), 0);
    assert_int_equal(unpack(&b, bomb(SQUEEZE_PLAIN_MAX + 1, 14, ZSTD_e_flush)), ERR_MALFORMED);
    assert_int_equal(unpack(&b, bomb(1 << 20, 14, ZSTD_e_flush)), ERR_MALFORMED);
    assert_int_equal(unpack(&b, bomb(1000, 20, ZSTD_e_flush)), ERR_MALFORMED); /* it would take a megabyte */
    assert_int_equal(unpack(&b, bomb(1000, 14, ZSTD_e_end)), ERR_MALFORMED);

    size_t len = row(bytes, 1), n = squeeze_pack(&a, bytes, len, record);
    for (size_t cut = 1; cut < n; cut++) { /* a piece of it expands to no more than all of it */
        const uint8_t *plain;
        size_t got = 0;
        int r = squeeze_unpack(&b, record, cut, room, &plain, &got);
        assert_true(r == ERR_MALFORMED || (r == 0 && got <= len));
    }
    for (size_t at = 1; at < n; at++)
        for (int bit = 0; bit < 8; bit++) {
            record[at] ^= (uint8_t)(1 << bit);
            int r = unpack(&b, n);
            assert_true(r == 0 || r == ERR_MALFORMED || r == ERR_NOMEM);
            record[at] ^= (uint8_t)(1 << bit);
        }
    assert_int_equal(unpack(&b, n), 0);
    squeeze_release(&a);
    squeeze_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_says_little_makes_no_stream),
        cmocka_unit_test(test_rows_come_out_as_they_went_in),
        cmocka_unit_test(test_any_length_and_content),
        cmocka_unit_test(test_it_rests_and_begins_again),
        cmocka_unit_test(test_what_no_sender_sends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
