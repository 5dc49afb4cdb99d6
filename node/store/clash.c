/* Foreign keys. Our connection does not enforce them: a commit of others is written in any order, their cascades have run where they were
 * captured, and most applications leave them off (SQLite's default) and may hold orphans that they know of. So what an author left in his own
 * file is shown as it is; only what merging made of two authors' changes is mended: a parent deleted by one who did not know of a child that
 * another put, or kept, under it.
 *
 * Two facts tell them apart. With each row that he writes an author says whether it is an orphan in his own file (BATCH_ORPHAN). And a
 * death tells what its author had seen: a child among that was left by him, one not among that clashes. On a clash the parent lives again
 * (mend.c), and its own parents. What cannot be revived is parked: the server that shows the child keeps the parent (its deletion is parked),
 * and one where the parent is gone parks the child: both rows are kept, both are red, and both go on when the child goes, is given
 * another parent, or the parent comes back. The choice looks at nothing but the registers and the file, so servers that have the same batches
 * and show the same rows decide alike.
 *
 * The check runs when all is written, before COMMIT, so that order, cycles and deferred keys do not matter. If a row must be parked,
 * everything is taken back and written again without it. A parent that is not known at all, or in flight, is no clash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/first_name.h"
#include "node/store/keyed.h"
#include "node/store/foreign.h"
#include "node/store/project.h"
#include "node/store/same.h"
#include "proto/err.h"

/* ---- judging a child without a parent */

struct check {
    struct store *s;
    struct buf key, parent_key;
    bool parked;       /* or to be mended */
    bool out;          /* what was parked is out of the file, and so may be what refers to it */
    struct rowid said; /* the parent that the child's author meant; another row may stand for it now */
};

#define REASON "FOREIGN KEY constraint failed: "

bool foreign_parked(const struct pending_row *p) { return p->reason && strncmp(p->reason, REASON, sizeof REASON - 1) == 0; }

/* Is it written by this projection? Parked in it, too: what was deleted may not have come again. */
static bool takes_part(const struct pending_row *p) { return !p->reason || p->retry || (p->looked && p->before != p->present); }

static int park(struct check *c, struct pending_row *p, const char *format, const char *table) {
    char why[300];
    if (!p || !takes_part(p))
        return 0;
    c->parked = true;
    if (renumber_planned(c->s)) /* all of this is done again; what is missing may only wait for its number */
        return 0;
    snprintf(why, sizeof why, format, table);
    pending_own(c->s, p);
    p->recount = p->looked ? p->before : p->present;
    int err = state_begin(c->s);
    return err ? err : pending_park(c->s, p, why);
}

/* All is taken back: so what refers to the child, and is judged behind it, need not wait for the next try to be found without a parent. */
static int take_out(struct check *c, struct pending_row *p) {
    int err = !(p->looked ? p->before : p->present) ? show_delete(c->s, p->tbl->io, &p->who) : ERR_CONSTRAINT;
    if (err)
        return err == ERR_CONSTRAINT ? 0 : err;
    p->done = false;
    c->out = true;
    c->s->snapshot++;
    return 0;
}

static int park_child(struct check *c, const struct foreign *f, const struct rowid *who) {
    struct pending_row *p = who ? pending_find(c->s, f->child->tbl, who) : NULL;
    int err = park(c, p, REASON "what it refers to in \"%s\" was deleted elsewhere, or waits itself", f->parent->tbl->name);
    return err || !c->parked || !p || !p->reason ? err : take_out(c, p);
}

static int park_parent(struct check *c, const struct foreign *f, struct pending_row *p) {
    return park(c, p, REASON "rows of \"%s\" that whoever deleted it had not seen refer to it", f->child->tbl->name);
}

/* Where the key is the reference: the write that made the row, or, if nothing of that is left, the first of what was written
 * since: whoever saw that had seen the row. */
static const struct cell *key_cell(const struct reg *r) {
    const struct cell *first = NULL;
    for (uint32_t n = 0; n < r->cells_count; n++) {
        const struct write *w = &r->writes[r->cells[n].write];
        if (w->at == r->inserted.at && w->origin == r->inserted.origin)
            return &r->cells[n];
        if (!first || w->at < r->writes[first->write].at)
            first = &r->cells[n];
    }
    return first;
}

/* The write that made the reference: the newest of its columns. */
static bool reference_write(struct store *s, const struct foreign *f, const struct reg *r, struct write *w) {
    struct origins_order o = store_order(s);
    struct stamp best = {0, UINT32_MAX};
    bool found = false;
    for (uint32_t i = 0; i < f->count; i++) {
        const struct cell *c = f->from[i] == NUMBER ? key_cell(r) : reg_winner(r, f->child->numbers[f->from[i]], &o);
        if (c && (!found || stamp_cmp(reg_cell_stamp(r, c), best, &o) > 0)) {
            best = reg_cell_stamp(r, c);
            *w = r->writes[c->write];
            found = true;
        }
    }
    if (!found && r->who.kind == IDENT_BORN) {
        *w = (struct write){r->who.origin, r->who.version, r->inserted.at, false, false};
        found = true;
    }
    return found;
}

