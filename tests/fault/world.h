/* Starling tests: two servers and what was done on them, to judge what a fault left behind.
 *
 * Side `a` lives on the faulty disk (powercut_vfs.h), side `b`, its peer, on an ordinary one. Every transaction of an application writes
 * values of its own ("A7", "P3") and one row in `hist`, so that it is known afterwards which transactions survived in the file.
 *
 * Steps are letters; lower case on a, upper case on b:
 *   a  update note.a of row r       b  update note.b of row q        c  update both columns of r and s
 *   d  delete row s, or insert it   m  a transaction of 40 rows
 *   t  turns until at rest          k  the application checkpoints   o  the node restarts in peace
 *   z  six seconds of quiet, in which the node tidies up
 *   s  a's batches reach b          g  b's batches reach a           G  they reach a, but no turn is made */
#ifndef TESTS_FAULT_WORLD_H
#define TESTS_FAULT_WORLD_H

#include "powercut_vfs.h"
#include "side.h"

enum world_mode { MODE_NORMAL, MODE_FULL, MODE_DELETE, MODES };

#define WROTE_MAX 64
#define CELLS 6 /* rows r q s, columns a b */

struct wrote {
    bool mine;     /* by a's application */
    unsigned tag;  /* A<tag> or P<tag> */
    uint8_t cells; /* bits of the cells written */
    uint8_t ended; /* bits of the cells whose row was deleted */
    bool done;     /* its COMMIT succeeded */
    bool kept;     /* in a's file, or with the peer */
};

struct world {
    struct powercut disk;
    struct side a, b;
    enum world_mode mode;
    bool fresh;     /* rows were there before a's node ran for the first time; steps begin with o */
    bool spare_app; /* faults are for the node alone: the application's own input and output goes well */
    bool b_failed;
    char folder[64];
    struct wrote wrote[WROTE_MAX];
    unsigned wrote_count;
    struct side_batches sent; /* a's batches that b got: nobody can take them back */
    uint32_t sent_of_made;    /* of a.made */
    char why[900];
};

/* Makes the folder and, for each mode, the files that every run starts from. False with why. */
bool world_init(struct world *w);
void world_release(struct world *w);
/* Fresh copies of the files of that mode; everything open and at rest (fresh: all but a's store), the disk's counter at 0. */
bool world_start(struct world *w, enum world_mode mode, bool fresh);
/* Closes everything. */
void world_stop(struct world *w);
/* One step. False if side a could not do it (w->disk.dead, or a fault, with why), or if b could not (never right). */
bool world_step(struct world *w, char step);
/* The application on side a writes this moment, whatever the node is doing; refused at once if the database is locked. */
void world_intrude(struct world *w, char step);
bool world_steps(struct world *w, const char *steps); /* until the first that fails */
/* After a fault, with all of a closed and the disk well again: opens a's application, judges its file, and notes what survived. */
bool world_look(struct world *w);
/* What b got must be in a's log, byte for byte. Before anything is exchanged. */
bool world_sent_holds(struct world *w);
/* Exchanges all, then judges: nothing lost, no echo, both equal. */
bool world_settles(struct world *w);

/* A whole number on a command line; UINT64_MAX for anything else. */
uint64_t world_number(const char *text);

bool world_fail(struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
