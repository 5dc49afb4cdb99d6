/* An older copy of the application's file in its place: a backup that somebody put back, or a file whose -wal is gone. Or another file, see
 * generation.c: one that the application made anew, or a database of another server.
 *
 * How we know: the mark in the file is behind a projection that we synced, or the note at our mark is gone (or another one), and not because
 * the ring of notes went round, which leaves only newer ones.
 *
 * What we do: nothing that others hold is lost or undone by it, and what is new in it is taken. Each row of the file is compared with its
 * register. What differs is either what the row had at some time, and the log knows it, since it has every batch that was ever
 * merged or made: then the row becomes pending, and the next projection shows the value of today. Or nobody knows it: then it is a write of
 * this application; in another file, a write by somebody who knew nothing of ours: it loses and is listed. Rows that the file lacks are shown
 * again; absence is never a deletion here.
 *
 * Notes that are younger than all that our state had seen were made after the file went back. They tell which rows were inserted or deleted in
 * it since then: those are left to the drain, which follows and begins with these notes.
 *
 * In rounds, so that memory stays bounded: rows of the file until ROUND_ROWS of them differ, then one pass over the log, then the verdict.
 * At last the registers, for what the file lacks. Until all of it is done the mark in the state is the old one: after a crash it begins
 * again, and what was settled before shows no difference any more. */
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/keyed.h"
#include "proto/err.h"

#define ROUND_ROWS 100000u
#define SLICE_ROWS 5000
#define SLICE_US 20000

enum phase { READ_FILE, READ_LOG, JUDGE, READ_REGISTERS };

/* A row with notes from after the file went back. */
struct touched {
    UT_hash_handle hh;
    bool died, born, given;
    double announced; /* `at` of the last NOTE_GIVEN */
    uint8_t name[];
};

struct difference {
    uint32_t at;          /* index into the table's order */
    bool known;           /* the row had this value at some time */
    uint64_t hash, means; /* of what the file shows; of today's number, where that is a number of another database's row */
};

/* A row of the file that is not as its register says. */
struct differing {
    UT_hash_handle hh;
    struct tio *io;
    struct rowid place; /* key points into name */
    uint32_t count;
    struct difference *columns;
    uint32_t name_len;
    uint8_t name[];
};

struct older {
    enum phase phase;
    uint32_t table; /* index in tios */
    struct row_cursor at;
    int64_t seen_ms; /* younger notes were made after the file went back */
    int64_t note_seq, note_nonce, notes_read;
    int64_t projection, mark_note; /* what the file's mark says */
    struct touched *touched;
    struct differing *rows;
    int64_t log_id;
    struct buf register_key; /* of the register that was read last; its number for numbered rows */
    int64_t register_number;
    bool register_began;
    uint64_t lacking, reverted, taken, listed;
    bool other; /* another file, in which nobody knew what ours held */
};

/* ---- did it go back? */

/* found: a mark of this state of ours; else its numbers are 0. */
static int file_mark(struct store *s, struct capture_mark *mark) {
    int err = capture_mark_read(s->app.reader, mark);
    if (!err && mark->found && memcmp(mark->state, s->state_id, sizeof mark->state) != 0)
        memset(mark, 0, sizeof *mark);
    return err;
}

/* Every trigger was missing, and there is no note at all: somebody dropped our note table. That alone is no older copy. */
static bool notes_dropped(const struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && s->tios[i].tbl->captured)
            return false;
    return true;
}

int older_find(struct store *s, bool *back) {
    int64_t nonce, oldest, there;
    struct capture_mark mark;
    *back = false;
    int err = file_mark(s, &mark);
    if (err)
        return err;
    if (s->hot.projected_seq > mark.projection) {
        *back = true;
        return 0;
    }
    if (!s->hot.note_seq)
        return 0;
    if ((err = sql_int(s->app.reader, 0, &there, "SELECT count(*) FROM main._starling_dirty WHERE seq=%lld", (long long)s->hot.note_seq)) ||
        (err = sql_int(s->app.reader, 0, &nonce, "SELECT nonce FROM main._starling_dirty WHERE seq=%lld", (long long)s->hot.note_seq)) ||
        (err = sql_int(s->app.reader, 0, &oldest, "SELECT min(seq) FROM main._starling_dirty")))
        return err;
    if (there)
        *back = nonce != s->hot.note_nonce;
    else
        *back = oldest ? oldest < s->hot.note_seq : !(mark.found && notes_dropped(s));
    return 0;
}

