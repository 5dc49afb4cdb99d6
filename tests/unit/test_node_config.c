/* The configuration: precedence, validation, and that what --print-config prints is read back as the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/config.h"
#include "proto/err.h"

#define ARGS_MAX 16

static char why[1024];

/* Loads from words separated by spaces. */
static int load(struct config *c, const char *words) {
    static char text[2048];
    char *argv[ARGS_MAX] = {"starlingd"}, *rest = NULL;
    int argc = 1;
    snprintf(text, sizeof(text), "%s", words);
    for (char *word = strtok_r(text, " ", &rest); word != NULL && argc < ARGS_MAX; word = strtok_r(NULL, " ", &rest))
        argv[argc++] = word;
    return config_load(c, argc, argv, why, sizeof(why));
}

static void file_put(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static char folder[] = "/tmp/starling-config-XXXXXX";
static char path[64];

static int setup(void **state) {
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/c.conf", folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void precedence(void **state) {
    struct config c;
    char words[200];
    (void)state;
    file_put(path, "name = of-file\ncluster = of-file\nlisten = \"127.0.0.1:1\"\njoin = { \"a\", \"b:2\" }\nlog-level = debug\n");
    setenv("STARLING_NAME", "of-environment", 1);
    setenv("STARLING_CLUSTER", "of-environment", 1);
    snprintf(words, sizeof(words), "--instance /tmp --config %s --name=of-flag", path);
    assert_int_equal(load(&c, words), 0);
    assert_string_equal(config_text(&c, OPTION_NAME), "of-flag");
    assert_int_equal(c.settings[OPTION_NAME].source, SOURCE_FLAG);
    assert_string_equal(config_text(&c, OPTION_CLUSTER), "of-environment");
    assert_int_equal(c.settings[OPTION_CLUSTER].source, SOURCE_ENVIRONMENT);
    assert_string_equal(config_text(&c, OPTION_LISTEN), "127.0.0.1:1");
    assert_string_equal(config_text(&c, OPTION_LOG_LEVEL), "debug");
    assert_string_equal(config_text(&c, OPTION_LOG_FORMAT), "text");
    assert_int_equal(c.settings[OPTION_LOG_FORMAT].source, SOURCE_DEFAULT);
    assert_string_equal(config_text(&c, OPTION_STATE), "/tmp/.starling");
    assert_int_equal(c.settings[OPTION_JOIN].count, 2);
    config_release(&c);
    snprintf(words, sizeof(words), "--instance /tmp --config %s --join x --join y --join z:9", path);
    assert_int_equal(load(&c, words), 0);
    assert_int_equal(c.settings[OPTION_JOIN].count, 3);
    assert_string_equal(c.settings[OPTION_JOIN].values[2], "z:9");
    config_release(&c);
    unsetenv("STARLING_NAME");
    unsetenv("STARLING_CLUSTER");
    setenv("STARLING_JOIN", "p, q:3 r", 1);
    assert_int_equal(load(&c, "--instance /tmp"), 0);
    assert_int_equal(c.settings[OPTION_JOIN].count, 3);
    assert_string_equal(c.settings[OPTION_JOIN].values[1], "q:3");
    config_release(&c);
    unsetenv("STARLING_JOIN");
}

static void refusals(void **state) {
    static const struct {
        const char *words, *says;
    } CASES[] = {
        {"", "--instance"},
        {"--instance", "needs a value"},
        {"--instance /tmp --frobnicate", "unknown flag \"--frobnicate\""},
        {"--instance /tmp stray", "unexpected argument \"stray\""},
        {"--instance /tmp --allow 10.0.0.0/33", "--allow 10.0.0.0/33: say addresses, networks"},
        {"--instance /tmp --allow 10.0.0.0/8,pit/8", "--allow pit/8: say addresses, networks"},
        {"--instance /tmp --allow 10.0.0", "--allow 10.0.0: say addresses, networks"},
        {"--instance /tmp --http 127.0.0.1:7172", "not in this build"},
        {"--instance /tmp --adopt sometimes", "one of"},
        {"--instance /tmp --set ddl=maybe", "one of"},
        {"--instance /tmp --set history_mb=5", "not in this build"},
        {"--instance /tmp --set bandwidth_kib=x", "whole number"},
        {"--instance /tmp --set name=x", "unknown key"},
        {"--instance /tmp --set log_level", "KEY=VALUE"},
        {"--instance /tmp --log-level loud", "one of"},
        {"--instance /tmp --listen nonsense:port", "HOST:PORT"},
        {"--instance /tmp --listen 7171", "HOST:PORT"},
        {"--instance /tmp --join=", "--join= needs a value"},
        {"--instance /tmp --join :80", "HOST"},
        {"--instance /tmp --cluster a/b", "letters"},
        {"--instance /tmp --config /nonexistent/x", "cannot read"},
        {"--instance /tmp --config /tmp", "it is a folder"},
    };
    struct config c;
    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        why[0] = 0;
        assert_int_equal(load(&c, CASES[i].words), ERR_USAGE);
        if (strstr(why, CASES[i].says) == NULL || strchr(why, '\n') != NULL)
            fail_msg("%s: %s", CASES[i].words, why);
    }
    assert_int_equal(load(&c, "--instance /tmp --http off --set ddl=local --set log_level=error --adopt="), 0);
    assert_string_equal(config_text(&c, OPTION_LOG_LEVEL), "error");
    config_release(&c);
}

