#include "node/across.h"

#include <stdlib.h>
#include <string.h>

#include "node/store/store.h"

/* "table.column", where the name is "db/table.column" of this database; else NULL. */
static const char *key_in(const char *name, const char *db) {
    size_t len = strlen(db);
    return strncmp(name, db, len) == 0 && name[len] == '/' && strchr(name + len + 1, '/') == NULL ? name + len + 1 : NULL;
}

static void post(struct database *to, enum job_type type, const char *name, struct bytes *rows, uint64_t flags) {
    if (to->worker == NULL)
        return;
    struct job *job = job_new(type);
    if ((job->table = strdup(name)) == NULL) {
        job_free(job);
        return;
    }
    job->batch = rows == NULL ? NULL : bytes_ref(rows);
    job->number = flags;
    worker_post(to->worker, job);
}

static void remember(struct database *db, const char *name) {
    for (uint32_t i = 0; i < db->follows_count; i++)
        if (strcmp(db->follows[i], name) == 0)
            return;
    char **more = realloc(db->follows, (db->follows_count + 1) * sizeof(*more));
    if (more == NULL)
        return;
    db->follows = more;
    if ((more[db->follows_count] = strdup(name)) != NULL)
        db->follows_count++;
}

void across_follow(struct databases *d, struct database *db, const char *name) {
    bool any = false;
    if (name == NULL)
        return;
    remember(db, name);
    for (struct database *to = databases_app_first(d); to != NULL; to = databases_app_next(to)) {
        const char *key = key_in(name, to->name);
        if (key == NULL || to->worker == NULL)
            continue;
        post(to, JOB_FOLLOWED, key, NULL, 0);
        any = true;
    }
    if (!any) /* it may come */
        post(db, JOB_NUMBERS, name, NULL, NUMBERS_BEGIN | NUMBERS_END | NUMBERS_NONE);
}

void across_opened(struct databases *d, struct database *db) {
    for (struct database *from = databases_app_first(d); from != NULL; from = databases_app_next(from))
        for (uint32_t i = 0; i < from->follows_count; i++) {
            const char *key = key_in(from->follows[i], db->name);
            if (key != NULL)
                post(db, JOB_FOLLOWED, key, NULL, 0);
        }
}

void across_numbers(struct databases *d, const struct database *db, const struct message *m) {
    for (struct database *to = databases_app_first(d); to != NULL && m->text != NULL && m->batches_count > 0; to = databases_app_next(to))
        for (uint32_t i = 0; i < to->follows_count; i++) {
            const char *key = key_in(to->follows[i], db->name);
            if (key != NULL && strcmp(key, m->text) == 0)
                post(to, JOB_NUMBERS, to->follows[i], m->batches[0], m->number);
        }
}

void across_free(struct database *db) {
    for (uint32_t i = 0; i < db->follows_count; i++)
        free(db->follows[i]);
    free(db->follows);
}
