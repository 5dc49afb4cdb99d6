#include "node/files/version.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "proto/err.h"

#define FORMAT 1
#define HEAD_BYTES (4 + NODE_ID_BYTES + 3 * 8 + CONTENT_HASH_BYTES + 1)
#define SEEN_BYTES (VERSION_NODE_BYTES + 8)

static uint64_t get_u64(const uint8_t *p) {
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    return n;
}

static uint8_t *put_u64(uint8_t *p, uint64_t n) {
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(n >> (8 * i));
    return p + 8;
}

int version_read(struct version *v, const void *data, size_t len) {
    const uint8_t *p = data, *end = p + len;
    memset(v, 0, sizeof(*v));
    if (len < HEAD_BYTES)
        return ERR_MALFORMED;
    if (p[0] != FORMAT)
        return ERR_FORMAT;
    size_t name_len = p[3];
    if (p[1] > VERSION_LINK || p[2] > RANK_BEFORE_JOINING || name_len >= VERSION_NAME_MAX)
        return ERR_MALFORMED;
    v->kind = (enum version_kind)p[1];
    v->rank = (enum version_rank)p[2];
    memcpy(v->by, p + 4, NODE_ID_BYTES);
    p += 4 + NODE_ID_BYTES;
    v->at_ms = get_u64(p);
    v->mtime_ns = (int64_t)get_u64(p + 8);
    v->size = get_u64(p + 16);
    memcpy(v->hash, p + 24, CONTENT_HASH_BYTES);
    p += 24 + CONTENT_HASH_BYTES;
    v->seen_count = *p++;
    if (v->seen_count > VERSION_SEEN_MAX || (size_t)(end - p) < v->seen_count * SEEN_BYTES + name_len || v->size > INT64_MAX)
        return ERR_MALFORMED;
    for (uint32_t i = 0; i < v->seen_count; i++, p += SEEN_BYTES) {
        memcpy(v->seen[i].node, p, VERSION_NODE_BYTES);
        v->seen[i].count = get_u64(p + VERSION_NODE_BYTES);
        if (v->seen[i].count > INT64_MAX) /* milliseconds; and one more is no less */
            return ERR_MALFORMED;
    }
    for (size_t i = 0; i < name_len; i++) /* it becomes part of a file's name */
        v->name[i] = (char)(p[i] < 0x20 || p[i] == '/' || p[i] == 0x7f ? '_' : p[i]);
    p += name_len;
    size_t target_len = (size_t)(end - p);
    if (target_len >= VERSION_TARGET_MAX || (v->kind == VERSION_LINK) != (target_len > 0) || memchr(p, 0, target_len) != NULL)
        return ERR_MALFORMED;
    memcpy(v->target, p, target_len);
    return 0;
}

size_t version_write(const struct version *v, uint8_t out[VERSION_BYTES_MAX]) {
    uint8_t *p = out;
    size_t name_len = strnlen(v->name, VERSION_NAME_MAX - 1), target_len = strnlen(v->target, VERSION_TARGET_MAX - 1);
    assert(v->seen_count <= VERSION_SEEN_MAX);
    *p++ = FORMAT;
    *p++ = (uint8_t)v->kind;
    *p++ = (uint8_t)v->rank;
    *p++ = (uint8_t)name_len;
    memcpy(p, v->by, NODE_ID_BYTES);
    p = put_u64(p + NODE_ID_BYTES, v->at_ms);
    p = put_u64(p, (uint64_t)v->mtime_ns);
    p = put_u64(p, v->size);
    memcpy(p, v->hash, CONTENT_HASH_BYTES);
    p += CONTENT_HASH_BYTES;
    *p++ = (uint8_t)v->seen_count;
    for (uint32_t i = 0; i < v->seen_count; i++) {
        memcpy(p, v->seen[i].node, VERSION_NODE_BYTES);
        p = put_u64(p + VERSION_NODE_BYTES, v->seen[i].count);
    }
    memcpy(p, v->name, name_len);
    p += name_len;
    if (v->kind == VERSION_LINK) {
        memcpy(p, v->target, target_len);
        p += target_len;
    }
    return (size_t)(p - out);
}

static uint64_t count_of(const struct version *v, const uint8_t *node) {
    for (uint32_t i = 0; i < v->seen_count; i++)
        if (memcmp(v->seen[i].node, node, VERSION_NODE_BYTES) == 0)
            return v->seen[i].count;
    return 0;
}

/* Sorted by node, so that equal knowledge is equal bytes. Where there are too many servers the one that wrote longest ago is left out: should it
 * come back with what is older still, that counts as concurrent, and is kept. own: of who signs, who is never the one. */
static void learn(struct version *v, const uint8_t *node, uint64_t count, bool own) {
    uint32_t at = 0;
    while (at < v->seen_count && memcmp(v->seen[at].node, node, VERSION_NODE_BYTES) < 0)
        at++;
    if (at < v->seen_count && memcmp(v->seen[at].node, node, VERSION_NODE_BYTES) == 0) {
        v->seen[at].count = count > v->seen[at].count ? count : v->seen[at].count;
        return;
    }
    if (v->seen_count == VERSION_SEEN_MAX) {
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < v->seen_count; i++)
            oldest = v->seen[i].count < v->seen[oldest].count ? i : oldest;
        if (!own && v->seen[oldest].count >= count)
            return;
        memmove(&v->seen[oldest], &v->seen[oldest + 1], (VERSION_SEEN_MAX - 1 - oldest) * sizeof(v->seen[0]));
        v->seen_count--;
        at -= oldest < at;
    }
    memmove(&v->seen[at + 1], &v->seen[at], (v->seen_count - at) * sizeof(v->seen[0]));
    memcpy(v->seen[at].node, node, VERSION_NODE_BYTES);
    v->seen[at].count = count;
    v->seen_count++;
}

void version_knows(struct version *v, const struct version *other) {
    for (uint32_t i = 0; i < other->seen_count; i++)
        learn(v, other->seen[i].node, other->seen[i].count, false);
}

void version_sign(struct version *v, const uint8_t id[NODE_ID_BYTES], const char *name, uint64_t wall_ms) {
    uint64_t before = count_of(v, id);
    memcpy(v->by, id, NODE_ID_BYTES);
    snprintf(v->name, sizeof(v->name), "%s", name);
    v->at_ms = wall_ms;
    learn(v, id, wall_ms > before ? wall_ms : before + 1, true);
}

bool version_outdates(const struct version *v, const struct version *of) { return count_of(v, of->by) > count_of(of, of->by); }

bool version_descends(const struct version *v, const struct version *from) {
    uint64_t made = count_of(from, from->by);
    return made > 0 && count_of(v, from->by) >= made;
}

bool version_equal(const struct version *a, const struct version *b) {
    if (a->kind != b->kind)
        return false;
    if (a->kind == VERSION_FILE)
        return a->size == b->size && memcmp(a->hash, b->hash, CONTENT_HASH_BYTES) == 0;
    return a->kind != VERSION_LINK || strcmp(a->target, b->target) == 0;
}

bool version_prevails(const struct version *a, const struct version *b) {
    if ((a->kind == VERSION_GONE) != (b->kind == VERSION_GONE))
        return b->kind == VERSION_GONE; /* an edit lives on beside a deletion that did not know it */
    if (a->rank != b->rank)
        return a->rank < b->rank;
    return a->rank == RANK_MEANT || a->at_ms <= b->at_ms;
}
