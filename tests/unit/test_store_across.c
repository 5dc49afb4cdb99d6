/* References to rows of another database: two stores a server, which tell each other as the loop would, and may be opened, ended and taken up anew
 * apart. A row of `game` names its scout, too: so who looks finds every reference that came to mean somebody else. */
#include "store_rig.h"

#include "node/store/afar.h"

#define SERVERS_MAX 2

#define PEOPLE "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT)"
#define GAMES                                                                                                                              \
    "CREATE TABLE game(id INTEGER PRIMARY KEY, scout_id INTEGER, scout TEXT);"                                                             \
    "CREATE TABLE visit(place TEXT PRIMARY KEY, scout_id INTEGER, scout TEXT)"

struct mail {
    struct mail *next;
    struct bytes *rows;
    unsigned flags;
};

struct pair { /* one server */
    struct peer *people, *games;
    bool follows; /* games asked for the numbers of people */
    bool asked;   /* and people was not told yet */
    bool held;    /* what people says stays on the way */
    bool loses;   /* it gets lost there */
    struct mail *mail;
    uint32_t told; /* messages since the start */
};

struct servers {
    struct rig people, games;
    struct pair pairs[SERVERS_MAX];
    uint32_t count;
};

static struct servers *the; /* callbacks know their peer alone */

static struct pair *pair_of(const struct peer *p) {
    for (uint32_t i = 0; i < the->count; i++)
        if (the->pairs[i].people == p || the->pairs[i].games == p)
            return &the->pairs[i];
    fail_msg("an unknown peer");
    return NULL;
}

static void on_follow(void *ctx, const char *name) {
    struct pair *p = pair_of(ctx);
    assert_string_equal(name, "people.db/user.id");
    p->follows = p->asked = true;
}

static bool on_numbers(void *ctx, const char *key, struct bytes *rows, unsigned flags) {
    struct pair *p = pair_of(ctx);
    struct mail **at = &p->mail, *m = calloc(1, sizeof *m);
    assert_string_equal(key, "user.id");
    assert_non_null(m);
    *m = (struct mail){.rows = bytes_ref(rows), .flags = flags};
    while (*at)
        at = &(*at)->next;
    *at = m;
    assert_true(!p->loses || p->mail == m);
    p->told++;
    if (p->loses) {
        p->mail = NULL;
        bytes_unref(m->rows);
        free(m);
    }
    return true;
}

/* What is on the way between the two arrives. */
static void carry(struct pair *p) {
    if (p->asked && p->people->s.store) {
        p->asked = false;
        store_followed(p->people->s.store, "user.id");
    }
    while (p->mail && !p->held) {
        struct mail *m = p->mail;
        p->mail = m->next;
        if (p->games->s.store)
            store_numbers(p->games->s.store, "people.db/user.id", m->rows, m->flags);
        bytes_unref(m->rows);
        free(m);
    }
}

static const struct policy_line REFS[] = {{"game", "refs", "scout_id -> people.db/user.id", "test:1"},
                                          {"visit", "refs", "scout_id -> people.db/user.id", "test:2"}};

static void open_people(struct pair *p) {
    peer_open(p->people);
    p->asked = p->follows;
}

static void open_games(struct pair *p) { peer_open(p->games); }

static int turn_of(struct peer *p) {
    int wait = p->s.store ? peer_turn(p) : -1;
    return wait < 0 || wait >= REST_MS ? -1 : wait;
}

/* Both, until there is nothing to do. */
static void rest(struct pair *p) {
    for (uint64_t spent = 0; spent < 60000;) {
        int people = turn_of(p->people);
        carry(p);
        int games = turn_of(p->games);
        carry(p);
        if (people < 0 && games < 0 && (!p->mail || p->held) && (!p->games->s.store || peer_settled(p->games)))
            return;
        int wait = people < 0 ? games : games < 0 || people < games ? people : games;
        wait = wait < 0 ? 10 : wait;
        side_skip((uint64_t)wait);
        spent += wait ? (uint64_t)wait : 1;
    }
    fail_msg("%s and %s do not come to rest", p->people->s.app_path, p->games->s.app_path);
}

