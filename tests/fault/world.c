/* Starling tests: see world.h. */
#include "world.h"

#include <assert.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/err.h"

static const char *const mode_pragmas[MODES] = {"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                                                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
                                                "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL"};
static const char *const file_tails[] = {"a.db", "a.db-wal", "a.state", "a.state-wal", "b.db", "b.db-wal", "b.state", "b.state-wal"};
#define FILES (sizeof file_tails / sizeof *file_tails)

bool world_fail(struct world *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(w->why, sizeof w->why, format, args);
    va_end(args);
    return false;
}

uint64_t world_number(const char *text) {
    char *end = NULL;
    unsigned long long n = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == 0 ? n : UINT64_MAX;
}

/* ---- the files every run starts from */

static void copy(const char *from, const char *to) {
    FILE *in = fopen(from, "rb");
    if (!in) {
        unlink(to);
        return;
    }
    FILE *out = fopen(to, "wb");
    assert(out);
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in)) > 0) {
        size_t put = fwrite(block, 1, n, out);
        assert(put == n);
    }
    fclose(in);
    int r = fclose(out);
    assert(r == 0);
}

static void copy_all(struct world *w, bool to_template) {
    for (size_t i = 0; i < FILES; i++) {
        char work[128], template[128];
        snprintf(work, sizeof work, "%s/%s", w->folder, file_tails[i]);
        snprintf(template, sizeof template, "%s/template%d%d-%s", w->folder, w->mode, w->fresh, file_tails[i]);
        copy(to_template ? work : template, to_template ? template : work);
    }
}

static void sides_init(struct world *w) {
    side_init(&w->a, w->folder, "a", 1, POWERCUT_VFS);
    side_init(&w->b, w->folder, "b", 2, NULL);
    w->a.pragmas = w->b.pragmas = mode_pragmas[w->mode];
}

