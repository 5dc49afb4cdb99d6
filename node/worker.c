#include "node/worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/memory.h"
#include "node/pace.h"
#include "node/store/notice.h"
#include "node/store/store.h"
#include "node/thread.h"
#include "proto/err.h"

#define RETRY_FIRST_MS 100
#define PASSING_FIRST_MS 5
#define RETRY_MAX_MS 10000
#define PASSING_MS 3000 /* a file that is locked, or a schema that changes under us, for a moment is no news */
#define LOOK_MS 500     /* how often a file that cannot be served is looked at */
#define TRIM_MS 1000    /* quiet for this long after work: memory goes back */
#define CHORES_MS 10000 /* a store that needs no turn for so long has tidied up */
#define MEND_WAIT_MS 500
#define FETCH_SETTLE_MS 10000
#define WHY_MAX 1024

/*            open ok                     turn failed, file replaced, new epoch
 *  CLOSED ─────────────▶ OPEN ─────────────────────────────────────────▶ CLOSED
 *    ▲  └─ open failed: wait (backoff, or the file changes) ─┘
 *  both ── worker_stop() ──▶ ENDED */
enum worker_state { WORKER_CLOSED, WORKER_OPEN, WORKER_ENDED };

struct worker {
    struct worker_config config;
    char *db, *app_path, *state_path;
    char *fetch_path; /* stands in for app_path while `fetching` */
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
    pthread_t thread;
    int wake_fd;

    pthread_mutex_t lock; /* guards what follows, up to the blank line */
    struct job *jobs;
    bool signaled, stopping, holds;
    dev_t dev;
    ino_t ino;

    /* the thread's own */
    enum worker_state state;
    struct store *store;
    struct notice *notice;
    bool chores;  /* the store asked for a turn soon, though nothing happens */
    bool trimmed; /* nothing was done since memory was given back */
    struct pace pace;
    uint64_t worked_ms;      /* when something was done last */
    uint32_t epoch_above;    /* epochs of a state that was set aside */
    bool fetching;           /* the cluster's rows come first: another file takes them, and the application's is not looked at */
    uint64_t fetched_ms;     /* they are all here since then; 0: not yet */
    bool watched, announced; /* announced: the loop was told OPENED and not CLOSED since */
    uint64_t retry_ms, retry_at, passing_since;
    char error[WHY_MAX]; /* what was said last, "" while it is served */
    struct stat look;    /* of the file when opening failed */
};

/* ---- loop side */

struct job *job_new(enum job_type type) {
    struct job *job = calloc(1, sizeof(*job));
    assert(job !=
           NULL); /* what is to be done, and what came of it (message_new), is waited for: without memory for so little the process ends,
                          * and begins where it was */
    job->type = type;
    return job;
}

void job_free(struct job *job) {
    if (job == NULL)
        return;
    bytes_unref(job->batch);
    free(job->table);
    json_decref(job->args);
    free(job);
}

void worker_post(struct worker *w, struct job *job) {
    pthread_mutex_lock(&w->lock);
    DL_APPEND(w->jobs, job);
    bool wake = !w->signaled;
    w->signaled = true;
    pthread_mutex_unlock(&w->lock);
    if (wake)
        eventfd_write(w->wake_fd, 1);
}

void worker_stop(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    w->signaled = true;
    pthread_mutex_unlock(&w->lock);
    eventfd_write(w->wake_fd, 1);
}

bool worker_holds(struct worker *w, dev_t dev, ino_t ino) {
    pthread_mutex_lock(&w->lock);
    bool holds = w->holds && w->dev == dev && w->ino == ino;
    pthread_mutex_unlock(&w->lock);
    return holds;
}

static void worker_free(struct worker *w) {
    struct job *job, *next;
    DL_FOREACH_SAFE(w->jobs, job, next) {
        DL_DELETE(w->jobs, job);
        job_free(job);
    }
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    pthread_mutex_destroy(&w->lock);
    free(w->db);
    free(w->app_path);
    free(w->fetch_path);
    free(w->state_path);
    free(w);
}

