/* Starling store: what joining a cluster would do to the rows of a file, table by table, told by asking a member (survey.h). Nothing is written, on either
 * side. Each row here is one of
 *
 *   equal        the cluster has the same row
 *   matched      the same row, with the same values, under another number
 *   conflicts    the same row with other values, or it loses a UNIQUE value: what the cluster has is kept, what is here is listed
 *   renumbered   a row of its own whose number belongs to another row there
 *   only_here    new to the cluster
 *
 * The files are read as they are, a moment behind what is written. */
#ifndef NODE_STORE_COMPARE_H
#define NODE_STORE_COMPARE_H

#include <jansson.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>

struct compare_config {
    const char *db;              /* its name on the wire */
    const char *const *excluded; /* tables with replicate = no; NULL-terminated; may be NULL */
    bool match;                  /* adopt = match: a row that has the key of another one is that row */
    /* Asks the member; takes question. NULL: why has the reason. */
    json_t *(*ask)(void *ctx, json_t *question, char *why, size_t why_len);
    void *ctx;
};

/* [{"name", "identity", "here", "there", "equal", "matched", "renumbered", "conflicts", "only_here", "only_there", "note"?}]; a table that only
 * the member has: {"name", "identity", "note"}. NULL: why has one line. */
json_t *compare_database(sqlite3 *db, const struct compare_config *config, char *why, size_t why_len);

#endif
