/* The content of files, from server to server: whole, verified, resumed, re-used, and of nobody who lies. */
#include "tests/unit/content_rig.h"

#include <signal.h>
#include <sys/resource.h>

#include "node/files/chunker.h"
#include "proto/core.h"
#include "proto/wire.h"
#include "proto/wire_content.h"
#include "tests/unit/seed.h"

static int teardown(void **state) {
    (void)state;
    servers_end();
    return 0;
}

static void test_any_size_arrives(void **state) {
    static const size_t sizes[] = {0, 1, 1000, CHUNK_MIN, CHUNK_MIN + 1, 300000, 5u << 20, 20u << 20};
    uint8_t hash[CONTENT_HASH_BYTES], *data[8];
    char name[32];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (int i = 0; i < 8; i++) {
        data[i] = random_bytes(sizes[i]);
        snprintf(name, sizeof name, "file %d", i);
        write_file(0, name, data[i], sizes[i]);
        scan(0, name, hash);
        want(1, name, hash, sizes[i], NULL);
    }
    assert_true(wait_staged(1, 8));
    assert_int_equal(servers[1].failed, 0);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "file %d", i);
        assert_true(same_file(1, name, data[i], sizes[i]));
        free(data[i]);
    }
    assert_int_equal(in_staging(1), 0);
}

/* One byte changed, or put in at the front: a list as a difference, one or two chunks, the rest from the old file. */
static void test_a_changed_file_costs_little(void **state) {
    size_t len = 48u << 20;
    uint8_t *data = random_bytes(len + 1), hash[2][CONTENT_HASH_BYTES];
    struct content_totals before, after;
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    write_file(0, "big", data, len);
    scan(0, "big", hash[0]);
    want(1, "big", hash[0], len, NULL);
    assert_true(wait_staged(1, 1));
    for (int i = 0; i < 2; i++) {
        if (i == 0) {
            data[next_random() % len] ^= 1;
        } else {
            memmove(data + 1, data, len++);
            data[0] = 'x';
        }
        write_file(0, "big", data, len);
        scan(0, "big", hash[1]);
        content_totals(servers[1].content, &before);
        want(1, "big", hash[1], len, hash[0]);
        assert_true(wait_staged(1, 2 + (uint32_t)i));
        content_totals(servers[1].content, &after);
        assert_true(same_file(1, "big", data, len));
        print_message("over the line: %llu bytes\n", (unsigned long long)(after.received - before.received + after.sent - before.sent));
        assert_in_range(after.received - before.received + after.sent - before.sent, 1000, 600000);
        memcpy(hash[0], hash[1], sizeof hash[0]);
    }
    free(data);
}

struct progress {
    int server;
    uint64_t want, fetched;
};

static bool has_fetched(void *ctx) {
    const struct progress *p = ctx;
    struct content_progress now;
    return !content_progress(servers[p->server].content, p->want, &now) || now.fetched >= p->fetched;
}

static void test_it_goes_on_after_a_restart(void **state) {
    size_t len = 96u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct content_totals totals;
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    write_file(0, "big", data, len);
    scan(0, "big", hash);
    struct progress p = {1, want(1, "big", hash, len, NULL), 48u << 20};
    assert_true(run_until(has_fetched, &p));
    assert_int_equal(servers[1].staged, 0);
    server_stop(1);
    assert_int_equal(in_staging(1), 2);
    tell_peer(0, 1, false);
    server_start(1);
    link_servers(0, 1);
    want(1, "big", hash, len, NULL);
    assert_true(wait_staged(1, 1));
    content_totals(servers[1].content, &totals);
    assert_true(same_file(1, "big", data, len));
    assert_in_range(totals.received, 1, (64u << 20));
    assert_int_equal(in_staging(1), 0);
    free(data);
}

/* Two who fetch at once give each other what they have. */
static void test_who_is_fetching_serves(void **state) {
    size_t len = 64u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct content_totals totals[3];
    (void)state;
    for (int i = 0; i < 3; i++)
        server_start(i);
    for (int i = 0; i < 3; i++)
        link_servers(i, (i + 1) % 3);
    write_file(0, "big", data, len);
    scan(0, "big", hash);
    want(1, "big", hash, len, NULL);
    want(2, "big", hash, len, NULL);
    assert_true(wait_staged(1, 1) && wait_staged(2, 1));
    for (int i = 0; i < 3; i++)
        content_totals(servers[i].content, &totals[i]);
    assert_true(same_file(1, "big", data, len) && same_file(2, "big", data, len));
    print_message("the first one sent %llu of %zu MB\n", (unsigned long long)totals[0].sent >> 20, 2 * len >> 20);
    assert_true(totals[1].sent + totals[2].sent > len / 4);
    free(data);
}

