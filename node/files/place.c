/* Starling node: from the index onto the disk. What is fetched stands whole and durable in the staging folder; one rename puts it in its place. Where
 * something is there already the two change places (RENAME_EXCHANGE), and only then what came out is held against what was known to be there: if
 * the application wrote in between, they change back, and its write is a local edit first. So a reader sees the old or the new, never none, and
 * nothing is overwritten that is not in the index. What was replaced or deleted is kept for a while.
 *
 * Possible failures: the disk is full, or the folder may not be written: said, red, tried again; the disk is not as it was known to be: the path is
 * looked at first (take.c); a name leads out, or is none: never. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define FOREIGN_MS 4000 /* who wrote what prevails settles it; after so long whoever sees it does */
#define RETRY_MS 2000
#define LOST_MS 5000
#define RESERVE_BYTES (64ull << 20) /* of the disk stay free; of a small one a twentieth */
#define SYNCS_MAX 16
#define LEFT_TRIES 20

/* ---- syncing folders, each once for all that was put into it */

struct syncs {
    int fds[SYNCS_MAX];
    ino_t inodes[SYNCS_MAX];
    int count;
};

static void syncs_do(struct syncs *s) {
    for (int i = 0; i < s->count; i++) {
        fsync(s->fds[i]);
        close(s->fds[i]);
    }
    s->count = 0;
}

static void syncs_add(struct syncs *s, int folder) {
    struct stat st;
    if (fstat(folder, &st) != 0)
        return;
    for (int i = 0; i < s->count; i++)
        if (s->inodes[i] == st.st_ino)
            return;
    if (s->count == SYNCS_MAX)
        syncs_do(s);
    int fd = beneath_reopen(folder, O_RDONLY | O_DIRECTORY);
    if (fd >= 0) {
        s->inodes[s->count] = st.st_ino;
        s->fds[s->count++] = fd;
    }
}

/* ---- what the disk should be like, and is */

/* Is at path what disk says? Otherwise somebody else's hand was at it. */
static bool as_known(struct engine *e, const char *path, const struct disk *d) {
    struct content_stamp now;
    struct stat st;
    int r = root_stat(e, path, &st);
    if (r == -ENOENT || r == -ENOTDIR)
        return d == NULL || d->version.kind == VERSION_GONE;
    if (r != 0 || d == NULL)
        return false;
    content_stamp_of(&st, &now);
    switch (d->version.kind) {
    case VERSION_GONE: return S_ISDIR(st.st_mode) && now.inode == d->stamp.inode; /* left for what is in it */
    case VERSION_FOLDER: return S_ISDIR(st.st_mode);
    case VERSION_LINK: return S_ISLNK(st.st_mode) && now.mtime_ns == d->stamp.mtime_ns;
    case VERSION_FILE:
        return S_ISREG(st.st_mode) && now.inode == d->stamp.inode && now.size == d->stamp.size && now.mtime_ns == d->stamp.mtime_ns;
    }
    return false;
}

static void unwant(struct engine *e, struct item *it) {
    if (it->want == 0)
        return;
    HASH_DELETE(hh_want, e->wants, it);
    content_cancel(e->content, it->want);
    it->want = 0;
}

