/* Fetching what peers have more of, in exact ranges, and serving what they ask. The puller names a range and how many bytes it
 * can take (its credit); the server answers with batches, then DONE. So both sides' memory is bounded, whatever the sizes. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define CREDIT_A_VERSION (64u << 10) /* short ranges take little credit, so that many origins are fetched side by side */
#define GRAFT_VERSIONS 16u           /* so few were to come by push */
#define CREDIT_MIN (64u << 10)
#define PATIENCE 20u            /* while it answers others, and nothing of this one comes */
#define CREDIT_FIRST (1u << 20) /* of a link, before it has answered anything */

/* ---- asking */

void pull_plan_at(struct core *core, struct db *db, uint64_t at) {
    if (at < db->plan_at)
        db->plan_at = at;
    core_arm(core, db->plan_at);
}

static void end_pull(struct core *core, struct db *db, struct source *s) {
    struct link *l = greet_link(core, s->pull_link);
    if (l && l->pulls) {
        l->pulls--;
        l->pull_bytes -= (size_t)s->pull_bytes;
    }
    assert(db->pull_bytes >= s->pull_bytes && s->share->pull_bytes >= s->pull_bytes);
    db->pull_bytes -= (size_t)s->pull_bytes;
    s->share->pull_bytes -= (size_t)s->pull_bytes;
    s->pull_link = s->pull_bytes = 0;
}

static void avoid(struct core *core, struct source *s, uint64_t link) {
    s->avoid_link = link;
    s->avoid_ms = core->now + core->config.pull_timeout_ms;
}

/* The first version that is neither delivered nor held. */
static uint64_t first_missing(const struct source *s) {
    uint64_t v = s->delivered + 1;
    for (uint32_t i = 0; i < s->held_count && s->held[s->held_first + i].version <= v; i++)
        if (s->held[s->held_first + i].version == v)
            v++;
    return v;
}

/* The last version before the next one held. */
static uint64_t last_missing(const struct source *s, uint64_t from) {
    for (uint32_t i = 0; i < s->held_count; i++)
        if (s->held[s->held_first + i].version > from)
            return s->held[s->held_first + i].version - 1;
    return s->claimed;
}

/* Of a history that is over there may be several branches: the longest one is begun with. */
static bool better(const struct core *core, const struct link *l, const struct link *best, int64_t longer) {
    if (best && longer)
        return longer > 0;
    bool stays = overlay_stays(core, l);
    return !best || (stays != overlay_stays(core, best) ? stays : l->pulls < best->pulls);
}

/* The author itself if it can, else whoever is asked least; though not over a link that is about to go. */
static struct link *choose(struct core *core, const struct db *db, const struct source *s, uint64_t from) {
    struct link *best = NULL;
    bool over = fork_over(core, db, s);
    uint64_t best_has = 0;
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (!sync_exchanges(core, l, db) || l->pulls >= PULLS_MAX || !stream_room(core, l))
            continue;
        if (l->id == s->avoid_link && core->now < s->avoid_ms)
            continue;
        uint64_t has = vv_get(&sync_peer_db(core, l->peer, db)->have, &s->origin);
        if (has < from)
            continue;
        if (!over && memcmp(l->peer->m.id, s->origin.node, NODE_ID_BYTES) == 0 && overlay_stays(core, l))
            return l;
        if (!better(core, l, best, over ? (int64_t)(has - best_has) : 0))
            continue;
        best = l;
        best_has = has;
    }
    return best;
}

/* Does anyone who is linked have it? */
static bool offered(const struct core *core, const struct db *db, const struct source *s, uint64_t from) {
    for (uint32_t i = 0; i < core->links_count; i++) {
        const struct link *l = core->links[i];
        const struct peer_db *pd = l->state == LINK_UP ? sync_peer_db(core, l->peer, db) : NULL;
        if (pd && pd->open && vv_get(&pd->have, &s->origin) >= from)
            return true;
    }
    return false;
}

