/* Starling node: `conflicts`, `resolve` and `why`: what lost, deciding it, and who wrote what a row holds. Nodes are shown with their names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"
#include "node/clock.h"
#include "node/store/store.h"

#define LIST_MS 60000
#define LIST_BYTES_MAX (3u << 20) /* an answer has 4 MiB */
#define RESOLVE_MS 5000           /* a decision waits until its author can have seen what he decides about, which takes 2 s */
#define AGAIN_MS 100

/* ---- names beside ids */

static const char *name_of(struct node *n, const char *id) {
    char hex[2 * NODE_ID_BYTES + 1];
    struct peer_info peer;
    if (strcmp(identity_hex(n->identity.id, hex), id) == 0)
        return n->name;
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        if (strcmp(identity_hex(peer.member->id, hex), id) == 0)
            return peer.member->name;
    return NULL;
}

/* Everywhere in an answer, beside each "node". */
static void add_names(struct node *n, json_t *j) {
    const char *field, *id = json_string_value(json_object_get(j, "node"));
    const char *name = id == NULL ? NULL : name_of(n, id);
    json_t *each;
    size_t i;
    if (name != NULL)
        json_object_set_new(j, "name", json_string(name));
    json_object_foreach(j, field, each) {
        if (strcmp(field, "value") != 0 && strcmp(field, "key") != 0) /* these hold what the application likes */
            add_names(n, each);
    }
    json_array_foreach(j, i, each) { add_names(n, each); }
}

/* As the interface has it. */
static json_t *polish(struct node *n, json_t *conflict) {
    static const char *const INSIDE[] = {"row", "stamp", "origin", "value"};
    for (size_t i = 0; i < sizeof(INSIDE) / sizeof(*INSIDE); i++)
        json_object_del(conflict, INSIDE[i]);
    add_names(n, conflict);
    return conflict;
}

static void unknown(struct conn *c, const char *id, bool all_asked) {
    char why[300];
    snprintf(why, sizeof(why), "no open conflict is called %.40s%s: see `starling conflicts`", id,
             all_asked ? "" : " in the databases that answered");
    conn_done(c, 1, NULL, why);
}

/* ---- conflicts */

static void list_release(struct conn *c) { json_decref(c->task); }

/* Those of the files come last. */
static void files_listed(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    json_t *result = json_incref(c->task), *conflict;
    size_t i;
    (void)number;
    json_array_foreach(answer, i, conflict) { json_array_append(json_object_get(result, "conflicts"), polish(c->node, conflict)); }
    json_decref(answer);
    conn_done(c, 0, result, NULL);
}

static void conflicts_done(struct conn *c, json_t *answers) {
    json_t *list = json_array(), *missing = json_array(), *conflict;
    size_t i, bytes = 0;
    bool more = false;
    for (struct database *db = databases_app_first(c->node->databases); db != NULL; db = databases_app_next(db)) {
        json_t *own = json_object_get(answers, db->name);
        if (own == NULL)
            json_array_append_new(missing, json_string(db->name));
        json_array_foreach(own, i, conflict) {
            bytes += json_dumpb(polish(c->node, conflict), NULL, 0, JSON_COMPACT);
            if (bytes < LIST_BYTES_MAX)
                json_array_append(list, conflict);
        }
        more = more || json_array_size(own) >= STORE_CONFLICTS_MAX;
    }
    json_decref(answers);
    json_t *result = json_pack("{s:o}", "conflicts", list);
    if (more || bytes >= LIST_BYTES_MAX)
        json_object_set_new(result, "more", json_true());
    if (json_array_size(missing) > 0)
        json_object_set(result, "missing", missing);
    json_decref(missing);
    c->task = result;
    c->release = list_release;
    if (c->node->files == NULL || node_ask_files(c->node, json_pack("{s:s}", "ask", "conflicts"), files_listed, c) == 0)
        files_listed(c, 0, NULL);
}

static void resolve_start(struct conn *c, const char *id, json_t *how);

void verb_conflicts(struct conn *c, const json_t *args) {
    const char *id = json_string_value(json_object_get(args, "id"));
    if (id != NULL)
        resolve_start(c, id, NULL);
    else
        gather_start(c, QUESTION_CONFLICTS, NULL, LIST_MS, conflicts_done);
}

/* ---- resolve: every database in turn, until one knows the conflict; all of them again while one says that it cannot answer yet */

struct resolve {
    char *id;
    json_t *how;
    char **names;
    uint32_t names_count, at;
    bool later, all_asked, files_asked;
    uint64_t deadline_ms;
};

static void resolve_release(struct conn *c) {
    struct resolve *r = c->task;
    for (uint32_t i = 0; i < r->names_count; i++)
        free(r->names[i]);
    free(r->names);
    free(r->id);
    json_decref(r->how);
    free(r);
}

static void resolve_next(struct conn *c);

static void resolve_again(struct conn *c) {
    struct resolve *r = c->task;
    r->at = 0;
    r->later = false;
    r->all_asked = true;
    resolve_next(c);
}

