/* The writing half of the batch codec; the format is at the head of batch.h.
 *
 * Each open group has a growing buffer for its stamps, its identities and every column. A group that is closed is
 * appended, finished, to `closed`, and its slot with all its buffers serves the next one: so memory follows the bytes of
 * the batch, however many groups it has. */
#include "proto/batch.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/intern.h"
#include "proto/zip.h"

#define OPEN_MAX 64
#define KEEP_MAX (1u << 20) /* bytes of memory a writer keeps over a clear, for its streams */
#define HEAD_MAX (1u << 20)
#define PREFIX_MAX 64 /* bytes of body outside names, origins, schema and groups */
#define OBJECT_MAX 9  /* bytes of an int, or of the head of anything else */
#define GROUP_MAX 64  /* bytes of a group outside its columns and rows */
#define COLUMN_MAX 10 /* bytes of a column outside its values: index and head of the stream */
#define ORIGIN_MAX 24 /* bytes of one origin in the body */
#define ZSTD_MIN                                                                                                                           \
    1024 /* raw bytes below which compression is not tried: it gains a row or two 4 %, and their likeness to others, by which a link
                         * halves them (squeeze.h), is lost */
#define ZSTD_GAIN 32 /* compressed must save at least 1/32 */
#define FLAGS_AT 2   /* offset of the flags in the envelope: behind the array's head and the format, a byte each */

_Static_assert(sizeof(struct origin) == NODE_ID_BYTES + 4, "no padding: origins are interned as bytes");

enum { STREAM_STAMPS, STREAM_IDENTS, STREAM_COLUMNS }; /* the first column's */

struct stream {
    struct buf buf;
    uint64_t last; /* the last stamp, identity number or int value that went in */
};

struct group {
    enum change_kind kind;
    bool orphan;
    enum carried carried;
    enum ident_kind ident;
    uint32_t key_columns, columns_count, rows;
    uint32_t table, *columns; /* indexes in names */
    struct buf shape;         /* the names themselves one after the other, table first: to know the group again */
    size_t *lens;             /* of each, table first */
    struct stream *streams;
    uint32_t columns_cap;
    uint64_t used; /* when: the count of rows then */
};

struct batch_writer {
    struct group groups[OPEN_MAX];
    uint32_t open_count, last;
    struct buf closed; /* finished groups */
    uint32_t closed_count;
    struct intern names, origins;
    struct buf schema; /* packed; empty: none */
    uint32_t rows;
    uint64_t stamp;   /* of the first row */
    size_t raw_bytes; /* never below the true size of the body */
    struct buf scratch;
    struct zip *zip;
    bool plain;
};

void batch_writer_unsigned(struct batch_writer *w) { w->plain = true; }

struct batch_writer *batch_writer_new(void) {
    struct batch_writer *w = calloc(1, sizeof *w);
    struct zip *zip = zip_new();
    if (!w || !zip) {
        free(w);
        zip_free(zip);
        return NULL;
    }
    w->zip = zip;
    w->raw_bytes = PREFIX_MAX;
    intern_init(&w->names, BATCH_NAMES_MAX);
    intern_init(&w->origins, BATCH_ORIGINS_MAX);
    buf_init(&w->closed, BATCH_RAW_MAX);
    buf_init(&w->schema, BATCH_RAW_MAX);
    buf_init(&w->scratch, BATCH_RAW_MAX);
    for (int i = 0; i < OPEN_MAX; i++)
        buf_init(&w->groups[i].shape, BATCH_RAW_MAX);
    return w;
}

static void group_release(struct group *g) {
    for (uint32_t i = 0; g->streams && i < STREAM_COLUMNS + g->columns_cap; i++)
        buf_release(&g->streams[i].buf);
    buf_release(&g->shape);
    free(g->streams);
    free(g->columns);
    free(g->lens);
    g->streams = NULL;
    g->columns = NULL;
    g->lens = NULL;
    g->columns_cap = 0;
}

void batch_writer_free(struct batch_writer *w) {
    if (!w)
        return;
    for (int i = 0; i < OPEN_MAX; i++)
        group_release(&w->groups[i]);
    intern_release(&w->names);
    intern_release(&w->origins);
    buf_release(&w->closed);
    buf_release(&w->schema);
    buf_release(&w->scratch);
    zip_free(w->zip);
    free(w);
}

/* Empties a buffer and keeps its memory while the budget lasts. */
static void buf_keep(struct buf *b, size_t *budget) {
    buf_clear(b);
    if (b->cap > *budget)
        buf_release(b);
    else
        *budget -= b->cap;
}

