/* Starling node: walks over the folder. Each has every folder watched, touches what is not as the index knows it, finds what is missing (gone.c) and what the index
 * says and the disk does not. One over everything comes at the start, and now and then: a small part of a core is spent on it.
 *
 * Possible failures: a folder cannot be read now: said, and another walk comes soon; nobody says meanwhile that all is known. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define STEP_ENTRIES 512
#define STEP_NS 4000000
#define PERIOD_MIN_MS 60000
#define PERIOD_MAX_MS 3600000
#define PERIOD_PER_WALK 2000 /* times the time that a walk takes: 0.05 % of a core */
#define BLIND_MIN_MS 2000    /* without inotify */
#define BLIND_PER_WALK 50
#define STUMBLED_MS 2000 /* no descriptor was left */
#define FULL_ITEMS 8192  /* a walk finds no more until there is less to do; but what only waits does not keep it from going on: */
#define FULL_MS 20
#define FULL_STUCK_MS 500
#define MOUNT_MS 100 /* after disks were mounted or unmounted: several at once */

struct walk_folder {
    char *path;
    struct walk_folder *next;
};

/*  WALK_FOLDERS ─▶ WALK_MISSING ─▶ WALK_DIFFERING ─▶ WALK_NAMES ─▶ WALK_IDLE */
enum walk_phase { WALK_IDLE, WALK_FOLDERS, WALK_MISSING, WALK_DIFFERING, WALK_NAMES };

struct walk {
    enum walk_phase phase;
    bool all, again, again_trusting;
    struct walk_folder *todo; /* folders to be read */
    DIR *dir;                 /* the one that is being read */
    char *dir_path;
    char *after;            /* where paging is */
    bool stumbled;          /* a folder could not be read for a reason that may pass */
    uint64_t spent_ns;      /* for the last walk over everything */
    uint64_t begun;         /* walks over everything */
    uint64_t due_ms;        /* when the next one begins */
    uint64_t done, done_ms; /* items that were done with, and when that last became more */
};

static void walk_cb(uv_timer_t *timer);

void walk_arm(struct engine *e, uint64_t ms) {
    uint64_t now = clock_mono_ms(), held = e->held_until > now ? e->held_until - now : 0;
    if (!e->stopping)
        uv_timer_start(&e->walking, walk_cb, ms > held ? ms : held, 0);
}

/* Until the next one over everything. */
static void walk_wait(struct engine *e) {
    uint64_t now = clock_mono_ms();
    walk_arm(e, e->walk->due_ms > now ? e->walk->due_ms - now : 0);
}

static void walk_push(struct walk *w, const char *path) {
    struct walk_folder *f;
    LL_FOREACH(w->todo, f) {
        if (strcmp(f->path, path) == 0)
            return;
        if (!w->all)
            continue;
        break; /* a walk over everything meets each folder once by itself */
    }
    if ((f = calloc(1, sizeof(*f))) == NULL || (f->path = strdup(path)) == NULL) {
        free(f);
        return;
    }
    LL_PREPEND(w->todo, f);
}

void walk_begin(struct engine *e, const char *folder) {
    struct walk *w = e->walk;
    walk_push(w, folder);
    if (w->phase != WALK_IDLE && w->phase != WALK_FOLDERS)
        return; /* read when this walk is at its end */
    w->phase = WALK_FOLDERS;
    walk_arm(e, 0);
}

/* A row for it, too: it tells on which device it is. */
static void walk_extra(struct engine *e, const char *path) {
    item_look(e, path, 0);
    walk_push(e->walk, path);
}

void walk_all(struct engine *e, bool trusting) {
    struct walk *w = e->walk;
    if (w->phase != WALK_IDLE) {
        w->again_trusting = w->again ? w->again_trusting && trusting : trusting;
        w->again = true;
        return;
    }
    w->all = true;
    w->begun++;
    gone_begin(e, trusting);
    w->stumbled = false;
    w->spent_ns = 0;
    walk_begin(e, "");
    roots_each(e, walk_extra);
}

void walk_need(struct engine *e, bool trusting) {
    e->walk_needed = e->walk->begun + 1; /* this one, or the one behind that which is under way */
    walk_all(e, trusting);
}

bool walk_names(struct engine *e) {
    if (e->walk->phase != WALK_IDLE || !e->looked)
        return false;
    e->walk->phase = WALK_NAMES;
    walk_arm(e, 0);
    return true;
}

