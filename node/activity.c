/* Starling node: which batches were made here and taken from others, for `starling log`: one line an origin and second at most, so that the log of a
 * busy node can be read, and costs nothing. */
#include "node/node.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "node/clock.h"

#define TELL_MS 1000

static void tell(struct database *db, const struct vv_entry *now, uint64_t before) {
    struct node *n = db->node;
    char text[300], versions[60], author[CORE_NAME_MAX], id[2 * NODE_ID_BYTES + 1];
    if (now->version == before + 1)
        snprintf(versions, sizeof versions, "version %" PRIu64, now->version);
    else
        snprintf(versions, sizeof versions, "versions %" PRIu64 " to %" PRIu64, before + 1, now->version);
    sodium_bin2hex(id, sizeof id, now->origin.node, NODE_ID_BYTES);
    if (memcmp(now->origin.node, core_id(n->core), NODE_ID_BYTES) == 0)
        snprintf(text, sizeof text, "%s of this node: for the others", versions);
    else
        snprintf(text, sizeof text, "%s of %s: taken", versions, node_member_name(n, id, author, sizeof author) ? author : id);
    log_activity(n->log, db->name, text);
}

static void tell_all(struct database *db) {
    for (uint32_t i = 0; i < db->stored.count; i++) {
        const struct vv_entry *now = &db->stored.entries[i];
        uint64_t before = vv_get(&db->told, &now->origin);
        if (now->version > before)
            tell(db, now, before);
    }
    vv_copy(&db->told, &db->stored); /* without memory: said twice */
    db->told_ms = clock_mono_ms();
    db->untold = false;
}

void activity_opened(struct database *db, const struct vv *have) {
    vv_copy(&db->told, have);
    vv_copy(&db->stored, have);
}

void activity_stored(struct database *db, const struct vv *have) {
    if (vv_equal(&db->stored, have) || vv_copy(&db->stored, have) != 0)
        return;
    db->untold = true;
    if (db->internal)
        return; /* what it means for files is told by those */
    if (clock_mono_ms() - db->told_ms >= TELL_MS)
        tell_all(db);
}

void activity_tick(struct node *n) {
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next)
        if (db->untold && !db->internal && clock_mono_ms() - db->told_ms >= TELL_MS)
            tell_all(db);
}