void batch_writer_clear(struct batch_writer *w) {
    size_t budget = KEEP_MAX;
    buf_keep(&w->scratch, &budget);
    buf_keep(&w->closed, &budget);
    buf_keep(&w->schema, &budget);
    for (int i = 0; i < OPEN_MAX; i++) {
        struct group *g = &w->groups[i];
        size_t fixed = g->columns_cap * (sizeof *g->streams + sizeof *g->lens + sizeof *g->columns);
        buf_keep(&g->shape, &budget);
        for (uint32_t s = 0; g->streams && s < STREAM_COLUMNS + g->columns_cap; s++)
            buf_keep(&g->streams[s].buf, &budget);
        if (fixed > budget)
            group_release(g);
        else
            budget -= fixed;
    }
    intern_clear(&w->names);
    intern_clear(&w->origins);
    zip_trim(w->zip);
    w->open_count = w->last = w->closed_count = w->rows = 0;
    w->stamp = 0;
    w->raw_bytes = PREFIX_MAX;
}

uint32_t batch_writer_rows(const struct batch_writer *w) { return w->rows; }

size_t batch_writer_raw_bytes(const struct batch_writer *w) { return w->raw_bytes; }

static void pack_text(struct buf *b, const char *p, size_t len) {
    if (p)
        buf_pack_str(b, p, len ? len : strlen(p));
    else
        buf_pack_nil(b);
}

int batch_writer_schema(struct batch_writer *w, const struct schema_item *items, uint32_t count) {
    if (count > BATCH_SCHEMA_MAX)
        return ERR_TOOBIG;
    struct buf packed;
    buf_init(&packed, BATCH_RAW_MAX - (w->raw_bytes - w->schema.len));
    buf_pack_array(&packed, count);
    for (uint32_t i = 0; i < count; i++) {
        buf_pack_array(&packed, 4);
        pack_text(&packed, items[i].type, items[i].type_len);
        pack_text(&packed, items[i].name, items[i].name_len);
        pack_text(&packed, items[i].table, items[i].table_len);
        pack_text(&packed, items[i].sql, items[i].sql_len);
    }
    if (packed.failed) {
        int r = packed.failed;
        buf_release(&packed);
        return r;
    }
    w->raw_bytes = w->raw_bytes - w->schema.len + packed.len;
    buf_release(&w->schema);
    w->schema = packed;
    return 0;
}

/* ---- finished groups: where their bytes go */
struct sink {
    int (*put)(struct sink *s, const void *p, size_t len);
    size_t count;
    struct buf *buf;
    struct zip *zip;
    struct envelope *envelope;
};

static int sink_count(struct sink *s, const void *p, size_t len) {
    (void)p;
    s->count += len;
    return 0;
}

static int sink_buf(struct sink *s, const void *p, size_t len) {
    buf_append(s->buf, p, len);
    return s->buf->failed;
}

static int sink_zip(struct sink *s, const void *p, size_t len) { return zip_put(s->zip, p, len); }

static int put_scratch(struct batch_writer *w, struct sink *s) {
    int r = w->scratch.failed;
    if (!r)
        r = s->put(s, w->scratch.data, w->scratch.len);
    buf_clear(&w->scratch);
    return r;
}

static int put_group(struct batch_writer *w, const struct group *g, struct sink *s) {
    struct buf *head = &w->scratch;
    buf_clear(head);
    buf_pack_array(head, BATCH_GROUP_FIELDS + g->columns_count);
    buf_pack_u64(head, g->kind | (g->orphan ? BATCH_ORPHAN : 0) | (uint32_t)g->carried * BATCH_CARRIED);
    buf_pack_u64(head, g->table);
    buf_pack_u64(head, g->ident);
    buf_pack_array(head, g->columns_count);
    for (uint32_t i = 0; i < g->columns_count; i++)
        buf_pack_u64(head, g->columns[i]);
    buf_pack_u64(head, g->rows);
    for (uint32_t i = 0; i < STREAM_COLUMNS + g->columns_count; i++) {
        buf_pack_bin_header(head, g->streams[i].buf.len);
        int r = put_scratch(w, s);
        if (!r)
            r = s->put(s, g->streams[i].buf.data, g->streams[i].buf.len);
        if (r)
            return r;
    }
    return 0;
}

