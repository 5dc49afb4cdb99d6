/* Starling: `wait`: until everything that was committed here before the call is on all alive members. On a terminal it shows how far the
 * first reading of a database, or the catching up of a member, is. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_S 60
#define TIMEOUT_S_MAX 31536000
#define MEMBERS_MAX 100000
#define GRACE_S 15 /* beyond the node's own timeout */
#define STATUS_SILENCE_S 5

struct wait_view {
    json_int_t most_lacking; /* seen so far: what the bar is measured against */
};

/* The database that is being read for the first time; NULL none. */
static const json_t *capturing_of(const json_t *status, const char **db_name) {
    size_t i;
    json_t *db;
    json_array_foreach(json_object_get(status, "databases"), i, db) {
        const json_t *capturing = json_object_get(db, "capturing");
        *db_name = field_text(db, "name", "?");
        if (json_is_object(capturing))
            return capturing;
    }
    return NULL;
}

/* Versions that are missing here or at alive peers. */
static json_int_t lacking_of(const json_t *status) {
    size_t i;
    json_t *peer;
    json_int_t lacking = 0;
    json_array_foreach(json_object_get(status, "peers"), i, peer) {
        if (!strcmp(field_text(peer, "state", ""), "alive"))
            lacking += field_count(peer, "we_lack") + field_count(peer, "they_lack");
    }
    return lacking;
}

/* The node says what it waits for; its status says how far that is. */
static void show_progress(struct cli *cli, const json_t *progress, void *ctx) {
    struct wait_view *view = ctx;
    struct answer status;
    const char *db_name = NULL;
    if (!cli->terminal || cli->json)
        return;
    cli_ask(cli, &(struct request){.verb = "status", .silence_s = STATUS_SILENCE_S, .quiet = true}, &status);
    const json_t *capturing = capturing_of(status.result, &db_name);
    json_int_t lacking = lacking_of(status.result), done = field_count(progress, "done"), total = field_count(progress, "total");
    view->most_lacking = lacking > view->most_lacking ? lacking : view->most_lacking;
    char *text;
    if (capturing) {
        done = field_count(capturing, "done");
        total = field_count(capturing, "total");
        text = text_format("%s: reading %s", db_name, field_text(capturing, "table", "its tables"));
    } else if (lacking) {
        done = view->most_lacking - lacking;
        total = view->most_lacking;
        text = text_dup("versions exchanged");
    } else {
        text = text_dup(field_text(progress, "text", ""));
    }
    json_t *shown = json_pack("{s:s, s:I, s:I}", "text", text, "done", done, "total", total);
    progress_show(cli, shown);
    json_decref(shown);
    free(text);
    answer_release(&status);
}

static void print_wait(const struct cli *cli, const json_t *result) {
    if (!field_true(result, "converged"))
        return; /* what is missing is the error */
    say(cli, TONE_GOOD, "equal");
    json_int_t alive = field_count(result, "alive");
    printf(" on %" JSON_INTEGER_FORMAT " alive %s\n", alive, alive == 1 ? "member" : "members");
}

int verb_wait(struct cli *cli) {
    const char *members = cli_option(cli, "--members"), *timeout = cli_option(cli, "--timeout");
    long timeout_s = timeout ? cli_number("--timeout", timeout, 0, TIMEOUT_S_MAX) : TIMEOUT_S;
    long n = members ? cli_number("--members", members, 0, MEMBERS_MAX) : 0;
    struct wait_view view = {0};
    struct answer answer;
    json_t *args = json_pack("{s:b, s:I, s:I}", "converged", 1, "members", (json_int_t)n, "timeout_s", (json_int_t)timeout_s);
    cli_ask(
        cli,
        &(struct request){.verb = "wait", .args = args, .silence_s = (int)timeout_s + GRACE_S, .on_progress = show_progress, .ctx = &view},
        &answer);
    return cli_answer(cli, &answer, print_wait);
}
