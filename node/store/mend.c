/* Mends: what merging made of two authors' changes, and this file's constraints refuse, is repaired by a change of ours (CHANGE_MEND, CHANGE_REVIVE),
 * which replicates as any other.
 *
 *   refused                      mend
 *   the same UNIQUE value in     the later write keeps it; in the other row a column of the index becomes NULL, or where that is not
 *   two rows                     allowed a value made of the old one and of the row's identity
 *   CHECK, NOT NULL              the columns that were written before the newest of the others show again what the file shows now
 *   a parent that is gone        the parent lives again (clash.c decides)
 *
 * The happy path: a projection has written what it could, and a row is refused. What it would throw out is found by writing it with OR REPLACE, to be taken
 * back (the preupdate hook tells; so any index will do: of many columns, partial, on expressions). The mend is tried in the file, planned, and the rest
 * of the projection goes on as if it had been made. Then all is taken back, the mends are written (mend_write) and become durable, and the
 * projection is done again: the application sees what came and its mend in one transaction.
 *
 * A mend's stamp is just above what it mends, and who loses, and by which column, is told from registers and schema alone: servers that find the same
 * clash write the same. It supersedes nobody's value: that stays a sibling, and so an open conflict. What cannot be mended is parked: a row
 * that is not known, what a server without that constraint wrote, values that the file refuses as well. */
#define SQLITE_ENABLE_PREUPDATE_HOOK 1 /* as the library is built: declares it */
#include <ctype.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

#define KEYS_MAX 16
#define MADE_TRIES 8

struct plan {
    struct plan *next;
    struct tbl *tbl;
    struct rowid who;
    enum change_kind kind;
    uint32_t at;        /* column, in io's order; CHANGE_REVIVE: none */
    struct value value; /* what it gets */
    uint64_t stamp;
};

struct mends {
    struct arena arena;
    struct plan *first;
};

/* A row of the file that keeps another one out, or the one that is kept out. */
struct party {
    struct rowid who;
    struct reg reg;
    struct value *values; /* in io's order, as the file holds them, or would */
};

struct refused { /* one row that the file does not take */
    struct store *s;
    struct tio *io;
    struct op op; /* with what was mended in it */
    struct arena *arena;
    struct party self;
    struct plan *plans;
    int cids[KEYS_MAX]; /* of the key's columns in the table */
    struct rowid *thrown;
    uint32_t thrown_count, thrown_cap;
    int failed;
};

/* ---- small things */

