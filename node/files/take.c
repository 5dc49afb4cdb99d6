/* Starling node: from the disk into the index. A path that may have changed is looked at once it has been still for a moment: what it is, whether
 * that is news (size, times, inode), and what it holds.
 *
 * Possible failures: it cannot be read: said, tried again with the next scan; it is written while it is read: again; the index cannot be
 * written: again. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define JSON_BYTES_MAX (16u << 20)
#define JSON_BROKEN_MS 60000
#define JSON_LOOK_MS 2000
#define SMALL_BYTES (64 << 10)
#define DATABASE (-2)
#define NOT_NOW (-3)
#define LATER_MS 2000
#define FUTURE_MS 2000
#define LATER_DOUBLED 5 /* times: a minute */

static void done(struct item *it) {
    it->disk = false;
    it->told = it->told && it->touched;
}

/* Once more: in this time, or, if somebody wrote while it was read, as soon as it is still. */
static void again(struct engine *e, struct item *it, uint64_t in_ms) {
    item_again(e, it, it->touched && e->still_ms < in_ms ? e->still_ms : in_ms);
    it->touched = false;
}

/* What keeps it from being read may pass, and nobody tells when: no descriptor or memory is left, the disk fails. */
static void later(struct engine *e, struct item *it, const char *why) {
    engine_unread(e, it->path, why);
    it->restless = true; /* nobody waits for it */
    again(e, it, LATER_MS << (it->tries < LATER_DOUBLED ? it->tries++ : LATER_DOUBLED));
}

static void say_refused(struct engine *e, const char *path, const char *why) {
    engine_say(e, LOG_DEBUG, "%s is not replicated: %s", path, why);
}

