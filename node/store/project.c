/* What is merged, into the application's file. The happy path: alone with the file (appfile_begin), the last note is our mark, the ops of
 * the flights in order, the mark row, old notes trimmed, COMMIT; then, with the lock released, the WAL is synced, and only then our
 * state takes note. A crash in between finds the flights again, and the mark in the application's file says which of them are there.
 *
 * Rows in `pending` are not written by ops but from the registers, their values from the log: rows that a drain touched in between, held
 * parts, parked rows that are tried again. What breaks a constraint is parked: kept, said in status, tried again later. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/outdated.h"
#include "node/store/report.h"
#include "node/store/same.h"
#include "proto/err.h"

#define TRIM_NOTES 4000
#define MEND_ROUNDS 12 /* a mend may lead to another; what then still fails is parked */
#define AGAIN_MAX (MEND_ROUNDS + 8)

void flight_free(struct store *s, struct flight *f) {
    (void)s;
    free(f->ops);
    arena_release(&f->arena);
    batch_reader_free(f->reader);
    bytes_unref(f->batch);
    buf_release(&f->before);
    free(f);
}

/* ---- ops */

#define NOT_SHOWN "what it refers to is not shown here yet"

struct projecting {
    struct store *s;
    const uint32_t *mapped; /* the columns array that `at` belongs to */
    struct tio *mapped_io;
    uint32_t *at;          /* its columns as indexes into io's order; UINT32_MAX: not here */
    uint32_t at_cap, here; /* how many are here */
    bool whole;            /* they are all of io's columns */
    sqlite3_stmt *update;
    struct arena arena;
    bool parked; /* something new was parked, or got a place: to be durable before COMMIT */
    bool last;   /* what fails now is mended, or parked */
    char why[300];
    bool can_move; /* rows may get other numbers: the mark will tell this projection from any other */
    int64_t seq;   /* that it will say */
};

static int map_columns(struct projecting *p, struct tio *io, const uint32_t *columns, uint32_t count) {
    if (p->mapped == columns && p->mapped_io == io && columns)
        return 0;
    if (count > p->at_cap) {
        uint32_t *at = realloc(p->at, count * sizeof *at);
        if (!at)
            return ERR_NOMEM;
        p->at = at;
        p->at_cap = count;
    }
    p->here = 0;
    for (uint32_t i = 0; i < count; i++) {
        p->at[i] = columns[i] < io->by_number_count && io->by_number[columns[i]] ? io->by_number[columns[i]] - 1 : UINT32_MAX;
        p->here += p->at[i] != UINT32_MAX;
    }
    p->whole = p->here == io->count;
    p->mapped = columns;
    p->mapped_io = io;
    p->update = NULL;
    return 0;
}

/* A trigger that feeds a virtual table may fail by what that one holds: then the row is parked, with its words. */
static int run_write(struct store *s, const struct tio *io, sqlite3_stmt *stmt) {
    int err = sql_run(stmt);
    bool fed = io->table->feeds && (err == ERR_INTERNAL || sqlite3_extended_errcode(s->app.writer) == SQLITE_CORRUPT_VTAB);
    return err && fed ? ERR_CONSTRAINT : err;
}

