/* For the tests of the store: a few servers in one process. Each has an application's connection and a store on real files; batches
 * are handed over in causal order, as the core would. The servers of tests/model are compiled in: their clock takes the place of
 * libc's in this program, so that the store's waits are skipped, not slept. */
#ifndef TESTS_UNIT_STORE_RIG_H
#define TESTS_UNIT_STORE_RIG_H

#include "store_scratch.h"

#include <jansson.h>
#include <sodium.h>

#include "tests/model/side.c"
#include "proto/batch.h"
#include "proto/hlc.h"

#define RIG_PEERS_MAX 3

struct peer {
    struct side s;
    bool create, follow;
    const char *db; /* on the wire; NULL: SIDE_DB_NAME */
    const char *const *excluded;
    const struct policy_line *policies;
    uint32_t policies_count;
    int readers_wait_ms, mend_wait_ms;
    json_t *watched;                    /* array of `watch` objects */
    void (*in_between)(struct peer *p); /* called between a drain that found something and what follows in the same turn */
    void (*on_file)(void *ctx, uint64_t dev, uint64_t ino);
    void (*on_follow)(void *ctx, const char *name); /* store_config's, ctx is the peer */
    bool (*on_numbers)(void *ctx, const char *key, struct bytes *rows, unsigned flags);
    uint32_t bads, errors, reopened, told_file;
    bool told_settled; /* what the store said last */
    struct origin bad_origin;
    uint64_t bad_version;
    char bad[500], error[500];
    char log[40000]; /* all lines of levels 0 to 2 */
};

struct rig {
    struct scratch scratch;
    struct peer peers[RIG_PEERS_MAX];
    uint32_t count;
};

/* ---- what the store tells */

static void rig_on_batch(void *ctx, struct bytes *batch) {
    struct peer *p = ctx;
    side_batches_add(&p->s.made, batch);
    if (p->in_between)
        p->in_between(p);
}

static void rig_on_stored(void *ctx, const struct db_state *state) { ((struct peer *)ctx)->told_settled = state->settled; }

static void rig_on_bad(void *ctx, const struct origin *o, uint64_t version, const char *why) {
    struct peer *p = ctx;
    p->bads++;
    p->bad_origin = *o;
    p->bad_version = version;
    snprintf(p->bad, sizeof p->bad, "%s", why);
}

static void rig_on_change(void *ctx, json_t *change) { json_array_append_new(((struct peer *)ctx)->watched, change); }

static void rig_on_log(void *ctx, int level, const char *text) {
    struct peer *p = ctx;
    if (getenv("SIDE_LOG"))
        fprintf(stderr, "%s: [%d] %s\n", p->s.app_path, level, text);
    if (level == 0) {
        p->errors++;
        snprintf(p->error, sizeof p->error, "%s", text);
    }
    size_t used = strlen(p->log);
    if (level <= 2)
        snprintf(p->log + used, sizeof p->log - used, "%s\n", text);
}

/* ---- opening and closing */

static inline int peer_try_open(struct peer *p) {
    struct side *s = &p->s;
    assert_null(s->store);
    side_batches_clear(&s->held);
    vv_clear(&s->delivered);
    struct store_config config = {.app_path = s->app_path,
                                  .state_path = s->state_path,
                                  .db = p->db ? p->db : SIDE_DB_NAME,
                                  .vfs = s->vfs,
                                  .create = p->create,
                                  .excluded = p->excluded,
                                  .policies = p->policies,
                                  .policies_count = p->policies_count,
                                  .follow = p->follow,
                                  .readers_wait_ms = p->readers_wait_ms,
                                  .mend_wait_ms = p->mend_wait_ms,
                                  .ctx = p,
                                  .on_file = p->on_file,
                                  .on_batch = rig_on_batch,
                                  .on_stored = rig_on_stored,
                                  .on_bad = rig_on_bad,
                                  .on_change = rig_on_change,
                                  .on_follow = p->on_follow,
                                  .on_numbers = p->on_numbers,
                                  .on_log = rig_on_log};
    memcpy(config.key, s->key, sizeof config.key);
    memcpy(config.secret, s->secret, sizeof config.secret);
    return store_open(&s->store, &config, s->why, sizeof s->why);
}

static inline void peer_open(struct peer *p) {
    int err = peer_try_open(p);
    if (err)
        fail_msg("%s does not open: %s: %s", p->s.app_path, err_text(err), p->s.why);
}

static inline void peer_reopen(struct peer *p) {
    side_close_store(&p->s);
    peer_open(p);
}

