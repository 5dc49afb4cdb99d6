#include "proto/sync.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"
#include "proto/err.h"

/* A peer that lacks no more than this, and whose queue is short, is pushed to again: it holds what it gets and pulls the gap.
 * Else a peer that once fell behind a steady writer would pull for ever, always one batch late. */
#define PUSH_GAP 16u
#define EPOCHS_BURST 4u
#define EPOCHS_MS 600000u
#define EPOCHS_AHEAD (1u << 21)
#define EPOCHS_MAX 0xf0000000u /* one more is always left */
#define RELAY_GAP 64u /* of what is passed on nobody notes what was pushed: it is what comes in while acknowledgements are under way */

/* ---- databases and origins */

struct db *sync_find(const struct core *core, const char *name, size_t len) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct db *db = core->dbs[i];
        if (strncmp(db->name, name, len) == 0 && db->name[len] == 0)
            return db;
    }
    return NULL;
}

/* Found or added (closed): peers may speak of databases that we do not have. */
static struct db *take_db(struct core *core, const char *name, size_t len) {
    if (len == 0 || len > BATCH_DB_NAME_MAX)
        return NULL;
    struct db *db = sync_find(core, name, len);
    if (db)
        return db;
    if (core->dbs_count >= WIRE_DATABASES_MAX) {
        core_log_once(core, 1, "more than %u databases: the others are not exchanged", WIRE_DATABASES_MAX);
        return NULL;
    }
    if (!core->dbs)
        core->dbs = calloc(WIRE_DATABASES_MAX, sizeof *core->dbs);
    db = core->dbs ? calloc(1, sizeof *db) : NULL;
    if (!db)
        return NULL;
    memcpy(db->name, name, len);
    db->index = core->dbs_count;
    db->gen = 1;
    db->announce_at = db->plan_at = UINT64_MAX;
    core->dbs[core->dbs_count++] = db;
    return db;
}

static bool same_node(const struct db *db, uint32_t at, const struct origin *o) {
    return at < db->sources_count && memcmp(db->sources[at]->origin.node, o->node, NODE_ID_BYTES) == 0;
}

/* That of the same member's other epochs, which are beside this one's place, or a new one. */
static bool take_share(const struct db *db, uint32_t place, struct source *s, const struct origin *o) {
    if (same_node(db, place, o))
        s->share = db->sources[place]->share;
    else
        s->share = place && same_node(db, place - 1, o) ? db->sources[place - 1]->share : calloc(1, sizeof *s->share);
    if (s->share)
        s->share->sources++;
    return s->share != NULL;
}

