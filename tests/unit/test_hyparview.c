/* The views of a large cluster: joining, symmetry, repair, shuffles, and the tree over them. A world of many nodes whose messages arrive one
 * at a time in random order of senders; what is said to a dead node is told as a loss. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/plumtree.h"

#define NODES 300u
#define POSTS (1u << 20)

struct post {
    uint32_t from, to;
    struct hyparview_message m;
};

struct world {
    struct hyparview node[NODES];
    bool dead[NODES];
    struct post *post; /* a ring */
    uint32_t first, count;
    uint64_t now, messages;
};

static void id_of(hyparview_id id, uint32_t n) {
    memset(id, 0, NODE_ID_BYTES);
    memcpy(id, &n, sizeof n);
}

static uint32_t node_of(const hyparview_id id) {
    uint32_t n;
    memcpy(&n, id, sizeof n);
    assert_true(n < NODES);
    return n;
}

static void carry(struct world *w, uint32_t from, const struct hyparview_out *out) {
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->actions[i].what != HYPARVIEW_SEND)
            continue;
        assert_true(w->count < POSTS);
        w->post[(w->first + w->count++) % POSTS] = (struct post){from, node_of(out->actions[i].id), out->actions[i].message};
    }
}

static void pump(struct world *w) {
    struct hyparview_out out;
    while (w->count) {
        struct post p = w->post[w->first];
        w->first = (w->first + 1) % POSTS;
        w->count--;
        w->messages++;
        if (w->dead[p.from])
            continue;
        hyparview_id from, to;
        id_of(from, p.from);
        id_of(to, p.to);
        if (w->dead[p.to]) {
            hyparview_lost(&w->node[p.from], to, true, w->now, &out);
            carry(w, p.from, &out);
        } else {
            hyparview_receive(&w->node[p.to], from, &p.m, w->now, &out);
            carry(w, p.to, &out);
        }
    }
}

static void pass(struct world *w, uint64_t ms) {
    struct hyparview_out out;
    for (uint64_t end = w->now + ms; w->now < end;) {
        w->now += 100;
        for (uint32_t i = 0; i < NODES; i++) {
            if (w->dead[i] || hyparview_deadline(&w->node[i]) > w->now)
                continue;
            hyparview_tick(&w->node[i], w->now, &out);
            carry(w, i, &out);
        }
        pump(w);
    }
}

static struct world *world(void) {
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->post = calloc(POSTS, sizeof *w->post);
    assert_non_null(w->post);
    w->now = 1000;
    for (uint32_t i = 0; i < NODES; i++) {
        hyparview_id id, contact;
        id_of(id, i);
        hyparview_init(&w->node[i], id, 7, NODES, w->now);
        if (i == 0)
            continue;
        struct hyparview_out out;
        id_of(contact, 0); /* all join at the same one, the worst for it */
        hyparview_join(&w->node[i], contact, &out);
        carry(w, i, &out);
        pump(w);
    }
    return w;
}

static void leave(struct world *w) {
    free(w->post);
    free(w);
}

/* How many of the living are reached from the first of them over active links. */
static uint32_t reached(const struct world *w) {
    static uint32_t queue[NODES];
    bool seen[NODES] = {false};
    uint32_t first = 0, count = 0, start = 0;
    while (w->dead[start])
        start++;
    queue[count++] = start;
    seen[start] = true;
    while (first < count) {
        const struct hyparview *h = &w->node[queue[first++]];
        for (uint32_t i = 0; i < h->active_count; i++) {
            uint32_t n = node_of(h->active[i]);
            if (!w->dead[n] && !seen[n]) {
                seen[n] = true;
                queue[count++] = n;
            }
        }
    }
    return count;
}

static void sane(const struct world *w) {
    for (uint32_t i = 0; i < NODES; i++) {
        const struct hyparview *h = &w->node[i];
        if (w->dead[i])
            continue;
        assert_true(h->active_count <= h->active_max && h->passive_count <= h->passive_max);
        hyparview_id self;
        id_of(self, i);
        for (uint32_t k = 0; k < h->active_count; k++) {
            assert_memory_not_equal(h->active[k], self, NODE_ID_BYTES);
            assert_true(w->dead[node_of(h->active[k])] || hyparview_is_active(&w->node[node_of(h->active[k])], self));
            for (uint32_t j = 0; j < h->passive_count; j++)
                assert_memory_not_equal(h->active[k], h->passive[j], NODE_ID_BYTES);
        }
        for (uint32_t k = 0; k < h->passive_count; k++)
            assert_memory_not_equal(h->passive[k], self, NODE_ID_BYTES);
    }
}

