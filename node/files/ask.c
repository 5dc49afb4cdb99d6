/* Starling node: what people and other servers ask about the files, as JSON. Paths that are no text are shown as {"base64": …}, as everywhere. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/files/engine.h"
#include "proto/err.h"

#define LIST_MAX 20000
#define KEPT_LIST_MAX 1000
#define NAMESAKES_MAX 100

static json_t *text_json(const char *text) {
    json_t *j = json_string(text);
    if (j != NULL)
        return j;
    size_t n = strlen(text), max = sodium_base64_ENCODED_LEN(n, sodium_base64_VARIANT_ORIGINAL);
    char *coded = malloc(max);
    if (coded == NULL)
        return json_null();
    sodium_bin2base64(coded, max, (const uint8_t *)text, n, sodium_base64_VARIANT_ORIGINAL);
    j = json_pack("{s:s}", "base64", coded);
    free(coded);
    return j;
}

bool ask_path(const json_t *j, char out[BENEATH_PATH_MAX + 1]) {
    const char *text = json_string_value(j), *base64 = json_string_value(json_object_get(j, "base64"));
    size_t len = text == NULL ? 0 : strlen(text);
    if (text != NULL && len <= BENEATH_PATH_MAX)
        memcpy(out, text, len);
    else if (base64 == NULL || sodium_base642bin((uint8_t *)out, BENEATH_PATH_MAX, base64, strlen(base64), NULL, &len, NULL,
                                                 sodium_base64_VARIANT_ORIGINAL) != 0)
        return false;
    out[len] = 0;
    return beneath_path_ok(out, len);
}

static const char *kind_text(enum version_kind kind) {
    static const char *const KINDS[] = {"deleted", "file", "folder", "link"};
    return KINDS[kind];
}

static json_t *version_json(const struct version *v) {
    char hex[2 * CONTENT_HASH_BYTES + 1];
    json_t *j = json_pack("{s:s, s:I, s:I, s:s}", "kind", kind_text(v->kind), "size", (json_int_t)v->size, "time_ms", (json_int_t)v->at_ms,
                          "node", v->name);
    if (v->kind == VERSION_FILE)
        json_object_set_new(j, "hash", json_string(sodium_bin2hex(hex, sizeof(hex), v->hash, sizeof(v->hash))));
    if (v->kind == VERSION_LINK)
        json_object_set_new(j, "target", text_json(v->target));
    return j;
}

json_t *files_watched(const json_t *change) {
    const char *content = json_string_value(json_object_get(json_object_get(json_object_get(change, "changes"), "content"), "base64"));
    const char *table = json_string_value(json_object_get(change, "table"));
    uint8_t bytes[VERSION_BYTES_MAX];
    char path[BENEATH_PATH_MAX + 1];
    struct version v;
    size_t len;
    if (table == NULL || strcmp(table, "file") != 0 || content == NULL ||
        sodium_base642bin(bytes, sizeof(bytes), content, strlen(content), NULL, &len, NULL, sodium_base64_VARIANT_ORIGINAL) != 0 ||
        version_read(&v, bytes, len) != 0)
        return NULL;
    json_t *j = json_copy((json_t *)(uintptr_t)change);
    json_object_set_new(j, "db", json_string("files"));
    json_object_set_new(j, "changes", version_json(&v));
    if (ask_path(json_object_get(json_object_get(change, "key"), "path"), path))
        json_object_set_new(j, "key", json_pack("{s:o}", "path", text_json(path)));
    if (v.kind == VERSION_GONE)
        json_object_set_new(j, "op", json_string("delete"));
    return j;
}

/* ---- list */

struct listing {
    struct engine *e;
    json_t *list;
    bool more;
};

