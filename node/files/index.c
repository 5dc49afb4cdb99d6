#include "node/files/index.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sqlite3.h>
#include <unistd.h>

#include "node/store/appfile.h"
#include "node/store/sql.h"
#include "proto/err.h"

#define BUSY_MS 10000
#define CHECKPOINT_WRITES 5000
#define SAME_FILE_MAX 64 /* paths of one file that are looked at: hard links */

static const char SCHEMA[] = "CREATE TABLE IF NOT EXISTS file(path BLOB NOT NULL PRIMARY KEY, content BLOB, mode INTEGER);"
                             "CREATE TABLE IF NOT EXISTS conflict(id BLOB NOT NULL PRIMARY KEY, path BLOB, copy BLOB, winner BLOB, loser "
                             "BLOB, decided INTEGER);";
static const char LOCAL_SCHEMA[] =
    "CREATE TABLE IF NOT EXISTS local.disk(path BLOB NOT NULL PRIMARY KEY, version BLOB, mode INTEGER, size INTEGER, mtime INTEGER, "
    "ctime INTEGER, ino INTEGER, dev INTEGER, there INTEGER) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS local.disk_ino ON disk(ino);"
    "CREATE TABLE IF NOT EXISTS local.kept(id INTEGER PRIMARY KEY, path BLOB, name TEXT, version BLOB, at INTEGER);"
    "CREATE INDEX IF NOT EXISTS local.kept_path ON kept(path);"
    "CREATE INDEX IF NOT EXISTS local.kept_name ON kept(name);"
    "CREATE TABLE IF NOT EXISTS local.deleted(path BLOB NOT NULL PRIMARY KEY, version BLOB, at INTEGER) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS local.halted(path BLOB NOT NULL PRIMARY KEY);"
    "CREATE TABLE IF NOT EXISTS local.meta(key TEXT NOT NULL PRIMARY KEY, value INTEGER);";

/* STATEMENT(name, text) */
#define STATEMENTS(X)                                                                                                                      \
    X(get, "SELECT content, mode FROM main.file WHERE path = ?")                                                                           \
    X(put, "INSERT INTO main.file(path, content, mode) VALUES (?, ?, ?) ON CONFLICT(path) DO UPDATE SET content = excluded.content, "      \
           "mode = excluded.mode")                                                                                                         \
    X(disk, "SELECT version, mode, size, mtime, ctime, ino, dev FROM local.disk WHERE path = ?")                                           \
    X(disk_put, "INSERT OR REPLACE INTO local.disk(path, version, mode, size, mtime, ctime, ino, dev, there) VALUES "                      \
                "(?, ?, ?, ?, ?, ?, ?, ?, ?)")                                                                                             \
    X(disk_drop, "DELETE FROM local.disk WHERE path = ?")                                                                                  \
    X(differing, "SELECT f.path FROM main.file f LEFT JOIN local.disk d ON d.path = f.path WHERE f.path > ? AND (d.version IS NOT "        \
                 "f.content OR (d.mode IS NOT f.mode AND d.there)) ORDER BY f.path LIMIT ?")                                               \
    X(deleted, "SELECT version FROM local.deleted WHERE path = ?")                                                                         \
    X(deleted_put, "INSERT OR REPLACE INTO local.deleted(path, version, at) VALUES (?, ?, ?)")                                             \
    X(deleted_tidy, "DELETE FROM local.deleted WHERE at < ?")                                                                              \
    X(on_disk, "SELECT path FROM local.disk WHERE path > ? AND there ORDER BY path LIMIT ?")                                               \
    X(paths, "SELECT path FROM main.file WHERE path > ? ORDER BY path LIMIT ?")                                                            \
    X(living, "SELECT path FROM main.file WHERE path > ? AND substr(content, 2, 1) <> X'00' ORDER BY path LIMIT ?")                        \
    X(disk_inode, "SELECT path FROM local.disk WHERE ino = ? AND dev = ? AND there")                                                       \
    X(disk_stamp, "SELECT path FROM local.disk WHERE ino = ? AND dev = ? AND there AND size = ? AND mtime = ?")                            \
    X(keep, "INSERT INTO local.kept(path, name, version, at) VALUES (?, ?, ?, ?)")                                                         \
    X(kept, "SELECT id, path, name, version, at FROM local.kept WHERE path = ?1 OR ?1 IS NULL ORDER BY id DESC LIMIT ?2")                  \
    X(kept_named, "SELECT 1 FROM local.kept WHERE name = ?")                                                                               \
    X(kept_is, "UPDATE local.kept SET version = ? WHERE name = ?")                                                                         \
    X(kept_drop, "DELETE FROM local.kept WHERE id = ?")                                                                                    \
    X(conflict_add, "INSERT INTO main.conflict(id, path, copy, winner, loser, decided) VALUES (?, ?, ?, ?, ?, 0) "                         \
                    "ON CONFLICT(id) DO NOTHING")                                                                                          \
    X(conflict_decide, "UPDATE main.conflict SET decided = 1 WHERE id = ?")                                                                \
    X(conflicts, "SELECT id, path, copy, winner, loser, decided FROM main.conflict WHERE NOT decided ORDER BY path, id")                   \
    X(meta, "SELECT value FROM local.meta WHERE key = ?")                                                                                  \
    X(meta_put, "INSERT OR REPLACE INTO local.meta(key, value) VALUES (?, ?)")                                                             \
    X(halt, "INSERT OR IGNORE INTO local.halted(path) VALUES (?)")                                                                         \
    X(unhalt, "DELETE FROM local.halted WHERE path = ?")                                                                                   \
    X(halted_list, "SELECT path FROM local.halted ORDER BY path")

