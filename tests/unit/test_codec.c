/* The small parts of the codec: errors, bytes, buffers, the msgpack cursor, clocks, origins, version vectors. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/batch.h"
#include "proto/bytes.h"
#include "proto/err.h"
#include "proto/hlc.h"
#include "proto/intern.h"
#include "proto/vv.h"

static uint64_t seed;

static uint64_t rnd(void) { /* xorshift64* */
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * UINT64_C(2685821657736338717);
}

static uint32_t below(uint32_t n) { return (uint32_t)((rnd() >> 32) % n); }

static void test_err(void **state) {
    (void)state;
    assert_string_equal(err_text(0), "no error");
    assert_string_equal(err_text(12345), "unknown error");
    for (int code = ERR_INTERNAL; code <= ERR_CLOSED; code++) {
        assert_true(code < 0);
        assert_string_not_equal(err_text(code), "unknown error");
    }
}

static void test_bytes(void **state) {
    (void)state;
    struct bytes *b = bytes_new("hello", 5);
    assert_non_null(b);
    assert_ptr_equal(bytes_ref(b), b);
    bytes_unref(b);
    assert_memory_equal(b->data, "hello", 5);
    b = bytes_shrink(b, 2);
    assert_int_equal(b->len, 2);
    assert_memory_equal(b->data, "he", 2);
    bytes_unref(b);
    bytes_unref(NULL);
    b = bytes_new(NULL, 0);
    assert_int_equal(b->len, 0);
    bytes_unref(b);
    assert_null(bytes_new(NULL, SIZE_MAX));
}

static void test_buf_bounds(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    buf_append(&b, "0123456789", 10);
    assert_non_null(buf_reserve(&b, 90));
    assert_null(buf_reserve(&b, 91));
    assert_int_equal(b.failed, ERR_TOOBIG);
    buf_append(&b, "x", 1); /* sticky */
    assert_int_equal(b.len, 10);
    assert_true(b.cap <= 100);
    buf_clear(&b);
    assert_int_equal(b.failed, 0);
    assert_null(buf_reserve(&b, SIZE_MAX));
    buf_clear(&b);
    for (int i = 0; i < 200; i++)
        buf_append(&b, "y", 1);
    assert_int_equal(b.failed, ERR_TOOBIG);
    assert_int_equal(b.len, 100);
    buf_release(&b);
    buf_append(&b, NULL, 0);
    assert_int_equal(b.failed, 0);
    buf_release(&b);
}

static const int64_t ints[] = {0,         1,         127, 128, 255, 256,  65535, 65536,  INT32_MAX, INT32_MIN,    UINT32_MAX,
                               INT64_MAX, INT64_MIN, -1,  -32, -33, -128, -129,  -32768, -32769,    4294967296LL, -2147483649LL};

static void test_mpk_numbers(void **state) {
    (void)state;
    struct buf b;
    struct mpk m;
    static const double floats[] = {0.0, -0.0, 1.5, -1e308, 5e-324, INFINITY, -INFINITY};
    buf_init(&b, 4096);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        buf_pack_i64(&b, ints[i]);
    buf_pack_u64(&b, UINT64_MAX);
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        buf_pack_f64(&b, floats[i]);
    buf_pack_bool(&b, 1);
    buf_pack_bool(&b, 0);
    buf_pack_nil(&b);
    mpk_init(&m, b.data, b.len);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        assert_int_equal(mpk_peek(&m), MPK_INT);
        assert_true(mpk_i64(&m) == ints[i]);
    }
    assert_int_equal(mpk_peek(&m), MPK_UINT);
    assert_true(mpk_u64(&m, UINT64_MAX) == UINT64_MAX);
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        double d = mpk_f64(&m);
        assert_memory_equal(&d, &floats[i], sizeof d);
    }
    assert_true(mpk_bool(&m));
    assert_false(mpk_bool(&m));
    assert_false(m.err);
    assert_true(mpk_nil(&m));
    assert_int_equal(mpk_peek(&m), MPK_END);
    assert_int_equal(mpk_finish(&m), 0);
    mpk_skip(&m);
    assert_int_equal(mpk_finish(&m), ERR_MALFORMED);
    buf_release(&b);
    mpk_init(&m, "\xca\x3f\xc0\x00\x00", 5); /* a float32 is widened */
    assert_true(mpk_f64(&m) == 1.5);
    assert_int_equal(mpk_finish(&m), 0);
}

