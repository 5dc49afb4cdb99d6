/* The schema of another server, tried in a database in memory before any of it comes near the application's file. An item passes if SQLite reads it as
 * the one CREATE that it says it is, and if what it leaves behind to be run later by the application (a view's query, a trigger's body) compiles, and
 * touches nothing of ours or of SQLite's own, and calls nothing that reaches out of the database. What it creates it must not compute: a
 * CREATE TABLE … AS could run for ever.
 *
 * Functions and collations of the application's own are not here: dummies take their place, so that the rest of a body can be looked at. */
#include <stdlib.h>
#include <string.h>

#include "node/store/trial.h"
#include "proto/err.h"

#define TRIAL_SQL_BYTES 1000000
#define TRIAL_EXPR_DEPTH 300
#define TRIAL_STEPS 10000000 /* of SQLite's machine, for one CREATE */
#define DUMMIES_MAX 100

bool trial_is_ours(const char *name) { return name && sqlite3_strnicmp(name, "_starling_", 10) == 0; }

static bool is_sqlites(const char *name) { return name && sqlite3_strnicmp(name, "sqlite_", 7) == 0; }

bool trial_is_type(const struct schema_item *i, const char *type) {
    return i->type_len == strlen(type) && memcmp(i->type, type, i->type_len) == 0;
}

/* ---- what an item may do while it is read */

struct reading {
    const struct schema_item *item;
    bool created; /* what it says it creates */
};

static bool one_of(const char *name, const char *const *list, size_t count) {
    for (size_t i = 0; i < count && name; i++)
        if (!sqlite3_stricmp(name, list[i]))
            return true;
    return false;
}

static bool known_module(const char *name) {
    static const char *const MODULES[] = {"fts3", "fts4", "fts5", "fts4aux", "fts5vocab", "rtree", "rtree_i32", "geopoly"};
    return one_of(name, MODULES, sizeof MODULES / sizeof *MODULES);
}

static int allow_create(struct reading *c, const char *type, const char *name) {
    bool right = trial_is_type(c->item, type) && strlen(name) == c->item->name_len && !memcmp(name, c->item->name, c->item->name_len);
    if (!right || trial_is_ours(name) || is_sqlites(name))
        return SQLITE_DENY;
    c->created = true;
    return SQLITE_OK;
}

static int while_reading(void *ctx, int action, const char *a, const char *b, const char *c, const char *d) {
    struct reading *r = ctx;
    (void)c;
    (void)d;
    switch (action) {
    case SQLITE_CREATE_TABLE: return strcmp(a, "sqlite_sequence") ? allow_create(r, "table", a) : SQLITE_OK; /* for AUTOINCREMENT */
    case SQLITE_CREATE_VTABLE: return known_module(b) ? allow_create(r, "table", a) : SQLITE_DENY;
    case SQLITE_CREATE_VIEW: return allow_create(r, "view", a);
    case SQLITE_CREATE_TRIGGER: return trial_is_ours(b) || is_sqlites(b) ? SQLITE_DENY : allow_create(r, "trigger", a);
    case SQLITE_CREATE_INDEX:
        if (trial_is_type(r->item, "table")) /* of its UNIQUE constraints */
            return is_sqlites(a) ? SQLITE_OK : SQLITE_DENY;
        return trial_is_ours(b) || is_sqlites(b) ? SQLITE_DENY : allow_create(r, "index", a);
    case SQLITE_INSERT:
    case SQLITE_UPDATE: return is_sqlites(a) ? SQLITE_OK : SQLITE_DENY; /* its line in sqlite_schema */
    case SQLITE_READ:
    case SQLITE_FUNCTION:
    case SQLITE_REINDEX: return SQLITE_OK;
    default: return SQLITE_DENY; /* also SELECT: tables and indexes have no query, and those of views and triggers are not read yet */
    }
}

/* ---- what a view or a trigger may do later */

