/* As in the specification: a symmetric state (chain, hash, key, nonce), and per message its tokens in order. */
#include "proto/noise.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "proto/err.h"

#define BLOCK_BYTES 128 /* of BLAKE2b, for HMAC */
#define MESSAGES 3u

/* ---- HASH, HMAC, HKDF */

static void hash_two(uint8_t out[NOISE_HASH_BYTES], const void *a, size_t a_len, const void *b, size_t b_len) {
    crypto_generichash_blake2b_state s;
    crypto_generichash_blake2b_init(&s, NULL, 0, NOISE_HASH_BYTES);
    crypto_generichash_blake2b_update(&s, a, a_len);
    crypto_generichash_blake2b_update(&s, b, b_len);
    crypto_generichash_blake2b_final(&s, out, NOISE_HASH_BYTES);
}

static void hmac(uint8_t out[NOISE_HASH_BYTES], const uint8_t key[NOISE_HASH_BYTES], const void *data, size_t len) {
    uint8_t pad[BLOCK_BYTES], inner[NOISE_HASH_BYTES];
    memset(pad, 0x36, sizeof pad);
    for (unsigned i = 0; i < NOISE_HASH_BYTES; i++)
        pad[i] ^= key[i];
    hash_two(inner, pad, sizeof pad, data, len);
    for (unsigned i = 0; i < BLOCK_BYTES; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    hash_two(out, pad, sizeof pad, inner, sizeof inner);
    sodium_memzero(pad, sizeof pad);
}

/* Two or three outputs; third may be NULL. The chain may be its own output. */
static void hkdf(const uint8_t chain[NOISE_HASH_BYTES], const uint8_t *material, size_t len, uint8_t *first, uint8_t *second,
                 uint8_t *third) {
    uint8_t key[NOISE_HASH_BYTES], last[NOISE_HASH_BYTES + 1];
    hmac(key, chain, material, len);
    hmac(first, key, "\1", 1);
    memcpy(last, first, NOISE_HASH_BYTES);
    last[NOISE_HASH_BYTES] = 2;
    hmac(second, key, last, sizeof last);
    if (third) {
        memcpy(last, second, NOISE_HASH_BYTES);
        last[NOISE_HASH_BYTES] = 3;
        hmac(third, key, last, sizeof last);
    }
    sodium_memzero(key, sizeof key);
    sodium_memzero(last, sizeof last);
}

/* ---- the symmetric state */

static void mix_hash(struct noise *n, const void *data, size_t len) { hash_two(n->hash, n->hash, sizeof n->hash, data, len); }

static void set_key(struct noise *n, const uint8_t *key) {
    memcpy(n->key, key, NOISE_KEY_BYTES); /* the first 32 of 64 bytes */
    n->keyed = true;
    n->nonce = 0;
}

static void mix_key(struct noise *n, const uint8_t material[NOISE_KEY_BYTES]) {
    uint8_t key[NOISE_HASH_BYTES];
    hkdf(n->chain, material, NOISE_KEY_BYTES, n->chain, key, NULL);
    set_key(n, key);
    sodium_memzero(key, sizeof key);
}

static void mix_psk(struct noise *n) {
    uint8_t mixed[NOISE_HASH_BYTES], key[NOISE_HASH_BYTES];
    hkdf(n->chain, n->psk, sizeof n->psk, n->chain, mixed, key);
    mix_hash(n, mixed, sizeof mixed);
    set_key(n, key);
    sodium_memzero(mixed, sizeof mixed);
    sodium_memzero(key, sizeof key);
}

static void nonce_bytes(struct noise *n, uint8_t out[crypto_aead_chacha20poly1305_IETF_NPUBBYTES]) {
    memset(out, 0, 4);
    for (unsigned i = 0; i < 8; i++)
        out[4 + i] = (uint8_t)(n->nonce >> (8 * i));
    n->nonce++;
}

/* Returns the length of what was written. */
static size_t encrypt(struct noise *n, const uint8_t *plain, size_t len, uint8_t *out) {
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    if (n->keyed) {
        nonce_bytes(n, nonce);
        crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, plain, len, n->hash, sizeof n->hash, NULL, nonce, n->key);
        len += NOISE_TAG_BYTES;
    } else if (len) {
        memcpy(out, plain, len);
    }
    mix_hash(n, out, len);
    return len;
}

/* len: of the plain text. */
static int decrypt(struct noise *n, const uint8_t *cipher, size_t len, uint8_t *out) {
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    size_t whole = len + (n->keyed ? NOISE_TAG_BYTES : 0);
    if (n->keyed) {
        nonce_bytes(n, nonce);
        if (crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, cipher, whole, n->hash, sizeof n->hash, nonce, n->key) != 0)
            return ERR_SIGNATURE;
    } else if (len) {
        memcpy(out, cipher, len);
    }
    mix_hash(n, cipher, whole);
    return 0;
}

/* ---- tokens */

static int exchange(struct noise *n, const uint8_t secret[NOISE_KEY_BYTES], const uint8_t public[NOISE_KEY_BYTES]) {
    uint8_t shared[NOISE_KEY_BYTES];
    if (crypto_scalarmult(shared, secret, public) != 0)
        return ERR_SIGNATURE; /* a point that gives the same with every key */
    mix_key(n, shared);
    sodium_memzero(shared, sizeof shared);
    return 0;
}

