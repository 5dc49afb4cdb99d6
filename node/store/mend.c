/* Mends: what merging made of two authors' changes, and this file's constraints refuse, is repaired by a change of ours (CHANGE_MEND, CHANGE_REVIVE),
 * which replicates as any other.
 *
 *   refused                      mend
 *   the same UNIQUE value in     the later write keeps it; in the other row a column of the index becomes NULL, or where that is not
 *   two rows                     allowed a value made of the old one and of the row's identity
 *   the same, entered twice      they are one row from now on (twice.c, unify.c)
 *   CHECK, NOT NULL              those columns that were written first go back to what the file shows, where it shows the newest of the others
 *   a parent that is gone        the parent lives again, or by its table's policy the child goes, too (clash.c decides)
 *
 * The happy path: a projection has written what it could, and a row is refused. What it would throw out is found by writing it with OR REPLACE, to be taken
 * back (the preupdate hook tells; so any index will do: of many columns, partial, on expressions). The mend is tried in the file, planned, and the rest
 * of the projection goes on as if it had been made. Then all is taken back, the mends are written (mend_write) and become durable, and the
 * projection is done again: the application sees what came and its mend in one transaction.
 *
 * A mend's stamp is just above what it mends, and who loses, and by which column, is told from registers and schema alone: servers that find the same
 * clash write the same. It supersedes nobody's value: that stays a sibling, and so an open conflict. What cannot be mended is parked: a row
 * that is not known, what a server without that constraint wrote, values that the file refuses as well. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/mend.h"
#include "node/store/same.h"
#include "proto/err.h"

struct mends {
    struct arena arena;
    struct plan *first;
};

/* ---- small things */

int mend_copy_bytes(struct arena *a, const uint8_t **p, size_t len) {
    uint8_t *copy = *p ? arena_alloc(a, len + 1) : NULL;
    if (!*p)
        return 0;
    if (!copy)
        return ERR_NOMEM;
    if (len)
        memcpy(copy, *p, len);
    *p = copy;
    return 0;
}

bool mend_same_place(const struct rowid *a, const struct rowid *b) {
    return a->text ? b->text && a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0 : !b->text && a->number == b->number;
}

static struct mends *mends_of(struct store *s) {
    if (!s->mends)
        s->mends = calloc(1, sizeof *s->mends);
    return s->mends;
}

void mend_forget(struct store *s) {
    if (s->mends)
        arena_release(&s->mends->arena);
    free(s->mends);
    s->mends = NULL;
}

bool mend_planned(const struct store *s) { return s->mends && s->mends->first; }

/* Schemas are upgraded server by server: what this table demanded under each schema that was ever ours. */
int mend_remember_schema(struct store *s) {
    int64_t known;
    int err = 0;
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        const struct tio *io = &s->tios[i];
        long long schema = (long long)s->schema.hash, hash = (long long)io->table->constraints;
        long long table = io->tbl ? (long long)io->tbl->hash : 0;
        if (io->tbl && !(err = sql_int(s->db, 0, &known, "SELECT count(*) FROM demanded WHERE schema=%lld AND name=%lld", schema, table)) &&
            !known)
            err = sql_exec(s->db, "INSERT INTO demanded VALUES(%lld, %lld, %lld)", schema, table, hash);
    }
    return err;
}

/* Who wrote this had the same constraints on the table: what he wrote there was right by them. */
int mend_shares_schema(struct store *s, const struct tbl *t, const struct write *w, bool *shares) {
    struct bytes *b;
    struct batch_head h;
    int64_t same = 0;
    int err = log_read(s, w->origin, w->version, &b);
    *shares = err == ERR_NOTFOUND; /* older than the log */
    if (err)
        return *shares ? 0 : err;
    if (!(err = batch_head_read(&h, b->data, b->len))) {
        if (h.schema != s->schema.hash)
            err = sql_int(s->db, 0, &same, "SELECT count(*) FROM demanded WHERE schema=%lld AND name=%lld AND hash=%lld",
                          (long long)h.schema, (long long)t->hash, (long long)t->io->table->constraints);
        *shares = h.schema == s->schema.hash || same;
        batch_head_release(&h);
    }
    bytes_unref(b);
    return err;
}

