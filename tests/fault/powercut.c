/* Starling tests: power cuts at every write and sync of the two-file protocol.
 *
 *     powercut [--quick | --seconds S] [--seed N] [--strict]
 * schedules × journal modes × every cut × what is left of each file, drawn from the seed; as often as fits in S seconds (40); in
 * passes over every STRIDE-th cut, so that a short time is spread over all; --quick: a small part of one pass
 *     powercut --case MODE SCHEDULE CUT SEED         one of them again
 *     powercut --canary state|app                    with syncs that do nothing; exit 0 if that is found out
 *
 * A case: run the schedule until the cut; the power is back with some of what was not synced; the application writes before, perhaps the
 * node is cut off once more while it recovers; then all is exchanged with the peer, and world.h's judgements must hold. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

/* Steps: see world.h. The first five are the ways in which two files can come apart, one by one; then mixtures. */
static const char *const schedules[] = {
    "atsbtsAgk", "atAGts", "Agbts", "abtks", "atAgkats", "dmtsCgDgctks", "AGbtosBgt", "cAGatsBGbt", "oatsAgk", "omtokAgbts", "atsAgzbtzs",
};
#define STRIDE 4
#define SCHEDULES (sizeof schedules / sizeof *schedules)
static const char *const afterwards[] = {"", "b", "a", "ab", "d", "c"};
static const char *const mode_names[MODES] = {"WAL-NORMAL", "WAL-FULL", "DELETE"};

struct one {
    enum world_mode mode;
    unsigned schedule;
    uint64_t cut, seed;
    bool beyond; /* out: the schedule ended before the cut */
};

static void power_off(struct world *w, uint64_t *random) {
    w->disk.dead = true;
    side_close_store(&w->a);
    side_close_app(&w->a);
    side_batches_clear(&w->a.made); /* what had not left is only in the log */
    w->sent_of_made = 0;
    enum powercut_tail app = (enum powercut_tail)(powercut_random(random) % TAILS);
    enum powercut_tail state = (enum powercut_tail)(powercut_random(random) % TAILS);
    powercut_restore(&w->disk, app, state, random);
}

/* The node starts on what is left. False: failed, or cut off again (disk.dead). */
static bool come_back(struct world *w, uint64_t cut, const char *after) {
    if (!world_look(w) || !world_steps(w, after))
        return false;
    powercut_arm(&w->disk, cut);
    bool ok = world_step(w, 'o') && world_sent_holds(w) && world_steps(w, "tgt");
    if (!w->disk.dead)
        powercut_arm(&w->disk, 0);
    return ok;
}

static bool run(struct world *w, struct one *o) {
    uint64_t random = (o->seed * 1000003 + o->cut * 8191 + o->schedule * 131 + (uint64_t)o->mode) * 2 + 1;
    for (int i = 0; i < 4; i++)
        powercut_random(&random);
    const char *steps = schedules[o->schedule];
    if (!world_start(w, o->mode, steps[0] == 'o'))
        return false;
    powercut_arm(&w->disk, o->cut);
    bool ok = world_steps(w, steps);
    o->beyond = !w->disk.dead;
    if ((!ok && o->beyond) || w->b_failed)
        return false;
    power_off(w, &random);
    uint64_t again = powercut_random(&random) % 2 ? 1 + powercut_random(&random) % 60 : 0;
    const char *after = afterwards[powercut_random(&random) % (sizeof afterwards / sizeof *afterwards)];
    ok = come_back(w, again, after);
    if (w->disk.dead && !w->b_failed) {
        power_off(w, &random);
        ok = come_back(w, 0, "");
    }
    return ok && world_steps(w, "at") && world_settles(w);
}

