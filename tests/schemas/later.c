/* The wall clock, with an offset that every connection of the program shares. */
#include "later.h"

#include <assert.h>
#include <sqlite3.h>
#include <stddef.h>

static sqlite3_vfs later_vfs;
static sqlite3_vfs *real_vfs;
static sqlite3_int64 later_ms;

static int later_time64(sqlite3_vfs *v, sqlite3_int64 *out) {
    (void)v;
    int rc = real_vfs->xCurrentTimeInt64(real_vfs, out);
    *out += later_ms;
    return rc;
}

static int later_time(sqlite3_vfs *v, double *out) {
    sqlite3_int64 ms;
    int rc = later_time64(v, &ms);
    *out = (double)ms / 86400000.0;
    return rc;
}

void later_register(void) {
    real_vfs = sqlite3_vfs_find(NULL);
    assert(real_vfs && real_vfs->iVersion >= 2);
    later_vfs = *real_vfs; /* all its state hangs on the files and on pAppData: a copy works */
    later_vfs.zName = LATER_VFS;
    later_vfs.pNext = NULL;
    later_vfs.xCurrentTime = later_time;
    later_vfs.xCurrentTimeInt64 = later_time64;
    int rc = sqlite3_vfs_register(&later_vfs, 1); /* for every connection, attached databases too */
    assert(rc == SQLITE_OK);
}

void later_pass(int64_t ms) { later_ms += ms; }
