/* Databases: push, pull, holding, acknowledgements, the truth about "in sync", pause, epochs, refusals. */
#include "tests/unit/core_rig.h"

static void pair(struct rig *r) {
    rig_init(r, 2);
    rig_start_all(r);
    rig_connect(r, 0, 1);
    rig_wait(r, 1000);
}

static void push_goes_out_in_the_same_step(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    struct bytes *b = rig_batch(&r, 0, NULL, 20);
    rig_step(&r, 0, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = b});
    assert_int_equal(r.node[0].batch_sends, 1); /* before STORED, before any other step */
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 1);
    assert_memory_equal(r.node[1].delivered[0]->data, b->data, b->len);
    assert_int_equal(r.node[1].reads + r.node[0].reads, 0);
    rig_release(&r);
}

static void large_batch_spans_frames(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    struct bytes *b = rig_batch(&r, 0, NULL, 3000000);
    rig_step(&r, 0, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = b});
    assert_true(r.node[0].sent < 300000); /* the rest follows as the link takes it */
    rig_run(&r);
    assert_true(r.node[0].batch_sends > 40);
    assert_int_equal(r.node[1].delivered_count, 1);
    assert_int_equal(r.node[1].delivered[0]->len, b->len);
    assert_memory_equal(r.node[1].delivered[0]->data, b->data, b->len);
    rig_release(&r);
}

/* A small commit goes out between the chunks of a large one, and of what was asked for. */
static void what_is_fresh_overtakes_what_has_time(void **state) {
    (void)state;
    struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    for (int i = 0; i < 20; i++)
        rig_batch(&r, 0, NULL, 200000);
    rig_state(&r, 0, EVENT_STORED);
    uint64_t link = rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    assert_int_equal(r.node[1].delivered_count, 20);
    r.link[link - 1].hold[1] = true;
    rig_step(&r, 0, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = rig_batch(&r, 0, NULL, 3000000)});
    uint64_t sent = r.node[0].sent;
    unsigned sends = r.node[0].batch_sends;
    rig_step(&r, 0, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = rig_batch(&r, 0, NULL, 20)});
    assert_int_equal(r.node[0].batch_sends, sends + 1);
    assert_true(r.node[0].sent < sent + 1000);
    assert_true(r.link[link - 1].len[1] < 300000); /* all that is before it */
    r.link[link - 1].hold[1] = false;
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 22);
    rig_release(&r);
}

static void what_was_missed_is_pulled(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    for (int i = 0; i < 30; i++)
        rig_write(&r, 0, NULL);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    assert_int_equal(r.node[1].delivered_count, 30);
    assert_true(r.node[0].reads >= 1);
    rig_write(&r, 0, NULL); /* from here on it is pushed */
    unsigned reads = r.node[0].reads;
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 31);
    assert_int_equal(r.node[0].reads, reads);
    rig_release(&r);
}

/* In a line a - b - c, b's acknowledgement makes c fetch what a wrote. */
static void a_line_converges(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_connect(&r, 1, 2);
    rig_wait(&r, 1000);
    rig_write(&r, 0, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 1);
    rig_wait(&r, 50);
    assert_int_equal(r.node[2].delivered_count, 1);
    rig_wait(&r, 600);
    assert_true(rig_in_sync(&r, 2, 1));
    rig_release(&r);
}

/* In a mesh nobody asks for what its author is pushing at this moment. */
static void a_mesh_sends_each_batch_once(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_connect(&r, 1, 2);
    uint64_t slow = rig_connect(&r, 0, 2);
    rig_wait(&r, 1000);
    r.link[slow - 1].hold[1] = true; /* the push to the third is late */
    rig_write(&r, 0, NULL);
    rig_wait(&r, 35);
    assert_int_equal(r.node[2].delivered_count, 0);
    r.link[slow - 1].hold[1] = false;
    rig_run(&r);
    rig_wait(&r, 500);
    assert_int_equal(r.node[2].delivered_count, 1);
    assert_int_equal(r.node[0].reads + r.node[1].reads, 0);
    /* and when it stays away, it is fetched from the other */
    r.link[slow - 1].hold[1] = true;
    rig_write(&r, 0, NULL);
    rig_wait(&r, 100);
    assert_int_equal(r.node[2].delivered_count, 2);
    assert_int_equal(r.node[1].reads, 1);
    rig_release(&r);
}

