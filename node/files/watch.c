/* Starling node: what happens in the folder. inotify tells most of it; walks (walk.c) find the rest: what happened while nobody watched, what inotify lost
 * (its queue is bounded), what it cannot see (no more watches).
 *
 * The happy path for watch is: watch_open -> a walk has each folder watched -> events touch paths.
 * Possible failure modes are:
 *   - inotify is exhausted: said, and walks come more often;
 *   - the queue overflows: a walk over everything. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "node/files/engine.h"
#include "proto/err.h"

#define EVENTS                                                                                                                             \
    (IN_CREATE | IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_ONLYDIR | IN_DONT_FOLLOW |          \
     IN_EXCL_UNLINK)

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
        walk_need(e, !e->watch->blind); /* events that are lost may have told of it */
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
        gone_left(e, path); /* what was in it is gone from here */
        walk_all(e, false);
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
    root_forget(e); /* what is told now may be that it went elsewhere */
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
    if (status != 0)
        uv_poll_stop(poll);
    else
        walk_mounts(e);
}

int watch_open(struct engine *e) {
    e->watch = calloc(1, sizeof(*e->watch));
    if (e->watch == NULL)
        return ERR_NOMEM;
    e->watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    e->poll.data = e;
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

bool watch_blind(const struct engine *e) { return e->watch->blind; }

void watch_close(struct engine *e) {
    struct watched *f, *next;
    if (e->watch == NULL)
        return;
    HASH_ITER(hh, e->watch->folders, f, next) forget_folder(e->watch, f);
    if (e->watch->fd >= 0)
        close(e->watch->fd);
    if (e->watch->mounts_fd >= 0)
        close(e->watch->mounts_fd);
    free(e->watch);
    e->watch = NULL;
}
