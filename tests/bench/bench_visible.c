/* Starling bench: from the moment a commit returns on one node to the moment SQL sees the row on the others.
 *
 *   bench_visible PER_TX TRANSACTIONS RATE SYNC WRITER [WATCHED...]
 * Writes TRANSACTIONS of PER_TX rows into WRITER, RATE a second with jitter (0: as fast as it goes), SYNC normal|full, and watches the others.
 *
 * A watcher must neither disturb what it measures nor take the CPU from the nodes. Every look through SQL takes a read lock, which a node
 * waits for before it shows a change. So the watcher sleeps until inotify reports a write to the -wal, then looks, every 10 us for a moment,
 * at the change counter in the -shm (mapped, without a lock), and asks SQL only once that has moved. At full speed it looks once a
 * millisecond. */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define WATCHERS_MAX 16
#define LADDER_NS 3000000u /* looks this long after an event: the event comes before the commit is visible */
#define GIVE_UP_S 60

struct watcher {
    pthread_t thread;
    const char *path;
    int64_t first, last; /* keys that will appear */
    bool paced;
    uint64_t *seen_ns; /* by key - first */
    _Atomic int64_t seen;
};

struct wal_watch {
    int inotify;
    const volatile uint32_t *shm; /* the WAL index's header: word 2 counts changes */
    uint32_t change;
};

static void wal_watch_open(struct wal_watch *w, const char *path) {
    char name[4096];
    snprintf(name, sizeof name, "%s-shm", path);
    int fd = open(name, O_RDONLY | O_CLOEXEC); /* stays open: closing it would drop SQLite's locks in this process */
    void *map = fd >= 0 ? mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    snprintf(name, sizeof name, "%s-wal", path);
    w->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (map == MAP_FAILED || w->inotify < 0 || inotify_add_watch(w->inotify, name, IN_MODIFY) < 0) {
        bench_die("%s: cannot be watched", path);
    }
    w->shm = map;
    w->change = w->shm[2];
}

static bool wal_watch_moved(struct wal_watch *w) {
    uint32_t now = w->shm[2];
    bool moved = now != w->change;
    w->change = now;
    return moved;
}

/* Returns when the file may have changed; at the latest after 20 ms. */
static void wal_watch_wait(struct wal_watch *w, bool paced) {
    if (!paced) {
        bench_sleep_us(1000);
        return;
    }
    struct pollfd event = {.fd = w->inotify, .events = POLLIN};
    if (wal_watch_moved(w) || poll(&event, 1, 20) <= 0) {
        return;
    }
    char drain[4096];
    while (read(w->inotify, drain, sizeof drain) > 0) {
    }
    for (uint64_t start = bench_ns(); !wal_watch_moved(w) && bench_ns() - start < LADDER_NS;) {
        bench_sleep_us(10);
    }
}

static void *watch(void *context) {
    struct watcher *w = context;
    bench_exact_timers();
    sqlite3 *db = bench_open(w->path, false);
    sqlite3_stmt *top = bench_prepare(db, "SELECT max(id) FROM " BENCH_TABLE);
    if (sqlite3_step(top) != SQLITE_ROW) {
        bench_die("%s: %s", w->path, sqlite3_errmsg(db));
    }
    sqlite3_reset(top);
    struct wal_watch wal;
    wal_watch_open(&wal, w->path);
    int64_t seen = w->first - 1;
    atomic_store(&w->seen, seen);
    for (uint64_t end = bench_ns() + GIVE_UP_S * 1000000000ull; seen < w->last && bench_ns() < end;) {
        wal_watch_wait(&wal, w->paced);
        if (sqlite3_step(top) != SQLITE_ROW) {
            bench_die("%s: %s", w->path, sqlite3_errmsg(db));
        }
        int64_t now = sqlite3_column_int64(top, 0);
        sqlite3_reset(top);
        uint64_t ns = bench_ns();
        for (; seen < now && seen < w->last; seen++) {
            w->seen_ns[seen + 1 - w->first] = ns;
        }
        atomic_store(&w->seen, seen);
    }
    sqlite3_finalize(top);
    bench_close(db);
    return NULL;
}

