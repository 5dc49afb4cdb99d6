/* Deciding an open conflict. A decision is an ordinary change of ours that has seen both sides: it closes the conflict on every server that it
 * reaches, and meets other changes as any change does.
 *
 *   the row     what lost      keep winner                      keep loser                               set
 *   lives       a value        the value is written again       the losing value is written              these values are written
 *   lives       its number     the number is written again      -                                        -
 *   lives       a deletion     the row is inserted over itself  the row is deleted                       -
 *   is dead     a value        the row is deleted again         the row comes back with that value,      as keep loser, with these
 *                                                               and with it what was deleted together    values instead
 *                                                               with it and refers to it, and what it
 *                                                               refers to itself
 *
 *   stands for  (another row)    it goes on doing so              -                                        -
 *   another                      split: both are rows again, apart.c
 *
 * A death says nothing about two values that were written apart: before a dead row is deleted again, the winners of such columns are written again.
 *
 * What would change the application's file is first written there, with foreign keys enforced, and taken back: who decides hears of a broken
 * constraint before anybody else does. Then it is a batch of ours like any other, and the rows are pending until a projection shows them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/family.h"
#include "node/store/report.h"
#include "node/store/same.h"
#include "proto/err.h"

enum { REFUSED = 1, LATER = 2 };

struct planned { /* one row that is to change */
    UT_hash_handle hh;
    struct tio *io;
    struct rowid who;
    struct op op;       /* what it changes in the application's file; `shows` false: nothing */
    bool shows, *named; /* named: these columns go into the change */
    bool number;        /* that it has this number goes into it, and nothing else */
    struct value *row;  /* all of io's columns, in its order */
    uint64_t *hashes, *before;
    struct planned *next;
    size_t name_len;
    const uint8_t *name; /* hash key: table number and identity */
};

struct offered { /* what rows that come back are referred to by */
    UT_hash_handle hh;
    uint64_t link;
};

struct deciding {
    struct store *s;
    struct lost lost;
    bool keep_loser, split;
    const json_t *set; /* {"column": value…}, may be NULL */
    struct arena arena;
    struct planned *rows, **tail, *by_name;
    uint32_t count;
    struct offered *offered;
    char why[400];
};

__attribute__((format(printf, 2, 3))) static int refuse(struct deciding *d, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(d->why, sizeof d->why, format, args);
    va_end(args);
    return REFUSED;
}

/* ---- planning one row */

static int keep_bytes(struct deciding *d, const uint8_t **p, size_t len) {
    uint8_t *copy = arena_alloc(&d->arena, len + 1);
    if (!copy)
        return ERR_NOMEM;
    if (len)
        memcpy(copy, *p, len);
    *p = copy;
    return 0;
}

/* The value of a winner; 1: the log does not have it. */
static int look_up(struct deciding *d, struct planned *p, const struct reg *r, const struct cell *c, struct value *v) {
    const struct write *w = &r->writes[c->write];
    int err = values_find(d->s, w->origin, w->version, p->io->tbl, &p->who, c->column, c->hash, v);
    return err == ERR_NOTFOUND ? 1 : err ? err : v->p ? keep_bytes(d, &v->p, v->len) : 0;
}

/* A row that stands for others comes back by itself: what they held, and it shows, is written to it. */
static int name_others(struct planned *p, const struct reg *r, struct store *s) {
    struct origins_order o = store_order(s);
    struct reg own;
    bool home;
    reg_init(&own);
    int err = unify_own(s, p->io->tbl, &p->who, &own, &home);
    for (uint32_t i = 0; i < p->io->count && !err; i++) {
        const struct cell *c = reg_winner(r, p->io->numbers[i], &o), *mine = reg_winner(&own, p->io->numbers[i], &o);
        p->named[i] = p->named[i] || (c && (!mine || stamp_cmp(reg_cell_stamp(r, c), reg_cell_stamp(&own, mine), &o) != 0));
    }
    reg_release(&own);
    return err;
}