static void start(struct servers *s, uint32_t count) {
    memset(s, 0, sizeof *s);
    the = s;
    s->count = count;
    rig_start(&s->people, count);
    rig_start(&s->games, count);
    for (uint32_t i = 0; i < count; i++) {
        struct pair *p = &s->pairs[i];
        *p = (struct pair){.people = &s->people.peers[i], .games = &s->games.peers[i]};
        p->people->db = "people.db";
        p->games->db = "games.db";
        p->people->on_numbers = p->games->on_numbers = on_numbers;
        p->people->on_follow = p->games->on_follow = on_follow;
        p->games->policies = REFS;
        p->games->policies_count = 2;
        assert_int_equal(side_open_app(&p->people->s), SQLITE_OK);
        assert_int_equal(side_open_app(&p->games->s), SQLITE_OK);
        app_exec(p->people->s.app, PEOPLE);
        app_exec(p->games->s.app, GAMES);
    }
}

static void finish(struct servers *s) {
    for (uint32_t i = 0; i < s->count; i++)
        for (struct mail *m = s->pairs[i].mail, *next; m; m = next) {
            next = m->next;
            bytes_unref(m->rows);
            free(m);
        }
    rig_close(&s->people);
    rig_close(&s->games);
}

/* The application: somebody in one database, and what refers to him in the other. */
static int64_t enters(struct pair *p, const char *name) {
    char sql[400];
    snprintf(sql, sizeof sql, "INSERT INTO user(name) VALUES('%s')", name);
    app_exec(p->people->s.app, sql);
    int64_t number = sqlite3_last_insert_rowid(p->people->s.app);
    snprintf(sql, sizeof sql, "INSERT INTO game(scout_id, scout) VALUES(%lld, '%s'); INSERT INTO visit VALUES('with %s', %lld, '%s')",
             (long long)number, name, name, (long long)number, name);
    app_exec(p->games->s.app, sql);
    return number;
}

/* Everything that one server has comes to the others, until nobody has news. */
static void share(struct servers *s) {
    for (int round = 0; round < 20; round++) {
        bool same = true;
        for (uint32_t i = 0; i < s->count; i++)
            rest(&s->pairs[i]);
        for (uint32_t i = 1; i < s->count; i++)
            same = same && peers_have_same(s->pairs[0].people, s->pairs[i].people) && peers_have_same(s->pairs[0].games, s->pairs[i].games);
        if (same)
            return;
        for (uint32_t i = 0; i < s->count; i++)
            for (uint32_t k = 0; k < s->count; k++)
                if (i != k) {
                    peer_queue(s->pairs[i].people, s->pairs[k].people);
                    rest(&s->pairs[i]);
                    peer_queue(s->pairs[i].games, s->pairs[k].games);
                    rest(&s->pairs[i]);
                }
    }
    fail_msg("the servers never stop having news");
}

static void assert_right(struct pair *p) {
    char sql[400];
    int rc;
    snprintf(sql, sizeof sql, "ATTACH '%s' AS p", p->people->s.app_path);
    app_exec(p->games->s.app, sql);
    char *wrong =
        app_rows(p->games->s.app,
                 "SELECT scout_id, scout, name FROM (SELECT scout_id, scout FROM game UNION ALL SELECT scout_id, scout FROM visit) "
                 "LEFT JOIN p.user u ON u.id = scout_id WHERE u.name IS NOT scout",
                 &rc);
    if (rc || *wrong)
        fail_msg("%s: refers to somebody else: %s%s", p->games->s.app_path, wrong, rc ? sqlite3_errmsg(p->games->s.app) : "");
    free(wrong);
    app_exec(p->games->s.app, "DETACH p");
}

static void all_right(struct servers *s) {
    share(s);
    rig_assert_settled(&s->people);
    rig_assert_settled(&s->games);
    for (uint32_t i = 0; i < s->count; i++)
        assert_right(&s->pairs[i]);
    rig_check_digests(&s->people);
    rig_check_digests(&s->games);
    assert_same_tables(&s->people);
    assert_same_tables(&s->games);
}

