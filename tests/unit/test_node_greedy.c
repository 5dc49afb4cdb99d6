/* Content peers who take more than their share: connections, questions, answers that they do not read; and a disk that is slower than all peers. */
#include "tests/unit/content_rig.h"

#include <poll.h>
#include <pthread.h>

#include "node/files/chunker.h"
#include "proto/wire.h"
#include "proto/wire_content.h"

#define SOON_MS 10000 /* long before a connection on which nothing passes is dropped */

/* ---- the disk: while the gate is closed nothing is written into the staging folder of server 1 */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool closed;

static void gate(int fd) {
    char link[40], path[400] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    if (strncmp(path, servers[1].folder, strlen(servers[1].folder)) != 0 || strstr(path, ".part") == NULL)
        return;
    pthread_mutex_lock(&lock);
    while (closed)
        pthread_cond_wait(&opened, &lock);
    pthread_mutex_unlock(&lock);
}

ssize_t __real_pwritev(int fd, const struct iovec *pieces, int count, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *pieces, int count, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
    gate(fd);
    return __real_pwritev(fd, pieces, count, at);
}

static void gate_set(bool on) {
    pthread_mutex_lock(&lock);
    closed = on;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&lock);
}

static bool has_received(void *ctx) {
    struct content_totals t;
    content_totals(servers[1].content, &t);
    return t.received >= *(const uint64_t *)ctx;
}

/* What came and is not written is 6 MiB, and what was being read then; however many peers send. */
static void test_a_slow_disk_stops_who_sends(void **state) {
    size_t len = 8u << 20;
    uint64_t begun = 6u << 20;
    uint8_t *data = random_bytes(len), hash[4][CONTENT_HASH_BYTES];
    char name[8];
    struct content_totals t;
    (void)state;
    for (int n = 0; n < 4; n++)
        server_start(n);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "f%d", i);
        data[0] = (uint8_t)i;
        for (int n = 0; n < 4; n++) {
            if (n == 1)
                continue;
            write_file(n, name, data, len);
            scan(n, name, hash[i]);
        }
    }
    write_file(0, "clock", data, 4u << 20);
    scan(0, "clock", hash[3]);
    gate_set(true);
    for (int n = 0; n < 4; n++)
        if (n != 1)
            link_servers(1, n);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "f%d", i);
        want(1, name, hash[i], len, NULL);
    }
    assert_true(run_until(has_received, &begun));
    link_servers(0, 2);
    want(2, "clock", hash[3], 4u << 20, NULL); /* what takes a while: meanwhile the others would send all that they were asked for */
    assert_true(wait_staged(2, 1));
    content_totals(servers[1].content, &t);
    assert_in_range(t.received, 6u << 20, 9u << 20);
    gate_set(false);
    assert_true(wait_staged(1, 3));
    data[0] = 0;
    assert_true(same_file(1, "f0", data, len));
    assert_int_equal(in_staging(1), 0);
    free(data);
}

/* ---- a peer that is the test */

static struct greedy {
    int fd[10];
    struct secure secure[10];
    const struct buf *frame;
    uint32_t sent;
} greedy;

static void greedy_begin(int count) {
    server_start(2);
    server_stop(2);
    servers[2].deaf = true;
    tell_peer(0, 2, true);
    for (int i = 0; i < count; i++)
        connect_servers(&servers[0], &servers[2], &greedy.fd[i], &greedy.secure[i]);
}

static void greedy_end(int count) {
    for (int i = 0; i < count; i++) {
        close(greedy.fd[i]);
        secure_release(&greedy.secure[i]);
    }
}

