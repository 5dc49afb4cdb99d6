/* The registers of rows that are one. Each keeps its own, as if there were no other: what is written to one of them, wherever that is still shown by
 * itself, goes there. Who stands for all of them, the root, is what the rest of the store sees: under its identity `rows_find` gives what all of
 * them hold together (of each column every write that nobody knowingly replaced, and the number of the root), and its own register is in `own`.
 *
 * The happy path: a fact comes (unify_tell). All rows that it concerns are taken out of the digest and given back their own registers; then the graph changes, and
 * each new group gets its root. What the file is to show now is pending: the root with what all hold, the others not at all (unify_left
 * moves them out of their numbers), and what refers to them under the root's number. Nothing dies by this, and nothing is told to others but the fact.
 * Later changes come through unify_begin and unify_end. */
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

/* ---- own registers of roots */

static int own_prepare(struct store *s, sqlite3_stmt **q, const char *sql, const struct tbl *t, const struct rowid *who) {
    struct buf *name = &s->same->name;
    buf_clear(name);
    int err = rowid_pack(who, name);
    if (err || (err = sql_prepare(s->db, q, sql, t->no)))
        return err;
    sqlite3_bind_blob64(*q, 1, name->data, name->len, SQLITE_STATIC);
    return 0;
}

/* 1: it has one. */
static int own_get(struct store *s, const struct tbl *t, const struct rowid *who, struct reg *r) {
    sqlite3_stmt *q;
    int err = own_prepare(s, &q, "SELECT b FROM own WHERE tbl=%u AND who=?", t, who);
    if (err)
        return err;
    int row = sql_step(q);
    if (row == 1) {
        size_t len = (size_t)sqlite3_column_bytes(q, 0);
        reg_clear(r);
        err = len ? reg_decode(r, sqlite3_column_blob(q, 0), len) : 0;
        r->who = *who;
    }
    sqlite3_finalize(q);
    return err ? err : row;
}

static int own_put(struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r) {
    sqlite3_stmt *q;
    struct reg stored = *r;
    struct buf b;
    stored.who = *who;
    stored.away = false;
    buf_init(&b, 1 << 26);
    int err = reg_known(r) ? reg_encode(&stored, &b) : 0;
    if (!err && !(err = own_prepare(s, &q, "INSERT OR REPLACE INTO own VALUES(%u, ?1, ?2)", t, who))) {
        sqlite3_bind_blob64(q, 2, b.len ? (const void *)b.data : "", b.len, SQLITE_STATIC);
        err = sql_run(q);
        sqlite3_finalize(q);
    }
    buf_release(&b);
    return err;
}