/* Does the register say of the reference what the file says? What is part of the key named the row already. */
static bool as_registered(struct store *s, const struct foreign *f, const struct reg *r, const struct value *v) {
    struct origins_order o = store_order(s);
    const struct table *t = f->child->table;
    if (!reg_alive(r, &o))
        return false;
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->from[i] == NUMBER || (f->child->key_refs && t->columns[f->child->order[f->from[i]]].key_place))
            continue;
        const struct cell *c = reg_winner(r, f->child->numbers[f->from[i]], &o);
        if (c && c->hash != value_hash(&v[i]))
            return false;
    }
    return true;
}

/* As the parent's column would store it, where that is simple; SQLite compares so. */
static void as_parent(const struct column *c, struct value *v, char text[32]) {
    if (v->type == VALUE_TEXT && c->affinity != AFFINITY_TEXT && c->affinity != AFFINITY_BLOB && v->len && v->len < 31) {
        memcpy(text, v->p, v->len);
        text[v->len] = 0;
        char *end;
        long long n = strtoll(text, &end, 10);
        if (!*end)
            *v = (struct value){.type = VALUE_INT, .as.i = n};
    } else if (v->type == VALUE_INT && c->affinity == AFFINITY_TEXT) {
        int n = snprintf(text, 32, "%lld", (long long)v->as.i);
        *v = (struct value){.type = VALUE_TEXT, .p = (const uint8_t *)text, .len = (size_t)n};
    } else if (v->type == VALUE_FLOAT && v->as.f >= -9e18 && v->as.f <= 9e18 && (double)(int64_t)v->as.f == v->as.f) {
        *v = (struct value){.type = VALUE_INT, .as.i = (int64_t)v->as.f};
    }
}

/* Where the parent would be: its number or key. false: no row can be there. */
static bool parent_place(struct check *c, const struct foreign *f, const struct value *v, struct rowid *place) {
    const struct table *t = f->parent->table;
    struct value key[COLUMNS_MAX];
    char text[COLUMNS_MAX][32];
    for (uint32_t i = 0; i < f->count; i++) {
        key[i] = v[f->key_from[i]];
        as_parent(&t->columns[t->key[i]], &key[i], text[i]);
    }
    memset(place, 0, sizeof *place);
    if (t->key_kind == KEY_INTEGER) {
        place->number = key[0].as.i;
        return key[0].type == VALUE_INT;
    }
    if (tables_key_of(f->parent, key, &c->parent_key))
        return false;
    place->text = true;
    place->key = c->parent_key.data;
    place->key_len = c->parent_key.len;
    return true;
}

static bool same_place(const struct tbl *t, const struct rowid *a, const struct rowid *b) {
    return a->text ? b->text && a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0
                   : !b->text && a->number == numbers_shown(t, b);
}

/* A living row that cannot be shown here would be the parent. */
static int parent_parked(struct check *c, const struct foreign *f, const struct rowid *place, bool meant, const struct value *v) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct pending_row *p, *next;
    if (!s->parked_count)
        return 0;
    HASH_ITER(hh, s->pending, p, next) {
        bool home, same = p->tbl == f->parent->tbl && p->reason && !p->done;
        if (same && place)
            same = meant ? rowid_same(place, &p->who) : same_place(p->tbl, place, &p->who);
        if (!same)
            continue;
        int err = rows_find(s, p->tbl, &p->who, &s->reg2, &home);
        if (err)
            return err;
        same = reg_alive(&s->reg2, &o);
        for (uint32_t i = 0; i < f->count && same && !place; i++) {
            const struct table *t = f->parent->table;
            const struct cell *cell = NULL;
            for (uint32_t k = 0; k < f->parent->count; k++)
                if (f->parent->order[k] == f->to[i])
                    cell = reg_winner(&s->reg2, f->parent->numbers[k], &o);
            struct value n = {.type = VALUE_INT, .as.i = numbers_shown(p->tbl, &p->who)};
            same = value_hash(&v[i]) == (cell ? cell->hash : t->columns[f->to[i]].key_place ? value_hash(&n) : 0);
        }
        if (same)
            return 1;
    }
    return 0;
}

/* Of a parent that is dead (in s->reg2): did somebody who deleted it see the child? */
static int left_behind(struct store *s, const struct write *w, bool *left) {
    struct reg *r = &s->reg2;
    struct origins_order o = store_order(s);
    *left = false;
    for (uint32_t i = 0; i < r->deaths_count && !*left; i++) {
        struct stamp at = {r->deaths[i].at, r->deaths[i].origin};
        int err = stamp_cmp(at, r->inserted, &o) > 0 ? rows_death_saw(s, &r->deaths[i], w, left) : 0;
        if (err)
            return err;
    }
    return 0;
}

