/* Random schemas: a wall clock that goes on when the script says so, as SQLite's VFS. */
#ifndef TESTS_SCHEMAS_LATER_H
#define TESTS_SCHEMAS_LATER_H

#include <stdint.h>

#define LATER_VFS "later"

void later_register(void);
void later_pass(int64_t ms);

#endif
