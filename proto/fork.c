/* Batches that do not hold: not signed by their author, or not what follows what he said before.
 *
 * From the author himself it is a fork: two batches under one version, since a disk was copied, or an older image of it was put back
 * and then written to; or he lies. What he says after it is not taken (red), and he is told. A server that hears that of itself takes up
 * its rows anew under an epoch that was never used (EFFECT_YIELD): what only it has goes out again, what the cluster has of its old epoch
 * is fetched like anybody's, and where the two differ the cluster's value stays and this one is an open conflict. A peer is believed
 * once a run.
 * From somebody else it may be made up, or passed on from the other branch of a fork: it is not taken, nothing stops, and that
 * origin is asked of others for a while. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define AVOID_MS 60000u

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

void fork_found(struct core *core, const struct event *e) {
    struct db *db = sync_find(core, e->db, strlen(e->db));
    struct source *s = db && db->open ? sync_source(db, &e->origin, false) : NULL;
    const struct inflight *f = s ? flight(db, s, e->version) : NULL;
    if (!f || s->bad)
        return;
    struct peer *from = member_find(core, f->from);
    if (from && from->link && memcmp(f->from, e->origin.node, NODE_ID_BYTES) == 0) {
        forked(core, db, s, from, e->version);
    } else {
        char who[ORIGIN_TEXT_BYTES];
        core_log_once(
            core, 1, "%s: version %llu of %s, as \"%s\" has it, does not follow what is here, or is not signed: it is not taken from there",
            db->name, (unsigned long long)e->version, origin_text(&e->origin, who), from ? from->m.name : "?");
        s->avoid_link = from && from->link ? from->link->id : 0;
        s->avoid_ms = core->now + AVOID_MS;
        s->retry_ms = 0;
        db->lacking = true;
    }
    take_back(core, db, s);
    pull_plan_at(core, db, core->now);
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
        s->bad = s->forked = false;
        s->claimed = s->have;
        free(db->bad);
        db->bad = NULL;
        core_log(core, 2, "%s: a server whose history had forked goes on under a new epoch", db->name);
    }
}