static void list_one(void *ctx, const char *path) {
    struct listing *l = ctx;
    struct version v;
    struct disk d;
    int mode;
    if (index_get(l->e->ix, path, &v, &mode) != 1 || (v.kind == VERSION_GONE && item_find(l->e, path) == NULL))
        return;
    if (json_array_size(l->list) >= LIST_MAX) {
        l->more = true;
        return;
    }
    bool here = index_disk(l->e->ix, path, &d) == 1 && version_equal(&d.version, &v);
    const struct item *it = item_find(l->e, path);
    struct content_progress p;
    json_t *j = version_json(&v);
    json_object_set_new(j, "path", text_json(path));
    json_object_set_new(j, "state",
                        json_string(index_is_halted(l->e->ix, path)      ? "halted"
                                    : it != NULL && place_lost(l->e, it) ? "missing"
                                    : it != NULL && it->want != 0        ? "fetching"
                                    : here                               ? "ok"
                                    : !engine_wants(l->e, path, &v)      ? "excluded"
                                                                         : "pending"));
    if (it != NULL && it->want != 0 && content_progress(l->e->content, it->want, &p)) {
        json_object_set_new(j, "here", json_integer((json_int_t)p.here));
        json_object_set_new(j, "sources", json_integer((json_int_t)p.sources));
    }
    if (namesakes_has(l->e, path))
        json_object_set_new(j, "clashes", json_true());
    json_array_append_new(l->list, j);
}

static json_t *answer_list(struct engine *e) {
    struct listing l = {.e = e, .list = json_array()};
    char *after = strdup("");
    while (after != NULL && !l.more && index_paths(e->ix, &after, list_one, &l) > 0)
        ;
    free(after);
    return json_pack("{s:o, s:b}", "files", l.list, "more", l.more);
}

/* ---- status */

static void halted_one(void *ctx, const char *folder) { json_array_append_new(ctx, text_json(folder[0] != 0 ? folder : ".")); }

static void namesake_one(void *ctx, const char *path) { json_array_append_new(ctx, text_json(path)); }

static json_t *answer_status(struct engine *e) {
    const struct index_sums *sums = index_sums(e->ix);
    json_t *halted = json_array(), *clashing = json_array(), *transfers = json_array(), *restless = json_array();
    const char *error = engine_error(e);
    struct content_totals t = {0};
    struct item *it, *next;
    uint64_t pending = 0;
    char digest[33];
    (void)index_halted(e->ix, halted_one, halted);
    namesakes_list(e, NAMESAKES_MAX, namesake_one, clashing);
    content_totals(e->content, &t);
    HASH_ITER(hh, e->items, it, next) {
        struct content_progress p;
        pending += !it->restless || it->show;
        if (it->disk && it->restless && json_array_size(restless) < 100)
            json_array_append_new(restless, text_json(it->path));
        if (it->want != 0 && json_array_size(transfers) < 100 && content_progress(e->content, it->want, &p))
            json_array_append_new(transfers, json_pack("{s:o, s:I, s:I, s:I}", "path", text_json(it->path), "size", (json_int_t)p.size,
                                                       "here", (json_int_t)p.here, "sources", (json_int_t)p.sources));
    }
    snprintf(digest, sizeof(digest), "%016" PRIx64 "%016" PRIx64, sums->digest[0], sums->digest[1]);
    return json_pack("{s:I, s:I, s:I, s:s, s:I, s:b, s:b, s:s?, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "count",
                     (json_int_t)sums->files, "bytes", (json_int_t)sums->bytes, "pending", (json_int_t)pending + !e->looked, "digest",
                     digest, "conflicts", (json_int_t)e->conflicts, "looked", e->looked, "met", e->rank == RANK_MEANT, "error",
                     error[0] != 0 ? error : NULL, "restless", restless, "halted", halted, "clashing", clashing, "transfers", transfers,
                     "missing", (json_int_t)t.wants, "missing_bytes", (json_int_t)t.wants_bytes, "sent_bytes", (json_int_t)t.sent,
                     "received_bytes", (json_int_t)t.received, "copied_bytes", (json_int_t)t.copied, "hashed_bytes", (json_int_t)t.hashed);
}

/* ---- restore */

struct wanted {
    int64_t id;
    struct kept found;
    json_t *list;
};

