/* Was one thing entered twice? Two rows have the same UNIQUE value, each by its insert, whose author did not know of the other; and they agree on every
 * other UNIQUE key. Then they are the same row, and a mend says so (CHANGE_SAME) instead of taking the value from one of them.
 *
 * A key that the application gave is a UNIQUE key too: rows with two such keys are not the same. So it is about rows that SQLite numbered. All of it
 * is told from registers, schema and log: every server comes to the same. */
#include <stdlib.h>
#include <string.h>

#include "node/store/mend.h"
#include "node/store/same.h"
#include "proto/err.h"

uint64_t twice_rank(const struct reg *r) {
    bool copy = r->inserted.at == STAMP_COPY;
    if (r->who.kind == IDENT_BORN)
        return r->birth_at;
    for (uint32_t i = 0; i < r->writes_count; i++)
        copy = copy || r->writes[i].at == STAMP_COPY;
    return copy ? SAME_YOUNGEST : 0;
}

/* Did the insert of this row, or of one that is the same, write so? */
static bool is_birth(const struct rowid *who, const struct write *w) {
    if (w->mend || w->carried)
        return false;
    return who->kind == IDENT_BORN ? w->origin == who->origin && w->version == who->version
                                   : who->kind == IDENT_ADOPTED && w->at <= STAMP_COPY;
}

static const struct write *given(struct store *s, const struct tbl *t, const struct reg *r, uint32_t column) {
    struct origins_order o = store_order(s);
    const struct cell *c = reg_winner(r, column, &o);
    const struct write *w = c ? &r->writes[c->write] : NULL;
    const struct same_node *n = same_node(s, t, &r->who);
    bool birth = w && is_birth(&r->who, w);
    for (n = n ? n->root : NULL; n && w && !birth; n = n->next)
        birth = is_birth(&n->who, w);
    return birth ? w : NULL;
}

/* 1: in each of these columns both have what they were inserted with, and neither author knew of the other. */
static int both_given(struct store *s, const struct tio *io, const struct unique *u, const struct reg *a, const struct reg *b) {
    for (uint32_t i = 0; i < u->count; i++) {
        const struct write *x = given(s, io->tbl, a, io->numbers[u->at[i]]), *y = given(s, io->tbl, b, io->numbers[u->at[i]]);
        bool seen = false, seen_too = false, shares = true;
        int err = x && y ? u->alike ? alike_unseen(s, x, y, &shares) : mend_shares_schema(s, io->tbl, x, &shares) : 0;
        if (!x || !y)
            return 0;
        if (!err && shares && !u->alike)
            err = mend_shares_schema(s, io->tbl, y, &shares);
        if (!err && x->at > STAMP_COPY && y->at > STAMP_COPY &&
            !(err = same_had_seen(s, x, y, &seen))) /* who adopts knows of no other base */
            err = same_had_seen(s, y, x, &seen_too);
        if (err || !shares || seen || seen_too)
            return err;
    }
    return u->count > 0;
}

static uint64_t shown_hash(struct store *s, const struct tio *io, const struct reg *r, uint32_t at) {
    struct origins_order o = store_order(s);
    struct value null = {.type = VALUE_NULL};
    const struct cell *c = reg_winner(r, io->numbers[at], &o);
    return c ? c->hash : value_hash(&null);
}

/* Do they agree on this key? *null: on having none. */
static bool agree(struct store *s, const struct tio *io, const struct unique *u, const struct party *a, const struct party *b, bool *null) {
    struct value none = {.type = VALUE_NULL};
    *null = false;
    for (uint32_t i = 0; i < u->count; i++) {
        uint32_t at = u->at[i];
        uint64_t x = shown_hash(s, io, &a->reg, at), y = shown_hash(s, io, &b->reg, at);
        bool values = a->values && b->values;
        if (x != y && !(values && meet_same_value(s, &a->values[at], &b->values[at], u->collations[i])))
            return false;
        *null = *null || x == value_hash(&none);
    }
    return true;
}

int twice_entered(struct store *s, const struct tio *io, const struct unique *uniques, uint32_t count, const struct unique *met,
                  const struct party *a, const struct party *b) {
    bool null;
    int same = 0;
    const struct same_node *x = same_node(s, io->tbl, &a->who), *y = same_node(s, io->tbl, &b->who);
    if (a->who.text || b->who.text || a->who.kind == IDENT_GIVEN || b->who.kind == IDENT_GIVEN || io->key_ref ||
        (x && y && x->root == y->root))
        return 0;
    for (uint32_t i = 0; i < count && same >= 0; i++) {
        bool own = &uniques[i] == met && !met->plain; /* what it compares is not in the columns */
        if (!own && !agree(s, io, &uniques[i], a, b, &null))
            return 0;
        if (own || (uniques[i].plain && !null && (!met || met == &uniques[i] || !same)))
            same = same == 1 && &uniques[i] != met ? 1 : both_given(s, io, &uniques[i], &a->reg, &b->reg);
        if (&uniques[i] == met && same != 1)
            return same;
    }
    return same == 1 && x && y && same_is_apart(s, x, y) ? TWICE_APART : same;
}

