#include "tools/sim/moment.h"

#include <assert.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EPOCH_JULIAN_MS INT64_C(210866760000000) /* 1970-01-01 in SQLite's clock */

/* The clock and the dice of a process are one each: whoever asks them names no world. */
static struct {
    bool on;
    uint64_t mono_us, wall_ms, random;
} moment;

/* In place of libc's, for the whole program. */
int clock_gettime(clockid_t clock, struct timespec *t) {
    if (!moment.on || (clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME))
        return (int)syscall(SYS_clock_gettime, clock, t);
    uint64_t us = clock == CLOCK_MONOTONIC ? moment.mono_us : moment.wall_ms * 1000;
    t->tv_sec = (time_t)(us / 1000000);
    t->tv_nsec = (long)(us % 1000000) * 1000;
    return 0;
}

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = moment.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void fill(void *out, size_t n) {
    for (size_t at = 0; at < n; at += sizeof(uint64_t)) {
        uint64_t word = draw();
        memcpy((uint8_t *)out + at, &word, n - at < sizeof word ? n - at : sizeof word);
    }
}

/* ---- SQLite */

static int vfs_randomness(sqlite3_vfs *v, int n, char *out) {
    (void)v;
    fill(out, (size_t)n);
    return n;
}

static int vfs_time64(sqlite3_vfs *v, sqlite3_int64 *out) {
    (void)v;
    *out = (sqlite3_int64)moment.wall_ms + EPOCH_JULIAN_MS;
    return SQLITE_OK;
}

static int vfs_time(sqlite3_vfs *v, double *out) {
    (void)v;
    *out = ((double)moment.wall_ms + (double)EPOCH_JULIAN_MS) / 86400000.0;
    return SQLITE_OK;
}

/* The usual one, but for time and chance: all its state hangs on the files and on pAppData, so a copy works. */
static sqlite3_vfs vfs;

/* ---- libsodium */

static const char *dice_name(void) { return "world"; }

static uint32_t dice_word(void) { return (uint32_t)draw(); }

static randombytes_implementation dice = {.implementation_name = dice_name, .random = dice_word, .buf = fill};

void moment_begin(uint64_t seed) {
    assert(!moment.on);
    sqlite3_vfs *usual = sqlite3_vfs_find("unix");
    assert(usual && usual->iVersion >= 2);
    vfs = *usual;
    vfs.zName = "world";
    vfs.pNext = NULL;
    vfs.xRandomness = vfs_randomness;
    vfs.xCurrentTime = vfs_time;
    vfs.xCurrentTimeInt64 = vfs_time64;
    int r = sqlite3_vfs_register(&vfs, 1);
    assert(r == SQLITE_OK);
    r = randombytes_set_implementation(&dice);
    assert(r == 0);
    moment.on = true;
    moment.random = seed;
    sqlite3_randomness(0, NULL); /* drawn anew from the VFS */
}

void moment_end(void) {
    sqlite3_vfs_unregister(&vfs);
    sqlite3_vfs_register(sqlite3_vfs_find("unix"), 1);
    moment.on = false;
}

void moment_is(uint64_t mono_us, uint64_t wall_ms) {
    moment.mono_us = mono_us;
    moment.wall_ms = wall_ms;
}
