/* Starling tests: see side.h. */
#include "side.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "proto/err.h"

#define REST_MS 500        /* a store that waits longer than this has nothing to do but to look after itself */
#define QUIET_MS_MAX 30000 /* a store that does not come to rest by then never will; a turn that asks for another counts 1 */

/* ---- time: the store's waits are skipped, not slept. This definition takes the place of libc's for the whole program; the one
 * mutable variable is what that needs. */

static uint64_t skipped_ms;

int clock_gettime(clockid_t clock, struct timespec *t) {
    int r = (int)syscall(SYS_clock_gettime, clock, t);
    if (r == 0 && clock == CLOCK_MONOTONIC) {
        t->tv_sec += (time_t)(skipped_ms / 1000);
        t->tv_nsec += (long)(skipped_ms % 1000) * 1000000;
        if (t->tv_nsec >= 1000000000) {
            t->tv_sec++;
            t->tv_nsec -= 1000000000;
        }
    }
    return r;
}

void side_skip(uint64_t ms) { skipped_ms += ms; }

/* ---- lists of batches */

void side_batches_add(struct side_batches *b, struct bytes *batch) {
    if (b->count == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 16;
        b->items = realloc(b->items, b->cap * sizeof *b->items);
        assert(b->items);
    }
    b->items[b->count++] = bytes_ref(batch);
}

void side_batches_clear(struct side_batches *b) {
    for (uint32_t i = 0; i < b->count; i++)
        bytes_unref(b->items[i]);
    free(b->items);
    memset(b, 0, sizeof *b);
}

static void batches_remove(struct side_batches *b, uint32_t i) {
    assert(i < b->count);
    bytes_unref(b->items[i]);
    memmove(b->items + i, b->items + i + 1, (b->count - i - 1) * sizeof *b->items);
    b->count--;
}

/* ---- what the store tells */

static void on_batch(void *ctx, struct bytes *batch) {
    struct side *s = ctx;
    side_batches_add(&s->made, batch);
}

static void on_stored(void *ctx, const struct db_state *state) {
    (void)ctx;
    (void)state;
}

static void on_bad(void *ctx, const struct origin *o, uint64_t version, const char *why) {
    struct side *s = ctx;
    char text[ORIGIN_TEXT_BYTES];
    s->refused = true;
    snprintf(s->why, sizeof s->why, "batch %s:%llu was not taken: %s", origin_text(o, text), (unsigned long long)version, why);
}

static void on_change(void *ctx, json_t *change) {
    (void)ctx;
    json_decref(change);
}

static void on_log(void *ctx, int level, const char *text) {
    struct side *s = ctx;
    if (getenv("SIDE_LOG"))
        fprintf(stderr, "%s: [%d] %s\n", s->app_path, level, text);
}

/* ---- opening and closing */

void side_init(struct side *s, const char *folder, const char *name, uint32_t seed, const char *vfs) {
    memset(s, 0, sizeof *s);
    snprintf(s->app_path, sizeof s->app_path, "%s/%s.db", folder, name);
    snprintf(s->state_path, sizeof s->state_path, "%s/%s.state", folder, name);
    s->vfs = vfs;
    uint8_t from[crypto_sign_SEEDBYTES] = {0};
    memcpy(from, &seed, sizeof seed);
    crypto_sign_seed_keypair(s->key, s->secret, from);
    node_id_of_key(s->origin.node, s->key);
}

void side_release(struct side *s) {
    side_close_app(s);
    side_close_store(s);
    side_batches_clear(&s->made);
    side_batches_clear(&s->held);
    vv_release(&s->delivered);
}

void side_sort(struct side *sides, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = i + 1; j < count; j++) {
            struct side *a = &sides[i], *b = &sides[j];
            assert(!a->app && !a->store && !b->app && !b->store);
            if (origin_cmp(&a->origin, &b->origin) > 0) {
                uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
                struct origin origin = a->origin;
                memcpy(key, a->key, sizeof key);
                memcpy(secret, a->secret, sizeof secret);
                a->origin = b->origin;
                memcpy(a->key, b->key, sizeof key);
                memcpy(a->secret, b->secret, sizeof secret);
                b->origin = origin;
                memcpy(b->key, key, sizeof key);
                memcpy(b->secret, secret, sizeof secret);
            }
        }
}

