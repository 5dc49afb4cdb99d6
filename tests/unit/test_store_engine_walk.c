/* The engine: random walks. Up to three servers run random statements over several shapes of tables, batches arrive in any causal order,
 * stores are closed and opened anywhere. After each step: who is settled and has the same batches has the same digest. At the end
 * all have the same rows and the same open conflicts. Each server numbers rows in tables of its own, so that every row has its place. */
#include "store_rig.h"

#define STEPS 120

static const char *const SCHEMA =
    "CREATE TABLE own0(id INTEGER PRIMARY KEY, a, b); CREATE TABLE own1(id INTEGER PRIMARY KEY, a, b); CREATE TABLE own2(id INTEGER "
    "PRIMARY KEY, a, b);"
    "CREATE TABLE given(id INTEGER PRIMARY KEY, a, b INTEGER); CREATE TABLE k(x TEXT COLLATE NOCASE, y INTEGER, a, b, PRIMARY KEY(x, y));"
    "CREATE TABLE w(k TEXT PRIMARY KEY, a REAL, b TEXT) WITHOUT ROWID; CREATE TABLE bare(x, y, PRIMARY KEY(x, y))";

struct walk {
    struct rig r;
    struct rig_random rnd;
    uint32_t statements, deliveries, restarts, compared;
};

static const char *value(struct walk *w, char out[40]) {
    switch (rig_below(&w->rnd, 8)) {
    case 0: return "NULL";
    case 1: return "'581B'";
    case 2: return "x'00ff'";
    case 3: return "2.5";
    default: snprintf(out, 40, "%u", rig_below(&w->rnd, 6)); return out;
    }
}

static char *statement(struct walk *w, uint32_t side) {
    char va[40], vb[40];
    const char *a = value(w, va), *b = value(w, vb);
    uint32_t n = 1 + rig_below(&w->rnd, 6), m = 1 + rig_below(&w->rnd, 6), own = rig_below(&w->rnd, w->r.count);
    char x = (char)("aAbBc"[rig_below(&w->rnd, 5)]), z = (char)("aAbBc"[rig_below(&w->rnd, 5)]);
    switch (rig_below(&w->rnd, 22)) {
    case 0:
    case 1: return sqlite3_mprintf("INSERT INTO own%u(a, b) VALUES(%s, %s)", side, a, b);
    case 2: return sqlite3_mprintf("UPDATE own%u SET a = %s WHERE id = %u", own, a, n);
    case 3: return sqlite3_mprintf("UPDATE own%u SET b = %s WHERE id %% 2", own, b);
    case 4: return sqlite3_mprintf("DELETE FROM own%u WHERE id = %u", own, n);
    case 5:
        return sqlite3_mprintf("DELETE FROM own%u WHERE id = (SELECT max(id) FROM own%u); INSERT INTO own%u(a) VALUES(%s)", side, side,
                               side, a);
    case 6: return sqlite3_mprintf("INSERT OR IGNORE INTO given VALUES(%u, %s, %s)", n, a, b);
    case 7: return sqlite3_mprintf("INSERT OR REPLACE INTO given VALUES(%u, %s, %s)", n, a, b);
    case 8: return sqlite3_mprintf("UPDATE given SET a = %s WHERE id = %u", a, n);
    case 9: return sqlite3_mprintf("DELETE FROM given WHERE id = %u", n);
    case 10: return sqlite3_mprintf("UPDATE OR REPLACE given SET id = %u WHERE id = %u", n, m);
    case 11: return sqlite3_mprintf("INSERT OR REPLACE INTO k VALUES('%c', %u, %s, %s)", x, n % 3, a, b);
    case 12: return sqlite3_mprintf("UPDATE k SET a = %s WHERE x = '%c'", a, x);
    case 13: return sqlite3_mprintf("UPDATE OR REPLACE k SET x = '%c' WHERE x = '%c' AND y = %u", x, z, n % 3);
    case 14: return sqlite3_mprintf("DELETE FROM k WHERE x = '%c' AND y = %u", x, n % 3);
    case 15: return sqlite3_mprintf("INSERT INTO w VALUES('%c', %s, %s) ON CONFLICT(k) DO UPDATE SET a = excluded.a", x, a, b);
    case 16: return sqlite3_mprintf("UPDATE w SET b = %s", b);
    case 17: return sqlite3_mprintf("DELETE FROM w WHERE k = '%c'", x);
    case 18: return sqlite3_mprintf("INSERT OR IGNORE INTO bare VALUES('%c', %u)", x, n);
    case 19: return sqlite3_mprintf("DELETE FROM bare WHERE y = %u", n);
    case 20: return sqlite3_mprintf("UPDATE OR IGNORE own%u SET id = id + 100 WHERE id = %u", side, n);
    default: return sqlite3_mprintf("UPDATE own%u SET a = a, b = b; UPDATE k SET x = x", own);
    }
}