static void test_mpk_strict(void **state) {
    (void)state;
    struct mpk m;
    size_t len;
    mpk_init(&m, "\xff", 1);
    assert_int_equal(mpk_u64(&m, UINT64_MAX), 0); /* negative */
    assert_int_equal(m.err, ERR_MALFORMED);
    assert_int_equal(mpk_peek(&m), MPK_BAD); /* sticky */
    assert_int_equal(mpk_i64(&m), 0);
    mpk_init(&m, "\x64", 1);
    assert_int_equal(mpk_u64(&m, 99), 0);
    assert_int_equal(m.err, ERR_TOOBIG);
    mpk_init(&m, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9);
    assert_int_equal(mpk_i64(&m), 0); /* above INT64_MAX */
    assert_int_equal(m.err, ERR_MALFORMED);
    mpk_init(&m,
             "\xa3"
             "abc",
             4);
    assert_null(mpk_bin(&m, &len, 10)); /* a str is no bin */
    assert_int_equal(m.err, ERR_MALFORMED);
    mpk_init(&m,
             "\xa3"
             "abc",
             4);
    assert_null(mpk_str(&m, &len, 2));
    assert_int_equal(len, 0);
    assert_int_equal(m.err, ERR_TOOBIG);
    mpk_init(&m,
             "\xdb\xff\xff\xff\xff"
             "abc",
             8);
    assert_null(mpk_str(&m, &len, SIZE_MAX));
    assert_int_equal(m.err, ERR_MALFORMED);
    mpk_init(&m,
             "\xc4\x02"
             "ab",
             4);
    assert_null(mpk_bin_exact(&m, 3));
    assert_int_equal(m.err, ERR_MALFORMED);
    mpk_init(&m, "\x05", 1);
    assert_false(mpk_nil(&m));
    assert_int_equal(m.err, 0);
    assert_false(mpk_bool(&m));
    assert_int_equal(m.err, ERR_MALFORMED);
    mpk_init(&m, NULL, 0);
    assert_int_equal(mpk_finish(&m), 0);
    struct mpk_scalar s;
    mpk_init(&m, "\x90", 1);
    assert_false(mpk_scalar(&m, &s));
    static const uint8_t never[] = {0xc1, 0xc7, 0xc8, 0xc9, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8};
    for (size_t i = 0; i < sizeof never; i++) {
        uint8_t bytes[20] = {never[i], 1};
        mpk_init(&m, bytes, sizeof bytes);
        mpk_skip(&m);
        assert_int_equal(m.err, ERR_MALFORMED);
    }
}

/* Six bytes that ask for four thousand million elements, and nesting without end. */
static void test_mpk_bombs(void **state) {
    (void)state;
    struct mpk m;
    mpk_init(&m, "\xdd\xff\xff\xff\xff\xc0", 6);
    assert_int_equal(mpk_array(&m, UINT32_MAX), 0);
    assert_int_equal(m.err, ERR_MALFORMED);
    static const char *const heads[] = {"\xdd\xff\xff\xff\xff\xc0", "\xdf\xff\xff\xff\xff\xc0", "\xdf\x80\x00\x00\x00\xc0"};
    for (int i = 0; i < 3; i++) {
        mpk_init(&m, heads[i], 6);
        mpk_skip(&m);
        assert_int_equal(m.err, ERR_MALFORMED);
    }
    char deep[64];
    memset(deep, 0x91, sizeof deep);
    deep[MPK_DEPTH_MAX] = 1;
    mpk_init(&m, deep, MPK_DEPTH_MAX + 1);
    mpk_skip(&m);
    assert_int_equal(mpk_finish(&m), 0);
    deep[MPK_DEPTH_MAX] = (char)0x91;
    mpk_init(&m, deep, sizeof deep);
    mpk_skip(&m);
    assert_int_equal(m.err, ERR_TOOBIG);
    mpk_init(&m, "\x82\xa1k\x93\x01\x02\x03\x80\x90\x07", 10); /* {"k": [1,2,3], {}: []}, 7 */
    mpk_skip(&m);
    assert_int_equal(mpk_i64(&m), 7);
    assert_int_equal(mpk_finish(&m), 0);
}