/* ---- notes from after the file went back */

static int place_name(struct buf *b, const struct tbl *t, const struct rowid *place) {
    struct rowid plain = {.kind = IDENT_GIVEN, .text = place->text, .number = place->number, .key = place->key, .key_len = place->key_len};
    buf_clear(b);
    return rowid_name(t, &plain, b);
}

static struct touched *touched_find(struct store *s, const struct older *o, const struct tbl *t, const struct rowid *place) {
    struct touched *n = NULL;
    if (o->touched && place_name(&s->key, t, place) == 0)
        HASH_FIND(hh, o->touched, s->key.data, s->key.len, n);
    return n;
}

static int touched_get(struct store *s, struct older *o, const struct tbl *t, const struct rowid *place, struct touched **out) {
    if ((*out = touched_find(s, o, t, place)))
        return 0;
    int err = place_name(&s->key, t, place);
    if (err || !(*out = calloc(1, sizeof **out + s->key.len)))
        return err ? err : ERR_NOMEM;
    memcpy((*out)->name, s->key.data, s->key.len);
    HASH_ADD(hh, o->touched, name, s->key.len, *out);
    return 0;
}

static int touch(struct store *s, struct older *o, sqlite3_stmt *q) {
    uint32_t number = (uint32_t)sqlite3_column_int64(q, 1);
    struct tio *io = number < s->by_trigger_count ? s->by_trigger[number] : NULL;
    int kind = sqlite3_column_int(q, 2);
    double at = sqlite3_column_double(q, 3);
    if (!io || kind == NOTE_UPDATE)
        return 0;
    struct value key[16];
    for (uint32_t i = 0; i < io->table->key_count; i++) {
        sql_column_value(q, (int)(5 + i), &key[i]);
        if (key[i].type == VALUE_NULL)
            return 0;
    }
    struct rowid place = {.text = io->table->key_kind == KEY_COLUMNS, .number = key[0].as.i};
    uint8_t name[KEYLESS_KEY_BYTES];
    int err = place.text ? keyrefs_here(io, key, &s->key2) : 0;
    if (io->table->key_kind == KEY_ROWID) {
        if ((err = keyless_name(io, sqlite3_column_int64(q, 5), name)) != 1)
            return err;
        buf_clear(&s->key2);
        buf_append(&s->key2, name, sizeof name);
        err = s->key2.failed;
        place.text = true;
    }
    place.key = place.text ? s->key2.data : NULL;
    place.key_len = place.text ? s->key2.len : 0;
    struct touched *n;
    if (err || (err = touched_get(s, o, io->tbl, &place, &n)))
        return err;
    if (kind == NOTE_GIVEN) {
        n->announced = at;
    } else if (kind == NOTE_INSERT) {
        n->born = true;
        n->given = place.text || place.number == -1 || n->announced == at;
    } else {
        n->died = true;
        n->born = n->given = false;
    }
    return 0;
}

/* Those that came since the last look, in the snapshot at hand. */
static int read_notes(struct store *s, struct older *o) {
    sqlite3_stmt *q = s->a_notes[0];
    sqlite3_bind_int64(q, 1, o->notes_read);
    sqlite3_bind_int64(q, 2, -1);
    int row;
    while ((row = sql_step(q)) == 1) {
        o->notes_read = sqlite3_column_int64(q, 0);
        if ((row = touch(s, o, q)))
            break;
    }
    sqlite3_reset(q);
    return row;
}

/* The newest note that is not younger than all we had seen, or that the mark knows: the drain goes on behind it. In another file: the newest,
 * since what is noted there is another server's matter. */
