/* The happy path for databases is:
 *   databases_start -> scan -> a file with SQLite's header -> worker_start -> MESSAGE_OPENED (node.c) ... databases_stop -> MESSAGE_ENDED ->
 *   databases_ended joins -> databases_close -> databases_free.
 * Possible failure modes are:
 *   - inotify is exhausted: only the periodic scan finds new files, at most a few seconds later;
 *   - a file is not a database: it gets an entry in state error, and is looked into again when it changes;
 *   - a worker cannot be started: state error; the next scan tries again.
 * Scans are done in steps, and paced so that they cost at most about 0.05 % of a core, however large the folder is: as long as its folders can be
 * watched. */
#include "node/databases.h"
#include "node/across.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "node/dbname.h"
#include "node/files/files.h"
#include "node/node.h"
#include "node/folder.h"
#include "node/store/store.h"
#include "proto/err.h"

#define PERIOD_MIN_MS 5000
#define PERIOD_MIN_BLIND_MS 1000
#define PERIOD_MAX_MS 600000
#define PERIOD_BLIND_MS 30000 /* at most, where not all folders are watched, or a file is there that may become a database unheard */
#define PERIOD_PER_SCAN 2000  /* times the duration of a scan */
#define HINT_MS 20            /* after an event: several come together */
#define HINT_PER_SCAN 50
#define STEP_ENTRIES 1000 /* of a scan; then the loop does other things */
#define STEP_MS 2
#define FOLDER_EVENTS (IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE | IN_ONLYDIR)

/* A file that was looked into and is no database. */
struct other {
    struct {
        dev_t dev;
        ino_t ino;
    } key;
    struct timespec mtime;
    off_t size;
    uint64_t scan; /* the last one that met it */
    UT_hash_handle hh;
};

/* A folder that cannot be looked into: told once. */
struct closed_folder {
    char *name;
    uint64_t scan; /* the last one that met it */
    UT_hash_handle hh;
};

struct databases {
    struct node *node;
    char *instance, *state;
    struct database *list;
    struct other *others;
    struct closed_folder *closed;
    uv_timer_t timer;
    uv_poll_t poll;
    int inotify_fd;
    bool stopped, polling, warned;
    struct folder_walker *walker; /* of the scan that is under way */
    bool again, unfinished;       /* something happened meanwhile; this scan met an empty file */
    uint64_t scans, spent_ns, duration_ms;
};

/* ---- entries */

static int by_name(const struct database *a, const struct database *b) { return strcmp(a->name, b->name); }

struct database *databases_find(const struct databases *d, const char *name) {
    struct database *db;
    HASH_FIND_STR(d->list, name, db);
    return db;
}

struct database *databases_first(const struct databases *d) {
    return d->list;
}
static struct database *skip_internal(struct database *db) {
    while (db != NULL && db->internal)
        db = db->hh.next;
    return db;
}

struct database *databases_app_first(const struct databases *d) {
    return skip_internal(d->list);
}
struct database *databases_app_next(const struct database *db) {
    return skip_internal(db->hh.next);
}
uint32_t databases_count(const struct databases *d) { return HASH_COUNT(d->list); }

bool database_broken(const struct database *db) { return db->state == DB_FAILED || db->state == DB_ALIEN; }

void database_failed(struct database *db, const char *why) {
    char *copy = strdup(why);
    free(db->error);
    db->error = copy;
    if (db->state != DB_ALIEN)
        db->state = DB_FAILED;
}

const char *database_words(const struct database *db, const char *text) {
    const char *const names[] = {db->name, db->path};
    for (int i = 0; i < 2; i++) {
        size_t len = strlen(names[i]);
        if (strncmp(text, names[i], len) == 0 && strncmp(text + len, ": ", 2) == 0)
            return text + len + 2;
    }
    return text;
}

/* Takes path. */
static struct database *entry_at(struct databases *d, const char *name, char *path) {
    struct database *db = path == NULL ? NULL : calloc(1, sizeof(*db));
    if (db == NULL || (db->name = strdup(name)) == NULL) {
        free(db);
        free(path);
        return NULL;
    }
    db->node = d->node;
    db->path = path;
    vv_init(&db->stored);
    vv_init(&db->told);
    HASH_ADD_KEYPTR(hh, d->list, db->name, strlen(db->name), db);
    HASH_SORT(d->list, by_name);
    return db;
}

static struct database *entry_new(struct databases *d, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", d->instance, name) < 0 ? NULL : entry_at(d, name, path);
}

