#include "proto/probe.h"

#include <string.h>

#include "proto/core_state.h"

#define LATE_MS 20u /* a timer may be this late without meaning anything */
#define TURN_MS 50u /* of two that watch each other one asks so much later: then one question and its answer serve both */
#define EARLY                                                                                                                              \
    8u /* who asks one asks others with it that are due within this part of idle_ms: a node sleeps longer in one piece than in many */
#define DOUBT_MS 100u /* whoever others have lost is suspect when it does not answer within this */

static uint64_t awake(const struct core *core) { return core->now - core->asleep_ms; }

void probe_woke(struct core *core, uint64_t before) {
    uint64_t late = core->deadline < core->now ? core->now - core->deadline : 0;
    if (late >= core->config.beat_ms) /* stopped, we do not know since when */
        core->asleep_ms += core->now - before;
    else if (late >= LATE_MS)
        core->asleep_ms += late;
}

void probe_open(const struct core *core, struct link *l) {
    l->heard_ms = awake(core);
    l->asked = false;
    l->spoke_ms = 0;
}

void probe_heard(const struct core *core, struct link *l) {
    l->received_ms = core->now;
    probe_open(core, l);
}

void probe_spoke(const struct core *core, struct link *l) {
    if (!l->spoke_ms)
        l->spoke_ms = awake(core);
}

uint64_t probe_silence(const struct core *core, const struct link *l) { return l->asked ? awake(core) - l->silent_from_ms : 0; }

bool probe_silent(const struct core *core, const struct link *l) { return probe_silence(core, l) >= core->config.suspect_ms; }

/* Silence counts from then on, though not from before it was last heard. */
static void ask(struct core *core, struct link *l, uint64_t from) {
    if (from < l->heard_ms)
        from = l->heard_ms;
    if (!l->asked || from < l->silent_from_ms)
        l->silent_from_ms = from;
    bool again = l->asked;
    l->asked = true;
    core_arm(core, core->now); /* what the silence means is looked at anew */
    if (!again)
        stream_beat(core, l, WIRE_BEAT_ASK);
}

void probe_doubt(struct core *core, struct link *l) {
    uint64_t now = awake(core), patience = core->config.suspect_ms - DOUBT_MS;
    ask(core, l, now > patience ? now - patience : 0);
}

/* ---- whom we watch */

static struct link *linked(const struct core *core, uint32_t i) { return core->peers[i]->link; }

/* The nearest on the ring in one direction that answers. */
static const struct link *neighbour(const struct core *core, bool up) {
    uint32_t n = core->peers_count, at = 0;
    while (at < n && memcmp(core->peers[at]->m.id, core->id, NODE_ID_BYTES) < 0)
        at++;
    for (uint32_t k = 0; k < n; k++) {
        const struct link *l = linked(core, (up ? at + k : at + n - 1 - k) % n);
        if (l && !probe_silent(core, l))
            return l;
    }
    return NULL;
}

static uint64_t ask_at(const struct core *core, const struct link *l, bool watched) {
    uint64_t at = l->heard_ms + (watched ? core->config.beat_ms : core->config.idle_ms);
    if (memcmp(core->id, l->peer->m.id, NODE_ID_BYTES) > 0)
        at += TURN_MS;
    if (l->spoke_ms && l->spoke_ms + core->config.beat_ms < at)
        at = l->spoke_ms + core->config.beat_ms;
    return at;
}

/* ---- time */

static void silence(struct core *core, struct link *l, uint64_t quiet) {
    struct peer *p = l->peer;
    if (quiet >= core->config.dead_ms) {
        char who[CORE_NAME_MAX + CORE_ADDRESS_MAX + 8];
        core_log(core, 2, "%s has been silent for %u ms", greet_who(l, who, sizeof who), (unsigned)(core->now - l->received_ms));
        greet_close(core, l, 0, "silent");
        member_decided(core, p); /* it was suspect long enough */
        return;
    }
    member_refresh(core, p, false);
    core_arm(core,
             l->silent_from_ms + core->asleep_ms + (quiet >= core->config.suspect_ms ? core->config.dead_ms : core->config.suspect_ms));
}

void probe_timers(struct core *core) {
    uint32_t up = 0;
    for (uint32_t i = 0; i < core->links_count; i++)
        up += core->links[i]->state == LINK_UP;
    const struct link *above = neighbour(core, true), *below = neighbour(core, false);
    uint64_t now = awake(core), quiet = core->config.beat_ms + TURN_MS, early = 0;
    for (uint32_t i = 0; i < core->links_count && !early; i++) {
        const struct link *l = core->links[i];
        if (l->state == LINK_UP && !l->asked && now >= ask_at(core, l, up <= PROBE_ALL || l == above || l == below))
            early = core->config.idle_ms / EARLY;
    }
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (l->state != LINK_UP)
            continue;
        bool watched = up <= PROBE_ALL || l == above || l == below;
        uint64_t at = ask_at(core, l, watched);
        if (!l->asked && now >= at)
            ask(core, l, now > quiet ? now - quiet : 0);
        else if (!l->asked && !watched && !l->spoke_ms && now + early >= at)
            ask(core, l, now);
        else if (!l->asked)
            core_arm(core, at + core->asleep_ms);
        if (l->state == LINK_UP && l->asked)
            silence(core, l, probe_silence(core, l));
    }
}
