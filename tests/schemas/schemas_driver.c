/* Starling tests: random schemas and writers through the real engine, beside a plain SQLite database that did the same.
 *
 *     schemas.py show SEED | schemas_driver
 *
 * A script is a list of steps, one a line (schemas.py makes them, and says what keeps the servers' writes apart):
 * - begin SEED NODES; mode N PRAGMAS: pragmas of each new connection of N's application
 * - all SQL: on every server and on the shadow (the plain database); it must give the same on each
 * - start: the stores of all servers open; create N: N's database does not exist yet; join N: its store opens later than the others'
 * - on N.C SQL: connection C of N's application and of the shadow; result code, rows and changes() must be the same.
 *   Connection 3 has the database attached to another, as "w"
 * - shadow SQL, ddl N SQL: one migration, done on one server after the other; it must succeed where it does on the shadow
 * - only N SQL: what has no meaning for the content (VACUUM, a journal mode); may fail
 * - turn N COUNT: turns of N's store; pull N M COUNT: N gets batches of M; restart N: N's store; reopen N: N's application
 * - quiet: open transactions commit, everything reaches everybody, and all that must be true then is looked at
 * - end
 *
 * Prints "ok SEED", or "failed SEED LINE KIND: what" and exits 1. 2: usage. */
#include <assert.h>
#include <dirent.h>
#include <jansson.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "later.h"
#include "proto/err.h"
#include "rows.h"
#include "side.h"

#define NODES_MAX 4
#define CONNECTIONS 5
#define ATTACHED 3 /* the connection whose main database is another */
#define ADMIN 4    /* does the migrations */
#define REST_MS 500
#define QUIET_MS_MAX 20000
#define QUIET_MS 3000 /* what everybody saw before a quiet moment counts as seen after it */
#define REOPENED_MAX 50
#define DDL_MAX 256

struct cluster;

struct node {
    struct side s; /* its own application's connection is not used */
    struct cluster *cluster;
    sqlite3 *app[CONNECTIONS], *shadow[CONNECTIONS];
    char pragmas[200];
    bool create, late;
    bool down; /* its store could not open beside the application: again later */
    uint32_t reopened;
};

struct cluster {
    struct node nodes[NODES_MAX];
    uint32_t count;
    sqlite3 *shadow;
    char folder[64], shadow_path[96];
    char *ddl[DDL_MAX]; /* what the shadow said of each statement of a migration */
    int ddl_rc[DDL_MAX];
    uint32_t ddl_count;
    unsigned long long seed;
    char kind[24];
    char *failure;
    json_t *skipped; /* tables that the engine says it does not replicate: reason → how many */
    uint64_t tables, statements, refused;
};

/* ---- failing */

__attribute__((format(printf, 3, 4))) static bool fail(struct cluster *c, const char *kind, const char *format, ...) {
    if (c->failure)
        return false;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&c->failure, format, args);
    va_end(args);
    assert(n >= 0);
    snprintf(c->kind, sizeof c->kind, "%s", kind);
    return false;
}

/* ---- the stores */

static void on_batch(void *ctx, struct bytes *batch) { side_batches_add(&((struct node *)ctx)->s.made, batch); }

static void on_stored(void *ctx, const struct db_state *state) {
    (void)ctx;
    (void)state;
}

static void on_bad(void *ctx, const struct origin *o, uint64_t version, const char *why) {
    struct node *n = ctx;
    (void)o;
    fail(n->cluster, "batch", "%s: version %llu was not taken: %s", n->s.app_path, (unsigned long long)version, why);
}

static void on_change(void *ctx, json_t *change) {
    (void)ctx;
    json_decref(change);
}

static void on_log(void *ctx, int level, const char *text) {
    struct node *n = ctx;
    if (getenv("SIDE_LOG"))
        fprintf(stderr, "%s: [%d] %s\n", n->s.app_path, level, text);
    if (level == 0)
        fail(n->cluster, "error", "the store of %s says: %s", n->s.app_path, text);
}

static bool node_open(struct node *n) {
    struct side *s = &n->s;
    side_batches_clear(&s->held);
    vv_clear(&s->delivered);
    struct store_config config = {.app_path = s->app_path,
                                  .state_path = s->state_path,
                                  .db = SIDE_DB_NAME,
                                  .vfs = LATER_VFS,
                                  .create = n->create,
                                  .ctx = n,
                                  .on_batch = on_batch,
                                  .on_stored = on_stored,
                                  .on_bad = on_bad,
                                  .on_change = on_change,
                                  .on_log = on_log};
    memcpy(config.key, s->key, sizeof config.key);
    memcpy(config.secret, s->secret, sizeof config.secret);
    int err = store_open(&s->store, &config, s->why, sizeof s->why);
    if (err)
        s->store = NULL;
    n->down = err == ERR_BUSY;
    return err && err != ERR_BUSY ? fail(n->cluster, "open", "%s does not open: %s: %s", s->app_path, err_text(err), s->why) : true;
}

