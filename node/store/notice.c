/* The happy path: the application writes the -wal, inotify wakes us, and we look until the commit is visible, which takes it a few microseconds
 * (synchronous NORMAL) or one sync of its disk (FULL) more.
 *
 * Looking is cheap and takes no lock as long as nothing changed: in WAL mode the head of the wal-index is compared, in DELETE mode the change
 * counter in the file's header. Only when that differs is PRAGMA data_version asked, which decides. So looking often neither
 * stops the application from restarting its WAL nor refuses a commit in DELETE mode.
 *
 * The ladder: after an event the next look comes after a quarter of the time since that event, at least 15 us and at most the slow poll:
 * about forty looks from 15 us to 250 ms, each at most a quarter late. Once a commit was found, the events that are there by then are taken for
 * its own (they may as well be ours: we write there, too), and the rungs double instead, fourteen of them: one that was of a commit still on
 * its way is not lost, but most such ladders find nothing, and each rung wakes us beside an application at work.
 *
 * Possible failures: no inotify (limits): a plain poll every 20 ms. Events that do not come (overflow, odd file systems, a folder that was moved): the
 * slow poll, once a second, and four times once a commit came without an event. Events without a commit (a long transaction that spills into the
 * WAL): looks that find nothing are rationed to 500 a second. */
#include "node/store/notice.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "node/store/sql.h"
#include "proto/err.h"

#define SLOW_POLL_US 250000
#define SURE_POLL_US 1000000 /* as long as each commit came with its event */
#define LOCKED_US 1000000
#define BLIND_POLL_US 20000 /* without inotify */
#define RUNG_MIN_US 15
#define RUNG_PART 4
#define LOOKS_BURST 100
#define LOOK_REFILL_US 2000
#define PROBE_BYTES 48

#define FILE_EVENTS (IN_MODIFY | IN_MOVE_SELF | IN_DELETE_SELF | IN_ATTRIB)
#define FOLDER_EVENTS (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR)

