/* Starling store: noticing commits of the application at once, without disturbing it.
 *
 * inotify on the -wal (and on the database file, for DELETE mode and for a WAL that comes later, and on the folder for files that are replaced), then
 * a short ladder of re-checks of PRAGMA data_version, since the event fires before the commit is visible, and a slow poll behind it.
 * Runs on the store's own thread: blocks in poll(2) on the inotify descriptor and the caller's wake descriptor. */
#ifndef NODE_STORE_NOTICE_H
#define NODE_STORE_NOTICE_H

#include <stdbool.h>
#include <stdint.h>

#include "node/store/appfile.h"

struct notice;

enum notice_result {
    NOTICE_COMMIT = 1,  /* another connection committed something since the last look */
    NOTICE_WOKEN = 2,   /* wake_fd is readable (left unread) */
    NOTICE_FILE = 4,    /* the file was replaced, moved, deleted, or its -wal was */
    NOTICE_TIMEOUT = 8, /* timeout_ms passed */
};

/* Without inotify (exhausted limits) it polls every 20 ms and says so once through *why (else NULL). a must outlive it: close the notice first,
 * it holds a statement on the reader. 0 or ERR_NOMEM, ERR_IO, ERR_CORRUPT, … as the reader says. */
int notice_open(struct notice **out, struct appfile *a, int wake_fd, const char **why);
void notice_close(struct notice *n);
/* Waits up to timeout_ms (-1: no bound other than the slow poll's own wake-ups, which do not return unless something is new).
 * Returns a mask of enum notice_result. Several commits may show as one; one that came while nobody waited is told at once. Idle cost
 * at most 0.05 % of a core. The reader must be in no transaction, and its statements reset. NOTICE_FILE is told again, about four
 * times a second, as long as the file is not the same. When a -wal appears, a->wal is refreshed. */
unsigned notice_wait(struct notice *n, int timeout_ms);
/* Looks now, without waiting: true if data_version moved since the last look. Our own writer connection's commits count as well.
 * Takes no lock while nothing has changed. */
bool notice_look(struct notice *n);

#endif
