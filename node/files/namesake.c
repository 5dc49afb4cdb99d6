/* Starling node: paths that a file system without regard to case, or one that normalises names, would take for one (fold.h). They are counted with each walk
 * over everything, and soon after a path came that may be a second one, or one of them went; and told. On a server with such a file system the second one
 * is not put in place of the first (take.c): there it is missing, and is said. */
#include <stdlib.h>
#include <string.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "node/files/fold.h"

#define SOON_MS 300        /* a file that was given another name is gone under the old one */
#define RESTS_PER_COUNT 50 /* times the time that counting takes */
#define FRESH_MAX 4096

struct hashes { /* sorted, but while paths are counted */
    uint64_t *list;
    size_t count, cap;
};

struct namesakes {
    locale_t letters;
    struct hashes counting, known, fresh, found; /* known: of all paths, but the fresh ones; found: those that more than one has */
    char *after;
    uv_timer_t soon;
    bool doubt;
    uint64_t spent_ns, rest_until; /* ms */
};

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Without memory: not counted this time. */
static void add(struct hashes *h, uint64_t hash) {
    if (h->count == h->cap) {
        size_t cap = h->cap == 0 ? 64 : 2 * h->cap;
        uint64_t *more = realloc(h->list, cap * sizeof(*more));
        if (more == NULL)
            return;
        h->list = more;
        h->cap = cap;
    }
    h->list[h->count++] = hash;
}

static void sort(struct hashes *h) {
    if (h->count > 0)
        qsort(h->list, h->count, sizeof(*h->list), by_number);
}

static void empty(struct hashes *h) {
    free(h->list);
    *h = (struct hashes){0};
}

static bool has(const struct hashes *h, uint64_t hash) {
    return h->count > 0 && bsearch(&hash, h->list, h->count, sizeof(hash), by_number) != NULL;
}

static void freshen(struct namesakes *n) {
    for (size_t i = 0; i < n->fresh.count; i++)
        add(&n->known, n->fresh.list[i]);
    sort(&n->known);
    empty(&n->fresh);
}

static void path_one(void *ctx, const char *path) {
    struct namesakes *n = ctx;
    add(&n->counting, fold_hash(n->letters, path));
}

static void counted(struct engine *e, struct namesakes *n) {
    size_t before = n->found.count;
    uint64_t *least;
    empty(&n->found);
    empty(&n->known);
    n->known = n->counting;
    n->counting = (struct hashes){0};
    sort(&n->known);
    for (size_t i = 0; i + 1 < n->known.count; i++)
        if (n->known.list[i] == n->known.list[i + 1] && (n->found.count == 0 || n->found.list[n->found.count - 1] != n->known.list[i]))
            add(&n->found, n->known.list[i]);
    freshen(n); /* some came behind where it was counted */
    if (n->known.count > 0 && (least = realloc(n->known.list, n->known.count * sizeof(*least))) != NULL) {
        n->known.list = least;
        n->known.cap = n->known.count;
    }
    if (n->found.count > before)
        engine_say(e, LOG_WARNING, "names of files differ only in case, or in how accents are written: see `starling files status`");
    free(n->after);
    n->after = NULL;
}

bool namesakes_count(struct engine *e) {
    struct namesakes *n = e->namesakes;
    uint64_t begin = uv_hrtime();
    if (n->after == NULL) {
        n->doubt = false;
        n->spent_ns = 0;
    }
    if (n->after == NULL && (n->after = strdup("")) == NULL)
        return false;
    bool more = index_living(e->ix, &n->after, path_one, n) > 0;
    if (!more)
        counted(e, n);
    n->spent_ns += uv_hrtime() - begin;
    n->rest_until = clock_mono_ms() + n->spent_ns / 1000000 * RESTS_PER_COUNT;
    e->summary_due = e->summary_due || !more;
    return more;
}

