/* The engine: virtual tables that the application's triggers fill are right on every server, and no trigger of the application runs twice. */
#include "store_rig.h"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    rig_time_passes(r);
}

static void assert_index_whole(struct rig *r, const char *index) {
    for (uint32_t i = 0; i < r->count; i++) {
        char *sql = sqlite3_mprintf("INSERT INTO \"%w\"(\"%w\") VALUES('integrity-check')", index, index);
        app_exec(rig_app(r, i), sql);
        sqlite3_free(sql);
    }
}

#define DOCS                                                                                                                               \
    "CREATE TABLE doc(id INTEGER PRIMARY KEY, title TEXT, body TEXT);"                                                                     \
    "CREATE VIRTUAL TABLE doc_index USING fts5(title, body, content='doc', content_rowid='id');"                                           \
    "CREATE TRIGGER doc_ai AFTER INSERT ON doc BEGIN INSERT INTO doc_index(rowid, title, body) VALUES (new.id, new.title, new.body); END;" \
    "CREATE TRIGGER doc_ad AFTER DELETE ON doc BEGIN INSERT INTO doc_index(doc_index, rowid, title, body) VALUES('delete', old.id, "       \
    "old.title, old.body); END;"                                                                                                           \
    "CREATE TRIGGER doc_au AFTER UPDATE ON doc BEGIN"                                                                                      \
    "  INSERT INTO doc_index(doc_index, rowid, title, body) VALUES('delete', old.id, old.title, old.body);"                                \
    "  INSERT INTO doc_index(rowid, title, body) VALUES (new.id, new.title, new.body); END;"

static void walk_docs(struct rig *r) {
    rig_act(r, 0, "INSERT INTO doc(title, body) VALUES('first', 'red apple'), ('second', 'green pear'), ('third', 'red cherry')");
    share_same(r);
    assert_everywhere(r, "SELECT rowid FROM doc_index('red') ORDER BY 1", "i1|;i3|;");
    rig_act(
        r, 1,
        "UPDATE doc SET body = 'yellow apple' WHERE id = 1; DELETE FROM doc WHERE id = 2; INSERT INTO doc VALUES(9, 'ninth', 'red wine')");
    share_same(r);
    assert_everywhere(r, "SELECT rowid FROM doc_index('red') ORDER BY 1", "i3|;i9|;");
    assert_everywhere(r, "SELECT rowid, title FROM doc_index('apple OR pear') ORDER BY 1", "i1|tfirst|;");
    rig_act(r, 0, "UPDATE doc SET id = 20 WHERE id = 3; INSERT INTO doc VALUES(9, '', '') ON CONFLICT DO UPDATE SET body = 'blue sky'");
    share_same(r);
    assert_everywhere(r, "SELECT rowid FROM doc_index('red') ORDER BY 1", "i20|;");
    assert_same_table(r, "doc");
}

static void test_external_content(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, DOCS);
    walk_docs(&r);
    for (uint32_t i = 0; i < 2; i++) {
        assert_problem(&r.peers[i], "doc_index", "the application's triggers fill it on every server: \"doc_ai\", \"doc_ad\", \"doc_au\"");
        peer_reopen(&r.peers[i]);
    }
    rig_act(&r, 1, "INSERT INTO doc VALUES(30, 'again', 'red rose'); DELETE FROM doc WHERE id = 20");
    share_same(&r);
    assert_everywhere(&r, "SELECT rowid FROM doc_index('red') ORDER BY 1", "i30|;");
    assert_everywhere(&r, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%starling_feed%'", "i0|;");
    rig_act(&r, 1, "DROP TRIGGER doc_ai");
    rig_act(&r, 1, "INSERT INTO doc VALUES(31, 'unseen', 'red')"); /* server 0 still has the trigger, and its index is filled */
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO doc VALUES(32, 'here', 'red')");
    share_same(&r);
    assert_rows(rig_app(&r, 0), "SELECT rowid FROM doc_index('red') ORDER BY 1", "i30|;i31|;i32|;");
    assert_rows(rig_app(&r, 1), "SELECT rowid FROM doc_index('red') ORDER BY 1", "i30|;");
    rig_close(&r);
}

