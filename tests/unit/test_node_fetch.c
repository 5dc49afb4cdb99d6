/* What is asked of whom: a random world of peers (who have all, who fetch themselves, who have nothing, who lie, who are silent, who come and
 * go) in virtual time. Then all is well again, and everything must arrive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "node/clock.h"
#include "node/files/chunker.h"
#include "node/files/fetch.h"
#include "tests/unit/seed.h"

#define PEERS 5
#define ITEMS 40
#define EVENTS_MAX 60000
#define HEALED_MS 8000

static uint64_t seed;

static uint64_t next_random(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t below(uint64_t n) { return next_random() % n; }

enum role { ROLE_ALL, ROLE_SOME, ROLE_NONE, ROLE_LIAR, ROLE_SILENT, ROLES };

struct planned {
    uint64_t at;
    enum fetch_kind kind;
    int peer, item;
    uint32_t chunk, count;
    unsigned session; /* of the peer: what it was asked before it went is not answered */
};

static struct world {
    struct fetch *f;
    uint64_t now;
    enum role role[PEERS];
    bool up[PEERS];
    unsigned session[PEERS];
    uint64_t shunned[PEERS]; /* not asked before */
    unsigned faults[PEERS];
    unsigned lied[PEERS][ITEMS]; /* in this session, at: */
    uint64_t lied_at[PEERS][ITEMS];
    struct fetch_item *item[ITEMS];
    uint64_t size[ITEMS];
    uint32_t chunks[ITEMS];
    int left;
    struct planned planned[EVENTS_MAX];
    uint32_t planned_count;
    uint64_t asks;
} w;

static void id_of(int peer, uint8_t id[NODE_ID_BYTES]) { memset(id, peer + 1, NODE_ID_BYTES); }
static void hash_of(int item, uint8_t hash[CONTENT_HASH_BYTES]) { memset(hash, item + 1, CONTENT_HASH_BYTES); }

static void plan(const struct fetch_ask *a, int peer, int item, uint32_t chunk, uint64_t delay) {
    assert_true(w.planned_count < EVENTS_MAX);
    w.planned[w.planned_count++] = (struct planned){w.now + delay, a->kind, peer, item, chunk, a->count, w.session[peer]};
}

static void ask(const struct fetch_ask *a) {
    int peer = a->peer[0] - 1, item = fetch_hash(a->item)[0] - 1;
    assert_in_range(peer, 0, PEERS - 1);
    assert_true(w.up[peer]);
    assert_true(w.now >= w.shunned[peer]);
    assert_true(w.lied[peer][item] != w.session[peer]); /* not of who lied about it */
    w.asks++;
    if (w.role[peer] == ROLE_SILENT)
        return;
    if (a->kind != FETCH_CHUNKS) {
        plan(a, peer, item, 0, 1 + below(20));
        return;
    }
    assert_true(fetch_is_listed(a->item) && a->count >= 1 && a->first + a->count <= w.chunks[item]);
    for (uint32_t i = 0; i < a->count; i++) {
        assert_false(fetch_is_here(a->item, a->first + i));
        plan(a, peer, item, a->first + i, 1 + below(30));
    }
}

static void whole(int item) {
    if (fetch_left(w.item[item]) > 0)
        return;
    fetch_remove(w.f, w.item[item]);
    w.item[item] = NULL;
    w.left--;
}

static void fault(int peer) {
    if (++w.faults[peer] < FETCH_FAULTS_MAX)
        return;
    w.faults[peer] = 0;
    w.shunned[peer] = w.now + FETCH_SHUN_MS;
}

static void wrong(int peer, int item, const uint8_t *id, uint32_t chunk) {
    fetch_wrong(w.f, id, w.item[item], chunk, w.now);
    if (w.lied[peer][item] != w.session[peer] || w.now - w.lied_at[peer][item] >= FETCH_SHUN_MS / 2) /* one lie, however many chunks */
        fault(peer);
    w.lied[peer][item] = w.session[peer];
    w.lied_at[peer][item] = w.now;
}

static void answer_who(const struct planned *p, const uint8_t *id, const uint8_t *hash) {
    static uint8_t bitmap[1024];
    enum role role = w.role[p->peer];
    uint32_t chunks = w.chunks[p->item];
    for (uint32_t i = 0; i < (chunks + 7) / 8; i++)
        bitmap[i] = (uint8_t)next_random();
    fetch_said(w.f, id, hash, role == ROLE_NONE ? 0 : chunks, bitmap, role == ROLE_SOME ? (chunks + 7) / 8 : 0, w.now);
}

