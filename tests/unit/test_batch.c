/* Batches: what goes in comes out; bounds; chain and signature; memory that is given back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/batch.h"
#include "proto/err.h"

static uint64_t seed;

static uint64_t rnd(void) { /* xorshift64* */
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * UINT64_C(2685821657736338717);
}

static uint32_t below(uint32_t n) { return (uint32_t)((rnd() >> 32) % n); }

static uint8_t public_key[NODE_KEY_BYTES], secret_key[NODE_SECRET_BYTES];

static struct batch_head head_of(uint64_t version) {
    struct batch_head head = {.version = version, .db = "scouting.db", .db_len = 11, .schema = 77, .stamp = 5};
    node_id_of_key(head.origin.node, public_key);
    return head;
}

static struct bytes *seal(struct batch_writer *w, uint64_t version, uint8_t chain[BATCH_CHAIN_BYTES]) {
    struct batch_head head = head_of(version);
    struct bytes *out = NULL;
    assert_int_equal(batch_seal(w, &head, secret_key, chain, &out), 0);
    return out;
}

static bool value_same(const struct value *a, const struct value *b) {
    if (a->type != b->type)
        return false;
    if (a->type == VALUE_INT || a->type == VALUE_FLOAT)
        return !memcmp(&a->as, &b->as, sizeof a->as);
    return a->type == VALUE_NULL || (a->len == b->len && (!a->len || !memcmp(a->p, b->p, a->len)));
}

/* ---- every value type */

static const int64_t ints[] = {0, 1, -1, 127, 128, -32, -33, -129, 65535, 65536, INT32_MIN, UINT32_MAX, INT64_MAX, INT64_MIN, 1, 2};
static const double floats[] = {0.0, -0.0, INFINITY, -INFINITY, 5e-324, 1.7976931348623157e308, 0.1};
static const char weird[] = "\xff\xfe\0\xc3(\xed\xa0\x80"; /* no UTF-8, and a NUL inside */

static void test_values(void **state) {
    (void)state;
    struct value values[64];
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        values[count++] = (struct value){.type = VALUE_INT, .as.i = ints[i]};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        values[count++] = (struct value){.type = VALUE_FLOAT, .as.f = floats[i]};
    values[count++] = (struct value){.type = VALUE_NULL};
    for (enum value_type type = VALUE_TEXT; type <= VALUE_BLOB; type++) {
        values[count++] = (struct value){.type = type};
        values[count++] = (struct value){.type = type, .p = (const uint8_t *)weird, .len = sizeof weird - 1};
        values[count++] = (struct value){.type = type, .p = (const uint8_t *)weird, .len = 1};
    }
    /* each value in a column of its own, in one column one after the other, and backwards */
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    const char *names[64];
    size_t lens[64];
    char text[64][8];
    for (uint32_t i = 0; i < 64; i++) {
        lens[i] = (size_t)snprintf(text[i], sizeof text[i], "c%u", i);
        names[i] = text[i];
    }
    struct change c = {.kind = CHANGE_UPDATE, .table = "t", .table_len = 1, .columns = names, .columns_len = lens};
    c.columns_count = count;
    c.values = values;
    assert_int_equal(batch_writer_add(w, &c), 0);
    c.columns_count = 1;
    for (uint32_t i = 0; i < 2 * count; i++) {
        c.values = &values[i < count ? i : 2 * count - 1 - i];
        assert_int_equal(batch_writer_add(w, &c), 0);
    }
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = seal(w, 1, chain);
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    assert_int_equal(batch_reader_next(r, &c), 1);
    assert_int_equal(c.columns_count, count);
    assert_int_equal(c.group, 0);
    for (uint32_t i = 0; i < count; i++)
        assert_true(value_same(&c.values[i], &values[i]));
    for (uint32_t i = 0; i < 2 * count; i++) {
        assert_int_equal(batch_reader_next(r, &c), 1);
        assert_int_equal(c.group, 1);
        assert_true(value_same(&c.values[0], &values[i < count ? i : 2 * count - 1 - i]));
    }
    assert_int_equal(batch_reader_next(r, &c), 0);
    assert_int_equal(batch_reader_next(r, &c), 0);
    bytes_unref(out);
    batch_reader_free(r);
    batch_writer_free(w);
}

