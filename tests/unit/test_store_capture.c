#include "tests/unit/store_scratch.h"

#include <math.h>
#include <sys/wait.h>

#include "node/store/appfile.h"
#include "node/store/capture.h"
#include "proto/err.h"

/* The newest notes without time and number, oldest first, after those already taken. */
#define NOTES "SELECT tbl, kind, k0 FROM _starling_dirty WHERE seq > (SELECT ifnull(max(n), 0) FROM taken) ORDER BY seq"

static int end(struct appfile *a, int err) {
    if (err || (err = appfile_commit_patiently(a)))
        appfile_rollback(a);
    return err;
}

/* As the store does. */
static int install_within(struct appfile *a, struct schema *s, int ms, bool **made) {
    int64_t noted;
    int err = capture_noted(a->reader, &noted);
    if (err || (err = appfile_begin_within(a, true, ms)))
        return err;
    return end(a, capture_install(a->writer, s, NULL, noted, made));
}

static int remove_within(struct appfile *a, int ms) {
    int err = appfile_begin_within(a, true, ms);
    return err ? err : end(a, capture_remove(a->writer));
}

static void install(const char *path, bool **made) {
    struct appfile a;
    struct schema s;
    char why[256];
    enum capture_is is;
    int err = appfile_open(&a, path, NULL, false, why, sizeof why);
    if (err)
        fail_msg("%s", why);
    assert_int_equal(schema_read(a.writer, &s), 0);
    assert_int_equal(install_within(&a, &s, 2000, made), 0);
    int64_t version = s.version;
    assert_int_equal(capture_check(a.reader, &s, &is, NULL), 0);
    assert_int_equal(is, CAPTURE_COMPLETE);
    schema_release(&s);
    assert_int_equal(schema_read(a.reader, &s), 0);
    assert_int_equal(s.version, version);
    assert_int_equal(capture_check(a.reader, &s, &is, NULL), 0);
    assert_int_equal(is, CAPTURE_COMPLETE);
    schema_release(&s);
    appfile_close(&a);
}

static bool complete_now(const char *path) {
    struct appfile a;
    struct schema s;
    char why[256];
    enum capture_is is;
    assert_int_equal(appfile_open(&a, path, NULL, false, why, sizeof why), 0);
    assert_int_equal(schema_read(a.reader, &s), 0);
    assert_int_equal(capture_check(a.reader, &s, &is, NULL), 0);
    schema_release(&s);
    appfile_close(&a);
    return is == CAPTURE_COMPLETE;
}

static void remove_all(const char *path) {
    struct appfile a;
    char why[256];
    assert_int_equal(appfile_open(&a, path, NULL, false, why, sizeof why), 0);
    assert_int_equal(remove_within(&a, 2000), 0);
    assert_int_equal(remove_within(&a, 2000), 0);
    appfile_close(&a);
}

/* What the application sees of a statement. */
static char *visible(sqlite3 *db, const char *sql) {
    int rc;
    char *rows = app_rows(db, sql, &rc), *out;
    const char *message = rc ? sqlite3_errmsg(db) : "";
    /* Of an INSERT that broke a foreign key last_insert_rowid() tells as soon as there is any trigger: SQLite then checks later. VACUUM copies all
     * rows, so that it tells of the last table copied, ours or not. */
    bool vague = sqlite3_extended_errcode(db) == SQLITE_CONSTRAINT_FOREIGNKEY || !strcmp(sql, "VACUUM");
    assert_true(asprintf(&out, "rc %d (%s) rows %s last %lld changes %lld autocommit %d", rc, message, rows,
                         vague ? 0 : (long long)sqlite3_last_insert_rowid(db), (long long)sqlite3_changes64(db),
                         sqlite3_get_autocommit(db)) > 0);
    free(rows);
    return out;
}

static const char matrix_schema[] =
    "CREATE TABLE p(id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INTEGER CHECK (n < 1000), note TEXT NOT NULL DEFAULT 'x', extra);"
    "CREATE TABLE c(id INTEGER PRIMARY KEY AUTOINCREMENT, p INTEGER REFERENCES p(id) ON DELETE CASCADE ON UPDATE CASCADE, v);"
    "CREATE TABLE k(a TEXT, b INTEGER, v, PRIMARY KEY(a, b)) WITHOUT ROWID;"
    "CREATE TABLE w(id INTEGER PRIMARY KEY, v) WITHOUT ROWID;"
    "CREATE TABLE i(id INT PRIMARY KEY, v REAL, g AS (v * 2), s AS (v + 1) STORED);"
    "CREATE TABLE \"odd \"\"t'able\"\"\"(\"select\" TEXT PRIMARY KEY COLLATE NOCASE, \"größe\" BLOB);"
    "CREATE TABLE audit(id INTEGER PRIMARY KEY, what);"
    "CREATE TRIGGER p_audit BEFORE INSERT ON p BEGIN INSERT INTO audit(what) VALUES('p ' || NEW.id); END;"
    "CREATE TRIGGER c_audit AFTER DELETE ON c BEGIN INSERT INTO audit(what) VALUES('gone'); END;"
    "CREATE VIEW pv AS SELECT id, name FROM p;"
    "CREATE TRIGGER pv_insert INSTEAD OF INSERT ON pv BEGIN INSERT INTO p(name) VALUES(NEW.name); END;";

