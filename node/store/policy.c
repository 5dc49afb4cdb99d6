/* Policies per table: what the configuration says is written into the state and told to the others, as an item of the schema part of a batch
 * ("policy", table, name, "STAMP VALUE"); what others tell is taken if it was written later. Both come into force at once. See policy.h. */
#include "node/store/policy.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/engine.h"
#include "node/store/report.h"
#include "node/store/trial.h"
#include "proto/err.h"

#define REFS_DEPTH 64
#define POLICIES_MAX 4096u /* of all tables: others can tell any */

struct policy_row {
    char *table, *name, *value;
    uint64_t stamp;
    uint8_t node[NODE_ID_BYTES]; /* who said so */
    bool due;                    /* ours, and not told yet */
    int64_t doubles;             /* key: values that several rows of the file have, as counted then */
    int64_t counted_ms;
    uint64_t counted_at; /* what had been drained and shown */
};

/* ---- what can be said */

static size_t trim(const char **text, size_t len) {
    while (len && (**text == ' ' || **text == '\t')) {
        ++*text;
        len--;
    }
    while (len && ((*text)[len - 1] == ' ' || (*text)[len - 1] == '\t'))
        len--;
    return len;
}

static const char *last_of(const char *text, size_t len, char c) {
    while (len-- > 0)
        if (text[len] == c)
            return text + len;
    return NULL;
}

bool policy_ref_read(const char *text, size_t len, struct policy_ref *out) {
    const char *arrow = NULL;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i + 1 < len && !arrow; i++)
        if (text[i] == '-' && text[i + 1] == '>')
            arrow = text + i;
    if (!arrow)
        return false;
    out->column = text;
    out->column_len = trim(&out->column, (size_t)(arrow - text));
    const char *to = arrow + 2;
    size_t to_len = trim(&to, (size_t)(text + len - to));
    const char *dot = last_of(to, to_len, '.'), *slash = dot ? last_of(to, (size_t)(dot - to), '/') : NULL;
    if (!dot)
        return false;
    out->db = to;
    out->db_len = slash ? (size_t)(slash - to) : 0;
    out->table = slash ? slash + 1 : to;
    out->table_len = (size_t)(dot - out->table);
    out->to = dot + 1;
    out->to_len = (size_t)(to + to_len - out->to);
    return out->column_len && out->table_len && out->to_len && (!slash || out->db_len);
}

/* Calls with each line. false: some call said so. */
static bool each_line(const char *value, bool (*call)(void *ctx, const char *line, size_t len), void *ctx) {
    for (const char *at = value; *at;) {
        size_t len = strcspn(at, "\n");
        if (!call(ctx, at, len))
            return false;
        at += len + (at[len] == '\n');
    }
    return true;
}

static bool is_name(void *ctx, const char *line, size_t len) {
    (void)ctx;
    (void)line;
    return len > 0 && len <= SCHEMA_NAME_MAX;
}

static bool is_ref(void *ctx, const char *line, size_t len) {
    struct policy_ref ref;
    (void)ctx;
    return policy_ref_read(line, len, &ref);
}

const char *policy_refuse(const char *name, const char *value) {
    if (strlen(value) > POLICY_VALUE_MAX)
        return "that is too long";
    if (!strcmp(name, "unique"))
        return !strcmp(value, "merge") || !strcmp(value, "rename") ? NULL : "it is one of merge|rename";
    if (!strcmp(name, "orphans"))
        return !strcmp(value, "revive") || !strcmp(value, "keep") || !strcmp(value, "cascade") ? NULL : "it is one of revive|keep|cascade";
    if (!strcmp(name, "key"))
        return each_line(value, is_name, NULL) ? NULL : "name columns: { \"number\", \"season\" }";
    if (!strcmp(name, "refs"))
        return each_line(value, is_ref, NULL) ? NULL : "say \"column -> table.column\", or \"column -> database/table.column\"";
    return "no policy has this name";
}

static const char *fallback(const char *name) { return !strcmp(name, "unique") ? "merge" : !strcmp(name, "orphans") ? "revive" : ""; }

/* ---- what is in force, in memory */

static struct policy_row *find(const struct store *s, const char *table, const char *name) {
    for (uint32_t i = 0; i < s->policies_count; i++)
        if (!sqlite3_stricmp(s->policies[i].table, table) && !strcmp(s->policies[i].name, name))
            return &s->policies[i];
    return NULL;
}

