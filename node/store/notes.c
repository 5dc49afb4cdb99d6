/* Notes. The application's triggers append one for each row that a statement touches; a drain reads those beyond our mark and sorts them by row.
 * Only for identities their order counts: a delete and then an insert of a number are a death and a birth, and what refers to that number
 * means the row that had it when the note was made. */
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/notes.h"
#include "proto/err.h"

/* ---- reading notes */

/* 1: a key with NULL in it names no row. */
static int note_key(struct store *s, struct notes *n, struct note *note, sqlite3_stmt *q) {
    const struct table *t = note->io->table;
    if (t->key_kind != KEY_COLUMNS) {
        note->number = sqlite3_column_int64(q, 5);
        return 0;
    }
    struct value values[16];
    for (uint32_t i = 0; i < t->key_count; i++) {
        sql_column_value(q, (int)(5 + i), &values[i]);
        if (values[i].type == VALUE_NULL)
            return 1;
    }
    int err = tables_key_plain(note->io, values, &s->key2); /* refs in it become identities when all notes are known */
    if (err)
        return err;
    note->key_at = (uint32_t)n->keys.len;
    note->key_len = (uint32_t)s->key2.len;
    buf_append(&n->keys, s->key2.data, s->key2.len);
    return n->keys.failed;
}

static int note_add(struct store *s, struct notes *n, sqlite3_stmt *q) {
    uint32_t number = (uint32_t)sqlite3_column_int64(q, 1);
    n->last_seq = sqlite3_column_int64(q, 0);
    n->last_nonce = sqlite3_column_int64(q, 4);
    struct tio *io = number < s->by_trigger_count ? s->by_trigger[number] : NULL;
    /* a table that was dropped, or is not replicated any more; or its rowids may be others now, and all of it is read again */
    if (!io || (io->table->key_kind == KEY_ROWID && !io->tbl->captured && !io->tbl->lost)) {
        int kind = sqlite3_column_int(q, 2);
        moves_note(s, number, kind == NOTE_DELETE ? 1 : kind == NOTE_INSERT ? -1 : 0);
        return 0;
    }
    if (n->count == n->cap) {
        uint32_t cap = n->cap ? n->cap * 2 : 64;
        struct note *p = realloc(n->list, cap * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        n->list = p;
        n->cap = cap;
    }
    struct note *note = &n->list[n->count];
    memset(note, 0, sizeof *note);
    note->io = io;
    note->seq = n->last_seq;
    note->kind = (uint8_t)sqlite3_column_int(q, 2);
    note->at = sqlite3_column_double(q, 3);
    note->ms = note_ms(note->at);
    if (note->kind == NOTE_UPDATE && n->count > 0 && note[-1].kind == NOTE_MOVED && note[-1].seq + 1 == note->seq && note[-1].io == io)
        note->kind = NOTE_ARRIVED;
    if (note->ms < n->earliest_ms)
        n->earliest_ms = note->ms;
    if (note->kind != NOTE_GIVEN && note->kind != NOTE_DELETE) {
        io->tbl->replacing++;
        io->tbl->replacing_ms = note->ms;
    }
    int null = note_key(s, n, note, q);
    n->count += null == 0;
    io->tbl->nulls_changed |= null == 1;
    return null < 0 ? null : 0;
}

/* 1 the note at our mark is as we know it; 0 it is not: notes were lost, or another file is in this place. */
static int mark_holds(struct store *s, bool locked) {
    if (!s->hot.note_seq)
        return 1;
    sqlite3_stmt *q = s->a_nonce[locked];
    sqlite3_bind_int64(q, 1, s->hot.note_seq);
    int row = sql_step(q);
    if (row == 1 && sqlite3_column_int64(q, 0) != s->hot.note_nonce)
        row = 0;
    sqlite3_reset(q);
    return row;
}

int notes_read(struct store *s, struct notes *n, bool locked) {
    sqlite3_stmt *q = s->a_version[locked];
    int row = sql_step(q);
    if (row < 0)
        return row;
    bool same = row == 1 && sqlite3_column_int64(q, 0) == s->schema.version;
    sqlite3_reset(q);
    if (!same)
        return ERR_SCHEMA;
    if ((row = mark_holds(s, locked)) != 1)
        return row ? row : DRAIN_RESCAN;
    q = s->a_notes[locked];
    sqlite3_bind_int64(q, 1, s->hot.note_seq);
    sqlite3_bind_int64(q, 2, 2 * DRAIN_NOTES_MAX);
    uint32_t read = 0;
    int kind = 0;
    while ((row = sql_step(q)) == 1) {
        if (read++ >= DRAIN_NOTES_MAX && kind != NOTE_GIVEN && kind != NOTE_MOVED) { /* they belong to the note behind them */
            n->more = true;
            break;
        }
        kind = sqlite3_column_int(q, 2);
        if ((row = note_add(s, n, q)) < 0)
            break;
    }
    sqlite3_reset(q);
    return row < 0 ? row : 0;
}

/* ---- notes of one row together, in the order of the notes */

static int note_cmp(const void *x, const void *y, void *keys) {
    const struct note *a = x, *b = y;
    const uint8_t *sort_keys = keys;
    if (a->io != b->io && a->io->rank != b->io->rank)
        return a->io->rank < b->io->rank ? -1 : 1;
    if (a->io != b->io)
        return a->io < b->io ? -1 : 1;
    if (a->number != b->number)
        return a->number < b->number ? -1 : 1;
    if (a->key_len || b->key_len) {
        uint32_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
        int d = memcmp(sort_keys + a->key_at, sort_keys + b->key_at, n);
        if (d)
            return d;
        if (a->key_len != b->key_len)
            return a->key_len < b->key_len ? -1 : 1;
    }
    return a->seq < b->seq ? -1 : a->seq > b->seq;
}

bool notes_same_row(const struct notes *n, const struct note *a, const struct note *b) {
    return a->io == b->io && a->number == b->number && a->key_len == b->key_len &&
           (a->key_len == 0 || memcmp(n->keys.data + a->key_at, n->keys.data + b->key_at, a->key_len) == 0);
}

void notes_look(const struct notes *n, uint32_t from, uint32_t to, struct row_look *look) {
    const struct note *first = &n->list[from];
    memset(look, 0, sizeof *look);
    look->io = first->io;
    look->place.kind = IDENT_GIVEN;
    look->place.number = first->number;
    look->place.text = first->io->table->key_kind == KEY_COLUMNS;
    look->place.key = n->keys.data + first->key_at;
    look->place.key_len = first->key_len;
    look->rowid = first->number;
    look->by_rowid = first->io->table->key_kind == KEY_ROWID;
    bool given = look->place.text || first->io->table->without_rowid || first->number == -1; /* -1 is never announced */
    bool scanned = n->list[to - 1].seq <= first->io->tbl->scanned_seq;
    const struct note *announced =
        NULL; /* the key was given, if an INSERT by the same statement follows (it may be ignored, or an UPSERT) */
    for (uint32_t i = from; i < to; i++) {
        const struct note *note = &n->list[i], *next = i + 1 < to ? note + 1 : NULL;
        look->ms = note->ms;
        switch (note->kind) {
        case NOTE_GIVEN: announced = note; break;
        case NOTE_INSERT:
            /* a row that SQLite numbered just before, and that is inserted over itself, stays that one */
            look->given = (given || (announced && announced->at == note->at)) && (look->given || !look->born);
            look->born = true;
            look->again = look->given && !look->died;
            announced = NULL; /* another statement may come in the same millisecond */
            break;
        case NOTE_ARRIVED:
            look->born = look->given = true;
            look->again = false;
            break;
        case NOTE_DELETE:
            if (announced && announced->at == note->at && next && next->kind == NOTE_INSERT && next->at == note->at)
                break; /* REPLACE, with recursive_triggers */
            /* fall through */
        case NOTE_MOVED:
            look->died = true;
            look->born = look->given = look->again = false;
            break;
        default: break;
        }
    }
    /* Without a death before it: REPLACE has thrown out whoever had the number, and nothing told. */
    look->reborn = look->born && (look->died || (!look->again && !scanned));
    if (look->by_rowid && scanned) /* VACUUM may have come since, and it is another row */
        look->reborn = false;
    look->again = look->again && !look->reborn && !scanned && !look->by_rowid;
}

/* ---- whom a number means */

/* A key that was given: 1 it names the row; 0 it found a row under that number, which stays the one that it was (as drain_row() has it). */
static int over_itself(struct store *s, const struct tbl *t, const struct rowid *place) {
    struct origins_order o = store_order(s);
    int err = rows_at_home(s, t, place, &s->meant);
    if (err || !reg_known(&s->meant))
        return err ? err : 1;
    struct rowid who = s->meant.who;
    const struct pending_row *p = pending_find(s, t, &who);
    return !(p ? p->present : reg_alive(&s->meant, &o));
}

static int vacant(struct store *s, const struct tbl *t, uint32_t from, uint32_t to, int64_t number) {
    const struct rowid place = {.kind = IDENT_GIVEN, .number = number};
    struct origins_order o = store_order(s);
    struct row_look look;
    if (from < to) {
        notes_look(s->notes, from, to, &look);
        return look.died && !look.born;
    }
    int err = rows_at_home(s, t, &place, &s->meant);
    return err ? err : !reg_alive(&s->meant, &o);
}

/* ON UPDATE CASCADE is noted before the change that it follows: a key that comes under a number which nobody has means who comes there next. */
static int with_who_comes(struct store *s, const struct tbl *t, uint32_t from, uint32_t *to, int64_t number) {
    const struct notes *n = s->notes;
    int is = n->coming ? vacant(s, t, from, *to, number) : 0;
    for (uint32_t i = *to; is == 1 && i < n->count && n->list[i].io == t->io && n->list[i].number == number; i++)
        if (n->list[i].kind == NOTE_INSERT || n->list[i].kind == NOTE_ARRIVED) {
            *to = i + 1;
            break;
        }
    return is < 0 ? is : 0;
}

int drain_birth(struct store *s, const struct tbl *t, int64_t number, int64_t seq, struct rowid *who) {
    const struct notes *n = s->notes;
    if (!n || !t->io || t->shape != SHAPE_NUMBER)
        return 0;
    struct note key = {.io = t->io, .number = number, .seq = INT64_MIN};
    uint32_t from = 0, to = n->count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (note_cmp(&n->list[middle], &key, n->keys.data) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    for (to = from; to < n->count && n->list[to].io == t->io && n->list[to].number == number && n->list[to].seq <= seq;)
        to++;
    int err = with_who_comes(s, t, from, &to, number);
    if (err)
        return err;
    bool read = (t->captured || t->lost) && from < to && n->list[to - 1].seq <= t->scanned_seq; /* and not: is to be read from there on */
    if (from == to || from < s->notes_done || read) /* nothing was noted; or the registers know by now */
        return 0;
    struct row_look look;
    notes_look(n, from, to, &look);
    if (look.born && !look.given) {
        drain_new_identity(s, &look, NULL, who);
        return 1;
    }
    *who = look.place;
    return look.born && look.again ? over_itself(s, t, who) : look.born;
}

/* Does the statement that announced a key write a row of its own under it? (It may be ignored, or an UPSERT.) */
static bool is_insert(const struct notes *n, uint32_t i, uint32_t to) {
    const struct note *note = &n->list[i];
    bool replaces = i + 2 < to && note[1].kind == NOTE_DELETE && note[1].at == note->at; /* with recursive_triggers */
    return note->kind == NOTE_INSERT || note->kind == NOTE_ARRIVED ||
           (note->kind == NOTE_GIVEN && i + 1 < to && note[1 + replaces].kind == NOTE_INSERT && note[1 + replaces].at == note->at);
}

/* Those of one key: until it goes they are about the row that was there, and then about the one that came. */
static int key_to_identities(struct store *s, struct notes *n, uint32_t from, uint32_t to) {
    struct rowid raw = {.text = true, .key_len = n->list[from].key_len};
    uint32_t raw_at = n->list[from].key_at, key_at = 0, key_len = 0;
    bool there = false;
    for (uint32_t i = from; i < to; i++) {
        struct note *note = &n->list[i];
        bool insert = is_insert(n, i, to);
        n->coming = note->kind == NOTE_GIVEN || note->kind == NOTE_INSERT || note->kind == NOTE_ARRIVED ||
                    (i > from && note[-1].kind == NOTE_ARRIVED && note[-1].seq + 1 == note->seq);
        if (!there || insert) {
            struct value values[16];
            raw.key = n->keys.data + raw_at;
            int err = tables_key_values(&raw, values, 16);
            if (err >= 0)
                err = i > from || insert ? refs_key(s, note->io, values, note->seq, 0, &s->key2)
                                         : keyrefs_shown(s, note->io, values, note->seq, &s->key2);
            if (err < 0)
                return err;
            there = err == 1 || note->kind != NOTE_GIVEN;
            key_at = (uint32_t)n->keys.len;
            key_len = (uint32_t)s->key2.len;
            buf_append(&n->keys, s->key2.data, s->key2.len);
            if (n->keys.failed)
                return n->keys.failed;
        }
        note->key_at = key_at;
        note->key_len = key_len;
        there = there && note->kind != NOTE_MOVED && note->kind != NOTE_DELETE;
    }
    n->coming = false;
    return 0;
}

/* Keys of several columns that refer to numbered rows: each note means the row that had the number when it was made. */
static int keys_to_identities(struct store *s, struct notes *n, bool *any) {
    int err = 0;
    for (uint32_t i = 0, to; i < n->count && !err; i = to) {
        for (to = i + 1; to < n->count && notes_same_row(n, &n->list[i], &n->list[to]);)
            to++;
        if (!n->list[i].io->key_refs)
            continue;
        *any = true;
        err = key_to_identities(s, n, i, to);
    }
    return err;
}

int notes_sort(struct store *s, struct notes *n, bool locked) {
    bool sorted = true, again = false, more = false;
    for (uint32_t i = 1; i < n->count && sorted; i++)
        sorted = note_cmp(&n->list[i - 1], &n->list[i], n->keys.data) < 0;
    if (!sorted)
        qsort_r(n->list, n->count, sizeof *n->list, note_cmp, n->keys.data);
    s->notes = n;
    int err = rebuilt_note(s, n, locked, &more);
    if (more)
        qsort_r(n->list, n->count, sizeof *n->list, note_cmp, n->keys.data);
    if (!err)
        err = keys_to_identities(s, n, &again);
    if (again)
        qsort_r(n->list, n->count, sizeof *n->list, note_cmp, n->keys.data);
    return err;
}
