#include "proto/secure.h"

#include <assert.h>
#include <string.h>

#include "proto/err.h"

enum { FRAME_HANDSHAKE = 1, FRAME_REFUSE = 2 };

static const uint8_t preamble[SECURE_PREAMBLE_BYTES] = {'s', 't', 'a', 'r', 'l', 'i', 'n', 'g', SECURE_VERSION};

void secure_keys_init(struct secure_keys *keys, const uint8_t key[NODE_KEY_BYTES], const uint8_t secret[NODE_SECRET_BYTES]) {
    *keys = (struct secure_keys){.secrets_count = 1};
    memcpy(keys->key, key, sizeof keys->key);
    int r = crypto_sign_ed25519_sk_to_curve25519(keys->exchange.secret, secret);
    assert(r == 0);
    crypto_scalarmult_base(keys->exchange.public, keys->exchange.secret);
}

/* ---- what goes out */

static void put_frame(struct buf *out, uint8_t type, const uint8_t *body, size_t len) {
    const uint8_t head[SECURE_FRAME_HEAD] = {type, (uint8_t)(len >> 8), (uint8_t)len};
    buf_append(out, head, sizeof head);
    buf_append(out, body, len);
}

static int fail(struct secure *s, enum secure_reason reason, int error) {
    s->state = SECURE_FAILED;
    s->reason = reason;
    noise_release(&s->noise);
    return error;
}

/* An answer of the side that was dialled begins with its preamble. */
static void put_answer(struct secure *s, struct buf *out, uint8_t type, const uint8_t *body, size_t len) {
    if (!s->initiator && !s->greeted)
        buf_append(out, preamble, sizeof preamble);
    s->greeted = s->greeted || !s->initiator;
    put_frame(out, type, body, len);
}

void secure_refuse(struct secure *s, enum secure_reason reason, struct buf *out) {
    const uint8_t body = (uint8_t)reason;
    put_answer(s, out, FRAME_REFUSE, &body, 1);
    fail(s, reason, ERR_DENIED);
}

/* The next handshake message, with our identity in all but the first, and in the third what the connection is for, if it is no link. */
static int put_message(struct secure *s, const struct secure_keys *keys, struct buf *out) {
    uint8_t message[NOISE_MESSAGE_MAX], payload[NODE_KEY_BYTES + 1];
    size_t len = 0;
    bool third = s->noise.messages == 2 && s->purpose != SECURE_LINK;
    memcpy(payload, keys->key, NODE_KEY_BYTES);
    payload[NODE_KEY_BYTES] = (uint8_t)s->purpose;
    int r = noise_write(&s->noise, payload, s->noise.messages ? NODE_KEY_BYTES + third : 0, message, &len);
    if (r)
        return fail(s, SECURE_BROKEN, r);
    put_answer(s, out, FRAME_HANDSHAKE, message, len);
    return 0;
}

static void noise_begin(struct secure *s, const struct secure_keys *keys, unsigned secret) {
    const struct secure_secret *with = &keys->secrets[secret];
    noise_init(&s->noise, s->initiator, with->closed ? with->psk : NULL, &keys->exchange,
               s->random + (s->initiator ? secret : 0) * NOISE_KEY_BYTES, preamble, sizeof preamble);
}

/* The dialler begins, with the secret of this number. */
static int attempt(struct secure *s, const struct secure_keys *keys, struct buf *out) {
    noise_begin(s, keys, s->attempts++);
    return put_message(s, keys, out);
}

void secure_init(struct secure *s, const struct secure_keys *keys, bool initiator, const uint8_t random[SECURE_RANDOM_BYTES],
                 struct buf *out) {
    assert(keys->secrets_count >= 1 && keys->secrets_count <= SECURE_SECRETS_MAX);
    memset(s, 0, sizeof *s);
    s->initiator = initiator;
    memcpy(s->random, random, sizeof s->random);
    buf_init(&s->rx, SECURE_RECORD_EXTRA + SECURE_RECORD_MAX);
    s->state = initiator ? SECURE_ANSWER : SECURE_PREAMBLE;
    if (!initiator)
        return;
    buf_append(out, preamble, sizeof preamble);
    attempt(s, keys, out);
}

