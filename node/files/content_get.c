/* What is wanted here: from the wish to the list of chunks, to the chunks, to `staged`.
 *
 *   content_want ─▶ a target a content ─▶ (its list: known here, from an earlier run, or group by group from a peer) ─▶ stage_open
 *     ─▶ chunks: copied from local files; fetched, stage_data ─▶ whole ─▶ stage_sync ─▶ staged ─▶ freed
 *
 * A target lives while somebody wants it, and until its last job is done. Small contents need no list: they are written and synced in groups. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/clock.h"
#include "node/files/content_state.h"
#include "proto/core.h"
#include "proto/err.h"

/* ---- targets */

struct target *target_find(struct content *c, const uint8_t *hash) {
    struct target *t;
    HASH_FIND(hh, c->targets, hash, CONTENT_HASH_BYTES, t);
    return t;
}

static void assembly_release(struct assembly *a) {
    free(a->groups);
    free(a->entries);
    *a = (struct assembly){0};
}

static void target_free(struct target *t) {
    struct content *c = t->content;
    assert(t->jobs == 0 && t->wants == NULL);
    if (t->item != NULL)
        fetch_remove(c->fetch, t->item);
    HASH_DEL(c->targets, t);
    for (uint32_t i = 0; i < t->sources_count; i++)
        close(t->sources[i]);
    if (t->fd >= 0)
        close(t->fd);
    if (t->map >= 0)
        close(t->map);
    assembly_release(&t->assembly);
    chunklist_release(&t->list);
    free(t->copies);
    free(t);
}

static void want_free(struct content *c, struct want *w) {
    DL_DELETE(w->target->wants, w);
    HASH_DEL(c->wants, w);
    free(w);
}

static int begin(struct content *c, struct want *w);

/* One want gets the file; who else wants it gets a copy of that, once it is in its place. */
static void give(struct content *c, struct target *t, struct content_staged *out, struct want **others) {
    struct want *w = t->wants;
    *out = (struct content_staged){.want = w->number, .error = t->error, .root = w->want.root, .dir = t->dir, .size = t->size};
    memcpy(out->hash, t->hash, sizeof out->hash);
    if (t->error == 0)
        memcpy(out->name, t->name, sizeof out->name);
    want_free(c, w);
    while ((w = t->wants) != NULL) {
        DL_DELETE(t->wants, w);
        DL_APPEND(*others, w);
    }
}

void targets_staged(struct content *c, struct target **list, uint32_t count) {
    struct content_staged *staged = calloc(count, sizeof *staged);
    struct want *others = NULL, *w;
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct target *t = list[i];
        if (t->wants != NULL && staged != NULL) {
            if (t->error == 0) {
                table_learn(c->table, t->hash, &t->list);
                serve_hashed(c, t->hash, &t->list);
            }
            give(c, t, &staged[n++], &others);
            stage_map_remove(t);
        } else { /* nobody wants it any more */
            stage_unlink(t);
            while (t->wants != NULL) {
                w = t->wants;
                DL_DELETE(t->wants, w);
                DL_APPEND(others, w);
            }
        }
        target_free(t);
    }
    if (n > 0)
        c->config.staged(c->config.ctx, staged, n);
    free(staged);
    while ((w = others) != NULL) {
        DL_DELETE(others, w);
        w->target = NULL;
        if (begin(c, w) != 0) {
            struct content_staged failed = {.want = w->number, .error = ERR_NOMEM, .root = w->want.root, .size = w->want.size};
            memcpy(failed.hash, w->want.hash, sizeof failed.hash);
            HASH_DEL(c->wants, w);
            free(w);
            c->config.staged(c->config.ctx, &failed, 1);
        }
    }
}

void target_fail(struct target *t, int error) {
    if (t->error == 0)
        t->error = error;
    target_check(t);
}

