#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "node/files/fetch_state.h"

static uint64_t next_random(struct fetch *f) {
    uint64_t z = f->seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- who gives nothing, or too little */

static void give_back(struct fetch *f, struct run *r) {
    struct fetch_item *item = r->item;
    if (r->given_back)
        return;
    r->given_back = true;
    item->live--;
    for (uint32_t i = 0; i < r->count; i++)
        if (!bit(r->came, i))
            bit_clear(item->asked, r->first + i);
    if (item->small && item->where == WHERE_BUSY && item->live == 0)
        fetch_move(f, item, WHERE_READY);
}

/* Somebody else may have it, and has nothing to do. */
static bool idle_other(const struct fetch *f, const struct peer *p, const struct fetch_item *item, uint64_t now) {
    for (const struct peer *other = f->peers; other != NULL; other = other->next) {
        const struct know *k = fetch_know_of(item, other);
        if (other != p && fetch_usable(other, now) && other->runs == NULL &&
            (k == NULL ? item->small : k->state == KNOW_ALL || (item->small && k->state != KNOW_NONE)))
            return true;
    }
    return false;
}

static void stalled(struct fetch *f, struct peer *p, uint64_t now) {
    struct run *r, *next;
    if (p->runs == NULL)
        return;
    if (now - p->progress_ms >= FETCH_DEAD_MS) {
        uint32_t doubled = p->stalls < 5 ? p->stalls : 5;
        p->stalls++;
        fetch_shun(f, p, now + ((uint64_t)FETCH_DEAD_MS << doubled));
        return;
    }
    if (f->up < 2)
        return; /* nobody else */
    bool silent = now - p->progress_ms >= FETCH_STALL_MS;
    DL_FOREACH_SAFE(p->runs, r, next) {
        if (!silent && now - r->asked_ms < FETCH_SLOW_MS)
            break; /* nor are those behind it late */
        if (silent || (!r->given_back && idle_other(f, p, r->item, now)))
            give_back(f, r);
    }
}

static void stuck_again(struct fetch *f, uint64_t now) {
    while (f->stuck != NULL && (f->unstick || now >= f->stuck->again_ms))
        fetch_move(f, f->stuck, WHERE_READY);
    f->unstick = false;
}

/* ---- what to ask */

static bool room(const struct peer *p, const struct fetch_item *item, uint32_t count, uint64_t window) {
    return p->outstanding == 0 || p->outstanding + fetch_cost(item, count) <= window;
}

static bool run_add(struct fetch *f, struct peer *p, struct fetch_item *item, uint32_t first, uint32_t count, uint64_t now,
                    struct fetch_ask *ask) {
    struct run *r = calloc(1, sizeof *r);
    (void)f;
    if (r == NULL)
        return false;
    *r = (struct run){.item = item, .first = first, .count = count, .left = count, .asked_ms = now};
    for (uint32_t i = 0; i < count; i++)
        bit_set(item->asked, first + i);
    if (p->runs == NULL)
        p->progress_ms = now; /* it has had nothing to do */
    DL_APPEND(p->runs, r);
    item->runs++;
    item->live++;
    p->outstanding += fetch_cost(item, count);
    *ask = (struct fetch_ask){.kind = FETCH_CHUNKS, .item = item, .first = first, .count = count};
    memcpy(ask->peer, p->id, NODE_ID_BYTES);
    return true;
}

static bool holds_run(const struct peer *p, const struct fetch_item *item) {
    const struct run *r;
    DL_FOREACH(p->runs, r) {
        if (r->item == item)
            return true;
    }
    return false;
}

/* Of whom a small content is asked: who is said to have it, else who has the least to do. NULL: nobody, or nobody now (*full). */
static struct peer *small_peer(struct fetch *f, struct fetch_item *item, uint64_t now, bool *full) {
    struct peer *best = NULL;
    *full = false;
    for (struct peer *p = f->peers; p != NULL; p = p->next) {
        const struct know *k = fetch_know_of(item, p);
        if (!fetch_usable(p, now) || (k != NULL && k->state == KNOW_NONE && now < k->again_ms) || (item->runs > 0 && holds_run(p, item)))
            continue;
        if (!room(p, item, 1, FETCH_WINDOW_BYTES)) {
            *full = true;
            continue;
        }
        if (k != NULL && k->state != KNOW_NONE)
            return p;
        if (best == NULL || p->outstanding < best->outstanding)
            best = p;
    }
    return best;
}

static void get_stuck(struct fetch *f, struct fetch_item *item, uint64_t now) {
    item->again_ms = now + STUCK_MS;
    fetch_move(f, item, WHERE_STUCK);
}

static bool next_small(struct fetch *f, uint64_t now, struct fetch_ask *ask) {
    struct fetch_item *item;
    while ((item = f->ready[0]) != NULL) {
        bool full;
        struct peer *p = small_peer(f, item, now, &full);
        if (p == NULL && full)
            return false;
        if (p == NULL) {
            get_stuck(f, item, now);
            continue;
        }
        if (!run_add(f, p, item, 0, 1, now, ask))
            return false;
        fetch_move(f, item, WHERE_BUSY);
        return true;
    }
    return false;
}

/* Asks who has it: those of whom nothing is known, a few at a time, and again those who had nothing, or not all. */
static bool ask_who(struct fetch *f, struct fetch_item *item, uint64_t now, struct fetch_ask *ask) {
    uint32_t sources = fetch_sources(f, item), asked = 0;
    for (uint32_t i = 0; i < item->know_count; i++)
        asked += item->know[i].state == KNOW_ASKED && fetch_usable(item->know[i].peer, now);
    for (struct peer *p = f->peers; p != NULL; p = p->next) {
        struct know *k = fetch_usable(p, now) ? fetch_know_get(item, p) : NULL;
        if (k == NULL)
            continue;
        bool first = k->state == KNOW_NOTHING && sources + asked < WHO_PEERS;
        bool again = k->state != KNOW_NOTHING && k->state != KNOW_ALL && now >= k->again_ms;
        if (!first && !again)
            continue;
        if (k->state == KNOW_SOME)
            k->again_ms = now + SOME_AGAIN_MS; /* what it has stays known meanwhile */
        else
            fetch_know_set(k, KNOW_ASKED, now + FETCH_STALL_MS);
        *ask = (struct fetch_ask){.kind = FETCH_WHO, .item = item};
        memcpy(ask->peer, p->id, NODE_ID_BYTES);
        return true;
    }
    return false;
}

/* Until when to wait for the list: less long where somebody else has it, and then not for ever, however steadily it trickles. */
static uint64_t list_until(const struct fetch *f, const struct fetch_item *item) {
    if (fetch_sources(f, item) < 2)
        return item->list_ms + FETCH_DEAD_MS;
    uint64_t at_most = item->list_asked_ms + LIST_MS + item->size / CHUNK_NORMAL * ENTRY_BYTES / LIST_BYTES_A_MS;
    return item->list_ms + FETCH_STALL_MS < at_most ? item->list_ms + FETCH_STALL_MS : at_most;
}

static bool ask_list(struct fetch *f, struct fetch_item *item, uint64_t now, struct fetch_ask *ask) {
    struct peer *from = NULL;
    (void)f;
    if (item->list_peer != NULL) {
        if (now < list_until(f, item))
            return false;
        fetch_not_from(f, item->list_peer, item, now + FETCH_DEAD_MS);
    }
    for (uint32_t i = 0; i < item->know_count; i++) {
        const struct know *k = &item->know[i];
        if (!fetch_usable(k->peer, now) || (k->state != KNOW_ALL && k->state != KNOW_SOME))
            continue;
        if (from == NULL || k->peer->outstanding < from->outstanding)
            from = k->peer;
    }
    if (from == NULL)
        return false;
    item->list_peer = from;
    item->list_asked_ms = item->list_ms = now;
    *ask = (struct fetch_ask){.kind = FETCH_LIST, .item = item};
    memcpy(ask->peer, from->id, NODE_ID_BYTES);
    return true;
}

/* A run of chunks that this peer has and nobody was asked for. */
static uint32_t find_run(struct fetch *f, struct fetch_item *item, const struct know *k, uint32_t *first) {
    uint32_t from = f->up < 2 ? item->cursor % item->chunks : (uint32_t)(next_random(f) % item->chunks);
    from -= from % FETCH_RUN_CHUNKS;
    for (uint32_t n = 0; n < item->chunks; n++) {
        uint32_t i = from + n < item->chunks ? from + n : from + n - item->chunks;
        if (i % 8 == 0 && item->asked[i / 8] == 0xff && i + 8 <= item->chunks) {
            n += 7; /* eight at once */
            continue;
        }
        if (bit(item->asked, i) || (k->bitmap != NULL && !bit(k->bitmap, i)))
            continue;
        uint32_t count = 1;
        while (count < FETCH_RUN_CHUNKS && i + count < item->chunks && !bit(item->asked, i + count) &&
               (k->bitmap == NULL || bit(k->bitmap, i + count)))
            count++;
        *first = i;
        item->cursor = i;
        return count;
    }
    return 0;
}

static bool ask_chunks(struct fetch *f, struct fetch_item *item, uint64_t now, struct fetch_ask *ask) {
    for (uint32_t i = 0; i < item->know_count; i++) {
        const struct know *k = &item->know[i];
        uint32_t first, count;
        bool has = k->state == KNOW_ALL || (k->state == KNOW_SOME && k->bitmap != NULL);
        bool slow = k->peer->runs != NULL && now - k->peer->progress_ms >= FETCH_STALL_MS;
        uint64_t window = item->shared && k->state == KNOW_ALL ? SHARED_WINDOW_BYTES : FETCH_WINDOW_BYTES;
        if (!has || slow || !fetch_usable(k->peer, now) || !room(k->peer, item, FETCH_RUN_CHUNKS, window))
            continue;
        count = find_run(f, item, k, &first);
        if (count > 0)
            return run_add(f, k->peer, item, first, count, now, ask);
    }
    return false;
}

/* Nobody has it, and nobody is left to ask: another content may take its turn. What is being looked for here, or verified, keeps it. */
static bool hopeless(const struct fetch *f, const struct fetch_item *item, uint64_t now) {
    if (item->live > 0 || item->list_peer != NULL || fetch_sources(f, item) > 0)
        return false;
    for (const struct peer *p = f->peers; p != NULL; p = p->next) {
        const struct know *k = fetch_know_of(item, p);
        if (fetch_usable(p, now) && (k == NULL || k->state == KNOW_NOTHING || (k->state == KNOW_ASKED && now < k->again_ms)))
            return false;
    }
    return true;
}

static bool next_large(struct fetch *f, uint64_t now, struct fetch_ask *ask) {
    struct fetch_item *item, *next;
    for (unsigned class = 1; class < CLASSES && f->large < FETCH_LARGE_MAX; class ++)
        while (f->ready[class] != NULL && f->large < FETCH_LARGE_MAX)
            fetch_move(f, f->ready[class], WHERE_BUSY);
    DL_FOREACH_SAFE(f->busy, item, next) {
        if (item->listed && item->left == 0)
            continue;
        if (ask_who(f, item, now, ask) || (!item->listed && ask_list(f, item, now, ask)) || (item->listed && ask_chunks(f, item, now, ask)))
            return true;
        if (hopeless(f, item, now))
            get_stuck(f, item, now);
    }
    return false;
}

bool fetch_next(struct fetch *f, uint64_t now, struct fetch_ask *ask) {
    f->now = now;
    for (struct peer *p = f->peers; p != NULL; p = p->next)
        stalled(f, p, now);
    stuck_again(f, now);
    return next_small(f, now, ask) || next_large(f, now, ask);
}

static uint64_t sooner(uint64_t a, uint64_t b) { return a < b ? a : b; }

uint64_t fetch_deadline(const struct fetch *f) {
    uint64_t at = UINT64_MAX;
    const struct fetch_item *item;
    if (f->items == NULL)
        return at;
    for (const struct peer *p = f->peers; p != NULL; p = p->next) {
        const struct run *r;
        DL_FOREACH(p->runs, r) {
            if (!r->given_back) { /* the oldest; if it is late already, somebody who becomes idle has it looked at */
                at = r->asked_ms + FETCH_SLOW_MS > f->now ? sooner(at, r->asked_ms + FETCH_SLOW_MS) : at;
                break;
            }
        }
        if (p->runs != NULL)
            at = sooner(at, f->now - p->progress_ms < FETCH_STALL_MS ? p->progress_ms + FETCH_STALL_MS : p->progress_ms + FETCH_DEAD_MS);
        if (p->up && p->shun_ms > f->now)
            at = sooner(at, p->shun_ms);
    }
    if (f->stuck != NULL)
        at = sooner(at, f->stuck->again_ms);
    DL_FOREACH(f->busy, item) {
        if (item->list_peer != NULL)
            at = sooner(at, list_until(f, item));
        for (uint32_t i = 0; i < item->know_count; i++)
            if (fetch_usable(item->know[i].peer, f->now) && item->know[i].state > KNOW_NOTHING)
                at = sooner(at, item->know[i].again_ms);
    }
    return at;
}
