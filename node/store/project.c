/* What is merged, into the application's file. The happy path: alone with the file (appfile_begin), the last note is our mark, the ops of
 * the flights in order, the mark row, old notes trimmed, COMMIT; then, with the lock released, the WAL is synced, and only then our
 * state takes note. A crash in between finds the flights again, and the mark in the application's file says which of them are there.
 *
 * Rows in `pending` are not written by ops but from the registers, their values from the log: rows that a drain touched in between, held
 * parts, parked rows that are tried again. What breaks a constraint is parked: kept, said in status, tried again later. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/mend.h"
#include "node/store/outdated.h"
#include "node/store/project.h"
#include "node/store/report.h"
#include "node/store/same.h"
#include "proto/err.h"

#define TRIM_NOTES 4000
#define MEND_ROUNDS 12 /* a mend may lead to another; what then still fails is parked */
#define AGAIN_MAX (MEND_ROUNDS + 8)
#define RETRY_ALL_PAUSE 100 /* times as long as it took in vain to try all that is parked at once, until that is done again */

void flight_free(struct store *s, struct flight *f) {
    (void)s;
    free(f->ops);
    arena_release(&f->arena);
    batch_reader_free(f->reader);
    bytes_unref(f->batch);
    buf_release(&f->before);
    free(f);
}

/* ---- one projection */

struct failed {
    struct pending_row **rows;
    uint32_t count, cap;
};

static int failed_add(struct store *s, struct failed *f, struct pending_row *row) {
    if (f->count == f->cap) {
        uint32_t cap = f->cap ? f->cap * 2 : 16;
        struct pending_row **p = realloc(f->rows, cap * sizeof(struct pending_row *));
        if (!p)
            return ERR_NOMEM;
        f->rows = p;
        f->cap = cap;
    }
    pending_own(s, row);
    row->queued = true;
    f->rows[f->count++] = row;
    return 0;
}

static int write_flight(struct projecting *p, struct flight *f, struct failed *failed) {
    struct store *s = p->s;
    for (uint32_t i = 0; i < f->ops_count; i++) {
        struct op *op = &f->ops[i];
        struct pending_row *row = s->pending ? pending_find(s, op->tbl, &op->who) : NULL;
        op->written = false;
        if (row && !row->mapped)
            continue; /* from the registers, later */
        int err = op->tbl->io ? show_op(p, op) : ERR_CONSTRAINT;
        op->written = !err;
        if (err == ERR_CONSTRAINT || err == ERR_NOTFOUND) {
            bool mapped = s->flights_mapped;
            if ((err = pending_map_flights(s)))
                return err;
            if (!mapped)
                s->flights_mapped = true;
            row = pending_find(s, op->tbl, &op->who);
            if (!row)
                return ERR_INTERNAL;
            row->waits.tbl = NULL; /* what it waited for before this op */
            row->out = false;
            err = failed_add(s, failed, row);
        } else if (!err && s->watched) {
            report_remote(s, f->origin, op);
        }
        if (err)
            return err;
    }
    return 0;
}

static int write_pending(struct projecting *p, struct failed *failed, int64_t seq) {
    struct pending_row *row, *next;
    uint32_t n = 0;
    int err = 0;
    bool more = p->s->flights && p->s->hot.flight_seq > seq; /* there are flights behind those at hand */
    HASH_ITER(hh, p->s->pending, row, next) {
        if (!pending_wants_showing(row) || row->done || row->queued || (row->held && row->behind > seq && more))
            continue;
        if (n++ >= BATCH_ROWS_MAX)
            break;
        err = show_row(p, row);
        if (err == 1)
            err = failed_add(p->s, failed, row);
        if (err < 0)
            return err;
    }
    return show_again(p, failed->rows, failed->count);
}

static int write_mark(struct store *s, int64_t seq) {
    sqlite3_bind_blob(s->w_mark, 1, s->state_id, sizeof s->state_id, SQLITE_STATIC);
    sqlite3_bind_int64(s->w_mark, 2, seq);
    sqlite3_bind_int64(s->w_mark, 3, s->durable_note < s->hot.note_seq ? s->durable_note : s->hot.note_seq);
    int err = sql_run(s->w_mark);
    if (err)
        return err;
    int64_t durable = s->durable_note < s->hot.note_seq ? s->durable_note : s->hot.note_seq;
    if (durable - s->trimmed_note < TRIM_NOTES / 4) /* seldom: it makes the lock last longer */
        return 0;
    s->trimmed_note = durable;
    sqlite3_bind_int64(s->w_trim, 1, durable);
    sqlite3_bind_int64(s->w_trim, 2, TRIM_NOTES);
    return sql_run(s->w_trim);
}