/* As the worker does it. */
static void set_aside(struct peer *p) {
    side_close_store(&p->s);
    assert_int_equal(store_set_aside(p->s.state_path, p->s.app_path), 0);
}

/* Two servers that never met, each with people of its own under the same numbers. */
static void start_apart(struct servers *s) {
    static const char *const names[2][3] = {{"anna", "albert", "agnes"}, {"berta", "bruno", "bella"}};
    start(s, 2);
    for (uint32_t i = 0; i < 2; i++) {
        open_people(&s->pairs[i]);
        open_games(&s->pairs[i]);
        rest(&s->pairs[i]);
        for (int k = 0; k < 3; k++)
            enters(&s->pairs[i], names[i][k]);
        rest(&s->pairs[i]);
        rig_tick();
    }
}

/* Its people were taken up an hour ago. */
static void long_ago(struct pair *p) {
    side_close_store(&p->people->s);
    sqlite3 *db = app_open(p->people->s.state_path);
    app_exec(db, "UPDATE meta SET v = v - 3600000 WHERE k = 'adopted'");
    sqlite3_close(db);
    open_people(p);
}

/* Server 1 has the people of server 0, whose numbers were those of its own. */
static void people_meet(struct servers *s) {
    struct pair *p = &s->pairs[1];
    for (int round = 0; round < 4; round++) {
        peer_pull(p->people, s->pairs[0].people);
        peer_pull(s->pairs[0].people, p->people);
    }
    assert_true(peers_have_same(s->pairs[0].people, p->people));
}

/* The same, taken up anew, before the other database is looked at. */
static void people_first(struct servers *s) {
    struct pair *p = &s->pairs[1];
    set_aside(p->people);
    side_close_store(&p->games->s);
    open_people(p);
    peer_rest(p->people);
    people_meet(s);
    long_ago(p);
}

static void test_numbers_travel_as_people(void **state) {
    (void)state;
    struct servers s;
    start(&s, 2);
    for (uint32_t i = 0; i < 2; i++) {
        open_people(&s.pairs[i]);
        open_games(&s.pairs[i]);
    }
    share(&s);
    for (uint32_t i = 0; i < 2; i++)
        for (int k = 0; k < 5; k++) {
            char name[20];
            snprintf(name, sizeof name, "%c%d", 'a' + (int)i, k);
            enters(&s.pairs[i], name);
        }
    all_right(&s);
    finish(&s);
}

/* What a state knew that is set aside is known to the one that follows, however often that is opened before it has read the file. */
static void test_taken_up_anew(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 3; restarts++) {
        struct servers s;
        start_apart(&s);
        people_first(&s);
        struct pair *p = &s.pairs[1];
        assert_int_equal(store_set_aside(p->games->s.state_path, p->games->s.app_path), 0);
        for (int i = 0; i < restarts; i++) {
            open_games(p);
            carry(p);
            peer_turn(p->games);
            side_close_store(&p->games->s);
        }
        open_games(p);
        all_right(&s);
        finish(&s);
    }
}

/* And to the one after that, too: of several servers that begin at once each may have to yield more than once. */
static void test_taken_up_anew_twice(void **state) {
    (void)state;
    for (int turns = 0; turns < 3; turns++) {
        struct servers s;
        start_apart(&s);
        people_first(&s);
        struct pair *p = &s.pairs[1];
        assert_int_equal(store_set_aside(p->games->s.state_path, p->games->s.app_path), 0);
        for (int i = 0; i < 3; i++) {
            open_games(p);
            for (int k = 0; k < turns; k++) {
                carry(p);
                peer_turn(p->games);
            }
            set_aside(p->games);
        }
        open_games(p);
        all_right(&s);
        finish(&s);
    }
}

