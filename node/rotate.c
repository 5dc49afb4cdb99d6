/* The happy path for rotate is:
 *   rotation_begin -> durable here -> timer_cb asks each linked member -> answered: it has it -> all have it: secrets_finish.
 * Possible failure modes are:
 *   - a member does not answer, or is away: asked again when it is linked, the old secret is accepted until then;
 *   - two changes at once: the same one wins everywhere; who has the other one is told so in the answer;
 *   - the state folder is full: the change is refused here, and this node is asked again by the others. */
#include "node/rotate.h"

#include <stdlib.h>
#include <string.h>

#include "node/clock.h"
#include "node/node.h"
#include "proto/err.h"

#define ROUND_MS 100
#define AGAIN_MS 3000 /* a member that did not answer */

struct told {
    uint8_t id[NODE_ID_BYTES];
    bool has;
    uint64_t asked_ms, question; /* the last one; 0 none is open */
};

struct rotation {
    struct node *node;
    uv_timer_t timer;
    struct told *told;
    uint32_t count;
};

static struct told *told_of(struct rotation *r, const uint8_t id[NODE_ID_BYTES]) {
    for (uint32_t i = 0; i < r->count; i++)
        if (memcmp(r->told[i].id, id, NODE_ID_BYTES) == 0)
            return &r->told[i];
    struct told *more = realloc(r->told, (r->count + 1) * sizeof(*more));
    if (more == NULL)
        return NULL;
    r->told = more;
    more[r->count] = (struct told){0};
    memcpy(more[r->count].id, id, NODE_ID_BYTES);
    return &more[r->count++];
}

static void take_newer(struct rotation *r, const char *text) {
    struct secure_secret newer;
    char why[200];
    if (secret_parse(text, &newer))
        rotation_begin(r, &newer, why, sizeof(why));
}

static void answered(void *ctx, uint64_t number, json_t *answer) {
    struct rotation *r = ctx;
    for (uint32_t i = 0; number != 0 && i < r->count; i++)
        if (r->told[i].question == number) {
            r->told[i].question = 0;
            r->told[i].has = r->told[i].has || json_is_true(json_object_get(answer, "has"));
        }
    const char *newer = json_string_value(json_object_get(answer, "newer"));
    if (newer != NULL)
        take_newer(r, newer);
    json_decref(answer);
}

static void ask(struct rotation *r, struct told *t, bool finish) {
    char text[SECRET_TEXT_BYTES];
    json_t *payload =
        json_pack("{s:s, s:s, s:b}", "ask", "rotate", "secret", secret_text(&r->node->keys.secrets[0], text), "finish", finish);
    sodium_memzero(text, sizeof(text));
    t->asked_ms = clock_mono_ms();
    t->question = node_ask_peer(r->node, t->id, payload, answered, r);
}

/* Asks who is linked and has not said that it has the secret. True: every member has it. */
static bool spread(struct rotation *r) {
    struct peer_info peer;
    bool all = true;
    uint64_t now = clock_mono_ms();
    for (uint32_t i = 0; core_peer(r->node->core, i, &peer); i++) {
        if (peer.member->state == MEMBER_LEFT || peer.member->state == MEMBER_BLOCKED)
            continue;
        struct told *t = told_of(r, peer.member->id);
        if (t != NULL && t->has)
            continue;
        all = false;
        if (t != NULL && peer.linked && (t->asked_ms == 0 || now - t->asked_ms > AGAIN_MS))
            ask(r, t, false);
    }
    return all;
}

static void timer_cb(uv_timer_t *timer) {
    struct rotation *r = timer->data;
    struct node *n = r->node;
    if (!secrets_changing(&n->secrets)) {
        uv_timer_stop(timer);
    } else if (spread(r) && secrets_finish(&n->secrets) == 0) {
        uv_timer_stop(timer);
        log_line(n->log, LOG_INFO, NULL, "every member has the new cluster secret: the old one is not accepted any more");
    }
    node_settle(n);
}

