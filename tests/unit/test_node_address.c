/* Addresses as text, and which of them are spoken to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/address.h"

static void parses(void **state) {
    static const struct {
        const char *text, *host;
        uint16_t port;
    } GOOD[] = {{"pit", "pit", 7171},
                {"pit:80", "pit", 80},
                {"192.168.1.10", "192.168.1.10", 7171},
                {"10.0.0.1:0", "10.0.0.1", 0},
                {":9000", "", 9000},
                {"[::1]:5", "::1", 5},
                {"[fe80::1]", "fe80::1", 7171},
                {"fd00::12", "fd00::12", 7171},
                {"a.example.org:65535", "a.example.org", 65535}};
    static const char *const BAD[] = {"",       "pit:",  "pit:70000", "pit:x",   "[::1",    "[]:3",       "[::1]x", "a b",    "http://pit",
                                      "pit:-1", "pit\n", "\npit",     "pi\x1bt", "pit\x7f", "pit\x01:80", "7171",   "7171:80"};
    char host[ADDRESS_HOST_MAX];
    uint16_t port;
    (void)state;
    for (size_t i = 0; i < sizeof(GOOD) / sizeof(GOOD[0]); i++) {
        assert_int_equal(address_parse(GOOD[i].text, ADDRESS_PORT, host, &port), 0);
        assert_string_equal(host, GOOD[i].host);
        assert_int_equal(port, GOOD[i].port);
    }
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++)
        assert_int_not_equal(address_parse(BAD[i], ADDRESS_PORT, host, &port), 0);
}

static void long_hosts_are_refused(void **state) {
    char text[ADDRESS_HOST_MAX + 8], host[ADDRESS_HOST_MAX];
    uint16_t port;
    (void)state;
    memset(text, 'a', sizeof(text));
    text[ADDRESS_HOST_MAX] = 0;
    assert_int_not_equal(address_parse(text, 1, host, &port), 0);
    text[ADDRESS_HOST_MAX - 1] = 0;
    assert_int_equal(address_parse(text, 1, host, &port), 0);
}

static void classes(void **state) {
    static const struct {
        const char *host;
        bool private;
    } CASES[] = {{"127.0.0.1", true},
                 {"127.255.0.9", true},
                 {"10.1.2.3", true},
                 {"11.0.0.1", false},
                 {"172.15.0.1", false},
                 {"172.16.0.1", true},
                 {"172.31.255.255", true},
                 {"172.32.0.1", false},
                 {"192.168.0.1", true},
                 {"192.169.0.1", false},
                 {"169.254.3.4", true},
                 {"100.63.255.255", false},
                 {"100.64.0.1", true},
                 {"100.127.255.255", true},
                 {"100.128.0.0", false},
                 {"8.8.8.8", false},
                 {"0.0.0.0", false},
                 {"255.255.255.255", false},
                 {"::1", true},
                 {"::", false},
                 {"fc00::1", true},
                 {"fdff::1", true},
                 {"fe00::1", false},
                 {"fe80::1", true},
                 {"febf::1", true},
                 {"fec0::1", false},
                 {"2001:db8::1", false},
                 {"::ffff:10.0.0.1", true},
                 {"::ffff:8.8.8.8", false},
                 {"64:ff9b::a00:1", false},
                 {"::ffff:172.20.1.1", true}};
    struct sockaddr_storage sa;
    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        assert_true(address_numeric(CASES[i].host, 1, &sa));
        if (address_private((struct sockaddr *)&sa) != CASES[i].private)
            fail_msg("%s", CASES[i].host);
    }
    assert_false(address_numeric("localhost", 1, &sa));
    assert_false(address_numeric("1.2.3", 1, &sa));
}

static void texts(void **state) {
    struct sockaddr_storage sa;
    char text[ADDRESS_TEXT_MAX];
    (void)state;
    assert_true(address_numeric("10.0.0.1", 7171, &sa));
    assert_string_equal(address_text((struct sockaddr *)&sa, text), "10.0.0.1:7171");
    assert_true(address_numeric("fd00::1", 80, &sa));
    assert_string_equal(address_text((struct sockaddr *)&sa, text), "[fd00::1]:80");
    assert_true(address_numeric("::ffff:10.0.0.1", 9, &sa));
    assert_string_equal(address_text((struct sockaddr *)&sa, text), "10.0.0.1:9");
    assert_int_equal(address_port((struct sockaddr *)&sa), 9);
}

static bool same(const char *a, const char *b) {
    struct sockaddr_storage x, y;
    assert_true(address_numeric(a, 1, &x) && address_numeric(b, 2, &y));
    return address_same_host(&x, &y);
}

static void hosts(void **state) {
    struct sockaddr_storage sa;
    char text[ADDRESS_TEXT_MAX];
    (void)state;
    assert_true(same("10.0.0.1", "10.0.0.1") && same("10.0.0.1", "::ffff:10.0.0.1") && same("2001:db8::1", "2001:db8::ffff:1"));
    assert_false(same("10.0.0.1", "10.0.0.2") || same("2001:db8::1", "2001:db8:0:1::1") || same("10.0.0.1", "2001:db8::1"));
    static const char *const OWN[] = {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"}, *const OTHERS[] = {"10.0.0.1", "::2", "::"};
    for (size_t i = 0; i < 4; i++)
        assert_true(address_numeric(OWN[i], 1, &sa) && address_loopback((struct sockaddr *)&sa));
    for (size_t i = 0; i < 3; i++)
        assert_true(address_numeric(OTHERS[i], 1, &sa) && !address_loopback((struct sockaddr *)&sa));
    assert_true(address_numeric("fd00::1", 80, &sa));
    assert_string_equal(address_host_text((struct sockaddr *)&sa, text), "fd00::1");
    assert_true(address_numeric("10.0.0.1", 80, &sa));
    assert_string_equal(address_host_text((struct sockaddr *)&sa, text), "10.0.0.1");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(parses), cmocka_unit_test(long_hosts_are_refused), cmocka_unit_test(classes),
                                       cmocka_unit_test(texts), cmocka_unit_test(hosts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
