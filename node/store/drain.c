/* What the application committed, into registers, log and a batch. The happy path: read the notes beyond our mark under one
 * snapshot, sort them by row, read each row once, compare with the hashes in its register, and write what differs as one change.
 * A note means "look again"; only for identities its kind counts: a delete followed by an insert of the same number is a death
 * and a new birth. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/carried.h"
#include "node/store/keyed.h"
#include "node/store/outdated.h"
#include "node/store/notes.h"
#include "node/store/report.h"
#include "node/store/same.h"
#include "node/store/recheck.h"
#include "proto/err.h"

int drain_look(struct store *s, struct row_look *look, sqlite3_stmt *stmt) {
    struct tio *io = look->io;
    if (io->count + 1 > s->look_values_cap) {
        struct value *p = realloc(s->look_values, (io->count + 1) * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        s->look_values = p;
        s->look_values_cap = io->count + 1;
    }
    look->values = s->look_values;
    int row = look->by_rowid ? sqlite3_bind_int64(stmt, 1, look->rowid) : tables_bind_place(io, stmt, 1, &look->place);
    if (row < 0 || (row = sql_step(stmt)) < 0)
        return row;
    look->present = row == 1;
    for (uint32_t i = 0; i < io->count && look->present; i++)
        sql_column_value(stmt, (int)i, &look->values[i]);
    return 0;
}

/* ---- one row */

struct edit { /* one change of ours, about to be written */
    enum change_kind kind;
    struct rowid who;
    const struct column_set *set;
    const struct value *values;
    uint64_t at; /* its stamp; 0: by stamp_for(); AT_BEFORE_US */
    bool orphan;
    bool quiet; /* it is told when it is shown */
    bool away;  /* the row is not at home */
    enum carried carried;
};

static void wire_ident(struct store *s, const struct edit *e, const struct tio *io, struct ident *out) {
    memset(out, 0, sizeof *out);
    out->number = e->who.number;
    if (e->who.kind == IDENT_BORN) {
        bool here = e->who.origin == s->own && e->who.version == s->origins[s->own].version + 1;
        out->kind = here ? IDENT_BORN_HERE : IDENT_BORN;
        out->origin = s->origin_ids[e->who.origin];
        out->version = e->who.version;
    } else if (e->who.kind == IDENT_ADOPTED) {
        out->kind = IDENT_ADOPTED;
        out->hash = e->who.hash;
    } else if (e->who.text && e->kind == CHANGE_INSERT && io->binary_key && !io->key_refs) {
        out->kind = IDENT_GIVEN_COLS;
        out->key_columns = io->table->key_count;
    } else {
        out->kind = IDENT_GIVEN;
        out->key = e->who.text ? e->who.key : NULL;
        out->key_len = e->who.key_len;
    }
}

/* Into the batch being written. A full batch is sealed as a part and another one begun. */
static int edit_write(struct store *s, struct tio *io, struct edit *e, uint64_t at) {
    bool here = e->who.kind == IDENT_BORN && e->who.origin == s->own && e->who.version == s->origins[s->own].version + 1;
    for (int tries = 0; tries < 2; tries++) {
        if (here)
            e->who.version = s->origins[s->own].version + 1;
        struct change c = {.kind = e->kind,
                           .orphan = e->orphan,
                           .carried = e->carried,
                           .table = io->table->name,
                           .table_len = strlen(io->table->name),
                           .stamp = at};
        wire_ident(s, e, io, &c.ident);
        if (e->set) {
            c.columns_count = e->set->count;
            c.columns = e->set->names;
            c.columns_len = e->set->lens;
            c.values = e->values;
        }
        int err = batch_writer_add(s->writer, &c);
        if (err != ERR_TOOBIG || tries)
            return err;
        if ((err = drain_seal(s, true)))
            return err;
    }
    return ERR_TOOBIG;
}

/* Above the note's time, our last stamp and what is replaced. What was found without a note goes just above the value that this file last had,
 * so that anything newer elsewhere wins; what was there before us gets the lowest stamp. */
static uint64_t stamp_for(struct store *s, const struct reg *r, const struct row_look *look) {
    uint64_t top = reg_known(r) ? stamp_above(reg_top(r)) : 0;
    if (look->ms == LOOK_OTHER)
        return STAMP_COPY;
    if (look->ms == LOOK_ADOPTED)
        return top ? top : s->recapture ? STAMP_COPY : 0; /* 0 says "known to all that have this copy" */
    if (look->ms == LOOK_FOUND && top)
        return top;
    int64_t ms = (look->ms == LOOK_FOUND ? store_wall_ms(s) : look->ms) + s->clock_offset_ms;
    uint64_t at = hlc_of_ms((uint64_t)(ms > 0 ? ms : 0));
    at = at > s->floor ? at : s->floor;
    return at > top ? at : top;
}