static int read_row(struct deciding *d, struct planned *p, const struct reg *r) {
    struct origins_order o = store_order(d->s);
    struct tio *io = p->io;
    for (uint32_t i = 0; i < io->count; i++) {
        const struct cell *c = reg_winner(r, io->numbers[i], &o);
        p->row[i] = (struct value){.type = VALUE_NULL};
        p->before[i] = p->hashes[i] = c ? c->hash : 0;
        int err = c && p->op.kind != CHANGE_DELETE ? look_up(d, p, r, c, &p->row[i]) : 0;
        if (err < 0)
            return err;
        if (err && p->op.kind == CHANGE_INSERT)
            return refuse(d, "the value of \"%.100s\" is not in the log any more: it cannot be brought back from here", io->names[i]);
        bool key = io->table->columns[io->order[i]].key_place > 0;
        p->named[i] = p->op.kind == CHANGE_INSERT && p->who.text && key; /* the identity travels in them */
    }
    return p->op.kind == CHANGE_INSERT && unify_is(d->s, io->tbl, &p->who) ? name_others(p, r, d->s) : 0;
}

/* The row as the registers have it. */
static int plan(struct deciding *d, struct tio *io, const struct reg *r, enum change_kind kind, struct planned **out) {
    struct planned *p = arena_alloc(&d->arena, sizeof *p);
    size_t n = io->count + 1;
    if (!p)
        return ERR_NOMEM;
    memset(p, 0, sizeof *p);
    p->io = io;
    p->who = r->who;
    p->op.kind = (uint8_t)kind;
    p->op.tbl = io->tbl;
    p->row = arena_alloc(&d->arena, n * sizeof *p->row);
    p->hashes = arena_alloc(&d->arena, n * sizeof *p->hashes);
    p->before = arena_alloc(&d->arena, n * sizeof *p->before);
    p->named = arena_alloc(&d->arena, n * sizeof *p->named);
    p->op.columns = arena_alloc(&d->arena, n * sizeof *p->op.columns);
    p->op.values = arena_alloc(&d->arena, n * sizeof *p->op.values);
    if (!p->row || !p->hashes || !p->before || !p->named || !p->op.columns || !p->op.values ||
        (p->who.text && keep_bytes(d, &p->who.key, p->who.key_len)))
        return ERR_NOMEM;
    p->op.who = p->who;
    int err = read_row(d, p, r);
    if (err)
        return err;
    struct buf *name = &d->s->blob;
    buf_clear(name);
    if (rowid_name(io->tbl, &p->who, name))
        return ERR_NOMEM;
    p->name = name->data;
    p->name_len = name->len;
    if (keep_bytes(d, &p->name, p->name_len))
        return ERR_NOMEM;
    HASH_ADD_KEYPTR(hh, d->by_name, p->name, p->name_len, p);
    *d->tail = p;
    d->tail = &p->next;
    d->count++;
    *out = p;
    return 0;
}

static int put_value(struct deciding *d, struct planned *p, uint32_t i, const struct value *v) {
    p->row[i] = *v;
    int err = v->p ? keep_bytes(d, &p->row[i].p, v->len) : 0;
    p->hashes[i] = value_hash(&p->row[i]);
    p->named[i] = true;
    return err || !tables_converts(p->io, i, v) ? err : tables_convert(d->s, p->io, i, v, &p->hashes[i]);
}