static int find_mark(struct store *s, struct older *o) {
    sqlite3_stmt *q;
    int row = sql_prepare(s->app.reader, &q, "SELECT seq, nonce, at FROM main._starling_dirty ORDER BY seq DESC");
    while (!row && (row = sql_step(q)) == 1 && !o->other && sqlite3_column_int64(q, 0) > o->mark_note &&
           note_ms(sqlite3_column_double(q, 2)) > o->seen_ms)
        row = 0;
    if (row == 1) {
        o->note_seq = sqlite3_column_int64(q, 0);
        o->note_nonce = sqlite3_column_int64(q, 1);
    }
    o->notes_read = o->note_seq;
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

int older_new(struct store *s, struct older **out) {
    struct older *o = calloc(1, sizeof *o);
    struct capture_mark mark;
    *out = o;
    if (!o)
        return ERR_NOMEM;
    o->other = s->file == FILE_OTHER;
    row_cursor_init(&o->at);
    buf_init(&o->register_key, 256u << 20);
    o->seen_ms = (int64_t)hlc_ms(s->clock.last);
    if (s->hot.shown_ms > o->seen_ms)
        o->seen_ms = s->hot.shown_ms;
    int err = file_mark(s, &mark);
    o->projection = mark.projection;
    o->mark_note = mark.note;
    if (!err)
        err = state_begin(s);
    for (uint32_t i = 0; i < s->tios_count && !err; i++)
        if (s->tios[i].tbl && s->tios[i].table->key_kind == KEY_ROWID)
            err = keyless_find_again(s, &s->tios[i], o->other);
    return err ? err : find_mark(s, o);
}

static void forget_rows(struct older *o) {
    struct differing *d, *next;
    HASH_ITER(hh, o->rows, d, next) {
        HASH_DEL(o->rows, d);
        free(d->columns);
        free(d);
    }
}

void older_free(struct older *o) {
    if (!o)
        return;
    struct touched *n, *next;
    HASH_ITER(hh, o->touched, n, next) {
        HASH_DEL(o->touched, n);
        free(n);
    }
    forget_rows(o);
    row_cursor_release(&o->at);
    buf_release(&o->register_key);
    free(o);
}

/* ---- what the file shows, said anew */

static int say(struct store *s, struct tbl *t, const struct rowid *who, bool present, const struct shown_cell *cells, uint32_t count) {
    struct pending_row *p;
    int err = pending_set(s, t, who, present, cells, count, NULL, &p);
    return err ? err : pending_store(s, p);
}

/* ---- rows of the file */

static int differing_add(struct store *s, struct older *o, const struct row_look *look, const struct difference *columns, uint32_t count) {
    int err = place_name(&s->key, look->io->tbl, &look->place);
    struct differing *d = err ? NULL : calloc(1, sizeof *d + s->key.len);
    if (!d || !(d->columns = malloc((count + 1) * sizeof *d->columns))) {
        free(d);
        return err ? err : ERR_NOMEM;
    }
    memcpy(d->name, s->key.data, s->key.len);
    d->name_len = (uint32_t)s->key.len;
    d->io = look->io;
    d->count = count;
    if (count)
        memcpy(d->columns, columns, count * sizeof *columns);
    const uint8_t *at = d->name + 4;
    if ((err = rowid_unpack(&d->place, &at, d->name + d->name_len))) {
        free(d->columns);
        free(d);
        return err;
    }
    HASH_ADD(hh, o->rows, name, d->name_len, d);
    return 0;
}

/* The columns of a row in the file that are not the register's; `same`: and all is as we knew it. */
static int compare_columns(struct store *s, const struct row_look *look, const struct pending_row *p, bool alive, struct difference *out,
                           uint32_t *count, bool *same) {
    struct origins_order order = store_order(s);
    struct tio *io = look->io;
    *count = 0;
    *same = p ? p->present : alive;
    for (uint32_t i = 0; i < io->count; i++) {
        uint64_t hash = value_hash(&look->values[i]), now, shown;
        struct value today = look->values[i];
        const struct cell *c = reg_winner(&s->reg, io->numbers[i], &order);
        bool overridden = p && p->present && pending_shown(p, io->numbers[i], &shown);
        int err = pending_content(s, NULL, 0, c, io, i, &now);
        if (err || (err = afar_today(s, io, i, &today)) ||
            (err = pending_content(s, overridden ? p : NULL, io->numbers[i], c, io, i, &shown)))
            return err;
        if (hash != shown)
            *same = false;
        uint64_t means = value_hash(&today);
        if (means != hash)
            *same = false;
        if (!alive || hash != now || means != now)
            out[(*count)++] =
                (struct difference){.at = i,
                                    .hash = hash,
                                    .means = means,
                                    .known = (overridden && shown == hash) || (c && means == now && (!alive || means != hash))};
    }
    return 0;
}

/* In another file a new row was written by somebody who knew nothing of ours: it is adopted, as by a server that joins, and beats nobody. But if the row
 * of that content is known, under another number, this is one more. */
static int adopt_new(struct store *s, struct row_look *look) {
    uint64_t hashes[BATCH_COLUMNS_MAX];
    struct rowid who;
    bool home;
    look->ms = LOOK_OTHER;
    if (look->place.text)
        return 0;
    for (uint32_t i = 0; i < look->io->count; i++)
        hashes[i] = value_hash(&look->values[i]);
    drain_new_identity(s, look, hashes, &who);
    int err = rows_find(s, look->io->tbl, &who, &s->reg, &home);
    if (!err && reg_known(&s->reg))
        look->ms = LOOK_FOUND;
    return err;
}

static int take_new(struct store *s, struct older *o, struct row_look *look) {
    int err = o->other ? adopt_new(s, look) : 0;
    o->taken++;
    return err ? err : drain_row(s, look);
}

static int compare_row(struct store *s, struct older *o, struct row_look *look) {
    struct origins_order order = store_order(s);
    struct tbl *t = look->io->tbl;
    struct difference columns[BATCH_COLUMNS_MAX];
    struct touched *n = touched_find(s, o, t, &look->place);
    uint32_t count;
    bool same;
    if (n && n->died)
        return 0;
    int err = rows_at_home(s, t, &look->place, &s->reg);
    if (err)
        return err;
    if (!reg_known(&s->reg))
        return n && n->born ? 0 : take_new(s, o, look);
    bool alive = reg_alive(&s->reg, &order);
    struct rowid who = s->reg.who;
    if (n && n->born && !alive)
        return 0;
    if (n && n->born && !n->given) /* SQLite numbered another row as this one was: it is no version of it */
        return say(s, t, &who, false, NULL, 0);
    struct pending_row *p = pending_find(s, t, &who);
    if ((err = compare_columns(s, look, p, alive, columns, &count, &same)) || same)
        return err;
    return differing_add(s, o, look, columns, count);
}

static struct tio *table_at(struct store *s, struct older *o) {
    while (o->table < s->tios_count && !s->tios[o->table].tbl)
        o->table++;
    return o->table < s->tios_count ? &s->tios[o->table] : NULL;
}

static int read_file(struct store *s, struct older *o) {
    struct tio *io = table_at(s, o);
    int64_t began = store_mono_us();
    int row = 0, n = 0, err = io ? row_cursor_open(s, io, &o->at, SLICE_ROWS) : 0;
    while (io && !err && (row = sql_step(o->at.stmt)) == 1) {
        struct row_look look = {.ms = LOOK_FOUND};
        if (!(err = row_cursor_row(io, &o->at, &look)))
            err = compare_row(s, o, &look);
        free(look.values);
        if (++n % 64 == 0 && store_mono_us() - began > SLICE_US)
            break;
    }
    if (err || row < 0)
        return err ? err : row;
    sqlite3_finalize(o->at.stmt);
    o->at.stmt = NULL;
    if (io && row == 0 && n < SLICE_ROWS) {
        o->table++;
        row_cursor_rewind(&o->at);
    }
    if (HASH_COUNT(o->rows) >= ROUND_ROWS || (!table_at(s, o) && o->rows)) {
        o->phase = READ_LOG;
        o->log_id = INT64_MIN;
    } else if (!table_at(s, o)) {
        o->phase = READ_REGISTERS;
        o->table = 0;
    }
    return 0;
}

/* ---- the log: what did these cells have at some time? */

struct group_map { /* the columns of the group at hand, in our order */
    uint32_t group;
    struct tio *io;
    uint32_t at[BATCH_COLUMNS_MAX]; /* UINT32_MAX: not here */
};

static void map_group(struct store *s, const struct change *c, struct group_map *m) {
    m->group = c->group;
    m->io = NULL;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && strlen(s->tios[i].tbl->name) == c->table_len &&
            sqlite3_strnicmp(s->tios[i].tbl->name, c->table, (int)c->table_len) == 0)
            m->io = &s->tios[i];
    for (uint32_t i = 0; m->io && i < c->columns_count; i++) {
        m->at[i] = UINT32_MAX;
        for (uint32_t k = 0; k < m->io->count; k++)
            if (m->io->lens[k] == c->columns_len[i] && sqlite3_strnicmp(m->io->names[k], c->columns[i], (int)c->columns_len[i]) == 0)
                m->at[i] = k;
    }
}

