/* Starling node: databases of this server whose rows refer to rows of another one (`refs` in the configuration). Their stores share nothing: who has
 * which number in a table is told by one worker and passed on to the others here. */
#ifndef NODE_ACROSS_H
#define NODE_ACROSS_H

#include "node/databases.h"

void across_follow(struct databases *d, struct database *db, const char *name);               /* rows of it refer to "db/table.column" */
void across_opened(struct databases *d, struct database *db);                                 /* whoever refers to it is told anew */
void across_numbers(struct databases *d, const struct database *db, const struct message *m); /* MESSAGE_NUMBERS */
void across_free(struct database *db);

#endif
