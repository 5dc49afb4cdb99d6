/* What is a database is not opened by anybody else: by its first bytes, or because it is open here. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/held.h"

static const char head[] = "SQLite format 3"; /* with its terminator */

static int look_at(const char *path, const void *bytes, size_t len) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
    fd = open(path, O_PATH | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void databases_are_not_opened(void **state) {
    char folder[] = "/tmp/starling-held-XXXXXX", path[64], text[16];
    struct held h;
    struct stat st;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/x", folder);
    held_init(&h);
    int look = look_at(path, head, sizeof(head));
    assert_int_equal(held_open(&h, look), -EINVAL);
    assert_true(held_database(&h, look));
    close(look);
    look = look_at(path, "SQLite format 4\n", sizeof(head));
    int fd = held_open(&h, look);
    assert_true(fd >= 0 && !held_database(&h, look));
    assert_int_equal(read(fd, text, sizeof(text)), sizeof(text)); /* from its beginning */
    close(fd);
    assert_int_equal(fstat(look, &st), 0);
    held_set(&h, &st, true, st.st_dev, st.st_ino); /* SQLite is about to write its first bytes */
    assert_int_equal(held_open(&h, look), -EINVAL);
    held_set(&h, &st, false, 0, 0);
    assert_false(held_database(&h, look));
    close(look);
    look = look_at(path, head, sizeof(head) - 1); /* too short to be one */
    assert_false(held_database(&h, look));
    close(look);
    look = open(folder, O_PATH | O_CLOEXEC);
    assert_int_equal(held_open(&h, look), -EINVAL);
    close(look);
    unlink(path);
    rmdir(folder);
    held_release(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(databases_are_not_opened)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
