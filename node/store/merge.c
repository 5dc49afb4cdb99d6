/* Batches of others into the registers and the log. What this changes in the application's file is collected as ops of a flight;
 * project.c writes them once the merge is durable. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/first_name.h"
#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

#define STAMP_MS_MAX 4102444800000u /* the year 2100: no clock is off by that much, and nothing above it could be replaced any more */

/* What the group at hand has in common: looked up once. */
struct group {
    uint32_t number;
    enum shape shape; /* names alone do not tell a table whose key was changed */
    struct tbl *tbl;
    uint32_t *columns; /* numbers; in the flight's arena */
    uint32_t count;
};

struct merging {
    struct store *s;
    struct flight *f;
    const struct batch_head *head;
    uint32_t origin;
    struct seen seen;
    struct group group;
    bool remembered;          /* what the author had seen is in the state */
    struct shown_cell *cells; /* scratch */
    uint32_t cells_cap;
};

/* blind: of others nothing. */
void seen_of(struct store *s, uint32_t origin, bool blind, struct seen *out) {
    if (blind) {
        uint64_t *p = realloc(s->alone, (origin + 1) * sizeof *p);
        *out = (struct seen){0};
        if (!p)
            return;
        s->alone = memset(p, 0, (origin + 1) * sizeof *p);
        if (origin < s->origins[origin].knew_count)
            p[origin] = s->origins[origin].knew[origin];
        *out = (struct seen){p, origin + 1};
        return;
    }
    out->versions = s->origins[origin].knew;
    out->count = s->origins[origin].knew_count;
}

/* ---- identities */

static int rowid_of_columns(struct store *s, const struct change *c, struct rowid *who) {
    if (c->ident.key_columns > c->columns_count)
        return ERR_MALFORMED;
    buf_clear(&s->key2);
    for (uint32_t i = 0; i < c->ident.key_columns; i++)
        tables_put_key_value(&s->key2, &c->values[i], COLLATION_BINARY);
    who->text = true;
    who->key = s->key2.data;
    who->key_len = s->key2.len;
    return s->key2.failed;
}

int merge_rowid(struct store *s, const struct change *c, struct rowid *who) {
    memset(who, 0, sizeof *who);
    who->kind = IDENT_GIVEN;
    who->number = c->ident.number;
    switch (c->ident.kind) {
    case IDENT_GIVEN:
        who->text = c->ident.key != NULL;
        who->key = c->ident.key;
        who->key_len = c->ident.key_len;
        return who->text ? tables_key_check(c->ident.key, c->ident.key_len) : 0;
    case IDENT_GIVEN_COLS: return rowid_of_columns(s, c, who);
    case IDENT_BORN_HERE:
    case IDENT_BORN:
        who->kind = IDENT_BORN;
        who->version = c->ident.version;
        return state_origin(s, &c->ident.origin, &who->origin);
    case IDENT_ADOPTED:
        who->kind = IDENT_ADOPTED;
        who->hash = c->ident.hash;
        return 0;
    default: return ERR_MALFORMED;
    }
}

/* ---- groups */

/* Any text can be a name in SQLite, also none. */
static bool clean_name(const char *name, size_t len) { return len <= SCHEMA_NAME_MAX && !memchr(name, 0, len); }

