/* Triggers of the application that fill virtual tables (a full-text index, an R*Tree), run for what is shown here too.
 *
 * Triggers of the application do not run when we show a change: what they did where the change was made comes as changes of its own. But what they
 * write into a virtual table is noted by nobody. So of each trigger on a replicated table those statements that write a virtual table run on our
 * writer, as a TEMP trigger of the same head: the switch that keeps the application's triggers still does not concern those. SQLite itself says which
 * statements they are: each is compiled alone, and an authorizer looks at what it writes. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"

#define STATEMENTS_MAX 200
#define PROBE "_starling_feed"

/* ---- the text of a trigger, in pieces */

struct piece {
    const char *at;
    size_t len;
};

struct text {
    struct piece head; /* behind the name, up to BEGIN */
    struct piece statements[STATEMENTS_MAX];
    uint32_t count;
};

static bool is_word(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || (c & 0x80); }

/* The next token, without the space and the comments before it; len 0 at the end. */
static struct piece token(const char **p) {
    const char *at = *p;
    for (;;) {
        while (*at && isspace((unsigned char)*at))
            at++;
        if (at[0] == '-' && at[1] == '-') {
            while (*at && *at != '\n')
                at++;
        } else if (at[0] == '/' && at[1] == '*') {
            const char *end = strstr(at + 2, "*/");
            at = end ? end + 2 : at + strlen(at);
        } else {
            break;
        }
    }
    const char *end = at;
    if (*at == '\'' || *at == '"' || *at == '`' || *at == '[') {
        char close = *at == '[' ? ']' : *at;
        for (end++; *end && (*end != close || (close != ']' && end[1] == close)); end++)
            end += *end == close; /* a doubled quote */
        end += *end != 0;
    } else if (is_word(*at)) {
        while (is_word(*end))
            end++;
    } else if (*at) {
        end++;
    }
    *p = end;
    return (struct piece){at, (size_t)(end - at)};
}

static bool is(struct piece t, const char *word) { return t.len == strlen(word) && sqlite3_strnicmp(t.at, word, (int)t.len) == 0; }

/* Behind CREATE TRIGGER name. */
static const char *behind_name(const char *sql) {
    const char *p = sql;
    struct piece t = token(&p);
    if (!is(t, "CREATE"))
        return NULL;
    do
        t = token(&p);
    while (is(t, "TEMP") || is(t, "TEMPORARY"));
    if (!is(t, "TRIGGER"))
        return NULL;
    const char *name = p;
    if (is(token(&p), "IF"))
        (void)token(&p), (void)token(&p), (void)token(&p); /* NOT EXISTS name */
    else
        p = name, (void)token(&p);
    const char *dot = p;
    if (is(token(&dot), "."))
        (void)token(&dot), p = dot;
    return p;
}

/* The statements between BEGIN and the END at the end. */
static bool split(const char *body, struct text *out) {
    const char *p = body, *from = NULL;
    out->count = 0;
    for (struct piece t = token(&p); t.len; t = token(&p)) {
        if (!from)
            from = t.at;
        if (*t.at == ';') {
            if (out->count == STATEMENTS_MAX)
                return false;
            out->statements[out->count++] = (struct piece){from, (size_t)(t.at - from)};
            from = NULL;
        }
    }
    return out->count > 0; /* what is behind the last ; is END */
}

/* ---- what a statement writes */

struct probe {
    const struct schema *schema;
    struct table *target; /* the virtual table that it writes */
    bool recursive;       /* it may never end: not for us to run */
};

static int look(void *ctx, int action, const char *a, const char *b, const char *c, const char *trigger) {
    struct probe *p = ctx;
    (void)b;
    (void)c;
    p->recursive = p->recursive || action == SQLITE_RECURSIVE;
    if ((action == SQLITE_INSERT || action == SQLITE_UPDATE || action == SQLITE_DELETE) && trigger && !strcmp(trigger, PROBE)) {
        const struct table *t = a ? schema_find(p->schema, a, strlen(a)) : NULL;
        if (t && t->virtual)
            p->target = (struct table *)(uintptr_t)t;
    }
    return SQLITE_OK;
}

