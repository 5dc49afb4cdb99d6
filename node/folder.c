#include "node/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "node/dbname.h"
#include "proto/err.h"

struct walk {
    const struct folder_walk *with;
    struct stat state; /* st_ino 0: none */
    size_t root_len;
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

static void tell_closed(const struct walk *w, int error) {
    if (w->with->closed != NULL && error != ENOENT && error != ENOTDIR && w->path[w->root_len] != 0 && !is_lost_found(w->path))
        w->with->closed(w->with->ctx, w->path + w->root_len + 1, error);
}

static void walk_folder(struct walk *w, size_t len, int depth) {
    DIR *dir = opendir(w->path);
    struct dirent *entry;
    struct stat st;
    if (dir == NULL || faccessat(dirfd(dir), ".", X_OK, AT_EACCESS) != 0) { /* without x names can be read, and nothing else */
        tell_closed(w, errno);
        if (dir != NULL)
            closedir(dir);
        return;
    }
    if (w->with->folder != NULL)
        w->with->folder(w->with->ctx, w->path);
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || dbname_companion(entry->d_name))
            continue;
        int n = snprintf(w->path + len, sizeof(w->path) - len, "/%s", entry->d_name);
        if (n < 0 || (size_t)n >= sizeof(w->path) - len || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            bool ours = st.st_ino == w->state.st_ino && st.st_dev == w->state.st_dev;
            if (!ours && strcmp(entry->d_name, DBNAME_STATE_FOLDER) != 0 && depth < FOLDER_DEPTH_MAX)
                walk_folder(w, len + (size_t)n, depth + 1);
        } else if (S_ISREG(st.st_mode) && dbname_ok(w->path + w->root_len + 1)) {
            w->with->file(w->with->ctx, w->path + w->root_len + 1, w->path, &st);
        }
    }
    closedir(dir);
    w->path[len] = 0;
}

int folder_walk(const struct folder_walk *with) {
    struct walk w = {.with = with};
    w.root_len = (size_t)snprintf(w.path, sizeof(w.path), "%s", with->root);
    if (w.root_len >= sizeof(w.path) || access(with->root, R_OK | X_OK) != 0)
        return ERR_IO;
    if (stat(with->state, &w.state) != 0)
        w.state.st_ino = 0;
    walk_folder(&w, w.root_len, 0);
    return 0;
}
