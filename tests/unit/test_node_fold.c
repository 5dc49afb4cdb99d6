/* Names that some file systems take for one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node/files/fold.h"

static void test_alike(void **state) {
    static const char *const ALIKE[][2] = {
        {"a.txt", "A.TXT"},
        {"caf\xc3\xa9", "cafe\xcc\x81"},
        {"caf\xc3\xa9", "CAFE\xcc\x81"},
        {"\xc3\x89t\xc3\xa9", "e\xcc\x81te\xcc\x81"},
        {"\xe1\xba\xad", "a\xcc\xa3\xcc\x82"}, /* two marks, in any order */
        {"a\xcc\x82\xcc\xa3", "a\xcc\xa3\xcc\x82"},
        {"\xed\x95\x9c\xea\xb8\x80", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab\xe1\x84\x80\xe1\x85\xb3\xe1\x86\xaf"}, /* Hangul */
        {"\xe3\x83\x91", "\xe3\x83\x8f\xe3\x82\x9a"},                                                             /* Kana */
        {"\xd0\x99", "\xd0\xb8\xcc\x86"},                                                                         /* Cyrillic */
        {"\xce\xa3/\xcf\x82", "\xcf\x83/\xcf\x83"}, /* Greek: both small sigmas */
        {"\xff\xfe"
         "A",
         "\xff\xfe"
         "a"},
    };
    locale_t letters = fold_open();
    (void)state;
    for (size_t i = 0; i < sizeof(ALIKE) / sizeof(ALIKE[0]); i++)
        assert_true(fold_hash(letters, ALIKE[i][0]) == fold_hash(letters, ALIKE[i][1]));
    freelocale(letters);
}

static void test_different(void **state) {
    static const char *const OTHER[][2] = {
        {"a", "b"},       {"a", "a "},          {"e", "\xc3\xa9"}, {"a/b", "ab"},
        {"\xff", "\xfe"}, {"\xc3", "\xc3\x83"}, {"", "a"},         {"\xe2\x82", "\xe2\x82\xac"},
    };
    locale_t letters = fold_open();
    (void)state;
    for (size_t i = 0; i < sizeof(OTHER) / sizeof(OTHER[0]); i++)
        assert_false(fold_hash(letters, OTHER[i][0]) == fold_hash(letters, OTHER[i][1]));
    freelocale(letters);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alike),
        cmocka_unit_test(test_different),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