/* Of the database of this name; NULL: it can have none. free() it. */
static char *state_path_of(const struct databases *d, const char *name) {
    char escaped[3 * 256 + 1], *path = NULL;
    return dbname_escape(name, escaped, sizeof(escaped)) && asprintf(&path, "%s/db/%s.state", d->state, escaped) >= 0 ? path : NULL;
}

static void worker_begin(struct databases *d, struct database *db, bool create) {
    char *state_path = state_path_of(d, db->name);
    if (state_path == NULL)
        return;
    uint32_t policies_count;
    const struct policy_line *policies = config_policies(&d->node->config, db->name, &policies_count);
    struct worker_config config = {
        .database = db,
        .inbox = &d->node->inbox,
        .held = &d->node->held,
        .db = db->name,
        .app_path = db->path,
        .state_path = state_path,
        .excluded = config_excluded(&d->node->config, db->name),
        .follow = config_follows(&d->node->config, db->name),
        .create = create,
        .match = strcmp(config_text(&d->node->config, OPTION_ADOPT), "match") == 0 && !db->internal,
        .joins = d->node->config.settings[OPTION_JOIN].count > 0 || members_count(d->node->members) > 0,
        .policies = policies,
        .policies_count = policies_count,
        .key = d->node->identity.key,
        .secret = d->node->identity.secret,
    };
    size_t file_len = strlen(strrchr(state_path, '/') + 1) + strlen("-journal");
    int r = file_len > NAME_MAX ? ERR_TOOBIG : worker_start(&db->worker, &config);
    free(state_path);
    if (r == 0) {
        db->state = DB_OPENING;
        node_database_started(db);
        return;
    }
    db->worker = NULL;
    bool news = db->error == NULL;
    database_failed(db, r == ERR_TOOBIG ? "the name is too long: shorten the path below the instance folder"
                                        : "no thread could be started: see ulimit -u");
    if (news)
        log_line(d->node->log, LOG_ERROR, db->name, "%s", db->error);
}

static void alien_begin(struct databases *d, const char *name, const struct stat *st) {
    struct database *db = databases_find(d, name);
    char why[PATH_MAX];
    if (db == NULL && (db = entry_new(d, name)) == NULL)
        return;
    if (db->state != DB_ALIEN) {
        db->state = DB_ALIEN;
        snprintf(why, sizeof(why),
                 "%s is not a SQLite database: move it away, restore it, or say replicate = no of it; the other databases are replicated",
                 name);
        database_failed(db, why);
        log_line(d->node->log, LOG_ERROR, NULL, "%s", why);
    }
    db->look = *st;
}

static void entry_free(struct databases *d, struct database *db) {
    assert(db->worker == NULL);
    HASH_DEL(d->list, db);
    json_decref(db->status);
    vv_release(&db->stored);
    vv_release(&db->told);
    free(db->name);
    across_free(db);
    free(db->path);
    free(db->error);
    free(db);
}

/* ---- scanning */

const char *databases_closed_mend(int error) {
    return error == EACCES || error == EPERM ? "give the user who runs starlingd the right to read and search it (chmod, chown)"
                                             : "see whether its disk is mounted and healthy";
}

