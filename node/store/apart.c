/* Rows that are one, and are two again.
 *
 * For people: each row for which another stands is an open conflict of kind "unique", until somebody says that he is content with it,
 * or takes it apart again. Both are facts, like the one that made them one (same.c), and the latest holds.
 *
 * Taken apart, both have what their own registers say: what was written to one of them before it was known that they are one, and to the elder (of those
 * that live) since then; what refers to either refers to it again. The younger gives up the UNIQUE value, by a mend as in any meeting (meet.c), and they are not made one again.
 *
 * By themselves: who gives one of them another UNIQUE value, and does not know that they are one, decides about that one, as who deletes it does
 * (dead.c). If both had come at once, the two rows would never have met: whether they are one would hang on how the batches were cut. So a mend takes
 * them apart, just above what made them one, as long as nobody wrote to the one row that they were. */
#include <stdlib.h>
#include <string.h>

#include "node/store/mend.h"
#include "node/store/same.h"
#include "proto/err.h"

/* Is it open that another row stands for this one? Told of the younger of each two. */
static bool open_pair(const struct store *s, const struct same_node *n, const struct same_pair *p) {
    return p->b == n && same_pair_state(s, p) == SAME_ONE;
}

static bool is_open(const struct store *s, const struct same_node *n) {
    bool open = false;
    for (uint32_t i = 0; i < n->pairs_count; i++)
        open = open || open_pair(s, n, n->pairs[i]);
    return open;
}

struct same_node *same_next_open(struct store *s, const struct tbl *t, const struct rowid *root, const struct same_node *after) {
    struct same_node *n = same_node(s, t, root);
    if (!n || n->root != n)
        return NULL;
    for (n = after ? after->next : n->next; n && !is_open(s, n);)
        n = n->next;
    return n;
}

uint32_t same_open(struct store *s, const struct tbl *t, const struct rowid *root) {
    uint32_t count = 0;
    for (const struct same_node *n = same_next_open(s, t, root, NULL); n; n = same_next_open(s, t, root, n))
        count++;
    return count;
}

int same_decide(struct store *s, struct tbl *t, const struct rowid *who, bool split) {
    struct same_node *n = same_node(s, t, who);
    int err = n ? 0 : ERR_NOTFOUND;
    for (uint32_t i = 0; !err && i < n->pairs_count; i++) {
        const struct same_pair *p = n->pairs[i];
        uint64_t at = hlc_of_ms((uint64_t)store_wall_ms(s));
        if (split ? same_pair_state(s, p) == SAME_APART : !open_pair(s, n, p))
            continue;
        for (const struct same_fact *f = p->facts; f; f = f->next)
            at = f->at >= at ? stamp_above(f->at) : at;
        err = unify_write(s, t, &p->a->who, p->a->rank, &p->b->who, p->b->rank, split ? SAME_APART : SAME_SETTLED, at);
    }
    return err;
}

/* ---- whoever gave one of them another UNIQUE value, and knew no other */

struct doubt {
    struct doubt *next;
    const struct same_pair *pair;
    struct same_node *changed;
    struct write by;
};

/* Asked again and again, of the same columns mostly. */
static bool is_unique(struct store *s, const struct tbl *t, uint32_t column) {
    enum { UNKNOWN, YES, NO };
    struct same *m = s->same;
    if (m->uniques_of != t || column >= m->unique_count) {
        m->uniques_of = NULL;
        if (!(m->unique = arena_alloc(&m->doubts_arena, t->columns_count + 1)))
            return mend_is_unique(s, t, column);
        memset(m->unique, UNKNOWN, t->columns_count + 1);
        m->unique_count = t->columns_count;
        m->uniques_of = t;
    }
    if (m->unique[column] == UNKNOWN)
        m->unique[column] = mend_is_unique(s, t, column) ? YES : NO;
    return m->unique[column] == YES;
}

static bool is_by(const struct reg *r, const struct cell *c, const struct write *by) {
    return r->writes[c->write].origin == by->origin && r->writes[c->write].version == by->version;
}

int same_doubt(struct store *s, const struct tbl *t, const struct rowid *member, const struct reg *own, const struct write *by) {
    struct same_node *n = by->carried || !t->io ? NULL : same_node(s, t, member);
    bool unique = false;
    for (uint32_t i = 0; n && i < own->cells_count && !unique; i++)
        unique = is_by(own, &own->cells[i], by) && is_unique(s, t, own->cells[i].column);
    for (uint32_t i = 0; unique && i < n->pairs_count; i++) {
        if (same_pair_state(s, n->pairs[i]) != SAME_ONE)
            continue;
        struct doubt *d = arena_alloc(&s->same->doubts_arena, sizeof *d);
        if (!d)
            return ERR_NOMEM;
        *d = (struct doubt){s->same->doubts, n->pairs[i], n, *by};
        s->same->doubts = d;
    }
    return 0;
}

