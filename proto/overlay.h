/* Starling: from a full mesh to partial views, and back. Up to mesh_max members everybody is linked with everybody. Beyond, a node is linked
 * with its active view alone (hyparview.h), batches go along a tree over these links (plumtree.h), and it becomes a mesh again when
 * fewer than four fifths of mesh_max are there: so a cluster at the border does not swing.
 *
 *   how many       Those who proved to live: a hostile member can announce others that are not there, and must not take a small cluster's mesh
 *                  from it. See count().
 *   who is there   A mesh knows by links. Here only neighbours have links, so the word goes round: a member is alive until somebody who
 *                  cannot reach it says that it is in doubt, and then that it is dead; whoever hears so of himself takes a higher
 *                  incarnation, which takes the word back (SWIM's rumours). All know all, up to MEMBERS_MAX; beyond, a node keeps
 *                  those that it heard of last, and its views are drawn from them.
 *   visits         Each node links with a random member now and then, for a moment: they compare what they know of members and have of
 *                  databases, and fetch what differs. That is the anti-entropy below the tree, and finds members that died with
 *                  all who watched them; and those that were called dead since the cluster was in parts: with them a link is made
 *                  that stays.
 *   links          Of a link that nobody needs any more DISCONNECT is said before it is closed: then nothing is suspected. */
#ifndef PROTO_OVERLAY_H
#define PROTO_OVERLAY_H

#include "proto/hyparview.h"
#include "proto/plumtree.h"

struct core;
struct db;
struct link;
struct peer;
struct wire_overlay;

struct overlay {
    bool on;
    uint64_t look_ms, looked_ms, visit_ms, search_ms;
    uint32_t visits;
    struct hyparview views;
    struct plumtree tree;
    struct hyparview_out out;
};

void overlay_init(struct core *core);
/* Somebody came or went: how many are there? */
void overlay_news(struct core *core);
/* Is there, or may there be, a link with p? */
bool overlay_wants(const struct core *core, const struct peer *p);
void overlay_visit(struct core *core, const uint8_t id[NODE_ID_BYTES]); /* EVENT_VISIT */
bool overlay_content(const struct core *core);                          /* it has neighbours: seeds need not be dialled */
void overlay_linked(struct core *core, struct link *l);
void overlay_unlinked(struct core *core, struct peer *p, bool bye);
void overlay_unreached(struct core *core, struct peer *p); /* the dial failed */
void overlay_doubt(struct core *core, struct peer *p);     /* it was alive, and cannot be heard: all are told */
int overlay_receive(struct core *core, struct link *l, const struct wire_overlay *w);
/* Does what is new here go to this link's peer at once? */
bool overlay_eager(const struct core *core, const struct link *l);
bool overlay_stays(const struct core *core, const struct link *l);      /* its link is one of the mesh, or with a neighbour */
bool overlay_spares(const struct core *core, const struct peer *p);     /* it is none of the names in the views of a large cluster */
void overlay_pushed(struct core *core, struct link *l, bool duplicate); /* a batch came by push */
void overlay_ask(struct core *core, struct link *l);                    /* something that was announced is asked of it */
void overlay_timers(struct core *core);

#endif