static void answer(const struct planned *p) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES];
    struct fetch_item *item = w.item[p->item];
    id_of(p->peer, id);
    hash_of(p->item, hash);
    if (!w.up[p->peer] || w.session[p->peer] != p->session || w.role[p->peer] == ROLE_SILENT)
        return;
    if (p->kind == FETCH_WHO) {
        answer_who(p, id, hash);
    } else if (w.role[p->peer] == ROLE_NONE || (w.role[p->peer] == ROLE_SOME && below(20) == 0)) {
        fetch_gone(w.f, id, hash, p->chunk, 1, w.now);
    } else if (item == NULL) {
        return;
    } else if (p->kind == FETCH_LIST) {
        if (!fetch_list_came(w.f, id, item, w.now))
            return;
        if (w.role[p->peer] == ROLE_LIAR)
            wrong(p->peer, p->item, id, UINT32_MAX);
        else
            assert_int_equal(fetch_listed(w.f, item, w.chunks[p->item]), 0);
    } else if (fetch_came(w.f, id, item, p->chunk, w.now)) {
        assert_false(fetch_came(w.f, id, item, p->chunk, w.now)); /* the same again was not asked for */
        if (w.role[p->peer] == ROLE_LIAR)
            wrong(p->peer, p->item, id, p->chunk);
        else
            fetch_here(w.f, item, p->chunk);
        whole(p->item);
    }
}

static void peer_set(int peer, bool up) {
    uint8_t id[NODE_ID_BYTES];
    id_of(peer, id);
    if (w.up[peer] == up)
        return;
    w.up[peer] = up;
    w.session[peer]++;
    if (up)
        fetch_peer_up(w.f, id);
    else
        fetch_peer_down(w.f, id);
}

/* Until `until`: asks, and what is answered by then. */
static void run(uint64_t until) {
    struct fetch_ask a;
    while (w.now < until && w.left > 0) {
        while (fetch_next(w.f, w.now, &a))
            ask(&a);
        uint64_t at = fetch_deadline(w.f);
        assert_true(at > w.now); /* what is due was done: else the loop would spin */
        for (uint32_t i = 0; i < w.planned_count; i++)
            at = w.planned[i].at < at ? w.planned[i].at : at;
        w.now = at < until ? at : until;
        for (uint32_t i = 0; i < w.planned_count;) {
            if (w.planned[i].at > w.now) {
                i++;
                continue;
            }
            struct planned p = w.planned[i];
            w.planned[i] = w.planned[--w.planned_count];
            answer(&p);
        }
    }
}

static void one_world(void) {
    uint8_t hash[CONTENT_HASH_BYTES], hint[NODE_ID_BYTES];
    uint64_t chunks = 0;
    memset(&w, 0, sizeof w);
    w.now = 1000;
    assert_non_null(w.f = fetch_new(next_random()));
    for (int i = 0; i < PEERS; i++) {
        w.role[i] = (enum role)below(i == 0 ? ROLE_LIAR : ROLES); /* the first one is never at fault */
        peer_set(i, below(4) > 0);
    }
    for (int i = 0; i < ITEMS; i++) {
        w.size[i] = below(3) == 0 ? 1 + below(CHUNK_MIN) : 1 + below((uint64_t)CHUNK_MIN << below(10));
        w.chunks[i] = w.size[i] <= CHUNK_MIN ? 1 : (uint32_t)(w.size[i] / CHUNK_NORMAL + 1);
        chunks += w.chunks[i];
        hash_of(i, hash);
        id_of((int)below(PEERS), hint);
        assert_non_null(w.item[i] = fetch_add(w.f, hash, w.size[i], below(2) ? hint : NULL, NULL));
        w.left++;
    }
    for (int i = 0; i < 20; i++) {
        run(w.now + below(3000));
        int peer = (int)below(PEERS);
        peer_set(peer, !w.up[peer]);
        peer = (int)below(PEERS);
        if (below(4) == 0)
            w.role[peer] = (enum role)below(peer == 0 ? ROLE_LIAR : ROLES);
    }
    for (int i = 0; i < PEERS; i++) { /* all is well */
        w.role[i] = ROLE_ALL;
        peer_set(i, true);
    }
    run(w.now + HEALED_MS);
    assert_int_equal(w.left, 0);
    assert_in_range(w.asks, ITEMS / 2, 40 * chunks + 40000);
    fetch_free(w.f);
}

