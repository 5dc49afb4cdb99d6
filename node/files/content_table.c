#include "node/files/content_table.h"

#include <assert.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/files/chunker.h"
#include "proto/err.h"

#define TABLE_VERSION 1

static const char SCHEMA[] =
    "CREATE TABLE content (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, list BLOB NOT NULL);"
    "CREATE TABLE file (root INTEGER, path BLOB, content INTEGER NOT NULL, size INTEGER, inode INTEGER, device INTEGER,"
    " mtime INTEGER, ctime INTEGER, PRIMARY KEY (root, path)) WITHOUT ROWID;"
    "CREATE INDEX file_content ON file (content);"
    "CREATE TABLE chunk (key INTEGER, content INTEGER, i INTEGER, PRIMARY KEY (key, content, i)) WITHOUT ROWID;"
    "PRAGMA user_version = 1";

enum statement {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_CONTENT_FIND,
    SQL_CONTENT_ADD,
    SQL_CONTENT_DROP,
    SQL_CONTENT_LIST,
    SQL_CONTENT_CHUNKS,
    SQL_FILE_FIND,
    SQL_FILE_PUT,
    SQL_FILE_DROP,
    SQL_FILE_MOVE,
    SQL_FILE_OF,
    SQL_FILE_ANY,
    SQL_CHUNK_ADD,
    SQL_CHUNK_DROP,
    SQL_CHUNK_FIND,
    SQL_COUNT,
};

static const char *const SQL[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN",
    [SQL_COMMIT] = "COMMIT",
    [SQL_CONTENT_FIND] = "SELECT id FROM content WHERE hash = ?1",
    [SQL_CONTENT_ADD] = "INSERT INTO content (hash, list) VALUES (?1, ?2)",
    [SQL_CONTENT_DROP] = "DELETE FROM content WHERE id = ?1",
    [SQL_CONTENT_LIST] = "SELECT list FROM content WHERE id = ?1",
    [SQL_CONTENT_CHUNKS] = "SELECT length(list) / 36 FROM content WHERE id = ?1", /* SQLite reads no more than the row's head for that */
    [SQL_FILE_FIND] = "SELECT content FROM file WHERE root = ?1 AND path = ?2",
    [SQL_FILE_PUT] = "INSERT OR REPLACE INTO file VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [SQL_FILE_DROP] = "DELETE FROM file WHERE root = ?1 AND path = ?2",
    [SQL_FILE_MOVE] = "UPDATE file SET root = ?3, path = ?4 WHERE root = ?1 AND path = ?2",
    [SQL_FILE_OF] =
        ("SELECT root, path, size, inode, device, mtime, ctime FROM file WHERE content = (SELECT id FROM content WHERE hash = ?1)"
         " LIMIT 1 OFFSET ?2"),
    [SQL_FILE_ANY] = "SELECT 1 FROM file WHERE content = ?1",
    [SQL_CHUNK_ADD] = "INSERT OR IGNORE INTO chunk VALUES (?1, ?2, ?3)",
    [SQL_CHUNK_DROP] = "DELETE FROM chunk WHERE key = ?1 AND content = ?2",
    [SQL_CHUNK_FIND] = "SELECT c.hash, k.i FROM chunk k JOIN content c ON c.id = k.content WHERE k.key = ?1 LIMIT 1",
};

struct content_table {
    sqlite3 *db;
    sqlite3_stmt *sql[SQL_COUNT];
    bool open;   /* a transaction */
    bool forgot; /* something that was to be noted is not */
};

static int error_of(int r) {
    switch (r & 0xff) {
    case SQLITE_FULL: return ERR_FULL;
    case SQLITE_NOMEM: return ERR_NOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return ERR_CORRUPT;
    default: return ERR_IO;
    }
}

/* Runs a statement that gives nothing. */
static int run(struct content_table *t, enum statement s) {
    int r = sqlite3_step(t->sql[s]);
    sqlite3_reset(t->sql[s]);
    sqlite3_clear_bindings(t->sql[s]);
    if (r == SQLITE_DONE || r == SQLITE_ROW)
        return 0;
    t->forgot = true;
    return error_of(r);
}

static void finish(sqlite3_stmt *s) {
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
}

