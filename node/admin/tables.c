/* Starling node: `tables`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"

#define TABLES_MS 60000

static void tables_release(struct conn *c) { free(c->task); }

static void tables_done(struct conn *c, json_t *answers) {
    const char *name = c->task;
    json_t *list = json_array();
    for (struct database *db = databases_first(c->node->databases); db != NULL; db = db->hh.next) {
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

void verb_tables(struct conn *c, const json_t *args) {
    const char *name = json_string_value(json_object_get(args, "db"));
    char why[400];
    if (name != NULL && databases_find(c->node->databases, name) == NULL) {
        snprintf(why, sizeof(why), "%.200s: no such database: see `starling status`", name);
        conn_done(c, 1, NULL, why);
        return;
    }
    c->task = name == NULL ? NULL : strdup(name);
    c->release = tables_release;
    gather_start(c, QUESTION_TABLES, name, TABLES_MS, tables_done);
}
