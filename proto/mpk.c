#include "proto/mpk.h"

#include <assert.h>
#include <string.h>

#include "proto/err.h"

/* What the first bytes of an object say. */
struct object {
    enum mpk_type type;
    uint64_t u;  /* INT, UINT, BOOL: the value; FLOAT: its bits; STR, BIN: bytes; ARRAY, MAP: elements, pairs */
    size_t head; /* bytes of all this; a STR's or BIN's own bytes follow */
};

/* First bytes 0xc0 to 0xdf: type, bytes of the number behind, and whether that number is signed. */
struct form {
    uint8_t type, bytes, is_signed;
};
static const struct form forms[32] = {
    [0x00] = {MPK_NIL, 0, 0},   [0x01] = {MPK_BAD, 0, 0},   [0x02] = {MPK_BOOL, 0, 0},  [0x03] = {MPK_BOOL, 0, 0},
    [0x04] = {MPK_BIN, 1, 0},   [0x05] = {MPK_BIN, 2, 0},   [0x06] = {MPK_BIN, 4, 0},   [0x07] = {MPK_BAD, 0, 0},
    [0x08] = {MPK_BAD, 0, 0},   [0x09] = {MPK_BAD, 0, 0},   [0x0a] = {MPK_FLOAT, 4, 0}, [0x0b] = {MPK_FLOAT, 8, 0},
    [0x0c] = {MPK_INT, 1, 0},   [0x0d] = {MPK_INT, 2, 0},   [0x0e] = {MPK_INT, 4, 0},   [0x0f] = {MPK_INT, 8, 0},
    [0x10] = {MPK_INT, 1, 1},   [0x11] = {MPK_INT, 2, 1},   [0x12] = {MPK_INT, 4, 1},   [0x13] = {MPK_INT, 8, 1},
    [0x14] = {MPK_BAD, 0, 0},   [0x15] = {MPK_BAD, 0, 0},   [0x16] = {MPK_BAD, 0, 0},   [0x17] = {MPK_BAD, 0, 0},
    [0x18] = {MPK_BAD, 0, 0},   [0x19] = {MPK_STR, 1, 0},   [0x1a] = {MPK_STR, 2, 0},   [0x1b] = {MPK_STR, 4, 0},
    [0x1c] = {MPK_ARRAY, 2, 0}, [0x1d] = {MPK_ARRAY, 4, 0}, [0x1e] = {MPK_MAP, 2, 0},   [0x1f] = {MPK_MAP, 4, 0},
};

static uint64_t load_be(const uint8_t *p, size_t n) {
    uint64_t u = 0;
    switch (n) { /* constant widths, so that each becomes one load */
    case 1: return p[0];
    case 2: return (uint64_t)p[0] << 8 | p[1];
    case 4: return (uint64_t)p[0] << 24 | (uint64_t)p[1] << 16 | (uint64_t)p[2] << 8 | p[3];
    case 8:
        for (int i = 0; i < 8; i++)
            u = u << 8 | p[i];
        return u;
    default: return 0;
    }
}

static uint64_t widen_f32(uint64_t bits) {
    uint32_t narrow = (uint32_t)bits;
    float f;
    memcpy(&f, &narrow, sizeof f);
    double d = (double)f;
    memcpy(&bits, &d, sizeof bits);
    return bits;
}

static bool decode_form(const struct mpk *m, struct object *o) {
    const struct form *form = &forms[m->at[0] - 0xc0];
    if (form->type == MPK_BAD || mpk_left(m) < 1u + form->bytes)
        return false;
    uint64_t u = load_be(m->at + 1, form->bytes);
    enum mpk_type type = (enum mpk_type)form->type;
    if (type == MPK_BOOL) {
        u = m->at[0] & 1;
    } else if (type == MPK_FLOAT && form->bytes == 4) {
        u = widen_f32(u);
    } else if (form->is_signed) {
        unsigned shift = 64u - 8u * form->bytes;
        u = (uint64_t)((int64_t)(u << shift) >> shift);
    } else if (type == MPK_INT && u > INT64_MAX) {
        type = MPK_UINT;
    }
    *o = (struct object){type, u, 1u + form->bytes};
    return true;
}

/* Reads the head of the next object without consuming it. False: nothing left, cut off, or not allowed. */
static inline bool decode(const struct mpk *m, struct object *o) {
    if (m->err || m->at == m->end)
        return false;
    uint8_t b = m->at[0];
    if (b <= 0x7f)
        *o = (struct object){MPK_INT, b, 1};
    else if (b >= 0xe0)
        *o = (struct object){MPK_INT, (uint64_t)(int64_t)(int8_t)b, 1};
    else if (b >= 0xc0)
        return decode_form(m, o);
    else if (b >= 0xa0)
        *o = (struct object){MPK_STR, b & 0x1f, 1};
    else if (b >= 0x90)
        *o = (struct object){MPK_ARRAY, b & 0x0f, 1};
    else
        *o = (struct object){MPK_MAP, b & 0x0f, 1};
    return true;
}

void mpk_init(struct mpk *m, const void *data, size_t len) {
    static const uint8_t nothing[1];
    assert(data || !len);
    m->at = data ? data : nothing; /* never NULL, so that differences of pointers are defined */
    m->end = m->at + len;
    m->err = 0;
}

void mpk_fail(struct mpk *m, int err) {
    assert(err);
    if (!m->err)
        m->err = err;
}

