#include "proto/member.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define REDIAL_GRACE_MS 200u /* a peer lost and refused is called dead after this: others are losing it at this moment too */
#define OUTBID_TWIN 3u       /* once or twice it may be a run of ours before a clock was set back */
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
    free(p->refused);
    free(p);
}

/* Gives up one tombstone. */
static bool recycle(struct core *core) {
    for (uint32_t i = 0; i < core->peers_count; i++) {
        if (core->peers[i]->forgotten && !core->peers[i]->link) {
            member_free(core->peers[i]);
            core->peers_count--;
            memmove(core->peers + i, core->peers + i + 1, (core->peers_count - i) * sizeof *core->peers);
            return true;
        }
    }
    return false;
}

struct peer *member_take(struct core *core, const uint8_t key[NODE_KEY_BYTES]) {
    uint8_t id[NODE_ID_BYTES];
    node_id_of_key(id, key);
    struct peer *p = member_find(core, id);
    if (p)
        return p;
    if (core->peers_count >= MEMBERS_MAX && !recycle(core)) {
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
    if (p->left)
        return MEMBER_LEFT;
    if (p->link)
        return core->now - p->link->received_ms >= core->config.suspect_ms ? MEMBER_SUSPECT : MEMBER_ALIVE;
    if (p->lost_ms) {
        uint64_t until = p->lost_ms + (p->lost_failed ? REDIAL_GRACE_MS : core->config.dead_ms);
        if (core->now < until) {
            core_arm(core, until);
            return MEMBER_SUSPECT;
        }
    }
    return p->vouchers_count ? MEMBER_ALIVE : MEMBER_DEAD;
}

static void gossip(struct core *core, struct peer *p) {
    p->gossip_due = true;
    uint64_t at = core->now + core->config.ack_ms;
    if (at < core->gossip_at)
        core->gossip_at = at;
    core_arm(core, core->gossip_at);
}

void member_refresh(struct core *core, struct peer *p, bool changed) {
    enum member_state state = state_of(core, p);
    if (state == p->m.state && !changed && p->told)
        return;
    p->m.state = state;
    p->told = true;
    core_emit(core, &(struct effect){.type = EFFECT_MEMBER, .member = &p->m, .peer = p->m.id});
}

void member_remember(struct core *core, const struct member *m) {
    if (memcmp(m->key, core->config.key, NODE_KEY_BYTES) == 0)
        return;
    struct peer *p = member_take(core, m->key);
    if (!p || p->direct || p->forgotten)
        return;
    wire_clean(p->m.name, sizeof p->m.name, m->name, strnlen(m->name, sizeof m->name));
    wire_clean(p->m.address, sizeof p->m.address, m->address, strnlen(m->address, sizeof m->address));
    p->m.incarnation = m->incarnation;
    p->left = m->state == MEMBER_LEFT;
    p->told = true; /* the caller knows what it remembers */
    p->m.state = state_of(core, p);
    dial_soon(core, &p->dialling, 0);
}

void member_left(struct core *core, struct peer *p) {
    if (p->left)
        return;
    p->left = true;
    gossip(core, p);
    member_refresh(core, p, true);
}

void member_forget(struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    struct peer *p = member_find(core, id);
    if (!p || p->forgotten)
        return;
    p->forgotten = p->left = true;
    p->vouchers_count = 0;
    gossip(core, p);
    if (p->link)
        greet_close(core, p->link, 0, "forgotten");
    member_refresh(core, p, true);
}

void member_linked(struct core *core, struct peer *p, struct link *l) {
    assert(!p->link);
    p->link = l;
    p->lost_ms = 0;
    gossip(core, p);
    member_refresh(core, p, true);
}

void member_unlinked(struct core *core, struct peer *p, bool bye) {
    struct link *l = p->link;
    assert(l);
    p->link = NULL;
    p->current = false;
    p->lost_ms = bye ? 0 : core->now;
    p->lost_failed = false;
    for (uint32_t i = 0; i < core->peers_count; i++) { /* its word counts no longer */
        struct peer *other = core->peers[i];
        for (uint32_t k = 0; k < other->vouchers_count; k++) {
            if (other->vouchers[k] != l->id)
                continue;
            other->vouchers[k] = other->vouchers[--other->vouchers_count];
            member_refresh(core, other, false);
            break;
        }
    }
    gossip(core, p);
    member_refresh(core, p, false);
    dial_again(core, &p->dialling, core->now - l->opened_ms >= STABLE_MS);
}

/* ---- gossip */

static void vouch(struct core *core, struct peer *p, const struct link *l, bool linked) {
    uint32_t i = 0;
    while (i < p->vouchers_count && p->vouchers[i] != l->id)
        i++;
    if (!linked && i < p->vouchers_count)
        p->vouchers[i] = p->vouchers[--p->vouchers_count];
    if (linked && i == p->vouchers_count && i < VOUCHERS_MAX)
        p->vouchers[p->vouchers_count++] = l->id;
    member_refresh(core, p, false);
}

/* Two processes with one key push each other out of every link, and neither is served. */
void member_twin(struct core *core, const char *name, const char *address) {
    bool told = strcmp(name, core->config.name) != 0 || (address[0] && strcmp(address, core->config.advertise) != 0);
    snprintf(core->twin, sizeof core->twin,
             "another node%s%s%s%s%s has the identity of this node (a copied state folder?): stop one of them and delete node.key in its "
             "state folder",
             told && name[0] ? " \"" : "", told ? name : "", told && name[0] ? "\"" : "", told && address[0] ? " at " : "",
             told ? address : "");
}

/* What is said of ourselves: if it is from a future of ours, or says that we left, we must rise above it. */
static void about_us(struct core *core, const struct wire_member *w) {
    bool stale = w->incarnation <= core->incarnation || w->incarnation == UINT64_MAX;
    if (!stale && ++core->outbid >= OUTBID_TWIN) {
        char name[CORE_NAME_MAX], address[CORE_ADDRESS_MAX];
        wire_clean(name, sizeof name, w->name.p, w->name.len);
        wire_clean(address, sizeof address, w->address.p, w->address.len);
        member_twin(core, name, address);
        core_log_once(core, 0, "%s", core->twin);
    }
    if (w->incarnation < core->incarnation || (w->incarnation == core->incarnation && !w->left) || w->incarnation == UINT64_MAX)
        return;
    core->incarnation = w->incarnation + 1;
    core->gossip_self = true;
    core->gossip_at = core->now;
    core_arm(core, core->now);
}

static void learn(struct core *core, struct link *l, const struct wire_member *w) {
    if (memcmp(w->key, core->config.key, NODE_KEY_BYTES) == 0) {
        about_us(core, w);
        return;
    }
    struct peer *p = member_take(core, w->key);
    if (!p || (p->forgotten && w->incarnation <= p->m.incarnation))
        return;
    bool itself = l->peer == p;
    bool newer = !p->told || w->incarnation > p->m.incarnation;
    bool changed = newer;
    if (newer) {
        p->m.incarnation = w->incarnation;
        p->left = w->left;
        p->forgotten = false;
        if (!p->link)
            wire_clean(p->m.name, sizeof p->m.name, w->name.p, w->name.len);
    } else if (w->left && !p->left && w->incarnation == p->m.incarnation && !itself) {
        p->left = changed = true; /* at one incarnation the leaving is the later word; if it is wrong, it rises above it */
    }
    char address[CORE_ADDRESS_MAX] = {0};
    wire_clean(address, sizeof address, w->address.p, w->address.len);
    if ((newer || !p->direct) && !itself && address[0] && strcmp(address, p->m.address) != 0 && !p->link) {
        memcpy(p->m.address, address, sizeof address);
        p->dialling.self = false;
        changed = true;
    }
    if (changed)
        gossip(core, p);
    if (!itself)
        vouch(core, p, l, w->linked);
    member_refresh(core, p, changed);
    if (changed) /* the smaller id dials first, so that mostly one link is made */
        dial_soon(core, &p->dialling, memcmp(core->id, p->m.id, NODE_ID_BYTES) < 0 ? 0 : 100);
}

void member_receive(struct core *core, struct link *l, const struct wire_members *w) {
    struct mpk m = w->members;
    struct wire_member member;
    for (uint32_t i = 0; i < w->count; i++) {
        wire_next_member(&m, &member);
        learn(core, l, &member);
    }
}

static bool loopback(const char *address) {
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "localhost:", 10) == 0 || strncmp(address, "[::1]:", 6) == 0;
}