static int put_set(struct deciding *d, struct planned *p) {
    const char *name;
    json_t *j;
    json_object_foreach((json_t *)(uintptr_t)d->set, name, j) {
        uint32_t i = 0;
        while (i < p->io->count && sqlite3_stricmp(p->io->names[i], name) != 0)
            i++;
        bool number = p->io->table->key_kind == KEY_INTEGER && !sqlite3_stricmp(p->io->table->columns[p->io->table->key[0]].name, name);
        if (number || (i < p->io->count && p->io->table->columns[p->io->order[i]].key_place))
            return refuse(d, "\"%.100s\" belongs to the key, which tells which row it is: it cannot be set here", name);
        if (i == p->io->count)
            return refuse(d, "table \"%.100s\" has no column \"%.100s\" that can be set", p->io->tbl->name, name);
        struct value v;
        int err = report_value_read(j, &d->arena, &v);
        if (err)
            return err < 0 ? err : refuse(d, "a value is null, a number, a text, {\"int\": \"…\"} or {\"base64\": \"…\"}");
        if ((err = put_value(d, p, i, &v)))
            return err;
    }
    return 0;
}

/* The index of a column in io's order, or UINT32_MAX. */
static uint32_t column_at(const struct tio *io, uint32_t column) {
    return column < io->by_number_count && io->by_number[column] ? io->by_number[column] - 1 : UINT32_MAX;
}

static uint32_t lost_at(const struct deciding *d, const struct tio *io) { return column_at(io, d->lost.column); }

/* Two rows had one number: the person is content with the new one. The other row has the old one. */
static int plan_number(struct deciding *d, struct tio *io, const struct reg *r) {
    struct planned *p;
    if (d->keep_loser || d->set)
        return refuse(
            d, "its old number is another row's, and what refers to this row has followed it: --keep winner (it keeps its new number)");
    int err = plan(d, io, r, CHANGE_UPDATE, &p);
    if (!err)
        p->number = true;
    return err;
}

static int refuse_column(struct deciding *d, const struct tio *io) {
    return refuse(d, "the application here has no column \"%.100s\" now: decide it on a server that has", io->tbl->columns[d->lost.column]);
}

static int put_loser(struct deciding *d, struct planned *p, uint32_t i) {
    struct value v;
    int err = values_find(d->s, d->lost.by.origin, d->lost.by.version, p->io->tbl, &p->who, d->lost.column, d->lost.hash, &v);
    if (err == ERR_NOTFOUND)
        return refuse(d, "the losing value is not in the log any more: use --set");
    return err ? err : put_value(d, p, i, &v);
}

/* What it means for the application's file: columns that it holds otherwise (before), or all that are known. */
static void finish(struct planned *p) {
    p->op.count = 0;
    for (uint32_t i = 0; i < p->io->count && p->op.kind != CHANGE_DELETE; i++) {
        if (p->op.kind == CHANGE_UPDATE ? p->hashes[i] == p->before[i] : !p->hashes[i])
            continue;
        p->op.columns[p->op.count] = p->io->numbers[i];
        p->op.values[p->op.count++] = p->row[i];
    }
    p->shows = p->op.kind != CHANGE_UPDATE || p->op.count;
}

/* ---- the cases of the table */

static int plan_value(struct deciding *d, struct tio *io, const struct reg *r) {
    struct planned *p;
    uint32_t i = lost_at(d, io);
    if (d->lost.column + 1 == io->tbl->number_column)
        return plan_number(d, io, r);
    if (i == UINT32_MAX)
        return refuse_column(d, io);
    int err = plan(d, io, r, CHANGE_UPDATE, &p);
    if (err)
        return err;
    p->named[i] = true;
    if (d->keep_loser)
        err = put_loser(d, p, i);
    if (err || (d->set && (err = put_set(d, p))))
        return err;
    if (p->row[i].type == VALUE_NULL && p->hashes[i] != value_hash(&p->row[i]))
        return refuse(d, "the value of \"%.100s\" is not in the log any more: use --set for it", io->names[i]);
    finish(p);
    return 0;
}

static int plan_death(struct deciding *d, struct tio *io, const struct reg *r) {
    struct planned *p;
    if (d->set)
        return refuse(d, "what lost is a deletion: --keep winner (the row stays) or --keep loser (it is deleted)");
    int err = plan(d, io, r, d->keep_loser ? CHANGE_DELETE : CHANGE_INSERT, &p);
    if (!err && d->keep_loser)
        finish(p);
    return err;
}

