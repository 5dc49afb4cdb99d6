/* Open conflicts: what lost to a write whose author had not seen it; and who wrote what a row holds. They are told from the registers at each call
 * and never kept as a list of their own, so every server lists the same, under the same names. resolve.c decides them. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/keyed.h"
#include "node/store/mend.h"
#include "node/store/report.h"
#include "node/store/same.h"
#include "proto/err.h"
#include "proto/hlc.h"

#define ID_BYTES 8
#define VALUE_MAX 65536 /* a larger one is shown by its size and how it begins */
#define BEGINS_MAX 200

struct listing {
    struct store *s;
    struct tbl *tbl;
    struct rowid who;
    json_t *list;
    const char *wanted; /* only the one of this name (NULL: all), and what it is about */
    struct lost *found;
};

/* ---- names */

static void put_text(crypto_generichash_state *h, const char *text) {
    crypto_generichash_update(h, (const uint8_t *)text, strlen(text) + 1);
}

static void put_u64(crypto_generichash_state *h, uint64_t n) {
    uint8_t b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(n >> (8 * i));
    crypto_generichash_update(h, b, sizeof b);
}

static void put_origin(crypto_generichash_state *h, const struct store *s, uint32_t origin) {
    crypto_generichash_update(h, s->origin_ids[origin].node, NODE_ID_BYTES);
    put_u64(h, s->origin_ids[origin].epoch);
}

/* The same on every server: nothing in it is a local number. */
static void name_of(const struct listing *l, const char *column, const struct write *by, char *out) {
    crypto_generichash_state h;
    uint8_t sum[crypto_generichash_BYTES_MIN];
    const struct rowid *who = &l->who;
    crypto_generichash_init(&h, NULL, 0, sizeof sum);
    put_text(&h, l->s->config.db);
    put_text(&h, l->tbl->name);
    put_u64(&h, who->kind);
    if (who->text)
        crypto_generichash_update(&h, who->key, who->key_len);
    put_u64(&h, who->text ? who->key_len : (uint64_t)who->number);
    if (who->kind == IDENT_BORN)
        put_origin(&h, l->s, who->origin);
    put_u64(&h, who->kind == IDENT_BORN ? who->version : who->kind == IDENT_ADOPTED ? who->hash : 0);
    put_text(&h, column);
    if (by->at)
        put_origin(&h, l->s, by->origin);
    else
        put_u64(&h, 0);
    put_u64(&h, by->at ? by->version : 0);
    crypto_generichash_final(&h, sum, sizeof sum);
    sodium_bin2hex(out, 2 * ID_BYTES + 1, sum, ID_BYTES);
}

/* ---- listing */

/* What was there before anybody's node ran was written by nobody: of those that took it up, or mended it, each would name itself. */
static json_t *side(const struct store *s, struct stamp by, json_t *value) {
    char node[2 * NODE_ID_BYTES + 1] = "";
    if (by.at)
        sodium_bin2hex(node, sizeof node, s->origin_ids[by.origin].node, NODE_ID_BYTES);
    return json_pack("{s:o, s:s, s:I}", "value", value, "node", node, "time_ms", report_time((int64_t)hlc_ms(by.at)));
}

static const char *origin_of(const struct store *s, struct stamp by, char text[ORIGIN_TEXT_BYTES]) {
    return by.at ? origin_text(&s->origin_ids[by.origin], text) : "";
}

/* What the number of a row is called: its key. */
static const char *number_name(const struct tbl *t) {
    return t->io && t->io->table->key_kind == KEY_INTEGER ? t->io->table->columns[t->io->table->key[0]].name : "rowid";
}

static json_t *value_of(struct listing *l, const struct reg *of, const struct cell *c) {
    const struct write *w = &of->writes[c->write];
    struct value v = {.type = VALUE_NULL};
    if (c->column + 1 == l->tbl->number_column)
        return json_integer((json_int_t)c->hash);
    (void)values_find(l->s, w->origin, w->version, l->tbl, &l->who, c->column, c->hash, &v); /* what the log does not know shows as null */
    if (!v.p || v.len <= VALUE_MAX)
        return report_value(&v);
    size_t len = v.len;
    v.len = BEGINS_MAX;
    while (v.type == VALUE_TEXT && v.len && (v.p[v.len] & 0xc0) == 0x80) /* whole characters */
        v.len--;
    return json_pack("{s:I, s:o}", "bytes", (json_int_t)len, "begins", report_value(&v));
}

static json_t *row_of(struct store *s, const struct tbl *t, const struct rowid *who) {
    json_t *row = json_array();
    struct value values[16];
    int n = tables_key_shown(s, t, who, values, 16);
    for (int i = 0; i < n; i++)
        json_array_append_new(row, report_value(&values[i]));
    return row;
}

