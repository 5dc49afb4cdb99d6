/* Starling tests: a few servers in one program, moved step by step by mends.py.
 *
 * A command a line on standard input, a JSON object a line on standard output:
 * - open COUNT SQL: fresh servers whose applications ran SQL, and who know each other's schema
 * - begin R; try R SQL, with the rows as they are then; commit R [ORIGIN VERSION...]: a transaction of the application on server R. At once,
 *   before R looks, these batches arrive. Then R comes to rest
 * - away R: its node ends; what the application commits before back R is found when the node starts again
 * - time R: what R was shown so far counts as known to its application
 * - deliver R ORIGIN VERSION...: held until the causes are there; then R comes to rest
 * - skip MS: the clock of the stores' waits goes on; rest R
 * - conflicts R: the open ones. check R: what SQLite finds wrong
 *
 * commit, back, deliver and rest answer with what R shows and has: {"rows": {table: [[value...]...]}, "committed": the same before the node
 * looked, "have": [version of each origin], "made": [[version, stamp, how many mends, and other changes]...] since the last answer,
 * "settled", "parked"}. Any command may answer {"error": text}: the engine is at fault; {"sql": text}: the application's statement failed.
 *
 * Origins are numbered as the servers are. Time stands still for SQLite (frozen.h). Exit: 0 end of input, 2 usage. */
#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "frozen.h"
#include "proto/err.h"
#include "side.h"

#define SERVERS_MAX 8
#define REST_MS 500          /* a store that waits longer looks after itself only, or tries again what it cannot show */
#define UNSETTLED_MS_MAX 900 /* ... if it says that it is not settled; then that is how it is */
#define BUSY_MS_MAX 30000

struct servers {
    struct side sides[SERVERS_MAX];
    uint32_t told[SERVERS_MAX]; /* how many of its batches were answered */
    uint32_t count;
    const char *folder;
};

/* ---- answers */

__attribute__((format(printf, 2, 3))) static json_t *refuse(const char *name, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    assert(n >= 0);
    json_t *j = json_object();
    json_object_set_new(j, name, json_string(text));
    free(text);
    return j;
}

static json_t *blob_json(sqlite3_stmt *q, int i) {
    size_t len = (size_t)sqlite3_column_bytes(q, i);
    char *hex = malloc(2 * len + 1);
    assert(hex);
    json_t *j = json_string(sodium_bin2hex(hex, 2 * len + 1, len ? sqlite3_column_blob(q, i) : (const void *)"", len));
    free(hex);
    return j;
}

static json_t *value_json(sqlite3_stmt *q, int i) {
    switch (sqlite3_column_type(q, i)) {
    case SQLITE_NULL: return json_null();
    case SQLITE_INTEGER: return json_integer(sqlite3_column_int64(q, i));
    case SQLITE_FLOAT: return json_real(sqlite3_column_double(q, i));
    case SQLITE_BLOB: return blob_json(q, i);
    default: return json_string((const char *)sqlite3_column_text(q, i));
    }
}

/* All rows of a query; NULL if it fails. */
static json_t *query_json(sqlite3 *db, const char *sql) {
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK)
        return NULL;
    json_t *rows = json_array();
    int r;
    while ((r = sqlite3_step(q)) == SQLITE_ROW) {
        json_t *row = json_array();
        for (int i = 0; i < sqlite3_column_count(q); i++)
            json_array_append_new(row, value_json(q, i));
        json_array_append_new(rows, row);
    }
    sqlite3_finalize(q);
    if (r != SQLITE_DONE) {
        json_decref(rows);
        return NULL;
    }
    return rows;
}

/* All tables of the application. */
static json_t *rows_json(sqlite3 *db) {
    json_t *tables = query_json(db, "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT GLOB '_starling_*'");
    json_t *all = json_object(), *table;
    size_t i;
    json_array_foreach(tables, i, table) {
        const char *name = json_string_value(json_array_get(table, 0));
        char *sql = sqlite3_mprintf("SELECT * FROM \"%w\" ORDER BY 1, 2", name);
        json_t *rows = query_json(db, sql);
        sqlite3_free(sql);
        json_object_set_new(all, name, rows ? rows : json_string(sqlite3_errmsg(db)));
    }
    json_decref(tables);
    return all;
}

static json_t *batch_json(const struct bytes *batch) {
    struct batch_reader *reader = batch_reader_new();
    struct change change;
    int mends = 0, others = 0, r = reader ? batch_reader_open(reader, batch->data, batch->len) : ERR_NOMEM;
    assert(r == 0); /* it comes from a store of ours */
    while ((r = batch_reader_next(reader, &change)) == 1)
        (*(change.kind == CHANGE_REVIVE || change.kind == CHANGE_MEND || change.kind == CHANGE_SAME ? &mends : &others))++;
    assert(r == 0);
    const struct batch_head *head = batch_reader_head(reader);
    char stamp[24];
    snprintf(stamp, sizeof stamp, "%" PRIu64, head->stamp);
    json_t *j = json_pack("[I, s, i, i]", (json_int_t)head->version, stamp, mends, others);
    batch_reader_free(reader);
    return j;
}

