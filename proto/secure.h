/* Starling: a secure link. Before the handshake is over: a preamble each way, then its messages (noise.h), with limits for strangers;
 * after it: records, each a piece of the stream, encrypted and authenticated, in order, none twice, none missing. A pure state machine:
 * bytes come in and go out by the caller, and so does randomness.
 *
 *   preamble   "starling", u8 version. The dialler's comes with its first frame, the other's with its answer.
 *   frame      u8 type, u16 big-endian length (at most SECURE_FRAME_MAX), that many bytes
 *                1 a handshake message. Messages 2 and 3 carry the sender's Ed25519 key, which must be the one that its
 *                  X25519 key, proven by the handshake, was made from
 *                2 refused: u8 reason. Not authenticated: whoever could forge it could also cut the line
 *   record     u16 big-endian length, that many bytes: crypto_secretstream_xchacha20poly1305, at most SECURE_RECORD_MAX plain
 *              bytes. Each direction has its key of the handshake's split; its 24 header bytes are not sent but taken from
 *              the handshake's hash. A new key every SECURE_REKEY_RECORDS; the last record of a link that is closed is FINAL.
 *
 *   dialler    ANSWER ────────────────────────▶ OPEN         a refusal for its secret, while it has another: again with that
 *   other      PREAMBLE ─▶ FIRST ─▶ THIRD ────▶ OPEN         FIRST again after a secret that is not ours
 *   any ─▶ FAILED, with the reason */
#ifndef PROTO_SECURE_H
#define PROTO_SECURE_H

#include <sodium.h>

#include "proto/buf.h"
#include "proto/noise.h"
#include "proto/origin.h"

#define SECURE_VERSION 1
#define SECURE_SECRETS_MAX 2
#define SECURE_SECRET_BYTES NOISE_KEY_BYTES
#define SECURE_RANDOM_BYTES (SECURE_SECRETS_MAX * NOISE_KEY_BYTES)
#define SECURE_PREAMBLE_BYTES 9
#define SECURE_FRAME_HEAD 3
#define SECURE_FRAME_MAX 256
#define SECURE_RECORD_HEAD 2
#define SECURE_RECORD_MAX 16384u
#define SECURE_RECORD_EXTRA (SECURE_RECORD_HEAD + crypto_secretstream_xchacha20poly1305_ABYTES)
#define SECURE_REKEY_RECORDS 65536u

/* What a secret file may say: none (an open cluster), or 32 bytes that only members know. */
struct secure_secret {
    bool closed;
    uint8_t psk[SECURE_SECRET_BYTES];
};

/* Of one node, for all its links. */
struct secure_keys {
    uint8_t key[NODE_KEY_BYTES];                      /* Ed25519 */
    struct noise_pair exchange;                       /* X25519, made from it */
    struct secure_secret secrets[SECURE_SECRETS_MAX]; /* all are accepted; the first is used, another when that is refused */
    unsigned secrets_count;                           /* at least 1 */
};

/* What a connection is for, as its dialler says in its third message. */
enum secure_purpose { SECURE_LINK, SECURE_CONTENT, SECURE_VISIT, SECURE_PURPOSES };

enum secure_state { SECURE_PREAMBLE, SECURE_FIRST, SECURE_THIRD, SECURE_ANSWER, SECURE_OPEN, SECURE_FAILED };

enum secure_reason {
    SECURE_FINE,
    /* in refusals, either way */
    SECURE_OTHER_SECRET,
    SECURE_NEEDS_SECRET, /* the dialler has none */
    SECURE_HAS_SECRET,   /* the dialler has one, the other side none */
    SECURE_OTHER_VERSION,
    SECURE_NOT_ALLOWED, /* the dialler's address */
    SECURE_CROWDED,     /* too many others from its address that have not said who they are */
    SECURE_REFUSALS,
    /* found here only */
    SECURE_GARBAGE = 100, /* not a Starling peer */
    SECURE_BROKEN,        /* the handshake does not verify */
};

struct secure {
    enum secure_state state;
    bool initiator, greeted; /* greeted: its preamble came */
    bool refused;            /* FAILED: the other side's word, not ours */
    bool finished;           /* it closed its stream in order: a FINAL record came */
    enum secure_reason reason;
    enum secure_purpose purpose; /* the dialler's: set after secure_init(); the other side's: known when OPEN */
    unsigned attempts;
    uint8_t random[SECURE_RANDOM_BYTES];
    uint8_t peer[NODE_KEY_BYTES]; /* OPEN: who it is, proven */
    uint8_t start[SECURE_PREAMBLE_BYTES + SECURE_FRAME_HEAD];
    unsigned start_len; /* what it began with, for the log */
    struct noise noise;
    struct buf rx; /* an incomplete preamble, frame or record */
    uint64_t sent_records;
    crypto_secretstream_xchacha20poly1305_state push, pull;
};

/* Fills in the keys from an Ed25519 pair. */
void secure_keys_init(struct secure_keys *keys, const uint8_t key[NODE_KEY_BYTES], const uint8_t secret[NODE_SECRET_BYTES]);
/* random: never used before. What is to be sent is appended to out. */
void secure_init(struct secure *s, const struct secure_keys *keys, bool initiator, const uint8_t random[SECURE_RANDOM_BYTES],
                 struct buf *out);
void secure_release(struct secure *s); /* forgets all keys */
/* Takes bytes of the handshake. 0: all were taken and more are needed; 1: OPEN, and the rest are records; ERR_*: FAILED. What is to be
 * sent, also after a failure, is appended to out. */
int secure_shake(struct secure *s, const struct secure_keys *keys, const uint8_t **data, size_t *len, struct buf *out);
/* Refuses a link of which nothing was read yet. */
void secure_refuse(struct secure *s, enum secure_reason reason, struct buf *out);
/* Why it failed, as half a sentence for people; NULL: it did not. */
const char *secure_why(const struct secure *s);

/* The next record. 1: *plain_len bytes in plain (SECURE_RECORD_MAX); 0: more is needed; ERR_SIGNATURE: not what the other side sent;
 * ERR_TOOBIG; ERR_NOMEM. */
int secure_open(struct secure *s, const uint8_t **data, size_t *len, uint8_t *plain, size_t *plain_len);
/* One record of len bytes (at most SECURE_RECORD_MAX) into out; returns its length, len + SECURE_RECORD_EXTRA. last: nothing follows. */
size_t secure_seal(struct secure *s, const uint8_t *plain, size_t len, bool last, uint8_t *out);

#endif
