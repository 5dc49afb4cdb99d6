/* Starling node: who this node is, over restarts: its key, the lock of its state folder, and the members it has met.
 *
 * STATE/node.key      the Ed25519 seed as 64 hex digits and a newline, 0600; made once, atomically and durably
 * STATE/lock          locked while a daemon runs, with its process id in it
 * STATE/members.json  {"incarnation": n, "members": [{"id", "key", "name", "address", "incarnation"}]} */
#ifndef NODE_IDENTITY_H
#define NODE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/core.h"

struct identity {
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES], id[NODE_ID_BYTES];
    int lock_fd;
};

/* Makes the state folder (0700) if it is not there. 0 or an error with one line in why. */
int identity_folder(const char *state, char *why, size_t why_len);
/* Locks the state folder, until released or the process ends. ERR_BUSY: another daemon runs on it, and why says which. */
int identity_lock(struct identity *id, const char *state, char *why, size_t why_len);
/* Reads the key, or makes one. */
int identity_load(struct identity *id, const char *state, char *why, size_t why_len);
void identity_release(struct identity *id);

const char *identity_hex(const uint8_t id[NODE_ID_BYTES], char out[2 * NODE_ID_BYTES + 1]);

/* ---- members remembered over restarts */
struct members;

/* A file that cannot be read is put aside as members.json.bad, and why says so; members are then learned anew. NULL without memory. */
struct members *members_open(const char *state, char *why, size_t why_len);
void members_close(struct members *m);                             /* saves what is new */
uint64_t members_incarnation(struct members *m, uint64_t wall_ms); /* above all earlier ones; saved */
uint32_t members_count(const struct members *m);
const struct member *members_at(const struct members *m, uint32_t i);
/* Remembers or updates. True when something changed that has to be saved. */
bool members_put(struct members *m, const struct member *member);
void members_clear(struct members *m);
int members_save(struct members *m); /* 0 or ERR_IO, ERR_NOMEM; nothing to do when nothing changed */

#endif