/* One turn; a store that cannot go on is opened again, as its owner does. What to wait, or -2 when all has failed. */
static int node_turn(struct node *n) {
    int wait = store_turn(n->s.store, n->s.why, sizeof n->s.why);
    if (wait >= -1)
        return n->cluster->failure ? -2 : wait;
    if (getenv("SIDE_LOG"))
        fprintf(stderr, "%s: turn: %s\n", n->s.app_path, n->s.why);
    if (++n->reopened > REOPENED_MAX) {
        fail(n->cluster, "reopened", "%s is opened again and again: %s", n->s.app_path, n->s.why);
        return -2;
    }
    side_close_store(&n->s);
    return node_open(n) ? 0 : -2;
}

/* Is it there, or does it come up now? */
static bool node_up(struct node *n) {
    if (n->down && !n->s.store)
        node_open(n);
    return n->s.store != NULL;
}

static bool node_turns(struct node *n, uint64_t count) {
    for (uint64_t i = 0; i < count && node_up(n); i++) {
        int wait = node_turn(n);
        if (wait < -1)
            return false;
        if (wait < 0 || wait >= REST_MS)
            break;
        side_skip((uint64_t)wait);
    }
    return true;
}

/* Until there is nothing to do; what cannot come to rest is said by who looks. */
static bool node_rest(struct node *n) {
    for (uint64_t spent = 0; spent < QUIET_MS_MAX && node_up(n);) {
        struct db_state state;
        int wait = node_turn(n);
        if (wait < -1)
            return false;
        store_state(n->s.store, &state);
        if (wait < 0 || (wait >= REST_MS && state.settled))
            break;
        side_skip((uint64_t)wait);
        spent += wait ? (uint64_t)wait : 1;
    }
    return true;
}

static struct vv *have_of(struct node *n) {
    struct db_state state;
    struct vv *v = calloc(1, sizeof *v);
    assert(v);
    store_state(n->s.store, &state);
    vv_init(v);
    int err = vv_copy(v, &state.have);
    assert(!err);
    return v;
}

/* Up to `most` batches that `from` has and `to` lacks are handed to the store. */
static bool node_pull(struct node *to, struct node *from, uint64_t most) {
    struct db_state state;
    if (!node_up(to) || !node_up(from))
        return true;
    store_state(from->s.store, &state);
    uint64_t base = state.base;
    store_state(to->s.store, &state);
    if (base && !state.base)
        store_learn_base(to->s.store, base);
    struct vv *theirs = have_of(from), *mine = have_of(to);
    bool ok = true;
    for (uint32_t i = 0; i < theirs->count && ok && most; i++) {
        const struct vv_entry *e = &theirs->entries[i];
        for (uint64_t next = vv_get(mine, &e->origin) + 1; next <= e->version && ok && most;) {
            struct bytes **batches = NULL;
            uint32_t count = 0, k;
            int err = store_read(from->s.store, &e->origin, next, e->version, 1 << 20, &batches, &count);
            if (err || !count)
                ok = fail(to->cluster, "log", "the log of %s lacks version %llu of %llu", from->s.app_path, (unsigned long long)next,
                          (unsigned long long)e->version);
            for (k = 0; k < count; k++) {
                if (most)
                    side_queue(&to->s, batches[k]);
                most -= most > 0;
                bytes_unref(batches[k]);
            }
            free(batches);
            next += count;
        }
    }
    vv_release(theirs);
    vv_release(mine);
    free(theirs);
    free(mine);
    return ok;
}

/* Until nobody has news for anybody. */
static bool share(struct cluster *c) {
    for (int round = 0; round < 20; round++) {
        bool same = true;
        for (uint32_t i = 0; i < c->count; i++)
            if (node_up(&c->nodes[i]) && !node_rest(&c->nodes[i]))
                return false;
        struct db_state state;
        uint64_t digest = 0;
        for (uint32_t i = 0; i < c->count; i++) {
            if (!c->nodes[i].s.store)
                continue;
            store_state(c->nodes[i].s.store, &state);
            same = same && (!digest || digest == vv_digest(&state.have));
            digest = vv_digest(&state.have);
        }
        if (same)
            return true;
        for (uint32_t i = 0; i < c->count; i++)
            for (uint32_t k = 0; k < c->count; k++)
                if (i != k && (!node_pull(&c->nodes[i], &c->nodes[k], UINT64_MAX) || (c->nodes[i].s.store && !node_rest(&c->nodes[i]))))
                    return false;
    }
    return fail(c, "news", "the servers never stop having news");
}