static bool report(struct world *w, struct one *o, bool quiet) {
    bool ok = run(w, o);
    if (!ok && !quiet)
        fprintf(stderr, "powercut: %s, schedule %s, cut at %llu: %s\nrepeat: powercut --case %d %u %llu %llu\n", mode_names[o->mode],
                schedules[o->schedule], (unsigned long long)o->cut, w->why, o->mode, o->schedule, (unsigned long long)o->cut,
                (unsigned long long)o->seed);
    world_stop(w);
    return ok;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Every `stride`-th cut of every schedule. False at the first failure. Sets *over when time is up. */
static bool sweep(struct world *w, uint64_t seed, uint64_t stride, double until, uint64_t *cuts, bool *over, bool quiet) {
    for (unsigned schedule = 0; schedule < SCHEDULES; schedule++)
        for (int mode = 0; mode < MODES; mode++) {
            struct one o = {.mode = (enum world_mode)mode, .schedule = schedule, .seed = seed};
            for (o.cut = 1 + (seed + schedule) % stride; !o.beyond; o.cut += stride) {
                if (!report(w, &o, quiet))
                    return false;
                ++*cuts;
                if (seconds() > until) {
                    *over = true;
                    return true;
                }
            }
        }
    return true;
}

static int canary(struct world *w, const char *which) {
    w->disk.sync_ignored = strcmp(which, "state") == 0 ? ".state" : "a.db";
    w->disk.sync_only_ours = strcmp(which, "app") == 0;
    uint64_t cuts = 0;
    bool over = false;
    double until = seconds() + 60;
    for (uint64_t seed = 1; !over; seed++)
        if (!sweep(w, seed, 7, until, &cuts, &over, true)) {
            printf("powercut: canary %s found out after %llu cuts: %s\n", which, (unsigned long long)cuts, w->why);
            return 0;
        }
    fprintf(stderr, "powercut: canary %s: %llu cuts without syncs went unnoticed: this test cannot fail\n", which,
            (unsigned long long)cuts);
    return 1;
}

static int usage(void) {
    fprintf(stderr, "usage: powercut [--quick | --seconds S] [--seed N] [--strict] | --case MODE SCHEDULE CUT SEED | --canary state|app\n");
    return 2;
}

int main(int argc, char **argv) {
    double limit = 40;
    uint64_t seed = (uint64_t)time(NULL) % 100000, stride = STRIDE;
    const char *fake = NULL;
    bool strict = false;
    struct one o = {.cut = 0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            stride = 5 * STRIDE;
        else if (strcmp(argv[i], "--strict") == 0)
            strict = true;
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            limit = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = world_number(argv[++i]);
        else if (strcmp(argv[i], "--canary") == 0 && i + 1 < argc)
            fake = argv[++i];
        else if (strcmp(argv[i], "--case") == 0 && i + 4 < argc) {
            o.mode = (enum world_mode)world_number(argv[i + 1]);
            o.schedule = (unsigned)world_number(argv[i + 2]);
            o.cut = world_number(argv[i + 3]);
            o.seed = world_number(argv[i + 4]);
            i += 4;
        } else
            return usage();
    }
    if ((unsigned)o.mode >= MODES || o.schedule >= SCHEDULES || (fake && strcmp(fake, "state") != 0 && strcmp(fake, "app") != 0))
        return usage();
    static struct world w;
    int code = 1;
    if (!world_init(&w))
        fprintf(stderr, "powercut: %s\n", w.why);
    else if ((w.disk.idle_sync_is_nothing = strict), fake)
        code = canary(&w, fake);
    else if (o.cut)
        code = report(&w, &o, false) ? 0 : 1;
    else {
        uint64_t cuts = 0;
        bool over = false, ok = true;
        double until = seconds() + limit;
        printf("powercut: seed %llu\n", (unsigned long long)seed);
        unsigned passes = 0;
        for (; ok && !over && (stride == STRIDE || passes == 0); passes++)
            ok = sweep(&w, seed + passes, stride, until, &cuts, &over, false);
        if (ok)
            printf("powercut: %llu cuts in %u schedules and %d journal modes (%u passes, %u see every cut): nothing lost, no version used "
                   "twice, no echo\n",
                   (unsigned long long)cuts, (unsigned)SCHEDULES, MODES, passes - over, (unsigned)stride);
        code = ok ? 0 : 1;
    }
    world_release(&w);
    return code;
}
