/* Starling store: opening and handling the application's database file without disturbing the application.
 *
 * Our connections never checkpoint by themselves (wal_autocheckpoint=0, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE): SQLite before 3.51.3 can corrupt
 * a WAL when two connections checkpoint at once. Triggers and foreign keys are off on the writing connection. */
#ifndef NODE_STORE_APPFILE_H
#define NODE_STORE_APPFILE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define APPFILE_READER_BUSY_MS 100
#define APPFILE_LOCKED                                                                                                                     \
    "%s: another program keeps it locked (%s), as one with PRAGMA locking_mode=EXCLUSIVE does: what it writes is taken up when it lets go"

struct appfile {
    char *path;      /* real: links followed, since the -wal and -shm stand beside the real file */
    sqlite3 *reader; /* read only in effect: query_only, for drains and scans; waits APPFILE_READER_BUSY_MS for a lock */
    sqlite3 *
        writer; /* for projection and installing; does not wait for locks; triggers off (SQLITE_DBCONFIG_ENABLE_TRIGGER), foreign_keys=OFF */
    bool wal;   /* journal mode at the last look */
    bool utf16;        /* its encoding, when its tables were bound */
    uint64_t dev, ino; /* of the file when it was opened; a replaced file shows another */
    int shm_fd; /* -1, or a descriptor of the -shm, opened after our first read and kept until all our connections to the file are closed,
                        since closing any descriptor drops SQLite's own locks */
    bool alone; /* we keep readers out */
    bool committed; /* by us, since whoever asks looked last; also where SQLite tells a checkpoint like one */
    bool resting;   /* the WAL is empty, and the file itself was of this size and time then */
    int64_t rest_size;
    struct timespec rest_mtime;
    sqlite3_stmt *look, *begin, *commit, *rollback; /* on the writer */
    uint64_t wal_ino;                               /* of the -wal at the last look; 0: none */
    const char *vfs;                                /* NULL: SQLite's default */
};

/* The head of the wal-index, read from shm_fd without a lock: it differs as soon as a commit is visible (it may also differ without one). */
struct appfile_head {
    uint8_t index[48];
    uint32_t pages, checkpointed; /* in the WAL now; how many of them are in the database file, too */
};

/* Opens an existing database (create = true: makes it, in WAL mode). why (size why_len) gets one clear line that names the file and the mend.
 * Refuses: not a database, corrupt header, no permission, a directory that cannot be written, read-only file, a network file
 * system (statfs: NFS, CIFS/SMB, 9p, FUSE sshfs) - WAL's shared memory does not work there. 0, ERR_NOTFOUND, ERR_NOTDB, ERR_CORRUPT, ERR_DENIED,
 * ERR_READONLY, ERR_UNSUPPORTED, ERR_IO, ERR_BUSY. Offers WAL (PRAGMA journal_mode=WAL) only with create. Extended result codes are on. A vfs
 * other than NULL skips the file system checks. */
int appfile_open(struct appfile *a, const char *path, const char *vfs, bool create, char *why, size_t why_len);
void appfile_close(struct appfile *a);
/* False when the path now holds another file (replaced, deleted, copied over) or the same inode lost its -wal under us (removed, or another one there). */
bool appfile_same(struct appfile *a);
/* While no other process is connected, everything goes into the file itself, and the WAL is emptied: as the last connection of an application would leave
 * it. So what people copy away is whole; and a file that is copied over it then shows in appfile_same(): SQLite would go on with what it
 * knows of the old one. True: nothing is to be done; false: later, or when the others are gone. */
bool appfile_rest(struct appfile *a);
/* Refreshes a->wal, wal_ino and shm_fd. Not inside a transaction of the reader. */
int appfile_journal(struct appfile *a);
/* 1: another process (or another connection than ours that is in a read transaction) reads now, as the WAL's read locks say (F_GETLK with F_WRLCK on bytes
 * 123..127 of the -shm; our own process's locks do not show); 0: nobody; in DELETE mode or without shm_fd always 0. */
int appfile_readers(struct appfile *a);
/* Begins a transaction of the writer that holds the write lock. With `alone` (WAL mode) nobody reads when it begins, and who wants to begin
 * reading waits until it ends: no other transaction is between its SELECT and its UPDATE meanwhile, which the held lock would refuse at once, or the
 * commit later, whatever its busy timeout. SQLite lets a reader that finds the read locks taken try again, with sleeps that grow from
 * microseconds, for about 10 s. The reader connection must be in no transaction, also when it ends. 0; ERR_BUSY: somebody reads or writes, and
 * nothing is held; or another error, and nothing is held. */
int appfile_begin(struct appfile *a, bool alone);
/* The same, tried again for at most so many ms. */
int appfile_begin_within(struct appfile *a, bool alone, int ms);
/* Readers may begin again, though the write lock is still held. */
void appfile_let_in(struct appfile *a);
/* Both end the transaction; a commit that fails leaves it open. */
int appfile_commit(struct appfile *a);
/* The same for what is rare: in DELETE mode it waits some ms for who reads, and shuts out new readers meanwhile. */
int appfile_commit_patiently(struct appfile *a);
void appfile_rollback(struct appfile *a);
/* fdatasync of what commits went to: the WAL (WAL mode) or the database file, through the VFS (SQLITE_FCNTL_JOURNAL_POINTER /
 * FILE_POINTER, xSync). Call outside transactions of `db` (reader or writer). 0 or ERR_IO, ERR_FULL. */
int appfile_sync(struct appfile *a, sqlite3 *db);
/* False in DELETE mode, with a VFS of our own, or while nothing has been written. */
bool appfile_head(const struct appfile *a, struct appfile_head *head);
/* PASSIVE checkpoint through `reader` while `writer` holds BEGIN IMMEDIATE (both must be outside a transaction): only when the WAL has
 * between 500 and 1,000 pages (the wal-index says), or more when the caller knows that the file was quiet for 2 s; and only while nobody
 * reads. Does not wait for the lock.
 * Returns microseconds the lock was held, 0 when nothing was done, or an error. */
int64_t appfile_checkpoint(struct appfile *a, bool quiet);
/* The name of a network file system by what statfs says (f_type, 32 bits), or NULL. */
const char *appfile_network(uint64_t statfs_type);
/* Maps a SQLite result code to enum err. */
int appfile_error(int sqlite_code);

#endif