/* Whatever bytes: no getter reads beyond the end (the sanitizers watch) nor moves the cursor past it. */
static void test_mpk_random(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        size_t len = below(40);
        uint8_t *bytes = malloc(len ? len : 1);
        for (size_t i = 0; i < len; i++)
            bytes[i] = below(2) ? (uint8_t)(0xc0 + below(0x20)) : (uint8_t)rnd();
        struct mpk m;
        struct mpk_scalar s;
        size_t got;
        mpk_init(&m, bytes, len);
        while (!m.err && m.at < m.end) {
            const uint8_t *before = m.at;
            switch (below(8)) {
            case 0: mpk_skip(&m); break;
            case 1: mpk_u64(&m, rnd()); break;
            case 2: mpk_i64(&m); break;
            case 3: mpk_f64(&m); break;
            case 4: mpk_bin(&m, &got, below(50)); break;
            case 5: mpk_str(&m, &got, below(50)); break;
            case 6: mpk_array(&m, below(50)); break;
            default: mpk_scalar(&m, &s); break;
            }
            assert_true(m.at <= m.end && (m.at > before || m.err));
        }
        free(bytes);
    }
}

static void test_hlc(void **state) {
    (void)state;
    struct hlc h = {0};
    assert_int_equal(hlc_next(&h, 1000, 0), hlc_of_ms(1000));
    assert_int_equal(hlc_next(&h, 1000, 0), hlc_of_ms(1000) + 1);
    assert_int_equal(hlc_next(&h, 900, 0), hlc_of_ms(1000) + 2); /* the clock went back */
    hlc_observe(&h, hlc_of_ms(2000) | 0xffff);
    uint64_t carried = hlc_next(&h, 1000, 0);
    assert_int_equal(carried, hlc_of_ms(2001)); /* a full counter carries */
    assert_int_equal(hlc_ms(carried), 2001);
    assert_int_equal(hlc_next(&h, 1000, hlc_of_ms(5000)), hlc_of_ms(5000) + 1);
    hlc_observe(&h, 1); /* never goes back */
    assert_int_equal(h.last, hlc_of_ms(5000) + 1);
    uint64_t last = h.last, ms = 5000;
    for (int i = 0; i < 200000; i++) {
        ms = below(3) ? ms : ms - 50 + below(102);
        uint64_t above = below(10) ? 0 : last + below(100000);
        uint64_t next = hlc_next(&h, ms, above);
        assert_true(next > last && next > above && next >= hlc_of_ms(ms));
        last = next;
        if (!below(20)) {
            uint64_t seen = last - 1000 + below(3000);
            hlc_observe(&h, seen);
            last = seen > last ? seen : last;
        }
    }
    h.last = UINT64_MAX;
    assert_true(hlc_next(&h, UINT64_MAX, 5) == UINT64_MAX); /* does not wrap */
}

static void test_origin(void **state) {
    (void)state;
    struct origin a = {.node = {0x01, 0xfe}, .epoch = 0}, b = a;
    char text[ORIGIN_TEXT_BYTES];
    assert_string_equal(origin_text(&a, text), "01fe0000000000000000000000000000");
    b.epoch = UINT32_MAX;
    assert_string_equal(origin_text(&b, text), "01fe0000000000000000000000000000.4294967295");
    assert_true(origin_cmp(&a, &b) < 0 && origin_cmp(&b, &a) > 0 && !origin_cmp(&a, &a));
    a.node[15] = 0x80;
    assert_true(origin_cmp(&a, &b) > 0);
    uint8_t id[NODE_ID_BYTES], other[NODE_ID_BYTES], key[NODE_KEY_BYTES] = {1};
    node_id_of_key(id, key);
    key[0] = 2;
    node_id_of_key(other, key);
    assert_memory_not_equal(id, other, sizeof id);
}

static struct origin random_origin(void) {
    struct origin o = {.node = {(uint8_t)below(4), 0, (uint8_t)below(4)}, .epoch = below(3)};
    return o;
}

