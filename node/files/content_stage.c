/* Writing: the staging file of a content, NAME.part, and its journal, NAME.map, beside it:
 *
 *   journal    "starling map 1\n" and a NUL, size u64, chunks u32 (little-endian), 4 bytes 0, the entries, a bit for each chunk
 *
 * The bit of a chunk is set only after the chunk was synced. The list proves itself by its hash, and a chunk that the journal names is hashed
 * again before it counts: a journal that lies costs time.
 *
 * The happy path is: what came is hashed on the pool, and written if it is what it should be; every SYNC_BYTES the file is synced and the
 * journal brought up to date; when all chunks are there, synced once more: staged.
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
#define COPY_CHUNKS 16
#define COPIES_AT_ONCE 3
#define SMALL_SYNC_ALL 24 /* from so many on the whole file system is synced at once */
#define MAP_HEAD 32

static const char magic[16] = "starling map 1\n";

static int write_full(int fd, const uint8_t *data, size_t len, uint64_t at) {
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? ERR_IO : content_error(errno);
        data += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int read_at(int fd, uint8_t *data, size_t len, uint64_t at) {
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
static int make_new(int dir, const char *name, int how) {
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
    (void)write_full(t->map, bits, len, map_bits_at(t)); /* else these chunks are fetched again */
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
    int r = write_full(t->map, head, sizeof head, 0);
    return r != 0 ? r : write_full(t->map, t->list.entries, (size_t)t->list.count * ENTRY_BYTES, MAP_HEAD);
}

int stage_open(struct target *t) {
    t->fd = make_new(t->dir, t->name, O_RDWR);
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
    if (read_at(t->map, head, sizeof head, 0) != 0 || memcmp(head, magic, sizeof magic) != 0)
        return false;
    for (unsigned i = 0; i < 8; i++)
        size |= (uint64_t)head[16 + i] << 8 * i;
    uint32_t chunks = wire_get_u32(head + 24);
    if (size != t->size || chunks == 0 || chunks > size / CHUNK_MIN + 1 || chunks > CHUNKS_MAX)
        return false;
    size_t len = (size_t)chunks * ENTRY_BYTES;
    uint8_t *entries = malloc(len);
    *bits = calloc((chunks + 7) / 8, 1);
    bool ok = entries != NULL && *bits != NULL && read_at(t->map, entries, len, MAP_HEAD) == 0 &&
              chunklist_append(&t->list, entries, chunks) == 0;
    free(entries);
    if (!ok)
        return false;
    chunklist_hash(&t->list, hash);
    if (memcmp(hash, t->hash, sizeof hash) != 0 || t->list.size != t->size)
        return false;
    (void)read_at(t->map, *bits, (chunks + 7) / 8, map_bits_at(t)); /* shorter: nothing was synced */
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
        s->error = write_full(s->map, s->bits, s->len, s->at);
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
static void wrote(struct target *t, uint32_t chunk, uint32_t len) {
    struct content *c = t->content;
    if (fetch_is_here(t->item, chunk))
        return;
    fetch_here(c->fetch, t->item, chunk);
    t->here += len;
    t->unsynced += len;
}

static void sync_maybe(struct target *t) {
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

struct small_copy {
    struct job job;
    struct target *target;
    int fd, error;
    uint8_t chunk[CONTENT_HASH_BYTES];
};

static int small_write(const struct target *t, const uint8_t *data) {
    int fd = make_new(t->dir, t->name, O_WRONLY);
    if (fd < 0)
        return content_error(errno);
    int r = write_full(fd, data, (size_t)t->size, 0);
    if (close(fd) != 0 && r == 0)
        r = content_error(errno);
    if (r != 0)
        unlinkat(t->dir, t->name, 0);
    return r;
}

/* ERR_NOTFOUND: the file has something else by now. */
static int small_copy(const struct small_copy *s, uint8_t chunk[CONTENT_HASH_BYTES]) {
    const struct target *t = s->target;
    uint8_t data[CHUNK_MIN + 1], hash[CONTENT_HASH_BYTES];
    if (t->size > 0 && read_at(s->fd, data, (size_t)t->size, 0) != 0)
        return ERR_NOTFOUND;
    content_hash_one(data, (size_t)t->size, hash);
    if (memcmp(hash, t->hash, sizeof hash) != 0)
        return t->size == 0 ? ERR_MALFORMED : ERR_NOTFOUND;
    chunk_hash(data, (size_t)t->size, chunk);
    return small_write(t, data);
}

static void run_small_copy(struct job *j) {
    struct small_copy *s = (struct small_copy *)j;
    s->error = small_copy(s, s->chunk);
}

static void small_written(struct target *t, const uint8_t *chunk) {
    if (t->size > 0 && t->list.count == 0 && chunklist_add(&t->list, chunk, (uint32_t)t->size) != 0)
        t->error = ERR_NOMEM;
    t->staged = true;
}

static void small_copy_done(struct job *j) {
    struct small_copy *s = (struct small_copy *)j;
    struct target *t = s->target;
    t->jobs--;
    if (s->fd >= 0)
        close(s->fd);
    if (s->error == 0) {
        small_written(t, s->chunk);
        if (t->item != NULL)
            wrote(t, 0, (uint32_t)t->size);
        t->content->totals.copied += t->size;
    } else if (s->error != ERR_NOTFOUND) {
        t->error = s->error;
    } else {
        fetch_unhold(t->item, 0);
    }
    free(s);
    target_check(t);
}

void stage_small_copy(struct target *t, int fd) {
    struct small_copy *s = calloc(1, sizeof *s);
    if (s == NULL) {
        if (fd >= 0)
            close(fd);
        target_fail(t, ERR_NOMEM);
        return;
    }
    *s = (struct small_copy){.job = {.run = run_small_copy, .done = small_copy_done}, .target = t, .fd = fd};
    if (t->item != NULL)
        fetch_hold(t->item, 0);
    t->jobs++;
    content_job(t->content, &s->job);
}

/* ---- what came */

struct item {
    struct target *target;
    uint32_t chunk, len;
    const uint8_t *data;
    uint8_t hash[CONTENT_HASH_BYTES]; /* of the chunk: expected, or of a small content: found */
    uint64_t at;
    int error; /* ERR_SIGNATURE: not what it should be */
};

struct stage {
    struct job job;
    uint8_t peer[NODE_ID_BYTES];
    uint8_t *body;
    uint32_t raw, count;
    struct item items[];
};

static int item_stage(struct item *it) {
    const struct target *t = it->target;
    uint8_t hash[CONTENT_HASH_BYTES];
    if (t->small) {
        content_hash_one(it->data, it->len, hash);
        if (memcmp(hash, t->hash, sizeof hash) != 0)
            return ERR_SIGNATURE;
        chunk_hash(it->data, it->len, it->hash);
        return small_write(t, it->data);
    }
    chunk_hash(it->data, it->len, hash);
    if (memcmp(hash, it->hash, sizeof hash) != 0)
        return ERR_SIGNATURE;
    return write_full(t->fd, it->data, it->len, it->at);
}

static void run_stage(struct job *j) {
    struct stage *s = (struct stage *)j;
    for (uint32_t i = 0; i < s->count; i++)
        s->items[i].error = item_stage(&s->items[i]);
}

static void item_done(struct content *c, struct stage *s, struct item *it) {
    struct target *t = it->target;
    t->jobs--;
    if (it->error == ERR_SIGNATURE) {
        content_say(c, LOG_WARNING, "files: a peer sent a chunk that is not what was asked for");
        fetch_wrong(c->fetch, s->peer, t->item, it->chunk, clock_mono_ms());
    } else if (it->error != 0) {
        t->error = t->error != 0 ? t->error : it->error;
    } else {
        if (t->small)
            small_written(t, it->hash);
        wrote(t, it->chunk, it->len);
        t->fetched += it->len;
        sync_maybe(t);
    }
    target_check(t);
}

static void stage_done(struct job *j) {
    struct stage *s = (struct stage *)j;
    struct content *c = j->content;
    c->storing -= s->raw;
    for (uint32_t i = 0; i < s->count; i++)
        item_done(c, s, &s->items[i]);
    free(s->body);
    free(s);
    if (!c->closing)
        content_pause_reading(c);
}

/* Was this asked of this peer, and does it fit? */
static bool item_wanted(struct content *c, struct conn *conn, const struct wire_item *w, struct item *out) {
    struct target *t = target_find(c, w->hash);
    if (t == NULL || t->item == NULL || !fetch_is_listed(t->item) || t->syncing || t->staged ||
        !fetch_came(c->fetch, conn->peer->id, t->item, w->chunk, clock_mono_ms()))
        return false;
    *out = (struct item){.target = t, .chunk = w->chunk, .len = w->len, .data = w->data};
    uint32_t len = (uint32_t)t->size;
    if (!t->small) {
        struct chunk chunk = chunklist_get(&t->list, w->chunk);
        memcpy(out->hash, chunk.hash, sizeof out->hash);
        out->at = chunk.at;
        len = chunk.len;
    }
    if (w->len != len) {
        fetch_wrong(c->fetch, conn->peer->id, t->item, w->chunk, clock_mono_ms());
        return false;
    }
    if (t->dropped || t->error != 0 || (!t->small && t->fd < 0)) {
        fetch_unhold(t->item, w->chunk);
        return false;
    }
    return !fetch_is_here(t->item, w->chunk);
}

static uint8_t *expand(struct conn *conn, const struct wire_data *w) {
    uint8_t *body = malloc(w->raw);
    if (body == NULL)
        return NULL;
    if ((w->flags & WIRE_ZSTD) == 0) {
        memcpy(body, w->body, w->raw);
        return body;
    }
    if (conn->zip == NULL)
        conn->zip = zip_new();
    if (conn->zip == NULL || zip_expand(conn->zip, w->body, w->body_len, body, w->raw) != 0) {
        free(body);
        return NULL;
    }
    return body;
}

int stage_data(struct content *c, struct conn *conn, const struct wire_data *w) {
    uint8_t *body = expand(conn, w);
    if (body == NULL)
        return ERR_MALFORMED;
    const uint8_t *p = body;
    size_t left = w->raw;
    struct wire_item item;
    uint32_t count = 0;
    int r;
    while ((r = wire_next_item(&p, &left, &item)) == 1)
        count++;
    struct stage *s = r < 0 ? NULL : calloc(1, sizeof *s + count * sizeof *s->items);
    if (s == NULL) {
        free(body);
        return r < 0 ? r : ERR_NOMEM;
    }
    s->job = (struct job){.run = run_stage, .done = stage_done};
    memcpy(s->peer, conn->peer->id, sizeof s->peer);
    s->body = body;
    s->raw = w->raw;
    for (p = body, left = w->raw; wire_next_item(&p, &left, &item) == 1;) {
        if (!item_wanted(c, conn, &item, &s->items[s->count]))
            continue;
        s->items[s->count++].target->jobs++;
    }
    if (s->count == 0) {
        free(body);
        free(s);
        return 0;
    }
    c->storing += s->raw;
    content_job(c, &s->job);
    content_pause_reading(c);
    return 0;
}

/* ---- what other files here have */

struct copying {
    struct job job;
    struct target *target;
    uint32_t count;
    struct {
        uint32_t chunk, len;
        uint64_t from, to;
        int fd, error;
        bool itself; /* it is in the staging file already */
        uint8_t hash[CONTENT_HASH_BYTES];
    } part[COPY_CHUNKS];
};

static void run_copying(struct job *j) {
    struct copying *s = (struct copying *)j;
    uint8_t hash[CONTENT_HASH_BYTES], *data = malloc(CHUNK_MAX);
    for (uint32_t i = 0; i < s->count; i++) {
        int r = data == NULL ? ERR_NOTFOUND : read_at(s->part[i].fd, data, s->part[i].len, s->part[i].from);
        if (r == 0) {
            chunk_hash(data, s->part[i].len, hash);
            r = memcmp(hash, s->part[i].hash, sizeof hash) == 0 ? 0 : ERR_NOTFOUND;
        } else {
            r = ERR_NOTFOUND; /* whatever is wrong with that file: the chunk is fetched */
        }
        if (r == 0 && !s->part[i].itself)
            r = write_full(s->target->fd, data, s->part[i].len, s->part[i].to);
        s->part[i].error = r;
    }
    free(data);
}

static void copying_done(struct job *j) {
    struct copying *s = (struct copying *)j;
    struct target *t = s->target;
    struct content *c = j->content;
    t->jobs--;
    t->copying--;
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->part[i].error == 0) {
            wrote(t, s->part[i].chunk, s->part[i].len);
            c->totals.copied += s->part[i].len;
        } else if (s->part[i].error == ERR_NOTFOUND) {
            fetch_unhold(t->item, s->part[i].chunk);
        } else {
            t->error = s->part[i].error;
        }
    }
    free(s);
    if (t->error == 0 && !t->dropped && !c->closing) {
        sync_maybe(t);
        stage_copies_go_on(t);
    }
    target_check(t);
}

void stage_copies_go_on(struct target *t) {
    while (t->copies_at < t->copies_count && t->copying < COPIES_AT_ONCE && t->error == 0) {
        struct copying *s = calloc(1, sizeof *s);
        if (s == NULL) {
            target_fail(t, ERR_NOMEM);
            return;
        }
        s->job = (struct job){.run = run_copying, .done = copying_done};
        s->target = t;
        while (s->count < COPY_CHUNKS && t->copies_at < t->copies_count) {
            const struct copy *copy = &t->copies[t->copies_at++];
            struct chunk chunk = chunklist_get(&t->list, copy->chunk);
            uint32_t n = s->count++;
            s->part[n].chunk = copy->chunk;
            s->part[n].len = chunk.len;
            s->part[n].from = copy->at;
            s->part[n].to = chunk.at;
            s->part[n].fd = t->sources[copy->source];
            s->part[n].itself = copy->source == 0 && t->resumed;
            memcpy(s->part[n].hash, chunk.hash, sizeof chunk.hash);
        }
        t->jobs++;
        t->copying++;
        content_job(t->content, &s->job);
    }
}

/* A file here with this content is opened, as the next source; its list in *list. */
static bool source_add(struct target *t, const uint8_t *hash, struct chunklist *list) {
    struct content *c = t->content;
    struct table_place place;
    int fd = -1;
    if (table_file(c->table, hash, 0, &place) != 0)
        return false;
    if (table_list(c->table, hash, list) == 0)
        fd = c->config.open_file(c->config.ctx, place.root, place.path);
    free(place.path);
    if (fd >= 0)
        t->sources[t->sources_count++] = fd;
    else
        chunklist_release(list);
    return fd >= 0;
}

void stage_copies(struct target *t) {
    struct content *c = t->content;
    struct chunklist lists[SOURCES_MAX] = {0};
    uint8_t hashes[SOURCES_MAX][CONTENT_HASH_BYTES], hash[CONTENT_HASH_BYTES];
    uint32_t first = t->sources_count, i, index;
    for (i = 0; i < t->copies_count; i++) /* of an earlier run */
        fetch_hold(t->item, t->copies[i].chunk);
    if (t->copies == NULL && (t->copies = malloc((size_t)t->list.count * sizeof *t->copies)) == NULL)
        return; /* all is fetched */
    for (i = 0; i < t->list.count; i++) {
        struct chunk chunk = chunklist_get(&t->list, i);
        if (fetch_is_held(t->item, i) || table_chunk(c->table, chunk.hash, hash, &index) != 0)
            continue;
        uint32_t n = first;
        while (n < t->sources_count && memcmp(hashes[n], hash, sizeof hash) != 0)
            n++;
        if (n == SOURCES_MAX || (n == t->sources_count && !source_add(t, hash, &lists[n])) || index >= lists[n].count)
            continue;
        memcpy(hashes[n], hash, sizeof hash);
        fetch_hold(t->item, i);
        t->copies[t->copies_count++] = (struct copy){i, n, chunklist_get(&lists[n], index).at};
    }
    for (i = first; i < SOURCES_MAX; i++)
        chunklist_release(&lists[i]);
    stage_copies_go_on(t);
    target_check(t);
}
