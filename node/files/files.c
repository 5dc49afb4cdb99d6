/* The happy path for files is:
 *   files_open: the index is made and served, the thread starts -> files_opened -> a walk over the folder -> items come and go ... files_stop ->
 *   content_close -> the thread's loop ends -> ENDED -> files_close -> files_free.
 * Possible failure modes are:
 *   - the index, or another part, cannot be opened: the section `files` of the status says why, and it is tried again; the databases are replicated
 *     as ever;
 *   - the index cannot be written: the same, and what was found and put since is found again;
 *   - the thread does not end in time: node.c ends without it. */
#include "node/files/files.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "node/clock.h"
#include "node/databases.h"
#include "node/dbname.h"
#include "node/files/engine.h"
#include "node/memory.h"
#include "node/node.h"
#include "node/thread.h"
#include "proto/err.h"

#define FEW_ITEMS 256 /* counted whenever something changed; of more of them is told: */
#define TELL_MS 100
#define LOOK_MS 2000 /* for what nobody has */
#define TIDY_MS 10000
#define REOPEN_FIRST_MS 100
#define REOPEN_MAX_MS 2000
#define UNWRITTEN_MS 1000
#define CHANGED_MAX 65536 /* paths, and items, for what others changed: beyond, a walk finds it, some at a time */
#define FORGOT_MS 10000   /* files are read again at most so often */

/* Words between the two threads. */
enum word_type {
    WORD_OPENED,
    WORD_CHANGED,
    WORD_MET,
    WORD_JOIN,
    WORD_ASK,
    WORD_SETTINGS,
    WORD_STOP,
    WORD_PREPARED,
    WORD_SAY,
    WORD_ANSWER,
    WORD_ENDED
};

/* What the configuration says of files, on its way to the thread. */
struct settings {
    struct files_policy policy;
    uint64_t still_ms, bandwidth_kib;
};

struct word {
    enum word_type type;
    bool more; /* than it says */
    uint64_t number;
    int level;
    char *text;
    size_t len;
    json_t *json;
    struct settings *settings;
    struct word *prev, *next;
};

struct files {
    struct node *node;
    struct database *db;
    pthread_t thread;
    bool running, met, unserved; /* unserved: files.db is there, and there was no memory to open it */
    bool fresh, prepared;        /* files.db: whether what is there goes first; whether it is there. The thread's own while it runs */
    char path[4096];             /* of files.db */
    json_t *changed;             /* paths of the index, until they can be seen there */
    bool more;                   /* than those */
    uv_async_t out;              /* on the node's loop */
    struct engine e;
    uv_async_t in; /* on the thread's loop */

    pthread_mutex_t lock; /* guards what follows */
    struct word *to_thread, *to_loop;
    bool open_in, unheard; /* unheard: words for the loop that it was not woken for */
    struct files_summary summary;
};

/* ---- words */

static void settings_free(struct settings *s) {
    if (s != NULL)
        config_files_release(&s->policy);
    free(s);
}

static void word_free(struct word *w) {
    json_decref(w->json);
    settings_free(w->settings);
    free(w->text);
    free(w);
}

static struct word *word_new(enum word_type type) {
    struct word *w = calloc(1, sizeof(*w));
    if (w != NULL)
        w->type = type;
    return w;
}

static void tell_thread(struct files *f, struct word *w) {
    if (w == NULL)
        return;
    pthread_mutex_lock(&f->lock);
    bool open = f->open_in;
    if (open)
        DL_APPEND(f->to_thread, w);
    if (open)
        uv_async_send(&f->in);
    pthread_mutex_unlock(&f->lock);
    if (!open)
        word_free(w);
}

static void tell_loop(struct files *f, struct word *w) {
    if (w == NULL)
        return;
    pthread_mutex_lock(&f->lock);
    DL_APPEND(f->to_loop, w);
    bool wake = w->type != WORD_SAY || w->level != LOG_DEBUG; /* one a file: they go before the thread waits */
    f->unheard = !wake;
    if (wake)
        uv_async_send(&f->out);
    pthread_mutex_unlock(&f->lock);
}

static void wake_loop(struct files *f) {
    pthread_mutex_lock(&f->lock);
    if (f->unheard)
        uv_async_send(&f->out);
    f->unheard = false;
    pthread_mutex_unlock(&f->lock);
}

