/* The reading half of the batch codec; the format is at the head of batch.h. All bytes that come in here are untrusted.
 *
 * Memory is bounded by what is really there: lists by the bytes that their elements need at least, the body by
 * BATCH_RAW_MAX. Groups are read one after the other; one set of cursors, as wide as the widest group, serves them all. */
#include "proto/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/zip.h"

#define KEEP_MAX (1u << 20) /* bytes of body memory that a closed reader keeps */
#define LIST_KEEP_MAX 4096u /* elements of a list likewise */
#define ORIGIN_BYTES_MIN 20 /* array head 1, bin16 18, epoch 1 */
#define ITEM_BYTES_MIN 5    /* array head 1, four strings or nil */
#define GROUP_BYTES_MIN 12  /* head 1, kind, table, ident kind, columns 1 each, rows 1, two bins of which stamps has a row */

struct name {
    const char *p;
    size_t len;
    uint32_t seen; /* the last group, counted from 1, that has it as a column */
};

struct stream {
    struct mpk m;
    uint64_t last; /* the last stamp, identity number or int value that came out */
};

struct batch_reader {
    struct batch_head head;
    struct buf raw; /* the expanded body */
    struct zip *zip;
    struct mpk body; /* behind it: groups not begun yet */
    struct origin *origins;
    struct name *names;
    struct schema_item *schema;
    uint32_t origins_count, origins_cap, names_count, names_cap, schema_count, schema_cap;
    uint32_t groups_left, rows_left; /* groups not begun yet, and the rows they must have */
    int state;                       /* 1: open; 0: read to its end; else the error that ended it */

    /* the group being read */
    uint32_t group, rows; /* its number from 1 (0: none yet), its rows still to come */
    struct change change; /* what its rows share */
    struct stream stamps, idents, *columns;
    const char **columns_name;
    size_t *columns_len;
    struct value *values;
    uint32_t columns_cap;
};

struct batch_reader *batch_reader_new(void) {
    struct batch_reader *r = calloc(1, sizeof *r);
    struct zip *zip = zip_new();
    if (!r || !zip) {
        free(r);
        zip_free(zip);
        return NULL;
    }
    r->zip = zip;
    r->state = ERR_CLOSED;
    buf_init(&r->raw, BATCH_RAW_MAX);
    return r;
}

/* Gives a list back if it grew large. */
static void *list_trim(void *list, uint32_t *cap) {
    if (*cap <= LIST_KEEP_MAX)
        return list;
    free(list);
    *cap = 0;
    return NULL;
}

void batch_reader_close(struct batch_reader *r) {
    batch_head_release(&r->head);
    if (r->raw.cap > KEEP_MAX)
        buf_release(&r->raw);
    buf_clear(&r->raw);
    r->origins = list_trim(r->origins, &r->origins_cap);
    r->names = list_trim(r->names, &r->names_cap);
    r->schema = list_trim(r->schema, &r->schema_cap);
    r->origins_count = r->names_count = r->schema_count = 0;
    r->groups_left = r->rows_left = r->group = r->rows = 0;
    r->state = ERR_CLOSED;
}

static void columns_release(struct batch_reader *r) {
    free(r->columns);
    free(r->columns_name);
    free(r->columns_len);
    free(r->values);
}

void batch_reader_free(struct batch_reader *r) {
    if (!r)
        return;
    batch_reader_close(r);
    buf_release(&r->raw);
    zip_free(r->zip);
    free(r->origins);
    free(r->names);
    free(r->schema);
    columns_release(r);
    free(r);
}

/* Reads the head of a list whose elements take at least min bytes each. */
static uint32_t list_count(struct mpk *m, uint32_t max, size_t min) {
    uint32_t count = mpk_array(m, max);
    if (count <= mpk_left(m) / min)
        return count;
    mpk_fail(m, ERR_MALFORMED);
    return 0;
}

/* Room for count elements; the old ones are not kept. NULL without memory. */
static void *list_room(void *list, uint32_t *cap, uint32_t count, size_t size) {
    if (list && count <= *cap)
        return list;
    void *fresh = malloc((count ? count : 1) * size);
    if (!fresh)
        return NULL;
    free(list);
    *cap = count;
    return fresh;
}

