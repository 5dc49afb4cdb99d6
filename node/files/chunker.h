/* Starling: where a file is cut into chunks. The cuts follow from the content alone, so that an insertion moves only the cuts beside it:
 * FastCDC with normalised chunking (Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication",
 * USENIX ATC 2016, https://www.usenix.org/system/files/conference/atc16/atc16-paper-xia.pdf). Every server must cut alike: what is
 * defined here is part of the protocol (proto/PROTOCOL.md, "Content").
 *
 *   h = (h << 1) + gear[byte], from the byte behind the first CHUNK_MIN of a chunk on; the chunk ends behind the byte at which
 *       h has zeros in its highest 18 bits, up to CHUNK_NORMAL bytes; in its highest 14 bits, above; or at CHUNK_MAX.
 *   gear[i] = the first 8 bytes, little-endian, of BLAKE2b-128 of "starling gear" and the byte i. */
#ifndef NODE_FILES_CHUNKER_H
#define NODE_FILES_CHUNKER_H

#include <stddef.h>
#include <stdint.h>

#define CHUNK_MIN (16u << 10)
#define CHUNK_NORMAL (56u << 10) /* with it chunks of random data have about 64 KiB in the mean */
#define CHUNK_MAX (256u << 10)

struct chunker {
    uint64_t gear[256];
};

void chunker_init(struct chunker *c);
/* The length of the chunk at the front of data: of all that is left of the file, or of CHUNK_MAX bytes at least. 0 only for len 0. */
size_t chunker_cut(const struct chunker *c, const uint8_t *data, size_t len);

#endif