static bool same_stamp(const struct content_stamp *a, const struct content_stamp *b) {
    return a->size == b->size && a->inode == b->inode && a->device == b->device && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

/* Of a first version: what was here before this server met the others was made without them, however soon it met them then. */
static enum version_rank rank_of(struct engine *e, const char *path, const struct content_stamp *stamp) {
    const struct item *it = item_find(e, path);
    bool since = stamp != NULL && e->met_ms != 0 && stamp->ctime_ns / 1000000 > (int64_t)e->met_ms;
    return it != NULL && !since && (!e->looked || it->noted <= e->noted_first) ? e->rank_begun : e->rank;
}

/* What others have and this server has not seen on disk is no reason to forget what was found here, and the other way round. */
int take_commit(struct engine *e, const char *path, struct version *v, const struct disk *before, const struct content_stamp *stamp,
                int mode) {
    enum version_rank rank = before == NULL ? rank_of(e, path, stamp) : RANK_MEANT;
    struct disk now = {.mode = mode};
    struct version there;
    int r = index_begin(e->ix), found = r != 0 ? r : index_get(e->ix, path, &there, NULL);
    if (found < 0 && found != ERR_MALFORMED)
        return found;
    if (stamp != NULL)
        now.stamp = *stamp;
    if (before != NULL)
        version_knows(v, &before->version);
    if (found == 1 && version_equal(v, &there)) { /* it came to the same: theirs */
        now.version = there;
        fuse_note(e, path, &there);
        return index_disk_put(e->ix, path, &now);
    }
    bool known = found != 1 || (before != NULL && (version_descends(&before->version, &there) || version_equal(&before->version, &there)));
    v->rank = found != 1 ? rank : RANK_MEANT;
    if (found == 1 && !known && v->kind == VERSION_GONE) { /* deleted, but what others have was changed since */
        now.version = *v;
        version_sign(&now.version, e->id, e->name, clock_wall_ms());
        item_show(e, path, 0);
        return index_disk_put(e->ix, path, &now);
    }
    if (found == 1 && !known && before == NULL && rank != RANK_MEANT &&
        there.kind != VERSION_GONE) { /* what the others have counts for more */
        v->rank = rank;
        version_sign(v, e->id, e->name, clock_wall_ms());
        now.version = *v;
        if ((r = clash_note(e, path, &there, v, false)) == 0)
            r = index_disk_put(e->ix, path, &now);
        item_show(e, path, 0);
        return r;
    }
    if (found == 1 && !known && v->kind == VERSION_FILE && there.kind == VERSION_FILE && fuse_wanted(e, path)) {
        version_sign(v, e->id, e->name, clock_wall_ms()); /* merged when the other's content is here */
        now.version = *v;
        item_show(e, path, 0);
        return index_disk_put(e->ix, path, &now);
    }
    if (found == 1)
        version_knows(v, &there);
    version_sign(v, e->id, e->name, clock_wall_ms());
    if (found == 1 && !known && there.kind != VERSION_GONE && (r = clash_note(e, path, v, &there, there.rank == RANK_MEANT)) != 0)
        return r;
    now.version = *v;
    if ((r = index_put(e->ix, path, v, mode)) == 0)
        r = index_disk_put(e->ix, path, &now);
    if (r == 0)
        fuse_note(e, path, v);
    if (r == 0 && v->kind == VERSION_GONE)
        namesakes_went(e, path);
    else if (r == 0 && (found != 1 || there.kind == VERSION_GONE))
        namesakes_came(e, path);
    if (r == 0)
        engine_say(e, LOG_DEBUG, "%s %s", path, v->kind == VERSION_GONE ? "was deleted" : found == 1 ? "was changed" : "is new");
    return r;
}

static void commit(struct engine *e, struct item *it, struct version *v, const struct disk *before, const struct content_stamp *stamp,
                   int mode) {
    int r = take_commit(e, it->path, v, before, stamp, mode);
    if (r == 0) {
        done(it);
        return;
    }
    engine_say(e, LOG_WARNING, "%s cannot be taken into the index now: %s", it->path, err_text(r));
    item_again(e, it, AGAIN_MS * 10);
}

static void absent(struct engine *e, struct item *it, const struct disk *before) {
    struct version v = {.kind = VERSION_GONE};
    if (before == NULL || before->version.kind == VERSION_GONE || gone_unmounted(e, it->path)) {
        it->show = true; /* perhaps it stood in the way of what the index has there */
        done(it);
        return;
    }
    if (!it->told) {
        done(it);
        walk_all(e, false);
        return;
    }
    if (before->version.kind == VERSION_FILE)
        content_gone(e->content, ROOT_INSTANCE, it->path);
    commit(e, it, &v, before, NULL, 0);
}

static void folder_found(struct engine *e, struct item *it, const struct disk *before, const struct stat *st) {
    struct version v = {.kind = VERSION_FOLDER};
    struct content_stamp stamp;
    content_stamp_of(st, &stamp);
    engine_read(e, it->path); /* if it cannot be looked into, the walk says so again */
    stamp.size = 0;
    stamp.mtime_ns = stamp.ctime_ns = 0; /* what happens in it is of no account */
    if (before != NULL && before->version.kind == VERSION_GONE && before->stamp.inode == stamp.inode &&
        before->stamp.device == stamp.device) {
        done(it); /* deleted elsewhere, and left here for what is in it that is not replicated */
        return;
    }
    if (before != NULL && before->version.kind == VERSION_FOLDER) {
        struct disk now = *before;
        now.stamp = stamp;
        if (!same_stamp(&stamp, &before->stamp) && !index_is_halted(e->ix, it->path) &&
            (stamp.device == before->stamp.device || !gone_emptied(e, it->path)))
            (void)index_disk_put(e->ix, it->path, &now);
        done(it);
        return;
    }
    commit(e, it, &v, before, &stamp, (int)(st->st_mode & 0777));
    walk_begin(e, it->path);
}

static void link_found(struct engine *e, struct item *it, const struct disk *before, const struct stat *st) {
    struct version v = {.kind = VERSION_LINK};
    struct content_stamp stamp;
    content_stamp_of(st, &stamp);
    v.mtime_ns = stamp.mtime_ns;
    if (root_link(e, it->path, v.target, sizeof(v.target)) <= 0) { /* it is another one already */
        item_again(e, it, 0);
        return;
    }
    if (before != NULL && version_equal(&before->version, &v))
        done(it);
    else
        commit(e, it, &v, before, &stamp, 0777);
}

/* Written a moment ago, or, by its times, still to be written: not yet. */
static bool is_still(struct engine *e, const struct stat *st) {
    struct content_stamp stamp;
    content_stamp_of(st, &stamp);
    int64_t now_ms = (int64_t)clock_wall_ms(), newest = stamp.mtime_ns > stamp.ctime_ns ? stamp.mtime_ns : stamp.ctime_ns;
    int64_t age = now_ms - newest / 1000000;
    return age >= (int64_t)e->still_ms || age < -FUTURE_MS; /* a file from the future is as still as it will ever be */
}

static bool mode_changed(struct engine *e, const char *path, const struct disk *before, int mode) {
    struct disk now = *before;
    struct version v;
    now.mode = mode;
    return before->mode != mode && index_get(e->ix, path, &v, NULL) == 1 && version_descends(&before->version, &v) &&
           index_put(e->ix, path, &v, mode) == 0 && index_disk_put(e->ix, path, &now) == 0;
}

/* What the index is told of its permissions: where they are each server's own affair, what it says already. */
static int mode_taken(struct engine *e, const char *path, mode_t there) {
    struct version v;
    int mode;
    return e->policy.modes_local && index_get(e->ix, path, &v, &mode) == 1 ? mode : (int)(there & 0666);
}

struct linked {
    struct engine *e;
    const char *path;
};

static void linked_one(void *ctx, const char *path) {
    const struct linked *l = ctx;
    if (strcmp(path, l->path) != 0)
        item_look(l->e, path, 0);
}

static void file_found(struct engine *e, struct item *it, const struct disk *before, const struct stat *st) {
    struct content_stamp stamp;
    content_stamp_of(st, &stamp);
    int mode = mode_taken(e, it->path, st->st_mode);
    bool read = before != NULL && before->version.kind == VERSION_FILE && content_here(e->content, before->version.hash);
    if (!is_still(e, st)) {
        if (++it->tries >= RESTLESS_AFTER)
            it->restless = true;
        item_again(e, it, e->still_ms < 20 ? 20 : e->still_ms);
        return;
    }
    if (st->st_nlink > 1) { /* inotify tells of the one name under which it was written */
        struct linked l = {e, it->path};
        (void)index_disk_inode(e->ix, (uint64_t)st->st_ino, (uint64_t)st->st_dev, linked_one, &l);
    }
    if (read && before->mode != mode && before->stamp.inode == stamp.inode && before->stamp.size == stamp.size &&
        before->stamp.mtime_ns == stamp.mtime_ns && before->stamp.device == stamp.device) { /* chmod: not the content */
        struct disk now = *before;
        now.stamp = stamp;
        if (!mode_changed(e, it->path, &now, mode))
            (void)index_disk_put(e->ix, it->path, &now);
        done(it);
        return;
    }
    if (e->policy.max_mb > 0 && stamp.size > e->policy.max_mb << 20) {
        engine_say(e, it->told || !e->looked ? LOG_WARNING : LOG_DEBUG, "%s is not replicated: it is larger than max_mb = %llu", it->path,
                   (unsigned long long)e->policy.max_mb); /* each walk comes by it */
        done(it);
        return;
    }
    it->touched = false;
    it->scan = content_scan(e->content, ROOT_INSTANCE, it->path);
    if (it->scan == 0)
        item_again(e, it, 20);
    else
        e->scans++;
}

/* By how it begins. No database is served there: closing it drops no locks. */
static bool is_database(int look) {
    static const char BEGIN[16] = "SQLite format 3";
    char head[sizeof(BEGIN)];
    int fd = beneath_reopen(look, O_RDONLY | O_NONBLOCK);
    bool is = fd >= 0 && pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head) && memcmp(head, BEGIN, sizeof(head)) == 0;
    if (fd >= 0)
        close(fd);
    return is;
}

