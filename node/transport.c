/* The happy path for transport is:
 *   transport_open binds and listens -> connection_cb accepts -> tcp_start; transport_dial -> dial.c connects -> tcp_start;
 *   transport_send queues -> transport_settle flushes and tells how much is left -> transport_close -> all handles closed -> transport_free.
 * Possible failure modes are:
 *   - the port is taken or may not be bound: transport_open says so in one line, nothing stays open;
 *   - accept fails (no descriptors): the connection is dropped by libuv, one line in the log, listening goes on;
 *   - someone outside private networks connects: closed at once, at most one line in the log every 10 s;
 *   - many connections that never greet: beyond UNGREETED_MAX the oldest silent ones, or the new one, are closed. */
#include "node/tcp.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/clock.h"
#include "node/rtt.h"
#include "proto/err.h"

#define BACKLOG 128
#define UNGREETED_MS 5000
#define PORT_TRIES 16
#define STRANGER_SAY_MS 10000

/* ---- accepting */

/* Room for one more that has not said who it is? Closes those that have been silent for long. */
static bool room_for_stranger(struct transport *t) {
    struct tcp *l, *next;
    uint32_t strangers = 0;
    uint64_t now = clock_mono_ms();
    if (HASH_COUNT(t->links) < UNGREETED_MAX)
        return true;
    HASH_ITER(hh, t->links, l, next) {
        if (!l->told_open || l->dial != 0 || l->state != STREAM_UP || t->config.greeted(t->config.ctx, l->id))
            continue;
        if (now - l->opened_ms > UNGREETED_MS)
            tcp_drop(l, "it never said who it is");
        else
            strangers++;
    }
    return strangers < UNGREETED_MAX;
}

static void accept_one(struct transport *t, uv_stream_t *server) {
    struct sockaddr_storage address;
    int len = sizeof(address);
    struct tcp *l = tcp_alloc(t);
    if (l == NULL)
        return;
    if (uv_accept(server, (uv_stream_t *)&l->handle) != 0 || uv_tcp_getpeername(&l->handle, (struct sockaddr *)&address, &len) != 0) {
        tcp_drop(l, "not accepted");
        return;
    }
    address_text((struct sockaddr *)&address, l->address);
    if (!address_private((struct sockaddr *)&address)) {
        uint64_t now = clock_mono_ms();
        bool quiet = t->stranger_said_ms != 0 && now - t->stranger_said_ms < STRANGER_SAY_MS; /* scanners come in swarms */
        t->stranger_said_ms = quiet ? t->stranger_said_ms : now;
        log_line(t->config.log, quiet ? LOG_DEBUG : LOG_WARNING, NULL,
                 "refused a connection from %s: only loopback and private networks are spoken to in this build", l->address);
        tcp_drop(l, "not a private address");
        return;
    }
    if (t->quiet || !room_for_stranger(t)) {
        if (!t->full_said)
            log_line(t->config.log, LOG_WARNING, NULL, "refused a connection from %s: %d others are open that never said who they are",
                     l->address, UNGREETED_MAX);
        t->full_said = true;
        tcp_drop(l, "too many");
        return;
    }
    t->full_said = false;
    tcp_start(l, 0);
}

static void connection_cb(uv_stream_t *server, int status) {
    struct transport *t = server->data;
    if (status != 0) {
        log_line(t->config.log, LOG_ERROR, NULL, "a connection could not be accepted: %s", uv_strerror(status));
        return;
    }
    accept_one(t, server);
}

/* ---- listening */

static void listener_closed_cb(uv_handle_t *handle) {
    struct transport *t = handle->data;
    t->listeners_open--;
}

static int listener_add(struct transport *t, const struct sockaddr *address, unsigned flags) {
    uv_tcp_t *tcp = &t->listeners[t->listeners_count];
    int r = uv_tcp_init_ex(t->config.loop, tcp, AF_UNSPEC);
    if (r != 0)
        return r;
    tcp->data = t;
    t->listeners_count++;
    t->listeners_open++;
    r = uv_tcp_bind(tcp, address, flags);
    if (r == 0)
        r = uv_listen((uv_stream_t *)tcp, BACKLOG, connection_cb);
    struct sockaddr_storage real;
    int len = sizeof(real);
    if (r == 0 && t->port == 0 && (r = uv_tcp_getsockname(tcp, (struct sockaddr *)&real, &len)) == 0)
        t->port = address_port((struct sockaddr *)&real);
    return r;
}

static void listeners_close(struct transport *t) {
    for (int i = 0; i < t->listeners_count; i++)
        if (!uv_is_closing((uv_handle_t *)&t->listeners[i]))
            uv_close((uv_handle_t *)&t->listeners[i], listener_closed_cb);
    t->listeners_count = 0;
}

/* Closing listeners and trying again needs their close callbacks to run: nothing else is on the loop yet. */
static void listeners_drop(struct transport *t) {
    listeners_close(t);
    while (t->listeners_open > 0)
        uv_run(t->config.loop, UV_RUN_NOWAIT);
    t->port = 0;
}

static int listen_both(struct transport *t, const struct sockaddr_storage *v4, uint16_t port) {
    struct sockaddr_storage v6;
    int r = 0;
    for (int i = 0; i < PORT_TRIES; i++) {
        t->port = port;
        r = listener_add(t, (const struct sockaddr *)v4, 0);
        if (r != 0)
            return r;
        address_numeric("::", t->port, &v6);
        r = listener_add(t, (struct sockaddr *)&v6, UV_TCP_IPV6ONLY);
        if (r == 0 || r == UV_EAFNOSUPPORT || r == UV_EADDRNOTAVAIL) /* a machine without IPv6 */
            return 0;
        if (r != UV_EADDRINUSE || port != 0)
            return r;
        listeners_drop(t); /* the free IPv4 port is taken in IPv6: take another */
    }
    return r;
}

