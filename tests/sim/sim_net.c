/* The simulated network: connections with two byte streams each, which break, stall, half-open and lose, though never
 * reorder within a stream (they are TCP). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static bool blocked(const struct sim *sim, const struct sim_conn *c) {
    return sim->apart[c->node[0]][c->node[1]] || c->stalled_until_us > sim->now_us;
}

static struct sim_conn *find(struct sim *sim, unsigned node, uint64_t link, unsigned *end) {
    for (struct sim_conn *c = sim->conns; c; c = c->next) {
        for (*end = 0; *end < 2; ++*end)
            if (c->open[*end] && c->node[*end] == node && c->link[*end] == link)
                return c;
    }
    return NULL;
}

static void wake(struct sim *sim, struct sim_conn *c, unsigned end, uint64_t delay_us) {
    if (c->to[end].busy)
        return;
    c->to[end].busy = true;
    struct sim_event *e = sim_schedule(sim, SIM_DATA, delay_us, c->node[end]);
    e->conn = c;
    e->end = end;
}

static void closed_later(struct sim *sim, struct sim_conn *c, unsigned end, uint64_t delay_us) {
    struct sim_event *e = sim_schedule(sim, SIM_CLOSED, delay_us, c->node[end]);
    e->conn = c;
    e->end = end;
}

void sim_net_dial(struct sim *sim, unsigned node, const struct effect *fx) {
    struct sim_event *e = sim_schedule(sim, SIM_DIALLED, 200 + sim_below(sim, 3000), node);
    e->number = fx->dial;
    snprintf(e->text, sizeof e->text, "%.60s", fx->text);
}

static void append(struct sim_stream *s, const void *p, size_t n) {
    if (s->first && s->first + s->len + n > s->cap) {
        memmove(s->data, s->data + s->first, s->len);
        s->first = 0;
    }
    if (s->len + n > s->cap) {
        s->cap = (s->len + n) * 2;
        s->data = realloc(s->data, s->cap);
        assert(s->data);
    }
    memcpy(s->data + s->first + s->len, p, n);
    s->len += n;
}

void sim_net_send(struct sim *sim, unsigned node, const struct effect *fx) {
    unsigned end;
    struct sim_conn *c = find(sim, node, fx->link, &end);
    if (!c)
        return; /* broken, and the core will hear of it */
    struct sim_stream *s = &c->to[!end];
    if (s->fin) {
        sim_fail(sim, "node %u sends on a link that it closed", node);
        return;
    }
    if (!s->cut) {
        append(s, fx->head, fx->len);
        if (fx->batch)
            append(s, fx->batch->data + fx->batch_from, fx->batch_to - fx->batch_from);
        /* one read answer is a MiB, or one batch of whatever size; the largest here is below 400 kB */
        if (s->len > sim->queue_max + (2u << 20))
            sim_fail(sim, "node %u has %zu bytes queued for one link", node, s->len);
        wake(sim, c, !end, 100 + sim_below(sim, sim_chance(sim, 50) ? 40000 : 1500));
    }
}

void sim_net_close(struct sim *sim, unsigned node, uint64_t link) {
    unsigned end;
    struct sim_conn *c = find(sim, node, link, &end);
    if (!c || c->to[!end].fin)
        return;
    c->to[!end].fin = true;
    c->to[end].cut = true;
    c->to[end].len = 0;
    wake(sim, c, !end, 100 + sim_below(sim, 1500));
    closed_later(sim, c, end, 500);
}

/* Both ends are cut; each hears of it soon, later, or never (then silence tells). */
static void sever(struct sim *sim, struct sim_conn *c) {
    for (unsigned end = 0; end < 2; end++) {
        c->to[end].cut = true;
        c->to[end].len = 0;
        if (c->open[end] && !sim_chance(sim, 250))
            closed_later(sim, c, end, sim_below(sim, sim_chance(sim, 200) ? 800000 : 2000));
    }
}

void sim_net_down(struct sim *sim, unsigned node) {
    for (struct sim_conn *c = sim->conns; c; c = c->next) {
        for (unsigned end = 0; end < 2; end++) {
            if (c->node[end] != node || !c->open[end])
                continue;
            c->open[end] = false;
            c->to[0].cut = c->to[1].cut = true;
            c->to[0].len = c->to[1].len = 0;
            if (c->open[!end] && !blocked(sim, c))
                closed_later(sim, c, !end, 200 + sim_below(sim, 1000));
        }
    }
}