static int mark_value(struct store *s, struct differing *d, uint32_t at, const struct value *v) {
    for (uint32_t i = 0; i < d->count; i++) {
        struct difference *x = &d->columns[i];
        if (x->at != at || x->known)
            continue;
        uint64_t hash = value_hash(v);
        int err = x->means != hash && tables_converts(d->io, at, v) ? tables_convert(s, d->io, at, v, &hash) : 0;
        if (err)
            return err;
        x->known = x->means == hash;
    }
    return 0;
}

/* A row that was inserted without a column had its default. */
static int mark_defaults(struct store *s, struct differing *d, const struct change *c, const struct group_map *m) {
    for (uint32_t i = 0; i < d->count; i++) {
        bool named = d->columns[i].known;
        for (uint32_t k = 0; k < c->columns_count && !named; k++)
            named = m->at[k] == d->columns[i].at;
        uint64_t hash;
        int err = named ? 0 : tables_default_hash(s, d->io, d->columns[i].at, &hash);
        if (err)
            return err;
        if (!named && hash == d->columns[i].means)
            d->columns[i].known = true;
    }
    return 0;
}

static int mark_change(struct store *s, struct older *o, const struct change *c, struct group_map *m) {
    struct differing *d;
    struct rowid who;
    if (c->group != m->group)
        map_group(s, c, m);
    if (!m->io || c->columns_count > BATCH_COLUMNS_MAX)
        return 0;
    int err = merge_rowid(s, c, &who);
    if (err || (err = place_name(&s->key, m->io->tbl, &who))) /* whoever had that number or key: the file shows no identities */
        return err;
    HASH_FIND(hh, o->rows, s->key.data, s->key.len, d);
    if (!d)
        return 0;
    for (uint32_t i = 0; i < c->columns_count && !err; i++)
        if (m->at[i] != UINT32_MAX) {
            struct value v = c->values[i];
            err = v.type == VALUE_REF ? refs_plain(s, &v) : 0;
            err = err ? err : mark_value(s, d, m->at[i], &v);
        }
    return err || c->kind != CHANGE_INSERT ? err : mark_defaults(s, d, c, m);
}

