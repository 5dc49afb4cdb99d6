/* Starling store: small helpers over SQLite's C interface. Errors come back as enum err. */
#ifndef NODE_STORE_SQL_H
#define NODE_STORE_SQL_H

#include <sqlite3.h>

#include "proto/batch.h"

/* Prepares a statement that is kept; the text is made by sqlite3_vmprintf (%w for identifiers inside quotes, %Q for literals). */
int sql_prepare(sqlite3 *db, sqlite3_stmt **out, const char *format, ...);
int sql_exec(sqlite3 *db, const char *format, ...);
/* Steps a statement that gives no rows, and resets it. */
int sql_run(sqlite3_stmt *stmt);
/* 1 a row is there, 0 none; else an error (and the statement is reset). */
int sql_step(sqlite3_stmt *stmt);
/* First column of the first row as an integer; `none` without rows. */
int sql_int(sqlite3 *db, int64_t none, int64_t *out, const char *format, ...);
void sql_bind_value(sqlite3_stmt *stmt, int at, const struct value *v); /* borrowed until the next reset */
void sql_column_value(sqlite3_stmt *stmt, int at, struct value *v);     /* borrowed until the next step or reset */
/* Syncs what the last commits on `db` went to, through its VFS: the WAL, or the database file. */
int sql_sync(sqlite3 *db);

#endif
