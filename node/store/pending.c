/* Rows whose content in the application's file is not what the registers say: merged but not shown yet (in flight), held until the
 * last part of a commit is here, or parked because they cannot be shown. For each, what the file does show, as far as it differs. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/same.h"
#include "proto/err.h"

/* ---- `before`: what the file showed of the rows of one flight; each entry: table u32, identity, present u8, count u32, cells */

int before_add(struct buf *b, const struct tbl *t, const struct rowid *who, bool present, const struct shown_cell *cells, uint32_t count) {
    rowid_name(t, who, b);
    uint8_t head = present;
    buf_append(b, &head, 1);
    buf_append(b, &count, 4);
    for (uint32_t i = 0; i < count; i++) {
        buf_append(b, &cells[i].column, 4);
        buf_append(b, &cells[i].hash, 8);
    }
    return b->failed;
}

static int name_read(struct store *s, struct tbl **t, struct rowid *who, const uint8_t **at, const uint8_t *end) {
    uint32_t no;
    if (end - *at < 4)
        return ERR_CORRUPT;
    memcpy(&no, *at, 4);
    *at += 4;
    *t = state_table_of(s, no);
    return *t ? rowid_unpack(who, at, end) : ERR_CORRUPT;
}

/* ---- the table in memory */

struct pending_row *pending_find(struct store *s, const struct tbl *t, const struct rowid *who) {
    struct pending_row *p = NULL;
    if (!s->pending)
        return NULL;
    buf_clear(&s->key);
    if (rowid_name(t, who, &s->key) == 0)
        HASH_FIND(hh, s->pending, s->key.data, s->key.len, p);
    return p;
}

static struct pending_row *add(struct store *s, struct tbl *t, const struct rowid *who) {
    buf_clear(&s->key);
    if (rowid_name(t, who, &s->key))
        return NULL;
    struct pending_row *p = calloc(1, sizeof *p + s->key.len);
    if (!p)
        return NULL;
    memcpy(p->name, s->key.data, s->key.len);
    p->name_len = (uint32_t)s->key.len;
    p->tbl = t;
    p->behind = s->hot.flight_seq;
    const uint8_t *at = p->name + 4;
    rowid_unpack(&p->who, &at, p->name + p->name_len);
    HASH_ADD(hh, s->pending, name, p->name_len, p);
    return p;
}

static int set_cells(struct pending_row *p, const struct shown_cell *cells, uint32_t count) {
    struct shown_cell *copy = NULL;
    if (count) {
        if (!(copy = malloc(count * sizeof *copy)))
            return ERR_NOMEM;
        memcpy(copy, cells, count * sizeof *copy);
    }
    free(p->cells);
    p->cells = copy;
    p->cells_count = count;
    return 0;
}

static void count(struct store *s, const struct pending_row *p, int by) {
    if (p->reason)
        s->parked_count += (uint32_t)by;
    if (p->part_of)
        s->held_count += (uint32_t)by;
}

int pending_set(struct store *s, struct tbl *t, const struct rowid *who, bool present, const struct shown_cell *cells, uint32_t cells_count,
                const char *reason, struct pending_row **out) {
    struct pending_row *p = pending_find(s, t, who);
    if (!p && !(p = add(s, t, who)))
        return ERR_NOMEM;
    char *text = reason ? strdup(reason) : NULL;
    if (reason && !text)
        return ERR_NOMEM;
    int err = set_cells(p, cells, cells_count);
    count(s, p, -1);
    free(p->reason);
    p->reason = text;
    pending_own(s, p);
    p->part_of = 0;
    p->present = present;
    count(s, p, 1);
    if (out)
        *out = p;
    return err;
}

void pending_own(struct store *s, struct pending_row *p) {
    if (p->mapped)
        p->behind = s->hot.flight_seq;
    p->mapped = false;
}

bool pending_shown(const struct pending_row *p, uint32_t column, uint64_t *hash) {
    for (uint32_t i = 0; i < p->cells_count; i++)
        if (p->cells[i].column == column) {
            *hash = p->cells[i].hash;
            return true;
        }
    return false;
}

int pending_content(struct store *s, const struct pending_row *p, uint32_t column, const struct cell *c, struct tio *io, uint32_t i,
                    uint64_t *hash) {
    *hash = c ? c->hash : 0;
    if (p)
        (void)pending_shown(p, column, hash);
    return *hash ? 0 : tables_default_hash(s, io, i, hash); /* nobody had written it when the row was shown */
}

