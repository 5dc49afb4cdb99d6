/* The engine: batches that are damaged, out of order, from a newer version, or written to do harm. One origin stops, with a clear line;
 * everything else goes on. */
#include "store_forge.h"

#define TABLES                                                                                                                             \
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE k(x TEXT, y INTEGER, v, PRIMARY KEY(x, y)); CREATE TABLE nokey(a)"

static void give(struct peer *to, struct bytes *b) {
    store_deliver(to->s.store, b);
    peer_rest(to);
}

static uint64_t have(struct peer *p, const struct origin *o) {
    struct db_state state;
    store_state(p->s.store, &state);
    return vv_get(&state.have, o);
}

/* Server 1's writes still arrive at server 0, and its own still leave. */
static void assert_goes_on(struct rig *r) {
    rig_time_passes(r);
    rig_act(r, 0, "INSERT INTO k VALUES(hex(randomblob(8)), 0, 'mine')");
    rig_act(r, 1, "INSERT INTO k VALUES(hex(randomblob(8)), 1, 'theirs')");
    peer_pull(&r->peers[0], &r->peers[1]);
    peer_pull(&r->peers[1], &r->peers[0]);
    assert_same_table(r, "k");
}

static void test_tampered_bytes(void **state) {
    (void)state;
    struct rig r;
    struct forge f;
    struct rig_random rnd = {rig_seed()};
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    forge_change(&f, CHANGE_INSERT, "t", forge_number(7), (const char *[]){"a", NULL}, (struct value[]){forge_text("right")});
    struct bytes *right = forge_seal(&f, 0);
    for (int i = 0; i < 150; i++) {
        struct bytes *bad = bytes_new(right->data, right->len);
        assert_non_null(bad);
        uint8_t *at = (uint8_t *)(uintptr_t)bad->data + rig_below(&rnd, (uint32_t)bad->len), old = *at;
        *at = (uint8_t)rig_random(&rnd);
        bool same = *at == old;
        if (!same)
            give(&r.peers[0], bad);
        bytes_unref(bad);
        assert_int_equal(have(&r.peers[0], &f.origin), 0);
        assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 0);
    }
    for (size_t len = 0; len < right->len; len += 7) {
        struct bytes *cut = bytes_new(right->data, len);
        give(&r.peers[0], cut);
        bytes_unref(cut);
    }
    assert_true(r.peers[0].bads > 0 && strstr(r.peers[0].bad, "cannot be taken"));
    assert_int_equal(r.peers[0].reopened, 0);
    assert_goes_on(&r);
    give(&r.peers[0], right); /* nothing of it stuck */
    assert_rows(rig_app(&r, 0), "SELECT id, a FROM t", "i7|tright|;");
    bytes_unref(right);
    forge_release(&f);
    rig_close(&r);
}

static void test_out_of_order_and_twice(void **state) {
    (void)state;
    struct rig r;
    struct forge f;
    struct bytes *b[6];
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    for (int i = 0; i < 6; i++) {
        forge_change(&f, i ? CHANGE_UPDATE : CHANGE_INSERT, "t", forge_number(1), (const char *[]){"a", NULL},
                     (struct value[]){forge_int(i)});
        b[i] = forge_seal(&f, 0);
    }
    static const int ORDER[] = {3, 1, 0, 0, 2, 1, 1, 0, 5, 2, 3, 4, 0, 5, 5};
    for (size_t i = 0; i < sizeof ORDER / sizeof *ORDER; i++) {
        give(&r.peers[0], b[ORDER[i]]);
        if (i == 7)
            peer_reopen(&r.peers[0]);
    }
    assert_int_equal(have(&r.peers[0], &f.origin), 6);
    assert_rows(rig_app(&r, 0), "SELECT a FROM t", "i5|;");
    assert_int_equal(r.peers[0].bads, 0);
    assert_int_equal(peer_conflicts(&r.peers[0]), 0);
    rig_share(&r); /* relayed as they came */
    rig_assert_settled(&r);
    assert_same_tables(&r);
    for (int i = 0; i < 6; i++)
        bytes_unref(b[i]);
    forge_release(&f);
    rig_close(&r);
}

