#include "tests/unit/store_scratch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "node/store/appfile.h"
#include "node/store/sql.h"
#include "proto/err.h"

static void refused(const char *path, int want, const char *part) {
    struct appfile a;
    char why[512];
    int err = appfile_open(&a, path, NULL, false, why, sizeof why);
    if (err != want || !strstr(why, part) || !strstr(why, strrchr(path, '/') + 1) || strchr(why, '\n'))
        fail_msg("%s: %d (%s), %s", path, err, err_text(err), why);
    assert_null(a.reader);
    assert_null(a.writer);
}

static void put_file(const char *path, const void *data, size_t len) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

static size_t get_file(const char *path, char *data, size_t cap) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t len = fread(data, 1, cap, f);
    fclose(f);
    return len;
}

static void test_open(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256];
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, p REFERENCES t(id)); CREATE TRIGGER x AFTER INSERT ON t "
                 "BEGIN DELETE FROM t; END");
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_string_equal(why, "");
    assert_true(a.wal && a.shm_fd >= 0 && a.ino && a.wal_ino);
    assert_int_equal(sqlite3_exec(a.reader, "INSERT INTO t(p) VALUES(1)", NULL, NULL, NULL), SQLITE_READONLY);
    app_exec(a.writer, "INSERT INTO t(id, p) VALUES(1, 99)"); /* neither trigger nor foreign key */
    assert_int_equal(app_int(a.reader, "SELECT count(*) FROM t"), 1);
    assert_int_equal(app_int(a.writer, "PRAGMA wal_autocheckpoint"), 0);
    assert_true(appfile_same(&a));
    assert_int_equal(appfile_sync(&a, a.reader), 0);
    assert_int_equal(appfile_sync(&a, a.writer), 0);
    sqlite3_close(db);
    appfile_close(&a);
    /* The last connection closed, and nothing was checkpointed: the WAL is still there. */
    char wal[128];
    struct stat st;
    snprintf(wal, sizeof wal, "%s-wal", s.path);
    assert_int_equal(stat(wal, &st), 0);
    assert_true(st.st_size > 0);
    /* By a link: the real file's neighbours are what counts. */
    char link[128];
    snprintf(link, sizeof link, "%s/link.db", s.folder);
    assert_int_equal(symlink(s.path, link), 0);
    assert_int_equal(appfile_open(&a, link, NULL, false, why, sizeof why), 0);
    assert_string_equal(a.path, s.path);
    assert_true(a.shm_fd >= 0);
    appfile_close(&a);
    scratch_close(&s);
}

static void test_empty_and_create(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256];
    struct stat st;
    scratch_open(&s);
    refused(s.path, ERR_NOTFOUND, "no such file");
    put_file(s.path, "", 0);
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0); /* a valid empty database */
    assert_false(a.wal);
    assert_int_equal(appfile_readers(&a), 0);
    assert_int_equal(appfile_sync(&a, a.reader), 0);
    assert_int_equal(appfile_checkpoint(&a, true), 0);
    assert_int_equal(stat(s.path, &st), 0);
    assert_int_equal(st.st_size, 0);
    appfile_close(&a);
    unlink(s.path);
    assert_int_equal(appfile_open(&a, s.path, NULL, true, why, sizeof why), 0);
    assert_true(a.wal && a.shm_fd >= 0);
    appfile_close(&a);
    /* create on a file that the application made in DELETE mode: its mode stays. */
    unlink(s.path);
    char other[128];
    snprintf(other, sizeof other, "%s-wal", s.path), unlink(other);
    snprintf(other, sizeof other, "%s-shm", s.path), unlink(other);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE t(x)");
    sqlite3_close(db);
    assert_int_equal(appfile_open(&a, s.path, NULL, true, why, sizeof why), 0);
    assert_false(a.wal);
    assert_int_equal(appfile_sync(&a, a.writer), 0);
    appfile_close(&a);
    /* Another VFS: no looks at the file system. */
    assert_int_equal(appfile_open(&a, s.path, "unix-none", false, why, sizeof why), 0);
    assert_true(appfile_same(&a));
    appfile_close(&a);
    scratch_close(&s);
}

