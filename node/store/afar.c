/* References to rows of another database. What its roster tells is kept in the state, row by row: the identity, and the number that it has here. So
 * a drain tells whom a number means, and a projection writes today's number, as refs.c does within one database.
 *
 * The two databases are drained one after the other, and nothing orders their commits: what was drained before the row was known that it means is a
 * number at first, and told again as soon as that is known, by who wrote it. A row that moves is `due` until the rows that refer to it were looked
 * at: in the transaction that makes these pending, which is what shows them anew. So a crash loses nothing between the two databases, and what
 * a message lost is told again when either is opened. */
#include "node/store/afar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define LATE_MS 60000
#define FINISH_US 2000000
#define AWAIT_MS 15000 /* a first capture waits so long to be told whom its numbers mean */

struct afar_row {
    UT_hash_handle hh, by_number, by_birth;
    struct afar_row *next_due;
    int64_t number, was, born; /* today; before it moved; at first */
    uint64_t birth;
    uint8_t state, len;
    bool placed;       /* in by_number: it is the one that has the number */
    bool adopted;      /* in by_birth: it was there before us, on this server */
    bool due, has_was; /* `was`: the rows here may still show it so */
    bool listed;
    uint8_t ref[VALUE_REF_BORN_BYTES]; /* hash key; of the table named as we name it */
};

struct afar_moved { /* as in outdated.c */
    struct afar_moved *next;
    struct afar_row *row;
    int64_t number, ms;
};

struct afar {
    struct afar *next;
    char *name; /* "db/table.column" */
    uint64_t hash;
    bool asked, none, complete;
    bool fresh; /* its database was taken up no earlier than this one: both files show the numbers of that time */
    int64_t asked_ms;
    struct afar_row *rows, *numbers, *births, *due;
    struct afar_moved *moved;
    sqlite3_stmt *put;
};

struct afar_news {
    struct afar_news *next;
    char *name;
    struct bytes *rows;
    unsigned flags;
    bool began; /* those of its rows that are late were told of */
};

/* ---- what refers where */

static void clear(struct afar *a) {
    struct afar_row *r, *next;
    HASH_CLEAR(by_number, a->numbers);
    HASH_CLEAR(by_birth, a->births);
    HASH_ITER(hh, a->rows, r, next) {
        HASH_DEL(a->rows, r);
        free(r);
    }
    for (struct afar_moved *m = a->moved, *after; m; m = after) {
        after = m->next;
        free(m);
    }
}

void store_drop_afar(struct afar *list) {
    for (struct afar *a = list, *next; a; a = next) {
        next = a->next;
        clear(a);
        sqlite3_finalize(a->put);
        free(a->name);
        free(a);
    }
}

/* What the file shows, and not what it is about to: so that is shown first. */
static void finish(struct store *s) {
    char why[300];
    int64_t until_us = store_mono_us() + FINISH_US;
    while (s->afar && (afar_due(s) || s->pending || s->flights) && store_mono_us() < until_us) {
        int wait = store_turn(s, why, sizeof why);
        if (wait < -1)
            return; /* it is closed anyway */
        if (wait > 0)
            sqlite3_sleep(1);
    }
}

struct afar *store_take_afar(struct store *s) {
    finish(s);
    struct afar *list = s->afar ? s->afar : s->afar_before;
    for (struct afar *a = list; a; a = a->next) {
        sqlite3_finalize(a->put);
        a->put = NULL;
    }
    if (list == s->afar_before)
        s->afar_before = NULL;
    s->afar = NULL;
    for (uint32_t i = 0; i < s->tios_count; i++) {
        free(s->tios[i].afar);
        s->tios[i].afar = NULL;
    }
    return list;
}

void afar_release(struct store *s) {
    store_drop_afar(s->afar);
    store_drop_afar(s->afar_before);
    for (struct afar_news *n = s->afar_news, *next; n; n = next) {
        next = n->next;
        bytes_unref(n->rows);
        free(n->name);
        free(n);
    }
    s->afar = s->afar_before = NULL;
    s->afar_news = NULL;
}

static struct afar *find_name(const struct store *s, const char *name) {
    struct afar *a = s->afar;
    while (a && sqlite3_stricmp(a->name, name) != 0)
        a = a->next;
    return a;
}