static int offer(struct deciding *d, struct tio *io, const struct reg *r) {
    struct family f;
    int err = family_links(d->s, io, r, false, &d->arena, &f);
    for (uint32_t i = 0; !err && i < f.count; i++) {
        struct offered *o = arena_alloc(&d->arena, sizeof *o);
        if (!o)
            return ERR_NOMEM;
        o->link = f.links[i];
        if (o->link)
            HASH_ADD(hh, d->offered, link, sizeof o->link, o);
    }
    return err;
}

static bool taken(struct deciding *d, struct tio *io, const struct reg *r) {
    struct family f;
    struct offered *o = NULL;
    int err = family_links(d->s, io, r, true, &d->arena, &f);
    for (uint32_t i = 0; !err && i < f.count && !o; i++)
        HASH_FIND(hh, d->offered, &f.links[i], sizeof f.links[i], o);
    return o != NULL;
}

static bool is_planned(struct deciding *d, const struct tio *io, const struct rowid *who) {
    struct buf *name = &d->s->blob;
    struct planned *p = NULL;
    buf_clear(name);
    if (rowid_name(io->tbl, who, name) == 0)
        HASH_FIND(hh, d->by_name, name->data, name->len, p);
    return p != NULL;
}

static bool died_by(const struct reg *r, const struct death *death) {
    for (uint32_t i = 0; i < r->deaths_count; i++)
        if (r->deaths[i].origin == death->origin && r->deaths[i].version == death->version)
            return true;
    return false;
}

/* Once through the batch that brought the death. Counts the rows that it adds. */
static int plan_children(struct deciding *d, struct bytes *batch, const struct death *death, uint32_t *added) {
    struct store *s = d->s;
    struct origins_order o = store_order(s);
    struct batch_reader *reader = batch_reader_new();
    struct change c;
    struct reg r;
    reg_init(&r);
    int err = reader ? batch_reader_open(reader, batch->data, batch->len) : ERR_NOMEM;
    while (!err && (err = batch_reader_next(reader, &c)) == 1) {
        struct tio *io = NULL;
        for (uint32_t i = 0; i < s->tios_count && c.kind == CHANGE_DELETE && !io; i++)
            if (s->tios[i].tbl && s->tios[i].table->foreign_keys_count && strlen(s->tios[i].tbl->name) == c.table_len &&
                !memcmp(s->tios[i].tbl->name, c.table, c.table_len))
                io = &s->tios[i];
        struct rowid who;
        struct planned *p;
        bool home;
        err = 0;
        if (!io || (err = merge_rowid(s, &c, &who)) || (err = rows_find(s, io->tbl, &who, &r, &home)))
            continue;
        r.who = who;
        if (reg_alive(&r, &o) || !died_by(&r, death) || !taken(d, io, &r) || is_planned(d, io, &who))
            continue;
        if ((err = plan(d, io, &r, CHANGE_INSERT, &p)) || (err = offer(d, io, &r)))
            break;
        finish(p);
        ++*added;
    }
    reg_release(&r);
    batch_reader_free(reader);
    return err;
}

/* What a row that comes back refers to, as far as it is gone: it lives again, too. */
static int plan_parents(struct deciding *d, const struct planned *p) {
    struct origins_order o = store_order(d->s);
    struct reg r;
    int err = 0;
    reg_init(&r);
    for (uint32_t k = 0; k < p->io->table->foreign_keys_count && !err; k++) {
        struct tio *io;
        struct planned *parent;
        reg_clear(&r);
        int found = family_parent(d->s, p->io, k, p->row, &d->arena, &io, &r);
        if (found != 1 || reg_alive(&r, &o) || is_planned(d, io, &r.who)) {
            err = found < 0 ? found : 0;
            continue;
        }
        if (!(err = plan(d, io, &r, CHANGE_INSERT, &parent))) {
            finish(parent);
            err = plan_parents(d, parent);
        }
    }
    reg_release(&r);
    return err;
}

