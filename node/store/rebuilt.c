/* A table that is made anew (create, copy, drop, rename), as tools do it that cannot change one in place. What lies between these statements
 * is not to be lost: what others write meanwhile would be shown in the table that is about to go. And a column that has another name
 * afterwards is the same column, if it holds the same. */
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

#define SAMPLE_ROWS 200

static bool replicated(const struct table *t) { return !t->unsupported && !t->excluded; }

static uint32_t shared_columns(const struct table *a, const struct table *b) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->columns_count; i++)
        for (uint32_t k = 0; k < b->columns_count; k++)
            n += sqlite3_stricmp(a->columns[i].name, b->columns[k].name) == 0;
    return n;
}

bool rebuilt_begun(const struct store *s, const struct table *fresh) {
    for (uint32_t i = 0; i < s->schema.count; i++) {
        const struct table *t = &s->schema.tables[i];
        if (t != fresh && replicated(t) && !moves_is_new(s, t) && 2 * shared_columns(t, fresh) >= t->columns_count)
            return true;
    }
    return false;
}

/* What the file showed in this column of a row before: 1, or 0 where nothing is known. */
static int shown_before(struct store *s, struct tbl *t, const struct rowid *place, uint32_t column, uint64_t *hash) {
    struct origins_order o = store_order(s);
    int err = rows_at_home(s, t, place, &s->reg);
    if (err || !reg_known(&s->reg))
        return err;
    struct rowid who = s->reg.who;
    const struct cell *c = reg_winner(&s->reg, column, &o);
    struct pending_row *p = pending_find(s, t, &who);
    if (!c || (p && !p->present))
        return 0;
    *hash = c->hash;
    if (p)
        (void)pending_shown(p, column, hash);
    return 1;
}

/* Is this value (hashed: now) what a column of another type held as `was`? Then nobody wrote it: the rebuild gave the column its type. */
int rebuilt_retyped(struct store *s, struct tio *io, uint32_t i, const struct value *v, uint64_t now, uint64_t was, bool *retyped) {
    struct value forms[3];
    char text[64];
    uint32_t n = 0;
    *retyped = false;
    if (v->type == VALUE_TEXT && v->len && v->len < sizeof text) {
        char *end;
        memcpy(text, v->p, v->len);
        text[v->len] = 0;
        double x = strtod(text, &end);
        if (*end)
            return 0;
        forms[n++] = (struct value){.type = VALUE_INT, .as.i = strtoll(text, NULL, 10)};
        forms[n++] = (struct value){.type = VALUE_FLOAT, .as.f = x};
    } else if (v->type == VALUE_INT || v->type == VALUE_FLOAT) {
        if (v->type == VALUE_INT)
            sqlite3_snprintf(sizeof text, text, "%lld", (long long)v->as.i);
        else
            sqlite3_snprintf(sizeof text, text, "%!.15g", v->as.f);
        forms[n++] = (struct value){.type = VALUE_TEXT, .p = (const uint8_t *)text, .len = strlen(text)};
        if (v->type == VALUE_INT)
            forms[n++] = (struct value){.type = VALUE_FLOAT, .as.f = (double)v->as.i};
        else if (v->as.f > -9e15 && v->as.f < 9e15)
            forms[n++] = (struct value){.type = VALUE_INT, .as.i = (int64_t)v->as.f};
    }
    for (uint32_t k = 0; k < n && !*retyped; k++) {
        uint64_t hash;
        if (value_hash(&forms[k]) != was || !tables_converts(io, i, &forms[k]))
            continue;
        int err = tables_convert(s, io, i, &forms[k], &hash);
        if (err)
            return err;
        *retyped = hash == now;
    }
    return 0;
}

int rebuilt_same(struct store *s, struct tio *io, uint32_t from, uint32_t column, bool in_place, bool *same) {
    struct row_cursor at;
    uint32_t at_new = io->by_number[column] - 1, equal = 0, known = 0, telling = 0;
    int err, row = 0;
    *same = false;
    if (io->table->key_kind == KEY_ROWID) /* they are found again by all of their content */
        return 0;
    row_cursor_init(&at);
    err = row_cursor_open(s, io, &at, SAMPLE_ROWS);
    while (!err && (row = sql_step(at.stmt)) == 1) {
        struct row_look look = {0};
        uint64_t hash;
        if (!(err = row_cursor_row(io, &at, &look)) && (err = shown_before(s, io->tbl, &look.place, from, &hash)) == 1) {
            known++;
            bool alike = value_hash(&look.values[at_new]) == hash;
            equal += alike;
            telling += alike && look.values[at_new].type != VALUE_NULL;
            err = 0;
        }
        free(look.values);
    }
    row_cursor_release(&at);
    *same = known && (in_place ? equal : telling) * 2 >= known; /* what was written just before, or with it, is not known yet */
    return err ? err : row;
}
