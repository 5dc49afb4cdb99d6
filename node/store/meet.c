/* The same UNIQUE value in two rows. What kind of meeting it is, who keeps the value, and what becomes of the one that loses it: told from registers
 * and schema, so that every server comes to the same; and tried in the file, so that the file takes it. */
#include <ctype.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/mend.h"
#include "proto/err.h"

#define MADE_TRIES 8

/* ---- small things */

static bool refers(const struct tio *io, uint32_t at) {
    for (uint32_t i = 0; i < io->table->foreign_keys_count; i++)
        for (uint32_t k = 0; k < io->table->foreign_keys[i].count; k++)
            if (!sqlite3_stricmp(io->table->foreign_keys[i].from[k], io->names[at]))
                return true;
    return false;
}

/* The same on every server: nothing in it is a local number. */
static uint64_t identity_hash(const struct store *s, const struct tbl *t, const struct rowid *who, uint32_t attempt) {
    crypto_generichash_state h;
    uint8_t sum[crypto_generichash_BYTES_MIN];
    uint64_t parts[5] = {who->kind, who->text ? who->key_len : (uint64_t)who->number, who->version, who->hash, attempt}, out;
    crypto_generichash_init(&h, NULL, 0, sizeof sum);
    crypto_generichash_update(&h, (const uint8_t *)t->name, strlen(t->name) + 1);
    crypto_generichash_update(&h, (const uint8_t *)parts, sizeof parts);
    if (who->text)
        crypto_generichash_update(&h, who->key, who->key_len);
    if (who->kind == IDENT_BORN) {
        crypto_generichash_update(&h, s->origin_ids[who->origin].node, NODE_ID_BYTES);
        crypto_generichash_update(&h, (const uint8_t *)&s->origin_ids[who->origin].epoch, sizeof s->origin_ids[who->origin].epoch);
    }
    crypto_generichash_final(&h, sum, sizeof sum);
    memcpy(&out, sum, sizeof out);
    return out;
}

/* ---- UNIQUE: where two rows meet */

bool meet_same_value(struct store *s, const struct value *a, const struct value *b, enum collation k) {
    struct buf *x = &s->key, *y = &s->key2;
    if (a->type == VALUE_NULL || b->type == VALUE_NULL)
        return false;
    buf_clear(x);
    buf_clear(y);
    tables_put_key_value(x, a, k);
    tables_put_key_value(y, b, k);
    return !x->failed && !y->failed && x->len == y->len && memcmp(x->data, y->data, x->len) == 0;
}

static bool meet_on(struct refused *f, const struct unique *u, const struct party *other) {
    for (uint32_t i = 0; i < u->count; i++)
        if (!meet_same_value(f->s, &f->self.values[u->at[i]], &other->values[u->at[i]], u->collations[i]))
            return false;
    return u->count > 0;
}

/* Columns that an index on expressions, or on a generated column, may read: those that its text names, else all. What is really meant is tried. */
static void guess_columns(const struct tio *io, const char *sql, struct unique *u) {
    const char *from = sql ? strchr(sql, '(') : NULL, *to = from;
    for (int depth = 0; to && *to; to++) {
        depth += *to == '(' ? 1 : *to == ')' ? -1 : 0;
        if (!depth)
            break;
    }
    u->count = 0;
    for (int named = 1; named >= 0 && !u->count; named--)
        for (uint32_t i = 0; i < io->count && u->count < KEYS_MAX; i++)
            if (!mend_is_key(io, i) && (!named || (from && mend_names_column(from, (size_t)(to - from), io->names[i]))))
                u->at[u->count++] = i;
}

static int read_unique(struct refused *f, const char *index, const char *sql, struct unique *u) {
    sqlite3_stmt *q;
    int row,
        err = sql_prepare(f->s->app.writer, &q, "SELECT name, coll FROM pragma_index_xinfo(%Q, 'main') WHERE key ORDER BY seqno", index);
    memset(u, 0, sizeof *u);
    u->plain = true;
    while (!err && (row = sql_step(q)) != 0) {
        const char *name = row > 0 ? (const char *)sqlite3_column_text(q, 0) : NULL;
        const char *k = row > 0 ? (const char *)sqlite3_column_text(q, 1) : NULL;
        uint32_t i = 0;
        if (row < 0) {
            err = row;
            break;
        }
        while (name && i < f->io->count && sqlite3_stricmp(f->io->names[i], name) != 0)
            i++;
        bool known = !k || !sqlite3_stricmp(k, "BINARY") || !sqlite3_stricmp(k, "NOCASE") || !sqlite3_stricmp(k, "RTRIM");
        if (!name || i == f->io->count || u->count == KEYS_MAX || !known) {
            u->plain = false;
            break;
        }
        u->at[u->count] = i;
        u->collations[u->count++] = k && !sqlite3_stricmp(k, "NOCASE")  ? COLLATION_NOCASE
                                    : k && !sqlite3_stricmp(k, "RTRIM") ? COLLATION_RTRIM
                                                                        : COLLATION_BINARY;
    }
    sqlite3_finalize(q);
    if (!err && !u->plain)
        guess_columns(f->io, sql, u);
    return err;
}

