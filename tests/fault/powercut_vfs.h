/* Starling tests: a SQLite VFS that knows what a power cut may take away, and that can fail.
 *
 * It passes everything on to the system's VFS and keeps, for each database, WAL and journal file, the content as of its
 * last xSync and the list of changes since: writes, truncations, creation, deletion (durable at once only if SQLite
 * asked for the folder to be synced). At a cut all input and output fails from that operation on. When every connection
 * is closed, powercut_restore() makes the files what a disk may hold then: the synced content and some of the later
 * changes, each file by itself; shared memory is gone.
 *
 * Counted operations: xWrite, xTruncate, xSync, xDelete, and xOpen that creates. One thread. */
#ifndef TESTS_FAULT_POWERCUT_VFS_H
#define TESTS_FAULT_POWERCUT_VFS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#define POWERCUT_VFS "powercut"

/* What is left of the changes that were not synced. */
enum powercut_tail {
    TAIL_KEEP,   /* all of them: the system had written them by itself */
    TAIL_LOSE,   /* none */
    TAIL_PREFIX, /* up to some point, drawn for each file */
    TAIL_TORN,   /* the same, and a part of the next write */
    TAIL_SUBSET, /* any of them: a disk may write in any order */
    TAILS
};

struct powercut_file;

struct powercut {
    sqlite3_vfs vfs, *real;
    struct powercut_file *files;
    uint64_t ops;                 /* counted so far */
    uint64_t cut_at;              /* 0: never; else the operation that no longer happens */
    bool dead;                    /* the power is gone */
    bool paused;                  /* neither counts nor fails */
    uint64_t fail_at, fail_count; /* operations fail_at .. fail_at + fail_count - 1 fail with fail_code; 0: none */
    int fail_code;
    uint64_t hook_at; /* just before this operation hook() is called, once; 0: never. What it does is neither counted nor fails */
    void (*hook)(void *ctx);
    void *hook_ctx;
    const char *sync_ignored;  /* a canary: xSync of files whose path contains this does nothing; NULL: none */
    bool idle_sync_is_nothing; /* stricter: a sync of a file without changes makes no deletion durable */
    bool sync_only_ours;       /* … only while `ours` is set */
    bool ours;
};

/* Registers the VFS. The struct must stay where it is until powercut_release(). */
void powercut_init(struct powercut *p);
void powercut_release(struct powercut *p);
/* Forgets all files (the next open takes what is there as synced), counters and faults. */
void powercut_reset(struct powercut *p);
/* The next counted operation has number 1; the one with number cut_at is the first that no longer happens. */
void powercut_arm(struct powercut *p, uint64_t cut_at);
/* The power is back: files with `state` at the end of their database's name follow state_tail, others app_tail.
 * Everything must be closed. */
void powercut_restore(struct powercut *p, enum powercut_tail app_tail, enum powercut_tail state_tail, uint64_t *random);
/* xorshift64*: the tests' own, so that a seed gives the same run everywhere. Never 0 in *state. */
uint64_t powercut_random(uint64_t *state);

#endif