static void place(struct afar *a, struct afar_row *r, bool is) {
    struct afar_row *there;
    if (r->placed)
        HASH_DELETE(by_number, a->numbers, r);
    r->placed = false;
    if (!is)
        return;
    HASH_FIND(by_number, a->numbers, &r->number, sizeof r->number, there);
    if (there) {
        HASH_DELETE(by_number, a->numbers, there);
        there->placed = false;
    }
    HASH_ADD(by_number, a->numbers, number, sizeof r->number, r);
    r->placed = true;
}

static void make_due(struct afar *a, struct afar_row *r) {
    if (r->due)
        return;
    r->due = true;
    r->next_due = a->due;
    a->due = r;
}

static struct afar_row *find_ref(const struct afar *a, const uint8_t *ref, size_t len) {
    struct afar_row *r;
    HASH_FIND(hh, a->rows, ref, len, r);
    return r;
}

static struct afar_row *row_of(struct afar *a, const uint8_t *ref, size_t len) {
    struct afar_row *r = find_ref(a, ref, len);
    if (r || len > sizeof r->ref || !(r = calloc(1, sizeof *r)))
        return r;
    memcpy(r->ref, ref, len);
    r->len = (uint8_t)len;
    r->state = ROSTER_STATES;
    struct value_ref said;
    r->born = value_ref_unpack(&said, ref, len) ? said.number : 0;
    HASH_ADD(hh, a->rows, ref, r->len, r);
    return r;
}

static int load(struct store *s, struct afar *a) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT ref, number, was, birth, state, due FROM afar WHERE name=%Q", a->name);
    while (!err && (row = sql_step(q)) != 0) {
        struct afar_row *r = row > 0 ? row_of(a, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0)) : NULL;
        if (!r) {
            err = row < 0 ? row : ERR_NOMEM;
            break;
        }
        r->number = sqlite3_column_int64(q, 1);
        r->has_was = sqlite3_column_type(q, 2) != SQLITE_NULL;
        r->was = sqlite3_column_int64(q, 2);
        r->birth = (uint64_t)sqlite3_column_int64(q, 3);
        r->state = (uint8_t)sqlite3_column_int(q, 4);
        if (r->state == ROSTER_LIVES)
            place(a, r, true);
        if (sqlite3_column_int(q, 5))
            make_due(a, r);
    }
    sqlite3_finalize(q);
    return err ? err : sql_prepare(s->db, &a->put, "INSERT OR REPLACE INTO afar VALUES(%Q, ?, ?, ?, ?, ?, ?)", a->name);
}

int afar_get(struct store *s, const struct policy_ref *ref, struct afar **out) {
    char *name = sqlite3_mprintf("%.*s/%.*s.%.*s", (int)ref->db_len, ref->db, (int)ref->table_len, ref->table, (int)ref->to_len, ref->to);
    if (!name)
        return ERR_NOMEM;
    struct afar *a = find_name(s, name);
    int err = 0;
    if (!a) {
        a = calloc(1, sizeof *a);
        if (!a || !(a->name = strdup(name))) {
            free(a);
            sqlite3_free(name);
            return ERR_NOMEM;
        }
        a->hash = state_name_hash(name, strlen(name));
        a->next = s->afar;
        s->afar = a;
        err = load(s, a);
        a->complete = !s->config.on_follow;
    }
    if (!err && !a->asked && s->config.on_follow) {
        a->asked = true;
        a->asked_ms = store_mono_us() / 1000;
        s->config.on_follow(s->config.ctx, a->name);
    }
    sqlite3_free(name);
    *out = a;
    return err;
}

bool afar_none(const struct store *s, const struct policy_ref *ref) {
    char *name = sqlite3_mprintf("%.*s/%.*s.%.*s", (int)ref->db_len, ref->db, (int)ref->table_len, ref->table, (int)ref->to_len, ref->to);
    const struct afar *a = name ? find_name(s, name) : NULL;
    sqlite3_free(name);
    return a && a->none;
}

bool afar_awaited(struct store *s) {
    for (const struct afar *a = s->afar; a; a = a->next)
        if (!a->complete && store_mono_us() / 1000 - a->asked_ms < AWAIT_MS)
            return true;
    return false;
}

bool afar_due(const struct store *s) {
    bool due = s->afar_news != NULL;
    for (const struct afar *a = s->afar; a; a = a->next)
        due = due || a->due;
    return due;
}

/* ---- what is told */

void store_numbers(struct store *s, const char *name, struct bytes *rows, unsigned flags) {
    struct afar_news *n = calloc(1, sizeof *n);
    if (!n || !(n->name = strdup(name))) {
        free(n);
        return;
    }
    n->rows = rows ? bytes_ref(rows) : NULL;
    n->flags = flags;
    struct afar_news **at = &s->afar_news;
    while (*at)
        at = &(*at)->next;
    *at = n;
}