static int put_body(struct batch_writer *w, struct sink *s) {
    struct buf *head = &w->scratch;
    buf_clear(head);
    buf_pack_array(head, w->origins.count);
    size_t len;
    for (uint32_t i = 0; i < w->origins.count; i++) {
        struct origin o;
        const void *p = intern_get(&w->origins, i, &len);
        assert(len == sizeof o);
        memcpy(&o, p, sizeof o);
        buf_pack_array(head, 2);
        buf_pack_bin(head, o.node, NODE_ID_BYTES);
        buf_pack_u64(head, o.epoch);
    }
    buf_pack_array(head, w->names.count);
    for (uint32_t i = 0; i < w->names.count; i++) {
        const char *p = intern_get(&w->names, i, &len);
        buf_pack_str(head, p, len);
    }
    if (!w->schema.len)
        buf_pack_nil(head);
    else
        buf_append(head, w->schema.data, w->schema.len);
    uint32_t groups = w->closed_count;
    for (uint32_t i = 0; i < w->open_count; i++)
        groups += w->groups[i].rows > 0; /* one without rows: memory ran out as its first row came */
    buf_pack_u64(head, groups);
    int r = put_scratch(w, s);
    if (!r && w->closed.len)
        r = s->put(s, w->closed.data, w->closed.len);
    for (uint32_t i = 0; !r && i < w->open_count; i++)
        r = w->groups[i].rows ? put_group(w, &w->groups[i], s) : 0;
    return r;
}

/* ---- groups */

static bool group_fits(const struct group *g, const struct change *c) {
    if (g->kind != c->kind || g->orphan != c->orphan || g->carried != c->carried || g->ident != c->ident.kind ||
        g->columns_count != c->columns_count || g->lens[0] != c->table_len ||
        g->key_columns != (c->ident.kind == IDENT_GIVEN_COLS ? c->ident.key_columns : 0))
        return false;
    const uint8_t *at = g->shape.data;
    if (memcmp(at, c->table, c->table_len))
        return false;
    at += c->table_len;
    for (uint32_t i = 0; i < c->columns_count; i++) {
        size_t len = c->columns_len[i];
        if (g->lens[i + 1] != len || memcmp(at, c->columns[i], len))
            return false;
        at += len;
    }
    return true;
}

static struct group *group_find(struct batch_writer *w, const struct change *c) {
    if (w->open_count && group_fits(&w->groups[w->last], c))
        return &w->groups[w->last];
    for (uint32_t i = 0; i < w->open_count; i++) {
        if (group_fits(&w->groups[i], c)) {
            w->last = i;
            return &w->groups[i];
        }
    }
    return NULL;
}

/* A free slot; if there is none, that of the group whose last row lies furthest back, after closing it. */
static int group_slot(struct batch_writer *w, uint32_t *slot) {
    if (w->open_count < OPEN_MAX) {
        *slot = w->open_count++;
        return 0;
    }
    *slot = 0;
    for (uint32_t i = 1; i < OPEN_MAX; i++) {
        if (w->groups[i].used < w->groups[*slot].used)
            *slot = i;
    }
    const struct group *g = &w->groups[*slot];
    if (!g->rows)
        return 0;
    size_t before = w->closed.len;
    int r = put_group(w, g, &(struct sink){.put = sink_buf, .buf = &w->closed});
    if (r) {
        w->closed.len = before;
        w->closed.failed = 0;
        return r;
    }
    w->closed_count++;
    return 0;
}

static int group_columns_reserve(struct group *g, uint32_t count) {
    if (count <= g->columns_cap && g->streams)
        return 0;
    struct stream *streams = realloc(g->streams, (STREAM_COLUMNS + count) * sizeof *streams);
    if (streams) {
        for (uint32_t i = g->streams ? STREAM_COLUMNS + g->columns_cap : 0; i < STREAM_COLUMNS + count; i++)
            buf_init(&streams[i].buf, BATCH_RAW_MAX);
        g->streams = streams;
        g->columns_cap = count;
    }
    uint32_t *columns = realloc(g->columns, (count + 1) * sizeof *columns);
    if (columns)
        g->columns = columns;
    size_t *lens = realloc(g->lens, (count + 1) * sizeof *lens);
    if (lens)
        g->lens = lens;
    return streams && columns && lens ? 0 : ERR_NOMEM;
}

