/* Starling: signs of life. Which links are asked for one, when, and how long silence lasts before it means something.
 *
 * Failure detection after SWIM (Das, Gupta, Motivala: "SWIM: Scalable Weakly-consistent Infection-style Process Group
 * Membership Protocol", DSN 2002) with the lessons of Lifeguard (Dadgar, Phillips, Currey: "Lifeguard: Local Health Awareness
 * for More Accurate Failure Detection", DSN-W 2018, arXiv:1707.00788), on links instead of datagrams:
 *
 *   neighbours  Any byte is a sign of life. Links to the ring neighbours by node id (all links, when they are few) are asked
 *               with a BEAT after beat_ms of silence; whoever is asked answers at once. Other links are asked after idle_ms,
 *               or beat_ms after a batch was sent into their silence. Two beats a second and neighbour is all that an idle
 *               cluster says, and everybody is watched by two others.
 *   silence     of suspect_ms after a question: suspect; of dead_ms: the link is closed. Who is suspect is no longer vouched
 *               for, and that word makes everybody who is linked to it ask for himself, at once (SWIM's rumour and its indirect
 *               probe in one: the answer to one's own question is what counts). While others have its answers it is alive,
 *               whatever became of our link.
 *   own health  Silence is counted in time that this node was awake: what a timer is late by was our own absence (a stalled
 *               process, a busy loop, a sleeping laptop), not the others'. So who was away for a minute suspects nobody, and one
 *               whose loop lags has as much more patience as it lags: Lifeguard's local health, measured instead of guessed. Its
 *               "buddy" rule, that the suspected hears of it first, holds since the question goes to itself. */
#ifndef PROTO_PROBE_H
#define PROTO_PROBE_H

#include <stdbool.h>
#include <stdint.h>

struct core;
struct link;

#define PROBE_ALL 6u /* up to this many links each is a neighbour's */

/* At the beginning of each step: was it due long ago? before: the time of the last one. */
void probe_woke(struct core *core, uint64_t before);
void probe_open(const struct core *core, struct link *l);  /* it comes up now */
void probe_heard(const struct core *core, struct link *l); /* bytes came */
void probe_spoke(const struct core *core, struct link *l); /* a batch went out: silence now would matter */
/* Others lost it: asked now, and it has little time to answer. */
void probe_doubt(struct core *core, struct link *l);
/* For how long a question has been open, as ms of silence that everybody agrees on; 0: none is. */
uint64_t probe_silence(const struct core *core, const struct link *l);
bool probe_silent(const struct core *core, const struct link *l); /* suspect */
void probe_timers(struct core *core);

#endif
