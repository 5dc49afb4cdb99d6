/* Starling: whose clock is right. Stamps decide which write wins, so a server whose clock is off must not write by it.
 *
 * The offset is measured with each HELLO, before anything is sent. The cluster's time is what its members agreed on: whoever is
 * linked to somebody keeps it, and whoever is alone takes that of those whom it meets, if it is 5 s or more from its own; of two
 * that are alone the one that is ahead (or whose clock was never set). Until then nothing leaves (EFFECT_MEET, EVENT_MET): the store
 * stamps what nobody has seen by the cluster's time first. When a server's clock is set while it runs, its links are made anew, and
 * with them this is.
 * A batch from its own author that is more than a minute ahead, of our time and of all that was accepted before, is not taken, and its
 * author is refused. What others have accepted is taken from them: what one member accepted, all accept.
 * Timers run on the monotonic clock: no step of the wall clock moves them. */
#ifndef PROTO_CLOCK_H
#define PROTO_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct core;
struct db;
struct link;
struct batch_head;
struct wire_hello;

#define CLOCK_OFF_MS 5000                          /* more is not the network */
#define CLOCK_AHEAD_MS 60000                       /* a batch may be this far in the future */
#define CLOCK_NEVER_SET_MS UINT64_C(1672531200000) /* the beginning of 2023: no clock that was ever set is before it */

uint64_t clock_cluster_ms(const struct core *core);
/* At the beginning of each step: was the wall clock set since the last one? */
void clock_look(struct core *core);
bool clock_company(const struct core *core, const struct link *but);             /* is anybody else linked? */
void clock_hello(struct core *core, struct link *l, const struct wire_hello *h); /* the link comes up with it */
/* Links came up or went down, or a database was opened: it is met, or alone. */
void clock_settle(struct core *core);
void clock_opened(struct core *core, struct db *db);
void clock_met(struct core *core, const char *db, uint64_t request); /* EVENT_MET */
/* It is from the future, by its own author: he is refused, and true. */
bool clock_refuses(struct core *core, struct link *l, struct db *db, const struct batch_head *head);

#endif
