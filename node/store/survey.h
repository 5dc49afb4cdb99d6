/* Starling store: rows of a file as another server needs them to compare its own with (`starling doctor --join`): in ranges of the key, so that equal
 * ranges cost a digest; then row by row; and who has a UNIQUE value. Both sides read with this: the one that is asked, which knows the identities of
 * its rows, and the one that asks, which may never have run a node. Nothing is written. */
#ifndef NODE_STORE_SURVEY_H
#define NODE_STORE_SURVEY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/store/schema.h"
#include "proto/batch.h"
#include "proto/buf.h"

#define SURVEY_UNIQUES_MAX 8u
#define SURVEY_KEYS_MAX 16u

struct store;

struct survey {
    sqlite3 *db;
    const struct schema *schema;
    struct store *store; /* NULL: no node serves this file */
    /* What a number of that table means elsewhere after the join: 0 the same; 1: the row that has *number now; 2: none that is there yet. May be NULL. */
    int (*today)(void *ctx, const struct table *parent, int64_t *number);
    void *ctx;
};

/* What is compared of a table; made of {"table", "columns": [names], "uniques": [[names]…]}. */
struct survey_plan {
    const struct survey *survey;
    const struct table *table;
    bool identities;
    uint32_t values_count;        /* columns of a row as read: the key's first */
    uint32_t *order;              /* → table->columns */
    const struct table **parents; /* whose number each means, or NULL */
    uint64_t table_hash, *hashes; /* of names, for the identity of an adopted row */
    uint32_t columns_count, *columns;
    uint32_t uniques_count, unique_len[SURVEY_UNIQUES_MAX], unique_at[SURVEY_UNIQUES_MAX][SURVEY_KEYS_MAX];
};

enum survey_identity { SURVEY_AS_ADOPTED, SURVEY_GIVEN, SURVEY_BORN, SURVEY_ADOPTED };

struct survey_row {
    const struct value *values; /* in the plan's order; borrowed until the next step */
    struct value *copy;         /* the same with what numbers mean elsewhere; what of them is not known is VALUE_NULL */
    int64_t rowid;              /* of a table without a key */
    uint64_t digest;            /* of the plan's columns, without the key */
    bool key_changes, unknown;  /* after the join its key is another one; holds a number that nobody has there */
    uint64_t adopted;           /* identity that a first capture would give it */
    enum survey_identity identity;
    uint64_t hash;                        /* SURVEY_ADOPTED */
    uint64_t uniques[SURVEY_UNIQUES_MAX]; /* 0: NULL is among them */
};

struct survey_cursor {
    struct survey_plan *plan;
    sqlite3_stmt *stmt;
    struct value *values, *copy;
    struct survey_row row;
    struct buf key; /* of the row at hand, as it compares */
    int error;
};

bool survey_serves(const struct survey *s, const struct table *t);
int survey_plan_init(struct survey_plan *p, const struct survey *s, const json_t *question); /* ERR_NOTFOUND: no such table or column */
void survey_plan_release(struct survey_plan *p);
/* Rows with keys in (after, to], at most `limit`; NULL: no bound. */
int survey_open(struct survey_cursor *c, struct survey_plan *p, const struct buf *after, const struct buf *to, uint32_t limit);
bool survey_next(struct survey_cursor *c); /* false: no more, or c->error */
void survey_close(struct survey_cursor *c);
uint64_t survey_in_range(const struct survey_plan *p, const struct survey_row *row,
                         const struct buf *key); /* what it adds to a range's digest */

/* {"ask": "tables"}: [{"name", "identity", "key", "columns", "uniques", "alike"}]
 * {"ask": "ranges", …plan, "identities", "after"}: {"ranges": [[to, rows, digest]…], "end"}
 * {"ask": "rows", …plan, "after", "to"}: {"rows": [row…], "end"}, row: [key, digest, identity, [unique…]]
 * {"ask": "find", …plan, "by": [names], "values": [[…]…]}: {"rows": [row or null…]}
 * Keys, digests and identities are hex; NULL without memory. {"error"} where it cannot be told. */
json_t *survey_answer(const struct survey *s, const json_t *question);

bool survey_names(const json_t *list, const char *text); /* is it among these names? */
bool survey_same_names(const json_t *list, const json_t *names);
json_t *survey_hex(const void *p, size_t len);
bool survey_unhex(const json_t *j, struct buf *out);

#endif
