/* The engine: closed at any moment and opened again: nothing twice, nothing lost. Epochs, reading the log, barriers. */
#include "store_rig.h"

#define TABLES "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(k TEXT PRIMARY KEY, v)"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

static uint64_t have(struct rig *r, uint32_t i, uint32_t of) {
    struct db_state state;
    store_state(r->peers[i].s.store, &state);
    return vv_get(&state.have, &r->peers[of].s.origin);
}

static void give_all(struct rig *r, uint32_t from, uint32_t to) {
    for (uint32_t k = 0; k < r->peers[from].s.made.count; k++)
        side_queue(&r->peers[to].s, r->peers[from].s.made.items[k]);
}

/* Something else came just before the application's write, and the node went down just after it: the row that was there for long is seen. */
static void test_what_was_on_show_stays_seen(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO k VALUES('x', 'long there'), ('y', 1)");
    share_same(&r);
    rig_act(&r, 0, "INSERT INTO k VALUES('new', 1)");
    peer_pull(&r.peers[1], &r.peers[0]);
    app_exec(rig_app(&r, 1), "UPDATE k SET v = 'mine' WHERE k = 'x'; DELETE FROM k WHERE k = 'y'; UPDATE k SET v = 2 WHERE k = 'new'");
    peer_reopen(&r.peers[1]);
    share_same(&r);
    assert_everywhere(&r, "SELECT k, v FROM k ORDER BY k", "tnew|i2|;tx|tmine|;");
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(peer_conflicts(&r.peers[i]), 1);
        assert_true(peer_lost(&r.peers[i], "v", "1")); /* of the row that had only just come */
    }
    rig_close(&r);
}

/* Server 0 writes, server 1 takes; each is closed after so many turns, and once more. */
static void test_restart_at_every_stage(void **state) {
    (void)state;
    for (int turns0 = 0; turns0 < 4; turns0++)
        for (int turns1 = 0; turns1 < 4; turns1++) {
            struct rig r;
            rig_open(&r, 2, TABLES);
            static const char *const SQL[] = {
                "INSERT INTO t(a, b) VALUES(1, 1), (2, 2), (3, 3); INSERT INTO k VALUES('x', 1)",
                "UPDATE t SET a = a + 10; UPDATE k SET v = 2",
                "DELETE FROM t WHERE id = 3; INSERT INTO t(a) VALUES('again'); UPDATE t SET id = 50 WHERE id = 1",
                "REPLACE INTO k VALUES('x', 3), ('y', 1)"};
            for (uint32_t step = 0; step < sizeof SQL / sizeof *SQL; step++) {
                app_exec(rig_app(&r, 0), SQL[step]);
                for (int i = 0; i < turns0; i++)
                    peer_turn(&r.peers[0]);
                peer_reopen(&r.peers[0]);
                peer_turn(&r.peers[0]);
                peer_reopen(&r.peers[0]);
                for (int again = 0; again < 2; again++) {
                    give_all(&r, 0, 1);
                    for (int i = 0; i < turns1; i++)
                        peer_turn(&r.peers[1]);
                    peer_reopen(&r.peers[1]);
                }
            }
            share_same(&r);
            assert_everywhere(&r, "SELECT a, b FROM t ORDER BY id", "i12|i2|;tagain|n|;i11|i1|;");
            assert_everywhere(&r, "SELECT k, v FROM k ORDER BY k", "tx|i3|;ty|i1|;");
            assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
            assert_int_equal(have(&r, 1, 0), have(&r, 0, 0));
            rig_act(&r, 1, "UPDATE t SET b = 'back'");
            share_same(&r);
            rig_close(&r);
        }
}

