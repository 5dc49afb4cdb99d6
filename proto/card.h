/* Starling: a member's card, what it says of itself: name, addresses, and whether it left; signed with its key. Others pass it on as
 * it came, so nobody can send dials elsewhere, end a member, or outbid it, in its name.
 *
 *   [key bin32, incarnation u64, issue u32, left bool, name str <= 63, [address str <= 299] <= 6]   then 64 bytes of signature
 *   signature = Ed25519 over "starling card", a zero byte, the cluster's name, a zero byte, and the array
 *
 * Of two cards of one member the one of the higher incarnation counts, at equal ones of the higher issue. */
#ifndef PROTO_CARD_H
#define PROTO_CARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/core.h"

#define CARD_ADDRESSES_MAX 6u

struct card {
    uint8_t key[NODE_KEY_BYTES];
    uint64_t incarnation;
    uint32_t issue;
    bool left;
    char name[CORE_NAME_MAX];
    uint32_t count;
    char addresses[CARD_ADDRESSES_MAX][CORE_ADDRESS_MAX]; /* host:port, the best first */
};

/* Bytes of the signed card in out; 0 without memory. Addresses that do not fit are left out. */
size_t card_sign(const struct card *c, const char *cluster, const uint8_t secret[NODE_SECRET_BYTES], uint8_t out[CARD_BYTES_MAX]);
/* Takes it apart, without looking at the signature. 0, ERR_MALFORMED or ERR_TOOBIG. Texts are made fit for a log. */
int card_read(struct card *c, const uint8_t *data, size_t len);
bool card_holds(const uint8_t *data, size_t len, const char *cluster, const uint8_t key[NODE_KEY_BYTES]);

#endif
