#include "proto/overlay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"
#include "proto/err.h"

#define LOOK_MS 100u    /* between two looks at how many there are */
#define IDLE_MS 3000u   /* a link that nobody needs is closed after this */
#define BUSY_MS 50u     /* then it is looked at again whether something is still being fetched over it */
#define VISIT_MS 10000u /* a quarter more or less */
#define PROVE_MS 500u   /* the same, of those of whom nothing proves that they live, where all others would be few */
#define SEARCH_MS 1000u
#define SEARCH 32u      /* members asked at a time by who has nobody */
#define LETTER_MS 5000u /* what is to be said waits so long for its link */

void overlay_init(struct core *core) { core->overlay.look_ms = core->overlay.visit_ms = UINT64_MAX; }

/* ---- how many there are */

/* By all that is said. */
static bool said(const struct peer *p) {
    if (p->left || p->forgotten)
        return false;
    return p->m.state == MEMBER_ALIVE || p->m.state == MEMBER_SUSPECT ||
           ((p->rumour == RUMOUR_ALIVE || p->rumour == RUMOUR_SUSPECT) && p->m.state != MEMBER_BLOCKED);
}

static uint32_t links_up(const struct core *core, bool overlays) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < core->links_count; i++)
        n += core->links[i]->state == LINK_UP && (!overlays || core->links[i]->peer->overlays);
    return n;
}

/* Anybody can announce members, and sign for them; only of those that live there can be links. In a mesh these are ours, or (where
 * neither can dial the other) those of most others; where a node has few links, whoever could not be reached does not count. */
static uint32_t count(const struct core *core, bool on) {
    uint32_t n = 1, links = links_up(core, false), most = (links < VOUCHERS_MAX ? links : VOUCHERS_MAX) / 2 + 1;
    for (uint32_t i = 0; i < core->peers_count; i++) {
        const struct peer *p = core->peers[i];
        bool proven = p->link || (!p->unreached && (on || p->met)) || (!on && p->vouchers_count > 1 && p->vouchers_count >= most);
        n += said(p) && proven;
    }
    return n;
}

static uint32_t least(const struct core *core) { return core->config.mesh_max / 5 * 4; }

static bool many(const struct core *core, uint32_t n) { return core->overlay.on ? n >= least(core) : n > core->config.mesh_max; }

void overlay_news(struct core *core) {
    struct overlay *o = &core->overlay;
    uint64_t at = o->looked_ms + LOOK_MS > core->now ? o->looked_ms + LOOK_MS : core->now;
    if (at < o->look_ms)
        o->look_ms = at;
    core_arm(core, o->look_ms);
}

/* ---- saying */

static void pack_known(struct core *core, const hyparview_id id) {
    const struct peer *p = member_find(core, id);
    struct wire_member m = {.card = core->card, .card_len = core->card_len, .flags = WIRE_ALIVE};
    if (p) {
        m.card = p->m.card;
        m.card_len = p->m.card_len;
        m.flags = gossip_flags(core, p);
    }
    wire_pack_member(&core->scratch, &m);
}

static bool known(const struct core *core, const hyparview_id id) {
    const struct peer *p = member_find(core, id);
    return p ? p->m.card_len > 0 : memcmp(id, core->id, NODE_ID_BYTES) == 0;
}

static void send(struct core *core, struct link *l, const struct hyparview_message *m) {
    uint32_t ids = 0;
    for (uint32_t i = 0; i < m->ids_count; i++)
        ids += known(core, m->ids[i]);
    if (l->state != LINK_UP || !stream_room(core, l))
        return; /* views mend themselves */
    stream_begin(core);
    size_t at = wire_pack_overlay(&core->scratch,
                                  &(struct wire_overlay){.kind = m->type, .steps = m->steps, .urgent = m->urgent, .members_count = ids});
    for (uint32_t i = 0; i < m->ids_count; i++)
        if (known(core, m->ids[i]))
            pack_known(core, m->ids[i]);
    wire_pack_path(&core->scratch, m->path, m->path_count);
    wire_end(&core->scratch, at);
    stream_send(core, l);
}

