/* Starling: along which links of a large cluster fresh batches go. Plumtree (J. Leitão, J. Pereira, L. Rodrigues: Epidemic broadcast trees,
 * SRDS 2007): the links of the active view over which a batch came first form a tree, and the others only announce.
 *
 *   eager    what is new here is pushed to it at once
 *   lazy     it is told that it is here (the paper's IHAVE), and asks for it if it does not come
 *   PRUNE    a push that was here already came over an edge too many: that link becomes lazy at both ends
 *   GRAFT    what was announced and did not come is asked of whoever announced it, and that link becomes eager at both ends: so the tree
 *            heals where it broke
 *
 * One tree serves all authors. Announcements, asking and their patience are no part of this: VECTORs say what is here and PULLs ask for it
 * anyway, in sizes of their own (announce.c, pull.c). */
#ifndef PROTO_PLUMTREE_H
#define PROTO_PLUMTREE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/hyparview.h"

struct plumtree {
    uint32_t count;
    struct {
        hyparview_id id;
        bool lazy;
    } links[HYPARVIEW_ACTIVE_MAX];
};

void plumtree_up(struct plumtree *t, const hyparview_id id); /* a new neighbour: eager */
void plumtree_down(struct plumtree *t, const hyparview_id id);
/* Is what is new here pushed to id? */
bool plumtree_eager(const struct plumtree *t, const hyparview_id id);
/* A push came from a neighbour, and was here already, or not. True: tell it PRUNE. */
bool plumtree_pushed(struct plumtree *t, const hyparview_id from, bool duplicate);
/* Something that did not come by itself is asked of id. True: tell it GRAFT. */
bool plumtree_ask(struct plumtree *t, const hyparview_id id);
/* It said GRAFT, or PRUNE. */
void plumtree_told(struct plumtree *t, const hyparview_id from, bool graft);

#endif