static int read_origins(struct batch_reader *r, struct mpk *m) {
    uint32_t count = list_count(m, BATCH_ORIGINS_MAX, ORIGIN_BYTES_MIN);
    struct origin *list = list_room(r->origins, &r->origins_cap, count, sizeof *list);
    if (!list)
        return ERR_NOMEM;
    r->origins = list;
    for (uint32_t i = 0; i < count && !m->err; i++) {
        if (mpk_array(m, 2) != 2)
            mpk_fail(m, ERR_MALFORMED);
        const uint8_t *node = mpk_bin_exact(m, NODE_ID_BYTES);
        if (node)
            memcpy(r->origins[i].node, node, NODE_ID_BYTES);
        r->origins[i].epoch = (uint32_t)mpk_u64(m, UINT32_MAX);
    }
    r->origins_count = count;
    return m->err;
}

static int read_names(struct batch_reader *r, struct mpk *m) {
    uint32_t count = list_count(m, BATCH_NAMES_MAX, 1);
    struct name *list = list_room(r->names, &r->names_cap, count, sizeof *list);
    if (!list)
        return ERR_NOMEM;
    r->names = list;
    for (uint32_t i = 0; i < count && !m->err; i++) {
        r->names[i].p = mpk_str(m, &r->names[i].len, BATCH_RAW_MAX);
        r->names[i].seen = 0;
    }
    r->names_count = count;
    return m->err;
}

static const char *read_text(struct mpk *m, size_t *len) {
    *len = 0;
    return mpk_nil(m) ? NULL : mpk_str(m, len, BATCH_RAW_MAX);
}

static int read_schema(struct batch_reader *r, struct mpk *m) {
    if (mpk_nil(m))
        return 0;
    uint32_t count = list_count(m, BATCH_SCHEMA_MAX, ITEM_BYTES_MIN);
    struct schema_item *list = list_room(r->schema, &r->schema_cap, count, sizeof *list);
    if (!list)
        return ERR_NOMEM;
    r->schema = list;
    for (uint32_t i = 0; i < count && !m->err; i++) {
        struct schema_item *item = &r->schema[i];
        if (mpk_array(m, 4) != 4)
            mpk_fail(m, ERR_MALFORMED);
        item->type = mpk_str(m, &item->type_len, BATCH_RAW_MAX);
        item->name = mpk_str(m, &item->name_len, BATCH_RAW_MAX);
        item->table = mpk_str(m, &item->table_len, BATCH_RAW_MAX);
        item->sql = read_text(m, &item->sql_len); /* nil: an index that a constraint made */
    }
    r->schema_count = count;
    return m->err;
}

static int open_body(struct batch_reader *r) {
    const uint8_t *raw = r->head.body;
    if (r->head.flags & BATCH_ZSTD) {
        int rc = zip_check(r->head.body, r->head.body_len, r->head.raw_bytes);
        if (rc)
            return rc;
        uint8_t *room = buf_reserve(&r->raw, r->head.raw_bytes);
        if (!room)
            return r->raw.failed;
        rc = zip_expand(r->zip, r->head.body, r->head.body_len, room, r->head.raw_bytes);
        if (rc)
            return rc;
        raw = room;
    }
    struct mpk *m = &r->body;
    mpk_init(m, raw, r->head.raw_bytes);
    int rc = read_origins(r, m);
    rc = rc ? rc : read_names(r, m);
    rc = rc ? rc : read_schema(r, m);
    if (rc)
        return rc;
    r->groups_left = (uint32_t)mpk_u64(m, BATCH_ROWS_MAX); /* each has a row */
    if (r->groups_left > mpk_left(m) / GROUP_BYTES_MIN)
        mpk_fail(m, ERR_MALFORMED);
    r->rows_left = r->head.rows;
    return m->err;
}

int batch_reader_open(struct batch_reader *r, const uint8_t *data, size_t len) {
    batch_reader_close(r);
    int rc = batch_head_read(&r->head, data, len);
    if (!rc)
        rc = open_body(r);
    if (rc)
        batch_reader_close(r);
    r->state = rc ? rc : 1;
    return rc;
}

const struct batch_head *batch_reader_head(const struct batch_reader *r) { return &r->head; }

uint32_t batch_reader_schema_count(const struct batch_reader *r) { return r->schema_count; }