static void report(const struct watcher *watchers, int count, const uint64_t *committed, int64_t rows, uint64_t start, uint64_t written) {
    struct samples s = {0};
    uint64_t last = written;
    int64_t missing = 0;
    for (int64_t i = 0; i < rows; i++) {
        uint64_t seen = 0;
        bool everywhere = true;
        for (int k = 0; k < count; k++) {
            uint64_t at = watchers[k].seen_ns[i];
            everywhere = everywhere && at != 0;
            seen = at > seen ? at : seen;
        }
        if (!everywhere) {
            missing++;
            continue;
        }
        last = seen > last ? seen : last;
        samples_add(&s, seen > committed[i] ? (double)(seen - committed[i]) / 1e6 : 0);
    }
    printf("{\"rows\":%" PRId64 ",\"missing\":%" PRId64
           ",\"write_s\":%.6f,\"visible_s\":%.6f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f}\n",
           rows, missing, (double)(written - start) / 1e9, (double)(last - start) / 1e9, samples_at(&s, 0.5), samples_at(&s, 0.99),
           samples_at(&s, 1));
    samples_release(&s);
}

static void *zeroed(size_t count, size_t size) {
    void *p = calloc(count, size);
    if (p == NULL) {
        bench_die("out of memory");
    }
    return p;
}

int main(int argc, char **argv) {
    if (argc < 6 || argc - 6 > WATCHERS_MAX) {
        bench_die("usage: PER_TX TRANSACTIONS RATE SYNC WRITER [WATCHED...]");
    }
    int64_t per_tx = bench_number(argv[1], 1, 1000000), transactions = bench_number(argv[2], 1, 10000000);
    int64_t rate = bench_number(argv[3], 0, 100000), rows = per_tx * transactions;
    struct bench_writer w;
    bench_exact_timers();
    bench_writer_open(&w, argv[5], strcmp(argv[4], "full") == 0);
    int64_t first = bench_int(w.db, "SELECT coalesce(max(id),0)+1 FROM " BENCH_TABLE);
    struct bench_row *made = bench_rows((uint64_t)first, (uint64_t)rows);
    uint64_t *committed = zeroed((size_t)rows, sizeof *committed);
    struct watcher watchers[WATCHERS_MAX] = {0};
    int count = argc - 6;
    for (int k = 0; k < count; k++) {
        watchers[k] = (struct watcher){.path = argv[6 + k], .first = first, .last = first + rows - 1, .paced = rate > 0};
        watchers[k].seen_ns = zeroed((size_t)rows, sizeof(uint64_t));
        atomic_init(&watchers[k].seen, -1);
        pthread_create(&watchers[k].thread, NULL, watch, &watchers[k]);
    }
    for (int k = 0; k < count;) {
        k += atomic_load(&watchers[k].seen) == first - 1;
        bench_sleep_us(1000);
    }
    uint64_t random = 5, start = bench_ns(), due = start;
    for (int64_t t = 0; t < transactions; t++) {
        bench_insert(&w, made + t * per_tx, (uint64_t)per_tx, (uint64_t)per_tx);
        uint64_t now = bench_ns();
        for (int64_t i = 0; i < per_tx; i++) {
            committed[t * per_tx + i] = now;
        }
        if (rate > 0) {
            due += 500000000u / (uint64_t)rate + bench_random(&random) % (1000000000u / (uint64_t)rate);
            bench_sleep_until(due);
        }
    }
    uint64_t written = rate > 0 ? bench_ns() : committed[rows - 1];
    for (int k = 0; k < count; k++) {
        pthread_join(watchers[k].thread, NULL);
    }
    report(watchers, count, committed, rows, start, written);
    bench_writer_close(&w);
    return 0;
}
