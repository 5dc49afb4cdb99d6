/* The happy path for transport is:
 *   transport_open binds and listens -> connection_cb accepts -> tcp_start; transport_dial -> dial.c connects -> tcp_start;
 *   transport_send queues -> transport_settle flushes and tells how much is left -> transport_close -> all handles closed -> transport_free.
 * Possible failure modes are:
 *   - the port is taken or may not be bound: transport_open says so in one line, nothing stays open;
 *   - accept fails (no descriptors): the connection is dropped by libuv, one line in the log, listening goes on;
 *   - someone who is not allowed connects: told so and closed;
 *   - many connections that never say who they are: each has 5 s; while STRANGERS_MAX are open, the next ones wait in the system's
 *     backlog, and each has STRANGER_HURRY_MS. Of one address, other than this machine's own, at most STRANGERS_OF_ONE. */
#include "node/tcp.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/allow.h"
#include "node/clock.h"
#include "node/memory.h"
#include "node/rtt.h"
#include "proto/err.h"

#define BACKLOG 128
#define STRANGERS_MAX 64
#define STRANGERS_OF_ONE 8
#define STRANGER_HURRY_MS 1000
#define LINGERING_MAX 32
#define PORT_TRIES 16
#define TRIM_MS 1000
#define SAY_AGAIN_MS 600000

