/* Declared foreign keys, where both tables are here: bound to statements; what an author says of his rows; and, for references to other columns
 * than the parent's key, who took away what. What is made of it is in clash.c. */
#include <stdlib.h>
#include <string.h>

#include "node/store/foreign.h"
#include "proto/err.h"

/* ---- binding */

static uint32_t column_at(const struct table *t, const char *name) {
    for (uint32_t i = 0; i < t->columns_count; i++)
        if (!sqlite3_stricmp(t->columns[i].name, name))
            return i;
    return UINT32_MAX;
}

static struct tio *tio_of(struct store *s, const struct table *t) {
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (t && s->tios[i].table == t && s->tios[i].tbl)
            return &s->tios[i];
    return NULL;
}

/* 1: bound. 0: a column that is not stored, or too many of them. */
static int bind_columns(struct foreign *f, const struct foreign_key *k) {
    const struct table *c = f->child->table, *p = f->parent->table;
    f->count = k->count;
    f->to_key = k->count == p->key_count;
    for (uint32_t i = 0; i < k->count; i++) {
        uint32_t from = column_at(c, k->from[i]);
        f->to[i] = column_at(p, k->to[i]);
        if (from == UINT32_MAX || f->to[i] == UINT32_MAX)
            return 0;
        f->from[i] = f->to_number[i] = NUMBER;
        for (uint32_t n = 0; n < f->parent->count; n++)
            if (f->parent->order[n] == f->to[i])
                f->to_number[i] = f->parent->numbers[n];
        for (uint32_t n = 0; n < f->child->count; n++)
            if (f->child->order[n] == from)
                f->from[i] = n;
        int place = p->columns[f->to[i]].key_place;
        f->to_key = f->to_key && place > 0;
        if (place > 0 && f->to_key)
            f->key_from[place - 1] = i;
    }
    return 1;
}

static const char *from_name(const struct foreign *f, uint32_t i) {
    const struct table *c = f->child->table;
    return f->from[i] == NUMBER ? c->columns[c->key[0]].name : f->child->names[f->from[i]];
}

static void put_there(sqlite3_str *q, const struct foreign *f, bool child) {
    sqlite3_str_appendf(q, "SELECT 1 FROM main.\"%w\" AS p WHERE ", f->parent->table->name);
    for (uint32_t i = 0; i < f->count; i++) {
        sqlite3_str_appendf(q, "%sp.\"%w\"=", i ? " AND " : "", f->parent->table->columns[f->to[i]].name);
        if (child) /* without affinity: the parent's counts, as its collation does */
            sqlite3_str_appendf(q, "+c.\"%w\"", from_name(f, i));
        else
            sqlite3_str_appendall(q, "?");
    }
}

static void put_orphan(sqlite3_str *q, const struct foreign *f) {
    for (uint32_t i = 0; i < f->count; i++)
        sqlite3_str_appendf(q, "c.\"%w\" NOT NULL AND ", from_name(f, i));
    sqlite3_str_appendall(q, "NOT EXISTS(");
    put_there(q, f, true);
    sqlite3_str_appendchar(q, 1, ')');
}

static int prepare(sqlite3 *db, sqlite3_str *q, sqlite3_stmt **out) {
    char *text = sqlite3_str_finish(q);
    int err = text ? sql_prepare(db, out, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    return err;
}

static const char *collate(enum collation c) { return c == COLLATION_BINARY || c == COLLATION_OTHER ? "" : schema_collate(c); }

static int prepare_children(struct store *s, struct foreign *f) {
    const struct table *c = f->child->table, *p = f->parent->table;
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendall(q, "SELECT ");
    if (c->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, "c.%s,", c->rowid);
    for (uint32_t i = 0; i < c->key_count; i++)
        sqlite3_str_appendf(q, "c.\"%w\",", c->columns[c->key[i]].name);
    for (uint32_t i = 0; i < f->count; i++)
        sqlite3_str_appendf(q, "%sc.\"%w\"", i ? "," : "", from_name(f, i));
    sqlite3_str_appendf(q, " FROM main.\"%w\" AS c WHERE ", c->name);
    for (uint32_t i = 0; i < f->count && f->indexed; i++)
        sqlite3_str_appendf(q, "c.\"%w\"=?%s AND ", from_name(f, i), collate(p->columns[f->to[i]].own));
    put_orphan(q, f);
    return prepare(s->app.writer, q, &f->children);
}

static void put_key(sqlite3_str *q, const struct table *t, const char *of) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, "%s.%s=? AND ", of, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        sqlite3_str_appendf(q, "%s.\"%w\"%s=? AND ", of, c->name, t->key_kind == KEY_COLUMNS ? schema_collate(c->collation) : "");
    }
}

