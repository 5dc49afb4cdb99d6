#include "node/store/register.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

enum { KIND_MASK = 3, AWAY = 3, BORN_FIRST = 4, SIMPLE = 8, DIED = 16, DEATHS = 32, INSERTED_FIRST = 64, COPIES = 128 };

static const struct stamp NEVER = {0, UINT32_MAX};

void reg_init(struct reg *r) {
    memset(r, 0, sizeof *r);
    reg_clear(r);
}

void reg_release(struct reg *r) {
    free(r->writes);
    free(r->cells);
    free(r->deaths);
    free(r->copies);
    memset(r, 0, sizeof *r);
}

void reg_clear(struct reg *r) {
    r->writes_count = r->cells_count = r->deaths_count = r->copies_count = 0;
    r->inserted = r->died = NEVER;
    r->birth_at = 0;
    r->away = false;
    memset(&r->who, 0, sizeof r->who);
}

static int grow(void **array, uint32_t *cap, uint32_t need, size_t size) {
    if (need <= *cap)
        return 0;
    uint32_t n = need < 16 ? 16 : need + need / 2;
    void *p = realloc(*array, (size_t)n * size);
    if (!p)
        return ERR_NOMEM;
    *array = p;
    *cap = n;
    return 0;
}

/* ---- stored form */

static void put_varint(struct buf *b, uint64_t v) {
    uint8_t *p = buf_reserve(b, 10);
    if (!p)
        return;
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    b->len += n;
}

static void put_u64(struct buf *b, uint64_t v) { buf_append(b, &v, 8); }

struct in {
    const uint8_t *at, *end;
    bool bad;
};

static uint64_t get_varint(struct in *in) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (in->at == in->end)
            break;
        uint8_t c = *in->at++;
        v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            return v;
    }
    in->bad = true;
    return 0;
}

static uint64_t get_u64(struct in *in) {
    uint64_t v = 0;
    if (in->end - in->at < 8) {
        in->bad = true;
        return 0;
    }
    memcpy(&v, in->at, 8);
    in->at += 8;
    return v;
}

/* A count of things of at least `size` bytes each: never more than what is left can hold. */
static uint32_t get_count(struct in *in, size_t size) {
    uint64_t n = get_varint(in);
    if (n > (uint64_t)(in->end - in->at) / size)
        in->bad = true;
    return in->bad ? 0 : (uint32_t)n;
}

static uint32_t get_origin(struct in *in) {
    uint64_t v = get_varint(in);
    if (v > UINT32_MAX)
        in->bad = true;
    return (uint32_t)v;
}

static int decode_cells(struct reg *r, struct in *in, bool simple) {
    uint32_t n = get_count(in, 8);
    if (grow((void **)&r->cells, &r->cells_cap, n, sizeof *r->cells))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        struct cell *c = &r->cells[i];
        c->column = simple ? i : get_origin(in);
        c->write = simple ? 0 : get_origin(in);
        c->hash = get_u64(in);
        if (c->write >= r->writes_count)
            in->bad = true;
    }
    r->cells_count = in->bad ? 0 : n;
    return 0;
}

static int decode_deaths(struct reg *r, struct in *in) {
    uint32_t n = get_count(in, 10);
    if (grow((void **)&r->deaths, &r->deaths_cap, n, sizeof *r->deaths))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t origin = get_varint(in);
        if (origin >> 34)
            in->bad = true;
        r->deaths[i].carried = origin & 1;
        r->deaths[i].mend = origin >> 33 & 1;
        r->deaths[i].origin = (uint32_t)(origin >> 1);
        r->deaths[i].version = get_varint(in);
        r->deaths[i].at = get_u64(in);
    }
    r->deaths_count = in->bad ? 0 : n;
    return 0;
}

static int decode_copies(struct reg *r, struct in *in) {
    uint32_t n = get_count(in, 9);
    if (grow((void **)&r->copies, &r->copies_cap, n, sizeof *r->copies))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        r->copies[i].column = get_origin(in);
        r->copies[i].at = get_u64(in);
    }
    r->copies_count = in->bad ? 0 : n;
    return 0;
}

