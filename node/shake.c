/* The happy path for shake is:
 *   tcp_start -> shake_start -> shake_read ... -> opened: the core hears LINK_OPEN with the key that the other side has proven.
 *   A connection for content is handed over instead, and its struct tcp closed.
 * Possible failure modes are:
 *   - one of us refuses the other (secret, version, address): said on the line and in the log, then closed;
 *   - what comes is no handshake, or was changed on its way: closed, one line in the log;
 *   - silence, or a link that the core never calls anybody's: closed after SHAKE_MS, or sooner while others wait (transport.c).
 * What a stranger can make us keep is bounded by proto/secure.h to less than a KiB. */
#include "node/tcp.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "proto/wire.h"

#define SHAKE_MS 5000

/* The other side for a log line: a port that the kernel chose says nothing, and would make every attempt a new line. */
static const char *who(const struct tcp *l, char out[ADDRESS_TEXT_MAX]) {
    snprintf(out, ADDRESS_TEXT_MAX, "%s", l->address);
    char *colon = l->dial == 0 ? strrchr(out, ':') : NULL;
    if (colon != NULL)
        *colon = 0;
    return out;
}

static void failed(struct tcp *l) {
    struct transport *t = l->transport;
    char name[ADDRESS_TEXT_MAX], start[sizeof(l->secure.start) + 1];
    const char *why = secure_why(&l->secure);
    who(l, name);
    l->refused = l->secure.reason < SECURE_REFUSALS;
    if (l->secure.reason == SECURE_GARBAGE) {
        wire_clean(start, sizeof(start), (const char *)l->secure.start, l->secure.start_len);
        transport_say(t, LOG_WARNING, "%s is not a Starling peer, or one without encryption: it began with \"%s\"", name, start);
    } else if (l->secure.refused) {
        transport_say(t, LOG_WARNING, "%s refused this node: %s", name, why);
    } else if (l->refused) {
        transport_say(t, LOG_WARNING, "refused %s: %s", name, why);
    } else {
        transport_say(t, LOG_WARNING, "%s: %s", name, why);
    }
    if (l->secure.refused)
        snprintf(l->why, sizeof(l->why), "it refused this node: %s", why);
    else
        snprintf(l->why, sizeof(l->why), "%s", why);
}

static void timer_cb(uv_timer_t *timer) {
    struct tcp *l = timer->data;
    if (l->state == STREAM_SHAKING)
        shake_ended(l);
    l->greeted = l->state == STREAM_UP && l->transport->config.greeted(l->transport->config.ctx, l->id);
    if (!l->greeted)
        tcp_drop(l, "it never said who it is");
    tcp_watch_quiet(l);
}

bool shake_start(struct tcp *l) {
    struct transport *t = l->transport;
    uint8_t random[SECURE_RANDOM_BYTES];
    randombytes_buf(random, sizeof(random));
    secure_init(&l->secure, t->config.keys, l->dial != 0, random, &l->out);
    if ((l->dial & TRANSPORT_CONTENT) != 0)
        l->secure.purpose = SECURE_CONTENT;
    sodium_memzero(random, sizeof(random));
    uv_timer_start(&l->timer, timer_cb, SHAKE_MS, 0);
    tcp_flush(l);
    return l->state == STREAM_SHAKING;
}

/* The connection goes on under another descriptor: libuv ties the one that it has to this loop. */
static void hand_over(struct tcp *l, const uint8_t *data, size_t len) {
    struct transport *t = l->transport;
    struct transport_handed h = {.fd = -1, .dial = l->dial};
    uv_os_fd_t fd;
    buf_init(&h.rest, READ_BUFFER_BYTES);
    buf_append(&h.rest, data, len);
    if (h.rest.failed == 0 && !l->writing && l->out_from == 0 && uv_fileno((uv_handle_t *)&l->handle, &fd) == 0)
        h.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (h.fd < 0) {
        buf_release(&h.rest);
        tcp_drop(l, "no more descriptors");
        return;
    }
    h.secure = l->secure;
    h.out = l->out;
    memset(&l->secure, 0, sizeof(l->secure));
    buf_init(&l->out, SEAL_BYTES);
    l->dial = 0; /* nothing more is told of it */
    tcp_drop(l, "handed over");
    t->config.handed(t->config.ctx, &h);
}

void shake_read(struct tcp *l, const uint8_t *data, size_t len) {
    struct transport *t = l->transport;
    int r = secure_shake(&l->secure, t->config.keys, &data, &len, &l->out);
    if (r < 0) {
        failed(l);
        tcp_end(l, NULL); /* with the refusal that is in `out` */
        tcp_flush(l);
        return;
    }
    if (r == 0) {
        tcp_flush(l);
        return;
    }
    if (l->secure.purpose != SECURE_LINK) {
        hand_over(l, data, len);
        return;
    }
    l->state = STREAM_UP;
    l->told_open = true;
    l->dirty = t->any_dirty = true; /* the third message leaves together with the core's HELLO */
    struct event e = {.type = EVENT_LINK_OPEN, .link = l->id, .dial = l->dial, .address = l->address, .key = l->secure.peer};
    struct sockaddr_storage own;
    int own_len = sizeof(own);
    char local[ADDRESS_TEXT_MAX];
    if (uv_tcp_getsockname(&l->handle, (struct sockaddr *)&own, &own_len) == 0)
        e.local = address_text((const struct sockaddr *)&own, local);
    t->config.event(t->config.ctx, &e);
    tcp_take(l, data, len);
}

void shake_refuse(struct tcp *l, enum secure_reason reason) {
    const uint8_t none[SECURE_RANDOM_BYTES] = {0};
    secure_init(&l->secure, l->transport->config.keys, false, none, &l->out);
    secure_refuse(&l->secure, reason, &l->out);
    failed(l);
    tcp_end(l, NULL);
    tcp_flush(l);
}

void shake_ended(struct tcp *l) {
    if (l->secure.reason != SECURE_FINE)
        failed(l); /* it had no other secret, or gave up */
}