static int prepare_all(struct store *s, struct foreign *f) {
    sqlite3_str *q;
    for (int i = 0; i < 2; i++) {
        sqlite3 *db = i ? s->app.writer : s->app.reader;
        put_there(q = sqlite3_str_new(db), f, false);
        int err = prepare(db, q, &f->there[i]);
        if (err)
            return err;
    }
    const struct table *c = f->child->table;
    sqlite3_str_appendall(q = sqlite3_str_new(s->app.writer), "SELECT ");
    for (uint32_t i = 0; i < f->count; i++)
        sqlite3_str_appendf(q, "%sc.\"%w\"", i ? "," : "", from_name(f, i));
    sqlite3_str_appendf(q, " FROM main.\"%w\" AS c WHERE ", c->name);
    put_key(q, c, "c");
    put_orphan(q, f);
    int err = prepare(s->app.writer, q, &f->broken);
    if (err || (err = prepare_children(s, f)) || f->to_key)
        return err;
    sqlite3_str_appendall(q = sqlite3_str_new(s->app.writer), "SELECT ");
    for (uint32_t i = 0; i < f->count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"", i ? "," : "", f->parent->table->columns[f->to[i]].name);
    sqlite3_str_appendf(q, " FROM main.\"%w\" AS p WHERE ", f->parent->table->name);
    put_key(q, f->parent->table, "p");
    sqlite3_str_appendall(q, "1");
    return prepare(s->app.writer, q, &f->referred);
}

/* Is there an index that begins with these columns, in any order, and (unique) has no others? */
static int find_index(struct store *s, const struct foreign *f, bool parent, bool *found) {
    const struct table *t = parent ? f->parent->table : f->child->table;
    sqlite3_stmt *q;
    int row,
        err = sql_prepare(s->app.reader, &q,
                          "SELECT l.seq, i.seqno, i.name FROM pragma_index_list(%Q, 'main') AS l, pragma_index_info(l.name, 'main') AS i"
                          " WHERE NOT l.partial AND (l.\"unique\" OR NOT %d) ORDER BY 1, 2",
                          t->name, parent);
    int64_t index = -1;
    uint32_t hits = 0, others = 0;
    *found = false;
    while (!err && (row = sql_step(q)) != 0) {
        if (row < 0)
            err = row;
        if (err || sqlite3_column_int64(q, 0) != index) {
            *found = *found || (hits == f->count && !others);
            hits = others = 0;
        }
        index = sqlite3_column_int64(q, 0);
        const char *name = (const char *)sqlite3_column_text(q, 2);
        bool hit = false;
        for (uint32_t i = 0; i < f->count && name; i++)
            hit = hit || !sqlite3_stricmp(parent ? t->columns[f->to[i]].name : from_name(f, i), name);
        if (hit && !others)
            hits++;
        else if (parent || hits < f->count)
            others++;
    }
    *found = *found || (hits == f->count && !others);
    sqlite3_finalize(q);
    return err;
}

static void foreign_free(struct foreign *f) {
    if (!f)
        return;
    sqlite3_finalize(f->there[0]);
    sqlite3_finalize(f->there[1]);
    sqlite3_finalize(f->broken);
    sqlite3_finalize(f->children);
    sqlite3_finalize(f->referred);
    free(f);
}

static int list_add(struct foreign ***list, uint32_t *count, struct foreign *f) {
    struct foreign **p = realloc(*list, (*count + 1) * sizeof(struct foreign *));
    if (!p)
        return ERR_NOMEM;
    *list = p;
    p[(*count)++] = f;
    return 0;
}