static int read_batch(struct store *s, struct older *o, struct batch_reader *reader, const void *data, size_t len) {
    struct group_map m = {.group = UINT32_MAX};
    struct change c;
    int row = batch_reader_open(reader, data, len);
    while (!row && (row = batch_reader_next(reader, &c)) == 1)
        row = mark_change(s, o, &c, &m);
    return row;
}

static int read_log(struct store *s, struct older *o) {
    int64_t began = store_mono_us();
    sqlite3_stmt *q = NULL;
    struct batch_reader *reader = batch_reader_new();
    int row = reader ? sql_prepare(s->db, &q, "SELECT id, b FROM log WHERE id > %lld ORDER BY id", (long long)o->log_id) : ERR_NOMEM;
    while (!row && (row = sql_step(q)) == 1) {
        o->log_id = sqlite3_column_int64(q, 0);
        row = read_batch(s, o, reader, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1));
        if (!row && store_mono_us() - began > SLICE_US) {
            row = 1;
            break;
        }
    }
    batch_reader_free(reader);
    sqlite3_finalize(q);
    if (row == 0)
        o->phase = JUDGE;
    return row < 0 ? row : 0;
}

/* ---- the verdict */

static int take_row(struct store *s, struct older *o, const struct differing *d) {
    struct row_look look = {.io = d->io, .place = d->place, .ms = LOOK_FOUND, .born = true, .given = d->place.text};
    int err = drain_look(s, &look, d->io->read);
    if (!err && look.present) /* else it was deleted meanwhile, and a note says so */
        err = take_new(s, o, &look);
    sqlite3_reset(d->io->read);
    return err;
}

