/* Views and trees alone (proto/hyparview.c, proto/plumtree.c), for clusters beyond what whole cores fit: nodes join at random ones, shuffle,
 * some fail all at once, and events go out from anywhere. Links take 1 to 10 ms. Announcements follow a payload by 20 ms, and what was announced
 * is waited for 40 ms, as VECTORs and PULLs do it in the core. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/plumtree.h"
#include "tools/sim/sim.h"

#define LINK_US 1000u
#define LINK_JITTER_US 9000u
#define ANNOUNCE_US 20000u
#define PATIENCE_US 40000u
#define NOTICE_US 100000u /* until a closed socket is seen everywhere */
#define EVENT_US 3000000u /* between two events */
#define ANNOUNCERS 8u
#define SEARCH 32u /* of the 4,096 members that a core knows, see overlay.c */

enum kind { VIEW, TICK, LOST, PAYLOAD, ANNOUNCE, HAVE, MISSING, GRAFT, PRUNE, KINDS };

struct happening {
    enum kind kind;
    uint32_t node, from, event;
    struct hyparview_message *message; /* VIEW */
};

struct slot {
    uint64_t at_us, serial;
    struct happening what;
};

struct view_node {
    struct hyparview views;
    struct plumtree tree;
    bool dead;
    uint64_t tick_us;
    uint32_t got, announcers_count; /* got: the latest event */
    uint32_t announcers[ANNOUNCERS];
};

struct views {
    struct view_node *node;
    uint32_t nodes, event, reached;
    uint64_t now_us, random, serial, counts[KINDS], sent_us, last_us;
    struct slot *heap;
    size_t count, cap;
    struct hyparview_out out;
};

