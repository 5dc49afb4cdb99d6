/* Starling node: which local file has which content, and which content has which chunk: content.db, of this server alone. Filled by scans and
 * by what was fetched; everything in it is looked at again (stamp, hash) before it is used, so that a stale or lost table costs time and
 * nothing else. Errors: ERR_IO, ERR_FULL, ERR_NOMEM, ERR_NOTFOUND. */
#ifndef NODE_FILES_CONTENT_TABLE_H
#define NODE_FILES_CONTENT_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "node/files/chunklist.h"
#include "node/files/content.h"

struct content_table;

struct table_place {
    uint32_t root;
    char *path; /* owned by who asked */
    struct content_stamp stamp;
};

int table_open(struct content_table **out, const char *path);
void table_close(struct content_table *t);
/* Makes what was noted durable. */
void table_commit(struct content_table *t);
bool table_forgot(struct content_table *t); /* since the last call something could not be noted, or kept: the disk is full */
void table_rest(struct content_table *t);   /* gives memory back */
bool table_dirty(const struct content_table *t);

/* list: NULL when the content is known already (ERR_NOTFOUND if not). */
int table_note(struct content_table *t, uint32_t root, const char *path, const uint8_t *hash, const struct chunklist *list,
               const struct content_stamp *stamp);
/* This content is about to get a file: table_note() without a list will find it. */
void table_learn(struct content_table *t, const uint8_t *hash, const struct chunklist *list);
void table_moved(struct content_table *t, uint32_t root, const char *from, uint32_t to_root, const char *to);
void table_gone(struct content_table *t, uint32_t root, const char *path);
/* The file at path was found to have something else than this content. */
void table_lost(struct content_table *t, uint32_t root, const char *path, const uint8_t *hash);

bool table_has(struct content_table *t, const uint8_t *hash);
uint32_t table_chunks(struct content_table *t, const uint8_t *hash);                 /* 0: no file has it */
int table_list(struct content_table *t, const uint8_t *hash, struct chunklist *out); /* out: empty before */
/* The nth file that has this content. */
int table_file(struct content_table *t, const uint8_t *hash, uint32_t nth, struct table_place *out);
/* Some content that has this chunk, very likely (64 bits of its hash are compared): its hash, and the number of the chunk in it. */
int table_chunk(struct content_table *t, const uint8_t *chunk, uint8_t *hash, uint32_t *index);

#endif
