/* States that were set aside: beside the one that took their place, with all that they knew. The first one stays, since only it holds what came
 * before; of the others the last, and the one that served the file last: what the file shows is to be understood by it (before.c). */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "node/store/afar_state.h"
#include "node/store/sql.h"
#include "proto/err.h"

static const char *const NAMES[] = {"before-join", "before-join.2", "before-join.3"};
#define NAMES_COUNT (sizeof NAMES / sizeof *NAMES)

static int path_of(const char *state_path, size_t i, const char *part, char path[PATH_MAX]) {
    return snprintf(path, PATH_MAX, "%s.%s%s", state_path, NAMES[i], part) < PATH_MAX ? 0 : ERR_TOOBIG;
}

static bool has_id(sqlite3 *db, const uint8_t id[16]) {
    sqlite3_stmt *q = NULL;
    bool is = sql_prepare(db, &q, "SELECT v FROM meta WHERE k='id'") == 0 && sql_step(q) == 1 && sqlite3_column_bytes(q, 0) == 16 &&
              memcmp(sqlite3_column_blob(q, 0), id, 16) == 0;
    sqlite3_finalize(q);
    return is;
}

/* What cannot be read is not the one: as if it were not there. */
static int open_if(const char *path, const char *vfs, const uint8_t id[16], sqlite3 **out) {
    sqlite3 *db = NULL;
    *out = NULL;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, vfs);
    if (rc == SQLITE_OK && has_id(db, id))
        *out = db;
    else
        sqlite3_close(db);
    return rc == SQLITE_NOMEM ? ERR_NOMEM : 0;
}

int aside_find(const char *state_path, const char *vfs, const uint8_t id[16], sqlite3 **out) {
    char path[PATH_MAX];
    int err = 0;
    *out = NULL;
    for (size_t i = 0; i < NAMES_COUNT && !err && !*out; i++)
        if (!(err = path_of(state_path, i, "", path)))
            err = open_if(path, vfs, id, out);
    return err;
}

/* Is it the one that served the file last? */
static bool served(const char *path, const char *app_path) {
    sqlite3 *app = NULL, *state = NULL;
    struct capture_mark mark = {0};
    if (sqlite3_open_v2(app_path, &app, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK && capture_mark_read(app, &mark) == 0 && mark.found)
        (void)open_if(path, NULL, mark.state, &state);
    sqlite3_close(app);
    sqlite3_close(state);
    return state != NULL;
}

int store_set_aside(const char *state_path, const char *app_path) {
    static const char *const PARTS[] = {"-wal", "-shm", ""}; /* the database last: until then it is the state */
    char from[PATH_MAX], to[PATH_MAX];
    size_t name = 0;
    if (path_of(state_path, 0, "", to))
        return ERR_TOOBIG;
    if (access(to, F_OK) == 0)
        name = path_of(state_path, 1, "", to) == 0 && served(to, app_path) ? 2 : 1;
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
        if (snprintf(from, sizeof from, "%s%s", state_path, PARTS[i]) >= (int)sizeof from || path_of(state_path, name, PARTS[i], to))
            return ERR_TOOBIG;
        if (rename(from, to) == 0)
            continue;
        if (errno != ENOENT)
            return ERR_IO;
        if (*PARTS[i] && unlink(to) != 0 && errno != ENOENT) /* of another one, which is about to be replaced */
            return ERR_IO;
    }
    return 0;
}
