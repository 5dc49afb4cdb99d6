/* Are the rows of the application's file what the registers say? Nothing notes what is written while our triggers are switched off
 * (SQLITE_DBCONFIG_ENABLE_TRIGGER, writable_schema), nor an eviction that other unnoted writes make up for, nor what a disk or a bug did to the file. So
 * every row is read again in the background: each hour, soon after a commit that left no note, and after any other, which may hide such a one, once the
 * file is quiet and if passes have not taken 1 % of the time. A slice is 10 ms in a quiet second, so 1 % of a core, in a snapshot whose notes are all
 * drained. First the rows of a table, then its registers, for rows that are gone. What differs is a local write that was found without a note, as in a
 * rescan: just above the row's last stamp, and too many missing rows are not believed. */
#include <stdlib.h>
#include <string.h>

#include "node/store/forward.h"
#include "node/store/recheck.h"
#include "proto/err.h"

#define SLICE_US 10000
#define SLICE_ROWS 5000
#define SLICE_EVERY_US 1000000
#define HINT_US 500000    /* an application writes more than once */
#define FIRST_US 60000000 /* after opening, or a change of the schema */
#define PASS_EVERY_US 3600000000
#define BUSY_US 200000
#define TOUCHED_US 5000000 /* after a commit that left notes, and between two such passes */
#define TOUCHED_SHARE 100  /* a pass is paused after for so many times of what it took */
#define TOUCHED_QUIET_MS 1000
#define GENTLE_WAIT_MS 500 /* as for a store that has nothing to do */

struct recheck {
    bool passing, again; /* again: a hint came while it was under way */
    bool touched;        /* somebody has committed since it began */
    bool gentle;         /* that is all: it keeps out of the way of whoever works */
    int64_t spent_us, touched_from_us;
    int64_t schema; /* how much text the schema has, when the tables were bound */
    bool gone;      /* of the table at hand the registers are read */
    uint32_t table; /* index in tios */
    struct row_cursor rows;
    bool began;         /* registers: from `key` or `number` on */
    struct buf key;     /* the key of the register that was read last */
    int64_t number;     /* the same */
    struct buf missing; /* places of rows that are gone, packed one behind the other */
    uint64_t missing_count, found;
    int64_t due_us, began_us;
};

static int schema_sum(struct store *s, int64_t *sum) {
    return sql_int(s->app.reader, 0, sum, "SELECT count(*) * 1000000007 + total(length(sql)) FROM main.sqlite_schema");
}

static struct recheck *get(struct store *s) {
    if (!s->recheck && (s->recheck = calloc(1, sizeof *s->recheck))) {
        row_cursor_init(&s->recheck->rows);
        buf_init(&s->recheck->key, 256u << 20);
        buf_init(&s->recheck->missing, 256u << 20);
        s->recheck->due_us = store_mono_us() + FIRST_US;
    }
    return s->recheck;
}

void recheck_stop(struct store *s) {
    struct recheck *c = s->recheck;
    if (!c)
        return;
    row_cursor_release(&c->rows);
    buf_release(&c->key);
    buf_release(&c->missing);
    free(c);
    s->recheck = NULL;
}

static void begin_table(struct recheck *c, uint32_t table) {
    c->table = table;
    c->gone = c->began = false;
    c->missing_count = c->found = 0;
    buf_clear(&c->missing);
    row_cursor_rewind(&c->rows);
}

int recheck_restart(struct store *s) {
    struct recheck *c = get(s);
    if (!c)
        return ERR_NOMEM;
    begin_table(c, 0);
    return schema_sum(s, &c->schema);
}

static void hint(struct store *s) {
    struct recheck *c = get(s);
    int64_t soon = store_mono_us() + HINT_US;
    if (!c)
        return;
    if (c->passing)
        c->again = true;
    else if (c->due_us > soon)
        c->due_us = soon;
    c->gentle &= c->passing;
}

static void touch(struct store *s) {
    struct recheck *c = get(s);
    int64_t soon = store_mono_us() + TOUCHED_US;
    if (!c)
        return;
    c->touched = true;
    if (soon < c->touched_from_us)
        soon = c->touched_from_us;
    bool read_lately = soon < s->schema_changed_ms * 1000 + FIRST_US; /* the next commit behind that will do */
    if (c->passing || c->due_us <= soon || read_lately)
        return;
    c->due_us = soon;
    c->gentle = true;
}

void recheck_hint(struct store *s, bool other) {
    if (other)
        touch(s);
    else
        hint(s);
}

int64_t recheck_wait_ms(struct store *s) {
    struct recheck *c = get(s);
    int64_t us = c ? c->due_us - store_mono_us() : PASS_EVERY_US, least = c && c->gentle ? GENTLE_WAIT_MS : 1;
    return us / 1000 > least ? us / 1000 : least;
}

/* ---- one row */

