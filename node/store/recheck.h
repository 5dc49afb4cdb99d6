/* Starling store: all rows again, in the background, for writes that nobody noted. */
#ifndef NODE_STORE_RECHECK_H
#define NODE_STORE_RECHECK_H

#include "node/store/engine.h"

void recheck_hint(struct store *s, bool other); /* a commit without a note; other: one that may hide it */
int recheck_restart(struct store *s);           /* the tables are bound anew */
void recheck_stop(struct store *s);
int64_t recheck_wait_ms(struct store *s); /* until there is something to do; at least 1 */
int recheck_step(struct store *s);        /* in a quiet moment; opens a snapshot and, if it finds anything, the state's transaction */

#endif
