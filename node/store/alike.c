/* Rows that a policy's key says are one, though no index of the file forbids two: "is team 254 there?" is asked in the application's code, and every
 * server imports the same teams. When all of a projection is written, before COMMIT, each row that it wrote into such columns is looked up by them; what
 * is found is a meeting on a UNIQUE value (meet.c).
 *
 * Not every two equal rows are. What an author wrote who knew of the other row is his own matter, as are rows that were there before: the application can
 * hold two, and does not expect one of them to go. So a meeting needs two authors of whom neither had seen the other's write. */
#include <stdlib.h>
#include <string.h>

#include "node/store/foreign.h"
#include "node/store/same.h"
#include "proto/err.h"

#define EACH_MAX 4    /* rows of a projection that are looked up one by one, where no index helps */
#define OTHERS_MAX 64 /* rows with one value: what is beyond meets when these have parted */

struct alike {
    bool indexed;
    sqlite3_stmt *equal; /* keys of the rows with these values */
    sqlite3_stmt *all;   /* keys and values of all rows */
};

/* ---- statements */

static void put_key(sqlite3_str *q, const struct table *t) {
    sqlite3_str_appendall(q, "SELECT ");
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendall(q, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"", i ? "," : "", t->columns[t->key[i]].name);
}

static int prepare(struct store *s, sqlite3_str *q, sqlite3_stmt **out) {
    char *text = sqlite3_str_finish(q);
    int err = text ? sql_prepare(s->app.writer, out, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    return err;
}

int alike_load(struct store *s, struct tio *io) {
    const struct policy *p = &io->policy;
    int64_t indexes = 0;
    if (!p->key_count)
        return 0;
    struct alike *a = io->alike = calloc(1, sizeof *a);
    if (!a)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < p->key_count && !indexes; i++) {
        int err =
            sql_int(s->app.reader, 0, &indexes,
                    "SELECT count(*) FROM pragma_index_list(%Q, 'main') AS l, pragma_index_info(l.name, 'main') AS i WHERE NOT l.partial "
                    "AND i.seqno=0 AND i.name=%Q",
                    io->table->name, io->names[p->key[i]]);
        if (err)
            return err;
    }
    a->indexed = indexes > 0;
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    put_key(q, io->table);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", io->table->name);
    for (uint32_t i = 0; i < p->key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"=?", i ? " AND " : " WHERE ", io->names[p->key[i]]);
    int err = prepare(s, q, &a->equal);
    if (err)
        return err;
    put_key(q = sqlite3_str_new(s->app.writer), io->table);
    for (uint32_t i = 0; i < p->key_count; i++)
        sqlite3_str_appendf(q, ",\"%w\"", io->names[p->key[i]]);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", io->table->name);
    return prepare(s, q, &a->all);
}

void alike_unload(struct tio *io) {
    if (!io->alike)
        return;
    sqlite3_finalize(io->alike->equal);
    sqlite3_finalize(io->alike->all);
    free(io->alike);
    io->alike = NULL;
}

/* ---- who had seen what */

static int saw(struct store *s, const struct write *x, const struct write *y, bool *saw) {
    if (x->origin == y->origin) {
        *saw = x->version >= y->version;
        return 0;
    }
    if (y->at == 0) { /* of the copy that all but those who joined with another one began with */
        *saw = x->at != STAMP_COPY;
        return 0;
    }
    if (x->at == 0) {
        *saw = false;
        return 0;
    }
    return same_had_seen(s, x, y, saw);
}

int alike_unseen(struct store *s, const struct write *a, const struct write *b, bool *unseen) {
    bool one = true, other = true;
    int err = saw(s, a, b, &one);
    if (!err && !one)
        err = saw(s, b, a, &other);
    *unseen = !one && !other;
    return err;
}

/* ---- what the projection wrote */

struct written {
    struct rowid who;
    uint64_t hash; /* of its values, once they are read */
    bool there;    /* in the file, with no NULL among them */
};

struct looking {
    struct store *s;
    struct tio *io;
    struct arena arena;
    struct written *rows;
    uint32_t count, cap;
    struct buf name;
    bool planned;
};