static void say(struct core *core, struct link *l, unsigned kind, uint64_t digest) {
    if (l->state != LINK_UP)
        return;
    stream_begin(core);
    size_t at = wire_pack_overlay(&core->scratch, &(struct wire_overlay){.kind = kind, .digest = digest});
    wire_pack_path(&core->scratch, NULL, 0);
    wire_end(&core->scratch, at);
    stream_send(core, l);
}

/* Over all that the members of a cluster agree on when nothing happens. */
static uint64_t digest(const struct core *core) {
    uint64_t all = gossip_digest(core->id, core->incarnation, core->issue, 0);
    for (uint32_t i = 0; i < core->peers_count; i++) {
        const struct peer *p = core->peers[i];
        if (p->told && p->m.card_len)
            all ^= gossip_digest(p->m.id, p->m.incarnation, p->issue, gossip_flags(core, p) & (WIRE_FORGOTTEN | WIRE_DEAD));
    }
    return all;
}

/* ---- doing what the views want */

static void letter_drop(struct peer *p) {
    free(p->letter);
    p->letter = NULL;
}

/* Dialled for what is to be said there. */
static bool letter_put(struct core *core, struct peer *p, const struct hyparview_message *m) {
    if (p->left || p->forgotten || p->m.state == MEMBER_BLOCKED)
        return false;
    if (!p->letter)
        p->letter = malloc(sizeof *p->letter);
    if (!p->letter)
        return false;
    *p->letter = *m;
    p->wanted_ms = core->now + LETTER_MS;
    if (!p->dialling.dial)
        dial_soon(core, &p->dialling, 0);
    return true;
}

static void neighbour_up(struct core *core, const hyparview_id id) {
    struct peer *p = member_find(core, id);
    plumtree_up(&core->overlay.tree, id);
    if (p)
        p->parted = false;
}

static void neighbour_down(struct core *core, const hyparview_id id) {
    struct peer *p = member_find(core, id);
    plumtree_down(&core->overlay.tree, id);
    if (p)
        p->idle_ms = core->now;
}

/* Carries out what a call on the views asked for; who cannot be spoken to is lost, which may ask for more. */
static void carry_out(struct core *core) {
    struct overlay *o = &core->overlay;
    hyparview_id lost[HYPARVIEW_ACTIONS_MAX];
    uint32_t lost_count = 0;
    for (;;) {
        struct hyparview_out todo = o->out; /* a link that breaks while it is spoken to asks for more, too */
        o->out.count = 0;
        for (uint32_t i = 0; i < todo.count; i++) {
            const struct hyparview_action *a = &todo.actions[i];
            struct peer *p = member_find(core, a->id);
            if (a->what == HYPARVIEW_UP)
                neighbour_up(core, a->id);
            else if (a->what == HYPARVIEW_DOWN)
                neighbour_down(core, a->id);
            else if (p && p->link)
                send(core, p->link, &a->message);
            else if ((!p || !letter_put(core, p, &a->message)) && lost_count < HYPARVIEW_ACTIONS_MAX)
                memcpy(lost[lost_count++], a->id, NODE_ID_BYTES);
        }
        if (!lost_count)
            break;
        hyparview_lost(&o->views, lost[--lost_count], true, core->now, &o->out);
    }
    core_arm(core, hyparview_deadline(&o->views));
}

/* ---- on and off */

static uint64_t jitter(struct core *core, uint64_t ms) { return ms - ms / 4 + core_random(core) % (ms / 2 + 1); }

static void turn_on(struct core *core, uint32_t n) {
    struct overlay *o = &core->overlay;
    const struct link *contact = NULL;
    o->on = true;
    o->tree = (struct plumtree){0};
    hyparview_init(&o->views, core->id, core_random(core), n, core->now);
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        if (!said(p))
            continue;
        p->rumour = RUMOUR_ALIVE;
        p->idle_ms = core->now;
        hyparview_offer(&o->views, p->m.id);
        if (p->link && (!contact || core_random(core) % 8 == 0))
            contact = p->link;
    }
    o->visit_ms = core->now + jitter(core, VISIT_MS);
    core_log(core, 2, "%u members: from now on this node is linked with %u of them, and the others hear of its changes through these", n,
             o->views.active_max);
    if (contact) {
        hyparview_join(&o->views, contact->peer->m.id, &o->out);
        carry_out(core);
    }
    hyparview_tick(&o->views, core->now, &o->out);
    carry_out(core);
}

