/* What a change of the application's schema means for its rows. The schema itself replicates by names only, so a migration that runs on
 * one server first is followed from what can be seen: names, places of columns, and the numbers in our triggers.
 *
 *   ADD COLUMN     it is its default until written; what others know of it becomes pending, and is shown
 *   DROP COLUMN    its values stay in the registers, and are relayed
 *   RENAME COLUMN  our triggers stay, a name goes and another comes in its place: the table is read again, and what was carried over is
 *                  written under the new name with the time that it had under the old one. So the order in which servers migrate does not matter.
 *   a new table    is read whole; rows that others know keep their value where it is newer; those that the file lacks are shown
 *   RENAME TO      our triggers go along with their number: the rows keep their identity and their time
 *   DROP TABLE     no deletion: its rows stay in the registers, and are shown when it is created again
 *   a rebuild      (create, copy, drop, rename) leaves no triggers, or those of another table: it is read again, see scan.c; with a key of
 *                  another kind it is another table, and its rows come along as they do with RENAME TO: rekeyed.c
 *
 * A migration is many statements, often many commits, and what lies between two of them (`_alembic_tmp_x`, a table that is half copied, a
 * column before its backfill) must not be taken for what the application means. So new tables are not taken up, and nothing is read again or
 * shown, before the schema has been quiet for MIGRATION_QUIET_MS. Notes go on being drained meanwhile. After a RENAME nothing is merged either:
 * what comes under the old name cannot be shown, and its register is to say what the file held when it was renamed. */
#include <stdlib.h>
#include <string.h>

#include "node/store/first_name.h"
#include "node/store/keyed.h"
#include "proto/err.h"

#define MIGRATION_QUIET_MS 2000
#define MIGRATION_MS_MAX 30000 /* an application that never stops changing its schema is taken as it is then */

static bool replicated(const struct table *t) { return t && !t->unsupported && !t->excluded; }

/* ---- tables */

bool moves_is_new(const struct store *s, const struct table *t) {
    const struct tbl *known = state_find_table(s, t->name, strlen(t->name), state_shape_of_table(t));
    return !known || known->placed <= 0;
}

bool moves_gone(const struct store *s, const struct tbl *t) { return t->placed < 0 && !s->held_since_ms && !s->scan; }

bool moves_hold(const struct store *s) {
    int64_t now = store_mono_us() / 1000;
    return s->held_since_ms && !s->hold_over && now - s->schema_changed_ms < (s->held_long ? MIGRATION_MS_MAX : MIGRATION_QUIET_MS) &&
           now - s->held_since_ms < MIGRATION_MS_MAX;
}

uint32_t moves_numbers(const struct store *s) {
    int64_t top = s->numbers;
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        int64_t number = s->tbls[i]->placed;
        number = number == TABLE_GONE ? 0 : number < 0 ? -number : number;
        top = number > top ? number : top;
    }
    return (uint32_t)top;
}

static void hold(struct store *s, bool project) {
    if (s->hold_over)
        return;
    if (!s->held_since_ms)
        s->held_since_ms = store_mono_us() / 1000;
    s->held_project |= project;
    s->stored_changed = true;
}

static bool has_number(const struct store *s, int64_t number) {
    for (uint32_t i = 0; i < s->schema.count; i++)
        if (replicated(&s->schema.tables[i]) && s->schema.tables[i].number == (uint64_t)number)
            return true;
    return false;
}

/* Its rows are read again: older notes of it say no more than that. */
static int read_again(struct store *s, struct tbl *t) {
    t->captured = t->itself = false;
    t->dirty = true;
    return sql_int(s->app.reader, 0, &t->scanned_seq, "SELECT max(seq) FROM main._starling_dirty");
}

/* One table that was here: gone, renamed, rebuilt, or still itself. */
static int judge_table(struct store *s, struct tbl *t) {
    int err = 0;
    int64_t had = t->placed > 0 ? t->placed : t->placed == TABLE_GONE ? 0 : -t->placed; /* the number of its triggers; nobody's is 0 */
    const struct table *named = schema_find(&s->schema, t->name, strlen(t->name)),
                       *now = replicated(named) && state_shape_of_table(named) == t->shape ? named : NULL;
    if (t->placed > 0 && (!now || (now->number != (uint64_t)had && has_number(s, had)))) {
        t->placed = -had;
        t->captured = t->itself = false;
        t->dropped_now = t->dirty = true;
        hold(s, false);
        s->held_merge |= has_number(s, had) || (!now && replicated(named) && !s->hold_over);
    } else if (now && (t->placed > 0 ? now->number != (uint64_t)had : t->placed < 0 && t->dropped_now && !has_number(s, had))) {
        t->was = had; /* other triggers: another table under this name, whether it was seen to be missing for a moment or not */
        t->placed = now->number;
        t->remade = true;
        err = read_again(s, t);
    }
    if (t->placed > 0 && !t->captured)
        hold(s, true);
    s->held_long |= t->placed < 0 && replicated(named) && has_number(s, had);
    return err;
}