static void random_vv(struct vv *v) {
    vv_init(v);
    for (uint32_t i = below(12); i; i--) {
        struct origin o = random_origin();
        assert_int_equal(vv_set(v, &o, below(6)), 0);
    }
}

static void test_vv_laws(void **state) {
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct vv a, b, ab, ba, diff;
        random_vv(&a);
        random_vv(&b);
        vv_init(&ab);
        vv_init(&ba);
        vv_init(&diff);
        for (uint32_t i = 0; i < a.count; i++)
            assert_true(a.entries[i].version && (!i || origin_cmp(&a.entries[i - 1].origin, &a.entries[i].origin) < 0));
        vv_copy(&ab, &a);
        vv_copy(&ba, &b);
        assert_true(vv_equal(&ab, &a));
        vv_merge(&ab, &b);
        vv_merge(&ba, &a);
        assert_true(vv_equal(&ab, &ba)); /* commutative */
        assert_true(vv_digest(&ab) == vv_digest(&ba));
        assert_true(vv_equal(&a, &b) == (vv_digest(&a) == vv_digest(&b)));
        assert_true(vv_covers(&ab, &a) && vv_covers(&ab, &b));
        assert_true(vv_covers(&a, &b) == (vv_missing(&a, &b) == 0));
        assert_true((vv_covers(&a, &b) && vv_covers(&b, &a)) == vv_equal(&a, &b));
        vv_merge(&ab, &ba); /* idempotent */
        assert_true(vv_equal(&ab, &ba));
        vv_diff(&diff, &a, &ab);
        uint64_t more = vv_missing(&a, &ab);
        vv_merge(&a, &diff);
        assert_true(vv_equal(&a, &ab));
        assert_true(more >= diff.count);
        struct origin o = random_origin();
        uint64_t was = vv_get(&b, &o);
        vv_raise(&b, &o, 3);
        assert_int_equal(vv_get(&b, &o), was > 3 ? was : 3);
        vv_set(&b, &o, 0);
        assert_int_equal(vv_get(&b, &o), 0);
        vv_release(&a);
        vv_release(&b);
        vv_release(&ab);
        vv_release(&ba);
        vv_release(&diff);
    }
}

static void test_vv_bytes(void **state) {
    (void)state;
    struct buf b;
    struct mpk m;
    struct vv v, w;
    buf_init(&b, 1 << 20);
    vv_init(&w);
    for (int round = 0; round < 300; round++) {
        random_vv(&v);
        buf_clear(&b);
        vv_pack(&v, &b);
        mpk_init(&m, b.data, b.len);
        assert_int_equal(vv_unpack(&w, &m), 0);
        assert_int_equal(mpk_finish(&m), 0);
        assert_true(vv_equal(&v, &w));
        for (size_t len = 0; len < b.len; len++) {
            mpk_init(&m, b.data, len);
            assert_int_not_equal(vv_unpack(&w, &m), 0);
            assert_int_equal(w.count, 0);
        }
        vv_release(&v);
    }
    /* not sorted, twice the same, a zero, too many, an array that is not there */
    struct origin o = {.epoch = 1};
    static const uint64_t versions[3][2] = {{1, 1}, {0, 1}, {1, 0}};
    for (int i = 0; i < 3; i++) {
        buf_clear(&b);
        buf_pack_array(&b, 2);
        for (int k = 0; k < 2; k++) {
            buf_pack_array(&b, 3);
            buf_pack_bin(&b, o.node, NODE_ID_BYTES);
            buf_pack_u64(&b, i ? (uint64_t)k : 1);
            buf_pack_u64(&b, versions[i][k]);
        }
        mpk_init(&m, b.data, b.len);
        assert_int_equal(vv_unpack(&w, &m), ERR_MALFORMED);
    }
    mpk_init(&m, "\xdd\xff\xff\xff\xff\xc0", 6);
    assert_int_equal(vv_unpack(&w, &m), ERR_TOOBIG);
    vv_init(&v);
    for (uint32_t i = 0; i < VV_ENTRIES_MAX; i++) {
        o.epoch = i;
        assert_int_equal(vv_set(&v, &o, 1), 0);
    }
    o.epoch = VV_ENTRIES_MAX;
    assert_int_equal(vv_set(&v, &o, 1), ERR_TOOBIG);
    assert_int_equal(vv_raise(&v, &o, 1), ERR_TOOBIG);
    vv_set(&w, &o, 1);
    assert_int_equal(vv_merge(&v, &w), ERR_TOOBIG);
    assert_int_equal(v.count, VV_ENTRIES_MAX);
    o.epoch = 0;
    assert_int_equal(vv_set(&v, &o, UINT64_MAX), 0);
    o.epoch = 1;
    assert_int_equal(vv_set(&v, &o, UINT64_MAX), 0);
    vv_clear(&w);
    assert_true(vv_missing(&w, &v) == UINT64_MAX); /* saturates */
    vv_release(&v);
    vv_release(&w);
    buf_release(&b);
}

