/* The application gives a row another number: UPDATE t SET id = 900 WHERE id = 5. A row that SQLite numbered is known by its birth, so it is that row
 * still: the change is one of its number, what refers to it follows on every server, and rows may change places. (A given key is the name of its row:
 * another key is another row.)
 *
 * The notes tell it: MOVED and ARRIVED, in chains where rows go through numbers in between. Before they are sorted, the registers of such rows go to
 * their new homes, and the notes become plain ones, "look again". What the file cannot mean so (a row that was evicted there, keys that did not
 * cascade) stays what it was before: a death and a birth. */
#include <stdlib.h>
#include <string.h>

#include "node/store/foreign.h"
#include "node/store/notes.h"
#include "node/store/same.h"
#include "proto/err.h"

struct link {
    struct link *next; /* the one before it */
    uint32_t note;     /* the MOVED; its ARRIVED is behind it */
    int64_t since;     /* the note of this table before it: what cascaded was noted between them */
};

struct meant { /* whom a number meant for a while */
    struct meant *next;
    const struct tbl *tbl;
    int64_t number, after, until; /* by notes */
    struct rowid who;
};

struct place {
    struct tio *io;
    int64_t number;
};

struct mover {
    UT_hash_handle hh;
    struct place at; /* where it came to */
    int64_t from;
    bool born, given; /* in these notes; with a key of its own */
    uint32_t insert;  /* the note of its birth */
    struct link *links;
    struct rowid who;
    struct mover *next;
};

struct moving {
    struct store *s;
    struct notes *n;
    struct arena arena;
    struct mover *by_place, *list;
};

static struct mover *find(struct moving *m, struct tio *io, int64_t number) {
    struct place key;
    struct mover *p;
    memset(&key, 0, sizeof key);
    key.io = io;
    key.number = number;
    HASH_FIND(hh, m->by_place, &key, sizeof key, p);
    return p;
}

static void leave(struct moving *m, struct mover *p) {
    if (p)
        HASH_DEL(m->by_place, p);
}

static int arrive(struct moving *m, struct mover *p, struct tio *io, int64_t number) {
    leave(m, find(m, io, number)); /* evicted */
    memset(&p->at, 0, sizeof p->at);
    p->at.io = io;
    p->at.number = number;
    HASH_ADD(hh, m->by_place, at, sizeof p->at, p);
    return 0;
}

static bool by_number(const struct tio *io) {
    return io->tbl && io->table->key_kind == KEY_INTEGER && !io->table->without_rowid && !io->key_ref && !io->tbl->renamed_from;
}

/* Did the statement of this INSERT announce the number? */
static bool was_given(const struct notes *n, uint32_t i) {
    const struct note *insert = &n->list[i];
    for (uint32_t k = i; k > 0 && n->list[k - 1].at == insert->at; k--)
        if (n->list[k - 1].kind == NOTE_GIVEN && n->list[k - 1].io == insert->io && n->list[k - 1].number == insert->number)
            return true;
    return insert->number == -1; /* is never announced */
}

/* 1: some row of such a table moved. */
static int read_chains(struct moving *m) {
    const struct notes *n = m->n;
    int64_t *last = calloc(m->s->tios_count + 1, sizeof *last); /* of each table */
    int any = 0;
    if (!last)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < n->count; i++) {
        const struct note *note = &n->list[i];
        struct mover *p;
        if (!by_number(note->io))
            continue;
        int64_t since = last[note->io - m->s->tios];
        last[note->io - m->s->tios] = note->seq;
        if (note->kind == NOTE_DELETE) {
            leave(m, find(m, note->io, note->number));
        } else if (note->kind == NOTE_INSERT || (note->kind == NOTE_MOVED && !find(m, note->io, note->number))) {
            if (!(p = arena_alloc(&m->arena, sizeof *p))) {
                free(last);
                return ERR_NOMEM;
            }
            memset(p, 0, sizeof *p);
            p->from = note->number;
            p->born = note->kind == NOTE_INSERT;
            p->given = p->born && was_given(n, i);
            p->insert = i;
            arrive(m, p, note->io, note->number);
        }
        if (note->kind != NOTE_MOVED || i + 1 == n->count || n->list[i + 1].kind != NOTE_ARRIVED)
            continue;
        struct link *l = arena_alloc(&m->arena, sizeof *l);
        p = find(m, note->io, note->number);
        if (!l) {
            free(last);
            return ERR_NOMEM;
        }
        *l = (struct link){p->links, i, since};
        p->links = l;
        leave(m, p);
        arrive(m, p, note->io, n->list[i + 1].number);
        any = 1;
    }
    free(last);
    return any;
}

