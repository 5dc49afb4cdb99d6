/* Rows without notes: the first capture of a database, and rescans of tables whose triggers were missing for a while. The table is read
 * in slices of at most 5,000 rows and 20 ms, each a read transaction of its own, since a long one makes the application's WAL grow.
 * What changes meanwhile is noted, and drained afterwards; only then is anything published.
 *
 * A first capture adopts: lowest stamps, identities from the content, so that copies of one database agree. A rescan finds local writes,
 * and deletions too, but never more than max(20, 10 %) of a table: rather than infer such a loss it stays red. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

#define SLICE_ROWS 5000
#define SLICE_US 20000

struct scan {
    bool adopt;
    uint32_t table;      /* index in tios */
    bool began, missing; /* rows of the table at hand; then its registers, for what is gone */
    struct buf last;     /* the key that was read last, normalised; number for integer keys */
    int64_t last_number;
    uint64_t rows, gone;
    sqlite3_stmt *slice;
};

bool scan_running(const struct store *s) { return s->scan != NULL; }

static bool wanted(const struct tio *io) { return io->tbl && !io->tbl->captured; }

void scan_stop(struct store *s) {
    if (!s->scan)
        return;
    sqlite3_finalize(s->scan->slice);
    buf_release(&s->scan->last);
    free(s->scan);
    s->scan = NULL;
}

/* Nothing was ever written or merged here: what the file holds was there before us. */
static bool first_time(const struct store *s) {
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

int scan_start(struct store *s, bool whole) {
    uint32_t tables = 0;
    scan_stop(s);
    if (whole)
        for (uint32_t i = 0; i < s->tios_count; i++)
            if (s->tios[i].tbl)
                s->tios[i].tbl->captured = false;
    for (uint32_t i = 0; i < s->tios_count; i++)
        tables += wanted(&s->tios[i]);
    if (!tables)
        return 0;
    bool adopt = first_time(s), none = true;
    for (uint32_t i = 0; i < s->tios_count; i++)
        none = none && !(s->tios[i].tbl && s->tios[i].tbl->captured);
    if ((adopt && none) || whole) { /* all older notes are of rows that will be read anyway; not so when a first capture goes on after a restart */
        int err = newest_note(s);
        if (err)
            return err;
    }
    if (!(s->scan = calloc(1, sizeof *s->scan)))
        return ERR_NOMEM;
    s->scan->adopt = adopt;
    buf_init(&s->scan->last, 256u << 20);
    return 0;
}

static void put_columns(sqlite3_str *q, const struct table *t, const char *before, const char *between) {
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"", i ? between : before, t->columns[t->key[i]].name);
}

/* SELECT key…, columns… FROM t WHERE (key…) > (?…) ORDER BY key… LIMIT n */
static int slice_prepare(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    const struct table *t = io->table;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    put_columns(q, t, "SELECT ", ",");
    for (uint32_t i = 0; i < io->count; i++)
        sqlite3_str_appendf(q, ",\"%w\"", io->names[i]);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", t->name);
    if (c->began) {
        put_columns(q, t, " WHERE (", ",");
        for (uint32_t i = 0; i < t->key_count; i++)
            sqlite3_str_appendall(q, i ? ",?" : ") > (?");
        sqlite3_str_appendall(q, ")");
    }
    put_columns(q, t, " ORDER BY ", ",");
    sqlite3_str_appendf(q, " LIMIT %d", SLICE_ROWS);
    char *text = sqlite3_str_finish(q);
    if (!text)
        return ERR_NOMEM;
    int err = sql_prepare(s->app.reader, &c->slice, "%s", text);
    sqlite3_free(text);
    if (err || !c->began)
        return err;
    struct rowid last = {.text = t->key_kind == KEY_COLUMNS, .number = c->last_number, .key = c->last.data, .key_len = c->last.len};
    err = tables_bind_key(c->slice, 1, &last);
    return err < 0 ? err : 0;
}

static int take_row(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    const struct table *t = io->table;
    struct row_look look = {.io = io, .ms = c->adopt ? LOOK_ADOPTED : LOOK_FOUND, .present = true, .born = true};
    struct value key[16];
    for (uint32_t i = 0; i < t->key_count; i++) {
        sql_column_value(c->slice, (int)i, &key[i]);
        if (key[i].type == VALUE_NULL)
            return 0; /* a row that no key names: see `tables` */
    }
    struct value *values = malloc((io->count + 1) * sizeof *values);
    if (!values)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < io->count; i++)
        sql_column_value(c->slice, (int)(t->key_count + i), &values[i]);
    look.values = values;
    int err = 0;
    if (t->key_kind == KEY_COLUMNS) {
        err = tables_key_of(io, key, &c->last);
        look.place.text = true;
        look.place.key = c->last.data;
        look.place.key_len = c->last.len;
        look.given = true;
    } else {
        c->last_number = look.place.number = key[0].as.i;
    }
    c->began = true;
    if (!err)
        err = drain_row(s, &look);
    free(values);
    return err;
}