/* Is it as it was when it was read, or put there? Nothing is opened for that. */
static bool unchanged(struct engine *e, const char *path, const struct disk *before) {
    struct content_stamp now;
    struct stat st;
    if (before == NULL || before->version.kind != VERSION_FILE || root_stat(e, path, &st) != 0 || !S_ISREG(st.st_mode))
        return false;
    content_stamp_of(&st, &now);
    return same_stamp(&before->stamp, &now) && content_here(e->content, before->version.hash);
}

/* What is at a path, and whether it is ours to replicate. 1: yes, *st says what it is; 0: nothing is there; -1: it is to be left alone; DATABASE:
 * likewise, and it is one; NOT_NOW: who knows. reads: who asks reads what is new, small and still, and that
 * tells a database as well. */
static int look(struct engine *e, const char *path, bool known, bool reads, struct stat *st, const char **why) {
    char target[VERSION_TARGET_MAX];
    int fd = root_look(e, path), r = 1;
    if (fd == -ENOENT || fd == -ENOTDIR)
        return 0;
    *why = fd == -EACCES || fd == -EPERM ? UNREAD_DENIED : "it cannot be looked at";
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -EIO || fd == -EAGAIN) {
        *why = strerror(-fd);
        return NOT_NOW;
    }
    if (fd < 0)
        return -1;
    if (fstat(fd, st) != 0) {
        r = NOT_NOW;
    } else if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode) && !S_ISLNK(st->st_mode)) {
        *why = "neither a file nor a folder";
        r = -1;
    } else if (S_ISDIR(st->st_mode) && st->st_dev == e->state_stat.st_dev && st->st_ino == e->state_stat.st_ino) {
        *why = "the state folder";
        r = -1;
    } else if (S_ISREG(st->st_mode) && (known || !reads || st->st_size > SMALL_BYTES || !is_still(e, st)) && held_database(e->held, fd)) {
        *why = "a database: it is replicated by rows";
        r = DATABASE;
    }
    if (r == 1 && S_ISLNK(st->st_mode) && (root_link(e, path, target, sizeof(target)) <= 0 || !root_link_inside(e, path, target))) {
        *why = "a symbolic link that points out of the folder";
        r = -1;
    }
    if (r == 1 && S_ISREG(st->st_mode) && root_extra(path) && is_database(fd)) {
        *why = "a database outside of the instance folder";
        r = -1;
    }
    close(fd);
    char *other = r == 1 && !known ? namesake_here(e, path, st) : NULL;
    if (other != NULL) { /* whatever was written there was written into that one */
        *why = "the file system takes it for another one that is here";
        item_look(e, other, 0);
        r = -1;
    }
    free(other);
    return r;
}