static void turn_off(struct core *core, uint32_t n) {
    core->overlay.on = false;
    core->overlay.visit_ms = UINT64_MAX;
    core_log(core, 2, "%u members: from now on this node is linked with all of them", n);
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        letter_drop(p);
        p->overlays = false;
        if (p->link)
            continue;
        if (said(p) && p->m.state == MEMBER_ALIVE) /* its link will tell */
            p->doubt_until_ms = core->now + core->config.dead_ms;
        dial_soon(core, &p->dialling, jitter(core, 200));
    }
}

static void look(struct core *core) {
    struct overlay *o = &core->overlay;
    uint32_t n = count(core, o->on);
    o->look_ms = UINT64_MAX;
    o->looked_ms = core->now;
    if (many(core, n) != o->on) {
        if (o->on)
            turn_off(core, n);
        else
            turn_on(core, n);
    } else if (o->on && hyparview_active_for(n) != o->views.active_max) {
        hyparview_resize(&o->views, n, core->now, &o->out);
        carry_out(core);
    }
}

/* ---- links */

bool overlay_wants(const struct core *core, const struct peer *p) {
    const struct overlay *o = &core->overlay;
    if (!o->on || p->letter || core->now < p->wanted_ms)
        return true;
    return hyparview_is_active(&o->views, p->m.id) || hyparview_is_asking(&o->views, p->m.id);
}

bool overlay_content(const struct core *core) { return core->overlay.on && core->overlay.views.active_count > 0; }

void overlay_linked(struct core *core, struct link *l) {
    struct overlay *o = &core->overlay;
    struct peer *p = l->peer;
    enum rumour before = p->rumour;
    p->rumour = RUMOUR_ALIVE;
    p->parted = p->unreached = p->overlays = false;
    p->idle_ms = core->now;
    overlay_news(core);
    if (!o->on) {
        gossip_tell_all(core, l);
        return;
    }
    gossip_soon(core, p);
    say(core, l, WIRE_OVERLAY_SUMMARY, digest(core));
    hyparview_offer(&o->views, p->m.id);
    if (p->letter) {
        struct hyparview_message m = *p->letter;
        letter_drop(p);
        send(core, l, &m);
    }
    if (before == RUMOUR_SUSPECT || before == RUMOUR_DEAD)
        gossip_itself(core, p); /* others will believe nobody else */
    if (before != RUMOUR_DEAD)
        return;
    hyparview_invite(&o->views, p->m.id, core->now, &o->out);
    carry_out(core);
}

void overlay_unlinked(struct core *core, struct peer *p, bool bye) {
    struct overlay *o = &core->overlay;
    overlay_news(core);
    if (!o->on)
        return;
    hyparview_lost(&o->views, p->m.id, !p->parted && !bye, core->now, &o->out);
    carry_out(core);
}

/* Whoever has a link with it tells it, and it says no; else it is dead. */
void overlay_doubt(struct core *core, struct peer *p) {
    p->rumour = RUMOUR_SUSPECT;
    if (p->doubt_until_ms <= core->now)
        p->doubt_until_ms = core->now + core->config.dead_ms;
    p->wanted_ms = p->doubt_until_ms;
    if (!p->dialling.dial)
        dial_soon(core, &p->dialling, 0);
    gossip_soon(core, p);
}

void overlay_unreached(struct core *core, struct peer *p) {
    struct overlay *o = &core->overlay;
    p->unreached = true;
    if (!o->on) {
        p->rumour = RUMOUR_NONE;
        return;
    }
    overlay_news(core);
    letter_drop(p);
    p->wanted_ms = 0;
    if (p->rumour == RUMOUR_ALIVE)
        overlay_doubt(core, p);
    hyparview_lost(&o->views, p->m.id, true, core->now, &o->out);
    carry_out(core);
}