/* ---- keys with references, as they were when they were noted */

static int mean(struct moving *m, const struct mover *p, int64_t number, int64_t after, int64_t until) {
    struct meant *t = arena_alloc(&m->n->arena, sizeof *t);
    if (!t)
        return ERR_NOMEM;
    *t = (struct meant){m->n->meant, p->at.io->tbl, number, after, until, p->who};
    m->n->meant = t;
    return 0;
}

static int remember(struct moving *m, const struct mover *p) {
    int64_t until = INT64_MAX - 1;
    int err = 0;
    for (const struct link *l = p->links; l && !err; l = l->next) {
        const struct note *moved = &m->n->list[l->note];
        err = mean(m, p, moved[1].number, l->since, until);
        until = moved->seq;
        if (!err && !l->next)
            err = mean(m, p, moved->number, INT64_MIN, until);
    }
    return err;
}

bool rowmove_meant(const struct notes *n, const struct tbl *t, int64_t number, int64_t seq, struct rowid *who) {
    const struct meant *p = n->meant;
    while (p && !(p->tbl == t && p->number == number && seq > p->after && seq <= p->until))
        p = p->next;
    if (p)
        *who = p->who;
    return p;
}

/* ---- who can be followed */

static int at_home(struct store *s, struct tbl *t, int64_t number, struct reg *r) {
    struct rowid place = {.kind = IDENT_GIVEN, .number = number};
    return rows_at_home(s, t, &place, r);
}

/* Does a row of the file still name this one in its key by the old number? */
static int key_stayed(struct store *s, const struct tbl *t, int64_t number) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        const struct tio *io = &s->tios[i];
        for (uint32_t k = 0; io->tbl && k <= io->count; k++) {
            bool whole = k == io->count;
            const char *name = whole ? (io->key_ref == t ? io->table->columns[io->table->key[0]].name : NULL)
                                     : (io->ref_to[k] == t && io->table->columns[io->order[k]].key_place ? io->names[k] : NULL);
            int64_t count = 0;
            int err = name ? sql_int(s->app.reader, 0, &count, "SELECT count(*) FROM main.\"%w\" WHERE \"%w\"=%lld", io->table->name, name,
                                     (long long)number)
                           : 0;
            if (err || count)
                return err ? err : 1;
        }
    }
    return 0;
}

/* 1: it is a row that SQLite numbered, shown as it is. */
static int is_known(struct moving *m, struct mover *p) {
    struct store *s = m->s;
    struct origins_order o = store_order(s);
    struct tbl *t = p->at.io->tbl;
    int err = p->born || p->from == p->at.number ? 1 : at_home(s, t, p->from, &s->reg);
    if (err || !reg_known(&s->reg) || !reg_alive(&s->reg, &o) || s->reg.who.kind == IDENT_GIVEN)
        return err < 0 ? err : 0;
    p->who = s->reg.who;
    if (pending_find(s, t, &p->who) || same_is_junior(s, t, &p->who))
        return 0;
    err = find(m, p->at.io, p->from) ? 0 : key_stayed(s, t, p->from); /* else those are another row's */
    return err < 0 ? err : !err;
}

static bool leaves(const struct moving *m, const struct tbl *t, const struct rowid *who) {
    for (const struct mover *p = m->list; p; p = p->next)
        if (p->at.io->tbl == t && rowid_same(&p->who, who))
            return true;
    return false;
}

