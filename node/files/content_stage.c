/* The staging file of a content, NAME.part, and its journal, NAME.map, beside it:
 *
 *   journal    "starling map 1\n" and a NUL, size u64, chunks u32 (little-endian), 4 bytes 0, the entries, a bit for each chunk
 *
 * The bit of a chunk is set only after the chunk was synced. The list proves itself by its hash, and a chunk that the journal names is hashed
 * again before it counts: a journal that lies costs time.
 *
 * The happy path is: content_write.c writes chunks; every SYNC_BYTES the file is synced and the journal brought up to date; when all chunks are
 * there, synced once more: staged. Small contents have no journal, and are synced in groups.
 * Possible failure modes are: no space, or a write error: the want ends with it, and the staging file is removed. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/content_state.h"
#include "proto/err.h"

#define SYNC_BYTES (32u << 20)
#define SMALL_SYNC_ALL 24 /* from so many on the whole file system is synced at once */
#define MAP_HEAD 32

static const char magic[16] = "starling map 1\n";

int stage_write(int fd, const uint8_t *data, size_t len, uint64_t at) {
    struct iovec one = {(void *)(uintptr_t)data, len};
    return len == 0 ? 0 : stage_writev(fd, &one, 1, at);
}

int stage_writev(int fd, struct iovec *pieces, uint32_t count, uint64_t at) {
    while (count > 0) {
        ssize_t n = pwritev(fd, pieces, (int)count, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? ERR_IO : content_error(errno);
        at += (uint64_t)n;
        for (; count > 0 && (size_t)n >= pieces->iov_len; pieces++, count--)
            n -= (ssize_t)pieces->iov_len;
        if (count > 0) {
            pieces->iov_base = (uint8_t *)pieces->iov_base + n;
            pieces->iov_len -= (size_t)n;
        }
    }
    return 0;
}

int stage_read(int fd, uint8_t *data, size_t len, uint64_t at) {
    while (len > 0) {
        ssize_t n = pread(fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? ERR_NOTFOUND : content_error(errno);
        data += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* A file in the staging folder, in place of one that an earlier run may have left. */
int stage_make(int dir, const char *name, int how) {
    int flags = how | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, fd = openat(dir, name, flags, 0600);
    if (fd >= 0 || errno != EEXIST)
        return fd;
    unlinkat(dir, name, 0);
    return openat(dir, name, flags, 0600);
}

/* ---- the staging file and its journal */

static size_t map_bits_at(const struct target *t) { return MAP_HEAD + (size_t)t->list.count * ENTRY_BYTES; }

void stage_map_remove(struct target *t) {
    if (t->map >= 0)
        unlinkat(t->dir, t->map_name, 0);
}

void stage_unlink(struct target *t) {
    if (t->dir < 0)
        return;
    if (t->fd >= 0 || t->staged)
        unlinkat(t->dir, t->name, 0);
    stage_map_remove(t);
}

void stage_map_write(struct target *t) {
    size_t len;
    const uint8_t *bits = t->item == NULL ? NULL : fetch_bitmap(t->item, &len);
    if (t->map < 0 || bits == NULL || t->syncing || fdatasync(t->fd) != 0)
        return;
    (void)stage_write(t->map, bits, len, map_bits_at(t)); /* else these chunks are fetched again */
}

static int map_make(struct target *t) {
    uint8_t head[MAP_HEAD] = {0};
    memcpy(head, magic, sizeof magic);
    for (unsigned i = 0; i < 8; i++)
        head[16 + i] = (uint8_t)(t->size >> 8 * i);
    wire_put_u32(head + 24, t->list.count);
    t->map = openat(t->dir, t->map_name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (t->map < 0)
        return content_error(errno);
    int r = stage_write(t->map, head, sizeof head, 0);
    return r != 0 ? r : stage_write(t->map, t->list.entries, (size_t)t->list.count * ENTRY_BYTES, MAP_HEAD);
}

int stage_open(struct target *t) {
    t->fd = stage_make(t->dir, t->name, O_RDWR);
    if (t->fd < 0)
        return content_error(errno);
    if (fallocate(t->fd, 0, 0, (off_t)t->size) != 0) { /* so that a disk that is too small says so now */
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return content_error(errno);
        if (ftruncate(t->fd, (off_t)t->size) != 0)
            return content_error(errno);
    }
    return map_make(t);
}

/* The list from the journal; bits: owned by the caller. */
static bool map_read(struct target *t, uint8_t **bits) {
    uint8_t head[MAP_HEAD], hash[CONTENT_HASH_BYTES];
    uint64_t size = 0;
    if (stage_read(t->map, head, sizeof head, 0) != 0 || memcmp(head, magic, sizeof magic) != 0)
        return false;
    for (unsigned i = 0; i < 8; i++)
        size |= (uint64_t)head[16 + i] << 8 * i;
    uint32_t chunks = wire_get_u32(head + 24);
    if (size != t->size || chunks == 0 || chunks > size / CHUNK_MIN + 1 || chunks > CHUNKS_MAX)
        return false;
    size_t len = (size_t)chunks * ENTRY_BYTES;
    uint8_t *entries = malloc(len);
    *bits = calloc((chunks + 7) / 8, 1);
    bool ok = entries != NULL && *bits != NULL && stage_read(t->map, entries, len, MAP_HEAD) == 0 &&
              chunklist_append(&t->list, entries, chunks) == 0;
    free(entries);
    if (!ok)
        return false;
    chunklist_hash(&t->list, hash);
    if (memcmp(hash, t->hash, sizeof hash) != 0 || t->list.size != t->size)
        return false;
    (void)stage_read(t->map, *bits, (chunks + 7) / 8, map_bits_at(t)); /* shorter: nothing was synced */
    return true;
}

/* What the journal says is there is copied from the file to itself: read, hashed, and not written. */
static bool resume_copies(struct target *t, const uint8_t *bits) {
    uint32_t source = t->sources_count;
    t->copies = malloc((size_t)t->list.count * sizeof *t->copies);
    int again = t->copies == NULL ? -1 : fcntl(t->fd, F_DUPFD_CLOEXEC, 0);
    if (again < 0)
        return false;
    t->sources[t->sources_count++] = again;
    for (uint32_t i = 0; i < t->list.count; i++)
        if ((bits[i / 8] >> i % 8 & 1) != 0)
            t->copies[t->copies_count++] = (struct copy){i, source, chunklist_get(&t->list, i).at};
    return true;
}

bool stage_resume(struct target *t) {
    struct stat st;
    uint8_t *bits = NULL;
    t->fd = openat(t->dir, t->name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    t->map = t->fd < 0 ? -1 : openat(t->dir, t->map_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool ok = t->map >= 0 && fstat(t->fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == t->size && map_read(t, &bits) &&
              resume_copies(t, bits);
    free(bits);
    t->resumed = ok;
    if (ok)
        return true;
    chunklist_release(&t->list);
    if (t->fd >= 0)
        close(t->fd);
    if (t->map >= 0)
        close(t->map);
    t->fd = t->map = -1;
    return false;
}

/* ---- syncing */

struct sync {
    struct job job;
    struct target *target;
    int fd, map, error;
    size_t at, len; /* of the bits in the journal */
    uint8_t bits[];
};

static void run_sync(struct job *j) {
    struct sync *s = (struct sync *)j;
    if (fdatasync(s->fd) != 0)
        s->error = content_error(errno);
    else if (s->len > 0)
        s->error = stage_write(s->map, s->bits, s->len, s->at);
}

static void sync_done(struct job *j) {
    struct sync *s = (struct sync *)j;
    struct target *t = s->target;
    t->jobs--;
    if (s->error != 0)
        t->error = s->error;
    target_check(t);
    free(s);
}

static void last_sync_done(struct job *j) {
    struct sync *s = (struct sync *)j;
    struct target *t = s->target;
    t->jobs--;
    t->error = s->error;
    free(s);
    if (t->content->closing) { /* the next start finds it whole */
        t->syncing = false;
        return;
    }
    if (t->error != 0)
        stage_unlink(t);
    targets_staged(t->content, &t, 1);
}

static void sync_start(struct target *t, void (*done)(struct job *j)) {
    size_t len = 0;
    const uint8_t *bits = done == sync_done ? fetch_bitmap(t->item, &len) : NULL;
    struct sync *s = malloc(sizeof *s + len);
    if (s == NULL) {
        target_fail(t, ERR_NOMEM);
        return;
    }
    *s = (struct sync){.job = {.run = run_sync, .done = done}, .target = t, .fd = t->fd, .map = t->map, .at = map_bits_at(t), .len = len};
    if (len > 0)
        memcpy(s->bits, bits, len);
    t->jobs++;
    t->unsynced = 0;
    content_job(t->content, &s->job);
}

void stage_sync(struct target *t) {
    t->syncing = true;
    t->staged = true;
    sync_start(t, last_sync_done);
}

/* Counts what was written; syncs now and then, so that the last sync is short and a restart finds most. */
void stage_wrote(struct target *t, uint32_t chunk, uint32_t len) {
    struct content *c = t->content;
    if (fetch_is_here(t->item, chunk))
        return;
    fetch_here(c->fetch, t->item, chunk);
    t->here += len;
    t->unsynced += len;
}

void stage_sync_maybe(struct target *t) {
    if (t->unsynced >= SYNC_BYTES && !t->small && t->error == 0 && !t->dropped && fetch_left(t->item) > 0)
        sync_start(t, sync_done);
}

/* ---- small ones */

struct small_sync {
    struct job job;
    uint32_t count;
    int dir;
    struct target *targets[CONTENT_BATCH_MAX];
    int error[CONTENT_BATCH_MAX];
};

static void run_small_sync(struct job *j) {
    struct small_sync *s = (struct small_sync *)j;
    if (s->count >= SMALL_SYNC_ALL && syncfs(s->dir) == 0)
        return;
    for (uint32_t i = 0; i < s->count; i++) {
        int fd = openat(s->dir, s->targets[i]->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fdatasync(fd) != 0)
            s->error[i] = content_error(errno);
        if (fd >= 0)
            close(fd);
    }
}

static void small_sync_done(struct job *j) {
    struct small_sync *s = (struct small_sync *)j;
    struct content *c = j->content;
    c->syncing_small = false;
    for (uint32_t i = 0; i < s->count; i++) {
        struct target *t = s->targets[i];
        t->jobs--;
        t->error = s->error[i];
        if (t->error != 0)
            stage_unlink(t);
    }
    if (!c->closing)
        targets_staged(c, s->targets, s->count);
    free(s);
}

/* One sync at a time: what is written meanwhile gathers for the next one. */
void stage_sync_small(struct content *c) {
    struct small_sync *s = c->written == NULL || c->syncing_small ? NULL : calloc(1, sizeof *s);
    struct target *t, *next;
    if (s == NULL)
        return;
    s->job = (struct job){.run = run_small_sync, .done = small_sync_done};
    s->dir = c->written->dir;
    DL_FOREACH_SAFE(c->written, t, next) {
        if (t->dir != s->dir || s->count == CONTENT_BATCH_MAX)
            continue;
        DL_DELETE(c->written, t);
        t->jobs++;
        s->targets[s->count++] = t;
    }
    c->syncing_small = true;
    content_job(c, &s->job);
}
