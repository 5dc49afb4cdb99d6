/* Rows that are one, for people: each row for which another stands is an open conflict of kind "unique", until somebody says that he is content with it,
 * or takes it apart again. Both are facts, like the one that made them one (same.c), and the latest holds.
 *
 * Taken apart, both have what their own registers say: what was written to one of them before it was known that they are one, and to the elder since
 * then; what refers to either refers to it again. The younger gives up the UNIQUE value, by a mend as in any meeting (meet.c), and they are not made one again. */
#include <string.h>

#include "node/store/same.h"
#include "proto/err.h"

/* Is it open that another row stands for this one? Told of the younger of each two. */
static bool open_pair(const struct store *s, const struct same_node *n, const struct same_pair *p) {
    return p->b == n && same_pair_state(s, p) == SAME_ONE;
}

static bool is_open(const struct store *s, const struct same_node *n) {
    bool open = false;
    for (uint32_t i = 0; i < n->pairs_count; i++)
        open = open || open_pair(s, n, n->pairs[i]);
    return open;
}

struct same_node *same_next_open(struct store *s, const struct tbl *t, const struct rowid *root, const struct same_node *after) {
    struct same_node *n = same_node(s, t, root);
    if (!n || n->root != n)
        return NULL;
    for (n = after ? after->next : n->next; n && !is_open(s, n);)
        n = n->next;
    return n;
}

uint32_t same_open(struct store *s, const struct tbl *t, const struct rowid *root) {
    uint32_t count = 0;
    for (const struct same_node *n = same_next_open(s, t, root, NULL); n; n = same_next_open(s, t, root, n))
        count++;
    return count;
}

int same_decide(struct store *s, struct tbl *t, const struct rowid *who, bool split) {
    struct same_node *n = same_node(s, t, who);
    int err = n ? 0 : ERR_NOTFOUND;
    for (uint32_t i = 0; !err && i < n->pairs_count; i++) {
        const struct same_pair *p = n->pairs[i];
        uint64_t at = hlc_of_ms((uint64_t)store_wall_ms(s));
        if (split ? same_pair_state(s, p) == SAME_APART : !open_pair(s, n, p))
            continue;
        for (const struct same_fact *f = p->facts; f; f = f->next)
            at = f->at >= at ? stamp_above(f->at) : at;
        err = unify_write(s, t, &p->a->who, p->a->rank, &p->b->who, p->b->rank, split ? SAME_APART : SAME_SETTLED, at);
    }
    return err;
}
