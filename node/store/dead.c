/* Rows that are one, of which some are dead. Who deleted one of them decided about that one, and about those that he knew to be the same. So the row
 * lives while one of them does, and shows what the living hold, and what was written to a dead one by somebody who knew that it is one with a living
 * one: he meant that. What else a dead one holds was deleted by somebody who had seen it, or is an update that met a deletion: an open conflict. */
#include <stdlib.h>
#include <string.h>

#include "node/store/same.h"
#include "proto/err.h"

static int seen_new(const struct store *s, struct seen *out) {
    out->count = s->origins_count;
    out->versions = calloc(s->origins_count + 1, sizeof *out->versions);
    return out->versions ? 0 : ERR_NOMEM;
}

static void seen_free(struct seen *seen) { free((void *)(uintptr_t)seen->versions); }

/* Had the author of this death deleted that row? */
static int death_of(struct store *s, const struct tbl *t, const struct rowid *member, const struct rowid *who, const struct death *d,
                    bool *is) {
    struct seen seen;
    *is = rowid_same(member, who);
    int err = *is || d->mend ? 0 : seen_new(s, &seen);
    if (err || *is || d->mend)
        return err;
    if (!(err = rows_death_seen(s, d, (uint64_t *)(uintptr_t)seen.versions)))
        *is = same_known(s, t, member, who, &seen);
    seen_free(&seen);
    return err;
}

int dead_knowing(struct store *s, const struct tbl *t, const struct rowid *who, const struct write *w, bool *knew) {
    struct origins_order o = store_order(s);
    struct arena arena = {0};
    struct rowid *list;
    uint32_t count;
    struct reg own;
    bool home, his;
    *knew = false;
    reg_init(&own);
    int err = same_members(s, t, who, &arena, &list, &count);
    for (uint32_t i = 0; i < count && !*knew && !err; i++) {
        err = unify_own(s, t, &list[i], &own, &home);
        for (uint32_t k = 0; k < own.deaths_count && !*knew && !err; k++) {
            const struct death *d = &own.deaths[k];
            if (stamp_cmp((struct stamp){d->at, d->origin}, own.inserted, &o) > 0 && !(err = death_of(s, t, &list[i], who, d, &his)) && his)
                err = rows_death_saw(s, d, w, knew);
        }
    }
    reg_release(&own);
    arena_release(&arena);
    return err;
}

/* Was it meant for the row that lives? Mends are, whose authors decide nothing. */
static int meant_living(struct store *s, const struct tbl *t, const struct rowid *dead, const struct rowid *living, uint32_t count,
                        const struct write *w, bool *meant) {
    struct seen seen;
    *meant = w->mend;
    int err = w->mend ? 0 : seen_new(s, &seen);
    if (err || w->mend)
        return err;
    err = same_seen_by(s, w, &seen);
    for (uint32_t i = 0; i < count && !err && !*meant; i++)
        *meant = same_known(s, t, dead, &living[i], &seen);
    seen_free(&seen);
    return err;
}

/* The members that live, in the arena. */
static int living(struct store *s, const struct tbl *t, const struct rowid *list, uint32_t count, struct arena *arena, struct rowid **out,
                  uint32_t *n) {
    struct origins_order o = store_order(s);
    struct reg own;
    bool home;
    int err = 0;
    *n = 0;
    if (!(*out = arena_alloc(arena, (count + 1) * sizeof **out)))
        return ERR_NOMEM;
    reg_init(&own);
    for (uint32_t i = 0; i < count && !err; i++)
        if (!(err = unify_own(s, t, &list[i], &own, &home)) && reg_alive(&own, &o))
            (*out)[(*n)++] = list[i];
    reg_release(&own);
    return err;
}

int dead_living(struct store *s, const struct tbl *t, const struct rowid *root, struct arena *arena, struct rowid *out) {
    struct rowid *list, *alive;
    uint32_t count, n;
    int err = same_members(s, t, root, arena, &list, &count);
    if (!err && !(err = living(s, t, list, count, arena, &alive, &n)))
        *out = n ? alive[0] : *root; /* the root is the first of the list */
    return err;
}

/* Does this cell of a dead one count for the row that lives through others? lost: nor does anybody who deleted it know of it. */
static int counts(struct store *s, const struct tbl *t, const struct rowid *dead, const struct rowid *list, uint32_t n,
                  const struct write *w, bool *is, bool *lost) {
    bool knew;
    *is = *lost = false;
    int err = dead_knowing(s, t, dead, w, &knew);
    if (err || knew || (err = meant_living(s, t, dead, list, n, w, is)))
        return err;
    *lost = !*is && !w->mend;
    return 0;
}

