/* Starling: `doctor --join HOST`: what joining that cluster would do to the rows here. `starlingd --preview` works it out, since a node need not run
 * here yet; where one runs, it tells how it was started, so that secret and cluster are the same. */
#include "tools/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 32
#define SILENCE_S 10
#define OUTPUT_MAX (64u << 20)

struct args {
    char *list[ARGS_MAX];
    int count;
    json_t *bases; /* of the node that runs here: databases that others have, too */
};

static void add(struct args *a, const char *text) {
    if (a->count + 1 < ARGS_MAX)
        a->list[a->count++] = text_dup(text);
}

static void args_release(struct args *a) {
    for (int i = 0; i < a->count; i++)
        free(a->list[i]);
    json_decref(a->bases);
}

/* The flags of the node that runs here, or of one that would. */
static int add_node(struct cli *cli, struct args *a) {
    struct place place;
    size_t i;
    json_t *flag;
    int code = place_find(cli, &place);
    int fd = code ? -1 : cli_connect(place.socket);
    if (fd >= 0) {
        struct answer answer;
        close(fd);
        cli_ask(cli, &(struct request){.verb = "doctor", .args = json_pack("{s:b}", "flags", 1), .silence_s = SILENCE_S}, &answer);
        json_array_foreach(json_object_get(answer.result, "flags"), i, flag) {
            add(a, json_is_string(flag) ? json_string_value(flag) : "");
        }
        a->bases = json_incref(json_object_get(answer.result, "bases"));
        code = answer.exit;
        if (code && !answer.said)
            complain("%s", answer.error ? answer.error : "the node gave no answer");
        answer_release(&answer);
    } else if (!code && place.instance) {
        add(a, "--instance");
        add(a, place.instance);
    } else if (!code) {
        complain("%s: no node answers there: name the application's instance folder with --instance DIR", place.socket);
        code = EXIT_USAGE;
    }
    place_release(&place);
    return code;
}

/* What it prints, parsed; NULL: nothing that can be read. */
static json_t *run(struct args *a, int *status) {
    int ends[2];
    *status = -1;
    fflush(stdout);
    if (pipe(ends))
        return NULL;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        become_daemon(a->list);
        complain("starlingd is neither beside this tool nor in PATH: %s", strerror(errno));
        _exit(EXIT_USAGE);
    }
    close(ends[1]);
    char *text = malloc(OUTPUT_MAX);
    size_t len = 0;
    ssize_t n = 0;
    while (pid > 0 && text && len < OUTPUT_MAX && ((n = read(ends[0], text + len, OUTPUT_MAX - len)) > 0 || (n < 0 && errno == EINTR)))
        len += n > 0 ? (size_t)n : 0;
    close(ends[0]);
    while (pid > 0 && waitpid(pid, status, 0) < 0 && errno == EINTR)
        ;
    json_t *result = text ? json_loadb(text, len, 0, NULL) : NULL;
    free(text);
    return result;
}

/* Two clusters do not join. */
static void refuse(const struct args *a, const json_t *result) {
    size_t i;
    json_t *each;
    json_array_foreach(json_object_get(result, "databases"), i, each) {
        const char *here = field_text(a->bases, field_text(each, "name", ""), NULL), *there = field_text(each, "base", NULL);
        if (here && there && strcmp(here, there) != 0)
            json_object_set_new(
                each, "refused",
                json_string("this server and that one are of two clusters, whose rows are not mixed: to join, stop starlingd on each "
                            "server of this cluster, move .starling out of the instance folder, and start it with --join; then"));
    }
}

/* ---- showing it */

static void print_notes(const struct cli *cli, const json_t *database) {
    size_t i;
    json_t *table;
    json_array_foreach(json_object_get(database, "tables"), i, table) {
        const char *note = field_text(table, "note", NULL);
        if (note)
            say_problem(cli, TONE_WARN, field_text(table, "name", "?"), note);
    }
}