static void kept_one(void *ctx, const struct kept *k) {
    struct wanted *w = ctx;
    if (w->list != NULL) {
        json_t *j = version_json(&k->version);
        json_object_set_new(j, "path", text_json(k->path));
        json_object_set_new(j, "version", json_integer(k->id));
        json_object_set_new(j, "kept_ms", json_integer((json_int_t)k->at_ms));
        json_array_append_new(w->list, j);
    } else if (w->found.name == NULL && (w->id == 0 || w->id == k->id)) {
        w->found = *k;
        w->found.path = NULL;
        w->found.name = strdup(k->name);
    }
}

/* As a person would: what is there now is kept, and the old version is put there, to be taken as an edit. */
static int put_back(struct engine *e, const char *path, const struct kept *k) {
    struct content_stamp put;
    const char *name;
    struct disk d;
    int r = 0;
    if (k->version.kind != VERSION_FILE)
        return -EINVAL;
    if ((r = kept_copy(e->kept, k->name, e->staging, "restore")) != 0) /* copied, not moved: it may be wanted again */
        return r;
    int folder = root_parent(e, path, true, &name);
    if (folder < 0)
        r = folder;
    else
        r = place_put(e, path, folder, name, "restore", index_disk(e->ix, path, &d) == 1 ? &d.version : NULL, NULL, &put);
    if (folder >= 0)
        close(folder);
    if (r == 0)
        item_touch(e, path, e->still_ms);
    return r;
}

static json_t *answer_restore(struct engine *e, const json_t *question) {
    char bytes[BENEATH_PATH_MAX + 1];
    const char *path = ask_path(json_object_get(question, "path"), bytes) ? bytes : NULL;
    const json_t *version = json_object_get(question, "version");
    struct wanted w = {.id = json_is_integer(version) ? json_integer_value(version) : 0};
    bool list = json_is_true(json_object_get(question, "list"));
    if (path == NULL && (!list || json_object_get(question, "path") != NULL))
        return json_pack("{s:s}", "error", "no such path: name a file below the instance folder");
    w.list = list ? json_array() : NULL;
    (void)index_kept(e->ix, path, w.id != 0 || list ? KEPT_LIST_MAX : 1, kept_one, &w);
    if (list)
        return json_pack("{s:o}", "versions", w.list);
    if (w.found.name == NULL)
        return json_pack("{s:s}", "error", "no such version is kept here: see `starling files restore --list PATH`, or ask another server");
    int r = put_back(e, path, &w.found);
    free(w.found.name);
    if (r != 0)
        return json_pack("{s:s}", "error", strerror(-r));
    engine_say(e, LOG_INFO, "%s: an earlier version of %s was brought back", path, w.found.version.name);
    return json_pack("{s:o}", "restored", version_json(&w.found.version));
}

/* ---- accept */

/* The halted folder that a path is in, or is. */
struct covering {
    const char *path;
    char *folder;
};

static void covering_one(void *ctx, const char *folder) {
    struct covering *c = ctx;
    size_t n = strlen(folder);
    if (c->folder == NULL && (n == 0 || (strncmp(c->path, folder, n) == 0 && (c->path[n] == '/' || c->path[n] == 0))))
        c->folder = strdup(folder);
}

static json_t *accept_not(struct engine *e, const char *path) {
    struct covering c = {path, NULL};
    char text[300];
    (void)index_halted(e->ix, covering_one, &c);
    bool itself = c.folder != NULL && strcmp(c.folder, path) == 0;
    snprintf(text, sizeof(text), "it is halted with all of %.200s: accept that, or nothing",
             c.folder != NULL && c.folder[0] != 0 ? c.folder : "the instance folder (.)");
    bool none = c.folder == NULL;
    free(c.folder);
    if (itself)
        return NULL;
    return json_pack("{s:s}", "error",
                     none ? "no folder that is halted, and no file that no server has: see `starling files status`" : text);
}

struct accepting {
    struct engine *e;
    const char *folder;
    uint64_t count;
};

