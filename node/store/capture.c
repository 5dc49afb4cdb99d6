/* The triggers, word for word (table number 3, key "id"; every identifier is quoted, and nothing but key columns is named):
 *
 *   _starling_3_b  BEFORE INSERT ON "t" WHEN NEW."id" IS NOT -1 BEGIN                    INTEGER PRIMARY KEY only
 *                    INSERT INTO _starling_dirty(tbl,kind,at,nonce,k0) VALUES(3,2,julianday('now'),random(),NEW."id"); END
 *   _starling_3_i  AFTER INSERT: kind 1 with the new key
 *   _starling_3_u  AFTER UPDATE: kind 3 with the new key
 *   _starling_3_m  AFTER UPDATE WHEN OLD."id" IS NOT NEW."id": kind 5 with the old key, directly followed by another kind 3 with the new key, so
 *                  that the two are a pair whichever of the two triggers SQLite fires first
 *   _starling_3_d  AFTER DELETE: kind 4 with the old key
 *   _starling_trim AFTER INSERT ON _starling_dirty WHEN NEW.seq % 256 = 0 BEGIN
 *                    DELETE FROM _starling_dirty WHERE seq <= NEW.seq - 1000000; END
 *
 * Why so (measured with SQLite 3.40.1; rows of 9 columns, 100 a transaction, plain 1.6 us a row):
 * - One note costs 1.1 us. Half of it is the price of calling any function at all inside a trigger (SQLite then keeps a statement
 *   journal); with one called, a second is free. The BEFORE trigger adds 0.25 us where its WHEN is false: entering a trigger costs by the
 *   size of its program, so bodies are kept minimal.
 * - Trimming in one trigger on the note table, once in 256 notes, costs 0.15 us; a DELETE at the end of each body 0.3 us. Also it
 *   trims whatever kind of note comes, so that INSERT OR IGNORE of rows that exist cannot make the table grow.
 * - A second UPDATE trigger whose WHEN is false costs 0.3 us. UPDATE OF "id" would be free, but SQLite does not fire it for UPDATE t SET
 *   rowid = …. One trigger with INSERT … SELECT … WHERE costs 26 us, since SQLite then fills a temporary table for each row.
 * - In a transaction of one row nearly the whole cost is the one page of the note table that joins the app's page in the WAL.
 *
 * Numbers: a table's number is in the names and texts of its triggers, which follow the table when it is renamed and go when it is dropped.
 * A new table gets a number above all in triggers and in notes that still exist, so that no old note is taken for a new table's. */
#include "node/store/capture.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/appfile.h"
#include "node/store/sql.h"
#include "proto/err.h"

#define NOTES "_starling_dirty"
#define MARKS "_starling_mark"
#define TRIM "_starling_trim"
#define TRIM_EVERY 256
#define NUMBER_MAX 1000000000
#define STR_(x) #x
#define STR(x) STR_(x)

static const char notes_text[] = "CREATE TABLE " NOTES "(seq INTEGER PRIMARY KEY, tbl, kind, at, nonce, k0)";
static const char marks_text[] =
    "CREATE TABLE " MARKS "(id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB, projection INTEGER, note INTEGER)";
static const char trim_text[] =
    "CREATE TRIGGER " TRIM " AFTER INSERT ON " NOTES " WHEN NEW.seq % " STR(TRIM_EVERY) " = 0 BEGIN DELETE FROM " NOTES
                                                                                        " WHERE seq <= NEW.seq - " STR(NOTES_MAX) "; END";

/* A trigger of ours as it is in the file. */
struct trigger {
    char *name, *table, *sql;
    uint32_t number; /* 0: not named as ours are */
    char letter;
    bool wanted;
};

/* What is there. */
struct found {
    struct trigger *triggers;
    uint32_t count;
    bool notes, notes_right, marks, marks_right, trim_right;
    uint32_t width; /* k columns of the note table */
};

