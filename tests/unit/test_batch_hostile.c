/* Batches from an enemy: cut off, corrupted, lying about their sizes. Nothing crashes (run with sanitizers), nothing large
 * is allocated for little bytes, nothing wrong passes as right. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <zstd.h>

#include "proto/batch.h"
#include "proto/err.h"

static uint8_t public_key[NODE_KEY_BYTES], secret_key[NODE_SECRET_BYTES];
static struct batch_reader *reader;

/* Reads everything; 0 when all was well-formed. Touches all bytes that are handed out. */
static int read_all(const uint8_t *data, size_t len) {
    struct change c;
    unsigned sum = 0;
    int r = batch_reader_open(reader, data, len);
    if (r)
        return r;
    for (uint32_t i = 0; i < batch_reader_schema_count(reader); i++) {
        const struct schema_item *item = batch_reader_schema(reader, i);
        for (size_t k = 0; item->sql && k < item->sql_len; k++)
            sum += (unsigned char)item->sql[k];
    }
    while ((r = batch_reader_next(reader, &c)) == 1) {
        for (size_t k = 0; k < c.table_len; k++)
            sum += (unsigned char)c.table[k];
        for (uint32_t i = 0; i < c.columns_count; i++) {
            for (size_t k = 0; k < c.columns_len[i]; k++)
                sum += (unsigned char)c.columns[i][k];
            for (size_t k = 0; c.values[i].type >= VALUE_TEXT && k < c.values[i].len; k++)
                sum += c.values[i].p[k];
        }
        for (size_t k = 0; c.ident.kind == IDENT_GIVEN && c.ident.key && k < c.ident.key_len; k++)
            sum += c.ident.key[k];
    }
    volatile unsigned keep = sum;
    (void)keep;
    return r;
}

/* A copy that ends exactly where the sanitizer watches. */
static int read_copy(const uint8_t *data, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, data, len);
    int r = read_all(copy, len);
    batch_reader_close(reader);
    free(copy);
    return r;
}

/* A small batch with everything in it. */
static struct bytes *small_batch(bool compressible) {
    struct batch_writer *w = batch_writer_new();
    static const char *const names[] = {"id", "name", "note"};
    static const size_t lens[] = {2, 4, 4};
    static const struct schema_item item = {.type = "table", .name = "t", .table = "t", .sql = "CREATE TABLE t(id)"};
    static uint8_t text[15][250];
    int count = compressible ? 15 : IDENT_KINDS; /* little but noise, so that compressing does not pay */
    memset(text, 'a', sizeof text);
    if (!compressible)
        randombytes_buf_deterministic(text, sizeof text, (const uint8_t[randombytes_SEEDBYTES]){1});
    batch_writer_schema(w, &item, 1);
    for (int i = 0; i < count; i++) {
        struct value values[] = {{.type = VALUE_INT, .as.i = 1000 + i},
                                 {.type = VALUE_TEXT, .p = text[i], .len = sizeof text[i]},
                                 {.type = i % 2 ? VALUE_NULL : VALUE_FLOAT, .as.f = i}};
        struct change c = {.kind = (enum change_kind)(i % 2),
                           .table = "team",
                           .table_len = 4,
                           .stamp = 1000 + (uint64_t)i,
                           .columns_count = 3,
                           .columns = names,
                           .columns_len = lens,
                           .values = values};
        c.ident = (struct ident){.kind = (enum ident_kind)(i % IDENT_KINDS), .number = i, .key_columns = 1, .hash = 9, .version = 3};
        if (i >= 10 && c.ident.kind == IDENT_GIVEN) {
            c.ident.key = (const uint8_t *)"key";
            c.ident.key_len = 3;
        }
        assert_int_equal(batch_writer_add(w, &c), 0);
    }
    struct batch_head head = {.version = 1, .db = "a.db", .db_len = 4};
    node_id_of_key(head.origin.node, public_key);
    vv_set(&head.after, &head.origin, 7);
    uint8_t chain[BATCH_CHAIN_BYTES] = {0};
    struct bytes *out = NULL;
    assert_int_equal(batch_seal(w, &head, secret_key, chain, &out), 0);
    vv_release(&head.after);
    batch_writer_free(w);
    struct batch_head got;
    assert_int_equal(batch_head_read(&got, out->data, out->len), 0);
    assert_true((got.flags & BATCH_ZSTD) == (compressible ? BATCH_ZSTD : 0));
    batch_head_release(&got);
    return out;
}

