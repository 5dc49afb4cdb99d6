/* Registers alone: stored form and merging, without SQLite. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "node/store/register.h"
#include "proto/err.h"

#define ORIGINS 4
#define COLUMNS 5
#define CHANGES_MAX 64

static struct origin ids[ORIGINS];
static const struct origins_order order = {ids};

struct random {
    uint64_t state;
};

static uint64_t next(struct random *r) { /* splitmix64 (Steele, Lea, Flood 2014) */
    uint64_t x = r->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint32_t below(struct random *r, uint32_t n) { return (uint32_t)(next(r) % n); }

static uint64_t seed(void) {
    const char *text = getenv("TEST_SEED");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t s = text ? strtoull(text, NULL, 10) : (uint64_t)t.tv_nsec % 1000000;
    print_message("TEST_SEED=%llu\n", (unsigned long long)s);
    return s;
}

/* ---- what a register says, in an order of its own */

static int line_cmp(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char *say(const struct reg *r) {
    char *lines[4 * CHANGES_MAX * COLUMNS], *text;
    size_t n = 0, len;
    assert_true(r->cells_count + r->deaths_count < sizeof lines / sizeof *lines);
    for (uint32_t i = 0; i < r->cells_count; i++) {
        const struct cell *c = &r->cells[i];
        const struct write *w = &r->writes[c->write];
        assert_true(asprintf(&lines[n++], "cell %u by %u:%llu at %llu = %llx%s%s", c->column, w->origin, (unsigned long long)w->version,
                             (unsigned long long)w->at, (unsigned long long)c->hash, w->carried ? " carried" : "",
                             reg_copy_is_old(r, c, &order) ? " old" : "") > 0);
        if (i)
            assert_true(r->cells[i - 1].column <= c->column);
    }
    for (uint32_t i = 0; i < r->deaths_count; i++)
        assert_true(asprintf(&lines[n++], "death by %u:%llu at %llu%s", r->deaths[i].origin, (unsigned long long)r->deaths[i].version,
                             (unsigned long long)r->deaths[i].at, r->deaths[i].carried ? " carried" : "") > 0);
    for (uint32_t i = 0; i < r->copies_count; i++)
        assert_true(asprintf(&lines[n++], "copies in %u up to %llu", r->copies[i].column, (unsigned long long)r->copies[i].at) > 0);
    qsort(lines, n, sizeof *lines, line_cmp);
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    fprintf(out, "who %u %u:%llu %llx; inserted %u at %llu; died %u at %llu\n", r->who.kind, r->who.kind == IDENT_BORN ? r->who.origin : 0,
            r->who.kind == IDENT_BORN ? (unsigned long long)r->who.version : 0,
            r->who.kind == IDENT_ADOPTED ? (unsigned long long)r->who.hash : 0, r->inserted.origin, (unsigned long long)r->inserted.at,
            r->died.origin, (unsigned long long)r->died.at);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "%s\n", lines[i]);
        free(lines[i]);
    }
    fclose(out);
    return text;
}

static void assert_says_same(const struct reg *a, const struct reg *b) {
    char *x = say(a), *y = say(b);
    assert_string_equal(x, y);
    free(x);
    free(y);
}

/* ---- one row, written by several servers */

struct deed {
    struct write by;
    int kind; /* 0 insert, 1 update, 2 delete, 3 delete and insert */
    uint32_t columns;
    uint64_t hashes[COLUMNS], seen[ORIGINS];
};

static void apply(struct reg *r, const struct deed *d) {
    struct seen seen = {d->seen, ORIGINS};
    int err = 0;
    if (d->kind >= 2)
        reg_death(r, d->by, &seen, &order, &err);
    if (d->kind == 0 || d->kind == 3)
        reg_insert(r, d->by, &seen, &order, &err);
    for (uint32_t c = 0; c < COLUMNS && d->kind != 2; c++)
        if (d->columns >> c & 1)
            reg_write(r, d->by, c, d->hashes[c], &seen, &err);
    assert_int_equal(err, 0);
}

struct history {
    struct deed deeds[CHANGES_MAX];
    uint32_t count;
    uint64_t versions[ORIGINS]; /* made */
};

