/* Starling: the handshake Noise_XX_25519_ChaChaPoly_BLAKE2b, and XXpsk0 where there is a cluster secret (noiseprotocol.org, revision 34).
 * A pure state machine over libsodium: who calls gives the keys, the ephemeral one among them, and moves the three messages.
 *
 *   -> [psk] e              The secret comes first (psk0, not psk3): whoever has it not is known by its first message, before
 *   <- e, ee, s, es         a key exchange was computed for him, and learns nothing, neither who answers nor that
 *   -> s, se                it is a server of this cluster. */
#ifndef PROTO_NOISE_H
#define PROTO_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NOISE_KEY_BYTES 32
#define NOISE_HASH_BYTES 64
#define NOISE_TAG_BYTES 16
#define NOISE_PAYLOAD_MAX 256 /* that is enough for us */
#define NOISE_MESSAGE_MAX (2 * NOISE_KEY_BYTES + 2 * NOISE_TAG_BYTES + NOISE_PAYLOAD_MAX)

/* X25519 */
struct noise_pair {
    uint8_t secret[NOISE_KEY_BYTES], public[NOISE_KEY_BYTES];
};

struct noise {
    bool initiator, keyed, secret;
    unsigned messages; /* written and read so far; the handshake is over after three */
    uint64_t nonce;
    uint8_t chain[NOISE_HASH_BYTES], hash[NOISE_HASH_BYTES], key[NOISE_KEY_BYTES], psk[NOISE_KEY_BYTES];
    struct noise_pair own, ephemeral;
    uint8_t their[NOISE_KEY_BYTES], their_ephemeral[NOISE_KEY_BYTES]; /* `their`: proven once the handshake is over */
};

/* psk: the secret, or NULL: XX without one. ephemeral: an X25519 secret key that was never used before. */
void noise_init(struct noise *n, bool initiator, const uint8_t *psk, const struct noise_pair *own, const uint8_t ephemeral[NOISE_KEY_BYTES],
                const void *prologue, size_t prologue_len);
/* The next message, when it is our turn. At most NOISE_MESSAGE_MAX bytes into out. 0 or ERR_INTERNAL. */
int noise_write(struct noise *n, const uint8_t *payload, size_t payload_len, uint8_t *out, size_t *out_len);
/* The other side's next message; at most NOISE_PAYLOAD_MAX bytes into payload. ERR_MALFORMED: too short or long; ERR_SIGNATURE: another
 * secret, or not what the other side wrote. After an error n is of no more use. */
int noise_read(struct noise *n, const uint8_t *message, size_t len, uint8_t *payload, size_t *payload_len);
bool noise_done(const struct noise *n);
/* The keys of both directions. The handshake's hash, n->hash, is the same on both sides and no other handshake's. */
void noise_split(const struct noise *n, uint8_t from_initiator[NOISE_KEY_BYTES], uint8_t from_responder[NOISE_KEY_BYTES]);
void noise_release(struct noise *n); /* forgets all keys */

#endif
