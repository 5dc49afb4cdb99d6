/* For the tests of the store: an origin whose batches are written by hand, signed and chained as they should be. */
#ifndef TESTS_UNIT_STORE_FORGE_H
#define TESTS_UNIT_STORE_FORGE_H

#include "store_rig.h"

struct forge {
    uint8_t key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES], chain[BATCH_CHAIN_BYTES];
    struct origin origin;
    uint64_t version;
    struct batch_writer *writer;
};

static inline void forge_init(struct forge *f, uint32_t seed) {
    uint8_t from[crypto_sign_SEEDBYTES] = {0x77};
    memset(f, 0, sizeof *f);
    memcpy(from + 1, &seed, sizeof seed);
    crypto_sign_seed_keypair(f->key, f->secret, from);
    node_id_of_key(f->origin.node, f->key);
    f->writer = batch_writer_new();
    assert_non_null(f->writer);
}

static inline void forge_release(struct forge *f) { batch_writer_free(f->writer); }

/* What was written becomes the next version. The caller unrefs. */
static inline struct bytes *forge_seal(struct forge *f, unsigned flags) {
    struct batch_head head = {.origin = f->origin,
                              .version = ++f->version,
                              .flags = flags,
                              .db = SIDE_DB_NAME,
                              .db_len = strlen(SIDE_DB_NAME),
                              .stamp = hlc_of_ms(1)};
    struct bytes *out;
    assert_int_equal(batch_seal(f->writer, &head, f->secret, f->chain, &out), 0);
    batch_writer_clear(f->writer);
    return out;
}

static inline void forge_give(struct forge *f, struct peer *to) {
    struct bytes *b = forge_seal(f, 0);
    store_deliver(to->s.store, b);
    bytes_unref(b);
    peer_rest(to);
}

static inline struct value forge_int(int64_t i) { return (struct value){.type = VALUE_INT, .as.i = i}; }
static inline struct value forge_text(const char *text) {
    return (struct value){.type = VALUE_TEXT, .p = (const uint8_t *)text, .len = strlen(text)};
}

/* One change to a row with up to 4 columns, named by a list that NULL ends. */
static inline void forge_change(struct forge *f, enum change_kind kind, const char *table, struct ident ident, const char *const *columns,
                                const struct value *values) {
    size_t lens[4];
    uint32_t n = 0;
    for (; columns && columns[n]; n++)
        lens[n] = strlen(columns[n]);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    struct change c = {.kind = kind,
                       .table = table,
                       .table_len = strlen(table),
                       .stamp = hlc_of_ms((uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000) + f->version,
                       .ident = ident,
                       .columns_count = n,
                       .columns = columns,
                       .columns_len = lens,
                       .values = values};
    assert_int_equal(batch_writer_add(f->writer, &c), 0);
}

static inline struct ident forge_number(int64_t number) { return (struct ident){.kind = IDENT_GIVEN, .number = number}; }

static inline void forge_schema(struct forge *f, const char *const (*items)[3], uint32_t count) {
    struct schema_item list[64] = {{0}};
    assert_true(count <= 64);
    for (uint32_t i = 0; i < count; i++)
        list[i] = (struct schema_item){.type = items[i][0], .name = items[i][1], .table = items[i][1], .sql = items[i][2]};
    assert_int_equal(batch_writer_schema(f->writer, list, count), 0);
}

#endif
