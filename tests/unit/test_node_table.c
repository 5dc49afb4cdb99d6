/* content.db where the disk is full, or no descriptor is left: what could not be noted is told, and what is there stays. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/files/content_table.h"
#include "proto/err.h"

static char folder[] = "/tmp/starling-table-XXXXXX", path[sizeof(folder) + 16];

static void limit(int what, rlim_t value) {
    struct rlimit r;
    assert_int_equal(getrlimit(what, &r), 0);
    r.rlim_cur = value < r.rlim_max ? value : r.rlim_max;
    assert_int_equal(setrlimit(what, &r), 0);
}

static int note(struct content_table *t, uint32_t n, uint8_t hash[CONTENT_HASH_BYTES]) {
    const struct content_stamp stamp = {.size = 1, .inode = n};
    uint8_t chunk[CONTENT_HASH_BYTES] = {0};
    struct chunklist list;
    char name[20];
    chunklist_init(&list);
    memcpy(chunk, &n, sizeof(n));
    memset(hash, 0, CONTENT_HASH_BYTES);
    memcpy(hash, &n, sizeof(n));
    assert_int_equal(chunklist_add(&list, chunk, 1), 0);
    snprintf(name, sizeof(name), "file %u", n);
    int r = table_note(t, 0, name, hash, &list, &stamp);
    chunklist_release(&list);
    return r;
}

static int begin(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/content.db", folder);
    return 0;
}

static int end(void **state) {
    static const char *const ENDS[] = {"", "-wal", "-shm"};
    char name[sizeof(path) + 8];
    (void)state;
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "%s%s", path, ENDS[i]);
        unlink(name);
    }
    return rmdir(folder);
}

static void test_what_a_full_disk_forgets_is_told(void **state) {
    uint8_t first[CONTENT_HASH_BYTES], hash[CONTENT_HASH_BYTES];
    struct content_table *t;
    (void)state;
    assert_int_equal(table_open(&t, path), 0);
    assert_int_equal(note(t, 1, first), 0);
    table_commit(t);
    assert_false(table_forgot(t));
    for (int spilled = 0; spilled < 2; spilled++) { /* the end comes with the commit; or before, when SQLite's memory is full */
        limit(RLIMIT_FSIZE, 256u << 10);
        uint32_t n = 2, most = spilled ? 200000 : 2000;
        while (n < most && note(t, n, hash) == 0)
            n++;
        assert_true(spilled ? n < most : n == most);
        table_commit(t);
        limit(RLIMIT_FSIZE, RLIM_INFINITY);
        assert_true(table_forgot(t));
        assert_false(table_forgot(t));
        assert_int_equal(note(t, 2, hash), 0);
        assert_int_not_equal(table_note(t, 0, "file 3", (const uint8_t[CONTENT_HASH_BYTES]){3}, NULL, &(struct content_stamp){0}), 0);
        assert_true(table_forgot(t)); /* it was learnt, as far as whoever notes it knows */
        table_commit(t);
        assert_false(table_forgot(t));
        assert_true(table_has(t, first) && table_has(t, hash));
    }
    table_close(t);
}

static void test_without_a_descriptor_nothing_begins_anew(void **state) {
    uint8_t first[CONTENT_HASH_BYTES] = {1};
    struct content_table *t;
    struct rlimit before;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int lowest = dup(0); /* the first that is free; a WAL needs two or three more */
    close(lowest);
    for (int more = 0; more < 3; more++) {
        limit(RLIMIT_NOFILE, (rlim_t)(lowest + more));
        int r = table_open(&t, path);
        limit(RLIMIT_NOFILE, before.rlim_cur);
        assert_true(r != 0 && r != ERR_CORRUPT);
    }
    assert_int_equal(table_open(&t, path), 0);
    assert_true(table_has(t, first));
    table_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_full_disk_forgets_is_told),
        cmocka_unit_test(test_without_a_descriptor_nothing_begins_anew),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
