/* Starling: version vectors (Parker et al., 1983): per origin the highest version of which, with all before it, something
 * is known. Entries are sorted by origin; an origin that is absent counts as 0, and no entry holds 0, so that equal vectors have
 * equal entries. Whatever fails leaves its vector as it was, but for vv_diff and vv_unpack. */
#ifndef PROTO_VV_H
#define PROTO_VV_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/mpk.h"
#include "proto/origin.h"

#define VV_ENTRIES_MAX 4096

struct vv_entry {
    struct origin origin;
    uint64_t version;
};

struct vv {
    struct vv_entry *entries;
    uint32_t count, cap;
};

void vv_init(struct vv *v);
void vv_release(struct vv *v);
void vv_clear(struct vv *v);
uint64_t vv_get(const struct vv *v, const struct origin *o);
int vv_set(struct vv *v, const struct origin *o, uint64_t version);   /* 0, ERR_NOMEM, ERR_TOOBIG; may lower; 0 removes */
int vv_raise(struct vv *v, const struct origin *o, uint64_t version); /* never lowers */
int vv_copy(struct vv *to, const struct vv *from);
int vv_merge(struct vv *into, const struct vv *from);   /* entry-wise maximum */
bool vv_covers(const struct vv *a, const struct vv *b); /* a >= b everywhere */
bool vv_equal(const struct vv *a, const struct vv *b);
uint64_t vv_missing(const struct vv *have, const struct vv *want); /* how many versions of want are not in have */
uint64_t vv_digest(const struct vv *v);                            /* 64 bits; equal vectors, equal digests */
/* Entries of `now` that differ from `before` (vectors only grow): a difference, applied with vv_merge. */
int vv_diff(struct vv *out, const struct vv *before, const struct vv *now);
/* msgpack: array of [node bin16, epoch, version]. */
void vv_pack(const struct vv *v, struct buf *b);
int vv_unpack(struct vv *v, struct mpk *m);

#endif