static void sizes_follow_the_cluster(void **state) {
    (void)state;
    assert_int_equal(hyparview_active_for(1), 2);
    assert_int_equal(hyparview_active_for(51), 4);
    assert_int_equal(hyparview_active_for(1000), 5);
    assert_int_equal(hyparview_active_for(10000), 6);
    assert_int_equal(hyparview_active_for(10001), 7);
    assert_int_equal(hyparview_active_for(UINT64_MAX), HYPARVIEW_ACTIVE_MAX);
}

static void all_join_at_one_and_views_are_symmetric(void **state) {
    (void)state;
    struct world *w = world();
    pass(w, 30000);
    sane(w);
    assert_int_equal(reached(w), NODES);
    for (uint32_t i = 0; i < NODES; i++) {
        assert_true(w->node[i].active_count >= 2);
        assert_true(w->node[i].passive_count >= 10);
    }
    leave(w);
}

static void kill_and_notice(struct world *w, unsigned percent) {
    for (uint32_t i = 0; i < NODES; i++)
        w->dead[i] = i * 7919u % 100 < percent;
    struct hyparview_out out;
    for (uint32_t i = 0; i < NODES; i++) { /* closed sockets */
        for (uint32_t k = 0; !w->dead[i] && k < w->node[i].active_count;) {
            hyparview_id id;
            memcpy(id, w->node[i].active[k], NODE_ID_BYTES);
            if (w->dead[node_of(id)]) {
                hyparview_lost(&w->node[i], id, true, w->now, &out);
                carry(w, i, &out);
                k = 0;
            } else {
                k++;
            }
        }
    }
    pump(w);
}

static void four_in_five_fail_at_once(void **state) {
    (void)state;
    struct world *w = world();
    pass(w, 60000);
    kill_and_notice(w, 80);
    pass(w, 3000); /* what still waits for an answer gives up */
    sane(w);
    uint32_t alive = 0;
    for (uint32_t i = 0; i < NODES; i++)
        alive += !w->dead[i];
    assert_int_equal(reached(w), alive);
    leave(w);
}

static void a_full_view_refuses_but_not_who_has_nobody(void **state) {
    (void)state;
    struct hyparview h;
    struct hyparview_out out;
    hyparview_id id;
    id_of(id, 0);
    hyparview_init(&h, id, 1, 1000, 0);
    for (uint32_t i = 1; i <= h.active_max; i++) {
        id_of(id, i);
        hyparview_receive(&h, id, &(struct hyparview_message){.type = HYPARVIEW_NEIGHBOR}, 0, &out);
        assert_int_equal(out.actions[0].message.type, HYPARVIEW_ACCEPT);
        assert_int_equal(out.actions[1].what, HYPARVIEW_UP);
    }
    id_of(id, 100);
    hyparview_receive(&h, id, &(struct hyparview_message){.type = HYPARVIEW_NEIGHBOR}, 0, &out);
    assert_int_equal(out.count, 1);
    assert_int_equal(out.actions[0].message.type, HYPARVIEW_REFUSE);
    hyparview_receive(&h, id, &(struct hyparview_message){.type = HYPARVIEW_NEIGHBOR, .urgent = true}, 0, &out);
    assert_true(hyparview_is_active(&h, id));
    assert_int_equal(h.active_count, h.active_max);
    assert_int_equal(out.count, 4); /* ACCEPT; DISCONNECT and DOWN of another; UP */
    hyparview_resize(&h, 10, 0, &out);
    assert_int_equal(h.active_count, 3);
}