static void copy_file(const char *from, const char *to, const char *tail) {
    char a[300], b[300], block[4096];
    size_t n;
    snprintf(a, sizeof a, "%s%s", from, tail);
    snprintf(b, sizeof b, "%s%s", to, tail);
    FILE *in = fopen(a, "rb"), *out = fopen(b, in ? "r+b" : "ab");
    if (!out)
        out = fopen(b, "wb");
    assert_non_null(out);
    assert_int_equal(ftruncate(fileno(out), 0), 0); /* the inode stays */
    while (in && (n = fread(block, 1, sizeof block, in)) > 0)
        assert_int_equal(fwrite(block, 1, n, out), n);
    if (in)
        fclose(in);
    fclose(out);
}

/* Shown from the registers, not noted (that is not synced), and written into by the application: what was shown is not taken for its write. */
static void test_shown_but_not_noted(void **state) {
    (void)state;
    for (int inserted = 0; inserted < 2; inserted++) {
        struct rig r;
        char copy[200], copy_wal[210];
        rig_open(&r, 2, "CREATE TABLE t(id TEXT PRIMARY KEY, a, b); INSERT INTO t VALUES('k', 0, 0)");
        rig_share(&r);
        rig_time_passes(&r);
        struct peer *p = &r.peers[1];
        snprintf(copy, sizeof copy, "%s/state-copy", r.scratch.folder);
        snprintf(copy_wal, sizeof copy_wal, "%s-wal", copy);
        rig_act(&r, 0, inserted ? "INSERT INTO t VALUES('n', 1, 1)" : "UPDATE t SET a = 1");
        app_exec(rig_app(&r, 1), "BEGIN IMMEDIATE"); /* merged, and cannot be shown */
        peer_rest(&r.peers[0]);
        side_pull(&p->s, &r.peers[0].s);
        for (int i = 0; i < 5; i++)
            peer_turn(p);
        side_close_store(&p->s);
        app_exec(rig_app(&r, 1), "ROLLBACK");
        peer_open(p);
        copy_file(p->s.state_path, copy, "");
        copy_file(p->s.state_path, copy, "-wal");
        peer_rest(p);
        assert_rows(rig_app(&r, 1), "SELECT a FROM t WHERE id = (SELECT max(id) FROM t)", "i1|;");
        app_exec(rig_app(&r, 1), "UPDATE t SET b = 5");
        side_close_store(&p->s);
        copy_file(copy, p->s.state_path, "");
        copy_file(copy, p->s.state_path, "-wal");
        peer_open(p);
        rig_share(&r);
        json_t *key = json_string(inserted ? "n" : "k"), *why = store_why(r.peers[0].s.store, "t", key, "a");
        char node[2 * NODE_ID_BYTES + 1];
        sodium_bin2hex(node, sizeof node, r.peers[0].s.origin.node, NODE_ID_BYTES);
        assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(why, "columns"), 0), "node")), node);
        json_decref(why);
        json_decref(key);
        if (!inserted) /* else b has two authors, within 2 s */
            assert_int_equal(peer_conflicts(&r.peers[0]), 0);
        assert_rows(rig_app(&r, 0), "SELECT sum(b) FROM t", inserted ? "i10|;" : "i5|;");
        remove(copy);
        remove(copy_wal);
        rig_close(&r);
    }
}

/* An older state is put back into its own file: the mark in the application's file has seen more of it. No version is used twice. */
static void test_an_older_state_in_its_place(void **state) {
    (void)state;
    struct rig r;
    char copy[200], copy_wal[210];
    rig_open(&r, 2, TABLES);
    struct peer *p = &r.peers[0];
    snprintf(copy, sizeof copy, "%s/state-copy", r.scratch.folder);
    snprintf(copy_wal, sizeof copy_wal, "%s-wal", copy);
    rig_act(&r, 0, "INSERT INTO k VALUES('x', 1)");
    share_same(&r);
    side_close_store(&p->s);
    copy_file(p->s.state_path, copy, "");
    copy_file(p->s.state_path, copy, "-wal");
    peer_open(p);
    rig_act(&r, 0, "UPDATE k SET v = 2");
    rig_act(&r, 1, "INSERT INTO k VALUES('y', 1)"); /* what it shows moves the mark */
    share_same(&r);
    uint64_t told = have(&r, 1, 0);
    side_close_store(&p->s);
    copy_file(copy, p->s.state_path, "");
    copy_file(copy, p->s.state_path, "-wal");
    peer_open(p);
    app_exec(rig_app(&r, 0), "UPDATE k SET v = 3 WHERE k = 'x'");
    rig_share(&r);
    assert_int_equal(r.peers[0].bads + r.peers[1].bads, 0);
    assert_int_equal(have(&r, 1, 0), told); /* of the old epoch no more came */
    assert_everywhere(&r, "SELECT k, v FROM k ORDER BY k", "tx|i3|;ty|i1|;");
    share_same(&r);
    remove(copy);
    remove(copy_wal);
    rig_close(&r);
}

