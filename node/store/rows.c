/* Registers in the state database. The happy path for a row is home: the table of registers, under its number or key, where one
 * seek finds it. Two rows of different identity may have one number (two servers numbered them apart): the one that the
 * application's file shows is at home, the others are in `extra` under their identity. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/same.h"
#include "proto/err.h"

bool rowid_same(const struct rowid *a, const struct rowid *b) {
    if (a->kind != b->kind || a->text != b->text)
        return false;
    if (a->text)
        return a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0;
    if (a->number != b->number)
        return false;
    if (a->kind == IDENT_BORN)
        return a->origin == b->origin && a->version == b->version;
    return a->kind != IDENT_ADOPTED || a->hash == b->hash;
}

/* ---- identities as bytes: kind | text << 7, then number or length and key, then what the kind adds */

int rowid_pack(const struct rowid *who, struct buf *b) {
    uint8_t head = (uint8_t)(who->kind | (who->text ? 0x80 : 0));
    buf_append(b, &head, 1);
    if (who->text) {
        uint32_t n = (uint32_t)who->key_len;
        buf_append(b, &n, 4);
        buf_append(b, who->key, who->key_len);
        return b->failed;
    }
    buf_append(b, &who->number, 8);
    if (who->kind == IDENT_BORN) {
        buf_append(b, &who->origin, 4);
        buf_append(b, &who->version, 8);
    } else if (who->kind == IDENT_ADOPTED) {
        buf_append(b, &who->hash, 8);
    }
    return b->failed;
}

static bool take(void *to, size_t n, const uint8_t **at, const uint8_t *end) {
    if ((size_t)(end - *at) < n)
        return false;
    memcpy(to, *at, n);
    *at += n;
    return true;
}

int rowid_unpack(struct rowid *who, const uint8_t **at, const uint8_t *end) {
    uint8_t head;
    memset(who, 0, sizeof *who);
    if (!take(&head, 1, at, end))
        return ERR_CORRUPT;
    who->kind = head & 0x7f;
    who->text = head & 0x80;
    if (who->text) {
        uint32_t n;
        if (!take(&n, 4, at, end) || n > (size_t)(end - *at))
            return ERR_CORRUPT;
        who->key = *at;
        who->key_len = n;
        *at += n;
        return 0;
    }
    if (!take(&who->number, 8, at, end))
        return ERR_CORRUPT;
    if (who->kind == IDENT_BORN && (!take(&who->origin, 4, at, end) || !take(&who->version, 8, at, end)))
        return ERR_CORRUPT;
    if (who->kind == IDENT_ADOPTED && !take(&who->hash, 8, at, end))
        return ERR_CORRUPT;
    return 0;
}

int rowid_name(const struct tbl *t, const struct rowid *who, struct buf *b) {
    buf_append(b, &t->no, 4);
    return rowid_pack(who, b);
}

/* ---- at home */

static bool fits_home(const struct tbl *t, const struct rowid *who) { return t->shape != SHAPE_NONE && tbl_is_text(t) == who->text; }

static void bind_place(sqlite3_stmt *q, const struct rowid *place) {
    if (place->text)
        sqlite3_bind_blob64(q, 1, place->key_len ? (const void *)place->key : "", place->key_len, SQLITE_STATIC);
    else
        sqlite3_bind_int64(q, 1, place->number);
}

int rowid_cmp(const struct store *s, const struct rowid *a, const struct rowid *b) {
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    int d = a->kind == IDENT_BORN ? origin_cmp(&s->origin_ids[a->origin], &s->origin_ids[b->origin]) : 0;
    if (d || a->version != b->version)
        return d ? d : a->version < b->version ? -1 : 1;
    if (a->number != b->number)
        return a->number < b->number ? -1 : 1;
    return a->hash < b->hash ? -1 : a->hash > b->hash;
}

static int home_get(const struct tbl *t, const struct rowid *place, struct reg *r) {
    reg_clear(r);
    if (!fits_home(t, place) || (!place->text && place->number > t->top))
        return 0;
    bind_place(t->get, place);
    int row = sql_step(t->get);
    if (row < 0)
        return row;
    int err = 0;
    if (row) {
        err = reg_decode(r, sqlite3_column_blob(t->get, 0), (size_t)sqlite3_column_bytes(t->get, 0));
        r->who.text = place->text;
        if (!r->away)
            r->who.number = place->number;
        r->who.key = place->key;
        r->who.key_len = place->key_len;
    }
    sqlite3_reset(t->get);
    return err;
}