void walk_mounts(struct engine *e) {
    uint64_t soon = clock_mono_ms() + MOUNT_MS + e->walk->spent_ns / 1000000 * BLIND_PER_WALK;
    if (e->walk->phase != WALK_IDLE)
        walk_all(e, false);
    else if (e->looked && e->walk->due_ms > soon) {
        e->walk->due_ms = soon;
        walk_wait(e);
    }
}

/* Is it as it was when it was taken? */
static bool known(struct engine *e, const char *path, const struct stat *st) {
    struct content_stamp now;
    struct disk d;
    if (index_disk(e->ix, path, &d) != 1)
        return false;
    content_stamp_of(st, &now);
    if (S_ISDIR(st->st_mode))
        return (d.version.kind == VERSION_FOLDER || d.version.kind == VERSION_GONE) && d.stamp.inode == now.inode &&
               d.stamp.device == now.device;
    if (S_ISREG(st->st_mode) && (!e->looked || e->thorough) && d.version.kind == VERSION_FILE && !content_here(e->content, d.version.hash))
        return false; /* a crash, or the end of the disk, came between noting it in the index and noting its chunks */
    return d.version.kind == (S_ISLNK(st->st_mode) ? VERSION_LINK : VERSION_FILE) && d.stamp.inode == now.inode &&
           d.stamp.size == now.size && d.stamp.mtime_ns == now.mtime_ns && d.stamp.ctime_ns == now.ctime_ns;
}

struct moving {
    struct engine *e;
    bool moved;
};

static void moving_one(void *ctx, const char *path) {
    struct moving *m = ctx;
    struct stat st;
    m->moved = m->moved || root_stat(m->e, path, &st) == -ENOENT;
}

/* Was it somewhere else when it was taken, and is not there any more? An inode alone is given away again; with its time it is the file. */
static bool moved_here(struct engine *e, const struct stat *st) {
    struct moving m = {e, false};
    struct content_stamp now;
    content_stamp_of(st, &now);
    if (S_ISREG(st->st_mode))
        (void)index_disk_stamp(e->ix, &now, moving_one, &m);
    return m.moved;
}