static void causes_come_first(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_connect(&r, 1, 2);
    uint64_t slow = rig_connect(&r, 0, 2);
    rig_wait(&r, 1000);
    r.link[slow - 1].hold[0] = r.link[slow - 1].hold[1] = true;
    rig_write(&r, 0, NULL);
    rig_run(&r);
    struct vv after = {0};
    struct origin first = rig_origin(&r, 0);
    assert_int_equal(vv_set(&after, &first, 1), 0);
    rig_write(&r, 1, &after);
    rig_run(&r);
    assert_int_equal(r.node[2].delivered_count, 0); /* here, though what its author had seen is not */
    assert_int_equal(core_waiting(r.node[2].core, RIG_DB), 1);
    rig_wait(&r, 100);
    assert_int_equal(r.node[2].delivered_count, 2);
    assert_int_equal(core_waiting(r.node[2].core, RIG_DB), 0);
    struct batch_head h;
    assert_int_equal(batch_head_read(&h, r.node[2].delivered[0]->data, r.node[2].delivered[0]->len), 0);
    assert_int_equal(origin_cmp(&h.origin, &first), 0);
    batch_head_release(&h);
    vv_release(&after);
    rig_release(&r);
}

static void held_memory_is_bounded_and_what_is_dropped_comes_again(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    r.node[1].config.hold_bytes_max = 4000;
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    r.node[1].slow_store = true;
    for (int i = 0; i < 300; i++) { /* 192 are in the store's hands, few can be held */
        rig_write(&r, 0, NULL);
        rig_run(&r);
    }
    assert_int_equal(r.node[1].delivered_count, 192);
    assert_in_range(core_waiting(r.node[1].core, RIG_DB), 1, 20);
    r.node[1].slow_store = false;
    rig_wait(&r, 8000);
    assert_int_equal(r.node[1].delivered_count, 300);
    rig_release(&r);
}

static void nothing_is_told_before_it_is_stored(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    r.node[1].slow_store = true;
    rig_write(&r, 0, NULL);
    rig_wait(&r, 3000);
    assert_int_equal(r.node[1].delivered_count, 1);
    assert_int_equal(rig_acked(&r, 0, 1, 0), 0);
    assert_false(rig_in_sync(&r, 0, 1));
    struct peer_info info;
    assert_true(rig_peer(&r, 0, 1, &info));
    assert_int_equal(info.they_lack, 1);
    rig_store_one(&r, 1);
    rig_wait(&r, 25);
    assert_int_equal(rig_acked(&r, 0, 1, 0), 1);
    assert_true(rig_in_sync(&r, 0, 1));
    rig_release(&r);
}

/* Under a steady flow VECTORs are few; all that was stored is told all the same, and at once to who asks. */
static void acknowledgements_gather_and_come_when_asked(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 11);
    rig_start_all(&r);
    for (unsigned a = 0; a < r.nodes; a++)
        for (unsigned b = a + 1; b < r.nodes; b++)
            rig_connect(&r, a, b);
    rig_wait(&r, 3000);
    unsigned before = r.node[1].vectors;
    rig_write(&r, 0, NULL);
    rig_wait(&r, 1);
    assert_int_equal(r.node[1].vectors - before, 10); /* the first one at once */
    for (int i = 0; i < 200; i++) {
        rig_write(&r, 0, NULL);
        rig_wait(&r, 10);
    }
    assert_in_range(r.node[1].vectors - before, 200, 270); /* 2 s, and what may come before it is the long run */
    rig_write(&r, 0, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 202);
    assert_true(rig_acked(&r, 0, 1, 0) < 202);
    rig_step(&r, 0, (struct event){.type = EVENT_VISIT, .peer = core_id(r.node[1].core)});
    before = r.node[2].vectors;
    rig_run(&r);
    assert_int_equal(rig_acked(&r, 0, 1, 0), 202);
    assert_int_equal(r.node[2].vectors, before);
    rig_wait(&r, 120);
    for (unsigned n = 1; n < r.nodes; n++)
        assert_true(rig_in_sync(&r, 0, n) && rig_in_sync(&r, n, 0));
    rig_release(&r);
}

