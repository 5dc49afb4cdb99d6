#include "node/memory.h"

#include <malloc.h>
#include <sqlite3.h>
#include <stdlib.h>

#define KEEP_BYTES (32 * 1024 * 1024) /* the buffers of a batch come again and again: under load they are kept */
#define LARGE_BYTES (16 * 1024 * 1024)
#define PROBE_BYTES (128 * 1024) /* the allocator looks at an arena's end when it frees more than 64 KiB */

void memory_init(void) {
    mallopt(M_ARENA_MAX, 2); /* one for the loop, one for the workers: threads would otherwise take 64 MiB of addresses each, and pages */
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
    /* Where another allocator stands before libc's (a sanitizer's, one that is preloaded) the calls above may not have reached that, and its first
     * use makes it ready: without a lock, so before there are threads. */
    malloc_trim(0);
    /* SQLite would make twenty pages ready for each file of each connection, and count all that it takes under one lock. */
    sqlite3_config(SQLITE_CONFIG_PAGECACHE, NULL, 0, 0);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

void memory_give_back(void) {
    malloc_trim(0); /* leaves the end of every arena but the first */
    mallopt(M_TRIM_THRESHOLD, PROBE_BYTES);
    void *volatile probe = malloc(PROBE_BYTES); /* volatile: a pair that does nothing would be left out */
    free(probe);
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
}
