#include "proto/hlc.h"

#define HLC_MS_MAX ((UINT64_C(1) << 48) - 1)

uint64_t hlc_next(struct hlc *h, uint64_t ms, uint64_t above) {
    if (ms > HLC_MS_MAX)
        ms = HLC_MS_MAX;
    uint64_t floor = h->last > above ? h->last : above;
    /* At the very end of time (the year 10889) there is nothing above: the last stamp is then given again. Only a stamp
     * from outside could lead there, and callers refuse stamps from far ahead. */
    uint64_t next = floor == UINT64_MAX ? floor : floor + 1;
    if (next < hlc_of_ms(ms))
        next = hlc_of_ms(ms);
    h->last = next;
    return next;
}

void hlc_observe(struct hlc *h, uint64_t stamp) {
    if (stamp > h->last)
        h->last = stamp;
}