/* Another history of the same origin: its second batch does not follow on the first that is here. */
static void test_a_forked_origin(void **state) {
    (void)state;
    struct rig r;
    struct forge f, g;
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    forge_init(&g, 1);
    forge_change(&f, CHANGE_INSERT, "t", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_int(1)});
    forge_give(&f, &r.peers[0]);
    forge_change(&g, CHANGE_INSERT, "t", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_int(2)});
    bytes_unref(forge_seal(&g, 0));
    forge_change(&g, CHANGE_UPDATE, "t", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_int(3)});
    forge_give(&g, &r.peers[0]);
    assert_int_equal(r.peers[0].bads, 1);
    assert_non_null(strstr(r.peers[0].bad, "signature or hash chain does not match"));
    assert_rows(rig_app(&r, 0), "SELECT a FROM t", "i1|;");
    assert_goes_on(&r);
    forge_release(&f);
    forge_release(&g);
    rig_close(&r);
}

/* What makes the whole batch void: nothing of it is shown, also not what comes before the bad change; the origin stops there. */
static void assert_stops(struct rig *r, struct forge *f, const char *why) {
    struct peer *p = &r->peers[0];
    uint32_t bads = p->bads;
    uint64_t before = have(p, &f->origin);
    struct bytes *b = forge_seal(f, 0);
    for (int i = 0; i < 3; i++) {
        give(p, b);
        give(p, b); /* the core gives it again after a restart */
        assert_true(p->bads > bads);
        assert_non_null(strstr(p->bad, why));
        assert_int_equal(origin_cmp(&p->bad_origin, &f->origin), 0);
        assert_true(p->bad_version == f->version);
        assert_true(have(p, &f->origin) == before);
        assert_int_equal(app_int(rig_app(r, 0), "SELECT count(*) FROM t WHERE a = 'void'"), 0);
        peer_reopen(p);
        peer_rest(p);
    }
    forge_change(f, CHANGE_INSERT, "t", forge_number(1000), (const char *[]){"a", NULL}, (struct value[]){forge_text("void")});
    forge_give(f, p); /* what follows is not taken either */
    assert_int_equal(app_int(rig_app(r, 0), "SELECT count(*) FROM t WHERE a = 'void'"), 0);
    bytes_unref(b);
    assert_goes_on(r);
}

static void put_void_row(struct forge *f) {
    forge_change(f, CHANGE_INSERT, "t", forge_number(900), (const char *[]){"a", NULL}, (struct value[]){forge_text("void")});
}

static void test_a_kind_of_change_from_the_future(void **state) {
    (void)state;
    static const enum change_kind KINDS[] = {CHANGE_SAME};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        struct rig r;
        struct forge f;
        rig_open(&r, 2, TABLES);
        forge_init(&f, 1);
        forge_change(&f, CHANGE_INSERT, "t", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_text("before")});
        forge_give(&f, &r.peers[0]);
        put_void_row(&f);
        forge_change(&f, KINDS[i], "t", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_text("void")});
        assert_stops(&r, &f, "run the newest starlingd");
        assert_rows(rig_app(&r, 0), "SELECT a FROM t", "tbefore|;");
        forge_release(&f);
        rig_close(&r);
    }
}

static void test_names_and_keys_that_cannot_be(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct rig r;
        struct forge f;
        rig_open(&r, 2, TABLES);
        forge_init(&f, 1);
        put_void_row(&f);
        struct ident number = forge_number(1), key = {.kind = IDENT_GIVEN, .key = (const uint8_t *)"\x03\xff\xff\xff\xff", .key_len = 5};
        struct value v = forge_text("void");
        char longest[1200];
        memset(longest, 'x', sizeof longest - 1);
        longest[sizeof longest - 1] = 0;
        switch (i) {
        case 0: forge_change(&f, CHANGE_INSERT, "t", number, (const char *[]){longest, NULL}, &v); break;
        case 1: forge_change(&f, CHANGE_INSERT, longest, number, (const char *[]){"a", NULL}, &v); break;
        case 2: forge_change(&f, CHANGE_INSERT, "k", key, (const char *[]){"v", NULL}, &v); break;
        default:
            key.key_len = 0;
            forge_change(&f, CHANGE_INSERT, "k", key, (const char *[]){"v", NULL}, &v);
            break;
        }
        assert_stops(&r, &f, "cannot be taken");
        forge_release(&f);
        rig_close(&r);
    }
}

/* ---- well-formed, but strange: kept, shown where possible, and never a crash */

