/* Any bytes as a version vector; what reads well packs to a vector that reads the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "proto/vv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mpk m;
    struct vv v, again;
    struct buf b;
    vv_init(&v);
    vv_init(&again);
    buf_init(&b, 1 << 20);
    mpk_init(&m, data, size);
    if (!vv_unpack(&v, &m)) {
        vv_pack(&v, &b);
        mpk_init(&m, b.data, b.len);
        if (vv_unpack(&again, &m) || mpk_finish(&m) || !vv_equal(&v, &again) || vv_digest(&v) != vv_digest(&again))
            abort();
        if (vv_merge(&again, &v) || !vv_equal(&v, &again) || !vv_covers(&v, &again) || vv_missing(&v, &again))
            abort();
    }
    vv_release(&v);
    vv_release(&again);
    buf_release(&b);
    return 0;
}
