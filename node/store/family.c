/* Who refers to whom by declared foreign keys: for a row that comes back, which others that were deleted with it belong to it; for one that is to go, who
 * would be left behind. */
#include <string.h>

#include "node/store/family.h"
#include "proto/err.h"

/* The hash of a column of the row in r; 0: NULL, not written, or not stored. */
static uint64_t column_hash(struct store *s, const struct tio *io, const struct reg *r, const char *name) {
    struct origins_order o = store_order(s);
    struct value null = {.type = VALUE_NULL}, number = {.type = VALUE_INT, .as.i = numbers_shown(io->tbl, &r->who)};
    for (uint32_t i = 0; i < io->count; i++) {
        const struct cell *c = sqlite3_stricmp(io->names[i], name) ? NULL : reg_winner(r, io->numbers[i], &o);
        if (c)
            return c->hash == value_hash(&null) ? 0 : c->hash;
    }
    bool key = io->table->key_kind == KEY_INTEGER && !sqlite3_stricmp(io->table->columns[io->table->key[0]].name, name);
    return key ? value_hash(&number) : 0;
}

static uint64_t link_of(struct store *s, const struct tio *child, uint32_t which, const struct tio *io, const struct reg *r,
                        bool as_child) {
    const struct foreign_key *k = &child->table->foreign_keys[which];
    uint64_t link = child->tbl->hash ^ which;
    for (uint32_t i = 0; i < k->count; i++) {
        uint64_t hash = column_hash(s, io, r, as_child ? k->from[i] : k->to[i]);
        if (!hash)
            return 0;
        link = (link ^ hash) * 0x9e3779b97f4a7c15u;
        link ^= link >> 29;
    }
    return link;
}

static bool points_to(const struct tio *child, uint32_t which, const struct tio *parent) {
    return child->tbl && !sqlite3_stricmp(child->table->foreign_keys[which].parent, parent->table->name);
}

int family_links(struct store *s, struct tio *io, const struct reg *r, bool as_child, struct arena *arena, struct family *out) {
    struct tio *first = as_child ? io : s->tios;
    uint32_t tables = as_child ? 1 : s->tios_count, most = 0;
    for (uint32_t i = 0; i < tables; i++)
        most += first[i].table->foreign_keys_count;
    out->count = 0;
    if (!(out->links = arena_alloc(arena, (most + 1) * sizeof *out->links)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < tables; i++)
        for (uint32_t k = 0; k < first[i].table->foreign_keys_count; k++)
            if (as_child || points_to(&first[i], k, io))
                out->links[out->count++] = link_of(s, &first[i], k, io, r, as_child);
    return 0;
}

static const struct value *value_in(const struct tio *io, const struct value *row, const char *name) {
    for (uint32_t i = 0; i < io->count; i++)
        if (!sqlite3_stricmp(io->names[i], name))
            return &row[i];
    return NULL;
}

int family_parent(struct store *s, const struct tio *io, uint32_t which, const struct value *row, struct arena *arena, struct tio **parent,
                  struct reg *r) {
    const struct foreign_key *k = &io->table->foreign_keys[which];
    struct value key[16];
    struct rowid who = {.kind = IDENT_GIVEN};
    struct tbl *t;
    bool home;
    *parent = NULL;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (points_to(io, which, &s->tios[i]))
            *parent = &s->tios[i];
    const struct table *p = *parent && (*parent)->tbl ? (*parent)->table : NULL;
    if (!p || p->key_count != k->count || k->count > 16)
        return 0;
    for (uint32_t i = 0; i < k->count; i++) {
        const struct value *v = NULL;
        for (uint32_t n = 0; n < k->count && !v; n++)
            if (!sqlite3_stricmp(k->to[n], p->columns[p->key[i]].name))
                v = value_in(io, row, k->from[n]);
        if (!v || v->type == VALUE_NULL)
            return 0;
        key[i] = *v;
    }
    int err = 0;
    if (key[0].type == VALUE_REF && p->key_kind == KEY_INTEGER) {
        err = refs_find(s, &key[0], &t, &who) && t == (*parent)->tbl ? rows_find(s, t, &who, r, &home) : 0;
    } else if (p->key_kind == KEY_INTEGER) {
        who.number = key[0].as.i;
        err = key[0].type == VALUE_INT ? rows_at_home(s, (*parent)->tbl, &who, r) : 0;
        who = r->who;
    } else {
        if ((err = tables_key_of(*parent, key, &s->key2)))
            return err;
        uint8_t *copy = arena_alloc(arena, s->key2.len + 1);
        if (!copy)
            return ERR_NOMEM;
        memcpy(copy, s->key2.data, s->key2.len);
        who.text = true;
        who.key = copy;
        who.key_len = s->key2.len;
        err = rows_find(s, (*parent)->tbl, &who, r, &home);
    }
    r->who = who;
    return err ? err : reg_known(r);
}

/* ---- in the file */

static void put_key(sqlite3_str *q, const struct table *t, const char *right) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, "p.%s=%s%s", t->rowid, right, *right == '?' ? "" : t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        sqlite3_str_appendf(q, "%sp.\"%w\"%s=", i ? " AND " : "", c->name, t->key_kind == KEY_COLUMNS ? schema_collate(c->collation) : "");
        if (*right == '?')
            sqlite3_str_appendall(q, right);
        else
            sqlite3_str_appendf(q, "%s\"%w\"", right, c->name);
    }
}

static bool touches(const struct op *op, const struct foreign_key *k) {
    if (op->kind == CHANGE_DELETE)
        return true;
    for (uint32_t i = 0; i < k->count; i++)
        for (uint32_t n = 0; n < op->count; n++)
            if (!sqlite3_stricmp(op->tbl->columns[op->columns[n]], k->to[i]))
                return true;
    return false;
}

static int held_by(struct store *s, const struct op *op, const struct tio *child, const struct foreign_key *k) {
    const struct table *t = op->tbl->io->table;
    sqlite3_stmt *stmt = NULL;
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendf(q, "SELECT 1 FROM main.\"%w\" AS p, main.\"%w\" AS c WHERE ", t->name, child->table->name);
    put_key(q, t, "?");
    for (uint32_t i = 0; i < k->count; i++)
        sqlite3_str_appendf(q, " AND p.\"%w\"=+c.\"%w\"", k->to[i], k->from[i]);
    if (child->table == t) { /* a row may refer to itself */
        sqlite3_str_appendall(q, " AND NOT (");
        put_key(q, t, "c.");
        sqlite3_str_appendall(q, ")");
    }
    char *text = sqlite3_str_finish(q);
    int row = text ? sql_prepare(s->app.writer, &stmt, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    if (row == 0 && (row = tables_bind_place(op->tbl->io, stmt, 1, &op->who)) >= 0)
        row = sql_step(stmt);
    sqlite3_finalize(stmt);
    return row == ERR_INTERNAL ? 0 : row; /* it names what is not there: nobody enforces it */
}

int family_held(struct store *s, const struct op *op, const char **by) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        const struct tio *child = &s->tios[i];
        for (uint32_t k = 0; k < child->table->foreign_keys_count; k++) {
            const struct foreign_key *f = &child->table->foreign_keys[k];
            int held = points_to(child, k, op->tbl->io) && touches(op, f) ? held_by(s, op, child, f) : 0;
            *by = child->table->name;
            if (held)
                return held;
        }
    }
    return 0;
}
