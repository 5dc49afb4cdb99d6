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
    struct job *job = db == NULL ? NULL : job_new(JOB_DELIVER);
    if (job == NULL) {
        bytes_unref(e->batch); /* not stored: the core asks for it again */
        return;
    }
    job->batch = e->batch;
    worker_post(db->worker, job);
}

static void read_log(struct node *n, const struct effect *e) {
    struct database *db = serving(n, e->db);
    struct job *job = db == NULL ? NULL : job_new(JOB_READ);
    if (job == NULL)
        return; /* the peer asks again, or another one */
    job->number = e->request;
    job->origin = e->origin;
    job->from = e->version;
    job->to = e->version_last;
    job->bytes_max = e->bytes_max;
    worker_post(db->worker, job);
}

static void new_epoch(struct node *n, const struct effect *e) {
    struct database *db = serving(n, e->db);
    struct job *job = db == NULL ? NULL : job_new(JOB_EPOCH);
    if (job == NULL)
        return;
    log_line(n->log, LOG_WARNING, e->db,
             "a peer knows versions of this node that are not here (an older copy of the state folder?): continuing under a new epoch");
    job->origin = e->origin;
    worker_post(db->worker, job);
}

/* What this server had before it met anybody else does not count against what they have. */
static void yield(struct node *n, const struct effect *e) {
    struct database *db = serving(n, e->db);
    struct job *job = db == NULL ? NULL : job_new(JOB_YIELD);
    if (job != NULL)
        worker_post(db->worker, job);
}

static void meet(struct node *n, const struct effect *e) {
    struct database *db = serving(n, e->db);
    struct job *job = db == NULL ? NULL : job_new(e->type == EFFECT_MEET ? JOB_MEET : JOB_ALONE);
    if (job == NULL)
        return;
    job->number = e->request;
    job->offset_ms = e->offset_ms;
    job->origin = e->origin;
    job->from = e->version;
    worker_post(db->worker, job);
}

static void shared(struct node *n, const struct effect *e) {
    struct database *db = serving(n, e->db);
    struct job *job = db == NULL ? NULL : job_new(JOB_SHARED);
    if (job != NULL)
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
    case EFFECT_READ: read_log(n, e); break;
    case EFFECT_DB_WANTED:
        if (n->state < NODE_DRAINING)
            databases_want(n->databases, e->db);
        break;
    case EFFECT_EPOCH: new_epoch(n, e); break;
    case EFFECT_YIELD: yield(n, e); break;
    case EFFECT_MEET:
    case EFFECT_ALONE: meet(n, e); break;
    case EFFECT_SHARED: shared(n, e); break;
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
