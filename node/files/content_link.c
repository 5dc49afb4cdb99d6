/* The happy path for content_link is:
 *   content_link_new -> read_cb: records are opened, frames cut out of the stream, `frame` ...; content_link_send: sealed, written -> written_cb ...
 *   -> content_link_drop -> closed_cb -> `closed`, freed.
 * Possible failure modes are:
 *   - a record that the other side did not send, a frame that is too long, a read or write error, end of file, no memory: dropped;
 *   - nobody takes what is sent: who sends looks at content_link_queued(), and drops a link on which nothing passes. */
#include "node/files/content_link.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/content_door.h"
#include "proto/batch.h"
#include "proto/core.h"
#include "proto/wire.h"

#define READ_BYTES (128u << 10)

struct content_link {
    struct content_link_config config;
    uint8_t peer[NODE_ID_BYTES];
    void *data;
    uv_tcp_t handle;
    bool closing, paused, giving; /* giving: the frame that is in rx */
    struct secure secure;
    struct buf rx; /* an incomplete frame */
    size_t queued;
    uint64_t passed_ms;
    uint8_t *read, *plain;
};

struct sending {
    uv_write_t request;
    size_t len;
    uint8_t bytes[];
};

static void closed_cb(uv_handle_t *handle) {
    struct content_link *l = handle->data;
    l->config.closed(l->config.ctx, l);
    secure_release(&l->secure);
    buf_release(&l->rx);
    free(l->read);
    free(l->plain);
    free(l);
}

void content_link_drop(struct content_link *l) {
    if (l->closing)
        return;
    l->closing = true;
    uv_close((uv_handle_t *)&l->handle, closed_cb);
}

bool content_link_up(const struct content_link *l) { return !l->closing; }
const uint8_t *content_link_peer(const struct content_link *l) { return l->peer; }
void *content_link_data(const struct content_link *l) { return l->data; }
size_t content_link_queued(const struct content_link *l) { return l->queued; }
uint64_t content_link_quiet_ms(const struct content_link *l, uint64_t now) { return now > l->passed_ms ? now - l->passed_ms : 0; }

/* ---- reading */

