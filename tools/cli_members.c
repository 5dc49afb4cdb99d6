/* Starling: `members`, and the verbs that change them: `join`, `leave`, `forget`, `pause`, `resume`. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SILENCE_S 15
#define LEAVE_SILENCE_S 120 /* handing over what only this node has may take its time */
#define ID_SHOWN 12

static enum tone state_tone(const char *state) {
    if (!strcmp(state, "alive"))
        return TONE_GOOD;
    return !strcmp(state, "left") ? TONE_FAINT : TONE_BAD;
}

struct grid *peers_grid(const json_t *peers) {
    struct grid *g = grid_new("MEMBER|ID|ADDRESS|STATE|IN SYNC|>WE LACK|>THEY LACK|>ROUND TRIP|>HEARD|>SENT|>RECEIVED");
    char text[TEXT_MAX];
    size_t i;
    json_t *peer;
    json_array_foreach(peers, i, peer) {
        const char *state = field_text(peer, "state", "?");
        bool self = field_true(peer, "self"), in_sync = field_true(peer, "in_sync");
        json_int_t rtt_us = field_count(peer, "rtt_us"), seen_ms = field_count(peer, "last_seen_ms");
        bool alive = !strcmp(state, "alive");
        grid_cell(g, TONE_HEAD, "%s", field_text(peer, "name", "?"));
        grid_cell(g, TONE_FAINT, "%.*s", ID_SHOWN, field_text(peer, "id", ""));
        grid_cell(g, TONE_PLAIN, "%s", field_text(peer, "addr", ""));
        grid_cell(g, state_tone(state), "%s", state);
        if (self)
            grid_cell(g, TONE_FAINT, "this node");
        else
            grid_cell(g, in_sync ? TONE_GOOD : alive ? TONE_WARN : TONE_BAD, in_sync ? "yes" : alive ? "not yet" : "no");
        grid_count(g, TONE_WARN, field_count(peer, "we_lack"));
        grid_count(g, TONE_WARN, field_count(peer, "they_lack"));
        if (rtt_us > 0 && alive && !self)
            grid_cell(g, TONE_PLAIN, "%.2f ms", (double)rtt_us / 1000);
        else
            grid_cell(g, TONE_FAINT, "-");
        if (self)
            grid_cell(g, TONE_FAINT, "-");
        else if (json_is_integer(json_object_get(peer, "last_seen_ms")))
            grid_cell(g, TONE_PLAIN, "%s ago", text_duration_ms(text, seen_ms));
        else
            grid_cell(g, TONE_FAINT, "never");
        grid_cell(g, TONE_PLAIN, "%s", text_bytes(text, field_count(peer, "sent_bytes")));
        grid_cell(g, TONE_PLAIN, "%s", text_bytes(text, field_count(peer, "received_bytes")));
    }
    return g;
}

static void print_members(const struct cli *cli, const json_t *result) {
    const json_t *members = json_object_get(result, "members");
    size_t i;
    json_t *each;
    grid_print(peers_grid(members), cli);
    json_array_foreach(members, i, each) {
        const char *refused = field_text(each, "refused", NULL);
        char *what = refused ? text_format("%s: no exchange: %s", field_text(each, "name", "?"), refused) : NULL;
        if (what)
            say_problem(cli, TONE_WARN, what, NULL);
        free(what);
    }
}

int verb_members(struct cli *cli) {
    struct answer answer;
    cli_ask(cli, &(struct request){.verb = "members", .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_members);
}

/* Verbs that are done when the node says so. */
static int tell(struct cli *cli, const char *verb, json_t *args, int silence_s, const char *done) {
    struct answer answer;
    cli_ask(cli, &(struct request){.verb = verb, .args = args, .silence_s = silence_s}, &answer);
    if (!answer.exit && !cli->json)
        say(cli, TONE_PLAIN, "%s", done);
    if (!answer.exit && !cli->json)
        printf("\n");
    if (!answer.exit && !answer.result)
        answer.result = json_object();
    return cli_answer(cli, &answer, NULL);
}

int verb_join(struct cli *cli) {
    json_t *addresses = json_array();
    for (int i = 0; i < cli->words_count; i++) {
        json_t *address = json_string(cli->words[i]);
        if (!address) {
            complain("an address must be text: HOST or HOST:PORT");
            json_decref(addresses);
            return EXIT_USAGE;
        }
        json_array_append_new(addresses, address);
    }
    return tell(cli, "join", json_pack("{s:o}", "addresses", addresses), SILENCE_S,
                "joining: the node tries until it answers; `starling members` shows who was met, `starling wait` when all is equal");
}

int verb_leave(struct cli *cli) {
    return tell(cli, "leave", NULL, LEAVE_SILENCE_S, "left the cluster, and the node has ended; what is here stays here");
}

int verb_forget(struct cli *cli) {
    return tell(cli, "forget", json_pack("{s:s}", "node", cli->words[0]), SILENCE_S,
                "forgotten: no server waits for it any more; if it comes back, it first hands over what only it has");
}

int verb_pause(struct cli *cli) {
    return tell(cli, "pause", NULL, SILENCE_S, "paused: nothing is exchanged, capture goes on; `starling resume` takes it up again");
}

int verb_resume(struct cli *cli) { return tell(cli, "resume", NULL, SILENCE_S, "exchanging again"); }
