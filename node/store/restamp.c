/* What nobody has seen yet is stamped anew when this server's clock turns out to be off.
 *
 * Versions from `alone_from` on have never left this server: nobody was linked when they were made, and before the first of them may
 * leave the owner says what the cluster's clock is (store_meet). So they may become other bytes under the same numbers. Only stamps
 * change, by the same for all rows of a batch: its head's stamp, the chain and the signature. The registers follow. What is on show stays:
 * the order among the stamps of a row does not change.
 * One transaction, then a sync, then batches may leave: a crash before it repeats all, with the same outcome.
 *
 * A batch with stamps that are not this server's to move (mends, copies under another name, adopted rows) is only chained anew. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "node/store/engine.h"
#include "proto/err.h"
#include "proto/hlc.h"

#define KEEP_MS 1000 /* less is not worth it */

struct span { /* of one version: its stamps, and what is added to them */
    uint64_t min, max;
    int64_t by;
    bool fixed;
};

struct restamp {
    struct store *s;
    struct batch_reader *reader;
    struct span *spans;
    uint64_t from, count;
    uint64_t before; /* the highest stamp that was here before */
};

static int stamps_of(struct restamp *r, uint32_t origin, uint64_t version, struct span *out) {
    struct bytes *b;
    struct change c;
    *out = (struct span){.min = UINT64_MAX};
    int err = log_read(r->s, origin, version, &b), row = 0;
    if (err || !b)
        return err ? err : ERR_CORRUPT;
    if (!(err = batch_reader_open(r->reader, b->data, b->len)))
        while ((row = batch_reader_next(r->reader, &c)) == 1) {
            out->min = c.stamp < out->min ? c.stamp : out->min;
            out->max = c.stamp > out->max ? c.stamp : out->max;
            out->fixed |= c.carried || c.kind > CHANGE_DELETE || c.stamp <= STAMP_COPY;
        }
    batch_reader_close(r->reader);
    bytes_unref(b);
    out->fixed |= out->min > out->max;
    return err ? err : row;
}

/* The highest stamp of all that was here before, also of what is overwritten since: no register tells of that, but others have it. */
static int see_log(struct restamp *r) {
    struct store *s = r->s;
    for (uint32_t o = 0; o < s->origins_count; o++) {
        uint64_t last = o == s->own ? r->from - 1 : s->origins[o].version;
        for (uint64_t v = 1; v <= last; v++) {
            struct span span;
            int err = stamps_of(r, o, v, &span);
            if (err && err != ERR_NOTFOUND)
                return err;
            if (!err && span.max > r->before)
                r->before = span.max;
        }
    }
    return 0;
}

/* No stamp crosses one of somebody else, or of an earlier version: what is on show stays what the registers say. So what this server noted long
 * after it was written, by a clock that was behind, keeps its place. */
static void plan(struct restamp *r, int64_t by_ms, uint64_t *top) {
    uint64_t now = hlc_of_ms((uint64_t)(store_wall_ms(r->s) + r->s->clock_offset_ms + by_ms));
    uint64_t last = r->before;
    *top = r->before;
    for (uint64_t i = 0; i < r->count; i++) {
        struct span *p = &r->spans[i];
        if (p->fixed || p->min <= r->before) {
            p->fixed = true;
            continue;
        }
        p->by = by_ms * 65536;
        if (p->max + (uint64_t)p->by > now)
            p->by = (int64_t)(now - p->max);
        if (p->min + (uint64_t)p->by <= last)
            p->by = (int64_t)(last + 1 - p->min);
        last = p->max + (uint64_t)p->by;
        *top = last > *top ? last : *top;
    }
}

static int rewrite_log(struct restamp *r) {
    struct store *s = r->s;
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    int err = 0;
    for (uint64_t v = 1; v < r->from + r->count && !err; v++) {
        struct bytes *b, *fresh = NULL;
        if ((err = log_read(s, s->own, v, &b)) || (err = b ? 0 : ERR_CORRUPT))
            break;
        if (v < r->from) {
            batch_chain(b->data, b->len, chain);
        } else if (!(err = batch_restamp(b->data, b->len, r->spans[v - r->from].by, s->config.secret, chain, &fresh))) {
            err = log_replace(s, s->own, v, fresh);
        }
        bytes_unref(fresh);
        bytes_unref(b);
    }
    memcpy(s->origins[s->own].chain, chain, sizeof chain);
    s->origins[s->own].changed = true;
    return err;
}

/* ---- registers */

/* Of an insert, a death or a birth only the stamp is kept: which batch was it? */
static bool move_stamp(const struct restamp *r, uint32_t origin, uint64_t *at) {
    for (uint64_t i = 0; origin == r->s->own && i < r->count; i++) {
        const struct span *p = &r->spans[i];
        if (p->by && *at >= p->min && *at <= p->max) {
            *at += (uint64_t)p->by;
            return true;
        }
    }
    return false;
}

static bool move_write(const struct restamp *r, uint32_t origin, uint64_t version, uint64_t *at) {
    if (origin != r->s->own || version < r->from || version - r->from >= r->count || !r->spans[version - r->from].by)
        return false;
    *at += (uint64_t)r->spans[version - r->from].by;
    return true;
}

static bool move_register(const struct restamp *r, struct reg *g) {
    bool moved = false;
    for (uint32_t i = 0; i < g->writes_count; i++)
        moved |= move_write(r, g->writes[i].origin, g->writes[i].version, &g->writes[i].at);
    for (uint32_t i = 0; i < g->deaths_count; i++)
        moved |= move_write(r, g->deaths[i].origin, g->deaths[i].version, &g->deaths[i].at);
    moved |= move_stamp(r, g->inserted.origin, &g->inserted.at);
    moved |= move_stamp(r, g->died.origin, &g->died.at);
    if (g->who.kind == IDENT_BORN && g->birth_at)
        moved |= move_write(r, g->who.origin, g->who.version, &g->birth_at);
    return moved;
}