static void test_many_small_files(void **state) {
    uint8_t hash[CONTENT_HASH_BYTES];
    char name[32], text[64];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (uint32_t i = 0; i < 1500; i++) {
        int len = snprintf(text, sizeof text, "the content of file %u\n", i);
        snprintf(name, sizeof name, "f%u", i);
        write_file(0, name, (uint8_t *)text, (size_t)len);
        scan(0, name, hash);
        want(1, name, hash, (uint64_t)len, NULL);
    }
    assert_true(wait_staged(1, 1500));
    for (uint32_t i = 0; i < 1500; i++) {
        int len = snprintf(text, sizeof text, "the content of file %u\n", i);
        snprintf(name, sizeof name, "f%u", i);
        assert_true(same_file(1, name, (uint8_t *)text, (size_t)len));
    }
    assert_int_equal(servers[1].failed, 0);
}

/* Two wants of one content: one fetch, two files. And what a file here has is not fetched at all. */
static void test_what_is_here_is_copied(void **state) {
    size_t len = 3u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct content_totals totals;
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    want(1, "a", hash, len, NULL);
    want(1, "b", hash, len, NULL);
    assert_true(wait_staged(1, 2));
    assert_true(same_file(1, "a", data, len) && same_file(1, "b", data, len));
    content_totals(servers[1].content, &totals);
    assert_in_range(totals.received, len, len + len / 8);
    tell_peer(1, 0, false);
    tell_peer(0, 1, false);
    want(1, "c", hash, len, NULL);
    assert_true(wait_staged(1, 3));
    assert_true(same_file(1, "c", data, len));
    free(data);
}

/* The file was changed after it was noted: what it has now is not sent. Another server has it. */
static void test_a_file_that_changed_is_gone(void **state) {
    size_t len = 2u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES], small[CONTENT_HASH_BYTES];
    (void)state;
    for (int i = 0; i < 3; i++)
        server_start(i);
    write_file(0, "a", data, len);
    write_file(0, "s", data, 100);
    write_file(2, "a", data, len);
    write_file(2, "s", data, 100);
    scan(0, "a", hash);
    scan(0, "s", small);
    scan(2, "a", hash);
    scan(2, "s", small);
    data[0] ^= 1;
    write_file(0, "a", data, len);
    write_file(0, "s", data, 100);
    data[0] ^= 1;
    link_servers(0, 1);
    want(1, "a", hash, len, NULL);
    want(1, "s", small, 100, NULL);
    struct progress p = {1, 1, (1u << 20)};
    assert_true(run_until(has_fetched, &p)); /* the rest of it is there */
    assert_int_equal(servers[1].staged, 0);
    link_servers(1, 2);
    assert_true(wait_staged(1, 2));
    assert_true(same_file(1, "a", data, len) && same_file(1, "s", data, 100));
    free(data);
}

/* Of two files with one content the first is another one by now, or none: the second is read, and nobody has to ask again. */
static void test_a_small_file_is_in_two_places(void **state) {
    uint8_t *data = random_bytes(1000), hash[2][CONTENT_HASH_BYTES];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (int i = 0; i < 2; i++) {
        data[0] ^= 1;
        write_file(0, i == 0 ? "a" : "b", data, 1000);
        write_file(0, i == 0 ? "c" : "d", data, 1000);
        scan(0, i == 0 ? "a" : "b", hash[i]);
        scan(0, i == 0 ? "c" : "d", hash[i]);
    }
    write_file(0, "a", data, 1000);
    assert_int_equal(unlinkat(servers[0].root, "b", 0), 0);
    uint64_t from = clock_mono_ms();
    want(1, "x", hash[0], 1000, NULL);
    want(1, "y", hash[1], 1000, NULL);
    assert_true(wait_staged(1, 2));
    assert_in_range(clock_mono_ms() - from, 0, 1800); /* who was told that it is gone asks again after 2 s */
    assert_true(same_file(1, "y", data, 1000));
    data[0] ^= 1;
    assert_true(same_file(1, "x", data, 1000));
    free(data);
}

