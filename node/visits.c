/* Starling node: visits. A server that thinks of joining asks what that would do to its rows (`starling doctor --join`, preview.c), over a connection
 * that is authenticated as any link is: allow list, secret and blocked servers hold. It becomes no member, and nothing is changed on either side.
 *
 * The happy path for a visit is:
 *   visits_handed -> "hello" is answered -> one question after the other goes to a database's worker (survey.h) -> the visitor closes.
 * Possible failure modes are:
 *   - more visitors than VISITS_MAX, another cluster, a blocked server: told so, then closed by the visitor;
 *   - a question of a database that is not here or not served: {"error"};
 *   - nothing comes for QUIET_MS, no memory, anything that is no question: dropped. A worker's answer that comes later finds nobody.
 *
 * Frames are JSON: {"ask": "hello", "cluster"} is answered with {"name", "cluster", "version", "members", "member", "databases": [{"name", "served", "base"}]};
 * {"ask": "tables"|"ranges"|"rows"|"find", "db", …} as store_survey() does. */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/content_door.h"
#include "node/files/content_link.h"
#include "node/node.h"
#include "proto/wire.h"

#define VISITS_MAX 8
#define QUIET_MS 60000

/* VISIT_OPEN ── dropped ──▶ link closed ──▶ timer closed ──▶ freed */
struct visit {
    struct node *node;
    struct content_link *link; /* NULL: closed */
    uv_timer_t timer;
    uint8_t id[NODE_ID_BYTES];
    bool asked;        /* a question is with a worker */
    char refused[300]; /* "": welcome */
    struct visit *prev, *next;
};

static void timer_closed_cb(uv_handle_t *handle) { free(handle->data); }

static void link_closed(void *ctx, struct content_link *l) {
    struct visit *v = ctx;
    (void)l;
    v->link = NULL;
    DL_DELETE(v->node->visits, v);
    node_ask_cancel(v->node, v);
    uv_close((uv_handle_t *)&v->timer, timer_closed_cb);
}

static void link_drained(void *ctx, struct content_link *l) { (void)ctx, (void)l; }
static void link_passed(void *ctx, struct content_link *l, size_t in, size_t out) { (void)ctx, (void)l, (void)in, (void)out; }

static void quiet_cb(uv_timer_t *timer) {
    struct visit *v = timer->data;
    if (v->link != NULL && content_link_quiet_ms(v->link, clock_mono_ms()) > QUIET_MS)
        content_link_drop(v->link);
}

/* Takes answer. */
static void say(struct visit *v, json_t *answer) {
    if (answer == NULL)
        answer = json_pack("{s:s}", "error", "not there, or not served now");
    char *text = json_dumps(answer, JSON_COMPACT);
    size_t len = text == NULL ? 0 : strlen(text);
    uint8_t *frame = text == NULL || len > FRAME_BYTES_MAX ? NULL : malloc(WIRE_HEAD_BYTES + len);
    if (frame != NULL) {
        for (unsigned i = 0; i < WIRE_HEAD_BYTES; i++)
            frame[i] = (uint8_t)(len >> (24 - 8 * i));
        memcpy(frame + WIRE_HEAD_BYTES, text, len);
        content_link_send(v->link, frame, WIRE_HEAD_BYTES + len);
    } else {
        content_link_drop(v->link);
    }
    free(frame);
    free(text);
    json_decref(answer);
}

static void answered(void *ctx, uint64_t number, json_t *answer) {
    struct visit *v = ctx;
    (void)number;
    if (v->link == NULL) {
        json_decref(answer);
        return;
    }
    v->asked = false;
    say(v, answer);
    content_link_pause(v->link, false);
}

static bool is_member(struct node *n, const uint8_t *id, bool *blocked) {
    struct peer_info peer;
    bool found = memcmp(n->identity.id, id, NODE_ID_BYTES) == 0;
    *blocked = false;
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        if (memcmp(peer.member->id, id, NODE_ID_BYTES) == 0) {
            *blocked = peer.member->state == MEMBER_BLOCKED;
            found = peer.member->state != MEMBER_LEFT;
        }
    return found;
}

/* Of a database that others have, too: such a base does not yield to another one. Else null. */
json_t *base_json(uint64_t base) {
    char hex[17];
    if (base == 0 || (base & BASE_ALONE) != 0)
        return json_null();
    snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)base);
    return json_string(hex);
}