/* ---- rows whose register lives and that are not in the file any more */

static int gone_row(struct store *s, struct tio *io, const struct rowid *place) {
    struct row_look look = {.io = io, .place = *place, .ms = LOOK_FOUND};
    int err = drain_look(s, &look, io->read);
    if (!err && !look.present)
        err = drain_row(s, &look);
    sqlite3_reset(io->read);
    return err;
}

static int count_gone(struct store *s, struct tio *io, sqlite3_stmt *q, bool take) {
    struct origins_order o = store_order(s);
    int row;
    uint64_t gone = 0;
    while ((row = sql_step(q)) == 1) {
        struct rowid place = {.text = io->tbl->shape == SHAPE_KEY};
        if (place.text) {
            buf_clear(&s->scan->last); /* a copy: taking the row changes the table that is being read */
            buf_append(&s->scan->last, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
            place.key = s->scan->last.data;
            place.key_len = s->scan->last.len;
        } else {
            place.number = sqlite3_column_int64(q, 0);
        }
        if ((row = reg_decode(&s->reg, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        struct rowid who = s->reg.who;
        who.text = place.text;
        who.number = place.number;
        who.key = place.key;
        who.key_len = place.key_len;
        if (!reg_alive(&s->reg, &o) || pending_find(s, io->tbl, &who))
            continue;
        if (take) {
            if ((row = gone_row(s, io, &place)))
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

static int find_gone(struct store *s, struct tio *io) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", io->tbl->no);
    if (err || (err = count_gone(s, io, q, false)))
        goto out;
    uint64_t limit = io->tbl->rows / 10 > 20 ? (uint64_t)io->tbl->rows / 10 : 20;
    if (s->scan->gone > limit) {
        store_log(s, LOG_ERROR, "%s: %llu of %lld rows of \"%s\" are gone without a note; they are not taken for deletions: bring the table back, or delete them again", s->config.db,
                  (unsigned long long)s->scan->gone, (long long)io->tbl->rows, io->tbl->name);
        io->tbl->lost = s->scan->gone;
        goto out;
    }
    io->tbl->lost = 0;
    err = count_gone(s, io, q, true);
out:
    sqlite3_finalize(q);
    return err;
}

/* ---- steps */

static int finish(struct store *s) {
    bool adopt = s->scan->adopt;
    uint64_t rows = s->scan->rows;
    scan_stop(s);
    if (adopt && rows) {
        s->hot.base = s->hot.digest_a ? s->hot.digest_a : 1;
        s->base_due = true;
        store_log(s, LOG_INFO, "%s: %llu rows captured", s->config.db, (unsigned long long)rows);
    }
    return 0;
}

static int slice(struct store *s, struct tio *io) {
    struct scan *c = s->scan;
    int64_t began = store_mono_us();
    int err = slice_prepare(s, io), row = 0, n = 0;
    while (!err && (row = sql_step(c->slice)) == 1) {
        err = take_row(s, io);
        c->rows++;
        if (++n % 64 == 0 && store_mono_us() - began > SLICE_US)
            break;
    }
    if (!err && row < 0)
        err = row;
    bool end = !err && row == 0 && n < SLICE_ROWS;
    sqlite3_finalize(c->slice);
    c->slice = NULL;
    if (end && !c->adopt)
        err = find_gone(s, io);
    if (!err && end) {
        io->tbl->captured = io->tbl->dirty = true;
        c->table++;
        c->began = false;
    }
    return err;
}

int scan_step(struct store *s) {
    struct scan *c = s->scan;
    while (c->table < s->tios_count && !wanted(&s->tios[c->table]))
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
    if (!err && !(err = state_begin(s)) && !(err = drain_begin_changes(s, c->adopt ? LOOK_ADOPTED : store_wall_ms(s))))
        err = slice(s, &s->tios[c->table]);
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
    const char *name = s->scan->table < s->tios_count && s->tios[s->scan->table].tbl ? s->tios[s->scan->table].tbl->name : "";
    return json_pack("{s:I, s:s}", "done", (json_int_t)s->scan->rows, "table", name);
}
