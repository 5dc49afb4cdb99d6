/* Starling node: who writes late. An application that had a file open while the file was replaced goes on writing into the old one, which is no longer
 * under its name: it stands among the kept versions. So what was replaced is looked at again, soon and then with every walk (kept_tidy); what was written
 * into it is an edit that did not know of the new version, and gets a copy beside it as any other. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define LOOKS 2
static const uint64_t LOOK_MS[LOOKS] = {2000, 20000};
#define LATE_MAX 4096

struct late {
    char *path, *kept;
    struct content_stamp stamp;
    uint64_t since_ms, scan;
    int looks;
    struct late *prev, *next;
};

struct lates {
    struct late *list;
    uint32_t count;
    uv_timer_t timer;
};

static void look_cb(uv_timer_t *timer);

static void forget(struct lates *l, struct late *one) {
    DL_DELETE(l->list, one);
    l->count--;
    free(one->path);
    free(one->kept);
    free(one);
}

static void arm(struct engine *e) {
    if (e->lates->list != NULL && !e->stopping && !uv_is_active((uv_handle_t *)&e->lates->timer))
        uv_timer_start(&e->lates->timer, look_cb, LOOK_MS[0] / 2, 0);
}

void late_note(struct engine *e, const char *path, const char *kept, const struct content_stamp *stamp) {
    struct lates *l = e->lates;
    struct late *one;
    DL_FOREACH(l->list, one) {
        if (strcmp(one->kept, kept) == 0)
            return;
    }
    one = l->count >= LATE_MAX ? NULL : calloc(1, sizeof(*one)); /* NULL: the next walk finds it */
    if (one == NULL)
        return;
    one->path = strdup(path);
    one->kept = strdup(kept);
    one->stamp = *stamp;
    one->since_ms = clock_mono_ms();
    DL_APPEND(l->list, one);
    l->count++;
    if (one->path == NULL || one->kept == NULL)
        forget(l, one);
    arm(e);
}

static void look(struct engine *e, struct late *one) {
    struct stat st;
    struct content_stamp now;
    if (fstatat(e->kept, one->kept, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        forget(e->lates, one);
        return;
    }
    content_stamp_of(&st, &now);
    bool written = now.size != one->stamp.size || now.mtime_ns != one->stamp.mtime_ns;
    if (written)
        one->scan = content_scan(e->content, ROOT_KEPT, one->kept); /* 0: at the next look */
    else if (++one->looks == LOOKS)
        forget(e->lates, one);
}

static void look_cb(uv_timer_t *timer) {
    struct engine *e = timer->data;
    struct late *one, *next;
    uint64_t now = clock_mono_ms();
    DL_FOREACH_SAFE(e->lates->list, one, next) {
        if (one->scan == 0 && now - one->since_ms >= LOOK_MS[one->looks])
            look(e, one);
    }
    arm(e);
}

struct written {
    const char *name;
    const struct version *now;
    bool same; /* as it was when it was kept, but for its time */
};

static void kept_one(void *ctx, const struct kept *k) {
    struct written *w = ctx;
    if (strcmp(k->name, w->name) == 0)
        w->same = version_equal(&k->version, w->now);
}

/* Into the index: a copy, or, if it was deleted elsewhere and written here at that moment, it lives. */
static int take(struct engine *e, const char *path, struct version *v) {
    struct version there;
    int mode = 0600, r = index_get(e->ix, path, &there, &mode);
    if (r != 1)
        return r < 0 ? r : ERR_NOTFOUND; /* what stands there now is not taken yet: later */
    if (version_equal(&there, v))
        return 0;
    if (there.kind != VERSION_GONE)
        return clash_note(e, path, &there, v, true);
    version_knows(v, &there);
    item_show(e, path, 0);
    return index_put(e->ix, path, v, mode);
}

void late_scanned(struct engine *e, const struct content_scanned *s) {
    struct version v = {.kind = VERSION_FILE, .size = s->stamp.size, .mtime_ns = s->stamp.mtime_ns};
    struct written w = {.now = &v};
    struct late *one;
    DL_FOREACH(e->lates->list, one) {
        if (one->scan == s->number)
            break;
    }
    if (one == NULL)
        return;
    one->scan = 0;
    if (s->error != 0)
        return; /* still being written: at the next look */
    memcpy(v.hash, s->hash, sizeof(v.hash));
    w.name = one->kept;
    (void)index_kept(e->ix, one->path, UINT32_MAX, kept_one, &w);
    version_sign(&v, e->id, e->name, clock_wall_ms());
    if ((!w.same && take(e, one->path, &v) < 0) || index_kept_is(e->ix, one->kept, &v) != 0)
        return;
    one->stamp = s->stamp;
    one->looks = 0;
    one->since_ms = clock_mono_ms(); /* perhaps it goes on */
}

int late_open(struct engine *e) {
    if ((e->lates = calloc(1, sizeof(*e->lates))) == NULL)
        return ERR_NOMEM;
    e->lates->timer.data = e;
    return uv_timer_init(&e->loop, &e->lates->timer);
}

void late_close(struct engine *e) {
    while (e->lates != NULL && e->lates->list != NULL)
        forget(e->lates, e->lates->list);
    free(e->lates);
    e->lates = NULL;
}
