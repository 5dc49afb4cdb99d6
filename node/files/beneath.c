#include "node/files/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

bool beneath_path_ok(const char *path, size_t len) {
    int depth = 0;
    if (len == 0 || len > BENEATH_PATH_MAX || memchr(path, 0, len) != NULL)
        return false;
    for (const char *part = path, *end = path + len; part <= end;) {
        const char *slash = memchr(part, '/', (size_t)(end - part));
        size_t n = (size_t)((slash != NULL ? slash : end) - part);
        if (n == 0 || n > NAME_MAX || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.') ||
            ++depth > BENEATH_DEPTH_MAX)
            return false;
        part += n + 1;
    }
    return true;
}

const char *beneath_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

int beneath_root(const char *folder) {
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* A component of a folder: itself, if it is a link. */
static int open_part(int at, const char *part, int flags) {
    if (strcmp(part, "..") == 0)
        return -EXDEV;
    int fd = openat(at, part, flags | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* For kernels before 5.6, and where a sandbox refuses openat2: component by component, each by its own descriptor. */
static int walk(int root, const char *path, int flags) {
    char part[NAME_MAX + 1];
    int at = open_part(root, ".", O_PATH | O_DIRECTORY);
    while (at >= 0 && *path != 0) {
        size_t n = strcspn(path, "/");
        memcpy(part, path, n <= NAME_MAX ? n : 0);
        part[n <= NAME_MAX ? n : 0] = 0;
        bool last = path[n] == 0;
        int next = part[0] == 0 ? -EXDEV : open_part(at, part, last ? flags : O_PATH | O_DIRECTORY);
        close(at);
        at = next;
        path += last ? n : n + 1;
    }
    return at;
}

static int open_beneath(int root, const char *path, int flags) {
    struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW)};
    if (path[0] == 0)
        path = ".";
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    for (int tries = 0; tries < 100; tries++) {
        int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
        if (fd >= 0)
            return fd;
        if (errno == ENOSYS || errno == EPERM)
            return walk(root, strcmp(path, ".") == 0 ? "" : path, flags);
        if (errno != EAGAIN) /* a rename somewhere on the way: the kernel cannot be sure, and asks to try again */
            return -errno;
    }
    return -EAGAIN;
}

int beneath_look(int root, const char *path) {
    /* O_PATH with O_NOFOLLOW opens a link itself; RESOLVE_NO_SYMLINKS would refuse it. So: its folder, and then the one component. */
    const char *name = beneath_name(path);
    char folder[BENEATH_PATH_MAX + 1];
    if (name == path)
        return path[0] == 0 ? open_beneath(root, "", O_PATH) : open_part(root, path, O_PATH);
    size_t n = (size_t)(name - path) - 1;
    if (n > BENEATH_PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(folder, path, n);
    folder[n] = 0;
    int at = open_beneath(root, folder, O_PATH | O_DIRECTORY);
    if (at < 0)
        return at;
    int fd = open_part(at, name, O_PATH);
    close(at);
    return fd;
}

int beneath_folder(int root, const char *path) { return open_beneath(root, path, O_PATH | O_DIRECTORY); }

int beneath_reopen(int look, int flags) {
    char proc[40];
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", look);
    int fd = open(proc, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int beneath_read(int root, const char *path, struct stat *st) {
    struct stat own;
    int look = beneath_look(root, path), r = -EINVAL;
    st = st != NULL ? st : &own;
    if (look < 0)
        return look;
    if (fstat(look, st) != 0)
        r = -errno;
    else if (S_ISREG(st->st_mode))
        r = beneath_reopen(look, O_RDONLY | O_NONBLOCK);
    close(look);
    return r;
}

int beneath_mkdir(int above, const char *name) {
    struct stat st;
    if (mkdirat(above, name, 0777) != 0)
        return errno == EEXIST ? 0 : -errno;
    if (geteuid() == 0 && fstat(above, &st) == 0 && (st.st_uid != 0 || st.st_gid != 0))
        return fchownat(above, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) != 0 ? -errno : 0;
    return 0;
}

int beneath_parent(int root, const char *path, bool make, const char **name) {
    char folder[BENEATH_PATH_MAX + 1];
    *name = beneath_name(path);
    size_t n = *name == path ? 0 : (size_t)(*name - path) - 1;
    if (n > BENEATH_PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(folder, path, n);
    folder[n] = 0;
    int fd = open_beneath(root, folder, O_PATH | O_DIRECTORY);
    if (fd != -ENOENT || !make)
        return fd;
    const char *last;
    int above = beneath_parent(root, folder, true, &last);
    if (above < 0)
        return above;
    fd = beneath_mkdir(above, last);
    if (fd == 0)
        fd = open_part(above, last, O_PATH | O_DIRECTORY);
    close(above);
    return fd;
}

int beneath_link(int root, const char *path, char *out, size_t out_len) {
    int look = beneath_look(root, path);
    if (look < 0)
        return look;
    ssize_t n = readlinkat(look, "", out, out_len);
    int error = errno;
    close(look);
    if (n < 0)
        return -error;
    if ((size_t)n >= out_len)
        return -ENAMETOOLONG;
    out[n] = 0;
    return (int)n;
}

bool beneath_link_inside(const char *path, const char *target) {
    int above = 0; /* folders from here up to the root */
    bool named = false;
    if (target[0] == '/' || target[0] == 0)
        return false;
    for (const char *p = strchr(path, '/'); p != NULL; p = strchr(p + 1, '/'))
        above++;
    while (*target != 0) {
        size_t n = strcspn(target, "/");
        bool up = n == 2 && strncmp(target, "..", 2) == 0;
        if (up && (named || --above < 0)) /* behind a name: that may be a link itself, and what is above it is anywhere */
            return false;
        named = named || (n > 0 && !up && !(n == 1 && target[0] == '.'));
        target += n;
        target += strspn(target, "/");
    }
    return true;
}