/* Where it is, or belongs. */
static uint32_t source_place(const struct db *db, const struct origin *o) {
    uint32_t low = 0, high = db->sources_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (origin_cmp(&db->sources[middle]->origin, o) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void free_source(struct source *s) {
    free(s->held);
    if (!--s->share->sources)
        free(s->share);
    free(s);
}

/* One that somebody spoke of and of which nothing came: anybody can make up as many as there are places. They go in turn. */
static bool recycle(struct db *db) {
    for (uint32_t i = 0; i < db->sources_count; i++) {
        uint32_t at = db->recycled++ % db->sources_count;
        struct source *s = db->sources[at];
        if (s->delivered || s->have || s->held_count || s->pull_link || s->bad || s->forked)
            continue;
        free_source(s);
        memmove(db->sources + at, db->sources + at + 1, (--db->sources_count - at) * sizeof *db->sources);
        return true;
    }
    return false;
}

struct source *sync_source(struct db *db, const struct origin *o, bool add) {
    uint32_t low = source_place(db, o);
    if (low < db->sources_count && origin_cmp(&db->sources[low]->origin, o) == 0)
        return db->sources[low];
    if (!add || (db->sources_count >= VV_ENTRIES_MAX && !recycle(db)) || !core_grow(&db->sources, &db->sources_cap, db->sources_count))
        return NULL;
    low = source_place(db, o);
    struct source *s = calloc(1, sizeof *s);
    if (!s || !take_share(db, low, s, o)) {
        free(s);
        return NULL;
    }
    s->origin = *o;
    memmove(db->sources + low + 1, db->sources + low, (db->sources_count - low) * sizeof *db->sources);
    db->sources[low] = s;
    db->sources_count++;
    return s;
}

struct source *sync_seek_source(struct db *db, uint32_t *at, const struct origin *o, bool add) {
    int order = 1;
    while (*at < db->sources_count && (order = origin_cmp(&db->sources[*at]->origin, o)) < 0)
        ++*at;
    if (*at < db->sources_count && order == 0)
        return db->sources[(*at)++];
    return add ? sync_source(db, o, true) : NULL;
}

static void clear_sources(struct db *db) {
    for (uint32_t i = 0; i < db->sources_count; i++) {
        hold_drop(db, db->sources[i]);
        free_source(db->sources[i]);
    }
    db->sources_count = 0;
    while (db->inflight_count)
        bytes_unref(db->inflight[--db->inflight_count].batch);
    db->inflight_bytes = db->pull_bytes = 0;
    db->turn = 0;
}

void sync_db_free(struct db *db) {
    clear_sources(db);
    free(db->sources);
    vv_release(&db->have);
    free(db->bad);
    free(db);
}

bool sync_ours(const struct core *core, const struct db *db, const struct origin *o) {
    if (memcmp(o->node, core->id, NODE_ID_BYTES) != 0)
        return false;
    return !db->epoch_known || o->epoch > db->epoch_past;
}

uint64_t sync_vector_digest(struct db *db) {
    if (!db->vector_known) {
        db->vector = vv_digest(&db->have);
        db->vector_known = true;
    }
    return db->vector;
}

/* ---- peers */

struct peer_db *sync_peer_db(const struct core *core, struct peer *p, const struct db *db) {
    assert(db->index < core->dbs_count);
    if (db->index < p->dbs_count)
        return &p->dbs[db->index];
    struct peer_db *dbs = realloc(p->dbs, core->dbs_count * sizeof *dbs);
    if (!dbs)
        return NULL;
    memset(dbs + p->dbs_count, 0, (core->dbs_count - p->dbs_count) * sizeof *dbs);
    p->dbs = dbs;
    p->dbs_count = core->dbs_count;
    return &p->dbs[db->index];
}

void sync_peer_release(struct peer *p) {
    for (uint32_t i = 0; i < p->dbs_count; i++) {
        vv_release(&p->dbs[i].have);
        free(p->dbs[i].refused);
    }
    free(p->dbs);
}

bool sync_exchanges(const struct core *core, const struct link *l, const struct db *db) {
    if (core->paused || l->state != LINK_UP || !l->peer || l->peer->paused || !db->open || db->withheld)
        return false;
    const struct peer_db *pd = sync_peer_db(core, l->peer, db);
    return pd && pd->open && pd->known && !pd->refused;
}

/* With whom is this base shared? Nobody that we are, or were, linked to. */
static bool alone(const struct core *core, const struct db *db) {
    if (!(db->base & BASE_ALONE))
        return false;
    for (uint32_t i = 0; i < core->peers_count; i++) {
        const struct peer_db *pd = sync_peer_db(core, core->peers[i], db);
        if (pd && pd->base && (pd->base | BASE_FLAGS) == (db->base | BASE_FLAGS))
            return false;
    }
    return true;
}

uint64_t sync_base(const struct core *core, const struct db *db) {
    return !alone(core, db) ? db->base & ~BASE_FLAGS : core->seeds_count ? db->base | BASE_JOINS : db->base;
}

/* Who has others with the same base stays so, also when they are away after a restart. */
static void share(struct core *core, struct db *db) {
    if (!db->open || db->shared || !(db->base & BASE_ALONE) || alone(core, db))
        return;
    db->shared = true;
    core_emit(core, &(struct effect){.type = EFFECT_SHARED, .db = db->name});
}

/* Two sides that both had rows before they met are kept apart until one has yielded. Says why, and what this one does about it. */
static void part(struct core *core, const struct peer *p, struct db *db, const struct peer_db *pd, char text[WIRE_TEXT_MAX]) {
    const char *name = p->m.name[0] ? p->m.name : p->m.address;
    bool mine = alone(core, db), theirs = pd->base & BASE_ALONE, joins = core->seeds_count > 0, they_join = pd->base & BASE_JOINS;
    bool newer = joins != they_join ? joins : (db->base | BASE_FLAGS) > (pd->base | BASE_FLAGS);
    if (mine && (!theirs || newer)) {
        snprintf(text, WIRE_TEXT_MAX, "%s: had rows before this node met \"%s\", which has others: they are taken up beside those",
                 db->name, name);
        if (!db->yields)
            core_emit(core, &(struct effect){.type = EFFECT_YIELD, .db = db->name});
        db->yields = true;
    } else if (theirs) {
        snprintf(text, WIRE_TEXT_MAX, "%s: \"%s\" had rows before it met this node: it takes them up beside ours first", db->name, name);
    } else {
        snprintf(text, WIRE_TEXT_MAX,
                 "%s: this node and \"%s\" are of two clusters that both had different rows before they first met, so they are not merged: "
                 "to let one join the other, stop starlingd on each of its servers, move .starling out of the instance folder, and start "
                 "it with --join",
                 db->name, name);
    }
}

static void compare_bases(struct core *core, struct peer *p, struct db *db) {
    struct peer_db *pd = sync_peer_db(core, p, db);
    if (!pd)
        return;
    bool differ = db->open && pd->open && db->base && pd->base && (db->base | BASE_FLAGS) != (pd->base | BASE_FLAGS);
    if (!differ) {
        if (pd->refused)
            pd->sent_full = false; /* it was told nothing while refused */
        free(pd->refused);
        pd->refused = NULL;
        return;
    }
    char text[WIRE_TEXT_MAX];
    part(core, p, db, pd, text);
    if (pd->refused && strcmp(pd->refused, text) == 0)
        return;
    core_log_once(core, alone(core, db) || (pd->base & BASE_ALONE) ? 2 : 0, "%s", text);
    free(pd->refused);
    pd->refused = core_text(text);
    pd->known = false;
    vv_clear(&pd->have);
}

/* ---- hearing */

/* A peer has what we do not: said again and again, and the first time when all are met. To make a database is much work, and where many servers
 * start on few cores it keeps them from meeting. */
static void wanted(struct core *core, struct db *db) {
    if (db->open || db->wanted_ms)
        return;
    db->wanted_ms = core->now + 1; /* 0: nobody has it */
    db->wanted_by_ms = core->now + DB_WANTED_LATEST_MS;
    core_arm(core, core->now);
}

static bool had_by_others(const struct core *core, const struct db *db) {
    for (uint32_t i = 0; i < core->links_count; i++) {
        const struct peer *p = core->links[i]->state == LINK_UP ? core->links[i]->peer : NULL;
        if (p && db->index < p->dbs_count && p->dbs[db->index].open)
            return true;
    }
    return false;
}

static void want(struct core *core, struct db *db) {
    if (!had_by_others(core, db)) {
        db->wanted_ms = 0;
        return;
    }
    uint64_t due = dial_meeting(core) ? db->wanted_by_ms : core->linked_ms + DB_WANTED_QUIET_MS;
    if (due > db->wanted_by_ms)
        due = db->wanted_by_ms;
    if (due < db->wanted_ms)
        due = db->wanted_ms;
    if (core->now >= due) {
        core_emit(core, &(struct effect){.type = EFFECT_DB_WANTED, .db = db->name});
        due = db->wanted_ms = core->now + DB_WANTED_MS;
    }
    core_arm(core, due);
}

static void note(struct core *core, struct peer *p, struct db *db, const struct wire_db *d) {
    struct peer_db *pd = sync_peer_db(core, p, db);
    if (!pd)
        return;
    bool was = alone(core, db);
    pd->open = true;
    pd->base = d->base;
    pd->vector = d->vector;
    pd->settled = d->settled;
    memcpy(pd->content, d->content, sizeof pd->content);
    if (was && !alone(core, db)) { /* the others hear it, and we look at them anew */
        db->gen++;
        for (uint32_t i = 0; i < core->peers_count; i++)
            compare_bases(core, core->peers[i], db);
        announce_changed(core, db);
    }
    share(core, db);
    compare_bases(core, p, db);
    wanted(core, db);
}

void sync_hello(struct core *core, struct peer *p, const struct wire_hello *h) {
    for (uint32_t i = 0; i < p->dbs_count; i++)
        p->dbs[i].open = p->dbs[i].known = false;
    struct mpk m = h->dbs;
    struct wire_db d;
    for (uint32_t i = 0; i < h->dbs_count; i++) {
        wire_next_db(&m, &d);
        struct db *db = take_db(core, d.name.p, d.name.len);
        struct peer_db *pd = db ? sync_peer_db(core, p, db) : NULL;
        if (!pd)
            continue;
        if (pd->vector != d.vector)
            vv_clear(&pd->have); /* what it acknowledged before does not hold any more, or not all */
        note(core, p, db, &d);
    }
}

/* Anybody can say that we wrote what we do not know. An epoch counts up, or is the second in which it began, give or take some days... */
static uint64_t epoch_bound(const struct core *core) {
    uint64_t now = clock_cluster_ms(core) / 1000 + EPOCHS_AHEAD;
    return clock_cluster_ms(core) < CLOCK_NEVER_SET_MS && now < EPOCHS_MAX ? EPOCHS_MAX : now;
}

/* ... and to begin one is no daily matter. */
static bool afford_epoch(const struct core *core, struct db *db) {
    uint64_t since = core->now - db->epochs_ms;
    if (!db->epochs || since >= EPOCHS_MS) {
        db->epochs = 0;
        db->epochs_ms = core->now;
    }
    return db->epochs < EPOCHS_BURST && ++db->epochs;
}

/* The latest epoch of ours that this link's peer knows, if it is later. */
static void latest_of_ours(const struct core *core, const struct link *l, const struct db *db, struct vv_entry *latest) {
    const struct peer_db *pd = l->state == LINK_UP ? sync_peer_db(core, l->peer, db) : NULL;
    for (uint32_t i = 0; pd && i < pd->have.count; i++) {
        const struct vv_entry *e = &pd->have.entries[i];
        if (memcmp(e->origin.node, core->id, NODE_ID_BYTES) == 0 && e->origin.epoch > latest->origin.epoch &&
            e->origin.epoch <= epoch_bound(core))
            *latest = *e;
    }
}

/* A peer has versions that we made and do not know: we lost them. */
static void check_epoch(struct core *core, struct db *db, const struct source *s, uint64_t version) {
    if (!db->open || db->epoch_asked || !sync_ours(core, db, &s->origin) || version <= s->delivered)
        return;
    for (uint32_t i = 0; i < db->sources_count; i++) { /* an epoch of ours that we left behind long ago */
        const struct source *other = db->sources[i];
        if (memcmp(other->origin.node, core->id, NODE_ID_BYTES) == 0 && other->origin.epoch > s->origin.epoch && other->delivered) {
            db->epoch_known = true;
            db->epoch_past = other->origin.epoch - 1;
        }
    }
    if (!sync_ours(core, db, &s->origin))
        return;
    struct vv_entry latest = {s->origin, version};
    for (uint32_t i = 0; i < core->links_count; i++)
        latest_of_ours(core, core->links[i], db, &latest);
    if (s->origin.epoch > epoch_bound(core) || !afford_epoch(core, db)) {
        core_log_once(core, 1, "%s: a peer says that this server wrote version %llu of its epoch %u, which it did not: not believed",
                      db->name, (unsigned long long)version, s->origin.epoch);
        return;
    }
    db->epoch_asked = true;
    db->epoch_asked_up_to = latest.origin.epoch;
    core_emit(core, &(struct effect){.type = EFFECT_EPOCH, .db = db->name, .origin = latest.origin, .version = latest.version});
}

/* What a peer claims to have: is there something to fetch? */
static void claim(struct core *core, struct link *l, struct db *db, struct source *s, const struct vv_entry *e) {
    check_epoch(core, db, s, e->version);
    if (e->origin.epoch)
        fork_healed(core, db, &e->origin);
    if (e->version > s->delivered && s->claimed <= s->delivered) {
        /* Its author may be pushing it to us at this moment; the author's own word comes behind its push. */
        const struct peer *author = member_find(core, e->origin.node);
        bool pushing = (author && author->link && author->link != l) || core->overlay.on;
        s->due_ms = core->now + (pushing ? core->config.lazy_ms : 0);
    }
    if (e->version > s->claimed)
        s->claimed = e->version;
    if (s->misfit && memcmp(l->peer->m.id, e->origin.node, NODE_ID_BYTES) == 0)
        s->retry_ms = 0; /* its author is the one to ask */
    if (s->claimed > s->delivered) {
        db->lacking = true;
        pull_plan_at(core, db, s->due_ms);
    }
}

/* The usual entry: what it says is here, and was said before. */
static inline bool no_news(const struct source *s, const struct vv_entry *e) {
    return e->version <= s->claimed && s->claimed <= s->delivered && !e->origin.epoch && !s->misfit;
}

void sync_receive(struct core *core, struct link *l, const struct wire_vector *v) {
    struct db *db = take_db(core, v->db.name.p, v->db.name.len);
    struct peer_db *pd = db ? sync_peer_db(core, l->peer, db) : NULL;
    if (!pd)
        return;
    if (v->flags & WIRE_CLOSED) {
        pd->open = pd->known = false;
        pull_cancel(core, l, db);
        return;
    }
    note(core, l->peer, db, &v->db);
    if (db->open && announce_untold(db, pd))
        announce_changed(core, db);
    if (pd->refused)
        return;
    const struct vv *heard = &core->vv_scratch;
    int r = v->flags & WIRE_FULL ? vv_copy(&pd->have, heard) : vv_merge(&pd->have, heard);
    if (r) {
        pd->known = false;
        pd->vector = ~v->db.vector; /* so that its next BEAT leads to all of it again */
        return;
    }
    if (v->flags & WIRE_FULL)
        pd->known = true;
    if (!db->open)
        return;
    for (uint32_t i = 0, at = 0; i < heard->count; i++) {
        const struct vv_entry *e = &heard->entries[i];
        struct source *s = sync_next_source(db, &at, &e->origin, true);
        if (s && !no_news(s, e))
            claim(core, l, db, s, e);
    }
}

uint64_t core_database_base(const struct core *core, const char *name) {
    const struct db *db = sync_find(core, name, strlen(name));
    return db && db->open ? sync_base(core, db) : 0;
}

bool core_database_complete(const struct core *core, const char *name, bool *somebody) {
    struct db *db = sync_find(core, name, strlen(name));
    bool linked = false;
    *somebody = false;
    for (uint32_t i = 0; db && db->open && i < core->links_count; i++) {
        struct link *l = core->links[i];
        const struct peer_db *pd = l->state == LINK_UP && l->peer ? sync_peer_db(core, l->peer, db) : NULL;
        linked = linked || pd;
        if (!pd || !pd->open)
            continue;
        *somebody = true;
        if (pd->refused || (!pd->known && pd->vector != sync_vector_digest(db)))
            return false;
        for (uint32_t k = 0; pd->known && k < pd->have.count; k++)
            if (vv_get(&db->have, &pd->have.entries[k].origin) < pd->have.entries[k].version &&
                !sync_ours(core, db, &pd->have.entries[k].origin))
                return false;
    }
    return linked;
}

uint64_t sync_peer_digest(const struct core *core, const struct peer *p) {
    uint64_t digest = 0;
    for (uint32_t i = 0; i < p->dbs_count; i++) {
        const struct peer_db *pd = &p->dbs[i];
        if (!pd->open)
            continue;
        const char *name = core->dbs[i]->name;
        digest ^= wire_db_digest(&(struct wire_db){
            .name = {name, strlen(name)}, .base = pd->base, .vector = pd->vector, .content = pd->content, .settled = pd->settled});
    }
    return digest;
}

/* ---- the truth about a peer */

/* Ours that the store has not confirmed: no vector tells of it yet. */
static bool ahead(const struct core *core, const struct db *db) {
    for (uint32_t i = 0; i < db->sources_count; i++) {
        const struct source *s = db->sources[i];
        if (s->delivered > s->have && memcmp(s->origin.node, core->id, NODE_ID_BYTES) == 0)
            return true;
    }
    return db->inflight_count > 0;
}

bool sync_in_sync(const struct core *core, const struct peer *p) {
    if (!p->link || !p->current || probe_silent(core, p->link))
        return false;
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct db *db = core->dbs[i];
        const struct peer_db *pd = i < p->dbs_count ? &p->dbs[i] : NULL;
        bool theirs = pd && pd->open;
        if (!db->open && !theirs)
            continue;
        if (!db->open || !theirs || !pd->known || pd->refused || !pd->settled || !db->settled || ahead(core, db))
            return false;
        if (pd->vector != sync_vector_digest(db) || memcmp(pd->content, db->content, sizeof db->content) != 0)
            return false;
    }
    return true;
}

/* ---- the store's word */

/* The store has so much of an origin now. */
static void stored(struct core *core, struct db *db, const struct vv_entry *e, uint64_t gen) {
    struct source *s = sync_source(db, &e->origin, true);
    if (!s || s->have == e->version)
        return;
    if (e->version < s->have)
        db->full_gen = gen;
    bool first = s->have == 0;
    s->have = e->version;
    s->gen = gen;
    fork_passed(core, db, s, first);
    if (s->delivered < s->have)
        s->delivered = s->have;
}

static void take_state(struct core *core, struct db *db, const struct db_state *state) {
    bool news = !db->open || db->base != state->base || db->settled != state->settled ||
                memcmp(db->content, state->digest, sizeof db->content) != 0;
    uint64_t gen = db->gen + 1;
    db->clock = state->clock > db->clock ? state->clock : db->clock;
    bool alike = db->open && db->have.count == state->have.count; /* mostly: then it is known what changed, a few of many */
    int r = alike ? 0 : vv_copy(&db->have, &state->have);
    assert(r == 0); /* the store does not say it again; without memory for so little the process ends, and begins where it was */
    for (uint32_t i = 0; i < state->have.count; i++) {
        const struct vv_entry *e = &state->have.entries[i];
        struct vv_entry *was = &db->have.entries[i];
        if (alike && was->version == e->version && origin_equal(&was->origin, &e->origin))
            continue;
        *was = *e;
        news = true;
        stored(core, db, e, gen);
    }
    if (!news)
        return;
    db->gen = gen;
    db->vector_known = false;
    db->settled = state->settled;
    memcpy(db->content, state->digest, sizeof db->content);
    if (db->base != state->base) {
        db->base = state->base;
        for (uint32_t i = 0; i < core->peers_count; i++)
            compare_bases(core, core->peers[i], db);
    }
    share(core, db);
    announce_changed(core, db);
}

/* Everything that linked peers say of this database counts from now on. */
static void hear_again(struct core *core, struct db *db) {
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (l->state != LINK_UP)
            continue;
        compare_bases(core, l->peer, db);
        const struct peer_db *pd = sync_peer_db(core, l->peer, db);
        for (uint32_t k = 0, at = 0; pd && pd->open && pd->known && k < pd->have.count; k++) {
            struct source *s = sync_next_source(db, &at, &pd->have.entries[k].origin, true);
            if (s)
                claim(core, l, db, s, &pd->have.entries[k]);
        }
    }
}