/* Rows that fit in no batch are remembered until they fit, or are gone. */
static int note_large(struct store *s, const struct tbl *t, const struct rowid *place, bool large) {
    sqlite3_stmt *q;
    buf_clear(&s->key);
    int err = rowid_pack(place, &s->key);
    if (err || (err = large ? sql_prepare(s->db, &q, "INSERT OR IGNORE INTO large VALUES(%u, ?)", t->no)
                            : sql_prepare(s->db, &q, "DELETE FROM large WHERE tbl=%u AND place=?", t->no)))
        return err;
    sqlite3_bind_blob64(q, 1, s->key.data, s->key.len, SQLITE_STATIC);
    if (!(err = sql_run(q)) && sqlite3_changes(s->db))
        s->too_large += large ? 1 : (uint32_t)-1;
    sqlite3_finalize(q);
    return err;
}

static int too_large(struct store *s, const struct tbl *t, const struct rowid *place) {
    store_log(s, LOG_ERROR, "%s: a row of \"%s\" is larger than %u MiB and cannot be replicated: make its values smaller", s->config.db,
              t->name, BATCH_RAW_MAX >> 20);
    return note_large(s, t, place, true);
}

/* What we had seen, once a batch. */
static int remember_seen(struct store *s) {
    struct seen seen;
    seen_of(s, s->own, s->blind, &seen);
    int err = s->remembered ? 0 : merge_remember_seen(s, s->own, s->origins[s->own].version + 1, &seen);
    s->remembered = true;
    return err;
}

/* The change itself, into the register of the row. */
static int edit_merge(struct store *s, struct tio *io, struct reg *r, const struct edit *e, struct write by, const struct seen *seen,
                      const uint64_t *hashes) {
    struct origins_order o = store_order(s);
    int err = 0;
    r->who = e->who;
    if (e->kind == CHANGE_DELETE) {
        by.mend = e->orphan;
        reg_death(r, by, seen, &o, &err);
        return err ? err : remember_seen(s); /* at once: what the death saw decides what of this row is an open conflict */
    }
    by.mend = e->kind == CHANGE_MEND;
    if (e->kind == CHANGE_INSERT)
        reg_insert(r, by, seen, &o, &err);
    else if (e->kind == CHANGE_REVIVE)
        reg_revive(r, by, &o);
    for (uint32_t i = 0; i < (e->set ? e->set->count : 0) && !err; i++)
        if (e->set->at[i] == NOT_HERE)
            err = numbers_write(s, io->tbl, r, by, e->values[i].as.i, seen);
        else
            reg_write(r, by, io->numbers[e->set->at[i]], hashes[e->set->at[i]], seen, &err);
    return err;
}

/* The same to one of several rows that are one, to `shown`; then r is what its identity stands for. */
static int edit_merge_one(struct store *s, struct tio *io, struct reg *r, const struct edit *e, const struct rowid *shown, struct write by,
                          const struct seen *seen, const struct row_look *look, const uint64_t *hashes) {
    struct unify u;
    bool home;
    int err = unify_begin(s, io->tbl, &e->who, &u);
    if (!err && !(err = edit_merge(s, io, &u.own, e, by, seen, hashes))) {
        by.mend = e->kind == CHANGE_MEND;
        err = unify_end(s, io->tbl, &u, e->kind, by);
    }
    struct pending_row *p;
    bool junior = !rowid_same(shown, &u.root);
    if (!err && junior && !(err = unify_pend(s, io->tbl, &u)) && look->present && !pending_find(s, io->tbl, shown)) {
        if (!(err = pending_set(s, io->tbl, shown, true, NULL, 0, NULL, &p))) /* came under a number, or key, that is about to go */
            err = pending_store(s, p);
    }
    unify_release(&u);
    return err ? err : rows_find(s, io->tbl, shown, r, &home);
}

/* Who deletes what stands for several rows deletes all of them. */
static int delete_others(struct store *s, struct tio *io, const struct rowid *root, const struct row_look *look);