int reg_decode(struct reg *r, const void *data, size_t len) {
    struct in in = {data, (const uint8_t *)data + len, len == 0};
    reg_clear(r);
    if (in.bad)
        return ERR_CORRUPT;
    uint8_t flags = *in.at++, kind = flags & KIND_MASK;
    r->away = kind == AWAY;
    if (r->away) {
        kind = (uint8_t)get_varint(&in);
        r->who.number = (int64_t)get_u64(&in);
    }
    switch (kind) {
    case 0: r->who.kind = IDENT_GIVEN; break;
    case 1: r->who.kind = IDENT_BORN; break;
    default: r->who.kind = IDENT_ADOPTED; break;
    }
    if (r->who.kind == IDENT_BORN && !(flags & BORN_FIRST)) {
        r->who.origin = get_origin(&in);
        r->who.version = get_varint(&in);
        r->birth_at = get_u64(&in);
    } else if (r->who.kind == IDENT_ADOPTED) {
        r->who.hash = get_u64(&in);
    }
    uint32_t n = get_count(&in, 10);
    if (grow((void **)&r->writes, &r->writes_cap, n, sizeof *r->writes))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t origin = get_varint(&in);
        if (origin >> 2 > UINT32_MAX)
            in.bad = true;
        r->writes[i].mend = (origin & 3) == 1;
        r->writes[i].carried = origin & 2 ? (enum carried)(CARRIED_TABLE + (origin & 1)) : CARRIED_NOT;
        r->writes[i].origin = (uint32_t)(origin >> 2);
        r->writes[i].version = get_varint(&in);
        r->writes[i].at = get_u64(&in);
    }
    r->writes_count = in.bad ? 0 : n;
    if ((flags & (BORN_FIRST | INSERTED_FIRST | SIMPLE)) && r->writes_count == 0)
        return ERR_CORRUPT;
    if (flags & BORN_FIRST) {
        r->who.origin = r->writes[0].origin;
        r->who.version = r->writes[0].version;
        r->birth_at = r->writes[0].at;
    }
    if (flags & INSERTED_FIRST) {
        r->inserted = (struct stamp){r->writes[0].at, r->writes[0].origin};
    } else {
        r->inserted.origin = get_origin(&in);
        r->inserted.at = get_u64(&in);
    }
    if (flags & DIED) {
        r->died.origin = get_origin(&in);
        r->died.at = get_u64(&in);
    }
    int err = flags & DEATHS ? decode_deaths(r, &in) : 0;
    if (!err && flags & COPIES)
        err = decode_copies(r, &in);
    if (err || (err = decode_cells(r, &in, flags & SIMPLE)))
        return err;
    return in.bad || in.at != in.end ? ERR_CORRUPT : 0;
}

/* Writes that no cell refers to any more are dropped while storing. */
static uint32_t live_writes(const struct reg *r, uint32_t *map) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->writes_count; i++)
        map[i] = UINT32_MAX;
    for (uint32_t i = 0; i < r->cells_count; i++)
        if (map[r->cells[i].write] == UINT32_MAX)
            map[r->cells[i].write] = 0;
    for (uint32_t i = 0; i < r->writes_count; i++)
        if (map[i] == 0)
            map[i] = n++;
    return n;
}

static bool is_simple(const struct reg *r, uint32_t writes) {
    if (writes != 1)
        return false;
    for (uint32_t i = 0; i < r->cells_count; i++)
        if (r->cells[i].column != i)
            return false;
    return true;
}

