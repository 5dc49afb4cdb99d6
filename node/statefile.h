/* Starling node: small files of the state folder that are replaced whole, 0600. */
#ifndef NODE_STATEFILE_H
#define NODE_STATEFILE_H

#include <jansson.h>
#include <stdbool.h>

/* Writes beside it, syncs, renames: after a crash there is the old file or the new one. Takes object. 0, ERR_IO or ERR_NOMEM. */
int statefile_write(const char *path, json_t *object);
/* NULL when there is none, and also when it is no JSON object: then it is put aside as PATH.bad, and *bad is true. Belongs to the callee. */
json_t *statefile_read(const char *path, bool *bad);

#endif