static const char *const matrix[] = {
    "INSERT INTO p(name) VALUES('a')",
    "INSERT INTO p(name) VALUES('b'), ('c'), ('d')",
    "INSERT INTO p VALUES(10, 'ten', 1, 'x', NULL)",
    "INSERT INTO p VALUES(-1, 'minus', 1, 'x', NULL)",
    "INSERT INTO p VALUES('12', 'twelve', '7', 'x', x'00')",
    "INSERT INTO p VALUES('no number', 'bad', 1, 'x', NULL)",
    "INSERT OR IGNORE INTO p VALUES('no number', 'bad', 1, 'x', NULL)",
    "INSERT INTO p(name) VALUES('after') RETURNING id, name, n",
    "INSERT INTO p(name) VALUES('e'), ('f') RETURNING *",
    "INSERT INTO p(name) VALUES('a')",
    "INSERT OR IGNORE INTO p(name) VALUES('a')",
    "INSERT OR IGNORE INTO p(name) VALUES('new1'), ('a'), ('new2') RETURNING id",
    "INSERT OR FAIL INTO p(name) VALUES('new3'), ('a'), ('new4')",
    "INSERT OR ABORT INTO p(name) VALUES('new5'), ('a'), ('new6')",
    "INSERT OR REPLACE INTO p(id, name) VALUES(1, 'b')",
    "INSERT OR REPLACE INTO p(name) VALUES('c') RETURNING id",
    "REPLACE INTO p(id, name, n) VALUES(10, 'ten', 5), (10, 'ten again', 6)",
    "INSERT INTO p(id, name, note) VALUES(50, 'null note', NULL)",
    "INSERT OR REPLACE INTO p(id, name, note) VALUES(50, 'null note', NULL)",
    "INSERT OR IGNORE INTO p(id, name, note) VALUES(51, 'null note', NULL)",
    "INSERT INTO p(id, name, n) VALUES(52, 'check', 5000)",
    "INSERT OR IGNORE INTO p(id, name, n) VALUES(52, 'check', 5000)",
    "BEGIN",
    "INSERT INTO p(name) VALUES('in transaction')",
    "INSERT OR ROLLBACK INTO p(name) VALUES('b')",
    "INSERT INTO p(name) VALUES('d') ON CONFLICT(name) DO UPDATE SET n = ifnull(n, 0) + 1 RETURNING id, n",
    "INSERT INTO p(id, name) VALUES(10, 'q') ON CONFLICT(id) DO UPDATE SET name = excluded.name || '!' RETURNING *",
    "INSERT INTO p(id, name) VALUES(10, 'q') ON CONFLICT DO NOTHING",
    "INSERT INTO p(id, name) VALUES(11, 'd') ON CONFLICT(name) DO UPDATE SET id = 300",
    "INSERT INTO p(name) VALUES('g'), ('d'), ('h') ON CONFLICT(name) DO UPDATE SET n = 8 WHERE n > 5",
    "INSERT INTO c(p, v) SELECT id, name FROM p",
    "INSERT INTO c(p, v) SELECT p, v || '2' FROM c",
    "INSERT INTO c(p) VALUES(99999)",
    "INSERT INTO c DEFAULT VALUES",
    "INSERT INTO c(id, p) VALUES(NULL, NULL) RETURNING id",
    "UPDATE p SET n = 3 WHERE id = 2",
    "UPDATE p SET n = n + 1 RETURNING id, n",
    "UPDATE p SET id = id + 1000 WHERE id = 2",
    "UPDATE p SET rowid = 2 WHERE rowid = 1002",
    "UPDATE p SET _rowid_ = 2002 WHERE id = 3",
    "UPDATE p SET id = id",
    "UPDATE p SET name = 'a' WHERE name = 'ten'",
    "UPDATE OR IGNORE p SET name = 'd'",
    "UPDATE OR REPLACE p SET name = 'd' WHERE id = 10",
    "UPDATE OR REPLACE p SET id = 10 WHERE id = 4",
    "UPDATE OR FAIL p SET id = id + 1",
    "UPDATE OR ROLLBACK p SET n = 5000",
    "UPDATE p SET name = (SELECT 'x' || count(*) FROM p q) WHERE id = 12 RETURNING name",
    "UPDATE p SET n = src.v FROM (SELECT 7 AS v) AS src WHERE p.id = 12",
    "WITH z AS (SELECT 1 AS one) INSERT INTO p(name) SELECT 'with ' || one FROM z",
    "INSERT INTO pv(name) VALUES('through a view')",
    "INSERT INTO k VALUES('x', 1, 'v')",
    "INSERT INTO k VALUES('x', 1, 'v')",
    "INSERT OR REPLACE INTO k VALUES('x', 1, 'w'), ('y', '2', NULL)",
    "INSERT INTO k VALUES('x', 1, 'u') ON CONFLICT DO UPDATE SET v = excluded.v, b = 5",
    "INSERT INTO k VALUES(NULL, 1, 'u')",
    "UPDATE k SET a = 'z' WHERE b = 5",
    "UPDATE k SET b = b + 1",
    "DELETE FROM k WHERE a = 'z' RETURNING *",
    "INSERT INTO w VALUES(5, 'five')",
    "INSERT INTO w VALUES(-1, 'minus')",
    "INSERT INTO w(v) VALUES('none')",
    "INSERT OR REPLACE INTO w VALUES(5, '5')",
    "INSERT INTO i(id, v) VALUES('7', 1.5) RETURNING *",
    "INSERT INTO i(id, v) VALUES(NULL, 2), (NULL, 3)",
    "INSERT INTO i(id, v) VALUES(-1, 2)",
    "UPDATE i SET v = v + 1, id = 8 WHERE id = 7 RETURNING g, s",
    "INSERT INTO \"odd \"\"t'able\"\"\" VALUES('Key', x'0102')",
    "INSERT INTO \"odd \"\"t'able\"\"\" VALUES('KEY', 1)",
    "UPDATE \"odd \"\"t'able\"\"\" SET \"select\" = 'kEY'",
    "INSERT INTO \"odd \"\"t'able\"\"\" VALUES('KEY', 2) ON CONFLICT DO UPDATE SET \"größe\" = 3",
    "DELETE FROM p WHERE id = 12",
    "DELETE FROM p WHERE id = 123456",
    "SAVEPOINT one",
    "INSERT INTO p(name) VALUES('undone')",
    "ROLLBACK TO one",
    "RELEASE one",
    "INSERT INTO p(name) VALUES('kept')",
    "ALTER TABLE p DROP COLUMN extra",
    "ALTER TABLE p RENAME COLUMN n TO number",
    "ALTER TABLE p ADD COLUMN more DEFAULT 5",
    "INSERT INTO p(name, number) VALUES('altered', 5) RETURNING *",
    "ALTER TABLE p RENAME COLUMN id TO \"the id\"",
    "ALTER TABLE p RENAME TO \"p two\"",
    "INSERT INTO \"p two\"(name) VALUES('renamed') RETURNING *",
    "UPDATE \"p two\" SET \"the id\" = 7777 WHERE name = 'renamed'",
    "ALTER TABLE \"p two\" RENAME TO p",
    "ALTER TABLE p RENAME COLUMN \"the id\" TO id",
    "CREATE INDEX later ON p(more)",
    "INSERT INTO p(name) VALUES('indexed')",
    "DELETE FROM p",
    "INSERT INTO p(name) VALUES('first again') RETURNING id",
    "INSERT INTO c(v) VALUES('first again') RETURNING id",
    "VACUUM",
    "INSERT INTO p(name) VALUES('after vacuum') RETURNING id",
    "DROP TABLE c",
};

