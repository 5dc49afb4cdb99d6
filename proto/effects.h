/* Starling: the queue of effects between core_step and core_poll. What an effect points to (text, frame heads, data, ids) is
 * copied into one arena that is emptied with the queue, so a step costs no allocation per effect; batches are referenced.
 * A failed append (no memory) drops that effect and says so: a SEND that was not queued must end its link. */
#ifndef PROTO_EFFECTS_H
#define PROTO_EFFECTS_H

#include <stdbool.h>

#include "proto/buf.h"
#include "proto/core.h"

struct effect_slot;

struct effects {
    struct effect_slot *slots;
    size_t first, count, cap;
    struct buf arena;
    struct bytes *lent;   /* body of the effect handed out last */
    struct member member; /* likewise */
};

void effects_init(struct effects *fx);
void effects_release(struct effects *fx);
/* Appends a copy of *e. DELIVER: on success the reference in e->batch goes over to the queue; SEND: the queue takes its own.
 * False without memory; nothing changed then. */
bool effects_put(struct effects *fx, const struct effect *e);
/* The next effect; its pointers live until the next call of effects_take or effects_settle. */
bool effects_take(struct effects *fx, struct effect *out);
/* Lets go of what the last effect borrowed. */
void effects_settle(struct effects *fx);

#endif
