/* Starling store: what the files of the store share: the struct behind store.h, and the functions between them.
 * One file a concept; in the order in which a row meets them:
 *
 *   notes.c    the notes of the application, in order
 *   drain.c    notes → changes → registers, batch, log
 *   scan.c     the same for rows without notes: first capture, rescan; row_cursor.c reads a table in slices
 *   replaced.c rows thrown out by OR REPLACE
 *   forward.c  whom rows without notes mean that are found before them
 *   holders.c  who held a UNIQUE value
 *   recheck.c  the same in the background, for writes that nobody noted
 *   older.c    the same for a file that went back: an older copy in its place, or another file
 *   generation.c  which of these it is
 *   remake.c   a file that is gone, made again
 *   follow.c   what other servers add to their schema, made here
 *   moves.c    what a change of the application's schema means for its rows; carried.c  with which stamps these are told then
 *   rebuilt.c  the same for tables that are made anew; rekeyed.c with a key of another kind
 *   merge.c    batches of others → registers, log, what is to be shown
 *   project.c  what is to be shown → the application's file; show.c a row of it; retry.c those that could not be written at once
 *   parts.c    how much at once; shown.c what was shown when
 *   recover.c  what of it was shown before a restart
 *   numbers.c  the numbers of rows that SQLite numbered; renumber.c two rows under one; refs.c references to them; outdated.c by old numbers
 *   afar.c     references to rows of other databases of this server; referrers.c shows them, before.c knows what they meant, roster.c tells of ours
 *   keyless.c  tables without a key; keyrefs.c  whose key refers to numbered rows
 *   feed.c     the triggers that fill virtual tables, for what we show
 *   same.c     which rows are one, entered twice; twice.c when they are; unify.c their registers; apart.c what people say to it
 *   clash.c    which of it would break a foreign key; foreign.c has these bound
 *   mend.c     changes of ours that repair what merging would break; meet.c where it is a UNIQUE value; evict.c who is in its way
 *   policy.c   what a table's policy says of these; alike.c rows that are one by such a key
 *   rows.c     registers in the state database; pending.c rows whose content in the file is not what the registers say
 *   values.c   the value of a write, found again in the log
 *   sweep.c    names of tables in it that nothing refers to any more
 *   state.c    the state database: opening, origins, tables, columns, marks
 *   conflicts.c  what lost, and who wrote it; resolve.c  deciding it; family.c  which rows come back, or keep from going
 *   report.c   JSON for the interface; problems.c what is treated specially; verify.c digests of the real content */
#ifndef NODE_STORE_ENGINE_H
#define NODE_STORE_ENGINE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "node/store/capture.h"
#include "node/store/policy.h"
#include "node/store/register.h"
#include "node/store/schema.h"
#include "node/store/sql.h"
#include "node/store/store.h"
#include "proto/hlc.h"

