/* The happy path for tcp is:
 *   tcp_alloc -> connected by accept or dial -> tcp_start -> shake.c until both know each other -> read_cb, tcp_take (records opened) ...
 *   tcp_append, tcp_flush (records sealed, uv_try_write, and uv_write for what the socket does not take) -> write_cb -> tcp_flush ...
 *   -> tcp_end -> all written, the last record too -> shutdown_cb -> end of file -> close_cb twice -> freed.
 * Possible failure modes are:
 *   - a record that the other side did not send so: tcp_drop(), and the log says that somebody changes what passes;
 *   - read or write error, or end of file: tcp_drop(), the core hears LINK_CLOSED from the close callback;
 *   - the other side neither reads nor closes while we end: the timer drops the link;
 *   - no memory for a segment: tcp_drop(), as a stream with a hole in it is useless.
 * The link is freed by the last close callback and nowhere else. */
#include "node/tcp.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/clock.h"
#include "proto/err.h"

#define SEGMENT_BYTES 4096
#define SMALL_BYTES 1536 /* a batch of few rows, which is not compressed by itself */
#define FLUSH_MS 2000
#define UNSENT_BYTES (128 << 10) /* that the kernel takes before it has sent them */
#define SHUT_MS 1000
#define QUIET_MS 5000 /* then the memory for compressing goes back */

static struct segment *segment_at(struct tcp *l, uint32_t i) { return &l->queue[(l->queue_at + i) % l->queue_cap]; }

static void closed_cb(uv_handle_t *handle) {
    struct tcp *l = handle->data;
    struct transport *t = l->transport;
    assert(l->handles > 0);
    if (--l->handles > 0)
        return;
    HASH_DEL(t->links, l);
    bool told = l->told_open;
    uint64_t id = l->id, dial = l->dial;
    char why[sizeof(l->why)];
    memcpy(why, l->why, sizeof(why));
    for (uint32_t i = 0; i < l->queue_count; i++)
        bytes_unref(segment_at(l, i)->bytes);
    free(l->queue);
    buf_release(&l->out);
    secure_release(&l->secure);
    squeeze_release(&l->squeeze);
    bool refused = l->refused;
    free(l);
    struct event e = {.type = told ? EVENT_LINK_CLOSED : EVENT_DIAL_FAILED, .link = id, .dial = dial, .text = why, .refused = refused};
    if (told || dial != 0)
        t->config.event(t->config.ctx, &e);
    transport_admit(t);
}

struct tcp *tcp_alloc(struct transport *t) {
    struct tcp *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    l->transport = t;
    l->id = ++t->link_last;
    uv_tcp_init(t->config.loop, &l->handle);
    uv_timer_init(t->config.loop, &l->timer);
    l->handles = 2;
    l->handle.data = l->timer.data = l->write.data = l->shutdown.data = l;
    l->opened_ms = clock_mono_ms();
    buf_init(&l->out, SEAL_BYTES + SECURE_RECORD_MAX + SECURE_RECORD_EXTRA);
    HASH_ADD(hh, t->links, id, sizeof(l->id), l);
    return l;
}

void tcp_drop(struct tcp *l, const char *why) {
    if (l->state == STREAM_CLOSING)
        return;
    if (l->why[0] == 0)
        snprintf(l->why, sizeof(l->why), "%s", why);
    l->state = STREAM_CLOSING;
    uv_close((uv_handle_t *)&l->handle, closed_cb);
    uv_close((uv_handle_t *)&l->timer, closed_cb);
}

static void timer_cb(uv_timer_t *timer) { tcp_drop(timer->data, "the other side did not take what was sent"); }

static void shutdown_cb(uv_shutdown_t *request, int status) {
    struct tcp *l = request->data;
    if (status != 0)
        tcp_drop(l, uv_strerror(status));
}