/* Makes the slot a group for rows like c. Until all has succeeded it fits nothing. */
static int group_open(struct batch_writer *w, struct group *g, const struct change *c) {
    g->rows = 0;
    g->kind = CHANGE_KINDS;
    int r = group_columns_reserve(g, c->columns_count);
    if (!r)
        r = intern_add(&w->names, c->table, c->table_len, &g->table);
    if (r)
        return r;
    buf_clear(&g->shape);
    buf_append(&g->shape, c->table, c->table_len);
    g->lens[0] = c->table_len;
    for (uint32_t i = 0; i < c->columns_count; i++) {
        r = intern_add(&w->names, c->columns[i], c->columns_len[i], &g->columns[i]);
        if (r)
            return r;
        buf_append(&g->shape, c->columns[i], c->columns_len[i]);
        g->lens[i + 1] = c->columns_len[i];
    }
    for (uint32_t i = 0; i < STREAM_COLUMNS + c->columns_count; i++) {
        buf_clear(&g->streams[i].buf);
        g->streams[i].last = 0;
    }
    g->key_columns = 0;
    if (c->ident.kind == IDENT_GIVEN_COLS) {
        g->key_columns = c->ident.key_columns;
        buf_pack_u64(&g->streams[STREAM_IDENTS].buf, g->key_columns);
    }
    r = g->shape.failed | g->streams[STREAM_IDENTS].buf.failed;
    if (r)
        return ERR_NOMEM;
    g->columns_count = c->columns_count;
    g->ident = c->ident.kind;
    g->kind = c->kind;
    g->orphan = c->orphan;
    g->carried = c->carried;
    return 0;
}

/* ---- rows */

/* Upper bounds of what a row, and the group that it may need, add to the body. 0: beyond any batch. */
static size_t row_bytes_max(const struct change *c) {
    size_t bytes = OBJECT_MAX * 4 + ORIGIN_MAX;
    if (c->ident.kind == IDENT_GIVEN && c->ident.key) {
        if (c->ident.key_len > BATCH_RAW_MAX)
            return 0;
        bytes += c->ident.key_len;
    }
    for (uint32_t i = 0; i < c->columns_count; i++) {
        const struct value *v = &c->values[i];
        bytes += OBJECT_MAX;
        if (v->type < VALUE_TEXT)
            continue;
        if (v->len > BATCH_RAW_MAX)
            return 0;
        bytes += v->len;
    }
    return bytes;
}

static size_t group_bytes_max(const struct change *c) {
    size_t bytes = GROUP_MAX + OBJECT_MAX + c->table_len;
    for (uint32_t i = 0; i < c->columns_count; i++)
        bytes += COLUMN_MAX + OBJECT_MAX + c->columns_len[i];
    return bytes;
}

/* An int one above the one before it in its column is the object true, where that is shorter: columns that count up, as
 * most keys do, then compress to nothing. */
static void pack_int(struct stream *s, int64_t i) {
    if ((uint64_t)i == s->last + 1 && (i < -32 || i > 127))
        buf_pack_bool(&s->buf, 1);
    else
        buf_pack_i64(&s->buf, i);
    s->last = (uint64_t)i;
}

static void pack_value(struct stream *s, const struct value *v) {
    struct buf *b = &s->buf;
    switch (v->type) {
    case VALUE_NULL: buf_pack_nil(b); break;
    case VALUE_INT: pack_int(s, v->as.i); break;
    case VALUE_FLOAT: buf_pack_f64(b, v->as.f); break;
    case VALUE_TEXT: buf_pack_str(b, (const char *)v->p, v->len); break;
    case VALUE_BLOB: buf_pack_bin(b, v->p, v->len); break;
    case VALUE_REF:
        buf_pack_bool(b, 0);
        buf_pack_bin(b, v->p, v->len);
        break;
    }
}

/* The difference to the last one, which is 0 at first. */
static void pack_difference(struct stream *s, uint64_t number) {
    buf_pack_i64(&s->buf, (int64_t)(number - s->last));
    s->last = number;
}

static void pack_ident(struct stream *s, const struct ident *ident, uint32_t origin) {
    struct buf *b = &s->buf;
    switch (ident->kind) {
    case IDENT_GIVEN:
        if (ident->key)
            buf_pack_bin(b, ident->key, ident->key_len);
        else
            pack_difference(s, (uint64_t)ident->number);
        break;
    case IDENT_BORN_HERE: pack_difference(s, (uint64_t)ident->number); break;
    case IDENT_BORN:
        pack_difference(s, (uint64_t)ident->number);
        buf_pack_u64(b, origin);
        buf_pack_u64(b, ident->version);
        break;
    case IDENT_ADOPTED:
        pack_difference(s, (uint64_t)ident->number);
        buf_pack_u64(b, ident->hash);
        break;
    case IDENT_GIVEN_COLS:
    case IDENT_KINDS: break;
    }
}