/* Columns that count up, in places where the short form of a step meets other forms. */
static void test_counting(void **state) {
    (void)state;
    static const int64_t starts[] = {-40, 120, 1000, INT64_MAX - 5, INT64_MIN, UINT32_MAX - 3LL};
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    const char *names[] = {"n"};
    const size_t lens[] = {1};
    struct value v;
    struct change c = {.table = "t", .table_len = 1, .columns_count = 1, .columns = names, .columns_len = lens, .values = &v};
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        for (uint64_t i = 0; i < 20; i++) {
            v = (struct value){.type = i == 9 ? VALUE_NULL : VALUE_INT, .as.i = (int64_t)((uint64_t)starts[s] + i)};
            assert_int_equal(batch_writer_add(w, &c), 0);
        }
    }
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = seal(w, 1, chain);
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        for (uint64_t i = 0; i < 20; i++) {
            assert_int_equal(batch_reader_next(r, &c), 1);
            if (i == 9)
                assert_int_equal(c.values->type, VALUE_NULL);
            else
                assert_true(c.values->type == VALUE_INT && c.values->as.i == (int64_t)((uint64_t)starts[s] + i));
        }
    }
    assert_int_equal(batch_reader_next(r, &c), 0);
    bytes_unref(out);
    batch_reader_free(r);
    batch_writer_free(w);
}

/* ---- random batches */

#define COLUMNS 12

struct row {
    struct change c;
    const char *names[COLUMNS];
    size_t lens[COLUMNS];
    struct value values[COLUMNS];
    uint8_t key[8];
    uint8_t text[COLUMNS][24];
    bool seen;
};

static int64_t random_int(void) { return below(2) ? (int64_t)below(300) - 40 : (int64_t)(rnd() >> below(64)); }

static void random_value(struct value *v, uint8_t text[24]) {
    *v = (struct value){.type = (enum value_type)below(5)};
    if (v->type == VALUE_INT) {
        v->as.i = random_int();
    } else if (v->type == VALUE_FLOAT) {
        v->as.f = (double)random_int() / 7;
    } else if (v->type != VALUE_NULL) {
        v->len = below(24);
        for (size_t i = 0; i < v->len; i++)
            text[i] = below(3) ? 'a' : (uint8_t)rnd();
        v->p = text;
    }
}

static void random_row(struct row *row, uint32_t index, uint32_t tables) {
    static const char *const table_names[] = {"team", "match", "scouting_data", "x", "\"odd name\"", "", "t7", "team2"};
    static const char *const column_names[COLUMNS] = {"id", "a", "b", "ab", "name", "data", "", "created_at", "x1", "x2", "x3", "x"};
    memset(row, 0, sizeof *row);
    struct change *c = &row->c;
    c->kind = (enum change_kind)below(CHANGE_KINDS);
    c->orphan = below(4) == 0;
    c->carried = (enum carried)below(CARRIED_KINDS);
    c->table = table_names[below(tables)];
    c->table_len = strlen(c->table);
    c->stamp = rnd() << 16 | index;
    uint32_t from = below(COLUMNS);
    c->columns_count = below(COLUMNS - from + 1);
    for (uint32_t i = 0; i < c->columns_count; i++) {
        row->names[i] = column_names[from + i];
        row->lens[i] = strlen(row->names[i]);
        random_value(&row->values[i], row->text[i]);
    }
    c->columns = row->names;
    c->columns_len = row->lens;
    c->values = row->values;
    struct ident *ident = &c->ident;
    ident->kind = (enum ident_kind)below(IDENT_KINDS);
    if (ident->kind == IDENT_GIVEN_COLS && !c->columns_count)
        ident->kind = IDENT_GIVEN;
    if (ident->kind == IDENT_GIVEN && below(2)) {
        ident->key = row->key;
        ident->key_len = below(9);
        memcpy(row->key, &c->stamp, 8);
    } else if (ident->kind == IDENT_GIVEN_COLS) {
        ident->key_columns = 1 + below(c->columns_count);
    } else {
        ident->number = random_int();
    }
    if (ident->kind == IDENT_BORN) {
        ident->origin = (struct origin){.node = {(uint8_t)below(9)}, .epoch = below(2)};
        ident->version = rnd() >> below(64);
    }
    if (ident->kind == IDENT_ADOPTED)
        ident->hash = rnd();
}