/* Closes what nobody needs; what is being fetched is needed. */
static void sweep(struct core *core) {
    for (uint32_t i = 0; i < core->links_count; i++) {
        struct link *l = core->links[i];
        if (l->state != LINK_UP)
            continue;
        struct peer *p = l->peer;
        if (overlay_wants(core, p))
            p->idle_ms = core->now;
        if (core->now < p->idle_ms + IDLE_MS) {
            if (!hyparview_is_active(&core->overlay.views, p->m.id))
                core_arm(core, p->idle_ms + IDLE_MS);
            continue;
        }
        if (l->pulls || l->ranges_count || l->bulk_count || call_under_way(core, l)) {
            core_arm(core, core->now + BUSY_MS);
            continue;
        }
        send(core, l, &(struct hyparview_message){.type = HYPARVIEW_DISCONNECT});
        p->parted = true;
        greet_close(core, l, 0, "not a neighbour of this node");
    }
}

static void visit(struct core *core, struct peer *p) {
    p->wanted_ms = core->now + LETTER_MS;
    p->dialling.backoff_ms = 0;
    dial_soon(core, &p->dialling, 0);
}

void overlay_visit(struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    struct peer *p = member_find(core, id);
    struct link *l = p ? p->link : NULL;
    if (l && l->state == LINK_UP && core->now >= l->visited_ms + core->config.ack_ms && stream_room(core, l)) {
        l->visited_ms = core->now;
        stream_beat(core, l, WIRE_BEAT_ASK); /* what it has not told yet comes before the answer */
    }
    if (core->overlay.on && p && !p->link && !p->dialling.dial && core->now >= p->wanted_ms && core->now >= p->doubt_until_ms)
        visit(core, p);
}

/* A random one without a link that counts as alive, or does not. */
static struct peer *stranger(struct core *core, bool alive) {
    uint32_t from = core->peers_count ? (uint32_t)(core_random(core) % core->peers_count) : 0;
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[(from + i) % core->peers_count];
        if (!p->link && !p->left && !p->forgotten && p->m.state != MEMBER_BLOCKED && !p->dialling.dial && said(p) == alive)
            return p;
    }
    return NULL;
}

/* Somebody who is only said to be there, when all who were met are not many: are there any others? */
static bool visit_unproven(struct core *core) {
    uint32_t from = core->peers_count ? (uint32_t)(core_random(core) % core->peers_count) : 0;
    bool few = count(core, false) < least(core);
    for (uint32_t i = 0; i < core->peers_count && few; i++) {
        struct peer *p = core->peers[(from + i) % core->peers_count];
        if (p->link || p->met || p->unreached || p->dialling.dial || !said(p))
            continue;
        core->overlay.visit_ms = core->now + jitter(core, PROVE_MS);
        visit(core, p);
        return true;
    }
    return false;
}

/* In turn one that may have died unseen, and one that may live in another part. */
static void visit_somebody(struct core *core) {
    struct overlay *o = &core->overlay;
    if (visit_unproven(core))
        return;
    o->visit_ms = core->now + jitter(core, VISIT_MS);
    if (core->links_count) /* and with somebody who is there members are compared */
        say(core, core->links[core_random(core) % core->links_count], WIRE_OVERLAY_SUMMARY, digest(core));
    bool alive = o->visits++ % 2 == 0;
    struct peer *p = stranger(core, alive);
    if (!p)
        p = stranger(core, !alive);
    if (!p)
        return;
    if (said(p))
        hyparview_offer(&o->views, p->m.id);
    visit(core, p);
}

/* All neighbours and names are lost: others that were once heard of are asked, also such as were called dead. */
static void search(struct core *core) {
    struct overlay *o = &core->overlay;
    o->search_ms = core->now + SEARCH_MS;
    for (uint32_t i = 0; i < SEARCH && core->peers_count; i++) {
        const struct peer *p = core->peers[core_random(core) % core->peers_count];
        if (!p->left && !p->forgotten && p->m.state != MEMBER_BLOCKED)
            hyparview_offer(&o->views, p->m.id);
    }
    hyparview_tick(&o->views, core->now, &o->out);
    carry_out(core);
}

static void letters_expire(struct core *core) {
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        if (p->letter && core->now >= p->wanted_ms)
            letter_drop(p);
        else if (p->letter)
            core_arm(core, p->wanted_ms);
    }
}

