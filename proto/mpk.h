/* Starling: the only reader of msgpack bytes that come from a file or the network.
 * A cursor over borrowed bytes. It never allocates, never trusts a declared length beyond what is there or beyond the
 * caller's bound, and fails stickily: after the first failure `err` stays set and every getter returns 0, NULL or false,
 * so that a parser checks once at its end. Getters are strict: the next object must be of the asked type.
 * Spec: https://github.com/msgpack/msgpack/blob/master/spec.md (ext types are refused). */
#ifndef PROTO_MPK_H
#define PROTO_MPK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mpk_type { MPK_END, MPK_NIL, MPK_BOOL, MPK_INT, MPK_UINT, MPK_FLOAT, MPK_STR, MPK_BIN, MPK_ARRAY, MPK_MAP, MPK_BAD };
/* MPK_UINT only for values above INT64_MAX; all other integers are MPK_INT. */

#define MPK_DEPTH_MAX 16

struct mpk {
    const uint8_t *at, *end;
    int err; /* 0, ERR_MALFORMED, or ERR_TOOBIG when only the caller's bound was broken */
};

void mpk_init(struct mpk *m, const void *data, size_t len);
enum mpk_type mpk_peek(const struct mpk *m);
bool mpk_nil(struct mpk *m); /* true and consumed if the next object is nil; false and untouched otherwise (not a failure) */
bool mpk_bool(struct mpk *m);
uint64_t mpk_u64(struct mpk *m, uint64_t max); /* fails if negative or above max */
int64_t mpk_i64(struct mpk *m);
double mpk_f64(struct mpk *m);
const uint8_t *mpk_bin(struct mpk *m, size_t *len, size_t max); /* borrowed; NULL when failed */
const uint8_t *mpk_bin_exact(struct mpk *m, size_t len);
const char *mpk_str(struct mpk *m, size_t *len, size_t max); /* borrowed, not terminated, any bytes */
uint32_t mpk_array(struct mpk *m, uint32_t max);             /* element count; also fails if count exceeds the bytes left */
/* The next object of any scalar type; fails on arrays and maps. */
struct mpk_scalar {
    enum mpk_type type; /* NIL, BOOL, INT, UINT, FLOAT, STR or BIN */
    uint64_t u;         /* BOOL, UINT; INT: as two's complement */
    double f;           /* FLOAT; a float32 is widened */
    const uint8_t *p;   /* STR, BIN; borrowed */
    size_t len;
};
bool mpk_scalar(struct mpk *m, struct mpk_scalar *out);
void mpk_skip(struct mpk *m); /* one object of any type, nesting at most MPK_DEPTH_MAX */
/* Fails on the caller's behalf, e.g. when a value that was read breaks a rule of the format. The first failure stays. */
void mpk_fail(struct mpk *m, int err);
static inline size_t mpk_left(const struct mpk *m) { return (size_t)(m->end - m->at); }
/* 0 if nothing failed and everything was read, else the error. */
int mpk_finish(const struct mpk *m);

#endif
