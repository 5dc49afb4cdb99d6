/* Answering peers: who has what, lists, chunks. A connection has a queue of runs that its peer wants; one job at a time reads some of them,
 * hashes what it read, compresses it where that helps, and packs frames; the next one starts when the connection has taken most of these.
 * A large file stays open while its runs are read; small ones are opened by the job. What is small goes first: a peer asks for some MiB of a large
 * content ahead, and what it asks for meanwhile does not wait behind that.
 *
 * What a file had when it was noted may be another thing by now: a chunk whose hash is not what it was is not sent, but looked for in the next
 * file that had it, or said to be gone. What was hashed a moment ago, and whose file looks as it did then, is not hashed again. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/content_state.h"
#include "proto/core.h"
#include "proto/err.h"

#define QUEUE_MAX 4096
#define PIECES_MAX 64 /* so many descriptors at most */
#define JOB_BYTES (512u << 10)
#define SQUEEZE_MIN 256
#define TURNS_MAX 4
#define PLAIN_BODIES 16 /* sent as they are, after one that did not shrink */

struct source {
    uint8_t hash[CONTENT_HASH_BYTES];
    int fd;
    uint32_t nth, turn; /* of the files that have it; how often it was another one before */
    bool hashed;        /* a moment ago */
    struct content_stamp stamp;
    struct chunklist list;
};

static void source_free(struct source *s) {
    if (s == NULL)
        return;
    if (s->fd >= 0)
        close(s->fd);
    chunklist_release(&s->list);
    free(s);
}

void serve_rest(struct conn *conn) {
    source_free(conn->source);
    conn->source = NULL;
    zip_free(conn->zip);
    conn->zip = NULL;
    free(conn->small.ring);
    free(conn->large.ring);
    conn->small = conn->large = (struct runs){0};
}

void serve_release(struct conn *conn) {
    serve_rest(conn);
    free(conn);
}

static void send_frames(struct conn *conn, struct buf *b) {
    if (b->failed == 0 && conn->link != NULL)
        content_link_send(conn->link, b->data, b->len);
    buf_release(b);
}

/* It asks, and does not take what it asked for. */
static bool gorged(const struct conn *conn) { return content_link_queued(conn->link) > 4 * LINK_HIGH_BYTES; }

/* ---- who has what */

/* The list of what is being fetched here, or of what is here. */
static int list_of(struct content *c, const uint8_t *hash, struct chunklist *out) {
    struct target *t = target_find(c, hash);
    chunklist_init(out);
    if (t != NULL && t->listed)
        return chunklist_append(out, t->list.entries, t->list.count);
    return table_has(c->table, hash) ? table_list(c->table, hash, out) : ERR_NOTFOUND;
}

int serve_who(struct conn *conn, const uint8_t *hashes, uint32_t count) {
    struct content *c = conn->content;
    struct buf b;
    if (gorged(conn))
        return ERR_TOOBIG;
    buf_init(&b, 4u << 20);
    for (uint32_t i = 0; i < count && b.failed == 0; i++) {
        const uint8_t *hash = hashes + (size_t)i * WIRE_HASH_BYTES;
        struct target *t = target_find(c, hash);
        struct wire_have have = {.hash = hash, .chunks = table_chunks(c->table, hash)};
        if (have.chunks == 0 && t != NULL && t->listed) {
            have.chunks = t->list.count;
            have.bitmap = fetch_bitmap(t->item, &have.bitmap_len);
        }
        if (t != NULL && t->item != NULL)
            fetch_interest(c->fetch, conn->peer->id, hash, clock_mono_ms());
        wire_pack_have(&b, &have);
    }
    send_frames(conn, &b);
    return 0;
}

/* ---- lists */

static void pack_gone(struct buf *b, const uint8_t *hash, uint32_t first, uint32_t count) {
    struct wire_run run = {.first = first, .count = count};
    memcpy(run.hash, hash, sizeof run.hash);
    wire_pack_gone(b, &run);
}