/* The joining server has nothing: tables, index and triggers are made, and the index is filled as rows are shown. */
static void test_a_database_made_whole(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
    app_exec(rig_app(&r, 0), DOCS "INSERT INTO doc VALUES(5, 'before', 'old red barn')");
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    r.peers[1].create = true;
    peer_open(&r.peers[1]);
    rig_share(&r);
    assert_int_equal(side_open_app(&r.peers[1].s), SQLITE_OK);
    rig_time_passes(&r);
    assert_everywhere(&r, "SELECT rowid FROM doc_index('red') ORDER BY 1", "i5|;");
    rig_act(&r, 0, "DELETE FROM doc");
    share_same(&r);
    walk_docs(&r);
    rig_close(&r);
}

static void test_other_virtual_tables(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2,
             "CREATE TABLE note(k TEXT PRIMARY KEY, body TEXT);"
             /* with content of its own, by the rowid, which is another one on each server */
             "CREATE VIRTUAL TABLE note_index USING fts5(body);"
             "CREATE TRIGGER n1 AFTER INSERT ON note BEGIN INSERT OR REPLACE INTO note_index(rowid, body) VALUES(new.rowid, new.body); END;"
             "CREATE TRIGGER n2 AFTER UPDATE OF body ON note BEGIN UPDATE note_index SET body = new.body WHERE rowid = old.rowid; END;"
             "CREATE TRIGGER n3 AFTER DELETE ON note BEGIN DELETE FROM note_index WHERE rowid = old.rowid; END;"
             /* without content */
             "CREATE VIRTUAL TABLE bare USING fts5(body, content='');"
             "CREATE TRIGGER b1 AFTER INSERT ON note BEGIN INSERT INTO bare(rowid, body) VALUES(new.rowid, new.body); END;"
             "CREATE TRIGGER b2 BEFORE UPDATE ON note BEGIN INSERT INTO bare(bare, rowid, body) VALUES('delete', old.rowid, old.body); END;"
             "CREATE TRIGGER b3 AFTER UPDATE ON note BEGIN INSERT INTO bare(rowid, body) VALUES(new.rowid, new.body); END;"
             "CREATE TRIGGER b4 BEFORE DELETE ON note BEGIN INSERT INTO bare(bare, rowid, body) VALUES('delete', old.rowid, old.body); END;"
             /* FTS4 */
             "CREATE VIRTUAL TABLE four USING fts4(body);"
             "CREATE TRIGGER f1 AFTER INSERT ON note BEGIN INSERT INTO four(docid, body) VALUES(new.rowid, new.body); END;"
             "CREATE TRIGGER f2 BEFORE UPDATE ON note BEGIN DELETE FROM four WHERE docid = old.rowid; END;"
             "CREATE TRIGGER f3 AFTER UPDATE ON note BEGIN INSERT INTO four(docid, body) VALUES(new.rowid, new.body); END;"
             "CREATE TRIGGER f4 BEFORE DELETE ON note BEGIN DELETE FROM four WHERE docid = old.rowid; END;"
             /* an R*Tree */
             "CREATE TABLE place(id INTEGER PRIMARY KEY, x REAL, y REAL); CREATE VIRTUAL TABLE place_tree USING rtree(id, x0, x1, y0, y1);"
             "CREATE TRIGGER p1 AFTER INSERT ON place BEGIN INSERT INTO place_tree VALUES(new.id, new.x, new.x, new.y, new.y); END;"
             "CREATE TRIGGER p2 AFTER UPDATE ON place BEGIN REPLACE INTO place_tree VALUES(new.id, new.x, new.x, new.y, new.y); END;"
             "CREATE TRIGGER p3 AFTER DELETE ON place BEGIN DELETE FROM place_tree WHERE id = old.id; END");
    static const char
        *const NOTES = "SELECT k FROM note JOIN note_index ON note_index.rowid = note.rowid WHERE note_index MATCH 'red' ORDER BY 1",
               *const BARE = "SELECT k FROM note JOIN bare ON bare.rowid = note.rowid WHERE bare MATCH 'red' ORDER BY 1",
               *const FOUR = "SELECT k FROM note JOIN four ON four.docid = note.rowid WHERE four MATCH 'red' ORDER BY 1",
               *const PLACES = "SELECT id FROM place_tree WHERE x0 < 10 ORDER BY 1";
    app_exec(rig_app(&r, 0), "INSERT INTO note VALUES('a', 'red'), ('b', 'red and blue')");
    app_exec(rig_app(&r, 1), "INSERT INTO note VALUES('x', 'nothing'), ('y', 'red'), ('z', 'green')");
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO place VALUES(1, 5, 5), (2, 50, 5)");
    share_same(&r);
    for (int i = 0; i < 3; i++) {
        assert_everywhere(&r, (const char *const[]){NOTES, BARE, FOUR}[i], "ta|;tb|;ty|;");
    }
    assert_everywhere(&r, PLACES, "i1|;");
    rig_act(&r, 0, "UPDATE note SET body = 'black' WHERE k = 'y'; DELETE FROM note WHERE k = 'b'; UPDATE place SET x = 100 - x");
    share_same(&r);
    rig_act(&r, 1,
            "UPDATE note SET body = 'red wine' WHERE k = 'x'; UPDATE note SET k = 'A' WHERE k = 'a'; INSERT INTO place VALUES(3, 1, 1)");
    share_same(&r);
    for (int i = 0; i < 3; i++)
        assert_everywhere(&r, (const char *const[]){NOTES, BARE, FOUR}[i], "tA|;tx|;");
    assert_everywhere(&r, PLACES, "i3|;");
    rig_act(&r, 0, "DELETE FROM place WHERE id = 3; DELETE FROM note");
    share_same(&r);
    for (int i = 0; i < 3; i++)
        assert_everywhere(&r, (const char *const[]){NOTES, BARE, FOUR}[i], "");
    assert_everywhere(&r, PLACES, "");
    assert_index_whole(&r, "note_index");
    assert_index_whole(&r, "bare");
    rig_close(&r);
}

