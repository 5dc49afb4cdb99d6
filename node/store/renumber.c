/* Two rows under one number: two servers numbered them while they did not know of each other. The junior gets another number, by a mend that
 * every server that finds the clash writes alike; and a row that has another number than the file shows moves there, with all that refers to it.
 *
 * Nobody's row is lost, and a reference goes on meaning the row that its author meant. A given key never moves; of two rows that SQLite numbered
 * the one that was born (or came back to life) later is the junior. The new number is a little above the old one, chosen by the row's identity,
 * so that servers choose alike and two clashes seldom meet; where all is taken there it is the next one that is free, so that many rows entered
 * apart stay close together. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/afar_state.h"
#include "node/store/keyed.h"
#include "node/store/mend.h"
#include "proto/err.h"

#define NUMBER_TRIES 16u /* half of them within 64 of the old number, half within 128 */
#define PATIENCE_MAX_US 5000000
#define PATIENCE_ALL_US 30000000
#define ALONE_US 60000000

struct renumbering { /* a mend that is planned */
    UT_hash_handle hh;
    struct tbl *tbl;
    struct rowid who;
    int64_t number;
    uint64_t at;
    uint32_t name_len;
    uint8_t name[]; /* hash key */
};

struct move { /* a row of the file that gets its number */
    struct move *next;
    struct tbl *tbl;
    struct rowid who;
    int64_t from, to, temporary;
    bool late; /* another one that moves along is to have this number */
};

struct told { /* a register that refers to such a row, to be put back if the projection is taken back */
    struct told *next;
    struct tbl *tbl;
    struct rowid who;
    uint32_t column;
    struct write by;
    uint64_t from, to;
};

struct claim {
    struct tbl *tbl;
    int64_t number;
    UT_hash_handle hh;
};
#define CLAIM_BYTES (offsetof(struct claim, number) + sizeof(int64_t))

struct renumber {
    struct claim *claims; /* in plans_arena */
    bool claimed;
    struct arena plans_arena, arena;
    struct renumbering *plans;
    struct run { /* numbers without a free one among them, as far as looked at */
        const struct tbl *tbl;
        int64_t from, to; /* from <= n < to */
    } run;
    struct move *wanted;
    struct move **moving; /* by their temporary numbers, from moving_from on */
    int64_t moving_from;
    struct told *told;
    int64_t left_first_us, left_since_us, left_until_us; /* mends are left to another server; 0: none */
    int64_t left_seq;                                    /* with what was merged then */
    uint32_t left_count;                                 /* so many */
    int64_t alone_until_us;                              /* he did not come */
};

static struct renumber *renumber_of(struct store *s) {
    if (!s->renumber)
        s->renumber = calloc(1, sizeof *s->renumber);
    return s->renumber;
}

void renumber_release(struct store *s) {
    if (!s->renumber)
        return;
    renumber_forget(s);
    arena_release(&s->renumber->arena);
    free(s->renumber);
    s->renumber = NULL;
}

/* ---- who moves, and where to */

static struct stamp birth_of(const struct reg *r) {
    if (r->who.kind == IDENT_BORN)
        return (struct stamp){r->birth_at, r->who.origin};
    return (struct stamp){r->inserted.at == STAMP_COPY ? UINT64_MAX : 0,
                          r->inserted.origin}; /* what a joining copy brought is the youngest */
}

/* A row that came back to life has no old rights to its number. */
static struct stamp seniority(const struct store *s, const struct reg *r) {
    struct origins_order o = store_order(s);
    struct stamp born = birth_of(r);
    return r->died.origin != UINT32_MAX && stamp_cmp(r->died, born, &o) > 0 ? r->died : born;
}

static int junior_cmp(const struct store *s, const struct reg *a, const struct reg *b) {
    struct origins_order o = store_order(s);
    if ((a->who.kind == IDENT_GIVEN) != (b->who.kind == IDENT_GIVEN))
        return a->who.kind == IDENT_GIVEN ? -1 : 1;
    struct stamp x = seniority(s, a), y = seniority(s, b);
    int d = x.at != y.at ? (x.at < y.at ? -1 : 1) : stamp_cmp(x, y, &o);
    return d ? d : rowid_cmp(s, &a->who, &b->who);
}

static uint64_t number_stamp(const struct store *s, const struct tbl *t, const struct reg *r) {
    struct origins_order o = store_order(s);
    const struct cell *c = t->number_column ? reg_winner(r, t->number_column - 1, &o) : NULL;
    return c ? r->writes[c->write].at : r->who.kind == IDENT_BORN ? r->birth_at : r->inserted.at;
}

