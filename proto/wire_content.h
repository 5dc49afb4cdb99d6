/* Starling: the frames of a content link, as bytes (PROTOCOL.md, "Content links"). The same frames as of other links (wire.h), types of
 * their own. Packing appends a whole frame to a struct buf; unpacking reads a payload behind wire_type(): 0, ERR_MALFORMED, ERR_TOOBIG.
 * What is unpacked borrows from the payload. Lists are bins of items of one size, so that a count is what is there. */
#ifndef PROTO_WIRE_CONTENT_H
#define PROTO_WIRE_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/mpk.h"

#define WIRE_HASH_BYTES 32u
#define WIRE_ENTRY_BYTES 36u /* of a list of chunks: hash, length u32 little-endian */
#define WIRE_GROUP_BYTES 18u /* how many entries u16 little-endian, first 16 bytes of the hash of these */
#define WIRE_RUN_BYTES 40u   /* content, first chunk u32, how many u32; little-endian */
#define WIRE_ITEM_HEAD 40u   /* in DATA: content, chunk u32, length u32; little-endian; then its bytes */

#define WIRE_WHO_MAX 256u          /* contents in a WHO */
#define WIRE_RUNS_MAX 512u         /* runs in a WANT */
#define WIRE_CHUNKS_MAX (4u << 20) /* of one content */
#define WIRE_BITMAP_MAX (WIRE_CHUNKS_MAX / 8)
#define WIRE_GROUPS_MAX 3600u /* in a GROUPS: 64 KB */
#define WIRE_GROUP_ENTRIES_MAX 256u
#define WIRE_PARTS_MAX 1024u        /* groups in a PART */
#define WIRE_CHUNK_MAX (256u << 10) /* bytes of a chunk */
#define WIRE_BODY_MAX (320u << 10)  /* of a DATA, before compression */

enum wire_content_type {
    WIRE_WHO = 32,
    WIRE_HAVE,
    WIRE_LIST,
    WIRE_GROUPS,
    WIRE_PART,
    WIRE_ENTRIES,
    WIRE_WANT,
    WIRE_DATA,
    WIRE_GONE,
};

enum { WIRE_ZSTD = 1 }; /* data: the body is one zstd frame */

struct wire_have {
    const uint8_t *hash;
    uint32_t chunks;       /* of the content; 0: the sender has nothing of it */
    const uint8_t *bitmap; /* bit i%8 of byte i/8: chunk i is there */
    size_t bitmap_len;     /* 0: all are */
};

struct wire_groups {
    const uint8_t *hash;
    uint64_t size;
    uint32_t chunks; /* of the content */
    uint32_t first;  /* the entry with which these groups begin */
    const uint8_t *groups;
    uint32_t count;
};

struct wire_part {
    const uint8_t *hash;
    const uint8_t *firsts; /* u32 little-endian each: the entry with which a group begins */
    uint32_t count;
};

struct wire_entries {
    const uint8_t *hash;
    uint32_t first;
    const uint8_t *entries;
    uint32_t count;
};

struct wire_run {
    uint8_t hash[WIRE_HASH_BYTES];
    uint32_t first, count;
};

struct wire_data {
    unsigned flags;
    uint32_t raw; /* bytes of the body before compression */
    const uint8_t *body;
    size_t body_len;
};

struct wire_item {
    const uint8_t *hash;
    uint32_t chunk;
    const uint8_t *data;
    uint32_t len;
};

void wire_pack_who(struct buf *b, const uint8_t *hashes, uint32_t count);
void wire_pack_have(struct buf *b, const struct wire_have *w);
void wire_pack_list(struct buf *b, const uint8_t hash[WIRE_HASH_BYTES]);
void wire_pack_groups(struct buf *b, const struct wire_groups *w);
void wire_pack_part(struct buf *b, const struct wire_part *w);
void wire_pack_entries(struct buf *b, const struct wire_entries *w);
void wire_pack_want(struct buf *b, const struct wire_run *runs, uint32_t count);
void wire_pack_data(struct buf *b, const struct wire_data *w);
void wire_pack_gone(struct buf *b, const struct wire_run *run);
/* The head of an item, WIRE_ITEM_HEAD bytes. */
void wire_item_head(uint8_t *out, const struct wire_item *item);

int wire_unpack_who(const uint8_t **hashes, uint32_t *count, struct mpk *m, uint32_t fields);
int wire_unpack_have(struct wire_have *w, struct mpk *m, uint32_t fields);
int wire_unpack_list(const uint8_t **hash, struct mpk *m, uint32_t fields);
int wire_unpack_groups(struct wire_groups *w, struct mpk *m, uint32_t fields);
int wire_unpack_part(struct wire_part *w, struct mpk *m, uint32_t fields);
int wire_unpack_entries(struct wire_entries *w, struct mpk *m, uint32_t fields);
int wire_unpack_want(const uint8_t **runs, uint32_t *count, struct mpk *m, uint32_t fields);
int wire_unpack_data(struct wire_data *w, struct mpk *m, uint32_t fields);
int wire_unpack_gone(struct wire_run *run, struct mpk *m, uint32_t fields);
struct wire_run wire_get_run(const uint8_t *runs, uint32_t i);
/* The next item of an expanded body. 1; 0: it ends here; ERR_MALFORMED. */
int wire_next_item(const uint8_t **body, size_t *left, struct wire_item *item);
uint32_t wire_get_u32(const uint8_t *p); /* little-endian */
void wire_put_u32(uint8_t *p, uint32_t v);

#endif
