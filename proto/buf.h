/* Starling: a growing, bounded byte buffer with sticky failure: after one failed append `failed` stays set (an enum err)
 * and all later appends do nothing, so that a writer checks once at its end. */
#ifndef PROTO_BUF_H
#define PROTO_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data;
    size_t len, cap, max; /* max: bytes, the bound */
    int failed;           /* 0, ERR_NOMEM or ERR_TOOBIG */
};

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b);
void buf_clear(struct buf *b); /* len = 0, failure forgotten, memory kept */
void buf_append(struct buf *b, const void *data, size_t len);
/* Room for len more bytes, which the caller fills and then counts in b->len. NULL when failed. */
uint8_t *buf_grow(struct buf *b, size_t len);
static inline uint8_t *buf_reserve(struct buf *b, size_t len) {
    return !b->failed && b->data && len <= b->cap - b->len ? b->data + b->len : buf_grow(b, len);
}

/* msgpack writers (over msgpack-c's packers). */
void buf_pack_nil(struct buf *b);
void buf_pack_u64(struct buf *b, uint64_t v);
void buf_pack_i64(struct buf *b, int64_t v);
void buf_pack_f64(struct buf *b, double v);
void buf_pack_bool(struct buf *b, int v);
void buf_pack_bin(struct buf *b, const void *p, size_t n);
/* The header alone; the n bytes follow by buf_append or apart from this buffer. */
void buf_pack_bin_header(struct buf *b, size_t n);
void buf_pack_str(struct buf *b, const char *p, size_t n);
void buf_pack_cstr(struct buf *b, const char *s);
void buf_pack_array(struct buf *b, uint32_t n);

#endif
