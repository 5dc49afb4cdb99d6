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
#include "node/store/forward.h"
#include "node/store/carried.h"
#include "node/store/keyed.h"
#include "node/store/same.h"
#include "proto/err.h"

#define SLICE_ROWS 5000
#define SLICE_US 20000

struct scan {
    bool adopt;
    bool lacking;    /* rows that the file lacks are no deletions: the table is new here, was dropped in between, or is empty now */
    uint32_t *order; /* of the tables: indexes in tios */
    uint32_t table;  /* index in tios */
    bool seeking;    /* its rows were read, and now its registers are: for those that the file lacks */
    struct row_cursor at;
    struct older *older; /* the file went back: everything is up to it */
    uint64_t rows, read; /* of all tables, of this one */
    uint64_t gone;
    struct buf places; /* of these, as long as so many are believed */
};

/* ---- starting and ending */

bool scan_running(const struct store *s) { return s->scan != NULL; }

bool scan_adopts(const struct store *s) { return s->scan && (s->scan->adopt || (s->scan->older && s->file == FILE_OTHER)); }

static bool wanted(const struct tio *io) { return io->tbl && !io->tbl->captured; }

void scan_stop(struct store *s) {
    if (!s->scan)
        return;
    older_free(s->scan->older);
    free(s->scan->order);
    buf_release(&s->scan->places);
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
                s->tios[i].tbl->captured = s->tios[i].tbl->itself = false;
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
    buf_init(&s->scan->places, 256u << 20);
    if ((err = order_tables(s, s->scan)))
        return err;
    return back ? older_new(s, &s->scan->older) : 0;
}

static int take_row(struct store *s, struct tio *io) {
    struct row_look look = {.ms = s->scan->adopt ? LOOK_ADOPTED : LOOK_FOUND};
    bool first = !s->scan->at.began;
    int err = row_cursor_row(io, &s->scan->at, &look);
    if (!err)
        err = look.by_rowid ? keyless_note_row(s, &look, first) : s->scan->adopt ? drain_row(s, &look) : forward_row(s, &look);
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

static uint64_t believed(const struct tbl *t) { return t->rows / 10 > 20 ? (uint64_t)t->rows / 10 : 20; }

/* The register that the walk is at, in s->reg: its place and who lives there. The key is a copy, since taking the row changes the table that is being
 * read. 1: the file should show it; 0: it need not, or something waits to be shown there. */
static int walk_register(struct store *s, struct tio *io, sqlite3_stmt *q, struct rowid *place, struct rowid *who) {
    struct origins_order o = store_order(s);
    struct row_cursor *at = &s->scan->at;
    *place = (struct rowid){.text = tbl_is_text(io->tbl)};
    at->began = true;
    if (place->text) {
        buf_clear(&at->last);
        buf_append(&at->last, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
        if (at->last.failed)
            return at->last.failed;
        place->key = at->last.data;
        place->key_len = at->last.len;
    } else {
        place->number = at->last_number = sqlite3_column_int64(q, 0);
    }
    int err = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1));
    *who = s->reg.who;
    who->text = place->text;
    who->number = s->reg.away ? who->number : place->number;
    who->key = place->key;
    who->key_len = place->key_len;
    return err ? err : reg_alive(&s->reg, &o) && !pending_find(s, io->tbl, who);
}

/* All that the file lacks, at once: its table is new here, or a person said what these rows are. */
static int take_gone(struct store *s, struct tio *io) {
    struct rowid place, who;
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", io->tbl->no);
    while (!row && (row = sql_step(q)) == 1)
        if ((row = walk_register(s, io, q, &place, &who)) == 1)
            row = scan_gone_row(s, io, &place, &who);
    sqlite3_finalize(q);
    return row;
}

/* One slice of the registers: which of them does the file lack? */
static int look_for_gone(struct store *s, struct tio *io, int64_t began, bool *end) {
    struct scan *c = s->scan;
    struct rowid place, who;
    sqlite3_stmt *q;
    int n = 0, row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u %s ORDER BY k LIMIT %d", io->tbl->no, c->at.began ? "WHERE k>?" : "",
                                 SLICE_ROWS);
    if (!row && c->at.began) {
        buf_clear(&c->at.from);
        buf_append(&c->at.from, c->at.last.data, c->at.last.len);
        row = c->at.from.failed ? c->at.from.failed
              : tbl_is_text(io->tbl)
                  ? sqlite3_bind_blob64(q, 1, c->at.from.len ? (const void *)c->at.from.data : "", c->at.from.len, SQLITE_STATIC)
                  : sqlite3_bind_int64(q, 1, c->at.last_number);
    }
    while (!row && (row = sql_step(q)) == 1 && (++n % 64 != 0 || store_mono_us() - began <= SLICE_US)) {
        struct row_look look = {.io = io};
        if ((row = walk_register(s, io, q, &place, &who)) != 1)
            continue;
        look.place = place;
        row = drain_look(s, &look, io->read);
        sqlite3_reset(io->read);
        if (!row && !look.present && ++c->gone <= believed(io->tbl))
            row = rowid_pack(&place, &c->places);
    }
    sqlite3_finalize(q);
    *end = row == 0 && n < SLICE_ROWS;
    return row < 0 ? row : 0;
}

