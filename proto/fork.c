/* Batches that do not hold: not signed by their author, or not what follows what he said before.
 *
 * From the author himself it is a fork: two batches under one version, since a disk was copied, or an older image of it was put back
 * and then written to; or he lies. What he says after it is not taken (red), and he is told. A server that hears that of itself takes up
 * its rows anew under an epoch that was never used (EFFECT_YIELD): what only it has goes out again, what the cluster has of its old epoch
 * is fetched like anybody's, and where the two differ the cluster's value stays and this one is an open conflict. A peer is believed
 * once a run.
 * From somebody else it may be made up, or passed on from the other branch of a fork: it is not taken, nothing stops, and that
 * origin is asked of others for a while. When nobody has what follows here, this server took the other branch. That origin is then
 * named (red) and set apart: what others wrote after its writes does not wait for them. Its author's later epoch says that
 * he did fork: then this server, too, takes up its rows anew, and fetches what the others have. Who never says so lies, and stays apart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define AVOID_MS 60000u
#define REJOIN_MS 600000u /* a member that lies must not make others do it all the time */

static const struct inflight *flight(const struct db *db, const struct source *s, uint64_t version) {
    for (uint32_t i = 0; i < db->inflight_count; i++)
        if (db->inflight[i].source == s && db->inflight[i].version == version)
            return &db->inflight[i];
    return NULL;
}

/* What was delivered of it and not stored is not to come. */
static void take_back(struct core *core, struct db *db, struct source *s) {
    bool bad = s->bad;
    s->bad = true;
    s->delivered = s->have;
    hold_drop(db, s);
    hold_stored(core, db); /* lets go of what is in flight of it */
    s->bad = bad;
}

static void forked(struct core *core, struct db *db, struct source *s, struct peer *author, uint64_t version) {
    char line[WIRE_TEXT_MAX];
    snprintf(line, sizeof line,
             "%s: the history of \"%s\" has forked: its version %llu does not follow what it said before (a copied disk, an older image "
             "that was "
             "put back, or it lies); what it writes is not taken until it goes on under a new epoch",
             db->name, author->m.name, (unsigned long long)version);
    core_log(core, 0, "%s", line);
    free(db->bad);
    db->bad = core_text(line);
    s->bad = s->forked = true;
    stream_begin(core);
    wire_pack_fork(&core->scratch, &(struct wire_fork){.db = {db->name, strlen(db->name)}, .epoch = s->origin.epoch, .version = version});
    stream_send(core, author->link);
}

bool fork_over(const struct core *core, const struct db *db, const struct source *s) {
    if (memcmp(s->origin.node, core->id, NODE_ID_BYTES) == 0)
        return !sync_ours(core, db, &s->origin);
    uint32_t low = 0, high = db->sources_count; /* the one behind it */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (origin_cmp(&db->sources[middle]->origin, &s->origin) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < db->sources_count && memcmp(db->sources[low]->origin.node, s->origin.node, NODE_ID_BYTES) == 0; low++)
        if (db->sources[low]->have) /* signed by him; others may say that he goes on under any */
            return true;
    return false;
}

/* Whoever took a shorter branch than others does as its author did. */
static void rejoin(struct core *core, struct db *db, const struct source *s) {
    if (!fork_over(core, db, s) || db->yields || (db->rejoined_ms && core->now - db->rejoined_ms < REJOIN_MS))
        return;
    core_log(core, 1,
             "%s: this server took other writes of a server that had forked than others did: what is here is taken up anew, beside theirs",
             db->name);
    db->rejoined_ms = core->now ? core->now : 1;
    db->yields = true;
    core_emit(core, &(struct effect){.type = EFFECT_YIELD, .db = db->name});
}

static void set_apart(struct core *core, struct db *db, struct source *s) {
    char line[WIRE_TEXT_MAX], who[ORIGIN_TEXT_BYTES];
    const struct peer *author = member_find(core, s->origin.node);
    snprintf(line, sizeof line,
             "%s: what \"%s\" wrote after its version %llu is not the same everywhere, and what others have of it does not follow what is "
             "here (it has forked, or lies): it is not taken; everybody else's writes are",
             db->name, author && author->m.name[0] ? author->m.name : origin_text(&s->origin, who), (unsigned long long)s->have);
    core_log_once(core, 0, "%s", line);
    free(db->bad);
    db->bad = core_text(line);
    s->forked = true;
    rejoin(core, db, s);
}