static bool anything_to_show(struct store *s) {
    if (s->flights)
        return true;
    struct pending_row *row, *next;
    HASH_ITER(hh, s->pending, row, next) {
        if (pending_wants_showing(row))
            return true;
    }
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (numbers_sequence_behind(&s->tios[i]))
            return true;
    return false;
}

void project_all_shown(struct store *s) {
    if (s->flights || s->held_count || anything_to_show(s))
        return;
    moves_shown(s);
    for (uint32_t i = 0; i < s->origins_count; i++)
        if (s->origins[i].shown != s->origins[i].version) {
            s->origins[i].shown = s->origins[i].version;
            s->origins[i].changed = true;
        }
}

/* Rows that are one with another now have no number of their own any more; requests that are under way may know them by it. */
static int note_left_numbers(struct store *s) {
    struct pending_row *row, *next;
    int err = 0;
    HASH_ITER(hh, s->pending, row, next) {
        bool left = row->done && row->looked && row->before && !row->holds && !row->who.text && same_is_junior(s, row->tbl, &row->who);
        if (left && !err)
            err = outdated_note(s, row->tbl, &row->who, numbers_shown(row->tbl, &row->who));
    }
    return err;
}

/* After the application's file is durable: our state takes note, unsynced. */
static int tick_off(struct store *s, int64_t seq) {
    int err = state_begin(s);
    if (err)
        return err;
    if ((err = note_left_numbers(s)) || (err = renumber_done(s)))
        return err;
    struct pending_row *row, *next;
    bool more = s->hot.flight_seq > seq && s->flights; /* there are flights behind those that were shown */
    HASH_ITER(hh, s->pending, row, next) {
        if (row->done && row->moves) {
            bool home;
            if ((err = rows_find(s, row->tbl, &row->who, &s->reg, &home)) || (!home && (err = pending_take_home(s, row, &s->reg))))
                return err;
        }
        row->looked = row->moves = false;
        s->moved_rows += row->done;
        if (row->done && ((err = unify_left(s, row)) || (err = pending_done(s, row, seq, more))))
            return err;
    }
    sqlite3_bind_int64(s->s_flight_del, 1, seq);
    if ((err = sql_run(s->s_flight_del)))
        return err;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (numbers_sequence_behind(&s->tios[i]))
            s->tios[i].sequence = s->tios[i].tbl->top;
    s->hot.projected_seq = seq;
    s->hot.shown_ms = store_wall_ms(s);
    shown_keep(s, s->hot.shown_ms);
    while (s->flights && s->flights->seq <= seq) {
        struct flight *f = s->flights;
        s->projected_rows += f->ops_count;
        s->moved_rows += f->ops_count;
        if (s->origins[f->origin].shown == f->version - 1) { /* what is before it may still be pending row by row */
            s->origins[f->origin].shown = f->version;
            s->origins[f->origin].changed = true;
        }
        s->flights = f->next;
        s->flights_bytes -= f->bytes;
        flight_free(s, f);
    }
    if (!s->flights)
        s->flights_tail = &s->flights;
    pending_unmap_flights(s); /* what is still in flight is mapped again, when a drain needs it */
    project_all_shown(s);
    s->stored_changed = true;
    return 0;
}

/* Has nobody committed since the last drain looked? The head of the WAL's index tells without a lock. */
static bool quiet_since_drain(struct store *s) {
    struct appfile_head now;
    return s->head_known && appfile_head(&s->app, &now) && memcmp(now.index, s->head.index, sizeof now.index) == 0;
}

int project_undisturbed(struct store *s) {
    if (quiet_since_drain(s))
        return 1;
    int row = sql_step(s->w_last);
    if (row < 0)
        return row;
    bool same = row ? sqlite3_column_int64(s->w_last, 0) == s->hot.note_seq : s->hot.note_seq == 0;
    sqlite3_reset(s->w_last);
    if (!same)
        return 0;
    row = sql_step(s->a_version[1]);
    if (row < 0)
        return row;
    same = sqlite3_column_int64(s->a_version[1], 0) == s->schema.version;
    sqlite3_reset(s->a_version[1]);
    return same ? 1 : ERR_SCHEMA;
}

