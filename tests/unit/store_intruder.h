/* For the tests of the store: the application commits between two statements of the store. */
#ifndef TESTS_UNIT_STORE_INTRUDER_H
#define TESTS_UNIT_STORE_INTRUDER_H

#include "store_scratch.h"

/* Just before the statement with this number that a store runs on the application's file, the application runs one of its own:
 * refused at once when the file is locked, or when there is no such table yet. */
static struct {
    const char *path, *sql;
    uint32_t at, count;
    bool busy, done;
} intruder;

static inline int intrude(unsigned what, void *ctx, void *stmt, void *text) {
    sqlite3 *app;
    const char *file = sqlite3_db_filename(ctx, "main");
    (void)what;
    (void)stmt;
    (void)text;
    if (intruder.busy || !file || strcmp(file, intruder.path) != 0 || ++intruder.count != intruder.at)
        return 0;
    intruder.busy = true;
    assert_int_equal(sqlite3_open_v2(intruder.path, &app, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    intruder.done = sqlite3_exec(app, intruder.sql, NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(app);
    intruder.busy = false;
    return 0;
}

static inline int intrude_here(sqlite3 *db, char **error, const void *api) {
    (void)error;
    (void)api;
    return sqlite3_trace_v2(db, SQLITE_TRACE_STMT, intrude, db);
}

/* For every connection that is opened from now on. */
static inline void intruder_begin(const char *path, const char *sql, uint32_t at) {
    memset(&intruder, 0, sizeof intruder);
    intruder.path = path;
    intruder.sql = sql;
    intruder.at = at;
    assert_int_equal(sqlite3_auto_extension((void (*)(void))intrude_here), SQLITE_OK);
}

/* False: there were fewer statements. The connections that are still open are left alone from now on. */
static inline bool intruder_end(void) {
    bool reached = intruder.count >= intruder.at;
    sqlite3_reset_auto_extension();
    intruder.at = 0;
    return reached;
}

#endif
