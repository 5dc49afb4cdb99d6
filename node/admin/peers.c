/* Starling node: `peers`: who may connect, shown and decided; and `rotate`, which changes the cluster's secret. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"
#include "node/allow.h"
#include "node/clock.h"
#include "node/rotate.h"

#define ROTATE_MS 5000
#define ROTATE_POLL_MS 20
#define WHY_MAX 400

/* ---- peers */

static void list(struct conn *c) {
    json_t *result = json_pack("{s:o, s:b}", "peers", peers_json(c->node), "secret", c->node->keys.secrets[0].closed);
    allow_json(c->node->allow, result);
    conn_done(c, 0, result, NULL);
}

static int block(struct conn *c, const char *who, char *why) {
    struct member found;
    if (!member_named(c, who, &found))
        return 1;
    if (allow_block(c->node->allow, found.id, found.name, why, WHY_MAX) != 0)
        return -1;
    struct event e = {.type = EVENT_BLOCK, .peer = found.id};
    node_step(c->node, &e);
    return 0;
}

static int unblock(struct conn *c, const char *who, char *why) {
    uint8_t id[NODE_ID_BYTES];
    if (allow_unblock(c->node->allow, who, id, why, WHY_MAX) != 0)
        return -1;
    struct event e = {.type = EVENT_UNBLOCK, .peer = id};
    node_step(c->node, &e);
    return 0;
}

/* 0 done, -1 failed and why says why, 1 the answer is given. */
static int decide(struct conn *c, const char *what, const char *whom, char *why) {
    if (strcmp(what, "block") == 0)
        return block(c, whom, why);
    if (strcmp(what, "unblock") == 0)
        return unblock(c, whom, why);
    if (strcmp(what, "allow") == 0)
        return allow_add(c->node->allow, whom, why, WHY_MAX) == 0 ? 0 : -1;
    if (allow_deny(c->node->allow, whom, why, WHY_MAX) != 0)
        return -1;
    transport_recheck(c->node->transport);
    return 0;
}

void verb_peers(struct conn *c, const json_t *args) {
    static const char *const WHAT[] = {"list", "allow", "deny", "block", "unblock"};
    const char *what = json_string_value(json_object_get(args, "do"));
    const json_t *whom = json_object_get(args, "what");
    char why[WHY_MAX] = "";
    size_t known = 0;
    if (what == NULL || strcmp(what, "list") == 0) {
        list(c);
        return;
    }
    while (known < sizeof(WHAT) / sizeof(WHAT[0]) && strcmp(WHAT[known], what) != 0)
        known++;
    if (known == sizeof(WHAT) / sizeof(WHAT[0]) || json_array_size(whom) == 0) {
        conn_done(c, 2, NULL, "say: peers list, peers allow|deny ADDRESS|NETWORK|NAME, or peers block|unblock NODE");
        return;
    }
    for (size_t i = 0; i < json_array_size(whom); i++) {
        const char *one = json_string_value(json_array_get(whom, i));
        int r = one == NULL ? -1 : decide(c, what, one, why);
        if (r != 0) {
            if (r < 0)
                conn_done(c, 1, NULL, why);
            return;
        }
        log_line(c->node->log, LOG_INFO, NULL, "peers: %s %s", what, one);
    }
    list(c);
}

/* ---- rotate: begun -> all members have it, or ROTATE_MS are over */

struct rotating {
    uint64_t deadline_ms;
};

static void rotate_poll(struct conn *c) {
    const struct rotating *r = c->task;
    json_t *how = rotation_json(c->node->rotation);
    if (!json_is_true(json_object_get(how, "changing")) || clock_mono_ms() >= r->deadline_ms) {
        conn_done(c, 0, how, NULL);
        return;
    }
    json_decref(how);
    conn_timer(c, ROTATE_POLL_MS, rotate_poll);
}

static void rotate_release(struct conn *c) { free(c->task); }

void verb_rotate(struct conn *c, const json_t *args) {
    const char *text = json_string_value(json_object_get(args, "secret"));
    struct secure_secret to;
    char why[WHY_MAX];
    bool finish = json_is_true(json_object_get(args, "finish"));
    if (!finish && (text == NULL || !secret_parse(text, &to))) {
        conn_done(c, 2, NULL, "that is no cluster secret: make one with `starling keygen > FILE`, then `starling rotate FILE`");
        return;
    }
    struct rotating *r = calloc(1, sizeof(*r));
    if (r == NULL) {
        conn_done(c, 1, NULL, "out of memory");
        return;
    }
    r->deadline_ms = clock_mono_ms() + ROTATE_MS;
    c->task = r;
    c->release = rotate_release;
    int failed = finish ? rotation_finish(c->node->rotation, why, sizeof(why)) : rotation_begin(c->node->rotation, &to, why, sizeof(why));
    if (failed != 0)
        conn_done(c, 1, NULL, why);
    else
        rotate_poll(c);
}
