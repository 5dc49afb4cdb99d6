/* A table that has a key of another kind than before: INTEGER PRIMARY KEY, one other column, two, three…, or none. SQLite has no statement for it, so
 * it is always a rebuild (create, copy, drop, rename), or a table that was dropped and created.
 *
 * Keys are the names of rows, so this is another table under the same name: on every server each kind of key has its registers, and what is said
 * of one is not said of the other. A server whose application was not migrated yet keeps what comes under the new key until it is, and goes on
 * under the old one. When its turn comes its rows are carried over as those of a renamed table are (carried.c), with the stamps that they had, so the
 * order in which servers migrate does not matter.
 *
 * Which row it was is told by the columns of the old key, where the new table has them, else by those of the new key, where the old one had them; of
 * rows that had no key, or have none now, by what they hold. Who it is from now on: with a key that is given, the row of that
 * key. A number that was a column before is given, too. A number that SQLite drew while the rows were copied differs from server to server:
 * the row is known by its old key then, or by its content where that is gone, and the number is one that servers agree on, as after a mend. The same
 * for tables without a key, whose rows have names (keyless.c); should such a table have had a key for a while, its rows get their old names back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/carried.h"
#include "node/store/keyed.h"
#include "proto/err.h"

#define KEY_COLUMNS_MAX 16
#define AT_NUMBER UINT32_MAX        /* the INTEGER PRIMARY KEY, which is not among the columns of a tio */
#define AT_NOWHERE (UINT32_MAX - 1) /* the new table has no such column */

struct old_column {
    uint32_t at; /* index in the new table's order */
    enum collation collation;
};

struct rekeyed {
    struct tbl *from;
    uint32_t count; /* columns of its key; 0: it had none, or nobody knows */
    struct old_column columns[KEY_COLUMNS_MAX];
    char *names[KEY_COLUMNS_MAX];
    bool found;   /* the new table has all of them */
    uint32_t *by; /* else: columns (of the new order) that tell the row, since the old table had them as well */
    uint32_t by_count;
    bool listed;    /* then the old rows are in TEMP rekeyed, by what they held there */
    bool given;     /* its number was a column before */
    struct buf key; /* of the old row that is looked for, or of the new one that a death is told of */
};

/* ---- what the key was */

/* In the state's `meta`: "key TABLE", each column as its collation, and its name with the terminating zero. */
int rekeyed_note(struct store *s, const struct tio *io) {
    struct buf b;
    sqlite3_stmt *q = NULL;
    buf_init(&b, KEY_COLUMNS_MAX * (SCHEMA_NAME_MAX + 2));
    for (uint32_t i = 0; i < io->table->key_count; i++) {
        const struct column *c = &io->table->columns[io->table->key[i]];
        uint8_t collation = (uint8_t)c->collation;
        buf_append(&b, &collation, 1);
        buf_append(&b, c->name, strlen(c->name) + 1);
    }
    int err = b.failed;
    if (!err &&
        !(err = sql_prepare(s->db, &q,
                            "INSERT INTO meta VALUES('key %u', ?1) ON CONFLICT(k) DO UPDATE SET v=excluded.v WHERE v IS NOT excluded.v",
                            io->tbl->no))) {
        sqlite3_bind_blob64(q, 1, b.len ? (const void *)b.data : "", b.len, SQLITE_STATIC);
        err = sql_run(q);
    }
    sqlite3_finalize(q);
    buf_release(&b);
    return err;
}

static uint32_t place_of(const struct tio *io, const char *name) {
    if (io->table->key_kind == KEY_INTEGER && sqlite3_stricmp(io->table->columns[io->table->key[0]].name, name) == 0)
        return AT_NUMBER;
    for (uint32_t i = 0; i < io->count; i++)
        if (sqlite3_stricmp(io->names[i], name) == 0)
            return i;
    return AT_NOWHERE;
}

