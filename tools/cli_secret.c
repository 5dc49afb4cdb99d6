/* Starling: who may be a member: `keygen` and `rotate`, the cluster's secret; `peers`, who may connect. */
#include "tools/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define SILENCE_S 15
#define SECRET_BYTES 32
#define SECRET_TEXT (2 * SECRET_BYTES + 1)

/* A secret as files have it: hex digits. */
static bool secret_make(char out[SECRET_TEXT]) {
    uint8_t random[SECRET_BYTES];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        complain("the system gives no randomness: %s", strerror(errno));
        return false;
    }
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(out + 2 * i, 3, "%02x", random[i]);
    return true;
}

int verb_keygen(struct cli *cli) {
    char text[SECRET_TEXT];
    if (!secret_make(text))
        return EXIT_NO;
    if (cli->json)
        printf("{\"secret\": \"%s\"}\n", text);
    else
        printf("%s\n", text);
    return EXIT_YES;
}

static bool secret_from(const char *path, char out[SECRET_TEXT]) {
    FILE *file = fopen(path, "re");
    if (!file) {
        complain("%s: %s: make a secret with `starling keygen > %s`", path, strerror(errno), path);
        return false;
    }
    size_t n = fread(out, 1, SECRET_TEXT - 1, file);
    fclose(file);
    out[n] = 0; /* the node looks at it more closely */
    return true;
}

static void print_names(const struct cli *cli, const char *before, const json_t *names) {
    size_t i;
    json_t *name;
    say(cli, TONE_PLAIN, "%s", before);
    json_array_foreach(names, i, name) say(cli, TONE_HEAD, "%s%s", i ? ", " : "", json_string_value(name));
}

static void print_rotation(const struct cli *cli, const json_t *result) {
    const json_t *waiting = json_object_get(result, "waiting"), *have = json_object_get(result, "have");
    if (!field_true(result, "changing")) {
        size_t others = json_array_size(have);
        say(cli, TONE_GOOD, "done: this node and %zu other%s have the secret, the old one is not accepted any more", others,
            others == 1 ? "" : "s");
        printf("\n");
        return;
    }
    print_names(cli, "the new secret is in use; not there yet: ", waiting);
    printf("\n");
    say(cli, TONE_PLAIN, "they get it when they return. Until then the old one is accepted, or until `starling rotate --finish`");
    printf("\n");
}

int verb_rotate(struct cli *cli) {
    char text[SECRET_TEXT] = "";
    struct answer answer;
    bool finish = cli_option(cli, "--finish") != NULL, made = !finish && cli->words_count == 0;
    if (finish && cli->words_count) {
        complain("rotate: a FILE, or --finish");
        return EXIT_USAGE;
    }
    if (!finish && !(made ? secret_make(text) : secret_from(cli->words[0], text)))
        return EXIT_USAGE;
    json_t *args = finish ? json_pack("{s:b}", "finish", 1) : json_pack("{s:s}", "secret", text);
    if (!args) {
        complain("%s holds no cluster secret: make one with `starling keygen`", cli->words_count ? cli->words[0] : "that");
        return EXIT_USAGE;
    }
    cli_ask(cli, &(struct request){.verb = "rotate", .args = args, .silence_s = SILENCE_S}, &answer);
    if (made && !answer.exit && answer.result && cli->json)
        json_object_set_new(answer.result, "secret", json_string(text));
    else if (made && !answer.exit)
        printf("%s\n", text);
    return cli_answer(cli, &answer, print_rotation);
}

/* ---- peers */

static void print_rules(const struct cli *cli, const char *heading, const json_t *rules) {
    size_t i, k;
    json_t *rule, *address;
    struct grid *g = grid_new(heading);
    json_array_foreach(rules, i, rule) {
        grid_cell(g, TONE_HEAD, "%s", field_text(rule, "rule", "?"));
        grid_cell(g, TONE_FAINT, "%s", field_text(rule, "from", ""));
        char text[256] = "";
        json_array_foreach(json_object_get(rule, "addresses"), k, address) if (json_is_string(address) && strlen(text) < sizeof text - 50)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", k ? ", " : "", json_string_value(address));
        grid_cell(g, TONE_PLAIN, "%s", text);
    }
    grid_print(g, cli);
}

static void print_peers(const struct cli *cli, const json_t *result) {
    const json_t *blocked = json_object_get(result, "blocked");
    say(cli, TONE_PLAIN, field_true(result, "secret") ? "The cluster has a secret. " : "The cluster has no secret. ");
    say(cli, TONE_PLAIN, "Besides loopback, these may connect:");
    printf("\n");
    print_rules(cli, "ALLOWED|FROM|ADDRESSES", json_object_get(result, "allow"));
    if (json_array_size(json_object_get(result, "deny")))
        print_rules(cli, "DENIED|FROM|ADDRESSES", json_object_get(result, "deny"));
    if (json_array_size(blocked)) {
        size_t i;
        json_t *node;
        struct grid *g = grid_new("BLOCKED|ID");
        json_array_foreach(blocked, i, node) {
            grid_cell(g, TONE_BAD, "%s", field_text(node, "name", "?"));
            grid_cell(g, TONE_FAINT, "%s", field_text(node, "id", ""));
        }
        grid_print(g, cli);
    }
    grid_print(peers_grid(json_object_get(result, "peers")), cli);
}

int verb_peers(struct cli *cli) {
    struct answer answer;
    json_t *what = json_array();
    for (int i = 1; i < cli->words_count; i++)
        json_array_append_new(what, json_string(cli->words[i]));
    json_t *args = json_pack("{s:s, s:o}", "do", cli->words_count ? cli->words[0] : "list", "what", what);
    cli_ask(cli, &(struct request){.verb = "peers", .args = args, .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_peers);
}