/* Whose new number is a living row's, who does not leave it, was put in that one's place. */
static int drop_evicting(struct moving *m) {
    struct origins_order o = store_order(m->s);
    for (bool dropped = true; dropped;) {
        dropped = false;
        for (struct mover **at = &m->list; *at;) {
            struct mover *p = *at;
            int err = at_home(m->s, p->at.io->tbl, p->at.number, &m->s->reg);
            if (err)
                return err;
            struct rowid who = m->s->reg.who;
            bool taken = reg_known(&m->s->reg) && reg_alive(&m->s->reg, &o) && !leaves(m, p->at.io->tbl, &who);
            *at = taken ? p->next : p;
            dropped = dropped || taken;
            at = taken ? at : &p->next;
        }
    }
    return 0;
}

/* ---- what refers to them */

static uint64_t hash_of(struct store *s, struct tio *io, uint32_t at, int64_t number) {
    struct value v = {.type = VALUE_INT, .as.i = number};
    uint64_t hash = value_hash(&v);
    if (tables_converts(io, at, &v))
        (void)tables_convert(s, io, at, &v, &hash);
    return hash;
}

/* The child in s->reg says it by the old number: from now on by the new one. Where the application left the old one in the file, ours comes there. */
static int tell_child(struct store *s, struct tio *io, uint32_t at, const struct mover *p, int64_t in_file) {
    struct origins_order o = store_order(s);
    struct rowid child = s->reg.who, who;
    uint64_t from = hash_of(s, io, at, p->from), to = hash_of(s, io, at, p->at.number);
    const struct cell *c = reg_winner(&s->reg, io->numbers[at], &o);
    struct value v;
    struct tbl *t;
    if (!c || c->hash != from)
        return 0;
    struct write w = s->reg.writes[c->write];
    int err = values_find(s, w.origin, w.version, io->tbl, &child, c->column, c->hash, &v);
    if (err || v.type != VALUE_REF || !refs_find(s, &v, &t, &who) || t != p->at.io->tbl || !rowid_same(&who, &p->who))
        return err == ERR_NOTFOUND ? 0 : err;
    if (in_file == p->from)
        return refs_unsettle(s, io->tbl, &child, (struct shown_cell){io->numbers[at], from}, to);
    struct reg r;
    bool home;
    reg_init(&r);
    if (!(err = rows_find(s, io->tbl, &child, &r, &home))) {
        r.who = child;
        rows_account(s, io->tbl, &child, &r, NULL);
        for (uint32_t i = 0; i < r.cells_count; i++)
            if (r.cells[i].column == io->numbers[at] && r.cells[i].hash == from)
                r.cells[i].hash = to;
        rows_account(s, io->tbl, &child, NULL, &r);
        err = rows_store(s, io->tbl, &child, &r, home);
    }
    reg_release(&r);
    return err;
}