static bool same_look(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static bool held(const struct databases *d, const struct stat *st) {
    for (struct database *db = d->list; db != NULL; db = db->hh.next)
        if (db->worker != NULL && worker_holds(db->worker, st->st_dev, st->st_ino))
            return true;
    return false;
}

/* Known as no database since it last changed? Remembers it as looked into. */
static bool known_other(struct databases *d, const struct stat *st) {
    struct other *o, key = {0};
    key.key.dev = st->st_dev;
    key.key.ino = st->st_ino;
    HASH_FIND(hh, d->others, &key.key, sizeof(key.key), o);
    if (o == NULL)
        return false;
    o->scan = d->scans;
    return o->size == st->st_size && o->mtime.tv_sec == st->st_mtim.tv_sec && o->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

static void remember_other(struct databases *d, const struct stat *st) {
    struct other *o, key = {0};
    key.key.dev = st->st_dev;
    key.key.ino = st->st_ino;
    HASH_FIND(hh, d->others, &key.key, sizeof(key.key), o);
    if (o == NULL) {
        if ((o = calloc(1, sizeof(*o))) == NULL)
            return;
        o->key = key.key;
        HASH_ADD(hh, d->others, key, sizeof(o->key), o);
    }
    o->mtime = st->st_mtim;
    o->size = st->st_size;
    o->scan = d->scans;
}

static void on_closed(void *ctx, const char *name, int error) {
    struct databases *d = ctx;
    struct closed_folder *f;
    HASH_FIND_STR(d->closed, name, f);
    if (f == NULL) {
        if ((f = calloc(1, sizeof(*f))) == NULL || (f->name = strdup(name)) == NULL) {
            free(f);
            return;
        }
        HASH_ADD_KEYPTR(hh, d->closed, f->name, strlen(f->name), f);
        log_line(d->node->log, LOG_WARNING, NULL, "folder %s cannot be looked into: %s: what is in it is not replicated: %s", name,
                 strerror(error), databases_closed_mend(error));
    }
    f->scan = d->scans;
}

/* Those that were closed at some earlier scan than `since`, and no more, are told again when it comes to that. */
static void forget_closed(struct databases *d, uint64_t since) {
    struct closed_folder *f, *next;
    HASH_ITER(hh, d->closed, f, next) {
        if (f->scan >= since)
            continue;
        HASH_DEL(d->closed, f);
        free(f->name);
        free(f);
    }
}

static void on_folder(void *ctx, const char *path) {
    struct databases *d = ctx;
    if (d->inotify_fd < 0 || inotify_add_watch(d->inotify_fd, path, FOLDER_EVENTS) >= 0 || errno != ENOSPC || d->warned)
        return;
    d->warned = true;
    log_line(d->node->log, LOG_WARNING, NULL,
             "no more folders can be watched: new databases are found a few seconds later: raise fs.inotify.max_user_watches");
}

/* A database that is not to be replicated: the first look takes out of it what a time left there in which it was. */
static void leave_alone(struct databases *d, const char *name, const char *path, const struct stat *st) {
    char why[1024] = "";
    if (d->scans > 1 || st->st_size == 0 || folder_header(path) != FOLDER_FILE_SQLITE)
        return;
    if (store_uninstall(path, why, sizeof(why)) != 0)
        log_line(d->node->log, LOG_ERROR, name, "replicate = no, but our triggers are still in it: %s", why);
}

static void on_file(void *ctx, const char *name, const char *path, const struct stat *st) {
    struct databases *d = ctx;
    if (!config_replicates(&d->node->config, name)) {
        leave_alone(d, name, path, st);
        return;
    }
    struct database *db = databases_find(d, name);
    if (db != NULL && db->state != DB_ALIEN && db->worker != NULL)
        return; /* its worker looks after it */
    if (db != NULL && db->state == DB_ALIEN && same_look(&db->look, st))
        return;
    if (st->st_size == 0 && db == NULL) {
        d->unfinished = true; /* an application has just made it; SQLite writes the header with the first table */
        return;
    }
    if (st->st_size == 0 && db->wanted) { /* what stood in the way is gone, and in an empty file nothing can be lost */
        log_line(d->node->log, LOG_INFO, name, "a peer has this database: fetching it");
        worker_begin(d, db, true);
        return;
    }
    if (known_other(d, st) || held(d, st))
        return;
    enum folder_header header = folder_header(path);
    bool usual = dbname_usual(name);
    if (header == FOLDER_FILE_SQLITE || (header == FOLDER_FILE_UNREADABLE && usual)) { /* unreadable: the store says why */
        if (db == NULL && (db = entry_new(d, name)) == NULL)
            return;
        worker_begin(d, db, false);
    } else if (usual && header == FOLDER_FILE_OTHER) {
        alien_begin(d, name, st);
    } else {
        remember_other(d, st);
    }
}

static void scan_begin(struct databases *d) {
    struct folder_walk walk = {d->instance, d->state, d, on_folder, on_file, on_closed};
    d->scans++;
    d->spent_ns = 0;
    d->again = d->unfinished = false;
    d->walker = folder_begin(&walk);
}

static void scan_end(struct databases *d) {
    struct database *db, *db_next;
    struct other *o, *o_next;
    struct stat st;
    char *free_now = NULL; /* its place is, which something else had */
    folder_end(d->walker);
    d->walker = NULL;
    forget_closed(d, d->scans);
    HASH_ITER(hh, d->others, o, o_next) {
        if (o->scan != d->scans) {
            HASH_DEL(d->others, o);
            free(o);
        }
    }
    HASH_ITER(hh, d->list, db, db_next) {         /* those that only had the name are forgotten with the file */
        if (db->internal && db->worker == NULL) { /* no walk over the folder comes by it */
            worker_begin(d, db, false);
            d->unfinished = d->unfinished || db->worker == NULL;
        }
        if (db->internal || db->worker != NULL || lstat(db->path, &st) == 0)
            continue;
        if (db->wanted && free_now == NULL)
            free_now = strdup(db->name);
        entry_free(d, db);
    }
    d->duration_ms = d->spent_ns / 1000000;
    if (free_now != NULL)
        databases_want(d, free_now);
    free(free_now);
}

/* False: the scan is at its end. */
static bool scan_step(struct databases *d, uint32_t entries) {
    uint64_t begin = uv_hrtime();
    bool more = d->walker != NULL && folder_step(d->walker, entries);
    d->spent_ns += uv_hrtime() - begin;
    if (!more)
        scan_end(d);
    return more;
}

void databases_scan(struct databases *d) {
    if (d->stopped)
        return;
    folder_end(d->walker); /* one that is under way has passed by what was made just now */
    scan_begin(d);
    (void)scan_step(d, UINT32_MAX);
}

static void scan_cb(uv_timer_t *timer);

static void arm(struct databases *d, uint64_t ms) {
    if (!d->stopped)
        uv_timer_start(&d->timer, scan_cb, ms, 0);
}

static uint64_t hint_ms(const struct databases *d) { return d->duration_ms * HINT_PER_SCAN + HINT_MS; }

static uint64_t period_ms(const struct databases *d) {
    bool blind = d->warned || !d->polling || d->unfinished;
    uint64_t period = d->duration_ms * PERIOD_PER_SCAN, least = blind ? PERIOD_MIN_BLIND_MS : PERIOD_MIN_MS,
             most = blind ? PERIOD_BLIND_MS : PERIOD_MAX_MS;
    if (d->again)
        return hint_ms(d);
    return period < least ? least : period > most ? most : period;
}

static void scan_cb(uv_timer_t *timer) {
    struct databases *d = timer->data;
    if (d->walker == NULL)
        scan_begin(d);
    arm(d, scan_step(d, d->scans == 1 ? UINT32_MAX : STEP_ENTRIES) ? STEP_MS : period_ms(d)); /* whoever starts waits for the first one */
    node_settle(d->node);
}

static void inotify_cb(uv_poll_t *handle, int status, int events) {
    struct databases *d = handle->data;
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    bool hint = false;
    ssize_t n;
    (void)events;
    while (status == 0 && (n = read(d->inotify_fd, buffer, sizeof(buffer))) > 0) {
        for (char *at = buffer; at < buffer + n;) {
            const struct inotify_event *e = (const struct inotify_event *)at;
            at += sizeof(*e) + e->len;
            if ((e->mask & IN_CLOSE_WRITE) != 0 && !dbname_usual(e->name))
                continue; /* an application's own files; those that turn into a database are found by the next scan */
            struct database *db = e->len > 0 ? databases_find(d, e->name) : NULL;
            bool served = db != NULL && db->worker != NULL; /* its worker watches it */
            hint = hint || (e->mask & (IN_Q_OVERFLOW | IN_ISDIR)) != 0 || (e->len > 0 && !dbname_companion(e->name) && !served);
        }
    }
    d->again = d->again || (hint && d->walker != NULL);
    if (hint && d->walker == NULL && uv_timer_get_due_in(&d->timer) > hint_ms(d))
        arm(d, hint_ms(d));
}

/* ---- life */

struct databases *databases_open(struct node *node, const char *instance, const char *state) {
    struct databases *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    d->node = node;
    d->instance = strdup(instance);
    d->state = strdup(state);
    d->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    uv_timer_init(&node->loop, &d->timer);
    d->timer.data = d->poll.data = d;
    if (d->inotify_fd >= 0 && uv_poll_init(&node->loop, &d->poll, d->inotify_fd) == 0)
        d->polling = true;
    return d;
}

void databases_start(struct databases *d) {
    if (d->polling)
        uv_poll_start(&d->poll, UV_READABLE, inotify_cb);
    scan_cb(&d->timer);
}

void databases_stop(struct databases *d) {
    d->stopped = true;
    uv_timer_stop(&d->timer);
    if (d->polling)
        uv_poll_stop(&d->poll);
    for (struct database *db = d->list; db != NULL; db = db->hh.next)
        if (db->worker != NULL)
            worker_stop(db->worker);
}

void databases_follow(struct databases *d) {
    for (struct database *db = d->list; db != NULL; db = db->hh.next) {
        if (db->worker == NULL)
            continue;
        struct job *job = job_new(JOB_FOLLOW);
        job->on = config_follows(&d->node->config, db->name);
        worker_post(db->worker, job);
    }
}

void databases_ended(struct databases *d, struct database *db) {
    assert(d->stopped && db->worker != NULL);
    worker_join(db->worker);
    db->worker = NULL;
}

bool databases_running(const struct databases *d) {
    for (struct database *db = d->list; db != NULL; db = db->hh.next)
        if (db->worker != NULL)
            return true;
    return false;
}

void databases_close(struct databases *d) {
    uv_close((uv_handle_t *)&d->timer, NULL);
    if (d->polling)
        uv_close((uv_handle_t *)&d->poll, NULL);
}

void databases_free(struct databases *d) {
    struct database *db, *next;
    struct other *o, *o_next;
    if (d == NULL)
        return;
    folder_end(d->walker);
    HASH_ITER(hh, d->list, db, next) { entry_free(d, db); }
    forget_closed(d, UINT64_MAX);
    HASH_ITER(hh, d->others, o, o_next) {
        HASH_DEL(d->others, o);
        free(o);
    }
    if (d->inotify_fd >= 0)
        close(d->inotify_fd);
    free(d->instance);
    free(d->state);
    free(d);
}

/* ---- made for a peer's database */

static bool folders_make(const char *instance, const char *name) {
    char path[PATH_MAX];
    for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        struct stat st;
        int n = snprintf(path, sizeof(path), "%s/%.*s", instance, (int)(slash - name), name);
        if (n < 0 || (size_t)n >= sizeof(path) || (mkdir(path, 0777) != 0 && errno != EEXIST))
            return false;
        if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode)) /* not through a link that leads out of the instance folder */
            return false;
    }
    return true;
}

