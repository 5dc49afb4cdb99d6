/* The simulated network: connections with two byte streams each, which break, stall and half-open. They are TCP: what is lost comes again,
 * after 200 ms and then twice as long each time; what is overtaken waits for what went before; what is doubled costs bytes. */
#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/card.h"
#include "proto/wire.h"
#include "tools/sim/sim.h"

#define RESEND_US 200000u
#define RESEND_MAX_US 8000000u
#define UNTOLD_MAX 4096u
#define SPARE_BYTES_MAX (64u << 10)
#define PACKET_BYTES 16384u /* as large as a record of a link */

static bool blocked(const struct sim *sim, const struct sim_conn *c, unsigned end) {
    return c->stalled_until_us > sim->now_us || !sim_passes(sim, c->node[!end], c->node[end]);
}

static struct sim_conn *find(const struct sim *sim, unsigned node, uint64_t link, unsigned *end) {
    const struct sim_node *n = &sim->node[node];
    if (link == 0 || link > n->links_count)
        return NULL;
    struct sim_conn *c = n->links[link - 1].conn;
    *end = n->links[link - 1].end;
    return c && c->open[*end] ? c : NULL;
}

/* How long a piece is on its way. */
static uint64_t way(struct sim *sim) {
    const struct sim_weather *w = &sim->weather;
    uint64_t us = w->delay_us + sim_below(sim, w->noise && sim_chance(sim, 50) ? 40000 : w->jitter_us);
    for (uint64_t again = RESEND_US; sim_millionth(sim, w->loss); again = again < RESEND_MAX_US ? again * 2 : again)
        us += again;
    if (sim_millionth(sim, w->reorder))
        us += w->delay_us + sim_below(sim, w->jitter_us);
    return us;
}

static void event(struct sim *sim, enum sim_kind kind, struct sim_conn *c, unsigned end, uint64_t delay_us) {
    struct sim_event *e = sim_schedule(sim, kind, delay_us, c->node[end]);
    e->conn = c;
    e->end = end;
    c->events++;
}

/* When nobody holds it any more. */
static void release(struct sim *sim, struct sim_conn *c) {
    if (c->open[0] || c->open[1] || c->events)
        return;
    for (unsigned end = 0; end < 2; end++)
        sim->node[c->node[end]].links[c->link[end] - 1].conn = NULL;
    if (c->previous)
        c->previous->next = c->next;
    else
        sim->conns = c->next;
    if (c->next)
        c->next->previous = c->previous;
    free(c->to[0].data);
    free(c->to[1].data);
    free(c);
}

static void wake(struct sim *sim, struct sim_conn *c, unsigned end, uint64_t delay_us) {
    if (c->to[end].busy)
        return;
    c->to[end].busy = true;
    event(sim, SIM_DATA, c, end, delay_us);
}

static void closed_later(struct sim *sim, struct sim_conn *c, unsigned end, uint64_t delay_us) { event(sim, SIM_CLOSED, c, end, delay_us); }

void sim_net_dial(struct sim *sim, unsigned node, const struct effect *fx) {
    struct sim_event *e = sim_schedule(sim, SIM_DIALLED, 100 + way(sim) + way(sim), node);
    e->number = fx->dial;
    snprintf(e->text, sizeof e->text, "%.30s", fx->text);
}

/* What was read to its end hands its memory on: few streams hold something at a time, and theirs stays in the cache. */
static void emptied(struct sim *sim, struct sim_stream *s) {
    if (sim->spare_count < SIM_SPARE_MAX && s->cap <= SPARE_BYTES_MAX)
        sim->spare[sim->spare_count++] = (struct sim_spare){s->data, s->cap};
    else
        free(s->data);
    s->data = NULL;
    s->first = s->cap = 0;
}