static size_t frame_bytes(const uint8_t *p) {
    return WIRE_HEAD_BYTES + ((size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | (size_t)p[3]);
}

static bool give(struct content_link *l, const uint8_t *frame, size_t len) {
    return l->config.frame(l->config.ctx, l, frame + WIRE_HEAD_BYTES, len - WIRE_HEAD_BYTES) == 0;
}

/* The frame in rx is whole. */
static bool give_rx(struct content_link *l) {
    l->giving = true;
    bool ok = give(l, l->rx.data, l->rx.len);
    l->giving = false;
    buf_clear(&l->rx);
    return ok;
}

uint8_t *content_link_take(struct content_link *l) {
    uint8_t *frame = l->giving ? l->rx.data : NULL;
    if (frame != NULL)
        buf_init(&l->rx, WIRE_HEAD_BYTES + FRAME_BYTES_MAX);
    return frame;
}

/* Moves bytes into rx until it holds want. */
static bool fill(struct content_link *l, const uint8_t **data, size_t *len, size_t want) {
    size_t n = want - l->rx.len;
    if (n > *len)
        n = *len;
    buf_append(&l->rx, *data, n);
    *data += n;
    *len -= n;
    return l->rx.len == want && l->rx.failed == 0;
}

/* The stream's next bytes; false: the link cannot go on. */
static bool stream(struct content_link *l, const uint8_t *data, size_t len) {
    while (len > 0 && !l->closing) {
        if (l->rx.len == 0 && len >= WIRE_HEAD_BYTES && frame_bytes(data) <= len) { /* whole, and not copied */
            size_t n = frame_bytes(data);
            if (!give(l, data, n))
                return false;
            data += n;
            len -= n;
            continue;
        }
        if (l->rx.len < WIRE_HEAD_BYTES && !fill(l, &data, &len, WIRE_HEAD_BYTES))
            return l->rx.failed == 0;
        size_t n = frame_bytes(l->rx.data);
        if (n > WIRE_HEAD_BYTES + FRAME_BYTES_MAX || buf_reserve(&l->rx, n - l->rx.len) == NULL)
            return false;
        if (!fill(l, &data, &len, n))
            return l->rx.failed == 0;
        if (!give_rx(l))
            return false;
    }
    return true;
}

/* A record that cannot end the frame in rx, or ends with it, is opened where it belongs. */
static bool within_frame(const struct content_link *l) {
    return l->rx.len >= WIRE_HEAD_BYTES && frame_bytes(l->rx.data) - l->rx.len >= SECURE_RECORD_MAX;
}

static void take(struct content_link *l, const uint8_t *data, size_t len) {
    while (!l->closing) {
        bool within = within_frame(l);
        size_t n = 0;
        int r = secure_open(&l->secure, &data, &len, within ? l->rx.data + l->rx.len : l->plain, &n);
        if (r == 0)
            return;
        bool ok = r > 0 && (within || stream(l, l->plain, n));
        l->rx.len += ok && within ? n : 0;
        if (ok && within && l->rx.len == frame_bytes(l->rx.data))
            ok = give_rx(l);
        if (!ok) {
            content_link_drop(l);
            return;
        }
    }
}

static void alloc_cb(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    struct content_link *l = handle->data;
    (void)suggested;
    *buf = uv_buf_init((char *)l->read, READ_BYTES);
}

static void read_cb(uv_stream_t *handle, ssize_t n, const uv_buf_t *buf) {
    struct content_link *l = handle->data;
    if (n < 0) {
        content_link_drop(l);
        return;
    }
    if (n == 0)
        return;
    l->passed_ms = clock_mono_ms();
    l->config.passed(l->config.ctx, l, (size_t)n, 0);
    take(l, (const uint8_t *)buf->base, (size_t)n);
}

void content_link_pause(struct content_link *l, bool pause) {
    if (l->closing || l->paused == pause)
        return;
    l->paused = pause;
    if (pause)
        uv_read_stop((uv_stream_t *)&l->handle);
    else if (uv_read_start((uv_stream_t *)&l->handle, alloc_cb, read_cb) != 0)
        content_link_drop(l);
}

/* ---- writing */

static void written_cb(uv_write_t *request, int status) {
    struct sending *s = (struct sending *)request;
    struct content_link *l = request->handle->data;
    l->queued -= s->len;
    if (status == 0) {
        l->passed_ms = clock_mono_ms();
        l->config.passed(l->config.ctx, l, 0, s->len);
    }
    free(s);
    if (status != 0)
        content_link_drop(l);
    else if (!l->closing && l->queued < LINK_LOW_BYTES)
        l->config.drained(l->config.ctx, l);
}

static void put(struct content_link *l, struct sending *s) {
    uv_buf_t buf = uv_buf_init((char *)s->bytes, (unsigned)s->len);
    l->queued += s->len;
    if (uv_write(&s->request, (uv_stream_t *)&l->handle, &buf, 1, written_cb) != 0) {
        l->queued -= s->len;
        free(s);
        content_link_drop(l);
    }
}

void content_link_send(struct content_link *l, const uint8_t *frames, size_t len) {
    size_t records = (len + SECURE_RECORD_MAX - 1) / SECURE_RECORD_MAX;
    struct sending *s = l->closing || len == 0 ? NULL : malloc(sizeof *s + len + records * SECURE_RECORD_EXTRA);
    if (s == NULL) {
        if (len > 0)
            content_link_drop(l);
        return;
    }
    s->len = 0;
    for (size_t at = 0; at < len; at += SECURE_RECORD_MAX)
        s->len +=
            secure_seal(&l->secure, frames + at, len - at < SECURE_RECORD_MAX ? len - at : SECURE_RECORD_MAX, false, s->bytes + s->len);
    put(l, s);
}

/* ---- life */

static void begin(struct content_link *l, struct transport_handed *h) {
    struct buf out = h->out, rest = h->rest;
    h->out = h->rest = (struct buf){0};
    if (out.len > 0) {
        struct sending *s = malloc(sizeof *s + out.len);
        if (s != NULL) {
            memcpy(s->bytes, out.data, out.len);
            s->len = out.len;
            put(l, s);
        } else {
            content_link_drop(l);
        }
    }
    take(l, rest.data, rest.len);
    buf_release(&out);
    buf_release(&rest);
    if (!l->closing && !l->paused && uv_read_start((uv_stream_t *)&l->handle, alloc_cb, read_cb) != 0)
        content_link_drop(l);
}

struct content_link *content_link_new(const struct content_link_config *config, const uint8_t *peer, struct transport_handed *h,
                                      void *data) {
    struct content_link *l = calloc(1, sizeof *l);
    if (l == NULL || (l->read = malloc(READ_BYTES)) == NULL || (l->plain = malloc(SECURE_RECORD_MAX)) == NULL ||
        uv_tcp_init(config->loop, &l->handle) != 0) {
        if (l != NULL) {
            free(l->read);
            free(l->plain);
        }
        free(l);
        transport_handed_release(h);
        return NULL;
    }
    l->config = *config;
    memcpy(l->peer, peer, sizeof l->peer);
    l->data = data;
    l->handle.data = l;
    l->secure = h->secure;
    memset(&h->secure, 0, sizeof h->secure);
    buf_init(&l->rx, WIRE_HEAD_BYTES + FRAME_BYTES_MAX);
    l->passed_ms = clock_mono_ms();
    if (uv_tcp_open(&l->handle, h->fd) != 0) {
        transport_handed_release(h);
        content_link_drop(l);
        return l;
    }
    h->fd = -1;
    begin(l, h);
    return l;
}