void take_look(struct engine *e, struct item *it) {
    struct disk record, *before = NULL;
    const char *why = NULL;
    struct stat st;
    struct version gone = {.kind = VERSION_GONE};
    int r = index_disk(e->ix, it->path, &record);
    if (r < 0) {
        item_again(e, it, AGAIN_MS * 10);
        return;
    }
    before = r == 1 ? &record : NULL;
    if (unchanged(e, it->path, before)) {
        done(it);
        return;
    }
    int there = look(e, it->path, before != NULL, true, &st, &why);
    if (there == DATABASE && before != NULL && before->version.kind == VERSION_FILE) {
        commit(e, it, &gone, before, NULL, 0); /* the file is no more: what stands there now comes by rows */
        return;
    }
    if (there == NOT_NOW) {
        later(e, it, why);
        return;
    }
    if (there < 0 || !engine_takes(e, it->path, there == 1 && S_ISDIR(st.st_mode))) {
        if (there == -1 && strcmp(why, UNREAD_DENIED) == 0)
            engine_unread(e, it->path, why);
        else if (there < 0)
            say_refused(e, it->path, why);
        done(it);
        return;
    }
    if (there == 0)
        absent(e, it, before);
    else if (S_ISDIR(st.st_mode))
        folder_found(e, it, before, &st);
    else if (S_ISLNK(st.st_mode))
        link_found(e, it, before, &st);
    else
        file_found(e, it, before, &st);
}