static void tcp_shut(struct tcp *l) {
    assert(l->queued == 0 && l->out.len == 0);
    l->state = STREAM_SHUT;
    if (uv_shutdown(&l->shutdown, (uv_stream_t *)&l->handle, shutdown_cb) != 0) {
        tcp_drop(l, "closed");
        return;
    }
    uv_timer_start(&l->timer, timer_cb, SHUT_MS, 0);
}

/* ---- reading */

static void alloc_cb(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    struct tcp *l = handle->data;
    (void)suggested;
    *buf = uv_buf_init(l->transport->buffer, READ_BUFFER_BYTES);
}

void tcp_take(struct tcp *l, const uint8_t *data, size_t len) {
    struct transport *t = l->transport;
    while (l->state == STREAM_UP) {
        size_t n = 0;
        int r = secure_open(&l->secure, &data, &len, t->plain, &n);
        if (r == 0)
            return;
        if (r < 0) {
            transport_say(t, LOG_WARNING, "%s: what came is not what was sent: somebody changes what passes, or the line is bad",
                          l->address);
            tcp_drop(l, "what came is not what was sent");
            return;
        }
        struct event e = {.type = EVENT_LINK_DATA, .link = l->id, .wire = l->wire_in};
        if (n > 0 && (r = squeeze_unpack(&l->squeeze, t->plain, n, t->room, &e.data, &e.len)) != 0) {
            tcp_drop(l, r == ERR_NOMEM ? "out of memory" : "what came cannot be read");
            return;
        }
        if (n > 0 && t->plain[0] == SQUEEZE_OVER)
            transport_rests(t);
        if (e.len > 0)
            t->config.event(t->config.ctx, &e);
    }
}

static void read_cb(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct tcp *l = stream->data;
    if (n < 0) {
        if (l->state == STREAM_SHAKING)
            shake_ended(l);
        bool in_order = n == UV_EOF && l->secure.finished;
        tcp_drop(l, in_order ? "the other side closed the connection" : n == UV_EOF ? "the other side is gone" : uv_strerror((int)n));
        return;
    }
    l->wire_in += n > 0 ? (uint64_t)n : 0;
    if (n > 0 && l->state == STREAM_SHAKING)
        shake_read(l, (const uint8_t *)buf->base, (size_t)n);
    else if (n > 0)
        tcp_take(l, (const uint8_t *)buf->base, (size_t)n); /* ending: what still comes is of no interest */
}

bool tcp_start(struct tcp *l, uint64_t dial) {
    uv_tcp_nodelay(&l->handle, 1);
    uv_tcp_keepalive(&l->handle, 1, 30);
#ifdef TCP_NOTSENT_LOWAT
    int fd, unsent = UNSENT_BYTES;
    if (uv_fileno((uv_handle_t *)&l->handle, &fd) == 0) /* what the kernel took is overtaken by nothing */
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
#endif
    l->dial = dial;
    int r = uv_read_start((uv_stream_t *)&l->handle, alloc_cb, read_cb);
    if (r != 0) {
        tcp_drop(l, uv_strerror(r));
        return false;
    }
    return shake_start(l);
}

/* ---- writing */

static bool queue_grow(struct tcp *l) {
    if (l->queue_count < l->queue_cap)
        return true;
    uint32_t cap = l->queue_cap == 0 ? 8 : l->queue_cap * 2;
    struct segment *queue = malloc(cap * sizeof(*queue));
    if (queue == NULL)
        return false;
    for (uint32_t i = 0; i < l->queue_count; i++)
        queue[i] = *segment_at(l, i);
    free(l->queue);
    l->queue = queue;
    l->queue_cap = cap;
    l->queue_at = 0;
    return true;
}

static bool segment_add(struct tcp *l, struct segment segment) {
    if (segment.bytes == NULL || !queue_grow(l)) {
        bytes_unref(segment.bytes);
        return false;
    }
    l->queue_count++;
    *segment_at(l, l->queue_count - 1) = segment;
    l->queued += segment.to - segment.from;
    return true;
}

