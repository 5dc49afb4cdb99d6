/* Any bytes as an envelope, read to its end. What reads well is written again and must read the same. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/batch.h"
#include "proto/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t change_hash(const struct change *c) {
    uint64_t h = c->stamp * 31 + (uint64_t)c->kind * 7 + (uint64_t)c->ident.kind;
    h = h * 31 + (uint64_t)c->ident.number + c->ident.hash * 3 + c->ident.key_columns * 5 + c->ident.version * 7;
    h += value_hash(&(struct value){.type = VALUE_TEXT, .p = (const uint8_t *)c->table, .len = c->table_len});
    if (c->ident.key)
        h += value_hash(&(struct value){.type = VALUE_BLOB, .p = c->ident.key, .len = c->ident.key_len});
    for (uint32_t i = 0; i < c->columns_count; i++) {
        const uint8_t *name = (const uint8_t *)c->columns[i];
        h = h * 31 + value_hash(&(struct value){.type = VALUE_TEXT, .p = name, .len = c->columns_len[i]});
        h = h * 31 + value_hash(&c->values[i]);
    }
    return h * UINT64_C(0x9e3779b97f4a7c15);
}

/* The sum over all changes, since groups may come in another order; into w too, if there is one. */
static int read_all(const uint8_t *data, size_t size, struct batch_writer *w, struct batch_head *head, uint64_t *sum) {
    struct batch_reader *r = batch_reader_new();
    assert(r);
    int rc = batch_reader_open(r, data, size);
    struct change c;
    *sum = 0;
    while (!rc && (rc = batch_reader_next(r, &c)) == 1) {
        *sum += change_hash(&c);
        rc = w ? batch_writer_add(w, &c) : 0;
    }
    head->origin = batch_reader_head(r)->origin;
    head->version = batch_reader_head(r)->version;
    if (!rc && w && batch_reader_schema_count(r))
        rc = batch_writer_schema(w, batch_reader_schema(r, 0), batch_reader_schema_count(r));
    batch_reader_free(r);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct batch_writer *w = batch_writer_new();
    struct batch_head head = {0}, again = {0};
    uint64_t sum, sum_again;
    assert(w);
    if (!read_all(data, size, w, &head, &sum)) {
        const uint8_t secret[NODE_SECRET_BYTES] = {0};
        uint8_t chain[BATCH_CHAIN_BYTES] = {0};
        struct bytes *out = NULL;
        head.db = "x";
        head.db_len = 1;
        int rc = batch_seal(w, &head, secret, chain, &out);
        assert(!rc);
        rc = read_all(out->data, out->len, NULL, &again, &sum_again);
        assert(!rc && sum == sum_again);
        bytes_unref(out);
    }
    batch_writer_free(w);
    return 0;
}
