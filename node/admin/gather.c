/* Starling node: the same question to several databases, for verbs that show them together. */
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"

struct gather {
    void (*done)(struct conn *c, json_t *answers);
    json_t *answers;
    struct asked {
        uint64_t number;
        char *name;
    } * asked;
    uint32_t count, left;
};

void gather_release(struct conn *c) {
    struct gather *g = c->gather;
    if (g == NULL)
        return;
    c->gather = NULL;
    node_ask_cancel(c->node, c);
    for (uint32_t i = 0; i < g->count; i++)
        free(g->asked[i].name);
    free(g->asked);
    json_decref(g->answers);
    free(g);
}

static void finish(struct conn *c) {
    void (*done)(struct conn *, json_t *) = c->gather->done;
    json_t *answers = json_incref(c->gather->answers);
    uv_timer_stop(&c->timer);
    gather_release(c);
    done(c, answers);
}

static void answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct gather *g = c->gather;
    for (uint32_t i = 0; i < g->count && answer != NULL; i++)
        if (g->asked[i].number == number)
            json_object_set(g->answers, g->asked[i].name, answer);
    json_decref(answer);
    if (--g->left == 0)
        finish(c);
}

static void time_up(struct conn *c) { finish(c); }

void gather_start(struct conn *c, enum question question, const char *name, uint64_t timeout_ms,
                  void (*done)(struct conn *c, json_t *answers)) {
    struct gather *g = calloc(1, sizeof(*g));
    if (g == NULL || (g->asked = calloc(databases_count(c->node->databases) + 1, sizeof(*g->asked))) == NULL) {
        free(g);
        conn_done(c, 1, NULL, "out of memory");
        return;
    }
    g->answers = json_object();
    g->done = done;
    c->gather = g;
    for (struct database *db = databases_first(c->node->databases); db != NULL; db = db->hh.next) {
        if (db->state == DB_FAILED || db->state == DB_ALIEN || (name != NULL && strcmp(name, db->name) != 0))
            continue;
        char *copy = strdup(db->name);
        uint64_t number = copy == NULL ? 0 : node_ask(c->node, db, question, NULL, -1, answered, c);
        if (number == 0) {
            free(copy);
            continue;
        }
        g->asked[g->count++] = (struct asked){number, copy};
        g->left++;
    }
    conn_timer(c, g->left == 0 ? 0 : timeout_ms, time_up);
}