/* The same on every server: nothing in it is a local number. */
static uint64_t draw(const struct store *s, const struct tbl *t, const struct rowid *who, uint32_t attempt) {
    crypto_generichash_state h;
    uint8_t sum[crypto_generichash_BYTES_MIN];
    uint64_t parts[5] = {t->hash, (uint64_t)who->number, who->version, who->hash, attempt}, out;
    crypto_generichash_init(&h, NULL, 0, sizeof sum);
    crypto_generichash_update(&h, (const uint8_t *)parts, sizeof parts);
    if (who->kind == IDENT_BORN) {
        crypto_generichash_update(&h, s->origin_ids[who->origin].node, NODE_ID_BYTES);
        crypto_generichash_update(&h, (const uint8_t *)&s->origin_ids[who->origin].epoch, sizeof s->origin_ids[who->origin].epoch);
    }
    crypto_generichash_final(&h, sum, sizeof sum);
    memcpy(&out, sum, sizeof out);
    return out;
}

/* 1: some row has, or wants, this number. */
static int in_use(struct store *s, struct tbl *t, int64_t number) {
    struct origins_order o = store_order(s);
    struct rowid place = {.kind = IDENT_GIVEN, .number = number};
    int err = rows_at_home(s, t, &place, &s->meant);
    if (err || (reg_known(&s->meant) && reg_alive(&s->meant, &o)))
        return err ? err : 1;
    struct claim key, *c;
    memset(&key, 0, sizeof key);
    key.tbl = t;
    key.number = number;
    HASH_FIND(hh, s->renumber->claims, &key.tbl, CLAIM_BYTES, c);
    return c != NULL;
}

static int claim(struct store *s, struct tbl *t, int64_t number) {
    struct renumber *n = s->renumber;
    struct claim *c = arena_alloc(&n->plans_arena, sizeof *c);
    if (!c)
        return ERR_NOMEM;
    memset(c, 0, sizeof *c);
    c->tbl = t;
    c->number = number;
    HASH_ADD(hh, n->claims, tbl, CLAIM_BYTES, c);
    return 0;
}

/* Numbers that rows want which the file does not show yet. */
static int claim_all(struct store *s) {
    struct origins_order o = store_order(s);
    struct pending_row *p, *next;
    if (s->renumber->claimed)
        return 0;
    s->renumber->claimed = true;
    HASH_ITER(hh, s->pending, p, next) {
        bool home;
        if (p->who.text)
            continue;
        int err = rows_find(s, p->tbl, &p->who, &s->meant, &home);
        if (!err && reg_alive(&s->meant, &o))
            err = claim(s, p->tbl, numbers_wanted(s, p->tbl, &s->meant));
        if (err)
            return err;
    }
    return 0;
}

/* Towards zero where going on would leave the numbers that a 32-bit application can read, or all. */
static int64_t beside(int64_t clash, int64_t far) {
    return clash > INT64_MAX - far || (clash <= INT32_MAX && clash + far > INT32_MAX) ? clash - far : clash + far;
}

static bool in_run(const struct run *r, const struct tbl *t, int64_t n) { return r->tbl == t && n >= r->from && n < r->to; }

/* A free number behind a taken one: in a table without gaps the next one that is free. Galloping, since the lock is held meanwhile. */
static int next_free(struct store *s, struct tbl *t, int64_t clash, int64_t *out) {
    struct run *r = &s->renumber->run;
    if (!in_run(r, t, beside(clash, 1)))
        *r = (struct run){t, beside(clash, 1), beside(clash, 1)};
    int64_t taken = r->to - 1 > clash ? r->to - 1 - clash : 0, step = 1;
    int used;
    while ((used = in_use(s, t, beside(clash, taken + step))) == 1) {
        taken += step;
        step *= 2;
    }
    for (int64_t above = taken + step; used >= 0 && above - taken > 1;) {
        int64_t middle = taken + (above - taken) / 2;
        if ((used = in_use(s, t, beside(clash, middle))) == 1)
            taken = middle;
        else
            above = middle;
    }
    *out = beside(clash, taken + 1);
    if (*out >= r->to)
        r->to = *out + 1; /* it is claimed now */
    return used < 0 ? used : 0;
}

static int choose(struct store *s, struct tbl *t, const struct rowid *who, int64_t clash, int64_t *out) {
    for (uint32_t attempt = 0; attempt < NUMBER_TRIES; attempt++) {
        *out = beside(clash, 1 + (int64_t)(draw(s, t, who, attempt) % (64u << attempt / 8)));
        int used = in_run(&s->renumber->run, t, *out) ? 1 : in_use(s, t, *out);
        if (used <= 0)
            return used;
    }
    return next_free(s, t, clash, out);
}

