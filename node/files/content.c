/* The happy path for content is:
 *   content_open -> the door tells of peers and hands connections over -> frame_cb gives what comes to content_get.c and content_serve.c;
 *   timer_cb pumps questions out, commits the table, closes idle connections -> content_close: connections, jobs, then the timer -> closed.
 * Possible failure modes are:
 *   - a peer sends what breaks its table: the connection is dropped, and it counts as a fault of that peer;
 *   - a peer cannot be dialled, or closes at once: it is as if it were not linked, for DIAL_AGAIN_MS;
 *   - the disk fails or is full: the wants it concerns end with the error. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/clock.h"
#include "node/files/content_state.h"
#include "proto/core.h"
#include "proto/err.h"
#include "proto/wire.h"

#define COMMIT_MS 300
#define ASKS_MAX (2u << 20)
#define TICK_MS 1000
#define SHORT_MS 1000 /* a connection that ends sooner was not wanted */
#define LIMITED_MS 20
#define BUCKET_MS 200 /* what may pass at once after a pause */

static void timer_cb(uv_timer_t *timer);

void content_say(struct content *c, enum log_level level, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (c->config.say != NULL)
        c->config.say(c->config.ctx, level, text);
}

/* ---- jobs */

static void end_check(struct content *c);

static void run_cb(uv_work_t *work) {
    struct job *j = work->data;
    j->run(j);
}

static void done_cb(uv_work_t *work, int status) {
    struct job *j = work->data;
    struct content *c = j->content;
    (void)status;
    c->jobs--;
    j->done(j);
    if (c->closing)
        end_check(c);
    else
        content_soon(c);
}

void content_job(struct content *c, struct job *j) {
    j->content = c;
    j->work.data = j;
    c->jobs++;
    int r = uv_queue_work(c->config.loop, &j->work, run_cb, done_cb);
    assert(r == 0); /* fails only without a callback */
    (void)r;
}

/* ---- the bandwidth limit */

bool bucket_ready(struct content *c, struct bucket *b, uint64_t now) {
    double rate = (double)c->config.bandwidth_kib * 1024 / 1000; /* a millisecond */
    if (c->config.bandwidth_kib == 0)
        return true;
    b->bytes += (double)(now - b->at_ms) * rate;
    if (b->bytes > rate * BUCKET_MS)
        b->bytes = rate * BUCKET_MS;
    b->at_ms = now;
    return b->bytes >= 0;
}

static void passed_cb(void *ctx, struct content_link *l, size_t in, size_t out) {
    struct content *c = ctx;
    door_passed(c->config.door, content_link_peer(l), in, out);
    c->totals.received += in;
    c->totals.sent += out;
    if (c->config.bandwidth_kib == 0)
        return;
    c->in.bytes -= (double)in;
    c->out.bytes -= (double)out;
    content_pause_reading(c);
}

void content_set_bandwidth(struct content *c, uint64_t kib) {
    c->config.bandwidth_kib = kib;
    c->in = c->out = (struct bucket){.at_ms = clock_mono_ms()};
    content_soon(c);
}

void content_rest(struct content *c) {
    table_rest(c->table);
    for (struct peer *p = c->peers; p != NULL; p = p->next) {
        struct conn *conn;
        DL_FOREACH(p->conns, conn) {
            if (!conn->serving && !serve_waits(conn))
                serve_rest(conn);
        }
    }
}

void content_pause_reading(struct content *c) {
    bool full = c->paused ? c->storing > STORE_LOW_BYTES : c->storing > STORE_HIGH_BYTES;
    bool pause = full || !bucket_ready(c, &c->in, clock_mono_ms());
    if (pause == c->paused)
        return;
    c->paused = pause;
    for (struct peer *p = c->peers; p != NULL; p = p->next) {
        struct conn *conn, *next;
        DL_FOREACH_SAFE(p->conns, conn, next) { content_link_pause(conn->link, pause); }
    }
}

/* ---- peers and connections */

static struct peer *peer_find(struct content *c, const uint8_t *id) {
    struct peer *p = c->peers;
    while (p != NULL && memcmp(p->id, id, NODE_ID_BYTES) != 0)
        p = p->next;
    return p;
}

static struct peer *peer_get(struct content *c, const uint8_t *id) {
    struct peer *p = peer_find(c, id);
    if (p != NULL || (p = calloc(1, sizeof *p)) == NULL)
        return p;
    memcpy(p->id, id, NODE_ID_BYTES);
    buf_init(&p->asks, ASKS_MAX);
    p->next = c->peers;
    c->peers = p;
    return p;
}