static int keep(const struct afar *a, const struct afar_row *r) {
    sqlite3_bind_blob(a->put, 1, r->ref, r->len, SQLITE_STATIC);
    sqlite3_bind_int64(a->put, 2, r->number);
    if (r->has_was)
        sqlite3_bind_int64(a->put, 3, r->was);
    else
        sqlite3_bind_null(a->put, 3);
    sqlite3_bind_int64(a->put, 4, (int64_t)r->birth);
    sqlite3_bind_int(a->put, 5, r->state);
    sqlite3_bind_int(a->put, 6, r->due);
    return sql_run(a->put);
}

/* The file of the other database showed it there until now. */
static int note_moved(struct store *s, struct afar *a, struct afar_row *r) {
    int64_t now = store_wall_ms(s);
    struct afar_moved **at = &a->moved;
    while (*at && (*at)->ms >= now - SHOWN_KEEP_MS)
        at = &(*at)->next;
    for (struct afar_moved *m = *at, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    *at = NULL;
    struct afar_moved *m = malloc(sizeof *m);
    if (!m)
        return ERR_NOMEM;
    *m = (struct afar_moved){a->moved, r, r->number, now};
    a->moved = m;
    return 0;
}

static int learn_row(struct store *s, struct afar *a, const struct roster_row *told, const uint8_t *said, bool first) {
    struct value_ref ref;
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    if (!value_ref_unpack(&ref, said, told->len))
        return ERR_INTERNAL;
    ref.table = a->hash;
    size_t len = value_ref_pack(&ref, bytes);
    struct afar_row *r = row_of(a, bytes, len);
    if (!r)
        return ERR_NOMEM;
    r->listed = true;
    if (ref.adopted && told->ours && !r->adopted) {
        HASH_ADD(by_birth, a->births, born, sizeof r->born, r);
        r->adopted = true;
    }
    if (r->state == told->state && r->number == told->number && r->birth == told->birth && (r->placed || r->state != ROSTER_LIVES))
        return 0;
    bool fresh = r->state == ROSTER_STATES;
    if (!fresh && told->state == ROSTER_WAITS) /* until then it is shown as before */
        return 0;
    int64_t shown = fresh ? ref.number : r->number; /* whom nobody knows shows the number of its birth */
    int err = !fresh && r->state == ROSTER_LIVES && told->state == ROSTER_LIVES && shown != told->number ? note_moved(s, a, r) : 0;
    if (shown != told->number && !r->has_was && !first) {
        r->has_was = true;
        r->was = shown;
    }
    place(a, r, false);
    r->number = told->number;
    r->state = told->state;
    r->birth = told->birth;
    if (r->state == ROSTER_LIVES)
        place(a, r, true);
    if (!first)
        make_due(a, r);
    return err ? err : keep(a, r);
}

/* A row that was entered here, and has moved before we heard of it: what was told as a number until then means this row. */
static int learn_late(struct store *s, struct afar *a, const struct roster_row *told, const uint8_t *said) {
    struct value_ref ref;
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    bool recent = (int64_t)hlc_ms(told->birth) > store_wall_ms(s) - LATE_MS;
    if (!told->ours || !recent || told->state == ROSTER_GONE || !value_ref_unpack(&ref, said, told->len) ||
        (ref.number == told->number && told->state == ROSTER_LIVES))
        return 0;
    ref.table = a->hash;
    if (find_ref(a, bytes, value_ref_pack(&ref, bytes)))
        return 0;
    struct roster_row born = *told;
    born.number = ref.number;
    born.state = ROSTER_LIVES;
    return learn_row(s, a, &born, said, false);
}

static int learn_end(struct afar *a, bool first) {
    struct afar_row *r, *next;
    int err = 0;
    HASH_ITER(hh, a->rows, r, next) {
        if (!r->listed && r->state != ROSTER_VANISHED && !err) {
            place(a, r, false);
            if (r->adopted)
                HASH_DELETE(by_birth, a->births, r);
            r->adopted = false;
            r->state = ROSTER_VANISHED;
            if (!first)
                make_due(a, r);
            err = keep(a, r);
        }
    }
    return err;
}

static int learn_one(struct store *s, struct afar *a, struct afar_news *n) {
    bool first = scan_first_time(s) && s->scan && afar_awaited(s); /* no row here was told of yet */
    struct afar_row *r, *next;
    int err = 0;
    bool late = a->complete && !n->began;
    if (n->flags & NUMBERS_BEGIN && !late)
        HASH_ITER(hh, a->rows, r, next) r->listed = false;
    for (size_t at = 0; n->rows && at + sizeof(struct roster_row) <= n->rows->len && !err;) {
        struct roster_row told;
        memcpy(&told, n->rows->data + at, sizeof told);
        err = late ? learn_late(s, a, &told, n->rows->data + at + sizeof told)
                   : learn_row(s, a, &told, n->rows->data + at + sizeof told, first);
        at += sizeof told + told.len;
    }
    n->began = true;
    if (err || late || !(n->flags & NUMBERS_END))
        return err;
    bool none = n->flags & NUMBERS_NONE, news = none && !a->none;
    a->none = none;
    a->fresh = n->flags & NUMBERS_FRESH;
    a->complete = true;
    if (news)
        return policies_say(s, true);
    return none ? 0 : learn_end(a, first);
}

/* One thing after the other: what a number meant in between is how the rows here were told. */
static int learn_next(struct store *s) {
    struct afar_news *n = s->afar_news;
    struct afar *a = find_name(s, n->name);
    int err = a ? state_begin(s) : 0;
    bool late = a && a->complete && !n->began; /* comes again */
    if (!err && a)
        err = learn_one(s, a, n);
    if (late && !err)
        return 0;
    s->afar_news = n->next;
    bytes_unref(n->rows);
    free(n->name);
    free(n);
    return err;
}

int afar_learn(struct store *s) {
    int err = 0;
    while (s->afar_news && afar_awaited(s) && !err)
        err = learn_next(s);
    return err;
}

/* ---- whom a number means, and the other way */

static struct afar *by_hash(const struct store *s, uint64_t hash) {
    struct afar *a = s->afar;
    while (a && a->hash != hash)
        a = a->next;
    return a;
}

static const struct afar_row *of_value(const struct store *s, const struct value *v) {
    struct value_ref ref;
    const struct afar *a = s->afar && value_ref_unpack(&ref, v->p, v->len) ? by_hash(s, ref.table) : NULL;
    return a ? find_ref(a, v->p, v->len) : NULL;
}

/* A file that is taken up anew, or for the first time, shows its references as the state that was set aside had them, or as they were when the other
 * database was taken up, too; the rows there may have moved since. Then they are known by the number that they had. */
static struct afar_row *as_before(const struct store *s, const struct afar *a, int64_t number) {
    struct afar_row *was = NULL, *waits = NULL, *r = NULL;
    const struct afar *b = s->afar_before;
    while (b && strcmp(b->name, a->name) != 0)
        b = b->next;
    if (b)
        HASH_FIND(by_number, b->numbers, &number, sizeof number, was);
    if (b)
        HASH_FIND(by_birth, b->births, &number, sizeof number, waits);
    if (waits && waits->number == number) /* another row came to its number, which it has not left here yet */
        was = waits;
    if (was)
        r = find_ref(a, was->ref, was->len);
    if (!r && (was || (a->fresh && !(b && b->complete))))
        HASH_FIND(by_birth, a->births, &number, sizeof number, r);
    return r;
}

int afar_tell(struct store *s, struct afar *a, int64_t ms, struct value *v, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    struct afar_row *r = NULL;
    if (v->type != VALUE_INT)
        return 0;
    if (s->scan && scan_first_time(s))
        r = as_before(s, a, v->as.i);
    if (r && r->number != v->as.i) { /* it is to be shown so */
        r->has_was = true;
        r->was = v->as.i;
        make_due(a, r);
        int err = keep(a, r);
        if (err)
            return err;
    }
    for (const struct afar_moved *m = a->moved; m && m->ms > ms - SHOWN_RECENT_MS && ms >= 0 && !s->scan; m = m->next)
        if (m->number == v->as.i && m->row->state == ROSTER_LIVES)
            r = m->row; /* as outdated_means(): the first one */
    if (!r)
        HASH_FIND(by_number, a->numbers, &v->as.i, sizeof v->as.i, r);
    if (!r)
        return 0;
    memcpy(bytes, r->ref, r->len);
    v->type = VALUE_REF;
    v->p = bytes;
    v->len = r->len;
    return 1;
}

bool afar_number(const struct store *s, const struct value *v, int64_t *number) {
    const struct afar_row *r = of_value(s, v);
    if (r)
        *number = r->number;
    return r != NULL;
}

/* ---- the rows here that refer to those which are due */

struct child {
    struct child *next;
    struct rowid who;
};

/* Numbers that the file may show for what is due, as a JSON array. */
static int due_numbers(const struct afar *a, struct buf *out) {
    char text[48];
    buf_append(out, "[", 1);
    for (const struct afar_row *r = a->due; r; r = r->next_due) {
        int n = snprintf(text, sizeof text, "%s%lld", out->len > 1 ? "," : "", (long long)r->number);
        buf_append(out, text, (size_t)n);
        if (r->has_was)
            buf_append(out, text, (size_t)snprintf(text, sizeof text, ",%lld", (long long)r->was));
    }
    buf_append(out, "]", 1);
    return out->failed;
}

static int find_children(struct store *s, struct tio *io, uint32_t at, const struct buf *numbers, struct arena *arena,
                         struct child **children) {
    const struct table *t = io->table;
    sqlite3_stmt *q;
    struct buf name;
    int row;
    sqlite3_str *text = sqlite3_str_new(s->app.reader);
    sqlite3_str_appendall(text, "SELECT 0");
    tables_put_key(text, t, "c");
    sqlite3_str_appendf(text, " FROM main.\"%w\" AS c WHERE c.\"%w\" IN (SELECT value FROM json_each(?))", t->name, io->names[at]);
    char *sql = sqlite3_str_finish(text);
    int err = sql ? sql_prepare(s->app.reader, &q, "%s", sql) : ERR_NOMEM;
    sqlite3_free(sql);
    if (err)
        return err;
    buf_init(&name, 1 << 20);
    sqlite3_bind_text(q, 1, (const char *)numbers->data, (int)numbers->len, SQLITE_STATIC);
    while (!err && (row = sql_step(q)) != 0) {
        struct value key[16];
        for (uint32_t i = 0; row > 0 && i < table_key_width(t); i++)
            sql_column_value(q, 1 + (int)i, &key[i]);
        int known = row < 0 ? row : renumber_register(s, io, key, &name);
        struct child *c = known == 1 ? arena_alloc(arena, sizeof *c) : NULL;
        uint8_t *copy = c ? arena_alloc(arena, s->reg2.who.key_len + 1) : NULL;
        err = known < 0 ? known : known && !copy ? ERR_NOMEM : 0;
        if (err || !known)
            continue;
        *c = (struct child){*children, s->reg2.who};
        if (c->who.text) {
            memcpy(copy, name.data, name.len);
            c->who.key = copy;
            c->who.key_len = name.len;
        }
        *children = c;
    }
    sqlite3_finalize(q);
    buf_release(&name);
    return err;
}

/* Is the reference, as it was told, to be told anew, by us who wrote it? It was a number, since nobody was known under it; or it meant a row that was
 * gone when this was written, or was taken up anew under another name. */
static bool mistold(const struct store *s, const struct afar *a, const struct write *w, const struct value *v, int64_t number) {
    const struct afar_row *holder, *r = v->type == VALUE_REF ? of_value(s, v) : NULL;
    HASH_FIND(by_number, a->numbers, &number, sizeof number, holder);
    if (!holder || holder == r || memcmp(s->origin_ids[w->origin].node, s->origin_ids[s->own].node, NODE_ID_BYTES) != 0)
        return false;
    if (v->type == VALUE_INT)
        return true;
    bool gone = r && r->state == ROSTER_GONE && r->number == number && w->at > holder->birth;
    return v->type == VALUE_REF && r && (r->state == ROSTER_VANISHED || gone);
}

/* One row of the file, by the column `at`. */
static int settle_child(struct store *s, const struct afar *a, struct tio *io, uint32_t at, const struct rowid *who, bool *wrote) {
    struct origins_order o = store_order(s);
    struct row_look look = {.io = io, .place = *who};
    struct tbl *t = io->tbl;
    struct reg *r = &s->reg;
    struct value v;
    bool home;
    int64_t number;
    int err = drain_look(s, &look, io->read);
    if (err || !look.present || look.values[at].type != VALUE_INT || (err = rows_find(s, t, who, r, &home)) || !reg_alive(r, &o))
        return err;
    r->who = *who;
    uint64_t hash = value_hash(&look.values[at]);
    const struct cell *c = reg_winner(r, io->numbers[at], &o);
    if (!c || c->hash != hash) /* it is to be drained, or shown, anyway */
        return 0;
    const struct write w = r->writes[c->write];
    if ((err = values_find(s, w.origin, w.version, t, who, c->column, c->hash, &v)))
        return err == ERR_NOTFOUND ? 0 : err;
    if (mistold(s, a, &w, &v, look.values[at].as.i)) {
        uint64_t *hashes = calloc(io->count + 1, sizeof *hashes);
        const struct column_set *set = hashes ? tables_columns(io, &at, 1) : NULL;
        for (uint32_t i = 0; set && i < io->count; i++)
            hashes[i] = value_hash(&look.values[i]);
        if (!*wrote && set)
            err = drain_begin_changes(s, store_wall_ms(s));
        *wrote = true;
        err = !set ? ERR_NOMEM : err ? err : drain_author(s, io, r, home, CHANGE_UPDATE, set, look.values, hashes, 0);
        free(hashes);
        return err;
    }
    if (v.type != VALUE_REF || !afar_number(s, &v, &number) || number == look.values[at].as.i)
        return 0;
    return refs_unsettle(s, t, who, (struct shown_cell){io->numbers[at], hash}, value_hash(&v));
}

/* The same of a row that the file does not show yet as the registers say: these have the number that was known when it was merged. */
static int settle_pending_cell(struct store *s, struct pending_row *p, uint32_t at) {
    struct origins_order o = store_order(s);
    struct reg *r = &s->reg;
    struct value v;
    bool home;
    int64_t number;
    int err = rows_find(s, p->tbl, &p->who, r, &home);
    if (err || !reg_known(r))
        return err;
    const struct cell *c = reg_winner(r, p->tbl->io->numbers[at], &o);
    if (!c)
        return 0;
    const struct write w = r->writes[c->write];
    struct shown_cell shown = {c->column, c->hash}; /* unless it is known to be another */
    if ((err = values_find(s, w.origin, w.version, p->tbl, &p->who, c->column, c->hash, &v)))
        return err == ERR_NOTFOUND ? 0 : err;
    if (v.type != VALUE_REF || !afar_number(s, &v, &number))
        return 0;
    struct value today = {.type = VALUE_INT, .as.i = number};
    return value_hash(&today) == shown.hash ? 0 : refs_unsettle(s, p->tbl, &p->who, shown, value_hash(&v));
}

static int settle_pending(struct store *s, const struct afar *a) {
    struct pending_row *p, *next;
    int err = 0;
    HASH_ITER(hh, s->pending, p, next) {
        const struct tio *io = p->tbl->io;
        for (uint32_t k = 0; io && io->afar && k < io->count && !err; k++)
            if (io->afar[k] == a)
                err = settle_pending_cell(s, p, k);
    }
    return err;
}

static int settle_one(struct store *s, struct afar *a, bool *wrote) {
    struct arena arena = {0};
    struct buf numbers;
    buf_init(&numbers, 256u << 20);
    int err = settle_pending(s, a);
    if (!err)
        err = due_numbers(a, &numbers);
    for (uint32_t i = 0; i < s->tios_count && !err; i++) {
        struct tio *io = &s->tios[i];
        for (uint32_t k = 0; io->tbl && io->afar && k < io->count && !err; k++) {
            struct child *children = NULL;
            if (io->afar[k] == a)
                err = find_children(s, io, k, &numbers, &arena, &children);
            for (const struct child *c = children; c && !err; c = c->next) {
                err = settle_child(s, a, io, k, &c->who, wrote);
                sqlite3_reset(io->read);
            }
        }
    }
    arena_release(&arena);
    buf_release(&numbers);
    for (struct afar_row *r = a->due; r && !err; r = r->next_due) {
        r->due = r->has_was = false;
        err = keep(a, r);
    }
    if (!err)
        a->due = NULL;
    return err;
}

int afar_settle(struct store *s) {
    bool wrote = false;
    int err = 0;
    store_drop_afar(s->afar_before); /* a first capture is over */
    s->afar_before = NULL;
    for (;;) {
        for (struct afar *a = s->afar; a && !err; a = a->next) {
            if (!a->due)
                continue;
            if ((err = state_begin(s)) || (err = pending_map_flights(s)) || (err = sql_run(s->a_begin)))
                break;
            err = settle_one(s, a, &wrote);
            sql_run(s->a_end);
        }
        if (err || !s->afar_news || (err = learn_next(s)))
            break;
    }
    return err || !wrote ? err : drain_seal(s, false);
}
