/* Starling: `status`: node, cluster, databases, peers, and then in words what is wrong and how to mend it. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SILENCE_S 15
#define DIGEST_SHOWN 12

static void print_node(const struct cli *cli, const json_t *result) {
    const json_t *node = json_object_get(result, "node"), *cluster = json_object_get(result, "cluster");
    const char *state = field_text(node, "state", "?"), *http = field_text(node, "http", "off");
    char up[TEXT_MAX], rss[TEXT_MAX];
    say(cli, TONE_HEAD, "%s", field_text(node, "name", "?"));
    printf("  ");
    say(cli, !strcmp(state, "running") ? TONE_GOOD : TONE_WARN, "%s", state);
    say(cli, TONE_PLAIN, "  version %s  up %s  %s  listens on %s%s%s", field_text(node, "version", "?"),
        text_duration_ms(up, field_count(node, "uptime_s") * 1000), text_bytes(rss, field_count(node, "rss_bytes")),
        field_text(node, "listen", "?"), strcmp(http, "off") ? ", http " : "", strcmp(http, "off") ? http : "");
    say(cli, TONE_FAINT, "  %s", field_text(node, "id", ""));
    json_int_t members = field_count(cluster, "members"), alive = field_count(cluster, "alive");
    printf("\ncluster ");
    say(cli, TONE_HEAD, "%s", field_text(cluster, "name", "?"));
    printf("  ");
    say(cli, alive < members ? TONE_BAD : TONE_GOOD, "%" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " members alive", alive, members);
    printf("\n\n");
}

static void print_databases(const struct cli *cli, const json_t *databases) {
    size_t i;
    json_t *db;
    if (!json_array_size(databases)) {
        printf("no database yet: the first one that appears in the instance folder, here or on a peer, is taken up by itself\n\n");
        return;
    }
    struct grid *g = grid_new("DATABASE|STATE|>TABLES|>ROWS|>PENDING|>WAITING|>PARKED|>CONFLICTS|DIGEST");
    json_array_foreach(databases, i, db) {
        const char *state = field_text(db, "state", "?");
        bool capturing = json_is_object(json_object_get(db, "capturing"));
        grid_cell(g, TONE_HEAD, "%s", field_text(db, "name", "?"));
        if (field_true(db, "busy"))
            grid_cell(g, TONE_WARN, "%s, busy", state);
        else if (!strcmp(state, "ok") && capturing)
            grid_cell(g, TONE_WARN, "capturing");
        else
            grid_cell(g, !strcmp(state, "ok") ? TONE_GOOD : !strcmp(state, "error") ? TONE_BAD : TONE_WARN, "%s", state);
        grid_count(g, TONE_PLAIN, field_count(db, "tables"));
        grid_count(g, TONE_PLAIN, field_count(db, "rows"));
        grid_count(g, TONE_WARN, field_count(db, "pending"));
        grid_count(g, TONE_WARN, field_count(db, "waiting"));
        grid_count(g, TONE_BAD, field_count(db, "parked"));
        grid_count(g, TONE_WARN, field_count(db, "conflicts"));
        grid_cell(g, TONE_FAINT, "%.*s", DIGEST_SHOWN, field_text(db, "digest", ""));
    }
    grid_print(g, cli);
    printf("\n");
}

static void print_peers(const struct cli *cli, const json_t *peers) {
    if (json_array_size(peers)) {
        grid_print(peers_grid(peers), cli);
        printf("\n");
    }
}

/* What a policy cannot do here: the default holds instead, and nothing waits for it. */
static void policy_problems(const struct cli *cli, const char *db, const json_t *policies) {
    size_t i;
    json_t *policy;
    json_array_foreach(policies, i, policy) {
        const char *problem = field_text(policy, "problem", NULL), *table = field_text(policy, "table", "");
        if (!problem)
            continue;
        char *what = text_format("%s: %s%s%s%s", db, *table ? "table " : "", table, *table ? ": " : "", problem);
        say_problem(cli, TONE_WARN, what, field_text(policy, "mend", NULL));
        free(what);
    }
}

