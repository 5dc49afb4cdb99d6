/* The frames of links that are up: sent, taken apart and handed on; beats. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"
#include "proto/err.h"

#define BULK_QUEUE (128u << 10)      /* what has time is put into the queue of a link while that is shorter */
#define FRESH_BYTES_MAX (256u << 10) /* a larger batch has time, too */
#define ARRIVING_SURE (512u << 10)   /* of a batch that is not complete: for more there is room for one of the largest, in all */
#define ARRIVING_STALLED_MS 2000u

/* ---- sending */

void stream_begin(struct core *core) { buf_clear(&core->scratch); }

static bool put(struct core *core, struct link *l, struct bytes *batch, size_t from, size_t to) {
    if (core->scratch.failed)
        return false;
    size_t bytes = core->scratch.len + (to - from);
    if (!core_emit(core, &(struct effect){.type = EFFECT_SEND,
                                          .link = l->id,
                                          .head = core->scratch.data,
                                          .len = core->scratch.len,
                                          .batch = batch,
                                          .batch_from = from,
                                          .batch_to = to}))
        return false;
    l->queued += bytes;
    l->sent_bytes += l->wired ? 0 : bytes;
    return true;
}

/* A stream with a hole cannot go on. */
static void broken(struct core *core, struct link *l) {
    if (l->state == LINK_GREETING || l->state == LINK_UP)
        greet_close(core, l, 0, "out of memory");
}

void stream_send(struct core *core, struct link *l) {
    assert(l->state != LINK_GONE);
    if (!put(core, l, NULL, 0, 0))
        broken(core, l);
}

/* The chunk at `at`; how long it is, 0 when the link broke. */
static size_t chunk(struct core *core, struct link *l, struct bytes *batch, size_t at, unsigned flags) {
    size_t n = batch->len - at < WIRE_CHUNK_BYTES ? batch->len - at : WIRE_CHUNK_BYTES;
    stream_begin(core);
    wire_pack_batch(&core->scratch, &(struct wire_batch){.flags = flags, .total = batch->len, .at = at, .chunk_len = n});
    if (put(core, l, batch, at, at + n))
        return n;
    broken(core, l);
    return 0;
}

/* Of what has time only as much is in the queue as a link carries in a moment, so that what is fresh waits no longer than that. */
static void flow(struct core *core, struct link *l) {
    while (l->state == LINK_UP && l->bulk_count && l->queued < BULK_QUEUE && l->queued < core->config.link_queue_max) {
        const struct bulk *b = &l->bulk[l->bulk_first];
        if (b->frame) {
            stream_begin(core);
            buf_append(&core->scratch, b->bytes->data, b->bytes->len);
            stream_send(core, l);
            link_bulk_drop(l);
            continue;
        }
        l->bulk_at += chunk(core, l, b->bytes, l->bulk_at, WIRE_BULK);
        if (l->bulk_at == b->bytes->len)
            link_bulk_drop(l);
    }
}

void stream_batch(struct core *core, struct link *l, struct bytes *batch, bool bulk) {
    probe_spoke(core, l);
    if (bulk || batch->len > FRESH_BYTES_MAX) {
        bytes_ref(batch);
        if (link_bulk(l, batch, false)) {
            flow(core, l);
            return;
        }
        bytes_unref(batch);
        broken(core, l);
        return;
    }
    for (size_t at = 0; at < batch->len && l->state == LINK_UP;)
        at += chunk(core, l, batch, at, 0);
}

void stream_behind(struct core *core, struct link *l) {
    struct bytes *frame = l->bulk_count && !core->scratch.failed ? bytes_new(core->scratch.data, core->scratch.len) : NULL;
    if (l->bulk_count == 0)
        stream_send(core, l);
    else if (!frame || !link_bulk(l, frame, true)) {
        bytes_unref(frame);
        broken(core, l);
    }
}

void stream_sent(struct core *core, struct link *l, const struct event *e) {
    bool full = !stream_room(core, l);
    l->queued = e->queued;
    l->sent_bytes = e->wire ? e->wire : l->sent_bytes;
    l->wired = e->wire > 0;
    flow(core, l);
    pull_serve(core, l);
    if (full && l->state == LINK_UP && stream_room(core, l))
        stream_beat(core, l, 0); /* with what could not be announced meanwhile */
}

bool stream_takes(const struct core *core, const struct link *l, const struct bytes *batch) {
    return stream_room(core, l) && (batch->len <= FRESH_BYTES_MAX || l->bulk_bytes < core->config.link_queue_max);
}

bool stream_room(const struct core *core, const struct link *l) { return l->queued < core->config.link_queue_max; }