/* Small pieces are copied together, so that a burst of short frames is one segment. */
static bool copy_add(struct tcp *l, const uint8_t *data, size_t len) {
    if (l->queue_count > 0) {
        struct segment *last = segment_at(l, l->queue_count - 1);
        if (last->ours && last->bytes->len - last->to >= len) {
            memcpy(last->bytes->data + last->to, data, len);
            last->to += len;
            l->queued += len;
            return true;
        }
    }
    struct bytes *bytes = bytes_new(NULL, len > SEGMENT_BYTES ? len : SEGMENT_BYTES);
    if (bytes == NULL)
        return false;
    memcpy(bytes->data, data, len);
    return segment_add(l, (struct segment){bytes, 0, len, true});
}

void tcp_append(struct tcp *l, const uint8_t *head, size_t head_len, struct bytes *batch, size_t from, size_t to) {
    bool ok = true;
    if (l->state != STREAM_UP)
        return;
    assert(batch == NULL || (from <= to && to <= batch->len));
    if (head_len > 0)
        ok = copy_add(l, head, head_len);
    if (ok && batch != NULL && to - from <= SMALL_BYTES)
        ok = to == from || copy_add(l, batch->data + from, to - from);
    else if (ok && batch != NULL)
        ok = segment_add(l, (struct segment){bytes_ref(batch), from, to, false});
    if (!ok) {
        tcp_drop(l, "out of memory");
        return;
    }
    l->dirty = l->transport->any_dirty = true;
}

/* Takes up to max bytes from the front of the queue; small: no more of it than what was small. */
static size_t take(struct tcp *l, uint8_t *plain, size_t max, bool small) {
    size_t n = 0;
    while (l->queue_count > 0 && n < max) {
        struct segment *first = segment_at(l, 0);
        if (small && !first->ours)
            break;
        size_t some = first->to - first->from;
        if (some > max - n)
            some = max - n;
        memcpy(plain + n, first->bytes->data + first->from, some);
        n += some;
        first->from += some;
        if (first->from < first->to)
            break;
        bytes_unref(first->bytes);
        l->queue_at = (l->queue_at + 1) % l->queue_cap;
        l->queue_count--;
    }
    assert(n <= l->queued);
    l->queued -= n;
    return n;
}

static void seal_one(struct tcp *l, const uint8_t *record, size_t len, bool last, uint8_t *to) {
    l->out.len += secure_seal(&l->secure, record, len, last, to);
}

/* The link is quiet: what it would need to compress is given back, on both sides. */
static void quiet_cb(uv_timer_t *timer) {
    static const uint8_t over = SQUEEZE_OVER;
    struct tcp *l = timer->data;
    uint64_t quiet = clock_mono_ms() - l->squeezed_ms;
    if (l->state != STREAM_UP || l->squeeze.pack == NULL)
        return;
    uint8_t *to = quiet < QUIET_MS || l->out.len > 0 ? NULL : buf_reserve(&l->out, 1 + SECURE_RECORD_EXTRA);
    if (to == NULL) {
        tcp_watch_quiet(l);
        return;
    }
    (void)squeeze_rest(&l->squeeze);
    transport_rests(l->transport);
    seal_one(l, &over, 1, false, to);
    tcp_flush(l);
}

/* Until the core has said whose link it is, the timer is shake.c's. */
void tcp_watch_quiet(struct tcp *l) {
    if (l->greeted && l->state == STREAM_UP && l->squeeze.pack != NULL && !uv_is_active((uv_handle_t *)&l->timer))
        uv_timer_start(&l->timer, quiet_cb, QUIET_MS, 0);
}

