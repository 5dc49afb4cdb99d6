/* Starling node: paths that a file system without regard to case, or one that normalises names, would take for one (fold.h). They are counted with each walk
 * over everything, and told. On a server with such a file system the second one is not put in place of the first (take.c): there it is missing, and is said. */
#include <stdlib.h>
#include <string.h>

#include "node/files/engine.h"
#include "node/files/fold.h"

struct namesakes {
    locale_t letters;
    uint64_t *hashes, *found; /* of all paths, while they are counted; of those that more than one has, sorted */
    size_t count, cap, found_count;
    char *after;
};

static void path_one(void *ctx, const char *path) {
    struct namesakes *n = ctx;
    if (n->count == n->cap) {
        size_t cap = n->cap == 0 ? 1024 : 2 * n->cap;
        uint64_t *more = realloc(n->hashes, cap * sizeof(*more));
        if (more == NULL)
            return; /* not counted this time */
        n->hashes = more;
        n->cap = cap;
    }
    n->hashes[n->count++] = fold_hash(n->letters, path);
}

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void counted(struct namesakes *n) {
    size_t kept = 0;
    if (n->count > 0)
        qsort(n->hashes, n->count, sizeof(*n->hashes), by_number);
    for (size_t i = 0; i + 1 < n->count; i++)
        if (n->hashes[i] == n->hashes[i + 1] && (kept == 0 || n->hashes[kept - 1] != n->hashes[i]))
            n->hashes[kept++] = n->hashes[i];
    free(n->found);
    n->found = kept > 0 ? realloc(n->hashes, kept * sizeof(*n->hashes)) : NULL;
    if (n->found == NULL)
        free(n->hashes);
    n->found_count = n->found != NULL ? kept : 0;
    n->hashes = NULL;
    n->count = n->cap = 0;
    free(n->after);
    n->after = NULL;
}

bool namesakes_count(struct engine *e) {
    struct namesakes *n = e->namesakes;
    if (n->after == NULL && (n->after = strdup("")) == NULL)
        return false;
    if (index_living(e->ix, &n->after, path_one, n) > 0)
        return true;
    counted(n);
    e->summary_due = true;
    return false;
}

uint64_t namesakes(const struct engine *e) { return e->namesakes->found_count; }

bool namesakes_has(const struct engine *e, const char *path) {
    const struct namesakes *n = e->namesakes;
    uint64_t hash = n->found_count > 0 ? fold_hash(n->letters, path) : 0;
    return n->found_count > 0 && bsearch(&hash, n->found, n->found_count, sizeof(hash), by_number) != NULL;
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
    char *after = e->namesakes->found_count > 0 ? strdup("") : NULL;
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
    return (e->namesakes->letters = fold_open()) != (locale_t)0 ? 0 : -1;
}

void namesakes_close(struct engine *e) {
    struct namesakes *n = e->namesakes;
    if (n == NULL)
        return;
    if (n->letters != (locale_t)0)
        freelocale(n->letters);
    free(n->hashes);
    free(n->found);
    free(n->after);
    free(n);
    e->namesakes = NULL;
}
