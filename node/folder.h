/* Starling node: walking the instance folder. Knows folders and files, not databases: the caller decides about each file. */
#ifndef NODE_FOLDER_H
#define NODE_FOLDER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define FOLDER_DEPTH_MAX 32

enum folder_header { FOLDER_FILE_EMPTY, FOLDER_FILE_SQLITE, FOLDER_FILE_OTHER, FOLDER_FILE_UNREADABLE };

struct folder_walk {
    const char *root, *state; /* the state folder is left out, wherever it is */
    void *ctx;
    void (*folder)(void *ctx, const char *path);                                        /* each folder, before its files; may be NULL */
    void (*file)(void *ctx, const char *name, const char *path, const struct stat *st); /* each regular file that may be a database */
    void (*closed)(void *ctx, const char *name, int error); /* each folder that cannot be looked into; error: of errno; may be NULL */
};

/* Walks. Symbolic links are not followed. 0, or ERR_IO when the root cannot be read. Folders that vanish meanwhile are left out. */
int folder_walk(const struct folder_walk *with);
/* The same in steps. NULL: the root cannot be read, or no memory. */
struct folder_walker;
struct folder_walker *folder_begin(const struct folder_walk *with);
bool folder_step(struct folder_walker *w, uint32_t entries); /* at most so many entries; false: that was all */
void folder_end(struct folder_walker *w);                    /* also in the middle, and of NULL */
/* Opens, reads 16 bytes, closes: only for files that SQLite does not have open in this process. */
enum folder_header folder_header(const char *path);

#endif
