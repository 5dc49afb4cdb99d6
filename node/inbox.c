/* The happy path for inbox is: see inbox.h.
 * Possible failure modes are: see inbox.h. */
#include "node/inbox.h"

#include <assert.h>
#include <stdlib.h>
#include <utlist.h>

#include "proto/err.h"

int inbox_init(struct inbox *in, uv_loop_t *loop, uv_async_cb woken, void *ctx) {
    *in = (struct inbox){0};
    if (uv_async_init(loop, &in->async, woken) != 0)
        return ERR_IO;
    in->async.data = ctx;
    pthread_mutex_init(&in->lock, NULL);
    pthread_cond_init(&in->room, NULL);
    return 0;
}

void inbox_end(struct inbox *in) {
    pthread_mutex_lock(&in->lock);
    in->ended = true;
    pthread_cond_broadcast(&in->room);
    pthread_mutex_unlock(&in->lock);
}

void inbox_release(struct inbox *in) {
    struct message *m;
    while ((m = inbox_take(in)) != NULL)
        message_free(m);
    pthread_cond_destroy(&in->room);
    pthread_mutex_destroy(&in->lock);
}

struct message *message_new(enum message_type type, struct database *database) {
    struct message *m = calloc(1, sizeof(*m));
    assert(m != NULL);
    m->type = type;
    m->database = database;
    vv_init(&m->state.have);
    return m;
}

void message_free(struct message *m) {
    if (m == NULL)
        return;
    for (uint32_t i = 0; i < m->batches_count; i++)
        bytes_unref(m->batches[i]);
    free(m->batches);
    vv_release(&m->state.have);
    free(m->text);
    json_decref(m->json);
    free(m);
}

static void put(struct inbox *in, struct message *m, bool latest) {
    bool wake;
    m->bytes = sizeof(*m);
    for (uint32_t i = 0; i < m->batches_count; i++)
        m->bytes += m->batches[i]->len;

    pthread_mutex_lock(&in->lock);
    while (in->bytes > INBOX_BYTES_MAX && !in->ended)
        pthread_cond_wait(&in->room, &in->lock);
    struct message *old = NULL;
    if (latest) {
        /* From the end: between two STORED of one database there are rarely more than a few messages. */
        struct message *at = in->list == NULL ? NULL : in->list->prev;
        for (int looked = 0; at != NULL && looked < 64 && old == NULL; looked++) {
            if (at->database == m->database && at->type != MESSAGE_BATCH && at->type != MESSAGE_READ && at->type != MESSAGE_LOG) {
                old = at->type == MESSAGE_STORED ? at : NULL;
                break; /* never past an OPENED or CLOSED */
            }
            at = at == in->list ? NULL : at->prev;
        }
    }
    if (old != NULL) {
        in->bytes -= old->bytes;
        DL_DELETE(in->list, old);
    }
    wake = in->list == NULL; /* else the loop is on its way already */
    in->bytes += m->bytes;
    DL_APPEND(in->list, m);
    pthread_mutex_unlock(&in->lock);
    message_free(old);
    if (wake)
        uv_async_send(&in->async);
}

void inbox_put(struct inbox *in, struct message *m) { put(in, m, false); }

void inbox_put_latest(struct inbox *in, struct message *m) {
    assert(m->type == MESSAGE_STORED);
    put(in, m, true);
}

struct message *inbox_take(struct inbox *in) {
    pthread_mutex_lock(&in->lock);
    struct message *m = in->list;
    if (m != NULL) {
        bool was_full = in->bytes > INBOX_BYTES_MAX;
        in->bytes -= m->bytes;
        DL_DELETE(in->list, m);
        if (was_full && in->bytes <= INBOX_BYTES_MAX)
            pthread_cond_broadcast(&in->room);
    }
    pthread_mutex_unlock(&in->lock);
    return m;
}
