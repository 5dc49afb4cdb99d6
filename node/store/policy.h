/* Starling store: policies per table: what becomes of a row that merging put in the way of another one. A server whose configuration names one writes
 * it, with a stamp; all servers take it over, the last write wins, so all mend alike. What a policy names and this file lacks is said in `status` and
 * `tables`, and the default stays in force.
 *
 *   unique    merge | rename             two rows with one UNIQUE value: the later write keeps it; rename: the other gets a made value and no NULL
 *   orphans   revive | keep | cascade    a row under a parent that was deleted elsewhere: the parent lives again, nothing is done, or it goes too
 *   key       columns                    count as UNIQUE, though the schema does not say so
 *   refs      column -> table.column     are references, though the schema does not say so
 *
 * Of several columns or references each stands in a line of its own. */
#ifndef NODE_STORE_POLICY_H
#define NODE_STORE_POLICY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POLICY_VALUE_MAX 8192u

struct policy_line {   /* as the configuration has it */
    const char *table; /* "": all tables that say nothing of their own */
    const char *name;  /* unique, orphans, key, refs */
    const char *value; /* lines, without an end of line behind the last */
    const char *where; /* "FILE:LINE" */
};

struct policy_ref { /* "column -> db/table.column"; the text is borrowed, db is empty where it is this one */
    const char *column, *db, *table, *to;
    size_t column_len, db_len, table_len, to_len;
};
bool policy_ref_read(const char *text, size_t len, struct policy_ref *out);
/* NULL: it can be a policy; else what it should be. */
const char *policy_refuse(const char *name, const char *value);

/* ---- the rest is for the store: what is in force for a table */
enum orphans { ORPHANS_REVIVE, ORPHANS_KEEP, ORPHANS_CASCADE };
#define POLICY_KEY_MAX 16
struct policy {
    bool renames; /* who loses a UNIQUE value gets a made one */
    enum orphans orphans;
    uint32_t key_count, key[POLICY_KEY_MAX]; /* columns that count as UNIQUE, in io's order */
};

struct alike;
struct arena;
struct batch_reader;
struct policy_row;
struct rowid;
struct schema;
struct schema_item;
struct store;
struct tbl;
struct tio;
struct write;

/* ---- policy.c */
int policies_open(struct store *s); /* in force before, and what the configuration says now; begins a transaction of the state */
void policies_release(struct store *s);
int policies_take(struct store *s, const struct batch_reader *r, uint32_t origin); /* of another server */
uint32_t policies_due(const struct store *s);                                      /* how many items policies_pack() makes */
int policies_pack(struct store *s, struct arena *arena, struct schema_item *items);
int policies_told(struct store *s);                        /* they are in a batch */
int policies_refs(struct store *s, struct schema *schema); /* references that the schema does not declare, after it was read */
int policies_afar(struct store *s, struct tio *io);        /* those to other databases: io->afar */
int policies_bind(struct store *s, struct tio *io);        /* io->policy */
bool policies_key_has(const struct tio *io, uint32_t at);  /* is this column of io's order part of the policy's key? */
int policies_say(struct store *s, bool afar); /* what is wrong with them here, or with those to other databases, into the log */
/* Those of a table (NULL: those of all, and of tables that are not here), as a line; mend: something is the matter. */
void policies_each(struct store *s, const char *table, void (*call)(void *ctx, const char *what, const char *mend), void *ctx);
json_t *policies_json(struct store *s);

/* ---- alike.c: rows that a policy's key says are one */
int alike_load(struct store *s, struct tio *io);
void alike_unload(struct tio *io);
/* All is written: 0 go on; 1 mends are planned, and everything is to be taken back and written again. */
int alike_check(struct store *s, int64_t seq);
/* Had neither of these two authors seen the other's write? */
int alike_unseen(struct store *s, const struct write *a, const struct write *b, bool *unseen);

/* ---- mend.c: by what a policy says */
/* The child of a parent that was deleted elsewhere goes, too: as mend_revive_row(), of a living row. */
int mend_cascade_row(struct store *s, struct tbl *t, const struct rowid *who);
/* A row of the file and another one of its table, at that place, are one by the policy's key: as mend_row(). */
int mend_alike(struct store *s, struct tbl *t, const struct rowid *who, const struct rowid *place);

#endif
