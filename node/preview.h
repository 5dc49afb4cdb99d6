/* Starling node: what joining a cluster would do to the rows here (`starling doctor --join` runs `starlingd --preview`). */
#ifndef NODE_PREVIEW_H
#define NODE_PREVIEW_H

#include "node/config.h"

/* Asks the first address of `join` that answers, and prints one JSON object: {"host", "name", "cluster", "version", "members", "member", "adopt", "databases" (none of a member): [{"name",
 * "where": "both|here|there", "error"?, "tables": [{"name", "identity", "here", "there", "equal", "matched", "renumbered", "conflicts", "only_here",
 * "only_there", "note"?}]}]}, or {"error"}. False: it could not be told. Changes nothing, on either side. */
bool preview_run(const struct config *config);

#endif
