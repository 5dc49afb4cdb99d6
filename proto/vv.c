#include "proto/vv.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define VV_ENTRY_PACKED_MIN 21 /* array head 1, bin16 18, epoch 1, version 1 */

void vv_init(struct vv *v) { *v = (struct vv){0}; }

void vv_release(struct vv *v) {
    free(v->entries);
    vv_init(v);
}

void vv_clear(struct vv *v) { v->count = 0; }

/* Where o is, or where it belongs. */
static uint32_t vv_place(const struct vv *v, const struct origin *o) {
    uint32_t low = 0, high = v->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (origin_cmp(&v->entries[middle].origin, o) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool vv_has(const struct vv *v, uint32_t place, const struct origin *o) {
    return place < v->count && origin_equal(&v->entries[place].origin, o);
}

/* Going along a vector in the order of another: from `at` on the first entry that is not below o. Mostly it is o's, and the very next. */
static inline uint32_t vv_seek(const struct vv *v, uint32_t at, const struct origin *o, bool *has) {
    for (; at < v->count; at++) {
        *has = origin_equal(&v->entries[at].origin, o);
        if (*has || origin_cmp(&v->entries[at].origin, o) > 0)
            return at;
    }
    *has = false;
    return at;
}

uint64_t vv_get(const struct vv *v, const struct origin *o) {
    uint32_t place = vv_place(v, o);
    return vv_has(v, place, o) ? v->entries[place].version : 0;
}

static int vv_reserve(struct vv *v, uint32_t count) {
    if (count > VV_ENTRIES_MAX)
        return ERR_TOOBIG;
    if (count <= v->cap)
        return 0;
    uint32_t cap = v->cap ? v->cap * 2 : 4;
    if (cap < count)
        cap = count;
    struct vv_entry *entries = realloc(v->entries, cap * sizeof *entries);
    if (!entries)
        return ERR_NOMEM;
    v->entries = entries;
    v->cap = cap;
    return 0;
}

int vv_set(struct vv *v, const struct origin *o, uint64_t version) {
    uint32_t place = vv_place(v, o);
    bool has = vv_has(v, place, o);
    if (has && version) {
        v->entries[place].version = version;
    } else if (has) {
        v->count--;
        memmove(v->entries + place, v->entries + place + 1, (v->count - place) * sizeof *v->entries);
    } else if (version) {
        int r = vv_reserve(v, v->count + 1);
        if (r)
            return r;
        memmove(v->entries + place + 1, v->entries + place, (v->count - place) * sizeof *v->entries);
        v->entries[place] = (struct vv_entry){*o, version};
        v->count++;
    }
    return 0;
}

int vv_raise(struct vv *v, const struct origin *o, uint64_t version) { return version > vv_get(v, o) ? vv_set(v, o, version) : 0; }

int vv_copy(struct vv *to, const struct vv *from) {
    if (to == from)
        return 0;
    int r = vv_reserve(to, from->count);
    if (r)
        return r;
    if (from->count)
        memcpy(to->entries, from->entries, from->count * sizeof *from->entries);
    to->count = from->count;
    return 0;
}

/* Of the same origins: the usual case where all are linked with all, and all write. */
static bool vv_alike(const struct vv *a, const struct vv *b) {
    uint32_t i = 0;
    while (i < a->count && i < b->count && origin_equal(&a->entries[i].origin, &b->entries[i].origin))
        i++;
    return i == a->count && i == b->count;
}

int vv_merge(struct vv *into, const struct vv *from) {
    if (into == from)
        return 0;
    if (vv_alike(into, from)) {
        for (uint32_t i = 0; i < from->count; i++)
            if (into->entries[i].version < from->entries[i].version)
                into->entries[i].version = from->entries[i].version;
        return 0;
    }
    /* count first, so that a failure leaves `into` as it was */
    uint32_t more = 0;
    bool has;
    for (uint32_t i = 0, j = 0; j < from->count; j++) {
        i = vv_seek(into, i, &from->entries[j].origin, &has);
        more += !has;
    }
    int r = vv_reserve(into, into->count + more);
    if (r)
        return r;
    /* from behind, in place */
    uint32_t a = into->count, b = from->count, to = a + more;
    into->count = to;
    while (b) {
        int order = a ? origin_cmp(&into->entries[a - 1].origin, &from->entries[b - 1].origin) : -1;
        struct vv_entry entry = order > 0 ? into->entries[a - 1] : from->entries[b - 1];
        if (order == 0 && into->entries[a - 1].version > entry.version)
            entry = into->entries[a - 1];
        a -= order >= 0;
        b -= order <= 0;
        into->entries[--to] = entry;
    }
    assert(to == a);
    return 0;
}

bool vv_covers(const struct vv *a, const struct vv *b) {
    uint32_t i = 0, j = 0;
    while (j < a->count && j < b->count && a->entries[j].version >= b->entries[j].version &&
           origin_equal(&a->entries[j].origin, &b->entries[j].origin))
        i = ++j; /* mostly that is all */
    for (bool has; j < b->count; j++) {
        i = vv_seek(a, i, &b->entries[j].origin, &has);
        if (!has || a->entries[i].version < b->entries[j].version)
            return false;
    }
    return true;
}

bool vv_equal(const struct vv *a, const struct vv *b) {
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++) {
        if (a->entries[i].version != b->entries[i].version || !origin_equal(&a->entries[i].origin, &b->entries[i].origin))
            return false;
    }
    return true;
}

uint64_t vv_missing(const struct vv *have, const struct vv *want) {
    uint64_t missing = 0;
    bool has;
    for (uint32_t i = 0, j = 0; j < want->count; j++) {
        const struct vv_entry *entry = &want->entries[j];
        i = vv_seek(have, i, &entry->origin, &has);
        uint64_t known = has ? have->entries[i].version : 0;
        uint64_t more = entry->version > known ? entry->version - known : 0;
        missing = missing > UINT64_MAX - more ? UINT64_MAX : missing + more;
    }
    return missing;
}

static void store_be(uint8_t *to, uint64_t v, int n) {
    for (int i = n - 1; i >= 0; i--, v >>= 8)
        to[i] = (uint8_t)v;
}

uint64_t vv_digest(const struct vv *v) {
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, 32);
    for (uint32_t i = 0; i < v->count; i++) {
        uint8_t bytes[NODE_ID_BYTES + 12];
        memcpy(bytes, v->entries[i].origin.node, NODE_ID_BYTES);
        store_be(bytes + NODE_ID_BYTES, v->entries[i].origin.epoch, 4);
        store_be(bytes + NODE_ID_BYTES + 4, v->entries[i].version, 8);
        crypto_generichash_update(&state, bytes, sizeof bytes);
    }
    uint8_t hash[32];
    crypto_generichash_final(&state, hash, sizeof hash);
    uint64_t digest = 0;
    for (int i = 0; i < 8; i++)
        digest = digest << 8 | hash[i];
    return digest;
}

