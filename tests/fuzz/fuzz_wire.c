/* Frames: the stream's reassembly first, then every message's unpack function on the payload, whatever type it says; what
 * unpacks must pack to something that unpacks to the same. */
#include <assert.h>
#include <string.h>

#include "proto/card.h"
#include "proto/err.h"
#include "proto/link.h"
#include "proto/wire.h"

static void walk(const struct wire_hello *h, const struct wire_members *w) {
    struct wire_db db;
    struct wire_member member;
    struct card card;
    char text[64];
    struct mpk m = h->dbs;
    for (uint32_t i = 0; i < h->dbs_count; i++) {
        wire_next_db(&m, &db);
        wire_clean(text, sizeof text, db.name.p, db.name.len);
        (void)wire_db_digest(&db);
    }
    assert(!m.err);
    m = w->members;
    for (uint32_t i = 0; i < w->count; i++) {
        wire_next_member(&m, &member);
        (void)card_read(&card, member.card, member.card_len);
    }
    assert(!m.err);
}

static void again(const struct wire_pull *pull, const struct wire_beat *beat) {
    struct buf b;
    buf_init(&b, FRAME_BYTES_MAX);
    wire_pack_pull(&b, pull);
    struct mpk m;
    uint32_t fields;
    struct wire_pull pull2;
    assert(wire_type(&m, b.data + WIRE_HEAD_BYTES, b.len - WIRE_HEAD_BYTES, &fields) == WIRE_PULL);
    assert(wire_unpack_pull(&pull2, &m, fields) == 0);
    assert(pull2.from == pull->from && pull2.to == pull->to && pull2.bytes == pull->bytes);
    buf_clear(&b);
    wire_pack_beat(&b, beat);
    struct wire_beat beat2;
    assert(wire_type(&m, b.data + WIRE_HEAD_BYTES, b.len - WIRE_HEAD_BYTES, &fields) == WIRE_BEAT);
    assert(wire_unpack_beat(&beat2, &m, fields) == 0);
    assert(beat2.digest == beat->digest && beat2.held == beat->held);
    buf_release(&b);
}

static void payload(const uint8_t *data, size_t size) {
    struct mpk m, from;
    uint32_t fields = 0;
    if (wire_type(&from, data, size, &fields) < 0)
        return;
    struct wire_hello hello = {0};
    struct wire_members members = {0};
    struct wire_pull pull;
    struct wire_beat beat = {0};
    struct wire_vector vector;
    struct wire_done done;
    struct wire_batch batch;
    struct wire_call call;
    struct wire_text text;
    struct vv vv;
    vv_init(&vv);
    m = from;
    if (wire_unpack_hello(&hello, &m, fields) || hello.protocol != PROTOCOL_VERSION)
        hello = (struct wire_hello){0};
    m = from;
    if (wire_unpack_members(&members, &m, fields))
        members = (struct wire_members){0};
    walk(&hello, &members);
    m = from;
    bool beats = wire_unpack_beat(&beat, &m, fields) == 0;
    if (!beats)
        beat = (struct wire_beat){0};
    m = from;
    if (wire_unpack_pull(&pull, &m, fields) == 0)
        again(&pull, &beat);
    m = from;
    (void)wire_unpack_vector(&vector, &vv, &m, fields);
    m = from;
    (void)wire_unpack_done(&done, &m, fields);
    m = from;
    (void)wire_unpack_batch(&batch, &m, fields);
    m = from;
    (void)wire_unpack_call(&call, &m, fields);
    m = from;
    (void)wire_unpack_refuse(&text, &m, fields);
    m = from;
    (void)wire_unpack_bye(&m, fields);
    vv_release(&vv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    payload(data, size);
    static const uint8_t key[NODE_KEY_BYTES];
    struct link *l = link_new(1, 0, "fuzz:1", key);
    assert(l);
    link_advance(l, LINK_UP);
    for (size_t at = 0; at < size;) { /* pieces of growing size */
        size_t n = 1 + at / 2 < size - at ? 1 + at / 2 : size - at;
        const uint8_t *p = data + at, *frame;
        size_t left = n, frame_len;
        int r;
        while ((r = link_frame(l, &p, &left, &frame, &frame_len)) == 1)
            payload(frame, frame_len);
        if (r < 0)
            break;
        at += n;
    }
    link_free(l);
    return 0;
}