static void test_one_column_twice(void **state) {
    (void)state;
    struct rig r;
    struct forge f;
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    for (int64_t i = 0; i < 40; i++)
        forge_change(&f, CHANGE_INSERT, "t", forge_number(i), (const char *[]){"a", "b", "A", NULL},
                     (struct value[]){forge_int(1), forge_int(2), forge_int(3)});
    forge_give(&f, &r.peers[0]);
    for (int64_t i = 0; i < 40; i++)
        forge_change(&f, CHANGE_UPDATE, "t", forge_number(i), (const char *[]){"b", "B", NULL},
                     (struct value[]){forge_int(4), forge_int(5)});
    forge_give(&f, &r.peers[0]);
    forge_change(&f, CHANGE_UPDATE, "t", forge_number(5), (const char *[]){"A", "a", NULL},
                 (struct value[]){forge_int(7), forge_int(8)}); /* SQLite's names have no case */
    forge_give(&f, &r.peers[0]);
    rig_share(&r);
    assert_int_equal(r.peers[0].reopened + r.peers[1].reopened, 0);
    assert_same_table(&r, "t");
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM t"), 40);
    assert_goes_on(&r);
    forge_release(&f);
    rig_close(&r);
}

static void test_identities_of_many_origins(void **state) {
    (void)state;
    struct rig r;
    struct forge f;
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    for (uint32_t n = 0; n < 2; n++) {
        for (uint32_t i = 0; i < 2000; i++) {
            struct ident born = {.kind = IDENT_BORN, .number = 1 + (int64_t)(n * 2000 + i), .origin = {.epoch = n}, .version = 1 + i};
            memcpy(born.origin.node, &i, sizeof i);
            forge_change(&f, CHANGE_INSERT, "t", born, (const char *[]){"a", NULL}, (struct value[]){forge_int(i)});
        }
        forge_give(&f, &r.peers[0]);
    }
    rig_share(&r);
    rig_assert_settled(&r);
    assert_everywhere(&r, "SELECT count(*), sum(a) FROM t", "i4000|i3998000|;");
    rig_act(&r, 1, "DELETE FROM t WHERE id % 2; UPDATE t SET b = 1");
    rig_share(&r);
    peer_reopen(&r.peers[0]);
    rig_act(&r, 0, "UPDATE t SET b = 2");
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    for (uint32_t i = 0; i < 200;
         i++) { /* more than a vector holds: this batch is not taken, and neither are origins that are new here; all else is */
        struct ident born = {.kind = IDENT_BORN, .number = 5000 + i, .origin = {.epoch = 9}, .version = 1};
        memcpy(born.origin.node, &i, sizeof i);
        forge_change(&f, CHANGE_INSERT, "t", born, (const char *[]){"a", NULL}, (struct value[]){forge_text("void")});
    }
    assert_stops(&r, &f, "cannot be taken");
    forge_release(&f);
    rig_close(&r);
}

static void test_no_room_for_another_origin(void **state) {
    (void)state;
    struct rig r;
    struct forge f, newcomer;
    rig_open(&r, 2, TABLES);
    struct db_state now;
    store_state(r.peers[0].s.store, &now);
    uint32_t known = now.have.count;
    forge_init(&f, 1);
    forge_init(&newcomer, 2);
    for (uint32_t i = 0; i < VV_ENTRIES_MAX - known - 1; i++) {
        struct ident born = {.kind = IDENT_BORN, .number = 1 + (int64_t)i, .version = 1};
        memcpy(born.origin.node, &i, sizeof i);
        forge_change(&f, CHANGE_INSERT, "t", born, (const char *[]){"a", NULL}, (struct value[]){forge_int(i)});
    }
    forge_give(&f, &r.peers[0]);
    assert_true(have(&r.peers[0], &f.origin) == 1);
    forge_change(&newcomer, CHANGE_INSERT, "t", forge_number(1000000), (const char *[]){"a", NULL}, (struct value[]){forge_int(1)});
    forge_give(&newcomer, &r.peers[0]);
    assert_int_equal(r.peers[0].reopened, 0);
    assert_int_equal(r.peers[0].bads, 1);
    assert_non_null(strstr(r.peers[0].bad, "larger than its bound"));
    assert_goes_on(&r);
    forge_release(&f);
    forge_release(&newcomer);
    rig_close(&r);
}

