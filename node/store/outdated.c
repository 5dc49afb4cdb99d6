/* Requests that read a number just before its row was given another one. For 2 s after that the number, where an application refers to a row by it,
 * still means the row that had it: nobody reads, thinks and writes faster. In memory alone: a request does not outlive a restart. */
#include <stdlib.h>

#include "node/store/outdated.h"
#include "proto/err.h"

struct outdated {
    struct outdated *next; /* newest first */
    struct tbl *tbl;
    struct rowid who;
    int64_t number, ms; /* that it had until then */
};

int outdated_note(struct store *s, struct tbl *t, const struct rowid *who, int64_t number) {
    int64_t now = store_wall_ms(s);
    for (struct outdated **at = &s->outdated; *at; at = &(*at)->next)
        if ((*at)->ms < now - SHOWN_KEEP_MS) {
            outdated_forget(at);
            break;
        }
    struct outdated *l = malloc(sizeof *l);
    if (!l)
        return ERR_NOMEM;
    *l = (struct outdated){s->outdated, t, *who, number, now};
    s->outdated = l;
    return 0;
}

/* A write of the drain at hand may have thrown it out by a UNIQUE value, and that is not known of it yet. */
static int in_file(struct store *s, const struct tbl *t, const struct rowid *who) {
    int64_t there = 1;
    int err = t->io ? sql_int(s->app.reader, 0, &there, "SELECT EXISTS(SELECT 1 FROM main.\"%w\" WHERE \"%w\"=%lld)", t->io->table->name,
                              t->io->table->columns[t->io->table->key[0]].name, (long long)numbers_home(t, who))
                    : 0;
    return err ? err : there != 0;
}

/* Of several that had it within that time, the first: it is the one that was there to be read all the while. Who deleted it meanwhile knew its new
 * number. */
int outdated_means(struct store *s, const struct tbl *t, int64_t number, int64_t ms, struct rowid *who) {
    struct origins_order o = store_order(s);
    const struct outdated *found = NULL;
    bool home;
    for (const struct outdated *l = s->outdated; l && l->ms > ms - SHOWN_RECENT_MS; l = l->next)
        if (l->tbl == t && l->number == number)
            found = l;
    if (!found)
        return 0;
    *who = found->who;
    int err = rows_find(s, t, who, &s->meant, &home);
    return err ? err : reg_alive(&s->meant, &o) ? in_file(s, t, who) : 0;
}

void outdated_pass(struct store *s, int64_t ms) {
    for (struct outdated *l = s->outdated; l; l = l->next)
        l->ms -= ms;
}

void outdated_forget(struct outdated **list) {
    while (*list) {
        struct outdated *next = (*list)->next;
        free(*list);
        *list = next;
    }
}
