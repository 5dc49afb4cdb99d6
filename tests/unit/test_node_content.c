/* The content of files, from server to server: whole, verified, resumed, re-used. */
#include "tests/unit/content_rig.h"

#include <pthread.h>
#include <stdatomic.h>

#include <sys/resource.h>

#include "node/files/chunker.h"

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

/* Other bytes in the middle of what is half fetched. */
static void spoil(int n, off_t at) {
    char path[300];
    snprintf(path, sizeof path, "%s/staging", servers[n].folder);
    struct dirent **found = NULL;
    int count = scandir(path, &found, NULL, NULL), spoilt = 0;
    for (int i = 0; i < count; i++) {
        int fd = strstr(found[i]->d_name, ".part") == NULL ? -1 : openat(servers[n].staging, found[i]->d_name, O_WRONLY);
        if (fd >= 0) {
            assert_int_equal(pwrite(fd, "spoilt", 6, at), 6);
            close(fd);
            spoilt++;
        }
        free(found[i]);
    }
    free(found);
    assert_int_equal(spoilt, 1);
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
    spoil(1, 1u << 20); /* as a disk may: what the journal names is looked at again */
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

/* Files here that were changed after they were noted: what they have now is not taken for what they had. */
static void test_what_is_here_is_looked_at(void **state) {
    size_t len = 3u << 20;
    uint8_t *data = random_bytes(len), hash[2][CONTENT_HASH_BYTES];
    (void)state;
    server_start(0);
    server_start(1);
    write_file(0, "large", data, len);
    write_file(0, "small", data, 1000);
    scan(0, "large", hash[0]);
    scan(0, "small", hash[1]);
    write_file(1, "large", data, len);
    write_file(1, "small", data, 1000);
    scan(1, "large", NULL);
    scan(1, "small", NULL);
    data[500] ^= 1;
    write_file(1, "large", data, len);
    write_file(1, "small", data, 1000);
    data[500] ^= 1;
    link_servers(0, 1);
    want(1, "a", hash[0], len, hash[0]);
    want(1, "b", hash[1], 1000, NULL);
    assert_true(wait_staged(1, 2));
    assert_int_equal(servers[1].failed, 0);
    assert_true(same_file(1, "a", data, len) && same_file(1, "b", data, 1000));
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
    assert_int_equal(servers[1].warnings, 0); /* what it had before was said to be gone, and nothing else sent for it */
    free(data);
}

struct writing {
    int fd;
    atomic_bool stop;
};

static void *write_on(void *arg) {
    struct writing *w = arg;
    for (uint64_t i = 0; !atomic_load(&w->stop); i++)
        if (pwrite(w->fd, &i, 8, (off_t)(i * 4096 % (16u << 20))) != 8)
            break;
    return NULL;
}

/* What somebody writes while it is read has no hash. */
static void test_a_file_that_is_written(void **state) {
    size_t len = 16u << 20;
    uint8_t *data = random_bytes(len);
    struct writing w = {0};
    pthread_t thread;
    (void)state;
    server_start(0);
    write_file(0, "a", data, len);
    w.fd = openat(servers[0].root, "a", O_WRONLY | O_CLOEXEC);
    assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
    scan(0, "a", NULL);
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    close(w.fd);
    assert_int_equal(servers[0].scan.error, ERR_BUSY);
    scan(0, "a", NULL);
    assert_int_equal(servers[0].scan.error, 0);
    free(data);
}

/* Rows of the index that say other sizes than the contents have: those are not staged, and who sends what they are is not taken for a liar. */
static void test_an_index_that_lies_about_sizes(void **state) {
    static const size_t SIZES[][2] = {{100, 101}, {200, 199}, {1u << 20, 300}, {2u << 20, 400}, {3u << 20, (3u << 20) + 1}, {500, 500}};
    uint8_t *data = random_bytes(3u << 20), hash[CONTENT_HASH_BYTES];
    char name[8];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        snprintf(name, sizeof name, "f%zu", i);
        data[0] = (uint8_t)i;
        write_file(0, name, data, SIZES[i][0]);
        scan(0, name, hash);
        want(1, name, hash, SIZES[i][1], NULL);
        if (SIZES[i][0] != SIZES[i][1] && SIZES[i][1] > 16384)
            assert_true(wait_staged(1, 1)); /* its list says it: an error */
    }
    assert_true(wait_staged(1, 2));
    assert_int_equal(servers[1].failed, 1);
    assert_true(same_file(1, "f5", data, 500));
    free(data);
}

