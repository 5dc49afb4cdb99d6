#include "node/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/dbname.h"
#include "proto/err.h"

struct folder_walker {
    struct folder_walk with;
    struct stat state; /* st_ino 0: none */
    size_t root_len;
    struct {
        DIR *dir;
        size_t len;               /* of its path */
    } open[FOLDER_DEPTH_MAX + 1]; /* the folder that is being read, behind those that it is in */
    int depth;
    char path[PATH_MAX];
};

enum folder_header folder_header(const char *path) {
    static const char HEADER[16] = "SQLite format 3"; /* with its terminator */
    char bytes[sizeof(HEADER)];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return FOLDER_FILE_UNREADABLE;
    ssize_t n = pread(fd, bytes, sizeof(bytes), 0);
    close(fd);
    if (n < 0)
        return FOLDER_FILE_UNREADABLE;
    if (n == 0)
        return FOLDER_FILE_EMPTY;
    return n == (ssize_t)sizeof(bytes) && memcmp(bytes, HEADER, sizeof(bytes)) == 0 ? FOLDER_FILE_SQLITE : FOLDER_FILE_OTHER;
}

/* A file system's own folder, which is root's: no application keeps databases there. */
static bool is_lost_found(const char *path) { return strcmp(strrchr(path, '/'), "/lost+found") == 0; }

static void tell_closed(const struct folder_walker *w, int error) {
    if (w->with.closed != NULL && error != ENOENT && error != ENOTDIR && w->path[w->root_len] != 0 && !is_lost_found(w->path))
        w->with.closed(w->with.ctx, w->path + w->root_len + 1, error);
}

static void enter(struct folder_walker *w, size_t len) {
    DIR *dir = opendir(w->path);
    if (dir == NULL || faccessat(dirfd(dir), ".", X_OK, AT_EACCESS) != 0) { /* without x names can be read, and nothing else */
        tell_closed(w, errno);
        if (dir != NULL)
            closedir(dir);
        return;
    }
    if (w->with.folder != NULL)
        w->with.folder(w->with.ctx, w->path);
    w->open[w->depth].dir = dir;
    w->open[w->depth++].len = len;
}

static void leave(struct folder_walker *w) { closedir(w->open[--w->depth].dir); }

static void look(struct folder_walker *w, const char *name) {
    size_t len = w->open[w->depth - 1].len;
    struct stat st;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || dbname_companion(name))
        return;
    int n = snprintf(w->path + len, sizeof(w->path) - len, "/%s", name);
    if (n < 0 || (size_t)n >= sizeof(w->path) - len || fstatat(dirfd(w->open[w->depth - 1].dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    if (S_ISDIR(st.st_mode)) {
        bool ours = st.st_ino == w->state.st_ino && st.st_dev == w->state.st_dev;
        if (!ours && strcmp(name, DBNAME_STATE_FOLDER) != 0 && w->depth <= FOLDER_DEPTH_MAX)
            enter(w, len + (size_t)n);
    } else if (S_ISREG(st.st_mode) && dbname_ok(w->path + w->root_len + 1)) {
        w->with.file(w->with.ctx, w->path + w->root_len + 1, w->path, &st);
    }
}

struct folder_walker *folder_begin(const struct folder_walk *with) {
    struct folder_walker *w = access(with->root, R_OK | X_OK) != 0 ? NULL : calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->with = *with;
    w->root_len = (size_t)snprintf(w->path, sizeof(w->path), "%s", with->root);
    if (w->root_len >= sizeof(w->path)) {
        free(w);
        return NULL;
    }
    if (stat(with->state, &w->state) != 0)
        w->state.st_ino = 0;
    enter(w, w->root_len);
    return w;
}

bool folder_step(struct folder_walker *w, uint32_t entries) {
    struct dirent *entry;
    for (; w->depth > 0 && entries > 0; entries--) {
        if ((entry = readdir(w->open[w->depth - 1].dir)) == NULL)
            leave(w);
        else
            look(w, entry->d_name);
    }
    return w->depth > 0;
}

void folder_end(struct folder_walker *w) {
    while (w != NULL && w->depth > 0)
        leave(w);
    free(w);
}

int folder_walk(const struct folder_walk *with) {
    struct folder_walker *w = folder_begin(with);
    if (w == NULL)
        return ERR_IO;
    while (folder_step(w, UINT32_MAX))
        ;
    folder_end(w);
    return 0;
}