struct cut {
    const char *state_path;
    char copy[200];
    int commits;
};

static int copy_state(void *ctx) {
    struct cut *c = ctx;
    copy_file(c->state_path, c->copy, "");
    copy_file(c->state_path, c->copy, "-wal");
    c->commits++;
    return 0;
}

/* The node ends just behind a projection, and before its state knows of it. */
static void show_and_end(struct rig *r, uint32_t i) {
    struct peer *p = &r->peers[i];
    struct cut c = {.state_path = p->s.state_path};
    snprintf(c.copy, sizeof c.copy, "%s/state-copy", r->scratch.folder);
    sqlite3_commit_hook(store_appfile(p->s.store)->writer, copy_state, &c);
    peer_rest(p);
    assert_int_equal(c.commits, 1);
    side_close_store(&p->s);
    copy_file(c.copy, p->s.state_path, "");
    copy_file(c.copy, p->s.state_path, "-wal");
    remove(c.copy);
    snprintf(c.copy, sizeof c.copy, "%s/state-copy-wal", r->scratch.folder);
    remove(c.copy);
}

/* Shown under a number which another row has left, and not noted. */
static void test_shown_where_another_was(void **state) {
    (void)state;
    for (int given = 0; given < 2; given++) {
        struct rig r;
        rig_open(&r, 2, TABLES);
        rig_act(&r, 0, "INSERT INTO t(a, b) VALUES(0, 0)");
        share_same(&r);
        rig_act(&r, 0, "DELETE FROM t");
        rig_act(&r, 0, given ? "INSERT INTO t VALUES(1, 1, 1)" : "INSERT INTO t(a, b) VALUES(1, 1)");
        peer_queue(&r.peers[1], &r.peers[0]);
        show_and_end(&r, 1);
        assert_rows(rig_app(&r, 1), "SELECT * FROM t", "i1|i1|i1|;");
        app_exec(rig_app(&r, 1), "UPDATE t SET b = 5");
        peer_open(&r.peers[1]);
        share_same(&r);
        assert_everywhere(&r, "SELECT * FROM t", "i1|i1|i5|;");
        rig_close(&r);
    }
}

static void write_once_more(struct peer *p) {
    static int written;
    char sql[100];
    if (written == 5)
        return;
    snprintf(sql, sizeof sql, "UPDATE k SET v = 'ours %d'", ++written);
    app_exec(p->s.app, sql);
}

/* The application wrote again and again, so that its last write was read under the lock; then what it wrote to was deleted, as somebody else had. */
static void test_drained_under_the_lock(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO k VALUES('x', 0)");
    share_same(&r);
    rig_act(&r, 0, "DELETE FROM k");
    peer_queue(&r.peers[1], &r.peers[0]);
    write_once_more(&r.peers[1]);
    r.peers[1].in_between = write_once_more;
    show_and_end(&r, 1);
    assert_rows(rig_app(&r, 1), "SELECT v FROM k", "");
    r.peers[1].in_between = NULL;
    peer_open(&r.peers[1]);
    share_same(&r);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_lost(&r.peers[i], "v", "\"ours 5\""));
    rig_close(&r);
}