/* The same of the other rows that ever had this number: it may have been given anew, and taken again, while one of them was still shown here. */
static int others_left_behind(struct store *s, const struct tbl *t, int64_t number, const struct write *w, bool *left) {
    static const uint8_t KINDS[] = {IDENT_GIVEN, IDENT_BORN, IDENT_ADOPTED};
    sqlite3_stmt *q;
    int row = 0, err = sql_prepare(s->db, &q, "SELECT b FROM extra WHERE tbl=%u AND who>=? AND who<?", t->no);
    for (size_t i = 0; i < sizeof KINDS && !err && !*left; i++) {
        uint8_t from[9] = {KINDS[i]}, to[26]; /* rowid_pack(): kind, number, and less than to's rest */
        memcpy(from + 1, &number, sizeof number);
        memset(to, 0xff, sizeof to);
        memcpy(to, from, sizeof from);
        sqlite3_bind_blob(q, 1, from, sizeof from, SQLITE_STATIC);
        sqlite3_bind_blob(q, 2, to, sizeof to, SQLITE_STATIC);
        while (!err && !*left && (row = sql_step(q)) == 1) {
            reg_clear(&s->reg2);
            err = reg_decode(&s->reg2, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
            err = err ? err : left_behind(s, w, left);
        }
        sqlite3_reset(q);
        err = err ? err : row < 0 ? row : 0;
    }
    sqlite3_finalize(q);
    return err;
}

/* Did whoever took the value away know of all who ever gave it to a row? Else the child may have got its parent from one of these. */
static int knew_givers(struct store *s, uint64_t hash, const struct death *d, bool *knew) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT origin, version FROM given WHERE hash=%lld", (long long)hash);
    *knew = true;
    while (!err && *knew && (row = sql_step(q)) != 0) {
        struct write w = {.origin = (uint32_t)sqlite3_column_int64(q, 0), .version = (uint64_t)sqlite3_column_int64(q, 1), .at = 1};
        err = row < 0 ? row : 0;
        if (!err && w.origin == d->origin)
            *knew = w.version < d->version; /* in one batch: it went from one row to another */
        else if (!err)
            err = rows_death_saw(s, d, &w, knew);
    }
    sqlite3_finalize(q);
    return err;
}

/* Did anybody who took away what v names leave the child behind, knowingly and for good? 1 nobody, 0 somebody; or nobody ever had it. */
static int nobody_left(struct store *s, const struct foreign *f, const struct value *v, const struct write *w) {
    uint64_t hashes[COLUMNS_MAX];
    for (uint32_t i = 0; i < f->count; i++) {
        struct value as = v[i];
        char text[32];
        as_parent(&f->parent->table->columns[f->to[i]], &as, text);
        hashes[i] = value_hash(&as);
    }
    sqlite3_stmt *q;
    uint64_t hash = foreign_known_hash(f, hashes);
    bool left = false, any = false;
    int row, err = sql_prepare(s->db, &q, "SELECT origin, version, unseen FROM gone WHERE hash=%lld", (long long)hash);
    while (!err && !left && (row = sql_step(q)) != 0) {
        struct death d = {.origin = (uint32_t)sqlite3_column_int64(q, 0), .version = (uint64_t)sqlite3_column_int64(q, 1)};
        any = true;
        err = row < 0 ? row : w && !sqlite3_column_int(q, 2) ? rows_death_saw(s, &d, w, &left) : 0;
        if (!err && left)
            err = knew_givers(s, hash, &d, &left);
    }
    sqlite3_finalize(q);
    return err ? err : any && !left;
}

static const struct gone *gone_find(const struct foreign *f, const struct value *v) {
    uint64_t h = foreign_hash(v, f->count);
    for (const struct gone *g = f->gone; g; g = g->next)
        if (g->hash == h)
            return g;
    return NULL;
}

/* Who is meant by this reference to a number: the child's author said so; a number alone is a given key. Rows that have, or had, that number here
 * may be others. 1: *who. */