static void test_truncated(void **state) {
    (void)state;
    for (int zstd = 0; zstd < 2; zstd++) {
        struct bytes *b = small_batch(zstd);
        assert_int_equal(read_copy(b->data, b->len), 0);
        for (size_t len = 0; len < b->len; len++)
            assert_int_not_equal(read_copy(b->data, len), 0);
        struct bytes *longer = bytes_new(NULL, b->len + 1);
        memcpy(longer->data, b->data, b->len);
        longer->data[b->len] = 0;
        assert_int_not_equal(read_copy(longer->data, longer->len), 0);
        bytes_unref(longer);
        bytes_unref(b);
    }
}

static void test_corrupted(void **state) {
    (void)state;
    for (int zstd = 0; zstd < 2; zstd++) {
        struct bytes *b = small_batch(zstd);
        uint8_t chain[BATCH_CHAIN_BYTES] = {0};
        for (size_t at = 0; at < b->len; at++) {
            uint8_t right = b->data[at];
            for (unsigned wrong = 0; wrong < 256; wrong++) {
                b->data[at] = (uint8_t)wrong;
                read_copy(b->data, b->len);
                if (wrong == (right ^ 1u) || wrong == (right ^ 0x80u)) { /* verifying is slow: two of each */
                    assert_int_equal(batch_verify(b->data, b->len, public_key, chain), ERR_SIGNATURE);
                    assert_true(sodium_is_zero(chain, sizeof chain));
                }
            }
            b->data[at] = right;
        }
        assert_int_equal(batch_verify(b->data, b->len, public_key, chain), 0);
        bytes_unref(b);
    }
}

/* ---- envelopes made by hand */

struct fake {
    uint64_t format, flags, version, rows, raw;
    bool key;
    size_t db_len;
    const uint8_t *body;
    size_t body_len;
};

static void fake_envelope(struct buf *b, const struct fake *f) {
    static const uint8_t zeros[300];
    buf_clear(b);
    buf_pack_array(b, BATCH_HEAD_FIELDS);
    buf_pack_u64(b, f->format);
    buf_pack_u64(b, f->flags);
    buf_pack_bin(b, zeros, NODE_ID_BYTES);
    buf_pack_u64(b, 0);
    buf_pack_u64(b, f->version);
    buf_pack_str(b, (const char *)zeros, f->db_len);
    buf_pack_bin(b, zeros, BATCH_PREV_BYTES);
    if (f->key)
        buf_pack_bin(b, zeros, NODE_KEY_BYTES);
    else
        buf_pack_nil(b);
    buf_pack_array(b, 0);
    buf_pack_array(b, 0);
    buf_pack_u64(b, 0);
    buf_pack_u64(b, 0);
    buf_pack_u64(b, f->rows);
    buf_pack_u64(b, f->raw);
    buf_pack_bin(b, f->body, f->body_len);
    buf_append(b, zeros, BATCH_SIGNATURE_BYTES);
    assert_int_equal(b->failed, 0);
}

static int read_fake(struct fake f) {
    struct buf b;
    buf_init(&b, BATCH_BYTES_MAX + 4096);
    fake_envelope(&b, &f);
    int r = read_copy(b.data, b.len);
    buf_release(&b);
    return r;
}

static int read_body(const struct buf *body, uint32_t rows) {
    assert_int_equal(body->failed, 0);
    return read_fake((struct fake){1, 0, 2, rows, body->len, false, 4, body->data, body->len});
}