static json_t *look(struct servers *v, uint32_t r) {
    struct side *s = &v->sides[r];
    struct db_state state;
    store_state(s->store, &state);
    json_t *have = json_array(), *made = json_array(), *status;
    for (uint32_t i = 0; i < v->count; i++)
        json_array_append_new(have, json_integer((json_int_t)vv_get(&state.have, &v->sides[i].origin)));
    bool settled = state.settled;
    char digest[2 * sizeof state.digest + 1];
    sodium_bin2hex(digest, sizeof digest, state.digest, sizeof state.digest);
    for (; v->told[r] < s->made.count; v->told[r]++)
        json_array_append_new(made, batch_json(s->made.items[v->told[r]]));
    status = store_status(s->store);
    json_t *j = json_pack("{s:o, s:o, s:o, s:b, s:s, s:O}", "rows", rows_json(s->app), "have", have, "made", made, "settled", settled,
                          "digest", digest, "parked", json_object_get(status, "parked"));
    json_decref(status);
    return j;
}

/* ---- steps */

/* To rest: nothing more happens before something new does, or for a while. What cannot be shown may be left. NULL, or an answer. */
static json_t *rest(struct servers *v, uint32_t r) {
    struct side *s = &v->sides[r];
    for (uint64_t spent = 0, unsettled = 0;;) {
        int wait = store_turn(s->store, s->why, sizeof s->why);
        if (wait < -1)
            return refuse("error", "server %u: %s: %s", r, err_text(wait), s->why);
        if (s->refused)
            return refuse("error", "server %u: %s", r, s->why);
        struct db_state state;
        store_state(s->store, &state);
        if (wait < 0 || wait >= REST_MS) {
            if (wait < 0 || state.settled || unsettled >= UNSETTLED_MS_MAX)
                return NULL;
            unsettled += REST_MS;
        }
        spent += wait > 0 ? (uint64_t)wait : 1;
        if (spent > BUSY_MS_MAX)
            return refuse("error", "server %u does not come to rest (turn says %d, settled %d)", r, wait, state.settled);
        side_skip(wait >= REST_MS ? REST_MS : wait > 0 ? (uint64_t)wait : 0);
    }
}

static json_t *rest_and_look(struct servers *v, uint32_t r) {
    json_t *wrong = rest(v, r);
    return wrong ? wrong : look(v, r);
}

static void servers_close(struct servers *v) {
    for (uint32_t i = 0; i < v->count; i++) {
        side_release(&v->sides[i]);
        side_unlink(&v->sides[i]);
    }
    v->count = 0;
}

static json_t *servers_open(struct servers *v, uint32_t count, const char *sql) {
    servers_close(v);
    if (count < 1 || count > SERVERS_MAX)
        return refuse("error", "%u servers", count);
    v->count = count;
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "r%u", i);
        side_init(&v->sides[i], v->folder, name, i + 1, FROZEN_VFS);
        v->sides[i].pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON";
        side_unlink(&v->sides[i]);
    }
    side_sort(v->sides, count);
    for (uint32_t i = 0; i < count; i++) {
        struct side *s = &v->sides[i];
        if (side_open_app(s) != SQLITE_OK || side_sql(s, sql) != SQLITE_OK || side_open_store(s) != 0 || side_quiet(s) != 0)
            return refuse("error", "server %u does not start: %s", i, s->why);
    }
    for (uint32_t i = 0; i < 2 * count; i++) /* round the ring twice: all know the schema of all */
        if (side_exchange(&v->sides[i % count], &v->sides[(i + 1) % count]) != 0)
            return refuse("error", "the schema does not arrive: %s %s", v->sides[i % count].why, v->sides[(i + 1) % count].why);
    json_t *looks = json_array();
    for (uint32_t i = 0; i < count; i++) {
        store_time_passes(v->sides[i].store);
        v->told[i] = v->sides[i].made.count;
        json_array_append_new(looks, look(v, i));
    }
    return json_pack("{s:o}", "servers", looks);
}

static json_t *run_sql(struct servers *v, uint32_t r, const char *sql) {
    struct side *s = &v->sides[r];
    if (side_sql(s, sql) == SQLITE_OK)
        return json_pack("{s:o}", "rows", rows_json(s->app));
    if (!sqlite3_get_autocommit(s->app))
        sqlite3_exec(s->app, "ROLLBACK", NULL, NULL, NULL);
    return refuse("sql", "%s", s->why);
}

static json_t *queue(struct servers *v, uint32_t r, const char *list) {
    uint64_t origin, version;
    int used;
    while (sscanf(list, "%" SCNu64 " %" SCNu64 " %n", &origin, &version, &used) == 2) {
        list += used;
        if (origin >= v->count || version < 1 || version > v->sides[origin].made.count)
            return refuse("error", "no batch %" PRIu64 ":%" PRIu64, origin, version);
        side_queue(&v->sides[r], v->sides[origin].made.items[version - 1]);
    }
    return NULL;
}