static bool same_file(const struct content_stamp *a, const struct content_stamp *b) {
    return a->inode == b->inode && a->device == b->device && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

static void recorded(struct engine *e, struct item *it, const struct disk *now) {
    it->show = it->rotten = false;
    if (index_disk_put(e->ix, it->path, now) == 0)
        engine_trouble(e, it->noted, "");
    engine_read(e, it->path); /* whatever stood in the way */
}

/* left: the folder that stays for what is in it; all 0: none does. Whatever else stands there came since, and is somebody's. */
static void shown_gone(struct engine *e, struct item *it, const struct version *v, const struct content_stamp *left) {
    namesakes_went(e, it->path);
    recorded(e, it, &(struct disk){.version = *v, .stamp = {.inode = left->inode, .device = left->device}});
}

/* put: what was put there, or found there (NULL: a folder). Whoever wrote since then is not overlooked: what stands there now is not
 * taken for it. */
static void shown(struct engine *e, struct item *it, const struct version *v, int mode, const struct content_stamp *put) {
    struct disk now = {.version = *v, .mode = mode};
    struct stat st;
    if (root_stat(e, it->path, &st) == 0)
        content_stamp_of(&st, &now.stamp);
    if (now.stamp.inode != 0 && S_ISDIR(st.st_mode))
        now.stamp.size = 0, now.stamp.mtime_ns = now.stamp.ctime_ns = 0;
    if (put != NULL && !same_file(&now.stamp, put)) {
        now.stamp = *put;
        now.stamp.ctime_ns = 0;
        item_look(e, it->path, e->still_ms);
    } else if (v->kind == VERSION_FILE && now.stamp.inode != 0) {
        content_note(e->content, ROOT_INSTANCE, it->path, v->hash, &st);
        fuse_note(e, it->path, v);
    }
    recorded(e, it, &now);
}

static void failed(struct engine *e, struct item *it, int error) {
    char text[300];
    if (error == -ENOSPC || error == -EDQUOT || error == -EACCES || error == -EPERM || error == -EROFS || error == -EXDEV) {
        snprintf(text, sizeof(text), "%.180s cannot be written here: %s", it->path,
                 error == -EDQUOT && e->policy.quota_mb > 0 ? "it is more than quota_mb allows" : strerror(-error));
        engine_trouble(e, it->noted, text);
    }
    engine_say(e, LOG_DEBUG, "%s cannot be put into its place now: %s", it->path, strerror(-error));
    item_again(e, it, RETRY_MS);
}

static void disk_first(struct engine *e, struct item *it) {
    it->disk = true;
    item_again(e, it, it->tries++ < 4 ? 0 : RETRY_MS);
}

static bool as_read(const struct stat *st, const struct disk *d) {
    struct content_stamp now;
    content_stamp_of(st, &now);
    return now.inode == d->stamp.inode && now.size == d->stamp.size && now.mtime_ns == d->stamp.mtime_ns;
}

/* Takes away what is at path, as disk says. 0, or -errno; -EBUSY: it is not what disk says. */
static int clear(struct engine *e, struct item *it, const struct disk *d, int folder, const char *name) {
    struct stat st;
    if (d == NULL || d->version.kind == VERSION_GONE)
        return 0;
    if (d->version.kind == VERSION_FOLDER) {
        root_forget(e); /* it may be held open */
        return unlinkat(folder, name, AT_REMOVEDIR) != 0 && errno != ENOENT ? -errno : 0;
    }
    /* Out of sight first, then looked at: whoever wrote meanwhile wrote into this file. */
    struct taken t;
    int r = kept_take(e, folder, name, it->path, &t);
    if (r != 0)
        return r == -ENOENT ? 0 : r;
    bool same = fstatat(t.folder, t.name, &st, AT_SYMLINK_NOFOLLOW) == 0 && as_read(&st, d);
    if (!same && renameat2(t.folder, t.name, folder, name, RENAME_NOREPLACE) == 0)
        return -EBUSY;
    if (kept_put(e, t.folder, t.name, it->path, &d->version, &d->stamp) != 0 && same)
        unlinkat(t.folder, t.name, 0);
    return 0;
}

/* ---- folders, links, deletions, files */

/* What was left of it at the last deletion, and still is. */
static void still_left(struct engine *e, const char *path, const struct disk *d, struct content_stamp *left) {
    struct stat st;
    if (d->version.kind == VERSION_GONE && root_stat(e, path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_ino == d->stamp.inode)
        *left = d->stamp;
}

static int put_gone(struct engine *e, struct item *it, const struct disk *d, struct content_stamp *left) {
    const char *name;
    struct stat st;
    int folder = root_parent(e, it->path, false, &name);
    if (folder == -ENOENT || folder == -ENOTDIR)
        return 0;
    if (folder < 0)
        return folder;
    int r = clear(e, it, d, folder, name);
    if ((r == -ENOTEMPTY || r == -EEXIST) && it->tries > LEFT_TRIES && fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        content_stamp_of(&st, left); /* left for what is in it that is not replicated */
        r = 0;
    }
    close(folder);
    if (d != NULL)
        still_left(e, it->path, d, left);
    return r;
}

static int put_folder(struct engine *e, struct item *it, const struct disk *d, int mode) {
    const char *name;
    int folder = root_parent(e, it->path, true, &name);
    if (folder < 0)
        return folder;
    int r = d != NULL && d->version.kind == VERSION_FOLDER ? 0 : clear(e, it, d, folder, name);
    if (r == 0)
        r = beneath_mkdir(folder, name);
    (void)mode; /* who may do what with a folder is up to this server */
    close(folder);
    if (r == 0)
        watch_folder(e, it->path);
    return r;
}

/* Brings the staged file to the file system of `folder`, under a name by which a crash would be understood. */
static int bring(struct engine *e, const char *path, int folder, const char *staged, struct taken *t) {
    struct stat here, there;
    char fresh[KEPT_NAME_MAX];
    if (fstat(folder, &there) != 0 || fstat(e->staging, &here) != 0)
        return -errno;
    t->folder = there.st_dev == here.st_dev ? e->staging : folder;
    kept_taken_name(path, t->folder == folder, t->name);
    if (t->folder == e->staging)
        return renameat2(e->staging, staged, t->folder, t->name, RENAME_NOREPLACE) != 0 ? -errno : 0;
    /* another disk is mounted there: copied first, and renamed from beside it */
    snprintf(fresh, sizeof(fresh), ".starling-fresh%llx", (unsigned long long)uv_hrtime());
    int r = kept_copy(e->staging, staged, folder, fresh);
    if (r == 0 && renameat2(folder, fresh, folder, t->name, RENAME_NOREPLACE) != 0)
        r = -errno;
    if (r != 0)
        unlinkat(folder, fresh, 0);
    return r;
}

/* Whose it is: what the configuration says, or whose what it replaces (name; NULL: nothing) was, or the folder is. Only root can give files away. */
static int give(const struct engine *e, int folder, const char *name, int from, const char *staged, const struct stat *st) {
    struct stat there;
    if (geteuid() != 0 || ((name == NULL || fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW) != 0) && fstat(folder, &there) != 0))
        return 0;
    uid_t uid = e->policy.owner != NULL ? e->policy.uid : there.st_uid;
    gid_t gid = e->policy.owner != NULL && e->policy.gid != UINT32_MAX ? e->policy.gid : there.st_gid;
    if (uid == st->st_uid && gid == st->st_gid)
        return 0;
    return fchownat(from, staged, uid, gid, AT_SYMLINK_NOFOLLOW) != 0 ? -errno : 0;
}

/* What came out of its place, in exchange. 0, or -EBUSY: it was not what was expected, and is back. */
static int came_out(struct engine *e, const char *path, int folder, const char *name, const struct taken *t, const struct version *was,
                    const struct disk *expected) {
    struct stat st;
    bool same = expected == NULL || (fstatat(t->folder, t->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && as_read(&st, expected));
    if (!same && renameat2(t->folder, t->name, folder, name, RENAME_EXCHANGE) == 0)
        return -EBUSY;
    if (kept_put(e, t->folder, t->name, path, was, expected != NULL ? &expected->stamp : NULL) != 0 && same && was != NULL)
        unlinkat(t->folder, t->name, 0);
    return 0;
}

/* Where nothing is, nothing comes out: one rename from the staging folder. -EXDEV: another disk is mounted there. */
static int put_new(struct engine *e, int folder, const char *name, const char *staged, struct content_stamp *put) {
    struct stat st;
    if (fstatat(e->staging, staged, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return -errno;
    int r = give(e, folder, NULL, e->staging, staged, &st);
    if (r == 0 && renameat2(e->staging, staged, folder, name, RENAME_NOREPLACE) != 0)
        r = errno == EEXIST ? -EBUSY : -errno;
    content_stamp_of(&st, put);
    return r;
}

int place_put(struct engine *e, const char *path, int folder, const char *name, const char *staged, const struct version *was,
              const struct disk *expected, struct content_stamp *put) {
    bool nothing = expected != NULL && expected->version.kind == VERSION_GONE;
    struct taken t;
    struct stat st;
    int r = nothing ? put_new(e, folder, name, staged, put) : -EXDEV;
    if (r == 0)
        return 0;
    if (r == -EXDEV)
        r = bring(e, path, folder, staged, &t);
    if (r != 0) {
        unlinkat(e->staging, staged, 0);
        return r;
    }
    if (fstatat(t.folder, t.name, &st, AT_SYMLINK_NOFOLLOW) != 0 || (r = give(e, folder, name, t.folder, t.name, &st)) != 0) {
        unlinkat(t.folder, t.name, 0);
        return r != 0 ? r : -EIO;
    }
    content_stamp_of(&st, put);
    if (!nothing && renameat2(t.folder, t.name, folder, name, RENAME_EXCHANGE) == 0) {
        r = came_out(e, path, folder, name, &t, was, expected);
        if (r == 0) {
            unlinkat(e->staging, staged, 0);
            return 0;
        }
    } else if (!nothing && (errno != ENOENT || expected != NULL)) {
        r = errno == ENOENT ? -EBUSY : -errno;
    } else if (renameat2(t.folder, t.name, folder, name, RENAME_NOREPLACE) != 0) {
        r = errno == EEXIST ? -EBUSY : -errno;
    }
    if (r != 0)
        unlinkat(t.folder, t.name, 0);
    unlinkat(e->staging, staged, 0);
    return r;
}

/* Puts the staged file at it->path in place of what d says. */
static int put_staged(struct engine *e, struct item *it, const struct disk *d, const char *staged, struct syncs *syncs,
                      struct content_stamp *put) {
    static const struct disk NOTHING = {.version = {.kind = VERSION_GONE}};
    const char *name;
    int folder = root_parent(e, it->path, true, &name), r = 0;
    if (folder < 0)
        return folder;
    if (d != NULL && d->version.kind == VERSION_FOLDER)
        r = clear(e, it, d, folder, name);
    if (d == NULL || d->version.kind == VERSION_FOLDER)
        d = &NOTHING;
    struct version was = d->version;
    if (it->rotten)
        memcpy(was.hash, it->rot, sizeof(was.hash));
    if (r == 0)
        r = place_put(e, it->path, folder, name, staged, &was, d, put);
    if (r == 0)
        syncs_add(syncs, folder);
    close(folder);
    return r;
}

static int put_link(struct engine *e, struct item *it, const struct disk *d, const struct version *v, struct content_stamp *put) {
    struct syncs syncs = {.count = 0};
    char staged[48];
    snprintf(staged, sizeof(staged), "link-%llu", (unsigned long long)it->noted);
    unlinkat(e->staging, staged, 0);
    if (symlinkat(v->target, e->staging, staged) != 0)
        return -errno;
    int r = put_staged(e, it, d, staged, &syncs, put);
    if (r != 0)
        unlinkat(e->staging, staged, 0);
    syncs_do(&syncs);
    return r;
}

static void finish(struct engine *e, struct item *it, const struct version *v, int mode, const struct content_stamp *put, int r) {
    if (r == -EBUSY)
        disk_first(e, it);
    else if (r < 0)
        failed(e, it, r);
    else {
        if (v->kind == VERSION_GONE)
            shown_gone(e, it, v, put);
        else
            shown(e, it, v, mode, put);
        engine_say(e, LOG_DEBUG, "%s: %s by %s", it->path, v->kind == VERSION_GONE ? "deleted" : "as written", v->name);
        hooks_run(e, it->path, v->kind == VERSION_GONE ? "delete" : "change");
    }
}

/* What permissions it gets: nothing that came from elsewhere can be run, and who runs this can go on with it. */
static mode_t mode_of(struct engine *e, const char *path, int mode) {
    const char *name;
    struct stat st;
    if (!e->policy.modes_local)
        return (mode_t)((mode & 0666) | 0600);
    int folder = root_parent(e, path, true, &name);
    bool found = folder >= 0 && ((fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) || fstat(folder, &st) == 0);
    if (folder >= 0)
        close(folder);
    return found ? (st.st_mode & 0666) | 0600 : 0600; /* as what it replaces, or as its folder */
}

static int dress(struct engine *e, const char *path, int fd, const char *name, const struct version *v, int mode) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = v->mtime_ns / 1000000000, .tv_nsec = v->mtime_ns % 1000000000}};
    if (times[1].tv_nsec < 0) {
        times[1].tv_sec--;
        times[1].tv_nsec += 1000000000;
    }
    if (fchmodat(fd, name, mode_of(e, path, mode), 0) != 0)
        return -errno;
    return utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW) != 0 ? -errno : 0;
}