static void ask(struct core *core, struct db *db, struct source *s, struct link *l, uint64_t from, uint64_t to) {
    if (to - from < GRAFT_VERSIONS)
        overlay_ask(core, l);
    uint64_t has = vv_get(&sync_peer_db(core, l->peer, db)->have, &s->origin);
    if (to > has)
        to = has;
    uint64_t room = hold_room(core, db, s),
             credit = to - from < PULL_BYTES / CREDIT_A_VERSION ? (to - from + 1) * CREDIT_A_VERSION : PULL_BYTES;
    if (!l->credit)
        l->credit = CREDIT_FIRST;
    uint64_t share = l->credit > l->pull_bytes ? l->credit - l->pull_bytes : 0;
    if (credit > share) /* who claims much and sends nothing takes little of the room from others */
        credit = share;
    if (credit > room)
        credit = room;
    if (credit < CREDIT_MIN) {
        /* Only what could go on to the store at once is worth asking: the one that all others wait for is among these.
         * One at a time; planned again when it is done. */
        if (db->pull_bytes || from != s->delivered + 1)
            return;
        credit = 1;
    }
    s->pull_link = l->id;
    s->pull_from = from;
    s->pull_ms = core->now;
    s->pull_bytes = credit;
    db->pull_bytes += (size_t)credit;
    s->share->pull_bytes += (size_t)credit;
    l->pulls++;
    l->pull_bytes += (size_t)credit;
    stream_begin(core);
    wire_pack_pull(&core->scratch,
                   &(struct wire_pull){.db = {db->name, strlen(db->name)}, .origin = s->origin, .from = from, .to = to, .bytes = credit});
    stream_send(core, l);
}

/* Looks after what was asked of a peer: true while it goes on. */
static bool pulling(struct core *core, struct db *db, struct source *s) {
    if (!s->pull_link)
        return false;
    struct link *l = greet_link(core, s->pull_link);
    uint64_t progress = s->pull_ms;
    if (l && l->answer_ms > progress)
        progress = l->answer_ms; /* it answers another range first, or a large batch is arriving */
    uint64_t until = progress + core->config.pull_timeout_ms, patience = s->pull_ms + PATIENCE * core->config.pull_timeout_ms;
    if (until > patience)
        until = patience;
    if (core->now < until) {
        pull_plan_at(core, db, until);
        return true;
    }
    avoid(core, s, s->pull_link);
    if (l)
        l->credit = CREDIT_MIN;
    end_pull(core, db, s);
    return false;
}

static bool must_wait(struct core *core, struct db *db, const struct source *s) {
    uint64_t until = s->due_ms;
    if (s->retry_ms > until) {
        const struct source *on = s->wait_version ? sync_source(db, &s->wait, false) : NULL;
        if (!on || on->delivered < s->wait_version)
            until = s->retry_ms;
    }
    if (core->now >= until)
        return false;
    pull_plan_at(core, db, until);
    return true;
}

static void plan(struct core *core, struct db *db) {
    db->plan_at = UINT64_MAX;
    if (!db->open || core->paused)
        return;
    bool lacking = false;
    for (uint32_t i = 0; i < db->sources_count; i++) {
        struct source *s = db->sources[i];
        bool busy = pulling(core, db, s);
        if (s->claimed <= s->delivered || s->bad || sync_ours(core, db, &s->origin))
            continue;
        lacking = true;
        if (busy || hold_full(db, s) || must_wait(core, db, s))
            continue;
        uint64_t from = first_missing(s), to = last_missing(s, from);
        if (from > to)
            continue; /* all here, waiting for others */
        struct link *l = choose(core, db, s, from);
        if (l)
            ask(core, db, s, l, from, to);
        else if (!offered(core, db, s, from))
            s->claimed = s->delivered; /* whoever had it is away, or lost it: until somebody says it again */
        else                           /* its queue is full, it is paused, or it could not answer: a later look will tell */
            pull_plan_at(core, db, core->now + core->config.beat_ms);
    }
    db->lacking = lacking;
}