int64_t note_ms(double julian_day) {
    if (!(julian_day > 0 && julian_day < 5373484.5)) /* what julianday() can give; also NaN */
        return 0;
    double ms = (julian_day - 2440587.5) * 86400000.0;
    return (int64_t)(ms < 0 ? ms - 0.5 : ms + 0.5);
}

/* _starling_<number>_<letter> */
static void parse_name(struct trigger *t) {
    const char *p = t->name + strlen("_starling_");
    uint32_t n = 0;
    if (*p < '1' || *p > '9')
        return;
    for (; *p >= '0' && *p <= '9' && n <= NUMBER_MAX / 10; p++)
        n = n * 10 + (uint32_t)(*p - '0');
    if (p[0] != '_' || !p[1] || p[2] || !strchr("biumd", p[1]))
        return;
    t->number = n;
    t->letter = p[1];
}

static void found_release(struct found *f) {
    for (uint32_t i = 0; i < f->count; i++) {
        free(f->triggers[i].name);
        free(f->triggers[i].table);
        free(f->triggers[i].sql);
    }
    free(f->triggers);
    memset(f, 0, sizeof *f);
}

static char *copy(sqlite3_stmt *q, int at) {
    const char *p = (const char *)sqlite3_column_text(q, at);
    return strdup(p ? p : "");
}

static int find_triggers(sqlite3 *app, struct found *f) {
    sqlite3_stmt *q = NULL;
    int row, err = sql_prepare(app, &q,
                               "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger'"
                               " AND substr(name, 1, 10) = '_starling_' ORDER BY name");
    while (!err && (row = sql_step(q)) != 0) {
        if (row < 0) {
            err = row;
            break;
        }
        struct trigger *bigger = realloc(f->triggers, (f->count + 1) * sizeof *bigger);
        if (!bigger) {
            err = ERR_NOMEM;
            break;
        }
        f->triggers = bigger;
        struct trigger *t = &f->triggers[f->count++];
        *t = (struct trigger){.name = copy(q, 0), .table = copy(q, 1), .sql = copy(q, 2)};
        if (!t->name || !t->table || !t->sql)
            err = ERR_NOMEM;
        else
            parse_name(t);
    }
    sqlite3_finalize(q);
    return err;
}

/* Are the columns of `table` those of `names`, in order? The note table may have more, k1, k2, ...: *width. */
static int find_table(sqlite3 *app, const char *table, const char *const *names, uint32_t count, bool *there, bool *right,
                      uint32_t *width) {
    sqlite3_stmt *q = NULL;
    uint32_t n = 0;
    int row, err = sql_prepare(app, &q, "SELECT name, pk FROM pragma_table_xinfo(%Q, 'main') ORDER BY cid", table);
    *right = true;
    for (; !err && (row = sql_step(q)) != 0; n++) {
        char key[16];
        if (row < 0) {
            err = row;
            break;
        }
        const char *name = (const char *)sqlite3_column_text(q, 0);
        sqlite3_snprintf(sizeof key, key, "k%u", n - count + 1);
        if (!name || strcmp(name, n < count ? names[n] : key) || sqlite3_column_int(q, 1) != (n == 0))
            *right = false;
    }
    sqlite3_finalize(q);
    *there = n > 0;
    *right = *right && n >= count && (width || n == count);
    if (width)
        *width = n >= count ? n - count + 1 : 0;
    return err;
}

static int find_all(sqlite3 *app, struct found *f) {
    static const char *const notes[] = {"seq", "tbl", "kind", "at", "nonce", "k0"};
    static const char *const marks[] = {"id", "state", "projection", "note"};
    memset(f, 0, sizeof *f);
    int err = find_table(app, NOTES, notes, 6, &f->notes, &f->notes_right, &f->width);
    if (!err)
        err = find_table(app, MARKS, marks, 4, &f->marks, &f->marks_right, NULL);
    if (!err)
        err = find_triggers(app, f);
    for (uint32_t i = 0; i < f->count && !err; i++) {
        struct trigger *t = &f->triggers[i];
        if (!strcmp(t->name, TRIM) && !strcmp(t->sql, trim_text))
            t->wanted = f->trim_right = f->notes_right;
    }
    return err;
}

