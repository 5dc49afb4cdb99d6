/* Rows that a migration wrote, or took along: with which stamps their content is told.
 *
 * The content of a table, or column, that has come just now is no write of now. Carried over from another name it is as old as it was there, so the order
 * in which servers migrate does not matter; what somebody filled in who could not see what others had written meanwhile loses against that. A row
 * that died under the old name is dead under the new one: a server that migrates without having heard of it brings the row along. */
#include <stdlib.h>
#include <string.h>

#include "node/store/carried.h"
#include "node/store/keyed.h"
#include "proto/err.h"

/* ---- rows that a migration wrote */

bool carried_arrives(const struct row_look *look) { return look->ms == LOOK_FOUND && look->io->tbl->placed <= 0; }

/* Another row under the number of one that others know. */
bool carried_is_another(struct store *s, const struct row_look *look, const struct reg *r, const uint64_t *hashes) {
    struct origins_order o = store_order(s);
    struct rowid who;
    if (!carried_arrives(look) || look->place.text)
        return false;
    drain_new_identity(s, look, hashes, &who);
    if (reg_known(&s->source) || look->io->rekeyed)
        return !rowid_same(&who, &r->who);
    bool same = r->who.kind == IDENT_GIVEN || look->io->tbl->placed != 0;
    if (!same) {
        same = true;
        for (uint32_t i = 0; i < look->io->count && same; i++) {
            const struct cell *c = reg_winner(r, look->io->numbers[i], &o);
            same = !c || c->hash == hashes[i];
        }
    }
    return !same;
}

/* What a column of a row held before a migration gave it this name: RENAME COLUMN, or RENAME TO of its table. */
struct was {
    uint64_t hash, since; /* as the file showed it; the stamp of a copy of it */
    struct stamp at;
    enum carried how;
    bool ours;
};

static int cell_before(struct store *s, const struct row_look *look, const struct reg *r, uint32_t column, struct was *w) {
    struct origins_order o = store_order(s);
    const struct tbl *t = look->io->tbl, *of = t;
    const struct reg *source = r;
    uint32_t from = t->moves[column].from;
    if (t->renamed_from && reg_known(&s->source)) {
        source = &s->source;
        of = t->renamed_from;
        from = 0;
        for (uint32_t c = 0; c < of->columns_count && !from; c++)
            if (sqlite3_stricmp(of->columns[c], t->columns[column]) == 0)
                from = c + 1;
    }
    const struct cell *before = from ? reg_winner(source, from - 1, &o) : NULL;
    if (!before && of != t && look->io->rekeyed && rekeyed_was_key(look->io, t->columns[column])) {
        struct value number = {.type = VALUE_INT, .as.i = numbers_home(of, &source->who)};
        *w = (struct was){value_hash(&number), stamp_carried(source->inserted.at), source->inserted, CARRIED_TABLE, false};
        return 1;
    }
    if (!before)
        return 0;
    *w = (struct was){.hash = before->hash, .at = reg_cell_stamp(source, before), .how = source == r ? CARRIED_COLUMN : CARRIED_TABLE};
    w->since = stamp_carried(w->at.at);
    w->ours = w->at.origin == s->own && w->at.at > STAMP_COPY;
    int err = pending_content(s, pending_find(s, of, &source->who), from - 1, before, look->io, look->io->by_number[column] - 1, &w->hash);
    if (w->hash != before->hash) /* merged, and never shown: the file has what it replaced */
        w->at = (struct stamp){--w->since, s->own};
    return err ? err : 1;
}

static void put(struct moved_cell *cells, uint32_t *count, uint32_t i, uint64_t at, enum carried carried) {
    cells[(*count)++] = (struct moved_cell){.column = i, .at = at, .carried = carried};
}

/* A column that can be neither NULL nor by default anything was filled by the migration that made it: Django knows the defaults of its columns itself,
 * and each server fills in the same. So what most rows have there is no more than a default is. */