/* Tables of ours, of SQLite, without a key, and keys of another kind or width than the table's. */
static void test_changes_to_tables_that_they_do_not_fit(void **state) {
    (void)state;
    struct rig r;
    struct forge f;
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    static const char *const NAMES[] = {"_starling_dirty",     "_starling_mark", "sqlite_schema", "sqlite_sequence", "nokey", "k",
                                        "\"; DROP TABLE t; --"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        forge_change(&f, CHANGE_INSERT, NAMES[i], forge_number(1), (const char *[]){"id", "state", "a", NULL},
                     (struct value[]){forge_int(1), forge_text("bad"), forge_int(2)});
        forge_change(&f, CHANGE_DELETE, NAMES[i], forge_number(2), NULL, NULL);
        forge_give(&f, &r.peers[0]);
    }
    static const uint8_t ONE[] = {3, 1, 0, 0, 0, 'x'}, THREE[] = {3, 1, 0, 0, 0, 'x', 0, 0},
                         NUMBERS[] = {1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0};
    const uint8_t *keys[] = {ONE, THREE, NUMBERS};
    size_t lens[] = {sizeof ONE, sizeof THREE, sizeof NUMBERS};
    for (size_t i = 0; i < 3; i++)
        for (int table = 0; table < 2; table++) {
            struct ident key = {.kind = IDENT_GIVEN, .key = keys[i], .key_len = lens[i]};
            forge_change(&f, CHANGE_INSERT, table ? "t" : "k", key, (const char *[]){"x", "y", "v", NULL},
                         (struct value[]){forge_text("p"), forge_int((int64_t)i), forge_int(2)});
            forge_give(&f, &r.peers[0]);
            forge_change(&f, CHANGE_UPDATE, table ? "t" : "k", key, (const char *[]){"v", NULL}, (struct value[]){forge_int(3)});
            forge_give(&f, &r.peers[0]);
            forge_change(&f, CHANGE_DELETE, table ? "t" : "k", key, NULL, NULL);
            forge_give(&f, &r.peers[0]);
        }
    assert_int_equal(r.peers[0].reopened, 0);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM _starling_mark WHERE typeof(state) <> 'blob' OR length(state) <> 16"),
                     0);
    assert_int_equal(app_int(rig_app(&r, 0), "SELECT count(*) FROM nokey"), 0);
    assert_goes_on(&r);
    peer_reopen(&r.peers[0]);
    assert_goes_on(&r);
    forge_release(&f);
    rig_close(&r);
}

/* Changes to rows that nobody inserted, and deaths told twice in one batch. */
static void test_changes_without_an_insert(void **state) {
    (void)state;
    struct rig r;
    struct forge f;
    rig_open(&r, 2, TABLES);
    forge_init(&f, 1);
    forge_change(&f, CHANGE_UPDATE, "t", forge_number(1), (const char *[]){"a", NULL}, (struct value[]){forge_int(1)});
    forge_change(&f, CHANGE_DELETE, "t", forge_number(2), NULL, NULL);
    forge_change(&f, CHANGE_DELETE, "t", forge_number(2), NULL, NULL);
    forge_change(&f, CHANGE_INSERT, "t", forge_number(3), NULL, NULL); /* no columns at all */
    forge_give(&f, &r.peers[0]);
    forge_change(&f, CHANGE_DELETE, "t", forge_number(2), NULL, NULL);
    forge_change(&f, CHANGE_INSERT, "t", forge_number(1), (const char *[]){"b", NULL}, (struct value[]){forge_int(2)});
    forge_change(&f, CHANGE_INSERT, "t", forge_number(3), (const char *[]){"a", NULL}, (struct value[]){forge_int(5)}); /* inserted twice */
    forge_change(&f, CHANGE_DELETE, "t", forge_number(4), NULL, NULL);
    forge_change(&f, CHANGE_INSERT, "t", forge_number(4), (const char *[]){"a", NULL}, (struct value[]){forge_int(6)});
    forge_give(&f, &r.peers[0]);
    rig_share(&r);
    rig_assert_settled(&r);
    assert_same_tables(&r);
    assert_rows(rig_app(&r, 0), "SELECT id, a, b FROM t WHERE id IN (1, 3) ORDER BY id", "i1|i1|i2|;i3|i5|n|;");
    assert_int_equal(r.peers[0].reopened, 0);
    assert_goes_on(&r);
    forge_release(&f);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tampered_bytes),
        cmocka_unit_test(test_out_of_order_and_twice),
        cmocka_unit_test(test_a_forked_origin),
        cmocka_unit_test(test_a_kind_of_change_from_the_future),
        cmocka_unit_test(test_names_and_keys_that_cannot_be),
        cmocka_unit_test(test_one_column_twice),
        cmocka_unit_test(test_identities_of_many_origins),
        cmocka_unit_test(test_no_room_for_another_origin),
        cmocka_unit_test(test_changes_to_tables_that_they_do_not_fit),
        cmocka_unit_test(test_changes_without_an_insert),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