static json_t *winner_of(struct listing *l, const struct cell *c) {
    const struct reg *r = &l->s->reg;
    struct origins_order o = store_order(l->s);
    if (!c)
        return side(l->s, r->inserted, json_null());
    if (!reg_alive(r, &o)) {
        json_t *j = side(l->s, r->died, json_null());
        json_object_set_new(j, "deleted", json_true());
        return j;
    }
    const struct cell *best = reg_winner(r, c->column, &o);
    if (!best) /* of those that are one and live nobody ever wrote it */
        return side(l->s, r->inserted, json_null());
    return side(l->s, reg_cell_stamp(r, best), value_of(l, r, best));
}

/* Why it lost: what a mend took its place for, or what it met. */
static const char *kind_of(struct listing *l, const struct reg *of, const struct cell *c) {
    const struct reg *r = &l->s->reg;
    struct origins_order o = store_order(l->s);
    if (of != r) /* of one that is dead, while the row lives through another */
        return "update-delete";
    if (!reg_alive(r, &o))
        return reg_cascaded(r) ? "orphan" : "update-delete";
    if (!c)
        return r->inserted.at == stamp_above(r->died.at) ? "orphan" : "update-delete"; /* revived by a mend, or inserted again */
    const struct cell *best = reg_winner(r, c->column, &o);
    if (c->column + 1 == l->tbl->number_column)
        return "number";
    if (r->writes[c->write].at == STAMP_COPY)
        return "adopted";
    return !r->writes[best->write].mend ? "update-update" : mend_by_unique(l->s, l->tbl, best) ? "unique" : "constraint";
}

static int found_one(struct listing *l, const struct cell *c, const struct write *by) {
    *l->found = (struct lost){.tbl = l->tbl, .who = l->who, .death = !c, .column = c ? c->column : 0, .hash = c ? c->hash : 0, .by = *by};
    uint8_t *key = malloc(l->who.key_len + 1);
    if (!key)
        return ERR_NOMEM;
    if (l->who.key_len)
        memcpy(key, l->who.key, l->who.key_len);
    l->found->who.key = key;
    return 0;
}

static int list_one(void *ctx, const struct reg *of, const struct cell *c, const struct death *d) {
    struct listing *l = ctx;
    struct write by = c ? of->writes[c->write] : (struct write){d->origin, d->version, d->at, false, d->carried};
    bool number = c && c->column + 1 == l->tbl->number_column;
    const char *column = number ? number_name(l->tbl) : c ? l->tbl->columns[c->column] : "(deleted)";
    struct stamp lost = {by.at, by.origin};
    char id[2 * ID_BYTES + 1], stamp[24], origin[ORIGIN_TEXT_BYTES];
    name_of(l, c ? column : "", &by, id);
    if (l->wanted && (json_array_size(l->list) || strcmp(id, l->wanted) != 0))
        return 0;
    json_t *loser = side(l->s, lost, c ? value_of(l, of, c) : json_null());
    if (!c)
        json_object_set_new(loser, "deleted", json_true());
    snprintf(stamp, sizeof stamp, "%" PRIu64, by.at);
    json_array_append_new(l->list,
                          json_pack("{s:s, s:s, s:s, s:o, s:o, s:s, s:s, s:o, s:O, s:s, s:s, s:s, s:O}", "id", id, "db", l->s->config.db,
                                    "table", l->tbl->name, "key", report_key(l->tbl, &l->who), "row", row_of(l->s, l->tbl, &l->who), "kind",
                                    kind_of(l, of, c), "column", column, "winner", winner_of(l, c), "loser", loser, "state", "open",
                                    "stamp", stamp, "origin", origin_of(l->s, lost, origin), "value", json_object_get(loser, "value")));
    json_decref(loser);
    return l->wanted ? found_one(l, c, &by) : 0;
}

static struct stamp birth_of(const struct same_node *n, const struct reg *r) {
    return (struct stamp){n->rank < SAME_YOUNGEST ? n->rank : STAMP_COPY, n->who.kind == IDENT_BORN ? n->who.origin : r->inserted.origin};
}