/* Another file takes what the cluster has, as the worker does it. */
static void fetch(struct servers *s) {
    struct peer *p = s->pairs[1].games;
    char path[sizeof p->s.app_path];
    memcpy(path, p->s.app_path, sizeof path);
    snprintf(p->s.app_path, sizeof p->s.app_path, "%.190s.fetch", path);
    p->create = true;
    open_games(&s->pairs[1]);
    carry(&s->pairs[1]);
    peer_queue(p, s->pairs[0].games);
    rest(&s->pairs[1]);
    side_close_store(&p->s);
    p->create = false;
    unlink(p->s.app_path);
    memcpy(p->s.app_path, path, sizeof path);
}

/* adopt = match: what the cluster has is fetched into another file first; of the rows that it has, too, what is meant counts, and not the number. */
static void test_what_the_cluster_has_is_fetched_first(void **state) {
    (void)state;
    for (int again = 0; again < 2; again++) {
        struct servers s;
        start_apart(&s);
        people_first(&s);
        struct pair *p = &s.pairs[1];
        const char *to = p->games->s.app_path;
        assert_int_equal(store_set_aside(p->games->s.state_path, to), 0);
        if (again) { /* it yields while it knows the file, and while it fetches */
            open_games(p);
            set_aside(p->games);
            fetch(&s);
            assert_int_equal(store_set_aside(p->games->s.state_path, to), 0);
        }
        fetch(&s);
        open_games(p);
        rest(p);
        assert_right(p);
        int rc;
        char *berta = app_rows(p->people->s.app, "SELECT id FROM user WHERE name = 'berta'", &rc);
        berta[strcspn(berta, "|")] = 0;
        assert_true(peer_lost(p->games, "scout_id", berta + 1)); /* of game 1, which the cluster has with anna */
        free(berta);
        finish(&s);
    }
}

/* A first capture that ended half way: what it has read moved meanwhile, and so did what it has not. */
static void test_a_first_capture_goes_on(void **state) {
    (void)state;
    for (int turns = 1; turns < 5; turns++) {
        struct servers s;
        start(&s, 2);
        for (uint32_t i = 0; i < 2; i++) {
            struct pair *p = &s.pairs[i];
            open_people(p);
            peer_rest(p->people);
            for (int k = 0; k < 4; k++) {
                char name[20];
                snprintf(name, sizeof name, "%c%d", 'a' + (int)i, k);
                enters(p, name);
            }
            if (!i) /* no row of server 1 is to be shown again for another reason */
                app_exec(p->games->s.app, "DELETE FROM game; DELETE FROM visit");
            peer_rest(p->people);
            rig_tick();
        }
        open_games(&s.pairs[0]);
        rest(&s.pairs[0]);
        struct pair *p = &s.pairs[1];
        app_exec(p->games->s.app, "DELETE FROM visit WHERE scout = 'b0'"); /* only what was read by then refers to him */
        long_ago(p);
        open_games(p);
        for (int i = 0; i < turns; i++) {
            carry(p);
            peer_turn(p->games);
        }
        side_close_store(&p->games->s);
        people_meet(&s);
        open_games(p);
        all_right(&s);
        finish(&s);
    }
}

/* The database that is referred to takes long to be read, but comes on: it is waited for. */
static void test_people_take_long(void **state) {
    (void)state;
    struct servers s;
    start(&s, 1);
    struct pair *p = &s.pairs[0];
    for (int i = 0; i < 40; i++) {
        char sql[200];
        snprintf(sql, sizeof sql, "CREATE TABLE a%d(id INTEGER PRIMARY KEY, v); INSERT INTO a%d(v) VALUES(1)", i, i);
        app_exec(p->people->s.app, sql);
    }
    enters(p, "anna");
    open_people(p);
    open_games(p);
    for (int i = 0; i < 40; i++) {
        peer_turn(p->people);
        carry(p);
        peer_turn(p->games);
        side_skip(2000);
    }
    assert_false(store_ready(p->people->s.store));
    all_right(&s);
    assert_int_equal(rig_made_rows(&s.games, 0, 0), 2); /* each told once, as it should be */
    assert_null(strstr(p->games->log, "nothing is told"));
    finish(&s);
}

