/* The store of one database: opening, turns of work, and what the owner asks. See store.h and engine.h. */
#include "node/store/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "node/store/afar.h"
#include "node/store/forward.h"
#include "node/store/keyed.h"
#include "node/store/outdated.h"
#include "node/store/same.h"
#include "node/store/recheck.h"
#include "proto/err.h"

#define SCHEMA_QUIET_MS 150 /* a migration is many statements: its schema is sent once it is still */
#define HELD_LOOK_MS 100    /* while a migration is under way */
#define FOLLOW_LOOK_MS 5    /* while another server's schema is to be followed, and somebody reads or writes */
#define RETRY_PARKED_MS 1000
#define RETRY_SOON_MS 50 /* if anything came or went meanwhile: it may be what they wait for */
#define RETRY_PARKED_ROWS 500
#define RETRY_PARKED_LOOKS 5000
#define RETRY_CHAIN 64
#define RETRY_PAUSE 20        /* times as long as the application was kept out by a try in vain */
#define RETRY_PAUSE_MS 10000  /* but not longer */
#define RETRY_ANYWAY_MS 30000 /* what nothing that is known of lets in is tried again all the same */
#define QUIET_TRIM_MS 5000
#define REST_MS 1000 /* also how often a quiet file is looked at for that */
#define PARTS_WAIT_MS 3000
#define CHECKPOINT_MS 100
#define KEPT_LOCKED_MS 3000
#define UNINSTALL_ALONE_MS 2000 /* so long for a moment without readers, and then so long for the lock alone */
#define UNINSTALL_MS 3000
#define MISSING_LOOK_MS 1000 /* a database that is missing here is made by the first batch, or by the application itself */

/* ---- small things */

