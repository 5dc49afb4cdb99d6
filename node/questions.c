/* Starling node: questions to workers and to peers, and what peers ask us.
 *
 * A peer's question and its answer are JSON: {"ask": "verify", "db", "table"|null, "bucket"} is answered as store_verify() does, {"ask": "clock"} with
 * {"wall_ms"}, {"ask": "files"} as node_ask_settled() says, {"ask": "leave"} likewise by who takes over what the asker has and stays (admin/leave.c); {"error": "…"} when there is no answer. */
#include "node/node.h"
#include "node/rotate.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/files/files.h"

#define PEER_QUESTIONS_MAX 32
#define REPLY_BYTES_MAX (FRAME_BYTES_MAX - 1024)

struct question_open {
    uint64_t number;
    answer_fn fn;
    void *ctx; /* of the asker, for cancelling */
    json_t *answer;
    struct question_open *prev, *next;
};

static struct question_open *open_new(struct node *n, answer_fn fn, void *ctx) {
    struct question_open *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return NULL;
    q->number = ++n->question_last;
    q->fn = fn;
    q->ctx = ctx;
    DL_APPEND(n->questions, q);
    return q;
}

void node_answer(struct node *n, uint64_t number, json_t *answer) {
    struct question_open *q;
    DL_FOREACH(n->questions, q) {
        if (q->number != number)
            continue;
        DL_DELETE(n->questions, q);
        q->answer = answer;
        DL_APPEND(n->answered, q);
        return;
    }
    json_decref(answer); /* nobody waits for it any more */
}

/* Takes the job. */
static uint64_t ask(struct node *n, struct database *db, struct job *job, answer_fn fn, void *ctx) {
    struct question_open *q = job == NULL ? NULL : open_new(n, fn, ctx);
    if (q == NULL) {
        job_free(job);
        return 0;
    }
    uint64_t number = job->number = q->number;
    if (db->worker != NULL) {
        worker_post(db->worker, job);
    } else {
        job_free(job);
        node_answer(n, number, NULL);
    }
    return number;
}

static struct job *question_new(enum question question) {
    struct job *job = job_new(JOB_QUESTION);
    job->question = question;
    return job;
}

uint64_t node_ask_files(struct node *n, json_t *question, answer_fn fn, void *ctx) {
    struct question_open *q = question == NULL ? NULL : open_new(n, fn, ctx);
    if (q == NULL) {
        json_decref(question);
        return 0;
    }
    uint64_t number = q->number;
    if (n->files != NULL) {
        files_ask(n->files, number, question);
    } else {
        json_decref(question);
        node_answer(n, number, NULL);
    }
    return number;
}

uint64_t node_ask(struct node *n, struct database *db, enum question question, const char *table, int bucket, answer_fn fn, void *ctx) {
    if (question == QUESTION_VERIFY && files_index(n->files, db)) /* not what the index says, but what is there */
        return node_ask_files(n, json_pack("{s:s, s:s?, s:i}", "ask", "verify", "table", table, "bucket", bucket), fn, ctx);
    struct job *job = question_new(question);
    if (job != NULL) {
        job->table = table == NULL ? NULL : strdup(table);
        job->bucket = bucket;
    }
    return ask(n, db, job, fn, ctx);
}

uint64_t node_ask_with(struct node *n, struct database *db, enum question question, json_t *args, answer_fn fn, void *ctx) {
    struct job *job = question_new(question);
    if (job != NULL)
        job->args = args;
    else
        json_decref(args);
    return ask(n, db, job, fn, ctx);
}

uint64_t node_ask_peer(struct node *n, const uint8_t *peer, json_t *payload, answer_fn fn, void *ctx) {
    struct question_open *q = open_new(n, fn, ctx);
    char *text = payload == NULL ? NULL : json_dumps(payload, JSON_COMPACT);
    json_decref(payload);
    if (q == NULL) {
        free(text);
        return 0;
    }
    uint64_t number = q->number;
    if (text == NULL) {
        node_answer(n, number, NULL);
        return number;
    }
    struct event e = {.type = EVENT_REQUEST, .peer = peer, .request = number, .data = (const uint8_t *)text, .len = strlen(text)};
    node_step(n, &e);
    free(text);
    return number;
}