static bool four_are_left(void *ctx) {
    char byte;
    int gone = 0;
    struct content_totals t;
    (void)ctx;
    for (int i = 0; i < 10; i++)
        gone += recv(greedy.fd[i], &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
    content_totals(servers[0].content, &t);
    return gone == 6 && t.links == 4;
}

static void test_links_of_one_peer(void **state) {
    (void)state;
    server_start(0);
    greedy_begin(10);
    uint64_t from = clock_mono_ms();
    assert_true(run_until(four_are_left, NULL));
    assert_in_range(clock_mono_ms() - from, 0, SOON_MS);
    greedy_end(10);
}

static bool greedy_send(const uint8_t *record, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t n = send(greedy.fd[0], record + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            uv_run(&loop, UV_RUN_NOWAIT); /* it takes the rest, or closes */
        else if (n <= 0)
            return false;
        else
            at += (size_t)n;
    }
    return true;
}

/* Sends the frame once more, as soon as there is room; true: it was thrown out. */
static bool is_thrown_out(void *ctx) {
    uint8_t record[SECURE_RECORD_MAX + SECURE_RECORD_EXTRA];
    struct content_totals t;
    (void)ctx;
    content_totals(servers[0].content, &t);
    if (t.links == 0 && greedy.sent > 0)
        return true;
    struct pollfd p = {.fd = greedy.fd[0], .events = POLLOUT};
    if (t.links == 0 || poll(&p, 1, 0) != 1)
        return false;
    for (size_t done = 0, n; done < greedy.frame->len; done += n) {
        n = greedy.frame->len - done < SECURE_RECORD_MAX ? greedy.frame->len - done : SECURE_RECORD_MAX;
        size_t len = secure_seal(&greedy.secure[0], greedy.frame->data + done, n, false, record);
        if (!greedy_send(record, len))
            break;
    }
    greedy.sent++;
    return false;
}

static void thrown_out(const struct buf *frame, uint64_t bytes_most) {
    struct content_totals t;
    greedy.frame = frame;
    greedy.sent = 0;
    uint64_t from = clock_mono_ms();
    assert_true(run_until(is_thrown_out, NULL));
    assert_in_range(clock_mono_ms() - from, 0, SOON_MS);
    content_totals(servers[0].content, &t);
    assert_in_range(t.sent, 0, bytes_most);
}

/* Who asks and does not read what comes gets no more than some MiB of this server's memory. */
static void test_who_does_not_read(void **state) {
    size_t len = 24u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES], firsts[4 * WIRE_PARTS_MAX];
    struct chunklist list;
    struct chunker chunker;
    struct group g;
    struct buf b;
    (void)state;
    server_start(0);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    chunklist_init(&list);
    chunker_init(&chunker);
    for (size_t at = 0; at < len;) {
        uint8_t chunk[CONTENT_HASH_BYTES];
        size_t n = chunker_cut(&chunker, data + at, len - at);
        chunk_hash(data + at, n, chunk);
        assert_int_equal(chunklist_add(&list, chunk, (uint32_t)n), 0);
        at += n;
    }
    struct wire_part part = {hash, firsts, 0};
    for (uint32_t at = 0; at < list.count && part.count < WIRE_PARTS_MAX; at += g.count) {
        assert_true(chunklist_group(&list, at, &g));
        wire_put_u32(firsts + 4 * part.count++, at);
    }
    buf_init(&b, 1u << 20);
    wire_pack_part(&b, &part);
    greedy_begin(1);
    thrown_out(&b, 8u << 20);
    greedy_end(1);
    buf_release(&b);
    chunklist_release(&list);
    free(data);
}

/* Who asks for more chunks than anybody keeps in mind. */
static void test_who_asks_for_too_much(void **state) {
    size_t len = 1u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct wire_run runs[WIRE_RUNS_MAX];
    struct buf b;
    (void)state;
    server_start(0);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    for (uint32_t i = 0; i < WIRE_RUNS_MAX; i++) {
        runs[i] = (struct wire_run){.first = 0, .count = 2};
        memcpy(runs[i].hash, hash, sizeof hash);
    }
    buf_init(&b, 1u << 20);
    wire_pack_want(&b, runs, WIRE_RUNS_MAX);
    greedy_begin(1);
    thrown_out(&b, 8u << 20);
    assert_in_range(greedy.sent, 4096 / WIRE_RUNS_MAX, 100); /* what is kept in mind, and what sockets hold */
    greedy_end(1);
    buf_release(&b);
    free(data);
}

int main(void) {
    setenv("UV_THREADPOOL_SIZE", "64", 1); /* those that wait at the gate are not the others' */
    if (!content_begin())
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_slow_disk_stops_who_sends, teardown),
        cmocka_unit_test_teardown(test_links_of_one_peer, teardown),
        cmocka_unit_test_teardown(test_who_does_not_read, teardown),
        cmocka_unit_test_teardown(test_who_asks_for_too_much, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
