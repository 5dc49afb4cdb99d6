/* Starling: `conflicts`: what lost, to whom, and deciding it; and `why`: who wrote what a row holds. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_SILENCE_S 90
#define VALUE_SHOWN 24

/* ---- parts of lines */

/* Cut to about `most` bytes, at the end of a character; freed by the caller. */
static char *cut(char *text, size_t most) {
    size_t len = strlen(text);
    if (!most || len <= most)
        return text;
    while (most && ((unsigned char)text[most] & 0xc0) == 0x80)
        most--;
    char *shorter = text_format("%.*s…", (int)most, text);
    free(text);
    return shorter;
}

static char *value_text(const json_t *value, size_t most) {
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : text_dup("null");
    return cut(text ? text : text_dup("?"), most);
}

/* k=5, or x=1 y="b"; a key of one column is its value alone. */
static char *key_text(const json_t *key, size_t most) {
    char *text = text_dup("");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)key, name, value) {
        char *one = value_text(value, 0);
        char *more = json_object_size(key) == 1 ? text_dup(one) : text_format("%s%s%s=%s", text, *text ? " " : "", name, one);
        free(one);
        free(text);
        text = more;
    }
    return cut(text, most);
}

static bool is_death(const json_t *conflict) { return field_true(json_object_get(conflict, "loser"), "deleted"); }

/* What one side of a conflict stands for. */
static char *side_text(const json_t *conflict, const char *which, size_t most) {
    const json_t *side = json_object_get(conflict, which);
    if (field_true(side, "deleted"))
        return text_dup("the deletion");
    return is_death(conflict) ? text_dup("the row") : value_text(json_object_get(side, "value"), most);
}

static const char *author(const json_t *side) {
    const char *name = field_text(side, "name", NULL);
    return name ? name : field_text(side, "node", "?");
}

/* Without a time it was there before anybody's node ran, in all copies (then nobody is its author) or in those of this one. */
static void print_author(const struct cli *cli, const json_t *side, const char *did) {
    char at[TEXT_MAX];
    json_int_t ms = field_count(side, "time_ms");
    if (ms)
        say(cli, TONE_FAINT, "  %sby %s at %s", did, author(side), text_clock(at, ms));
    else
        say(cli, TONE_FAINT, "  was there before");
}

/* ---- conflicts */

static void side_cells(struct grid *g, const json_t *conflict, const char *which, enum tone tone) {
    const json_t *side = json_object_get(conflict, which);
    char at[TEXT_MAX], *text = side_text(conflict, which, VALUE_SHOWN);
    grid_cell(g, tone, "%s", text);
    json_int_t ms = field_count(side, "time_ms");
    grid_cell(g, TONE_PLAIN, "%s", *author(side) ? author(side) : "-");
    grid_cell(g, TONE_FAINT, "%s", ms ? text_clock(at, ms) : "before");
    free(text);
}

static void print_missing(const struct cli *cli, const json_t *result) {
    size_t i;
    json_t *db;
    if (field_true(result, "more"))
        say_problem(cli, TONE_WARN, "there are more: these are only the first", "decide some of these");
    json_array_foreach(json_object_get(result, "missing"), i, db) {
        char *what = text_format("%s gave no answer: its conflicts are not listed", json_string_value(db));
        say_problem(cli, TONE_BAD, what, "`starling status` says why");
        free(what);
    }
}