/* All of one table of registers, sorted, so that they are all read before the first one changes; `put` takes the register, then what `get` has behind it. */
static int move_registers(struct restamp *r, sqlite3_stmt *get, sqlite3_stmt *put) {
    struct store *s = r->s;
    int row, err = 0;
    while (!err && (row = sql_step(get)) == 1) {
        if ((err = reg_decode(&s->reg, sqlite3_column_blob(get, 0), (size_t)sqlite3_column_bytes(get, 0))))
            break;
        if (!move_register(r, &s->reg))
            continue;
        buf_clear(&s->blob);
        if ((err = reg_encode(&s->reg, &s->blob)))
            break;
        sqlite3_bind_blob64(put, 1, s->blob.data, s->blob.len, SQLITE_STATIC);
        for (int i = 1; i < sqlite3_column_count(get); i++)
            sqlite3_bind_value(put, i + 1, sqlite3_column_value(get, i));
        err = sql_run(put);
    }
    return err ? err : row;
}

static int all_registers(struct restamp *r) {
    struct store *s = r->s;
    sqlite3_stmt *get = NULL, *put = NULL;
    int err = 0;
    for (uint32_t i = 0; i <= s->tbls_count && !err; i++) {
        const struct tbl *t = i < s->tbls_count ? s->tbls[i] : NULL; /* the last time: those that are not at home */
        if (t && t->shape == SHAPE_NONE)
            continue;
        if (!(err = t ? sql_prepare(s->db, &get, "SELECT b, k FROM r%u ORDER BY +k", t->no)
                      : sql_prepare(s->db, &get, "SELECT b, tbl, who FROM extra ORDER BY +tbl")) &&
            !(err = t ? sql_prepare(s->db, &put, "UPDATE r%u SET b=? WHERE k=?", t->no)
                      : sql_prepare(s->db, &put, "UPDATE extra SET b=? WHERE tbl=? AND who=?")))
            err = move_registers(r, get, put);
        sqlite3_finalize(get);
        sqlite3_finalize(put);
        get = put = NULL;
    }
    return err;
}

static int restamp(struct store *s, int64_t by_ms) {
    struct restamp r = {.s = s, .from = s->alone_from, .count = s->origins[s->own].version + 1 - s->alone_from};
    uint64_t top = 0;
    r.reader = batch_reader_new();
    r.spans = calloc(r.count, sizeof *r.spans);
    int err = r.reader && r.spans ? 0 : ERR_NOMEM;
    for (uint64_t i = 0; i < r.count && !err; i++)
        err = stamps_of(&r, s->own, r.from + i, &r.spans[i]);
    if (!err && !(err = see_log(&r)))
        plan(&r, by_ms, &top);
    if (!err && !(err = rewrite_log(&r)) && !(err = all_registers(&r))) {
        store_log(s, LOG_WARNING, "%s: %llu versions that nobody had seen yet are stamped anew, %lld s %s: the clock of this server is off",
                  s->config.db, (unsigned long long)r.count, (long long)(by_ms < 0 ? -by_ms : by_ms) / 1000,
                  by_ms < 0 ? "earlier" : "later");
        if (by_ms < 0) /* else what is written next would go on from the clock that was wrong */
            s->clock.last = s->own_last = top;
        else
            hlc_observe(&s->clock, top);
    }
    batch_reader_free(r.reader);
    free(r.spans);
    return err;
}

void restamp_epoch(struct store *s) {
    s->alone_from = 1; /* whoever is linked is met anew */
    s->alone_kept = false;
}

/* ---- the face */

static int keep(struct store *s) {
    return sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('alone', %lld), ('offset', %lld)", (long long)s->alone_from,
                    (long long)s->clock_offset_ms);
}

int store_meet(struct store *s, int64_t offset_ms, bool *restamped) {
    int64_t by_ms = offset_ms - s->clock_offset_ms;
    *restamped = false;
    if (!by_ms && !s->alone_kept) {
        s->alone_from = 0;
        return 0;
    }
    int err = state_begin(s);
    if (!err && s->alone_from && s->alone_from <= s->origins[s->own].version && (by_ms >= KEEP_MS || by_ms <= -KEEP_MS)) {
        err = restamp(s, by_ms);
        *restamped = true;
    }
    s->clock_offset_ms = offset_ms;
    s->alone_from = 0;
    s->alone_kept = false;
    if (err || (err = keep(s)) || (err = state_commit(s)))
        return err;
    return state_sync(s);
}

int store_alone(struct store *s, const struct origin *origin, uint64_t version) {
    bool ours = origin_cmp(origin, &s->origin_ids[s->own]) == 0; /* else a later epoch, of which nothing has left */
    uint64_t from = ours ? version + 1 : 1;
    bool inside = s->in_tx;
    if (s->alone_kept)
        return 0;
    if (!s->alone_from)
        s->alone_from = from;
    s->alone_kept = true;
    int err = state_begin(s);
    if (!err)
        err = keep(s);
    return err || inside ? err : state_commit(s);
}

int restamp_load(struct store *s) {
    int64_t from = 0;
    int err = sql_int(s->db, 0, &from, "SELECT v FROM meta WHERE k='alone'");
    s->alone_kept = from > 0;
    s->alone_from = from > 0 ? (uint64_t)from : s->origins[s->own].version + 1; /* nobody is linked at the start */
    return err ? err : sql_int(s->db, 0, &s->clock_offset_ms, "SELECT v FROM meta WHERE k='offset'");
}
