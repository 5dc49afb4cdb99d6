/* Rows here that refer to rows of another database which are due: they moved, came, or are gone. What the file shows of a reference may be another
 * number than that of today, or the number may have been told as such, since nobody was known under it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/afar_state.h"
#include "proto/err.h"

#define SETTLED_ROWS 2000 /* a turn */

struct child {
    struct child *next;
    struct rowid who;
};

/* Numbers that the file may show for what is due, as a JSON array; where nothing was known of them, all that it may show. */
static int due_numbers(struct store *s, const struct afar *a, const struct afar_row *until, struct buf *out) {
    char text[48];
    sqlite3_stmt *q = NULL;
    int row = 1;
    buf_append(out, "[", 1);
    for (const struct afar_row *r = a->due; r != until; r = r->next_due) {
        int n = snprintf(text, sizeof text, "%s%lld", out->len > 1 ? "," : "", (long long)r->number);
        buf_append(out, text, (size_t)n);
        if (r->has_was)
            buf_append(out, text, (size_t)snprintf(text, sizeof text, ",%lld", (long long)r->was));
    }
    int err = a->unheard && a->recalls ? sql_prepare(s->db, &q, "SELECT number FROM before WHERE name=%Q", a->name) : 0;
    while (!err && q && (row = sql_step(q)) == 1)
        buf_append(out, text,
                   (size_t)snprintf(text, sizeof text, "%s%lld", out->len > 1 ? "," : "", (long long)sqlite3_column_int64(q, 0)));
    sqlite3_finalize(q);
    buf_append(out, "]", 1);
    return err ? err : row < 0 ? row : out->failed;
}

static int find_children(struct store *s, struct tio *io, uint32_t at, const struct buf *numbers, struct arena *arena,
                         struct child **children) {
    sqlite3_stmt *q;
    struct buf name;
    int row, err = renumber_select(s->app.reader, io, "0", "WHERE c.\"%w\" IN (SELECT value FROM json_each(?))", at, &q);
    if (err)
        return err;
    buf_init(&name, 1 << 20);
    sqlite3_bind_text(q, 1, (const char *)numbers->data, (int)numbers->len, SQLITE_STATIC);
    while (!err && (row = sql_step(q)) != 0) {
        struct value key[16];
        int known = row < 0 ? row : renumber_register_at(s, io, q, key, &name);
        struct child *c = known == 1 ? arena_alloc(arena, sizeof *c) : NULL;
        uint8_t *copy = c ? arena_alloc(arena, s->reg2.who.key_len + 1) : NULL;
        err = known < 0 ? known : known && !copy ? ERR_NOMEM : 0;
        if (err || !known)
            continue;
        *c = (struct child){*children, s->reg2.who};
        if (c->who.text) {
            memcpy(copy, name.data, name.len);
            c->who.key = copy;
            c->who.key_len = name.len;
        }
        *children = c;
    }
    sqlite3_finalize(q);
    buf_release(&name);
    return err;
}

/* Is the reference, as it was told, to be told anew, by us who wrote it? It was a number, since nobody was known under it; or it meant a row that was
 * gone when this was written, or was taken up anew under another name. 1: this one is meant. */
static int mistold(const struct store *s, const struct afar *a, const struct write *w, const struct value *v, int64_t number,
                   struct afar_row **meant) {
    const struct afar_row *r = v->type == VALUE_REF ? afar_of_value(s, v) : NULL;
    if ((v->type != VALUE_INT && !r) || memcmp(s->origin_ids[w->origin].node, s->origin_ids[s->own].node, NODE_ID_BYTES) != 0)
        return 0;
    int known = before_means(a, number, meant);
    if (known == 0) /* what was there before us was written by the numbers of that time */
        *meant = a->fresh && w->at <= STAMP_COPY ? afar_by_birth(a, number) : NULL;
    if (known == 0 && !*meant)
        *meant = afar_holder(a, number);
    if (known < 0 || !*meant || *meant == r)
        return known < 0 ? known : 0;
    bool gone = r && r->state == ROSTER_GONE && r->number == number && w->at > (*meant)->birth;
    return !r || r->state == ROSTER_VANISHED || gone;
}

static int tell_anew(struct store *s, struct afar *a, struct tio *io, uint32_t at, struct row_look *look, bool home, struct afar_row *meant,
                     bool *wrote) {
    struct reg *r = &s->reg;
    struct rowid who = r->who;
    const struct value ref = {.type = VALUE_REF, .p = meant->ref, .len = meant->len};
    uint64_t *hashes = calloc(io->count + 1, sizeof *hashes);
    const struct column_set *set = hashes ? tables_columns(io, &at, 1) : NULL;
    for (uint32_t i = 0; set && i < io->count; i++)
        hashes[i] = value_hash(&look->values[i]);
    struct shown_cell shown = {io->numbers[at], set ? hashes[at] : 0};
    bool moved = look->values[at].as.i != meant->number;
    int err = !set ? ERR_NOMEM : *wrote ? 0 : drain_begin_changes(s, store_wall_ms(s));
    *wrote = true;
    a->meant = meant;
    if (!err)
        err = drain_author(s, io, r, home, CHANGE_UPDATE, set, look->values, hashes, 0);
    a->meant = NULL;
    free(hashes);
    return err || !moved ? err : refs_unsettle(s, io->tbl, &who, shown, value_hash(&ref));
}

