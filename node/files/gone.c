/* Starling node: what is missing. An event that tells of a deletion is believed; what a walk finds missing was perhaps deleted while nobody watched, and
 * perhaps a disk is not mounted. So folders are halted that vanished whole: one on another device than it was, or where far more is gone than people delete.
 * Nothing of a halted folder is told to the others, nor put there, until it is back, or somebody says that this is meant (`files accept`).
 *
 * Possible failures: that a folder is halted cannot be noted: then nothing that is missing counts as deleted, and the next walk judges it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/files/engine.h"
#include "proto/err.h"

#define GONE_MIN 20 /* found missing by a walk, more than this and a tenth: not taken for deletions */
#define LIFT_PAGES 64

struct left {
    char *path;
    uint64_t walks; /* that had begun when it was noted */
    struct left *next;
};

struct gone {
    bool trusting;     /* what is missing was deleted: events that told so were lost */
    uint64_t walks;    /* over everything that have begun */
    struct left *left; /* folders that were moved away: what was in them was told to be gone, but not file by file */
    uint64_t moved;    /* files that were found under another name: missing under the old one, and not gone */
    char **missing;
    size_t missing_count, missing_cap;
};

void gone_begin(struct engine *e, bool trusting) {
    e->gone->trusting = trusting;
    e->gone->moved = 0;
    e->gone->walks++;
}

void gone_moved(struct engine *e) { e->gone->moved++; }

void gone_left(struct engine *e, const char *path) {
    struct left *f = calloc(1, sizeof(*f));
    if (f == NULL || (f->path = strdup(path)) == NULL) {
        free(f);
        return;
    }
    f->walks = e->gone->walks;
    LL_PREPEND(e->gone->left, f);
}

void gone_missing(void *ctx, const char *path) {
    struct engine *e = ctx;
    struct gone *w = e->gone;
    struct stat st;
    int r = root_stat(e, path, &st);
    if ((r != -ENOENT && r != -ENOTDIR) || index_is_halted(e->ix, path))
        return;
    if (w->missing_count == w->missing_cap) {
        size_t cap = w->missing_cap == 0 ? 64 : 2 * w->missing_cap;
        char **more = realloc(w->missing, cap * sizeof(*more));
        if (more == NULL)
            return; /* found by the next walk */
        w->missing = more;
        w->missing_cap = cap;
    }
    if ((w->missing[w->missing_count] = strdup(path)) != NULL)
        w->missing_count++;
}

/* False: that cannot be noted now, and nothing that is missing may be taken for deleted. */
static bool halt(struct engine *e, const char *folder, const char *why) {
    if (index_is_halted(e->ix, folder[0] != 0 ? folder : "?"))
        return true;
    e->halting = true;
    int r = index_halt(e->ix, folder, true);
    if (r != 0) {
        engine_written(e, r);
        return false;
    }
    engine_say(e, LOG_ERROR,
               "%s%s: %s: its files are left alone until they are back, or `starling files accept %s` says that they were deleted",
               folder[0] != 0 ? "folder " : "the instance folder", folder, why, folder[0] != 0 ? folder : ".");
    e->summary_due = true;
    return true;
}

/* The folder, path itself or one above, that is there, but on another device than it was: the disk that was mounted there is not. */
static bool other_device(struct engine *e, const char *path, char *folder, size_t folder_len) {
    struct disk d;
    struct stat st;
    for (size_t n = strcspn(path, "/");; n += 1 + strcspn(path + n + 1, "/")) {
        if (n >= folder_len)
            return false;
        memcpy(folder, path, n);
        folder[n] = 0;
        if (root_stat(e, folder, &st) != 0)
            return false;
        if (S_ISDIR(st.st_mode) && index_disk(e->ix, folder, &d) == 1 && d.version.kind == VERSION_FOLDER &&
            d.stamp.device != (uint64_t)st.st_dev)
            return true;
        if (path[n] == 0)
            return false;
    }
}

/* The deepest folder that all of them are in. */
static void common_folder(char **paths, size_t count, char *out, size_t out_len) {
    snprintf(out, out_len, "%s", paths[0]);
    for (size_t i = 0; i < count; i++) {
        size_t n = 0, slash = 0;
        for (; out[n] != 0 && out[n] == paths[i][n]; n++)
            slash = out[n] == '/' ? n : slash;
        if (out[n] != 0 || (paths[i][n] != '/' && paths[i][n] != 0))
            out[slash] = 0;
    }
}

struct emptied {
    struct engine *e;
    const char *folder;
    uint64_t there, gone;
};

static void emptied_one(void *ctx, const char *path) {
    struct emptied *m = ctx;
    size_t n = strlen(m->folder);
    struct stat st;
    if (strncmp(path, m->folder, n) != 0 || path[n] != '/')
        return;
    if (root_stat(m->e, path, &st) == 0)
        m->there++;
    else
        m->gone++;
}

bool gone_emptied(struct engine *e, const char *folder) {
    struct emptied m = {e, folder, 0, 0};
    char *after = NULL;
    if (asprintf(&after, "%s/", folder) < 0)
        return false;
    (void)index_on_disk(e->ix, &after, emptied_one, &m);
    free(after);
    if (m.there > 0 || m.gone == 0)
        return false;
    (void)halt(e, folder, "what was mounted there is not"); /* true in any case: it is left alone now */
    return true;
}