static json_t *hello(struct visit *v, const json_t *question) {
    struct node *n = v->node;
    struct peer_info peer;
    const char *cluster = json_string_value(json_object_get(question, "cluster")), *ours = config_text(&n->config, OPTION_CLUSTER);
    bool blocked;
    bool member = is_member(n, v->id, &blocked);
    json_t *databases = json_array();
    int members = 1;
    if (blocked)
        snprintf(v->refused, sizeof(v->refused), "this server is blocked there: `starling peers unblock` on a member lets it in");
    else if (cluster == NULL || strcmp(cluster, ours) != 0)
        snprintf(v->refused, sizeof(v->refused), "its cluster is called \"%.100s\": say --cluster %.60s", ours, ours);
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        members += peer.member->state == MEMBER_ALIVE;
    for (struct database *db = databases_app_first(n->databases); db != NULL && v->refused[0] == 0; db = databases_app_next(db))
        json_array_append_new(databases, json_pack("{s:s, s:b, s:o}", "name", db->name, "served", db->worker != NULL && db->in_core, "base",
                                                   base_json(core_database_base(n->core, db->name))));
    json_t *answer = json_pack("{s:s, s:s, s:s, s:i, s:b, s:o}", "name", n->name, "cluster", ours, "version", STARLING_VERSION, "members",
                               members, "member", member, "databases", databases);
    if (v->refused[0] != 0)
        json_object_set_new(answer, "error", json_string(v->refused));
    else
        log_line(n->log, LOG_INFO, NULL, "a server that may join asks what that would do to its rows");
    return answer;
}

static int link_frame(void *ctx, struct content_link *l, const uint8_t *payload, size_t len) {
    struct visit *v = ctx;
    json_t *question = json_loadb((const char *)payload, len, 0, NULL);
    const char *ask = json_string_value(json_object_get(question, "ask")), *name = json_string_value(json_object_get(question, "db"));
    struct database *db = name == NULL ? NULL : databases_find(v->node->databases, name);
    v->link = l; /* also from within content_link_new() */
    if (ask == NULL || v->asked || (v->refused[0] != 0 && strcmp(ask, "hello") != 0)) {
        json_decref(question);
        return -1;
    }
    if (strcmp(ask, "hello") == 0) {
        say(v, hello(v, question));
    } else if (db == NULL || db->internal) {
        say(v, json_pack("{s:s}", "error", "no such database"));
    } else {
        content_link_pause(l, true); /* one at a time */
        v->asked = true;
        if (node_ask_with(v->node, db, QUESTION_SURVEY, question, answered, v) == 0)
            content_link_drop(l);
        question = NULL; /* the worker's alone */
    }
    json_decref(question);
    node_settle(v->node);
    return 0;
}

void visits_handed(struct node *n, struct transport_handed *h) {
    struct visit *v = n->state < NODE_DRAINING && h->dial == 0 ? calloc(1, sizeof(*v)) : NULL;
    struct content_link_config config = {&n->loop, v, link_frame, link_drained, link_closed, link_passed};
    int count = 0;
    struct visit *other;
    DL_COUNT(n->visits, other, count);
    if (v == NULL || uv_timer_init(&n->loop, &v->timer) != 0) {
        free(v);
        transport_handed_release(h);
        return;
    }
    v->node = n;
    v->timer.data = v;
    node_id_of_key(v->id, h->secure.peer);
    if (count >= VISITS_MAX)
        snprintf(v->refused, sizeof(v->refused), "it has %d visitors already: try again later", VISITS_MAX);
    DL_APPEND(n->visits, v);
    v->link = content_link_new(&config, v->id, h, NULL);
    if (v->link == NULL) {
        DL_DELETE(n->visits, v);
        uv_close((uv_handle_t *)&v->timer, timer_closed_cb);
        return;
    }
    uv_timer_start(&v->timer, quiet_cb, QUIET_MS / 4, QUIET_MS / 4);
}

void visits_shut(struct node *n) {
    struct visit *v, *next;
    DL_FOREACH_SAFE(n->visits, v, next) {
        if (v->link != NULL)
            content_link_drop(v->link);
    }
}
