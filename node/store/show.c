/* One row into the application's file: by an op of a flight, or as the registers say, its values from the log. What it refers to is written by the number
 * that it has here; what has no place yet, or refers to what has none, waits for it; what a constraint refuses is mended, or parked. */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include "node/store/keyed.h"
#include "node/store/mend.h"
#include "node/store/project.h"
#include "node/store/report.h"
#include "node/store/same.h"
#include "proto/err.h"

/* ---- ops */

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

/* Of the columns that are mapped, those that are here. */
static uint32_t columns_here(const struct projecting *p, uint32_t count, uint32_t at[BATCH_COLUMNS_MAX]) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++)
        if (p->at[i] != UINT32_MAX)
            at[n++] = p->at[i];
    return n;
}

/* A row with some columns only: the others take their defaults. */
static int insert_some(struct projecting *p, struct tio *io, int64_t number, const struct value *values, uint32_t count) {
    uint32_t at[BATCH_COLUMNS_MAX];
    sqlite3_stmt *stmt;
    int place = 1, err = tables_insert_stmt(p->s, io, at, columns_here(p, count, at), &stmt);
    if (err)
        return err;
    if (io->table->key_kind != KEY_COLUMNS)
        sqlite3_bind_int64(stmt, place++, number);
    for (uint32_t i = 0; i < count; i++)
        if (p->at[i] != UINT32_MAX)
            sql_bind_value(stmt, place++, &values[i]);
    return run_write(p->s, io, stmt);
}

/* A given key is written whole: a row may have been told before the application renamed a column of it here. */
static int add_key(struct projecting *p, struct tio *io, const struct rowid *who, const uint32_t *columns, struct value **values,
                   uint32_t *count) {
    uint32_t keys = io->table->key_kind == KEY_COLUMNS ? io->table->key_count : 0, told = 0;
    for (uint32_t i = 0; i < *count; i++)
        told += p->at[i] < keys;
    if (told == keys)
        return 0;
    struct value key[16], *all = arena_alloc(&p->arena, (*count + keys) * sizeof *all);
    uint32_t *numbers = arena_alloc(&p->arena, (*count + keys) * sizeof *numbers);
    int n = all && numbers ? tables_key_values(who, key, 16) : ERR_NOMEM;
    if (n < 0 || (uint32_t)n != keys)
        return n < 0 ? n : ERR_CONSTRAINT;
    memcpy(all, *values, *count * sizeof *all);
    memcpy(numbers, columns, *count * sizeof *numbers);
    for (uint32_t k = 0; k < keys; k++) {
        bool is = false;
        for (uint32_t i = 0; i < *count; i++)
            is = is || numbers[i] == io->numbers[k];
        if (!is) {
            all[*count] = key[k];
            numbers[(*count)++] = io->numbers[k];
        }
    }
    *values = all;
    return map_columns(p, io, numbers, *count);
}