static int copy_bytes(struct arena *a, const uint8_t **p, size_t len) {
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

static bool same_place(const struct rowid *a, const struct rowid *b) {
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

/* Who wrote this had the same constraints: what he wrote there was right by them. */
static int shares_schema(struct store *s, const struct write *w, bool *shares) {
    struct bytes *b;
    struct batch_head h;
    int err = log_read(s, w->origin, w->version, &b);
    *shares = err == ERR_NOTFOUND; /* older than the log */
    if (err)
        return *shares ? 0 : err;
    if (!(err = batch_head_read(&h, b->data, b->len))) {
        *shares = h.schema == s->schema.hash;
        batch_head_release(&h);
    }
    bytes_unref(b);
    return err;
}

static bool is_key(const struct tio *io, uint32_t at) { return io->table->columns[io->order[at]].key_place > 0; }

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

/* ---- trying it in the file */

static void thrown_out(void *ctx, sqlite3 *db, int op, const char *schema, const char *table, sqlite3_int64 rowid, sqlite3_int64 unused) {
    struct refused *f = ctx;
    struct rowid place = {.kind = IDENT_GIVEN, .number = rowid, .text = f->io->table->key_kind != KEY_INTEGER};
    struct value key[KEYS_MAX];
    (void)unused;
    if (op != SQLITE_DELETE || strcmp(schema, "main") != 0 || strcmp(table, f->io->table->name) != 0 || f->failed)
        return;
    struct buf *name = &f->s->key2;
    uint8_t keyless[KEYLESS_KEY_BYTES];
    if (f->io->table->key_kind == KEY_ROWID) {
        int known = keyless_name(f->io, rowid, keyless);
        buf_clear(name);
        buf_append(name, keyless, sizeof keyless);
        f->failed = known == 1 ? name->failed : known < 0 ? known : ERR_NOTFOUND;
    } else if (place.text) {
        for (uint32_t i = 0; i < f->io->table->key_count && !f->failed; i++) {
            sqlite3_value *v;
            if (sqlite3_preupdate_old(db, f->cids[i], &v) != SQLITE_OK) {
                f->failed = ERR_NOTFOUND;
                return;
            }
            key[i] = (struct value){.type = VALUE_NULL};
            switch (sqlite3_value_type(v)) {
            case SQLITE_INTEGER:
                key[i].type = VALUE_INT;
                key[i].as.i = sqlite3_value_int64(v);
                break;
            case SQLITE_FLOAT:
                key[i].type = VALUE_FLOAT;
                key[i].as.f = sqlite3_value_double(v);
                break;
            case SQLITE_NULL: f->failed = ERR_NOTFOUND; break; /* a row that no key names */
            default:
                key[i].type = sqlite3_value_type(v) == SQLITE_TEXT ? VALUE_TEXT : VALUE_BLOB;
                key[i].p = sqlite3_value_blob(v);
                key[i].len = (size_t)sqlite3_value_bytes(v);
                if (copy_bytes(f->arena, &key[i].p, key[i].len))
                    f->failed = ERR_NOMEM;
            }
        }
        if (!f->failed)
            f->failed = tables_key_of(f->io, key, name);
    }
    if (place.text) {
        place.number = 0;
        place.key = name->data;
        place.key_len = name->len;
    }
    if (!f->failed && place.text)
        f->failed = copy_bytes(f->arena, &place.key, place.key_len);
    if (!f->failed && f->thrown_count == f->thrown_cap) {
        uint32_t cap = f->thrown_cap ? f->thrown_cap * 2 : 8;
        struct rowid *p = realloc(f->thrown, cap * sizeof *p);
        f->thrown = p ? p : f->thrown;
        f->thrown_cap = p ? cap : f->thrown_cap;
        f->failed = p ? 0 : ERR_NOMEM;
    }
    if (!f->failed)
        f->thrown[f->thrown_count++] = place;
}

/* What the key's columns are called by the hook. */
static int find_key(struct refused *f) {
    for (uint32_t i = 0; f->io->table->key_kind == KEY_COLUMNS && i < f->io->table->key_count; i++) {
        int64_t cid;
        int err = sql_int(f->s->app.writer, -1, &cid, "SELECT cid FROM pragma_table_xinfo(%Q, 'main') WHERE name=%Q", f->io->table->name,
                          f->io->table->columns[f->io->table->key[i]].name);
        if (err)
            return err;
        f->cids[i] = (int)cid;
    }
    return 0;
}

static void put_where(sqlite3_str *q, const struct table *t) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, " WHERE %s=?", t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"%s=?", i ? " AND " : " WHERE ", t->columns[t->key[i]].name,
                            t->key_kind == KEY_COLUMNS ? schema_collate(t->columns[t->key[i]].collation) : "");
}

