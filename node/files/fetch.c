#include "node/files/fetch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "node/files/chunker.h"
#include "proto/err.h"

#define CLASSES 40      /* of size: small before large, within a class in order */
#define SMALL_COST 1024 /* of a window, besides its bytes */
#define WHO_PEERS 4     /* asked at once who have not said that they have it */
#define SOME_AGAIN_MS 100
#define SHARED_WINDOW_BYTES (1u << 20) /* of who has all, while somebody else fetches the same: they can help each other */
#define NONE_AGAIN_MS 2000
#define STUCK_MS 5000

enum knowing { KNOW_NOTHING, KNOW_ASKED, KNOW_ALL, KNOW_SOME, KNOW_NONE };

struct know {
    struct peer *peer;
    enum knowing state;
    uint64_t again_ms; /* when to ask who has it again; of NONE and nothing else, not before */
    uint8_t *bitmap;   /* SOME */
    bool interested;   /* it fetches the same */
};

enum where { WHERE_READY, WHERE_BUSY, WHERE_STUCK };

struct fetch_item {
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t size;
    void *ctx;
    enum where where;
    bool small, listed, shared; /* shared: others fetch it, too */
    uint32_t chunks, left, cursor;
    uint8_t *here, *asked;
    struct know *know;
    uint32_t know_count, know_cap;
    struct peer *list_peer; /* asked for the list */
    uint64_t list_ms;
    uint32_t runs, live; /* outstanding; of these, not given back */
    uint64_t again_ms;
    UT_hash_handle hh;
    struct fetch_item *prev, *next;
};

struct run {
    struct fetch_item *item;
    uint32_t first, count;
    uint8_t came[(FETCH_RUN_CHUNKS + 7) / 8];
    uint32_t left;
    bool given_back;
    struct run *prev, *next;
};

struct peer {
    uint8_t id[NODE_ID_BYTES];
    bool up;
    uint64_t outstanding; /* cost of runs */
    uint64_t progress_ms, shun_ms;
    uint32_t faults, stalls;
    struct run *runs;
    struct peer *next;
};

struct fetch {
    uint64_t seed;
    struct fetch_item *items;                /* by hash */
    struct fetch_item *ready[CLASSES];       /* DL */
    struct fetch_item *busy, *asked, *stuck; /* DL; busy: large ones, asked: small ones */
    uint32_t large;
    struct peer *peers;
    uint32_t up;
    bool unstick;
    uint64_t now;
};