/* Makes room in all streams first, so that the row is added wholly or not at all. */
static int row_reserve(struct group *g, const struct change *c) {
    size_t key_len = c->ident.kind == IDENT_GIVEN && c->ident.key ? c->ident.key_len : 0;
    bool ok = buf_reserve(&g->streams[STREAM_STAMPS].buf, OBJECT_MAX) != NULL;
    ok = ok && buf_reserve(&g->streams[STREAM_IDENTS].buf, 3 * OBJECT_MAX + key_len);
    for (uint32_t i = 0; ok && i < c->columns_count; i++) {
        const struct value *v = &c->values[i];
        ok = buf_reserve(&g->streams[STREAM_COLUMNS + i].buf, OBJECT_MAX + (v->type >= VALUE_TEXT ? v->len : 0));
    }
    if (ok)
        return 0;
    for (uint32_t i = 0; i < STREAM_COLUMNS + c->columns_count; i++)
        g->streams[i].buf.failed = 0;
    return ERR_NOMEM;
}

static void row_pack(struct batch_writer *w, struct group *g, const struct change *c, uint32_t origin) {
    struct stream *stamps = &g->streams[STREAM_STAMPS], *idents = &g->streams[STREAM_IDENTS];
    size_t before = stamps->buf.len + idents->buf.len;
    if (!g->rows)
        stamps->last = w->stamp;
    pack_difference(stamps, c->stamp);
    pack_ident(idents, &c->ident, origin);
    size_t added = stamps->buf.len + idents->buf.len - before;
    for (uint32_t i = 0; i < c->columns_count; i++) {
        struct stream *s = &g->streams[STREAM_COLUMNS + i];
        before = s->buf.len;
        pack_value(s, &c->values[i]);
        added += s->buf.len - before;
    }
    w->raw_bytes += added;
    g->rows++;
    g->used = ++w->rows;
}

int batch_writer_add(struct batch_writer *w, const struct change *c) {
    assert((unsigned)c->kind < CHANGE_KINDS && (unsigned)c->ident.kind < IDENT_KINDS);
    assert(c->ident.kind != IDENT_GIVEN_COLS || (c->ident.key_columns && c->ident.key_columns <= c->columns_count));
    if (w->rows == BATCH_ROWS_MAX || c->columns_count > BATCH_COLUMNS_MAX)
        return ERR_TOOBIG;
    size_t bytes = row_bytes_max(c);
    struct group *g = group_find(w, c);
    size_t group_bytes = g ? 0 : group_bytes_max(c);
    if (!bytes || bytes + group_bytes > BATCH_RAW_MAX - w->raw_bytes)
        return ERR_TOOBIG;
    uint32_t origin = 0;
    if (c->ident.kind == IDENT_BORN) {
        uint32_t known = w->origins.count;
        int r = intern_add(&w->origins, &c->ident.origin, sizeof c->ident.origin, &origin);
        if (r)
            return r;
        w->raw_bytes += (w->origins.count - known) * ORIGIN_MAX;
    }
    if (!w->rows)
        w->stamp = c->stamp;
    if (!g) {
        uint32_t slot, names = w->names.count;
        size_t names_bytes = w->names.bytes.len;
        int r = group_slot(w, &slot);
        if (!r)
            r = group_open(w, &w->groups[slot], c);
        /* names that came in before a failure stay, too */
        w->raw_bytes += w->names.bytes.len - names_bytes + OBJECT_MAX * (w->names.count - names);
        w->raw_bytes += GROUP_MAX + COLUMN_MAX * c->columns_count;
        if (r)
            return r;
        w->last = slot;
        g = &w->groups[slot];
    }
    int r = row_reserve(g, c);
    if (r)
        return r;
    row_pack(w, g, c, origin);
    return 0;
}

/* ---- sealing */

struct envelope {
    struct bytes *bytes;
    size_t at;
};

static int sink_envelope(struct sink *s, const void *p, size_t len) {
    if (len)
        memcpy(s->envelope->bytes->data + s->envelope->at, p, len);
    s->envelope->at += len;
    return 0;
}

