/* The engine: what nobody has seen yet is stamped anew when the server's clock was off. The clock of a server is made wrong by telling it
 * of a cluster whose clock is. */
#include <sys/wait.h>

#include "store_rig.h"

#define TABLES "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(k TEXT PRIMARY KEY, v)"
#define HOUR_MS 3600000

static uint64_t own_version(struct peer *p) {
    struct db_state state;
    store_state(p->s.store, &state);
    return vv_get(&state.have, &p->s.origin);
}

static bool meet(struct peer *p, int64_t offset_ms) {
    bool restamped;
    assert_int_equal(store_meet(p->s.store, offset_ms, &restamped), 0);
    if (restamped)
        peer_reopen(p);
    return restamped;
}

/* What it has was given to others; from now on it is alone, with a clock that is off. */
static void strand(struct peer *p, int64_t off_ms) {
    meet(p, off_ms);
    assert_int_equal(store_alone(p->s.store, &p->s.origin, own_version(p)), 0);
}

static uint64_t last_stamp_ms(struct peer *p) {
    struct bytes **batches;
    uint32_t count;
    uint64_t version = own_version(p), ms = 0;
    struct batch_head head;
    assert_int_equal(store_read(p->s.store, &p->s.origin, version, version, 1 << 20, &batches, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(batch_head_read(&head, batches[0]->data, batches[0]->len), 0);
    ms = hlc_ms(head.stamp);
    batch_head_release(&head);
    bytes_unref(batches[0]);
    free(batches);
    return ms;
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void open_rig(struct rig *r, uint32_t count) {
    rig_open(r, count, TABLES);
    rig_act(r, 0, "INSERT INTO k VALUES('c', 'old'), ('gone', 1); INSERT INTO t(a) VALUES(1), (2), (3)");
    rig_share(r);
    rig_time_passes(r);
    for (uint32_t i = 0; i < count; i++) {
        assert_false(meet(&r->peers[i], 0));
    }
}

static void test_the_future_does_not_win(void **state) {
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) {
        struct rig r;
        open_rig(&r, 2);
        struct peer *off = &r.peers[1];
        strand(off, sign * HOUR_MS);
        rig_act(&r, sign > 0 ? 1 : 0, "UPDATE k SET v = 'first' WHERE k = 'c'");
        rig_tick();
        if (sign > 0)
            rig_act(&r, 1, "INSERT INTO t(a) VALUES('alone'); DELETE FROM k WHERE k = 'gone'; UPDATE t SET b = 7 WHERE id = 2");
        rig_act(&r, sign > 0 ? 0 : 1, "UPDATE k SET v = 'later' WHERE k = 'c'");
        assert_true(meet(off, 0));
        uint64_t ms = last_stamp_ms(off), now = now_ms();
        assert_true(ms <= now + 1000 && ms + 10000 > now);
        rig_share(&r);
        assert_same_tables(&r);
        assert_everywhere(&r, "SELECT v FROM k WHERE k = 'c'", "tlater|;");
        assert_int_equal(peer_conflicts(&r.peers[0]), 1);
        assert_int_equal(peer_conflicts(&r.peers[1]), 1);
        rig_time_passes(&r);
        rig_act(&r, 1, "UPDATE k SET v = 'on' WHERE k = 'c'");
        ms = last_stamp_ms(off), now = now_ms();
        assert_true(ms <= now + 1000 && ms + 10000 > now);
        rig_share(&r);
        assert_everywhere(&r, "SELECT v FROM k WHERE k = 'c'", "ton|;");
        assert_false(meet(off, 0));
        rig_close(&r);
    }
}

/* What it wrote while its clock was believed is with the others, and is overwritten here by what is stamped anew. */
static void test_it_stays_above_what_it_replaced(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2);
    struct peer *off = &r.peers[1];
    meet(off, HOUR_MS);
    rig_act(&r, 1, "UPDATE k SET v = 'seen' WHERE k = 'c'");
    rig_share(&r);
    rig_time_passes(&r);
    assert_int_equal(store_alone(off->s.store, &off->s.origin, own_version(off)), 0);
    rig_act(&r, 1, "UPDATE k SET v = 'later' WHERE k = 'c'");
    assert_true(meet(off, 0));
    rig_share(&r);
    assert_same_tables(&r);
    assert_everywhere(&r, "SELECT v FROM k WHERE k = 'c'", "tlater|;");
    assert_int_equal(peer_conflicts(&r.peers[0]) + peer_conflicts(off), 0);
    rig_close(&r);
}

/* Killed just before the statement with this number that it runs on its state. */
static struct {
    const char *path;
    uint32_t at, count;
} death;

static int die(unsigned what, void *db, void *stmt, void *text) {
    (void)what;
    (void)stmt;
    (void)text;
    const char *path = sqlite3_db_filename(db, "main");
    if (path && strcmp(path, death.path) == 0 && ++death.count == death.at)
        _exit(1);
    return 0;
}

static int die_here(sqlite3 *db, char **error, const void *api) {
    (void)error;
    (void)api;
    return sqlite3_trace_v2(db, SQLITE_TRACE_STMT, die, db);
}

/* True: it was killed before it was done. */
static bool meet_and_die(struct peer *p, uint32_t at) {
    int status;
    side_close_store(&p->s);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool restamped;
        death.path = p->s.state_path;
        sqlite3_auto_extension((void (*)(void))die_here);
        peer_open(p);
        death.count = 0;
        death.at = at;
        _exit(store_meet(p->s.store, 0, &restamped) == 0 && restamped ? 0 : 2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
    peer_open(p);
    return WEXITSTATUS(status) == 1;
}

/* Amid it, at any statement: it is done again, or was done; and nothing is lost or stays half stamped. */
static void test_killed_while_it_stamps(void **state) {
    (void)state;
    struct rig r;
    uint32_t at = 1, done_before = 0, lives = 0;
    open_rig(&r, 2);
    struct peer *off = &r.peers[1];
    for (bool killed = true; killed; at += 1 + at / 4) { /* each life adds to the log, which is read */
        lives++;
        strand(off, HOUR_MS);
        char *sql = sqlite3_mprintf("UPDATE k SET v = 'alone%u' WHERE k = 'c'; INSERT INTO k VALUES('n%u', 1); INSERT INTO t(a) VALUES(%u)",
                                    at, at, at);
        rig_act(&r, 1, sql);
        sqlite3_free(sql);
        rig_tick();
        sql = sqlite3_mprintf("UPDATE k SET v = 'later%u' WHERE k = 'c'", at);
        rig_act(&r, 0, sql);
        sqlite3_free(sql);
        killed = meet_and_die(off, at);
        done_before += !meet(off, 0);
        assert_true(last_stamp_ms(off) <= now_ms() + 1000);
        rig_share(&r);
        assert_same_tables(&r);
        sql = sqlite3_mprintf("tlater%u|i%u|i%u|;", at, lives + 1, lives + 3);
        assert_everywhere(&r, "SELECT v, (SELECT count(*) FROM k) - 1, (SELECT count(*) FROM t) FROM k WHERE k = 'c'", sql);
        sqlite3_free(sql);
    }
    assert_true(lives > 5 && done_before >= 1 && done_before < lives); /* at some places to die it was not done yet */
    rig_close(&r);
}

/* A third server that was stamped anew and one that was not: what all hold at the end is what the stamps say, everywhere. */
static void test_random_lives_alone(void **state) {
    (void)state;
    struct rig_random rnd = {rig_seed()};
    for (int run = 0; run < 6; run++) {
        struct rig r;
        open_rig(&r, 3);
        for (int life = 0; life < 3; life++) {
            struct peer *off = &r.peers[rig_below(&rnd, 3)];
            int64_t by = ((int64_t)rig_below(&rnd, 7200) - 3600) * 1000;
            strand(off, by);
            for (int i = 0; i < 12; i++) {
                uint32_t who = rig_below(&rnd, 3), n = rig_below(&rnd, 6);
                char *sql = rig_below(&rnd, 2)
                                ? sqlite3_mprintf("INSERT INTO k VALUES('k%d', %d) ON CONFLICT DO UPDATE SET v = excluded.v", n, i)
                            : rig_below(&rnd, 2) ? sqlite3_mprintf("DELETE FROM k WHERE k = 'k%d'; DELETE FROM t WHERE id = %d", n, n)
                            : rig_below(&rnd, 2) ? sqlite3_mprintf("INSERT INTO t(a, b) VALUES(%d, 'w%d')", i, who)
                                                 : sqlite3_mprintf("UPDATE t SET a = %d WHERE id = %d; UPDATE t SET b = %d", i, n, i);
                rig_act(&r, who, sql);
                sqlite3_free(sql);
                if (rig_below(&rnd, 8) == 0)
                    peer_reopen(&r.peers[who]);
            }
            for (uint32_t i = 0; i < 3; i++)
                assert_true(meet(&r.peers[i], 0) <= (&r.peers[i] == off)); /* the others' clocks are right */
            rig_share(&r);
            rig_assert_settled(&r);
            assert_same_tables(&r);
            assert_int_equal(peer_conflicts(&r.peers[0]), peer_conflicts(&r.peers[1]));
            assert_int_equal(peer_conflicts(&r.peers[0]), peer_conflicts(&r.peers[2]));
            rig_time_passes(&r);
        }
        rig_close(&r);
    }
}

/* It is not asked for before it was done, over a restart. */
static void test_being_alone_is_remembered(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 2);
    strand(&r.peers[1], HOUR_MS);
    rig_act(&r, 1, "UPDATE k SET v = 'first' WHERE k = 'c'");
    peer_reopen(&r.peers[1]);
    rig_act(&r, 1, "INSERT INTO k VALUES('more', 1)");
    assert_true(last_stamp_ms(&r.peers[1]) > now_ms() + HOUR_MS / 2);                                     /* it still believes its clock */
    assert_int_equal(store_alone(r.peers[1].s.store, &r.peers[1].s.origin, own_version(&r.peers[1])), 0); /* known already */
    rig_act(&r, 0, "UPDATE k SET v = 'later' WHERE k = 'c'");
    assert_true(meet(&r.peers[1], 0));
    assert_true(last_stamp_ms(&r.peers[1]) <= now_ms() + 1000);
    rig_share(&r);
    assert_everywhere(&r, "SELECT v FROM k WHERE k = 'c'", "tlater|;");
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_future_does_not_win),
        cmocka_unit_test(test_being_alone_is_remembered),
        cmocka_unit_test(test_it_stays_above_what_it_replaced),
        cmocka_unit_test(test_killed_while_it_stamps),
        cmocka_unit_test(test_random_lives_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
