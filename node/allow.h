/* Starling node: who may connect, by address, and which members may not, by identity.
 *
 * A rule is an address, a network (ADDRESS/BITS), `private` (private and link-local networks), `any`, or a name, whose addresses are looked up
 * again and again. Permitted is what no `deny` rule covers, and that is loopback, or covered by --allow (default: private) or a rule of
 * `starling peers allow`, or is a host named by --join or `join`, wherever that name leads.
 *
 * STATE/peers.json   {"allow": [rule…], "deny": [rule…], "blocked": [{"id", "name"}…]}: what `starling peers` has decided */
#ifndef NODE_ALLOW_H
#define NODE_ALLOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <uv.h>

#include "proto/origin.h"

struct allow;

enum rule_from { RULE_DEFAULT, RULE_CONFIGURATION, RULE_SEED, RULE_COMMAND };

bool allow_valid(const char *rule);
/* Reads STATE/peers.json. On failure one line in why, and NULL. */
struct allow *allow_open(uv_loop_t *loop, const char *state, char *why, size_t why_len);
void allow_close(struct allow *a); /* freed when the loop has closed its timer and its look-ups have ended */
/* Rules of the configuration: replaces the earlier ones. None: the default. */
void allow_configure(struct allow *a, char *const *rules, uint32_t count);
void allow_seed(struct allow *a, const char *address); /* HOST[:PORT] that somebody told us to join */

bool allow_permits(const struct allow *a, const struct sockaddr *address);
/* Is this name itself allowed, wherever it leads? */
bool allow_named(const struct allow *a, const char *host);

bool allow_resolving(const struct allow *a); /* as transport_resolving() */

/* Decisions, kept over restarts. 0, or an error with one line in why. */
int allow_add(struct allow *a, const char *rule, char *why, size_t why_len);
int allow_join(struct allow *a, const char *address, char *why, size_t why_len); /* `join` HOST[:PORT]: allowed for good */
int allow_deny(struct allow *a, const char *rule, char *why, size_t why_len);
int allow_block(struct allow *a, const uint8_t id[NODE_ID_BYTES], const char *name, char *why, size_t why_len);
int allow_unblock(struct allow *a, const char *who, uint8_t id[NODE_ID_BYTES], char *why,
                  size_t why_len);                               /* who: name, or start of the id */
const uint8_t *allow_blocked(const struct allow *a, uint32_t i); /* the ids; NULL behind the last */
/* Adds "allow", "deny" and "blocked" to an object. */
void allow_json(const struct allow *a, json_t *object);

#endif
