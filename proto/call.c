/* Requests of one application to another over a link, and their answers. */
#include <string.h>

#include "proto/core_state.h"

static void answer(struct core *core, uint64_t request, const uint8_t *peer, const uint8_t *data, size_t len) {
    core_emit(core, &(struct effect){.type = EFFECT_REPLY, .request = request, .peer = peer, .data = data, .len = len});
}

static void send(struct core *core, struct link *l, const struct call *c, const uint8_t *data, size_t len) {
    stream_begin(core);
    wire_pack_call(&core->scratch, WIRE_REQUEST, &(struct wire_call){c->number, data, len});
    stream_send(core, l);
}

void call_request(struct core *core, const uint8_t *peer, uint64_t request, const uint8_t *data, size_t len) {
    const struct peer *p = member_find(core, peer);
    struct link *l = p ? p->link : NULL;
    struct bytes *kept = NULL;
    bool able = p && core->calls_count < CALLS_MAX && len <= FRAME_BYTES_MAX - 1024;
    if (able && !l && core->overlay.on && p->m.state == MEMBER_ALIVE)
        kept = bytes_new(data, len);
    if (!able || (!kept && (!l || !stream_room(core, l)))) {
        answer(core, request, peer, NULL, 0);
        return;
    }
    struct call *c = &core->calls[core->calls_count++];
    *c = (struct call){.request = request, .number = ++core->last_number, .kept = kept, .deadline_ms = core->now + CALL_TIMEOUT_MS};
    memcpy(c->peer, peer, sizeof c->peer);
    core_arm(core, c->deadline_ms);
    if (kept) { /* one of many that are not linked: visited */
        c->deadline_ms = core->now + CALL_VISIT_MS;
        core_arm(core, c->deadline_ms);
        overlay_visit(core, peer);
        return;
    }
    c->link = l->id;
    send(core, l, c, data, len);
}

void call_link_up(struct core *core, struct link *l) {
    for (uint32_t i = 0; i < core->calls_count && l->state == LINK_UP; i++) {
        struct call *c = &core->calls[i];
        if (!c->kept || memcmp(c->peer, l->peer->m.id, NODE_ID_BYTES) != 0)
            continue;
        struct bytes *kept = c->kept;
        c->kept = NULL;
        c->link = l->id;
        c->deadline_ms = core->now + CALL_TIMEOUT_MS;
        core_arm(core, c->deadline_ms);
        send(core, l, c, kept->data, kept->len);
        bytes_unref(kept);
    }
}

bool call_under_way(const struct core *core, const struct link *l) {
    for (uint32_t i = 0; i < core->calls_count; i++)
        if (core->calls[i].link == l->id)
            return true;
    return l->calls > 0;
}

void call_release(struct core *core) {
    while (core->calls_count)
        bytes_unref(core->calls[--core->calls_count].kept);
}

void call_reply(struct core *core, uint64_t link, uint64_t request, const uint8_t *data, size_t len) {
    struct link *l = greet_link(core, link);
    if (!l || l->state != LINK_UP || !l->calls)
        return;
    l->calls--;
    if (len > FRAME_BYTES_MAX - 1024) {
        core_log(core, 0, "%s: an answer of %llu bytes does not fit a frame", l->address, (unsigned long long)len);
        return;
    }
    stream_begin(core);
    wire_pack_call(&core->scratch, WIRE_REPLY, &(struct wire_call){request, data, len});
    stream_send(core, l);
}

static void finish(struct core *core, uint32_t i, const uint8_t *data, size_t len) {
    struct call c = core->calls[i];
    core->calls[i] = core->calls[--core->calls_count];
    bytes_unref(c.kept);
    answer(core, c.request, c.peer, data, len);
}

void call_receive(struct core *core, struct link *l, enum wire_type type, const struct wire_call *w) {
    static const uint8_t empty[1];
    const uint8_t *data = w->data ? w->data : empty;
    if (type == WIRE_REPLY) {
        for (uint32_t i = 0; i < core->calls_count; i++) {
            if (core->calls[i].number == w->number && core->calls[i].link == l->id) {
                finish(core, i, data, w->len);
                return;
            }
        }
        return; /* too late */
    }
    if (l->calls >= LINK_CALLS_MAX) {
        core_log(core, 3, "%s: too many requests at once, one was dropped", l->address);
        return;
    }
    l->calls++;
    core_emit(core, &(struct effect){
                        .type = EFFECT_REQUEST, .link = l->id, .request = w->number, .peer = l->peer->m.id, .data = data, .len = w->len});
}

void call_link_down(struct core *core, const struct link *l) {
    for (uint32_t i = 0; i < core->calls_count;) {
        if (core->calls[i].link == l->id)
            finish(core, i, NULL, 0);
        else
            i++;
    }
}

void call_timers(struct core *core) {
    for (uint32_t i = 0; i < core->calls_count;) {
        if (core->calls[i].deadline_ms <= core->now) {
            finish(core, i, NULL, 0);
            continue;
        }
        core_arm(core, core->calls[i].deadline_ms);
        i++;
    }
}
