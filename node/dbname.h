/* Starling node: names of databases. On the wire and in the interface a database is called by its path relative to the
 * instance folder, with '/'. Names come from peers, so they are checked before they touch a file system. */
#ifndef NODE_DBNAME_H
#define NODE_DBNAME_H

#include <stdbool.h>
#include <stddef.h>

#define DBNAME_STATE_FOLDER ".starling"

/* A clean relative path of at most 255 bytes of UTF-8: no empty, "." or ".." component, no control byte or backslash, not in our state
 * folder, and not the name of a -wal, -shm or -journal file. */
bool dbname_ok(const char *name);
/* The file name of its state database: '/' and '%' as %2F and %25. out holds out_max bytes; false when that is too short. */
bool dbname_escape(const char *name, char *out, size_t out_max);
/* Names that people give to databases: *.db, *.sqlite, *.sqlite3. */
bool dbname_usual(const char *name);
/* Files that belong to a database beside them. */
bool dbname_companion(const char *name);

#endif