/* Writes one change of ours: batch, register, counters, what waits to be shown. */
static int edit_apply(struct store *s, struct tio *io, struct reg *r, struct edit *e, const struct row_look *look, const uint64_t *hashes) {
    struct origins_order o = store_order(s);
    struct tbl *t = io->tbl;
    uint64_t at = e->at == AT_BEFORE_US ? 0 : e->at ? e->at : stamp_for(s, r, look);
    bool number = e->set && e->set->count == 1 && e->set->at[0] == NOT_HERE; /* of the row there is nothing to look at then */
    bool one = unify_is(s, t, &e->who);
    int err = io->refs_count && e->set && !number ? foreign_is_orphan(s, look, e->set, e->kind == CHANGE_INSERT, &e->orphan) : 0;
    if (!err && one && e->kind == CHANGE_DELETE)
        err = delete_others(s, io, &e->who, look);
    s->same->told = false;
    if (!err && e->set)
        err = refs_tell(s, io, &e->who, e->set->at, e->set->count, look->noted ? look->ms : -1, &e->values);
    struct edit own = *e; /* of one of several */
    struct arena arena = {0};
    if (!err && one && e->kind == CHANGE_UPDATE && !number)
        err = dead_living(s, t, &e->who, &arena, &own.who);
    if (!err)
        err = edit_write(s, io, one ? &own : e, at);
    if (err) {
        arena_release(&arena);
        return err == ERR_TOOBIG ? too_large(s, t, &look->place) : err;
    }
    struct seen seen;
    seen_of(s, s->own, s->blind, &seen);
    struct write by = {s->own, s->origins[s->own].version + 1, at, false, e->carried};
    bool known = reg_known(r), had = known && (r->deaths_count || s->open_conflicts || !reg_alive(r, &o));
    struct known_by known_by;
    if (io->known_by)
        foreign_known_by(s, t, &look->place, r, &seen, &known_by);
    if (one) {
        err = edit_merge_one(s, io, r, &own, &e->who, by, &seen, look, hashes);
        arena_release(&arena);
    } else {
        if (known)
            rows_account(s, t, &e->who, r, NULL);
        err = edit_merge(s, io, r, e, by, &seen, hashes);
        rows_account(s, t, &e->who, NULL, r);
    }
    hlc_observe(&s->clock, at);
    if (at > s->own_last)
        s->own_last = at;
    if (!err && io->known_by && !(err = remember_seen(s)))
        err = foreign_gone(s, t, &look->place, r, &known_by, &by);
    uint32_t conflicts;
    if (!err && !one && !(err = rows_store(s, t, &e->who, r, !e->away)) && known)
        err = rows_conflicts(s, t, &e->who, r, had, &conflicts);
    struct pending_row *p;
    if (!err && s->same->told && e->kind != CHANGE_DELETE && look->present && !pending_find(s, t, &e->who) &&
        !(err = pending_set(s, t, &e->who, true, NULL, 0, NULL, &p)))
        err = pending_store(s, p); /* it is to show the number of the row that stands for the one that it means */
    if (err)
        return err;
    if ((s->outdated || io->afar) && look->noted && io->telling && e->set &&
        (err = refs_outdated(s, io, &e->who, e->set->at, e->set->count, e->values, hashes)))
        return err;
    t->last_change_ms = look->ms < 0 ? store_wall_ms(s) : look->ms;
    s->drained_rows++;
    if (s->watched && !e->quiet && look->ms != LOOK_ADOPTED && look->ms != LOOK_OTHER)
        report_change(s, t, &e->who, e->kind, e->set, e->values, look->ms < 0 ? store_wall_ms(s) : look->ms);
    return 0;
}

static int delete_others(struct store *s, struct tio *io, const struct rowid *root, const struct row_look *look) {
    struct origins_order o = store_order(s);
    struct arena arena = {0};
    struct rowid *list;
    struct reg own;
    uint32_t count;
    bool home;
    if (same_is_junior(s, io->tbl, root)) /* somebody deleted it where it was still shown by itself */
        return 0;
    reg_init(&own);
    int err = same_members(s, io->tbl, root, &arena, &list, &count);
    for (uint32_t i = 0; i < count && !err; i++) {
        if (rowid_same(&list[i], root) || (err = rows_find(s, io->tbl, &list[i], &own, &home)) || !reg_alive(&own, &o))
            continue;
        struct row_look gone = *look;
        struct edit e = {.kind = CHANGE_DELETE, .who = list[i], .quiet = true, .away = !home};
        gone.present = false;
        gone.place = list[i];
        err = edit_apply(s, io, &own, &e, &gone, NULL);
    }
    reg_release(&own);
    arena_release(&arena);
    return err;
}

/* The file's whole content of this row is known now: what is pending about it is told anew. */
static int refresh_pending(struct store *s, struct tbl *t, const struct rowid *who, const struct row_look *look, const uint64_t *hashes) {
    struct tio *io = look->io;
    struct shown_cell *cells = malloc((io->count + 1) * sizeof *cells);
    if (!cells)
        return ERR_NOMEM;
    uint32_t n = 0;
    for (uint32_t i = 0; i < io->count && look->present; i++)
        cells[n++] = (struct shown_cell){io->numbers[i], hashes[i]};
    struct pending_row *same;
    int err = pending_set(s, t, who, look->present, cells, n, NULL, &same);
    free(cells);
    return err ? err : pending_store(s, same);
}

static const struct column_set *all_columns(struct tio *io) {
    if (!io->all) {
        uint32_t *at = malloc((io->count + 1) * sizeof *at);
        if (!at)
            return NULL;
        for (uint32_t i = 0; i < io->count; i++)
            at[i] = i;
        io->all = tables_column_set_new(io, at, io->count);
        free(at);
    }
    return io->all;
}

void drain_new_identity(struct store *s, const struct row_look *look, const uint64_t *hashes, struct rowid *who) {
    *who = look->place;
    if (look->place.text || look->io->table->without_rowid)
        return;
    if (carried_arrives(look) && look->io->rekeyed) {
        rekeyed_identity(s, look, hashes, who);
        return;
    }
    struct origins_order o = store_order(s);
    bool renamed = carried_arrives(look) && reg_known(&s->source);
    if (renamed && (!look->io->key_ref || reg_alive(&s->source, &o))) { /* it stays who it is, whomever its number means by now */
        who->kind = s->source.who.kind;
        who->origin = s->source.who.origin;
        who->version = s->source.who.version;
        who->hash = s->source.who.hash;
        who->number = s->source.who.kind == IDENT_GIVEN ? who->number : s->source.who.number; /* it may have got another one since */
        return;
    }
    if (look->io->key_ref) { /* its key is a reference: it is known as the row is that it refers to */
        if (refs_row(s, look->io->key_ref, look->place.number, INT64_MAX, who) == 1)
            return;
        *who = look->place;
    }
    bool copied = look->ms == LOOK_ADOPTED || look->ms == LOOK_OTHER || carried_arrives(look);
    if (copied && look->io->key_ref)
        return;   /* it refers to nobody: it is known by its number, and not as a row that others may yet have */
    if (copied) { /* two copies of one database give the same rows the same identities */
        uint64_t sum = look->io->tbl->hash;
        for (uint32_t i = 0; i < look->io->count; i++) {
            uint64_t x = (look->io->tbl->column_hashes[look->io->numbers[i]] ^ hashes[i]) * 0x9e3779b97f4a7c15u;
            sum += x ^ (x >> 29);
        }
        who->kind = IDENT_ADOPTED;
        who->hash = sum;
    } else if (look->born && !look->given) {
        who->kind = IDENT_BORN;
        who->origin = s->own;
        who->version = s->origins[s->own].version + 1;
    }
}