static int load_one(struct store *s, struct tio *child, const struct foreign_key *k) {
    struct tio *parent = tio_of(s, schema_find(&s->schema, k->parent, strlen(k->parent)));
    if (!parent || k->count > COLUMNS_MAX)
        return 0;
    struct foreign *f = calloc(1, sizeof *f);
    if (!f)
        return ERR_NOMEM;
    f->child = child;
    f->parent = parent;
    bool unique = true;
    int err = bind_columns(f, k), bound = err;
    err = bound && !f->to_key ? find_index(s, f, true, &unique) : 0; /* without one SQLite calls it a mismatch, and enforces nothing */
    if (!err && bound)
        err = find_index(s, f, false, &f->indexed);
    f->indexed = f->indexed || (f->count == 1 && f->from[0] == NUMBER);
    if (err || !bound || !unique || (err = prepare_all(s, f))) {
        foreign_free(f);
        return err == ERR_INTERNAL ? 0 : err; /* what its SQL calls is not here */
    }
    if ((err = list_add(&s->foreigns, &s->foreigns_count, f))) {
        foreign_free(f);
        return err;
    }
    parent->known_by |= !f->to_key;
    err = list_add(&child->refs, &child->refs_count, f);
    return err ? err : list_add(&parent->kids, &parent->kids_count, f);
}

int foreign_load(struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tio *io = &s->tios[i];
        for (uint32_t k = 0; io->tbl && k < io->table->foreign_keys_count; k++) {
            int err = load_one(s, io, &io->table->foreign_keys[k]);
            if (err)
                return err;
        }
    }
    return 0;
}

void foreign_unload(struct store *s) {
    foreign_forget(s);
    for (uint32_t i = 0; i < s->foreigns_count; i++)
        foreign_free(s->foreigns[i]);
    free(s->foreigns);
    s->foreigns = NULL;
    s->foreigns_count = 0;
    for (uint32_t i = 0; i < s->tios_count; i++) {
        free(s->tios[i].refs);
        free(s->tios[i].kids);
        s->tios[i].refs = s->tios[i].kids = NULL;
        s->tios[i].refs_count = s->tios[i].kids_count = 0;
    }
}

/* ---- is the parent there? */

uint64_t foreign_hash(const struct value *v, uint32_t count) {
    uint64_t h = 0;
    for (uint32_t i = 0; i < count; i++)
        h = (h ^ value_hash(&v[i])) * 0x9e3779b97f4a7c15u;
    return h | 1;
}

int foreign_parent_there(struct store *s, struct foreign *f, const struct value *v, bool writer) {
    uint64_t h = foreign_hash(v, f->count), *known = &f->known[h >> 32 & (THERE_SLOTS - 1)];
    if (f->snapshot != s->snapshot) {
        memset(f->known, 0, sizeof f->known);
        f->snapshot = s->snapshot;
    }
    if (*known == h)
        return 1;
    for (uint32_t i = 0; i < f->count; i++)
        sql_bind_value(f->there[writer], (int)i + 1, &v[i]);
    int row = sql_step(f->there[writer]);
    sqlite3_reset(f->there[writer]);
    if (row == 1)
        *known = h;
    return row;
}

/* ---- the author's side */

#define CHAIN_MAX 8

/* The columns of f that these of its parent refer by; false: it has not all of them. */
static bool refer_on(const struct foreign *f, const struct foreign *on, const struct value *v, struct value *out) {
    const struct table *t = on->child->table;
    for (uint32_t i = 0; i < on->count; i++) {
        uint32_t column = on->from[i] == NUMBER ? t->key[0] : on->child->order[on->from[i]], k = 0;
        while (k < f->count && f->to[k] != column)
            k++;
        if (k == f->count)
            return false;
        out[i] = v[k];
    }
    return true;
}

/* What refers to a column that is a reference itself means the row at the end of the chain. 1: all of it is there. */
static int chain_there(struct store *s, const struct foreign *f, const struct value *v, bool writer, uint32_t steps) {
    const struct tio *p = f->parent;
    int there = 1;
    for (uint32_t i = 0; i < p->refs_count && there == 1 && steps; i++) {
        struct value next[COLUMNS_MAX];
        if (!refer_on(f, p->refs[i], v, next))
            continue;
        there = foreign_parent_there(s, p->refs[i], next, writer);
        if (there == 1)
            there = chain_there(s, p->refs[i], next, writer, steps - 1);
    }
    return there;
}

static bool means_another(const struct foreign *f) {
    const struct tio *c = f->child;
    bool another = false;
    for (uint32_t k = 0; k < f->count; k++) {
        const struct tbl *to = f->from[k] == NUMBER ? c->key_ref : c->ref_to[f->from[k]];
        another = another || (to && to != f->parent->tbl);
    }
    return another;
}

static bool tells(const struct foreign *f, const struct column_set *set) {
    for (uint32_t k = 0; k < f->count; k++)
        for (uint32_t n = 0; n < set->count; n++)
            if (set->at[n] == f->from[k])
                return true;
    return false;
}

