/* Starling: zstd with bounded output and contexts that are reused. One frame, its content size declared, no dictionary.
 * The contexts are made when first needed. */
#ifndef PROTO_ZIP_H
#define PROTO_ZIP_H

#include <stddef.h>
#include <stdint.h>

struct zip;

struct zip *zip_new(void); /* NULL without memory */
void zip_free(struct zip *z);
void zip_trim(struct zip *z); /* gives back contexts that grew large */

/* Compresses exactly raw_len bytes, put piece by piece, into out_max bytes at out. After ERR_TOOBIG (it does not fit) or
 * ERR_NOMEM only zip_begin may follow. */
int zip_begin(struct zip *z, size_t raw_len, uint8_t *out, size_t out_max);
int zip_put(struct zip *z, const void *p, size_t len);
int zip_end(struct zip *z, size_t *out_len);

/* Expands untrusted bytes that must be one whole frame of exactly raw_len bytes of content. 0, ERR_MALFORMED, ERR_NOMEM. */
int zip_check(const uint8_t *data, size_t len, size_t raw_len); /* the frame's own claims, before memory is given to it */
int zip_expand(struct zip *z, const uint8_t *data, size_t len, uint8_t *raw, size_t raw_len);

#endif
