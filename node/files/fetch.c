#include "node/files/fetch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "node/files/fetch_state.h"
#include "proto/err.h"

static struct fetch_item **list_of(struct fetch *f, const struct fetch_item *item) {
    unsigned class = 0;
    if (item->where == WHERE_STUCK)
        return &f->stuck;
    if (item->where == WHERE_BUSY)
        return item->small ? &f->asked : &f->busy;
    while (class < CLASSES - 1 && item->size >> class > CHUNK_MIN)
        class ++;
    return &f->ready[class];
}

void fetch_move(struct fetch *f, struct fetch_item *item, enum where to) {
    struct fetch_item **list = list_of(f, item);
    DL_DELETE(*list, item);
    f->large -= !item->small && item->where == WHERE_BUSY;
    item->where = to;
    f->large += !item->small && item->where == WHERE_BUSY;
    list = list_of(f, item);
    DL_APPEND(*list, item);
}

static struct peer *peer_of(const struct fetch *f, const uint8_t *id) {
    struct peer *p = f->peers;
    while (p != NULL && memcmp(p->id, id, NODE_ID_BYTES) != 0)
        p = p->next;
    return p;
}

struct know *fetch_know_of(const struct fetch_item *item, const struct peer *p) {
    for (uint32_t i = 0; i < item->know_count; i++)
        if (item->know[i].peer == p)
            return &item->know[i];
    return NULL;
}

struct know *fetch_know_get(struct fetch_item *item, struct peer *p) {
    struct know *k = fetch_know_of(item, p);
    if (k != NULL)
        return k;
    if (item->know_count == item->know_cap) {
        uint32_t cap = item->know_cap == 0 ? 4 : item->know_cap * 2;
        k = realloc(item->know, cap * sizeof *k);
        if (k == NULL)
            return NULL;
        item->know = k;
        item->know_cap = cap;
    }
    k = &item->know[item->know_count++];
    *k = (struct know){.peer = p};
    return k;
}

void fetch_know_set(struct know *k, enum knowing state, uint64_t again_ms) {
    free(k->bitmap);
    k->bitmap = NULL;
    k->state = state;
    k->again_ms = again_ms;
}

/* ---- life */

struct fetch *fetch_new(uint64_t seed) {
    struct fetch *f = calloc(1, sizeof *f);
    if (f != NULL)
        f->seed = seed;
    return f;
}

void fetch_free(struct fetch *f) {
    if (f == NULL)
        return;
    struct fetch_item *item, *next;
    HASH_ITER(hh, f->items, item, next) { fetch_remove(f, item); }
    while (f->peers != NULL) {
        struct peer *p = f->peers;
        assert(p->runs == NULL);
        f->peers = p->next;
        free(p);
    }
    free(f);
}

struct fetch_item *fetch_add(struct fetch *f, const uint8_t hash[CONTENT_HASH_BYTES], uint64_t size, const uint8_t *hint, void *ctx) {
    assert(fetch_find(f, hash) == NULL && size > 0);
    struct fetch_item *item = calloc(1, sizeof *item);
    if (item == NULL)
        return NULL;
    memcpy(item->hash, hash, sizeof item->hash);
    item->size = size;
    item->ctx = ctx;
    item->small = size <= CHUNK_MIN;
    struct peer *p = hint == NULL ? NULL : peer_of(f, hint);
    if ((item->small && fetch_listed(f, item, 1) != 0) || (p != NULL && fetch_know_get(item, p) == NULL)) {
        free(item->here);
        free(item->asked);
        free(item);
        return NULL;
    }
    HASH_ADD(hh, f->items, hash, sizeof item->hash, item);
    struct fetch_item **list = list_of(f, item);
    DL_APPEND(*list, item);
    return item;
}

uint64_t fetch_cost(const struct fetch_item *item, uint32_t count) {
    return item->small ? item->size + SMALL_COST : (uint64_t)count * (64u << 10);
}

/* back: what has not come may be asked of others. */
static void run_end(struct peer *p, struct run *r, bool back) {
    for (uint32_t i = 0; back && !r->given_back && i < r->count; i++)
        if (!bit(r->came, i))
            bit_clear(r->item->asked, r->first + i);
    p->outstanding -= fetch_cost(r->item, r->count);
    r->item->runs--;
    r->item->live -= !r->given_back;
    DL_DELETE(p->runs, r);
    free(r);
}

void fetch_remove(struct fetch *f, struct fetch_item *item) {
    struct run *r, *next;
    for (struct peer *p = f->peers; p != NULL && item->runs > 0; p = p->next)
        DL_FOREACH_SAFE(p->runs, r, next) {
            if (r->item == item)
                run_end(p, r, false);
        }
    struct fetch_item **list = list_of(f, item);
    DL_DELETE(*list, item);
    f->large -= !item->small && item->where == WHERE_BUSY;
    HASH_DEL(f->items, item);
    for (uint32_t i = 0; i < item->know_count; i++)
        free(item->know[i].bitmap);
    free(item->know);
    free(item->here);
    free(item->asked);
    free(item);
}