static void test_cancelled_is_not_staged(void **state) {
    size_t len = 64u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    struct progress p = {1, want(1, "a", hash, len, NULL), 1u << 20};
    assert_true(run_until(has_fetched, &p));
    content_cancel(servers[1].content, p.want);
    write_file(0, "b", data, 1000);
    scan(0, "b", hash);
    want(1, "b", hash, 1000, NULL);
    assert_true(wait_staged(1, 1));
    assert_true(same_file(1, "b", data, 1000));
    struct content_totals totals;
    uint64_t deadline = clock_mono_ms() + 10000;
    do {
        uv_run(&loop, UV_RUN_ONCE);
        content_totals(servers[1].content, &totals);
    } while (totals.wants > 0 && clock_mono_ms() < deadline);
    assert_int_equal(in_staging(1), 0);
    assert_int_equal(servers[1].staged, 1);
    free(data);
}

/* A disk that takes no more: the want ends with it, and nothing stays. */
static void test_a_full_disk(void **state) {
    size_t len = 8u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct rlimit limit, small;
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    small.rlim_cur = 4u << 20;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    want(1, "a", hash, len, NULL);
    bool ended = wait_staged(1, 1);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_true(ended);
    assert_int_equal(servers[1].error, ERR_FULL);
    assert_int_equal(in_staging(1), 0);
    want(1, "a", hash, len, NULL);
    assert_true(wait_staged(1, 2));
    assert_true(same_file(1, "a", data, len));
    free(data);
}

/* A limit holds for who sends and for who receives, and what is small does not wait for ever behind what is large. */
static void test_a_bandwidth_limit(void **state) {
    size_t len = 3u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    (void)state;
    for (int who = 0; who < 2; who++) {
        server_start(0);
        server_start(1);
        content_set_bandwidth(servers[who].content, 2048);
        link_servers(0, 1);
        write_file(0, "a", data, len);
        scan(0, "a", hash);
        uint64_t from = clock_mono_ms();
        want(1, "a", hash, len, NULL);
        assert_true(wait_staged(1, 1));
        assert_in_range(clock_mono_ms() - from, 800, 20000); /* 1.5 s, less what may pass at once */
        assert_true(same_file(1, "a", data, len));
        servers_end();
    }
    free(data);
}

/* What is small goes first, also when MiB of something large were asked for already. */
static void test_a_small_file_overtakes(void **state) {
    size_t len = 16u << 20;
    uint8_t *data = random_bytes(len), hash[2][CONTENT_HASH_BYTES];
    struct content_progress now;
    (void)state;
    server_start(0);
    server_start(1);
    content_set_bandwidth(servers[0].content, 4096);
    link_servers(0, 1);
    write_file(0, "large", data, len);
    write_file(0, "small", data, 1000);
    scan(0, "large", hash[0]);
    scan(0, "small", hash[1]);
    struct progress p = {1, want(1, "large", hash[0], len, NULL), 1u << 20};
    assert_true(run_until(has_fetched, &p));
    assert_true(content_progress(servers[1].content, p.want, &now));
    uint64_t before = now.fetched;
    want(1, "small", hash[1], 1000, NULL);
    assert_true(wait_staged(1, 1));
    assert_true(same_file(1, "small", data, 1000));
    assert_true(content_progress(servers[1].content, p.want, &now));
    print_message("%llu KiB of the large one came before it\n", (unsigned long long)(now.fetched - before) >> 10);
    assert_in_range(now.fetched - before, 0, 5u << 19); /* what was on its way: one job's reading, one link's queue; 4 MiB were asked for */
    free(data);
}

static bool is_waiting(void *ctx) {
    const struct progress *p = ctx;
    struct content_progress now;
    return content_progress(servers[p->server].content, p->want, &now) && now.state == CONTENT_WAITING;
}

/* In the middle of it nobody has it any more: it waits, which is no error, and goes on when somebody has it again. */
static void test_gone_from_everybody(void **state) {
    size_t len = 8u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct content_totals totals;
    (void)state;
    for (int i = 0; i < 3; i++)
        server_start(i);
    content_set_bandwidth(servers[0].content, 8192);
    link_servers(0, 1);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    struct progress p = {1, want(1, "a", hash, len, NULL), 2u << 20};
    assert_true(run_until(has_fetched, &p));
    assert_int_equal(unlinkat(servers[0].root, "a", 0), 0);
    content_gone(servers[0].content, 0, "a");
    tell_peer(1, 0, false); /* its connection, and the file that it keeps open for it, go */
    link_servers(0, 1);
    assert_true(run_until(is_waiting, &p));
    assert_int_equal(servers[1].staged, 0);
    write_file(2, "a", data, len);
    scan(2, "a", NULL);
    link_servers(1, 2);
    assert_true(wait_staged(1, 1));
    assert_int_equal(servers[1].failed, 0);
    assert_true(same_file(1, "a", data, len));
    content_totals(servers[1].content, &totals);
    assert_in_range(totals.received, len, len + len / 4); /* and nothing twice */
    free(data);
}