int renumber_clash(struct store *s, struct tbl *t, const struct reg *a, const struct reg *b) {
    const struct reg *junior = junior_cmp(s, a, b) > 0 ? a : b;
    uint64_t x = number_stamp(s, t, a), y = number_stamp(s, t, b);
    struct renumber *n = renumber_of(s);
    if (!n)
        return ERR_NOMEM;
    if (junior->who.text || junior->who.kind == IDENT_GIVEN)
        return 0;
    int one = twice_plan(s, t, a, b);
    if (one)
        return one;
    struct rowid who = junior->who; /* in_use() reads other registers */
    int64_t clash = numbers_wanted(s, t, junior), number;
    struct renumbering *r;
    buf_clear(&s->key);
    int err = rowid_name(t, &who, &s->key);
    if (err)
        return err;
    HASH_FIND(hh, n->plans, s->key.data, s->key.len, r);
    if (r)
        return 1;
    if (!(r = arena_alloc(&n->plans_arena, sizeof *r + s->key.len)))
        return ERR_NOMEM;
    *r = (struct renumbering){.tbl = t, .who = who, .at = stamp_above(x > y ? x : y), .name_len = (uint32_t)s->key.len};
    memcpy(r->name, s->key.data, s->key.len);
    if ((err = claim_all(s)) || (err = choose(s, t, &who, clash, &number)) || (err = claim(s, t, number)))
        return err;
    r->number = number;
    HASH_ADD(hh, n->plans, name, r->name_len, r);
    return 1;
}

bool renumber_planned(const struct store *s) { return s->renumber && s->renumber->plans; }

/* Two servers that meet find the same clashes at the same moment. So that each mend is sent once, it is left to whose row it is, for a moment, and
 * for another one whenever some came: he may be gone, and then nobody is waited for again soon. */
static bool left_to_another(const struct store *s, const struct rowid *who) {
    return who->kind == IDENT_BORN && memcmp(s->origin_ids[who->origin].node, s->origin_ids[s->own].node, NODE_ID_BYTES) != 0 &&
           store_mono_us() < s->renumber->left_until_us;
}

/* What was merged since may have brought mends: then fewer are planned for the same rows. */
static void be_patient(struct store *s) {
    struct renumber *n = s->renumber;
    int64_t now = store_mono_us();
    uint32_t count = HASH_COUNT(n->plans);
    bool came = n->left_since_us && count < n->left_count && now - n->left_first_us < PATIENCE_ALL_US;
    if (n->left_since_us && !came && n->left_until_us && now >= n->left_until_us)
        n->alone_until_us = now + ALONE_US;
    if (!n->left_since_us)
        n->left_first_us = now;
    if (!n->left_since_us || came)
        n->left_since_us = now;
    int64_t patience_us = (int64_t)s->config.mend_wait_ms * (1000 + 2 * (int64_t)count);
    bool vain = now < n->alone_until_us || s->flights_bytes > FLIGHTS_BYTES_PATIENT; /* nothing more is merged */
    n->left_until_us = vain ? 0 : n->left_since_us + (patience_us < PATIENCE_MAX_US ? patience_us : PATIENCE_MAX_US);
    n->left_count = count;
    n->left_seq = s->hot.flight_seq;
}

bool renumber_left(struct store *s) {
    if (!renumber_planned(s))
        return false;
    be_patient(s);
    for (const struct renumbering *r = s->renumber->plans; r; r = r->hh.next)
        if (!left_to_another(s, &r->who))
            return false;
    return true;
}

bool renumber_patient(const struct store *s) {
    const struct renumber *n = s->renumber;
    return n && n->left_since_us && store_mono_us() < n->left_until_us;
}

bool renumber_waits(const struct store *s) { return renumber_patient(s) && s->renumber->left_seq == s->hot.flight_seq; }

static int write_one(struct store *s, const struct renumbering *n) {
    struct origins_order o = store_order(s);
    struct reg *r = &s->reg;
    bool home;
    int err = rows_find(s, n->tbl, &n->who, r, &home);
    r->who = n->who;
    if (err || !n->tbl->io || !reg_alive(r, &o))
        return err;
    s->mended_rows++;
    struct pending_row *p = pending_find(s, n->tbl, &n->who);
    if ((err = drain_renumber(s, n->tbl->io, r, home, n->number, true, n->at)))
        return err;
    if (p)
        return pending_touch(s, p, NULL, 0);
    return (err = pending_set(s, n->tbl, &n->who, home, NULL, 0, NULL, &p)) ? err : pending_store(s, p);
}

