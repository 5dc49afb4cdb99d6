/* References to rows of another database. What its roster tells is kept in the state, row by row: the identity, and the number that it has here. So
 * a drain tells whom a number means, and a projection writes today's number, as refs.c does within one database.
 *
 * The two databases are drained one after the other, and nothing orders their commits: what was drained before the row was known that it means is a
 * number at first, and told again as soon as that is known, by who wrote it. A row that moves is `due` until the rows that refer to it were looked
 * at: in the transaction that makes these pending, which is what shows them anew. So a crash loses nothing between the two databases, and what
 * a message lost is told again when either is opened. */
#include "node/store/afar_state.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define LATE_MS 60000
#define FINISH_US 2000000
#define AWAIT_MS 15000 /* a first capture waits so long for a sign of the database whose numbers it shows */
#define FRESH_MS 60000
#define AGAIN_MS 1000 /* it is asked for all of it no more often */

struct afar_news {
    struct afar_news *next;
    char *name;
    struct bytes *rows;
    unsigned flags;
    bool began, again; /* those of its rows that are late were told of; now the others */
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

static void news_free(struct afar_news *n) {
    bytes_unref(n->rows);
    free(n->name);
    free(n);
}

/* What the file shows, and not what it is about to: so that is shown first. */
void store_settle_afar(struct store *s) {
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

void afar_release(struct store *s) {
    for (struct afar *a = s->afar, *next; a; a = next) {
        next = a->next;
        clear(a);
        sqlite3_finalize(a->put);
        sqlite3_finalize(a->drop);
        sqlite3_finalize(a->before);
        free(a->name);
        free(a);
    }
    for (struct afar_news *n = s->afar_news, *next; n; n = next) {
        next = n->next;
        news_free(n);
    }
    s->afar = NULL;
    s->afar_news = NULL;
}

static struct afar *find_name(const struct store *s, const char *name) {
    struct afar *a = s->afar;
    while (a && sqlite3_stricmp(a->name, name) != 0)
        a = a->next;
    return a;
}

struct afar_row *afar_holder(const struct afar *a, int64_t number) {
    struct afar_row *r;
    HASH_FIND(by_number, a->numbers, &number, sizeof number, r);
    return r;
}

struct afar_row *afar_by_birth(const struct afar *a, int64_t number) {
    struct afar_row *r;
    HASH_FIND(by_birth, a->births, &number, sizeof number, r);
    return r;
}

static void leave(struct afar *a, struct afar_row *r) {
    struct afar_row *top = r->placed ? afar_holder(a, r->number) : NULL;
    if (top == r) {
        HASH_DELETE(by_number, a->numbers, r);
        if (r->below)
            HASH_ADD(by_number, a->numbers, number, sizeof r->number, r->below);
    }
    while (top && top != r && top->below != r)
        top = top->below;
    if (top && top != r)
        top->below = r->below;
    r->below = NULL;
    r->placed = false;
}

/* Who had the number before keeps it below this one, and has it again when this one leaves it first: that he left it would have been told. */
static void place(struct afar *a, struct afar_row *r) {
    leave(a, r);
    struct afar_row *there = afar_holder(a, r->number);
    if (there)
        HASH_DELETE(by_number, a->numbers, there);
    r->below = there;
    HASH_ADD(by_number, a->numbers, number, sizeof r->number, r);
    r->placed = true;
}

void afar_make_due(struct afar *a, struct afar_row *r) {
    r->over = a->looked = false;
    if (r->due)
        return;
    r->due = true;
    r->next_due = a->due;
    a->due = r;
}

struct afar_row *afar_by_ref(const struct afar *a, const void *ref, size_t len) {
    struct afar_row *r;
    HASH_FIND(hh, a->rows, ref, len, r);
    return r;
}

static struct afar_row *row_of(struct afar *a, const uint8_t *ref, size_t len) {
    struct afar_row *r = afar_by_ref(a, ref, len);
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

/* Of two with one number the one that is told to have it comes last. */
static int load(struct store *s, struct afar *a) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT ref, number, was, birth, state, due FROM afar WHERE name=%Q ORDER BY due & %d DESC",
                               a->name, AFAR_BELOW);
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
            place(a, r);
        r->over = r->state == ROSTER_GONE || r->state == ROSTER_VANISHED;
        if (sqlite3_column_int(q, 5) & AFAR_DUE)
            afar_make_due(a, r);
    }
    sqlite3_finalize(q);
    if (!err)
        err = sql_prepare(s->db, &a->put, "INSERT OR REPLACE INTO afar VALUES(%Q, ?, ?, ?, ?, ?, ?)", a->name);
    if (!err)
        err = sql_prepare(s->db, &a->drop, "DELETE FROM afar WHERE name=%Q AND ref=?", a->name);
    if (!err)
        err = sql_prepare(s->db, &a->before, "SELECT ref, today FROM before WHERE name=%Q AND number=?", a->name);
    int64_t recalls = 0;
    if (!err)
        err = sql_int(s->db, 0, &recalls, "SELECT EXISTS (SELECT 1 FROM before WHERE name=%Q)", a->name);
    a->recalls = recalls;
    if (!err)
        err = sql_int(s->db, 0, &recalls, "SELECT count(*) FROM meta WHERE k='unheard %q'", a->name);
    a->unheard = recalls;
    return err;
}