static void soon_cb(uv_timer_t *timer) {
    struct engine *e = timer->data;
    if (e->namesakes->doubt && !walk_names(e)) /* a walk is under way: it counts them, or passed by */
        uv_timer_start(timer, soon_cb, SOON_MS, 0);
}

static void doubt(struct engine *e) {
    struct namesakes *n = e->namesakes;
    uint64_t now = clock_mono_ms();
    n->doubt = true;
    if (!uv_is_active((uv_handle_t *)&n->soon) && !e->stopping)
        uv_timer_start(&n->soon, soon_cb, n->rest_until > now + SOON_MS ? n->rest_until - now : SOON_MS, 0);
}

void namesakes_came(struct engine *e, const char *path) {
    struct namesakes *n = e->namesakes;
    uint64_t hash = fold_hash(n->letters, path);
    if (has(&n->known, hash) || has(&n->fresh, hash)) {
        doubt(e);
        return;
    }
    add(&n->fresh, hash);
    for (size_t i = n->fresh.count; i > 1 && n->fresh.list[i - 2] > hash; i--) {
        n->fresh.list[i - 1] = n->fresh.list[i - 2];
        n->fresh.list[i - 2] = hash;
    }
    if (n->fresh.count >= FRESH_MAX)
        freshen(n);
}

void namesakes_went(struct engine *e, const char *path) {
    if (namesakes_has(e, path))
        doubt(e);
}

uint64_t namesakes(const struct engine *e) { return e->namesakes->found.count; }

bool namesakes_has(const struct engine *e, const char *path) {
    const struct namesakes *n = e->namesakes;
    return n->found.count > 0 && has(&n->found, fold_hash(n->letters, path));
}

struct listing {
    struct engine *e;
    uint32_t left;
    index_each each;
    void *ctx;
};

static void list_one(void *ctx, const char *path) {
    struct listing *l = ctx;
    if (l->left == 0 || !namesakes_has(l->e, path))
        return;
    l->left--;
    l->each(l->ctx, path);
}

void namesakes_list(struct engine *e, uint32_t max, index_each each, void *ctx) {
    struct listing l = {e, max, each, ctx};
    char *after = e->namesakes->found.count > 0 ? strdup("") : NULL;
    while (after != NULL && l.left > 0 && index_living(e->ix, &after, list_one, &l) > 0)
        ;
    free(after);
}

struct spelling {
    struct engine *e;
    const char *path;
    const struct stat *st;
    char *other;
};

static void spelling_one(void *ctx, const char *path) {
    struct spelling *s = ctx;
    locale_t letters = s->e->namesakes->letters;
    struct stat st;
    if (s->other == NULL && strcmp(path, s->path) != 0 && fold_hash(letters, path) == fold_hash(letters, s->path) &&
        root_stat(s->e, path, &st) == 0 && st.st_ino == s->st->st_ino && st.st_dev == s->st->st_dev)
        s->other = strdup(path);
}

char *namesake_here(struct engine *e, const char *path, const struct stat *st) {
    struct spelling s = {e, path, st, NULL};
    if (S_ISDIR(st->st_mode) || st->st_nlink == 1) /* a file with two names has them on purpose */
        (void)index_disk_inode(e->ix, (uint64_t)st->st_ino, (uint64_t)st->st_dev, spelling_one, &s);
    return s.other;
}

int namesakes_open(struct engine *e) {
    if ((e->namesakes = calloc(1, sizeof(*e->namesakes))) == NULL)
        return -1;
    e->namesakes->soon.data = e;
    if ((e->namesakes->letters = fold_open()) == (locale_t)0)
        return -1;
    return uv_timer_init(&e->loop, &e->namesakes->soon);
}

void namesakes_close(struct engine *e) {
    struct namesakes *n = e->namesakes;
    if (n == NULL)
        return;
    if (n->letters != (locale_t)0)
        freelocale(n->letters);
    struct hashes *const all[] = {&n->counting, &n->known, &n->fresh, &n->found};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        empty(all[i]);
    free(n->after);
    free(n);
    e->namesakes = NULL;
}