static void test_random_worlds(void **state) {
    (void)state;
    for (int i = 0; i < 150; i++)
        one_world();
}

/* Who is alone is asked in order, and no more than the window at once. */
static void test_the_window(void **state) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES];
    struct fetch_ask a;
    (void)state;
    struct fetch *f = fetch_new(1);
    id_of(0, id);
    hash_of(0, hash);
    fetch_peer_up(f, id);
    struct fetch_item *item = fetch_add(f, hash, 1u << 30, NULL, NULL);
    assert_true(fetch_next(f, 1, &a) && a.kind == FETCH_WHO);
    assert_false(fetch_next(f, 1, &a));
    fetch_said(f, id, hash, 16384, NULL, 0, 2);
    assert_true(fetch_next(f, 2, &a) && a.kind == FETCH_LIST);
    assert_false(fetch_next(f, 2, &a));
    assert_true(fetch_list_came(f, id, item, 3));
    fetch_listed(f, item, 16384);
    uint32_t asked = 0;
    for (; fetch_next(f, 4, &a); asked += a.count) {
        assert_int_equal(a.kind, FETCH_CHUNKS);
        assert_int_equal(a.first, asked);
    }
    assert_int_equal(asked, FETCH_WINDOW_BYTES / (64u << 10));
    assert_true(fetch_came(f, id, item, 0, 5));
    assert_false(fetch_came(f, id, item, 0, 5));
    assert_false(fetch_came(f, id, item, 10000, 5)); /* never asked for */
    fetch_free(f);
}

/* Small ones before large ones, whatever came first. */
static void test_small_ones_first(void **state) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES];
    struct fetch_ask a;
    (void)state;
    struct fetch *f = fetch_new(1);
    id_of(0, id);
    fetch_peer_up(f, id);
    static const uint64_t sizes[] = {9u << 20, 1000, 80u << 20, 1, 1u << 20, 300u << 20};
    static const int order[] = {1, 3, 4, 0, 2};
    for (int i = 0; i < 6; i++) {
        hash_of(i, hash);
        fetch_add(f, hash, sizes[i], NULL, NULL);
    }
    for (int i = 0; i < 5; i++) {
        assert_true(fetch_next(f, 1, &a));
        assert_int_equal(fetch_hash(a.item)[0] - 1, order[i]);
    }
    assert_false(fetch_next(f, 1, &a)); /* the largest waits for its turn */
    fetch_free(f);
}

/* Large, of so many chunks, which peer 0 has: as of here the chunks are asked of it. */
static struct fetch_item *listed(struct fetch *f, int item, uint32_t chunks, const uint8_t *bitmap) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES];
    struct fetch_ask a;
    id_of(0, id);
    hash_of(item, hash);
    fetch_peer_up(f, id);
    struct fetch_item *it = fetch_add(f, hash, (uint64_t)chunks << 16, NULL, NULL);
    fetch_listed(f, it, chunks);
    assert_true(fetch_next(f, 1, &a) && a.kind == FETCH_WHO && a.item == it);
    fetch_said(f, id, hash, chunks, bitmap, bitmap != NULL ? (chunks + 7) / 8 : 0, 1);
    return it;
}

/* However many of its chunks were on their way when the first was found to be wrong: one content that rotted at a peer is no reason to ask it for no other. */
static void test_one_fault_a_content(void **state) {
    uint8_t id[NODE_ID_BYTES];
    struct fetch_ask a;
    (void)state;
    struct fetch *f = fetch_new(1);
    id_of(0, id);
    for (int i = 0; i < FETCH_FAULTS_MAX; i++) {
        struct fetch_item *item = listed(f, i, 16, NULL);
        uint32_t came = 0;
        while (fetch_next(f, 1, &a))
            for (uint32_t at = a.first; at < a.first + a.count; at++, came++)
                assert_true(fetch_came(f, id, item, at, 1));
        assert_true(came > FETCH_FAULTS_MAX);
        assert_false(fetch_shunned(f, id, 1));
        for (uint32_t at = 0; at < came; at++)
            fetch_wrong(f, id, item, at, 1);
        assert_true(fetch_shunned(f, id, 1) == (i == FETCH_FAULTS_MAX - 1));
    }
    fetch_free(f);
}

