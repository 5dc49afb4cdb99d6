/* Starling simulator: what the applications of a world write (`level merge`), and that nothing of it is lost.
 *
 * Each text that is written is another one, `w` and a number. In the end it is shown, or it is an open conflict, or somebody replaced or
 * deleted it who saw it: the ledger notes at each write what the application's file, and its server's list of open conflicts, showed then. Rows of `note` are only ever
 * inserted, numbered by SQLite, so that servers give the same numbers: each must be there once. */
#ifndef TOOLS_SIM_LEDGER_H
#define TOOLS_SIM_LEDGER_H

#include <jansson.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct ledger {
    struct ledger_entry {
        bool note, seen, found, excused;
        unsigned node;
    } * entries; /* by number */
    unsigned count, cap;
};

/* What every application makes before it starts. */
extern const char ledger_schema[];

void ledger_release(struct ledger *l);
/* What a person at one server has before him. */
struct ledger_view {
    sqlite3 *app;
    unsigned node;
    const char *conflicts; /* open, a line of compact JSON each */
    bool forgets;          /* a canary: what was committed is not there */
};

/* One transaction of an application, as `dice` has it. NULL, or what SQLite said (of a constraint nothing: applications live with these). */
const char *ledger_write(struct ledger *l, struct ledger_view *v, uint64_t dice);
/* All rows of the application, in an order that does not depend on the file; free(). */
char *ledger_rows(sqlite3 *app);
/* What that node wrote has not left it: it counts for nothing yet. */
void ledger_excuse(struct ledger *l, unsigned node, bool excused);
/* NULL: nothing is lost, by one file's rows and its list of open conflicts; else what is. */
const char *ledger_lost(struct ledger *l, const char *rows, const char *conflicts, char *text, size_t cap);

#endif