static int plan_restore(struct deciding *d, struct tio *io, const struct reg *r) {
    struct origins_order o = store_order(d->s);
    struct planned *p;
    uint32_t i = lost_at(d, io), added;
    int err = plan(d, io, r, CHANGE_INSERT, &p);
    const struct cell *best = reg_winner(r, d->lost.column, &o);
    bool is_best = best && r->writes[best->write].origin == d->lost.by.origin && r->writes[best->write].version == d->lost.by.version;
    if (!err && i != UINT32_MAX)
        err = put_loser(d, p, i);
    else if (!err && !is_best)
        err = refuse_column(d, io);
    if (err || (d->set && (err = put_set(d, p))) || (err = offer(d, io, r)))
        return err;
    finish(p);
    if ((err = plan_parents(d, p)))
        return err;
    for (i = 0; i < r->deaths_count && d->offered; i++) {
        struct bytes *batch;
        err = log_read(d->s, r->deaths[i].origin, r->deaths[i].version, &batch);
        if (err == ERR_NOTFOUND)
            continue;
        do { /* a child may be told before its parent */
            added = 0;
            err = err ? err : plan_children(d, batch, &r->deaths[i], &added);
        } while (added && !err);
        bytes_unref(batch);
        if (err)
            return err;
    }
    return err == ERR_NOTFOUND ? 0 : err;
}

/* Another column that cannot be written from here stays open. */
static int plan_stay(struct deciding *d, struct tio *io, const struct reg *r) {
    struct origins_order o = store_order(d->s);
    struct planned *p;
    int err = plan(d, io, r, CHANGE_DELETE, &p);
    for (uint32_t k = 1; k < r->cells_count && !err; k++) {
        const struct cell *c = &r->cells[k];
        uint32_t i = column_at(io, c->column);
        bool asked = c->column == d->lost.column;
        if (c->column != c[-1].column || c->hash == c[-1].hash) /* siblings are neighbours */
            continue;
        if (i == UINT32_MAX) {
            err = asked ? refuse_column(d, io) : 0;
        } else if (!p->named[i] && !io->table->columns[io->order[i]].key_place) {
            err = look_up(d, p, r, reg_winner(r, c->column, &o), &p->row[i]);
            p->named[i] = err == 0;
            if (err == 1 && !asked)
                err = 0;
            else if (err == 1)
                err = refuse(d, "the value of \"%.100s\" is not in the log any more: decide it on another server", io->names[i]);
        }
    }
    return err;
}

/* Has the author of our next change seen all that he decides about? */
static bool all_seen(struct store *s, const struct reg *r) {
    struct seen seen;
    seen_of(s, s->own, s->blind, &seen);
    for (uint32_t i = 0; i < r->writes_count; i++)
        if (r->writes[i].origin != s->own && !seen_covers(&seen, r->writes[i].origin, r->writes[i].version))
            return false;
    for (uint32_t i = 0; i < r->deaths_count; i++)
        if (r->deaths[i].origin != s->own && !seen_covers(&seen, r->deaths[i].origin, r->deaths[i].version))
            return false;
    return true;
}

