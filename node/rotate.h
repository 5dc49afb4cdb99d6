/* Starling node: changing the cluster's secret while it runs. The node on which it is changed tells every member over its link; each tells
 * all others, as long as it does not know that they have it. When all members have the new secret, the old one is no longer
 * accepted; members that are away keep the change open until they return, or until somebody says that it is finished. */
#ifndef NODE_ROTATE_H
#define NODE_ROTATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "node/secret.h"

struct node;
struct rotation;

struct rotation *rotation_open(struct node *n); /* goes on with a change that a restart interrupted; NULL without memory */
void rotation_close(struct rotation *r);        /* freed when the loop has closed its timer */
/* Begins a change. 0, or an error with one line in why. */
int rotation_begin(struct rotation *r, const struct secure_secret *to, char *why, size_t why_len);
/* The old secret is not accepted any more, here and on all members that are linked, whoever lacks the new one. */
int rotation_finish(struct rotation *r, char *why, size_t why_len);
/* {"changing": bool, "have": [name…], "waiting": [name…]}; this node is not among them */
json_t *rotation_json(struct rotation *r);
/* A member's {"ask": "rotate", "secret": hex, "finish": bool}: the answer. */
json_t *rotation_asked(struct rotation *r, const json_t *request);

#endif