static void file_refusals(void **state) {
    static const struct {
        const char *text, *says;
    } CASES[] = {
        {"nane = x\n", "c.conf:1"},
        {"name = x\nname x\n", "c.conf:2"},
        {"http = \"127.0.0.1:1\"\n", "not in this build"},
        {"database \"x.db\" {\n table \"t\" { key = { \"\" } } }\n", "c.conf:2: table t: key = ,: name columns"},
        {"database \"x.db\" { table \"t\" { refs = { \"a -> b\" } } }\n",
         "c.conf:1: table t: refs = a -> b: say \"column -> table.column\""},
        {"database \"x.db\" { table \"t\" { unique = keep } }\n", "unique = keep: it is one of merge|rename"},
        {"database \"x.db\" { orphans = delete }\n", "database x.db: orphans = delete: it is one of revive|keep|cascade"},
        {"database \"x.db\" { ddl = sometimes }\n", "database x.db: ddl = sometimes: it is one of local|follow"},
        {"database \"x.db\" { replicate = perhaps }\n", "c.conf:1"},
        {"files { max_mb = -1 }\n", "max_mb"},
        {"files { quota_mb = -1 }\n", "quota_mb"},
        {"files { owner = \"no such user\" }\n", "no such user"},
        {"files { modes = 0644 }\n", "replicate|local"},
        {"files { folder \"a/b\" { path = \"/srv\" } }\n", "folder a/b"},
        {"files { folder \"a\" { path = \"srv\" } }\n", "folder a"},
        {"files { folder \"a\" { } }\n", "folder a"},
        {"files { path \"a\" { merge = xml } }\n", "none|json"},
        {"database \"x.db\" { table \"t\" { replicate = perhaps } }\n", "c.conf:1"},
    };
    struct config c;
    char words[200];
    (void)state;
    snprintf(words, sizeof(words), "--instance /tmp --config %s", path);
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        file_put(path, CASES[i].text);
        why[0] = 0;
        assert_int_equal(load(&c, words), ERR_USAGE);
        if (strstr(why, CASES[i].says) == NULL)
            fail_msg("%s: %s", CASES[i].text, why);
    }
}