/* A row with some columns only: the others take their defaults. */
static int insert_some(struct projecting *p, struct tio *io, int64_t number_as, const struct value *values, uint32_t count) {
    sqlite3_str *q = sqlite3_str_new(p->s->app.writer);
    bool number = io->table->key_kind != KEY_COLUMNS;
    sqlite3_str_appendf(q, "INSERT%s INTO main.\"%w\"(", tables_or_abort(io), io->table->name);
    if (number)
        sqlite3_str_appendf(q, "\"%w\"", io->table->key_kind == KEY_ROWID ? io->table->rowid : io->table->columns[io->table->key[0]].name);
    uint32_t n = number;
    for (uint32_t i = 0; i < count; i++)
        if (p->at[i] != UINT32_MAX)
            sqlite3_str_appendf(q, "%s\"%w\"", n++ ? "," : "", io->names[p->at[i]]);
    sqlite3_str_appendall(q, ") VALUES(");
    for (uint32_t i = 0; i < n; i++)
        sqlite3_str_appendall(q, i ? ",?" : "?");
    sqlite3_str_appendall(q, ")");
    char *text = sqlite3_str_finish(q);
    sqlite3_stmt *stmt = NULL;
    int err = text ? sql_prepare(p->s->app.writer, &stmt, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    if (err)
        return err;
    int place = 1;
    if (number)
        sqlite3_bind_int64(stmt, place++, number_as);
    for (uint32_t i = 0; i < count; i++)
        if (p->at[i] != UINT32_MAX)
            sql_bind_value(stmt, place++, &values[i]);
    err = run_write(p->s, io, stmt);
    sqlite3_finalize(stmt);
    return err;
}

static int write_insert(struct projecting *p, struct tio *io, const struct rowid *who, const uint32_t *columns, struct value *values,
                        uint32_t count) {
    int err = io->key_ref ? refs_key_settled(p->s, io, who) : 0;
    if (!err)
        err = refs_settled(p->s, values, count);
    if (err || (err = map_columns(p, io, columns, count)))
        return err;
    for (uint32_t i = 0; i < count && io->key_refs && err >= 0; i++)
        if (p->at[i] != UINT32_MAX && io->table->columns[io->order[p->at[i]]].key_place)
            err = refs_in_file(p->s, &values[i], 1);
    if (err < 0)
        return err;
    int64_t number = numbers_shown(io->tbl, who);
    bool made = false;
    err = io->table->key_kind == KEY_ROWID ? keyless_reserve(p->s, io, who, &number, &made) : 0;
    p->parked = p->parked || made;
    if (err)
        return err;
    if (!p->whole)
        return insert_some(p, io, number, values, count);
    int first = 1;
    if (io->table->key_kind != KEY_COLUMNS)
        sqlite3_bind_int64(io->insert, first++, number);
    for (uint32_t i = 0; i < count; i++)
        if (p->at[i] != UINT32_MAX)
            sql_bind_value(io->insert, first + (int)p->at[i], &values[i]);
    return run_write(p->s, io, io->insert);
}

static int write_update(struct projecting *p, struct tio *io, const struct rowid *who, const uint32_t *columns, struct value *values,
                        uint32_t count) {
    int err = refs_settled(p->s, values, count);
    if (err || (err = map_columns(p, io, columns, count)) || !p->here || (io->kids_count && (err = foreign_before(p->s, io, who))))
        return err;
    if (!p->update) {
        uint32_t at[BATCH_COLUMNS_MAX], n = 0;
        for (uint32_t i = 0; i < count; i++)
            if (p->at[i] != UINT32_MAX)
                at[n++] = p->at[i];
        if ((err = tables_update_stmt(p->s, io, at, n, &p->update)))
            return err;
    }
    sqlite3_stmt *stmt = p->update;
    p->update = NULL; /* the small cache of statements may give it away */
    int place = 1;
    for (uint32_t i = 0; i < count; i++)
        if (p->at[i] != UINT32_MAX)
            sql_bind_value(stmt, place++, &values[i]);
    if ((err = tables_bind_place(io, stmt, place, who)) < 0)
        return err;
    if ((err = run_write(p->s, io, stmt)))
        return err;
    return sqlite3_changes(p->s->app.writer) ? 0 : ERR_NOTFOUND;
}

static int write_delete(struct store *s, struct tio *io, const struct rowid *who) {
    int err = io->kids_count ? foreign_before(s, io, who) : 0;
    if (err || (err = tables_bind_place(io, io->del, 1, who)) < 0)
        return err;
    return run_write(s, io, io->del);
}

/* ---- rows from the registers */

static int value_of(struct projecting *p, struct tbl *t, const struct reg *r, const struct cell *c, const struct rowid *who,
                    struct value *v) {
    const struct write *w = &r->writes[c->write];
    int err = values_find(p->s, w->origin, w->version, t, who, c->column, c->hash, v);
    if (err || !v->p)
        return err;
    uint8_t *copy = arena_alloc(&p->arena, v->len + 1); /* the cache of values may give it up before it is written */
    if (!copy)
        return ERR_NOMEM;
    memcpy(copy, v->p, v->len);
    v->p = copy;
    return 0;
}

/* What the file holds of the row now, inside this transaction: no note is undrained, so every difference from the registers is to be shown. */
static int look_at(struct projecting *p, struct pending_row *row, uint64_t *hashes) {
    struct tio *io = row->tbl->io;
    struct row_look look = {.io = io, .place = row->who};
    int err = drain_look(p->s, &look, io->peek);
    for (uint32_t i = 0; i < io->count && !err && look.present; i++)
        hashes[i] = value_hash(&look.values[i]);
    sqlite3_reset(io->peek);
    if (!row->looked)
        row->before = row->present;
    row->looked = true;
    row->present = look.present;
    return err;
}

/* A register that was told another number than the row has now that is meant. */
static int renumber_cell(struct projecting *p, struct tbl *t, struct reg *r, const struct cell *c, const struct value *v, bool home) {
    struct store *s = p->s;
    struct value number = {.type = VALUE_INT, .as.i = v->as.i};
    uint32_t at = t->io->by_number[c->column] - 1;
    uint64_t hash = value_hash(&number);
    int err = tables_converts(t->io, at, &number) ? tables_convert(s, t->io, at, &number, &hash) : 0;
    if (err || hash == c->hash)
        return err;
    rows_account(s, t, &r->who, r, NULL);
    r->cells[c - r->cells].hash = hash;
    rows_account(s, t, &r->who, NULL, r);
    p->parked = true;
    return (err = state_begin(s)) ? err : rows_store(s, t, &r->who, r, home);
}

/* The columns whose value is not what the file holds (hashes NULL: all). 1: what it refers to is not shown yet. */
static int gather(struct projecting *p, struct tbl *t, struct reg *r, bool home, const struct pending_row *row, const uint64_t *hashes,
                  uint32_t **columns, struct value **values, uint32_t *count) {
    struct origins_order o = store_order(p->s);
    *count = 0;
    *columns = arena_alloc(&p->arena, (t->columns_count + 1) * sizeof **columns);
    *values = arena_alloc(&p->arena, (t->columns_count + 1) * sizeof **values);
    if (!*columns || !*values)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < t->io->count; i++) {
        const struct cell *c = reg_winner(r, t->io->numbers[i], &o);
        bool same = hashes && c && hashes[i] == c->hash;
        if (!c || (same && !t->io->ref_to[i])) /* an equal number may mean another row */
            continue;
        struct value *v = &(*values)[*count];
        int err = value_of(p, t, r, c, &row->who, v);
        if (same && (err == ERR_NOTFOUND || (!err && v->type != VALUE_REF)))
            continue;
        if (!err && v->type == VALUE_REF && (err = refs_show(p->s, v, 1)) == 2)
            err = refs_gone(p->s, t, &row->who, &r->writes[c->write], v);
        if (!err && v->type == VALUE_REF)
            err = renumber_cell(p, t, r, c, v, home);
        if (err)
            return err;
        if (!hashes || hashes[i] != c->hash)
            (*columns)[(*count)++] = c->column;
    }
    return 0;
}