static struct word *words_take(struct files *f, struct word **list) {
    pthread_mutex_lock(&f->lock);
    struct word *all = *list;
    *list = NULL;
    pthread_mutex_unlock(&f->lock);
    return all;
}

void engine_say(struct engine *e, enum log_level level, const char *format, ...) {
    struct word *w = word_new(WORD_SAY);
    va_list args;
    if (w == NULL)
        return;
    w->level = (int)level;
    va_start(args, format);
    if (vasprintf(&w->text, format, args) < 0)
        w->text = NULL;
    va_end(args);
    tell_loop(e->files, w);
}

void engine_answer(struct engine *e, uint64_t number, json_t *answer) {
    struct word *w = word_new(WORD_ANSWER);
    if (w == NULL) {
        json_decref(answer);
        return;
    }
    w->number = number;
    w->json = answer;
    tell_loop(e->files, w);
}

void engine_unread(struct engine *e, const char *path, const char *why) {
    char text[sizeof(e->unread)];
    snprintf(text, sizeof(text), "%.150s is not replicated: %.100s", path, why);
    if (strcmp(text, e->unread) != 0 && strcmp(text, e->unread_new) != 0)
        engine_say(e, LOG_DEBUG, "%s", text); /* red in the status until it can be: that is enough */
    snprintf(e->unread_new, sizeof(e->unread_new), "%s", text);
    if (e->unread[0] == 0)
        snprintf(e->unread, sizeof(e->unread), "%s", e->unread_new);
    e->summary_due = true;
}

void engine_read(struct engine *e, const char *path) {
    char text[sizeof(e->unread)];
    int n = snprintf(text, sizeof(text), "%.150s is not replicated: ", path);
    if (strncmp(e->unread_new, text, (size_t)n) == 0)
        e->unread_new[0] = 0;
    if (strncmp(e->unread, text, (size_t)n) != 0)
        return;
    snprintf(e->unread, sizeof(e->unread), "%s", e->unread_new);
    e->summary_due = true;
}

void engine_trouble(struct engine *e, uint64_t item, const char *text) {
    if (strcmp(e->error, text) == 0 || (text[0] == 0 && e->error_item != item)) /* who is still in trouble says so again */
        return;
    snprintf(e->error, sizeof(e->error), "%s", text);
    e->error_item = item;
    if (text[0] != 0)
        engine_say(e, LOG_ERROR, "%s", text);
    e->summary_due = true;
}

bool engine_takes(struct engine *e, const char *path, bool folder) { return rules_take(&e->rules, path, folder, NULL); }

bool engine_wants(struct engine *e, const char *path, const struct version *v) {
    if (!beneath_path_ok(path, strlen(path)) || root_itself(path) || !engine_takes(e, path, v->kind == VERSION_FOLDER))
        return false;
    if (v->kind == VERSION_LINK)
        return root_link_inside(e, path, v->target);
    return v->kind != VERSION_FILE || e->policy.max_mb == 0 || v->size <= e->policy.max_mb << 20;
}

const char *engine_error(const struct engine *e) {
    const char *const errors[] = {e->unwritten, e->error, e->roots_error, e->lost, e->unread};
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
        if (errors[i][0] != 0)
            return errors[i];
    return index_any_halted(e->ix) ? "a folder vanished whole: its files are left alone: see `starling files status`" : "";
}

/* ---- before the loop waits: one commit, and what there is to say */

static void summarize(struct engine *e) {
    struct files_summary s = {0};
    const struct index_sums *sums = index_sums(e->ix);
    struct item *it, *next;
    HASH_ITER(hh, e->items, it, next) s.pending += !it->restless || it->show;
    s.pending += !e->looked || e->walk_needed > e->walked;
    s.count = sums->files;
    s.bytes = sums->bytes;
    s.conflicts = e->conflicts;
    s.looked = e->looked;
    s.namesakes = namesakes(e);
    s.blind = watch_blind(e);
    snprintf(s.digest, sizeof(s.digest), "%016" PRIx64 "%016" PRIx64, sums->digest[0], sums->digest[1]);
    snprintf(s.error, sizeof(s.error), "%s", engine_error(e));
    pthread_mutex_lock(&e->files->lock);
    e->files->summary = s;
    pthread_mutex_unlock(&e->files->lock);
}

/* Both count items. */
static void tell(struct engine *e) {
    if (e->barriers != NULL)
        ask_barriers(e);
    if (e->summary_due)
        summarize(e);
    e->summary_due = false;
}

