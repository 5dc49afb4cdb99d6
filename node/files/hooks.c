/* Starling node: commands that are run after a change of others arrived, for applications that read a file only when they start. One at a time; a path
 * that changes again while it waits is told once; a command that does not end is ended, with all that it began. Nothing waits for a command. */
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/files/engine.h"

#define HOOKS_MAX 1000

struct hook {
    char *run, *path;
    const char *op;
    uint64_t run_ms; /* at most */
    struct hook *prev, *next;
};

struct hooks {
    struct engine *e;
    struct hook *waiting, *running;
    uint32_t count;
    bool many; /* said that too many wait */
    uv_process_t process;
    uv_timer_t timer;
};

static void next(struct hooks *h);

static void hook_free(struct hook *k) {
    free(k->run);
    free(k->path);
    free(k);
}

static void closed_cb(uv_handle_t *handle) {
    struct hooks *h = handle->data;
    hook_free(h->running);
    h->running = NULL;
    if (!h->e->stopping)
        next(h);
}

static void exit_cb(uv_process_t *process, int64_t status, int signal_number) {
    struct hooks *h = process->data;
    uv_timer_stop(&h->timer);
    if (status != 0 || signal_number != 0)
        engine_say(h->e, LOG_WARNING, "the command for %s ended with %lld%s: %s", h->running->path, (long long)status,
                   signal_number != 0 ? " (ended by a signal)" : "", h->running->run);
    uv_close((uv_handle_t *)process, closed_cb);
}

/* It leads a group of its own: whatever it started is in it. */
static void end(struct hooks *h, int number) {
    int pid = uv_process_get_pid(&h->process);
    if (pid > 0)
        (void)kill(-pid, number);
}

static void time_up(uv_timer_t *timer) {
    struct hooks *h = timer->data;
    engine_say(h->e, LOG_WARNING, "the command for %s does not end: it is ended: %s", h->running->path, h->running->run);
    end(h, SIGKILL);
}

static void next(struct hooks *h) {
    struct hook *k = h->waiting;
    char *path = NULL, *op = NULL, *search = NULL;
    if (k == NULL || h->running != NULL)
        return;
    DL_DELETE(h->waiting, k);
    h->count--;
    h->many = h->many && h->waiting != NULL;
    h->running = k;
    const char *paths = getenv("PATH");
    if (asprintf(&path, "STARLING_PATH=%s", k->path) < 0 || asprintf(&op, "STARLING_OP=%s", k->op) < 0 ||
        asprintf(&search, "PATH=%s", paths != NULL ? paths : "/usr/bin:/bin") < 0) {
        hook_free(k);
        h->running = NULL;
        return;
    }
    char *args[] = {"/bin/sh", "-c", k->run, NULL}, *environment[] = {path, op, search, NULL};
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_INHERIT_FD, .data.fd = 2}};
    uv_process_options_t options = {.exit_cb = exit_cb,
                                    .file = args[0],
                                    .args = args,
                                    .env = environment,
                                    .cwd = h->e->instance,
                                    .flags = UV_PROCESS_DETACHED,
                                    .stdio_count = 3,
                                    .stdio = stdio};
    h->process.data = h;
    int r = uv_spawn(&h->e->loop, &h->process, &options);
    if (r != 0) {
        engine_say(h->e, LOG_WARNING, "the command for %s cannot be started: %s: %s", k->path, uv_strerror(r), k->run);
        uv_close((uv_handle_t *)&h->process, closed_cb);
    } else {
        uv_update_time(&h->e->loop);
        uv_timer_start(&h->timer, time_up, k->run_ms, 0);
    }
    free(path);
    free(op);
    free(search);
}

bool hooks_match(const char *pattern, const char *path) {
    size_t n = strlen(pattern);
    if (n > 0 && pattern[n - 1] == '/')
        return strncmp(pattern, path, n) == 0;
    return fnmatch(pattern, strchr(pattern, '/') != NULL ? path : beneath_name(path), FNM_PATHNAME) == 0;
}

static void hook_add(struct hooks *h, const char *run, const char *path, const char *op, uint64_t run_ms) {
    struct hook *k;
    DL_FOREACH(h->waiting, k) {
        if (strcmp(k->run, run) == 0 && strcmp(k->path, path) == 0) {
            k->op = op;
            return;
        }
    }
    k = h->count >= HOOKS_MAX ? NULL : calloc(1, sizeof(*k));
    if (k == NULL || (k->path = strdup(path)) == NULL || (k->run = strdup(run)) == NULL) {
        if (!h->many)
            engine_say(h->e, LOG_WARNING, "too many commands wait: none is run for %s, nor for others until they are fewer", path);
        h->many = true;
        if (k != NULL)
            hook_free(k);
        return;
    }
    k->op = op;
    k->run_ms = run_ms;
    DL_APPEND(h->waiting, k);
    h->count++;
}

void hooks_run(struct engine *e, const char *path, const char *op) {
    for (uint32_t i = 0; i < e->policy.hooks_count; i++)
        if (e->policy.hooks[i].run != NULL && hooks_match(e->policy.hooks[i].pattern, path))
            hook_add(e->hooks, e->policy.hooks[i].run, path, op, e->policy.hooks[i].run_s * 1000u);
    next(e->hooks);
}

int hooks_open(struct engine *e) {
    if ((e->hooks = calloc(1, sizeof(*e->hooks))) == NULL)
        return -1;
    e->hooks->e = e;
    e->hooks->timer.data = e->hooks;
    return uv_timer_init(&e->loop, &e->hooks->timer);
}

void hooks_stop(struct engine *e) {
    if (e->hooks != NULL && e->hooks->running != NULL)
        end(e->hooks, SIGTERM);
}

void hooks_close(struct engine *e) {
    struct hook *k, *after;
    if (e->hooks == NULL)
        return;
    DL_FOREACH_SAFE(e->hooks->waiting, k, after) hook_free(k);
    if (e->hooks->running != NULL)
        hook_free(e->hooks->running);
    free(e->hooks);
    e->hooks = NULL;
}
