/* Starling node: the same question to several databases, for verbs that show them together. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"

struct gather {
    enum question question;
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

/* The store knows members by their ids: "node 1a2b…", whole. People know them by their names. */
static void name_members(struct node *n, json_t *text) {
    static const char WORD[] = "node ";
    const char *said = json_string_value(text), *at = strstr(said, WORD);
    char id[2 * NODE_ID_BYTES + 1], name[CORE_NAME_MAX], *named = NULL;
    if (at == NULL || strspn(at + strlen(WORD), "0123456789abcdef") < sizeof(id) - 1)
        return;
    snprintf(id, sizeof(id), "%s", at + strlen(WORD));
    if (!node_member_name(n, id, name, sizeof(name)) ||
        asprintf(&named, "%.*s%s%s", (int)(at - said), said, name, at + strlen(WORD) + sizeof(id) - 1) < 0)
        return;
    json_string_set(text, named);
    free(named);
}

static void name_all_members(struct node *n, json_t *j) {
    const char *field;
    json_t *each;
    size_t i;
    if (json_is_string(j))
        name_members(n, j);
    json_object_foreach(j, field, each) { name_all_members(n, each); }
    json_array_foreach(j, i, each) { name_all_members(n, each); }
}

static void answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct gather *g = c->gather;
    if (g->question == QUESTION_TABLES || g->question == QUESTION_DOCTOR)
        name_all_members(c->node, answer);
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
    g->question = question;
    g->answers = json_object();
    g->done = done;
    c->gather = g;
    for (struct database *db = databases_first(c->node->databases); db != NULL; db = db->hh.next) {
        if (database_broken(db) || (db->internal && question != QUESTION_BARRIER) || (name != NULL && strcmp(name, db->name) != 0))
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
