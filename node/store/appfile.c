/* Looking before opening, two connections, and the three things SQLite has no call for: is the path still our file, does anybody read, and how much is in
 * the WAL. None of them opens the database, its -wal or its -shm a second time, except for the one descriptor of the -shm that is
 * kept: closing any descriptor of a file drops all POSIX locks that this process, SQLite included, has on it. */
#include "node/store/appfile.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "node/store/sql.h"
#include "proto/err.h"

#define READER_CACHE_KIB 2048
#define WRITER_CACHE_KIB 4096
#define COMMIT_BUSY_MS 5

/* Our share in keeping the WAL small: between these two the application, which checkpoints from 1,000 pages on, does not. */
#define CHECKPOINT_PAGES_MIN 500
#define CHECKPOINT_PAGES_MAX 1000

/* Bytes of the -shm as SQLite's file format documents them: the read locks, and the head of the wal-index. */
#define SHM_READ_LOCKS 123
#define SHM_READ_LOCKS_COUNT 5
#define SHM_DEADMAN 128
#define SHM_VERSION 3007000

int appfile_error(int sqlite_code) {
    switch (sqlite_code) {
    case SQLITE_IOERR_NOMEM: return ERR_NOMEM;
    case SQLITE_IOERR_SHMSIZE: /* the -shm could not grow */ return ERR_FULL;
    case SQLITE_IOERR_CORRUPTFS: return ERR_CORRUPT;
    }
    switch (sqlite_code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE: return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL: /* lost too many races for the WAL's locks */ return ERR_BUSY;
    case SQLITE_NOMEM: return ERR_NOMEM;
    case SQLITE_READONLY: return ERR_READONLY;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_NOLFS: return ERR_IO;
    case SQLITE_CORRUPT: return ERR_CORRUPT;
    case SQLITE_NOTADB: return ERR_NOTDB;
    case SQLITE_FULL: return ERR_FULL;
    case SQLITE_PERM:
    case SQLITE_AUTH: return ERR_DENIED;
    case SQLITE_SCHEMA: return ERR_SCHEMA;
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH: return ERR_CONSTRAINT;
    case SQLITE_TOOBIG: return ERR_TOOBIG;
    default: return ERR_INTERNAL;
    }
}

/* Where to put the one clear line. */
struct why {
    char *text;
    size_t len;
};

__attribute__((format(printf, 3, 4))) static int refuse(struct why *why, int err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (why->len)
        (void)vsnprintf(why->text, why->len, format, args);
    va_end(args);
    return err;
}

/* Of a FUSE mount, statfs does not tell what is behind it; the mount table does. */
static bool fuse_is_network(dev_t device) {
    static const char *const remote[] = {"sshfs", "rclone", "s3fs",      "davfs",   "gluster", "ceph",
                                         "smb",   "nfs",    "curlftpfs", "gcsfuse", "juicefs"};
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, want[32];
    size_t cap = 0;
    bool found = false;
    if (!mounts)
        return true; /* unknown: better refused than corrupted */
    (void)snprintf(want, sizeof want, "%u:%u", major(device), minor(device));
    while (!found && getline(&line, &cap, mounts) > 0) {
        char number[32], *type = strstr(line, " - ");
        if (!type || sscanf(line, "%*s %*s %31s", number) != 1 || strcmp(number, want))
            continue;
        for (size_t i = 0; i < sizeof remote / sizeof *remote; i++)
            found = found || strstr(type, remote[i]);
    }
    free(line);
    (void)fclose(mounts);
    return found;
}

const char *appfile_network(uint64_t statfs_type) {
    static const struct {
        uint64_t type;
        const char *name;
    } systems[] = {{0x6969, "NFS"},       {0x517b, "SMB"},        {0xff534d42, "CIFS"},   {0xfe534d42, "SMB"},
                   {0x01021997, "9p"},    {0x00c36400, "Ceph"},   {0x5346414f, "AFS"},    {0x6b414653, "AFS"},
                   {0x73757245, "Coda"},  {0x564c, "NCP"},        {0x0bd00bd0, "Lustre"}, {0x01161970, "GFS2"},
                   {0x7461636f, "OCFS2"}, {0x786f4256, "vboxsf"}, {0x47504653, "GPFS"},   {0x19830326, "BeeGFS"}};
    for (size_t i = 0; i < sizeof systems / sizeof *systems; i++)
        if (systems[i].type == statfs_type)
            return systems[i].name;
    return NULL;
}