enum { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* ---- names: tables and columns as the state database numbers them; they exist whether or not the application has them */
/* The kind of a table's key, told by the identity of any row of it (keyless_shape): a number, so many columns, or a name that we gave the row. Under one
 * name there is a table for each kind: an application that gives its table a key of another kind makes another table of it. (SHAPE_KEY: of one column;
 * SHAPE_KEY + 1: of two …) */
enum shape { SHAPE_NONE, SHAPE_NUMBER, SHAPE_KEY, SHAPE_WIDEST = SHAPE_KEY + 16, SHAPE_NAMES };

enum verdict { VERDICT_NONE, VERDICT_ACCEPT, VERDICT_RESTORE };

/* Where a column is in the application's table, and how it came there. */
#define COLUMN_NEVER 0   /* the application never had it: its values wait */
#define COLUMN_GONE (-1) /* it had, and dropped it */
#define TABLE_GONE INT64_MIN
struct column_move {
    int32_t placed;  /* place among the table's columns, from 1; or the above */
    int32_t noted;   /* the same, as the state has it: of a table that is to be read again, as it was when that was read last */
    bool elsewhere;  /* another server told of it last, or nobody told of anything; set by follow_elsewhere() */
    bool fresh;      /* it has come just now: what others know of it has not been shown yet */
    uint32_t from;   /* 1 + number of the column that it was before RENAME COLUMN, until it is read again; 0: none */
    uint32_t came;   /* the same, from then on */
    uint64_t filled; /* hash of what a migration filled it with in place of a default, while it is fresh; 0: not looked for yet */
};

struct tbl {
    uint32_t no;
    char *name;
    uint64_t hash; /* of the name, for digests */
    enum shape shape;
    int64_t rows, last_change_ms, top;        /* living rows; top: highest number a register was ever stored under */
    uint64_t lost;                            /* rows that are gone from the file without a note: too many to be believed */
    enum verdict verdict;                     /* what a person said of them, for the scan that follows */
    uint64_t null_keys;                       /* rows of the file that no key names: NULL is in it; not replicated */
    bool nulls_changed;                       /* to be counted again */
    uint64_t replacing;                       /* noted writes since somebody looked for rows that they threw out by OR REPLACE */
    uint32_t replacers;                       /* UNIQUE indexes that such a write may have met */
    int64_t replacing_ms, replacing_since_ms; /* the newest of these writes; when they began to wait for a look (0: none wait) */
    int64_t replaced_next_us;                 /* a large table: not to be counted before */
    int64_t scanned_seq;                      /* the newest note when a scan was through with it: the rows of older ones were read then */
    bool captured;                            /* its rows were captured once; later finds are local writes */
    bool itself;                              /* to be read again, and the table that it was: columns got other names, or VACUUM ran */
    const char *unbound, *unbound_mend;       /* why a table of the application is not served, or NULL */
    char lacks[200];                          /* what `unbound` may point to */
    int64_t placed;                           /* number of the triggers that it has in the application's file. 0: the application never had
                                                 such a table, and its rows wait. Negative: it had, under that number, or TABLE_GONE */
    bool elsewhere;                           /* as of columns */
    bool dropped_now;                         /* by the migration that is under way, which may not be through with it */
    bool remade;              /* another table stands in its place, or stood when it was read last: empty, it says nothing of rows */
    int64_t was;              /* the number of the triggers that it had before it was made anew */
    int64_t left;             /* rows that left it while it was not bound, less those that came, as notes tell */
    struct tbl *renamed_from; /* until it is placed: what it was before ALTER TABLE … RENAME TO, or a rebuild with another key */
    bool dirty;               /* rows or last_change differ from the state database */
    char **columns;
    uint64_t *column_hashes;
    struct column_move *moves; /* of each column */
    uint64_t *moved;           /* what was merged when renamed columns had been read, by origin number */
    uint32_t moved_count;
    uint32_t columns_count, columns_cap;
    sqlite3_stmt *get, *put, *del; /* registers at home */
    uint64_t written;              /* counts what was written to them since the store was opened */
    struct numbered *places;       /* numbers.c: rows under other numbers than those of their birth */
    struct numbered *tentative;    /* those that the projection at hand has moved, by where it shows them */
    bool extras;                   /* some of its registers are, or were, not at home */
    bool followed;                 /* roster.c tells other databases which numbers its rows have */
    struct tbl *first_name;        /* the table that it was before it was renamed, by which keys refer to its rows; NULL: it never was */
    uint32_t number_column;        /* 1 + the column of the registers that says which; 0: no row was ever renumbered */
    struct tio *io;                /* NULL: the application has no such table now, or it is not replicated */
};

/* One table of the application's file: statements and column numbers. `order` lists the columns as changes carry them: key columns first;
 * a single INTEGER key is left out, since the identity tells it. */
struct some_stmt {
    uint32_t count;
    uint32_t *columns; /* indexes into order */
    sqlite3_stmt *stmt;
};

struct column_set {
    uint32_t count;
    const char **names;
    size_t *lens;
    uint32_t *at; /* indexes into order */
};

struct tio {
    struct store *store;
    const struct table *table;
    struct tbl *tbl;
    uint32_t count;    /* columns in order */
    uint32_t *order;   /* → table->columns */
    uint32_t *numbers; /* → tbl->columns */
    const char **names;
    size_t *lens;
    int64_t next_rowid;                           /* of a table without a key: for the next row that is shown; 0: to be looked up */
    sqlite3_stmt *name_of, *place_of, *put_place; /* the same */
    bool plain;       /* statements have no conflict clause of their own: it would be that of the triggers that feed virtual tables, too */
    bool binary_key;  /* all key columns compare BINARY */
    bool null_key;    /* SQLite allows NULL in the key */
    int64_t sequence; /* AUTOINCREMENT: what sqlite_sequence holds at least, as far as we know */
    int64_t gone_number;     /* the same: the highest that was given to a row which is gone; 0: none */
    uint32_t uniques;        /* UNIQUE constraints and indexes besides the key */
    struct holders *holders; /* NULL without such */
    uint32_t *by_number;     /* number of column → 1 + index in order; 0 not here */
    uint32_t by_number_count;
    sqlite3_stmt *read, *insert, *del, *peek; /* read: by key, reader connection; peek: by key, writer connection */
    struct some_stmt updates[8], inserts[4];  /* of some of the columns, as they are needed */
    uint32_t updates_next, inserts_next;
    struct column_set **sets;
    uint32_t sets_count, sets_cap;
    struct column_set *all;        /* every column */
    uint64_t *defaults;            /* hash of each column's default, 0 not known yet */
    bool *converted;               /* columns whose type here has changed a value of another server */
    struct foreign **refs, **kids; /* declared references of this table, and to it; both tables are here */
    uint32_t refs_count, kids_count;
    bool known_by;       /* some of them refer to other columns than the key */
    uint32_t rank;       /* tables that others refer to come before these */
    bool telling;        /* some column, or the key, refers to a row by its number */
    struct tbl **ref_to; /* refs.c: for each column in order the table whose rows it refers to by their numbers, or NULL */
    struct afar **afar;  /* the same of tables in other databases; NULL: there is no such column */
    struct tbl *key_ref; /* the same of the one INTEGER key */
    bool key_refs;       /* some of several key columns refer */
    struct policy policy;
    struct alike *alike;     /* statements for the policy's key */
    struct rekeyed *rekeyed; /* tbl->renamed_from has another key: how its rows are found by it */
};

static inline bool tbl_is_text(const struct tbl *t) { return t->shape >= SHAPE_KEY; }

/* ---- who wrote */
struct origin_row {
    struct origin id;
    uint8_t key[NODE_KEY_BYTES];
    bool keyed;
    uint64_t version; /* merged */
    uint64_t shown;   /* on show in the application's file, but for what is parked */
    uint64_t known;   /* of that, what had been on show for a while when something was shown last: seen, also after a restart */
    uint8_t chain[BATCH_CHAIN_BYTES];
    uint64_t *knew; /* by origin number */
    uint32_t knew_count;
    bool changed; /* to be written with the next commit of the state */
};

/* ---- rows whose content in the application's file is not what the registers say */
struct shown_cell {
    uint32_t column;
    uint64_t hash;
};

struct waited {
    const struct tbl *tbl; /* NULL: nobody is */
    struct rowid who;
};

struct pending_row {
    UT_hash_handle hh;
    struct tbl *tbl;
    struct rowid who; /* key points into `name` */
    bool present;     /* the file has the row */
    uint32_t cells_count;
    struct shown_cell *cells; /* columns whose content differs, or may differ, from the registers */
    char *reason;             /* parked: why; NULL: in flight */
    uint32_t part_of;         /* 1 + origin number: held until that commit's last part is here; 0 not held */
    int64_t behind;           /* flights up to this one may have ops about it: they are skipped, so it stays here until they are shown */
    bool held;                /* until then its number may mean another row: it is not shown before */
    bool retry;               /* parked, but to be tried again now */
    bool queued;              /* failed in the projection at hand, to be tried again in it */
    bool done;                /* shown by the projection at hand */
    bool holds;               /* with it, the file has the row */
    bool stored;              /* has a row in the state database */
    bool looked, before;      /* in the projection at hand: `present` was found anew; what it was */
    bool moves;               /* the projection at hand gives it its number */
    bool recount;             /* its deletion was parked: `cells` are to be told anew, under the next lock */
    bool out; /* nothing lets it in, in the projection at hand, but a mend: its own form is refused, or that of the row it waits for */
    int64_t tried_ms, form_schema; /* tried last; under this schema its own form (NOT NULL, a CHECK, a type) is refused, 0: it is not */
    struct waited waits;           /* until this row is shown */
    bool mapped;                   /* only known from a flight, whose changes for it are still right; else it is shown from the registers */
    uint32_t name_len;
    uint8_t name[]; /* hash key: table number and identity */
};

/* One change to the application's file, made by merging, in order. Values borrow from the flight's reader. */
struct op {
    uint8_t kind; /* CHANGE_INSERT, CHANGE_UPDATE, CHANGE_DELETE; CHANGE_KINDS: find out from the registers */
    bool written; /* by the projection at hand */
    struct tbl *tbl;
    struct rowid who;
    uint32_t count;
    uint32_t *columns; /* numbers in tbl; shared within a group */
    struct value *values;
};

struct arena_block;
struct arena {
    struct arena_block *block;
};

/* A merged batch on its way into the application's file. */
struct flight {
    struct flight *next;
    int64_t seq;
    uint32_t origin;
    uint64_t version;
    bool part;
    struct bytes *batch;
    struct batch_reader *reader;
    struct arena arena;
    struct op *ops;
    uint32_t ops_count, ops_cap;
    size_t bytes;      /* about what it holds in memory */
    struct buf before; /* what the file shows of the rows: stored, and read again after a crash */
};

struct shown_at { /* the vector that was shown from that moment on */
    int64_t ms;
    uint64_t *versions;
    uint32_t count;
};

struct hot { /* one row in the state database, written with every commit */
    int64_t note_seq, note_nonce;
    uint64_t hlc;
    uint64_t digest_a, digest_b, base;
    int64_t flight_seq;    /* last flight made */
    int64_t projected_seq; /* last flight shown */
    uint64_t published;    /* own versions that may leave */
    uint64_t schema_sent;  /* hash of the schema's text that others have from us */
    int64_t shown_ms;      /* when something was shown last */
    uint32_t epoch;        /* ours */
    int64_t created;       /* 1: we made the application's file, and follow CREATE until the application does its own */
};

struct bad_batch { /* was taken from the core, but what is inside cannot be read */
    uint32_t origin;
    uint64_t version;
};

enum file_kind { FILE_OURS, FILE_STRIPPED, FILE_OTHER }; /* generation.c */

struct value_cache;
struct afar;
struct afar_news;
struct outdated;
struct forward;
struct renumber;
struct roster;
struct scan;
struct recheck;
struct holders;
struct foreign;
struct mends;
struct same;

struct store {
    struct store_config config;
    struct appfile app;
    bool app_open;
    struct appfile_head head; /* of the WAL's index, just before the last drain looked: while it is the same, nobody has committed */
    bool head_known;
    sqlite3 *db;
    uint8_t state_id[16];
    struct hot hot;
    struct hlc clock;