static void in_sync_is_the_peers_own_word(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    uint64_t link = rig_link(&r, 0, 1, 0);
    r.link[link - 1].hold[0] = true; /* the peer hears us; its word does not come */
    rig_run(&r);
    assert_false(rig_in_sync(&r, 0, 1));
    r.link[link - 1].hold[0] = false;
    rig_run(&r);
    assert_true(rig_in_sync(&r, 0, 1));
    /* ours, not confirmed by our own store */
    struct bytes *b = rig_batch(&r, 0, NULL, 20);
    rig_step(&r, 0, (struct event){.type = EVENT_BATCH_LOCAL, .db = RIG_DB, .batch = b});
    assert_false(rig_in_sync(&r, 0, 1));
    rig_state(&r, 0, EVENT_STORED);
    rig_wait(&r, 100);
    assert_true(rig_in_sync(&r, 0, 1));
    /* equal vectors, though the peer has not shown everything yet */
    r.node[1].state.settled = false;
    rig_state(&r, 1, EVENT_STORED);
    rig_wait(&r, 100);
    assert_false(rig_in_sync(&r, 0, 1));
    r.node[1].state.settled = true;
    /* equal vectors, other content */
    r.node[1].state.digest[0] ^= 1;
    rig_step(&r, 1, (struct event){.type = EVENT_STORED, .db = RIG_DB, .state = &r.node[1].state});
    rig_wait(&r, 100);
    assert_false(rig_in_sync(&r, 0, 1));
    rig_state(&r, 1, EVENT_STORED);
    rig_wait(&r, 100);
    assert_true(rig_in_sync(&r, 0, 1));
    rig_release(&r);
}

/* To make a database keeps a server busy: first it meets those that it heard of, though it does not wait for them for long. */
static void who_meets_others_makes_no_database_yet(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    r.node[0].core = core_new(&r.node[0].config);
    rig_start(&r, 1);
    rig_start(&r, 2);
    rig_connect(&r, 1, 2);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 400);
    assert_int_equal(r.node[0].wanted, 0);
    rig_connect(&r, 0, 2);
    rig_wait(&r, 100);
    assert_int_equal(r.node[0].wanted, 1);
    rig_release(&r);
    rig_init(&r, 3);
    r.node[0].core = core_new(&r.node[0].config);
    rig_start(&r, 1);
    rig_start(&r, 2);
    rig_connect(&r, 1, 2);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 1100);
    assert_int_equal(r.node[0].wanted, 1);
    rig_release(&r);
}

static void a_database_that_one_side_lacks_is_not_in_sync(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start(&r, 0);
    r.node[1].core = core_new(&r.node[1].config);
    rig_write(&r, 0, NULL);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[1].wanted, 1);
    assert_false(rig_in_sync(&r, 1, 0));
    assert_false(rig_in_sync(&r, 0, 1));
    struct peer_info info;
    assert_true(rig_peer(&r, 1, 0, &info));
    assert_int_equal(info.we_lack, 1);
    rig_wait(&r, 60000);
    assert_int_equal(r.node[1].wanted, 2);
    rig_state(&r, 1, EVENT_DB_OPEN);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[1].delivered_count, 1);
    assert_true(rig_in_sync(&r, 1, 0) && rig_in_sync(&r, 0, 1));
    rig_release(&r);
}

static void pause_stops_everything_but_beats(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    rig_step(&r, 1, (struct event){.type = EVENT_PAUSE});
    assert_true(core_paused(r.node[1].core));
    rig_run(&r);
    rig_write(&r, 0, NULL);
    rig_write(&r, 1, NULL);
    rig_wait(&r, 5000);
    assert_int_equal(r.node[0].delivered_count + r.node[1].delivered_count, 0);
    assert_int_equal(r.node[0].batch_sends + r.node[1].batch_sends, 0);
    assert_true(rig_linked(&r, 0, 1));
    assert_int_equal(rig_member(&r, 0, 1), MEMBER_ALIVE);
    assert_false(rig_in_sync(&r, 0, 1));
    rig_step(&r, 1, (struct event){.type = EVENT_RESUME});
    rig_wait(&r, 200);
    assert_int_equal(r.node[0].delivered_count, 1);
    assert_int_equal(r.node[1].delivered_count, 1);
    rig_wait(&r, 600);
    assert_true(rig_in_sync(&r, 0, 1));
    rig_release(&r);
}

