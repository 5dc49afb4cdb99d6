/* Two versions of a JSON document become one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "node/clock.h"
#include "node/files/jsonmerge.h"
#include "proto/err.h"
#include "tests/unit/seed.h"

static uint64_t seed;

static uint64_t next_random(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static struct json_text text(const char *s) { return (struct json_text){s, s == NULL ? 0 : strlen(s)}; }

static char *merged(const char *base, const char *a, const char *b, uint32_t *lost) {
    char *out = NULL;
    size_t len;
    int r = jsonmerge(text(base), text(a), text(b), &out, &len, lost);
    if (r != 0)
        return NULL;
    char *s = malloc(len + 1);
    memcpy(s, out, len);
    s[len] = 0;
    free(out);
    return s;
}

static void check(const char *base, const char *a, const char *b, const char *want, uint32_t want_lost) {
    uint32_t lost;
    char *got = merged(base, a, b, &lost);
    assert_non_null(got);
    assert_string_equal(got, want);
    assert_int_equal(lost, want_lost);
    free(got);
}

static void test_objects(void **state) {
    (void)state;
    check("{\"a\":1,\"b\":2}", "{\"a\":1,\"b\":3}", "{\"a\":4,\"b\":2}", "{\"a\":4,\"b\":3}", 0);
    check("{\"a\":1}", "{\"a\":1,\"x\":1}", "{\"a\":1,\"y\":2}", "{\"a\":1,\"x\":1,\"y\":2}", 0);
    check("{\"a\":1,\"b\":2}", "{\"b\":2}", "{\"a\":1,\"b\":3}", "{\"b\":3}", 0);
    check("{\"a\":1,\"b\":2}", "{\"b\":2}", "{\"a\":5,\"b\":2}", "{\"b\":2,\"a\":5}", 0); /* removed and changed: it stays */
    check("{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"a\":3}", 1);
    check("{\"a\":{\"x\":1}}", "{\"a\":{\"x\":1,\"y\":1}}", "{\"a\":{\"x\":2}}", "{\"a\":{\"x\":2,\"y\":1}}", 0);
    check(NULL, "{\"a\":1,\"c\":0}", "{\"a\":2,\"b\":1}", "{\"a\":2,\"c\":0,\"b\":1}", 1);
}

static void test_messages(void **state) {
    (void)state;
    check("[{\"id\":\"p\",\"t\":\"hi\"}]", "[{\"id\":\"p\",\"t\":\"hi\"},{\"id\":\"q\",\"t\":\"1\"}]",
          "[{\"id\":\"p\",\"t\":\"hi\"},{\"id\":\"r\",\"t\":\"2\"}]",
          "[{\"id\":\"p\",\"t\":\"hi\"},{\"id\":\"q\",\"t\":\"1\"},{\"id\":\"r\",\"t\":\"2\"}]", 0);
    /* both took the next number: these are two messages */
    check("[{\"id\":1}]", "[{\"id\":1},{\"id\":2,\"t\":\"x\"}]", "[{\"id\":1},{\"id\":2,\"t\":\"y\"},{\"id\":3}]",
          "[{\"id\":1},{\"id\":2,\"t\":\"x\"},{\"id\":3,\"t\":\"y\"},{\"id\":4}]", 0);
    check("[]", "[{\"id\":0,\"t\":\"x\"}]", "[{\"id\":0,\"t\":\"y\"}]", "[{\"id\":0,\"t\":\"x\"},{\"id\":1,\"t\":\"y\"}]", 0);
    /* a number that is a name: the same thing */
    check("[{\"id\":4}]", "[{\"id\":4},{\"id\":254,\"n\":1}]", "[{\"id\":4},{\"id\":254,\"m\":2}]",
          "[{\"id\":4},{\"id\":254,\"n\":1,\"m\":2}]", 0);
    /* one deletes, one edits another, one edits what is deleted */
    check("[{\"id\":\"a\"},{\"id\":\"b\"},{\"id\":\"c\"}]", "[{\"id\":\"b\"},{\"id\":\"c\"}]", "[{\"id\":\"a\"},{\"id\":\"b\",\"x\":1}]",
          "[{\"id\":\"b\",\"x\":1}]", 0);
    check("[{\"id\":\"a\"}]", "[]", "[{\"id\":\"a\",\"x\":1}]", "[{\"id\":\"a\",\"x\":1}]", 0);
    /* the order of who changed it; new ones stay behind what they followed */
    check("[{\"id\":\"a\"},{\"id\":\"b\"}]", "[{\"id\":\"a\"},{\"id\":\"n\"},{\"id\":\"b\"}]",
          "[{\"id\":\"b\"},{\"id\":\"a\"},{\"id\":\"m\"}]", "[{\"id\":\"b\"},{\"id\":\"a\"},{\"id\":\"n\"},{\"id\":\"m\"}]", 0);
}