int dead_strip(struct store *s, const struct tbl *t, const struct rowid *root, const struct rowid *list, uint32_t count,
               const struct rowid *member, struct reg *own) {
    struct origins_order o = store_order(s);
    struct arena arena = {0};
    struct rowid *alive;
    uint32_t n, kept = 0;
    bool is, lost;
    if (reg_alive(own, &o))
        return 0;
    int err = living(s, t, list, count, &arena, &alive, &n);
    for (uint32_t i = 0; i < own->cells_count && n && !err; i++) {
        bool number = own->cells[i].column + 1 == t->number_column; /* the root's: of others it is not asked */
        err = number ? 0 : counts(s, t, member, alive, n, &own->writes[own->cells[i].write], &is, &lost);
        if (!err && (number ? rowid_same(member, root) : is))
            own->cells[kept++] = own->cells[i];
    }
    if (n && !err) {
        own->cells_count = kept;
        own->deaths_count = own->copies_count = 0;
    }
    arena_release(&arena);
    return err;
}

int dead_each_lost(struct store *s, const struct tbl *t, const struct rowid *root,
                   int (*call)(void *ctx, const struct reg *of, const struct cell *c, const struct death *d), void *ctx) {
    struct origins_order o = store_order(s);
    struct arena arena = {0};
    struct rowid *list, *alive;
    uint32_t count, n;
    struct reg own;
    bool home, is, lost;
    reg_init(&own);
    int err = same_members(s, t, root, &arena, &list, &count);
    if (!err)
        err = living(s, t, list, count, &arena, &alive, &n);
    for (uint32_t i = 0; !err && n && i < count; i++) {
        if ((err = unify_own(s, t, &list[i], &own, &home)) || !reg_known(&own) || reg_alive(&own, &o))
            continue;
        if ((err = unify_overwritten(s, state_table_of(s, t->no), list, count, &list[i], &own)))
            break;
        own.who = list[i];
        for (uint32_t k = 0; k < own.cells_count && !err; k++) {
            if (own.cells[k].column + 1 == t->number_column || rows_is_key(t, own.cells[k].column))
                continue;
            err = counts(s, t, &list[i], alive, n, &own.writes[own.cells[k].write], &is, &lost);
            if (!err && lost)
                err = call(ctx, &own, &own.cells[k], NULL);
        }
    }
    reg_release(&own);
    arena_release(&arena);
    return err;
}

int dead_written_unseen(struct store *s, const struct tbl *t, const struct rowid *root, const struct cell *c, const struct write *w,
                        bool *unseen) {
    struct arena arena = {0};
    struct rowid who = *root;
    bool knew = false;
    int err = unify_writer(s, state_table_of(s, t->no), &who, c->column, c->hash, w->origin, w->version, &arena);
    if (!err)
        err = dead_knowing(s, t, &who, w, &knew);
    *unseen = !knew;
    arena_release(&arena);
    return err;
}

/* The last death of a row that is dead; NULL: it was forgotten. */
static const struct death *last_death(const struct reg *r) {
    for (uint32_t i = 0; i < r->deaths_count; i++)
        if (r->deaths[i].at == r->died.at && r->deaths[i].origin == r->died.origin)
            return &r->deaths[i];
    return NULL;
}

int dead_together(struct store *s, const struct tbl *t, const struct rowid *root, struct arena *arena, struct rowid **out, uint32_t *n) {
    struct origins_order o = store_order(s);
    struct rowid *list;
    uint32_t count;
    struct reg own;
    bool home;
    struct stamp last = {0, UINT32_MAX};
    uint64_t version = 0;
    *n = 0;
    reg_init(&own);
    int err = same_members(s, t, root, arena, &list, &count);
    if (!err && !(*out = arena_alloc(arena, (count + 1) * sizeof **out)))
        err = ERR_NOMEM;
    for (int pass = 0; pass < 2 && !err; pass++)
        for (uint32_t i = 0; i < count && !err; i++) {
            const struct death *d = NULL;
            if (!(err = unify_own(s, t, &list[i], &own, &home)) && reg_known(&own) && !reg_alive(&own, &o))
                d = last_death(&own);
            if (!d)
                continue;
            if (pass == 0 && (last.origin == UINT32_MAX || stamp_cmp(own.died, last, &o) > 0)) {
                last = own.died;
                version = d->version;
            } else if (pass == 1 && d->origin == last.origin && d->version == version) {
                (*out)[(*n)++] = list[i];
            }
        }
    reg_release(&own);
    return err;
}