static void differing_bases_are_not_merged(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    r.node[0].state.base = 4;
    r.node[1].state.base = 6;
    snprintf(r.node[1].config.name, CORE_NAME_MAX, "stand");
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    const char *line =
        "scouting.db: this node and \"stand\" are of two clusters that both had different rows before they first met, so they "
        "are not merged: to let one join the other, stop starlingd on each of its servers, move .starling out of the instance folder, and "
        "start it with --join";
    assert_non_null(strstr(r.node[0].logs, line));
    assert_non_null(strstr(r.node[1].logs, "scouting.db: this node and \"n0\" are of two clusters"));
    assert_string_equal(core_database_refused(r.node[0].core, RIG_DB), line);
    struct peer_info info;
    assert_true(rig_peer(&r, 0, 1, &info));
    assert_string_equal(info.refused, line);
    rig_write(&r, 0, NULL);
    uint64_t before = r.node[0].sent;
    rig_wait(&r, 5000);
    assert_true(r.node[0].sent - before < 1500); /* and they do not argue about it */
    assert_int_equal(r.node[1].delivered_count, 0);
    assert_false(rig_in_sync(&r, 0, 1));
    /* emptied, and opened again */
    rig_step(&r, 1, (struct event){.type = EVENT_DB_CLOSED, .db = RIG_DB});
    assert_null(core_vector(r.node[1].core, RIG_DB));
    r.node[1].state.base = 0;
    rig_state(&r, 1, EVENT_DB_OPEN);
    rig_wait(&r, 1000);
    assert_null(core_database_refused(r.node[0].core, RIG_DB));
    assert_int_equal(r.node[1].delivered_count, 1);
    rig_release(&r);
}

/* Who is alone with rows that were there before takes them up anew, below those of others; of two who are, one. */
static void who_is_alone_yields(void **state) {
    (void)state;
    static const uint64_t BASES[][2] = {{4 | BASE_ALONE, 6},
                                        {6, 4 | BASE_ALONE},
                                        {4 | BASE_ALONE, 6 | BASE_ALONE},
                                        {6 | BASE_ALONE, 4 | BASE_ALONE},
                                        {4 | BASE_ALONE, 6 | BASE_ALONE},
                                        {4 | BASE_ALONE, 6 | BASE_ALONE},
                                        {4 | BASE_ALONE, 6 | BASE_ALONE},
                                        {4, 6 | BASE_ALONE}};
    static const int YIELDS[] = {0, 1, 1, 0, 0, 1, 1, 1};
    static const char *const JOINS[] = {"", "", "", "", "0", "1", "01", "0"}; /* who was told to join somebody */
    for (size_t i = 0; i < sizeof YIELDS / sizeof *YIELDS; i++) {
        static struct rig r;
        int who = YIELDS[i];
        rig_init(&r, 2);
        r.node[0].state.base = BASES[i][0];
        r.node[1].state.base = BASES[i][1];
        rig_start_all(&r);
        for (const char *c = JOINS[i]; *c; c++)
            rig_step(&r, *c - '0', (struct event){.type = EVENT_SEED, .text = "elsewhere"});
        rig_connect(&r, 0, 1);
        rig_wait(&r, 5000);
        assert_int_equal(r.node[who].yields, 1); /* it is asked once */
        assert_int_equal(r.node[1 - who].yields, 0);
        assert_non_null(core_database_refused(r.node[0].core, RIG_DB)); /* nothing is exchanged until then */
        assert_non_null(core_database_refused(r.node[1].core, RIG_DB));
        rig_step(&r, who, (struct event){.type = EVENT_DB_CLOSED, .db = RIG_DB});
        r.node[who].state.base = 0;
        rig_state(&r, who, EVENT_DB_OPEN);
        rig_write(&r, 1 - who, NULL);
        rig_wait(&r, 1000);
        assert_null(core_database_refused(r.node[0].core, RIG_DB));
        assert_null(core_database_refused(r.node[1].core, RIG_DB));
        assert_int_equal(r.node[who].delivered_count, 1);
        rig_release(&r);
    }
}