/* Did the author of this write know that they are one? */
static int knew_pair(struct store *s, const struct same_pair *p, const struct write *w, bool *knew) {
    uint64_t *versions = calloc(s->origins_count + 1, sizeof *versions);
    struct seen seen = {versions, s->origins_count};
    int err = versions ? same_seen_by(s, w, &seen) : ERR_NOMEM;
    *knew = !err && same_known(s, p->a->tbl, &p->a->who, &p->b->who, &seen);
    free(versions);
    return err;
}

/* Did anybody write to this one who knew? Then it is what the two became. */
static int used(struct store *s, const struct same_pair *p, const struct reg *r, bool *knew) {
    int err = 0;
    *knew = false;
    for (uint32_t i = 0; i < r->writes_count && !err && !*knew; i++)
        if (!r->writes[i].mend && !r->writes[i].carried)
            err = knew_pair(s, p, &r->writes[i], knew);
    return err;
}

/* As a UNIQUE index compares them. */
static int same_value(struct store *s, struct tbl *t, const struct reg *a, const struct cell *x, const struct reg *b, const struct cell *y,
                      enum collation k, bool *same) {
    struct value v, w;
    struct arena arena = {0};
    const struct write *by = &a->writes[x->write], *others = y ? &b->writes[y->write] : NULL;
    *same = y && x->hash == y->hash;
    if (!y || *same || k == COLLATION_BINARY)
        return 0;
    int err = values_find(s, by->origin, by->version, t, &a->who, x->column, x->hash, &v);
    if (!err && !(err = mend_copy_bytes(&arena, &v.p, v.len)) && /* of a cache that the next look may give up */
        !(err = values_find(s, others->origin, others->version, t, &b->who, y->column, y->hash, &w)))
        *same = meet_same_value(s, &v, &w, k);
    arena_release(&arena);
    return err == ERR_NOTFOUND ? 0 : err;
}

/* Has the one by this write another UNIQUE value than the other has? What refers to rows counts for nothing: they may be one, too. */
static int differs(struct store *s, struct tbl *t, const struct reg *changed, const struct reg *other, const struct write *by, bool *is) {
    struct origins_order o = store_order(s);
    const struct tio *io = t->io;
    int err = 0;
    *is = false;
    for (uint32_t i = 0; i < changed->cells_count && !err && !*is; i++) {
        const struct cell *c = &changed->cells[i];
        uint32_t at = c->column < io->by_number_count ? io->by_number[c->column] : 0;
        bool same = true;
        if (!at || !is_by(changed, c, by) || reg_winner(changed, c->column, &o) != c || (io->ref_to && io->ref_to[at - 1]) ||
            !is_unique(s, t, c->column))
            continue;
        err = same_value(s, t, changed, c, other, reg_winner(other, c->column, &o), io->table->columns[io->order[at - 1]].own, &same);
        *is = !err && !same;
    }
    return err;
}

/* 1: they are to be two again. Also if one of them is dead: it may come back. */
static int judge(struct store *s, const struct doubt *d) {
    struct tbl *t = d->changed->tbl;
    const struct same_node *across = d->pair->a == d->changed ? d->pair->b : d->pair->a;
    struct reg changed, other;
    bool home, is = false, knew = false;
    int err = 0;
    if (!t->io || same_pair_state(s, d->pair) != SAME_ONE)
        return 0;
    reg_init(&changed);
    reg_init(&other);
    if ((err = unify_own(s, t, &d->changed->who, &changed, &home)) || (err = unify_own(s, t, &across->who, &other, &home)))
        goto out;
    changed.who = d->changed->who;
    other.who = across->who;
    if ((err = differs(s, t, &changed, &other, &d->by, &is)) || !is || (err = used(s, d->pair, &changed, &knew)) || knew ||
        (err = used(s, d->pair, &other, &knew)))
        is = false;
out:
    reg_release(&changed);
    reg_release(&other);
    return err ? err : is && !knew;
}

int same_judge(struct store *s) {
    bool begun = false;
    int err = 0;
    if (!same_any(s))
        return 0;
    for (struct doubt *d = s->same->doubts; d && err >= 0; d = d->next) {
        const struct same_pair *p = d->pair;
        uint64_t at = 0;
        if ((err = judge(s, d)) <= 0)
            continue;
        for (const struct same_fact *f = p->facts; f; f = f->next)
            at = f->at > at ? f->at : at;
        if (!begun &&
            ((err = state_begin(s)) || (err = drain_begin_changes(s, 0)))) /* nobody decided anything: what was seen does not count */
            break;
        begun = true;
        err = unify_write(s, p->a->tbl, &p->a->who, p->a->rank, &p->b->who, p->b->rank, SAME_APART, stamp_above(at));
    }
    s->same->doubts = NULL;
    s->same->uniques_of = NULL;
    arena_release(&s->same->doubts_arena);
    return err < 0 ? err : begun ? drain_seal(s, false) : 0;
}
