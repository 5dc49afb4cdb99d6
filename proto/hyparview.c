#include "proto/hyparview.h"

#include <assert.h>
#include <string.h>

#define SHUFFLE_MS 10000u /* a quarter more or less */
#define ROUND_MS 1000u    /* between two rounds through the passive view */
#define CALM_MS 30000u    /* the same, where half are there: maybe nobody else has room */
#define ASK_MS 3000u      /* for an answer to NEIGHBOR */
#define NOWHERE UINT32_MAX

/* ---- chance, sets of ids */

static uint64_t draw(struct hyparview *h, uint64_t below) { /* splitmix64 */
    uint64_t z = h->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static uint64_t around(struct hyparview *h, uint64_t ms) { return ms - ms / 4 + draw(h, ms / 2 + 1); }

static bool same(const hyparview_id a, const hyparview_id b) { return memcmp(a, b, NODE_ID_BYTES) == 0; }

static uint32_t find(hyparview_id *ids, uint32_t count, const hyparview_id id) {
    for (uint32_t i = 0; i < count; i++)
        if (same(ids[i], id))
            return i;
    return NOWHERE;
}

static bool is_active(const struct hyparview *h, const hyparview_id id) {
    for (uint32_t i = 0; i < h->active_count; i++)
        if (same(h->active[i], id))
            return true;
    return false;
}

bool hyparview_is_active(const struct hyparview *h, const hyparview_id id) { return is_active(h, id); }

bool hyparview_is_asking(const struct hyparview *h, const hyparview_id id) {
    for (uint32_t i = 0; i < h->asking_count; i++)
        if (same(h->asking[i].id, id))
            return true;
    return false;
}

bool hyparview_is_known(const struct hyparview *h, const hyparview_id id) {
    for (uint32_t i = 0; i < h->passive_count; i++)
        if (same(h->passive[i], id))
            return true;
    return is_active(h, id) || hyparview_is_asking(h, id);
}

/* ---- what is to be done */

static struct hyparview_action *act(struct hyparview_out *out, enum hyparview_what what, const hyparview_id id) {
    assert(out->count < HYPARVIEW_ACTIONS_MAX);
    struct hyparview_action *a = &out->actions[out->count++];
    a->what = what;
    memcpy(a->id, id, NODE_ID_BYTES);
    return a;
}

static struct hyparview_message *tell(struct hyparview_out *out, const hyparview_id to, enum hyparview_type type) {
    struct hyparview_message *m = &act(out, HYPARVIEW_SEND, to)->message;
    m->type = type;
    m->steps = m->ids_count = m->path_count = 0;
    m->urgent = false;
    return m;
}

/* ---- the views */

static void passive_drop_at(struct hyparview *h, uint32_t at) {
    uint32_t last = --h->passive_count;
    memcpy(h->passive[at], h->passive[last], NODE_ID_BYTES);
    h->tried[at] = h->tried[last];
}

static void passive_drop(struct hyparview *h, const hyparview_id id) {
    uint32_t at = find(h->passive, h->passive_count, id);
    if (at != NOWHERE)
        passive_drop_at(h, at);
}

/* In place of one that was sent away in the last shuffle, else of any. */
static void passive_add(struct hyparview *h, const hyparview_id id) {
    if (same(id, h->self) || is_active(h, id) || find(h->passive, h->passive_count, id) != NOWHERE)
        return;
    while (h->passive_count >= h->passive_max) {
        uint32_t at = NOWHERE;
        while (h->sent_count && at == NOWHERE)
            at = find(h->passive, h->passive_count, h->sent[--h->sent_count]);
        passive_drop_at(h, at != NOWHERE ? at : (uint32_t)draw(h, h->passive_count));
    }
    memcpy(h->passive[h->passive_count], id, NODE_ID_BYTES);
    h->tried[h->passive_count++] = false;
}

static void asking_drop(struct hyparview *h, const hyparview_id id) {
    for (uint32_t i = 0; i < h->asking_count; i++) {
        if (!same(h->asking[i].id, id))
            continue;
        h->asking[i] = h->asking[--h->asking_count];
        return;
    }
}

static bool active_drop(struct hyparview *h, const hyparview_id id, struct hyparview_out *out) {
    uint32_t at = find(h->active, h->active_count, id);
    if (at == NOWHERE)
        return false;
    act(out, HYPARVIEW_DOWN, id);
    memmove(h->active[at], h->active[--h->active_count], NODE_ID_BYTES);
    return true;
}

/* Another one makes room; it is alive, so it stays known. */
static void evict(struct hyparview *h, struct hyparview_out *out) {
    hyparview_id id;
    memcpy(id, h->active[draw(h, h->active_count)], NODE_ID_BYTES);
    tell(out, id, HYPARVIEW_DISCONNECT);
    active_drop(h, id, out);
    passive_add(h, id);
}

static void active_add(struct hyparview *h, const hyparview_id id, struct hyparview_out *out) {
    asking_drop(h, id);
    passive_drop(h, id);
    if (is_active(h, id))
        return;
    while (h->active_count >= h->active_max)
        evict(h, out);
    memcpy(h->active[h->active_count++], id, NODE_ID_BYTES);
    act(out, HYPARVIEW_UP, id);
}

/* A random active one but these two (NULL: none); NULL: there is none. */
static const uint8_t *other(struct hyparview *h, const uint8_t * not, const uint8_t *nor) {
    uint32_t from = h->active_count ? (uint32_t)draw(h, h->active_count) : 0;
    for (uint32_t i = 0; i < h->active_count; i++) {
        const uint8_t *id = h->active[(from + i) % h->active_count];
        if ((!not || !same(id, not )) && (!nor || !same(id, nor)))
            return id;
    }
    return NULL;
}

/* ---- repair */

/* Not even half. (In the paper: none.) */
static bool few(const struct hyparview *h) { return h->active_count * 2 < h->active_max; }

static void ask(struct hyparview *h, const hyparview_id id, bool urgent, uint64_t now_ms, struct hyparview_out *out) {
    assert(h->asking_count < HYPARVIEW_ASKING);
    tell(out, id, HYPARVIEW_NEIGHBOR)->urgent = urgent;
    struct hyparview_asking *a = &h->asking[h->asking_count++];
    memcpy(a->id, id, NODE_ID_BYTES);
    a->until_ms = now_ms + ASK_MS;
}

/* Asks those of the passive view that were not asked in this round, some at a time. */
static void fill(struct hyparview *h, uint64_t now_ms, struct hyparview_out *out) {
    while (h->asking_count < HYPARVIEW_ASKING && h->active_count + h->asking_count < h->active_max) {
        uint32_t at = NOWHERE, from = h->passive_count ? (uint32_t)draw(h, h->passive_count) : 0;
        for (uint32_t i = 0; i < h->passive_count && at == NOWHERE; i++) {
            uint32_t k = (from + i) % h->passive_count;
            if (!h->tried[k] && !hyparview_is_asking(h, h->passive[k]))
                at = k;
        }
        if (at == NOWHERE) {
            if (h->round_ms == UINT64_MAX && h->asking_count == 0)
                h->round_ms = now_ms + around(h, few(h) ? ROUND_MS : CALM_MS);
            return;
        }
        h->tried[at] = true;
        ask(h, h->passive[at], few(h), now_ms, out);
    }
}

static void asking_expire(struct hyparview *h, uint64_t now_ms) {
    for (uint32_t i = 0; i < h->asking_count;) {
        if (h->asking[i].until_ms <= now_ms)
            h->asking[i] = h->asking[--h->asking_count];
        else
            i++;
    }
}

/* ---- shuffles */

/* Up to `want` random ones of a view that are neither in m already nor `not`. */
static void pick(struct hyparview *h, hyparview_id *view, uint32_t count, uint32_t want, const uint8_t * not, struct hyparview_message *m) {
    uint32_t from = count ? (uint32_t)draw(h, count) : 0;
    for (uint32_t i = 0; i < count && want && m->ids_count < HYPARVIEW_SHUFFLE; i++) {
        const uint8_t *id = view[(from + i) % count];
        if ((not &&same(id, not )) || find(m->ids, m->ids_count, id) != NOWHERE)
            continue;
        memcpy(m->ids[m->ids_count++], id, NODE_ID_BYTES);
        want--;
    }
}

static void remember_sent(struct hyparview *h, const struct hyparview_message *m) {
    h->sent_count = m->ids_count;
    memcpy(h->sent, m->ids, sizeof h->sent);
}

static void shuffle(struct hyparview *h, struct hyparview_out *out) {
    const uint8_t *to = other(h, NULL, NULL);
    if (!to)
        return;
    struct hyparview_message *m = tell(out, to, HYPARVIEW_SHUFFLE_WALK);
    m->steps = HYPARVIEW_WALK - 1;
    memcpy(m->ids[m->ids_count++], h->self, NODE_ID_BYTES);
    pick(h, h->active, h->active_count, 3, to, m);
    pick(h, h->passive, h->passive_count, 4, NULL, m);
    remember_sent(h, m);
}

static void take_in(struct hyparview *h, const struct hyparview_message *m) {
    for (uint32_t i = 0; i < m->ids_count; i++)
        passive_add(h, m->ids[i]);
    h->sent_count = 0;
}

static void take_shuffle(struct hyparview *h, const hyparview_id from, const struct hyparview_message *m, struct hyparview_out *out) {
    if (m->ids_count == 0 || same(m->ids[0], h->self))
        return;
    const uint8_t *next = m->steps && m->path_count < HYPARVIEW_WALK ? other(h, from, m->ids[0]) : NULL;
    if (next) {
        struct hyparview_message *on = tell(out, next, HYPARVIEW_SHUFFLE_WALK);
        *on = *m;
        on->steps = (m->steps < HYPARVIEW_WALK ? m->steps : HYPARVIEW_WALK) - 1;
        memcpy(on->path[on->path_count++], from, NODE_ID_BYTES);
        return;
    }
    struct hyparview_message *reply = tell(out, from, HYPARVIEW_SHUFFLE_REPLY);
    memcpy(reply->path, m->path, sizeof reply->path);
    reply->path_count = m->path_count;
    pick(h, h->passive, h->passive_count, m->ids_count, m->ids[0], reply);
    remember_sent(h, reply);
    take_in(h, m);
}

static void take_reply(struct hyparview *h, const struct hyparview_message *m, struct hyparview_out *out) {
    if (m->path_count == 0) {
        take_in(h, m);
        return;
    }
    const uint8_t *back = m->path[m->path_count - 1];
    if (!is_active(h, back))
        return; /* the way is broken: the next shuffle has another */
    struct hyparview_message *on = tell(out, back, HYPARVIEW_SHUFFLE_REPLY);
    *on = *m;
    on->path_count--;
}

/* ---- joining */

static void take_join(struct hyparview *h, const hyparview_id from, struct hyparview_out *out) {
    tell(out, from, HYPARVIEW_ACCEPT);
    active_add(h, from, out);
    for (uint32_t i = 0; i < h->active_count; i++) {
        if (same(h->active[i], from))
            continue;
        struct hyparview_message *m = tell(out, h->active[i], HYPARVIEW_FORWARD_JOIN);
        m->steps = HYPARVIEW_WALK;
        memcpy(m->ids[m->ids_count++], from, NODE_ID_BYTES);
    }
}

static void take_forward(struct hyparview *h, const hyparview_id from, const struct hyparview_message *m, uint64_t now_ms,
                         struct hyparview_out *out) {
    if (m->ids_count != 1 || same(m->ids[0], h->self))
        return;
    const uint8_t *next = m->steps ? other(h, from, m->ids[0]) : NULL;
    if (m->steps == HYPARVIEW_SETTLE)
        passive_add(h, m->ids[0]);
    if (next) {
        struct hyparview_message *on = tell(out, next, HYPARVIEW_FORWARD_JOIN);
        *on = *m;
        on->steps = (m->steps < HYPARVIEW_WALK ? m->steps : HYPARVIEW_WALK) - 1;
        return;
    }
    if (is_active(h, m->ids[0]) || hyparview_is_asking(h, m->ids[0]))
        return;
    if (h->asking_count < HYPARVIEW_ASKING)
        ask(h, m->ids[0], true, now_ms, out);
    else
        passive_add(h, m->ids[0]);
}

static void take_neighbor(struct hyparview *h, const hyparview_id from, bool urgent, struct hyparview_out *out) {
    bool room = h->active_count < h->active_max || is_active(h, from);
    if (!urgent && !room) {
        tell(out, from, HYPARVIEW_REFUSE);
        passive_add(h, from);
        return;
    }
    tell(out, from, HYPARVIEW_ACCEPT);
    active_add(h, from, out);
}

static void take_accept(struct hyparview *h, const hyparview_id from, uint64_t now_ms, struct hyparview_out *out) {
    active_add(h, from, out); /* who was asked, or joined, was wanted; in the meantime others may have come */
    fill(h, now_ms, out);
}

/* ---- the public face */

uint32_t hyparview_active_for(uint64_t nodes) {
    uint32_t digits = 0;
    for (uint64_t ten = 1; ten < nodes && digits < HYPARVIEW_ACTIVE_MAX - 2; ten *= 10)
        digits++;
    return digits + 2;
}

void hyparview_init(struct hyparview *h, const hyparview_id self, uint64_t seed, uint64_t nodes, uint64_t now_ms) {
    memset(h, 0, sizeof *h);
    memcpy(h->self, self, NODE_ID_BYTES);
    h->random = seed;
    for (unsigned i = 0; i < NODE_ID_BYTES; i++)
        h->random = (h->random ^ self[i]) * 0x100000001b3u;
    h->active_max = hyparview_active_for(nodes);
    h->passive_max = h->active_max * HYPARVIEW_PASSIVE_FACTOR;
    h->shuffle_ms = now_ms + around(h, SHUFFLE_MS);
    h->round_ms = UINT64_MAX;
}

void hyparview_resize(struct hyparview *h, uint64_t nodes, uint64_t now_ms, struct hyparview_out *out) {
    out->count = 0;
    h->active_max = hyparview_active_for(nodes);
    h->passive_max = h->active_max * HYPARVIEW_PASSIVE_FACTOR;
    while (h->active_count > h->active_max)
        evict(h, out);
    while (h->passive_count > h->passive_max)
        passive_drop_at(h, (uint32_t)draw(h, h->passive_count));
    fill(h, now_ms, out);
}

void hyparview_join(struct hyparview *h, const hyparview_id contact, struct hyparview_out *out) {
    out->count = 0;
    if (!same(contact, h->self) && !is_active(h, contact))
        tell(out, contact, HYPARVIEW_JOIN);
}

void hyparview_invite(struct hyparview *h, const hyparview_id id, uint64_t now_ms, struct hyparview_out *out) {
    out->count = 0;
    if (same(id, h->self) || is_active(h, id) || hyparview_is_asking(h, id))
        return;
    if (h->asking_count == HYPARVIEW_ASKING)
        h->asking_count--;
    ask(h, id, true, now_ms, out);
}

void hyparview_offer(struct hyparview *h, const hyparview_id id) { passive_add(h, id); }

void hyparview_lost(struct hyparview *h, const hyparview_id id, bool gone, uint64_t now_ms, struct hyparview_out *out) {
    out->count = 0;
    asking_drop(h, id);
    bool was = active_drop(h, id, out);
    if (gone)
        passive_drop(h, id);
    else if (was)
        passive_add(h, id);
    fill(h, now_ms, out);
}

void hyparview_receive(struct hyparview *h, const hyparview_id from, const struct hyparview_message *m, uint64_t now_ms,
                       struct hyparview_out *out) {
    assert(m->ids_count <= HYPARVIEW_SHUFFLE);
    assert(m->path_count <= HYPARVIEW_WALK);
    out->count = 0;
    switch (m->type) {
    case HYPARVIEW_JOIN: take_join(h, from, out); break;
    case HYPARVIEW_FORWARD_JOIN: take_forward(h, from, m, now_ms, out); break;
    case HYPARVIEW_NEIGHBOR: take_neighbor(h, from, m->urgent, out); break;
    case HYPARVIEW_ACCEPT: take_accept(h, from, now_ms, out); break;
    case HYPARVIEW_REFUSE:
        asking_drop(h, from);
        fill(h, now_ms, out);
        break;
    case HYPARVIEW_DISCONNECT:
        if (active_drop(h, from, out))
            passive_add(h, from);
        fill(h, now_ms, out);
        break;
    case HYPARVIEW_SHUFFLE_WALK: take_shuffle(h, from, m, out); break;
    case HYPARVIEW_SHUFFLE_REPLY: take_reply(h, m, out); break;
    case HYPARVIEW_TYPES: break;
    }
}

void hyparview_tick(struct hyparview *h, uint64_t now_ms, struct hyparview_out *out) {
    out->count = 0;
    asking_expire(h, now_ms);
    if (h->round_ms <= now_ms) {
        h->round_ms = UINT64_MAX;
        memset(h->tried, 0, sizeof h->tried);
    }
    if (h->shuffle_ms <= now_ms) {
        h->shuffle_ms = now_ms + around(h, SHUFFLE_MS);
        shuffle(h, out);
    }
    fill(h, now_ms, out);
}

uint64_t hyparview_deadline(const struct hyparview *h) {
    uint64_t at = h->shuffle_ms < h->round_ms ? h->shuffle_ms : h->round_ms;
    for (uint32_t i = 0; i < h->asking_count; i++)
        if (h->asking[i].until_ms < at)
            at = h->asking[i].until_ms;
    return at;
}