/* ---- the applications */

static sqlite3 *open_db(struct cluster *c, const char *path, bool attached, const char *pragmas) {
    sqlite3 *db = NULL;
    int rc = sqlite3_open(attached ? ":memory:" : path, &db);
    assert(rc == SQLITE_OK);
    sqlite3_extended_result_codes(db, 1);
    if (attached) {
        char *sql = sqlite3_mprintf("ATTACH %Q AS w", path);
        rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
        sqlite3_free(sql);
    } else {
        sqlite3_exec(db, pragmas, NULL, NULL, NULL); /* a journal mode may be refused while the store has the file open */
    }
    if (rc != SQLITE_OK)
        fail(c, "app", "%s cannot be opened by its application: %s", path, sqlite3_errmsg(db));
    return db;
}

static sqlite3 *app_of(struct node *n, uint32_t connection) {
    if (!n->app[connection])
        n->app[connection] = open_db(n->cluster, n->s.app_path, connection == ATTACHED, n->pragmas);
    return n->app[connection];
}

static sqlite3 *shadow_of(struct node *n, uint32_t connection) {
    if (!n->shadow[connection])
        n->shadow[connection] =
            open_db(n->cluster, n->cluster->shadow_path, connection == ATTACHED, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
    return n->shadow[connection];
}

static void close_connections(sqlite3 **list) {
    for (int i = 0; i < CONNECTIONS; i++) {
        int rc = sqlite3_close(list[i]);
        assert(rc == SQLITE_OK);
        list[i] = NULL;
    }
}

/* A statement of a transaction that the script left open at one side cannot be compared: ends it at both. */
static bool end_transactions(struct cluster *c) {
    for (uint32_t i = 0; i < c->count; i++)
        for (int k = 0; k < CONNECTIONS; k++) {
            sqlite3 *app = c->nodes[i].app[k], *shadow = c->nodes[i].shadow[k];
            if (!app || !shadow || sqlite3_get_autocommit(app))
                continue;
            int rc = sqlite3_exec(app, "COMMIT", NULL, NULL, NULL), want = sqlite3_exec(shadow, "COMMIT", NULL, NULL, NULL);
            if (rc)
                sqlite3_exec(app, "ROLLBACK", NULL, NULL, NULL);
            if (want)
                sqlite3_exec(shadow, "ROLLBACK", NULL, NULL, NULL);
            if (rc != want)
                return fail(c, "result", "COMMIT gives %d on server %u, %d on the shadow", rc, i, want);
        }
    return true;
}

/* The numbers that AUTOINCREMENT has used up are a server's own: the shadow numbers as the server does that writes. */
static bool take_sequences(struct cluster *c, sqlite3 *app, sqlite3 *shadow) {
    sqlite3_stmt *q = NULL;
    if (!sqlite3_get_autocommit(app) || sqlite3_prepare_v2(app, "SELECT name, seq FROM sqlite_sequence", -1, &q, NULL) != SQLITE_OK)
        return true;
    int rc = sqlite3_exec(shadow, "DELETE FROM sqlite_sequence", NULL, NULL, NULL);
    while (rc == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW) {
        char *sql = sqlite3_mprintf("INSERT INTO sqlite_sequence VALUES(%Q, %lld)", sqlite3_column_text(q, 0), sqlite3_column_int64(q, 1));
        rc = sqlite3_exec(shadow, sql, NULL, NULL, NULL);
        sqlite3_free(sql);
    }
    sqlite3_finalize(q);
    return rc == SQLITE_OK || fail(c, "script", "sequences: %s", sqlite3_errmsg(shadow));
}

/* ---- steps that run SQL */

/* FTS5 may keep a transaction after a refused statement of its own triggers: an application would open its connection again. */
static void close_stuck(struct node *n, uint32_t connection) {
    sqlite3 **both[] = {&n->app[connection], &n->shadow[connection]};
    bool stuck = false;
    for (int i = 0; i < 2; i++)
        stuck |= sqlite3_get_autocommit(*both[i]) && sqlite3_txn_state(*both[i], NULL) != SQLITE_TXN_NONE;
    for (int i = 0; i < 2 && stuck; i++) {
        int rc = sqlite3_close(*both[i]);
        assert(rc == SQLITE_OK);
        *both[i] = NULL;
    }
}

/* AUTOINCREMENT has no number left: SQLite takes back the transaction, but only the statement where there are triggers. So the application does. */
static void end_full(struct node *n, uint32_t connection) {
    sqlite3_exec(n->app[connection], "ROLLBACK", NULL, NULL, NULL); /* refused where there is no transaction */
    sqlite3_exec(n->shadow[connection], "ROLLBACK", NULL, NULL, NULL);
}

/* A schema that changed beside an attached database is read again by the next statement only. */
static int rows_again(sqlite3 *db, const char *sql, struct rows *r) {
    int rc = rows_of(db, sql, r);
    if (rc != SQLITE_SCHEMA)
        return rc;
    rows_free(r);
    return rows_of(db, sql, r);
}

static bool run_on(struct cluster *c, struct node *n, uint32_t connection, const char *sql) {
    sqlite3 *app = app_of(n, connection), *shadow = shadow_of(n, connection);
    struct rows got, want;
    if (c->failure || !take_sequences(c, app, shadow))
        return false;
    int rc = rows_again(app, sql, &got), should = rows_again(shadow, sql, &want);
    long changes = sqlite3_changes(app), should_change = sqlite3_changes(shadow);
    bool ok = true;
    c->statements++;
    c->refused += should != SQLITE_OK;
    if (should == SQLITE_BUSY || should == SQLITE_LOCKED)
        ok = fail(c, "script", "two transactions at once on the shadow");
    else if (rc != should)
        ok = fail(c, "result", "server %u gives %d (%s), the shadow %d (%s)", (unsigned)(n - c->nodes), rc, sqlite3_errmsg(app), should,
                  sqlite3_errmsg(shadow));
    else if (rc == SQLITE_OK && strchr("IURD", sql[0]) && strncmp(sql, "RELEASE", 7) && strncmp(sql, "ROLLBACK", 8) &&
             changes != should_change)
        ok = fail(c, "result", "server %u changed %ld rows, the shadow %ld", (unsigned)(n - c->nodes), changes, should_change);
    else if (!rows_same(&got, &want)) {
        char *text = rows_difference(&want, &got);
        ok = fail(c, "result", "server %u gives other rows than the shadow:%s", (unsigned)(n - c->nodes), text);
        free(text);
    }
    rows_free(&got);
    rows_free(&want);
    if (rc == SQLITE_FULL)
        end_full(n, connection);
    if (rc != SQLITE_OK)
        close_stuck(n, connection);
    return ok;
}

static bool run_everywhere(struct cluster *c, const char *sql) {
    struct rows rows;
    int want = rows_of(c->shadow, sql, &rows);
    rows_free(&rows);
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->nodes[i].create && !c->nodes[i].s.store) /* it has no file yet */
            continue;
        sqlite3 *app = app_of(&c->nodes[i], ADMIN);
        int rc = c->failure ? want : rows_of(app, sql, &rows);
        if (!c->failure)
            rows_free(&rows);
        if (c->failure || rc != want)
            return fail(c, "ddl", "server %u gives %d (%s), the shadow %d", i, rc, sqlite3_errmsg(app), want);
    }
    return true;
}