static int check_filesystem(const char *folder, const char *path, struct why *why) {
    struct statfs fs;
    struct stat st;
    if (statfs(folder, &fs) != 0 || stat(folder, &st) != 0)
        return refuse(why, ERR_IO, "%s: its folder cannot be looked at: %s; check %s", path, strerror(errno), folder);
    uint64_t type = (uint64_t)fs.f_type & 0xffffffff;
    const char *network = appfile_network(type);
    if (!network && type == 0x65735546 && fuse_is_network(st.st_dev))
        network = "FUSE";
    if (network)
        return refuse(why, ERR_UNSUPPORTED,
                      "%s: is on a network file system (%s), where SQLite's shared memory does not work; move it to a local disk", path,
                      network);
    return 0;
}

/* The path with every link followed, as SQLite does it: the -wal and -shm stand beside the real file. Not yet existing files: the folder's. */
static char *real_path(const char *path, bool *exists) {
    char *real = realpath(path, NULL), *folder, *full = NULL;
    *exists = real != NULL;
    if (real || errno != ENOENT)
        return real;
    char *a = strdup(path), *b = strdup(path);
    folder = a ? realpath(dirname(a), NULL) : NULL;
    if (folder && b && asprintf(&full, "%s%s%s", folder, strcmp(folder, "/") ? "/" : "", basename(b)) < 0)
        full = NULL;
    free(folder);
    free(a);
    free(b);
    return full;
}

/* What stands in the way, found without SQLite, whose messages would name neither the file nor the mend. Sets a->path. */
static int check_path(struct appfile *a, const char *path, bool create, struct why *why) {
    struct stat st;
    bool exists;
    char *copy, *folder;
    a->path = real_path(path, &exists);
    if (!a->path && (errno == EACCES || errno == EPERM))
        return refuse(why, ERR_DENIED, "%s: no permission to reach it; give this user access to its folder", path);
    if (!a->path || (!exists && !create))
        return refuse(why, errno == ENOMEM ? ERR_NOMEM : ERR_NOTFOUND, "%s: there is no such file; check the path", path);
    if (exists && stat(a->path, &st) != 0)
        return refuse(why, ERR_IO, "%s: cannot be looked at: %s; check the disk", path, strerror(errno));
    if (exists && !S_ISREG(st.st_mode))
        return refuse(why, ERR_NOTDB, "%s: is %s, not a database; name the file", path,
                      S_ISDIR(st.st_mode) ? "a folder" : "no ordinary file");
    if (!(copy = strdup(a->path)))
        return refuse(why, ERR_NOMEM, "%s: out of memory", path);
    folder = dirname(copy);
    int err = check_filesystem(folder, path, why);
    if (!err && exists && faccessat(AT_FDCWD, a->path, R_OK, AT_EACCESS) != 0)
        err = refuse(why, ERR_DENIED, "%s: no permission to read it; give this user read and write access", path);
    else if (!err && exists && faccessat(AT_FDCWD, a->path, W_OK, AT_EACCESS) != 0)
        err = refuse(why, ERR_READONLY, "%s: is read-only (%s); give this user write access", path, strerror(errno));
    else if (!err && faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) != 0)
        err = refuse(why, errno == EROFS ? ERR_READONLY : ERR_DENIED,
                     "%s: its folder %s cannot be written (%s), but SQLite needs a -wal or -journal beside the file; give this user write "
                     "access to it",
                     path, folder, strerror(errno));
    free(copy);
    return err;
}