static int own_drop(struct store *s, const struct tbl *t, const struct rowid *who) {
    sqlite3_stmt *q;
    int err = own_prepare(s, &q, "DELETE FROM own WHERE tbl=%u AND who=?", t, who);
    if (err)
        return err;
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

int unify_own(struct store *s, const struct tbl *t, const struct rowid *who, struct reg *r, bool *home) {
    int err = rows_find(s, t, who, r, home), own = err ? err : own_get(s, t, who, r);
    return own < 0 ? own : 0;
}

bool unify_is(struct store *s, const struct tbl *t, const struct rowid *who) {
    struct reg r;
    const struct same_node *n;
    if (!same_any(s))
        return false;
    if (same_is_junior(s, t, who))
        return true;
    if ((n = same_node(s, t, who)))
        return n->next != NULL;
    if (who->text ? t->io && !t->io->key_refs : !(t->io && t->io->key_ref))
        return false;
    reg_init(&r);
    bool own = own_get(s, t, who, &r) == 1;
    reg_release(&r);
    return own;
}

/* ---- what stands for all */

/* Life: of those that live the one inserted last, or the last death. */
static void live(const struct store *s, struct reg *all, const struct reg *one) {
    struct origins_order o = store_order(s);
    bool lives = reg_alive(one, &o), lived = reg_alive(all, &o);
    bool later = stamp_cmp(lives ? one->inserted : one->died, lives ? all->inserted : all->died, &o) > 0;
    if (lives ? !lived || later : !lived && (later || !reg_known(all))) {
        all->inserted = one->inserted;
        all->died = one->died;
    }
}

/* Taken out of one's register: what was written to another one by somebody who had seen it, and knew that they are one; and the deaths that he had seen
 * who inserted the other again. Only for what they show together:
 * taken apart again, it has its own values, in whatever order all that was heard of. */
static int overwritten_in(struct store *s, struct tbl *t, const struct rowid *who, const struct rowid *other, const struct reg *others,
                          struct reg *own) {
    uint64_t *versions = calloc(s->origins_count + 1, sizeof *versions);
    struct seen seen = {versions, s->origins_count};
    int err = versions ? 0 : ERR_NOMEM;
    for (uint32_t i = 0; i < others->writes_count && !err; i++) {
        const struct write *w = &others->writes[i];
        bool birth = other->kind == IDENT_BORN && w->origin == other->origin && w->version == other->version;
        if (w->mend || birth || w->at <= STAMP_COPY)
            continue;
        memset(versions, 0, s->origins_count * sizeof *versions);
        if ((err = same_seen_by(s, w, &seen)) || !same_known(s, t, who, other, &seen))
            continue;
        for (uint32_t k = 0; k < others->cells_count; k++)
            if (others->cells[k].write == i && others->cells[k].column + 1 != t->number_column)
                reg_supersede(own, *w, others->cells[k].column, &seen);
        if (w->at == others->inserted.at && w->origin == others->inserted.origin)
            reg_forget_deaths(own, *w, &seen, &err);
    }
    free(versions);
    return err;
}

int unify_overwritten(struct store *s, struct tbl *t, const struct rowid *list, uint32_t count, const struct rowid *who, struct reg *own) {
    struct reg others;
    bool home;
    int err = 0;
    reg_init(&others);
    for (uint32_t i = 0; i < count && !err; i++)
        if (!rowid_same(&list[i], who) && !(err = unify_own(s, t, &list[i], &others, &home)) && reg_known(&others))
            err = overwritten_in(s, t, who, &list[i], &others, own);
    reg_release(&others);
    return err;
}

/* What the members hold together; `own`: of the root. References that were told their numbers already keep them. */
static int put_together(struct store *s, struct tbl *t, const struct rowid *root, struct reg *all) {
    struct arena arena = {0};
    struct rowid *list;
    uint32_t count;
    struct reg own;
    bool home;
    reg_init(&own);
    reg_clear(all);
    int err = same_members(s, t, root, &arena, &list, &count);
    for (uint32_t i = 0; i < count && !err; i++) {
        bool first = rowid_same(&list[i], root);
        if ((err = unify_own(s, t, &list[i], &own, &home)) || !reg_known(&own))
            continue;
        live(s, all, &own);
        if ((err = unify_overwritten(s, t, list, count, &list[i], &own)) || (err = dead_strip(s, t, root, list, count, &list[i], &own)))
            continue;
        all->birth_at = first ? own.birth_at : all->birth_at;
        err = reg_join(all, &own, first || !t->number_column ? UINT32_MAX : t->number_column - 1);
    }
    all->who = *root;
    reg_release(&own);
    arena_release(&arena);
    return err;
}

/* ---- one change */

void unify_release(struct unify *u) {
    reg_release(&u->own);
    reg_release(&u->was);
    buf_release(&u->key);
}

int unify_begin(struct store *s, struct tbl *t, const struct rowid *member, struct unify *u) {
    memset(u, 0, sizeof *u);
    buf_init(&u->key, 1 << 20);
    reg_init(&u->own);
    reg_init(&u->was);
    u->member = *member;
    int junior = same_root(s, t, member, &u->key, &u->root);
    if (junior < 0)
        return junior;
    int err = rows_find(s, t, &u->root, &u->was, &u->roots_home), own = err ? err : own_get(s, t, &u->root, &u->own);
    u->formed = own == 0;
    if (own == 0)
        own = own_put(s, t, &u->root, &u->was);
    if (own < 0 || (err = unify_own(s, t, member, &u->own, &u->home)))
        return own < 0 ? own : err;
    struct same_node *n = same_node(s, t, member);
    if (n)
        n->numbered = false; /* it may get another number */
    u->was.who = u->root;
    u->own.who = *member;
    rows_account(s, t, &u->root, &u->was, NULL);
    return 0;
}

static int store_own(struct store *s, struct tbl *t, const struct rowid *who, const struct rowid *root, const struct reg *own, bool home) {
    return rowid_same(who, root) ? own_put(s, t, who, own) : rows_store(s, t, who, own, home);
}

/* A reference that was told its number goes on having it: own registers are not told of rows that move. */
static void keep_numbers(const struct tbl *t, const struct reg *was, struct reg *now) {
    for (uint32_t i = 0; i < now->cells_count; i++) {
        struct cell *c = &now->cells[i];
        const struct write *w = &now->writes[c->write];
        uint32_t at = t->io && c->column < t->io->by_number_count ? t->io->by_number[c->column] : 0;
        for (uint32_t k = 0; k < was->cells_count && at && t->io->ref_to && t->io->ref_to[at - 1]; k++) {
            const struct write *o = &was->writes[was->cells[k].write];
            if (was->cells[k].column == c->column && o->origin == w->origin && o->version == w->version && o->at == w->at)
                c->hash = was->cells[k].hash;
        }
    }
}

int unify_end(struct store *s, struct tbl *t, struct unify *u, enum change_kind kind, struct write by) {
    struct reg all;
    uint32_t conflicts;
    reg_init(&all);
    int err = store_own(s, t, &u->member, &u->root, &u->own, u->home);
    if (!err && !by.mend && (kind == CHANGE_INSERT || kind == CHANGE_UPDATE))
        err = same_doubt(s, t, &u->member, &u->own, &by);
    if (!err && !(err = put_together(s, t, &u->root, &all))) {
        keep_numbers(t, &u->was, &all);
        rows_account(s, t, &u->root, NULL, &all);
        if (!(err = rows_store(s, t, &u->root, &all, u->roots_home)))
            err = rows_conflicts(s, t, &u->root, &all, true, &conflicts);
    }
    reg_release(&all);
    return err;
}

/* What the file shows of a row whose register was this: of every column, since what its own registers say may change before it is shown. */
static int pend(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *was, bool in_file) {
    struct origins_order o = store_order(s);
    struct shown_cell *cells = t->io ? malloc((was->cells_count + 1) * sizeof *cells) : NULL;
    struct pending_row *p;
    uint32_t n = 0;
    if (!t->io)
        return 0;
    if (!cells)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < was->cells_count; i++)
        if (was->cells[i].column + 1 != t->number_column && reg_winner(was, was->cells[i].column, &o) == &was->cells[i])
            cells[n++] = (struct shown_cell){was->cells[i].column, was->cells[i].hash};
    int err = 0;
    if ((p = pending_find(s, t, who)))
        err = pending_touch(s, p, cells, n);
    else if (!(err = pending_set(s, t, who, in_file, cells, in_file ? n : 0, NULL, &p)))
        err = pending_store(s, p);
    if (!err)
        p->behind = s->hot.flight_seq + 1; /* of the flight at hand, too */
    free(cells);
    return err;
}