void store_log(struct store *s, int level, const char *format, ...) {
    char text[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (s->config.on_log)
        s->config.on_log(s->config.ctx, level, text);
}

int64_t store_wall_ms(struct store *s) {
    sqlite3_vfs *vfs = sqlite3_vfs_find(s->config.vfs);
    sqlite3_int64 ms = 0;
    if (vfs && vfs->iVersion >= 2 && vfs->xCurrentTimeInt64 && vfs->xCurrentTimeInt64(vfs, &ms) == SQLITE_OK)
        return ms - 210866760000000; /* from the Julian epoch to Unix's */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t store_mono_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t mono_ms(void) { return store_mono_us() / 1000; }

void store_lock_time(struct store *s, int64_t us) {
    s->lock_us[s->lock_next++ % 256] = us;
    if (s->lock_count < 256)
        s->lock_count++;
}

/* ---- opening */

/* Says which file it will be, before SQLite takes locks on it: whoever else in this process opened and closed it then would drop them. So a file that
 * is not there yet is made here. */
static void tell_file(const struct store *s, bool create) {
    struct stat st;
    if (!s->config.on_file || s->config.vfs)
        return;
    int fd = create ? open(s->config.app_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : -1;
    if (fd >= 0 ? fstat(fd, &st) == 0 : stat(s->config.app_path, &st) == 0)
        s->config.on_file(s->config.ctx, st.st_dev, st.st_ino);
    if (fd >= 0)
        close(fd);
}

int store_open_app(struct store *s, bool create, char *why, size_t why_len) {
    tell_file(s, create);
    int err = appfile_open(&s->app, s->config.app_path, s->config.vfs, create, why, why_len);
    if (err)
        return err;
    s->app_open = true;
    if ((err = sql_prepare(s->app.reader, &s->a_begin, "BEGIN")) || (err = sql_prepare(s->app.reader, &s->a_end, "COMMIT")))
        snprintf(why, why_len, "%s: %s", s->config.app_path, sqlite3_errmsg(s->app.reader));
    return err;
}

static void close_app(struct store *s) {
    sqlite3_stmt **all[] = {&s->a_begin,      &s->a_end,        &s->a_notes[0], &s->a_notes[1], &s->a_nonce[0], &s->a_nonce[1],
                            &s->a_version[0], &s->a_version[1], &s->w_last,     &s->w_mark,     &s->w_trim};
    if (!s->app_open)
        return;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        sqlite3_finalize(*all[i]);
        *all[i] = NULL;
    }
    appfile_close(&s->app);
    s->app_open = false;
}

static int own_vectors(struct store *s) {
    const struct origin_row *own = &s->origins[s->own];
    for (uint32_t i = 0; i < own->knew_count; i++) {
        int err = i == s->own || !own->knew[i] ? 0 : vv_set(&s->knew_news, &s->origin_ids[i], own->knew[i]);
        if (err)
            return err;
    }
    s->given = s->hot.published;
    return 0;
}

static int copy_config(struct store *s, const struct store_config *c) {
    s->config = *c;
    s->config.app_path = strdup(c->app_path);
    s->config.state_path = strdup(c->state_path);
    s->config.db = strdup(c->db);
    s->config.vfs = c->vfs ? strdup(c->vfs) : NULL;
    s->config.excluded = NULL;
    size_t n = 0;
    while (c->excluded && c->excluded[n])
        n++;
    char **names = calloc(n + 1, sizeof *names);
    for (size_t i = 0; names && i < n; i++)
        names[i] = strdup(c->excluded[i]);
    s->config.excluded = (const char *const *)names;
    return s->config.app_path && s->config.state_path && s->config.db && names ? 0 : ERR_NOMEM;
}

/* Our notes in a file that this state has never seen: an earlier state of it is lost, or it was copied from elsewhere. */
static int look_for_traces(struct store *s) {
    int64_t traces = 0, began;
    int64_t shared = 0;
    int err = sql_int(s->db, 0, &began, "SELECT v FROM meta WHERE k='began'");
    if (!err)
        err = sql_int(s->db, 0, &shared, "SELECT count(*) FROM meta WHERE k='shared'");
    s->shared = shared > 0;
    s->began_ms = began > 1 ? began : 0;
    if (err || began) /* what is there is ours */
        return err;
    s->began_ms = store_wall_ms(s);
    if (s->app_open && (err = sql_int(s->app.reader, 0, &traces, "SELECT count(*) FROM main.sqlite_schema WHERE name='_starling_dirty'")))
        return err;
    if ((traces && (err = state_recapture(s))) || (err = sql_exec(s->db, "INSERT INTO meta VALUES('began', %lld)", (long long)s->began_ms)))
        return err;
    return state_sync(s);
}

bool store_has_traces(const char *app_path) {
    sqlite3 *db = NULL;
    int64_t traces = 0;
    if (sqlite3_open_v2(app_path, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(db, UNINSTALL_ALONE_MS);
        if (sql_int(db, 0, &traces, "SELECT count(*) FROM main.sqlite_schema WHERE name='_starling_dirty'"))
            traces = 0;
    }
    sqlite3_close(db);
    return traces > 0;
}

uint32_t store_epoch(const struct store *s) { return s->origin_ids[s->own].epoch; }

/* `knowing`: what we know goes over to it. */
static int new_epoch(struct store *s, uint32_t epoch, bool knowing) {
    struct origin next = s->origin_ids[s->own];
    uint32_t no, old = s->own;
    next.epoch = epoch;
    int err = state_begin(s);
    if (err || (err = state_origin(s, &next, &no)))
        return err;
    s->own = no;
    s->hot.epoch = next.epoch;
    restamp_epoch(s);
    memcpy(s->origins[no].key, s->config.key, NODE_KEY_BYTES);
    s->origins[no].keyed = s->origins[no].changed = true;
    for (uint32_t i = 0; knowing && i < s->origins[old].knew_count && !err; i++)
        err = state_knew_set(s, no, i, s->origins[old].knew[i]);
    s->hot.published = s->given = 0;
    vv_clear(&s->after_sent);
    vv_clear(&s->knew_news);
    if (err || (err = own_vectors(s)) || (err = state_commit(s)))
        return err;
    s->stored_changed = true;
    return state_sync(s);
}

int store_fresh_epoch(struct store *s) { return s->hot.epoch > s->config.epoch_above ? 0 : new_epoch(s, s->config.epoch_above + 1, true); }

int store_new_epoch(struct store *s, uint32_t above) {
    if (s->origin_ids[s->own].epoch > above) { /* begun already: only to be told */
        s->stored_changed = true;
        return 0;
    }
    int err = new_epoch(s, above + 1, true);
    if (!err)
        store_log(s, LOG_WARNING,
                  "%s: others have writes of this node that it has lost (an older copy of its state?): it goes on as epoch %u",
                  s->config.db, above + 1);
    return err;
}

/* A state folder that was copied, or put back from a backup: its file is not the one that it was. Whoever has the other one may be using the
 * versions that come next here. */
static int look_for_copy(struct store *s, bool *copied) {
    struct stat st;
    int64_t was;
    *copied = false;
    if (s->config.vfs || stat(s->config.state_path, &st) != 0)
        return 0;
    int err = sql_int(s->db, 0, &was, "SELECT v FROM meta WHERE k='inode'");
    if (err || was == (int64_t)st.st_ino)
        return err;
    if ((*copied = was != 0)) { /* two copies may start in one second */
        uint32_t epoch = (uint32_t)(store_wall_ms(s) / 1000) + randombytes_uniform(1u << 20);
        if ((err = new_epoch(s, epoch > s->hot.epoch ? epoch : s->hot.epoch + 1, true)))
            return err;
        store_log(
            s, LOG_WARNING,
            "%s: the state folder was copied or put back from a backup: this node goes on as epoch %u, so that no version is used twice",
            s->config.db, s->hot.epoch);
    }
    if ((err = state_begin(s)) || (err = sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('inode', %lld)", (long long)st.st_ino)) ||
        (err = state_commit(s)))
        return err;
    return state_sync(s);
}

/* What another file holds was written by somebody who knew nothing of ours: it gets an epoch that knows nothing either. */
static int begin_unknowing(struct store *s) {
    const struct origin_row *own = &s->origins[s->own];
    bool fresh = own->version == 0;
    for (uint32_t i = 0; i < own->knew_count && fresh; i++)
        fresh = own->knew[i] == 0;
    return fresh ? 0 : new_epoch(s, s->hot.epoch + 1, false);
}

static int open_all(struct store *s, char *why, size_t why_len) {
    int err = state_open(s, why, why_len);
    if (err || (err = policies_open(s)) || (err = state_commit(s)) || (err = restamp_load(s)))
        return err;
    bool there = s->config.vfs || access(s->config.app_path, F_OK) == 0;
    if (there || !s->config.create) {
        if ((err = store_open_app(s, s->config.vfs != NULL && s->config.create, why, why_len)) || (err = look_for_traces(s)) ||
            (err = before_recall(s)) || (err = project_recall(s)) || (err = state_commit(s)) || (err = schema_refresh(s)) ||
            (err = project_recover(s)))
            return err;
    } else if ((err = look_for_traces(s)) || (err = pending_load(s)) || (err = remake(s))) {
        return err;
    }
    bool copied;
    if ((err = look_for_copy(s, &copied)))
        return err;
    if (s->state_went_back && !copied && (err = store_new_epoch(s, s->hot.epoch)))
        return err;
    if (s->file == FILE_OTHER && (err = begin_unknowing(s)))
        return err;
    s->follow_due |= s->app_open && follow_wanted(s);
    return own_vectors(s);
}

int store_open(struct store **out, const struct store_config *config, char *why, size_t why_len) {
    struct store *s = calloc(1, sizeof *s);
    *why = 0;
    *out = NULL;
    if (!s)
        return ERR_NOMEM;
    reg_init(&s->reg);
    reg_init(&s->reg2);
    reg_init(&s->source);
    reg_init(&s->meant);
    buf_init(&s->blob, 256u << 20);
    buf_init(&s->key, 256u << 20);
    buf_init(&s->key2, 256u << 20);
    vv_init(&s->after_sent);
    vv_init(&s->knew_news);
    vv_init(&s->have);
    s->flights_tail = &s->flights;
    s->writer = batch_writer_new();
    s->stored_changed = true;
    int err = s->writer ? copy_config(s, config) : ERR_NOMEM;
    if (!err)
        err = open_all(s, why, why_len);
    if (err) {
        if (!*why)
            snprintf(why, why_len, "%s: %s: %s", config->app_path, err_text(err),
                     s->app_open ? sqlite3_errmsg(s->app.writer) : "it is tried again by itself");
        store_close(s);
        return err;
    }
    *out = s;
    return 0;
}

static void free_config(struct store *s) {
    free((char *)(uintptr_t)s->config.app_path);
    free((char *)(uintptr_t)s->config.state_path);
    free((char *)(uintptr_t)s->config.db);
    free((char *)(uintptr_t)s->config.vfs);
    for (size_t i = 0; s->config.excluded && s->config.excluded[i]; i++)
        free((char *)(uintptr_t)s->config.excluded[i]);
    free((void *)(uintptr_t)s->config.excluded);
}

void store_close(struct store *s) {
    if (!s)
        return;
    scan_stop(s);
    recheck_stop(s);
    values_release(s);
    mend_forget(s);
    while (s->flights) {
        struct flight *next = s->flights->next;
        flight_free(s, s->flights);
        s->flights = next;
    }
    for (uint32_t i = 0; i < s->delivered_count; i++)
        bytes_unref(s->delivered[i]);
    free(s->delivered);
    pending_clear(s);
    for (uint32_t i = 0; i < s->shown_count; i++)
        free(s->shown[i].versions);
    free(s->shown);
    afar_release(s);
    roster_release(s);
    state_close(s);
    policies_release(s);
    schema_release(&s->schema);
    close_app(s);
    batch_writer_free(s->writer);
    reg_release(&s->reg);
    reg_release(&s->reg2);
    reg_release(&s->source);
    reg_release(&s->meant);
    free(s->told);
    renumber_release(s);
    outdated_forget(&s->outdated);
    forward_release(s);
    free(s->told_bytes);
    buf_release(&s->blob);
    buf_release(&s->key);
    buf_release(&s->key2);
    vv_release(&s->after_sent);
    vv_release(&s->knew_news);
    vv_release(&s->have);
    free(s->look_values);
    free(s->found);
    free(s->vector);
    free(s->alone);
    free_config(s);
    free(s);
}

/* ---- telling the owner */

static bool is_settled(struct store *s) {
    return !s->held_since_ms && !s->follow_due && !s->flights && !s->pending && !s->scan && !s->delivered_count && !replaced_due(s) &&
           !afar_due(s) && tables_unshown(s) == 0;
}

#define JOINING_MS 600000 /* of several servers that begin at once each may have to yield more than once */

/* Nobody else is known to share our base: nothing of others was merged; or it was taken up anew just now. */
static bool alone(struct store *s) {
    bool joining = s->recapture && store_wall_ms(s) - (int64_t)hlc_ms(s->recaptured_at) < JOINING_MS;
    for (uint32_t i = 0; i < s->origins_count; i++)
        if (i != s->own && s->origins[i].version && !joining)
            return false;
    return joining || !s->shared;
}

void store_state(struct store *s, struct db_state *out) {
    vv_clear(&s->have);
    for (uint32_t i = 0; i < s->origins_count; i++) {
        uint64_t version = i == s->own ? s->given : s->origins[i].version;
        if (version)
            vv_set(&s->have, &s->origin_ids[i], version);
    }
    out->have = s->have;
    out->base = s->hot.base && alone(s) ? s->hot.base | BASE_ALONE : s->hot.base;
    memcpy(out->digest, &s->hot.digest_a, 8);
    memcpy(out->digest + 8, &s->hot.digest_b, 8);
    out->settled = is_settled(s);
    out->clock = s->clock.last;
}

bool store_ready(struct store *s) { return !s->scan && s->given == s->hot.published; }

static int give(struct store *s) {
    while (s->given < s->hot.published) {
        struct bytes *b;
        int err = log_read(s, s->own, s->given + 1, &b);
        if (err)
            return err;
        s->given++;
        s->stored_changed = true;
        if (s->config.on_batch)
            s->config.on_batch(s->config.ctx, b);
        bytes_unref(b);
    }
    return 0;
}

static void tell_state(struct store *s) {
    if (s->scan || (!s->stored_changed && s->told_settled == is_settled(s)))
        return;
    struct db_state state;
    s->stored_changed = false;
    store_state(s, &state);
    s->told_settled = state.settled;
    if (s->config.on_stored)
        s->config.on_stored(s->config.ctx, &state);
}

/* ---- turns */

/* Ends the transaction of the state, makes it durable, and only then lets batches and acknowledgements leave. */
static int make_durable(struct store *s) {
    int err = 0;
    if (s->in_tx) {
        if ((err = state_commit(s)) || (err = state_sync(s)))
            return err;
        s->durable_note = s->hot.note_seq;
    }
    return give(s);
}

static int forget_transaction(struct store *s, int err) {
    struct bad_batch bad = s->bad;
    state_rollback(s);
    if (bad.version)
        state_set_bad(s, bad);
    return err;
}

static int64_t retry_after_ms(const struct store *s) {
    int64_t after = s->moved_rows + (uint64_t)s->hot.note_seq != s->retried_at ? RETRY_SOON_MS : RETRY_PARKED_MS;
    int64_t pause = s->retry_us * RETRY_PAUSE / 1000;
    return pause <= after ? after : pause < RETRY_PAUSE_MS ? pause : RETRY_PAUSE_MS;
}

/* May it be tried? Not while the file refuses its form, or that of the row it waits for: no other row lets it in. */
static bool may_be_tried(struct store *s, const struct pending_row *p, int64_t now) {
    if (now - p->tried_ms >= RETRY_ANYWAY_MS)
        return true;
    for (int n = 0; p && p->reason && n < RETRY_CHAIN; n++) {
        if (p->form_schema == s->schema.version && !p->retry)
            return false;
        p = p->waits.tbl ? pending_find(s, p->waits.tbl, &p->waits.who) : NULL;
    }
    return true;
}

static void retry_parked(struct store *s) {
    int64_t now = mono_ms();
    uint32_t n = 0, looks = HASH_COUNT(s->pending), most = RETRY_PARKED_ROWS;
    if (!s->parked_count || now < s->retried_ms + retry_after_ms(s))
        return;
    s->retrying_all = s->parked_count > most && now >= s->retry_all_ms; /* a circle is let in as a whole, or not at all */
    if (s->retrying_all) {
        most = BATCH_ROWS_MAX;
        s->retry_all_ms = now + RETRY_ANYWAY_MS;
    } else if (looks > RETRY_PARKED_LOOKS) {
        looks = RETRY_PARKED_LOOKS;
    }
    s->retried_ms = now;
    s->retried_at = s->moved_rows + (uint64_t)s->hot.note_seq;
    /* what a foreign key keeps out can only be let in by another row: to try it costs the others of that projection */
    if (s->retrying_all || s->foreign_at != s->retried_at + (uint64_t)s->hot.flight_seq)
        s->foreign_left = s->parked_count;
    s->foreign_at = s->retried_at + (uint64_t)s->hot.flight_seq;
    struct pending_row *p, *next;
    HASH_ITER(hh, s->pending, p, next) { /* those that were looked at go behind the others */
        if (!looks-- || n >= most)
            break;
        if (!p->reason || p->retry)
            continue;
        HASH_DEL(s->pending, p);
        HASH_ADD(hh, s->pending, name, p->name_len, p);
        bool foreign = foreign_parked(p);
        if ((foreign && !s->foreign_left && now - p->tried_ms < RETRY_ANYWAY_MS) || !may_be_tried(s, p, now))
            continue;
        n++;
        s->foreign_left -= foreign && s->foreign_left;
        p->retry = true;
        p->tried_ms = now;
        s->retries++;
    }
}

static int settle_schema(struct store *s) {
    if (!s->schema_waits || mono_ms() - s->schema_changed_ms < SCHEMA_QUIET_MS || s->scan || s->held_since_ms)
        return 0;
    s->schema_waits = false;
    int err = state_begin(s);
    return err ? err : drain_seal(s, false);
}

/* 0, DRAIN_MORE, or an error. */
static int gather_changes(struct store *s) {
    int err;
    if (s->held_since_ms && !moves_hold(s)) /* quiet since then: what came is taken up, and read */
        s->schema_stale = s->hold_over = true;
    if (s->schema_stale) {
        bool other = s->file == FILE_OTHER;
        if (s->in_tx && (err = state_commit(s)))
            return err;
        if ((err = schema_refresh(s))) /* the application keeps the lock: again in a moment */
            return err == ERR_BUSY && s->in_tx && state_commit(s) ? ERR_IO : err;
        if (s->in_tx && (err = state_commit(s))) /* what would be lost with it is found again: not worth a sync of its own */
            return err;
        if (s->file == FILE_OTHER && !other)
            return ERR_CLOSED; /* found only when opening begins an epoch for it */
    }
    if (s->scan && scan_adopts(s) && (err = afar_learn(s)))
        return err;
    if (s->scan) {
        if (s->flights && (err = pending_map_flights(s))) /* what is not shown yet is no local difference */
            return err;
        if ((err = scan_step(s)) == ERR_SCHEMA && s->schema_stale)
            return DRAIN_MORE;
        if (err || s->scan)
            return err ? err : DRAIN_MORE;
        if ((err = state_begin(s)))
            return err;
    }
    if (!s->recapture && s->hot.published == 0 && s->hot.base == 0 && s->origins[s->own].version && s->clock.last == 0 && s->hot.digest_a) {
        s->hot.base = base_of(s->hot.digest_a); /* a first capture was complete, but for this, when the node ended */
        s->base_due = true;
    }
    err = drain(s, false);
    if (err == ERR_SCHEMA) {
        s->schema_stale = true;
        return DRAIN_MORE;
    }
    if (err == DRAIN_RESCAN)
        return scan_start(s, true) ? ERR_IO : DRAIN_MORE;
    if (err < 0 || err == DRAIN_MORE)
        return err;
    if (err == DRAIN_DONE)
        s->app_ms = s->active_ms = mono_ms();
    if ((!s->held_since_ms && (err = afar_settle(s))) || (err = settle_schema(s)))
        return err;
    bool schema_due = s->hot.schema_sent != s->schema.text && s->schema.count && !s->schema_waits;
    if (s->hot.published < s->origins[s->own].version || s->base_due || schema_due || (s->policies_due && s->schema.count)) {
        if ((err = state_begin(s)) || (err = drain_seal(s, false)))
            return err;
        s->hot.published = s->origins[s->own].version;
    }
    return 0;
}

static int quiet_work(struct store *s) {
    int64_t now = mono_ms();
    int err = state_checkpoint(s, now - s->active_ms > 50);
    if (err || (err = replaced_quiet(s)) || s->in_tx || (err = keyless_withdraw(s)) || s->in_tx || (err = holders_build(s)) || s->in_tx ||
        (err = recheck_step(s)) || s->in_tx)
        return err;
    /* An application that writes here checkpoints by itself. */
    if (now - s->checkpoint_ms >= CHECKPOINT_MS && now - s->app_ms > 2000) {
        int64_t held = appfile_checkpoint(&s->app, now - s->active_ms > 2000);
        s->checkpoint_ms = now;
        if (held > 0)
            store_lock_time(s, held);
    }
    if (now - s->active_ms >= REST_MS)
        (void)appfile_rest(&s->app);
    if (now - s->active_ms < QUIET_TRIM_MS || s->trim_ms == s->active_ms)
        return 0;
    if (appfile_begin(&s->app, true))
        return 0;
    s->trim_ms = s->active_ms;
    int64_t began = store_mono_us();
    sqlite3_bind_int64(s->w_trim, 1, s->durable_note);
    sqlite3_bind_int64(s->w_trim, 2, 20000);
    err = sql_run(s->w_trim);
    int trimmed = sqlite3_changes(s->app.writer);
    if (err || !trimmed || appfile_commit(&s->app))
        appfile_rollback(&s->app);
    store_lock_time(s, store_mono_us() - began);
    if (trimmed == 20000)
        s->trim_ms = 0;
    return 0;
}

static int next_turn(struct store *s, int shown) {
    if (s->in_tx) /* the quiet work found changes: they become durable with the next turn */
        return 0;
    if (shown == PROJECT_DRAIN || (s->delivered_count && !merge_full(s)))
        return 0;
    if (shown == PROJECT_WAIT)
        return 1;
    if (s->held_since_ms)
        return HELD_LOOK_MS;
    int afar = afar_wait_ms(s);
    if (!afar)
        return 0;
    if (s->follow_due)
        return FOLLOW_LOOK_MS;
    if (s->flights && !project_blocked(s))
        return 0;
    if (s->flights)
        return PARTS_WAIT_MS / 10;
    if (s->schema_waits)
        return SCHEMA_QUIET_MS / 3;
    if (s->parked_count)
        return (int)retry_after_ms(s);
    if (afar < INT_MAX)
        return afar;
    if (s->wal_pages >= 500 || replaced_due(s) || (s->again_due && s->app_open) || holders_due(s))
        return 100;
    int64_t recheck = s->app_open ? recheck_wait_ms(s) : INT_MAX;
    if (s->app_open && recheck > REST_MS && (s->trim_ms != s->active_ms || (s->app.wal && !s->config.vfs && !s->app.resting)))
        return REST_MS;
    return recheck < INT_MAX ? (int)recheck : -1;
}

/* Parts of a commit wait for the last one; if it does not come, not for ever, since others are behind them. */
static int wait_for_parts(struct store *s) {
    if (!project_blocked(s)) {
        s->blocked_since_ms = 0;
        return 0;
    }
    if (!s->blocked_since_ms)
        s->blocked_since_ms = mono_ms();
    return mono_ms() - s->blocked_since_ms > PARTS_WAIT_MS ? project_hold_parts(s) : 0;
}

/* Has the file not been readable for long? Then it is no commit of the application: it is said, and looked at again from opening on. */
static bool kept_locked(struct store *s) {
    if (!s->locked_since_ms)
        s->locked_since_ms = mono_ms();
    return mono_ms() - s->locked_since_ms >= KEPT_LOCKED_MS;
}

static int turn(struct store *s) {
    int err = 0;
    if (s->app_open) {
        err = gather_changes(s);
        if (err == ERR_BUSY)
            return s->in_tx || kept_locked(s) ? err : 5;
        if (err < 0)
            return err;
        s->locked_since_ms = 0;
        if (err == DRAIN_MORE) {
            if (s->in_tx && (err = state_commit(s)))
                return err;
            return s->scan && !s->schema_stale ? 2 : 0;
        }
    }
    if (s->delivered_count && ((err = state_begin(s)) || (err = merge_delivered(s))))
        return err;
    if ((err = same_judge(s)))
        return err;
    if ((err = make_durable(s)))
        return err;
    if (!s->app_open) {
        tell_state(s);
        return s->delivered_count ? 0 : MISSING_LOOK_MS;
    }
    if (s->policies_moved) /* what refers to what is bound anew before anything is shown */
        return 0;
    if (s->follow_due && ((err = follow(s)) || s->scan))
        return err;
    retry_parked(s);
    if ((err = wait_for_parts(s)))
        return err;
    int shown = project(s);
    if (shown == ERR_SCHEMA) {
        s->schema_stale = true;
        shown = PROJECT_DRAIN;
    }
    if (shown < 0)
        return shown;
    if (shown == PROJECT_DRAIN) /* at once: what is durable is told with the next turn */
        return s->in_tx ? state_commit(s) : 0;
    if (shown == PROJECT_DONE)
        s->active_ms = mono_ms();
    if (s->given < s->hot.published) { /* a drain under the lock made a batch: it leaves as any other */
        if ((err = make_durable(s)))
            return err;
    } else if (s->in_tx && (err = state_commit(s))) {
        return err;
    }
    tell_state(s);
    if ((shown == PROJECT_NOTHING && !s->delivered_count) || mono_ms() - s->checkpoint_ms >= CHECKPOINT_MS)
        if ((err = quiet_work(s)))
            return err;
    if (!s->in_tx) /* a look that found nothing may have been the last thing to do */
        tell_state(s);
    return next_turn(s, shown);
}

static void say_failure(struct store *s, int err, char *why, size_t why_len) {
    sqlite3 *const dbs[] = {s->app_open ? s->app.reader : NULL, s->app_open ? s->app.writer : NULL, s->db};
    const char *mend = err == ERR_FULL ? "free some, it is tried again by itself" : "it is tried again by itself";
    char said[300] = "";
    if (err == ERR_BUSY && s->locked_since_ms) {
        snprintf(why, why_len, APPFILE_LOCKED, s->config.app_path, "database is locked");
        return;
    }
    for (size_t i = 0; i < sizeof dbs / sizeof *dbs; i++) {
        int code = dbs[i] ? sqlite3_errcode(dbs[i]) & 0xff : SQLITE_OK;
        size_t at = strlen(said);
        if (code == SQLITE_OK || code == SQLITE_ROW || code == SQLITE_DONE)
            continue;
        snprintf(said + at, sizeof said - at, "%s%s", at ? "; " : " (", sqlite3_errmsg(dbs[i]));
        if (code == SQLITE_CORRUPT && dbs[i] != s->db)
            mend = "restore it from a backup, or try sqlite3's .recover; `starlingd --check` tells what is damaged";
    }
    snprintf(why, why_len, "%s: %s%s%s: %s", s->config.app_path, err_text(err), said, *said ? ")" : "", mend);
}

int store_turn(struct store *s, char *why, size_t why_len) {
    if (s->app_open && !s->config.vfs && !appfile_same(&s->app)) {
        snprintf(why, why_len, "%s was replaced or removed: it is opened anew", s->config.app_path);
        return ERR_CLOSED;
    }
    struct stat st;
    if (!s->app_open && stat(s->config.app_path, &st) == 0 && st.st_size > 0)
        return ERR_SCHEMA; /* the application has made it: it is opened anew, as any file of its */
    int r = turn(s), told = r >= -1 ? roster_tell(s) : 0;
    r = told ? told : r;
    if (r >= -1)
        return r;
    say_failure(s, r, why, why_len);
    return forget_transaction(s, r);
}

/* ---- what the owner asks */

struct appfile *store_appfile(struct store *s) {
    return s->app_open ? &s->app : NULL;
}

void store_deliver(struct store *s, struct bytes *batch) {
    if (s->delivered_count == s->delivered_cap) {
        uint32_t cap = s->delivered_cap ? s->delivered_cap * 2 : 64;
        struct bytes **p = realloc(s->delivered, cap * sizeof(struct bytes *));
        if (!p)
            return; /* it comes again */
        s->delivered = p;
        s->delivered_cap = cap;
    }
    s->delivered[s->delivered_count++] = bytes_ref(batch);
}

int store_read(struct store *s, const struct origin *origin, uint64_t from, uint64_t to, size_t bytes_max, struct bytes ***batches,
               uint32_t *count) {
    *batches = NULL;
    *count = 0;
    int no = state_find_origin(s, origin);
    if (no < 0 || from == 0)
        return 0;
    uint64_t top = (uint32_t)no == s->own ? s->given : s->origins[no].version;
    if (to > top)
        to = top;
    size_t bytes = 0;
    uint32_t cap = 0;
    for (uint64_t v = from; v <= to && (*count == 0 || bytes < bytes_max); v++) {
        struct bytes *b;
        int err = log_read(s, (uint32_t)no, v, &b);
        if (err)
            return err == ERR_NOTFOUND ? 0 : err;
        if (*count == cap) {
            cap = cap ? cap * 2 : 16;
            struct bytes **p = realloc(*batches, cap * sizeof(struct bytes *));
            if (!p) {
                bytes_unref(b);
                return ERR_NOMEM;
            }
            *batches = p;
        }
        (*batches)[(*count)++] = b;
        bytes += b->len;
    }
    return 0;
}

void store_learn_base(struct store *s, uint64_t base) {
    if (s->hot.base || !base || state_begin(s))
        return;
    s->hot.base = base & ~BASE_FLAGS;
    s->stored_changed = true;
}

void store_shared(struct store *s) {
    if (s->shared || state_begin(s) || sql_exec(s->db, "INSERT OR IGNORE INTO meta VALUES('shared', 1)"))
        return; /* it is told again after the next start */
    s->shared = s->stored_changed = true;
}

int store_barrier(struct store *s) {
    if (!s->app_open)
        return 1;
    if (s->scan || s->schema_stale || s->held_since_ms || s->given < s->hot.published || replaced_due(s) || afar_due(s))
        return 0;
    int64_t seq = 0;
    if (sql_int(s->app.reader, 0, &seq, "SELECT max(seq) FROM main._starling_dirty"))
        return 0;
    return seq <= s->hot.note_seq && !s->in_tx && !s->schema_waits;
}

void store_watch(struct store *s, bool on) { s->watched = on; }

void store_time_passes(struct store *s) {
    for (uint32_t i = 0; i < s->shown_count; i++)
        s->shown[i].ms -= SHOWN_RECENT_MS + 1;
    outdated_pass(s, SHOWN_RECENT_MS + 1);
    afar_pass(s, SHOWN_RECENT_MS + 1);
}

int store_uninstall(const char *app_path, char *why, size_t why_len) {
    struct appfile a;
    int err = appfile_open(&a, app_path, NULL, false, why, why_len);
    if (err)
        return err;
    bool any = false;
    err = capture_traces(a.reader, &any);
    if (!err && any && (err = appfile_begin_within(&a, true, UNINSTALL_ALONE_MS)) == ERR_BUSY)
        err = appfile_begin_within(&a, false, UNINSTALL_MS);
    if (!err && any && ((err = capture_remove(a.writer)) || (err = appfile_commit_patiently(&a))))
        appfile_rollback(&a);
    if (err)
        snprintf(why, why_len, "%s: %s: %s: stop the application and try again", app_path, err_text(err), sqlite3_errmsg(a.writer));
    appfile_close(&a);
    return err;
}

static void buf_shrink(struct buf *b) {
    size_t max = b->max;
    buf_release(b);
    buf_init(b, max);
}

void store_release_memory(struct store *s) {
    if (s->in_tx || s->scan || batch_writer_rows(s->writer))
        return;
    struct batch_writer *writer = batch_writer_new(); /* a cleared one keeps its streams */
    if (writer) {
        batch_writer_free(s->writer);
        s->writer = writer;
    }
    values_release(s);
    buf_shrink(&s->blob);
    buf_shrink(&s->key);
    buf_shrink(&s->key2);
    sqlite3_db_release_memory(s->db);
    if (!s->app_open)
        return;
    sqlite3_db_release_memory(s->app.reader);
    sqlite3_db_release_memory(s->app.writer);
}