static int refuse_sqlite(struct appfile *a, sqlite3 *db, struct why *why) {
    int code = db ? sqlite3_extended_errcode(db) : SQLITE_NOMEM, err = appfile_error(code);
    const char *said = db ? sqlite3_errmsg(db) : sqlite3_errstr(code);
    if ((code & 0xff) == SQLITE_CANTOPEN && (sqlite3_system_errno(db) == EACCES || sqlite3_system_errno(db) == EPERM))
        err = ERR_DENIED;
    switch (err) {
    case ERR_NOTDB:
        return refuse(why, err, "%s: is not a SQLite database, or an encrypted one: put the right file there, or say replicate = no of it",
                      a->path);
    case ERR_CORRUPT:
        return refuse(why, err, "%s: the database is damaged (%s); restore it from a backup, or try sqlite3's .recover", a->path, said);
    case ERR_BUSY: return refuse(why, err, APPFILE_LOCKED, a->path, said);
    case ERR_DENIED:
        return refuse(why, err, "%s: no permission (%s); give this user read and write access to it, its -wal and -shm", a->path, said);
    case ERR_READONLY:
        return refuse(why, err, "%s: is read-only (%s); give this user write access to it, its -wal and -shm", a->path, said);
    case ERR_FULL: return refuse(why, err, "%s: no space left on its disk; free some", a->path);
    default: return refuse(why, err ? err : ERR_INTERNAL, "%s: cannot be opened: %s; check the file and its disk", a->path, said);
    }
}

static int connect_one(struct appfile *a, sqlite3 **db, bool writer, bool create) {
    /* One thread owns a store, so SQLite's mutexes are not needed. */
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
    int rc = sqlite3_open_v2(a->path, db, flags, a->vfs);
    if (rc != SQLITE_OK)
        return appfile_error(rc);
    sqlite3_extended_result_codes(*db, 1);
    sqlite3_busy_timeout(*db, writer ? 0 : APPFILE_READER_BUSY_MS);
    sqlite3_wal_autocheckpoint(*db, 0);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_ENABLE_FKEY, 0, NULL);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    /* The schema is the application's or came from other servers: it may not call what has side effects. */
    sqlite3_db_config(*db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    int err = sql_exec(*db, "PRAGMA cache_size = -%d; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA query_only = %d",
                       writer ? WRITER_CACHE_KIB : READER_CACHE_KIB, writer ? 0 : 1);
    /* The whole schema is read and parsed here: what is no database, or a broken one, shows now. Nothing is written. */
    int64_t tables;
    return err ? err : sql_int(*db, 0, &tables, "SELECT count(*) FROM main.sqlite_schema");
}

/* A new file gets WAL. One that the application made meanwhile stays as it is. */
static int offer_wal(sqlite3 *writer) {
    int64_t pages;
    int err = sql_int(writer, 0, &pages, "PRAGMA main.page_count");
    if (err || pages)
        return err;
    sqlite3_busy_timeout(writer, APPFILE_READER_BUSY_MS);
    err = sql_exec(writer, "PRAGMA main.journal_mode = WAL");
    sqlite3_busy_timeout(writer, 0);
    return err;
}

static int connect_both(struct appfile *a, bool create, struct why *why) {
    int err = connect_one(a, &a->writer, true, create);
    if (!err && create)
        err = offer_wal(a->writer);
    if (!err && !(err = sql_prepare(a->writer, &a->look, "PRAGMA main.schema_version")) &&
        !(err = sql_prepare(a->writer, &a->begin, "BEGIN IMMEDIATE")) && !(err = sql_prepare(a->writer, &a->commit, "COMMIT")))
        err = sql_prepare(a->writer, &a->rollback, "ROLLBACK");
    if (err)
        return refuse_sqlite(a, a->writer, why);
    err = connect_one(a, &a->reader, false, false);
    return err ? refuse_sqlite(a, a->reader, why) : 0;
}