int serve_list(struct conn *conn, const uint8_t *hash) {
    uint8_t groups[WIRE_GROUPS_MAX * WIRE_GROUP_BYTES];
    struct chunklist list;
    struct group g;
    struct buf b;
    if (gorged(conn))
        return ERR_TOOBIG;
    buf_init(&b, 16u << 20);
    int r = list_of(conn->content, hash, &list);
    if (r != 0)
        pack_gone(&b, hash, 0, 0);
    for (uint32_t at = 0; r == 0 && at < list.count;) {
        struct wire_groups w = {hash, list.size, list.count, at, groups, 0};
        while (w.count < WIRE_GROUPS_MAX && chunklist_group(&list, at, &g)) {
            uint8_t *out = groups + (size_t)w.count++ * WIRE_GROUP_BYTES;
            out[0] = (uint8_t)g.count;
            out[1] = (uint8_t)(g.count >> 8);
            memcpy(out + 2, g.name, GROUP_BYTES);
            at += g.count;
        }
        wire_pack_groups(&b, &w);
    }
    chunklist_release(&list);
    send_frames(conn, &b);
    return 0;
}

int serve_part(struct conn *conn, const struct wire_part *w) {
    struct chunklist list;
    struct group g;
    struct buf b;
    if (gorged(conn))
        return ERR_TOOBIG;
    buf_init(&b, 16u << 20);
    int r = list_of(conn->content, w->hash, &list);
    if (r != 0)
        pack_gone(&b, w->hash, 0, 0);
    for (uint32_t i = 0; r == 0 && i < w->count; i++)
        if (chunklist_group(&list, wire_get_u32(w->firsts + 4 * (size_t)i), &g)) {
            struct wire_entries entries = {w->hash, g.first, list.entries + (size_t)g.first * ENTRY_BYTES, g.count};
            wire_pack_entries(&b, &entries);
        }
    chunklist_release(&list);
    send_frames(conn, &b);
    return 0;
}

/* ---- chunks */

struct piece {
    int fd;
    bool own;    /* closes the descriptor */
    bool shared; /* with those before it of the same content: the last one closes it */
    bool gone;
    bool hashed; /* a moment ago, as the file looked as this: */
    struct content_stamp stamp;
    char *path; /* of a small file, to be opened: beneath root */
    uint32_t root;
    uint8_t content[CONTENT_HASH_BYTES], hash[CONTENT_HASH_BYTES];
    uint32_t chunk, len, turn; /* turn: of its source */
    uint64_t at;
};

struct reading {
    struct job job;
    struct conn *conn;
    const struct content_config *config;
    struct zip *zip;
    uint32_t plain;
    struct buf frames;
    uint8_t *body;
    size_t body_len, bytes;
    uint64_t hashed;
    uint32_t count;
    struct piece pieces[PIECES_MAX];
};

/* After reading: whoever wrote before that has left his time. */
static bool looks_the_same(const struct piece *p) {
    struct content_stamp now;
    struct stat st;
    if (fstat(p->fd, &st) != 0)
        return false;
    content_stamp_of(&st, &now);
    return memcmp(&now, &p->stamp, sizeof now) == 0;
}

static bool read_piece(const struct piece *p, uint8_t *to, uint64_t *hashed) {
    uint8_t hash[CONTENT_HASH_BYTES];
    for (uint32_t got = 0; got < p->len;) {
        ssize_t n = pread(p->fd, to + got, p->len - got, (off_t)(p->at + got));
        if (n <= 0)
            return false;
        got += (uint32_t)n;
    }
    if (p->hashed && looks_the_same(p))
        return true;
    *hashed += p->len;
    chunk_hash(to, p->len, hash);
    return memcmp(hash, p->hash, sizeof hash) == 0;
}