/* While the node is down the application goes on, and others do too. */
static void test_writes_while_down(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t(a, b) VALUES(1, 1), (2, 2); INSERT INTO k VALUES('x', 1), ('y', 1)");
    share_same(&r);
    side_close_store(&r.peers[0].s);
    app_exec(rig_app(&r, 0), "UPDATE k SET v = 'old' WHERE k = 'x'; DELETE FROM t WHERE id = 2; INSERT INTO t(a) VALUES('new one')");
    rig_tick();
    rig_act(&r, 1, "UPDATE k SET v = 'later' WHERE k = 'x'; UPDATE k SET v = 'other' WHERE k = 'y'");
    peer_open(&r.peers[0]);
    share_same(&r);
    assert_everywhere(&r, "SELECT k, v FROM k ORDER BY k", "tx|tlater|;ty|tother|;"); /* a write keeps its true age */
    assert_everywhere(&r, "SELECT id, a FROM t ORDER BY id", "i1|i1|;i2|tnew one|;");
    assert_true(peer_lost(&r.peers[1], "v", "\"old\""));
    rig_close(&r);
}

static void test_versions_go_on(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    for (int i = 0; i < 10; i++) {
        uint64_t before = have(&r, 0, 0);
        rig_act(&r, 0, "INSERT INTO t(a) VALUES('x')");
        assert_int_equal(have(&r, 0, 0), before + 1);
        peer_reopen(&r.peers[0]);
        assert_int_equal(have(&r, 0, 0), before + 1);
        peer_rest(&r.peers[0]);
        assert_int_equal(have(&r, 0, 0), before + 1); /* nothing to say, nothing is sent */
    }
    share_same(&r);
    rig_close(&r);
}

static void test_a_new_epoch(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO t(a) VALUES(1), (2); INSERT INTO k VALUES('x', 1)");
    share_same(&r);
    for (uint32_t epoch = 1; epoch < 4; epoch++) {
        uint64_t old = have(&r, 0, 0);
        assert_int_equal(store_new_epoch(r.peers[0].s.store, epoch - 1), 0);
        r.peers[0].s.origin.epoch = epoch;
        assert_int_equal(have(&r, 0, 0), 0);
        rig_time_passes(&r);
        if (epoch == 2)
            peer_reopen(&r.peers[0]);
        rig_act(&r, 0, "UPDATE t SET a = a + 10; INSERT INTO t(a) VALUES('new'); DELETE FROM t WHERE id = 2; UPDATE k SET v = v + 1");
        assert_int_equal(have(&r, 0, 0), 1);
        share_same(&r);
        assert_int_equal(have(&r, 1, 0), 1);
        rig_act(&r, 1, "UPDATE k SET v = v + 100");
        share_same(&r);
        struct db_state state_now;
        store_state(r.peers[1].s.store, &state_now);
        struct origin before = r.peers[0].s.origin;
        before.epoch--;
        assert_int_equal(vv_get(&state_now.have, &before), old);
    }
    assert_everywhere(&r, "SELECT v FROM k", "i304|;");
    assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(&r.peers[1]), 0);
    rig_close(&r);
}

