/* The opening of a link: HELLO both ways, refusals, links to ourselves, duplicates. And its end. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define WHO_BYTES (CORE_NAME_MAX + CORE_ADDRESS_MAX + 8)

struct link *greet_link(const struct core *core, uint64_t id) {
    uint32_t low = 0, high = core->links_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (core->links[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < core->links_count && core->links[low]->id == id ? core->links[low] : NULL;
}

const char *greet_who(const struct link *l, char *out, size_t cap) {
    if (l->peer && l->peer->m.name[0])
        snprintf(out, cap, "\"%s\" (%s)", l->peer->m.name, l->address);
    else
        snprintf(out, cap, "%s", l->address);
    return out;
}

/* ---- blocking */

bool greet_blocked(const struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    for (uint32_t i = 0; i < core->blocked_count; i++)
        if (memcmp(core->blocked[i], id, NODE_ID_BYTES) == 0)
            return true;
    return false;
}

static void unblock(struct core *core, const uint8_t id[NODE_ID_BYTES]) {
    for (uint32_t i = 0; i < core->blocked_count; i++)
        if (memcmp(core->blocked[i], id, NODE_ID_BYTES) == 0)
            memmove(core->blocked[i], core->blocked[--core->blocked_count], NODE_ID_BYTES);
}

static void refuse_blocked(struct core *core, struct link *l, const uint8_t id[NODE_ID_BYTES]) {
    char text[WIRE_TEXT_MAX], hex[ORIGIN_TEXT_BYTES];
    const struct peer *p = member_find(core, id);
    struct origin o = {0};
    memcpy(o.node, id, NODE_ID_BYTES);
    snprintf(text, sizeof text, "peer \"%s\" is blocked on \"%s\": starling peers unblock there lets it in again",
             p && p->m.name[0] ? p->m.name : origin_text(&o, hex), core->config.name);
    greet_refuse(core, l, text);
}

void greet_block(struct core *core, const uint8_t id[NODE_ID_BYTES], bool block) {
    struct peer *p = member_find(core, id);
    if (!block)
        unblock(core, id);
    if (block && !greet_blocked(core, id) && core->blocked_count < BLOCKED_MAX) {
        uint8_t(*more)[NODE_ID_BYTES] = realloc(core->blocked, (core->blocked_count + 1u) * sizeof *more);
        if (!more)
            return;
        core->blocked = more;
        memcpy(more[core->blocked_count++], id, NODE_ID_BYTES);
    }
    if (p && block && p->link)
        refuse_blocked(core, p->link, id);
    if (p)
        member_refresh(core, p, false);
    if (p && !block)
        dial_soon(core, &p->dialling, 0);
}

/* ---- the opening */

static size_t host_len(const char *address) {
    const char *colon = strrchr(address, ':');
    return colon ? (size_t)(colon - address) : strlen(address);
}

static void say_hello(struct core *core, struct link *l) {
    const struct core_config *c = &core->config;
    struct wire_hello h = {.protocol = PROTOCOL_VERSION,
                           .cluster = {c->cluster, strlen(c->cluster)},
                           .name = {c->name, strlen(c->name)},
                           .advertise = {c->advertise, strlen(c->advertise)},
                           .incarnation = core->incarnation,
                           .wall_ms = clock_cluster_ms(core),
                           .dial = l->dial,
                           .seen = {l->address, host_len(l->address)},
                           .card = core->card,
                           .card_len = core->card_len,
                           .flags = (core->paused ? WIRE_PAUSED : 0u) | (clock_company(core, l) ? WIRE_COMPANY : 0u)};
    l->issue = core->issue;
    stream_begin(core);
    announce_hello(core, &core->scratch, &h);
    stream_send(core, l);
}

void greet_open(struct core *core, const struct event *e) {
    uint64_t id = e->link;
    assert(id != 0);
    assert(e->key);
    assert(!greet_link(core, id));
    struct link *l = link_new(id, e->dial, e->address, e->key);
    if (!l || core->phase != CORE_RUNNING || !core_grow(&core->links, &core->links_cap, core->links_count)) {
        link_free(l);
        core_emit(core, &(struct effect){
                            .type = EFFECT_CLOSE, .link = id, .text = core->phase == CORE_RUNNING ? "out of memory" : "this node stops"});
        return;
    }
    uint32_t at = core->links_count;
    while (at > 0 && core->links[at - 1]->id > id) {
        core->links[at] = core->links[at - 1];
        at--;
    }
    core->links[at] = l;
    core->links_count++;
    l->opened_ms = l->received_ms = core->now;
    core_arm(core, core->now + HELLO_TIMEOUT_MS);
    uint8_t peer[NODE_ID_BYTES];
    node_id_of_key(peer, e->key);
    if (e->local)
        gossip_host(core, e->local, host_len(e->local), NULL);
    if (greet_blocked(core, peer))
        refuse_blocked(core, l, peer); /* it hears that instead of a HELLO */
    else
        say_hello(core, l);
}

/* ---- the end */

