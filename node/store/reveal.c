/* Rows and columns of other servers for which the application had no place here, and has now: they become pending, and the next
 * projection shows them. */
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

static bool has_waiting_column(const struct tbl *t) {
    for (uint32_t i = 0; i < t->io->count; i++)
        if (!t->column_placed[t->io->numbers[i]])
            return true;
    return false;
}

/* The row shows a column's default until its value is written. */
static int reveal_columns(struct store *s, struct tbl *t, const struct rowid *who) {
    struct origins_order o = store_order(s);
    struct shown_cell cells[BATCH_COLUMNS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->io->count; i++) {
        uint32_t column = t->io->numbers[i];
        const struct cell *c = t->column_placed[column] ? NULL : reg_winner(&s->reg, column, &o);
        uint64_t hash;
        int err = c ? tables_default_hash(s, t->io, i, &hash) : 0;
        if (err)
            return err;
        if (c && c->hash != hash)
            cells[n++] = (struct shown_cell){column, hash};
    }
    if (!n)
        return 0;
    struct pending_row *p = pending_find(s, t, who);
    if (p)
        return pending_touch(s, p, cells, n);
    int err = pending_set(s, t, who, true, cells, n, NULL, &p);
    return err ? err : pending_store(s, p);
}

static int reveal_row(struct store *s, struct tbl *t, const struct rowid *who) {
    struct origins_order o = store_order(s);
    if (!reg_alive(&s->reg, &o))
        return 0;
    if (t->placed)
        return reveal_columns(s, t, who);
    struct pending_row *p;
    int err = pending_set(s, t, who, false, NULL, 0, NULL, &p);
    return err ? err : pending_store(s, p);
}

static int reveal_table(struct store *s, struct tbl *t) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", t->no);
    if (err)
        return err;
    while ((row = sql_step(q)) == 1) {
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = s->reg.who;
        who.text = t->shape == SHAPE_KEY;
        if (who.text) {
            who.key = sqlite3_column_blob(q, 0);
            who.key_len = (size_t)sqlite3_column_bytes(q, 0);
        } else {
            who.number = sqlite3_column_int64(q, 0);
        }
        if ((row = reveal_row(s, t, &who)))
            break;
    }
    sqlite3_finalize(q);
    return row;
}

int reveal(struct store *s) {
    bool began = false;
    int mapped = s->flights ? pending_map_flights(s) : 0;
    if (mapped)
        return mapped;
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        if (!t->io || (t->placed && !has_waiting_column(t)))
            continue;
        int err = 0;
        if (!began && !s->in_tx && (err = state_begin(s)))
            return err;
        began = true;
        if (t->rows && (err = reveal_table(s, t)))
            return err;
        t->placed = t->dirty = true;
        for (uint32_t c = 0; c < t->io->count; c++)
            if (!t->column_placed[t->io->numbers[c]]) {
                t->column_placed[t->io->numbers[c]] = true;
                if ((err = sql_exec(s->db, "UPDATE col SET placed=1 WHERE tbl=%u AND no=%u", t->no, t->io->numbers[c])))
                    return err;
            }
    }
    return 0;
}