/* A new deed of `author`, who has seen `have`; sometimes what came last was not seen yet. */
static struct deed *write_deed(struct random *rnd, struct history *h, uint32_t author, const uint64_t *have, uint64_t clock) {
    struct deed *d = &h->deeds[h->count++];
    memset(d, 0, sizeof *d);
    d->by = (struct write){author, ++h->versions[author], clock + below(rnd, 3), false, below(rnd, 4) == 0};
    d->kind = (int)below(rnd, 4);
    d->columns = d->kind == 0 || d->kind == 3 ? (1u << COLUMNS) - 1 : 1 + below(rnd, (1u << COLUMNS) - 1);
    for (uint32_t c = 0; c < COLUMNS; c++)
        d->hashes[c] = below(rnd, 6);
    for (uint32_t o = 0; o < ORIGINS; o++)
        d->seen[o] = o == author ? d->by.version - 1 : have[o] - (have[o] && below(rnd, 4) == 0 ? below(rnd, 2) : 0);
    return d;
}

/* What was applied before: an author's knowledge never shrinks from deed to deed, as in batches. */
static void keep_knowing(struct history *h, struct deed *d) {
    for (uint32_t i = 0; i + 1 < h->count; i++)
        for (uint32_t o = 0; o < ORIGINS; o++)
            if (h->deeds[i].by.origin == d->by.origin && h->deeds[i].seen[o] > d->seen[o])
                d->seen[o] = h->deeds[i].seen[o];
}

struct replica {
    struct reg reg;
    uint64_t have[ORIGINS];
};

/* Applies a deed whose causes are there; `needs` says what its author had applied. */
static bool try_deliver(struct replica *r, const struct deed *d, const uint64_t *needs) {
    if (r->have[d->by.origin] + 1 != d->by.version)
        return false;
    for (uint32_t o = 0; o < ORIGINS; o++)
        if (o != d->by.origin && r->have[o] < needs[o])
            return false;
    apply(&r->reg, d);
    r->have[d->by.origin]++;
    return true;
}

static void one_run(struct random *rnd) {
    struct history h = {.count = 0};
    struct replica replicas[ORIGINS];
    uint64_t needs[CHANGES_MAX][ORIGINS];
    for (uint32_t i = 0; i < ORIGINS; i++) {
        reg_init(&replicas[i].reg);
        memset(replicas[i].have, 0, sizeof replicas[i].have);
    }
    uint32_t total = 4 + below(rnd, CHANGES_MAX - 4);
    while (h.count < total) {
        struct replica *r = &replicas[below(rnd, ORIGINS)];
        uint32_t author = (uint32_t)(r - replicas);
        if (below(rnd, 2) == 0) {
            memcpy(needs[h.count], r->have, sizeof r->have);
            struct deed *d = write_deed(rnd, &h, author, r->have, reg_top(&r->reg) + 1);
            keep_knowing(&h, d);
            apply(&r->reg, d);
            r->have[author]++;
        } else if (h.count) {
            uint32_t k = below(rnd, h.count);
            try_deliver(r, &h.deeds[k], needs[k]);
        }
    }
    for (uint32_t i = 0; i < ORIGINS; i++)
        for (bool progress = true; progress;) {
            progress = false;
            uint32_t from = below(rnd, h.count);
            for (uint32_t k = 0; k < h.count; k++)
                progress |= try_deliver(&replicas[i], &h.deeds[(from + k) % h.count], needs[(from + k) % h.count]);
        }
    for (uint32_t i = 1; i < ORIGINS; i++) {
        assert_says_same(&replicas[0].reg, &replicas[i].reg);
        assert_int_equal(reg_alive(&replicas[0].reg, &order), reg_alive(&replicas[i].reg, &order));
        assert_true(reg_top(&replicas[0].reg) == reg_top(&replicas[i].reg));
        for (uint32_t c = 0; c < COLUMNS; c++) {
            const struct cell *a = reg_winner(&replicas[0].reg, c, &order), *b = reg_winner(&replicas[i].reg, c, &order);
            assert_true(!a == !b && (!a || a->hash == b->hash));
        }
    }
    for (uint32_t i = 0; i < ORIGINS; i++)
        reg_release(&replicas[i].reg);
}