static int filled_with(struct store *s, struct tio *io, uint32_t i, uint64_t standard, uint64_t *hash) {
    struct column_move *m = &io->tbl->moves[io->numbers[i]];
    const struct value none = {.type = VALUE_NULL};
    sqlite3_stmt *q;
    *hash = m->filled ? m->filled : standard;
    if (m->filled || !m->fresh || !io->table->columns[io->order[i]].not_null || standard != value_hash(&none))
        return 0;
    int row = sql_prepare(s->app.reader, &q,
                          "SELECT v FROM (SELECT \"%w\" AS v FROM main.\"%w\" LIMIT 1000) GROUP BY v ORDER BY count(*) DESC LIMIT 1",
                          io->names[i], io->table->name);
    if (!row && (row = sql_step(q)) == 1) {
        struct value v;
        sql_column_value(q, 0, &v);
        m->filled = *hash = value_hash(&v);
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

/* Is this column's content in the file to be written, and with which stamp (0: as any write)? *overruled: what others know is to be shown instead.
 *
 * The file's content is no write of now where a migration put it there: carried over from another name it is as old as it was there; in a
 * column or table that has come just now it was written by somebody who could not see what others had written meanwhile. There it loses, and
 * stays as an open conflict. */
int carried_judge(struct store *s, const struct row_look *look, const struct reg *r, const struct pending_row *p, uint32_t i, uint64_t hash,
                  struct moved_cell *cells, uint32_t *count, bool *overruled) {
    struct origins_order o = store_order(s);
    struct tio *io = look->io;
    uint32_t column = io->numbers[i];
    struct was was;
    const struct cell *c = reg_winner(r, column, &o);
    int before = cell_before(s, look, r, column, &was);
    uint64_t shown = c ? c->hash : 0;
    bool pending = p && pending_shown(p, column, &shown), scan = look->ms == LOOK_FOUND;
    if (before < 0 || (pending ? shown == hash : c && c->hash == hash)) /* as it was at the last look */
        return before < 0 ? before : 0;
    bool retyped = false;
    int err = pending || c ? rebuilt_retyped(s, io, i, &look->values[i], hash, shown, &retyped) : 0;
    if (retyped && !pending) /* told, but no more than what it was: anything newer wins */
        put(cells, count, i, stamp_above(reg_cell_stamp(r, c).at), CARRIED_NOT);
    if (err || retyped)
        return err;
    if (before && c && reg_cell_stamp(r, c).origin == s->own &&
        !r->writes[c->write].carried) { /* the application went on under the new name */
        put(cells, count, i, 0, CARRIED_NOT);
        return 0;
    }
    if (before) {
        bool same = was.hash == hash;
        struct stamp at = {same ? was.since : scan ? was.since + 1 : 0, s->own};
        bool told = was.ours || !c || !same || stamp_cmp(was.at, reg_cell_stamp(r, c), &o) > 0;
        if (told)
            put(cells, count, i, was.since, was.how); /* besides what replaced it, too: so whoever carries the same knows it replaced */
        if (told && !same)
            put(cells, count, i, at.at, CARRIED_NOT);
        *overruled |= !told || (c && at.at && stamp_cmp(at, reg_cell_stamp(r, c), &o) < 0); /* a tie, too: one of the two is shown */
        return 0;
    }
    uint64_t standard = shown;
    err = c && !pending && !io->tbl->moves[column].fresh ? 0 : tables_default_hash(s, io, i, &standard);
    if (err)
        return err;
    bool fresh = io->tbl->moves[column].fresh && (scan || !io->tbl->captured || (p && !p->reason && pending)),
         others = c && reg_cell_stamp(r, c).origin != s->own;
    uint64_t filled = standard;
    if (fresh && (others || !c) && (err = filled_with(s, io, i, standard, &filled)))
        return err;
    if (fresh && !c && !pending && filled != standard && hash == filled) {
        put(cells, count, i, AT_BEFORE_US, CARRIED_NOT);
        return 0;
    }
    standard = others ? filled : standard;
    bool unseen = others && ((fresh && c->hash != standard) || (carried_arrives(look) && io->tbl->placed == 0));
    if (unseen ? hash != c->hash && hash != standard
               : hash != (shown ? shown : standard)) /* 0: nothing was known of it when others wrote it */
        put(cells, count, i, unseen ? STAMP_COPY : 0, CARRIED_NOT);
    *overruled |= unseen && hash != c->hash;
    return 0;
}

int carried_cells(struct store *s, const struct row_look *look, const uint64_t *hashes, struct moved_cell *cells, uint32_t *count,
                  struct moved_cell *life) {
    struct origins_order o = store_order(s);
    const struct reg *source = &s->source;
    struct tio *io = look->io;
    const struct pending_row *p = pending_find(s, io->tbl->renamed_from, &source->who);
    bool alive = p ? p->present : reg_alive(source, &o);
    uint32_t keys = look->place.text ? io->table->key_count : 0;
    /* Under a given key it may be one with a row of another server: then it is no copy of what that one carries, too. */
    bool own = io->rekeyed && source->who.kind == IDENT_BORN && source->who.origin == s->own && s->alone_from &&
               source->who.version >= s->alone_from;
    enum carried how = own ? CARRIED_NOT : CARRIED_TABLE;
    /* Deleted under the old name, and there again: another life. */
    *life = (struct moved_cell){.at = alive ? stamp_carried(source->inserted.at) : stamp_above(reg_top(source)),
                                .carried = alive ? how : CARRIED_NOT};
    for (uint32_t i = 0; i < io->count; i++) {
        struct was was;
        int before = alive ? cell_before(s, look, source, io->numbers[i], &was) : 0;
        uint64_t since = before ? was.since : life->at;
        int err = before ? 0 : tables_default_hash(s, io, i, &was.hash);
        if (before < 0 || err)
            return before < 0 ? before : err;
        if (since >= life->at || i < keys)
            put(cells, count, i, life->at, life->carried);
        if (since != life->at && i >= keys)
            put(cells, count, i, since, how);
        if (alive && was.hash != hashes[i] && (before || i >= keys)) /* of a key: it is written otherwise now, and compares equal */
            put(cells, count, i, (since > life->at ? since : life->at) + 1, CARRIED_NOT);
    }
    return 0;
}

uint32_t carried_replaced(struct store *s, const struct row_look *look, const struct reg *r, struct moved_cell *cells) {
    struct origins_order o = store_order(s);
    const struct tbl *t = look->io->tbl;
    const struct seen moved = {t->moved, t->moved_count};
    uint32_t count = 0;
    for (uint32_t i = 0; i < look->io->count; i++) {
        const struct column_move *m = &t->moves[look->io->numbers[i]];
        struct was was;
        if (m->from && cell_before(s, look, r, look->io->numbers[i], &was) == 1)
            put(cells, &count, i, was.since, was.how);
        /* it was dead when the column was read: what it held then is all that this file ever showed of it under the old name */
        const struct cell *c = m->came && !m->from ? reg_winner(r, m->came - 1, &o) : NULL;
        if (c && seen_covers(&moved, r->writes[c->write].origin, r->writes[c->write].version))
            put(cells, &count, i, stamp_carried(r->writes[c->write].at), CARRIED_COLUMN);
    }
    return count;
}

/* ---- rows that a renamed table had lost */

/* The places of what died under the old name, packed one behind the other, and of what the file lacks though nothing told of its death. */
static int find_deaths(struct store *s, struct tio *io, struct buf *dead, struct buf *gone, uint64_t *count) {
    struct origins_order o = store_order(s);
    struct tbl *from = io->tbl->renamed_from;
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", from->no);
    while (!row && (row = sql_step(q)) == 1) {
        struct row_look look = {.io = io, .place = {.text = tbl_is_text(from)}};
        if (look.place.text) {
            look.place.key = sqlite3_column_blob(q, 0);
            look.place.key_len = (size_t)sqlite3_column_bytes(q, 0);
        } else {
            look.place.number = sqlite3_column_int64(q, 0);
        }
        if ((row = reg_decode(&s->source, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = look.place;
        who.kind = s->source.who.kind;
        who.origin = s->source.who.origin;
        who.version = s->source.who.version;
        who.hash = s->source.who.hash;
        bool alive = reg_alive(&s->source, &o);
        if (alive && (pending_find(s, from, &who) || (row = drain_look(s, &look, io->read))))
            continue;
        sqlite3_reset(io->read);
        if (!alive || !look.present)
            row = rowid_pack(&look.place, alive ? gone : dead);
        *count += alive && !look.present;
    }
    sqlite3_finalize(q);
    return row;
}

/* What others have under the new name, or key, was never on show here; what they have under the old one was. So each is told in batches of its own. */
int carried_see(struct store *s, bool blind) {
    int err = s->blind == blind ? 0 : drain_seal(s, false);
    s->blind = blind;
    return err;
}

/* Under the old name, where that is not known yet. */
static int take_old_death(struct store *s, struct tio *io, const struct rowid *place) {
    struct origins_order o = store_order(s);
    struct tbl *from = io->tbl->renamed_from;
    struct table name = {.name = from->name};
    struct tio old = {.table = &name, .tbl = from};
    int err = rows_at_home(s, from, place, &s->source);
    return err || !reg_alive(&s->source, &o) ? err : drain_death(s, &old, &s->source, true, stamp_carried(reg_top(&s->source)) + 1, false);
}

/* And under the new one. */
static int take_death(struct store *s, struct tio *io, const struct rowid *place) {
    struct origins_order o = store_order(s);
    bool home;
    int err = rows_at_home(s, io->tbl->renamed_from, place, &s->source);
    if (err || !reg_known(&s->source) || (err = rows_find(s, io->tbl, &s->source.who, &s->reg, &home)))
        return err;
    const struct stamp died = s->source.died, *later = reg_alive(&s->reg, &o) ? &s->reg.inserted : &s->reg.died;
    s->reg.who = s->source.who;
    if (stamp_cmp(*later, died, &o) >= 0 || (err = drain_death(s, io, &s->reg, home, died.at, true)))
        return err;
    struct row_look look = {.io = io, .place = *place};
    struct pending_row *p;
    err = drain_look(s, &look, io->read);
    sqlite3_reset(io->read);
    if (err || !look.present) /* else merged under the old name, and not shown yet */
        return err;
    err = pending_set(s, io->tbl, &s->source.who, true, NULL, 0, NULL, &p);
    return err ? err : pending_store(s, p);
}

/* Dead rows that others have taken the number, or key, of: by identity. */
static int find_away(struct store *s, const struct tbl *from, struct buf *away) {
    struct origins_order o = store_order(s);
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT who, b FROM extra WHERE tbl=%u", from->no);
    while (!row && (row = sql_step(q)) == 1) {
        row = reg_decode(&s->source, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1));
        if (!row && !reg_alive(&s->source, &o)) {
            buf_append(away, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
            row = away->failed;
        }
    }
    sqlite3_finalize(q);
    return row;
}

static int take_away(struct store *s, struct tio *io, const struct buf *away) {
    struct origins_order o = store_order(s);
    const uint8_t *at = away->data, *end = at + away->len;
    int err = 0;
    while (!err && at < end) {
        struct rowid who;
        bool home;
        if ((err = rowid_unpack(&who, &at, end)) || (err = rows_find(s, io->tbl->renamed_from, &who, &s->source, &home)))
            break;
        const struct stamp died = s->source.died;
        if ((err = rows_find(s, io->tbl, &who, &s->reg, &home)))
            break;
        s->reg.who = who;
        const struct stamp *later = reg_alive(&s->reg, &o) ? &s->reg.inserted : &s->reg.died;
        if (stamp_cmp(*later, died, &o) < 0)
            err = drain_death(s, io, &s->reg, reg_known(&s->reg) && home, died.at, true);
    }
    return err;
}

static int take_each(struct store *s, struct tio *io, const struct buf *places,
                     int (*take)(struct store *s, struct tio *io, const struct rowid *place)) {
    const uint8_t *at = places->data, *end = at + places->len;
    int err = 0;
    while (!err && at < end) {
        struct rowid place;
        if (!(err = rowid_unpack(&place, &at, end)))
            err = take(s, io, &place);
    }
    return err;
}

static int take_gone(struct store *s, struct tio *io, const struct buf *gone) {
    bool blind = s->blind;
    int err = gone->len ? carried_see(s, false) : 0;
    if (!err && !(err = take_each(s, io, gone, take_old_death)))
        err = carried_see(s, blind);
    return err ? err : take_each(s, io, gone, take_death);
}

/* A server that renames its table without having heard of a death brings the row along: so the deaths are carried, too. */
int carried_deaths(struct store *s, struct tio *io) {
    struct tbl *from = io->tbl->renamed_from;
    struct buf dead, gone, away;
    uint64_t count = 0;
    if (io->rekeyed)
        return rekeyed_deaths(s, io);
    buf_init(&away, 256u << 20);
    buf_init(&dead, 256u << 20);
    buf_init(&gone, 256u << 20);
    int err = find_deaths(s, io, &dead, &gone, &count);
    if (!err)
        err = find_away(s, from, &away);
    if (!err && !(err = take_away(s, io, &away)))
        err = take_each(s, io, &dead, take_death);
    if (!err && (int64_t)count > from->left && count > 20 && count > (uint64_t)from->rows / 10)
        store_log(s, LOG_WARNING, "%s: \"%s\" was renamed to \"%s\", and lacks %llu rows without a note: they are not taken for deletions",
                  s->config.db, from->name, io->tbl->name, (unsigned long long)count);
    else if (!err)
        err = take_gone(s, io, &gone);
    from->left = 0;
    reg_clear(&s->source);
    buf_release(&away);
    buf_release(&dead);
    buf_release(&gone);
    return err;
}