static int group_enter(struct merging *m, const struct change *c, enum shape shape) {
    struct store *s = m->s;
    struct group *g = &m->group;
    g->number = c->group;
    g->count = c->columns_count;
    if (!clean_name(c->table, c->table_len))
        return ERR_MALFORMED;
    int err = state_table(s, c->table, c->table_len, g->shape = shape, &g->tbl);
    if (err)
        return err;
    if (!(g->columns = arena_alloc(&m->f->arena, (g->count + 1) * sizeof *g->columns)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < g->count; i++)
        if (!clean_name(c->columns[i], c->columns_len[i]))
            return ERR_MALFORMED;
        else if ((err = state_column(s, g->tbl, c->columns[i], c->columns_len[i], &g->columns[i])))
            return err;
    if (g->count > m->cells_cap) {
        free(m->cells);
        m->cells_cap = g->count;
        if (!(m->cells = malloc(g->count * sizeof *m->cells)))
            return ERR_NOMEM;
    }
    return 0;
}

/* ---- ops */

static struct op *op_add(struct merging *m, enum change_kind kind, const struct rowid *who) {
    struct flight *f = m->f;
    if (f->ops_count == f->ops_cap) {
        uint32_t cap = f->ops_cap ? f->ops_cap * 2 : 64;
        struct op *p = realloc(f->ops, cap * sizeof *p);
        if (!p)
            return NULL;
        f->ops = p;
        f->ops_cap = cap;
    }
    struct op *op = &f->ops[f->ops_count];
    memset(op, 0, sizeof *op);
    op->kind = (uint8_t)kind;
    op->tbl = m->group.tbl;
    op->who = *who;
    if (who->text) {
        uint8_t *copy = arena_alloc(&f->arena, who->key_len + 1);
        if (!copy)
            return NULL;
        memcpy(copy, who->key, who->key_len);
        op->who.key = copy;
    }
    f->ops_count++;
    return op;
}

static int op_values(struct merging *m, struct op *op, const struct change *c) {
    op->count = c->columns_count;
    op->columns = m->group.columns;
    if (!(op->values = arena_alloc(&m->f->arena, (c->columns_count + 1) * sizeof *op->values)))
        return ERR_NOMEM;
    memcpy(op->values, c->values, c->columns_count * sizeof *op->values);
    for (uint32_t i = 0; i < op->count; i++) {
        int waits = op->values[i].type == VALUE_REF ? refs_show(m->s, &op->values[i], 1) : 0;
        if (waits < 0)
            return waits;
        if (waits) /* the register is to be told, too */
            op->kind = CHANGE_KINDS;
    }
    return 0;
}

/* ---- one change */

static int hash_of(struct merging *m, uint32_t i, const struct value *v, uint64_t *hash) {
    struct tio *io = m->group.tbl->io;
    uint32_t number = m->group.columns[i];
    struct value as = *v;
    bool here = io && number < io->by_number_count && io->by_number[number];
    if (as.type == VALUE_REF) {
        int waits = refs_show(m->s, &as, 1);
        if (waits < 0 || (waits && here)) { /* its number may mean another row until it is shown: then it is told */
            *hash = value_hash(&as);
            return waits < 0 ? waits : 0;
        }
        as = (struct value){.type = VALUE_INT, .as.i = as.as.i};
    }
    v = &as;
    *hash = value_hash(v);
    if (!here)
        return 0;
    uint32_t at = io->by_number[number] - 1;
    uint64_t plain = *hash;
    int err = tables_converts(io, at, v) ? tables_convert(m->s, io, at, v, hash) : 0;
    return err || *hash == plain ? err : tables_note_converted(m->s, io, at);
}

static int apply_writes(struct merging *m, const struct change *c, struct reg *r, struct write by) {
    int err = 0;
    for (uint32_t i = 0; i < c->columns_count && !err; i++) {
        uint64_t hash;
        if (m->group.columns[i] + 1 == m->group.tbl->number_column) {
            err = c->values[i].type == VALUE_INT && !r->who.text ? numbers_write(m->s, m->group.tbl, r, by, c->values[i].as.i, &m->seen)
                                                                 : ERR_MALFORMED;
            continue;
        }
        err = hash_of(m, i, &c->values[i], &hash);
        if (!err)
            reg_write(r, by, m->group.columns[i], hash, &m->seen, &err);
    }
    return err;
}

/* What the author of this batch had seen, once a batch. */
static int remember_seen(struct merging *m) {
    int err = m->remembered ? 0 : merge_remember_seen(m->s, m->origin, m->head->version, &m->seen);
    m->remembered = true;
    return err;
}

static int apply(struct merging *m, const struct change *c, struct reg *r, struct write by) {
    struct origins_order o = store_order(m->s);
    int err = 0;
    switch (c->kind) {
    case CHANGE_DELETE:
        by.mend = c->orphan; /* a child whose parent was deleted elsewhere */
        reg_death(r, by, &m->seen, &o, &err);
        return err ? err : remember_seen(m); /* at once: what the death saw decides what of this row is an open conflict */
    case CHANGE_INSERT: reg_insert(r, by, &m->seen, &o, &err); return err ? err : apply_writes(m, c, r, by);
    case CHANGE_REVIVE: reg_revive(r, by, &o); return apply_writes(m, c, r, by);
    case CHANGE_MEND: by.mend = true; return apply_writes(m, c, r, by);
    case CHANGE_UPDATE: return apply_writes(m, c, r, by);
    default: return ERR_FORMAT; /* kinds of a newer version */
    }
}

/* Is every column's value the one that this change brings? Then the change alone tells the whole row. */
static bool all_from(const struct reg *r, struct write by, uint32_t count) {
    return r->cells_count == count && r->writes_count > 0 && r->writes[r->cells[0].write].version == by.version &&
           r->writes[r->cells[0].write].origin == by.origin;
}

static int pending_wait(struct store *s, struct tbl *t, const struct rowid *who) {
    struct pending_row *p;
    int err = pending_set(s, t, who, false, NULL, 0, NULL, &p);
    if (err)
        return err;
    p->behind = s->hot.flight_seq + 1; /* the flight at hand */
    p->held = true;
    return pending_store(s, p);
}

static bool died_here(const struct merging *m, const struct reg *r) {
    for (uint32_t i = 0; i < r->deaths_count; i++)
        if (r->deaths[i].origin == m->origin && r->deaths[i].version == m->head->version)
            return true;
    return false;
}

static int show_new(struct merging *m, const struct change *c, const struct rowid *who, bool whole, uint32_t cells, bool *home) {
    struct store *s = m->s;
    struct tbl *t = m->group.tbl;
    if (!who->text && numbers_wanted(s, t, &s->reg) != (*home ? numbers_home(t, who) : who->number))
        return pending_wait(s, t, who); /* from the registers, which know its number */
    if (!*home) {
        int err = rows_at_home(s, t, who, &s->reg2);
        if (err)
            return err;
        struct origins_order o = store_order(s);
        struct rowid holder = s->reg2.who;
        struct pending_row *p = pending_find(s, t, &holder);
        /* What this very batch deletes is on show until then: what refers to it may yet bring it back; and of a row that was born under another number only its
         * home says where that is. */
        bool leaves = s->reg2.died.origin == m->origin && died_here(m, &s->reg2) &&
                      ((t->io && t->io->kids_count) || (!who->text && s->reg2.who.number != who->number));
        bool free_place = !reg_alive(&s->reg2, &o) && !(p && p->present) && !s->flights && !leaves;
        if (!free_place)
            return pending_wait(s, t, who); /* shown from the registers, as soon as the number is free */
        if ((err = rows_evict(s, t, who)))
            return err;
        *home = true;
    }
    if (!t->io)
        return 0;
    int keeps = who->text ? tables_keeps_key(s, t->io, who) : 1;
    if (keeps < 0)
        return keeps;
    whole = whole && keeps;
    struct op *op = op_add(m, whole ? CHANGE_INSERT : CHANGE_KINDS, who);
    if (!op)
        return ERR_NOMEM;
    int err = whole ? op_values(m, op, c) : 0;
    return err ? err : before_add(&m->f->before, t, who, false, m->cells, cells);
}

static int show_change(struct merging *m, const struct change *c, const struct rowid *who, uint32_t cells, bool mixed) {
    if (!cells || !m->group.tbl->io)
        return 0;
    struct op *op = op_add(m, mixed ? CHANGE_KINDS : CHANGE_UPDATE, who);
    if (!op)
        return ERR_NOMEM;
    int err = op_values(m, op, c);
    if (err)
        return err;
    /* only the columns whose value really changes are written */
    uint32_t n = 0;
    uint32_t *columns = arena_alloc(&m->f->arena, (cells + 1) * sizeof *columns);
    if (!columns)
        return ERR_NOMEM;
    for (uint32_t i = 0, k = 0; i < op->count && k < cells; i++)
        if (op->columns[i] == m->cells[k].column) {
            op->values[n] = op->values[i];
            columns[n++] = op->columns[i];
            k++;
        }
    op->columns = columns;
    op->count = n;
    return before_add(&m->f->before, m->group.tbl, who, true, m->cells, cells);
}

/* Of one of several rows that are one: always shown from the registers. */
static int merge_one(struct merging *m, const struct change *c, const struct rowid *who) {
    struct store *s = m->s;
    struct tbl *t = m->group.tbl;
    struct write by = {m->origin, m->head->version, c->stamp, false, c->carried};
    struct known_by known_by;
    struct unify u;
    bool watched = t->io && t->io->known_by;
    int err = unify_begin(s, t, who, &u);
    if (!err && u.formed && !(err = pending_map_flights(s)))
        err = pending_merge_before(s, &m->f->before, 0);
    if (!err) {
        if (watched)
            foreign_known_by(s, t, &u.root, &u.was, &m->seen, &known_by);
        err = apply(m, c, &u.own, by);
    }
    by.mend = c->kind == CHANGE_MEND;
    if (!err && !(err = unify_end(s, t, &u, c->kind, by)))
        err = unify_pend(s, t, &u);
    bool home;
    if (!err && watched && !(err = remember_seen(m)) && !(err = rows_find(s, t, &u.root, &s->reg, &home)))
        err = foreign_gone(s, t, &u.root, &s->reg, &known_by, &by);
    unify_release(&u);
    hlc_observe(&s->clock, c->stamp);
    t->last_change_ms = (int64_t)hlc_ms(c->stamp);
    s->again_due = s->again_due || c->stamp < s->recaptured_at;
    return err;
}

static int merge_same(struct merging *m, const struct change *c, const struct rowid *who) {
    struct store *s = m->s;
    struct tbl *t;
    if (!clean_name(c->table, c->table_len) || hlc_ms(c->stamp) > STAMP_MS_MAX)
        return ERR_MALFORMED;
    int err = state_table(s, c->table, c->table_len, state_shape_of(who), &t);
    if (err)
        return err;
    hlc_observe(&s->clock, c->stamp);
    return unify_merge(s, t, c, who, m->origin, m->head->version, &m->f->before);
}

static int merge_change(struct merging *m, const struct change *c) {
    struct store *s = m->s;
    struct rowid who;
    enum shape shape;
    int err = merge_rowid(s, c, &who);
    if (!err && c->kind == CHANGE_SAME)
        return merge_same(m, c, &who);
    if (err || (err = keyless_shape(s, c->table, c->table_len, &who, m->origin, &shape)) ||
        ((c->group != m->group.number || shape != m->group.shape) && (err = group_enter(m, c, shape))))
        return err;
    if (hlc_ms(c->stamp) > STAMP_MS_MAX)
        return ERR_MALFORMED;
    struct tbl *t = m->group.tbl;
    struct reg *r = &s->reg;
    bool home;
    if (c->carried == CARRIED_TABLE && (err = first_name_carried(s, t, &who)))
        return err;
    if (same_any(s) && unify_is(s, t, &who))
        return merge_one(m, c, &who);
    if ((err = rows_find(s, t, &who, r, &home)))
        return err;
    struct origins_order o = store_order(s);
    struct write by = {m->origin, m->head->version, c->stamp, false, c->carried};
    bool known = reg_known(r), alive = reg_alive(r, &o);
    bool had = known && (r->deaths_count || !alive || s->open_conflicts);
    uint32_t cells = 0;
    for (uint32_t i = 0; i < c->columns_count && known; i++) {
        const struct cell *old = reg_winner(r, m->group.columns[i], &o);
        m->cells[cells++] = (struct shown_cell){m->group.columns[i], old ? old->hash : 0};
    }
    struct known_by known_by;
    bool watched = t->io && t->io->known_by;
    if (watched)
        foreign_known_by(s, t, &who, r, &m->seen, &known_by);
    if (alive)
        rows_account(s, t, &who, r, NULL);
    r->who = who;
    if ((err = apply(m, c, r, by)))
        return err;
    if (watched && ((err = remember_seen(m)) || (err = foreign_gone(s, t, &who, r, &known_by, &by))))
        return err;
    bool alive_now = reg_alive(r, &o);
    if (alive_now)
        rows_account(s, t, &who, NULL, r);
    hlc_observe(&s->clock, c->stamp);
    bool mixed = false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < cells; i++) {
        const struct cell *now = reg_winner(r, m->cells[i].column, &o);
        if (!now || now->hash == m->cells[i].hash)
            continue;
        mixed |= m->cells[i].column + 1 == t->number_column;
        const struct write *w = &r->writes[now->write];
        mixed |= w->origin != by.origin || w->version != by.version;
        m->cells[n++] = m->cells[i];
    }
    cells = n;
    struct pending_row *p = pending_find(s, t, &who);
    if (p && !p->mapped) {
        err = pending_touch(s, p, m->cells, cells);
    } else if (alive_now && !alive) {
        err = show_new(m, c, &who, !known || all_from(r, by, c->columns_count), cells, &home);
    } else if (alive_now) {
        err = show_change(m, c, &who, cells, mixed);
    } else if (alive && t->io) {
        err = op_add(m, CHANGE_DELETE, &who) ? before_add(&m->f->before, t, &who, true, NULL, 0) : ERR_NOMEM;
    } else if (cells) { /* the file may show it until a flight before this one takes it away */
        err = before_add(&m->f->before, t, &who, false, m->cells, cells);
    }
    uint32_t conflicts;
    if (err || (err = rows_store(s, t, &who, r, home)) || (known && (err = rows_conflicts(s, t, &who, r, had, &conflicts))))
        return err;
    t->last_change_ms = (int64_t)hlc_ms(c->stamp);
    s->again_due = s->again_due || c->stamp < s->recaptured_at;
    return 0;
}