int reg_encode(const struct reg *r, struct buf *out) {
    uint32_t small[32], *map = small;
    if (r->writes_count > 32 && !(map = malloc(r->writes_count * sizeof *map)))
        return ERR_NOMEM;
    uint32_t writes = live_writes(r, map);
    const struct write *first = NULL;
    for (uint32_t i = 0; i < r->writes_count && !first; i++)
        if (map[i] == 0)
            first = &r->writes[i];
    bool simple = is_simple(r, writes);
    uint8_t flags = r->who.kind == IDENT_BORN ? 1 : r->who.kind == IDENT_ADOPTED ? 2 : 0;
    if (flags == 1 && first && !first->mend && first->origin == r->who.origin && first->version == r->who.version &&
        first->at == r->birth_at)
        flags |= BORN_FIRST;
    if (first && first->origin == r->inserted.origin && first->at == r->inserted.at)
        flags |= INSERTED_FIRST;
    flags |= (uint8_t)((simple ? SIMPLE : 0) | (r->died.origin != UINT32_MAX ? DIED : 0) | (r->deaths_count ? DEATHS : 0) |
                       (r->copies_count ? COPIES : 0));
    uint8_t kind = flags & KIND_MASK, head = r->away ? flags | AWAY : flags;
    buf_append(out, &head, 1);
    if (r->away) {
        put_varint(out, kind);
        put_u64(out, (uint64_t)r->who.number);
    }
    if (r->who.kind == IDENT_BORN && !(flags & BORN_FIRST)) {
        put_varint(out, r->who.origin);
        put_varint(out, r->who.version);
        put_u64(out, r->birth_at);
    } else if (r->who.kind == IDENT_ADOPTED) {
        put_u64(out, r->who.hash);
    }
    put_varint(out, writes);
    for (uint32_t i = 0; i < r->writes_count; i++)
        if (map[i] != UINT32_MAX) {
            enum carried carried = r->writes[i].carried;
            put_varint(out, (uint64_t)r->writes[i].origin << 2 | (carried ? 1u + (uint32_t)carried : r->writes[i].mend));
            put_varint(out, r->writes[i].version);
            put_u64(out, r->writes[i].at);
        }
    if (!(flags & INSERTED_FIRST)) {
        put_varint(out, r->inserted.origin);
        put_u64(out, r->inserted.at);
    }
    if (flags & DIED) {
        put_varint(out, r->died.origin);
        put_u64(out, r->died.at);
    }
    if (flags & DEATHS) {
        put_varint(out, r->deaths_count);
        for (uint32_t i = 0; i < r->deaths_count; i++) {
            put_varint(out, (uint64_t)r->deaths[i].mend << 33 | (uint64_t)r->deaths[i].origin << 1 | r->deaths[i].carried);
            put_varint(out, r->deaths[i].version);
            put_u64(out, r->deaths[i].at);
        }
    }
    if (flags & COPIES) {
        put_varint(out, r->copies_count);
        for (uint32_t i = 0; i < r->copies_count; i++) {
            put_varint(out, r->copies[i].column);
            put_u64(out, r->copies[i].at);
        }
    }
    put_varint(out, r->cells_count);
    for (uint32_t i = 0; i < r->cells_count; i++) {
        if (!simple) {
            put_varint(out, r->cells[i].column);
            put_varint(out, map[r->cells[i].write]);
        }
        put_u64(out, r->cells[i].hash);
    }
    if (map != small)
        free(map);
    return out->failed;
}

/* ---- questions */

bool seen_covers(const struct seen *s, uint32_t origin, uint64_t version) { return origin < s->count && s->versions[origin] >= version; }

/* What only a copy says is below even what was there before anybody's node ran. */
static uint64_t rank(uint64_t at) { return at == STAMP_COPY ? 0 : at == 0 ? 1 : at; }

int stamp_cmp(struct stamp a, struct stamp b, const struct origins_order *o) {
    if (a.origin == UINT32_MAX || b.origin == UINT32_MAX)
        return a.origin == b.origin ? 0 : a.origin == UINT32_MAX ? -1 : 1;
    if (a.at != b.at)
        return rank(a.at) < rank(b.at) ? -1 : 1;
    if (a.origin == b.origin)
        return 0;
    if (a.at == 0) /* adopted: all authors of the lowest stamp are equal; the same row has the same content there */
        return 0;
    return origin_cmp(&o->ids[a.origin], &o->ids[b.origin]);
}

bool reg_known(const struct reg *r) { return r->cells_count || r->inserted.origin != UINT32_MAX || r->died.origin != UINT32_MAX; }

bool reg_alive(const struct reg *r, const struct origins_order *o) {
    return r->inserted.origin != UINT32_MAX && stamp_cmp(r->inserted, r->died, o) > 0;
}

