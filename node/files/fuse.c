/* Starling node: documents that are merged by what is in them (`merge = json` of the configuration) where both sides changed: with the last version that both
 * writers knew, from the kept ones, since a copy of each version of such a path is kept. The author of what the index does not show does it, once the
 * other's content is here. What cannot be merged, or loses a value, becomes a copy beside it as any other. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "node/files/jsonmerge.h"
#include "proto/err.h"

#define VERSIONS_MAX 64

bool fuse_wanted(const struct engine *e, const char *path) {
    for (uint32_t i = 0; i < e->policy.hooks_count; i++)
        if (e->policy.hooks[i].json && hooks_match(e->policy.hooks[i].pattern, path))
            return true;
    return false;
}

void fuse_note(struct engine *e, const char *path, const struct version *v) {
    char kept[48];
    const char *name;
    if (v->kind != VERSION_FILE || v->size > JSONMERGE_BYTES_MAX || !fuse_wanted(e, path))
        return;
    struct stat st;
    snprintf(kept, sizeof(kept), "%012llx" KEPT_BASE "%llx", (unsigned long long)clock_wall_ms(), (unsigned long long)uv_hrtime());
    int folder = root_parent(e, path, false, &name);
    if (folder >= 0 && kept_copy(folder, name, e->kept, kept) == 0) {
        /* somebody has written there since: merging by that would take his change for one that both knew */
        if (fstatat(e->kept, kept, &st, AT_SYMLINK_NOFOLLOW) != 0 || !kept_as_version(&st, v) ||
            index_keep(e->ix, path, kept, v, clock_wall_ms()) != 0)
            unlinkat(e->kept, kept, 0);
    }
    if (folder >= 0)
        close(folder);
}

/* The last version that both knew. */
struct common {
    const struct version *a, *b;
    char *name;
};

static void common_one(void *ctx, const struct kept *k) {
    struct common *c = ctx;
    if (c->name == NULL && k->version.kind == VERSION_FILE && version_descends(c->a, &k->version) && version_descends(c->b, &k->version))
        c->name = strdup(k->name);
}

/* fd is closed. */
static struct json_text text_of(int fd, char **owned) {
    struct json_text t = {NULL, 0};
    struct stat st;
    ssize_t n;
    *owned = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size <= (off_t)JSONMERGE_BYTES_MAX && (*owned = malloc((size_t)st.st_size + 1)) != NULL) {
        while (t.len < (size_t)st.st_size && (n = read(fd, *owned + t.len, (size_t)st.st_size - t.len)) > 0)
            t.len += (size_t)n;
        t.p = *owned;
    }
    if (fd >= 0)
        close(fd);
    return t;
}

static int write_out(struct engine *e, const char *staged, const char *text, size_t len) {
    int fd = openat(e->staging, staged, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644), r = fd < 0 ? -errno : 0;
    for (size_t at = 0; r == 0 && at < len;) {
        ssize_t n = write(fd, text + at, len - at);
        if (n <= 0)
            r = n < 0 ? -errno : -EIO;
        else
            at += (size_t)n;
    }
    if (r == 0 && fsync(fd) != 0)
        r = -errno;
    if (fd >= 0)
        close(fd);
    return r;
}

enum fused fuse(struct engine *e, const char *path, const struct version *theirs, const struct disk *ours, int staged_dir,
                const char *staged, const char *out) {
    struct common c = {theirs, &ours->version, NULL};
    char *owned[3], *merged = NULL;
    size_t len = 0;
    uint32_t lost = 0;
    enum fused result = FUSED_NOT;
    (void)index_kept(e->ix, path, VERSIONS_MAX, common_one, &c);
    struct json_text base = text_of(c.name == NULL ? -1 : openat(e->kept, c.name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), &owned[0]);
    struct json_text here = text_of(root_read(e, path), &owned[1]);
    struct json_text there = text_of(openat(staged_dir, staged, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), &owned[2]);
    bool later = ours->version.at_ms > theirs->at_ms;
    int r = here.p == NULL || there.p == NULL || (c.name != NULL && base.p == NULL)
                ? ERR_IO
                : jsonmerge(base, later ? there : here, later ? here : there, &merged, &len, &lost);
    if (r == 0 && lost > 0)
        (void)clash_note(e, path, later ? &ours->version : theirs, later ? theirs : &ours->version, true);
    if (r == 0 && len == here.len && memcmp(merged, here.p, len) == 0)
        result = FUSED_OURS;
    else if (r == 0 && len == there.len && memcmp(merged, there.p, len) == 0)
        result = FUSED_THEIRS;
    else if (r == 0 && write_out(e, out, merged, len) == 0)
        result = FUSED_NEW;
    engine_say(e, LOG_INFO, "%s was changed here and by %s at once: %s", path, theirs->name,
               r == 0 ? "merged" : "it cannot be merged, and is kept beside it");
    free(merged);
    free(c.name);
    for (int i = 0; i < 3; i++)
        free(owned[i]);
    return result;
}