int unify_pend(struct store *s, struct tbl *t, const struct unify *u) {
    struct origins_order o = store_order(s);
    return pend(s, t, &u->root, &u->was, u->roots_home && reg_alive(&u->was, &o));
}

/* ---- whose write */

int unify_writer(struct store *s, struct tbl *t, struct rowid *who, uint32_t column, uint64_t hash, uint32_t origin, uint64_t version,
                 struct arena *arena) {
    struct rowid *list, best = *who;
    uint32_t count;
    uint64_t at = 0;
    struct reg own;
    bool home, found = false, exact = false;
    if (!unify_is(s, t, who) || same_is_junior(s, t, who))
        return 0;
    reg_init(&own);
    int err = same_members(s, t, who, arena, &list, &count);
    for (uint32_t i = 0; i < count && !err; i++) {
        err = unify_own(s, t, &list[i], &own, &home);
        for (uint32_t k = 0; k < own.cells_count && !err; k++) {
            const struct write *w = &own.writes[own.cells[k].write];
            bool fits = own.cells[k].hash == hash;
            if (own.cells[k].column != column || w->origin != origin || w->version != version || (exact && !fits) ||
                (found && exact == fits && w->at <= at))
                continue;
            found = true;
            exact = fits;
            at = w->at;
            best = list[i];
        }
    }
    reg_release(&own);
    *who = best;
    return err;
}