/* It may be freed. */
void target_check(struct target *t) {
    struct content *c = t->content;
    if (t->jobs > 0 || t->syncing || t->queued || c->closing)
        return;
    if (t->dropped) {
        stage_unlink(t);
        target_free(t);
    } else if (t->error != 0) {
        stage_unlink(t);
        targets_staged(c, &t, 1);
    } else if (t->small && t->staged) {
        t->syncing = true; /* together with others */
        DL_APPEND(c->written, t);
        content_soon(c);
    } else if (!t->small && t->listed && t->fd >= 0 && fetch_left(t->item) == 0) {
        stage_sync(t);
    }
}

/* ---- beginning */

/* The list is known and true: the staging file, and what of it is in files here. */
static void listed(struct target *t, bool resumed) {
    struct content *c = t->content;
    int r = t->list.count == 0 ? ERR_MALFORMED : fetch_listed(c->fetch, t->item, t->list.count);
    assembly_release(&t->assembly);
    t->listed = r == 0;
    if (r == 0 && !resumed)
        r = stage_open(t);
    if (r != 0) {
        target_fail(t, r);
        return;
    }
    stage_copies(t);
    content_soon(c);
}

static void start(struct content *c, struct target *t) {
    t->dir = c->config.staging(c->config.ctx, t->root);
    if (t->dir < 0) {
        target_fail(t, content_error(-t->dir));
        return;
    }
    if (t->small) {
        (void)stage_small_copy(t); /* else it is fetched */
        return;
    }
    if (stage_resume(t)) {
        listed(t, true);
        return;
    }
    if (table_list(c->table, t->hash, &t->list) == 0 && t->list.size == t->size) {
        listed(t, false);
        return;
    }
    chunklist_release(&t->list);
}

/* get_pump() does it: no callback from within a call. */
static void look_again(struct content *c, struct target *t) {
    if (!t->queued && !t->syncing)
        DL_APPEND(c->fresh, t);
    t->queued = t->queued || !t->syncing;
    content_soon(c);
}

void target_here(struct content *c, const uint8_t *hash) {
    struct target *t = target_find(c, hash);
    if (t == NULL || t->item == NULL || t->dropped || t->error != 0 || t->syncing || t->staged || t->queued || t->jobs > 0)
        return;
    if (t->listed) {
        stage_copies(t);
    } else {
        t->dir = -1;
        t->tried = 0;
        look_again(c, t);
    }
}

static int begin(struct content *c, struct want *w) {
    struct target *t = target_find(c, w->want.hash);
    bool fresh = t == NULL;
    if (fresh) {
        if ((t = calloc(1, sizeof *t)) == NULL)
            return ERR_NOMEM;
        t->content = c;
        memcpy(t->hash, w->want.hash, sizeof t->hash);
        t->size = w->want.size;
        t->root = w->want.root;
        t->small = t->size <= CHUNK_MIN;
        t->fd = t->map = t->dir = -1;
        char hex[2 * CONTENT_HASH_BYTES + 1];
        sodium_bin2hex(hex, sizeof hex, t->hash, sizeof t->hash);
        snprintf(t->name, sizeof t->name, "%s.part", hex);
        snprintf(t->map_name, sizeof t->map_name, "%s.map", hex);
        if (t->size > 0 && (t->item = fetch_add(c->fetch, t->hash, t->size, w->want.hinted ? w->want.peer : NULL, t)) == NULL) {
            free(t);
            return ERR_NOMEM;
        }
        HASH_ADD(hh, c->targets, hash, sizeof t->hash, t);
    }
    w->target = t;
    t->dropped = false;
    DL_APPEND(t->wants, w);
    look_again(c, t);
    if (t->size != w->want.size) /* two rows of the index say different things of one content: one of them is wrong */
        content_say(c, LOG_WARNING, "files: a content is said to have two sizes: %llu and %llu", (unsigned long long)t->size,
                    (unsigned long long)w->want.size);
    return 0;
}

uint64_t content_want(struct content *c, const struct content_want *want) {
    struct want *w = c->closing ? NULL : calloc(1, sizeof *w);
    if (w == NULL)
        return 0;
    w->number = ++c->number_last;
    w->want = *want;
    if (begin(c, w) != 0) {
        free(w);
        return 0;
    }
    HASH_ADD(hh, c->wants, number, sizeof w->number, w);
    return w->number;
}