static int park(struct projecting *p, struct pending_row *row, const char *why) {
    if (renumber_planned(p->s) || (strcmp(why, NOT_SHOWN) == 0 && mend_planned(p->s))) /* all of this is done again */
        return 0;
    int err = state_begin(p->s);
    p->parked = true;
    return err ? err : pending_park(p->s, row, why);
}

/* The file does not take the row, whatever the order. 0 a mend is planned, 1 no: the reason is in p->why. */
static int refused(struct projecting *p, const struct op *op) {
    int code = sqlite3_extended_errcode(p->s->app.writer);
    snprintf(p->why, sizeof p->why, "%s%s", sqlite3_errmsg(p->s->app.writer),
             code == SQLITE_CORRUPT_VTAB ? " in a full-text index that its triggers fill: rebuild that one" : "");
    int mended = mend_row(p->s, op, code, p->why);
    return mended < 0 ? mended : !mended;
}

/* Who wrote the newest of what is known of a row. */
static uint32_t last_author(const struct reg *r) {
    struct stamp newest = r->died.origin != UINT32_MAX && r->died.at > r->inserted.at ? r->died : r->inserted;
    for (uint32_t i = 0; i < r->writes_count; i++)
        if (r->writes[i].at > newest.at)
            newest = (struct stamp){r->writes[i].at, r->writes[i].origin};
    return newest.origin;
}

enum { SETTLED = 2 };

/* A living row that the file does not show under the number, or key, that it is to have. 0: it may be written there now; 1: not yet; SETTLED: not in
 * this projection. */