int moves_tables(struct store *s) {
    int err = state_begin(s);
    s->held_long = false;
    for (uint32_t i = 0; i < s->tbls_count && s->hold_over; i++)
        s->tbls[i]->dropped_now = false;
    bool missing = false;
    for (uint32_t i = 0; i < s->tbls_count && !err; i++) {
        err = judge_table(s, s->tbls[i]);
        missing |= s->tbls[i]->dropped_now && s->tbls[i]->placed < 0;
    }
    for (uint32_t i = 0; i < s->schema.count && !err; i++)
        if (replicated(&s->schema.tables[i]) && moves_is_new(s, &s->schema.tables[i])) {
            hold(s, rebuilt_begun(s, &s->schema.tables[i]));
            s->held_merge |= missing && !s->hold_over; /* which may come back as what this one is now */
        }
    return err;
}

/* The table that had these triggers before: it was renamed. */
static struct tbl *renamed_from(const struct store *s, const struct tio *io) {
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (s->tbls[i] != io->tbl && s->tbls[i]->placed == -(int64_t)io->table->number && s->tbls[i]->shape == io->tbl->shape)
            return s->tbls[i];
    return NULL;
}

static int note_columns(struct store *s, struct tbl *t) {
    int err = 0;
    for (uint32_t c = 0; c < t->columns_count && !err; c++)
        err = state_place_column(s, t, c, t->moves[c].placed);
    return err;
}

static int remember_moved(struct store *s, struct tbl *t) {
    uint64_t *p = realloc(t->moved, (s->origins_count + 1) * sizeof *p);
    if (!p)
        return ERR_NOMEM;
    t->moved = p;
    t->moved_count = s->origins_count;
    for (uint32_t i = 0; i < s->origins_count; i++)
        p[i] = s->origins[i].version + (i == s->own);
    return 0;
}

int moves_place(struct store *s, struct tio *io) {
    struct tbl *t = io->tbl;
    int named = t->renamed_from && !io->rekeyed ? first_name_renamed(s, t, t->renamed_from) : 0;
    if (named)
        return named;
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *old = s->tbls[i];
        bool left = old->placed == -(int64_t)io->table->number || old == t->renamed_from;
        if (left && !old->io) { /* else another table has its name by now, and finds a place of its own */
            old->placed = TABLE_GONE;
            old->dirty = true;
        }
    }
    t->renamed_from = NULL;
    rekeyed_unload(io);
    t->placed = io->table->number;
    t->captured = t->dirty = true;
    t->remade = t->itself = false;
    t->left = 0;
    bool any = false;
    for (uint32_t c = 0; c < t->columns_count; c++) {
        any = any || t->moves[c].from;
        t->moves[c].came = t->moves[c].from ? t->moves[c].from : t->moves[c].came;
        t->moves[c].from = 0;
    }
    for (uint32_t i = 0; i < io->count; i++)
        t->moves[io->numbers[i]].placed = (int32_t)io->order[i] + 1;
    int err = any ? remember_moved(s, t) : 0;
    return err ? err : note_columns(s, t);
}

/* ---- columns */

struct place {
    int32_t at;
    uint32_t column;
};

static int by_place(const void *a, const void *b) {
    int32_t x = ((const struct place *)a)->at, y = ((const struct place *)b)->at;
    return x < y ? -1 : x > y;
}

struct sequence {
    struct place *list;
    uint32_t count;
};

static bool is_here(const struct tio *io, uint32_t column) { return column < io->by_number_count && io->by_number[column]; }

