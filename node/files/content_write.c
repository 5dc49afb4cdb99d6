/* What is written into staging files: chunks that came from peers, and chunks that other files here have. Both are hashed first, on the pool; a
 * small content is written whole.
 *
 * The happy path for what comes is: stage_data -> run_stage on the pool: hashed, written -> item_done; for what is here: stage_copies ->
 * run_copying ... -> copying_done.
 * Possible failure modes are: what came is not what it should be: a fault of its peer, and it is asked for again; a file here has something else
 * by now: the chunk is fetched; no space, or a write error: the want ends with it. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/content_state.h"
#include "proto/err.h"

#define COPY_CHUNKS 16
#define COPIES_AT_ONCE 3
#define COPY_BYTES (1u << 20) /* and one chunk, at most */
#define WRITE_PIECES 16
#define TRIED_MAX 16

/* ---- small ones */

struct small_copy {
    struct job job;
    struct target *target;
    struct table_place place; /* of the file that had it, when it was noted; path NULL: none is needed */
    int fd, error;
    uint8_t chunk[CONTENT_HASH_BYTES];
};

static int small_write(const struct target *t, const uint8_t *data) {
    int fd = stage_make(t->dir, t->name, O_WRONLY);
    if (fd < 0)
        return content_error(errno);
    int r = stage_write(fd, data, (size_t)t->size, 0);
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
    if (t->size > 0 && stage_read(s->fd, data, (size_t)t->size, 0) != 0)
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
    struct content *c = j->content;
    t->jobs--;
    if (s->fd >= 0)
        close(s->fd);
    if (s->error == 0) {
        small_written(t, s->chunk);
        if (t->item != NULL)
            stage_wrote(t, 0, (uint32_t)t->size);
        c->totals.copied += t->size;
    } else if (s->error != ERR_NOTFOUND) {
        t->error = s->error;
    } else { /* forgotten, until it is read again; perhaps the next one has it */
        table_lost(c->table, s->place.root, s->place.path, t->hash);
        if (t->dropped || c->closing || !stage_small_copy(t))
            fetch_unhold(t->item, 0);
    }
    free(s->place.path);
    free(s);
    target_check(t);
}

/* The first file that was noted with it and can be opened. */
static int small_source(struct target *t, struct table_place *place) {
    struct content *c = t->content;
    while (t->tried < TRIED_MAX && table_file(c->table, t->hash, 0, place) == 0) {
        t->tried++;
        int fd = c->config.open_file(c->config.ctx, place->root, place->path);
        if (fd >= 0)
            return fd;
        if (fd != -EMFILE && fd != -ENFILE && fd != -ENOMEM)
            table_gone(c->table, place->root, place->path);
        free(place->path);
        place->path = NULL;
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
            break;
    }
    return -1;
}

bool stage_small_copy(struct target *t) {
    struct table_place place = {.path = NULL};
    int fd = t->size > 0 ? small_source(t, &place) : -1;
    struct small_copy *s = fd < 0 && t->size > 0 ? NULL : calloc(1, sizeof *s);
    if (s == NULL) {
        if (fd >= 0)
            close(fd);
        free(place.path);
        if (t->size == 0)
            target_fail(t, ERR_NOMEM);
        return false;
    }
    *s = (struct small_copy){.job = {.run = run_small_copy, .done = small_copy_done}, .target = t, .place = place, .fd = fd};
    if (t->item != NULL)
        fetch_hold(t->item, 0);
    t->jobs++;
    content_job(t->content, &s->job);
    return true;
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
    uint8_t *own; /* what the items point into */
    uint32_t raw, count;
    struct item items[];
};

static int small_stage(struct item *it) {
    uint8_t hash[CONTENT_HASH_BYTES];
    content_hash_one(it->data, it->len, hash);
    if (memcmp(hash, it->target->hash, sizeof hash) != 0)
        return ERR_SIGNATURE;
    chunk_hash(it->data, it->len, it->hash);
    return small_write(it->target, it->data);
}

