/* A table of the application's file, read in slices by its key: for scans, the look in the background, and files that went back. */
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "proto/err.h"

void row_cursor_init(struct row_cursor *c) {
    memset(c, 0, sizeof *c);
    buf_init(&c->last, 256u << 20);
    buf_init(&c->from, 256u << 20);
}

void row_cursor_release(struct row_cursor *c) {
    sqlite3_finalize(c->stmt);
    buf_release(&c->last);
    buf_release(&c->from);
    memset(c, 0, sizeof *c);
}

void row_cursor_rewind(struct row_cursor *c) {
    sqlite3_finalize(c->stmt);
    c->stmt = NULL;
    c->began = false;
}

void row_cursor_put_key(sqlite3_str *q, const struct table *t, const char *before, bool collate) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, "%s%s", before, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        sqlite3_str_appendf(q, "%s\"%w\"%s", i ? "," : before, c->name,
                            collate && t->key_kind == KEY_COLUMNS ? schema_collate(c->collation) : "");
    }
}

/* SELECT columns… FROM t WHERE key NOT NULL AND (key…) > (?…) ORDER BY key… LIMIT n. The key comes first: in the columns' order it does, but for a
 * single integer. */
int row_cursor_open(struct store *s, struct tio *io, struct row_cursor *c, uint32_t rows) {
    const struct table *t = io->table;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    sqlite3_finalize(c->stmt);
    c->stmt = NULL;
    row_cursor_put_key(q, t, "SELECT ", false);
    for (uint32_t i = t->key_kind == KEY_COLUMNS ? t->key_count : 0; i < io->count; i++)
        sqlite3_str_appendf(q, ",\"%w\"", io->names[i]);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", t->name);
    tables_put_null_test(q, io, " WHERE ", false);
    if (c->began) {
        row_cursor_put_key(q, t, io->null_key ? " AND (" : " WHERE (", true);
        for (uint32_t i = 0; i < table_key_width(t); i++)
            sqlite3_str_appendall(q, i ? ",?" : ") > (?");
        sqlite3_str_appendall(q, ")");
    }
    row_cursor_put_key(q, t, " ORDER BY ", true);
    sqlite3_str_appendf(q, " LIMIT %u", rows);
    char *text = sqlite3_str_finish(q);
    if (!text)
        return ERR_NOMEM;
    int err = sql_prepare(s->app.reader, &c->stmt, "%s", text);
    sqlite3_free(text);
    if (err || !c->began)
        return err;
    buf_clear(&c->from);
    buf_append(&c->from, c->last.data, c->last.len);
    if (c->from.failed)
        return c->from.failed;
    struct rowid last = {.text = t->key_kind == KEY_COLUMNS, .number = c->last_number, .key = c->from.data, .key_len = c->from.len};
    err = tables_bind_key(s, c->stmt, 1, &last);
    return err < 0 ? err : 0;
}

int row_cursor_keys(struct store *s, struct tio *io, sqlite3_stmt **out) {
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    row_cursor_put_key(q, io->table, "SELECT ", false);
    sqlite3_str_appendf(q, " FROM main.\"%w\"", io->table->name);
    tables_put_null_test(q, io, " WHERE ", false);
    char *text = sqlite3_str_finish(q);
    int err = text ? sql_prepare(s->app.reader, out, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    return err;
}

/* A row without a key has a name for a key; one that nobody has, if it has none yet. */
int row_cursor_place(struct tio *io, sqlite3_stmt *stmt, struct buf *key, struct rowid *place) {
    const struct table *t = io->table;
    struct value values[16];
    for (uint32_t i = 0; i < table_key_width(t); i++)
        sql_column_value(stmt, (int)i, &values[i]);
    *place = (struct rowid){.text = t->key_kind != KEY_INTEGER};
    if (!place->text) {
        place->number = values[0].as.i;
        return 0;
    }
    int err;
    if (t->key_kind == KEY_ROWID) {
        uint8_t name[KEYLESS_KEY_BYTES] = {0};
        int found = keyless_name(io, values[0].as.i, name);
        buf_clear(key);
        buf_append(key, name, sizeof name);
        err = found < 0 ? found : key->failed;
    } else {
        err = keyrefs_here(io, values, key);
    }
    place->key = key->data;
    place->key_len = key->len;
    return err;
}

int row_cursor_row(struct tio *io, struct row_cursor *c, struct row_look *look) {
    const struct table *t = io->table;
    look->io = io;
    look->present = look->born = true;
    if (!(look->values = malloc((io->count + 1) * sizeof *look->values)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < io->count; i++)
        sql_column_value(c->stmt, (int)(i + (t->key_kind != KEY_COLUMNS)), &look->values[i]);
    c->began = true;
    int err = row_cursor_place(io, c->stmt, &c->last, &look->place);
    look->given = look->place.text;
    look->by_rowid = t->key_kind == KEY_ROWID;
    if (t->key_kind != KEY_COLUMNS)
        c->last_number = sqlite3_column_int64(c->stmt, 0);
    if (look->by_rowid)
        look->rowid = c->last_number;
    return err;
}
