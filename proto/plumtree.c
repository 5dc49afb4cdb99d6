#include "proto/plumtree.h"

#include <assert.h>
#include <string.h>

static uint32_t find(const struct plumtree *t, const hyparview_id id) {
    uint32_t i = 0;
    while (i < t->count && memcmp(t->links[i].id, id, NODE_ID_BYTES) != 0)
        i++;
    return i;
}

/* True when that changed it. */
static bool set(struct plumtree *t, const hyparview_id id, bool lazy) {
    uint32_t at = find(t, id);
    if (at == t->count || t->links[at].lazy == lazy)
        return false;
    t->links[at].lazy = lazy;
    return true;
}

void plumtree_up(struct plumtree *t, const hyparview_id id) {
    uint32_t at = find(t, id);
    if (at == t->count) {
        assert(t->count < HYPARVIEW_ACTIVE_MAX);
        t->count++;
    }
    memcpy(t->links[at].id, id, NODE_ID_BYTES);
    t->links[at].lazy = false;
}

void plumtree_down(struct plumtree *t, const hyparview_id id) {
    uint32_t at = find(t, id);
    if (at < t->count)
        t->links[at] = t->links[--t->count];
}

bool plumtree_eager(const struct plumtree *t, const hyparview_id id) {
    uint32_t at = find(t, id);
    return at < t->count && !t->links[at].lazy;
}

bool plumtree_pushed(struct plumtree *t, const hyparview_id from, bool duplicate) { return set(t, from, duplicate) && duplicate; }

bool plumtree_ask(struct plumtree *t, const hyparview_id id) { return set(t, id, false); }

void plumtree_told(struct plumtree *t, const hyparview_id from, bool graft) { set(t, from, !graft); }