void side_unlink(const struct side *s) {
    static const char *const tails[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        char path[sizeof s->app_path + 10];
        snprintf(path, sizeof path, "%s%s", s->app_path, tails[i]);
        unlink(path);
        snprintf(path, sizeof path, "%s%s", s->state_path, tails[i]);
        unlink(path);
    }
}

int side_open_app(struct side *s) {
    assert(!s->app);
    int r = sqlite3_open_v2(s->app_path, &s->app, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, s->vfs);
    if (r == SQLITE_OK) {
        sqlite3_extended_result_codes(s->app, 1);
        sqlite3_busy_timeout(s->app, 2000);
        r = s->pragmas ? side_sql(s, s->pragmas) : SQLITE_OK;
    }
    if (r != SQLITE_OK) {
        snprintf(s->why, sizeof s->why, "%s: %s", s->app_path, sqlite3_errmsg(s->app));
        side_close_app(s);
    }
    return r;
}

int side_open_store(struct side *s) {
    assert(!s->store);
    side_batches_clear(&s->held);
    vv_clear(&s->delivered);
    s->refused = false;
    struct store_config config = {.app_path = s->app_path,
                                  .state_path = s->state_path,
                                  .db = SIDE_DB_NAME,
                                  .vfs = s->vfs,
                                  .ctx = s,
                                  .on_batch = on_batch,
                                  .on_stored = on_stored,
                                  .on_bad = on_bad,
                                  .on_change = on_change,
                                  .on_log = on_log};
    memcpy(config.key, s->key, sizeof config.key);
    memcpy(config.secret, s->secret, sizeof config.secret);
    s->why[0] = 0;
    int r = store_open(&s->store, &config, s->why, sizeof s->why);
    if (r)
        s->store = NULL;
    return r;
}

void side_close_app(struct side *s) {
    if (s->app) {
        int r = sqlite3_close(s->app);
        assert(r == SQLITE_OK);
        s->app = NULL;
    }
}

void side_close_store(struct side *s) {
    if (s->store) {
        store_close(s->store);
        s->store = NULL;
    }
}

int side_sql(struct side *s, const char *sql) {
    char *message = NULL;
    int r = sqlite3_exec(s->app, sql, NULL, NULL, &message);
    if (r != SQLITE_OK)
        snprintf(s->why, sizeof s->why, "%s: %s", sql, message ? message : sqlite3_errstr(r));
    sqlite3_free(message);
    return r;
}

/* ---- work */

int side_quiet(struct side *s) {
    for (uint64_t spent = 0;;) {
        int wait = store_turn(s->store, s->why, sizeof s->why);
        if (wait < -1) /* enum err */
            return wait;
        struct db_state state;
        store_state(s->store, &state);
        if ((wait < 0 || wait >= REST_MS) && state.settled)
            return s->refused ? ERR_MALFORMED : 0;
        if ((spent += wait > 0 ? (uint64_t)wait : 1) > QUIET_MS_MAX) {
            if (!s->refused)
                snprintf(s->why, sizeof s->why, "the store does not come to rest (turn says %d, settled %d)", wait, state.settled);
            return ERR_BUSY;
        }
        skipped_ms += wait > 0 ? (uint64_t)wait : 0;
    }
}

/* 1: its causes are there; 0: not yet; -1: the store has it. */
static int ready(struct side *s, const struct bytes *batch) {
    struct batch_head head;
    int r = batch_head_read(&head, batch->data, batch->len);
    assert(r == 0); /* it comes from a store of ours */
    uint64_t have = vv_get(&s->delivered, &head.origin);
    int is = have >= head.version ? -1 : have + 1 == head.version && vv_covers(&s->delivered, &head.after);
    if (is > 0)
        r = vv_raise(&s->delivered, &head.origin, head.version);
    assert(r == 0);
    batch_head_release(&head);
    return is;
}