/* ---- a fact */

struct part { /* a row that it concerns */
    struct part *next;
    struct tbl *tbl;
    struct rowid who, root;
    struct reg own, was;               /* its own register; what stood under its identity */
    bool home, in_file, junior, stood; /* stood: for others; before */
    UT_hash_handle hh;
    struct part *group; /* others with this root */
    uint32_t name_len;
    uint8_t name[];
};

struct telling {
    struct store *s;
    struct part *parts, *by_name;
    struct arena arena;
};

static struct part *part_find(struct telling *c, const struct tbl *t, const struct rowid *who) {
    struct part *p = NULL;
    struct buf *name = &c->s->same->name;
    buf_clear(name);
    if (rowid_name(t, who, name) == 0)
        HASH_FIND(hh, c->by_name, name->data, name->len, p);
    return p;
}

static int copy_key(struct telling *c, struct rowid *who) {
    uint8_t *key = arena_alloc(&c->arena, who->key_len + 1);
    if (!key)
        return ERR_NOMEM;
    if (who->text && who->key_len)
        memcpy(key, who->key, who->key_len);
    who->key = who->text ? key : NULL;
    return 0;
}

/* Its own register is where it belongs again, and it counts for nothing until the groups are there. */
static int dissolve(struct store *s, struct part *p) {
    struct tbl *t = p->tbl;
    struct origins_order o = store_order(s);
    int err = rows_find(s, t, &p->who, &p->was, &p->home), own = err ? err : own_get(s, t, &p->who, &p->own);
    if (own < 0)
        return own;
    p->was.who = p->who;
    p->junior = same_is_junior(s, t, &p->who);
    p->stood = own == 1;
    const struct pending_row *row = pending_find(s, t, &p->who);
    p->in_file = row ? row->present : p->home && !p->junior && reg_alive(&p->was, &o);
    rows_account(s, t, &p->who, &p->was, NULL);
    if (!p->stood)
        return rows_find(s, t, &p->who, &p->own, &p->home);
    if ((err = own_drop(s, t, &p->who)))
        return err;
    if (reg_known(&p->own))
        return rows_store(s, t, &p->who, &p->own, p->home);
    if (p->home && (err = rows_evict(s, t, &p->who))) /* a key that nobody ever had */
        return err;
    return rows_forget_extra(s, t, &p->who);
}

static int part_add(struct telling *c, struct tbl *t, const struct rowid *who, struct part **out) {
    struct store *s = c->s;
    struct part *p = part_find(c, t, who);
    if (p) {
        *out = p;
        return 0;
    }
    const struct buf *name = &s->same->name;
    if (name->failed || !(p = arena_alloc(&c->arena, sizeof *p + name->len)))
        return ERR_NOMEM;
    memset(p, 0, sizeof *p);
    memcpy(p->name, name->data, name->len);
    p->name_len = (uint32_t)name->len;
    p->tbl = t;
    p->who = *who;
    reg_init(&p->own);
    reg_init(&p->was);
    HASH_ADD(hh, c->by_name, name, p->name_len, p);
    p->next = c->parts;
    c->parts = p;
    *out = p;
    int err = copy_key(c, &p->who);
    return err ? err : dissolve(s, p);
}