void secure_release(struct secure *s) {
    buf_release(&s->rx);
    sodium_memzero(s, sizeof *s);
}

/* ---- the handshake */

/* The other side's key in a payload is the one that its exchange key was made from. Takes also what a dialler's connection is for. */
static bool identity_holds(struct secure *s, const uint8_t *payload, size_t len) {
    uint8_t exchange[NOISE_KEY_BYTES];
    if (!s->initiator && len == NODE_KEY_BYTES + 1) {
        if (payload[--len] == SECURE_LINK || payload[len] >= SECURE_PURPOSES)
            return false;
        s->purpose = (enum secure_purpose)payload[len];
    }
    if (len != NODE_KEY_BYTES || crypto_sign_ed25519_pk_to_curve25519(exchange, payload) != 0 ||
        sodium_memcmp(exchange, s->noise.their, sizeof exchange) != 0)
        return false;
    memcpy(s->peer, payload, sizeof s->peer);
    return true;
}

static void opened(struct secure *s) {
    uint8_t keys[2][NOISE_KEY_BYTES];
    static_assert(NOISE_HASH_BYTES >= 2 * crypto_secretstream_xchacha20poly1305_HEADERBYTES, "a header for each direction");
    noise_split(&s->noise, keys[0], keys[1]);
    /* init_pull, also to send: init_push would make the header up, and here both sides know one that was never used with this key */
    crypto_secretstream_xchacha20poly1305_init_pull(&s->push, s->noise.hash + (s->initiator ? 0 : sizeof s->noise.hash / 2),
                                                    keys[s->initiator ? 0 : 1]);
    crypto_secretstream_xchacha20poly1305_init_pull(&s->pull, s->noise.hash + (s->initiator ? sizeof s->noise.hash / 2 : 0),
                                                    keys[s->initiator ? 1 : 0]);
    sodium_memzero(keys, sizeof keys);
    sodium_memzero(s->random, sizeof s->random);
    noise_release(&s->noise);
    s->reason = SECURE_FINE;
    s->state = SECURE_OPEN;
}

static enum secure_reason secret_reason(const struct secure_keys *keys, bool theirs_closed) {
    bool closed = false;
    for (unsigned i = 0; i < keys->secrets_count; i++)
        closed = closed || keys->secrets[i].closed;
    return !theirs_closed ? SECURE_NEEDS_SECRET : closed ? SECURE_OTHER_SECRET : SECURE_HAS_SECRET;
}

/* The first message: which of our secrets was it made with? */
static int take_first(struct secure *s, const struct secure_keys *keys, const uint8_t *body, size_t len, struct buf *out) {
    uint8_t payload[NOISE_PAYLOAD_MAX];
    size_t payload_len;
    bool theirs_closed = len > NOISE_KEY_BYTES;
    for (unsigned i = 0; i < keys->secrets_count; i++) {
        if (keys->secrets[i].closed != theirs_closed)
            continue;
        noise_begin(s, keys, i);
        if (noise_read(&s->noise, body, len, payload, &payload_len) == 0) {
            s->state = SECURE_THIRD;
            return put_message(s, keys, out);
        }
    }
    secure_refuse(s, secret_reason(keys, theirs_closed), out);
    if (++s->attempts >= SECURE_SECRETS_MAX)
        return ERR_DENIED;
    s->state = SECURE_FIRST; /* it may have another, while secrets are being changed */
    return 0;
}

static int take_refusal(struct secure *s, const struct secure_keys *keys, const uint8_t *body, size_t len, struct buf *out) {
    if (len != 1 || body[0] == SECURE_FINE || body[0] >= SECURE_REFUSALS || s->noise.messages != 1)
        return fail(s, SECURE_BROKEN, ERR_MALFORMED);
    s->refused = true;
    s->reason = (enum secure_reason)body[0];
    bool secret = s->reason <= SECURE_HAS_SECRET;
    if (!secret || s->attempts >= keys->secrets_count)
        return fail(s, s->reason, ERR_DENIED);
    return attempt(s, keys, out);
}