static int database_problems(const struct cli *cli, const json_t *db) {
    const char *name = field_text(db, "name", "?"), *state = field_text(db, "state", "?"), *error = field_text(db, "error", NULL);
    const json_t *capturing = json_object_get(db, "capturing");
    json_int_t parked = field_count(db, "parked"), conflicts = field_count(db, "conflicts");
    char a[TEXT_MAX], b[TEXT_MAX];
    char *what, *mend;
    int problems = 0;
    if (error || !strcmp(state, "error")) {
        bool named = error && !strncmp(error, name, strlen(name)); /* it speaks of itself already */
        what = text_format("%s%s%s", named ? "" : name, named ? "" : ": ", error ? error : "the node cannot serve it now");
        say_problem(cli, TONE_BAD, what, error ? "" : "`starling log --db` and the node's log say why");
        free(what);
        problems++;
    }
    if (field_true(db, "busy")) {
        what = text_format("%s: no answer in time, figures are from before", name);
        say_problem(cli, TONE_WARN, what, "usual while much is read or shown; look again");
        free(what);
    }
    if (parked) {
        what = text_format("%s: %s %s cannot be shown here yet", name, text_count(a, parked), parked == 1 ? "change" : "changes");
        mend = text_format("kept, nothing is lost; `starling tables %s` says why", name);
        say_problem(cli, TONE_BAD, what, mend);
        free(what);
        free(mend);
        problems++;
    }
    if (conflicts) {
        what = text_format("%s: %s open %s", name, text_count(a, conflicts), conflicts == 1 ? "conflict" : "conflicts");
        say_problem(cli, TONE_WARN, what, "`starling conflicts` lists what lost, and brings it back");
        free(what);
    }
    policy_problems(cli, name, json_object_get(db, "policies"));
    if (json_is_object(capturing)) {
        json_int_t done = field_count(capturing, "done"), total = field_count(capturing, "total");
        const char *table = field_text(capturing, "table", NULL);
        what = text_format("%s: reading what is there: %s rows%s%s so far%s%s", name, text_count(a, done), total ? " of " : "",
                           total ? text_count(b, total) : "", table ? ", now table " : "", table ? table : "");
        say_problem(cli, TONE_WARN, what, "`starling wait` shows how far it is");
        free(what);
    }
    return problems;
}

static int peer_problems(const struct cli *cli, const json_t *peer) {
    const char *name = field_text(peer, "name", "?"), *state = field_text(peer, "state", "?");
    const char *refused = field_text(peer, "refused", NULL);
    char a[TEXT_MAX], b[TEXT_MAX];
    char *what = NULL, *mend = NULL;
    int bad = 1;
    if (refused) {
        what = text_format("%s: no exchange: %s", name, refused);
    } else if (!strcmp(state, "dead") || !strcmp(state, "suspect")) {
        if (json_is_integer(json_object_get(peer, "last_seen_ms")))
            what = text_format("%s is %s, last heard of %s ago", name, state, text_duration_ms(a, field_count(peer, "last_seen_ms")));
        else
            what = text_format("%s is %s, not heard of since this node started", name, state);
        mend = text_format("start starlingd there or mend the way to %s; it then catches up by itself", field_text(peer, "addr", "it"));
    } else if (!strcmp(state, "alive") && !field_true(peer, "in_sync") && field_text(peer, "problem", NULL)) {
        what = text_format("%s is not in sync: %s", name, field_text(peer, "problem", ""));
        bad = 0; /* the database's own line is the problem */
    } else if (!strcmp(state, "alive") && !field_true(peer, "in_sync")) {
        json_int_t we = field_count(peer, "we_lack"), they = field_count(peer, "they_lack");
        if (we || they)
            what = text_format("%s is not in sync: we lack %s versions, they lack %s", name, text_count(a, we), text_count(b, they));
        else
            what = text_format("%s is not in sync: both have the same versions, but not all is shown on both sides", name);
        mend = text_dup("usual for a moment after a write; `starling wait` shows what is missing");
        bad = 0;
    }
    if (what)
        say_problem(cli, bad ? TONE_BAD : TONE_WARN, what, mend);
    else
        bad = 0;
    free(mend);
    free(what);
    return bad;
}