static int write_insert(struct projecting *p, struct tio *io, const struct rowid *who, const uint32_t *columns, struct value *values,
                        uint32_t count) {
    int err = io->key_ref ? refs_key_settled(p->s, io, who) : 0;
    if (!err)
        err = refs_settled(p->s, values, count, p->s->ahead);
    if (err || (err = map_columns(p, io, columns, count)) || (err = add_key(p, io, who, columns, &values, &count)))
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
    int err = refs_settled(p->s, values, count, p->s->ahead);
    if (err || (err = map_columns(p, io, columns, count)) || !p->here || (io->kids_count && (err = foreign_before(p->s, io, who))))
        return err;
    if (!p->update) {
        uint32_t at[BATCH_COLUMNS_MAX];
        if ((err = tables_update_stmt(p->s, io, at, columns_here(p, count, at), &p->update)))
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

int show_delete(struct store *s, struct tio *io, const struct rowid *who) {
    int err = io->kids_count ? foreign_before(s, io, who) : 0;
    if (err || (err = tables_bind_place(io, io->del, 1, who)) < 0)
        return err;
    return run_write(s, io, io->del);
}

static int write_op(struct projecting *p, const struct op *op) {
    switch (op->kind) {
    case CHANGE_INSERT: return write_insert(p, op->tbl->io, &op->who, op->columns, op->values, op->count);
    case CHANGE_UPDATE: return write_update(p, op->tbl->io, &op->who, op->columns, op->values, op->count);
    case CHANGE_DELETE: return show_delete(p->s, op->tbl->io, &op->who);
    default: return ERR_CONSTRAINT; /* from the registers */
    }
}

int show_op(struct projecting *p, const struct op *op) {
    const struct tbl *named = op->kind == CHANGE_INSERT ? op->tbl->io->key_ref : NULL;
    int waits = named && op->who.kind != IDENT_GIVEN ? numbers_wait(p->s, named, &op->who) : 0;
    return waits < 0 ? waits : waits == 2 ? ERR_CONSTRAINT /* find_place() asks why whom it is named after is dead */ : write_op(p, op);
}

int project_write(struct store *s, const struct op *op) {
    struct projecting p = {.s = s};
    int err = write_op(&p, op);
    free(p.at);
    arena_release(&p.arena);
    return err;
}

int project_try(struct store *s, const struct op *op) {
    int err = project_write(s, op);
    foreign_forget(s);
    return err;
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

int show_look(struct projecting *p, struct pending_row *row, uint64_t *hashes) {
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

/* A register that was told another number than the row has now that is meant; or before this table was here, which stores the value otherwise. */
static int tell_cell(struct projecting *p, struct tbl *t, struct reg *r, const struct cell *c, const struct value *v, bool home) {
    struct store *s = p->s;
    struct value as = *v;
    uint32_t at = t->io->by_number[c->column] - 1;
    if (v->type == VALUE_REF)
        as = (struct value){.type = VALUE_INT, .as.i = v->as.i};
    else if (!tables_converts(t->io, at, v))
        return 0;
    uint64_t hash = value_hash(&as);
    int err = tables_converts(t->io, at, &as) ? tables_convert(s, t->io, at, &as, &hash) : 0;
    if (err || hash == c->hash || (hash != value_hash(&as) && ((err = state_begin(s)) || (err = tables_note_converted(s, t->io, at)))))
        return err;
    rows_account(s, t, &r->who, r, NULL);
    r->cells[c - r->cells].hash = hash;
    rows_account(s, t, &r->who, NULL, r);
    p->parked = true;
    return (err = state_begin(s)) ? err : rows_store(s, t, &r->who, r, home);
}

int show_gather(struct projecting *p, struct tbl *t, struct reg *r, bool home, const struct pending_row *row, const uint64_t *hashes,
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
        if (!c || (same && !t->io->ref_to[i] && !(t->io->afar && t->io->afar[i]))) /* an equal number may mean another row */
            continue;
        struct value *v = &(*values)[*count];
        int err = value_of(p, t, r, c, &row->who, v);
        if (same && (err == ERR_NOTFOUND || (!err && v->type != VALUE_REF)))
            continue;
        if (!err && v->type == VALUE_REF && (err = refs_show(p->s, v, 1)) == 2)
            err = refs_gone(p->s, t, &row->who, &r->writes[c->write], v);
        else if (err == 1 && p->s->ahead)
            err = 0;
        if (!err)
            err = tell_cell(p, t, r, c, v, home);
        if (err)
            return err;
        if (!hashes || hashes[i] != c->hash)
            (*columns)[(*count)++] = c->column;
    }
    return 0;
}

int show_park(struct projecting *p, struct pending_row *row, const char *why) {
    if (renumber_planned(p->s) || (strcmp(why, NOT_SHOWN) == 0 && mend_planned(p->s))) /* all of this is done again */
        return 0;
    if (row->reason && strcmp(row->reason, why) == 0) /* as before: nothing to be made durable under the lock */
        return pending_park(p->s, row, why);
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

/* Did the row break what only its own columns decide? Then no other row lets it in. (Triggers that feed virtual tables break what is there.) */
static bool refused_by_form(const struct projecting *p, const struct tio *io) {
    int code = sqlite3_extended_errcode(p->s->app.writer);
    return (code == SQLITE_CONSTRAINT_NOTNULL || code == SQLITE_CONSTRAINT_CHECK || code == SQLITE_CONSTRAINT_DATATYPE) &&
           !io->table->feeds;
}

/* Who wrote the newest of what is known of a row. */
static uint32_t last_author(const struct reg *r) {
    struct stamp newest = r->died.origin != UINT32_MAX && r->died.at > r->inserted.at ? r->died : r->inserted;
    for (uint32_t i = 0; i < r->writes_count; i++)
        if (r->writes[i].at > newest.at)
            newest = (struct stamp){r->writes[i].at, r->writes[i].origin};
    return newest.origin;
}

/* Did an op put it into the file, before another one about it was left to the registers? */
static bool came_by_op(const struct projecting *p, const struct pending_row *row) {
    for (const struct flight *f = p->s->flights; f && f->seq <= p->seq; f = f->next)
        for (uint32_t i = 0; i < f->ops_count; i++)
            if (f->ops[i].written && f->ops[i].kind == CHANGE_INSERT && f->ops[i].tbl == row->tbl && rowid_same(&f->ops[i].who, &row->who))
                return true;
    return false;
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
    if (place.text && (err = tables_keeps_key(s, t->io, &place)) != 1)
        return err < 0 ? err : (err = show_park(p, row, "its key would be another one in this file")) ? err : SETTLED;
    err = 0;
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
            return n < 0 ? n : err < 0 ? err : !p->last ? 1 : (err = show_park(p, row, NOT_SHOWN)) ? err : SETTLED;
    }
    if (!place.text && t->io->key_ref && (err = numbers_wait(s, t->io->key_ref, &row->who)) == 2)
        err = (err = foreign_named_gone(s, t, &row->who, r)) < 0 ? err : err > 0;
    else if (err == 1 && home && !reg_known(&s->meant))
        err = 0; /* nobody knows of such a row: it may never have been, and this one is in its place already */
    if (err)
        return err < 0 ? err : !p->last ? 1 : (err = show_park(p, row, NOT_SHOWN)) ? err : SETTLED;
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
        return err ? (err = show_park(p, row, "its number belongs to another row here")) ? err : SETTLED : 0;
    if (!place.text && !p->can_move)
        return SETTLED;
    if (home) {
        if (p->last) {
            err = show_park(p, row, "its number belongs to another row here");
            return err ? err : SETTLED;
        }
        return (err = renumber_want(s, t, &row->who, place.number)) ? err : 1;
    }
    row->moves = true; /* once the file shows it there */
    if (place.text)
        return 0;
    p->placed = true;
    return (err = state_begin(s)) ? err : numbers_show_at(s, t, &row->who, place.number, p->seq);
}

static int show_one(struct projecting *p, struct pending_row *row) {
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
        return show_park(p, row, "the application has no such table here, or its key is of another kind");
    int err = rows_find(s, t, &row->who, r, &home);
    if (err)
        return err;
    bool alive = reg_alive(r, &o) && !same_is_junior(s, t, &row->who);
    if (alive && (err = find_place(p, row, r, home)) != 0)
        return err == SETTLED ? 0 : err;
    bool taken = false; /* what this projection shows under its number is another row */
    if (!alive && !row->who.text) {
        struct rowid place = {.kind = IDENT_GIVEN, .number = numbers_shown(t, &row->who)};
        if ((err = rows_at_home(s, t, &place, &s->reg2)))
            return err;
        taken = reg_known(&s->reg2) && !rowid_same(&s->reg2.who, &row->who);
    }
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
    if ((err = show_look(p, row, hashes))) {
        arena_release(&p->arena);
        return err;
    }
    /* The key is that of a row which refers to another one that had this number. */
    if (t->io->key_refs && row->present && !had && !came_by_op(p, row)) {
        row->present = false;
        if (alive) {
            arena_release(&p->arena);
            return p->last ? show_park(p, row, "its key belongs to another row here") : 1;
        }
    }
    if (row->moves && row->present) { /* another row that moves was first */
        row->present = row->moves = false;
        arena_release(&p->arena);
        if ((err = numbers_hide_row(s, t, &row->who)))
            return err;
        return show_park(p, row, "its number belongs to another row here");
    }
    if (!alive) {
        err = row->present ? show_delete(s, t->io, &row->who) : 0;
    } else if (!(err = show_gather(p, t, r, home, row, row->present ? hashes : NULL, &columns, &values, &count)) && count) {
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
    row->out = err == ERR_CONSTRAINT && refused_by_form(p, t->io);
    if (!err && s->watched && (alive ? count : row->present))
        report_remote(s, last_author(r), &op);
    else if (err == ERR_CONSTRAINT && (p->last || p->mends))
        err = refused(p, &op);
    row->form_schema = p->last && err == 1 && row->out && s->mending ? s->schema.version : 0;
    arena_release(&p->arena);
    if ((err == ERR_CONSTRAINT || err == 1) && !home) {
        int hidden = numbers_hide_row(s, t, &row->who);
        if (hidden)
            return hidden;
        row->moves = false;
    }
    if (waits && p->last)
        return show_park(p, row, NOT_SHOWN);
    if (err == ERR_CONSTRAINT || err == 1)
        return 1;
    if (err == ERR_NOTFOUND)
        return show_park(p, row, "its value is not in the log any more");
    if (!err) {
        row->done = true;
        row->holds = alive;
    }
    return err;
}

int show_row(struct projecting *p, struct pending_row *row) {
    p->s->waits.tbl = NULL;
    row->out = false;
    row->form_schema = 0;
    int err = show_one(p, row);
    row->waits = row->done ? (struct waited){0} : p->s->waits;
    return err;
}
