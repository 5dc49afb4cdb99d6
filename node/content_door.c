/* The happy path for content_door is:
 *   door_new, door_attach -> door_put ... the thread wakes, `event` ...; door_want ... the loop wakes, `wanted` ... -> door_detach, door_shut -> door_free.
 * Possible failure modes are:
 *   - no memory for an entry: a connection is closed, a wish is made again by its timeout;
 *   - one side ends before the other: what is put is kept and freed by door_free(). */
#include "node/content_door.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

struct entry {
    struct door_event event;
    struct entry *prev, *next;
};

struct passed {
    uint8_t peer[NODE_ID_BYTES];
    uint64_t in, out;
    struct passed *next;
};

struct content_door {
    pthread_mutex_t lock;
    struct entry *events, *wishes;
    struct passed *passed; /* one a peer that ever had a content link */
    uv_async_t loop_wake, thread_wake;
    bool shut, attached;
    void (*wanted)(void *ctx, const uint8_t *peer);
    void *wanted_ctx;
    void (*event)(void *ctx, struct door_event *e);
    void (*closed)(void *ctx);
    void *event_ctx;
};

void transport_handed_release(struct transport_handed *h) {
    if (h->fd >= 0)
        close(h->fd);
    secure_release(&h->secure);
    buf_release(&h->out);
    buf_release(&h->rest);
    h->fd = -1;
}

static struct entry *take(struct content_door *d, struct entry **list) {
    pthread_mutex_lock(&d->lock);
    struct entry *e = *list;
    if (e != NULL)
        DL_DELETE(*list, e);
    pthread_mutex_unlock(&d->lock);
    return e;
}

static void loop_woken(uv_async_t *async) {
    struct content_door *d = async->data;
    struct entry *e;
    while (!d->shut && (e = take(d, &d->wishes)) != NULL) {
        d->wanted(d->wanted_ctx, e->event.peer);
        free(e);
    }
}

static void thread_woken(uv_async_t *async) {
    struct content_door *d = async->data;
    struct entry *e;
    while (d->event != NULL && (e = take(d, &d->events)) != NULL) {
        d->event(d->event_ctx, &e->event);
        free(e);
    }
}

struct content_door *door_new(uv_loop_t *loop, void (*wanted)(void *ctx, const uint8_t *peer), void *ctx) {
    struct content_door *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    pthread_mutex_init(&d->lock, NULL);
    d->wanted = wanted;
    d->wanted_ctx = ctx;
    if (uv_async_init(loop, &d->loop_wake, loop_woken) != 0) {
        pthread_mutex_destroy(&d->lock);
        free(d);
        return NULL;
    }
    d->loop_wake.data = d;
    return d;
}

static void add(struct content_door *d, struct entry **list, const struct door_event *event) {
    struct entry *e = malloc(sizeof(*e));
    if (e == NULL) {
        struct door_event lost = *event;
        if (event->type == DOOR_HANDED)
            transport_handed_release(&lost.handed);
        return;
    }
    e->event = *event;
    pthread_mutex_lock(&d->lock);
    DL_APPEND(*list, e);
    /* within the lock: each side ends its handle under it */
    if (list == &d->events && d->attached)
        uv_async_send(&d->thread_wake);
    if (list == &d->wishes && !d->shut)
        uv_async_send(&d->loop_wake);
    pthread_mutex_unlock(&d->lock);
}

void door_put(struct content_door *d, const struct door_event *e) { add(d, &d->events, e); }

void door_want(struct content_door *d, const uint8_t *peer) {
    struct door_event e = {0};
    memcpy(e.peer, peer, NODE_ID_BYTES);
    add(d, &d->wishes, &e);
}

static struct passed *passed_find(const struct content_door *d, const uint8_t *peer) {
    struct passed *p = d->passed;
    while (p != NULL && memcmp(p->peer, peer, NODE_ID_BYTES) != 0)
        p = p->next;
    return p;
}

void door_passed(struct content_door *d, const uint8_t *peer, size_t in, size_t out) {
    pthread_mutex_lock(&d->lock);
    struct passed *p = passed_find(d, peer);
    if (p == NULL && (p = calloc(1, sizeof(*p))) != NULL) {
        memcpy(p->peer, peer, NODE_ID_BYTES);
        p->next = d->passed;
        d->passed = p;
    }
    if (p != NULL) {
        p->in += in;
        p->out += out;
    }
    pthread_mutex_unlock(&d->lock);
}

void door_bytes(struct content_door *d, const uint8_t *peer, uint64_t *in, uint64_t *out) {
    pthread_mutex_lock(&d->lock);
    const struct passed *p = passed_find(d, peer);
    *in = p == NULL ? 0 : p->in;
    *out = p == NULL ? 0 : p->out;
    pthread_mutex_unlock(&d->lock);
}

void door_shut(struct content_door *d) {
    pthread_mutex_lock(&d->lock);
    d->shut = true;
    pthread_mutex_unlock(&d->lock);
    uv_close((uv_handle_t *)&d->loop_wake, NULL);
}

int door_attach(struct content_door *d, uv_loop_t *loop, void (*event)(void *ctx, struct door_event *e), void *ctx) {
    int r = uv_async_init(loop, &d->thread_wake, thread_woken);
    if (r != 0)
        return r;
    d->thread_wake.data = d;
    d->event_ctx = ctx;
    d->event = event;
    pthread_mutex_lock(&d->lock);
    d->attached = true;
    pthread_mutex_unlock(&d->lock);
    uv_async_send(&d->thread_wake); /* what was put before */
    return 0;
}

static void detached_cb(uv_handle_t *handle) {
    struct content_door *d = handle->data;
    if (d->closed != NULL)
        d->closed(d->event_ctx);
}

void door_detach(struct content_door *d, void (*closed)(void *ctx)) {
    pthread_mutex_lock(&d->lock);
    d->attached = false;
    pthread_mutex_unlock(&d->lock);
    d->event = NULL;
    d->closed = closed;
    uv_close((uv_handle_t *)&d->thread_wake, detached_cb);
}

void door_free(struct content_door *d) {
    struct entry *e;
    while ((e = take(d, &d->events)) != NULL) {
        if (e->event.type == DOOR_HANDED)
            transport_handed_release(&e->event.handed);
        free(e);
    }
    while ((e = take(d, &d->wishes)) != NULL)
        free(e);
    for (struct passed *p = d->passed, *next; p != NULL; p = next) {
        next = p->next;
        free(p);
    }
    pthread_mutex_destroy(&d->lock);
    free(d);
}