struct database *databases_serve(struct databases *d, const char *name, const char *path) {
    struct database *db = entry_at(d, name, strdup(path));
    if (db == NULL)
        return NULL;
    db->internal = true;
    worker_begin(d, db, false);
    return db;
}

static void in_the_way(struct databases *d, struct database *db) {
    db->wanted = true;
    database_failed(db, "something that is not a database stands where a peer has this database: move it away");
    log_line(d->node->log, LOG_ERROR, db->name, "%s", db->error);
}

void databases_want(struct databases *d, const char *name) {
    struct stat st;
    char path[PATH_MAX];
    struct database *db = databases_find(d, name);
    if (db != NULL && db->state == DB_ALIEN && !db->wanted)
        in_the_way(d, db);
    if (d->stopped || db != NULL || strcmp(name, FILES_DB) == 0) /* that one is served when it can be opened */
        return;
    if (!config_replicates(&d->node->config, name)) {
        log_line(d->node->log, LOG_DEBUG, name, "a peer has this database; it is not replicated here (replicate = no)");
        return;
    }
    if (!dbname_ok(name)) {
        log_line(d->node->log, LOG_WARNING, NULL, "a peer has a database with a name that is not taken: %.200s", name);
        return;
    }
    databases_scan(d);
    if (databases_find(d, name) != NULL)
        return;
    bool there = snprintf(path, sizeof(path), "%s/%s", d->instance, name) < (int)sizeof(path) && lstat(path, &st) == 0;
    bool made = there ? S_ISREG(st.st_mode) && st.st_size == 0 : folders_make(d->instance, name);
    if ((db = entry_new(d, name)) == NULL)
        return;
    if (made) {
        log_line(d->node->log, LOG_INFO, name, "a peer has this database: fetching it");
        worker_begin(d, db, true);
        return;
    }
    in_the_way(d, db);
}

/* ---- listing without a node */

static void list_file(void *ctx, const char *name, const char *path, const struct stat *st) {
    const struct databases_listing *l = ctx;
    enum folder_header header = st->st_size == 0 ? FOLDER_FILE_EMPTY : folder_header(path);
    if (header == FOLDER_FILE_SQLITE || ((header == FOLDER_FILE_OTHER || header == FOLDER_FILE_UNREADABLE) && dbname_usual(name)))
        l->found(l->ctx, name, path, header == FOLDER_FILE_OTHER);
}

static void list_closed(void *ctx, const char *name, int error) {
    const struct databases_listing *l = ctx;
    l->closed(l->ctx, name, error);
}

int databases_list(const char *instance, const char *state, const struct databases_listing *listing) {
    struct databases_listing l = *listing;
    struct folder_walk walk = {instance, state, &l, NULL, list_file, list_closed};
    return folder_walk(&walk);
}
