/* Starling tests: every write fails once.
 *
 *     torture [--all]                every operation, or every third from a random one on
 *     torture --case MODE FAULT N    one of them again
 *
 * One scenario runs again and again; in run n the n-th write, sync, truncation, deletion or creation fails: once, or it and all that
 * follow until the end (a full disk). The node may give up its work with a clear line; it must not crash, nor disturb the
 * application. When the fault is gone it starts again, and everything is there, on both sides. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

struct fault {
    const char *name;
    int code;
    uint64_t count;
    bool spare_app;
    bool fresh;
};

static const struct fault faults[] = {
    {"one I/O error", SQLITE_IOERR_WRITE, 1, true, false},
    {"one full disk", SQLITE_FULL, 1, true, false},
    {"I/O errors to the end", SQLITE_IOERR_WRITE, UINT64_MAX / 2, true, false},
    {"a full disk to the end, for the application too", SQLITE_FULL, UINT64_MAX / 2, false, false},
    {"one full disk in the first start", SQLITE_FULL, 1, true, true},
    {"I/O errors from the first start on", SQLITE_IOERR_WRITE, UINT64_MAX / 2, true, true},
};
#define FAULTS (sizeof faults / sizeof *faults)
static const char *const steps = "oatsAgbtzosBGctkmtdtsDgzt";

/* The store, if it is closed, opens, or says why not. */
static bool opened(struct world *w) {
    w->disk.ours = true;
    bool ok = w->a.store || side_open_store(&w->a) == 0;
    w->disk.ours = false;
    return ok;
}

/* Everything of the scenario that can be done. False if something was wrong that no fault excuses. */
static bool play(struct world *w) {
    for (const char *at = steps; *at; at++) {
        bool node = strchr("tzsgGo", *at) != NULL;
        if (node && *at != 'o' && !opened(w)) {
            if (!w->a.why[0])
                return world_fail(w, "the store does not open, and does not say why");
            continue;
        }
        w->a.why[0] = 0;
        if (world_step(w, *at))
            continue;
        if (getenv("SIDE_LOG"))
            fprintf(stderr, "step %c at operation %llu: %s\n", *at, (unsigned long long)w->disk.ops, w->why);
        if (w->b_failed)
            return false;
        if (!w->a.why[0])
            return world_fail(w, "step %c failed without a word", *at);
        if (node)
            side_close_store(&w->a);
    }
    return true;
}

static bool run(struct world *w, enum world_mode mode, const struct fault *f, uint64_t n, bool *beyond) {
    w->spare_app = f->spare_app;
    if (!world_start(w, mode, f->fresh))
        return false;
    w->disk.fail_code = f->code;
    w->disk.fail_count = f->count;
    w->disk.fail_at = n;
    bool ok = play(w);
    *beyond = w->disk.ops < n;
    w->disk.fail_at = 0;
    if (!ok)
        return false;
    if (*beyond && !w->a.store)
        return world_fail(w, "the store is closed, and nothing had failed: %s", w->a.why);
    side_close_app(&w->a);
    if (!world_look(w))
        return false;
    for (unsigned i = 0; i < w->wrote_count; i++)
        if (w->wrote[i].done && !w->wrote[i].kept)
            return world_fail(w, "transaction %u was committed, and is not in the application's file", w->wrote[i].tag);
    if (!opened(w))
        return world_fail(w, "the fault is gone, and the store does not open: %s", w->a.why);
    return world_sent_holds(w) && world_steps(w, "tgat") && world_settles(w);
}

static bool report(struct world *w, enum world_mode mode, unsigned fault, uint64_t n, bool *beyond) {
    bool ok = run(w, mode, &faults[fault], n, beyond);
    if (!ok)
        fprintf(stderr, "torture: mode %d, %s, operation %llu: %s\nrepeat: torture --case %d %u %llu\n", mode, faults[fault].name,
                (unsigned long long)n, w->why, mode, fault, (unsigned long long)n);
    world_stop(w);
    return ok;
}

int main(int argc, char **argv) {
    static struct world w;
    bool beyond = false;
    int code = 1;
    bool all = argc == 2 && strcmp(argv[1], "--all") == 0;
    if (argc != 1 && !all &&
        (argc != 5 || strcmp(argv[1], "--case") != 0 || world_number(argv[2]) >= MODES || world_number(argv[3]) >= FAULTS)) {
        fprintf(stderr, "usage: torture [--all] | --case MODE FAULT N\n");
        return 2;
    }
    if (!world_init(&w))
        fprintf(stderr, "torture: %s\n", w.why);
    else if (argc == 5)
        code = report(&w, (enum world_mode)world_number(argv[2]), (unsigned)world_number(argv[3]), world_number(argv[4]), &beyond) ? 0 : 1;
    else {
        uint64_t runs = 0, stride = all ? 1 : 3, first = (uint64_t)time(NULL);
        bool ok = true;
        for (unsigned fault = 0; fault < FAULTS && ok; fault++) {
            enum world_mode mode = fault % 2 ? MODE_DELETE : MODE_NORMAL;
            beyond = false;
            for (uint64_t n = 1 + (first + fault) % stride; ok && !beyond; n += stride, runs++)
                ok = report(&w, mode, fault, n, &beyond);
        }
        if (ok)
            printf("torture: %llu runs with a failing disk: clear errors, nothing lost\n", (unsigned long long)runs);
        code = ok ? 0 : 1;
    }
    world_release(&w);
    return code;
}
