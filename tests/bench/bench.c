#include "tests/bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

const char bench_insert_sql[] = "INSERT INTO " BENCH_TABLE "(team,scout,event,match,score,created,updated,data)"
                                " VALUES(?1,?2,?3,?4,?5,?6,?7,?8)";
const char bench_upsert_sql[] =
    "INSERT INTO " BENCH_TABLE "(team,scout,event,match,score,created,updated,data,id) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)"
    " ON CONFLICT(id) DO UPDATE SET team=excluded.team,scout=excluded.scout,event=excluded.event,match=excluded.match,"
    "score=excluded.score,created=excluded.created,updated=excluded.updated,data=excluded.data";
const char bench_update_sql[] = "UPDATE " BENCH_TABLE " SET score=?1 WHERE id=?2";

void bench_die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

int64_t bench_number(const char *text, int64_t min, int64_t max) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || n < min || n > max) {
        bench_die("%s: expected a number from %" PRId64 " to %" PRId64, text, min, max);
    }
    return n;
}

uint64_t bench_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void bench_sleep_until(uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

void bench_sleep_us(uint64_t us) { bench_sleep_until(bench_ns() + us * 1000u); }

void bench_exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL); }

void bench_used_heap(void) {
    enum { BLOCKS = 128, BLOCK_BYTES = 100000, PIN_BYTES = 64 };
    void *pins[BLOCKS], *blocks[BLOCKS]; /* pins are never freed */
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        pins[i] = malloc(PIN_BYTES);
    }
    for (int i = 0; i < BLOCKS; i++) {
        free(blocks[i]);
        if (pins[i] == NULL) {
            bench_die("out of memory");
        }
    }
}

uint64_t bench_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void bench_sql(sqlite3 *db, const char *sql) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        bench_die("%s: %s", sql, sqlite3_errmsg(db));
    }
}

sqlite3_stmt *bench_prepare(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) != SQLITE_OK) {
        bench_die("%s: %s", sql, sqlite3_errmsg(db));
    }
    return stmt;
}

void bench_step(sqlite3 *db, sqlite3_stmt *stmt) {
    int r = sqlite3_step(stmt);
    if (r != SQLITE_DONE) {
        bench_die("%s: %s (%d)", sqlite3_sql(stmt), sqlite3_errmsg(db), r);
    }
    sqlite3_reset(stmt);
}

int64_t bench_int(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt = bench_prepare(db, sql);
    int r = sqlite3_step(stmt);
    if (r != SQLITE_ROW && r != SQLITE_DONE) {
        bench_die("%s: %s", sql, sqlite3_errmsg(db));
    }
    int64_t value = r == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return value;
}

sqlite3 *bench_open(const char *path, bool full) {
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) {
        bench_die("%s: %s", path, db != NULL ? sqlite3_errmsg(db) : "out of memory");
    }
    sqlite3_busy_timeout(db, BENCH_BUSY_MS);
    bench_sql(db, "PRAGMA journal_mode=WAL");
    bench_sql(db, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
    bench_sql(db, "CREATE TABLE IF NOT EXISTS " BENCH_TABLE "(id INTEGER PRIMARY KEY, team TEXT, scout TEXT, event TEXT,"
                  " match INTEGER, score INTEGER, created TEXT, updated TEXT, data TEXT)");
    return db;
}

void bench_close(sqlite3 *db) {
    if (sqlite3_close(db) != SQLITE_OK) {
        bench_die("close: %s", sqlite3_errmsg(db));
    }
}

static void iso_date(char *out, size_t size, uint64_t unix_s, uint64_t us) {
    time_t t = (time_t)unix_s;
    struct tm tm;
    gmtime_r(&t, &tm);
    char seconds[24];
    strftime(seconds, sizeof seconds, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(out, size, "%.19s.%03u", seconds, (unsigned)(us % 1000));
}

/* Names, places and words repeat, numbers and dates move: a drawing is noise: what zstd -3 makes of such rows is
 * near to half. */
void bench_row_make(struct bench_row *r, uint64_t n) {
    static const char *const names[] = {"Ada",    "Grace", "Linus",   "Edsger", "Barbara",  "Donald", "Ken",  "Radia",
                                        "Leslie", "Tony",  "Frances", "John",   "Margaret", "Alan",   "Hedy", "Niklaus"};
    static const char *const things[] = {"Falcons", "Robots", "Gears", "Pioneers", "Circuits", "Rockets", "Bolts", "Titans"};
    static const char *const words[] = {"fast",   "tipped", "over", "late",   "good",   "defence", "climbs", "jammed",
                                        "steady", "driver", "weak", "intake", "missed", "shots",   "strong", "auto"};
    uint64_t state = n * 0x2545f4914f6cdd1du + 88172645463325252u;
    uint64_t a = bench_random(&state), b = bench_random(&state), c = bench_random(&state), d = bench_random(&state), e = 0;
    snprintf(r->team, sizeof r->team, "%s %s", names[a & 15], things[a >> 4 & 7]);
    snprintf(r->scout, sizeof r->scout, "%s.%s%u", names[a >> 8 & 15], names[a >> 12 & 15], (unsigned)(a >> 16 & 63));
    snprintf(r->event, sizeof r->event, "2024%s", (a >> 22 & 1) != 0 ? "isde1" : "isde2");
    r->match = (int64_t)(n / 6 % 120 + 1);
    r->score = (int64_t)(a >> 24 & 127);
    iso_date(r->created, sizeof r->created, 1710000000u + n * 7, a >> 32);
    iso_date(r->updated, sizeof r->updated, 1710000000u + n * 7 + (a >> 42 & 63), a >> 48);
    char drawing[69];
    for (size_t i = 0; i + 1 < sizeof drawing; i++) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        drawing[i] = digits[(i % 10 == 0 ? e = bench_random(&state) : (e >>= 6)) & 63];
    }
    drawing[sizeof drawing - 1] = '\0';
    snprintf(r->data, sizeof r->data,
             "{\"auto\":[%u,%u,%u],\"cycle\":[%u.%u,%u.%u,%u.%u],\"path\":[%u,%u,%u],\"leave\":%s,\"note\":\"%s %s %s %s\","
             "\"drawing\":\"%s\"}",
             (unsigned)(b & 7), (unsigned)(b >> 3 & 7), (unsigned)(b >> 6 & 3), (unsigned)(b >> 8 & 15), (unsigned)(b >> 12 & 7),
             (unsigned)(b >> 15 & 15), (unsigned)(b >> 19 & 7), (unsigned)(b >> 22 & 15), (unsigned)(b >> 26 & 7), (unsigned)(c & 511),
             (unsigned)(c >> 9 & 511), (unsigned)(c >> 18 & 511), (b >> 29 & 1) != 0 ? "true" : "false", words[d & 15], words[d >> 4 & 15],
             words[d >> 8 & 15], words[d >> 12 & 15], drawing);
}

