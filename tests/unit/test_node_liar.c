/* Content from peers that lie, fall silent, or take no connection: what is staged is right, others are asked, and it ends. */
#include "tests/unit/content_rig.h"

#include "node/files/chunker.h"
#include "proto/core.h"
#include "proto/wire.h"
#include "proto/wire_content.h"

enum lie { LIE_CHUNKS, LIE_LIST, LIE_OTHER, LIE_ENDLESS, LIE_AGAIN, LIE_SIZE, LIE_SILENCE, LIE_STOP, LIE_GARBAGE, LIE_FLOOD, LIES };

static const char *const lies[] = {"wrong chunks",
                                   "a wrong list",
                                   "the list of something else",
                                   "an endless list",
                                   "a part of the list, again and again",
                                   "a chunk of another size",
                                   "silence",
                                   "silence in the middle",
                                   "garbage",
                                   "what was not asked"};

#define AGAIN_MS 300
#define STOP_CHUNKS 8
#define SMALL_BYTES 100

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
    uint8_t small[CONTENT_HASH_BYTES];
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
        if (memcmp(run.hash, liar.small, sizeof run.hash) == 0) { /* of the right size */
            wire_item_head(body, &(struct wire_item){run.hash, 0, NULL, SMALL_BYTES});
            wire_pack_data(b, &(struct wire_data){0, WIRE_ITEM_HEAD + SMALL_BYTES, body, WIRE_ITEM_HEAD + SMALL_BYTES});
            continue;
        }
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
        if (i == LIE_OTHER) /* each part is as it is named, and all chunks are there */
            liar.list.entries[0] ^= 1;
        write_file(0, "s", data, SMALL_BYTES);
        scan(0, "s", small);
        memcpy(liar.small, small, sizeof small);
        server_stop(2); /* from here on it is the test */
        servers[2].deaf = true;
        tell_peer(1, 2, true);
        struct content_want w = {.size = SMALL_BYTES, .hinted = true}, v = {.size = len, .hinted = true};
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
        assert_in_range(clock_mono_ms() - from, 0,
                        i == LIE_ENDLESS ? 1900 : 20000); /* no list of that file is so long: that shows at once */
        assert_int_equal(servers[1].failed, 0);
        assert_true(same_file(1, "a", data, len) && same_file(1, "s", data, SMALL_BYTES));
        assert_int_equal(in_staging(1), 0);
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
    if (!content_begin())
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_peer_that_lies_costs_only_itself, teardown),
        cmocka_unit_test_teardown(test_who_takes_no_connection_is_left_alone, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
