#include "proto/wire.h"

#include <assert.h>
#include <string.h>

#include "proto/batch.h"
#include "proto/err.h"

static const char magic[] = "starling";

/* ---- packing */

static size_t begin(struct buf *b, enum wire_type type, uint32_t fields) {
    static const uint8_t length[WIRE_HEAD_BYTES];
    size_t at = b->len;
    buf_append(b, length, sizeof length);
    buf_pack_array(b, fields + 1);
    buf_pack_u64(b, type);
    return at;
}

static void put_length(struct buf *b, size_t at, size_t len) {
    if (b->failed)
        return;
    if (len > FRAME_BYTES_MAX) {
        b->failed = ERR_TOOBIG;
        return;
    }
    b->data[at] = (uint8_t)(len >> 24);
    b->data[at + 1] = (uint8_t)(len >> 16);
    b->data[at + 2] = (uint8_t)(len >> 8);
    b->data[at + 3] = (uint8_t)len;
}

void wire_end(struct buf *b, size_t at) {
    if (!b->failed)
        put_length(b, at, b->len - at - WIRE_HEAD_BYTES);
}

static void put_text(struct buf *b, const struct wire_text *t) { buf_pack_str(b, t->p, t->len); }

static void put_origin(struct buf *b, const struct origin *o) {
    buf_pack_bin(b, o->node, NODE_ID_BYTES);
    buf_pack_u64(b, o->epoch);
}

size_t wire_pack_hello(struct buf *b, const struct wire_hello *h) {
    size_t at = begin(b, WIRE_HELLO, 12);
    buf_pack_cstr(b, magic);
    buf_pack_u64(b, h->protocol);
    put_text(b, &h->cluster);
    put_text(b, &h->name);
    put_text(b, &h->advertise);
    buf_pack_u64(b, h->incarnation);
    buf_pack_u64(b, h->wall_ms);
    buf_pack_u64(b, h->dial);
    buf_pack_u64(b, h->flags);
    put_text(b, &h->seen);
    buf_pack_bin(b, h->card, h->card_len);
    buf_pack_array(b, h->dbs_count);
    return at;
}

void wire_pack_hello_db(struct buf *b, const struct wire_db *db) {
    buf_pack_array(b, 5);
    put_text(b, &db->name);
    buf_pack_u64(b, db->base);
    buf_pack_u64(b, db->vector);
    buf_pack_bin(b, db->content, WIRE_CONTENT_BYTES);
    buf_pack_bool(b, db->settled);
}

size_t wire_pack_members(struct buf *b, uint32_t count) {
    size_t at = begin(b, WIRE_MEMBERS, 1);
    buf_pack_array(b, count);
    return at;
}

void wire_pack_member(struct buf *b, const struct wire_member *m) {
    buf_pack_array(b, 2);
    buf_pack_bin(b, m->card, m->card_len);
    buf_pack_u64(b, m->flags);
}

void wire_pack_refuse(struct buf *b, const char *text) {
    size_t at = begin(b, WIRE_REFUSE, 1);
    buf_pack_cstr(b, text);
    wire_end(b, at);
}

void wire_pack_beat(struct buf *b, const struct wire_beat *w) {
    size_t at = begin(b, WIRE_BEAT, 5);
    buf_pack_u64(b, w->sent);
    buf_pack_u64(b, w->echo);
    buf_pack_u64(b, w->held);
    buf_pack_u64(b, w->flags);
    buf_pack_u64(b, w->digest);
    wire_end(b, at);
}

size_t wire_pack_vector(struct buf *b, const struct wire_db *db, unsigned flags, uint32_t entries) {
    size_t at = begin(b, WIRE_VECTOR, 6);
    put_text(b, &db->name);
    buf_pack_u64(b, flags | (db->settled ? WIRE_SETTLED : 0u));
    buf_pack_u64(b, db->base);
    buf_pack_u64(b, db->vector);
    buf_pack_bin(b, db->content, WIRE_CONTENT_BYTES);
    buf_pack_array(b, entries);
    return at;
}

void wire_pack_entry(struct buf *b, const struct origin *o, uint64_t version) {
    buf_pack_array(b, 3);
    put_origin(b, o);
    buf_pack_u64(b, version);
}

void wire_pack_pull(struct buf *b, const struct wire_pull *p) {
    size_t at = begin(b, WIRE_PULL, 6);
    put_text(b, &p->db);
    put_origin(b, &p->origin);
    buf_pack_u64(b, p->from);
    buf_pack_u64(b, p->to);
    buf_pack_u64(b, p->bytes);
    wire_end(b, at);
}

