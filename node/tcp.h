/* Starling node: one TCP connection, from accepted or dialled until its handle is closed. Between transport.c (listening, the table of
 * links), dial.c (connecting) and tcp.c (bytes). */
#ifndef NODE_TCP_H
#define NODE_TCP_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>
#include <uv.h>

#include "node/transport.h"

#define READ_BUFFER_BYTES 65536

/*  tcp_new()          transport_close_link()       queue empty          the other side closed too, or a second passed
 *  ─────────▶ STREAM_UP ─────────────────────▶ STREAM_FLUSHING ─▶ STREAM_SHUT ─────────────────────────▶ STREAM_CLOSING ─▶ freed
 *                └────── read or write error, end of file ──────────────────────────────────────────────▲
 * Shutting before closing: a socket closed with unread bytes resets the connection, and the reason we just sent is lost. */
enum stream_state { STREAM_UP, STREAM_FLUSHING, STREAM_SHUT, STREAM_CLOSING };

/* A piece of the stream that the socket has not taken yet. */
struct segment {
    struct bytes *bytes;
    size_t from, to;
    bool ours; /* filled by us: more may be appended up to bytes->len */
};

struct tcp {
    struct transport *transport;
    uint64_t id, dial;
    uv_tcp_t handle;
    uv_timer_t timer; /* bounds STREAM_FLUSHING and STREAM_SHUT */
    uv_write_t write;
    uv_shutdown_t shutdown;
    enum stream_state state;
    bool writing, told_open, dirty;
    int handles; /* not closed yet */
    uint64_t opened_ms;
    struct segment *queue;                               /* ring */
    uint32_t queue_at, queue_count, queue_cap, in_write; /* in_write: the first ones, held by the write under way */
    size_t queued;                                       /* bytes */
    char why[160];
    char address[ADDRESS_TEXT_MAX];
    UT_hash_handle hh;
};

struct dial;

#define DIAL_WHY_MAX 400

struct transport {
    struct transport_config config;
    uv_tcp_t listeners[2];
    int listeners_count, listeners_open;
    char listen_text[ADDRESS_HOST_MAX + 16];
    uint16_t port;
    struct tcp *links;
    uint64_t link_last;
    struct dial *dials;     /* under way */
    struct dial *failed;    /* to be told by transport_settle() */
    struct dial_said *said; /* addresses that the log says are refused */
    bool quiet, any_dirty, full_said;
    uint64_t stranger_said_ms;     /* when the log last said that a connection was refused */
    char failed_why[DIAL_WHY_MAX]; /* of the event that dial_next_failure() gave last */
    char *buffer;                  /* READ_BUFFER_BYTES, shared by all links: libuv asks and reads at once */
};

/* Takes over a connected socket: tcp must be an initialised handle inside the struct from tcp_alloc(). */
struct tcp *tcp_alloc(struct transport *t);    /* handle initialised; NULL without memory */
bool tcp_start(struct tcp *l, uint64_t dial);  /* reads from now on and tells LINK_OPEN; false: it closes itself */
void tcp_drop(struct tcp *l, const char *why); /* closes now */
void tcp_flush(struct tcp *l);
void tcp_append(struct tcp *l, const uint8_t *head, size_t head_len, struct bytes *batch, size_t from, size_t to);
void tcp_end(struct tcp *l, const char *why); /* flushes, then closes */

/* dial.c */
bool dial_next_failure(struct transport *t, struct event *e);
void dial_stop_all(struct transport *t);
void dial_release(struct transport *t);

#endif
