/* Starling node: the content of files. Hashes them (chunker.h, chunklist.h), knows which local file holds which content and chunk, serves
 * chunks to peers, and fetches what is missing here, from every member that has it, into a staging file. Knows nothing of the index:
 * which path should have which content is said by its caller, and putting a file in its place is the caller's too.
 *
 * One thread: all calls and all callbacks but open_file() are on the loop that is given. Nothing here waits: reading, hashing, writing and syncing are done
 * by libuv's pool, in pieces. Callbacks come from the loop, never from within a call, and may call anything here.
 *
 * A file, there and back:
 *   content_scan() ─▶ scanned: hash, size, stat: the file is noted, and served from now on
 *   content_want() ─▶ ... fetched, or copied from local files that have the chunks ... ─▶ staged: whole, verified, durable
 *        the caller gives it its mode and time, renames it into place, syncs the folder ─▶ content_note(): served from there
 *   content_moved(), content_gone(): the caller saw a file move or vanish. What is not told is found when it is read. */
#ifndef NODE_FILES_CONTENT_H
#define NODE_FILES_CONTENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <uv.h>

#include "node/files/chunklist.h"
#include "node/log.h"
#include "proto/origin.h"

#define CONTENT_SCANS_MAX 1024 /* at once */
#define CONTENT_NAME_MAX 80    /* of a staging file */
#define CONTENT_BATCH_MAX 256  /* contents that are staged at once */

struct content;
struct content_door; /* to the peers: node/content_door.h */

/* What a file was when it was read. Equal stamps: it was not written since (as far as the kernel says). */
struct content_stamp {
    uint64_t size, inode, device;
    int64_t mtime_ns, ctime_ns;
};

struct content_scanned {
    uint64_t number; /* what content_scan() returned */
    uint32_t root;
    const char *path;
    int error; /* 0; ERR_BUSY: it was written meanwhile; ERR_NOTFOUND, ERR_DENIED, ERR_IO, ERR_TOOBIG, ERR_NOMEM, ERR_UNSUPPORTED: no regular file */
    uint8_t hash[CONTENT_HASH_BYTES];
    uint32_t chunks;
    mode_t mode;
    struct content_stamp stamp;
};

struct content_staged {
    uint64_t want; /* what content_want() returned: it is over */
    int error;     /* 0; ERR_FULL, ERR_IO ...: it could not be written here. Nobody having it is no error: it goes on being asked for */
    uint32_t root;
    int dir;                     /* the staging folder's descriptor: as `staging` gave it */
    char name[CONTENT_NAME_MAX]; /* in it; the caller's from now on: to rename, or to unlink. "" after an error */
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t size;
};

struct content_config {
    uv_loop_t *loop;
    const char *state;         /* folder for what is kept here: content.db */
    struct content_door *door; /* NULL: no peers */
    uint64_t bandwidth_kib;    /* a second, what is sent and what is received; 0: no limit */
    void *ctx;
    /* Opens a file beneath a root for reading, without following a symbolic link: a descriptor that passes to us, or -errno. Called on threads
     * of the pool, too. */
    int (*open_file)(void *ctx, uint32_t root, const char *path);
    /* The folder on the same file system as the root where what is fetched for it is put together: its descriptor, which stays the
     * caller's and open, or -errno. Nobody else writes in it. */
    int (*staging)(void *ctx, uint32_t root);
    void (*scanned)(void *ctx, const struct content_scanned *s);
    /* Several at once, so that their folders are synced once. The names are in folders, but no folder is synced. */
    void (*staged)(void *ctx, const struct content_staged *s, uint32_t count);
    void (*say)(void *ctx, enum log_level level, const char *text);
    /* Something that was scanned or noted is not known any more (the disk is full): content_here() says of what. */
    void (*forgot)(void *ctx);
};

/* 0; ERR_NOMEM, ERR_IO, ERR_FULL, ERR_DENIED (content.db). A content.db that is corrupt is made anew: it holds nothing that a scan would not find. */
int content_open(struct content **out, const struct content_config *config);
/* Ends everything; half-fetched contents stay for the next start. closed() is the last callback. */
void content_close(struct content *c, void (*closed)(void *ctx));
void content_set_bandwidth(struct content *c, uint64_t kib);
void content_rest(struct content *c); /* a quiet moment: what is kept to be quick is let go */

/* ---- files that are here */

/* Reads a file whole and notes what it holds. 0: CONTENT_SCANS_MAX are under way already; the next `scanned` makes room. */
uint64_t content_scan(struct content *c, uint32_t root, const char *path);
/* The file at this path has this content, which was wanted or scanned here: no reading. */
void content_note(struct content *c, uint32_t root, const char *path, const uint8_t hash[CONTENT_HASH_BYTES], const struct stat *st);
void content_moved(struct content *c, uint32_t root, const char *from, uint32_t to_root, const char *to);
void content_gone(struct content *c, uint32_t root, const char *path);
/* Some file here has this content, as far as was noted. */
bool content_here(struct content *c, const uint8_t hash[CONTENT_HASH_BYTES]);
void content_stamp_of(const struct stat *st, struct content_stamp *out);

/* ---- content that is wanted */

struct content_want {
    uint8_t hash[CONTENT_HASH_BYTES];
    uint64_t size; /* as the index says: what is not of this size is not taken */
    uint32_t root; /* where it will be put */
    bool based;    /* base: what it replaces here; most chunks may be the same */
    uint8_t base[CONTENT_HASH_BYTES];
    bool hinted; /* peer: who is likely to have it, as the one who wrote it */
    uint8_t peer[NODE_ID_BYTES];
};

/* Several wants of one content are fetched once. Small ones are fetched first. Lasts until it is staged or cancelled. 0: no memory. */
uint64_t content_want(struct content *c, const struct content_want *want);
/* It is not wanted any more, as when a newer version came: not answered, and what was fetched of it is removed. */
void content_cancel(struct content *c, uint64_t want);

/* ---- looking in */

enum content_state { CONTENT_WAITING, CONTENT_ASKING, CONTENT_FETCHING, CONTENT_SYNCING };

struct content_progress {
    enum content_state state; /* waiting: no member is linked that has it */
    uint64_t size, here;      /* here: bytes that are verified in the staging file */
    uint64_t fetched;         /* of these, over the network */
    uint32_t sources;         /* members that have it, or some of it */
};

bool content_progress(struct content *c, uint64_t want, struct content_progress *out); /* false: no such want */

struct content_totals {
    uint64_t wants, wants_bytes; /* what is still missing */
    uint64_t sent, received;     /* bytes over the network on content links, since the start */
    uint64_t copied;             /* bytes taken from local files instead */
    uint64_t hashed;             /* bytes that were read or came, and were hashed */
    uint32_t links;
};

void content_totals(struct content *c, struct content_totals *out);

#endif
