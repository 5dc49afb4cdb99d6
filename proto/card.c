#include "proto/card.h"

#include <sodium.h>
#include <string.h>

#include "proto/buf.h"
#include "proto/err.h"
#include "proto/mpk.h"
#include "proto/wire.h"

static const char context[] = "starling card"; /* with its zero byte */

/* What is signed: the context, the cluster, the array. */
static void begin(struct buf *b, const char *cluster) {
    buf_init(b, sizeof context + CORE_NAME_MAX + CARD_BYTES_MAX);
    buf_append(b, context, sizeof context);
    buf_append(b, cluster, strlen(cluster) + 1);
}

size_t card_sign(const struct card *c, const char *cluster, const uint8_t secret[NODE_SECRET_BYTES], uint8_t out[CARD_BYTES_MAX]) {
    struct buf b;
    uint32_t count = 0;
    size_t room = CARD_BYTES_MAX - crypto_sign_BYTES - NODE_KEY_BYTES - 32 - strlen(c->name);
    while (count < c->count && strlen(c->addresses[count]) + 3 <= room)
        room -= strlen(c->addresses[count++]) + 3;
    begin(&b, cluster);
    size_t from = b.len;
    buf_pack_array(&b, 6);
    buf_pack_bin(&b, c->key, NODE_KEY_BYTES);
    buf_pack_u64(&b, c->incarnation);
    buf_pack_u64(&b, c->issue);
    buf_pack_bool(&b, c->left);
    buf_pack_cstr(&b, c->name);
    buf_pack_array(&b, count);
    for (uint32_t i = 0; i < count; i++)
        buf_pack_cstr(&b, c->addresses[i]);
    size_t len = b.len - from;
    if (b.failed || len + crypto_sign_BYTES > CARD_BYTES_MAX) {
        buf_release(&b);
        return 0;
    }
    memcpy(out, b.data + from, len);
    crypto_sign_detached(out + len, NULL, b.data, b.len, secret);
    buf_release(&b);
    return len + crypto_sign_BYTES;
}

static void text(struct mpk *m, char *out, size_t cap) {
    size_t len = 0;
    const char *p = mpk_str(m, &len, cap - 1);
    wire_clean(out, cap, p ? p : "", p ? len : 0);
}

int card_read(struct card *c, const uint8_t *data, size_t len) {
    struct mpk m;
    if (len > CARD_BYTES_MAX)
        return ERR_TOOBIG;
    if (len < crypto_sign_BYTES)
        return ERR_MALFORMED;
    memset(c, 0, sizeof *c);
    mpk_init(&m, data, len - crypto_sign_BYTES);
    if (mpk_array(&m, 6) != 6)
        mpk_fail(&m, ERR_MALFORMED);
    const uint8_t *key = mpk_bin_exact(&m, NODE_KEY_BYTES);
    if (key)
        memcpy(c->key, key, sizeof c->key);
    c->incarnation = mpk_u64(&m, UINT64_MAX);
    c->issue = (uint32_t)mpk_u64(&m, UINT32_MAX);
    c->left = mpk_bool(&m);
    text(&m, c->name, sizeof c->name);
    c->count = mpk_array(&m, CARD_ADDRESSES_MAX);
    for (uint32_t i = 0; i < c->count && !m.err; i++)
        text(&m, c->addresses[i], sizeof c->addresses[i]);
    return mpk_finish(&m);
}

bool card_holds(const uint8_t *data, size_t len, const char *cluster, const uint8_t key[NODE_KEY_BYTES]) {
    struct buf b;
    if (len < crypto_sign_BYTES)
        return false;
    begin(&b, cluster);
    buf_append(&b, data, len - crypto_sign_BYTES);
    bool holds = !b.failed && crypto_sign_verify_detached(data + len - crypto_sign_BYTES, b.data, b.len, key) == 0;
    buf_release(&b);
    return holds;
}