int pending_store(struct store *s, struct pending_row *p) {
    assert(s->in_tx);
    struct buf b;
    buf_init(&b, 1 << 20);
    for (uint32_t i = 0; i < p->cells_count; i++) {
        buf_append(&b, &p->cells[i].column, 4);
        buf_append(&b, &p->cells[i].hash, 8);
    }
    sqlite3_bind_blob64(s->s_shown_put, 1, p->name, p->name_len, SQLITE_STATIC);
    sqlite3_bind_int(s->s_shown_put, 2, p->present);
    sqlite3_bind_blob64(s->s_shown_put, 3, b.data ? (const void *)b.data : "", b.len, SQLITE_STATIC);
    sqlite3_bind_text(s->s_shown_put, 4, p->reason, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s->s_shown_put, 5, p->part_of);
    int err = b.failed ? b.failed : sql_run(s->s_shown_put);
    buf_release(&b);
    p->stored = true;
    return err;
}

static void drop(struct store *s, struct pending_row *p) {
    count(s, p, -1);
    HASH_DEL(s->pending, p);
    free(p->cells);
    free(p->reason);
    free(p);
}

void pending_remove(struct store *s, struct pending_row *p) {
    if (p->stored) {
        assert(s->in_tx);
        sqlite3_bind_blob64(s->s_shown_del, 1, p->name, p->name_len, SQLITE_STATIC);
        sql_run(s->s_shown_del);
    }
    drop(s, p);
}

void pending_clear(struct store *s) {
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) drop(s, p);
    s->flights_mapped = false;
}

/* ---- flights into the table */

/* The oldest account of a cell is what the file shows, so what is already there stays. Of a row that is not there it shows nothing. */
static int merge_cells(struct pending_row *p, const uint8_t *at, uint32_t n) {
    struct shown_cell *cells = realloc(p->cells, (p->cells_count + n + 1) * sizeof *cells);
    if (!cells)
        return ERR_NOMEM;
    p->cells = cells;
    for (uint32_t i = 0; i < n; i++, at += 12) {
        struct shown_cell c;
        uint64_t known;
        memcpy(&c.column, at, 4);
        memcpy(&c.hash, at + 4, 8);
        if (!pending_shown(p, c.column, &known))
            p->cells[p->cells_count++] = c;
    }
    return 0;
}

int pending_merge_before(struct store *s, const struct buf *before, uint32_t part_of) {
    const uint8_t *at = before->data, *end = before->data + before->len;
    while (at < end) {
        struct tbl *t;
        struct rowid who;
        int err = name_read(s, &t, &who, &at, end);
        if (err)
            return err;
        if (end - at < 5)
            return ERR_CORRUPT;
        bool present = *at++;
        uint32_t n;
        memcpy(&n, at, 4);
        at += 4;
        if (n > (size_t)(end - at) / 12)
            return ERR_CORRUPT;
        struct pending_row *p = pending_find(s, t, &who);
        if (!p) {
            if (!(p = add(s, t, &who)))
                return ERR_NOMEM;
            p->present = present;
            p->mapped = part_of == 0;
        }
        if (p->present && (err = merge_cells(p, at, n)))
            return err;
        at += (size_t)n * 12;
        if (part_of && !p->reason) {
            count(s, p, -1);
            p->part_of = part_of;
            pending_own(s, p);
            count(s, p, 1);
            if ((err = pending_store(s, p)))
                return err;
        }
    }
    return 0;
}

int pending_map_flights(struct store *s) {
    if (s->flights_mapped)
        return 0;
    for (struct flight *f = s->flights; f; f = f->next) {
        int err = pending_merge_before(s, &f->before, 0);
        if (err)
            return err;
    }
    s->flights_mapped = s->flights != NULL;
    return 0;
}

/* Everything in flight was shown: what is only known from flights is forgotten. */
void pending_unmap_flights(struct store *s) {
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) {
        if (p->mapped)
            drop(s, p);
    }
    s->flights_mapped = false;
}

/* A merge changed a row that is not shown as the registers say: what the file shows of these columns is kept, and it is tried again. */
int pending_touch(struct store *s, struct pending_row *p, const struct shown_cell *cells, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint64_t known;
        if (p->present && !pending_shown(p, cells[i].column, &known)) {
            struct shown_cell *more = realloc(p->cells, (p->cells_count + 1) * sizeof *more);
            if (!more)
                return ERR_NOMEM;
            p->cells = more;
            p->cells[p->cells_count++] = cells[i];
        }
    }
    count(s, p, -1);
    free(p->reason);
    p->reason = NULL;
    pending_own(s, p);
    count(s, p, 1);
    return pending_store(s, p);
}