static void a_reply_finds_its_way_back_or_is_dropped(void **state) {
    (void)state;
    struct hyparview h;
    struct hyparview_out out;
    hyparview_id id, back;
    id_of(id, 0);
    hyparview_init(&h, id, 1, 1000, 0);
    id_of(id, 1);
    id_of(back, 2);
    hyparview_receive(&h, back, &(struct hyparview_message){.type = HYPARVIEW_JOIN}, 0, &out);
    struct hyparview_message m = {.type = HYPARVIEW_SHUFFLE_REPLY, .ids_count = 1, .path_count = 1};
    id_of(m.ids[0], 50);
    memcpy(m.path[0], back, NODE_ID_BYTES);
    hyparview_receive(&h, id, &m, 0, &out);
    assert_int_equal(out.count, 1);
    assert_memory_equal(out.actions[0].id, back, NODE_ID_BYTES);
    assert_int_equal(out.actions[0].message.path_count, 0);
    assert_int_equal(h.passive_count, 0); /* not for us */
    hyparview_lost(&h, back, true, 0, &out);
    hyparview_receive(&h, id, &m, 0, &out);
    assert_int_equal(out.count, 0);
    m.path_count = 0;
    hyparview_receive(&h, id, &m, 0, &out);
    assert_int_equal(h.passive_count, 1);
}

/* Anything that a hostile neighbour can say leaves views that hold together. */
static void whatever_is_said(void **state) {
    (void)state;
    struct hyparview h;
    struct hyparview_out out;
    hyparview_id self;
    id_of(self, 0);
    hyparview_init(&h, self, 1, 100, 0);
    uint64_t x = 88172645463325252u;
    for (uint64_t round = 0; round < 200000; round++) {
        struct hyparview_message m = {.steps = (uint32_t)x};
        hyparview_id from;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        id_of(from, 1 + (uint32_t)(x % 40));
        m.type = (enum hyparview_type)(x >> 8 & 7);
        m.urgent = x >> 16 & 1;
        m.ids_count = (uint32_t)(x >> 20) % (HYPARVIEW_SHUFFLE + 1);
        m.path_count = (uint32_t)(x >> 28) % (HYPARVIEW_WALK + 1);
        for (uint32_t i = 0; i < m.ids_count; i++)
            id_of(m.ids[i], (uint32_t)(x >> (i + 3)) % 40);
        for (uint32_t i = 0; i < m.path_count; i++)
            id_of(m.path[i], (uint32_t)(x >> (i + 9)) % 40);
        hyparview_receive(&h, from, &m, round, &out);
        if (x % 11 == 0)
            hyparview_lost(&h, from, x & 1024, round, &out);
        if (x % 5 == 0)
            hyparview_tick(&h, round * 10, &out);
        assert_true(h.active_count <= h.active_max && h.passive_count <= h.passive_max && h.asking_count <= HYPARVIEW_ASKING);
        assert_false(hyparview_is_active(&h, self));
    }
}

static void the_tree_prunes_and_grafts(void **state) {
    (void)state;
    struct plumtree t = {0};
    hyparview_id a, b;
    id_of(a, 1);
    id_of(b, 2);
    assert_false(plumtree_eager(&t, a));
    plumtree_up(&t, a);
    plumtree_up(&t, b);
    assert_true(plumtree_eager(&t, a) && plumtree_eager(&t, b));
    assert_false(plumtree_pushed(&t, a, false));
    assert_true(plumtree_pushed(&t, b, true)); /* PRUNE is told once */
    assert_false(plumtree_pushed(&t, b, true));
    assert_false(plumtree_eager(&t, b));
    assert_false(plumtree_ask(&t, a));
    assert_true(plumtree_ask(&t, b));
    assert_true(plumtree_eager(&t, b));
    plumtree_told(&t, b, false);
    assert_false(plumtree_eager(&t, b));
    plumtree_told(&t, b, true);
    assert_true(plumtree_eager(&t, b));
    plumtree_down(&t, a);
    assert_false(plumtree_eager(&t, a));
    assert_false(plumtree_pushed(&t, a, true)); /* no neighbour any more */
    plumtree_told(&t, b, false);
    plumtree_up(&t, b); /* a new link with the same one */
    assert_true(plumtree_eager(&t, b));
    assert_int_equal(t.count, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_follow_the_cluster),
        cmocka_unit_test(all_join_at_one_and_views_are_symmetric),
        cmocka_unit_test(four_in_five_fail_at_once),
        cmocka_unit_test(a_full_view_refuses_but_not_who_has_nobody),
        cmocka_unit_test(a_reply_finds_its_way_back_or_is_dropped),
        cmocka_unit_test(whatever_is_said),
        cmocka_unit_test(the_tree_prunes_and_grafts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
