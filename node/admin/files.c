/* Starling node: `files`: what the files thread says of the instance folder. Only questions are passed on here; the thread answers. */
#include <stdio.h>
#include <string.h>

#include "node/admin/conn.h"

#define ANSWER_MS 30000

static void answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    const char *error = json_string_value(json_object_get(answer, "error"));
    (void)number;
    bool failed = answer == NULL || (error != NULL && json_object_get(answer, "count") == NULL);
    if (failed)
        conn_done(c, 1, NULL, error != NULL ? error : "files are not replicated here now: see `starling status`");
    else
        conn_done(c, 0, json_incref(answer), NULL);
    json_decref(answer);
}

static void time_up(struct conn *c) { conn_done(c, 1, NULL, "no answer in time: the files are busy: try again"); }

void verb_files(struct conn *c, const json_t *args) {
    static const char *const ASKS[] = {"list", "status", "restore", "accept"};
    const char *ask = json_string_value(json_object_get(args, "ask"));
    bool known = false;
    for (size_t i = 0; i < sizeof(ASKS) / sizeof(ASKS[0]); i++)
        known = known || (ask != NULL && strcmp(ask, ASKS[i]) == 0);
    if (!known)
        conn_done(c, 2, NULL, "files takes one of list, status, verify, restore, accept");
    else if (node_ask_files(c->node, json_deep_copy(args), answered, c) == 0)
        conn_done(c, 1, NULL, "out of memory");
    else
        conn_timer(c, ANSWER_MS, time_up);
}
