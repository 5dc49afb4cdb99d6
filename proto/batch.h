/* Starling: the batch codec: what a node committed, as it is stored in the log and sent, byte for byte the same.
 *
 * A batch is a union of whole commits of one origin in one database. Bytes (PROTOCOL.md has the table):
 *
 *   envelope = msgpack array of BATCH_HEAD_FIELDS, then 64 bytes of signature, and nothing behind it
 *     [ format=1, flags, node bin16, epoch, version, db str, prev bin8, key bin32|nil,
 *       after [[node,epoch,version]...], knew [[node,epoch,version]...], schema u64, stamp u64, rows u32, raw u32, body bin ]
 *   flags: bit 0 body is zstd; bit 1 BATCH_PART, the commit goes on in the next version; bit 2
 *   BATCH_BLIND, nothing of others counts as seen by this batch, whatever `knew` says.
 *   prev: first 8 bytes of the chain hash before this batch. key: the origin's public key, in its version 1 only.
 *   after, knew: differences to this origin's previous batch (design: `after` orders delivery, `knew` says what was seen).
 *   chain hash: chain_n = BLAKE2b-256(chain_(n-1) || envelope without signature), chain_0 = 32 zero bytes.
 *   signature: Ed25519 over chain_n. So a batch can only be verified in order, which is how batches are processed.
 *
 *   body (raw bytes after decompression) = msgpack objects one after the other:
 *     origins [[node bin16, epoch]...], names [str...], schema nil | [[type, name, table, sql]...], groups u32, then groups
 *   group = [ kind (+ 8: orphan, + 16 or 32: carried), table (index in names), ident kind, [column (index in names)...], rows n, stamps bin, idents bin, column bin... ]
 *     Each bin is a stream of n msgpack objects (columnar, since equal things compress together): a value is nil, int,
 *     float64, str (TEXT, any bytes), bin (BLOB), or true: the int one above the int before it in this column (0 at first);
 *     or false and a bin behind it: a reference, the identity of the row that it means (value_ref_pack()).
 *     stamps: signed differences, the first to the head's stamp, then to the previous one in the group. idents by kind, a
 *     number always as the difference to the number before it in the group (0 at first); differences wrap at 64 bits:
 *       GIVEN      one object a row: int, the number (a single INTEGER key), or bin (the normalised key, see PROTOCOL.md)
 *       GIVEN_COLS nothing: the leading `key columns` of the group are the key, all compared BINARY; the group then has the
 *                  count of key columns as the only object of its idents stream
 *       BORN_HERE  one object a row: number; the origin and version are this batch's
 *       BORN       three objects a row: number, origin (index), version
 *       ADOPTED    two objects a row: number, content hash u64
 *     A group has at least one row. Rows keep their order within a group; between groups order means nothing, the stamps
 *     say what came first. Several groups may be alike.
 *
 * Reading trusts nothing: every count and size is bounded before use, and no allocation follows a declared size beyond
 * BATCH_RAW_MAX. All pointers in what is read borrow from the envelope or from the reader's own raw buffer. */
#ifndef PROTO_BATCH_H
#define PROTO_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/buf.h"
#include "proto/bytes.h"
#include "proto/mpk.h"
#include "proto/origin.h"
#include "proto/vv.h"

#define BATCH_RAW_MAX (64u << 20)   /* bytes of body before compression */
#define BATCH_BYTES_MAX (66u << 20) /* bytes of envelope */
#define BATCH_ROWS_MAX 50000u
#define BATCH_COLUMNS_MAX 2000u /* SQLite's default SQLITE_MAX_COLUMN */
#define BATCH_NAMES_MAX 65536u
#define BATCH_ORIGINS_MAX 4096u
#define BATCH_SCHEMA_MAX 65536u
#define BATCH_FORMAT 1
#define BATCH_HEAD_FIELDS 15
#define BATCH_GROUP_FIELDS 7 /* and one more for each column */
#define BATCH_ORPHAN 8u      /* beside a group's kind */
#define BATCH_CARRIED 16u    /* likewise, times enum carried */
#define BATCH_PREV_BYTES 8
#define BATCH_CHAIN_BYTES 32
#define BATCH_SIGNATURE_BYTES 64
#define BATCH_DB_NAME_MAX 255u