const struct schema_item *batch_reader_schema(const struct batch_reader *r, uint32_t i) {
    assert(i < r->schema_count);
    return &r->schema[i];
}

/* ---- groups */

/* Cursors, names, lengths and values of one group in step. */
static int columns_reserve(struct batch_reader *r, uint32_t count) {
    if (count <= r->columns_cap && r->columns)
        return 0;
    struct stream *columns = malloc((count + 1) * sizeof *columns);
    const char **names = malloc((count + 1) * sizeof *names);
    size_t *lens = malloc((count + 1) * sizeof *lens);
    struct value *values = calloc(count + 1, sizeof *values);
    if (!columns || !names || !lens || !values) {
        free(columns);
        free(names);
        free(lens);
        free(values);
        return ERR_NOMEM;
    }
    columns_release(r);
    r->columns = columns;
    r->columns_name = names;
    r->columns_len = lens;
    r->values = values;
    r->columns_cap = count;
    return 0;
}

static struct name *read_name(struct batch_reader *r, struct mpk *m) {
    uint64_t index = mpk_u64(m, BATCH_NAMES_MAX);
    if (!m->err && index >= r->names_count)
        mpk_fail(m, ERR_MALFORMED);
    return m->err ? NULL : &r->names[index];
}

static int read_columns(struct batch_reader *r, struct mpk *m, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        struct name *name = read_name(r, m);
        if (!name)
            return m->err;
        if (name->seen == r->group)
            return ERR_MALFORMED; /* a column twice */
        name->seen = r->group;
        r->columns_name[i] = name->p;
        r->columns_len[i] = name->len;
    }
    return 0;
}

static void read_stream(struct mpk *m, struct stream *s, uint64_t last) {
    size_t len;
    const uint8_t *p = mpk_bin(m, &len, BATCH_RAW_MAX);
    mpk_init(&s->m, p, len);
    s->last = last;
}

static int begin_group(struct batch_reader *r) {
    struct mpk *m = &r->body;
    struct change *c = &r->change;
    uint32_t fields = mpk_array(m, BATCH_GROUP_FIELDS + BATCH_COLUMNS_MAX);
    r->group++;
    *c = (struct change){.group = r->group - 1};
    uint64_t kind = mpk_u64(m, CARRIED_KINDS * BATCH_CARRIED - 1);
    c->kind = (enum change_kind)(kind % BATCH_ORPHAN);
    c->orphan = kind & BATCH_ORPHAN;
    c->carried = (enum carried)(kind / BATCH_CARRIED);
    if (!m->err && c->kind >= CHANGE_KINDS)
        mpk_fail(m, ERR_TOOBIG);
    const struct name *table = read_name(r, m);
    c->ident.kind = (enum ident_kind)mpk_u64(m, IDENT_KINDS - 1);
    c->columns_count = mpk_array(m, BATCH_COLUMNS_MAX);
    if (!m->err && fields != BATCH_GROUP_FIELDS + c->columns_count)
        mpk_fail(m, ERR_MALFORMED);
    if (m->err)
        return m->err;
    c->table = table->p;
    c->table_len = table->len;
    int rc = columns_reserve(r, c->columns_count);
    rc = rc ? rc : read_columns(r, m, c->columns_count);
    if (rc)
        return rc;
    r->rows = (uint32_t)mpk_u64(m, BATCH_ROWS_MAX);
    read_stream(m, &r->stamps, r->head.stamp);
    read_stream(m, &r->idents, 0);
    for (uint32_t i = 0; i < c->columns_count; i++)
        read_stream(m, &r->columns[i], 0);
    if (!m->err && (!r->rows || r->rows > r->rows_left))
        mpk_fail(m, ERR_MALFORMED);
    if (!m->err && c->ident.kind == IDENT_GIVEN_COLS) {
        c->ident.key_columns = (uint32_t)mpk_u64(&r->idents.m, c->columns_count);
        if (r->idents.m.err || !c->ident.key_columns)
            return ERR_MALFORMED;
    }
    if (m->err)
        return m->err;
    c->columns = r->columns_name;
    c->columns_len = r->columns_len;
    c->values = r->values;
    c->ident.origin = r->head.origin;
    c->ident.version = r->head.version;
    r->groups_left--;
    r->rows_left -= r->rows;
    return 0;
}

