/* The happy path for caller is:
 *   caller_open: look the name up, connect, handshake -> caller_ask: a frame goes, a frame comes ... -> caller_close.
 * Possible failure modes are:
 *   - the name is not known, nobody listens, nothing answers within WAIT_MS: one line that says which;
 *   - one side refuses the other (secret, version, allow list): the reason, as a node's log would say it;
 *   - the line breaks, or what comes is no frame: the connection is of no use any more. */
#include "node/caller.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/address.h"
#include "node/clock.h"
#include "proto/core.h"
#include "proto/err.h"
#include "proto/wire.h"

#define CONNECT_MS 5000
#define WAIT_MS 60000 /* a member reads a slice of a table for an answer, behind whatever it does */
#define READ_BYTES 65536

/* 1: ready. */
static int ready(int fd, short events, uint64_t deadline) {
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = clock_mono_ms();
        int n = now >= deadline ? 0 : poll(&p, 1, (int)(deadline - now));
        if (n >= 0 || errno != EINTR)
            return n;
    }
}

static int fail(const struct caller *c, int r, char *why, size_t why_len, const char *what, const char *mend) {
    snprintf(why, why_len, "%s: %s: %s", c->address, what, mend);
    return r;
}

static int connect_one(const struct addrinfo *a) {
    int error = 0, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t len = sizeof(error);
    if (fd < 0)
        return -errno;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS && ready(fd, POLLOUT, clock_mono_ms() + CONNECT_MS) == 1)
        error = getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 ? error : errno;
    else
        error = errno == EINPROGRESS ? ETIMEDOUT : errno;
    if (error == 0)
        return fd;
    close(fd);
    return -error;
}

static int connect_any(struct caller *c, char *why, size_t why_len) {
    char host[ADDRESS_HOST_MAX], port_text[8];
    uint16_t port;
    struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM};
    if (address_parse(c->address, ADDRESS_PORT, host, &port) != 0 || host[0] == 0 || port == 0)
        return fail(c, ERR_USAGE, why, why_len, "not an address", "say HOST or HOST:PORT");
    snprintf(port_text, sizeof(port_text), "%u", port);
    int r = getaddrinfo(host, port_text, &hints, &found);
    if (r != 0)
        return fail(c, ERR_IO, why, why_len, gai_strerror(r), "correct the name, or give an address");
    int fd = -EHOSTUNREACH;
    for (const struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next)
        fd = connect_one(a);
    freeaddrinfo(found);
    if (fd < 0)
        return fail(c, ERR_IO, why, why_len, strerror(-fd), "start starlingd there, or open its port on the way");
    c->fd = fd;
    return 0;
}