static void print_list(const struct cli *cli, const json_t *result) {
    const json_t *list = json_object_get(result, "conflicts");
    size_t i;
    json_t *c;
    if (json_array_size(list)) {
        struct grid *g = grid_new("ID|TABLE|KEY|COLUMN|KIND|WON|BY|AT|LOST|BY|AT");
        json_array_foreach(list, i, c) {
            char *key = key_text(json_object_get(c, "key"), VALUE_SHOWN);
            grid_cell(g, TONE_HEAD, "%s", field_text(c, "id", "?"));
            grid_cell(g, TONE_PLAIN, "%s/%s", field_text(c, "db", "?"), field_text(c, "table", "?"));
            grid_cell(g, TONE_PLAIN, "%s", key);
            grid_cell(g, TONE_PLAIN, "%s", is_death(c) ? "-" : field_text(c, "column", "?"));
            grid_cell(g, TONE_FAINT, "%s", field_text(c, "kind", "?"));
            side_cells(g, c, "winner", TONE_GOOD);
            side_cells(g, c, "loser", TONE_WARN);
            free(key);
        }
        grid_print(g, cli);
        printf("\n");
        say(cli, TONE_FAINT, "`starling conflicts show ID`, `starling conflicts resolve ID --keep winner|loser`");
        printf("\n");
    } else {
        say(cli, TONE_GOOD, "no open conflicts");
        printf("\n");
    }
    print_missing(cli, result);
}

static void print_side(const struct cli *cli, const json_t *conflict, const char *which, enum tone tone) {
    const json_t *side = json_object_get(conflict, which);
    char at[TEXT_MAX], *text = side_text(conflict, which, 0);
    const char *node = field_text(side, "node", "?");
    json_int_t ms = field_count(side, "time_ms");
    printf("%-7s ", which);
    say(cli, tone, "%s", text);
    if (ms)
        say(cli, TONE_FAINT, "  by %s (%s) at %s", author(side), node, text_clock(at, ms));
    else if (*node)
        say(cli, TONE_FAINT, "  was there before, on %s (%s)", author(side), node);
    else
        say(cli, TONE_FAINT, "  was there before");
    printf("\n");
    free(text);
}

/* Of a file one version stays; the copy of the other goes, and can be restored. */
static void print_file_choice(const struct cli *cli, const char *id) {
    say(cli, TONE_PLAIN, "--keep winner    it stays as it is; the copy of the other one beside it is deleted");
    say(cli, TONE_FAINT, "  (starling conflicts resolve %s --keep winner)", id);
    printf("\n");
    say(cli, TONE_PLAIN, "--keep loser     the losing version is written; its copy beside it is deleted");
    printf("\n");
    say(cli, TONE_FAINT, "what is deleted or replaced comes back with `starling files restore PATH`");
    printf("\n");
}

static void print_show(const struct cli *cli, const json_t *result) {
    const json_t *c = json_array_get(json_object_get(result, "conflicts"), 0);
    const char *id = field_text(c, "id", "?"), *kind = field_text(c, "kind", "?");
    bool death = is_death(c), dead = field_true(json_object_get(c, "winner"), "deleted"), same = field_true(c, "same");
    char *key = key_text(json_object_get(c, "key"), 0);
    say(cli, TONE_HEAD, "%s/%s", field_text(c, "db", "?"), field_text(c, "table", "?"));
    say(cli, TONE_PLAIN, " row %s%s%s", key, death ? "" : ", column ", death ? "" : field_text(c, "column", "?"));
    say(cli, TONE_FAINT, "  %s, %s", kind, field_text(c, "state", "?"));
    printf("\n");
    print_side(cli, c, "winner", TONE_GOOD);
    print_side(cli, c, "loser", TONE_WARN);
    if (strcmp(kind, "file") == 0) {
        print_file_choice(cli, id);
        free(key);
        return;
    }
    bool number = strcmp(kind, "number") == 0; /* the old one is another row's */
    say(cli, TONE_PLAIN, "--keep winner    %s",
        dead     ? "the row stays deleted"
        : death  ? "the row stays"
        : number ? "it keeps its new number, as all that refers to it does"
                 : "it stays as it is");
    say(cli, TONE_FAINT, "  (starling conflicts resolve %s --keep winner)", id);
    printf("\n");
    if (same) {
        say(cli, TONE_PLAIN, "--split          they are two rows again, as they were entered; the younger one gives up the UNIQUE value");
        printf("\n");
    }
    if (same || number) {
        free(key);
        return;
    }
    say(cli, TONE_PLAIN, "--keep loser     %s",
        dead    ? "the row comes back with this value, and with it what was deleted together with it"
        : death ? "the row is deleted"
                : "the losing value is written");
    printf("\n");
    if (!death) {
        say(cli, TONE_PLAIN, "--set COL=VALUE  %s", dead ? "the row comes back with these values" : "something else is written");
        printf("\n");
    }
    free(key);
}

