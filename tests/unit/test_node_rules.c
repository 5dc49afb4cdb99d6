/* Which paths are replicated as files, and what the copy of one that lost is called. */
#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "node/files/engine.h"

static void usual(void **state) {
    static const char *const YES[] = {"a", "uploads/photo.jpg", "config.json", "logs.txt", "a/tmpfile", "database", "x.dbx", "b/restart"};
    static const char *const NO[] = {"app.db",
                                     "d/app.sqlite3",
                                     "app.db-wal",
                                     "app.sqlite-journal",
                                     "x.bak",
                                     "backup/x",
                                     "a/backups/b/c",
                                     "app.log",
                                     "app.log.1",
                                     ".env",
                                     ".git/config",
                                     "a/.x/b",
                                     "x.tmp",
                                     "x.lock",
                                     "x~",
                                     "__pycache__/a.pyc",
                                     ".starling/a",
                                     "tmp/x",
                                     ".STARLING/x",
                                     "a/node_modules/b",
                                     "x.swp"};
    struct rules none = {NULL, NULL, NULL};
    const char *why;
    (void)state;
    for (size_t i = 0; i < sizeof(YES) / sizeof(YES[0]); i++)
        assert_true(rules_take(&none, YES[i], false, &why));
    for (size_t i = 0; i < sizeof(NO) / sizeof(NO[0]); i++) {
        assert_false(rules_take(&none, NO[i], false, &why));
        assert_non_null(why);
    }
    assert_true(rules_take(&none, "backup", false, NULL)); /* a file of that name */
    assert_false(rules_take(&none, "backup", true, NULL));
    assert_true(rules_take(&none, "folder.db", true, NULL));
}

static void of_the_configuration(void **state) {
    static const char *const EXCLUDE[] = {"*.cache", "secrets/", "conf/*.local", "/top", "/*.top", NULL}, *const INCLUDE[] = {
                                                                                                              "*.log", ".well-known/",
                                                                                                              NULL};
    struct rules r = {EXCLUDE, INCLUDE, NULL};
    (void)state;
    assert_false(rules_take(&r, "d/x.cache", false, NULL));
    assert_false(rules_take(&r, "d/secrets/key", false, NULL));
    assert_true(rules_take(&r, "d/secrets", false, NULL));
    assert_false(rules_take(&r, "conf/a.local", false, NULL));
    assert_true(rules_take(&r, "other/conf/a.local", false, NULL));
    assert_false(rules_take(&r, "top", false, NULL));
    assert_true(rules_take(&r, "d/top", false, NULL));
    assert_false(rules_take(&r, "x.top", false, NULL));
    assert_true(rules_take(&r, "d/x.top", false, NULL)); /* the star of a rooted pattern stops at a slash, too */
    assert_true(rules_take(&r, "app.log", false, NULL));
    assert_true(rules_take(&r, ".well-known/x", false, NULL));
    assert_false(rules_take(&r, ".other/x", false, NULL));
    static const char *const ALL[] = {"*", NULL};
    struct rules everything = {NULL, ALL, NULL};
    assert_true(rules_take(&everything, ".env", false, NULL));
    assert_false(rules_take(&everything, "app.db", false, NULL)); /* never as a file */
    assert_false(rules_take(&everything, ".starling/node.key", false, NULL));
    assert_false(rules_take(&everything, "d/.starling-17", false, NULL));
}

static size_t next_random(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(*seed >> 33);
}

/* Whatever is compared without fnmatch() comes to what that says. */
static void as_fnmatch(void **state) {
    static const char PATTERNS[] = "aab.*?[]\\", NAMES[] = "aab.[*\\";
    uint64_t seed = (uint64_t)time(NULL);
    char pattern[5], name[6];
    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 200000; i++) {
        size_t n = 1 + next_random(&seed) % 4, len = 1 + next_random(&seed) % 5;
        for (size_t at = 0; at < n; at++)
            pattern[at] = PATTERNS[next_random(&seed) % (sizeof(PATTERNS) - 1)];
        for (size_t at = 0; at < len; at++)
            name[at] = NAMES[next_random(&seed) % (sizeof(NAMES) - 1)];
        pattern[n] = name[len] = 0;
        const char *const exclude[] = {pattern, NULL}, *why = NULL;
        struct rules r = {exclude, NULL, NULL};
        (void)rules_take(&r, name, false, &why);
        assert_int_equal(why == pattern, fnmatch(pattern, name, FNM_PATHNAME) == 0);
    }
}

static void copies(void **state) {
    struct version v = {.at_ms = 1795219200000u, .name = "pit"};
    char out[BENEATH_PATH_MAX + NAME_MAX + 1], path[300], *long_name = path + 2;
    (void)state;
    clash_name("a/plan.tar.gz", &v, 1, out, sizeof(out));
    assert_string_equal(out, "a/plan.tar (conflict 2026-11-21 pit).gz");
    clash_name("plan", &v, 3, out, sizeof(out));
    assert_string_equal(out, "plan (conflict 2026-11-21 pit 3)");
    clash_name("d.x/.env", &v, 1, out, sizeof(out));
    assert_string_equal(out, "d.x/.env (conflict 2026-11-21 pit)");
    memcpy(path, "d/", 2);
    for (int i = 0; i < 84; i++)
        memcpy(long_name + 3 * i, "\xe2\x82\xac", 4); /* 252 bytes */
    memcpy(long_name + 249, ".md", 4);
    clash_name(path, &v, 1, out, sizeof(out));
    assert_true(strlen(out + 2) <= NAME_MAX && strlen(out + 2) > NAME_MAX - 3);
    assert_true(beneath_path_ok(out, strlen(out)));
    assert_string_equal(out + strlen(out) - 4, ").md"); /* and no character is cut in half */
    assert_int_equal((strchr(out, ' ') - out - 2) % 3, 0);
}

static void extra_folders(void **state) {
    static const char *const EXTRA[] = {RULES_EXTRA "photos", NULL}, *const ALL[] = {"*", NULL};
    const struct rules here = {NULL, ALL, EXTRA}, elsewhere = {NULL, ALL, NULL};
    const char *why;
    (void)state;
    assert_true(rules_take(&here, ".starling+photos/a/b.jpg", false, &why));
    assert_true(rules_take(&here, ".starling+photos", true, &why));
    assert_false(rules_take(&here, ".starling+photos", false, &why));
    assert_false(rules_take(&here, ".starling+photo/a", false, &why));
    assert_false(rules_take(&here, ".starling+photoss/a", false, &why));
    assert_false(rules_take(&here, ".starling+photos/.starling/node.key", false, &why));
    assert_false(rules_take(&here, ".starling+photos/.starling+photos/a", false, &why));
    assert_false(rules_take(&here, "a/.starling+photos/a", false, &why));
    assert_false(rules_take(&elsewhere, ".starling+photos/a", false, &why));
    assert_false(rules_take(&elsewhere, ".starling+photos", true, &why));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(extra_folders), cmocka_unit_test(usual), cmocka_unit_test(of_the_configuration),
                                       cmocka_unit_test(as_fnmatch), cmocka_unit_test(copies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