static bool run_shadow(struct cluster *c, const char *sql) {
    struct rows rows;
    if (c->ddl_count == DDL_MAX)
        return fail(c, "script", "more than %d statements of migrations", DDL_MAX);
    c->ddl_rc[c->ddl_count] = rows_of(c->shadow, sql, &rows);
    c->ddl[c->ddl_count] = strdup(sql);
    assert(c->ddl[c->ddl_count]);
    c->ddl_count++;
    rows_free(&rows);
    return true;
}

/* A database that a node has made follows the others until its application changes it: that may have been done for it. */
static bool was_followed(const struct node *n, const char *why) {
    return n->create && (strstr(why, "duplicate column name") || strstr(why, "already exists"));
}

static bool run_ddl(struct cluster *c, struct node *n, const char *sql) {
    struct rows rows;
    sqlite3 *app = app_of(n, ADMIN);
    if (c->failure)
        return false;
    int rc = rows_of(app, sql, &rows), want = rc;
    rows_free(&rows);
    for (uint32_t i = 0; i < c->ddl_count; i++)
        if (strcmp(c->ddl[i], sql) == 0)
            want = c->ddl_rc[i];
    return rc == want || was_followed(n, sqlite3_errmsg(app)) ||
           fail(c, "ddl", "server %u gives %d (%s), the shadow %d", (unsigned)(n - c->nodes), rc, sqlite3_errmsg(app), want);
}