static int add(struct looking *l, const struct rowid *who) {
    if (l->count == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 32;
        struct written *more = realloc(l->rows, cap * sizeof *more);
        if (!more)
            return ERR_NOMEM;
        l->rows = more;
        l->cap = cap;
    }
    l->rows[l->count] = (struct written){.who = *who};
    if (who->text) {
        uint8_t *key = arena_alloc(&l->arena, who->key_len + 1);
        if (!key)
            return ERR_NOMEM;
        memcpy(key, who->key, who->key_len);
        l->rows[l->count].who.key = key;
    }
    l->count++;
    return 0;
}

static bool touches(const struct tio *io, const struct op *op) {
    if (op->kind == CHANGE_DELETE)
        return false;
    for (uint32_t i = 0; i < op->count && op->kind != CHANGE_INSERT && op->kind != CHANGE_KINDS; i++)
        if (op->columns[i] < io->by_number_count && io->by_number[op->columns[i]] &&
            policies_key_has(io, io->by_number[op->columns[i]] - 1))
            return true;
    return op->kind == CHANGE_INSERT || op->kind == CHANGE_KINDS;
}

static int gather(struct looking *l, int64_t seq) {
    struct store *s = l->s;
    struct pending_row *p, *next;
    int err = 0;
    for (const struct flight *f = s->flights; f && f->seq <= seq && !err; f = f->next)
        for (uint32_t i = 0; i < f->ops_count && !err; i++) {
            const struct op *op = &f->ops[i];
            if (op->tbl != l->io->tbl || !touches(l->io, op))
                continue;
            p = s->pending ? pending_find(s, op->tbl, &op->who) : NULL;
            err = p && !p->mapped ? 0 : add(l, &op->who);
        }
    HASH_ITER(hh, s->pending, p, next) {
        if (!err && p->tbl == l->io->tbl && p->done && p->holds)
            err = add(l, &p->who);
    }
    return err;
}

static uint64_t hash_of(struct looking *l, const struct value *values, const uint32_t *at) {
    const struct tio *io = l->io;
    buf_clear(&l->name);
    for (uint32_t i = 0; i < io->policy.key_count; i++) {
        const struct value *v = &values[at ? at[i] : i];
        if (v->type == VALUE_NULL)
            return 0;
        tables_put_key_value(&l->name, v, io->table->columns[io->order[io->policy.key[i]]].own);
    }
    struct value bytes = {.type = VALUE_BLOB, .p = l->name.data, .len = l->name.len};
    uint64_t h = value_hash(&bytes);
    return h ? h : 1;
}

static int read_row(struct looking *l, struct written *w) {
    struct row_look look = {.io = l->io, .place = w->who};
    int err = drain_look(l->s, &look, l->io->peek);
    if (!err && look.present)
        w->hash = hash_of(l, look.values, l->io->policy.key);
    w->there = w->hash != 0;
    sqlite3_reset(l->io->peek);
    return err;
}

/* ---- and who is in the file beside it */

/* The row of a statement that begins with the key: 1: it is one that we know by a name. */
static int place_at(struct looking *l, sqlite3_stmt *q, struct rowid *place) {
    struct value key[COLUMNS_MAX];
    uint32_t n = table_key_width(l->io->table);
    for (uint32_t i = 0; i < n; i++) {
        sql_column_value(q, (int)i, &key[i]);
        if (key[i].type == VALUE_NULL)
            return 0;
    }
    int known = foreign_place_of(l->io, key, &l->name, place);
    if (known < 0)
        return known;
    if (known == 1)
        return 0;
    uint8_t *copy = place->text ? arena_alloc(&l->arena, place->key_len + 1) : NULL;
    if (place->text && !copy)
        return ERR_NOMEM;
    if (place->text)
        place->key = memcpy(copy, place->key, place->key_len);
    return 1;
}

static bool is_itself(const struct looking *l, const struct written *w, const struct rowid *place) {
    return place->text ? w->who.text && w->who.key_len == place->key_len && memcmp(w->who.key, place->key, place->key_len) == 0
                       : !w->who.text && numbers_shown(l->io->tbl, &w->who) == place->number;
}

