/* Whom to dial, and when: seeds for ever, and every member that did not leave, at each of its addresses in turn. Anybody can announce
 * members, so dials to those that were never met have a budget: a burst, which is enough for all of a usual cluster, then some a second. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/core_state.h"

#define BACKOFF_FIRST_MS 200u
#define BACKOFF_MAX_MS 15000u
#define DIAL_LOST_MS 60000u /* an attempt that was never answered */
#define SEEDS_MAX 256u
#define SEED_LOST_MS 1000u
#define SEED_LOOK_MS 60000u /* at the latest */
#define BUDGET_MS 125u      /* one more dial to somebody who was never met */

void dial_soon(struct core *core, struct dialling *d, uint64_t delay_ms) {
    d->next_ms = core->now + delay_ms;
    core_arm(core, d->next_ms);
}

/* A quarter up or down, so that nodes that lost each other together do not dial together. */
static uint64_t jitter(struct core *core, uint64_t ms) { return ms - ms / 4 + core_random(core) % (ms / 2 + 1); }

static void back_off(struct core *core, struct dialling *d, bool refused) {
    d->dial = 0;
    d->backoff_ms = refused || d->backoff_ms > BACKOFF_MAX_MS / 2 ? BACKOFF_MAX_MS : d->backoff_ms ? d->backoff_ms * 2 : BACKOFF_FIRST_MS;
    dial_soon(core, d, jitter(core, d->backoff_ms));
}

void dial_again(struct core *core, struct dialling *d, bool stable) {
    if (!stable) {
        back_off(core, d, false); /* a link that breaks as soon as it is up must not be made in a circle */
        return;
    }
    d->backoff_ms = 0;
    dial_soon(core, d, 0);
}

void dial_seed(struct core *core, const char *address) {
    char clean[CORE_ADDRESS_MAX];
    wire_clean(clean, sizeof clean, address, strlen(address));
    for (uint32_t i = 0; i < core->seeds_count; i++) {
        if (strcmp(core->seeds[i]->address, clean) == 0) { /* asked for again: do not wait */
            core->seeds[i]->dialling.backoff_ms = 0;
            dial_soon(core, &core->seeds[i]->dialling, 0);
            return;
        }
    }
    struct seed *s = NULL;
    if (core->seeds_count < SEEDS_MAX && core_grow(&core->seeds, &core->seeds_cap, core->seeds_count))
        s = calloc(1, sizeof *s);
    if (!s) {
        core_log(core, 1, "%s cannot be joined: too many addresses", clean);
        return;
    }
    memcpy(s->address, clean, sizeof clean);
    core->seeds[core->seeds_count++] = s;
    dial_soon(core, &s->dialling, 0);
}

void dial_free(struct seed *s) {
    free(s->failed);
    free(s);
}

void dial_up(struct core *core, uint64_t dial, const struct peer *peer) {
    if (!dial)
        return;
    for (uint32_t i = 0; i < core->seeds_count; i++) {
        struct seed *s = core->seeds[i];
        if (s->dialling.dial != dial)
            continue;
        s->dialling.dial = 0;
        s->dialling.self = peer == NULL;
        free(s->failed);
        s->failed = NULL;
        s->met = peer != NULL;
        if (peer)
            memcpy(s->id, peer->m.id, sizeof s->id);
        dial_soon(core, &s->dialling, jitter(core, BACKOFF_FIRST_MS)); /* looked at again when that link is lost */
        return;
    }
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        if (p->dialling.dial != dial)
            continue;
        if (peer == p) {
            p->dialling.dial = 0;
        } else {
            p->dialling.self = peer == NULL;
            if (peer)
                core_log_once(core, 1, "%s, where \"%s\" was, answers with another key: a new server, or one that poses as it",
                              p->m.address, p->m.name);
            p->dialling.turn++;
            back_off(core, &p->dialling, false);
        }
        return;
    }
}

void dial_failed(struct core *core, uint64_t dial, const char *why, bool refused) {
    if (!dial)
        return;
    for (uint32_t i = 0; i < core->seeds_count; i++) {
        struct seed *s = core->seeds[i];
        if (s->dialling.dial != dial)
            continue;
        core_log_once(core, refused ? 3 : s->met ? 2 : 1, "%s cannot be reached (%s); trying again", s->address, why ? why : "no answer");
        free(s->failed);
        s->failed = core_text(why ? why : "no answer");
        s->refused = refused;
        back_off(core, &s->dialling, refused);
        return;
    }
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        if (p->dialling.dial != dial)
            continue;
        if (refused && why) {
            free(p->refused);
            p->refused = core_text(why);
        }
        p->dialling.turn++;
        back_off(core, &p->dialling, refused);
        member_unreached(core, p);
        return;
    }
}

static bool due(struct core *core, struct dialling *d) {
    if (d->dial && core->now - d->started_ms >= DIAL_LOST_MS)
        back_off(core, d, false);
    if (d->dial) {
        core_arm(core, d->started_ms + DIAL_LOST_MS);
        return false;
    }
    if (d->next_ms > core->now) {
        core_arm(core, d->next_ms);
        return false;
    }
    return true;
}