static const uint8_t empty_body[] = {0x90, 0x90, 0xc0, 0x00};

static void test_head_rules(void **state) {
    (void)state;
    const struct fake good = {1, 0, 2, 0, 4, false, 4, empty_body, 4};
    assert_int_equal(read_fake(good), 0);
    struct fake f = good;
    f.format = 2;
    assert_int_equal(read_fake(f), ERR_FORMAT);
    f = good;
    f.flags = 8;
    assert_int_equal(read_fake(f), ERR_FORMAT);
    f = good;
    f.flags = BATCH_PART;
    assert_int_equal(read_fake(f), 0);
    f.version = 0;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.version = 1; /* without its key */
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.key = true;
    assert_int_equal(read_fake(f), 0);
    f.version = 2; /* with a key */
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f = good;
    f.db_len = 0;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.db_len = BATCH_DB_NAME_MAX;
    assert_int_equal(read_fake(f), 0);
    f.db_len++;
    assert_int_equal(read_fake(f), ERR_TOOBIG);
    f = good;
    f.rows = 1;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.rows = BATCH_ROWS_MAX + 1;
    assert_int_equal(read_fake(f), ERR_TOOBIG);
    f = good;
    f.raw = 5; /* the body is shorter */
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.raw = BATCH_RAW_MAX + 1u;
    assert_int_equal(read_fake(f), ERR_TOOBIG);
    uint8_t *large = calloc(1, BATCH_BYTES_MAX + 1u);
    assert_int_equal(read_all(large, BATCH_BYTES_MAX + 1u), ERR_TOOBIG);
    free(large);
    uint8_t array[6 + BATCH_SIGNATURE_BYTES] = {0xdd, 0xff, 0xff, 0xff, 0xff};
    assert_int_not_equal(read_copy(array, sizeof array), 0);
}

static void test_frames(void **state) {
    (void)state;
    uint8_t zip[300], two[600];
    size_t len = ZSTD_compress(zip, sizeof zip, empty_body, sizeof empty_body, 1);
    struct fake f = {1, BATCH_ZSTD, 2, 0, 4, false, 4, zip, len};
    assert_int_equal(read_fake(f), 0);
    f.raw = 3;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.raw = 5;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    f.raw = 4;
    memcpy(two, zip, len); /* a second frame, of nothing or of more; a skippable one before */
    size_t more = ZSTD_compress(two + len, sizeof two - len, "", 0, 1);
    f.body = two;
    f.body_len = len + more;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    memcpy(two + len, zip, len);
    f.body_len = 2 * len;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    memcpy(two, "\x50\x2a\x4d\x18\0\0\0\0", 8);
    memcpy(two + 8, zip, len);
    f.body_len = len + 8;
    assert_int_equal(read_fake(f), ERR_MALFORMED);
    ZSTD_CCtx *c = ZSTD_createCCtx(); /* a frame that does not say how large it is */
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    f.body = zip;
    f.body_len = ZSTD_compress2(c, zip, sizeof zip, empty_body, sizeof empty_body);
    ZSTD_freeCCtx(c);
    assert_int_equal(read_fake(f), ERR_MALFORMED);
}