static int plan_all(struct deciding *d) {
    struct store *s = d->s;
    struct tio *io = d->lost.tbl->io;
    struct origins_order o = store_order(s);
    struct reg r;
    bool home;
    if (!io)
        return refuse(d, "the application here has no table \"%.100s\" now: decide it on a server that has", d->lost.tbl->name);
    struct pending_row *waits = pending_find(s, io->tbl, &d->lost.who);
    if (waits)
        return waits->reason ? refuse(d, "this row cannot be shown here (%.300s): mend that first", waits->reason) : LATER;
    reg_init(&r);
    int err = rows_find(s, io->tbl, &d->lost.who, &r, &home);
    r.who = d->lost.who;
    if (!err)
        err = drain_begin_changes(s, store_wall_ms(s));
    if (err)
        ;
    else if (!all_seen(s, &r))
        err = LATER;
    else if (reg_alive(&r, &o))
        err = d->lost.death ? plan_death(d, io, &r) : plan_value(d, io, &r);
    else
        err = d->keep_loser || d->set ? plan_restore(d, io, &r) : plan_stay(d, io, &r);
    reg_release(&r);
    return err;
}

/* Rows that are one. What is to be shown then is found out by unify.c, and its mends by meet.c. */
static int decide_same(struct deciding *d) {
    struct store *s = d->s;
    if (!d->lost.tbl->io)
        return refuse(d, "the application here has no table \"%.100s\" now: decide it on a server that has", d->lost.tbl->name);
    if (d->keep_loser || d->set)
        return refuse(d, "both are one row: --keep winner (it stays so), or --split (they are two again)");
    int err = drain_begin_changes(s, store_wall_ms(s));
    if (err || (err = same_decide(s, d->lost.tbl, &d->lost.who, d->split)))
        return err;
    d->count = d->split ? 2 : 1;
    return 0;
}

/* ---- trying, and writing the change */

static int try_rows(struct deciding *d) {
    struct store *s = d->s;
    int err = project_undisturbed(s);
    if (err != 1)
        return err == 0 || err == ERR_SCHEMA ? LATER : err;
    err = sql_exec(s->app.writer, "PRAGMA defer_foreign_keys=ON");
    for (struct planned *p = d->rows; p && !err; p = p->next) {
        const char *by = NULL;
        if (!p->shows)
            continue;
        if (p->op.kind != CHANGE_INSERT && (err = family_held(s, &p->op, &by)) == 1)
            return refuse(d, "rows of \"%.100s\" refer to it: change it in the application, which knows what becomes of them", by);
        if (!err && (err = project_try(s, &p->op)) == ERR_CONSTRAINT)
            return refuse(d, "the row does not fit in here now (%.300s)", sqlite3_errmsg(s->app.writer));
    }
    int broken = 0, most;
    if (!err && sqlite3_db_status(s->app.writer, SQLITE_DBSTATUS_DEFERRED_FKS, &broken, &most, 0) == SQLITE_OK && broken)
        return refuse(d, "a row that it refers to is not there (FOREIGN KEY): bring that one back first");
    return err == ERR_NOTFOUND ? LATER : err;
}

static int write_one(struct deciding *d, struct planned *p) {
    struct store *s = d->s;
    uint32_t at[BATCH_COLUMNS_MAX], n = 0;
    for (uint32_t i = 0; i < p->io->count; i++)
        if (p->named[i])
            at[n++] = i;
    enum change_kind kind = (enum change_kind)p->op.kind;
    bool first = kind == CHANGE_DELETE && n; /* in a version of its own: a death has seen only earlier ones */
    bool writes = (kind != CHANGE_DELETE || first) && !p->number;
    const struct column_set *set = writes ? tables_columns(p->io, at, n) : NULL;
    struct shown_cell *cells = arena_alloc(&d->arena, (p->io->count + 1) * sizeof *cells);
    struct origins_order o = store_order(s);
    struct reg r;
    bool home;
    if (!cells || (writes && !set))
        return ERR_NOMEM;
    reg_init(&r);
    int err = rows_find(s, p->io->tbl, &p->who, &r, &home);
    r.who = p->who;
    bool alive = reg_alive(&r, &o);
    if (!err && first && !(err = drain_author(s, p->io, &r, home, CHANGE_UPDATE, set, p->row, p->hashes, 0)))
        err = drain_seal(s, false);
    if (!err)
        err = p->number ? drain_renumber(s, p->io, &r, home, numbers_wanted(s, p->io->tbl, &r), false, 0)
                        : drain_author(s, p->io, &r, home, kind, first ? NULL : set, p->row, p->hashes, 0);
    reg_release(&r);
    if (err || !p->shows)
        return err;
    n = 0;
    for (uint32_t i = 0; i < p->io->count && alive; i++)
        if (p->before[i] != p->hashes[i])
            cells[n++] = (struct shown_cell){p->io->numbers[i], p->before[i]};
    struct pending_row *row;
    err = pending_set(s, p->io->tbl, &p->who, alive, cells, n, NULL, &row);
    return err ? err : pending_store(s, row);
}