static int extra_get(struct store *s, const struct tbl *t, const struct rowid *who, struct reg *r) {
    buf_clear(&s->blob);
    int err = rowid_pack(who, &s->blob);
    if (err)
        return err;
    sqlite3_bind_int64(s->s_extra_get, 1, t->no);
    sqlite3_bind_blob64(s->s_extra_get, 2, s->blob.data, s->blob.len, SQLITE_STATIC);
    int row = sql_step(s->s_extra_get);
    reg_clear(r);
    if (row < 0)
        return row;
    if (row)
        err = reg_decode(r, sqlite3_column_blob(s->s_extra_get, 0), (size_t)sqlite3_column_bytes(s->s_extra_get, 0));
    sqlite3_reset(s->s_extra_get);
    r->who = *who;
    return err;
}

/* Nobody is at home there any more, and the projection at hand shows the row with that given key in its place. */
static bool came_instead(struct store *s, const struct tbl *t, const struct rowid *given) {
    const struct pending_row *p = s->pending && t->extras && fits_home(t, given) ? pending_find(s, t, given) : NULL;
    return p && p->done && p->holds;
}

int rows_at_home(struct store *s, const struct tbl *t, const struct rowid *place, struct reg *r) {
    struct rowid who, given = *place;
    bool home;
    int moved = t->tentative && !place->text ? numbers_at(t, place->number, &who) : 0;
    if (moved)
        return moved < 0 ? moved : rows_find(s, t, &who, r, &home);
    int err = home_get(t, place, r);
    if (err || (reg_known(r) && r->who.kind == IDENT_GIVEN))
        return err;
    given.kind = IDENT_GIVEN;
    if (came_instead(s, t, &given))
        return extra_get(s, t, &given, r);
    if (reg_known(r) && t->tentative && numbers_shown(t, &r->who) != place->number)
        reg_clear(r);
    return 0;
}

int rows_find(struct store *s, const struct tbl *t, const struct rowid *who, struct reg *r, bool *home) {
    *home = fits_home(t, who);
    if (*home) {
        struct rowid place = *who;
        if (t->places && !who->text)
            place.number = numbers_home(t, who);
        int err = home_get(t, &place, r);
        if (err)
            return err;
        if (reg_known(r) && rowid_same(&r->who, who))
            return 0;
        bool free_home = !reg_known(r);
        if (free_home && t->extras) { /* it may have left it for another number */
            err = extra_get(s, t, who, r);
            *home = !reg_known(r);
            return err;
        }
        r->who = *who;
        if (free_home)
            return 0;
    }
    *home = false;
    return extra_get(s, t, who, r);
}

/* Before a register is stored there; NULL: none is any more. */
static int enter_values(struct store *s, struct tbl *t, const struct rowid *place, const struct reg *now) {
    struct reg *was = holders_was(t);
    int err = was ? home_get(t, place, was) : 0;
    return err || !was ? err : holders_put(s, t, place, was, now);
}

static int put_home(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r) {
    struct rowid place = *who;
    struct reg stored = *r; /* its arrays are shared */
    if (t->places && !who->text)
        place.number = numbers_home(t, who);
    stored.who = *who;
    stored.away = !who->text && place.number != who->number;
    int err = enter_values(s, t, &place, r);
    buf_clear(&s->blob);
    if (err || (err = reg_encode(&stored, &s->blob)))
        return err;
    bind_place(t->put, &place);
    sqlite3_bind_blob64(t->put, 2, s->blob.data, s->blob.len, SQLITE_STATIC);
    if (!place.text && place.number > t->top)
        t->top = place.number;
    if (t->followed)
        roster_touch(s, t, who);
    t->written++;
    return sql_run(t->put);
}

static int put_extra(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r) {
    struct reg stored = *r;
    stored.who = *who;
    stored.away = false;
    t->extras = true;
    if (t->followed)
        roster_touch(s, t, who);
    buf_clear(&s->blob);
    buf_clear(&s->key);
    int err = reg_encode(&stored, &s->blob);
    if (err || (err = rowid_pack(who, &s->key)))
        return err;
    sqlite3_bind_int64(s->s_extra_put, 1, t->no);
    sqlite3_bind_blob64(s->s_extra_put, 2, s->key.data, s->key.len, SQLITE_STATIC);
    sqlite3_bind_blob64(s->s_extra_put, 3, s->blob.data, s->blob.len, SQLITE_STATIC);
    return sql_run(s->s_extra_put);
}

int rows_store(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r, bool home) {
    return home ? put_home(s, t, who, r) : put_extra(s, t, who, r);
}