static void telling_cb(uv_timer_t *timer) { tell(timer->data); }

static void met_note(struct engine *e) { e->met_noted = e->opened && index_meta_put(e->ix, "met", 1) == 0; }

void engine_written(struct engine *e, int error) {
    /* What was deleted, as events told, is only missing now. That is no reason to believe it of a folder which vanished whole. */
    bool trusting = e->judged_noted && !e->halting && !watch_blind(e);
    if (error == 0 && e->unwritten[0] != 0)
        engine_say(e, LOG_INFO, "the index of the files can be written again");
    if (error == 0) {
        e->unwritten[0] = 0;
        e->judged_noted = e->judged;
        e->halting = false;
        return;
    }
    if (e->unwritten[0] == 0)
        engine_say(e, LOG_ERROR, "the index of the files cannot be written: %s: it is tried again by itself", err_text(error));
    snprintf(e->unwritten, sizeof(e->unwritten), "the index of the files cannot be written: %s", err_text(error));
    e->recovered = e->met_noted = false;
    e->judged = e->judged_noted;
    e->held_until = clock_mono_ms() + UNWRITTEN_MS;
    walk_need(e, trusting);
    items_arm(e);
    walk_arm(e, 0);
}

/* After the timers as after what was heard: what either of them changed is not left open while the loop waits. */
static void prepare_cb(uv_prepare_t *prepare) {
    struct engine *e = prepare->data;
    root_forget(e);
    if (index_begun(e->ix)) {
        engine_written(e, index_commit(e->ix));
        e->summary_due = true;
    }
    if (HASH_COUNT(e->items) <= FEW_ITEMS)
        tell(e);
    else if ((e->summary_due || e->barriers != NULL) && !uv_is_active((uv_handle_t *)&e->telling))
        uv_timer_start(&e->telling, telling_cb, TELL_MS, 0);
    wake_loop(e->files);
}

/* What was needed for many files is given back once nothing came and went since the last look. */
static void rest(struct engine *e) {
    struct content_totals t = {0};
    content_totals(e->content, &t);
    uint64_t done = t.sent + t.received + e->noted_last;
    if (done == e->rested) /* already */
        return;
    if (done == e->done) {
        e->rested = done;
        index_tidy(e->ix);
        content_rest(e->content);
        memory_give_back();
    }
    e->done = done;
}

static void daily_cb(uv_timer_t *timer) {
    struct engine *e = timer->data;
    uint64_t now = uv_now(&e->loop);
    if (e->rank == RANK_MEANT && !e->met_noted)
        met_note(e);
    if (e->forgot && now - e->forgot_ms >= FORGOT_MS) {
        e->forgot = false;
        e->forgot_ms = now;
        e->thorough = true;
        walk_all(e, false);
    }
    place_lost_look(e);
    rest(e);
    if (now - e->tidied_ms < TIDY_MS)
        return;
    e->tidied_ms = now;
    index_tidy(e->ix);
}

/* ---- the thread */

static void content_closed(void *ctx) {
    struct engine *e = ctx;
    e->content = NULL;
    uv_stop(&e->loop);
}

static void engine_stop(struct engine *e) {
    if (e->stopping)
        return;
    e->stopping = true;
    uv_timer_stop(&e->tick);
    uv_timer_stop(&e->walking);
    hooks_stop(e);
    if (e->content != NULL)
        content_close(e->content, content_closed);
    else
        uv_stop(&e->loop);
}

static void settings_take(struct engine *e, struct settings *fresh) {
    struct files_policy before = e->policy;
    e->policy = fresh->policy;
    fresh->policy = before; /* goes with the word */
    e->rules.exclude = (const char *const *)e->policy.exclude;
    e->rules.include = (const char *const *)e->policy.include;
    e->still_ms = fresh->still_ms;
    e->bandwidth_kib = fresh->bandwidth_kib;
}

struct joining {
    struct engine *e;
    int error;
};

static void join_one(void *ctx, const char *path) {
    struct joining *j = ctx;
    struct engine *e = j->e;
    struct version v;
    struct disk d;
    int mode;
    if (index_get(e->ix, path, &v, &mode) != 1 || v.rank != RANK_FIRST || memcmp(v.by, e->id, sizeof(e->id)) != 0)
        return;
    bool here = index_disk(e->ix, path, &d) == 1 && version_equal(&d.version, &v);
    v.rank = d.version.rank = RANK_BEFORE_JOINING;
    int r = index_put(e->ix, path, &v, mode);
    if (r == 0 && here)
        r = index_disk_put(e->ix, path, &d);
    j->error = j->error != 0 ? j->error : r;
}