static int find_place(struct projecting *p, struct pending_row *row, struct reg *r, bool home) {
    struct store *s = p->s;
    struct tbl *t = row->tbl;
    struct origins_order o = store_order(s);
    struct rowid place = row->who;
    int err = 0;
    r->who = row->who;
    if (place.text && t->io->key_refs) {
        struct value key[16];
        int n = tables_key_values(&place, key, 16);
        for (int i = 0; i < n && !err; i++) {
            const struct cell *c = reg_winner(r, t->io->numbers[i], &o);
            err = key[i].type == VALUE_REF ? refs_show(s, &key[i], 1) : 0;
            if (err == 2)
                err = c ? refs_gone(p->s, t, &row->who, &r->writes[c->write], &key[i]) : 0;
        }
        if (n < 0 || err)
            return n < 0 ? n : err < 0 ? err : !p->last ? 1 : (err = park(p, row, NOT_SHOWN)) ? err : SETTLED;
    }
    if (!place.text && t->io->key_ref && (err = numbers_wait(s, t->io->key_ref, &row->who)) == 2)
        err = (err = mend_revive_row(s, t->io->key_ref, &row->who)) < 0 ? err : 1;
    if (err)
        return err < 0 ? err : !p->last ? 1 : (err = park(p, row, NOT_SHOWN)) ? err : SETTLED;
    if (!place.text)
        place.number = numbers_wanted(s, t, r);
    if (home && (place.text || place.number == numbers_shown(t, &row->who)))
        return 0;
    err = pending_home_taken(s, t, &place);
    if (err == 2 && !p->last) /* who is there moves, too; perhaps the two change places */
        return home && p->can_move && (err = renumber_want(s, t, &row->who, place.number)) ? err : 1;
    if (err < 0)
        return err;
    if (err == 1 && !place.text && !t->io->key_ref && reg_alive(&s->reg2, &o) && (err = renumber_clash(s, t, r, &s->reg2)) != 0)
        return err < 0 ? err : SETTLED;
    if (err || (!home && row->moves && numbers_shown(t, &row->who) == place.number))
        return err ? (err = park(p, row, "its number belongs to another row here")) ? err : SETTLED : 0;
    bool plain = place.text || (!home && place.number == row->who.number);
    if (!plain && !p->can_move)
        return SETTLED;
    if (home) {
        if (p->last) {
            err = park(p, row, "its number belongs to another row here");
            return err ? err : SETTLED;
        }
        return (err = renumber_want(s, t, &row->who, place.number)) ? err : 1;
    }
    row->moves = true; /* once the file shows it there */
    if (place.text)
        return 0;
    if (plain)
        return numbers_show_at(s, t, &row->who, place.number, 0);
    p->parked = true;
    return (err = state_begin(s)) ? err : numbers_show_at(s, t, &row->who, place.number, p->seq);
}

static int show_row(struct projecting *p, struct pending_row *row) {
    struct store *s = p->s;
    struct tbl *t = row->tbl;
    struct reg *r = &s->reg;
    struct origins_order o = store_order(s);
    bool home;
    if (!t->io && moves_gone(s, t)) { /* when it comes again, all that it lacks is shown */
        row->done = true;
        row->holds = false;
        return 0;
    }
    if (!t->io)
        return park(p, row, "the application has no such table here, or its key is of another kind");
    int err = rows_find(s, t, &row->who, r, &home);
    if (err)
        return err;
    bool alive = reg_alive(r, &o) && !same_is_junior(s, t, &row->who);
    if (alive && (err = find_place(p, row, r, home)) != 0)
        return err == SETTLED ? 0 : err;
    struct rowid other;
    bool taken = !alive && !row->who.text && t->tentative && numbers_at(t, numbers_shown(t, &row->who), &other) == 1;
    if (!alive && (!home || taken)) { /* it has no place here, and needs none; or another row is there already */
        row->done = true;
        row->holds = false;
        return 0;
    }
    uint32_t *columns = NULL, count = 0;
    struct value *values = NULL;
    uint64_t *hashes = arena_alloc(&p->arena, (t->io->count + 1) * sizeof *hashes);
    if (!hashes)
        return ERR_NOMEM;
    p->mapped = NULL;
    bool had = row->looked ? row->before : row->present;
    if ((err = look_at(p, row, hashes))) {
        arena_release(&p->arena);
        return err;
    }
    if (t->io->key_refs && row->present && !had) { /* the key is that of a row which refers to another one that had this number */
        row->present = false;
        if (alive) {
            arena_release(&p->arena);
            return p->last ? park(p, row, "its key belongs to another row here") : 1;
        }
    }
    if (row->moves && row->present) { /* another row that moves was first */
        row->present = row->moves = false;
        arena_release(&p->arena);
        if ((err = numbers_hide_row(s, t, &row->who)))
            return err;
        return park(p, row, "its number belongs to another row here");
    }
    if (!alive) {
        err = row->present ? write_delete(s, t->io, &row->who) : 0;
    } else if (!(err = gather(p, t, r, home, row, row->present ? hashes : NULL, &columns, &values, &count)) && count) {
        err = row->present ? write_update(p, t->io, &row->who, columns, values, count)
                           : write_insert(p, t->io, &row->who, columns, values, count);
    }
    p->mapped = NULL;
    bool waits = err == 1;
    struct op op = {.kind = alive ? row->present ? CHANGE_UPDATE : CHANGE_INSERT : CHANGE_DELETE, .tbl = t, .who = row->who};
    if (alive) {
        op.count = count;
        op.columns = columns;
        op.values = values;
    }
    if (!err && s->watched && (alive ? count : row->present))
        report_remote(s, last_author(r), &op);
    else if (err == ERR_CONSTRAINT && p->last)
        err = refused(p, &op);
    arena_release(&p->arena);
    if ((err == ERR_CONSTRAINT || err == 1) && !home) {
        int hidden = numbers_hide_row(s, t, &row->who);
        if (hidden)
            return hidden;
        row->moves = false;
    }
    if (waits && p->last)
        return park(p, row, NOT_SHOWN);
    if (err == ERR_CONSTRAINT || err == 1)
        return 1;
    if (err == ERR_NOTFOUND)
        return park(p, row, "its value is not in the log any more");
    if (!err) {
        row->done = true;
        row->holds = alive;
    }
    return err;
}