int appfile_open(struct appfile *a, const char *path, const char *vfs, bool create, char *why_text, size_t why_len) {
    struct why why = {why_text, why_len};
    struct stat st;
    memset(a, 0, sizeof *a);
    a->shm_fd = -1;
    a->vfs = vfs;
    if (why_len)
        why_text[0] = 0;
    if (vfs && !(a->path = strdup(path)))
        return refuse(&why, ERR_NOMEM, "%s: out of memory", path);
    int err = vfs ? 0 : check_path(a, path, create, &why);
    if (!err)
        err = connect_both(a, create, &why);
    if (!err && !vfs) {
        if (stat(a->path, &st) != 0)
            err = refuse(&why, ERR_IO, "%s: it vanished while it was opened; it is tried again", path);
        else
            a->dev = st.st_dev, a->ino = st.st_ino;
    }
    if (!err && (err = appfile_journal(a)) != 0)
        err = refuse_sqlite(a, a->reader, &why);
    if (err)
        appfile_close(a);
    return err;
}

void appfile_close(struct appfile *a) {
    sqlite3_stmt *own[] = {a->look, a->begin, a->commit, a->rollback};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sqlite3_finalize(own[i]);
    int rc = sqlite3_close(a->reader);
    assert(rc == SQLITE_OK); /* all statements are finalized by their owners */
    rc = sqlite3_close(a->writer);
    assert(rc == SQLITE_OK);
    if (a->shm_fd >= 0) /* last: this drops whatever locks the process had on it */
        (void)close(a->shm_fd);
    free(a->path);
    memset(a, 0, sizeof *a);
    a->shm_fd = -1;
}

static bool stat_beside(const struct appfile *a, const char *suffix, struct stat *st) {
    char path[PATH_MAX];
    int len = snprintf(path, sizeof path, "%s%s", a->path, suffix);
    return len > 0 && (size_t)len < sizeof path && stat(path, st) == 0;
}

/* With an empty WAL nobody writes into the file itself but who copies another one over it. */
static bool copied_over(struct appfile *a, const struct stat *now) {
    struct stat wal;
    a->resting = a->resting && stat_beside(a, "-wal", &wal) && wal.st_size == 0;
    return a->resting &&
           (now->st_size != a->rest_size || now->st_mtim.tv_sec != a->rest_mtime.tv_sec || now->st_mtim.tv_nsec != a->rest_mtime.tv_nsec);
}

bool appfile_same(struct appfile *a) {
    struct stat st;
    if (a->vfs)
        return true;
    if (!stat_beside(a, "", &st) || st.st_dev != a->dev || st.st_ino != a->ino || copied_over(a, &st))
        return false;
    /* While we are connected nobody removes the -wal in an orderly way: that takes the file for itself alone. */
    return !a->wal_ino || (stat_beside(a, "-wal", &st) && st.st_ino == a->wal_ino);
}

/* The -shm that SQLite uses now. The one we had is closed only if it is another file, on which there are no locks any more. */
static void open_shm(struct appfile *a) {
    struct stat st, now;
    char path[PATH_MAX];
    int len = snprintf(path, sizeof path, "%s-shm", a->path);
    if (len <= 0 || (size_t)len >= sizeof path || stat(path, &now) != 0)
        return;
    if (a->shm_fd >= 0) {
        if (fstat(a->shm_fd, &st) == 0 && st.st_dev == now.st_dev && st.st_ino == now.st_ino)
            return;
        (void)close(a->shm_fd);
    }
    a->shm_fd = open(path, O_RDWR | O_CLOEXEC);
}