static void bind_bytes(sqlite3_stmt *s, int i, const void *p, size_t len) {
    sqlite3_bind_blob64(s, i, len == 0 ? "" : p, len, SQLITE_STATIC);
}

static void bind_path(sqlite3_stmt *s, int i, uint32_t root, const char *path) {
    sqlite3_bind_int64(s, i, root);
    bind_bytes(s, i + 1, path, strlen(path));
}

static int begin(struct content_table *t) {
    if (t->open && sqlite3_get_autocommit(t->db)) /* a full disk took it back */
        t->open = false, t->forgot = true;
    if (t->open)
        return 0;
    int r = run(t, SQL_BEGIN);
    t->open = r == 0;
    return r;
}

void table_commit(struct content_table *t) {
    if (t->open && run(t, SQL_COMMIT) != 0 && !sqlite3_get_autocommit(t->db))
        sqlite3_exec(t->db, "ROLLBACK", NULL, NULL, NULL);
    t->open = false;
}

bool table_forgot(struct content_table *t) {
    bool forgot = t->forgot;
    t->forgot = false;
    return forgot;
}

void table_rest(struct content_table *t) { sqlite3_db_release_memory(t->db); }

bool table_dirty(const struct content_table *t) { return t->open; }

/* ---- life */

static int prepare(struct content_table *t, const char *path) {
    sqlite3_stmt *version = NULL;
    int found = -1, r;
    if (sqlite3_open_v2(path, &t->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return ERR_IO;
    sqlite3_exec(t->db,
                 "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096; PRAGMA locking_mode = EXCLUSIVE", NULL,
                 NULL, NULL);
    if ((r = sqlite3_prepare_v2(t->db, "PRAGMA user_version", -1, &version, NULL)) == SQLITE_OK &&
        (r = sqlite3_step(version)) == SQLITE_ROW)
        found = sqlite3_column_int(version, 0);
    sqlite3_finalize(version);
    if (found == -1)
        return error_of(r); /* a full disk is no reason to begin anew */
    if (found != 0 && found != TABLE_VERSION)
        return ERR_CORRUPT;
    r = found == TABLE_VERSION ? SQLITE_OK : sqlite3_exec(t->db, SCHEMA, NULL, NULL, NULL);
    if (r != SQLITE_OK)
        return r == SQLITE_ERROR ? ERR_CORRUPT : error_of(r);
    if (found == TABLE_VERSION) /* learnt, and then never put into its place */
        sqlite3_exec(t->db, "DELETE FROM content WHERE id NOT IN (SELECT content FROM file)", NULL, NULL, NULL);
    for (int i = 0; i < SQL_COUNT; i++)
        if ((r = sqlite3_prepare_v3(t->db, SQL[i], -1, SQLITE_PREPARE_PERSISTENT, &t->sql[i], NULL)) != SQLITE_OK)
            return r == SQLITE_ERROR ? ERR_CORRUPT : error_of(r);
    return 0;
}

void table_close(struct content_table *t) {
    if (t == NULL)
        return;
    if (t->db != NULL)
        table_commit(t);
    for (int i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(t->sql[i]);
    sqlite3_close(t->db);
    free(t);
}

static void remove_files(const char *path) {
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    char name[4096];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
}

int table_open(struct content_table **out, const char *path) {
    int r = ERR_NOMEM;
    for (int attempt = 0; attempt < 2; attempt++) {
        struct content_table *t = calloc(1, sizeof *t);
        if (t == NULL)
            return ERR_NOMEM;
        r = prepare(t, path);
        if (r == 0) {
            *out = t;
            return 0;
        }
        table_close(t);
        if (r != ERR_CORRUPT)
            break;
        remove_files(path);
    }
    return r;
}

/* ---- contents */

static int64_t find_content(struct content_table *t, const uint8_t *hash) {
    sqlite3_stmt *s = t->sql[SQL_CONTENT_FIND];
    bind_bytes(s, 1, hash, CONTENT_HASH_BYTES);
    int64_t id = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    finish(s);
    return id;
}

static int64_t key_of(const uint8_t *chunk) {
    int64_t key;
    memcpy(&key, chunk, sizeof key);
    return key;
}

static int list_of(struct content_table *t, int64_t id, struct chunklist *out) {
    sqlite3_stmt *s = t->sql[SQL_CONTENT_LIST];
    sqlite3_bind_int64(s, 1, id);
    int r = ERR_NOTFOUND;
    if (sqlite3_step(s) == SQLITE_ROW) {
        int bytes = sqlite3_column_bytes(s, 0);
        r = bytes % ENTRY_BYTES != 0 ? ERR_CORRUPT : chunklist_append(out, sqlite3_column_blob(s, 0), (uint32_t)bytes / ENTRY_BYTES);
    }
    finish(s);
    return r;
}

/* Chunks of a content of one small chunk are not looked for: who has that has the file. */
static bool looked_for(const struct chunklist *list) { return list->count > 1 || list->size > CHUNK_MIN; }

static int64_t add_content(struct content_table *t, const uint8_t *hash, const struct chunklist *list) {
    sqlite3_stmt *s = t->sql[SQL_CONTENT_ADD];
    bind_bytes(s, 1, hash, CONTENT_HASH_BYTES);
    bind_bytes(s, 2, list->entries, (size_t)list->count * ENTRY_BYTES);
    if (run(t, SQL_CONTENT_ADD) != 0)
        return 0;
    int64_t id = sqlite3_last_insert_rowid(t->db);
    s = t->sql[SQL_CHUNK_ADD];
    for (uint32_t i = 0; looked_for(list) && i < list->count; i++) {
        sqlite3_bind_int64(s, 1, key_of(list->entries + (size_t)i * ENTRY_BYTES));
        sqlite3_bind_int64(s, 2, id);
        sqlite3_bind_int64(s, 3, i);
        run(t, SQL_CHUNK_ADD);
    }
    return id;
}

static bool used(struct content_table *t, int64_t id) {
    sqlite3_stmt *s = t->sql[SQL_FILE_ANY];
    sqlite3_bind_int64(s, 1, id);
    bool any = sqlite3_step(s) == SQLITE_ROW;
    finish(s);
    return any;
}

static void drop_unused(struct content_table *t, int64_t id) {
    struct chunklist list;
    if (used(t, id))
        return;
    chunklist_init(&list);
    if (list_of(t, id, &list) == 0 && looked_for(&list))
        for (uint32_t i = 0; i < list.count; i++) {
            sqlite3_bind_int64(t->sql[SQL_CHUNK_DROP], 1, key_of(list.entries + (size_t)i * ENTRY_BYTES));
            sqlite3_bind_int64(t->sql[SQL_CHUNK_DROP], 2, id);
            run(t, SQL_CHUNK_DROP);
        }
    chunklist_release(&list);
    sqlite3_bind_int64(t->sql[SQL_CONTENT_DROP], 1, id);
    run(t, SQL_CONTENT_DROP);
}

/* ---- files */

static int64_t find_file(struct content_table *t, uint32_t root, const char *path) {
    sqlite3_stmt *s = t->sql[SQL_FILE_FIND];
    bind_path(s, 1, root, path);
    int64_t id = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    finish(s);
    return id;
}

int table_note(struct content_table *t, uint32_t root, const char *path, const uint8_t *hash, const struct chunklist *list,
               const struct content_stamp *stamp) {
    int r = begin(t);
    if (r != 0)
        return r;
    int64_t id = find_content(t, hash), before = find_file(t, root, path);
    t->forgot = t->forgot || (id == 0 && list == NULL);
    if (id == 0 && list == NULL)
        return ERR_NOTFOUND;
    if (id == 0 && (id = add_content(t, hash, list)) == 0)
        return ERR_IO;
    sqlite3_stmt *s = t->sql[SQL_FILE_PUT];
    bind_path(s, 1, root, path);
    sqlite3_bind_int64(s, 3, id);
    sqlite3_bind_int64(s, 4, (int64_t)stamp->size);
    sqlite3_bind_int64(s, 5, (int64_t)stamp->inode);
    sqlite3_bind_int64(s, 6, (int64_t)stamp->device);
    sqlite3_bind_int64(s, 7, stamp->mtime_ns);
    sqlite3_bind_int64(s, 8, stamp->ctime_ns);
    r = run(t, SQL_FILE_PUT);
    if (before != 0 && before != id)
        drop_unused(t, before);
    return r;
}

void table_learn(struct content_table *t, const uint8_t *hash, const struct chunklist *list) {
    if (begin(t) == 0 && find_content(t, hash) == 0)
        add_content(t, hash, list);
}

void table_gone(struct content_table *t, uint32_t root, const char *path) {
    int64_t id = find_file(t, root, path);
    if (id == 0 || begin(t) != 0)
        return;
    bind_path(t->sql[SQL_FILE_DROP], 1, root, path);
    run(t, SQL_FILE_DROP);
    drop_unused(t, id);
}

void table_lost(struct content_table *t, uint32_t root, const char *path, const uint8_t *hash) {
    int64_t id = find_content(t, hash);
    if (id != 0 && find_file(t, root, path) == id) /* else it is known to be another one by now */
        table_gone(t, root, path);
}

void table_moved(struct content_table *t, uint32_t root, const char *from, uint32_t to_root, const char *to) {
    if (begin(t) != 0 || (root == to_root && strcmp(from, to) == 0))
        return;
    if (find_file(t, root, from) != 0)
        table_gone(t, to_root, to); /* what was there was replaced */
    bind_path(t->sql[SQL_FILE_MOVE], 1, root, from);
    bind_path(t->sql[SQL_FILE_MOVE], 3, to_root, to);
    run(t, SQL_FILE_MOVE);
}

/* ---- looking */

bool table_has(struct content_table *t, const uint8_t *hash) {
    int64_t id = find_content(t, hash);
    return id != 0 && used(t, id);
}

uint32_t table_chunks(struct content_table *t, const uint8_t *hash) {
    int64_t id = find_content(t, hash);
    sqlite3_stmt *s = t->sql[SQL_CONTENT_CHUNKS];
    if (id == 0 || !used(t, id))
        return 0;
    sqlite3_bind_int64(s, 1, id);
    uint32_t count = sqlite3_step(s) == SQLITE_ROW ? (uint32_t)sqlite3_column_int(s, 0) : 0;
    finish(s);
    return count;
}

int table_list(struct content_table *t, const uint8_t *hash, struct chunklist *out) {
    int64_t id = find_content(t, hash);
    return id == 0 ? ERR_NOTFOUND : list_of(t, id, out);
}

int table_file(struct content_table *t, const uint8_t *hash, uint32_t nth, struct table_place *out) {
    sqlite3_stmt *s = t->sql[SQL_FILE_OF];
    bind_bytes(s, 1, hash, CONTENT_HASH_BYTES);
    sqlite3_bind_int64(s, 2, nth);
    int r = ERR_NOTFOUND;
    if (sqlite3_step(s) == SQLITE_ROW) {
        out->root = (uint32_t)sqlite3_column_int64(s, 0);
        const void *path = sqlite3_column_blob(s, 1);
        out->path = strndup(path == NULL ? "" : path, (size_t)sqlite3_column_bytes(s, 1));
        out->stamp.size = (uint64_t)sqlite3_column_int64(s, 2);
        out->stamp.inode = (uint64_t)sqlite3_column_int64(s, 3);
        out->stamp.device = (uint64_t)sqlite3_column_int64(s, 4);
        out->stamp.mtime_ns = sqlite3_column_int64(s, 5);
        out->stamp.ctime_ns = sqlite3_column_int64(s, 6);
        r = out->path == NULL ? ERR_NOMEM : 0;
    }
    finish(s);
    return r;
}

int table_chunk(struct content_table *t, const uint8_t *chunk, uint8_t *hash, uint32_t *index) {
    sqlite3_stmt *s = t->sql[SQL_CHUNK_FIND];
    int r = ERR_NOTFOUND;
    sqlite3_bind_int64(s, 1, key_of(chunk));
    if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_bytes(s, 0) == CONTENT_HASH_BYTES) {
        memcpy(hash, sqlite3_column_blob(s, 0), CONTENT_HASH_BYTES);
        *index = (uint32_t)sqlite3_column_int64(s, 1);
        r = 0;
    }
    finish(s);
    return r;
}