/* One turn; a store that cannot go on is opened again, as its owner does. */
static inline int peer_turn(struct peer *p) {
    int wait = store_turn(p->s.store, p->s.why, sizeof p->s.why);
    if (wait >= -1)
        return wait;
    if (getenv("SIDE_LOG"))
        fprintf(stderr, "%s: turn: %s\n", p->s.app_path, p->s.why);
    p->reopened++;
    if (p->reopened > 50)
        fail_msg("%s is opened again and again: %s", p->s.app_path, p->s.why);
    peer_reopen(p);
    return 0;
}

static inline bool peer_settled(struct peer *p) {
    struct db_state state;
    store_state(p->s.store, &state);
    return state.settled;
}

/* Until there is nothing to do; rows may be parked, or wait for parts. What the store told last is how it is then. */
static inline void peer_rest(struct peer *p) {
    for (uint64_t spent = 0;;) {
        int wait = peer_turn(p);
        if (wait < 0 || wait >= REST_MS) {
            assert_int_equal(p->told_settled, peer_settled(p));
            return;
        }
        side_skip((uint64_t)wait);
        if ((spent += wait ? (uint64_t)wait : 1) > 60000)
            fail_msg("%s does not come to rest (turn says %d)", p->s.app_path, wait);
    }
}

/* Rows that could not be shown are tried again now; after a try in vain that is the later the longer this one took. */
static inline void peer_retry(struct peer *p) {
    int wait = peer_turn(p);
    side_skip(wait > 2000 ? (uint64_t)wait : 2000);
    peer_rest(p);
}

/* ---- handing over */

/* Everything that `from` has and `to` has not waits for its next turn. */
static inline void peer_queue(struct peer *to, struct peer *from) {
    struct db_state state;
    struct vv theirs, mine;
    vv_init(&theirs);
    vv_init(&mine);
    store_state(from->s.store, &state);
    assert_int_equal(vv_copy(&theirs, &state.have), 0);
    uint64_t base = state.base;
    store_state(to->s.store, &state);
    assert_int_equal(vv_copy(&mine, &state.have), 0);
    if (base && !state.base)
        store_learn_base(to->s.store, base);
    for (uint32_t i = 0; i < theirs.count; i++) {
        const struct vv_entry *e = &theirs.entries[i];
        for (uint64_t next = vv_get(&mine, &e->origin) + 1; next <= e->version;) {
            struct bytes **batches = NULL;
            uint32_t count = 0;
            assert_int_equal(store_read(from->s.store, &e->origin, next, e->version, 1 << 20, &batches, &count), 0);
            assert_true(count > 0);
            for (uint32_t k = 0; k < count; k++) {
                side_queue(&to->s, batches[k]);
                bytes_unref(batches[k]);
            }
            free(batches);
            next += count;
        }
    }
    vv_release(&theirs);
    vv_release(&mine);
}

static inline void peer_pull(struct peer *to, struct peer *from) {
    peer_queue(to, from);
    peer_rest(to);
}

static inline bool peers_have_same(struct peer *a, struct peer *b) {
    struct db_state state;
    store_state(a->s.store, &state);
    uint64_t digest = vv_digest(&state.have);
    store_state(b->s.store, &state);
    return vv_digest(&state.have) == digest;
}

/* Equal vectors and both settled: then the digests must be equal. */
static inline void peers_check_digest(struct peer *a, struct peer *b) {
    struct db_state sa, sb;
    store_state(a->s.store, &sa);
    store_state(b->s.store, &sb);
    if (sa.settled && sb.settled && vv_equal(&sa.have, &sb.have) && memcmp(sa.digest, sb.digest, sizeof sa.digest) != 0)
        fail_msg("%s and %s are settled with equal vectors and different digests", a->s.app_path, b->s.app_path);
}

static inline void rig_check_digests(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        for (uint32_t k = i + 1; k < r->count; k++)
            peers_check_digest(&r->peers[i], &r->peers[k]);
}

/* Until nobody has news for anybody. */
static inline void rig_share(struct rig *r) {
    for (int round = 0; round < 20; round++) {
        bool same = true;
        for (uint32_t i = 0; i < r->count; i++)
            peer_rest(&r->peers[i]);
        for (uint32_t i = 1; i < r->count; i++)
            same = same && peers_have_same(&r->peers[0], &r->peers[i]);
        if (same) {
            rig_check_digests(r);
            return;
        }
        for (uint32_t i = 0; i < r->count; i++)
            for (uint32_t k = 0; k < r->count; k++)
                if (i != k)
                    peer_pull(&r->peers[i], &r->peers[k]);
    }
    fail_msg("the servers never stop having news");
}

/* ---- the whole rig */