void sync_open(struct core *core, const char *name, const struct db_state *state) {
    struct db *db = take_db(core, name, strlen(name));
    if (!db)
        return;
    pull_forget_db(core, db);
    clear_sources(db);
    free(db->bad);
    db->bad = NULL;
    if (db->epoch_asked) {
        db->epoch_asked = false;
        db->epoch_known = true;
        db->epoch_past = db->epoch_asked_up_to;
    }
    db->yields = db->shared = false;
    db->full_gen = db->gen + 1;
    db->open = false; /* so that its state is news, whatever it is */
    take_state(core, db, state);
    db->open = true;
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer_db *pd = sync_peer_db(core, core->peers[i], db);
        if (pd)
            pd->pushed = 0;
    }
    clock_opened(core, db);
    hear_again(core, db);
    announce_changed(core, db);
    for (uint32_t i = 0; i < core->links_count; i++)
        pull_serve(core, core->links[i]);
}

void sync_close(struct core *core, const char *name) {
    struct db *db = sync_find(core, name, strlen(name));
    if (!db || !db->open)
        return;
    pull_forget_db(core, db);
    clear_sources(db);
    db->open = false;
    db->gen++;
    for (uint32_t i = 0; i < core->peers_count; i++)
        compare_bases(core, core->peers[i], db);
    announce_changed(core, db);
}