static void print_database(const struct cli *cli, const json_t *database, json_int_t *conflicts, json_int_t *renumbered) {
    static const char *const FIELDS[] = {"here", "there", "equal", "matched", "renumbered", "conflicts", "only_here", "only_there"};
    const char *name = field_text(database, "name", "?"), *where = field_text(database, "where", "both");
    const char *error = field_text(database, "error", NULL);
    size_t i;
    json_t *table;
    printf("\n");
    say(cli, TONE_HEAD, "%s", name);
    printf("%s\n", !strcmp(where, "here")    ? ": the cluster does not have it: all of it goes there"
                   : !strcmp(where, "there") ? ": not here yet: all of it comes here"
                                             : "");
    if (error) {
        say_problem(cli, TONE_BAD, name, error);
        return;
    }
    if (strcmp(where, "both") != 0)
        return;
    if (field_text(database, "refused", NULL))
        say_problem(cli, TONE_BAD, name, field_text(database, "refused", NULL));
    struct grid *g = grid_new("TABLE|>HERE|>THERE|>EQUAL|>MATCHED|>RENUMBERED|>CONFLICTS|>NEW THERE|>NEW HERE");
    json_array_foreach(json_object_get(database, "tables"), i, table) {
        if (!json_object_get(table, "here"))
            continue;
        grid_cell(g, TONE_PLAIN, "%s", field_text(table, "name", "?"));
        for (size_t f = 0; f < sizeof FIELDS / sizeof *FIELDS; f++)
            grid_count(g, !strcmp(FIELDS[f], "conflicts") || !strcmp(FIELDS[f], "renumbered") ? TONE_WARN : TONE_PLAIN,
                       field_count(table, FIELDS[f]));
        *conflicts += field_count(table, "conflicts");
        *renumbered += field_count(table, "renumbered");
    }
    grid_print(g, cli);
    print_notes(cli, database);
}

static void print_preview(const struct cli *cli, const json_t *result) {
    json_int_t conflicts = 0, renumbered = 0, members = field_count(result, "members");
    bool match = !strcmp(field_text(result, "adopt", ""), "match");
    size_t i;
    json_t *each;
    char text[TEXT_MAX];
    printf("%s at %s: cluster \"%s\", %d member%s; nothing was changed, there or here\n", field_text(result, "name", "?"),
           field_text(result, "host", "?"), field_text(result, "cluster", "?"), (int)members, members == 1 ? "" : "s");
    if (field_true(result, "member"))
        printf("this server is a member of it already: `starling status` shows how they stand, `starling verify` compares the rows\n");
    json_array_foreach(json_object_get(result, "databases"), i, each) { print_database(cli, each, &conflicts, &renumbered); }
    if (field_true(result, "member"))
        return;
    printf("\n");
    if (conflicts)
        printf(
            "%s rows in conflict: the cluster's values are shown everywhere, those from here are kept on the list (`starling conflicts`)\n",
            text_count(text, conflicts));
    if (renumbered)
        printf("%s rows keep all they hold under another number, and references of the schema follow%s\n", text_count(text, renumbered),
               match ? "" : "; if this is a copy of the cluster's data, join with --adopt match");
    if (!conflicts && !renumbered)
        printf("no row here loses a value or its number\n");
}

int doctor_join(struct cli *cli, const char *host) {
    static const char *const MORE[] = {"--adopt", "--secret-file", "--cluster", "--config"};
    struct args args = {.count = 0};
    struct answer answer = {.exit = EXIT_YES};
    int status;
    add(&args, "starlingd");
    add(&args, "--preview");
    int code = add_node(cli, &args);
    for (size_t i = 0; i < sizeof MORE / sizeof *MORE; i++)
        if (cli_option(cli, MORE[i])) {
            add(&args, MORE[i]);
            add(&args, cli_option(cli, MORE[i]));
        }
    add(&args, "--join");
    add(&args, host);
    args.list[args.count] = NULL;
    if (!code) {
        answer.result = run(&args, &status);
        const char *error = field_text(answer.result, "error", NULL);
        if (!answer.result) { /* it has said why */
            code = status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : EXIT_NO;
        } else {
            if (error) {
                answer.exit = EXIT_NO;
                answer.error = text_dup(error);
                json_decref(answer.result);
                answer.result = NULL;
            }
            refuse(&args, answer.result);
            code = cli_answer(cli, &answer, print_preview);
        }
    }
    args_release(&args);
    return code;
}