const struct cell *reg_winner(const struct reg *r, uint32_t column, const struct origins_order *o) {
    const struct cell *best = NULL;
    for (uint32_t i = 0; i < r->cells_count; i++) {
        const struct cell *c = &r->cells[i];
        if (c->column < column)
            continue;
        if (c->column > column)
            break;
        if (!best) {
            best = c;
            continue;
        }
        int d = stamp_cmp(reg_cell_stamp(r, c), reg_cell_stamp(r, best), o);
        if (d > 0 || (d == 0 && c->hash > best->hash))
            best = c;
    }
    return best;
}

uint64_t reg_top(const struct reg *r) {
    uint64_t top = r->inserted.at > r->died.at ? r->inserted.at : r->died.at;
    for (uint32_t i = 0; i < r->cells_count; i++)
        if (r->writes[r->cells[i].write].at > top)
            top = r->writes[r->cells[i].write].at;
    return top;
}

bool reg_copy_is_old(const struct reg *r, const struct cell *c, const struct origins_order *o) {
    const struct write *w = &r->writes[c->write];
    bool alive = reg_alive(r, o);
    if (!w->carried)
        return false;
    if (w->at <= STAMP_COPY + 1) /* what was there before us is known to all; what lost when servers met is told under the old name */
        return true;
    for (uint32_t i = 0; i < r->copies_count; i++)
        if ((r->copies[i].column == c->column || r->copies[i].column == COPIES_ALL) && r->copies[i].at >= w->at)
            return true;
    for (uint32_t i = 0; i < r->deaths_count && !alive; i++)
        if (r->deaths[i].carried && r->deaths[i].at > w->at)
            return true;
    for (uint32_t i = 0; i < r->cells_count; i++) {
        const struct write *other = &r->writes[r->cells[i].write];
        if (&r->cells[i] == c || r->cells[i].column != c->column || !other->carried || other->at < w->at)
            continue;
        /* Of two copies of one write only one is listed: what it refers to may have another number where it was copied. */
        if (other->at > w->at || origin_cmp(&o->ids[other->origin], &o->ids[w->origin]) > 0)
            return true;
    }
    return false;
}

bool reg_death_is_old(const struct reg *r, const struct death *d) {
    for (uint32_t i = 0; i < r->copies_count && d->carried; i++)
        if (r->copies[i].column == COPIES_ALL && r->copies[i].at >= d->at)
            return true;
    for (uint32_t i = 0; i < r->cells_count && d->carried; i++)
        if (r->writes[r->cells[i].write].carried && r->writes[r->cells[i].write].at > d->at)
            return true;
    return false;
}

/* ---- merging */

/* Somebody who knew this copy has replaced it. */
static void copy_replaced(struct reg *r, uint32_t column, uint64_t at, int *err) {
    uint32_t i = 0;
    while (i < r->copies_count && r->copies[i].column != column)
        i++;
    if (i == r->copies_count) {
        if ((*err = grow((void **)&r->copies, &r->copies_cap, i + 1, sizeof *r->copies)))
            return;
        r->copies[r->copies_count++] = (struct copies){column, at};
    }
    if (at > r->copies[i].at)
        r->copies[i].at = at;
}

static bool is_of(uint32_t origin, uint64_t version, struct write by) { return origin == by.origin && version == by.version; }

/* A death that a batch carries is older than what the same batch writes. */
static void forget_seen_deaths(struct reg *r, struct write by, const struct seen *seen, int *err) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->deaths_count; i++) {
        const struct death *d = &r->deaths[i];
        bool before = d->carried && !by.carried && d->at < by.at && is_of(d->origin, d->version, by);
        if (!before && !seen_covers(seen, d->origin, d->version))
            r->deaths[n++] = *d;
        else if (d->carried)
            copy_replaced(r, COPIES_ALL, d->at, err);
    }
    r->deaths_count = n;
}

static bool is_written_after(const struct reg *r, struct write death) {
    for (uint32_t i = 0; i < r->cells_count && death.carried; i++) {
        const struct write *w = &r->writes[r->cells[i].write];
        if (!w->carried && w->at > death.at && is_of(w->origin, w->version, death))
            return true;
    }
    return false;
}

