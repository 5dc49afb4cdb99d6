/* Starling node: `wait`. First everything that the application had committed before the call becomes durable batches (a barrier in each
 * database, and the files that are there in the index); then our versions are remembered; then the state is looked at until every alive member has acknowledged them and is in sync. What is
 * missing is said when time is up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "node/admin/conn.h"
#include "node/clock.h"

#define POLL_MS 10
#define VISITS 8 /* at a time */
#define PROGRESS_MS 500
#define TIMEOUT_S 60
#define LOST_MS 3000 /* nobody has a file's content: so long is it waited for a server that has it */

struct target { /* one database */
    char *name;
    uint64_t asked; /* number of the barrier's question; 0 not asked */
    bool drained;
    struct vv ours; /* our own versions then */
    struct target *next;
};

struct equal { /* a member that had all, and was equal, when there was a link with it */
    uint8_t id[NODE_ID_BYTES];
    UT_hash_handle hh;
};

struct wait {
    struct equal *equal;
    uint64_t deadline_ms, progress_ms, capture; /* capture: number of the question how far a first capture is */
    uint64_t lacking_most;                      /* versions, here or there: what there was to do */
    uint32_t members;
    struct target *targets;
    bool files_closed;    /* they cannot be replicated now */
    uint64_t files_asked; /* number of the question under way; 0 none */
    bool files_taken;     /* what was in the folder before the call is in the index */
    uint32_t files_next;  /* who is asked whether his files are as the index says: 0 this server, then the peers, then this server again */
    bool files_done;      /* all said so, with one index */
    char files_index[17]; /* digest of the index's vector with which this server's were so */
    uint64_t lost_ms;     /* since when nothing but files that no server has was missing; 0: it is not so */
    char missing[400];
};

static void wait_release(struct conn *c) {
    struct wait *w = c->task;
    struct equal *e, *after;
    HASH_ITER(hh, w->equal, e, after) {
        HASH_DEL(w->equal, e);
        free(e);
    }
    for (struct target *t = w->targets, *next; t != NULL; t = next) {
        next = t->next;
        vv_release(&t->ours);
        free(t->name);
        free(t);
    }
    free(w);
}

static bool misses(struct wait *w, const char *format, const char *who, const char *what) {
    snprintf(w->missing, sizeof(w->missing), format, who, what);
    return false;
}

static void remember(struct node *n, struct target *t) {
    const struct vv *have = core_vector(n->core, t->name);
    t->drained = true;
    for (uint32_t i = 0; have != NULL && i < have->count; i++)
        if (memcmp(have->entries[i].origin.node, n->identity.id, NODE_ID_BYTES) == 0 &&
            vv_set(&t->ours, &have->entries[i].origin, have->entries[i].version) != 0)
            t->drained = false; /* without memory: asked again */
}

/* What was remembered is none of this state's versions: another one took its place meanwhile (a join), and what the file holds has new ones. */
static bool outlived(struct node *n, const struct target *t) {
    const struct vv *have = core_vector(n->core, t->name);
    for (uint32_t i = 0; have != NULL && i < t->ours.count; i++)
        if (vv_get(have, &t->ours.entries[i].origin) < t->ours.entries[i].version)
            return true;
    return false;
}

static void barrier_answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct wait *w = c->task;
    for (struct target *t = w->targets; t != NULL; t = t->next) {
        if (t->asked != number)
            continue;
        t->asked = 0;
        if (json_is_true(answer))
            remember(c->node, t);
    }
    json_decref(answer);
}

static void files_taken(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct wait *w = c->task;
    const char *error = json_string_value(json_object_get(answer, "error"));
    (void)number;
    w->files_asked = 0;
    w->files_taken = json_is_true(answer);
    w->files_closed = error != NULL;
    if (error != NULL)
        misses(w, "%s%s", "", error);
    json_decref(answer);
}

/* The files first: taking them up commits into their index. */
static bool files_drained(struct conn *c) {
    struct wait *w = c->task;
    if (w->files_taken || c->node->files == NULL)
        return true;
    if (!w->files_closed)
        misses(w, "%s%s", "", "files that were written have not been taken up");
    if (w->files_asked == 0)
        w->files_asked = node_ask_files(c->node, json_pack("{s:s}", "ask", "barrier"), files_taken, c);
    return false;
}

