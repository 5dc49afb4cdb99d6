/* Starling store: registers. What is known of one row: who wrote each column, when, and a 64-bit hash of the value as the
 * application's file holds it; the last insert and the last death. Values themselves are in the application's file and in the log.
 *
 * Per column the siblings are kept: the writes that no later author had seen. The one with the highest stamp is the value; the
 * others are open conflicts. A row lives if its last insert is newer than its last death. Pure: no SQLite here.
 *
 * Stored form (ours alone, never on the wire; varint = LEB128):
 *   flags u8   bits 0-1 identity kind, or 3: away, 2 born by write 0, 3 simple, 4 died, 5 deaths, 6 inserted by write 0, 7 copies
 *   identity   BORN: varint origin, varint version, u64 stamp of the birth (not with bit 2); ADOPTED: u64 hash;
 *              away: u8 kind and i64 number at birth before that
 *   writes     varint count, each varint origin << 2 | how (0; 1 mend; 2 carried from another table, 3 from another column), varint version, u64 stamp
 *   inserted   varint origin, u64 stamp (not with bit 6)
 *   died       varint origin, u64 stamp (bit 4)
 *   deaths     varint count, each varint mend << 33 | origin << 1 | carried, varint version, u64 stamp (bit 5)
 *   copies     varint count, each varint column, u64 stamp (bit 7)
 *   cells      simple: varint n, n × u64 hash: columns 0..n-1, each written once, by write 0
 *              else varint n, each: varint column, varint write, u64 hash; siblings of a column are neighbours */
#ifndef NODE_STORE_REGISTER_H
#define NODE_STORE_REGISTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/batch.h"
#include "proto/buf.h"
#include "proto/origin.h"

/* Who is a row: as IDENT_* of the wire, origins as local numbers. */
struct rowid {
    uint8_t kind; /* IDENT_GIVEN, IDENT_BORN or IDENT_ADOPTED */
    bool text;    /* GIVEN by a normalised key (key, key_len); else by number */
    int64_t number;
    const uint8_t *key;
    size_t key_len;
    uint32_t origin; /* BORN */
    uint64_t version;
    uint64_t hash; /* ADOPTED */
};

/* In the place of a stamp: found in a copy, or in another file (generation.c), where nobody knows who wrote it, or when; or written by a migration that
 * could not see what others had written under that name (carried.c). It loses against everything. */
#define STAMP_COPY 1u
static inline uint64_t stamp_above(uint64_t at) { return at <= STAMP_COPY ? STAMP_COPY + 1 : at + 1; }
static inline uint64_t stamp_carried(uint64_t at) { return at <= STAMP_COPY ? STAMP_COPY + 1 : at; } /* of a copy of what has this stamp */

struct stamp {
    uint64_t at;     /* hlc; 0: the lowest but STAMP_COPY, of adopted rows */
    uint32_t origin; /* local number */
};

struct write {
    uint32_t origin;
    uint64_t version;
    uint64_t at;
    bool mend;            /* a node's, to keep a constraint: it supersedes nobody's value, and is no conflict where it loses */
    enum carried carried; /* with the stamp that its original had */
};

struct cell {
    uint32_t column, write; /* number of the column; index of the write */
    uint64_t hash;
};

struct death {
    uint32_t origin;
    uint64_t version, at;
    bool carried;
    bool mend; /* of a child whose parent was deleted elsewhere: nobody decided it, and it has seen nothing */
};

/* The highest stamp of the carried copies in this column that somebody replaced, knowing them. Each server carries its own copy of the same write,
 * or of an older one: who replaced one of them has replaced them all. */
#define COPIES_ALL UINT32_MAX /* in every column: the row came again after a carried death */
struct copies {
    uint32_t column;
    uint64_t at;
};

struct reg {
    struct rowid who;            /* number and key are the caller's: only kind, origin, version, hash are stored */
    bool away;                   /* it is stored under another number than that of its birth, which is then who.number */
    uint64_t birth_at;           /* BORN: the stamp of its birth; 0 while that is not known */
    struct stamp inserted, died; /* at == 0 and origin == UINT32_MAX: never */
    struct write *writes;
    struct cell *cells; /* ordered by column; siblings in no order */
    struct death *deaths;
    struct copies *copies;
    uint32_t writes_count, cells_count, deaths_count, copies_count, writes_cap, cells_cap, deaths_cap, copies_cap;
};

/* What an author had seen: versions by local origin number. */
struct seen {
    const uint64_t *versions;
    uint32_t count;
};

/* Order of origins, since local numbers mean nothing elsewhere. */
struct origins_order {
    const struct origin *ids;
};

void reg_init(struct reg *r);
void reg_release(struct reg *r);
void reg_clear(struct reg *r);                               /* an unknown row; memory kept */
int reg_decode(struct reg *r, const void *data, size_t len); /* 0, ERR_CORRUPT, ERR_NOMEM */
int reg_encode(const struct reg *r, struct buf *out);        /* appends */

bool reg_known(const struct reg *r); /* anything at all */
bool reg_alive(const struct reg *r, const struct origins_order *o);
int stamp_cmp(struct stamp a, struct stamp b, const struct origins_order *o);
/* The cell that is the value of this column; NULL if never written. */
const struct cell *reg_winner(const struct reg *r, uint32_t column, const struct origins_order *o);
static inline struct stamp reg_cell_stamp(const struct reg *r, const struct cell *c) {
    return (struct stamp){r->writes[c->write].at, r->writes[c->write].origin};
}
bool seen_covers(const struct seen *s, uint32_t origin, uint64_t version);

/* ---- merging, in this order for one change by (origin, version) at `at`, whose author had seen `seen` */
void reg_death(struct reg *r, struct write by, const struct seen *seen, const struct origins_order *o, int *err);
void reg_insert(struct reg *r, struct write by, const struct seen *seen, const struct origins_order *o, int *err);
void reg_revive(struct reg *r, struct write by, const struct origins_order *o); /* it lives again, and its deaths stay open */
/* In another row that its author knew to be the same: this write replaces what he had seen of the column; this insert the deaths. */
void reg_supersede(struct reg *r, struct write by, uint32_t column, const struct seen *seen);
void reg_forget_deaths(struct reg *r, struct write by, const struct seen *seen, int *err);
/* All that `from` holds, as siblings, but for one column; deaths too. */
int reg_join(struct reg *r, const struct reg *from, uint32_t without);
/* Supersedes the siblings that its author had seen; a mend only lesser mends, of which a column keeps the highest. */
void reg_write(struct reg *r, struct write by, uint32_t column, uint64_t hash, const struct seen *seen, int *err);
/* A carried copy that is no conflict where it loses: what became of its original is told under the old name. */
bool reg_copy_is_old(const struct reg *r, const struct cell *c, const struct origins_order *o);
bool reg_death_is_old(const struct reg *r, const struct death *d); /* the same of a death */
/* Highest stamp in the row, for stamping what replaces it. */
uint64_t reg_top(const struct reg *r);
bool reg_cascaded(const struct reg *r); /* its last death was that of a child whose parent was deleted elsewhere */

#endif
