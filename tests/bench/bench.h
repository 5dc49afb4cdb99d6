/* Starling bench: what the programs here share: the rows they write, time, percentiles, and SQLite as an application opens it.
 * Every program prints one JSON object and exits 0, or one line on standard error and exits 1. */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_TABLE "entry"
#define BENCH_BUSY_MS 30000

/* A row as a scouting application writes it: 9 columns, about 280 bytes as msgpack, the first one numbered by SQLite. */
struct bench_row {
    char team[32], scout[32], event[24], created[24], updated[24], data[224];
    int64_t match, score;
};

/* Prints the line with the program's name and ends it. */
_Noreturn void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* An argument that must be a number from min to max. */
int64_t bench_number(const char *text, int64_t min, int64_t max);

uint64_t bench_ns(void); /* CLOCK_MONOTONIC */
void bench_sleep_until(uint64_t ns);
void bench_sleep_us(uint64_t us);
/* Short sleeps mean what they say: without this the kernel rounds them up by 50 us. */
void bench_exact_timers(void);
uint64_t bench_random(uint64_t *state); /* splitmix64 */

/* Memory as in a process that has run for a while: free blocks between used ones. In a process that has done nothing else, glibc gives
 * the 64 KiB of SQLite's statement journal back to the kernel after every statement of a transaction that has a trigger with a function
 * in it, and takes it again: 25 us each, or not, as its blocks happen to lie. */
void bench_used_heap(void);

/* Opens as an application does: WAL, busy timeout; creates the file and the table when missing. */
sqlite3 *bench_open(const char *path, bool full);
void bench_close(sqlite3 *db);
void bench_sql(sqlite3 *db, const char *sql);
int64_t bench_int(sqlite3 *db, const char *sql);
sqlite3_stmt *bench_prepare(sqlite3 *db, const char *sql);
/* Steps a statement that returns no row, and resets it. */
void bench_step(sqlite3 *db, sqlite3_stmt *stmt);

/* The n-th row: the same on every run. */
void bench_row_make(struct bench_row *r, uint64_t n);
extern const char bench_insert_sql[]; /* lets SQLite number the row */
extern const char bench_upsert_sql[]; /* key in the last parameter */
extern const char bench_update_sql[]; /* score by key: parameters score, id */
#define BENCH_KEY_PARAMETER 9
/* count rows from number `from` on, made beforehand: making a row costs about as much as inserting it. */
struct bench_row *bench_rows(uint64_t from, uint64_t count);
void bench_row_bind(sqlite3_stmt *stmt, const struct bench_row *r);

/* An application's connection with its statements. */
struct bench_writer {
    sqlite3 *db;
    sqlite3_stmt *begin, *commit, *insert, *upsert, *update;
    uint64_t updates; /* calls so far */
};
void bench_writer_open(struct bench_writer *w, const char *path, bool full);
void bench_writer_close(struct bench_writer *w);
/* count rows in transactions of per_tx (1: autocommit). */
void bench_insert(struct bench_writer *w, const struct bench_row *rows, uint64_t count, uint64_t per_tx);
/* Sets the score of count rows, keys first .. first + span - 1: one after the other (state NULL), or drawn at random; to
 * another value than the call before left there: an update that changes nothing would not be sent. */
void bench_update(struct bench_writer *w, int64_t first, uint64_t span, uint64_t count, uint64_t per_tx, uint64_t *state);

struct samples {
    double *values;
    size_t count, cap;
};
void samples_add(struct samples *s, double value);
double samples_at(struct samples *s, double part); /* 0.5: the median; 1: the largest; sorts; 0 when empty */
void samples_release(struct samples *s);

#endif
