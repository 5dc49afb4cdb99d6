/* A scan finds rows in the order of their keys, and one that refers to a row behind it, which came or lives again without a note as itself does, is told
 * before that one has an identity: it would mean the dead row that had the number before, or a number and no more. So whom it means gets its
 * identity now, and is told right behind it, in the same batch. */
#include "node/store/forward.h"

#include <stdlib.h>

#include "proto/err.h"

#define FORWARD_MAX 5000u /* in a chain or a circle of references; beyond, a reference may miss */

struct forward { /* to be told behind the row at hand */
    struct forward_place {
        const struct tbl *tbl;
        int64_t number;
    } * list;
    uint32_t count, cap, done;
    bool on;
};

/* Are its rows found without notes, with no other name, or key, that would say who they are? */
static bool found_here(const struct store *s, const struct tbl *t) {
    return t->io && t->shape == SHAPE_NUMBER && t->placed > 0 && !t->renamed_from && !t->io->key_ref && !t->lost &&
           (!t->captured || !scan_running(s));
}

static bool known(const struct store *s, const struct tbl *t) {
    struct origins_order o = store_order(s);
    struct rowid who = s->meant.who;
    const struct pending_row *p = reg_known(&s->meant) ? pending_find((struct store *)(uintptr_t)s, t, &who) : NULL;
    return p ? p->present : reg_alive(&s->meant, &o);
}

int forward_means(struct store *s, const struct tbl *t, int64_t number, struct rowid *who) {
    struct forward *a = s->forward;
    int64_t there = 0;
    if (!a || !a->on || !found_here(s, t) || known(s, t))
        return 0;
    *who = (struct rowid){.kind = IDENT_BORN, .number = number, .origin = s->own, .version = s->origins[s->own].version + 1};
    for (uint32_t i = a->done; i < a->count; i++)
        if (a->list[i].tbl == t && a->list[i].number == number)
            return 1;
    if (a->count == FORWARD_MAX)
        return 0;
    if (a->count == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 16;
        struct forward_place *p = realloc(a->list, cap * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        a->list = p;
        a->cap = cap;
    }
    const struct table *table = t->io->table;
    int err = sql_int(s->app.reader, 0, &there, "SELECT EXISTS (SELECT 1 FROM main.\"%w\" WHERE \"%w\"=%lld)", table->name,
                      table->columns[table->key[0]].name, (long long)number);
    if (!err && there)
        a->list[a->count++] = (struct forward_place){t, number};
    return err ? err : there != 0;
}

int forward_row(struct store *s, struct row_look *look) {
    struct forward *a = s->forward ? s->forward : (s->forward = calloc(1, sizeof *a));
    if (!a)
        return ERR_NOMEM;
    a->on = true;
    int err = drain_row(s, look);
    for (; a->done < a->count && !err; a->done++) { /* more may come while they are told */
        struct tio *io = a->list[a->done].tbl->io;
        struct row_look next = {.io = io, .place = {.kind = IDENT_GIVEN, .number = a->list[a->done].number}, .ms = look->ms, .born = true};
        if (!(err = drain_look(s, &next, io->read)) && next.present)
            err = drain_row(s, &next);
        sqlite3_reset(io->read);
    }
    a->on = false;
    a->count = a->done = 0;
    return err;
}

void forward_release(struct store *s) {
    if (s->forward)
        free(s->forward->list);
    free(s->forward);
    s->forward = NULL;
}
