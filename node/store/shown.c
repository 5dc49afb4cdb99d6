/* What the application's file showed when: an author has seen what had been on show for a while before the write. The last seconds are in
 * memory; of what was before them a vector is kept with the origins, so that a restart forgets nothing that was seen. */
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

int shown_entry(struct store *s, int64_t ms, bool known) {
    if (s->shown_count == s->shown_cap) {
        uint32_t cap = s->shown_cap ? s->shown_cap * 2 : 16;
        struct shown_at *p = realloc(s->shown, cap * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        s->shown = p;
        s->shown_cap = cap;
    }
    struct shown_at *e = &s->shown[s->shown_count];
    if (!(e->versions = malloc((s->origins_count + 1) * sizeof *e->versions)))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < s->origins_count; i++)
        e->versions[i] = known ? s->origins[i].known : s->origins[i].shown;
    e->count = s->origins_count;
    e->ms = ms;
    s->shown_count++;
    return 0;
}

/* What is shown since now. Entries within 50 ms are one (the later time counts), so that the list stays short. */
void shown_push(struct store *s) {
    int64_t now = store_wall_ms(s);
    uint32_t keep = 0;
    while (keep + 1 < s->shown_count && s->shown[keep + 1].ms <= now - SHOWN_KEEP_MS)
        free(s->shown[keep++].versions);
    if (keep)
        memmove(s->shown, s->shown + keep, (s->shown_count - keep) * sizeof *s->shown);
    s->shown_count -= keep;
    if (s->shown_count > 1 && now - s->shown[s->shown_count - 2].ms < 50)
        free(s->shown[--s->shown_count].versions);
    shown_entry(s, now, false);
}

void shown_knew(struct store *s, int64_t ms, struct seen *out) {
    out->count = 0;
    out->versions = NULL;
    for (uint32_t i = 0; i < s->shown_count; i++)
        if (s->shown[i].ms <= ms - SHOWN_RECENT_MS) {
            out->versions = s->shown[i].versions;
            out->count = s->shown[i].count;
        }
}

/* Something is about to be shown: what has been on show for a while is seen, and stays so if the node ends now. */
void shown_keep(struct store *s, int64_t now) {
    struct seen seen;
    shown_knew(s, now, &seen);
    for (uint32_t i = 0; i < seen.count; i++)
        if (s->origins[i].known != seen.versions[i]) {
            s->origins[i].known = seen.versions[i];
            s->origins[i].changed = true;
        }
}
