/* Starling store: the application's schema as we need it: tables, their columns and keys, and what we cannot replicate.
 * Read through an ordinary connection on the application's file. */
#ifndef NODE_STORE_SCHEMA_H
#define NODE_STORE_SCHEMA_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHEMA_NAME_MAX 1023u /* bytes of the name of a table or column that is replicated */

enum affinity { AFFINITY_BLOB, AFFINITY_TEXT, AFFINITY_NUMERIC, AFFINITY_INTEGER, AFFINITY_REAL };
enum collation { COLLATION_BINARY, COLLATION_NOCASE, COLLATION_RTRIM, COLLATION_OTHER };

enum key_kind {
    KEY_INTEGER, /* one INTEGER PRIMARY KEY column, an alias of the rowid: SQLite may number the rows */
    KEY_ROWID,   /* none: rows are known by the rowid, here alone */
    KEY_COLUMNS, /* PRIMARY KEY columns that the application gives; WITHOUT ROWID or not */
};

struct column {
    char *name;
    enum affinity affinity;
    enum collation collation; /* of the key's index for key columns */
    enum collation own;       /* as the column itself compares, where nothing else is said */
    int key_place;            /* 0: not in the key; else 1 + place in the key */
    bool not_null;
};

/* A declared foreign key of this table. */
struct foreign_key {
    char *parent;      /* table */
    uint32_t count;    /* columns */
    char **from, **to; /* child columns, parent columns (the parent's key where the schema leaves them out) */
};

struct table {
    char *name;
    uint32_t number; /* as our triggers write it; set by capture_install() */
    enum key_kind key_kind;
    bool without_rowid, strict, autoincrement;
    uint32_t columns_count, key_count;
    struct column *columns; /* stored columns in table order, without generated ones */
    uint32_t *key;          /* indexes into columns, in key order */
    const char *rowid;      /* KEY_ROWID: a name of the rowid that no column has */
    unsigned rowid_taken;   /* those that columns have, as bits */
    struct foreign_key *foreign_keys;
    uint32_t foreign_keys_count;
    char *unsupported; /* NULL, or why it is not replicated, in words for `tables` ("has no primary key: …") */
    const char *mend;  /* and what helps; may be NULL */
    bool virtual;
    bool feeds;           /* by triggers that fill virtual tables; this and the next two set by feed_load() */
    char *fed, *unfed;    /* a virtual table: the triggers that fill it; those that we cannot run, and why */
    bool excluded;        /* by policy: replicate = no */
    uint64_t constraints; /* hash of what its UNIQUE indexes, CHECKs and NOT NULLs say */
};

/* Columns that name a row in statements of ours. */
static inline uint32_t table_key_width(const struct table *t) { return t->key_kind == KEY_ROWID ? 1 : t->key_count; }

struct capture_plan;

struct schema {
    struct table *tables; /* every ordinary user table, also unsupported ones; sorted by name */
    uint32_t count;
    int64_t version;           /* PRAGMA schema_version at reading */
    struct capture_plan *plan; /* capture.c: what there is of ours */
    uint32_t numbers_used;     /* new tables get numbers above this one; the reader's to set */
    uint64_t hash;             /* of names, columns, keys, UNIQUE constraints and CHECKs; the same for schemas that mean the same:
                         column order, defaults and the CREATE text do not count; policies neither */
    uint64_t text;             /* hash of the CREATE texts: whether others were told of it as it is */
};

/* Reads the schema in one read transaction. Our two tables, sqlite_* and shadow tables are left out; virtual tables, and others that are called
 * _starling_*, appear as unsupported. 0, ERR_IO, ERR_NOTDB, ERR_CORRUPT, ERR_BUSY, ERR_NOMEM. */
int schema_read(sqlite3 *app, struct schema *out);
void schema_release(struct schema *s);
const struct table *schema_find(const struct schema *s, const char *name, size_t len); /* NULL; names compare as SQLite's (ASCII case) */

/* " COLLATE NAME": a key column compared by anything but the key's own collation finds another row, or none. */
const char *schema_collate(enum collation c);

/* Why no row of this kind can be replicated in this build goes to table->unsupported: no PRIMARY KEY and no name left for the rowid; a key column with a collation of the
 * application's own; a generated column in the key; more than 16 key columns; a name of more than SCHEMA_NAME_MAX bytes; a virtual table; a name that begins
 * with _starling_. */

#endif