struct rotation *rotation_open(struct node *n) {
    struct rotation *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    r->node = n;
    uv_timer_init(&n->loop, &r->timer);
    r->timer.data = r;
    if (secrets_changing(&n->secrets))
        uv_timer_start(&r->timer, timer_cb, ROUND_MS, ROUND_MS);
    return r;
}

static void closed_cb(uv_handle_t *handle) {
    struct rotation *r = handle->data;
    free(r->told);
    free(r);
}

void rotation_close(struct rotation *r) {
    node_ask_cancel(r->node, r);
    uv_close((uv_handle_t *)&r->timer, closed_cb);
}

int rotation_begin(struct rotation *r, const struct secure_secret *to, char *why, size_t why_len) {
    struct node *n = r->node;
    if (secret_equal(to, &n->keys.secrets[0])) {
        snprintf(why, why_len, "that is the cluster's secret already");
        return ERR_ORDER;
    }
    int error = secrets_change(&n->secrets, to);
    switch (error) {
    case 0: break;
    case ERR_ORDER:
        snprintf(why, why_len, "that secret was in use before and has been replaced: make another one with `starling keygen`");
        return error;
    case ERR_BUSY:
        snprintf(why, why_len, "the secret is being changed by somebody else: wait, or end that with `starling rotate --finish`");
        return error;
    default:
        snprintf(why, why_len, "the new secret could not be kept in %s: %s", config_text(&n->config, OPTION_STATE), err_text(error));
        return error;
    }
    r->count = 0; /* nobody has this one yet */
    log_line(n->log, LOG_INFO, NULL, "the cluster's secret is being changed: old and new are accepted");
    uv_timer_start(&r->timer, timer_cb, 0, ROUND_MS);
    return 0;
}

int rotation_finish(struct rotation *r, char *why, size_t why_len) {
    struct node *n = r->node;
    struct peer_info peer;
    if (!secrets_changing(&n->secrets)) {
        snprintf(why, why_len, "the secret is not being changed");
        return ERR_ORDER;
    }
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++) {
        struct told *t = peer.linked ? told_of(r, peer.member->id) : NULL;
        if (t != NULL)
            ask(r, t, true);
    }
    int error = secrets_finish(&n->secrets);
    if (error != 0)
        snprintf(why, why_len, "that could not be kept in %s: %s", config_text(&n->config, OPTION_STATE), err_text(error));
    else
        log_line(n->log, LOG_INFO, NULL, "the old cluster secret is not accepted any more");
    return error;
}

json_t *rotation_json(struct rotation *r) {
    struct peer_info peer;
    json_t *have = json_array(), *waiting = json_array();
    bool changing = secrets_changing(&r->node->secrets);
    for (uint32_t i = 0; core_peer(r->node->core, i, &peer); i++) {
        if (peer.member->state == MEMBER_LEFT || peer.member->state == MEMBER_BLOCKED)
            continue;
        struct told *t = told_of(r, peer.member->id);
        json_array_append_new(!changing || (t != NULL && t->has) ? have : waiting, json_string(peer.member->name));
    }
    return json_pack("{s:b, s:o, s:o}", "changing", changing, "have", have, "waiting", waiting);
}

json_t *rotation_asked(struct rotation *r, const json_t *request) {
    struct node *n = r->node;
    struct secure_secret to;
    char why[200], text[SECRET_TEXT_BYTES];
    const char *hex = json_string_value(json_object_get(request, "secret"));
    if (hex == NULL || !secret_parse(hex, &to))
        return json_pack("{s:s}", "error", "that is no secret");
    if (!secret_equal(&to, &n->keys.secrets[0])) {
        int error = rotation_begin(r, &to, why, sizeof(why));
        if (error == ERR_ORDER || error == ERR_BUSY)
            return json_pack("{s:s}", "newer", secret_text(&n->keys.secrets[0], text));
        if (error != 0)
            return json_pack("{s:s}", "error", why);
    }
    if (json_is_true(json_object_get(request, "finish")) && secrets_changing(&n->secrets) && secrets_finish(&n->secrets) == 0)
        log_line(n->log, LOG_INFO, NULL, "the old cluster secret is not accepted any more");
    return json_pack("{s:b}", "has", 1);
}