void worker_join(struct worker *w) {
    pthread_join(w->thread, NULL);
    worker_free(w);
}

static const char *file_of(const struct worker *w) { return w->fetching ? w->fetch_path : w->app_path; }

/* ---- thread side: messages */

static struct message *tell(struct worker *w, enum message_type type) { return message_new(type, w->config.database); }

static void on_batch(void *ctx, struct bytes *batch) {
    struct worker *w = ctx;
    if (!w->announced)
        return; /* it is in the log: peers pull it */
    struct message *m = tell(w, MESSAGE_BATCH);
    if ((m->batches = malloc(sizeof(*m->batches))) == NULL) {
        message_free(m);
        return;
    }
    m->batches[0] = bytes_ref(batch);
    m->batches_count = 1;
    inbox_put(w->config.inbox, m);
}

static void state_copy(struct db_state *to, const struct db_state *from) {
    int r = vv_copy(&to->have, &from->have);
    assert(r == 0); /* as message_new() */
    to->base = from->base;
    memcpy(to->digest, from->digest, sizeof(to->digest));
    to->settled = from->settled;
    to->clock = from->clock;
}

static void on_stored(void *ctx, const struct db_state *state) {
    struct worker *w = ctx;
    if (!w->announced)
        return;
    struct message *m = tell(w, MESSAGE_STORED);
    state_copy(&m->state, state);
    m->state.settled = state->settled && !w->fetching; /* the application does not see it yet */
    inbox_put_latest(w->config.inbox, m);
}

static void on_bad(void *ctx, const struct origin *o, uint64_t version, const char *why) {
    struct worker *w = ctx;
    struct message *m = tell(w, MESSAGE_BAD);
    m->origin = *o;
    m->version = version;
    m->text = strdup(why);
    inbox_put(w->config.inbox, m);
}

static void on_forged(void *ctx, const struct origin *o, uint64_t version) {
    struct worker *w = ctx;
    struct message *m = tell(w, MESSAGE_FORGED);
    m->origin = *o;
    m->version = version;
    inbox_put(w->config.inbox, m);
}

static void on_change(void *ctx, json_t *change) {
    struct worker *w = ctx;
    struct message *m = tell(w, MESSAGE_CHANGE);
    m->json = change;
    inbox_put(w->config.inbox, m);
}

static void on_log(void *ctx, int level, const char *text) {
    struct worker *w = ctx;
    struct message *m = tell(w, MESSAGE_LOG);
    m->level = level;
    m->text = strdup(text);
    inbox_put(w->config.inbox, m);
}

static void on_follow(void *ctx, const char *name) {
    struct worker *w = ctx;
    struct message *m = tell(w, MESSAGE_FOLLOW);
    m->text = strdup(name);
    inbox_put(w->config.inbox, m);
}

static bool on_numbers(void *ctx, const char *key, struct bytes *rows, unsigned flags) {
    struct worker *w = ctx;
    struct message *m = tell(w, MESSAGE_NUMBERS);
    if (m == NULL || (m->text = strdup(key)) == NULL || (m->batches = malloc(sizeof(*m->batches))) == NULL) {
        message_free(m);
        return false;
    }
    m->number = flags;
    m->batches[0] = bytes_ref(rows);
    m->batches_count = 1;
    inbox_put(w->config.inbox, m);
    return true;
}

static void answer(struct worker *w, uint64_t number, json_t *json) {
    struct message *m = tell(w, MESSAGE_ANSWER);
    m->number = number;
    m->json = json;
    inbox_put(w->config.inbox, m);
}

/* ---- thread side: opening and closing */

static void held(struct worker *w, bool holds, dev_t dev, ino_t ino) {
    pthread_mutex_lock(&w->lock);
    w->holds = holds;
    w->dev = dev;
    w->ino = ino;
    pthread_mutex_unlock(&w->lock);
    held_set(w->config.held, w, holds, dev, ino);
}