static int put(struct store *s, const char *table, const char *name, const char *value, uint64_t stamp, const uint8_t *node, bool due) {
    struct policy_row *p = find(s, table, name);
    if (!p) {
        struct policy_row *more = realloc(s->policies, (s->policies_count + 1) * sizeof *more);
        if (!more)
            return ERR_NOMEM;
        s->policies = more;
        p = &more[s->policies_count];
        *p = (struct policy_row){.table = strdup(table), .name = strdup(name)};
        if (!p->table || !p->name) {
            free(p->table);
            free(p->name);
            return ERR_NOMEM;
        }
        s->policies_count++;
    }
    free(p->value);
    if (!(p->value = strdup(value)))
        return ERR_NOMEM;
    p->stamp = stamp;
    p->due = due;
    p->counted_ms = 0;
    memcpy(p->node, node, NODE_ID_BYTES);
    s->policies_due |= due;
    return 0;
}

void policies_release(struct store *s) {
    for (uint32_t i = 0; i < s->policies_count; i++) {
        free(s->policies[i].table);
        free(s->policies[i].name);
        free(s->policies[i].value);
    }
    free(s->policies);
    s->policies = NULL;
    s->policies_count = 0;
}

/* ---- in the state */

static int store_one(struct store *s, const struct policy_row *p) {
    sqlite3_stmt *q;
    int err = sql_prepare(s->db, &q, "INSERT OR REPLACE INTO policy VALUES(?, ?, ?, ?, ?, ?)");
    if (err)
        return err;
    sqlite3_bind_text(q, 1, p->table, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 2, p->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 3, p->value, -1, SQLITE_STATIC);
    sqlite3_bind_int64(q, 4, (int64_t)p->stamp);
    sqlite3_bind_blob(q, 5, p->node, NODE_ID_BYTES, SQLITE_STATIC);
    sqlite3_bind_int(q, 6, p->due);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

static int load(struct store *s) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT tbl, name, value, stamp, node, due FROM policy");
    while (!err && (row = sql_step(q)) != 0) {
        const char *texts[3];
        for (int i = 0; i < 3; i++)
            texts[i] = row > 0 ? (const char *)sqlite3_column_text(q, i) : NULL;
        bool whole = texts[0] && texts[1] && texts[2] && sqlite3_column_bytes(q, 4) == NODE_ID_BYTES;
        err = row < 0 ? row
              : whole ? put(s, texts[0], texts[1], texts[2], (uint64_t)sqlite3_column_int64(q, 3), sqlite3_column_blob(q, 4),
                            sqlite3_column_int(q, 5))
                      : ERR_CORRUPT;
    }
    sqlite3_finalize(q);
    return err;
}

/* ---- what the configuration says */

static const struct policy_line *line_of(const struct store *s, const char *table, const char *name) {
    for (uint32_t i = 0; i < s->config.policies_count; i++)
        if (!sqlite3_stricmp(s->config.policies[i].table, table) && !strcmp(s->config.policies[i].name, name))
            return &s->config.policies[i];
    return NULL;
}

/* We say so, now. */
static int say(struct store *s, const char *table, const char *name, const char *value) {
    const struct policy_row *was = find(s, table, name);
    uint64_t now = hlc_of_ms((uint64_t)store_wall_ms(s)), stamp = was ? stamp_above(was->stamp) : 0;
    if (was && !strcmp(was->value, value))
        return 0;
    int err = put(s, table, name, value, now > stamp ? now : stamp, s->origin_ids[s->own].node, true);
    return err ? err : store_one(s, find(s, table, name));
}

static int note_said(struct store *s, const char *table, const char *name, const char *value) {
    sqlite3_stmt *q;
    int err = value ? sql_prepare(s->db, &q, "INSERT OR REPLACE INTO policy_here VALUES(?, ?, ?)")
                    : sql_prepare(s->db, &q, "DELETE FROM policy_here WHERE tbl=? AND name=?");
    if (err)
        return err;
    sqlite3_bind_text(q, 1, table, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(q, 2, name, -1, SQLITE_TRANSIENT);
    if (value)
        sqlite3_bind_text(q, 3, value, -1, SQLITE_STATIC);
    err = sql_run(q);
    sqlite3_finalize(q);
    return err;
}

/* What it said before and does not say any more goes back to the default, unless others have said something since. */
static int take_back(struct store *s) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT tbl, name FROM policy_here");
    while (!err && (row = sql_step(q)) != 0) {
        const char *table = row > 0 ? (const char *)sqlite3_column_text(q, 0) : NULL;
        const char *name = row > 0 ? (const char *)sqlite3_column_text(q, 1) : NULL;
        if (row < 0 || !table || !name) {
            err = row < 0 ? row : ERR_CORRUPT;
            break;
        }
        const struct policy_row *p = find(s, table, name);
        if (line_of(s, table, name))
            continue;
        bool ours = p && memcmp(p->node, s->origin_ids[s->own].node, NODE_ID_BYTES) == 0;
        if (!ours || !(err = say(s, table, name, fallback(name))))
            err = note_said(s, table, name, NULL);
    }
    sqlite3_finalize(q);
    return err;
}