static json_t *commit(struct servers *v, uint32_t r, const char *list) {
    json_t *done = run_sql(v, r, "COMMIT"), *wrong;
    if (json_object_get(done, "sql") || !v->sides[r].store)
        return done;
    if ((wrong = queue(v, r, list))) {
        json_decref(done);
        return wrong;
    }
    json_t *answer = rest_and_look(v, r);
    json_object_set(answer, "committed", json_object_get(done, "rows"));
    json_decref(done);
    return answer;
}

static json_t *back(struct servers *v, uint32_t r) {
    struct side *s = &v->sides[r];
    json_t *committed = rows_json(s->app);
    if (side_open_store(s) != 0) {
        json_decref(committed);
        return refuse("error", "server %u does not open again: %s", r, s->why);
    }
    store_time_passes(s->store); /* a restart takes longer than a moment, but the clock stands still */
    json_t *answer = rest_and_look(v, r);
    json_object_set_new(answer, "committed", committed);
    return answer;
}

static json_t *deliver(struct servers *v, uint32_t r, const char *list) {
    json_t *wrong = queue(v, r, list);
    return wrong ? wrong : rest_and_look(v, r);
}

static json_t *conflicts(struct servers *v, uint32_t r) {
    json_t *list = store_conflicts(v->sides[r].store), *c;
    size_t i;
    char text[ORIGIN_TEXT_BYTES];
    json_array_foreach(list, i, c) { /* origins as the servers are numbered */
        const char *origin = json_string_value(json_object_get(c, "origin"));
        for (uint32_t k = 0; k < v->count && origin; k++)
            if (strcmp(origin_text(&v->sides[k].origin, text), origin) == 0) {
                json_object_set_new(c, "origin", json_integer(k));
                break;
            }
    }
    return json_pack("{s:o}", "conflicts", list);
}

static json_t *check(struct servers *v, uint32_t r) {
    sqlite3 *app = v->sides[r].app;
    json_t *integrity = query_json(app, "PRAGMA integrity_check"), *foreign = query_json(app, "PRAGMA foreign_key_check");
    return json_pack("{s:o?, s:o?}", "integrity", integrity, "foreign", foreign);
}

static json_t *command(struct servers *v, const char *line) {
    char verb[16];
    unsigned r = 0;
    int used = 0;
    if (sscanf(line, "%15s %u %n", verb, &r, &used) < 2 || used == 0)
        return refuse("error", "a command of unknown form: %s", line);
    const char *rest_of_line = line + used;
    if (strcmp(verb, "open") == 0)
        return servers_open(v, r, rest_of_line);
    if (strcmp(verb, "skip") == 0) {
        side_skip(r);
        return json_object();
    }
    if (r >= v->count)
        return refuse("error", "no server %u", r);
    if (strcmp(verb, "begin") == 0)
        return run_sql(v, r, "BEGIN");
    if (strcmp(verb, "try") == 0)
        return run_sql(v, r, rest_of_line);
    if (strcmp(verb, "commit") == 0)
        return commit(v, r, rest_of_line);
    if (strcmp(verb, "pile") == 0)
        return run_sql(v, r, "COMMIT");
    if (strcmp(verb, "back") == 0)
        return back(v, r);
    if (!v->sides[r].store)
        return refuse("error", "server %u is away", r);
    if (strcmp(verb, "away") == 0) {
        side_close_store(&v->sides[r]);
        return json_object();
    }
    if (strcmp(verb, "deliver") == 0)
        return deliver(v, r, rest_of_line);
    if (strcmp(verb, "rest") == 0)
        return rest_and_look(v, r);
    if (strcmp(verb, "conflicts") == 0)
        return conflicts(v, r);
    if (strcmp(verb, "check") == 0)
        return check(v, r);
    if (strcmp(verb, "time") != 0)
        return refuse("error", "a command of unknown form: %s", line);
    store_time_passes(v->sides[r].store);
    return json_object();
}

int main(int argc, char **argv) {
    if (argc != 1) {
        fprintf(stderr, "usage: %s, by mends.py\n", argv[0]);
        return 2;
    }
    if (sodium_init() < 0)
        return 1;
    char folder[] = "/dev/shm/starling-servers-XXXXXX", fallback[] = "/tmp/starling-servers-XXXXXX";
    struct servers v = {.folder = mkdtemp(folder)};
    if (!v.folder)
        v.folder = mkdtemp(fallback);
    if (!v.folder) {
        perror("servers: /tmp");
        return 1;
    }
    frozen_register();
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    while ((len = getline(&line, &cap, stdin)) > 0) {
        line[len - 1] = 0;
        json_t *answer = command(&v, line);
        json_dumpf(answer, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
        putchar('\n');
        fflush(stdout);
        json_decref(answer);
    }
    servers_close(&v);
    free(line);
    rmdir(v.folder);
    return 0;
}