/* Who took our base over may never write: that it is there is told once. */
static void a_base_that_others_have_is_told(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    r.node[0].state.base = 4 | BASE_ALONE;
    r.node[1].state.base = 4;
    rig_start_all(&r);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[0].shared, 0);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 5000);
    assert_int_equal(r.node[0].shared, 1);
    assert_int_equal(r.node[1].shared, 0);
    rig_release(&r);
}

static void lost_versions_ask_for_a_new_epoch_once(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    for (int i = 0; i < 5; i++)
        rig_write(&r, 0, NULL);
    rig_wait(&r, 100);
    assert_int_equal(r.node[1].delivered_count, 5);
    struct origin old = rig_origin(&r, 0);
    core_free(r.node[0].core); /* restored from an image in which two were written */
    rig_close(&r, 1, 1, 1);
    assert_int_equal(vv_set(&r.node[0].state.have, &old, 2), 0);
    r.node[0].config.incarnation++;
    rig_start(&r, 0);
    rig_connect(&r, 0, 1);
    rig_wait(&r, 2000);
    assert_int_equal(r.node[0].epochs, 1);
    assert_int_equal(r.node[0].epoch_origin.epoch, 0);
    assert_int_equal(r.node[0].delivered_count, 0); /* not while the versions may still be made here */
    r.node[0].epoch = 1;
    r.node[0].version = 0;
    memset(r.node[0].chain, 0, sizeof r.node[0].chain);
    rig_state(&r, 0, EVENT_DB_OPEN);
    rig_wait(&r, 200);
    assert_int_equal(r.node[0].epochs, 1);
    assert_int_equal(r.node[0].delivered_count, 3); /* like anybody's */
    for (int i = 1; i < 6; i++) {
        bytes_unref(r.node[0].log[i]);
        r.node[0].log[i] = NULL;
    }
    rig_write(&r, 0, NULL);
    rig_wait(&r, 600);
    assert_int_equal(r.node[1].delivered_count, 6);
    assert_true(rig_in_sync(&r, 0, 1));
    rig_release(&r);
}

static void a_bad_batch_stops_its_origin_only(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 2);
    rig_connect(&r, 1, 2);
    r.node[2].slow_store = true;
    rig_wait(&r, 100);
    rig_write(&r, 0, NULL);
    rig_run(&r);
    rig_step(&r, 2,
             (struct event){
                 .type = EVENT_BATCH_BAD, .db = RIG_DB, .origin = rig_origin(&r, 0), .version = 1, .text = "needs a newer starlingd"});
    r.node[2].stored_count = 1;
    assert_non_null(strstr(core_database_refused(r.node[2].core, RIG_DB), "needs a newer starlingd"));
    rig_write(&r, 0, NULL);
    rig_write(&r, 1, NULL);
    rig_wait(&r, 10000);
    assert_int_equal(r.node[2].delivered_count, 2);
    assert_false(rig_in_sync(&r, 2, 0));
    rig_state(&r, 2, EVENT_DB_OPEN);
    assert_null(core_database_refused(r.node[2].core, RIG_DB));
    rig_wait(&r, 200);
    assert_int_equal(r.node[2].delivered_count, 5); /* the bad one, what came behind it, and what was not confirmed */
    rig_release(&r);
}

/* It is closed and opened again, as for another epoch, while it is asked and while it reads: who asked is answered all the same. */
static void a_reopening_forgets_no_question(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    rig_start_all(&r);
    for (unsigned i = 0; i < 3; i++)
        rig_write(&r, 1, NULL);
    r.node[1].silent_reads = true;
    rig_connect(&r, 0, 1);
    rig_wait(&r, 100);
    assert_int_equal(r.node[1].reads, 1);
    rig_write(&r, 1, NULL); /* told at once, so that the closing is not told before the opening */
    rig_step(&r, 1, (struct event){.type = EVENT_DB_CLOSED, .db = RIG_DB});
    rig_state(&r, 1, EVENT_DB_OPEN);
    assert_int_equal(r.node[1].reads, 1);
    r.node[1].silent_reads = false;
    rig_step(&r, 1, (struct event){.type = EVENT_READ, .request = r.node[1].last_read}); /* it was closed meanwhile */
    rig_wait(&r, 100);
    assert_int_equal(r.node[0].delivered_count, 4);
    rig_release(&r);
}

