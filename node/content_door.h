/* Starling node: between the loop, which listens, dials and knows who is linked, and the thread that moves the content of files
 * (files/content.h). Two queues and a wake-up each; nothing else is shared.
 *
 *   loop ──▶ thread    a connection whose handshake is over; a peer is linked, or is not any more; a dial came to nothing
 *   thread ──▶ loop    dial this peer for content
 *
 * A connection for content is authenticated as any link is, and taken only of a peer that has a link: so the allow list, the secret, the
 * cluster's name and blocked servers are judged in one place. When the link ends the thread hears of it and ends the connection. */
#ifndef NODE_CONTENT_DOOR_H
#define NODE_CONTENT_DOOR_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/transport.h"
#include "proto/origin.h"

struct content_door;

enum door_event_type { DOOR_HANDED, DOOR_PEER_UP, DOOR_PEER_DOWN, DOOR_DIAL_FAILED };

struct door_event {
    enum door_event_type type;
    uint8_t peer[NODE_ID_BYTES];
    struct transport_handed handed; /* DOOR_HANDED: what it holds passes */
};

/* ---- the loop's side. NULL without memory. wanted: from the loop, of each peer that is to be dialled. */
struct content_door *door_new(uv_loop_t *loop, void (*wanted)(void *ctx, const uint8_t *peer), void *ctx);
void door_put(struct content_door *d,
              const struct door_event *e); /* any thread; without memory a connection is closed, and the rest comes again */
/* Before the loop ends: nothing is wanted any more. The other side may still be there. */
void door_shut(struct content_door *d);
/* What passed between this server and that peer on content links, since the start. */
void door_bytes(struct content_door *d, const uint8_t *peer, uint64_t *in, uint64_t *out);
void door_free(struct content_door *d); /* both sides are gone, and their handles closed */

/* ---- the thread's side */
int door_attach(struct content_door *d, uv_loop_t *loop, void (*event)(void *ctx, struct door_event *e), void *ctx);
void door_want(struct content_door *d, const uint8_t *peer);
void door_passed(struct content_door *d, const uint8_t *peer, size_t in, size_t out);
void door_detach(struct content_door *d, void (*closed)(void *ctx));
void transport_handed_release(struct transport_handed *h); /* closes it */

#endif