/* One batch may tell a row's death twice, and that of rows that are one: the highest stands, in whatever order they come. There is room. */
static void add_death(struct reg *r, const struct death *d) {
    uint32_t at = 0;
    while (at < r->deaths_count && !(r->deaths[at].origin == d->origin && r->deaths[at].version == d->version))
        at++;
    if (at == r->deaths_count)
        r->deaths[r->deaths_count++] = *d;
    else if (d->at > r->deaths[at].at)
        r->deaths[at] = *d;
}

void reg_death(struct reg *r, struct write by, const struct seen *seen, const struct origins_order *o, int *err) {
    static const struct seen NOTHING = {0};
    struct stamp s = {by.at, by.origin};
    seen = by.mend ? &NOTHING : seen;
    forget_seen_deaths(r, by, seen, err);
    if (stamp_cmp(s, r->died, o) > 0)
        r->died = s;
    for (uint32_t i = 0; i < r->cells_count && !*err; i++) {
        const struct write *w = &r->writes[r->cells[i].write];
        if (w->carried && seen_covers(seen, w->origin, w->version))
            copy_replaced(r, r->cells[i].column, w->at, err);
    }
    if (is_written_after(r, by)) {
        copy_replaced(r, COPIES_ALL, by.at, err);
        return;
    }
    if (grow((void **)&r->deaths, &r->deaths_cap, r->deaths_count + 1, sizeof *r->deaths)) {
        *err = ERR_NOMEM;
        return;
    }
    add_death(r, &(struct death){by.origin, by.version, by.at, by.carried, by.mend});
}

void reg_insert(struct reg *r, struct write by, const struct seen *seen, const struct origins_order *o, int *err) {
    forget_seen_deaths(r, by, seen, err);
    if (r->who.kind == IDENT_BORN && r->who.origin == by.origin && r->who.version == by.version)
        r->birth_at = by.at;
    reg_revive(r, by, o);
}

void reg_revive(struct reg *r, struct write by, const struct origins_order *o) {
    struct stamp s = {by.at, by.origin};
    if (stamp_cmp(s, r->inserted, o) > 0)
        r->inserted = s;
}

static uint32_t intern_write(struct reg *r, struct write by, int *err) {
    for (uint32_t i = r->writes_count; i-- > 0;)
        if (r->writes[i].origin == by.origin && r->writes[i].version == by.version && r->writes[i].at == by.at &&
            r->writes[i].mend == by.mend && r->writes[i].carried == by.carried)
            return i;
    if (grow((void **)&r->writes, &r->writes_cap, r->writes_count + 1, sizeof *r->writes)) {
        *err = ERR_NOMEM;
        return 0;
    }
    r->writes[r->writes_count] = by;
    return r->writes_count++;
}

/* What was there before anybody's node ran (at 0) is known to all: the same on every server that has it. So any real write goes over it,
 * and it never comes back beside one. What a copy says is no real write. */
static bool is_stale_adoption(const struct reg *r, struct write by, uint32_t column) {
    for (uint32_t i = r->cells_count; by.at == 0 && i-- > 0;)
        if (r->cells[i].column == column && r->writes[r->cells[i].write].at > STAMP_COPY)
            return true;
    return false;
}

/* A column keeps the highest of its mends. Of two at one time (servers that mended alike), the greater origin's number decides nothing that others
 * see: they are told apart by reg_winner(), so both stay. */
static bool is_lesser_mend(const struct reg *r, struct write by, uint32_t column) {
    for (uint32_t i = r->cells_count; by.mend && i-- > 0;) {
        const struct write *w = &r->writes[r->cells[i].write];
        if (r->cells[i].column == column && w->mend && w->at > by.at)
            return true;
    }
    return false;
}

/* A batch may tell a value, and also what it was carried from: the higher stamp is the value, wherever it stands in the batch. */
static bool is_told_higher(const struct reg *r, struct write by, uint32_t column) {
    for (uint32_t i = r->cells_count; !by.mend && i-- > 0;) {
        const struct write *w = &r->writes[r->cells[i].write];
        if (r->cells[i].column == column && !w->mend && is_of(w->origin, w->version, by) && w->at > by.at)
            return true;
    }
    return false;
}

