/* Starling tests: see powercut_vfs.h. */
#include "powercut_vfs.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 256

enum edit_kind { EDIT_CREATE, EDIT_WRITE, EDIT_TRUNCATE, EDIT_DELETE };

struct edit {
    enum edit_kind kind;
    int64_t at; /* offset, or the new size */
    size_t len;
    uint8_t *data;
};

struct image {
    bool exists;
    uint8_t *data;
    size_t len, cap;
};

struct powercut_file {
    struct powercut_file *next;
    char path[PATH_BYTES];
    struct image synced;
    struct edit *changes; /* since then */
    uint32_t count, cap;
};

struct handle {
    sqlite3_file base;
    struct powercut *p;
    struct powercut_file *file; /* NULL: temporary, not tracked */
    sqlite3_file *real;         /* behind this struct */
};

uint64_t powercut_random(uint64_t *state) {
    assert(*state);
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/* ---- images and changes */

static void image_apply(struct image *m, const struct edit *c, size_t len) {
    switch (c->kind) {
    case EDIT_CREATE: m->exists = true; break;
    case EDIT_DELETE:
        m->exists = false;
        m->len = 0;
        break;
    case EDIT_WRITE:
    case EDIT_TRUNCATE: {
        size_t end = c->kind == EDIT_WRITE ? (size_t)c->at + len : (size_t)c->at;
        if (!m->exists) /* its creation was lost: so is this */
            break;
        if (end > m->cap) {
            m->cap = end * 2;
            m->data = realloc(m->data, m->cap);
            assert(m->data);
        }
        if (end > m->len)
            memset(m->data + m->len, 0, end - m->len);
        if (c->kind == EDIT_WRITE && len)
            memcpy(m->data + c->at, c->data, len);
        if (end > m->len || c->kind == EDIT_TRUNCATE)
            m->len = end;
        break;
    }
    }
}

static void changes_clear(struct powercut_file *f) {
    for (uint32_t i = 0; i < f->count; i++)
        free(f->changes[i].data);
    f->count = 0;
}

static void changes_add(struct powercut_file *f, enum edit_kind kind, int64_t at, const void *data, size_t len) {
    if (f->count == f->cap) {
        f->cap = f->cap ? f->cap * 2 : 64;
        f->changes = realloc(f->changes, f->cap * sizeof *f->changes);
        assert(f->changes);
    }
    struct edit *c = &f->changes[f->count++];
    *c = (struct edit){.kind = kind, .at = at, .len = len};
    if (len) {
        c->data = malloc(len);
        assert(c->data);
        memcpy(c->data, data, len);
    }
}

static void changes_sync(struct powercut_file *f) {
    for (uint32_t i = 0; i < f->count; i++)
        image_apply(&f->synced, &f->changes[i], f->changes[i].len);
    changes_clear(f);
}

/* ---- files */

static void image_read(struct image *m, const char *path) {
    FILE *in = fopen(path, "rb");
    if (!in)
        return;
    m->exists = true;
    fseek(in, 0, SEEK_END);
    m->len = m->cap = (size_t)ftell(in);
    rewind(in);
    m->data = malloc(m->cap + 1);
    assert(m->data);
    size_t got = fread(m->data, 1, m->len, in);
    assert(got == m->len);
    fclose(in);
}

static struct powercut_file *file_get(struct powercut *p, const char *path) {
    for (struct powercut_file *f = p->files; f; f = f->next)
        if (strcmp(f->path, path) == 0)
            return f;
    struct powercut_file *f = calloc(1, sizeof *f);
    assert(f && strlen(path) < sizeof f->path);
    snprintf(f->path, sizeof f->path, "%s", path);
    image_read(&f->synced, path);
    f->next = p->files;
    p->files = f;
    return f;
}

/* Before a counted operation: SQLITE_OK, or the code it must fail with. */
static int gate(struct powercut *p, int dead_code) {
    if (p->dead)
        return dead_code;
    if (p->paused)
        return SQLITE_OK;
    p->ops++;
    if (p->ops == p->hook_at) {
        p->paused = true;
        p->hook(p->hook_ctx);
        p->paused = false;
    }
    if (p->ops == p->cut_at) {
        p->dead = true;
        return dead_code;
    }
    bool fails = p->fail_at && p->ops >= p->fail_at && p->ops - p->fail_at < p->fail_count;
    return fails ? p->fail_code : SQLITE_OK;
}

/* ---- methods of an open file */

static struct handle *H(sqlite3_file *f) { return (struct handle *)f; }

static int x_close(sqlite3_file *f) { return H(f)->real->pMethods ? H(f)->real->pMethods->xClose(H(f)->real) : SQLITE_OK; }

static int x_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at) {
    return H(f)->p->dead ? SQLITE_IOERR_READ : H(f)->real->pMethods->xRead(H(f)->real, to, n, at);
}

