/* Which row of ours has which number: told to the databases that refer to one of our tables, all of it when they ask, and then what changes. What
 * is told is what the registers say at the end of a turn, which is what the file shows, or is about to. */
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/same.h"
#include "proto/err.h"

#define TOUCHED_MAX 10000u
#define SOON_US 1000000
#define ROSTER_BYTES 65536u /* about, a message */

struct roster {
    struct roster *next;
    char *key;       /* "table.column" */
    struct tbl *tbl; /* NULL: there is no such table */
    bool due;        /* all of it is to be told */
    bool lost;       /* of what was told now */
    uint64_t seq;    /* of the next message */
    struct rowid *touched;
    uint32_t count, cap;
};

void store_followed(struct store *s, const char *key) {
    struct roster *r = s->rosters;
    while (r && strcmp(r->key, key) != 0)
        r = r->next;
    if (!r && (r = calloc(1, sizeof *r))) {
        if (!(r->key = strdup(key))) {
            free(r);
            return; /* it is asked again */
        }
        r->next = s->rosters;
        s->rosters = r;
    }
    if (r)
        r->due = true;
    (void)roster_tell(s); /* before anything more is merged, if it can be; else at the end of the turn */
}

void roster_release(struct store *s) {
    for (struct roster *r = s->rosters, *next; r; r = next) {
        next = r->next;
        free(r->key);
        free(r->touched);
        free(r);
    }
    s->rosters = NULL;
}

static void touch(struct roster *r, const struct rowid *who) {
    if (r->due || (r->count && rowid_same(&r->touched[r->count - 1], who)))
        return;
    if (r->count == r->cap) {
        uint32_t cap = r->cap ? r->cap * 2 : 64;
        struct rowid *p = cap <= TOUCHED_MAX * 2 ? realloc(r->touched, cap * sizeof *p) : NULL;
        if (!p) { /* rather all of it */
            r->due = true;
            return;
        }
        r->touched = p;
        r->cap = cap;
    }
    r->touched[r->count++] = *who;
}

void roster_touch(struct store *s, const struct tbl *t, const struct rowid *who) {
    for (struct roster *r = s->rosters; r && who->kind != IDENT_GIVEN; r = r->next)
        if (r->tbl == t)
            touch(r, who);
}

/* ---- one row */

static int put_row(struct store *s, const struct tbl *t, const struct rowid *who, struct buf *out) {
    struct origins_order o = store_order(s);
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    struct rowid root;
    bool home;
    int err = rows_find(s, t, who, &s->meant, &home);
    if (err || !reg_known(&s->meant))
        return err;
    uint64_t birth = who->kind == IDENT_BORN ? s->meant.birth_at : 0;
    uint32_t author = who->kind == IDENT_BORN ? who->origin : s->meant.inserted.origin;
    int behind = same_root(s, t, who, &s->same->key, &root);
    if (behind < 0 || (err = rows_find(s, t, &root, &s->meant, &home)))
        return behind < 0 ? behind : err;
    s->meant.who = root;
    bool alive = reg_alive(&s->meant, &o);
    struct roster_row row = {.number = alive && home ? numbers_home(t, &root) : numbers_wanted(s, t, &s->meant),
                             .birth = birth,
                             .state = !alive   ? ROSTER_GONE
                                      : !home  ? ROSTER_WAITS
                                      : behind ? ROSTER_STANDS_BEHIND
                                               : ROSTER_LIVES};
    row.ours = memcmp(s->origin_ids[author].node, s->origin_ids[s->own].node, NODE_ID_BYTES) == 0;
    row.len = (uint8_t)refs_pack(s, t, who, bytes);
    if (!row.len)
        return 0;
    buf_append(out, &row, sizeof row);
    buf_append(out, bytes, row.len);
    return out->failed;
}

/* out: room for the head, and rows behind it. Where it is not passed on all is told again. */
static void send(struct store *s, struct roster *r, struct buf *out, unsigned flags) {
    struct roster_head head = {r->seq++, s->adopted_ms};
    memcpy(out->data, &head, sizeof head);
    struct bytes *b = bytes_new(out->data, out->len);
    if (!b || !s->config.on_numbers || !s->config.on_numbers(s->config.ctx, r->key, b, flags))
        r->lost = true;
    bytes_unref(b);
    out->len = sizeof head;
}

/* ---- all of them */

/* With all that are one with it: these have its number. */
static int put_group(struct store *s, const struct tbl *t, const struct rowid *who, struct buf *out) {
    struct arena arena = {0};
    struct rowid *list;
    uint32_t count;
    int err = same_any(s) ? same_members(s, t, who, &arena, &list, &count) : 1;
    if (err == 1)
        return put_row(s, t, who, out);
    for (uint32_t i = 0; i < count && !err; i++)
        err = put_row(s, t, &list[i], out);
    arena_release(&arena);
    return err;
}