    struct schema schema;
    struct tio *tios;
    uint32_t tios_count;
    struct tio **by_trigger; /* number in notes → table */
    uint32_t by_trigger_count;
    bool blind;      /* the batch being written meets what is parked here: nothing of others counts as seen */
    uint64_t *alone; /* scratch for seen_of */
    struct foreign **foreigns;
    uint32_t foreigns_count;
    uint64_t snapshot;     /* counts looks at the file: what foreign.c remembers holds within one */
    uint64_t foreign_at;   /* as retried_at, and what came: when rows that break foreign keys were tried last */
    uint32_t foreign_left; /* how many of them are to be tried since something moved */
    uint32_t numbers_used; /* the highest number of triggers, and of notes (once known), since the file was opened */
    bool numbers_known;
    int64_t numbers;           /* the highest of triggers, as remembered of tables that the state has forgotten */
    int64_t schema_changed_ms; /* when it was last seen to change */

    struct tbl **tbls;
    uint32_t tbls_count;
    struct origin_row *origins;
    struct origin *origin_ids; /* the same ids, for comparing */
    uint32_t origins_count, own;

    struct bad_batch bad; /* version 0: none */
    bool any_bad;
    int wal_pages; /* of the state database */
    bool in_tx;    /* a transaction on the state database is open */
    struct batch_writer *writer;
    struct reg meant;   /* scratch of refs.c */
    struct value *told; /* the same */
    uint8_t *told_bytes;
    uint32_t told_cap;
    const struct notes *notes; /* of the drain at hand; those before notes_done are dealt with */
    uint32_t notes_done;
    struct reg reg, reg2, source; /* source: what a row was before its table was renamed */
    struct buf blob;
    struct buf key, key2;

    struct bytes **delivered; /* queue of batches to merge */
    uint32_t delivered_count, delivered_cap;
    int64_t covered;             /* last flight that the application's file said it has, at opening */
    bool recapture;              /* the file was captured before, by a state that is lost: what it holds is not known to all */
    uint64_t recaptured_at;      /* a stamp of that moment; 0: never */
    bool again_due;              /* what came since may be what was captured anew */
    bool state_went_back;        /* found at opening: a new epoch is due */
    enum file_kind file;         /* what stands in the application's place, until that was dealt with */
    bool marked, shared;         /* the file says that it is ours; others have, or had, our base */
    int64_t trimmed_note;        /* notes before it were trimmed, or begun to be */
    int64_t durable_note;        /* our mark, as far as our state is synced: older notes may be trimmed */
    uint64_t given;              /* own versions that the owner has got */
    uint64_t own_last;           /* our last stamp in this run */
    uint64_t alone_from;         /* restamp.c: own versions from here on have not left this server; 0: all may have */
    bool alone_kept;             /* the state says so, too */
    int64_t clock_offset_ms;     /* of the cluster's clock to ours */
    bool schema_stale;           /* to be read again before anything else */
    int64_t install_since_ms;    /* triggers are to be made, since then; 0: none */
    int64_t held_since_ms;       /* a migration is under way since then; 0: none */
    bool held_new, held_long;    /* new tables are not bound meanwhile; one took the name of another, which is perhaps being copied */
    bool held_project;           /* and rows may have changed unnoticed, or columns came that others know: nothing is shown meanwhile */
    bool held_merge;             /* something was renamed: until it was read again nothing is merged */
    bool hold_over, fresh;       /* it has been quiet for long enough; some column is fresh */
    bool schema_waits, base_due; /* the schema is still being changed; the base is to be told with the next batch */
    struct {
        bool known;
        uint32_t origin;
        uint64_t table;
        int kind;
    } told_kind;             /* what follow_kind() found last */
    bool follow_due;         /* others told of schemas that were not looked at for what is missing here */
    bool elsewhere_known;    /* of all tables and columns */
    int64_t follow_since_ms; /* a moment without readers is waited for since then */
    uint64_t floor;          /* stamps of the batch being written are above it */
    struct vv after_sent;    /* `after` of our last batch; empty after a restart: then it is sent whole */
    struct vv knew_news;     /* what `knew` gained since our last batch */
    bool remembered;         /* what the author of the batch being written had seen is in the state */
    struct value *look_values;
    uint32_t look_values_cap;
    uint32_t too_large; /* rows that fit in no batch */
    struct flight *flights, **flights_tail;
    size_t flights_bytes;
    struct pending_row *pending;
    uint32_t parked_count, held_count;
    bool flights_mapped; /* the flights' rows are in `pending` as well, since a drain came between */
    struct shown_at *shown;
    uint32_t shown_count, shown_cap;
    struct value_cache *values;
    struct mends *mends;         /* planned by the projection at hand */
    bool mending, ahead;         /* it may plan some; what it writes may refer to a row that has no place yet: a circle */
    struct policy_row *policies; /* in force in the cluster, as far as we know */
    uint32_t policies_count;
    bool policies_due, policies_moved; /* some of ours are to be told; references are to be bound anew before anything else is merged */
    struct found_row *found;           /* numbers.c: rows that references were seen to mean */
    struct renumber *renumber;
    struct waited waits; /* numbers_wait() found last that this row is waited for */
    struct outdated *outdated;
    struct forward *forward;
    struct afar *afar;           /* whose rows ours refer to */
    struct afar_news *afar_news; /* what was told of them since */
    struct roster *rosters;      /* whose rows refer to ours */
    int64_t soon_us;             /* when these were told last that a capture is under way */
    int64_t began_ms;            /* when this state was made; 0: not known */
    int64_t adopted_ms;          /* when its first capture ended; 0: not known */
    struct same *same;           /* which rows are one */
    struct scan *scan;
    struct recheck *recheck;
    uint32_t data_version; /* of the file, when a drain looked last, and the schema's */
    int64_t data_schema;
    int64_t open_conflicts;