static void pack(struct core *core, const struct link *l, const struct peer *p) {
    /* An address of this machine alone means nothing elsewhere: that member will dial by itself. */
    const char *address = loopback(p->m.address) && !loopback(l->address) ? "" : p->m.address;
    wire_pack_member(&core->scratch, &(struct wire_member){.key = p->m.key,
                                                           .name = {p->m.name, strlen(p->m.name)},
                                                           .address = {address, strlen(address)},
                                                           .left = p->left,
                                                           .linked = p->link != NULL,
                                                           .incarnation = p->m.incarnation});
}

static void pack_self(struct core *core) {
    const struct core_config *c = &core->config;
    wire_pack_member(&core->scratch, &(struct wire_member){.key = c->key,
                                                           .name = {c->name, strlen(c->name)},
                                                           .address = {"", 0}, /* its links know where they lead */
                                                           .incarnation = core->incarnation});
}

static bool to_tell(const struct core *core, uint32_t i, bool all) { return core->peers[i]->told && (all || core->peers[i]->gossip_due); }

static void tell(struct core *core, struct link *l, bool all) {
    if (!stream_room(core, l)) {
        l->members_due = true;
        return;
    }
    l->members_due = false;
    bool self = all || core->gossip_self;
    for (uint32_t i = 0; i < core->peers_count || self;) {
        uint32_t end = i, count = self;
        for (; end < core->peers_count && count < WIRE_MEMBERS_FRAME; end++)
            count += to_tell(core, end, all);
        if (count) {
            stream_begin(core);
            size_t at = wire_pack_members(&core->scratch, count);
            if (self)
                pack_self(core);
            for (; i < end; i++)
                if (to_tell(core, i, all))
                    pack(core, l, core->peers[i]);
            wire_end(&core->scratch, at);
            stream_send(core, l);
        }
        i = end;
        self = false;
    }
}

void member_tell_all(struct core *core, struct link *l) { tell(core, l, true); }

void member_timers(struct core *core) {
    for (uint32_t i = 0; i < core->peers_count; i++)
        if (core->peers[i]->told)
            member_refresh(core, core->peers[i], false);
    if (core->now < core->gossip_at) {
        core_arm(core, core->gossip_at);
        return;
    }
    core->gossip_at = UINT64_MAX;
    for (uint32_t i = 0; i < core->links_count; i++)
        if (core->links[i]->state == LINK_UP)
            tell(core, core->links[i], core->links[i]->members_due);
    core->gossip_self = false;
    for (uint32_t i = 0; i < core->peers_count; i++)
        core->peers[i]->gossip_due = false;
}
