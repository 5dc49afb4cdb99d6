#include "proto/zip.h"

#include <assert.h>
#include <stdlib.h>
#include <zstd.h>

#include "proto/err.h"

#define ZIP_LEVEL 1             /* measured on columns of ordinary rows: smaller than level 3, in two thirds of the time */
#define ZIP_KEEP_MAX (1u << 20) /* bytes of a context that is kept */

struct zip {
    ZSTD_CCtx *pack;
    ZSTD_DCtx *unpack;
    ZSTD_outBuffer out;
    size_t raw_left;
};

struct zip *zip_new(void) {
    return calloc(1, sizeof(struct zip));
}

void zip_free(struct zip *z) {
    if (!z)
        return;
    ZSTD_freeCCtx(z->pack);
    ZSTD_freeDCtx(z->unpack);
    free(z);
}

void zip_trim(struct zip *z) {
    if (z->pack && ZSTD_sizeof_CCtx(z->pack) > ZIP_KEEP_MAX) {
        ZSTD_freeCCtx(z->pack);
        z->pack = NULL;
    }
}

int zip_begin(struct zip *z, size_t raw_len, uint8_t *out, size_t out_max) {
    if (!z->pack) {
        z->pack = ZSTD_createCCtx();
        if (!z->pack)
            return ERR_NOMEM;
        ZSTD_CCtx_setParameter(z->pack, ZSTD_c_compressionLevel, ZIP_LEVEL);
    }
    ZSTD_CCtx_reset(z->pack, ZSTD_reset_session_only);
    ZSTD_CCtx_setPledgedSrcSize(z->pack, raw_len);
    z->out = (ZSTD_outBuffer){.dst = out, .size = out_max};
    z->raw_left = raw_len;
    return 0;
}

static int run(struct zip *z, const void *p, size_t len, ZSTD_EndDirective directive) {
    ZSTD_inBuffer in = {.src = p, .size = len};
    for (;;) {
        size_t before = in.pos;
        size_t left = ZSTD_compressStream2(z->pack, &z->out, &in, directive);
        if (ZSTD_isError(left))
            return ERR_NOMEM; /* the sizes are right, so that nothing else can fail */
        if (directive == ZSTD_e_end ? !left : in.pos == in.size)
            return 0;
        if (z->out.pos == z->out.size && in.pos == before)
            return ERR_TOOBIG;
    }
}

int zip_put(struct zip *z, const void *p, size_t len) {
    assert(z->pack && len <= z->raw_left);
    z->raw_left -= len;
    return len ? run(z, p, len, ZSTD_e_continue) : 0;
}

int zip_end(struct zip *z, size_t *out_len) {
    assert(z->pack && !z->raw_left);
    int r = run(z, NULL, 0, ZSTD_e_end);
    *out_len = z->out.pos;
    return r;
}

int zip_check(const uint8_t *data, size_t len, size_t raw_len) {
    if (ZSTD_getFrameContentSize(data, len) != raw_len || !raw_len)
        return ERR_MALFORMED; /* also when it declares none: the unknown and error values are no possible size */
    /* Not two frames, nor something behind one. */
    return ZSTD_findFrameCompressedSize(data, len) == len ? 0 : ERR_MALFORMED;
}

int zip_expand(struct zip *z, const uint8_t *data, size_t len, uint8_t *raw, size_t raw_len) {
    int r = zip_check(data, len, raw_len);
    if (r)
        return r;
    if (!z->unpack)
        z->unpack = ZSTD_createDCtx();
    if (!z->unpack)
        return ERR_NOMEM;
    size_t got = ZSTD_decompressDCtx(z->unpack, raw, raw_len, data, len);
    return got == raw_len ? 0 : ERR_MALFORMED;
}