static void check_ident(const struct ident *got, const struct ident *put, const struct batch_head *head) {
    assert_int_equal(got->kind, put->kind);
    assert_true((got->key == NULL) == (put->key == NULL));
    if (put->key) {
        assert_int_equal(got->key_len, put->key_len);
        assert_memory_equal(got->key, put->key, put->key_len);
    }
    assert_true(got->number == put->number && got->key_columns == put->key_columns && got->hash == put->hash);
    if (put->kind == IDENT_BORN) {
        assert_false(origin_cmp(&got->origin, &put->origin));
        assert_true(got->version == put->version);
    } else if (put->kind == IDENT_BORN_HERE) {
        assert_false(origin_cmp(&got->origin, &head->origin));
        assert_true(got->version == head->version);
    }
}

static void check_row(const struct change *got, struct row *rows, uint32_t count, const struct batch_head *head) {
    uint32_t index = got->stamp & 0xffff;
    assert_true(index < count && !rows[index].seen);
    struct row *row = &rows[index];
    row->seen = true;
    assert_true(got->kind == row->c.kind && got->orphan == row->c.orphan && got->carried == row->c.carried);
    assert_true(got->stamp == row->c.stamp);
    assert_int_equal(got->table_len, row->c.table_len);
    assert_memory_equal(got->table, row->c.table, row->c.table_len);
    assert_int_equal(got->columns_count, row->c.columns_count);
    for (uint32_t i = 0; i < got->columns_count; i++) {
        assert_int_equal(got->columns_len[i], row->lens[i]);
        assert_memory_equal(got->columns[i], row->names[i], row->lens[i]);
        assert_true(value_same(&got->values[i], &row->values[i]));
    }
    check_ident(&got->ident, &row->c.ident, head);
}

static void check_batch(struct batch_reader *r, const struct bytes *out, struct row *rows, uint32_t count) {
    struct change c, last = {0};
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    const struct batch_head *head = batch_reader_head(r);
    assert_int_equal(head->rows, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(batch_reader_next(r, &c), 1);
        if (!i || c.group != last.group)
            assert_int_equal(c.group, i ? last.group + 1 : 0);
        else
            assert_true(c.table == last.table && c.columns == last.columns && c.columns_len == last.columns_len &&
                        c.values == last.values && c.columns_count == last.columns_count);
        last = c;
        check_row(&c, rows, count, head);
    }
    assert_int_equal(batch_reader_next(r, &c), 0);
}

/* One writer and one reader serve all batches, as in a node. With few tables groups recur, with many they overflow. */
static void test_random(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    struct row *rows = malloc(3000 * sizeof *rows);
    uint8_t chain[BATCH_CHAIN_BYTES] = {0}, verified[BATCH_CHAIN_BYTES] = {0};
    for (uint64_t version = 1; version <= 60; version++) {
        uint32_t count = version % 10 ? below(40) : below(3000), tables = 1 + below(8);
        for (uint32_t i = 0; i < count; i++) {
            random_row(&rows[i], i, tables);
            if (i && below(2)) { /* like the row before, so that groups grow */
                uint64_t stamp = rows[i].c.stamp;
                rows[i] = rows[i - 1];
                rows[i].c.stamp = stamp;
                rows[i].c.columns = rows[i].names;
                rows[i].c.columns_len = rows[i].lens;
                rows[i].c.values = rows[i].values;
                for (uint32_t k = 0; k < rows[i].c.columns_count; k++)
                    random_value(&rows[i].values[k], rows[i].text[k]);
            }
            assert_int_equal(batch_writer_add(w, &rows[i].c), 0);
        }
        struct bytes *out = seal(w, version, chain);
        assert_int_equal(batch_verify(out->data, out->len, public_key, verified), 0);
        assert_memory_equal(chain, verified, sizeof chain);
        check_batch(r, out, rows, count);
        assert_true(batch_reader_head(r)->raw_bytes <= batch_writer_raw_bytes(w));
        bytes_unref(out);
        batch_reader_close(r);
        batch_writer_clear(w);
        assert_int_equal(batch_writer_rows(w), 0);
    }
    free(rows);
    batch_reader_free(r);
    batch_writer_free(w);
}