/* In another file: what we do not know loses, and is on the list of conflicts. */
static int list_row(struct store *s, struct older *o, const struct differing *d) {
    struct shown_cell cells[BATCH_COLUMNS_MAX];
    uint32_t unknown[BATCH_COLUMNS_MAX], count = 0;
    struct row_look look = {.io = d->io, .place = d->place};
    int err = drain_look(s, &look, d->io->read);
    if (!err && look.present) { /* else it was deleted meanwhile, and a note says so */
        for (uint32_t i = 0; i < d->count; i++) {
            cells[i] = (struct shown_cell){d->io->numbers[d->columns[i].at], value_hash(&look.values[d->columns[i].at])};
            if (!d->columns[i].known)
                unknown[count++] = d->columns[i].at;
        }
        o->listed++;
        err = rows_at_home(s, d->io->tbl, &d->place, &s->reg);
        struct rowid who = s->reg.who;
        if (!err && !(err = say(s, d->io->tbl, &who, true, cells, d->count)))
            err = drain_lose(s, &look, unknown, count);
    }
    sqlite3_reset(d->io->read);
    return err;
}

static int judge_row(struct store *s, struct older *o, const struct differing *d) {
    struct origins_order order = store_order(s);
    struct tbl *t = d->io->tbl;
    struct shown_cell cells[BATCH_COLUMNS_MAX];
    uint32_t known = 0;
    int err = rows_at_home(s, t, &d->place, &s->reg);
    if (err)
        return err;
    struct rowid who = s->reg.who;
    bool alive = reg_alive(&s->reg, &order);
    for (uint32_t i = 0; i < d->count; i++)
        if (d->columns[i].known)
            cells[known++] = (struct shown_cell){d->io->numbers[d->columns[i].at], d->columns[i].hash};
    if (known == d->count) {
        o->reverted++;
        return say(s, t, &who, true, cells, known);
    }
    if (o->other)
        return list_row(s, o, d);
    if (alive && (known || pending_find(s, t, &who))) {
        o->reverted += known != 0;
        err = say(s, t, &who, true, cells, known);
    } else if (!alive && pending_find(s, t, &who)) {
        err = say(s, t, &who, false, NULL, 0);
    }
    return err ? err : take_row(s, o, d);
}

static int judge(struct store *s, struct older *o) {
    struct differing *d, *next;
    uint32_t n = 0;
    HASH_ITER(hh, o->rows, d, next) {
        if (n++ == SLICE_ROWS)
            return 0;
        int err = judge_row(s, o, d);
        if (err)
            return err;
        HASH_DEL(o->rows, d);
        free(d->columns);
        free(d);
    }
    o->phase = table_at(s, o) ? READ_FILE : READ_REGISTERS;
    if (o->phase == READ_REGISTERS)
        o->table = 0;
    return 0;
}

/* ---- what the file lacks */

static int missing_row(struct store *s, struct older *o, struct tio *io, sqlite3_stmt *q) {
    struct origins_order order = store_order(s);
    int err = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1));
    struct rowid who = s->reg.who;
    who.text = tbl_is_text(io->tbl);
    who.number = who.text ? 0 : s->reg.away ? who.number : o->register_number;
    who.key = who.text ? o->register_key.data : NULL;
    who.key_len = who.text ? o->register_key.len : 0;
    struct touched *n = touched_find(s, o, io->tbl, &who);
    struct pending_row *p = pending_find(s, io->tbl, &who);
    if (err || !(p ? p->present : reg_alive(&s->reg, &order)) || (n && n->died))
        return err;
    struct row_look look = {.io = io, .place = who};
    err = drain_look(s, &look, io->read);
    sqlite3_reset(io->read);
    if (err || look.present)
        return err;
    o->lacking++;
    return say(s, io->tbl, &who, false, NULL, 0);
}

