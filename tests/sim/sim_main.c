/* sim: runs seeds of the simulator, and says how to repeat one that failed. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/sim.h"

static const char *const canaries[CANARIES] = {"none", "causal", "forget", "heal"};

static int usage(void) {
    fprintf(stderr, "usage: sim [--seed N] [--seeds COUNT] [--nodes N] [--seconds S] [--canary causal|forget|heal] "
                    "[--budget S] [--verbose]\n");
    return 2;
}

static bool run_one(const struct sim_options *options, struct sim_result *total) {
    struct sim_result r, again;
    sim_run(options, &r);
    if (!r.failed && options->seed % 50 == 0) { /* the same seed must give the same run */
        sim_run(options, &again);
        if (again.trace != r.trace) {
            r.failed = true;
            snprintf(r.why, sizeof r.why, "two runs of this seed differ");
        }
    }
    total->trace ^= r.trace;
    total->batches += r.batches;
    total->delivered += r.delivered;
    total->crashes += r.crashes;
    total->epochs += r.epochs;
    if (r.healed_ms > total->healed_ms)
        total->healed_ms = r.healed_ms;
    if (r.failed) {
        printf("FAILED seed %llu: %s\n", (unsigned long long)options->seed, r.why);
        printf("repeat with: sim --seed %llu --nodes %u --seconds %u --canary %s --verbose\n", (unsigned long long)options->seed,
               options->nodes, options->seconds, canaries[options->canary]);
        fflush(stdout);
    }
    return !r.failed;
}

int main(int argc, char **argv) {
    struct sim_options options = {.seed = 1, .seconds = 8};
    unsigned long long seeds = 1, budget = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) {
            options.verbose = true;
            continue;
        }
        if (i + 1 == argc)
            return usage();
        const char *name = argv[i], *value = argv[++i];
        unsigned long long n = strtoull(value, NULL, 10);
        if (strcmp(name, "--seed") == 0)
            options.seed = n;
        else if (strcmp(name, "--seeds") == 0)
            seeds = n;
        else if (strcmp(name, "--nodes") == 0 && n <= SIM_NODES_MAX)
            options.nodes = (unsigned)n;
        else if (strcmp(name, "--seconds") == 0 && n && n < 3600)
            options.seconds = (unsigned)n;
        else if (strcmp(name, "--budget") == 0)
            budget = n;
        else if (strcmp(name, "--canary") == 0) {
            unsigned k = 0;
            while (k < CANARIES && strcmp(value, canaries[k]) != 0)
                k++;
            if (k == CANARIES)
                return usage();
            options.canary = (enum sim_canary)k;
        } else
            return usage();
    }
    if (sodium_init() < 0)
        return 1;
    struct sim_result total = {0};
    unsigned long long first = options.seed, failures = 0, done = 0;
    time_t start = time(NULL);
    for (; done < seeds && failures < 5; done++) {
        if (budget && (unsigned long long)(time(NULL) - start) >= budget)
            break; /* a slow machine runs fewer seeds, not longer */
        options.seed = first + done;
        failures += !run_one(&options, &total);
    }
    printf("seeds %llu to %llu: %llu failed; %llu batches written, %llu delivered, %llu crashes, %llu new epochs, slowest "
           "healing %llu ms, trace %016llx\n",
           first, first + done - 1, failures, (unsigned long long)total.batches, (unsigned long long)total.delivered,
           (unsigned long long)total.crashes, (unsigned long long)total.epochs, (unsigned long long)total.healed_ms,
           (unsigned long long)total.trace);
    return failures ? 1 : 0;
}
