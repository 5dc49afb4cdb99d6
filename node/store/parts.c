/* Parts of a commit: how much a projection shows at once, and what becomes of parts whose last one does not come. */
#include <stdlib.h>

#include "node/store/engine.h"

/* Whole batches, about so many rows, but all parts of a commit together, unless they are more than BATCH_ROWS_MAX rows. Nothing (the last one
 * shown) while a commit's last part is not here. */
static int64_t last_flight(struct store *s, uint32_t most) {
    bool small[64] = {false}, *open = small;
    uint32_t rows = 0, parts = 0, parts_rows = 0;
    int64_t seq = s->hot.projected_seq;
    if (s->origins_count > 64 && !(open = calloc(s->origins_count, sizeof *open)))
        return seq;
    for (struct flight *f = s->flights; f; f = f->next) {
        if (rows && !parts && rows + f->ops_count > most)
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

/* A row that is shown from the registers is as the last flight leaves it: ahead of that commit nobody may see it. */
int64_t project_last_flight(struct store *s) {
    struct pending_row *row, *next;
    uint32_t most = PROJECT_ROWS;
    HASH_ITER(hh, s->pending, row, next) {
        if (pending_wants_showing(row)) {
            most = BATCH_ROWS_MAX;
            break;
        }
    }
    return last_flight(s, most);
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

bool project_blocked(struct store *s) { return s->flights && last_flight(s, PROJECT_ROWS) == s->hot.projected_seq; }
