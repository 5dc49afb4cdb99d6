/* Starling: the simulator. Many nodes, simulated links, virtual time, one seed: the same seed gives the same run, to the last byte.
 *
 * What is simulated is told by a script (script.c; README.md has the words). Its nodes are real protocol cores, each with a store that keeps a
 * durable vector per database; the batches are real and chained, with heads, and kept once for the whole world, since they are the same
 * everywhere. At `level merge` the stores are real, too, beside applications that write rows (rows.h). For clusters beyond some hundreds there are views and trees alone (views.c).
 *
 * All the time it is checked that nothing is delivered twice, out of order, or before its causes; that bytes are the ones that were
 * written; that no acknowledged version is forgotten, none used twice, and that who is called in sync is. What must come true later the
 * script expects. */
#ifndef TOOLS_SIM_H
#define TOOLS_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/batch.h"
#include "proto/core.h"

#define SIM_NODES_MAX 100000u
#define SIM_DBS_MAX 3u
#define SIM_EPOCHS_MAX 12u
#define SIM_BUCKETS 512u
#define SIM_SPARE_MAX 64u
#define SIM_MERGE_NODES_MAX 40u /* with real databases */

/* Rules that a canary breaks, so that a check that cannot fail is noticed. */
enum sim_canary { CANARY_NONE, CANARY_CAUSAL, CANARY_FORGET, CANARY_HEAL, CANARY_ROWS, CANARIES };

struct sim_options {
    uint64_t seed;
    enum sim_canary canary;
    bool verbose;
    FILE *trace; /* each frame becomes a line; NULL none */
};

struct sim_result {
    bool failed;
    char why[1200];
    uint64_t hash; /* over all that happened */
    uint64_t simulated_us, batches, delivered, copies, frames, bytes, crashes, epochs, deaths, false_deaths, healed_ms;
};

/* Runs a script: its text, and its name for messages. False: the script is wrong (result->why). */
bool sim_run(const struct sim_options *options, const char *name, const char *script, struct sim_result *result);

/* ---- the insides */

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
    SIM_ENDED,
    SIM_FAULT,
    SIM_CHURN,
    SIM_STALLS,
    SIM_TURN,
    SIM_YIELD,
    SIM_LIE
};

struct sim_event {
    enum sim_kind kind;
    unsigned node, db;
    uint64_t life; /* of the node: events of an earlier life are void */
    struct sim_conn *conn;
    unsigned end;
    uint64_t number, from, to, bytes_max;
    struct origin origin;
    char text[32];
    struct sim_event *next; /* in the pool */
};

struct sim_slot {
    uint64_t at_us, serial;
    struct sim_event *event;
};

/* One direction of a connection. */
struct sim_stream {
    uint8_t *data;
    size_t first, len, cap, untold; /* untold: taken, and the sender was not told */
    bool busy, fin, cut;            /* an event is under way; closed behind the data; what is sent vanishes */
};

struct sim_spare {
    uint8_t *data;
    size_t cap;
};

struct sim_conn {
    unsigned node[2]; /* 0 dialled, 1 accepted */
    uint64_t link[2], life[2];
    bool open[2], greeted[2]; /* greeted: that end said something */
    struct sim_stream to[2];  /* towards that end */
    uint64_t stalled_until_us;
    unsigned events; /* that name it */
    struct sim_conn *next, *previous;
};

struct sim_pending {
    struct origin origin;
    uint64_t version;
};

/* All batches of one origin in one database. */
struct sim_chain {
    struct bytes **batches;
    struct vv *after; /* all that the author had applied */
    uint64_t *written_us;
    unsigned count, cap;
    uint32_t epoch; /* of a real store; a mock's is the place in its node's list */
};

struct sim_db {
    bool exists;
    struct vv have;      /* durable */
    uint64_t content;    /* a digest of it */
    struct vv image;     /* an earlier state, which may be restored */
    struct vv delivered; /* in this life */
    struct vv after;     /* of our last batch */
    struct sim_pending *pending;
    unsigned pending_count, pending_cap;
    uint32_t epoch, image_epoch;
    bool writes_held; /* restored: nothing is written before the new epoch */
    uint8_t chain[BATCH_CHAIN_BYTES];
    bool storing;
    struct sim_chain chains[SIM_EPOCHS_MAX]; /* its own batches */
};

struct sim_node {
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES], id[NODE_ID_BYTES];
    struct core *core;                                                              /* NULL: down */
    uint64_t started_us, life, tick_at_us, incarnation, stalled_until_us, write_us; /* write_us: between two writes, 0 none */
    int64_t clock_ms, drift_ppm;                                                    /* of its wall clock; of both */
    unsigned group, write_db;                                                       /* write_db: SIM_DBS_MAX any */
    unsigned fakes;                                                                 /* members of its own invention that it announces */
    bool paused, restored, wanted, gone;                                            /* wanted: is to run; gone: it left for good */
    struct sim_db dbs[SIM_DBS_MAX];
    struct sim_link {
        struct sim_conn *conn;
        unsigned end;
    } * links; /* by link id - 1 */
    uint64_t links_count, links_cap;
};

/* What links do. Times in us; chances in millionths. */
struct sim_weather {
    uint64_t delay_us, jitter_us;
    uint32_t loss, duplicate, reorder, stalls;
    uint64_t stall_us, bytes_s; /* bytes_s: that a direction of a link carries, 0 any */
    bool noise;                 /* pieces of any size, slow stores, dials that are refused, answers cut short */
};

