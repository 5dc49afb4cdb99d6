/* Chunks: where they are cut, and that cuts depend on what is near them alone. Lists: hash and groups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "node/clock.h"
#include "node/files/chunker.h"
#include "node/files/chunklist.h"
#include "proto/err.h"
#include "tests/unit/seed.h"

#define FILE_BYTES (8u << 20)

static struct chunker chunker;
static uint64_t seed;

static uint64_t next_random(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fill(uint8_t *p, size_t n) {
    uint8_t key[randombytes_SEEDBYTES] = {0};
    uint64_t r = next_random();
    memcpy(key, &r, sizeof r);
    randombytes_buf_deterministic(p, n, key);
}

static void cut_all(const uint8_t *data, size_t len, struct chunklist *l) {
    uint8_t hash[CONTENT_HASH_BYTES];
    chunklist_init(l);
    for (size_t at = 0; at < len;) {
        size_t n = chunker_cut(&chunker, data + at, len - at);
        assert_in_range(n, 1, CHUNK_MAX);
        assert_true(n >= CHUNK_MIN || at + n == len);
        chunk_hash(data + at, n, hash);
        assert_int_equal(chunklist_add(l, hash, (uint32_t)n), 0);
        at += n;
    }
    assert_int_equal(l->size, len);
}

static void hex(const uint8_t *p, size_t n, char *out) { sodium_bin2hex(out, 2 * n + 1, p, n); }

/* Every server cuts alike, today and in every later version: the hash of a file that never changes. */
static void test_the_format_stays(void **state) {
    uint8_t *data = malloc(FILE_BYTES), hash[CONTENT_HASH_BYTES];
    uint8_t key[randombytes_SEEDBYTES] = "starling";
    char text[2 * CONTENT_HASH_BYTES + 1];
    struct chunklist l;
    (void)state;
    randombytes_buf_deterministic(data, FILE_BYTES, key);
    cut_all(data, FILE_BYTES, &l);
    chunklist_hash(&l, hash);
    hex(hash, sizeof hash, text);
    assert_string_equal(text, "213119e0bdb980e3c194c0f3fdd52c51644a96e908bb8e6366c7ff2a353f0965");
    assert_int_equal(l.count, 126);
    chunklist_release(&l);
    chunklist_init(&l);
    chunklist_hash(&l, hash);
    uint8_t empty[CONTENT_HASH_BYTES];
    content_hash_one(NULL, 0, empty);
    assert_memory_equal(hash, empty, sizeof hash);
    cut_all(data, CHUNK_MIN, &l);
    assert_int_equal(l.count, 1);
    chunklist_hash(&l, hash);
    content_hash_one(data, CHUNK_MIN, empty);
    assert_memory_equal(hash, empty, sizeof hash);
    chunklist_release(&l);
    free(data);
}

static void test_sizes(void **state) {
    uint8_t *data = malloc(FILE_BYTES);
    struct chunklist l;
    uint64_t chunks = 0, bytes = 0;
    (void)state;
    for (int i = 0; i < 4; i++) {
        fill(data, FILE_BYTES);
        cut_all(data, FILE_BYTES, &l);
        chunks += l.count;
        bytes += l.size;
        chunklist_release(&l);
    }
    assert_in_range(bytes / chunks, 56u << 10, 72u << 10);
    memset(data, 0, FILE_BYTES); /* nothing ever cuts: chunks of CHUNK_MAX */
    cut_all(data, FILE_BYTES, &l);
    assert_int_equal(l.count, FILE_BYTES / CHUNK_MAX);
    chunklist_release(&l);
    free(data);
}

/* Chunks of b that are not among those of a. */
static uint32_t news(struct chunklist *a, struct chunklist *b) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < b->count; i++) {
        bool found = false;
        for (uint32_t j = 0; j < a->count && !found; j++)
            found = memcmp(a->entries + (size_t)j * ENTRY_BYTES, b->entries + (size_t)i * ENTRY_BYTES, ENTRY_BYTES) == 0;
        count += !found;
    }
    return count;
}

static uint32_t new_groups(const struct chunklist *a, const struct chunklist *b) {
    struct group x, y;
    uint32_t count = 0;
    for (uint32_t i = 0; chunklist_group(b, i, &x); i += x.count) {
        bool found = false;
        for (uint32_t j = 0; !found && chunklist_group(a, j, &y); j += y.count)
            found = memcmp(x.name, y.name, GROUP_BYTES) == 0;
        count += !found;
    }
    return count;
}

