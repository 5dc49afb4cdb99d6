/* Starling node: what starlingd does without serving: --check and --uninstall. */
#ifndef NODE_CHECK_H
#define NODE_CHECK_H

#include <stdbool.h>

#include "node/config.h"

/* Looks at databases, ports and permissions, reports on standard output, changes nothing. True: it would start and serve all of them. */
bool check_run(const struct config *c);
/* The file as a URI that SQLite opens without making anything beside it; false: only a recovery, which would write, makes it readable. */
bool check_quiet_uri(const char *path, char *uri, size_t uri_len);
/* Removes every trigger and table of ours from all databases. The exit code: 0, 1 (a database could not be cleaned), 2 (a daemon runs). */
int uninstall_run(const struct config *c);

#endif