    bool watched, stored_changed, told_settled;
    uint64_t *vector; /* scratch for seen */
    uint32_t vector_cap;
    struct vv have;
    int64_t app_ms; /* when the application last committed something */
    int64_t blocked_since_ms, locked_since_ms, readers_since_ms, retried_ms, checkpoint_ms, active_ms, trim_ms;
    uint32_t project_tries, retries; /* retries: parked rows that are to be tried by the next projection */
    int64_t retry_us, retry_all_ms;  /* how long that took last, in vain; when all that is parked may be tried at once */
    bool retrying_all;               /* which is what the next projection does */
    bool moving;                     /* the projection at hand has put rows where they were not at home */
    uint64_t moved_rows, retried_at; /* shown so far; the same, and the newest note, when what is parked was tried last */
    uint64_t drained_rows, mended_rows, projected_rows; /* drained: mends of ours among them */
    int64_t lock_us[256];
    uint32_t lock_next, lock_count;

    sqlite3_stmt *s_begin, *s_commit, *s_rollback, *s_hot, *s_table, *s_log_put, *s_log_get, *s_extra_get, *s_extra_put, *s_extra_del,
        *s_flight_put, *s_flight_del, *s_shown_put, *s_shown_del, *s_open_put, *s_open_del, *s_seen_put, *s_gone_put, *s_given_put,
        *s_origin_put;
    sqlite3_stmt *a_begin, *a_end;
    sqlite3_stmt *a_notes[2], *a_nonce[2], *a_version[2]; /* on the reader, and on the writer */
    sqlite3_stmt *w_last, *w_mark, *w_trim;
    uint32_t note_keys; /* k columns of the note table */
};

/* ---- store.c */
void store_log(struct store *s, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));
int64_t store_wall_ms(struct store *s); /* of the VFS, as the triggers see it */
int64_t store_mono_us(void);
void store_lock_time(struct store *s, int64_t us);
static inline struct origins_order store_order(const struct store *s) { return (struct origins_order){s->origin_ids}; }

int store_open_app(struct store *s, bool create, char *why, size_t why_len);

/* ---- arena: memory that is freed at once */
void *arena_alloc(struct arena *a, size_t size); /* NULL without memory */
void arena_release(struct arena *a);

/* ---- state.c */
int state_open(struct store *s, char *why, size_t why_len);
void state_close(struct store *s);
int state_begin(struct store *s);     /* no-op inside a transaction */
int state_commit(struct store *s);    /* writes the hot row, changed origins and tables; not yet synced */
void state_rollback(struct store *s); /* what memory holds of the state is then wrong: close the store */
int state_recapture(struct store *s); /* sets it, for good */
int state_sync(struct store *s);
int state_checkpoint(struct store *s, bool quiet);
int state_reload(struct store *s);
int state_sweep(struct store *s);                                                                   /* sweep.c: while opening */
int state_origin(struct store *s, const struct origin *id, uint32_t *no);                           /* found or made */
int state_find_origin(const struct store *s, const struct origin *id);                              /* -1: unknown */
int state_table(struct store *s, const char *name, size_t len, enum shape shape, struct tbl **out); /* found or made */
struct tbl *state_table_of(const struct store *s, uint32_t no);                                     /* NULL: no such number */
struct tbl *state_find_table(const struct store *s, const char *name, size_t len, enum shape shape);
enum shape state_shape_of(const struct rowid *who); /* but for rows without a key: keyless_shape() */
enum shape state_shape_of_table(const struct table *t);
int state_column(struct store *s, struct tbl *t, const char *name, size_t len, uint32_t *no); /* found or made */
uint64_t state_name_hash(const char *name, size_t len); /* of tables and columns, the same on every server */
int state_place_column(struct store *s, struct tbl *t, uint32_t no, int32_t placed);
bool state_is_bad(struct store *s, uint32_t origin, uint64_t version);
int state_set_bad(struct store *s, struct bad_batch bad); /* in a transaction of its own */
int state_knew_set(struct store *s, uint32_t origin, uint32_t of, uint64_t version);

/* ---- tables.c: the application's tables, bound */
int tables_load(struct store *s); /* schema → tios; after opening and after each change of schema */
void tables_unload(struct store *s);
const struct column_set *tables_columns(struct tio *io, const uint32_t *at, uint32_t count); /* the same set, the same pointers */
struct column_set *tables_column_set_new(struct tio *io, const uint32_t *at, uint32_t count);
int tables_default_hash(struct store *s, struct tio *io, uint32_t at, uint64_t *hash);
int tables_count_nulls(struct store *s, struct tio *io); /* rows that no key names, in the reader's snapshot */
void tables_put_null_test(sqlite3_str *q, const struct tio *io, const char *word,
                          bool null);                                            /* word and "k IS NULL OR …", or "k NOT NULL AND …" */
void tables_put_key(sqlite3_str *q, const struct table *t, const char *of);      /* ", of.k" for each column of the key */
void tables_batch_done(struct store *s);                                         /* pointers of column sets may be given up */
int tables_key_values(const struct rowid *who, struct value *out, uint32_t max); /* how many; borrowed from who */
/* The same for people: with today's numbers. */
int tables_key_shown(struct store *s, const struct tbl *t, const struct rowid *who, struct value *out, uint32_t max);
int tables_bind_place(struct tio *io, sqlite3_stmt *stmt, int at, const struct rowid *who); /* the same for statements of this table */
int tables_bind_key(struct store *s, sqlite3_stmt *stmt, int at, const struct rowid *who);  /* next free parameter, or an error */
const char *tables_or_abort(const struct tio *io);
int tables_update_stmt(struct store *s, struct tio *io, const uint32_t *at, uint32_t count, sqlite3_stmt **out);
int tables_insert_stmt(struct store *s, struct tio *io, const uint32_t *at, uint32_t count, sqlite3_stmt **out);
void tables_put_key_value(struct buf *b, const struct value *v, enum collation collation);
int tables_key_check(const uint8_t *key, size_t len); /* 0, or ERR_MALFORMED: a normalised key from the network */
int tables_key_of(struct tio *io, const struct value *key_values, struct buf *out); /* normalised key */
int tables_key_plain(struct tio *io, const struct value *key_values,
                     struct buf *out);                                          /* the same, references as the numbers that they are */