int foreign_is_orphan(struct store *s, const struct row_look *look, const struct column_set *set, bool insert, bool *orphan) {
    struct tio *io = look->io;
    bool any = false;
    for (uint32_t i = 0; i < io->refs_count; i++)
        any = any || tells(io->refs[i], set);
    *orphan = false;
    for (uint32_t i = 0; i < io->refs_count && !*orphan; i++) {
        struct foreign *f = io->refs[i];
        struct value v[COLUMNS_MAX];
        /* a number is in no change: so each says of it what no other reference in it needs to say */
        bool null = false, told = set->count == io->count || tells(f, set) || (f->from[0] == NUMBER && (insert || (look->noted && !any)));
        for (uint32_t k = 0; k < f->count; k++) {
            v[k] = f->from[k] == NUMBER ? (struct value){.type = VALUE_INT, .as.i = look->place.number} : look->values[f->from[k]];
            null = null || v[k].type == VALUE_NULL;
        }
        if (null || !told)
            continue;
        int there = foreign_parent_there(s, f, v, look->locked);
        if (there == 1 && means_another(f))
            there = chain_there(s, f, v, look->locked, CHAIN_MAX);
        if (there < 0)
            return there;
        *orphan = !there;
    }
    return 0;
}

/* ---- what a projection takes away */

void foreign_forget(struct store *s) {
    for (uint32_t i = 0; i < s->foreigns_count; i++)
        while (s->foreigns[i]->gone) {
            struct gone *next = s->foreigns[i]->gone->next;
            free((void *)(uintptr_t)s->foreigns[i]->gone->who.key);
            for (uint32_t k = 0; k < s->foreigns[i]->gone->count; k++)
                free((void *)(uintptr_t)s->foreigns[i]->gone->values[k].p);
            free(s->foreigns[i]->gone);
            s->foreigns[i]->gone = next;
        }
}

static int copy_bytes(const uint8_t **p, size_t len) {
    uint8_t *copy = malloc(len + 1);
    if (!copy)
        return ERR_NOMEM;
    if (len)
        memcpy(copy, *p, len);
    *p = copy;
    return 0;
}

static int gone_add(struct foreign *f, const struct rowid *who) {
    struct gone *g = calloc(1, sizeof *g + f->count * sizeof *g->values);
    if (!g)
        return ERR_NOMEM;
    g->next = f->gone;
    f->gone = g;
    g->who = *who;
    g->who.key = NULL;
    if (who->text) {
        g->who.key = who->key;
        if (copy_bytes(&g->who.key, who->key_len)) {
            g->who.key = NULL;
            return ERR_NOMEM;
        }
    }
    for (; g->count < f->count; g->count++) {
        struct value *v = &g->values[g->count];
        sql_column_value(f->referred, (int)g->count, v);
        if (v->p && copy_bytes(&v->p, v->len)) {
            v->p = NULL;
            return ERR_NOMEM;
        }
    }
    g->hash = foreign_hash(g->values, g->count);
    return 0;
}

int foreign_before(struct store *s, struct tio *io, const struct rowid *who) {
    (void)s;
    for (uint32_t i = 0; i < io->kids_count; i++) {
        struct foreign *f = io->kids[i];
        if (f->to_key)
            continue;
        int row = tables_bind_place(io, f->referred, 1, who);
        if (row < 0 || (row = sql_step(f->referred)) < 0)
            return row;
        int err = row ? gone_add(f, who) : 0;
        sqlite3_reset(f->referred);
        if (err)
            return err;
    }
    return 0;
}

/* ---- references to other columns than the key: a register finds no row by them, so who takes them away, and who gives them, is noted */

uint64_t foreign_known_hash(const struct foreign *f, const uint64_t *hashes) {
    uint64_t h = f->parent->tbl->hash;
    for (uint32_t i = 0; i < f->count; i++)
        h = (h ^ hashes[i] ^ f->to[i]) * 0x9e3779b97f4a7c15u;
    return h | 1;
}