void renumber_forget(struct store *s) {
    if (!s->renumber)
        return;
    HASH_CLEAR(hh, s->renumber->claims);
    HASH_CLEAR(hh, s->renumber->plans);
    s->renumber->claimed = false;
    s->renumber->run = (struct run){0};
    arena_release(&s->renumber->plans_arena);
}

int renumber_write(struct store *s) {
    if (!renumber_planned(s))
        return 0;
    int err = state_begin(s);
    if (err || (err = pending_map_flights(s)) || (err = drain_begin_changes(s, 0)))
        return err;
    for (const struct renumbering *n = s->renumber->plans; n && !err; n = n->hh.next)
        err = left_to_another(s, &n->who) ? 0 : write_one(s, n);
    renumber_forget(s);
    return err ? err : drain_seal(s, false);
}

/* ---- moving them in the file */

int renumber_want(struct store *s, struct tbl *t, const struct rowid *who, int64_t to) {
    struct renumber *n = renumber_of(s);
    struct move *m = n ? arena_alloc(&n->arena, sizeof *m) : NULL;
    if (!m)
        return ERR_NOMEM;
    *m = (struct move){n->wanted, t, *who, numbers_shown(t, who), to, 0, false};
    n->wanted = m;
    return 0;
}

/* Those whose place is held by a row that stays wait. Were there any? Then others wait for these. */
static bool drop_blocked(struct store *s, struct renumber *n, int *err) {
    struct origins_order o = store_order(s);
    bool any = false;
    for (struct move **at = &n->wanted; *at;) {
        struct move *m = *at;
        struct rowid place = {.kind = IDENT_GIVEN, .number = m->to};
        bool leaves = false;
        if ((*err = rows_at_home(s, m->tbl, &place, &s->meant)))
            return false;
        struct rowid holder = s->meant.who;
        struct pending_row *h = reg_known(&s->meant) ? pending_find(s, m->tbl, &holder) : NULL;
        bool there = h ? h->present && !h->done : reg_known(&s->meant) && reg_alive(&s->meant, &o);
        for (const struct move *k = n->wanted; k && there; k = k->next)
            leaves = leaves || (k->tbl == m->tbl && rowid_same(&k->who, &holder));
        bool blocked = there && !leaves && numbers_shown(m->tbl, &holder) == m->to;
        if (blocked)
            *at = m->next;
        else
            at = &m->next;
        any = any || blocked;
    }
    return any;
}

/* Numbers in between, that no row has. (Nor does anything refer to them: what an application writes is small, or an extreme; not 62 bits at random.) */
static int find_temporary(struct store *s, const struct tbl *t, int64_t *from) {
    const char *name = t->io->table->name, *column = t->io->table->columns[t->io->table->key[0]].name;
    int64_t taken = 1;
    int err = 0;
    while (taken && !err) {
        randombytes_buf(from, sizeof *from);
        *from = -(*from & INT64_MAX >> 1) - (int64_t)1e18;
        err = sql_int(s->app.writer, 0, &taken, "SELECT EXISTS(SELECT 1 FROM main.\"%w\" WHERE \"%w\" BETWEEN %lld AND %lld)", name, column,
                      (long long)*from, (long long)*from + UINT32_MAX);
    }
    return err;
}

/* Not within the projection: after a change of the schema each ROLLBACK TO of the same transaction has SQLite read all schemas again and make all
 * statements anew, and of many rows that wait for each other each is tried within a savepoint: readers were kept out for ten seconds. */
int renumber_tables(struct store *s) {
    if (sqlite3_table_column_metadata(s->app.writer, "temp", "starling_move", NULL, NULL, NULL, NULL, NULL, NULL) == SQLITE_OK)
        return 0; /* it is the last one */
    return sql_exec(
        s->app.writer,
        "CREATE TEMP TABLE IF NOT EXISTS starling_stay(c, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15, k16);"
        "CREATE INDEX IF NOT EXISTS temp.starling_stay_key ON starling_stay(c, k1);"
        "CREATE TEMP TABLE IF NOT EXISTS starling_move(a INTEGER PRIMARY KEY, b INTEGER UNIQUE, t INTEGER UNIQUE)");
}