bool tables_converts(const struct tio *io, uint32_t at, const struct value *v); /* this column would store v otherwise */
int tables_convert(struct store *s, struct tio *io, uint32_t at, const struct value *v, uint64_t *hash);
int tables_note_converted(struct store *s, struct tio *io, uint32_t at); /* said in `tables`, until the column's type changes */
bool tables_converted(const struct tio *io, uint32_t at);

/* ---- feed.c: after the schema was read, and before statements are prepared */
int feed_load(struct store *s);

/* ---- numbers.c: rows that SQLite numbered are known by their birth; their number is one more column, which others and mends may change */
#define NOT_HERE UINT32_MAX        /* in a column set: no column of the application's, but the number */
#define NUMBER_COLUMN "\001number" /* in registers and batches; no application has such a column */
struct numbered {
    UT_hash_handle hh, by_shown;
    int64_t home, shown; /* where the register is; where the file shows the row, within the projection at hand */
    bool homed;          /* the register is there, and not under the number of its birth */
    bool tentative;      /* shown is not home: the projection at hand has moved it */
    uint32_t name_len;
    uint8_t name[]; /* hash key: the identity */
};
int64_t numbers_shown(const struct tbl *t, const struct rowid *who); /* its number in the file */
int64_t numbers_today(struct store *s, const struct tbl *t,
                      const struct rowid *who); /* the same; of a dead row the one that all servers know */
int64_t
numbers_in_file(struct store *s, const struct tbl *t,
                const struct rowid *who); /* the same; of a dead row the one under which the file may still show what refers to it */
int64_t numbers_home(const struct tbl *t, const struct rowid *who);                        /* where its register is, if it is at home */
int numbers_settle(struct store *s, struct tbl *t, const struct rowid *who, int64_t home); /* its register is there now */
int numbers_leave(struct store *s, struct tbl *t, const struct rowid *who);                /* its register is not at home any more */
/* In the open transaction of the state: the file shows it there, in the projection `seq`; until numbers_settle_all() or numbers_hide(). */
int numbers_show_at(struct store *s, struct tbl *t, const struct rowid *who, int64_t number, int64_t seq);
int numbers_at(const struct tbl *t, int64_t number, struct rowid *who); /* 1: the projection at hand has put this row there */
int numbers_hide_row(struct store *s, struct tbl *t, const struct rowid *who);
int numbers_hide(struct store *s);                        /* all: the projection was taken back */
int numbers_settle_all(struct store *s, int64_t covered); /* what projections up to this one have put somewhere is at home there */
int numbers_load(struct store *s);
void numbers_clear(struct tbl *t);
int64_t numbers_wanted(const struct store *s, const struct tbl *t, const struct reg *r); /* what the registers say; r->who is set */
/* 1: it lives, but is not shown here (then it is in s->meant); 2: it is dead. */
int numbers_wait(struct store *s, const struct tbl *t, const struct rowid *who);
/* The number of a row is written: as a column, whose first value is the number at birth. */
int numbers_write(struct store *s, struct tbl *t, struct reg *r, struct write by, int64_t number, const struct seen *seen);
int numbers_column(struct store *s, struct tbl *t, uint32_t *column);

bool numbers_sequence_behind(const struct tio *io); /* AUTOINCREMENT: of what was given elsewhere */
int numbers_raise_sequences(struct store *s);       /* on the writer */

/* ---- renumber.c: two rows under one number */
void renumber_release(struct store *s);
/* Both live and want one number: plans that the junior gets another one. 1; 0: neither can. r->who is set in both. */
int renumber_clash(struct store *s, struct tbl *t, const struct reg *a, const struct reg *b);
bool renumber_planned(const struct store *s);
void renumber_forget(struct store *s); /* what was planned */
int renumber_write(struct store *s);   /* the planned mends, as a batch of ours, in the open transaction of the state */
bool renumber_left(struct store *s);   /* all that are planned are left to other servers, until renumber_waits() is over */
bool renumber_waits(const struct store *s);
bool renumber_patient(const struct store *s); /* the same, whatever was merged since: their mends are behind it */
int renumber_want(struct store *s, struct tbl *t, const struct rowid *who, int64_t to); /* a row of the file is to get this number */
int renumber_move(struct store *s, int64_t seq); /* on the writer: they get it, and what refers to them follows. 1: some did */
int renumber_undo(struct store *s);              /* the projection was taken back */
int renumber_done(struct store *s);              /* it is there */

/* ---- same.c: rows that are one; more in same.h */
int same_load(struct store *s);
void same_release(struct store *s);
/* The row that had this number, and for which another stands now. 1 found. */
int same_by_number(struct store *s, const struct tbl *t, int64_t number, struct rowid *who);

/* ---- refs.c: references by number travel as identities */
int refs_load(struct store *s); /* after the foreign keys */
/* The row that this number of t means: to the application at the note `seq`, or now (INT64_MAX). 1 found, 0 none. */
int refs_row(struct store *s, struct tbl *t, int64_t number, int64_t seq, struct rowid *who);
/* Values of these columns (of io's order), as a batch carries them, of the row `who` (NULL: none yet), written by a request at `ms` (negative: none);
 * *v may become an array of the store's, until the next call. */
int refs_tell(struct store *s, struct tio *io, const struct rowid *who, const uint32_t *at, uint32_t n, int64_t ms, const struct value **v);
int refs_key(struct store *s, struct tio *io, const struct value *values, int64_t seq, uint32_t plain,
             struct buf *out); /* normalised key of these key columns; `plain`: bits of those that are numbers and no more */
size_t refs_pack(struct store *s, const struct tbl *t, const struct rowid *who,
                 uint8_t bytes[VALUE_REF_BORN_BYTES]);                                    /* 0: its number is its name */
int refs_find(struct store *s, const struct value *v, struct tbl **t, struct rowid *who); /* of a VALUE_REF: 1 known here, 0 not */
/* Gives each VALUE_REF its number in as.i. 1: a row that is meant lives but is not shown here yet; 2: it is dead. */
int refs_show(struct store *s, struct value *values, uint32_t count);
int refs_in_file(struct store *s, struct value *values, uint32_t count); /* the same, to find a row of the file by its key */
/* Are they as merging knew them? ERR_CONSTRAINT: not, or (unless `ahead`) not shown yet. */
int refs_settled(struct store *s, struct value *values, uint32_t count, bool ahead);
/* Was what the write refers to by v deleted by somebody who had seen it, or left an orphan on purpose? */
int refs_left(struct store *s, struct tbl *child, const struct rowid *who, const struct write *w, const struct value *v, bool *left);
/* The row is to be shown again: whom this column means may have another number than the file shows. hash: of the reference itself. */
int refs_unsettle(struct store *s, struct tbl *t, const struct rowid *who, struct shown_cell shown, uint64_t hash);
/* The row that v means is dead. 0: it was left so on purpose, or seen; 1: it is to live again, or else what refers to it has to wait. */
int refs_gone(struct store *s, struct tbl *t, const struct rowid *who, const struct write *w, const struct value *v);
int refs_key_settled(struct store *s, struct tio *io, const struct rowid *who);
int refs_plain(struct store *s, struct value *v); /* the same, and makes it a VALUE_INT */