int appfile_journal(struct appfile *a) {
    sqlite3_stmt *q = NULL;
    int64_t version;
    /* Reading something first: only then does the connection see that another has changed the mode. */
    int err = sql_int(a->reader, 0, &version, "PRAGMA main.schema_version");
    if (!err)
        err = sql_prepare(a->reader, &q, "PRAGMA main.journal_mode");
    int row = err ? err : sql_step(q);
    if (row == 1) {
        const char *mode = (const char *)sqlite3_column_text(q, 0);
        a->wal = mode && !strcmp(mode, "wal");
    }
    sqlite3_finalize(q);
    if (row < 0)
        return row;
    /* In WAL mode NORMAL does not sync in COMMIT, under the lock: appfile_sync() does it afterwards. A rollback journal must be synced before. */
    if ((err = sql_exec(a->writer, "PRAGMA main.synchronous = %s", a->wal ? "NORMAL" : "FULL")))
        return err;
    if (a->vfs)
        return 0;
    struct stat st;
    a->wal_ino = a->wal && stat_beside(a, "-wal", &st) ? st.st_ino : 0;
    if (a->wal)
        open_shm(a);
    return 0;
}

static int read_locks(const struct appfile *a, int command, struct flock *lock, short type) {
    *lock = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = SHM_READ_LOCKS, .l_len = SHM_READ_LOCKS_COUNT};
    return fcntl(a->shm_fd, command, lock);
}

int appfile_readers(struct appfile *a) {
    struct flock lock;
    if (!a->wal || a->shm_fd < 0 || read_locks(a, F_GETLK, &lock, F_WRLCK) != 0)
        return 0;
    return lock.l_type != F_UNLCK;
}

/* Every connection of another process holds a read lock here. */
static bool connected(const struct appfile *a) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SHM_DEADMAN, .l_len = 1};
    return fcntl(a->shm_fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

bool appfile_rest(struct appfile *a) {
    struct appfile_head head;
    struct stat st, wal;
    if (a->vfs || !a->wal || a->shm_fd < 0 || a->resting)
        return true;
    if (connected(a) || (appfile_head(a, &head) && head.pages >= head.checkpointed + CHECKPOINT_PAGES_MIN)) /* appfile_checkpoint() first */
        return false;
    a->committed = true;
    if (sqlite3_wal_checkpoint_v2(a->writer, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK)
        return false;
    if (!stat_beside(a, "", &st) || !stat_beside(a, "-wal", &wal) || wal.st_size != 0)
        return false;
    a->rest_size = st.st_size;
    a->rest_mtime = st.st_mtim;
    a->resting = true;
    return true;
}

/* ---- alone with the file */

/* Locks of one process do not exclude each other: what SQLite holds for our writer is a part of what we take here, and given up with it when SQLite has
 * ended the transaction. In the one COMMIT that begins the WAL anew SQLite takes and gives up these locks by itself halfway: then readers come in some
 * microseconds early. */
static bool shut_out(struct appfile *a) {
    struct flock lock;
    a->alone = read_locks(a, F_SETLK, &lock, F_WRLCK) == 0;
    return a->alone;
}

static void ended(struct appfile *a) {
    struct flock lock;
    if (!a->alone)
        return;
    assert(sqlite3_txn_state(a->reader, "main") == SQLITE_TXN_NONE && sqlite3_txn_state(a->writer, "main") == SQLITE_TXN_NONE);
    (void)read_locks(a, F_SETLK, &lock, F_UNLCK);
    a->alone = false;
}

/* The order matters: first our own snapshot, then nobody else's, and only then the write lock. */
int appfile_begin(struct appfile *a, bool alone) {
    if (!alone || !a->wal || a->shm_fd < 0)
        return sql_run(a->begin);
    assert(sqlite3_txn_state(a->reader, "main") == SQLITE_TXN_NONE);
    int row = sql_step(a->look);
    if (row < 0)
        return row;
    int err = shut_out(a) ? sql_run(a->begin) : ERR_BUSY;
    sqlite3_reset(a->look);
    if (err)
        ended(a);
    return err;
}

/* SQLite's own waiting sleeps ever longer, up to 100 ms, and then starves beside an application that writes without a pause; a try every
 * millisecond finds a gap. */
int appfile_begin_within(struct appfile *a, bool alone, int ms) {
    int err;
    while ((err = appfile_begin(a, alone)) == ERR_BUSY && ms-- > 0)
        sqlite3_sleep(1);
    return err;
}

/* Back to the one lock that SQLite believes to have: the slot of its snapshot, which is not ours to know. Shared on all of them is no obstacle to a reader
 * that finds a slot with the right mark, and there is one: ours. */
void appfile_let_in(struct appfile *a) {
    struct flock lock;
    if (a->alone)
        (void)read_locks(a, F_SETLK, &lock, F_RDLCK);
}

int appfile_commit(struct appfile *a) {
    int err = sql_run(a->commit);
    if (!err)
        ended(a);
    a->committed = true;
    return err;
}

int appfile_commit_patiently(struct appfile *a) {
    sqlite3_busy_timeout(a->writer, COMMIT_BUSY_MS);
    int err = appfile_commit(a);
    sqlite3_busy_timeout(a->writer, 0);
    return err;
}

/* What failed in the middle may have left a statement on a row: it would hold on to its snapshot beyond the end. */
void appfile_rollback(struct appfile *a) {
    for (sqlite3_stmt *q = sqlite3_next_stmt(a->writer, NULL); q; q = sqlite3_next_stmt(a->writer, q))
        if (sqlite3_stmt_busy(q))
            sqlite3_reset(q);
    (void)sql_run(a->rollback);
    ended(a);
}

/* A journal that was unlinked must stay gone: it would roll back a commit that we have read already. */
static int sync_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = slash == path ? strdup("/") : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(folder);
    if (fd < 0)
        return ERR_IO;
    int err = fsync(fd) == 0 ? 0 : ERR_IO;
    close(fd);
    return err;
}

int appfile_sync(struct appfile *a, sqlite3 *db) {
    assert(db == a->reader || db == a->writer);
    assert(sqlite3_get_autocommit(db));
    sqlite3_file *file = NULL;
    if (a->wal)
        return sql_sync(db);
    /* In the modes PERSIST and TRUNCATE the journal stays open: it is not what a commit went to. */
    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || !file || !file->pMethods)
        return 0;
    int err = appfile_error(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY));
    return err || a->vfs ? err : sync_folder(a->path);
}

