/* Starling node: one version of one path, as the index holds it in its column `content`. What belongs together is one value, since the store
 * merges by column. Who wrote it, and after what, is in the value itself: each server tells from two values alone whether one was made knowing
 * the other, whichever of them the index shows at the moment.
 *
 *   a version is named by its dot: the server that wrote it, and that server's count, which never goes back (milliseconds, or one more);
 *   `seen` holds, for each server that ever wrote this path, the count up to which its versions were known: also its own.
 *   So b was made knowing a when b.seen[a.by] >= a's count. Where neither knew the other they are concurrent.
 *
 * Bytes: format 1 (u8), kind (u8), rank (u8), name length (u8), by (16), at_ms (u64), mtime_ns (i64), size (u64), hash (32), count of seen (u8),
 * seen: node (8, the first of its id), count (u64); name; then the target of a link to the end. Integers little-endian. */
#ifndef NODE_FILES_VERSION_H
#define NODE_FILES_VERSION_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/files/chunklist.h"
#include "proto/origin.h"

#define VERSION_SEEN_MAX 32
#define VERSION_NAME_MAX 64
#define VERSION_NODE_BYTES 8
#define VERSION_TARGET_MAX 1024
#define VERSION_BYTES_MAX (4 + 16 + 3 * 8 + CONTENT_HASH_BYTES + 1 + VERSION_SEEN_MAX * 16 + VERSION_NAME_MAX + VERSION_TARGET_MAX)

enum version_kind { VERSION_GONE, VERSION_FILE, VERSION_FOLDER, VERSION_LINK };

/* A first version, made by a server that had not met the others, loses to what others have: to anything that is more than that, and among
 * equals to what was first. */
enum version_rank { RANK_MEANT, RANK_FIRST, RANK_BEFORE_JOINING };

struct version {
    enum version_kind kind;
    enum version_rank rank;
    uint8_t by[NODE_ID_BYTES];
    char name[VERSION_NAME_MAX]; /* of that server */
    uint64_t at_ms;
    int64_t mtime_ns;
    uint64_t size;
    uint8_t hash[CONTENT_HASH_BYTES]; /* of a file */
    char target[VERSION_TARGET_MAX];  /* of a link */
    struct {
        uint8_t node[VERSION_NODE_BYTES];
        uint64_t count;
    } seen[VERSION_SEEN_MAX];
    uint32_t seen_count;
};

/* Takes bytes from anywhere. ERR_MALFORMED, ERR_FORMAT. */
int version_read(struct version *v, const void *data, size_t len);
size_t version_write(const struct version *v, uint8_t out[VERSION_BYTES_MAX]);
/* Signs: v is made now, by this server, knowing what v->seen says (what version_knows() added). */
void version_sign(struct version *v, const uint8_t id[NODE_ID_BYTES], const char *name, uint64_t wall_ms);
/* From now on v is made knowing `other` and all that was known to it. */
void version_knows(struct version *v, const struct version *other);
/* Did the author of `of` make a later one, as far as v knows? */
bool version_outdates(const struct version *v, const struct version *of);
bool version_descends(const struct version *v, const struct version *from); /* v was made knowing from; also of itself */
/* The same thing for those who look at it: kind and content; times and authors do not count. */
bool version_equal(const struct version *a, const struct version *b);
/* Of two concurrent versions: does `a`, which the index shows by its later stamp, stay? False: `b` is to be written again over it. */
bool version_prevails(const struct version *a, const struct version *b);

#endif