/* The link carries nothing any more: everyone who counted on it learns so. */
static void down(struct core *core, struct link *l) {
    struct peer *p = l->peer;
    if (p && p->link == l) {
        p->sent_bytes += l->sent_bytes;
        p->received_bytes += l->received_bytes;
        p->last_seen_ms = l->received_ms;
        for (uint32_t i = 0; i < p->dbs_count; i++)
            p->dbs[i].known = false;
        call_link_down(core, l);
        pull_link_down(core, l);
        member_unlinked(core, p, core->phase != CORE_RUNNING);
        core_arm(core, core->now); /* seeds rest while it lasts */
    }
    l->peer = NULL;
    clock_settle(core);
}

void greet_close(struct core *core, struct link *l, int bye, const char *why) {
    if (l->state != LINK_GREETING && l->state != LINK_UP)
        return;
    bool greeting = l->state == LINK_GREETING;
    link_advance(l, LINK_CLOSING);
    if (bye && !greeting) {
        stream_begin(core);
        wire_pack_bye(&core->scratch, (enum wire_type)bye);
        stream_send(core, l);
    }
    core_emit(core, &(struct effect){.type = EFFECT_CLOSE, .link = l->id, .text = why});
    if (greeting)
        dial_failed(core, l->dial, why, true);
    else
        down(core, l);
}

void greet_closed(struct core *core, uint64_t id, const char *why) {
    struct link *l = greet_link(core, id);
    if (!l)
        return;
    char who[WHO_BYTES];
    if (l->state == LINK_UP)
        core_log(core, 2, "%s: connection lost: %s", greet_who(l, who, sizeof who), why ? why : "closed");
    bool greeting = l->state == LINK_GREETING;
    link_advance(l, LINK_GONE);
    if (greeting)
        dial_failed(core, l->dial, why ? why : "closed before HELLO", false);
    else
        down(core, l);
    uint32_t at = 0;
    while (core->links[at] != l)
        at++;
    core->links_count--;
    memmove(core->links + at, core->links + at + 1, (core->links_count - at) * sizeof *core->links);
    link_free(l);
}

void greet_refuse(struct core *core, struct link *l, const char *text) {
    core_log_once(core, 1, "%s", text);
    stream_begin(core);
    wire_pack_refuse(&core->scratch, text);
    stream_send(core, l);
    greet_close(core, l, 0, text);
}

void greet_garbage(struct core *core, struct link *l, const uint8_t *data, size_t len) {
    char start[24], text[WIRE_TEXT_MAX];
    wire_clean(start, sizeof start, (const char *)data, len < 16 ? len : 16);
    snprintf(text, sizeof text, "%s is not a Starling peer: it began with \"%s\", not with a HELLO", l->address, start);
    core_log_once(core, 1, "%s", text);
    greet_close(core, l, 0, text);
}

/* ---- HELLO */

/* Where the peer can be dialled: what it advertises, with the host that its link came from where it names none. */
static void address_of(const struct link *l, const struct wire_hello *h, char out[CORE_ADDRESS_MAX]) {
    char advertised[CORE_ADDRESS_MAX], host[CORE_ADDRESS_MAX];
    wire_clean(advertised, sizeof advertised, h->advertise.p, h->advertise.len);
    const char *port = strrchr(advertised, ':');
    size_t host_len = port ? (size_t)(port - advertised) : 0;
    bool any = port && (host_len == 0 || strncmp(advertised, "0.0.0.0:", 8) == 0 || strncmp(advertised, "[::]:", 5) == 0);
    if (advertised[0] == 0) {
        snprintf(out, CORE_ADDRESS_MAX, "%s", l->dial ? l->address : "");
        return;
    }
    if (!any) {
        snprintf(out, CORE_ADDRESS_MAX, "%s", advertised);
        return;
    }
    snprintf(host, sizeof host, "%s", l->address);
    char *colon = strrchr(host, ':');
    if (colon)
        *colon = 0;
    if (strlen(host) + strlen(port) < CORE_ADDRESS_MAX) {
        memcpy(out, host, strlen(host));
        memcpy(out + strlen(host), port, strlen(port) + 1);
    } else {
        out[0] = 0;
    }
}

/* The link is refused, or leads to ourselves: true, and it is closing. */
static bool turned_away(struct core *core, struct link *l, const struct wire_hello *h) {
    char text[WIRE_TEXT_MAX];
    if (h->protocol != PROTOCOL_VERSION) {
        snprintf(text, sizeof text, "peer %s speaks protocol %llu, this node %u: run the same version of starlingd on both", l->address,
                 (unsigned long long)h->protocol, PROTOCOL_VERSION);
        greet_refuse(core, l, text);
        return true;
    }
    if (!wire_text_equal(&h->cluster, core->config.cluster)) {
        char cluster[CORE_NAME_MAX];
        wire_clean(cluster, sizeof cluster, h->cluster.p, h->cluster.len);
        snprintf(text, sizeof text, "peer %s belongs to cluster \"%s\", this node to \"%s\": start one of them with --cluster of the other",
                 l->address, cluster, core->config.cluster);
        greet_refuse(core, l, text);
        return true;
    }
    if (memcmp(l->key, core->config.key, NODE_KEY_BYTES) != 0)
        return false;
    if (h->incarnation >= core->config.incarnation && h->incarnation <= core->incarnation) {
        dial_up(core, l->dial, NULL);
        l->dial = 0; /* decided: it is not a failed attempt */
        greet_close(core, l, 0, "a link to this node itself");
        return true;
    }
    char name[CORE_NAME_MAX];
    wire_clean(name, sizeof name, h->name.p, h->name.len);
    gossip_twin(core, name, l->address);
    snprintf(text, sizeof text,
             "peer %s has the identity of this node (a copied state folder?): stop one of them and delete node.key in its "
             "state folder",
             l->address);
    greet_refuse(core, l, text);
    return true;
}