static void on_file(void *ctx, uint64_t dev, uint64_t ino) { held(ctx, true, (dev_t)dev, (ino_t)ino); }

/* Closes what is open and says why; "" says nothing (a reopening that nobody needs to hear of). */
static void close_store(struct worker *w, const char *why) {
    notice_close(w->notice);
    w->notice = NULL;
    if (w->store != NULL)
        store_close(w->store);
    w->store = NULL;
    held(w, false, 0, 0);
    w->state = WORKER_CLOSED;
    if (w->announced || strcmp(w->error, why) != 0) {
        struct message *m = tell(w, MESSAGE_CLOSED);
        if ((m->text = strdup(why)) != NULL) {
            w->announced = false;
            inbox_put(w->config.inbox, m);
        } else {
            message_free(m);
        }
    }
    if (why != w->error)
        snprintf(w->error, sizeof(w->error), "%s", why);
}

static void fail(struct worker *w, const char *why) {
    close_store(w, why);
    uint64_t first = w->passing_since != 0 ? PASSING_FIRST_MS : RETRY_FIRST_MS;
    w->retry_ms = w->retry_ms == 0 ? first : w->retry_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : w->retry_ms * 2;
    if (w->passing_since != 0 && w->retry_ms > LOOK_MS)
        w->retry_ms = LOOK_MS;
    w->retry_at = clock_mono_ms() + w->retry_ms;
    if (stat(file_of(w), &w->look) != 0)
        memset(&w->look, 0, sizeof(w->look));
}

/* As fail(), but what usually passes by itself is said only when it lasts. */
static void fail_passing(struct worker *w, int error, const char *why) {
    uint64_t now = clock_mono_ms();
    bool passing = error == ERR_BUSY || error == ERR_SCHEMA;
    w->passing_since = !passing ? 0 : w->passing_since != 0 ? w->passing_since : now;
    if (passing && now - w->passing_since < PASSING_MS)
        fail(w, w->error); /* "", or what was said before */
    else
        fail(w, why[0] != 0 ? why : err_text(error));
}

static void announce(struct worker *w) {
    struct message *m = tell(w, MESSAGE_OPENED);
    struct db_state state;
    store_state(w->store, &state);
    state_copy(&m->state, &state);
    m->fetching = w->fetching;
    m->state.settled = m->state.settled && !w->fetching;
    inbox_put(w->config.inbox, m);
    w->announced = true;
    w->state = WORKER_OPEN;
    w->error[0] = 0;
    if (w->watched)
        store_watch(w->store, true);
}

/* What becomes possible while the store works: watching the file, once there is one (a database that is fetched is created by its first
 * batch), and telling the core, once a first capture is complete. */
static void look_after(struct worker *w) {
    char why[WHY_MAX] = "";
    struct appfile *app = store_appfile(w->store);
    if (app != NULL && w->notice == NULL) {
        const char *limits = NULL;
        on_file(w, app->dev, app->ino);                     /* another one may have come between the look and the opening */
        w->config.create = w->config.create && w->fetching; /* from now on a missing file is one that somebody took away */
        int r = notice_open(&w->notice, app, w->wake_fd, &limits);
        if (r != 0) {
            w->notice = NULL;
            snprintf(why, sizeof(why), "%s: cannot watch the file: %s", w->db, err_text(r));
            fail(w, why);
            return;
        }
        if (limits != NULL)
            on_log(w, 1, limits);
    }
    if (!w->announced && store_ready(w->store))
        announce(w);
    w->state = WORKER_OPEN; /* what was said before stays until it is announced: the same again is not said twice */
}