static bool replicated(const struct table *t) { return !t->unsupported && !t->excluded; }

static const char *letters_of(const struct table *t) { return t->key_kind == KEY_INTEGER ? "biumd" : "iumd"; }

/* The number that a table has by its triggers; 0: none. */
static uint32_t number_of(const struct found *f, const struct table *t) {
    uint32_t number = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        const struct trigger *g = &f->triggers[i];
        if (g->number && !sqlite3_stricmp(g->table, t->name) && (!number || g->number < number))
            number = g->number;
    }
    return number;
}

/* numbers[] by triggers. Two tables can share one only if somebody edited our triggers: then the second is numbered anew. */
static void number_tables(const struct found *f, const struct schema *s, uint32_t *numbers) {
    for (uint32_t i = 0; i < s->count; i++) {
        numbers[i] = replicated(&s->tables[i]) ? number_of(f, &s->tables[i]) : 0;
        for (uint32_t k = 0; k < i; k++)
            if (numbers[k] == numbers[i])
                numbers[i] = 0;
    }
}

static uint32_t width_of(const struct schema *s) {
    uint32_t width = 1;
    for (uint32_t i = 0; i < s->count; i++)
        if (replicated(&s->tables[i]) && s->tables[i].key_count > width)
            width = s->tables[i].key_count;
    return width;
}