/* The register of this place, if the file should show a row there by it. What is pending, or too large for any batch, differs and may. */
static int should_show(struct store *s, const struct tbl *t, bool *shown, bool *may_differ) {
    struct origins_order o = store_order(s);
    struct rowid who = s->reg.who;
    *shown = reg_known(&s->reg) && reg_alive(&s->reg, &o);
    *may_differ = reg_known(&s->reg) && pending_find(s, t, &who) != NULL;
    return 0;
}

static int is_large(struct store *s, const struct tbl *t, const struct rowid *place, bool *large) {
    sqlite3_stmt *q;
    *large = false;
    if (!s->too_large)
        return 0;
    buf_clear(&s->key);
    int err = rowid_pack(place, &s->key);
    if (err || (err = sql_prepare(s->db, &q, "SELECT 1 FROM large WHERE tbl=%u AND place=?", t->no)))
        return err;
    sqlite3_bind_blob64(q, 1, s->key.data, s->key.len, SQLITE_STATIC);
    int row = sql_step(q);
    *large = row == 1;
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

static int differs(struct store *s, const struct row_look *look, bool *yes) {
    struct origins_order o = store_order(s);
    struct tio *io = look->io;
    bool shown, may;
    int err = rows_at_home(s, io->tbl, &look->place, &s->reg);
    if (err || (err = should_show(s, io->tbl, &shown, &may)) || (!may && (err = is_large(s, io->tbl, &look->place, &may))))
        return err;
    *yes = !may && !shown;
    for (uint32_t i = 0; i < io->count && !may && !*yes; i++) {
        const struct cell *c = reg_winner(&s->reg, io->numbers[i], &o);
        uint64_t hash = c ? c->hash : 0;
        if (!c && (err = tables_default_hash(s, io, i, &hash)))
            return err;
        *yes = hash != value_hash(&look->values[i]);
    }
    return 0;
}

static int take_row(struct store *s, struct row_look *look) {
    uint64_t before = s->drained_rows;
    int err = state_begin(s);
    if (!err && batch_writer_rows(s->writer) == 0)
        err = drain_begin_changes(s, store_wall_ms(s));
    if (!err)
        err = forward_row(s, look);
    s->recheck->found += s->drained_rows - before;
    return err;
}

/* ---- slices: 1 the end of the table was reached */

static int rows_slice(struct store *s, struct tio *io, int64_t until) {
    struct recheck *c = s->recheck;
    int err = row_cursor_open(s, io, &c->rows, SLICE_ROWS), row = 0;
    uint32_t n = 0;
    while (!err && (row = sql_step(c->rows.stmt)) == 1) {
        struct row_look look = {.io = io, .ms = LOOK_FOUND};
        bool yes = false;
        err = row_cursor_row(io, &c->rows, &look);
        if (!err && !(err = differs(s, &look, &yes)) && yes)
            err = take_row(s, &look);
        free(look.values);
        if (++n % 64 == 0 && store_mono_us() > until)
            break;
    }
    sqlite3_finalize(c->rows.stmt);
    c->rows.stmt = NULL;
    return err ? err : row < 0 ? row : row == 0 && n < SLICE_ROWS;
}

static int register_row(struct store *s, struct tio *io, sqlite3_stmt *q) {
    struct recheck *c = s->recheck;
    struct row_look look = {.io = io, .place = {.text = tbl_is_text(io->tbl)}};
    bool shown, may;
    c->began = true;
    buf_clear(&c->key);
    if (look.place.text)
        buf_append(&c->key, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
    else
        c->number = look.place.number = sqlite3_column_int64(q, 0);
    look.place.key = look.place.text ? c->key.data : NULL;
    look.place.key_len = c->key.len;
    int err = c->key.failed;
    if (err || (err = rows_at_home(s, io->tbl, &look.place, &s->reg)) || (err = should_show(s, io->tbl, &shown, &may)) || !shown || may)
        return err;
    err = drain_look(s, &look, io->read);
    sqlite3_reset(io->read);
    if (err || look.present)
        return err;
    c->missing_count++;
    return rowid_pack(&look.place, &c->missing);
}

static int registers_slice(struct store *s, struct tio *io, int64_t until) {
    struct recheck *c = s->recheck;
    sqlite3_stmt *q;
    uint32_t n = 0;
    int row = sql_prepare(s->db, &q, "SELECT k FROM r%u%s ORDER BY k LIMIT %u", io->tbl->no, c->began ? " WHERE k > ?" : "", SLICE_ROWS);
    if (row)
        return row;
    if (c->began && tbl_is_text(io->tbl))
        sqlite3_bind_blob64(q, 1, c->key.len ? (const void *)c->key.data : "", c->key.len, SQLITE_TRANSIENT);
    else if (c->began)
        sqlite3_bind_int64(q, 1, c->number);
    int err = 0;
    while (!err && (row = sql_step(q)) == 1) {
        err = register_row(s, io, q);
        if (++n % 64 == 0 && store_mono_us() > until)
            break;
    }
    sqlite3_finalize(q);
    return err ? err : row < 0 ? row : row == 0 && n < SLICE_ROWS;
}

/* Both halves of the table are through. */
static int end_table(struct store *s, struct tio *io) {
    struct recheck *c = s->recheck;
    struct tbl *t = io->tbl;
    if (c->missing_count && scan_too_many(s, t, c->missing_count)) {
        t->captured = t->itself = false; /* read again with the next start, so that it stays said */
        t->dirty = true;
    } else if (c->missing_count) {
        uint64_t before = s->drained_rows;
        int err = replaced_delete(s, io, &c->missing);
        if (err)
            return err;
        c->found += s->drained_rows - before;
    }
    if (c->found)
        store_log(s, LOG_WARNING,
                  "%s: %llu rows of \"%s\" were changed without a note, as by a program that switches triggers off; they are taken now",
                  s->config.db, (unsigned long long)c->found, t->name);
    begin_table(c, c->table + 1);
    return 0;
}

/* Nobody else may have met it yet: the other tables are served on. */
static bool is_damaged(struct store *s, const struct tio *io) {
    int code = sqlite3_errcode(s->app.reader) & 0xff;
    if (code != SQLITE_CORRUPT && code != SQLITE_IOERR)
        return false;
    store_log(s, LOG_ERROR, "%s: \"%s\" cannot be read (%s): restore it from a backup, or try sqlite3's .recover", s->config.db,
              io->table->name, sqlite3_errmsg(s->app.reader));
    return true;
}

/* In the snapshot. */
static int slice(struct store *s) {
    struct recheck *c = s->recheck;
    int64_t until = store_mono_us() + SLICE_US;
    while (c->table < s->tios_count && store_mono_us() <= until) {
        struct tio *io = &s->tios[c->table];
        if (!io->tbl || !io->tbl->captured || io->tbl->lost) {
            begin_table(c, c->table + 1);
            continue;
        }
        int done = c->gone ? registers_slice(s, io, until) : rows_slice(s, io, until);
        if (done < 0 && is_damaged(s, io)) {
            begin_table(c, c->table + 1);
            continue;
        }
        if (done < 0)
            return done;
        if (done && c->gone && (done = end_table(s, io)) < 0)
            return done;
        else if (done)
            c->gone = true;
    }
    return 0;
}

static void end_pass(struct store *s) {
    struct recheck *c = s->recheck;
    int64_t now = store_mono_us();
    bool touched = c->touched;
    c->due_us = c->again ? now + SLICE_EVERY_US : c->began_us + PASS_EVERY_US;
    if (c->due_us < now + SLICE_EVERY_US)
        c->due_us = now + SLICE_EVERY_US;
    c->touched_from_us = now + c->spent_us * TOUCHED_SHARE;
    c->passing = c->again = c->gentle = false;
    if (touched)
        touch(s);
}

/* Where sqlite_schema was written by hand (PRAGMA writable_schema), no connection notices: they go on by what they have read, and new ones by what is there. */
static int begin_pass(struct store *s) {
    struct recheck *c = s->recheck;
    int64_t sum;
    c->passing = true;
    c->touched = false;
    c->began_us = store_mono_us();
    c->spent_us = 0;
    begin_table(c, 0);
    int err = schema_sum(s, &sum);
    if (err || sum == c->schema)
        return err;
    int64_t version;
    if ((err = sql_int(s->app.reader, 0, &version, "PRAGMA main.schema_version")) || version != s->schema.version)
        return err; /* a change like any other */
    store_log(s, LOG_WARNING, "%s: the schema was edited by hand: it is read anew", s->config.db);
    return ERR_CLOSED;
}

int recheck_step(struct store *s) {
    struct recheck *c = get(s);
    int64_t now = store_mono_us();
    if (!c || now < c->due_us || s->scan || s->schema_stale || s->held_since_ms || s->flights || s->delivered_count || s->in_tx)
        return c ? 0 : ERR_NOMEM;
    if (c->gentle && now - s->active_ms * 1000 < TOUCHED_QUIET_MS * 1000) {
        c->due_us = (s->active_ms + TOUCHED_QUIET_MS) * 1000;
        return 0;
    }
    int err = sql_run(s->a_begin);
    if (err)
        return err == ERR_BUSY ? 0 : err;
    bool drained = false, back = false;
    if (!c->passing)
        err = begin_pass(s);
    if (!err && !(err = scan_drained(s, &drained, &back)) && drained)
        err = slice(s);
    sql_run(s->a_end);
    c->spent_us += store_mono_us() - now;
    c->due_us = now + (drained ? SLICE_EVERY_US : BUSY_US);
    if (!err && back)
        return scan_start(s, false);
    if (!err && c->table >= s->tios_count)
        end_pass(s);
    if (err || batch_writer_rows(s->writer) == 0)
        return err;
    err = appfile_sync(&s->app, s->app.reader);
    return err ? err : drain_seal(s, false);
}
