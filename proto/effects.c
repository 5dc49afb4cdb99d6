#include "proto/effects.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BYTES_MAX (1u << 30)
#define ARENA_KEPT_MAX (1u << 20) /* memory kept for the next step */
#define NOTHING SIZE_MAX

/* The effect with its pointers as offsets into the arena, which may move while it grows. */
struct effect_slot {
    struct effect e;
    size_t db, text, head, data, peer, member;
};

void effects_init(struct effects *fx) {
    *fx = (struct effects){0};
    buf_init(&fx->arena, ARENA_BYTES_MAX);
}

void effects_settle(struct effects *fx) {
    bytes_unref(fx->lent);
    fx->lent = NULL;
    if (fx->count)
        return;
    fx->first = 0;
    if (fx->arena.cap > ARENA_KEPT_MAX)
        buf_release(&fx->arena);
    else
        buf_clear(&fx->arena);
}

void effects_release(struct effects *fx) {
    effects_settle(fx);
    for (size_t i = 0; i < fx->count; i++)
        bytes_unref(fx->slots[fx->first + i].e.batch);
    free(fx->slots);
    buf_release(&fx->arena);
    *fx = (struct effects){0};
}

static bool reserve(struct effects *fx) {
    if (fx->first + fx->count < fx->cap)
        return true;
    if (fx->first) {
        memmove(fx->slots, fx->slots + fx->first, fx->count * sizeof *fx->slots);
        fx->first = 0;
        return true;
    }
    size_t cap = fx->cap ? fx->cap * 2 : 16;
    struct effect_slot *slots = realloc(fx->slots, cap * sizeof *slots);
    if (!slots)
        return false;
    fx->slots = slots;
    fx->cap = cap;
    return true;
}

static size_t keep(struct effects *fx, const void *p, size_t len) {
    if (!p)
        return NOTHING;
    size_t at = fx->arena.len;
    buf_append(&fx->arena, p, len);
    return at;
}

static size_t keep_text(struct effects *fx, const char *s) { return keep(fx, s, s ? strlen(s) + 1 : 0); }

bool effects_put(struct effects *fx, const struct effect *e) {
    if (!reserve(fx))
        return false;
    size_t mark = fx->arena.len;
    struct effect_slot s = {.e = *e};
    s.db = keep_text(fx, e->db);
    s.text = keep_text(fx, e->text);
    s.head = keep(fx, e->head, e->head ? e->len : 0);
    s.data = keep(fx, e->data, e->data ? e->len : 0);
    s.peer = keep(fx, e->peer, NODE_ID_BYTES);
    s.member = keep(fx, e->member, sizeof *e->member);
    if (fx->arena.failed) {
        fx->arena.failed = 0;
        fx->arena.len = mark;
        return false;
    }
    if (e->type == EFFECT_SEND && e->batch)
        bytes_ref(e->batch);
    fx->slots[fx->first + fx->count++] = s;
    return true;
}

bool effects_take(struct effects *fx, struct effect *out) {
    effects_settle(fx);
    if (!fx->count)
        return false;
    const struct effect_slot *s = &fx->slots[fx->first++];
    fx->count--;
    const uint8_t *arena = fx->arena.data;
    *out = s->e;
    out->db = s->db == NOTHING ? NULL : (const char *)arena + s->db;
    out->text = s->text == NOTHING ? NULL : (const char *)arena + s->text;
    out->head = s->head == NOTHING ? NULL : arena + s->head;
    out->data = s->data == NOTHING ? NULL : arena + s->data;
    out->peer = s->peer == NOTHING ? NULL : arena + s->peer;
    out->member = NULL;
    if (s->member != NOTHING) {
        memcpy(&fx->member, arena + s->member, sizeof fx->member); /* the arena does not align */
        out->member = &fx->member;
    }
    if (out->type == EFFECT_SEND)
        fx->lent = out->batch;
    return true;
}