static void files_told(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct wait *w = c->task;
    struct peer_info peer;
    bool peers = w->files_next > 0 && core_peer(c->node->core, w->files_next - 1, &peer);
    const char *who = peers ? peer.member->name : c->node->name, *error = json_string_value(json_object_get(answer, "error"));
    const char *index = json_string_value(json_object_get(answer, "index"));
    json_int_t pending = json_integer_value(json_object_get(answer, "pending"));
    char text[120];
    (void)number;
    w->files_asked = 0;
    snprintf(text, sizeof(text), "%lld file%s", (long long)pending, pending == 1 ? "" : "s");
    if (!json_is_true(json_object_get(answer, "lost")))
        w->lost_ms = 0;
    else if (w->lost_ms == 0)
        w->lost_ms = clock_mono_ms();
    if (w->files_next == 0)
        snprintf(w->files_index, sizeof(w->files_index), "%s", index == NULL ? "" : index);
    bool equal = false;
    if (error != NULL)
        misses(w, "%s: %s", who, error);
    else if (answer == NULL || pending > 0)
        misses(w, "%s has %s to fetch or to put into place", who, answer == NULL ? "files" : text);
    else if (index != NULL && strcmp(index, w->files_index) != 0)
        misses(w, "%s has another index of files%s", who, "");
    else
        equal = true;
    w->files_done = equal && w->files_next > 0 && !peers;
    w->files_next = equal ? w->files_next + 1 : 0; /* 0: from the beginning */
    json_decref(answer);
}

/* The index is equal everywhere: is the folder as it says, here and at every alive member? One after the other, and at last this server once more:
 * the index that was each one's while nothing was left to do for it is still ours, so that nobody's merging of two files made it another one meanwhile. */
static bool files_equal(struct conn *c) {
    struct wait *w = c->task;
    struct peer_info peer;
    if (c->node->files == NULL || w->files_done)
        return true;
    if (w->files_asked != 0)
        return false;
    while (w->files_next > 0 && core_peer(c->node->core, w->files_next - 1, &peer) && peer.member->state != MEMBER_ALIVE)
        w->files_next++;
    if (w->files_next > 0 && core_peer(c->node->core, w->files_next - 1, &peer))
        w->files_asked = node_ask_peer(c->node, peer.member->id, json_pack("{s:s}", "ask", "files"), files_told, c);
    else
        w->files_asked = node_ask_settled(c->node, files_told, c);
    return false;
}

/* What refers to rows of other databases comes after these: its references are told as soon as they say whom a number means. */
static bool comes_later(const struct conn *c, const struct database *db) {
    const struct wait *w = c->task;
    bool later = false;
    for (const struct target *t = w->targets; t != NULL && db->follows_count > 0; t = t->next) {
        const struct database *other = databases_find(c->node->databases, t->name);
        later = later || (other != NULL && other->follows_count == 0 && !t->drained);
    }
    return later;
}

/* True when all targets are drained; asks those that are not. */
static bool drained(struct conn *c) {
    struct wait *w = c->task;
    bool all = true;
    for (struct target *t = w->targets; t != NULL; t = t->next) {
        struct database *db = databases_find(c->node->databases, t->name);
        if (t->drained && outlived(c->node, t)) {
            vv_clear(&t->ours);
            t->drained = false;
        }
        if (t->drained || db == NULL)
            continue;
        all = false;
        if (database_broken(db))
            misses(w, "%s%s", "", db->error != NULL ? db->error : "a database cannot be served now");
        else
            misses(w, "%s%s has not taken up all that was committed", "", t->name);
        if (t->asked == 0 && db->state == DB_SERVED && !comes_later(c, db))
            t->asked = node_ask(c->node, db, QUESTION_BARRIER, NULL, -1, barrier_answered, c);
    }
    return all;
}

static bool databases_equal(struct node *n, struct wait *w) {
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next) {
        if (database_broken(db))
            return misses(w, "%s%s", "", db->error != NULL ? db->error : "a database cannot be served now");
        if (db->state == DB_OPENING)
            return misses(w, "%s%s is being opened", "", db->name);
        const char *refused = core_database_refused(n->core, db->name);
        if (refused != NULL)
            return misses(w, "%s%s", "", refused);
        if (core_waiting(n->core, db->name) > 0)
            return misses(w, "%s%s holds batches that wait for others", "", db->name);
        json_int_t parked = db->settled ? 0 : json_integer_value(json_object_get(db->status, "parked")); /* as of the last look */
        char text[100];
        snprintf(text, sizeof(text), "%lld change%s", (long long)parked, parked == 1 ? "" : "s");
        if (parked > 0)
            return misses(w, "%s has parked %s that cannot be shown here yet: `starling tables` says why", db->name, text);
        if (!db->settled)
            return misses(w, "%s%s has changes that are not batched or not shown yet", "", db->name);
    }
    return true;
}