/* Our state is lost, the application's file is not: what is in it is captured anew, and meets what the others have. */
static void test_a_lost_state(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO k VALUES('x', 1), ('y', 2), ('z', 3)");
    share_same(&r);
    rig_act(&r, 1, "UPDATE k SET v = 10 WHERE k = 'x'");
    side_close_store(&r.peers[1].s);
    assert_int_equal(remove(r.peers[1].s.state_path), 0);
    char path[300];
    snprintf(path, sizeof path, "%s-wal", r.peers[1].s.state_path);
    remove(path);
    snprintf(path, sizeof path, "%s-shm", r.peers[1].s.state_path);
    remove(path);
    side_batches_clear(&r.peers[1].s.made);
    peer_open(&r.peers[1]);
    peer_rest(&r.peers[1]);
    struct batch_head head; /* an epoch of its own from the first batch on: versions that were given away do not come again */
    assert_int_equal(batch_head_read(&head, r.peers[1].s.made.items[0]->data, r.peers[1].s.made.items[0]->len), 0);
    assert_true(head.origin.epoch > 0);
    r.peers[1].s.origin = head.origin;
    batch_head_release(&head);
    share_same(&r);
    assert_everywhere(&r, "SELECT k, v FROM k ORDER BY k", "tx|i1|;ty|i2|;tz|i3|;"); /* nobody knows any more when that was written */
    for (uint32_t i = 0; i < 2; i++)
        assert_true(peer_lost(&r.peers[i], "v", "10"));
    rig_act(&r, 1, "UPDATE k SET v = 11 WHERE k = 'x'; DELETE FROM k WHERE k = 'z'");
    share_same(&r);
    assert_everywhere(&r, "SELECT k, v FROM k ORDER BY k", "tx|i11|;ty|i2|;");
    rig_close(&r);
}

static uint32_t read_count(struct rig *r, const struct origin *o, uint64_t from, uint64_t to, size_t bytes) {
    struct bytes **batches = (struct bytes **)1;
    uint32_t count = 77;
    assert_int_equal(store_read(r->peers[0].s.store, o, from, to, bytes, &batches, &count), 0);
    for (uint32_t i = 0; i < count; i++) {
        struct batch_head head;
        assert_int_equal(batch_head_read(&head, batches[i]->data, batches[i]->len), 0);
        assert_int_equal(head.version, from + i);
        assert_int_equal(origin_cmp(&head.origin, o), 0);
        batch_head_release(&head);
        bytes_unref(batches[i]);
    }
    free(batches);
    return count;
}

static void test_reading_the_log(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    while (have(&r, 0, 0) < 10)
        rig_act(&r, 0, "INSERT INTO t(a) VALUES(hex(randomblob(500)))");
    rig_act(&r, 1, "INSERT INTO k VALUES('x', 1)");
    rig_share(&r);
    const struct origin *own = &r.peers[0].s.origin, *other = &r.peers[1].s.origin;
    struct origin nobody = {.epoch = 5};
    assert_int_equal(read_count(&r, own, 1, 10, 1 << 20), 10);
    assert_int_equal(read_count(&r, own, 4, 6, 1 << 20), 3);
    assert_int_equal(read_count(&r, own, 4, 1000, 1 << 20), 7);
    assert_int_equal(read_count(&r, own, 1, UINT64_MAX, 1), 1); /* at least one */
    assert_in_range(read_count(&r, own, 2, 10, 2000), 2, 8);
    assert_int_equal(read_count(&r, own, 11, 20, 1 << 20), 0);
    assert_int_equal(read_count(&r, own, 0, 20, 1 << 20), 0);
    assert_int_equal(read_count(&r, own, 5, 4, 1 << 20), 0);
    assert_int_equal(read_count(&r, own, UINT64_MAX, UINT64_MAX, 1 << 20), 0);
    assert_int_equal(read_count(&r, other, 1, 100, 1 << 20), (uint32_t)have(&r, 0, 1));
    assert_int_equal(read_count(&r, &nobody, 1, 100, 1 << 20), 0);
    peer_reopen(&r.peers[0]);
    assert_int_equal(read_count(&r, own, 1, 10, 1 << 20), 10);
    rig_close(&r);
}