static struct unique policys_key(const struct tio *io) {
    struct unique u = {.count = io->policy.key_count, .alike = true, .plain = true};
    for (uint32_t i = 0; i < u.count; i++) {
        u.at[i] = io->policy.key[i];
        u.collations[i] = io->table->columns[io->order[u.at[i]]].own;
    }
    return u;
}

/* All UNIQUE indexes besides the key: those that are nothing but columns first, and in an order that does not depend on when they were made. */
int meet_uniques(struct refused *f, struct unique **out, uint32_t *count) {
    sqlite3_stmt *q;
    uint32_t n = 0;
    int row, err = sql_prepare(
                 f->s->app.writer, &q,
                 "SELECT l.name, s.sql FROM pragma_index_list(%Q, 'main') AS l LEFT JOIN main.sqlite_schema AS s ON s.type='index' AND "
                 "s.name=l.name WHERE l.\"unique\" AND l.origin<>'pk' ORDER BY (SELECT group_concat(ifnull(x.name, '(')) FROM "
                 "pragma_index_info(l.name, 'main') AS x), s.sql",
                 f->io->table->name);
    *out = arena_alloc(f->arena, (f->io->uniques + 2) * sizeof **out);
    err = *out ? err : ERR_NOMEM;
    while (!err && n < f->io->uniques && (row = sql_step(q)) != 0)
        err =
            row < 0 ? row : read_unique(f, (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1), &(*out)[n++]);
    sqlite3_finalize(q);
    if (!err && f->io->policy.key_count)
        (*out)[n++] = policys_key(f->io);
    *count = n;
    return err;
}

/* ---- UNIQUE: who keeps the value */

static struct stamp newest(const struct refused *f, const struct party *p, const struct unique *u, struct write *by) {
    struct origins_order o = store_order(f->s);
    struct stamp best = {0, UINT32_MAX};
    for (uint32_t i = 0; i < u->count; i++) {
        const struct cell *c = reg_winner(&p->reg, f->io->numbers[u->at[i]], &o);
        if (!c || stamp_cmp(reg_cell_stamp(&p->reg, c), best, &o) <= 0)
            continue;
        best = reg_cell_stamp(&p->reg, c);
        *by = p->reg.writes[c->write];
    }
    return best;
}

/* By registers alone: the same on every server. */
static int identity_cmp(const struct store *s, const struct rowid *a, const struct rowid *b) {
    if (a->text || b->text) {
        size_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
        int d = a->text && b->text && n ? memcmp(a->key, b->key, n) : 0;
        return d ? d : (int)(a->key_len > b->key_len) - (int)(a->key_len < b->key_len);
    }
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->kind == IDENT_BORN && a->origin != b->origin)
        return origin_cmp(&s->origin_ids[a->origin], &s->origin_ids[b->origin]);
    if (a->version != b->version)
        return a->version < b->version ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

enum meeting {
    MEETING_NONE,  /* the registers know of none: one of the rows is on its way elsewhere, or not known */
    MEETING_ALIEN, /* made by a server to which both values are right */
    MEETING_LATER, /* the later write keeps the value */
};

/* What kind of meeting is it that these two rows have the same value? *mine: the row that is being written loses. */
static int meeting_of(struct refused *f, const struct unique *u, const struct party *other, enum meeting *kind, bool *mine,
                      uint64_t *stamp) {
    struct store *s = f->s;
    struct origins_order o = store_order(s);
    struct write by = {0}, others = {0};
    bool shares = true;
    *kind = MEETING_NONE;
    for (uint32_t i = 0; i < u->count; i++) {
        const struct cell *c = reg_winner(&other->reg, f->io->numbers[u->at[i]], &o);
        if (c && c->hash != value_hash(&other->values[u->at[i]]))
            return 0;
    }
    struct stamp a = newest(f, &f->self, u, &by), b = newest(f, other, u, &others);
    if (a.origin == UINT32_MAX || b.origin == UINT32_MAX)
        return 0;
    int err = u->alike ? alike_unseen(s, &by, &others, &shares) : mend_shares_schema(s, f->io->tbl, &by, &shares);
    int d = stamp_cmp(a, b, &o);
    if (!err && shares && !u->alike)
        err = mend_shares_schema(s, f->io->tbl, &others, &shares);
    *kind = shares ? MEETING_LATER : MEETING_ALIEN;
    *mine = d ? d < 0 : identity_cmp(s, &f->self.who, &other->who) < 0;
    *stamp = stamp_above(a.at > b.at ? a.at : b.at);
    return err;
}

