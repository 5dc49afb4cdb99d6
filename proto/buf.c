#include "proto/buf.h"

#include <assert.h>
#include <msgpack/pack.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define BUF_CAP_MIN 64

void buf_init(struct buf *b, size_t max) { *b = (struct buf){.max = max}; }

void buf_release(struct buf *b) {
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b) {
    b->len = 0;
    b->failed = 0;
}

static int more(struct buf *b, size_t len) {
    assert(b->len <= b->cap);
    if (len > b->max || b->len > b->max - len)
        return ERR_TOOBIG;
    size_t need = b->len + len;
    size_t cap = b->cap > b->max / 2 ? b->max : b->cap * 2;
    if (cap < BUF_CAP_MIN)
        cap = BUF_CAP_MIN;
    if (cap < need)
        cap = need;
    uint8_t *data = realloc(b->data, cap);
    if (!data)
        return ERR_NOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

uint8_t *buf_grow(struct buf *b, size_t len) {
    if (!b->failed)
        b->failed = more(b, len);
    return b->failed ? NULL : b->data + b->len;
}

void buf_append(struct buf *b, const void *data, size_t len) {
    uint8_t *to = buf_reserve(b, len);
    if (!to || !len)
        return;
    memcpy(to, data, len);
    b->len += len;
}

static int write_to_buf(void *to, const char *data, size_t len) {
    struct buf *b = to;
    buf_append(b, data, len);
    return b->failed;
}

/* A packer on the stack, so that the compiler sees through the callback. */
static inline msgpack_packer packer(struct buf *b) { return (msgpack_packer){.data = b, .callback = write_to_buf}; }

/* What is one byte. */
static void put_byte(struct buf *b, unsigned byte) {
    uint8_t *to = buf_reserve(b, 1);
    if (!to)
        return;
    *to = (uint8_t)byte;
    b->len++;
}

void buf_pack_nil(struct buf *b) {
    msgpack_packer p = packer(b);
    msgpack_pack_nil(&p);
}

void buf_pack_u64(struct buf *b, uint64_t v) {
    if (v <= 0x7f) {
        put_byte(b, (unsigned)v);
        return;
    }
    msgpack_packer p = packer(b);
    msgpack_pack_uint64(&p, v);
}

void buf_pack_i64(struct buf *b, int64_t v) {
    msgpack_packer p = packer(b);
    msgpack_pack_int64(&p, v);
}

void buf_pack_f64(struct buf *b, double v) {
    msgpack_packer p = packer(b);
    msgpack_pack_double(&p, v);
}

void buf_pack_bool(struct buf *b, int v) {
    msgpack_packer p = packer(b);
    if (v)
        msgpack_pack_true(&p);
    else
        msgpack_pack_false(&p);
}

void buf_pack_bin(struct buf *b, const void *data, size_t n) {
    buf_pack_bin_header(b, n);
    buf_append(b, data, n);
}

void buf_pack_bin_header(struct buf *b, size_t n) {
    if (n > UINT32_MAX) {
        if (!b->failed)
            b->failed = ERR_TOOBIG;
        return;
    }
    msgpack_packer p = packer(b);
    msgpack_pack_bin(&p, n);
}

void buf_pack_str(struct buf *b, const char *data, size_t n) {
    if (n > UINT32_MAX) {
        if (!b->failed)
            b->failed = ERR_TOOBIG;
        return;
    }
    msgpack_packer p = packer(b);
    msgpack_pack_str(&p, n);
    buf_append(b, data, n);
}

void buf_pack_cstr(struct buf *b, const char *s) { buf_pack_str(b, s, strlen(s)); }

void buf_pack_array(struct buf *b, uint32_t n) {
    if (n <= 0xf) {
        put_byte(b, 0x90 | n);
        return;
    }
    msgpack_packer p = packer(b);
    msgpack_pack_array(&p, n);
}