static void open_store(struct worker *w) {
    char why[WHY_MAX] = "";
    struct stat st;
    bool there = stat(file_of(w), &st) == 0, create = w->config.create || w->fetching;
    if (!there && errno == ENOENT && !create) {
        snprintf(why, sizeof(why), "%s: the file is gone: put it back, or restart starlingd to fetch it from the other servers", w->db);
        fail(w, why);
        return;
    }
    struct store_config config = {
        .app_path = file_of(w),
        .state_path = w->state_path,
        .db = w->db,
        .create = create && (!there || st.st_size == 0),
        .excluded = w->config.excluded,
        .policies = w->config.policies,
        .policies_count = w->config.policies_count,
        .refused_ms = w->passing_since != 0 ? (int64_t)(clock_mono_ms() - w->passing_since) : 0,
        .follow = w->config.follow,
        .mend_wait_ms = MEND_WAIT_MS,
        .epoch_above = w->epoch_above,
        .ctx = w,
        .on_file = on_file,
        .on_batch = on_batch,
        .on_stored = on_stored,
        .on_bad = on_bad,
        .on_forged = on_forged,
        .on_change = on_change,
        .on_follow = on_follow,
        .on_numbers = on_numbers,
        .on_log = on_log,
    };
    memcpy(config.key, w->key, sizeof(config.key));
    memcpy(config.secret, w->secret, sizeof(config.secret));
    int r = store_open(&w->store, &config, why, sizeof(why));
    if (r != 0) {
        w->store = NULL;
        fail_passing(w, r, why);
        return;
    }
    if (w->fetching && (r = store_fresh_epoch(w->store)) != 0) {
        fail(w, err_text(r));
        return;
    }
    look_after(w);
}

/* ---- thread side: memory */

static void worked(struct worker *w) {
    w->worked_ms = clock_mono_ms();
    w->trimmed = false;
}

/* How long to wait at most, given that the store needs no turn within `wait` ms (-1: none at all): until memory goes back. Gives it back when it is
 * time. */
static int wait_trimmed(struct worker *w, int wait) {
    if (w->trimmed)
        return wait;
    uint64_t quiet = clock_mono_ms() - w->worked_ms;
    if (quiet < TRIM_MS)
        return wait >= 0 && (uint64_t)wait < TRIM_MS - quiet ? wait : (int)(TRIM_MS - quiet);
    w->trimmed = true;
    store_release_memory(w->store);
    memory_give_back();
    return wait;
}

/* ---- thread side: jobs */

static json_t *status_closed(const struct worker *w) {
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:{}, s:s, s:i}", "name", w->db, "state", "error", "error", w->error,
                     "tables", 0, "rows", 0, "pending", 0, "waiting", 0, "parked", 0, "version", "digest", "", "conflicts", 0);
}

/* Without an answer when it fails: the store is opened anew, and who asked asks again. */
static json_t *resolve(struct worker *w, const json_t *args) {
    char why[WHY_MAX];
    json_t *answer = NULL;
    int r = store_resolve(w->store, json_string_value(json_object_get(args, "id")), json_object_get(args, "how"), &answer);
    if (r != 0) {
        snprintf(why, sizeof(why), "%s: a conflict could not be decided: %s", w->db, err_text(r));
        fail(w, why);
    }
    return answer;
}

static json_t *why_of(struct worker *w, const json_t *args) {
    return store_why(w->store, json_string_value(json_object_get(args, "table")), json_object_get(args, "key"),
                     json_string_value(json_object_get(args, "column")));
}

static json_t *status_open(struct worker *w) {
    json_t *status = store_status(w->store);
    if (w->fetching)
        json_object_set_new(status, "state", json_string("adopting"));
    return status;
}