static void assert_same_table(sqlite3 *a, sqlite3 *b, const char *sql) {
    int rc1, rc2;
    char *x = app_rows(a, sql, &rc1), *y = app_rows(b, sql, &rc2);
    assert_int_equal(rc1, rc2);
    assert_string_equal(x, y);
    free(x);
    free(y);
}

static void run_matrix(const char *pragmas) {
    struct scratch plain, captured;
    scratch_open(&plain);
    scratch_open(&captured);
    sqlite3 *a = app_open(plain.path), *b = app_open(captured.path);
    app_exec(a, matrix_schema);
    app_exec(b, matrix_schema);
    install(captured.path, NULL);
    app_exec(a, pragmas);
    app_exec(b, pragmas);
    for (size_t i = 0; i < sizeof matrix / sizeof *matrix; i++) {
        char *x = visible(a, matrix[i]), *y = visible(b, matrix[i]);
        if (strcmp(x, y) != 0)
            fail_msg("%s; %s\n  plain    %s\n  captured %s", pragmas, matrix[i], x, y);
        free(x);
        free(y);
        assert_same_table(a, b, "SELECT * FROM audit");
        assert_same_table(a, b, "SELECT * FROM p");
        assert_same_table(a, b, "SELECT * FROM c");
        assert_same_table(a, b, "SELECT * FROM \"p two\"");
        assert_same_table(a, b, "SELECT * FROM k");
        assert_same_table(a, b, "SELECT * FROM w");
        assert_same_table(a, b, "SELECT * FROM i");
        assert_same_table(a, b, "SELECT * FROM \"odd \"\"t'able\"\"\"");
    }
    assert_rows(b, "PRAGMA integrity_check", "tok|;");
    sqlite3_close(a);
    sqlite3_close(b);
    /* Renamed to and fro, and a column dropped: our triggers are still word for word those that we would make. */
    assert_true(complete_now(captured.path));
    scratch_close(&plain);
    scratch_close(&captured);
}