/* After a reopening, what was delivered and not stored is delivered again. */
/* Made up by somebody, or passed on from the other branch of a fork: nothing stops, and it is asked of others. */
static void what_does_not_follow_is_asked_of_others(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_write(&r, 0, NULL);
    rig_write(&r, 0, NULL);
    rig_run(&r);
    r.node[2].slow_store = true;
    rig_connect(&r, 1, 2);
    rig_wait(&r, 100);
    assert_int_equal(r.node[2].delivered_count, 2);
    rig_step(&r, 2, (struct event){.type = EVENT_BATCH_FORGED, .db = RIG_DB, .origin = rig_origin(&r, 0), .version = 1});
    assert_non_null(
        strstr(core_database_refused(r.node[2].core, RIG_DB), "what \"n0\" wrote after its version 0 is not the same everywhere"));
    assert_non_null(strstr(r.node[2].logs, "does not follow what is here, or is not signed"));
    assert_true(rig_linked(&r, 2, 1));
    rig_wait(&r, 5000);
    assert_int_equal(r.node[2].delivered_count, 2); /* not from there again */
    rig_connect(&r, 2, 0);
    rig_wait(&r, 5000);
    assert_int_equal(r.node[2].delivered_count, 4);
    r.node[2].stored_count = 2;
    rig_store_one(&r, 2);
    assert_null(core_database_refused(r.node[2].core, RIG_DB));
    rig_store_one(&r, 2);
    rig_wait(&r, 100);
    assert_true(rig_in_sync(&r, 2, 0));
    rig_release(&r);
}

/* Two have what their author said to them, and here is what he said to us: that stops him, and nobody else. */
static void a_fork_that_others_pass_on_stops_its_author_only(void **state) {
    (void)state;
    static struct rig r;
    struct vv after;
    rig_init(&r, 4);
    rig_start_all(&r);
    for (unsigned i = 1; i <= 2; i++)
        rig_connect(&r, 0, i);
    rig_connect(&r, 1, 2);
    rig_write(&r, 0, NULL);
    rig_wait(&r, 100);
    rig_close(&r, 1, 0, 1);
    rig_close(&r, 2, 0, 1);
    r.node[3].slow_store = true;
    rig_connect(&r, 1, 3);
    rig_connect(&r, 2, 3);
    rig_wait(&r, 100);
    vv_init(&after);
    struct origin liar = rig_origin(&r, 0);
    assert_int_equal(vv_set(&after, &liar, 1), 0);
    rig_write(&r, 1, &after);
    rig_wait(&r, 100);
    assert_int_equal(r.node[3].delivered_count, 2); /* the one, and what came after it */
    rig_step(&r, 3, (struct event){.type = EVENT_BATCH_FORGED, .db = RIG_DB, .origin = liar, .version = 1});
    r.node[3].stored_count = 1;
    rig_store_one(&r, 3);
    rig_wait(&r, 1000);
    assert_null(core_database_refused(r.node[3].core, RIG_DB)); /* the other one may have what its author said to us */
    assert_int_equal(r.node[3].delivered_count, 3);
    rig_write(&r, 1, &after);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[3].delivered_count, 4);
    rig_step(&r, 3, (struct event){.type = EVENT_BATCH_FORGED, .db = RIG_DB, .origin = liar, .version = 1});
    r.node[3].stored_count = 3;
    rig_store_one(&r, 3);
    assert_non_null(strstr(core_database_refused(r.node[3].core, RIG_DB), "what \"n0\" wrote after its version 0"));
    unsigned reads = r.node[1].reads + r.node[2].reads;
    assert_int_equal(vv_set(&after, &liar, 7), 0); /* also what was never offered is not waited for */
    rig_write(&r, 1, &after);
    rig_wait(&r, 30000);
    assert_int_equal(r.node[3].delivered_count, 5);
    assert_true(r.node[1].reads + r.node[2].reads <= reads + 2); /* and they are not asked in turn without end */
    assert_int_equal(r.node[3].yields, 0);
    /* he says that he forked, by a later epoch: what is here of the other branch is taken up beside that of the others */
    struct origin later = liar;
    later.epoch = 9;
    assert_int_equal(vv_set(&r.node[2].state.have, &later, 1), 0);
    rig_state(&r, 2, EVENT_STORED);
    rig_wait(&r, 100);
    assert_int_equal(r.node[3].yields, 0); /* anybody can say so */
    r.node[0].epoch = 9;
    r.node[0].version = 0;
    memset(r.node[0].chain, 0, sizeof r.node[0].chain);
    bytes_unref(r.node[0].log[1]);
    r.node[0].log[1] = NULL;
    rig_connect(&r, 0, 3);
    rig_write(&r, 0, NULL);
    rig_wait(&r, 100);
    r.node[3].slow_store = false;
    r.node[3].stored_count = r.node[3].delivered_count - 1;
    rig_store_one(&r, 3);
    assert_int_equal(r.node[3].yields, 1);
    assert_int_equal(r.node[1].yields + r.node[2].yields, 0);
    vv_release(&after);
    rig_release(&r);
}