static json_t *ask_store(struct worker *w, const struct job *job) {
    switch (job->question) {
    case QUESTION_STATUS: return w->store != NULL ? status_open(w) : w->error[0] != 0 ? status_closed(w) : NULL;
    case QUESTION_TABLES: return w->store == NULL ? NULL : store_tables(w->store);
    case QUESTION_DOCTOR: return w->store == NULL ? NULL : store_doctor(w->store);
    case QUESTION_BARRIER: return json_boolean(w->store != NULL && !w->fetching && store_barrier(w->store) == 1);
    case QUESTION_ACCEPT:
    case QUESTION_RESTORE: return w->store == NULL ? NULL : store_decide(w->store, job->table, job->question == QUESTION_ACCEPT);
    case QUESTION_VERIFY: return w->store == NULL || w->fetching ? NULL : store_verify(w->store, job->table, job->bucket);
    case QUESTION_CONFLICTS: return w->store == NULL ? NULL : store_conflicts(w->store);
    case QUESTION_RESOLVE: return w->store == NULL ? NULL : resolve(w, job->args);
    case QUESTION_SURVEY: return w->store == NULL || w->fetching ? NULL : store_survey(w->store, job->args);
    case QUESTION_WHY: return w->store == NULL ? NULL : why_of(w, job->args);
    }
    return NULL;
}

static void read_log(struct worker *w, const struct job *job) {
    struct message *m = tell(w, MESSAGE_READ);
    m->number = job->number;
    if (w->store != NULL && store_read(w->store, &job->origin, job->from, job->to, job->bytes_max, &m->batches, &m->batches_count) != 0) {
        m->batches = NULL; /* none: the core asks again, or another peer */
        m->batches_count = 0;
    }
    inbox_put(w->config.inbox, m);
}

/* What `status` and `wait` ask again and again needs memory too, but does not put off that it goes back. */
static bool is_work(const struct job *job) {
    return job->type != JOB_QUESTION || (job->question != QUESTION_STATUS && job->question != QUESTION_BARRIER);
}

/* ---- thread side: adopt = match */

static void fetch_forget(const struct worker *w) {
    static const char *const PARTS[] = {"-wal", "-shm", "-journal",
                                        ""}; /* the file itself last: until then it is fetched on after a crash */
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof(PARTS) / sizeof(*PARTS); i++)
        if (snprintf(path, sizeof(path), "%s%s", w->fetch_path, PARTS[i]) < (int)sizeof(path))
            unlink(path);
}

/* A file with our notes and no state of ours: a copy of another server's, or what is left of a state. */
static bool fetch_wanted(const struct worker *w) {
    struct stat st;
    return stat(w->fetch_path, &st) == 0 ||
           (w->config.match && w->config.joins && stat(w->state_path, &st) != 0 && store_has_traces(w->app_path));
}

