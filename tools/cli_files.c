/* Starling: `files`: the replicated files: what there is, what is on its way, and bringing back what was replaced or deleted. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SILENCE_S 60

static char *path_text(const json_t *j) {
    return json_is_string(j) ? text_dup(json_string_value(j)) : json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
}

/* A path as it was typed, or as `list` shows one that is no text. */
static json_t *path_json(const char *path) {
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    json_t *j = path[0] == '{' ? json_loads(path, 0, NULL) : NULL;
    if (json_object_get(j, "base64"))
        return j;
    json_decref(j);
    if ((j = json_string(path)))
        return j;
    size_t n = strlen(path);
    char *coded = calloc(n / 3 + 1, 4), *out = coded;
    for (size_t i = 0; coded && i < n; i += 3) {
        unsigned three = 0;
        for (size_t k = 0; k < 3; k++)
            three = three << 8 | (i + k < n ? (unsigned char)path[i + k] : 0u);
        for (unsigned k = 0; k < 4; k++)
            *out++ = i + k <= n ? DIGITS[three >> (18 - 6 * k) & 63] : '=';
    }
    j = json_pack("{s:s#}", "base64", coded, (int)(out - coded));
    free(coded);
    return j;
}

static void row(struct grid *g, const json_t *f) {
    const char *state = field_text(f, "state", "?");
    char at[TEXT_MAX], *path = path_text(json_object_get(f, "path"));
    bool ok = !strcmp(state, "ok");
    json_int_t size = field_count(f, "size");
    grid_cell(g, TONE_HEAD, "%s", path ? path : "?");
    grid_cell(g, TONE_PLAIN, "%s", field_text(f, "kind", "?"));
    grid_count(g, TONE_PLAIN, size);
    if (!strcmp(state, "fetching") && size > 0)
        grid_cell(g, TONE_WARN, "%d %%", (int)(field_count(f, "here") * 100 / size));
    else
        grid_cell(g, ok && !field_true(f, "clashes") ? TONE_GOOD : TONE_WARN, "%s%s", state,
                  field_true(f, "clashes") ? ", name clashes" : "");
    grid_cell(g, TONE_PLAIN, "%s", field_text(f, "node", "?"));
    grid_cell(g, TONE_FAINT, "%s", text_clock(at, field_count(f, "time_ms")));
    free(path);
}

static void print_list(const struct cli *cli, const json_t *result) {
    struct grid *g = grid_new("PATH|KIND|>BYTES|STATE|BY|AT");
    size_t i;
    json_t *f;
    json_array_foreach(json_object_get(result, "files"), i, f) { row(g, f); }
    grid_print(g, cli);
    if (field_true(result, "more"))
        say_problem(cli, TONE_WARN, "there are more: these are only the first", "use --json and `starling files status` for the sums");
}

static void print_versions(const struct cli *cli, const json_t *result) {
    struct grid *g = grid_new("VERSION|PATH|KIND|>BYTES|BY|AT|REPLACED");
    char at[TEXT_MAX];
    size_t i;
    json_t *f;
    json_array_foreach(json_object_get(result, "versions"), i, f) {
        char *path = path_text(json_object_get(f, "path"));
        grid_cell(g, TONE_HEAD, "%" JSON_INTEGER_FORMAT, field_count(f, "version"));
        grid_cell(g, TONE_PLAIN, "%s", path ? path : "?");
        grid_cell(g, TONE_PLAIN, "%s", field_text(f, "kind", "?"));
        grid_count(g, TONE_PLAIN, field_count(f, "size"));
        grid_cell(g, TONE_PLAIN, "%s", field_text(f, "node", "?"));
        grid_cell(g, TONE_FAINT, "%s", text_clock(at, field_count(f, "time_ms")));
        grid_cell(g, TONE_FAINT, "%s", text_clock(at, field_count(f, "kept_ms")));
        free(path);
    }
    grid_print(g, cli);
}

