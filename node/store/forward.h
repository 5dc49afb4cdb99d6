/* Starling store: rows that are found without notes, and refer to rows that are found later. */
#ifndef NODE_STORE_FORWARD_H
#define NODE_STORE_FORWARD_H

#include "node/store/engine.h"

int forward_row(struct store *s, struct row_look *look); /* drain_row(), and then those that it refers to and nobody knows */
void forward_release(struct store *s);
/* Who the row will be that has this number in the file, and that no register tells of: 1; 0: there is none. s->meant: who had the number. */
int forward_means(struct store *s, const struct tbl *t, int64_t number, struct rowid *who);

#endif