static void start(struct core *core, struct dialling *d, const char *address) {
    d->dial = ++core->last_dial;
    d->started_ms = core->now;
    core_arm(core, core->now + DIAL_LOST_MS);
    core_emit(core, &(struct effect){.type = EFFECT_DIAL, .dial = d->dial, .text = address});
}

static bool loopback(const char *address) {
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "localhost:", 10) == 0 || strncmp(address, "[::1]:", 6) == 0;
}

/* Another machine's loopback is not ours. */
static bool usable(const struct core *core, const char *address) {
    if (!address[0] || !loopback(address))
        return address[0] != 0;
    for (uint32_t i = 0; i < core->hosts_count; i++) {
        char own[CORE_ADDRESS_MAX + 1];
        snprintf(own, sizeof own, "%s:", core->hosts[i].host);
        if (core->hosts[i].sure && loopback(own))
            return true;
    }
    return loopback(core->config.advertise);
}

bool dial_address(const struct core *core, const struct peer *p, char out[CORE_ADDRESS_MAX]) {
    const char *list[CARD_ADDRESSES_MAX + 1];
    uint32_t count = 0;
    struct card c = {0};
    if (p->m.address[0])
        list[count++] = p->m.address;
    if (p->m.card_len && card_read(&c, p->m.card, p->m.card_len))
        c.count = 0;
    for (uint32_t i = 0; i < c.count; i++)
        if (strcmp(c.addresses[i], p->m.address) != 0 && usable(core, c.addresses[i]))
            list[count++] = c.addresses[i];
    if (count)
        snprintf(out, CORE_ADDRESS_MAX, "%s", list[p->dialling.turn % count]);
    return count > 0;
}

/* May somebody be dialled who was never met? */
static bool afford(struct core *core) {
    uint64_t more = (core->now - core->dials_ms) / BUDGET_MS;
    core->dials_ms += more * BUDGET_MS;
    core->dials_left = more >= DIALS_BURST - core->dials_left ? DIALS_BURST : core->dials_left + more;
    if (!core->dials_left) {
        core_arm(core, core->dials_ms + BUDGET_MS);
        return false;
    }
    core->dials_left--;
    return true;
}

/* A member that is linked, or being dialled, under this very address needs no second attempt. */
static bool covered(const struct core *core, const struct seed *s) {
    if (s->met) {
        const struct peer *p = member_find(core, s->id);
        if (p && p->link)
            return true;
    }
    for (uint32_t i = 0; i < core->peers_count; i++) {
        const struct peer *p = core->peers[i];
        if (strcmp(p->m.address, s->address) == 0 && !p->left && (p->link || p->dialling.dial))
            return true;
    }
    return false;
}

bool dial_meeting(const struct core *core) {
    for (uint32_t i = 0; i < core->peers_count; i++) {
        const struct peer *p = core->peers[i];
        if (!p->link && p->told && !p->left && !p->forgotten && !p->dialling.self && !p->dialling.backoff_ms &&
            p->m.state != MEMBER_BLOCKED && overlay_wants(core, p))
            return true;
    }
    return false;
}

/* A seed's dial under way leads to that address, and mostly to that member. */
static bool seed_dials(const struct core *core, const char *address) {
    for (uint32_t i = 0; i < core->seeds_count; i++)
        if (core->seeds[i]->dialling.dial && strcmp(core->seeds[i]->address, address) == 0)
            return true;
    return false;
}

void dial_timers(struct core *core) {
    if (core->phase != CORE_RUNNING)
        return;
    for (uint32_t i = 0; i < core->peers_count; i++) {
        struct peer *p = core->peers[i];
        char address[CORE_ADDRESS_MAX];
        if (p->link || p->left || p->forgotten || p->dialling.self || p->m.state == MEMBER_BLOCKED || !p->told || !overlay_wants(core, p))
            continue;
        if (due(core, &p->dialling) && dial_address(core, p, address) && !seed_dials(core, address) && (p->met || afford(core)))
            start(core, &p->dialling, address);
    }
    for (uint32_t i = 0; i < core->seeds_count; i++) {
        struct seed *s = core->seeds[i];
        if (s->dialling.self)
            continue;
        if (!s->dialling.dial && (covered(core, s) || overlay_content(core))) {
            s->rests = true; /* a link that ends runs the timers */
            core_arm(core, core->now + SEED_LOOK_MS);
            continue;
        }
        if (s->rests)
            dial_soon(core, &s->dialling, jitter(core, SEED_LOST_MS)); /* whom it led to is dialled first */
        s->rests = false;
        if (due(core, &s->dialling))
            start(core, &s->dialling, s->address);
    }
}

bool core_seed(const struct core *core, uint32_t i, struct seed_info *out) {
    if (i >= core->seeds_count)
        return false;
    const struct seed *s = core->seeds[i];
    *out = (struct seed_info){.address = s->address, .failed = covered(core, s) ? NULL : s->failed, .refused = s->refused};
    return true;
}
