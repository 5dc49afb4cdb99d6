/* A batch that nobody has seen yet, with other stamps: see batch_restamp() in batch.h. */
#include <sodium.h>
#include <string.h>

#include "proto/batch.h"
#include "proto/buf.h"
#include "proto/bytes.h"
#include "proto/err.h"
#include "proto/mpk.h"

#define AT_PREV 6
#define AT_STAMP 11

int batch_restamp(const uint8_t *data, size_t len, int64_t by, const uint8_t secret[NODE_SECRET_BYTES], uint8_t chain[BATCH_CHAIN_BYTES],
                  struct bytes **out) {
    struct buf b;
    struct mpk m;
    uint8_t next[BATCH_CHAIN_BYTES], signature[crypto_sign_BYTES];
    *out = NULL;
    if (len < crypto_sign_BYTES)
        return ERR_MALFORMED;
    buf_init(&b, BATCH_BYTES_MAX);
    mpk_init(&m, data, len - crypto_sign_BYTES);
    uint32_t fields = mpk_array(&m, BATCH_HEAD_FIELDS);
    buf_pack_array(&b, fields);
    for (uint32_t i = 0; i < fields && !m.err; i++) {
        const uint8_t *from = m.at;
        if (i == AT_STAMP) {
            buf_pack_u64(&b, mpk_u64(&m, UINT64_MAX) + (uint64_t)by);
            continue;
        }
        mpk_skip(&m);
        if (i == AT_PREV)
            buf_pack_bin(&b, chain, BATCH_PREV_BYTES);
        else
            buf_append(&b, from, (size_t)(m.at - from));
    }
    int err = m.err ? m.err : b.failed;
    if (!err) {
        memset(signature, 0, sizeof signature);
        buf_append(&b, signature, sizeof signature); /* its place */
        memcpy(next, chain, sizeof next);
        batch_chain(b.data, b.len, next);
        crypto_sign_detached(signature, NULL, next, sizeof next, secret);
        memcpy(b.data + b.len - sizeof signature, signature, sizeof signature);
        err = b.failed;
    }
    if (!err && !(*out = bytes_new(b.data, b.len)))
        err = ERR_NOMEM;
    if (!err)
        memcpy(chain, next, sizeof next);
    buf_release(&b);
    return err;
}
