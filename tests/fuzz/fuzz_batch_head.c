/* Any bytes as an envelope: the head, and the check of its signature. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "proto/batch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct batch_head head;
    if (!batch_head_read(&head, data, size)) {
        if (head.body < data || head.body + head.body_len + BATCH_SIGNATURE_BYTES != data + size)
            abort();
        if (vv_covers(&head.after, &head.knew) && vv_missing(&head.after, &head.knew))
            abort();
        batch_head_release(&head);
    }
    const uint8_t key[NODE_KEY_BYTES] = {0};
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    batch_verify(data, size, key, chain);
    return 0;
}
