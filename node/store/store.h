/* Starling store: one replicated database. Everything between the application's file and the protocol core: capture, drain,
 * batch, log; receive, merge, project; recovery. SQLite only: no sockets, no loop, no threads. One store belongs to one thread.
 *
 * Two files: the application's (app_path), where only our notes, triggers and one row of marks live, and our own state database
 * (state_path): registers, log, pending and parked changes. ARCHITECTURE.md follows one row through both.
 *
 * The owner calls store_turn() again and again and waits in between as it says. Callbacks run inside calls, on the owner's thread. */
#ifndef NODE_STORE_STORE_H
#define NODE_STORE_STORE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/store/appfile.h"
#include "node/store/policy.h"
#include "proto/batch.h"
#include "proto/core.h"

struct store;

struct store_config {
    const char *app_path, *state_path;
    const char *db;  /* the name on the wire: the path relative to the instance folder */
    const char *vfs; /* for both files; NULL in production */
    bool create;     /* the application's file does not exist yet: made from the first schema that arrives */
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
    const char *const *excluded;        /* tables with replicate = no; NULL-terminated; may be NULL */
    const struct policy_line *policies; /* what the configuration says; must outlive the store */
    uint32_t policies_count;
    bool follow;          /* what other servers add to the schema is made here, too; else the application does it */
    int readers_wait_ms;  /* how long a projection waits for readers; 0: 10,000 */
    int mend_wait_ms;     /* how long a row of another server that needs another number is left to that server */
    int64_t refused_ms;   /* for so long opening has failed with ERR_BUSY by now */
    uint32_t epoch_above; /* epochs of ours up to this one were used by a state that was set aside */

    void *ctx;
    void (*on_file)(void *ctx, uint64_t dev, uint64_t ino); /* the application's file, which SQLite is about to open; NULL: nobody asks */
    void (*on_batch)(void *ctx, struct bytes *batch);       /* ours, durable now; borrowed */
    void (*on_stored)(void *ctx, const struct db_state *state);                           /* vector, digest or settled changed; durable */
    void (*on_bad)(void *ctx, const struct origin *o, uint64_t version, const char *why); /* delivered, could not be taken */
    void (*on_forged)(void *ctx, const struct origin *o, uint64_t version); /* its chain or signature does not hold; NULL: on_bad says so */
    void (*on_change)(void *ctx, json_t *change); /* `watch` objects (interface); owned by the callee; only while watched */
    /* Between the databases of one server, where rows of one refer to rows of another. NULL: there is no other. */
    void (*on_follow)(void *ctx,
                      const char *name); /* who has which number in "db/table.column" is asked for: that one's store_followed() */
    bool (*on_numbers)(void *ctx, const char *key, struct bytes *rows,
                       unsigned flags); /* the answer, also later, for store_numbers(); borrowed. False: it could not be passed on */
    void (*on_log)(void *ctx, int level, const char *text); /* 0 error, 1 warning, 2 info (activity), 3 debug */
};

/* Opens both files, recovers, installs triggers. why gets one clear line. A database that cannot be used now (ERR_BUSY, ERR_DENIED, …) may
 * be opened again later; nothing is lost meanwhile. */
int store_open(struct store **out, const struct store_config *config, char *why, size_t why_len);
/* Finishes nothing: what is durable stays, what is not comes again. */
void store_close(struct store *s);
/* The epoch that our versions are of; and, once the store is closed, its state set aside: what the file holds is then taken up anew, below what
 * others have. 0, or an error: nothing was moved. */
uint32_t store_epoch(const struct store *s);
int store_set_aside(const char *state_path, const char *app_path);
int store_fresh_epoch(struct store *s);      /* a state that takes another one's place: above epoch_above, unless it is already */
bool store_has_traces(const char *app_path); /* a node, of any server, has served this file */

/* One turn of work: drain what the application committed, merge what was delivered, project what can be shown, one slice of a first
 * capture or rescan. Short (tens of ms). Returns the ms to wait before the next turn if nothing happens (0: at once, -1: only when something
 * happens), or an error (enum err, below -1): the database cannot be served now; close, and open again later. why as above. */
int store_turn(struct store *s, char *why, size_t why_len);
/* The appfile, for notice.h. */
struct appfile *store_appfile(struct store *s);

/* Takes a batch that the core delivered (in order, causes first); merged by the next turn. Takes a reference of its own. */
void store_deliver(struct store *s, struct bytes *batch);
/* Others refer to "table.column" here. */
void store_followed(struct store *s, const char *key);
/* Who has which number in "db/table.column", which rows here refer to; rows NULL: none. */
enum {
    NUMBERS_BEGIN = 1, /* all of them begin here */
    NUMBERS_END = 2,
    NUMBERS_NONE = 4, /* there is no such table */
    NUMBERS_SOON = 8  /* it will be told: that database is read for the first time, and comes on */
};
void store_numbers(struct store *s, const char *name, struct bytes *rows, unsigned flags);
/* What rows here refer to in other databases, as far as it is known: the file comes to show it, if that takes no long time. Before a state is set aside. */
void store_settle_afar(struct store *s);
/* Reads up to bytes_max (at least one batch) of consecutive batches [from..to] of origin from the log. *batches is malloc'ed; the
 * caller frees it and unrefs each. Count 0 when the first one is not there. */