static void accept_one(void *ctx, const char *path) {
    struct accepting *a = ctx;
    size_t n = strlen(a->folder);
    struct stat st;
    if ((n == 0 || (strncmp(path, a->folder, n) == 0 && (path[n] == '/' || path[n] == 0))) && root_stat(a->e, path, &st) == -ENOENT) {
        item_touch(a->e, path, 0);
        a->count++;
    }
}

/* The version that nobody has is given up: what is here goes on from it. */
static json_t *give_up(struct engine *e, const struct item *it) {
    struct version v = {.kind = VERSION_GONE}, there;
    struct disk d;
    int mode = 0644, r = index_begin(e->ix);
    if (r == 0 && index_get(e->ix, it->path, &there, &mode) == 1) {
        bool had = index_disk(e->ix, it->path, &d) == 1;
        if (had)
            v = d.version;
        version_knows(&v, &there);
        v.rank = RANK_MEANT;
        version_sign(&v, e->id, e->name, clock_wall_ms());
        r = index_put(e->ix, it->path, &v, mode);
        d.version = v;
        if (r == 0 && had)
            r = index_disk_put(e->ix, it->path, &d);
        item_show(e, it->path, 0);
        engine_say(e, LOG_WARNING, "%s: the version of %s, which no server had, was given up", it->path, there.name);
    }
    e->lost[0] = 0;
    e->summary_due = true;
    return r != 0 ? json_pack("{s:s}", "error", err_text(r)) : json_pack("{s:b}", "given_up", 1);
}

static json_t *answer_accept(struct engine *e, const json_t *question) {
    char bytes[BENEATH_PATH_MAX + 1];
    const char *said = json_string_value(json_object_get(question, "path"));
    const char *path = ask_path(json_object_get(question, "path"), bytes) ? bytes : NULL; /* NULL: all, as "." */
    const struct item *it = path == NULL ? NULL : item_find(e, path);
    if (it != NULL && place_lost(e, it))
        return give_up(e, it);
    struct accepting a = {.e = e, .folder = path == NULL ? "" : path};
    if (path == NULL && (said == NULL || strcmp(said, ".") != 0))
        return json_pack("{s:s}", "error", "no such path: name a file or folder below the instance folder, or .");
    json_t *refused = accept_not(e, a.folder);
    if (refused != NULL)
        return refused;
    int r = index_halt(e->ix, a.folder, false);
    if (r != 0)
        return json_pack("{s:s}", "error", err_text(r));
    if (a.folder[0] == 0)
        (void)index_meta_put(e->ix, "root_device", 0); /* taken anew */
    struct disk d;
    struct stat st;
    struct content_stamp stamp;
    if (root_stat(e, a.folder, &st) == 0 && index_disk(e->ix, a.folder, &d) == 1) { /* the device that it is on now is the right one */
        content_stamp_of(&st, &stamp);
        d.stamp.device = stamp.device;
        d.stamp.inode = stamp.inode;
        (void)index_disk_put(e->ix, a.folder, &d);
    }
    char *after = strdup("");
    while (after != NULL && index_on_disk(e->ix, &after, accept_one, &a) > 0)
        ;
    free(after);
    e->summary_due = true;
    return json_pack("{s:I}", "deleted", (json_int_t)a.count);
}

/* ---- conflicts */

static json_t *side_json(const struct version *v, const char *path) {
    char node[2 * NODE_ID_BYTES + 1];
    json_t *value = version_json(v);
    if (path != NULL)
        json_object_set_new(value, "path", text_json(path));
    return json_pack("{s:o, s:s, s:I}", "value", value, "node", sodium_bin2hex(node, sizeof(node), v->by, sizeof(v->by)), "time_ms",
                     (json_int_t)v->at_ms);
}

