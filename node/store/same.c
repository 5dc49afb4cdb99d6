/* Which rows are one. Two servers that do not know of each other enter the same thing, each as a row of its own; where that shows (twice.c) a
 * change of ours says so, CHANGE_SAME: "this row is the same as that one". All such facts together make groups, and the eldest of each group, its root,
 * stands for all. A person may take two apart again: of what was told of a pair the highest stamp holds.
 *
 * Facts are kept in `same`, and in memory as a graph. They name rows that have identities of their own. Rows whose key refers to such rows, or is such
 * a reference, follow without a fact: who stands for them has the same key, with the roots in it. What becomes of registers is in unify.c. */
#include "node/store/afar.h"
#include "node/store/first_name.h"
#include "node/store/same.h"

#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

struct knew_at { /* from this version on its author knew so much of that origin */
    uint64_t version;
    uint32_t of;
    bool blind; /* of this version alone: nothing of others counts */
    uint64_t knew;
};

struct knowing {
    struct knew_at *list;
    uint32_t count, cap;
    uint64_t read; /* versions */
};

/* ---- the graph */

static struct same_node *find(struct store *s, const struct tbl *t, const struct rowid *who) {
    struct same_node *n = NULL;
    buf_clear(&s->same->name);
    if (rowid_name(t, who, &s->same->name) == 0)
        HASH_FIND(hh, s->same->nodes, s->same->name.data, s->same->name.len, n);
    return n;
}

struct same_node *same_node(struct store *s, const struct tbl *t, const struct rowid *who) {
    return same_any(s) ? find(s, t, who) : NULL;
}

static int add_node(struct store *s, struct tbl *t, const struct rowid *who, uint64_t rank, struct same_node **out) {
    struct same_node *n = find(s, t, who);
    if (!n) {
        const struct buf *name = &s->same->name;
        if (name->failed || !(n = arena_alloc(&s->same->arena, sizeof *n + name->len)))
            return ERR_NOMEM;
        memset(n, 0, sizeof *n);
        memcpy(n->name, name->data, name->len);
        n->name_len = (uint32_t)name->len;
        n->tbl = t;
        n->rank = rank;
        n->root = n;
        const uint8_t *at = n->name + 4;
        int err = rowid_unpack(&n->who, &at, n->name + n->name_len);
        if (err)
            return err;
        HASH_ADD(hh, s->same->nodes, name, n->name_len, n);
    }
    if (rank < n->rank)
        n->rank = rank;
    *out = n;
    return 0;
}

/* Negative: a is the elder. By what all servers know. */
static int elder(const struct store *s, const struct same_node *a, const struct same_node *b) {
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    if (a->who.text && b->who.text) {
        size_t n = a->who.key_len < b->who.key_len ? a->who.key_len : b->who.key_len;
        int d = n ? memcmp(a->who.key, b->who.key, n) : 0;
        return d ? d : (int)(a->who.key_len > b->who.key_len) - (int)(a->who.key_len < b->who.key_len);
    }
    return rowid_cmp(s, &a->who, &b->who);
}

bool same_elder(const struct store *s, const struct same_node *a, const struct same_node *b) { return elder(s, a, b) < 0; }

static struct same_pair *pair_of(const struct same_node *a, const struct same_node *b) {
    for (uint32_t i = 0; i < a->pairs_count; i++)
        if (a->pairs[i]->a == b || a->pairs[i]->b == b)
            return a->pairs[i];
    return NULL;
}

static int link_pair(struct store *s, struct same_node *n, struct same_pair *p) {
    struct same_pair **more = arena_alloc(&s->same->arena, (n->pairs_count + 1) * sizeof(struct same_pair *));
    if (!more)
        return ERR_NOMEM;
    if (n->pairs_count)
        memcpy(more, n->pairs, n->pairs_count * sizeof(struct same_pair *));
    more[n->pairs_count++] = p;
    n->pairs = more;
    return 0;
}

static enum same_state state_of(const struct store *s, const struct same_pair *p, const struct seen *seen) {
    struct origins_order o = store_order(s);
    const struct same_fact *best = NULL;
    for (const struct same_fact *f = p->facts; f; f = f->next) {
        if (seen && !seen_covers(seen, f->origin, f->version))
            continue;
        int d = best ? stamp_cmp((struct stamp){f->at, f->origin}, (struct stamp){best->at, best->origin}, &o) : 1;
        if (d > 0 || (d == 0 && f->state > best->state))
            best = f;
    }
    return best ? best->state : SAME_APART;
}