/* A row whose key is a reference, or was another one, may have lived before, under another number; and a given key before another row came to it. */
static int take_over(struct store *s, const struct row_look *look, struct reg *r, const struct rowid *who) {
    struct tbl *t = look->io->tbl;
    bool home, known = reg_known(r) && rowid_same(&r->who, who);
    if (known)
        return 0;
    int err = reg_known(r) ? rows_evict(s, t, &look->place) : 0;
    if (err || (err = rows_find(s, t, who, r, &home)))
        return err;
    if (home && reg_known(r)) { /* it moved here */
        struct rowid place = {.kind = IDENT_GIVEN, .number = numbers_home(t, who)};
        if ((err = rows_evict(s, t, &place)))
            return err;
    }
    if (reg_known(r))
        err = rows_forget_extra(s, t, who);
    return err ? err : numbers_settle(s, t, who, look->place.number);
}

/* All columns with one stamp in one change. */
static int update_columns(struct store *s, struct row_look *look, struct reg *r, const uint32_t *columns, uint32_t n,
                          const struct moved_cell *as, bool again, const uint64_t *hashes) {
    struct edit e = {.kind = again ? CHANGE_INSERT : CHANGE_UPDATE,
                     .who = r->who,
                     .set = tables_columns(look->io, columns, n),
                     .at = as->at,
                     .carried = as->carried};
    struct value *values = malloc((n + 1) * sizeof *values);
    if (!e.set || !values) {
        free(values);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < n; i++)
        values[i] = look->values[columns[i]];
    e.values = values;
    int err = edit_apply(s, look->io, r, &e, look, hashes);
    free(values);
    return err;
}

/* These columns, those of one stamp together, and those of the stamp of `first` before the others; `insert`: they are the row's insert. */
static int write_cells(struct store *s, struct row_look *look, struct reg *r, struct moved_cell *cells, uint32_t n, struct moved_cell first,
                       bool insert, const uint64_t *hashes) {
    uint32_t now[BATCH_COLUMNS_MAX];
    for (uint32_t left = n; left || insert; first = left ? cells[0] : first) {
        uint32_t count = 0, kept = 0;
        for (uint32_t i = 0; i < left; i++)
            if (cells[i].at == first.at && cells[i].carried == first.carried)
                now[count++] = cells[i].column;
            else
                cells[kept++] = cells[i];
        left = kept;
        int err = count || insert ? update_columns(s, look, r, now, count, &first, insert, hashes) : 0;
        if (err)
            return err;
        insert = false;
    }
    return 0;
}

/* Is what the file shows of this row what the registers say? */
static bool agrees(const struct store *s, const struct row_look *look, const struct reg *r, const uint64_t *hashes) {
    struct origins_order o = store_order(s);
    bool same = reg_alive(r, &o);
    for (uint32_t i = 0; i < look->io->count && same; i++) {
        const struct cell *c = reg_winner(r, look->io->numbers[i], &o);
        same = c && c->hash == hashes[i];
    }
    return same;
}

/* A row that came with its table's new name. */
static int insert_carried(struct store *s, struct row_look *look, struct reg *r, const uint64_t *hashes) {
    struct moved_cell cells[2 * BATCH_COLUMNS_MAX], life;
    uint32_t n = 0;
    int err = carried_cells(s, look, hashes, cells, &n, &life);
    if (!err)
        err = write_cells(s, look, r, cells, n, life, true, hashes);
    struct rowid who = r->who;
    bool there = who.text || !look->io->rekeyed || numbers_wanted(s, look->io->tbl, r) == look->place.number;
    return err || (there && agrees(s, look, r, hashes)) ? err : refresh_pending(s, look->io->tbl, &who, look, hashes);
}

