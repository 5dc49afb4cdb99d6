/* Reading files whole: chunks, their hashes, the content. A large file is read and cut by one thread while a second one hashes what is cut;
 * the first one helps whenever it is ahead, as hashing takes twice as long as the rest. Small ones are read in groups, so that what follows
 * (the commit of the index, its batch) is done once for many; they never wait behind more than one large file.
 *
 * The happy path for a scan is:
 *   content_scan -> scans_start: a group -> run_group on the pool: opened, read -> group_done: noted, `scanned`.
 * A file that turns out to be large goes from its group to scans_large, open, and is read by a job of its own.
 * Possible failure modes are: no such file, no permission, a read error, a file that is written meanwhile (its stamp or length differs at the end). */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/files/content_state.h"
#include "proto/err.h"

#define LARGE_BYTES (4u << 20)
#define SCAN_GROUP_BYTES (4u << 20) /* of a group; what would be beyond that is left for the next one */
#define BLOCK_BYTES (2u << 20)
#define BLOCKS 3
#define BLOCK_CHUNKS (BLOCK_BYTES / CHUNK_MIN + 1)

struct scan {
    uint64_t number;
    uint32_t root;
    char *path;
    int fd, error;
    bool large, read;
    struct content *content; /* of which the pool reads: config, chunker, scans_over */
    mode_t mode;
    struct content_stamp stamp;
    struct chunklist list;
    uint8_t hash[CONTENT_HASH_BYTES];
    struct scan *prev, *next;
};

int content_error(int number) {
    switch (number) {
    case ENOENT:
    case ENOTDIR: return ERR_NOTFOUND;
    case EACCES:
    case EPERM:
    case EXDEV:
    case ELOOP: return ERR_DENIED;
    case ENOMEM: return ERR_NOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return ERR_FULL;
    case EINVAL:
    case EISDIR: return ERR_UNSUPPORTED;
    case EROFS: return ERR_READONLY;
    default: return ERR_IO;
    }
}

/* ---- hashing by two threads */

struct block {
    uint8_t *data;
    size_t len;
    uint32_t chunks, taken, hashed; /* taken in order */
    struct {
        uint32_t at, len;
        uint8_t hash[CONTENT_HASH_BYTES];
    } chunk[BLOCK_CHUNKS];
};

struct pipeline {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    struct block block[BLOCKS];
    bool over;
};

/* Hashes one chunk that nobody has taken. False: there is none. Called with the lock held. */
static bool hash_one(struct pipeline *p) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        struct block *b = &p->block[i];
        if (b->taken == b->chunks)
            continue;
        uint32_t n = b->taken++;
        pthread_mutex_unlock(&p->lock);
        chunk_hash(b->data + b->chunk[n].at, b->chunk[n].len, b->chunk[n].hash);
        pthread_mutex_lock(&p->lock);
        if (++b->hashed == b->chunks)
            pthread_cond_broadcast(&p->moved);
        return true;
    }
    return false;
}