/* Would it be more than the files here may take, with what is on its way? */
static bool beyond_quota(struct engine *e, const struct version *v, const struct disk *d) {
    struct content_totals t = {0};
    if (e->policy.quota_mb == 0)
        return false;
    content_totals(e->content, &t);
    uint64_t there = d != NULL && d->version.kind == VERSION_FILE ? d->version.size : 0, quota = e->policy.quota_mb << 20;
    return v->size > there && (v->size > quota || index_sums(e->ix)->bytes - there + t.wants_bytes > quota - v->size);
}

/* The others wait for the rename of this one's content: one want a path. */
static void file_wanted(struct engine *e, struct item *it, const struct version *v, const struct disk *d) {
    struct content_want want = {.size = v->size, .root = ROOT_INSTANCE, .hinted = true};
    struct statvfs fs;
    if (it->want != 0 && memcmp(it->hash, v->hash, sizeof(it->hash)) == 0)
        return; /* under way */
    unwant(e, it);
    uint64_t reserve = fstatvfs(e->staging, &fs) != 0 ? 0 : (uint64_t)fs.f_blocks * fs.f_frsize / 20;
    reserve = reserve > RESERVE_BYTES ? RESERVE_BYTES : reserve;
    if (reserve > 0 && (uint64_t)fs.f_bavail * fs.f_frsize < v->size + reserve && v->size > 0) {
        failed(e, it, -ENOSPC);
        return;
    }
    if (beyond_quota(e, v, d)) {
        failed(e, it, -EDQUOT);
        return;
    }
    memcpy(want.hash, v->hash, sizeof(want.hash));
    memcpy(want.peer, v->by, sizeof(want.peer));
    if (d != NULL && d->version.kind == VERSION_FILE && !it->rotten) {
        want.based = true;
        memcpy(want.base, d->version.hash, sizeof(want.base));
    }
    memcpy(it->hash, v->hash, sizeof(it->hash));
    it->want = content_want(e->content, &want);
    it->want_ms = clock_mono_ms();
    if (it->want == 0)
        item_again(e, it, AGAIN_MS * 10);
    else
        HASH_ADD(hh_want, e->wants, want, sizeof(it->want), it);
}