static void test_matrix(void **state) {
    (void)state;
    run_matrix("PRAGMA recursive_triggers=OFF; PRAGMA foreign_keys=OFF");
    run_matrix("PRAGMA recursive_triggers=ON; PRAGMA foreign_keys=OFF");
    run_matrix("PRAGMA recursive_triggers=OFF; PRAGMA foreign_keys=ON");
    run_matrix("PRAGMA recursive_triggers=ON; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF");
    run_matrix("PRAGMA journal_mode=WAL; PRAGMA cell_size_check=ON; PRAGMA count_changes=OFF");
}

static void check_notes(sqlite3 *db, const char *sql, const char *notes) {
    app_exec(db, sql);
    int rc;
    char *got = app_rows(db, NOTES, &rc);
    if (strcmp(got, notes) != 0)
        fail_msg("%s\n  notes %s\n  want  %s", sql, got, notes);
    free(got);
    app_exec(db, "INSERT INTO taken SELECT max(seq) FROM _starling_dirty");
}

static void test_notes(void **state) {
    (void)state;
    struct scratch s;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE a(id INTEGER PRIMARY KEY, u UNIQUE, v); CREATE TABLE b(x REAL, y TEXT, v, PRIMARY KEY(y, x));"
                 "CREATE TABLE n(k TEXT COLLATE NOCASE PRIMARY KEY, v); CREATE TABLE nokey(v); CREATE TEMP TABLE taken(n)");
    install(s.path, NULL);
    check_notes(db, "INSERT INTO a(v) VALUES(1)", "i1|i1|i1|;");
    check_notes(db, "INSERT INTO a(id, v) VALUES(5, 1)", "i1|i2|i5|;i1|i1|i5|;");
    check_notes(db, "INSERT INTO a(id, v) VALUES(NULL, 1)", "i1|i1|i6|;");
    check_notes(db, "INSERT INTO a(id, v) VALUES('7', 1)", "i1|i2|i7|;i1|i1|i7|;");
    check_notes(db, "INSERT INTO a(id, v) VALUES(-1, 1)", "i1|i1|i-1|;");
    check_notes(db, "UPDATE a SET v = 2 WHERE id = 5", "i1|i3|i5|;");
    check_notes(db, "UPDATE a SET id = 50 WHERE id = 5", "i1|i5|i5|;i1|i3|i50|;i1|i3|i50|;");
    check_notes(db, "UPDATE a SET rowid = 51 WHERE id = 50", "i1|i5|i50|;i1|i3|i51|;i1|i3|i51|;");
    check_notes(db, "UPDATE a SET oid = 50, _rowid_ = 52 WHERE id = 51", "i1|i5|i51|;i1|i3|i52|;i1|i3|i52|;");
    check_notes(db, "DELETE FROM a WHERE id > 6", "i1|i4|i7|;i1|i4|i52|;");
    check_notes(db, "INSERT OR IGNORE INTO a(id) VALUES(1)", "i1|i2|i1|;");
    check_notes(db, "INSERT INTO a(id) VALUES(1) ON CONFLICT DO UPDATE SET v = 9", "i1|i2|i1|;i1|i3|i1|;");
    check_notes(db, "REPLACE INTO a(id) VALUES(1)", "i1|i2|i1|;i1|i1|i1|;");
    check_notes(db, "PRAGMA recursive_triggers=ON; REPLACE INTO a(id) VALUES(1); PRAGMA recursive_triggers=OFF",
                "i1|i2|i1|;i1|i4|i1|;i1|i1|i1|;");
    check_notes(db, "BEGIN; INSERT INTO a(v) VALUES(3); ROLLBACK", "");
    check_notes(db, "INSERT INTO nokey VALUES(3)", "i4|i1|i1|;"); /* the rowid */
    check_notes(db, "INSERT INTO b VALUES(1, 2, 3)", "i2|i1|t2|;");
    assert_rows(db, "SELECT k0, k1 FROM _starling_dirty ORDER BY seq DESC LIMIT 1", "t2|f1.0|;");
    check_notes(db, "UPDATE b SET x = 2", "i2|i5|t2|;i2|i3|t2|;i2|i3|t2|;");
    assert_rows(db, "SELECT kind, k0, k1 FROM _starling_dirty ORDER BY seq DESC LIMIT 3", "i3|t2|f2.0|;i3|t2|f2.0|;i5|t2|f1.0|;");
    check_notes(db, "INSERT INTO b VALUES(NULL, NULL, 3)", "i2|i1|n|;");
    check_notes(db, "INSERT INTO n VALUES('a', 1)", "i3|i1|ta|;");
    check_notes(db, "UPDATE n SET k = 'A'", "i3|i3|tA|;");
    check_notes(db, "UPDATE n SET k = 'B'", "i3|i5|tA|;i3|i3|tB|;i3|i3|tB|;");
    /* One statement, one time; ours is the clock's. */
    app_exec(db, "WITH RECURSIVE r(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM r WHERE i < 9000) INSERT INTO a(id) SELECT i FROM r");
    assert_int_equal(app_int(db, "SELECT count(DISTINCT at) FROM _starling_dirty WHERE typeof(k0) = 'integer' AND k0 >= 100"), 1);
    assert_int_equal(app_int(db, "SELECT count(DISTINCT nonce) FROM _starling_dirty"), app_int(db, "SELECT count(*) FROM _starling_dirty"));
    sqlite3_stmt *q;
    sqlite3_prepare_v2(db, "SELECT at FROM _starling_dirty ORDER BY seq DESC", -1, &q, NULL);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    assert_int_equal(sqlite3_column_type(q, 0), SQLITE_FLOAT);
    int64_t late = (int64_t)time(NULL) * 1000 - note_ms(sqlite3_column_double(q, 0));
    assert_true(late > -1500 && late < 20000);
    sqlite3_finalize(q);
    sqlite3_close(db);
    scratch_close(&s);
}