/* Of two links with one peer, is the new one to be kept? Both sides decide alike. */
static bool newer_wins(const struct core *core, const struct link *old, const struct link *l, const struct peer *p,
                       const struct wire_hello *h) {
    if (h->incarnation > p->m.incarnation)
        return true; /* the process behind the old one is gone */
    if (probe_silence(core, old) >= 2 * (uint64_t)core->config.beat_ms)
        return true;
    bool old_ours = old->dial != 0, new_ours = l->dial != 0;
    if (old_ours != new_ours)
        return new_ours == (memcmp(core->id, p->m.id, NODE_ID_BYTES) < 0);
    return l->serial > old->serial;
}

static void up(struct core *core, struct link *l, struct peer *p, const struct wire_hello *h) {
    link_advance(l, LINK_UP);
    probe_open(core, l);
    l->peer = p;
    dial_up(core, l->dial, p);
    struct member *m = &p->m;
    wire_clean(m->name, sizeof m->name, h->name.p, h->name.len);
    char address[CORE_ADDRESS_MAX] = {0};
    address_of(l, h, address);
    if (address[0]) {
        if (strcmp(address, m->address) != 0)
            p->dialling.self = false;
        memcpy(m->address, address, sizeof address);
    }
    if (h->incarnation > m->incarnation) {
        m->incarnation = h->incarnation;
        p->issue = 0;
        p->left = p->forgotten = false;
        m->card_len = 0;
    }
    if (h->card_len && gossip_take(core, p, h->card, h->card_len) < 0)
        core_log_once(core, 1, "%s: the card that it shows is not its own: others are not told of it", l->address);
    p->met = true;
    p->paused = (h->flags & WIRE_PAUSED) != 0;
    free(p->refused);
    p->refused = NULL;
    clock_hello(core, l, h);
    sync_hello(core, p, h);
    member_linked(core, p, l);
    clock_settle(core);
    char who[WHO_BYTES];
    core_log(core, 2, "%s: connected", greet_who(l, who, sizeof who));
    gossip_host(core, h->seen.p, h->seen.len, m->id);
    overlay_linked(core, l);
    announce_link_up(core, l);
    call_link_up(core, l);
    if (l->state == LINK_UP)
        stream_beat(core, l, 0);
}

/* The other side has a reason to refuse us that our key or address gave it. */
static void refused(struct core *core, struct link *l, const struct wire_text *text) {
    char clean[WIRE_TEXT_MAX], who[WHO_BYTES];
    wire_clean(clean, sizeof clean, text->p, text->len);
    core_log_once(core, 1, "%s refused this node: %s", greet_who(l, who, sizeof who), clean);
    greet_close(core, l, 0, clean);
}

void greet_receive(struct core *core, struct link *l, const uint8_t *frame, size_t len) {
    assert(l->state == LINK_GREETING);
    struct mpk m;
    uint32_t fields = 0;
    struct wire_hello h;
    struct wire_text why;
    int type = wire_type(&m, frame, len, &fields);
    if (type == WIRE_REFUSE && wire_unpack_refuse(&why, &m, fields) == 0) {
        refused(core, l, &why);
        return;
    }
    if (type != WIRE_HELLO || wire_unpack_hello(&h, &m, fields)) {
        greet_garbage(core, l, frame, len);
        return;
    }
    if (turned_away(core, l, &h))
        return;
    struct peer *p = member_take(core, l->key, true);
    if (!p) {
        greet_refuse(core, l, "this node knows as many members as it can: forget some");
        return;
    }
    if (p->left && h.incarnation <= p->m.incarnation) {
        char text[WIRE_TEXT_MAX];
        snprintf(text, sizeof text, "peer %s left the cluster: start it again to let it join", l->address);
        greet_refuse(core, l, text);
        return;
    }
    l->serial = l->dial ? l->dial : h.dial;
    struct link *old = p->link;
    if (old && !newer_wins(core, old, l, p, &h)) {
        dial_up(core, l->dial, p);
        l->dial = 0;
        greet_close(core, l, 0, "a second link with the same peer");
        probe_doubt(core, old); /* is it still there? The next one stays if not */
        return;
    }
    if (old) {
        greet_close(core, old, 0, "a second link with the same peer");
        p->doubt_until_ms = 0;
    }
    up(core, l, p, &h);
}