/* A row may have asked twice; and two rows for one number, which servers gave them apart: one gets it, and the other finds it taken when it asks again. */
static int fill(struct store *s, const struct tbl *t, struct move *list) {
    sqlite3_stmt *q;
    int64_t n = 0, first = 0;
    uint32_t count = 0;
    int err = find_temporary(s, t, &first);
    if (err)
        return err;
    for (const struct move *m = list; m; m = m->next)
        count++;
    s->renumber->moving_from = first;
    if (!(s->renumber->moving = arena_alloc(&s->renumber->arena, (count + 1) * sizeof(struct move *))))
        return ERR_NOMEM;
    if ((err = sql_exec(s->app.writer, "DELETE FROM temp.starling_move")) ||
        (err = sql_prepare(s->app.writer, &q, "INSERT OR IGNORE INTO temp.starling_move VALUES(?,?,?)")))
        return err;
    for (; list && !err; list = list->next) {
        s->renumber->moving[n] = list;
        sqlite3_bind_int64(q, 1, list->from);
        sqlite3_bind_int64(q, 2, list->to);
        sqlite3_bind_int64(q, 3, list->temporary = first + n++);
        err = sql_run(q);
        list->late = sqlite3_changes(s->app.writer) == 0;
    }
    sqlite3_finalize(q);
    return err;
}

/* In two steps, so that rows may change places. */
static int move_number(struct store *s, const struct tbl *t) {
    const char *name = t->io->table->name, *column = t->io->table->columns[t->io->table->key[0]].name;
    return sql_exec(s->app.writer,
                    "UPDATE main.\"%w\" AS c SET \"%w\"=(SELECT m.t FROM temp.starling_move AS m WHERE m.a=c.\"%w\") WHERE c.\"%w\" IN "
                    "(SELECT m.a FROM temp.starling_move AS m);"
                    "UPDATE main.\"%w\" AS c SET \"%w\"=(SELECT m.b FROM temp.starling_move AS m WHERE m.t=c.\"%w\") WHERE c.\"%w\" IN "
                    "(SELECT m.t FROM temp.starling_move AS m)",
                    name, column, column, column, name, column, column, column);
}

/* ---- what refers to them: all rows but those that are in starling_stay, by their keys as they are before */

