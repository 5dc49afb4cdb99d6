/* Starling store: capture. What we put into the application's file, and nothing else: the note table, one row of marks, and
 * triggers in plain SQL that name only key columns.
 *
 *   _starling_dirty(seq INTEGER PRIMARY KEY, tbl, kind, at, nonce, k0, k1, ...)   a ring of notes
 *       tbl    number of the table, as in the trigger's own text: triggers follow a renamed table, so they are the map
 *       kind   enum note_kind; at: julianday('now') as a REAL; nonce: random(); k0..: the key columns in key order
 *   _starling_mark(id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB, projection INTEGER, note INTEGER)
 *       which state database this file last saw, the last projection written, the newest note then
 *   triggers _starling_<tbl>_<b|i|u|m|d>
 *   trigger _starling_trim on _starling_dirty
 *
 * On each replicated table: AFTER INSERT notes NOTE_INSERT; on tables with an INTEGER PRIMARY KEY also BEFORE INSERT WHEN the key
 * IS NOT -1 (it shows -1 when SQLite is to number the row) notes NOTE_GIVEN with the key; AFTER UPDATE notes NOTE_UPDATE with the new key; AFTER UPDATE WHEN the
 * key changed notes NOTE_MOVED with the old key and directly behind it (seq + 1) another NOTE_UPDATE with the new key, so that the row is noted
 * three times, the pair before or after the lone NOTE_UPDATE; AFTER DELETE notes NOTE_DELETE. What surprises:
 * - An INSERT is of a given key if a GIVEN of the same table and key comes before it in the same statement: same `at`, and no other INSERT of that
 *   key in between. Usually it is the note directly before, but a REPLACE with recursive_triggers puts the DELETE of the old row
 *   between them, and the application's own triggers may put notes of other rows there.
 * - A table without a key is noted by its rowid, which VACUUM may have changed since (keyless.c).
 * - A GIVEN may stay alone: the row was ignored (OR IGNORE), or an UPSERT made it an UPDATE (of a row that may have another key).
 * - A key given as -1 shows no GIVEN. Count an INSERT of -1 as given: SQLite itself comes to -1 only where -2 is the largest key.
 * - "Changed" is by the column's collation ('a' to 'A' in a NOCASE key is no move), as for the identity.
 * - REPLACE deletes without a NOTE_DELETE unless the application switched recursive_triggers on. With it on, SQLite refuses an UPDATE OR REPLACE
 *   that throws out a row of a table which refers to itself with an action ("constraint failed"), as it does beside any DELETE trigger.
 * - A key may be NULL where SQLite allows it (PRIMARY KEY columns of rowid tables without NOT NULL). Keys have their column's affinity applied.
 * - Of a statement that SQLite undid (ABORT, ROLLBACK) no notes remain.
 * The trim trigger keeps the ring at NOTES_MAX notes and at most 255 more: once in 256 notes it deletes those with seq <= NEW.seq - NOTES_MAX.
 * Plain INSERT only, never OR REPLACE or OR IGNORE. No function that another program might lack. */
#ifndef NODE_STORE_CAPTURE_H
#define NODE_STORE_CAPTURE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/store/schema.h"

#define NOTES_MAX 1000000

enum note_kind { NOTE_INSERT = 1, NOTE_GIVEN = 2, NOTE_UPDATE = 3, NOTE_DELETE = 4, NOTE_MOVED = 5 };

/* Unix milliseconds of a note's `at`; 0 for what julianday() cannot have given. */
int64_t note_ms(double julian_day);

/* The state id in the mark row (16 bytes), projection and note; found = false without a row. */
struct capture_mark {
    bool found;
    uint8_t state[16];
    int64_t projection, note;
};

/* *is: COMPLETE, everything that capture_install would make is there as it should be, and nothing more; BROKEN, triggers have no note table, so
 * that every write of the application fails; else LACKS. Reads only. Sets schema->tables[].number: 0 for tables without triggers of ours. *missing gets
 * a bit per table (caller frees, may be NULL), as *installed below. */
enum capture_is { CAPTURE_LACKS, CAPTURE_COMPLETE, CAPTURE_BROKEN };
int capture_check(sqlite3 *app, struct schema *s, enum capture_is *is, bool **missing);
void capture_forget(struct schema *s); /* what it found, and capture_install would go by */
/* The highest number of a table in the notes: some 60 ms for a million, so before the lock is taken. */
int capture_noted(sqlite3 *app, int64_t *number);
/* In a transaction of the caller's that holds the write lock: makes what is missing, removes triggers on tables that are excluded, and numbers the
 * tables, all above `noted`. Existing right triggers stay. mark: whose file it is, written where the file says otherwise (may be NULL). *installed
 * gets a bit per table (caller frees, may be NULL): true where triggers were made anew (or the note table was), so that writes may have been missed.
 * Afterwards s->version is the version that our own triggers made. 0, ERR_SCHEMA (changed since schema_read(): read it again), ERR_READONLY, ERR_FULL,
 * ERR_IO; then the transaction must be rolled back. What capture_check() found is not looked for again, so that the lock is held for statements
 * alone. */
int capture_install(sqlite3 *app, struct schema *s, const struct capture_mark *mark, int64_t noted, bool **installed);
/* Is there anything of ours? Reads only. */
int capture_traces(sqlite3 *app, bool *any);
/* The same kind of transaction: removes every trigger and table of ours. The schema is as it was. */
int capture_remove(sqlite3 *app);
int capture_mark_read(sqlite3 *app, struct capture_mark *mark);

#endif
