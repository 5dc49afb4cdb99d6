/* What members are told of members: cards as they came, who is linked, who is forgotten; and what is told of ourselves. */
#include <stdio.h>
#include <string.h>

#include "proto/core_state.h"
#include "proto/err.h"

#define DIAL_LATER_MS 1000u
#define OUTBID_TWIN 3u /* once or twice it may be a run of ours before a clock was set back */

static void arm(struct core *core, uint32_t ms) {
    if (core->now + ms < core->gossip_at)
        core->gossip_at = core->now + ms;
    core_arm(core, core->gossip_at);
}

/* ---- ourselves */

/* host:port as others may dial it; the port is the advertised one. */
static void put_address(struct core *core, struct card *c, const char *host) {
    const char *port = strrchr(core->config.advertise, ':');
    size_t host_len = strlen(host), port_len = port ? strlen(port) : 0;
    if (!port || c->count >= CARD_ADDRESSES_MAX || host_len + port_len >= CORE_ADDRESS_MAX)
        return;
    memcpy(c->addresses[c->count], host, host_len);
    memcpy(c->addresses[c->count++] + host_len, port, port_len + 1);
}

static bool any_host(const char *advertise) {
    return advertise[0] == ':' || strncmp(advertise, "0.0.0.0:", 8) == 0 || strncmp(advertise, "[::]:", 5) == 0;
}

static void sign(struct core *core, bool left) {
    struct card c = {.incarnation = core->incarnation, .issue = ++core->issue, .left = left};
    memcpy(c.key, core->config.key, sizeof c.key);
    memcpy(c.name, core->config.name, sizeof c.name);
    if (core->config.advertise[0] && !any_host(core->config.advertise))
        memcpy(c.addresses[c.count++], core->config.advertise, sizeof c.addresses[0]);
    else
        for (uint32_t i = 0; i < core->hosts_count; i++)
            if (core->hosts[i].sure)
                put_address(core, &c, core->hosts[i].host);
    core->card_len = card_sign(&c, core->config.cluster, core->config.secret, core->card);
}

/* Told soon, not at once: who lies about us needs our latest card for it, and else would make us tell all of each lie. */
void gossip_card(struct core *core) {
    sign(core, false);
    arm(core, core->config.ack_ms);
}

void gossip_host(struct core *core, const char *host, size_t len, const uint8_t *by) {
    struct own_host *h = NULL;
    char clean[CORE_ADDRESS_MAX];
    wire_clean(clean, sizeof clean, host, len);
    if (!clean[0] || !any_host(core->config.advertise))
        return;
    for (uint32_t i = 0; i < core->hosts_count && !h; i++)
        if (strcmp(core->hosts[i].host, clean) == 0)
            h = &core->hosts[i];
    bool sure = !by || (h && memcmp(h->by, by, sizeof h->by) != 0); /* one alone might send others to anybody's door */
    if (h && (h->sure || !sure))
        return;
    if (h)
        memmove(core->hosts + 1, core->hosts, (size_t)(h - core->hosts) * sizeof *h);
    else { /* the latest first; the oldest goes */
        core->hosts_count += core->hosts_count < CARD_ADDRESSES_MAX;
        memmove(core->hosts + 1, core->hosts, (core->hosts_count - 1) * sizeof *h);
    }
    core->hosts[0] = (struct own_host){.sure = sure};
    memcpy(core->hosts[0].host, clean, sizeof clean);
    if (by)
        memcpy(core->hosts[0].by, by, NODE_ID_BYTES);
    if (sure)
        gossip_card(core);
}

/* Two processes with one key push each other out of every link, and neither is served. */
void gossip_twin(struct core *core, const char *name, const char *address) {
    bool told = strcmp(name, core->config.name) != 0 || (address[0] && strcmp(address, core->config.advertise) != 0);
    snprintf(core->twin, sizeof core->twin,
             "another node%s%s%s%s%s has the identity of this node (a copied state folder?): stop one of them and delete node.key in its "
             "state folder",
             told && name[0] ? " \"" : "", told ? name : "", told && name[0] ? "\"" : "", told && address[0] ? " at " : "",
             told ? address : "");
}

/* What is said of ourselves: if it is from a future of ours, or says that we left, we must rise above it. */
static void about_us(struct core *core, const struct card *c, const struct wire_member *w) {
    bool later = c->incarnation > core->incarnation;
    bool over = c->incarnation == core->incarnation && (c->left || (w->flags & (WIRE_FORGOTTEN | WIRE_DEAD | WIRE_DOUBT)));
    if ((!later && !over) || c->incarnation == UINT64_MAX || !card_holds(w->card, w->card_len, core->config.cluster, core->config.key))
        return;
    if (later && ++core->outbid >= OUTBID_TWIN) {
        gossip_twin(core, c->name, c->count ? c->addresses[0] : "");
        core_log_once(core, 0, "%s", core->twin);
    }
    core->incarnation = c->incarnation + 1;
    gossip_card(core);
}

