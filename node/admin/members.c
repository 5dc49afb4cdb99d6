/* Starling node: `members`, and the verbs that change who is met: `join`, `forget`, `pause`, `resume`, `stop`. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"
#include "node/files/files.h"
#include "node/allow.h"
#include "node/clock.h"

const char *member_state_text(enum member_state state) {
    static const char *const TEXTS[] = {"alive", "suspect", "dead", "left", "blocked", "forgotten"};
    return TEXTS[state];
}

uint64_t peer_lacks(struct node *n, uint32_t i, const char *db) {
    const struct vv *have = core_vector(n->core, db);
    return have != NULL ? vv_missing(core_acked(n->core, i, db), have) : 0;
}

json_t *peer_json(struct node *n, const struct peer_info *peer) {
    char id[2 * NODE_ID_BYTES + 1], problem[300];
    uint64_t now = clock_mono_ms();
    uint32_t rtt_us = peer->linked ? transport_rtt_us(n->transport, peer->link) : 0;
    const struct database *broken = database_in_error(n);
    uint64_t in, out;
    content_peers_bytes(n, peer->member->id, &in, &out);
    json_t *seen =
        peer->last_seen_ms == 0 ? json_null() : json_integer((json_int_t)(now > peer->last_seen_ms ? now - peer->last_seen_ms : 0));
    json_t *p = json_pack("{s:s, s:s, s:s, s:s, s:I, s:b, s:I, s:I, s:o, s:I, s:I}", "id", identity_hex(peer->member->id, id), "name",
                          peer->member->name, "addr", peer->member->address, "state", member_state_text(peer->member->state), "rtt_us",
                          (json_int_t)(rtt_us != 0 ? rtt_us : peer->rtt_us), "in_sync", peer->in_sync && broken == NULL, "we_lack",
                          (json_int_t)peer->we_lack, "they_lack", (json_int_t)peer->they_lack, "last_seen_ms", seen, "sent_bytes",
                          (json_int_t)(peer->sent_bytes + out), "received_bytes", (json_int_t)(peer->received_bytes + in));
    if (p != NULL && peer->refused != NULL) {
        json_object_set_new(p, "problem", json_string(peer->refused));
        json_object_set_new(p, "refused", json_string(peer->refused));
    } else if (p != NULL && broken != NULL) {
        snprintf(problem, sizeof(problem), "%.250s is in error here", broken->name);
        json_object_set_new(p, "problem", json_string(problem));
    }
    return p;
}

json_t *unreachable_json(struct node *n) {
    struct seed_info seed;
    json_t *list = json_array();
    for (uint32_t i = 0; core_seed(n->core, i, &seed); i++)
        if (seed.failed != NULL)
            json_array_append_new(list, json_pack("{s:s, s:s, s:b}", "addr", seed.address, "error", seed.failed, "refused", seed.refused));
    return list;
}

json_t *peers_json(struct node *n) {
    json_t *list = json_array();
    struct peer_info peer;
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        json_array_append_new(list, peer_json(n, &peer));
    return list;
}

uint32_t alive_count(struct node *n) {
    struct peer_info peer;
    uint32_t count = 1;
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        count += peer.member->state == MEMBER_ALIVE;
    return count;
}

uint32_t member_count(struct node *n) {
    struct peer_info peer;
    uint32_t count = 1;
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++)
        count += peer.member->state != MEMBER_LEFT && peer.member->state != MEMBER_BLOCKED;
    return count;
}

void verb_members(struct conn *c, const json_t *args) {
    struct node *n = c->node;
    char id[2 * NODE_ID_BYTES + 1];
    (void)args;
    const char *advertise = config_text(&n->config, OPTION_ADVERTISE);
    json_t *self = json_pack("{s:s, s:s, s:s, s:s, s:b, s:i, s:b, s:i, s:i, s:i, s:i, s:i}", "id", identity_hex(n->identity.id, id), "name",
                             n->name, "addr", advertise[0] != 0 ? advertise : transport_listen_text(n->transport), "state", "alive", "self",
                             1, "rtt_us", 0, "in_sync", database_in_error(n) == NULL, "we_lack", 0, "they_lack", 0, "last_seen_ms", 0,
                             "sent_bytes", 0, "received_bytes", 0);
    json_t *list = json_array(), *peers = peers_json(n);
    json_array_append_new(list, self);
    json_array_extend(list, peers);
    json_decref(peers);
    conn_done(c, 0, json_pack("{s:o}", "members", list), NULL);
}

void verb_join(struct conn *c, const json_t *args) {
    const json_t *addresses = json_object_get(args, "addresses");
    char host[ADDRESS_HOST_MAX], why[400];
    uint16_t port;
    for (size_t i = 0; i < json_array_size(addresses); i++) {
        const char *text = json_string_value(json_array_get(addresses, i));
        if (text != NULL && strlen(text) < CORE_ADDRESS_MAX && address_parse(text, ADDRESS_PORT, host, &port) == 0 && host[0] != 0 &&
            port != 0)
            continue;
        snprintf(why, sizeof(why), "%.200s: not an address: say HOST or HOST:PORT", text != NULL ? text : "?");
        conn_done(c, 2, NULL, why);
        return;
    }
    if (json_array_size(addresses) == 0) {
        conn_done(c, 2, NULL, "say whom to join: HOST or HOST:PORT");
        return;
    }
    for (size_t i = 0; i < json_array_size(addresses); i++) {
        const char *address = json_string_value(json_array_get(addresses, i));
        if (allow_join(c->node->allow, address, why, sizeof(why)) != 0) {
            conn_done(c, 1, NULL, why);
            return;
        }
        if (c->node->files != NULL)
            files_joining(c->node->files);
        node_join(c->node, address);
    }
    conn_done(c, 0, NULL, NULL);
}

bool member_named(struct conn *c, const char *who, struct member *found) {
    struct peer_info peer;
    uint32_t matches = 0;
    char own[2 * NODE_ID_BYTES + 1];
    identity_hex(core_id(c->node->core), own);
    for (uint32_t i = 0; who != NULL && core_peer(c->node->core, i, &peer); i++) {
        char id[2 * NODE_ID_BYTES + 1];
        identity_hex(peer.member->id, id);
        if (strcmp(peer.member->name, who) != 0 && (strlen(who) < 4 || strncmp(id, who, strlen(who)) != 0))
            continue;
        *found = *peer.member;
        matches++;
    }
    if (matches == 1)
        return true;
    bool itself =
        matches == 0 && who != NULL && (strcmp(c->node->name, who) == 0 || (strlen(who) >= 4 && strncmp(own, who, strlen(who)) == 0));
    conn_done(c, who == NULL ? 2 : 1, NULL,
              who == NULL    ? "say which member"
              : itself       ? "that is this node itself"
              : matches == 0 ? "no such member: see `starling members`"
                             : "several members match: give the id");
    return false;
}

void verb_forget(struct conn *c, const json_t *args) {
    struct member found;
    if (!member_named(c, json_string_value(json_object_get(args, "node")), &found))
        return;
    if (found.state == MEMBER_ALIVE) {
        conn_done(c, 1, NULL, "that member is alive: stop it first, or let it `leave`");
        return;
    }
    log_line(c->node->log, LOG_INFO, NULL, "\"%s\" is forgotten: nobody waits for it any more; if it comes back, it is taken in again",
             found.name);
    struct event e = {.type = EVENT_FORGET, .member = &found};
    node_step(c->node, &e);
    conn_done(c, 0, NULL, NULL);
}

static void exchange(struct conn *c, enum event_type type) {
    struct event e = {.type = type};
    node_step(c->node, &e);
    log_line(c->node->log, LOG_INFO, NULL,
             type == EVENT_PAUSE ? "paused: nothing is exchanged until `starling resume`" : "exchanging again");
    conn_done(c, 0, NULL, NULL);
}

void verb_pause(struct conn *c, const json_t *args) {
    (void)args;
    exchange(c, EVENT_PAUSE);
}

void verb_resume(struct conn *c, const json_t *args) {
    (void)args;
    exchange(c, EVENT_RESUME);
}

void verb_stop(struct conn *c, const json_t *args) {
    (void)args;
    conn_done(c, 0, NULL, NULL);
    node_stop(c->node, false);
}