/* What was done, of an answer to `resolve`; kept: "winner", "loser", or NULL for --set. */
static void print_resolved(const struct cli *cli, const json_t *result, const char *kept) {
    const json_t *c = json_object_get(result, "conflict");
    bool death = is_death(c), dead = field_true(json_object_get(c, "winner"), "deleted"), loser = kept && !strcmp(kept, "loser");
    char *key = key_text(json_object_get(c, "key"), 0), *value = side_text(c, kept ? kept : "winner", 60), count[TEXT_MAX];
    json_int_t rows = field_count(result, "rows");
    say(cli, TONE_GOOD, "resolved");
    say(cli, TONE_PLAIN, ": %s/%s row %s: ", field_text(c, "db", "?"), field_text(c, "table", "?"), key);
    if (field_true(c, "same"))
        say(cli, TONE_PLAIN, "%s", kept ? "it stays one row" : "they are two rows again");
    else if (death || (dead && kept && !loser))
        say(cli, TONE_PLAIN, "%s", death && !loser ? "it stays" : death ? "it is deleted" : "it stays deleted");
    else if (dead)
        say(cli, TONE_PLAIN, "it is back");
    else if (kept)
        say(cli, TONE_PLAIN, "%s %s %s", field_text(c, "column", "?"), loser ? "is again" : "stays", value);
    else
        say(cli, TONE_PLAIN, "written");
    if (rows > 1 && !field_true(c, "same"))
        say(cli, TONE_PLAIN, ", and with it %s %s deleted together with it", text_count(count, rows - 1),
            rows == 2 ? "row that was" : "rows that were");
    printf("\n");
    free(value);
    free(key);
}

/* ---- what the user says */

/* VALUE is JSON if it is a scalar of it, or {"int"} or {"base64"}; else text. */
static json_t *value_of(const char *text) {
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    bool special = json_object_size(j) == 1 && (json_object_get(j, "int") || json_object_get(j, "base64"));
    if (j && !json_is_array(j) && (!json_is_object(j) || special))
        return j;
    json_decref(j);
    return json_string(text);
}

/* The first word that is no COL=VALUE. */
static const char *id_of(const struct cli *cli) {
    int i = 1;
    while (i < cli->words_count && strchr(cli->words[i], '='))
        i++;
    return i < cli->words_count ? cli->words[i] : NULL;
}

/* Takes the COL=VALUE words; NULL and said when one is none. */
static json_t *set_of(const struct cli *cli) {
    json_t *set = json_object();
    for (int i = 1; i < cli->words_count; i++) {
        const char *word = cli->words[i], *sign = strchr(word, '=');
        if (word == id_of(cli))
            continue;
        char *column = sign && sign > word ? text_format("%.*s", (int)(sign - word), word) : NULL;
        json_t *value = column ? value_of(sign + 1) : NULL;
        int failed = value ? json_object_set_new(set, column, value) : -1;
        free(column);
        if (failed) {
            complain("\"%s\" is not COL=VALUE", word);
            json_decref(set);
            return NULL;
        }
    }
    return set;
}

static int usage(const char *what) {
    complain("%s: see `starling help conflicts`", what);
    return EXIT_USAGE;
}

static int resolve(struct cli *cli) {
    const char *keep = cli_option(cli, "--keep"), *set = cli_option(cli, "--set"), *split = cli_option(cli, "--split");
    struct answer answer;
    if (!id_of(cli))
        return usage("say which conflict: starling conflicts resolve ID");
    if (!!keep + !!set + !!split != 1 || ((keep || split) && cli->words_count > 2) ||
        (keep && strcmp(keep, "winner") != 0 && strcmp(keep, "loser") != 0))
        return usage("say one of --keep winner, --keep loser, --set COL=VALUE, --split");
    json_t *args = json_pack("{s:s}", "id", id_of(cli)), *values = NULL;
    if (keep) {
        json_object_set_new(args, "keep", json_string(keep));
    } else if (split) {
        json_object_set_new(args, "split", json_true());
    } else if ((values = set_of(cli))) {
        json_object_set_new(args, "set", values);
    } else {
        json_decref(args);
        return EXIT_USAGE;
    }
    cli_ask(cli, &(struct request){.verb = "resolve", .args = args, .silence_s = LIST_SILENCE_S}, &answer);
    if (answer.result && !cli->json)
        print_resolved(cli, answer.result, keep);
    return cli_answer(cli, &answer, NULL);
}