bool gone_unmounted(struct engine *e, const char *path) {
    char folder[BENEATH_PATH_MAX + 1];
    if (index_is_halted(e->ix, path))
        return true;
    return other_device(e, path, folder, sizeof(folder)) && gone_emptied(e, folder);
}

/* The instance folder itself is on another device than it was, and empty. */
static bool root_judged(struct engine *e, struct gone *w) {
    int64_t before = index_meta(e->ix, "root_device", 0);
    struct stat st;
    if (fstat(e->root, &st) != 0 || before == (int64_t)st.st_dev)
        return true;
    if (before != 0 && w->missing_count > 0 && w->missing_count >= index_sums(e->ix)->files)
        return halt(e, "", "what was mounted there is not");
    (void)index_meta_put(e->ix, "root_device", (int64_t)st.st_dev);
    return true;
}

/* Did an event tell that it is gone? */
static bool told_gone(struct engine *e, const struct gone *w, const char *path) {
    const struct item *it = item_find(e, path);
    const struct left *f;
    if (it != NULL && it->disk && it->told)
        return true;
    LL_FOREACH(w->left, f) {
        size_t n = strlen(f->path);
        if (strncmp(path, f->path, n) == 0 && path[n] == '/')
            return true;
    }
    return false;
}

/* More is missing than people delete, and nobody told? False: that folder cannot be halted now. */
static bool count_judged(struct engine *e, struct gone *w) {
    char folder[BENEATH_PATH_MAX + 1];
    uint64_t files = index_sums(e->ix)->files;
    size_t told = 0;
    watch_drain(e);
    for (size_t i = 0; i < w->missing_count; i++) { /* those to the end */
        if (!told_gone(e, w, w->missing[i]))
            continue;
        char *path = w->missing[i];
        w->missing[i] = w->missing[told];
        w->missing[told++] = path;
    }
    size_t untold = w->missing_count - told;
    uint64_t moved = w->moved > told ? w->moved - told : 0, gone = untold > moved ? untold - moved : 0;
    if (w->trusting || gone <= GONE_MIN || gone <= files / 10)
        return true;
    common_folder(w->missing + told, untold, folder, sizeof(folder));
    return index_is_halted(e->ix, w->missing[told]) || halt(e, folder, "far more is gone than is usually deleted");
}

void gone_judge(struct engine *e) {
    struct gone *w = e->gone;
    struct left *f, *next;
    bool judged = root_judged(e, w);
    for (size_t i = 0; i < w->missing_count; i++)
        (void)gone_unmounted(e, w->missing[i]);
    judged = judged && count_judged(e, w);
    for (size_t i = 0; i < w->missing_count; i++) {
        if (judged && !index_is_halted(e->ix, w->missing[i]))
            item_touch(e, w->missing[i], e->still_ms);
        free(w->missing[i]);
    }
    free(w->missing);
    w->missing = NULL;
    w->missing_count = w->missing_cap = 0;
    e->judged = e->judged || judged;
    LL_FOREACH_SAFE(w->left, f, next) {
        if (f->walks >= w->walks)
            continue; /* it was noted during this walk, which may have passed by */
        LL_DELETE(w->left, f);
        free(f->path);
        free(f);
    }
}

struct lifting {
    struct engine *e;
    char *folder;
    uint64_t there, gone;
};

static void halted_one(void *ctx, const char *folder) {
    struct lifting *l = ctx;
    if (l->folder == NULL)
        l->folder = strdup(folder);
}

static void still_there(void *ctx, const char *path) {
    struct lifting *l = ctx;
    size_t n = strlen(l->folder);
    struct stat st;
    if (n > 0 && (strncmp(path, l->folder, n) != 0 || path[n] != '/'))
        return;
    if (root_stat(l->e, path, &st) == 0)
        l->there++;
    else
        l->gone++;
}

/* A folder that was halted goes on when most of it is back. */
void gone_lift(struct engine *e) {
    struct lifting l = {.e = e};
    if (!index_is_halted(e->ix, "?"))
        (void)index_halted(e->ix, halted_one, &l);
    else
        l.folder = strdup("");
    char *after = l.folder == NULL ? NULL : strdup(l.folder);
    for (int pages = 0; after != NULL && pages < LIFT_PAGES && index_on_disk(e->ix, &after, still_there, &l) > 0; pages++)
        ;
    if (l.folder != NULL && l.there > l.gone) {
        (void)index_halt(e->ix, l.folder, false);
        engine_say(e, LOG_INFO, "%s%s is back: its files are replicated again", l.folder[0] != 0 ? "folder " : "the instance folder",
                   l.folder);
        e->summary_due = true;
    }
    free(after);
    free(l.folder);
}

int gone_open(struct engine *e) {
    e->gone = calloc(1, sizeof(*e->gone));
    return e->gone != NULL ? 0 : ERR_NOMEM;
}

void gone_close(struct engine *e) {
    struct left *f, *next;
    if (e->gone == NULL)
        return;
    LL_FOREACH_SAFE(e->gone->left, f, next) {
        free(f->path);
        free(f);
    }
    for (size_t i = 0; i < e->gone->missing_count; i++)
        free(e->gone->missing[i]);
    free(e->gone->missing);
    free(e->gone);
    e->gone = NULL;
}