/* ---- hearing */

static void vouch(struct core *core, struct peer *p, const struct link *l, bool linked) {
    uint32_t i = 0;
    while (i < p->vouchers_count && p->vouchers[i] != l->id)
        i++;
    if (!linked && i < p->vouchers_count) {
        member_unvouched(core, p, i);
        if (p->link)
            probe_doubt(core, p->link);
    }
    if (linked && i == p->vouchers_count && i < VOUCHERS_MAX)
        p->vouchers[p->vouchers_count++] = l->id;
    member_refresh(core, p, false);
}

void gossip_unvouch(struct core *core, uint64_t link) {
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        for (uint32_t k = 0; k < p->vouchers_count; k++) {
            if (p->vouchers[k] != link)
                continue;
            member_unvouched(core, p, k);
            member_refresh(core, p, false);
            break;
        }
    }
}

static bool newer(const struct peer *p, const struct card *c) {
    return c->incarnation > p->m.incarnation || (c->incarnation == p->m.incarnation && (c->issue > p->issue || !p->m.card_len));
}

static int take(struct core *core, struct peer *p, const struct card *c, const uint8_t *data, size_t len) {
    char address[CORE_ADDRESS_MAX] = {0};
    if (!newer(p, c))
        return 0;
    if (!card_holds(data, len, core->config.cluster, p->m.key))
        return ERR_MALFORMED;
    if (c->incarnation > p->m.incarnation)
        p->forgotten = false;
    p->m.incarnation = c->incarnation;
    p->issue = c->issue;
    p->left = c->left;
    memcpy(p->m.name, c->name, sizeof p->m.name);
    memcpy(p->m.card, data, len);
    p->m.card_len = (uint16_t)len;
    bool same = false;
    for (uint32_t i = 0; i < c->count; i++)
        same = same || strcmp(c->addresses[i], p->m.address) == 0;
    p->dialling.turn = same ? 0 : 1; /* where it is now comes before where it was */
    if (!p->m.address[0] && dial_address(core, p, address))
        memcpy(p->m.address, address, sizeof address);
    return 1;
}

int gossip_take(struct core *core, struct peer *p, const uint8_t *data, size_t len) {
    struct card c;
    if (card_read(&c, data, len) || memcmp(c.key, p->m.key, sizeof c.key) != 0)
        return ERR_MALFORMED;
    return take(core, p, &c, data, len);
}

void gossip_itself(struct core *core, struct peer *p) {
    stream_begin(core);
    size_t at = wire_pack_members(&core->scratch, 1);
    wire_pack_member(&core->scratch, &(struct wire_member){.card = p->m.card, .card_len = p->m.card_len, .flags = WIRE_DEAD});
    wire_end(&core->scratch, at);
    stream_send(core, p->link);
}

/* What goes round of it, at the incarnation that is known here. True: it is news. */
static bool rumour(struct core *core, struct peer *p, bool newer, unsigned flags) {
    if (flags & (WIRE_DEAD | WIRE_DOUBT) && p->link) { /* it is not, and can say so to all */
        gossip_itself(core, p);
        return false;
    }
    if (flags & WIRE_DEAD && (newer || p->rumour != RUMOUR_DEAD)) {
        bool news = p->rumour != RUMOUR_NONE && core->overlay.on;
        p->rumour = RUMOUR_DEAD;
        p->doubt_until_ms = 0;
        return news;
    }
    if (flags & WIRE_DOUBT && p->rumour == RUMOUR_ALIVE && core->overlay.on) {
        p->rumour = RUMOUR_SUSPECT;
        p->doubt_until_ms = core->now + 2 * (uint64_t)core->config.dead_ms; /* whoever began it decides sooner, if he can */
        return true;
    }
    if (flags & WIRE_ALIVE && (newer || p->rumour == RUMOUR_NONE) && p->rumour != RUMOUR_ALIVE) {
        p->rumour = RUMOUR_ALIVE;
        p->doubt_until_ms = 0;
        return core->overlay.on;
    }
    return false;
}