/* ---- UNIQUE: what becomes of the value that loses */

/* A value that nobody else has, made of the old one: text and bytes get a tail, numbers a few digits in front. */
static int make_value(struct refused *f, const struct party *p, const struct value *old, uint32_t attempt, struct value *out) {
    uint64_t h = identity_hash(f->s, f->io->tbl, &p->who, attempt);
    int64_t above = (int64_t)(h % 8000 + 1) * 1000000;
    char tail[16];
    *out = *old;
    switch (old->type) {
    case VALUE_INT: out->as.i = old->as.i > INT64_MAX - above ? old->as.i - above : old->as.i + above; return 0;
    case VALUE_FLOAT: out->as.f = old->as.f + (double)above; return 0;
    default: break;
    }
    size_t n = old->type == VALUE_TEXT ? (size_t)snprintf(tail, sizeof tail, " (%06x)", (unsigned)(h & 0xffffff)) : 4;
    if (old->type == VALUE_BLOB)
        memcpy(tail, &h, n);
    uint8_t *text = arena_alloc(f->arena, old->len + n + 1);
    if (!text)
        return ERR_NOMEM;
    if (old->len)
        memcpy(text, old->p, old->len);
    memcpy(text + old->len, tail, n);
    out->p = text;
    out->len = old->len + n;
    return 0;
}

/* Does the file take it? `gone`: and is then the other row not thrown out any more? 0 yes, ERR_CONSTRAINT no. */
static int try_value(struct refused *f, struct party *loser, const struct party *other, uint32_t at, struct value *v, bool gone) {
    struct op kept = f->op;
    struct value was = {.type = VALUE_NULL};
    bool mine = loser == &f->self;
    int err = mend_try_begin(f);
    if (err)
        return err;
    for (uint32_t i = 0; i < kept.count; i++)
        if (kept.columns[i] == f->io->numbers[at])
            was = kept.values[i];
    err = mend_write_planned(f);
    if (mine)
        mend_op_set(f, at, v);
    else if (!err)
        err = mend_write_column(f, &loser->who, at, v);
    if (!err && !(err = evict_replace(f)) && gone && evict_is_thrown(f, &other->place))
        err = ERR_CONSTRAINT;
    if (mine) { /* as it was */
        f->op.count = kept.count;
        for (uint32_t i = 0; i < kept.count; i++)
            if (kept.columns[i] == f->io->numbers[at])
                f->op.values[i] = was;
    }
    return mend_try_end(f, err);
}

struct choice {
    uint32_t at;
    bool null, refers;
    struct stamp stamp;
};

/* Columns of the index, in the order in which the loser may give them up: one that can be NULL, that refers to nothing, that was written last. */
static uint32_t choices(const struct refused *f, const struct party *loser, const struct unique *u, struct choice *out) {
    struct origins_order o = store_order(f->s);
    uint32_t n = 0;
    for (uint32_t i = 0; i < u->count; i++) {
        const struct column *column = &f->io->table->columns[f->io->order[u->at[i]]];
        const struct cell *c = reg_winner(&loser->reg, f->io->numbers[u->at[i]], &o);
        if (mend_is_key(f->io, u->at[i]) || loser->values[u->at[i]].type == VALUE_NULL)
            continue;
        struct choice x = {u->at[i], !column->not_null && !f->io->policy.renames, refers(f->io, u->at[i]),
                           c ? reg_cell_stamp(&loser->reg, c) : (struct stamp){0, UINT32_MAX}};
        uint32_t k = n++;
        for (; k > 0; k--) {
            const struct choice *y = &out[k - 1];
            int better = x.null != y->null       ? x.null - y->null
                         : x.refers != y->refers ? y->refers - x.refers
                                                 : stamp_cmp(x.stamp, y->stamp, &o);
            if (better < 0)
                break;
            out[k] = *y;
        }
        out[k] = x;
    }
    return n;
}