/* Returns how many problems it is: who does not answer yet may be about to start. */
static int seed_problem(const struct cli *cli, const json_t *seed) {
    const char *address = field_text(seed, "addr", "?"), *error = field_text(seed, "error", "no answer");
    bool refused = field_true(seed, "refused");
    char *what = text_format("%s cannot be %s: %s", address, refused ? "joined" : "reached", error);
    say_problem(cli, refused ? TONE_BAD : TONE_WARN, what,
                refused ? NULL : "the node goes on trying; is starlingd running there, its port open, and the address right?");
    free(what);
    return refused;
}

static void print_verdict(const struct cli *cli, const json_t *peers, bool joining, int problems) {
    size_t i, alive = 0, in_sync = 0;
    json_t *peer;
    json_array_foreach(peers, i, peer) {
        bool lives = !strcmp(field_text(peer, "state", ""), "alive");
        alive += lives;
        in_sync += lives && field_true(peer, "in_sync");
    }
    if (problems)
        say(cli, TONE_BAD, "%d %s", problems, problems == 1 ? "problem" : "problems");
    else if (!json_array_size(peers) && joining)
        say(cli, TONE_WARN, "alone: nobody was reached yet");
    else if (!json_array_size(peers))
        say(cli, TONE_WARN, "alone: no peer is known; `starling join HOST[:PORT]` meets one");
    else if (alive == 1 && in_sync == 1)
        say(cli, TONE_GOOD, "in sync with the one alive peer, as it acknowledged");
    else if (alive && in_sync == alive)
        say(cli, TONE_GOOD, "in sync with all %zu alive peers, as they acknowledged", alive);
    else
        say(cli, TONE_WARN, "in sync with %zu of %zu alive peers", in_sync, alive);
    printf("\n");
}

/* Returns how many problems there are. */
static int print_files(const struct cli *cli, const json_t *files) {
    char a[TEXT_MAX], b[TEXT_MAX];
    const char *error = field_text(files, "error", NULL);
    if (error)
        say_problem(cli, TONE_BAD, error, "`starling files status`, `starling doctor`");
    if (field_count(files, "count"))
        printf("files: %s, %s, %" JSON_INTEGER_FORMAT " pending\n\n", text_count(a, field_count(files, "count")),
               text_bytes(b, field_count(files, "bytes")), field_count(files, "pending"));
    return error != NULL;
}

static void print_status(const struct cli *cli, const json_t *result) {
    const json_t *databases = json_object_get(result, "databases"), *peers = json_object_get(result, "peers");
    const json_t *unreachable = json_object_get(result, "unreachable");
    const char *twin = field_text(json_object_get(result, "node"), "error", NULL);
    int problems = 0;
    size_t i;
    json_t *each;
    print_node(cli, result);
    print_databases(cli, databases);
    problems += print_files(cli, json_object_get(result, "files"));
    print_peers(cli, peers);
    if (!strcmp(field_text(json_object_get(result, "node"), "state", ""), "paused"))
        say_problem(cli, TONE_WARN, "exchange is paused, capture goes on", "`starling resume` takes it up again");
    if (twin) {
        say_problem(cli, TONE_BAD, twin, "");
        problems++;
    }
    json_array_foreach(databases, i, each) { problems += database_problems(cli, each); }
    json_array_foreach(peers, i, each) { problems += peer_problems(cli, each); }
    json_array_foreach(unreachable, i, each) { problems += seed_problem(cli, each); }
    print_verdict(cli, peers, json_array_size(unreachable) > 0, problems);
}

int verb_status(struct cli *cli) {
    struct answer answer;
    cli_ask(cli, &(struct request){.verb = "status", .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_status);
}