static void ephemeral_known(struct noise *n, const uint8_t public[NOISE_KEY_BYTES]) {
    mix_hash(n, public, NOISE_KEY_BYTES);
    if (n->secret)
        mix_key(n, public);
}

/* The exchanges behind a message's ephemeral key: ee in the second one. */
static int exchange_ephemeral(struct noise *n) { return n->messages == 1 ? exchange(n, n->ephemeral.secret, n->their_ephemeral) : 0; }

/* The exchange behind a message's static key: es in the second message, se in the third. Whose static key it is says `own`. */
static int exchange_static(struct noise *n, bool own) {
    return own ? exchange(n, n->own.secret, n->their_ephemeral) : exchange(n, n->ephemeral.secret, n->their);
}

void noise_init(struct noise *n, bool initiator, const uint8_t *psk, const struct noise_pair *own, const uint8_t ephemeral[NOISE_KEY_BYTES],
                const void *prologue, size_t prologue_len) {
    static const char open[] = "Noise_XX_25519_ChaChaPoly_BLAKE2b", closed[] = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2b";
    *n = (struct noise){.initiator = initiator, .secret = psk != NULL, .own = *own};
    if (psk) {
        memcpy(n->psk, psk, sizeof n->psk);
        memcpy(n->hash, closed, sizeof closed - 1); /* at most 64 bytes: padded with zeros, not hashed */
    } else {
        memcpy(n->hash, open, sizeof open - 1);
    }
    memcpy(n->chain, n->hash, sizeof n->chain);
    mix_hash(n, prologue, prologue_len);
    memcpy(n->ephemeral.secret, ephemeral, sizeof n->ephemeral.secret);
    crypto_scalarmult_base(n->ephemeral.public, ephemeral);
}

int noise_write(struct noise *n, const uint8_t *payload, size_t payload_len, uint8_t *out, size_t *out_len) {
    size_t at = 0;
    int r = 0;
    assert(n->messages < MESSAGES && (n->messages % 2 == 0) == n->initiator);
    assert(payload_len <= NOISE_PAYLOAD_MAX);
    if (n->messages == 0 && n->secret)
        mix_psk(n);
    if (n->messages < 2) {
        memcpy(out, n->ephemeral.public, NOISE_KEY_BYTES);
        at = NOISE_KEY_BYTES;
        ephemeral_known(n, n->ephemeral.public);
        r = exchange_ephemeral(n);
    }
    if (r == 0 && n->messages > 0) {
        at += encrypt(n, n->own.public, NOISE_KEY_BYTES, out + at);
        r = exchange_static(n, true);
    }
    if (r == 0)
        at += encrypt(n, payload, payload_len, out + at);
    n->messages++;
    *out_len = at;
    return r;
}

/* What a message has besides its payload. */
static size_t overhead(const struct noise *n) {
    static const size_t keys[MESSAGES] = {NOISE_KEY_BYTES, 2 * NOISE_KEY_BYTES + NOISE_TAG_BYTES, NOISE_KEY_BYTES + NOISE_TAG_BYTES};
    return keys[n->messages] + (n->messages > 0 || n->secret ? NOISE_TAG_BYTES : 0);
}

int noise_read(struct noise *n, const uint8_t *message, size_t len, uint8_t *payload, size_t *payload_len) {
    int r = 0;
    assert(n->messages < MESSAGES && (n->messages % 2 == 1) == n->initiator);
    if (len < overhead(n) || len - overhead(n) > NOISE_PAYLOAD_MAX)
        return ERR_MALFORMED;
    *payload_len = len - overhead(n);
    if (n->messages == 0 && n->secret)
        mix_psk(n);
    if (n->messages < 2) {
        memcpy(n->their_ephemeral, message, NOISE_KEY_BYTES);
        message += NOISE_KEY_BYTES;
        ephemeral_known(n, n->their_ephemeral);
        r = exchange_ephemeral(n);
    }
    if (r == 0 && n->messages > 0) {
        r = decrypt(n, message, NOISE_KEY_BYTES, n->their);
        message += NOISE_KEY_BYTES + NOISE_TAG_BYTES;
        if (r == 0)
            r = exchange_static(n, false);
    }
    if (r == 0)
        r = decrypt(n, message, *payload_len, payload);
    n->messages++;
    return r;
}

bool noise_done(const struct noise *n) { return n->messages == MESSAGES; }

void noise_split(const struct noise *n, uint8_t from_initiator[NOISE_KEY_BYTES], uint8_t from_responder[NOISE_KEY_BYTES]) {
    uint8_t first[NOISE_HASH_BYTES], second[NOISE_HASH_BYTES];
    assert(noise_done(n));
    hkdf(n->chain, NULL, 0, first, second, NULL);
    memcpy(from_initiator, first, NOISE_KEY_BYTES);
    memcpy(from_responder, second, NOISE_KEY_BYTES);
    sodium_memzero(first, sizeof first);
    sodium_memzero(second, sizeof second);
}

void noise_release(struct noise *n) { sodium_memzero(n, sizeof *n); }
