#include "proto/link.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/batch.h"
#include "proto/err.h"

#define RX_KEPT_MAX (128u << 10) /* buffer kept between frames */

static const bool moves[LINK_STATES][LINK_STATES] = {
    [LINK_GREETING] = {[LINK_UP] = true, [LINK_CLOSING] = true, [LINK_GONE] = true},
    [LINK_UP] = {[LINK_CLOSING] = true, [LINK_GONE] = true},
    [LINK_CLOSING] = {[LINK_GONE] = true},
};

void link_advance(struct link *l, enum link_state to) {
    assert(to < LINK_STATES);
    assert(moves[l->state][to]);
    l->state = to;
}

struct link *link_new(uint64_t id, uint64_t dial, const char *address, const uint8_t key[NODE_KEY_BYTES]) {
    struct link *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->id = id;
    l->dial = dial;
    memcpy(l->key, key, sizeof l->key);
    l->state = LINK_GREETING;
    wire_clean(l->address, sizeof l->address, address ? address : "", address ? strlen(address) : 0);
    buf_init(&l->rx, WIRE_HEAD_BYTES + FRAME_BYTES_MAX);
    buf_init(&l->arriving[0].buf, BATCH_BYTES_MAX);
    buf_init(&l->arriving[1].buf, BATCH_BYTES_MAX);
    return l;
}

void link_free(struct link *l) {
    if (!l)
        return;
    buf_release(&l->rx);
    buf_release(&l->arriving[0].buf);
    buf_release(&l->arriving[1].buf);
    while (l->bulk_count)
        link_bulk_drop(l);
    free(l->bulk);
    free(l->ranges);
    free(l);
}

static size_t frame_length(const uint8_t *p) { return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | (size_t)p[3]; }

/* Moves bytes into rx until it holds `want`; false when the data ended before. */
static bool fill(struct link *l, const uint8_t **data, size_t *len, size_t want) {
    size_t n = want - l->rx.len;
    if (n > *len)
        n = *len;
    buf_append(&l->rx, *data, n);
    *data += n;
    *len -= n;
    return l->rx.len == want && !l->rx.failed;
}

int link_frame(struct link *l, const uint8_t **data, size_t *len, const uint8_t **frame, size_t *frame_len) {
    if (l->rx_taken) {
        l->rx_taken = false;
        if (l->rx.cap > RX_KEPT_MAX)
            buf_release(&l->rx);
        else
            buf_clear(&l->rx);
    }
    size_t bound = l->state == LINK_GREETING ? WIRE_HELLO_BYTES_MAX : FRAME_BYTES_MAX;
    if (l->rx.len == 0 && *len >= WIRE_HEAD_BYTES) { /* the usual case: a whole frame in the data, not copied */
        size_t n = frame_length(*data);
        if (n > bound)
            return ERR_TOOBIG;
        if (*len - WIRE_HEAD_BYTES >= n) {
            *frame = *data + WIRE_HEAD_BYTES;
            *frame_len = n;
            *data += WIRE_HEAD_BYTES + n;
            *len -= WIRE_HEAD_BYTES + n;
            return 1;
        }
    }
    if (*len == 0)
        return 0;
    if (l->rx.len < WIRE_HEAD_BYTES && !fill(l, data, len, WIRE_HEAD_BYTES))
        return l->rx.failed;
    size_t n = frame_length(l->rx.data);
    if (n > bound)
        return ERR_TOOBIG;
    if (!fill(l, data, len, WIRE_HEAD_BYTES + n))
        return l->rx.failed;
    *frame = l->rx.data + WIRE_HEAD_BYTES;
    *frame_len = n;
    l->rx_taken = true;
    return 1;
}

int link_chunk(struct link *l, const struct wire_batch *w, struct bytes **whole) {
    struct arriving *a = &l->arriving[w->flags & WIRE_BULK ? 1 : 0];
    *whole = NULL;
    if (w->at != a->came || (w->at > 0 && w->total != a->total))
        return ERR_MALFORMED;
    if (w->at == 0 && w->chunk_len == w->total) {
        *whole = bytes_new(w->chunk, w->chunk_len);
        return *whole ? 0 : ERR_NOMEM;
    }
    a->total = (size_t)w->total;
    a->came += w->chunk_len;
    bool over = a->came == a->total, passed_over = a->passed_over;
    if (over)
        a->came = a->passed_over = 0;
    if (passed_over)
        return 0;
    buf_append(&a->buf, w->chunk, w->chunk_len); /* grows with what came, not with what was declared */
    if (a->buf.failed)
        return a->buf.failed;
    if (!over)
        return 0;
    *whole = bytes_new(a->buf.data, a->buf.len);
    buf_release(&a->buf);
    return *whole ? 0 : ERR_NOMEM;
}

bool link_bulk(struct link *l, struct bytes *bytes, bool frame) {
    if (l->bulk_first + l->bulk_count == l->bulk_cap && l->bulk_first) {
        memmove(l->bulk, l->bulk + l->bulk_first, l->bulk_count * sizeof *l->bulk);
        l->bulk_first = 0;
    }
    if (l->bulk_count == l->bulk_cap) {
        uint32_t cap = l->bulk_cap ? l->bulk_cap * 2 : 8;
        struct bulk *bulk = realloc(l->bulk, cap * sizeof *bulk);
        if (!bulk)
            return false;
        l->bulk = bulk;
        l->bulk_cap = cap;
    }
    l->bulk[l->bulk_first + l->bulk_count++] = (struct bulk){bytes, frame};
    l->bulk_bytes += bytes->len;
    return true;
}

void link_bulk_drop(struct link *l) {
    struct bulk *b = &l->bulk[l->bulk_first];
    l->bulk_bytes -= b->bytes->len;
    bytes_unref(b->bytes);
    l->bulk_at = 0;
    l->bulk_first++;
    if (--l->bulk_count == 0)
        l->bulk_first = 0;
}