/* Rows whose deletion was parked: what the file holds of them, now that no note is undrained. */
static int recount_parked(struct projecting *p) {
    struct pending_row *row, *next;
    HASH_ITER(hh, p->s->pending, row, next) {
        if (!row->recount || !row->tbl->io)
            continue;
        struct tio *io = row->tbl->io;
        uint64_t *hashes = arena_alloc(&p->arena, (io->count + 1) * sizeof *hashes);
        struct shown_cell *cells = arena_alloc(&p->arena, (io->count + 1) * sizeof *cells);
        int err = hashes && cells ? show_look(p, row, hashes) : ERR_NOMEM;
        for (uint32_t i = 0; i < io->count && !err; i++)
            cells[i] = (struct shown_cell){io->numbers[i], hashes[i]};
        if (err || (err = state_begin(p->s)) || (err = pending_cells(p->s, row, cells, row->present ? io->count : 0)))
            return err;
        row->recount = false;
        p->parked = true;
    }
    return 0;
}

/* Was what is parked tried again, and nothing of it shown? Then there is nothing to commit. */
static bool in_vain(struct store *s, int64_t seq) {
    struct pending_row *row, *next;
    if ((s->flights && s->flights->seq <= seq) || s->project_tries > 3)
        return false;
    HASH_ITER(hh, s->pending, row, next) {
        if (row->done || pending_wants_showing(row))
            return false;
    }
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (numbers_sequence_behind(&s->tios[i]))
            return false;
    return true;
}

/* What only the state knows once the projection is there: what is parked, who is where; and what the application wrote last, if that was read under the
 * lock, since the projection may have overwritten it. The one sync of our state under the lock. */
static int note_first(struct store *s) {
    int err = state_commit(s);
    if (err || (err = state_sync(s)))
        return err;
    s->durable_note = s->hot.note_seq;
    return 0;
}

/* Under the write lock. 0, PROJECT_DRAIN, PROJECT_AGAIN, PROJECT_VAIN, or an error. */
static int project_locked(struct store *s, int64_t *mark) {
    int64_t seq = *mark;
    bool drained = false;
    int same = project_undisturbed(s);
    if (same < 0)
        return same;
    if (!same) {
        if (s->project_tries++ < 3)
            return PROJECT_DRAIN;
        int err = drain(s, true); /* the fourth time under the lock, so that a busy application cannot keep us out for ever */
        if (err < 0 || err == DRAIN_RESCAN || err == DRAIN_MORE)
            return err < 0 ? err : PROJECT_DRAIN;
        drained = s->in_tx;
    }
    for (uint32_t i = 0; i < s->tios_count; i++)
        s->tios[i].next_rowid = 0;
    bool shows = s->flights && s->flights->seq <= seq;
    struct projecting p = {.s = s, .seq = shows || s->flights ? seq : s->hot.flight_seq + 1, .can_move = shows || !s->flights};
    struct failed failed = {0};
    renumber_forget(s);
    int err = recount_parked(&p);
    for (struct flight *f = s->flights; f && f->seq <= seq && !err; f = f->next)
        err = write_flight(&p, f, &failed);
    if (!err && (s->pending || failed.count))
        err = write_pending(&p, &failed, seq);
    for (uint32_t i = 0; i < failed.count; i++)
        failed.rows[i]->queued = false;
    free(failed.rows);
    err = err || mend_planned(s) || !s->foreigns_count ? err : foreign_check(s, seq);
    err = err || mend_planned(s) || !s->mending ? err : alike_check(s, seq);
    if (err == 1 || (!err && (mend_planned(s) || renumber_planned(s))))
        err = PROJECT_AGAIN;
    foreign_forget(s);
    free(p.at);
    arena_release(&p.arena);
    if (!err && !p.parked && in_vain(s, seq))
        err = PROJECT_VAIN;
    if (!err)
        err = numbers_raise_sequences(s);
    if (!err && (p.parked || p.placed) && p.seq > s->hot.flight_seq)
        *mark = s->hot.flight_seq = p.seq;
    if (!err && (p.parked || p.placed || drained))
        err = note_first(s);
    return err ? err : write_mark(s, *mark);
}

