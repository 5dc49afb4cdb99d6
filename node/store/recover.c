/* What is being shown, after a restart: rows that were pending, and which of them the application's file shows nevertheless. The mark in it says
 * which flights are there. */
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

/* The file may show more of a row than was noted, and the application may have written into it since: a column that shows what the registers say
 * was shown, and is no write of the application's. */
static int recover_cells(struct store *s, struct pending_row *row, const bool *shown, uint32_t count, bool any) {
    struct tio *io = row->tbl->io;
    uint32_t n = 0;
    for (uint32_t i = 0; i < row->cells_count; i++) {
        bool stale = false;
        for (uint32_t k = 0; k < count; k++)
            stale = stale || (shown[k] && io->numbers[k] == row->cells[i].column);
        if (!stale)
            row->cells[n++] = row->cells[i];
    }
    bool came = any && !row->present;
    if (n == row->cells_count && !came)
        return 0;
    row->cells_count = came ? 0 : n;
    row->present = row->present || came;
    return pending_store(s, row);
}

/* Does it tell what a column showed that has another name now, and was not read under it yet? */
static bool has_renamed_cells(const struct pending_row *row) {
    const struct tbl *t = row->tbl;
    for (uint32_t i = 0; i < row->cells_count; i++)
        for (uint32_t c = 0; c < t->columns_count; c++)
            if (t->moves[c].from == row->cells[i].column + 1)
                return true;
    return false;
}

static int recover_row(struct store *s, struct pending_row *row) {
    struct tio *io = row->tbl->io;
    if (!io)
        return 0;
    struct row_look look = {.io = io, .place = row->who};
    bool home, *shown = calloc(io->count + 1, sizeof *shown);
    int err = shown ? rows_find(s, row->tbl, &row->who, &s->reg, &home) : ERR_NOMEM;
    if (err || (err = drain_look(s, &look, io->read))) {
        free(shown);
        return err;
    }
    struct origins_order o = store_order(s);
    bool alive = reg_alive(&s->reg, &o), same = alive == look.present && !has_renamed_cells(row), any = false;
    for (uint32_t i = 0; i < io->count && look.present && alive; i++) {
        const struct cell *c = reg_winner(&s->reg, io->numbers[i], &o);
        shown[i] = c && c->hash == value_hash(&look.values[i]);
        any = any || (shown[i] && !io->table->columns[io->order[i]].key_place);
        same = same && (!c || shown[i]);
    }
    sqlite3_reset(io->read);
    struct rowid place = row->who;
    if (!place.text)
        place.number = numbers_shown(row->tbl, &row->who);
    if (same && !home && alive && (err = pending_home_taken(s, row->tbl, &place)) == 0)
        err = pending_take_home(s, row, &s->reg);
    if (err >= 0 && same && !row->reason)
        row->done = true;
    else if (err >= 0 && alive && look.present && home && !row->reason)
        err = recover_cells(s, row, shown, io->count, any);
    free(shown);
    return err < 0 ? err : 0;
}

/* Flights that the mark in the application's file covers are there, whether or not we noted it; the others are shown from the registers. */
int project_recall(struct store *s) {
    struct capture_mark mark;
    sqlite3_stmt *q;
    int row, err = capture_mark_read(s->app.reader, &mark);
    if (err)
        return err;
    int64_t covered = mark.found && memcmp(mark.state, s->state_id, sizeof mark.state) == 0 ? mark.projection : 0;
    if ((err = state_begin(s)) /* parts are stored as held */ || (err = pending_load(s)) || (err = numbers_settle_all(s, covered)) ||
        (err = sql_prepare(s->db, &q, "SELECT seq, before, CASE WHEN part THEN origin+1 ELSE 0 END FROM flight ORDER BY seq")))
        return err;
    while ((row = sql_step(q)) == 1) {
        struct buf before = {.data = (uint8_t *)(uintptr_t)sqlite3_column_blob(q, 1), .len = (size_t)sqlite3_column_bytes(q, 1)};
        if (sqlite3_column_int64(q, 0) > covered && (row = pending_merge_before(s, &before, (uint32_t)sqlite3_column_int64(q, 2))))
            break;
    }
    sqlite3_finalize(q);
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) p->mapped = false;
    s->covered = covered;
    /* The file has seen more of this state than the state knows: an older copy of ours is in its place, and versions would be used twice. */
    bool ours = mark.found && memcmp(mark.state, s->state_id, sizeof mark.state) == 0;
    s->state_went_back = ours && (mark.projection > s->hot.flight_seq || mark.note > s->hot.note_seq);
    return row;
}

int project_recover(struct store *s) {
    struct pending_row *p, *next;
    int64_t covered = s->covered;
    int err = state_begin(s);
    if (err)
        return err;
    HASH_ITER(hh, s->pending, p, next) {
        if (!p->part_of && (err = recover_row(s, p)))
            return err;
    }
    HASH_ITER(hh, s->pending, p, next) {
        if (p->done)
            pending_remove(s, p);
        else if (!p->stored && (err = pending_store(s, p)))
            return err;
    }
    if ((err = sql_exec(s->db, "DELETE FROM flight")))
        return err;
    if (covered > s->hot.projected_seq)
        s->hot.projected_seq = covered;
    project_all_shown(s);
    if ((err = state_commit(s)) || (err = state_sync(s)))
        return err;
    s->durable_note = s->hot.note_seq;
    err = shown_entry(s, s->hot.shown_ms - SHOWN_RECENT_MS, true);
    return err ? err : shown_entry(s, s->hot.shown_ms, false);
}
