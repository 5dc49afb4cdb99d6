/* Starling: the chunks of one file, and its hash. A content is named by the hash of its list, so that one pass over the file gives both:
 *
 *   entry      BLAKE2b-256 of the chunk's bytes (32), length of the chunk (u32 little-endian): 36 bytes
 *   content    BLAKE2b-256 of all entries, one after the other; of no bytes for an empty file
 *   group      some entries that follow one another: it ends behind an entry whose hash begins with a byte that has zeros in its lower
 *              6 bits, or with GROUP_ENTRIES_MAX entries. Named by the first GROUP_BYTES bytes of BLAKE2b-256 of its entries.
 *
 * Groups are found in the list alone, as chunks are in the file. So two versions of a file have nearly all groups in common, and who
 * has one version asks only for the groups of the other that he does not have. */
#ifndef NODE_FILES_CHUNKLIST_H
#define NODE_FILES_CHUNKLIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_HASH_BYTES 32
#define ENTRY_BYTES 36
#define CHUNKS_MAX (4u << 20) /* of one file: 256 GiB at the usual size of a chunk */
#define GROUP_ENTRIES_MAX 256
#define GROUP_BYTES 16

struct chunk {
    uint8_t hash[CONTENT_HASH_BYTES];
    uint32_t len;
    uint64_t at; /* in the file */
};

struct chunklist {
    uint8_t *entries; /* ENTRY_BYTES each */
    uint32_t count, cap;
    uint64_t size;   /* of the file */
    uint64_t *marks; /* where every 64th chunk begins: made when first asked */
};

struct group {
    uint32_t first, count; /* entries */
    uint8_t name[GROUP_BYTES];
};

void chunklist_init(struct chunklist *l);
void chunklist_release(struct chunklist *l);
/* ERR_NOMEM, ERR_TOOBIG. */
int chunklist_add(struct chunklist *l, const uint8_t hash[CONTENT_HASH_BYTES], uint32_t len);
/* Takes count entries as bytes: ERR_MALFORMED where a length is 0 or above CHUNK_MAX. */
int chunklist_append(struct chunklist *l, const uint8_t *entries, uint32_t count);
void chunklist_hash(const struct chunklist *l, uint8_t out[CONTENT_HASH_BYTES]);
struct chunk chunklist_get(struct chunklist *l, uint32_t i); /* i < count */
/* The group that begins with entry `first`; false: there is none. Groups are walked with first += count. */
bool chunklist_group(const struct chunklist *l, uint32_t first, struct group *out);
/* The hash of the bytes of a chunk. */
void chunk_hash(const void *data, size_t len, uint8_t out[CONTENT_HASH_BYTES]);
/* The content hash of a file that is one chunk: one of at most CHUNK_MIN bytes always is. */
void content_hash_one(const void *data, size_t len, uint8_t out[CONTENT_HASH_BYTES]);

#endif
