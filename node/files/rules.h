/* Starling node: which paths of an instance folder are replicated as files. Pure: names in, yes or no out.
 *
 * Built in, in this order: never our own state, databases and what belongs to them (by name; those that are databases under another name the caller
 * knows); then what `include` names is taken and what `exclude` names is not; then the usual exclusions: backups, logs, locks, temporary
 * and dot files, caches. A pattern with a '/' before its end is held against the whole path, another one against each component; a trailing '/'
 * matches folders only. What is in an excluded folder is excluded. */
#ifndef NODE_FILES_RULES_H
#define NODE_FILES_RULES_H

#include <stdbool.h>
#include <stdint.h>

#define RULES_EXTRA ".starling+"

struct rules {
    const char *const *exclude, *const *include; /* NULL-terminated; NULL: none */
    const char *const *extra;                    /* extra folders of this server, with RULES_EXTRA before their names */
};

/* Is this path (a clean one) replicated? folder: it is one itself. why, if not NULL: the rule that excludes it, for people. */
bool rules_take(const struct rules *r, const char *path, bool folder, const char **why);

#endif