/* Rows whose key holds a reference to this one. */
static int add_keys(struct telling *c, struct tbl *t, const uint8_t *bytes, size_t len) {
    sqlite3_stmt *q;
    struct arena keys = {0};
    struct rowid *list = NULL;
    uint32_t count = 0, cap = 0;
    int row = 0,
        err =
            sql_prepare(c->s->db, &q,
                        "SELECT k, NULL FROM r%u WHERE instr(k, ?1) UNION ALL SELECT NULL, who FROM extra WHERE tbl=%u AND instr(who, ?1)",
                        t->no, t->no);
    if (err)
        return err;
    sqlite3_bind_blob64(q, 1, bytes, len, SQLITE_STATIC);
    while (!err && (row = sql_step(q)) == 1) { /* first all of them: they are written meanwhile */
        struct rowid who = {.kind = IDENT_GIVEN, .text = true};
        bool home = sqlite3_column_type(q, 0) != SQLITE_NULL;
        const uint8_t *p = sqlite3_column_blob(q, home ? 0 : 1);
        size_t n = (size_t)sqlite3_column_bytes(q, home ? 0 : 1);
        if (home) {
            who.key = p;
            who.key_len = n;
        } else if ((err = rowid_unpack(&who, &p, p + n)) || !who.text) {
            continue;
        }
        if (count == cap) {
            cap = cap ? cap * 2 : 16;
            struct rowid *more = realloc(list, cap * sizeof *more);
            err = more ? 0 : ERR_NOMEM;
            list = more ? more : list;
        }
        if (!err && !(err = copy_key(c, &who)))
            list[count++] = who;
    }
    sqlite3_finalize(q);
    err = err ? err : row < 0 ? row : 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        struct part *p;
        err = part_add(c, t, &list[i], &p);
    }
    free(list);
    arena_release(&keys);
    return err;
}

/* This row, and all whose key is, or holds, a reference to it. */
static int add_all(struct telling *c, struct tbl *t, const struct rowid *who) {
    struct store *s = c->s;
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    size_t len = refs_pack(s, t, who, bytes);
    struct part *p;
    int err = part_add(c, t, who, &p);
    for (uint32_t i = 0; i < s->tbls_count && !err; i++) {
        struct tbl *u = s->tbls[i];
        if (u != t && u->io && u->io->key_ref == t)
            err = add_all(c, u, who);
        else if (tbl_is_text(u) && len && (!u->io || u->io->key_refs))
            err = add_keys(c, u, bytes, len);
    }
    return err;
}

static int add_group(struct telling *c, struct tbl *t, const struct rowid *who) {
    const struct same_node *n = same_node(c->s, t, who);
    int err = n ? 0 : add_all(c, t, who);
    for (n = n ? n->root : NULL; n && !err; n = n->next)
        err = add_all(c, t, &n->who);
    return err;
}

/* Each with its root; a root that no register knows may come to this. */
static int group(struct telling *c) {
    struct buf key;
    int err = 0;
    buf_init(&key, 1 << 20);
    for (struct part *p = c->parts, *root; p && !err; p = p->next) {
        err = same_root(c->s, p->tbl, &p->who, &key, &p->root);
        if (err < 0 || (err = copy_key(c, &p->root)) || rowid_same(&p->root, &p->who) || !reg_known(&p->own))
            continue;
        if ((root = part_find(c, p->tbl, &p->root)) || !(err = part_add(c, p->tbl, &p->root, &root))) {
            root->root = root->who;
            p->group = root->group;
            root->group = p;
        }
    }
    buf_release(&key);
    return err;
}

static bool is_junior(const struct part *p) { return !rowid_same(&p->who, &p->root); }

/* Who stands for others, or for itself alone. */
static int form(struct store *s, struct part *p) {
    struct tbl *t = p->tbl;
    uint32_t conflicts;
    struct reg all;
    reg_init(&all);
    int err = 0;
    if (!p->group) {
        rows_account(s, t, &p->who, NULL, &p->own);
        if (p->stood || reg_known(&p->own))
            err = rows_conflicts(s, t, &p->who, &p->own, true, &conflicts);
    } else if (!(err = own_put(s, t, &p->who, &p->own)) && !(err = put_together(s, t, &p->who, &all))) {
        keep_numbers(t, &p->was, &all);
        rows_account(s, t, &p->who, NULL, &all);
        if (!(err = rows_store(s, t, &p->who, &all, p->home)))
            err = rows_conflicts(s, t, &p->who, &all, true, &conflicts);
    }
    reg_release(&all);
    return err || (!p->group && !p->stood && !p->junior) ? err : pend(s, t, &p->who, &p->was, p->in_file);
}