struct fetch_item *fetch_find(const struct fetch *f, const uint8_t hash[CONTENT_HASH_BYTES]) {
    struct fetch_item *item;
    HASH_FIND(hh, f->items, hash, CONTENT_HASH_BYTES, item);
    return item;
}

void *fetch_ctx(const struct fetch_item *item) { return item->ctx; }
const uint8_t *fetch_hash(const struct fetch_item *item) { return item->hash; }
bool fetch_is_listed(const struct fetch_item *item) { return item->listed; }
uint32_t fetch_left(const struct fetch_item *item) { return item->left; }
bool fetch_is_held(const struct fetch_item *item, uint32_t chunk) { return bit(item->asked, chunk); }
bool fetch_is_here(const struct fetch_item *item, uint32_t chunk) { return bit(item->here, chunk); }
bool fetch_is_stuck(const struct fetch_item *item) { return item->where == WHERE_STUCK; }

const uint8_t *fetch_bitmap(const struct fetch_item *item, size_t *len) {
    *len = item->listed ? (item->chunks + 7) / 8 : 0;
    return item->here;
}

int fetch_listed(struct fetch *f, struct fetch_item *item, uint32_t chunks) {
    (void)f;
    assert(!item->listed && chunks > 0);
    item->here = calloc((chunks + 7) / 8, 1);
    item->asked = calloc((chunks + 7) / 8, 1);
    if (item->here == NULL || item->asked == NULL) {
        free(item->here);
        free(item->asked);
        item->here = item->asked = NULL;
        return ERR_NOMEM;
    }
    item->listed = true;
    item->list_peer = NULL;
    item->chunks = item->left = chunks;
    for (uint32_t i = 0; i < item->know_count; i++) /* said before anybody knew how many there are */
        if (item->know[i].state == KNOW_SOME)
            fetch_know_set(&item->know[i], KNOW_NOTHING, 0);
    return 0;
}

void fetch_here(struct fetch *f, struct fetch_item *item, uint32_t chunk) {
    (void)f;
    assert(chunk < item->chunks);
    bit_set(item->asked, chunk);
    if (bit(item->here, chunk))
        return;
    bit_set(item->here, chunk);
    item->left--;
}

void fetch_hold(struct fetch_item *item, uint32_t chunk) { bit_set(item->asked, chunk); }

void fetch_unhold(struct fetch_item *item, uint32_t chunk) {
    if (!bit(item->here, chunk))
        bit_clear(item->asked, chunk);
}

/* Two that hold the same half of a content are no source to each other. */
static bool has_more(const struct fetch_item *item, const struct know *k) {
    if (k->state != KNOW_SOME || !item->listed)
        return k->state == KNOW_ALL || k->state == KNOW_SOME;
    for (uint32_t i = 0; k->bitmap != NULL && i < item->chunks; i++)
        if (bit(k->bitmap, i) && !bit(item->here, i))
            return true;
    return false;
}

uint32_t fetch_sources(const struct fetch *f, const struct fetch_item *item) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < item->know_count; i++)
        count += fetch_usable(item->know[i].peer, f->now) && has_more(item, &item->know[i]);
    return count;
}

/* ---- what happens */

void fetch_peer_up(struct fetch *f, const uint8_t *id) {
    struct peer *p = peer_of(f, id);
    if (p == NULL) {
        p = calloc(1, sizeof *p);
        if (p == NULL)
            return; /* it is not asked */
        memcpy(p->id, id, NODE_ID_BYTES);
        p->next = f->peers;
        f->peers = p;
    }
    f->up += !p->up;
    p->up = true;
    f->unstick = true;
}

static void give_back(struct peer *p) {
    while (p->runs != NULL)
        run_end(p, p->runs, true);
}

void fetch_peer_down(struct fetch *f, const uint8_t *id) {
    struct peer *p = peer_of(f, id);
    struct fetch_item *item, *next;
    if (p == NULL || !p->up)
        return;
    p->up = false;
    f->up--;
    give_back(p);
    HASH_ITER(hh, f->items, item, next) {
        struct know *k = fetch_know_of(item, p);
        if (k != NULL)
            fetch_know_set(k, KNOW_NOTHING, 0);
        if (item->list_peer == p)
            item->list_peer = NULL;
        if (item->small && item->where == WHERE_BUSY && item->live == 0 && item->left > 0)
            fetch_move(f, item, WHERE_READY);
    }
}

void fetch_shun(struct fetch *f, struct peer *p, uint64_t until) {
    struct fetch_item *item, *next;
    p->shun_ms = until;
    give_back(p);
    HASH_ITER(hh, f->items, item, next) {
        if (item->list_peer == p)
            item->list_peer = NULL;
        if (item->small && item->where == WHERE_BUSY && item->live == 0 && item->left > 0 && !bit(item->asked, 0))
            fetch_move(f, item, WHERE_READY);
    }
}

static void fault(struct fetch *f, struct peer *p, uint64_t now) {
    if (++p->faults < FETCH_FAULTS_MAX)
        return;
    p->faults = 0;
    fetch_shun(f, p, now + FETCH_SHUN_MS);
}