bool twice_elder(struct store *s, const struct tbl *t, const struct party *a, const struct party *b) {
    return same_elder(s, same_node(s, t, &a->who), same_node(s, t, &b->who));
}

/* A value of the row as the file would show it. 1: it is not known, or not to be shown yet. */
static int value_to_show(struct store *s, struct tbl *t, const struct reg *r, uint32_t column, struct value *v) {
    struct origins_order o = store_order(s);
    const struct cell *c = reg_winner(r, column, &o);
    int err = c ? values_find(s, r->writes[c->write].origin, r->writes[c->write].version, t, &r->who, column, c->hash, v) : ERR_NOTFOUND;
    if (!err && v->type == VALUE_REF && (err = refs_show(s, v, 1)) == 0)
        *v = (struct value){.type = VALUE_INT, .as.i = v->as.i};
    return err == ERR_NOTFOUND || err > 0 || (!err && v->type == VALUE_NULL) ? 1 : err;
}

/* The row of the file that has the same values there. 1: found, where it is. */
static int in_the_way(struct store *s, struct tbl *t, const struct unique *u, const struct reg *r, struct arena *arena, int64_t *number) {
    struct value values[KEYS_MAX];
    sqlite3_stmt *q = NULL;
    int err = 0;
    sqlite3_str *text = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendf(text, "SELECT \"%w\" FROM main.\"%w\"", t->io->table->columns[t->io->table->key[0]].name, t->io->table->name);
    for (uint32_t i = 0; i < u->count && !err; i++) {
        sqlite3_str_appendf(text, "%s\"%w\"=?", i ? " AND " : " WHERE ", t->io->names[u->at[i]]);
        if (!(err = value_to_show(s, t, r, t->io->numbers[u->at[i]], &values[i])))
            err = mend_copy_bytes(arena, &values[i].p, values[i].len); /* of a cache that the next look may give up */
    }
    char *sql = sqlite3_str_finish(text);
    if (!err)
        err = sql ? sql_prepare(s->app.writer, &q, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    for (uint32_t i = 0; i < u->count && !err; i++)
        sql_bind_value(q, (int)i + 1, &values[i]);
    int row = err ? err : sql_step(q);
    if (row == 1 && !err)
        *number = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return err ? (err == 1 ? 0 : err) : row;
}

/* A row that cannot have its number: is it one with a row that has another? Then it needs none. */
static int plan_with_holder(struct store *s, struct tbl *t, const struct reg *r, const struct unique *uniques, uint32_t count,
                            struct arena *arena) {
    struct origins_order o = store_order(s);
    struct reg holder;
    int same = 0;
    reg_init(&holder);
    for (uint32_t i = 0; i < count && !same; i++) {
        struct rowid place = {.kind = IDENT_GIVEN};
        int found = uniques[i].plain && uniques[i].count ? in_the_way(s, t, &uniques[i], r, arena, &place.number) : 0;
        if (found == 1)
            found = rows_at_home(s, t, &place, &holder) ? ERR_INTERNAL : reg_known(&holder) && reg_alive(&holder, &o);
        if (found <= 0 || rowid_same(&holder.who, &r->who)) {
            same = found < 0 ? found : 0;
            continue;
        }
        struct party x = {.who = r->who}, y = {.who = holder.who};
        x.reg = *r;
        y.reg = holder;
        same = twice_entered(s, t->io, uniques, count, NULL, &x, &y);
    }
    same = same == 1 ? mend_plan_same(s, t, r, &holder) : same < 0 ? same : 0;
    reg_release(&holder);
    return same;
}

int twice_plan(struct store *s, struct tbl *t, const struct reg *a, const struct reg *b) {
    struct origins_order o = store_order(s);
    struct party x = {.who = a->who}, y = {.who = b->who};
    struct arena arena = {0};
    struct unique *uniques;
    uint32_t count;
    if (!s->mending || !t->io || !(t->io->uniques || t->io->policy.key_count) || t->io->policy.renames || !reg_alive(a, &o) ||
        !reg_alive(b, &o))
        return 0;
    struct refused f = {.s = s, .io = t->io, .arena = &arena};
    x.reg = *a;
    y.reg = *b; /* their arrays are borrowed */
    int err = meet_uniques(&f, &uniques, &count), same = err ? err : twice_entered(s, t->io, uniques, count, NULL, &x, &y);
    same = same == 1 ? mend_plan_same(s, t, a, b) : same < 0 ? same : plan_with_holder(s, t, a, uniques, count, &arena);
    arena_release(&arena);
    return same;
}
