/* Rows that could not be written at once. The happy path: another of them was in the way, or is what one refers to, and in another order all are
 * written. Rows that refer to each other in a circle are written together; of rows that hold each other's UNIQUE values all are taken out and put in
 * again in final form, mended where two of them have the same. What is left is mended, or parked with the reason. */
#include <stdlib.h>
#include <string.h>

#include "node/store/project.h"
#include "proto/err.h"

#define CIRCLE_ROUNDS 16
#define CHAIN_MAX 64 /* further up nobody looks */

/* ---- what broke a constraint: perhaps only in this order (a swap of UNIQUE values): out with all of them, and in again in final form. What is refused then
 * clashes with what is shown at last: while they hold each other's values, no two of them meet in what they are to be. */

static int put_back(struct projecting *p, struct pending_row **rows, uint32_t count) {
    struct store *s = p->s;
    struct origins_order o = store_order(s);
    int err = sql_exec(s->app.writer, "SAVEPOINT starling_swap");
    if (err)
        return err;
    for (uint32_t i = 0; i < count && !err; i++)
        if (rows[i]->present)
            err = show_delete(s, rows[i]->tbl->io, &rows[i]->who);
    p->mends = true;
    for (uint32_t i = 0; i < count && !err; i++) {
        bool home;
        rows[i]->holds = false;
        rows[i]->done = true;
        if (!(err = rows_find(s, rows[i]->tbl, &rows[i]->who, &s->reg, &home)) && reg_alive(&s->reg, &o)) {
            rows[i]->done = false; /* it may be parked */
            err = show_row(p, rows[i]);
        }
    }
    p->mends = false;
    if (err)
        sql_exec(s->app.writer, "ROLLBACK TO starling_swap");
    sql_exec(s->app.writer, "RELEASE starling_swap");
    for (uint32_t i = 0; i < count && err; i++) {
        int hidden = rows[i]->moves ? numbers_hide_row(s, rows[i]->tbl, &rows[i]->who) : 0;
        if (hidden)
            return hidden;
        rows[i]->done = rows[i]->moves = false;
    }
    return err;
}

/* ---- rows that refer to each other, and none of them has its place yet: each of them ahead of the others */

/* Was a row shown whose reference still leads to none? 1, 0. */
static int leads_nowhere(struct projecting *p, const struct pending_row *row) {
    struct store *s = p->s;
    struct origins_order o = store_order(s);
    uint32_t *columns, count;
    struct value *values;
    bool home;
    if (!row->done || !row->holds)
        return 0;
    int err = rows_find(s, row->tbl, &row->who, &s->reg, &home);
    if (!err && reg_alive(&s->reg, &o))
        err = show_gather(p, row->tbl, &s->reg, home, row, NULL, &columns, &values, &count);
    arena_release(&p->arena);
    return err;
}

/* Takes out who refers to what was not shown, then who refers to these, and so on; there and back, since most chains are in order. */
static int drop_leads(struct projecting *p, struct pending_row **rows, uint32_t count, bool *dropped) {
    *dropped = false;
    for (int round = 0, more = 1; more; round++) {
        more = 0;
        for (uint32_t n = 0; n < count; n++) {
            struct pending_row *row = rows[round % 2 ? count - 1 - n : n];
            int leads = round < CIRCLE_ROUNDS ? leads_nowhere(p, row) : row->done;
            if (leads < 0)
                return leads;
            if (!leads)
                continue;
            int err = row->moves ? numbers_hide_row(p->s, row->tbl, &row->who) : 0;
            if (err)
                return err;
            row->done = row->moves = false;
            *dropped = true;
            more = round < CIRCLE_ROUNDS;
        }
    }
    return 0;
}

static int show_ahead(struct projecting *p, struct pending_row **rows, uint32_t count) {
    int err = 0;
    p->s->ahead = true;
    for (uint32_t i = 0; i < count && err >= 0; i++)
        err = show_row(p, rows[i]);
    p->s->ahead = false;
    return err < 0 ? err : 0;
}

static int undo_ahead(struct projecting *p, struct pending_row **rows, uint32_t count) {
    int err = sql_exec(p->s->app.writer, "ROLLBACK TO starling_circle");
    for (uint32_t i = 0; i < count && !err; i++) {
        err = rows[i]->moves ? numbers_hide_row(p->s, rows[i]->tbl, &rows[i]->who) : 0;
        rows[i]->done = rows[i]->moves = false;
    }
    return err;
}

/* Those that were shown come last, and are left out of *count. */
static bool part(struct pending_row **rows, uint32_t *count) {
    uint32_t before = *count;
    for (uint32_t i = 0; i < *count;)
        if (rows[i]->done) {
            struct pending_row *row = rows[i];
            rows[i] = rows[--*count];
            rows[*count] = row;
        } else {
            i++;
        }
    return *count < before;
}

