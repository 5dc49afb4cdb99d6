/* What is fetched is on the disk before anybody is told: before it is staged, and before the journal names a chunk. Here the disk says which of its files have
 * something that a power cut would take. */
#include "tests/unit/content_rig.h"

#include <pthread.h>

#define FILES_MAX 1024
#define MAP_BITS_AT 33 /* or beyond: what is before them is written once, and proves itself */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    ino_t inode;
    bool dirty;
} files[FILES_MAX];
static uint32_t files_count, syncs, marks, checked; /* of a staging file; of its journal; that were put into their place */
static bool early;                                  /* somebody was told too early */

/* 1: a staging file of server 1; 2: the journal of one; 0: neither. */
static int kind_of(int fd, struct stat *st) {
    char link[40], path[400] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    if (servers[1].folder[0] == 0 || strncmp(path, servers[1].folder, strlen(servers[1].folder)) != 0 ||
        strstr(path, "/staging/") == NULL || fstat(fd, st) != 0)
        return 0;
    return strstr(path, ".map") != NULL ? 2 : 1;
}

static bool *dirty(ino_t inode) {
    uint32_t i = 0;
    while (i < files_count && files[i].inode != inode)
        i++;
    if (i == files_count && files_count < FILES_MAX)
        files[files_count++].inode = inode;
    return &files[i].dirty;
}

ssize_t __real_pwritev(int fd, const struct iovec *pieces, int count, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *pieces, int count, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
    struct stat st;
    int kind = kind_of(fd, &st);
    pthread_mutex_lock(&lock);
    if (kind == 1)
        *dirty(st.st_ino) = true;
    if (kind == 2 && at >= MAP_BITS_AT)
        early = early || ++marks > syncs; /* each of its marks comes behind a sync of its own */
    pthread_mutex_unlock(&lock);
    return __real_pwritev(fd, pieces, count, at);
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd) {
    struct stat st;
    int kind = kind_of(fd, &st), r = __real_fdatasync(fd);
    pthread_mutex_lock(&lock);
    if (kind == 1) {
        *dirty(st.st_ino) = false;
        syncs++;
    }
    pthread_mutex_unlock(&lock);
    return r;
}

int __wrap_syncfs(int fd);
int __wrap_syncfs(int fd) {
    (void)fd;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < files_count; i++)
        files[i].dirty = false;
    pthread_mutex_unlock(&lock);
    return 0;
}

int __real_renameat(int from, const char *name, int to, const char *as);
int __wrap_renameat(int from, const char *name, int to, const char *as);
int __wrap_renameat(int from, const char *name, int to, const char *as) {
    struct stat st;
    assert_int_equal(fstatat(from, name, &st, 0), 0);
    pthread_mutex_lock(&lock);
    early = early || *dirty(st.st_ino);
    checked++;
    pthread_mutex_unlock(&lock);
    return __real_renameat(from, name, to, as);
}

static void begin(void) {
    files_count = syncs = marks = checked = 0;
    early = false;
    server_start(0);
    server_start(1);
    link_servers(0, 1);
}

static void test_a_large_one(void **state) {
    size_t len = 80u << 20;
    uint8_t *data = random_bytes(len), hash[CONTENT_HASH_BYTES];
    (void)state;
    begin();
    write_file(0, "big", data, len);
    scan(0, "big", hash);
    want(1, "big", hash, len, NULL);
    assert_true(wait_staged(1, 1));
    assert_true(marks > 0 && checked == 1);
    assert_false(early);
    assert_true(same_file(1, "big", data, len));
    assert_int_equal(in_staging(1), 0);
    free(data);
}

/* Few are synced one by one, many with the file system. */
static void test_small_ones(void **state) {
    static uint8_t hash[400][CONTENT_HASH_BYTES];
    char name[32];
    uint32_t staged = 0;
    (void)state;
    begin();
    for (uint32_t many = 2; many <= 400; many += 398) {
        for (uint32_t i = 0; i < many; i++) {
            uint8_t *data = random_bytes(1000);
            snprintf(name, sizeof name, "%u of %u", i, many);
            write_file(0, name, data, 1000);
            scan(0, name, hash[i]);
            free(data);
        }
        for (uint32_t i = 0; i < many; i++) {
            snprintf(name, sizeof name, "%u of %u", i, many);
            want(1, name, hash[i], 1000, NULL);
        }
        assert_true(wait_staged(1, staged += many));
        assert_int_equal(checked, staged);
        assert_false(early);
    }
}

int main(void) {
    if (!content_begin())
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_large_one, teardown),
        cmocka_unit_test_teardown(test_small_ones, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