/* One trigger writes an ordinary table, too, and its text is no plain one. */
static void test_only_what_fills_the_index_runs(void **state) {
    (void)state;
    struct rig r;
    rig_open(
        &r, 2,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, \"begin\" INT, v TEXT); CREATE TABLE audit(n INTEGER PRIMARY KEY, what TEXT); CREATE TABLE "
        "count(k TEXT PRIMARY KEY, n INT); INSERT INTO count VALUES('t', 0); CREATE VIRTUAL TABLE \"the ;index\" USING fts5(v);"
        "CREATE TRIGGER IF NOT EXISTS main.\"odd ; BEGIN \"\"name\" -- BEGIN ;\n"
        " AFTER INSERT ON t FOR EACH ROW WHEN new.begin IS NOT 7 AND new.v <> 'BEGIN; END' /* BEGIN ; */ BEGIN"
        "  INSERT INTO audit(what) VALUES('a;b' || new.v);"
        "  SELECT CASE WHEN new.v = 'no' THEN RAISE(ABORT, 'no; END') END;"
        "  INSERT INTO \"the ;index\"(rowid, v) SELECT new.id, CASE WHEN new.v = 'x;' THEN 'y' ELSE new.v || ' seen' END; -- ; END\n"
        "  UPDATE count SET n = n + 1 WHERE k = 't' /* ; */;"
        "  DELETE FROM \"the ;index\" WHERE rowid < 0;"
        " END;"
        "CREATE VIEW both AS SELECT id, v FROM t;"
        "CREATE TRIGGER both_ii INSTEAD OF INSERT ON both BEGIN INSERT INTO t(id, v) VALUES(new.id, new.v); INSERT INTO audit(what) "
        "VALUES('through the view'); END");
    rig_act(&r, 0, "INSERT INTO t VALUES(1, 7, 'quiet'), (2, 0, 'loud'), (3, 0, 'x;')");
    share_same(&r);
    rig_act(&r, 1, "INSERT INTO both VALUES(4, 'viewed')");
    share_same(&r);
    assert_everywhere(&r, "SELECT rowid, v FROM \"the ;index\" ORDER BY 1", "i2|tloud seen|;i3|ty|;i4|tviewed seen|;");
    assert_everywhere(&r, "SELECT what FROM audit ORDER BY n", "ta;bloud|;ta;bx;|;ta;bviewed|;tthrough the view|;");
    assert_everywhere(&r, "SELECT n FROM count", "i3|;");
    assert_same_table(&r, "t");
    assert_same_table(&r, "audit");
    rig_close(&r);
}