static inline void rig_start(struct rig *r, uint32_t count) {
    assert_true(count <= RIG_PEERS_MAX);
    memset(r, 0, sizeof *r);
    scratch_open(&r->scratch);
    r->count = count;
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%u", i);
        side_init(&r->peers[i].s, r->scratch.folder, name, i + 1, NULL);
        r->peers[i].s.pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL";
        r->peers[i].watched = json_array();
    }
    struct side sorted[RIG_PEERS_MAX]; /* ties between stamps fall as the places in the array do */
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = r->peers[i].s;
    side_sort(sorted, count);
    for (uint32_t i = 0; i < count; i++)
        r->peers[i].s = sorted[i];
}

/* What was shown so far was seen by the applications. */
static inline void rig_time_passes(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        store_time_passes(r->peers[i].s.store);
}

/* The application of every server has made this; the stores have told each other their schemas. */
static inline void rig_open(struct rig *r, uint32_t count, const char *sql) {
    rig_start(r, count);
    for (uint32_t i = 0; i < count; i++) {
        struct peer *p = &r->peers[i];
        assert_int_equal(side_open_app(&p->s), SQLITE_OK);
        app_exec(p->s.app, sql);
        peer_open(p);
        peer_rest(p);
    }
    rig_share(r);
    rig_time_passes(r);
}

static inline void rig_close(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++) {
        side_release(&r->peers[i].s);
        json_decref(r->peers[i].watched);
    }
    scratch_close(&r->scratch);
}

/* ---- looking */

static inline sqlite3 *rig_app(struct rig *r, uint32_t i) { return r->peers[i].s.app; }

/* The application of server i commits, and its store takes it. */
static inline void rig_act(struct rig *r, uint32_t i, const char *sql) {
    app_exec(rig_app(r, i), sql);
    peer_rest(&r->peers[i]);
}

static inline void assert_same(struct rig *r, const char *sql) {
    int rc;
    char *first = app_rows(rig_app(r, 0), sql, &rc);
    if (rc)
        fail_msg("%s: %s", sql, sqlite3_errmsg(rig_app(r, 0)));
    for (uint32_t i = 1; i < r->count; i++)
        assert_rows(rig_app(r, i), sql, first);
    free(first);
}

static inline void assert_everywhere(struct rig *r, const char *sql, const char *want) {
    for (uint32_t i = 0; i < r->count; i++)
        assert_rows(rig_app(r, i), sql, want);
}

static inline int64_t peer_status(struct peer *p, const char *name) {
    json_t *j = store_status(p->s.store);
    assert_non_null(j);
    json_t *v = json_object_get(j, name);
    if (!json_is_integer(v))
        fail_msg("status has no number %s", name);
    int64_t n = json_integer_value(v);
    json_decref(j);
    return n;
}

static inline void rig_assert_settled(struct rig *r) {
    for (uint32_t i = 0; i < r->count; i++)
        if (!peer_settled(&r->peers[i]) || peer_status(&r->peers[i], "parked"))
            fail_msg("%s is not settled: parked %lld\n%s", r->peers[i].s.app_path, (long long)peer_status(&r->peers[i], "parked"),
                     r->peers[i].log);
}

/* All problems of a table, one a line; freed by the caller. */
static inline char *peer_problems(struct peer *p, const char *table) {
    json_t *list = store_tables(p->s.store), *t, *line;
    size_t i, k, len;
    char *text;
    FILE *out = open_memstream(&text, &len);
    json_array_foreach(list, i, t) {
        if (strcmp(json_string_value(json_object_get(t, "name")), table) == 0)
            json_array_foreach(json_object_get(t, "problems"), k, line) fprintf(out, "%s\n", json_string_value(line));
    }
    fclose(out);
    json_decref(list);
    return text;
}

static inline void assert_problem(struct peer *p, const char *table, const char *part) {
    char *text = peer_problems(p, table);
    if (!strstr(text, part))
        fail_msg("problems of %s do not say \"%s\" but: %s", table, part, text);
    free(text);
}

static inline size_t peer_conflicts(struct peer *p) {
    json_t *list = store_conflicts(p->s.store);
    size_t n = json_array_size(list);
    json_decref(list);
    return n;
}