/* ---- one batch */

static int take_key(struct store *s, const struct batch_head *h, uint32_t origin) {
    struct origin_row *o = &s->origins[origin];
    if (!o->keyed) {
        uint8_t id[NODE_ID_BYTES];
        if (!h->key)
            return ERR_SIGNATURE;
        node_id_of_key(id, h->key);
        if (memcmp(id, h->origin.node, NODE_ID_BYTES) != 0)
            return ERR_SIGNATURE;
        memcpy(o->key, h->key, NODE_KEY_BYTES);
        o->keyed = o->changed = true;
    }
    return 0;
}

static int take_knew(struct store *s, const struct batch_head *h, uint32_t origin) {
    for (uint32_t i = 0; i < h->knew.count; i++) {
        uint32_t of;
        int err = state_origin(s, &h->knew.entries[i].origin, &of);
        if (err)
            return err;
        uint64_t version = h->knew.entries[i].version, here = s->origins[of].version;
        /* It comes after all that its author had seen, but what cannot be taken here (proto/fork.c); and nobody knows what is to come. */
        if ((err = state_knew_set(s, origin, of, version < here ? version : here)))
            return err;
    }
    return h->version > 1 ? state_knew_set(s, origin, origin, h->version - 1) : 0;
}

int merge_remember_seen(struct store *s, uint32_t origin, uint64_t version, const struct seen *seen) {
    struct buf b;
    buf_init(&b, 1 << 20);
    for (uint32_t i = 0; i < seen->count; i++)
        if (seen->versions[i]) {
            uint64_t pair[2] = {i, seen->versions[i]};
            buf_append(&b, pair, sizeof pair);
        }
    sqlite3_bind_int64(s->s_seen_put, 1, origin);
    sqlite3_bind_int64(s->s_seen_put, 2, (int64_t)version);
    sqlite3_bind_blob64(s->s_seen_put, 3, b.data ? (const void *)b.data : "", b.len, SQLITE_STATIC);
    int err = b.failed ? b.failed : sql_run(s->s_seen_put);
    buf_release(&b);
    return err;
}

