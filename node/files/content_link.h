/* Starling node: one connection for content, from the moment it is handed over until its handle is closed: records and frames. What frames
 * mean is content.c's and serve.c's. */
#ifndef NODE_FILES_CONTENT_LINK_H
#define NODE_FILES_CONTENT_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/transport.h"
#include "proto/buf.h"
#include "proto/origin.h"

struct content_link;

struct content_link_config {
    uv_loop_t *loop;
    void *ctx;
    /* A whole frame's payload. Non-zero: it cannot be; the link is dropped. */
    int (*frame)(void *ctx, struct content_link *l, const uint8_t *payload, size_t len);
    void (*drained)(void *ctx, struct content_link *l);                       /* less than LINK_LOW_BYTES are queued */
    void (*closed)(void *ctx, struct content_link *l);                        /* freed when this returns */
    void (*passed)(void *ctx, struct content_link *l, size_t in, size_t out); /* bytes on the wire */
};

#define LINK_LOW_BYTES (256u << 10)
#define LINK_HIGH_BYTES (512u << 10)

struct content_link *content_link_new(const struct content_link_config *config, const uint8_t *peer, struct transport_handed *h,
                                      void *data);
const uint8_t *content_link_peer(const struct content_link *l);
void *content_link_data(const struct content_link *l);
/* From within frame(): the memory in which the frame is, which the caller frees; NULL: it is not by itself. */
uint8_t *content_link_take(struct content_link *l);
/* Seals and queues whole frames. */
void content_link_send(struct content_link *l, const uint8_t *frames, size_t len);
size_t content_link_queued(const struct content_link *l);
uint64_t content_link_quiet_ms(const struct content_link *l, uint64_t now); /* since something passed */
void content_link_pause(struct content_link *l, bool pause);                /* reads nothing meanwhile */
void content_link_drop(struct content_link *l);                             /* closes now; `closed` comes later */
bool content_link_up(const struct content_link *l);

#endif