void peer_send(struct content *c, const uint8_t *id, const struct buf *frames) {
    struct peer *p = peer_find(c, id);
    if (p == NULL || !p->up || frames->failed != 0)
        return;
    struct conn *conn;
    DL_FOREACH(p->conns, conn) {
        if (content_link_up(conn->link)) {
            content_link_send(conn->link, frames->data, frames->len);
            return;
        }
    }
    buf_append(&p->asks, frames->data, frames->len);
    if (!p->dialling && c->config.door != NULL) {
        p->dialling = true;
        door_want(c->config.door, id);
    }
}

static void fault(struct content *c, struct conn *conn) {
    fetch_fault(c->fetch, conn->peer->id, clock_mono_ms());
    content_say(c, LOG_WARNING, "files: a peer sent what no peer sends: its connection is closed");
}

static int dispatch(struct content *c, struct conn *conn, const uint8_t *payload, size_t len) {
    struct mpk m;
    uint32_t fields, count;
    const uint8_t *items;
    struct wire_have have;
    struct wire_groups groups;
    struct wire_part part;
    struct wire_entries entries;
    struct wire_data data;
    struct wire_run run;
    int r, type = wire_type(&m, payload, len, &fields);
    switch (type) {
    case WIRE_WHO: return (r = wire_unpack_who(&items, &count, &m, fields)) != 0 ? r : serve_who(conn, items, count);
    case WIRE_LIST: return (r = wire_unpack_list(&items, &m, fields)) != 0 ? r : serve_list(conn, items);
    case WIRE_PART: return (r = wire_unpack_part(&part, &m, fields)) != 0 ? r : serve_part(conn, &part);
    case WIRE_WANT: return (r = wire_unpack_want(&items, &count, &m, fields)) != 0 ? r : serve_want(conn, items, count);
    case WIRE_HAVE:
        if ((r = wire_unpack_have(&have, &m, fields)) == 0)
            get_have(c, conn, &have);
        return r;
    case WIRE_GROUPS: return (r = wire_unpack_groups(&groups, &m, fields)) != 0 ? r : get_groups(c, conn, &groups);
    case WIRE_ENTRIES: return (r = wire_unpack_entries(&entries, &m, fields)) != 0 ? r : get_entries(c, conn, &entries);
    case WIRE_DATA: return (r = wire_unpack_data(&data, &m, fields)) != 0 ? r : stage_data(c, conn, &data);
    case WIRE_GONE:
        if ((r = wire_unpack_gone(&run, &m, fields)) == 0)
            get_gone(c, conn, &run);
        return r;
    default: return type < 0 ? type : 0; /* of a later version: skipped */
    }
}

static int frame_cb(void *ctx, struct content_link *l, const uint8_t *payload, size_t len) {
    struct content *c = ctx;
    struct conn *conn = content_link_data(l);
    if (c->closing)
        return 0;
    conn->link = l; /* also before content_link_new() has returned */
    int r = dispatch(c, conn, payload, len);
    if (r != 0 && r != ERR_NOMEM)
        fault(c, conn);
    content_soon(c);
    return r;
}

static void drained_cb(void *ctx, struct content_link *l) {
    (void)ctx;
    serve_next(content_link_data(l));
}

static void link_closed_cb(void *ctx, struct content_link *l) {
    struct content *c = ctx;
    struct conn *conn = content_link_data(l);
    struct peer *p = conn->peer;
    uint64_t conn_opened = conn->opened_ms;
    DL_DELETE(p->conns, conn);
    p->conns_count--;
    c->totals.links--;
    conn->link = NULL;
    conn->over = true;
    if (!conn->serving)
        serve_release(conn);
    if (p->up && p->again_ms == 0) { /* what was asked there is not answered any more */
        uint64_t now = clock_mono_ms();
        fetch_peer_down(c->fetch, p->id);
        if (now - conn_opened < SHORT_MS) /* it takes none (no files there, or not ours): not at once again */
            p->again_ms = now + DIAL_AGAIN_MS;
        else
            fetch_peer_up(c->fetch, p->id);
    }
    if (c->closing)
        end_check(c);
    else
        content_soon(c);
}

