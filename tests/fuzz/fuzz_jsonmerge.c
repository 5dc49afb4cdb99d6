/* Three JSON texts, with a NUL between them: the last common version (empty: none), the earlier one, the later one. Whatever they are: what comes
 * out is JSON that says the same when it is merged with itself, is the same bytes each time, and where only one side changed it is that side. */
#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "node/files/jsonmerge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void is_as(const char *out, size_t len, struct json_text text) {
    json_error_t error;
    json_t *is = json_loadb(out, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    json_t *was = json_loadb(text.p, text.len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    assert(is != NULL && was != NULL && json_equal(is, was));
    json_decref(is);
    json_decref(was);
}

/* Merging these comes to what `text` says, and loses nothing. */
static void comes_to(struct json_text base, struct json_text earlier, struct json_text later, struct json_text text) {
    char *out;
    size_t len;
    uint32_t lost;
    int r = jsonmerge(base, earlier, later, &out, &len, &lost);
    assert(r == 0 && lost == 0);
    (void)r;
    is_as(out, len, text);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json_text text[3] = {{0}}, none = {NULL, 0};
    const char *at = (const char *)data, *end = at + size;
    char *out, *again;
    size_t len, again_len;
    uint32_t lost, again_lost;
    for (int i = 0; i < 3; i++) {
        const char *nul = i < 2 && at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        const char *to = nul != NULL ? nul : end;
        text[i] = to == at && i == 0 ? none : (struct json_text){to == at ? "" : at, (size_t)(to - at)};
        at = nul != NULL ? nul + 1 : end;
    }
    if (jsonmerge(text[0], text[1], text[2], &out, &len, &lost) != 0)
        return 0;
    struct json_text merged = {out, len};
    int r = jsonmerge(text[0], text[1], text[2], &again, &again_len, &again_lost);
    assert(r == 0 && lost == again_lost && len == again_len && memcmp(out, again, len) == 0);
    (void)r;
    free(again);
    comes_to(none, merged, merged, merged);
    comes_to(text[1], text[1], text[2], text[2]);
    comes_to(text[1], text[2], text[1], text[2]);
    free(out);
    return 0;
}