int rows_evict(struct store *s, struct tbl *t, const struct rowid *place) {
    int err = home_get(t, place, &s->reg2);
    if (err || !reg_known(&s->reg2))
        return err;
    struct rowid who = s->reg2.who;
    if ((err = put_extra(s, t, &who, &s->reg2)) || (err = numbers_leave(s, t, &who)) || (err = enter_values(s, t, place, NULL)))
        return err;
    bind_place(t->del, place);
    t->written++;
    return sql_run(t->del);
}

/* ---- counting and digests: over the registers, which are what the file shows once nothing is pending */

static uint64_t mix(uint64_t x) { /* finalizer of splitmix64 (Steele, Lea, Flood 2014) */
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t rows_digest_hash(const struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r) {
    struct origins_order o = store_order(s);
    uint64_t sum = 0;
    if (!who->text)
        sum += mix((uint64_t)who->number ^ 0x6e756d626572ull);
    for (uint32_t i = 0; i < r->cells_count; i++) {
        const struct cell *c = &r->cells[i];
        bool siblings = (i + 1 < r->cells_count && c[1].column == c->column) || (i > 0 && c[-1].column == c->column);
        if (siblings) {
            if (i > 0 && c[-1].column == c->column)
                continue;
            c = reg_winner(r, c->column, &o);
        }
        sum += mix(t->column_hashes[c->column] ^ c->hash * 0x9e3779b97f4a7c15u);
    }
    return mix(sum ^ t->hash);
}

void rows_account(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *before, const struct reg *after) {
    struct origins_order o = store_order(s);
    if (same_is_junior(s, t, who))
        return;
    if (before && reg_alive(before, &o)) {
        uint64_t h = rows_digest_hash(s, t, who, before);
        s->hot.digest_a -= h;
        s->hot.digest_b -= mix(h ^ 0x5bd1e995u);
        t->rows--;
    }
    if (after && reg_alive(after, &o)) {
        uint64_t h = rows_digest_hash(s, t, who, after);
        s->hot.digest_a += h;
        s->hot.digest_b += mix(h ^ 0x5bd1e995u);
        t->rows++;
    }
    t->dirty = true;
}

/* ---- open conflicts of one row: counted here, listed by conflicts.c */

static int load_seen(struct store *s, const struct death *d, struct buf *out) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "SELECT knew FROM seen WHERE origin=%u AND version=%lld", d->origin, (long long)d->version);
    if (err)
        return err;
    if (sql_step(q) == 1)
        buf_append(out, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
    sqlite3_finalize(q);
    return out->failed;
}

static bool death_saw(const struct buf *knew, const struct write *w) {
    for (size_t i = 0; i + 16 <= knew->len; i += 16) {
        uint64_t pair[2];
        memcpy(pair, knew->data + i, 16);
        if (pair[0] == w->origin)
            return pair[1] >= w->version;
    }
    return false;
}

int rows_death_saw(struct store *s, const struct death *d, const struct write *w, bool *saw) {
    struct buf knew;
    buf_init(&knew, 1 << 20);
    *saw = w->at == 0 || (!d->mend && d->origin == w->origin && d->version >= w->version); /* at 0: known to all */
    int err = *saw || d->mend ? 0 : load_seen(s, d, &knew);
    if (!err && !*saw && !d->mend)
        *saw = death_saw(&knew, w);
    buf_release(&knew);
    return err;
}

int rows_death_seen(struct store *s, const struct death *d, uint64_t *versions) {
    struct buf knew;
    buf_init(&knew, 1 << 20);
    int err = load_seen(s, d, &knew);
    for (size_t i = 0; i + 16 <= knew.len && !err; i += 16) {
        uint64_t pair[2];
        memcpy(pair, knew.data + i, 16);
        if (pair[0] < s->origins_count)
            versions[pair[0]] = pair[1];
    }
    if (d->origin < s->origins_count && versions[d->origin] < d->version)
        versions[d->origin] = d->version;
    buf_release(&knew);
    return err;
}

/* Keys that compare equal are one name, however they are written: nobody misses the other spelling. */
bool rows_is_key(const struct tbl *t, uint32_t column) {
    return t->io && column < t->io->by_number_count && t->io->by_number[column] &&
           t->io->table->columns[t->io->order[t->io->by_number[column] - 1]].key_place;
}

/* Registers hold references as the numbers that they have here, and two rows may have had one number. */
static bool is_reference(const struct tbl *t, uint32_t column) {
    return t->io && t->io->ref_to && column < t->io->by_number_count && t->io->by_number[column] &&
           t->io->ref_to[t->io->by_number[column] - 1];
}

struct uncounted {
    struct uncounted *next;
    struct tbl *tbl;
    struct rowid who;
};

