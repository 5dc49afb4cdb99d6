/* Starling tests: the real engine against the executable specification.
 *
 *     merge_model.py schedules FIRST COUNT | model_driver
 *
 * A schedule is a list of steps with what each replica must show after them (merge_model.py prints both):
 * - schedule SEED REPLICAS; table SQL; select SQL: what is there at the start
 * - act R SQL: the application on replica R commits; drained as one batch or, if nothing changed, none
 * - away R SQL: the same while R's node is down
 * - made R VERSION CLOCK: the batch that came of it
 * - time R: what R was shown so far counts as known to its application
 * - deliver R ORIGIN VERSION: held until its causes are there; queue R ORIGIN VERSION: the same, more follows before the next turn
 * - have R VERSION...: what R has now
 * - rows R COUNT, then the rows; conflicts R COUNT, then the open conflicts
 * - end
 *
 * Time stands still for SQLite (frozen.h), so stamps are Lamport clocks above one base, and the engine must
 * give the very stamps of the model. Exit: 0 all as expected, 1 a difference (with the command that repeats it), 2 usage. */
#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "proto/err.h"
#include "frozen.h"
#include "side.h"

#define REPLICAS_MAX 8

struct schedule {
    char **lines;
    uint32_t count, cap;
    uint32_t at; /* the line in work */
    unsigned seed;
};

struct cluster {
    struct side sides[REPLICAS_MAX];
    uint32_t count;
    uint64_t before[REPLICAS_MAX]; /* versions made before the schedule begins: what the schema took */
    uint64_t base;                 /* stamp - clock, from the first batch on */
    bool based;
    const char *table, *select;
    char folder[64];
    char *failure; /* NULL, or what was not as expected */
};

/* ---- failing */

__attribute__((format(printf, 2, 3))) static bool fail(struct cluster *c, const char *format, ...) {
    if (!c->failure) {
        va_list args;
        va_start(args, format);
        if (vasprintf(&c->failure, format, args) < 0)
            c->failure = NULL;
        va_end(args);
        assert(c->failure);
    }
    return false;
}

static bool differ(struct cluster *c, const char *what, uint32_t replica, char **expected, uint32_t expected_count, char **actual,
                   uint32_t actual_count) {
    size_t len = 0;
    char *text = NULL;
    FILE *out = open_memstream(&text, &len);
    assert(out);
    fprintf(out, "%s of replica %u\n", what, replica);
    for (uint32_t i = 0; i < expected_count; i++)
        fprintf(out, "  expected %s\n", expected[i]);
    for (uint32_t i = 0; i < actual_count; i++)
        fprintf(out, "  engine   %s\n", actual[i]);
    fclose(out);
    fail(c, "%s", text);
    free(text);
    return false;
}

static bool same_lines(char **a, uint32_t a_count, char **b, uint32_t b_count) {
    bool same = a_count == b_count;
    for (uint32_t i = 0; i < a_count && same; i++)
        same = strcmp(a[i], b[i]) == 0;
    return same;
}

/* ---- looking into the engine */

static void print_literal(FILE *out, const json_t *v) {
    if (json_is_string(v))
        fprintf(out, "'%s'", json_string_value(v));
    else if (json_is_integer(v))
        fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        fprintf(out, "%.15g", json_real_value(v));
    else if (json_is_object(v) && json_object_get(v, "base64"))
        fprintf(out, "base64:%s", json_string_value(json_object_get(v, "base64")));
    else
        fputs("NULL", out);
}

/* One entry of store_conflicts() as the model prints it; NULL if it is not of that form. */
static char *conflict_line(const struct cluster *c, const json_t *entry) {
    const json_t *key = json_object_get(entry, "row");
    const char *table = json_string_value(json_object_get(entry, "table"));
    const char *column = json_string_value(json_object_get(entry, "column"));
    const char *stamp = json_string_value(json_object_get(entry, "stamp"));
    const char *origin = json_string_value(json_object_get(entry, "origin"));
    if (!json_is_array(key) || !table || strcmp(table, "note") != 0 || !column || !stamp || !origin)
        return NULL;
    uint32_t replica = 0;
    char text[ORIGIN_TEXT_BYTES];
    while (replica < c->count && strcmp(origin_text(&c->sides[replica].origin, text), origin) != 0)
        replica++;
    size_t len = 0;
    char *line = NULL;
    FILE *out = open_memstream(&line, &len);
    assert(out);
    fputs("lost ", out);
    for (size_t i = 0; i < json_array_size(key); i++) {
        if (i)
            fputc(',', out);
        print_literal(out, json_array_get(key, i));
    }
    fprintf(out, " %s %" PRIi64 " %u ", column, (int64_t)(strtoull(stamp, NULL, 10) - c->base), replica);
    print_literal(out, json_object_get(entry, "value"));
    fclose(out);
    return line;
}