bool mend_is_key(const struct tio *io, uint32_t at) { return io->table->columns[io->order[at]].key_place > 0; }

/* Is this the name of a column, as a word of the text? */
bool mend_names_column(const char *text, size_t len, const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; n && i + n <= len; i++) {
        bool begins = i == 0 || !(isalnum((unsigned char)text[i - 1]) || text[i - 1] == '_');
        bool ends = i + n == len || !(isalnum((unsigned char)text[i + n]) || text[i + n] == '_');
        if (begins && ends && sqlite3_strnicmp(text + i, name, (int)n) == 0)
            return true;
    }
    return false;
}

/* ---- trying it in the file */

int mend_try_begin(struct refused *f) { return sql_exec(f->s->app.writer, "SAVEPOINT starling_try"); }

int mend_try_end(struct refused *f, int err) {
    int back = sql_exec(f->s->app.writer, "ROLLBACK TO starling_try; RELEASE starling_try");
    return back ? back : err;
}

/* A row as the file shows it at this moment. */
int mend_read_values(struct refused *f, const struct rowid *place, struct value **out) {
    struct row_look look = {.io = f->io, .place = *place};
    int err = drain_look(f->s, &look, f->io->peek);
    if (!err && !look.present)
        err = ERR_NOTFOUND;
    if (!err && !(*out = arena_alloc(f->arena, (f->io->count + 1) * sizeof **out)))
        err = ERR_NOMEM;
    for (uint32_t i = 0; i < f->io->count && !err; i++) {
        (*out)[i] = look.values[i];
        err = mend_copy_bytes(f->arena, &(*out)[i].p, look.values[i].len);
    }
    sqlite3_reset(f->io->peek);
    return err;
}

/* Sets a column in what is to be written. */
void mend_op_set(struct refused *f, uint32_t at, const struct value *v) {
    struct op *op = &f->op;
    uint32_t i = 0;
    while (i < op->count && op->columns[i] != f->io->numbers[at])
        i++;
    op->columns[i] = f->io->numbers[at]; /* mend_row() left room for every column */
    op->values[i] = *v;
    op->count += i == op->count;
}

int mend_write_column(struct refused *f, const struct rowid *place, uint32_t at, struct value *v) {
    struct op op = {.kind = CHANGE_UPDATE, .tbl = f->io->tbl, .who = *place, .count = 1, .columns = &f->io->numbers[at], .values = v};
    return project_write(f->s, &op);
}

/* Mends so far, as if they had been made. */
int mend_write_planned(struct refused *f) {
    int err = 0;
    for (struct plan *p = f->plans; p && !err; p = p->next)
        if (!rowid_same(&p->who, &f->self.who))
            err = mend_write_column(f, &p->who, p->at, &p->value);
    return err;
}

