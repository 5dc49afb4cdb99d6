/* A secure link before a stranger: the handshake in either role, in pieces; and the records of a link that is open, of which the input
 * says what happens to them on the way. Nothing but what was sealed ever comes out of it, in order and once. */
#include <assert.h>
#include <string.h>

#include "proto/secure.h"

static void keys_make(struct secure_keys *k, uint8_t who, bool closed) {
    uint8_t seed[32] = {who}, key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
    crypto_sign_seed_keypair(key, secret, seed);
    secure_keys_init(k, key, secret);
    k->secrets[0].closed = closed;
}

static void begin(struct secure *s, const struct secure_keys *k, bool dialler, struct buf *out) {
    uint8_t random[SECURE_RANDOM_BYTES];
    memset(random, 1 + dialler, sizeof random);
    buf_init(out, 4096);
    secure_init(s, k, dialler, random, out);
}

static void handshake(const struct secure_keys *k, bool dialler, const uint8_t *data, size_t size) {
    struct secure s;
    struct buf out;
    begin(&s, k, dialler, &out);
    for (size_t at = 0; at < size && s.state < SECURE_OPEN;) {
        const uint8_t *p = data + at;
        size_t piece = size - at < 100 ? size - at : 100, left = piece;
        int r = secure_shake(&s, k, &p, &left, &out);
        assert((r < 0) == (s.state == SECURE_FAILED) && (r == 1) == (s.state == SECURE_OPEN));
        assert(out.len < 1024); /* what a stranger can make us say and keep */
        assert(s.rx.len <= SECURE_FRAME_HEAD + SECURE_FRAME_MAX);
        at += piece - left;
    }
    secure_release(&s);
    buf_release(&out);
}

static void open_both(struct secure ends[2], struct secure_keys keys[2]) {
    struct buf out[2];
    for (int i = 0; i < 2; i++)
        begin(&ends[i], &keys[i], i == 0, &out[i]);
    for (int i = 0; i < 3; i++) {
        const uint8_t *p = out[i % 2].data;
        size_t left = out[i % 2].len;
        assert(secure_shake(&ends[!(i % 2)], &keys[!(i % 2)], &p, &left, &out[!(i % 2)]) >= 0);
        buf_clear(&out[i % 2]);
    }
    assert(ends[0].state == SECURE_OPEN && ends[1].state == SECURE_OPEN);
    buf_release(&out[0]);
    buf_release(&out[1]);
}

/* Each two bytes: how long the next record is, and which byte of it is changed, if any, or whether it goes twice or not at all. */
static void records(struct secure_keys keys[2], const uint8_t *data, size_t size) {
    struct secure ends[2];
    static uint8_t record[256 + SECURE_RECORD_EXTRA], plain[SECURE_RECORD_MAX];
    uint8_t expected = 0;
    open_both(ends, keys);
    for (size_t at = 0; at + 1 < size; at += 2) {
        uint8_t sent[256];
        memset(sent, expected, sizeof sent);
        size_t len = secure_seal(&ends[0], sent, data[at], false, record), plain_len = 0;
        bool spoiled = data[at + 1] >= 128, twice = data[at + 1] == 127, lost = data[at + 1] == 126;
        if (spoiled)
            record[data[at + 1] % len] ^= 1;
        int r = 1;
        for (int i = lost ? 2 : 0; i < 2 && r == 1; i += twice ? 1 : 2) {
            const uint8_t *p = record;
            size_t left = len;
            r = secure_open(&ends[1], &p, &left, plain, &plain_len);
            assert(r != 1 || (!spoiled && i == 0 && plain_len == data[at]));
            assert(r != 1 || plain_len == 0 || plain[0] == expected);
        }
        if (r != 1 || lost)
            break;
        expected++;
    }
    const uint8_t *p = data; /* and bytes of nobody's */
    size_t left = size, plain_len;
    if (!ends[0].finished)
        assert(secure_open(&ends[0], &p, &left, plain, &plain_len) <= 0);
    secure_release(&ends[0]);
    secure_release(&ends[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0 || sodium_init() < 0)
        return 0;
    struct secure_keys keys[2];
    for (int i = 0; i < 2; i++)
        keys_make(&keys[i], (uint8_t)(1 + i), (data[0] & 2) != 0);
    if (data[0] & 4)
        records(keys, data + 1, size - 1);
    else
        handshake(&keys[data[0] & 1], (data[0] & 1) == 0, data + 1, size - 1);
    return 0;
}