static void pack_head(struct buf *b, const struct batch_writer *w, const struct batch_head *head, size_t raw_len, const uint8_t *key,
                      const uint8_t *chain) {
    buf_pack_array(b, BATCH_HEAD_FIELDS);
    buf_pack_u64(b, BATCH_FORMAT);
    buf_pack_u64(b, head->flags & (BATCH_PART | BATCH_BLIND));
    buf_pack_bin(b, head->origin.node, NODE_ID_BYTES);
    buf_pack_u64(b, head->origin.epoch);
    buf_pack_u64(b, head->version);
    buf_pack_str(b, head->db, head->db_len);
    buf_pack_bin(b, chain, BATCH_PREV_BYTES);
    if (head->version == 1)
        buf_pack_bin(b, key, NODE_KEY_BYTES);
    else
        buf_pack_nil(b);
    vv_pack(&head->after, b);
    vv_pack(&head->knew, b);
    buf_pack_u64(b, head->schema);
    buf_pack_u64(b, w->rows ? w->stamp : head->stamp);
    buf_pack_u64(b, w->rows);
    buf_pack_u64(b, raw_len);
    buf_pack_bin_header(b, raw_len); /* the body's: never longer than raw_len, so its length is patched in this width */
}

/* Overwrites the big-endian length at the end of the head. */
static void patch_body_len(uint8_t *head_end, size_t raw_len, size_t body_len) {
    int width = raw_len < 256 ? 1 : raw_len < 65536 ? 2 : 4;
    for (int i = 1; i <= width; i++, body_len >>= 8)
        head_end[-i] = (uint8_t)body_len;
}

/* Writes the body behind the head: compressed if that helps. */
static int put_envelope_body(struct batch_writer *w, struct envelope *e, size_t raw_len) {
    size_t head_len = e->at;
    if (raw_len >= ZSTD_MIN) {
        size_t body_len = 0;
        uint8_t *to = e->bytes->data + head_len;
        int r = zip_begin(w->zip, raw_len, to, raw_len - raw_len / ZSTD_GAIN);
        if (!r)
            r = put_body(w, &(struct sink){.put = sink_zip, .zip = w->zip});
        if (!r)
            r = zip_end(w->zip, &body_len);
        if (!r) {
            e->bytes->data[FLAGS_AT] |= BATCH_ZSTD;
            patch_body_len(to, raw_len, body_len);
            e->at += body_len;
            return 0;
        }
        if (r != ERR_TOOBIG)
            return r;
    }
    int r = put_body(w, &(struct sink){.put = sink_envelope, .envelope = e});
    assert(r || e->at == head_len + raw_len);
    return r;
}

static int put_envelope(struct batch_writer *w, const struct buf *head, size_t raw_len, struct bytes **out) {
    struct envelope e = {.bytes = bytes_new(NULL, head->len + raw_len + BATCH_SIGNATURE_BYTES)};
    if (!e.bytes)
        return ERR_NOMEM;
    memcpy(e.bytes->data, head->data, head->len);
    e.at = head->len;
    int r = put_envelope_body(w, &e, raw_len);
    if (r) {
        bytes_unref(e.bytes);
        return r;
    }
    *out = bytes_shrink(e.bytes, e.at + BATCH_SIGNATURE_BYTES);
    return 0;
}

int batch_seal(struct batch_writer *w, const struct batch_head *head, const uint8_t secret[NODE_SECRET_BYTES],
               uint8_t chain[BATCH_CHAIN_BYTES], struct bytes **out) {
    assert(head->version && head->db && head->db_len && head->db_len <= BATCH_DB_NAME_MAX);
    struct sink counter = {.put = sink_count};
    int r = put_body(w, &counter);
    if (r)
        return r;
    assert(counter.count <= w->raw_bytes && counter.count <= BATCH_RAW_MAX);
    struct buf packed;
    buf_init(&packed, HEAD_MAX);
    /* libsodium's secret key ends with the public one */
    pack_head(&packed, w, head, counter.count, secret + NODE_SECRET_BYTES - NODE_KEY_BYTES, chain);
    r = packed.failed ? packed.failed : put_envelope(w, &packed, counter.count, out);
    buf_release(&packed);
    if (r)
        return r;
    assert((*out)->len <= BATCH_BYTES_MAX);
    size_t signed_len = (*out)->len - BATCH_SIGNATURE_BYTES;
    batch_chain((*out)->data, (*out)->len, chain);
    memset((*out)->data + signed_len, 0, BATCH_SIGNATURE_BYTES);
    if (!w->plain)
        crypto_sign_detached((*out)->data + signed_len, NULL, chain, BATCH_CHAIN_BYTES, secret);
    return 0;
}