/* ---- a peer that lies, played by the test */

enum lie { LIE_CHUNKS, LIE_LIST, LIE_ENDLESS, LIE_AGAIN, LIE_SIZE, LIE_SILENCE, LIE_STOP, LIE_GARBAGE, LIE_FLOOD, LIES };

static const char *const lies[] = {"wrong chunks",
                                   "a wrong list",
                                   "an endless list",
                                   "a part of the list, again and again",
                                   "a chunk of another size",
                                   "silence",
                                   "silence in the middle",
                                   "garbage",
                                   "what was not asked"};

#define AGAIN_MS 300
#define STOP_CHUNKS 8

static struct liar {
    enum lie lie;
    uv_poll_t poll;
    struct secure secure;
    struct buf frames;
    int fd;
    bool open;
    uint32_t asked, given;
    struct chunklist list;
    const uint8_t *data;
    uv_timer_t again;
    struct buf part;
} liar;

static void liar_send(struct buf *b) {
    uint8_t record[SECURE_RECORD_MAX + SECURE_RECORD_EXTRA];
    for (size_t at = 0; at < b->len;) {
        size_t n = b->len - at < SECURE_RECORD_MAX ? b->len - at : SECURE_RECORD_MAX,
               len = secure_seal(&liar.secure, b->data + at, n, false, record);
        at += n;
        for (size_t sent = 0; sent < len;) {
            ssize_t r = send(liar.fd, record + sent, len - sent, MSG_NOSIGNAL);
            if (r <= 0)
                return; /* it was dropped: that is what it gets */
            sent += (size_t)r;
        }
    }
}

static void lie_of_list(struct buf *b, const uint8_t *hash) {
    uint8_t groups[WIRE_GROUP_BYTES * 2];
    struct wire_groups w = {hash, liar.list.size, liar.list.count, 0, groups, 0};
    struct group g;
    for (uint32_t at = 0; at < liar.list.count; at += g.count) {
        assert_true(chunklist_group(&liar.list, at, &g));
        groups[0] = (uint8_t)g.count;
        groups[1] = (uint8_t)(g.count >> 8);
        memcpy(groups + 2, g.name, GROUP_BYTES);
        w.first = at;
        w.count = 1;
        if (liar.lie == LIE_LIST)
            groups[2] ^= 1;
        if (liar.lie == LIE_ENDLESS)
            w.chunks = WIRE_CHUNKS_MAX;
        wire_pack_groups(b, &w);
    }
}

static void liar_again(uv_timer_t *timer) {
    (void)timer;
    liar_send(&liar.part);
}

static void lie_of_entries(struct buf *b, const struct wire_part *part) {
    for (uint32_t i = 0; i < part->count; i++) {
        struct group g;
        if (!chunklist_group(&liar.list, wire_get_u32(part->firsts + 4 * (size_t)i), &g))
            continue;
        struct wire_entries w = {part->hash, g.first, liar.list.entries + (size_t)g.first * ENTRY_BYTES, g.count};
        wire_pack_entries(b, &w);
        if (liar.lie == LIE_AGAIN) {
            buf_clear(&liar.part);
            buf_append(&liar.part, b->data, b->len);
            uv_timer_start(&liar.again, liar_again, AGAIN_MS, AGAIN_MS);
            return;
        }
    }
}

static void lie_of_chunks(struct buf *b, const uint8_t *runs, uint32_t count) {
    static uint8_t body[WIRE_BODY_MAX];
    for (uint32_t i = 0; i < count; i++) {
        struct wire_run run = wire_get_run(runs, i);
        for (uint32_t n = 0; n < run.count && run.first + n < liar.list.count; n++) {
            struct chunk chunk = chunklist_get(&liar.list, run.first + n);
            struct wire_item item = {run.hash, run.first + n, NULL, chunk.len};
            if (liar.lie == LIE_STOP && liar.given++ >= STOP_CHUNKS)
                return;
            item.len -= liar.lie == LIE_SIZE;
            item.chunk += liar.lie == LIE_FLOOD ? 1000000 : 0;
            wire_item_head(body, &item);
            if (liar.lie == LIE_STOP)
                memcpy(body + WIRE_ITEM_HEAD, liar.data + chunk.at, chunk.len);
            struct wire_data w = {0, WIRE_ITEM_HEAD + item.len, body, WIRE_ITEM_HEAD + item.len};
            wire_pack_data(b, &w);
        }
    }
}

