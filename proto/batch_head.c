/* The head of a batch, its chain and its signature. All bytes that come in here are untrusted. */
#include "proto/batch.h"

#include <sodium.h>
#include <string.h>

#include "proto/err.h"

static void read_fields(struct batch_head *h, struct mpk *m) {
    const uint8_t *node = mpk_bin_exact(m, NODE_ID_BYTES);
    if (node)
        memcpy(h->origin.node, node, NODE_ID_BYTES);
    h->origin.epoch = (uint32_t)mpk_u64(m, UINT32_MAX);
    h->version = mpk_u64(m, UINT64_MAX);
    h->db = mpk_str(m, &h->db_len, BATCH_DB_NAME_MAX);
    h->prev = mpk_bin_exact(m, BATCH_PREV_BYTES);
    h->key = mpk_nil(m) ? NULL : mpk_bin_exact(m, NODE_KEY_BYTES);
    vv_unpack(&h->after, m);
    vv_unpack(&h->knew, m);
    h->schema = mpk_u64(m, UINT64_MAX);
    h->stamp = mpk_u64(m, UINT64_MAX);
    h->rows = (uint32_t)mpk_u64(m, BATCH_ROWS_MAX);
    h->raw_bytes = (uint32_t)mpk_u64(m, BATCH_RAW_MAX);
    h->body = mpk_bin(m, &h->body_len, BATCH_BYTES_MAX);
    if (m->err)
        return;
    bool sound = h->version && h->db_len && (h->key != NULL) == (h->version == 1);
    if (!sound || (!(h->flags & BATCH_ZSTD) && h->body_len != h->raw_bytes))
        mpk_fail(m, ERR_MALFORMED);
}

int batch_head_read(struct batch_head *h, const uint8_t *data, size_t len) {
    *h = (struct batch_head){0};
    if (len > BATCH_BYTES_MAX)
        return ERR_TOOBIG;
    if (len <= BATCH_SIGNATURE_BYTES)
        return ERR_MALFORMED;
    struct mpk m;
    mpk_init(&m, data, len - BATCH_SIGNATURE_BYTES);
    uint32_t fields = mpk_array(&m, UINT16_MAX); /* another format may have more */
    uint64_t format = mpk_u64(&m, UINT64_MAX);
    if (!m.err && format != BATCH_FORMAT)
        return ERR_FORMAT;
    if (fields != BATCH_HEAD_FIELDS)
        mpk_fail(&m, ERR_MALFORMED);
    uint64_t flags = mpk_u64(&m, UINT64_MAX);
    if (flags & ~(uint64_t)(BATCH_ZSTD | BATCH_PART | BATCH_BLIND))
        mpk_fail(&m, ERR_FORMAT); /* a flag that we do not know may change the meaning of all */
    h->flags = (unsigned)flags;
    read_fields(h, &m);
    int r = mpk_finish(&m);
    if (r)
        batch_head_release(h);
    return r;
}

void batch_head_release(struct batch_head *h) {
    vv_release(&h->after);
    vv_release(&h->knew);
    *h = (struct batch_head){0};
}

void batch_chain(const uint8_t *data, size_t len, uint8_t chain[BATCH_CHAIN_BYTES]) {
    size_t signed_len = len > BATCH_SIGNATURE_BYTES ? len - BATCH_SIGNATURE_BYTES : 0;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, BATCH_CHAIN_BYTES);
    crypto_generichash_update(&state, chain, BATCH_CHAIN_BYTES);
    crypto_generichash_update(&state, data, signed_len);
    crypto_generichash_final(&state, chain, BATCH_CHAIN_BYTES);
}

int batch_verify(const uint8_t *data, size_t len, const uint8_t key[NODE_KEY_BYTES], uint8_t chain[BATCH_CHAIN_BYTES]) {
    struct batch_head h;
    int r = batch_head_read(&h, data, len);
    if (r)
        return r == ERR_NOMEM ? r : ERR_SIGNATURE;
    uint8_t id[NODE_ID_BYTES];
    node_id_of_key(id, key);
    bool sound = !memcmp(id, h.origin.node, sizeof id) && !memcmp(h.prev, chain, BATCH_PREV_BYTES) &&
                 (!h.key || !memcmp(h.key, key, NODE_KEY_BYTES));
    batch_head_release(&h);
    if (!sound)
        return ERR_SIGNATURE;
    uint8_t next[BATCH_CHAIN_BYTES];
    memcpy(next, chain, sizeof next);
    batch_chain(data, len, next);
    if (crypto_sign_verify_detached(data + len - BATCH_SIGNATURE_BYTES, next, sizeof next, key))
        return ERR_SIGNATURE;
    memcpy(chain, next, sizeof next);
    return 0;
}