static bool is_chunk(const uint8_t *data, uint32_t len, const uint8_t expected[CONTENT_HASH_BYTES]) {
    uint8_t hash[CONTENT_HASH_BYTES];
    chunk_hash(data, len, hash);
    return memcmp(hash, expected, sizeof hash) == 0;
}

/* Chunks that follow each other in their file are written at once: the larger a write, the less it costs a page. How many items were done with. */
static uint32_t chunks_stage(struct item *it, uint32_t count) {
    struct iovec pieces[WRITE_PIECES];
    uint64_t at = it->at;
    uint32_t n = 0;
    while (n < count && n < WRITE_PIECES && it[n].target == it->target && it[n].at == at && is_chunk(it[n].data, it[n].len, it[n].hash)) {
        pieces[n] = (struct iovec){(void *)(uintptr_t)it[n].data, it[n].len};
        at += it[n++].len;
    }
    int r = n == 0 ? ERR_SIGNATURE : stage_writev(it->target->fd, pieces, n, it->at);
    for (uint32_t i = 0; i == 0 || i < n; i++)
        it[i].error = r;
    return n == 0 ? 1 : n;
}

static void run_stage(struct job *j) {
    struct stage *s = (struct stage *)j;
    for (uint32_t i = 0; i < s->count;)
        if (s->items[i].target->small) {
            s->items[i].error = small_stage(&s->items[i]);
            i++;
        } else {
            i += chunks_stage(&s->items[i], s->count - i);
        }
}

static void item_done(struct content *c, struct stage *s, struct item *it) {
    struct target *t = it->target;
    t->jobs--;
    c->totals.hashed += it->len;
    if (it->error == ERR_SIGNATURE) {
        content_say(c, LOG_WARNING, "files: a peer sent a chunk that is not what was asked for");
        fetch_wrong(c->fetch, s->peer, t->item, it->chunk, clock_mono_ms());
    } else if (it->error != 0) {
        t->error = t->error != 0 ? t->error : it->error;
    } else {
        if (t->small)
            small_written(t, it->hash);
        stage_wrote(t, it->chunk, it->len);
        t->fetched += it->len;
        stage_sync_maybe(t);
    }
    target_check(t);
}

static void stage_done(struct job *j) {
    struct stage *s = (struct stage *)j;
    struct content *c = j->content;
    c->storing -= s->raw;
    for (uint32_t i = 0; i < s->count; i++)
        item_done(c, s, &s->items[i]);
    free(s->own);
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
        if (t->small) /* nothing but a row of the index says how long it is */
            fetch_misfit(c->fetch, conn->peer->id, t->item, clock_mono_ms());
        else
            fetch_wrong(c->fetch, conn->peer->id, t->item, w->chunk, clock_mono_ms());
        return false;
    }
    if (t->dropped || t->error != 0 || (!t->small && t->fd < 0)) {
        fetch_unhold(t->item, w->chunk);
        return false;
    }
    return !fetch_is_here(t->item, w->chunk);
}

/* The items: in *own, or behind its beginning. */
static const uint8_t *expand(struct conn *conn, const struct wire_data *w, uint8_t **own) {
    bool plain = (w->flags & WIRE_ZSTD) == 0;
    if (plain && (*own = content_link_take(conn->link)) != NULL)
        return w->body;
    uint8_t *body = *own = malloc(w->raw);
    if (body == NULL)
        return NULL;
    if (plain)
        return memcpy(body, w->body, w->raw);
    if (conn->zip == NULL)
        conn->zip = zip_new();
    if (conn->zip == NULL || zip_expand(conn->zip, w->body, w->body_len, body, w->raw) != 0) {
        free(body);
        return NULL;
    }
    return body;
}