static void liar_answer(const uint8_t *payload, size_t len) {
    struct mpk m;
    uint32_t fields, count;
    const uint8_t *items;
    struct wire_part part;
    struct buf b;
    buf_init(&b, 64u << 20);
    int type = wire_type(&m, payload, len, &fields);
    liar.asked++;
    if (type == WIRE_WHO && wire_unpack_who(&items, &count, &m, fields) == 0)
        wire_pack_have(&b, &(struct wire_have){.hash = items, .chunks = liar.list.count});
    else if (liar.lie == LIE_SILENCE)
        ;
    else if (liar.lie == LIE_GARBAGE)
        buf_append(&b, "\0\0\0\3\x92\x27\xc1", 7);
    else if (type == WIRE_LIST && wire_unpack_list(&items, &m, fields) == 0)
        lie_of_list(&b, items);
    else if (type == WIRE_PART && wire_unpack_part(&part, &m, fields) == 0)
        lie_of_entries(&b, &part);
    else if (type == WIRE_WANT && wire_unpack_want(&items, &count, &m, fields) == 0)
        lie_of_chunks(&b, items, count);
    liar_send(&b);
    buf_release(&b);
}

static void liar_frames(void) {
    while (liar.frames.len >= WIRE_HEAD_BYTES) {
        const uint8_t *p = liar.frames.data;
        size_t n = WIRE_HEAD_BYTES + ((size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | (size_t)p[3]);
        if (liar.frames.len < n)
            return;
        liar_answer(p + WIRE_HEAD_BYTES, n - WIRE_HEAD_BYTES);
        memmove(liar.frames.data, liar.frames.data + n, liar.frames.len - n);
        liar.frames.len -= n;
    }
}

static void liar_closed(uv_handle_t *handle) {
    (void)handle;
    close(liar.fd);
    secure_release(&liar.secure);
    liar.open = false;
}

static void liar_read(uv_poll_t *poll, int status, int events) {
    static uint8_t bytes[65536], plain[SECURE_RECORD_MAX];
    (void)events;
    ssize_t n = status != 0 ? 0 : recv(liar.fd, bytes, sizeof bytes, 0);
    if (n <= 0) {
        uv_close((uv_handle_t *)&liar.again, NULL);
        uv_close((uv_handle_t *)poll, liar_closed);
        return;
    }
    const uint8_t *p = bytes;
    size_t left = (size_t)n, len;
    while (secure_open(&liar.secure, &p, &left, plain, &len) == 1)
        buf_append(&liar.frames, plain, len);
    liar_frames();
}

/* In place of wanted(): somebody dials the liar. */
static bool liar_dialled(struct server *by) {
    if (liar.open)
        return true; /* under way */
    connect_servers(by, &servers[2], &liar.fd, &liar.secure);
    buf_clear(&liar.frames);
    uv_timer_init(&loop, &liar.again);
    uv_poll_init(&loop, &liar.poll, liar.fd);
    liar.open = true;
    uv_poll_start(&liar.poll, UV_READABLE, liar_read);
    return true;
}

static bool liar_gone(void *ctx) {
    (void)ctx;
    return !liar.open;
}

/* Whatever a peer does: what is staged is right, others are asked, and it ends. */
static void test_a_peer_that_lies_costs_only_itself(void **state) {
    size_t most = 24u << 20;
    uint8_t *data = random_bytes(most), hash[CONTENT_HASH_BYTES], small[CONTENT_HASH_BYTES];
    (void)state;
    dialled_deaf = liar_dialled;
    for (int i = 0; i < LIES; i++) {
        for (int n = 0; n < 3; n++)
            server_start(n);
        size_t len = i == LIE_AGAIN ? most : most / 6; /* of more than one part */
        liar.lie = (enum lie)i;
        liar.asked = liar.given = 0;
        liar.data = data;
        buf_init(&liar.part, 1u << 20);
        buf_init(&liar.frames, 8u << 20);
        write_file(0, "a", data, len);
        scan(0, "a", hash);
        chunklist_init(&liar.list);
        struct chunker chunker;
        chunker_init(&chunker);
        for (size_t at = 0; at < len;) {
            uint8_t chunk[CONTENT_HASH_BYTES];
            size_t n = chunker_cut(&chunker, data + at, len - at);
            chunk_hash(data + at, n, chunk);
            chunklist_add(&liar.list, chunk, (uint32_t)n);
            at += n;
        }
        write_file(0, "s", data, 100);
        scan(0, "s", small);
        server_stop(2); /* from here on it is the test */
        servers[2].deaf = true;
        tell_peer(1, 2, true);
        struct content_want w = {.size = 100, .hinted = true}, v = {.size = len, .hinted = true};
        memcpy(w.hash, small, sizeof small);
        memcpy(v.hash, hash, sizeof hash);
        memcpy(w.peer, servers[2].id, NODE_ID_BYTES);
        memcpy(v.peer, servers[2].id, NODE_ID_BYTES);
        snprintf(servers[1].places[content_want(servers[1].content, &w) % 4096], 32, "s");
        snprintf(servers[1].places[content_want(servers[1].content, &v) % 4096], 32, "a");
        struct counting k = {&liar.asked, 1};
        assert_true(run_until(is_counted, &k));
        link_servers(0, 1);
        uint64_t from = clock_mono_ms();
        assert_true(wait_staged(1, 2));
        print_message("%s: %llu ms\n", lies[i], (unsigned long long)(clock_mono_ms() - from));
        assert_in_range(clock_mono_ms() - from, 0, 20000);
        assert_int_equal(servers[1].failed, 0);
        assert_true(same_file(1, "a", data, len) && same_file(1, "s", data, 100));
        tell_peer(1, 2, false);
        assert_true(run_until(liar_gone, NULL));
        servers_end();
        chunklist_release(&liar.list);
        buf_release(&liar.frames);
        buf_release(&liar.part);
    }
    dialled_deaf = NULL;
    free(data);
}

static uint32_t dials;

/* The handshake holds, and then the connection is closed, as by a server that replicates no files. */
static bool closes_at_once(struct server *by) {
    struct secure secure;
    int fd;
    connect_servers(by, &servers[2], &fd, &secure);
    secure_release(&secure);
    close(fd);
    dials++;
    return true;
}

static void test_who_takes_no_connection_is_left_alone(void **state) {
    uint8_t *data = random_bytes(1u << 20), hash[CONTENT_HASH_BYTES];
    (void)state;
    for (int n = 0; n < 3; n++)
        server_start(n);
    server_stop(2);
    servers[2].deaf = true;
    dialled_deaf = closes_at_once;
    dials = 0;
    write_file(0, "a", data, 1u << 20);
    scan(0, "a", hash);
    tell_peer(1, 2, true);
    want(1, "a", hash, 1u << 20, NULL);
    struct counting two = {&dials, 2};
    uint64_t from = clock_mono_ms();
    assert_true(run_until(is_counted, &two));
    assert_in_range(clock_mono_ms() - from, 1000, DEADLINE_MS);
    link_servers(0, 1);
    assert_true(wait_staged(1, 1));
    dialled_deaf = NULL;
    free(data);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* as starlingd does */
    if (sodium_init() < 0 || uv_loop_init(&loop) != 0)
        return 1;
    seed = seed_begin();
    if (getenv("STARLING_ONLY") != NULL)
        cmocka_set_test_filter(getenv("STARLING_ONLY"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_any_size_arrives, teardown),
        cmocka_unit_test_teardown(test_a_changed_file_costs_little, teardown),
        cmocka_unit_test_teardown(test_it_goes_on_after_a_restart, teardown),
        cmocka_unit_test_teardown(test_who_is_fetching_serves, teardown),
        cmocka_unit_test_teardown(test_many_small_files, teardown),
        cmocka_unit_test_teardown(test_what_is_here_is_copied, teardown),
        cmocka_unit_test_teardown(test_a_file_that_changed_is_gone, teardown),
        cmocka_unit_test_teardown(test_a_small_file_is_in_two_places, teardown),
        cmocka_unit_test_teardown(test_cancelled_is_not_staged, teardown),
        cmocka_unit_test_teardown(test_a_full_disk, teardown),
        cmocka_unit_test_teardown(test_a_bandwidth_limit, teardown),
        cmocka_unit_test_teardown(test_a_small_file_overtakes, teardown),
        cmocka_unit_test_teardown(test_gone_from_everybody, teardown),
        cmocka_unit_test_teardown(test_a_peer_that_lies_costs_only_itself, teardown),
        cmocka_unit_test_teardown(test_who_takes_no_connection_is_left_alone, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