size_t wire_pack_overlay(struct buf *b, const struct wire_overlay *w) {
    size_t at = begin(b, WIRE_OVERLAY, 6);
    buf_pack_u64(b, w->kind);
    buf_pack_u64(b, w->steps);
    buf_pack_bool(b, w->urgent);
    buf_pack_u64(b, w->digest);
    buf_pack_array(b, w->members_count);
    return at;
}

void wire_pack_path(struct buf *b, const hyparview_id *path, uint32_t count) {
    buf_pack_array(b, count);
    for (uint32_t i = 0; i < count; i++)
        buf_pack_bin(b, path[i], NODE_ID_BYTES);
}

void wire_pack_fork(struct buf *b, const struct wire_fork *f) {
    size_t at = begin(b, WIRE_FORK, 3);
    put_text(b, &f->db);
    buf_pack_u64(b, f->epoch);
    buf_pack_u64(b, f->version);
    wire_end(b, at);
}

void wire_pack_done(struct buf *b, const struct wire_done *d) {
    size_t at = begin(b, WIRE_DONE, 4);
    put_text(b, &d->db);
    put_origin(b, &d->origin);
    buf_pack_u64(b, d->next);
    wire_end(b, at);
}

void wire_pack_batch(struct buf *b, const struct wire_batch *w) {
    size_t at = begin(b, WIRE_BATCH, 4);
    buf_pack_u64(b, w->flags);
    buf_pack_u64(b, w->total);
    buf_pack_u64(b, w->at);
    buf_pack_bin_header(b, w->chunk_len); /* the bytes follow from the batch itself, uncopied */
    if (!b->failed)
        put_length(b, at, b->len - at - WIRE_HEAD_BYTES + w->chunk_len);
}

void wire_pack_call(struct buf *b, enum wire_type type, const struct wire_call *c) {
    assert(type == WIRE_REQUEST || type == WIRE_REPLY);
    size_t at = begin(b, type, 2);
    buf_pack_u64(b, c->number);
    buf_pack_bin(b, c->data, c->len);
    wire_end(b, at);
}

void wire_pack_bye(struct buf *b, enum wire_type type) {
    assert(type == WIRE_BYE || type == WIRE_LEAVE);
    wire_end(b, begin(b, type, 0));
}

/* ---- unpacking */

static struct wire_text get_text(struct mpk *m, size_t max) {
    struct wire_text t;
    t.p = mpk_str(m, &t.len, max);
    if (!t.p)
        t.len = 0;
    return t;
}