/* Who joins others, and has met nobody yet, made its first versions without what they have. */
static void join(struct engine *e) {
    if (e->rank != RANK_FIRST)
        return;
    e->rank = e->rank_begun = RANK_BEFORE_JOINING;
    struct joining j = {.e = e};
    char *after = e->opened ? strdup("") : NULL;
    while (after != NULL && index_paths(e->ix, &after, join_one, &j) > 0)
        ;
    free(after);
    if (j.error != 0)
        engine_say(e, LOG_WARNING, "files that were here before joining may count for more than those of the others: %s",
                   err_text(j.error));
}

static void hear(struct engine *e, struct word *w) {
    char bytes[BENEATH_PATH_MAX + 1];
    json_t *answer, *path;
    size_t i;
    switch (w->type) {
    case WORD_OPENED:
        if (e->served)
            break;
        e->served = true;
        engine_begin(e);
        break;
    case WORD_CHANGED:
        if (!e->opened)
            break; /* the first walk finds it */
        json_array_foreach(w->json, i, path) {
            w->more = w->more || HASH_COUNT(e->items) >= CHANGED_MAX;
            if (!w->more && ask_path(path, bytes)) /* rows of the index may say anything */
                item_show(e, bytes, 0);
        }
        if (w->more)
            walk_need(e, false);
        if (w->json == NULL)
            e->conflicts = index_conflicts_count(e->ix), e->summary_due = true;
        break;
    case WORD_MET:
        if (e->rank == RANK_MEANT)
            break;
        e->rank = RANK_MEANT;
        e->met_ms = clock_wall_ms();
        met_note(e);
        break;
    case WORD_JOIN: join(e); break;
    case WORD_ASK:
        answer = e->opened ? ask_answer(e, w->number, w->json) : json_pack("{s:s}", "error", e->files->summary.error);
        if (answer != NULL)
            engine_answer(e, w->number, answer);
        break;
    case WORD_SETTINGS:
        settings_take(e, w->settings);
        if (!e->opened)
            break;
        (void)roots_open(e); /* without memory: none */
        content_set_bandwidth(e->content, e->bandwidth_kib);
        if (e->served)
            walk_all(e, false); /* what is replicated from now on */
        break;
    case WORD_STOP: engine_stop(e); break;
    case WORD_PREPARED:
    case WORD_SAY:
    case WORD_ANSWER:
    case WORD_ENDED: break;
    }
}

static void in_cb(uv_async_t *async) {
    struct files *f = async->data;
    struct word *w, *next, *all = words_take(f, &f->to_thread);
    DL_FOREACH_SAFE(all, w, next) {
        DL_DELETE(all, w);
        if (!f->e.stopping)
            hear(&f->e, w);
        word_free(w);
    }
}

/* ---- opening: what cannot be had now may be had later */

static void reopen_cb(uv_timer_t *timer) { (void)timer; }

/* The error stands in the status until it is opened. */
static void closed_say(struct files *f, const char *why) {
    bool news = strcmp(f->summary.error, why) != 0; /* written by this thread alone */
    if (news)
        engine_say(&f->e, LOG_ERROR, "%s: it is tried again by itself", why);
    pthread_mutex_lock(&f->lock);
    snprintf(f->summary.error, sizeof(f->summary.error), "%s", why);
    pthread_mutex_unlock(&f->lock);
}

static int index_make(struct files *f, char *why, size_t why_len) {
    int r = f->prepared ? 0 : index_prepare(f->e.state, f->fresh, f->path, sizeof(f->path), why, why_len);
    if (r == 0 && !f->prepared)
        tell_loop(f, word_new(WORD_PREPARED));
    f->prepared = r == 0;
    return r;
}