bool place_lost(struct engine *e, const struct item *it) {
    struct content_progress p;
    return it->want != 0 && clock_mono_ms() - it->want_ms > LOST_MS && content_progress(e->content, it->want, &p) &&
           p.state == CONTENT_WAITING && p.sources == 0;
}

void place_lost_look(struct engine *e) {
    char lost[sizeof(e->lost)] = "";
    struct item *it, *next;
    struct version v;
    HASH_ITER(hh_want, e->wants, it, next) {
        if (!place_lost(e, it) || index_get(e->ix, it->path, &v, NULL) != 1 || clash_withdraw(e, it->path, &v))
            continue;
        if (lost[0] != 0)
            continue;
        snprintf(lost, sizeof(lost),
                 "%.100s: the version of %s is at no server that is reached from here: start that one, or `starling files accept` gives "
                 "the version up",
                 it->path, v.name);
    }
    e->summary_due = e->summary_due || strcmp(lost, e->lost) != 0;
    snprintf(e->lost, sizeof(e->lost), "%s", lost);
}

/* ---- both sides changed */

static bool fusible(struct engine *e, const char *path, const struct version *v, const struct disk *d) {
    return d != NULL && v->kind == VERSION_FILE && d->version.kind == VERSION_FILE && d->version.rank == RANK_MEANT &&
           !version_descends(v, &d->version) && !version_equal(v, &d->version) && fuse_wanted(e, path);
}