static void pack_body(struct reading *s) {
    struct wire_data w = {0, (uint32_t)s->body_len, s->body, s->body_len};
    uint8_t *small = NULL;
    size_t len = 0;
    if (s->plain > 0) {
        s->plain--;
    } else if (s->body_len >= SQUEEZE_MIN && s->zip != NULL && (small = malloc(s->body_len)) != NULL) {
        size_t most = s->body_len - s->body_len / 16;
        if (zip_begin(s->zip, s->body_len, small, most) == 0 && zip_put(s->zip, s->body, s->body_len) == 0 && zip_end(s->zip, &len) == 0) {
            w.flags = WIRE_ZSTD;
            w.body = small;
            w.body_len = len;
        } else {
            s->plain = PLAIN_BODIES;
        }
    }
    if (s->body_len > 0)
        wire_pack_data(&s->frames, &w);
    s->body_len = 0;
    free(small);
}

static void run_reading(struct job *j) {
    struct reading *s = (struct reading *)j;
    for (uint32_t i = 0; i < s->count; i++) {
        struct piece *p = &s->pieces[i];
        if (s->body_len + WIRE_ITEM_HEAD + p->len > WIRE_BODY_MAX)
            pack_body(s);
        uint8_t *to = s->body + s->body_len;
        if (p->path != NULL)
            p->fd = s->config->open_file(s->config->ctx, p->root, p->path);
        p->gone = p->fd < 0 || !read_piece(p, to + WIRE_ITEM_HEAD, &s->hashed);
        if (p->own && p->fd >= 0)
            close(p->fd);
        if (p->gone)
            continue;
        wire_item_head(to, &(struct wire_item){p->content, p->chunk, NULL, p->len});
        s->body_len += WIRE_ITEM_HEAD + p->len;
    }
    pack_body(s);
}

static int runs_add(struct runs *q, const struct wire_run *run) {
    if (q->count == q->cap) {
        uint32_t cap = q->cap == 0 ? 64 : 2 * q->cap;
        struct wire_run *ring = malloc(cap * sizeof *ring);
        if (ring == NULL)
            return ERR_NOMEM;
        for (uint32_t i = 0; i < q->count; i++)
            ring[i] = q->ring[(q->at + i) % q->cap];
        free(q->ring);
        *q = (struct runs){ring, 0, q->count, cap};
    }
    q->ring[(q->at + q->count++) % q->cap] = *run;
    return 0;
}

/* Before all others. */
static int runs_again(struct runs *q, const struct wire_run *run) {
    int r = runs_add(q, run);
    if (r == 0) {
        q->at = (q->at + q->cap - 1) % q->cap;
        q->ring[q->at] = *run;
    }
    return r;
}

bool serve_waits(const struct conn *conn) { return conn->small.count + conn->large.count > 0; }

void serve_hashed(struct content *c, const uint8_t *hash, const struct chunklist *list) {
    if (list->count < 2)
        return;
    struct hashed *h = &c->hashed[c->hashed_next++ % HASHED_MAX];
    memcpy(h->hash, hash, sizeof h->hash);
    h->at_ms = clock_mono_ms();
}

static bool hashed_lately(const struct content *c, const uint8_t *hash) {
    uint64_t now = clock_mono_ms();
    for (uint32_t i = 0; i < HASHED_MAX; i++)
        if (c->hashed[i].at_ms != 0 && now - c->hashed[i].at_ms < HASHED_MS && memcmp(c->hashed[i].hash, hash, CONTENT_HASH_BYTES) == 0)
            return true;
    return false;
}

/* An open file that has it, the nth or a later one, and its list. */
static struct source *source_open(struct content *c, const uint8_t *hash, uint32_t nth) {
    struct source *s = calloc(1, sizeof *s);
    struct table_place place;
    if (s == NULL)
        return NULL;
    memcpy(s->hash, hash, sizeof s->hash);
    s->fd = -1;
    for (uint32_t i = nth; s->fd < 0 && table_file(c->table, hash, i, &place) == 0; i++) {
        s->nth = i;
        s->fd = c->config.open_file(c->config.ctx, place.root, place.path);
        s->stamp = place.stamp;
        free(place.path);
    }
    s->hashed = hashed_lately(c, hash);
    if (s->fd >= 0 && table_list(c->table, hash, &s->list) == 0)
        return s;
    source_free(s);
    return NULL;
}