static int read_registers(struct store *s, struct older *o, struct tio *io) {
    sqlite3_stmt *q;
    int64_t began = store_mono_us();
    int n = 0, row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u%s ORDER BY k", io->tbl->no, o->register_began ? " WHERE k > ?" : "");
    if (row)
        return row;
    bool text = tbl_is_text(io->tbl);
    if (o->register_began && text)
        sqlite3_bind_blob64(q, 1, o->register_key.len ? (const void *)o->register_key.data : "", o->register_key.len, SQLITE_TRANSIENT);
    else if (o->register_began)
        sqlite3_bind_int64(q, 1, o->register_number);
    while ((row = sql_step(q)) == 1) {
        o->register_began = true;
        buf_clear(&o->register_key);
        if (text)
            buf_append(&o->register_key, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
        else
            o->register_number = sqlite3_column_int64(q, 0);
        if ((row = o->register_key.failed) || (row = missing_row(s, o, io, q)))
            break;
        if (++n % 64 == 0 && store_mono_us() - began > SLICE_US) {
            row = 1;
            break;
        }
    }
    sqlite3_finalize(q);
    if (row == 0) {
        o->table++;
        o->register_began = false;
    }
    return row < 0 ? row : 0;
}

/* ---- the end */

/* Tables and columns that an older file does not have yet: what waits for them is shown when the application makes them again. */
static int unplace(struct store *s, struct tbl *t) {
    if (!t->io) {
        t->dirty |= t->placed != 0;
        t->placed = 0;
    }
    for (uint32_t c = 0; c < t->columns_count; c++)
        if (!t->io || c >= t->io->by_number_count || !t->io->by_number[c]) {
            int err = state_place_column(s, t, c, COLUMN_NEVER);
            if (err)
                return err;
        }
    return 0;
}

static int finish(struct store *s, struct older *o) {
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        int err = unplace(s, t);
        if (!err && t->io)
            err = moves_place(s, t->io);
        if (err || (t->io && (err = tables_count_nulls(s, t->io))))
            return err;
        if (t->io) {
            t->captured = t->dirty = true;
            t->itself = false;
            t->lost = t->replacing = 0;
        }
    }
    s->hot.note_seq = o->note_seq;
    s->hot.note_nonce = o->note_nonce;
    s->hot.projected_seq = o->projection;
    s->durable_note = o->note_seq < s->durable_note ? o->note_seq : s->durable_note;
    s->head_known = false;
    s->stored_changed = true;
    int err = generation_done(s);
    if (err)
        return err;
    if (o->other)
        store_log(
            s, LOG_WARNING,
            "%s: another file stands in the place of the one that this node knew: %llu rows that it lacked and %llu that were as they "
            "had been before are shown again as they are on the other servers; %llu rows were new in it and are kept; %llu differed "
            "and are on the list of conflicts",
            s->config.db, (unsigned long long)o->lacking, (unsigned long long)o->reverted, (unsigned long long)o->taken,
            (unsigned long long)o->listed);
    else
        store_log(s, LOG_WARNING,
                  "%s: the file is an older copy than the one that this node knew: %llu rows that it lacked and %llu that were as they had "
                  "been before are shown again as they are"
                  " on the other servers; %llu rows were new in it and are kept",
                  s->config.db, (unsigned long long)o->lacking, (unsigned long long)o->reverted, (unsigned long long)o->taken);
    return 1;
}

static int work(struct store *s, struct older *o) {
    switch (o->phase) {
    case READ_FILE: return read_file(s, o);
    case READ_LOG: return read_log(s, o);
    case JUDGE: return judge(s, o);
    case READ_REGISTERS: {
        struct tio *io = table_at(s, o);
        return io ? read_registers(s, o, io) : finish(s, o);
    }
    }
    return ERR_INTERNAL;
}

int older_step(struct store *s, struct older *o) {
    int err = sql_run(s->a_begin);
    if (err)
        return err;
    int row = sql_step(s->a_version[0]);
    bool same = row == 1 && sqlite3_column_int64(s->a_version[0], 0) == s->schema.version;
    sqlite3_reset(s->a_version[0]);
    err = row < 0 ? row : same ? 0 : ERR_SCHEMA;
    if (!err && !(err = state_begin(s)) && !(s->flights && (err = pending_map_flights(s))) &&
        !(err = drain_begin_changes(s, o->other ? 0 : store_wall_ms(s))) && !(err = read_notes(s, o)))
        err = work(s, o);
    sql_run(s->a_end);
    if (err < 0)
        return err;
    int failed = appfile_sync(&s->app, s->app.reader);
    if (!failed)
        failed = drain_seal(s, false);
    return failed ? failed : err;
}