void sync_stored(struct core *core, const char *name, const struct db_state *state) {
    struct db *db = sync_find(core, name, strlen(name));
    if (!db || !db->open)
        return;
    take_state(core, db, state);
    hold_stored(core, db);
}

void sync_batch_bad(struct core *core, const char *name, const struct origin *o, uint64_t version, const char *text) {
    struct db *db = sync_find(core, name, strlen(name));
    struct source *s = db && db->open ? sync_source(db, o, false) : NULL;
    if (!s || s->bad)
        return;
    char who[ORIGIN_TEXT_BYTES], line[WIRE_TEXT_MAX];
    snprintf(line, sizeof line, "%s: version %llu of %s cannot be taken, and what it wrote later waits: %s", db->name,
             (unsigned long long)version, origin_text(o, who), text ? text : "no reason given");
    core_log(core, 0, "%s", line);
    free(db->bad);
    db->bad = core_text(line);
    s->bad = true;
    s->delivered = s->have;
    hold_drop(db, s);
    hold_stored(core, db); /* what was in flight of it will not be confirmed */
}

/* ---- our own writes */

void sync_local(struct core *core, const char *name, struct bytes *batch) {
    struct db *db = sync_find(core, name, strlen(name));
    struct batch_head head;
    if (!db || !db->open || batch_head_read(&head, batch->data, batch->len))
        return;
    struct origin origin = head.origin;
    uint64_t version = head.version;
    batch_head_release(&head);
    struct source *s = sync_source(db, &origin, true);
    if (s && version > s->delivered)
        s->delivered = version;
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (!sync_exchanges(core, l, db) || !stream_takes(core, l, batch) || !overlay_eager(core, l))
            continue;
        struct peer_db *pd = sync_peer_db(core, l->peer, db);
        if (origin_cmp(&pd->pushed_origin, &origin) != 0) {
            pd->pushed_origin = origin;
            pd->pushed = 0;
        }
        uint64_t has = vv_get(&pd->have, &origin);
        if (has < pd->pushed)
            has = pd->pushed;
        bool near = version <= has + PUSH_GAP && l->queued < core->config.link_queue_max / 4;
        if (version <= has || (version > has + 1 && !near))
            continue; /* it has it, or lacks more: then it pulls */
        stream_batch(core, l, batch, false);
        pd->pushed = version;
    }
    if (s && db->held_count) /* something may have waited for it */
        hold_ready(core, db);
}

void sync_relay(struct core *core, struct db *db, const struct inflight *f) {
    for (uint32_t i = 0; i < core->links_count && core->overlay.on; i++) {
        struct link *l = core->links[i];
        if (!sync_exchanges(core, l, db) || !stream_takes(core, l, f->batch) || !overlay_eager(core, l))
            continue;
        uint64_t has = vv_get(&sync_peer_db(core, l->peer, db)->have, &f->source->origin);
        if (memcmp(l->peer->m.id, f->from, NODE_ID_BYTES) != 0 && f->version > has && f->version <= has + RELAY_GAP)
            stream_batch(core, l, f->batch, false);
    }
}

void sync_timers(struct core *core) {
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        if (core->dbs[i]->wanted_ms && !core->dbs[i]->open)
            want(core, core->dbs[i]);
    }
}