int vv_diff(struct vv *out, const struct vv *before, const struct vv *now) {
    assert(out != before && out != now);
    vv_clear(out);
    bool has;
    for (uint32_t i = 0, j = 0; j < now->count; j++) {
        const struct vv_entry *entry = &now->entries[j];
        i = vv_seek(before, i, &entry->origin, &has);
        if (has && before->entries[i].version == entry->version)
            continue;
        int r = vv_reserve(out, out->count + 1);
        if (r)
            return r;
        out->entries[out->count++] = *entry;
    }
    return 0;
}

void vv_pack(const struct vv *v, struct buf *b) {
    buf_pack_array(b, v->count);
    for (uint32_t i = 0; i < v->count; i++) {
        buf_pack_array(b, 3);
        buf_pack_bin(b, v->entries[i].origin.node, NODE_ID_BYTES);
        buf_pack_u64(b, v->entries[i].origin.epoch);
        buf_pack_u64(b, v->entries[i].version);
    }
}

/* The usual entry in its shortest form: an array of 3, a bin of 16, an epoch and a version of few bytes. Vectors are most of what a busy
 * cluster reads. Its length; 0: read it as what else it may be. */
static inline size_t usual_entry(const uint8_t *p, size_t left, struct vv_entry *entry) {
    static const uint8_t front[3] = {0x93, 0xc4, NODE_ID_BYTES};
    if (left < VV_ENTRY_PACKED_MIN + 2 || memcmp(p, front, sizeof front) != 0 || p[19] > 0x7f)
        return 0;
    memcpy(entry->origin.node, p + 3, NODE_ID_BYTES);
    entry->origin.epoch = p[19];
    entry->version = p[20];
    if (p[20] <= 0x7f)
        return VV_ENTRY_PACKED_MIN;
    entry->version = p[20] == 0xcc ? p[21] : (uint64_t)p[21] << 8 | p[22];
    return p[20] == 0xcc ? VV_ENTRY_PACKED_MIN + 1 : p[20] == 0xcd ? VV_ENTRY_PACKED_MIN + 2 : 0;
}

static void any_entry(struct mpk *m, struct vv_entry *entry) {
    if (mpk_array(m, 3) != 3)
        mpk_fail(m, ERR_MALFORMED);
    const uint8_t *node = mpk_bin_exact(m, NODE_ID_BYTES);
    *entry = (struct vv_entry){0};
    if (node)
        memcpy(entry->origin.node, node, NODE_ID_BYTES);
    entry->origin.epoch = (uint32_t)mpk_u64(m, UINT32_MAX);
    entry->version = mpk_u64(m, UINT64_MAX);
}

int vv_unpack(struct vv *v, struct mpk *m) {
    vv_clear(v);
    uint32_t count = mpk_array(m, VV_ENTRIES_MAX);
    if (count > mpk_left(m) / VV_ENTRY_PACKED_MIN)
        mpk_fail(m, ERR_MALFORMED);
    if (m->err)
        return m->err;
    int r = vv_reserve(v, count);
    if (r) {
        mpk_fail(m, r);
        return r;
    }
    struct vv_entry *entries = v->entries;
    for (uint32_t i = 0; i < count; i++) {
        size_t len = usual_entry(m->at, mpk_left(m), &entries[i]);
        m->at += len;
        if (!len)
            any_entry(m, &entries[i]);
        /* sorted and without zeros: equal vectors are equal bytes, and reading stays linear */
        if (!m->err && (!entries[i].version || (i && origin_cmp(&entries[i - 1].origin, &entries[i].origin) >= 0)))
            mpk_fail(m, ERR_MALFORMED);
        if (m->err)
            return m->err;
    }
    v->count = count;
    return 0;
}
