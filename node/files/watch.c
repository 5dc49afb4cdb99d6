/* Starling node: what happens in the folder. inotify tells most of it; scans find the rest: what happened while nobody watched, what inotify lost
 * (its queue is bounded), what it cannot see (no more watches).
 *
 * The happy path for watch is: watch_open -> a walk watches each folder and touches what is not as `disk` says -> events touch paths.
 * Possible failure modes are:
 *   - inotify is exhausted: said, and walks come more often;
 *   - the queue overflows: a walk over everything;
 *   - a folder that was the root of a file system is not there, or far more is gone than people delete: that folder is halted until it is back, or
 *     somebody says that this is meant. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define EVENTS                                                                                                                             \
    (IN_CREATE | IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_ONLYDIR | IN_DONT_FOLLOW |          \
     IN_EXCL_UNLINK)
#define STEP_ENTRIES 512
#define STEP_NS 4000000
#define PERIOD_MIN_MS 60000
#define PERIOD_MAX_MS 3600000
#define PERIOD_PER_WALK 2000 /* times the time that a walk takes: 0.05 % of a core */
#define BLIND_MIN_MS 2000    /* without inotify */
#define BLIND_PER_WALK 50
#define STUMBLED_MS 10000 /* no descriptor was left */
#define FULL_ITEMS 8192   /* a walk finds no more until there is less to do; but what only waits does not keep it from going on: */
#define FULL_MS 20
#define FULL_STUCK_MS 500
#define MOUNT_MS 100 /* after disks were mounted or unmounted: several at once */
#define GONE_MIN 20  /* found missing by a walk, more than this and a tenth: not taken for deletions */

struct watched {
    int wd;
    char *path;
    UT_hash_handle hh;
};

struct watch {
    int fd, mounts_fd;
    struct watched *folders;
    bool blind;
};

struct walk_folder {
    char *path;
    struct walk_folder *next;
};

/*  WALK_FOLDERS ─▶ WALK_MISSING ─▶ WALK_DIFFERING ─▶ WALK_NAMES ─▶ WALK_IDLE */
enum walk_phase { WALK_IDLE, WALK_FOLDERS, WALK_MISSING, WALK_DIFFERING, WALK_NAMES };

