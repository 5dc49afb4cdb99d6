/* Rows without notes: the first capture of a database, and rescans of tables whose triggers were missing for a while. The table is read
 * in slices of at most 5,000 rows and 20 ms, each a read transaction of its own, since a long one makes the application's WAL grow.
 * What changes meanwhile is noted, and drained afterwards; only then is anything published.
 *
 * A first capture adopts: lowest stamps, identities from the content, so that copies of one database agree. A rescan finds local writes,
 * and deletions too, but never more than max(20, 10 %) of a table: rather than infer such a loss it stays red. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/carried.h"
#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

#define SLICE_ROWS 5000
#define SLICE_US 20000
#define REPLACED_ROWS 50000   /* larger tables are looked at with pauses, or in a quiet moment */
#define REPLACED_LOCKED 20000 /* under the application's lock, no larger ones */
#define REPLACED_PENDING 1000 /* in a quiet moment while so many rows wait to be shown */
#define REPLACED_PAUSE 20     /* times what the last look took */
#define REPLACED_QUIET_MS 200
#define REPLACED_WAIT_MS 5000

struct scan {
    bool adopt;
    bool lacking;    /* rows that the file lacks are no deletions: the table is new here, was dropped in between, or is empty now */
    uint32_t *order; /* of the tables: indexes in tios */
    uint32_t table;  /* index in tios */
    struct row_cursor at;
    struct older *older; /* the file went back: everything is up to it */
    uint64_t rows, gone;
};

/* ---- slices */

void row_cursor_init(struct row_cursor *c) {
    memset(c, 0, sizeof *c);
    buf_init(&c->last, 256u << 20);
    buf_init(&c->from, 256u << 20);
}

void row_cursor_release(struct row_cursor *c) {
    sqlite3_finalize(c->stmt);
    buf_release(&c->last);
    buf_release(&c->from);
    memset(c, 0, sizeof *c);
}

void row_cursor_rewind(struct row_cursor *c) {
    sqlite3_finalize(c->stmt);
    c->stmt = NULL;
    c->began = false;
}

static void put_key(sqlite3_str *q, const struct table *t, const char *before, bool collate) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, "%s%s", before, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        sqlite3_str_appendf(q, "%s\"%w\"%s", i ? "," : before, c->name,
                            collate && t->key_kind == KEY_COLUMNS ? schema_collate(c->collation) : "");
    }
}

/* SELECT columns… FROM t WHERE key NOT NULL AND (key…) > (?…) ORDER BY key… LIMIT n. The key comes first: in the columns' order it does, but for a
 * single integer. */
int row_cursor_open(struct store *s, struct tio *io, struct row_cursor *c, uint32_t rows) {
    const struct table *t = io->table;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    sqlite3_finalize(c->stmt);
    c->stmt = NULL;
    put_key(q, t, "SELECT ", false);
    for (uint32_t i = t->key_kind == KEY_COLUMNS ? t->key_count : 0; i < io->count; i++)
        sqlite3_str_appendf(q, ",\"%w\"", io->names[i]);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", t->name);
    tables_put_null_test(q, io, " WHERE ", false);
    if (c->began) {
        put_key(q, t, io->null_key ? " AND (" : " WHERE (", true);
        for (uint32_t i = 0; i < table_key_width(t); i++)
            sqlite3_str_appendall(q, i ? ",?" : ") > (?");
        sqlite3_str_appendall(q, ")");
    }
    put_key(q, t, " ORDER BY ", true);
    sqlite3_str_appendf(q, " LIMIT %u", rows);
    char *text = sqlite3_str_finish(q);
    if (!text)
        return ERR_NOMEM;
    int err = sql_prepare(s->app.reader, &c->stmt, "%s", text);
    sqlite3_free(text);
    if (err || !c->began)
        return err;
    buf_clear(&c->from);
    buf_append(&c->from, c->last.data, c->last.len);
    if (c->from.failed)
        return c->from.failed;
    struct rowid last = {.text = t->key_kind == KEY_COLUMNS, .number = c->last_number, .key = c->from.data, .key_len = c->from.len};
    err = tables_bind_key(s, c->stmt, 1, &last);
    return err < 0 ? err : 0;
}