static void visit(struct node *n, const struct peer_info *peer) {
    struct event visit = {.type = EVENT_VISIT, .peer = peer->member->id};
    node_step(n, &visit);
}

static bool peer_has_all(struct node *n, struct wait *w, uint32_t i, const struct peer_info *peer) {
    char text[200];
    if (peer->refused != NULL)
        return misses(w, "%s: %s", peer->member->name, peer->refused);
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next) {
        uint64_t lacks = peer_lacks(n, i, db->name);
        snprintf(text, sizeof(text), "%llu version%s of %.150s", (unsigned long long)lacks, lacks == 1 ? "" : "s", db->name);
        if (lacks > 0)
            return misses(w, "%s lacks %s", peer->member->name, text);
    }
    for (const struct target *t = w->targets; t != NULL; t = t->next)
        if (!vv_covers(core_acked(n->core, i, t->name), &t->ours))
            return misses(w, "%s has not acknowledged %s", peer->member->name, t->name);
    snprintf(text, sizeof(text), "%llu versions are missing here", (unsigned long long)peer->we_lack);
    if (peer->we_lack > 0)
        return misses(w, "%s has more: %s", peer->member->name, text);
    if (!peer->in_sync)
        return misses(w, "%s has not acknowledged equal versions and content%s", peer->member->name, "");
    return true;
}

/* Where this node is not linked with everybody, one after the other is visited, and counts from then on. */
static bool each_has_all(struct node *n, struct wait *w) {
    struct peer_info peer;
    uint32_t visits = 0;
    bool all = true;
    for (uint32_t i = 0; core_peer(n->core, i, &peer) && visits < VISITS; i++) {
        struct equal *e;
        if (peer.member->state != MEMBER_ALIVE)
            continue;
        HASH_FIND(hh, w->equal, peer.member->id, NODE_ID_BYTES, e);
        if (e != NULL)
            continue;
        if (!peer.linked) {
            visit(n, &peer);
            visits++;
            all = misses(w, "%s has not been asked yet%s", peer.member->name, "");
        } else if (!peer_has_all(n, w, i, &peer)) {
            visit(n, &peer);
            all = false;
        } else if ((e = calloc(1, sizeof(*e))) != NULL) {
            memcpy(e->id, peer.member->id, sizeof(e->id));
            HASH_ADD(hh, w->equal, id, NODE_ID_BYTES, e);
        }
    }
    return all;
}

static bool converged(struct node *n, struct wait *w) {
    char text[100];
    struct peer_info peer;
    bool all = true;
    if (n->state == NODE_STARTING)
        return misses(w, "%s%s", "", "the node is starting");
    if (core_paused(n->core))
        return misses(w, "%s%s", "", "the node is paused: say `starling resume`");
    if (!databases_equal(n, w))
        return false;
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++) {
        if (peer.member->state == MEMBER_SUSPECT)
            return misses(w, "%s is suspect%s", peer.member->name, "");
        if (core_overlay(n->core) || peer.member->state != MEMBER_ALIVE || peer_has_all(n, w, i, &peer))
            continue;
        visit(n, &peer); /* under load acknowledgements come late: it is asked */
        all = false;
    }
    if (!all)
        return false;
    if (core_overlay(n->core) && !each_has_all(n, w))
        return false;
    snprintf(text, sizeof(text), "%u of %u members are alive", alive_count(n), w->members);
    return alive_count(n) >= w->members || misses(w, "%s%s", "only ", text);
}

/* ---- progress: how far a first capture or catching up is */

