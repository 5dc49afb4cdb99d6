/* Starling node: the loop's part in moving content: who is linked, connections that are handed over, dials for content. A peer that cannot
 * be dialled from here is asked, over its link, to dial. */
#include "node/node.h"

#include <stdlib.h>
#include <string.h>

#include "node/content_door.h"

#define DIALS_MAX 64

struct content_dial {
    uint64_t number;
    uint8_t peer[NODE_ID_BYTES];
};

struct content_peers {
    struct node *node;
    struct content_door *door;
    struct content_dial dials[DIALS_MAX]; /* ring: under way, or done */
    uint64_t dial_last;
    uint8_t *linked; /* ids that the door was told of */
    uint32_t linked_count;
    uint64_t looked; /* as of this many changes of links */
};

static bool peer_find(struct node *n, const uint8_t *id, struct peer_info *out) {
    for (uint32_t i = 0; core_peer(n->core, i, out); i++)
        if (memcmp(out->member->id, id, NODE_ID_BYTES) == 0)
            return out->linked;
    return false;
}

static void dial(struct content_peers *p, const uint8_t *id) {
    struct peer_info peer;
    struct door_event failed = {.type = DOOR_DIAL_FAILED};
    memcpy(failed.peer, id, NODE_ID_BYTES);
    if (!peer_find(p->node, id, &peer) || peer.member->address[0] == 0 || p->node->state >= NODE_DRAINING) {
        door_put(p->door, &failed);
        return;
    }
    for (uint32_t i = 0; i < DIALS_MAX; i++)
        if (p->dials[i].number != 0 && memcmp(p->dials[i].peer, id, NODE_ID_BYTES) == 0)
            return; /* under way */
    struct content_dial *d = &p->dials[++p->dial_last % DIALS_MAX];
    d->number = p->dial_last | TRANSPORT_CONTENT;
    memcpy(d->peer, id, NODE_ID_BYTES);
    transport_dial(p->node->transport, d->number, peer.member->address);
}

static void wanted(void *ctx, const uint8_t *id) {
    struct content_peers *p = ctx;
    dial(p, id);
    node_settle(p->node);
}

static void not_answered(void *ctx, uint64_t number, json_t *answer) {
    (void)ctx, (void)number;
    json_decref(answer);
}

/* The core does not hear of it. */
bool content_peers_failed(struct node *n, const struct event *e) {
    struct content_peers *p = n->content_peers;
    if (e->type != EVENT_DIAL_FAILED || (e->dial & TRANSPORT_CONTENT) == 0)
        return false;
    struct content_dial *d = p == NULL ? NULL : &p->dials[(e->dial & ~TRANSPORT_CONTENT) % DIALS_MAX];
    if (d == NULL || d->number != e->dial)
        return true;
    d->number = 0;
    struct door_event failed = {.type = DOOR_DIAL_FAILED};
    memcpy(failed.peer, d->peer, NODE_ID_BYTES);
    door_put(p->door, &failed);
    node_ask_peer(n, d->peer, json_pack("{s:s}", "ask", "content"), not_answered, p);
    return true;
}

void content_peers_asked(struct node *n, const uint8_t *peer) {
    if (n->content_peers != NULL)
        dial(n->content_peers, peer);
}

void content_peers_handed(struct node *n, struct transport_handed *h) {
    struct content_peers *p = n->content_peers;
    struct door_event e = {.type = DOOR_HANDED};
    struct peer_info peer;
    node_id_of_key(e.peer, h->secure.peer);
    bool wrong = false; /* another server answers at the address that a peer has told */
    if (p != NULL && h->dial != 0) {
        struct content_dial *d = &p->dials[(h->dial & ~TRANSPORT_CONTENT) % DIALS_MAX];
        wrong = d->number != h->dial || memcmp(d->peer, e.peer, NODE_ID_BYTES) != 0;
        d->number = 0;
    }
    if (p == NULL || wrong || !peer_find(n, e.peer, &peer)) {
        transport_handed_release(h);
        return;
    }
    e.handed = *h;
    door_put(p->door, &e);
}

static void tell(struct content_peers *p, enum door_event_type type, const uint8_t *id) {
    struct door_event e = {.type = type};
    memcpy(e.peer, id, NODE_ID_BYTES);
    door_put(p->door, &e);
}

static bool among(const uint8_t *ids, uint32_t count, const uint8_t *id) {
    for (uint32_t i = 0; i < count; i++)
        if (memcmp(ids + (size_t)i * NODE_ID_BYTES, id, NODE_ID_BYTES) == 0)
            return true;
    return false;
}

void content_peers_look(struct node *n) {
    struct content_peers *p = n->content_peers;
    struct peer_info peer;
    if (p == NULL || p->looked == core_links_changed(n->core))
        return;
    uint32_t count = 0, max = core_peers(n->core);
    uint8_t *now = malloc((size_t)max * NODE_ID_BYTES + 1);
    if (now == NULL)
        return; /* the next look tells */
    for (uint32_t i = 0; i < max && core_peer(n->core, i, &peer); i++)
        if (peer.linked)
            memcpy(now + (size_t)count++ * NODE_ID_BYTES, peer.member->id, NODE_ID_BYTES);
    for (uint32_t i = 0; i < p->linked_count; i++)
        if (!among(now, count, p->linked + (size_t)i * NODE_ID_BYTES))
            tell(p, DOOR_PEER_DOWN, p->linked + (size_t)i * NODE_ID_BYTES);
    for (uint32_t i = 0; i < count; i++)
        if (!among(p->linked, p->linked_count, now + (size_t)i * NODE_ID_BYTES))
            tell(p, DOOR_PEER_UP, now + (size_t)i * NODE_ID_BYTES);
    free(p->linked);
    p->linked = now;
    p->linked_count = count;
    p->looked = core_links_changed(n->core);
}

void content_peers_bytes(struct node *n, const uint8_t *peer, uint64_t *in, uint64_t *out) {
    *in = *out = 0;
    if (n->content_peers != NULL)
        door_bytes(n->content_peers->door, peer, in, out);
}

struct content_door *content_peers_open(struct node *n) {
    struct content_peers *p = calloc(1, sizeof(*p));
    if (p == NULL || (p->door = door_new(&n->loop, wanted, p)) == NULL) {
        free(p);
        return NULL;
    }
    p->node = n;
    n->content_peers = p;
    return p->door;
}

void content_peers_shut(struct node *n) {
    if (n->content_peers != NULL)
        door_shut(n->content_peers->door);
}

void content_peers_free(struct node *n) {
    struct content_peers *p = n->content_peers;
    if (p == NULL)
        return;
    door_free(p->door);
    free(p->linked);
    free(p);
    n->content_peers = NULL;
}