void pull_timers(struct core *core) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        if (core->dbs[i]->plan_at <= core->now)
            plan(core, core->dbs[i]);
        core_arm(core, core->dbs[i]->plan_at);
    }
}

void pull_done(struct core *core, struct link *l, const struct wire_done *d) {
    struct db *db = sync_find(core, d->db.p, d->db.len);
    struct source *s = db ? sync_source(db, &d->origin, false) : NULL;
    if (!s || s->pull_link != l->id)
        return;
    uint64_t from = s->pull_from;
    end_pull(core, db, s);
    if (first_missing(s) == from && s->retry_ms <= core->now) { /* nothing of it came */
        char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8];
        if (d->next <= from)
            core_log_once(core, 2, "%s: %s cannot send what it has of a member's writes; asking others", db->name,
                          greet_who(l, who, sizeof who));
        avoid(core, s, l->id);
    } else if (l->credit < PULL_BYTES) {
        l->credit *= 2;
    }
    for (uint32_t i = 0; i < core->dbs_count; i++) /* others may have waited for the link */
        if (core->dbs[i] == db || core->dbs[i]->lacking)
            pull_plan_at(core, core->dbs[i], core->now);
}

void pull_cancel(struct core *core, struct link *l, const struct db *only) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct db *db = core->dbs[i];
        if (only && db != only)
            continue;
        for (uint32_t k = 0; k < db->sources_count; k++)
            if (db->sources[k]->pull_link == l->id)
                end_pull(core, db, db->sources[k]);
        if (db->lacking)
            pull_plan_at(core, db, core->now);
    }
}

/* ---- serving */

void pull_link_down(struct core *core, struct link *l) {
    pull_cancel(core, l, NULL);
    l->read_void = l->read_request != 0;
    l->ranges_count = 0;
}

void pull_stop(struct core *core) {
    for (uint32_t i = 0; i < core->links_count; i++)
        pull_link_down(core, core->links[i]);
}

void pull_forget_db(struct core *core, struct db *db) {
    for (uint32_t i = 0; i < core->links_count; i++) { /* what was asked of us is answered when it is open again: who asks waits for that */
        struct link *l = core->links[i];
        if (l->read_request && l->ranges_count && l->ranges[0].db == db)
            l->read_void = true;
    }
    for (uint32_t k = 0; k < db->sources_count; k++)
        if (db->sources[k]->pull_link)
            end_pull(core, db, db->sources[k]);
}

static void done(struct core *core, struct link *l, const char *db, size_t len, const struct origin *o, uint64_t next) {
    stream_begin(core);
    wire_pack_done(&core->scratch, &(struct wire_done){.db = {db, len}, .origin = *o, .next = next});
    stream_behind(core, l);
}

static bool add_range(struct link *l, const struct serve_range *r) {
    for (uint32_t i = l->read_request ? 1 : 0; i < l->ranges_count; i++) {
        if (l->ranges[i].db == r->db && origin_cmp(&l->ranges[i].origin, &r->origin) == 0) {
            l->ranges[i] = *r; /* it asks anew: what it asked before is void */
            return true;
        }
    }
    if (l->ranges_count >= RANGES_MAX)
        return false;
    if (l->ranges_count == l->ranges_cap) {
        uint32_t cap = l->ranges_cap ? l->ranges_cap * 2 : 4;
        struct serve_range *ranges = realloc(l->ranges, cap * sizeof *ranges);
        if (!ranges)
            return false;
        l->ranges = ranges;
        l->ranges_cap = cap;
    }
    l->ranges[l->ranges_count++] = *r;
    return true;
}

void pull_asked(struct core *core, struct link *l, const struct wire_pull *p) {
    struct db *db = sync_find(core, p->db.p, p->db.len);
    const struct peer_db *pd = db ? sync_peer_db(core, l->peer, db) : NULL;
    const struct source *s = db && db->open ? sync_source(db, &p->origin, false) : NULL;
    struct serve_range r = {.db = db, .origin = p->origin, .from = p->from, .to = p->to, .bytes = p->bytes};
    if (s && r.to > s->have)
        r.to = s->have; /* never what is not durable */
    bool can = s && pd && !pd->refused && !core->paused && r.from <= r.to && add_range(l, &r);
    if (can)
        pull_serve(core, l);
    else
        done(core, l, p->db.p, p->db.len, &p->origin, p->from);
}