static void test_other_arrays(void **state) {
    (void)state;
    check("[1,2]", "[1,2,3]", "[1,2,4]", "[1,2,3,4]", 0);
    check("[1,2,3,4]", "[9,2,3,4]", "[1,2,3,8]", "[9,2,3,8]", 0);
    check("[1,2,3,4]", "[1,2,3,8]", "[9,2,3,4]", "[9,2,3,8]", 0);
    check("[1,2,3]", "[1,5,3]", "[1,6,3]", "[1,6,3]", 1);
    check("[{\"id\":1},{\"id\":1}]", "[{\"id\":1},{\"id\":1},{\"id\":2}]", "[{\"id\":1},{\"id\":1},{\"x\":0}]",
          "[{\"id\":1},{\"id\":1},{\"id\":2},{\"x\":0}]", 0);
    check("1", "2", "3", "3", 1);
}

static void test_it_looks_as_before(void **state) {
    (void)state;
    check("{\n  \"a\": 1\n}\n", "{\n  \"a\": 1,\n  \"x\": []\n}\n", "{\n  \"a\": 0.1\n}\n", "{\n  \"a\": 0.1,\n  \"x\": []\n}\n", 0);
    check("{\n\t\"a\": 1\n}", "{\n\t\"a\": 1,\n\t\"b\": [2]\n}", "{\n\t\"a\": 3\n}", "{\n\t\"a\": 3,\n\t\"b\": [\n\t\t2\n\t]\n}", 0);
    check("{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"b\": 3}", "{\"a\": 1e300, \"b\": 2}", "{\"a\": 1e+300, \"b\": 3}", 0);
    check("{\"a\":\"\"}", "{\"a\":\"\",\"b\":\"\\u00e9\"}", "{\"a\":\"\\u00e8\"}", "{\"a\":\"\\u00E8\",\"b\":\"\\u00E9\"}", 0);
    check("{\"a\":\"\"}", "{\"a\":\"\",\"b\":\"\xc3\xa9\"}", "{\"a\":\"\xc3\xa8/\"}", "{\"a\":\"\xc3\xa8/\",\"b\":\"\xc3\xa9\"}", 0);
}

static void test_what_is_no_json_is_not_merged(void **state) {
    static const char *const bad[] = {"", "{", "{\"a\":1}x", "{\"a\":1,\"a\":2}", "[99999999999999999999]", "{\"a\":\"\xff\"}", "nul"};
    uint32_t lost;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(merged("{}", bad[i], "{}", &lost));
        assert_null(merged("{}", "{}", bad[i], &lost));
        char *got = merged(bad[i], "{\"x\":1}", "{\"y\":1}", &lost); /* a base that is none */
        assert_string_equal(got, "{\"x\":1,\"y\":1}");
        free(got);
    }
    char *deep = calloc(1, 2001);
    memset(deep, '[', 1000);
    memset(deep + 1000, ']', 1000);
    assert_null(merged("[]", deep, "[]", &lost));
    free(deep);
}

/* ---- random documents */

static json_t *random_value(unsigned depth) {
    static const char *const words[] = {"red", "blue", "green", "x y", ""};
    char key[8];
    json_t *v;
    switch (next_random() % (depth > 2 ? 4 : 7)) {
    case 0: return json_integer((json_int_t)(next_random() % 5));
    case 1: return json_string(words[next_random() % 5]);
    case 2: return json_boolean(next_random() % 2);
    case 3: return json_real((double)(next_random() % 100) / 4);
    case 4:
        v = json_array();
        for (uint64_t n = next_random() % 4; n > 0; n--)
            json_array_append_new(v, random_value(depth + 1));
        return v;
    case 5:
        v = json_array();
        for (uint64_t i = 0, n = next_random() % 5; i < n; i++) {
            snprintf(key, sizeof key, "m%d", (int)i);
            json_array_append_new(v, json_pack("{s:s, s:o}", "id", key, "v", random_value(depth + 1)));
        }
        return v;
    default:
        v = json_object();
        for (uint64_t i = 0, n = next_random() % 5; i < n; i++)
            json_object_set_new(v, words[i], random_value(depth + 1));
        return v;
    }
}