/* The engine keeps key columns like any other, so that a lost row of a table that has nothing but a key is listed too. The model's rows are
 * never without a and b: there the key says nothing more. */
static bool is_key(const json_t *entry) {
    const char *column = json_string_value(json_object_get(entry, "column"));
    return column && strcmp(column, "a") != 0 && strcmp(column, "b") != 0 && strcmp(column, "(deleted)") != 0;
}

static bool check_conflicts(struct cluster *c, uint32_t r, char **expected, uint32_t expected_count) {
    json_t *list = store_conflicts(c->sides[r].store);
    if (!json_is_array(list))
        return fail(c, "store_conflicts() of replica %u gave no list", r);
    char **lines = calloc(json_array_size(list) + 1, sizeof *lines);
    assert(lines);
    uint32_t count = 0;
    bool ok = true;
    for (size_t i = 0; i < json_array_size(list) && ok; i++) {
        const json_t *entry = json_array_get(list, i);
        if (is_key(entry))
            continue;
        lines[count] = conflict_line(c, entry);
        if (!lines[count++]) {
            char *text = json_dumps(entry, 0);
            ok = fail(c, "an open conflict of unknown form: %s", text);
            free(text);
        }
    }
    json_decref(list);
    if (ok) {
        side_lines_sort(lines, count);
        if (!same_lines(expected, expected_count, lines, count))
            ok = differ(c, "open conflicts", r, expected, expected_count, lines, count);
    }
    side_lines_free(lines, count);
    return ok;
}

static bool check_rows(struct cluster *c, uint32_t r, char **expected, uint32_t expected_count) {
    uint32_t count;
    char sql[300];
    snprintf(sql, sizeof sql, "SELECT 'row', %s", c->select + strlen("SELECT "));
    char **lines = side_query(c->sides[r].app, sql, &count);
    if (!lines)
        return fail(c, "replica %u: %s", r, sqlite3_errmsg(c->sides[r].app));
    bool ok = same_lines(expected, expected_count, lines, count);
    if (!ok)
        differ(c, "rows", r, expected, expected_count, lines, count);
    side_lines_free(lines, count);
    return ok;
}

static bool check_have(struct cluster *c, uint32_t r, const char *versions) {
    struct db_state state;
    store_state(c->sides[r].store, &state);
    for (uint32_t i = 0; i < c->count; i++) {
        char *end;
        uint64_t expected = strtoull(versions, &end, 10);
        uint64_t actual = vv_get(&state.have, &c->sides[i].origin) - c->before[i];
        if (end == versions)
            return fail(c, "a version is missing in the schedule");
        versions = end;
        if (expected != actual)
            return fail(c, "replica %u has version %" PRIu64 " of replica %u, expected %" PRIu64, r, actual, i, expected);
    }
    return true;
}

/* The batch that the last act made, with the stamp that the model gave it. */
static bool check_made(struct cluster *c, uint32_t r, uint64_t version, uint64_t clock) {
    const struct side *s = &c->sides[r];
    if (s->made.count != c->before[r] + version)
        return fail(c, "replica %u made %" PRIu64 " batches, expected %" PRIu64, r, s->made.count - c->before[r], version);
    const struct bytes *batch = s->made.items[s->made.count - 1];
    struct batch_head head;
    if (batch_head_read(&head, batch->data, batch->len) != 0)
        return fail(c, "replica %u made a batch that cannot be read", r);
    uint64_t stamp = head.stamp;
    bool right = head.version == s->made.count && origin_cmp(&head.origin, &s->origin) == 0;
    batch_head_release(&head);
    if (!right)
        return fail(c, "replica %u made a batch with another origin or version than %" PRIu64, r, version);
    if (!c->based)
        c->base = stamp - clock;
    c->based = true;
    if (stamp - c->base != clock)
        return fail(c, "replica %u stamped its version %" PRIu64 " with clock %" PRIi64 ", expected %" PRIu64, r, version,
                    (int64_t)(stamp - c->base), clock);
    return true;
}