static void *helper(void *ctx) {
    struct pipeline *p = ctx;
    pthread_mutex_lock(&p->lock);
    while (!p->over)
        if (!hash_one(p))
            pthread_cond_wait(&p->moved, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Until this block is hashed; then its chunks go to the list, and it is free. */
static int collect(struct scan *s, struct pipeline *p, struct block *b) {
    int r = 0;
    pthread_mutex_lock(&p->lock);
    while (b->hashed < b->chunks)
        if (!hash_one(p))
            pthread_cond_wait(&p->moved, &p->lock);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < b->chunks && r == 0; i++)
        r = chunklist_add(&s->list, b->chunk[i].hash, b->chunk[i].len);
    pthread_mutex_lock(&p->lock); /* the helper looks at these: nothing to take, at any moment */
    b->chunks = b->taken = b->hashed = 0;
    pthread_mutex_unlock(&p->lock);
    return r;
}

/* ---- reading */

static int read_full(int fd, uint8_t *data, size_t len, size_t *got) {
    *got = 0;
    while (*got < len) {
        ssize_t n = read(fd, data + *got, len - *got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return content_error(errno);
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return 0;
}

/* Cuts a block; what may be no whole chunk is left for the next one. */
static size_t cut(struct scan *s, struct block *b, bool last, uint32_t *count) {
    size_t at = 0;
    *count = 0;
    while (at < b->len && (last || b->len - at >= CHUNK_MAX)) {
        size_t n = chunker_cut(&s->content->chunker, b->data + at, b->len - at);
        b->chunk[*count].at = (uint32_t)at;
        b->chunk[*count].len = (uint32_t)n;
        at += n;
        ++*count;
    }
    return at;
}

static bool as_before(struct scan *s) {
    struct content_stamp now;
    struct stat st;
    if (fstat(s->fd, &st) != 0)
        return false;
    content_stamp_of(&st, &now);
    s->mode = st.st_mode;
    return memcmp(&now, &s->stamp, sizeof now) == 0;
}

static int blocks_read(struct scan *s, struct pipeline *p) {
    uint8_t *rest = malloc(CHUNK_MAX);
    size_t rest_len = 0;
    int r = rest == NULL ? ERR_NOMEM : 0;
    bool last = false;
    for (unsigned i = 0; r == 0 && !last; i = (i + 1) % BLOCKS) {
        struct block *b = &p->block[i];
        size_t got = 0;
        if ((r = collect(s, p, b)) != 0)
            break;
        if (s->content->scans_over)
            r = ERR_CLOSED;
        memcpy(b->data, rest, rest_len);
        if (r == 0)
            r = read_full(s->fd, b->data + rest_len, BLOCK_BYTES - rest_len, &got);
        if (r == 0 && !as_before(s)) /* no use to read on what is being written */
            r = ERR_BUSY;
        b->len = rest_len + got;
        last = b->len < BLOCK_BYTES;
        uint32_t count = 0;
        size_t at = r == 0 ? cut(s, b, last, &count) : 0;
        rest_len = r == 0 ? b->len - at : 0;
        memcpy(rest, b->data + at, rest_len);
        pthread_mutex_lock(&p->lock);
        b->chunks = count;
        pthread_cond_broadcast(&p->moved);
        pthread_mutex_unlock(&p->lock);
        if (last || r != 0) /* in order: the oldest block first */
            for (unsigned k = 1; k <= BLOCKS; k++) {
                int collected = collect(s, p, &p->block[(i + k) % BLOCKS]);
                r = r != 0 ? r : collected;
            }
    }
    free(rest);
    return r;
}

static int read_large(struct scan *s) {
    struct pipeline *p = calloc(1, sizeof *p);
    uint8_t *data = malloc((size_t)BLOCKS * BLOCK_BYTES);
    pthread_t second;
    int r = p == NULL || data == NULL ? ERR_NOMEM : 0;
    if (r == 0) {
        for (size_t i = 0; i < BLOCKS; i++)
            p->block[i].data = data + i * BLOCK_BYTES;
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->moved, NULL);
        bool two = pthread_create(&second, NULL, helper, p) == 0; /* alone it takes longer */
        r = blocks_read(s, p);
        pthread_mutex_lock(&p->lock);
        p->over = true;
        pthread_cond_broadcast(&p->moved);
        pthread_mutex_unlock(&p->lock);
        if (two)
            pthread_join(second, NULL);
        pthread_cond_destroy(&p->moved);
        pthread_mutex_destroy(&p->lock);
    }
    free(data);
    free(p);
    return r;
}

static int read_small(struct scan *s, size_t size) {
    uint8_t hash[CONTENT_HASH_BYTES], *data = malloc(size + 1);
    size_t got = 0;
    int r = data == NULL ? ERR_NOMEM : read_full(s->fd, data, size + 1, &got);
    if (r == 0 && got != size)
        r = ERR_BUSY;
    for (size_t at = 0; r == 0 && at < size;) {
        size_t n = chunker_cut(&s->content->chunker, data + at, size - at);
        chunk_hash(data + at, n, hash);
        r = chunklist_add(&s->list, hash, (uint32_t)n);
        at += n;
    }
    free(data);
    return r;
}

/* Opens it, and reads it if it is small, or if it was known to be large. */
static int scan_file(struct scan *s) {
    struct content *c = s->content;
    struct stat before;
    if (s->fd < 0 && (s->fd = c->config.open_file(c->config.ctx, s->root, s->path)) < 0)
        return content_error(-s->fd);
    if (fstat(s->fd, &before) != 0)
        return content_error(errno);
    if (!S_ISREG(before.st_mode))
        return ERR_UNSUPPORTED;
    content_stamp_of(&before, &s->stamp);
    bool large = s->stamp.size > LARGE_BYTES;
    if (large && !s->large) {
        s->large = true;
        return 0;
    }
    if (large)
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    int r = large ? read_large(s) : read_small(s, (size_t)s->stamp.size);
    s->read = true;
    if (r != 0)
        return r;
    chunklist_hash(&s->list, s->hash);
    return !as_before(s) || s->list.size != s->stamp.size ? ERR_BUSY : 0;
}

static void run_group(struct job *j) {
    struct scan_group *g = (struct scan_group *)j;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < g->count && bytes <= SCAN_GROUP_BYTES; i++) {
        struct scan *s = g->scans[i];
        s->error = s->content->scans_over ? ERR_CLOSED : scan_file(s);
        bytes += s->read ? s->stamp.size : 0;
        s->read = s->read || s->error != 0;
        if (s->read && s->fd >= 0)
            close(s->fd); /* here, and not by the loop's thread */
        s->fd = s->read ? -1 : s->fd;
    }
}

/* ---- on the loop */

static void scan_free(struct scan *s) {
    if (s->fd >= 0)
        close(s->fd);
    chunklist_release(&s->list);
    free(s->path);
    free(s);
}

static void tell(struct content *c, struct scan *s) {
    c->totals.hashed += s->list.size;
    if (s->error == 0)
        serve_hashed(c, s->hash, &s->list);
    if (s->error == 0)
        table_note(c->table, s->root, s->path, s->hash, &s->list, &s->stamp);
    if (c->closing)
        return;
    if (s->error == 0)
        target_here(c, s->hash);
    struct content_scanned told = {.number = s->number,
                                   .root = s->root,
                                   .path = s->path,
                                   .error = s->error,
                                   .chunks = s->list.count,
                                   .mode = s->mode,
                                   .stamp = s->stamp};
    memcpy(told.hash, s->hash, sizeof told.hash);
    c->config.scanned(c->config.ctx, &told);
}

static void group_done(struct job *j) {
    struct scan_group *g = (struct scan_group *)j;
    struct content *c = j->content;
    struct scan *s, *next, *read = NULL;
    for (uint32_t i = g->count; i-- > 0;) { /* in their order before the others */
        s = g->scans[i];
        struct scan **list = s->read ? &read : s->large ? &c->scans_large : &c->scans_waiting;
        DL_PREPEND(*list, s);
    }
    g->count = 0;
    g->large = false;
    DL_FOREACH_SAFE(read, s, next) {
        c->scans_count--;
        tell(c, s);
        scan_free(s);
    }
    if (c->closing)
        scans_close(c);
}

static void group_take(struct scan_group *g, struct scan **list, uint32_t max) {
    while (*list != NULL && g->count < max) {
        struct scan *s = *list;
        DL_DELETE(*list, s);
        g->scans[g->count++] = s;
    }
}

void scans_start(struct content *c) {
    for (int i = 0; i < SCANS_AT_ONCE; i++) {
        struct scan_group *g = &c->scan_groups[i];
        if (g->count > 0 || (c->scans_waiting == NULL && c->scans_large == NULL))
            continue;
        bool other_large = c->scan_groups[!i].large;
        g->large = c->scans_large != NULL && !other_large;
        if (g->large)
            group_take(g, &c->scans_large, 1);
        else
            group_take(g, &c->scans_waiting, SCAN_GROUP_MAX);
        if (g->count == 0)
            continue; /* only large ones wait, and one is being read */
        g->job.run = run_group;
        g->job.done = group_done;
        content_job(c, &g->job);
    }
}

uint64_t content_scan(struct content *c, uint32_t root, const char *path) {
    struct scan *s = c->closing || c->scans_count >= CONTENT_SCANS_MAX ? NULL : calloc(1, sizeof *s);
    if (s == NULL || (s->path = strdup(path)) == NULL) {
        free(s);
        return 0;
    }
    s->number = ++c->number_last;
    s->root = root;
    s->fd = -1;
    s->content = c;
    chunklist_init(&s->list);
    DL_APPEND(c->scans_waiting, s);
    c->scans_count++;
    content_soon(c);
    return s->number;
}

void scans_close(struct content *c) {
    struct scan *s, *next;
    c->scans_over = true;
    DL_FOREACH_SAFE(c->scans_waiting, s, next) {
        DL_DELETE(c->scans_waiting, s);
        scan_free(s);
    }
    DL_FOREACH_SAFE(c->scans_large, s, next) {
        DL_DELETE(c->scans_large, s);
        scan_free(s);
    }
}