static void print_status(const struct cli *cli, const json_t *result) {
    char a[TEXT_MAX], b[TEXT_MAX];
    const char *error = field_text(result, "error", NULL);
    json_int_t pending = field_count(result, "pending"), missing = field_count(result, "missing");
    size_t i;
    json_t *one;
    say(cli, TONE_HEAD, "%s files, %s bytes", text_count(a, field_count(result, "count")), text_count(b, field_count(result, "bytes")));
    say(cli, pending ? TONE_WARN : TONE_GOOD, pending ? "  %s pending" : "  nothing pending", text_count(a, pending));
    printf("\n");
    if (missing)
        printf("%s contents are missing, %s bytes\n", text_count(a, missing), text_count(b, field_count(result, "missing_bytes")));
    json_array_foreach(json_object_get(result, "transfers"), i, one) {
        char *path = path_text(json_object_get(one, "path"));
        json_int_t size = field_count(one, "size"), here = field_count(one, "here");
        int parts = size > 0 ? (int)(here * 20 / size) : 0;
        printf("  [%.*s%.*s] %3d %%  %s\n", parts, "####################", 20 - parts, "....................",
               size > 0 ? (int)(here * 100 / size) : 0, path ? path : "?");
        free(path);
    }
    json_array_foreach(json_object_get(result, "restless"), i, one) {
        char *path = path_text(one);
        say(cli, TONE_WARN, "%s is still being written, or cannot be read yet", path ? path : "?");
        printf("\n");
        free(path);
    }
    json_array_foreach(json_object_get(result, "halted"), i, one) {
        char *path = path_text(one), *what = text_format("folder %s vanished: its files are left alone", path ? path : "?"),
             *mend = text_format("mount it again, or say `starling files accept %s` if all of it was deleted", path ? path : "?");
        say_problem(cli, TONE_BAD, what, mend);
        free(path);
        free(what);
        free(mend);
    }
    json_array_foreach(json_object_get(result, "clashing"), i, one) {
        char *path = path_text(one),
             *what = text_format("%s: another name differs only in case, or in how accents are written", path ? path : "?");
        say_problem(cli, TONE_WARN, what, "some file systems take them for one: rename one");
        free(path);
        free(what);
    }
    if (error)
        say_problem(cli, TONE_BAD, error, NULL);
    if (field_count(result, "conflicts"))
        say_problem(cli, TONE_WARN, "files were changed on two servers at once", "see `starling conflicts`");
}

static void print_restored(const struct cli *cli, const json_t *result) {
    char at[TEXT_MAX];
    const json_t *v = json_object_get(result, "restored");
    say(cli, TONE_GOOD, "restored");
    printf(": the version of %s, %s\n", field_text(v, "node", "?"), text_clock(at, field_count(v, "time_ms")));
}

static void print_accepted(const struct cli *cli, const json_t *result) {
    if (field_true(result, "given_up")) {
        say(cli, TONE_GOOD, "given up");
        printf(": what is here goes on\n");
        return;
    }
    say(cli, TONE_GOOD, "%" JSON_INTEGER_FORMAT " files", field_count(result, "deleted"));
    printf(" are deleted everywhere\n");
}

static int ask(struct cli *cli, json_t *args, void (*print)(const struct cli *cli, const json_t *result)) {
    struct answer answer;
    cli_ask(cli, &(struct request){.verb = "files", .args = args, .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print);
}

int verb_files(struct cli *cli) {
    const char *what = cli->words_count > 0 ? cli->words[0] : "status", *path = cli->words_count > 1 ? cli->words[1] : NULL;
    const char *version = cli_option(cli, "--version"), *list = cli_option(cli, "--list");
    if (!strcmp(what, "list") && !path)
        return ask(cli, json_pack("{s:s}", "ask", "list"), print_list);
    if (!strcmp(what, "status") && !path)
        return ask(cli, json_pack("{s:s}", "ask", "status"), print_status);
    if (!strcmp(what, "accept") && path)
        return ask(cli, json_pack("{s:s, s:o}", "ask", "accept", "path", path_json(path)), print_accepted);
    if (!strcmp(what, "restore") && list)
        return ask(cli, json_pack("{s:s, s:o*, s:b}", "ask", "restore", "path", path ? path_json(path) : NULL, "list", 1), print_versions);
    if (!strcmp(what, "restore") && path) {
        json_t *args = json_pack("{s:s, s:o}", "ask", "restore", "path", path_json(path));
        if (version)
            json_object_set_new(args, "version", json_integer(cli_number("--version", version, 1, 1L << 52)));
        return ask(cli, args, print_restored);
    }
    if (!strcmp(what, "verify") && !path)
        return verify_files(cli);
    complain("files takes: list, status, verify, restore PATH [--version V], restore --list [PATH], accept PATH");
    return EXIT_USAGE;
}
