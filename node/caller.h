/* Starling node: a visit to a member (visits.c), from a process that runs no loop: it connects, proves who it is, and asks one question after the other. */
#ifndef NODE_CALLER_H
#define NODE_CALLER_H

#include <jansson.h>
#include <stddef.h>

#include "proto/secure.h"

struct caller {
    int fd;
    struct secure secure;
    struct buf rx, in; /* records not opened yet; an incomplete frame */
    char address[300]; /* as it was given */
    uint64_t sent, received;
};

/* 0, or an error and one line in why, with what to do. */
int caller_open(struct caller *c, const char *address, const struct secure_keys *keys, char *why, size_t why_len);
/* Takes question. NULL: the connection is lost, and why says so. An answer may be {"error"}. */
json_t *caller_ask(struct caller *c, json_t *question, char *why, size_t why_len);
void caller_close(struct caller *c);

#endif
