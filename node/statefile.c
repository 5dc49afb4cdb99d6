#include "node/statefile.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/err.h"

int statefile_write(const char *path, json_t *object) {
    char *text = object == NULL ? NULL : json_dumps(object, JSON_INDENT(1)), fresh[PATH_MAX];
    int r = ERR_IO, fd = -1;
    json_decref(object);
    if (text == NULL)
        return ERR_NOMEM;
    if (snprintf(fresh, sizeof(fresh), "%s.new", path) < (int)sizeof(fresh))
        fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0) {
        size_t len = strlen(text);
        bool written = write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
        close(fd);
        if (written && rename(fresh, path) == 0)
            r = 0;
    }
    memset(text, 0, strlen(text)); /* it may have held a secret */
    free(text);
    return r;
}

json_t *statefile_read(const char *path, bool *bad) {
    json_error_t error;
    char aside[PATH_MAX];
    *bad = false;
    if (access(path, F_OK) != 0)
        return NULL;
    json_t *object = json_load_file(path, 0, &error);
    if (json_is_object(object))
        return object;
    json_decref(object);
    *bad = true;
    if (snprintf(aside, sizeof(aside), "%s.bad", path) < (int)sizeof(aside))
        rename(path, aside);
    return NULL;
}
