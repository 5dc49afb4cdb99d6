#include "node/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/err.h"

const char *identity_hex(const uint8_t id[NODE_ID_BYTES], char out[2 * NODE_ID_BYTES + 1]) {
    return sodium_bin2hex(out, 2 * NODE_ID_BYTES + 1, id, NODE_ID_BYTES);
}

static int mends(char *why, size_t why_len, const char *what, const char *path, int error) {
    const char *mend = error == EACCES || error == EPERM ? ": give the user who runs starlingd the right to write there"
                       : error == ENOSPC                 ? ": free some space"
                       : error == EROFS                  ? ": choose another folder with --state"
                                                         : "";
    snprintf(why, why_len, "cannot %s %s: %s%s", what, path, strerror(error), mend);
    return error == ENOSPC ? ERR_FULL : error == EACCES ? ERR_DENIED : ERR_IO;
}

int identity_folder(const char *state, char *why, size_t why_len) {
    char path[PATH_MAX];
    if (mkdir(state, 0700) != 0 && errno != EEXIST)
        return mends(why, why_len, "make the state folder", state, errno);
    if (snprintf(path, sizeof(path), "%s/db", state) >= (int)sizeof(path))
        return ERR_TOOBIG;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return mends(why, why_len, "make the folder", path, errno);
    return 0;
}

int identity_lock(struct identity *id, const char *state, char *why, size_t why_len) {
    char path[PATH_MAX], text[32] = "";
    snprintf(path, sizeof(path), "%s/lock", state);
    id->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (id->lock_fd < 0)
        return mends(why, why_len, "open", path, errno);
    if (flock(id->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;
        ssize_t n = error == EWOULDBLOCK ? read(id->lock_fd, text, sizeof(text) - 1) : 0;
        close(id->lock_fd);
        id->lock_fd = -1;
        if (error != EWOULDBLOCK)
            return mends(why, why_len, "lock", path, error);
        long pid = n > 0 ? strtol(text, NULL, 10) : 0;
        snprintf(why, why_len,
                 "another starlingd (process %ld) runs on the state folder %s: stop it first, or choose another one with --state", pid,
                 state);
        return ERR_BUSY;
    }
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(id->lock_fd, 0) != 0 || pwrite(id->lock_fd, text, (size_t)n, 0) != n)
        return mends(why, why_len, "write", path, errno);
    return 0;
}

void identity_release(struct identity *id) {
    sodium_memzero(id->secret, sizeof(id->secret));
    if (id->lock_fd >= 0)
        close(id->lock_fd);
    id->lock_fd = -1;
}

static int folder_sync(const char *state) {
    int fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int r = fsync(fd);
    close(fd);
    return r;
}

static int key_make(const char *state, const char *path, uint8_t seed[crypto_sign_SEEDBYTES], char *why, size_t why_len) {
    char text[2 * crypto_sign_SEEDBYTES + 1], fresh[PATH_MAX];
    randombytes_buf(seed, crypto_sign_SEEDBYTES);
    sodium_bin2hex(text, sizeof(text), seed, crypto_sign_SEEDBYTES);
    text[sizeof(text) - 1] = '\n';
    if (snprintf(fresh, sizeof(fresh), "%s.new", path) >= (int)sizeof(fresh))
        return ERR_TOOBIG;
    unlink(fresh); /* of a run that was killed here */
    int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return mends(why, why_len, "make", fresh, errno);
    bool written = write(fd, text, sizeof(text)) == (ssize_t)sizeof(text) && fsync(fd) == 0;
    int error = errno;
    close(fd);
    sodium_memzero(text, sizeof(text));
    if (!written)
        return mends(why, why_len, "write", fresh, error);
    if (rename(fresh, path) != 0 || folder_sync(state) != 0)
        return mends(why, why_len, "make", path, errno);
    return 0;
}

int identity_load(struct identity *id, const char *state, char *why, size_t why_len) {
    char path[PATH_MAX], text[2 * crypto_sign_SEEDBYTES + 2];
    uint8_t seed[crypto_sign_SEEDBYTES];
    size_t seed_len = 0;
    int r = 0;
    snprintf(path, sizeof(path), "%s/node.key", state);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return mends(why, why_len, "read", path, errno);
    if (fd < 0) {
        r = key_make(state, path, seed, why, why_len);
    } else {
        ssize_t n = read(fd, text, sizeof(text));
        close(fd);
        if (n < (ssize_t)(2 * sizeof(seed)) || sodium_hex2bin(seed, sizeof(seed), text, 2 * sizeof(seed), NULL, &seed_len, NULL) != 0 ||
            seed_len != sizeof(seed)) {
            snprintf(why, why_len, "%s is not a node key: restore it, or move it away and this server becomes a new member", path);
            r = ERR_MALFORMED;
        }
    }
    if (r == 0) {
        crypto_sign_seed_keypair(id->key, id->secret, seed);
        node_id_of_key(id->id, id->key);
    }
    sodium_memzero(seed, sizeof(seed));
    return r;
}