static void put_key(sqlite3_str *out, const struct table *t, const char *row) {
    if (t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(out, ",%s.%s", row, t->rowid);
    for (uint32_t i = 0; i < t->key_count; i++)
        sqlite3_str_appendf(out, ",%s.\"%w\"", row, t->columns[t->key[i]].name);
}

static void put_note(sqlite3_str *out, const struct table *t, uint32_t number, enum note_kind kind, const char *row) {
    sqlite3_str_appendall(out, " INSERT INTO " NOTES "(tbl,kind,at,nonce");
    for (uint32_t i = 0; i < table_key_width(t); i++)
        sqlite3_str_appendf(out, ",k%u", i);
    sqlite3_str_appendf(out, ") VALUES(%u,%d,julianday('now'),random()", number, kind);
    put_key(out, t, row);
    sqlite3_str_appendall(out, ");");
}

/* The text of a trigger, exactly as sqlite_schema keeps it; to be freed with sqlite3_free(). NULL without memory. */
static char *trigger_text(sqlite3 *app, const struct table *t, uint32_t number, char letter) {
    sqlite3_str *out = sqlite3_str_new(app);
    const char *when = letter == 'b' ? "BEFORE INSERT" : letter == 'i' ? "AFTER INSERT" : letter == 'd' ? "AFTER DELETE" : "AFTER UPDATE";
    sqlite3_str_appendf(out, "CREATE TRIGGER _starling_%u_%c %s ON \"%w\"", number, letter, when, t->name);
    if (letter == 'b') /* the key shows -1 where SQLite is to number the row */
        sqlite3_str_appendf(out, " WHEN NEW.\"%w\" IS NOT -1", t->columns[t->key[0]].name);
    if (letter == 'm' && t->key_kind == KEY_ROWID)
        sqlite3_str_appendf(out, " WHEN OLD.%s IS NOT NEW.%s", t->rowid, t->rowid);
    for (uint32_t i = 0; letter == 'm' && i < t->key_count; i++) {
        const struct column *c = &t->columns[t->key[i]];
        sqlite3_str_appendf(out, " %s OLD.\"%w\" IS NOT NEW.\"%w\"%s", i ? "OR" : "WHEN", c->name, c->name,
                            c->collation == c->own ? "" : schema_collate(c->collation));
    }
    sqlite3_str_appendall(out, " BEGIN");
    if (letter == 'm')
        put_note(out, t, number, NOTE_MOVED, "OLD");
    enum note_kind kind = letter == 'b' ? NOTE_GIVEN : letter == 'i' ? NOTE_INSERT : letter == 'd' ? NOTE_DELETE : NOTE_UPDATE;
    put_note(out, t, number, kind, letter == 'd' ? "OLD" : "NEW");
    sqlite3_str_appendall(out, " END");
    return sqlite3_str_finish(out);
}

static struct trigger *trigger_find(const struct found *f, uint32_t number, char letter) {
    for (uint32_t i = 0; i < f->count; i++)
        if (f->triggers[i].number == number && f->triggers[i].letter == letter)
            return &f->triggers[i];
    return NULL;
}

/* Marks the right triggers of one table as wanted; *missing: some are not there, or not right. */
static int match_table(sqlite3 *app, struct found *f, const struct table *t, uint32_t number, bool *missing) {
    *missing = number == 0;
    for (const char *letter = letters_of(t); number && *letter; letter++) {
        struct trigger *g = trigger_find(f, number, *letter);
        char *text = trigger_text(app, t, number, *letter);
        if (!text)
            return ERR_NOMEM;
        if (g && !sqlite3_stricmp(g->table, t->name) && !strcmp(g->sql, text))
            g->wanted = true;
        else
            *missing = true;
        sqlite3_free(text);
    }
    return 0;
}

static int check(sqlite3 *app, const struct schema *s, struct found *f, uint32_t *numbers, bool *missing, enum capture_is *is) {
    int err = find_all(app, f);
    if (err)
        return err;
    number_tables(f, s, numbers);
    bool complete = f->notes_right && f->marks_right && f->trim_right && f->width >= width_of(s), noting = false;
    for (uint32_t i = 0; i < s->count && !err; i++) {
        if (replicated(&s->tables[i]))
            err = match_table(app, f, &s->tables[i], numbers[i], &missing[i]);
        complete = complete && !missing[i];
    }
    for (uint32_t i = 0; i < f->count; i++) {
        complete = complete && f->triggers[i].wanted;
        noting = noting || f->triggers[i].number;
    }
    *is = complete ? CAPTURE_COMPLETE : noting && !f->notes_right ? CAPTURE_BROKEN : CAPTURE_LACKS;
    return err;
}

/* What was found, and what is to be made of it, for one version of the schema. */
struct capture_plan {
    struct found f;
    int64_t version;
    uint32_t *numbers;
    bool *lack; /* a bit per table */
    enum capture_is is;
};

void capture_forget(struct schema *s) {
    struct capture_plan *p = s->plan;
    if (!p)
        return;
    found_release(&p->f);
    free(p->numbers);
    free(p->lack);
    free(p);
    s->plan = NULL;
}

/* In a transaction: sets s->plan. */
static int plan(sqlite3 *app, struct schema *s) {
    capture_forget(s);
    struct capture_plan *p = s->plan = calloc(1, sizeof *p);
    if (!p || !(p->numbers = calloc(s->count + 1, sizeof *p->numbers)) || !(p->lack = calloc(s->count + 1, sizeof *p->lack)))
        return ERR_NOMEM;
    int err = sql_int(app, 0, &p->version, "PRAGMA main.schema_version");
    return err ? err : check(app, s, &p->f, p->numbers, p->lack, &p->is);
}

int capture_check(sqlite3 *app, struct schema *s, enum capture_is *is, bool **missing) {
    bool own = sqlite3_get_autocommit(app);
    bool *lack = missing ? calloc(s->count + 1, sizeof *lack) : NULL;
    int err = missing && !lack ? ERR_NOMEM : own ? sql_exec(app, "BEGIN") : 0;
    if (!err) {
        err = plan(app, s);
        if (own)
            (void)sql_exec(app, "ROLLBACK"); /* nothing was written */
    }
    *is = err ? CAPTURE_LACKS : s->plan->is;
    for (uint32_t i = 0; i < s->count && !err; i++) {
        s->tables[i].number = s->plan->numbers[i];
        if (lack)
            lack[i] = s->plan->lack[i] || (replicated(&s->tables[i]) && !s->plan->f.notes_right);
    }
    if (missing)
        *missing = err ? NULL : lack;
    if (err) {
        free(lack);
        capture_forget(s);
    }
    return err;
}

/* The note table and the marks. *fresh: the notes were lost, or there were none. */
static int make_tables(sqlite3 *app, struct found *f, uint32_t width, bool *fresh) {
    int err = 0;
    *fresh = !f->notes_right;
    if (!f->notes_right) {
        if (f->notes)
            err = sql_exec(app, "DROP TABLE main." NOTES);
        if (!err)
            err = sql_exec(app, "%s", notes_text);
        for (uint32_t i = 0; i < f->count; i++) /* it went with the table */
            if (!strcmp(f->triggers[i].name, TRIM) && !sqlite3_stricmp(f->triggers[i].table, NOTES) && f->notes)
                f->triggers[i].wanted = true;
        f->width = 1;
    }
    for (; f->width < width && !err; f->width++)
        err = sql_exec(app, "ALTER TABLE main." NOTES " ADD COLUMN k%u", f->width);
    if (!err && !f->marks_right && f->marks)
        err = sql_exec(app, "DROP TABLE main." MARKS);
    if (!err && !f->marks_right)
        err = sql_exec(app, "%s", marks_text);
    return err;
}

static int drop_unwanted(sqlite3 *app, const struct found *f) {
    int err = 0;
    for (uint32_t i = 0; i < f->count && !err; i++)
        if (!f->triggers[i].wanted)
            err = sql_exec(app, "DROP TRIGGER main.\"%w\"", f->triggers[i].name);
    return err;
}

static int make_triggers(sqlite3 *app, const struct found *f, const struct table *t, uint32_t number) {
    int err = 0;
    for (const char *letter = letters_of(t); *letter && !err; letter++) {
        const struct trigger *g = trigger_find(f, number, *letter);
        if (g && g->wanted)
            continue;
        char *text = trigger_text(app, t, number, *letter);
        err = text ? sql_exec(app, "%s", text) : ERR_NOMEM;
        sqlite3_free(text);
    }
    return err;
}

/* The row that says whose file this is; one that says so already stays as it is. */
static int write_mark(sqlite3 *app, const struct capture_mark *mark) {
    struct capture_mark there;
    sqlite3_stmt *q = NULL;
    int err = capture_mark_read(app, &there);
    if (err || (there.found && memcmp(there.state, mark->state, sizeof there.state) == 0))
        return err;
    if ((err = sql_prepare(app, &q, "INSERT OR REPLACE INTO main." MARKS " VALUES(1, ?, ?, ?)")))
        return err;
    sqlite3_bind_blob(q, 1, mark->state, sizeof mark->state, SQLITE_STATIC);
    sqlite3_bind_int64(q, 2, mark->projection);
    sqlite3_bind_int64(q, 3, mark->note);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

/* Inside the transaction, by s->plan, which it uses up. noted: the highest number in notes. */
static int install(sqlite3 *app, const struct schema *s, int64_t noted) {
    struct capture_plan *p = s->plan;
    bool fresh = false;
    int err = make_tables(app, &p->f, width_of(s), &fresh);
    if (!err)
        err = drop_unwanted(app, &p->f);
    uint32_t next = noted > 0 ? (uint32_t)noted : 0;
    next = s->numbers_used > next ? s->numbers_used : next;
    for (uint32_t i = 0; i < p->f.count; i++)
        next = p->f.triggers[i].number > next ? p->f.triggers[i].number : next;
    for (uint32_t i = 0; i < s->count && !err; i++) {
        if (!replicated(&s->tables[i]))
            continue;
        if (!p->numbers[i])
            p->numbers[i] = ++next;
        if (p->lack[i])
            err = make_triggers(app, &p->f, &s->tables[i], p->numbers[i]);
        p->lack[i] = p->lack[i] || fresh;
    }
    return err || p->f.trim_right ? err : sql_exec(app, "%s", trim_text);
}

/* Up to a million rows. Notes that come later can only carry numbers of triggers that are there, since install() demands an unchanged
 * schema. */
int capture_noted(sqlite3 *app, int64_t *number) {
    static const char *const names[] = {"seq", "tbl"};
    bool there = false, right = false;
    uint32_t width = 0;
    *number = 0;
    int err = find_table(app, NOTES, names, 2, &there, &right, &width);
    if (err || !there)
        return err;
    err = sql_int(app, 0, number, "SELECT max(tbl) FROM main." NOTES);
    if (*number >= NUMBER_MAX) /* none of ours */
        *number = 0;
    return err == ERR_INTERNAL ? 0 : err; /* no such column: not our table, and going to be replaced */
}

int capture_install(sqlite3 *app, struct schema *s, const struct capture_mark *mark, int64_t noted, bool **installed) {
    int64_t version = 0;
    assert(!sqlite3_get_autocommit(app));
    int err = sql_int(app, 0, &version, "PRAGMA main.schema_version");
    if (!err && version != s->version)
        err = ERR_SCHEMA;
    if (!err && !(s->plan && s->plan->version == version)) /* while the version is the same, what was found is there */
        err = plan(app, s);
    if (!err)
        err = install(app, s, noted);
    if (!err && mark)
        err = write_mark(app, mark);
    if (!err)
        err = sql_int(app, 0, &version, "PRAGMA main.schema_version");
    if (!err) {
        s->version = version;
        for (uint32_t i = 0; i < s->count; i++)
            s->tables[i].number = s->plan->numbers[i];
    }
    if (installed) {
        *installed = err ? NULL : s->plan->lack;
        if (!err)
            s->plan->lack = NULL;
    }
    capture_forget(s);
    return err;
}

int capture_traces(sqlite3 *app, bool *any) {
    struct found f = {0};
    int err = find_all(app, &f);
    *any = f.notes || f.marks || f.count;
    found_release(&f);
    return err;
}

int capture_remove(sqlite3 *app) {
    struct found f = {0};
    assert(!sqlite3_get_autocommit(app));
    int err = find_all(app, &f);
    for (uint32_t i = 0; i < f.count; i++)
        f.triggers[i].wanted = false;
    if (!err)
        err = drop_unwanted(app, &f);
    if (!err && f.notes)
        err = sql_exec(app, "DROP TABLE main." NOTES);
    if (!err && f.marks)
        err = sql_exec(app, "DROP TABLE main." MARKS);
    found_release(&f);
    return err;
}

int capture_mark_read(sqlite3 *app, struct capture_mark *mark) {
    sqlite3_stmt *q = NULL;
    int64_t there = 0;
    memset(mark, 0, sizeof *mark);
    int err = sql_int(app, 0, &there, "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name = '" MARKS "'");
    if (err || !there)
        return err;
    err = sql_prepare(app, &q, "SELECT state, projection, note FROM main." MARKS " WHERE id = 1");
    int row = err ? err : sql_step(q);
    if (row == 1 && sqlite3_column_type(q, 0) == SQLITE_BLOB && sqlite3_column_bytes(q, 0) == sizeof mark->state) {
        memcpy(mark->state, sqlite3_column_blob(q, 0), sizeof mark->state);
        mark->projection = sqlite3_column_int64(q, 1);
        mark->note = sqlite3_column_int64(q, 2);
        mark->found = true;
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}