/* The caller's arrays are used again with other names: nothing may go to the wrong column. */
static void test_reused_arrays(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    char name[2] = "a";
    const char *names[] = {name};
    const size_t lens[] = {1};
    struct value v = {.type = VALUE_TEXT, .p = (const uint8_t *)name, .len = 1};
    struct change c = {.table = name, .table_len = 1, .columns_count = 1, .columns = names, .columns_len = lens, .values = &v};
    for (int i = 0; i < 26 * 3; i++) {
        name[0] = (char)('a' + i % 26);
        assert_int_equal(batch_writer_add(w, &c), 0);
    }
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = seal(w, 1, chain);
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    int count = 0;
    for (; batch_reader_next(r, &c) == 1; count++)
        assert_true(*c.table == *c.columns[0] && *c.values->p == (uint8_t)*c.table);
    assert_int_equal(count, 26 * 3);
    bytes_unref(out);
    batch_reader_free(r);
    batch_writer_free(w);
}

/* ---- heads, schema, chain */

static void test_head(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    for (uint64_t version = 1; version < 4; version++) {
        struct batch_head head = head_of(version), got;
        head.origin.epoch = UINT32_MAX;
        head.flags = version == 2 ? BATCH_PART : version == 3 ? BATCH_BLIND : 0;
        head.schema = UINT64_MAX;
        for (uint32_t i = 0; i < 300 * (version - 1); i++) {
            struct origin o = {.epoch = i};
            assert_int_equal(vv_set(&head.after, &o, i + 1), 0);
            assert_int_equal(vv_set(&head.knew, &o, UINT64_MAX - i), 0);
        }
        uint8_t before[BATCH_CHAIN_BYTES];
        memcpy(before, chain, sizeof before);
        struct bytes *out = NULL;
        assert_int_equal(batch_seal(w, &head, secret_key, chain, &out), 0);
        assert_int_equal(batch_head_read(&got, out->data, out->len), 0);
        assert_false(origin_cmp(&got.origin, &head.origin));
        assert_int_equal(got.version, version);
        assert_int_equal(got.flags & (BATCH_PART | BATCH_BLIND), head.flags);
        assert_int_equal(got.db_len, 11);
        assert_memory_equal(got.db, "scouting.db", 11);
        assert_memory_equal(got.prev, before, 8);
        assert_true((got.key != NULL) == (version == 1));
        if (got.key)
            assert_memory_equal(got.key, public_key, sizeof public_key);
        assert_true(vv_equal(&got.after, &head.after) && vv_equal(&got.knew, &head.knew));
        assert_true(got.schema == UINT64_MAX && got.stamp == 5 && !got.rows);
        batch_head_release(&got);
        uint8_t next[BATCH_CHAIN_BYTES];
        memcpy(next, before, sizeof next);
        batch_chain(out->data, out->len, next);
        assert_memory_equal(next, chain, sizeof next);
        vv_release(&head.after);
        vv_release(&head.knew);
        bytes_unref(out);
    }
    batch_writer_free(w);
}

static void test_schema(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    const struct schema_item items[] = {
        {.type = "table", .name = "t", .table = "t", .sql = "CREATE TABLE t(a UNIQUE)"},
        {.type = "index", .name = "sqlite_autoindex_t_1", .table = "txyz", .table_len = 1, .sql = NULL},
    };
    struct schema_item many[300];
    for (int i = 0; i < 300; i++)
        many[i] = items[0];
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = seal(w, 1, chain);
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    assert_int_equal(batch_reader_schema_count(r), 0);
    bytes_unref(out);
    assert_int_equal(batch_writer_schema(w, many, 300), 0);
    assert_int_equal(batch_writer_schema(w, items, 2), 0); /* the later one counts */
    assert_int_equal(batch_writer_schema(w, items, BATCH_SCHEMA_MAX + 1), ERR_TOOBIG);
    out = seal(w, 2, chain);
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    assert_int_equal(batch_reader_schema_count(r), 2);
    const struct schema_item *item = batch_reader_schema(r, 0);
    assert_int_equal(item->sql_len, strlen(items[0].sql));
    assert_memory_equal(item->sql, items[0].sql, item->sql_len);
    assert_memory_equal(item->type, "table", 5);
    item = batch_reader_schema(r, 1);
    assert_null(item->sql);
    assert_int_equal(item->table_len, 1);
    assert_int_equal(item->name_len, strlen(items[1].name));
    struct change c;
    assert_int_equal(batch_reader_next(r, &c), 0);
    bytes_unref(out);
    batch_reader_free(r);
    batch_writer_free(w);
}

