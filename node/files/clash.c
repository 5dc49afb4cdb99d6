/* Starling node: two versions of a path of which neither was made knowing the other. Whoever the index lets win stays under the name; the other gets a
 * copy beside it. Its name comes from the version alone, so whoever makes the copy makes the same one. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define COPIES_MAX 99

/* Cuts text to at most max bytes, between characters. */
static size_t cut(const char *text, size_t len, size_t max) {
    if (len <= max)
        return len;
    while (max > 0 && ((unsigned char)text[max] & 0xc0) == 0x80)
        max--;
    return max;
}

void clash_name(const char *path, const struct version *loser, int n, char *out, size_t out_len) {
    const char *name = beneath_name(path), *dot = strrchr(name, '.');
    char words[VERSION_NAME_MAX + 64], day[16], number[16] = "";
    time_t at = (time_t)(loser->at_ms / 1000);
    struct tm tm;
    if (gmtime_r(&at, &tm) == NULL || strftime(day, sizeof(day), "%Y-%m-%d", &tm) == 0)
        snprintf(day, sizeof(day), "undated");
    if (dot == NULL || dot == name)
        dot = name + strlen(name);
    if (n > 1)
        snprintf(number, sizeof(number), " %d", n);
    snprintf(words, sizeof(words), " (conflict %s %s%s)", day, loser->name, number);
    size_t ext = strlen(dot), room = NAME_MAX - strlen(words);
    if (ext > room / 2) /* no extension is so long: a name with a dot somewhere */
        ext = 0;
    size_t stem = strlen(name) - ext;
    stem = cut(name, stem, room - ext);
    snprintf(out, out_len, "%.*s%.*s%s%.*s", (int)(name - path), path, (int)stem, name, words, (int)ext, dot);
}

static void clash_id(const char *path, const struct version *loser, uint8_t id[CONFLICT_ID_BYTES]) {
    crypto_generichash_state h;
    uint8_t out[crypto_generichash_BYTES_MIN], bytes[VERSION_BYTES_MAX];
    size_t len = version_write(loser, bytes);
    crypto_generichash_init(&h, NULL, 0, sizeof(out));
    crypto_generichash_update(&h, (const uint8_t *)path, strlen(path) + 1);
    crypto_generichash_update(&h, bytes, len);
    crypto_generichash_final(&h, out, sizeof(out));
    memcpy(id, out, CONFLICT_ID_BYTES);
}

/* A name that nothing has, here or in the index. */
static bool free_name(struct engine *e, const char *path, const struct version *loser, char *out, size_t out_len) {
    struct version there;
    struct stat st;
    for (int n = 1; n <= COPIES_MAX; n++) {
        clash_name(path, loser, n, out, out_len);
        int r = index_get(e->ix, out, &there, NULL);
        if (r == 0 && root_stat(e, out, &st) == -ENOENT && beneath_path_ok(out, strlen(out)))
            return true;
        if (r == 1 && version_equal(&there, loser))
            return true;
    }
    return false;
}

int clash_note(struct engine *e, const char *path, const struct version *winner, const struct version *loser, bool copies) {
    struct conflict c = {.path = (char *)(uintptr_t)path, .winner = *winner, .loser = *loser};
    char copy[BENEATH_PATH_MAX + NAME_MAX + 1];
    struct version v = *loser, there;
    int mode = 0600, r = index_begin(e->ix);
    clash_id(path, loser, c.id);
    copies = copies && loser->kind != VERSION_FOLDER && loser->kind != VERSION_GONE;
    if (r == 0 && copies && !free_name(e, path, loser, copy, sizeof(copy)))
        r = ERR_CONSTRAINT;
    c.copy = copies ? copy : NULL;
    if (r != 0 || (r = index_conflict_add(e->ix, &c)) != 0)
        return r == 1 ? 0 : r; /* 1: another server was first, or we were before */
    engine_say(e, LOG_WARNING, "%s was changed here and there at once: %s%s%s", path, winner->name,
               copies ? " stays, the other one is " : " stays", copies ? copy : "");
    e->conflicts++;
    if (!copies || index_get(e->ix, copy, &there, NULL) == 1)
        return 0;
    v.rank = RANK_MEANT;
    (void)index_get(e->ix, path, &there, &mode); /* who may not read the one may not read the other */
    r = index_put(e->ix, copy, &v, mode);
    item_show(e, copy, 0);
    return r;
}

/* ---- copies of nothing */

struct copied {
    const char *copy;
    struct conflict found; /* path NULL: none */
    bool later;
};

static void copied_one(void *ctx, const struct conflict *c) {
    struct copied *d = ctx;
    if (d->found.path != NULL || c->copy == NULL || strcmp(c->copy, d->copy) != 0)
        return;
    d->found = *c;
    d->found.path = strdup(c->path);
}

static void later_one(void *ctx, const struct conflict *c) {
    struct copied *d = ctx;
    if (strcmp(c->path, d->found.path) == 0)
        d->later = d->later || version_outdates(&c->winner, &d->found.loser) || version_outdates(&c->loser, &d->found.loser);
}

bool clash_withdraw(struct engine *e, const char *copy, const struct version *v) {
    struct copied d = {.copy = copy};
    struct version there, gone = {.kind = VERSION_GONE};
    struct disk disk;
    if (memcmp(v->by, e->id, sizeof(e->id)) != 0 || index_disk(e->ix, copy, &disk) == 1)
        return false;
    (void)index_conflicts(e->ix, copied_one, &d);
    if (d.found.path == NULL)
        return false;
    (void)index_conflicts(e->ix, later_one, &d);
    d.later = d.later || (index_get(e->ix, d.found.path, &there, NULL) == 1 && version_outdates(&there, v)) ||
              (index_disk(e->ix, d.found.path, &disk) == 1 && version_outdates(&disk.version, v)) ||
              (index_deleted(e->ix, d.found.path, &there) == 1 && version_outdates(&there, v));
    version_knows(&gone, v);
    version_sign(&gone, e->id, e->name, clock_wall_ms());
    bool done = d.later && index_put(e->ix, copy, &gone, 0600) == 0 && index_conflict_decide(e->ix, d.found.id) == 0;
    if (done) {
        engine_say(e, LOG_INFO, "%s: no copy: it was written anew, or deleted, here before anybody had it", copy);
        e->conflicts = index_conflicts_count(e->ix);
        item_show(e, copy, 0);
    }
    free(d.found.path);
    return done;
}