/* Who holds the same half as we do is no source, and it can be said that nobody has the rest. */
static void test_half_a_content_at_both(void **state) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES], bitmap[2] = {0x0f, 0};
    struct fetch_ask a;
    (void)state;
    struct fetch *f = fetch_new(1);
    id_of(0, id);
    hash_of(0, hash);
    struct fetch_item *item = listed(f, 0, 16, bitmap);
    assert_int_equal(fetch_sources(f, item), 1);
    assert_true(fetch_next(f, 1, &a) && a.kind == FETCH_CHUNKS && a.first == 0 && a.count == 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(fetch_came(f, id, item, i, 1));
        fetch_here(f, item, i);
    }
    assert_false(fetch_next(f, 1, &a));
    assert_int_equal(fetch_sources(f, item), 0);
    assert_true(fetch_is_stuck(item));
    uint64_t now = fetch_deadline(f);
    while (!fetch_next(f, now, &a)) /* but it goes on looking */
        now = fetch_deadline(f);
    assert_int_equal(a.kind, FETCH_WHO);
    bitmap[1] = 1;
    fetch_said(f, id, hash, 16, bitmap, 2, now);
    assert_int_equal(fetch_sources(f, item), 1);
    assert_true(fetch_next(f, now, &a) && a.kind == FETCH_CHUNKS && a.first == 8);
    fetch_free(f);
}

struct owed {
    uint32_t item, chunk;
};

static void comes(struct fetch *f, int peer, const struct owed *o, uint64_t now, uint32_t *left) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES] = {0};
    id_of(peer, id);
    memcpy(hash, &o->item, sizeof o->item);
    struct fetch_item *item = fetch_find(f, hash);
    if (item == NULL || !fetch_came(f, id, item, o->chunk, now))
        return;
    fetch_here(f, item, o->chunk);
    if (fetch_left(item) > 0)
        return;
    fetch_remove(f, item);
    --*left;
}

/* Peer 0 gives at once all that was asked, peer 1 a chunk now and then. */
static uint64_t time_with_one_who_trickles(uint64_t every_ms, uint64_t size, uint32_t chunks, uint32_t contents) {
    static struct owed owed[2][65536];
    uint32_t count[2] = {0}, at[2] = {0}, left = contents;
    uint64_t now = 1, next = every_ms;
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES] = {0};
    struct fetch_ask a;
    struct fetch *f = fetch_new(1);
    for (int i = 0; i < 2; i++) {
        id_of(i, id);
        fetch_peer_up(f, id);
    }
    for (uint32_t i = 0; i < contents; i++) {
        memcpy(hash, &i, sizeof i);
        assert_non_null(fetch_add(f, hash, size, NULL, NULL));
    }
    while (left > 0 && now < 600000) {
        while (fetch_next(f, now, &a)) {
            int peer = a.peer[0] - 1;
            if (a.kind == FETCH_WHO)
                fetch_said(f, a.peer, fetch_hash(a.item), chunks, NULL, 0, now);
            else if (a.kind == FETCH_LIST && fetch_list_came(f, a.peer, a.item, now))
                assert_int_equal(fetch_listed(f, a.item, chunks), 0);
            for (uint32_t i = 0; a.kind == FETCH_CHUNKS && i < a.count; i++) {
                struct owed *o = &owed[peer][count[peer]++];
                memcpy(&o->item, fetch_hash(a.item), sizeof o->item);
                o->chunk = a.first + i;
            }
        }
        bool some = at[0] < count[0];
        while (at[0] < count[0])
            comes(f, 0, &owed[0][at[0]++], now, &left);
        if (some)
            continue;
        now = fetch_deadline(f) < next ? fetch_deadline(f) : next;
        if (now == next && at[1] < count[1])
            comes(f, 1, &owed[1][at[1]++], now, &left);
        next += now == next ? every_ms : 0;
    }
    fetch_free(f);
    print_message("%u of %llu bytes: %llu ms\n", contents, (unsigned long long)size, (unsigned long long)now);
    return now;
}

