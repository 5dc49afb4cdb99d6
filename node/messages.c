/* Starling node: what the workers said, one message at a time, and who watches changes. */
#include "node/across.h"
#include "node/files/files.h"
#include "node/node.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct watcher {
    void (*change)(void *ctx, const json_t *change);
    void *ctx;
    struct watcher *next;
};

bool node_member_name(struct node *n, const char *id, char *name, size_t len) {
    char hex[2 * NODE_ID_BYTES + 1];
    struct peer_info peer;
    sodium_bin2hex(hex, sizeof hex, core_id(n->core), NODE_ID_BYTES);
    const char *found = strcmp(id, hex) == 0 ? n->name : NULL;
    for (uint32_t i = 0; found == NULL && core_peer(n->core, i, &peer); i++) {
        sodium_bin2hex(hex, sizeof hex, peer.member->id, NODE_ID_BYTES);
        if (strcmp(id, hex) == 0)
            found = peer.member->name;
    }
    (void)snprintf(name, len, "%s", found == NULL ? "" : found);
    return found != NULL;
}

/* The store knows its author by id; people know it by name. */
static void name_author(struct node *n, json_t *change) {
    const char *id = json_string_value(json_object_get(change, "node"));
    char name[CORE_NAME_MAX];
    if (id == NULL)
        return;
    json_object_set_new(change, "node_id", json_string(id));
    if (node_member_name(n, json_string_value(json_object_get(change, "node_id")), name, sizeof name))
        json_object_set_new(change, "node", json_string(name));
}

static void opened(struct node *n, struct database *db, struct message *m) {
    struct event e = {.type = EVENT_DB_OPEN, .db = db->name, .state = &m->state};
    if (db->state == DB_FAILED)
        log_line(n->log, LOG_INFO, db->name, "served again");
    free(db->error);
    db->error = NULL;
    db->state = DB_SERVED;
    db->settled = m->state.settled;
    db->in_core = true;
    db->fetching = m->fetching;
    db->fetched_ms = 0;
    activity_opened(db, &m->state.have);
    across_opened(n->databases, db); /* before anything of others comes to it */
    node_step(n, &e);
    if (files_index(n->files, db))
        files_opened(n->files);
}

static void closed(struct node *n, struct database *db, const struct message *m) {
    if (db->in_core) {
        struct event e = {.type = EVENT_DB_CLOSED, .db = db->name};
        db->in_core = false;
        node_step(n, &e);
    }
    db->settled = false;
    if (m->text == NULL || m->text[0] == 0) {
        db->state = DB_OPENING; /* OPENED or a reason follows soon */
        return;
    }
    database_failed(db, m->text);
    log_line(n->log, LOG_ERROR, db->name, "%s", database_words(db, m->text));
}

static void stored(struct node *n, struct database *db, struct message *m) {
    struct event e = {.type = EVENT_STORED, .db = db->name, .state = &m->state};
    db->settled = m->state.settled;
    activity_stored(db, &m->state.have);
    if (files_index(n->files, db) && db->settled)
        files_settled(n->files);
    if (db->in_core)
        node_step(n, &e);
    if (db->fetching)
        adoption_look(n);
}

static void batch(struct node *n, struct database *db, struct message *m) {
    struct event e = {.type = EVENT_BATCH_LOCAL, .db = db->name, .batch = m->batches[0]};
    if (db->in_core)
        node_step(n, &e);
}

static void bad(struct node *n, struct database *db, struct message *m) {
    struct event e = {.type = EVENT_BATCH_BAD, .db = db->name, .origin = m->origin, .version = m->version};
    e.text = m->text != NULL ? m->text : "not taken";
    if (db->in_core)
        node_step(n, &e);
}

static void logged(struct node *n, struct database *db, const struct message *m) {
    if (m->text == NULL)
        return;
    if (m->level == LOG_INFO)
        log_activity(n->log, db->name, database_words(db, m->text));
    else
        log_line(n->log, (enum log_level)(m->level < 0 || m->level > LOG_DEBUG ? LOG_DEBUG : m->level), db->name, "%s",
                 database_words(db, m->text));
}

static void changed(struct node *n, const struct database *db, json_t *change) {
    struct watcher *w, *next;
    json_t *seen = json_incref(change);
    if (files_index(n->files, db)) {
        files_changed(n->files, change);
        json_decref(seen);
        if (n->watchers == NULL || (seen = files_watched(change)) == NULL)
            return;
    }
    name_author(n, seen);
    LL_FOREACH_SAFE(n->watchers, w, next) w->change(w->ctx, seen);
    json_decref(seen);
}

static void act(struct node *n, struct message *m) {
    struct database *db = m->database;
    switch (m->type) {
    case MESSAGE_OPENED: opened(n, db, m); break;
    case MESSAGE_CLOSED: closed(n, db, m); break;
    case MESSAGE_BATCH: batch(n, db, m); break;
    case MESSAGE_STORED: stored(n, db, m); break;
    case MESSAGE_BAD: bad(n, db, m); break;
    case MESSAGE_FORGED: {
        struct event e = {.type = EVENT_BATCH_FORGED, .db = db->name, .origin = m->origin, .version = m->version};
        if (db->in_core)
            node_step(n, &e);
        break;
    }
    case MESSAGE_MET: {
        struct event e = {.type = EVENT_MET, .db = db->name, .request = m->number};
        node_step(n, &e);
        break;
    }
    case MESSAGE_READ: {
        struct event e = {.type = EVENT_READ, .request = m->number, .batches = m->batches, .batches_count = m->batches_count};
        node_step(n, &e);
        break;
    }
    case MESSAGE_LOG: logged(n, db, m); break;
    case MESSAGE_CHANGE: changed(n, db, m->json); break;
    case MESSAGE_ANSWER:
        node_answer(n, m->number, m->json);
        m->json = NULL;
        break;
    case MESSAGE_FOLLOW: across_follow(n->databases, db, m->text); break;
    case MESSAGE_NUMBERS: across_numbers(n->databases, db, m); break;
    case MESSAGE_ENDED: databases_ended(n->databases, db); break;
    }
}

bool node_inbox(struct node *n, int count) {
    struct message *m = NULL;
    while (count-- > 0) {
        if ((m = inbox_take(&n->inbox)) == NULL)
            return false;
        act(n, m);
        message_free(m);
    }
    return true;
}

static void watch_post(struct database *db, bool on) {
    if (db->worker == NULL)
        return;
    struct job *job = job_new(JOB_WATCH);
    job->on = on || db->internal; /* the files follow their index */
    worker_post(db->worker, job);
}

void node_database_started(struct database *db) {
    if (db->node->watchers != NULL || db->internal)
        watch_post(db, true);
}

static void watch_all(struct node *n, bool on) {
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next)
        watch_post(db, on);
}

struct watcher *node_watch(struct node *n, void (*change)(void *ctx, const json_t *change), void *ctx) {
    struct watcher *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->change = change;
    w->ctx = ctx;
    if (n->watchers == NULL)
        watch_all(n, true);
    LL_PREPEND(n->watchers, w);
    return w;
}

void node_unwatch(struct node *n, struct watcher *w) {
    LL_DELETE(n->watchers, w);
    free(w);
    if (n->watchers == NULL)
        watch_all(n, false);
}