int pending_cells(struct store *s, struct pending_row *p, const struct shown_cell *cells, uint32_t n) {
    int err = set_cells(p, cells, n);
    return err ? err : pending_store(s, p);
}

int pending_park(struct store *s, struct pending_row *p, const char *why) {
    p->retry = false;
    if (p->reason && strcmp(p->reason, why) == 0)
        return 0;
    char *text = strdup(why);
    if (!text)
        return ERR_NOMEM;
    if (!p->reason)
        store_log(s, LOG_WARNING, "%s: a change to \"%s\" cannot be shown here: %s; it is kept, and shown as soon as it can be",
                  s->config.db, p->tbl->name, why);
    count(s, p, -1);
    free(p->reason);
    p->reason = text;
    pending_own(s, p);
    count(s, p, 1);
    return pending_store(s, p);
}

/* Shown as the registers say. But while there are ops in flight about the row, which are older, it stays, so that they are skipped. */
int pending_done(struct store *s, struct pending_row *row, int64_t seq, bool more) {
    if (row->behind <= seq || !more) {
        pending_remove(s, row);
        return 0;
    }
    row->done = row->retry = false;
    return pending_set(s, row->tbl, &row->who, row->holds, NULL, 0, NULL, NULL) ? ERR_NOMEM : pending_store(s, row);
}

int pending_load(struct store *s) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT name, present, cells, reason, part_of FROM shown");
    if (err)
        return err;
    while ((row = sql_step(q)) == 1) {
        const uint8_t *at = sqlite3_column_blob(q, 0), *end = at + sqlite3_column_bytes(q, 0);
        struct tbl *t;
        struct rowid who;
        struct pending_row *p;
        if ((row = name_read(s, &t, &who, &at, end)))
            break;
        if ((row = pending_set(s, t, &who, sqlite3_column_int(q, 1), NULL, 0, (const char *)sqlite3_column_text(q, 3), &p)) ||
            (row = merge_cells(p, sqlite3_column_blob(q, 2), (uint32_t)sqlite3_column_bytes(q, 2) / 12)))
            break;
        count(s, p, -1);
        p->part_of = (uint32_t)sqlite3_column_int64(q, 4);
        count(s, p, 1);
        p->stored = true;
    }
    sqlite3_finalize(q);
    return row;
}

/* ---- where it is to be shown */

bool pending_wants_showing(const struct pending_row *row) { return !row->mapped && !row->part_of && (!row->reason || row->retry); }

/* The registers' row at this number, or key, is dead; an op of the projection at hand may have taken it out already. */
static int is_there(struct store *s, struct tbl *t, const struct rowid *place) {
    struct row_look look = {.io = t->io, .place = *place, .present = true};
    int err = t->io ? drain_look(s, &look, t->io->peek) : 0;
    if (t->io)
        sqlite3_reset(t->io->peek);
    return err ? err : look.present;
}

int pending_home_taken(struct store *s, struct tbl *t, const struct rowid *place) {
    struct origins_order o = store_order(s);
    if (tbl_is_text(t) != place->text)
        return 1;
    int err = rows_at_home(s, t, place, &s->reg2);
    if (err || !reg_known(&s->reg2))
        return err;
    struct rowid holder = s->reg2.who;
    struct pending_row *h = pending_find(s, t, &holder);
    if (same_is_junior(s, t, &holder))
        return h && !h->done && h->present ? 2 : 0;
    if (!reg_alive(&s->reg2, &o)) {
        int there = is_there(s, t, place);
        return there != 1 ? there : h && !h->done && pending_wants_showing(h) ? 2 : 1;
    }
    if (!place->text) /* also if it is not shown yet */
        return numbers_wanted(s, t, &s->reg2) == place->number ? 1 : 2;
    return (h && !h->done && h->present) || !(h && !h->done);
}

int pending_take_home(struct store *s, struct pending_row *row, const struct reg *r) {
    struct rowid place = row->who;
    int err = state_begin(s);
    if (!place.text)
        place.number = numbers_wanted(s, row->tbl, r);
    if (err || (err = rows_evict(s, row->tbl, &place)) || (!place.text && (err = numbers_settle(s, row->tbl, &row->who, place.number))) ||
        (err = rows_store(s, row->tbl, &row->who, r, true)))
        return err;
    return rows_forget_extra(s, row->tbl, &row->who);
}
