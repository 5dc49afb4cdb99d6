/* The cluster's secret: its file, what rotations make of it, and restarts at every step of one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/secret.h"
#include "proto/err.h"

static char folder[64], file[96], why[400];
static struct secure_keys keys;
static struct secrets secrets;

static struct secure_secret secret(uint8_t n) {
    struct secure_secret s = {.closed = n != 0};
    memset(s.psk, n, sizeof(s.psk));
    return s;
}

static void put(const char *text) {
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* A start with the file holding secret n; 0: no file. */
static void start(uint8_t n) {
    char text[SECRET_TEXT_BYTES];
    struct secure_secret s = secret(n);
    put(secret_text(&s, text));
    secrets_close(&secrets);
    memset(&keys, 0, sizeof(keys));
    assert_int_equal(secrets_open(&secrets, &keys, n == 0 ? "" : file, folder, why, sizeof(why)), 0);
}

static void uses(uint8_t first, int second) {
    struct secure_secret a = secret(first), b = secret((uint8_t)second);
    assert_true(secret_equal(&keys.secrets[0], &a));
    assert_int_equal(keys.secrets_count, second < 0 ? 1 : 2);
    if (second >= 0)
        assert_true(secret_equal(&keys.secrets[1], &b));
}

static void fresh(void) {
    char path[128];
    snprintf(path, sizeof(path), "%s/secret.json", folder);
    unlink(path);
}

static int change(uint8_t n) {
    struct secure_secret to = secret(n);
    return secrets_change(&secrets, &to);
}

static void files_are_read_strictly(void **state) {
    (void)state;
    static const char *const BAD[] = {"", "\n", "abc", "zz", "\t\n0"};
    struct secure_secret s;
    for (size_t i = 0; i < 5; i++) {
        put(BAD[i]);
        assert_int_equal(secret_read(file, &s, why, sizeof(why)), ERR_MALFORMED);
        assert_non_null(strstr(why, "starling keygen"));
    }
    put("0101010101010101010101010101010101010101010101010101010101010101\r\n");
    assert_int_equal(secret_read(file, &s, why, sizeof(why)), 0);
    struct secure_secret one = secret(1);
    assert_true(secret_equal(&s, &one));
    assert_int_equal(secret_read("/nowhere/at/all", &s, why, sizeof(why)), ERR_IO);
    assert_int_equal(secret_read("", &s, why, sizeof(why)), 0);
    assert_false(s.closed);
}

static void a_rotation_survives_restarts(void **state) {
    (void)state;
    for (uint8_t first = 0; first < 2; first++) {
        fresh();
        start(first);
        uses(first, -1);
        assert_int_equal(change(5), 0);
        uses(5, first);
        start(first); /* the file still says the old one */
        uses(5, first);
        start(5); /* or the new one */
        uses(5, first);
        assert_int_equal(secrets_finish(&secrets), 0);
        start(first);
        uses(5, -1);
        assert_int_equal(change(first), ERR_ORDER); /* what was replaced does not come back */
        assert_int_equal(change(6), 0);
        assert_int_equal(secrets_finish(&secrets), 0);
        start(first);
        uses(6, -1);
        start(9); /* another one altogether is somebody's decision */
        uses(9, -1);
    }
    fresh();
}

static void two_changes_at_once_become_one(void **state) {
    (void)state;
    fresh();
    start(1);
    assert_int_equal(change(5), 0);
    assert_int_equal(change(4), ERR_BUSY);
    uses(5, 1);
    assert_int_equal(change(7), 0);
    uses(7, 1);
    assert_int_equal(change(5), ERR_ORDER);
    assert_int_equal(change(7), 0);
    uses(7, 1);
    fresh();
}

static void a_file_that_is_changed_is_news_once(void **state) {
    (void)state;
    fresh();
    start(1);
    struct secure_secret one = secret(1), two = secret(2);
    assert_false(secrets_given_anew(&secrets, &one));
    assert_true(secrets_given_anew(&secrets, &two));
    assert_false(secrets_given_anew(&secrets, &two));
    assert_int_equal(change(2), 0);
    assert_false(secrets_given_anew(&secrets, &one)); /* replaced meanwhile */
    fresh();
}

/* To go on with the file's secret alone could be to go on without that of the cluster. */
static void a_state_that_cannot_be_read_ends_the_start(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof(path), "%s/secret.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"secret\": ", f);
    fclose(f);
    secrets_close(&secrets);
    assert_int_equal(secrets_open(&secrets, &keys, "", folder, why, sizeof(why)), ERR_MALFORMED);
    start(1);
    uses(1, -1);
    snprintf(path, sizeof(path), "%s/secret.json.bad", folder);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_read_strictly),
        cmocka_unit_test(a_rotation_survives_restarts),
        cmocka_unit_test(two_changes_at_once_become_one),
        cmocka_unit_test(a_file_that_is_changed_is_news_once),
        cmocka_unit_test(a_state_that_cannot_be_read_ends_the_start),
    };
    snprintf(folder, sizeof(folder), "/tmp/starling-secret-XXXXXX");
    if (sodium_init() < 0 || mkdtemp(folder) == NULL)
        return 1;
    snprintf(file, sizeof(file), "%s/file", folder);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    secrets_close(&secrets);
    fresh();
    unlink(file);
    rmdir(folder);
    return failed;
}
