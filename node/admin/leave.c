/* Starling node: `leave`: barriers -> one member who stays has all rows that are here, and the content of all files -> what was written meanwhile is there,
 * too -> the node ends for good.
 *
 * Who leaves has the word of one member that it takes over what is here. Two who leave at the same moment must not count on each other, while a third lags
 * behind: who has such a word gives none any more, and of two who ask each other the one with the smaller id gives its own, and counts on the
 * other no more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"
#include "node/clock.h"
#include "node/files/files.h"

#define LEAVE_MS 30000
#define LEAVE_POLL_MS 20

struct leaving {
    uint64_t deadline_ms, asked;                /* asked: number of the question under way */
    uint32_t next;                              /* the peer who is asked next */
    uint8_t whom[NODE_ID_BYTES];                /* is asked, or has said that it takes over */
    bool taken;                                 /* it has */
    uint64_t files_asked;                       /* number of the question to our own files that is under way */
    bool files_taken, files_told;               /* what is in the folder is in their index; and that is told */
    bool files_last;                            /* so it was once more, after that member's word */
    uint64_t files_own;                         /* our versions of the index when that member was asked */
    char files_why[300];                        /* not so: why */
    uint8_t leaves[MEMBERS_MAX][NODE_ID_BYTES]; /* have our word, and leave before us */
    uint32_t leaves_count;
};

static bool leaves_too(const struct leaving *l, const uint8_t *id) {
    for (uint32_t i = 0; i < l->leaves_count; i++)
        if (memcmp(l->leaves[i], id, NODE_ID_BYTES) == 0)
            return true;
    return false;
}

bool leave_takes_over(struct node *n, const uint8_t *peer) {
    struct leaving *l = n->leaving;
    if (n->left)
        return false;
    if (l == NULL)
        return true;
    if (l->taken || memcmp(core_id(n->core), peer, NODE_ID_BYTES) > 0 || l->leaves_count == MEMBERS_MAX)
        return false;
    if (!leaves_too(l, peer))
        memcpy(l->leaves[l->leaves_count++], peer, NODE_ID_BYTES);
    return true;
}

/* Has that member, who is there and stays, all rows? */
static bool has_rows(struct node *n, uint32_t i, const struct peer_info *peer, char *why, size_t why_len) {
    uint64_t lacks = 0;
    if (peer->member->state != MEMBER_ALIVE || leaves_too(n->leaving, peer->member->id))
        return false;
    snprintf(why, why_len, "%s has not said that it takes over what is here", peer->member->name);
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next) {
        uint64_t of_db = peer_lacks(n, i, db->name);
        if (of_db > 0)
            snprintf(why, why_len, "%s lacks %llu versions of %s", peer->member->name, (unsigned long long)of_db, db->name);
        lacks += of_db;
    }
    return lacks == 0;
}

/* ---- our own files: what the disk holds is in the index, and the index is told */

static void files_taken(void *ctx, uint64_t number, json_t *answer) {
    struct leaving *l = ((struct conn *)ctx)->task;
    const char *error = json_string_value(json_object_get(answer, "error"));
    (void)number;
    l->files_asked = 0;
    l->files_taken = json_is_true(answer);
    if (error != NULL)
        snprintf(l->files_why, sizeof(l->files_why), "%s", error);
    json_decref(answer);
}

static void files_told(void *ctx, uint64_t number, json_t *answer) {
    struct leaving *l = ((struct conn *)ctx)->task;
    const char *error = json_string_value(json_object_get(answer, "error")), *index = json_string_value(json_object_get(answer, "index"));
    const char *untaken = json_string_value(json_object_get(answer, "untaken"));
    (void)number;
    l->files_asked = 0;
    l->files_told = index != NULL && error == NULL && untaken == NULL;
    l->files_taken = l->files_told;
    if (!l->files_told)
        snprintf(l->files_why, sizeof(l->files_why), "%s",
                 error != NULL     ? error
                 : untaken != NULL ? untaken
                                   : "there are files to fetch, or to put into place");
    json_decref(answer);
}

static bool files_ready(struct conn *c, char *why, size_t why_len) {
    struct leaving *l = c->task;
    if (l->files_told || c->node->files == NULL)
        return true;
    snprintf(why, why_len, "%s", l->files_why);
    if (l->files_asked == 0 && !l->files_taken)
        l->files_asked = node_ask_files(c->node, json_pack("{s:s}", "ask", "barrier"), files_taken, c);
    else if (l->files_asked == 0)
        l->files_asked = node_ask_settled(c->node, files_told, c);
    return false;
}