/* All servers list the same open conflicts, to the last word but the key, which may be a rowid of each file's own. */
static inline void assert_same_conflicts(struct rig *r) {
    json_t *lists[RIG_PEERS_MAX], *c;
    size_t i;
    for (uint32_t p = 0; p < r->count; p++) {
        lists[p] = store_conflicts(r->peers[p].s.store);
        json_array_foreach(lists[p], i, c) { json_object_del(c, "key"); }
        json_array_foreach(lists[0], i, c) {
            size_t k = 0;
            while (k < json_array_size(lists[p]) && !json_equal(c, json_array_get(lists[p], k)))
                k++;
            if (k == json_array_size(lists[p])) {
                char *text = json_dumps(c, JSON_COMPACT);
                json_t *other;
                json_array_foreach(lists[p], k, other) {
                    if (json_equal(json_object_get(other, "id"), json_object_get(c, "id")))
                        print_message("it lists %s\n", json_dumps(other, JSON_COMPACT));
                }
                fail_msg("server %u does not list %s", p, text);
            }
        }
        assert_int_equal(json_array_size(lists[p]), json_array_size(lists[0]));
    }
    for (uint32_t p = 0; p < r->count; p++)
        json_decref(lists[p]);
}

/* Is there an open conflict with this value (as compact JSON) in this column? */
static inline bool peer_lost(struct peer *p, const char *column, const char *value) {
    json_t *list = store_conflicts(p->s.store), *c;
    size_t i;
    bool found = false;
    json_array_foreach(list, i, c) {
        char *text = json_dumps(json_object_get(c, "value"), JSON_ENCODE_ANY | JSON_COMPACT);
        found |= strcmp(json_string_value(json_object_get(c, "column")), column) == 0 && strcmp(text, value) == 0;
        free(text);
    }
    json_decref(list);
    return found;
}

/* "SELECT …" of every stored column of a table with its type and exact bytes, in an order that does not depend on the file; sqlite3_free(). */
static inline char *table_select(sqlite3 *db, const char *table) {
    sqlite3_stmt *q;
    sqlite3_str *sql = sqlite3_str_new(db);
    int n = 0;
    char *ask = sqlite3_mprintf("SELECT name FROM pragma_table_xinfo(%Q) ORDER BY name", table);
    assert_int_equal(sqlite3_prepare_v2(db, ask, -1, &q, NULL), SQLITE_OK);
    sqlite3_free(ask);
    for (; sqlite3_step(q) == SQLITE_ROW; n++)
        sqlite3_str_appendf(sql, "%s typeof(\"%w\")||quote(\"%w\")", n ? "," : "SELECT", sqlite3_column_text(q, 0),
                            sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    sqlite3_str_appendf(sql, " FROM \"%w\" ORDER BY 1", table);
    for (int i = 2; i <= n; i++)
        sqlite3_str_appendf(sql, ",%d", i);
    return sqlite3_str_finish(sql);
}

static inline void assert_same_table(struct rig *r, const char *table) {
    char *sql = table_select(rig_app(r, 0), table);
    assert_same(r, sql);
    sqlite3_free(sql);
}

/* All tables of the application on server 0. */
static inline void assert_same_tables(struct rig *r) {
    sqlite3_stmt *q;
    assert_int_equal(
        sqlite3_prepare_v2(rig_app(r, 0),
                           "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT GLOB '_starling_*' AND name NOT GLOB 'sqlite_*'",
                           -1, &q, NULL),
        SQLITE_OK);
    while (sqlite3_step(q) == SQLITE_ROW)
        assert_same_table(r, (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
}

/* Rows that the batches from version `from` on of server i tell. */
static inline uint32_t rig_made_rows(const struct rig *r, uint32_t i, uint32_t from) {
    uint32_t rows = 0;
    const struct side_batches *made = &r->peers[i].s.made;
    for (uint32_t k = from; k < made->count; k++) {
        struct batch_head head;
        assert_int_equal(batch_head_read(&head, made->items[k]->data, made->items[k]->len), 0);
        rows += head.rows;
        batch_head_release(&head);
    }
    return rows;
}

/* Until the wall clock shows a later millisecond than now: a write after this has a higher stamp than one before it, on any server. */
static inline void rig_tick(void) {
    struct timespec a, b;
    clock_gettime(CLOCK_REALTIME, &a);
    do
        clock_gettime(CLOCK_REALTIME, &b);
    while ((b.tv_sec - a.tv_sec) * 1000 + b.tv_nsec / 1000000 - a.tv_nsec / 1000000 < 3);
}

/* A small generator of random numbers; a test prints its seed. */
struct rig_random {
    uint64_t state;
};

static inline uint64_t rig_random(struct rig_random *r) { /* splitmix64 (Steele, Lea, Flood 2014) */
    uint64_t x = r->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint32_t rig_below(struct rig_random *r, uint32_t n) { return (uint32_t)(rig_random(r) % n); }

/* TEST_SEED, or a new one. */
static inline uint64_t rig_seed(void) {
    const char *text = getenv("TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)clock_us() % 1000000;
    print_message("TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

#endif
