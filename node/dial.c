/* The happy path for dial is:
 *   transport_dial -> numeric, or uv_getaddrinfo -> resolved_cb -> try_next -> uv_tcp_connect -> connected_cb -> tcp_start.
 * Possible failure modes are:
 *   - the name does not resolve, or none of its addresses answers within CONNECT_MS each: DIAL_FAILED with why;
 *   - an address is not allowed: it is not tried, and the log says so;
 *   - the node ends meanwhile: connects are dropped, a look-up that cannot be cancelled ends by itself and frees the dial.
 * The core logs what cannot be reached; here is only said, once per address, what is refused. A dial is freed by dial_free() only, when neither a look-up nor a
 * connect holds it any more. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/allow.h"
#include "node/tcp.h"
#include "proto/err.h"

#define CONNECT_MS 3000
#define ADDRESSES_MAX 16

/*  DIAL_RESOLVING ─▶ DIAL_CONNECTING ─(next address)─▶ … ─▶ freed: the link tells how it goes on
 *        └────────────────┴──────▶ DIAL_FAILED ─▶ freed by dial_next_failure() */
enum dial_state { DIAL_RESOLVING, DIAL_CONNECTING, DIAL_FAILED };

struct dial {
    struct transport *transport;
    uint64_t id;
    enum dial_state state;
    bool cancelled, timed_out;
    bool named; /* a name that is allowed wherever it leads */
    uv_getaddrinfo_t lookup;
    uv_connect_t connect;
    struct tcp *link; /* while connecting */
    struct sockaddr_storage addresses[ADDRESSES_MAX];
    int count, at;
    uint16_t port;
    char text[CORE_ADDRESS_MAX], why[DIAL_WHY_MAX];
    struct dial *prev, *next;
};

static void dial_free(struct dial *d) {
    DL_DELETE(d->transport->dials, d);
    free(d);
}

/* d->why is set. */
static void fail(struct dial *d) {
    if (d->cancelled) {
        dial_free(d);
        return;
    }
    log_line(d->transport->config.log, LOG_DEBUG, NULL, "%s: %s", d->text, d->why);
    d->state = DIAL_FAILED;
    DL_DELETE(d->transport->dials, d);
    DL_APPEND(d->transport->failed, d);
}

/* From a callback: the core hears of the failure now. */
static void tell_failures(struct transport *t) {
    struct event e;
    while (dial_next_failure(t, &e))
        t->config.event(t->config.ctx, &e);
}

bool dial_next_failure(struct transport *t, struct event *e) {
    struct dial *d = t->failed;
    if (d == NULL)
        return false;
    snprintf(t->failed_why, sizeof(t->failed_why), "%s", d->why);
    *e = (struct event){.type = EVENT_DIAL_FAILED, .dial = d->id, .text = t->failed_why};
    DL_DELETE(t->failed, d);
    free(d);
    return true;
}

static void try_next(struct dial *d);

static void connect_timeout_cb(uv_timer_t *timer) {
    struct tcp *l = timer->data;
    struct dial *d = l->handle.data;
    d->timed_out = true;
    tcp_drop(d->link, "no answer"); /* connected_cb follows with UV_ECANCELED */
}

static void connected_cb(uv_connect_t *request, int status) {
    struct dial *d = request->data;
    struct transport *t = d->transport;
    struct tcp *l = d->link;
    d->link = NULL;
    l->handle.data = l;
    if (status == 0 && !d->cancelled) {
        uint64_t id = d->id;
        dial_free(d);
        uv_timer_stop(&l->timer);
        tcp_start(l, id);
        return;
    }
    tcp_drop(l, "not connected");
    if (!d->cancelled)
        snprintf(d->why, sizeof(d->why), "%s", d->timed_out ? "no answer" : uv_strerror(status));
    d->at++;
    try_next(d);
    tell_failures(t);
}

