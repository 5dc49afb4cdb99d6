/* Starling store: the schema of another server, tried in memory before it comes near the application's file. */
#ifndef NODE_STORE_TRIAL_H
#define NODE_STORE_TRIAL_H

#include "node/store/engine.h"

enum { TRIAL_TYPES = 4 };
extern const char *const TRIAL_ORDER[TRIAL_TYPES]; /* in which items are created */
struct trial {
    sqlite3 *db; /* everything that passed */
    char **why;  /* NULL: the item passed; else why not */
    uint32_t count;
};
int trial_run(struct trial *t, const struct batch_reader *r); /* to be ended in any case */
void trial_end(struct trial *t);
bool trial_is_ours(const char *name);
bool trial_is_type(const struct schema_item *i, const char *type);

#endif