enum same_state same_pair_state(const struct store *s, const struct same_pair *p) { return state_of(s, p, NULL); }

static struct same_node *across(const struct same_pair *p, const struct same_node *n) { return p->a == n ? p->b : p->a; }

/* The group of n, by all facts or by those seen, into a list that has room for all nodes; they are marked. */
static void walk(struct store *s, struct same_node *n, const struct seen *seen, struct same_node **list, uint32_t *count) {
    uint32_t i = *count;
    n->mark = s->same->mark;
    list[(*count)++] = n;
    for (; i < *count; i++)
        for (uint32_t k = 0; k < list[i]->pairs_count; k++) {
            struct same_node *next = across(list[i]->pairs[k], list[i]);
            if (next->mark == s->same->mark || state_of(s, list[i]->pairs[k], seen) == SAME_APART)
                continue;
            next->mark = s->same->mark;
            list[(*count)++] = next;
        }
}

static struct same_node **room_for_all(const struct store *s) { return calloc(HASH_COUNT(s->same->nodes) + 1, sizeof(struct same_node *)); }

/* Who stands for whom, for these and all that are one with them. */
static int regroup(struct store *s, struct same_node *const *nodes, uint32_t nodes_count) {
    struct same_node **list = room_for_all(s);
    uint32_t count = 0;
    if (!list)
        return ERR_NOMEM;
    s->same->mark++;
    for (uint32_t i = 0; i < nodes_count; i++) {
        uint32_t from = count;
        if (nodes[i]->mark == s->same->mark)
            continue;
        walk(s, nodes[i], NULL, list, &count);
        struct same_node *root = nodes[i];
        for (uint32_t k = from; k < count; k++)
            root = elder(s, list[k], root) < 0 ? list[k] : root;
        struct same_node **at = &root->next;
        for (uint32_t k = from; k < count; k++) {
            list[k]->root = root;
            if (list[k] == root)
                continue;
            *at = list[k];
            at = &list[k]->next;
        }
        *at = NULL;
    }
    free(list);
    return 0;
}

static int keep_fact(struct store *s, const struct same_pair *p, const struct same_fact *f) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "INSERT OR IGNORE INTO same VALUES(%u, ?, ?, %lld, %lld, %u, %lld, %lld, %d)", p->a->tbl->no,
                          (long long)p->a->rank, (long long)p->b->rank, f->origin, (long long)f->version, (long long)f->at, (int)f->state);
    if (err)
        return err;
    sqlite3_bind_blob64(q, 1, p->a->name + 4, p->a->name_len - 4, SQLITE_STATIC);
    sqlite3_bind_blob64(q, 2, p->b->name + 4, p->b->name_len - 4, SQLITE_STATIC);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

int same_add(struct store *s, struct tbl *t, const struct rowid *a, uint64_t rank_a, const struct rowid *b, uint64_t rank_b,
             const struct same_fact *fact, bool keep) {
    struct same_node *x, *y;
    int err = add_node(s, t, a, rank_a, &x);
    if (err || (err = add_node(s, t, b, rank_b, &y)) || x == y)
        return err;
    struct same_pair *p = pair_of(x, y);
    if (!p) {
        if (!(p = arena_alloc(&s->same->arena, sizeof *p)))
            return ERR_NOMEM;
        *p = (struct same_pair){.a = x, .b = y};
        if ((err = link_pair(s, x, p)) || (err = link_pair(s, y, p)))
            return err;
    }
    p->a = elder(s, x, y) < 0 ? x : y;
    p->b = p->a == x ? y : x;
    for (const struct same_fact *f = p->facts; f; f = f->next)
        if (f->origin == fact->origin && f->version == fact->version && f->state == fact->state)
            return 0;
    struct same_fact *f = arena_alloc(&s->same->arena, sizeof *f);
    if (!f)
        return ERR_NOMEM;
    *f = *fact;
    f->next = p->facts;
    p->facts = f;
    if (keep && (err = keep_fact(s, p, f)))
        return err;
    struct same_node **all = NULL; /* of both groups as they were: perhaps they fall apart */
    uint32_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        uint32_t n = 0;
        struct same_node *const from[2] = {x->root, y->root};
        for (int k = 0; k < (from[0] == from[1] ? 1 : 2); k++)
            for (struct same_node *m = from[k]; m; m = m->next, n++)
                if (all)
                    all[n] = m;
        count = n;
        if (!all && !(all = calloc(count + 1, sizeof(struct same_node *))))
            return ERR_NOMEM;
    }
    err = regroup(s, all, count);
    for (uint32_t i = 0; i < count && s->rosters; i++)
        roster_touch(s, all[i]->tbl, &all[i]->who);
    free(all);
    return err;
}

