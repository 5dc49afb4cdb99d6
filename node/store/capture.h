/* Starling store: capture. What we put into the application's file, and nothing else: the note table, one row of marks, and
 * triggers in plain SQL that name only key columns.
 *
 *   _starling_dirty(seq INTEGER PRIMARY KEY, tbl, kind, at, nonce, k0, k1, ...)   a ring of notes
 *       tbl    number of the table, as in the trigger's own text: triggers follow a renamed table, so they are the map
 *       kind   enum note_kind; at: julianday('now') as a REAL; nonce: random(); k0..: the key columns in key order
 *   _starling_mark(id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB, projection INTEGER, note INTEGER)
 *       which state database this file last saw, the last projection written, the newest note then
 *   triggers _starling_<tbl>_<b|i|u|m|d>
 *
 * On each replicated table: AFTER INSERT notes NOTE_INSERT; on tables with an INTEGER PRIMARY KEY also BEFORE INSERT WHEN the key
 * IS NOT -1 (it shows -1 when SQLite is to number the row) notes NOTE_GIVEN with the key, so that GIVEN directly before INSERT of the
 * same key means that the application gave it; AFTER UPDATE notes NOTE_UPDATE with the new key; AFTER UPDATE WHEN the key changed
 * also notes NOTE_MOVED with the old key, just before the NOTE_UPDATE of the same statement's row or just after it (documented in
 * capture.c); AFTER DELETE notes NOTE_DELETE. Every trigger ends with
 *   DELETE FROM _starling_dirty WHERE seq <= last_insert_rowid() - NOTES_MAX
 * Plain INSERT only, never OR REPLACE or OR IGNORE. No function that another program might lack. */
#ifndef NODE_STORE_CAPTURE_H
#define NODE_STORE_CAPTURE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/store/schema.h"

#define NOTES_MAX 1000000

enum note_kind { NOTE_INSERT = 1, NOTE_GIVEN = 2, NOTE_UPDATE = 3, NOTE_DELETE = 4, NOTE_MOVED = 5 };

/* Unix milliseconds of a note's `at`. */
int64_t note_ms(double julian_day);

/* True when everything that capture_install would make is there as it should be (reads only). Sets schema->tables[].number. */
int capture_check(sqlite3 *app, struct schema *s, bool *complete);
/* Makes what is missing and removes triggers on tables that are excluded, in one short BEGIN IMMEDIATE transaction (waiting at most busy_ms for the
 * lock); numbers the tables. Existing right triggers stay. *installed gets a bit per table (caller frees, may be NULL): true
 * where triggers were made anew, so that writes may have been missed. 0, ERR_BUSY, ERR_READONLY, ERR_FULL, ERR_IO. */
int capture_install(sqlite3 *app, struct schema *s, int busy_ms, bool **installed);
/* Removes every trigger and table of ours. The schema is as it was. */
int capture_remove(sqlite3 *app, int busy_ms);
/* The state id in the mark row (16 bytes), projection and note; found = false without a row. */
struct capture_mark {
    bool found;
    uint8_t state[16];
    int64_t projection, note;
};
int capture_mark_read(sqlite3 *app, struct capture_mark *mark);

#endif