static uint64_t files_own(struct node *n) {
    const struct vv *have = core_vector(n->core, FILES_DB);
    uint64_t own = 0;
    for (uint32_t i = 0; have != NULL && i < have->count; i++)
        if (memcmp(have->entries[i].origin.node, n->identity.id, NODE_ID_BYTES) == 0)
            own += have->entries[i].version;
    return own;
}

/* What was written while that member was asked is not left behind: it is in none of the versions that he gave his word for. */
static bool files_still(struct conn *c) {
    struct leaving *l = c->task;
    if (l->files_last || c->node->files == NULL)
        return true;
    l->files_last = true;
    l->files_taken = l->files_told = false; /* looked at again */
    return false;
}

/* ---- who takes over */

static void taken_over(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct leaving *l = c->task;
    (void)number;
    l->asked = 0;
    l->taken = answer != NULL && json_string_value(json_object_get(answer, "error")) == NULL && !leaves_too(l, l->whom) &&
               (c->node->files == NULL || json_integer_value(json_object_get(answer, "pending")) == 0);
    json_decref(answer);
}

/* True: one has said that it takes over what is here, and still has all. Asked one after the other, again and again. */
static bool handed_over(struct conn *c, char *why, size_t why_len) {
    struct node *n = c->node;
    struct leaving *l = c->task;
    struct peer_info peer;
    uint32_t count = core_peers(n->core);
    l->taken = l->taken && l->files_own == files_own(n);
    for (uint32_t i = 0; l->taken && core_peer(n->core, i, &peer); i++)
        if (memcmp(peer.member->id, l->whom, NODE_ID_BYTES) == 0 && has_rows(n, i, &peer, why, why_len))
            return true;
    l->taken = l->files_last = false;
    snprintf(why, why_len, "no other member is alive, and stays, to take over what is here");
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = (l->next + i) % count;
        if (!core_peer(n->core, at, &peer) || !has_rows(n, at, &peer, why, why_len) || l->asked != 0)
            continue;
        l->next = at + 1;
        l->files_own = files_own(n);
        memcpy(l->whom, peer.member->id, NODE_ID_BYTES);
        l->asked = node_ask_peer(n, l->whom, json_pack("{s:s}", "ask", "leave"), taken_over, c);
        break;
    }
    return false;
}

/* A database that cannot be read is not handed over. */
static bool readable(struct node *n, char *why, size_t why_len) {
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next)
        if (database_broken(db) || db->state == DB_OPENING) {
            snprintf(why, why_len, "%s", db->error != NULL ? db->error : db->name);
            return false;
        }
    return true;
}

static void leave_poll(struct conn *c) {
    struct leaving *l = c->task;
    struct node *n = c->node;
    char why[300] = "", text[400];
    bool alone = member_count(n) == 1; /* there is nobody to hand anything to */
    if (alone ||
        (readable(n, why, sizeof(why)) && files_ready(c, why, sizeof(why)) && handed_over(c, why, sizeof(why)) && files_still(c))) {
        conn_done(c, 0, NULL, NULL);
        node_stop(n, true);
        return;
    }
    if (clock_mono_ms() >= l->deadline_ms) {
        snprintf(text, sizeof(text), "not left: %s: try again when that is over, or just stop this node", why);
        conn_done(c, 1, NULL, text);
        return;
    }
    conn_timer(c, LEAVE_POLL_MS, leave_poll);
}

static void leave_drain(struct conn *c);

static void leave_drained(struct conn *c, json_t *answers) {
    bool all = true;
    for (struct database *db = databases_first(c->node->databases); db != NULL; db = db->hh.next)
        all = all && (db->state != DB_SERVED || json_is_true(json_object_get(answers, db->name)));
    json_decref(answers);
    if (!all && clock_mono_ms() < ((struct leaving *)c->task)->deadline_ms)
        conn_timer(c, LEAVE_POLL_MS, leave_drain);
    else
        leave_poll(c);
}

static void leave_drain(struct conn *c) { gather_start(c, QUESTION_BARRIER, NULL, LEAVE_MS, leave_drained); }

static void leave_release(struct conn *c) {
    free(c->task);
    c->node->leaving = NULL;
}

void verb_leave(struct conn *c, const json_t *args) {
    struct leaving *l = c->node->leaving == NULL ? calloc(1, sizeof(*l)) : NULL;
    (void)args;
    if (l == NULL) {
        conn_done(c, 1, NULL, c->node->leaving != NULL ? "this node is leaving already" : "out of memory");
        return;
    }
    l->deadline_ms = clock_mono_ms() + LEAVE_MS;
    snprintf(l->files_why, sizeof(l->files_why), "files that were written have not been taken up");
    c->task = l;
    c->node->leaving = l;
    c->release = leave_release;
    leave_drain(c);
}