static int parent_meant(struct check *c, const struct foreign *f, const struct rowid *child, const struct reg *r, struct rowid *who) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct value v, key[COLUMNS_MAX];
    struct tbl *t;
    if (!f->to_key || f->count != 1 || f->parent->table->key_kind != KEY_INTEGER || f->from[0] == NUMBER)
        return 0;
    int err = 0;
    uint32_t place = (uint32_t)f->child->table->columns[f->child->order[f->from[0]]].key_place;
    int n = place && child->text ? tables_key_values(child, key, COLUMNS_MAX) : 0;
    if (n < 0 || (uint32_t)n >= COLUMNS_MAX)
        return n < 0 ? n : 0;
    const struct cell *cell = reg_winner(r, f->child->numbers[f->from[0]], &o);
    if (n > 0 && place <= (uint32_t)n) {
        v = key[place - 1];
    } else {
        const struct write *w = cell ? &r->writes[cell->write] : NULL;
        err = w ? values_find(s, w->origin, w->version, f->child->tbl, child, cell->column, cell->hash, &v) : ERR_NOTFOUND;
        if (err)
            return err == ERR_NOTFOUND ? 0 : err;
    }
    if (v.type == VALUE_REF)
        return refs_find_said(s, &v, &t, &c->said) && refs_find(s, &v, &t, who) && t == f->parent->tbl;
    c->said = *who = (struct rowid){.kind = IDENT_GIVEN, .number = v.as.i};
    bool home;
    err = v.type == VALUE_INT ? rows_find(s, f->parent->tbl, who, &s->reg2, &home) : 0;
    return err ? err : v.type == VALUE_INT && reg_known(&s->reg2);
}

/* The parent, by its place or by who is meant; into s->reg2. */
static int find_parent(struct store *s, const struct foreign *f, const struct rowid *parent, bool meant) {
    bool home;
    int err = meant ? rows_find(s, f->parent->tbl, parent, &s->reg2, &home) : rows_at_home(s, f->parent->tbl, parent, &s->reg2);
    if (meant)
        s->reg2.who = *parent;
    return err;
}

/* Parked is what took the parent away in this projection, or else the child. */
static int blame(struct check *c, const struct foreign *f, const struct rowid *written, const struct rowid *parent, bool meant) {
    struct store *s = c->s;
    int err = pending_map_flights(s);
    if (err || (parent && (err = find_parent(s, f, parent, meant))))
        return err;
    struct rowid who = s->reg2.who;
    struct pending_row *p = parent ? pending_find(s, f->parent->tbl, &who) : NULL;
    if (p && (p->looked ? p->before : p->present) && takes_part(p))
        return park_parent(c, f, p);
    return park_child(c, f, written);
}

/* Is it a clash that the parent is not there? 1 yes, 0 no. */
static int clashes(struct check *c, const struct foreign *f, const struct value *v, const struct rowid *parent, bool meant,
                   const struct write *w) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    if (!f->to_key)
        return nobody_left(s, f, v, w);
    int err = find_parent(s, f, parent, meant);
    bool left = false;
    if (err || !reg_known(&s->reg2) || reg_alive(&s->reg2, &o)) /* never known here, or in flight */
        return err;
    if (w)
        err = meant ? dead_knowing(s, f->parent->tbl, &c->said, w, &left) : left_behind(s, w, &left);
    if (w && !err && !left && !meant && !parent->text)
        err = others_left_behind(s, f->parent->tbl, parent->number, w, &left);
    return err ? err : !left;
}

/* The row that was at home here is dead, and its death is not parked: what the file shows under its number came with this projection, is on its
 * way home, and was judged as written. */
static bool another_shows(struct store *s, const struct foreign *f, const struct reg *r) {
    struct origins_order o = store_order(s);
    if (!reg_known(r) || reg_alive(r, &o))
        return false;
    const struct pending_row *p = pending_find(s, f->child->tbl, &r->who);
    return !p || !p->reason;
}

/* Does the child go, too? That is what its table's policy says, or the parent, which is in s->reg2, went so itself. */
static bool cascades(const struct foreign *f) {
    return f->child->policy.orphans == ORPHANS_CASCADE || (f->to_key && reg_cascaded(&f->child->store->reg2));
}

/* It was dead, and lives again with the reference that it had before: by a mend, or since somebody wants it back. */
static bool came_back(struct store *s, const struct reg *r, const struct write *reference) {
    struct origins_order o = store_order(s);
    struct stamp by = {reference ? reference->at : 0, reference ? reference->origin : 0};
    return reg_alive(r, &o) && (r->deaths_count || (reference && r->died.at && stamp_cmp(r->died, by, &o) > 0));
}