/* The author himself: it is told, takes up its rows anew, and goes on under another epoch. */
static void a_fork_is_found_told_and_healed(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    r.node[1].slow_store = true;
    rig_write(&r, 0, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 1);
    rig_step(&r, 1, (struct event){.type = EVENT_BATCH_FORGED, .db = RIG_DB, .origin = rig_origin(&r, 0), .version = 1});
    rig_run(&r);
    assert_non_null(strstr(core_database_refused(r.node[1].core, RIG_DB), "the history of \"n0\" has forked"));
    assert_int_equal(r.node[0].yields, 1);
    assert_non_null(strstr(r.node[0].logs, "is taken up anew"));
    rig_write(&r, 0, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 1); /* nothing of that branch */
    rig_step(&r, 0, (struct event){.type = EVENT_DB_CLOSED, .db = RIG_DB});
    r.node[0].epoch = 7;
    r.node[0].version = 0;
    memset(r.node[0].chain, 0, sizeof r.node[0].chain);
    vv_clear(&r.node[0].state.have);
    bytes_unref(r.node[0].log[1]);
    r.node[0].log[1] = NULL;
    rig_state(&r, 0, EVENT_DB_OPEN);
    rig_write(&r, 0, NULL);
    rig_wait(&r, 200);
    assert_int_equal(r.node[1].delivered_count, 2);
    assert_null(core_database_refused(r.node[1].core, RIG_DB));
    r.node[1].stored_count = 1;
    rig_store_one(&r, 1);
    rig_wait(&r, 200);
    assert_true(rig_in_sync(&r, 1, 0));
    rig_release(&r);
}

static void reopening_falls_back_to_what_is_stored(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    r.node[1].slow_store = true;
    rig_write(&r, 0, NULL);
    rig_write(&r, 0, NULL);
    rig_run(&r);
    assert_int_equal(r.node[1].delivered_count, 2);
    rig_step(&r, 1, (struct event){.type = EVENT_DB_CLOSED, .db = RIG_DB});
    rig_wait(&r, 100);
    rig_state(&r, 1, EVENT_DB_OPEN);
    rig_wait(&r, 200);
    assert_int_equal(r.node[1].delivered_count, 4);
    rig_release(&r);
}

static void a_full_queue_drops_pushes_and_pulls_repair(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 2);
    r.node[0].config.link_queue_max = 5000;
    rig_start_all(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    rig_wait(&r, 1000);
    r.link[link - 1].hold[1] = true;
    for (int i = 0; i < 200; i++)
        rig_write(&r, 0, NULL);
    assert_in_range(r.link[link - 1].len[1], 4000, 6000);
    r.link[link - 1].hold[1] = false;
    rig_run(&r);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[1].delivered_count, 200);
    assert_true(rig_in_sync(&r, 0, 1));
    rig_release(&r);
}