/* ---- rows.c: registers in the state database. A row lives at home (under its number or key) when it is the one that the application's file
 * shows there, or when nobody else is; else in `extra`, by identity. */
int rows_find(struct store *s, const struct tbl *t, const struct rowid *who, struct reg *r, bool *home); /* r cleared when unknown */
int rows_at_home(struct store *s, const struct tbl *t, const struct rowid *place, struct reg *r); /* who lives under that number or key */
int rows_store(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r, bool home);
int rows_evict(struct store *s, struct tbl *t, const struct rowid *place); /* who is at home moves to extra */
int rows_forget_extra(struct store *s, struct tbl *t, const struct rowid *who);
bool rowid_same(const struct rowid *a, const struct rowid *b);
int rowid_cmp(const struct store *s, const struct rowid *a,
              const struct rowid *b); /* an order that all servers agree on; of numbered rows */
uint64_t rows_digest_hash(const struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r);
void rows_account(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *before, const struct reg *after);
int rows_conflicts(struct store *s, struct tbl *t, const struct rowid *who, const struct reg *r, bool had, uint32_t *count);
/* What lost in this row: calls with each losing cell, or with cell NULL and a death. */
int rows_each_conflict(struct store *s, const struct tbl *t, const struct reg *r,
                       int (*call)(void *ctx, const struct reg *of, const struct cell *c, const struct death *d), void *ctx);
int rows_death_saw(struct store *s, const struct death *d, const struct write *w, bool *saw); /* had its author seen the write? */
int rowid_pack(const struct rowid *who, struct buf *b);
int rowid_unpack(struct rowid *who, const uint8_t **at, const uint8_t *end);
int rowid_name(const struct tbl *t, const struct rowid *who, struct buf *b); /* appended: table number and identity */

/* ---- values.c; hash: the cell's, since rows that are one may be of one batch */
int values_find(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, uint32_t column, uint64_t hash,
                struct value *v); /* a reference with the number that it means now */
int values_told(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, uint32_t column, uint64_t hash,
                struct value *v); /* as its batch tells it */
/* Did its author say so of this row, in this version? */
int values_orphan(struct store *s, uint32_t origin, uint64_t version, struct tbl *t, const struct rowid *who, bool *orphan);
void values_release(struct store *s);
int log_read(struct store *s, uint32_t origin, uint64_t version, struct bytes **out);
int log_write(struct store *s, uint32_t origin, uint64_t version, const struct bytes *b);
int log_replace(struct store *s, uint32_t origin, uint64_t version, const struct bytes *b);

/* ---- restamp.c */
int restamp_load(struct store *s);
void restamp_epoch(struct store *s); /* a new epoch of ours began */

/* ---- drain.c */
enum { DRAIN_NOTHING = 0, DRAIN_DONE = 1, DRAIN_MORE = 2, DRAIN_RESCAN = 3 };
/* Takes what the application committed since the last drain into the open transaction of the state. locked: on the writer, inside
 * its BEGIN IMMEDIATE. DRAIN_MORE: a part; call again. DRAIN_RESCAN: notes are missing. ERR_SCHEMA: the schema changed. */
int drain(struct store *s, bool locked);
struct row_look { /* what a look at one row of the file found */
    struct tio *io;
    struct rowid place; /* number or key */
    int64_t rowid;      /* of a table without a key, if by_rowid: then place does not count */
    bool by_rowid;
    bool noted;             /* an application's request wrote it, at ms */
    bool locked;            /* seen on the writer, inside its BEGIN IMMEDIATE */
    int64_t ms;             /* when it was written; LOOK_ADOPTED: it was there before us */
    bool died, born, given; /* the notes: deleted; inserted; with a key that the application gave */
    bool again;             /* inserted over itself: a REPLACE of the same key */
    bool reborn;            /* inserted where another life has ended, noted or not */
    bool present;
    struct value *values; /* in io's order */
};
#define LOOK_ADOPTED (-1)
#define LOOK_FOUND (-2) /* found without a note: a rescan */
#define LOOK_OTHER (-3) /* found in another file: below all that we have */
/* What the notes of the drain at hand say of this number, up to `seq`: 1 born, *who; 0 nothing. */
int drain_birth(struct store *s, const struct tbl *t, int64_t number, int64_t seq, struct rowid *who);
int drain_begin_changes(struct store *s, int64_t earliest_ms); /* what the authors of the coming changes had seen */
void drain_new_identity(struct store *s, const struct row_look *look, const uint64_t *hashes, struct rowid *who); /* of a row that came */
int drain_row(struct store *s, struct row_look *look); /* compares with the registers, writes changes */
/* A change of ours that nobody made in the application's file: of the row in r, which is stored anew. row and hashes in io's order. at: its stamp;
 * 0: now. */
int drain_author(struct store *s, struct tio *io, struct reg *r, bool home, enum change_kind kind, const struct column_set *set,
                 struct value *row, const uint64_t *hashes, uint64_t at);
/* A row is the same as another one: only the change itself, the caller tells the registers. */
int drain_same(struct store *s, struct tio *io, const struct rowid *who, const struct column_set *set, const struct value *values,
               uint64_t at);
/* The death of the row in r, with this stamp; carried: from another name of the table. */
int drain_death(struct store *s, struct tio *io, struct reg *r, bool home, uint64_t at, bool carried);
/* The same as a mend: nobody decided it, so it has seen nothing. */
int drain_cascade(struct store *s, struct tio *io, struct reg *r, bool home, uint64_t at);
/* The same for its number alone: a mend of ours, or what somebody decided. */
int drain_renumber(struct store *s, struct tio *io, struct reg *r, bool home, int64_t number, bool mend, uint64_t at);
int drain_number(struct store *s, struct tio *io, struct reg *r, int64_t number, uint64_t at); /* by which a migration knows it */
/* These columns of a row in another file: they lose against ours, and are listed. */
int drain_lose(struct store *s, struct row_look *look, const uint32_t *at, uint32_t count);
int drain_seal(struct store *s, bool part);                                 /* ends the batch, if it holds anything */
int drain_look(struct store *s, struct row_look *look, sqlite3_stmt *stmt); /* reads the row; reset stmt afterwards */

