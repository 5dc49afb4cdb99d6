/* Batches from others on their way to the store: in the order of their origin, after what their authors had seen, held in
 * memory until then, and not faster than the store confirms. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"
#include "proto/err.h"

#define PART(of) ((of) / 4 * 3) /* that one author may have */

bool hold_full(const struct db *db, const struct source *s) {
    return db->inflight_count >= INFLIGHT_MAX || db->inflight_bytes >= INFLIGHT_BYTES_MAX ||
           s->share->inflight_count >= PART(INFLIGHT_MAX) || s->share->inflight_bytes >= PART(INFLIGHT_BYTES_MAX);
}

static size_t left(size_t max, size_t used) { return used < max ? max - used : 0; }

size_t hold_room(const struct core *core, const struct db *db, const struct source *s) {
    size_t all = left(core->config.hold_bytes_max, db->held_bytes + db->pull_bytes);
    size_t own = left(PART(core->config.hold_bytes_max), s->share->held_bytes + s->share->pull_bytes);
    return own < all ? own : all;
}

/* ---- what is held of one origin: a queue sorted by version */

static struct held *first_held(const struct source *s) { return s->held_count ? &s->held[s->held_first] : NULL; }

static void let_go(struct db *db, struct source *s, const struct held *h) {
    size_t bytes = h->batch ? h->batch->len + HELD_OVERHEAD : 0;
    db->held_bytes -= bytes;
    s->share->held_bytes -= bytes;
}

static void drop_first(struct db *db, struct source *s) {
    struct held *h = first_held(s);
    let_go(db, s, h);
    db->held_count--;
    bytes_unref(h->batch);
    vv_release(&h->after);
    s->held_first++;
    if (--s->held_count == 0)
        s->held_first = 0;
}

void hold_drop(struct db *db, struct source *s) {
    while (s->held_count)
        drop_first(db, s);
}

/* Where a version is among the held, or belongs. */
static uint32_t held_place(const struct source *s, uint64_t version) {
    uint32_t low = s->held_first, high = s->held_first + s->held_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->held[middle].version < version)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_held(const struct source *s, uint64_t version) {
    uint32_t at = held_place(s, version);
    return at < s->held_first + s->held_count && s->held[at].version == version;
}

static bool held_room(struct source *s) {
    if (s->held_first + s->held_count < s->held_cap)
        return true;
    if (s->held_first > s->held_cap / 2) {
        memmove(s->held, s->held + s->held_first, s->held_count * sizeof *s->held);
        s->held_first = 0;
        return true;
    }
    uint32_t cap = s->held_cap ? s->held_cap * 2 : 8;
    struct held *held = realloc(s->held, cap * sizeof *held);
    if (!held)
        return false;
    s->held = held;
    s->held_cap = cap;
    return true;
}

/* Takes the batch and the dependencies over; false (nothing taken) when there is no room. */
static bool hold(struct core *core, struct db *db, struct source *s, const struct link *l, struct bytes *batch, struct batch_head *head) {
    size_t bytes = batch->len + HELD_OVERHEAD + head->after.count * sizeof *head->after.entries, max = core->config.hold_bytes_max;
    if (bytes > left(max, db->held_bytes) || bytes > left(PART(max), s->share->held_bytes) || !held_room(s))
        return false;
    uint32_t at = held_place(s, head->version);
    memmove(s->held + at + 1, s->held + at, (s->held_first + s->held_count - at) * sizeof *s->held);
    s->held[at] = (struct held){.version = head->version, .batch = batch, .after = head->after};
    memcpy(s->held[at].from, l->peer->m.id, NODE_ID_BYTES);
    vv_init(&head->after);
    s->held_count++;
    db->held_count++;
    db->held_bytes += batch->len + HELD_OVERHEAD;
    s->share->held_bytes += batch->len + HELD_OVERHEAD;
    return true;
}

/* ---- delivering */

/* For what cannot be taken nobody waits: it stops its own origin only. */
static bool behind(const struct source *s, uint64_t version) { return !s || (s->delivered < version && !s->bad && !s->forked); }

static bool lacks(struct db *db, const struct origin *o, uint64_t version) { return behind(sync_source(db, o, false), version); }

/* Was all that the author had seen, and that can be taken, delivered? Else remembers what is lacking. */
static bool covered(struct db *db, struct source *s, const struct vv *after) {
    if (s->wait_version && lacks(db, &s->wait, s->wait_version))
        return false;
    s->wait_version = 0;
    for (uint32_t i = 0, at = 0; i < after->count; i++) {
        const struct vv_entry *e = &after->entries[i];
        const struct source *on = sync_next_source(db, &at, &e->origin, false);
        if (on == s || !behind(on, e->version))
            continue;
        s->wait = e->origin;
        s->wait_version = e->version;
        return false;
    }
    return true;
}