struct walk {
    enum walk_phase phase;
    bool all, trusting, again, again_trusting;
    struct walk_folder *todo; /* folders to be read */
    DIR *dir;                 /* the one that is being read */
    char *dir_path;
    char *after; /* where paging is */
    char **missing;
    size_t missing_count, missing_cap;
    bool stumbled;          /* a folder could not be read for a reason that may pass */
    uint64_t moved;         /* files that were found under another name: missing under the old one, and not gone */
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

/* ---- watching */

static void forget_folder(struct watch *w, struct watched *f) {
    HASH_DEL(w->folders, f);
    free(f->path);
    free(f);
}

void watch_folder(struct engine *e, const char *path) {
    struct watch *w = e->watch;
    struct watched *f;
    char proc[40];
    int look = w->fd < 0 ? -1 : root_look(e, path);
    if (look < 0)
        return;
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", look);
    int wd = inotify_add_watch(w->fd, proc, EVENTS & ~(unsigned)IN_DONT_FOLLOW);
    if (wd < 0 && errno == ENOSPC && !w->blind) {
        w->blind = true;
        engine_say(
            e, LOG_WARNING,
            "no more folders can be watched: changes of files are found by looking, later: raise fs.inotify.max_user_watches (sysctl)");
    }
    close(look);
    if (wd < 0)
        return;
    HASH_FIND_INT(w->folders, &wd, f);
    if (f != NULL && strcmp(f->path, path) == 0)
        return;
    if (f != NULL)
        forget_folder(w, f); /* it was moved */
    if ((f = calloc(1, sizeof(*f))) == NULL || (f->path = strdup(path)) == NULL) {
        free(f);
        return;
    }
    f->wd = wd;
    HASH_ADD_INT(w->folders, wd, f);
}

/* A folder went elsewhere: its watches would tell of it under a name that it has not any more. */
static void unwatch_below(struct engine *e, const char *path) {
    struct watched *f, *next;
    size_t n = strlen(path);
    HASH_ITER(hh, e->watch->folders, f, next) {
        if (strncmp(f->path, path, n) != 0 || (f->path[n] != '/' && f->path[n] != 0))
            continue;
        inotify_rm_watch(e->watch->fd, f->wd);
        forget_folder(e->watch, f);
    }
}

static void event(struct engine *e, const struct inotify_event *ev) {
    char path[BENEATH_PATH_MAX + NAME_MAX + 2];
    struct watched *f;
    if ((ev->mask & IN_Q_OVERFLOW) != 0) {
        walk_need(e, true);
        return;
    }
    HASH_FIND_INT(e->watch->folders, &ev->wd, f);
    if (f == NULL)
        return;
    if ((ev->mask & (IN_IGNORED | IN_UNMOUNT)) != 0) {
        if ((ev->mask & IN_UNMOUNT) != 0)
            walk_all(e, false);
        forget_folder(e->watch, f);
        return;
    }
    if (ev->len == 0)
        return;
    snprintf(path, sizeof(path), "%s%s%s", f->path, f->path[0] != 0 ? "/" : "", ev->name);
    bool folder = (ev->mask & IN_ISDIR) != 0;
    if (!beneath_path_ok(path, strlen(path)) || !engine_takes(e, path, folder))
        return;
    if (folder && (ev->mask & IN_MOVED_FROM) != 0) {
        unwatch_below(e, path);
        walk_all(e, true); /* what was in it is gone from here */
    }
    if (folder && (ev->mask & (IN_CREATE | IN_MOVED_TO | IN_ATTRIB)) != 0) /* IN_ATTRIB: perhaps it can be read now */
        walk_begin(e, path);
    if (folder && index_any_halted(e->ix))
        walk_all(e, false); /* perhaps it is back */
    if (!folder || (ev->mask & IN_ATTRIB) == 0)
        item_touch(e, path, e->still_ms);
}

void watch_drain(struct engine *e) {
    char buffer[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;
    while (e->watch->fd >= 0 && (n = read(e->watch->fd, buffer, sizeof(buffer))) > 0) {
        for (char *at = buffer; at < buffer + n;) {
            const struct inotify_event *ev = (const struct inotify_event *)at;
            at += sizeof(*ev) + ev->len;
            event(e, ev);
        }
    }
}

static void poll_cb(uv_poll_t *poll, int status, int events) {
    (void)events;
    if (status == 0)
        watch_drain(poll->data);
}

/* inotify does not tell that something was mounted over a folder. */
static void mounts_cb(uv_poll_t *poll, int status, int events) {
    struct engine *e = poll->data;
    (void)events;
    uint64_t soon = clock_mono_ms() + MOUNT_MS + e->walk->spent_ns / 1000000 * BLIND_PER_WALK;
    if (status != 0)
        uv_poll_stop(poll);
    else if (e->walk->phase != WALK_IDLE)
        walk_all(e, false);
    else if (e->looked && e->walk->due_ms > soon) {
        e->walk->due_ms = soon;
        walk_wait(e);
    }
}

int watch_open(struct engine *e) {
    e->watch = calloc(1, sizeof(*e->watch));
    e->walk = calloc(1, sizeof(*e->walk));
    if (e->watch == NULL || e->walk == NULL) {
        free(e->watch);
        free(e->walk);
        e->watch = NULL;
        return ERR_NOMEM;
    }
    e->watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    e->poll.data = e;
    e->walking.data = e;
    e->polling = e->watch->fd >= 0 && uv_poll_init(&e->loop, &e->poll, e->watch->fd) == 0;
    if (e->polling)
        uv_poll_start(&e->poll, UV_READABLE, poll_cb);
    e->mounts.data = e;
    e->watch->mounts_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (e->watch->mounts_fd >= 0 && uv_poll_init(&e->loop, &e->mounts, e->watch->mounts_fd) == 0)
        uv_poll_start(&e->mounts, UV_PRIORITIZED, mounts_cb);
    if (!e->polling) {
        e->watch->blind = true;
        engine_say(e, LOG_WARNING,
                   "inotify cannot be used: changes of files are found by looking, later: raise fs.inotify.max_user_instances (sysctl)");
    }
    return 0;
}

/* ---- walking */

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

bool watch_blind(const struct engine *e) { return e->watch->blind; }

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
    item_touch(e, path, 0);
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
    w->trusting = trusting;
    w->spent_ns = w->moved = 0;
    walk_begin(e, "");
    roots_each(e, walk_extra);
}

void walk_need(struct engine *e, bool trusting) {
    e->walk_needed = e->walk->begun + 1; /* this one, or the one behind that which is under way */
    walk_all(e, trusting);
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
        engine_say(e, LOG_WARNING, "%.200s… is not replicated: its path is too long, or too deep", path);
        return;
    }
    if (!folder && kept_leftover(name)) {
        kept_recover(e, dirfd(w->dir), name);
        return;
    }
    if (!engine_takes(e, path, folder) || (folder && st.st_dev == e->state_stat.st_dev && st.st_ino == e->state_stat.st_ino))
        return;
    if (!known(e, path, &st)) {
        w->moved += w->all && moved_here(e, &st);
        item_touch(e, path, 0);
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
    w->stumbled = w->stumbled || fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -EIO;
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

static void missing_one(void *ctx, const char *path) {
    struct engine *e = ctx;
    struct walk *w = e->walk;
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

static void halt(struct engine *e, const char *folder, const char *why) {
    if (index_is_halted(e->ix, folder[0] != 0 ? folder : "?"))
        return;
    (void)index_halt(e->ix, folder, true);
    engine_say(e, LOG_ERROR,
               "%s%s: %s: its files are left alone until they are back, or `starling files accept %s` says that they were deleted",
               folder[0] != 0 ? "folder " : "the instance folder", folder, why, folder[0] != 0 ? folder : ".");
    e->summary_due = true;
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

bool watch_emptied(struct engine *e, const char *folder) {
    struct emptied m = {e, folder, 0, 0};
    char *after = strdup(folder);
    if (after != NULL)
        (void)index_on_disk(e->ix, &after, emptied_one, &m);
    free(after);
    if (m.there > 0 || m.gone == 0)
        return false;
    halt(e, folder, "what was mounted there is not");
    return true;
}

bool watch_unmounted(struct engine *e, const char *path) {
    char folder[BENEATH_PATH_MAX + 1];
    if (index_is_halted(e->ix, path))
        return true;
    return other_device(e, path, folder, sizeof(folder)) && watch_emptied(e, folder);
}

/* The instance folder itself is on another device than it was, and empty. */
static void root_judged(struct engine *e, struct walk *w) {
    int64_t before = index_meta(e->ix, "root_device", 0);
    struct stat st;
    if (fstat(e->root, &st) != 0 || before == (int64_t)st.st_dev)
        return;
    if (before != 0 && w->missing_count > 0 && w->missing_count >= index_sums(e->ix)->files)
        halt(e, "", "what was mounted there is not");
    else
        (void)index_meta_put(e->ix, "root_device", (int64_t)st.st_dev);
}

static void missing_judged(struct engine *e, struct walk *w) {
    char folder[BENEATH_PATH_MAX + 1];
    uint64_t files = index_sums(e->ix)->files;
    root_judged(e, w);
    for (size_t i = 0; i < w->missing_count; i++)
        (void)watch_unmounted(e, w->missing[i]);
    uint64_t gone = w->missing_count > w->moved ? w->missing_count - w->moved : 0;
    if (!w->trusting && gone > GONE_MIN && gone > files / 10) {
        common_folder(w->missing, w->missing_count, folder, sizeof(folder));
        if (!index_is_halted(e->ix, w->missing[0]))
            halt(e, folder, "far more is gone than is usually deleted");
    }
    for (size_t i = 0; i < w->missing_count; i++) {
        if (!index_is_halted(e->ix, w->missing[i]))
            item_touch(e, w->missing[i], e->still_ms);
        free(w->missing[i]);
    }
    free(w->missing);
    w->missing = NULL;
    w->missing_count = w->missing_cap = 0;
}

static void differing_one(void *ctx, const char *path) { item_show(ctx, path, 0); }

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
static void lift(struct engine *e) {
    struct lifting l = {.e = e};
    if (!index_is_halted(e->ix, "?"))
        (void)index_halted(e->ix, halted_one, &l);
    else
        l.folder = strdup("");
    char *after = l.folder == NULL ? NULL : strdup(l.folder);
    for (int pages = 0; after != NULL && pages < 64 && index_on_disk(e->ix, &after, still_there, &l) > 0; pages++)
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

/* False: this phase is over. */
static bool page(struct engine *e, struct walk *w) {
    if (w->after == NULL && (w->after = strdup("")) == NULL)
        return false;
    int n =
        w->phase == WALK_MISSING ? index_on_disk(e->ix, &w->after, missing_one, e) : index_differing(e->ix, &w->after, differing_one, e);
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
    if (all && !e->looked) {
        e->looked = true;
        e->noted_first = e->noted_last;
    }
    if (all)
        e->walked = w->begun;
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
    uint64_t soon = clock_mono_ms() + STUMBLED_MS;
    if (w->stumbled && w->due_ms > soon)
        w->due_ms = soon;
    if (!all) {
        walk_wait(e);
        return;
    }
    e->thorough = false;
    kept_tidy(e);
    snprintf(e->unread, sizeof(e->unread), "%s", e->unread_new);
    e->unread_new[0] = 0;
    uint64_t ms = w->spent_ns / 1000000, period = ms * (e->watch->blind ? BLIND_PER_WALK : PERIOD_PER_WALK);
    uint64_t least = e->watch->blind || index_any_halted(e->ix) ? BLIND_MIN_MS : PERIOD_MIN_MS;
    period = period < least ? least : period > PERIOD_MAX_MS ? PERIOD_MAX_MS : period;
    w->due_ms = clock_mono_ms() + (w->stumbled && period > STUMBLED_MS ? STUMBLED_MS : period);
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
            lift(e);
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
            missing_judged(e, w);
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

void watch_close(struct engine *e) {
    struct watched *f, *next;
    struct walk_folder *t, *t_next;
    if (e->watch == NULL)
        return;
    HASH_ITER(hh, e->watch->folders, f, next) forget_folder(e->watch, f);
    if (e->watch->fd >= 0)
        close(e->watch->fd);
    if (e->watch->mounts_fd >= 0)
        close(e->watch->mounts_fd);
    LL_FOREACH_SAFE(e->walk->todo, t, t_next) {
        free(t->path);
        free(t);
    }
    folder_done(e->walk);
    for (size_t i = 0; i < e->walk->missing_count; i++)
        free(e->walk->missing[i]);
    free(e->walk->missing);
    free(e->walk->after);
    free(e->watch);
    free(e->walk);
    e->watch = NULL;
}