static int take_frame(struct secure *s, const struct secure_keys *keys, const uint8_t *frame, size_t len, struct buf *out) {
    uint8_t payload[NOISE_PAYLOAD_MAX];
    size_t payload_len;
    uint8_t type = frame[0];
    frame += SECURE_FRAME_HEAD;
    len -= SECURE_FRAME_HEAD;
    if (s->initiator && type == FRAME_REFUSE)
        return take_refusal(s, keys, frame, len, out);
    if (s->start[SECURE_PREAMBLE_BYTES - 1] != SECURE_VERSION)
        return fail(s, SECURE_OTHER_VERSION, ERR_FORMAT);
    if (type != FRAME_HANDSHAKE)
        return fail(s, SECURE_BROKEN, ERR_MALFORMED);
    if (s->state == SECURE_FIRST)
        return take_first(s, keys, frame, len, out);
    if (noise_read(&s->noise, frame, len, payload, &payload_len) != 0 || !identity_holds(s, payload, payload_len))
        return fail(s, SECURE_BROKEN, ERR_SIGNATURE);
    if (s->initiator && put_message(s, keys, out) != 0)
        return ERR_SIGNATURE;
    opened(s);
    return 0;
}

/* Moves bytes into rx until it holds `want`. */
static bool fill(struct secure *s, const uint8_t **data, size_t *len, size_t want) {
    size_t n = want <= s->rx.len ? 0 : want - s->rx.len;
    if (n > *len)
        n = *len;
    buf_append(&s->rx, *data, n);
    *data += n;
    *len -= n;
    return s->rx.len >= want && !s->rx.failed;
}

static int take_preamble(struct secure *s, struct buf *out) {
    bool ours = memcmp(s->rx.data, preamble, sizeof preamble - 1) == 0, same = s->rx.data[sizeof preamble - 1] == SECURE_VERSION;
    buf_clear(&s->rx);
    if (!ours)
        return fail(s, SECURE_GARBAGE, ERR_MALFORMED);
    if (s->initiator)
        s->greeted = true; /* of another version: its refusal says so, whose form no version changes */
    else if (same)
        s->state = SECURE_FIRST;
    else
        secure_refuse(s, SECURE_OTHER_VERSION, out);
    return s->state == SECURE_FAILED ? ERR_FORMAT : 0;
}

/* Keeps what the other side began with, and gives up on what is no preamble at its first byte that differs. */
static bool plausible(struct secure *s, const uint8_t *data, size_t len) {
    for (size_t i = 0; i < len && s->start_len < sizeof s->start; i++)
        s->start[s->start_len++] = data[i];
    size_t n = s->start_len < sizeof preamble - 1 ? s->start_len : sizeof preamble - 1;
    return memcmp(s->start, preamble, n) == 0;
}

int secure_shake(struct secure *s, const struct secure_keys *keys, const uint8_t **data, size_t *len, struct buf *out) {
    int r = 0;
    assert(s->state < SECURE_OPEN);
    if (s->start_len < sizeof s->start && !plausible(s, *data, *len))
        return fail(s, SECURE_GARBAGE, ERR_MALFORMED);
    while (r == 0 && s->state != SECURE_OPEN) {
        bool expects_preamble = s->state == SECURE_PREAMBLE || (s->initiator && !s->greeted);
        if (!fill(s, data, len, expects_preamble ? SECURE_PREAMBLE_BYTES : SECURE_FRAME_HEAD))
            return s->rx.failed ? fail(s, SECURE_BROKEN, s->rx.failed) : 0;
        if (expects_preamble) {
            r = take_preamble(s, out);
            continue;
        }
        size_t body = (size_t)s->rx.data[1] << 8 | s->rx.data[2];
        if (body > SECURE_FRAME_MAX)
            return fail(s, SECURE_BROKEN, ERR_TOOBIG);
        if (!fill(s, data, len, SECURE_FRAME_HEAD + body))
            return s->rx.failed ? fail(s, SECURE_BROKEN, s->rx.failed) : 0;
        r = take_frame(s, keys, s->rx.data, s->rx.len, out);
        buf_clear(&s->rx);
    }
    return r ? r : 1;
}

