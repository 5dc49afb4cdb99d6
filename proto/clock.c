#include "proto/clock.h"

#include <stdio.h>
#include <string.h>

#include "proto/core_state.h"
#include "proto/hlc.h"

uint64_t clock_cluster_ms(const struct core *core) { return core->wall + (uint64_t)core->offset_ms; }

static int64_t apart(uint64_t a, uint64_t b) { return (int64_t)(a - b); }

static bool off(int64_t ms) { return ms >= CLOCK_OFF_MS || ms <= -CLOCK_OFF_MS; }

void clock_look(struct core *core) {
    uint64_t difference = core->wall - core->now;
    int64_t by = core->looked ? apart(difference, core->difference) : 0;
    core->difference = difference;
    core->looked = true;
    if (!core->config.clocks || !off(by))
        return;
    if (core->offset_ms) { /* it is known to be off: the cluster's time goes on */
        core->offset_ms -= by;
        core->offset_ms = off(core->offset_ms) ? core->offset_ms : 0;
    }
    core_log(core, 1, "the clock of this server was set %s by %lld s: its links are made anew", by < 0 ? "back" : "forward",
             (long long)(by < 0 ? -by : by) / 1000);
    for (uint32_t i = 0; i < core->links_count; i++)
        greet_close(core, core->links[i], WIRE_BYE, "the clock of this server was set");
    clock_settle(core);
}

static uint32_t up(const struct core *core, const struct link *but) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < core->links_count; i++)
        count += core->links[i] != but && core->links[i]->state == LINK_UP;
    return count;
}

bool clock_company(const struct core *core, const struct link *but) { return up(core, but) > 0; }

void clock_hello(struct core *core, struct link *l, const struct wire_hello *h) {
    int64_t by = apart(h->wall_ms, clock_cluster_ms(core)), ours = apart(h->wall_ms, core->wall);
    char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8];
    if (!off(by))
        return;
    bool company = up(core, l) > 0, theirs = h->flags & WIRE_COMPANY;
    bool unset = clock_cluster_ms(core) < CLOCK_NEVER_SET_MS, never = h->wall_ms < CLOCK_NEVER_SET_MS;
    greet_who(l, who, sizeof who);
    if (!core->config.clocks || company || never || (!theirs && !unset && by > 0)) {
        core_log_once(core, 1, "%s: its clock is %lld s %s ours: set both", who, (long long)(by < 0 ? -by : by) / 1000,
                      by > 0 ? "ahead of" : "behind");
        return;
    }
    core->offset_ms = off(ours) ? ours : 0;
    if (core->offset_ms)
        core_log_once(core, 1, "the clock of this server is %lld s %s that of %s: its writes get the cluster's time; set the clock",
                      (long long)(ours < 0 ? -ours : ours) / 1000, ours < 0 ? "ahead of" : "behind", who);
}

/* ---- what nobody has seen yet */

static void alone(struct core *core, struct db *db) {
    struct effect e = {.type = EFFECT_ALONE, .db = db->name};
    memcpy(e.origin.node, core->id, NODE_ID_BYTES);
    for (uint32_t i = 0; i < db->sources_count; i++) {
        const struct source *s = db->sources[i];
        if (memcmp(s->origin.node, core->id, NODE_ID_BYTES) != 0)
            continue;
        e.origin = s->origin; /* the last epoch */
        e.version = s->delivered;
    }
    core_emit(core, &e);
}

void clock_opened(struct core *core, struct db *db) {
    db->withheld = core->config.clocks;
    db->meeting = 0;
    if (db->withheld && !up(core, NULL))
        alone(core, db);
    clock_settle(core);
}

void clock_settle(struct core *core) {
    if (!core->config.clocks)
        return;
    bool company = up(core, NULL) > 0;
    for (uint32_t i = 0; i < core->dbs_count; i++) {
        struct db *db = core->dbs[i];
        if (!db->open)
            continue;
        if (!company && (!db->withheld || db->meeting)) {
            db->withheld = true;
            db->meeting = 0;
            alone(core, db);
        } else if (company && db->withheld && !db->meeting) {
            db->meeting = ++core->last_number;
            core_emit(core, &(struct effect){.type = EFFECT_MEET, .db = db->name, .request = db->meeting, .offset_ms = core->offset_ms});
        }
    }
}

void clock_met(struct core *core, const char *name, uint64_t request) {
    struct db *db = sync_find(core, name, strlen(name));
    if (!db || !db->open || !db->withheld || db->meeting != request)
        return;
    db->withheld = false;
    db->meeting = 0;
    hold_ready(core, db);
    pull_plan_at(core, db, core->now);
    for (uint32_t i = 0; i < core->links_count; i++)
        pull_serve(core, core->links[i]);
}

/* ---- the future */

bool clock_refuses(struct core *core, struct link *l, struct db *db, const struct batch_head *head) {
    uint64_t bound = hlc_of_ms(clock_cluster_ms(core) + CLOCK_AHEAD_MS), accepted = db->clock + hlc_of_ms(CLOCK_AHEAD_MS);
    if (!core->config.clocks || head->stamp <= bound || head->stamp <= accepted ||
        memcmp(head->origin.node, l->peer->m.id, NODE_ID_BYTES) != 0)
        return false;
    char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8], text[WIRE_TEXT_MAX];
    snprintf(text, sizeof text, "%s: version %llu of %s is stamped %llu s in the future, and was not stamped anew: set its clock", db->name,
             (unsigned long long)head->version, greet_who(l, who, sizeof who),
             (unsigned long long)(hlc_ms(head->stamp) - clock_cluster_ms(core)) / 1000);
    greet_refuse(core, l, text);
    return true;
}