static void test_any_causal_order_gives_the_same(void **state) {
    (void)state;
    struct random rnd = {seed()};
    for (int i = 0; i < 3000; i++)
        one_run(&rnd);
}

/* ---- stored form */

static void random_reg(struct random *rnd, struct reg *r) {
    reg_clear(r);
    r->who.kind = (uint8_t)(uint8_t[]){IDENT_GIVEN, IDENT_BORN, IDENT_ADOPTED}[below(rnd, 3)];
    struct history h = {.count = 0};
    uint64_t have[ORIGINS] = {0};
    for (uint32_t n = 1 + below(rnd, 12); n; n--) {
        uint32_t author = below(rnd, ORIGINS);
        apply(r, write_deed(rnd, &h, author, have, next(rnd) >> below(rnd, 60)));
        have[author]++;
    }
    r->who.origin = below(rnd, 2) && r->writes_count ? r->writes[0].origin : below(rnd, 1000000);
    r->who.version = below(rnd, 2) && r->writes_count ? r->writes[0].version : next(rnd);
    r->who.hash = next(rnd);
}

static void test_stored_form_keeps_everything(void **state) {
    (void)state;
    struct random rnd = {seed()};
    struct reg a, b;
    struct buf buf, again;
    reg_init(&a);
    reg_init(&b);
    buf_init(&buf, 1 << 20);
    buf_init(&again, 1 << 20);
    for (int i = 0; i < 20000; i++) {
        random_reg(&rnd, &a);
        buf_clear(&buf);
        assert_int_equal(reg_encode(&a, &buf), 0);
        assert_int_equal(reg_decode(&b, buf.data, buf.len), 0);
        assert_says_same(&a, &b);
        assert_int_equal(reg_known(&a), reg_known(&b));
        assert_int_equal(reg_alive(&a, &order), reg_alive(&b, &order));
        buf_clear(&again);
        assert_int_equal(reg_encode(&b, &again), 0);
        assert_int_equal(buf.len, again.len);
        assert_memory_equal(buf.data, again.data, buf.len);
    }
    reg_release(&a);
    reg_release(&b);
    buf_release(&buf);
    buf_release(&again);
}

static void test_simple_rows_are_small(void **state) {
    (void)state;
    struct reg r;
    struct buf buf;
    int err = 0;
    struct seen none = {NULL, 0};
    reg_init(&r);
    buf_init(&buf, 1000);
    r.who = (struct rowid){.kind = IDENT_BORN, .origin = 1, .version = 77};
    struct write by = {1, 77, 123456789, false, false};
    reg_insert(&r, by, &none, &order, &err);
    for (uint32_t c = 0; c < 4; c++)
        reg_write(&r, by, c, c, &none, &err);
    assert_int_equal(err, 0);
    assert_int_equal(reg_encode(&r, &buf), 0);
    assert_true(buf.len <= 4 * 8 + 13); /* flags, one write (10 bytes), two counts, four hashes */
    reg_release(&r);
    buf_release(&buf);
}

static void look_around(const struct reg *r) {
    for (uint32_t i = 0; i < r->cells_count; i++)
        assert_true(r->cells[i].write < r->writes_count);
    (void)reg_top(r);
    (void)reg_known(r);
}

static void test_damaged_bytes_do_no_harm(void **state) {
    (void)state;
    struct random rnd = {seed()};
    struct reg a, b;
    struct buf buf;
    reg_init(&a);
    reg_init(&b);
    buf_init(&buf, 1 << 20);
    for (int i = 0; i < 1500; i++) {
        random_reg(&rnd, &a);
        buf_clear(&buf);
        assert_int_equal(reg_encode(&a, &buf), 0);
        for (size_t len = 0; len < buf.len; len++) {
            uint8_t *cut = malloc(len ? len : 1); /* a block of its own, so that reading behind it shows */
            assert_non_null(cut);
            memcpy(cut, buf.data, len);
            assert_int_equal(reg_decode(&b, cut, len), ERR_CORRUPT);
            look_around(&b);
            free(cut);
        }
        for (int k = 0; k < 40; k++) {
            uint8_t *bad = malloc(buf.len);
            assert_non_null(bad);
            memcpy(bad, buf.data, buf.len);
            for (uint32_t n = 1 + below(&rnd, 3); n; n--)
                bad[below(&rnd, (uint32_t)buf.len)] = (uint8_t)next(&rnd);
            int err = reg_decode(&b, bad, buf.len);
            assert_true(err == 0 || err == ERR_CORRUPT);
            look_around(&b);
            struct buf out;
            buf_init(&out, 1 << 20);
            if (!err)
                assert_int_equal(reg_encode(&b, &out), 0);
            buf_release(&out);
            free(bad);
        }
    }
    assert_int_equal(reg_decode(&b, (const uint8_t[]){0, 0xff, 0xff, 0xff, 0xff, 0x0f}, 6), ERR_CORRUPT); /* counts of more than there is */
    assert_int_equal(reg_decode(&b, (const uint8_t[]){8, 0}, 2), ERR_CORRUPT);                            /* simple, by no write */
    reg_release(&a);
    reg_release(&b);
    buf_release(&buf);
}

