/* Starling node: the paths with something to do. An item is made when somebody has something to say of a path, queued by the time when it is due, and worked
 * on some at a time, so that whatever else the thread hears of comes between; it goes when its disk was looked at and what the index says is shown, and
 * nothing is read or fetched for it. */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/files/engine.h"

#define ITEMS_PER_TICK 256
#define TICK_NS 10000000
#define RESTLESS_MS 5000
#define SCANS_FULL (CONTENT_SCANS_MAX - 64) /* under way: nothing more is begun until some have ended */
#define FULL_MS 5

static void tick_cb(uv_timer_t *timer);

void items_arm(struct engine *e) {
    uv_update_time(&e->loop);
    uint64_t now = uv_now(&e->loop);
    uint64_t least = e->scans >= SCANS_FULL ? FULL_MS : 1; /* 0 would run again at once, before anything that came is heard */
    if (e->held_until > now + least)
        least = e->held_until - now;
    if (e->queue != NULL && e->served && !e->stopping)
        uv_timer_start(&e->tick, tick_cb, e->queue->due_ms > now + least ? e->queue->due_ms - now : least, 0);
}

struct item *item_find(struct engine *e, const char *path) {
    struct item *it;
    HASH_FIND_STR(e->items, path, it);
    return it;
}

/* Nearly always the last one: what comes later is due later. */
static void queue_put(struct engine *e, struct item *it) {
    struct item *at = e->queue == NULL ? NULL : e->queue->prev;
    it->queued = true;
    while (at != NULL && at->due_ms > it->due_ms)
        at = at == e->queue ? NULL : at->prev;
    if (at == NULL)
        DL_PREPEND(e->queue, it);
    else
        DL_APPEND_ELEM(e->queue, at, it);
}

void item_again(struct engine *e, struct item *it, uint64_t in_ms) {
    if (it->queued)
        DL_DELETE(e->queue, it);
    it->due_ms = clock_mono_ms() + in_ms;
    queue_put(e, it);
    if (e->queue == it)
        items_arm(e);
}

static struct item *item_get(struct engine *e, const char *path) {
    struct item *it = item_find(e, path);
    if (it != NULL || !beneath_path_ok(path, strlen(path))) /* rows of the index may say anything */
        return it;
    if ((it = calloc(1, sizeof(*it))) == NULL || (it->path = strdup(path)) == NULL) {
        free(it);
        return NULL; /* the next walk finds it */
    }
    it->noted = ++e->noted_last;
    it->noted_ms = clock_mono_ms();
    HASH_ADD_KEYPTR(hh, e->items, it->path, strlen(it->path), it);
    e->summary_due = true;
    return it;
}

static void touch(struct engine *e, const char *path, uint64_t in_ms, bool told) {
    struct item *it = item_get(e, path);
    if (it == NULL)
        return;
    it->told = it->told || told;
    if (it->disk && clock_mono_ms() - it->noted_ms > RESTLESS_MS)
        it->restless = true;
    it->disk = true;
    it->touched = it->scan != 0;
    if (it->scan == 0)
        item_again(e, it, in_ms);
}

void item_touch(struct engine *e, const char *path, uint64_t in_ms) { touch(e, path, in_ms, true); }
void item_look(struct engine *e, const char *path, uint64_t in_ms) { touch(e, path, in_ms, false); }

void item_show(struct engine *e, const char *path, uint64_t in_ms) {
    struct item *it = item_get(e, path);
    if (it == NULL)
        return;
    it->show = true;
    if (!it->queued)
        item_again(e, it, in_ms);
}

void item_rotten(struct engine *e, const char *path, const uint8_t hash[CONTENT_HASH_BYTES]) {
    struct item *it = item_get(e, path);
    if (it == NULL)
        return;
    it->rotten = true;
    memcpy(it->rot, hash, sizeof(it->rot));
    item_show(e, path, 0);
}

static void item_free(struct engine *e, struct item *it) {
    if (it->queued)
        DL_DELETE(e->queue, it);
    if (it->want != 0)
        HASH_DELETE(hh_want, e->wants, it);
    engine_trouble(e, it->noted, "");
    HASH_DEL(e->items, it);
    free(it->path);
    free(it);
    e->summary_due = true;
}

static void item_work(struct engine *e, struct item *it) {
    DL_DELETE(e->queue, it);
    it->queued = false;
    if (it->scan != 0)
        return; /* its answer comes */
    if (it->disk)
        take_look(e, it);
    if (!it->disk && it->show && !it->queued)
        place_look(e, it);
    if (!it->disk && !it->show && !it->queued && it->scan == 0 && it->want == 0)
        item_free(e, it);
}

static void tick_cb(uv_timer_t *timer) {
    struct engine *e = timer->data;
    uint64_t begin = uv_hrtime();
    for (int i = 0; e->queue != NULL && i < ITEMS_PER_TICK && e->scans < SCANS_FULL && uv_hrtime() - begin < TICK_NS; i++) {
        if (e->queue->due_ms > clock_mono_ms())
            break;
        item_work(e, e->queue);
    }
    items_arm(e);
}

void items_free(struct engine *e) {
    struct item *it, *next;
    HASH_ITER(hh, e->items, it, next) item_free(e, it);
}