static int merge_rows(struct merging *m) {
    struct change c;
    int err;
    m->group.number = UINT32_MAX;
    while ((err = batch_reader_next(m->f->reader, &c)) == 1)
        if ((err = merge_change(m, &c)))
            return err;
    return err;
}

static int flight_store(struct store *s, struct flight *f) {
    sqlite3_bind_int64(s->s_flight_put, 1, f->seq);
    sqlite3_bind_int64(s->s_flight_put, 2, f->origin);
    sqlite3_bind_int64(s->s_flight_put, 3, (int64_t)f->version);
    sqlite3_bind_int(s->s_flight_put, 4, f->part);
    sqlite3_bind_blob64(s->s_flight_put, 5, f->before.data ? (const void *)f->before.data : "", f->before.len, SQLITE_STATIC);
    return sql_run(s->s_flight_put);
}

static bool origin_held(struct store *s, uint32_t origin) {
    if (!s->held_count)
        return false;
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) {
        if (p->part_of == origin + 1)
            return true;
    }
    return false;
}

/* Parts of one commit: their rows wait, and are shown together from the registers when the last part is here, or when they are too many. */
static int hold_part(struct store *s, struct flight *f) {
    int err = pending_merge_before(s, &f->before, f->origin + 1);
    if (err)
        return err;
    buf_clear(&f->before);
    f->ops_count = 0;
    if (f->part && s->held_count <= BATCH_ROWS_MAX)
        return 0;
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) {
        if (p->part_of == f->origin + 1) {
            p->part_of = 0;
            s->held_count--;
            if ((err = pending_store(s, p)))
                return err;
        }
    }
    return 0;
}