/* ---- moves.c: what a change of the application's schema means for its rows */
uint32_t moves_numbers(const struct store *s); /* the highest number of triggers that a table ever had */
int moves_tables(struct store *s);             /* after the triggers are right, before the tables are bound */
bool moves_hold(const struct store *s);        /* is a migration under way? Then its tables are not read again yet, and nothing is shown */
bool moves_gone(const struct store *s, const struct tbl *t);     /* dropped or renamed by the application, for good */
bool moves_is_new(const struct store *s, const struct table *t); /* the file had no such table when we last looked */
int moves_columns(struct store *s);                              /* after the tables are bound */
int moves_place(struct store *s, struct tio *io);                /* a table that came was read */
void moves_shown(struct store *s);                               /* nothing is left to show: what was fresh is so no more */
void moves_note(struct store *s, uint32_t number, int left);     /* a note of a table that is not bound now: rows that left it */
int moves_show_row(struct store *s, struct tbl *t, const struct rowid *who); /* the file lacks it, and is to have it */

/* ---- rebuilt.c: tables that are made anew, while they are */
bool rebuilt_begun(const struct store *s, const struct table *fresh); /* is it perhaps being filled from another one? */
/* Does this column hold what the column `from` showed before? */
int rebuilt_same(struct store *s, struct tio *io, uint32_t from, uint32_t column, bool in_place, bool *same);
int rebuilt_retyped(struct store *s, struct tio *io, uint32_t i, const struct value *v, uint64_t now, uint64_t was, bool *retyped);

/* ---- scan.c */
/* A row that the registers show and the file does not: deleted, or shown again where a person said so. */
int scan_gone_row(struct store *s, struct tio *io, const struct rowid *place, const struct rowid *who);
bool scan_too_many(struct store *s, struct tbl *t, uint64_t gone); /* then it is said, and nothing is deleted */
static inline uint64_t base_of(uint64_t digest) { return digest & ~BASE_FLAGS ? digest & ~BASE_FLAGS : 2; }
int scan_start(struct store *s, bool whole); /* whole: every table again; else those that were not captured yet */
int scan_step(struct store *s);
bool scan_running(const struct store *s);
bool scan_adopts(const struct store *s); /* a first capture is under way */
/* Rows that are gone without a note, too many to be believed: a person says whether they were deleted. rows: 0, there are none. */
int scan_decide(struct store *s, const char *table, bool accept, uint64_t *rows);
bool scan_first_time(const struct store *s); /* nothing was ever written or merged here: what the file holds was there before us */
void scan_stop(struct store *s);
int scan_expected(struct store *s, struct tio *io, int64_t *should); /* how many rows the file should have, by the registers */
int64_t tables_unshown(struct store *s); /* living rows and columns that the application has no place for here */
json_t *scan_json(const struct store *s);
int scan_drained(struct store *s, bool *drained, bool *back); /* back: then scan_start(), outside the snapshot */

/* ---- row_cursor.c: a table of the application's file in slices, by key */
struct row_cursor {
    bool began;
    struct buf last; /* the key that was read last, normalised; number for integer keys */
    struct buf from; /* a copy of it, bound to the slice at hand */
    int64_t last_number;
    sqlite3_stmt *stmt;
};
void row_cursor_init(struct row_cursor *c);
void row_cursor_release(struct row_cursor *c);
void row_cursor_put_key(sqlite3_str *q, const struct table *t, const char *before, bool collate); /* `before`, and the columns of the key */
void row_cursor_rewind(struct row_cursor *c);                                                     /* to the first row of another table */
int row_cursor_open(struct store *s, struct tio *io, struct row_cursor *c, uint32_t rows);        /* the next slice: at most so many rows */
/* After sql_step(c->stmt): place and values (to be freed). */
int row_cursor_row(struct tio *io, struct row_cursor *c, struct row_look *look);
int row_cursor_keys(struct store *s, struct tio *io, sqlite3_stmt **out);                       /* all of its keys at once */
int row_cursor_place(struct tio *io, sqlite3_stmt *stmt, struct buf *key, struct rowid *place); /* of its row; the key is in `key` */

/* ---- replaced.c */
/* INSERT OR REPLACE and its kin throw out rows through a second UNIQUE key, and no trigger tells: where the file has fewer rows than the registers
 * say, the missing ones are deletions. In a snapshot in which every note is drained. */
enum replaced_look { REPLACED_DRAIN, REPLACED_UNDER_LOCK, REPLACED_QUIET }; /* large tables wait for the last */
int scan_replaced(struct store *s, enum replaced_look how);
bool replaced_due(const struct store *s);
/* What waits for a quiet moment; opens a snapshot and, if it finds anything, the state's transaction. */
int replaced_quiet(struct store *s);
int replaced_delete(struct store *s, struct tio *io, const struct buf *places); /* those that are still missing, in one snapshot */

/* ---- holders.c */
int holders_load(struct store *s, struct tio *io);
void holders_unload(struct tio *io);
struct reg *holders_was(const struct tbl *t); /* where to decode what is stored at a place, if values are entered; else NULL */
int holders_put(struct store *s, struct tbl *t, const struct rowid *place, const struct reg *was, const struct reg *now);
int holders_note(const struct row_look *look); /* remembers who held its values */
int holders_look(struct store *s);             /* and now they are looked at: in the reader's snapshot, with every note drained */
bool holders_due(const struct store *s);
int holders_build(struct store *s); /* in a quiet moment; may begin the state's transaction */

/* ---- generation.c: which file stands in the application's place */
struct capture_mark generation_mark(const struct store *s);
int generation_look(struct store *s); /* before our triggers are installed; sets s->file and s->marked */
int generation_kept(struct store *s, bool *kept);
int generation_keep(struct store *s); /* they are: what the file will be known by */
int generation_done(struct store *s); /* what stood there was dealt with, in the open transaction of the state */

/* ---- remake.c: a file that is gone */
int remake(struct store *s);

/* ---- older.c: an older copy of the application's file in its place. Nothing that others hold is lost or undone by it; what is new in it is taken. */
struct older;
int older_find(struct store *s, bool *back); /* did the file go back? */
int older_new(struct store *s, struct older **out);
void older_free(struct older *o);
int older_step(struct store *s, struct older *o); /* 1: done */

/* ---- schema_sync.c: the author's schema in a batch */
int schema_pack_base(struct store *s);
int schema_pack(struct store *s);               /* ours, into the batch being written */
bool schema_told(const struct batch_reader *r); /* it brings tables, not the base alone */
/* Theirs, of this batch: creates a database that is missing here. */
int schema_take(struct store *s, const struct batch_reader *r, uint32_t origin, uint64_t version);
int schema_follow(struct store *s, const struct batch_reader *r, bool alone); /* theirs: what is missing, into one that is there */
int schema_refresh(struct store *s); /* after the application changed it: read again, triggers, bind */

/* ---- follow.c: schemas of other servers, for a database that is there */
struct trial;
int follow_told(struct store *s, const struct batch_reader *r, const struct trial *trial, uint32_t origin, uint64_t version, bool done);
/* Which tables and columns do other servers have, as they told last? What nobody has any more is not missing here. */
void follow_elsewhere(struct store *s);
int follow_note(struct store *s);   /* after the schema was read: what is here was here from then on */
int follow_forget(struct store *s); /* another file stands in its place */
/* Was this ever here? kind: "table", "index", …; column not NULL: that column of the table, kind "column". */
int follow_had(struct store *s, const char *kind, size_t kind_len, const char *name, size_t name_len, const char *column, bool *had);
int follow_say_rest(struct store *s, const char *table, sqlite3 *theirs); /* of a table that both have: in the log */
bool follow_wanted(const struct store *s);
int follow(struct store *s); /* makes what is missing, if now is the moment; s->follow_due: not yet */

