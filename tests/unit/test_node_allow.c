/* Who may connect: rules, their order, and what stays over restarts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/address.h"
#include "node/allow.h"

static uv_loop_t loop;
static char folder[64];

static struct allow *opened(void) {
    char why[400];
    struct allow *a = allow_open(&loop, folder, why, sizeof(why));
    if (a == NULL)
        print_error("%s\n", why);
    assert_non_null(a);
    allow_configure(a, NULL, 0);
    return a;
}

static void closed(struct allow *a) {
    allow_close(a);
    uv_run(&loop, UV_RUN_DEFAULT);
}

static bool permits(const struct allow *a, const char *host) {
    struct sockaddr_storage address;
    assert_true(address_numeric(host, 40000, &address));
    return allow_permits(a, (struct sockaddr *)&address);
}

static void private_networks_and_seeds_by_default(void **state) {
    (void)state;
    struct allow *a = opened();
    static const char *const IN[] = {"127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "172.31.0.1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"};
    static const char *const OUT[] = {"8.8.8.8", "172.32.0.1", "192.169.0.1", "2001:db8::1", "::ffff:8.8.8.8"};
    for (size_t i = 0; i < sizeof(IN) / sizeof(IN[0]); i++)
        assert_true(permits(a, IN[i]));
    for (size_t i = 0; i < sizeof(OUT) / sizeof(OUT[0]); i++)
        assert_false(permits(a, OUT[i]));
    allow_seed(a, "8.8.8.8:7171");
    allow_seed(a, "[2001:db8::1]");
    allow_seed(a, "hub.example.org:7171");
    assert_true(permits(a, "8.8.8.8") && permits(a, "::ffff:8.8.8.8") && permits(a, "2001:db8::1"));
    assert_true(allow_named(a, "hub.example.org"));
    assert_false(allow_named(a, "example.org"));
    closed(a);
}

static void a_list_stands_for_the_default(void **state) {
    (void)state;
    static char one[] = "203.0.113.0/25", two[] = "2001:db8:7::/47", all[] = "any";
    char *list[] = {one, two}, *any[] = {all};
    struct allow *a = opened();
    allow_configure(a, list, 2);
    assert_true(permits(a, "203.0.113.127") && permits(a, "2001:db8:7::1") && permits(a, "2001:db8:6:ffff::1") && permits(a, "127.0.0.1"));
    assert_false(permits(a, "203.0.113.128") || permits(a, "2001:db8:8::1") || permits(a, "10.0.0.1"));
    allow_configure(a, any, 1);
    assert_true(permits(a, "203.0.113.128") && permits(a, "2001:db8:8::1"));
    allow_configure(a, NULL, 0);
    assert_true(permits(a, "10.0.0.1") && !permits(a, "203.0.113.127"));
    closed(a);
}

static void decisions_stay(void **state) {
    (void)state;
    char why[400];
    uint8_t id[NODE_ID_BYTES] = {7}, found[NODE_ID_BYTES];
    struct allow *a = opened();
    assert_int_equal(allow_add(a, "203.0.113.5", why, sizeof(why)), 0);
    assert_int_equal(allow_deny(a, "10.9.0.0/16", why, sizeof(why)), 0);
    assert_int_equal(allow_deny(a, "127.0.0.9", why, sizeof(why)), 0);
    assert_int_equal(allow_block(a, id, "pit", why, sizeof(why)), 0);
    assert_int_not_equal(allow_add(a, "10.0.0.0/40", why, sizeof(why)), 0);
    closed(a);

    a = opened();
    assert_true(permits(a, "203.0.113.5") && permits(a, "10.8.0.1"));
    assert_false(permits(a, "10.9.1.1") || permits(a, "127.0.0.9"));
    assert_memory_equal(allow_blocked(a, 0), id, sizeof(id));
    assert_null(allow_blocked(a, 1));
    assert_int_equal(allow_deny(a, "203.0.113.5", why, sizeof(why)), 0);
    assert_int_equal(allow_add(a, "10.9.0.0/16", why, sizeof(why)), 0);
    assert_true(permits(a, "10.9.1.1") && !permits(a, "203.0.113.5"));
    assert_int_equal(allow_join(a, "192.168.1.7:7171", why, sizeof(why)), 0); /* permitted anyway: no rule */
    assert_int_equal(allow_join(a, "198.51.100.7:7171", why, sizeof(why)), 0);
    assert_int_equal(allow_deny(a, "192.168.1.0/24", why, sizeof(why)), 0);
    assert_int_not_equal(allow_unblock(a, "pits", found, why, sizeof(why)), 0);
    assert_int_equal(allow_unblock(a, "pit", found, why, sizeof(why)), 0);
    assert_memory_equal(found, id, sizeof(id));
    closed(a);

    a = opened();
    assert_true(permits(a, "10.9.1.1") && permits(a, "198.51.100.7") && !permits(a, "203.0.113.5") && !permits(a, "192.168.1.7"));
    assert_null(allow_blocked(a, 0));
    closed(a);
}

/* To go on without what was denied would let it in. */
static void a_file_that_cannot_be_read_ends_the_start(void **state) {
    (void)state;
    char path[128], why[400];
    snprintf(path, sizeof(path), "%s/peers.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"deny\": [\"10.", f);
    fclose(f);
    assert_null(allow_open(&loop, folder, why, sizeof(why)));
    assert_non_null(strstr(why, "peers.json.bad"));
    closed(opened());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(private_networks_and_seeds_by_default),
        cmocka_unit_test(a_list_stands_for_the_default),
        cmocka_unit_test(decisions_stay),
        cmocka_unit_test(a_file_that_cannot_be_read_ends_the_start),
    };
    char path[128];
    snprintf(folder, sizeof(folder), "/tmp/starling-allow-XXXXXX");
    if (mkdtemp(folder) == NULL || uv_loop_init(&loop) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    static const char *const FILES[] = {"peers.json", "peers.json.bad", "peers.json.new"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, FILES[i]);
        unlink(path);
    }
    rmdir(folder);
    uv_loop_close(&loop);
    return failed;
}