static void list_cancel(struct question_open **list, const void *ctx) {
    struct question_open *q, *next;
    DL_FOREACH_SAFE(*list, q, next) {
        if (ctx != NULL && q->ctx != ctx)
            continue;
        DL_DELETE(*list, q);
        json_decref(q->answer);
        free(q);
    }
}

void node_ask_cancel(struct node *n, void *ctx) {
    assert(ctx != NULL);
    list_cancel(&n->questions, ctx);
    list_cancel(&n->answered, ctx);
}

void questions_deliver(struct node *n) {
    while (n->answered != NULL) { /* answering may ask again, or cancel others */
        struct question_open *q = n->answered;
        DL_DELETE(n->answered, q);
        q->fn(q->ctx, q->number, q->answer);
        free(q);
    }
}

/* ---- settled: the files are as their index says, and nothing that was written into the index for it is still to be told */

struct settling {
    struct node *node;
    uint64_t number; /* of the question that is answered at the end */
    json_t *answer;
};

static void settling_end(struct settling *s, json_t *answer) {
    node_answer(s->node, s->number, answer);
    free(s);
}

static struct database *files_database(struct node *n) {
    struct database *db = databases_first(n->databases);
    while (db != NULL && !files_index(n->files, db))
        db = db->hh.next;
    return db;
}

static void settled_index(void *ctx, uint64_t number, json_t *drained) {
    struct settling *s = ctx;
    struct database *db = files_database(s->node);
    const struct vv *vector = db == NULL ? NULL : core_vector(s->node->core, db->name);
    char digest[17];
    (void)number;
    snprintf(digest, sizeof(digest), "%016" PRIx64, vector == NULL ? 0 : vv_digest(vector));
    if (json_is_true(drained))
        json_object_set_new(s->answer, "index", json_string(digest));
    else
        json_object_set_new(s->answer, "pending", json_integer(1));
    json_decref(drained);
    settling_end(s, s->answer);
}

static void settled_files(void *ctx, uint64_t number, json_t *answer) {
    struct settling *s = ctx;
    struct database *db = files_database(s->node);
    (void)number;
    s->answer = answer;
    if (answer == NULL || db == NULL || json_integer_value(json_object_get(answer, "pending")) > 0 ||
        node_ask(s->node, db, QUESTION_BARRIER, NULL, -1, settled_index, s) == 0)
        settling_end(s, answer);
}

uint64_t node_ask_settled(struct node *n, answer_fn fn, void *ctx) {
    struct settling *s = calloc(1, sizeof(*s));
    struct question_open *q = s == NULL ? NULL : open_new(n, fn, ctx);
    if (q == NULL) {
        free(s);
        return 0;
    }
    uint64_t number = q->number;
    *s = (struct settling){.node = n, .number = number};
    if (node_ask_files(n, json_pack("{s:s}", "ask", "settled"), settled_files, s) == 0)
        settling_end(s, NULL);
    return number;
}

/* ---- a peer asks us */

struct peer_question {
    struct node *node;
    uint64_t link, request;
};

static void reply_send(struct peer_question *p, json_t *answer) {
    if (answer == NULL)
        answer = json_pack("{s:s}", "error", "not there, or not served now");
    char *text = json_dumps(answer, JSON_COMPACT);
    json_t *rows = json_object_get(answer, "rows");
    if (text != NULL && strlen(text) > REPLY_BYTES_MAX && json_is_array(rows)) {
        /* Too many rows for one frame: differences are shown by example, so the first ones will do. */
        size_t keep = json_array_size(rows) * (REPLY_BYTES_MAX / 2) / strlen(text);
        while (json_array_size(rows) > keep)
            json_array_remove(rows, json_array_size(rows) - 1);
        json_object_set_new(answer, "cut", json_true());
        free(text);
        text = json_dumps(answer, JSON_COMPACT);
    }
    if (text == NULL || strlen(text) > REPLY_BYTES_MAX) {
        free(text);
        text = strdup("{\"error\":\"the answer is too large\"}");
    }
    json_decref(answer);
    struct event e = {.type = EVENT_REPLY, .link = p->link, .request = p->request, .data = (const uint8_t *)text};
    e.len = text == NULL ? 0 : strlen(text);
    if (text != NULL)
        node_step(p->node, &e);
    free(text);
    free(p);
}