static int send_all(struct caller *c, const uint8_t *data, size_t len) {
    uint64_t deadline = clock_mono_ms() + WAIT_MS;
    c->sent += len;
    while (len > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return ERR_IO;
        if (n < 0 && ready(c->fd, POLLOUT, deadline) != 1)
            return ERR_IO;
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* What has come, behind what is in rx. */
static int receive(struct caller *c, uint64_t deadline) {
    for (;;) {
        uint8_t *to = buf_reserve(&c->rx, READ_BYTES);
        if (to == NULL)
            return ERR_NOMEM;
        ssize_t n = recv(c->fd, to, READ_BYTES, 0);
        if (n > 0) {
            c->rx.len += (size_t)n;
            c->received += (uint64_t)n;
            return 0;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR) || ready(c->fd, POLLIN, deadline) != 1)
            return ERR_IO;
    }
}

static void consumed(struct buf *b, size_t left) {
    memmove(b->data, b->data + (b->len - left), left);
    b->len = left;
}

static int handshake(struct caller *c, const struct secure_keys *keys, char *why, size_t why_len) {
    uint8_t random[SECURE_RANDOM_BYTES];
    uint64_t deadline = clock_mono_ms() + CONNECT_MS;
    struct buf out;
    buf_init(&out, 1u << 16);
    randombytes_buf(random, sizeof(random));
    secure_init(&c->secure, keys, true, random, &out);
    c->secure.purpose = SECURE_VISIT;
    sodium_memzero(random, sizeof(random));
    int r = 0;
    while (r == 0) {
        r = send_all(c, out.data, out.len);
        buf_clear(&out);
        if (r == 0 && (r = receive(c, deadline)) == 0) {
            const uint8_t *data = c->rx.data;
            size_t len = c->rx.len;
            r = secure_shake(&c->secure, keys, &data, &len, &out);
            consumed(&c->rx, len);
        }
    }
    if (r == 1)
        r = send_all(c, out.data, out.len);
    buf_release(&out);
    if (r == 0)
        return 0;
    if (c->secure.state != SECURE_FAILED)
        return fail(c, r, why, why_len, "it closes the connection without an answer",
                    "see whether a Starling of this version listens there, and its log");
    snprintf(why, why_len, "%s %s%s", c->address,
             c->secure.refused ? "refuses this server: " : "cannot be visited: ", secure_why(&c->secure));
    return r;
}

int caller_open(struct caller *c, const char *address, const struct secure_keys *keys, char *why, size_t why_len) {
    memset(c, 0, sizeof(*c));
    c->fd = -1;
    buf_init(&c->rx, 4u << 20);
    buf_init(&c->in, WIRE_HEAD_BYTES + FRAME_BYTES_MAX + SECURE_RECORD_MAX);
    snprintf(c->address, sizeof(c->address), "%s", address);
    int r = connect_any(c, why, why_len);
    return r != 0 ? r : handshake(c, keys, why, why_len);
}

void caller_close(struct caller *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    secure_release(&c->secure);
    buf_release(&c->rx);
    buf_release(&c->in);
}

static int ask(struct caller *c, const char *text) {
    size_t len = strlen(text), at = 0;
    uint8_t head[WIRE_HEAD_BYTES], sealed[SECURE_RECORD_MAX + SECURE_RECORD_EXTRA], plain[SECURE_RECORD_MAX];
    int r = len > FRAME_BYTES_MAX ? ERR_TOOBIG : 0;
    for (unsigned i = 0; i < WIRE_HEAD_BYTES; i++)
        head[i] = (uint8_t)(len >> (24 - 8 * i));
    if (r == 0)
        r = send_all(c, sealed, secure_seal(&c->secure, head, sizeof(head), false, sealed));
    for (; r == 0 && at < len; at += sizeof(plain)) {
        size_t n = len - at < sizeof(plain) ? len - at : sizeof(plain);
        memcpy(plain, text + at, n);
        r = send_all(c, sealed, secure_seal(&c->secure, plain, n, false, sealed));
    }
    return r;
}

static size_t frame_bytes(const struct buf *b) {
    const uint8_t *p = b->data;
    if (b->len < WIRE_HEAD_BYTES)
        return 0;
    return WIRE_HEAD_BYTES + ((size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | (size_t)p[3]);
}

/* A whole frame in `in`. */
static int answer(struct caller *c) {
    uint64_t deadline = clock_mono_ms() + WAIT_MS;
    uint8_t plain[SECURE_RECORD_MAX];
    for (;;) {
        size_t whole = frame_bytes(&c->in), n = 0;
        if (whole > WIRE_HEAD_BYTES + FRAME_BYTES_MAX || (whole > 0 && c->in.len > whole))
            return ERR_MALFORMED;
        if (whole > 0 && c->in.len == whole)
            return 0;
        const uint8_t *data = c->rx.data;
        size_t len = c->rx.len;
        int r = len > 0 ? secure_open(&c->secure, &data, &len, plain, &n) : 0;
        consumed(&c->rx, len);
        if (r == 1)
            buf_append(&c->in, plain, n);
        else if (r == 0)
            r = receive(c, deadline);
        if (r < 0 || c->in.failed != 0)
            return r < 0 ? r : c->in.failed;
    }
}

json_t *caller_ask(struct caller *c, json_t *question, char *why, size_t why_len) {
    char *text = question == NULL ? NULL : json_dumps(question, JSON_COMPACT);
    json_decref(question);
    buf_clear(&c->in);
    int r = text == NULL ? ERR_NOMEM : ask(c, text);
    free(text);
    json_t *said = r != 0 || (r = answer(c)) != 0
                       ? NULL
                       : json_loadb((const char *)c->in.data + WIRE_HEAD_BYTES, c->in.len - WIRE_HEAD_BYTES, 0, NULL);
    if (said == NULL)
        snprintf(why, why_len, "%s: the connection was lost (%s): try again, and see the log there", c->address,
                 r != 0 ? err_text(r) : "no answer");
    return said;
}