static int write_rows(struct deciding *d) {
    int err = 0;
    for (struct planned *p = d->rows; p && !err; p = p->next)
        err = write_one(d, p);
    return err;
}

/* Written while the rows are in the file as they will be: whether one is an orphan is looked up there. */
static int try_and_write(struct deciding *d, bool enforced) {
    struct store *s = d->s;
    sqlite3_db_config(s->app.writer, SQLITE_DBCONFIG_ENABLE_FKEY, enforced, NULL);
    int err = appfile_begin(&s->app, true);
    if (!err) {
        if (!(err = try_rows(d))) {
            s->snapshot++;
            err = write_rows(d);
        }
        appfile_rollback(&s->app);
        s->snapshot++; /* what was seen in there is not there */
    } else if (err == ERR_BUSY) {
        err = LATER;
    }
    sqlite3_db_config(s->app.writer, SQLITE_DBCONFIG_ENABLE_FKEY, 0, NULL);
    return err;
}

static int decide(struct deciding *d) {
    struct store *s = d->s;
    bool shows = false;
    int err = state_begin(s);
    if (!err && d->split && !d->lost.same)
        err = refuse(d, "this is one row's own: say one of --keep winner, --keep loser, --set COL=VALUE");
    if (err || (err = d->lost.same ? decide_same(d) : plan_all(d)))
        return err;
    for (struct planned *p = d->rows; p; p = p->next)
        shows = shows || p->shows;
    err = shows ? try_and_write(d, true) : write_rows(d);
    if (err == ERR_INTERNAL && shows && !batch_writer_rows(s->writer)) /* a foreign key that SQLite itself does not understand */
        err = try_and_write(d, false);
    if (err || (err = drain_seal(s, false)) || (err = state_commit(s)))
        return err;
    return state_sync(s);
}

int store_resolve(struct store *s, const char *id, const json_t *how, json_t **answer) {
    struct deciding d = {.s = s, .set = json_object_get(how, "set")};
    const char *keep = json_string_value(json_object_get(how, "keep"));
    json_t *conflict = NULL;
    *answer = NULL;
    d.tail = &d.rows;
    d.keep_loser = keep && !strcmp(keep, "loser");
    d.split = json_is_true(json_object_get(how, "split"));
    if (how && (!s->app_open || s->flights || s->delivered_count || store_barrier(s) != 1)) {
        *answer = json_pack("{s:b}", "retry", 1);
        return 0;
    }
    int err = conflicts_find(s, id, &d.lost, &conflict);
    bool decided = err == 1 && (!how || !(err = decide(&d)));
    if (decided)
        *answer = json_pack("{s:b, s:O, s:i}", "done", 1, "conflict", conflict, "rows", (int)d.count);
    else if (err == 0)
        *answer = json_pack("{s:b}", "unknown", 1);
    else if (err == REFUSED)
        *answer = json_pack("{s:s}", "error", d.why);
    else if (err == LATER)
        *answer = json_pack("{s:b}", "retry", 1);
    json_decref(conflict);
    HASH_CLEAR(hh, d.by_name);
    HASH_CLEAR(hh, d.offered);
    arena_release(&d.arena);
    free((void *)(uintptr_t)d.lost.who.key);
    return err < 0 ? err : 0;
}