/* It is not served at all: then its numbers are told as such, and when it is, as whom they meant, which is known from before. */
static void test_people_come_late(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 2; restarts++) {
        struct servers s;
        start_apart(&s);
        people_first(&s);
        struct pair *p = &s.pairs[1];
        side_close_store(&p->people->s);
        assert_int_equal(store_set_aside(p->games->s.state_path, p->games->s.app_path), 0);
        open_games(p);
        peer_turn(p->games);
        side_skip(20000);
        peer_rest(p->games);
        assert_true(store_ready(p->games->s.store));
        assert_non_null(strstr(p->games->log, "nothing is told of the rows of people.db/user.id"));
        if (restarts)
            peer_reopen(p->games);
        open_people(p);
        all_right(&s);
        finish(&s);
    }
}

/* A server that joins and does not know yet what refers to what: the cluster says so, when its people have met those of the others. */
static void test_who_joins_learns_what_refers(void **state) {
    (void)state;
    for (uint32_t joins = 0; joins < 2; joins++) {
        struct servers s;
        start(&s, 2);
        s.pairs[joins].games->policies_count = 0;
        for (uint32_t i = 0; i < 2; i++) {
            struct pair *p = &s.pairs[i];
            for (int k = 0; k < 3; k++) {
                char name[20];
                snprintf(name, sizeof name, "%c%d", 'a' + (int)i, k);
                enters(p, name);
            }
            open_people(p);
            open_games(p);
            rest(p);
        }
        people_meet(&s);
        all_right(&s);
        finish(&s);
    }
}

/* ---- messages by hand */

static void put_person(struct buf *b, int64_t born, int64_t number, uint8_t state, uint64_t at, bool ours) {
    struct value_ref ref = {.number = born, .version = at, .origin = {.epoch = 1}};
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    struct roster_row row = {.number = number, .birth = at, .state = state, .ours = ours, .len = (uint8_t)value_ref_pack(&ref, bytes)};
    buf_append(b, &row, sizeof row);
    buf_append(b, bytes, row.len);
}

static void begin_message(struct buf *b, uint64_t seq) {
    struct roster_head head = {.seq = seq};
    buf_init(b, 1 << 20);
    buf_append(b, &head, sizeof head);
}

static void tell(struct pair *p, struct buf *b, unsigned flags) {
    struct bytes *rows = bytes_new(b->data, b->len);
    store_numbers(p->games->s.store, "people.db/user.id", rows, flags);
    bytes_unref(rows);
    buf_release(b);
    peer_rest(p->games);
}

/* Somebody who was entered under the number of another one, and had moved before anybody heard of him: the other one has it still. */
static void test_who_passed_by_takes_no_number(void **state) {
    (void)state;
    for (int restarts = 0; restarts < 2; restarts++) {
        struct servers s;
        struct buf b;
        start(&s, 1);
        struct pair *p = &s.pairs[0];
        uint64_t now = hlc_of_ms((uint64_t)time(NULL) * 1000);
        open_games(p);
        begin_message(&b, 0);
        put_person(&b, 5, 5, ROSTER_LIVES, 1, false);
        tell(p, &b, NUMBERS_BEGIN | NUMBERS_END);
        begin_message(&b, 1);
        put_person(&b, 5, 9, ROSTER_LIVES, now, true);
        tell(p, &b, 0);
        if (restarts) {
            peer_reopen(p->games);
            peer_rest(p->games);
        }
        rig_time_passes(&s.games);
        rig_act(&s.games, 0, "INSERT INTO game(scout_id) VALUES(5), (9)");
        begin_message(&b, 2);
        put_person(&b, 5, 7, ROSTER_LIVES, 1, false);
        put_person(&b, 5, 9, ROSTER_LIVES, now, true);
        tell(p, &b, restarts ? NUMBERS_BEGIN | NUMBERS_END : 0);
        assert_rows(p->games->s.app, "SELECT scout_id FROM game ORDER BY id", "i7|;i9|;");
        finish(&s);
    }
}