int same_load(struct store *s) {
    sqlite3_stmt *q;
    int row;
    same_release(s);
    if (!(s->same = calloc(1, sizeof *s->same)))
        return ERR_NOMEM;
    buf_init(&s->same->name, 1 << 20);
    buf_init(&s->same->key, 1 << 20);
    int err = sql_prepare(s->db, &q, "SELECT tbl, a, b, rank_a, rank_b, origin, version, at, state FROM same");
    while (!err && (row = sql_step(q)) != 0) {
        struct rowid who[2];
        struct tbl *t = row > 0 ? state_table_of(s, (uint32_t)sqlite3_column_int64(q, 0)) : NULL;
        if (row < 0 || !t) {
            err = row < 0 ? row : ERR_CORRUPT;
            break;
        }
        for (int i = 0; i < 2 && !err; i++) {
            const uint8_t *at = sqlite3_column_blob(q, 1 + i);
            err = rowid_unpack(&who[i], &at, at + sqlite3_column_bytes(q, 1 + i));
        }
        struct same_fact f = {.origin = (uint32_t)sqlite3_column_int64(q, 5),
                              .version = (uint64_t)sqlite3_column_int64(q, 6),
                              .at = (uint64_t)sqlite3_column_int64(q, 7),
                              .state = (enum same_state)sqlite3_column_int64(q, 8)};
        if (!err)
            err = same_add(s, t, &who[0], (uint64_t)sqlite3_column_int64(q, 3), &who[1], (uint64_t)sqlite3_column_int64(q, 4), &f, false);
    }
    sqlite3_finalize(q);
    return err;
}

void same_release(struct store *s) {
    struct same *m = s->same;
    if (!m)
        return;
    HASH_CLEAR(hh, m->nodes);
    arena_release(&m->arena);
    arena_release(&m->uncounted_arena);
    arena_release(&m->doubts_arena);
    buf_release(&m->name);
    buf_release(&m->key);
    for (uint32_t i = 0; i < m->knowing_count; i++)
        free(m->knowing[i].list);
    free(m->knowing);
    free(m);
    s->same = NULL;
}

/* ---- who stands for whom */

/* Rows whose INTEGER key is a reference are known as the rows are that they refer to. */
static const struct tbl *named_by(const struct tbl *t) { return t->io && t->io->key_ref ? t->io->key_ref : t; }

/* The table of a reference in a key, and the row; NULL: none that was told of. */
static struct same_node *meant(struct store *s, const struct value *v) {
    struct tbl *t;
    struct rowid who;
    bool literal = s->same->literal;
    s->same->literal = true;
    int found = v->type == VALUE_REF ? refs_find(s, v, &t, &who) : 0;
    s->same->literal = literal;
    return found == 1 ? find(s, named_by(t), &who) : NULL;
}

/* The same reference to another row. */
static size_t refer_to(struct store *s, const struct value *v, const struct rowid *who, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    struct tbl *t;
    struct rowid was;
    bool literal = s->same->literal;
    s->same->literal = true;
    int found = refs_find(s, v, &t, &was);
    s->same->literal = literal;
    return found == 1 ? first_name_pack(s, t, who, bytes) : 0;
}

int same_root(struct store *s, const struct tbl *t, const struct rowid *who, struct buf *key, struct rowid *out) {
    struct value values[16];
    struct same_node *n;
    *out = *who;
    if (!same_any(s))
        return 0;
    if ((n = find(s, named_by(t), who))) {
        *out = n->root->who;
        return n->root != n;
    }
    int count = who->text ? tables_key_values(who, values, 16) : 0;
    bool other = false;
    for (int i = 0; i < count && !other; i++)
        other = (n = meant(s, &values[i])) && n->root != n;
    if (!other)
        return 0;
    buf_clear(key);
    for (int i = 0; i < count; i++) {
        uint8_t bytes[VALUE_REF_BORN_BYTES];
        if ((n = meant(s, &values[i]))) {
            values[i].len = refer_to(s, &values[i], &n->root->who, bytes);
            values[i].p = bytes;
        }
        tables_put_key_value(key, &values[i], COLLATION_BINARY); /* it is normalised */
    }
    out->key = key->data;
    out->key_len = key->len;
    return key->failed ? key->failed : 1;
}