static int merge_opened(struct store *s, struct flight *f, const struct batch_head *h, struct seen seen) {
    struct merging m = {.s = s, .f = f, .head = h, .origin = f->origin, .seen = seen};
    int err = log_write(s, f->origin, f->version, f->batch); /* first: what its references mean is looked up there */
    if (!err)
        err = merge_rows(&m);
    free(m.cells);
    if (err)
        return err;
    s->origins[f->origin].version = h->version;
    s->origins[f->origin].changed = true;
    if (origin_held(s, f->origin) && (err = hold_part(s, f)))
        return err;
    f->seq = ++s->hot.flight_seq;
    if ((err = flight_store(s, f)))
        return err;
    if (s->flights_mapped && (err = pending_merge_before(s, &f->before, 0)))
        return err;
    f->bytes = f->batch->len + 2 * (size_t)h->raw_bytes + f->ops_count * sizeof *f->ops;
    s->flights_bytes += f->bytes;
    *s->flights_tail = f;
    s->flights_tail = &f->next;
    return 0;
}

static void refuse(struct store *s, const struct batch_head *h, int err) {
    char text[400], who[ORIGIN_TEXT_BYTES];
    if (err == ERR_SIGNATURE && s->config.on_forged) {
        s->config.on_forged(s->config.ctx, &h->origin, h->version);
        return;
    }
    snprintf(text, sizeof text, "%s: version %llu of %s cannot be taken (%s): nothing after it from there is shown here; %s", s->config.db,
             (unsigned long long)h->version, origin_text(&h->origin, who), err_text(err),
             err == ERR_FORMAT ? "run the newest starlingd of the cluster here as well" : "check that node");
    store_log(s, LOG_ERROR, "%s", text);
    s->config.on_bad(s->config.ctx, &h->origin, h->version, text);
}