/* 1: some were shown. First all that could be; of these, if some led nowhere, the others once more. */
static int show_circle(struct projecting *p, struct pending_row **rows, uint32_t *count) {
    uint32_t left = *count;
    bool dropped = false;
    int err = sql_exec(p->s->app.writer, "SAVEPOINT starling_circle");
    if (err)
        return err;
    if (!(err = show_ahead(p, rows, *count)) && !(err = drop_leads(p, rows, *count, &dropped)) && dropped) {
        (void)part(rows, &left);
        if (!(err = undo_ahead(p, rows, *count)) && !(err = show_ahead(p, rows + left, *count - left)) &&
            !(err = drop_leads(p, rows + left, *count - left, &dropped)) && dropped)
            err = undo_ahead(p, rows, *count);
    }
    sql_exec(p->s->app.writer, "RELEASE starling_circle");
    return err ? err : part(rows, count);
}

/* One of them is refused, and with it all that refers to it, in a circle the row itself: so it is mended while each is ahead of the others. All is done
 * again with the mend. */
static int mend_circle(struct projecting *p, struct pending_row **rows, uint32_t count) {
    int err = sql_exec(p->s->app.writer, "SAVEPOINT starling_circle");
    if (err)
        return err;
    p->mends = true;
    if (!(err = show_ahead(p, rows, count)))
        err = undo_ahead(p, rows, count);
    p->mends = false;
    sql_exec(p->s->app.writer, "RELEASE starling_circle");
    return err;
}

/* ---- all of them */

/* Whom it waits for, if that one is not shown yet. */
static struct pending_row *waited_for(struct store *s, const struct pending_row *row) {
    struct pending_row *next = row->waits.tbl ? pending_find(s, row->waits.tbl, &row->waits.who) : NULL;
    return next && !next->done ? next : NULL;
}

/* One after the other, as long as any can be written; there and back, since most chains are in order. Who waits for another one here is not tried before
 * that one is shown. */
static int in_order(struct projecting *p, struct pending_row **rows, uint32_t *left) {
    uint32_t count = *left;
    bool back = false;
    for (bool progress = true; progress && count; back = !back) {
        uint32_t stay = 0;
        progress = false;
        for (uint32_t i = 0; i < count; i++) {
            struct pending_row *row = rows[back ? count - 1 - i : i];
            int err = waited_for(p->s, row) ? 1 : show_row(p, row);
            if (err < 0)
                return err;
            progress = progress || err == 0;
            rows[back ? count - 1 - stay : stay] = row;
            stay += err == 1;
        }
        if (back)
            memmove(rows, rows + count - stay, stay * sizeof *rows);
        count = stay;
        int moved = renumber_move(p->s, p->seq); /* what these rows asked for */
        if (moved < 0)
            return moved;
        progress = progress || moved;
        p->parked = p->parked || moved;
    }
    *left = count;
    return 0;
}

/* Does the file refuse its form, or that of whom it waits for? No other row lets these in, so they take no part in what is tried with all the others:
 * of many rows below one that is refused each would be written, and taken back, again and again. All that lead there learn it at once. */
static bool is_out(struct store *s, struct pending_row *row) {
    struct pending_row *at = row;
    for (int n = 0; at && !at->out && n < CHAIN_MAX; n++)
        at = waited_for(s, at);
    bool out = at && at->out;
    for (at = row; out && !at->out; at = waited_for(s, at))
        at->out = true;
    return out;
}

/* Those come last. */
static uint32_t leave_out(struct store *s, struct pending_row **rows, uint32_t count) {
    for (uint32_t i = 0; i < count;)
        if (is_out(s, rows[i])) {
            struct pending_row *row = rows[i];
            rows[i] = rows[--count];
            rows[count] = row;
        } else {
            i++;
        }
    return count;
}

/* Once more: to be mended, or for the reason. */
static int show_last(struct projecting *p, struct pending_row **rows, uint32_t count) {
    int err = 0;
    p->last = true;
    for (uint32_t i = 0; i < count && err >= 0; i++) {
        err = show_row(p, rows[i]);
        if (err == 1)
            err = mend_planned(p->s) ? 0 : show_park(p, rows[i], p->why); /* tried again with the mend */
    }
    return err < 0 ? err : 0;
}

static int retry_rows(struct projecting *p, struct pending_row **rows, uint32_t count) {
    uint32_t others = 0; /* the first of them; those after these are out */
    int err, more = 1;
    while (count && more) {
        if ((err = in_order(p, rows, &count)))
            return err;
        uint32_t left = others = leave_out(p->s, rows, count);
        if ((more = left ? show_circle(p, rows, &left) : 0) < 0)
            return more;
        memmove(rows + left, rows + others, (count - others) * sizeof(struct pending_row *)); /* in the place of those that were shown */
        count -= others - left;
        others = left;
    }
    if (others > 1 && put_back(p, rows, others) == 0)
        return show_last(p, rows + others, count - others);
    if (p->s->mending && others > 1 && ((err = mend_circle(p, rows, others)) || mend_planned(p->s)))
        return err ? err : show_last(p, rows + others, count - others);
    return show_last(p, rows, count);
}

int show_again(struct projecting *p, struct pending_row *const *all, uint32_t count) {
    if (!count)
        return 0;
    struct pending_row **rows = malloc(count * sizeof(struct pending_row *));
    if (!rows)
        return ERR_NOMEM;
    memcpy(rows, all, count * sizeof(struct pending_row *));
    int err = retry_rows(p, rows, count);
    free(rows);
    return err;
}