struct notice {
    struct appfile *a;
    sqlite3_stmt *version; /* PRAGMA data_version on the reader */
    int wake_fd, inotify_fd, wal_watch;
    char *wal_path;
    const char *name; /* in a->path: the file's name in its folder */
    uint8_t probe[PROBE_BYTES];
    int64_t refused_us;    /* no look was answered since then: somebody has the file locked; 0: the last one was */
    bool probed;           /* probe is of a look that could ask the version */
    int64_t seen;          /* data_version at the last look */
    int64_t event_us;      /* when the last event was read; 0: the ladder has ended */
    bool found;            /* a commit was found since */
    bool deaf;             /* the last commit came without an event */
    bool file;             /* an event says that the file, or its -wal, may be another */
    bool wal_new;          /* a -wal appeared */
    int64_t looks, fed_us; /* ration of looks in vain, and when it was last refilled */
    int64_t slow_us;       /* when the slow poll looked last */
};

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* What changes with every commit, read without a lock. False where it cannot be had. */
static bool probe(const struct notice *n, uint8_t out[PROBE_BYTES]) {
    struct appfile_head head;
    sqlite3_file *file = NULL;
    if (n->a->vfs)
        return false;
    if (n->a->wal) {
        if (!appfile_head(n->a, &head))
            return false;
        memcpy(out, head.index, PROBE_BYTES);
        return true;
    }
    if (sqlite3_file_control(n->a->reader, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || !file || !file->pMethods)
        return false;
    memset(out, 0, PROBE_BYTES);
    /* Bytes 16..63 of the header: format versions, change counter, size. SQLite's own descriptor, so that none is opened or closed. */
    return file->pMethods->xRead(file, out, PROBE_BYTES, 16) == SQLITE_OK;
}

bool notice_look(struct notice *n) {
    uint8_t now[PROBE_BYTES];
    bool have = probe(n, now);
    assert(sqlite3_get_autocommit(n->a->reader)); /* inside a transaction it would show nothing new */
    if (have && n->probed && !memcmp(now, n->probe, PROBE_BYTES))
        return false;
    int64_t seen = n->seen;
    /* Refused in DELETE mode: somebody is committing now. SQLite would sleep a millisecond; the ladder knows better. The probe is not
     * remembered, so that the next look asks again. */
    sqlite3_busy_timeout(n->a->reader, 0);
    bool ok = sql_step(n->version) == 1;
    if (ok)
        n->seen = sqlite3_column_int64(n->version, 0);
    sqlite3_reset(n->version);
    sqlite3_busy_timeout(n->a->reader, APPFILE_READER_BUSY_MS);
    n->refused_us = ok ? 0 : n->refused_us ? n->refused_us : now_us();
    n->probed = ok && have;
    if (n->probed)
        memcpy(n->probe, now, PROBE_BYTES);
    return n->seen != seen;
}

static void watch_wal(struct notice *n) {
    if (n->inotify_fd < 0)
        return;
    if (n->wal_watch >= 0)
        (void)inotify_rm_watch(n->inotify_fd, n->wal_watch);
    n->wal_watch = inotify_add_watch(n->inotify_fd, n->wal_path, FILE_EVENTS);
}

static bool watch_all(struct notice *n) {
    char folder[PATH_MAX];
    int len = snprintf(folder, sizeof folder, "%.*s", (int)(n->name - n->a->path), n->a->path);
    if (len < 0 || (size_t)len >= sizeof folder)
        return false;
    n->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (n->inotify_fd < 0)
        return false;
    /* The folder first: a -wal that appears after its watch failed is then told. */
    if (inotify_add_watch(n->inotify_fd, len ? folder : ".", FOLDER_EVENTS) < 0 ||
        inotify_add_watch(n->inotify_fd, n->a->path, FILE_EVENTS) < 0)
        return false;
    watch_wal(n);
    return true;
}

int notice_open(struct notice **out, struct appfile *a, int wake_fd, const char **why) {
    struct notice *n = calloc(1, sizeof *n);
    int err = n ? 0 : ERR_NOMEM;
    *out = NULL;
    *why = NULL;
    if (!n)
        return err;
    n->a = a;
    n->wake_fd = wake_fd;
    n->inotify_fd = n->wal_watch = -1;
    n->looks = LOOKS_BURST;
    const char *slash = strrchr(a->path, '/');
    n->name = slash ? slash + 1 : a->path;
    if (asprintf(&n->wal_path, "%s-wal", a->path) < 0) {
        n->wal_path = NULL;
        err = ERR_NOMEM;
    }
    if (!err)
        err = sql_prepare(a->reader, &n->version, "PRAGMA main.data_version");
    if (err) {
        notice_close(n);
        return err;
    }
    if (!a->vfs && !watch_all(n)) {
        *why = "inotify cannot watch the database (raise fs.inotify.max_user_instances and max_user_watches); looking every 20 ms instead";
        if (n->inotify_fd >= 0)
            (void)close(n->inotify_fd);
        n->inotify_fd = -1;
    }
    (void)notice_look(n);
    *out = n;
    return 0;
}

void notice_close(struct notice *n) {
    if (!n)
        return;
    sqlite3_finalize(n->version);
    if (n->inotify_fd >= 0)
        (void)close(n->inotify_fd);
    free(n->wal_path);
    free(n);
}

/* An event in the folder. Other files of the application come and go there, too. */
static void folder_event(struct notice *n, const struct inotify_event *e) {
    size_t len = strlen(n->name);
    if (strncmp(e->name, n->name, len) != 0)
        return;
    const char *suffix = e->name + len;
    if (!strcmp(suffix, "-wal") && (e->mask & (IN_CREATE | IN_MOVED_TO)))
        n->wal_new = true;
    if (!*suffix || !strcmp(suffix, "-wal"))
        n->file = true;
    if (!*suffix || !strcmp(suffix, "-wal") || !strcmp(suffix, "-journal")) /* a -journal that goes is a commit in DELETE mode */
        n->event_us = -1;
}

/* Reads what inotify has. Events of ours set event_us to now. */
static void read_events(struct notice *n, int64_t now) {
    alignas(struct inotify_event) char buffer[4096];
    int64_t before = n->event_us;
    ssize_t got;
    /* At most a few buffers: what is left makes the next poll return at once. */
    for (int i = 0; i < 8 && (got = read(n->inotify_fd, buffer, sizeof buffer)) > 0; i++) {
        for (char *p = buffer; p < buffer + got;) {
            const struct inotify_event *e = (const struct inotify_event *)(void *)p;
            p += sizeof *e + e->len;
            if (e->len)
                folder_event(n, e);
            else
                n->event_us = -1;
            n->file = n->file || (!e->len && (e->mask & ~(uint32_t)IN_MODIFY));
        }
        if (got < (ssize_t)sizeof buffer / 2)
            break;
    }
    n->found = n->event_us == -1 ? false : n->found;
    n->event_us = n->event_us == -1 ? now : before;
}

/* A look in vain takes one of the ration, which grows by 500 a second; one that found something gives it all back. */
static bool rationed(struct notice *n, int64_t now) {
    int64_t more = (now - n->fed_us) / LOOK_REFILL_US;
    if (more > 0) {
        n->looks = n->looks + more > LOOKS_BURST ? LOOKS_BURST : n->looks + more;
        n->fed_us = now;
    }
    if (n->looks <= 0)
        return true;
    n->looks--;
    return false;
}

static int64_t poll_us(const struct notice *n) { return n->inotify_fd < 0 ? BLIND_POLL_US : n->deaf ? SLOW_POLL_US : SURE_POLL_US; }

/* How long until the next look is due. */
static int64_t rung(struct notice *n, int64_t now) {
    int64_t until_slow = n->slow_us + poll_us(n) - now;
    if (until_slow < 0)
        until_slow = 0;
    if (!n->event_us)
        return until_slow;
    int64_t past = now - n->event_us, part = n->found ? past : past / RUNG_PART;
    if (part >= SLOW_POLL_US) {
        n->event_us = 0;
        return until_slow;
    }
    part = part < RUNG_MIN_US ? RUNG_MIN_US : part;
    return part < until_slow ? part : until_slow;
}

/* Sleeps until one of the descriptors is readable. events: false leaves inotify's out. Bits: 1 woken, 2 events. */
static int sleep_until(struct notice *n, int64_t us, bool events) {
    struct pollfd fds[2] = {{.fd = n->wake_fd, .events = POLLIN}, {.fd = events ? n->inotify_fd : -1, .events = POLLIN}};
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    if (ppoll(fds, 2, &t, NULL) <= 0) /* a signal counts as the time that has passed */
        return 0;
    return (fds[0].revents ? 1 : 0) | (fds[1].revents ? 2 : 0);
}

/* After an event that may mean another file, and at every slow poll. */
static bool file_changed(struct notice *n) {
    if (n->wal_new) {
        n->wal_new = false;
        watch_wal(n);
        if (!n->a->wal)
            (void)appfile_journal(n->a);
    }
    n->file = false;
    return !appfile_same(n->a);
}

static unsigned look(struct notice *n, int64_t now) {
    if (!notice_look(n))
        return 0;
    if (n->inotify_fd >= 0)
        read_events(n, now);
    n->deaf = !n->event_us;
    n->event_us = now;
    n->found = true;
    n->looks = LOOKS_BURST;
    return NOTICE_COMMIT;
}

unsigned notice_wait(struct notice *n, int timeout_ms) {
    /* By default the kernel delays a thread's timers by up to 50 us, which is more than the first rungs. */
    (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    int64_t now = now_us(), end = timeout_ms < 0 ? INT64_MAX : now + (int64_t)timeout_ms * 1000;
    unsigned result = look(n, now);
    if (result)
        return result | (sleep_until(n, 0, false) ? NOTICE_WOKEN : 0);
    for (;;) {
        bool ration = n->event_us && rationed(n, now);
        int64_t us = ration ? LOOK_REFILL_US : rung(n, now);
        us = us < end - now ? us : end - now;
        int woke = sleep_until(n, us, !ration);
        now = now_us();
        if (woke & 2)
            read_events(n, now);
        bool slow = now - n->slow_us >= poll_us(n);
        if (slow)
            n->slow_us = now;
        if (n->file || slow)
            result |= file_changed(n) ? NOTICE_FILE : 0;
        result |= look(n, now) | (woke & 1 ? NOTICE_WOKEN : 0);
        if (slow && n->refused_us && now - n->refused_us >= LOCKED_US) /* who has it may have written: the store sees how long it lasts */
            result |= NOTICE_COMMIT;
        if (!result && now >= end)
            result = NOTICE_TIMEOUT;
        if (result)
            return result;
    }
}