/* ---- merge.c */
/* The identity of a change, origins as local numbers; the key may point into s->key2. */
int merge_rowid(struct store *s, const struct change *c, struct rowid *who);
int merge_remember_seen(struct store *s, uint32_t origin, uint64_t version, const struct seen *seen);
#define FLIGHTS_BYTES_MAX (32u << 20)
#define FLIGHTS_BYTES_PATIENT (64u << 20)
#define PARTS_BYTES_MAX (512u << 20)
bool merge_full(struct store *s);
int merge_delivered(struct store *s); /* all that is queued, into the open transaction of the state */
void seen_of(struct store *s, uint32_t origin, bool blind, struct seen *out);

/* ---- foreign.c, clash.c: declared foreign keys, where both tables are here */
int foreign_load(struct store *s); /* after the tables */
void foreign_unload(struct store *s);
/* Does the row that was seen refer, by a column of this change, to a row that the same look does not find? */
int foreign_is_orphan(struct store *s, const struct row_look *look, const struct column_set *set, bool insert, bool *orphan);
/* Before a row is changed or taken out by a projection: remembers what others refer to besides the key. */
int foreign_before(struct store *s, struct tio *io, const struct rowid *who);
/* What others may refer to this row by, besides its key; `gone` notes who took which of it away. */
struct known_by {
    uint32_t count;
    uint64_t hashes[16]; /* 0: nothing */
    bool unseen[16];     /* whoever writes now had not seen it */
};
void foreign_known_by(struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r, const struct seen *seen,
                      struct known_by *out);
int foreign_gone(struct store *s, const struct tbl *t, const struct rowid *who, const struct reg *r, const struct known_by *before,
                 const struct write *by); /* after the write was merged */
/* All is written: 0 go on; 1 rows were parked, and everything is to be taken back and written again without them. */
int foreign_check(struct store *s, int64_t seq);
void foreign_forget(struct store *s); /* the projection is over */
bool foreign_parked(const struct pending_row *p);

/* ---- conflicts.c */
struct lost { /* an open conflict: what lost */
    struct tbl *tbl;
    struct rowid who; /* its key is to be freed */
    bool death, same; /* same: nothing did: another row stands for this one */
    uint32_t column;
    uint64_t hash;
    struct write by;
};
int conflicts_find(struct store *s, const char *id, struct lost *out, json_t **shown); /* 1: found; shown: as it is listed */

/* ---- pending.c */
int pending_park(struct store *s, struct pending_row *p, const char *why); /* in a transaction of the state */
struct pending_row *pending_find(struct store *s, const struct tbl *t, const struct rowid *who);
int pending_map_flights(struct store *s);
int pending_set(struct store *s, struct tbl *t, const struct rowid *who, bool present, const struct shown_cell *cells, uint32_t count,
                const char *reason, struct pending_row **out);
int pending_store(struct store *s, struct pending_row *p);
int pending_done(struct store *s, struct pending_row *p, int64_t seq, bool more); /* shown with flights up to seq; more: there are others */
void pending_own(struct store *s, struct pending_row *p); /* from now on shown from the registers: ops about it are skipped */
void pending_remove(struct store *s, struct pending_row *p);
int pending_cells(struct store *s, struct pending_row *p, const struct shown_cell *cells, uint32_t n);
int pending_load(struct store *s);
int pending_merge_before(struct store *s, const struct buf *before, uint32_t part_of);
int before_add(struct buf *b, const struct tbl *t, const struct rowid *who, bool present, const struct shown_cell *cells, uint32_t count);
void pending_unmap_flights(struct store *s);
int pending_touch(struct store *s, struct pending_row *p, const struct shown_cell *cells, uint32_t n);
void pending_clear(struct store *s);
bool pending_wants_showing(const struct pending_row *row);
/* Is this number, or key, taken? 1: yes; 2: by a row that is about to go. Who has it is in s->reg2. */
int pending_home_taken(struct store *s, struct tbl *t, const struct rowid *place);
int pending_take_home(struct store *s, struct pending_row *row, const struct reg *r); /* the file shows it there */
bool pending_shown(const struct pending_row *p, uint32_t column, uint64_t *hash);     /* overrides the registers? 0: its default */
/* What the file shows in this column of a row (c: by the registers; i: in io's order). */
int pending_content(struct store *s, const struct pending_row *p, uint32_t column, const struct cell *c, struct tio *io, uint32_t i,
                    uint64_t *hash);

/* ---- mend.c */
int mend_revive(struct store *s, struct tbl *t, const struct rowid *place);   /* the dead row at home there. 1: planned; 0: there is none */
int mend_revive_row(struct store *s, struct tbl *t, const struct rowid *who); /* the same, by identity */
bool mend_planned(const struct store *s);
void mend_forget(struct store *s);

/* ---- project.c */
enum { PROJECT_NOTHING = 0, PROJECT_DONE = 1, PROJECT_WAIT = 2, PROJECT_DRAIN = 3, PROJECT_AGAIN = 4, PROJECT_VAIN = 5 };
int project(struct store *s);
void flight_free(struct store *s, struct flight *f);
#define SHOWN_RECENT_MS 2000 /* what came within this time before a write may not have been seen by its author */
#define SHOWN_KEEP_MS 12000
/* For what is written only to see whether the application's file takes it: inside appfile_begin, to be taken back. */
int project_try(struct store *s, const struct op *op);   /* ERR_CONSTRAINT: it does not; ERR_NOTFOUND: no such row */
int project_write(struct store *s, const struct op *op); /* the same, amid a projection */
int project_undisturbed(struct store *s);                /* 1: the last note is our mark */
#define PROJECT_ROWS 2000u
int64_t project_last_flight(struct store *s); /* parts.c: of the next projection */
bool project_blocked(struct store *s);        /* the last part of a commit is not here yet */
int project_hold_parts(struct store *s);
void project_all_shown(struct store *s); /* with nothing left to show, everything merged is on show */
/* ---- recover.c */
int project_recall(struct store *s);  /* what was pending before the restart; before the schema is looked at */
int project_recover(struct store *s); /* which of it the file shows nevertheless */

/* ---- shown.c */
int shown_entry(struct store *s, int64_t ms, bool known);
void shown_push(struct store *s);
void shown_keep(struct store *s, int64_t now);
void shown_knew(struct store *s, int64_t ms, struct seen *out); /* what an author at that time had seen for sure */

#endif