static bool template_make(struct world *w) {
    static const char *const tables = "CREATE TABLE note(key TEXT PRIMARY KEY, a, b);"
                                      "CREATE TABLE hist(who TEXT, n INTEGER, tag)";
    static const char *const rows = "INSERT INTO note VALUES('r', 'A0', 'A0'), ('q', 'A0', 'A0'), ('s', 'A0', 'A0')";
    sides_init(w);
    side_unlink(&w->a);
    side_unlink(&w->b);
    powercut_reset(&w->disk);
    struct side *a = &w->a, *b = &w->b;
    if (side_open_app(a) != SQLITE_OK || side_sql(a, tables) != SQLITE_OK || side_open_app(b) != SQLITE_OK ||
        side_sql(b, tables) != SQLITE_OK)
        return world_fail(w, "no tables: %s %s", a->why, b->why);
    if (side_open_store(b) != 0 || side_quiet(b) != 0)
        return world_fail(w, "no start of b: %s", b->why);
    if (w->fresh && side_sql(a, rows) != SQLITE_OK)
        return world_fail(w, "no first rows: %s", a->why);
    if (!w->fresh && (side_open_store(a) != 0 || side_quiet(a) != 0 || side_sql(a, rows) != SQLITE_OK || side_exchange(a, b) != 0))
        return world_fail(w, "no first exchange: %s %s", a->why, b->why);
    if (w->fresh && w->mode != MODE_DELETE) /* else the last connection takes the WAL with it, and rows that need it are the point */
        sqlite3_db_config(a->app, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    world_stop(w);
    copy_all(w, true);
    return true;
}

bool world_init(struct world *w) {
    memset(w, 0, sizeof *w);
    int r = sodium_init();
    assert(r >= 0);
    powercut_init(&w->disk);
    snprintf(w->folder, sizeof w->folder, "/dev/shm/starling-fault-XXXXXX");
    if (!mkdtemp(w->folder)) {
        snprintf(w->folder, sizeof w->folder, "/tmp/starling-fault-XXXXXX");
        if (!mkdtemp(w->folder))
            return world_fail(w, "no folder for the files in /dev/shm or /tmp");
    }
    for (int i = 0; i < 2 * MODES; i++) {
        w->mode = (enum world_mode)(i / 2);
        w->fresh = i % 2;
        if (!template_make(w))
            return false;
    }
    return true;
}

void world_release(struct world *w) {
    world_stop(w);
    sides_init(w);
    side_unlink(&w->a);
    side_unlink(&w->b);
    for (int i = 0; i < 2 * MODES; i++)
        for (size_t k = 0; k < FILES; k++) {
            char path[128];
            snprintf(path, sizeof path, "%s/template%d%d-%s", w->folder, i / 2, i % 2, file_tails[k]);
            unlink(path);
        }
    rmdir(w->folder);
    powercut_release(&w->disk);
}

bool world_start(struct world *w, enum world_mode mode, bool fresh) {
    w->mode = mode;
    w->fresh = fresh;
    w->wrote_count = 0;
    w->sent_of_made = 0;
    w->b_failed = false;
    w->why[0] = 0;
    sides_init(w);
    side_unlink(&w->a);
    side_unlink(&w->b);
    copy_all(w, false);
    powercut_reset(&w->disk);
    if (side_open_app(&w->b) != SQLITE_OK || side_open_store(&w->b) != 0 || side_quiet(&w->b) != 0)
        return world_fail(w, "no start: %s", w->b.why);
    if (side_open_app(&w->a) != SQLITE_OK || (!fresh && (side_open_store(&w->a) != 0 || side_quiet(&w->a) != 0)))
        return world_fail(w, "no start: %s", w->a.why);
    powercut_arm(&w->disk, 0);
    return true;
}

void world_stop(struct world *w) {
    side_release(&w->a);
    side_release(&w->b);
    side_batches_clear(&w->sent);
}

/* ---- steps */

static bool a_did(struct world *w, int r) {
    return r == 0 || world_fail(w, "a: %s: %s", r < 0 ? err_text(r) : sqlite3_errstr(r), w->a.why);
}

static bool b_did(struct world *w, int r) {
    w->b_failed |= r != 0;
    return r == 0 || world_fail(w, "b, which is well: %s: %s", r < 0 ? err_text(r) : sqlite3_errstr(r), w->b.why);
}

static bool has_row_s(struct side *s) {
    uint32_t count;
    char **lines = side_query(s->app, "SELECT 1 FROM note WHERE key = 's'", &count);
    bool has = lines && count == 1;
    side_lines_free(lines, count);
    return has;
}

/* One transaction of an application. */
static bool app_writes(struct world *w, struct side *s, char what) {
    bool mine = s == &w->a;
    assert(w->wrote_count < WROTE_MAX);
    unsigned tag = ++w->wrote_count;
    struct wrote *t = &w->wrote[tag - 1];
    *t = (struct wrote){.mine = mine, .tag = tag};
    char who = mine ? 'A' : 'P', value[16], sql[400], change[200] = "";
    snprintf(value, sizeof value, "'%c%u'", who, tag);
    if (what == 'a') {
        snprintf(change, sizeof change, "UPDATE note SET a = %s WHERE key = 'r';", value);
        t->cells = 1;
    } else if (what == 'b') {
        snprintf(change, sizeof change, "UPDATE note SET b = %s WHERE key = 'q';", value);
        t->cells = 8;
    } else if (what == 'c') {
        snprintf(change, sizeof change, "UPDATE note SET a = %s, b = %s WHERE key IN ('r', 's');", value, value);
        t->cells = has_row_s(s) ? 1 | 2 | 16 | 32 : 1 | 2;
    } else if (what == 'd' && has_row_s(s)) {
        snprintf(change, sizeof change, "DELETE FROM note WHERE key = 's';");
        t->ended = 16 | 32;
    } else if (what == 'd') {
        snprintf(change, sizeof change, "INSERT INTO note VALUES('s', %s, %s);", value, value);
        t->cells = 16 | 32;
    }
    if (what == 'm')
        snprintf(change, sizeof change,
                 "INSERT INTO hist WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 40) "
                 "SELECT '%c', %u * 1000 + n, %s || printf('.%%d', n) FROM i;",
                 who, tag, value);
    snprintf(sql, sizeof sql, "BEGIN IMMEDIATE; %s INSERT INTO hist VALUES('%c', %u, %s); COMMIT", change, who, tag, value);
    bool paused = w->disk.paused;
    w->disk.paused = paused || w->spare_app;
    int r = side_sql(s, sql);
    t->done = t->kept = r == SQLITE_OK;
    if (r != SQLITE_OK && s->app && !sqlite3_get_autocommit(s->app))
        sqlite3_exec(s->app, "ROLLBACK", NULL, NULL, NULL);
    w->disk.paused = paused;
    return mine ? a_did(w, r) : b_did(w, r);
}

/* What a's store said is durable leaves. */
static bool send_all(struct world *w) {
    while (w->sent_of_made < w->a.made.count) {
        struct bytes *batch = w->a.made.items[w->sent_of_made++];
        side_batches_add(&w->sent, batch);
        int r = side_offer(&w->b, batch);
        if (r)
            return b_did(w, r);
    }
    return true;
}

static bool give_all(struct world *w, bool turn) {
    if (!b_did(w, side_quiet(&w->b)))
        return false;
    if (turn)
        return a_did(w, side_pull(&w->a, &w->b));
    for (uint32_t i = 0; i < w->b.made.count; i++)
        side_queue(&w->a, w->b.made.items[i]);
    return true;
}

bool world_step(struct world *w, char step) {
    bool upper = step >= 'A' && step <= 'Z';
    struct side *s = upper && step != 'G' ? &w->b : &w->a;
    char what = upper ? (char)(step - 'A' + 'a') : step;
    bool ok;
    w->disk.ours = strchr("tzsgo", what) != NULL;
    switch (what) {
    case 't': ok = s == &w->a ? a_did(w, side_quiet(s)) : b_did(w, side_quiet(s)); break;
    case 'k': ok = a_did(w, side_sql(s, "PRAGMA wal_checkpoint(PASSIVE)")); break;
    case 'o':
        side_close_store(s);
        ok = a_did(w, side_open_store(s));
        break;
    case 's': ok = send_all(w); break;
    case 'g': ok = give_all(w, !upper); break;
    default: ok = app_writes(w, s, what);
    }
    w->disk.ours = false;
    return ok;
}

void world_intrude(struct world *w, char step) {
    sqlite3_busy_timeout(w->a.app, 0);
    char why[sizeof w->why], side_why[sizeof w->a.why];
    memcpy(why, w->why, sizeof why);
    memcpy(side_why, w->a.why, sizeof side_why);
    app_writes(w, &w->a, step); /* it may be locked: then it was not done */
    memcpy(w->why, why, sizeof why);
    memcpy(w->a.why, side_why, sizeof side_why);
    sqlite3_busy_timeout(w->a.app, 2000);
}

bool world_steps(struct world *w, const char *steps) {
    for (; *steps; steps++)
        if (!world_step(w, *steps))
            return false;
    return true;
}

/* ---- judging */

/* True if a TEXT value in the batch (of that table, if not NULL) is who<tag>. With tag 0: if any begins with who. */
static bool batch_has(const struct bytes *batch, const char *table, char who, unsigned tag) {
    char value[16];
    int len = tag ? snprintf(value, sizeof value, "%c%u", who, tag) : snprintf(value, sizeof value, "%c", who);
    struct batch_reader *r = batch_reader_new();
    assert(r);
    struct change c;
    bool has = false;
    int e = batch_reader_open(r, batch->data, batch->len);
    assert(e == 0);
    while (!has && (e = batch_reader_next(r, &c)) == 1)
        for (uint32_t i = 0; i < c.columns_count && !has; i++) {
            bool key = c.columns_len[i] == 3 && memcmp(c.columns[i], "who", 3) == 0;
            bool here = !table || (c.table_len == strlen(table) && memcmp(c.table, table, c.table_len) == 0);
            has = here && !key && c.values[i].type == VALUE_TEXT && c.values[i].len >= (size_t)len &&
                  (!tag || c.values[i].len == (size_t)len) && memcmp(c.values[i].p, value, (size_t)len) == 0;
        }
    assert(has || e == 0);
    batch_reader_free(r);
    return has;
}

static bool batches_have(const struct side_batches *b, const char *table, char who, unsigned tag) {
    for (uint32_t i = 0; i < b->count; i++)
        if (batch_has(b->items[i], table, who, tag))
            return true;
    return false;
}

/* Everything of a's origin in the log of a side. */
static bool log_of(struct world *w, struct side *s, const struct vv_entry *of, struct side_batches *out) {
    for (uint64_t next = 1; next <= of->version;) {
        struct bytes **batches = NULL;
        uint32_t count = 0;
        int r = store_read(s->store, &of->origin, next, of->version, 1 << 20, &batches, &count);
        for (uint32_t i = 0; i < count; i++) {
            side_batches_add(out, batches[i]);
            bytes_unref(batches[i]);
        }
        free(batches);
        if (r || count == 0)
            return world_fail(w, "the log cannot be read: %s", err_text(r));
        next += count;
    }
    return true;
}

/* Of all its epochs: a state that was lost goes on under a new one. */
static bool log_of_a(struct world *w, struct side *s, struct side_batches *out) {
    struct vv have = {0};
    struct db_state state;
    store_state(s->store, &state);
    bool ok = vv_copy(&have, &state.have) == 0;
    for (uint32_t i = 0; i < have.count && ok; i++)
        if (memcmp(have.entries[i].origin.node, w->a.origin.node, sizeof w->a.origin.node) == 0)
            ok = log_of(w, s, &have.entries[i], out);
    vv_release(&have);
    return ok;
}

bool world_look(struct world *w) {
    if (!a_did(w, side_open_app(&w->a)))
        return false;
    uint32_t count;
    char **lines = side_query(w->a.app, "PRAGMA integrity_check", &count);
    bool sound = lines && count == 1 && strcmp(lines[0], "ok") == 0;
    side_lines_free(lines, count);
    if (!sound)
        return world_fail(w, "the application's file is damaged");
    for (unsigned i = 0; i < w->wrote_count; i++) {
        struct wrote *t = &w->wrote[i];
        char sql[100];
        snprintf(sql, sizeof sql, "SELECT 1 FROM hist WHERE who = 'A' AND n = %u", t->tag);
        lines = side_query(w->a.app, sql, &count);
        if (t->mine)
            t->kept = (lines && count == 1) || batches_have(&w->sent, NULL, 'A', t->tag);
        side_lines_free(lines, count);
    }
    return true;
}

bool world_sent_holds(struct world *w) {
    struct side_batches mine = {0};
    bool ok = log_of_a(w, &w->a, &mine);
    for (uint32_t i = 0; i < w->sent.count && ok; i++) {
        const struct bytes *theirs = w->sent.items[i];
        struct batch_head head, other = {0};
        int r = batch_head_read(&head, theirs->data, theirs->len);
        assert(r == 0);
        uint64_t version = head.version;
        struct origin origin = head.origin;
        batch_head_release(&head);
        bool found = false, same = false;
        for (uint32_t k = 0; k < mine.count && !found; k++) {
            r = batch_head_read(&other, mine.items[k]->data, mine.items[k]->len);
            assert(r == 0);
            found = other.version == version && origin_cmp(&other.origin, &origin) == 0;
            same = found && mine.items[k]->len == theirs->len && memcmp(mine.items[k]->data, theirs->data, theirs->len) == 0;
            batch_head_release(&other);
        }
        if (!found)
            ok = world_fail(w, "version %llu had left and is not here any more", (unsigned long long)version);
        else if (!same)
            ok = world_fail(w, "version %llu was used twice: the peer has other content", (unsigned long long)version);
    }
    side_batches_clear(&mine);
    return ok;
}

static bool same_rows(struct world *w, const char *sql) {
    uint32_t a_count, b_count;
    char **a = side_query(w->a.app, sql, &a_count), **b = side_query(w->b.app, sql, &b_count);
    bool same = a && b && a_count == b_count;
    for (uint32_t i = 0; same && i < a_count; i++)
        if (strcmp(a[i], b[i]) != 0)
            same = world_fail(w, "a shows %s, b shows %s", a[i], b[i]);
    if (a_count != b_count)
        world_fail(w, "a shows %u rows, b %u: %s", a_count, b_count, sql);
    side_lines_free(a, a_count);
    side_lines_free(b, b_count);
    return same;
}

/* The value of a cell, in text[64]. */
static const char *shown(struct side *s, unsigned cell, char *text) {
    char sql[120];
    snprintf(sql, sizeof sql, "SELECT %c FROM note WHERE key = '%c'", "ab"[cell % 2], "rqs"[cell / 2]);
    uint32_t count;
    char **lines = side_query(s->app, sql, &count);
    snprintf(text, 64, "%s", lines && count == 1 ? lines[0] : "no such row");
    side_lines_free(lines, count);
    return text;
}

static bool shows(struct side *s, unsigned cell, const char *value) { return strcmp(shown(s, cell, (char[64]){0}), value) == 0; }

/* The last transaction of a's application on each cell that survived: in the log, and shown unless the peer wrote there as well. */
static bool last_writes_hold(struct world *w, const struct side_batches *log) {
    for (unsigned cell = 0; cell < CELLS; cell++) {
        const struct wrote *last = NULL;
        bool peer_wrote = false;
        for (unsigned i = 0; i < w->wrote_count; i++) {
            const struct wrote *t = &w->wrote[i];
            uint8_t row = (uint8_t)(3u << (cell & ~1u));
            if (!t->mine)
                peer_wrote |= (t->cells & row) || (t->ended & row);
            else if (t->kept && ((t->cells | t->ended) & (1u << cell)))
                last = t;
        }
        if (!last || (last->ended & (1u << cell)))
            continue;
        char value[16];
        snprintf(value, sizeof value, "A%u", last->tag);
        if (!batches_have(log, "note", 'A', last->tag))
            return world_fail(w, "%s survived, and is in no batch", value);
        if (!peer_wrote && (!shows(&w->a, cell, value) || !shows(&w->b, cell, value)))
            return world_fail(w, "%s survived, nobody wrote over it, and it is not shown: a has %s, b has %s", value,
                              shown(&w->a, cell, (char[64]){0}), shown(&w->b, cell, (char[64]){0}));
    }
    return true;
}

static bool hist_holds(struct world *w) {
    for (unsigned i = 0; i < w->wrote_count; i++) {
        const struct wrote *t = &w->wrote[i];
        char sql[100];
        snprintf(sql, sizeof sql, "SELECT 1 FROM hist WHERE who = '%c' AND n = %u", t->mine ? 'A' : 'P', t->tag);
        uint32_t a, b;
        char **a_lines = side_query(w->a.app, sql, &a), **b_lines = side_query(w->b.app, sql, &b);
        side_lines_free(a_lines, a);
        side_lines_free(b_lines, b);
        if (t->kept && (a != 1 || b != 1))
            return world_fail(w, "transaction %c%u is lost (a has it: %u, b: %u)", t->mine ? 'A' : 'P', t->tag, a, b);
    }
    return true;
}

bool world_settles(struct world *w) {
    struct side_batches log = {0};
    if (side_exchange(&w->a, &w->b) != 0)
        return world_fail(w, "the two do not come together: a: %s; b: %s", w->a.why, w->b.why);
    bool ok = world_sent_holds(w) && log_of_a(w, &w->b, &log);
    if (ok && batches_have(&log, NULL, 'P', 0))
        ok = world_fail(w, "a value of the peer was sent back as a's own (echo)");
    ok = ok && last_writes_hold(w, &log) && hist_holds(w);
    side_batches_clear(&log);
    ok = ok && same_rows(w, "SELECT key, quote(a), quote(b) FROM note") && same_rows(w, "SELECT who, n, tag FROM hist");
    if (!ok)
        return false;
    struct db_state a, b;
    store_state(w->a.store, &a);
    store_state(w->b.store, &b);
    if (memcmp(a.digest, b.digest, sizeof a.digest) != 0)
        return world_fail(w, "equal rows, different digests");
    return true;
}
