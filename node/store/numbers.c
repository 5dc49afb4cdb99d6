/* Numbers. A row that SQLite numbered is known by its birth; its number is one more column of its register, written when somebody, or a mend,
 * gives it another one. A register lives under the number that the application's file shows (its home): for a renumbered row `places`
 * knows which. */
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "node/store/outdated.h"
#include "proto/err.h"

/* ---- where a renumbered row is */

static struct numbered *find(const struct tbl *t, const struct rowid *who, struct buf *name) {
    struct numbered *p = NULL;
    buf_init(name, 1 << 16);
    if (rowid_pack(who, name) == 0)
        HASH_FIND(hh, t->places, name->data, name->len, p);
    return p;
}

static struct numbered *lookup(const struct tbl *t, const struct rowid *who) {
    struct buf name;
    struct numbered *p;
    if (!t->places || who->text || who->kind == IDENT_GIVEN)
        return NULL;
    p = find(t, who, &name);
    buf_release(&name);
    return p;
}

int64_t numbers_shown(const struct tbl *t, const struct rowid *who) {
    const struct numbered *p = lookup(t, who);
    return p ? p->shown : who->number;
}

int64_t numbers_home(const struct tbl *t, const struct rowid *who) {
    const struct numbered *p = lookup(t, who);
    return p && p->homed ? p->home : who->number;
}

/* Is it moved by the projection at hand? */
static void tentative(struct tbl *t, struct numbered *p, bool is, int64_t shown) {
    if (p->tentative)
        HASH_DELETE(by_shown, t->tentative, p);
    p->tentative = is;
    p->shown = shown;
    if (is)
        HASH_ADD(by_shown, t->tentative, shown, sizeof p->shown, p);
}

static void drop(struct tbl *t, struct numbered *p) {
    tentative(t, p, false, p->home);
    HASH_DEL(t->places, p);
    free(p);
}

void numbers_clear(struct tbl *t) {
    struct numbered *p, *next;
    HASH_ITER(hh, t->places, p, next) drop(t, p);
}

static int add(struct tbl *t, const struct rowid *who, struct numbered **out) {
    struct buf name;
    int err = 0;
    *out = find(t, who, &name);
    if (!*out && !name.failed) {
        struct numbered *p = calloc(1, sizeof *p + name.len);
        err = p ? 0 : ERR_NOMEM;
        if (p) {
            memcpy(p->name, name.data, name.len);
            p->name_len = (uint32_t)name.len;
            p->home = p->shown = who->number;
            HASH_ADD(hh, t->places, name, p->name_len, p);
            *out = p;
        }
    }
    err = err ? err : name.failed;
    buf_release(&name);
    return err;
}

static int forget_moved(struct store *s, const struct tbl *t, const struct numbered *p) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "DELETE FROM moved WHERE tbl=%u AND who=?", t->no);
    if (err)
        return err;
    sqlite3_bind_blob64(q, 1, p->name, p->name_len, SQLITE_STATIC);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

int numbers_settle(struct store *s, struct tbl *t, const struct rowid *who, int64_t home) {
    struct numbered *p = lookup(t, who);
    sqlite3_stmt *q;
    int err;
    if (home == who->number) {
        if (!p)
            return 0;
        err = p->homed ? forget_moved(s, t, p) : 0;
        drop(t, p);
        return err;
    }
    if ((err = p ? 0 : add(t, who, &p)) ||
        (err = sql_prepare(s->db, &q, "INSERT OR REPLACE INTO moved VALUES(%u, ?, %lld)", t->no, (long long)home)))
        return err;
    p->home = home;
    tentative(t, p, false, home);
    p->homed = true;
    sqlite3_bind_blob64(q, 1, p->name, p->name_len, SQLITE_STATIC);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

int numbers_leave(struct store *s, struct tbl *t, const struct rowid *who) {
    struct numbered *p = lookup(t, who);
    if (!p || !p->homed)
        return 0;
    p->homed = false;
    p->home = who->number;
    return forget_moved(s, t, p);
}

int numbers_load(struct store *s) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT tbl, who, home FROM moved");
    while (!err && (row = sql_step(q)) != 0) {
        const uint8_t *at = sqlite3_column_blob(q, 1), *end = at + sqlite3_column_bytes(q, 1);
        struct tbl *t = state_table_of(s, (uint32_t)sqlite3_column_int64(q, 0));
        struct rowid who;
        struct numbered *p;
        if ((err = row < 0 ? row : !t ? ERR_CORRUPT : rowid_unpack(&who, &at, end)) || (err = add(t, &who, &p)))
            break;
        p->home = p->shown = sqlite3_column_int64(q, 2);
        p->homed = true;
    }
    sqlite3_finalize(q);
    if (err || (err = sql_prepare(s->db, &q, "SELECT DISTINCT tbl FROM extra")))
        return err;
    while ((row = sql_step(q)) == 1) {
        struct tbl *t = state_table_of(s, (uint32_t)sqlite3_column_int64(q, 0));
        if (t)
            t->extras = true;
    }
    sqlite3_finalize(q);
    return row;
}