/* The three statements that fire triggers, compiled and not run. */
static int compile(struct store *s, const struct table *t, struct probe *p, char *why, size_t why_len) {
    sqlite3_str *update = sqlite3_str_new(s->app.writer);
    for (uint32_t i = 0; i < t->columns_count; i++)
        sqlite3_str_appendf(update, "%s\"%w\"=\"%w\"", i ? "," : "", t->columns[i].name, t->columns[i].name);
    char *set = sqlite3_str_finish(update);
    int err = set ? 0 : ERR_NOMEM;
    sqlite3_set_authorizer(s->app.writer, look, p);
    for (int i = 0; i < 3 && !err; i++) {
        sqlite3_stmt *q = NULL;
        err = i == 0   ? sql_prepare(s->app.writer, &q, "INSERT INTO main.\"%w\" DEFAULT VALUES", t->name)
              : i == 1 ? sql_prepare(s->app.writer, &q, "DELETE FROM main.\"%w\"", t->name)
                       : sql_prepare(s->app.writer, &q, "UPDATE main.\"%w\" SET %s", t->name, set);
        sqlite3_finalize(q);
    }
    if (err)
        snprintf(why, why_len, "%s", sqlite3_errmsg(s->app.writer));
    sqlite3_set_authorizer(s->app.writer, NULL, NULL);
    sqlite3_free(set);
    return err;
}

static int create(struct store *s, const char *name, const struct text *text, const bool *chosen, uint32_t only) {
    sqlite3_str *q = sqlite3_str_new(s->app.writer);
    sqlite3_str_appendf(q, "CREATE TEMP TRIGGER \"%w\" %.*s BEGIN ", name, (int)text->head.len, text->head.at);
    for (uint32_t i = 0; i < text->count; i++)
        if (chosen ? chosen[i] : i == only)
            sqlite3_str_appendf(q, "%.*s; ", (int)text->statements[i].len, text->statements[i].at);
    sqlite3_str_appendall(q, "END");
    char *sql = sqlite3_str_finish(q);
    int err = sql ? sql_exec(s->app.writer, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    return err;
}

static bool contains(struct piece text, const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; len && i + len <= text.len; i++)
        if (sqlite3_strnicmp(text.at + i, name, (int)len) == 0)
            return true;
    return false;
}