int gossip_learn(struct core *core, struct link *l, const struct wire_member *w, uint8_t id[NODE_ID_BYTES]) {
    struct card c;
    bool forgotten = w->flags & WIRE_FORGOTTEN;
    int r = card_read(&c, w->card, w->card_len);
    if (r)
        return r;
    node_id_of_key(id, c.key);
    if (memcmp(c.key, core->config.key, sizeof c.key) == 0) {
        about_us(core, &c, w);
        return 1;
    }
    struct peer *p = member_take(core, c.key, false);
    if (!p)
        return 0;
    bool itself = l->peer == p, risen = c.incarnation > p->m.incarnation;
    r = take(core, p, &c, w->card, w->card_len);
    if (r < 0) {
        if (!p->told)
            member_drop(core, p);
        return r;
    }
    bool changed = r > 0;
    if (c.incarnation >= p->m.incarnation && !itself)
        changed = rumour(core, p, risen, w->flags) || changed;
    if (forgotten && !p->forgotten && !p->link && c.incarnation >= p->m.incarnation)
        p->forgotten = changed = true;
    if (p->forgotten)
        p->vouchers_count = 0;
    else if (!itself)
        vouch(core, p, l, w->flags & WIRE_LINKED);
    if (changed)
        gossip_soon(core, p);
    member_refresh(core, p, changed);
    if (changed && !p->link) /* the smaller id dials, so that one link is made; the other one in case that it cannot */
        dial_soon(core, &p->dialling, memcmp(core->id, p->m.id, NODE_ID_BYTES) < 0 ? 0 : DIAL_LATER_MS);
    return 1;
}

int gossip_receive(struct core *core, struct link *l, const struct wire_members *w) {
    struct mpk m = w->members;
    struct wire_member member;
    uint8_t id[NODE_ID_BYTES];
    int r = 0;
    for (uint32_t i = 0; i < w->count && r >= 0 && l->state == LINK_UP; i++) {
        wire_next_member(&m, &member);
        r = gossip_learn(core, l, &member, id);
    }
    return r < 0 ? r : 0;
}

/* ---- telling */

void gossip_soon(struct core *core, struct peer *p) {
    p->gossip_due = true;
    arm(core, core->config.ack_ms);
}

unsigned gossip_flags(const struct core *core, const struct peer *p) {
    bool linked = p->link && !probe_silent(core, p->link);
    unsigned flags = (linked ? WIRE_LINKED : 0u) | (p->forgotten ? WIRE_FORGOTTEN : 0u);
    if (core->overlay.on && p->rumour == RUMOUR_SUSPECT && !p->link)
        flags |= WIRE_DOUBT;
    else if (p->m.state == MEMBER_ALIVE || p->m.state == MEMBER_SUSPECT)
        flags |= WIRE_ALIVE;
    else if (core->overlay.on && p->rumour == RUMOUR_DEAD)
        flags |= WIRE_DEAD;
    return flags;
}

uint64_t gossip_digest(const uint8_t id[NODE_ID_BYTES], uint64_t incarnation, uint32_t issue, unsigned flags) {
    uint64_t h = 0xcbf29ce484222325u ^ incarnation;
    for (unsigned i = 0; i < NODE_ID_BYTES; i++)
        h = (h ^ id[i]) * 0x100000001b3u;
    h = (h ^ issue ^ (uint64_t)flags << 32) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static void pack(struct core *core, const struct peer *p) {
    wire_pack_member(&core->scratch, &(struct wire_member){.card = p->m.card, .card_len = p->m.card_len, .flags = gossip_flags(core, p)});
}

static bool to_tell(const struct core *core, uint32_t i, bool all) {
    const struct peer *p = core->peers[i];
    return p->told && p->m.card_len && (all || p->gossip_due);
}

static void tell(struct core *core, struct link *l, bool all) {
    if (!stream_room(core, l)) {
        l->members_due = true;
        return;
    }
    l->members_due = false;
    bool self = l->issue != core->issue && core->card_len; /* else its HELLO had our card, or it was told */
    l->issue = core->issue;
    for (uint32_t i = 0; i < core->peers_count || self;) {
        uint32_t end = i, count = self;
        for (; end < core->peers_count && count < WIRE_MEMBERS_FRAME; end++)
            count += to_tell(core, end, all);
        if (count) {
            stream_begin(core);
            size_t at = wire_pack_members(&core->scratch, count);
            if (self)
                wire_pack_member(&core->scratch, &(struct wire_member){.card = core->card, .card_len = core->card_len});
            for (; i < end; i++)
                if (to_tell(core, i, all))
                    pack(core, core->peers[i]);
            wire_end(&core->scratch, at);
            stream_send(core, l);
        }
        i = end;
        self = false;
    }
}

void gossip_tell_all(struct core *core, struct link *l) { tell(core, l, true); }

void gossip_timers(struct core *core) {
    if (core->now < core->gossip_at) {
        core_arm(core, core->gossip_at);
        return;
    }
    core->gossip_at = UINT64_MAX;
    for (uint32_t i = 0; i < core->links_count; i++)
        if (core->links[i]->state == LINK_UP)
            tell(core, core->links[i], core->links[i]->members_due);
    for (uint32_t i = 0; i < core->peers_count; i++)
        core->peers[i]->gossip_due = false;
}

void gossip_leave(struct core *core) {
    sign(core, true);
    for (uint32_t i = 0; i < core->links_count; i++)
        if (core->links[i]->state == LINK_UP)
            tell(core, core->links[i], false);
}