/* ---- what broke a constraint: perhaps only in this order (a swap of UNIQUE values): out with all of them, and in again in final form */

static int put_back(struct projecting *p, struct pending_row **rows, uint32_t count) {
    struct store *s = p->s;
    struct origins_order o = store_order(s);
    int err = sql_exec(s->app.writer, "SAVEPOINT starling_swap");
    if (err)
        return err;
    for (uint32_t i = 0; i < count && !err; i++)
        if (rows[i]->present)
            err = write_delete(s, rows[i]->tbl->io, &rows[i]->who);
    for (uint32_t i = 0; i < count && !err; i++) {
        bool home;
        rows[i]->holds = false;
        rows[i]->done = true;
        if (!(err = rows_find(s, rows[i]->tbl, &rows[i]->who, &s->reg, &home)) && reg_alive(&s->reg, &o)) {
            rows[i]->done = false; /* it may be parked */
            err = show_row(p, rows[i]);
        }
    }
    if (err)
        sql_exec(s->app.writer, "ROLLBACK TO starling_swap");
    sql_exec(s->app.writer, "RELEASE starling_swap");
    for (uint32_t i = 0; i < count && err; i++) {
        int hidden = rows[i]->moves ? numbers_hide_row(s, rows[i]->tbl, &rows[i]->who) : 0;
        if (hidden)
            return hidden;
        rows[i]->done = rows[i]->moves = false;
    }
    return err;
}

static int retry_rows(struct projecting *p, struct pending_row **rows, uint32_t count) {
    for (bool progress = true; progress && count;) {
        progress = false;
        for (uint32_t i = 0; i < count;) {
            int err = show_row(p, rows[i]);
            if (err < 0)
                return err;
            if (err == 0) {
                rows[i] = rows[--count];
                progress = true;
            } else {
                i++;
            }
        }
        int moved = renumber_move(p->s, p->seq); /* what these rows asked for */
        if (moved < 0)
            return moved;
        progress = progress || moved;
        p->parked = p->parked || moved;
    }
    if (count > 1 && put_back(p, rows, count) == 0)
        return 0;
    p->last = true;
    for (uint32_t i = 0; i < count; i++) {
        int err = show_row(p, rows[i]); /* once more: to be mended, or for the reason */
        if (err == 1)
            err = mend_planned(p->s) ? 0 : park(p, rows[i], p->why); /* tried again with the mend */
        if (err < 0)
            return err;
    }
    return 0;
}

static int retry_failed(struct projecting *p, struct pending_row *const *all, uint32_t count) {
    if (!count)
        return 0;
    struct pending_row **rows = malloc(count * sizeof(struct pending_row *));
    if (!rows)
        return ERR_NOMEM;
    memcpy(rows, all, count * sizeof(struct pending_row *));
    int err = retry_rows(p, rows, count);
    free(rows);
    return err;
}

/* ---- one projection */

struct failed {
    struct pending_row **rows;
    uint32_t count, cap;
};

static int failed_add(struct store *s, struct failed *f, struct pending_row *row) {
    if (f->count == f->cap) {
        uint32_t cap = f->cap ? f->cap * 2 : 16;
        struct pending_row **p = realloc(f->rows, cap * sizeof(struct pending_row *));
        if (!p)
            return ERR_NOMEM;
        f->rows = p;
        f->cap = cap;
    }
    pending_own(s, row);
    row->queued = true;
    f->rows[f->count++] = row;
    return 0;
}

static int write_op(struct projecting *p, const struct op *op) {
    switch (op->kind) {
    case CHANGE_INSERT: return write_insert(p, op->tbl->io, &op->who, op->columns, op->values, op->count);
    case CHANGE_UPDATE: return write_update(p, op->tbl->io, &op->who, op->columns, op->values, op->count);
    case CHANGE_DELETE: return write_delete(p->s, op->tbl->io, &op->who);
    default: return ERR_CONSTRAINT; /* from the registers */
    }
}

int project_write(struct store *s, const struct op *op) {
    struct projecting p = {.s = s};
    int err = write_op(&p, op);
    free(p.at);
    return err;
}