/* One row of the file, by the column `at`. */
static int settle_child(struct store *s, struct afar *a, struct tio *io, uint32_t at, const struct rowid *who, bool *wrote) {
    struct origins_order o = store_order(s);
    struct row_look look = {.io = io, .place = *who};
    struct tbl *t = io->tbl;
    struct reg *r = &s->reg;
    struct value v;
    bool home;
    int64_t number;
    int err = drain_look(s, &look, io->read);
    if (err || !look.present || look.values[at].type != VALUE_INT || (err = rows_find(s, t, who, r, &home)) || !reg_alive(r, &o))
        return err;
    r->who = *who;
    uint64_t hash = value_hash(&look.values[at]);
    const struct cell *c = reg_winner(r, io->numbers[at], &o);
    if (!c || c->hash != hash) /* it is to be drained, or shown, anyway */
        return 0;
    const struct write w = r->writes[c->write];
    if ((err = values_find(s, w.origin, w.version, t, who, c->column, c->hash, &v)))
        return err == ERR_NOTFOUND ? 0 : err;
    struct afar_row *meant;
    int anew = mistold(s, a, &w, &v, look.values[at].as.i, &meant);
    if (anew)
        return anew < 0 ? anew : tell_anew(s, a, io, at, &look, home, meant, wrote);
    if (v.type != VALUE_REF || !afar_number(s, &v, &number) || number == look.values[at].as.i)
        return 0;
    return refs_unsettle(s, t, who, (struct shown_cell){io->numbers[at], hash}, value_hash(&v));
}

/* The same of a row that the file does not show yet as the registers say: these have the number that was known when it was merged. */
static int settle_pending_cell(struct store *s, struct pending_row *p, uint32_t at) {
    struct origins_order o = store_order(s);
    struct reg *r = &s->reg;
    struct value v;
    bool home;
    int64_t number;
    int err = rows_find(s, p->tbl, &p->who, r, &home);
    if (err || !reg_known(r))
        return err;
    const struct cell *c = reg_winner(r, p->tbl->io->numbers[at], &o);
    if (!c)
        return 0;
    const struct write w = r->writes[c->write];
    struct shown_cell shown = {c->column, c->hash}; /* unless it is known to be another */
    if ((err = values_find(s, w.origin, w.version, p->tbl, &p->who, c->column, c->hash, &v)))
        return err == ERR_NOTFOUND ? 0 : err;
    if (v.type != VALUE_REF || !afar_number(s, &v, &number))
        return 0;
    struct value today = {.type = VALUE_INT, .as.i = number};
    return value_hash(&today) == shown.hash ? 0 : refs_unsettle(s, p->tbl, &p->who, shown, value_hash(&v));
}

static int settle_pending(struct store *s, const struct afar *a) {
    struct pending_row *p, *next;
    int err = 0;
    HASH_ITER(hh, s->pending, p, next) {
        const struct tio *io = p->tbl->io;
        for (uint32_t k = 0; io && io->afar && k < io->count && !err; k++)
            if (io->afar[k] == a)
                err = settle_pending_cell(s, p, k);
    }
    return err;
}

int referrers_settle(struct store *s, struct afar *a, bool *wrote) {
    struct arena arena = {0};
    struct buf numbers;
    struct afar_row *until = a->due;
    for (int n = 0; until && n < SETTLED_ROWS; n++)
        until = until->next_due;
    buf_init(&numbers, 256u << 20);
    int err = a->looked ? 0 : settle_pending(s, a);
    a->looked = true;
    if (!err)
        err = due_numbers(s, a, until, &numbers);
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        for (uint32_t k = 0; io->tbl && io->afar && k < io->count && !err; k++) {
            struct child *children = NULL;
            if (io->afar[k] == a)
                err = find_children(s, io, k, &numbers, &arena, &children);
            for (const struct child *c = children; c && !err; c = c->next) {
                err = settle_child(s, a, io, k, &c->who, wrote);
                sqlite3_reset(io->read);
            }
        }
    }
    arena_release(&arena);
    buf_release(&numbers);
    for (struct afar_row *r = a->due; r != until && !err; r = r->next_due) {
        r->due = r->has_was = false;
        err = afar_keep(a, r);
    }
    if (!err)
        a->due = until;
    return err;
}
