/* What the numbers of another database's rows mean in a file that is taken up: for the first time, or anew beside a cluster. The file shows them as
 * they were when it was served last, or when all of it was told to a first capture; the rows may have been given other numbers since. So this is
 * kept in the state, number by number, until the whole file was read and what refers to each row is shown under today's number: no error, no end of
 * the process and no second taking up on the way can lose it, and bind a number to whoever has it by then.
 *
 * A state that was set aside keeps what it knew. The mark in the file names the state that served it last, until our triggers are installed: what
 * that one knew is taken over before. */
#include <string.h>

#include "node/store/afar_state.h"
#include "proto/err.h"

/* Number, who, and his number then, the first row of each number counts: what the file may still show of who moved; who was told to have left the
 * number to another one, and did not yet; who had it; and whom it meant before he was gone. */
#define KNOWN                                                                                                                              \
    "SELECT name, n, ref, today FROM (SELECT name, was AS n, ref, number AS today, 0 AS rank FROM afar WHERE was NOT NULL UNION ALL"       \
    " SELECT name, number, ref, CASE state WHEN %d THEN number END, CASE state WHEN %d THEN 2 - (due & %d <> 0) ELSE 3 END FROM afar)"     \
    "%s ORDER BY rank"
#define KEPT "SELECT name, number, ref, today FROM before"

static int copy(struct store *s, sqlite3 *from, const char *select) {
    sqlite3_stmt *q = NULL, *put = NULL;
    int row, err = sql_prepare(from, &q, "%s", select);
    if (!err)
        err = sql_prepare(s->db, &put, "INSERT OR IGNORE INTO before VALUES(?, ?, ?, ?)");
    while (!err && (row = sql_step(q)) != 0) {
        for (int i = 0; i < 4 && row > 0; i++)
            sqlite3_bind_value(put, i + 1, sqlite3_column_value(q, i));
        err = row < 0 ? row : sql_run(put);
    }
    sqlite3_finalize(q);
    sqlite3_finalize(put);
    return err;
}

static int take_over(struct store *s, sqlite3 *from) {
    int64_t tables;
    int err = sql_int(from, 0, &tables, "SELECT count(*) FROM sqlite_schema WHERE name IN ('afar', 'before')");
    if (err || !tables || (err = state_begin(s)) || (err = sql_exec(s->db, "DELETE FROM before")))
        return err;
    if (tables > 1 && (err = copy(s, from, KEPT)))
        return err;
    char *known =
        sqlite3_mprintf(KNOWN, ROSTER_LIVES, ROSTER_LIVES, AFAR_BELOW, tables > 1 ? " WHERE name NOT IN (SELECT name FROM before)" : "");
    err = known ? copy(s, from, known) : ERR_NOMEM;
    sqlite3_free(known);
    return err;
}

int before_recall(struct store *s) {
    struct capture_mark mark;
    int err = capture_mark_read(s->app.writer, &mark);
    if (err || !mark.found || memcmp(mark.state, s->state_id, sizeof mark.state) == 0)
        return err;
    sqlite3 *from;
    if ((err = aside_find(s->config.state_path, s->config.vfs, mark.state, &from)) || !from)
        return err;
    err = take_over(s, from);
    sqlite3_close(from);
    return err || !s->in_tx || (err = state_commit(s)) ? err : state_sync(s);
}

int before_begin(struct store *s, struct afar *a) {
    sqlite3_stmt *put;
    struct afar_row *r, *next;
    if (a->recalls)
        return 0;
    a->recalls = true;
    int err = sql_prepare(s->db, &put, "INSERT OR IGNORE INTO before VALUES(%Q, ?, ?, ?)", a->name);
    for (int births = 1; births >= 0 && !err; births--) {
        HASH_ITER(hh, a->rows, r, next) {
            bool counts = births ? a->fresh && r->adopted : r->state == ROSTER_LIVES && afar_holder(a, r->number) == r;
            if (!counts || err)
                continue;
            sqlite3_bind_int64(put, 1, births ? r->born : r->number);
            sqlite3_bind_blob(put, 2, r->ref, r->len, SQLITE_STATIC);
            sqlite3_bind_int64(put, 3, r->number);
            err = sql_run(put);
        }
    }
    sqlite3_finalize(put);
    return err;
}

int before_means(const struct afar *a, int64_t number, struct afar_row **r) {
    *r = NULL;
    if (!a->recalls)
        return 0;
    sqlite3_bind_int64(a->before, 1, number);
    int row = sql_step(a->before);
    if (row == 1) {
        *r = afar_by_ref(a, sqlite3_column_blob(a->before, 0), (size_t)sqlite3_column_bytes(a->before, 0));
        bool known = *r && (*r)->state != ROSTER_VANISHED;
        if (!known && sqlite3_column_type(a->before, 1) != SQLITE_NULL) { /* his database was taken up anew, too */
            struct afar_row *as = afar_by_birth(a, sqlite3_column_int64(a->before, 1));
            *r = as ? as : *r;
        }
    } else if (row == 0 && a->fresh) { /* he came when nothing was told any more */
        *r = afar_by_birth(a, number);
        row = *r != NULL;
    }
    sqlite3_reset(a->before);
    return row;
}

int before_over(struct store *s) {
    for (struct afar *a = s->afar; a; a = a->next) {
        if (!(a->recalls || a->unheard) || !a->complete || a->due || s->scan || s->file != FILE_OURS)
            continue;
        int err = state_begin(s);
        if (err || (err = sql_exec(s->db, "DELETE FROM before WHERE name=%Q; DELETE FROM meta WHERE k='unheard %q'", a->name, a->name)))
            return err;
        a->recalls = a->unheard = false;
    }
    return 0;
}
