#include "node/held.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

struct held_file {
    const void *owner;
    dev_t dev;
    ino_t ino;
    struct held_file *next;
};

void held_init(struct held *h) {
    *h = (struct held){0};
    pthread_mutex_init(&h->lock, NULL);
}

void held_release(struct held *h) {
    struct held_file *f, *next;
    LL_FOREACH_SAFE(h->list, f, next) free(f);
    pthread_mutex_destroy(&h->lock);
}

void held_set(struct held *h, const void *owner, bool on, dev_t dev, ino_t ino) {
    struct held_file *f;
    pthread_mutex_lock(&h->lock);
    LL_FOREACH(h->list, f) {
        if (f->owner == owner)
            break;
    }
    if (f != NULL && !on) {
        LL_DELETE(h->list, f);
        free(f);
    } else if (on) {
        if (f == NULL && (f = calloc(1, sizeof(*f))) != NULL)
            LL_PREPEND(h->list, f);
        if (f != NULL)
            *f = (struct held_file){owner, dev, ino, f->next};
    }
    pthread_mutex_unlock(&h->lock);
}

int held_open(struct held *h, int look) {
    static const char HEADER[16] = "SQLite format 3"; /* with its terminator */
    char bytes[sizeof(HEADER)], proc[40];
    struct held_file *f;
    struct stat st;
    int fd = -EINVAL;
    if (fstat(look, &st) != 0)
        return -errno;
    pthread_mutex_lock(&h->lock);
    LL_FOREACH(h->list, f) {
        if (f->dev == st.st_dev && f->ino == st.st_ino)
            break;
    }
    if (f == NULL && S_ISREG(st.st_mode)) {
        snprintf(proc, sizeof(proc), "/proc/self/fd/%d", look);
        fd = open(proc, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        fd = fd < 0 ? -errno : fd;
        if (fd >= 0 && pread(fd, bytes, sizeof(bytes), 0) == (ssize_t)sizeof(bytes) && memcmp(bytes, HEADER, sizeof(bytes)) == 0) {
            close(fd);
            fd = -EINVAL;
        }
    }
    pthread_mutex_unlock(&h->lock);
    return fd;
}

bool held_database(struct held *h, int look) {
    int fd = held_open(h, look);
    if (fd >= 0)
        close(fd);
    return fd == -EINVAL;
}
