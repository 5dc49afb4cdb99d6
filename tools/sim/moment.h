/* Starling simulator: time and chance for the real store (`level merge`). SQLite, libsodium and the store ask the operating system what time
 * it is, and for random bytes; while a world runs they are told the world's instead, so that one seed is one run here, too. */
#ifndef TOOLS_SIM_MOMENT_H
#define TOOLS_SIM_MOMENT_H

#include <stdint.h>

/* From now on, until moment_end(). One world at a time. */
void moment_begin(uint64_t seed);
void moment_end(void);
/* What time it is for whoever is called next. */
void moment_is(uint64_t mono_us, uint64_t wall_ms);

#endif