/* ---- what must be true in quiet */

/* Rows that no key names, as the engine says of them: they stay on their server. */
static int64_t null_keys(struct node *n) {
    json_t *list = store_tables(n->s.store), *t, *line;
    size_t i, k;
    int64_t rows = 0;
    json_array_foreach(list, i, t)
        json_array_foreach(json_object_get(t, "problems"), k, line) if (strstr(json_string_value(line), "NULL in")) rows +=
        strtoll(json_string_value(line), NULL, 10);
    json_decref(list);
    return rows;
}

static bool check_settled(struct cluster *c, uint32_t i) {
    struct node *n = &c->nodes[i];
    struct db_state state;
    store_state(n->s.store, &state);
    json_t *status = store_status(n->s.store), *list;
    int64_t parked = json_integer_value(json_object_get(status, "parked")),
            waiting = json_integer_value(json_object_get(status, "waiting")),
            pending = json_integer_value(json_object_get(status, "pending")),
            flying = json_integer_value(json_object_get(status, "in_flight"));
    bool scanning = !json_is_null(json_object_get(status, "capturing"));
    json_decref(status);
    int64_t nulls = null_keys(n);
    state.settled |= nulls > 0;
    parked -= nulls;
    if (parked || waiting || pending || flying || scanning || !state.settled) {
        list = store_tables(n->s.store);
        char *text = json_dumps(list, 0);
        fail(c,
             parked     ? "parked"
             : scanning ? "scan"
                        : "settled",
             "server %u: settled %d, parked %lld, waiting %lld, notes %lld, in flight %lld, scan %d: %s", i, state.settled,
             (long long)parked, (long long)waiting, (long long)pending, (long long)flying, scanning, text);
        free(text);
        json_decref(list);
        return false;
    }
    list = store_conflicts(n->s.store);
    bool met = false;
    for (size_t k = json_array_size(list); k-- > 0;) { /* what the script wrote to lose */
        const char *value = json_string_value(json_object_get(json_array_get(list, k), "value"));
        met |= value && strcmp(value, "met") == 0;
        if (value && strcmp(value, "met") == 0)
            json_array_remove(list, k);
    }
    for (size_t k = json_array_size(list); k-- > 0 && met;) { /* and the number that it had */
        const char *kind = json_string_value(json_object_get(json_array_get(list, k), "kind"));
        if (kind && strcmp(kind, "number") == 0)
            json_array_remove(list, k);
    }
    if (json_array_size(list)) {
        char *text = json_dumps(list, 0);
        fail(c, "conflict", "server %u has %zu open conflicts: %s", i, json_array_size(list), text);
        free(text);
    }
    json_decref(list);
    return !c->failure;
}

/* Digests of the registers, and of the real rows. */
static bool check_digests(struct cluster *c, uint32_t i, json_t *first) {
    struct db_state a, b;
    store_state(c->nodes[0].s.store, &a);
    store_state(c->nodes[i].s.store, &b);
    if (memcmp(a.digest, b.digest, sizeof a.digest) != 0)
        return fail(c, "digest", "servers 0 and %u have the same vector, and different digests", i);
    json_t *verify = store_verify(c->nodes[i].s.store, NULL, -1);
    bool same = json_equal(json_object_get(first, "tables"), json_object_get(verify, "tables"));
    json_decref(verify);
    return same || fail(c, "verify", "servers 0 and %u do not verify: their rows differ", i);
}

static bool check_schema(struct cluster *c, uint32_t i) {
    static const char sql[] = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_starling\\_%' ESCAPE '\\'"
                              " AND (type='index' OR name NOT LIKE 'sqlite\\_%' ESCAPE '\\')";
    struct rows want, got;
    int rc = rows_of(c->shadow, sql, &want), rc2 = rows_of(app_of(&c->nodes[i], ADMIN), sql, &got);
    bool ok = rc == SQLITE_OK && rc2 == SQLITE_OK && rows_same(&want, &got);
    if (!ok) {
        char *text = rows_difference(&want, &got);
        fail(c, "schema", "the schema of server %u is not the application's:%s", i, text);
        free(text);
    }
    rows_free(&want);
    rows_free(&got);
    return ok;
}