/* A trigger that made SQLite fill a temporary table for each row (INSERT ... SELECT into a table with a trigger does) would cost 26 us a row. */
static void test_cheap(void **state) {
    (void)state;
    static const char *const statements[] = {"INSERT INTO a(v) VALUES(1)", "INSERT INTO a VALUES(5, 1)", "UPDATE a SET v = 1 WHERE id = 1",
                                             "UPDATE a SET id = 7 WHERE id = 1", "DELETE FROM a WHERE id = 1"};
    struct scratch s;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE a(id INTEGER PRIMARY KEY, v)");
    install(s.path, NULL);
    app_exec(db, "SELECT * FROM a"); /* EXPLAIN alone would not see that the schema has changed */
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        char sql[100];
        int rc;
        snprintf(sql, sizeof sql, "EXPLAIN %s", statements[i]);
        char *program = app_rows(db, sql, &rc);
        assert_int_equal(rc, SQLITE_OK);
        assert_non_null(strstr(program, "Program"));
        assert_null(strstr(program, "Ephemeral"));
        free(program);
    }
    sqlite3_close(db);
    scratch_close(&s);
}

static void test_note_ms(void **state) {
    (void)state;
    assert_int_equal(note_ms(2440587.5), 0);
    assert_int_equal(note_ms(2440588.5), 86400000);
    assert_int_equal(note_ms(2440587.5 - 1), -86400000);
    assert_int_equal(note_ms(NAN), 0);
    assert_int_equal(note_ms(INFINITY), 0);
    assert_int_equal(note_ms(-1e300), 0);
    sqlite3 *db = app_open(":memory:");
    for (int64_t ms = 1700000000000; ms < 1700000003000; ms += 7) {
        sqlite3_stmt *q;
        sqlite3_prepare_v2(db, "SELECT julianday(?1 / 1000.0, 'unixepoch')", -1, &q, NULL);
        sqlite3_bind_int64(q, 1, ms);
        assert_int_equal(sqlite3_step(q), SQLITE_ROW);
        int64_t off = note_ms(sqlite3_column_double(q, 0)) - ms;
        assert_true(off >= -1 && off <= 1);
        sqlite3_finalize(q);
    }
    sqlite3_close(db);
}