/* 1: the loser gives up a column. */
static int give_up(struct refused *f, const struct unique *u, struct party *loser, struct party *other, uint64_t stamp) {
    struct origins_order o = store_order(f->s);
    struct choice list[KEYS_MAX];
    uint32_t n = choices(f, loser, u, list);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t attempt = 0; attempt < (list[i].null ? 1 : MADE_TRIES); attempt++) {
            struct value v = {.type = VALUE_NULL};
            uint32_t at = list[i].at;
            int err = list[i].null ? 0 : make_value(f, loser, &loser->values[at], attempt, &v);
            if (!err)
                err = try_value(f, loser, loser == &f->self ? other : loser, at, &v, !u->plain);
            if (err == ERR_CONSTRAINT)
                continue;
            const struct cell *c = reg_winner(&loser->reg, f->io->numbers[at], &o);
            uint64_t own = c ? stamp_above(reg_cell_stamp(&loser->reg, c).at) : 0;
            if (err || (err = mend_plan_add(f, loser, at, &v, own > stamp ? own : stamp)))
                return err;
            loser->values[at] = v;
            if (loser == &f->self)
                mend_op_set(f, at, &v);
            return 1;
        }
    return 0;
}

/* Everything on which these two meet. 1: they do so no more. */
static int part(struct refused *f, const struct unique *uniques, uint32_t count, struct party *other) {
    for (int plain = 1; plain >= 0; plain--)
        for (uint32_t i = 0; i < count; i++) {
            const struct unique *u = &uniques[i];
            enum meeting kind;
            bool mine = false;
            uint64_t stamp = 0;
            if (u->plain != plain || (plain && !meet_on(f, u, other)))
                continue;
            if (!plain) { /* whether it is this one is tried */
                int err = mend_try_begin(f);
                if (!err && !(err = mend_write_planned(f)))
                    err = evict_replace(f);
                bool thrown = evict_is_thrown(f, &other->place);
                if ((err = mend_try_end(f, err)) || !thrown)
                    return err == ERR_CONSTRAINT ? 0 : err ? err : 1;
            }
            int err = meeting_of(f, u, other, &kind, &mine, &stamp);
            if (!err && kind != MEETING_LATER && u->alike)
                continue; /* the file takes both */
            if (err || kind != MEETING_LATER)
                return err;
            int twice = f->io->policy.renames ? 0 : twice_entered(f->s, f->io, uniques, count, u, &f->self, other);
            f->same = twice == 1;
            if (f->same || twice < 0)
                return f->same ? mend_plan_same(f->s, f->io->tbl, &f->self.reg, &other->reg) : twice;
            if (twice == TWICE_APART)
                mine = twice_elder(f->s, f->io->tbl, other, &f->self);
            if ((err = give_up(f, u, mine ? &f->self : other, mine ? other : &f->self, stamp)) < 0 || (err == 0 && plain && !u->alike))
                return err;
        }
    return 1;
}

/* ---- UNIQUE: all who are in the way */

static int meet_one(struct refused *f, const struct unique *uniques, uint32_t count, const struct rowid *place) {
    struct store *s = f->s;
    struct origins_order o = store_order(s);
    struct party other = {.who = *place, .place = *place};
    reg_init(&other.reg);
    int err = rows_at_home(s, f->io->tbl, place, &other.reg), parted = 0;
    if (!err && reg_known(&other.reg) && reg_alive(&other.reg, &o)) {
        other.who = other.reg.who;
        if (!(err = mend_read_values(f, &other.who, &other.values)))
            parted = part(f, uniques, count, &other);
    }
    reg_release(&other.reg);
    return err == ERR_NOTFOUND ? 0 : err ? err : parted;
}

int meet_alike(struct refused *f, const struct rowid *place) {
    struct unique *uniques;
    uint32_t count;
    int err = meet_uniques(f, &uniques, &count);
    if (!err && !(err = evict_find_key(f)))
        err = mend_read_values(f, &f->self.who, &f->self.values);
    if (!err && (err = meet_one(f, uniques, count, place)) == 1)
        err = f->same || f->plans;
    return err == ERR_NOTFOUND ? 0 : err;
}

int meet_mend(struct refused *f) {
    struct unique *uniques;
    uint32_t count, n;
    int err = meet_uniques(f, &uniques, &count);
    if (err || (err = evict_find_key(f)) || (err = mend_try_begin(f)))
        return err;
    if (!(err = evict_replace(f)))
        err = mend_read_values(f, &f->self.who, &f->self.values);
    if ((err = mend_try_end(f, err)))
        return err == ERR_CONSTRAINT || err == ERR_NOTFOUND ? 0 : err;
    struct rowid *others = arena_alloc(f->arena, (f->thrown_count + 1) * sizeof *others);
    if (!others)
        return ERR_NOMEM;
    n = f->thrown_count;
    if (n)
        memcpy(others, f->thrown, n * sizeof *others);
    for (uint32_t i = 0; i < n && !f->same; i++)
        if ((err = meet_one(f, uniques, count, &others[i])) != 1)
            return err;
    return n > 0;
}