/* The projection was taken back: the file shows what it showed before. */
static int not_done(struct store *s) {
    struct pending_row *row, *next;
    int err = renumber_undo(s);
    HASH_ITER(hh, s->pending, row, next) {
        row->done = row->moves = false;
        if (!row->looked)
            continue;
        row->looked = false;
        bool same = row->present == row->before;
        row->present = row->before;
        if (!same && row->stored && !err && !(err = state_begin(s)))
            err = pending_store(s, row);
    }
    return err;
}

/* Does somebody read? Who reads on and on is not waited for any longer. */
static bool read_by_others(struct store *s, bool *impatient) {
    int64_t limit = s->config.readers_wait_ms ? s->config.readers_wait_ms : 10000, now = store_mono_us() / 1000;
    if (!appfile_readers(&s->app))
        return false;
    if (!s->readers_since_ms)
        s->readers_since_ms = now;
    *impatient = now - s->readers_since_ms >= limit;
    return true;
}

static uint32_t rows_to_show(const struct store *s, int64_t seq) {
    uint32_t rows = (uint32_t)HASH_COUNT(s->pending);
    for (const struct flight *f = s->flights; f && f->seq <= seq; f = f->next)
        rows += f->ops_count;
    return rows;
}

/* Taken back, since rows had to be parked or mended. That is noted, without the lock, and the rest is written again. */
static int note_parked(struct store *s) {
    int err = not_done(s);
    if (err || (err = renumber_write(s)) || (err = state_begin(s)) || (err = mend_write(s)))
        return err;
    return note_first(s);
}

static int take_back(struct store *s, int result) {
    appfile_rollback(&s->app);
    int err = not_done(s);
    return err ? err : result;
}

/* One transaction of the application's file. 0: committed. */
static int project_once(struct store *s, int64_t *seq, bool impatient) {
    int64_t began = store_mono_us();
    int err = renumber_tables(s);
    if (err || (err = appfile_begin(&s->app, !impatient)))
        return err == ERR_BUSY ? PROJECT_WAIT : err;
    if (rows_to_show(s, *seq) > PROJECT_ROWS) /* for so long only writers are kept out */
        appfile_let_in(&s->app);
    err = project_locked(s, seq);
    if (err || (err = appfile_commit(&s->app))) /* busy in DELETE mode, and somebody reads: a refused COMMIT would shut everybody out */
        err = take_back(s, err == ERR_BUSY ? PROJECT_WAIT : err);
    store_lock_time(s, store_mono_us() - began);
    return err;
}

/* How long it took to try what is parked, if it was in vain: the application was kept out meanwhile. */
static void note_retries(struct store *s, int64_t took_us) {
    struct pending_row *row, *next;
    if (!s->retries)
        return;
    s->retries = 0;
    s->retry_us = took_us;
    HASH_ITER(hh, s->pending, row, next) {
        if (row->done && row->retry)
            s->retry_us = 0;
    }
    if (s->retrying_all)
        s->retry_all_ms += s->retry_us / 1000 * RETRY_ALL_PAUSE;
}

int project(struct store *s) {
    bool impatient = false;
    if (!s->app_open || s->held_project || !anything_to_show(s) || (project_blocked(s) && !s->pending))
        return PROJECT_NOTHING;
    if (renumber_waits(s) || (read_by_others(s, &impatient) && !impatient))
        return PROJECT_WAIT;
    if (s->head_known && s->project_tries < 3 && !quiet_since_drain(s)) { /* not even the lock: the application has committed meanwhile */
        s->project_tries++;
        return PROJECT_DRAIN;
    }
    int64_t seq = project_last_flight(s), began = store_mono_us();
    int err;
    for (int i = 0;; i++) {
        s->mending = i < MEND_ROUNDS;
        err = project_once(s, &seq, impatient);
        s->mending = false;
        if (err == PROJECT_AGAIN && renumber_left(s) && !mend_planned(s))
            err = PROJECT_WAIT;
        if (err != PROJECT_AGAIN)
            break;
        if ((err = note_parked(s)) || i == AGAIN_MAX)
            return err ? err : PROJECT_DRAIN;
    }
    mend_forget(s);
    if (err && err != PROJECT_VAIN)
        return err;
    note_retries(s, store_mono_us() - began);
    s->project_tries = 0;
    s->readers_since_ms = 0;
    if (err)
        return PROJECT_NOTHING;
    if ((err = appfile_sync(&s->app, s->app.writer)) || (err = tick_off(s, seq)))
        return err;
    shown_push(s);
    return PROJECT_DONE;
}
