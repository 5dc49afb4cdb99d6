/* Starling node: what is taken out of its place. Two folders, `staging`, where files are put together, and `kept`, where what was replaced or deleted
 * stays for a while.
 *
 *   place ── exchanged, moved ──▶ staging/taken-RANDOM-PATH ── looked at ──▶ back, or kept/TIME-RANDOM-PATH with a row in `kept`
 *
 * PATH is a hash of the path that it was, so that what a crash leaves under such a name is known: the next walk keeps it (kept_recover). Where another
 * disk is mounted, the same happens beside the place, under BESIDE. What stands among the kept versions and is not as its version says was written by somebody:
 * late.c makes a copy of it. So nothing that was ever in its place is removed before somebody else is known to have it.
 *
 * Possible failures: the disk is full: what is known to be as it was read goes without being kept, everything else stays where it is. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/engine.h"

#define TAKEN "taken-"
#define BESIDE ".starling-"
#define FRESH "fresh" /* place.c */
#define KEPT_MS (30ull * 24 * 3600 * 1000)
#define KEPT_MAX 2000
#define KEPT_OF_PATH 100           /* where there are more than that */
#define WANTED_MS (3600ull * 1000) /* so long what is kept may still be the only source of what is wanted here */
#define LEFTOVER_MS (24ull * 3600 * 1000)
#define COPY_BYTES (1u << 16)

/* ---- the folders */

static int folder_open(const char *base, const char *name) {
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/%s", base, name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -errno;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int kept_open(struct engine *e) {
    char beside[4096];
    const char *base = e->state;
    struct stat st;
    if (fstat(e->root, &st) == 0 && st.st_dev != e->state_stat.st_dev) { /* a rename does not cross file systems */
        if (snprintf(beside, sizeof(beside), "%s/.starling", e->instance) >= (int)sizeof(beside))
            return -ENAMETOOLONG;
        if (mkdir(beside, 0700) != 0 && errno != EEXIST)
            return -errno;
        base = beside;
    }
    if ((e->staging = folder_open(base, "staging")) < 0)
        return e->staging;
    return (e->kept = folder_open(base, "kept")) < 0 ? e->kept : 0;
}

/* ---- names */

static uint64_t path_hash(const char *path) {
    uint8_t out[crypto_generichash_BYTES_MIN];
    uint64_t hash;
    crypto_generichash(out, sizeof(out), (const uint8_t *)path, strlen(path), NULL, 0);
    memcpy(&hash, out, sizeof(hash));
    return hash;
}

void kept_taken_name(const char *path, bool beside, char out[KEPT_NAME_MAX]) {
    uint64_t random;
    randombytes_buf(&random, sizeof(random));
    snprintf(out, KEPT_NAME_MAX, "%s%s%016" PRIx64 "-%016" PRIx64, beside ? BESIDE : "", TAKEN, random, path_hash(path));
}

/* The hash of the path in such a name. */
static bool name_hash(const char *name, uint64_t *hash) {
    const char *dash = strrchr(name, '-');
    return dash != NULL && strlen(dash + 1) == 16 && sscanf(dash + 1, "%16" SCNx64, hash) == 1;
}

/* ---- moving and copying */

static int copy_bytes(int in, int out) {
    char *buffer = malloc(COPY_BYTES);
    ssize_t n = 0;
    int r = buffer == NULL ? -ENOMEM : 0;
    while (r == 0 && (n = read(in, buffer, COPY_BYTES)) > 0)
        for (ssize_t at = 0, done; at < n && r == 0; at += done)
            if ((done = write(out, buffer + at, (size_t)(n - at))) <= 0)
                r = done < 0 ? -errno : -EIO;
    if (r == 0 && n < 0)
        r = -errno;
    free(buffer);
    return r;
}

int kept_copy(int from, const char *name, int to, const char *as) {
    int in = openat(from, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), r = 0;
    int out = in < 0 ? -1 : openat(to, as, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st, after;
    if (in < 0 || out < 0 || fstat(in, &st) != 0)
        r = -errno;
    if (r == 0 && (r = copy_bytes(in, out)) == 0) {
        const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, st.st_mtim};
        if (fchmod(out, st.st_mode & 0666) != 0 || futimens(out, times) != 0 || fsync(out) != 0 || fstat(in, &after) != 0)
            r = -errno;
        else if (after.st_size != st.st_size || after.st_mtim.tv_sec != st.st_mtim.tv_sec || after.st_mtim.tv_nsec != st.st_mtim.tv_nsec)
            r = -EBUSY;
    }
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    if (r != 0 && out >= 0)
        unlinkat(to, as, 0);
    return r;
}