static void take_over(struct content *c, struct door_event *e) {
    static const struct content_link_config none;
    struct content_link_config config = none;
    struct peer *p = peer_get(c, e->peer);
    struct conn *conn = p == NULL || c->closing || p->conns_count >= LINKS_OF_PEER ? NULL : calloc(1, sizeof *conn);
    if (conn == NULL) {
        transport_handed_release(&e->handed);
        return;
    }
    config = (struct content_link_config){c->config.loop, c, frame_cb, drained_cb, link_closed_cb, passed_cb};
    conn->content = c;
    conn->peer = p;
    conn->opened_ms = clock_mono_ms();
    DL_APPEND(p->conns, conn);
    p->conns_count++;
    c->totals.links++;
    p->dialling = false;
    struct content_link *l = content_link_new(&config, e->peer, &e->handed, conn);
    if (l == NULL) {
        DL_DELETE(p->conns, conn);
        p->conns_count--;
        c->totals.links--;
        serve_release(conn);
        return;
    }
    conn->link = l;
    if (c->paused)
        content_link_pause(l, true);
    content_link_send(l, p->asks.data, p->asks.len);
    buf_release(&p->asks);
}

static void peer_is_down(struct content *c, struct peer *p) {
    struct conn *conn, *next;
    p->up = p->dialling = false;
    peer_forget_runs(p);
    buf_release(&p->asks);
    fetch_peer_down(c->fetch, p->id);
    DL_FOREACH_SAFE(p->conns, conn, next) { content_link_drop(conn->link); }
}

static void door_cb(void *ctx, struct door_event *e) {
    struct content *c = ctx;
    struct peer *p = peer_get(c, e->peer);
    if (e->type == DOOR_HANDED) {
        take_over(c, e);
    } else if (p != NULL && e->type == DOOR_PEER_UP) {
        p->up = true;
        p->again_ms = 0;
        fetch_peer_up(c->fetch, p->id);
    } else if (p != NULL && e->type == DOOR_PEER_DOWN) {
        peer_is_down(c, p);
    } else if (p != NULL && e->type == DOOR_DIAL_FAILED && p->conns == NULL && p->up) {
        p->dialling = false;
        peer_forget_runs(p);
        buf_release(&p->asks);
        p->again_ms = clock_mono_ms() + DIAL_AGAIN_MS;
        fetch_peer_down(c->fetch, p->id);
    }
    if (!c->closing)
        content_soon(c);
}

/* ---- the timer */

/* From within the timer's own work it is a millisecond: due at once, it would run again before the loop looks at anything else. */
void content_soon(struct content *c) {
    if (!c->closing && c->timer_open)
        uv_timer_start(&c->timer, timer_cb, c->in_timer ? 1 : 0, 0);
}

static void look_at_peers(struct content *c, uint64_t now) {
    for (struct peer *p = c->peers; p != NULL; p = p->next) {
        struct conn *conn, *next;
        if (p->up && p->again_ms != 0 && now >= p->again_ms) {
            p->again_ms = 0;
            fetch_peer_up(c->fetch, p->id);
        }
        bool shunned = fetch_shunned(c->fetch, p->id, now);
        DL_FOREACH_SAFE(p->conns, conn, next) {
            uint64_t quiet = content_link_quiet_ms(conn->link, now);
            bool stuck = content_link_queued(conn->link) > 0 && quiet >= STUCK_LINK_MS;
            if (stuck || (quiet >= IDLE_MS && !conn->serving && !serve_waits(conn) && !shunned))
                content_link_drop(conn->link);
            else
                serve_next(conn);
        }
    }
}

static void timer_cb(uv_timer_t *timer) {
    struct content *c = timer->data;
    uint64_t now = clock_mono_ms();
    if (c->closing)
        return;
    c->in_timer = true;
    content_pause_reading(c);
    scans_start(c);
    get_pump(c);
    stage_sync_small(c);
    look_at_peers(c, now);
    c->in_timer = false;
    if (table_dirty(c->table) && c->commit_ms == 0)
        c->commit_ms = now + COMMIT_MS;
    if (c->commit_ms != 0 && now >= c->commit_ms) {
        table_commit(c->table);
        c->commit_ms = 0;
    }
    if (table_forgot(c->table))
        c->config.forgot(c->config.ctx);
    uint64_t at = fetch_deadline(c->fetch);
    bool busy = c->totals.links > 0;
    for (const struct peer *p = c->peers; p != NULL; p = p->next)
        if (p->up && p->again_ms != 0 && p->again_ms < at)
            at = p->again_ms;
    if (busy && now + TICK_MS < at)
        at = now + TICK_MS;
    if (c->commit_ms != 0 && c->commit_ms < at)
        at = c->commit_ms;
    if (c->config.bandwidth_kib > 0 && busy && now + LIMITED_MS < at && (c->paused || c->out.bytes < 0))
        at = now + LIMITED_MS;
    if (at != UINT64_MAX && !uv_is_active((uv_handle_t *)&c->timer))
        uv_timer_start(&c->timer, timer_cb, at > now ? at - now : 1, 0);
}

