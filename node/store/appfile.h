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

struct appfile {
    char *path;
    sqlite3 *reader; /* read only in effect: query_only, for drains and scans */
    sqlite3 *writer; /* for projection and installing; triggers off (SQLITE_DBCONFIG_ENABLE_TRIGGER), foreign_keys=OFF */
    bool wal;        /* journal mode at the last look */
    uint64_t dev, ino; /* of the file when it was opened; a replaced file shows another */
    int shm_fd;      /* -1, or a read-only descriptor of the -shm, opened after our first read and kept until all our connections to the
                        file are closed, since closing any descriptor drops SQLite's own locks */
    const char *vfs; /* NULL: SQLite's default */
};

/* Opens an existing database (create = true: makes it, in WAL mode). why (size why_len) gets one clear line that names the file and the mend.
 * Refuses: not a database, corrupt header, no permission, a directory that cannot be written, read-only file, a network file
 * system (statfs: NFS, CIFS/SMB, 9p, FUSE sshfs) - WAL's shared memory does not work there. 0, ERR_NOTDB, ERR_CORRUPT, ERR_DENIED,
 * ERR_READONLY, ERR_UNSUPPORTED, ERR_IO, ERR_BUSY. Offers WAL (PRAGMA journal_mode=WAL) only with create. Extended result codes are on. A vfs
 * other than NULL skips the file system checks. */
int appfile_open(struct appfile *a, const char *path, const char *vfs, bool create, char *why, size_t why_len);
void appfile_close(struct appfile *a);
/* False when the path now holds another file (replaced, deleted) or the same inode lost its -wal under us. */
bool appfile_same(const struct appfile *a);
/* Refreshes a->wal. */
int appfile_journal(struct appfile *a);
/* 1: another process (or another connection than ours that is in a read transaction) reads now, as the WAL's read locks say (F_GETLK with F_WRLCK on bytes
 * 123..127 of the -shm; our own process's locks do not show); 0: nobody; in DELETE mode or without shm_fd always 0. */
int appfile_readers(struct appfile *a);
/* fdatasync of what commits went to: the WAL (WAL mode) or the database file, through the VFS (SQLITE_FCNTL_JOURNAL_POINTER /
 * FILE_POINTER, xSync). Call outside transactions of `db` (reader or writer). 0 or ERR_IO, ERR_FULL. */
int appfile_sync(struct appfile *a, sqlite3 *db);
/* PASSIVE checkpoint on `writer` while `reader`'s... see appfile.c: only when the WAL has between 500 and 1,000 pages
 * (wal_pages as the last wal hook of ours or the -wal's size says), or more when the file was quiet for 2 s, and only while a second connection of ours holds BEGIN IMMEDIATE.
 * Returns microseconds the lock was held, 0 when nothing was done, or an error. */
int64_t appfile_checkpoint(struct appfile *a, bool quiet);
/* Maps a SQLite result code to enum err. */
int appfile_error(int sqlite_code);

#endif