static int meet(struct looking *l, const struct written *w, const struct rowid *place) {
    if (is_itself(l, w, place))
        return 0;
    int met = mend_alike(l->s, l->io->tbl, &w->who, place);
    l->planned |= met == 1;
    return met < 0 ? met : 0;
}

static int look_up(struct looking *l, const struct written *w) {
    struct rowid others[OTHERS_MAX];
    struct row_look look = {.io = l->io, .place = w->who};
    sqlite3_stmt *q = l->io->alike->equal;
    uint32_t n = 0;
    int row = 0, err = drain_look(l->s, &look, l->io->peek);
    for (uint32_t i = 0; i < l->io->policy.key_count && !err && look.present; i++)
        sql_bind_value(q, (int)i + 1, &look.values[l->io->policy.key[i]]);
    while (!err && look.present && n < OTHERS_MAX && (row = sql_step(q)) == 1) {
        int known = place_at(l, q, &others[n]);
        err = known < 0 ? known : 0;
        n += known == 1;
    }
    sqlite3_reset(q);
    sqlite3_reset(l->io->peek);
    err = err ? err : row < 0 ? row : 0;
    for (uint32_t i = 0; i < n && !err; i++)
        err = meet(l, w, &others[i]);
    return err;
}

static int by_hash(const void *a, const void *b) {
    uint64_t x = ((const struct written *)a)->hash, y = ((const struct written *)b)->hash;
    return x < y ? -1 : x > y;
}

struct pair {
    uint32_t row;
    struct rowid place;
};

/* Once through the table for all of them. */
static int look_through(struct looking *l) {
    struct pair *pairs = NULL;
    uint32_t n = 0, cap = 0;
    sqlite3_stmt *q = l->io->alike->all;
    int row, err = 0, width = (int)table_key_width(l->io->table);
    qsort(l->rows, l->count, sizeof *l->rows, by_hash);
    while (!err && (row = sql_step(q)) != 0) {
        struct value values[POLICY_KEY_MAX];
        for (uint32_t i = 0; i < l->io->policy.key_count && row > 0; i++)
            sql_column_value(q, width + (int)i, &values[i]);
        struct written key = {.hash = row > 0 ? hash_of(l, values, NULL) : 0};
        if (row < 0)
            err = row;
        const struct written *w = key.hash ? bsearch(&key, l->rows, l->count, sizeof *w, by_hash) : NULL;
        if (!w)
            continue;
        uint32_t i = (uint32_t)(w - l->rows);
        struct rowid place;
        int known = place_at(l, q, &place);
        if (known != 1) {
            err = known;
            continue;
        }
        while (i > 0 && l->rows[i - 1].hash == key.hash)
            i--;
        for (; i < l->count && l->rows[i].hash == key.hash && !err; i++) {
            struct pair *more = n < cap ? pairs : realloc(pairs, (cap = cap * 2 + 64) * sizeof *more);
            err = more ? 0 : ERR_NOMEM;
            if (more)
                (pairs = more)[n++] = (struct pair){i, place};
        }
    }
    sqlite3_reset(q);
    for (uint32_t i = 0; i < n && !err; i++)
        err = meet(l, &l->rows[pairs[i].row], &pairs[i].place);
    free(pairs);
    return err;
}

static int look_at(struct looking *l) {
    uint32_t n = 0;
    int err = 0;
    for (uint32_t i = 0; i < l->count && !err; i++) {
        if (!(err = read_row(l, &l->rows[i])) && l->rows[i].there)
            l->rows[n++] = l->rows[i];
    }
    l->count = n;
    if (err || !n)
        return err;
    if (!l->io->alike->indexed && n > EACH_MAX)
        return look_through(l);
    for (uint32_t i = 0; i < n && !err; i++)
        err = look_up(l, &l->rows[i]);
    return err;
}

int alike_check(struct store *s, int64_t seq) {
    bool planned = false;
    int err = 0;
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        if (!s->tios[i].tbl || !s->tios[i].alike)
            continue;
        struct looking l = {.s = s, .io = &s->tios[i]};
        buf_init(&l.name, 256u << 20);
        if (!(err = gather(&l, seq)))
            err = look_at(&l);
        planned |= l.planned;
        free(l.rows);
        buf_release(&l.name);
        arena_release(&l.arena);
    }
    return err ? err : planned;
}