static int end_group(const struct batch_reader *r) {
    int rc = mpk_finish(&r->stamps.m);
    rc = rc ? rc : mpk_finish(&r->idents.m);
    for (uint32_t i = 0; !rc && i < r->change.columns_count; i++)
        rc = mpk_finish(&r->columns[i].m);
    return rc;
}

/* ---- rows */

static bool read_ref(struct stream *stream, struct value *v) {
    struct value_ref ref;
    v->type = VALUE_REF;
    v->p = mpk_bin(&stream->m, &v->len, VALUE_REF_BORN_BYTES);
    if (v->p && value_ref_unpack(&ref, v->p, v->len))
        return true;
    mpk_fail(&stream->m, ERR_MALFORMED);
    return false;
}

static inline bool read_value(struct stream *stream, struct value *v) {
    struct mpk_scalar s;
    if (!mpk_scalar(&stream->m, &s))
        return false;
    switch (s.type) {
    case MPK_NIL: v->type = VALUE_NULL; return true;
    case MPK_INT:
        v->type = VALUE_INT;
        v->as.i = (int64_t)s.u;
        stream->last = s.u;
        return true;
    case MPK_BOOL: /* true: one above the int before it; false: a reference follows */
        if (!s.u)
            return read_ref(stream, v);
        v->type = VALUE_INT;
        v->as.i = (int64_t)++stream->last;
        return true;
    case MPK_FLOAT:
        v->type = VALUE_FLOAT;
        v->as.f = s.f;
        return true;
    case MPK_STR:
    case MPK_BIN:
        v->type = s.type == MPK_STR ? VALUE_TEXT : VALUE_BLOB;
        v->p = s.p;
        v->len = s.len;
        return true;
    default: break;
    }
    mpk_fail(&stream->m, ERR_MALFORMED);
    return false;
}

static uint64_t read_difference(struct stream *s) {
    s->last += (uint64_t)mpk_i64(&s->m);
    return s->last;
}

static void read_ident(struct batch_reader *r, struct ident *ident) {
    struct mpk *m = &r->idents.m;
    uint64_t index;
    switch (ident->kind) {
    case IDENT_GIVEN:
        ident->key = NULL;
        ident->key_len = 0;
        ident->number = 0;
        if (mpk_peek(m) == MPK_BIN)
            ident->key = mpk_bin(m, &ident->key_len, BATCH_RAW_MAX);
        else
            ident->number = (int64_t)read_difference(&r->idents);
        break;
    case IDENT_BORN_HERE: ident->number = (int64_t)read_difference(&r->idents); break;
    case IDENT_BORN:
        ident->number = (int64_t)read_difference(&r->idents);
        index = mpk_u64(m, BATCH_ORIGINS_MAX);
        ident->version = mpk_u64(m, UINT64_MAX);
        if (index < r->origins_count)
            ident->origin = r->origins[index];
        else
            mpk_fail(m, ERR_MALFORMED);
        break;
    case IDENT_ADOPTED:
        ident->number = (int64_t)read_difference(&r->idents);
        ident->hash = mpk_u64(m, UINT64_MAX);
        break;
    case IDENT_GIVEN_COLS:
    case IDENT_KINDS: break;
    }
}

static int read_row(struct batch_reader *r) {
    struct change *c = &r->change;
    c->stamp = read_difference(&r->stamps);
    read_ident(r, &c->ident);
    for (uint32_t i = 0; i < c->columns_count; i++) {
        if (!read_value(&r->columns[i], &r->values[i]))
            return r->columns[i].m.err;
    }
    r->rows--;
    return r->stamps.m.err ? r->stamps.m.err : r->idents.m.err;
}

/* The next row is read, 1; or the end is reached and everything was well-formed, 0; or an error. */
static int advance(struct batch_reader *r) {
    if (!r->rows) {
        int rc = r->group ? end_group(r) : 0;
        if (rc)
            return rc;
        if (!r->groups_left)
            return r->rows_left ? ERR_MALFORMED : mpk_finish(&r->body);
        rc = begin_group(r);
        if (rc)
            return rc;
    }
    int rc = read_row(r);
    return rc ? rc : 1;
}

int batch_reader_next(struct batch_reader *r, struct change *c) {
    if (r->state != 1)
        return r->state;
    r->state = advance(r);
    if (r->state == 1)
        *c = r->change;
    return r->state;
}