static void conflict_one(void *ctx, const struct conflict *c) {
    char id[2 * CONFLICT_ID_BYTES + 1], stamp[24];
    snprintf(stamp, sizeof(stamp), "%" PRIu64, c->loser.at_ms << 16);
    json_array_append_new(ctx, json_pack("{s:s, s:s, s:s, s:{s:o}, s:[o], s:s, s:s, s:o, s:o, s:s, s:s}", "id",
                                         sodium_bin2hex(id, sizeof(id), c->id, sizeof(c->id)), "db", "files", "table", "file", "key",
                                         "path", text_json(c->path), "row", text_json(c->path), "kind", "file", "column", "content",
                                         "winner", side_json(&c->winner, c->path), "loser", side_json(&c->loser, c->copy), "state", "open",
                                         "stamp", stamp));
}

struct deciding {
    const char *id;
    struct conflict found;
    bool any;
};

static void decide_find(void *ctx, const struct conflict *c) {
    struct deciding *d = ctx;
    char id[2 * CONFLICT_ID_BYTES + 1];
    if (d->any || strcmp(sodium_bin2hex(id, sizeof(id), c->id, sizeof(c->id)), d->id) != 0)
        return;
    d->found = *c;
    d->found.path = strdup(c->path);
    d->found.copy = c->copy == NULL ? NULL : strdup(c->copy);
    d->any = d->found.path != NULL;
}

/* A version of ours, made knowing what the index shows. */
static int write_version(struct engine *e, const char *path, const struct version *content) {
    struct version v = *content, there;
    int mode = 0644, r = index_begin(e->ix), found = r != 0 ? r : index_get(e->ix, path, &there, &mode);
    if (found < 0)
        return found;
    if (found == 1)
        version_knows(&v, &there);
    v.rank = RANK_MEANT;
    version_sign(&v, e->id, e->name, clock_wall_ms());
    item_show(e, path, 0);
    return index_put(e->ix, path, &v, mode);
}

static json_t *answer_resolve(struct engine *e, const json_t *question) {
    const char *id = json_string_value(json_object_get(question, "id")), *keep = json_string_value(json_object_get(question, "keep"));
    const struct version gone = {.kind = VERSION_GONE};
    struct deciding d = {.id = id != NULL ? id : ""};
    struct version copy;
    (void)index_conflicts(e->ix, decide_find, &d);
    if (!d.any)
        return json_pack("{s:b}", "unknown", 1);
    json_t *list = json_array();
    conflict_one(list, &d.found);
    int r = 0;
    if (json_is_true(json_object_get(question, "set")))
        r = ERR_USAGE;
    if (r == 0 && keep != NULL) {
        if (strcmp(keep, "loser") == 0)
            r = write_version(e, d.found.path, &d.found.loser);
        if (r == 0 && d.found.copy != NULL && index_get(e->ix, d.found.copy, &copy, NULL) == 1 && version_equal(&copy, &d.found.loser))
            r = write_version(e, d.found.copy, &gone); /* not if somebody has worked on it since */
        if (r == 0)
            r = index_conflict_decide(e->ix, d.found.id);
        e->conflicts = index_conflicts_count(e->ix);
        e->summary_due = true;
    }
    json_t *answer = r != 0
                         ? json_pack("{s:s}", "error",
                                     r == ERR_USAGE ? "of a file one version is kept, whole: --keep winner or --keep loser" : err_text(r))
                         : json_pack("{s:b, s:O, s:i}", "done", 1, "conflict", json_array_get(list, 0), "rows", 1);
    json_decref(list);
    free(d.found.path);
    free(d.found.copy);
    return answer;
}

/* ---- barrier: all that the disk held before the question is in the index */

void ask_barriers(struct engine *e) {
    struct barrier *b, *next;
    uint64_t oldest = UINT64_MAX;
    struct item *it, *it_next;
    bool walking = !e->looked || e->walk_needed > e->walked;
    LL_FOREACH(e->barriers, b) {
        if (b->walking)
            b->noted = e->noted_last;
        b->walking = walking;
    }
    if (walking)
        return;
    HASH_ITER(hh, e->items, it, it_next) oldest = it->disk && !it->restless && it->noted < oldest ? it->noted : oldest;
    LL_FOREACH_SAFE(e->barriers, b, next) {
        if (b->noted >= oldest)
            continue;
        LL_DELETE(e->barriers, b);
        engine_answer(e, b->number, json_true());
        free(b);
    }
}