static void write_some(struct walk *w, uint32_t side) {
    sqlite3 *db = rig_app(&w->r, side);
    bool transaction = rig_below(&w->rnd, 2), rollback = rig_below(&w->rnd, 10) == 0;
    if (transaction)
        app_exec(db, "BEGIN");
    for (uint32_t n = 1 + rig_below(&w->rnd, 4); n; n--) {
        char *sql = statement(w, side);
        if (getenv("WALK_LOG"))
            print_message("%u: %s\n", side, sql);
        app_exec(db, sql);
        sqlite3_free(sql);
        w->statements++;
    }
    if (transaction)
        app_exec(db, rollback ? "ROLLBACK" : "COMMIT");
}

/* Some batches of one server, as far as their causes are there; others are held until then. */
static void deliver_some(struct walk *w) {
    struct rig *r = &w->r;
    struct peer *from = &r->peers[rig_below(&w->rnd, r->count)], *to = &r->peers[rig_below(&w->rnd, r->count)];
    if (from == to || !from->s.made.count)
        return;
    struct db_state state;
    store_state(to->s.store, &state);
    uint64_t next = vv_get(&state.have, &from->s.origin);
    for (uint32_t n = 1 + rig_below(&w->rnd, 4); n && next < from->s.made.count; n--)
        side_queue(&to->s, from->s.made.items[next++]);
    w->deliveries++;
}

static void check_same_content(struct walk *w) {
    struct rig *r = &w->r;
    for (uint32_t i = 1; i < r->count; i++) {
        struct db_state a, b;
        store_state(r->peers[0].s.store, &a);
        store_state(r->peers[i].s.store, &b);
        if (!a.settled || !b.settled || !vv_equal(&a.have, &b.have) || store_barrier(r->peers[0].s.store) != 1 ||
            store_barrier(r->peers[i].s.store) != 1)
            return;
    }
    w->compared++;
    assert_same_tables(r);
}

static void one_step(struct walk *w) {
    struct rig *r = &w->r;
    uint32_t i = rig_below(&w->rnd, r->count);
    switch (rig_below(&w->rnd, 12)) {
    case 0:
    case 1:
    case 2: write_some(w, i); break;
    case 3:
    case 4:
    case 5: deliver_some(w); break;
    case 6: peer_rest(&r->peers[i]); break;
    case 7:
        if (rig_below(&w->rnd, 3) == 0) {
            peer_reopen(&r->peers[i]);
            w->restarts++;
        }
        break;
    case 8: store_time_passes(r->peers[i].s.store); break;
    default: peer_turn(&r->peers[i]); break;
    }
    rig_check_digests(r);
    if (rig_below(&w->rnd, 40) == 0) {
        rig_share(r);
        check_same_content(w);
    }
}

/* The open conflicts, sorted. */
static char *conflicts(struct peer *p) {
    json_t *list = store_conflicts(p->s.store), *c;
    size_t i, len;
    char *text, **lines = calloc(json_array_size(list) + 1, sizeof *lines);
    uint32_t n = 0;
    json_array_foreach(list, i, c) lines[n++] = json_dumps(c, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(list);
    side_lines_sort(lines, n);
    FILE *out = open_memstream(&text, &len);
    for (uint32_t k = 0; k < n; k++)
        fprintf(out, "%s\n", lines[k]);
    fclose(out);
    side_lines_free(lines, n);
    return text;
}

static void one_walk(uint64_t seed, uint32_t servers) {
    struct walk w = {.rnd = {seed}};
    rig_open(&w.r, servers, SCHEMA);
    for (int i = 0; i < STEPS; i++)
        one_step(&w);
    rig_share(&w.r);
    rig_assert_settled(&w.r);
    assert_same_tables(&w.r);
    char *first = conflicts(&w.r.peers[0]);
    for (uint32_t i = 1; i < servers; i++) {
        char *other = conflicts(&w.r.peers[i]);
        assert_string_equal(first, other);
        free(other);
        assert_int_equal(peer_status(&w.r.peers[0], "conflicts"), peer_status(&w.r.peers[i], "conflicts"));
        assert_int_equal(peer_status(&w.r.peers[0], "rows"), peer_status(&w.r.peers[i], "rows"));
    }
    free(first);
    for (uint32_t i = 0; i < servers; i++) {
        uint32_t before = w.r.peers[i].s.made.count; /* nothing is left to say */
        peer_reopen(&w.r.peers[i]);
        peer_rest(&w.r.peers[i]);
        assert_int_equal(w.r.peers[i].s.made.count, before);
        assert_int_equal(w.r.peers[i].reopened + w.r.peers[i].bads, 0);
    }
    rig_check_digests(&w.r);
    rig_close(&w.r);
}

static void walks(uint32_t servers) {
    const char *many = getenv("WALKS");
    uint64_t seed = rig_seed();
    for (uint64_t i = 0, n = many ? strtoull(many, NULL, 10) : 12; i < n; i++) {
        if (getenv("WALK_LOG"))
            print_message("walk with TEST_SEED=%llu\n", (unsigned long long)(seed + i));
        one_walk(seed + i, servers);
    }
}

static void test_two_servers(void **state) {
    (void)state;
    walks(2);
}

static void test_three_servers(void **state) {
    (void)state;
    walks(3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_servers), cmocka_unit_test(test_three_servers)};
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