static unsigned fresh;

/* An edit somewhere; what is new in an array has an id that nobody else draws. */
static void edit(json_t *v, unsigned depth) {
    char key[16];
    const char *name;
    json_t *value;
    size_t i;
    if (json_is_object(v)) {
        snprintf(key, sizeof key, "k%u", (unsigned)(next_random() % 6));
        if (next_random() % 3 == 0)
            json_object_set_new(v, key, random_value(depth + 1));
        json_object_foreach(v, name, value) {
            if (next_random() % 2 == 0)
                edit(value, depth + 1);
        }
    } else if (json_is_array(v)) {
        bool named = json_is_string(json_object_get(json_array_get(v, 0), "id"));
        if (named && next_random() % 2 == 0) {
            snprintf(key, sizeof key, "n%u", ++fresh);
            json_array_append_new(v, json_pack("{s:s, s:i}", "id", key, "v", (int)fresh));
        }
        if (named && next_random() % 4 == 0)
            json_array_remove(v, next_random() % json_array_size(v));
        json_array_foreach(v, i, value) {
            if (json_is_object(value) && next_random() % 3 == 0)
                json_object_set_new(value, "v", random_value(depth + 1));
        }
    }
}

/* Ids of new things anywhere in the document. */
static void collect(const char *s, bool found[], bool value) {
    for (const char *p = s; (p = strstr(p, "\"n")) != NULL; p += 2) {
        unsigned n = (unsigned)strtoul(p + 2, NULL, 10);
        if (n > 0 && n < 100000)
            found[n] = value;
    }
}

static void test_random_documents(void **state) {
    static bool wanted[100000], there[100000];
    uint32_t lost, other;
    (void)state;
    for (int i = 0; i < 3000; i++) {
        json_t *base = json_pack("{s:o, s:o, s:o}", "p", random_value(0), "q", random_value(0), "r", random_value(0));
        json_t *a = json_deep_copy(base), *b = json_deep_copy(base);
        edit(a, 0);
        edit(b, 0);
        char *was = json_dumps(base, JSON_COMPACT), *x = json_dumps(a, JSON_COMPACT), *y = json_dumps(b, JSON_COMPACT);
        check(was, x, x, x, 0);
        check(was, was, was, was, 0);
        json_error_t error;
        char *one = merged(was, x, was, &lost), *two = merged(was, was, y, &other);
        json_t *back = json_loads(one, JSON_DECODE_ANY, &error), *forth = json_loads(two, JSON_DECODE_ANY, &error);
        assert_true(json_equal(back, a) && json_equal(forth, b) && lost == 0 && other == 0); /* nobody else changed anything */
        json_decref(back);
        json_decref(forth);
        free(one);
        free(two);
        one = merged(was, x, y, &lost);
        two = merged(was, x, y, &other);
        assert_string_equal(one, two);
        assert_int_equal(lost, other);
        memset(wanted, 0, sizeof wanted);
        memset(there, 0, sizeof there);
        collect(x, wanted, true);
        collect(y, wanted, true);
        collect(was, wanted, false); /* of what was there some is deleted */
        collect(one, there, true);
        for (unsigned n = 0; lost == 0 && n <= fresh && n < 100000; n++)
            assert_true(!wanted[n] || there[n]);
        free(two);
        two = merged(was, one, one, &other); /* it can be merged again */
        assert_string_equal(one, two);
        free(one);
        free(two);
        free(was);
        free(x);
        free(y);
        json_decref(base);
        json_decref(a);
        json_decref(b);
    }
}

int main(void) {
    seed = seed_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_other_arrays),
        cmocka_unit_test(test_it_looks_as_before),
        cmocka_unit_test(test_what_is_no_json_is_not_merged),
        cmocka_unit_test(test_random_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
