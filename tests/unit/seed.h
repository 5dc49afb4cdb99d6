/* The seed of a random test: STARLING_SEED, or the time; printed. */
#ifndef TESTS_SEED_H
#define TESTS_SEED_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/clock.h"

static inline uint64_t seed_begin(void) {
    const char *given = getenv("STARLING_SEED");
    uint64_t number = given != NULL ? strtoull(given, NULL, 10) : clock_wall_ms();
    printf("STARLING_SEED=%llu\n", (unsigned long long)number);
    return number;
}

#endif
