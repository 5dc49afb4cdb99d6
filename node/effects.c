/* Starling node: what the core wants done. Called between core_step() and the last core_poll(), so nothing here steps the core. */
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

static struct database *serving(struct node *n, const char *name) {
    struct database *db = name == NULL ? NULL : databases_find(n->databases, name);
    return db != NULL && db->worker != NULL ? db : NULL;
}

static void deliver(struct node *n, const struct effect *e) {
    struct database *db = serving(n, e->db);
    if (db == NULL) {
        bytes_unref(e->batch); /* nothing counts as delivered when it is opened again */
        return;
    }
    struct job *job = job_new(JOB_DELIVER);
    job->batch = e->batch;
    worker_post(db->worker, job);
}

/* A job that takes what the effect says. */
static void post(struct node *n, const struct effect *e, enum job_type type) {
    struct database *db = serving(n, e->db);
    if (db == NULL)
        return;
    struct job *job = job_new(type);
    job->number = e->request;
    job->origin = e->origin;
    job->from = e->version;
    job->to = e->version_last;
    job->bytes_max = e->bytes_max;
    job->offset_ms = e->offset_ms;
    worker_post(db->worker, job);
}

static void reply(struct node *n, const struct effect *e) {
    json_error_t error;
    json_t *answer = e->data == NULL ? NULL : json_loadb((const char *)e->data, e->len, 0, &error);
    node_answer(n, e->request, answer);
}

void node_effect(struct node *n, const struct effect *e) {
    switch (e->type) {
    case EFFECT_DIAL: transport_dial(n->transport, e->dial, e->text); break;
    case EFFECT_SEND: transport_send(n->transport, e); break;
    case EFFECT_CLOSE: transport_close_link(n->transport, e->link, e->text); break;
    case EFFECT_DELIVER: deliver(n, e); break;
    case EFFECT_READ: post(n, e, JOB_READ); break;
    case EFFECT_DB_WANTED:
        if (n->state < NODE_DRAINING)
            databases_want(n->databases, e->db);
        break;
    case EFFECT_EPOCH:
        log_line(n->log, LOG_WARNING, e->db,
                 "a peer knows versions of this node that are not here (an older copy of the state folder?): continuing under a new epoch");
        post(n, e, JOB_EPOCH);
        break;
    case EFFECT_YIELD: post(n, e, JOB_YIELD); break; /* what it had before it met anybody else does not count against what they have */
    case EFFECT_MEET: post(n, e, JOB_MEET); break;
    case EFFECT_ALONE: post(n, e, JOB_ALONE); break;
    case EFFECT_SHARED: post(n, e, JOB_SHARED); break;
    case EFFECT_MEMBER:
        if (members_put(n->members, e->member))
            node_members_changed(n);
        break;
    case EFFECT_REQUEST: node_request(n, e); break;
    case EFFECT_REPLY: reply(n, e); break;
    case EFFECT_LOG:
        log_line(n->log, (enum log_level)(e->level < 0 || e->level > LOG_DEBUG ? LOG_DEBUG : e->level), e->db, "%s", e->text);
        break;
    }
}