/* The next record, into transport->room or plain. */
static const uint8_t *next_record(struct tcp *l, size_t *len) {
    struct transport *t = l->transport;
    if (l->queue_count == 0) {
        *len = 0;
        return t->plain;
    }
    if (!segment_at(l, 0)->ours) {
        t->plain[0] = SQUEEZE_PLAIN;
        *len = 1 + take(l, t->plain + 1, SECURE_RECORD_MAX - 1, false);
        return t->plain;
    }
    size_t n = take(l, t->plain, SQUEEZE_PLAIN_MAX, true);
    uint64_t now = clock_mono_ms();
    if (l->squeeze.pack == NULL && now - l->squeezed_ms >= QUIET_MS)
        (void)squeeze_rest(&l->squeeze);
    *len = squeeze_pack(&l->squeeze, t->plain, n, t->room);
    if (n >= SQUEEZE_MIN)
        l->squeezed_ms = now;
    tcp_watch_quiet(l);
    return t->room;
}

/* Seals what waits, as far as it goes out now. False without memory. */
static bool seal(struct tcp *l) {
    if (l->secure.state != SECURE_OPEN)
        return true;
    bool ending = l->state == STREAM_FLUSHING;
    while (l->out.len < SEAL_BYTES && !l->sealed && (l->queue_count > 0 || ending)) {
        size_t n;
        const uint8_t *record = next_record(l, &n);
        uint8_t *to = buf_reserve(&l->out, n + SECURE_RECORD_EXTRA);
        if (to == NULL)
            return false;
        l->sealed = ending && l->queue_count == 0;
        seal_one(l, record, n, l->sealed, to);
    }
    return true;
}

size_t tcp_queued(const struct tcp *l) { return l->queued + l->out.len - l->out_from; }

/* The socket took n bytes of `out`; between writes a link needs no memory for it. */
static void written(struct tcp *l, size_t n) {
    l->out_from += n;
    l->wire_out += n;
    assert(l->out_from <= l->out.len);
    if (l->out_from < l->out.len)
        return;
    buf_release(&l->out);
    l->out_from = 0;
}

static void write_cb(uv_write_t *request, int status) {
    struct tcp *l = request->data;
    l->writing = false;
    if (status != 0) {
        tcp_drop(l, uv_strerror(status));
        return;
    }
    written(l, l->out.len - l->out_from);
    tcp_flush(l);
    if (l->state == STREAM_UP) {
        struct event e = {.type = EVENT_LINK_SENT, .link = l->id, .queued = tcp_queued(l), .wire = l->wire_out};
        l->transport->config.event(l->transport->config.ctx, &e);
    }
}

void tcp_flush(struct tcp *l) {
    while (!l->writing && l->state != STREAM_CLOSING) {
        if (!seal(l)) {
            tcp_drop(l, "out of memory");
            return;
        }
        if (l->out.len == 0)
            break;
        uv_buf_t buf = uv_buf_init((char *)l->out.data + l->out_from, (unsigned)(l->out.len - l->out_from));
        int n = uv_try_write((uv_stream_t *)&l->handle, &buf, 1);
        if (n > 0) {
            written(l, (size_t)n);
            continue;
        }
        if (n == UV_EAGAIN)
            n = uv_write(&l->write, (uv_stream_t *)&l->handle, &buf, 1, write_cb);
        if (n != 0) {
            tcp_drop(l, uv_strerror(n));
            return;
        }
        l->writing = true;
    }
    if (l->state == STREAM_FLUSHING && l->queue_count == 0 && l->out.len == 0)
        tcp_shut(l);
}

void tcp_end(struct tcp *l, const char *why) {
    if (l->state != STREAM_UP && l->state != STREAM_SHAKING)
        return;
    if (why != NULL || l->why[0] == 0)
        snprintf(l->why, sizeof(l->why), "%s", why != NULL ? why : "closed");
    l->state = STREAM_FLUSHING;
    uv_timer_start(&l->timer, timer_cb, FLUSH_MS, 0);
    l->dirty = l->transport->any_dirty = true; /* the flush that follows shuts it when nothing is queued */
}