/* One that does not answer is left for another. */
static void a_stalled_pull_goes_elsewhere(void **state) {
    (void)state;
    static struct rig r;
    rig_init(&r, 3);
    rig_start_all(&r);
    rig_connect(&r, 0, 1);
    rig_write(&r, 0, NULL);
    rig_wait(&r, 100);
    r.node[0].silent_reads = true;
    rig_connect(&r, 0, 2);
    rig_connect(&r, 1, 2);
    rig_wait(&r, 2500);
    assert_int_equal(r.node[2].delivered_count, 0);
    rig_wait(&r, 1000);
    assert_int_equal(r.node[2].delivered_count, 1);
    assert_int_equal(r.node[1].reads, 1);
    rig_release(&r);
}

static void unreadable_batch_closes_the_link(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    struct buf b;
    buf_init(&b, 1000);
    wire_pack_batch(&b, &(struct wire_batch){.total = 5, .chunk_len = 5});
    buf_append(&b, "junk!", 5);
    rig_says(&r, 1, 1, b.data, b.len);
    assert_false(rig_linked(&r, 1, 0));
    assert_non_null(strstr(r.node[1].last_log, "sent a batch that cannot be read"));
    buf_release(&b);
    rig_release(&r);
}

/* A chunk that does not follow, and a batch larger than its bound. */
static void chunks_are_bounded(void **state) {
    (void)state;
    static struct rig r;
    pair(&r);
    struct buf b;
    buf_init(&b, 1000);
    wire_pack_batch(&b, &(struct wire_batch){.total = 500, .at = 7, .chunk_len = 5});
    buf_append(&b, "junk!", 5);
    rig_says(&r, 1, 1, b.data, b.len);
    assert_false(rig_linked(&r, 1, 0));
    rig_run(&r);
    uint64_t link = rig_connect(&r, 0, 1);
    assert_true(rig_linked(&r, 1, 0));
    buf_clear(&b);
    wire_pack_batch(&b, &(struct wire_batch){.total = BATCH_BYTES_MAX + 1ull, .chunk_len = 5});
    buf_append(&b, "junk!", 5);
    rig_says(&r, 1, link, b.data, b.len);
    assert_false(rig_linked(&r, 1, 0));
    buf_release(&b);
    rig_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(push_goes_out_in_the_same_step),
        cmocka_unit_test(large_batch_spans_frames),
        cmocka_unit_test(what_is_fresh_overtakes_what_has_time),
        cmocka_unit_test(what_was_missed_is_pulled),
        cmocka_unit_test(a_line_converges),
        cmocka_unit_test(a_mesh_sends_each_batch_once),
        cmocka_unit_test(causes_come_first),
        cmocka_unit_test(held_memory_is_bounded_and_what_is_dropped_comes_again),
        cmocka_unit_test(nothing_is_told_before_it_is_stored),
        cmocka_unit_test(acknowledgements_gather_and_come_when_asked),
        cmocka_unit_test(in_sync_is_the_peers_own_word),
        cmocka_unit_test(who_meets_others_makes_no_database_yet),
        cmocka_unit_test(a_database_that_one_side_lacks_is_not_in_sync),
        cmocka_unit_test(pause_stops_everything_but_beats),
        cmocka_unit_test(differing_bases_are_not_merged),
        cmocka_unit_test(who_is_alone_yields),
        cmocka_unit_test(a_base_that_others_have_is_told),
        cmocka_unit_test(lost_versions_ask_for_a_new_epoch_once),
        cmocka_unit_test(a_bad_batch_stops_its_origin_only),
        cmocka_unit_test(what_does_not_follow_is_asked_of_others),
        cmocka_unit_test(a_fork_that_others_pass_on_stops_its_author_only),
        cmocka_unit_test(a_fork_is_found_told_and_healed),
        cmocka_unit_test(a_reopening_forgets_no_question),
        cmocka_unit_test(reopening_falls_back_to_what_is_stored),
        cmocka_unit_test(a_full_queue_drops_pushes_and_pulls_repair),
        cmocka_unit_test(a_stalled_pull_goes_elsewhere),
        cmocka_unit_test(unreadable_batch_closes_the_link),
        cmocka_unit_test(chunks_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