int project_try(struct store *s, const struct op *op) {
    int err = project_write(s, op);
    foreign_forget(s);
    return err;
}

static int write_flight(struct projecting *p, struct flight *f, struct failed *failed) {
    struct store *s = p->s;
    for (uint32_t i = 0; i < f->ops_count; i++) {
        struct op *op = &f->ops[i];
        struct pending_row *row = s->pending ? pending_find(s, op->tbl, &op->who) : NULL;
        if (row && !row->mapped)
            continue; /* from the registers, later */
        int err = op->tbl->io ? write_op(p, op) : ERR_CONSTRAINT;
        if (err == ERR_CONSTRAINT || err == ERR_NOTFOUND) {
            bool mapped = s->flights_mapped;
            if ((err = pending_map_flights(s)))
                return err;
            if (!mapped)
                s->flights_mapped = true;
            row = pending_find(s, op->tbl, &op->who);
            if (!row)
                return ERR_INTERNAL;
            err = failed_add(s, failed, row);
        } else if (!err && s->watched) {
            report_remote(s, f->origin, op);
        }
        if (err)
            return err;
    }
    return 0;
}

static int write_pending(struct projecting *p, struct failed *failed, int64_t seq) {
    struct pending_row *row, *next;
    uint32_t n = 0;
    int err = 0;
    HASH_ITER(hh, p->s->pending, row, next) {
        if (!pending_wants_showing(row) || row->done || row->queued || (row->waits && row->behind > seq && p->s->flights))
            continue;
        if (n++ >= BATCH_ROWS_MAX)
            break;
        err = show_row(p, row);
        if (err == 1)
            err = failed_add(p->s, failed, row);
        if (err < 0)
            return err;
    }
    return retry_failed(p, failed->rows, failed->count);
}

static int write_mark(struct store *s, int64_t seq) {
    sqlite3_bind_blob(s->w_mark, 1, s->state_id, sizeof s->state_id, SQLITE_STATIC);
    sqlite3_bind_int64(s->w_mark, 2, seq);
    sqlite3_bind_int64(s->w_mark, 3, s->durable_note < s->hot.note_seq ? s->durable_note : s->hot.note_seq);
    int err = sql_run(s->w_mark);
    if (err)
        return err;
    int64_t durable = s->durable_note < s->hot.note_seq ? s->durable_note : s->hot.note_seq;
    if (durable - s->trimmed_note < TRIM_NOTES / 4) /* seldom: it makes the lock last longer */
        return 0;
    s->trimmed_note = durable;
    sqlite3_bind_int64(s->w_trim, 1, durable);
    sqlite3_bind_int64(s->w_trim, 2, TRIM_NOTES);
    return sql_run(s->w_trim);
}

static bool anything_to_show(struct store *s) {
    if (s->flights)
        return true;
    struct pending_row *row, *next;
    HASH_ITER(hh, s->pending, row, next) {
        if (pending_wants_showing(row))
            return true;
    }
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (numbers_sequence_behind(&s->tios[i]))
            return true;
    return false;
}

void project_all_shown(struct store *s) {
    if (s->flights || s->held_count || anything_to_show(s))
        return;
    moves_shown(s);
    for (uint32_t i = 0; i < s->origins_count; i++)
        if (s->origins[i].shown != s->origins[i].version) {
            s->origins[i].shown = s->origins[i].version;
            s->origins[i].changed = true;
        }
}

/* Rows that are one with another now have no number of their own any more; requests that are under way may know them by it. */
static int note_left_numbers(struct store *s) {
    struct pending_row *row, *next;
    int err = 0;
    HASH_ITER(hh, s->pending, row, next) {
        bool left = row->done && row->looked && row->before && !row->holds && !row->who.text && same_is_junior(s, row->tbl, &row->who);
        if (left && !err)
            err = outdated_note(s, row->tbl, &row->who, numbers_shown(row->tbl, &row->who));
    }
    return err;
}