static void test_bad_files(void **state) {
    (void)state;
    struct scratch s;
    char path[128], data[20000], again[20000];
    struct stat before, after;
    scratch_open(&s);
    refused(s.folder, ERR_NOTDB, "folder");
    snprintf(path, sizeof path, "%s/nowhere/app.db", s.folder);
    refused(path, ERR_NOTFOUND, "no such file");
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * 7 + 3);
    put_file(s.path, data, sizeof data);
    assert_int_equal(stat(s.path, &before), 0);
    refused(s.path, ERR_NOTDB, "not a SQLite database");
    put_file(s.path, "short", 5);
    refused(s.path, ERR_NOTDB, "not a SQLite database");
    snprintf(path, sizeof path, "%s/pipe", s.folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(path, ERR_NOTDB, "no ordinary file");
    /* A database whose schema page is damaged: found at open, and not touched. */
    unlink(s.path);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(hex(randomblob(4000)))");
    sqlite3_close(db);
    size_t len = get_file(s.path, data, sizeof data);
    memset(data + 100, 0xee, 200);
    put_file(s.path, data, len);
    assert_int_equal(stat(s.path, &before), 0);
    refused(s.path, ERR_CORRUPT, "damaged");
    assert_int_equal(get_file(s.path, again, sizeof again), len);
    assert_memory_equal(data, again, len);
    assert_int_equal(stat(s.path, &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    /* A line that does not fit is cut, not overrun. */
    struct appfile a;
    char why[16];
    memset(why, 'x', sizeof why);
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, 8), ERR_CORRUPT);
    assert_int_equal(why[7], 0);
    assert_int_equal(why[8], 'x');
    scratch_close(&s);
}