/* What a reference in the batch at hand means is not in the log yet. */
static int count_later(struct store *s, struct tbl *t, const struct rowid *who) {
    struct uncounted *u = arena_alloc(&s->same->uncounted_arena, sizeof *u);
    uint8_t *key = u ? arena_alloc(&s->same->uncounted_arena, who->key_len + 1) : NULL;
    if (!key)
        return ERR_NOMEM;
    *u = (struct uncounted){s->same->uncounted, t, *who};
    if (who->text && who->key_len)
        memcpy(key, who->key, who->key_len);
    u->who.key = who->text ? key : NULL;
    s->same->uncounted = u;
    return 0;
}

int rows_count_rest(struct store *s) {
    struct uncounted *u = s->same->uncounted;
    struct reg r;
    bool home;
    uint32_t count;
    int err = 0;
    if (!u)
        return 0;
    s->same->uncounted = NULL;
    reg_init(&r);
    for (; u && !err; u = u->next)
        if (!(err = rows_find(s, u->tbl, &u->who, &r, &home))) {
            r.who = u->who;
            err = rows_conflicts(s, u->tbl, &u->who, &r, true, &count);
        }
    reg_release(&r);
    if (!s->same->uncounted)
        arena_release(&s->same->uncounted_arena);
    return err;
}

enum { UNKNOWN_VALUE = 1, COUNT_LATER = 2 };

/* What the author of this cell wrote. `bytes` keeps whom a reference means: the next look may give up the batch that it is in. */
static int wrote(struct store *s, const struct reg *r, struct tbl *t, const struct cell *c, struct value *v,
                 uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    const struct write *w = &r->writes[c->write];
    int err = values_find(s, w->origin, w->version, t, &r->who, c->column, c->hash, v);
    if (err == ERR_NOTFOUND)
        return w->origin == s->own && w->version > s->origins[s->own].version ? COUNT_LATER : UNKNOWN_VALUE;
    if (!err && v->type == VALUE_REF)
        memcpy(bytes, v->p, v->len);
    return err;
}

/* By what was written, not by the numbers that registers were told: these differ from server to server. A number means a given key, or nobody; who is
 * meant by a reference is another one. */
static int means_another(struct store *s, const struct tbl *t, const struct reg *r, const struct cell *a, const struct cell *b,
                         bool *lost) {
    struct tbl *table = state_table_of(s, t->no);
    uint8_t x[VALUE_REF_BORN_BYTES], y[VALUE_REF_BORN_BYTES];
    struct value v, w;
    *lost = a->hash != b->hash;
    int err = wrote(s, r, table, a, &v, x);
    if (!err)
        err = wrote(s, r, table, b, &w, y);
    if (err)
        return err == COUNT_LATER ? count_later(s, table, &r->who) : err < 0 ? err : 0;
    if (v.type == VALUE_REF || w.type == VALUE_REF)
        *lost = v.type != w.type || v.len != w.len || memcmp(x, y, v.len) != 0;
    return 0;
}

/* Of a row that a mend deleted one column stands for each write: it comes back as a whole. */
static bool told_by_another(const struct tbl *t, const struct reg *r, const struct cell *c) {
    bool mended = false;
    for (uint32_t i = 0; i < r->deaths_count; i++)
        mended |= r->deaths[i].mend;
    for (uint32_t i = 0; i < r->cells_count && mended; i++)
        if (r->cells[i].write == c->write && r->cells[i].column + 1 != t->number_column && !rows_is_key(t, r->cells[i].column) &&
            t->column_hashes[r->cells[i].column] < t->column_hashes[c->column])
            return true;
    return false;
}

/* A value that a mend took: a deletion that is older than the mend, and knew the value, met that and not the mend (nor an equal one of another server). */
static bool died_with(const struct reg *r, const struct buf *knew, uint32_t deaths, const struct cell *c, const struct cell *best) {
    const struct write *mend = &r->writes[best->write];
    bool saw = false;
    for (uint32_t d = 0; d < deaths && mend->mend; d++)
        saw |= r->deaths[d].at < mend->at && death_saw(&knew[d], &r->writes[c->write]);
    return saw;
}

/* What lost in this row: calls with each losing cell, or with cell NULL and a death. A death decides only between itself and what it saw, not
 * between two values: they stay open in a dead row, until somebody who knows of both writes that column. */