/* Somebody who is linked and was not asked yet. */
static bool others_have(const struct core *core, const struct db *db, const struct source *s, uint64_t version) {
    for (uint32_t i = 0; i < core->links_count; i++) {
        const struct link *l = core->links[i];
        if (l->id != s->avoid_link && sync_exchanges(core, l, db) && vv_get(&sync_peer_db(core, l->peer, db)->have, &s->origin) >= version)
            return true;
    }
    return false;
}

/* From somebody else than its author. */
static void misfit(struct core *core, struct db *db, struct source *s, const struct peer *from, uint64_t version) {
    char who[ORIGIN_TEXT_BYTES];
    core_log_once(core, 1,
                  "%s: version %llu of %s, as \"%s\" has it, does not follow what is here, or is not signed: it is not taken from there",
                  db->name, (unsigned long long)version, origin_text(&s->origin, who), from ? from->m.name : "?");
    bool again = s->misfit == version;
    s->misfit = version;
    s->avoid_link = from && from->link ? from->link->id : 0;
    s->avoid_ms = core->now + AVOID_MS;
    bool alone = again || !others_have(core, db, s, version);
    s->retry_ms = alone ? s->avoid_ms : 0; /* else one would be asked after the other, without end */
    s->wait_version = 0;
    db->lacking = true;
    if (alone)
        set_apart(core, db, s);
}

void fork_found(struct core *core, const struct event *e) {
    struct db *db = sync_find(core, e->db, strlen(e->db));
    struct source *s = db && db->open ? sync_source(db, &e->origin, false) : NULL;
    const struct inflight *f = s ? flight(db, s, e->version) : NULL;
    if (!f || s->bad)
        return;
    struct peer *from = member_find(core, f->from);
    if (from && from->link && memcmp(f->from, e->origin.node, NODE_ID_BYTES) == 0)
        forked(core, db, s, from, e->version);
    else
        misfit(core, db, s, from, e->version);
    take_back(core, db, s);
    pull_plan_at(core, db, core->now);
}

void fork_passed(struct core *core, struct db *db, struct source *s, bool first) {
    if (first && s->origin.epoch)
        fork_healed(core, db, &s->origin);
    s->misfit = 0;
    if (!s->forked || s->bad)
        return;
    s->forked = false;
    free(db->bad);
    db->bad = NULL;
}

void fork_heard(struct core *core, const struct link *l, const struct wire_fork *w) {
    struct db *db = sync_find(core, w->db.p, w->db.len);
    struct origin o = {.epoch = w->epoch};
    memcpy(o.node, core->id, NODE_ID_BYTES);
    const struct source *s = db && db->open ? sync_source(db, &o, false) : NULL;
    char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8];
    if (!s || w->version > s->delivered || !sync_ours(core, db, &o) || db->fork_told || db->epoch_asked || db->yields)
        return;
    core_log(
        core, 0,
        "%s: %s has other writes of this server under the same versions (a copied disk, or an older image that was put back): what is here "
        "is taken up anew, beside those of the cluster",
        db->name, greet_who(l, who, sizeof who));
    db->fork_told = db->yields = db->epoch_asked = true;
    db->epoch_asked_up_to = o.epoch;
    core_emit(core, &(struct effect){.type = EFFECT_YIELD, .db = db->name});
}

void fork_healed(struct core *core, struct db *db, const struct origin *o) {
    for (uint32_t i = 0; i < db->sources_count; i++) {
        struct source *s = db->sources[i];
        if (!s->forked || memcmp(s->origin.node, o->node, NODE_ID_BYTES) != 0 || s->origin.epoch >= o->epoch)
            continue;
        if (!s->bad) { /* set apart: until it is taken up anew here */
            rejoin(core, db, s);
            continue;
        }
        s->bad = s->forked = false; /* what others have of the rest is fetched, if it follows */
        free(db->bad);
        db->bad = NULL;
        core_log(core, 2, "%s: a server whose history had forked goes on under a new epoch", db->name);
        pull_plan_at(core, db, core->now);
    }
}