int verb_conflicts(struct cli *cli) {
    const char *what = cli->words_count ? cli->words[0] : "list";
    bool show = !strcmp(what, "show");
    struct answer answer;
    if (!strcmp(what, "resolve"))
        return resolve(cli);
    if (!show && strcmp(what, "list") != 0)
        return usage("conflicts takes list, show ID or resolve ID");
    if (cli->words_count != (show               ? 2
                             : cli->words_count ? 1
                                                : 0) ||
        cli_option(cli, "--keep") || cli_option(cli, "--set") || cli_option(cli, "--split"))
        return usage(show ? "usage: starling conflicts show ID" : "usage: starling conflicts list");
    json_t *args = show ? json_pack("{s:s}", "id", cli->words[1]) : NULL;
    cli_ask(cli, &(struct request){.verb = "conflicts", .args = args, .silence_s = LIST_SILENCE_S}, &answer);
    return cli_answer(cli, &answer, show ? print_show : print_list);
}

/* ---- why */

static void print_column(const struct cli *cli, const json_t *column) {
    char *value = value_text(json_object_get(column, "value"), 60);
    size_t i;
    json_t *beaten;
    say(cli, TONE_HEAD, "%s", field_text(column, "column", "?"));
    say(cli, TONE_PLAIN, " = %s", value);
    free(value);
    print_author(cli, column, "");
    printf("\n");
    json_array_foreach(json_object_get(column, "beat"), i, beaten) {
        value = value_text(json_object_get(beaten, "value"), 60);
        say(cli, TONE_WARN, "    beat %s", value);
        print_author(cli, beaten, "");
        printf("\n");
        free(value);
    }
}

static void print_why(const struct cli *cli, const json_t *result) {
    const json_t *inserted = json_object_get(result, "inserted");
    char *key = key_text(json_object_get(result, "key"), 0);
    bool alive = field_true(result, "alive");
    size_t i;
    json_t *each;
    say(cli, TONE_HEAD, "%s/%s", field_text(result, "db", "?"), field_text(result, "table", "?"));
    say(cli, TONE_PLAIN, " row %s", key);
    free(key);
    if (inserted)
        print_author(cli, inserted, "inserted ");
    printf("\n");
    json_array_foreach(json_object_get(result, "deaths"), i, each) {
        say(cli, alive ? TONE_WARN : TONE_BAD, alive ? "beat its deletion" : "deleted");
        print_author(cli, each, "");
        printf("\n");
    }
    json_array_foreach(json_object_get(result, "columns"), i, each) { print_column(cli, each); }
}

/* A KEY that is a JSON array, or a whole number as SQLite writes it, is that; else it is text. */
static json_t *key_of(const char *text) {
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    char number[32] = "";
    if (json_is_integer(j))
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(j));
    if (json_is_array(j) || !strcmp(number, text))
        return j;
    json_decref(j);
    return json_string(text);
}

int verb_why(struct cli *cli) {
    struct answer answer;
    json_t *args = json_pack("{s:s, s:s, s:o}", "db", cli->words[0], "table", cli->words[1], "key", key_of(cli->words[2]));
    if (args && cli->words_count > 3)
        json_object_set_new(args, "column", json_string(cli->words[3]));
    if (!args) {
        complain("a name or key is not UTF-8");
        return EXIT_USAGE;
    }
    cli_ask(cli, &(struct request){.verb = "why", .args = args, .silence_s = LIST_SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_why);
}
