/* The happy path for engine is:
 *   engine_open, all parts after one another -> engine_begin, once the index is served as well -> ... -> engine_close.
 * Possible failure modes are:
 *   - a part cannot be opened (the disk is full, no descriptor is left): engine_shut closes those that are, and files.c tries again. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "node/files/engine.h"
#include "proto/err.h"

/* ---- content's side */

static int content_open_file(void *ctx, uint32_t root, const char *path) {
    struct engine *e = ctx;
    int look = root == ROOT_KEPT ? beneath_look(e->kept, path) : root_look(e, path), fd;
    if (look < 0)
        return look;
    fd = held_open(e->held, look);
    close(look);
    return fd;
}

static int content_staging(void *ctx, uint32_t root) {
    const struct engine *e = ctx;
    return root == ROOT_INSTANCE ? e->staging : -ENOENT;
}

static void content_scanned_cb(void *ctx, const struct content_scanned *s) { take_scanned(ctx, s); }
static void content_staged_cb(void *ctx, const struct content_staged *s, uint32_t count) { place_staged(ctx, s, count); }
static void content_forgot(void *ctx) { ((struct engine *)ctx)->forgot = true; }
static void content_say(void *ctx, enum log_level level, const char *text) { engine_say(ctx, level, "%s", text); }

/* ---- opening */

static int parts_open(struct engine *e, char *why, size_t why_len) {
    struct content_config config = {
        .loop = &e->loop,
        .state = e->state,
        .door = e->door,
        .bandwidth_kib = e->bandwidth_kib,
        .ctx = e,
        .open_file = content_open_file,
        .staging = content_staging,
        .scanned = content_scanned_cb,
        .staged = content_staged_cb,
        .say = content_say,
        .forgot = content_forgot,
    };
    int r = index_open(&e->ix, e->state, why, why_len);
    if (r != 0)
        return r;
    if ((e->root = beneath_root(e->instance)) < 0 || stat(e->state, &e->state_stat) != 0 || kept_open(e) != 0) {
        snprintf(why, why_len, "the folders for files in %s cannot be made: %s", e->state, strerror(errno));
        return ERR_IO;
    }
    snprintf(why, why_len, "files cannot be replicated: %s", err_text(ERR_NOMEM));
    if (roots_open(e) != 0 || hooks_open(e) != 0 || late_open(e) != 0 || reread_open(e) != 0 || namesakes_open(e) != 0 ||
        gone_open(e) != 0 || walk_open(e) != 0 || watch_open(e) != 0)
        return ERR_NOMEM;
    if ((r = content_open(&e->content, &config)) != 0) /* the last one: it takes a loop to close it */
        snprintf(why, why_len, "files cannot be replicated: %s", err_text(r));
    return r;
}

int engine_open(struct engine *e, char *why, size_t why_len) {
    int r = parts_open(e, why, why_len);
    if (r != 0)
        return r;
    if (index_meta(e->ix, "met", 0) != 0) {
        e->rank = e->rank_begun = RANK_MEANT;
        e->met_noted = true;
    }
    e->conflicts = index_conflicts_count(e->ix);
    e->opened = true;
    return 0;
}

void engine_begin(struct engine *e) {
    if (!e->opened || !e->served)
        return;
    walk_all(e, false);
    items_arm(e);
}

/* ---- closing */

/* Their handles are closed. */
static void parts_free(struct engine *e) {
    items_free(e);
    watch_close(e);
    walk_close(e);
    gone_close(e);
    hooks_close(e);
    late_close(e);
    reread_close(e);
    namesakes_close(e);
    roots_close(e);
    if (e->ix != NULL)
        (void)index_commit(e->ix);
    index_close(e->ix);
    e->ix = NULL;
    int *const fds[] = {&e->root, &e->staging, &e->kept};
    for (int i = 0; i < 3; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

static void close_one(uv_handle_t *handle, void *ctx) {
    const struct engine *e = ctx;
    const void *const own[] = {&e->tick, &e->walking, &e->daily, &e->telling, &e->prepare};
    for (size_t i = 0; !e->stopping && i < sizeof(own) / sizeof(*own); i++)
        if (handle == own[i])
            return;
    if (!uv_is_closing(handle) && (e->stopping || handle->type != UV_ASYNC)) /* words come as long as the thread runs */
        uv_close(handle, NULL);
}

void engine_shut(struct engine *e) {
    assert(e->content == NULL && !e->opened);
    uv_walk(&e->loop, close_one, e);
    uv_run(&e->loop, UV_RUN_NOWAIT);
    parts_free(e);
}

void engine_close(struct engine *e) {
    e->stopping = true;
    uv_walk(&e->loop, close_one, e);
    uv_run(&e->loop, UV_RUN_DEFAULT);
    int busy = uv_loop_close(&e->loop);
    assert(busy == 0);
    (void)busy;
    parts_free(e);
}
