/* Starling: immutable, reference-counted bytes, so that one batch serves many links and threads without a copy. */
#ifndef PROTO_BYTES_H
#define PROTO_BYTES_H

#include <stddef.h>
#include <stdint.h>

struct bytes {
    _Atomic uint32_t refs;
    size_t len;
    uint8_t data[];
};

/* A new object with one reference, holding a copy of data (data may be NULL: left uninitialised). NULL without memory. */
struct bytes *bytes_new(const void *data, size_t len);
/* Gives back what lies behind the first len bytes; only while nobody else holds a reference. Returns the object, perhaps moved. */
struct bytes *bytes_shrink(struct bytes *b, size_t len);
struct bytes *bytes_ref(struct bytes *b);
/* Drops one reference; frees with the last. NULL is ignored. */
void bytes_unref(struct bytes *b);

#endif