static bool replaces(struct write by, const struct write *old, const struct seen *seen) {
    if (by.mend)
        return old->mend && old->at < by.at;
    bool same = is_of(old->origin, old->version, by) && !old->mend && old->at <= by.at;
    bool adopted = old->at == 0 && by.at > STAMP_COPY;
    return same || adopted || (rank(old->at) <= rank(by.at) && seen_covers(seen, old->origin, old->version));
}

void reg_write(struct reg *r, struct write by, uint32_t column, uint64_t hash, const struct seen *seen, int *err) {
    if (is_stale_adoption(r, by, column) || is_lesser_mend(r, by, column))
        return;
    if (is_told_higher(r, by, column)) {
        if (by.carried)
            copy_replaced(r, column, by.at, err);
        return;
    }
    uint32_t w = intern_write(r, by, err);
    if (*err || (*err = grow((void **)&r->cells, &r->cells_cap, r->cells_count + 1, sizeof *r->cells)))
        return;
    uint32_t n = r->cells_count, from = n;
    while (from > 0 && r->cells[from - 1].column >= column)
        from--;
    uint32_t to = from, keep = from;
    for (; to < n && r->cells[to].column == column; to++) {
        const struct write *old = &r->writes[r->cells[to].write];
        if (!replaces(by, old, seen))
            r->cells[keep++] = r->cells[to];
        else if (old->carried && !(is_of(old->origin, old->version, by) && old->at == by.at))
            copy_replaced(r, column, old->at, err);
    }
    if (to < n)
        memmove(&r->cells[keep + 1], &r->cells[to], (n - to) * sizeof *r->cells);
    r->cells[keep] = (struct cell){column, w, hash};
    r->cells_count = keep + 1 + (n - to);
}

/* ---- rows that are one */

void reg_supersede(struct reg *r, struct write by, uint32_t column, const struct seen *seen) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->cells_count; i++) {
        bool gone = r->cells[i].column == column && !by.mend && replaces(by, &r->writes[r->cells[i].write], seen);
        if (!gone)
            r->cells[n++] = r->cells[i];
    }
    r->cells_count = n;
}

void reg_forget_deaths(struct reg *r, struct write by, const struct seen *seen, int *err) { forget_seen_deaths(r, by, seen, err); }

static int join_cell(struct reg *r, const struct reg *from, const struct cell *c) {
    int err = 0;
    uint32_t w = intern_write(r, from->writes[c->write], &err), at = r->cells_count;
    if (err || (err = grow((void **)&r->cells, &r->cells_cap, r->cells_count + 1, sizeof *r->cells)))
        return err;
    while (at > 0 && r->cells[at - 1].column > c->column)
        at--;
    for (uint32_t i = at; i > 0 && r->cells[i - 1].column == c->column; i--)
        if (r->cells[i - 1].write == w && r->cells[i - 1].hash == c->hash)
            return 0;
    memmove(&r->cells[at + 1], &r->cells[at], (r->cells_count - at) * sizeof *r->cells);
    r->cells[at] = (struct cell){c->column, w, c->hash};
    r->cells_count++;
    return 0;
}

int reg_join(struct reg *r, const struct reg *from, uint32_t without) {
    int err = 0;
    for (uint32_t i = 0; i < from->cells_count && !err; i++)
        err = from->cells[i].column == without ? 0 : join_cell(r, from, &from->cells[i]);
    if (!err)
        err = grow((void **)&r->deaths, &r->deaths_cap, r->deaths_count + from->deaths_count, sizeof *r->deaths);
    for (uint32_t i = 0; i < from->deaths_count && !err; i++)
        add_death(r, &from->deaths[i]);
    for (uint32_t i = 0; i < from->copies_count && !err; i++)
        copy_replaced(r, from->copies[i].column, from->copies[i].at, &err);
    return err;
}

bool reg_cascaded(const struct reg *r) {
    for (uint32_t i = 0; i < r->deaths_count; i++)
        if (r->deaths[i].mend && r->deaths[i].at == r->died.at)
            return true;
    return false;
}