/* The name of a row without a key, as a key; one that nobody has, if it has none yet. */
static int place_by_rowid(struct tio *io, int64_t rowid, struct buf *out) {
    uint8_t key[KEYLESS_KEY_BYTES] = {0};
    int found = keyless_name(io, rowid, key);
    buf_clear(out);
    buf_append(out, key, sizeof key);
    return found < 0 ? found : out->failed;
}

int row_cursor_row(struct tio *io, struct row_cursor *c, struct row_look *look) {
    const struct table *t = io->table;
    struct value key[16];
    look->io = io;
    look->present = look->born = true;
    for (uint32_t i = 0; i < table_key_width(t); i++)
        sql_column_value(c->stmt, (int)i, &key[i]);
    if (!(look->values = malloc((io->count + 1) * sizeof *look->values)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < io->count; i++)
        sql_column_value(c->stmt, (int)(i + (t->key_kind != KEY_COLUMNS)), &look->values[i]);
    c->began = true;
    int err = 0;
    if (t->key_kind == KEY_ROWID) {
        err = place_by_rowid(io, key[0].as.i, &c->last);
        c->last_number = look->rowid = key[0].as.i;
        look->by_rowid = true;
    } else if (t->key_kind == KEY_INTEGER) {
        c->last_number = look->place.number = key[0].as.i;
        return 0;
    } else {
        err = keyrefs_here(io, key, &c->last);
    }
    look->place.text = look->given = true;
    look->place.key = c->last.data;
    look->place.key_len = c->last.len;
    return err;
}

/* ---- starting and ending */

bool scan_running(const struct store *s) { return s->scan != NULL; }

bool scan_adopts(const struct store *s) { return s->scan && (s->scan->adopt || (s->scan->older && s->file == FILE_OTHER)); }

static bool wanted(const struct tio *io) { return io->tbl && !io->tbl->captured; }

void scan_stop(struct store *s) {
    if (!s->scan)
        return;
    older_free(s->scan->older);
    free(s->scan->order);
    row_cursor_release(&s->scan->at);
    free(s->scan);
    s->scan = NULL;
}

/* Nothing was ever written or merged here: what the file holds was there before us. */
bool scan_first_time(const struct store *s) {
    for (uint32_t i = 0; i < s->origins_count; i++)
        if (i != s->own && s->origins[i].version)
            return false;
    return s->hot.published == 0 && s->hot.base == 0;
}

static int newest_note(struct store *s) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->app.reader, &q, "SELECT seq, nonce FROM main._starling_dirty ORDER BY seq DESC LIMIT 1");
    if (err)
        return err;
    int row = sql_step(q);
    if (row == 1) {
        s->hot.note_seq = sqlite3_column_int64(q, 0);
        s->hot.note_nonce = sqlite3_column_int64(q, 1);
    } else if (row == 0) {
        s->hot.note_seq = s->hot.note_nonce = 0;
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

/* Whether the file went back, or is another one, and all of it is to be looked at for that. */
static int went_back(struct store *s, bool *back) {
    *back = s->file == FILE_OTHER && !scan_first_time(s);
    return *back || s->file == FILE_STRIPPED || scan_first_time(s) ? 0 : older_find(s, back);
}

/* Somebody dropped our note table, and with it every trigger had to be made anew: no notes are left to lose. */
static bool lost_notes(struct store *s) {
    bool all = s->hot.note_seq != 0;
    int64_t notes = 0;
    for (uint32_t i = 0; i < s->tios_count && all; i++)
        all = !s->tios[i].tbl || wanted(&s->tios[i]);
    return all && sql_int(s->app.reader, 0, &notes, "SELECT EXISTS (SELECT 1 FROM main._starling_dirty)") == 0 && !notes;
}

/* The note at our mark is not there: more notes were made than are kept, or somebody took them away. */
static int say_why(struct store *s) {
    int64_t oldest = 0;
    int err = sql_int(s->app.reader, 0, &oldest, "SELECT min(seq) FROM main._starling_dirty");
    if (!err && oldest > s->hot.note_seq)
        store_log(s, LOG_WARNING,
                  "%s: more than %d writes since the node last looked, so that the notes of some are gone: reading all rows again",
                  s->config.db, NOTES_MAX);
    else if (!err)
        store_log(s, LOG_WARNING,
                  "%s: somebody dropped or emptied _starling_dirty, so that the notes of some writes are gone: reading all rows again",
                  s->config.db);
    return err;
}

/* Where this table is to be read, since its rows were those of a table that stands before it: under that name are other rows now. */
static uint32_t place_before(const struct store *s, const struct scan *c, uint32_t i) {
    const struct tbl *t = s->tios[c->order[i]].tbl;
    for (uint32_t k = 0; k < i && t && t->renamed_from; k++)
        if (s->tios[c->order[k]].tbl == t->renamed_from)
            return k;
    return i;
}

/* Tables that others refer to first: so who takes up our rows knows what they refer to. But of tables that took each other's names, first the one that
 * has the rows; where they go in a circle, from anywhere. */
static int order_tables(struct store *s, struct scan *c) {
    if (!(c->order = malloc((s->tios_count + 1) * sizeof *c->order)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < s->tios_count; i++) {
        uint32_t k = i;
        for (; k > 0 && s->tios[c->order[k - 1]].rank > s->tios[i].rank; k--)
            c->order[k] = c->order[k - 1];
        c->order[k] = i;
    }
    bool moved = true;
    for (uint32_t round = 0; round < s->tios_count && moved; round++) {
        moved = false;
        for (uint32_t i = 1; i < s->tios_count; i++) {
            uint32_t to = place_before(s, c, i), table = c->order[i];
            memmove(&c->order[to + 1], &c->order[to], (i - to) * sizeof *c->order);
            c->order[to] = table;
            moved = moved || to != i;
        }
    }
    return 0;
}

int scan_start(struct store *s, bool whole) {
    uint32_t tables = 0;
    bool back;
    scan_stop(s);
    int err = went_back(s, &back);
    if (err)
        return err;
    bool lost = !back && !whole && lost_notes(s);
    if ((whole || lost) && !back && s->file != FILE_STRIPPED && (err = say_why(s)))
        return err;
    if (s->file == FILE_STRIPPED && !back && !scan_first_time(s)) {
        store_log(s, LOG_WARNING, "%s: our triggers had been removed: reading all rows again", s->config.db);
        whole = true;
    }
    if (whole && !back)
        for (uint32_t i = 0; i < s->tios_count; i++)
            if (s->tios[i].tbl) {
                s->tios[i].tbl->captured = false;
                s->tios[i].tbl->dirty = true; /* also after a restart in the middle of it */
            }
    for (uint32_t i = 0; i < s->tios_count; i++)
        tables += wanted(&s->tios[i]);
    if (!tables && !back)
        return generation_done(s);
    bool adopt = scan_first_time(s), none = s->origins[s->own].version == 0; /* not even one slice, nor an empty table */
    for (uint32_t i = 0; i < s->tios_count; i++)
        none = none && !(s->tios[i].tbl && s->tios[i].tbl->captured);
    /* all older notes are of rows that will be read anyway; not so when a first capture goes on after a restart */
    if (!back && ((adopt && none) || whole || lost) && (err = newest_note(s)))
        return err;
    if (!(s->scan = calloc(1, sizeof *s->scan)))
        return ERR_NOMEM;
    s->scan->adopt = adopt && !back;
    row_cursor_init(&s->scan->at);
    if ((err = order_tables(s, s->scan)))
        return err;
    return back ? older_new(s, &s->scan->older) : 0;
}

static int take_row(struct store *s, struct tio *io) {
    struct row_look look = {.ms = s->scan->adopt ? LOOK_ADOPTED : LOOK_FOUND};
    bool first = !s->scan->at.began;
    int err = row_cursor_row(io, &s->scan->at, &look);
    if (!err)
        err = look.by_rowid ? keyless_note_row(s, &look, first) : drain_row(s, &look);
    free(look.values);
    return err;
}

/* ---- rows whose register lives and that are not in the file */

int scan_gone_row(struct store *s, struct tio *io, const struct rowid *place, const struct rowid *who) {
    struct row_look look = {.io = io, .place = *place, .ms = LOOK_FOUND};
    int err = drain_look(s, &look, io->read);
    if (!err && !look.present)
        err = s->scan->lacking ? moves_show_row(s, io->tbl, who) : drain_row(s, &look);
    sqlite3_reset(io->read);
    return err;
}

static int count_gone(struct store *s, struct tio *io, sqlite3_stmt *q, bool take) {
    struct origins_order o = store_order(s);
    int row;
    uint64_t gone = 0;
    while ((row = sql_step(q)) == 1) {
        struct rowid place = {.text = tbl_is_text(io->tbl)};
        if (place.text) {
            buf_clear(&s->scan->at.last); /* a copy: taking the row changes the table that is being read */
            buf_append(&s->scan->at.last, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
            place.key = s->scan->at.last.data;
            place.key_len = s->scan->at.last.len;
        } else {
            place.number = sqlite3_column_int64(q, 0);
        }
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = s->reg.who;
        who.text = place.text;
        who.number = s->reg.away ? who.number : place.number;
        who.key = place.key;
        who.key_len = place.key_len;
        if (!reg_alive(&s->reg, &o) || pending_find(s, io->tbl, &who))
            continue;
        if (take) {
            if ((row = scan_gone_row(s, io, &place, &who)))
                break;
            continue;
        }
        struct row_look look = {.io = io, .place = place};
        if ((row = drain_look(s, &look, io->read)))
            break;
        sqlite3_reset(io->read);
        gone += !look.present;
    }
    sqlite3_reset(q);
    s->scan->gone = take ? 0 : gone;
    return row;
}

/* So many rows are gone without a note: too many to be believed? Then it is said, and nothing is deleted. */
bool scan_too_many(struct store *s, struct tbl *t, uint64_t gone) {
    if (gone <= (t->rows / 10 > 20 ? (uint64_t)t->rows / 10 : 20))
        return false;
    store_log(
        s, LOG_ERROR,
        "%s: %llu of %lld rows of \"%s\" are gone without a note; they are not taken for deletions: `starling tables restore \"%s/%s\"` "
        "brings them back, `starling tables accept \"%s/%s\"` deletes them everywhere",
        s->config.db, (unsigned long long)gone, (long long)t->rows, t->name, s->config.db, t->name, s->config.db, t->name);
    t->lost = gone;
    s->stored_changed = true;
    return true;
}

static int count_rows(struct store *s, struct tio *io, int64_t *should, int64_t *has);

static int judge_lacking(struct store *s, struct tio *io) {
    int64_t should, has, any = 0;
    int err = sql_int(s->app.reader, 0, &any, "SELECT EXISTS (SELECT 1 FROM main.\"%w\")", io->table->name);
    if (!err)
        err = count_rows(s, io, &should, &has); /* of those that were merged meanwhile none was ever here */
    if (err)
        return err;
    s->scan->lacking =
        io->tbl->placed <= 0 || io->tbl->verdict == VERDICT_RESTORE ||
        (!any && io->tbl->remade && io->tbl->left < should && io->tbl->verdict == VERDICT_NONE); /* else it was emptied before */
    return 0;
}

static int find_gone(struct store *s, struct tio *io) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", io->tbl->no);
    bool decided = io->tbl->verdict != VERDICT_NONE;
    if (err || (err = judge_lacking(s, io)))
        goto out;
    if (!s->scan->lacking && !decided && ((err = count_gone(s, io, q, false)) || scan_too_many(s, io->tbl, s->scan->gone)))
        goto out;
    io->tbl->lost = 0;
    err = count_gone(s, io, q, true);
    if (!err && s->scan->lacking && !decided && io->tbl->placed > 0 && io->tbl->rows)
        store_log(s, LOG_INFO, "%s: \"%s\" was dropped and created again: its %lld rows are shown again", s->config.db, io->tbl->name,
                  (long long)io->tbl->rows);
    io->tbl->verdict = VERDICT_NONE;
    s->stored_changed = true;
out:
    sqlite3_finalize(q);
    return err;
}

int scan_decide(struct store *s, const char *table, bool accept, uint64_t *rows) {
    struct tbl *t = NULL;
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (s->tbls[i]->io && sqlite3_stricmp(s->tbls[i]->name, table) == 0)
            t = s->tbls[i];
    *rows = t ? t->lost : 0;
    if (!*rows)
        return 0;
    t->verdict = accept ? VERDICT_ACCEPT : VERDICT_RESTORE;
    t->captured = false;
    t->dirty = true;
    return scan_start(s, false);
}

/* ---- rows that were thrown out by OR REPLACE */

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
    const struct table *t = io->table;
    uint64_t slots = 64;
    while (slots < 2 * (uint64_t)count + 2)
        slots *= 2;
    k->mask = slots - 1;
    if (!(k->slots = calloc(slots, sizeof *k->slots)))
        return ERR_NOMEM;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    put_key(q, t, "SELECT ", false);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", t->name);
    tables_put_null_test(q, io, " WHERE ", false);
    char *text = sqlite3_str_finish(q);
    sqlite3_stmt *stmt = NULL;
    int row = text ? sql_prepare(s->app.reader, &stmt, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    while (!row && (row = sql_step(stmt)) == 1) {
        struct value key[16];
        for (uint32_t i = 0; i < table_key_width(t); i++)
            sql_column_value(stmt, (int)i, &key[i]);
        struct rowid place = {.text = t->key_kind != KEY_INTEGER, .number = key[0].as.i};
        row = t->key_kind == KEY_ROWID ? place_by_rowid(io, place.number, &s->key2) : place.text ? keyrefs_here(io, key, &s->key2) : 0;
        if (row)
            break;
        place.key = place.text ? s->key2.data : NULL;
        place.key_len = place.text ? s->key2.len : 0;
        keys_add(k, key_hash(&place));
        row = 0;
    }
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
    struct origins_order o = store_order(s);
    struct pending_row *p, *next;
    *should = io->tbl->rows;
    HASH_ITER(hh, s->pending, p, next) {
        bool home;
        int err = p->tbl == io->tbl ? rows_find(s, p->tbl, &p->who, &s->reg, &home) : 0;
        if (err)
            return err;
        if (p->tbl == io->tbl)
            *should += (int)p->present - (int)(reg_alive(&s->reg, &o) && !same_is_junior(s, p->tbl, &p->who));
    }
    int err = sql_int(s->app.reader, 0, has, "SELECT count(*) FROM main.\"%w\"", io->table->name);
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

int scan_delete_places(struct store *s, struct tio *io, const struct buf *places) {
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
        err = scan_delete_places(s, io, &places);
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

bool scan_replaced_due(const struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && s->tios[i].tbl->replacing_since_ms)
            return true;
    return false;
}

/* In the reader's snapshot: there is no note that we do not know of, the schema is ours, and the file did not go back: what an older copy lacks is no
 * deletion, and what it holds is no write. Where a rollback journal is used it may have come into the same file, and only this tells. */
int scan_drained(struct store *s, bool *drained, bool *back) {
    int64_t last = 0, version = 0;
    int err = sql_int(s->app.reader, 0, &last, "SELECT max(seq) FROM main._starling_dirty");
    if (!err)
        err = sql_int(s->app.reader, 0, &version, "PRAGMA main.schema_version");
    *back = *drained = false;
    if (!err && version == s->schema.version)
        err = older_find(s, back);
    *drained = !err && !*back && last <= s->hot.note_seq && version == s->schema.version;
    return err;
}

/* An application that never rests is looked at all the same, now and then. */
int scan_replaced_quiet(struct store *s) {
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

/* ---- steps */

static int finish(struct store *s) {
    bool adopt = s->scan->adopt;
    uint64_t rows = s->scan->rows;
    int err = generation_done(s);
    if (err)
        return err;
    scan_stop(s);
    s->adopted_us = adopt ? store_mono_us() : 0;
    if (adopt && rows) {
        s->hot.base = s->recapture ? 0 : base_of(s->hot.digest_a); /* what was captured before is below what anybody has */
        s->base_due = !s->recapture;
        store_log(s, LOG_INFO, "%s: %llu rows captured", s->config.db, (unsigned long long)rows);
    }
    return 0;
}

static int slice(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    int64_t began = store_mono_us();
    int err = row_cursor_open(s, io, &c->at, SLICE_ROWS), row = 0, n = 0;
    while (!err && (row = sql_step(c->at.stmt)) == 1) {
        err = take_row(s, io);
        c->rows++;
        if (++n % 64 == 0 && store_mono_us() - began > SLICE_US)
            break;
    }
    if (!err && row < 0)
        err = row;
    bool end = !err && row == 0 && n < SLICE_ROWS, notes_hold = false;
    sqlite3_finalize(c->at.stmt);
    c->at.stmt = NULL;
    if (!err && end && io->tbl->renamed_from && (io->rekeyed || io->table->key_kind != KEY_ROWID))
        err = carried_deaths(s, io);
    if (!err && end && io->table->key_kind == KEY_ROWID && !(err = judge_lacking(s, io)))
        err = keyless_settle(s, io, c->adopt, !c->at.began, c->lacking, &notes_hold);
    else if (!err && end && !c->adopt)
        err = find_gone(s, io);
    if (!err && end && !notes_hold)
        err = sql_int(s->app.reader, 0, &io->tbl->scanned_seq, "SELECT max(seq) FROM main._starling_dirty");
    if (!err && end && !(err = tables_count_nulls(s, io))) {
        err = moves_place(s, io);
        io->tbl->captured = !io->tbl->lost; /* else read again with the next start, so that it stays said */
        c->table++;
        row_cursor_rewind(&c->at);
    }
    return err;
}

int scan_step(struct store *s) {
    struct scan *c = s->scan;
    if (c->older) {
        int done = older_step(s, c->older);
        if (done == 1)
            scan_stop(s);
        return done < 0 ? done : 0;
    }
    if (c->adopt && afar_awaited(s)) /* whom its numbers mean */
        return 0;
    while (c->table < s->tios_count && !wanted(&s->tios[c->order[c->table]]))
        c->table++;
    if (c->table == s->tios_count)
        return finish(s);
    int err = sql_run(s->a_begin);
    if (err)
        return err;
    int row = sql_step(s->a_version[0]);
    bool same = row == 1 && sqlite3_column_int64(s->a_version[0], 0) == s->schema.version;
    sqlite3_reset(s->a_version[0]);
    err = row < 0 ? row : same ? 0 : ERR_SCHEMA;
    s->schema_stale |= err == ERR_SCHEMA; /* nothing was begun: the tables are followed, and it starts again */
    if (!err && !(err = state_begin(s)) && !(err = drain_begin_changes(s, c->adopt ? LOOK_ADOPTED : store_wall_ms(s)))) {
        struct tio *io = &s->tios[c->order[c->table]];
        if (!io->rekeyed && io->tbl->renamed_from && io->tbl->renamed_from->placed > 0)
            io->tbl->renamed_from = NULL; /* the two changed names, and what is known under that one are this scan's rows by now */
        /* What others have under the new name, or key, was never on show here. (Rows without a key are told by what they hold.) */
        s->blind = io->tbl->placed == 0 && io->tbl->renamed_from && (io->rekeyed || io->table->key_kind != KEY_ROWID);
        err = slice(s, io);
    }
    sql_run(s->a_end);
    if (err)
        return err;
    if ((err = appfile_sync(&s->app, s->app.reader)))
        return err;
    return drain_seal(s, false);
}

json_t *scan_json(const struct store *s) {
    if (!s->scan)
        return json_null();
    uint32_t at = s->scan->order && s->scan->table < s->tios_count ? s->scan->order[s->scan->table] : UINT32_MAX;
    const char *name = at < s->tios_count && s->tios[at].tbl ? s->tios[at].tbl->name : "";
    return json_pack("{s:I, s:s}", "done", (json_int_t)s->scan->rows, "table", name);
}