/* False: it was stopped before. */
static bool open_at_last(struct files *f) {
    struct engine *e = &f->e;
    char why[sizeof(f->summary.error)] = "";
    uint64_t wait_ms = REOPEN_FIRST_MS;
    while (!e->stopping) {
        if (index_make(f, why, sizeof(why)) == 0 && engine_open(e, why, sizeof(why)) == 0)
            return true;
        engine_shut(e);
        closed_say(f, why);
        uv_update_time(&e->loop);
        uv_timer_start(&e->telling, reopen_cb, wait_ms, 0);
        while (!e->stopping && uv_is_active((uv_handle_t *)&e->telling))
            uv_run(&e->loop, UV_RUN_ONCE);
        wait_ms = wait_ms * 2 > REOPEN_MAX_MS ? REOPEN_MAX_MS : wait_ms * 2;
    }
    return false;
}
static void *thread_main(void *arg) {
    struct files *f = arg;
    struct engine *e = &f->e;
    uv_timer_init(&e->loop, &e->tick);
    uv_timer_init(&e->loop, &e->walking);
    uv_timer_init(&e->loop, &e->daily);
    uv_timer_init(&e->loop, &e->telling);
    uv_prepare_init(&e->loop, &e->prepare);
    e->tick.data = e->walking.data = e->daily.data = e->telling.data = e->prepare.data = e;
    if (open_at_last(f)) {
        uv_prepare_start(&e->prepare, prepare_cb);
        uv_timer_start(&e->daily, daily_cb, LOOK_MS, LOOK_MS);
        summarize(e);
        engine_begin(e);
        uv_run(&e->loop, UV_RUN_DEFAULT);
    }
    pthread_mutex_lock(&f->lock);
    f->open_in = false;
    pthread_mutex_unlock(&f->lock);
    engine_close(e);
    tell_loop(f, word_new(WORD_ENDED));
    return NULL;
}

/* ---- loop side */

static bool serve(struct files *f) {
    if (f->node->state < NODE_DRAINING)
        f->db = databases_serve(f->node->databases, FILES_DB, f->path);
    return f->db != NULL;
}

static void out_cb(uv_async_t *async) {
    struct files *f = async->data;
    struct word *w, *next, *all = words_take(f, &f->to_loop);
    DL_FOREACH_SAFE(all, w, next) {
        if (w->type == WORD_SAY && w->text != NULL) {
            if (w->level == LOG_DEBUG)
                log_activity(f->node->log, NULL, w->text);
            else
                log_line(f->node->log, (enum log_level)w->level, NULL, "%s", w->text);
        } else if (w->type == WORD_ANSWER) {
            node_answer(f->node, w->number, w->json);
            w->json = NULL;
        } else if (w->type == WORD_PREPARED) {
            f->unserved = !serve(f);
        } else if (w->type == WORD_ENDED) {
            pthread_join(f->thread, NULL);
            f->running = false;
        }
        word_free(w);
    }
    node_settle(f->node);
}

static bool replicated_before(const char *state) {
    char escaped[64], path[4096];
    return dbname_escape(FILES_DB, escaped, sizeof(escaped)) &&
           snprintf(path, sizeof(path), "%s/db/%s.state", state, escaped) < (int)sizeof(path) && access(path, F_OK) == 0;
}

/* What it says of files becomes ours. */
static struct settings *settings_of(struct config *c) {
    struct settings *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->policy = c->files;
    memset(&c->files, 0, sizeof(c->files));
    s->still_ms = config_number(c, OPTION_STILL_MS);
    s->bandwidth_kib = config_number(c, OPTION_BANDWIDTH_KIB);
    return s;
}

static int configure(struct files *f) {
    struct config *c = &f->node->config;
    struct engine *e = &f->e;
    struct settings *settings = settings_of(c);
    if (settings == NULL)
        return ERR_NOMEM;
    settings_take(e, settings);
    settings_free(settings);
    e->files = f;
    e->held = &f->node->held;
    e->door = content_peers_open(f->node);
    e->instance = strdup(config_text(c, OPTION_INSTANCE));
    e->state = strdup(config_text(c, OPTION_STATE));
    e->name = strdup(f->node->name);
    memcpy(e->id, f->node->identity.id, sizeof(e->id));
    e->rank = c->settings[OPTION_JOIN].count > 0 ? RANK_BEFORE_JOINING : RANK_FIRST;
    e->rank_begun = e->rank;
    e->root = e->staging = e->kept = e->near = -1;
    return e->instance == NULL || e->state == NULL || e->name == NULL ? ERR_NOMEM : 0;
}