static int while_compiling(void *ctx, int action, const char *a, const char *b, const char *c, const char *d) {
    static const char *const REACHING_OUT[] = {"load_extension", "fts3_tokenizer", "readfile", "writefile",
                                               "edit",           "eval",           "shell",    "system"};
    (void)ctx;
    (void)c;
    (void)d;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_RECURSIVE: return SQLITE_OK;
    case SQLITE_READ: return trial_is_ours(a) ? SQLITE_DENY : SQLITE_OK;
    case SQLITE_FUNCTION: return one_of(b, REACHING_OUT, sizeof REACHING_OUT / sizeof *REACHING_OUT) ? SQLITE_DENY : SQLITE_OK;
    case SQLITE_INSERT:
    case SQLITE_UPDATE:
    case SQLITE_DELETE: return trial_is_ours(a) || (is_sqlites(a) && sqlite3_stricmp(a, "sqlite_sequence")) ? SQLITE_DENY : SQLITE_OK;
    default: return SQLITE_DENY;
    }
}

static void dummy_function(sqlite3_context *c, int n, sqlite3_value **v) {
    (void)n;
    (void)v;
    sqlite3_result_null(c);
}

static int dummy_collation(void *ctx, int an, const void *a, int bn, const void *b) {
    (void)ctx;
    int order = memcmp(a, b, (size_t)(an < bn ? an : bn));
    return order ? order : an - bn;
}

/* Something in place of what the message says is missing. */
static bool stand_in(sqlite3 *db) {
    static const char FUNCTION[] = "no such function: ", COLLATION[] = "no such collation sequence: ";
    const char *said = sqlite3_errmsg(db);
    if (!strncmp(said, FUNCTION, sizeof FUNCTION - 1))
        return sqlite3_create_function(db, said + sizeof FUNCTION - 1, -1, SQLITE_UTF8 | SQLITE_INNOCUOUS, NULL, dummy_function, NULL,
                                       NULL) == SQLITE_OK;
    return !strncmp(said, COLLATION, sizeof COLLATION - 1) &&
           sqlite3_create_collation(db, said + sizeof COLLATION - 1, SQLITE_UTF8, NULL, dummy_collation) == SQLITE_OK;
}

/* Compiled and not run. */
static int compile(sqlite3 *db, const char *format, const char *a, const char *b) {
    int err = 0;
    for (int tries = 0; tries < DUMMIES_MAX; tries++) {
        sqlite3_stmt *q = NULL;
        sqlite3_set_authorizer(db, while_compiling, NULL);
        err = sql_prepare(db, &q, format, a, b);
        sqlite3_finalize(q);
        sqlite3_set_authorizer(db, NULL, NULL);
        if (err != ERR_INTERNAL || !stand_in(db))
            break;
    }
    /* of the three statements, a view takes those that it has triggers for */
    return err == ERR_INTERNAL && !strncmp(sqlite3_errmsg(db), "cannot modify ", 14) ? 0 : err;
}

static int compile_trigger(sqlite3 *db, const char *name) {
    char *columns = NULL, *table = NULL;
    sqlite3_stmt *q;
    int row, err = sql_prepare(db, &q,
                               "SELECT tbl_name, (SELECT group_concat('\"' || replace(name, '\"', '\"\"') || '\"=NULL') FROM "
                               "pragma_table_info(tbl_name)) FROM sqlite_schema WHERE type = 'trigger' AND name = %Q",
                               name);
    if (err)
        return err;
    if ((row = sql_step(q)) == 1 && sqlite3_column_type(q, 1) != SQLITE_NULL) {
        table = strdup((const char *)sqlite3_column_text(q, 0));
        columns = strdup((const char *)sqlite3_column_text(q, 1));
    }
    sqlite3_finalize(q);
    if (row < 0 || !columns || !table)
        err = row < 0 ? row : ERR_NOTFOUND;
    else if (!(err = compile(db, "INSERT INTO main.\"%w\" DEFAULT VALUES", table, "")) &&
             !(err = compile(db, "DELETE FROM main.\"%w\"", table, "")))
        err = compile(db, "UPDATE main.\"%w\" SET %s", table, columns);
    free(columns);
    free(table);
    return err;
}

/* ---- one item */

static int stop(void *ctx) { return --*(int *)ctx <= 0; }