static json_t *answer_barrier(struct engine *e, uint64_t number) {
    struct barrier *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return json_false();
    watch_drain(e);
    if (watch_blind(e))
        walk_need(e, false);
    b->number = number;
    b->noted = e->noted_last;
    LL_PREPEND(e->barriers, b);
    return NULL;
}

/* ---- settled: the disk is as the index says, as far as this server wants it so */

struct unsettled {
    struct engine *e;
    uint64_t count;
};

static void differing_one(void *ctx, const char *path) {
    struct unsettled *u = ctx;
    struct version v;
    if (index_get(u->e->ix, path, &v, NULL) != 1 || !engine_wants(u->e, path, &v) || take_leaves(u->e, path, NULL))
        return;
    u->count++;
    item_show(u->e, path, 0);
}

/* "untaken": what is here, and nowhere else, as nobody waits for it: it is written without a pause, or cannot be read. */
static json_t *answer_settled(struct engine *e) {
    struct unsettled u = {.e = e};
    struct item *it, *next;
    char untaken[sizeof(e->unread)];
    snprintf(untaken, sizeof(untaken), "%s", e->unread);
    HASH_ITER(hh, e->items, it, next) {
        u.count += !it->restless || it->show;
        if (it->disk && it->restless && untaken[0] == 0)
            snprintf(untaken, sizeof(untaken), "%.200s is being written", it->path);
    }
    char *after = u.count == 0 ? strdup("") : NULL;
    while (after != NULL && u.count == 0 && index_differing(e->ix, &after, differing_one, &u) > 0)
        ;
    free(after);
    u.count += !e->looked || e->walk_needed > e->walked;
    place_lost_look(e);
    return json_pack("{s:I, s:b, s:o, s:s?}", "pending", (json_int_t)u.count, "lost", e->lost[0] != 0, "untaken",
                     untaken[0] != 0 ? text_json(untaken) : json_null(), "error",
                     e->unwritten[0] != 0      ? e->unwritten
                     : e->error[0] != 0        ? e->error
                     : e->lost[0] != 0         ? e->lost
                     : index_any_halted(e->ix) ? "a folder is halted: see `starling files status`"
                                               : NULL);
}

/* ---- verify: in the form of store_verify(), as if the files were the rows of one table, by path */

struct verifying {
    struct engine *e;
    uint64_t rows;
    uint8_t all[16], buckets[256][16];
    int bucket;
    json_t *list;
};

/* What really stands there: what was read of it counts as long as it looks as it did. */
static void verify_one(void *ctx, const char *path) {
    struct verifying *w = ctx;
    struct content_stamp now = {0};
    crypto_generichash_state h;
    uint8_t name[16], hash[16];
    char hex[2 * sizeof(hash) + 1];
    struct disk d;
    struct stat st;
    if (index_disk(w->e->ix, path, &d) != 1)
        return;
    const struct item *it = item_find(w->e, path);
    if (it != NULL && it->rotten)
        memcpy(d.version.hash, it->rot, sizeof(d.version.hash));
    if (root_stat(w->e, path, &st) == 0)
        content_stamp_of(&st, &now);
    bool same = now.inode != 0 && (d.version.kind != VERSION_FILE ||
                                   (now.inode == d.stamp.inode && now.size == d.stamp.size && now.mtime_ns == d.stamp.mtime_ns));
    uint8_t kind = (uint8_t)d.version.kind;
    crypto_generichash(name, sizeof(name), (const uint8_t *)path, strlen(path), NULL, 0);
    crypto_generichash_init(&h, NULL, 0, sizeof(hash));
    crypto_generichash_update(&h, name, sizeof(name));
    crypto_generichash_update(&h, &kind, 1);
    if (!same)
        crypto_generichash_update(&h, (const uint8_t *)&now, sizeof(now));
    else if (d.version.kind == VERSION_FILE)
        crypto_generichash_update(&h, d.version.hash, sizeof(d.version.hash));
    else
        crypto_generichash_update(&h, (const uint8_t *)d.version.target, strlen(d.version.target));
    crypto_generichash_final(&h, hash, sizeof(hash));
    if (!same)
        item_look(w->e, path, 0);
    for (size_t i = 0; i < sizeof(hash); i++) {
        w->all[i] ^= hash[i];
        w->buckets[name[0]][i] ^= hash[i];
    }
    w->rows++;
    if (w->list != NULL && name[0] == w->bucket)
        json_array_append_new(w->list, json_pack("[[o], s]", text_json(path), sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash))));
}