/* That this row stands for others. */
static int list_same(struct listing *l) {
    struct store *s = l->s;
    struct origins_order o = store_order(s);
    const struct same_node *root = same_node(s, l->tbl, &l->who);
    int err = 0;
    if (!root || !reg_alive(&s->reg, &o))
        return 0;
    int64_t shown = numbers_wanted(s, l->tbl, &s->reg);
    struct stamp elder = birth_of(root, &s->reg);
    for (const struct same_node *n = same_next_open(s, l->tbl, &root->who, NULL); n; n = same_next_open(s, l->tbl, &root->who, n)) {
        char id[2 * ID_BYTES + 1], stamp[24], origin[ORIGIN_TEXT_BYTES];
        const struct write nobody = {0};
        bool home;
        if ((err = rows_find(s, l->tbl, &n->who, &s->reg2, &home)))
            break;
        struct stamp born = birth_of(n, &s->reg2);
        json_int_t number = (json_int_t)numbers_wanted(s, l->tbl, &s->reg2);
        l->who = n->who;
        name_of(l, "(one)", &nobody, id);
        l->who = root->who;
        if (l->wanted && (json_array_size(l->list) || strcmp(id, l->wanted) != 0))
            continue;
        snprintf(stamp, sizeof stamp, "%" PRIu64, born.at);
        json_array_append_new(l->list,
                              json_pack("{s:s, s:s, s:s, s:o, s:o, s:s, s:s, s:o, s:o, s:s, s:s, s:s, s:I, s:b}", "id", id, "db",
                                        s->config.db, "table", l->tbl->name, "key", report_key(l->tbl, &l->who), "row",
                                        row_of(s, l->tbl, &l->who), "kind", "unique", "column", number_name(l->tbl), "winner",
                                        side(s, elder, json_integer((json_int_t)shown)), "loser", side(s, born, json_integer(number)),
                                        "state", "open", "stamp", stamp, "origin", origin_of(s, born, origin), "value", number, "same", 1));
        if (l->wanted)
            *l->found = (struct lost){.tbl = l->tbl, .who = n->who, .same = true};
    }
    return err;
}

static int each_conflict(struct store *s, struct listing *l) {
    sqlite3_stmt *q;
    int row = 0, err = sql_prepare(s->db, &q, "SELECT tbl, who FROM open");
    if (err)
        return err;
    while (!err && json_array_size(l->list) < (l->wanted ? 1 : STORE_CONFLICTS_MAX) && (row = sql_step(q)) == 1) {
        const uint8_t *at = sqlite3_column_blob(q, 1), *end = at + sqlite3_column_bytes(q, 1);
        bool home;
        l->tbl = NULL;
        for (uint32_t i = 0; i < s->tbls_count; i++)
            if (s->tbls[i]->no == (uint32_t)sqlite3_column_int64(q, 0))
                l->tbl = s->tbls[i];
        if (!l->tbl || (err = rowid_unpack(&l->who, &at, end)))
            continue;
        if (!(err = rows_find(s, l->tbl, &l->who, &s->reg, &home)))
            err = rows_each_conflict(s, l->tbl, &s->reg, list_one, l);
        if (!err && same_any(s))
            err = list_same(l);
    }
    sqlite3_finalize(q);
    return err ? err : row < 0 ? row : 0;
}

json_t *store_conflicts(struct store *s) {
    struct listing l = {.s = s, .list = json_array()};
    (void)each_conflict(s, &l);
    return l.list;
}

int conflicts_find(struct store *s, const char *id, struct lost *out, json_t **shown) {
    struct listing l = {.s = s, .list = json_array(), .wanted = id, .found = out};
    memset(out, 0, sizeof *out);
    int err = each_conflict(s, &l), found = json_array_size(l.list) > 0;
    *shown = !err && found ? json_incref(json_array_get(l.list, 0)) : NULL;
    json_decref(l.list);
    return err ? err : found;
}

/* ---- who wrote it */

static json_t *column_why(struct listing *l, uint32_t column, const struct cell *best) {
    const struct reg *r = &l->s->reg;
    const struct write *w = &r->writes[best->write];
    json_t *beat = json_array(), *j = side(l->s, reg_cell_stamp(r, best), value_of(l, r, best));
    for (uint32_t i = 0; i < r->cells_count; i++) {
        const struct cell *c = &r->cells[i];
        if (c->column == column && c != best && c->hash != best->hash)
            json_array_append_new(beat, side(l->s, reg_cell_stamp(r, c), value_of(l, r, c)));
    }
    json_object_set_new(j, "column", json_string(column + 1 == l->tbl->number_column ? number_name(l->tbl) : l->tbl->columns[column]));
    json_object_set_new(j, "version", json_integer((json_int_t)w->version));
    json_object_set_new(j, "beat", beat);
    return j;
}

static json_t *row_why(struct listing *l, const char *column) {
    struct reg *r = &l->s->reg;
    struct origins_order o = store_order(l->s);
    json_t *columns = json_array(), *deaths = json_array();
    for (uint32_t i = 0; i < r->cells_count; i++) {
        uint32_t n = r->cells[i].column;
        const struct cell *best = reg_winner(r, n, &o);
        if (best == &r->cells[i] && (!column || !sqlite3_stricmp(column, l->tbl->columns[n])))
            json_array_append_new(columns, column_why(l, n, best));
    }
    for (uint32_t i = 0; i < r->deaths_count; i++)
        json_array_append_new(deaths, side(l->s, (struct stamp){r->deaths[i].at, r->deaths[i].origin}, json_null()));
    json_t *j = json_pack("{s:s, s:s, s:o, s:b, s:o, s:o}", "db", l->s->config.db, "table", l->tbl->name, "key",
                          report_key(l->tbl, &l->who), "alive", reg_alive(r, &o), "deaths", deaths, "columns", columns);
    if (r->inserted.origin != UINT32_MAX)
        json_object_set_new(j, "inserted", side(l->s, r->inserted, json_null()));
    return j;
}