static int create(sqlite3 *db, const struct schema_item *item) {
    struct reading r = {.item = item};
    sqlite3_stmt *q = NULL;
    const char *tail = NULL;
    int left = TRIAL_STEPS / 1000, rc = SQLITE_ERROR;
    sqlite3_set_authorizer(db, while_reading, &r);
    for (int tries = 0; tries < DUMMIES_MAX; tries++)
        if ((rc = sqlite3_prepare_v2(db, item->sql, (int)item->sql_len, &q, &tail)) != SQLITE_ERROR || !stand_in(db))
            break;
    sqlite3_set_authorizer(db, NULL, NULL);
    if (rc == SQLITE_OK && (!q || !r.created || (tail && tail < item->sql + item->sql_len)))
        rc = SQLITE_AUTH;
    sqlite3_progress_handler(db, 1000, stop, &left);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(db);
    sqlite3_progress_handler(db, 0, NULL, NULL);
    sqlite3_finalize(q);
    return rc == SQLITE_OK ? 0 : rc == SQLITE_NOMEM ? ERR_NOMEM : ERR_DENIED;
}

/* The body of a view or of a trigger on its own: the item is there, and others of its kind are not yet judged. */
static int judge(sqlite3 *db, const struct schema_item *item) {
    bool view = trial_is_type(item, "view");
    char *name = sqlite3_mprintf("%.*s", (int)item->name_len, item->name);
    int err = !name ? ERR_NOMEM : view ? compile(db, "SELECT * FROM main.\"%w\"", name, "") : compile_trigger(db, name);
    sqlite3_free(name);
    return err;
}

static void drop(sqlite3 *db, const struct schema_item *item) {
    (void)sql_exec(db, "DROP %s main.\"%.*w\"", trial_is_type(item, "view") ? "VIEW" : "TRIGGER", (int)item->name_len, item->name);
}

/* ---- the whole schema */

static int open_scratch(sqlite3 **db) {
    int rc = sqlite3_open_v2(":memory:", db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK)
        return appfile_error(rc);
    sqlite3_extended_result_codes(*db, 0);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_limit(*db, SQLITE_LIMIT_SQL_LENGTH, TRIAL_SQL_BYTES);
    sqlite3_limit(*db, SQLITE_LIMIT_EXPR_DEPTH, TRIAL_EXPR_DEPTH);
    sqlite3_limit(*db, SQLITE_LIMIT_ATTACHED, 0);
    return 0;
}

static bool is_create(const struct schema_item *i) { return i->sql_len > 7 && sqlite3_strnicmp(i->sql, "CREATE ", 7) == 0; }

const char *const TRIAL_ORDER[TRIAL_TYPES] = {"table", "index", "view", "trigger"};

/* Why not, in words; empty: it passes. */
static int note(struct trial *t, uint32_t i, int err) {
    if (!err || err == ERR_NOMEM)
        return err;
    t->why[i] =
        strdup(err == ERR_DENIED && sqlite3_errcode(t->db) == SQLITE_OK ? "not one CREATE of what it says it is" : sqlite3_errmsg(t->db));
    return t->why[i] ? 0 : ERR_NOMEM;
}

static int try_type(struct trial *t, const struct batch_reader *r, const char *type) {
    uint32_t n = batch_reader_schema_count(r);
    bool views = !strcmp(type, "view"), triggers = !strcmp(type, "trigger");
    int err = 0;
    for (uint32_t i = 0; i < n && !err; i++) {
        const struct schema_item *item = batch_reader_schema(r, i);
        if (!trial_is_type(item, type))
            continue;
        err = note(t, i, is_create(item) ? create(t->db, item) : ERR_DENIED);
        if (!err && triggers && !t->why[i] && !(err = note(t, i, judge(t->db, item))) && t->why[i])
            drop(t->db, item); /* the next one is compiled without it */
    }
    for (uint32_t i = 0; i < n && !err && views; i++) { /* a view may use a later one */
        const struct schema_item *item = batch_reader_schema(r, i);
        if (trial_is_type(item, type) && !t->why[i] && !(err = note(t, i, judge(t->db, item))) && t->why[i])
            drop(t->db, item);
    }
    return err;
}

int trial_run(struct trial *t, const struct batch_reader *r) {
    memset(t, 0, sizeof *t);
    t->count = batch_reader_schema_count(r);
    if (!(t->why = calloc(t->count + 1, sizeof *t->why)))
        return ERR_NOMEM;
    int err = open_scratch(&t->db);
    for (unsigned o = 0; o < TRIAL_TYPES && !err; o++)
        err = try_type(t, r, TRIAL_ORDER[o]);
    return err;
}

void trial_end(struct trial *t) {
    sqlite3_close(t->db);
    for (uint32_t i = 0; i < t->count; i++)
        free(t->why[i]);
    free(t->why);
    memset(t, 0, sizeof *t);
}