/* The columns that the table had, in the order that they had; and those that it has. */
static int sequences(const struct tio *io, struct sequence *was, struct sequence *now) {
    const struct tbl *t = io->tbl;
    memset(was, 0, sizeof *was);
    memset(now, 0, sizeof *now);
    was->list = malloc((t->columns_count + 1) * sizeof *was->list);
    now->list = malloc((io->count + 1) * sizeof *now->list);
    if (!was->list || !now->list)
        return ERR_NOMEM;
    for (uint32_t c = 0; c < t->columns_count; c++)
        if (t->moves[c].placed > 0)
            was->list[was->count++] = (struct place){t->moves[c].placed, c};
    for (uint32_t i = 0; i < io->count; i++)
        now->list[now->count++] = (struct place){(int32_t)io->order[i], io->numbers[i]};
    qsort(was->list, was->count, sizeof *was->list, by_place);
    qsort(now->list, now->count, sizeof *now->list, by_place);
    return 0;
}

/* A column that went behind others was dropped and added again: it begins with its default. */
static int find_moved(struct store *s, struct tio *io, const struct sequence *now) {
    struct tbl *t = io->tbl;
    int32_t last = 0;
    int err = 0;
    for (uint32_t i = 0; i < now->count && !err; i++) {
        int32_t was = t->moves[now->list[i].column].placed;
        if (was > 0 && was < last)
            err = state_place_column(s, t, now->list[i].column, COLUMN_GONE);
        last = was > last ? was : last;
    }
    return err;
}

/* A name that went and one that came in its place: RENAME COLUMN. (Or a drop of the last column and another one added: reading the rows
 * tells, since they then show its default.) */
static bool pair_columns(struct tio *io, const struct sequence *was, const struct sequence *now) {
    struct tbl *t = io->tbl;
    bool any = false;
    for (uint32_t i = 0, k = 0; i < was->count && k < now->count;) {
        uint32_t old = was->list[i].column, new = now->list[k].column;
        bool came = t->moves[new].placed <= 0;
        /* one that came just now and was not read yet holds its default, and what others know of it was never shown */
        bool empty = !t->captured && t->moves[old].fresh && !t->moves[old].from;
        if (!is_here(io, old) || t->moves[old].placed <= 0) {
            if (came && !is_here(io, old) && !empty) { /* perhaps it was renamed before, and is not read yet */
                t->moves[new].from = t->moves[old].from ? t->moves[old].from : old + 1;
                any = true;
                k++;
            }
            i++;
        } else if (came) {
            k++;
        } else {
            i++;
            k++;
        }
    }
    return any;
}

/* In a table that was made anew: those hold that hold the same. */
static int check_pairs(struct store *s, struct tio *io, const struct sequence *now, bool *any) {
    struct tbl *t = io->tbl;
    int err = 0;
    *any = false;
    for (uint32_t i = 0; i < now->count && !err; i++) {
        uint32_t column = now->list[i].column;
        bool same = false;
        if (t->moves[column].placed > 0 || !t->moves[column].from)
            continue;
        err = rebuilt_same(s, io, t->moves[column].from - 1, column, true, &same);
        if (!same)
            t->moves[column].from = 0;
        *any |= same;
    }
    return err;
}

static bool is_origin(const struct tbl *t, uint32_t from) {
    for (uint32_t c = 0; c < t->columns_count; c++)
        if (t->moves[c].from == from)
            return true;
    return false;
}

/* The same of columns that stand in another place, too: some tools put those that they change behind the others. */
static int find_pairs(struct store *s, struct tio *io, const struct sequence *was, const struct sequence *now, bool *any) {
    struct tbl *t = io->tbl;
    int err = 0;
    for (uint32_t k = 0; k < was->count && !err; k++) {
        uint32_t old = was->list[k].column, from = t->moves[old].from ? t->moves[old].from : old + 1;
        bool same = is_here(io, old) || (t->moves[old].fresh && !t->moves[old].from) || is_origin(t, from);
        for (uint32_t i = 0; i < now->count && !err && !same; i++) {
            struct column_move *m = &t->moves[now->list[i].column];
            if (m->placed > 0 || m->from)
                continue;
            err = rebuilt_same(s, io, from - 1, now->list[i].column, false, &same);
            if (same)
                m->from = from;
            *any |= same;
        }
    }
    return err;
}

