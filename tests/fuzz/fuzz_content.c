/* The messages of a content link: each unpack function on the input, whatever type it says. What unpacks packs to the same again, and
 * an expanded body is walked to its end. */
#include <assert.h>
#include <string.h>

#include "proto/core.h"
#include "proto/err.h"
#include "proto/wire.h"
#include "proto/wire_content.h"

static struct mpk reopen(struct buf *b, uint32_t *fields) {
    struct mpk m;
    assert(!b->failed && wire_type(&m, b->data + WIRE_HEAD_BYTES, b->len - WIRE_HEAD_BYTES, fields) >= WIRE_WHO);
    return m;
}

static void lists(struct mpk from, uint32_t fields, struct buf *b) {
    const uint8_t *hashes, *hash, *runs;
    uint32_t count;
    struct wire_have have, have2;
    struct mpk m = from;
    if (wire_unpack_who(&hashes, &count, &m, fields) == 0)
        assert(count >= 1 && count <= WIRE_WHO_MAX);
    m = from;
    (void)wire_unpack_list(&hash, &m, fields);
    m = from;
    if (wire_unpack_want(&runs, &count, &m, fields) == 0)
        for (uint32_t i = 0; i < count; i++) {
            struct wire_run run = wire_get_run(runs, i);
            assert(run.first <= WIRE_CHUNKS_MAX && run.count <= WIRE_CHUNKS_MAX);
        }
    m = from;
    if (wire_unpack_have(&have, &m, fields) == 0) {
        wire_pack_have(b, &have);
        m = reopen(b, &fields);
        assert(wire_unpack_have(&have2, &m, fields) == 0 && have2.chunks == have.chunks && have2.bitmap_len == have.bitmap_len);
    }
}

static void bodies(struct mpk from, uint32_t fields) {
    struct wire_groups groups;
    struct wire_part part;
    struct wire_entries entries;
    struct wire_data data;
    struct wire_run run;
    struct mpk m = from;
    if (wire_unpack_groups(&groups, &m, fields) == 0)
        assert(groups.first < groups.chunks && groups.count <= groups.chunks);
    m = from;
    if (wire_unpack_part(&part, &m, fields) == 0)
        (void)wire_get_u32(part.firsts + 4 * (part.count - 1));
    m = from;
    (void)wire_unpack_entries(&entries, &m, fields);
    m = from;
    (void)wire_unpack_gone(&run, &m, fields);
    m = from;
    if (wire_unpack_data(&data, &m, fields) == 0) {
        const uint8_t *p = data.body;
        size_t left = data.body_len;
        struct wire_item item;
        uint8_t sum = 0;
        while (wire_next_item(&p, &left, &item) == 1)
            for (uint32_t i = 0; i < item.len; i++)
                sum ^= item.data[i];
        (void)sum;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mpk from;
    struct buf b;
    uint32_t fields = 0;
    if (wire_type(&from, data, size, &fields) < 0)
        return 0;
    buf_init(&b, FRAME_BYTES_MAX);
    lists(from, fields, &b);
    bodies(from, fields);
    buf_release(&b);
    return 0;
}