static int x_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at) {
    struct handle *h = H(f);
    int r = h->file ? gate(h->p, SQLITE_IOERR_WRITE) : SQLITE_OK;
    if (r == SQLITE_OK)
        r = h->real->pMethods->xWrite(h->real, from, n, at);
    if (r == SQLITE_OK && h->file)
        changes_add(h->file, EDIT_WRITE, at, from, (size_t)n);
    return r;
}

static int x_truncate(sqlite3_file *f, sqlite3_int64 size) {
    struct handle *h = H(f);
    int r = h->file ? gate(h->p, SQLITE_IOERR_TRUNCATE) : SQLITE_OK;
    if (r == SQLITE_OK)
        r = h->real->pMethods->xTruncate(h->real, size);
    if (r == SQLITE_OK && h->file)
        changes_add(h->file, EDIT_TRUNCATE, size, NULL, 0);
    return r;
}

static int x_sync(sqlite3_file *f, int flags) {
    (void)flags; /* the system's sync would cost time and add nothing */
    struct handle *h = H(f);
    struct powercut *p = h->p;
    int r = h->file ? gate(p, SQLITE_IOERR_FSYNC) : SQLITE_OK;
    bool ignored = p->sync_ignored && h->file && strstr(h->file->path, p->sync_ignored) && (!p->sync_only_ours || p->ours);
    if (r == SQLITE_OK && h->file && !ignored) {
        bool journaled = h->file->count > 0 || !p->idle_sync_is_nothing;
        changes_sync(h->file);
        for (struct powercut_file *other = p->files; other && journaled; other = other->next)
            if (other->count && other->changes[other->count - 1].kind == EDIT_DELETE)
                changes_sync(other);
    }
    return r;
}

static int x_size(sqlite3_file *f, sqlite3_int64 *size) {
    return H(f)->p->dead ? SQLITE_IOERR_FSTAT : H(f)->real->pMethods->xFileSize(H(f)->real, size);
}

static int x_lock(sqlite3_file *f, int level) { return H(f)->p->dead ? SQLITE_IOERR_LOCK : H(f)->real->pMethods->xLock(H(f)->real, level); }

static int x_unlock(sqlite3_file *f, int level) { return H(f)->real->pMethods->xUnlock(H(f)->real, level); }

static int x_reserved(sqlite3_file *f, int *out) { return H(f)->real->pMethods->xCheckReservedLock(H(f)->real, out); }

static int x_control(sqlite3_file *f, int op, void *arg) {
    if (op == SQLITE_FCNTL_SIZE_HINT || op == SQLITE_FCNTL_CHUNK_SIZE) /* would change the file behind our back */
        return SQLITE_NOTFOUND;
    return H(f)->real->pMethods->xFileControl(H(f)->real, op, arg);
}

static int x_sector(sqlite3_file *f) { return H(f)->real->pMethods->xSectorSize(H(f)->real); }

static int x_device(sqlite3_file *f) { return H(f)->real->pMethods->xDeviceCharacteristics(H(f)->real); }