/* Both sides changed, and the other's content is here. True: done, and the staged file is used up or not needed; false: v is to be put into its place. */
static bool fused(struct engine *e, struct item *it, const struct version *v, const struct disk *d, const struct content_staged *s,
                  int mode, struct syncs *syncs) {
    bool ours = memcmp(d->version.by, e->id, sizeof(e->id)) == 0;
    struct version both = d->version;
    struct content_stamp put = d->stamp;
    struct disk now = *d;
    char out[48];
    if (!ours)
        return false; /* its author merges; here it is kept as any replaced version */
    snprintf(out, sizeof(out), "merge-%llu", (unsigned long long)it->noted);
    enum fused how = fuse(e, it->path, v, d, s->dir, s->name, out);
    if (how == FUSED_NOT)
        (void)clash_note(e, it->path, v, &d->version, true);
    if (how == FUSED_NOT)
        return false;
    version_knows(&both, v);
    if (how == FUSED_NEW) { /* as an edit by hand, made knowing both */
        now.version = both;
        int r = put_staged(e, it, d, out, syncs, &put);
        if (r == 0) {
            (void)index_disk_put(e->ix, it->path, &now);
            hooks_run(e, it->path, "change");
        }
        unlinkat(s->dir, s->name, 0);
        if (r == 0 || r == -EBUSY)
            disk_first(e, it);
        else
            failed(e, it, r);
        return true;
    }
    if (how == FUSED_THEIRS) {
        both = *v;
        version_knows(&both, &d->version);
    }
    version_sign(&both, e->id, e->name, clock_wall_ms());
    int r = how == FUSED_THEIRS ? put_staged(e, it, d, s->name, syncs, &put) : 0;
    if (how == FUSED_OURS)
        unlinkat(s->dir, s->name, 0);
    if (r == 0 && index_put(e->ix, it->path, &both, mode) == 0) {
        shown(e, it, &both, mode, &put);
        if (how == FUSED_THEIRS)
            hooks_run(e, it->path, "change");
        return true;
    }
    finish(e, it, v, mode, &put, r != 0 ? r : -EIO);
    return true;
}

