/* Rows that writes threw out through a second UNIQUE key (INSERT OR REPLACE and its kin), of which no trigger tells. Where the file has fewer rows than
 * the registers say, with every note drained, the keys of both are compared: what the file lacks was deleted. Large tables are counted in quiet moments. */
#include <stdlib.h>

#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

#define REPLACED_ROWS 50000   /* larger tables are looked at with pauses, or in a quiet moment */
#define REPLACED_LOCKED 20000 /* under the application's lock, no larger ones */
#define REPLACED_PENDING 1000 /* in a quiet moment while so many rows wait to be shown */
#define REPLACED_PAUSE 20     /* times what the last look took */
#define REPLACED_QUIET_MS 200
#define REPLACED_WAIT_MS 5000

/* The keys that the file has, as hashes: a key that is not here is missing. */
struct keys {
    uint64_t *slots;
    uint64_t mask;
};

static uint64_t key_hash(const struct rowid *place) {
    struct value v = {
        .type = place->text ? VALUE_BLOB : VALUE_INT, .as.i = place->text ? 0 : place->number, .p = place->key, .len = place->key_len};
    uint64_t h = value_hash(&v);
    return h ? h : 1; /* 0 is a free slot */
}

static bool keys_have(const struct keys *k, uint64_t h) {
    uint64_t i = h & k->mask;
    while (k->slots[i] && k->slots[i] != h)
        i = (i + 1) & k->mask;
    return k->slots[i] == h;
}

static void keys_add(struct keys *k, uint64_t h) {
    uint64_t i = h & k->mask;
    while (k->slots[i] && k->slots[i] != h)
        i = (i + 1) & k->mask;
    k->slots[i] = h;
}

static int keys_read(struct store *s, struct tio *io, int64_t count, struct keys *k) {
    uint64_t slots = 64;
    while (slots < 2 * (uint64_t)count + 2)
        slots *= 2;
    k->mask = slots - 1;
    if (!(k->slots = calloc(slots, sizeof *k->slots)))
        return ERR_NOMEM;
    sqlite3_stmt *stmt = NULL;
    struct rowid place;
    int row = row_cursor_keys(s, io, &stmt);
    while (!row && (row = sql_step(stmt)) == 1)
        if (!(row = row_cursor_place(io, stmt, &s->key2, &place)))
            keys_add(k, key_hash(&place));
    sqlite3_finalize(stmt);
    return row;
}

/* The places of registers that the file should show, and does not: packed one behind the other. */
static int missing_places(struct store *s, struct tio *io, const struct keys *k, struct buf *out, uint64_t *count) {
    struct origins_order o = store_order(s);
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", io->tbl->no);
    while (!row && (row = sql_step(q)) == 1) {
        struct rowid place = {.text = tbl_is_text(io->tbl)};
        if (place.text) {
            place.key = sqlite3_column_blob(q, 0);
            place.key_len = (size_t)sqlite3_column_bytes(q, 0);
        } else {
            place.number = sqlite3_column_int64(q, 0);
        }
        row = 0;
        if (keys_have(k, key_hash(&place)))
            continue;
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = s->reg.who;
        who.text = place.text;
        who.number = s->reg.away ? who.number : place.number;
        who.key = place.key;
        who.key_len = place.key_len;
        struct pending_row *p = pending_find(s, io->tbl, &who);
        if (p ? p->present : reg_alive(&s->reg, &o)) {
            row = rowid_pack(&place, out);
            ++*count;
        }
    }
    sqlite3_finalize(q);
    return row;
}

/* How many rows the file has by the registers, and by itself (less those that no register tells of: no key names them, or no batch holds them). */
static int count_rows(struct store *s, struct tio *io, int64_t *should, int64_t *has) {
    int err = scan_expected(s, io, should);
    if (!err)
        err = sql_int(s->app.reader, 0, has, "SELECT count(*) FROM main.\"%w\"", io->table->name);
    if (!err && io->null_key && !(err = tables_count_nulls(s, io)))
        *has -= (int64_t)io->tbl->null_keys;
    int64_t large = 0;
    if (!err && s->too_large)
        err = sql_int(s->db, 0, &large, "SELECT count(*) FROM large WHERE tbl=%u", io->tbl->no);
    *has -= large;
    return err;
}

