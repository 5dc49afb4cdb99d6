/* Starling: what the records of a link hold. Small pieces of the stream (frames, batches of few rows) are compressed as one zstd stream a
 * direction, flushed with each record, so that a row is sent as its difference to the rows before it. Large batches are compressed
 * already, and pass as they are.
 *
 *   record = u8 kind, then
 *     SQUEEZE_PLAIN  bytes of the stream
 *     SQUEEZE_FIRST  zstd: a stream begins, whatever went before
 *     SQUEEZE_NEXT   zstd: it goes on; one record expands to at most SQUEEZE_PLAIN_MAX bytes
 *     SQUEEZE_OVER   nothing: it is over, and its memory can go
 *
 * A stream takes about 170 KB at the sender and 150 KB at the receiver, so it is made when much is said, after SQUEEZE_AFTER bytes, and ended when a link
 * is quiet: who joins thirty others, or tells them of one commit now and then, makes none. What is sent plain does not go into it. */
#ifndef PROTO_SQUEEZE_H
#define PROTO_SQUEEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SQUEEZE_MIN 64u          /* shorter pieces are not worth a stream */
#define SQUEEZE_AFTER 8192u      /* of them go plain before there is a stream */
#define SQUEEZE_PLAIN_MAX 8192u  /* bytes of the stream in one compressed record */
#define SQUEEZE_RECORD_MAX 8704u /* and what they can become, with the kind */

enum squeeze_kind { SQUEEZE_PLAIN, SQUEEZE_FIRST, SQUEEZE_NEXT, SQUEEZE_OVER };

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

/* Of one link; all zero is how it starts. */
struct squeeze {
    struct ZSTD_CCtx_s *pack;
    struct ZSTD_DCtx_s *unpack;
    size_t spared; /* bytes that went plain for want of a stream */
};

void squeeze_release(struct squeeze *s);
/* A record of these bytes (at most SQUEEZE_PLAIN_MAX) into out; returns its length, at most SQUEEZE_RECORD_MAX. Without memory it is a plain one. */
size_t squeeze_pack(struct squeeze *s, const uint8_t *plain, size_t len, uint8_t *out);
/* Gives the sender's memory back, and waits for SQUEEZE_AFTER bytes anew. True: an OVER record is to be sent, before any other. */
bool squeeze_rest(struct squeeze *s);
/* The bytes of a record: *plain points into it, or to `room` (SQUEEZE_PLAIN_MAX bytes). 0, ERR_MALFORMED, ERR_NOMEM. */
int squeeze_unpack(struct squeeze *s, const uint8_t *record, size_t len, uint8_t *room, const uint8_t **plain, size_t *plain_len);

#endif