static int tell_children(struct store *s, struct tio *io, uint32_t at, const struct mover *p) {
    const struct table *t = io->table;
    sqlite3_stmt *q;
    struct buf name;
    sqlite3_str *text = sqlite3_str_new(s->app.reader);
    sqlite3_str_appendf(text, "SELECT \"%w\"", io->names[at]);
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(text, ", %s", t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(text, ", \"%w\"", t->columns[t->key[i]].name);
    sqlite3_str_appendf(text, " FROM main.\"%w\" WHERE \"%w\" IN (%lld, %lld)", t->name, io->names[at], (long long)p->from,
                        (long long)p->at.number);
    char *sql = sqlite3_str_finish(text);
    int row, err = sql ? sql_prepare(s->app.reader, &q, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    if (err)
        return err;
    buf_init(&name, 1 << 20);
    while (!err && (row = sql_step(q)) != 0) {
        struct value key[16];
        struct rowid place;
        for (uint32_t i = 0; i < table_key_width(t) && row > 0; i++)
            sql_column_value(q, 1 + (int)i, &key[i]);
        int none = row < 0 ? row : foreign_place_of(io, key, &name, &place);
        if (none)
            err = none < 0 ? none : 0;
        else if (!(err = rows_at_home(s, io->tbl, &place, &s->reg)) && reg_known(&s->reg))
            err = tell_child(s, io, at, p, sqlite3_column_int64(q, 0));
    }
    sqlite3_finalize(q);
    buf_release(&name);
    return err;
}

static int tell_all(struct store *s, const struct mover *p) {
    int err = 0;
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        for (uint32_t k = 0; io->tbl && k < io->count && !err; k++)
            if (io->ref_to[k] == p->at.io->tbl)
                err = tell_children(s, io, k, p);
    }
    return err;
}

/* ---- moving */

/* All registers leave their homes first, since rows may have changed places. */
static int settle(struct moving *m) {
    struct store *s = m->s;
    struct reg r;
    bool home;
    int err = 0;
    for (struct mover *p = m->list; p && !err; p = p->next) {
        struct rowid place = {.kind = IDENT_GIVEN, .number = p->from};
        err = rows_evict(s, p->at.io->tbl, &place);
    }
    reg_init(&r);
    for (struct mover *p = m->list; p && !err; p = p->next) {
        struct tbl *t = p->at.io->tbl;
        struct rowid place = {.kind = IDENT_GIVEN, .number = p->at.number};
        if (!(err = rows_find(s, t, &p->who, &r, &home)) && !(err = rows_evict(s, t, &place)) &&
            !(err = numbers_settle(s, t, &p->who, p->at.number)) && !(err = rows_store(s, t, &p->who, &r, true)))
            err = rows_forget_extra(s, t, &p->who);
    }
    reg_release(&r);
    return err;
}

static int say(struct moving *m, const struct mover *p) {
    struct store *s = m->s;
    struct tbl *t = p->at.io->tbl;
    struct reg r;
    bool home;
    reg_init(&r);
    int err = rows_find(s, t, &p->who, &r, &home);
    r.who = p->who;
    if (!err)
        err = drain_renumber(s, p->at.io, &r, home, p->at.number, false, 0);
    reg_release(&r);
    for (const struct link *l = p->links; l && !err; l = l->next)
        m->n->list[l->note].kind = m->n->list[l->note + 1].kind = NOTE_UPDATE;
    return err;
}

/* Numbered by SQLite and moved at once: it was born under the number that it has now. */
static int bear(struct moving *m, struct mover *p) {
    struct row_look look = {.io = p->at.io, .place = {.kind = IDENT_GIVEN, .number = p->at.number}, .born = true};
    drain_new_identity(m->s, &look, NULL, &p->who);
    int err = remember(m, p);
    m->n->list[p->insert].kind = NOTE_UPDATE;
    for (const struct link *l = p->links; l; l = l->next)
        m->n->list[l->note].kind = m->n->list[l->note + 1].kind = NOTE_UPDATE;
    m->n->list[p->links->note + 1].kind = NOTE_INSERT;
    return err;
}

int rowmove_notes(struct store *s, struct notes *n) {
    struct moving m = {.s = s, .n = n};
    bool any = false;
    for (uint32_t i = 0; i < n->count && !any; i++)
        any = n->list[i].kind == NOTE_MOVED && by_number(n->list[i].io);
    if (!any)
        return 0;
    int err = read_chains(&m);
    struct mover *p, *next;
    if (err > 0) {
        err = 0;
        HASH_ITER(hh, m.by_place, p, next) {
            bool bears = p->born && !p->given && p->links;
            int known = err ? 0 : bears ? bear(&m, p) : is_known(&m, p);
            if (known == 1) {
                p->next = m.list;
                m.list = p;
            }
            err = known < 0 ? known : err;
        }
    }
    if (!err && !(err = drop_evicting(&m)))
        err = settle(&m);
    for (p = m.list; p && !err; p = p->next)
        if (!(err = remember(&m, p)) && !(err = say(&m, p)))
            err = tell_all(s, p);
    HASH_CLEAR(hh, m.by_place);
    arena_release(&m.arena);
    return err;
}