void overlay_timers(struct core *core) {
    struct overlay *o = &core->overlay;
    if (core->phase != CORE_RUNNING)
        return;
    if (o->look_ms <= core->now)
        look(core);
    core_arm(core, o->look_ms);
    if (!o->on)
        return;
    if (hyparview_deadline(&o->views) <= core->now) {
        hyparview_tick(&o->views, core->now, &o->out);
        carry_out(core);
    }
    if (o->visit_ms <= core->now)
        visit_somebody(core);
    if (o->views.active_count == 0 && o->search_ms <= core->now)
        search(core);
    if (o->views.active_count == 0)
        core_arm(core, o->search_ms);
    letters_expire(core);
    sweep(core);
    core_arm(core, o->visit_ms);
    core_arm(core, hyparview_deadline(&o->views));
}

/* ---- hearing */

static int take_members(struct core *core, struct link *l, const struct wire_overlay *w, struct hyparview_message *m) {
    struct mpk at = w->members;
    struct wire_member member;
    for (uint32_t i = 0; i < w->members_count; i++) {
        wire_next_member(&at, &member);
        int r = gossip_learn(core, l, &member, m->ids[m->ids_count]);
        if (r < 0)
            return r;
        m->ids_count += r > 0;
    }
    at = w->path;
    for (uint32_t i = 0; i < w->path_count; i++)
        memcpy(m->path[m->path_count++], mpk_bin_exact(&at, NODE_ID_BYTES), NODE_ID_BYTES);
    return 0;
}

/* A node that is a mesh still hears from one that is none. It follows where that can be; who has just come, and met few yet, where most of its
 * peers are none. */
static bool follow(struct core *core, struct link *l) {
    l->peer->overlays = true;
    if (core->overlay.on)
        return true;
    uint32_t n = count(core, false);
    if (n < least(core) && 2 * links_up(core, true) >= links_up(core, false))
        n = count(core, true);
    if (n >= least(core))
        turn_on(core, n);
    return core->overlay.on;
}

static void take_view(struct core *core, struct link *l, const struct hyparview_message *m) {
    struct overlay *o = &core->overlay;
    if (m->type == HYPARVIEW_DISCONNECT)
        l->peer->parted = true;
    if (follow(core, l)) {
        hyparview_receive(&o->views, l->peer->m.id, m, core->now, &o->out);
        carry_out(core);
    } else if (m->type == HYPARVIEW_NEIGHBOR) {
        send(core, l, &(struct hyparview_message){.type = HYPARVIEW_REFUSE});
    }
}

int overlay_receive(struct core *core, struct link *l, const struct wire_overlay *w) {
    struct hyparview_message m = {.steps = w->steps, .urgent = w->urgent};
    int r = take_members(core, l, w, &m);
    if (r || l->state != LINK_UP)
        return r;
    switch (w->kind) {
    case WIRE_OVERLAY_GRAFT:
    case WIRE_OVERLAY_PRUNE: plumtree_told(&core->overlay.tree, l->peer->m.id, w->kind == WIRE_OVERLAY_GRAFT); break;
    case WIRE_OVERLAY_SUMMARY:
        if (w->digest != digest(core))
            say(core, l, WIRE_OVERLAY_TELL, 0);
        follow(core, l);
        break;
    case WIRE_OVERLAY_TELL: gossip_tell_all(core, l); break;
    default:
        if (w->kind >= HYPARVIEW_TYPES)
            return 0;
        m.type = (enum hyparview_type)w->kind;
        take_view(core, l, &m);
        break;
    }
    return 0;
}

/* ---- the tree */

bool overlay_eager(const struct core *core, const struct link *l) {
    return !core->overlay.on || plumtree_eager(&core->overlay.tree, l->peer->m.id);
}

bool overlay_stays(const struct core *core, const struct link *l) {
    return !core->overlay.on || hyparview_is_active(&core->overlay.views, l->peer->m.id);
}

bool overlay_spares(const struct core *core, const struct peer *p) {
    return core->overlay.on && !p->letter && !hyparview_is_known(&core->overlay.views, p->m.id);
}

void overlay_pushed(struct core *core, struct link *l, bool duplicate) {
    if (core->overlay.on && plumtree_pushed(&core->overlay.tree, l->peer->m.id, duplicate))
        say(core, l, WIRE_OVERLAY_PRUNE, 0);
}

void overlay_ask(struct core *core, struct link *l) {
    if (core->overlay.on && plumtree_ask(&core->overlay.tree, l->peer->m.id))
        say(core, l, WIRE_OVERLAY_GRAFT, 0);
}