int stage_data(struct content *c, struct conn *conn, const struct wire_data *w) {
    uint8_t *own;
    const uint8_t *body = expand(conn, w, &own), *p = body;
    if (body == NULL)
        return ERR_MALFORMED;
    size_t left = w->raw;
    struct wire_item item;
    uint32_t count = 0;
    int r;
    while ((r = wire_next_item(&p, &left, &item)) == 1)
        count++;
    struct stage *s = r < 0 ? NULL : calloc(1, sizeof *s + count * sizeof *s->items);
    if (s == NULL) {
        free(own);
        return r < 0 ? r : ERR_NOMEM;
    }
    s->job = (struct job){.run = run_stage, .done = stage_done};
    memcpy(s->peer, conn->peer->id, sizeof s->peer);
    s->own = own;
    s->raw = w->raw;
    for (p = body, left = w->raw; wire_next_item(&p, &left, &item) == 1;) {
        if (!item_wanted(c, conn, &item, &s->items[s->count]))
            continue;
        s->items[s->count++].target->jobs++;
    }
    if (s->count == 0) {
        free(own);
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
    uint32_t count, bytes;
    struct {
        uint32_t chunk, len;
        uint64_t from, to;
        int fd, error;
        bool itself; /* it is in the staging file already */
        uint8_t hash[CONTENT_HASH_BYTES];
    } part[COPY_CHUNKS];
};

/* Writes the parts [first, end), which stand in data and follow each other. */
static void copies_write(struct copying *s, uint32_t first, uint32_t end, const uint8_t *data, size_t len) {
    int r = len == 0 ? 0 : stage_write(s->target->fd, data, len, s->part[first].to);
    for (uint32_t i = first; r != 0 && i < end; i++)
        s->part[i].error = r;
}

static void run_copying(struct job *j) {
    struct copying *s = (struct copying *)j;
    uint8_t *data = malloc(s->bytes);
    uint32_t first = 0;
    size_t len = 0; /* of the parts from `first` on */
    for (uint32_t i = 0; i < s->count; i++) {
        if (len > 0 && s->part[i].to != s->part[first].to + len) {
            copies_write(s, first, i, data, len);
            len = 0;
        }
        first = len == 0 ? i : first;
        bool there = data != NULL && stage_read(s->part[i].fd, data + len, s->part[i].len, s->part[i].from) == 0 &&
                     is_chunk(data + len, s->part[i].len, s->part[i].hash);
        s->part[i].error = there ? 0 : ERR_NOTFOUND; /* whatever is wrong with that file: the chunk is fetched */
        if (there && !s->part[i].itself)
            len += s->part[i].len;
    }
    if (len > 0)
        copies_write(s, first, s->count, data, len);
    free(data);
}

static void copying_done(struct job *j) {
    struct copying *s = (struct copying *)j;
    struct target *t = s->target;
    struct content *c = j->content;
    t->jobs--;
    t->copying--;
    for (uint32_t i = 0; i < s->count; i++) {
        c->totals.hashed += s->part[i].len;
        if (s->part[i].error == 0) {
            stage_wrote(t, s->part[i].chunk, s->part[i].len);
            c->totals.copied += s->part[i].len;
        } else if (s->part[i].error == ERR_NOTFOUND) {
            fetch_unhold(t->item, s->part[i].chunk);
        } else {
            t->error = s->part[i].error;
        }
    }
    free(s);
    if (t->error == 0 && !t->dropped && !c->closing) {
        stage_sync_maybe(t);
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
        while (s->count < COPY_CHUNKS && s->bytes < COPY_BYTES && t->copies_at < t->copies_count) {
            const struct copy *copy = &t->copies[t->copies_at++];
            struct chunk chunk = chunklist_get(&t->list, copy->chunk);
            uint32_t n = s->count++;
            s->part[n].chunk = copy->chunk;
            s->part[n].len = chunk.len;
            s->bytes += chunk.len;
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
    if (t->copies_at == t->copies_count && t->copying == 0) /* what could not be copied may be now */
        t->copies_at = t->copies_count = 0;
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