/* ---- steps */

static bool act(struct cluster *c, uint32_t r, const char *sql, bool away) {
    struct side *s = &c->sides[r];
    if (away)
        side_close_store(s);
    if (side_sql(s, sql) != SQLITE_OK)
        return fail(c, "replica %u: %s", r, s->why);
    if (away && side_open_store(s) != 0)
        return fail(c, "replica %u does not open again: %s", r, s->why);
    if (away)
        store_time_passes(s->store); /* a restart takes longer than a moment, but the clock stands still */
    int e = side_quiet(s);
    return e ? fail(c, "replica %u: %s: %s", r, err_text(e), s->why) : true;
}

static bool deliver(struct cluster *c, uint32_t r, uint32_t origin, uint64_t version, bool turn) {
    if (origin >= c->count || version < 1 || c->before[origin] + version > c->sides[origin].made.count)
        return fail(c, "no batch %u:%" PRIu64, origin, version);
    side_queue(&c->sides[r], c->sides[origin].made.items[c->before[origin] + version - 1]);
    int e = turn ? side_quiet(&c->sides[r]) : 0;
    return e ? fail(c, "replica %u: %s: %s", r, err_text(e), c->sides[r].why) : true;
}

static bool cluster_open(struct cluster *c, uint32_t count) {
    if (count < 1 || count > REPLICAS_MAX)
        return fail(c, "%u replicas", count);
    c->count = count;
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "r%u", i);
        side_init(&c->sides[i], c->folder, name, i + 1, FROZEN_VFS);
        c->sides[i].pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL";
        side_unlink(&c->sides[i]);
    }
    side_sort(c->sides, count);
    return true;
}

static bool cluster_start(struct cluster *c) {
    for (uint32_t i = 0; i < c->count; i++) {
        struct side *s = &c->sides[i];
        if (side_open_app(s) != SQLITE_OK || side_sql(s, c->table) != SQLITE_OK || side_open_store(s) != 0 || side_quiet(s) != 0)
            return fail(c, "replica %u does not start: %s", i, s->why);
    }
    for (uint32_t i = 0; i < 2 * c->count; i++) /* round the ring twice: all know the schema of all */
        if (side_exchange(&c->sides[i % c->count], &c->sides[(i + 1) % c->count]) != 0)
            return fail(c, "the schema does not arrive: %s %s", c->sides[i % c->count].why, c->sides[(i + 1) % c->count].why);
    for (uint32_t i = 0; i < c->count; i++) {
        c->before[i] = c->sides[i].made.count;
        store_time_passes(c->sides[i].store);
    }
    return true;
}

static void cluster_close(struct cluster *c) {
    for (uint32_t i = 0; i < c->count; i++) {
        side_release(&c->sides[i]);
        side_unlink(&c->sides[i]);
    }
    free(c->failure);
    memset(c, 0, sizeof *c);
}

static bool digests_equal(struct cluster *c) {
    struct db_state first, other;
    for (uint32_t i = 1; i < c->count; i++) {
        store_state(c->sides[0].store, &first);
        store_state(c->sides[i].store, &other);
        if (memcmp(first.digest, other.digest, sizeof first.digest) != 0)
            return fail(c, "replicas 0 and %u show the same and have different digests", i);
    }
    return true;
}