int files_open(struct files **out, struct node *n, char *why, size_t why_len) {
    const char *state = config_text(&n->config, OPTION_STATE);
    struct files *f = calloc(1, sizeof(*f));
    snprintf(why, why_len, "out of memory or descriptors: see ulimit -n");
    if (f == NULL || (f->changed = json_array()) == NULL)
        return ERR_NOMEM;
    f->node = n;
    pthread_mutex_init(&f->lock, NULL);
    pthread_rwlock_init(&f->e.roots_lock, NULL);
    f->fresh = !replicated_before(state);
    f->prepared = index_prepare(state, f->fresh, f->path, sizeof(f->path), why, why_len) == 0; /* if not, the thread goes on trying */
    if (configure(f) != 0 || uv_loop_init(&f->e.loop) != 0 || uv_async_init(&f->e.loop, &f->in, in_cb) != 0 ||
        uv_async_init(&n->loop, &f->out, out_cb) != 0)
        return ERR_NOMEM;
    f->in.data = f->out.data = f;
    f->open_in = f->running = true;
    if ((f->prepared && !serve(f)) || thread_start(&f->thread, thread_main, f) != 0)
        return ERR_NOMEM;
    *out = f;
    return 0;
}

void files_stop(struct files *f) { tell_thread(f, word_new(WORD_STOP)); }
bool files_running(const struct files *f) { return f->running; }
void files_close(struct files *f) { uv_close((uv_handle_t *)&f->out, NULL); }

void files_free(struct files *f) {
    struct word *w, *next;
    assert(!f->running);
    DL_FOREACH_SAFE(f->to_thread, w, next) word_free(w);
    DL_FOREACH_SAFE(f->to_loop, w, next) word_free(w);
    pthread_mutex_destroy(&f->lock);
    json_decref(f->changed);
    config_files_release(&f->e.policy);
    free(f->e.instance);
    free(f->e.state);
    free(f->e.name);
    free(f);
}

bool files_index(const struct files *f, const struct database *db) { return f != NULL && f->db == db; }
void files_opened(struct files *f) { tell_thread(f, word_new(WORD_OPENED)); }

void files_reload(struct files *f, struct config *fresh) {
    struct word *w = word_new(WORD_SETTINGS);
    if (w != NULL && (w->settings = settings_of(fresh)) != NULL)
        tell_thread(f, w);
    else
        free(w);
}

void files_joining(struct files *f) { tell_thread(f, word_new(WORD_JOIN)); }

void files_tick(struct files *f) {
    if (f->unserved)
        f->unserved = !serve(f); /* there was no memory */
    if (f->met || !core_any_in_sync(f->node->core))
        return;
    f->met = true;
    tell_thread(f, word_new(WORD_MET));
}

static void changed_tell(struct files *f, json_t *paths, bool more) {
    struct word *w = word_new(WORD_CHANGED);
    if (w != NULL) {
        w->json = paths;
        w->more = more;
    } else {
        json_decref(paths);
    }
    tell_thread(f, w);
}

void files_changed(struct files *f, const json_t *change) {
    const char *table = json_string_value(json_object_get(change, "table"));
    json_t *path = json_object_get(json_object_get(change, "key"), "path");
    if (table == NULL || json_is_true(json_object_get(change, "local")))
        return;
    if (strcmp(table, "file") != 0 || path == NULL) {
        changed_tell(f, NULL, false);
        return;
    }
    if (json_array_size(f->changed) >= CHANGED_MAX) {
        f->more = true;
        return;
    }
    json_array_append(f->changed, path);
    changed_tell(f, json_pack("[O]", path), false);
}

void files_settled(struct files *f) {
    if (json_array_size(f->changed) == 0)
        return;
    changed_tell(f, f->changed, f->more);
    f->changed = json_array();
    f->more = false;
}

void files_ask(struct files *f, uint64_t number, json_t *question) {
    struct word *w = word_new(WORD_ASK);
    if (w == NULL) {
        json_decref(question);
        return;
    }
    w->number = number;
    w->json = question;
    tell_thread(f, w);
}

void files_summary(struct files *f, struct files_summary *out) {
    pthread_mutex_lock(&f->lock);
    *out = f->summary;
    pthread_mutex_unlock(&f->lock);
}

json_t *files_status(struct files *f) {
    struct files_summary s;
    files_summary(f, &s);
    return json_pack("{s:I, s:I, s:I, s:s, s:I, s:s, s:s?}", "count", (json_int_t)s.count, "bytes", (json_int_t)s.bytes, "pending",
                     (json_int_t)s.pending, "digest", s.digest, "conflicts", (json_int_t)s.conflicts, "state",
                     s.error[0] != 0 ? "error" : "ok", "error", s.error[0] != 0 ? s.error : NULL);
}
