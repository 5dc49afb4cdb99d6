/* starling-sim: runs scripts of the simulator, over one seed or many, and says how to repeat what failed. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/sim/sim.h"

#define SCRIPT_BYTES_MAX (1u << 20)
#define FAILURES_MAX 5u

static const char *const canaries[CANARIES] = {"none", "causal", "forget", "heal", "rows"};

struct command {
    struct sim_options options;
    const char *path, *golden;
    unsigned long long seeds;
    double budget_s;
    uint32_t views, fails;
    bool update;
};

static int usage(void) {
    fprintf(stderr, "usage: starling-sim SCRIPT [--seed N] [--seeds COUNT] [--budget S] [--verbose] [--trace FILE]\n"
                    "                    [--golden FILE [--update]] [--canary causal|forget|heal|rows]\n"
                    "       starling-sim --views NODES [--fail PERCENT] [--seed N] [--seeds COUNT]\n"
                    "  --seeds    so many runs, from --seed on; --budget: no new one after so many seconds\n"
                    "  --trace    each frame that is sent, a line each\n"
                    "  --golden   the trace must be that of FILE; --update writes it there\n"
                    "  --views    views and trees alone, what they cost, and whom events reach; --fail: then so many fail at once\n"
                    "What a script may say: tools/sim/README.md\n");
    return 2;
}

static double clock_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static char *read_all(FILE *f, size_t max, size_t *len) {
    char *text = malloc(max + 1);
    *len = text && f ? fread(text, 1, max, f) : 0;
    if (text)
        text[*len] = 0;
    return text;
}

static char *read_file(const char *path, size_t max, size_t *len) {
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    char *text = read_all(f, max, len);
    fclose(f);
    return text;
}

/* ---- golden traces */

static int first_difference(const char *is, const char *golden, const char *path) {
    for (unsigned line = 1;; line++) {
        size_t a = strcspn(is, "\n"), b = strcspn(golden, "\n");
        if (a != b || memcmp(is, golden, a) != 0) {
            printf("FAILED %s:%u: expected \"%.*s\", is \"%.*s\"\nif the protocol was to change: run again with --update\n", path, line,
                   (int)b, golden, (int)a, is);
            return 1;
        }
        if (!is[a] && !golden[b])
            return 0;
        is += a + (is[a] == '\n');
        golden += b + (golden[b] == '\n');
    }
}

static int hold_golden(const struct command *c, const char *script) {
    struct sim_options options = c->options;
    struct sim_result r;
    size_t len = 0, golden_len = 0;
    options.trace = tmpfile();
    if (!options.trace)
        return 1;
    bool right = sim_run(&options, c->path, script, &r);
    rewind(options.trace);
    char *is = read_all(options.trace, SCRIPT_BYTES_MAX, &len), *golden = read_file(c->golden, SCRIPT_BYTES_MAX, &golden_len);
    fclose(options.trace);
    int code = 1;
    if (!right || r.failed) {
        printf("FAILED %s\n", r.why);
    } else if (c->update) {
        FILE *f = fopen(c->golden, "w");
        code = !f || fwrite(is, 1, len, f) != len;
        code = (f && fclose(f) != 0) || code;
        printf("%s %s\n", code ? "FAILED to write" : "written:", c->golden);
    } else if (!golden) {
        printf("FAILED %s cannot be read: make it with --update\n", c->golden);
    } else {
        code = first_difference(is, golden, c->golden);
        if (!code)
            printf("as in %s\n", c->golden);
    }
    free(is);
    free(golden);
    return code;
}

/* ---- seeds */