static void test_chain(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    struct bytes *out[3];
    uint8_t chain[BATCH_CHAIN_BYTES] = {0}, at[BATCH_CHAIN_BYTES] = {0}, other[NODE_KEY_BYTES], other_secret[NODE_SECRET_BYTES];
    crypto_sign_keypair(other, other_secret);
    for (uint64_t i = 0; i < 3; i++)
        out[i] = seal(w, i + 1, chain);
    /* out of order, twice, another's key: refused, and the chain stays */
    assert_int_equal(batch_verify(out[1]->data, out[1]->len, public_key, at), ERR_SIGNATURE);
    assert_int_equal(batch_verify(out[0]->data, out[0]->len, other, at), ERR_SIGNATURE);
    assert_int_equal(batch_verify(out[0]->data, out[0]->len, public_key, at), 0);
    assert_int_equal(batch_verify(out[0]->data, out[0]->len, public_key, at), ERR_SIGNATURE);
    assert_int_equal(batch_verify(out[2]->data, out[2]->len, public_key, at), ERR_SIGNATURE);
    assert_int_equal(batch_verify(out[1]->data, out[1]->len, public_key, at), 0);
    assert_int_equal(batch_verify(out[2]->data, out[2]->len, public_key, at), 0);
    assert_memory_equal(chain, at, sizeof at);
    /* a batch signed by another in our name */
    struct batch_head head = head_of(4);
    struct bytes *forged = NULL;
    uint8_t copy[BATCH_CHAIN_BYTES];
    memcpy(copy, chain, sizeof copy);
    assert_int_equal(batch_seal(w, &head, other_secret, copy, &forged), 0);
    assert_int_equal(batch_verify(forged->data, forged->len, public_key, at), ERR_SIGNATURE);
    assert_int_equal(batch_verify(forged->data, forged->len, other, at), ERR_SIGNATURE);
    assert_memory_equal(chain, at, sizeof at);
    bytes_unref(forged);
    for (int i = 0; i < 3; i++)
        bytes_unref(out[i]);
    batch_writer_free(w);
}

/* ---- bounds */

static void test_rows_max(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    struct change c = {.kind = CHANGE_DELETE, .table = "t", .table_len = 1};
    for (uint32_t i = 0; i < BATCH_ROWS_MAX; i++) {
        c.ident.number = i;
        assert_int_equal(batch_writer_add(w, &c), 0);
    }
    assert_int_equal(batch_writer_add(w, &c), ERR_TOOBIG);
    assert_int_equal(batch_writer_rows(w), BATCH_ROWS_MAX);
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = seal(w, 1, chain);
    assert_true(out->len < 2000);
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    for (uint32_t i = 0; i < BATCH_ROWS_MAX; i++) {
        assert_int_equal(batch_reader_next(r, &c), 1);
        assert_int_equal(c.ident.number, i);
    }
    assert_int_equal(batch_reader_next(r, &c), 0);
    bytes_unref(out);
    batch_reader_free(r);
    batch_writer_free(w);
}