void sim_net_fault(struct sim *sim) {
    unsigned count = 0;
    for (struct sim_conn *c = sim->conns; c; c = c->next)
        count += c->open[0] && c->open[1];
    if (!count)
        return;
    uint64_t pick = sim_below(sim, count);
    for (struct sim_conn *c = sim->conns; c; c = c->next) {
        if (!c->open[0] || !c->open[1] || pick--)
            continue;
        if (sim_chance(sim, 500))
            sever(sim, c);
        else
            c->stalled_until_us = sim->now_us + sim_below(sim, 4000000);
        return;
    }
}

/* ---- events */

static void dialled(struct sim *sim, const struct sim_event *e) {
    unsigned to = SIM_NODES_MAX, from = e->node;
    sscanf(e->text, "n%u", &to);
    bool reachable = to < sim->nodes && sim->node[to].core && !sim->apart[from][to];
    if (!reachable || (!sim->healing && sim_chance(sim, 50))) {
        sim_step(sim, from, &(struct event){.type = EVENT_DIAL_FAILED, .dial = e->number, .text = "refused"});
        return;
    }
    struct sim_conn *c = calloc(1, sizeof *c);
    assert(c);
    c->next = sim->conns;
    sim->conns = c;
    const unsigned ends[2] = {from, to};
    for (unsigned i = 0; i < 2; i++) {
        struct sim_node *n = &sim->node[ends[i]];
        c->node[i] = ends[i];
        c->link[i] = ++n->next_link;
        c->life[i] = n->life;
        c->open[i] = true;
    }
    char address[32];
    for (unsigned i = 0; i < 2; i++) {
        snprintf(address, sizeof address, "n%u:%u", c->node[!i], i ? 40000 : 1);
        if (c->open[i])
            sim_step(sim, c->node[i],
                     &(struct event){.type = EVENT_LINK_OPEN,
                                     .link = c->link[i],
                                     .dial = i ? 0 : e->number,
                                     .address = address,
                                     .key = sim->node[c->node[!i]].key});
    }
}

static void closed(struct sim *sim, const struct sim_event *e) {
    struct sim_conn *c = e->conn;
    if (!c->open[e->end])
        return;
    c->open[e->end] = false;
    c->to[!e->end].fin = true;
    wake(sim, c, !e->end, 300);
    sim_step(sim, c->node[e->end], &(struct event){.type = EVENT_LINK_CLOSED, .link = c->link[e->end], .text = "closed"});
}

static void sent(struct sim *sim, struct sim_conn *c, unsigned end) {
    if (c->open[end])
        sim_step(sim, c->node[end], &(struct event){.type = EVENT_LINK_SENT, .link = c->link[end], .queued = c->to[!end].len});
}

static void data(struct sim *sim, const struct sim_event *e) {
    struct sim_conn *c = e->conn;
    struct sim_stream *s = &c->to[e->end];
    s->busy = false;
    if (!c->open[e->end]) {
        s->len = 0;
        return;
    }
    if (blocked(sim, c)) {
        wake(sim, c, e->end, 20000);
        return;
    }
    if (s->len == 0) {
        if (s->fin && !s->cut)
            closed_later(sim, c, e->end, 0);
        return;
    }
    size_t n = s->len;
    if (sim_chance(sim, 300))
        n = 1 + (size_t)sim_below(sim, n); /* pieces of any size */
    uint8_t *piece = malloc(n);
    assert(piece);
    memcpy(piece, s->data + s->first, n);
    s->first += n;
    s->len -= n;
    sim_trace(sim, 1, n);
    sim_step(sim, c->node[e->end], &(struct event){.type = EVENT_LINK_DATA, .link = c->link[e->end], .data = piece, .len = n});
    free(piece);
    sent(sim, c, !e->end);
    if (s->len || s->fin)
        wake(sim, c, e->end, 50 + sim_below(sim, 500));
}

void sim_net_event(struct sim *sim, struct sim_event *e) {
    if (e->kind == SIM_DIALLED)
        dialled(sim, e);
    else if (e->conn->life[e->end] != sim->node[e->conn->node[e->end]].life)
        e->conn->to[e->end].busy = false; /* of an earlier life */
    else if (e->kind == SIM_CLOSED)
        closed(sim, e);
    else
        data(sim, e);
}

void sim_net_free(struct sim *sim) {
    while (sim->conns) {
        struct sim_conn *c = sim->conns;
        sim->conns = c->next;
        free(c->to[0].data);
        free(c->to[1].data);
        free(c);
    }
}