static bool run_one(const struct command *c, const char *script, struct sim_result *total) {
    struct sim_result r, again;
    bool right = sim_run(&c->options, c->path, script, &r);
    if (right && !r.failed && c->seeds > 1 && c->options.seed % 50 == 0) { /* the same seed must give the same run */
        sim_run(&c->options, c->path, script, &again);
        if (again.hash != r.hash) {
            r.failed = true;
            snprintf(r.why, sizeof r.why, "two runs of this seed differ");
        }
    }
    total->hash ^= r.hash;
    total->simulated_us += r.simulated_us;
    total->batches += r.batches;
    total->delivered += r.delivered;
    total->crashes += r.crashes;
    total->epochs += r.epochs;
    if (r.healed_ms > total->healed_ms)
        total->healed_ms = r.healed_ms;
    if (r.failed) {
        printf("FAILED seed %llu: %s\n", (unsigned long long)c->options.seed, r.why);
        printf("repeat with: starling-sim %s --seed %llu --canary %s --verbose\n", c->path, (unsigned long long)c->options.seed,
               canaries[c->options.canary]);
        fflush(stdout);
    }
    return !r.failed;
}

static int run_seeds(struct command *c, const char *script) {
    struct sim_result total = {0};
    unsigned long long first = c->options.seed, failures = 0, done = 0;
    double start = clock_s();
    for (; done < c->seeds && failures < FAILURES_MAX; done++) {
        if (c->budget_s > 0 && clock_s() - start >= c->budget_s)
            break; /* a slow machine runs fewer seeds, not longer */
        c->options.seed = first + done;
        failures += !run_one(c, script, &total);
    }
    double s = clock_s() - start, simulated = (double)total.simulated_us / 1e6;
    printf("seeds %llu to %llu: %llu failed; %llu batches written, %llu delivered, %llu crashes, %llu new epochs, slowest "
           "healing %llu ms; %.0f s in %.1f s: %.0f x; hash %016llx\n",
           first, first + done - 1, failures, (unsigned long long)total.batches, (unsigned long long)total.delivered,
           (unsigned long long)total.crashes, (unsigned long long)total.epochs, (unsigned long long)total.healed_ms, simulated, s,
           s > 0 ? simulated / s : 0, (unsigned long long)total.hash);
    return failures ? 1 : 0;
}

static bool parse(struct command *c, int argc, char **argv, const char **trace) {
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--verbose") == 0)
            c->options.verbose = true;
        else if (strcmp(name, "--update") == 0)
            c->update = true;
        else if (name[0] != '-' && !c->path)
            c->path = name;
        else if (!value)
            return false;
        else if (i++, strcmp(name, "--seed") == 0)
            c->options.seed = strtoull(value, NULL, 10);
        else if (strcmp(name, "--seeds") == 0)
            c->seeds = strtoull(value, NULL, 10);
        else if (strcmp(name, "--budget") == 0)
            c->budget_s = strtod(value, NULL);
        else if (strcmp(name, "--views") == 0)
            c->views = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--fail") == 0)
            c->fails = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--golden") == 0)
            c->golden = value;
        else if (strcmp(name, "--trace") == 0)
            *trace = value;
        else if (strcmp(name, "--canary") == 0) {
            unsigned k = 0;
            while (k < CANARIES && strcmp(value, canaries[k]) != 0)
                k++;
            if (k == CANARIES)
                return false;
            c->options.canary = (enum sim_canary)k;
        } else
            return false;
    }
    return (c->path != NULL) != (c->views > 0) && c->views <= SIM_NODES_MAX && c->fails < 100;
}

int main(int argc, char **argv) {
    struct command c = {.options = {.seed = 1}, .seeds = 1};
    const char *trace = NULL;
    size_t len = 0;
    if (!parse(&c, argc, argv, &trace))
        return usage();
    if (c.views) {
        int bad = 0;
        for (unsigned long long i = 0; i < c.seeds; i++)
            bad |= !sim_views(c.views, c.fails, c.options.seed + i);
        printf("%s\n", bad ? "FAILED" : "ok");
        return bad;
    }
    char *script = read_file(c.path, SCRIPT_BYTES_MAX, &len);
    if (!script || sodium_init() < 0) {
        fprintf(stderr, "starling-sim: %s cannot be read\n", c.path);
        return 1;
    }
    if (trace && !(c.options.trace = fopen(trace, "w"))) {
        fprintf(stderr, "starling-sim: %s cannot be written\n", trace);
        free(script);
        return 1;
    }
    int code = c.golden ? hold_golden(&c, script) : run_seeds(&c, script);
    if (c.options.trace)
        fclose(c.options.trace);
    free(script);
    return code;
}