/* Who does not stand for itself any more is to go from the file. */
static int step_back(struct store *s, struct part *p) {
    uint32_t conflicts;
    int err = rows_conflicts(s, p->tbl, &p->who, &p->own, true, &conflicts);
    if (err || p->in_file || pending_find(s, p->tbl, &p->who))
        return err ? err : pend(s, p->tbl, &p->who, &p->was, p->in_file);
    struct rowid place = p->who;
    if (!place.text)
        place.number = numbers_home(p->tbl, &p->who);
    return p->home && reg_known(&p->own) ? rows_evict(s, p->tbl, &place) : 0;
}

/* Rows that the file shows as referring to this number: whom they mean is looked up when they are shown. */
static int pend_children(struct store *s, struct tio *io, uint32_t at, int64_t number) {
    const struct table *t = io->table;
    const struct reg nothing = {0};
    sqlite3_stmt *q;
    struct buf name;
    sqlite3_str *text = sqlite3_str_new(s->app.reader);
    sqlite3_str_appendall(text, "SELECT ");
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendall(text, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(text, "%s\"%w\"", i ? "," : "", t->columns[t->key[i]].name);
    sqlite3_str_appendf(text, " FROM main.\"%w\" WHERE \"%w\"=%lld", t->name, io->names[at], (long long)number);
    char *sql = sqlite3_str_finish(text);
    int row, err = sql ? sql_prepare(s->app.reader, &q, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    if (err)
        return err;
    buf_init(&name, 1 << 20);
    while (!err && (row = sql_step(q)) != 0) {
        struct rowid place = {.kind = IDENT_GIVEN, .text = t->key_kind != KEY_INTEGER};
        struct value key[16];
        uint8_t keyless[KEYLESS_KEY_BYTES];
        int known = 1;
        for (uint32_t i = 0; i < table_key_width(t) && row > 0; i++)
            sql_column_value(q, (int)i, &key[i]);
        buf_clear(&name);
        if (row < 0)
            err = row;
        else if (t->key_kind == KEY_ROWID)
            known = keyless_name(io, key[0].as.i, keyless), buf_append(&name, keyless, sizeof keyless);
        else if (place.text)
            err = tables_key_of(io, key, &name);
        else
            place.number = key[0].as.i;
        place.key = name.data;
        place.key_len = place.text ? name.len : 0;
        if (err || known != 1 || (err = rows_at_home(s, io->tbl, &place, &s->meant)) || !reg_known(&s->meant))
            continue;
        struct rowid who = s->meant.who;
        err = pend(s, io->tbl, &who, &nothing, true);
    }
    sqlite3_finalize(q);
    buf_release(&name);
    return err;
}

static int pend_all_children(struct store *s, const struct part *p) {
    int64_t number = numbers_shown(p->tbl, &p->who);
    int err = 0;
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        for (uint32_t k = 0; io->tbl && k < io->count && !err; k++)
            if (io->ref_to[k] == p->tbl && !io->table->columns[io->order[k]].key_place)
                err = pend_children(s, io, k, number);
    }
    return err;
}

int unify_tell(struct store *s, struct tbl *t, const struct rowid *a, uint64_t rank_a, const struct rowid *b, uint64_t rank_b,
               const struct same_fact *fact, const struct buf *before) {
    struct telling c = {.s = s};
    int err = pending_map_flights(s);
    if (!err && before)
        err = pending_merge_before(s, before, 0);
    if (!err && !(err = add_group(&c, t, a)))
        err = add_group(&c, t, b);
    if (!err && !(err = same_add(s, t, a, rank_a, b, rank_b, fact, true)))
        err = group(&c);
    for (struct part *p = c.parts; p && !err; p = p->next)
        if (!is_junior(p))
            err = form(s, p);
    for (struct part *p = c.parts; p && !err; p = p->next) /* still under their numbers */
        if (!p->who.text && p->in_file && (is_junior(p) || p->stood))
            err = pend_all_children(s, p);
    for (struct part *p = c.parts; p && !err; p = p->next)
        if (is_junior(p))
            err = step_back(s, p);
    for (struct part *p = c.parts; p; p = p->next) {
        reg_release(&p->own);
        reg_release(&p->was);
    }
    HASH_CLEAR(hh, c.by_name);
    arena_release(&c.arena);
    return err;
}

static int put_other(struct store *s, const struct tbl *t, const struct rowid *who, uint8_t bytes[VALUE_REF_BORN_BYTES],
                     struct value *out) {
    *out = (struct value){.type = VALUE_REF, .p = bytes, .len = refs_pack(s, t, who, bytes)};
    return out->len ? 0 : ERR_INTERNAL;
}

int unify_write(struct store *s, struct tbl *t, const struct rowid *a, uint64_t rank_a, const struct rowid *b, uint64_t rank_b,
                enum same_state state, uint64_t stamp) {
    static const char *names[] = {SAME_OTHER, SAME_RANK, SAME_OTHERS, SAME_STATE};
    static size_t lens[] = {sizeof SAME_OTHER - 1, sizeof SAME_RANK - 1, sizeof SAME_OTHERS - 1, sizeof SAME_STATE - 1};
    static uint32_t columns[] = {NOT_HERE, NOT_HERE, NOT_HERE, NOT_HERE};
    static const struct column_set set = {4, names, lens, columns};
    const struct same_node *x = same_node(s, t, a), *y = same_node(s, t, b);
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    struct value values[4] = {{.type = VALUE_NULL},
                              {.type = VALUE_INT, .as.i = (int64_t)(x ? x->rank : rank_a)},
                              {.type = VALUE_INT, .as.i = (int64_t)(y ? y->rank : rank_b)},
                              {.type = VALUE_INT, .as.i = state}};
    if (!t->io || (state == SAME_ONE && x && y && x->root == y->root)) /* came meanwhile */
        return 0;
    int err = put_other(s, t, b, bytes, &values[0]);
    if (err || (err = drain_same(s, t->io, a, &set, values, stamp)))
        return err;
    struct same_fact f = {.origin = s->own, .version = s->origins[s->own].version + 1, .at = stamp, .state = state};
    return unify_tell(s, t, a, (uint64_t)values[1].as.i, b, (uint64_t)values[2].as.i, &f, NULL);
}

static bool is_column(const struct change *c, uint32_t i, const char *name) {
    return c->columns_len[i] == strlen(name) && memcmp(c->columns[i], name, c->columns_len[i]) == 0;
}

int unify_merge(struct store *s, struct tbl *t, const struct change *c, const struct rowid *who, uint32_t origin, uint64_t version,
                const struct buf *before) {
    struct rowid other;
    struct value_ref ref;
    bool right = c->columns_count == 4 && is_column(c, 0, SAME_OTHER) && is_column(c, 1, SAME_RANK) && is_column(c, 2, SAME_OTHERS) &&
                 is_column(c, 3, SAME_STATE);
    for (uint32_t i = 1; i < 4 && right; i++)
        right = c->values[i].type == VALUE_INT && c->values[i].as.i >= 0;
    if (!right || c->values[3].as.i >= SAME_STATES || c->values[0].type != VALUE_REF || who->kind == IDENT_GIVEN ||
        !value_ref_unpack(&ref, c->values[0].p, c->values[0].len) || ref.table != t->hash)
        return ERR_MALFORMED;
    other =
        (struct rowid){.kind = ref.adopted ? IDENT_ADOPTED : IDENT_BORN, .number = ref.number, .version = ref.version, .hash = ref.hash};
    int err = ref.adopted ? 0 : state_origin(s, &ref.origin, &other.origin);
    struct same_fact f = {.origin = origin, .version = version, .at = c->stamp, .state = (enum same_state)c->values[3].as.i};
    if (err || rowid_same(who, &other))
        return err ? err : ERR_MALFORMED;
    return unify_tell(s, t, who, (uint64_t)c->values[1].as.i, &other, (uint64_t)c->values[2].as.i, &f, before);
}

int unify_left(struct store *s, struct pending_row *p) {
    struct reg r;
    bool home;
    if (!same_is_junior(s, p->tbl, &p->who))
        return 0;
    reg_init(&r);
    int err = rows_find(s, p->tbl, &p->who, &r, &home);
    struct rowid place = p->who;
    if (!place.text)
        place.number = numbers_home(p->tbl, &p->who);
    if (!err && home && reg_known(&r))
        err = rows_evict(s, p->tbl, &place);
    reg_release(&r);
    return err;
}