enum { BATCH_ZSTD = 1, BATCH_PART = 2, BATCH_BLIND = 4 };

enum value_type { VALUE_NULL, VALUE_INT, VALUE_FLOAT, VALUE_TEXT, VALUE_BLOB, VALUE_REF };

struct value {
    enum value_type type;
    union {
        int64_t i;
        double f;
    } as;
    const uint8_t *p; /* TEXT, BLOB, REF; borrowed */
    size_t len;
};

/* A reference to a row whose number SQLite gave: its identity as bytes (little-endian): hash of the table's name u64, number at birth i64, and
 * then of a row that was born node[16], epoch u32, version u64; of one that was adopted hash of its content u64. */
#define VALUE_REF_BORN_BYTES 44
#define VALUE_REF_ADOPTED_BYTES 24
struct value_ref {
    uint64_t table;
    int64_t number;
    bool adopted;
    struct origin origin; /* BORN */
    uint64_t version;     /* BORN */
    uint64_t hash;        /* ADOPTED */
};
size_t value_ref_pack(const struct value_ref *r, uint8_t out[VALUE_REF_BORN_BYTES]); /* the bytes used */
bool value_ref_unpack(struct value_ref *r, const uint8_t *p, size_t len);            /* false: these bytes are no reference */

/* 64-bit hash of a value: storage class and exact bytes (SipHash-2-4 with a fixed key: the same on every node). */
uint64_t value_hash(const struct value *v);

/* A copy of what the row held under another name of its table, or, in the same row, of the column, before a migration. */
enum carried { CARRIED_NOT, CARRIED_TABLE, CARRIED_COLUMN, CARRIED_KINDS };

enum change_kind { CHANGE_INSERT, CHANGE_UPDATE, CHANGE_DELETE, CHANGE_REVIVE, CHANGE_MEND, CHANGE_SAME, CHANGE_KINDS };

enum ident_kind { IDENT_GIVEN, IDENT_GIVEN_COLS, IDENT_BORN_HERE, IDENT_BORN, IDENT_ADOPTED, IDENT_KINDS };

/* The identity of a row on the wire. */
struct ident {
    enum ident_kind kind;
    int64_t number;     /* BORN_HERE, BORN, ADOPTED; GIVEN when key == NULL */
    const uint8_t *key; /* GIVEN: normalised key; NULL: a single INTEGER key, in number */
    size_t key_len;
    uint32_t key_columns; /* GIVEN_COLS: how many leading columns of the change are the key */
    struct origin origin; /* BORN; BORN_HERE: filled in by the reader */
    uint64_t version;     /* likewise */
    uint64_t hash;        /* ADOPTED */
};

struct change {
    enum change_kind kind;
    bool orphan; /* the row refers to one that the author's own file does not hold */
    enum carried carried;
    const char *table; /* not terminated when read; writers pass table_len too */
    size_t table_len;
    uint64_t stamp;
    struct ident ident;
    uint32_t columns_count;
    const char *const *columns; /* names */
    const size_t *columns_len;
    const struct value *values;
    uint32_t group; /* reading: number of the group; table and columns are the same pointers within one group */
};

struct schema_item {
    const char *type, *name, *table, *sql;         /* as in sqlite_schema; sql may be NULL */
    size_t type_len, name_len, table_len, sql_len; /* when writing, 0 means: terminated by NUL */
};

/* ---- writing: init, then schema and changes in any order, then seal; clear to start the next batch */
struct batch_writer;
struct batch_writer *batch_writer_new(void); /* NULL without memory */
/* For a simulated cluster, where nobody looks at signatures: its batches have none. */
void batch_writer_unsigned(struct batch_writer *w);
void batch_writer_free(struct batch_writer *w);
void batch_writer_clear(struct batch_writer *w);
/* The whole schema of the author's database, when it changed. Copied. */
int batch_writer_schema(struct batch_writer *w, const struct schema_item *items, uint32_t count);
/* Appends one change to the group it fits in (same kind, table, ident kind and columns; at most 64 groups are kept open).
 * All is copied, and groups are known by the text of their names, so that callers may use their arrays again at once. 0;
 * ERR_TOOBIG (the change was not added and the batch is as it was: seal it and start another; if that was empty, the change
 * fits in no batch); ERR_NOMEM (not added, either). Fast when like changes follow each other. */