static void test_schema_as_before(void **state) {
    (void)state;
    struct scratch s;
    int rc;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL");
    app_exec(db, matrix_schema);
    app_exec(db, "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO p(name) VALUES('x'); ANALYZE");
    char *before = app_rows(db, "SELECT * FROM sqlite_schema", &rc), *stat = app_rows(db, "SELECT * FROM sqlite_stat1", &rc);
    install(s.path, NULL);
    app_exec(db, "INSERT INTO p(name) VALUES('y'); ANALYZE; DELETE FROM p WHERE name = 'y'");
    assert_true(app_int(db, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_starling%' ESCAPE '\\'") > 10);
    remove_all(s.path);
    assert_rows(db, "SELECT * FROM sqlite_schema", before);
    app_exec(db, "ANALYZE");
    char *stat_after = app_rows(db, "SELECT * FROM sqlite_stat1", &rc);
    assert_null(strstr(stat_after, "_starling"));
    free(stat_after);
    free(before);
    free(stat);
    sqlite3_close(db);
    scratch_close(&s);
}

static void test_numbers_and_repair(void **state) {
    (void)state;
    struct scratch s;
    bool *made;
    int rc;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "CREATE TABLE a(id INTEGER PRIMARY KEY, v); CREATE TABLE b(id INTEGER PRIMARY KEY, v); CREATE TEMP TABLE taken(n)");
    assert_false(complete_now(s.path));
    install(s.path, &made);
    assert_true(made[0] && made[1]);
    free(made);
    install(s.path, &made);
    assert_false(made[0] || made[1]);
    free(made);
    char *schema = app_rows(db, "SELECT * FROM sqlite_schema", &rc);
    install(s.path, NULL);
    assert_rows(db, "SELECT * FROM sqlite_schema", schema); /* nothing was made twice */
    free(schema);
    check_notes(db, "INSERT INTO b(v) VALUES(1)", "i2|i1|i1|;");
    /* A rebuilt table gets a number of its own, also when its old number shows in notes only. */
    app_exec(
        db,
        "CREATE TABLE b2(id INTEGER PRIMARY KEY, v, w); INSERT INTO b2 SELECT id, v, 1 FROM b; DROP TABLE b; ALTER TABLE b2 RENAME TO b");
    assert_false(complete_now(s.path));
    install(s.path, &made);
    assert_true(!made[0] && made[1]);
    free(made);
    check_notes(db, "INSERT INTO b(v) VALUES(1)", "i3|i1|i2|;");
    /* A wider key. */
    app_exec(db, "CREATE TABLE wide(a, b, c, d, e, PRIMARY KEY(c, a, b, e, d))");
    install(s.path, NULL);
    app_exec(db, "INSERT INTO wide VALUES('a', 'b', 'c', 'd', 'e')");
    assert_rows(db, "SELECT tbl, k0, k1, k2, k3, k4 FROM _starling_dirty ORDER BY seq DESC LIMIT 1", "i4|tc|ta|tb|te|td|;");
    app_exec(db, "INSERT INTO taken SELECT max(seq) FROM _starling_dirty");
    /* Damage: a trigger lost, one changed, one that is not ours to have. */
    app_exec(db, "DROP TRIGGER _starling_1_d; DROP TRIGGER _starling_3_u;"
                 "CREATE TRIGGER _starling_3_u AFTER UPDATE ON b BEGIN SELECT 1; END; CREATE TRIGGER _starling_old AFTER DELETE ON b BEGIN "
                 "SELECT 1; END");
    assert_false(complete_now(s.path));
    install(s.path, &made);
    assert_true(made[0] && made[1] && !made[2]);
    free(made);
    assert_int_equal(app_int(db, "SELECT count(*) FROM sqlite_schema WHERE name = '_starling_old'"), 0);
    check_notes(db, "DELETE FROM a; UPDATE b SET v = 2 WHERE id = 1", "i3|i3|i1|;");
    /* The trim trigger, the marks, and the note table itself. */
    app_exec(db, "DROP TRIGGER _starling_trim; DROP TABLE _starling_mark");
    assert_false(complete_now(s.path));
    install(s.path, &made);
    assert_false(made[0] || made[1] || made[2]);
    free(made);
    app_exec(db, "DROP TABLE _starling_dirty");
    assert_int_not_equal(sqlite3_exec(db, "INSERT INTO a(v) VALUES(1)", NULL, NULL, NULL), SQLITE_OK);
    assert_false(complete_now(s.path));
    install(s.path, &made);
    assert_true(made[0] && made[1] && made[2]);
    free(made);
    /* A connection that read the schema meanwhile reads it anew with its next statement that can run. */
    app_exec(db, "SELECT * FROM a; INSERT INTO a(v) VALUES(1); DROP TABLE _starling_dirty; CREATE TABLE _starling_dirty(x, y)");
    install(s.path, NULL);
    app_exec(db, "SELECT * FROM a; INSERT INTO a(v) VALUES(1)");
    assert_rows(db, "SELECT seq, tbl, kind, k4 FROM _starling_dirty", "i1|i1|i1|n|;");
    sqlite3_close(db);
    scratch_close(&s);
}

static void test_excluded_and_stale(void **state) {
    (void)state;
    struct scratch s;
    struct appfile a;
    struct schema schema;
    struct capture_mark mark;
    char why[256];
    enum capture_is is;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE a(id INTEGER PRIMARY KEY, v); CREATE TABLE b(id INTEGER PRIMARY KEY, v)");
    assert_int_equal(appfile_open(&a, s.path, NULL, false, why, sizeof why), 0);
    assert_int_equal(capture_mark_read(a.reader, &mark), 0);
    assert_false(mark.found);
    assert_int_equal(schema_read(a.reader, &schema), 0);
    assert_int_equal(install_within(&a, &schema, 100, NULL), 0);
    assert_int_equal(schema.tables[1].number, 2);
    schema.tables[1].excluded = true;
    assert_int_equal(capture_check(a.reader, &schema, &is, NULL), 0);
    assert_int_equal(is, CAPTURE_LACKS);
    assert_int_equal(install_within(&a, &schema, 100, NULL), 0);
    assert_int_equal(schema.tables[1].number, 0);
    app_exec(db, "INSERT INTO b(v) VALUES(1); INSERT INTO a(v) VALUES(1)");
    assert_rows(db, "SELECT tbl FROM _starling_dirty", "i1|;");
    app_exec(db, "ALTER TABLE a ADD COLUMN w");
    assert_int_equal(install_within(&a, &schema, 100, NULL), ERR_SCHEMA);
    assert_int_equal(sqlite3_get_autocommit(a.writer), 1);
    /* Marks. */
    assert_int_equal(capture_mark_read(a.reader, &mark), 0);
    assert_false(mark.found);
    app_exec(db, "INSERT INTO _starling_mark VALUES(1, x'000102030405060708090a0b0c0d0e0f', 7, 9)");
    assert_int_equal(capture_mark_read(a.reader, &mark), 0);
    assert_true(mark.found && mark.state[15] == 15 && mark.projection == 7 && mark.note == 9);
    app_exec(db, "UPDATE _starling_mark SET state = 'text'");
    assert_int_equal(capture_mark_read(a.reader, &mark), 0);
    assert_false(mark.found);
    /* Our own writer fires no triggers. */
    assert_int_equal(sqlite3_exec(a.writer, "INSERT INTO a(v) VALUES(2)", NULL, NULL, NULL), SQLITE_OK);
    assert_rows(db, "SELECT count(*) FROM _starling_dirty", "i1|;");
    schema_release(&schema);
    appfile_close(&a);
    sqlite3_close(db);
    scratch_close(&s);
}

static void test_ring(void **state) {
    (void)state;
    struct scratch s;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE a(id INTEGER PRIMARY KEY, v); CREATE TABLE k(k TEXT PRIMARY KEY) WITHOUT ROWID");
    install(s.path, NULL);
    app_exec(db, "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 700) INSERT INTO a(v) SELECT i FROM r");
    assert_int_equal(app_int(db, "SELECT count(*) FROM _starling_dirty"), 700);
    /* As if a million notes had gone by: those at or below seq - NOTES_MAX go, a block at a time, whatever the kind of note. */
    app_exec(db, "INSERT INTO _starling_dirty(seq) VALUES(1000500)");
    app_exec(db, "INSERT INTO a(v) VALUES(1)");
    assert_int_equal(app_int(db, "SELECT min(seq) FROM _starling_dirty"), 1);
    app_exec(db,
             "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 256) INSERT OR IGNORE INTO a(id) SELECT 1 FROM r");
    int64_t least = app_int(db, "SELECT min(seq) FROM _starling_dirty"), most = app_int(db, "SELECT max(seq) FROM _starling_dirty");
    assert_true(least > 256);
    assert_true(most - least < NOTES_MAX + 256);
    app_exec(db, "UPDATE a SET v = 5 WHERE id <= 512");
    least = app_int(db, "SELECT min(seq) FROM _starling_dirty"), most = app_int(db, "SELECT max(seq) FROM _starling_dirty");
    assert_true(least > 700 || most - least < NOTES_MAX + 256);
    app_exec(db, "PRAGMA recursive_triggers=ON; INSERT OR REPLACE INTO a(id) SELECT id FROM a; DELETE FROM a");
    least = app_int(db, "SELECT min(seq) FROM _starling_dirty"), most = app_int(db, "SELECT max(seq) FROM _starling_dirty");
    assert_true(most - least < NOTES_MAX + 256);
    sqlite3_close(db);
    scratch_close(&s);
}

/* In DELETE mode a writer that never rests can keep our reads out for longer than they wait: as the store does, again. */
static void read_beside_writer(struct appfile *a, struct schema *schema) {
    int err;
    while ((err = schema_read(a->reader, schema)) == ERR_BUSY)
        ;
    assert_int_equal(err, 0);
}

/* Another process writes without a pause while we install, remove and install again: none of its writes fails. */
static void busy_install(const char *mode) {
    struct scratch s;
    struct appfile a;
    struct schema schema;
    char why[256], sql[128];
    int status, installed = 0;
    scratch_open(&s);
    sqlite3 *db = app_open(s.path);
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s; CREATE TABLE a(id INTEGER PRIMARY KEY, v); CREATE TABLE b(id TEXT PRIMARY KEY, v)",
             mode);
    app_exec(db, sql);
    sqlite3_close(db);
    pid_t child = fork();
    if (!child) {
        int failed = 0;
        db = app_open(s.path);
        sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
        for (int64_t until = clock_us() + 1500000; clock_us() < until;) {
            failed += sqlite3_exec(db, "INSERT INTO a(v) VALUES(1)", NULL, NULL, NULL) != SQLITE_OK;
            failed += sqlite3_exec(db, "BEGIN IMMEDIATE; INSERT INTO b VALUES(random(), 1); UPDATE a SET v = 2 WHERE id = 1; COMMIT", NULL,
                                   NULL, NULL) != SQLITE_OK;
        }
        sqlite3_close(db);
        _exit(failed ? 1 : 0);
    }
    int opened;
    while ((opened = appfile_open(&a, s.path, NULL, false, why, sizeof why)) == ERR_BUSY)
        ;
    assert_int_equal(opened, 0);
    for (int i = 0; i < 20; i++) {
        read_beside_writer(&a, &schema);
        int err = install_within(&a, &schema, 500, NULL);
        assert_true(err == 0 || err == ERR_BUSY);
        installed += err == 0;
        schema_release(&schema);
        if (i < 19) {
            err = remove_within(&a, 500);
            assert_true(err == 0 || err == ERR_BUSY);
        }
        usleep(20000); /* paces our side, so that the writer commits in between */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    print_message("%s: installed %d of 20 times\n", mode, installed);
    assert_true(installed > 5);
    assert_int_equal(schema_read(a.reader, &schema), 0);
    assert_int_equal(install_within(&a, &schema, 500, NULL), 0);
    /* A lock that is held: busy, within the time allowed, and nothing changed. */
    schema.tables[0].excluded = true;
    db = app_open(s.path);
    app_exec(db, "BEGIN IMMEDIATE");
    int64_t start = clock_us();
    assert_int_equal(install_within(&a, &schema, 100, NULL), ERR_BUSY);
    assert_int_equal(remove_within(&a, 100), ERR_BUSY);
    assert_true(clock_us() - start >= 200000 && clock_us() - start < 3000000);
    assert_int_equal(sqlite3_get_autocommit(a.writer), 1);
    app_exec(db, "COMMIT");
    assert_int_equal(install_within(&a, &schema, 100, NULL), 0);
    schema_release(&schema);
    sqlite3_close(db);
    appfile_close(&a);
    scratch_close(&s);
}

static void test_busy_install(void **state) {
    (void)state;
    busy_install("wal");
    busy_install("delete");
}

static int count_looks(unsigned type, void *ctx, void *stmt, void *text) {
    (void)type, (void)stmt;
    *(int *)ctx += strstr(text, "table_xinfo") || strstr(text, "type = 'trigger'");
    return 0;
}

/* What is there was looked at before: under the lock there are only the statements that make what lacks. */
static void test_the_lock_is_held_for_statements(void **state) {
    struct scratch scratch;
    struct appfile a;
    struct schema s;
    enum capture_is is;
    char why[256];
    int looks = 0;
    (void)state;
    scratch_open(&scratch);
    sqlite3 *db = app_open(scratch.path);
    app_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(k TEXT PRIMARY KEY)");
    assert_int_equal(appfile_open(&a, scratch.path, NULL, false, why, sizeof why), 0);
    assert_int_equal(schema_read(a.writer, &s), 0);
    assert_int_equal(capture_check(a.writer, &s, &is, NULL), 0);
    assert_int_equal(is, CAPTURE_LACKS);
    assert_int_equal(appfile_begin(&a, true), 0);
    sqlite3_trace_v2(a.writer, SQLITE_TRACE_STMT, count_looks, &looks);
    assert_int_equal(capture_install(a.writer, &s, NULL, 0, NULL), 0);
    sqlite3_trace_v2(a.writer, 0, NULL, NULL);
    assert_int_equal(looks, 0);
    assert_int_equal(appfile_commit(&a), 0);
    assert_int_equal(capture_check(a.reader, &s, &is, NULL), 0);
    assert_int_equal(is, CAPTURE_COMPLETE);

    /* Another version than the one that was looked at: nothing of it is used. */
    app_exec(db, "CREATE TABLE v(id INTEGER PRIMARY KEY)");
    assert_int_equal(appfile_begin(&a, true), 0);
    assert_int_equal(capture_install(a.writer, &s, NULL, 0, NULL), ERR_SCHEMA);
    appfile_rollback(&a);
    schema_release(&s);
    appfile_close(&a);
    sqlite3_close(db);
    scratch_close(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_cheap),
        cmocka_unit_test(test_note_ms),
        cmocka_unit_test(test_schema_as_before),
        cmocka_unit_test(test_numbers_and_repair),
        cmocka_unit_test(test_excluded_and_stale),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_busy_install),
        cmocka_unit_test(test_the_lock_is_held_for_statements),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