static int x_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out) {
    return H(f)->p->dead ? SQLITE_IOERR_SHMMAP : H(f)->real->pMethods->xShmMap(H(f)->real, page, size, extend, out);
}

static int x_shm_lock(sqlite3_file *f, int at, int n, int flags) {
    if (H(f)->p->dead && (flags & SQLITE_SHM_LOCK))
        return SQLITE_IOERR_SHMLOCK;
    return H(f)->real->pMethods->xShmLock(H(f)->real, at, n, flags);
}

static void x_shm_barrier(sqlite3_file *f) { H(f)->real->pMethods->xShmBarrier(H(f)->real); }

static int x_shm_unmap(sqlite3_file *f, int delete_it) { return H(f)->real->pMethods->xShmUnmap(H(f)->real, delete_it); }

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* no memory mapping: reads and writes must pass here */
    .xClose = x_close,
    .xRead = x_read,
    .xWrite = x_write,
    .xTruncate = x_truncate,
    .xSync = x_sync,
    .xFileSize = x_size,
    .xLock = x_lock,
    .xUnlock = x_unlock,
    .xCheckReservedLock = x_reserved,
    .xFileControl = x_control,
    .xSectorSize = x_sector,
    .xDeviceCharacteristics = x_device,
    .xShmMap = x_shm_map,
    .xShmLock = x_shm_lock,
    .xShmBarrier = x_shm_barrier,
    .xShmUnmap = x_shm_unmap,
};

/* ---- methods of the VFS */

static struct powercut *P(sqlite3_vfs *v) { return v->pAppData; }

static int v_open(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags, int *out_flags) {
    struct powercut *p = P(v);
    struct handle *h = H(f);
    memset(h, 0, sizeof *h);
    if (p->dead)
        return SQLITE_CANTOPEN;
    h->p = p;
    h->real = (sqlite3_file *)(h + 1);
    if (path && (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)))
        h->file = file_get(p, path);
    bool creates = h->file && (flags & SQLITE_OPEN_CREATE) && access(path, F_OK) != 0;
    int r = creates ? gate(p, SQLITE_CANTOPEN) : SQLITE_OK;
    if (r == SQLITE_OK)
        r = p->real->xOpen(p->real, path, h->real, flags, out_flags);
    if (r != SQLITE_OK)
        return r;
    if (creates)
        changes_add(h->file, EDIT_CREATE, 0, NULL, 0);
    f->pMethods = &methods;
    return SQLITE_OK;
}

static int v_delete(sqlite3_vfs *v, const char *path, int sync_folder) {
    struct powercut *p = P(v);
    struct powercut_file *f = file_get(p, path);
    int r = gate(p, SQLITE_IOERR_DELETE);
    if (r == SQLITE_OK)
        r = p->real->xDelete(p->real, path, 0);
    if (r == SQLITE_OK) {
        changes_add(f, EDIT_DELETE, 0, NULL, 0);
        if (sync_folder)
            changes_sync(f);
    }
    return r;
}

static int v_access(sqlite3_vfs *v, const char *path, int flags, int *out) {
    return P(v)->dead ? SQLITE_IOERR_ACCESS : P(v)->real->xAccess(P(v)->real, path, flags, out);
}

static int v_full_path(sqlite3_vfs *v, const char *path, int n, char *out) { return P(v)->real->xFullPathname(P(v)->real, path, n, out); }

static int v_randomness(sqlite3_vfs *v, int n, char *out) { return P(v)->real->xRandomness(P(v)->real, n, out); }

static int v_sleep(sqlite3_vfs *v, int us) { return P(v)->real->xSleep(P(v)->real, us); }

static int v_time(sqlite3_vfs *v, double *out) { return P(v)->real->xCurrentTime(P(v)->real, out); }

static int v_time64(sqlite3_vfs *v, sqlite3_int64 *out) { return P(v)->real->xCurrentTimeInt64(P(v)->real, out); }