int mend_plan_add(struct refused *f, const struct party *who, uint32_t at, const struct value *v, uint64_t stamp) {
    struct plan *p = arena_alloc(f->arena, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    *p = (struct plan){.next = f->plans, .tbl = f->io->tbl, .who = who->who, .kind = CHANGE_MEND, .at = at, .value = *v, .stamp = stamp};
    f->plans = p;
    return 0;
}

/* ---- CHECK, NOT NULL: the row keeps its last valid form */

static bool changes(const struct refused *f, uint32_t at) {
    for (uint32_t i = 0; i < f->op.count; i++)
        if (f->op.columns[i] == f->io->numbers[at])
            return true;
    return false;
}

/* The columns that change, or those that stay, in the order in which they were written. If the reason names some of them (the text of a CHECK), these. */
static uint32_t columns_of(const struct refused *f, const char *why, bool changing, uint32_t *out, struct stamp *stamps) {
    struct origins_order o = store_order(f->s);
    uint32_t n = 0;
    for (int named = 1; named >= 0 && !n; named--)
        for (uint32_t i = 0; i < f->io->count; i++) {
            const struct cell *c = reg_winner(&f->self.reg, f->io->numbers[i], &o);
            if (!c || mend_is_key(f->io, i) || changes(f, i) != changing ||
                (named && !mend_names_column(why, strlen(why), f->io->names[i])))
                continue;
            struct stamp s = reg_cell_stamp(&f->self.reg, c);
            uint32_t k = n++;
            for (; k > 0 && stamp_cmp(stamps[k - 1], s, &o) > 0; k--) {
                out[k] = out[k - 1];
                stamps[k] = stamps[k - 1];
            }
            out[k] = i;
            stamps[k] = s;
        }
    return n;
}

/* Does the file take the row, if these columns stay as it shows them? */
static int try_form(struct refused *f, const uint32_t *at, uint32_t count) {
    struct op whole = f->op;
    f->op.columns = arena_alloc(f->arena, (whole.count + 1) * sizeof *whole.columns);
    if (!f->op.columns)
        return ERR_NOMEM;
    struct value *values = arena_alloc(f->arena, (whole.count + 1) * sizeof *values);
    if (!values)
        return ERR_NOMEM;
    f->op.values = values;
    f->op.count = 0;
    for (uint32_t i = 0; i < whole.count; i++) {
        bool back = false;
        for (uint32_t k = 0; k < count; k++)
            back = back || whole.columns[i] == f->io->numbers[at[k]];
        if (back)
            continue;
        f->op.columns[f->op.count] = whole.columns[i];
        values[f->op.count++] = whole.values[i];
    }
    int err = f->op.count ? mend_try_begin(f) : 0;
    if (f->op.count && !err)
        err = mend_try_end(f, project_write(f->s, &f->op));
    if (err)
        f->op = whole;
    return err;
}

static int authors_share(struct refused *f, const uint32_t *at, uint32_t count, bool *shares) {
    struct origins_order o = store_order(f->s);
    int err = 0;
    *shares = true;
    for (uint32_t i = 0; i < count && *shares && !err; i++) {
        const struct cell *c = reg_winner(&f->self.reg, f->io->numbers[at[i]], &o);
        err = mend_shares_schema(f->s, f->io->tbl, &f->self.reg.writes[c->write], shares);
    }
    return err;
}

/* Two authors' columns, each right where it was written, are refused together: those that were written first go back to what the file shows. Only where
 * the file shows the newest of them: where it does not, the row waits for that server's mend. */
static int mend_form(struct refused *f, const char *why) {
    struct origins_order o = store_order(f->s);
    size_t n = f->io->count + 1;
    uint32_t *out = arena_alloc(f->arena, n * sizeof *out), *stay = arena_alloc(f->arena, n * sizeof *stay);
    struct stamp *written = arena_alloc(f->arena, n * sizeof *written), *stayed = arena_alloc(f->arena, n * sizeof *stayed);
    struct value *shown;
    bool shares;
    if (!out || !stay || !written || !stayed)
        return ERR_NOMEM;
    uint32_t changing = columns_of(f, why, true, out, written), staying = columns_of(f, why, false, stay, stayed);
    if (f->op.kind != CHANGE_UPDATE || !changing || !staying)
        return 0;
    int err = mend_read_values(f, &f->self.who, &shown);
    if (err || (err = authors_share(f, out, changing, &shares)) || !shares || (err = authors_share(f, stay + staying - 1, 1, &shares)) ||
        !shares)
        return err == ERR_NOTFOUND ? 0 : err;
    uint32_t from = 0, count = 1;
    while (from < changing && (err = try_form(f, out + from, 1)) == ERR_CONSTRAINT)
        from++;
    if (from == changing) {
        from = 0;
        count = changing;
        err = try_form(f, out, count);
    }
    struct stamp newest = stayed[staying - 1];
    if (err || stamp_cmp(written[from + count - 1], newest, &o) >= 0)
        return err == ERR_CONSTRAINT ? 0 : err;
    for (uint32_t i = from; i < from + count && !err; i++)
        err = mend_plan_add(f, &f->self, out[i], &shown[out[i]], stamp_above(newest.at));
    return err ? err : 1;
}

/* ---- the row that is refused */

static int refused_init(struct refused *f, struct store *s, const struct op *op, struct arena *arena) {
    struct tio *io = op->tbl->io;
    bool home;
    memset(f, 0, sizeof *f);
    f->s = s;
    f->io = io;
    f->arena = arena;
    f->op = *op;
    f->op.count = 0;
    f->self.who = op->who;
    reg_init(&f->self.reg);
    f->op.columns = arena_alloc(arena, (op->count + io->count + 1) * sizeof *f->op.columns);
    f->op.values = arena_alloc(arena, (op->count + io->count + 1) * sizeof *f->op.values);
    if (!f->op.columns || !f->op.values || mend_copy_bytes(arena, &f->self.who.key, op->who.key_len))
        return ERR_NOMEM;
    f->op.who = f->self.who;
    for (uint32_t i = 0; i < op->count; i++)
        if (op->columns[i] < io->by_number_count && io->by_number[op->columns[i]]) {
            f->op.columns[f->op.count] = op->columns[i];
            f->op.values[f->op.count++] = op->values[i];
        }
    int err = rows_find(s, op->tbl, &f->self.who, &f->self.reg, &home);
    f->self.reg.who = f->self.who;
    return err;
}

static void keep_plans(struct refused *f, struct mends *m) {
    while (f->plans) {
        struct plan *p = f->plans, **at = &m->first;
        f->plans = p->next;
        while (*at)
            at = &(*at)->next;
        p->next = NULL;
        *at = p;
    }
}

int mend_row(struct store *s, const struct op *op, int code, const char *why) {
    struct mends *m = s->mending ? mends_of(s) : NULL;
    struct refused f;
    bool unique = code == SQLITE_CONSTRAINT_UNIQUE, form = code == SQLITE_CONSTRAINT_CHECK || code == SQLITE_CONSTRAINT_NOTNULL;
    if (!s->mending || !(unique || form))
        return 0;
    int err = m ? refused_init(&f, s, op, &m->arena) : ERR_NOMEM;
    if (err == ERR_NOMEM && !m)
        return err;
    if (!err && (err = sql_exec(s->app.writer, "SAVEPOINT starling_mend")) == 0) {
        int mended = unique ? meet_mend(&f) : mend_form(&f, why);
        if (f.same) /* all of it is written again, then with both as one */
            ;
        else if (mended == 1 && (mended = mend_write_planned(&f)) == 0 && (mended = f.op.count ? project_write(s, &f.op) : 0) == 0)
            mended = 1;
        if (mended != 1 || f.same)
            err = sql_exec(s->app.writer, "ROLLBACK TO starling_mend");
        sql_exec(s->app.writer, "RELEASE starling_mend");
        if (mended == 1)
            keep_plans(&f, m);
        err = err ? err : mended == ERR_CONSTRAINT ? 0 : mended;
    }
    reg_release(&f.self.reg);
    free(f.thrown);
    return err;
}

/* Nothing is refused here: what a policy calls a key is not in the schema. */
int mend_alike(struct store *s, struct tbl *t, const struct rowid *who, const struct rowid *place) {
    struct mends *m = s->mending ? mends_of(s) : NULL;
    const struct op op = {.kind = CHANGE_UPDATE, .tbl = t, .who = *who};
    struct refused f;
    if (!s->mending)
        return 0;
    if (!m)
        return ERR_NOMEM;
    int err = refused_init(&f, s, &op, &m->arena);
    if (!err && (err = meet_alike(&f, place)) == 1) {
        err = mend_write_planned(&f);
        if (!err && f.op.count)
            err = project_write(s, &f.op);
        keep_plans(&f, m);
        err = err ? err : 1;
    }
    reg_release(&f.self.reg);
    free(f.thrown);
    return err == ERR_CONSTRAINT ? 0 : err;
}

/* ---- orphans */

static int plan_life(struct store *s, struct tbl *t, struct rowid who, enum change_kind kind, uint64_t stamp) {
    struct mends *m = mends_of(s);
    struct plan **at = m ? &m->first : NULL;
    if (!m)
        return ERR_NOMEM;
    for (; *at; at = &(*at)->next)
        if ((*at)->kind == kind && (*at)->tbl == t && rowid_same(&(*at)->who, &who))
            return 1;
    struct plan *p = arena_alloc(&m->arena, sizeof *p);
    if (!p || mend_copy_bytes(&m->arena, &who.key, who.key_len))
        return ERR_NOMEM;
    *(*at = p) = (struct plan){.tbl = t, .who = who, .kind = kind, .stamp = stamp};
    return 1;
}

/* Of rows that are one: those that died together. */
static int revive_all(struct store *s, struct tbl *t, const struct rowid *root) {
    struct arena arena = {0};
    struct rowid *list;
    uint32_t count;
    struct reg own;
    bool home;
    reg_init(&own);
    int planned = 0, err = dead_together(s, t, root, &arena, &list, &count);
    for (uint32_t i = 0; i < count && err >= 0; i++)
        if (!(err = unify_own(s, t, &list[i], &own, &home)))
            planned = err = plan_life(s, t, list[i], CHANGE_REVIVE, stamp_above(own.died.at));
    reg_release(&own);
    arena_release(&arena);
    return err < 0 ? err : planned;
}

static int revive(struct store *s, struct tbl *t, const struct rowid *who, bool by_place) {
    struct origins_order o = store_order(s);
    struct reg r;
    bool home;
    if (!s->mending)
        return 0;
    reg_init(&r);
    int err = by_place ? rows_at_home(s, t, who, &r) : rows_find(s, t, who, &r, &home);
    struct rowid root = by_place ? r.who : *who;
    if (!err && reg_known(&r) && !reg_alive(&r, &o))
        err = unify_is(s, t, &root) ? revive_all(s, t, &root) : plan_life(s, t, root, CHANGE_REVIVE, stamp_above(r.died.at));
    reg_release(&r);
    return err;
}

int mend_revive(struct store *s, struct tbl *t, const struct rowid *place) { return revive(s, t, place, true); }

int mend_revive_row(struct store *s, struct tbl *t, const struct rowid *who) { return revive(s, t, who, false); }

/* ---- the same row */

int mend_plan_same(struct store *s, struct tbl *t, const struct reg *a, const struct reg *b) {
    struct mends *m = mends_of(s);
    struct plan **at = m ? &m->first : NULL;
    if (!m)
        return ERR_NOMEM;
    for (; *at; at = &(*at)->next)
        if ((*at)->kind == CHANGE_SAME && (*at)->tbl == t &&
            ((rowid_same(&(*at)->who, &a->who) && rowid_same(&(*at)->other, &b->who)) ||
             (rowid_same(&(*at)->who, &b->who) && rowid_same(&(*at)->other, &a->who))))
            return 1;
    struct plan *p = arena_alloc(&m->arena, sizeof *p);
    uint64_t x = reg_top(a), y = reg_top(b);
    if (!p)
        return ERR_NOMEM;
    *(*at = p) = (struct plan){.tbl = t,
                               .who = a->who,
                               .kind = CHANGE_SAME,
                               .stamp = stamp_above(x > y ? x : y),
                               .other = b->who,
                               .rank = twice_rank(a),
                               .others_rank = twice_rank(b)};
    return 1;
}

int mend_cascade_row(struct store *s, struct tbl *t, const struct rowid *who) {
    struct origins_order o = store_order(s);
    struct reg r;
    bool home;
    if (!s->mending)
        return 0;
    reg_init(&r);
    int err = rows_find(s, t, who, &r, &home);
    if (!err && reg_known(&r) && reg_alive(&r, &o))
        err = plan_life(s, t, *who, CHANGE_DELETE, stamp_above(reg_top(&r)));
    reg_release(&r);
    return err;
}

/* ---- writing them */

static int pend(struct store *s, const struct plan *p, bool present, const struct shown_cell *cells, uint32_t count) {
    struct pending_row *row = pending_find(s, p->tbl, &p->who);
    if (row)
        return pending_touch(s, row, cells, count);
    int err = pending_set(s, p->tbl, &p->who, present, cells, present ? count : 0, NULL, &row);
    return err ? err : pending_store(s, row);
}

static int write_mend(struct store *s, const struct plan *p, struct reg *r, bool home, struct arena *arena) {
    struct origins_order o = store_order(s);
    struct tio *io = p->tbl->io;
    const struct column_set *set = tables_columns(io, &p->at, 1);
    struct value *row = arena_alloc(arena, (io->count + 1) * sizeof *row);
    uint64_t *hashes = arena_alloc(arena, (io->count + 1) * sizeof *hashes);
    if (!set || !row || !hashes)
        return ERR_NOMEM;
    memset(row, 0, (io->count + 1) * sizeof *row); /* all NULL: what else is in the row is not told, nor looked at */
    row[p->at] = p->value;
    hashes[p->at] = value_hash(&p->value);
    const struct cell *c = reg_winner(r, io->numbers[p->at], &o);
    struct shown_cell shown = {io->numbers[p->at], c ? c->hash : 0};
    int err = tables_converts(io, p->at, &p->value) ? tables_convert(s, io, p->at, &p->value, &hashes[p->at]) : 0;
    if (err || shown.hash == hashes[p->at])
        return err;
    if ((err = drain_author(s, io, r, home, CHANGE_MEND, set, row, hashes, p->stamp)))
        return err;
    return pend(s, p, true, &shown, 1);
}

/* What of it the file shows, if its deletion was not shown yet, is told anew under the next lock. */
static int write_revival(struct store *s, const struct plan *p, struct reg *r, bool home) {
    struct rowid root;
    int err = drain_author(s, p->tbl->io, r, home, CHANGE_REVIVE, NULL, NULL, NULL, p->stamp);
    int junior = err ? err : same_root(s, p->tbl, &p->who, &s->same->key, &root);
    if (junior < 0 || (!junior && (err = pend(s, p, false, NULL, 0))))
        return junior < 0 ? junior : err;
    struct pending_row *row = pending_find(s, p->tbl, &root);
    if (row)
        row->recount = row->present;
    return 0;
}

/* The file shows it, if nothing about it is pending: what is pending knows better. */
static int write_cascade(struct store *s, const struct plan *p, struct reg *r, bool home) {
    int err = drain_cascade(s, p->tbl->io, r, home, p->stamp);
    return err ? err : pend(s, p, true, NULL, 0);
}

int mend_write(struct store *s) {
    struct origins_order o = store_order(s);
    struct reg r;
    if (!mend_planned(s))
        return 0;
    reg_init(&r);
    int err = pending_map_flights(s);
    if (!err)
        err = drain_begin_changes(s, 0); /* nobody decided anything: what was seen meanwhile does not count */
    for (const struct plan *p = s->mends->first; p && !err; p = p->next) {
        bool home;
        bool revives = p->kind == CHANGE_REVIVE;
        if (p->kind == CHANGE_SAME) {
            err = unify_write(s, p->tbl, &p->who, p->rank, &p->other, p->others_rank, SAME_ONE, p->stamp);
            continue;
        }
        err = rows_find(s, p->tbl, &p->who, &r, &home);
        r.who = p->who;
        if (!err && reg_alive(&r, &o) != revives) {
            s->mended_rows++;
            err = revives                    ? write_revival(s, p, &r, home)
                  : p->kind == CHANGE_DELETE ? write_cascade(s, p, &r, home)
                                             : write_mend(s, p, &r, home, &s->mends->arena);
        }
    }
    reg_release(&r);
    mend_forget(s);
    return err ? err : drain_seal(s, false);
}

bool mend_is_unique(struct store *s, const struct tbl *t, uint32_t column) {
    int64_t n = 0;
    if (t->io && column < t->io->by_number_count && t->io->by_number[column] && policies_key_has(t->io, t->io->by_number[column] - 1))
        return true;
    if (t->io)
        (void)sql_int(
            s->app.reader, 0, &n,
            "SELECT count(*) FROM pragma_index_list(%Q, 'main') AS l, pragma_index_info(l.name, 'main') AS i WHERE l.\"unique\" AND "
            "i.name=%Q",
            t->io->table->name, t->columns[column]);
    return n > 0;
}

bool mend_by_unique(struct store *s, const struct tbl *t, const struct cell *c) {
    const struct value null = {.type = VALUE_NULL};
    return c->hash == value_hash(&null) || mend_is_unique(s, t, c->column);
}