static int append(char **list, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int append(char **list, const char *format, ...) {
    va_list args;
    char *text = NULL, *longer = NULL;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        return ERR_NOMEM;
    if (*list && strstr(*list, text)) {
        free(text);
        return 0;
    }
    n = asprintf(&longer, "%s%s%s", *list ? *list : "", *list ? ", " : "", text);
    free(text);
    if (n < 0)
        return ERR_NOMEM;
    free(*list);
    *list = longer;
    return 0;
}

/* A statement that we cannot compile: said of the virtual tables that it names, since they are not filled by what is shown here. */
static int say_unfed(struct store *s, const char *name, struct piece statement, const char *why) {
    for (uint32_t i = 0; i < s->schema.count; i++) {
        struct table *v = &s->schema.tables[i];
        int err = v->virtual && contains(statement, v->name) ? append(&v->unfed, "\"%s\" (%s)", name, why) : 0;
        if (err)
            return err;
    }
    return 0;
}

static bool fatal(int err) { return err == ERR_NOMEM || err == ERR_BUSY || err == ERR_IO || err == ERR_FULL || err == ERR_SCHEMA; }

/* ---- one trigger */

/* Which of its statements write a virtual table; *any. ERR_INTERNAL: the text was not split where its body begins. */
static int choose(struct store *s, const struct table *t, const char *name, const struct text *text, bool *chosen, bool *any) {
    *any = false;
    for (uint32_t i = 0; i < text->count; i++) {
        struct probe p = {.schema = &s->schema};
        char why[200] = "";
        int err = create(s, PROBE, text, NULL, i);
        if (err)
            return err;
        err = compile(s, t, &p, why, sizeof why);
        if (!err && p.recursive && p.target) {
            err = ERR_DENIED;
            snprintf(why, sizeof why, "WITH RECURSIVE");
        }
        int dropped = sql_exec(s->app.writer, "DROP TRIGGER temp." PROBE);
        chosen[i] = !err && p.target;
        *any = *any || chosen[i];
        if (!err && p.target)
            err = append(&p.target->fed, "\"%s\"", name);
        else if (err && !fatal(err))
            err = say_unfed(s, name, text->statements[i], why);
        if (err || dropped)
            return err ? err : dropped;
    }
    return 0;
}

static int take_trigger(struct store *s, struct table *t, const char *name, const char *sql, uint32_t number) {
    struct text text = {0};
    bool chosen[STATEMENTS_MAX], any = false;
    const char *from = behind_name(sql), *p = from, *before = "";
    if (!from)
        return 0;
    for (struct piece k = token(&p); k.len; before = k.at, k = token(&p)) { /* `begin` may be a column of its WHEN, too */
        if (!is(k, "BEGIN") || *before == '.')
            continue;
        text.head = (struct piece){from, (size_t)(k.at - from)};
        int err = split(p, &text) ? choose(s, t, name, &text, chosen, &any) : ERR_INTERNAL;
        if (fatal(err))
            return err;
        if (err)
            continue;
        char own[40];
        snprintf(own, sizeof own, PROBE "_%u", number);
        t->feeds = t->feeds || any;
        return any ? create(s, own, &text, chosen, 0) : 0;
    }
    return 0;
}

/* ---- all of them */

static int drop_all(struct store *s) {
    char *list = NULL;
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->app.writer, &q,
                               "SELECT group_concat('DROP TRIGGER temp.\"' || name || '\";', '') FROM temp.sqlite_schema"
                               " WHERE type = 'trigger'");
    if (err)
        return err;
    if ((row = sql_step(q)) == 1 && sqlite3_column_type(q, 0) != SQLITE_NULL)
        list = strdup((const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    if (row >= 0 && list)
        row = sql_exec(s->app.writer, "%s", list);
    free(list);
    return row < 0 ? row : 0;
}

int feed_load(struct store *s) {
    bool virtual = false;
    for (uint32_t i = 0; i < s->schema.count; i++)
        virtual = virtual || s->schema.tables[i].virtual;
    int row, err = drop_all(s);
    if (err)
        return err;
    /* Else a trigger may not write a full-text index. What else it allows us (functions without side effects are allowed anyway) SQLite never lets a
     * schema call: load_extension() and its kin. */
    sqlite3_db_config(s->app.writer, SQLITE_DBCONFIG_TRUSTED_SCHEMA, virtual, NULL);
    if (!virtual)
        return 0;
    sqlite3_stmt *q;
    if ((err = sql_prepare(s->app.reader, &q,
                           "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND sql NOT NULL AND name NOT LIKE "
                           "'\\_starling\\_%%' ESCAPE '\\' ORDER BY rowid")))
        return err;
    for (uint32_t n = 1; (row = sql_step(q)) == 1; n++) {
        const char *name = (const char *)sqlite3_column_text(q, 0), *on = (const char *)sqlite3_column_text(q, 1),
                   *sql = (const char *)sqlite3_column_text(q, 2);
        const struct table *t = on ? schema_find(&s->schema, on, strlen(on)) : NULL;
        if (t && !t->unsupported && !t->excluded && name && sql &&
            (row = take_trigger(s, (struct table *)(uintptr_t)t, name, sql, n)) < 0) {
            if (fatal(row))
                break;
            store_log(s, LOG_WARNING, "%s: trigger \"%s\" cannot run for changes of other servers: %s", s->config.db, name,
                      sqlite3_errmsg(s->app.writer));
        }
    }
    sqlite3_finalize(q);
    return row < 0 ? row : 0;
}