/* What a row can be referred to by. `by`: as the author of this write had it, as far as he wrote it (0 if nothing of it); else as it is now. */
static uint64_t known_as(struct store *s, const struct foreign *f, const struct rowid *who, const struct reg *r, const struct write *by) {
    struct origins_order o = store_order(s);
    struct value number = {.type = VALUE_INT, .as.i = numbers_shown(f->parent->tbl, who)};
    uint64_t hashes[COLUMNS_MAX];
    bool all = true, told = !by;
    for (uint32_t k = 0; k < f->count && all; k++) {
        const struct cell *c = NULL;
        hashes[k] = value_hash(&number);
        if (f->to_number[k] == NUMBER)
            continue;
        c = reg_winner(r, f->to_number[k], &o);
        for (uint32_t i = 0; i < r->cells_count && by; i++) {
            const struct write *w = &r->writes[r->cells[i].write];
            if (r->cells[i].column == f->to_number[k] && w->origin == by->origin && w->version == by->version) {
                c = &r->cells[i];
                told = true;
            }
        }
        all = c != NULL;
        hashes[k] = c ? c->hash : 0;
    }
    return all && told ? foreign_known_hash(f, hashes) : 0;
}

static bool all_seen(struct store *s, const struct foreign *f, const struct reg *r, const struct seen *seen) {
    struct origins_order o = store_order(s);
    for (uint32_t k = 0; k < f->count; k++) {
        const struct cell *c = f->to_number[k] == NUMBER ? NULL : reg_winner(r, f->to_number[k], &o);
        const struct write *w = c ? &r->writes[c->write] : NULL;
        if (w && w->at && !seen_covers(seen, w->origin, w->version))
            return false;
    }
    return true;
}

void foreign_known_by(struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r, const struct seen *seen,
                      struct known_by *out) {
    struct origins_order o = store_order(s);
    bool alive = reg_alive(r, &o);
    out->count = 0;
    for (uint32_t i = 0; i < t->io->kids_count && out->count < sizeof out->hashes / sizeof *out->hashes; i++) {
        const struct foreign *f = t->io->kids[i];
        if (f->to_key)
            continue;
        out->hashes[out->count] = alive ? known_as(s, f, who, r, NULL) : 0;
        out->unseen[out->count++] = seen && !all_seen(s, f, r, seen);
    }
}

static int gone_put(struct store *s, uint64_t hash, uint32_t origin, uint64_t version, bool unseen) {
    sqlite3_bind_int64(s->s_gone_put, 1, (int64_t)hash);
    sqlite3_bind_int64(s->s_gone_put, 2, origin);
    sqlite3_bind_int64(s->s_gone_put, 3, (int64_t)version);
    sqlite3_bind_int(s->s_gone_put, 4, unseen);
    return sql_run(s->s_gone_put);
}

static int given_put(struct store *s, uint64_t hash, const struct write *by) {
    if (!by->at) /* adopted: known to all */
        return 0;
    sqlite3_bind_int64(s->s_given_put, 1, (int64_t)hash);
    sqlite3_bind_int64(s->s_given_put, 2, by->origin);
    sqlite3_bind_int64(s->s_given_put, 3, (int64_t)by->version);
    return sql_run(s->s_given_put);
}

/* What the write brought did not come to be: a death, or a later write, was there before it. */
static int lost_at_once(struct store *s, const struct foreign *f, const struct reg *r, uint64_t told, const struct write *by) {
    struct origins_order o = store_order(s);
    int err = 0;
    for (uint32_t i = 0; i < r->deaths_count && !reg_alive(r, &o) && !err; i++)
        err = gone_put(s, told, r->deaths[i].origin, r->deaths[i].version, true);
    for (uint32_t k = 0; k < f->count && reg_alive(r, &o) && !err; k++) {
        const struct cell *c = f->to_number[k] == NUMBER ? NULL : reg_winner(r, f->to_number[k], &o);
        const struct write *w = c ? &r->writes[c->write] : by;
        if (w->origin != by->origin || w->version != by->version)
            err = gone_put(s, told, w->origin, w->version, true);
    }
    return err;
}

int foreign_gone(struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r, const struct known_by *before,
                 const struct write *by) {
    struct known_by now;
    uint32_t n = 0;
    int err = 0;
    foreign_known_by(s, t, who, r, NULL, &now);
    for (uint32_t i = 0; i < t->io->kids_count && n < now.count && !err; i++) {
        const struct foreign *f = t->io->kids[i];
        if (f->to_key)
            continue;
        bool unseen = before->unseen[n];
        uint64_t old = before->hashes[n], is = now.hashes[n++], told = known_as(s, f, who, r, by);
        if (old && old != is)
            err = gone_put(s, old, by->origin, by->version, unseen);
        if (!err && told && told != old)
            err = given_put(s, told, by);
        if (!err && told && told != is)
            err = lost_at_once(s, f, r, told, by);
    }
    return err;
}
