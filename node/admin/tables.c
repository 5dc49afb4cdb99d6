/* Starling node: `tables`, and what a person says of rows that are gone: `tables accept`, `tables restore`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"

#define TABLES_MS 60000

static void tables_release(struct conn *c) { free(c->task); }

static void tables_done(struct conn *c, json_t *answers) {
    const char *name = c->task;
    json_t *list = json_array();
    for (struct database *db = databases_app_first(c->node->databases); db != NULL; db = databases_app_next(db)) {
        json_t *tables = json_object_get(answers, db->name);
        if (name != NULL && strcmp(name, db->name) != 0)
            continue;
        json_array_append_new(list, json_pack("{s:s, s:s?, s:o}", "name", db->name, "error",
                                              tables != NULL      ? NULL
                                              : db->error != NULL ? db->error
                                                                  : "no answer in time: the database is busy",
                                              "tables", tables != NULL ? json_incref(tables) : json_array()));
    }
    json_decref(answers);
    conn_done(c, 0, json_pack("{s:o}", "databases", list), NULL);
}

static void decided(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    const char *error = json_string_value(json_object_get(answer, "error"));
    (void)number;
    if (answer == NULL || error != NULL)
        conn_done(c, 1, NULL, error != NULL ? error : "the database is not served now: see `starling status`");
    else
        conn_done(c, 0, json_incref(answer), NULL);
    json_decref(answer);
}

void verb_tables(struct conn *c, const json_t *args) {
    const char *name = json_string_value(json_object_get(args, "db")), *action = json_string_value(json_object_get(args, "action"));
    const char *table = json_string_value(json_object_get(args, "table"));
    char why[400];
    if (name != NULL && databases_find(c->node->databases, name) == NULL) {
        snprintf(why, sizeof(why), "%.200s: no such database: see `starling status`", name);
        conn_done(c, 1, NULL, why);
        return;
    }
    if (action != NULL) {
        enum question question = strcmp(action, "accept") == 0 ? QUESTION_ACCEPT : QUESTION_RESTORE;
        if (name == NULL || table == NULL || (question == QUESTION_RESTORE && strcmp(action, "restore") != 0) ||
            node_ask(c->node, databases_find(c->node->databases, name), question, table, -1, decided, c) == 0)
            conn_done(c, 1, NULL, "that cannot be asked");
        return;
    }
    c->task = name == NULL ? NULL : strdup(name);
    c->release = tables_release;
    gather_start(c, QUESTION_TABLES, name, TABLES_MS, tables_done);
}
