/* For the tests of the store: a folder of their own with real files, and the application's side of a database. */
#ifndef TESTS_UNIT_STORE_SCRATCH_H
#define TESTS_UNIT_STORE_SCRATCH_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

struct scratch {
    char folder[64], path[96]; /* path: folder/app.db */
};

static inline void scratch_open(struct scratch *s) {
    /* In memory where that is to be had: what a sync is for is tested by tests/fault. */
    snprintf(s->folder, sizeof s->folder, "%s/starling-unit-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    assert_non_null(mkdtemp(s->folder));
    snprintf(s->path, sizeof s->path, "%s/app.db", s->folder);
}

static inline void scratch_close(struct scratch *s) {
    DIR *d = opendir(s->folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", s->folder, e->d_name);
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            assert_int_equal(remove(path), 0);
    }
    closedir(d);
    assert_int_equal(rmdir(s->folder), 0);
}

static inline void app_exec(sqlite3 *db, const char *sql) {
    char *message = NULL;
    int rc = sqlite3_exec(db, sql, NULL, NULL, &message);
    if (rc != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

/* An ordinary program's connection: no settings but a busy timeout. */
static inline sqlite3 *app_open(const char *path) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

/* All rows of a query as text, values with their types: "i1|t'a'|n;". The caller frees. NULL and *rc when it fails. */
static inline char *app_rows(sqlite3 *db, const char *sql, int *rc) {
    sqlite3_stmt *q = NULL;
    size_t cap = 4096, len = 0;
    char *out = calloc(1, cap);
    assert_non_null(out);
    *rc = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    while (*rc == SQLITE_OK && (*rc = sqlite3_step(q)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(q); i++) {
            const char *p = (const char *)sqlite3_column_text(q, i);
            size_t need = (p ? strlen(p) : 0) + 4;
            if (len + need + 2 > cap)
                assert_non_null(out = realloc(out, cap = 2 * cap + need));
            len += (size_t)snprintf(out + len, cap - len, "%c%s|",
                                    "?ifstbn"[sqlite3_column_type(q, i) == SQLITE_TEXT   ? 4
                                              : sqlite3_column_type(q, i) == SQLITE_BLOB ? 5
                                              : sqlite3_column_type(q, i) == SQLITE_NULL ? 6
                                                                                         : sqlite3_column_type(q, i)],
                                    p ? p : "");
        }
        out[len++] = ';';
        out[len] = 0;
        *rc = SQLITE_OK;
    }
    if (*rc == SQLITE_DONE)
        *rc = SQLITE_OK;
    int rc2 = sqlite3_finalize(q);
    *rc = *rc ? *rc : rc2;
    return out;
}

static inline int64_t app_int(sqlite3 *db, const char *sql) {
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK || sqlite3_step(q) != SQLITE_ROW)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    int64_t v = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return v;
}

static inline void assert_rows(sqlite3 *db, const char *sql, const char *want) {
    int rc;
    char *got = app_rows(db, sql, &rc);
    if (rc != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    assert_string_equal(got, want);
    free(got);
}

static inline int64_t clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

#endif