static int v_error(sqlite3_vfs *v, int n, char *out) { return P(v)->real->xGetLastError(P(v)->real, n, out); }

void powercut_init(struct powercut *p) {
    memset(p, 0, sizeof *p);
    p->real = sqlite3_vfs_find(NULL);
    assert(p->real && p->real->iVersion >= 2);
    p->vfs = (sqlite3_vfs){.iVersion = 2,
                           .szOsFile = (int)sizeof(struct handle) + p->real->szOsFile,
                           .mxPathname = PATH_BYTES - 20,
                           .zName = POWERCUT_VFS,
                           .pAppData = p,
                           .xOpen = v_open,
                           .xDelete = v_delete,
                           .xAccess = v_access,
                           .xFullPathname = v_full_path,
                           .xRandomness = v_randomness,
                           .xSleep = v_sleep,
                           .xCurrentTime = v_time,
                           .xGetLastError = v_error,
                           .xCurrentTimeInt64 = v_time64};
    int r = sqlite3_vfs_register(&p->vfs, 0);
    assert(r == SQLITE_OK);
}

static void files_forget(struct powercut *p) {
    while (p->files) {
        struct powercut_file *f = p->files;
        p->files = f->next;
        changes_clear(f);
        free(f->changes);
        free(f->synced.data);
        free(f);
    }
}

void powercut_release(struct powercut *p) {
    sqlite3_vfs_unregister(&p->vfs);
    files_forget(p);
}

void powercut_reset(struct powercut *p) {
    files_forget(p);
    p->ops = p->cut_at = p->fail_at = p->fail_count = p->hook_at = 0;
    p->dead = p->paused = p->ours = false;
}

void powercut_arm(struct powercut *p, uint64_t cut_at) {
    p->ops = 0;
    p->cut_at = cut_at;
}

/* ---- the power is back */

static void survive(struct powercut_file *f, enum powercut_tail tail, uint64_t *random) {
    uint32_t kept = tail == TAIL_LOSE ? 0 : f->count;
    if (tail == TAIL_PREFIX || tail == TAIL_TORN)
        kept = (uint32_t)(powercut_random(random) % (f->count + 1u));
    bool ordered = tail != TAIL_SUBSET || strstr(f->path, "-journal"); /* SQLite relies on a journal growing in order */
    bool here = true; /* writes go to the file that has the name on the disk, not to one whose creation was lost */
    for (uint32_t i = 0; i < kept; i++) {
        const struct edit *e = &f->changes[i];
        bool survives = ordered || powercut_random(random) % 2;
        if (e->kind == EDIT_CREATE || e->kind == EDIT_DELETE)
            here = e->kind == EDIT_CREATE && survives;
        if (survives && (here || e->kind == EDIT_DELETE))
            image_apply(&f->synced, e, e->len);
    }
    if (tail == TAIL_TORN && kept < f->count && f->changes[kept].kind == EDIT_WRITE)
        image_apply(&f->synced, &f->changes[kept], powercut_random(random) % (f->changes[kept].len + 1));
    changes_clear(f);
}

static void image_write(const struct image *m, const char *path) {
    if (!m->exists) {
        unlink(path);
        return;
    }
    FILE *out = fopen(path, "wb");
    assert(out);
    size_t put = m->len ? fwrite(m->data, 1, m->len, out) : 0;
    assert(put == m->len);
    int r = fclose(out);
    assert(r == 0);
}

void powercut_restore(struct powercut *p, enum powercut_tail app_tail, enum powercut_tail state_tail, uint64_t *random) {
    for (struct powercut_file *f = p->files; f; f = f->next) {
        survive(f, strstr(f->path, ".state") ? state_tail : app_tail, random);
        image_write(&f->synced, f->path);
        char shm[PATH_BYTES + 8];
        snprintf(shm, sizeof shm, "%s-shm", f->path);
        unlink(shm);
    }
    p->dead = false;
    p->ops = p->cut_at = 0;
}
