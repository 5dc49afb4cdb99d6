#include "proto/origin.h"

#include <sodium.h>
#include <string.h>

void node_id_of_key(uint8_t id[NODE_ID_BYTES], const uint8_t key[NODE_KEY_BYTES]) {
    uint8_t hash[32];
    crypto_generichash(hash, sizeof hash, key, NODE_KEY_BYTES, NULL, 0);
    memcpy(id, hash, NODE_ID_BYTES);
}

const char *origin_text(const struct origin *o, char out[ORIGIN_TEXT_BYTES]) {
    static const char hex[] = "0123456789abcdef";
    char *to = out;
    for (int i = 0; i < NODE_ID_BYTES; i++) {
        *to++ = hex[o->node[i] >> 4];
        *to++ = hex[o->node[i] & 15];
    }
    if (o->epoch) {
        char digits[10];
        int count = 0;
        for (uint32_t e = o->epoch; e; e /= 10)
            digits[count++] = (char)('0' + e % 10);
        *to++ = '.';
        while (count)
            *to++ = digits[--count];
    }
    *to = '\0';
    return out;
}