void transport_say(struct transport *t, enum log_level level, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    uint64_t now = clock_mono_ms(), hash = 0xcbf29ce484222325u;
    for (const char *c = text; *c != 0; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    for (uint32_t i = 0; i < SAID_RING; i++)
        if (t->said[i].hash == hash && now - t->said[i].ms < SAY_AGAIN_MS) {
            log_line(t->config.log, LOG_DEBUG, NULL, "%s", text);
            return;
        }
    t->said[t->said_next].hash = hash;
    t->said[t->said_next].ms = now;
    t->said_next = (t->said_next + 1) % SAID_RING;
    log_line(t->config.log, level, NULL, "%s", text);
}

/* ---- accepting */

/* Also one whose handshake failed and that has not closed yet. */
static bool is_stranger(struct tcp *l) {
    if (!l->accepted || l->greeted || l->state == STREAM_CLOSING)
        return false;
    l->greeted = l->state == STREAM_UP && l->transport->config.greeted(l->transport->config.ctx, l->id);
    return !l->greeted;
}

/* Tells it why, and waits for a moment that it has read that; when that is done to many, they are just closed. */
static void turn_away(struct tcp *l, enum secure_reason reason) {
    struct tcp *other, *next;
    uint32_t lingering = 0;
    HASH_ITER(hh, l->transport->links, other, next) { lingering += !other->accepted && other->dial == 0 && other->state > STREAM_UP; }
    if (lingering < LINGERING_MAX)
        shake_refuse(l, reason);
    else
        tcp_drop(l, "not wanted");
}

/* Strangers, of this address only if it is not NULL. In a hurry those that are open for long are closed. */
static uint32_t strangers(struct transport *t, const struct sockaddr_storage *of, bool hurry) {
    struct tcp *l, *next;
    uint32_t count = 0;
    uint64_t now = clock_mono_ms();
    HASH_ITER(hh, t->links, l, next) {
        if ((of != NULL && !address_same_host(&l->peer, of)) || !is_stranger(l))
            continue;
        if (hurry && now - l->opened_ms > STRANGER_HURRY_MS)
            tcp_drop(l, "it never said who it is");
        else
            count++;
    }
    return count;
}

static void accept_one(struct transport *t, uv_stream_t *server) {
    int len = sizeof(struct sockaddr_storage);
    struct tcp *l = tcp_alloc(t);
    if (l == NULL)
        return;
    if (uv_accept(server, (uv_stream_t *)&l->handle) != 0 || uv_tcp_getpeername(&l->handle, (struct sockaddr *)&l->peer, &len) != 0) {
        tcp_drop(l, "not accepted");
        return;
    }
    const struct sockaddr *peer = (const struct sockaddr *)&l->peer;
    address_text(peer, l->address);
    if (t->quiet)
        tcp_drop(l, "this node ends");
    else if (!allow_permits(t->config.allow, peer))
        turn_away(l, SECURE_NOT_ALLOWED);
    else if (!address_loopback(peer) && strangers(t, &l->peer, false) >= STRANGERS_OF_ONE)
        turn_away(l, SECURE_CROWDED);
    else {
        l->accepted = true;
        tcp_start(l, 0);
    }
}

/* Looks again when a link has closed, after each round, and after STRANGER_HURRY_MS. */
void transport_admit(struct transport *t) {
    for (int i = 0; i < t->listeners_count; i++)
        if (t->waiting[i] && strangers(t, NULL, true) < STRANGERS_MAX) {
            t->waiting[i] = false;
            accept_one(t, (uv_stream_t *)&t->listeners[i]);
        }
}

static void hurry_cb(uv_timer_t *timer) {
    struct transport *t = timer->data;
    transport_admit(t);
    if (!t->waiting[0] && !t->waiting[1])
        uv_timer_stop(timer);
}

static void connection_cb(uv_stream_t *server, int status) {
    struct transport *t = server->data;
    if (status != 0) {
        log_line(t->config.log, LOG_ERROR, NULL, "a connection could not be accepted: %s", uv_strerror(status));
        return;
    }
    if (HASH_COUNT(t->links) < STRANGERS_MAX || strangers(t, NULL, true) < STRANGERS_MAX) {
        accept_one(t, server);
        return;
    }
    transport_say(t, LOG_WARNING, "%d connections are open that never said who they are: others wait", STRANGERS_MAX);
    t->waiting[server == (uv_stream_t *)&t->listeners[1]] = true; /* libuv leaves the rest in the backlog until this one is accepted */
    if (!uv_is_active((uv_handle_t *)&t->hurry))
        uv_timer_start(&t->hurry, hurry_cb, STRANGER_HURRY_MS / 4, STRANGER_HURRY_MS / 4);
}

/* ---- memory */

static void trim_cb(uv_timer_t *timer) {
    const struct transport *t = timer->data;
    for (struct tcp *l = t->links; l != NULL; l = l->hh.next)
        if (l->squeeze.pack != NULL || l->squeeze.unpack != NULL)
            return; /* its own rest leads here again */
    memory_give_back();
}

void transport_rests(struct transport *t) {
    if (!t->quiet)
        uv_timer_start(&t->trim, trim_cb, TRIM_MS, 0);
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
    t->waiting[0] = t->waiting[1] = false;
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

static void buffers_free(struct transport *t) {
    if (t != NULL) {
        free(t->buffer);
        free(t->plain);
    }
    free(t);
}

int transport_open(struct transport **out, const struct transport_config *config, char *why, size_t why_len) {
    struct transport *t = calloc(1, sizeof(*t));
    snprintf(why, why_len, "out of memory");
    if (t == NULL || (t->buffer = malloc(READ_BUFFER_BYTES)) == NULL || (t->plain = malloc(SECURE_RECORD_MAX)) == NULL) {
        buffers_free(t);
        return ERR_NOMEM;
    }
    t->config = *config;
    int r = listen_start(t, why, why_len);
    if (r != 0) {
        buffers_free(t);
        return r;
    }
    uv_timer_init(config->loop, &t->hurry);
    t->hurry.data = t;
    uv_timer_init(config->loop, &t->trim);
    t->trim.data = t;
    t->listeners_open += 2; /* the timers are closed with them */
    *out = t;
    return 0;
}

void transport_quiet(struct transport *t) {
    if (t->quiet)
        return;
    struct tcp *l, *next;
    t->quiet = true;
    listeners_close(t);
    uv_close((uv_handle_t *)&t->hurry, listener_closed_cb);
    uv_close((uv_handle_t *)&t->trim, listener_closed_cb);
    dial_stop_all(t);
    HASH_ITER(hh, t->links, l, next) {
        if (l->state == STREAM_SHAKING)
            tcp_drop(l, "this node ends");
    }
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
    buffers_free(t);
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

bool transport_resolving(const struct transport *t) { return dial_resolving(t); }

void transport_recheck(struct transport *t) {
    struct tcp *l, *next;
    HASH_ITER(hh, t->links, l, next) {
        if (l->state <= STREAM_UP && !l->named && !allow_permits(t->config.allow, (const struct sockaddr *)&l->peer))
            tcp_end(l, "its address is not allowed any more");
    }
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
                *e = (struct event){.type = EVENT_LINK_SENT, .link = l->id, .queued = tcp_queued(l), .wire = l->wire_out};
                return true;
            }
        }
        t->any_dirty = false;
    }
    return dial_next_failure(t, e);
}