/* ---- within a projection: where the file shows rows, before our state says so too */

int numbers_at(const struct tbl *t, int64_t number, struct rowid *who) {
    struct numbered *p;
    HASH_FIND(by_shown, t->tentative, &number, sizeof number, p);
    const uint8_t *at = p ? p->name : NULL;
    return !p ? 0 : rowid_unpack(who, &at, p->name + p->name_len) ? ERR_CORRUPT : 1;
}

static int run_for(struct store *s, sqlite3_stmt *q, const struct rowid *who) {
    struct buf name;
    buf_init(&name, 1 << 16);
    int err = rowid_pack(who, &name);
    if (!err) {
        sqlite3_bind_blob64(q, 1, name.data, name.len, SQLITE_STATIC);
        err = sql_run(q);
    }
    sqlite3_finalize(q);
    buf_release(&name);
    s->moving = true;
    return err;
}

/* Also of a row that has the number of its birth, or a given one: after a crash nothing else would tell that it is this one which the file shows there, and
 * not the one before it. */
int numbers_show_at(struct store *s, struct tbl *t, const struct rowid *who, int64_t number, int64_t seq) {
    struct numbered *p = NULL;
    sqlite3_stmt *q;
    int err = who->kind == IDENT_GIVEN ? 0 : add(t, who, &p);
    if (err ||
        (err =
             sql_prepare(s->db, &q, "INSERT OR REPLACE INTO moving VALUES(%lld, %u, ?, %lld)", (long long)seq, t->no, (long long)number)) ||
        (err = run_for(s, q, who)))
        return err;
    if (p)
        tentative(t, p, true, number);
    return 0;
}

static void hide(struct tbl *t, struct numbered *p) {
    tentative(t, p, false, p->home);
    if (!p->homed)
        drop(t, p);
}

int numbers_hide_row(struct store *s, struct tbl *t, const struct rowid *who) {
    struct numbered *p = lookup(t, who);
    sqlite3_stmt *q;
    if (who->text || !s->moving || (who->kind != IDENT_GIVEN && (!p || !p->tentative)))
        return 0;
    int err = sql_prepare(s->db, &q, "DELETE FROM moving WHERE tbl=%u AND who=?", t->no);
    err = err ? err : run_for(s, q, who);
    if (p)
        hide(t, p);
    return err;
}

static void hide_all(struct store *s) {
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        struct numbered *p, *next;
        if (t->tentative)
            HASH_ITER(hh, t->places, p, next) hide(t, p);
    }
}

int numbers_hide(struct store *s) {
    int err = s->moving ? state_begin(s) : 0;
    hide_all(s);
    if (s->moving && !err && !(err = sql_exec(s->db, "DELETE FROM moving")))
        s->moving = false;
    return err;
}

struct settling {
    struct tbl *tbl;
    struct rowid who;
    int64_t number;
};

