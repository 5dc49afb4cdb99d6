/* Servers that exchange content, in one process and on one loop: each with a folder, a staging folder and a struct content, connected
 * where the test says so. The handshake is made in memory. */
#ifndef TESTS_UNIT_CONTENT_RIG_H
#define TESTS_UNIT_CONTENT_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sodium.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/content_door.h"
#include "node/files/content.h"
#include "proto/err.h"
#include "tests/unit/seed.h"

#define SERVERS_MAX 4
#define DEADLINE_MS 60000

struct server {
    uint8_t id[NODE_ID_BYTES];
    struct secure_keys keys;
    struct content_door *door;
    struct content *content;
    char folder[256];
    int root, staging;
    uint32_t staged, failed, scanned;
    bool keep; /* staged files are left where they are */
    int error;
    struct content_scanned scan;
    char places[4096][32]; /* by want % 4096: where to put it */
    bool closed, deaf;
    uint32_t warnings;
};

static struct server servers[SERVERS_MAX];
static uv_loop_t loop;
static uint64_t seed;

static uint64_t next_random(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

/* ---- connections */

static void shake(struct secure ends[2], struct server *a, struct server *b) {
    struct buf out[2];
    struct server *who[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        uint8_t random[SECURE_RANDOM_BYTES];
        randombytes_buf(random, sizeof random);
        buf_init(&out[i], 4096);
        secure_init(&ends[i], &who[i]->keys, i == 0, random, &out[i]);
    }
    ends[0].purpose = SECURE_CONTENT;
    for (int i = 0; i < 3; i++) {
        const uint8_t *p = out[i % 2].data;
        size_t left = out[i % 2].len;
        assert_true(secure_shake(&ends[!(i % 2)], &who[!(i % 2)]->keys, &p, &left, &out[!(i % 2)]) >= 0);
        buf_clear(&out[i % 2]);
    }
    assert_int_equal(ends[1].purpose, SECURE_CONTENT);
    buf_release(&out[0]);
    buf_release(&out[1]);
}

/* b's end: to its content, or to the test. */
static void connect_servers(struct server *a, struct server *b, int *end, struct secure *secure) {
    struct secure ends[2];
    int fds[2];
    shake(ends, a, b);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct door_event e = {.type = DOOR_HANDED, .handed = {.fd = fds[0], .dial = 1, .secure = ends[0]}};
    memcpy(e.peer, b->id, NODE_ID_BYTES);
    door_put(a->door, &e);
    if (end != NULL) {
        *end = fds[1];
        *secure = ends[1];
        return;
    }
    e.handed = (struct transport_handed){.fd = fds[1], .secure = ends[1]};
    memcpy(e.peer, a->id, NODE_ID_BYTES);
    door_put(b->door, &e);
}

static bool (*dialled_deaf)(struct server *by); /* where the test itself answers */

static void wanted(void *ctx, const uint8_t *peer) {
    struct server *s = ctx;
    for (int i = 0; i < SERVERS_MAX; i++)
        if (servers[i].deaf && dialled_deaf != NULL && memcmp(servers[i].id, peer, NODE_ID_BYTES) == 0 && dialled_deaf(s))
            return;
    for (int i = 0; i < SERVERS_MAX; i++)
        if (servers[i].content != NULL && !servers[i].deaf && memcmp(servers[i].id, peer, NODE_ID_BYTES) == 0) {
            connect_servers(s, &servers[i], NULL, NULL);
            return;
        }
    struct door_event e = {.type = DOOR_DIAL_FAILED};
    memcpy(e.peer, peer, NODE_ID_BYTES);
    door_put(s->door, &e);
}

static void tell_peer(int to, int of, bool up) {
    struct door_event e = {.type = up ? DOOR_PEER_UP : DOOR_PEER_DOWN};
    memcpy(e.peer, servers[of].id, NODE_ID_BYTES);
    door_put(servers[to].door, &e);
}

static void link_servers(int a, int b) {
    tell_peer(a, b, true);
    tell_peer(b, a, true);
}

/* ---- servers */

static int open_cb(void *ctx, uint32_t root, const char *path) {
    struct server *s = ctx;
    (void)root;
    int fd = openat(s->root, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int staging_cb(void *ctx, uint32_t root) {
    struct server *s = ctx;
    (void)root;
    return s->staging;
}

static void scanned_cb(void *ctx, const struct content_scanned *scanned) {
    struct server *s = ctx;
    s->scan = *scanned;
    s->scanned++;
}

static void staged_cb(void *ctx, const struct content_staged *staged, uint32_t count) {
    struct server *s = ctx;
    struct stat st;
    for (uint32_t i = 0; i < count; i++) {
        s->staged++;
        s->failed += staged[i].error != 0;
        s->error = staged[i].error;
        if (staged[i].error != 0 || s->keep)
            continue;
        const char *place = s->places[staged[i].want % 4096];
        assert_int_equal(renameat(s->staging, staged[i].name, s->root, place), 0);
        assert_int_equal(fstatat(s->root, place, &st, 0), 0);
        assert_int_equal(st.st_size, staged[i].size);
        content_note(s->content, 0, place, staged[i].hash, &st);
    }
}

static void forgot_cb(void *ctx) { (void)ctx; }

static void say_cb(void *ctx, enum log_level level, const char *text) {
    struct server *s = ctx;
    s->warnings += level <= LOG_WARNING;
    if (level <= LOG_WARNING)
        print_message("server %d: %s\n", (int)(s - servers), text);
}

static void closed_cb(void *ctx) {
    struct server *s = ctx;
    s->closed = true;
    s->content = NULL;
}

static void server_start(int n) {
    struct server *s = &servers[n];
    char path[300];
    if (s->folder[0] == 0) {
        uint8_t seed_bytes[32] = {(uint8_t)(n + 1)}, key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
        crypto_sign_seed_keypair(key, secret, seed_bytes);
        secure_keys_init(&s->keys, key, secret);
        node_id_of_key(s->id, key);
        snprintf(s->folder, sizeof s->folder, "/tmp/starling-content-XXXXXX");
        assert_non_null(mkdtemp(s->folder));
        snprintf(path, sizeof path, "%s/root", s->folder);
        assert_int_equal(mkdir(path, 0700), 0);
        s->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        snprintf(path, sizeof path, "%s/staging", s->folder);
        assert_int_equal(mkdir(path, 0700), 0);
        s->staging = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_non_null(s->door = door_new(&loop, wanted, s));
    }
    struct content_config config = {&loop, s->folder, s->door, 0, s, open_cb, staging_cb, scanned_cb, staged_cb, say_cb, forgot_cb};
    s->staged = s->failed = s->scanned = 0;
    s->closed = s->deaf = false;
    assert_int_equal(content_open(&s->content, &config), 0);
}

static bool run_until(bool (*done)(void *ctx), void *ctx) {
    uint64_t deadline = clock_mono_ms() + DEADLINE_MS;
    while (!done(ctx) && clock_mono_ms() < deadline)
        uv_run(&loop, UV_RUN_ONCE);
    return done(ctx);
}

static bool is_closed(void *ctx) { return ((struct server *)ctx)->closed; }

static void server_stop(int n) {
    content_close(servers[n].content, closed_cb);
    assert_true(run_until(is_closed, &servers[n]));
    for (int i = 0; i < SERVERS_MAX; i++)
        if (i != n && servers[i].content != NULL)
            tell_peer(i, n, false);
}

static void servers_end(void) {
    for (int i = 0; i < SERVERS_MAX; i++) {
        struct server *s = &servers[i];
        if (s->folder[0] == 0)
            continue;
        if (s->content != NULL)
            server_stop(i);
        door_shut(s->door);
        uv_run(&loop, UV_RUN_NOWAIT);
        door_free(s->door);
        close(s->root);
        close(s->staging);
        nftw(s->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        memset(s, 0, sizeof *s);
    }
}

/* ---- files */

static uint8_t *random_bytes(size_t len) {
    uint8_t key[randombytes_SEEDBYTES] = {0}, *data = malloc(len + 1);
    uint64_t r = next_random();
    memcpy(key, &r, sizeof r);
    randombytes_buf_deterministic(data, len, key);
    return data;
}

static void write_file(int n, const char *name, const uint8_t *data, size_t len) {
    int fd = openat(servers[n].root, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    for (size_t at = 0; at < len;) {
        ssize_t done = write(fd, data + at, len - at);
        assert_true(done > 0);
        at += (size_t)done;
    }
    close(fd);
}

static bool same_file(int n, const char *name, const uint8_t *data, size_t len) {
    int fd = openat(servers[n].root, name, O_RDONLY);
    uint8_t *found = malloc(len + 1);
    ssize_t got = fd < 0 ? -1 : read(fd, found, len + 1);
    bool same = got == (ssize_t)len && memcmp(found, data, len) == 0;
    close(fd);
    free(found);
    return same;
}

struct counting {
    const uint32_t *count;
    uint32_t want;
};

static bool is_counted(void *ctx) {
    const struct counting *k = ctx;
    return *k->count >= k->want;
}

static void scan(int n, const char *name, uint8_t hash[CONTENT_HASH_BYTES]) {
    struct server *s = &servers[n];
    struct counting k = {&s->scanned, s->scanned + 1};
    assert_true(content_scan(s->content, 0, name) != 0);
    assert_true(run_until(is_counted, &k));
    if (hash != NULL) {
        assert_int_equal(s->scan.error, 0);
        memcpy(hash, s->scan.hash, CONTENT_HASH_BYTES);
    }
}

static uint64_t want(int n, const char *name, const uint8_t *hash, uint64_t size, const uint8_t *base) {
    struct content_want w = {.size = size, .based = base != NULL};
    memcpy(w.hash, hash, sizeof w.hash);
    if (base != NULL)
        memcpy(w.base, base, sizeof w.base);
    uint64_t number = content_want(servers[n].content, &w);
    assert_true(number != 0);
    snprintf(servers[n].places[number % 4096], 32, "%s", name);
    return number;
}

static bool wait_staged(int n, uint32_t count) {
    struct counting k = {&servers[n].staged, count};
    return run_until(is_counted, &k);
}

static uint32_t in_staging(int n) {
    char path[300];
    snprintf(path, sizeof path, "%s/staging", servers[n].folder);
    struct dirent **found = NULL;
    int count = scandir(path, &found, NULL, NULL);
    for (int i = 0; i < count; i++)
        free(found[i]);
    free(found);
    return (uint32_t)count - 2;
}

/* ---- the program */

static int teardown(void **state) {
    (void)state;
    servers_end();
    return 0;
}

static bool content_begin(void) {
    signal(SIGPIPE, SIG_IGN); /* as starlingd does */
    if (sodium_init() < 0 || uv_loop_init(&loop) != 0)
        return false;
    seed = seed_begin();
    if (getenv("STARLING_ONLY") != NULL)
        cmocka_set_test_filter(getenv("STARLING_ONLY"));
    return true;
}

#endif
