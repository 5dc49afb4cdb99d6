/* Parts of a commit: how much a projection shows at once, and what becomes of parts whose last one does not come. */
#include <stdlib.h>

#include "node/store/engine.h"

/* The last flight of the next projection: whole batches, about PROJECT_ROWS rows, but all parts of a commit together, unless they are more
 * than BATCH_ROWS_MAX rows. Nothing (the last one shown) while a commit's last part is not here. */
int64_t project_last_flight(struct store *s) {
    bool small[64] = {false}, *open = small;
    uint32_t rows = 0, parts = 0, parts_rows = 0;
    int64_t seq = s->hot.projected_seq;
    if (s->origins_count > 64 && !(open = calloc(s->origins_count, sizeof *open)))
        return seq;
    for (struct flight *f = s->flights; f; f = f->next) {
        if (rows && !parts && rows + f->ops_count > PROJECT_ROWS)
            break;
        rows += f->ops_count;
        if (f->part != open[f->origin])
            parts += f->part ? 1 : (uint32_t)-1;
        open[f->origin] = f->part;
        parts_rows = parts ? parts_rows + f->ops_count : 0;
        if (!parts || parts_rows > BATCH_ROWS_MAX)
            seq = f->seq;
    }
    if (open != small)
        free(open);
    return seq;
}

/* Parts whose last one does not come: their rows are held one by one, and what is behind them goes on. */
int project_hold_parts(struct store *s) {
    int err = state_begin(s);
    for (struct flight *f = s->flights; f && !err; f = f->next) {
        if (f->part) {
            err = pending_merge_before(s, &f->before, f->origin + 1);
            f->part = false;
        }
    }
    return err;
}

bool project_blocked(struct store *s) { return s->flights && project_last_flight(s) == s->hot.projected_seq; }