/* Registers follow: all of them leave their homes first, since rows may have changed places. */
static int settle(struct store *s, const struct settling *list, uint32_t count) {
    struct reg *r = &s->meant;
    bool home;
    int err = 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        struct rowid place = {.kind = IDENT_GIVEN, .number = numbers_home(list[i].tbl, &list[i].who)};
        if (!(err = rows_find(s, list[i].tbl, &list[i].who, r, &home)) && home && reg_known(r) &&
            !(err = rows_evict(s, list[i].tbl, &place)))
            err = outdated_note(s, list[i].tbl, &list[i].who, place.number);
    }
    for (uint32_t i = 0; i < count && !err; i++) {
        struct tbl *t = list[i].tbl;
        struct rowid place = {.kind = IDENT_GIVEN, .number = list[i].number};
        if ((err = rows_find(s, t, &list[i].who, r, &home)) || !reg_known(r) || (err = rows_evict(s, t, &place)) ||
            (err = numbers_settle(s, t, &list[i].who, list[i].number)) || (err = rows_store(s, t, &list[i].who, r, true)))
            continue;
        err = rows_forget_extra(s, t, &list[i].who);
    }
    return err;
}

int numbers_settle_all(struct store *s, int64_t covered) {
    struct settling *list = NULL;
    uint32_t count = 0, cap = 0;
    sqlite3_stmt *q;
    int row, err = state_begin(s);
    if (err || (err = sql_prepare(s->db, &q, "SELECT tbl, who, shown FROM moving WHERE seq<=%lld", (long long)covered)))
        return err;
    hide_all(s);
    while (!err && (row = sql_step(q)) != 0) {
        const uint8_t *at = sqlite3_column_blob(q, 1), *end = at + sqlite3_column_bytes(q, 1);
        struct settling one = {.tbl = state_table_of(s, (uint32_t)sqlite3_column_int64(q, 0)), .number = sqlite3_column_int64(q, 2)};
        if (row < 0 || !one.tbl || rowid_unpack(&one.who, &at, end)) {
            err = row < 0 ? row : ERR_CORRUPT;
            break;
        }
        if (count == cap) {
            cap = cap ? cap * 2 : 16;
            struct settling *p = realloc(list, cap * sizeof *p);
            err = p ? 0 : ERR_NOMEM;
            list = p ? p : list;
        }
        if (!err)
            list[count++] = one;
    }
    sqlite3_finalize(q);
    if (!err)
        err = settle(s, list, count);
    free(list);
    s->moving = s->moving && err;
    return err ? err : sql_exec(s->db, "DELETE FROM moving");
}

/* ---- the column */

int numbers_column(struct store *s, struct tbl *t, uint32_t *column) {
    int err = 0;
    if (!t->number_column && !(err = state_column(s, t, NUMBER_COLUMN, sizeof NUMBER_COLUMN - 1, column)))
        t->number_column = *column + 1;
    *column = t->number_column - 1;
    return err;
}

int numbers_write(struct store *s, struct tbl *t, struct reg *r, struct write by, int64_t number, const struct seen *seen) {
    static const struct seen nothing = {0};
    struct origins_order o = store_order(s);
    uint32_t column;
    int err = numbers_column(s, t, &column);
    if (err || r->who.kind == IDENT_GIVEN) /* a given key is its row's name, and never moves */
        return err;
    if (!reg_winner(r, column, &o)) {
        struct write birth = {
            .origin = r->who.kind == IDENT_BORN ? r->who.origin : by.origin, .version = r->who.version, .at = r->birth_at};
        reg_write(r, birth, column, (uint64_t)r->who.number, &nothing, &err);
    }
    if (!err)
        reg_write(r, by, column, (uint64_t)number, seen, &err);
    return err;
}

/* Most references are to few rows: one that was found alive and at home, under the number of its birth, is so until a register of its table is
 * written. (All of these are written in rows.c; a transaction that is taken back closes the store.) */
#define FOUND_SLOTS 256u
struct found_row {
    const struct tbl *tbl;
    struct rowid who;
    uint64_t written; /* of the table's registers, then */
};

static struct found_row *found_slot(const struct store *s, const struct tbl *t, const struct rowid *who) {
    return s->found ? &s->found[((uint64_t)who->number + t->no * 31u) % FOUND_SLOTS] : NULL;
}

static bool found_alive(const struct store *s, const struct tbl *t, const struct rowid *who) {
    const struct found_row *f = who->text ? NULL : found_slot(s, t, who);
    return f && f->tbl == t && f->written == t->written && rowid_same(&f->who, who) && !lookup(t, who);
}