static uint64_t draw(struct views *v, uint64_t below) {
    uint64_t z = v->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static void id_of(hyparview_id id, uint32_t n) {
    memset(id, 0, NODE_ID_BYTES);
    memcpy(id, &n, sizeof n);
}

static uint32_t node_of(const hyparview_id id) {
    uint32_t n;
    memcpy(&n, id, sizeof n);
    return n;
}

/* ---- time */

static bool before(const struct slot *a, const struct slot *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->serial < b->serial;
}

static void put(struct views *v, uint64_t delay_us, struct happening what) {
    if (v->count == v->cap) {
        v->cap = v->cap ? v->cap * 2 : 4096;
        v->heap = realloc(v->heap, v->cap * sizeof *v->heap);
        assert(v->heap);
    }
    struct slot s = {v->now_us + delay_us, ++v->serial, what};
    size_t i = v->count++;
    for (; i && before(&s, &v->heap[(i - 1) / 2]); i = (i - 1) / 2)
        v->heap[i] = v->heap[(i - 1) / 2];
    v->heap[i] = s;
}

static struct happening take(struct views *v) {
    struct slot top = v->heap[0], last = v->heap[--v->count];
    size_t i = 0, left;
    while ((left = 2 * i + 1) < v->count) {
        size_t least = left + 1 < v->count && before(&v->heap[left + 1], &v->heap[left]) ? left + 1 : left;
        if (!before(&v->heap[least], &last))
            break;
        v->heap[i] = v->heap[least];
        i = least;
    }
    v->heap[i] = last;
    v->now_us = top.at_us;
    return top.what;
}

static void send(struct views *v, enum kind kind, uint32_t from, uint32_t to, const struct hyparview_message *m) {
    struct happening what = {.kind = kind, .node = to, .from = from, .event = v->event};
    if (m) {
        what.message = malloc(sizeof *m);
        assert(what.message);
        *what.message = *m;
    }
    v->counts[kind]++;
    put(v, LINK_US + draw(v, LINK_JITTER_US), what);
}

/* ---- views */

static void carry_out(struct views *v, uint32_t n) {
    struct view_node *node = &v->node[n];
    for (uint32_t i = 0; i < v->out.count; i++) {
        const struct hyparview_action *a = &v->out.actions[i];
        if (a->what == HYPARVIEW_SEND)
            send(v, VIEW, n, node_of(a->id), &a->message);
        else if (a->what == HYPARVIEW_UP)
            plumtree_up(&node->tree, a->id);
        else
            plumtree_down(&node->tree, a->id);
    }
    v->out.count = 0;
    uint64_t at = hyparview_deadline(&node->views) * 1000;
    if (at < node->tick_us || node->tick_us <= v->now_us) {
        node->tick_us = at;
        put(v, at > v->now_us ? at - v->now_us : 1, (struct happening){.kind = TICK, .node = n});
    }
}

/* Who has lost everybody asks others that it once heard of, as the core does. */
static void search(struct views *v, struct view_node *node) {
    hyparview_id id;
    for (uint32_t i = 0; i < SEARCH && node->views.active_count == 0; i++) {
        id_of(id, (uint32_t)draw(v, v->nodes));
        hyparview_offer(&node->views, id);
    }
}

static void lost(struct views *v, uint32_t n, uint32_t other) {
    hyparview_id id;
    id_of(id, other);
    hyparview_lost(&v->node[n].views, id, true, v->now_us / 1000, &v->out);
    carry_out(v, n);
}

static void join(struct views *v, uint32_t n) {
    hyparview_id id, contact;
    id_of(id, n);
    hyparview_init(&v->node[n].views, id, v->random, v->nodes, v->now_us / 1000);
    if (n) {
        id_of(contact, (uint32_t)draw(v, n));
        hyparview_join(&v->node[n].views, contact, &v->out);
    }
    carry_out(v, n);
}

/* ---- an event */

static void push(struct views *v, uint32_t n, uint32_t but) {
    const struct plumtree *t = &v->node[n].tree;
    for (uint32_t i = 0; i < t->count; i++)
        if (!t->links[i].lazy && node_of(t->links[i].id) != but)
            send(v, PAYLOAD, n, node_of(t->links[i].id), NULL);
    put(v, ANNOUNCE_US, (struct happening){.kind = ANNOUNCE, .node = n, .from = but, .event = v->event});
}

static void arrived(struct views *v, uint32_t n, uint32_t from) {
    struct view_node *node = &v->node[n];
    hyparview_id id;
    id_of(id, from);
    bool here = node->got == v->event;
    if (plumtree_pushed(&node->tree, id, here))
        send(v, PRUNE, n, from, NULL);
    if (here)
        return;
    node->got = v->event;
    node->announcers_count = 0;
    v->reached++;
    v->last_us = v->now_us;
    push(v, n, from);
}

static void announced(struct views *v, uint32_t n, uint32_t from) {
    struct view_node *node = &v->node[n];
    if (node->got == v->event || node->announcers_count == ANNOUNCERS)
        return;
    node->announcers[node->announcers_count++] = from;
    if (node->announcers_count == 1)
        put(v, PATIENCE_US, (struct happening){.kind = MISSING, .node = n, .event = v->event});
}

static void missing(struct views *v, uint32_t n) {
    struct view_node *node = &v->node[n];
    hyparview_id id;
    if (node->got == v->event || !node->announcers_count)
        return;
    uint32_t from = node->announcers[0];
    memmove(node->announcers, node->announcers + 1, --node->announcers_count * sizeof *node->announcers);
    id_of(id, from);
    plumtree_ask(&node->tree, id);
    send(v, GRAFT, n, from, NULL);
    put(v, PATIENCE_US, (struct happening){.kind = MISSING, .node = n, .event = v->event});
}

static void tree(struct views *v, const struct happening *h) {
    struct view_node *node = &v->node[h->node];
    hyparview_id id;
    id_of(id, h->from);
    if (h->kind == PRUNE || h->kind == GRAFT)
        plumtree_told(&node->tree, id, h->kind == GRAFT);
    if (h->kind == PAYLOAD)
        arrived(v, h->node, h->from);
    else if (h->kind == HAVE)
        announced(v, h->node, h->from);
    else if (h->kind == MISSING)
        missing(v, h->node);
    else if (h->kind == GRAFT && node->got == v->event)
        send(v, PAYLOAD, h->node, h->from, NULL);
    else if (h->kind == ANNOUNCE)
        for (uint32_t i = 0; i < node->tree.count; i++)
            if (node->tree.links[i].lazy && node_of(node->tree.links[i].id) != h->from)
                send(v, HAVE, h->node, node_of(node->tree.links[i].id), NULL);
}

/* ---- running */

static void happen(struct views *v, const struct happening *h) {
    struct view_node *node = &v->node[h->node];
    hyparview_id from;
    if (node->dead) {
        bool asked = h->kind == VIEW || h->kind == PAYLOAD || h->kind == GRAFT;
        if (asked && !v->node[h->from].dead)
            put(v, LINK_US, (struct happening){.kind = LOST, .node = h->from, .from = h->node});
    } else if (h->kind == VIEW) {
        id_of(from, h->from);
        hyparview_receive(&node->views, from, h->message, v->now_us / 1000, &v->out);
        carry_out(v, h->node);
    } else if (h->kind == TICK) {
        if (h->node < v->nodes && node->tick_us <= v->now_us) {
            search(v, node);
            hyparview_tick(&node->views, v->now_us / 1000, &v->out);
            carry_out(v, h->node);
        }
    } else if (h->kind == LOST) {
        lost(v, h->node, h->from);
    } else if (h->event == v->event) {
        tree(v, h);
    }
    free(h->message);
}

static void run(struct views *v, uint64_t us) {
    uint64_t end = v->now_us + us;
    while (v->count && v->heap[0].at_us <= end) {
        struct happening h = take(v);
        happen(v, &h);
    }
    v->now_us = end;
}

static void fail(struct views *v, uint32_t per_cent) {
    uint32_t left = (uint32_t)((uint64_t)v->nodes * per_cent / 100);
    while (left) {
        uint32_t n = (uint32_t)draw(v, v->nodes);
        left -= !v->node[n].dead;
        v->node[n].dead = true;
    }
    for (uint32_t n = 0; n < v->nodes; n++) {
        const struct hyparview *h = &v->node[n].views;
        for (uint32_t i = 0; !v->node[n].dead && i < h->active_count; i++)
            if (v->node[node_of(h->active[i])].dead)
                put(v, draw(v, NOTICE_US), (struct happening){.kind = LOST, .node = n, .from = node_of(h->active[i])});
    }
}

struct outcome {
    double reached, copies, control, ms;
};

/* From random nodes: the share of the living that the worst one reaches, and means. */
static struct outcome events(struct views *v, uint32_t count) {
    struct outcome o = {.reached = 1};
    uint32_t alive = 0;
    for (uint32_t n = 0; n < v->nodes; n++)
        alive += !v->node[n].dead;
    memset(v->counts, 0, sizeof v->counts);
    for (uint32_t e = 0; e < count; e++) {
        uint32_t from = (uint32_t)draw(v, v->nodes);
        while (v->node[from].dead)
            from = (from + 1) % v->nodes;
        v->event++;
        v->reached = 1;
        v->sent_us = v->last_us = v->now_us;
        v->node[from].got = v->event;
        push(v, from, from);
        run(v, EVENT_US);
        double share = (double)v->reached / alive;
        o.reached = share < o.reached ? share : o.reached;
        o.ms += (double)(v->last_us - v->sent_us) / 1000 / count;
    }
    double each = (double)count * (alive > 1 ? alive - 1 : 1);
    o.copies = (double)v->counts[PAYLOAD] / each;
    o.control = (double)(v->counts[HAVE] + v->counts[GRAFT] + v->counts[PRUNE]) / each;
    return o;
}

bool sim_views(uint32_t nodes, uint32_t fails, uint64_t seed) {
    struct views *v = calloc(1, sizeof *v);
    assert(v);
    v->random = seed;
    v->nodes = nodes;
    v->node = calloc(nodes, sizeof *v->node);
    assert(v->node);
    uint64_t gap_us = 60000000 / nodes + 1; /* all within a minute */
    for (uint32_t n = 0; n < nodes; n++) {
        join(v, n);
        run(v, gap_us);
    }
    run(v, 300000000); /* thirty shuffles */
    uint64_t before_us = v->now_us, messages = v->counts[VIEW];
    run(v, 30000000);
    double views = (double)(v->counts[VIEW] - messages) / ((double)(v->now_us - before_us) / 1e6) / nodes;
    events(v, 10); /* the tree settles */
    struct outcome o = events(v, 10), after = {0};
    if (fails) {
        fail(v, fails);
        run(v, 5000000);
        after = events(v, 1);
    }
    uint64_t links = 0, names = 0, alive = 0;
    for (uint32_t n = 0; n < nodes; n++) {
        alive += !v->node[n].dead;
        links += v->node[n].dead ? 0 : v->node[n].views.active_count;
        names += v->node[n].dead ? 0 : v->node[n].views.passive_count;
    }
    printf("%7u nodes: %4.1f links, %5.1f names; %.3f messages/s; an event: %6.2f %% reached, %.3f copies, %.2f other messages a node, "
           "%4.0f ms",
           nodes, (double)links / (double)alive, (double)names / (double)alive, views, o.reached * 100, o.copies, o.control, o.ms);
    if (fails)
        printf("; %u %% fail: %.2f %% of the others reached, %.2f copies", fails, after.reached * 100, after.copies);
    putchar('\n');
    while (v->count) {
        struct happening h = take(v);
        free(h.message);
    }
    free(v->heap);
    free(v->node);
    bool well = o.reached >= 1 && o.copies <= 1.1 && (!fails || after.reached >= 1);
    free(v);
    return well;
}