static struct want *want_find(struct content *c, uint64_t number) {
    struct want *w;
    HASH_FIND(hh, c->wants, &number, sizeof number, w);
    return w;
}

void content_cancel(struct content *c, uint64_t number) {
    struct want *w = want_find(c, number);
    if (w == NULL)
        return;
    struct target *t = w->target;
    want_free(c, w);
    if (t->wants != NULL || t->dropped)
        return;
    t->dropped = true;
    look_again(c, t);
}

/* ---- asking */

/* Few peers are asked at a time, and mostly for little. */
static bool run_room(struct peer *p) {
    if (p->runs_count < p->runs_cap)
        return true;
    uint32_t cap = p->runs_cap == 0 ? 8 : p->runs_cap * 2;
    struct wire_run *runs = realloc(p->runs, cap * sizeof *runs);
    if (runs == NULL)
        return false;
    p->runs = runs;
    p->runs_cap = cap;
    return true;
}

void peer_forget_runs(struct peer *p) {
    free(p->runs);
    p->runs = NULL;
    p->runs_count = p->runs_cap = 0;
}

static void run_put(struct content *c, struct peer *p) {
    struct buf b;
    if (p->runs_count == 0)
        return;
    buf_init(&b, FRAME_BYTES_MAX);
    wire_pack_want(&b, p->runs, p->runs_count);
    peer_forget_runs(p);
    peer_send(c, p->id, &b);
    buf_release(&b);
}

static void ask(struct content *c, const struct fetch_ask *a) {
    struct buf b;
    struct peer *p = c->peers;
    if (a->kind == FETCH_LIST) {
        get_ask_list(c, a);
        return;
    }
    if (a->kind == FETCH_CHUNKS) {
        while (p != NULL && memcmp(p->id, a->peer, NODE_ID_BYTES) != 0)
            p = p->next;
        assert(p != NULL);
        if (!run_room(p))
            return; /* it counts as asked, and not answered */
        struct wire_run *run = &p->runs[p->runs_count++];
        memcpy(run->hash, fetch_hash(a->item), sizeof run->hash);
        run->first = a->first;
        run->count = a->count;
        if (p->runs_count == WIRE_RUNS_MAX)
            run_put(c, p);
        return;
    }
    buf_init(&b, 256);
    wire_pack_who(&b, fetch_hash(a->item), 1);
    peer_send(c, a->peer, &b);
    buf_release(&b);
}

void get_pump(struct content *c) {
    struct fetch_ask a;
    struct target *t;
    while ((t = c->fresh) != NULL) {
        DL_DELETE(c->fresh, t);
        t->queued = false;
        if (t->dir < 0 && !t->dropped)
            start(c, t);
        else if (t->copies_at < t->copies_count && t->error == 0 && !t->dropped)
            stage_copies_go_on(t);
        else /* what ended while it stood here has not been looked at */
            target_check(t);
    }
    while (fetch_next(c->fetch, clock_mono_ms(), &a))
        ask(c, &a);
    for (struct peer *p = c->peers; p != NULL; p = p->next)
        run_put(c, p);
}

/* ---- the list, group by group */

void get_ask_list(struct content *c, const struct fetch_ask *a) {
    struct target *t = fetch_ctx(a->item);
    struct buf b;
    assembly_release(&t->assembly);
    buf_init(&b, 256);
    wire_pack_list(&b, t->hash);
    peer_send(c, a->peer, &b);
    buf_release(&b);
}

static int list_wrong(struct content *c, struct conn *conn, struct target *t) {
    assembly_release(&t->assembly);
    chunklist_release(&t->list);
    fetch_wrong(c->fetch, conn->peer->id, t->item, UINT32_MAX, clock_mono_ms());
    return 0;
}

static int group_cmp(const void *a, const void *b) {
    return memcmp(((const struct group *)a)->name, ((const struct group *)b)->name, GROUP_BYTES);
}