static int insert_row(struct store *s, struct row_look *look, struct reg *r, const uint64_t *hashes) {
    struct edit e = {.kind = CHANGE_INSERT, .values = look->values, .set = all_columns(look->io)};
    if (!e.set)
        return ERR_NOMEM;
    drain_new_identity(s, look, hashes, &e.who);
    bool elsewhere = !e.who.text && e.who.number != look->place.number;            /* than at its birth */
    bool waits = !e.who.text && e.who.kind != IDENT_BORN && look->io->tbl->extras; /* while another row was at home here */
    int found = look->io->key_ref || elsewhere || waits ? take_over(s, look, r, &e.who) : 0;
    if (!found && elsewhere && look->io->rekeyed && carried_arrives(look)) {
        r->who = e.who;
        found = rekeyed_number(s, look, r);
    }
    if (found < 0)
        return found;
    if (e.who.number > look->io->sequence) /* SQLite has seen to it */
        look->io->sequence = e.who.number;
    if (reg_known(r) && !rowid_same(&r->who, &e.who)) {
        int err = rows_evict(s, look->io->tbl, &look->place);
        if (err)
            return err;
        reg_clear(r);
    }
    struct origins_order o = store_order(s);
    if (carried_arrives(look) && reg_known(&s->source)) {
        r->who = e.who;
        if (!reg_alive(&s->source, &o) &&
            !pending_find(s, look->io->tbl->renamed_from, &s->source.who)) { /* another life, after that death */
            int err = drain_death(s, look->io, r, true, s->source.died.at, true);
            if (err)
                return err;
        }
        bool moved = e.who.number != look->place.number;
        int err = moved ? numbers_settle(s, look->io->tbl, &e.who, look->place.number) : 0;
        if (err || (err = insert_carried(s, look, r, hashes)) || !moved)
            return err;
        const struct tbl *from = look->io->tbl->renamed_from;
        const struct cell *number = from->number_column ? reg_winner(&s->source, from->number_column - 1, &o) : NULL;
        return number ? drain_number(s, look->io, r, look->place.number, s->source.writes[number->write].at) : 0;
    }
    if (carried_arrives(look) && reg_known(r) && look->io->tbl->placed == 0)
        e.at = STAMP_COPY;
    int err = 0;
    if (reg_known(r) && e.at == 0) { /* it comes in the place of what a column held under its old name */
        struct moved_cell cells[BATCH_COLUMNS_MAX];
        uint32_t n = carried_replaced(s, look, r, cells);
        err = write_cells(s, look, r, cells, n, (struct moved_cell){0}, false, hashes);
    }
    if (!err)
        err = edit_apply(s, look->io, r, &e, look, hashes);
    return err || e.at != STAMP_COPY ? err : refresh_pending(s, look->io->tbl, &e.who, look, hashes);
}

/* The columns that differ. A row that was inserted over itself says so also when nothing differs: it lives, though somebody may have deleted it
 * elsewhere. What did not change in it was not written: a change elsewhere stays. */
static int update_row(struct store *s, struct row_look *look, struct reg *r, const struct pending_row *p, const uint64_t *hashes) {
    uint32_t named = look->again && look->place.text ? look->io->table->key_count : 0; /* the identity travels in them */
    struct moved_cell cells[2 * BATCH_COLUMNS_MAX];
    uint32_t n = 0;
    bool overruled = false;
    for (uint32_t i = 0; i < look->io->count; i++) {
        int err = i < named ? 0 : carried_judge(s, look, r, p, i, hashes[i], cells, &n, &overruled);
        if (err)
            return err;
        if (i < named)
            cells[n++] = (struct moved_cell){.column = i};
    }
    int err = write_cells(s, look, r, cells, n, (struct moved_cell){0}, look->again,
                          hashes); /* those written now before what a migration wrote */
    struct rowid who = r->who;
    return err ? err : overruled && !p ? refresh_pending(s, look->io->tbl, &who, look, hashes) : 0;
}

int drain_lose(struct store *s, struct row_look *look, const uint32_t *at, uint32_t count) {
    struct tio *io = look->io;
    struct edit e = {.kind = CHANGE_UPDATE, .set = tables_columns(io, at, count)};
    struct value *values = malloc((count + 1) * sizeof *values);
    uint64_t *hashes = calloc(io->count + 1, sizeof *hashes);
    int err = e.set && values && hashes ? rows_at_home(s, io->tbl, &look->place, &s->reg) : ERR_NOMEM;
    if (!err) {
        for (uint32_t i = 0; i < count && !err; i++) {
            struct value today = values[i] = look->values[at[i]];
            err = afar_today(s, io, at[i], &today);
            hashes[at[i]] = value_hash(&today);
        }
        e.who = s->reg.who;
        e.values = values;
        look->ms = LOOK_OTHER;
        if (!err)
            err = edit_apply(s, io, &s->reg, &e, look, hashes);
    }
    free(values);
    free(hashes);
    return err;
}

static int delete_row(struct store *s, struct row_look *look, struct reg *r, const uint64_t *hashes) {
    struct edit e = {.kind = CHANGE_DELETE, .who = r->who};
    return edit_apply(s, look->io, r, &e, look, hashes);
}

int drain_death(struct store *s, struct tio *io, struct reg *r, bool home, uint64_t at, bool carried) {
    struct row_look look = {.io = io, .place = r->who, .ms = LOOK_FOUND};
    struct edit e = {
        .kind = CHANGE_DELETE, .who = r->who, .at = at, .quiet = carried, .away = !home, .carried = carried ? CARRIED_TABLE : CARRIED_NOT};
    return edit_apply(s, io, r, &e, &look, NULL);
}

