/* Starling node: the members that were met, remembered over restarts (see identity.h for the file). */
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/identity.h"
#include "node/statefile.h"
#include "proto/err.h"

struct members {
    char *path;
    uint64_t incarnation;
    struct member *list;
    uint32_t count;
    bool changed;
};

static bool hex_read(const json_t *object, const char *field, uint8_t *out, size_t len) {
    const char *text = json_string_value(json_object_get(object, field));
    size_t got = 0;
    return text != NULL && strlen(text) == 2 * len && sodium_hex2bin(out, len, text, 2 * len, NULL, &got, NULL) == 0 && got == len;
}

static bool text_read(const json_t *object, const char *field, char *out, size_t max) {
    const char *text = json_string_value(json_object_get(object, field));
    return text != NULL && (size_t)snprintf(out, max, "%s", text) < max;
}

static struct member *find(struct members *m, const uint8_t id[NODE_ID_BYTES]) {
    for (uint32_t i = 0; i < m->count; i++)
        if (memcmp(m->list[i].id, id, NODE_ID_BYTES) == 0)
            return &m->list[i];
    return NULL;
}

/* What is remembered of a state: who left or was forgotten is not dialled after a restart either. */
static const char *gone(enum member_state state) { return state == MEMBER_LEFT ? "left" : state == MEMBER_FORGOTTEN ? "forgotten" : NULL; }

static bool append(struct members *m, const struct member *member) {
    for (uint32_t i = 0; m->count >= MEMBERS_MAX && i < m->count; i++)
        if (gone(m->list[i].state) != NULL)
            m->list[i] = m->list[--m->count];
    struct member *list = m->count >= MEMBERS_MAX ? NULL : realloc(m->list, (m->count + 1) * sizeof(*list));
    if (list == NULL)
        return false;
    m->list = list;
    m->list[m->count++] = *member;
    return true;
}

static void state_read(struct member *member, const char *state) {
    if (state != NULL && strcmp(state, "left") == 0)
        member->state = MEMBER_LEFT;
    else if (state != NULL && strcmp(state, "forgotten") == 0)
        member->state = MEMBER_FORGOTTEN;
}

static void card_read_hex(struct member *member, const char *hex) {
    size_t len = 0;
    if (hex != NULL && sodium_hex2bin(member->card, sizeof(member->card), hex, strlen(hex), NULL, &len, NULL) == 0)
        member->card_len = (uint16_t)len;
}

static void take_file(struct members *m, const json_t *file) {
    size_t i;
    json_t *entry;
    m->incarnation = (uint64_t)json_integer_value(json_object_get(file, "incarnation"));
    json_array_foreach(json_object_get(file, "members"), i, entry) {
        struct member member = {.state = MEMBER_DEAD};
        member.incarnation = (uint64_t)json_integer_value(json_object_get(entry, "incarnation"));
        if (hex_read(entry, "id", member.id, sizeof(member.id)) && hex_read(entry, "key", member.key, sizeof(member.key)) &&
            text_read(entry, "name", member.name, sizeof(member.name)) &&
            text_read(entry, "address", member.address, sizeof(member.address)) && find(m, member.id) == NULL) {
            state_read(&member, json_string_value(json_object_get(entry, "state")));
            card_read_hex(&member, json_string_value(json_object_get(entry, "card")));
            append(m, &member);
        }
    }
}

struct members *members_open(const char *state, char *why, size_t why_len) {
    struct members *m = calloc(1, sizeof(*m));
    bool bad = false;
    why[0] = 0;
    if (m == NULL || asprintf(&m->path, "%s/members.json", state) < 0) {
        free(m);
        return NULL;
    }
    json_t *file = statefile_read(m->path, &bad);
    take_file(m, file);
    if (bad)
        snprintf(why, why_len, "%s could not be read and was put aside as members.json.bad: members are learned anew from --join", m->path);
    json_decref(file);
    return m;
}

int members_save(struct members *m) {
    if (!m->changed)
        return 0;
    json_t *list = json_array(), *file = json_pack("{s:I, s:o}", "incarnation", (json_int_t)m->incarnation, "members", list);
    for (uint32_t i = 0; i < m->count && file != NULL; i++) {
        char id[2 * NODE_ID_BYTES + 1], key[2 * NODE_KEY_BYTES + 1], card[2 * CARD_BYTES_MAX + 1];
        const struct member *member = &m->list[i];
        sodium_bin2hex(key, sizeof(key), member->key, sizeof(member->key));
        sodium_bin2hex(card, sizeof(card), member->card, member->card_len);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:I, s:s?, s:s}", "id", identity_hex(member->id, id), "key", key,
                                              "name", member->name, "address", member->address, "incarnation",
                                              (json_int_t)member->incarnation, "state", gone(member->state), "card", card));
    }
    int r = statefile_write(m->path, file);
    m->changed = m->changed && r != 0;
    return r;
}

void members_close(struct members *m) {
    if (m == NULL)
        return;
    members_save(m);
    free(m->list);
    free(m->path);
    free(m);
}

uint64_t members_incarnation(struct members *m, uint64_t wall_ms) {
    m->incarnation = wall_ms > m->incarnation ? wall_ms : m->incarnation + 1;
    m->changed = true;
    members_save(m);
    return m->incarnation;
}

uint32_t members_count(const struct members *m) { return m->count; }

const struct member *members_at(const struct members *m, uint32_t i) { return i < m->count ? &m->list[i] : NULL; }

bool members_put(struct members *m, const struct member *member) {
    struct member *known = find(m, member->id);
    if (known == NULL)
        return m->changed = append(m, member) || m->changed;
    if (strcmp(known->name, member->name) == 0 && strcmp(known->address, member->address) == 0 &&
        known->incarnation == member->incarnation && gone(known->state) == gone(member->state) && known->card_len == member->card_len &&
        memcmp(known->card, member->card, member->card_len) == 0)
        return false; /* who is there is not remembered: after a restart everyone is to be met anew */
    *known = *member;
    return m->changed = true;
}

void members_clear(struct members *m) {
    m->count = 0;
    m->changed = true;
}