/* 0 merged or not needed; 1 refused (nothing changed); else an error after which the store must be opened again. */
static int merge_batch(struct store *s, struct bytes *batch) {
    struct batch_head h;
    uint8_t chain[BATCH_CHAIN_BYTES];
    struct flight *f = NULL;
    uint32_t origin;
    int err = batch_head_read(&h, batch->data, batch->len);
    if (err)
        return 1;
    if ((err = state_origin(s, &h.origin, &origin))) {
        if (err == ERR_TOOBIG) /* no room for one more origin: that one waits, the others go on */
            goto bad;
        goto out;
    }
    if (h.version != s->origins[origin].version + 1)
        goto out; /* known already, or out of order: the core asks again */
    if ((err = state_is_bad(s, origin, h.version) ? ERR_FORMAT : take_key(s, &h, origin)))
        goto bad;
    memcpy(chain, s->origins[origin].chain, sizeof chain);
    if ((err = batch_verify(batch->data, batch->len, s->origins[origin].key, chain)))
        goto bad;
    if (!(f = calloc(1, sizeof *f)) || !(f->reader = batch_reader_new())) {
        err = ERR_NOMEM;
        goto out;
    }
    buf_init(&f->before, 1u << 30);
    f->batch = bytes_ref(batch);
    f->origin = origin;
    f->version = h.version;
    f->part = h.flags & BATCH_PART;
    if ((err = batch_reader_open(f->reader, batch->data, batch->len)))
        goto bad;
    if ((err = take_knew(s, &h, origin)) || (err = policies_take(s, f->reader, origin)) ||
        (err = schema_take(s, f->reader, origin, h.version))) {
        if (err == ERR_MALFORMED || err == ERR_TOOBIG)
            s->bad = (struct bad_batch){origin, h.version};
        goto out;
    }
    memcpy(s->origins[origin].chain, chain, sizeof chain);
    struct seen seen;
    seen_of(s, origin, h.flags & BATCH_BLIND, &seen);
    if ((err = merge_opened(s, f, &h, seen))) {
        if (err == ERR_MALFORMED || err == ERR_FORMAT || err == ERR_TOOBIG)
            s->bad = (struct bad_batch){origin, h.version}; /* store_turn undoes everything, and remembers it */
        goto out;
    }
    f = NULL;
    s->stored_changed = true;
    goto out;
bad:
    refuse(s, &h, err);
    err = 1;
out:
    if (f)
        flight_free(s, f);
    batch_head_release(&h);
    return err;
}