struct index {
    sqlite3 *db;
    struct index_sums sums;
    uint32_t written; /* since the last checkpoint of local.db */
    bool halted;      /* there is one */
    bool begun;       /* a transaction; SQLite takes it back by itself if it meets a full disk in the midst of it */
#define X(name, text) sqlite3_stmt *name;
    STATEMENTS(X)
#undef X
};

/* ---- opening */

static int refuse(char *why, size_t why_len, const char *path, sqlite3 *db, int r) {
    snprintf(why, why_len, "%s: %s", path,
             db != NULL && r != ERR_FULL ? sqlite3_errmsg(db) : err_text(r)); /* "disk I/O error" for a -shm */
    return r;
}

static void remove_database(const char *path) {
    static const char *const ENDS[] = {"", "-wal", "-shm"};
    char name[4096];
    for (int i = 0; i < 3; i++)
        if (snprintf(name, sizeof(name), "%s%s", path, ENDS[i]) < (int)sizeof(name))
            unlink(name);
}

static int open_plain(sqlite3 **db, const char *path) {
    int r = sqlite3_open_v2(path, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (r != SQLITE_OK)
        return appfile_error(r);
    sqlite3_busy_timeout(*db, BUSY_MS);
    sqlite3_extended_result_codes(*db, 1);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return sql_exec(*db, "PRAGMA main.journal_mode=WAL; PRAGMA main.synchronous=NORMAL; PRAGMA wal_autocheckpoint=0");
}

int index_prepare(const char *state, bool fresh, char *path, size_t path_len, char *why, size_t why_len) {
    char local[4096];
    sqlite3 *db = NULL;
    if (snprintf(path, path_len, "%s/files.db", state) >= (int)path_len ||
        snprintf(local, sizeof(local), "%s/local.db", state) >= (int)sizeof(local))
        return refuse(why, why_len, state, NULL, ERR_TOOBIG);
    if (fresh) {
        remove_database(path);
        remove_database(local);
    }
    int r = open_plain(&db, path);
    if (r == 0)
        r = sql_exec(db, "%s", SCHEMA);
    if (r != 0)
        refuse(why, why_len, path, db, r);
    sqlite3_close(db);
    return r;
}

static int statements(struct index *ix) {
    int r = 0;
#define X(name, text) r = r != 0 ? r : sql_prepare(ix->db, &ix->name, "%s", text);
    STATEMENTS(X)
#undef X
    return r;
}

static void sum(struct index *ix, const char *path, const struct version *v, bool add) {
    crypto_generichash_state h;
    uint64_t item[2];
    uint8_t kind = (uint8_t)v->kind;
    if (v->kind == VERSION_GONE)
        return;
    crypto_generichash_init(&h, NULL, 0, sizeof(item));
    crypto_generichash_update(&h, (const uint8_t *)path, strlen(path) + 1);
    crypto_generichash_update(&h, &kind, 1);
    if (v->kind == VERSION_FILE)
        crypto_generichash_update(&h, v->hash, sizeof(v->hash));
    else if (v->kind == VERSION_LINK)
        crypto_generichash_update(&h, (const uint8_t *)v->target, strlen(v->target));
    crypto_generichash_final(&h, (uint8_t *)item, sizeof(item));
    for (int i = 0; i < 2; i++)
        ix->sums.digest[i] += add ? item[i] : -item[i];
    if (v->kind == VERSION_FOLDER)
        return;
    ix->sums.files += add ? 1 : (uint64_t)-1;
    ix->sums.bytes += add ? v->size : -v->size;
}

static char *path_column(sqlite3_stmt *s, int at) {
    const void *p = sqlite3_column_blob(s, at);
    size_t n = (size_t)sqlite3_column_bytes(s, at);
    return p == NULL || memchr(p, 0, n) != NULL ? NULL : strndup(p, n); /* what is no path is nobody's */
}

static bool version_column(sqlite3_stmt *s, int at, struct version *v) {
    const void *p = sqlite3_column_blob(s, at);
    return p != NULL && version_read(v, p, (size_t)sqlite3_column_bytes(s, at)) == 0;
}

static int sum_all(struct index *ix) {
    sqlite3_stmt *s;
    struct version v;
    int r = sql_prepare(ix->db, &s, "SELECT path, version FROM local.disk WHERE there");
    while (r == 0 && (r = sql_step(s)) == 1) {
        char *path = path_column(s, 0);
        if (path != NULL && version_column(s, 1, &v))
            sum(ix, path, &v, true);
        free(path);
        r = 0;
    }
    sqlite3_finalize(s);
    return r;
}

int index_open(struct index **out, const char *state, char *why, size_t why_len) {
    struct index *ix = calloc(1, sizeof(*ix));
    char path[4096], local[4096];
    int r = ix == NULL ? ERR_NOMEM : 0;
    *out = NULL;
    snprintf(path, sizeof(path), "%s/files.db", state);
    snprintf(local, sizeof(local), "%s/local.db", state);
    for (int tries = 0; r == 0 && tries < 2; tries++) { /* local.db holds nothing that reading the files again would not tell */
        if ((r = open_plain(&ix->db, path)) == 0)
            r = sql_exec(ix->db, "ATTACH %Q AS local", local);
        if (r == 0)
            r = sql_exec(ix->db, "PRAGMA local.locking_mode=EXCLUSIVE; PRAGMA local.journal_mode=WAL; PRAGMA local.synchronous=NORMAL; "
                                 "PRAGMA local.cache_size=-4096");
        if (r == 0)
            r = sql_exec(ix->db, "%s", LOCAL_SCHEMA);
        if (r == 0 && (r = statements(ix)) == 0 && (r = sum_all(ix)) == 0)
            break;
        refuse(why, why_len, path, ix->db, r);
        if (tries > 0 || (r != ERR_CORRUPT && r != ERR_NOTDB))
            break;
#define X(name, text) sqlite3_finalize(ix->name);
        STATEMENTS(X)
#undef X
        sqlite3_close(ix->db);
        memset(ix, 0, sizeof(*ix));
        remove_database(local);
        r = 0;
    }
    if (r != 0) {
        index_close(ix);
        return r;
    }
    index_is_halted(ix, NULL);
    *out = ix;
    return 0;
}

void index_close(struct index *ix) {
    if (ix == NULL)
        return;
#define X(name, text) sqlite3_finalize(ix->name);
    STATEMENTS(X)
#undef X
    sqlite3_close(ix->db);
    free(ix);
}

/* ---- transactions */

static bool in_transaction(const struct index *ix) { return sqlite3_get_autocommit(ix->db) == 0; }

bool index_begun(const struct index *ix) { return ix->begun; }

int index_begin(struct index *ix) {
    if (ix->begun)
        return in_transaction(ix) ? 0 : ERR_FULL; /* half of a transaction is none */
    int r = sql_exec(ix->db, "BEGIN IMMEDIATE");
    ix->begun = r == 0;
    return r;
}

int index_commit(struct index *ix) {
    if (!ix->begun)
        return 0;
    int r = in_transaction(ix) ? sql_exec(ix->db, "COMMIT") : ERR_FULL;
    if (r != 0 && in_transaction(ix))
        (void)sql_exec(ix->db, "ROLLBACK");
    ix->begun = false;
    if (r != 0) { /* what was counted, and noted, is not there */
        memset(&ix->sums, 0, sizeof(ix->sums));
        (void)sum_all(ix);
        index_is_halted(ix, NULL);
    } else if (ix->written > CHECKPOINT_WRITES) {
        index_tidy(ix);
    }
    return r;
}

static void bind_path(sqlite3_stmt *s, int at, const char *path) {
    if (path == NULL)
        sqlite3_bind_null(s, at);
    else
        sqlite3_bind_blob(s, at, path, (int)strlen(path), SQLITE_TRANSIENT);
}

static void bind_version(sqlite3_stmt *s, int at, const struct version *v) {
    uint8_t bytes[VERSION_BYTES_MAX];
    sqlite3_bind_blob(s, at, bytes, (int)version_write(v, bytes), SQLITE_TRANSIENT);
}

/* ---- file and disk */

int index_get(struct index *ix, const char *path, struct version *v, int *mode) {
    bind_path(ix->get, 1, path);
    int r = sql_step(ix->get);
    if (r == 1) {
        if (mode != NULL)
            *mode = sqlite3_column_int(ix->get, 1);
        if (!version_column(ix->get, 0, v))
            r = ERR_MALFORMED;
    }
    sqlite3_reset(ix->get);
    return r;
}

int index_put(struct index *ix, const char *path, const struct version *v, int mode) {
    int r = index_begin(ix);
    bind_path(ix->put, 1, path);
    bind_version(ix->put, 2, v);
    sqlite3_bind_int(ix->put, 3, mode);
    return r != 0 ? r : sql_run(ix->put);
}

int index_disk(struct index *ix, const char *path, struct disk *d) {
    sqlite3_stmt *s = ix->disk;
    bind_path(s, 1, path);
    int r = sql_step(s);
    if (r == 1) {
        if (!version_column(s, 0, &d->version))
            r = 0;
        d->mode = sqlite3_column_int(s, 1);
        d->stamp = (struct content_stamp){.size = (uint64_t)sqlite3_column_int64(s, 2),
                                          .mtime_ns = sqlite3_column_int64(s, 3),
                                          .ctime_ns = sqlite3_column_int64(s, 4),
                                          .inode = (uint64_t)sqlite3_column_int64(s, 5),
                                          .device = (uint64_t)sqlite3_column_int64(s, 6)};
    }
    sqlite3_reset(s);
    return r;
}

int index_disk_drop(struct index *ix, const char *path) {
    struct disk before;
    int r = index_begin(ix), found = r != 0 ? r : index_disk(ix, path, &before);
    if (found != 1)
        return found;
    bind_path(ix->disk_drop, 1, path);
    if ((r = sql_run(ix->disk_drop)) == 0)
        sum(ix, path, &before.version, false);
    return r;
}

int index_disk_put(struct index *ix, const char *path, const struct disk *d) {
    sqlite3_stmt *s = ix->disk_put;
    struct disk before;
    int r = index_begin(ix), found = r != 0 ? r : index_disk(ix, path, &before);
    if (found < 0)
        return found;
    const int64_t numbers[] = {(int64_t)d->stamp.size,  d->stamp.mtime_ns,        d->stamp.ctime_ns,
                               (int64_t)d->stamp.inode, (int64_t)d->stamp.device, d->version.kind != VERSION_GONE};
    bind_path(s, 1, path);
    bind_version(s, 2, &d->version);
    sqlite3_bind_int(s, 3, d->mode);
    for (int i = 0; i < 6; i++)
        sqlite3_bind_int64(s, 4 + i, numbers[i]);
    if ((r = sql_run(s)) != 0)
        return r;
    if (found == 1)
        sum(ix, path, &before.version, false);
    sum(ix, path, &d->version, true);
    ix->written++;
    return 0;
}

int index_deleted_put(struct index *ix, const char *path, const struct version *v, uint64_t at_ms) {
    int r = index_begin(ix);
    bind_path(ix->deleted_put, 1, path);
    bind_version(ix->deleted_put, 2, v);
    sqlite3_bind_int64(ix->deleted_put, 3, (int64_t)at_ms);
    return r != 0 ? r : sql_run(ix->deleted_put);
}

int index_deleted(struct index *ix, const char *path, struct version *v) {
    bind_path(ix->deleted, 1, path);
    int r = sql_step(ix->deleted);
    if (r == 1 && !version_column(ix->deleted, 0, v))
        r = 0;
    sqlite3_reset(ix->deleted);
    return r;
}

int index_deleted_tidy(struct index *ix, uint64_t before_ms) {
    int r = index_begin(ix);
    sqlite3_bind_int64(ix->deleted_tidy, 1, (int64_t)before_ms);
    return r != 0 ? r : sql_run(ix->deleted_tidy);
}

/* The statement is at rest when `each` runs: it may write. */
static int page(sqlite3_stmt *s, char **after, index_each each, void *ctx) {
    char *paths[INDEX_PAGE];
    int n = 0, r;
    bind_path(s, 1, *after);
    sqlite3_bind_int(s, 2, INDEX_PAGE);
    if (**after == 0)
        sqlite3_bind_zeroblob(s, 1, 0);
    while ((r = sql_step(s)) == 1) {
        const void *p = sqlite3_column_blob(s, 0);
        size_t len = (size_t)sqlite3_column_bytes(s, 0);
        if (p != NULL && (paths[n] = strndup(p, len)) != NULL)
            n++;
    }
    sqlite3_reset(s);
    for (int i = 0; i < n; i++)
        each(ctx, paths[i]);
    if (n > 0) {
        free(*after);
        *after = paths[n - 1];
    }
    for (int i = 0; i + 1 < n; i++)
        free(paths[i]);
    return r < 0 ? r : n;
}

int index_differing(struct index *ix, char **after, index_each each, void *ctx) { return page(ix->differing, after, each, ctx); }
int index_on_disk(struct index *ix, char **after, index_each each, void *ctx) { return page(ix->on_disk, after, each, ctx); }
int index_paths(struct index *ix, char **after, index_each each, void *ctx) { return page(ix->paths, after, each, ctx); }

int index_living(struct index *ix, char **after, index_each each, void *ctx) { return page(ix->living, after, each, ctx); }

/* The bound statement gives paths. It is at rest when `each` runs: that may ask for the same. */
static int each_path(sqlite3_stmt *s, index_each each, void *ctx) {
    char *paths[SAME_FILE_MAX];
    int n = 0, r;
    while ((r = sql_step(s)) == 1 && n < SAME_FILE_MAX)
        if ((paths[n] = path_column(s, 0)) != NULL)
            n++;
    sqlite3_reset(s);
    for (int i = 0; i < n; i++) {
        each(ctx, paths[i]);
        free(paths[i]);
    }
    return r;
}

int index_disk_inode(struct index *ix, uint64_t inode, uint64_t device, index_each each, void *ctx) {
    sqlite3_bind_int64(ix->disk_inode, 1, (int64_t)inode);
    sqlite3_bind_int64(ix->disk_inode, 2, (int64_t)device);
    return each_path(ix->disk_inode, each, ctx);
}

int index_disk_stamp(struct index *ix, const struct content_stamp *stamp, index_each each, void *ctx) {
    sqlite3_stmt *s = ix->disk_stamp;
    sqlite3_bind_int64(s, 1, (int64_t)stamp->inode);
    sqlite3_bind_int64(s, 2, (int64_t)stamp->device);
    sqlite3_bind_int64(s, 3, (int64_t)stamp->size);
    sqlite3_bind_int64(s, 4, stamp->mtime_ns);
    return each_path(s, each, ctx);
}

/* ---- kept versions */

int index_keep(struct index *ix, const char *path, const char *name, const struct version *v, uint64_t at_ms) {
    int r = index_begin(ix);
    bind_path(ix->keep, 1, path);
    sqlite3_bind_text(ix->keep, 2, name, -1, SQLITE_TRANSIENT);
    bind_version(ix->keep, 3, v);
    sqlite3_bind_int64(ix->keep, 4, (int64_t)at_ms);
    return r != 0 ? r : sql_run(ix->keep);
}

int index_kept(struct index *ix, const char *path, uint32_t max, void (*each)(void *ctx, const struct kept *k), void *ctx) {
    sqlite3_stmt *s = ix->kept;
    int r;
    bind_path(s, 1, path);
    sqlite3_bind_int64(s, 2, max);
    while ((r = sql_step(s)) == 1) {
        struct kept k = {.id = sqlite3_column_int64(s, 0), .path = path_column(s, 1), .at_ms = (uint64_t)sqlite3_column_int64(s, 4)};
        const char *name = (const char *)sqlite3_column_text(s, 2);
        k.name = name == NULL ? NULL : strdup(name);
        if (k.path != NULL && k.name != NULL && version_column(s, 3, &k.version))
            each(ctx, &k);
        free(k.path);
        free(k.name);
    }
    sqlite3_reset(s);
    return r;
}

int index_kept_named(struct index *ix, const char *name) {
    sqlite3_bind_text(ix->kept_named, 1, name, -1, SQLITE_TRANSIENT);
    int r = sql_step(ix->kept_named);
    sqlite3_reset(ix->kept_named);
    return r;
}

int index_kept_is(struct index *ix, const char *name, const struct version *v) {
    int r = index_begin(ix);
    bind_version(ix->kept_is, 1, v);
    sqlite3_bind_text(ix->kept_is, 2, name, -1, SQLITE_TRANSIENT);
    return r != 0 ? r : sql_run(ix->kept_is);
}

int index_kept_drop(struct index *ix, int64_t id) {
    int r = index_begin(ix);
    sqlite3_bind_int64(ix->kept_drop, 1, id);
    return r != 0 ? r : sql_run(ix->kept_drop);
}

/* ---- conflicts */

int index_conflict_add(struct index *ix, const struct conflict *c) {
    sqlite3_stmt *s = ix->conflict_add;
    int r = index_begin(ix);
    sqlite3_bind_blob(s, 1, c->id, CONFLICT_ID_BYTES, SQLITE_TRANSIENT);
    bind_path(s, 2, c->path);
    bind_path(s, 3, c->copy);
    bind_version(s, 4, &c->winner);
    bind_version(s, 5, &c->loser);
    if (r != 0 || (r = sql_run(s)) != 0)
        return r;
    return sqlite3_changes(ix->db) == 0;
}

int index_conflict_decide(struct index *ix, const uint8_t id[CONFLICT_ID_BYTES]) {
    int r = index_begin(ix);
    sqlite3_bind_blob(ix->conflict_decide, 1, id, CONFLICT_ID_BYTES, SQLITE_TRANSIENT);
    return r != 0 ? r : sql_run(ix->conflict_decide);
}

int index_conflicts(struct index *ix, void (*each)(void *ctx, const struct conflict *c), void *ctx) {
    sqlite3_stmt *s = ix->conflicts;
    int r;
    while ((r = sql_step(s)) == 1) {
        struct conflict c = {.path = path_column(s, 1), .copy = path_column(s, 2)};
        if (sqlite3_column_bytes(s, 0) == CONFLICT_ID_BYTES && c.path != NULL && version_column(s, 3, &c.winner) &&
            version_column(s, 4, &c.loser)) {
            memcpy(c.id, sqlite3_column_blob(s, 0), CONFLICT_ID_BYTES);
            each(ctx, &c);
        }
        free(c.path);
        free(c.copy);
    }
    sqlite3_reset(s);
    return r;
}

static void count_one(void *ctx, const struct conflict *c) {
    (void)c;
    ++*(uint64_t *)ctx;
}

uint64_t index_conflicts_count(struct index *ix) {
    uint64_t n = 0;
    (void)index_conflicts(ix, count_one, &n);
    return n;
}

/* ---- meta, halted folders */

int64_t index_meta(struct index *ix, const char *key, int64_t none) {
    sqlite3_bind_text(ix->meta, 1, key, -1, SQLITE_TRANSIENT);
    int64_t value = sql_step(ix->meta) == 1 ? sqlite3_column_int64(ix->meta, 0) : none;
    sqlite3_reset(ix->meta);
    return value;
}

int index_meta_put(struct index *ix, const char *key, int64_t value) {
    int r = index_begin(ix);
    sqlite3_bind_text(ix->meta_put, 1, key, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(ix->meta_put, 2, value);
    return r != 0 ? r : sql_run(ix->meta_put);
}

int index_halt(struct index *ix, const char *folder, bool on) {
    sqlite3_stmt *s = on ? ix->halt : ix->unhalt;
    int r = index_begin(ix);
    bind_path(s, 1, folder);
    if (folder[0] == 0)
        sqlite3_bind_zeroblob(s, 1, 0);
    r = r != 0 ? r : sql_run(s);
    index_is_halted(ix, NULL);
    return r;
}

int index_halted(struct index *ix, index_each each, void *ctx) {
    int r;
    while ((r = sql_step(ix->halted_list)) == 1) {
        const void *p = sqlite3_column_blob(ix->halted_list, 0);
        char *folder = strndup(p != NULL ? p : "", (size_t)sqlite3_column_bytes(ix->halted_list, 0));
        if (folder != NULL)
            each(ctx, folder);
        free(folder);
    }
    sqlite3_reset(ix->halted_list);
    return r;
}

struct halted_look {
    const char *path;
    bool any, found;
};

static void look_halted(void *ctx, const char *folder) {
    struct halted_look *l = ctx;
    size_t n = strlen(folder);
    l->any = true;
    if (l->path != NULL && (n == 0 || (strncmp(l->path, folder, n) == 0 && (l->path[n] == '/' || l->path[n] == 0))))
        l->found = true;
}

bool index_is_halted(struct index *ix, const char *path) {
    struct halted_look l = {.path = path};
    if (path != NULL && !ix->halted)
        return false;
    (void)index_halted(ix, look_halted, &l);
    ix->halted = l.any;
    return l.found;
}

bool index_any_halted(const struct index *ix) { return ix->halted; }

const struct index_sums *index_sums(const struct index *ix) { return &ix->sums; }

void index_tidy(struct index *ix) {
    if (ix->begun)
        return;
    if (ix->written > 0)
        (void)sqlite3_wal_checkpoint_v2(ix->db, "local", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL); /* files.db is its worker's to tidy up */
    ix->written = 0;
    sqlite3_db_release_memory(ix->db);
}