/* The first that can be served, to the front. What the store has less of since it was opened again is at its end. */
static bool next_range(struct core *core, struct link *l) {
    for (uint32_t i = 0; i < l->ranges_count && l->state == LINK_UP;) {
        struct serve_range r = l->ranges[i];
        if (!r.db->open || r.db->withheld) {
            i++;
            continue;
        }
        const struct source *s = sync_source(r.db, &r.origin, false);
        uint64_t have = s ? s->have : 0;
        if (r.to > have)
            r.to = have;
        if (r.from <= r.to) {
            memmove(l->ranges + 1, l->ranges, i * sizeof *l->ranges);
            l->ranges[0] = r;
            return true;
        }
        memmove(l->ranges + i, l->ranges + i + 1, (--l->ranges_count - i) * sizeof *l->ranges);
        done(core, l, r.db->name, strlen(r.db->name), &r.origin, r.from);
    }
    return false;
}

void pull_serve(struct core *core, struct link *l) {
    if (l->state != LINK_UP || core->paused || l->read_request || l->queued + l->bulk_bytes >= core->config.link_queue_max / 2 ||
        !next_range(core, l))
        return;
    const struct serve_range *r = &l->ranges[0];
    l->read_request = ++core->last_number;
    l->read_void = false;
    if (!core_emit(core, &(struct effect){.type = EFFECT_READ,
                                          .request = l->read_request,
                                          .db = r->db->name,
                                          .origin = r->origin,
                                          .version = r->from,
                                          .version_last = r->to,
                                          .bytes_max = r->bytes < READ_BYTES ? (size_t)r->bytes : READ_BYTES})) {
        l->read_request = 0;
        greet_close(core, l, 0, "out of memory");
    }
}

/* What was served counts as pushed, when it closes the gap: the next of ours can then follow at once. */
static void served(struct core *core, const struct link *l, const struct serve_range *r, uint64_t first) {
    struct peer_db *pd = sync_peer_db(core, l->peer, r->db);
    if (!pd || memcmp(r->origin.node, core->id, NODE_ID_BYTES) != 0)
        return;
    if (origin_cmp(&pd->pushed_origin, &r->origin) != 0)
        return;
    uint64_t has = vv_get(&pd->have, &r->origin);
    if (has < pd->pushed)
        has = pd->pushed;
    if (first <= has + 1 && r->from > pd->pushed + 1)
        pd->pushed = r->from - 1;
}

void pull_read(struct core *core, uint64_t request, struct bytes *const *batches, uint32_t count) {
    struct link *l = NULL;
    for (uint32_t i = 0; i < core->links_count && !l; i++)
        if (core->links[i]->read_request == request)
            l = core->links[i];
    if (!l || !request)
        return; /* of a link that is gone */
    l->read_request = 0;
    if (l->state != LINK_UP || l->read_void || !l->ranges_count) {
        pull_serve(core, l);
        return;
    }
    struct serve_range r = l->ranges[0];
    uint64_t first = r.from;
    for (uint32_t i = 0; i < count && l->state == LINK_UP && r.from <= r.to; i++) {
        stream_batch(core, l, batches[i], true);
        r.from++;
        r.bytes -= batches[i]->len < r.bytes ? batches[i]->len : r.bytes;
    }
    if (l->state != LINK_UP)
        return;
    served(core, l, &r, first);
    memmove(l->ranges, l->ranges + 1, (l->ranges_count - 1) * sizeof *l->ranges);
    l->ranges_count--;
    if (count == 0 || r.from > r.to || r.bytes == 0)
        done(core, l, r.db->name, strlen(r.db->name), &r.origin, r.from);
    else
        l->ranges[l->ranges_count++] = r; /* behind the others: all get their turn */
    pull_serve(core, l);
}
