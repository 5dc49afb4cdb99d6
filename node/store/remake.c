/* A file that is gone, and that this state served: made again here, from the schemas in the log, and filled from the registers. As a database that
 * is fetched for the first time it follows columns from then on. */
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

/* Nothing is shown anywhere any more: all of it is shown, table by table as they are made (moves.c). */
static int forget_file(struct store *s) {
    pending_clear(s);
    int err = state_begin(s);
    if (err ||
        (err = sql_exec(s->db, "DELETE FROM shown; DELETE FROM flight; DELETE FROM place; DELETE FROM meta WHERE k='file';"
                               "UPDATE col SET placed=0; DELETE FROM large")) ||
        (err = follow_forget(s)))
        return err;
    s->hot.note_seq = s->hot.note_nonce = s->durable_note = 0;
    s->hot.projected_seq = s->hot.flight_seq;
    for (uint32_t i = 0; i < s->tbls_count; i++) {
        struct tbl *t = s->tbls[i];
        t->placed = 0;
        t->captured = t->itself = false;
        t->dirty = true;
        for (uint32_t c = 0; c < t->columns_count; c++)
            t->moves[c].placed = t->moves[c].noted = COLUMN_NEVER;
    }
    s->too_large = 0;
    if ((err = state_commit(s)))
        return err;
    return state_sync(s);
}

/* The last schema that this origin told. */
static int take_schema_of(struct store *s, uint32_t origin) {
    int err = 0;
    bool found = false;
    for (uint64_t v = s->origins[origin].version; v > 0 && !found && !err; v--) {
        struct bytes *b;
        if ((err = log_read(s, origin, v, &b)))
            return err == ERR_NOTFOUND ? 0 : err;
        struct batch_reader *reader = batch_reader_new();
        err = reader ? batch_reader_open(reader, b->data, b->len) : ERR_NOMEM;
        found = !err && schema_told(reader);
        if (found && !(err = state_begin(s)))
            err = schema_take(s, reader, origin, v);
        batch_reader_free(reader);
        bytes_unref(b);
    }
    return err;
}

int remake(struct store *s) {
    bool any = false;
    for (uint32_t i = 0; i < s->origins_count; i++)
        any = any || s->origins[i].version;
    if (!any) /* never served: the first batch brings the schema */
        return 0;
    store_log(s, LOG_WARNING, "%s: the file is gone: it is made again from what this node knows", s->config.db);
    int err = forget_file(s);
    for (uint32_t i = 0; i < s->origins_count && !err; i++) /* what this server had, before what others have */
        if (memcmp(s->origin_ids[i].node, s->origin_ids[s->own].node, NODE_ID_BYTES) == 0)
            err = take_schema_of(s, i);
    for (uint32_t i = 0; i < s->origins_count && !err; i++)
        if (memcmp(s->origin_ids[i].node, s->origin_ids[s->own].node, NODE_ID_BYTES) != 0)
            err = take_schema_of(s, i);
    if (!err && s->in_tx && !(err = state_commit(s)))
        err = state_sync(s);
    return err;
}