static void test_big_value(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    struct batch_reader *r = batch_reader_new();
    size_t len = 60u << 20;
    uint8_t *photo = malloc(len);
    static const char *const names[] = {"photo"};
    static const size_t lens[] = {5};
    uint8_t chain[BATCH_CHAIN_BYTES] = {0}, verified[BATCH_CHAIN_BYTES] = {0};
    for (int noise = 0; noise < 2; noise++) {
        memset(photo, 'x', len);
        if (noise)
            randombytes_buf_deterministic(photo, len, (const uint8_t[randombytes_SEEDBYTES]){1});
        struct value v = {.type = VALUE_BLOB, .p = photo, .len = len};
        struct change c = {.table = "t", .table_len = 1, .columns_count = 1, .columns = names, .columns_len = lens, .values = &v};
        assert_int_equal(batch_writer_add(w, &c), 0);
        size_t raw = batch_writer_raw_bytes(w);
        v.len = 5u << 20;
        assert_int_equal(batch_writer_add(w, &c), ERR_TOOBIG);
        v.len = SIZE_MAX;
        assert_int_equal(batch_writer_add(w, &c), ERR_TOOBIG);
        c.table_len = 0; /* would need a new group */
        v.len = (BATCH_RAW_MAX - raw) - 20;
        assert_int_equal(batch_writer_add(w, &c), ERR_TOOBIG);
        assert_int_equal(batch_writer_raw_bytes(w), raw);
        assert_int_equal(batch_writer_rows(w), 1);
        struct bytes *out = seal(w, (uint64_t)noise + 1, chain);
        batch_writer_clear(w);
        assert_true(noise ? out->len > len : out->len < len / 100);
        assert_int_equal(batch_verify(out->data, out->len, public_key, verified), 0);
        assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
        assert_int_equal(batch_reader_next(r, &c), 1);
        assert_int_equal(c.values->len, len);
        assert_memory_equal(c.values->p, photo, len);
        assert_int_equal(batch_reader_next(r, &c), 0);
        batch_reader_close(r);
        assert_int_equal(batch_reader_next(r, &c), ERR_CLOSED);
        bytes_unref(out);
    }
    free(photo);
    batch_reader_free(r);
    batch_writer_free(w);
}

/* Filled to the brim with small rows in many groups: the estimate never falls short of the truth (seal asserts it). */
static void test_raw_max(void **state) {
    (void)state;
    struct batch_writer *w = batch_writer_new();
    static char names_text[BATCH_COLUMNS_MAX][8];
    static const char *names[BATCH_COLUMNS_MAX];
    static size_t lens[BATCH_COLUMNS_MAX];
    static struct value values[BATCH_COLUMNS_MAX];
    for (uint32_t i = 0; i < BATCH_COLUMNS_MAX; i++) {
        lens[i] = (size_t)snprintf(names_text[i], sizeof names_text[i], "n%u", i);
        names[i] = names_text[i];
        values[i] = (struct value){.type = VALUE_INT, .as.i = (int64_t)(rnd() >> below(60))};
    }
    struct change c = {.columns = names, .columns_len = lens, .values = values};
    int rc = 0;
    char table[16];
    for (uint32_t i = 0; !rc; i++) {
        c.table = table;
        c.table_len = (size_t)snprintf(table, sizeof table, "t%u", below(200));
        c.columns_count = 1 + below(BATCH_COLUMNS_MAX);
        rc = batch_writer_add(w, &c);
    }
    assert_int_equal(rc, ERR_TOOBIG);
    c.columns_count = BATCH_COLUMNS_MAX + 1;
    assert_int_equal(batch_writer_add(w, &c), ERR_TOOBIG);
    assert_true(batch_writer_raw_bytes(w) > BATCH_RAW_MAX - (256u << 10));
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = seal(w, 1, chain);
    struct batch_reader *r = batch_reader_new();
    assert_int_equal(batch_reader_open(r, out->data, out->len), 0);
    uint32_t rows = 0;
    while ((rc = batch_reader_next(r, &c)) == 1)
        rows++;
    assert_int_equal(rc, 0);
    assert_int_equal(rows, batch_writer_rows(w));
    assert_true(batch_writer_raw_bytes(w) - batch_reader_head(r)->raw_bytes < batch_writer_raw_bytes(w) / 2);
    bytes_unref(out);
    batch_reader_free(r);
    batch_writer_free(w);
}

int main(void) {
    const char *given = getenv("STARLING_SEED");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec;
    seed = seed ? seed : 1;
    printf("STARLING_SEED=%llu\n", (unsigned long long)seed);
    crypto_sign_keypair(public_key, secret_key);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),  cmocka_unit_test(test_counting),      cmocka_unit_test(test_random),
        cmocka_unit_test(test_head),    cmocka_unit_test(test_reused_arrays), cmocka_unit_test(test_schema),
        cmocka_unit_test(test_chain),   cmocka_unit_test(test_rows_max),      cmocka_unit_test(test_big_value),
        cmocka_unit_test(test_raw_max),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