static void policies(void **state) {
    struct config c;
    char words[200];
    (void)state;
    file_put(path,
             "database \"scouting.db\" {\n table \"notification_queue\" { replicate = no }\n table \"team\" { unique = merge }\n"
             " table \"login\" { replicate = no refs = { \"by -> user.id\", \"on -> b.db/host.id\" } }\n orphans = keep\n}\nfiles { }\n");
    snprintf(words, sizeof(words), "--instance /tmp --config %s", path);
    assert_int_equal(load(&c, words), 0);
    const char *const *excluded = config_excluded(&c, "scouting.db");
    assert_non_null(excluded);
    assert_string_equal(excluded[0], "notification_queue");
    assert_string_equal(excluded[1], "login");
    assert_null(excluded[2]);
    assert_null(config_excluded(&c, "other.db"));
    assert_false(config_follows(&c, "scouting.db"));
    uint32_t count;
    const struct policy_line *lines = config_policies(&c, "scouting.db", &count);
    assert_int_equal(count, 3);
    assert_string_equal(lines[0].name, "orphans");
    assert_string_equal(lines[0].table, "");
    assert_string_equal(lines[1].value, "merge");
    assert_string_equal(lines[2].value, "by -> user.id\non -> b.db/host.id");
    assert_non_null(strstr(lines[2].where, "c.conf:4"));
    assert_null(config_policies(&c, "other.db", &count));
    config_release(&c);
    file_put(path,
             "ddl = follow\ndatabase \"scouting.db\" { ddl = local }\ndatabase \"notes.db\" { ddl = follow }\ndatabase \"x.db\" { }\n");
    assert_int_equal(load(&c, words), 0);
    assert_false(config_follows(&c, "scouting.db"));
    assert_true(config_follows(&c, "notes.db") && config_follows(&c, "x.db") && config_follows(&c, "other.db"));
    config_release(&c);
    snprintf(words + strlen(words), sizeof(words) - strlen(words), " --set ddl=local");
    assert_int_equal(load(&c, words), 0);
    assert_true(config_follows(&c, "notes.db"));
    assert_false(config_follows(&c, "x.db"));
    config_release(&c);
}

static void printed_is_read_back(void **state) {
    struct config c, again;
    char words[300], copy[80], *text = NULL;
    size_t len = 0;
    (void)state;
    setenv("HOME_OF_TEST", "expanded", 1);
    file_put(path, "database \"cache.db\" { replicate = no }\ndatabase \"a \\\"b\\\".db\" { ddl = follow unique = rename table \"t\" { "
                   "replicate = no } table \"u\" { key = { \"a\", "
                   "\"b\" } } }\n");
    snprintf(words, sizeof(words), "--instance /tmp --config %s --name pit --join a --join [::1]:5 --state /tmp/odd\\\"${HOME_OF_TEST}",
             path);
    assert_int_equal(load(&c, words), 0);
    FILE *out = open_memstream(&text, &len);
    config_print(&c, out);
    fclose(out);
    assert_non_null(strstr(text, "# from: flag\nname = \"pit\""));
    assert_non_null(strstr(text, "# from: default\ncluster = \"default\""));
    snprintf(copy, sizeof(copy), "%s/again.conf", folder);
    file_put(copy, text);
    free(text);
    snprintf(words, sizeof(words), "--config %s", copy);
    assert_int_equal(load(&again, words), 0);
    for (int i = 0; i < OPTIONS_COUNT; i++)
        if (!config_same(&c, &again, (enum option_id)i))
            fail_msg("%s", config_spec((enum option_id)i)->name);
    assert_string_equal(config_text(&again, OPTION_STATE), "/tmp/odd\\\"${HOME_OF_TEST}");
    assert_int_equal(again.databases_count, 2);
    assert_string_equal(again.databases[1].db, "a \"b\".db");
    assert_true(config_replicates(&again, "a \"b\".db") && !config_replicates(&again, "cache.db"));
    assert_string_equal(config_excluded(&again, "a \"b\".db")[0], "t");
    assert_true(config_follows(&again, "a \"b\".db"));
    assert_false(config_follows(&again, "other.db"));
    uint32_t count;
    const struct policy_line *lines = config_policies(&again, "a \"b\".db", &count);
    assert_int_equal(count, 2);
    assert_string_equal(lines[0].value, "rename");
    assert_string_equal(lines[1].value, "a\nb");
    config_release(&c);
    config_release(&again);
    unlink(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(precedence), cmocka_unit_test(refusals), cmocka_unit_test(file_refusals),
                                       cmocka_unit_test(policies), cmocka_unit_test(printed_is_read_back)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