static void fetch_begin(struct worker *w) {
    int fd = open(w->fetch_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* so that it goes on after a restart */
    if (fd >= 0)
        close(fd);
    w->fetching = true;
    w->fetched_ms = 0;
    on_log(w, 1,
           "adopt = match: what the cluster has is fetched first, then the rows here are compared with it; writes are taken from then on");
}

/* All is here; it is waited for a while until all of it is also shown. */
static void fetch_end(struct worker *w) {
    struct db_state state;
    store_state(w->store, &state);
    if (!state.settled && clock_mono_ms() - w->fetched_ms < FETCH_SETTLE_MS)
        return;
    close_store(w, "");
    fetch_forget(w);
    w->fetching = false;
    open_store(w);
}

static void take_up_anew(struct worker *w) {
    char why[WHY_MAX];
    if (w->store == NULL)
        return;
    w->epoch_above = store_epoch(w->store);
    store_settle_afar(w->store);
    close_store(w, "");
    if (store_set_aside(w->state_path, w->app_path) != 0) {
        snprintf(why, sizeof(why), "%s: %s cannot be renamed: %s: the rows here cannot join those of the other servers", w->db,
                 w->state_path, strerror(errno));
        fail(w, why);
        return;
    }
    if (w->config.match)
        fetch_begin(w);
    snprintf(why, sizeof(why),
             "%s: its rows are taken up anew, below those of the cluster; what was known of them is kept as %s.before-join", w->db,
             w->state_path);
    on_log(w, 2, why);
    open_store(w);
}

static void meet(struct worker *w, const struct job *job) {
    char why[WHY_MAX];
    bool restamped = false;
    int r = w->store == NULL ? 0 : store_meet(w->store, job->offset_ms, &restamped);
    if (r != 0) {
        snprintf(why, sizeof(why), "%s: what nobody has seen yet could not be stamped by the cluster's time: %s", w->db, err_text(r));
        fail(w, why);
    } else if (restamped) { /* what it holds in memory has the old stamps; who is linked is met again then */
        close_store(w, "");
        open_store(w);
    } else if (w->store != NULL) {
        struct message *m = tell(w, MESSAGE_MET);
        m->number = job->number;
        inbox_put(w->config.inbox, m);
    }
}

static void run_job(struct worker *w, struct job *job) {
    char why[WHY_MAX];
    int r;
    if (is_work(job) || w->trimmed)
        worked(w);
    switch (job->type) {
    case JOB_DELIVER:
        if (w->store != NULL) /* closed: the core delivers again after OPENED */
            store_deliver(w->store, job->batch);
        break;
    case JOB_READ: read_log(w, job); break;
    case JOB_EPOCH:
        if (w->store == NULL)
            break;
        r = store_new_epoch(w->store, job->origin.epoch);
        if (r != 0) {
            snprintf(why, sizeof(why), "%s: a new epoch could not be started: %s", w->db, err_text(r));
            fail(w, why);
            break;
        }
        struct message *m = tell(w, MESSAGE_CLOSED);
        if ((m->text = strdup("")) != NULL)
            inbox_put(w->config.inbox, m);
        else
            message_free(m);
        w->announced = false;
        look_after(w);
        break;
    case JOB_YIELD: take_up_anew(w); break;
    case JOB_FETCHED:
        if (w->fetching && w->fetched_ms == 0)
            w->fetched_ms = clock_mono_ms();
        break;
    case JOB_MEET: meet(w, job); break;
    case JOB_ALONE:
        if (w->store != NULL && (r = store_alone(w->store, &job->origin, job->from)) != 0)
            fail(w, err_text(r));
        break;
    case JOB_SHARED:
        if (w->store != NULL)
            store_shared(w->store);
        break;
    case JOB_WATCH:
        w->watched = job->on;
        if (w->store != NULL)
            store_watch(w->store, job->on);
        break;
    case JOB_FOLLOW:
        w->config.follow = job->on;
        if (w->store != NULL)
            store_follow(w->store, job->on);
        break;
    case JOB_FOLLOWED:
        if (w->store != NULL)
            store_followed(w->store, job->table);
        break;
    case JOB_NUMBERS:
        if (w->store != NULL)
            store_numbers(w->store, job->table, job->batch, (unsigned)job->number);
        break;
    case JOB_QUESTION: answer(w, job->number, ask_store(w, job)); break;
    }
}

/* Runs what is queued. False: stop. */
static bool run_jobs(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    struct job *jobs = w->jobs;
    w->jobs = NULL;
    if (w->signaled) {
        eventfd_t count;
        eventfd_read(w->wake_fd, &count);
        w->signaled = false;
    }
    bool go_on = !w->stopping;
    pthread_mutex_unlock(&w->lock);

    struct job *job, *next;
    DL_FOREACH_SAFE(jobs, job, next) {
        DL_DELETE(jobs, job);
        run_job(w, job);
        job_free(job);
    }
    return go_on;
}

static bool queued(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    bool any = w->signaled;
    pthread_mutex_unlock(&w->lock);
    return any;
}

/* ---- thread side: life */

/* A commit was seen: waits until it is time for it, or a job comes. */
static void wait_paced(struct worker *w) {
    int64_t us = pace_wait_us(&w->pace, clock_mono_us());
    struct pollfd wake = {.fd = w->wake_fd, .events = POLLIN};
    struct timespec left = {.tv_nsec = us * 1000};
    if (us > 0)
        ppoll(&wake, 1, &left, NULL);
    pace_drain(&w->pace, clock_mono_us());
}

static void turn(struct worker *w) {
    char why[WHY_MAX] = "";
    int wait = store_turn(w->store, why, sizeof(why));
    if (wait < -1) {
        fail_passing(w, wait, why);
        return;
    }
    w->passing_since = 0;
    if (w->announced)
        w->retry_ms = 0; /* it works: the next failure starts from the shortest wait */
    if (!w->announced || w->notice == NULL)
        look_after(w);
    if (w->fetching && w->fetched_ms != 0 && w->store != NULL)
        fetch_end(w);
    if (w->store == NULL)
        return;
    bool idle = wait < 0 || wait >= CHORES_MS;
    if (wait == 0 || (idle && w->chores)) /* tidying up is over: it needed memory as well */
        worked(w);
    w->chores = wait > 0 && wait < CHORES_MS;
    if (wait == 0 || queued(w))
        return;
    wait = wait_trimmed(w, wait);
    if (w->notice == NULL) {
        struct pollfd wake = {.fd = w->wake_fd, .events = POLLIN};
        poll(&wake, 1, wait);
        return;
    }
    unsigned seen = notice_wait(w->notice, wait);
    if ((seen & NOTICE_COMMIT) != 0) {
        worked(w);
        wait_paced(w);
    }
    if ((seen & NOTICE_FILE) != 0 && !appfile_same(store_appfile(w->store))) {
        close_store(w, "");
        open_store(w);
    }
}

static bool file_changed(const struct worker *w) {
    struct stat st;
    if (stat(file_of(w), &st) != 0)
        memset(&st, 0, sizeof(st));
    return st.st_ino != w->look.st_ino || st.st_size != w->look.st_size || st.st_mode != w->look.st_mode || st.st_uid != w->look.st_uid ||
           st.st_mtim.tv_sec != w->look.st_mtim.tv_sec || st.st_mtim.tv_nsec != w->look.st_mtim.tv_nsec;
}

static void wait_closed(struct worker *w) {
    for (;;) {
        uint64_t now = clock_mono_ms();
        if (now >= w->retry_at || file_changed(w))
            return;
        uint64_t left = w->retry_at - now;
        struct pollfd wake = {.fd = w->wake_fd, .events = POLLIN};
        if (poll(&wake, 1, (int)(left < LOOK_MS ? left : LOOK_MS)) > 0 && !run_jobs(w))
            return;
    }
}

static bool stopping(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    bool now = w->stopping;
    pthread_mutex_unlock(&w->lock);
    return now;
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    if (fetch_wanted(w))
        fetch_begin(w);
    while (!stopping(w)) {
        switch (w->state) {
        case WORKER_CLOSED:
            if (w->retry_at != 0)
                wait_closed(w);
            if (!stopping(w))
                open_store(w);
            break;
        case WORKER_OPEN:
            if (run_jobs(w) && w->state == WORKER_OPEN)
                turn(w);
            break;
        case WORKER_ENDED: assert(false);
        }
    }
    notice_close(w->notice);
    w->notice = NULL;
    if (w->store != NULL)
        store_close(w->store);
    w->store = NULL;
    w->state = WORKER_ENDED;
    inbox_put(w->config.inbox, tell(w, MESSAGE_ENDED));
    return NULL;
}

int worker_start(struct worker **out, const struct worker_config *config) {
    struct worker *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return ERR_NOMEM;
    w->config = *config;
    w->db = strdup(config->db);
    w->app_path = strdup(config->app_path);
    w->state_path = strdup(config->state_path);
    if (asprintf(&w->fetch_path, "%s.fetch", config->state_path) < 0)
        w->fetch_path = NULL;
    memcpy(w->key, config->key, sizeof(w->key));
    memcpy(w->secret, config->secret, sizeof(w->secret));
    pthread_mutex_init(&w->lock, NULL);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->db == NULL || w->app_path == NULL || w->state_path == NULL || w->fetch_path == NULL || w->wake_fd < 0) {
        worker_free(w);
        return ERR_NOMEM;
    }
    if (thread_start(&w->thread, worker_main, w) != 0) {
        worker_free(w);
        return ERR_IO;
    }
    *out = w;
    return 0;
}