const char *secure_why(const struct secure *s) {
    switch (s->reason) {
    case SECURE_OTHER_SECRET: return "it has another cluster secret: give both the same --secret-file";
    case SECURE_NEEDS_SECRET:
        return s->initiator ? "it has a cluster secret and this node has none: start this node with the --secret-file of the cluster"
                            : "it has no cluster secret and this node has one: start it with the --secret-file of the cluster";
    case SECURE_HAS_SECRET:
        return s->initiator ? "it has no cluster secret and this node has one: start it with the --secret-file of the cluster"
                            : "it has a cluster secret and this node has none: start this node with the --secret-file of the cluster";
    case SECURE_OTHER_VERSION: return "it speaks another version of the link protocol: run the same version of starlingd on both";
    case SECURE_NOT_ALLOWED:
        return s->initiator ? "this node's address is not on its allow list: say starling peers allow ADDRESS there"
                            : "its address is not on the allow list: say starling peers allow ADDRESS here";
    case SECURE_CROWDED: return "too many others from its address never said who they are";
    case SECURE_GARBAGE: return "it is not a Starling peer, or one without encryption";
    case SECURE_BROKEN: return "the handshake does not hold: somebody changes what passes, or poses as another";
    default: return NULL;
    }
}

/* ---- records */

int secure_open(struct secure *s, const uint8_t **data, size_t *len, uint8_t *plain, size_t *plain_len) {
    const uint8_t *record = *data;
    assert(s->state == SECURE_OPEN);
    if (s->rx.len == 0 && *len == 0)
        return 0;
    if (s->finished)
        return ERR_SIGNATURE; /* nothing follows the last one */
    size_t n = 0;
    bool whole = s->rx.len == 0 && *len >= SECURE_RECORD_HEAD; /* the usual case: not copied */
    if (whole) {
        n = (size_t)record[0] << 8 | record[1];
        whole = *len - SECURE_RECORD_HEAD >= n;
    }
    if (!whole) {
        if (!fill(s, data, len, SECURE_RECORD_HEAD))
            return s->rx.failed;
        n = (size_t)s->rx.data[0] << 8 | s->rx.data[1];
    }
    if (n > SECURE_RECORD_MAX + crypto_secretstream_xchacha20poly1305_ABYTES)
        return ERR_TOOBIG;
    if (!whole) {
        if (!fill(s, data, len, SECURE_RECORD_HEAD + n))
            return s->rx.failed;
        record = s->rx.data;
    } else {
        *data += SECURE_RECORD_HEAD + n;
        *len -= SECURE_RECORD_HEAD + n;
    }
    unsigned char tag = 0;
    unsigned long long got = 0;
    int r = n < crypto_secretstream_xchacha20poly1305_ABYTES ||
                    crypto_secretstream_xchacha20poly1305_pull(&s->pull, plain, &got, &tag, record + SECURE_RECORD_HEAD, n, NULL, 0) != 0
                ? ERR_SIGNATURE
                : 1;
    if (!whole)
        buf_release(&s->rx); /* between records a link needs no memory */
    s->finished = r == 1 && tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL;
    *plain_len = (size_t)got;
    return r;
}

size_t secure_seal(struct secure *s, const uint8_t *plain, size_t len, bool last, uint8_t *out) {
    assert(s->state == SECURE_OPEN);
    assert(len <= SECURE_RECORD_MAX);
    size_t whole = len + crypto_secretstream_xchacha20poly1305_ABYTES;
    out[0] = (uint8_t)(whole >> 8);
    out[1] = (uint8_t)whole;
    unsigned char tag = last                                            ? crypto_secretstream_xchacha20poly1305_TAG_FINAL
                        : ++s->sent_records % SECURE_REKEY_RECORDS == 0 ? crypto_secretstream_xchacha20poly1305_TAG_REKEY
                                                                        : crypto_secretstream_xchacha20poly1305_TAG_MESSAGE;
    crypto_secretstream_xchacha20poly1305_push(&s->push, out + SECURE_RECORD_HEAD, NULL, plain, len, NULL, 0, tag);
    return SECURE_RECORD_HEAD + whole;
}