static void shout(sqlite3_context *c, int n, sqlite3_value **v) {
    (void)n;
    sqlite3_result_value(c, v[0]);
}

/* What cannot be filled here is said, and the rows are shown all the same. */
static void test_what_is_not_filled_is_named(void **state) {
    (void)state;
    struct rig r;
    rig_start(&r, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct peer *p = &r.peers[i];
        assert_int_equal(side_open_app(&p->s), SQLITE_OK);
        assert_int_equal(sqlite3_create_function(p->s.app, "shout", 1, SQLITE_UTF8 | SQLITE_INNOCUOUS, NULL, shout, NULL, NULL), 0);
        app_exec(p->s.app, "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE VIRTUAL TABLE loud USING fts5(v); CREATE VIRTUAL TABLE "
                           "direct USING fts5(v);"
                           "CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN INSERT INTO loud(rowid, v) VALUES(new.id, shout(new.v)); END");
        peer_open(p);
    }
    rig_share(&r);
    rig_act(&r, 0, "INSERT INTO t(v) VALUES('a'); INSERT INTO direct VALUES('words')");
    share_same(&r);
    assert_same_table(&r, "t");
    assert_problem(&r.peers[1], "loud", "cannot run here for changes of other servers: \"t_ai\"");
    assert_problem(&r.peers[1], "loud", "shout");
    assert_problem(&r.peers[1], "direct", "not replicated: is a virtual table");
    assert_rows(rig_app(&r, 1), "SELECT count(*) FROM direct", "i0|;");
    rig_close(&r);
}

/* A damaged index must not stop the database: the row waits, with the reason, until the index is mended. */
static void test_a_damaged_index(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, DOCS "CREATE TABLE other(id INTEGER PRIMARY KEY, v)");
    rig_act(&r, 0, "INSERT INTO doc VALUES(1, 'a', 'red'), (2, 'b', 'red')");
    share_same(&r);
    sqlite3_db_config(rig_app(&r, 1), SQLITE_DBCONFIG_DEFENSIVE, 0, NULL);
    app_exec(rig_app(&r, 1), "UPDATE doc_index_data SET block = x'00'");
    rig_act(&r, 0, "UPDATE doc SET body = 'blue' WHERE id = 1; INSERT INTO other VALUES(1, 1)");
    peer_pull(&r.peers[1], &r.peers[0]);
    assert_rows(rig_app(&r, 1), "SELECT * FROM other", "i1|i1|;");
    assert_rows(rig_app(&r, 1), "SELECT body FROM doc WHERE id = 1", "tred|;");
    assert_problem(&r.peers[1], "doc", "rebuild");
    assert_int_equal(r.peers[1].reopened, 0);
    app_exec(rig_app(&r, 1), "INSERT INTO doc_index(doc_index) VALUES('rebuild')");
    peer_retry(&r.peers[1]);
    share_same(&r);
    assert_same_table(&r, "doc");
    assert_everywhere(&r, "SELECT rowid FROM doc_index('red')", "i2|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_external_content),
        cmocka_unit_test(test_a_database_made_whole),
        cmocka_unit_test(test_other_virtual_tables),
        cmocka_unit_test(test_only_what_fills_the_index_runs),
        cmocka_unit_test(test_what_is_not_filled_is_named),
        cmocka_unit_test(test_a_damaged_index),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