/* One UTF-8 sequence at p: its length, or 0. */
static size_t utf8_len(const uint8_t *p, size_t left) {
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    if (!n || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool control(uint8_t c) { return c < 0x20 || c == 0x7f; }

/* A database's name: it is shown in logs and looked up, so nothing that a terminal or JSON could not show. */
static struct wire_text get_db_name(struct mpk *m) {
    struct wire_text t = get_text(m, BATCH_DB_NAME_MAX);
    if (!t.len)
        mpk_fail(m, ERR_MALFORMED);
    for (size_t i = 0; i < t.len;) {
        size_t n = utf8_len((const uint8_t *)t.p + i, t.len - i);
        if (!n || control((uint8_t)t.p[i])) {
            mpk_fail(m, ERR_MALFORMED);
            break;
        }
        i += n;
    }
    return t;
}

static struct origin get_origin(struct mpk *m) {
    struct origin o = {.epoch = 0};
    const uint8_t *node = mpk_bin_exact(m, NODE_ID_BYTES);
    if (node)
        memcpy(o.node, node, sizeof o.node);
    o.epoch = (uint32_t)mpk_u64(m, UINT32_MAX);
    return o;
}

int wire_type(struct mpk *m, const uint8_t *payload, size_t len, uint32_t *fields) {
    mpk_init(m, payload, len);
    uint32_t n = mpk_array(m, 64);
    uint64_t type = mpk_u64(m, UINT32_MAX >> 1);
    if (m->err)
        return m->err;
    *fields = n - 1; /* the type itself was one of them */
    return (int)type;
}

int wire_unpack_hello(struct wire_hello *h, struct mpk *m, uint32_t fields) {
    memset(h, 0, sizeof *h);
    size_t len = 0;
    const char *mark = mpk_str(m, &len, sizeof magic);
    if (!mark || len != sizeof magic - 1 || memcmp(mark, magic, len) != 0)
        return ERR_MALFORMED;
    h->protocol = mpk_u64(m, UINT64_MAX);
    if (m->err || h->protocol != PROTOCOL_VERSION)
        return m->err; /* another version may have other fields */
    if (fields != 12)
        return ERR_MALFORMED;
    h->cluster = get_text(m, CORE_NAME_MAX - 1);
    h->name = get_text(m, CORE_NAME_MAX - 1);
    h->advertise = get_text(m, CORE_ADDRESS_MAX - 1);
    h->incarnation = mpk_u64(m, UINT64_MAX);
    h->wall_ms = mpk_u64(m, UINT64_MAX);
    h->dial = mpk_u64(m, UINT64_MAX);
    h->flags = (unsigned)mpk_u64(m, UINT32_MAX);
    h->seen = get_text(m, CORE_ADDRESS_MAX - 1);
    h->card = mpk_bin(m, &h->card_len, CARD_BYTES_MAX);
    h->dbs_count = mpk_array(m, WIRE_DATABASES_MAX);
    h->dbs = *m;
    struct wire_db db;
    for (uint32_t i = 0; i < h->dbs_count && !m->err; i++)
        wire_next_db(m, &db);
    return mpk_finish(m);
}

void wire_next_db(struct mpk *m, struct wire_db *db) {
    if (mpk_array(m, 5) != 5)
        mpk_fail(m, ERR_MALFORMED);
    db->name = get_db_name(m);
    db->base = mpk_u64(m, UINT64_MAX);
    db->vector = mpk_u64(m, UINT64_MAX);
    db->content = mpk_bin_exact(m, WIRE_CONTENT_BYTES);
    db->settled = mpk_bool(m);
}

int wire_unpack_refuse(struct wire_text *text, struct mpk *m, uint32_t fields) {
    if (fields != 1)
        return ERR_MALFORMED;
    *text = get_text(m, WIRE_TEXT_MAX);
    return mpk_finish(m);
}

int wire_unpack_members(struct wire_members *w, struct mpk *m, uint32_t fields) {
    if (fields != 1)
        return ERR_MALFORMED;
    w->count = mpk_array(m, WIRE_MEMBERS_FRAME);
    w->members = *m;
    struct wire_member member;
    for (uint32_t i = 0; i < w->count && !m->err; i++)
        wire_next_member(m, &member);
    return mpk_finish(m);
}

void wire_next_member(struct mpk *m, struct wire_member *w) {
    if (mpk_array(m, 2) != 2)
        mpk_fail(m, ERR_MALFORMED);
    w->card = mpk_bin(m, &w->card_len, CARD_BYTES_MAX);
    w->flags = (unsigned)mpk_u64(m, UINT32_MAX);
}

int wire_unpack_beat(struct wire_beat *w, struct mpk *m, uint32_t fields) {
    if (fields != 5)
        return ERR_MALFORMED;
    w->sent = (uint32_t)mpk_u64(m, UINT32_MAX);
    w->echo = (uint32_t)mpk_u64(m, UINT32_MAX);
    w->held = (uint32_t)mpk_u64(m, UINT32_MAX);
    w->flags = (unsigned)mpk_u64(m, UINT32_MAX);
    w->digest = mpk_u64(m, UINT64_MAX);
    return mpk_finish(m);
}

int wire_unpack_vector(struct wire_vector *v, struct vv *entries, struct mpk *m, uint32_t fields) {
    if (fields != 6)
        return ERR_MALFORMED;
    v->db.name = get_db_name(m);
    v->flags = (unsigned)mpk_u64(m, UINT32_MAX);
    v->db.settled = (v->flags & WIRE_SETTLED) != 0;
    v->db.base = mpk_u64(m, UINT64_MAX);
    v->db.vector = mpk_u64(m, UINT64_MAX);
    v->db.content = mpk_bin_exact(m, WIRE_CONTENT_BYTES);
    vv_unpack(entries, m);
    return mpk_finish(m);
}

int wire_unpack_pull(struct wire_pull *p, struct mpk *m, uint32_t fields) {
    if (fields != 6)
        return ERR_MALFORMED;
    p->db = get_db_name(m);
    p->origin = get_origin(m);
    p->from = mpk_u64(m, UINT64_MAX - 1);
    p->to = mpk_u64(m, UINT64_MAX - 1);
    p->bytes = mpk_u64(m, UINT64_MAX);
    if (p->from == 0 || p->from > p->to)
        mpk_fail(m, ERR_MALFORMED);
    return mpk_finish(m);
}

int wire_unpack_overlay(struct wire_overlay *w, struct mpk *m, uint32_t fields) {
    if (fields != 6)
        return ERR_MALFORMED;
    w->kind = (unsigned)mpk_u64(m, UINT32_MAX);
    w->steps = (uint32_t)mpk_u64(m, UINT32_MAX);
    w->urgent = mpk_bool(m);
    w->digest = mpk_u64(m, UINT64_MAX);
    w->members_count = mpk_array(m, HYPARVIEW_SHUFFLE);
    w->members = *m;
    struct wire_member member;
    for (uint32_t i = 0; i < w->members_count && !m->err; i++)
        wire_next_member(m, &member);
    w->path_count = mpk_array(m, HYPARVIEW_WALK);
    w->path = *m;
    for (uint32_t i = 0; i < w->path_count && !m->err; i++)
        mpk_bin_exact(m, NODE_ID_BYTES);
    return mpk_finish(m);
}

int wire_unpack_fork(struct wire_fork *f, struct mpk *m, uint32_t fields) {
    if (fields != 3)
        return ERR_MALFORMED;
    f->db = get_db_name(m);
    f->epoch = (uint32_t)mpk_u64(m, UINT32_MAX);
    f->version = mpk_u64(m, UINT64_MAX);
    return mpk_finish(m);
}

int wire_unpack_done(struct wire_done *d, struct mpk *m, uint32_t fields) {
    if (fields != 4)
        return ERR_MALFORMED;
    d->db = get_db_name(m);
    d->origin = get_origin(m);
    d->next = mpk_u64(m, UINT64_MAX);
    return mpk_finish(m);
}

int wire_unpack_batch(struct wire_batch *w, struct mpk *m, uint32_t fields) {
    if (fields != 4)
        return ERR_MALFORMED;
    w->flags = (unsigned)mpk_u64(m, UINT32_MAX);
    w->total = mpk_u64(m, BATCH_BYTES_MAX);
    w->at = mpk_u64(m, BATCH_BYTES_MAX);
    w->chunk = mpk_bin(m, &w->chunk_len, FRAME_BYTES_MAX);
    if (!w->chunk)
        w->chunk_len = 0;
    if (w->chunk_len == 0 || w->at > w->total || w->chunk_len > w->total - w->at)
        mpk_fail(m, ERR_MALFORMED);
    return mpk_finish(m);
}

int wire_unpack_call(struct wire_call *c, struct mpk *m, uint32_t fields) {
    if (fields != 2)
        return ERR_MALFORMED;
    c->number = mpk_u64(m, UINT64_MAX);
    c->data = mpk_bin(m, &c->len, FRAME_BYTES_MAX);
    return mpk_finish(m);
}

int wire_unpack_bye(struct mpk *m, uint32_t fields) { return fields == 0 ? mpk_finish(m) : ERR_MALFORMED; }

/* ---- digests and text */

static uint64_t mix(uint64_t h, const void *p, size_t len) { /* FNV-1a */
    const uint8_t *at = p;
    for (size_t i = 0; i < len; i++)
        h = (h ^ at[i]) * 0x100000001b3u;
    return h;
}

static uint64_t mix_u64(uint64_t h, uint64_t v) {
    uint8_t le[8];
    for (unsigned i = 0; i < 8; i++)
        le[i] = (uint8_t)(v >> (8 * i));
    return mix(h, le, sizeof le);
}

uint64_t wire_db_digest(const struct wire_db *db) {
    uint64_t h = mix(0xcbf29ce484222325u, db->name.p, db->name.len);
    h = mix_u64(h, db->base | BASE_FLAGS); /* whether it is shared makes no difference */
    h = mix_u64(h, db->vector);
    h = mix(h, db->content, WIRE_CONTENT_BYTES);
    h = mix_u64(h, db->settled);
    h ^= h >> 32; /* FNV's high bits depend on little; several of these meet in an exclusive or */
    h *= 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

void wire_clean(char *out, size_t cap, const char *p, size_t len) {
    assert(cap > 0);
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        size_t seq = utf8_len((const uint8_t *)p + i, len - i);
        if (n + (seq ? seq : 1) >= cap)
            break;
        if (!seq || control((uint8_t)p[i])) {
            out[n++] = '?';
            i++;
        } else {
            memcpy(out + n, p + i, seq);
            n += seq;
            i += seq;
        }
    }
    out[n] = 0;
}

bool wire_text_equal(const struct wire_text *t, const char *s) { return t->len == strlen(s) && memcmp(t->p, s, t->len) == 0; }