void stream_beat(struct core *core, struct link *l, unsigned flags) {
    struct wire_beat w = {.sent = (uint32_t)core->now, .flags = flags | (core->paused ? WIRE_PAUSED : 0u)};
    if (l->echo_ms) {
        uint64_t held = core->now - l->echo_ms;
        w.echo = l->echo;
        w.held = held < UINT32_MAX ? (uint32_t)held : UINT32_MAX;
    }
    announce_beat(core, l, &w);
    if (l->state != LINK_UP)
        return;
    stream_begin(core);
    wire_pack_beat(&core->scratch, &w);
    stream_send(core, l);
}

/* ---- taking frames. Each handler returns 0, or an error that ends the link. */

static int take_beat(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_beat w;
    int r = wire_unpack_beat(&w, m, fields);
    if (r)
        return r;
    struct peer *p = l->peer;
    core_arm(core, core->now); /* what was to be asked then need not be any more: else we would wake for nothing */
    l->echo = w.sent;
    l->echo_ms = core->now;
    if (w.echo) {
        uint32_t away = (uint32_t)core->now - w.echo; /* clocks of 32 bits may wrap */
        if (away >= w.held && away - w.held < 3600000)
            p->rtt_us = (away - w.held) * 1000;
    }
    bool paused = (w.flags & WIRE_PAUSED) != 0;
    bool changed = paused != p->paused;
    p->paused = paused;
    p->current = (w.flags & WIRE_BEAT_CURRENT) != 0;
    for (uint32_t i = 0; changed && i < core->dbs_count; i++) {
        struct peer_db *pd = sync_peer_db(core, p, core->dbs[i]);
        if (pd)
            pd->pushed = 0; /* it threw away what came meanwhile */
        pull_plan_at(core, core->dbs[i], core->now);
    }
    if (changed && paused)
        pull_link_down(core, l);
    if (!stream_room(core, l))
        return 0; /* it asks and does not read: answered with a BEAT when there is room again */
    if (w.flags & WIRE_BEAT_WANT)
        announce_all(core, l);
    bool missed = p->current && w.digest != sync_peer_digest(core, p) && !(w.flags & WIRE_BEAT_WANT); /* never expected, always mended */
    if (l->state == LINK_UP && (missed || (w.flags & WIRE_BEAT_ASK)))
        stream_beat(core, l, missed ? WIRE_BEAT_WANT : 0);
    return 0;
}

static struct arriving *stalest(const struct core *core, const struct arriving *but, size_t *bytes) {
    struct arriving *found = NULL;
    for (uint32_t i = 0; i < core->links_count; i++)
        for (unsigned k = 0; k < 2; k++) {
            struct arriving *a = &core->links[i]->arriving[k];
            if (a->buf.len <= ARRIVING_SURE)
                continue;
            *bytes += a->buf.len;
            if (a != but && (!found || a->came_ms < found->came_ms))
                found = a;
        }
    return found;
}

/* A batch may be large, but not many of them at once: what came of one that does not go on makes room, else this one is passed over. */
static void make_room(const struct core *core, struct arriving *a, size_t more) {
    while (!a->passed_over && a->buf.len + more > ARRIVING_SURE) {
        size_t bytes = more;
        struct arriving *other = stalest(core, a, &bytes);
        if (bytes <= BATCH_BYTES_MAX)
            return;
        if (!other || core->now - other->came_ms < ARRIVING_STALLED_MS)
            other = a;
        other->passed_over = true;
        buf_release(&other->buf);
    }
}

static int take_batch(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_batch w;
    struct bytes *whole = NULL;
    int r = wire_unpack_batch(&w, m, fields);
    if (!r) {
        struct arriving *a = &l->arriving[w.flags & WIRE_BULK ? 1 : 0];
        a->came_ms = core->now;
        make_room(core, a, w.chunk_len);
        r = link_chunk(l, &w, &whole);
    }
    if (r)
        return r;
    if (w.flags & WIRE_BULK)
        l->answer_ms = core->now;
    if (whole)
        hold_receive(core, l, whole, w.flags & WIRE_BULK);
    return 0;
}

static int take_members(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_members w;
    int r = wire_unpack_members(&w, m, fields);
    return r ? r : gossip_receive(core, l, &w);
}

static int take_vector(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_vector v;
    int r = wire_unpack_vector(&v, &core->vv_scratch, m, fields);
    if (!r)
        sync_receive(core, l, &v);
    return r;
}

static int take_overlay(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_overlay w;
    int r = wire_unpack_overlay(&w, m, fields);
    return r ? r : overlay_receive(core, l, &w);
}

static int take_call(struct core *core, struct link *l, enum wire_type type, struct mpk *m, uint32_t fields) {
    struct wire_call c;
    int r = wire_unpack_call(&c, m, fields);
    if (!r)
        call_receive(core, l, type, &c);
    return r;
}