static void test_a_barrier_tells_the_truth(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2, TABLES);
    struct store *s = r.peers[0].s.store;
    assert_int_equal(store_barrier(s), 1);
    for (int i = 0; i < 20; i++) {
        app_exec(rig_app(&r, 0), "INSERT INTO t(a) VALUES(1); UPDATE t SET b = 1 WHERE id = last_insert_rowid()");
        uint64_t before = have(&r, 0, 0);
        int turns = 0;
        while (store_barrier(s) == 0) {
            peer_turn(&r.peers[0]);
            assert_true(++turns < 30);
        }
        assert_true(have(&r, 0, 0) == before + 1);
    }
    app_exec(rig_app(&r, 0), "BEGIN; INSERT INTO t(a) VALUES('not committed')");
    peer_rest(&r.peers[0]);
    assert_int_equal(store_barrier(s), 1);
    app_exec(rig_app(&r, 0), "COMMIT");
    assert_int_equal(store_barrier(s), 0);
    peer_rest(&r.peers[0]);
    app_exec(rig_app(&r, 0), "ALTER TABLE t ADD COLUMN c; UPDATE t SET c = 1");
    assert_int_equal(store_barrier(s), 0);
    peer_rest(&r.peers[0]);
    assert_int_equal(store_barrier(s), 1);
    rig_close(&r);
}

/* The file goes back to an older copy, with our mark missing in it: rows are read again, and nothing is taken for a deletion by others. */
static void test_an_older_copy_of_the_file(void **state) {
    (void)state;
    struct rig r;
    char copy[300], sql[400];
    rig_open(&r, 2, TABLES);
    rig_act(&r, 0, "INSERT INTO k VALUES('x', 1), ('y', 2)");
    share_same(&r);
    snprintf(copy, sizeof copy, "%s/copy", r.scratch.folder);
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", copy);
    app_exec(rig_app(&r, 0), sql);
    rig_act(&r, 0, "INSERT INTO k VALUES('z', 3); UPDATE k SET v = 20 WHERE k = 'y'");
    share_same(&r);
    side_close_store(&r.peers[0].s);
    side_close_app(&r.peers[0].s);
    snprintf(sql, sizeof sql, "%s-wal", r.peers[0].s.app_path);
    remove(sql);
    snprintf(sql, sizeof sql, "%s-shm", r.peers[0].s.app_path);
    remove(sql);
    assert_int_equal(rename(copy, r.peers[0].s.app_path), 0);
    assert_int_equal(side_open_app(&r.peers[0].s), SQLITE_OK);
    peer_open(&r.peers[0]);
    peer_rest(&r.peers[0]);
    share_same(&r);
    rig_act(&r, 0, "UPDATE k SET v = v + 100");
    share_same(&r);
    rig_close(&r);
}

/* The state's next commit but `left` is refused, once. */
static struct {
    const char *path;
    uint32_t left;
} refused;

static int refuse_commit(void *ctx) {
    const char *file = sqlite3_db_filename(ctx, "main");
    return file && strcmp(file, refused.path) == 0 && refused.left && --refused.left == 0;
}

static int refuse_here(sqlite3 *db, char **error, const void *api) {
    (void)error;
    (void)api;
    sqlite3_commit_hook(db, refuse_commit, db);
    return 0;
}

/* A migration rebuilds a table, whose triggers go with the old one, and fills it. Whatever happens to the node before it has read the table again, the
 * new triggers alone do not tell that rows were missed. */
static void test_a_rebuilt_table_is_read_though_the_node_fails(void **state) {
    (void)state;
    bool reached = true;
    for (uint32_t at = 1; reached; at++) {
        struct rig r;
        rig_open(&r, 2, "CREATE TABLE t(k TEXT PRIMARY KEY, v)");
        refused.path = r.peers[0].s.state_path;
        refused.left = 0;
        assert_int_equal(sqlite3_auto_extension((void (*)(void))refuse_here), SQLITE_OK);
        peer_reopen(&r.peers[0]);
        peer_rest(&r.peers[0]);
        refused.left = at;
        rig_act(&r, 0,
                "BEGIN; CREATE TABLE n(k TEXT PRIMARY KEY, v); INSERT INTO n VALUES('new', 1); DROP TABLE t; ALTER TABLE n RENAME TO t; "
                "COMMIT");
        reached = refused.left == 0;
        sqlite3_reset_auto_extension();
        rig_share(&r);
        assert_everywhere(&r, "SELECT k, v FROM t", "tnew|i1|;");
        assert_int_equal(r.peers[0].reopened, reached ? 1 : 0);
        rig_close(&r);
    }
}