static int columns_of(struct store *s, struct tio *io, const struct sequence *was, const struct sequence *now, bool *came, bool *renamed) {
    struct tbl *t = io->tbl;
    bool kept = t->captured; /* else it is read again */
    /* A rebuild: the places alone say nothing. (Of a table without a key each change of the schema lets the rows be read again.) */
    bool made = !kept && !t->itself && (io->table->key_kind != KEY_ROWID || t->remade);
    int err = made ? 0 : find_moved(s, io, now);
    *came = false;
    *renamed = !err && pair_columns(io, was, now);
    if (*renamed && made)
        err = check_pairs(s, io, now, renamed);
    if (!err && made)
        err = find_pairs(s, io, was, now, renamed);
    for (uint32_t i = 0; i < was->count && !err; i++)
        if (!is_here(io, was->list[i].column))
            t->moves[was->list[i].column].placed = COLUMN_GONE;
    for (uint32_t i = 0; i < io->count && !err; i++) {
        struct column_move *m = &t->moves[io->numbers[i]];
        m->fresh |= m->placed <= 0;
        m->filled = 0;
        *came |= m->placed <= 0;
        m->placed = (int32_t)io->order[i] + 1;
    }
    return err || !kept || *renamed ? err : note_columns(s, t); /* else once it was read: a restart begins that anew */
}

/* The row shows a fresh column's default. */
static int reveal_row(struct store *s, struct tbl *t, const struct rowid *who) {
    struct origins_order o = store_order(s);
    struct shown_cell cells[BATCH_COLUMNS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->io->count; i++) {
        uint32_t column = t->io->numbers[i];
        const struct cell *c = t->moves[column].fresh && !t->moves[column].from ? reg_winner(&s->reg, column, &o) : NULL;
        uint64_t hash;
        int err = c ? tables_default_hash(s, t->io, i, &hash) : 0;
        if (err)
            return err;
        if (c && c->hash != hash)
            cells[n++] = (struct shown_cell){column, hash};
    }
    if (!n)
        return 0;
    hold(s, true);
    struct pending_row *p = pending_find(s, t, who);
    if (p)
        return pending_touch(s, p, cells, n);
    int err = pending_set(s, t, who, true, cells, n, NULL, &p);
    return err ? err : pending_store(s, p);
}

static int reveal_columns(struct store *s, struct tbl *t) {
    struct origins_order o = store_order(s);
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", t->no);
    if (err)
        return err;
    while ((row = sql_step(q)) == 1) {
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = s->reg.who;
        who.text = tbl_is_text(t);
        if (who.text) {
            who.key = sqlite3_column_blob(q, 0);
            who.key_len = (size_t)sqlite3_column_bytes(q, 0);
        } else {
            who.number = s->reg.away ? who.number : sqlite3_column_int64(q, 0);
        }
        if (reg_alive(&s->reg, &o) && (row = reveal_row(s, t, &who)))
            break;
    }
    sqlite3_finalize(q);
    return row;
}

static int table_columns(struct store *s, struct tio *io) {
    struct tbl *t = io->tbl;
    struct sequence was, now;
    bool came = false, renamed = false;
    int err = sequences(io, &was, &now);
    if (!err)
        err = columns_of(s, io, &was, &now, &came, &renamed);
    free(was.list);
    free(now.list);
    if (!err && renamed) {
        t->itself |= t->captured;
        t->captured = false;
        t->dirty = s->held_merge = true;
        hold(s, true);
    }
    s->fresh |= came;
    return err || !came || !t->captured || !t->rows ? err : reveal_columns(s, t);
}

int moves_columns(struct store *s) {
    int err = s->flights ? pending_map_flights(s) : 0;
    bool began = !s->in_tx;
    if (!err)
        err = state_begin(s);
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        if (!io->tbl)
            continue;
        if (s->held_since_ms && io->table->key_kind == KEY_ROWID && !io->tbl->captured) /* VACUUM may have come, too */
            hold(s, true);
        if (io->tbl->placed > 0)
            err = table_columns(s, io);
        else if (!(io->tbl->renamed_from = renamed_from(s, io)))
            err = rekeyed_begin(s, io);
    }
    return err || !began ? err : state_commit(s);
}

void moves_shown(struct store *s) {
    bool left = false;
    for (uint32_t i = 0; s->fresh && i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        bool unread = t->io && !t->captured;
        left |= unread;
        for (uint32_t c = 0; c < t->columns_count && !unread; c++)
            t->moves[c].fresh = false;
    }
    s->fresh = left;
}

int moves_show_row(struct store *s, struct tbl *t, const struct rowid *who) {
    struct pending_row *p;
    int err = pending_set(s, t, who, false, NULL, 0, NULL, &p);
    return err ? err : pending_store(s, p);
}

void moves_note(struct store *s, uint32_t number, int left) {
    for (uint32_t i = 0; i < s->tbls_count && left; i++) {
        struct tbl *t = s->tbls[i];
        if (t->placed == -(int64_t)number || (t->remade && t->was == (int64_t)number))
            t->left += left;
    }
}
