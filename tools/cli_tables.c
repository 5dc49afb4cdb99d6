/* Starling: `tables` and `verify`: what is in the databases, here and on all alive members. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SILENCE_S 600 /* counting and digesting reads every row */
#define STATUS_SILENCE_S 15
#define DIGEST_SHOWN 16

/* Splits DB[/TABLE]: a database's name may itself hold slashes, so the node's databases decide. 0 or an exit code. */
static int name_split(struct cli *cli, const char *name, json_t *args) {
    struct answer status;
    size_t i, longest = 0;
    json_t *db;
    cli_ask(cli, &(struct request){.verb = "status", .silence_s = STATUS_SILENCE_S}, &status);
    int code = status.exit;
    if (code) {
        code = cli_answer(cli, &status, NULL);
        return code;
    }
    char *known = text_dup("");
    json_array_foreach(json_object_get(status.result, "databases"), i, db) {
        const char *db_name = field_text(db, "name", "");
        size_t len = strlen(db_name);
        if (len > longest && !strncmp(name, db_name, len) && (!name[len] || name[len] == '/'))
            longest = len;
        char *more = text_format("%s%s%s", known, i ? ", " : "", db_name);
        free(known);
        known = more;
    }
    if (!longest) {
        complain("no database %s here; there is: %s", name, *known ? known : "none yet");
        code = EXIT_USAGE;
    } else {
        json_object_set_new(args, "db", json_stringn(name, longest));
        if (name[longest] && name[longest + 1])
            json_object_set_new(args, "table", json_string(name + longest + 1));
    }
    free(known);
    answer_release(&status);
    return code;
}

/* ---- tables */
static void print_lines(const struct cli *cli, const char *db, const json_t *table, const char *field, enum tone tone) {
    size_t i;
    json_t *problem;
    json_array_foreach(json_object_get(table, field), i, problem) {
        const char *text = json_is_string(problem) ? json_string_value(problem) : field_text(problem, "what", "?");
        char *what = text_format("%s/%s: %s", db, field_text(table, "name", "?"), text);
        say_problem(cli, tone, what, json_is_object(problem) ? field_text(problem, "mend", NULL) : NULL);
        free(what);
    }
}

static void table_row(struct grid *g, const char *db, const json_t *table) {
    bool replicated = field_true(table, "replicated");
    json_int_t changed_ms = field_count(table, "last_change_ms");
    char text[TEXT_MAX];
    grid_cell(g, TONE_FAINT, "%s", db);
    grid_cell(g, TONE_HEAD, "%s", field_text(table, "name", "?"));
    grid_cell(g, replicated ? TONE_GOOD : TONE_BAD, replicated ? "yes" : "no");
    grid_count(g, TONE_PLAIN, field_count(table, "rows"));
    grid_cell(g, TONE_PLAIN, "%s", field_text(table, "identity", "?"));
    grid_count(g, TONE_WARN, field_count(table, "pending"));
    grid_count(g, TONE_BAD, field_count(table, "parked"));
    grid_cell(g, TONE_PLAIN, "%s", changed_ms > 0 ? text_clock(text, changed_ms) : "-");
}

static void print_tables(const struct cli *cli, const json_t *result) {
    const json_t *databases = json_object_get(result, "databases");
    struct grid *g = grid_new("DATABASE|TABLE|REPLICATED|>ROWS|IDENTITY|>PENDING|>PARKED|LAST CHANGE");
    size_t i, j;
    json_t *db, *table;
    json_array_foreach(databases, i, db) {
        json_array_foreach(json_object_get(db, "tables"), j, table) { table_row(g, field_text(db, "name", "?"), table); }
    }
    grid_print(g, cli);
    json_array_foreach(databases, i, db) {
        const char *error = field_text(db, "error", NULL), *name = field_text(db, "name", "?");
        char *what = text_format("%s: %s", name, error ? error : "");
        if (error)
            say_problem(cli, TONE_BAD, what, NULL);
        free(what);
        json_array_foreach(json_object_get(db, "tables"), j, table) {
            print_lines(cli, name, table, "problems", TONE_BAD);
            print_lines(cli, name, table, "policies", TONE_PLAIN);
        }
    }
}

static void print_decided(const struct cli *cli, const json_t *result) {
    say(cli, TONE_GOOD, "%" JSON_INTEGER_FORMAT " rows", field_count(result, "rows"));
    printf(": done as soon as the table is read again\n");
}