int policies_open(struct store *s) {
    int err = load(s);
    if (err || (err = state_begin(s)) || (err = take_back(s)))
        return err;
    for (uint32_t i = 0; i < s->config.policies_count && !err; i++) {
        const struct policy_line *l = &s->config.policies[i];
        sqlite3_stmt *q;
        if ((err = sql_prepare(s->db, &q, "SELECT 1 FROM policy_here WHERE tbl=? AND name=? AND value=?")))
            break;
        sqlite3_bind_text(q, 1, l->table, -1, SQLITE_STATIC);
        sqlite3_bind_text(q, 2, l->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(q, 3, l->value, -1, SQLITE_STATIC);
        int said = sql_step(q);
        sqlite3_finalize(q);
        err = said < 0 ? said : 0;
        if (said == 0 && !(err = say(s, l->table, l->name, l->value)))
            err = note_said(s, l->table, l->name, l->value);
    }
    return err;
}

/* ---- on the wire */

uint32_t policies_due(const struct store *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->policies_count; i++)
        n += s->policies[i].due;
    return n;
}

int policies_pack(struct store *s, struct arena *arena, struct schema_item *items) {
    for (uint32_t i = 0; i < s->policies_count; i++) {
        const struct policy_row *p = &s->policies[i];
        size_t len = strlen(p->value) + 24;
        char *text = p->due ? arena_alloc(arena, len) : NULL;
        if (!p->due)
            continue;
        if (!text)
            return ERR_NOMEM;
        snprintf(text, len, "%" PRIu64 " %s", p->stamp, p->value);
        *items++ = (struct schema_item){"policy", p->table, p->name, text, 6, strlen(p->table), strlen(p->name), strlen(text)};
    }
    return 0;
}

int policies_told(struct store *s) {
    for (uint32_t i = 0; i < s->policies_count; i++)
        s->policies[i].due = false;
    s->policies_due = false;
    return sql_exec(s->db, "UPDATE policy SET due=0 WHERE due");
}

/* Of an item: malloc'ed texts. false: it is none, or nothing that can be in force here. */
static bool item_read(const struct schema_item *item, char **table, char **name, char **value, uint64_t *stamp) {
    char *end;
    if (!trial_is_type(item, "policy") || item->sql_len < 2 || item->sql_len > POLICY_VALUE_MAX + 24 || item->name_len > SCHEMA_NAME_MAX ||
        !item->table_len || item->table_len > 16 || memchr(item->sql, 0, item->sql_len) ||
        (item->name_len && memchr(item->name, 0, item->name_len)))
        return false;
    char *text = strndup(item->sql, item->sql_len);
    *table = strndup(item->name_len ? item->name : "", item->name_len);
    *name = strndup(item->table, item->table_len);
    *value = NULL;
    if (text) {
        *stamp = strtoull(text, &end, 10);
        *value = *end == ' ' && text[0] >= '0' && text[0] <= '9' ? strdup(end + 1) : NULL;
    }
    free(text);
    if (*table && *name && *value && !policy_refuse(*name, *value))
        return true;
    free(*table);
    free(*name);
    free(*value);
    return false;
}