/* ---- life */

int content_open(struct content **out, const struct content_config *config) {
    char path[4096];
    struct content *c = calloc(1, sizeof *c);
    if (c == NULL)
        return ERR_NOMEM;
    c->config = *config;
    c->in.at_ms = c->out.at_ms = clock_mono_ms();
    chunker_init(&c->chunker);
    snprintf(path, sizeof path, "%s/content.db", config->state);
    uint64_t random;
    randombytes_buf(&random, sizeof random);
    int r = table_open(&c->table, path);
    if (r == 0 && (c->fetch = fetch_new(random)) == NULL)
        r = ERR_NOMEM;
    if (r == 0 && uv_timer_init(config->loop, &c->timer) != 0)
        r = ERR_IO;
    if (r != 0) {
        table_close(c->table);
        fetch_free(c->fetch);
        free(c);
        return r;
    }
    c->timer.data = c;
    c->timer_open = true;
    if (config->door != NULL) {
        r = door_attach(config->door, config->loop, door_cb, c);
        assert(r == 0);
        c->door_open = true;
    }
    *out = c;
    return 0;
}

static void finish(struct content *c) {
    void (*closed)(void *ctx) = c->closed;
    void *ctx = c->config.ctx;
    fetch_free(c->fetch);
    table_close(c->table);
    while (c->peers != NULL) {
        struct peer *p = c->peers;
        c->peers = p->next;
        peer_forget_runs(p);
        buf_release(&p->asks);
        free(p);
    }
    free(c);
    closed(ctx);
}

static void timer_closed_cb(uv_handle_t *handle) { finish(handle->data); }

static void detached_cb(void *ctx) {
    struct content *c = ctx;
    c->door_open = false;
    end_check(c);
}

static void end_check(struct content *c) {
    if (c->jobs > 0 || c->totals.links > 0 || c->door_open || c->closed_told)
        return;
    c->closed_told = true;
    get_close(c);
    uv_close((uv_handle_t *)&c->timer, timer_closed_cb);
}

void content_close(struct content *c, void (*closed)(void *ctx)) {
    assert(!c->closing);
    c->closing = true;
    c->closed = closed;
    uv_timer_stop(&c->timer);
    scans_close(c);
    for (struct peer *p = c->peers; p != NULL; p = p->next) {
        struct conn *conn, *next;
        DL_FOREACH_SAFE(p->conns, conn, next) { content_link_drop(conn->link); }
    }
    if (c->door_open)
        door_detach(c->config.door, detached_cb);
    else
        end_check(c);
}

/* ---- what is here */

void content_stamp_of(const struct stat *st, struct content_stamp *out) {
    *out = (struct content_stamp){(uint64_t)st->st_size, st->st_ino, st->st_dev, st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
                                  st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec};
}

void content_note(struct content *c, uint32_t root, const char *path, const uint8_t hash[CONTENT_HASH_BYTES], const struct stat *st) {
    struct content_stamp stamp;
    content_stamp_of(st, &stamp);
    table_note(c->table, root, path, hash, NULL, &stamp);
    content_soon(c);
}

void content_moved(struct content *c, uint32_t root, const char *from, uint32_t to_root, const char *to) {
    table_moved(c->table, root, from, to_root, to);
    content_soon(c);
}

void content_gone(struct content *c, uint32_t root, const char *path) {
    table_gone(c->table, root, path);
    content_soon(c);
}

bool content_here(struct content *c, const uint8_t hash[CONTENT_HASH_BYTES]) { return table_has(c->table, hash); }

void content_totals(struct content *c, struct content_totals *out) {
    struct target *t, *next;
    *out = c->totals;
    HASH_ITER(hh, c->targets, t, next) {
        out->wants++;
        out->wants_bytes += t->size - (t->here < t->size ? t->here : t->size);
    }
}