static void ask(struct store *s, struct afar *a) {
    int64_t now = store_mono_us() / 1000;
    a->missed = a->asked && now - a->asked_ms < AGAIN_MS; /* it may be on the way; else it is asked for then */
    if (a->missed || !s->config.on_follow)
        return;
    a->asked = true;
    a->asked_ms = now;
    s->config.on_follow(s->config.ctx, a->name);
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
        a->behind = true;
    }
    if (!err && !a->asked)
        ask(s, a);
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

/* The file is read all the same. */
int afar_unheard(struct store *s) {
    for (struct afar *a = s->afar; a; a = a->next) {
        if (a->complete || a->unheard)
            continue;
        int err = state_begin(s);
        if (err || (err = sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('unheard %q', 1)", a->name)))
            return err;
        a->unheard = true;
        store_log(
            s, LOG_WARNING,
            "%s: nothing is told of the rows of %s, which rows here refer to: these are replicated as the numbers that they show, until "
            "it is: look why that database is not served",
            s->config.db, a->name);
    }
    return 0;
}

int afar_wait_ms(struct store *s) {
    int wait = s->afar_news ? 0 : INT_MAX;
    for (struct afar *a = s->afar; a; a = a->next) {
        if (a->missed)
            ask(s, a);
        int left = a->due ? 0 : a->missed ? AGAIN_MS : INT_MAX;
        wait = left < wait ? left : wait;
    }
    return wait;
}

bool afar_due(const struct store *s) {
    bool due = s->afar_news != NULL;
    for (const struct afar *a = s->afar; a; a = a->next)
        due = due || a->due || a->missed;
    return due;
}

/* ---- what is told */

void store_numbers(struct store *s, const char *name, struct bytes *rows, unsigned flags) {
    struct afar *a = find_name(s, name);
    if (a && flags & NUMBERS_SOON) {
        a->asked_ms = store_mono_us() / 1000;
        return;
    }
    struct afar_news *n = calloc(1, sizeof *n);
    if (!n || !(n->name = strdup(name))) { /* that one is missing is seen by the next */
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

int afar_keep(const struct afar *a, const struct afar_row *r) {
    bool below = r->placed && afar_holder(a, r->number) != r;
    sqlite3_bind_blob(a->put, 1, r->ref, r->len, SQLITE_STATIC);
    sqlite3_bind_int64(a->put, 2, r->number);
    if (r->has_was)
        sqlite3_bind_int64(a->put, 3, r->was);
    else
        sqlite3_bind_null(a->put, 3);
    sqlite3_bind_int64(a->put, 4, (int64_t)r->birth);
    sqlite3_bind_int(a->put, 5, r->state);
    sqlite3_bind_int(a->put, 6, (r->due ? AFAR_DUE : 0) | (below ? AFAR_BELOW : 0));
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

void afar_pass(struct store *s, int64_t ms) {
    for (struct afar *a = s->afar; a; a = a->next)
        for (struct afar_moved *m = a->moved; m; m = m->next)
            m->ms -= ms;
}

/* first: no row here was told of those that are not known yet */
static int learn_row(struct store *s, struct afar *a, const struct roster_row *told, const uint8_t *said, bool first) {
    struct value_ref ref;
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    if (!value_ref_unpack(&ref, said, told->len))
        return ERR_INTERNAL;
    ref.table = a->hash;
    size_t len = value_ref_pack(&ref, bytes);
    if (told->state == ROSTER_GONE && told->number == ref.number && !afar_by_ref(a, bytes, len)) /* see forget() */
        return 0;
    struct afar_row *r = row_of(a, bytes, len);
    if (!r)
        return ERR_NOMEM;
    r->listed = true;
    if (ref.adopted && told->ours && !r->adopted) {
        HASH_ADD(by_birth, a->births, born, sizeof r->born, r);
        r->adopted = true;
    }
    bool holds = r->state != ROSTER_LIVES || afar_holder(a, r->number) == r;
    if (r->state == told->state && r->number == told->number && r->birth == told->birth && holds)
        return 0;
    bool fresh = r->state == ROSTER_STATES;
    if (!fresh && told->state == ROSTER_WAITS) /* until then it is shown as before */
        return 0;
    int64_t shown = fresh ? ref.number : r->number; /* whom nobody knows shows the number of its birth */
    int err = !fresh && r->state == ROSTER_LIVES && told->state == ROSTER_LIVES && shown != told->number ? note_moved(s, a, r) : 0;
    first = first && fresh;
    if (shown != told->number && !r->has_was && !first) {
        r->has_was = true;
        r->was = shown;
    }
    leave(a, r);
    r->number = told->number;
    r->state = told->state;
    r->birth = told->birth;
    if (r->state == ROSTER_LIVES)
        place(a, r);
    if (!first)
        afar_make_due(a, r);
    if (!err && r->below)
        err = afar_keep(a, r->below);
    return err ? err : afar_keep(a, r);
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
    if (afar_by_ref(a, bytes, value_ref_pack(&ref, bytes)))
        return 0;
    struct roster_row born = *told;
    born.number = ref.number;
    born.state = ROSTER_LIVES;
    return learn_row(s, a, &born, said, false);
}

/* Who is gone has the number of his birth, and so is shown whoever is not known: there is nothing to keep. */
static int forget(struct afar *a, struct afar_row *r) {
    leave(a, r);
    if (r->adopted)
        HASH_DELETE(by_birth, a->births, r);
    HASH_DEL(a->rows, r);
    sqlite3_bind_blob(a->drop, 1, r->ref, r->len, SQLITE_TRANSIENT);
    free(r);
    return sql_run(a->drop);
}

static int vanish(struct afar *a, struct afar_row *r) {
    leave(a, r);
    if (r->adopted)
        HASH_DELETE(by_birth, a->births, r);
    r->adopted = false;
    r->state = ROSTER_VANISHED;
    afar_make_due(a, r);
    return afar_keep(a, r);
}

static int learn_end(struct store *s, struct afar *a) {
    struct afar_row *r, *next;
    int err = 0;
    HASH_ITER(hh, a->rows, r, next) {
        if (!err && r->over && r->number == r->born)
            err = forget(a, r);
        else if (!err && !r->listed && r->state != ROSTER_VANISHED && r->state != ROSTER_GONE)
            err = vanish(a, r);
    }
    return err || !(a->unheard || scan_adopts(s)) ? err : before_begin(s, a);
}

/* Does it follow what was told before? Else something got lost on the way, and all is asked for again. */
static bool follows(struct store *s, struct afar *a, const struct afar_news *n, struct roster_head *head) {
    memset(head, 0, sizeof *head);
    if (!n->rows || n->rows->len < sizeof *head)
        return true;
    memcpy(head, n->rows->data, sizeof *head);
    if (n->began)
        return true;
    a->behind = !(n->flags & NUMBERS_BEGIN) && (a->behind || head->seq != a->seq);
    a->missed = a->missed && a->behind;
    a->seq = head->seq + 1;
    if (a->behind)
        ask(s, a);
    return !a->behind;
}

static int learn_one(struct store *s, struct afar *a, struct afar_news *n) {
    bool first = s->scan && scan_first_time(s) && afar_awaited(s), late = a->complete && !n->began; /* comes again */
    struct roster_head head;
    struct afar_row *r, *next;
    int err = 0;
    if (!follows(s, a, n, &head)) {
        n->began = true;
        return 0;
    }
    if (n->flags & NUMBERS_BEGIN && !late)
        HASH_ITER(hh, a->rows, r, next) r->listed = false;
    for (size_t at = sizeof head; n->rows && at + sizeof(struct roster_row) <= n->rows->len && !err;) {
        struct roster_row told;
        memcpy(&told, n->rows->data + at, sizeof told);
        err = late ? learn_late(s, a, &told, n->rows->data + at + sizeof told)
                   : learn_row(s, a, &told, n->rows->data + at + sizeof told, first);
        at += sizeof told + told.len;
    }
    n->began = !late || !err;
    n->again = late;
    if (err || late || !(n->flags & NUMBERS_END))
        return err;
    bool none = n->flags & NUMBERS_NONE, news = none && !a->none;
    a->none = none;
    a->fresh = s->began_ms && head.adopted_ms && head.adopted_ms > s->began_ms - FRESH_MS;
    a->complete = true;
    if (news)
        return policies_say(s, true);
    return none ? 0 : learn_end(s, a);
}

/* One thing after the other: what a number meant in between is how the rows here were told. */
static int learn_next(struct store *s) {
    struct afar_news *n = s->afar_news;
    struct afar *a = find_name(s, n->name);
    int err = a ? state_begin(s) : 0;
    n->again = false;
    if (!err && a)
        err = learn_one(s, a, n);
    if (n->again && !err)
        return 0;
    s->afar_news = n->next;
    news_free(n);
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

const struct afar_row *afar_of_value(const struct store *s, const struct value *v) {
    struct value_ref ref;
    const struct afar *a = s->afar && value_ref_unpack(&ref, v->p, v->len) ? by_hash(s, ref.table) : NULL;
    return a ? afar_by_ref(a, v->p, v->len) : NULL;
}

int afar_tell(struct store *s, struct afar *a, int64_t ms, struct value *v, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    struct afar_row *r = NULL;
    if (v->type != VALUE_INT)
        return 0;
    /* what the application wrote since all was told is by today's numbers */
    int err = a->meant ? 0 : scan_adopts(s) || !a->complete || ms < 0 ? before_means(a, v->as.i, &r) : 0;
    if (err == 1 && !r)
        return 0;
    err = err < 0 ? err : 0;
    if (!err && r && r->number != v->as.i) { /* it is to be shown so */
        r->has_was = true;
        r->was = v->as.i;
        afar_make_due(a, r);
        err = afar_keep(a, r);
    }
    if (err)
        return err;
    for (const struct afar_moved *m = a->moved; m && m->ms > ms - SHOWN_RECENT_MS && ms >= 0 && !s->scan; m = m->next)
        if (m->number == v->as.i && m->row->state == ROSTER_LIVES)
            r = m->row; /* as outdated_means(): the first one */
    r = a->meant ? a->meant : r ? r : afar_holder(a, v->as.i);
    if (!r)
        return 0;
    memcpy(bytes, r->ref, r->len);
    v->type = VALUE_REF;
    v->p = bytes;
    v->len = r->len;
    return 1;
}

int afar_today(struct store *s, const struct tio *io, uint32_t at, struct value *v) {
    struct afar_row *r = NULL;
    if (!io->afar || !io->afar[at] || v->type != VALUE_INT || !scan_adopts(s))
        return 0;
    int err = before_means(io->afar[at], v->as.i, &r);
    if (r)
        v->as.i = r->number;
    return err < 0 ? err : 0;
}

bool afar_number(const struct store *s, const struct value *v, int64_t *number) {
    const struct afar_row *r = afar_of_value(s, v);
    if (r)
        *number = r->number;
    return r != NULL;
}

/* A piece of it: what is left comes with the next turn. */
int afar_settle(struct store *s) {
    bool wrote = false, due = false;
    int err = before_over(s);
    for (struct afar *a = s->afar; a && !err; a = a->next) {
        if (!a->due)
            continue;
        due = true;
        if ((err = state_begin(s)) || (err = pending_map_flights(s)) || (err = sql_run(s->a_begin)))
            break;
        err = referrers_settle(s, a, &wrote);
        sql_run(s->a_end);
    }
    if (!err && !due && s->afar_news)
        err = learn_next(s);
    return err || !wrote ? err : drain_seal(s, false);
}
