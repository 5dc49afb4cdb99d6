#include "proto/wire_content.h"

#include <string.h>

#include "proto/err.h"
#include "proto/wire.h"

static size_t begin(struct buf *b, enum wire_content_type type, uint32_t fields) {
    static const uint8_t length[WIRE_HEAD_BYTES];
    size_t at = b->len;
    buf_append(b, length, sizeof length);
    buf_pack_array(b, fields + 1);
    buf_pack_u64(b, type);
    return at;
}

uint32_t wire_get_u32(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

void wire_put_u32(uint8_t *p, uint32_t v) {
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* ---- packing */

void wire_pack_who(struct buf *b, const uint8_t *hashes, uint32_t count) {
    size_t at = begin(b, WIRE_WHO, 1);
    buf_pack_bin(b, hashes, (size_t)count * WIRE_HASH_BYTES);
    wire_end(b, at);
}

void wire_pack_have(struct buf *b, const struct wire_have *w) {
    size_t at = begin(b, WIRE_HAVE, 3);
    buf_pack_bin(b, w->hash, WIRE_HASH_BYTES);
    buf_pack_u64(b, w->chunks);
    buf_pack_bin(b, w->bitmap, w->bitmap_len);
    wire_end(b, at);
}

void wire_pack_list(struct buf *b, const uint8_t hash[WIRE_HASH_BYTES]) {
    size_t at = begin(b, WIRE_LIST, 1);
    buf_pack_bin(b, hash, WIRE_HASH_BYTES);
    wire_end(b, at);
}

void wire_pack_groups(struct buf *b, const struct wire_groups *w) {
    size_t at = begin(b, WIRE_GROUPS, 5);
    buf_pack_bin(b, w->hash, WIRE_HASH_BYTES);
    buf_pack_u64(b, w->size);
    buf_pack_u64(b, w->chunks);
    buf_pack_u64(b, w->first);
    buf_pack_bin(b, w->groups, (size_t)w->count * WIRE_GROUP_BYTES);
    wire_end(b, at);
}

void wire_pack_part(struct buf *b, const struct wire_part *w) {
    size_t at = begin(b, WIRE_PART, 2);
    buf_pack_bin(b, w->hash, WIRE_HASH_BYTES);
    buf_pack_bin(b, w->firsts, (size_t)w->count * 4);
    wire_end(b, at);
}

void wire_pack_entries(struct buf *b, const struct wire_entries *w) {
    size_t at = begin(b, WIRE_ENTRIES, 3);
    buf_pack_bin(b, w->hash, WIRE_HASH_BYTES);
    buf_pack_u64(b, w->first);
    buf_pack_bin(b, w->entries, (size_t)w->count * WIRE_ENTRY_BYTES);
    wire_end(b, at);
}

static void put_run(uint8_t out[WIRE_RUN_BYTES], const struct wire_run *run) {
    memcpy(out, run->hash, WIRE_HASH_BYTES);
    wire_put_u32(out + WIRE_HASH_BYTES, run->first);
    wire_put_u32(out + WIRE_HASH_BYTES + 4, run->count);
}

void wire_pack_want(struct buf *b, const struct wire_run *runs, uint32_t count) {
    uint8_t run[WIRE_RUN_BYTES];
    size_t at = begin(b, WIRE_WANT, 1);
    buf_pack_bin_header(b, (size_t)count * WIRE_RUN_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        put_run(run, &runs[i]);
        buf_append(b, run, sizeof run);
    }
    wire_end(b, at);
}

void wire_pack_data(struct buf *b, const struct wire_data *w) {
    size_t at = begin(b, WIRE_DATA, 3);
    buf_pack_u64(b, w->flags);
    buf_pack_u64(b, w->raw);
    buf_pack_bin(b, w->body, w->body_len);
    wire_end(b, at);
}

void wire_pack_gone(struct buf *b, const struct wire_run *run) {
    uint8_t bytes[WIRE_RUN_BYTES];
    size_t at = begin(b, WIRE_GONE, 1);
    put_run(bytes, run);
    buf_pack_bin(b, bytes, sizeof bytes);
    wire_end(b, at);
}

void wire_item_head(uint8_t *out, const struct wire_item *item) {
    memcpy(out, item->hash, WIRE_HASH_BYTES);
    wire_put_u32(out + WIRE_HASH_BYTES, item->chunk);
    wire_put_u32(out + WIRE_HASH_BYTES + 4, item->len);
}

/* ---- unpacking */

/* A bin of whole items, at least one. */
static const uint8_t *get_items(struct mpk *m, size_t item, uint32_t max, uint32_t *count) {
    size_t len = 0;
    const uint8_t *p = mpk_bin(m, &len, item * max);
    if (m->err == 0 && (len == 0 || len % item != 0))
        mpk_fail(m, ERR_MALFORMED);
    *count = m->err != 0 ? 0 : (uint32_t)(len / item);
    return p;
}

int wire_unpack_who(const uint8_t **hashes, uint32_t *count, struct mpk *m, uint32_t fields) {
    if (fields != 1)
        return ERR_MALFORMED;
    *hashes = get_items(m, WIRE_HASH_BYTES, WIRE_WHO_MAX, count);
    return mpk_finish(m);
}

int wire_unpack_have(struct wire_have *w, struct mpk *m, uint32_t fields) {
    if (fields != 3)
        return ERR_MALFORMED;
    w->hash = mpk_bin_exact(m, WIRE_HASH_BYTES);
    w->chunks = (uint32_t)mpk_u64(m, WIRE_CHUNKS_MAX);
    w->bitmap = mpk_bin(m, &w->bitmap_len, WIRE_BITMAP_MAX);
    if (m->err == 0 && w->bitmap_len != 0 && w->bitmap_len != (w->chunks + 7) / 8)
        mpk_fail(m, ERR_MALFORMED);
    return mpk_finish(m);
}

int wire_unpack_list(const uint8_t **hash, struct mpk *m, uint32_t fields) {
    if (fields != 1)
        return ERR_MALFORMED;
    *hash = mpk_bin_exact(m, WIRE_HASH_BYTES);
    return mpk_finish(m);
}

int wire_unpack_groups(struct wire_groups *w, struct mpk *m, uint32_t fields) {
    if (fields != 5)
        return ERR_MALFORMED;
    w->hash = mpk_bin_exact(m, WIRE_HASH_BYTES);
    w->size = mpk_u64(m, (uint64_t)WIRE_CHUNKS_MAX * WIRE_CHUNK_MAX);
    w->chunks = (uint32_t)mpk_u64(m, WIRE_CHUNKS_MAX);
    w->first = (uint32_t)mpk_u64(m, WIRE_CHUNKS_MAX);
    w->groups = get_items(m, WIRE_GROUP_BYTES, WIRE_GROUPS_MAX, &w->count);
    uint64_t end = w->first;
    for (uint32_t i = 0; i < w->count; i++) {
        const uint8_t *g = w->groups + (size_t)i * WIRE_GROUP_BYTES;
        uint32_t entries = (uint32_t)g[0] | (uint32_t)g[1] << 8;
        if (entries == 0 || entries > WIRE_GROUP_ENTRIES_MAX)
            mpk_fail(m, ERR_MALFORMED);
        end += entries;
    }
    if (end > w->chunks)
        mpk_fail(m, ERR_MALFORMED);
    return mpk_finish(m);
}

int wire_unpack_part(struct wire_part *w, struct mpk *m, uint32_t fields) {
    if (fields != 2)
        return ERR_MALFORMED;
    w->hash = mpk_bin_exact(m, WIRE_HASH_BYTES);
    w->firsts = get_items(m, 4, WIRE_PARTS_MAX, &w->count);
    return mpk_finish(m);
}

int wire_unpack_entries(struct wire_entries *w, struct mpk *m, uint32_t fields) {
    if (fields != 3)
        return ERR_MALFORMED;
    w->hash = mpk_bin_exact(m, WIRE_HASH_BYTES);
    w->first = (uint32_t)mpk_u64(m, WIRE_CHUNKS_MAX);
    w->entries = get_items(m, WIRE_ENTRY_BYTES, WIRE_GROUP_ENTRIES_MAX, &w->count);
    return mpk_finish(m);
}

struct wire_run wire_get_run(const uint8_t *runs, uint32_t i) {
    const uint8_t *p = runs + (size_t)i * WIRE_RUN_BYTES;
    struct wire_run run;
    memcpy(run.hash, p, WIRE_HASH_BYTES);
    run.first = wire_get_u32(p + WIRE_HASH_BYTES);
    run.count = wire_get_u32(p + WIRE_HASH_BYTES + 4);
    return run;
}

static bool run_holds(const uint8_t *runs, uint32_t i) {
    struct wire_run run = wire_get_run(runs, i);
    return run.first <= WIRE_CHUNKS_MAX && run.count <= WIRE_CHUNKS_MAX;
}

int wire_unpack_want(const uint8_t **runs, uint32_t *count, struct mpk *m, uint32_t fields) {
    if (fields != 1)
        return ERR_MALFORMED;
    *runs = get_items(m, WIRE_RUN_BYTES, WIRE_RUNS_MAX, count);
    for (uint32_t i = 0; i < *count; i++)
        if (!run_holds(*runs, i))
            mpk_fail(m, ERR_TOOBIG);
    return mpk_finish(m);
}

int wire_unpack_data(struct wire_data *w, struct mpk *m, uint32_t fields) {
    if (fields != 3)
        return ERR_MALFORMED;
    w->flags = (unsigned)mpk_u64(m, WIRE_ZSTD);
    w->raw = (uint32_t)mpk_u64(m, WIRE_BODY_MAX);
    w->body = mpk_bin(m, &w->body_len, WIRE_BODY_MAX);
    if (m->err == 0 && (w->body_len == 0 || w->body_len > w->raw || ((w->flags & WIRE_ZSTD) == 0 && w->body_len != w->raw)))
        mpk_fail(m, ERR_MALFORMED);
    return mpk_finish(m);
}

int wire_unpack_gone(struct wire_run *run, struct mpk *m, uint32_t fields) {
    uint32_t count;
    if (fields != 1)
        return ERR_MALFORMED;
    const uint8_t *bytes = get_items(m, WIRE_RUN_BYTES, 1, &count);
    int r = mpk_finish(m);
    if (r != 0)
        return r;
    *run = wire_get_run(bytes, 0);
    return run_holds(bytes, 0) ? 0 : ERR_TOOBIG;
}

int wire_next_item(const uint8_t **body, size_t *left, struct wire_item *item) {
    if (*left == 0)
        return 0;
    if (*left < WIRE_ITEM_HEAD)
        return ERR_MALFORMED;
    const uint8_t *p = *body;
    *item = (struct wire_item){p, wire_get_u32(p + WIRE_HASH_BYTES), p + WIRE_ITEM_HEAD, wire_get_u32(p + WIRE_HASH_BYTES + 4)};
    *left -= WIRE_ITEM_HEAD;
    if (item->len > *left || item->len > WIRE_CHUNK_MAX)
        return ERR_MALFORMED;
    *left -= item->len;
    *body = item->data + item->len;
    return 1;
}