/* A small file that is another one by now: forgotten, until it is read again; what it had may be in another one. */
static void look_elsewhere(struct conn *conn, struct reading *s, const struct piece *p) {
    bool changed = p->fd != -EMFILE && p->fd != -ENFILE && p->fd != -ENOMEM;
    if (changed)
        table_lost(conn->content->table, p->root, p->path, p->content);
    struct wire_run run = {.count = 1};
    memcpy(run.hash, p->content, sizeof run.hash);
    if (!changed || runs_add(&conn->small, &run) != 0)
        pack_gone(&s->frames, p->content, p->chunk, 1);
}

static struct source *source_next(struct content *c, const struct source *at) {
    struct source *s = at->turn == TURNS_MAX ? NULL : source_open(c, at->hash, at->nth + 1);
    if (s == NULL && at->turn < TURNS_MAX && at->nth > 0)
        s = source_open(c, at->hash, 0);
    if (s != NULL)
        s->turn = at->turn + 1;
    return s;
}

/* So is a chunk of a large one: the rest of that may be what it was. */
static void look_in_next(struct conn *conn, struct reading *s, const struct piece *p) {
    struct wire_run run = {.first = p->chunk, .count = 1};
    struct source *at = conn->source;
    bool of_it = p->shared && at != NULL && memcmp(at->hash, p->content, sizeof at->hash) == 0;
    if (of_it && at->turn == p->turn) { /* else the next one is open already, for another chunk */
        conn->source = source_next(conn->content, at);
        source_free(at);
    }
    memcpy(run.hash, p->content, sizeof run.hash);
    if (!of_it || conn->source == NULL || runs_again(&conn->large, &run) != 0)
        pack_gone(&s->frames, p->content, p->chunk, 1);
}

static void reading_done(struct job *j) {
    struct reading *s = (struct reading *)j;
    struct conn *conn = s->conn;
    struct content *c = j->content;
    conn->serving = false;
    conn->plain = s->plain;
    c->totals.hashed += s->hashed;
    for (uint32_t i = 0; i < s->count; i++) {
        struct piece *p = &s->pieces[i];
        if (p->gone && !conn->over && p->path != NULL)
            look_elsewhere(conn, s, p);
        else if (p->gone && !conn->over)
            look_in_next(conn, s, p);
        free(p->path);
    }
    if (conn->over || c->closing) {
        buf_release(&s->frames);
        if (conn->over)
            serve_release(conn);
    } else {
        send_frames(conn, &s->frames);
        serve_next(conn);
    }
    free(s->body);
    free(s);
}

/* Of what is being fetched here, what is there already. */
static bool piece_of_target(struct content *c, struct piece *p) {
    struct target *t = target_find(c, p->content);
    if (t == NULL || !t->listed || t->fd < 0 || t->item == NULL || p->chunk >= t->list.count || !fetch_is_here(t->item, p->chunk))
        return false;
    struct chunk chunk = chunklist_get(&t->list, p->chunk);
    memcpy(p->hash, chunk.hash, sizeof p->hash);
    p->at = chunk.at;
    p->len = chunk.len;
    p->fd = fcntl(t->fd, F_DUPFD_CLOEXEC, 0);
    p->own = true;
    return true;
}

/* A small file is not kept open, nor opened here: the job does that. */
static bool piece_small(struct content *c, struct piece *p) {
    struct table_place place;
    struct chunklist list;
    chunklist_init(&list);
    bool small = p->chunk == 0 && table_chunks(c->table, p->content) == 1 && table_list(c->table, p->content, &list) == 0 &&
                 list.size <= CHUNK_MIN && table_file(c->table, p->content, 0, &place) == 0;
    if (small) {
        struct chunk chunk = chunklist_get(&list, 0);
        memcpy(p->hash, chunk.hash, sizeof p->hash);
        p->len = chunk.len;
        p->path = place.path;
        p->root = place.root;
        p->own = true;
    }
    chunklist_release(&list);
    return small;
}