static bool check_same(struct cluster *c, uint32_t i, const char *kind, const char *sql) {
    struct rows want, got;
    sqlite3 *app = app_of(&c->nodes[i], ADMIN);
    int should = rows_of(c->shadow, sql, &want), rc = rows_of(app, sql, &got);
    bool ok = true;
    if (should != rc)
        ok = fail(c, kind, "server %u: %s gives %d (%s), on the shadow %d (%s)", i, sql, rc, sqlite3_errmsg(app), should,
                  sqlite3_errmsg(c->shadow));
    else if (!rows_same(&want, &got)) {
        char *text = rows_difference(&want, &got);
        ok = fail(c, kind, "server %u: %s:%s", i, sql, text);
        free(text);
    }
    rows_free(&want);
    rows_free(&got);
    return ok;
}

/* Why the engine does not replicate a table, or NULL; into text. */
static const char *unreplicated(struct cluster *c, uint32_t i, const char *table, char *text, size_t len) {
    json_t *list = store_tables(c->nodes[i].s.store), *t;
    const char *why = NULL;
    size_t k;
    json_array_foreach(list, k, t) if (strcmp(json_string_value(json_object_get(t, "name")), table) == 0 &&
                                       !json_is_true(json_object_get(t, "replicated"))) {
        const char *first = json_string_value(json_array_get(json_object_get(t, "problems"), 0));
        snprintf(text, len, "%s", first ? first : "no reason");
        why = text;
    }
    json_decref(list);
    return why;
}

/* As many rows by the registers as there are. */
static bool check_count(struct cluster *c, uint32_t i, const char *table) {
    json_t *list = store_tables(c->nodes[i].s.store), *t;
    char *where = rows_null_test(c->shadow, table, false), *sql = sqlite3_mprintf("SELECT 1 FROM main.\"%w\"%s", table, where);
    struct rows got;
    int rc = rows_of(app_of(&c->nodes[i], ADMIN), sql, &got);
    size_t k;
    json_array_foreach(list, k, t) if (strcmp(json_string_value(json_object_get(t, "name")), table) == 0 && rc == SQLITE_OK &&
                                       json_integer_value(json_object_get(t, "rows")) != (json_int_t)got.count)
        fail(c, "count", "server %u: \"%s\" has %u rows, by the registers %lld", i, table, got.count,
             (long long)json_integer_value(json_object_get(t, "rows")));
    rows_free(&got);
    sqlite3_free(where);
    sqlite3_free(sql);
    json_decref(list);
    return !c->failure;
}

/* Of the rows with NULL in their key each server has its own: together all of them. */
static bool check_nulls(struct cluster *c, const char *table) {
    char *where = rows_null_test(c->shadow, table, true), *sql = sqlite3_mprintf("SELECT * FROM main.\"%w\"%s", table, where);
    struct rows want, got;
    uint32_t count = 0;
    int rc = rows_of(c->shadow, sql, &want);
    for (uint32_t i = 0; i < c->count && rc == SQLITE_OK; i++) {
        rc = rows_of(app_of(&c->nodes[i], ADMIN), sql, &got);
        count += got.count;
        rows_free(&got);
    }
    bool ok = rc == SQLITE_OK && count == want.count;
    if (!ok)
        fail(c, "nulls", "%s: %u rows on all servers, %u on the shadow (%d)", sql, count, want.count, rc);
    rows_free(&want);
    sqlite3_free(where);
    sqlite3_free(sql);
    return ok;
}

static bool check_table(struct cluster *c, const char *table, const char *type) {
    char why[600];
    bool ok = true, virtual = strcmp(type, "virtual") == 0;
    c->tables++;
    if (!virtual && strcmp(type, "view") != 0)
        for (uint32_t i = 0; i < c->count; i++)
            if (unreplicated(c, i, table, why, sizeof why)) {
                json_object_set_new(c->skipped, why, json_integer(json_integer_value(json_object_get(c->skipped, why)) + 1));
                return true;
            }
    char *sql = rows_select_all(c->shadow, table);
    for (uint32_t i = 0; i < c->count && ok; i++)
        ok = check_same(c, i, virtual ? "fts" : "rows", sql);
    sqlite3_free(sql);
    if (ok && !virtual)
        ok = check_nulls(c, table);
    for (uint32_t i = 0; i < c->count && ok && !virtual && strcmp(type, "view") != 0; i++)
        ok = check_count(c, i, table);
    if (virtual) { /* its index against the rows that it stands for; an application's triggers may not keep it right themselves (REPLACE) */
        struct rows none;
        sql = sqlite3_mprintf("INSERT INTO \"%w\"(\"%w\", rank) VALUES('integrity-check', 1)", table, table);
        bool sound = rows_of(c->shadow, sql, &none) == SQLITE_OK;
        rows_free(&none);
        for (uint32_t i = 0; i < c->count && ok && sound; i++)
            ok = check_same(c, i, "fts", sql);
        sqlite3_free(sql);
    }
    return ok;
}