/* Rows that fit in no batch are thrown out like any other. */
static int places_of_large(struct store *s, const struct tbl *t, struct buf *out) {
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT place FROM large WHERE tbl=%u", t->no);
    while (!row && (row = sql_step(q)) == 1) {
        buf_append(out, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
        row = out->failed;
    }
    sqlite3_finalize(q);
    return row;
}

int replaced_delete(struct store *s, struct tio *io, const struct buf *places) {
    const uint8_t *at = places->data, *end = at + places->len;
    int64_t ms = io->tbl->replacing_ms ? io->tbl->replacing_ms : LOOK_FOUND;
    int err = state_begin(s);
    if (!err && batch_writer_rows(s->writer) == 0) /* else the drain at hand has begun */
        err = drain_begin_changes(s, ms < 0 ? store_wall_ms(s) : ms);
    while (!err && at < end) {
        struct row_look look = {.io = io, .ms = ms};
        if ((err = rowid_unpack(&look.place, &at, end)) || (err = drain_look(s, &look, io->read)))
            break;
        sqlite3_reset(io->read);
        if (!look.present)
            err = drain_row(s, &look);
    }
    sqlite3_reset(io->read);
    return err;
}

static int replaced_in(struct store *s, struct tio *io) {
    struct tbl *t = io->tbl;
    struct keys keys = {0};
    struct buf places;
    uint64_t count = 0;
    int64_t should, has;
    int err = count_rows(s, io, &should, &has);
    if (err || has >= should)
        return err;
    buf_init(&places, 256u << 20);
    if (!(err = keys_read(s, io, has, &keys)) && !(err = missing_places(s, io, &keys, &places, &count)) && s->too_large)
        err = places_of_large(s, t, &places);
    if (!err && places.len && (count <= t->replacing * t->replacers || !scan_too_many(s, t, count)))
        err = replaced_delete(s, io, &places);
    free(keys.slots);
    buf_release(&places);
    return err;
}

/* Rows that were gone without a note, and too many to be believed: are they all in the file again? Then it is read again, which ends it. */
static int lost_in(struct store *s, struct tio *io) {
    struct keys keys = {0};
    struct buf places;
    uint64_t missing = 0;
    int64_t should, has;
    int err = count_rows(s, io, &should, &has);
    if (err || has < should)
        return err;
    buf_init(&places, 256u << 20);
    if (io->table->key_kind != KEY_ROWID && !(err = keys_read(s, io, has, &keys)))
        err = missing_places(s, io, &keys, &places, &missing);
    if (!err && !missing) {
        io->tbl->captured = false;
        io->tbl->dirty = s->schema_stale = true;
    }
    free(keys.slots);
    buf_release(&places);
    return err;
}

static bool postponed(const struct store *s, const struct tbl *t, enum replaced_look how, int64_t now_us) {
    if (t->lost)
        return how == REPLACED_UNDER_LOCK || (how == REPLACED_DRAIN && now_us < t->replaced_next_us);
    switch (how) {
    case REPLACED_QUIET: return false;
    case REPLACED_UNDER_LOCK: return t->rows > REPLACED_LOCKED || HASH_COUNT(s->pending) > REPLACED_PENDING;
    default: return (t->rows > REPLACED_ROWS && now_us < t->replaced_next_us) || HASH_COUNT(s->pending) > REPLACED_PENDING;
    }
}

int scan_replaced(struct store *s, enum replaced_look how) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tio *io = &s->tios[i];
        struct tbl *t = io->tbl;
        if (!t || (!t->lost && (!t->captured || !t->replacing || !t->replacers))) /* what is to be read again anyway tells more then */
            continue;
        int64_t began = store_mono_us();
        if (postponed(s, t, how, began)) {
            t->replacing_since_ms = t->replacing_since_ms ? t->replacing_since_ms : began / 1000;
            continue;
        }
        int err = s->flights ? pending_map_flights(s) : 0;
        if (!err)
            err = t->lost ? lost_in(s, io) : replaced_in(s, io);
        if (err)
            return err;
        s->stored_changed |= t->replacing_since_ms != 0;
        t->replaced_next_us = store_mono_us() + REPLACED_PAUSE * (store_mono_us() - began);
        t->replacing = 0;
        t->replacing_since_ms = t->replacing_ms = 0;
        t->replacers = io->uniques;
    }
    return 0;
}

bool replaced_due(const struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && s->tios[i].tbl->replacing_since_ms)
            return true;
    return false;
}

/* An application that never rests is looked at all the same, now and then. */
int replaced_quiet(struct store *s) {
    int64_t now = store_mono_us() / 1000, since = now;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && s->tios[i].tbl->replacing_since_ms && s->tios[i].tbl->replacing_since_ms < since)
            since = s->tios[i].tbl->replacing_since_ms;
    if (since == now || s->scan || s->schema_stale || (now - s->active_ms < REPLACED_QUIET_MS && now - since < REPLACED_WAIT_MS))
        return 0;
    int err = sql_run(s->a_begin);
    if (err)
        return err == ERR_BUSY ? 0 : err;
    bool drained, back;
    if (!(err = scan_drained(s, &drained, &back)) && drained)
        err = scan_replaced(s, REPLACED_QUIET);
    sql_run(s->a_end);
    if (!err && back)
        return scan_start(s, false);
    if (err || batch_writer_rows(s->writer) == 0)
        return err;
    err = appfile_sync(&s->app, s->app.reader);
    return err ? err : drain_seal(s, false);
}
