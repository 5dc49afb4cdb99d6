/* Starling node: encrypted TCP for the protocol core. Listens, dials, finds out who is there, moves bytes; knows nothing of what they mean.
 * Connections for content are handed over once it is known who is there.
 *
 * Calls on the transport never call back. What happens is told from the loop's callbacks through `event`, and what a call caused at once
 * (a dial that cannot be made, bytes that the socket took) by transport_settle(), which the node calls after each round. */
#ifndef NODE_TRANSPORT_H
#define NODE_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/address.h"
#include "node/log.h"
#include "proto/core.h"
#include "proto/secure.h"

struct allow;
struct transport;

/* A connection whose handshake is over and that is no link: it leaves the transport, to be served elsewhere. Whoever gets it owns all. */
struct transport_handed {
    int fd;
    uint64_t dial; /* ours; 0: accepted */
    struct secure secure;
    struct buf out;  /* of the handshake: to be written first */
    struct buf rest; /* came behind the handshake: not opened yet */
};

struct transport_config {
    uv_loop_t *loop;
    struct log *log;
    const char *listen;             /* HOST:PORT */
    const struct secure_keys *keys; /* borrowed; the secrets in it may change */
    const struct allow *allow;      /* borrowed */
    void *ctx;
    void (*event)(void *ctx, struct event *e);             /* LINK_OPEN, LINK_DATA, LINK_CLOSED, DIAL_FAILED */
    bool (*greeted)(void *ctx, uint64_t link);             /* is this link one of a member that we know? */
    void (*handed)(void *ctx, struct transport_handed *h); /* a content connection; what h holds passes */
};

/* Listens. On failure one line in why. 0, ERR_BUSY (address in use), ERR_DENIED, ERR_IO, ERR_USAGE. */
int transport_open(struct transport **out, const struct transport_config *config, char *why, size_t why_len);
/* Stops listening and dialling; links stay. */
void transport_quiet(struct transport *t);
/* Closes everything at once; freed when the loop has run the close callbacks (transport_gone() then). */
void transport_close(struct transport *t);
bool transport_gone(const struct transport *t);
void transport_free(struct transport *t);

const char *transport_listen_text(const struct transport *t); /* HOST:PORT with the real port */
uint16_t transport_port(const struct transport *t);
bool transport_resolving(const struct transport *t); /* a name is being looked up, which cannot be ended before its time */
uint32_t transport_links(const struct transport *t);
uint32_t transport_rtt_us(const struct transport *t, uint64_t link); /* the kernel's figure; 0 unknown */

/* Ends the links with addresses that are not allowed any more. */
void transport_recheck(struct transport *t);

/* The core's effects. A dial with TRANSPORT_CONTENT in its number is for content: it ends in `handed`, or in DIAL_FAILED. */
#define TRANSPORT_CONTENT (UINT64_C(1) << 63)
void transport_dial(struct transport *t, uint64_t dial, const char *address);
void transport_send(struct transport *t, const struct effect *e);
void transport_close_link(struct transport *t, uint64_t link, const char *why);
/* Writes what was queued; then gives one event at a time that the calls above caused. False: none is left. */
bool transport_settle(struct transport *t, struct event *e);

#endif
