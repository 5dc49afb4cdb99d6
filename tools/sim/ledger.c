#include "tools/sim/ledger.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEAMS 10u
#define BADGES 40u

const char ledger_schema[] =
    "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT NOT NULL);"
    "CREATE TABLE team(number INTEGER PRIMARY KEY, name TEXT, score INTEGER);"
    "CREATE TABLE member(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(number) ON DELETE CASCADE, name TEXT, "
    "badge TEXT UNIQUE);";

void ledger_release(struct ledger *l) { free(l->entries); }

static unsigned entry(struct ledger *l, unsigned node, bool note) {
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 256;
        l->entries = realloc(l->entries, l->cap * sizeof *l->entries);
        assert(l->entries);
    }
    l->entries[l->count] = (struct ledger_entry){.note = note, .node = node};
    return l->count++;
}

/* ---- writing */

static void seen(struct ledger *l, const char *text) {
    unsigned long number = *text == 'w' ? strtoul(text + 1, NULL, 10) : l->count;
    if (number < l->count)
        l->entries[number].seen = true;
}

/* Open conflicts of one row: they are on its server's list when somebody writes it. */
static void see_conflicts(struct ledger *l, const char *conflicts, const char *table, const char *column, int64_t key) {
    char of[40], at[60];
    snprintf(of, sizeof of, "\"table\":\"%s\"", table);
    snprintf(at, sizeof at, "\"key\":{\"%s\":%" PRId64 "}", column, key);
    for (const char *line = conflicts, *end; *line; line = end + (*end == '\n')) {
        end = line + strcspn(line, "\n");
        const char *is_of = strstr(line, of), *is_at = strstr(line, at);
        if (!is_of || !is_at || is_of > end || is_at > end)
            continue;
        for (const char *text = line; (text = strstr(text, "\"w")) && text < end; text++)
            seen(l, text + 1);
    }
}

/* What is there before it is written: texts that are replaced knowingly. The query: key, text. */
static void see(struct ledger *l, struct ledger_view *v, const char *table, const char *column, const char *format, uint64_t n) {
    char sql[200];
    sqlite3_stmt *q = NULL;
    snprintf(sql, sizeof sql, format, n);
    if (sqlite3_prepare_v2(v->app, sql, -1, &q, NULL) != SQLITE_OK)
        return;
    while (sqlite3_step(q) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(q, 1);
        seen(l, text ? text : "");
        see_conflicts(l, v->conflicts, table, column, sqlite3_column_int64(q, 0));
    }
    sqlite3_finalize(q);
}

/* Of a given key there may be open conflicts without a row. */
static void see_team(struct ledger *l, struct ledger_view *v, uint64_t number) {
    see(l, v, "team", "number", "SELECT number, name FROM team WHERE number=%" PRIu64, number);
    see_conflicts(l, v->conflicts, "team", "number", (int64_t)number);
}

static int run(sqlite3 *app, const char *format, uint64_t a, uint64_t b, uint64_t c) {
    char sql[300];
    snprintf(sql, sizeof sql, format, a, b, c);
    return sqlite3_exec(app, sql, NULL, NULL, NULL);
}

/* One statement. What it wrote counts only if SQLite took it. */
static int statement(struct ledger *l, struct ledger_view *v, uint64_t dice) {
    sqlite3 *app = v->app;
    unsigned node = v->node;
    uint64_t kind = dice % 100, k = dice / 100 % TEAMS, which = dice / 1000 % BADGES;
    unsigned w = l->count;
    int r;
    if (kind < 35) {
        r = run(app, "INSERT INTO note(body) VALUES('w%" PRIu64 "')", entry(l, node, true), 0, 0);
    } else if (kind < 60) {
        see_team(l, v, k);
        r = run(app,
                "INSERT INTO team VALUES(%" PRIu64 ", 'w%" PRIu64 "', %" PRIu64 ") ON CONFLICT(number) DO UPDATE SET name=excluded.name", k,
                entry(l, node, false), which);
    } else if (kind < 70) {
        return run(app, "UPDATE team SET score=%" PRIu64 " WHERE number=%" PRIu64, which, k, 0);
    } else if (kind < 85) {
        r = run(app,
                "INSERT INTO member(team,name,badge) VALUES((SELECT number FROM team WHERE number>=%" PRIu64 " LIMIT 1),'w%" PRIu64
                "','b%" PRIu64 "')",
                k, entry(l, node, false), which);
    } else if (kind < 95) {
        see(l, v, "member", "id", "SELECT id, name FROM member WHERE badge='b%" PRIu64 "'", which);
        r = run(app, "UPDATE member SET name='w%" PRIu64 "' WHERE badge='b%" PRIu64 "'", entry(l, node, false), which, 0);
        if (r == SQLITE_OK && sqlite3_changes(app) == 0)
            l->count--;
        return r;
    } else {
        see_team(l, v, k);
        see(l, v, "member", "id", "SELECT id, name FROM member WHERE team=%" PRIu64, k);
        return run(app, "DELETE FROM team WHERE number=%" PRIu64, k, 0, 0);
    }
    if (r != SQLITE_OK)
        l->count = w;
    return r;
}