static int take(struct store *s, const char *table, const char *name, const char *value, uint64_t stamp, const uint8_t *node) {
    const struct policy_row *was = find(s, table, name);
    bool later = !was || stamp > was->stamp || (stamp == was->stamp && memcmp(node, was->node, NODE_ID_BYTES) > 0);
    if (!later || (!was && s->policies_count >= POLICIES_MAX))
        return 0;
    bool news = strcmp(value, was ? was->value : fallback(name)) != 0;
    int err = put(s, table, name, value, stamp, node, false);
    if (err || (err = store_one(s, find(s, table, name))) || !news)
        return err;
    if (!strcmp(name, "refs") && s->app_open) /* what refers to what is bound with the schema */
        s->schema_stale = s->policies_moved = true;
    for (uint32_t i = 0; i < s->tios_count && !err; i++)
        if (s->tios[i].tbl && (!*table || !sqlite3_stricmp(s->tios[i].table->name, table)))
            err = policies_bind(s, &s->tios[i]);
    return err;
}

int policies_take(struct store *s, const struct batch_reader *r, uint32_t origin) {
    int err = 0;
    for (uint32_t i = 0; i < batch_reader_schema_count(r) && !err; i++) {
        char *table, *name, *value;
        uint64_t stamp;
        if (!item_read(batch_reader_schema(r, i), &table, &name, &value, &stamp))
            continue;
        err = take(s, table, name, value, stamp, s->origin_ids[origin].node);
        free(table);
        free(name);
        free(value);
    }
    return err;
}

/* ---- in force: what a table does */

struct binding {
    struct tio *io;
    uint32_t count, at[POLICY_KEY_MAX];
};

static bool add_key(void *ctx, const char *line, size_t len) {
    struct binding *b = ctx;
    uint32_t i = 0;
    while (i < b->io->count && !(strlen(b->io->names[i]) == len && !sqlite3_strnicmp(b->io->names[i], line, (int)len)))
        i++;
    if (i == b->io->count || b->count == POLICY_KEY_MAX)
        return false;
    b->at[b->count++] = i;
    return true;
}

static void bind_one(struct tio *io, const struct policy_row *p) {
    struct policy *to = &io->policy;
    if (!strcmp(p->name, "unique"))
        to->renames = !strcmp(p->value, "rename");
    if (!strcmp(p->name, "orphans"))
        to->orphans = !strcmp(p->value, "keep") ? ORPHANS_KEEP : !strcmp(p->value, "cascade") ? ORPHANS_CASCADE : ORPHANS_REVIVE;
    struct binding b = {.io = io};
    if (!strcmp(p->name, "key") && each_line(p->value, add_key, &b)) {
        to->key_count = b.count;
        memcpy(to->key, b.at, sizeof b.at);
    }
}

int policies_bind(struct store *s, struct tio *io) {
    alike_unload(io);
    io->policy = (struct policy){.orphans = ORPHANS_REVIVE};
    for (int own = 0; own < 2; own++) /* what is said of the table itself comes after what is said of all */
        for (uint32_t i = 0; i < s->policies_count; i++)
            if (own ? !sqlite3_stricmp(s->policies[i].table, io->table->name) : !*s->policies[i].table)
                bind_one(io, &s->policies[i]);
    return alike_load(s, io);
}

bool policies_key_has(const struct tio *io, uint32_t at) {
    for (uint32_t i = 0; i < io->policy.key_count; i++)
        if (io->policy.key[i] == at)
            return true;
    return false;
}

/* ---- in force: references */

static const struct column *column_of(const struct table *t, const char *name, size_t len) {
    for (uint32_t i = 0; t && i < t->columns_count; i++)
        if (strlen(t->columns[i].name) == len && !sqlite3_strnicmp(t->columns[i].name, name, (int)len))
            return &t->columns[i];
    return NULL;
}

static bool same_name(const char *a, size_t a_len, const char *b, size_t b_len) {
    return a_len == b_len && !sqlite3_strnicmp(a, b, (int)a_len);
}

static bool is_here(const struct store *s, const struct policy_ref *r) {
    return !r->db_len || (strlen(s->config.db) == r->db_len && !memcmp(s->config.db, r->db, r->db_len));
}

struct seek { /* the reference of a column */
    const char *column;
    size_t len;
    struct policy_ref found;
};

static bool seek_one(void *ctx, const char *line, size_t len) {
    struct seek *k = ctx;
    struct policy_ref r;
    if (policy_ref_read(line, len, &r) && same_name(r.column, r.column_len, k->column, k->len))
        k->found = r;
    return true;
}