static int run_text(sqlite3 *db, sqlite3_str *q) {
    char *sql = sqlite3_str_finish(q);
    int err = sql ? sql_exec(db, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    return err;
}

/* All columns that refer to t at once, since a key may hold some of them: from one column of starling_move to another. */
static int move_references(struct store *s, const struct tio *io, const struct tbl *t, const char *from, const char *to) {
    const struct table *table = io->table;
    bool first = strcmp(from, "a") == 0;
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendf(q, "UPDATE main.\"%w\" AS c SET ", table->name);
    const char *of = "";
    for (uint32_t k = 0; k < io->count; k++) {
        if (io->ref_to[k] != t)
            continue;
        sqlite3_str_appendf(q, "%s\"%w\"=ifnull((SELECT m.%s FROM temp.starling_move AS m WHERE m.%s=c.\"%w\"", of, io->names[k], to, from,
                            io->names[k]);
        if (first) {
            sqlite3_str_appendf(q, " AND NOT EXISTS(SELECT 1 FROM temp.starling_stay AS s WHERE s.c=%u", k);
            if (table->key_kind == KEY_ROWID)
                sqlite3_str_appendf(q, " AND s.k1=c.%s", table->rowid);
            for (uint32_t i = 0; i < table->key_count; i++)
                sqlite3_str_appendf(q, " AND s.k%u IS c.\"%w\"", i + 1, table->columns[table->key[i]].name);
            sqlite3_str_appendchar(q, 1, ')');
        }
        sqlite3_str_appendf(q, "), c.\"%w\")", io->names[k]);
        of = ", ";
    }
    of = " WHERE ";
    for (uint32_t k = 0; k < io->count; k++)
        if (io->ref_to[k] == t) {
            sqlite3_str_appendf(q, "%sc.\"%w\" IN (SELECT m.%s FROM temp.starling_move AS m)", of, io->names[k], from);
            of = " OR ";
        }
    return run_text(s->app.writer, q);
}

/* In two steps where somebody comes to a number that another one leaves. */
static int move_all_references(struct store *s, const struct tio *io, const struct tbl *t) {
    int64_t meet;
    int err =
        sql_int(s->app.writer, 0, &meet, "SELECT EXISTS(SELECT 1 FROM temp.starling_move AS x JOIN temp.starling_move AS y ON x.b=y.a)");
    if (err || !meet)
        return err ? err : move_references(s, io, t, "a", "b");
    return (err = move_references(s, io, t, "a", "t")) ? err : move_references(s, io, t, "t", "b");
}

static uint64_t hash_of(struct store *s, struct tio *io, uint32_t at, int64_t number) {
    struct value v = {.type = VALUE_INT, .as.i = number};
    uint64_t hash = value_hash(&v);
    if (tables_converts(io, at, &v))
        (void)tables_convert(s, io, at, &v, &hash);
    return hash;
}

/* Does this cell mean the row that moves? A number that its author knew nobody under, or a given key, is no name of this one. */
static int means(struct store *s, struct tbl *t, const struct reg *r, const struct cell *c, const struct tbl *to,
                 const struct rowid *moves) {
    const struct write *w = &r->writes[c->write];
    struct rowid who;
    struct tbl *table;
    struct value v;
    int err = values_told(s, w->origin, w->version, t, &r->who, c->column, c->hash, &v);
    if (err)
        return err == ERR_NOTFOUND ? 1 : err;
    return v.type == VALUE_REF && refs_find(s, &v, &table, &who) && table == to && rowid_same(&who, moves);
}

/* The register (in s->reg2) is told the new number, where it means that row. 0: what the file shows there stays. */
static int tell_cells(struct store *s, struct renumber *n, struct tio *io, uint32_t at, const struct tbl *to, const struct move *m) {
    struct reg *r = &s->reg2;
    struct origins_order o = store_order(s);
    struct tbl *t = io->tbl;
    uint32_t column = io->numbers[at];
    uint64_t from = hash_of(s, io, at, m->from), now = hash_of(s, io, at, m->to);
    struct rowid who = r->who;
    bool home = !t->extras && !t->places, follows = true; /* then it was read where rows_find() would */
    int err = home ? 0 : rows_find(s, t, &who, r, &home);
    r->who = who;
    const struct cell *best = err ? NULL : reg_winner(r, column, &o);
    for (uint32_t i = 0; i < r->cells_count && !err; i++) {
        struct cell *c = &r->cells[i];
        if (c->column != column || c->hash != from)
            continue;
        int meant = means(s, t, r, c, to, &m->who);
        if (meant < 0)
            return meant;
        if (c == best)
            follows = meant;
        if (!meant)
            continue;
        struct told *told = arena_alloc(&n->arena, sizeof *told);
        uint8_t *key = told ? arena_alloc(&n->arena, who.key_len + 1) : NULL;
        if (!key)
            return ERR_NOMEM;
        *told = (struct told){n->told, t, who, column, r->writes[c->write], from, now};
        if (who.text) {
            memcpy(key, who.key, who.key_len);
            told->who.key = key;
        }
        n->told = told;
        rows_account(s, t, &who, r, NULL);
        c->hash = now;
        rows_account(s, t, &who, NULL, r);
        err = rows_store(s, t, &told->who, r, home);
    }
    return err ? err : follows;
}

static int stays(struct store *s, const struct table *t, uint32_t column, const struct value *key) {
    sqlite3_stmt *q;
    sqlite3_str *text = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendall(text, "INSERT INTO temp.starling_stay(c");
    for (uint32_t i = 1; i <= table_key_width(t); i++)
        sqlite3_str_appendf(text, ", k%u", i);
    sqlite3_str_appendf(text, ") VALUES(%u", column);
    for (uint32_t i = 0; i < table_key_width(t); i++)
        sqlite3_str_appendall(text, ", ?");
    sqlite3_str_appendall(text, ")");
    char *sql = sqlite3_str_finish(text);
    int err = sql ? sql_prepare(s->app.writer, &q, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    if (err)
        return err;
    for (uint32_t i = 0; i < table_key_width(t); i++)
        sql_bind_value(q, (int)i + 1, &key[i]);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

/* Does the file show this row, as far as the projection at hand has come? The ops of its flights are written before anything moves. */
static bool in_file(struct store *s, const struct tbl *t, const struct reg *r) {
    struct origins_order o = store_order(s);
    const struct pending_row *p = pending_find(s, t, &r->who);
    return !p || p->mapped ? reg_alive(r, &o) : p->done ? p->holds : p->present;
}

/* The same of a key with references: some of the numbers in it may mean given keys, whose rows are not here yet, or nobody. The row that the file
 * shows: another may have had the number of a given key before, or be about to leave it. */
static int register_of_key(struct store *s, struct tio *io, const struct value *key, struct buf *name) {
    struct origins_order o = store_order(s);
    struct rowid place = {.kind = IDENT_GIVEN, .text = true};
    uint32_t refers = 0, best = 0;
    int rank = 0, err;
    for (uint32_t i = 0; i < io->table->key_count; i++)
        refers |= (uint32_t)(io->ref_to[i] != NULL) << i;
    for (uint32_t plain = 0; plain <= refers + 1; plain++) {
        bool last = plain == refers + 1;
        if ((last && !rank) || (!last && plain & ~refers))
            continue;
        err = refs_key(s, io, key, INT64_MAX, last ? best : plain, name);
        place.key = name->data;
        place.key_len = name->len;
        if (err || (err = rows_at_home(s, io->tbl, &place, &s->reg2)))
            return err;
        int here = !reg_known(&s->reg2) ? 0 : in_file(s, io->tbl, &s->reg2) ? 3 : reg_alive(&s->reg2, &o) ? 2 : 1;
        best = here > rank ? plain : best;
        rank = here > rank ? here : rank;
    }
    return rank > 0;
}

static int register_of(struct store *s, struct tio *io, const struct value *key, struct buf *name) {
    struct rowid place = {.kind = IDENT_GIVEN, .text = io->table->key_kind != KEY_INTEGER};
    uint8_t keyless[KEYLESS_KEY_BYTES];
    int known = 1, err = 0;
    if (io->key_refs && io->table->key_kind == KEY_COLUMNS)
        return register_of_key(s, io, key, name);
    if (io->table->key_kind == KEY_ROWID) {
        known = keyless_name(io, key[0].as.i, keyless);
        buf_clear(name);
        buf_append(name, keyless, sizeof keyless);
        err = known < 0 ? known : 0;
    } else if (place.text) {
        err = tables_key_of(io, key, name);
    } else {
        place.number = key[0].as.i;
    }
    place.key = name->data;
    place.key_len = place.text ? name->len : 0;
    if (!err && known)
        err = rows_at_home(s, io->tbl, &place, &s->reg2);
    return err ? err : known && reg_known(&s->reg2);
}

int renumber_register_at(struct store *s, struct tio *io, sqlite3_stmt *q, struct value key[16], struct buf *name) {
    for (uint32_t i = 0; i < table_key_width(io->table); i++)
        sql_column_value(q, 1 + (int)i, &key[i]);
    return register_of(s, io, key, name);
}

int renumber_select(sqlite3 *db, const struct tio *io, const char *first, const char *rest, uint32_t at, sqlite3_stmt **q) {
    sqlite3_str *text = sqlite3_str_new(db);
    sqlite3_str_appendf(text, "SELECT %s", first);
    tables_put_key(text, io->table, "c");
    sqlite3_str_appendf(text, " FROM main.\"%w\" AS c ", io->table->name);
    sqlite3_str_appendf(text, rest, io->names[at]);
    char *sql = sqlite3_str_finish(text);
    int err = sql ? sql_prepare(db, q, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    return err;
}

/* Registers of rows that refer to those which move: they hold what the file shows. */
static int tell_registers(struct store *s, struct renumber *n, struct tio *io, uint32_t at, const struct tbl *to) {
    const struct table *t = io->table;
    sqlite3_stmt *q;
    int row, err = renumber_select(s->app.writer, io, "m.t", "JOIN temp.starling_move AS m ON c.\"%w\"=m.a", at, &q);
    if (err)
        return err;
    struct buf name;
    buf_init(&name, 1 << 20);
    while (!err && (row = sql_step(q)) != 0) {
        struct value key[16];
        if (row < 0) {
            err = row;
            break;
        }
        const struct move *m = n->moving[sqlite3_column_int64(q, 0) - n->moving_from];
        int follows = renumber_register_at(s, io, q, key, &name);
        if (follows == 1 && (follows = tell_cells(s, n, io, at, to, m)) == 0)
            err = stays(s, t, at, key);
        err = follows < 0 ? follows : err;
    }
    sqlite3_finalize(q);
    buf_release(&name);
    return err;
}

static int tell_table(struct store *s, struct renumber *n, struct tio *io, const struct tbl *t) {
    bool any = false;
    int err = sql_exec(s->app.writer, "DELETE FROM temp.starling_stay");
    for (uint32_t k = 0; k < io->count && !err; k++)
        if (io->ref_to[k] == t) {
            err = tell_registers(s, n, io, k, t);
            any = true;
        }
    return err ? err : any;
}

/* Rows whose own key is the reference move along. */
static int move_keys(struct store *s, struct tio *io, const struct move *list) {
    for (const struct move *m = list; m; m = m->next) {
        struct rowid place = {.kind = IDENT_GIVEN, .number = m->from};
        int err = m->late ? 0 : rows_at_home(s, io->tbl, &place, &s->meant);
        if (err)
            return err;
        if (m->late || !reg_known(&s->meant) || s->meant.who.kind == IDENT_GIVEN)
            continue;
        if ((err = renumber_want(s, io->tbl, &s->meant.who, m->to)))
            return err;
    }
    return 0;
}

/* The references first, while keys still find the rows that have them; then the rows. */
static int move_table(struct store *s, struct renumber *n, struct tbl *t, struct move *list) {
    int err = fill(s, t, list);
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        int any = io->tbl ? tell_table(s, n, io, t) : 0;
        if (any == 1)
            err = move_all_references(s, io, t);
        err = any < 0 ? any : err;
        if (!err && io->tbl && io->key_ref == t)
            err = move_keys(s, io, list);
    }
    return err ? err : move_number(s, t);
}

static bool same_write(const struct reg *r, const struct cell *c, const struct write *by) {
    const struct write *w = &r->writes[c->write];
    return w->origin == by->origin && w->version == by->version && w->at == by->at;
}

/* Registers say again what they said before, back to this one. */
static int untell(struct store *s, struct renumber *n, const struct told *until) {
    int err = 0;
    for (; n->told != until && !err; n->told = n->told->next) {
        const struct told *t = n->told;
        bool home;
        if ((err = state_begin(s)) || (err = rows_find(s, t->tbl, &t->who, &s->meant, &home)))
            break;
        rows_account(s, t->tbl, &t->who, &s->meant, NULL);
        for (uint32_t i = 0; i < s->meant.cells_count; i++)
            if (s->meant.cells[i].column == t->column && s->meant.cells[i].hash == t->to &&
                same_write(&s->meant, &s->meant.cells[i], &t->by))
                s->meant.cells[i].hash = t->from;
        rows_account(s, t->tbl, &t->who, NULL, &s->meant);
        err = rows_store(s, t->tbl, &t->who, &s->meant, home);
    }
    return err;
}

/* 1: they have moved; 0: the file does not take them there, by some constraint, and they wait. */
static int try_moves(struct store *s, struct renumber *n, struct tbl *t, struct move *list, int64_t seq) {
    struct told *told = n->told;
    struct move *others = n->wanted;
    int err = sql_exec(s->app.writer, "SAVEPOINT starling_numbers");
    if (err)
        return err;
    if ((err = move_table(s, n, t, list)))
        sql_exec(s->app.writer, "ROLLBACK TO starling_numbers");
    sql_exec(s->app.writer, "RELEASE starling_numbers");
    if (err) {
        n->wanted = others;
        int back = untell(s, n, told);
        return back ? back : err == ERR_CONSTRAINT ? 0 : err;
    }
    for (const struct move *m = list; m && !err; m = m->next)
        err = m->late ? 0 : numbers_show_at(s, t, &m->who, m->to, seq);
    return err ? err : 1;
}

/* Everything that wants to move, and can; then whose keys refer to these. */
static int move_all(struct store *s, struct renumber *n, int64_t seq, bool *any) {
    int err = 0;
    while (drop_blocked(s, n, &err))
        ;
    while (!err && n->wanted) {
        struct tbl *t = n->wanted->tbl;
        struct move *mine = NULL, *others = NULL;
        for (struct move *m = n->wanted, *next; m; m = next) { /* those of one table */
            struct move **to = m->tbl == t ? &mine : &others;
            next = m->next;
            m->next = *to;
            *to = m;
        }
        n->wanted = others;
        bool several = mine->next;
        int moved = try_moves(s, n, t, mine, seq);
        *any = *any || moved == 1;
        for (struct move *m = mine, *next; m && several && moved == 0; m = next) { /* each alone: what one meets need not keep all */
            next = m->next;
            m->next = NULL;
            if ((moved = try_moves(s, n, t, m, seq)) == 1)
                *any = true;
            m->next = next;
            moved = moved < 0 ? moved : 0;
        }
        err = moved < 0 ? moved : 0;
    }
    return err;
}

int renumber_move(struct store *s, int64_t seq) {
    struct renumber *n = s->renumber;
    bool any = false;
    if (!n || !n->wanted)
        return 0;
    int err = sql_exec(s->app.writer, "PRAGMA ignore_check_constraints=ON");
    if (!err && (err = state_begin(s)) == 0)
        err = move_all(s, n, seq, &any);
    int off = sql_exec(s->app.writer, "PRAGMA ignore_check_constraints=OFF");
    return err ? err : off ? off : any;
}

/* ---- afterwards */

int renumber_undo(struct store *s) {
    struct renumber *n = s->renumber;
    int err = numbers_hide(s); /* also a row that came home under the number of its birth, which nobody renumbered */
    if (err || !n)
        return err;
    err = untell(s, n, NULL);
    n->told = NULL;
    n->wanted = NULL;
    arena_release(&n->arena);
    return err;
}

int renumber_done(struct store *s) {
    struct renumber *n = s->renumber;
    int err = s->moving ? numbers_settle_all(s, INT64_MAX) : 0;
    if (n) {
        n->told = NULL;
        n->wanted = NULL;
        n->left_since_us = n->left_until_us = 0;
        arena_release(&n->arena);
    }
    return err;
}