const char *ledger_write(struct ledger *l, struct ledger_view *v, uint64_t dice) {
    sqlite3 *app = v->app;
    unsigned before = l->count;
    uint64_t statements = dice % 8 ? 1 : 2 + dice / 8 % 6;
    int r = sqlite3_exec(app, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    for (uint64_t i = 0; i < statements && r == SQLITE_OK; i++) {
        r = statement(l, v, dice * (2 * i + 1) >> 8);
        if ((r & 0xff) == SQLITE_CONSTRAINT)
            r = SQLITE_OK; /* the statement alone is taken back */
    }
    if (r == SQLITE_OK)
        r = sqlite3_exec(app, v->forgets ? "ROLLBACK" : "COMMIT", NULL, NULL, NULL);
    if (r == SQLITE_OK)
        return NULL;
    l->count = before;
    return sqlite3_errmsg(app);
}

/* ---- looking */

char *ledger_rows(sqlite3 *app) {
    static const char *const queries[] = {"SELECT 'note', id, body FROM note ORDER BY id",
                                          "SELECT 'team', number, name, score FROM team ORDER BY number",
                                          "SELECT 'member', id, team, name, badge FROM member ORDER BY id"};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert(out);
    for (unsigned i = 0; i < sizeof queries / sizeof *queries; i++) {
        sqlite3_stmt *q = NULL;
        int r = sqlite3_prepare_v2(app, queries[i], -1, &q, NULL);
        while (r == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
            for (int c = 0, n = sqlite3_column_count(q); c < n; c++) {
                const char *value = (const char *)sqlite3_column_text(q, c);
                fprintf(out, "\"%s\"%s", value ? value : "NULL", c + 1 < n ? "," : "\n");
            }
        sqlite3_finalize(q);
    }
    fclose(out);
    return text;
}

/* Counts each of our texts that stands between quotes. False: one of `note` is there twice. */
static bool find(struct ledger *l, const char *text, bool rows) {
    bool once = true;
    for (const char *at = text; (at = strstr(at, "\"w")); at++) {
        char *end = NULL;
        unsigned long number = strtoul(at + 2, &end, 10);
        if (end == at + 2 || *end != '"' || number >= l->count)
            continue;
        once = once && !(rows && l->entries[number].note && l->entries[number].found);
        l->entries[number].found = true;
    }
    return once;
}

void ledger_excuse(struct ledger *l, unsigned node, bool excused) {
    for (unsigned i = 0; i < l->count; i++)
        if (l->entries[i].node == node)
            l->entries[i].excused = excused;
}

const char *ledger_lost(struct ledger *l, const char *rows, const char *conflicts, char *text, size_t cap) {
    for (unsigned i = 0; i < l->count; i++)
        l->entries[i].found = false;
    if (!find(l, rows, true)) {
        snprintf(text, cap, "lost: a row of \"note\" is there twice");
        return text;
    }
    find(l, conflicts, false);
    for (unsigned i = 0; i < l->count; i++) {
        const struct ledger_entry *e = &l->entries[i];
        if (e->found || e->excused || (e->seen && !e->note))
            continue;
        snprintf(text, cap, "lost: \"w%u\", which node %u wrote and nobody who saw it replaced, is neither shown nor an open conflict", i,
                 e->node);
        return text;
    }
    return NULL;
}