static json_t *answer_verify(struct engine *e, const json_t *question) {
    struct verifying *w = calloc(1, sizeof(*w));
    const char *table = json_string_value(json_object_get(question, "table"));
    char *after = strdup(""), hex[33], vector[64];
    struct item *it, *next;
    uint64_t busy = !e->looked;
    json_t *answer = NULL, *buckets;
    if (w == NULL || (table != NULL && strcmp(table, "file") != 0)) {
        free(w);
        free(after);
        return json_pack("{s:s}", "error", "no such table");
    }
    w->e = e;
    w->bucket = (int)json_integer_value(json_object_get(question, "bucket"));
    w->list = table != NULL && w->bucket >= 0 ? json_array() : NULL;
    while (after != NULL && index_on_disk(e->ix, &after, verify_one, w) > 0)
        ;
    HASH_ITER(hh, e->items, it, next) busy += !it->restless || it->show;
    snprintf(vector, sizeof(vector), busy > 0 ? "%s is at work" : "at rest", e->name);
    if (table == NULL && w->rows == 0) {
        answer = json_pack("{s:{}, s:s}", "tables", "vector", vector);
    } else if (table == NULL) {
        sodium_bin2hex(hex, sizeof(hex), w->all, sizeof(w->all));
        answer = json_pack("{s:{s:{s:I, s:s}}, s:s}", "tables", "file", "rows", (json_int_t)w->rows, "digest", hex, "vector", vector);
    } else if (w->list != NULL) {
        answer = json_pack("{s:o}", "rows", w->list);
    } else {
        buckets = json_array();
        for (int b = 0; b < 256; b++)
            json_array_append_new(buckets, json_string(sodium_bin2hex(hex, sizeof(hex), w->buckets[b], sizeof(w->buckets[b]))));
        answer = json_pack("{s:I, s:o}", "rows", (json_int_t)w->rows, "buckets", buckets);
    }
    free(after);
    free(w);
    return answer;
}

json_t *ask_answer(struct engine *e, uint64_t number, const json_t *question) {
    const char *ask = json_string_value(json_object_get(question, "ask"));
    json_t *list;
    if (ask == NULL)
        return json_pack("{s:s}", "error", "what?");
    if (strcmp(ask, "list") == 0)
        return answer_list(e);
    if (strcmp(ask, "status") == 0)
        return answer_status(e);
    if (strcmp(ask, "restore") == 0)
        return answer_restore(e, question);
    if (strcmp(ask, "accept") == 0)
        return answer_accept(e, question);
    if (strcmp(ask, "barrier") == 0)
        return answer_barrier(e, number);
    if (strcmp(ask, "verify") == 0)
        return answer_verify(e, question);
    if (strcmp(ask, "read") == 0)
        return reread_ask(e, json_string_value(json_object_get(question, "token")));
    if (strcmp(ask, "settled") == 0)
        return answer_settled(e);
    if (strcmp(ask, "resolve") == 0)
        return answer_resolve(e, question);
    if (strcmp(ask, "conflicts") == 0) {
        list = json_array();
        (void)index_conflicts(e->ix, conflict_one, list);
        return list;
    }
    return json_pack("{s:s}", "error", "not in this build");
}
