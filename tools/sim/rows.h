/* Starling simulator: real databases (`level merge`): each node has a file that an application writes into, and the store that `starlingd`
 * runs beside it, both in memory (a file system that is). The world gives it time, turns and batches. */
#ifndef TOOLS_SIM_ROWS_H
#define TOOLS_SIM_ROWS_H

#include "tools/sim/sim.h"

void sim_rows_begin(struct sim *sim); /* the databases of all nodes, as their applications make them */
void sim_rows_end(struct sim *sim);
void sim_rows_open(struct sim *sim, unsigned node);
void sim_rows_down(struct sim *sim, unsigned node);
void sim_rows_write(struct sim *sim, unsigned node); /* by the application, whether the node runs or not */
void sim_rows_deliver(struct sim *sim, unsigned node, struct bytes *batch);
void sim_rows_shared(struct sim *sim, unsigned node);      /* EFFECT_SHARED */
void sim_rows_event(struct sim *sim, struct sim_event *e); /* SIM_TURN, SIM_READ, SIM_YIELD */
/* NULL: rows and open conflicts are the same everywhere, and nothing is lost. */
const char *sim_rows_unequal(struct sim *sim, char *text, size_t cap);

#endif