/* A step that begins with a verb and a replica. */
static bool step_on(struct cluster *c, struct schedule *plan, const char *verb, uint32_t r, const char *rest) {
    char *end;
    uint64_t first = strtoull(rest, &end, 10), second = strtoull(end, NULL, 10);
    if (r >= c->count)
        return fail(c, "no replica %u", r);
    if (strcmp(verb, "act") == 0 || strcmp(verb, "away") == 0)
        return act(c, r, rest, verb[1] == 'w');
    if (strcmp(verb, "made") == 0)
        return check_made(c, r, first, second);
    if (strcmp(verb, "time") == 0) {
        store_time_passes(c->sides[r].store);
        return true;
    }
    if (strcmp(verb, "deliver") == 0 || strcmp(verb, "queue") == 0)
        return deliver(c, r, (uint32_t)first, second, verb[0] == 'd');
    if (strcmp(verb, "have") == 0)
        return check_have(c, r, rest);
    bool rows = strcmp(verb, "rows") == 0;
    if ((!rows && strcmp(verb, "conflicts") != 0) || first > plan->count - plan->at - 1)
        return fail(c, "a step of unknown form");
    char **expected = plan->lines + plan->at + 1;
    bool ok = rows ? check_rows(c, r, expected, (uint32_t)first) : check_conflicts(c, r, expected, (uint32_t)first);
    if (ok)
        plan->at += (uint32_t)first;
    return ok;
}

static bool step(struct cluster *c, struct schedule *plan) {
    const char *line = plan->lines[plan->at];
    char verb[16];
    unsigned r;
    int used = 0;
    if (sscanf(line, "schedule %u %u", &plan->seed, &r) == 2)
        return cluster_open(c, r);
    if (strncmp(line, "table ", 6) == 0) {
        c->table = line + 6;
        return true;
    }
    if (strncmp(line, "select ", 7) == 0) {
        c->select = line + 7;
        return cluster_start(c);
    }
    if (strcmp(line, "end") == 0)
        return digests_equal(c);
    if (sscanf(line, "%15s %u %n", verb, &r, &used) < 2 || used == 0)
        return fail(c, "a step of unknown form");
    return step_on(c, plan, verb, r, line + used);
}

static bool run(struct schedule *plan, const char *folder) {
    struct cluster c = {0};
    snprintf(c.folder, sizeof c.folder, "%s", folder);
    bool ok = true;
    for (plan->at = 0; plan->at < plan->count && ok; plan->at++)
        ok = step(&c, plan);
    if (!ok)
        fprintf(stderr, "model: seed %u, line %u: %s\n  %s\nrepeat: merge_model.py schedules %u 1 | model_driver\n", plan->seed, plan->at,
                plan->lines[plan->at - 1], c.failure, plan->seed);
    cluster_close(&c);
    return ok;
}

static void schedule_add(struct schedule *plan, const char *line) {
    if (plan->count == plan->cap) {
        plan->cap = plan->cap ? plan->cap * 2 : 256;
        plan->lines = realloc(plan->lines, plan->cap * sizeof *plan->lines);
        assert(plan->lines);
    }
    plan->lines[plan->count] = strdup(line);
    assert(plan->lines[plan->count]);
    plan->count++;
}

static void schedule_clear(struct schedule *plan) {
    side_lines_free(plan->lines, plan->count);
    memset(plan, 0, sizeof *plan);
}

int main(int argc, char **argv) {
    if (argc != 1) {
        fprintf(stderr, "usage: merge_model.py schedules FIRST COUNT | %s\n", argv[0]);
        return 2;
    }
    if (sodium_init() < 0)
        return 1;
    char folder[] = "/dev/shm/starling-model-XXXXXX", fallback[] = "/tmp/starling-model-XXXXXX";
    const char *made = mkdtemp(folder);
    if (!made)
        made = mkdtemp(fallback);
    if (!made) {
        perror("model_driver: /tmp");
        return 1;
    }
    frozen_register();
    struct schedule plan = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    unsigned done = 0;
    bool ok = true;
    while (ok && (len = getline(&line, &cap, stdin)) > 0) {
        line[len - 1] = 0;
        schedule_add(&plan, line);
        if (strcmp(line, "end") == 0) {
            ok = run(&plan, made);
            done++;
            schedule_clear(&plan);
        }
    }
    if (ok && (plan.count || done == 0)) {
        fprintf(stderr, "model: the schedules end early\n");
        ok = false;
    }
    schedule_clear(&plan);
    free(line);
    rmdir(made);
    if (ok)
        printf("model: %u schedules: the engine shows the same rows and the same open conflicts\n", done);
    return ok ? 0 : 1;
}