/* Returns true when v may be shown now. */
static bool settle(struct engine *e, struct item *it, const struct version *v, const struct disk *d) {
    bool ours = memcmp(d->version.by, e->id, sizeof(e->id)) == 0, late = clock_wall_ms() - v->at_ms > FOREIGN_MS;
    struct version again = d->version;
    int r;
    if (version_descends(v, &d->version) || version_equal(v, &d->version))
        return true;
    if (version_prevails(v, &d->version)) {
        if (d->version.kind == VERSION_GONE && ours)
            (void)index_deleted_put(e->ix, it->path, &d->version, clock_wall_ms()); /* of what was deleted there is to be no copy */
        if (d->version.kind == VERSION_GONE || fusible(e, it->path, v, d))
            return true; /* nothing is lost; or it is merged when the content is here */
        if ((r = clash_note(e, it->path, v, &d->version, d->version.rank == RANK_MEANT)) == 0)
            return true;
    } else if (!ours && !late) {
        item_again(e, it, FOREIGN_MS);
        return false;
    } else {
        if (v->kind != VERSION_GONE)
            (void)clash_note(e, it->path, &d->version, v, false);
        version_knows(&again, v);
        again.rank = RANK_MEANT;
        version_sign(&again, e->id, e->name, clock_wall_ms());
        struct disk now = *d;
        now.version = again;
        if ((r = index_put(e->ix, it->path, &again, d->mode)) == 0 && (r = index_disk_put(e->ix, it->path, &now)) == 0) {
            unwant(e, it);
            it->show = false;
            return false;
        }
    }
    engine_say(e, LOG_WARNING, "%s: what was changed at once here and elsewhere cannot be settled now: %s", it->path, err_text(r));
    item_again(e, it, RETRY_MS);
    return false;
}

static void mode_shown(struct engine *e, struct item *it, const struct version *v, struct disk *d, int mode) {
    int fd = v->kind == VERSION_FILE && d->mode != mode && !e->policy.modes_local ? root_look(e, it->path) : -1;
    char proc[40];
    if (fd >= 0) {
        snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
        (void)chmod(proc, (mode_t)((mode & 0666) | 0600));
        close(fd);
    }
    struct content_stamp left = {0};
    if (v->kind == VERSION_GONE) {
        still_left(e, it->path, d, &left);
        shown_gone(e, it, v, &left);
        return;
    }
    d->mode = mode;
    shown(e, it, v, mode, v->kind == VERSION_FILE ? &d->stamp : NULL);
}

/* There is to be a copy of what stands there, perhaps, and content does not know it any more (a crash came before that was durable): nobody could
 * fetch it. After some tries it cannot be read. */
static bool unnoted(struct engine *e, const struct item *it, const struct version *v, const struct disk *d) {
    return d->version.kind == VERSION_FILE && it->tries < 4 && !it->rotten && !version_descends(v, &d->version) &&
           !version_equal(v, &d->version) && !content_here(e->content, d->version.hash);
}