static void test_intern(void **state) {
    (void)state;
    struct intern t;
    intern_init(&t, 5000);
    char text[16];
    uint32_t index;
    for (int clear = 0; clear < 2; clear++) {
        assert_int_equal(intern_find(&t, "", 0), INTERN_NONE);
        for (uint32_t i = 0; i < 5000; i++) {
            int len = i ? snprintf(text, sizeof text, "%u", i) : 0;
            assert_int_equal(intern_add(&t, text, (size_t)len, &index), 0);
            assert_int_equal(index, i);
        }
        assert_int_equal(intern_add(&t, "4321", 4, &index), 0);
        assert_int_equal(index, 4321);
        assert_int_equal(intern_find(&t, "4321", 4), 4321);
        assert_int_equal(intern_find(&t, "x", 1), INTERN_NONE);
        assert_int_equal(intern_add(&t, "x", 1, &index), ERR_TOOBIG);
        intern_clear(&t);
        assert_int_equal(t.count, 0);
    }
    intern_release(&t);
}

static void test_value_hash(void **state) {
    (void)state;
    double minus = -0.0;
    const struct value values[] = {
        {.type = VALUE_NULL},
        {.type = VALUE_INT, .as.i = 0},
        {.type = VALUE_INT, .as.i = 1},
        {.type = VALUE_INT, .as.i = INT64_MIN},
        {.type = VALUE_FLOAT, .as.f = 0.0},
        {.type = VALUE_FLOAT, .as.f = minus},
        {.type = VALUE_FLOAT, .as.f = 1.0},
        {.type = VALUE_TEXT},
        {.type = VALUE_BLOB},
        {.type = VALUE_TEXT, .p = (const uint8_t *)"1", .len = 1},
        {.type = VALUE_BLOB, .p = (const uint8_t *)"1", .len = 1},
        {.type = VALUE_TEXT, .p = (const uint8_t *)"1\0", .len = 2},
        {.type = VALUE_BLOB, .p = (const uint8_t *)"\0\0\0\0\0\0\0\0", .len = 8},
    };
    size_t count = sizeof values / sizeof *values;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++)
            assert_true((value_hash(&values[i]) == value_hash(&values[j])) == (i == j));
    }
    /* part of the format: the same on every machine and in every version */
    assert_true(value_hash(&values[0]) == UINT64_C(0x2da7852886a52dd9));
    assert_true(value_hash(&values[3]) == UINT64_C(0x659ba36e28ba2e2c));
    assert_true(value_hash(&values[9]) == UINT64_C(0x13bd617c865c540d));
}

int main(void) {
    const char *given = getenv("STARLING_SEED");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec;
    seed = seed ? seed : 1;
    printf("STARLING_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),         cmocka_unit_test(test_bytes),      cmocka_unit_test(test_buf_bounds),
        cmocka_unit_test(test_mpk_numbers), cmocka_unit_test(test_mpk_strict), cmocka_unit_test(test_mpk_bombs),
        cmocka_unit_test(test_mpk_random),  cmocka_unit_test(test_hlc),        cmocka_unit_test(test_origin),
        cmocka_unit_test(test_vv_laws),     cmocka_unit_test(test_vv_bytes),   cmocka_unit_test(test_intern),
        cmocka_unit_test(test_value_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
