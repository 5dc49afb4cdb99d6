/* Starling store: what happened, as the interface shows it. */
#ifndef NODE_STORE_REPORT_H
#define NODE_STORE_REPORT_H

#include <jansson.h>

#include "node/store/engine.h"

/* One `watch` object for a change of ours, or of another node that is shown now. Only while somebody watches. */
void report_change(struct store *s, struct tbl *t, const struct rowid *who, enum change_kind kind, const struct column_set *set,
                   const struct value *values, int64_t ms);
json_int_t report_time(int64_t ms);          /* of a stamp; 0 if it only orders what was there before */
json_t *report_value(const struct value *v); /* as the interface writes values */
/* Back again; borrowed from j, or in the arena. 1: no value is written so. */
int report_value_read(const json_t *j, struct arena *arena, struct value *v);
json_t *report_key(const struct tbl *t, const struct rowid *who);
void report_remote(struct store *s, uint32_t origin, const struct op *op);

#endif