void fetch_fault(struct fetch *f, const uint8_t *id, uint64_t now) {
    struct peer *p = peer_of(f, id);
    if (p != NULL)
        fault(f, p, now);
}

bool fetch_shunned(const struct fetch *f, const uint8_t *id, uint64_t now) {
    struct peer *p = peer_of(f, id);
    return p != NULL && now < p->shun_ms;
}

void fetch_said(struct fetch *f, const uint8_t *id, const uint8_t *hash, uint32_t chunks, const uint8_t *bitmap, size_t len, uint64_t now) {
    struct peer *p = peer_of(f, id);
    struct fetch_item *item = fetch_find(f, hash);
    struct know *k = p == NULL || item == NULL ? NULL : fetch_know_of(item, p);
    if (k == NULL || k->state == KNOW_NOTHING || k->state == KNOW_NONE)
        return; /* no longer of interest, or never asked */
    if (chunks == 0) {
        fetch_know_set(k, KNOW_NONE, now + (k->interested ? SOME_AGAIN_MS : NONE_AGAIN_MS));
    } else if (item->listed && chunks != item->chunks) {
        fetch_know_set(k, KNOW_NONE, now + FETCH_SHUN_MS);
        fault(f, p, now);
    } else if (len == 0) {
        fetch_know_set(k, KNOW_ALL, UINT64_MAX);
    } else {
        fetch_know_set(k, KNOW_SOME, now + SOME_AGAIN_MS);
        if (item->listed && (k->bitmap = malloc(len)) != NULL)
            memcpy(k->bitmap, bitmap, len);
    }
}

void fetch_interest(struct fetch *f, const uint8_t *id, const uint8_t *hash, uint64_t now) {
    struct peer *p = peer_of(f, id);
    struct fetch_item *item = fetch_find(f, hash);
    struct know *k = p == NULL || item == NULL || item->small ? NULL : fetch_know_get(item, p);
    if (k == NULL || k->again_ms > now + FETCH_DEAD_MS)
        return;
    k->interested = item->shared = true;
    if (k->state == KNOW_NOTHING || k->state == KNOW_NONE)
        fetch_know_set(k, KNOW_NONE, now + SOME_AGAIN_MS);
}

bool fetch_list_came(struct fetch *f, const uint8_t *id, struct fetch_item *item, uint64_t now) {
    struct peer *p = peer_of(f, id);
    if (p == NULL || item->listed || item->list_peer != p)
        return false;
    item->list_ms = p->progress_ms = now;
    return true;
}

bool fetch_came(struct fetch *f, const uint8_t *id, struct fetch_item *item, uint32_t chunk, uint64_t now) {
    struct peer *p = peer_of(f, id);
    struct run *r;
    if (p == NULL)
        return false;
    DL_FOREACH(p->runs, r) {
        if (r->item != item || chunk < r->first || chunk - r->first >= r->count || bit(r->came, chunk - r->first))
            continue;
        p->progress_ms = now;
        p->stalls = 0;
        bit_set(r->came, chunk - r->first);
        bit_set(item->asked, chunk); /* also one that was given back */
        if (--r->left == 0)
            run_end(p, r, false);
        return true;
    }
    return false;
}

void fetch_not_from(struct fetch *f, struct peer *p, struct fetch_item *item, uint64_t again_ms) {
    struct know *k = fetch_know_get(item, p);
    if (k != NULL)
        fetch_know_set(k, KNOW_NONE, again_ms);
    if (item->list_peer == p)
        item->list_peer = NULL;
    if (item->small && item->where == WHERE_BUSY && item->live == 0)
        fetch_move(f, item, WHERE_READY);
}

void fetch_misfit(struct fetch *f, const uint8_t *id, struct fetch_item *item, uint64_t now) {
    struct peer *p = peer_of(f, id);
    fetch_unhold(item, 0);
    if (p != NULL)
        fetch_not_from(f, p, item, now + FETCH_SHUN_MS);
}

void fetch_wrong(struct fetch *f, const uint8_t *id, struct fetch_item *item, uint32_t chunk, uint64_t now) {
    struct peer *p = peer_of(f, id);
    if (item->listed && chunk < item->chunks)
        fetch_unhold(item, chunk);
    if (p == NULL)
        return;
    const struct know *k = fetch_know_of(item, p); /* others of it were on their way when the first one was wrong */
    bool known = k != NULL && k->state == KNOW_NONE && k->again_ms > now + FETCH_SHUN_MS / 2;
    fetch_not_from(f, p, item, now + FETCH_SHUN_MS);
    if (!known)
        fault(f, p, now);
}

void fetch_gone(struct fetch *f, const uint8_t *id, const uint8_t *hash, uint32_t first, uint32_t count, uint64_t now) {
    struct peer *p = peer_of(f, id);
    struct fetch_item *item = fetch_find(f, hash);
    struct run *r, *next;
    if (p == NULL || item == NULL)
        return;
    (void)first, (void)count; /* who has lost a part has lost the file */
    DL_FOREACH_SAFE(p->runs, r, next) {
        if (r->item == item)
            run_end(p, r, true);
    }
    p->progress_ms = now;
    fetch_not_from(f, p, item, now + NONE_AGAIN_MS);
}
