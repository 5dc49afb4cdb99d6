/* Starling node: `status`: what interface.md shows. Every figure comes from the protocol core or from the stores, none from what we wish. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "node/admin/conn.h"
#include "node/clock.h"
#include "node/files/files.h"

#define STORES_MS 1500 /* the whole answer comes within 2 s, also when a worker is busy */

static uint64_t rss_bytes(void) {
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static const char *node_state_text(const struct node *n) {
    if (n->state == NODE_STARTING)
        return "starting";
    return core_paused(n->core) ? "paused" : "running";
}

static json_t *entry_blank(const struct database *db, const char *state) {
    return json_pack("{s:s, s:s, s:s?, s:i, s:i, s:i, s:i, s:i, s:{}, s:s, s:i}", "name", db->name, "state", state, "error", db->error,
                     "tables", 0, "rows", 0, "pending", 0, "waiting", 0, "parked", 0, "version", "digest", "", "conflicts", 0);
}

static bool in_error(struct node *n, const struct database *db) {
    return database_broken(db) || core_database_refused(n->core, db->name) != NULL;
}

const struct database *database_in_error(struct node *n) {
    for (const struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next)
        if (in_error(n, db))
            return db;
    return NULL;
}

/* The `databases` entry: the store's own, with what only the core knows. `busy`: its worker did not answer in time, so the figures are those of
 * its last answer. */
static json_t *entry(struct node *n, struct database *db, json_t *fresh) {
    if (fresh != NULL) {
        json_decref(db->status);
        db->status = json_incref(fresh);
    }
    json_t *e = db->status != NULL ? json_deep_copy(db->status) : entry_blank(db, "adopting");
    if (database_broken(db)) {
        json_object_set_new(e, "state", json_string("error"));
        json_object_set_new(e, "error", db->error != NULL ? json_string(db->error) : json_string("cannot be served now"));
        json_object_set_new(e, "busy", json_false());
        return e;
    }
    json_object_set_new(e, "busy", json_boolean(fresh == NULL));
    json_object_set_new(e, "waiting", json_integer((json_int_t)core_waiting(n->core, db->name)));
    const char *refused = core_database_refused(n->core, db->name);
    if (refused != NULL) {
        json_object_set_new(e, "state", json_string("error"));
        json_object_set_new(e, "error", json_string(refused));
    }
    return e;
}

static json_t *files_json(struct node *n) {
    if (n->files != NULL)
        return files_status(n->files);
    return json_pack("{s:i, s:i, s:i, s:s, s:i, s:s, s:s}", "count", 0, "bytes", 0, "pending", 0, "digest", "", "conflicts", 0, "state",
                     "error", "error", "not replicated: see the log");
}

static void status_done(struct conn *c, json_t *answers) {
    struct node *n = c->node;
    char id[2 * NODE_ID_BYTES + 1];
    json_t *databases = json_array();
    for (struct database *db = databases_app_first(n->databases); db != NULL; db = databases_app_next(db))
        json_array_append_new(databases, entry(n, db, json_object_get(answers, db->name)));
    json_t *result =
        json_pack("{s:{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I}, s:{s:s, s:I, s:I}, s:o, s:o, s:o, s:o}", "node", "id",
                  identity_hex(n->identity.id, id), "name", n->name, "version", STARLING_VERSION, "state", node_state_text(n), "listen",
                  transport_listen_text(n->transport), "http", "off", "uptime_s", (json_int_t)((clock_mono_ms() - n->started_ms) / 1000),
                  "rss_bytes", (json_int_t)rss_bytes(), "cluster", "name", config_text(&n->config, OPTION_CLUSTER), "members",
                  (json_int_t)member_count(n), "alive", (json_int_t)alive_count(n), "databases", databases, "files", files_json(n), "peers",
                  peers_json(n), "unreachable", unreachable_json(n));
    if (core_twin(n->core) != NULL)
        json_object_set_new(json_object_get(result, "node"), "error", json_string(core_twin(n->core)));
    json_decref(answers);
    conn_done(c, result == NULL ? 1 : 0, result, result == NULL ? "out of memory" : NULL);
}

void verb_status(struct conn *c, const json_t *args) {
    (void)args;
    gather_start(c, QUESTION_STATUS, NULL, STORES_MS, status_done);
}