static int listen_refused(const char *listen, int r, char *why, size_t why_len) {
    if (r == UV_EADDRINUSE) {
        snprintf(why, why_len, "cannot listen on %s: address already in use: stop the other program or choose another port with --listen",
                 listen);
        return ERR_BUSY;
    }
    snprintf(why, why_len, "cannot listen on %s: %s: choose an address of this machine and a free port above 1023 with --listen", listen,
             uv_strerror(r));
    return r == UV_EACCES ? ERR_DENIED : ERR_IO;
}

static int listen_start(struct transport *t, char *why, size_t why_len) {
    char host[ADDRESS_HOST_MAX];
    uint16_t port;
    struct sockaddr_storage address;
    if (address_parse(t->config.listen, ADDRESS_PORT, host, &port) != 0) {
        snprintf(why, why_len, "cannot listen on %s: say HOST:PORT", t->config.listen);
        return ERR_USAGE;
    }
    if (host[0] == 0)
        snprintf(host, sizeof(host), "0.0.0.0");
    if (!address_numeric(host, port, &address)) {
        uv_getaddrinfo_t request;
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
        int r = uv_getaddrinfo(t->config.loop, &request, NULL, host, NULL, &hints); /* before anything runs: it may wait */
        if (r != 0)
            return listen_refused(t->config.listen, r, why, why_len);
        char text[ADDRESS_TEXT_MAX], *end;
        address_text(request.addrinfo->ai_addr, text);
        uv_freeaddrinfo(request.addrinfo);
        end = strrchr(text, ':');
        *end = 0;
        if (text[0] == '[')
            text[strlen(text) - 1] = 0;
        if (!address_numeric(text[0] == '[' ? text + 1 : text, port, &address))
            return listen_refused(t->config.listen, UV_EADDRNOTAVAIL, why, why_len);
    }
    int r;
    if (strcmp(host, "0.0.0.0") == 0) {
        r = listen_both(t, &address, port);
    } else {
        t->port = port;
        r = listener_add(t, (struct sockaddr *)&address, 0);
    }
    if (r != 0) {
        listeners_drop(t);
        return listen_refused(t->config.listen, r, why, why_len);
    }
    snprintf(t->listen_text, sizeof(t->listen_text), strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, t->port);
    return 0;
}

/* ---- life */

int transport_open(struct transport **out, const struct transport_config *config, char *why, size_t why_len) {
    struct transport *t = calloc(1, sizeof(*t));
    snprintf(why, why_len, "out of memory");
    if (t == NULL || (t->buffer = malloc(READ_BUFFER_BYTES)) == NULL) {
        free(t);
        return ERR_NOMEM;
    }
    t->config = *config;
    int r = listen_start(t, why, why_len);
    if (r != 0) {
        free(t->buffer);
        free(t);
        return r;
    }
    *out = t;
    return 0;
}

void transport_quiet(struct transport *t) {
    if (t->quiet)
        return;
    t->quiet = true;
    listeners_close(t);
    dial_stop_all(t);
}

void transport_close(struct transport *t) {
    struct tcp *l, *next;
    transport_quiet(t);
    HASH_ITER(hh, t->links, l, next) { tcp_drop(l, "this node ends"); }
}

bool transport_gone(const struct transport *t) { return t->listeners_open == 0 && t->links == NULL && t->dials == NULL; }

void transport_free(struct transport *t) {
    assert(transport_gone(t));
    dial_release(t);
    free(t->buffer);
    free(t);
}

const char *transport_listen_text(const struct transport *t) { return t->listen_text; }
uint16_t transport_port(const struct transport *t) { return t->port; }
uint32_t transport_links(const struct transport *t) { return HASH_COUNT(t->links); }

static struct tcp *find(const struct transport *t, uint64_t id) {
    struct tcp *l;
    HASH_FIND(hh, t->links, &id, sizeof(id), l);
    return l;
}

uint32_t transport_rtt_us(const struct transport *t, uint64_t id) {
    struct tcp *l = find(t, id);
    uv_os_fd_t fd;
    return l == NULL || l->state == STREAM_CLOSING || uv_fileno((uv_handle_t *)&l->handle, &fd) != 0 ? 0 : rtt_us(fd);
}

void transport_send(struct transport *t, const struct effect *e) {
    struct tcp *l = find(t, e->link);
    if (l != NULL)
        tcp_append(l, e->head, e->len, e->batch, e->batch_from, e->batch_to);
}

void transport_close_link(struct transport *t, uint64_t link, const char *why) {
    struct tcp *l = find(t, link);
    if (l != NULL)
        tcp_end(l, why);
}

bool transport_settle(struct transport *t, struct event *e) {
    struct tcp *l, *next;
    if (t->any_dirty) {
        HASH_ITER(hh, t->links, l, next) {
            if (!l->dirty)
                continue;
            l->dirty = false;
            tcp_flush(l);
            if (l->state == STREAM_UP) {
                *e = (struct event){.type = EVENT_LINK_SENT, .link = l->id, .queued = l->queued};
                return true;
            }
        }
        t->any_dirty = false;
    }
    return dial_next_failure(t, e);
}