/* ---- single rules */

static struct seen saw(uint64_t *versions, uint64_t a, uint64_t b, uint64_t c) {
    versions[0] = a;
    versions[1] = b;
    versions[2] = c;
    versions[3] = 0;
    return (struct seen){versions, ORIGINS};
}

static void test_twice_is_once(void **state) {
    (void)state;
    struct random rnd = {seed()};
    struct reg once, twice;
    reg_init(&once);
    reg_init(&twice);
    for (int i = 0; i < 2000; i++) {
        struct history h = {.count = 0};
        uint64_t have[ORIGINS] = {0};
        reg_clear(&once);
        reg_clear(&twice);
        for (int n = 0; n < 10; n++) {
            uint32_t author = below(&rnd, ORIGINS);
            struct deed *d = write_deed(&rnd, &h, author, have, 10 + below(&rnd, 5));
            have[author]++;
            apply(&once, d);
            apply(&twice, d);
            apply(&twice, d);
        }
        assert_says_same(&once, &twice);
    }
    reg_release(&once);
    reg_release(&twice);
}

static void test_siblings_stay_until_seen(void **state) {
    (void)state;
    struct reg r;
    int err = 0;
    uint64_t v[ORIGINS];
    struct seen seen = saw(v, 0, 0, 0);
    reg_init(&r);
    reg_insert(&r, (struct write){0, 1, 10, false, false}, &seen, &order, &err);
    reg_write(&r, (struct write){0, 1, 10, false, false}, 0, 100, &seen, &err);
    seen = saw(v, 1, 0, 0);
    reg_write(&r, (struct write){1, 1, 20, false, false}, 0, 200, &seen, &err); /* knew of 100 */
    assert_int_equal(r.cells_count, 1);
    seen = saw(v, 1, 0, 0);
    reg_write(&r, (struct write){2, 1, 15, false, false}, 0, 150, &seen, &err); /* did not know of 200, and is older */
    assert_int_equal(r.cells_count, 2);
    assert_int_equal(reg_winner(&r, 0, &order)->hash, 200);
    seen = saw(v, 1, 1, 0);
    reg_write(&r, (struct write){0, 2, 30, false, false}, 0, 300, &seen, &err); /* knew of 200, not of 150 */
    assert_int_equal(r.cells_count, 2);
    assert_int_equal(reg_winner(&r, 0, &order)->hash, 300);
    seen = saw(v, 2, 1, 1);
    reg_write(&r, (struct write){2, 2, 31, false, false}, 0, 310, &seen, &err); /* knew of all */
    assert_int_equal(r.cells_count, 1);
    assert_int_equal(reg_winner(&r, 0, &order)->hash, 310);
    assert_null(reg_winner(&r, 1, &order));
    assert_int_equal(err, 0);
    reg_release(&r);
}

