/* Starling node: how often an application's commits are drained.
 *
 * One that commits without a pause is not followed commit by commit: each drain syncs its WAL beside it, and signs, sends and shows a batch. The
 * first PACE_AT_ONCE are, and after these one every PACE_EVERY_US; so the writes of a request go at once, as do those that come 400 a second. */
#ifndef NODE_PACE_H
#define NODE_PACE_H

#include <stdint.h>

#define PACE_AT_ONCE 4
#define PACE_EVERY_US 2500

/* All zero is how it starts. */
struct pace {
    int64_t credit_us; /* for the drains that may follow at once */
    int64_t at_us;     /* when it was counted */
};

static inline void pace_count(struct pace *p, int64_t now_us) {
    int64_t most = (int64_t)PACE_AT_ONCE * PACE_EVERY_US, credit = p->credit_us + now_us - p->at_us;
    p->credit_us = credit < most ? credit : most;
    p->at_us = now_us;
}

/* How long the next drain is to wait. */
static inline int64_t pace_wait_us(struct pace *p, int64_t now_us) {
    pace_count(p, now_us);
    return p->credit_us < PACE_EVERY_US ? PACE_EVERY_US - p->credit_us : 0;
}

/* It begins, perhaps before its time: then the next one is not put off further. */
static inline void pace_drain(struct pace *p, int64_t now_us) {
    pace_count(p, now_us);
    p->credit_us = p->credit_us > PACE_EVERY_US ? p->credit_us - PACE_EVERY_US : 0;
}

#endif