static void capture_answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct wait *w = c->task;
    const json_t *capturing = json_object_get(answer, "capturing");
    const char *table = json_string_value(json_object_get(capturing, "table"));
    char text[500];
    struct database *db =
        databases_find(c->node->databases, json_is_object(answer) ? json_string_value(json_object_get(answer, "name")) : "");
    (void)number;
    w->capture = 0;
    if (db != NULL) {
        json_decref(db->status);
        db->status = json_incref(answer);
    }
    if (json_is_object(capturing)) {
        const json_t *total = json_object_get(capturing, "total");
        snprintf(text, sizeof(text), "%s: reading the rows that are there%s%s", json_string_value(json_object_get(answer, "name")),
                 table != NULL ? ", now table " : "", table != NULL ? table : "");
        conn_progress(c, text, (uint64_t)json_integer_value(json_object_get(capturing, "done")),
                      json_is_integer(total) ? json_integer_value(total) : -1);
    } else {
        conn_progress(c, w->missing, 0, -1);
    }
    json_decref(answer);
}

static void progress(struct conn *c) {
    struct wait *w = c->task;
    struct peer_info peer;
    uint64_t lacking = 0;
    for (uint32_t i = 0; core_peer(c->node->core, i, &peer); i++)
        lacking += peer.member->state == MEMBER_ALIVE ? peer.we_lack + peer.they_lack : 0;
    if (lacking > 0) {
        w->lacking_most = lacking > w->lacking_most ? lacking : w->lacking_most;
        conn_progress(c, w->missing, w->lacking_most - lacking, (int64_t)w->lacking_most);
        return;
    }
    for (struct database *db = databases_first(c->node->databases); db != NULL && w->capture == 0; db = db->hh.next)
        if (db->state == DB_SERVED && !db->settled)
            w->capture = node_ask(c->node, db, QUESTION_STATUS, NULL, -1, capture_answered, c);
    if (w->capture == 0)
        conn_progress(c, w->missing, 0, -1);
}

static void wait_look(struct conn *c) {
    struct wait *w = c->task;
    uint64_t now = clock_mono_ms();
    bool equal = files_drained(c) && drained(c) && converged(c->node, w);
    if (!equal)
        w->files_done = false;
    if (!equal && w->files_asked == 0)
        w->files_next = 0;
    if (!equal)
        w->lost_ms = 0;
    if (equal && files_equal(c)) {
        conn_done(c, 0, json_pack("{s:b, s:I}", "converged", 1, "alive", (json_int_t)alive_count(c->node)), NULL);
        return;
    }
    if (now >= w->deadline_ms || (w->lost_ms != 0 && now - w->lost_ms >= LOST_MS)) {
        char why[450];
        snprintf(why, sizeof(why), "not converged: %s", w->missing);
        conn_done(c, 1, json_pack("{s:b, s:I, s:s}", "converged", 0, "alive", (json_int_t)alive_count(c->node), "missing", w->missing),
                  why);
        return;
    }
    if (now >= w->progress_ms) {
        w->progress_ms = now + PROGRESS_MS;
        progress(c);
    }
    conn_timer(c, POLL_MS, wait_look);
}

static bool target_add(struct wait *w, const char *name) {
    struct target *t = calloc(1, sizeof(*t));
    if (t == NULL || (t->name = strdup(name)) == NULL) {
        free(t);
        return false;
    }
    vv_init(&t->ours);
    t->next = w->targets;
    w->targets = t;
    return true;
}

void verb_wait(struct conn *c, const json_t *args) {
    const json_t *members = json_object_get(args, "members"), *timeout = json_object_get(args, "timeout_s");
    struct wait *w = calloc(1, sizeof(*w));
    bool ok = w != NULL;
    double timeout_s = json_is_number(timeout) ? json_number_value(timeout) : TIMEOUT_S;
    databases_scan(c->node->databases); /* a database that was made just before the call counts as well */
    for (struct database *db = databases_first(c->node->databases); ok && db != NULL; db = db->hh.next)
        ok = target_add(w, db->name);
    c->task = w;
    c->release = w != NULL ? wait_release : NULL;
    if (!ok) {
        conn_done(c, 1, NULL, "out of memory");
        return;
    }
    w->members = json_is_integer(members) && json_integer_value(members) > 0 ? (uint32_t)json_integer_value(members) : 1;
    w->deadline_ms = clock_mono_ms() + (timeout_s > 0 ? timeout_s < 1e9 ? (uint64_t)(timeout_s * 1000) : (uint64_t)1e12 : 0);
    w->progress_ms = clock_mono_ms() + PROGRESS_MS;
    snprintf(w->missing, sizeof(w->missing), "nothing was looked at yet");
    wait_look(c);
}
