/* Starling node: where a path of the index is on this server: in the instance folder, or, under the name of an extra folder (".starling+NAME/…", a name that
 * nothing in an instance has), in the folder that the configuration gives for it. A server that has no such folder passes its rows on, and has none of its files.
 *
 * Possible failures: the folder is not there, or overlaps with the instance: said, red, and left alone until the configuration is read again. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/files/engine.h"
#include "proto/err.h"

struct root {
    char *name; /* with the prefix */
    int fd;
};

static const struct root *root_find(const struct engine *e, const char *path) {
    size_t n = strcspn(path, "/");
    for (uint32_t i = 0; i < e->roots_count; i++)
        if (strlen(e->roots[i].name) == n && memcmp(e->roots[i].name, path, n) == 0)
            return &e->roots[i];
    return NULL;
}

bool root_extra(const char *path) { return strncmp(path, RULES_EXTRA, strlen(RULES_EXTRA)) == 0; }

/* The folder that it is in, and *path as seen from there; -EBADF as a folder: none here. */
static int root_of(const struct engine *e, const char **path) {
    if (!root_extra(*path))
        return e->root;
    const struct root *r = root_find(e, *path);
    *path += strcspn(*path, "/");
    *path += **path == '/';
    return r != NULL ? r->fd : -EBADF;
}

bool root_itself(const char *path) { return root_extra(path) && strchr(path, '/') == NULL; }

int root_look(struct engine *e, const char *path) {
    pthread_rwlock_rdlock(&e->roots_lock);
    int root = root_of(e, &path), fd = beneath_look(root, path);
    pthread_rwlock_unlock(&e->roots_lock);
    return fd;
}

/* ---- the folder that is worked in: opened once, beneath its root, for all that is done in it before the loop waits or hears what was changed */

void root_forget(struct engine *e) {
    if (e->near >= 0)
        close(e->near);
    e->near = -1;
}

/* The folder that path is in, and the name there; "": the root itself. The descriptor is borrowed; -errno. */
static int folder_of(struct engine *e, const char *path, const char **name) {
    const char *below = path;
    int root = root_of(e, &below);
    *name = beneath_name(below);
    size_t n = (size_t)(*name - path), above = (size_t)(below - path);
    if (root < 0 || *name == below)
        return root;
    if (strcmp(*name, "..") == 0)
        return -EXDEV;
    if (--n >= sizeof(e->near_path))
        return -ENAMETOOLONG;
    if (e->near >= 0 && strncmp(e->near_path, path, n) == 0 && e->near_path[n] == 0)
        return e->near;
    root_forget(e);
    memcpy(e->near_path, path, n);
    e->near_path[n] = 0;
    return e->near = beneath_folder(root, e->near_path + above);
}

int root_stat(struct engine *e, const char *path, struct stat *st) {
    const char *name;
    int folder = folder_of(e, path, &name);
    if (folder < 0)
        return folder;
    return fstatat(folder, name, st, AT_SYMLINK_NOFOLLOW | (*name == 0 ? AT_EMPTY_PATH : 0)) != 0 ? -errno : 0;
}

int root_read(const struct engine *e, const char *path) {
    int root = root_of(e, &path);
    return beneath_read(root, path, NULL);
}

int root_parent(struct engine *e, const char *path, bool make, const char **name) {
    int folder = folder_of(e, path, name), root = root_of(e, &path);
    if (*path == 0)
        return -EINVAL;
    if (folder == -ENOENT && make)
        return beneath_parent(root, path, true, name);
    if (folder >= 0 && (folder = fcntl(folder, F_DUPFD_CLOEXEC, 0)) < 0)
        folder = -errno;
    return folder;
}

int root_link(const struct engine *e, const char *path, char *out, size_t out_len) {
    int root = root_of(e, &path);
    return beneath_link(root, path, out, out_len);
}

bool root_link_inside(const struct engine *e, const char *path, const char *target) {
    (void)root_of(e, &path);
    return beneath_link_inside(path, target);
}

/* ---- opening */

static bool within(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == 0);
}

static int root_open(struct engine *e, const struct files_folder *f, struct root *out) {
    char real[4096], instance[4096];
    if (realpath(f->path, real) == NULL || realpath(e->instance, instance) == NULL)
        return -errno;
    if (within(real, instance) || within(instance, real))
        return -EXDEV;
    if (asprintf(&out->name, RULES_EXTRA "%s", f->name) < 0)
        return -ENOMEM;
    out->fd = beneath_root(real);
    if (out->fd < 0)
        free(out->name);
    return out->fd < 0 ? out->fd : 0;
}

void roots_close(struct engine *e) {
    root_forget(e);
    pthread_rwlock_wrlock(&e->roots_lock);
    for (uint32_t i = 0; i < e->roots_count; i++) {
        close(e->roots[i].fd);
        free(e->roots[i].name);
    }
    free(e->roots);
    free(e->rules_extra);
    e->roots = NULL;
    e->rules_extra = NULL;
    e->rules.extra = NULL;
    e->roots_count = 0;
    pthread_rwlock_unlock(&e->roots_lock);
}

int roots_open(struct engine *e) {
    roots_close(e);
    e->roots_error[0] = 0;
    struct root *roots = calloc(e->policy.folders_count + 1, sizeof(*roots));
    uint32_t count = 0;
    e->rules_extra = calloc(e->policy.folders_count + 1, sizeof(*e->rules_extra));
    if (roots == NULL || e->rules_extra == NULL) {
        free(roots);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < e->policy.folders_count; i++) {
        const struct files_folder *f = &e->policy.folders[i];
        int r = root_open(e, f, &roots[count]);
        if (r == 0) {
            e->rules_extra[count] = roots[count].name;
            count++;
            continue;
        }
        snprintf(e->roots_error, sizeof(e->roots_error),
                 "folder %.60s, %.120s: %s: its files are left alone; kill -HUP starlingd when it is mended", f->name, f->path,
                 r == -EXDEV ? "it overlaps with the instance folder" : strerror(-r));
        engine_say(e, LOG_ERROR, "%s", e->roots_error);
    }
    pthread_rwlock_wrlock(&e->roots_lock);
    e->roots = roots;
    e->roots_count = count;
    pthread_rwlock_unlock(&e->roots_lock);
    e->rules.extra = (const char *const *)e->rules_extra;
    e->summary_due = true;
    return 0;
}

void roots_each(struct engine *e, void (*each)(struct engine *e, const char *path)) {
    for (uint32_t i = 0; i < e->roots_count; i++)
        each(e, e->roots[i].name);
}
