/* Starling node: one TCP connection, from accepted or dialled until its handle is closed. Between transport.c (listening, the table of
 * links), dial.c (connecting) and tcp.c (bytes). */
#ifndef NODE_TCP_H
#define NODE_TCP_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>
#include <uv.h>

#include "node/transport.h"
#include "proto/secure.h"
#include "proto/squeeze.h"

#define READ_BUFFER_BYTES 65536
#define DIAL_WHY_MAX 400
#define SAID_RING 64
#define SEAL_BYTES 65536 /* sealed at a time: more only when the socket took these */

/*  tcp_start()        handshake over         transport_close_link()       all written         the other side closed too, or a second passed
 *  ─────▶ STREAM_SHAKING ─────▶ STREAM_UP ─────────────────▶ STREAM_FLUSHING ─▶ STREAM_SHUT ─────────────────────────▶ STREAM_CLOSING ─▶ freed
 *               │ refused ────────┼──────────────────────────▶                                                          ▲
 *               └─────────────────┴──── read or write error, end of file, silence ─────────────────────────────────────┘
 * The core hears LINK_OPEN at STREAM_UP, with the key that the other side has proven; of a dialled link that never gets there, DIAL_FAILED.
 * Shutting before closing: a socket closed with unread bytes resets the connection, and the reason we just sent is lost. */
enum stream_state { STREAM_SHAKING, STREAM_UP, STREAM_FLUSHING, STREAM_SHUT, STREAM_CLOSING };

/* A piece of the stream, not sealed yet: one batch in memory serves all links. */
struct segment {
    struct bytes *bytes;
    size_t from, to;
    bool ours; /* filled by us: more may be appended up to bytes->len */
};

struct tcp {
    struct transport *transport;
    uint64_t id, dial;
    uv_tcp_t handle;
    uv_timer_t timer; /* bounds all states but STREAM_UP; there it ends what is compressed, once the link is quiet */
    uv_write_t write;
    uv_shutdown_t shutdown;
    enum stream_state state;
    bool accepted; /* not dialled */
    bool named;    /* dialled by a name that is allowed wherever it leads */
    bool writing, told_open, dirty;
    bool greeted; /* the core has said whose link it is */
    bool sealed;  /* the last record is in `out` */
    bool refused; /* it failed because one of us does not want the other */
    int handles;  /* not closed yet */
    uint64_t opened_ms;
    struct secure secure;
    struct squeeze squeeze;
    uint64_t squeezed_ms;       /* when something was sent last that a stream takes */
    uint64_t wire_in, wire_out; /* bytes that passed the socket */
    struct segment *queue;      /* ring */
    uint32_t queue_at, queue_count, queue_cap;
    size_t queued;  /* bytes in it */
    struct buf out; /* sealed, or of the handshake; from out_from on the socket has not taken it. Untouched while writing */
    size_t out_from;
    char why[DIAL_WHY_MAX];
    char address[ADDRESS_TEXT_MAX];
    struct sockaddr_storage peer;
    UT_hash_handle hh;
};

struct dial;

struct transport {
    struct transport_config config;
    uv_tcp_t listeners[2];
    int listeners_count, listeners_open;
    char listen_text[ADDRESS_HOST_MAX + 16];
    uint16_t port;
    uv_timer_t hurry; /* runs while a connection waits */
    uv_timer_t trim;  /* runs after a link gave back what compresses: soon no other does, and all that goes to the system */
    struct tcp *links;
    uint64_t link_last;
    struct dial *dials;  /* under way */
    struct dial *failed; /* to be told by transport_settle() */
    bool quiet, any_dirty;
    bool waiting[2]; /* this listener's next connection is not accepted before there is room for a stranger */
    struct {
        uint64_t hash, ms;
    } said[SAID_RING];
    uint32_t said_next;
    char failed_why[DIAL_WHY_MAX];    /* of the event that dial_next_failure() gave last */
    char *buffer;                     /* READ_BUFFER_BYTES, shared by all links: libuv asks and reads at once */
    uint8_t *plain;                   /* SECURE_RECORD_MAX, one record before it is sealed or after it was opened */
    uint8_t room[SQUEEZE_RECORD_MAX]; /* and what it holds, or what it is made of */
};

/* Takes over a connected socket: tcp must be an initialised handle inside the struct from tcp_alloc(). */
struct tcp *tcp_alloc(struct transport *t);    /* handle initialised; NULL without memory */
bool tcp_start(struct tcp *l, uint64_t dial);  /* reads from now on and begins the handshake; false: it closes itself */
void tcp_drop(struct tcp *l, const char *why); /* closes now */
void tcp_flush(struct tcp *l);
void transport_rests(struct transport *t); /* what compresses a link was given back */
void tcp_append(struct tcp *l, const uint8_t *head, size_t head_len, struct bytes *batch, size_t from, size_t to);
void tcp_end(struct tcp *l, const char *why); /* flushes, then closes */
size_t tcp_queued(const struct tcp *l);       /* bytes that the socket has not taken */

/* shake.c: until it is known who is there */
bool shake_start(struct tcp *l);                                 /* false: it closes itself */
void shake_read(struct tcp *l, const uint8_t *data, size_t len); /* bytes behind the handshake go to tcp_take() */
void shake_refuse(struct tcp *l, enum secure_reason reason);     /* one that was accepted and of which nothing was read */
void shake_ended(struct tcp *l);                                 /* the other side closed amid it: says what is to say */
void tcp_watch_quiet(struct tcp *l);                             /* gives memory back when nothing was sent for a while */
void tcp_take(struct tcp *l, const uint8_t *data, size_t len);
/* A line for the log; the same again within ten minutes only for debugging. */
void transport_say(struct transport *t, enum log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* There may be room for one more stranger. */
void transport_admit(struct transport *t);

/* dial.c */
bool dial_next_failure(struct transport *t, struct event *e);
bool dial_resolving(const struct transport *t);
void dial_stop_all(struct transport *t);
void dial_release(struct transport *t);

#endif
