/* Names of databases come from peers: what is taken, and what file names become of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/dbname.h"

static void good_names(void **state) {
    static const char *const GOOD[] = {"a.db",   "x",      "sub/deep/x.sqlite3", "spaces are fine.db", "ümlaut.db", "日本.db", "..x",
                                       "a..b/c", "100%.db"};
    char longest[256];
    (void)state;
    for (size_t i = 0; i < sizeof(GOOD) / sizeof(GOOD[0]); i++)
        if (!dbname_ok(GOOD[i]))
            fail_msg("%s", GOOD[i]);
    memset(longest, 'a', 255);
    longest[255] = 0;
    assert_true(dbname_ok(longest));
}

static void bad_names(void **state) {
    static const char *const BAD[] = {"",
                                      "/etc/passwd",
                                      "../x.db",
                                      "a/../b",
                                      "a//b",
                                      "a/",
                                      ".",
                                      "a/./b",
                                      "..",
                                      "a\\b",
                                      "a\nb",
                                      ".starling/x",
                                      "a/.starling/b",
                                      ".STARLING/x",
                                      "x.db-wal",
                                      "x.db-shm",
                                      "x-journal",
                                      "\xff\xfe.db",
                                      "\xc0\xaf.db",
                                      "\xed\xa0\x80",
                                      "a\x7f",
                                      "\xf4\x90\x80\x80",
                                      "\xe2\x82"};
    char long_name[257];
    (void)state;
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++)
        if (dbname_ok(BAD[i]))
            fail_msg("%s", BAD[i]);
    memset(long_name, 'a', 256);
    long_name[256] = 0;
    assert_false(dbname_ok(long_name));
}

static void escapes(void **state) {
    char out[32];
    (void)state;
    assert_true(dbname_escape("a/b%c.db", out, sizeof(out)));
    assert_string_equal(out, "a%2Fb%25c.db");
    assert_true(dbname_escape("abc", out, 4));
    assert_false(dbname_escape("abcd", out, 4));
    assert_false(dbname_escape("ab/", out, 5));
}

static void kinds(void **state) {
    (void)state;
    assert_true(dbname_usual("x.db") && dbname_usual("X.SQLite") && dbname_usual("a.sqlite3"));
    assert_false(dbname_usual(".db") || dbname_usual("db") || dbname_usual("x.db3"));
    assert_true(dbname_companion("x.db-wal") && dbname_companion("x-shm") && dbname_companion("x.db-journal"));
    assert_false(dbname_companion("x.db"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(good_names), cmocka_unit_test(bad_names), cmocka_unit_test(escapes),
                                       cmocka_unit_test(kinds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