/* root may do everything, so a user without rights tries. */
static void as_nobody(void (*test)(const struct scratch *), const struct scratch *s) {
    int status;
    pid_t child = fork();
    if (!child) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(9);
        test(s);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static int code_of(const char *path, const char *part, bool create) {
    struct appfile a;
    char why[512];
    int err = appfile_open(&a, path, NULL, create, why, sizeof why);
    if (!err)
        appfile_close(&a);
    else if (!strstr(why, part) || !strstr(why, "app.db"))
        fprintf(stderr, "%s: %s\n", err_text(err), why), err = 1;
    return err;
}

static void unreadable(const struct scratch *s) { _exit(code_of(s->path, "no permission to read", false) == ERR_DENIED ? 0 : 1); }
static void read_only(const struct scratch *s) { _exit(code_of(s->path, "is read-only", false) == ERR_READONLY ? 0 : 1); }
static void folder_read_only(const struct scratch *s) { _exit(code_of(s->path, "its folder", false) == ERR_DENIED ? 0 : 1); }
static void folder_create(const struct scratch *s) { _exit(code_of(s->path, "its folder", true) == ERR_DENIED ? 0 : 1); }
static void folder_closed(const struct scratch *s) { _exit(code_of(s->path, "no permission to reach", false) == ERR_DENIED ? 0 : 1); }
static void all_right(const struct scratch *s) { _exit(code_of(s->path, "", false) == 0 ? 0 : 1); }

static void test_permissions(void **state) {
    (void)state;
    struct scratch s;
    scratch_open(&s);
    chmod(s.folder, 0777);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE t(x)");
    sqlite3_close(db);
    chmod(s.path, 0666);
    as_nobody(all_right, &s);
    chmod(s.path, 0);
    as_nobody(unreadable, &s);
    chmod(s.path, 0444);
    as_nobody(read_only, &s);
    chmod(s.path, 0666);
    chmod(s.folder, 0555);
    as_nobody(folder_read_only, &s);
    unlink(s.path);
    as_nobody(folder_create, &s);
    chmod(s.folder, 0);
    as_nobody(folder_closed, &s);
    chmod(s.folder, 0700);
    scratch_close(&s);
}

static void test_network(void **state) {
    (void)state;
    assert_string_equal(appfile_network(0x6969), "NFS");
    assert_string_equal(appfile_network(0xff534d42), "CIFS");
    assert_string_equal(appfile_network(0x01021997), "9p");
    assert_null(appfile_network(0xef53));     /* ext4 */
    assert_null(appfile_network(0x01021994)); /* tmpfs */
    assert_null(appfile_network(0x794c7630)); /* overlayfs */
}

/* A child that reads (or writes) when told, and says when it is done. */
static void say(int fd) { assert_int_equal(write(fd, "x", 1), 1); }
static void hear(int fd) {
    char c;
    assert_int_equal(read(fd, &c, 1), 1);
}

static void test_readers(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256];
    int to[2], from[2], status;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(1)");
    sqlite3_close(db);
    assert_int_equal(pipe(to) | pipe(from), 0);
    pid_t child = fork();
    if (!child) {
        db = app_open(s.path);
        app_exec(db, "SELECT * FROM t");
        say(from[1]);
        for (int i = 0; i < 2; i++) {
            hear(to[0]);
            app_exec(db, i ? "BEGIN IMMEDIATE" : "BEGIN; SELECT * FROM t");
            say(from[1]);
            hear(to[0]);
            app_exec(db, "COMMIT");
            say(from[1]);
        }
        _exit(0);
    }
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    hear(from[0]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(appfile_readers(&a), 0);
        app_exec(a.reader, "BEGIN; SELECT * FROM t"); /* our own do not show */
        assert_int_equal(appfile_readers(&a), 0);
        app_exec(a.reader, "COMMIT");
        say(to[1]);
        hear(from[0]);
        assert_int_equal(appfile_readers(&a), 1);
        say(to[1]);
        hear(from[0]);
    }
    assert_int_equal(appfile_readers(&a), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    appfile_close(&a);
    close(to[0]), close(to[1]), close(from[0]), close(from[1]);
    scratch_close(&s);
}

/* While we are alone with the file a reader waits, sees what was committed, and may write: nothing is refused. */
static void test_alone(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256];
    int to[2], from[2], status;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(0)");
    sqlite3_close(db);
    assert_int_equal(pipe(to) | pipe(from), 0);
    pid_t child = fork();
    if (!child) {
        db = app_open(s.path);
        sqlite3_busy_timeout(db, 0);
        for (int i = 0; i < 3; i++) {
            hear(to[0]);
            app_exec(db, "BEGIN; SELECT * FROM t");
            say(from[1]);
            hear(to[0]);
            app_exec(db, i < 2 ? "UPDATE t SET v = v * 10; COMMIT" : "COMMIT");
            say(from[1]);
        }
        _exit(0);
    }
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    app_exec(a.writer, "UPDATE t SET v = 1"); /* the WAL is not restarted by what follows */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(appfile_begin(&a, true), 0);
        struct pollfd heard = {.fd = from[0], .events = POLLIN};
        say(to[1]);
        app_exec(a.writer, "UPDATE t SET v = v + 1");
        assert_int_equal(poll(&heard, 1, 20), 0); /* the reader is kept out */
        if (i == 0)
            assert_int_equal(appfile_commit(&a), 0);
        else if (i == 1)
            appfile_rollback(&a);
        else
            appfile_let_in(&a);
        hear(from[0]);
        if (i < 2)
            assert_int_equal(appfile_begin(&a, true), ERR_BUSY); /* it reads */
        assert_int_equal(sqlite3_get_autocommit(a.writer), i < 2);
        say(to[1]);
        hear(from[0]);
    }
    assert_int_equal(appfile_commit(&a), 0);
    assert_int_equal(appfile_readers(&a), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    int64_t v;
    assert_int_equal(sql_int(a.reader, 0, &v, "SELECT v FROM t"), 0);
    assert_int_equal(v, 201); /* 1 + 1, * 10, rolled back, * 10, + 1 */
    appfile_close(&a);
    close(to[0]), close(to[1]), close(from[0]), close(from[1]);
    scratch_close(&s);
}

