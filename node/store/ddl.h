/* Starling store: text of CREATE statements, as SQLite keeps it. */
#ifndef NODE_STORE_DDL_H
#define NODE_STORE_DDL_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>

/* Behind the token at p: a quoted name or string, a word, a space or comment (nothing of which counts), or one character. */
const char *ddl_behind_token(const char *p, bool *counts);
const char *ddl_behind_parentheses(const char *p);                      /* behind the one that closes the one at p */
void ddl_put_words(sqlite3_str *str, const char *from, const char *to); /* words in one case, parted by one space, quoted text as it is */
const char *ddl_column(const char *create, const char *name, size_t *len); /* a column's definition, from its name on; NULL: none */

#endif
