/* Which file stands in the application's place: the one that this state knows, or another.
 *
 * The row in _starling_mark names the state that serves the file, from the moment on when our triggers are installed; and the state knows that it
 * must be there. If it is not, or names another state:
 *
 *   FILE_STRIPPED  our triggers and tables were removed from the file that we knew (`starling uninstall`, or by hand): what the application wrote
 *                  since is its own, and found by a rescan. PRAGMA schema_version never goes back in one file, and rises by one with each thing of ours
 *                  that is removed: it tells.
 *   FILE_OTHER     another file: deleted and made anew by the application, a backup from before the node first ran, or a database of another
 *                  server, with that one's notes and mark. What is in it was not written by somebody who knew what the registers say: older.c.
 *
 * What was found is remembered until it is dealt with: once our triggers are installed, the two look alike. */
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

static int remember(struct store *s, enum file_kind found) {
    bool amid = s->in_tx; /* a merge: what it has begun is not to be kept by itself */
    int err = state_begin(s);
    if (err || (err = sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('file', %d)", found)))
        return err;
    s->file = found;
    return amid || (err = state_commit(s)) ? err : state_sync(s);
}

static int count_triggers(struct store *s, int64_t *count) {
    return sql_int(s->app.writer, 0, count,
                   "SELECT count(*) FROM main.sqlite_schema WHERE type='trigger' AND name GLOB '_starling_[0-9]*'");
}

struct capture_mark generation_mark(const struct store *s) {
    struct capture_mark mark = {.projection = s->hot.projected_seq, .note = s->hot.note_seq};
    memcpy(mark.state, s->state_id, sizeof mark.state);
    return mark;
}

int generation_look(struct store *s) {
    struct capture_mark mark;
    int64_t gone_at, triggers, known;
    int err = sql_int(s->db, FILE_OURS, &known, "SELECT v FROM meta WHERE k='file'");
    if (err || (err = capture_mark_read(s->app.writer, &mark)))
        return err;
    s->file = (enum file_kind)known;
    s->marked = mark.found && memcmp(mark.state, s->state_id, sizeof mark.state) == 0;
    if (s->marked || s->file != FILE_OURS || (err = sql_int(s->db, -1, &gone_at, "SELECT v FROM meta WHERE k='gone_at'")) || gone_at < 0)
        return err;
    if ((err = count_triggers(s, &triggers)))
        return err;
    return remember(s, !mark.found && (triggers || s->schema.version >= gone_at) ? FILE_STRIPPED : FILE_OTHER);
}

/* Is the schema as it was when we last looked? */
int generation_kept(struct store *s, bool *kept) {
    int64_t triggers, gone_at = -1;
    int err = count_triggers(s, &triggers);
    if (!err)
        err = sql_int(s->db, -1, &gone_at, "SELECT v FROM meta WHERE k='gone_at'");
    *kept = gone_at == s->schema.version + triggers + 2; /* each trigger, the notes and the marks */
    return err;
}

int generation_keep(struct store *s) {
    int64_t triggers;
    bool kept;
    int err = generation_kept(s, &kept);
    s->marked = true;
    if (err || kept || (err = count_triggers(s, &triggers)))
        return err;
    err = state_begin(s);
    return err ? err
               : sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('gone_at', %lld)", (long long)(s->schema.version + triggers + 2));
}

int generation_done(struct store *s) {
    if (s->file == FILE_OURS)
        return 0;
    int err = state_begin(s);
    s->file = FILE_OURS;
    return err ? err : sql_exec(s->db, "DELETE FROM meta WHERE k='file'");
}