/* A child that refers to v, and no such parent is in the file. `written`: who it is, if this projection wrote it. */
static int judge(struct check *c, const struct foreign *f, const struct rowid *place, const struct rowid *written, const struct value *v) {
    struct store *s = c->s;
    struct rowid parent;
    struct write w;
    bool home, orphan = false;
    int err = written ? rows_find(s, f->child->tbl, written, &s->reg, &home) : rows_at_home(s, f->child->tbl, place, &s->reg);
    if (err)
        return err;
    bool clear = as_registered(s, f, &s->reg, v) && reference_write(s, f, &s->reg, &w);
    bool back = came_back(s, &s->reg, clear ? &w : NULL); /* whoever deleted it with its parent has seen it */
    struct rowid who = s->reg.who;
    if (!written && another_shows(s, f, &s->reg))
        return 0;
    if (clear && (err = values_orphan(s, w.origin, w.version, f->child->tbl, &who, &orphan)))
        return err;
    if (orphan || (f->to_key && !parent_place(c, f, v, &parent)))
        return 0;
    int meant = clear ? parent_meant(c, f, &who, &s->reg, &parent) : 0, revived = 0;
    int clash = meant < 0 ? meant : parent_parked(c, f, f->to_key ? &parent : NULL, meant, v);
    if (clash < 0)
        return clash;
    bool kept_out = clash == 1; /* by what the parent waits for: that is no clash */
    const struct gone *g = f->to_key ? NULL : gone_find(f, v);
    const struct rowid *dead = f->to_key ? &parent : g ? &g->who : NULL;
    if (f->child->policy.orphans == ORPHANS_KEEP)
        return 0;
    if (!clash && (clash = clashes(c, f, v, &parent, meant, clear && !back ? &w : NULL)) == 1 && clear && cascades(f))
        revived = mend_cascade_row(s, f->child->tbl, &who);
    else if (clash == 1 && clear && dead && !kept_out)
        revived = meant ? mend_revive_row(s, f->parent->tbl, dead) : mend_revive(s, f->parent->tbl, dead);
    c->parked = c->parked || revived == 1;
    return clash != 1 ? clash : revived ? (revived < 0 ? revived : 0) : blame(c, f, written, dead, meant);
}

/* ---- what was written */

/* The child as it is in the file now: it refers to something, and that is not there. */
static int judge_written(struct check *c, struct foreign *f, const struct rowid *who) {
    struct value v[COLUMNS_MAX];
    int row = tables_bind_place(f->child, f->broken, 1, who);
    if (row < 0 || (row = sql_step(f->broken)) < 0)
        return row;
    for (uint32_t i = 0; i < f->count && row; i++)
        sql_column_value(f->broken, (int)i, &v[i]);
    int err = row ? judge(c, f, NULL, who, v) : 0;
    sqlite3_reset(f->broken);
    return err;
}

/* The value that an op brings for a column; they mostly come in the table's own order. */
static const struct value *op_value(const struct op *op, uint32_t number, uint32_t guess) {
    if (guess < op->count && op->columns[guess] == number)
        return &op->values[guess];
    for (uint32_t i = 0; i < op->count; i++)
        if (op->columns[i] == number)
            return &op->values[i];
    return NULL;
}

/* What the op refers to is dead, and its number has become another row's since that was merged: who is there is not who was meant. Only if the row
 * says so still: it may have died, come again, or been written anew behind this op. */
static int check_meaning(struct check *c, const struct op *op, uint32_t column, const struct value *said) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct rowid who, at = {.kind = IDENT_GIVEN, .number = said->as.i};
    struct value v;
    struct tbl *t;
    bool home;
    if (!refs_find(s, said, &t, &who) || numbers_wait(s, t, &who) != 2)
        return 0;
    int err = rows_at_home(s, t, &at, &s->reg2); /* the dead row itself: another is on its way there */
    if (err || (reg_known(&s->reg2) && reg_alive(&s->reg2, &o) && rowid_same(&s->reg2.who, &who)))
        return err;
    err = rows_find(s, op->tbl, &op->who, &s->reg, &home);
    const struct cell *now = err || !reg_alive(&s->reg, &o) ? NULL : reg_winner(&s->reg, column, &o);
    if (!now)
        return err;
    struct write w = s->reg.writes[now->write];
    err = values_find(s, w.origin, w.version, op->tbl, &op->who, column, now->hash, &v);
    if (err || v.type != VALUE_REF || v.len != said->len || memcmp(v.p, said->p, v.len) != 0)
        return err == ERR_NOTFOUND ? 0 : err;
    int clash = refs_gone(s, op->tbl, &op->who, &w, said);
    c->parked = c->parked || clash == 1;
    return clash < 0 ? clash : 0;
}

static int check_child(struct check *c, const struct op *op) {
    struct tio *io = op->tbl->io;
    for (uint32_t i = 0; i < io->refs_count; i++) {
        struct foreign *f = io->refs[i];
        struct value v[COLUMNS_MAX];
        uint32_t told = 0;
        bool null = false;
        for (uint32_t k = 0; k < f->count; k++) {
            const struct value *p = f->from[k] == NUMBER ? NULL : op_value(op, io->numbers[f->from[k]], f->from[k]);
            if (f->from[k] == NUMBER)
                v[k] = (struct value){.type = VALUE_INT, .as.i = numbers_shown(op->tbl, &op->who)};
            else if (p)
                v[k] = p->type == VALUE_REF ? (struct value){.type = VALUE_INT, .as.i = p->as.i} : *p;
            told += p || (f->from[k] == NUMBER && op->kind == CHANGE_INSERT);
            null = null || (p && p->type == VALUE_NULL);
        }
        if (!told || null)
            continue;
        int there = told == f->count ? foreign_parent_there(c->s, f, v, true) : 0;
        int err = there < 0 ? there : there ? 0 : judge_written(c, f, &op->who);
        for (uint32_t k = 0; k < f->count && there == 1 && c->s->same->dead_refs && !err; k++) {
            const struct value *p = f->from[k] == NUMBER ? NULL : op_value(op, io->numbers[f->from[k]], f->from[k]);
            err = p && p->type == VALUE_REF ? check_meaning(c, op, io->numbers[f->from[k]], p) : 0;
        }
        if (err)
            return err;
    }
    return 0;
}