bool appfile_head(const struct appfile *a, struct appfile_head *head) {
    uint8_t b[100];
    uint32_t version;
    if (!a->wal || a->shm_fd < 0 || pread(a->shm_fd, b, sizeof b, 0) != (ssize_t)sizeof b)
        return false;
    memcpy(&version, b, sizeof version); /* in the machine's own byte order, as SQLite maps it */
    if (version != SHM_VERSION)
        return false;
    memcpy(head->index, b, sizeof head->index);
    memcpy(&head->pages, b + 16, sizeof head->pages);
    memcpy(&head->checkpointed, b + 96, sizeof head->checkpointed);
    return true;
}

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The writer holds the write lock, so that no other connection commits, restarts the WAL or begins a checkpoint after a commit of its own, while the
 * reader (which is in no transaction) moves the pages. That nothing was written under the lock means that no transaction of the application becomes
 * stale: it waits at most, as for any writer. The long part, syncing the WAL, is done before the lock. */
int64_t appfile_checkpoint(struct appfile *a, bool quiet) {
    struct appfile_head head;
    if (!appfile_head(a, &head) || head.pages < CHECKPOINT_PAGES_MIN || head.checkpointed >= head.pages)
        return 0;
    if (head.pages > CHECKPOINT_PAGES_MAX && !quiet)
        return 0;
    if (appfile_readers(a)) /* it would stop at what they see: the lock for little gain */
        return 0;
    assert(sqlite3_get_autocommit(a->reader) && sqlite3_get_autocommit(a->writer));
    int err = appfile_sync(a, a->reader);
    if (!err)
        err = appfile_begin(a, true);
    if (err)
        return err == ERR_BUSY ? 0 : err;
    int64_t start = now_us();
    int rc = sqlite3_wal_checkpoint_v2(a->reader, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    appfile_rollback(a);
    int64_t held = now_us() - start;
    if (rc != SQLITE_OK && rc != SQLITE_BUSY)
        return appfile_error(rc);
    return held > 0 ? held : 1;
}