static bool check_content(struct cluster *c) {
    sqlite3_stmt *q = NULL;
    bool ok = true;
    int rc = sqlite3_prepare_v2(c->shadow,
                                "SELECT name, type FROM pragma_table_list WHERE schema='main' AND type IN ('table', 'view', 'virtual')"
                                " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
                                -1, &q, NULL);
    assert(rc == SQLITE_OK);
    while (ok && sqlite3_step(q) == SQLITE_ROW)
        ok = check_table(c, (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1));
    sqlite3_finalize(q);
    for (uint32_t i = 0; i < c->count && ok; i++)
        ok = check_same(c, i, "integrity", "PRAGMA integrity_check");
    return ok;
}

static bool quiet(struct cluster *c) {
    if (!end_transactions(c))
        return false;
    for (uint32_t i = 0; i < c->count; i++)
        if (!node_up(&c->nodes[i]))
            return fail(c, c->nodes[i].down ? "open" : "script", "server %u is not there: %s", i, c->nodes[i].s.why);
    if (!share(c))
        return false;
    for (uint32_t i = 0; i < c->count; i++)
        if (!check_settled(c, i))
            return false;
    if (!check_content(c))
        return false;
    json_t *first = store_verify(c->nodes[0].s.store, NULL, -1);
    for (uint32_t i = 0; i < c->count && !c->failure; i++)
        if (check_digests(c, i, first))
            check_schema(c, i);
    json_decref(first);
    later_pass(QUIET_MS);
    for (uint32_t i = 0; i < c->ddl_count; i++)
        free(c->ddl[i]);
    c->ddl_count = 0;
    return !c->failure;
}

/* ---- beginning and ending */

