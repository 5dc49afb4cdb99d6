/* Starling: the streams: `log`, the node's activity, and `watch`, each change as it happens. */
#include "tools/cli.h"

#include <stdio.h>
#include <string.h>

#define LINES 50
#define LINES_MAX 1000000

static const char *level_name(const json_t *item) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    const json_t *level = json_object_get(item, "level");
    json_int_t n = json_integer_value(level);
    if (json_is_string(level))
        return json_string_value(level);
    return json_is_integer(level) && n >= 0 && n < 4 ? names[n] : "info";
}

static void print_log_item(struct cli *cli, json_t *item, void *ctx) {
    (void)ctx;
    if (cli->json) {
        print_json(item);
        return;
    }
    const char *level = level_name(item), *db = field_text(item, "db", NULL);
    enum tone tone = !strcmp(level, "error") ? TONE_BAD : !strncmp(level, "warn", 4) ? TONE_WARN : TONE_PLAIN;
    char at[TEXT_MAX];
    say(cli, TONE_FAINT, "%s ", text_clock(at, field_count(item, "time_ms")));
    say(cli, tone, "%-7s ", level);
    if (db)
        say(cli, TONE_HEAD, "%s: ", db);
    say(cli, tone, "%s", field_text(item, "text", ""));
    printf("\n");
    fflush(stdout);
}

static void print_change(struct cli *cli, json_t *item, void *ctx) {
    (void)cli;
    (void)ctx;
    print_json(item);
}

/* A stream's items are its output: its last line adds only an error. */
static int stream(struct cli *cli, const struct request *request) {
    struct answer answer;
    cli_ask(cli, request, &answer);
    if (answer.error)
        complain("%s", answer.error);
    int code = answer.exit;
    answer_release(&answer);
    return code;
}

int verb_log(struct cli *cli) {
    const char *n = cli_option(cli, "-n"), *db = cli_option(cli, "--db");
    json_t *args = json_pack("{s:I, s:b}", "n", (json_int_t)(n ? cli_number("-n", n, 0, LINES_MAX) : LINES), "follow",
                             cli_option(cli, "--follow") != NULL);
    if (db)
        json_object_set_new(args, "db", json_string(db));
    return stream(cli, &(struct request){.verb = "log", .args = args, .on_item = print_log_item});
}

int verb_watch(struct cli *cli) {
    json_t *filters = json_array();
    for (int i = 0; i < cli->words_count; i++)
        json_array_append_new(filters, json_string(cli->words[i]));
    return stream(cli, &(struct request){.verb = "watch", .args = json_pack("{s:o}", "filters", filters), .on_item = print_change});
}