void side_queue(struct side *s, struct bytes *batch) {
    struct db_state state;
    store_state(s->store, &state);
    int r = vv_merge(&s->delivered, &state.have);
    assert(r == 0);
    side_batches_add(&s->held, batch);
    for (uint32_t i = 0; i < s->held.count;) {
        int is = ready(s, s->held.items[i]);
        if (is == 0) {
            i++;
            continue;
        }
        if (is > 0)
            store_deliver(s->store, s->held.items[i]);
        batches_remove(&s->held, i);
        i = 0; /* others may have waited for this one */
    }
}

int side_offer(struct side *s, struct bytes *batch) {
    side_queue(s, batch);
    return side_quiet(s);
}

int side_pull(struct side *to, struct side *from) {
    struct db_state state;
    struct vv theirs, mine;
    vv_init(&theirs);
    vv_init(&mine);
    store_state(from->store, &state);
    int r = vv_copy(&theirs, &state.have);
    assert(r == 0);
    uint64_t base = state.base;
    store_state(to->store, &state);
    r = vv_copy(&mine, &state.have);
    assert(r == 0);
    if (base && !state.base)
        store_learn_base(to->store, base);
    for (uint32_t i = 0; i < theirs.count && r == 0; i++) {
        const struct vv_entry *e = &theirs.entries[i];
        uint64_t next = vv_get(&mine, &e->origin) + 1;
        while (next <= e->version && r == 0) {
            struct bytes **batches = NULL;
            uint32_t count = 0;
            r = store_read(from->store, &e->origin, next, e->version, 1 << 20, &batches, &count);
            if (r == 0 && count == 0) {
                snprintf(from->why, sizeof from->why, "the log lacks version %llu of %llu", (unsigned long long)next,
                         (unsigned long long)e->version);
                r = ERR_NOTFOUND;
            }
            for (uint32_t k = 0; k < count; k++) {
                if (r == 0)
                    r = side_offer(to, batches[k]);
                bytes_unref(batches[k]);
            }
            free(batches);
            next += count;
        }
    }
    vv_release(&theirs);
    vv_release(&mine);
    return r;
}

int side_exchange(struct side *a, struct side *b) {
    for (int round = 0; round < 20; round++) {
        int r = side_quiet(a);
        if (r == 0)
            r = side_quiet(b);
        if (r)
            return r;
        struct db_state state;
        store_state(a->store, &state);
        uint64_t digest = vv_digest(&state.have);
        store_state(b->store, &state);
        if (vv_digest(&state.have) == digest)
            return 0;
        r = side_pull(b, a);
        if (r == 0)
            r = side_pull(a, b);
        if (r)
            return r;
    }
    snprintf(a->why, sizeof a->why, "the two sides never stop having news");
    return ERR_BUSY;
}

/* ---- queries */

static int line_cmp(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void side_lines_sort(char **lines, uint32_t count) {
    if (count)
        qsort(lines, count, sizeof *lines, line_cmp);
}

char **side_query(sqlite3 *db, const char *sql, uint32_t *count) {
    sqlite3_stmt *q = NULL;
    *count = 0;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK)
        return NULL;
    uint32_t cap = 8;
    char **lines = malloc(cap * sizeof *lines);
    assert(lines);
    int r;
    while ((r = sqlite3_step(q)) == SQLITE_ROW) {
        if (*count == cap) {
            lines = realloc(lines, (cap *= 2) * sizeof *lines);
            assert(lines);
        }
        size_t len = 0;
        char *line = NULL;
        FILE *out = open_memstream(&line, &len);
        assert(out);
        for (int c = 0; c < sqlite3_column_count(q); c++)
            fprintf(out, "%s%s", c ? " " : "", (const char *)sqlite3_column_text(q, c));
        fclose(out);
        lines[(*count)++] = line;
    }
    sqlite3_finalize(q);
    if (r != SQLITE_DONE) {
        side_lines_free(lines, *count);
        return NULL;
    }
    side_lines_sort(lines, *count);
    return lines;
}

void side_lines_free(char **lines, uint32_t count) {
    for (uint32_t i = 0; i < count && lines; i++)
        free(lines[i]);
    free(lines);
}