static void piece_find(struct conn *conn, struct reading *s, struct piece *p) {
    struct content *c = conn->content;
    p->fd = -1;
    if (piece_of_target(c, p) || piece_small(c, p))
        return;
    if (conn->source == NULL || memcmp(conn->source->hash, p->content, sizeof p->content) != 0) {
        source_free(conn->source);
        conn->source = source_open(c, p->content, 0);
    }
    if (conn->source == NULL || p->chunk >= conn->source->list.count)
        return;
    struct chunk chunk = chunklist_get(&conn->source->list, p->chunk);
    memcpy(p->hash, chunk.hash, sizeof p->hash);
    p->at = chunk.at;
    p->len = chunk.len;
    p->hashed = conn->source->hashed;
    p->turn = conn->source->turn;
    p->stamp = conn->source->stamp;
    struct piece *before = s->count > 0 ? p - 1 : NULL;
    p->shared = true;
    p->own = true;
    if (before != NULL && before->shared && memcmp(before->content, p->content, sizeof p->content) == 0) {
        p->fd = before->fd;
        before->own = false;
        return;
    }
    p->fd = fcntl(conn->source->fd, F_DUPFD_CLOEXEC, 0);
}

static void pieces_take(struct conn *conn, struct reading *s) {
    while (serve_waits(conn) && s->count < PIECES_MAX && s->bytes < JOB_BYTES) {
        struct runs *q = conn->small.count > 0 ? &conn->small : &conn->large;
        struct wire_run *run = &q->ring[q->at];
        struct piece *p = &s->pieces[s->count];
        memcpy(p->content, run->hash, sizeof p->content);
        p->chunk = run->first;
        piece_find(conn, s, p);
        s->count++;
        s->bytes += p->len + WIRE_ITEM_HEAD;
        run->first++;
        bool nothing = p->fd < 0 && p->path == NULL; /* nor of the rest of this run: told once */
        if (--run->count == 0 || nothing) {
            q->at = (q->at + 1) % q->cap;
            q->count--;
        }
    }
}

void serve_next(struct conn *conn) {
    struct content *c = conn->content;
    if (conn->serving || conn->over || conn->link == NULL || !serve_waits(conn) || c->closing || !content_link_up(conn->link) ||
        content_link_queued(conn->link) >= LINK_HIGH_BYTES || !bucket_ready(c, &c->out, clock_mono_ms()))
        return;
    struct reading *s = calloc(1, sizeof *s);
    if (s == NULL || (s->body = malloc(WIRE_BODY_MAX)) == NULL) {
        free(s);
        return; /* the timer tries again */
    }
    if (conn->zip == NULL)
        conn->zip = zip_new();
    s->job = (struct job){.run = run_reading, .done = reading_done};
    s->conn = conn;
    s->config = &c->config;
    s->zip = conn->zip;
    s->plain = conn->plain;
    buf_init(&s->frames, 4u << 20);
    pieces_take(conn, s);
    conn->serving = true;
    content_job(c, &s->job);
}

int serve_want(struct conn *conn, const uint8_t *runs, uint32_t count) {
    if (conn->small.count + conn->large.count + count > QUEUE_MAX)
        return ERR_TOOBIG;
    for (uint32_t i = 0; i < count; i++) {
        struct wire_run run = wire_get_run(runs, i);
        if (run.count == 0)
            return ERR_MALFORMED;
        int r = runs_add(run.first == 0 && run.count == 1 ? &conn->small : &conn->large, &run);
        if (r != 0)
            return r;
    }
    serve_next(conn);
    return 0;
}