static void append(struct sim *sim, struct sim_stream *s, const void *p, size_t n) {
    if (!s->data && sim->spare_count) {
        const struct sim_spare *spare = &sim->spare[--sim->spare_count];
        s->data = spare->data;
        s->cap = spare->cap;
    }
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

static const char *type_name(unsigned type) {
    static const char *const names[] = {"0",    "HELLO", "REFUSE",  "MEMBERS", "BEAT", "VECTOR", "PULL",
                                        "DONE", "BATCH", "REQUEST", "REPLY",   "BYE",  "LEAVE",  "OVERLAY"};
    return type < sizeof names / sizeof *names ? names[type] : "?";
}

/* The frames of a SEND, a line each. */
static void trace(struct sim *sim, const struct sim_conn *c, unsigned from, const struct effect *fx) {
    for (size_t at = 0; at + 6 <= fx->len;) {
        const uint8_t *p = fx->head + at;
        size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | (size_t)p[3];
        sim->result->frames++;
        if (sim->options.trace)
            fprintf(sim->options.trace, "%10.3f n%u > n%u %s %zu\n", (double)sim->now_us / 1000, c->node[from], c->node[!from],
                    type_name(p[5]), n);
        at += 4 + n;
    }
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
    trace(sim, c, end, fx);
    if (s->cut)
        return;
    size_t before = s->len;
    c->greeted[end] = true;
    append(sim, s, fx->head, fx->len);
    if (fx->batch) {
        append(sim, s, fx->batch->data + fx->batch_from, fx->batch_to - fx->batch_from);
        sim->result->copies += fx->batch_from == 0;
    }
    sim->result->bytes += (s->len - before) * (sim_millionth(sim, sim->weather.duplicate) ? 2 : 1);
    /* one read answer is a MiB, or one batch of whatever size; the largest here is below 400 kB */
    if (s->len > sim->queue_max + (2u << 20) && sim->queue_max)
        sim_fail(sim, "node %u has %zu bytes queued for one link", node, s->len);
    wake(sim, c, !end, way(sim));
}

void sim_net_close(struct sim *sim, unsigned node, uint64_t link) {
    unsigned end;
    struct sim_conn *c = find(sim, node, link, &end);
    if (!c || c->to[!end].fin)
        return;
    c->to[!end].fin = true;
    c->to[end].cut = true;
    c->to[end].len = 0;
    wake(sim, c, !end, way(sim));
    closed_later(sim, c, end, 500);
}

/* Signed by keys of their own, alive by its word, and later each time, so that nobody's doubt holds. */
static void pack_fakes(struct sim *sim, const struct sim_node *n, struct buf *b) {
    size_t at = wire_pack_members(b, n->fakes);
    for (unsigned i = 0; i < n->fakes; i++) {
        uint8_t secret[NODE_SECRET_BYTES], bytes[CARD_BYTES_MAX], seed[32] = {0xfa, (uint8_t)i, (uint8_t)(i >> 8)};
        struct card c = {.incarnation = sim->now_us, .count = 1};
        crypto_sign_seed_keypair(c.key, secret, seed);
        snprintf(c.name, sizeof c.name, "fake%u", i);
        snprintf(c.addresses[0], sizeof c.addresses[0], "n%u:1", SIM_NODES_MAX + i); /* where nobody is */
        size_t len = card_sign(&c, "sim", secret, bytes);
        wire_pack_member(b, &(struct wire_member){.card = bytes, .card_len = len, .flags = WIRE_ALIVE | WIRE_LINKED});
    }
    wire_end(b, at);
}

void sim_net_lie(struct sim *sim, unsigned node) {
    const struct sim_node *n = &sim->node[node];
    struct buf b;
    buf_init(&b, FRAME_BYTES_MAX);
    pack_fakes(sim, n, &b);
    for (uint64_t i = 0; i < n->links_count; i++) {
        unsigned end;
        struct sim_conn *c = find(sim, node, i + 1, &end);
        if (c && c->open[!end] && !c->to[!end].fin && c->greeted[end])
            sim_net_send(sim, node, &(struct effect){.type = EFFECT_SEND, .link = i + 1, .head = b.data, .len = b.len});
    }
    buf_release(&b);
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
    const struct sim_node *n = &sim->node[node];
    for (uint64_t i = 0; i < n->links_count; i++) {
        struct sim_conn *c = n->links[i].conn;
        unsigned end = n->links[i].end;
        if (!c || !c->open[end])
            continue;
        c->open[end] = false;
        c->to[0].cut = c->to[1].cut = true;
        c->to[0].len = c->to[1].len = 0;
        if (c->open[!end] && !blocked(sim, c, !end))
            closed_later(sim, c, !end, 200 + sim_below(sim, 1000));
        release(sim, c);
    }
}

unsigned sim_net_links(const struct sim *sim, unsigned node) {
    const struct sim_node *n = &sim->node[node];
    unsigned count = 0;
    for (uint64_t i = 0; i < n->links_count; i++)
        count += n->links[i].conn && n->links[i].conn->open[n->links[i].end];
    return count;
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

static uint64_t new_link(struct sim_node *n, struct sim_conn *c, unsigned end) {
    if (n->links_count == n->links_cap) {
        n->links_cap = n->links_cap ? n->links_cap * 2 : 8;
        n->links = realloc(n->links, n->links_cap * sizeof *n->links);
        assert(n->links);
    }
    n->links[n->links_count].conn = c;
    n->links[n->links_count].end = end;
    return ++n->links_count;
}

static struct sim_conn *connect(struct sim *sim, unsigned from, unsigned to) {
    struct sim_conn *c = calloc(1, sizeof *c);
    assert(c);
    c->next = sim->conns;
    if (c->next)
        c->next->previous = c;
    sim->conns = c;
    const unsigned ends[2] = {from, to};
    for (unsigned i = 0; i < 2; i++) {
        c->node[i] = ends[i];
        c->link[i] = new_link(&sim->node[ends[i]], c, i);
        c->life[i] = sim->node[ends[i]].life;
        c->open[i] = true;
    }
    return c;
}

static void dialled(struct sim *sim, const struct sim_event *e) {
    unsigned to = sim->nodes, from = e->node;
    sscanf(e->text, "n%u", &to);
    bool there = to < sim->nodes && sim->node[to].core && sim_passes(sim, from, to) && sim_passes(sim, to, from);
    if (!there || (!sim->healing && sim->weather.noise && sim_chance(sim, 50))) {
        sim_step(sim, from, &(struct event){.type = EVENT_DIAL_FAILED, .dial = e->number, .text = "refused"});
        return;
    }
    struct sim_conn *c = connect(sim, from, to);
    c->events++; /* it stays while both are told */
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
    c->events--;
    release(sim, c);
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

/* The sender hears what the socket took, some packets late. */
static void sent(struct sim *sim, struct sim_conn *c, unsigned end) {
    struct sim_stream *s = &c->to[!end];
    if (s->untold < UNTOLD_MAX && (!sim->queue_max || s->untold < sim->queue_max / 4))
        return;
    s->untold = 0;
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
    if (blocked(sim, c, e->end)) {
        wake(sim, c, e->end, 20000);
        return;
    }
    if (s->len == 0) {
        if (s->fin && !s->cut)
            closed_later(sim, c, e->end, 0);
        return;
    }
    size_t n = s->len;
    if (sim->weather.noise && sim_chance(sim, 300))
        n = 1 + (size_t)sim_below(sim, n); /* pieces of any size */
    uint64_t bytes_s = sim->weather.bytes_s, next_us = 50 + (sim->weather.noise ? sim_below(sim, 500) : 0);
    if (bytes_s) { /* a packet at a time, as fast as the way is broad */
        n = n < PACKET_BYTES ? n : PACKET_BYTES;
        next_us = n * 1000000 / bytes_s + 1;
    }
    const uint8_t *piece = s->data + s->first; /* it stays: nobody but the other end adds to this stream */
    s->first += n;
    s->len -= n;
    sim_hash(sim, 1, n);
    sim_step(sim, c->node[e->end], &(struct event){.type = EVENT_LINK_DATA, .link = c->link[e->end], .data = piece, .len = n});
    if (s->len == 0 && s->data)
        emptied(sim, s);
    s->untold += n;
    sent(sim, c, !e->end);
    if (s->len || s->fin)
        wake(sim, c, e->end, next_us);
}

void sim_net_event(struct sim *sim, struct sim_event *e) {
    struct sim_conn *c = e->conn;
    if (e->kind == SIM_DIALLED) {
        dialled(sim, e);
        return;
    }
    if (c->life[e->end] != sim->node[c->node[e->end]].life)
        c->to[e->end].busy = false; /* of an earlier life */
    else if (e->kind == SIM_CLOSED)
        closed(sim, e);
    else
        data(sim, e);
    c->events--;
    release(sim, c);
}

void sim_net_free(struct sim *sim) {
    while (sim->spare_count)
        free(sim->spare[--sim->spare_count].data);
    while (sim->conns) {
        struct sim_conn *c = sim->conns;
        sim->conns = c->next;
        free(c->to[0].data);
        free(c->to[1].data);
        free(c);
    }
}