static long peak_kb(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* A few KiB that expand to a gigabyte, and some that only say so. */
static void test_zip_bomb(void **state) {
    (void)state;
    size_t raw = 1u << 30, max = 128u << 10, len = 0;
    uint8_t *zip = malloc(max), *zeros = calloc(1, 1u << 20);
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setPledgedSrcSize(c, raw);
    ZSTD_outBuffer out = {zip, max, 0};
    for (size_t i = 0; i < raw >> 20; i++) {
        ZSTD_inBuffer in = {zeros, 1u << 20, 0};
        len = ZSTD_compressStream2(c, &out, &in, i + 1 == raw >> 20 ? ZSTD_e_end : ZSTD_e_continue);
        assert_false(ZSTD_isError(len));
    }
    assert_int_equal(len, 0);
    ZSTD_freeCCtx(c);
    long before = peak_kb();
    struct fake f = {1, BATCH_ZSTD, 2, 0, raw, false, 4, zip, out.pos};
    assert_int_equal(read_fake(f), ERR_TOOBIG); /* honest about it */
    f.raw = BATCH_RAW_MAX;
    assert_int_equal(read_fake(f), ERR_MALFORMED); /* not */
    /* the frame's declared size patched to what the head says: single segment bit off, 4 bytes of size at 6 */
    uint8_t lie[] = {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 4, 0x01, 0, 0};
    f.body = lie;
    f.body_len = sizeof lie;
    assert_int_equal(read_fake(f), ERR_MALFORMED); /* says 64 MiB, holds nothing */
    assert_true(peak_kb() - before < 40 << 10);
    free(zip);
    free(zeros);
}

/* ---- bodies made by hand */

struct group {
    uint64_t kind, table, ident, column, rows;
    const char *stamps, *idents, *values;
    size_t stamps_len, idents_len, values_len;
};

static const struct group one_row = {0, 0, IDENT_GIVEN, 1, 1, "\x00", "\x01", "\x05", 1, 1, 1};

static void put_group(struct buf *b, const struct group *g) {
    buf_pack_array(b, BATCH_GROUP_FIELDS + 1);
    buf_pack_u64(b, g->kind);
    buf_pack_u64(b, g->table);
    buf_pack_u64(b, g->ident);
    buf_pack_array(b, 1);
    buf_pack_u64(b, g->column);
    buf_pack_u64(b, g->rows);
    buf_pack_bin(b, g->stamps, g->stamps_len);
    buf_pack_bin(b, g->idents, g->idents_len);
    buf_pack_bin(b, g->values, g->values_len);
}

static void put_lists(struct buf *b, uint32_t groups) {
    buf_clear(b);
    buf_pack_array(b, 0);
    buf_pack_array(b, 2);
    buf_pack_cstr(b, "t");
    buf_pack_cstr(b, "c");
    buf_pack_nil(b);
    buf_pack_u64(b, groups);
}

static int read_group(struct group g) {
    struct buf b;
    buf_init(&b, 4096);
    put_lists(&b, 1);
    put_group(&b, &g);
    int r = read_body(&b, 1);
    buf_release(&b);
    return r;
}

static void test_group_rules(void **state) {
    (void)state;
    assert_int_equal(read_group(one_row), 0);
    struct group g = one_row;
    for (g.kind = 0; g.kind < 300; g.kind++)
        assert_true((read_group(g) == 0) == (g.kind / BATCH_ORPHAN < 6 && g.kind % BATCH_ORPHAN < CHANGE_KINDS));
    g = one_row;
    g.table = 2;
    assert_int_equal(read_group(g), ERR_MALFORMED);
    g = one_row;
    g.column = 2;
    assert_int_equal(read_group(g), ERR_MALFORMED);
    g.column = UINT64_MAX;
    assert_int_not_equal(read_group(g), 0);
    g = one_row;
    g.ident = IDENT_KINDS;
    assert_int_not_equal(read_group(g), 0);
    for (uint64_t rows = 0; rows < 3; rows++) {
        g = one_row;
        g.rows = rows;
        assert_true((read_group(g) == 0) == (rows == 1));
    }
    g.rows = UINT32_MAX;
    assert_int_not_equal(read_group(g), 0);
    /* streams too short, too long, of a wrong type, cut within an object */
    static const struct {
        const char *bytes;
        size_t len;
    } wrong[] = {{"", 0},
                 {"\x01\x01", 2},
                 {"\x90", 1},
                 {"\xc7\x00\x00", 3},
                 {"\xd1\x01", 2},
                 {"\xa5"
                  "ab",
                  3},
                 {"\xc2", 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        g = one_row;
        g.stamps = wrong[i].bytes;
        g.stamps_len = wrong[i].len;
        assert_int_equal(read_group(g), ERR_MALFORMED);
        g = one_row;
        g.idents = wrong[i].bytes;
        g.idents_len = wrong[i].len;
        assert_int_equal(read_group(g), ERR_MALFORMED);
        g = one_row;
        g.values = wrong[i].bytes;
        g.values_len = wrong[i].len;
        assert_int_equal(read_group(g), ERR_MALFORMED);
    }
    g = one_row; /* an int above INT64_MAX is no value of SQLite's */
    g.values = "\xcf\xff\xff\xff\xff\xff\xff\xff\xff";
    g.values_len = 9;
    assert_int_equal(read_group(g), ERR_MALFORMED);
    g = one_row;
    g.ident = IDENT_GIVEN_COLS; /* one key column of one */
    assert_int_equal(read_group(g), 0);
    g.idents = "\x02";
    assert_int_not_equal(read_group(g), 0);
    g.idents = "\x00";
    assert_int_equal(read_group(g), ERR_MALFORMED);
    g = one_row;
    g.ident = IDENT_BORN; /* an origin that is not listed */
    g.idents = "\x01\x00\x01";
    g.idents_len = 3;
    assert_int_equal(read_group(g), ERR_MALFORMED);
}

static void test_body_rules(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    put_lists(&b, 1); /* a column twice */
    buf_pack_array(&b, BATCH_GROUP_FIELDS + 2);
    for (int i = 0; i < 3; i++)
        buf_pack_u64(&b, 0);
    buf_pack_array(&b, 2);
    buf_pack_u64(&b, 1);
    buf_pack_u64(&b, 1);
    buf_pack_u64(&b, 1);
    for (int i = 0; i < 4; i++)
        buf_pack_bin(&b, "\x01", 1);
    assert_int_equal(read_body(&b, 1), ERR_MALFORMED);
    for (uint32_t said = 0; said < 4; said++) { /* two groups, whatever the count says */
        put_lists(&b, said);
        put_group(&b, &one_row);
        put_group(&b, &one_row);
        assert_true((read_body(&b, 2) == 0) == (said == 2));
    }
    put_lists(&b, 2);
    put_group(&b, &one_row);
    put_group(&b, &one_row);
    assert_int_equal(read_body(&b, 1), ERR_MALFORMED); /* rows beyond the head's */
    assert_int_equal(read_body(&b, 3), ERR_MALFORMED); /* rows missing */
    put_lists(&b, 60000);                              /* groups, rows, names, origins, schema, columns without end */
    assert_int_not_equal(read_body(&b, 2), 0);
    static const char *const bombs[] = {
        "\xdd\xff\xff\xff\xff\x90", "\xdc\x10\x00\x90\x90\x90", "\x90\xdd\xff\xff\xff\xff", "\x90\xdd\x00\x01\x00\x00",
        "\x90\x90\xdd\xff\xff\xff", "\x90\x90\xdc\xff\xff\x90", "\x90\x90\xc0\xce\xff\xff", "\x90\x90\xc0\xcd\xc3\x50",
    };
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        buf_clear(&b);
        buf_append(&b, bombs[i], 6);
        for (int k = 0; k < 60; k++)
            buf_append(&b, "\x00", 1);
        assert_int_not_equal(read_body(&b, 1), 0);
    }
    buf_release(&b);
}

int main(void) {
    crypto_sign_keypair(public_key, secret_key);
    reader = batch_reader_new();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncated),  cmocka_unit_test(test_corrupted), cmocka_unit_test(test_head_rules),
        cmocka_unit_test(test_frames),     cmocka_unit_test(test_zip_bomb),  cmocka_unit_test(test_group_rules),
        cmocka_unit_test(test_body_rules),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    batch_reader_free(reader);
    return failed;
}