bool same_is_junior(struct store *s, const struct tbl *t, const struct rowid *who) {
    struct rowid root;
    return same_any(s) && same_root(s, t, who, &s->same->key, &root) == 1;
}

static int member_add(struct arena *arena, struct rowid **out, uint32_t *count, const struct rowid *who) {
    struct rowid *more = arena_alloc(arena, (*count + 1) * sizeof *more);
    uint8_t *key = more ? arena_alloc(arena, who->key_len + 1) : NULL;
    if (!key)
        return ERR_NOMEM;
    if (*count)
        memcpy(more, *out, *count * sizeof *more);
    more[*count] = *who;
    if (who->text && who->key_len) {
        memcpy(key, who->key, who->key_len);
        more[*count].key = key;
    }
    *out = more;
    ++*count;
    return 0;
}

/* Every key in which a reference means one of those that are one with the root in it. */
static int key_members(struct store *s, const struct rowid *root, struct arena *arena, struct rowid **out, uint32_t *count) {
    struct value values[16];
    struct same_node *from[16] = {NULL}, *at[16];
    int n = tables_key_values(root, values, 16), err = n < 0 ? n : 0;
    struct buf key;
    buf_init(&key, 1 << 20);
    for (int i = 0; i < n; i++) {
        struct same_node *m = meant(s, &values[i]);
        at[i] = from[i] = m ? m->root : NULL;
    }
    for (bool more = true; more && !err;) {
        struct rowid who = *root;
        buf_clear(&key);
        for (int i = 0; i < n; i++) {
            uint8_t bytes[VALUE_REF_BORN_BYTES];
            struct value v = values[i];
            if (at[i]) {
                v.len = refer_to(s, &v, &at[i]->who, bytes);
                v.p = bytes;
            }
            tables_put_key_value(&key, &v, COLLATION_BINARY);
        }
        who.key = key.data;
        who.key_len = key.len;
        err = key.failed ? key.failed : member_add(arena, out, count, &who);
        more = false;
        for (int i = 0; i < n && !more; i++)
            if (at[i]) {
                more = at[i]->next != NULL;
                at[i] = more ? at[i]->next : from[i];
            }
    }
    buf_release(&key);
    return err;
}

int same_members(struct store *s, const struct tbl *t, const struct rowid *root, struct arena *arena, struct rowid **out, uint32_t *count) {
    *out = NULL;
    *count = 0;
    if (!same_any(s))
        return member_add(arena, out, count, root);
    const struct same_node *n = find(s, named_by(t), root);
    if (!n)
        return root->text ? key_members(s, root, arena, out, count) : member_add(arena, out, count, root);
    int err = 0;
    for (n = n->root; n && !err; n = n->next)
        err = member_add(arena, out, count, &n->who);
    return err;
}

static bool known_nodes(struct store *s, struct same_node *a, struct same_node *b, const struct seen *seen) {
    uint32_t count = 0;
    if (!a || !b || a->root != b->root)
        return false;
    struct same_node **list = room_for_all(s);
    s->same->mark++;
    if (list)
        walk(s, a, seen, list, &count);
    free(list);
    return b->mark == s->same->mark;
}

bool same_known(struct store *s, const struct tbl *t, const struct rowid *a, const struct rowid *b, const struct seen *seen) {
    struct value x[16], y[16];
    struct same_node *n;
    if (rowid_same(a, b) || !same_any(s))
        return rowid_same(a, b);
    if ((n = find(s, named_by(t), a)) || !a->text)
        return known_nodes(s, n, find(s, named_by(t), b), seen);
    int count = tables_key_values(a, x, 16);
    bool known = tables_key_values(b, y, 16) == count;
    for (int i = 0; i < count && known; i++) {
        bool equal = x[i].type == y[i].type && value_hash(&x[i]) == value_hash(&y[i]);
        known = equal || (x[i].type == VALUE_REF && y[i].type == VALUE_REF && known_nodes(s, meant(s, &x[i]), meant(s, &y[i]), seen));
    }
    return known;
}

bool same_is_apart(struct store *s, const struct same_node *a, const struct same_node *b) {
    for (const struct same_node *x = a->root; x; x = x->next)
        for (uint32_t i = 0; i < x->pairs_count; i++)
            if (across(x->pairs[i], x)->root == b->root && state_of(s, x->pairs[i], NULL) == SAME_APART)
                return true;
    return false;
}

