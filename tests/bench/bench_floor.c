/* Starling bench: what this machine can do at best, beside which the other figures are read.
 *
 *   bench_floor FOLDER ROWS
 * Plain SQLite: inserts in one transaction, in transactions of 1, 10, 100, 1000 rows, one-column updates by key; fdatasync of 4 KiB;
 * Ed25519; zstd and BLAKE2b on ROWS rows packed one after the other with msgpack, and what zstd -3 makes of them. */
#include <fcntl.h>
#include <inttypes.h>
#include <msgpack.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/bench/bench.h"

static void pack_text(msgpack_packer *p, const char *text) {
    size_t len = strlen(text);
    msgpack_pack_str(p, len);
    msgpack_pack_str_body(p, text, len);
}

static void pack_row(msgpack_packer *p, int64_t id, const struct bench_row *r) {
    msgpack_pack_array(p, 9);
    msgpack_pack_int64(p, id);
    pack_text(p, r->team);
    pack_text(p, r->scout);
    pack_text(p, r->event);
    msgpack_pack_int64(p, r->match);
    msgpack_pack_int64(p, r->score);
    pack_text(p, r->created);
    pack_text(p, r->updated);
    pack_text(p, r->data);
}

static double per_second(uint64_t count, uint64_t start) { return (double)count / ((double)(bench_ns() - start) / 1e9); }

static double raw_insert(const char *folder, const struct bench_row *rows, uint64_t count, uint64_t per_tx) {
    static unsigned number;
    char path[4096];
    snprintf(path, sizeof path, "%s/raw%u.db", folder, number++);
    struct bench_writer w;
    bench_writer_open(&w, path, false);
    uint64_t start = bench_ns();
    bench_insert(&w, rows, count, per_tx);
    double rate = per_second(count, start);
    bench_writer_close(&w);
    return rate;
}

static double raw_update(const char *folder, const struct bench_row *rows, uint64_t count) {
    char path[4096];
    snprintf(path, sizeof path, "%s/updated.db", folder);
    struct bench_writer w;
    bench_writer_open(&w, path, false);
    bench_insert(&w, rows, count, count + 1);
    uint64_t start = bench_ns();
    bench_update(&w, 1, count, count, count + 1, NULL);
    double rate = per_second(count, start);
    bench_writer_close(&w);
    return rate;
}

static void sync_times(const char *folder) {
    char path[4096], page[4096];
    snprintf(path, sizeof path, "%s/sync", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        bench_die("%s: cannot be made", path);
    }
    memset(page, 7, sizeof page);
    struct samples s = {0};
    for (int i = 0; i < 1000; i++) {
        uint64_t start = bench_ns();
        if (pwrite(fd, page, sizeof page, (off_t)(i % 1000) * 4096) != (ssize_t)sizeof page || fdatasync(fd) != 0) {
            bench_die("%s: cannot be written", path);
        }
        samples_add(&s, (double)(bench_ns() - start) / 1e3);
    }
    close(fd);
    printf(",\"fdatasync_p50_us\":%.0f,\"fdatasync_p99_us\":%.0f", samples_at(&s, 0.5), samples_at(&s, 0.99));
    samples_release(&s);
}

static void signatures(void) {
    unsigned char key[32], secret[64], signature[64], message[32] = {1};
    crypto_sign_keypair(key, secret);
    uint64_t start = bench_ns();
    for (int i = 0; i < 1000; i++) {
        message[1] = (unsigned char)i;
        crypto_sign_detached(signature, NULL, message, sizeof message, secret);
    }
    uint64_t signed_at = bench_ns();
    for (int i = 0; i < 1000; i++) {
        if (crypto_sign_verify_detached(signature, message, sizeof message, key) != 0) {
            bench_die("a signature does not verify");
        }
    }
    printf(",\"sign_us\":%.1f,\"verify_us\":%.1f", (double)(signed_at - start) / 1e6, (double)(bench_ns() - signed_at) / 1e6);
}

static void packed(const struct bench_row *rows, uint64_t count) {
    msgpack_sbuffer raw;
    msgpack_sbuffer_init(&raw);
    msgpack_packer packer;
    msgpack_packer_init(&packer, &raw, msgpack_sbuffer_write);
    for (uint64_t i = 0; i < count; i++) {
        pack_row(&packer, (int64_t)i + 1, &rows[i]);
    }
    printf(",\"raw_bytes_row\":%.1f", (double)raw.size / (double)count);
    size_t room = ZSTD_compressBound(raw.size);
    char *out = malloc(room);
    if (out == NULL) {
        bench_die("out of memory");
    }
    for (int level = 1; level <= 3; level += 2) {
        uint64_t start = bench_ns();
        size_t size = ZSTD_compress(out, room, raw.data, raw.size, level);
        double megabytes = per_second(raw.size, start) / 1e6;
        printf(",\"zstd%d_bytes_row\":%.1f,\"zstd%d_mb_s\":%.0f", level, (double)size / (double)count, level, megabytes);
    }
    unsigned char hash[32];
    uint64_t start = bench_ns();
    crypto_generichash(hash, sizeof hash, (const unsigned char *)raw.data, raw.size, NULL, 0);
    printf(",\"blake2b_mb_s\":%.0f", per_second(raw.size, start) / 1e6);
    free(out);
    msgpack_sbuffer_destroy(&raw);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        bench_die("usage: FOLDER ROWS");
    }
    if (sodium_init() < 0) {
        bench_die("libsodium does not start");
    }
    uint64_t count = (uint64_t)bench_number(argv[2], 1000, 10000000);
    struct bench_row *rows = bench_rows(0, count);
    printf("{\"insert_1\":%.0f", raw_insert(argv[1], rows, count / 10, 1));
    printf(",\"insert_10\":%.0f", raw_insert(argv[1], rows, count / 2, 10));
    printf(",\"insert_100\":%.0f", raw_insert(argv[1], rows, count, 100));
    printf(",\"insert_1000\":%.0f", raw_insert(argv[1], rows, count, 1000));
    printf(",\"insert_all\":%.0f", raw_insert(argv[1], rows, count, count + 1));
    printf(",\"update_all\":%.0f", raw_update(argv[1], rows, count));
    sync_times(argv[1]);
    signatures();
    packed(rows, count);
    printf("}\n");
    free(rows);
    return 0;
}
