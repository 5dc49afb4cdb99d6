/* Any bytes as the records of a link: a byte of length before each. What comes out is bounded, and never read beyond. */
#include <stdlib.h>

#include "proto/squeeze.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct squeeze s = {0};
    uint8_t *room = malloc(SQUEEZE_PLAIN_MAX);
    volatile uint8_t sum = 0;
    while (room && size > 0) {
        size_t len = data[0] < size ? data[0] : size - 1, n;
        const uint8_t *plain;
        int r = squeeze_unpack(&s, data + 1, len, room, &plain, &n);
        if (r)
            break; /* the link ends */
        if (n > SQUEEZE_PLAIN_MAX)
            abort();
        for (size_t i = 0; i < n; i++)
            sum = (uint8_t)(sum + plain[i]);
        data += len + 1;
        size -= len + 1;
    }
    free(room);
    squeeze_release(&s);
    return 0;
}