/* So many rows are gone without a note: too many to be believed? Then it is said, and nothing is deleted. */
bool scan_too_many(struct store *s, struct tbl *t, uint64_t gone) {
    if (gone <= believed(t))
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

/* How many rows the file should have, by the registers and what waits to be shown. */
int scan_expected(struct store *s, struct tio *io, int64_t *should) {
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
    return 0;
}

static int judge_lacking(struct store *s, struct tio *io, int64_t *should) {
    int64_t any = 0;
    int err = sql_int(s->app.reader, 0, &any, "SELECT EXISTS (SELECT 1 FROM main.\"%w\")", io->table->name);
    if (!err)
        err = scan_expected(s, io, should); /* of those that were merged meanwhile none was ever here */
    if (err)
        return err;
    s->scan->lacking =
        io->tbl->placed <= 0 || io->tbl->verdict == VERDICT_RESTORE ||
        (!any && io->tbl->remade && io->tbl->left < *should && io->tbl->verdict == VERDICT_NONE); /* else it was emptied before */
    return 0;
}

/* The rows of the table were read. Does the file lack others, which must be found? Each row that was read is a living row of the registers by now, and no
 * row was read twice: so if they are as many as there should be, they are these. (A row that fits in no batch is none of the registers.) */
static int find_gone(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    bool decided = io->tbl->verdict != VERDICT_NONE;
    int64_t should;
    int err = judge_lacking(s, io, &should);
    if (err)
        return err;
    if (!c->lacking && !decided) {
        c->seeking = s->too_large || should != (int64_t)c->read;
        io->tbl->lost = c->seeking ? io->tbl->lost : 0;
        s->stored_changed = true;
        row_cursor_rewind(&c->at);
        return 0;
    }
    io->tbl->lost = 0;
    err = take_gone(s, io);
    if (!err && c->lacking && !decided && io->tbl->placed > 0 && io->tbl->rows)
        store_log(s, LOG_INFO, "%s: \"%s\" was dropped and created again: its %lld rows are shown again", s->config.db, io->tbl->name,
                  (long long)io->tbl->rows);
    io->tbl->verdict = VERDICT_NONE;
    s->stored_changed = true;
    return err;
}

/* All slices were looked at. What the file has again by now is not gone. */
static int judge_gone(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    const uint8_t *at = c->places.data, *end = at + c->places.len;
    struct rowid place;
    int err = 0;
    s->stored_changed = true;
    if (scan_too_many(s, io->tbl, c->gone))
        return 0;
    io->tbl->lost = 0;
    while (!err && at < end)
        if (!(err = rowid_unpack(&place, &at, end)))
            err = scan_gone_row(s, io, &place, &place);
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

/* ---- steps */

static int finish(struct store *s) {
    bool adopt = s->scan->adopt;
    uint64_t rows = s->scan->rows;
    int err = generation_done(s);
    if (err)
        return err;
    scan_stop(s);
    if (adopt && !s->adopted_ms) {
        s->adopted_ms = store_wall_ms(s);
        if ((err = state_begin(s)) || (err = sql_exec(s->db, "INSERT INTO meta VALUES('adopted', %lld)", (long long)s->adopted_ms)))
            return err;
    }
    if (adopt && rows) {
        s->hot.base = s->recapture ? 0 : base_of(s->hot.digest_a); /* what was captured before is below what anybody has */
        s->base_due = !s->recapture;
        store_log(s, LOG_INFO, "%s: %llu rows captured", s->config.db, (unsigned long long)rows);
    }
    return 0;
}

/* All of its rows were read: what does the file lack of those that we know? */
static int rows_read(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    bool by_rowid = io->table->key_kind == KEY_ROWID, notes_hold = false;
    int64_t should;
    int err = io->tbl->renamed_from && (io->rekeyed || !by_rowid) ? carried_deaths(s, io) : 0;
    if (!err && by_rowid && !(err = judge_lacking(s, io, &should)))
        err = keyless_settle(s, io, c->adopt, !c->at.began, c->lacking, &notes_hold);
    else if (!err && !c->adopt)
        err = find_gone(s, io);
    if (!err && !notes_hold)
        err = sql_int(s->app.reader, 0, &io->tbl->scanned_seq, "SELECT max(seq) FROM main._starling_dirty");
    return err;
}

static int slice(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    int64_t began = store_mono_us();
    bool end = false;
    int err = 0, row = 0, n = 0;
    if (c->seeking) {
        if (!(err = look_for_gone(s, io, began, &end)) && end)
            err = judge_gone(s, io);
        c->seeking = !end;
    } else {
        err = row_cursor_open(s, io, &c->at, SLICE_ROWS);
        while (!err && (row = sql_step(c->at.stmt)) == 1) {
            err = take_row(s, io);
            c->rows++;
            c->read++;
            if (++n % 64 == 0 && store_mono_us() - began > SLICE_US)
                break;
        }
        if (!err && row < 0)
            err = row;
        end = !err && row == 0 && n < SLICE_ROWS;
        sqlite3_finalize(c->at.stmt);
        c->at.stmt = NULL;
        if (!err && end)
            err = rows_read(s, io);
    }
    if (!err && end && !c->seeking && !(err = tables_count_nulls(s, io))) {
        err = moves_place(s, io);
        io->tbl->captured = !io->tbl->lost; /* else read again with the next start, so that it stays said */
        c->table++;
        c->read = c->gone = 0;
        buf_clear(&c->places);
        row_cursor_rewind(&c->at);
    }
    return err;
}

int scan_step(struct store *s) {
    struct scan *c = s->scan;
    if (scan_adopts(s) && afar_awaited(s)) /* whom its numbers mean */
        return 0;
    int err = scan_adopts(s) ? afar_unheard(s) : 0;
    if (err)
        return err;
    if (c->older) {
        int done = older_step(s, c->older);
        if (done == 1)
            scan_stop(s);
        return done < 0 ? done : 0;
    }
    while (c->table < s->tios_count && !wanted(&s->tios[c->order[c->table]]))
        c->table++;
    if (c->table == s->tios_count)
        return finish(s);
    if ((err = sql_run(s->a_begin)))
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