static void entry(struct engine *e, struct walk *w, const char *name) {
    char path[BENEATH_PATH_MAX + NAME_MAX + 2];
    struct stat st;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || fstatat(dirfd(w->dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    snprintf(path, sizeof(path), "%s%s%s", w->dir_path, w->dir_path[0] != 0 ? "/" : "", name);
    bool folder = S_ISDIR(st.st_mode);
    if (!beneath_path_ok(path, strlen(path))) {
        engine_unread(e, path, "its path is too long, or too deep");
        return;
    }
    if (!folder && kept_leftover(name)) {
        kept_recover(e, dirfd(w->dir), name);
        return;
    }
    if (!engine_takes(e, path, folder) || (folder && st.st_dev == e->state_stat.st_dev && st.st_ino == e->state_stat.st_ino))
        return;
    const struct item *it = item_find(e, path);
    bool reading = it != NULL && it->scan != 0 && !w->all && !watch_blind(e); /* inotify tells who writes meanwhile, and loses nothing */
    if (!reading && !known(e, path, &st)) {
        if (w->all && moved_here(e, &st))
            gone_moved(e);
        item_look(e, path, 0);
    }
    if (folder)
        walk_push(w, path);
}

static bool folder_next(struct engine *e, struct walk *w) {
    struct walk_folder *f = w->todo;
    if (f == NULL)
        return false;
    LL_DELETE(w->todo, f);
    watch_folder(e, f->path); /* first: what comes while it is read is told */
    int look = root_look(e, f->path), fd = look < 0 ? look : beneath_reopen(look, O_RDONLY | O_DIRECTORY);
    if (look >= 0)
        close(look);
    if (fd == -EACCES)
        engine_unread(e, f->path, UNREAD_DENIED);
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -EIO) {
        w->stumbled = true;
        engine_unread(e, f->path[0] != 0 ? f->path : ".", strerror(-fd));
    }
    if (fd >= 0 && (w->dir = fdopendir(fd)) == NULL)
        close(fd);
    w->dir_path = f->path;
    free(f);
    return true;
}

static void folder_done(struct walk *w) {
    if (w->dir != NULL)
        closedir(w->dir);
    w->dir = NULL;
    free(w->dir_path);
    w->dir_path = NULL;
}

static void differing_one(void *ctx, const char *path) { item_show(ctx, path, 0); }

/* False: this phase is over. */
static bool page(struct engine *e, struct walk *w) {
    if (w->after == NULL && (w->after = strdup("")) == NULL)
        return false;
    int n =
        w->phase == WALK_MISSING ? index_on_disk(e->ix, &w->after, gone_missing, e) : index_differing(e->ix, &w->after, differing_one, e);
    if (n == INDEX_PAGE)
        return true;
    free(w->after);
    w->after = NULL;
    return false;
}

static void walk_ended(struct engine *e) {
    struct walk *w = e->walk;
    bool all = w->all;
    w->phase = WALK_IDLE;
    w->all = false;
    if (w->stumbled)
        e->walk_needed = w->begun + 1; /* nobody knows what is there */
    if (all && !e->looked && !w->stumbled) {
        e->looked = true;
        e->noted_first = e->noted_last;
    }
    if (all) {
        e->walked = w->begun;
        snprintf(e->unread, sizeof(e->unread), "%s", e->unread_new);
        e->unread_new[0] = 0;
    }
    e->summary_due = true;
    if (w->again) {
        w->again = false;
        walk_all(e, w->again_trusting);
        return;
    }
    if (w->todo != NULL) {
        w->phase = WALK_FOLDERS;
        walk_arm(e, 0);
        return;
    }
    uint64_t ms = w->spent_ns / 1000000, stumbled = ms * BLIND_PER_WALK < STUMBLED_MS ? STUMBLED_MS : ms * BLIND_PER_WALK;
    uint64_t soon = clock_mono_ms() + stumbled;
    if (w->stumbled && w->due_ms > soon)
        w->due_ms = soon;
    if (!all) {
        walk_wait(e);
        return;
    }
    e->thorough = false;
    kept_tidy(e);
    uint64_t period = ms * (watch_blind(e) ? BLIND_PER_WALK : PERIOD_PER_WALK);
    uint64_t least = watch_blind(e) || index_any_halted(e->ix) ? BLIND_MIN_MS : PERIOD_MIN_MS;
    period = period < least ? least : period > PERIOD_MAX_MS ? PERIOD_MAX_MS : period;
    w->due_ms = clock_mono_ms() + (w->stumbled && period > stumbled ? stumbled : period);
    w->stumbled = false;
    walk_wait(e);
}

/* False: the walk is over. */
static bool step(struct engine *e, struct walk *w) {
    struct dirent *entry_of;
    switch (w->phase) {
    case WALK_FOLDERS:
        if (w->dir_path == NULL && !folder_next(e, w)) {
            if (!w->all)
                return false;
            gone_lift(e);
            w->phase = WALK_MISSING;
            return true;
        }
        if (w->dir == NULL || (entry_of = readdir(w->dir)) == NULL)
            folder_done(w);
        else
            entry(e, w, entry_of->d_name);
        return true;
    case WALK_MISSING:
        if (!page(e, w)) {
            gone_judge(e);
            w->phase = WALK_DIFFERING;
        }
        return true;
    case WALK_DIFFERING:
        if (!page(e, w))
            w->phase = WALK_NAMES;
        return true;
    case WALK_NAMES: return namesakes_count(e);
    case WALK_IDLE: return false;
    }
    return false;
}

static bool full(struct engine *e, struct walk *w) {
    uint64_t done = e->noted_last - HASH_COUNT(e->items), now = clock_mono_ms();
    if (done != w->done)
        w->done_ms = now;
    w->done = done;
    return HASH_COUNT(e->items) > FULL_ITEMS && now - w->done_ms < FULL_STUCK_MS;
}

static void walk_cb(uv_timer_t *timer) {
    struct engine *e = timer->data;
    struct walk *w = e->walk;
    uint64_t begin = uv_hrtime(), now = begin;
    if (w->phase == WALK_IDLE) { /* the period is over */
        walk_all(e, false);
        return;
    }
    if (full(e, w)) {
        walk_arm(e, FULL_MS);
        return;
    }
    bool more = true;
    for (int i = 0; more && i < STEP_ENTRIES && now - begin < STEP_NS; i++) {
        more = step(e, w);
        now = uv_hrtime();
    }
    w->spent_ns += w->all ? now - begin : 0;
    if (more)
        walk_arm(e, e->looked ? 5 : 1); /* at the start somebody waits; 0 would leave no time for anything else */
    else
        walk_ended(e);
}

int walk_open(struct engine *e) {
    e->walking.data = e;
    e->walk = calloc(1, sizeof(*e->walk));
    return e->walk != NULL ? 0 : ERR_NOMEM;
}

void walk_close(struct engine *e) {
    struct walk_folder *t, *next;
    if (e->walk == NULL)
        return;
    LL_FOREACH_SAFE(e->walk->todo, t, next) {
        free(t->path);
        free(t);
    }
    folder_done(e->walk);
    free(e->walk->after);
    free(e->walk);
    e->walk = NULL;
}