/* Groups that the contents have which this one replaces. */
static void from_base(struct content *c, struct target *t, const uint8_t *base) {
    struct assembly *a = &t->assembly;
    struct chunklist list;
    struct group g, *found, *groups = NULL;
    uint32_t count = 0, cap = 0;
    chunklist_init(&list);
    bool ok = table_list(c->table, base, &list) == 0;
    for (uint32_t at = 0; ok && chunklist_group(&list, at, &g); at += g.count) {
        if (count == cap) {
            cap = cap == 0 ? 64 : cap * 2;
            struct group *more = realloc(groups, cap * sizeof *groups);
            if ((ok = more != NULL) == false)
                break;
            groups = more;
        }
        groups[count++] = g;
    }
    if (ok && count > 0)
        qsort(groups, count, sizeof *groups, group_cmp);
    for (uint32_t i = 0; ok && count > 0 && i < a->groups_count; i++) {
        memcpy(g.name, a->groups[i].name, GROUP_BYTES);
        found = a->groups[i].known ? NULL : bsearch(&g, groups, count, sizeof *groups, group_cmp);
        if (found == NULL || found->count != a->groups[i].count)
            continue;
        memcpy(a->entries + (size_t)a->groups[i].first * ENTRY_BYTES, list.entries + (size_t)found->first * ENTRY_BYTES,
               (size_t)found->count * ENTRY_BYTES);
        a->groups[i].known = true;
        a->missing--;
    }
    free(groups);
    chunklist_release(&list);
}

/* All entries are here: is it the list that was asked for? */
static int assembled(struct content *c, struct conn *conn, struct target *t) {
    uint8_t hash[CONTENT_HASH_BYTES];
    if (chunklist_append(&t->list, t->assembly.entries, t->assembly.chunks) != 0)
        return list_wrong(c, conn, t);
    chunklist_hash(&t->list, hash);
    if (memcmp(hash, t->hash, sizeof hash) != 0)
        return list_wrong(c, conn, t);
    if (t->list.size != t->size) { /* nobody can help: the index says something else */
        content_say(c, LOG_WARNING, "files: a content has %llu bytes, and its index says %llu: it is not taken",
                    (unsigned long long)t->list.size, (unsigned long long)t->size);
        target_fail(t, ERR_MALFORMED);
        return 0;
    }
    listed(t, false);
    return 0;
}

static void ask_parts(struct content *c, struct conn *conn, const struct target *t) {
    uint8_t firsts[WIRE_PARTS_MAX * 4];
    const struct assembly *a = &t->assembly;
    struct wire_part part = {t->hash, firsts, 0};
    struct buf b;
    buf_init(&b, 4u << 20);
    for (uint32_t i = 0; i < a->groups_count; i++) {
        if (a->groups[i].known)
            continue;
        wire_put_u32(firsts + 4 * (size_t)part.count++, a->groups[i].first);
        if (part.count < WIRE_PARTS_MAX)
            continue;
        wire_pack_part(&b, &part);
        part.count = 0;
    }
    if (part.count > 0)
        wire_pack_part(&b, &part);
    peer_send(c, conn->peer->id, &b);
    buf_release(&b);
}

static bool groups_add(struct assembly *a, const struct wire_groups *w) {
    if (a->groups_count + w->count > a->groups_cap) {
        uint32_t cap = a->groups_count + w->count;
        void *more = realloc(a->groups, cap * sizeof *a->groups);
        if (more == NULL)
            return false;
        a->groups = more;
        a->groups_cap = cap;
    }
    for (uint32_t i = 0; i < w->count; i++) {
        const uint8_t *g = w->groups + (size_t)i * WIRE_GROUP_BYTES;
        uint32_t n = a->groups_count++;
        a->groups[n].first = a->covered;
        a->groups[n].count = (uint32_t)g[0] | (uint32_t)g[1] << 8;
        a->groups[n].known = false;
        memcpy(a->groups[n].name, g + 2, GROUP_BYTES);
        a->covered += a->groups[n].count;
    }
    return true;
}

