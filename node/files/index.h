/* Starling node: the index of the files, and what this server's disk holds of it. Two SQLite files in the state folder, one connection:
 *
 *   files.db     replicated, as any application's database: we write into it as an application would, and what other servers wrote appears in it.
 *     file       path -> content (version.h), mode
 *     conflict   what lost: the path, both versions, the path of the copy (NULL: there is none), whether it is decided
 *   local.db     this server's own
 *     disk       path -> the version that is on disk, and what the file looked like when it was last read or put there
 *     kept       replaced and deleted versions that are kept for a while
 *     halted     folders that vanished whole
 *     meta
 *
 * "The disk differs from `disk`" is a local edit, "`file` differs from `disk`" is a change of others. One thread. Writes gather in one
 * transaction until index_commit(). Functions give 1 found, 0 not, or an error. */
#ifndef NODE_FILES_INDEX_H
#define NODE_FILES_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "node/files/content.h"
#include "node/files/version.h"

#define INDEX_PAGE 256 /* paths a call */
#define CONFLICT_ID_BYTES 8

struct index;

struct disk {
    struct version version; /* VERSION_GONE: nothing is there, and that is known */
    struct content_stamp stamp;
    int mode;
};

struct kept {
    int64_t id;
    char *path, *name; /* name: in the folder of kept files */
    struct version version;
    uint64_t at_ms;
};

struct conflict {
    uint8_t id[CONFLICT_ID_BYTES];
    char *path, *copy; /* copy: NULL none */
    struct version winner, loser;
    bool decided;
};

/* Makes files.db if it is not there (before the database is served). fresh: begin anew, the replicated state is not there. 0 or an error, with a line. */
int index_prepare(const char *state, bool fresh, char *path, size_t path_len, char *why, size_t why_len);
int index_open(struct index **out, const char *state, char *why, size_t why_len);
void index_close(struct index *ix);

int index_begin(struct index *ix); /* the write lock; a transaction that is open goes on */
int index_commit(struct index *ix);
bool index_begun(const struct index *ix); /* something for index_commit(), also if that is lost already */

int index_get(struct index *ix, const char *path, struct version *v, int *mode); /* ERR_MALFORMED: what a peer wrote there is no version */
int index_put(struct index *ix, const char *path, const struct version *v, int mode);
int index_disk(struct index *ix, const char *path, struct disk *d);
int index_disk_put(struct index *ix, const char *path, const struct disk *d);
/* A deletion by this server that the index does not show, since somebody else's version prevailed: until others know it. */
int index_deleted_put(struct index *ix, const char *path, const struct version *v, uint64_t at_ms);
int index_deleted(struct index *ix, const char *path, struct version *v); /* 1: there was one */
int index_deleted_tidy(struct index *ix, uint64_t before_ms);
int index_disk_drop(struct index *ix, const char *path);

/* Paths in order, from the first one above `after` ("" for all); *after becomes the last one (free it). The number of them, 0: no more. */
typedef void (*index_each)(void *ctx, const char *path);
int index_differing(struct index *ix, char **after, index_each each, void *ctx); /* file and disk do not say the same */
int index_on_disk(struct index *ix, char **after, index_each each, void *ctx);   /* what disk says is there */
int index_paths(struct index *ix, char **after, index_each each, void *ctx);     /* file */

int index_living(struct index *ix, char **after, index_each each, void *ctx); /* those of file that are not deleted */
/* What was on disk with this inode; `each` writes nothing. */
/* ... and of this size and time, as far as disk knows */
int index_disk_stamp(struct index *ix, const struct content_stamp *stamp, index_each each, void *ctx);
int index_disk_inode(struct index *ix, uint64_t inode, uint64_t device, index_each each, void *ctx);

int index_keep(struct index *ix, const char *path, const char *name, const struct version *v, uint64_t at_ms);
/* Those of a path (NULL: all), the newest first. */
int index_kept(struct index *ix, const char *path, uint32_t max, void (*each)(void *ctx, const struct kept *k), void *ctx);
int index_kept_named(struct index *ix, const char *name);                       /* 1: there is a row */
int index_kept_is(struct index *ix, const char *name, const struct version *v); /* what it holds now */
int index_kept_drop(struct index *ix, int64_t id);

/* Puts it, unless there is one of this id. 1: there was. */
int index_conflict_add(struct index *ix, const struct conflict *c);
int index_conflict_decide(struct index *ix, const uint8_t id[CONFLICT_ID_BYTES]);
int index_conflicts(struct index *ix, void (*each)(void *ctx, const struct conflict *c), void *ctx); /* open ones */
uint64_t index_conflicts_count(struct index *ix);

int64_t index_meta(struct index *ix, const char *key, int64_t none);
int index_meta_put(struct index *ix, const char *key, int64_t value);
int index_halt(struct index *ix, const char *folder, bool on);
int index_halted(struct index *ix, index_each each, void *ctx);
bool index_is_halted(struct index *ix, const char *path); /* it or a folder above */
bool index_any_halted(const struct index *ix);

struct index_sums { /* of what is on disk */
    uint64_t files, bytes;
    uint64_t digest[2];
};
const struct index_sums *index_sums(const struct index *ix);
void index_tidy(struct index *ix); /* in a quiet moment */

#endif