static uint64_t next_random(struct fetch *f) {
    uint64_t z = f->seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool bit(const uint8_t *bits, uint32_t i) { return (bits[i / 8] >> i % 8 & 1) != 0; }
static void bit_set(uint8_t *bits, uint32_t i) { bits[i / 8] |= (uint8_t)(1u << i % 8); }
static void bit_clear(uint8_t *bits, uint32_t i) { bits[i / 8] &= (uint8_t) ~(1u << i % 8); }

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

static void move(struct fetch *f, struct fetch_item *item, enum where to) {
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

static struct know *know_of(const struct fetch_item *item, const struct peer *p) {
    for (uint32_t i = 0; i < item->know_count; i++)
        if (item->know[i].peer == p)
            return &item->know[i];
    return NULL;
}

static struct know *know_get(struct fetch_item *item, struct peer *p) {
    struct know *k = know_of(item, p);
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

static void know_set(struct know *k, enum knowing state, uint64_t again_ms) {
    free(k->bitmap);
    k->bitmap = NULL;
    k->state = state;
    k->again_ms = again_ms;
}

static bool usable(const struct peer *p, uint64_t now) { return p->up && now >= p->shun_ms; }

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
    if ((item->small && fetch_listed(f, item, 1) != 0) || (p != NULL && know_get(item, p) == NULL)) {
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

static uint64_t cost(const struct fetch_item *item, uint32_t count) {
    return item->small ? item->size + SMALL_COST : (uint64_t)count * (64u << 10);
}

/* back: what has not come may be asked of others. */
static void run_end(struct peer *p, struct run *r, bool back) {
    for (uint32_t i = 0; back && !r->given_back && i < r->count; i++)
        if (!bit(r->came, i))
            bit_clear(r->item->asked, r->first + i);
    p->outstanding -= cost(r->item, r->count);
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
            know_set(&item->know[i], KNOW_NOTHING, 0);
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

uint32_t fetch_sources(const struct fetch *f, const struct fetch_item *item) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < item->know_count; i++)
        count += usable(item->know[i].peer, f->now) && (item->know[i].state == KNOW_ALL || item->know[i].state == KNOW_SOME);
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
        struct know *k = know_of(item, p);
        if (k != NULL)
            know_set(k, KNOW_NOTHING, 0);
        if (item->list_peer == p)
            item->list_peer = NULL;
        if (item->small && item->where == WHERE_BUSY && item->live == 0 && item->left > 0)
            move(f, item, WHERE_READY);
    }
}

static void shun(struct fetch *f, struct peer *p, uint64_t until) {
    struct fetch_item *item, *next;
    p->shun_ms = until;
    give_back(p);
    HASH_ITER(hh, f->items, item, next) {
        if (item->list_peer == p)
            item->list_peer = NULL;
        if (item->small && item->where == WHERE_BUSY && item->live == 0 && item->left > 0 && !bit(item->asked, 0))
            move(f, item, WHERE_READY);
    }
}

static void fault(struct fetch *f, struct peer *p, uint64_t now) {
    if (++p->faults < FETCH_FAULTS_MAX)
        return;
    p->faults = 0;
    shun(f, p, now + FETCH_SHUN_MS);
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
    struct know *k = p == NULL || item == NULL ? NULL : know_of(item, p);
    if (k == NULL || k->state == KNOW_NOTHING || k->state == KNOW_NONE)
        return; /* no longer of interest, or never asked */
    if (chunks == 0) {
        know_set(k, KNOW_NONE, now + (k->interested ? SOME_AGAIN_MS : NONE_AGAIN_MS));
    } else if (item->listed && chunks != item->chunks) {
        know_set(k, KNOW_NONE, now + FETCH_SHUN_MS);
        fault(f, p, now);
    } else if (len == 0) {
        know_set(k, KNOW_ALL, UINT64_MAX);
    } else {
        know_set(k, KNOW_SOME, now + SOME_AGAIN_MS);
        if (item->listed && (k->bitmap = malloc(len)) != NULL)
            memcpy(k->bitmap, bitmap, len);
    }
}

void fetch_interest(struct fetch *f, const uint8_t *id, const uint8_t *hash, uint64_t now) {
    struct peer *p = peer_of(f, id);
    struct fetch_item *item = fetch_find(f, hash);
    struct know *k = p == NULL || item == NULL || item->small ? NULL : know_get(item, p);
    if (k == NULL || k->again_ms > now + FETCH_DEAD_MS)
        return;
    k->interested = item->shared = true;
    if (k->state == KNOW_NOTHING || k->state == KNOW_NONE)
        know_set(k, KNOW_NONE, now + SOME_AGAIN_MS);
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

static void not_from(struct fetch *f, struct peer *p, struct fetch_item *item, uint64_t again_ms) {
    struct know *k = know_get(item, p);
    if (k != NULL)
        know_set(k, KNOW_NONE, again_ms);
    if (item->list_peer == p)
        item->list_peer = NULL;
    if (item->small && item->where == WHERE_BUSY && item->live == 0)
        move(f, item, WHERE_READY);
}

void fetch_wrong(struct fetch *f, const uint8_t *id, struct fetch_item *item, uint32_t chunk, uint64_t now) {
    struct peer *p = peer_of(f, id);
    if (item->listed && chunk < item->chunks)
        fetch_unhold(item, chunk);
    if (p == NULL)
        return;
    not_from(f, p, item, now + FETCH_SHUN_MS);
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
    not_from(f, p, item, now + NONE_AGAIN_MS);
}

/* ---- what to ask */

static void stalled(struct fetch *f, struct peer *p, uint64_t now) {
    struct run *r, *next;
    if (now - p->progress_ms < FETCH_STALL_MS || p->runs == NULL)
        return;
    if (now - p->progress_ms >= FETCH_DEAD_MS) {
        uint32_t doubled = p->stalls < 5 ? p->stalls : 5;
        p->stalls++;
        shun(f, p, now + ((uint64_t)FETCH_DEAD_MS << doubled));
        return;
    }
    if (f->up < 2)
        return; /* nobody else */
    DL_FOREACH_SAFE(p->runs, r, next) {
        if (r->given_back)
            continue;
        r->given_back = true;
        r->item->live--;
        for (uint32_t i = 0; i < r->count; i++)
            if (!bit(r->came, i))
                bit_clear(r->item->asked, r->first + i);
        if (r->item->small && r->item->where == WHERE_BUSY && r->item->live == 0)
            move(f, r->item, WHERE_READY);
    }
}

static bool stuck_again(struct fetch *f, uint64_t now) {
    struct fetch_item *item, *next;
    DL_FOREACH_SAFE(f->stuck, item, next) {
        if (f->unstick || now >= item->again_ms)
            move(f, item, WHERE_READY);
    }
    f->unstick = false;
    return f->stuck != NULL;
}

static bool room(const struct peer *p, const struct fetch_item *item, uint32_t count, uint64_t window) {
    return p->outstanding == 0 || p->outstanding + cost(item, count) <= window;
}

static bool run_add(struct fetch *f, struct peer *p, struct fetch_item *item, uint32_t first, uint32_t count, uint64_t now,
                    struct fetch_ask *ask) {
    struct run *r = calloc(1, sizeof *r);
    (void)f;
    if (r == NULL)
        return false;
    *r = (struct run){.item = item, .first = first, .count = count, .left = count};
    for (uint32_t i = 0; i < count; i++)
        bit_set(item->asked, first + i);
    if (p->runs == NULL)
        p->progress_ms = now; /* it has had nothing to do */
    DL_APPEND(p->runs, r);
    item->runs++;
    item->live++;
    p->outstanding += cost(item, count);
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
        const struct know *k = know_of(item, p);
        if (!usable(p, now) || (k != NULL && k->state == KNOW_NONE && now < k->again_ms) || (item->runs > 0 && holds_run(p, item)))
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
    move(f, item, WHERE_STUCK);
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
        move(f, item, WHERE_BUSY);
        return true;
    }
    return false;
}

/* Asks who has it: those of whom nothing is known, a few at a time, and again those who had nothing, or not all. */
static bool ask_who(struct fetch *f, struct fetch_item *item, uint64_t now, struct fetch_ask *ask) {
    uint32_t sources = fetch_sources(f, item), asked = 0;
    for (uint32_t i = 0; i < item->know_count; i++)
        asked += item->know[i].state == KNOW_ASKED && usable(item->know[i].peer, now);
    for (struct peer *p = f->peers; p != NULL; p = p->next) {
        struct know *k = usable(p, now) ? know_get(item, p) : NULL;
        if (k == NULL)
            continue;
        bool first = k->state == KNOW_NOTHING && sources + asked < WHO_PEERS;
        bool again = k->state != KNOW_NOTHING && k->state != KNOW_ALL && now >= k->again_ms;
        if (!first && !again)
            continue;
        if (k->state == KNOW_SOME)
            k->again_ms = now + SOME_AGAIN_MS; /* what it has stays known meanwhile */
        else
            know_set(k, KNOW_ASKED, now + FETCH_STALL_MS);
        *ask = (struct fetch_ask){.kind = FETCH_WHO, .item = item};
        memcpy(ask->peer, p->id, NODE_ID_BYTES);
        return true;
    }
    return false;
}

/* How long to wait for the list: less where somebody else has it. */
static uint64_t list_patience(const struct fetch *f, const struct fetch_item *item) {
    return fetch_sources(f, item) > 1 ? FETCH_STALL_MS : FETCH_DEAD_MS;
}

static bool ask_list(struct fetch *f, struct fetch_item *item, uint64_t now, struct fetch_ask *ask) {
    struct peer *from = NULL;
    (void)f;
    if (item->list_peer != NULL) {
        if (now - item->list_ms < list_patience(f, item))
            return false;
        not_from(f, item->list_peer, item, now + FETCH_DEAD_MS);
    }
    for (uint32_t i = 0; i < item->know_count; i++) {
        const struct know *k = &item->know[i];
        if (!usable(k->peer, now) || (k->state != KNOW_ALL && k->state != KNOW_SOME))
            continue;
        if (from == NULL || k->peer->outstanding < from->outstanding)
            from = k->peer;
    }
    if (from == NULL)
        return false;
    item->list_peer = from;
    item->list_ms = now;
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
        if (!has || slow || !usable(k->peer, now) || !room(k->peer, item, FETCH_RUN_CHUNKS, window))
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
        const struct know *k = know_of(item, p);
        if (usable(p, now) && (k == NULL || k->state == KNOW_NOTHING || (k->state == KNOW_ASKED && now < k->again_ms)))
            return false;
    }
    return true;
}

static bool next_large(struct fetch *f, uint64_t now, struct fetch_ask *ask) {
    struct fetch_item *item, *next;
    for (unsigned class = 1; class < CLASSES && f->large < FETCH_LARGE_MAX; class ++)
        while (f->ready[class] != NULL && f->large < FETCH_LARGE_MAX)
            move(f, f->ready[class], WHERE_BUSY);
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
        if (p->runs != NULL)
            at = sooner(at, f->now - p->progress_ms < FETCH_STALL_MS ? p->progress_ms + FETCH_STALL_MS : p->progress_ms + FETCH_DEAD_MS);
        if (p->up && p->shun_ms > f->now)
            at = sooner(at, p->shun_ms);
    }
    DL_FOREACH(f->stuck, item) { at = sooner(at, item->again_ms); }
    DL_FOREACH(f->busy, item) {
        if (item->list_peer != NULL)
            at = sooner(at, item->list_ms + list_patience(f, item));
        for (uint32_t i = 0; i < item->know_count; i++)
            if (usable(item->know[i].peer, f->now) && item->know[i].state > KNOW_NOTHING)
                at = sooner(at, item->know[i].again_ms);
    }
    return at;
}
