#include "proto/member.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define RUMOUR_GRACE_MS 600u /* the same, where others may have to be told, and it to answer, over some steps */
#define REDIAL_GRACE_MS 200u /* a peer lost and refused is called dead after this: others are losing it at this moment too */
#define STABLE_MS 1000u      /* a link that was up this long is redialled at once */

/* ---- the table */

static uint32_t place(const struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    uint32_t low = 0, high = core->peers_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (memcmp(core->peers[middle]->m.id, id, NODE_ID_BYTES) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct peer *member_find(const struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    uint32_t at = place(core, id);
    return at < core->peers_count && memcmp(core->peers[at]->m.id, id, NODE_ID_BYTES) == 0 ? core->peers[at] : NULL;
}

void member_free(struct peer *p) {
    if (!p)
        return;
    sync_peer_release(p);
    free(p->letter);
    free(p->refused);
    free(p);
}

static void take_out(struct core *core, uint32_t at) {
    member_free(core->peers[at]);
    core->peers_count--;
    memmove(core->peers + at, core->peers + at + 1, (core->peers_count - at) * sizeof *core->peers);
}

void member_drop(struct core *core, struct peer *p) {
    assert(!p->told && !p->link);
    take_out(core, place(core, p->m.id));
}

/* May its place be another's? A tombstone's always; else that of one who was only heard of, for one who is there, or where nobody can know all (then what
 * was heard last counts, but for the names in the views); and where nobody can, that of one who was met, for one who is there. */
static bool spare(const struct core *core, const struct peer *p, bool present) {
    if (p->link || p->dialling.dial)
        return false;
    if (p->forgotten || p->left)
        return true;
    return (present && !p->met) || ((present || !p->met) && overlay_spares(core, p));
}

static bool recycle(struct core *core, bool present) {
    uint32_t from = (uint32_t)(core_random(core) % core->peers_count);
    for (uint32_t i = 0; i < core->peers_count; i++) {
        uint32_t at = (from + i) % core->peers_count;
        if (!spare(core, core->peers[at], present))
            continue;
        take_out(core, at);
        return true;
    }
    return false;
}

struct peer *member_take(struct core *core, const uint8_t key[NODE_KEY_BYTES], bool present) {
    uint8_t id[NODE_ID_BYTES];
    node_id_of_key(id, key);
    struct peer *p = member_find(core, id);
    if (p)
        return p;
    if (core->peers_count >= MEMBERS_MAX && !recycle(core, present)) {
        core_log_once(core, 1, "more than %u members: the others are not taken in; forget those that are gone", MEMBERS_MAX);
        return NULL;
    }
    if (!core_grow(&core->peers, &core->peers_cap, core->peers_count))
        return NULL;
    p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    memcpy(p->m.id, id, sizeof id);
    memcpy(p->m.key, key, NODE_KEY_BYTES);
    p->m.state = MEMBER_DEAD;
    uint32_t at = place(core, id);
    memmove(core->peers + at + 1, core->peers + at, (core->peers_count - at) * sizeof *core->peers);
    core->peers[at] = p;
    core->peers_count++;
    return p;
}

/* ---- states */

static enum member_state state_of(struct core *core, const struct peer *p) {
    if (greet_blocked(core, p->m.id))
        return MEMBER_BLOCKED;
    if (p->forgotten && !p->link)
        return MEMBER_FORGOTTEN;
    if (p->left)
        return MEMBER_LEFT;
    if (p->link)
        return probe_silent(core, p->link) ? MEMBER_SUSPECT : MEMBER_ALIVE;
    if (core->now < p->doubt_until_ms) {
        core_arm(core, p->doubt_until_ms);
        return MEMBER_SUSPECT;
    }
    if (core->overlay.on)
        return p->rumour == RUMOUR_ALIVE ? MEMBER_ALIVE : p->rumour == RUMOUR_SUSPECT ? MEMBER_SUSPECT : MEMBER_DEAD;
    return p->vouchers_count ? MEMBER_ALIVE : MEMBER_DEAD;
}

/* It was in doubt, and did not come back: all are told. */
static void settle(struct core *core, struct peer *p) {
    if (!core->overlay.on || p->link || !p->doubt_until_ms || core->now < p->doubt_until_ms)
        return;
    p->doubt_until_ms = 0;
    if (p->rumour != RUMOUR_ALIVE && p->rumour != RUMOUR_SUSPECT)
        return;
    p->rumour = RUMOUR_DEAD;
    gossip_soon(core, p);
}

void member_refresh(struct core *core, struct peer *p, bool changed) {
    settle(core, p);
    enum member_state state = state_of(core, p);
    if (state == p->m.state && !changed && p->told)
        return;
    if (p->link && state != p->m.state && p->told)
        gossip_soon(core, p); /* who is suspect here is vouched for no longer */
    p->m.state = state;
    p->told = true;
    overlay_news(core);
    core_emit(core, &(struct effect){.type = EFFECT_MEMBER, .member = &p->m, .peer = p->m.id});
}

void member_remember(struct core *core, const struct member *m) {
    if (memcmp(m->key, core->config.key, NODE_KEY_BYTES) == 0)
        return;
    struct peer *p = member_take(core, m->key, false);
    if (!p || p->link || p->told)
        return;
    wire_clean(p->m.name, sizeof p->m.name, m->name, strnlen(m->name, sizeof m->name));
    wire_clean(p->m.address, sizeof p->m.address, m->address, strnlen(m->address, sizeof m->address));
    p->m.incarnation = m->incarnation;
    p->left = m->state == MEMBER_LEFT;
    p->met = true;
    if (m->card_len && m->card_len <= CARD_BYTES_MAX)
        gossip_take(core, p, m->card, m->card_len);
    p->forgotten = m->state == MEMBER_FORGOTTEN;
    p->told = true; /* the caller knows what it remembers */
    p->m.state = state_of(core, p);
    dial_soon(core, &p->dialling, 0);
}

void member_forget(struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    struct peer *p = member_find(core, id);
    if (!p || p->forgotten)
        return;
    p->forgotten = true;
    p->vouchers_count = 0;
    gossip_soon(core, p);
    if (p->link)
        greet_close(core, p->link, 0, "forgotten");
    member_refresh(core, p, true);
}

void member_linked(struct core *core, struct peer *p, struct link *l) {
    assert(!p->link);
    p->link = l;
    core->links_changed++;
    core->linked_ms = core->now;
    p->lost = false;
    p->doubt_until_ms = 0;
    if (!core->overlay.on)
        gossip_soon(core, p);
    member_refresh(core, p, true);
}

void member_decided(struct core *core, struct peer *p) {
    bool said = p->rumour == RUMOUR_ALIVE || p->rumour == RUMOUR_SUSPECT;
    if (!core->overlay.on || !said || p->link)
        p->doubt_until_ms = 0;
    else if (p->rumour == RUMOUR_ALIVE) /* a link over which nothing came may have been at fault */
        overlay_doubt(core, p);
    member_refresh(core, p, false);
}

void member_unvouched(struct core *core, struct peer *p, uint32_t i) {
    p->vouchers[i] = p->vouchers[--p->vouchers_count];
    if (!p->vouchers_count && !p->link && p->doubt_until_ms <= core->now && !core->overlay.on)
        p->doubt_until_ms = core->now + core->config.dead_ms - core->config.suspect_ms;
}

void member_unreached(struct core *core, struct peer *p) {
    uint64_t until = core->now + (core->overlay.on ? RUMOUR_GRACE_MS : REDIAL_GRACE_MS);
    if (p->doubt_until_ms > until && (p->lost || !core->overlay.on))
        p->doubt_until_ms = until;
    overlay_unreached(core, p);
    member_refresh(core, p, false);
}

void member_unlinked(struct core *core, struct peer *p, bool bye) {
    struct link *l = p->link;
    assert(l);
    p->link = NULL;
    core->links_changed++;
    p->current = false;
    p->lost = !bye && !p->parted;
    p->doubt_until_ms = p->lost ? core->now + core->config.dead_ms : 0;
    gossip_unvouch(core, l->id);
    overlay_unlinked(core, p, bye);
    if (!core->overlay.on)
        gossip_soon(core, p);
    else if (p->lost && p->rumour == RUMOUR_ALIVE)
        overlay_doubt(core, p);
    member_refresh(core, p, false);
    dial_again(core, &p->dialling, core->now - l->opened_ms >= STABLE_MS);
}

void member_timers(struct core *core) {
    for (uint32_t i = 0; i < core->peers_count; i++)
        if (core->peers[i]->told)
            member_refresh(core, core->peers[i], false);
}