int foreign_place_of(struct tio *io, const struct value *key, struct buf *name, struct rowid *place) {
    uint8_t keyless[KEYLESS_KEY_BYTES] = {0};
    int known = 1, err = 0;
    *place = (struct rowid){.kind = IDENT_GIVEN, .text = io->table->key_kind != KEY_INTEGER};
    if (io->table->key_kind == KEY_ROWID) {
        known = keyless_name(io, key[0].as.i, keyless);
        buf_clear(name);
        buf_append(name, keyless, sizeof keyless);
        err = known < 0 ? known : name->failed;
    } else if (place->text) {
        err = tables_key_of(io, key, name);
    } else {
        place->number = key[0].as.i;
    }
    if (place->text) {
        place->key = name->data;
        place->key_len = name->len;
    }
    return err ? err : !known;
}

static int prepare_text(sqlite3 *db, sqlite3_str *text, sqlite3_stmt **out) {
    char *sql = sqlite3_str_finish(text);
    int err = sql ? sql_prepare(db, out, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    return err;
}

/* Children that the file holds and whose parent, known by v, it does not. */
static int check_children(struct check *c, struct foreign *f, const struct value *v) {
    int row, err = 0;
    for (uint32_t i = 0; i < f->count && f->indexed; i++)
        sql_bind_value(f->children, (int)i + 1, &v[i]);
    while (!err && (row = sql_step(f->children)) != 0) {
        struct value key[COLUMNS_MAX], ref[COLUMNS_MAX];
        const struct table *t = f->child->table;
        struct rowid place;
        bool null = false;
        if (row < 0)
            return row;
        for (uint32_t i = 0; i < table_key_width(t); i++) {
            sql_column_value(f->children, (int)i, &key[i]);
            null = null || key[i].type == VALUE_NULL;
        }
        for (uint32_t i = 0; i < f->count; i++)
            sql_column_value(f->children, (int)(table_key_width(t) + i), &ref[i]);
        int known = foreign_place_of(f->child, key, &c->key, &place);
        if (known < 0) {
            err = known;
            break;
        }
        null = null || known == 1;
        err = null ? 0 : judge(c, f, &place, NULL, ref); /* NULL in its key: not replicated */
    }
    sqlite3_reset(f->children);
    return err;
}

/* Children that the file goes on holding under the number of a parent that is gone, where another row has that number now. Those that meant the
 * old one, unseen by whoever deleted it, bring it back to life; then they are told whom they meant. */
static int keep_meaning(struct check *c, struct foreign *f, const struct rowid *parent, const struct value *number) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct tbl *t = f->child->tbl;
    const struct table *table = f->child->table;
    sqlite3_str *text = sqlite3_str_new(s->app.writer);
    sqlite3_stmt *q;
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    size_t len = first_name_pack(s, f->parent->tbl, parent, bytes);
    int row;
    sqlite3_str_appendall(text, "SELECT ");
    for (uint32_t i = 0; i < table->key_count; i++)
        sqlite3_str_appendf(text, "%s\"%w\"", i ? "," : "", table->columns[table->key[i]].name);
    if (table->key_kind == KEY_ROWID)
        sqlite3_str_appendall(text, table->rowid);
    sqlite3_str_appendf(text, " FROM main.\"%w\" WHERE \"%w\"=?", table->name, f->child->names[f->from[0]]);
    int err = prepare_text(s->app.writer, text, &q);
    if (err)
        return err;
    sql_bind_value(q, 1, number);
    while (!err && (row = sql_step(q)) != 0) {
        struct value key[COLUMNS_MAX], v;
        struct rowid place, who;
        struct tbl *to;
        bool left = true;
        uint32_t column = f->child->numbers[f->from[0]];
        for (uint32_t i = 0; i < table_key_width(table) && row > 0; i++)
            sql_column_value(q, (int)i, &key[i]);
        for (uint32_t i = 0; i < table->key_count && f->child->key_refs; i++)
            if (i == f->from[0] && len) /* the row is named by whom it meant */
                key[i] = (struct value){.type = VALUE_REF, .p = bytes, .len = len};
        if ((err = row < 0 ? row : foreign_place_of(f->child, key, &c->key, &place)) || (err = rows_at_home(s, t, &place, &s->reg)))
            break;
        const struct cell *cell = reg_known(&s->reg) && reg_alive(&s->reg, &o) ? reg_winner(&s->reg, column, &o) : NULL;
        if (!cell)
            continue;
        struct rowid child = s->reg.who;
        struct write w = s->reg.writes[cell->write];
        struct shown_cell shown = {column, cell->hash};
        err = values_find(s, w.origin, w.version, t, &child, column, shown.hash, &v);
        if (err || v.type != VALUE_REF || !refs_find(s, &v, &to, &who) || to != f->parent->tbl || !rowid_same(&who, parent)) {
            err = err == ERR_NOTFOUND ? 0 : err;
            continue;
        }
        uint64_t unsettled = value_hash(&v);
        bool home, lives = !(err = rows_find(s, to, parent, &s->reg2, &home)) && reg_alive(&s->reg2, &o); /* under another number */
        if (!err && !lives && f->child->policy.orphans != ORPHANS_KEEP && !(err = refs_left(s, t, &child, &w, &v, &left)) && !left) {
            if (cascades(f))
                c->parked = (err = mend_cascade_row(s, t, &child)) == 1 || c->parked;
            else
                lives = (err = mend_revive_row(s, to, parent)) == 1;
        }
        if (err >= 0 && lives) {
            c->parked = true; /* from home it moves, and they with it */
            err = home ? 0 : refs_unsettle(s, t, &child, shown, unsettled);
        }
    }
    sqlite3_finalize(q);
    return err < 0 ? err : 0;
}

