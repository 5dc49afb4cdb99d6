/* Starling tests: see frozen.h. */
#include "frozen.h"

#include <assert.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdlib.h>

#define FROZEN_MS INT64_C(1700000000000)
#define EPOCH_JULIAN_MS INT64_C(210866760000000) /* 1970-01-01 in SQLite's clock */

static sqlite3_vfs frozen_vfs;

static int frozen_time64(sqlite3_vfs *v, sqlite3_int64 *out) {
    (void)v;
    *out = FROZEN_MS + EPOCH_JULIAN_MS;
    return SQLITE_OK;
}

static int frozen_time(sqlite3_vfs *v, double *out) {
    (void)v;
    *out = (double)(FROZEN_MS + EPOCH_JULIAN_MS) / 86400000.0;
    return SQLITE_OK;
}

void frozen_register(void) {
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    assert(real && real->iVersion >= 2);
    frozen_vfs = *real; /* all its state hangs on the files and on pAppData: a copy works */
    frozen_vfs.zName = FROZEN_VFS;
    frozen_vfs.pNext = NULL;
    frozen_vfs.xCurrentTime = frozen_time;
    frozen_vfs.xCurrentTimeInt64 = frozen_time64;
    int r = sqlite3_vfs_register(&frozen_vfs, 0);
    assert(r == SQLITE_OK);
}