void place_look(struct engine *e, struct item *it) {
    struct disk record, *d = NULL;
    struct content_stamp put = {0};
    struct version v;
    const char *why;
    int mode = 0644, r = index_get(e->ix, it->path, &v, &mode);
    if (r != 1 || !engine_wants(e, it->path, &v) || index_is_halted(e->ix, it->path)) {
        unwant(e, it);
        it->show = false;
        return;
    }
    if (v.kind != VERSION_FILE || memcmp(it->hash, v.hash, sizeof(it->hash)) != 0)
        unwant(e, it); /* what was fetched for an earlier version */
    if ((r = index_disk(e->ix, it->path, &record)) == 1)
        d = &record;
    if (v.kind != VERSION_GONE && (d == NULL || d->version.kind == VERSION_GONE) && !it->named)
        namesakes_came(e, it->path);
    it->named = true;
    bool as_was = as_known(e, it->path, d);
    if (d == NULL && v.kind == VERSION_GONE && as_was) {
        shown_gone(e, it, &v, &put);
        return;
    }
    if (!as_was && take_leaves(e, it->path, &why)) {
        if (v.kind != VERSION_GONE && why != NULL)
            engine_unread(e, it->path, why);
        unwant(e, it);
        it->show = false;
        return;
    }
    if (!as_was) {
        disk_first(e, it);
        return;
    }
    if (d != NULL && unnoted(e, it, &v, d)) {
        disk_first(e, it);
        return;
    }
    if (d != NULL && !settle(e, it, &v, d))
        return;
    if (d != NULL && version_equal(&v, &d->version) && !it->rotten) {
        unwant(e, it);
        mode_shown(e, it, &v, d, mode);
        return;
    }
    if (v.kind == VERSION_FILE) {
        file_wanted(e, it, &v, d);
        return;
    }
    unwant(e, it);
    if (v.kind == VERSION_GONE)
        r = put_gone(e, it, d, &put);
    else
        r = v.kind == VERSION_FOLDER ? put_folder(e, it, d, mode) : put_link(e, it, d, &v, &put);
    if (r == -ENOTEMPTY || r == -EEXIST) { /* a folder whose content is still to go */
        it->tries++;
        item_again(e, it, AGAIN_MS);
        return;
    }
    finish(e, it, &v, mode, v.kind == VERSION_FOLDER ? NULL : &put, r);
}

static void staged_one(struct engine *e, const struct content_staged *s, struct syncs *syncs) {
    struct disk record, *d = NULL;
    struct version v;
    struct content_stamp put = {0};
    struct item *it;
    int mode = 0644, r;
    HASH_FIND(hh_want, e->wants, &s->want, sizeof(s->want), it);
    if (it != NULL) {
        HASH_DELETE(hh_want, e->wants, it);
        it->want = 0;
    }
    if (it == NULL || s->error != 0) {
        if (s->name[0] != 0)
            unlinkat(s->dir, s->name, 0);
        if (it != NULL)
            failed(e, it, s->error == ERR_FULL ? -ENOSPC : -EIO);
        return;
    }
    r = index_begin(e->ix);
    if (r == 0 && index_disk(e->ix, it->path, &record) == 1)
        d = &record;
    if (r != 0 || index_get(e->ix, it->path, &v, &mode) != 1 || v.kind != VERSION_FILE || memcmp(v.hash, s->hash, sizeof(v.hash)) != 0 ||
        index_is_halted(e->ix, it->path)) { /* there is something newer */
        unlinkat(s->dir, s->name, 0);
        item_again(e, it, 0);
        return;
    }
    r = dress(e, it->path, s->dir, s->name, &v, mode);
    if (r == 0 && fusible(e, it->path, &v, d) && as_known(e, it->path, d) && fused(e, it, &v, d, s, mode, syncs)) {
        if (!it->queued)
            item_again(e, it, 0);
        return;
    }
    if (r == 0)
        r = as_known(e, it->path, d) ? put_staged(e, it, d, s->name, syncs, &put) : -EBUSY;
    if (r != 0)
        unlinkat(s->dir, s->name, 0);
    finish(e, it, &v, mode, &put, r);
    if (!it->queued)
        item_again(e, it, 0);
}

void place_staged(struct engine *e, const struct content_staged *staged, uint32_t count) {
    struct syncs syncs = {.count = 0};
    for (uint32_t i = 0; i < count; i++)
        staged_one(e, &staged[i], &syncs);
    syncs_do(&syncs);
}