/* The row is written, whoever is in its way: these are in f->thrown. */
static int replace(struct refused *f) {
    struct tio *io = f->io;
    const struct table *t = io->table;
    const struct op *op = &f->op;
    bool insert = op->kind == CHANGE_INSERT, number = insert && t->key_kind != KEY_COLUMNS;
    int64_t rowid = op->who.number;
    int found = number && t->key_kind == KEY_ROWID ? keyless_rowid(io, &op->who, &rowid) : 1;
    if (found != 1)
        return found ? found : ERR_CONSTRAINT;
    sqlite3_str *q = sqlite3_str_new(f->s->app.writer);
    sqlite3_str_appendf(q, insert ? "INSERT OR REPLACE INTO main.\"%w\"(" : "UPDATE OR REPLACE main.\"%w\" SET ", t->name);
    uint32_t n = number;
    if (number)
        sqlite3_str_appendf(q, "\"%w\"", t->key_kind == KEY_ROWID ? t->rowid : t->columns[t->key[0]].name);
    for (uint32_t i = 0; i < op->count; i++) /* all of them are here: mend_row() */
        sqlite3_str_appendf(q, insert ? "%s\"%w\"" : "%s\"%w\"=?", n++ ? "," : "", io->names[io->by_number[op->columns[i]] - 1]);
    for (uint32_t i = 0; i < n && insert; i++)
        sqlite3_str_appendall(q, i ? ",?" : ") VALUES(?");
    if (insert)
        sqlite3_str_appendall(q, ")");
    else
        put_where(q, t);
    char *text = sqlite3_str_finish(q);
    sqlite3_stmt *stmt = NULL;
    int place = 1, err = text ? sql_prepare(f->s->app.writer, &stmt, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    if (!err && number)
        sqlite3_bind_int64(stmt, place++, rowid);
    for (uint32_t i = 0; i < op->count && !err; i++)
        sql_bind_value(stmt, place++, &op->values[i]);
    if (!err && !insert && (place = tables_bind_place(io, stmt, place, &op->who)) < 0)
        err = place;
    f->thrown_count = 0;
    f->failed = 0;
    sqlite3_preupdate_hook(f->s->app.writer, thrown_out, f);
    err = err ? err : sql_run(stmt);
    sqlite3_preupdate_hook(f->s->app.writer, NULL, NULL);
    sqlite3_finalize(stmt);
    return err ? err : f->failed;
}

static bool is_thrown(const struct refused *f, const struct rowid *place) {
    for (uint32_t i = 0; i < f->thrown_count; i++)
        if (same_place(&f->thrown[i], place))
            return true;
    return false;
}

static int try_begin(struct refused *f) { return sql_exec(f->s->app.writer, "SAVEPOINT starling_try"); }

static int try_end(struct refused *f, int err) {
    int back = sql_exec(f->s->app.writer, "ROLLBACK TO starling_try; RELEASE starling_try");
    return back ? back : err;
}

/* A row as the file shows it at this moment. */
static int read_values(struct refused *f, const struct rowid *place, struct value **out) {
    struct row_look look = {.io = f->io, .place = *place};
    int err = drain_look(f->s, &look, f->io->peek);
    if (!err && !look.present)
        err = ERR_NOTFOUND;
    if (!err && !(*out = arena_alloc(f->arena, (f->io->count + 1) * sizeof **out)))
        err = ERR_NOMEM;
    for (uint32_t i = 0; i < f->io->count && !err; i++) {
        (*out)[i] = look.values[i];
        err = copy_bytes(f->arena, &(*out)[i].p, look.values[i].len);
    }
    sqlite3_reset(f->io->peek);
    return err;
}

/* Sets a column in what is to be written. */
static int op_set(struct refused *f, uint32_t at, const struct value *v) {
    struct op *op = &f->op;
    uint32_t i = 0;
    while (i < op->count && op->columns[i] != f->io->numbers[at])
        i++;
    op->columns[i] = f->io->numbers[at]; /* mend_row() left room for every column */
    op->values[i] = *v;
    op->count += i == op->count;
    return 0;
}

static int write_column(struct refused *f, const struct rowid *place, uint32_t at, struct value *v) {
    struct op op = {.kind = CHANGE_UPDATE, .tbl = f->io->tbl, .who = *place, .count = 1, .columns = &f->io->numbers[at], .values = v};
    return project_write(f->s, &op);
}

/* Mends so far, as if they had been made. */
static int write_mends(struct refused *f) {
    int err = 0;
    for (struct plan *p = f->plans; p && !err; p = p->next)
        if (!rowid_same(&p->who, &f->self.who))
            err = write_column(f, &p->who, p->at, &p->value);
    return err;
}

static int plan_add(struct refused *f, const struct party *who, uint32_t at, const struct value *v, uint64_t stamp) {
    struct plan *p = arena_alloc(f->arena, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    *p = (struct plan){f->plans, f->io->tbl, who->who, CHANGE_MEND, at, *v, stamp};
    f->plans = p;
    return 0;
}

/* ---- UNIQUE: where two rows meet */

struct unique {
    uint32_t count, at[KEYS_MAX]; /* columns, in io's order */
    enum collation collations[KEYS_MAX];
    bool plain; /* nothing but columns that are stored; else `at` are those that may be meant */
};

static bool same_value(struct refused *f, const struct value *a, const struct value *b, enum collation k) {
    struct buf *x = &f->s->key, *y = &f->s->key2;
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
        if (!same_value(f, &f->self.values[u->at[i]], &other->values[u->at[i]], u->collations[i]))
            return false;
    return u->count > 0;
}

/* Is this the name of a column, as a word of the text? */
static bool names_column(const char *text, size_t len, const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; n && i + n <= len; i++) {
        bool begins = i == 0 || !(isalnum((unsigned char)text[i - 1]) || text[i - 1] == '_');
        bool ends = i + n == len || !(isalnum((unsigned char)text[i + n]) || text[i + n] == '_');
        if (begins && ends && sqlite3_strnicmp(text + i, name, (int)n) == 0)
            return true;
    }
    return false;
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
            if (!is_key(io, i) && (!named || (from && names_column(from, (size_t)(to - from), io->names[i]))))
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

/* All UNIQUE indexes besides the key: those that are nothing but columns first, and in an order that does not depend on when they were made. */
static int read_uniques(struct refused *f, struct unique **out, uint32_t *count) {
    sqlite3_stmt *q;
    uint32_t n = 0;
    int row, err = sql_prepare(
                 f->s->app.writer, &q,
                 "SELECT l.name, s.sql FROM pragma_index_list(%Q, 'main') AS l LEFT JOIN main.sqlite_schema AS s ON s.type='index' AND "
                 "s.name=l.name WHERE l.\"unique\" AND l.origin<>'pk' ORDER BY (SELECT group_concat(ifnull(x.name, '(')) FROM "
                 "pragma_index_info(l.name, 'main') AS x), s.sql",
                 f->io->table->name);
    *out = arena_alloc(f->arena, (f->io->uniques + 1) * sizeof **out);
    err = *out ? err : ERR_NOMEM;
    while (!err && n < f->io->uniques && (row = sql_step(q)) != 0)
        err =
            row < 0 ? row : read_unique(f, (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1), &(*out)[n++]);
    sqlite3_finalize(q);
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
    int err = shares_schema(s, &by, &shares), d = stamp_cmp(a, b, &o);
    if (!err && shares)
        err = shares_schema(s, &others, &shares);
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
    int err = try_begin(f);
    if (err)
        return err;
    for (uint32_t i = 0; i < kept.count; i++)
        if (kept.columns[i] == f->io->numbers[at])
            was = kept.values[i];
    if (!(err = write_mends(f)))
        err = mine ? op_set(f, at, v) : write_column(f, &loser->who, at, v);
    if (!err && !(err = replace(f)) && gone && is_thrown(f, &other->who))
        err = ERR_CONSTRAINT;
    if (mine) { /* as it was */
        f->op.count = kept.count;
        for (uint32_t i = 0; i < kept.count; i++)
            if (kept.columns[i] == f->io->numbers[at])
                f->op.values[i] = was;
    }
    return try_end(f, err);
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
        if (is_key(f->io, u->at[i]) || loser->values[u->at[i]].type == VALUE_NULL)
            continue;
        struct choice x = {u->at[i], !column->not_null, refers(f->io, u->at[i]),
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
            if (err || (err = plan_add(f, loser, at, &v, own > stamp ? own : stamp)))
                return err;
            loser->values[at] = v;
            return loser == &f->self && (err = op_set(f, at, &v)) ? err : 1;
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
                int err = try_begin(f);
                if (!err && !(err = write_mends(f)))
                    err = replace(f);
                bool thrown = is_thrown(f, &other->who);
                if ((err = try_end(f, err)) || !thrown)
                    return err == ERR_CONSTRAINT ? 0 : err ? err : 1;
            }
            int err = meeting_of(f, u, other, &kind, &mine, &stamp);
            if (err || kind != MEETING_LATER)
                return err;
            if ((err = give_up(f, u, mine ? &f->self : other, mine ? other : &f->self, stamp)) < 0 || (err == 0 && plain))
                return err;
        }
    return 1;
}

/* ---- UNIQUE: all who are in the way */

static int meet_one(struct refused *f, const struct unique *uniques, uint32_t count, const struct rowid *place) {
    struct store *s = f->s;
    struct origins_order o = store_order(s);
    struct party other = {.who = *place};
    reg_init(&other.reg);
    int err = rows_at_home(s, f->io->tbl, place, &other.reg), parted = 0;
    if (!err && reg_known(&other.reg) && reg_alive(&other.reg, &o)) {
        other.who = other.reg.who;
        if (!(err = read_values(f, &other.who, &other.values)))
            parted = part(f, uniques, count, &other);
    }
    reg_release(&other.reg);
    return err == ERR_NOTFOUND ? 0 : err ? err : parted;
}

static int mend_unique(struct refused *f) {
    struct unique *uniques;
    uint32_t count, n;
    int err = read_uniques(f, &uniques, &count);
    if (err || (err = find_key(f)) || (err = try_begin(f)))
        return err;
    if (!(err = replace(f)))
        err = read_values(f, &f->self.who, &f->self.values);
    if ((err = try_end(f, err)))
        return err == ERR_CONSTRAINT || err == ERR_NOTFOUND ? 0 : err;
    struct rowid *others = arena_alloc(f->arena, (f->thrown_count + 1) * sizeof *others);
    if (!others)
        return ERR_NOMEM;
    n = f->thrown_count;
    if (n)
        memcpy(others, f->thrown, n * sizeof *others);
    for (uint32_t i = 0; i < n; i++)
        if ((err = meet_one(f, uniques, count, &others[i])) != 1)
            return err;
    return n > 0;
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
    if (!f->op.columns || !f->op.values || copy_bytes(arena, &f->self.who.key, op->who.key_len))
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

int mend_row(struct store *s, const struct op *op, int code) {
    struct mends *m = s->mending ? mends_of(s) : NULL;
    struct refused f;
    if (!s->mending || code != SQLITE_CONSTRAINT_UNIQUE)
        return 0;
    int err = m ? refused_init(&f, s, op, &m->arena) : ERR_NOMEM;
    if (err == ERR_NOMEM && !m)
        return err;
    if (!err && (err = sql_exec(s->app.writer, "SAVEPOINT starling_mend")) == 0) {
        int mended = mend_unique(&f);
        if (mended == 1 && (mended = write_mends(&f)) == 0 && (mended = project_write(s, &f.op)) == 0)
            mended = 1;
        if (mended != 1)
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
        if (!(err = rows_find(s, p->tbl, &p->who, &r, &home)) && reg_alive(&r, &o)) {
            r.who = p->who;
            err = write_mend(s, p, &r, home, &s->mends->arena);
        }
    }
    reg_release(&r);
    mend_forget(s);
    return err ? err : drain_seal(s, false);
}

bool mend_by_unique(struct store *s, const struct tbl *t, const struct cell *c) {
    const struct value null = {.type = VALUE_NULL};
    int64_t n = 0;
    if (c->hash == value_hash(&null))
        return true;
    if (t->io)
        (void)sql_int(
            s->app.reader, 0, &n,
            "SELECT count(*) FROM pragma_index_list(%Q, 'main') AS l, pragma_index_info(l.name, 'main') AS i WHERE l.\"unique\" AND "
            "i.name=%Q",
            t->io->table->name, t->columns[c->column]);
    return n > 0;
}