int same_by_number(struct store *s, const struct tbl *t, int64_t number, struct rowid *who) {
    struct same_node *n, *next;
    int found = 0;
    if (!same_any(s))
        return 0;
    HASH_ITER(hh, s->same->nodes, n, next) {
        if (n->tbl != t || n->root == n || n->who.text)
            continue;
        if (!n->numbered) {
            struct reg r;
            bool home;
            reg_init(&r);
            int err = rows_find(s, t, &n->who, &r, &home);
            n->number = err ? 0 : numbers_wanted(s, t, &r);
            n->numbered = !err;
            reg_release(&r);
            if (err)
                return err;
        }
        if (n->number != number)
            continue;
        if (found && n->root != same_node(s, t, who)->root)
            return 0; /* two had it */
        *who = n->who;
        found = 1;
    }
    return found;
}

/* ---- what authors knew: the differences that their batches tell, read once */

static int knowing_add(struct knowing *k, struct knew_at at) {
    if (k->count == k->cap) {
        uint32_t cap = k->cap ? k->cap * 2 : 32;
        struct knew_at *p = realloc(k->list, cap * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        k->list = p;
        k->cap = cap;
    }
    k->list[k->count++] = at;
    return 0;
}

static int read_version(struct store *s, struct knowing *k, uint32_t origin) {
    struct bytes *b;
    struct batch_head h;
    int err = log_read(s, origin, k->read + 1, &b);
    if (err) /* older than the log: it knew what it knows */
        return err == ERR_NOTFOUND ? 0 : err;
    if (!(err = batch_head_read(&h, b->data, b->len))) {
        for (uint32_t i = 0; i < h.knew.count && !err; i++) {
            int of = state_find_origin(s, &h.knew.entries[i].origin);
            if (of >= 0)
                err = knowing_add(k, (struct knew_at){k->read + 1, (uint32_t)of, false, h.knew.entries[i].version});
        }
        if (!err && h.flags & BATCH_BLIND)
            err = knowing_add(k, (struct knew_at){.version = k->read + 1, .blind = true});
        batch_head_release(&h);
    }
    bytes_unref(b);
    return err;
}

/* What his batches up to this one say, in memory. */
static int know(struct store *s, const struct write *author, struct knowing **out) {
    if (author->origin >= s->same->knowing_count) {
        struct knowing *p = realloc(s->same->knowing, (author->origin + 1) * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        memset(p + s->same->knowing_count, 0, (author->origin + 1 - s->same->knowing_count) * sizeof *p);
        s->same->knowing = p;
        s->same->knowing_count = author->origin + 1;
    }
    struct knowing *k = *out = &s->same->knowing[author->origin];
    for (int err = 0; k->read < author->version; k->read++)
        if ((err = read_version(s, k, author->origin)))
            return err;
    return 0;
}

int same_had_seen(struct store *s, const struct write *author, const struct write *what, bool *seen) {
    struct seen now;
    struct knowing *k;
    seen_of(s, author->origin, false, &now);
    *seen = author->origin == what->origin ? author->version >= what->version : false;
    if (author->origin == what->origin || !seen_covers(&now, what->origin, what->version)) /* he does not even now */
        return 0;
    int err = know(s, author, &k);
    if (err)
        return err;
    for (uint32_t i = 0; i < k->count && k->list[i].version <= author->version; i++) {
        if (k->list[i].blind)
            *seen = *seen && k->list[i].version != author->version;
        else
            *seen = *seen || (k->list[i].of == what->origin && k->list[i].knew >= what->version);
    }
    return 0;
}

int same_seen_by(struct store *s, const struct write *author, struct seen *out) {
    uint64_t *versions = (uint64_t *)(uintptr_t)out->versions;
    struct knowing *k;
    int err = 0;
    if (author->origin == s->own && author->version > s->origins[s->own].version) { /* the batch at hand */
        struct seen now;
        seen_of(s, s->own, s->blind, &now);
        memcpy(versions, now.versions, (now.count < out->count ? now.count : out->count) * sizeof *versions);
    } else if (!(err = know(s, author, &k))) {
        for (uint32_t i = 0; i < k->count && k->list[i].version <= author->version; i++) {
            const struct knew_at *at = &k->list[i];
            if (at->blind && at->version == author->version)
                memset(versions, 0, out->count * sizeof *versions);
            else if (!at->blind && at->of < out->count && at->knew > versions[at->of])
                versions[at->of] = at->knew;
        }
    }
    if (author->origin < out->count)
        versions[author->origin] = author->version;
    return err;
}
