#include "proto/squeeze.h"

#include <assert.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "proto/err.h"

/* Measured on commits of one ordinary row: half of what goes in; a window twice as large gains one byte in a hundred and takes twice the memory. */
#define LEVEL 1
#define WINDOW_LOG 14
#define HASH_LOG 13
#define MATCH_MIN 4

void squeeze_release(struct squeeze *s) {
    ZSTD_freeCCtx(s->pack);
    ZSTD_freeDCtx(s->unpack);
    *s = (struct squeeze){0};
}

static size_t pack_plain(const uint8_t *plain, size_t len, uint8_t *out) {
    out[0] = SQUEEZE_PLAIN;
    memcpy(out + 1, plain, len);
    return len + 1;
}

static ZSTD_CCtx *begin(void) {
    ZSTD_CCtx *c = ZSTD_createCCtx();
    if (!c)
        return NULL;
    bool ok = !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, LEVEL)) &&
              !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, WINDOW_LOG)) &&
              !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_hashLog, HASH_LOG)) &&
              !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_minMatch, MATCH_MIN)) &&
              !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0));
    assert(ok);
    return c;
}

size_t squeeze_pack(struct squeeze *s, const uint8_t *plain, size_t len, uint8_t *out) {
    assert(len <= SQUEEZE_PLAIN_MAX);
    bool first = !s->pack;
    if (len < SQUEEZE_MIN)
        return pack_plain(plain, len, out);
    if (first && (s->spared < SQUEEZE_AFTER || !(s->pack = begin()))) {
        s->spared += len;
        return pack_plain(plain, len, out);
    }
    ZSTD_inBuffer from = {.src = plain, .size = len};
    ZSTD_outBuffer to = {.dst = out + 1, .size = SQUEEZE_RECORD_MAX - 1};
    size_t left = ZSTD_compressStream2(s->pack, &to, &from, ZSTD_e_flush);
    if (ZSTD_isError(left)) { /* without memory; nothing of this stream is used any more */
        ZSTD_freeCCtx(s->pack);
        s->pack = NULL;
        return pack_plain(plain, len, out);
    }
    assert(left == 0 && from.pos == len);
    out[0] = first ? SQUEEZE_FIRST : SQUEEZE_NEXT;
    return to.pos + 1;
}

bool squeeze_rest(struct squeeze *s) {
    bool over = s->pack != NULL;
    s->spared = 0;
    ZSTD_freeCCtx(s->pack);
    s->pack = NULL;
    return over;
}

static int expand(struct squeeze *s, const uint8_t *data, size_t len, uint8_t *room, size_t *plain_len) {
    ZSTD_inBuffer from = {.src = data, .size = len};
    ZSTD_outBuffer to = {.dst = room, .size = SQUEEZE_PLAIN_MAX};
    while (from.pos < from.size) {
        size_t in = from.pos, out = to.pos, r = ZSTD_decompressStream(s->unpack, &to, &from);
        if (ZSTD_isError(r))
            return ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation ? ERR_NOMEM : ERR_MALFORMED;
        if (r == 0 || (from.pos == in && to.pos == out)) /* the stream's end is no part of it; and no room is left */
            return ERR_MALFORMED;
    }
    /* Full: is there more? Nothing of it may stay behind for the next record. */
    uint8_t more;
    ZSTD_outBuffer rest = {.dst = &more, .size = 1};
    if (to.pos == to.size && (ZSTD_isError(ZSTD_decompressStream(s->unpack, &rest, &from)) || rest.pos))
        return ERR_MALFORMED;
    *plain_len = to.pos;
    return 0;
}

int squeeze_unpack(struct squeeze *s, const uint8_t *record, size_t len, uint8_t *room, const uint8_t **plain, size_t *plain_len) {
    *plain = room;
    *plain_len = 0;
    if (!len)
        return ERR_MALFORMED;
    switch (record[0]) {
    case SQUEEZE_PLAIN:
        *plain = record + 1;
        *plain_len = len - 1;
        return 0;
    case SQUEEZE_FIRST:
        ZSTD_freeDCtx(s->unpack);
        if (!(s->unpack = ZSTD_createDCtx()))
            return ERR_NOMEM;
        if (ZSTD_isError(ZSTD_DCtx_setParameter(s->unpack, ZSTD_d_windowLogMax, WINDOW_LOG)))
            return ERR_NOMEM;
        return expand(s, record + 1, len - 1, room, plain_len);
    case SQUEEZE_NEXT: return s->unpack ? expand(s, record + 1, len - 1, room, plain_len) : ERR_MALFORMED;
    case SQUEEZE_OVER:
        ZSTD_freeDCtx(s->unpack);
        s->unpack = NULL;
        return len == 1 ? 0 : ERR_MALFORMED;
    default: return ERR_MALFORMED;
    }
}