void bench_row_bind(sqlite3_stmt *stmt, const struct bench_row *r) {
    sqlite3_bind_text(stmt, 1, r->team, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, r->scout, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, r->event, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, r->match);
    sqlite3_bind_int64(stmt, 5, r->score);
    sqlite3_bind_text(stmt, 6, r->created, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 7, r->updated, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 8, r->data, -1, SQLITE_STATIC);
}

struct bench_row *bench_rows(uint64_t from, uint64_t count) {
    struct bench_row *rows = malloc((count + 1) * sizeof *rows);
    if (rows == NULL) {
        bench_die("out of memory");
    }
    for (uint64_t i = 0; i < count; i++) {
        bench_row_make(&rows[i], from + i);
    }
    return rows;
}

void bench_writer_open(struct bench_writer *w, const char *path, bool full) {
    w->db = bench_open(path, full);
    w->updates = 0;
    w->begin = bench_prepare(w->db, "BEGIN");
    w->commit = bench_prepare(w->db, "COMMIT");
    w->insert = bench_prepare(w->db, bench_insert_sql);
    w->upsert = bench_prepare(w->db, bench_upsert_sql);
    w->update = bench_prepare(w->db, bench_update_sql);
}

void bench_writer_close(struct bench_writer *w) {
    sqlite3_finalize(w->begin);
    sqlite3_finalize(w->commit);
    sqlite3_finalize(w->insert);
    sqlite3_finalize(w->upsert);
    sqlite3_finalize(w->update);
    bench_close(w->db);
}

/* Statement i of count, framed into transactions of per_tx. */
static void framed(struct bench_writer *w, sqlite3_stmt *stmt, uint64_t i, uint64_t count, uint64_t per_tx) {
    if (per_tx > 1 && i % per_tx == 0) {
        bench_step(w->db, w->begin);
    }
    bench_step(w->db, stmt);
    if (per_tx > 1 && (i % per_tx == per_tx - 1 || i + 1 == count)) {
        bench_step(w->db, w->commit);
    }
}

void bench_insert(struct bench_writer *w, const struct bench_row *rows, uint64_t count, uint64_t per_tx) {
    for (uint64_t i = 0; i < count; i++) {
        bench_row_bind(w->insert, &rows[i]);
        framed(w, w->insert, i, count, per_tx);
    }
}

void bench_update(struct bench_writer *w, int64_t first, uint64_t span, uint64_t count, uint64_t per_tx, uint64_t *state) {
    uint64_t score = bench_ns(), range = 1000 * (1 + (w->updates++ & 1023));
    for (uint64_t i = 0; i < count; i++) {
        uint64_t place = state != NULL ? bench_random(state) % span : i % span;
        sqlite3_bind_int64(w->update, 1, (int64_t)(range + bench_random(&score) % 1000u));
        sqlite3_bind_int64(w->update, 2, first + (int64_t)place);
        framed(w, w->update, i, count, per_tx);
    }
}

void samples_add(struct samples *s, double value) {
    if (s->count == s->cap) {
        size_t cap = s->cap == 0 ? 1024 : s->cap * 2;
        double *values = realloc(s->values, cap * sizeof *values);
        if (values == NULL) {
            bench_die("out of memory");
        }
        s->values = values;
        s->cap = cap;
    }
    s->values[s->count++] = value;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double samples_at(struct samples *s, double part) {
    if (s->count == 0) {
        return 0;
    }
    qsort(s->values, s->count, sizeof *s->values, compare);
    return s->values[(size_t)(part * (double)(s->count - 1) + 0.5)];
}

void samples_release(struct samples *s) {
    free(s->values);
    *s = (struct samples){0};
}