/* Does this reference lead back to itself, from column to column? */
static bool loops(const struct store *s, const char *table, const struct policy_ref *first) {
    struct policy_ref at = *first;
    for (int depth = 0; depth < REFS_DEPTH; depth++) {
        if (!is_here(s, &at))
            return false;
        if (same_name(at.table, at.table_len, table, strlen(table)) && same_name(at.to, at.to_len, first->column, first->column_len))
            return true;
        char name[SCHEMA_NAME_MAX + 1];
        snprintf(name, sizeof name, "%.*s", (int)at.table_len, at.table);
        const struct policy_row *p = find(s, name, "refs");
        struct seek k = {.column = at.to, .len = at.to_len};
        if (!p)
            return false;
        each_line(p->value, seek_one, &k);
        if (!k.found.column)
            return false;
        at = k.found;
    }
    return true;
}

struct reference {
    struct store *s;
    const struct schema *schema;
    struct table *table;
    char *why; /* 300 bytes; NULL: it is to come into force */
    int err;
};

static const char *ref_lacks(const struct reference *f, const struct policy_ref *r) {
    static _Thread_local char why[300];
    const struct table *parent = is_here(f->s, r) ? schema_find(f->schema, r->table, r->table_len) : NULL;
    const struct column *to = column_of(parent, r->to, r->to_len), *from = column_of(f->table, r->column, r->column_len);
    if (!is_here(f->s, r) && from && from->key_place)
        return "it is the key, and a key means no row of another database";
    if (!is_here(f->s, r) && from && afar_none(f->s, r))
        return "no database here has such a table with such a number for its key";
    if (!is_here(f->s, r) && from)
        return NULL;
    if (!from)
        snprintf(why, sizeof why, "it has no column \"%.*s\"", (int)(r->column_len < 100 ? r->column_len : 100), r->column);
    else if (!parent)
        snprintf(why, sizeof why, "there is no table \"%.*s\"", (int)(r->table_len < 100 ? r->table_len : 100), r->table);
    else if (!to)
        snprintf(why, sizeof why, "\"%.80s\" has no column \"%.*s\"", parent->name, (int)(r->to_len < 100 ? r->to_len : 100), r->to);
    else if (!(to->key_place && parent->key_count == 1))
        snprintf(why, sizeof why, "column \"%.80s\" is not the key of \"%.80s\"", to->name, parent->name);
    else if (loops(f->s, f->table->name, r))
        snprintf(why, sizeof why, "these references go in a loop, and no row of it could be known by another");
    else
        return NULL;
    return why;
}

static bool add_reference(void *ctx, const char *line, size_t len) {
    struct reference *f = ctx;
    struct policy_ref r;
    const char *lacks = policy_ref_read(line, len, &r) ? ref_lacks(f, &r) : "it is no reference";
    if (f->why) {
        snprintf(f->why, 300, "%s", lacks ? lacks : "");
        return !lacks;
    }
    if (lacks || !is_here(f->s, &r))
        return true; /* the others hold; policies_afar() */
    for (uint32_t i = 0; i < f->table->foreign_keys_count; i++)
        if (f->table->foreign_keys[i].count == 1 &&
            same_name(f->table->foreign_keys[i].from[0], strlen(f->table->foreign_keys[i].from[0]), r.column, r.column_len))
            return true; /* the schema says so, too */
    struct foreign_key *more = realloc(f->table->foreign_keys, (f->table->foreign_keys_count + 1) * sizeof *more);
    if (more)
        f->table->foreign_keys = more;
    struct foreign_key k = {strndup(r.table, r.table_len), 1, calloc(1, sizeof(char *)), calloc(1, sizeof(char *))};
    if (k.from && k.to) {
        k.from[0] = strndup(r.column, r.column_len);
        k.to[0] = strndup(r.to, r.to_len);
    }
    if (!more || !k.parent || !k.from || !k.to || !k.from[0] || !k.to[0]) {
        free(k.from ? k.from[0] : NULL);
        free(k.to ? k.to[0] : NULL);
        free(k.parent);
        free(k.from);
        free(k.to);
        f->err = ERR_NOMEM;
        return false;
    }
    more[f->table->foreign_keys_count++] = k;
    return true;
}

int policies_refs(struct store *s, struct schema *schema) {
    struct reference f = {.s = s, .schema = schema};
    for (uint32_t i = 0; i < s->policies_count && !f.err; i++)
        for (uint32_t t = 0; t < schema->count && !f.err && !strcmp(s->policies[i].name, "refs"); t++)
            if (!sqlite3_stricmp(schema->tables[t].name, s->policies[i].table)) {
                f.table = &schema->tables[t];
                each_line(s->policies[i].value, add_reference, &f);
            }
    return f.err;
}