int store_read(struct store *s, const struct origin *origin, uint64_t from, uint64_t to, size_t bytes_max, struct bytes ***batches,
               uint32_t *count);
/* A peer has versions of our own origin (its epoch `above`) that we do not: write under a higher epoch from now on. */
int store_new_epoch(struct store *s, uint32_t above);
/* Somebody is linked: before anything of ours leaves, versions that nobody has seen are stamped by the cluster's clock, which is so far from this
 * server's. restamped: close the store, and open it again. Durable. */
int store_meet(struct store *s, int64_t offset_ms, bool *restamped);
/* Nobody is linked any more: of our own versions those behind this one have not left this server. */
int store_alone(struct store *s, const struct origin *origin, uint64_t version);
/* The base of a peer (see core.h): adopted when ours is 0. */
void store_learn_base(struct store *s, uint64_t base);
/* Others share ours: remembered, so that this does not count as alone when it is started by itself. */
void store_shared(struct store *s);

void store_state(struct store *s, struct db_state *out); /* out->have is borrowed: valid until the next call on s */
/* True when everything that was committed by the application before this call has been drained and is durable (looks, and drains if need be). */
int store_barrier(struct store *s);

/* False during a first capture: the database is not yet to be served. */
bool store_ready(struct store *s);

void store_watch(struct store *s, bool on);
void store_follow(struct store *s, bool on); /* as in store_config, from the next turn on */
/* JSON for the interface, owned by the caller:
 * status: the `databases` entry: name state error tables rows pending waiting(0) parked version digest conflicts, and more: base, capturing
 *   {"done":rows,"table":…} or null, policies: [{"table","policy","value","node","time_ms"} and, where it
 *   is not wholly in force here, "problem","mend"], log_bytes, drained, projected, lock_ms_p99…
 * tables: [{"name","rows","identity":"given|numbered|none","replicated":bool,"pending","parked","last_change_ms","problems":[…],"policies":[… in force]}] */
json_t *store_status(struct store *s);
json_t *store_tables(struct store *s);
#define STORE_CONFLICTS_MAX 5000
/* Open conflicts (about the first STORE_CONFLICTS_MAX), one for each losing write or death, the same on every server: the interface's objects, and "row" (the key as an array), "stamp",
 * "origin" and "value" of what lost. A value above 64 KiB is {"bytes": n, "begins": value}. */
json_t *store_conflicts(struct store *s);
/* Decides one. how: {"keep": "winner"|"loser"} or {"set": {"column": value…}} or {"split": true}; NULL: it is only shown. *answer: {"done", "conflict": as it was listed, "rows": how many
 * changed}, {"unknown"}: no conflict of this name is open here, {"retry"}: in a moment (something is under way, was shown less than 2 s ago, or somebody
 * reads), or {"error": one line}. An error: close, and open again. */
int store_resolve(struct store *s, const char *id, const json_t *how, json_t **answer);
/* Who wrote the columns of a row (column NULL: all), and what they beat; {"error": one line} without that row. key: a
 * value, or an array. */
json_t *store_why(struct store *s, const char *table, const json_t *key, const char *column);
/* Reads the real content: table NULL: {"tables":{name:{"rows":n,"digest":hex}}}; bucket < 0: {"rows":n,"buckets":[256 × hex]} by key hash;
 * else {"rows":[[key (value or array), hex],…]} of that bucket. Also {"vector":hex} of what is shown. NULL without that table. Slow: reads all rows. */
json_t *store_verify(struct store *s, const char *table, int bucket);
/* What another server asks to tell what joining would do: see survey.h. Short. */
json_t *store_survey(struct store *s, const json_t *question);
/* Rows of a table that are gone from the file without a note, too many to be believed: accept: they were deleted; else they are shown again.
 * {"rows":n} that this was about, or {"error":…}. */
json_t *store_decide(struct store *s, const char *table, bool accept);
/* {"problems":[{"what","mend"}…]} : quick_check, journal mode, long readers seen, apps without busy timeout, schema skew, parked rows. */
json_t *store_doctor(struct store *s);

/* `starlingd --uninstall`: removes every trigger and table of ours from a database file. */
int store_uninstall(const char *app_path, char *why, size_t why_len);
/* In a quiet moment: gives back what the last work needed and the next one makes again (page caches, decoded batches, buffers). */
void store_release_memory(struct store *s);
/* For tests: what was shown so far counts as known from now on (knew := shown), as if 2 s had passed. */
void store_time_passes(struct store *s);

#endif