bool take_leaves(struct engine *e, const char *path, const char **told) {
    struct disk known;
    const char *why;
    struct stat st;
    int r = look(e, path, index_disk(e->ix, path, &known) != 0, false, &st, &why);
    if (told != NULL)
        *told = r == DATABASE || r >= 0 ? NULL : why; /* DATABASE: the others are about to hear of it */
    return r < 0 && r != NOT_NOW;
}

/* ---- what was read */

/* Half a JSON file: somebody is writing it, slowly. After a minute it is what it is; and one from the future is so already. */
static bool json_broken(struct engine *e, const struct content_scanned *s) {
    size_t n = strlen(s->path), len = (size_t)s->stamp.size, at = 0;
    int64_t age = (int64_t)clock_wall_ms() - s->stamp.mtime_ns / 1000000;
    if (n < 5 || strcasecmp(s->path + n - 5, ".json") != 0 || s->stamp.size > JSON_BYTES_MAX || s->stamp.size == 0 ||
        age > JSON_BROKEN_MS || age < -FUTURE_MS)
        return false;
    int fd = root_read(e, s->path);
    char *text = fd < 0 ? NULL : malloc(len);
    ssize_t got;
    while (text != NULL && at < len && (got = read(fd, text + at, len - at)) > 0)
        at += (size_t)got;
    if (fd >= 0)
        close(fd);
    json_error_t error;
    json_t *j = text == NULL ? NULL : json_loadb(text, at, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &error);
    bool broken = text != NULL && j == NULL;
    json_decref(j);
    free(text);
    return broken;
}

static void taken(struct engine *e, struct item *it, const struct content_scanned *s) {
    struct version v = {.kind = VERSION_FILE, .size = s->stamp.size, .mtime_ns = s->stamp.mtime_ns};
    struct disk record;
    memcpy(v.hash, s->hash, sizeof(v.hash));
    int r = index_disk(e->ix, it->path, &record), mode = mode_taken(e, it->path, s->mode);
    if (r == 1 && version_equal(&record.version, &v)) { /* written anew, and the same */
        record.stamp = s->stamp;
        if (!mode_changed(e, it->path, &record, mode))
            (void)index_disk_put(e->ix, it->path, &record);
        done(it);
        return;
    }
    it->rotten = false;
    commit(e, it, &v, r == 1 ? &record : NULL, &s->stamp, mode);
}

void take_scanned(struct engine *e, const struct content_scanned *s) {
    if (reread_scanned(e, s))
        return;
    struct item *it = s->root == ROOT_INSTANCE ? item_find(e, s->path) : NULL;
    if (s->root == ROOT_KEPT)
        late_scanned(e, s);
    if (it == NULL || it->scan != s->number)
        return;
    it->scan = 0;
    e->scans--;
    if (s->error == ERR_BUSY) {
        it->restless = ++it->tries >= RESTLESS_AFTER;
        again(e, it, e->still_ms);
        return;
    }
    if (s->error == ERR_NOTFOUND) {
        again(e, it, 0);
        return;
    }
    if (s->error != 0) {
        if (s->error == ERR_NOMEM || s->error == ERR_IO || s->error == ERR_FULL) {
            later(e, it, err_text(s->error));
            return;
        }
        if (s->error == ERR_UNSUPPORTED)
            say_refused(e, it->path, err_text(s->error));
        else
            engine_unread(e, it->path, s->error == ERR_DENIED ? UNREAD_DENIED : err_text(s->error));
        done(it);
    } else if (json_broken(e, s)) {
        it->restless = true;
        again(e, it, JSON_LOOK_MS);
        return;
    } else {
        engine_read(e, it->path);
        taken(e, it, s);
    }
    if (it->touched) {
        it->touched = false;
        it->disk = true;
        item_again(e, it, e->still_ms);
    } else if (!it->queued) {
        item_again(e, it, 0); /* whatever else there is to do with it */
    }
}
