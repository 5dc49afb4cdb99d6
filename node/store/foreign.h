/* Starling store: declared foreign keys, bound; what foreign.c and clash.c share. */
#ifndef NODE_STORE_FOREIGN_H
#define NODE_STORE_FOREIGN_H

#include "node/store/engine.h"

#define COLUMNS_MAX 16
#define THERE_SLOTS 1024u
#define NUMBER UINT32_MAX

struct foreign {
    struct tio *child, *parent;
    uint32_t count;
    uint32_t from[COLUMNS_MAX];            /* index in the child's order; NUMBER: its integer key */
    uint32_t to[COLUMNS_MAX];              /* index in the parent's columns */
    uint32_t to_number[COLUMNS_MAX];       /* their numbers in the parent's registers; NUMBER: its integer key */
    bool to_key;                           /* they are the parent's key */
    uint32_t key_from[COLUMNS_MAX];        /* then: which of them is the n-th column of the key */
    bool indexed;                          /* children are found without a scan */
    sqlite3_stmt *there[2];                /* is there such a parent? on the reader, on the writer */
    sqlite3_stmt *broken;                  /* has the child of this key no parent? */
    sqlite3_stmt *children;                /* key and reference of children without a parent: of these values, or all where not indexed */
    sqlite3_stmt *referred;                /* what the parent of this key is known by (not to_key) */
    uint64_t known[THERE_SLOTS], snapshot; /* hashes of references whose parent was found in this look */
    struct gone *gone;
};

/* What a parent was known by, besides its key, before this projection changed it. */
struct gone {
    struct gone *next;
    struct rowid who; /* of the register at home; its key is owned */
    uint64_t hash;
    uint32_t count;
    struct value values[];
};

uint64_t foreign_hash(const struct value *v, uint32_t count);
uint64_t foreign_known_hash(const struct foreign *f, const uint64_t *hashes); /* what a parent is known by, besides its key */
/* Where the row with these key columns is; bytes in `name`. 1: a row without a key that has no name yet. */
int foreign_place_of(struct tio *io, const struct value *key, struct buf *name, struct rowid *place);
int foreign_parent_there(struct store *s, struct foreign *f, const struct value *v, bool writer); /* 1, 0, or an error */

#endif