int drain_cascade(struct store *s, struct tio *io, struct reg *r, bool home, uint64_t at) {
    struct row_look look = {.io = io, .place = r->who, .ms = store_wall_ms(s)};
    struct edit e = {.kind = CHANGE_DELETE, .who = r->who, .at = at, .orphan = true, .quiet = true, .away = !home};
    return edit_apply(s, io, r, &e, &look, NULL);
}

int drain_author(struct store *s, struct tio *io, struct reg *r, bool home, enum change_kind kind, const struct column_set *set,
                 struct value *row, const uint64_t *hashes, uint64_t at) {
    bool locked = !sqlite3_get_autocommit(s->app.writer); /* there the rows are as they will be */
    struct row_look look = {
        .io = io, .place = r->who, .locked = locked, .ms = store_wall_ms(s), .present = kind != CHANGE_REVIVE, .values = row};
    struct edit e = {.kind = kind, .who = r->who, .set = set, .at = at, .quiet = true, .away = !home};
    struct value *values = malloc(((set ? set->count : 0) + 1) * sizeof *values);
    if (!values)
        return ERR_NOMEM;
    for (uint32_t i = 0; set && i < set->count; i++)
        values[i] = row[set->at[i]];
    e.values = values;
    int err = edit_apply(s, io, r, &e, &look, hashes);
    free(values);
    return err;
}

static int write_number(struct store *s, struct tio *io, struct reg *r, bool home, int64_t number, uint64_t at, enum change_kind kind,
                        bool carried) {
    static const char *names[] = {NUMBER_COLUMN};
    static size_t lens[] = {sizeof NUMBER_COLUMN - 1};
    static uint32_t columns[] = {NOT_HERE};
    static const struct column_set set = {1, names, lens, columns};
    struct value v = {.type = VALUE_INT, .as.i = number};
    struct row_look look = {.io = io, .place = r->who, .ms = store_wall_ms(s), .present = true, .values = &v};
    struct edit e = {.kind = kind,
                     .who = r->who,
                     .set = &set,
                     .values = &v,
                     .at = at,
                     .quiet = true,
                     .away = !home,
                     .carried = carried ? CARRIED_TABLE : CARRIED_NOT};
    return edit_apply(s, io, r, &e, &look, NULL);
}

int drain_renumber(struct store *s, struct tio *io, struct reg *r, bool home, int64_t number, bool mend, uint64_t at) {
    return write_number(s, io, r, home, number, at, mend ? CHANGE_MEND : CHANGE_UPDATE, false);
}

int drain_number(struct store *s, struct tio *io, struct reg *r, int64_t number, uint64_t at) {
    return write_number(s, io, r, true, number, at, CHANGE_UPDATE, true);
}

int drain_same(struct store *s, struct tio *io, const struct rowid *who, const struct column_set *set, const struct value *values,
               uint64_t at) {
    struct edit e = {.kind = CHANGE_SAME, .who = *who, .set = set, .values = values};
    int err = edit_write(s, io, &e, at);
    hlc_observe(&s->clock, at);
    if (at > s->own_last)
        s->own_last = at;
    return err;
}