struct sim {
    struct sim_options options;
    struct sim_result *result;
    uint64_t now_us, random, serial;
    struct sim_slot *heap;
    size_t heap_count, heap_cap;
    struct sim_event *pool;
    unsigned nodes, dbs;
    struct sim_node *node;
    uint32_t *by_id; /* open addressing, node + 1 */
    uint32_t by_id_size;
    struct sim_conn *conns;
    struct sim_spare spare[SIM_SPARE_MAX]; /* memory of streams, the latest last */
    unsigned spare_count;
    uint8_t *alive; /* a bit for each ordered pair: the first counts the other as alive */
    uint8_t *cuts;  /* a bit for each ordered pair that cannot be passed; NULL: none yet */
    struct sim_weather weather;
    bool healing, faults;
    bool merge;                      /* real databases, see rows.h */
    struct sim_databases *databases; /* NULL: none yet */
    uint64_t churn_us;
    struct batch_writer *writer;
    size_t queue_max, hold_max, write_bytes;
    struct core_config config; /* what the script sets of it */
    uint64_t look_us;
    unsigned look_node;
    uint64_t latency[SIM_BUCKETS]; /* of deliveries, by sim_bucket() */
    uint64_t latency_count, latency_max_us;
    uint64_t measured_us; /* the counters begin there */
};

/* ---- world.c: time, chance, nodes */
uint64_t sim_random(struct sim *sim);
uint64_t sim_below(struct sim *sim, uint64_t n);
bool sim_chance(struct sim *sim, unsigned per_mille);
bool sim_millionth(struct sim *sim, uint32_t chance);
void sim_hash(struct sim *sim, uint64_t a, uint64_t b);
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_say(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct sim_event *sim_schedule(struct sim *sim, enum sim_kind kind, uint64_t delay_us, unsigned node);
const char *sim_db_name(unsigned db);
int sim_node_of(const struct sim *sim, const uint8_t id[NODE_ID_BYTES]); /* -1 unknown */
/* Steps a node's core and carries out its effects. */
void sim_step(struct sim *sim, unsigned node, struct event *e);
void sim_open(struct sim *sim, unsigned nodes);
void sim_close(struct sim *sim);
void sim_until(struct sim *sim, uint64_t at_us); /* runs up to that moment, or to a failure */
void sim_start(struct sim *sim, unsigned node);
void sim_end(struct sim *sim, unsigned node, bool leave);            /* in order: others hear of it */
void sim_crash(struct sim *sim, unsigned node, uint64_t restart_us); /* restart_us UINT64_MAX: not by itself */
void sim_pause(struct sim *sim, unsigned node, bool paused);
void sim_cut(struct sim *sim, unsigned from, unsigned to, bool cut);
bool sim_passes(const struct sim *sim, unsigned from, unsigned to);
void sim_clocks(const struct sim *sim, unsigned node, uint64_t *mono_us, uint64_t *wall_ms); /* what that node's clocks say now */
void sim_heal(struct sim *sim); /* all ways open, no more faults, nobody pauses; everyone who shall run does */
/* NULL: every node that runs has the same, knows the others and counts them as alive; a linked one is in sync. Else what is not so. */
const char *sim_unwell(struct sim *sim, char *text, size_t cap);

/* ---- net.c */
void sim_net_dial(struct sim *sim, unsigned node, const struct effect *fx);
void sim_net_send(struct sim *sim, unsigned node, const struct effect *fx);
void sim_net_close(struct sim *sim, unsigned node, uint64_t link);
void sim_net_event(struct sim *sim, struct sim_event *e);
void sim_net_down(struct sim *sim, unsigned node); /* crashed */
void sim_net_fault(struct sim *sim);               /* a random connection suffers */
void sim_net_lie(struct sim *sim, unsigned node);  /* it tells all its peers of its fakes */
void sim_net_free(struct sim *sim);
unsigned sim_net_links(const struct sim *sim, unsigned node);

/* ---- store.c */
void sim_store_open(struct sim *sim, unsigned node, unsigned db);
void sim_store_deliver(struct sim *sim, unsigned node, const struct effect *fx);
void sim_store_read(struct sim *sim, unsigned node, const struct effect *fx);
void sim_store_epoch(struct sim *sim, unsigned node, const struct effect *fx);
void sim_store_event(struct sim *sim, struct sim_event *e);
void sim_store_down(struct sim *sim, unsigned node);
void sim_store_write(struct sim *sim, unsigned node);
void sim_store_bulk(struct sim *sim, unsigned node, unsigned versions, size_t bytes);
void sim_store_check(struct sim *sim, unsigned node);                                  /* what others were told is so */
void sim_store_made(struct sim *sim, unsigned node, unsigned db, struct bytes *batch); /* by a real store: from now on it is known */
void sim_store_settle(struct sim_db *d);                                               /* what d->have has is not under way any more */
void sim_store_free(struct sim *sim);

/* ---- script.c: figures */
uint64_t sim_latency(const struct sim *sim, unsigned per_mille); /* us */
void sim_latency_add(struct sim *sim, uint64_t us);

/* ---- views.c: prints what views and trees of so many nodes cost; fails: per cent that fail at once then. False: an event missed somebody, or
 * came more than 1.1 times. */
bool sim_views(uint32_t nodes, uint32_t fails, uint64_t seed);

#endif