/* A row whose own key is the reference is known as its parent is, and that one is dead: was the row left behind knowingly, by its own author or by
 * whoever deleted the parent? Else a mend is planned. 0 it was, or nothing can be done; 1 planned: the parent lives again; 2 planned: the row goes. */
static int named_left(struct store *s, const struct foreign *f, const struct rowid *who, const struct reg *r) {
    struct write w;
    bool left = false, home;
    int err = 0;
    struct tbl *named = f->child->key_ref; /* the parent, or whom the parent's own key refers to */
    if (f->child->policy.orphans == ORPHANS_KEEP || !reference_write(s, f, r, &w))
        return 0;
    if ((err = values_orphan(s, w.origin, w.version, f->child->tbl, who, &left)) ||
        (!left && !came_back(s, r, &w) && (err = dead_knowing(s, named, who, &w, &left))) || left ||
        (err = rows_find(s, named, who, &s->reg2, &home)))
        return err;
    if (cascades(f))
        return (err = mend_cascade_row(s, f->child->tbl, who)) == 1 ? 2 : err;
    return mend_revive_row(s, named, who);
}

int foreign_named_gone(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r) {
    for (uint32_t i = 0; i < t->io->refs_count; i++) {
        const struct foreign *f = t->io->refs[i];
        if (f->count == 1 && f->from[0] == NUMBER && f->parent != f->child && r->cells_count)
            return named_left(s, f, who, r);
    }
    return mend_revive_row(s, t->io->key_ref, who);
}

/* The same of a row whose own key is the reference. */
static int keep_named(struct check *c, struct foreign *f, const struct rowid *parent, int64_t number) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct tbl *t = f->child->tbl;
    struct rowid place = {.kind = IDENT_GIVEN, .number = number};
    struct pending_row *p;
    bool home, lives;
    int err = rows_at_home(s, t, &place, &s->reg);
    if (err || !reg_known(&s->reg) || !reg_alive(&s->reg, &o) || !rowid_same(&s->reg.who, parent) ||
        (err = rows_find(s, f->parent->tbl, parent, &s->reg2, &home)))
        return err;
    lives = reg_alive(&s->reg2, &o);
    if (!lives) {
        err = named_left(s, f, parent, &s->reg);
        lives = err == 1;
        c->parked = err == 2 || c->parked;
    }
    if (err < 0 || !lives)
        return err < 0 ? err : 0;
    c->parked = true;
    if (home) /* it moves, and takes this one along */
        return 0;
    if ((err = state_begin(s)) || (err = pending_map_flights(s)) || pending_find(s, t, parent))
        return err;
    return (err = pending_set(s, t, parent, true, NULL, 0, NULL, &p)) ? err : pending_store(s, p);
}

/* Has another row the number of this one, which is gone? */
static int number_taken(struct check *c, const struct tio *io, int64_t number, const struct rowid *who, bool *taken) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct rowid place = {.kind = IDENT_GIVEN, .number = number};
    int err = rows_at_home(s, io->tbl, &place, &s->reg2);
    *taken = !err && reg_known(&s->reg2) && reg_alive(&s->reg2, &o) && !rowid_same(&s->reg2.who, who);
    return err;
}