int drain_row(struct store *s, struct row_look *look) {
    struct tio *io = look->io;
    struct reg *r = &s->reg;
    uint64_t small[64], *hashes = small;
    if (look->by_rowid)
        return keyless_drain(s, look);
    int err = s->too_large ? note_large(s, io->tbl, &look->place, false) : 0;
    if (err || (err = rows_at_home(s, io->tbl, &look->place, r)))
        return err;
    if (io->count > 64 && !(hashes = malloc(io->count * sizeof *hashes)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < io->count && look->present; i++)
        hashes[i] = value_hash(&look->values[i]);
    reg_clear(&s->source);
    if (carried_arrives(look) && io->tbl->renamed_from &&
        (err = io->rekeyed ? rekeyed_source(s, look) : rows_at_home(s, io->tbl->renamed_from, &look->place, &s->source)))
        goto out;
    struct origins_order o = store_order(s);
    struct rowid who = r->who;
    struct pending_row *p = reg_known(r) ? pending_find(s, io->tbl, &who) : NULL;
    bool shown = reg_known(r) && (p ? p->present : reg_alive(r, &o));
    bool later = io->rekeyed && reg_known(&s->source) && stamp_cmp(s->source.inserted, r->inserted, &o) > 0; /* another life of this key */
    if ((!shown || later) && look->present) {
        err = insert_row(s, look, r, hashes);
    } else if (shown && look->present && carried_is_another(s, look, r, hashes)) {
        if (!(err = insert_row(s, look, r, hashes)))
            err = moves_show_row(s, io->tbl, &who);
    } else if (shown && !look->present) {
        err = delete_row(s, look, r, hashes);
    } else if (shown && look->reborn) { /* another life */
        struct rowid next;
        drain_new_identity(s, look, hashes, &next);
        if (!rowid_same(&who, &next))
            err = delete_row(s, look, r, hashes);
        if (!err)
            err = insert_row(s, look, r, hashes);
    } else if (shown) {
        err = update_row(s, look, r, p, hashes);
    }
    if (!err && p && (p = pending_find(s, io->tbl, &who))) {
        bool same = look->present && rows_at_home(s, io->tbl, &look->place, r) == 0 && rowid_same(&r->who, &who);
        struct row_look gone = *look;
        if (!same)
            gone.present = false;
        err = refresh_pending(s, p->tbl, &p->who, same ? look : &gone, hashes);
    }
out:
    if (hashes != small)
        free(hashes);
    return err;
}

/* ---- the batch */

int drain_begin_changes(struct store *s, int64_t earliest_ms) {
    struct seen now;
    s->snapshot++;
    s->blind = false;
    shown_knew(s, earliest_ms, &now);
    struct origin_row *own = &s->origins[s->own];
    for (uint32_t i = 0; i < now.count; i++) {
        uint64_t before = i < own->knew_count ? own->knew[i] : 0;
        if (i == s->own || now.versions[i] <= before)
            continue;
        int err = vv_raise(&s->knew_news, &s->origin_ids[i], now.versions[i]);
        if (err || (err = state_knew_set(s, s->own, i, now.versions[i])))
            return err;
    }
    if (own->version) {
        int err = state_knew_set(s, s->own, s->own, own->version);
        if (err)
            return err;
    }
    /* A write that is noticed soon after it was made goes above all that was seen here; an old one keeps its true age. */
    bool recent = earliest_ms < 0 || earliest_ms >= store_wall_ms(s) - 2000;
    uint64_t last = recent ? s->clock.last : s->own_last;
    s->floor = last + 1;
    return 0;
}

static int after_diff(struct store *s, struct vv *now, struct vv *diff) {
    for (uint32_t i = 0; i < s->origins_count; i++) {
        int err = i == s->own || !s->origins[i].version ? 0 : vv_set(now, &s->origin_ids[i], s->origins[i].version);
        if (err)
            return err;
    }
    return vv_diff(diff, &s->after_sent, now);
}

int drain_seal(struct store *s, bool part) {
    struct origin_row *own = &s->origins[s->own];
    bool parts_open = s->hot.published < own->version && !s->scan; /* a last part is owed, if only an empty one */
    bool schema = s->hot.schema_sent != s->schema.text && s->schema.count && !s->schema_waits;
    bool policies = s->policies_due && s->schema.count;
    int err = schema ? schema_pack(s) : 0;
    if (err == ERR_TOOBIG)
        schema = false;
    else if (err)
        return err;
    if (!schema && !s->base_due && !policies && batch_writer_rows(s->writer) == 0 && (part || !parts_open))
        return 0;
    if (!schema && (s->base_due || policies) && (err = schema_pack_base(s)))
        return err;
    struct vv now, after;
    vv_init(&now);
    vv_init(&after);
    struct bytes *b = NULL;
    struct batch_head head = {.origin = own->id,
                              .version = own->version + 1,
                              .flags = (part ? BATCH_PART : 0u) | (s->blind ? BATCH_BLIND : 0u),
                              .db = s->config.db,
                              .db_len = strlen(s->config.db),
                              .knew = s->knew_news,
                              .schema = s->schema.hash};
    if (head.version == 1)
        head.key = s->config.key;
    if ((err = after_diff(s, &now, &after)))
        goto out;
    head.after = after;
    if ((err = batch_seal(s->writer, &head, s->config.secret, own->chain, &b)) || (err = log_write(s, s->own, head.version, b)))
        goto out;
    s->remembered = false;
    own->version = head.version;
    own->changed = true;
    if (schema)
        s->hot.schema_sent = s->schema.text;
    vv_clear(&s->knew_news);
    if ((err = vv_copy(&s->after_sent, &now)) || (err = state_knew_set(s, s->own, s->own, own->version)))
        goto out;
    s->base_due = false;
    if (s->policies_due && (err = policies_told(s)))
        goto out;
    if (!part && !s->scan)
        s->hot.published = own->version;
    batch_writer_clear(s->writer);
    tables_batch_done(s);
    s->stored_changed = true;
    err = rows_count_rest(s);
out:
    bytes_unref(b);
    vv_release(&now);
    vv_release(&after);
    return err;
}

/* ---- the whole drain */

/* Does what the application wrote meet something that is merged, and so within `knew`, but parked or held, and not on show? A row itself, or,
 * where a row was deleted, one that may refer to it. */
static int find_blind(struct store *s, const struct notes *n) {
    struct pending_row *p, *next;
    bool child = false;
    HASH_ITER(hh, s->pending, p, next) child = child || ((p->reason || p->part_of) && p->tbl->io && p->tbl->io->refs_count);
    for (uint32_t i = 0; i < n->count && !s->blind && (s->parked_count || s->held_count); i++) {
        struct row_look look;
        notes_look(n, i, i + 1, &look);
        int err = rows_at_home(s, look.io->tbl, &look.place, &s->reg);
        if (err)
            return err;
        struct rowid who = reg_known(&s->reg) ? s->reg.who : look.place;
        s->blind = child && look.died && look.io->kids_count;
        if ((p = pending_find(s, look.io->tbl, &who)) && (p->reason || p->part_of))
            s->blind = true;
    }
    return 0;
}

/* Where rows are numbered by AUTOINCREMENT no number is given twice, also not one whose row came and went between two drains: then nothing is left
 * to tell but the highest such number. It is told as the death of a row that nobody else knows, which raises the numbers of all servers. */
static int tell_numbers(struct store *s, const struct notes *n) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tio *io = &s->tios[i];
        if (!io->tbl || io->gone_number <= 0 || io->gone_number <= io->tbl->top)
            continue;
        struct row_look look = {.io = io, .place = {.kind = IDENT_GIVEN, .number = io->gone_number}, .ms = n->earliest_ms, .born = true};
        struct edit e = {.kind = CHANGE_DELETE, .quiet = true};
        drain_new_identity(s, &look, NULL, &e.who);
        reg_clear(&s->reg);
        int err = edit_apply(s, io, &s->reg, &e, &look, NULL);
        if (err)
            return err;
    }
    return 0;
}

