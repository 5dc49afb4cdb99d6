/* Starling tests: the rows of a query as lines, each value with its type and exact bytes. */
#ifndef TESTS_SCHEMAS_ROWS_H
#define TESTS_SCHEMAS_ROWS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct rows {
    char **lines;
    uint32_t count;
};

/* Runs one statement. A SQLite code; rows sorted, to be freed also after a failure. */
int rows_of(sqlite3 *db, const char *sql, struct rows *r);
void rows_free(struct rows *r);
bool rows_same(const struct rows *a, const struct rows *b);
/* What only one of the two has, a line each; freed by the caller. */
char *rows_difference(const struct rows *shadow, const struct rows *server);

/* " WHERE NOT (…)", or with: " WHERE (…)": is there NULL in the key of this table? sqlite3_free(). */
char *rows_null_test(sqlite3 *db, const char *table, bool with);
/* SELECT of all columns, generated ones too, of the rows without; sqlite3_free(). Hidden columns of virtual tables are left out. */
char *rows_select_all(sqlite3 *db, const char *table);

#endif