static void resolve_answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct resolve *r = c->task;
    const char *error = json_string_value(json_object_get(answer, "error"));
    (void)number;
    if (json_is_true(json_object_get(answer, "done"))) {
        json_t *conflict = polish(c->node, json_object_get(answer, "conflict"));
        if (r->how != NULL) {
            conn_done(c, 0, answer, NULL);
        } else {
            conn_done(c, 0, json_pack("{s:[O]}", "conflicts", conflict), NULL);
            json_decref(answer);
        }
        return;
    }
    if (error != NULL) {
        conn_done(c, 1, NULL, error);
        json_decref(answer);
        return;
    }
    r->later = r->later || answer == NULL || json_is_true(json_object_get(answer, "retry")); /* none: it is being opened anew */
    json_decref(answer);
    resolve_next(c);
}

static void resolve_next(struct conn *c) {
    struct resolve *r = c->task;
    while (r->at < r->names_count) {
        struct database *db = databases_find(c->node->databases, r->names[r->at++]);
        if (db != NULL && db->state == DB_SERVED &&
            node_ask_with(c->node, db, QUESTION_RESOLVE, json_pack("{s:s, s:o*}", "id", r->id, "how", json_deep_copy(r->how)),
                          resolve_answered, c) != 0)
            return;
        r->all_asked = false;
    }
    if (!r->files_asked && c->node->files != NULL) {
        r->files_asked = true;
        if (node_ask_files(c->node,
                           json_pack("{s:s, s:s, s:O*, s:b}", "ask", "resolve", "id", r->id, "keep", json_object_get(r->how, "keep"), "set",
                                     json_object_get(r->how, "set") != NULL),
                           resolve_answered, c) != 0)
            return;
    }
    if (!r->later)
        unknown(c, r->id, r->all_asked);
    else if (clock_mono_ms() < r->deadline_ms)
        conn_timer(c, AGAIN_MS, resolve_again);
    else
        conn_done(c, 1, NULL, "not decided: changes are still on their way into a database, or a program reads or writes it: try again");
}

/* Takes how; NULL: the conflict is only shown. */
static void resolve_start(struct conn *c, const char *id, json_t *how) {
    struct resolve *r = calloc(1, sizeof(*r));
    if (r == NULL || (r->names = calloc(databases_count(c->node->databases) + 1, sizeof(*r->names))) == NULL ||
        (r->id = strdup(id)) == NULL) {
        if (r != NULL)
            free(r->names);
        free(r);
        json_decref(how);
        conn_done(c, 1, NULL, "out of memory");
        return;
    }
    for (struct database *db = databases_app_first(c->node->databases); db != NULL; db = databases_app_next(db))
        if ((r->names[r->names_count] = strdup(db->name)) != NULL)
            r->names_count++;
    r->how = how;
    r->deadline_ms = clock_mono_ms() + RESOLVE_MS;
    c->task = r;
    c->release = resolve_release;
    resolve_again(c);
}

void verb_resolve(struct conn *c, const json_t *args) {
    const char *id = json_string_value(json_object_get(args, "id")), *keep = json_string_value(json_object_get(args, "keep"));
    json_t *set = json_object_get(args, "set");
    bool kept = keep != NULL && (strcmp(keep, "winner") == 0 || strcmp(keep, "loser") == 0);
    bool split = json_is_true(json_object_get(args, "split"));
    json_t *how = id == NULL || kept + (json_object_size(set) > 0) + split != 1 ? NULL
                  : split                                                       ? json_pack("{s:b}", "split", 1)
                  : kept                                                        ? json_pack("{s:s}", "keep", keep)
                                                                                : json_pack("{s:O}", "set", set);
    if (how != NULL)
        resolve_start(c, id, how);
    else
        conn_done(c, 2, NULL, "say one of --keep winner, --keep loser, --set COL=VALUE, --split");
}

/* ---- why */

static void why_answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    const char *error = json_string_value(json_object_get(answer, "error"));
    (void)number;
    if (answer == NULL) {
        conn_done(c, 1, NULL, "the database is not served now: see `starling status`");
    } else if (error != NULL) {
        conn_done(c, 1, NULL, error);
        json_decref(answer);
    } else {
        add_names(c->node, answer);
        conn_done(c, 0, answer, NULL);
    }
}

void verb_why(struct conn *c, const json_t *args) {
    const char *name = json_string_value(json_object_get(args, "db"));
    struct database *db = name == NULL ? NULL : databases_find(c->node->databases, name);
    char why[300];
    if (db == NULL) {
        snprintf(why, sizeof(why), "%.200s: no such database: see `starling status`", name == NULL ? "" : name);
        conn_done(c, 1, NULL, why);
    } else if (!json_is_string(json_object_get(args, "table")) || json_object_get(args, "key") == NULL) {
        conn_done(c, 2, NULL, "usage: starling why DB TABLE KEY [COL]");
    } else if (node_ask_with(c->node, db, QUESTION_WHY, json_deep_copy(args), why_answered, c) == 0) {
        conn_done(c, 1, NULL, "out of memory");
    }
}
