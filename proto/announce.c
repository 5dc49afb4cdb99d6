/* Telling linked peers what is here: a VECTOR in full when a link comes up, then the differences, at most every ack_ms, and in the long run
 * so many VECTORs a second: where all tell all, they would else be most of what is said. Who asks (a BEAT with flag 8) is told at once. */
#include <assert.h>
#include <string.h>

#include "proto/core_state.h"

#define HELLO_DATABASES_BYTES (48u << 10) /* of a HELLO; the databases beyond come as VECTORs */
#define VECTOR_MS 10u                     /* one VECTOR of a database in so much time, in the long run */
#define VECTORS_BURST_MS 500u             /* ... so many before it is the long run */

static struct wire_db describe(const struct core *core, struct db *db) {
    return (struct wire_db){.name = {db->name, strlen(db->name)},
                            .base = sync_base(core, db),
                            .vector = sync_vector_digest(db),
                            .content = db->content,
                            .settled = db->settled};
}

/* What a VECTOR depends on, besides the database: most links were told the same, and are told the same again. */
struct packed {
    bool there, full, refused;
    uint64_t sent_gen;
};

static void pack_vector(struct core *core, struct db *db, const struct peer_db *pd, bool full) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < db->sources_count && !pd->refused; i++)
        count += db->sources[i]->have && (full || db->sources[i]->gen > pd->sent_gen);
    struct wire_db d = describe(core, db);
    stream_begin(core);
    size_t at = wire_pack_vector(&core->scratch, &d, (full ? WIRE_FULL : 0u) | (db->open ? 0u : WIRE_CLOSED), count);
    for (uint32_t i = 0; i < db->sources_count && count; i++)
        if (db->sources[i]->have && (full || db->sources[i]->gen > pd->sent_gen))
            wire_pack_entry(&core->scratch, &db->sources[i]->origin, db->sources[i]->have);
    wire_end(&core->scratch, at);
}

/* One VECTOR: in full, or what changed since this link was told last. `last` is what is in the scratch buffer. */
static void send_vector(struct core *core, struct link *l, struct db *db, struct peer_db *pd, struct packed *last) {
    struct packed now = {
        .there = true, .full = !pd->sent_full || pd->sent_gen < db->full_gen, .refused = pd->refused != NULL, .sent_gen = pd->sent_gen};
    if (!last->there || last->full != now.full || last->refused != now.refused || (!now.full && last->sent_gen != now.sent_gen))
        pack_vector(core, db, pd, now.full);
    stream_send(core, l);
    *last = l->state == LINK_UP ? now : (struct packed){0}; /* a link that breaks may lead to other frames */
    pd->sent_gen = db->gen;
    pd->sent_full = !pd->refused;
}

/* The peer was not told the latest. To one that is refused the vector's entries are not told at all. */
bool announce_untold(const struct db *db, const struct peer_db *pd) {
    if (!db->open)
        return pd->sent_gen && pd->sent_gen < db->gen;
    return pd->sent_gen < db->gen || (!pd->sent_full && !pd->refused);
}

/* To whoever was not told the latest; links whose queue is full are tried again with their next beat. Where not all are linked with all only neighbours
 * are told as soon: the batches come to the others by their own. */
static void announce(struct core *core, struct db *db) {
    db->announce_at = UINT64_MAX;
    db->announced_ms = core->now;
    struct packed last = {0};
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (l->state != LINK_UP || !stream_room(core, l) || (overlay_content(core) && !overlay_stays(core, l)))
            continue;
        struct peer_db *pd = sync_peer_db(core, l->peer, db);
        if (!pd || !announce_untold(db, pd))
            continue;
        send_vector(core, l, db, pd, &last);
        db->vectors_ms += VECTOR_MS;
    }
}

/* Something that others are told changed: at once, unless much was told of late. */
void announce_changed(struct core *core, struct db *db) {
    if (db->vectors_ms < core->now)
        db->vectors_ms = core->now;
    uint64_t at = db->announced_ms ? db->announced_ms + core->config.ack_ms : 0, paid = db->vectors_ms - core->now;
    if (at < core->now)
        at = core->now;
    if (paid > VECTORS_BURST_MS && at < core->now + paid - VECTORS_BURST_MS)
        at = core->now + paid - VECTORS_BURST_MS;
    if (at < db->announce_at)
        db->announce_at = at;
    core_arm(core, db->announce_at);
}

void announce_hello(const struct core *core, struct buf *b, struct wire_hello *h) {
    size_t bytes = 0;
    uint32_t scanned = 0;
    h->dbs_count = 0;
    for (; scanned < core->dbs_count; scanned++) {
        if (!core->dbs[scanned]->open)
            continue;
        bytes += strlen(core->dbs[scanned]->name) + 50;
        if (bytes > HELLO_DATABASES_BYTES)
            break;
        h->dbs_count++;
    }
    size_t at = wire_pack_hello(b, h);
    for (uint32_t i = 0; i < scanned; i++) {
        if (!core->dbs[i]->open)
            continue;
        struct wire_db d = describe(core, core->dbs[i]);
        wire_pack_hello_db(b, &d);
    }
    wire_end(b, at);
}

void announce_all(struct core *core, struct link *l) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct peer_db *pd = sync_peer_db(core, l->peer, core->dbs[i]);
        if (!pd)
            continue;
        pd->sent_full = false;
        if (core->dbs[i]->open && l->state == LINK_UP)
            send_vector(core, l, core->dbs[i], pd, &(struct packed){0});
    }
}

void announce_link_up(struct core *core, struct link *l) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct peer_db *pd = sync_peer_db(core, l->peer, core->dbs[i]);
        if (pd) {
            pd->sent_gen = 0;
            pd->pushed = 0;
        }
    }
    announce_all(core, l);
}

void announce_beat(struct core *core, struct link *l, struct wire_beat *w) {
    bool current = true;
    w->digest = 0;
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct db *db = core->dbs[i];
        struct peer_db *pd = sync_peer_db(core, l->peer, db);
        if (!pd) {
            current = false;
            continue;
        }
        bool due = announce_untold(db, pd);
        if (due && stream_room(core, l) && l->state == LINK_UP) {
            send_vector(core, l, db, pd, &(struct packed){0});
            due = false;
        }
        current = current && !due;
        if (db->open) {
            struct wire_db d = describe(core, db);
            w->digest ^= wire_db_digest(&d);
        }
    }
    w->flags |= current ? WIRE_BEAT_CURRENT : 0u;
}

void announce_timers(struct core *core) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        if (core->dbs[i]->announce_at <= core->now)
            announce(core, core->dbs[i]);
        core_arm(core, core->dbs[i]->announce_at);
    }
}