enum mpk_type mpk_peek(const struct mpk *m) {
    struct object o;
    if (!m->err && m->at == m->end)
        return MPK_END;
    return decode(m, &o) ? o.type : MPK_BAD;
}

bool mpk_nil(struct mpk *m) {
    if (m->err || m->at == m->end || m->at[0] != 0xc0)
        return false;
    m->at++;
    return true;
}

/* Consumes the head of the next object if it is of this type. */
static inline bool expect(struct mpk *m, enum mpk_type type, struct object *o) {
    if (!decode(m, o) || o->type != type) {
        mpk_fail(m, ERR_MALFORMED);
        return false;
    }
    m->at += o->head;
    return true;
}

bool mpk_bool(struct mpk *m) {
    struct object o;
    return expect(m, MPK_BOOL, &o) && o.u;
}

uint64_t mpk_u64(struct mpk *m, uint64_t max) {
    if (!m->err && m->at < m->end && m->at[0] <= 0x7f && m->at[0] <= max)
        return *m->at++; /* most are small */
    struct object o;
    if (!decode(m, &o) || (o.type != MPK_UINT && (o.type != MPK_INT || o.u > INT64_MAX))) {
        mpk_fail(m, ERR_MALFORMED);
        return 0;
    }
    if (o.u > max) {
        mpk_fail(m, ERR_TOOBIG);
        return 0;
    }
    m->at += o.head;
    return o.u;
}

int64_t mpk_i64(struct mpk *m) {
    struct object o;
    return expect(m, MPK_INT, &o) ? (int64_t)o.u : 0;
}

double mpk_f64(struct mpk *m) {
    struct object o;
    double d = 0;
    if (expect(m, MPK_FLOAT, &o))
        memcpy(&d, &o.u, sizeof d);
    return d;
}

/* The bytes of a STR or BIN whose head was consumed. */
static inline const uint8_t *body(struct mpk *m, uint64_t len, size_t max) {
    if (len > max || len > mpk_left(m)) {
        mpk_fail(m, len > max ? ERR_TOOBIG : ERR_MALFORMED);
        return NULL;
    }
    const uint8_t *p = m->at;
    m->at += len;
    return p;
}

static const uint8_t *sized(struct mpk *m, enum mpk_type type, size_t *len, size_t max) {
    struct object o;
    const uint8_t *p = expect(m, type, &o) ? body(m, o.u, max) : NULL;
    *len = p ? (size_t)o.u : 0;
    return p;
}

const uint8_t *mpk_bin(struct mpk *m, size_t *len, size_t max) { return sized(m, MPK_BIN, len, max); }

const char *mpk_str(struct mpk *m, size_t *len, size_t max) { return (const char *)sized(m, MPK_STR, len, max); }

const uint8_t *mpk_bin_exact(struct mpk *m, size_t len) {
    struct object o;
    if (!expect(m, MPK_BIN, &o))
        return NULL;
    if (o.u != len) {
        mpk_fail(m, ERR_MALFORMED);
        return NULL;
    }
    return body(m, o.u, len);
}

uint32_t mpk_array(struct mpk *m, uint32_t max) {
    struct object o;
    if (!expect(m, MPK_ARRAY, &o))
        return 0;
    if (o.u > max || o.u > mpk_left(m)) {
        mpk_fail(m, o.u > max ? ERR_TOOBIG : ERR_MALFORMED);
        return 0;
    }
    return (uint32_t)o.u;
}

bool mpk_scalar(struct mpk *m, struct mpk_scalar *out) {
    struct object o;
    if (!decode(m, &o) || o.type == MPK_ARRAY || o.type == MPK_MAP) {
        mpk_fail(m, ERR_MALFORMED);
        return false;
    }
    m->at += o.head;
    out->type = o.type;
    if (o.type == MPK_STR || o.type == MPK_BIN) {
        out->p = body(m, o.u, SIZE_MAX);
        out->len = out->p ? (size_t)o.u : 0;
        return out->p != NULL;
    }
    out->u = o.u;
    if (o.type == MPK_FLOAT)
        memcpy(&out->f, &o.u, sizeof out->f);
    return true;
}

void mpk_skip(struct mpk *m) {
    uint64_t left[MPK_DEPTH_MAX + 1]; /* objects still to skip, by depth */
    size_t depth = 0;
    left[0] = 1;
    for (;;) {
        while (!left[depth]) {
            if (!depth)
                return;
            depth--;
        }
        left[depth]--;
        struct object o;
        if (!decode(m, &o)) {
            mpk_fail(m, ERR_MALFORMED);
            return;
        }
        m->at += o.head;
        if (o.type == MPK_STR || o.type == MPK_BIN) {
            if (!body(m, o.u, SIZE_MAX))
                return;
        } else if (o.type == MPK_ARRAY || o.type == MPK_MAP) {
            uint64_t count = o.type == MPK_MAP ? o.u * 2 : o.u;
            if (count > mpk_left(m) || depth == MPK_DEPTH_MAX) {
                mpk_fail(m, count > mpk_left(m) ? ERR_MALFORMED : ERR_TOOBIG);
                return;
            }
            left[++depth] = count;
        }
    }
}

int mpk_finish(const struct mpk *m) {
    if (m->err)
        return m->err;
    return m->at == m->end ? 0 : ERR_MALFORMED;
}