struct away {
    struct store *s;
    struct tio *io;
    int err;
};

static bool add_away(void *ctx, const char *line, size_t len) {
    struct away *w = ctx;
    struct tio *io = w->io;
    struct policy_ref r;
    if (!policy_ref_read(line, len, &r) || is_here(w->s, &r))
        return true;
    for (uint32_t k = 0; k < io->count && !w->err; k++) {
        if (!same_name(io->names[k], strlen(io->names[k]), r.column, r.column_len) || io->table->columns[io->order[k]].key_place)
            continue;
        if (!io->afar && !(io->afar = calloc(io->count, sizeof(struct afar *))))
            w->err = ERR_NOMEM;
        else
            w->err = afar_get(w->s, &r, &io->afar[k]);
    }
    return !w->err;
}

int policies_afar(struct store *s, struct tio *io) {
    struct away w = {.s = s, .io = io};
    for (uint32_t i = 0; i < s->policies_count && !w.err; i++)
        if (!strcmp(s->policies[i].name, "refs") && !sqlite3_stricmp(s->policies[i].table, io->table->name))
            each_line(s->policies[i].value, add_away, &w);
    return w.err;
}

/* ---- what is wrong with it here */

#define COUNTED_ROWS 20000
#define COUNTED_MS 60000
#define DEFAULT_HOLDS "until then the default is in force: correct the line, or leave it out"

/* A large table is read seldom. */
static int count_doubles(struct store *s, const struct tio *io, struct policy_row *p) {
    uint64_t at = s->drained_rows + s->projected_rows;
    int64_t now = store_mono_us() / 1000;
    if (p->counted_ms && (p->counted_at == at || (io->tbl->rows > COUNTED_ROWS && now - p->counted_ms < COUNTED_MS)))
        return 0;
    sqlite3_str *q = sqlite3_str_new(s->app.reader);
    sqlite3_str_appendf(q, "SELECT count(*) FROM (SELECT 1 FROM main.\"%w\" WHERE ", io->table->name);
    for (uint32_t i = 0; i < io->policy.key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\" NOT NULL", i ? " AND " : "", io->names[io->policy.key[i]]);
    for (uint32_t i = 0; i < io->policy.key_count; i++)
        sqlite3_str_appendf(q, "%s\"%w\"", i ? ", " : " GROUP BY ", io->names[io->policy.key[i]]);
    sqlite3_str_appendall(q, " HAVING count(*) > 1)");
    char *text = sqlite3_str_finish(q);
    int err = text ? sql_int(s->app.reader, 0, &p->doubles, "%s", text) : ERR_NOMEM;
    sqlite3_free(text);
    p->counted_ms = err ? 0 : now;
    p->counted_at = at;
    return err;
}

struct names {
    const struct table *table;
    const char *lacking;
    size_t len;
};

static bool has_name(void *ctx, const char *line, size_t len) {
    struct names *n = ctx;
    n->lacking = line;
    n->len = len;
    return column_of(n->table, line, len) != NULL;
}

/* Is the policy not, or not wholly, in force here? Then why. */
static bool wrong(struct store *s, struct policy_row *p, char why[400], const char **mend) {
    const struct table *t = *p->table ? schema_find(&s->schema, p->table, strlen(p->table)) : NULL;
    struct tio *io = NULL;
    for (uint32_t i = 0; i < s->tios_count; i++)
        io = s->tios[i].tbl && s->tios[i].table == t ? &s->tios[i] : io;
    *mend = DEFAULT_HOLDS;
    if (!*p->table || !*p->value || !s->app_open || !s->schema.count)
        return false;
    if (!t) {
        snprintf(why, 400, "the application here has no table \"%.100s\"", p->table);
        return true;
    }
    if (t->excluded || t->unsupported || !io) {
        snprintf(why, 400, "this table is not replicated here");
        return true;
    }
    if (!strcmp(p->name, "refs")) {
        char lacks[300] = "";
        struct reference f = {.s = s, .schema = &s->schema, .table = &s->schema.tables[t - s->schema.tables], .why = lacks};
        if (each_line(p->value, add_reference, &f))
            return false;
        snprintf(why, 400, "%s", lacks);
        return true;
    }
    if (strcmp(p->name, "key") != 0)
        return false;
    struct names n = {.table = t};
    if (!each_line(p->value, has_name, &n)) {
        snprintf(why, 400, "it has no column \"%.*s\"", (int)(n.len < 100 ? n.len : 100), n.lacking);
        return true;
    }
    if (!io->policy.key_count) {
        snprintf(why, 400, "more than %d columns, or one that is not stored", POLICY_KEY_MAX);
        return true;
    }
    if (count_doubles(s, io, p) || !p->doubles)
        return false;
    snprintf(why, 400, "%lld %s of it %s in several rows here", (long long)p->doubles, p->doubles == 1 ? "value" : "values",
             p->doubles == 1 ? "is" : "are");
    *mend = "they stay as they are, and it holds for rows that meet from now on: make one of those rows in the application";
    return true;
}

