/* Starling: hybrid logical clock (Kulkarni, Demirbas et al., "Logical Physical Clocks", 2014).
 * A stamp is one uint64: 48 bits of Unix milliseconds, 16 bits of counter. Stamps of one clock only rise. A full counter
 * carries into the milliseconds. Pure: the physical time comes in as an argument. */
#ifndef PROTO_HLC_H
#define PROTO_HLC_H

#include <stdint.h>

struct hlc {
    uint64_t last; /* the last stamp given or observed */
};

static inline uint64_t hlc_of_ms(uint64_t ms) { return ms << 16; }
static inline uint64_t hlc_ms(uint64_t stamp) { return stamp >> 16; }

/* The next stamp: above the last one, above `above`, and not before physical time ms. */
uint64_t hlc_next(struct hlc *h, uint64_t ms, uint64_t above);
/* A stamp from elsewhere was seen. */
void hlc_observe(struct hlc *h, uint64_t stamp);

#endif
