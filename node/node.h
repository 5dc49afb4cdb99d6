/* Starling node: the daemon's middle. Owns the protocol core and what is around it, hands the core's effects to transport
 * and workers, and what they report back to the core as events. One loop thread; workers speak through the inbox.
 *
 * Every loop callback ends with node_settle(): it writes what is queued, tells the core what that caused, gives answers to those who asked, and
 * sets the core's timer. Between core_step() and the last core_poll() nobody steps the core. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/config.h"
#include "node/databases.h"
#include "node/held.h"
#include "node/identity.h"
#include "node/inbox.h"
#include "node/log.h"
#include "node/secret.h"
#include "node/transport.h"
#include "node/worker.h"
#include "proto/core.h"
#include "proto/secure.h"

/*             all databases found at the start are open or in error
 *  NODE_STARTING ─────▶ NODE_RUNNING ── node_stop() ──▶ NODE_DRAINING ── workers ended, or DRAIN_MS ──▶ NODE_PARTING
 *      ── links closed, or PART_MS ──▶ NODE_ENDED (the loop ends) */
enum node_state { NODE_STARTING, NODE_RUNNING, NODE_DRAINING, NODE_PARTING, NODE_ENDED };

struct admin;
struct content_door;
struct content_peers;
struct files;
struct leaving;
struct question_open;
struct visit;
struct watcher;

struct node {
    uv_loop_t loop;
    int argc;
    char **argv;
    struct config config;
    struct log *log;
    struct identity identity;
    struct secure_keys keys; /* of all links: our key, the cluster's secrets */
    struct secrets secrets;
    struct rotation *rotation;
    struct allow *allow;
    char name[CORE_NAME_MAX];
    struct members *members;
    struct core *core;
    struct transport *transport;
    struct databases *databases;
    struct inbox inbox;
    struct held held;
    struct files *files;
    struct admin *admin;
    uv_timer_t tick, saving, ending;
    uv_signal_t signals[3];
    enum node_state state;
    bool stepping, settling, left;
    uint64_t started_ms;             /* monotonic */
    uint64_t tick_at;                /* what the timer is set to; UINT64_MAX not set */
    struct question_open *questions; /* not answered yet */
    struct question_open *answered;  /* their answers are handed out by node_settle() */
    uint64_t question_last;
    struct watcher *watchers;
    struct content_peers *content_peers; /* NULL: no files */
    struct visit *visits;
    struct leaving *leaving; /* the `leave` that is under way (admin/leave.c), or NULL */
};

/* ---- life: main.c */
int node_open(struct node *n, char *why, size_t why_len); /* config, identity and log are there; opens the rest. 0 or an error */
void node_run(struct node *n);                            /* until it has ended */
void node_close(struct node *n);
void node_stop(struct node *n, bool leave); /* leave: for good */

/* ---- stepping */
void node_step(struct node *n, struct event *e); /* fills in the clocks */
void node_settle(struct node *n);
void node_effect(struct node *n, const struct effect *e); /* effects.c */
bool node_inbox(struct node *n, int count);               /* messages.c: takes up to count messages; false: none is left */
void node_members_changed(struct node *n);                /* they are saved a moment later */
void node_database_started(struct database *db);          /* a worker was started: it watches if somebody does */
/* The name of a member by its id in hex: in `name`; false: nobody that is known. */
bool node_member_name(struct node *n, const char *id, char *name, size_t len);

void node_join(struct node *n, const char *address); /* HOST[:PORT], kept for ever */

/* ---- activity.c */
void activity_opened(struct database *db, const struct vv *have);
void activity_stored(struct database *db, const struct vv *have);
void activity_tick(struct node *n);

/* ---- questions (questions.c) to a database's worker, or to a peer. The answer comes later, from node_settle(): NULL when there is none. It
 * belongs to the callee. A question that is cancelled is not answered. */
typedef void (*answer_fn)(void *ctx, uint64_t number, json_t *answer); /* number: as asking returned; 0 there: no memory, no answer */
uint64_t node_ask(struct node *n, struct database *db, enum question question, const char *table, int bucket, answer_fn fn, void *ctx);
uint64_t node_ask_with(struct node *n, struct database *db, enum question question, json_t *args, answer_fn fn, void *ctx); /* takes args */
uint64_t node_ask_files(struct node *n, json_t *question, answer_fn fn, void *ctx); /* takes question */
/* {"pending": how many files are not as their index says, "index": digest of its vector once that is 0 and all written into it is batched, "lost",
 * "error"}. */
uint64_t node_ask_settled(struct node *n, answer_fn fn, void *ctx);
/* That member leaves: do we stay, and may it count on us? (admin/leave.c) */
bool leave_takes_over(struct node *n, const uint8_t *peer);
uint64_t node_ask_peer(struct node *n, const uint8_t *peer, json_t *payload, answer_fn fn, void *ctx); /* takes payload */
void node_ask_cancel(struct node *n, void *ctx);                                                       /* all of this ctx */
void node_answer(struct node *n, uint64_t number, json_t *answer);
void node_request(struct node *n, const struct effect *e); /* a peer asks us */
void questions_deliver(struct node *n);
void questions_release(struct node *n);

/* ---- watching changes (messages.c) */
struct watcher *node_watch(struct node *n, void (*change)(void *ctx, const json_t *change), void *ctx); /* NULL without memory */
void node_unwatch(struct node *n, struct watcher *w);

/* content_peers.c: with whom content of files is exchanged. Open once transport and core are there; door: for content_open(). */
struct content_door *content_peers_open(struct node *n);                                    /* NULL without memory */
void content_peers_look(struct node *n);                                                    /* who is linked may have changed */
void content_peers_bytes(struct node *n, const uint8_t *peer, uint64_t *in, uint64_t *out); /* on content links, since the start */
void content_peers_asked(struct node *n, const uint8_t *peer);
bool content_peers_failed(struct node *n, const struct event *e); /* true: a dial for content, of which the core knows nothing */
void content_peers_handed(struct node *n, struct transport_handed *h);
void content_peers_shut(struct node *n); /* before the loop ends */
void content_peers_free(struct node *n); /* after content_close(), when the loop has ended */

/* visits.c: servers that ask what joining would do, and are no members */
void visits_handed(struct node *n, struct transport_handed *h);
void visits_shut(struct node *n); /* before the loop ends */
json_t *base_json(uint64_t base); /* as visitors are told, see core_database_base() */

/* adoption.c: databases that are fetched before the rows here are compared with them: are they complete? */
void adoption_look(struct node *n);

/* reload.c: SIGHUP */
void node_reload(struct node *n);

const char *node_socket_path(const struct node *n, char *out, size_t out_len);

#endif