/* An edit anywhere (bytes changed, put in, taken out) makes few new chunks, however long the file is behind it. */
static void test_cuts_move_only_near_an_edit(void **state) {
    uint8_t *data = malloc(FILE_BYTES + 4096), *other = malloc(FILE_BYTES + 4096);
    struct chunklist a, b;
    (void)state;
    uint32_t total = 0;
    for (int i = 0; i < 24; i++) {
        if (i % 4 == 0)
            fill(data, FILE_BYTES);
        size_t at = i % 6 == 0 ? 0 : next_random() % (FILE_BYTES - 4096), n = 1 + next_random() % 64;
        size_t taken = i % 3 == 1 ? 0 : n, put = i % 3 == 2 ? 0 : n;
        memcpy(other, data, at);
        fill(other + at, put);
        memcpy(other + at + put, data + at + taken, FILE_BYTES - at - taken);
        cut_all(data, FILE_BYTES, &a);
        cut_all(other, FILE_BYTES + put - taken, &b);
        uint32_t fresh = news(&a, &b);
        total += fresh;
        assert_in_range(fresh, 1, 16);
        assert_in_range(new_groups(&a, &b), 1, 3);
        chunklist_release(&a);
        chunklist_release(&b);
    }
    assert_in_range(total, 24, 24 * 4); /* in the mean */
    free(data);
    free(other);
}

/* Groups cover the list, none twice; chunks are found where they are. */
static void test_groups_and_places(void **state) {
    struct chunklist l;
    struct group g;
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t at = 0;
    (void)state;
    chunklist_init(&l);
    for (uint32_t i = 0; i < 5000; i++) {
        fill(hash, sizeof hash);
        assert_int_equal(chunklist_add(&l, hash, 1 + (uint32_t)(next_random() % CHUNK_MAX)), 0);
    }
    for (uint32_t i = 0; i < l.count; i++) {
        struct chunk c = chunklist_get(&l, i);
        assert_int_equal(c.at, at);
        at += c.len;
    }
    assert_int_equal(at, l.size);
    uint32_t covered = 0, groups = 0;
    for (; chunklist_group(&l, covered, &g); covered += g.count, groups++)
        assert_int_equal(g.first, covered);
    assert_int_equal(covered, l.count);
    assert_in_range(groups, 40, 160);
    struct chunklist copy;
    chunklist_init(&copy);
    assert_int_equal(chunklist_append(&copy, l.entries, l.count), 0);
    assert_int_equal(copy.size, l.size);
    uint8_t bad[ENTRY_BYTES] = {0};
    assert_int_equal(chunklist_append(&copy, bad, 1), ERR_MALFORMED);
    bad[ENTRY_BYTES - 2] = 5; /* above CHUNK_MAX */
    assert_int_equal(chunklist_append(&copy, bad, 1), ERR_MALFORMED);
    assert_int_equal(copy.count, l.count);
    chunklist_release(&l);
    chunklist_release(&copy);
}

/* For people: STARLING_SPEED=1 prints how fast it is. */
static void test_speed(void **state) {
    (void)state;
    if (getenv("STARLING_SPEED") == NULL)
        skip();
    size_t len = 64u << 20, count = 0;
    uint8_t *data = malloc(len), hash[CONTENT_HASH_BYTES];
    fill(data, len);
    uint64_t from = clock_mono_ms();
    for (size_t at = 0; at < len; count++)
        at += chunker_cut(&chunker, data + at, len - at);
    uint64_t cut = clock_mono_ms() - from;
    from = clock_mono_ms();
    for (size_t at = 0; at < len; at += 65536)
        chunk_hash(data + at, 65536, hash);
    uint64_t hashed = clock_mono_ms() - from;
    print_message("cut %.0f MB/s, hash %.0f MB/s, mean chunk %zu\n", (double)len / 1e3 / (double)(cut + 1),
                  (double)len / 1e3 / (double)(hashed + 1), len / count);
    free(data);
}

int main(void) {
    if (sodium_init() < 0)
        return 1;
    seed = seed_begin();
    chunker_init(&chunker);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_format_stays),  cmocka_unit_test(test_sizes), cmocka_unit_test(test_cuts_move_only_near_an_edit),
        cmocka_unit_test(test_groups_and_places), cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