static int check_parent(struct check *c, struct tio *io, const struct rowid *who) {
    struct value key[COLUMNS_MAX], v[COLUMNS_MAX];
    bool taken = false;
    int n = tables_key_values(who, key, COLUMNS_MAX);
    if (n > 0 && !who->text)
        key[0].as.i = numbers_shown(io->tbl, who);
    int err = n > 0 ? refs_show(c->s, key, (uint32_t)n) : 0;
    if (err >= 0) /* what its key refers to may be gone, too, or not shown: the file's children have the number all the same */
        err = who->text ? 0 : number_taken(c, io, key[0].as.i, who, &taken);
    if (err)
        return err;
    for (uint32_t i = 0; i < io->kids_count && n > 0; i++) {
        struct foreign *f = io->kids[i];
        if (!f->to_key || (uint32_t)n != f->count)
            continue;
        for (uint32_t k = 0; k < f->count; k++)
            v[f->key_from[k]] = key[k];
        if (taken)
            err = f->from[0] == NUMBER ? keep_named(c, f, who, v[0].as.i) : keep_meaning(c, f, who, &v[0]);
        else if (f->indexed)
            err = check_children(c, f, v);
        if (err)
            return err;
    }
    return n < 0 ? n : 0;
}

/* Without an index one scan for all that went, not one for each. */
static void want_scan(struct tio *io, bool *scan) {
    for (uint32_t i = 0; i < io->kids_count; i++)
        *scan = *scan || (io->kids[i]->to_key && !io->kids[i]->indexed);
}

static int check_flights(struct check *c, int64_t seq, bool children, bool *scan) {
    struct store *s = c->s;
    for (struct flight *f = s->flights; f && f->seq <= seq; f = f->next)
        for (uint32_t i = 0; i < f->ops_count; i++) {
            const struct op *op = &f->ops[i];
            struct tio *io = op->tbl->io;
            bool gone = op->kind == CHANGE_DELETE;
            if (!io || !(gone ? io->kids_count : io->refs_count) || gone == children)
                continue;
            const struct pending_row *row = s->pending ? pending_find(s, op->tbl, &op->who) : NULL;
            if (row && !row->mapped && !gone) /* not written by this op; deleted may be what then did not come again */
                continue;
            if (gone)
                want_scan(io, scan);
            int err = gone ? check_parent(c, io, &op->who) : check_child(c, op);
            if (err)
                return err;
        }
    return 0;
}

static int check_row(struct check *c, const struct pending_row *p, bool children, bool *scan) {
    struct store *s = c->s;
    struct origins_order o = store_order(s);
    struct tio *io = p->tbl->io;
    bool home;
    if (!p->done || !io || !(children ? io->refs_count : io->kids_count))
        return 0;
    int err = rows_find(s, p->tbl, &p->who, &s->reg, &home);
    bool alive = !err && reg_alive(&s->reg, &o);
    for (uint32_t i = 0; i < io->refs_count && alive && children && p->done && !err; i++)
        err = judge_written(c, io->refs[i], &p->who);
    if (!err && !alive && !children) {
        want_scan(io, scan);
        err = check_parent(c, io, &p->who);
    }
    return err;
}

static int check_rows(struct check *c, bool children, bool *scan) {
    struct pending_row *p, *next;
    int err = 0;
    HASH_ITER(hh, c->s->pending, p, next) {
        if ((err = check_row(c, p, children, scan)))
            return err;
    }
    if (!c->out || !children)
        return 0;
    for (p = c->s->pending ? ELMT_FROM_HH(c->s->pending->hh.tbl, c->s->pending->hh.tbl->tail) : NULL; p && !err; p = p->hh.prev)
        err = check_row(c, p, true, scan); /* and back, since most chains are in order */
    return err;
}

static int check_gone(struct check *c, bool scan) {
    for (uint32_t i = 0; i < c->s->foreigns_count; i++) {
        struct foreign *f = c->s->foreigns[i];
        bool all = !f->indexed && (f->gone || (scan && f->to_key));
        int err = all ? check_children(c, f, NULL) : 0;
        for (const struct gone *g = f->gone; g && f->indexed && !err; g = g->next)
            err = check_children(c, f, g->values);
        if (err)
            return err;
    }
    return 0;
}

int foreign_check(struct store *s, int64_t seq) {
    struct check c = {.s = s};
    bool scan = false;
    buf_init(&c.key, 1 << 20);
    buf_init(&c.parent_key, 1 << 20);
    s->snapshot++;
    int err = 0;
    for (int children = 1; children >= 0 && !err; children--)
        if (!(err = check_flights(&c, seq, children, &scan)))
            err = check_rows(&c, children, &scan);
    if (!err)
        err = check_gone(&c, scan);
    buf_release(&c.key);
    buf_release(&c.parent_key);
    s->same->dead_refs = false;
    s->snapshot++; /* what follows may be taken back */
    return err ? err : c.parked;
}