int batch_writer_add(struct batch_writer *w, const struct change *c);
uint32_t batch_writer_rows(const struct batch_writer *w);
size_t batch_writer_raw_bytes(const struct batch_writer *w); /* of the body so far; a little above the truth */

struct batch_head {
    struct origin origin;
    uint64_t version;
    unsigned flags;
    const char *db;
    size_t db_len;
    const uint8_t *prev;   /* 8 bytes */
    const uint8_t *key;    /* 32 bytes or NULL */
    struct vv after, knew; /* differences; owned, batch_head_release() */
    uint64_t schema;
    uint64_t stamp; /* of the first row; others relate to it */
    uint32_t rows, raw_bytes;
    const uint8_t *body;
    size_t body_len;
};

/* Makes the envelope: compresses where it helps, chains and signs. head->origin, version, flags (PART, BLIND), db, after, knew and
 * schema come from the caller; stamp too if there are no rows. The key of version 1 is the public half of `secret`. chain is
 * read and then replaced by the new chain hash; on an error it stays. The writer keeps its content until cleared. */
int batch_seal(struct batch_writer *w, const struct batch_head *head, const uint8_t secret[NODE_SECRET_BYTES],
               uint8_t chain[BATCH_CHAIN_BYTES], struct bytes **out);

/* ---- reading */
/* The head alone, from untrusted bytes; borrows. 0, ERR_MALFORMED, ERR_FORMAT, ERR_TOOBIG, ERR_NOMEM. */
int batch_head_read(struct batch_head *h, const uint8_t *data, size_t len);
void batch_head_release(struct batch_head *h);
/* Verifies prev and signature against the chain hash before it, and that the origin's node is the one of this key; replaces
 * chain when all holds. 0, ERR_SIGNATURE, ERR_NOMEM. */
int batch_verify(const uint8_t *data, size_t len, const uint8_t key[NODE_KEY_BYTES], uint8_t chain[BATCH_CHAIN_BYTES]);

/* The same batch with `by` added to its stamps, chained behind `chain` (which is replaced) and signed anew. Only for what nobody else
 * has seen. 0, ERR_MALFORMED, ERR_NOMEM. */
int batch_restamp(const uint8_t *data, size_t len, int64_t by, const uint8_t secret[NODE_SECRET_BYTES], uint8_t chain[BATCH_CHAIN_BYTES],
                  struct bytes **out);
/* The chain hash after this envelope, from the one before it. Verifies nothing. */
void batch_chain(const uint8_t *data, size_t len, uint8_t chain[BATCH_CHAIN_BYTES]);

struct batch_reader;
struct batch_reader *batch_reader_new(void);
void batch_reader_free(struct batch_reader *r);
/* Decompresses and reads the names. data must outlive the reading. Does not verify the signature. 0, ERR_MALFORMED,
 * ERR_FORMAT, ERR_TOOBIG, ERR_NOMEM. */
int batch_reader_open(struct batch_reader *r, const uint8_t *data, size_t len);
const struct batch_head *batch_reader_head(const struct batch_reader *r);
/* Ends the reading and gives back memory that grew large. What was read is no longer valid; _open and _free do the same. */
void batch_reader_close(struct batch_reader *r);
uint32_t batch_reader_schema_count(const struct batch_reader *r); /* 0: no schema in it */
const struct schema_item *batch_reader_schema(const struct batch_reader *r, uint32_t i);
/* 1: *c holds the next change (valid until the next call); 0: the end, everything was well-formed; else an error. Rows come
 * out before the end is known to be well-formed: whoever acts on them must be able to take it back. No column comes twice in
 * a group's list, but two names of the list may have equal text. */
int batch_reader_next(struct batch_reader *r, struct change *c);

#endif