/* A rename, or a copy where that crosses file systems. */
static int move(int from, const char *name, int to, const char *as) {
    if (renameat2(from, name, to, as, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EXDEV)
        return -errno;
    int r = kept_copy(from, name, to, as);
    if (r == 0)
        unlinkat(from, name, 0);
    return r;
}

int kept_take(struct engine *e, int folder, const char *name, const char *path, struct taken *t) {
    kept_taken_name(path, false, t->name);
    t->folder = e->staging;
    if (renameat2(folder, name, t->folder, t->name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EXDEV)
        return -errno;
    kept_taken_name(path, true, t->name);
    t->folder = folder;
    return renameat2(folder, name, t->folder, t->name, RENAME_NOREPLACE) == 0 ? 0 : -errno;
}

/* ---- keeping */

static int keep_as(struct engine *e, int folder, const char *name, uint64_t hash, const char *path, const struct version *v,
                   const struct content_stamp *was) {
    static const struct version UNKNOWN = {.kind = VERSION_FILE}; /* no file is like this: late.c reads it */
    static const struct content_stamp NONE;
    char kept[KEPT_NAME_MAX];
    uint64_t random, now = clock_wall_ms();
    struct stat st;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (v == NULL || v->kind != VERSION_FILE)
        v = &UNKNOWN;
    randombytes_buf(&random, sizeof(random));
    snprintf(kept, sizeof(kept), "%012" PRIx64 "-%016" PRIx64 "-%016" PRIx64, now, random, hash);
    int r = move(folder, name, e->kept, kept);
    if (r != 0)
        return r;
    if (was != NULL || v == &UNKNOWN)
        late_note(e, path, kept, was != NULL ? was : &NONE);
    content_moved(e->content, ROOT_INSTANCE, path, ROOT_KEPT, kept);
    return index_keep(e->ix, path, kept, v, now) == 0 ? 0 : -EIO;
}

int kept_put(struct engine *e, int folder, const char *name, const char *path, const struct version *v, const struct content_stamp *was) {
    return keep_as(e, folder, name, path_hash(path), path, v, was);
}

bool kept_as_version(const struct stat *st, const struct version *v) {
    struct content_stamp now;
    content_stamp_of(st, &now);
    return now.size == v->size && now.mtime_ns == v->mtime_ns;
}

/* ---- after a crash */

struct search {
    uint64_t hash;
    char *path;
};

static void search_one(void *ctx, const char *path) {
    struct search *s = ctx;
    if (s->path == NULL && path_hash(path) == s->hash && beneath_path_ok(path, strlen(path)))
        s->path = strdup(path);
}

struct same {
    const struct stat *st;
    bool found;
};

static void same_one(void *ctx, const struct kept *k) {
    struct same *s = ctx;
    s->found = s->found || kept_as_version(s->st, &k->version);
}

/* Is this what the index shows there, or one that is kept? Then it was to be put into its place, and can be fetched, or copied, again. */
static bool had(struct engine *e, const char *path, const struct stat *st) {
    struct same s = {st, false};
    struct version v;
    if (index_get(e->ix, path, &v, NULL) == 1 && v.kind == VERSION_FILE && kept_as_version(st, &v))
        return true;
    (void)index_kept(e->ix, path, KEPT_MAX, same_one, &s);
    return s.found;
}

void kept_recover(struct engine *e, int folder, const char *name) {
    struct search s = {0, NULL};
    struct content_stamp now;
    struct stat st;
    struct disk d;
    char *after = strdup("");
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || after == NULL) {
        free(after);
        return;
    }
    bool taken = S_ISREG(st.st_mode) && name_hash(name, &s.hash);
    while (taken && after != NULL && s.path == NULL && index_paths(e->ix, &after, search_one, &s) > 0)
        ;
    free(after);
    content_stamp_of(&st, &now);
    bool known = s.path != NULL && index_disk(e->ix, s.path, &d) == 1 && d.version.kind == VERSION_FILE && d.stamp.inode == now.inode &&
                 d.stamp.device == now.device;
    if (!taken || S_ISDIR(st.st_mode) || (s.path != NULL && !known && had(e, s.path, &st))) {
        if (!S_ISDIR(st.st_mode))
            unlinkat(folder, name, 0);
    } else if (s.path != NULL) {
        (void)keep_as(e, folder, name, s.hash, s.path, known ? &d.version : NULL, NULL);
    } else if (folder != e->kept) { /* of what path it was nobody knows any more */
        engine_say(e, LOG_WARNING, "a crash left a file of unknown name: it is kept as .starling/kept/%s", name);
        (void)move(folder, name, e->kept, name);
    }
    free(s.path);
}

bool kept_leftover(const char *name) {
    static const char *const OURS[] = {BESIDE TAKEN, BESIDE FRESH};
    for (int i = 0; i < 2; i++)
        if (strncmp(name, OURS[i], strlen(OURS[i])) == 0) /* and nothing behind it that we do not write: else it is somebody's own file */
            return name[strlen(OURS[i])] != 0 && strspn(name + strlen(OURS[i]), "0123456789abcdef-") == strlen(name + strlen(OURS[i]));
    return false;
}

struct names {
    char **names;
    size_t count, cap;
};

static void names_add(struct names *n, const char *name) {
    if (n->count == n->cap) {
        size_t cap = n->cap == 0 ? 32 : 2 * n->cap;
        char **more = realloc(n->names, cap * sizeof(*more));
        if (more == NULL)
            return; /* next time */
        n->names = more;
        n->cap = cap;
    }
    if ((n->names[n->count] = strdup(name)) != NULL)
        n->count++;
}

/* The files of a folder, each of them once, whatever is done with it. */
static void each_of(struct engine *e, int folder, void (*each)(struct engine *e, int folder, const char *name)) {
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct names all = {0};
    struct dirent *entry;
    if (dir == NULL && fd >= 0)
        close(fd);
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (entry->d_type != DT_DIR && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            names_add(&all, entry->d_name);
    if (dir != NULL)
        closedir(dir);
    for (size_t i = 0; i < all.count; i++) {
        each(e, folder, all.names[i]);
        free(all.names[i]);
    }
    free(all.names);
}

static bool old(int folder, const char *name, uint64_t ms) {
    struct stat st;
    return fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (uint64_t)st.st_ctim.tv_sec * 1000 + ms < clock_wall_ms();
}

/* What was half fetched and has not been wanted again for a day, and what a crash left. */
static void staging_one(struct engine *e, int folder, const char *name) {
    if (strncmp(name, TAKEN, strlen(TAKEN)) == 0)
        kept_recover(e, folder, name);
    else if (old(folder, name, LEFTOVER_MS))
        unlinkat(folder, name, 0);
}

/* Moved here, and the crash came before the row. */
static void kept_one(struct engine *e, int folder, const char *name) {
    if (index_kept_named(e->ix, name) != 0)
        return;
    if (old(folder, name, KEPT_MS) || strstr(name, KEPT_BASE) != NULL)
        unlinkat(folder, name, 0);
    else
        kept_recover(e, folder, name);
}

/* ---- tidying up */

struct kept_path {
    char *path;
    uint32_t count;
    UT_hash_handle hh;
};

struct tidy {
    struct engine *e;
    uint32_t count;
    bool full;
    struct kept_path *paths;
};

static void count_one(void *ctx, const struct kept *k) {
    (void)k;
    ++*(uint32_t *)ctx;
}

/* The number of this one among those of its path, the newest first. */
static uint32_t of_path(struct tidy *o, const char *path) {
    struct kept_path *p;
    HASH_FIND_STR(o->paths, path, p);
    if (p == NULL && (p = calloc(1, sizeof(*p))) != NULL && (p->path = strdup(path)) != NULL) {
        HASH_ADD_KEYPTR(hh, o->paths, p->path, strlen(p->path), p);
    } else if (p != NULL && p->path == NULL) {
        free(p);
        p = NULL;
    }
    return p != NULL ? ++p->count : 0;
}

static void tidy_one(void *ctx, const struct kept *k) {
    struct tidy *o = ctx;
    uint64_t age = clock_wall_ms() - k->at_ms; /* by a clock that went back: very old, or very young; it goes by number then */
    struct content_stamp stamp = {.size = k->version.size, .mtime_ns = k->version.mtime_ns};
    struct stat st;
    bool there = fstatat(o->e->kept, k->name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && !kept_as_version(&st, &k->version)) {
        late_note(o->e, k->path, k->name, &stamp);
        return;
    }
    bool often = o->full && of_path(o, k->path) > KEPT_OF_PATH; /* what is written all the time does not drive out everything else */
    bool beyond = (often || o->count >= KEPT_MAX) && (age > WANTED_MS || o->e->wants == NULL);
    if (there && !beyond && (age < KEPT_MS || age > INT64_MAX)) {
        o->count++;
        return;
    }
    content_gone(o->e->content, ROOT_KEPT, k->name);
    unlinkat(o->e->kept, k->name, 0);
    index_kept_drop(o->e->ix, k->id);
}

void kept_tidy(struct engine *e) {
    struct tidy o = {.e = e};
    struct kept_path *p, *next;
    uint32_t all = 0;
    each_of(e, e->staging, staging_one);
    if (!e->recovered)
        each_of(e, e->kept, kept_one);
    e->recovered = true;
    (void)index_kept(e->ix, NULL, UINT32_MAX, count_one, &all);
    o.full = all > KEPT_MAX;
    (void)index_kept(e->ix, NULL, UINT32_MAX, tidy_one, &o);
    HASH_ITER(hh, o.paths, p, next) {
        HASH_DEL(o.paths, p);
        free(p->path);
        free(p);
    }
    (void)index_deleted_tidy(e->ix, clock_wall_ms() - KEPT_MS);
}