int get_groups(struct content *c, struct conn *conn, const struct wire_groups *w) {
    struct target *t = target_find(c, w->hash);
    if (t == NULL || t->item == NULL || t->small || t->listed || !fetch_list_came(c->fetch, conn->peer->id, t->item, clock_mono_ms()))
        return 0; /* not asked for, or not any more */
    struct assembly *a = &t->assembly;
    if (a->covered == 0)
        a->chunks = w->chunks;
    if (w->chunks != a->chunks || w->first != a->covered || w->chunks > t->size / CHUNK_MIN + 1)
        return list_wrong(c, conn, t);
    if (!groups_add(a, w)) {
        target_fail(t, ERR_NOMEM);
        return 0;
    }
    if (a->covered < a->chunks)
        return 0;
    a->missing = a->groups_count;
    if ((a->entries = malloc((size_t)a->chunks * ENTRY_BYTES)) == NULL) {
        target_fail(t, ERR_NOMEM);
        return 0;
    }
    for (const struct want *wish = t->wants; wish != NULL; wish = wish->next)
        if (wish->want.based)
            from_base(c, t, wish->want.base);
    if (a->missing == 0)
        return assembled(c, conn, t);
    ask_parts(c, conn, t);
    return 0;
}

int get_entries(struct content *c, struct conn *conn, const struct wire_entries *w) {
    struct target *t = target_find(c, w->hash);
    if (t == NULL || t->item == NULL || t->listed || t->assembly.entries == NULL)
        return 0;
    struct assembly *a = &t->assembly;
    uint8_t name[CONTENT_HASH_BYTES];
    uint32_t low = 0, high = a->groups_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (a->groups[mid].first < w->first)
            low = mid + 1;
        else
            high = mid;
    }
    bool named = low < a->groups_count && a->groups[low].first == w->first && a->groups[low].count == w->count;
    if ((named && a->groups[low].known) || !fetch_list_came(c->fetch, conn->peer->id, t->item, clock_mono_ms()))
        return 0; /* who sends the same again and again gets no further, and is not waited for */
    if (!named)
        return list_wrong(c, conn, t);
    chunk_hash(w->entries, (size_t)w->count * ENTRY_BYTES, name);
    if (memcmp(name, a->groups[low].name, GROUP_BYTES) != 0)
        return list_wrong(c, conn, t);
    memcpy(a->entries + (size_t)w->first * ENTRY_BYTES, w->entries, (size_t)w->count * ENTRY_BYTES);
    a->groups[low].known = true;
    return --a->missing == 0 ? assembled(c, conn, t) : 0;
}

/* ---- what else peers say */

void get_have(struct content *c, struct conn *conn, const struct wire_have *w) {
    fetch_said(c->fetch, conn->peer->id, w->hash, w->chunks, w->bitmap, w->bitmap_len, clock_mono_ms());
}

void get_gone(struct content *c, struct conn *conn, const struct wire_run *run) {
    struct target *t = target_find(c, run->hash);
    if (t != NULL && t->item != NULL && !t->listed)
        assembly_release(&t->assembly);
    fetch_gone(c->fetch, conn->peer->id, run->hash, run->first, run->count, clock_mono_ms());
}

/* ---- looking in */

bool content_progress(struct content *c, uint64_t number, struct content_progress *out) {
    const struct want *w = want_find(c, number);
    if (w == NULL)
        return false;
    const struct target *t = w->target;
    *out = (struct content_progress){.state = CONTENT_FETCHING, .size = t->size, .here = t->here, .fetched = t->fetched};
    if (t->item != NULL)
        out->sources = fetch_sources(c->fetch, t->item);
    if (t->syncing)
        out->state = CONTENT_SYNCING;
    else if (t->item != NULL && fetch_is_stuck(t->item))
        out->state = CONTENT_WAITING;
    else if (!t->listed && !t->small)
        out->state = CONTENT_ASKING;
    return true;
}

/* What was fetched stays for the next start. */
void get_close(struct content *c) {
    struct target *t, *next;
    HASH_ITER(hh, c->targets, t, next) {
        if (t->listed)
            stage_map_write(t);
        while (t->wants != NULL)
            want_free(c, t->wants);
        target_free(t);
    }
}