static void try_next(struct dial *d) {
    char text[ADDRESS_TEXT_MAX], host[ADDRESS_TEXT_MAX];
    for (; d->at < d->count && !d->cancelled; d->at++) {
        const struct sockaddr *address = (const struct sockaddr *)&d->addresses[d->at];
        if (!d->named && !allow_permits(d->transport->config.allow, address)) {
            snprintf(d->why, sizeof(d->why), "%s is not on the allow list: starling peers allow %s lets it in", address_text(address, text),
                     address_host_text(address, host));
            transport_say(d->transport, LOG_WARNING, "%s is not dialled: %s", d->text, d->why);
            continue;
        }
        d->timed_out = false;
        d->state = DIAL_CONNECTING;
        struct tcp *l = tcp_alloc(d->transport);
        if (l == NULL) {
            snprintf(d->why, sizeof(d->why), "out of memory");
            break;
        }
        address_text(address, l->address);
        l->named = d->named;
        memcpy(&l->peer, &d->addresses[d->at], sizeof(l->peer));
        d->link = l;
        d->connect.data = d;
        int r = uv_tcp_connect(&d->connect, &l->handle, address, connected_cb);
        if (r == 0) {
            l->handle.data = d; /* until connected: closed_cb only runs after connected_cb has put it back */
            uv_timer_start(&l->timer, connect_timeout_cb, CONNECT_MS, 0);
            return;
        }
        d->link = NULL;
        tcp_drop(l, uv_strerror(r));
        snprintf(d->why, sizeof(d->why), "%s", uv_strerror(r));
    }
    fail(d);
}

static void resolved_cb(uv_getaddrinfo_t *request, int status, struct addrinfo *found) {
    struct dial *d = request->data;
    struct transport *t = d->transport;
    if (status != 0 || found == NULL) {
        snprintf(d->why, sizeof(d->why), "its name does not resolve, %s: check the name", uv_strerror(status));
        uv_freeaddrinfo(found);
        fail(d);
        tell_failures(t);
        return;
    }
    for (struct addrinfo *a = found; a != NULL && d->count < ADDRESSES_MAX; a = a->ai_next) {
        if (a->ai_addrlen > sizeof(d->addresses[0]) || (a->ai_family != AF_INET && a->ai_family != AF_INET6))
            continue;
        memcpy(&d->addresses[d->count], a->ai_addr, a->ai_addrlen);
        if (a->ai_family == AF_INET)
            ((struct sockaddr_in *)&d->addresses[d->count])->sin_port = htons(d->port);
        else
            ((struct sockaddr_in6 *)&d->addresses[d->count])->sin6_port = htons(d->port);
        d->count++;
    }
    uv_freeaddrinfo(found);
    snprintf(d->why, sizeof(d->why), "no usable address");
    try_next(d);
    tell_failures(t);
}

void transport_dial(struct transport *t, uint64_t id, const char *address) {
    char host[ADDRESS_HOST_MAX];
    struct dial *d = t->quiet ? NULL : calloc(1, sizeof(*d)); /* quiet: we end, and nobody waits for it */
    if (d == NULL)
        return;
    d->transport = t;
    d->id = id;
    snprintf(d->text, sizeof(d->text), "%s", address);
    DL_APPEND(t->dials, d);
    if (address_parse(address, ADDRESS_PORT, host, &d->port) != 0 || host[0] == 0) {
        snprintf(d->why, sizeof(d->why), "not an address");
        fail(d);
        return;
    }
    if (address_numeric(host, d->port, &d->addresses[0])) {
        d->count = 1;
        try_next(d);
        return;
    }
    d->named = allow_named(t->config.allow, host);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    d->lookup.data = d;
    int r = uv_getaddrinfo(t->config.loop, &d->lookup, resolved_cb, host, NULL, &hints);
    if (r != 0) {
        snprintf(d->why, sizeof(d->why), "its name cannot be resolved: %s", uv_strerror(r));
        fail(d);
    }
}

bool dial_resolving(const struct transport *t) {
    const struct dial *d;
    DL_FOREACH(t->dials, d) {
        if (d->state == DIAL_RESOLVING)
            return true;
    }
    return false;
}

void dial_stop_all(struct transport *t) {
    struct dial *d, *next;
    DL_FOREACH_SAFE(t->dials, d, next) {
        d->cancelled = true;
        if (d->state == DIAL_CONNECTING && d->link != NULL)
            tcp_drop(d->link, "this node ends");
        else
            uv_cancel((uv_req_t *)&d->lookup); /* fails when it is being looked up now: resolved_cb then finds it cancelled */
    }
}

void dial_release(struct transport *t) {
    struct dial *d, *next;
    DL_FOREACH_SAFE(t->failed, d, next) {
        DL_DELETE(t->failed, d);
        free(d);
    }
}