/* Who is slow, or wants to be, does not hold up what somebody else has. */
static void test_who_trickles_is_not_waited_for(void **state) {
    (void)state;
    assert_in_range(time_with_one_who_trickles(1500, 200u << 16, 200, 1), 1, 2 * FETCH_SLOW_MS);
    assert_in_range(time_with_one_who_trickles(1500, 1000, 1, 1500), 1, 2 * FETCH_SLOW_MS);
    assert_in_range(time_with_one_who_trickles(3600000, 200u << 16, 200, 1), 1, FETCH_STALL_MS + 1); /* nothing at all */
    assert_in_range(time_with_one_who_trickles(3600000, 1000, 1, 1500), 1, FETCH_STALL_MS + 1);
}

/* The list is asked of another one when it does not come, or comes and comes and does not end. */
static void test_a_list_that_does_not_end(void **state) {
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES];
    struct fetch_ask a;
    (void)state;
    for (int trickles = 0; trickles < 2; trickles++) {
        struct fetch *f = fetch_new(1);
        hash_of(0, hash);
        for (int i = 0; i < 2; i++) {
            id_of(i, id);
            fetch_peer_up(f, id);
        }
        fetch_add(f, hash, 10u << 20, NULL, NULL);
        uint64_t now = 1, asked_ms = 0;
        int of = -1;
        while (now < 600000) {
            bool any = fetch_next(f, now, &a);
            if (any && a.kind == FETCH_WHO)
                fetch_said(f, a.peer, hash, 160, NULL, 0, now);
            if (any && a.kind == FETCH_LIST && of >= 0)
                break;
            if (any && a.kind == FETCH_LIST) {
                of = a.peer[0];
                asked_ms = now;
            }
            now += any ? 0 : 500;
            id_of(of - 1, id);
            if (!any && trickles && of >= 0)
                fetch_list_came(f, id, a.item, now);
        }
        assert_int_not_equal(a.peer[0], of);
        print_message("the list: asked of another one after %llu ms\n", (unsigned long long)(now - asked_ms));
        assert_in_range(now - asked_ms, FETCH_STALL_MS, trickles ? 40000 : FETCH_STALL_MS + 500);
        fetch_free(f);
    }
}

/* CPU time until it is known of `count` more that their only peer has none of them. */
static clock_t nobody_has(struct fetch *f, uint32_t from, uint32_t count) {
    static struct fetch_item *asked[8192];
    uint8_t id[NODE_ID_BYTES], hash[CONTENT_HASH_BYTES] = {0};
    uint32_t gone = 0;
    struct fetch_ask a;
    id_of(0, id);
    for (uint32_t i = from; i < from + count; i++) {
        memcpy(hash, &i, sizeof i);
        fetch_add(f, hash, 1000, NULL, NULL);
    }
    clock_t begin = clock();
    while (gone < count) {
        uint32_t n = 0;
        while (n < 8192 && fetch_next(f, 1, &a))
            asked[n++] = a.item;
        assert_true(n > 0);
        for (uint32_t i = 0; i < n; i++, gone++)
            fetch_gone(f, id, fetch_hash(asked[i]), 0, 1, 1);
    }
    assert_false(fetch_next(f, 1, &a));
    return clock() - begin;
}

/* However many contents nobody has: finding that out of more of them costs as much as of the first. */
static void test_many_that_nobody_has(void **state) {
    uint8_t id[NODE_ID_BYTES];
    (void)state;
    struct fetch *f = fetch_new(1);
    id_of(0, id);
    fetch_peer_up(f, id);
    clock_t first = nobody_has(f, 0, 10000);
    nobody_has(f, 10000, 40000);
    clock_t last = nobody_has(f, 50000, 10000);
    print_message("the first ones %.1f ms, the last ones %.1f ms\n", 1e3 * (double)first / CLOCKS_PER_SEC,
                  1e3 * (double)last / CLOCKS_PER_SEC);
    assert_true(last < 4 * first + CLOCKS_PER_SEC / 20);
    fetch_free(f);
}

int main(void) {
    seed = seed_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_window),
        cmocka_unit_test(test_small_ones_first),
        cmocka_unit_test(test_one_fault_a_content),
        cmocka_unit_test(test_half_a_content_at_both),
        cmocka_unit_test(test_who_trickles_is_not_waited_for),
        cmocka_unit_test(test_a_list_that_does_not_end),
        cmocka_unit_test(test_many_that_nobody_has),
        cmocka_unit_test(test_random_worlds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