/* Others have what was here first, though they never wrote: that is not forgotten with a restart. */
static void test_a_shared_base_stays_so(void **state) {
    (void)state;
    struct rig r;
    struct db_state told;
    rig_start(&r, 1);
    struct peer *p = &r.peers[0];
    assert_int_equal(side_open_app(&p->s), SQLITE_OK);
    app_exec(p->s.app, "CREATE TABLE t(k TEXT PRIMARY KEY); INSERT INTO t VALUES('a')");
    for (int shared = 0; shared < 2; shared++) {
        for (int again = 0; again < 2; again++) {
            if (p->s.store)
                side_close_store(&p->s);
            peer_open(p);
            peer_rest(p);
            store_state(p->s.store, &told);
            assert_int_equal(told.base & BASE_ALONE, shared && again ? 0 : BASE_ALONE);
            if (shared && !again)
                store_shared(p->s.store);
            peer_rest(p);
        }
    }
    rig_close(&r);
}

/* A column was renamed, and its table is to be read again for that; the node goes down before. It is no table that was made anew. */
static void test_a_renamed_column_is_followed_though_the_node_goes_down(void **state) {
    (void)state;
    static const char *const TABLE[] = {"CREATE TABLE c(k TEXT PRIMARY KEY, a); CREATE TABLE k(k)",
                                        "CREATE TABLE c(k, a); CREATE TABLE k(k)"},
                             *const WRITE[] = {"UPDATE c SET b = 'new'", "DELETE FROM c"};
    for (int mode = 0; mode < 8; mode++) {
        struct rig r;
        int first = mode >> 2; /* of the two servers */
        rig_open(&r, 2, TABLE[mode & 1]);
        rig_act(&r, 1, "INSERT INTO c VALUES('x', 'old')");
        share_same(&r);
        rig_act(&r, 1, "INSERT INTO k VALUES('and this')"); /* so the other has seen that one, also after a restart */
        share_same(&r);
        app_exec(rig_app(&r, first), "ALTER TABLE c RENAME COLUMN a TO b");
        for (int turns = 0; turns < 3; turns++)
            peer_turn(&r.peers[first]);
        app_exec(rig_app(&r, first), WRITE[mode >> 1 & 1]);
        peer_reopen(&r.peers[first]);
        app_exec(rig_app(&r, !first), "ALTER TABLE c RENAME COLUMN a TO b");
        share_same(&r);
        assert_everywhere(&r, "SELECT k, b FROM c", mode & 2 ? "" : "tx|tnew|;");
        for (uint32_t i = 0; i < r.count; i++)
            assert_int_equal(peer_conflicts(&r.peers[i]), 0);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart_at_every_stage),
        cmocka_unit_test(test_what_was_on_show_stays_seen),
        cmocka_unit_test(test_shown_but_not_noted),
        cmocka_unit_test(test_an_older_state_in_its_place),
        cmocka_unit_test(test_shown_where_another_was),
        cmocka_unit_test(test_drained_under_the_lock),
        cmocka_unit_test(test_writes_while_down),
        cmocka_unit_test(test_versions_go_on),
        cmocka_unit_test(test_a_new_epoch),
        cmocka_unit_test(test_a_lost_state),
        cmocka_unit_test(test_reading_the_log),
        cmocka_unit_test(test_a_barrier_tells_the_truth),
        cmocka_unit_test(test_an_older_copy_of_the_file),
        cmocka_unit_test(test_a_shared_base_stays_so),
        cmocka_unit_test(test_a_rebuilt_table_is_read_though_the_node_fails),
        cmocka_unit_test(test_a_renamed_column_is_followed_though_the_node_goes_down),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
