/* Starling node: one connection of the CLI, and what verbs need. A verb starts with its arguments, says progress and items as it likes,
 * and ends with conn_done(). When the client goes first, the verb's `release` runs and its questions are cancelled. */
#ifndef NODE_ADMIN_CONN_H
#define NODE_ADMIN_CONN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/node.h"

struct conn;
struct gather;

struct verb {
    const char *name;
    void (*start)(struct conn *c, const json_t *args); /* args: an object, valid during the call */
    bool stream;                                       /* ends when the client closes its side */
};

/*  CONN_READING ─(a line)─▶ CONN_WORKING ─ conn_done() ─▶ CONN_ENDING ─(written)─▶ CONN_CLOSING ─▶ freed
 *       └─────── error, client gone, too much unread ──────────────────────────────▲ */
enum conn_state { CONN_READING, CONN_WORKING, CONN_ENDING, CONN_CLOSING };

struct conn {
    struct admin *admin;
    struct node *node;
    uv_pipe_t pipe;
    uv_timer_t timer;
    enum conn_state state;
    bool stream;
    int handles;
    char *input;
    size_t input_len;
    void (*timed)(struct conn *c);
    void *task;                      /* the verb's own */
    void (*release)(struct conn *c); /* frees it; may be NULL */
    struct gather *gather;
    struct conn *prev, *next;
};

/* socket.c */
void conn_item(struct conn *c, json_t *item);                                       /* takes item */
void conn_progress(struct conn *c, const char *text, uint64_t done, int64_t total); /* total -1: unknown */
void conn_done(struct conn *c, int exit, json_t *result, const char *error);        /* takes result; both may be NULL */
void conn_timer(struct conn *c, uint64_t ms, void (*timed)(struct conn *c));

/* gather.c: asks databases that are served the same question. answers: an object by name; those that did not answer in time are missing.
 * db NULL: all. Belongs to the callee. Uses the connection's timer. */
void gather_start(struct conn *c, enum question question, const char *db, uint64_t timeout_ms,
                  void (*done)(struct conn *c, json_t *answers));
void gather_release(struct conn *c);

/* The verbs, by file. */
void verb_status(struct conn *c, const json_t *args);
void verb_members(struct conn *c, const json_t *args);
void verb_peers(struct conn *c, const json_t *args);
void verb_rotate(struct conn *c, const json_t *args);
void verb_join(struct conn *c, const json_t *args);
void verb_leave(struct conn *c, const json_t *args);
void verb_forget(struct conn *c, const json_t *args);
void verb_pause(struct conn *c, const json_t *args);
void verb_resume(struct conn *c, const json_t *args);
void verb_stop(struct conn *c, const json_t *args);
void verb_wait(struct conn *c, const json_t *args);
void verb_verify(struct conn *c, const json_t *args);
void verb_tables(struct conn *c, const json_t *args);
void verb_conflicts(struct conn *c, const json_t *args);
void verb_resolve(struct conn *c, const json_t *args);
void verb_why(struct conn *c, const json_t *args);
void verb_log(struct conn *c, const json_t *args);
void verb_watch(struct conn *c, const json_t *args);
void verb_files(struct conn *c, const json_t *args);
void verb_doctor(struct conn *c, const json_t *args);

/* status.c: the first of our own databases that is in state error, NULL: none. While there is one, nobody is in sync with us. */
const struct database *database_in_error(struct node *n);

/* members.c, for several verbs */
const char *member_state_text(enum member_state state);
bool member_named(struct conn *c, const char *who, struct member *found); /* by name or start of the id; false: answered already */
json_t *peers_json(struct node *n);
json_t *peer_json(struct node *n, const struct peer_info *peer);
json_t *peers_json(struct node *n);
json_t *unreachable_json(struct node *n); /* addresses to join at which nobody is reached, with the reason */
uint32_t alive_count(struct node *n);     /* with this node */
uint32_t member_count(struct node *n);
/* Versions of db that peer i has not acknowledged. */
uint64_t peer_lacks(struct node *n, uint32_t i, const char *db);

#endif