static int load_key(struct store *s, const struct tio *io, struct rekeyed *k) {
    sqlite3_stmt *q;
    int row = sql_prepare(s->db, &q, "SELECT v FROM meta WHERE k='key %u'", k->from->no);
    if (row)
        return row;
    if ((row = sql_step(q)) == 1) {
        const uint8_t *at = sqlite3_column_blob(q, 0), *end = at + sqlite3_column_bytes(q, 0);
        while (at < end && k->count < KEY_COLUMNS_MAX && memchr(at + 1, 0, (size_t)(end - at - 1))) {
            struct old_column *c = &k->columns[k->count];
            c->collation = (enum collation) * at++;
            c->at = place_of(io, (const char *)at);
            if (!(k->names[k->count] = strdup((const char *)at))) {
                row = ERR_NOMEM;
                break;
            }
            at += strlen((const char *)at) + 1;
            k->found = (k->found || !k->count) && c->at != AT_NOWHERE;
            k->count++;
        }
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

void rekeyed_unload(struct tio *io) {
    if (!io->rekeyed)
        return;
    for (uint32_t i = 0; i < io->rekeyed->count; i++)
        free(io->rekeyed->names[i]);
    buf_release(&io->rekeyed->key);
    free(io->rekeyed->by);
    free(io->rekeyed);
    io->rekeyed = NULL;
}

static uint64_t mix(uint64_t x) {
    x *= 0x9e3779b97f4a7c15u;
    return x ^ (x >> 29);
}

/* 1 + the column's number in the registers of the old table; 0: it had none. */
static uint32_t old_number(const struct tbl *from, const char *name) {
    for (uint32_t i = 0; i < from->columns_count; i++)
        if (sqlite3_stricmp(from->columns[i], name) == 0)
            return i + 1;
    return 0;
}

/* As many other columns, or the same in another order, are told apart by nothing that others see: the rows of one key are not taken for those of the
 * other. (A column of the key that was renamed was not there before.) */
int rekeyed_unlike(struct store *s, const struct tio *io, bool *unlike) {
    const struct tbl *t = io->tbl;
    struct rekeyed was = {.from = io->tbl};
    int err = t->rows && io->table->key_kind == KEY_COLUMNS ? load_key(s, io, &was) : 0;
    *unlike = false;
    for (uint32_t i = 0; i < was.count && i < io->table->key_count && !err; i++) {
        const char *name = io->table->columns[io->table->key[i]].name;
        uint32_t column = sqlite3_stricmp(was.names[i], name) ? old_number(t, name) : 0;
        *unlike |= column && t->moves[column - 1].placed > 0;
    }
    for (uint32_t i = 0; i < was.count; i++)
        free(was.names[i]);
    return err;
}

static bool was_column(const struct rekeyed *k, const char *name) {
    for (uint32_t i = 0; i < k->count; i++)
        if (sqlite3_stricmp(k->names[i], name) == 0)
            return true;
    return old_number(k->from, name) != 0;
}

bool rekeyed_was_key(const struct tio *io, const char *column) {
    return !tbl_is_text(io->rekeyed->from) && io->rekeyed->count == 1 && sqlite3_stricmp(io->rekeyed->names[0], column) == 0;
}

/* Those of the new key, if the old table had all of them; of a table that had no key, or has none, all that both have. */
static int find_telling(const struct tio *io, struct rekeyed *k) {
    bool keys = k->count > 0 && io->table->key_kind != KEY_ROWID;
    uint32_t n = !keys ? io->count : io->table->key_kind == KEY_COLUMNS ? io->table->key_count : 0;
    if (k->found || !n)
        return 0;
    if (!(k->by = calloc(n, sizeof *k->by)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        if (old_number(k->from, io->names[i]))
            k->by[k->by_count++] = i;
    if (keys && k->by_count < n)
        k->by_count = 0;
    return 0;
}

/* The table that had this name last, under another kind of key. */
int rekeyed_begin(struct store *s, struct tio *io) {
    struct tbl *from = NULL;
    rekeyed_unload(io);
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        if (t != io->tbl && t->shape != SHAPE_NONE && t->placed < 0 && t->placed != TABLE_GONE && (!from || t->placed < from->placed) &&
            sqlite3_stricmp(t->name, io->tbl->name) == 0)
            from = t;
    }
    if (!from)
        return 0;
    if (!(io->rekeyed = calloc(1, sizeof *io->rekeyed)))
        return ERR_NOMEM;
    io->rekeyed->from = io->tbl->renamed_from = from;
    buf_init(&io->rekeyed->key, BATCH_RAW_MAX);
    int err = load_key(s, io, io->rekeyed);
    if (!err && io->table->key_kind == KEY_INTEGER)
        io->rekeyed->given = was_column(io->rekeyed, io->table->columns[io->table->key[0]].name);
    return err ? err : find_telling(io, io->rekeyed);
}

/* ---- a row of the file: which one was it */

/* What a column of another type makes of a number, or of its text. */
static void retype(struct value *v, bool to_text, char text[24]) {
    if (v->type == VALUE_INT && to_text) {
        int n = snprintf(text, 24, "%lld", (long long)v->as.i);
        *v = (struct value){.type = VALUE_TEXT, .p = (const uint8_t *)text, .len = (size_t)n};
    } else if (v->type == VALUE_TEXT && !to_text && v->len && v->len < 24) {
        char again[24];
        memcpy(text, v->p, v->len);
        text[v->len] = 0;
        long long number = strtoll(text, NULL, 10);
        snprintf(again, sizeof again, "%lld", number);
        if (strcmp(again, text) == 0)
            *v = (struct value){.type = VALUE_INT, .as.i = number};
    }
}

/* `plain`: references as the numbers that they are. `retyped`: the columns had another type, and held numbers as text, or the other way round. */
static int find_source(struct store *s, const struct row_look *look, bool plain, bool retyped) {
    struct rekeyed *k = look->io->rekeyed;
    struct rowid place = {.kind = IDENT_GIVEN, .text = tbl_is_text(k->from)};
    int64_t number = look->by_rowid ? look->rowid : look->place.number;
    buf_clear(&k->key);
    for (uint32_t i = 0; i < k->count; i++) {
        const struct old_column *c = &k->columns[i];
        struct value v = {.type = VALUE_INT, .as.i = number};
        const struct value *told = &v;
        char text[24];
        if (c->at != AT_NUMBER)
            v = look->values[c->at];
        if (retyped)
            retype(&v, v.type == VALUE_INT, text);
        int err = c->at == AT_NUMBER || plain || k->count == 1 ? 0 : refs_tell(s, look->io, NULL, &c->at, 1, -1, &told);
        if (err)
            return err;
        if (!place.text && told->type != VALUE_INT)
            return 0;
        place.number = told->as.i;
        tables_put_key_value(&k->key, told, c->collation);
    }
    if (place.text)
        place.number = 0;
    place.key = place.text ? k->key.data : NULL;
    place.key_len = place.text ? k->key.len : 0;
    return k->key.failed ? k->key.failed : rows_at_home(s, k->from, &place, &s->source);
}

/* As the registers name it: borrowed from the value. */
static struct rowid place_from(const struct tbl *from, sqlite3_stmt *q, int at) {
    struct rowid place = {.kind = IDENT_GIVEN, .text = tbl_is_text(from)};
    if (place.text) {
        place.key = sqlite3_column_blob(q, at);
        place.key_len = (size_t)sqlite3_column_bytes(q, at);
    } else {
        place.number = sqlite3_column_int64(q, at);
    }
    return place;
}

/* What the row in s->source held in these columns. false: it is dead, or something of it was never written. */
static bool sum_of_columns(struct store *s, const struct tio *io, uint64_t *sum) {
    struct origins_order o = store_order(s);
    const struct rekeyed *k = io->rekeyed;
    bool whole = reg_alive(&s->source, &o);
    *sum = 0;
    for (uint32_t i = 0; i < k->by_count && whole; i++) {
        const struct cell *c = reg_winner(&s->source, old_number(k->from, io->names[k->by[i]]) - 1, &o);
        *sum = mix(*sum ^ (c ? c->hash : 0));
        whole = c != NULL;
    }
    return whole;
}

/* What the file showed in these columns, of every row that it had; and how the row is named from now on, where the table has no key. */
static int list_by(struct store *s, const struct tio *io) {
    struct rekeyed *k = io->rekeyed;
    sqlite3_stmt *q = NULL, *put = NULL;
    int row =
        sql_exec(s->db,
                 "CREATE TEMP TABLE IF NOT EXISTS rekeyed(tbl INTEGER, h INTEGER, k, name BLOB, taken, PRIMARY KEY(tbl, taken, h, k)) "
                 "WITHOUT ROWID; CREATE INDEX IF NOT EXISTS temp.rekeyed_name ON rekeyed(tbl, name);"
                 "DELETE FROM temp.rekeyed WHERE tbl=%u",
                 io->tbl->no);
    if (!row && !(row = sql_prepare(s->db, &q, "SELECT k, b FROM r%u", k->from->no)))
        row = sql_prepare(s->db, &put, "INSERT OR IGNORE INTO temp.rekeyed VALUES(%u, ?, ?, ?, 0)", io->tbl->no);
    while (!row && (row = sql_step(q)) == 1) {
        uint8_t name[KEYLESS_KEY_BYTES];
        uint64_t sum;
        if ((row = reg_decode(&s->source, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1))))
            break;
        if (!sum_of_columns(s, io, &sum))
            continue;
        struct rowid place = place_from(k->from, q, 0), who = s->source.who;
        if (place.text || s->source.who.kind == IDENT_GIVEN)
            who = place;
        else if (!s->source.away)
            who.number = place.number;
        if (io->table->key_kind == KEY_ROWID && (row = keyless_name_of_key(s, io->tbl, k->from, &who, name)))
            break;
        sqlite3_bind_int64(put, 1, (int64_t)sum);
        sqlite3_bind_value(put, 2, sqlite3_column_value(q, 0));
        sqlite3_bind_blob(put, 3, io->table->key_kind == KEY_ROWID ? name : NULL, sizeof name, SQLITE_STATIC);
        row = sql_run(put);
    }
    sqlite3_finalize(q);
    sqlite3_finalize(put);
    k->listed = !row;
    return row;
}

/* Of rows that get names, any of those that are equal, each once; and then that one. */
static int take_listed(struct store *s, sqlite3_stmt *q, const struct row_look *look, int64_t sum) {
    sqlite3_stmt *take;
    int err = look->by_rowid
                  ? sql_prepare(s->db, &take, "UPDATE temp.rekeyed SET taken=1 WHERE tbl=%u AND taken=0 AND h=? AND k=?", look->io->tbl->no)
                  : 0;
    if (err || !look->by_rowid)
        return err;
    sqlite3_bind_int64(take, 1, sum);
    sqlite3_bind_value(take, 2, sqlite3_column_value(q, 0));
    err = sql_run(take);
    sqlite3_finalize(take);
    return err;
}

/* The one row that held these values, if there is only one. */
static int find_by(struct store *s, const struct row_look *look) {
    struct rekeyed *k = look->io->rekeyed;
    bool named = look->io->table->key_kind == KEY_ROWID, again = named && !look->by_rowid;
    sqlite3_stmt *q;
    uint64_t sum = 0;
    int row = k->listed ? 0 : list_by(s, look->io);
    for (uint32_t i = 0; i < k->by_count; i++)
        sum = mix(sum ^ value_hash(&look->values[k->by[i]]));
    reg_clear(&s->source);
    if (row || (row = sql_prepare(s->db, &q, "SELECT min(k), count(*) FROM temp.rekeyed WHERE tbl=%u AND %s", look->io->tbl->no,
                                  again ? "name=?" : "taken=0 AND h=?")))
        return row;
    if (again)
        sqlite3_bind_blob64(q, 1, look->place.key, look->place.key_len, SQLITE_STATIC);
    else
        sqlite3_bind_int64(q, 1, (int64_t)sum);
    row = sql_step(q);
    if (row == 1 && (named ? sqlite3_column_int(q, 1) > 0 : sqlite3_column_int(q, 1) == 1)) {
        struct rowid place = place_from(k->from, q, 0);
        buf_clear(&k->key);
        buf_append(&k->key, place.key, place.key_len);
        if (place.text)
            place.key = k->key.data;
        row = k->key.failed ? k->key.failed : rows_at_home(s, k->from, &place, &s->source);
        if (!row && named)
            row = take_listed(s, q, look, (int64_t)sum);
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

/* All rows are looked at anew. */
void rekeyed_again(const struct tio *io) {
    if (io->rekeyed)
        io->rekeyed->listed = false;
}

static int find_row(struct store *s, const struct row_look *look) {
    const struct tio *io = look->io;
    if (!io->rekeyed->found)
        return io->rekeyed->by_count ? find_by(s, look) : 0;
    int err = find_source(s, look, false, false);
    if (!err && !reg_known(&s->source) && io->telling && io->rekeyed->count > 1)
        err = find_source(s, look, true, false);
    return err || reg_known(&s->source) ? err : find_source(s, look, true, true);
}

int rekeyed_source(struct store *s, const struct row_look *look) {
    const struct tbl *from = look->io->rekeyed->from;
    struct rowid who;
    reg_clear(&s->source);
    int err = look->values ? find_row(s, look) : 0;
    if (err || !reg_known(&s->source) || from->shape != SHAPE_NAMES)
        return err;
    rekeyed_identity(s, look, NULL, &who); /* should it have no key again one day, it is this row */
    return keyless_note_kin(s, from, &s->source.who, look->io->tbl, &who);
}

/* ---- who it is */

static uint64_t hash_of_key(const struct tbl *t, const struct rowid *was) {
    struct value v = {.type = VALUE_BLOB, .p = was->key, .len = was->key_len};
    return mix(t->hash ^ value_hash(&v));
}

/* Numbers at birth that no row has: the file's is one that was drawn, and is told beside it. */
static void name_numbered(struct rowid *who, uint64_t hash) {
    who->kind = IDENT_ADOPTED;
    who->hash = hash;
    who->number = -2 - (int64_t)(hash & 0x3fffffff);
}

/* Equal rows are counted, in the order in which they are met; a row that is met again is found under its number. */
static void name_by_content(struct store *s, const struct row_look *look, const uint64_t *hashes, struct rowid *who) {
    struct tbl *t = look->io->tbl;
    uint64_t sum = t->hash;
    bool home, taken = true;
    for (uint32_t i = 0; i < look->io->count; i++)
        sum += mix(t->column_hashes[look->io->numbers[i]] ^ hashes[i]);
    for (uint64_t n = 0; taken; n++) {
        name_numbered(who, mix(sum + n));
        if (rows_find(s, t, who, &s->meant, &home))
            return; /* the next statement on the state fails as well */
        int64_t at = reg_known(&s->meant) && home ? numbers_home(t, who) : who->number;
        taken = at != who->number && at != look->place.number;
    }
}

void rekeyed_identity(struct store *s, const struct row_look *look, const uint64_t *hashes, struct rowid *who) {
    const struct rekeyed *k = look->io->rekeyed;
    *who = look->place;
    if (who->text || k->given)
        return;
    if (reg_known(&s->source))
        name_numbered(who, hash_of_key(look->io->tbl, &s->source.who));
    else
        name_by_content(s, look, hashes, who);
}

/* Below whatever anybody writes, and for each server another stamp: of all servers' numbers those of one prevail. */
int rekeyed_number(struct store *s, const struct row_look *look, struct reg *r) {
    uint32_t rank;
    memcpy(&rank, s->origin_ids[s->own].node, sizeof rank);
    return drain_number(s, look->io, r, look->place.number, STAMP_COPY + 1 + (uint64_t)rank);
}

/* ---- rows that had died under the old key
 *
 * A server that migrates without having heard of a death brings the row along, so deaths are told under the new key as well. */

/* What a column held when the row died: from the old key, or from the log. 1 found. */
static int value_then(struct store *s, const struct rekeyed *k, const struct rowid *was, const struct value *keys, const char *name,
                      struct value *v) {
    struct origins_order o = store_order(s);
    const struct cell *c = NULL;
    for (uint32_t i = 0; i < k->count; i++)
        if (sqlite3_stricmp(k->names[i], name) == 0) {
            *v = keys[i];
            return 1;
        }
    uint32_t number = old_number(k->from, name);
    if (!number || !(c = reg_winner(&s->source, number - 1, &o)))
        return 0;
    const struct write *w = &s->source.writes[c->write];
    int err = values_find(s, w->origin, w->version, k->from, was, c->column, c->hash, v);
    return err == ERR_NOTFOUND ? 0 : err ? err : 1;
}

/* Who the row in s->source would be. 1: known; the key is in k->key. */
static int identity_then(struct store *s, struct tio *io, const struct rowid *was, struct rowid *who) {
    struct rekeyed *k = io->rekeyed;
    struct value keys[KEY_COLUMNS_MAX], values[KEY_COLUMNS_MAX];
    uint8_t name[KEYLESS_KEY_BYTES];
    char text[KEY_COLUMNS_MAX][24];
    int n = tables_key_values(was, keys, KEY_COLUMNS_MAX), found = 1;
    *who = (struct rowid){.kind = IDENT_GIVEN, .text = tbl_is_text(io->tbl)};
    if (n >= 0 && !who->text && !k->given) {
        name_numbered(who, hash_of_key(io->tbl, was));
        return 1;
    }
    if (n < 0 || (k->count && (uint32_t)n != k->count))
        return n < 0 ? n : 0;
    buf_clear(&k->key);
    if (io->table->key_kind == KEY_ROWID) {
        int err = keyless_name_of_key(s, io->tbl, k->from, was, name);
        if (err)
            return err;
        buf_append(&k->key, name, sizeof name);
    } else {
        for (uint32_t i = 0; i < io->table->key_count && found == 1; i++) {
            const struct column *c = &io->table->columns[io->table->key[i]];
            if ((found = value_then(s, k, was, keys, c->name, &values[i])) == 1 && values[i].type == VALUE_REF && !io->key_refs)
                found = refs_plain(s, &values[i]) < 0 ? 0 : 1;
            if (found == 1 && c->affinity != AFFINITY_BLOB)
                retype(&values[i], c->affinity == AFFINITY_TEXT, text[i]);
        }
        if (found != 1 || (!who->text && values[0].type != VALUE_INT))
            return found < 0 ? found : 0;
        who->number = who->text ? 0 : values[0].as.i;
        int err = who->text ? tables_key_of(io, values, &k->key) : 0;
        if (err)
            return err;
    }
    who->key = who->text ? k->key.data : NULL;
    who->key_len = who->text ? k->key.len : 0;
    return k->key.failed ? k->key.failed : 1;
}

/* Under the key that it would have the file shows another row: twins that a migration throws out before the key comes. */
static int is_another(struct store *s, struct tio *io, const struct rowid *was, bool *another) {
    struct row_look look = {.io = io};
    *another = false;
    int known = identity_then(s, io, was, &look.place);
    if (known != 1 || io->table->key_kind == KEY_ROWID || (!look.place.text && !io->rekeyed->given))
        return known < 0 ? known : 0;
    int err = drain_look(s, &look, io->read);
    if (!err && look.present && !(err = rekeyed_source(s, &look)))
        *another = !reg_known(&s->source) || !rowid_same(&s->source.who, was);
    sqlite3_reset(io->read);
    return err;
}

/* The last that the notes told before the rebuild. */
static int take_old_death(struct store *s, struct tio *io, const struct rowid *was) {
    struct origins_order o = store_order(s);
    struct tbl *from = io->rekeyed->from;
    struct table name = {.name = from->name};
    struct tio old = {.table = &name, .tbl = from};
    bool home;
    int err = rows_find(s, from, was, &s->source, &home);
    return err || !reg_alive(&s->source, &o) ? err : drain_death(s, &old, &s->source, home, stamp_carried(reg_top(&s->source)) + 1, false);
}

static int take_death(struct store *s, struct tio *io, const struct rowid *was) {
    struct origins_order o = store_order(s);
    struct tbl *from = io->rekeyed->from;
    struct rowid who;
    bool home, another = false;
    int err = rows_find(s, from, was, &s->source, &home);
    if (err || !reg_known(&s->source) || (err = is_another(s, io, was, &another)) || another ||
        (err = rows_find(s, from, was, &s->source, &home)))
        return err;
    int known = identity_then(s, io, was, &who);
    if (known != 1)
        return known;
    const struct stamp died = s->source.died;
    if ((err = rows_find(s, io->tbl, &who, &s->reg, &home)))
        return err;
    const struct stamp *later = reg_alive(&s->reg, &o) ? &s->reg.inserted : &s->reg.died;
    s->reg.who = who;
    return stamp_cmp(*later, died, &o) >= 0 ? 0 : drain_death(s, io, &s->reg, home, died.at, true);
}

/* Does the file have the row in s->source, under its new key? 1: it has. */
static int is_in_file(struct store *s, struct tio *io, const struct rowid *was) {
    struct row_look look = {.io = io};
    int known = identity_then(s, io, was, &look.place);
    if (known != 1 || io->table->key_kind == KEY_ROWID || (!look.place.text && !io->rekeyed->given))
        return known < 0 ? known : 1; /* nothing tells: then it is no death */
    int err = drain_look(s, &look, io->read);
    sqlite3_reset(io->read);
    return err ? err : look.present;
}

/* The dead, packed one behind the other; and those that the file lacks: as many as notes have told of are dead, too. */
static int list_rows(struct store *s, struct tio *io, struct buf *dead, struct buf *gone, int64_t *count) {
    struct origins_order o = store_order(s);
    const struct tbl *from = io->rekeyed->from;
    sqlite3_stmt *q;
    int row =
        sql_prepare(s->db, &q, "SELECT b, k, NULL FROM r%u UNION ALL SELECT b, NULL, who FROM extra WHERE tbl=%u", from->no, from->no);
    while (!row && (row = sql_step(q)) == 1) {
        struct rowid was;
        if ((row = reg_decode(&s->source, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0))))
            break;
        if (sqlite3_column_type(q, 2) != SQLITE_NULL) {
            const uint8_t *at = sqlite3_column_blob(q, 2);
            row = rowid_unpack(&was, &at, at + sqlite3_column_bytes(q, 2));
        } else {
            was = s->source.who;
            was.text = tbl_is_text(from);
            was.number = was.text ? 0 : s->source.away ? was.number : sqlite3_column_int64(q, 1);
            was.key = was.text ? sqlite3_column_blob(q, 1) : NULL;
            was.key_len = was.text ? (size_t)sqlite3_column_bytes(q, 1) : 0;
        }
        bool alive = reg_alive(&s->source, &o);
        int there = row ? row : alive && (from->left <= 0 || pending_find(s, from, &was)) ? 1 : alive ? is_in_file(s, io, &was) : 0;
        if (there < 0 || there)
            row = there < 0 ? there : 0;
        else if (!(row = rowid_pack(&was, alive ? gone : dead)))
            *count += alive;
    }
    sqlite3_finalize(q);
    return row;
}

static int take_all(struct store *s, struct tio *io, const struct buf *list,
                    int (*take)(struct store *s, struct tio *io, const struct rowid *was)) {
    const uint8_t *at = list->data, *end = at + list->len;
    int err = 0;
    while (!err && at < end) {
        struct rowid was;
        if (!(err = rowid_unpack(&was, &at, end)))
            err = take(s, io, &was);
    }
    return err;
}

int rekeyed_deaths(struct store *s, struct tio *io) {
    struct buf dead, gone;
    int64_t count = 0;
    buf_init(&dead, 256u << 20);
    buf_init(&gone, 256u << 20);
    bool blind = s->blind;
    int err = list_rows(s, io, &dead, &gone, &count);
    if (!err && !(err = take_all(s, io, &dead, take_death)) && count && count <= io->rekeyed->from->left &&
        !(err = carried_see(s, false)) && !(err = take_all(s, io, &gone, take_old_death)) && !(err = carried_see(s, blind)))
        err = take_all(s, io, &gone, take_death);
    io->rekeyed->from->left = 0;
    reg_clear(&s->source);
    buf_release(&dead);
    buf_release(&gone);
    return err;
}
