/* Starling: the simulator. Several protocol cores with mock stores, over simulated links, in virtual time.
 *
 * One run: faults first (links break, stall and half-open, partitions, crashes that lose what was not stored, restored
 * images, pauses) while every delivery is checked; then everything heals, and within a bounded virtual time all vectors must
 * be equal, all members alive and everybody in sync. The same seed gives the same run, to the last byte (trace).
 *
 * The mock store keeps a durable vector per database; the batches themselves are real (sealed, with heads) and kept once
 * for the whole world, since they are the same everywhere. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/batch.h"
#include "proto/core.h"

#define SIM_NODES_MAX 8
#define SIM_DBS_MAX 3
#define SIM_EPOCHS_MAX 12

/* Rules that a canary breaks, so that a check that cannot fail is noticed. */
enum sim_canary { CANARY_NONE, CANARY_CAUSAL, CANARY_FORGET, CANARY_HEAL, CANARIES };

struct sim_options {
    uint64_t seed;
    unsigned nodes;   /* 0: by the seed, 2 .. 6 */
    unsigned seconds; /* of faults */
    enum sim_canary canary;
    bool verbose;
};

struct sim_result {
    bool failed;
    char why[512];
    uint64_t trace; /* hash over all that happened */
    uint64_t batches, delivered, crashes, epochs, healed_ms;
};

void sim_run(const struct sim_options *options, struct sim_result *result);

/* ---- the insides, shared by sim.c, sim_net.c and sim_store.c */

enum sim_kind {
    SIM_TICK,
    SIM_DATA,
    SIM_CLOSED,
    SIM_DIALLED,
    SIM_STORE,
    SIM_READ,
    SIM_WRITE,
    SIM_LOCAL,
    SIM_WANTED,
    SIM_RESTART,
    SIM_FAULT
};

struct sim_event {
    enum sim_kind kind;
    uint64_t at_us, serial;
    unsigned node, db;
    uint64_t life; /* of the node: events of an earlier life are void */
    struct sim_conn *conn;
    unsigned end;
    uint64_t number, from, to, bytes_max;
    struct origin origin;
    struct bytes *batch;
    char text[64];
};

/* One direction of a connection. */
struct sim_stream {
    uint8_t *data;
    size_t first, len, cap;
    bool busy, fin, cut; /* an event is under way; closed behind the data; what is sent vanishes */
};

struct sim_conn {
    unsigned node[2]; /* 0 dialled, 1 accepted */
    uint64_t link[2], life[2];
    bool open[2];
    struct sim_stream to[2]; /* towards that end */
    uint64_t stalled_until_us;
    struct sim_conn *next;
};

struct sim_pending {
    struct origin origin;
    uint64_t version;
};

struct sim_db {
    bool exists;
    struct vv have;      /* durable */
    struct vv image;     /* an earlier state, which may be restored */
    struct vv delivered; /* in this life */
    struct vv after;     /* of our last batch */
    struct sim_pending *pending;
    unsigned pending_count, pending_cap;
    uint32_t epoch, image_epoch;
    bool writes_held; /* restored: nothing is written before the new epoch */
    uint8_t chain[BATCH_CHAIN_BYTES];
    bool storing;
};

struct sim_node {
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES], id[NODE_ID_BYTES];
    struct core *core; /* NULL: down */
    uint64_t life, next_link, tick_at_us, incarnation;
    bool paused, restored;
    struct sim_db dbs[SIM_DBS_MAX];
};

/* All batches of one origin in one database. */
struct sim_chain {
    struct bytes **batches;
    struct vv *after; /* all that the author had applied */
    unsigned count, cap;
};

struct sim {
    struct sim_options options;
    struct sim_result *result;
    uint64_t now_us, random, serial, end_us;
    struct sim_event *heap;
    size_t heap_count, heap_cap;
    unsigned nodes, dbs;
    struct sim_node node[SIM_NODES_MAX];
    struct sim_conn *conns;
    bool apart[SIM_NODES_MAX][SIM_NODES_MAX];
    bool healing, writing;
    struct sim_chain chains[SIM_DBS_MAX][SIM_NODES_MAX][SIM_EPOCHS_MAX];
    struct batch_writer *writer;
    size_t queue_max, hold_max;
};

uint64_t sim_random(struct sim *sim);
uint64_t sim_below(struct sim *sim, uint64_t n);
bool sim_chance(struct sim *sim, unsigned per_mille);
void sim_trace(struct sim *sim, uint64_t a, uint64_t b);
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_say(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct sim_event *sim_schedule(struct sim *sim, enum sim_kind kind, uint64_t delay_us, unsigned node);
bool sim_next(struct sim *sim, struct sim_event *e);
const char *sim_db_name(unsigned db);
int sim_node_of(const struct sim *sim, const uint8_t id[NODE_ID_BYTES]); /* -1 unknown */
/* Steps a node's core and carries out its effects. */
void sim_step(struct sim *sim, unsigned node, struct event *e);

void sim_net_dial(struct sim *sim, unsigned node, const struct effect *fx);
void sim_net_send(struct sim *sim, unsigned node, const struct effect *fx);
void sim_net_close(struct sim *sim, unsigned node, uint64_t link);
void sim_net_event(struct sim *sim, struct sim_event *e);
void sim_net_down(struct sim *sim, unsigned node); /* crashed */
void sim_net_fault(struct sim *sim);               /* a random connection suffers */
void sim_net_free(struct sim *sim);

void sim_store_open(struct sim *sim, unsigned node, unsigned db);
void sim_store_deliver(struct sim *sim, unsigned node, const struct effect *fx);
void sim_store_read(struct sim *sim, unsigned node, const struct effect *fx);
void sim_store_epoch(struct sim *sim, unsigned node, const struct effect *fx);
void sim_store_event(struct sim *sim, struct sim_event *e);
void sim_store_down(struct sim *sim, unsigned node);
void sim_store_check(struct sim *sim); /* what others were told is so */
void sim_store_free(struct sim *sim);

#endif
