/* A table that is made anew (create, copy, drop, rename), as tools do it that cannot change one in place. What lies between these statements
 * is not to be lost: what others write meanwhile would be shown in the table that is about to go. And a column that has another name
 * afterwards is the same column, if it holds the same. */
#include <stdlib.h>
#include <string.h>

#include "node/store/notes.h"
#include "proto/err.h"

#define SAMPLE_ROWS 200

static bool replicated(const struct table *t) { return !t->unsupported && !t->excluded; }

static uint32_t shared_columns(const struct table *a, const struct table *b) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->columns_count; i++)
        for (uint32_t k = 0; k < b->columns_count; k++)
            n += sqlite3_stricmp(a->columns[i].name, b->columns[k].name) == 0;
    return n;
}

bool rebuilt_begun(const struct store *s, const struct table *fresh) {
    for (uint32_t i = 0; i < s->schema.count; i++) {
        const struct table *t = &s->schema.tables[i];
        if (t != fresh && replicated(t) && !moves_is_new(s, t) && 2 * shared_columns(t, fresh) >= t->columns_count)
            return true;
    }
    return false;
}

/* What the file showed in this column of a row before: 1, or 0 where nothing is known. */
static int shown_before(struct store *s, struct tbl *t, const struct rowid *place, uint32_t column, uint64_t *hash) {
    struct origins_order o = store_order(s);
    int err = rows_at_home(s, t, place, &s->reg);
    if (err || !reg_known(&s->reg))
        return err;
    struct rowid who = s->reg.who;
    const struct cell *c = reg_winner(&s->reg, column, &o);
    struct pending_row *p = pending_find(s, t, &who);
    if (!c || (p && !p->present))
        return 0;
    *hash = c->hash;
    if (p)
        (void)pending_shown(p, column, hash);
    return *hash != 0;
}

/* Is this value (hashed: now) what a column of another type held as `was`? Then nobody wrote it: the rebuild gave the column its type. */
int rebuilt_retyped(struct store *s, struct tio *io, uint32_t i, const struct value *v, uint64_t now, uint64_t was, bool *retyped) {
    struct value forms[3];
    char text[64];
    uint32_t n = 0;
    *retyped = false;
    if (v->type == VALUE_TEXT && v->len && v->len < sizeof text) {
        char *end;
        memcpy(text, v->p, v->len);
        text[v->len] = 0;
        double x = strtod(text, &end);
        if (*end)
            return 0;
        forms[n++] = (struct value){.type = VALUE_INT, .as.i = strtoll(text, NULL, 10)};
        forms[n++] = (struct value){.type = VALUE_FLOAT, .as.f = x};
    } else if (v->type == VALUE_INT || v->type == VALUE_FLOAT) {
        if (v->type == VALUE_INT)
            sqlite3_snprintf(sizeof text, text, "%lld", (long long)v->as.i);
        else
            sqlite3_snprintf(sizeof text, text, "%!.15g", v->as.f);
        forms[n++] = (struct value){.type = VALUE_TEXT, .p = (const uint8_t *)text, .len = strlen(text)};
        if (v->type == VALUE_INT)
            forms[n++] = (struct value){.type = VALUE_FLOAT, .as.f = (double)v->as.i};
        else if (v->as.f > -9e15 && v->as.f < 9e15)
            forms[n++] = (struct value){.type = VALUE_INT, .as.i = (int64_t)v->as.f};
    }
    for (uint32_t k = 0; k < n && !*retyped; k++) {
        uint64_t hash;
        if (value_hash(&forms[k]) != was || !tables_converts(io, i, &forms[k]))
            continue;
        int err = tables_convert(s, io, i, &forms[k], &hash);
        if (err)
            return err;
        *retyped = hash == now;
    }
    return 0;
}

int rebuilt_same(struct store *s, struct tio *io, uint32_t from, uint32_t column, bool in_place, bool *same) {
    struct row_cursor at;
    uint32_t at_new = io->by_number[column] - 1, equal = 0, known = 0, telling = 0;
    int err, row = 0;
    *same = false;
    if (io->table->key_kind == KEY_ROWID) /* they are found again by all of their content */
        return 0;
    row_cursor_init(&at);
    err = row_cursor_open(s, io, &at, SAMPLE_ROWS);
    while (!err && (row = sql_step(at.stmt)) == 1) {
        struct row_look look = {0};
        uint64_t hash;
        if (!(err = row_cursor_row(io, &at, &look)) && (err = shown_before(s, io->tbl, &look.place, from, &hash)) == 1) {
            known++;
            bool alike = value_hash(&look.values[at_new]) == hash;
            equal += alike;
            telling += alike && look.values[at_new].type != VALUE_NULL;
            err = 0;
        }
        free(look.values);
    }
    row_cursor_release(&at);
    *same = known && (in_place ? equal : telling) * 2 >= known; /* what was written just before, or with it, is not known yet */
    return err ? err : row;
}

/* ---- rows without notes that somebody refers to */

struct meant { /* a row whose note is missing, perhaps */
    struct {
        uint64_t tbl;
        int64_t number;
    } key;
    struct tbl *t;
    const struct note *by; /* what was noted of a row that refers to it */
    bool missing;
    UT_hash_handle hh;
};

struct search {
    struct store *s;
    struct notes *n;
    struct meant *all; /* in the order in which they were found */
    bool locked;
};

