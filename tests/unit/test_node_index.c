/* The index of files on a disk that is full in the midst of a transaction: SQLite takes back what was written, and nothing that follows may count as if it were
 * there. */
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
#include <unistd.h>

#include <cmocka.h>

#include "node/files/index.h"

#define MANY 20000
#define LIMIT (1u << 20) /* far less than SQLite holds in memory, and than MANY versions take */

static void limit(rlim_t bytes) {
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static struct version long_link(void) {
    struct version v = {.kind = VERSION_LINK};
    memset(v.target, 'x', sizeof(v.target) - 1);
    return v;
}

static void test_a_transaction_that_was_taken_back(void **state) {
    char folder[] = "/tmp/starling-index-XXXXXX", why[300] = "", path[4096], name[40];
    struct version v = long_link(), got;
    struct index *ix;
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(index_prepare(folder, true, path, sizeof(path), why, sizeof(why)), 0);
    assert_int_equal(index_open(&ix, folder, why, sizeof(why)), 0);
    assert_false(index_begun(ix));
    signal(SIGXFSZ, SIG_IGN);
    limit(LIMIT);
    int n = 0;
    for (int r = 0; r == 0 && n < MANY; n++) {
        snprintf(name, sizeof(name), "link %d", n);
        r = index_put(ix, name, &v, 0644);
    }
    assert_in_range(n, 100, MANY - 1);
    limit(RLIM_INFINITY);
    assert_int_not_equal(index_put(ix, "one more", &v, 0644), 0); /* half of a transaction is none */
    assert_int_not_equal(index_meta_put(ix, "met", 1), 0);
    assert_true(index_begun(ix));
    assert_int_not_equal(index_commit(ix), 0);
    assert_false(index_begun(ix));
    assert_int_equal(index_get(ix, "link 0", &got, NULL), 0);
    assert_int_equal(index_put(ix, "one more", &v, 0644), 0);
    assert_int_equal(index_commit(ix), 0);
    assert_int_equal(index_get(ix, "one more", &got, NULL), 1);
    index_close(ix);
    static const char *const NAMES[] = {"files.db", "files.db-wal", "files.db-shm", "local.db", "local.db-wal", "local.db-shm"};
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, NAMES[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_transaction_that_was_taken_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
