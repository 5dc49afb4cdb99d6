/* A version of a path, as a peer's row of the index holds it. What reads is what writing gives again, and knows itself. */
#include <assert.h>
#include <string.h>

#include "node/files/version.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t bytes[VERSION_BYTES_MAX], again[VERSION_BYTES_MAX], id[NODE_ID_BYTES] = {7};
    struct version v, same;
    if (version_read(&v, data, size) != 0)
        return 0;
    assert(v.seen_count <= VERSION_SEEN_MAX && memchr(v.name, 0, sizeof v.name) != NULL && memchr(v.target, 0, sizeof v.target) != NULL);
    assert(strpbrk(v.name, "/\n") == NULL && (v.kind == VERSION_LINK) == (v.target[0] != 0));
    size_t len = version_write(&v, bytes);
    assert(len <= size && version_read(&same, bytes, len) == 0 && version_equal(&v, &same));
    assert(version_write(&same, again) == len && memcmp(bytes, again, len) == 0);
    version_knows(&same, &v);
    version_sign(&same, id, "fuzz", 1);
    assert(same.seen_count <= VERSION_SEEN_MAX && version_descends(&same, &same));
    (void)version_prevails(&v, &same);
    (void)version_descends(&v, &same);
    return 0;
}
