/* Starling node: `adopt = match`, on the loop's side. A worker fetches what the cluster has before it looks at the application's rows (worker.c); the core
 * knows when nothing is missing. Where no member has the database there is nothing to wait for, but a member may say so late. */
#include "node/clock.h"
#include "node/node.h"

#define NOBODY_MS 5000

void adoption_look(struct node *n) {
    for (struct database *db = databases_app_first(n->databases); db != NULL; db = databases_app_next(db)) {
        if (!db->fetching || !db->in_core || db->worker == NULL)
            continue;
        bool somebody = false, complete = core_database_complete(n->core, db->name, &somebody);
        uint64_t now = clock_mono_ms();
        if (!complete || db->fetched_ms == 0)
            db->fetched_ms = complete ? now : 0;
        struct job *job = complete && (somebody || now - db->fetched_ms > NOBODY_MS) ? job_new(JOB_FETCHED) : NULL;
        if (job == NULL)
            continue;
        db->fetching = false;
        worker_post(db->worker, job);
    }
}