static bool being_read(const struct tbl *t) { return t->io && t->shape == SHAPE_NUMBER && t->placed > 0 && !t->captured && !t->lost; }

/* Notes beyond those of this drain tell what became of it. */
static int noted_later(const struct search *f, const struct meant *m) {
    int64_t any = 0;
    int err = f->n->more ? sql_int(f->locked ? f->s->app.writer : f->s->app.reader, 0, &any,
                                   "SELECT EXISTS (SELECT 1 FROM main._starling_dirty WHERE seq>%lld AND tbl=%lld AND k0=%lld)",
                                   (long long)f->n->last_seq, (long long)m->t->placed, (long long)m->key.number)
                         : 0;
    return err ? err : any != 0;
}

/* 1: neither a note nor a register tells of it. */
static int is_untold(const struct search *f, const struct meant *m) {
    struct store *s = f->s;
    const struct rowid place = {.kind = IDENT_GIVEN, .number = m->key.number};
    struct origins_order o = store_order(s);
    struct rowid who;
    int err = drain_birth(s, m->t, m->key.number, INT64_MAX, &who);
    if (err || (err = rows_at_home(s, m->t, &place, &s->meant)))
        return err < 0 ? err : 0;
    if (reg_known(&s->meant)) {
        who = s->meant.who;
        const struct pending_row *p = pending_find(s, m->t, &who);
        if (p ? p->present : reg_alive(&s->meant, &o))
            return 0;
    } else if ((err = same_by_number(s, m->t, m->key.number, &who))) {
        return err < 0 ? err : 0;
    }
    err = noted_later(f, m);
    return err < 0 ? err : !err;
}

static int add_meant(struct search *f, struct tbl *t, int64_t number, const struct note *by) {
    struct meant *m = calloc(1, sizeof *m), *known;
    if (!m)
        return ERR_NOMEM;
    m->key.tbl = t->no;
    m->key.number = number;
    m->t = t;
    m->by = by;
    HASH_FIND(hh, f->all, &m->key, sizeof m->key, known);
    if (known) {
        free(m);
        return 0;
    }
    HASH_ADD(hh, f->all, key, sizeof m->key, m);
    return 0;
}

/* Whom the row refers to. 1: it is there. */
static int look_at(struct search *f, struct row_look *look, const struct note *by) {
    struct tio *io = look->io;
    sqlite3_stmt *q = f->locked ? io->peek : io->read;
    int err = drain_look(f->s, look, q);
    for (uint32_t i = 0; i < io->count && !err && look->present; i++)
        if (io->ref_to[i] && being_read(io->ref_to[i]) && look->values[i].type == VALUE_INT)
            err = add_meant(f, io->ref_to[i], look->values[i].as.i, by);
    if (!err && look->present && io->key_ref && being_read(io->key_ref))
        err = add_meant(f, io->key_ref, look->place.number, by);
    sqlite3_reset(q);
    return err ? err : look->present;
}

static int search_notes(struct search *f) {
    struct notes *n = f->n;
    int err = 0;
    for (uint32_t i = 0, to; i < n->count && err >= 0; i = to) {
        for (to = i + 1; to < n->count && notes_same_row(n, &n->list[i], &n->list[to]);)
            to++;
        struct row_look look;
        notes_look(n, i, to, &look);
        if (being_read(look.io->tbl) && !look.born && !look.died) /* the first that was noted of it is an UPDATE */
            err = add_meant(f, look.io->tbl, look.place.number, &n->list[i]);
        if (err >= 0 && look.io->telling)
            err = look_at(f, &look, &n->list[i]);
    }
    return err < 0 ? err : 0;
}

/* The notes that our triggers would have made, before all others. */
static int add_notes(struct search *f, uint32_t count) {
    struct notes *n = f->n;
    struct note *list = malloc((n->count + count) * sizeof *list);
    if (!list)
        return ERR_NOMEM;
    memcpy(list, n->list, n->count * sizeof *list);
    for (const struct meant *m = f->all; m; m = m->hh.next)
        if (m->missing)
            list[n->count++] =
                (struct note){.io = m->t->io, .seq = 0, .ms = m->by->ms, .at = m->by->at, .number = m->key.number, .kind = NOTE_INSERT};
    free(n->list);
    n->list = list;
    n->cap = n->count;
    return 0;
}

int rebuilt_note(struct store *s, struct notes *n, bool locked, bool *any) {
    struct search f = {.s = s, .n = n, .locked = locked};
    bool reading = false;
    uint32_t count = 0;
    *any = false;
    for (uint32_t i = 0; i < s->tios_count && !reading; i++)
        reading = s->tios[i].tbl && being_read(s->tios[i].tbl);
    int err = reading ? search_notes(&f) : 0;
    for (struct meant *m = f.all; m && err >= 0; m = m->hh.next) /* they refer to others, which come behind them */
        if ((err = is_untold(&f, m)) == 1) {
            struct row_look look = {.io = m->t->io, .place = {.kind = IDENT_GIVEN, .number = m->key.number}};
            err = look_at(&f, &look, m->by);
            m->missing = err == 1;
            count += err == 1;
        }
    err = err < 0 ? err : count ? add_notes(&f, count) : 0;
    *any = count > 0;
    struct meant *m, *next;
    HASH_ITER(hh, f.all, m, next) {
        HASH_DEL(f.all, m);
        free(m);
    }
    return err;
}