static json_t *cannot(const char *format, const char *what) {
    char text[300];
    snprintf(text, sizeof text, format, what);
    return json_pack("{s:s}", "error", text);
}

/* The place that a KEY argument names: a value, or an array. A whole number may be written as text. 1: there is none of this form. */
static int place_of(struct tio *io, const json_t *key, struct rowid *place, struct arena *arena, struct buf *bytes) {
    struct value values[16];
    size_t count = json_is_array(key) ? json_array_size(key) : 1;
    memset(place, 0, sizeof *place);
    place->kind = IDENT_GIVEN;
    place->text = io->table->key_kind == KEY_COLUMNS;
    if (io->table->key_kind == KEY_ROWID) { /* by the rowid that the row has here */
        uint8_t name[KEYLESS_KEY_BYTES];
        const json_t *j = json_is_array(key) ? json_array_get(key, 0) : key;
        char *end = NULL;
        long long n = json_is_string(j) ? strtoll(json_string_value(j), &end, 10) : json_integer_value(j);
        int found = (json_is_integer(j) || (end && *json_string_value(j) && !*end)) && count == 1 ? keyless_name(io, n, name) : 0;
        buf_append(bytes, name, found == 1 ? sizeof name : 0);
        place->text = true;
        place->key = bytes->data;
        place->key_len = bytes->len;
        return found < 0 ? found : found ? bytes->failed : 1;
    }
    if (count != io->table->key_count)
        return 1;
    for (size_t i = 0; i < count; i++) {
        const struct column *c = &io->table->columns[io->table->key[i]];
        const json_t *j = json_is_array(key) ? json_array_get(key, i) : key;
        int err = report_value_read(j, arena, &values[i]);
        if (err)
            return err;
        char number[32], *end = number;
        if (values[i].type == VALUE_TEXT && (c->affinity == AFFINITY_INTEGER || c->affinity == AFFINITY_NUMERIC || !place->text)) {
            long long n = strtoll(json_string_value(j), &end, 10);
            if (end != json_string_value(j) && !*end)
                values[i] = (struct value){.type = VALUE_INT, .as.i = n};
        } else if (values[i].type == VALUE_INT && c->affinity == AFFINITY_TEXT) {
            values[i].type = VALUE_TEXT;
            values[i].len = (size_t)snprintf(number, sizeof number, "%lld", (long long)values[i].as.i);
            uint8_t *text = arena_alloc(arena, sizeof number);
            if (!text)
                return ERR_NOMEM;
            values[i].p = memcpy(text, number, sizeof number);
        }
    }
    if (!place->text) {
        place->number = values[0].as.i;
        return values[0].type != VALUE_INT;
    }
    int err = keyrefs_here(io, values, bytes);
    place->key = bytes->data;
    place->key_len = bytes->len;
    return err;
}

json_t *store_why(struct store *s, const char *table, const json_t *key, const char *column) {
    struct listing l = {.s = s};
    struct tio *io = NULL;
    for (uint32_t i = 0; i < s->tios_count; i++)
        if (s->tios[i].tbl && !sqlite3_stricmp(s->tios[i].tbl->name, table))
            io = &s->tios[i];
    if (!io)
        return cannot("no table \"%.100s\" is replicated here: see `starling tables`", table);
    struct arena arena = {0};
    struct rowid place;
    struct buf bytes;
    buf_init(&bytes, 1 << 20);
    l.tbl = io->tbl;
    json_t *j;
    int err = place_of(io, key, &place, &arena, &bytes);
    if (!err)
        err = rows_at_home(s, l.tbl, &place, &s->reg);
    if (err == 1) {
        j = cannot(io->table->key_count > 1 && json_array_size(key) != io->table->key_count
                       ? "the key of \"%.100s\" has several columns: write it as a JSON array, in their order"
                       : "no row of \"%.100s\" can have such a key",
                   l.tbl->name);
    } else if (err) {
        j = cannot("%s", err_text(err));
    } else if (!reg_known(&s->reg)) {
        j = cannot("\"%.100s\" never had a row with this key here", l.tbl->name);
    } else {
        l.who = s->reg.who;
        j = row_why(&l, column);
        if (column && !json_array_size(json_object_get(j, "columns"))) {
            json_decref(j);
            j = cannot("nobody ever wrote a column \"%.100s\" of this row", column);
        }
    }
    buf_release(&bytes);
    arena_release(&arena);
    return j;
}