static void note_alive(struct store *s, const struct tbl *t, const struct rowid *who) {
    if (who->text || lookup(t, who) || (!s->found && !(s->found = calloc(FOUND_SLOTS, sizeof *s->found))))
        return;
    *found_slot(s, t, who) = (struct found_row){t, *who, t->written};
}

int64_t numbers_today(struct store *s, const struct tbl *t, const struct rowid *who) {
    struct origins_order o = store_order(s);
    const struct tbl *named = t->io && who->kind != IDENT_GIVEN ? t->io->key_ref : NULL;
    bool home;
    if ((t->number_column || named) && t->shape == SHAPE_NUMBER && !found_alive(s, t, who) && rows_find(s, t, who, &s->meant, &home) == 0 &&
        reg_known(&s->meant)) {
        if (!reg_alive(&s->meant, &o))
            return named ? numbers_today(s, named, who) : numbers_wanted(s, t, &s->meant);
        if (home)
            note_alive(s, t, who);
    }
    return numbers_shown(t, who);
}

int64_t numbers_in_file(struct store *s, const struct tbl *t, const struct rowid *who) {
    const struct numbered *p = lookup(t, who);
    bool home;
    if (p || !t->number_column || t->shape != SHAPE_NUMBER || who->kind == IDENT_GIVEN || rows_find(s, t, who, &s->meant, &home))
        return numbers_shown(t, who);
    return home ? who->number : numbers_today(s, t, who);
}

static int wait_for(struct store *s, const struct tbl *t, const struct rowid *who) {
    struct origins_order o = store_order(s);
    bool home;
    const struct numbered *n = lookup(t, who);
    bool joins = who->kind == IDENT_ADOPTED; /* then the row may come after what refers to it */
    bool homed = n && n->homed;              /* it may have died since */
    if ((!t->extras && !joins && !homed) || t->shape != SHAPE_NUMBER || (n && n->tentative) || found_alive(s, t, who))
        return 0;
    int err = rows_find(s, t, who, &s->meant, &home);
    if (err || (!reg_known(&s->meant) && !joins))
        return err;
    if (reg_known(&s->meant)) {
        bool alive = reg_alive(&s->meant, &o);
        if (alive && home)
            note_alive(s, t, who);
        return !alive ? 2 : !home;
    }
    struct rowid place = {.kind = IDENT_GIVEN, .number = who->number};
    err = rows_at_home(s, t, &place, &s->meant);
    bool taken = !err && reg_known(&s->meant) && reg_alive(&s->meant, &o);
    reg_clear(&s->meant);
    s->meant.who = *who;
    return err ? err : taken;
}

int numbers_wait(struct store *s, const struct tbl *t, const struct rowid *who) {
    int waits = wait_for(s, t, who);
    if (waits == 1)
        s->waits = (struct waited){t, *who};
    return waits;
}

int64_t numbers_wanted(const struct store *s, const struct tbl *t, const struct reg *r) {
    struct origins_order o = store_order(s);
    if (t->io && t->io->key_ref && r->who.kind != IDENT_GIVEN) /* its key is a reference, and follows */
        return numbers_shown(t->io->key_ref, &r->who);
    const struct cell *c = t->number_column && !r->who.text ? reg_winner(r, t->number_column - 1, &o) : NULL;
    return c ? (int64_t)c->hash : r->who.number;
}

/* ---- AUTOINCREMENT */

/* Who numbers rows by AUTOINCREMENT may never give a number again, also not one whose row came and went before it was shown here. */
bool numbers_sequence_behind(const struct tio *io) { return io->tbl && io->table->autoincrement && io->tbl->top > io->sequence; }

int numbers_raise_sequences(struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tio *io = &s->tios[i];
        if (!numbers_sequence_behind(io))
            continue;
        int err = sql_exec(s->app.writer,
                           "INSERT INTO main.sqlite_sequence(name, seq) SELECT %Q, 0 WHERE NOT EXISTS (SELECT 1 FROM main.sqlite_sequence "
                           "WHERE name=%Q); UPDATE main.sqlite_sequence SET seq=%lld WHERE name=%Q AND seq<%lld",
                           io->table->name, io->table->name, (long long)io->tbl->top, io->table->name, (long long)io->tbl->top);
        if (err)
            return err;
    }
    return 0;
}
