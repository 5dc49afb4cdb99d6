/* Starling node: files beneath a folder. Whatever names say and whoever swaps folders for links meanwhile, nothing outside the folder is
 * reached: no symbolic link is followed, in no component, and ".." leads nowhere. Only regular files are ever opened for reading: a FIFO, a
 * device or a socket is told by its kind before it is opened, and so is never waited for or woken.
 *
 * A root is a descriptor of the folder. Paths are relative, with '/', as beneath_path_ok() takes them. Errors are -errno. */
#ifndef NODE_FILES_BENEATH_H
#define NODE_FILES_BENEATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#define BENEATH_PATH_MAX 2048 /* bytes; a component: 255 */
#define BENEATH_DEPTH_MAX 64

/* A clean relative path: no empty, "." or ".." component, no NUL within len, nothing too long or too deep. Any other byte will do. */
bool beneath_path_ok(const char *path, size_t len);
/* The last component. */
const char *beneath_name(const char *path);

/* The folder itself, for use as a root; links in this path are followed: it is the configuration's. */
int beneath_root(const char *folder);
/* O_PATH: what is at path, whatever it is; "" is the root. For fstat(), and as the folder of other calls. */
int beneath_look(int root, const char *path);
/* O_PATH: a folder. */
int beneath_folder(int root, const char *path);
/* A regular file, for reading. -EINVAL when it is none. st may be NULL. */
int beneath_read(int root, const char *path, struct stat *st);
/* From a descriptor of beneath_look(), which stays open: it is the same file, whatever is at its path now. */
int beneath_reopen(int look, int flags);
/* The folder in which path is, *name in it. make: folders that are missing are made (0777 less the umask; nothing made is synced). */
int beneath_parent(int root, const char *path, bool make, const char **name);
/* A folder in a folder, if there is none. Made by root it belongs to whom the folder above belongs to. 0 or -errno. */
int beneath_mkdir(int above, const char *name);
/* The bytes of a symbolic link, and a terminator: their number. -ENAMETOOLONG when they do not fit. */
int beneath_link(int root, const char *path, char *out, size_t out_len);
/* Does a link at path that points to target stay beneath the root? Absolute ones never do; nor do those that go up behind a name, which may be a link itself.
 * Judged by the text alone. */
bool beneath_link_inside(const char *path, const char *target);

#endif