static int drain_notes(struct store *s, struct notes *n, bool locked) {
    int err = state_begin(s);
    if (!err)
        err = notes_sort(s, n, locked);
    if (!err && !(s->flights && (err = pending_map_flights(s))) && !(err = drain_begin_changes(s, n->earliest_ms)))
        err = find_blind(s, n);
    for (uint32_t i = 0, to; i < n->count && !err; i = to) {
        s->notes_done = i;
        for (to = i + 1; to < n->count && notes_same_row(n, &n->list[i], &n->list[to]);)
            to++;
        struct row_look look;
        notes_look(n, i, to, &look);
        look.locked = locked;
        look.noted = true;
        sqlite3_stmt *q = locked ? look.io->peek : look.io->read;
        err = drain_look(s, &look, q);
        look.present =
            look.present && !(look.io->key_refs && look.died && !look.born); /* whose parent has that number now is another row */
        if (!err && !(err = keyrefs_meet(s, &look)) && !(err = holders_note(&look)))
            err = drain_row(s, &look);
        sqlite3_reset(q);
        if (look.io->table->autoincrement && !look.present && (look.born || look.died) && look.place.number > look.io->gone_number)
            look.io->gone_number = look.place.number;
    }
    s->notes = NULL;
    s->notes_done = 0;
    return err ? err : tell_numbers(s, n);
}

static int look_unnoted(struct store *s, enum replaced_look how) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tbl *t = s->tios[i].tbl;
        int err = t && t->nulls_changed ? tables_count_nulls(s, &s->tios[i]) : 0;
        if (err)
            return err;
    }
    int err = holders_look(s);
    return err ? err : scan_replaced(s, how);
}

/* What no note tells, in the same snapshot, with every note of it drained: rows that writes threw out, and rows that no key names. Under the lock
 * the reader's snapshot is what the writer sees: nobody else commits, and nothing of ours is written yet. */
static int drain_unnoted(struct store *s, bool locked) {
    int begun = locked ? sql_run(s->a_begin) : 0;
    if (begun)
        return begun == ERR_BUSY ? 0 : begun;
    int err = look_unnoted(s, locked ? REPLACED_UNDER_LOCK : REPLACED_DRAIN);
    if (locked)
        sql_run(s->a_end);
    return err;
}

/* The file has changed since we looked last. Was that neither us, nor told by a note, nor a change of schema, then somebody wrote to what we do not
 * replicate, or wrote without our triggers. Else he may have done so besides. */
static void look_for_unnoted(struct store *s, bool noted) {
    uint32_t now = 0;
    if (sqlite3_file_control(s->app.reader, "main", SQLITE_FCNTL_DATA_VERSION, &now) != SQLITE_OK)
        return;
    bool changed = now != s->data_version && s->data_version != 0;
    if (changed)
        recheck_hint(s, noted || s->app.committed || s->data_schema != s->schema.version);
    s->data_version = now;
    s->data_schema = s->schema.version;
    s->app.committed = false;
}

int drain(struct store *s, bool locked) {
    struct notes n = {.earliest_ms = INT64_MAX};
    struct appfile_head before;
    if (!locked) {
        memset(&before, 0, sizeof before);
        bool known = appfile_head(&s->app, &before);
        if (known && s->head_known && memcmp(before.index, s->head.index, sizeof before.index) == 0)
            return DRAIN_NOTHING;
        s->head_known = false;
    }
    buf_init(&n.keys, 256u << 20);
    int err = locked ? 0 : sql_run(s->a_begin);
    if (err)
        return err;
    err = notes_read(s, &n, locked);
    bool moved = !err && n.last_seq > s->hot.note_seq;
    if (moved)
        err = drain_notes(s, &n, locked);
    if (!err && !n.more)
        err = drain_unnoted(s, locked);
    bool found = !err && (moved || batch_writer_rows(s->writer));
    if (!locked) {
        if (!err)
            look_for_unnoted(s, found);
        sql_run(s->a_end);
    }
    /* What we are about to promise must not be lost by the file that it came from. */
    if (found)
        err = appfile_sync(&s->app, s->app.reader);
    if (!err && moved) {
        s->hot.note_seq = n.last_seq;
        s->hot.note_nonce = n.last_nonce;
    }
    if (!err && found)
        err = drain_seal(s, n.more);
    if (!locked && !err && !n.more) /* what is committed after this look shows as another head */
        s->head_known = before.index[0] != 0 && memcpy(&s->head, &before, sizeof before);
    free(n.list);
    buf_release(&n.keys);
    return err ? err : n.more ? DRAIN_MORE : found ? DRAIN_DONE : DRAIN_NOTHING;
}