/* A large file is hashed once by who has it and once by who gets it; and again only where it does not look any more as it did then. */
static void test_hashed_once_a_side(void **state) {
    size_t len = 6u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    struct content_totals t;
    (void)state;
    for (int i = 0; i < 3; i++)
        server_start(i);
    write_file(0, "a", data, len);
    scan(0, "a", hash);
    link_servers(0, 1);
    want(1, "a", hash, len, NULL);
    assert_true(wait_staged(1, 1));
    for (int i = 0; i < 2; i++) {
        content_totals(servers[i].content, &t);
        assert_int_equal(t.hashed, len);
    }
    assert_int_equal(fchmodat(servers[0].root, "a", 0640, 0), 0);
    link_servers(0, 2);
    want(2, "a", hash, len, NULL);
    assert_true(wait_staged(2, 1));
    assert_true(same_file(2, "a", data, len));
    content_totals(servers[0].content, &t);
    assert_int_equal(t.hashed, 2 * len);
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

/* The same of a large one, of which two chunks are another thing by now, each in one of the places. */
static void test_a_large_file_is_in_two_places(void **state) {
    size_t len = 2u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (int i = 0; i < 2; i++) {
        write_file(0, i == 0 ? "a" : "b", data, len);
        scan(0, i == 0 ? "a" : "b", hash);
    }
    for (int i = 0; i < 2; i++) {
        data[i * (len - 1)] ^= 1;
        write_file(0, i == 0 ? "a" : "b", data, len);
        data[i * (len - 1)] ^= 1;
    }
    uint64_t from = clock_mono_ms();
    want(1, "x", hash, len, NULL);
    assert_true(wait_staged(1, 1));
    assert_in_range(clock_mono_ms() - from, 0, 1800);
    assert_true(same_file(1, "x", data, len));
    free(data);
}

/* Nobody else has it, and of the files here that had it one is gone, and one another; or it comes here while it is looked for elsewhere. */
static void test_it_is_here_somewhere(void **state) {
    static const char *const names[] = {"a", "b", "c"};
    size_t len = 1u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES], other[2][CONTENT_HASH_BYTES];
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (int i = 0; i < 3; i++) {
        write_file(1, names[i], data, 1000);
        scan(1, names[i], hash);
    }
    assert_int_equal(unlinkat(servers[1].root, "a", 0), 0);
    data[0] ^= 1;
    write_file(1, "b", data, 1000);
    data[0] ^= 1;
    want(1, "x", hash, 1000, NULL);
    assert_true(wait_staged(1, 1));
    assert_true(same_file(1, "x", data, 1000));

    write_file(0, "d", data, 999);
    write_file(0, "e", data, len);
    scan(0, "d", other[0]);
    scan(0, "e", other[1]);
    tell_peer(1, 0, false);
    tell_peer(0, 1, false);
    want(1, "y", other[0], 999, NULL);
    want(1, "z", other[1], len, NULL);
    write_file(1, "d", data, 999);
    write_file(1, "e", data, len);
    scan(1, "d", NULL);
    scan(1, "e", NULL);
    assert_true(wait_staged(1, 3));
    assert_true(same_file(1, "y", data, 999) && same_file(1, "z", data, len));
    free(data);
}

struct wanting {
    uint32_t count, n;
    const uint8_t *hash;
    uint64_t size;
};

static void want_one(uv_prepare_t *h) {
    struct wanting *w = h->data;
    char name[16];
    snprintf(name, sizeof name, "%u", w->n);
    if (w->n == w->count)
        uv_prepare_stop(h);
    else if (++w->n > 0)
        want(1, name, w->hash, w->size, NULL);
}

/* Many files of one content, wanted one after the other between all that the loop does: also right before what is being written is done. */
static void test_wanted_while_it_is_written(void **state) {
    const uint32_t count = 200;
    (void)state;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
    for (uint64_t size = 0; size <= 1000; size += 1000) {
        uint8_t *data = random_bytes(1000), hash[CONTENT_HASH_BYTES];
        const char *name = size == 0 ? "empty" : "small";
        write_file(0, name, data, size);
        scan(0, name, hash);
        struct wanting w = {count, 0, hash, size};
        uint32_t before = servers[1].staged;
        uv_prepare_t prepare = {.data = &w};
        uv_prepare_init(&loop, &prepare);
        uv_prepare_start(&prepare, want_one);
        assert_true(wait_staged(1, before + count));
        uv_close((uv_handle_t *)&prepare, NULL);
        uv_run(&loop, UV_RUN_NOWAIT);
        free(data);
    }
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
    assert_in_range(now.fetched - before, 0,
                    7u << 19); /* what was on its way: one job's reading, one link's queue; more than 4 MiB were asked for */
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

int main(void) {
    if (!content_begin())
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_any_size_arrives, teardown),
        cmocka_unit_test_teardown(test_a_changed_file_costs_little, teardown),
        cmocka_unit_test_teardown(test_it_goes_on_after_a_restart, teardown),
        cmocka_unit_test_teardown(test_who_is_fetching_serves, teardown),
        cmocka_unit_test_teardown(test_many_small_files, teardown),
        cmocka_unit_test_teardown(test_what_is_here_is_copied, teardown),
        cmocka_unit_test_teardown(test_what_is_here_is_looked_at, teardown),
        cmocka_unit_test_teardown(test_a_file_that_changed_is_gone, teardown),
        cmocka_unit_test_teardown(test_a_file_that_is_written, teardown),
        cmocka_unit_test_teardown(test_an_index_that_lies_about_sizes, teardown),
        cmocka_unit_test_teardown(test_hashed_once_a_side, teardown),
        cmocka_unit_test_teardown(test_a_small_file_is_in_two_places, teardown),
        cmocka_unit_test_teardown(test_a_large_file_is_in_two_places, teardown),
        cmocka_unit_test_teardown(test_it_is_here_somewhere, teardown),
        cmocka_unit_test_teardown(test_wanted_while_it_is_written, teardown),
        cmocka_unit_test_teardown(test_cancelled_is_not_staged, teardown),
        cmocka_unit_test_teardown(test_a_full_disk, teardown),
        cmocka_unit_test_teardown(test_a_bandwidth_limit, teardown),
        cmocka_unit_test_teardown(test_a_small_file_overtakes, teardown),
        cmocka_unit_test_teardown(test_gone_from_everybody, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