static void test_life(void **state) {
    (void)state;
    struct reg r;
    int err = 0;
    uint64_t v[ORIGINS];
    struct seen seen = saw(v, 0, 0, 0);
    reg_init(&r);
    assert_false(reg_known(&r));
    assert_false(reg_alive(&r, &order));
    reg_insert(&r, (struct write){0, 1, 10, false, false}, &seen, &order, &err);
    reg_write(&r, (struct write){0, 1, 10, false, false}, 0, 1, &seen, &err);
    assert_true(reg_alive(&r, &order));
    seen = saw(v, 1, 0, 0);
    reg_death(&r, (struct write){1, 1, 20, false, false}, &seen, &order, &err);
    assert_false(reg_alive(&r, &order));
    reg_write(&r, (struct write){2, 1, 99, false, false}, 0, 5, &seen, &err); /* an update that met a delete brings nothing back */
    assert_false(reg_alive(&r, &order));
    assert_int_equal(reg_top(&r), 99);
    reg_death(&r, (struct write){2, 2, 25, false, false}, &seen, &order, &err); /* two who did not know of each other */
    assert_int_equal(r.deaths_count, 2);
    seen = saw(v, 1, 1, 2);
    reg_insert(&r, (struct write){0, 2, 30, false, false}, &seen, &order, &err);
    assert_int_equal(r.deaths_count, 0);
    assert_true(reg_alive(&r, &order));
    reg_death(&r, (struct write){1, 2, 29, false, false}, &seen, &order, &err); /* older than the last insert, and did not know of it */
    assert_true(reg_alive(&r, &order));
    assert_int_equal(r.deaths_count, 1);
    assert_int_equal(err, 0);
    reg_release(&r);
}

/* Rows that are one, and were deleted together: one deletion, whichever of them is looked at first. */
static void test_joined_deaths(void **state) {
    (void)state;
    for (uint32_t first = 0; first < 2; first++) {
        struct reg rows[2], all;
        int err = 0;
        uint64_t v[ORIGINS];
        struct seen seen = saw(v, 0, 0, 0);
        reg_init(&all);
        for (uint32_t i = 0; i < 2; i++) {
            reg_init(&rows[i]);
            reg_death(&rows[i], (struct write){1, 4, 20 + i, false, false}, &seen, &order, &err);
        }
        assert_int_equal(reg_join(&all, &rows[first], UINT32_MAX), 0);
        assert_int_equal(reg_join(&all, &rows[!first], UINT32_MAX), 0);
        assert_int_equal(all.deaths_count, 1);
        assert_int_equal(all.deaths[0].at, 21);
        for (uint32_t i = 0; i < 2; i++)
            reg_release(&rows[i]);
        reg_release(&all);
    }
}

static void test_equal_stamps_fall_by_origin(void **state) {
    (void)state;
    struct stamp none = {0, UINT32_MAX};
    assert_true(stamp_cmp((struct stamp){5, 0}, (struct stamp){5, 1}, &order) < 0);
    assert_true(stamp_cmp((struct stamp){5, 1}, (struct stamp){5, 0}, &order) > 0);
    assert_true(stamp_cmp((struct stamp){6, 0}, (struct stamp){5, 1}, &order) > 0);
    assert_int_equal(stamp_cmp((struct stamp){5, 1}, (struct stamp){5, 1}, &order), 0);
    assert_true(stamp_cmp(none, (struct stamp){0, 0}, &order) < 0);
    assert_int_equal(stamp_cmp((struct stamp){0, 0}, (struct stamp){0, 1}, &order), 0); /* adopted rows */
    assert_int_equal(stamp_cmp(none, none, &order), 0);
}

static void test_what_was_seen(void **state) {
    (void)state;
    uint64_t v[ORIGINS];
    struct seen seen = saw(v, 3, 0, 7), none = {NULL, 0};
    assert_true(seen_covers(&seen, 0, 3));
    assert_false(seen_covers(&seen, 0, 4));
    assert_false(seen_covers(&seen, 1, 1));
    assert_true(seen_covers(&seen, 2, 1));
    assert_false(seen_covers(&seen, 1000000, 1));
    assert_false(seen_covers(&none, 0, 1));
}

int main(void) {
    for (uint32_t i = 0; i < ORIGINS; i++)
        ids[i].node[0] = (uint8_t)(i + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_causal_order_gives_the_same),
        cmocka_unit_test(test_stored_form_keeps_everything),
        cmocka_unit_test(test_simple_rows_are_small),
        cmocka_unit_test(test_damaged_bytes_do_no_harm),
        cmocka_unit_test(test_twice_is_once),
        cmocka_unit_test(test_siblings_stay_until_seen),
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_joined_deaths),
        cmocka_unit_test(test_equal_stamps_fall_by_origin),
        cmocka_unit_test(test_what_was_seen),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