/* After the application's file is durable: our state takes note, unsynced. */
static int tick_off(struct store *s, int64_t seq) {
    int err = state_begin(s);
    if (err)
        return err;
    if ((err = note_left_numbers(s)) || (err = renumber_done(s)))
        return err;
    struct pending_row *row, *next;
    bool more = s->hot.flight_seq > seq && s->flights; /* there are flights behind those that were shown */
    HASH_ITER(hh, s->pending, row, next) {
        if (row->done && row->moves) {
            bool home;
            if ((err = rows_find(s, row->tbl, &row->who, &s->reg, &home)) || (!home && (err = pending_take_home(s, row, &s->reg))))
                return err;
        }
        row->looked = row->moves = false;
        if (row->done && ((err = unify_left(s, row)) || (err = pending_done(s, row, seq, more))))
            return err;
    }
    sqlite3_bind_int64(s->s_flight_del, 1, seq);
    if ((err = sql_run(s->s_flight_del)))
        return err;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (numbers_sequence_behind(&s->tios[i]))
            s->tios[i].sequence = s->tios[i].tbl->top;
    s->hot.projected_seq = seq;
    s->hot.shown_ms = store_wall_ms(s);
    shown_keep(s, s->hot.shown_ms);
    while (s->flights && s->flights->seq <= seq) {
        struct flight *f = s->flights;
        s->projected_rows += f->ops_count;
        if (s->origins[f->origin].shown == f->version - 1) { /* what is before it may still be pending row by row */
            s->origins[f->origin].shown = f->version;
            s->origins[f->origin].changed = true;
        }
        s->flights = f->next;
        s->flights_bytes -= f->bytes;
        flight_free(s, f);
    }
    if (!s->flights)
        s->flights_tail = &s->flights;
    pending_unmap_flights(s); /* what is still in flight is mapped again, when a drain needs it */
    project_all_shown(s);
    s->stored_changed = true;
    return 0;
}

/* Has nobody committed since the last drain looked? The head of the WAL's index tells without a lock. */
static bool quiet_since_drain(struct store *s) {
    struct appfile_head now;
    return s->head_known && appfile_head(&s->app, &now) && memcmp(now.index, s->head.index, sizeof now.index) == 0;
}

int project_undisturbed(struct store *s) {
    if (quiet_since_drain(s))
        return 1;
    int row = sql_step(s->w_last);
    if (row < 0)
        return row;
    bool same = row ? sqlite3_column_int64(s->w_last, 0) == s->hot.note_seq : s->hot.note_seq == 0;
    sqlite3_reset(s->w_last);
    if (!same)
        return 0;
    row = sql_step(s->a_version[1]);
    if (row < 0)
        return row;
    same = sqlite3_column_int64(s->a_version[1], 0) == s->schema.version;
    sqlite3_reset(s->a_version[1]);
    return same ? 1 : ERR_SCHEMA;
}

/* Rows whose deletion was parked: what the file holds of them, now that no note is undrained. */
static int recount_parked(struct projecting *p) {
    struct pending_row *row, *next;
    HASH_ITER(hh, p->s->pending, row, next) {
        if (!row->recount || !row->tbl->io)
            continue;
        struct tio *io = row->tbl->io;
        uint64_t *hashes = arena_alloc(&p->arena, (io->count + 1) * sizeof *hashes);
        struct shown_cell *cells = arena_alloc(&p->arena, (io->count + 1) * sizeof *cells);
        int err = hashes && cells ? look_at(p, row, hashes) : ERR_NOMEM;
        for (uint32_t i = 0; i < io->count && !err; i++)
            cells[i] = (struct shown_cell){io->numbers[i], hashes[i]};
        if (err || (err = state_begin(p->s)) || (err = pending_cells(p->s, row, cells, row->present ? io->count : 0)))
            return err;
        row->recount = false;
        p->parked = true;
    }
    return 0;
}

/* Under the write lock. 0, PROJECT_DRAIN, PROJECT_AGAIN, or an error. */
static int project_locked(struct store *s, int64_t *mark) {
    int64_t seq = *mark;
    int same = project_undisturbed(s);
    if (same < 0)
        return same;
    if (!same) {
        if (s->project_tries++ < 3)
            return PROJECT_DRAIN;
        int err = drain(s, true); /* the fourth time under the lock, so that a busy application cannot keep us out for ever */
        if (err < 0 || err == DRAIN_RESCAN || err == DRAIN_MORE)
            return err < 0 ? err : PROJECT_DRAIN;
    }
    for (uint32_t i = 0; i < s->tios_count; i++)
        s->tios[i].next_rowid = 0;
    bool shows = s->flights && s->flights->seq <= seq;
    struct projecting p = {.s = s, .seq = shows || s->flights ? seq : s->hot.flight_seq + 1, .can_move = shows || !s->flights};
    struct failed failed = {0};
    renumber_forget(s);
    int err = recount_parked(&p);
    for (struct flight *f = s->flights; f && f->seq <= seq && !err; f = f->next)
        err = write_flight(&p, f, &failed);
    if (!err && (s->pending || failed.count))
        err = write_pending(&p, &failed, seq);
    for (uint32_t i = 0; i < failed.count; i++)
        failed.rows[i]->queued = false;
    free(failed.rows);
    err = err || mend_planned(s) || !s->foreigns_count ? err : foreign_check(s, seq);
    err = err || mend_planned(s) || !s->mending ? err : alike_check(s, seq);
    if (err == 1 || (!err && (mend_planned(s) || renumber_planned(s))))
        err = PROJECT_AGAIN;
    foreign_forget(s);
    free(p.at);
    arena_release(&p.arena);
    if (!err)
        err = numbers_raise_sequences(s);
    if (!err && p.parked) {
        if (p.seq > s->hot.flight_seq)
            *mark = s->hot.flight_seq = p.seq;
        if (!(err = state_commit(s)))
            err = state_sync(
                s); /* the one sync under the lock: what is parked must be known as parked once the mark says that it was shown */
    }
    return err ? err : write_mark(s, *mark);
}