int rows_each_conflict(struct store *s, const struct tbl *t, const struct reg *r,
                       int (*call)(void *ctx, const struct reg *of, const struct cell *c, const struct death *d), void *ctx) {
    struct origins_order o = store_order(s);
    bool alive = reg_alive(r, &o);
    struct buf knew[8];
    if (same_is_junior(s, t, &r->who)) /* what it holds is listed of the row that stands for it */
        return 0;
    bool one = same_any(s) && unify_is(s, t, &r->who);
    uint32_t deaths = alive ? 0 : r->deaths_count < 8 ? r->deaths_count : 8;
    int err = 0;
    for (uint32_t i = 0; i < deaths; i++) {
        buf_init(&knew[i], 1 << 20);
        if (!err && !r->deaths[i].mend)
            err = load_seen(s, &r->deaths[i], &knew[i]);
    }
    for (uint32_t i = 0; i < r->cells_count && !err; i++) {
        const struct cell *c = &r->cells[i];
        const struct cell *best = reg_winner(r, c->column, &o);
        bool lost = c->hash != best->hash;
        bool number = c->column + 1 == t->number_column;
        if (rows_is_key(t, c->column) || r->writes[c->write].mend || (number && !alive) || reg_copy_is_old(r, c, &o))
            continue;
        if (c != best && is_reference(t, c->column) && (err = means_another(s, t, r, c, best, &lost)))
            break;
        lost = lost && (one || !died_with(r, knew, deaths, c, best));
        /* of a copy from another column the death of this row met the original, too */
        if (!alive && !lost && r->writes[c->write].at > 0 && r->writes[c->write].carried != CARRIED_COLUMN) {
            lost = !told_by_another(t, r, c);
            for (uint32_t d = 0; d < deaths && lost && !one; d++)
                lost = !death_saw(&knew[d], &r->writes[c->write]);
            if (lost && one && (err = dead_written_unseen(s, t, &r->who, c, &r->writes[c->write], &lost)))
                break;
        }
        if (lost)
            err = call(ctx, r, c, NULL);
    }
    for (uint32_t i = 0; i < r->deaths_count && alive && !err; i++)
        err = r->deaths[i].mend || reg_death_is_old(r, &r->deaths[i]) ? 0 : call(ctx, r, NULL, &r->deaths[i]);
    if (alive && one && !err)
        err = dead_each_lost(s, t, &r->who, call, ctx);
    for (uint32_t i = 0; i < deaths; i++)
        buf_release(&knew[i]);
    return err;
}

static int count_one(void *ctx, const struct reg *of, const struct cell *c, const struct death *d) {
    (void)of;
    (void)c;
    (void)d;
    ++*(uint32_t *)ctx;
    return 0;
}

/* Could this row have an open conflict at all? */
static bool suspicious(const struct tbl *t, const struct reg *r) {
    if (r->deaths_count)
        return true;
    for (uint32_t i = 1; i < r->cells_count; i++)
        if (r->cells[i].column == r->cells[i - 1].column &&
            (r->cells[i].hash != r->cells[i - 1].hash || is_reference(t, r->cells[i].column)))
            return true;
    return false;
}

int rows_conflicts(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r, bool had, uint32_t *count) {
    *count = 0;
    struct origins_order o = store_order(s);
    int err =
        suspicious(t, r) || !reg_alive(r, &o) || (same_any(s) && unify_is(s, t, who)) ? rows_each_conflict(s, t, r, count_one, count) : 0;
    if (reg_alive(r, &o))
        *count += same_open(s, t, who);
    if (err || (!*count && !had))
        return err;
    buf_clear(&s->key);
    if ((err = rowid_pack(who, &s->key)))
        return err;
    int64_t old = 0;
    sqlite3_stmt *q;
    if ((err = sql_prepare(s->db, &q, "SELECT n FROM open WHERE tbl=%u AND who=?", t->no)))
        return err;
    sqlite3_bind_blob64(q, 1, s->key.data, s->key.len, SQLITE_STATIC);
    if (sql_step(q) == 1)
        old = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    if (old == *count)
        return 0;
    sqlite3_stmt *change = *count ? s->s_open_put : s->s_open_del;
    sqlite3_bind_int64(change, 1, t->no);
    sqlite3_bind_blob64(change, 2, s->key.data, s->key.len, SQLITE_STATIC);
    if (*count)
        sqlite3_bind_int64(change, 3, *count);
    s->open_conflicts += (int64_t)*count - old;
    return sql_run(change);
}

int rows_forget_extra(struct store *s, struct tbl *t, const struct rowid *who) {
    buf_clear(&s->key);
    int err = rowid_pack(who, &s->key);
    if (err)
        return err;
    sqlite3_bind_int64(s->s_extra_del, 1, t->no);
    sqlite3_bind_blob64(s->s_extra_del, 2, s->key.data, s->key.len, SQLITE_STATIC);
    return sql_run(s->s_extra_del);
}