/* What cannot be shown for a while (readers, an application that keeps the write lock) must not fill the memory: the rest stays with the core,
 * which waits for us. Mends that are waited for come behind all that their author wrote before he met us. */
bool merge_full(struct store *s) {
    if (s->flights_bytes <= (renumber_patient(s) ? FLIGHTS_BYTES_PATIENT : FLIGHTS_BYTES_MAX))
        return s->held_merge;
    return !project_blocked(s) || s->flights_bytes > PARTS_BYTES_MAX; /* the next part is what it waits for */
}

int merge_delivered(struct store *s) {
    int err = 0;
    uint32_t i = 0, rows = 0;
    bool due = s->follow_due; /* a schema that is to be followed comes before the rows behind it, and so do references */
    while (i < s->delivered_count && err >= 0 && rows < 4000 && !merge_full(s) && s->follow_due == due && !s->policies_moved) {
        struct bytes *b = s->delivered[i++];
        struct batch_head h;
        if (batch_head_read(&h, b->data, b->len) == 0) {
            rows += h.rows;
            batch_head_release(&h);
        }
        err = merge_batch(s, b);
        bytes_unref(b);
    }
    if (i)
        memmove(s->delivered, s->delivered + i, (s->delivered_count - i) * sizeof(struct bytes *));
    s->delivered_count -= i;
    return err < 0 ? err : 0;
}