/* The projection was taken back: the file shows what it showed before. */
static int not_done(struct store *s) {
    struct pending_row *row, *next;
    int err = renumber_undo(s);
    HASH_ITER(hh, s->pending, row, next) {
        row->done = row->moves = false;
        if (!row->looked)
            continue;
        row->looked = false;
        bool same = row->present == row->before;
        row->present = row->before;
        if (!same && row->stored && !err && !(err = state_begin(s)))
            err = pending_store(s, row);
    }
    return err;
}

/* Does somebody read? Who reads on and on is not waited for any longer. */
static bool read_by_others(struct store *s, bool *impatient) {
    int64_t limit = s->config.readers_wait_ms ? s->config.readers_wait_ms : 10000, now = store_mono_us() / 1000;
    if (!appfile_readers(&s->app))
        return false;
    if (!s->readers_since_ms)
        s->readers_since_ms = now;
    *impatient = now - s->readers_since_ms >= limit;
    return true;
}

static uint32_t rows_to_show(const struct store *s, int64_t seq) {
    uint32_t rows = (uint32_t)HASH_COUNT(s->pending);
    for (const struct flight *f = s->flights; f && f->seq <= seq; f = f->next)
        rows += f->ops_count;
    return rows;
}

/* Taken back, since rows had to be parked or mended. That is noted, without the lock, and the rest is written again. */
static int note_parked(struct store *s) {
    int err = appfile_sync(&s->app, s->app.writer); /* a drain under the lock is in the same transaction of the state */
    if (err || (err = not_done(s)) || (err = renumber_write(s)) || (err = state_begin(s)) || (err = mend_write(s)) ||
        (err = state_commit(s)) || (err = state_sync(s)))
        return err;
    s->durable_note = s->hot.note_seq;
    return 0;
}

static int take_back(struct store *s, int result) {
    appfile_rollback(&s->app);
    int err = not_done(s);
    return err ? err : result;
}

/* One transaction of the application's file. 0: committed. */
static int project_once(struct store *s, int64_t *seq, bool impatient) {
    int64_t began = store_mono_us();
    int err = appfile_begin(&s->app, !impatient);
    if (err)
        return err == ERR_BUSY ? PROJECT_WAIT : err;
    if (rows_to_show(s, *seq) > PROJECT_ROWS) /* for so long only writers are kept out */
        appfile_let_in(&s->app);
    err = project_locked(s, seq);
    if (err || (err = appfile_commit(&s->app))) /* busy in DELETE mode, and somebody reads: a refused COMMIT would shut everybody out */
        err = take_back(s, err == ERR_BUSY ? PROJECT_WAIT : err);
    store_lock_time(s, store_mono_us() - began);
    return err;
}

int project(struct store *s) {
    bool impatient = false;
    if (!s->app_open || s->held_project || !anything_to_show(s) || (project_blocked(s) && !s->pending))
        return PROJECT_NOTHING;
    if (renumber_waits(s) || (read_by_others(s, &impatient) && !impatient))
        return PROJECT_WAIT;
    if (s->head_known && s->project_tries < 3 && !quiet_since_drain(s)) { /* not even the lock: the application has committed meanwhile */
        s->project_tries++;
        return PROJECT_DRAIN;
    }
    int64_t seq = project_last_flight(s);
    int err;
    for (int i = 0;; i++) {
        s->mending = i < MEND_ROUNDS;
        err = project_once(s, &seq, impatient);
        s->mending = false;
        if (err == PROJECT_AGAIN && renumber_left(s) && !mend_planned(s))
            err = PROJECT_WAIT;
        if (err != PROJECT_AGAIN)
            break;
        if ((err = note_parked(s)) || i == AGAIN_MAX)
            return err ? err : PROJECT_DRAIN;
    }
    mend_forget(s);
    if (err)
        return err;
    s->project_tries = 0;
    s->readers_since_ms = 0;
    if ((err = appfile_sync(&s->app, s->app.writer)) || (err = tick_off(s, seq)))
        return err;
    shown_push(s);
    return PROJECT_DONE;
}