static void peer_answered(void *ctx, uint64_t number, json_t *answer) {
    (void)number;
    reply_send(ctx, answer);
}

static uint32_t peer_questions(const struct node *n) {
    uint32_t count = 0;
    const struct question_open *q;
    DL_FOREACH(n->questions, q) { count += q->fn == peer_answered; }
    return count;
}

/* Called while the core is polled: the answer goes out from node_settle(). */
void node_request(struct node *n, const struct effect *e) {
    struct peer_question *p = calloc(1, sizeof(*p));
    json_error_t error;
    json_t *request = json_loadb((const char *)e->data, e->len, 0, &error);
    const char *ask = json_string_value(json_object_get(request, "ask")), *name = json_string_value(json_object_get(request, "db"));
    if (p == NULL || ask == NULL) {
        free(p);
        json_decref(request);
        return; /* no answer within the time limit is an answer */
    }
    *p = (struct peer_question){n, e->link, e->request};
    struct database *db = name == NULL ? NULL : databases_find(n->databases, name);
    if (strcmp(ask, "verify") == 0 && db != NULL && peer_questions(n) < PEER_QUESTIONS_MAX) {
        json_t *bucket = json_object_get(request, "bucket");
        json_int_t at = json_is_integer(bucket) ? json_integer_value(bucket) : -1;
        if (node_ask(n, db, QUESTION_VERIFY, json_string_value(json_object_get(request, "table")), at < 0 || at > 255 ? -1 : (int)at,
                     peer_answered, p) == 0)
            free(p);
        json_decref(request);
        return;
    }
    if (strcmp(ask, "read") == 0 && n->files != NULL && peer_questions(n) < PEER_QUESTIONS_MAX) {
        if (node_ask_files(n, json_incref(request), peer_answered, p) == 0)
            free(p);
        json_decref(request);
        return;
    }
    bool takes = strcmp(ask, "leave") == 0 && peer_questions(n) < PEER_QUESTIONS_MAX && leave_takes_over(n, e->peer);
    if ((takes || strcmp(ask, "files") == 0) && n->files != NULL && peer_questions(n) < PEER_QUESTIONS_MAX) {
        if (node_ask_settled(n, peer_answered, p) == 0)
            free(p);
        json_decref(request);
        return;
    }
    if (strcmp(ask, "content") == 0)
        content_peers_asked(n, e->peer);
    json_t *answer = takes || strcmp(ask, "content") == 0 ? json_object()
                     : strcmp(ask, "rotate") == 0         ? rotation_asked(n->rotation, request)
                     : strcmp(ask, "clock") == 0          ? json_pack("{s:I}", "wall_ms", (json_int_t)clock_wall_ms())
                                                          : json_pack("{s:s}", "error", db == NULL ? "no such database" : "busy");
    struct question_open *q = open_new(n, peer_answered, p);
    if (q == NULL) {
        json_decref(answer);
        free(p);
    } else {
        node_answer(n, q->number, answer);
    }
    json_decref(request);
}

void questions_release(struct node *n) {
    struct question_open *lists[] = {n->questions, n->answered}, *q;
    for (int i = 0; i < 2; i++)
        DL_FOREACH(lists[i], q) {
            if (q->fn == settled_index)
                json_decref(((struct settling *)q->ctx)->answer);
            if (q->fn == peer_answered || q->fn == settled_files || q->fn == settled_index)
                free(q->ctx);
        }
    list_cancel(&n->questions, NULL);
    list_cancel(&n->answered, NULL);
}