static void flat(const char *value, char out[200]) {
    size_t n = 0;
    for (; *value && n < 196; value++) {
        out[n++] = *value == '\n' ? ',' : *value;
        if (*value == '\n')
            out[n++] = ' ';
    }
    out[n] = 0;
    if (!n)
        snprintf(out, 200, "none");
}

static bool is_ours(const struct store *s, const struct policy_row *p) {
    return memcmp(p->node, s->origin_ids[s->own].node, NODE_ID_BYTES) == 0;
}

/* "unique = rename", and behind it what is the matter; true: something is. */
static bool describe(struct store *s, struct policy_row *p, char what[800], const char **mend) {
    const struct policy_line *l = line_of(s, p->table, p->name);
    char value[200], here[200], why[400] = "", node[2 * NODE_ID_BYTES + 1], said[80] = "this server";
    flat(p->value, value);
    sodium_bin2hex(node, sizeof node, p->node, NODE_ID_BYTES);
    if (!is_ours(s, p))
        snprintf(said, sizeof said, "node %.16s", node);
    if (l && strcmp(l->value, p->value) != 0) {
        flat(l->value, here);
        snprintf(what, 800, "%s: %s = %s is not in force: %s said %s later", l->where, p->name, here, said, value);
        *mend = "write the same into the configuration of every server; the server that is started with a new line last decides";
        return true;
    }
    bool is = wrong(s, p, why, mend);
    snprintf(what, 800, "%s%s%s = %s%s%s%s", l ? l->where : "", l ? ": " : "", p->name, value, is ? ": " : ", said by ", is ? why : said,
             is && !l && !is_ours(s, p) ? " (said by another server)" : "");
    return is;
}

void policies_each(struct store *s, const char *table, void (*call)(void *ctx, const char *what, const char *mend), void *ctx) {
    for (uint32_t i = 0; i < s->policies_count; i++) {
        struct policy_row *p = &s->policies[i];
        char what[800];
        const char *mend = NULL;
        bool known = !*p->table || schema_find(&s->schema, p->table, strlen(p->table));
        if (table ? sqlite3_stricmp(table, p->table) != 0 : known && *p->table)
            continue;
        bool is = describe(s, p, what, &mend);
        if (is || strcmp(p->value, fallback(p->name)) != 0)
            call(ctx, what, is ? mend : NULL);
    }
}

int policies_say(struct store *s, bool afar) {
    for (uint32_t i = 0; i < s->policies_count; i++) {
        char what[800];
        const char *mend = NULL;
        if ((!afar || (!strcmp(s->policies[i].name, "refs") && strchr(s->policies[i].value, '/'))) &&
            describe(s, &s->policies[i], what, &mend))
            store_log(s, LOG_WARNING, "%s: table \"%s\": %s: %s", s->config.db, *s->policies[i].table ? s->policies[i].table : "(all)",
                      what, mend);
    }
    return 0;
}

json_t *policies_json(struct store *s) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->policies_count; i++) {
        struct policy_row *p = &s->policies[i];
        char what[800], value[200], node[2 * NODE_ID_BYTES + 1];
        const char *mend = NULL;
        bool is = describe(s, p, what, &mend);
        if (!is && !strcmp(p->value, fallback(p->name)))
            continue;
        flat(p->value, value);
        sodium_bin2hex(node, sizeof node, p->node, NODE_ID_BYTES);
        json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:I}", "table", p->table, "policy", p->name, "value", value, "node", node, "time_ms",
                              (json_int_t)hlc_ms(p->stamp));
        if (j && is) {
            json_object_set_new(j, "problem", json_string(what));
            json_object_set_new(j, "mend", json_string(mend));
        }
        if (j)
            json_array_append_new(list, j);
    }
    return list;
}