/* A message that got lost is missed with the next one, and all is told again. */
static void test_a_message_gets_lost(void **state) {
    (void)state;
    struct servers s;
    start_apart(&s);
    s.pairs[1].loses = true;
    people_meet(&s);
    assert_int_equal(s.pairs[1].asked, 0);
    s.pairs[1].loses = false;
    app_exec(s.pairs[1].people->s.app, "INSERT INTO user(name) VALUES('one more')");
    all_right(&s);
    finish(&s);
}

/* Who moved is shown in pieces, a turn each, and what is left of them after the end of the process, too. */
static void test_many_move_at_once(void **state) {
    (void)state;
    struct servers s;
    struct buf b;
    start(&s, 1);
    struct pair *p = &s.pairs[0];
    app_exec(p->games->s.app,
             "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO game(scout_id) SELECT i FROM n");
    open_games(p);
    begin_message(&b, 0);
    for (int64_t i = 1; i <= 5000; i++)
        put_person(&b, i, i, ROSTER_LIVES, (uint64_t)i, false);
    tell(p, &b, NUMBERS_BEGIN | NUMBERS_END);
    begin_message(&b, 1);
    for (int64_t i = 1; i <= 5000; i++)
        put_person(&b, i, 10000 + i, ROSTER_LIVES, (uint64_t)i, false);
    struct bytes *rows = bytes_new(b.data, b.len);
    store_numbers(p->games->s.store, "people.db/user.id", rows, 0);
    bytes_unref(rows);
    for (int i = 0; i < 4; i++) /* learned in two */
        peer_turn(p->games);
    assert_rows(p->games->s.app, "SELECT count(*) BETWEEN 1 AND 4000 FROM game WHERE scout_id > 10000", "i1|;");
    assert_false(peer_settled(p->games));
    peer_reopen(p->games);
    peer_rest(p->games);
    assert_rows(p->games->s.app, "SELECT count(*) FROM game WHERE scout_id = 10000 + id", "i5000|;");
    buf_release(&b);
    finish(&s);
}

/* Who is gone and has the number of his birth need not be known: whoever is not is shown so. */
static void test_the_gone_are_forgotten(void **state) {
    (void)state;
    struct servers s;
    start(&s, 1);
    struct pair *p = &s.pairs[0];
    open_people(p);
    open_games(p);
    rest(p);
    enters(p, "anna");
    for (int i = 0; i < 20; i++) {
        char name[20];
        snprintf(name, sizeof name, "b%d", i);
        enters(p, name);
    }
    rest(p);
    app_exec(p->games->s.app, "DELETE FROM game WHERE id > 2; DELETE FROM visit WHERE scout <> 'anna'");
    app_exec(p->people->s.app, "DELETE FROM user WHERE name <> 'anna'");
    rest(p);
    for (int i = 0; i < 2; i++) {
        peer_reopen(p->games);
        rest(p);
    }
    side_close_store(&p->games->s);
    sqlite3 *db = app_open(p->games->s.state_path);
    assert_rows(db, "SELECT count(*) FROM afar", "i1|;");
    sqlite3_close(db);
    open_games(p);
    rest(p);
    assert_rows(p->games->s.app, "SELECT scout_id FROM game", "i1|;i2|;");
    finish(&s);
}

int main(void) {
    assert_int_equal(sodium_init(), 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_travel_as_people),
        cmocka_unit_test(test_taken_up_anew),
        cmocka_unit_test(test_taken_up_anew_twice),
        cmocka_unit_test(test_what_the_cluster_has_is_fetched_first),
        cmocka_unit_test(test_a_first_capture_goes_on),
        cmocka_unit_test(test_people_take_long),
        cmocka_unit_test(test_people_come_late),
        cmocka_unit_test(test_who_joins_learns_what_refers),
        cmocka_unit_test(test_who_passed_by_takes_no_number),
        cmocka_unit_test(test_a_message_gets_lost),
        cmocka_unit_test(test_many_move_at_once),
        cmocka_unit_test(test_the_gone_are_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