static void cluster_begin(struct cluster *c, unsigned long long seed, uint32_t count) {
    c->seed = seed;
    c->count = count;
    snprintf(c->shadow_path, sizeof c->shadow_path, "%s/shadow.db", c->folder);
    struct side sides[NODES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        memset(&c->nodes[i], 0, sizeof c->nodes[i]);
        snprintf(name, sizeof name, "n%u", i);
        side_init(&sides[i], c->folder, name, i + 1, LATER_VFS);
    }
    side_sort(sides, count);
    for (uint32_t i = 0; i < count; i++) {
        c->nodes[i].s = sides[i];
        c->nodes[i].cluster = c;
        snprintf(c->nodes[i].pragmas, sizeof c->nodes[i].pragmas, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
    }
    c->shadow = open_db(c, c->shadow_path, false, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
}

static void cluster_end(struct cluster *c) {
    for (uint32_t i = 0; i < c->count; i++) {
        close_connections(c->nodes[i].app);
        close_connections(c->nodes[i].shadow);
        side_release(&c->nodes[i].s);
    }
    sqlite3_close(c->shadow);
    for (uint32_t i = 0; i < c->ddl_count; i++)
        free(c->ddl[i]);
    c->ddl_count = c->count = 0;
    c->shadow = NULL;
    DIR *d = opendir(c->folder);
    assert(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", c->folder, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    closedir(d);
}

static bool start(struct cluster *c) {
    for (uint32_t i = 0; i < c->count; i++)
        if (!c->nodes[i].late && !node_open(&c->nodes[i]))
            return false;
    return share(c);
}

/* ---- the script */

static struct node *node_named(struct cluster *c, const char *text, char **end) {
    unsigned long i = strtoul(text, end, 10);
    if (i < c->count && *end != text)
        return &c->nodes[i];
    fail(c, "script", "no server %s", text);
    return NULL;
}

static bool step_sql(struct cluster *c, struct node *n, const char *verb, char *rest) {
    char *end;
    struct rows rows;
    if (strcmp(verb, "on") == 0) {
        unsigned long connection = *rest == '.' ? strtoul(rest + 1, &end, 10) : ADMIN;
        return connection < ADMIN ? run_on(c, n, (uint32_t)connection, end) : fail(c, "script", "no connection %s", rest);
    }
    if (strcmp(verb, "ddl") == 0)
        return run_ddl(c, n, rest);
    rows_of(app_of(n, ADMIN), rest, &rows);
    rows_free(&rows);
    return !c->failure;
}

static bool step_node(struct cluster *c, struct node *n, const char *verb, char *rest) {
    if (strcmp(verb, "on") == 0 || strcmp(verb, "ddl") == 0 || strcmp(verb, "only") == 0)
        return step_sql(c, n, verb, rest);
    if (strcmp(verb, "turn") == 0)
        return node_turns(n, strtoull(rest, NULL, 10));
    if (strcmp(verb, "pull") == 0) {
        struct node *from = node_named(c, rest, &rest);
        return from && node_pull(n, from, strtoull(rest, NULL, 10));
    }
    if (strcmp(verb, "restart") == 0) {
        if (!n->s.store)
            return true;
        side_close_store(&n->s);
        return node_open(n);
    }
    if (strcmp(verb, "reopen") == 0) {
        if (end_transactions(c)) {
            close_connections(n->app);
            close_connections(n->shadow);
        }
        return !c->failure;
    }
    if (strcmp(verb, "mode") == 0)
        snprintf(n->pragmas, sizeof n->pragmas, "%s", rest);
    else if (strcmp(verb, "create") == 0)
        n->create = true;
    else if (strcmp(verb, "late") == 0)
        n->late = true;
    else if (strcmp(verb, "join") == 0)
        return n->s.store ? true : node_open(n);
    else
        return fail(c, "script", "unknown step %s", verb);
    return true;
}

static bool step(struct cluster *c, char *line) {
    char *sp = strchr(line, ' '), *rest = sp ? sp + 1 : line + strlen(line), *end;
    if (sp)
        *sp = 0;
    if (strcmp(line, "all") == 0)
        return run_everywhere(c, rest);
    if (strcmp(line, "shadow") == 0)
        return run_shadow(c, rest);
    if (strcmp(line, "start") == 0)
        return start(c);
    if (strcmp(line, "quiet") == 0)
        return quiet(c);
    struct node *n = node_named(c, rest, &end);
    return n && step_node(c, n, line, end + (*end == ' '));
}

/* One script from stdin. False at its end. */
static bool script(struct cluster *c, char **line, size_t *cap) {
    ssize_t len;
    unsigned long long seed, nodes, at = 0;
    while ((len = getline(line, cap, stdin)) > 0) {
        if ((*line)[len - 1] == '\n')
            (*line)[--len] = 0;
        at++;
        if (len == 0 || (*line)[0] == '#')
            continue;
        if (sscanf(*line, "begin %llu %llu", &seed, &nodes) == 2 && !c->count && nodes >= 1 && nodes <= NODES_MAX) {
            cluster_begin(c, seed, (uint32_t)nodes);
            at = 0;
            continue;
        }
        if (!c->count) {
            fail(c, "script", "no \"begin SEED NODES\" but: %s", *line);
            break;
        }
        if (strcmp(*line, "end") == 0) {
            cluster_end(c);
            printf("ok %llu\n", c->seed);
            fflush(stdout);
            return true;
        }
        char *copy = strdup(*line);
        assert(copy);
        if (getenv("SIDE_LOG"))
            fprintf(stderr, "-- %s\n", copy);
        if (!step(c, *line)) {
            printf("failed %llu %llu %s: %s\n  step: %.2000s\n", c->seed, at, c->kind, c->failure, copy);
            free(copy);
            break;
        }
        free(copy);
    }
    return false;
}

int main(void) {
    static struct cluster c;
    char *line = NULL;
    size_t cap = 0;
    if (sodium_init() < 0)
        return 2;
    later_register();
    c.skipped = json_object();
    snprintf(c.folder, sizeof c.folder, "/dev/shm/starling-schemas-XXXXXX");
    if (!mkdtemp(c.folder)) {
        snprintf(c.folder, sizeof c.folder, "/tmp/starling-schemas-XXXXXX");
        if (!mkdtemp(c.folder))
            return 2;
    }
    while (script(&c, &line, &cap))
        ;
    const char *why;
    json_t *count;
    json_object_foreach(c.skipped, why, count) printf("skipped %lld %s\n", (long long)json_integer_value(count), why);
    printf("did %llu tables %llu statements %llu refused\n", (unsigned long long)c.tables, (unsigned long long)c.statements,
           (unsigned long long)c.refused);
    bool failed = c.failure != NULL;
    cluster_end(&c);
    rmdir(c.folder);
    free(c.failure);
    free(line);
    json_decref(c.skipped);
    return failed;
}