/* accept DB/TABLE: the rows that are gone were deleted. restore DB/TABLE: they were not. */
static int decide(struct cli *cli) {
    struct answer answer;
    json_t *args = json_object();
    int code = name_split(cli, cli->words[1], args);
    if (!code && !json_object_get(args, "table")) {
        complain("%s names no table: say DB/TABLE", cli->words[1]);
        code = EXIT_USAGE;
    }
    if (code) {
        json_decref(args);
        return code;
    }
    json_object_set_new(args, "action", json_string(cli->words[0]));
    cli_ask(cli, &(struct request){.verb = "tables", .args = args, .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_decided);
}

int verb_tables(struct cli *cli) {
    struct answer answer;
    if (cli->words_count == 2 && (!strcmp(cli->words[0], "accept") || !strcmp(cli->words[0], "restore")))
        return decide(cli);
    if (cli->words_count == 2) {
        complain("tables takes one DB, or accept DB/TABLE, or restore DB/TABLE");
        return EXIT_USAGE;
    }
    json_t *args = json_object();
    if (cli->words_count)
        json_object_set_new(args, "db", json_string(cli->words[0]));
    cli_ask(cli, &(struct request){.verb = "tables", .args = args, .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_tables);
}

/* ---- verify */
static char *difference_text(const json_t *difference) {
    const json_t *key = json_object_get(difference, "key");
    const char *table = field_text(difference, "table", NULL);
    char *key_text = key && !json_is_null(key) ? json_dumps(key, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    char *text = text_format("%s%s%s%s%s: %s", field_text(difference, "db", "?"), table ? "/" : "", table ? table : "",
                             key_text ? " row " : "", key_text ? key_text : "", field_text(difference, "what", "differs"));
    free(key_text);
    return text;
}

static void verify_row(struct grid *g, const char *db, const json_t *table, json_int_t members) {
    bool equal = field_true(table, "equal");
    grid_cell(g, TONE_FAINT, "%s", db);
    grid_cell(g, TONE_HEAD, "%s", field_text(table, "name", "?"));
    grid_count(g, TONE_PLAIN, field_count(table, "rows"));
    grid_count(g, TONE_PLAIN, members);
    grid_cell(g, equal ? TONE_GOOD : TONE_BAD, equal ? "equal" : "DIFFERS");
    grid_cell(g, TONE_FAINT, "%.*s", DIGEST_SHOWN, field_text(table, "digest", ""));
}

static void print_verify(const struct cli *cli, const json_t *result) {
    json_int_t members = (json_int_t)json_array_size(json_object_get(result, "members"));
    struct grid *g = grid_new("DATABASE|TABLE|>ROWS|>MEMBERS|EQUAL|DIGEST");
    size_t i, j, count = 0;
    json_t *db, *table, *each;
    json_array_foreach(json_object_get(result, "databases"), i, db) {
        json_array_foreach(json_object_get(db, "tables"), j, table) {
            verify_row(g, field_text(db, "name", "?"), table, members);
            count++;
        }
    }
    grid_print(g, cli);
    json_array_foreach(json_object_get(result, "differences"), i, each) {
        char *what = difference_text(each);
        say_problem(cli, TONE_BAD, what, NULL);
        free(what);
    }
    if (!field_true(result, "equal"))
        return; /* the error says so */
    say(cli, TONE_GOOD, "equal: %zu %s on %" JSON_INTEGER_FORMAT " %s", count, count == 1 ? "table" : "tables", members,
        members == 1 ? "member: no other is alive" : "members");
    printf("\n");
}

/* Takes args. */
static int verify(struct cli *cli, json_t *args) {
    struct answer answer;
    cli_ask(cli, &(struct request){.verb = "verify", .args = args, .silence_s = SILENCE_S}, &answer);
    const json_t *differences = json_object_get(answer.result, "differences");
    if (answer.exit == EXIT_NO && !answer.error && json_array_size(differences)) {
        char *first = difference_text(json_array_get(differences, 0));
        answer.error = text_format("not equal: %zu found, the first: %s", json_array_size(differences), first);
        free(first);
    }
    return cli_answer(cli, &answer, print_verify);
}

int verify_files(struct cli *cli) { return verify(cli, json_pack("{s:s}", "db", "files")); }

int verb_verify(struct cli *cli) {
    if (cli->words_count && !strcmp(cli->words[0], "files"))
        return verify_files(cli);
    json_t *args = json_object();
    int code = cli->words_count ? name_split(cli, cli->words[0], args) : EXIT_YES;
    if (!code)
        return verify(cli, args);
    json_decref(args);
    return code;
}