/* A statement that is still on a row when all is taken back. */
static void test_taken_back_amid_a_statement(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256];
    sqlite3_stmt *q;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(1), (2)");
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_int_equal(sql_prepare(a.writer, &q, "SELECT v FROM t"), 0);
    assert_int_equal(appfile_begin(&a, true), 0);
    assert_int_equal(sql_step(q), 1);
    appfile_rollback(&a);
    assert_int_equal(sqlite3_txn_state(a.writer, "main"), SQLITE_TXN_NONE);
    app_exec(db, "UPDATE t SET v = 3");
    assert_int_equal(appfile_begin(&a, true), 0);
    appfile_rollback(&a);
    sqlite3_finalize(q);
    sqlite3_close(db);
    appfile_close(&a);
    scratch_close(&s);
}

static void grow(sqlite3 *db, struct appfile *a, uint32_t pages) {
    struct appfile_head head;
    while (!appfile_head(a, &head) || head.pages < pages)
        app_exec(db, "INSERT INTO t(v) VALUES(randomblob(3500))");
}

static void test_checkpoint(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    struct appfile_head head;
    char why[256];
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    grow(db, &a, 400);
    assert_int_equal(appfile_checkpoint(&a, false), 0);
    assert_int_equal(appfile_checkpoint(&a, true), 0);
    grow(db, &a, 600);
    /* A lock held by the application: not now, and no waiting. */
    app_exec(db, "BEGIN IMMEDIATE");
    int64_t start = clock_us();
    assert_int_equal(appfile_checkpoint(&a, false), 0);
    assert_true(clock_us() - start < 1000000);
    app_exec(db, "COMMIT");
    assert_true(appfile_head(&a, &head) && head.checkpointed == 0);
    assert_true(appfile_checkpoint(&a, false) > 0);
    assert_true(appfile_head(&a, &head) && head.checkpointed == head.pages && head.pages >= 600);
    assert_int_equal(appfile_checkpoint(&a, false), 0);
    /* The next write begins the WAL again. */
    app_exec(db, "INSERT INTO t(v) VALUES(1)");
    assert_true(appfile_head(&a, &head) && head.pages < 10);
    grow(db, &a, 1200);
    assert_int_equal(appfile_checkpoint(&a, false), 0);
    /* Quiet, but another process reads: not now. */
    int ready[2], done[2], status;
    assert_int_equal(pipe(ready) | pipe(done), 0);
    pid_t child = fork();
    if (!child) {
        sqlite3 *other = app_open(s.path);
        app_exec(other, "BEGIN; SELECT count(*) FROM t");
        say(ready[1]);
        hear(done[0]);
        _exit(0);
    }
    hear(ready[0]);
    assert_int_equal(appfile_checkpoint(&a, true), 0);
    say(done[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(appfile_checkpoint(&a, true) > 0);
    assert_rows(db, "PRAGMA integrity_check", "tok|;");
    assert_int_equal(sqlite3_get_autocommit(a.writer), 1);
    close(ready[0]), close(ready[1]), close(done[0]), close(done[1]);
    sqlite3_close(db);
    appfile_close(&a);
    scratch_close(&s);
}

static void test_same(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256], other[128];
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_true(appfile_same(&a));
    snprintf(other, sizeof other, "%s-wal", s.path);
    unlink(other);
    assert_false(appfile_same(&a));
    put_file(other, "", 0); /* another one in its place */
    assert_false(appfile_same(&a));
    appfile_close(&a);
    sqlite3_close(db);
    unlink(other), snprintf(other, sizeof other, "%s-shm", s.path), unlink(other), unlink(s.path);
    db = app_open(s.path);
    app_exec(db, "CREATE TABLE t(x)");
    sqlite3_close(db);
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_true(appfile_same(&a));
    snprintf(other, sizeof other, "%s.new", s.path);
    put_file(other, "", 0);
    assert_int_equal(rename(other, s.path), 0);
    assert_false(appfile_same(&a));
    unlink(s.path);
    assert_false(appfile_same(&a));
    appfile_close(&a);
    scratch_close(&s);
}

/* The mode is the application's, also when it changes while we are there. */
static void test_journal(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    char why[256];
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE t(x)");
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_false(a.wal);
    app_exec(db, "PRAGMA journal_mode=TRUNCATE; INSERT INTO t VALUES(1)");
    assert_int_equal(appfile_journal(&a), 0);
    assert_false(a.wal);
    app_exec(a.writer, "INSERT INTO t VALUES(2)");
    assert_int_equal(appfile_sync(&a, a.writer), 0);
    assert_rows(db, "PRAGMA journal_mode=WAL", "twal|;");
    assert_int_equal(appfile_journal(&a), 0);
    assert_true(a.wal && a.shm_fd >= 0 && a.wal_ino);
    int fd = a.shm_fd;
    assert_int_equal(appfile_journal(&a), 0);
    assert_int_equal(a.shm_fd, fd);
    sqlite3_close(db);
    appfile_close(&a);
    scratch_close(&s);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        int rc, err;
    } want[] = {{SQLITE_OK, 0},
                {SQLITE_ROW, 0},
                {SQLITE_DONE, 0},
                {SQLITE_BUSY, ERR_BUSY},
                {SQLITE_BUSY_SNAPSHOT, ERR_BUSY},
                {SQLITE_LOCKED, ERR_BUSY},
                {SQLITE_FULL, ERR_FULL},
                {SQLITE_IOERR_FSYNC, ERR_IO},
                {SQLITE_IOERR_NOMEM, ERR_NOMEM},
                {SQLITE_NOMEM, ERR_NOMEM},
                {SQLITE_NOTADB, ERR_NOTDB},
                {SQLITE_CORRUPT_VTAB, ERR_CORRUPT},
                {SQLITE_READONLY_DBMOVED, ERR_READONLY},
                {SQLITE_CANTOPEN, ERR_IO},
                {SQLITE_CONSTRAINT_UNIQUE, ERR_CONSTRAINT},
                {SQLITE_SCHEMA, ERR_SCHEMA},
                {SQLITE_ERROR, ERR_INTERNAL},
                {SQLITE_MISUSE, ERR_INTERNAL}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(appfile_error(want[i].rc), want[i].err);
}

/* The application is stopped: everything is in the file itself, and a copy over it is noticed. */
static void test_rest(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    struct stat st;
    char why[512], wal[200];
    int to[2], from[2], status;
    scratch_open(&s);
    snprintf(wal, sizeof wal, "%s-wal", s.path);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES(1)");
    sqlite3_close(db);
    assert_int_equal(pipe(to) | pipe(from), 0);
    pid_t child = fork();
    if (!child) {
        db = app_open(s.path);
        app_exec(db, "INSERT INTO t(v) VALUES(2)");
        say(from[1]);
        hear(to[0]);
        _exit(0);
    }
    hear(from[0]);
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_false(appfile_rest(&a));
    assert_true(stat(wal, &st) == 0 && st.st_size > 0);
    say(to[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(appfile_rest(&a));
    assert_true(stat(wal, &st) == 0 && st.st_size == 0);
    assert_true(appfile_same(&a));
    app_exec(a.writer, "INSERT INTO t(v) VALUES(3)");
    assert_true(appfile_same(&a));
    assert_true(appfile_rest(&a));
    FILE *f = fopen(s.path, "r+b"); /* as cp does it */
    assert_true(f && fputc('S', f) == 'S' && fclose(f) == 0);
    assert_false(appfile_same(&a));
    appfile_close(&a);
    for (int i = 0; i < 2; i++)
        close(to[i]), close(from[i]);
    scratch_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),       cmocka_unit_test(test_empty_and_create),
        cmocka_unit_test(test_bad_files),  cmocka_unit_test(test_permissions),
        cmocka_unit_test(test_network),    cmocka_unit_test(test_readers),
        cmocka_unit_test(test_alone),      cmocka_unit_test(test_taken_back_amid_a_statement),
        cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_same),
        cmocka_unit_test(test_rest),       cmocka_unit_test(test_journal),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
