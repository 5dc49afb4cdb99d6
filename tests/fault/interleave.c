/* Starling tests: the application writes in the midst of what the node does.
 *
 *     interleave [--all]                    every operation, or every second from a random one on
 *     interleave --case MODE SCHEDULE N     one of them again
 *
 * A schedule runs again and again; in run n the application commits a transaction of its own just before the node's n-th write or sync: after
 * the drain, between merge and projection, while a batch is on its way. (Where the node holds the write lock the application is refused, and that
 * is all right here.) Nothing may be lost, nothing taken for what it is not, on either side. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

struct schedule {
    const char *steps;
    char intruder; /* the step of the application that comes in between */
};

static const struct schedule schedules[] = {
    {"atsAgtsgt", 'a'}, {"CGtsgt", 'c'}, {"cAGtsDgt", 'd'}, {"dtsDgtCg", 'a'}, {"oatsAgBgt", 'b'}, {"AGtkAGtmt", 'a'}, {"dAGtCDgt", 'd'},
};
#define SCHEDULES (sizeof schedules / sizeof *schedules)

struct intrusion {
    struct world *w;
    char step;
};

static void intrude(void *ctx) {
    struct intrusion *i = ctx;
    if (i->w->disk.ours && i->w->a.app)
        world_intrude(i->w, i->step);
}

static bool run(struct world *w, enum world_mode mode, const struct schedule *s, uint64_t n, bool *beyond) {
    struct intrusion i = {.w = w, .step = s->intruder};
    if (!world_start(w, mode, s->steps[0] == 'o'))
        return false;
    w->disk.hook = intrude;
    w->disk.hook_ctx = &i;
    w->disk.hook_at = n;
    bool ok = world_steps(w, s->steps);
    *beyond = w->disk.ops < n;
    w->disk.hook_at = 0;
    return ok && world_steps(w, "tg") && world_settles(w);
}

static bool report(struct world *w, enum world_mode mode, unsigned schedule, uint64_t n, bool *beyond) {
    bool ok = run(w, mode, &schedules[schedule], n, beyond);
    if (!ok)
        fprintf(stderr, "interleave: mode %d, schedule %s, %c before operation %llu: %s\nrepeat: interleave --case %d %u %llu\n", mode,
                schedules[schedule].steps, schedules[schedule].intruder, (unsigned long long)n, w->why, mode, schedule,
                (unsigned long long)n);
    world_stop(w);
    return ok;
}

int main(int argc, char **argv) {
    static struct world w;
    bool beyond = false, all = argc == 2 && strcmp(argv[1], "--all") == 0;
    if (argc != 1 && !all &&
        (argc != 5 || strcmp(argv[1], "--case") != 0 || world_number(argv[2]) >= MODES || world_number(argv[3]) >= SCHEDULES)) {
        fprintf(stderr, "usage: interleave [--all] | --case MODE SCHEDULE N\n");
        return 2;
    }
    int code = 1;
    if (!world_init(&w))
        fprintf(stderr, "interleave: %s\n", w.why);
    else if (argc == 5)
        code = report(&w, (enum world_mode)world_number(argv[2]), (unsigned)world_number(argv[3]), world_number(argv[4]), &beyond) ? 0 : 1;
    else {
        uint64_t runs = 0, stride = all ? 1 : 2, first = (uint64_t)time(NULL);
        bool ok = true;
        for (unsigned i = 0; i < SCHEDULES * MODES && ok; i++) {
            beyond = false;
            for (uint64_t n = 1 + (first + i) % stride; ok && !beyond; n += stride, runs++)
                ok = report(&w, (enum world_mode)(i % MODES), i / MODES, n, &beyond);
        }
        if (ok)
            printf("interleave: %llu runs with a write in between: nothing lost, both sides equal\n", (unsigned long long)runs);
        code = ok ? 0 : 1;
    }
    world_release(&w);
    return code;
}
