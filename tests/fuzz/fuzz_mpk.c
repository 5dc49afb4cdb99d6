/* Any bytes to the msgpack cursor: the first byte chooses the order of the getters. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "proto/mpk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void get_any(struct mpk *m, unsigned which) {
    struct mpk_scalar scalar;
    size_t len;
    switch (which % 10) {
    case 0: mpk_skip(m); break;
    case 1: mpk_u64(m, UINT64_MAX); break;
    case 2: mpk_i64(m); break;
    case 3: mpk_f64(m); break;
    case 4: mpk_bin(m, &len, 1000); break;
    case 5: mpk_str(m, &len, 1000); break;
    case 6: mpk_array(m, 1000); break;
    case 7: mpk_bool(m); break;
    case 8: mpk_bin_exact(m, 16); break;
    default: mpk_scalar(m, &scalar); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mpk m;
    mpk_init(&m, data, size);
    mpk_skip(&m);
    if (!m.err && (m.at <= data || m.at > data + size))
        abort();
    for (unsigned which = size ? data[0] : 0, mode = 0; mode < 2; mode++) {
        mpk_init(&m, data, size);
        while (!m.err && m.at < m.end) {
            get_any(&m, which);
            which = mode ? which * 7 + 3 : (unsigned)mpk_peek(&m) + 2;
        }
    }
    return 0;
}