/* Takes the reference over. */
static bool deliver(struct core *core, struct db *db, struct source *s, uint64_t version, struct bytes *batch, const uint8_t *from) {
    assert(version == s->delivered + 1);
    assert(db->inflight_count < INFLIGHT_MAX);
    size_t bytes = batch->len;
    struct bytes *relayed = core->overlay.on ? bytes_ref(batch) : NULL;
    if (!core_emit(core,
                   &(struct effect){
                       .type = EFFECT_DELIVER, .db = db->name, .batch = batch, .peer = from, .origin = s->origin, .version = version})) {
        bytes_unref(relayed);
        return false;
    }
    s->delivered = version;
    struct inflight *f = &db->inflight[db->inflight_count++];
    *f = (struct inflight){.source = s, .version = version, .bytes = bytes, .batch = relayed};
    memcpy(f->from, from, sizeof f->from);
    db->inflight_bytes += bytes;
    s->share->inflight_count++;
    s->share->inflight_bytes += bytes;
    s->retry_ms = 0;
    return true;
}

static bool deliver_held(struct core *core, struct db *db, struct source *s) {
    bool any = false;
    struct held *h;
    while ((h = first_held(s))) {
        if (h->version > s->delivered) {
            if (h->version != s->delivered + 1 || hold_full(db, s) || !covered(db, s, &h->after))
                break;
            let_go(db, s, h);
            if (!deliver(core, db, s, h->version, h->batch, h->from))
                bytes_unref(h->batch); /* pulled again */
            h->batch = NULL;
            any = true;
        }
        drop_first(db, s);
    }
    return any;
}

void hold_ready(struct core *core, struct db *db) {
    bool again = db->open && !core->paused;
    uint32_t next = db->turn;
    while (again && db->held_count) {
        again = false;
        for (uint32_t i = 0; i < db->sources_count; i++) {
            uint32_t at = (db->turn + i) % db->sources_count;
            if (db->sources[at]->held_count && deliver_held(core, db, db->sources[at])) {
                again = true;
                next = at + 1;
            }
        }
    }
    db->turn = next; /* where room ended others come first */
}

void hold_stored(struct core *core, struct db *db) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < db->inflight_count; i++) {
        struct inflight *f = &db->inflight[i];
        if (f->source->have < f->version && !f->source->bad) {
            db->inflight[kept++] = *f;
            continue;
        }
        db->inflight_bytes -= f->bytes;
        f->source->share->inflight_count--;
        f->source->share->inflight_bytes -= f->bytes;
        if (f->batch && f->source->have >= f->version) /* only what our store took: it looked at the signature */
            sync_relay(core, db, f);
        bytes_unref(f->batch);
    }
    db->inflight_count = kept;
    hold_ready(core, db);
    if (db->lacking)
        pull_plan_at(core, db, core->now);
}

/* ---- arriving */

/* A batch that came and could neither go on nor stay: it is pulled again when what it lacks is there, or after a while. */
static void no_room(struct core *core, struct db *db, struct source *s) {
    if (!hold_full(db, s))
        s->retry_ms = core->now + core->config.pull_timeout_ms;
    db->lacking = true; /* the store's next word leads to a plan */
    pull_plan_at(core, db, core->now);
}

/* True when the batch went to the store or is held; else the caller drops it. */
static bool arrive(struct core *core, struct link *l, struct db *db, struct batch_head *head, struct bytes *batch, bool bulk) {
    struct source *s = sync_source(db, &head->origin, true);
    if (!s)
        return false;
    if (s->pull_link == l->id)
        s->pull_ms = core->now;
    bool here = head->version <= s->delivered || is_held(s, head->version);
    if (!bulk)
        overlay_pushed(core, l, here);
    if (s->bad || here || sync_ours(core, db, &s->origin))
        return false;
    if (head->version > s->claimed)
        s->claimed = head->version;
    bool next = head->version == s->delivered + 1;
    if (next && !hold_full(db, s) && covered(db, s, &head->after)) {
        if (!deliver(core, db, s, head->version, batch, l->peer->m.id))
            return false;
        s->due_ms = core->now + core->config.lazy_ms; /* more is coming: whoever pushes is not asked for it */
        hold_ready(core, db);
        return true;
    }
    if (!next) {
        db->lacking = true;
        pull_plan_at(core, db, core->now + core->config.lazy_ms);
    }
    if (hold(core, db, s, l, batch, head))
        return true;
    no_room(core, db, s);
    return false;
}

void hold_receive(struct core *core, struct link *l, struct bytes *batch, bool bulk) {
    struct batch_head head;
    int r = batch_head_read(&head, batch->data, batch->len);
    char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8], why[128];
    if (r == ERR_FORMAT) {
        core_log_once(core, 1, "%s sends batches of a newer format: install the newest starlingd here", greet_who(l, who, sizeof who));
    } else if (r) {
        core_log(core, 1, "%s sent a batch that cannot be read (%s): the link is closed and dialled again", greet_who(l, who, sizeof who),
                 err_text(r));
        snprintf(why, sizeof why, "unreadable batch: %s", err_text(r));
        greet_close(core, l, 0, why);
    }
    bool taken = false;
    if (!r) {
        struct db *db = sync_find(core, head.db, head.db_len);
        taken = db && sync_exchanges(core, l, db) && head.version && !clock_refuses(core, l, db, &head) &&
                arrive(core, l, db, &head, batch, bulk);
        batch_head_release(&head);
    }
    if (!taken)
        bytes_unref(batch);
}
