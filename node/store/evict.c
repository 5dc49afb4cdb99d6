/* Who is in the way of a row: it is written with OR REPLACE, to be taken back, and the preupdate hook tells who is thrown out. */
#define SQLITE_ENABLE_PREUPDATE_HOOK 1 /* as the library is built: declares it */
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/mend.h"
#include "proto/err.h"

static void thrown_out(void *ctx, sqlite3 *db, int op, const char *schema, const char *table, sqlite3_int64 rowid, sqlite3_int64 unused) {
    struct refused *f = ctx;
    struct rowid place = {.kind = IDENT_GIVEN, .number = rowid, .text = f->io->table->key_kind != KEY_INTEGER};
    struct value key[KEYS_MAX];
    (void)unused;
    if (op != SQLITE_DELETE || strcmp(schema, "main") != 0 || strcmp(table, f->io->table->name) != 0 || f->failed)
        return;
    struct buf *name = &f->s->key2;
    uint8_t keyless[KEYLESS_KEY_BYTES];
    if (f->io->table->key_kind == KEY_ROWID) {
        int known = keyless_name(f->io, rowid, keyless);
        buf_clear(name);
        buf_append(name, keyless, sizeof keyless);
        f->failed = known == 1 ? name->failed : known < 0 ? known : ERR_NOTFOUND;
    } else if (place.text) {
        for (uint32_t i = 0; i < f->io->table->key_count && !f->failed; i++) {
            sqlite3_value *v;
            if (sqlite3_preupdate_old(db, f->cids[i], &v) != SQLITE_OK) {
                f->failed = ERR_NOTFOUND;
                return;
            }
            key[i] = (struct value){.type = VALUE_NULL};
            switch (sqlite3_value_type(v)) {
            case SQLITE_INTEGER:
                key[i].type = VALUE_INT;
                key[i].as.i = sqlite3_value_int64(v);
                break;
            case SQLITE_FLOAT:
                key[i].type = VALUE_FLOAT;
                key[i].as.f = sqlite3_value_double(v);
                break;
            case SQLITE_NULL: f->failed = ERR_NOTFOUND; break; /* a row that no key names */
            default:
                key[i].type = sqlite3_value_type(v) == SQLITE_TEXT ? VALUE_TEXT : VALUE_BLOB;
                key[i].p = sqlite3_value_blob(v);
                key[i].len = (size_t)sqlite3_value_bytes(v);
                if (mend_copy_bytes(f->arena, &key[i].p, key[i].len))
                    f->failed = ERR_NOMEM;
            }
        }
        if (!f->failed)
            f->failed = refs_key(f->s, f->io, key, INT64_MAX, 0, name); /* reads the state alone */
    }
    if (place.text) {
        place.number = 0;
        place.key = name->data;
        place.key_len = name->len;
    }
    if (!f->failed && place.text)
        f->failed = mend_copy_bytes(f->arena, &place.key, place.key_len);
    if (!f->failed && f->thrown_count == f->thrown_cap) {
        uint32_t cap = f->thrown_cap ? f->thrown_cap * 2 : 8;
        struct rowid *p = realloc(f->thrown, cap * sizeof *p);
        f->thrown = p ? p : f->thrown;
        f->thrown_cap = p ? cap : f->thrown_cap;
        f->failed = p ? 0 : ERR_NOMEM;
    }
    if (!f->failed)
        f->thrown[f->thrown_count++] = place;
}

/* What the key's columns are called by the hook. */
int evict_find_key(struct refused *f) {
    for (uint32_t i = 0; f->io->table->key_kind == KEY_COLUMNS && i < f->io->table->key_count; i++) {
        int64_t cid;
        int err = sql_int(f->s->app.writer, -1, &cid, "SELECT cid FROM pragma_table_xinfo(%Q, 'main') WHERE name=%Q", f->io->table->name,
                          f->io->table->columns[f->io->table->key[i]].name);
        if (err)
            return err;
        f->cids[i] = (int)cid;
    }
    return 0;
}

static void put_where(sqlite3_str *q, const struct table *t) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(q, " WHERE %s=?", t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"%s=?", i ? " AND " : " WHERE ", t->columns[t->key[i]].name,
                            t->key_kind == KEY_COLUMNS ? schema_collate(t->columns[t->key[i]].collation) : "");
}

/* The row is written, whoever is in its way: these are in f->thrown. */
int evict_replace(struct refused *f) {
    struct tio *io = f->io;
    const struct table *t = io->table;
    const struct op *op = &f->op;
    f->thrown_count = 0;
    f->failed = 0;
    if (op->kind == CHANGE_UPDATE && !op->count) /* it is in the file as it is */
        return 0;
    bool insert = op->kind == CHANGE_INSERT, number = insert && t->key_kind != KEY_COLUMNS;
    int64_t rowid = numbers_shown(io->tbl, &op->who);
    int found = number && t->key_kind == KEY_ROWID ? keyless_rowid(io, &op->who, &rowid) : 1;
    if (found != 1)
        return found ? found : ERR_CONSTRAINT;
    sqlite3_str *q = sqlite3_str_new(f->s->app.writer);
    sqlite3_str_appendf(q, insert ? "INSERT OR REPLACE INTO main.\"%w\"(" : "UPDATE OR REPLACE main.\"%w\" SET ", t->name);
    uint32_t n = number;
    if (number)
        sqlite3_str_appendf(q, "\"%w\"", t->key_kind == KEY_ROWID ? t->rowid : t->columns[t->key[0]].name);
    for (uint32_t i = 0; i < op->count; i++) /* all of them are here: mend_row() */
        sqlite3_str_appendf(q, insert ? "%s\"%w\"" : "%s\"%w\"=?", n++ ? "," : "", io->names[io->by_number[op->columns[i]] - 1]);
    for (uint32_t i = 0; i < n && insert; i++)
        sqlite3_str_appendall(q, i ? ",?" : ") VALUES(?");
    if (insert)
        sqlite3_str_appendall(q, ")");
    else
        put_where(q, t);
    char *text = sqlite3_str_finish(q);
    sqlite3_stmt *stmt = NULL;
    int place = 1, err = text ? sql_prepare(f->s->app.writer, &stmt, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    if (!err && number)
        sqlite3_bind_int64(stmt, place++, rowid);
    for (uint32_t i = 0; i < op->count && !err; i++)
        sql_bind_value(stmt, place++, &op->values[i]);
    if (!err && !insert && (place = tables_bind_place(io, stmt, place, &op->who)) < 0)
        err = place;
    sqlite3_preupdate_hook(f->s->app.writer, thrown_out, f);
    err = err ? err : sql_run(stmt);
    sqlite3_preupdate_hook(f->s->app.writer, NULL, NULL);
    sqlite3_finalize(stmt);
    return err ? err : f->failed;
}

bool evict_is_thrown(const struct refused *f, const struct rowid *place) {
    for (uint32_t i = 0; i < f->thrown_count; i++)
        if (mend_same_place(&f->thrown[i], place))
            return true;
    return false;
}