static int take_bye(struct core *core, struct link *l, enum wire_type type, struct mpk *m, uint32_t fields) {
    int r = wire_unpack_bye(m, fields);
    if (r)
        return r;
    struct peer *p = l->peer;
    char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8];
    core_log(core, 2, "%s %s", greet_who(l, who, sizeof who), type == WIRE_LEAVE ? "left the cluster" : "stops");
    greet_close(core, l, 0, type == WIRE_LEAVE ? "the peer left the cluster" : "the peer stops");
    p->vouchers_count = 0;
    if (core->overlay.on && (p->rumour == RUMOUR_ALIVE || p->rumour == RUMOUR_SUSPECT)) {
        p->rumour = RUMOUR_DEAD;
        gossip_soon(core, p);
    }
    member_decided(core, p); /* it said so: nothing to suspect */
    dial_soon(core, &p->dialling, core->config.beat_ms);
    return 0;
}

static int take_range(struct core *core, struct link *l, enum wire_type type, struct mpk *m, uint32_t fields) {
    struct wire_pull pull;
    struct wire_done done;
    int r = type == WIRE_PULL ? wire_unpack_pull(&pull, m, fields) : wire_unpack_done(&done, m, fields);
    if (r)
        return r;
    if (type == WIRE_PULL)
        pull_asked(core, l, &pull);
    else
        pull_done(core, l, &done);
    return 0;
}

static int take_fork(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_fork w;
    int r = wire_unpack_fork(&w, m, fields);
    if (!r)
        fork_heard(core, l, &w);
    return r;
}

static int take_refuse(struct core *core, struct link *l, struct mpk *m, uint32_t fields) {
    struct wire_text text;
    int r = wire_unpack_refuse(&text, m, fields);
    if (r)
        return r;
    char clean[WIRE_TEXT_MAX], who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8];
    wire_clean(clean, sizeof clean, text.p, text.len);
    core_log_once(core, 1, "%s refused this node: %s", greet_who(l, who, sizeof who), clean);
    struct peer *p = l->peer;
    greet_close(core, l, 0, clean);
    free(p->refused);
    p->refused = core_text(clean);
    return 0;
}

static int take(struct core *core, struct link *l, const uint8_t *frame, size_t len) {
    struct mpk m;
    uint32_t fields = 0;
    int type = wire_type(&m, frame, len, &fields);
    switch (type) {
    case WIRE_REFUSE: return take_refuse(core, l, &m, fields);
    case WIRE_MEMBERS: return take_members(core, l, &m, fields);
    case WIRE_BEAT: return take_beat(core, l, &m, fields);
    case WIRE_VECTOR: return take_vector(core, l, &m, fields);
    case WIRE_PULL:
    case WIRE_DONE: return take_range(core, l, (enum wire_type)type, &m, fields);
    case WIRE_BATCH: return take_batch(core, l, &m, fields);
    case WIRE_REQUEST:
    case WIRE_REPLY: return take_call(core, l, (enum wire_type)type, &m, fields);
    case WIRE_BYE:
    case WIRE_LEAVE: return take_bye(core, l, (enum wire_type)type, &m, fields);
    case WIRE_OVERLAY: return take_overlay(core, l, &m, fields);
    case WIRE_FORK: return take_fork(core, l, &m, fields);
    case WIRE_HELLO: return ERR_MALFORMED; /* only the first frame may be one */
    default:
        if (type < 0)
            return type;
        core_log(core, 3, "%s: a frame of unknown type %d was skipped", l->address, type);
        return 0;
    }
}

void stream_receive(struct core *core, struct link *l, const uint8_t *data, size_t len) {
    if (l->state != LINK_GREETING && l->state != LINK_UP)
        return;
    probe_heard(core, l);
    if (l->peer && l->peer->m.state == MEMBER_SUSPECT)
        member_refresh(core, l->peer, false);
    const uint8_t *frame;
    size_t frame_len;
    while (l->state == LINK_GREETING || l->state == LINK_UP) {
        const uint8_t *at = data;
        size_t left = len;
        bool greeting = l->state == LINK_GREETING;
        int r = link_frame(l, &data, &len, &frame, &frame_len);
        if (r == 0)
            return;
        if (greeting && r == 1)
            greet_receive(core, l, frame, frame_len);
        else if (greeting)
            greet_garbage(core, l, at, left);
        else {
            if (r == 1)
                r = take(core, l, frame, frame_len);
            if (r && l->state == LINK_UP) {
                char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8], why[128];
                core_log(core, 1, "%s sent a frame that cannot be read (%s): the link is closed and dialled again",
                         greet_who(l, who, sizeof who), err_text(r));
                snprintf(why, sizeof why, "unreadable frame: %s", err_text(r));
                greet_close(core, l, 0, why);
            }
        }
    }
}

/* ---- time */

void stream_timers(struct core *core) {
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (l->state == LINK_GREETING) {
            if (core->now - l->opened_ms >= HELLO_TIMEOUT_MS)
                greet_close(core, l, 0, "no HELLO within 5 s: this is not a Starling peer, or a stalled one");
            else
                core_arm(core, l->opened_ms + HELLO_TIMEOUT_MS);
        }
    }
}
