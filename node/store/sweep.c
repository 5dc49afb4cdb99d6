/* Starling store: names of tables in the state that nothing refers to any more. A migration leaves them behind: tables that were there for a moment
 * (`_alembic_tmp_x`), and tables that were dropped without ever having had a row. They go when the state is opened, before anything of it is in
 * memory. A name whose register holds anything stays, dead rows too: somebody may write to them. So does the highest number that triggers ever
 * had, since notes of a dropped table may still lie in the application's file. */
#include "node/store/engine.h"
#include "proto/err.h"

/* Does any table of the state name this number, its columns aside? */
static int is_named(struct store *s, int64_t no, bool *named) {
    sqlite3_stmt *q;
    int64_t n = 0;
    int row = sql_prepare(
        s->db, &q,
        "SELECT m.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type='table' AND c.name='tbl' AND m.name<>'col'"
        " UNION ALL SELECT name FROM sqlite_schema WHERE type='table' AND name='r%lld'",
        (long long)no);
    *named = false;
    while (!row && !*named && (row = sql_step(q)) == 1) {
        const char *name = (const char *)sqlite3_column_text(q, 0);
        row = name[0] == 'r' && name[1] <= '9'
                  ? sql_int(s->db, 0, &n, "SELECT EXISTS (SELECT 1 FROM \"%w\")", name)
                  : sql_int(s->db, 0, &n, "SELECT EXISTS (SELECT 1 FROM \"%w\" WHERE tbl=%lld)", name, (long long)no);
        *named = n != 0;
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}

static int forget(struct store *s, int64_t no) {
    return sql_exec(s->db,
                    "DROP TABLE IF EXISTS r%lld; DELETE FROM col WHERE tbl=%lld; DELETE FROM meta WHERE k GLOB 'converted %lld *';"
                    "DELETE FROM tbl WHERE no=%lld",
                    (long long)no, (long long)no, (long long)no, (long long)no);
}

int state_sweep(struct store *s) {
    sqlite3_stmt *q;
    int64_t busy = 0, no = -1;
    int err = sql_int(s->db, 0, &busy, "SELECT EXISTS (SELECT 1 FROM flight) OR EXISTS (SELECT 1 FROM shown)"), row;
    if (err || busy || (err = state_begin(s))) /* these name tables inside their blobs */
        return err;
    if ((err = sql_exec(s->db,
                        "INSERT INTO meta SELECT 'numbers', max(abs(placed)) FROM tbl WHERE placed<>%lld HAVING count(*)"
                        " ON CONFLICT(k) DO UPDATE SET v=max(v, excluded.v)",
                        (long long)TABLE_GONE)))
        return err;
    do {
        bool named = true;
        if ((err = sql_prepare(s->db, &q, "SELECT no FROM tbl WHERE rows=0 AND placed<=0 AND no>%lld ORDER BY no LIMIT 1", (long long)no)))
            return err;
        if ((row = sql_step(q)) == 1)
            no = sqlite3_column_int64(q, 0);
        sqlite3_finalize(q);
        if (row == 1 && !(err = is_named(s, no, &named)) && !named)
            err = forget(s, no);
    } while (!err && row == 1);
    if (err || row < 0)
        return err ? err : row;
    err = sql_run(s->s_commit);
    s->in_tx = false;
    return err ? err : sql_int(s->db, 0, &s->numbers, "SELECT v FROM meta WHERE k='numbers'");
}