static int put_list(struct store *s, struct roster *r, const struct rowid *list, uint32_t count, unsigned *flags, struct buf *out) {
    int err = 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        err = r->due ? put_row(s, r->tbl, &list[i], out) : put_group(s, r->tbl, &list[i], out);
        if (!err && out->len > ROSTER_BYTES) {
            send(s, r, out, *flags);
            *flags = 0;
        }
    }
    return err;
}

static int add(struct rowid **list, uint32_t *count, uint32_t *cap, const struct rowid *who) {
    if (*count == *cap) {
        uint32_t more = *cap ? *cap * 2 : 256;
        struct rowid *p = realloc(*list, more * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        *list = p;
        *cap = more;
    }
    (*list)[(*count)++] = *who;
    return 0;
}

static int list_all(struct store *s, const struct tbl *t, struct rowid **list, uint32_t *count) {
    sqlite3_stmt *q;
    uint32_t cap = 0;
    int row, err = sql_prepare(s->db, &q, "SELECT k FROM r%u", t->no);
    while (!err && (row = sql_step(q)) != 0) {
        struct rowid place = {.kind = IDENT_GIVEN, .number = row > 0 ? sqlite3_column_int64(q, 0) : 0};
        err = row < 0 ? row : rows_at_home(s, t, &place, &s->meant);
        if (!err && reg_known(&s->meant) && s->meant.who.kind != IDENT_GIVEN)
            err = add(list, count, &cap, &s->meant.who);
    }
    sqlite3_finalize(q);
    if (err || (err = sql_prepare(s->db, &q, "SELECT who FROM extra WHERE tbl=%u", t->no)))
        return err;
    while (!err && (row = sql_step(q)) != 0) {
        const uint8_t *at = sqlite3_column_blob(q, 0), *end = at + sqlite3_column_bytes(q, 0);
        struct rowid who;
        err = row < 0 ? row : rowid_unpack(&who, &at, end);
        if (!err && who.kind != IDENT_GIVEN)
            err = add(list, count, &cap, &who);
    }
    sqlite3_finalize(q);
    return err;
}

static struct tbl *table_of(const struct store *s, const char *key) {
    const char *dot = strrchr(key, '.');
    for (uint32_t i = 0; dot && i < s->tios_count; i++) {
        const struct tio *io = &s->tios[i];
        if (io->tbl && io->table->key_kind == KEY_INTEGER && strlen(io->table->name) == (size_t)(dot - key) &&
            !sqlite3_strnicmp(io->table->name, key, (int)(dot - key)) &&
            !sqlite3_stricmp(io->table->columns[io->table->key[0]].name, dot + 1))
            return io->tbl;
    }
    return NULL;
}

static int tell_one(struct store *s, struct roster *r, struct buf *out) {
    struct tbl *t = table_of(s, r->key);
    struct rowid *list = NULL;
    uint32_t count = 0;
    if (t != r->tbl) {
        if (r->tbl)
            r->tbl->followed = false;
        r->tbl = t;
        r->due = true;
    }
    if (t)
        t->followed = true;
    unsigned flags = r->due ? NUMBERS_BEGIN : 0;
    int err = t && r->due ? list_all(s, t, &list, &count) : 0;
    if (!err && t)
        err = r->due ? put_list(s, r, list, count, &flags, out) : put_list(s, r, r->touched, r->count, &flags, out);
    free(list);
    if (err)
        return err;
    if (r->due)
        send(s, r, out, flags | NUMBERS_END | (t ? 0u : NUMBERS_NONE));
    else if (out->len > sizeof(struct roster_head))
        send(s, r, out, 0);
    r->due = r->lost;
    r->lost = false;
    r->count = 0;
    return 0;
}

/* Who asked waits longer, while this one comes on. */
static void tell_soon(struct store *s, struct buf *out) {
    int64_t now = store_mono_us();
    if (afar_awaited(s) || (s->soon_us && now - s->soon_us < SOON_US))
        return;
    s->soon_us = now;
    for (struct roster *r = s->rosters; r; r = r->next) {
        if (r->due)
            send(s, r, out, NUMBERS_SOON);
        r->lost = false;
    }
}

int roster_tell(struct store *s) {
    struct roster_head head = {0};
    struct buf out;
    int err = 0;
    if (!s->rosters || (!s->scan && (s->in_tx || s->held_since_ms || !s->app_open)))
        return 0;
    buf_init(&out, 1 << 20);
    buf_append(&out, &head, sizeof head);
    if (s->scan && !out.failed)
        tell_soon(s, &out);
    for (struct roster *r = s->rosters; r && !err && !s->scan; r = r->next)
        err = out.failed ? out.failed : tell_one(s, r, &out);
    buf_release(&out);
    return err;
}
