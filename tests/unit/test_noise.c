/* Secure links: the handshake against published vectors, then whole links: secrets, who it is, and what somebody on the line can do. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"
#include "proto/noise.h"
#include "proto/secure.h"

/* ---- vectors */

struct vector {
    const char *prologue, *psk, *keys[4]; /* static and ephemeral of the dialler, then of the other */
    const char *hash;
    struct {
        const char *payload, *message;
    } messages[6];
};

static const struct vector vectors[] = {
    {"4a6f686e2047616c74", /* cacophony, Noise_XX_25519_ChaChaPoly_BLAKE2b */
     NULL,
     {"e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
      "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
      "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
      "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"},
     "8cf47d7b3cb5804c0109d48e8bcdbee2cbb65687d8ea2c92994ca361fb86151ad93627b98936cbb32de56e8abb21def3925011ac3e35db9cbeea73ab9a4392c2",
     {{"4c756477696720766f6e204d69736573",
       "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573"},
      {"4d757272617920526f746862617264",
       "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088430505b6745ce64a5f33f0e8e3b83f11ce8802bca507f4f2d8b564dbe277e1966116"
       "e132faa2dfd70b8b077b9f94b913df5056ae1319469b824a98d54bbaa82c325595587064f978c4b6d104f7596e6f"},
      {"462e20412e20486179656b", "99579e1c1ee15e422a57ddd6b16d37087b17558e8369c18991b4b2ca3a824abf904cdcf5458b5431a75af034ca9e9b982de039eaa"
                                 "f156775e2d580cd4e5ebae89c3f8cb2594b556d8a8169"},
      {"4361726c204d656e676572", "fc56eea290b3f3a21aac0c70cd5787b5ee99be37d2f4d751329b55"},
      {"4a65616e2d426170746973746520536179", "bb31c9da10d5639a4cdb88a12f5c61de41bbc7df09bf75d94f8184fe4157f5c68f"},
      {"457567656e2042f6686d20766f6e2042617765726b", "f6199cadb152fb27f82be0a0891ec76a33598ae92a46cab2fb5a8ed5bf48b7f267f8370af7"}}},
    {"6e6f74736563726574", /* flynn/noise, Noise_XXpsk0_25519_ChaChaPoly_BLAKE2b */
     "2176657279736563726574766572797365637265747665727973656372657421",
     {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
      "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
      "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
      "4142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60"},
     NULL,
     {{"746573745f6d73675f30",
       "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd1662541fe2db7a97bbe9c0027b1f62071910cfd2266573bb14a7de4342"},
      {"746573745f6d73675f31",
       "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466def8302a4ce14b6d8679764f5605d198853b8968688d7432e591c0371dbd9c27c0"
       "e397d4a328006c00af1dc428f95bc55c032641bc1cdaccd5aae41c3d70b1d39ac256cf6c07a7430831"},
      {"746573745f6d73675f32", "7ae518aa6a3882fac6b6d6fcd88954cccf404ea1aa2a075d533916de39720ebb1eaeb854d104e73a1406c7ff4ad6beed519efda7f74"
                               "013ae060269ba43ed1a294c9c44cff50595ad1324"},
      {"79656c6c6f777375626d6172696e65", "fd0638db68611323934a1dc1c26175ddc9abfbf887629ce59b4303156bcaa1"},
      {"7375626d6172696e6579656c6c6f77", "3d9c9f74481ef29d381234288ecb1d26afa997692fff8407cbf6da726a5725"}}},
    {"", /* the same without prologue and payloads */
     "2176657279736563726574766572797365637265747665727973656372657421",
     {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
      "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
      "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
      "4142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60"},
     NULL,
     {{"", "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254e89ad728d1b3555e8affba774c455ecf"},
      {"",
       "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466def8302a4ce14b6d8679764f5605d198853b8968688d7432e591c0371dbd9c27"
       "1e7509b3366c251d193c2b6173162f24bfb214c9912e36dbc2bebcd0c5a41310"},
      {"", "7ae518aa6a3882fac6b6d6fcd88954cccf404ea1aa2a075d533916de39720ebbd5a2fc7c5df275e6d9ac02a752f651f67f737345e8c1310db32861d8fb0233f"
           "9"}}},
};

static size_t unhex(const char *hex, uint8_t *out, size_t max) {
    size_t len = 0;
    assert_int_equal(sodium_hex2bin(out, max, hex, strlen(hex), NULL, &len, NULL), 0);
    return len;
}

/* Messages behind the handshake, as the specification has them: the dialler's keys and the other's take turns. */
static void check_transport(const struct noise *n, const struct vector *v) {
    uint8_t keys[2][NOISE_KEY_BYTES], plain[64], wanted[128], got[128];
    noise_split(n, keys[0], keys[1]);
    for (unsigned i = 3; i < 6 && v->messages[i].message; i++) {
        uint8_t nonce[12] = {0, 0, 0, 0, (uint8_t)((i - 3) / 2)};
        size_t len = unhex(v->messages[i].payload, plain, sizeof plain);
        size_t wanted_len = unhex(v->messages[i].message, wanted, sizeof wanted);
        crypto_aead_chacha20poly1305_ietf_encrypt(got, NULL, plain, len, NULL, 0, NULL, nonce, keys[(i - 3 + (v->hash ? 1 : 0)) % 2]);
        assert_int_equal(wanted_len, len + 16);
        assert_memory_equal(got, wanted, wanted_len);
    }
}

static void published_vectors_pass(void **state) {
    (void)state;
    for (unsigned at = 0; at < sizeof vectors / sizeof vectors[0]; at++) {
        const struct vector *v = &vectors[at];
        uint8_t keys[4][32], psk[32], prologue[64], payload[256], wanted[512], message[NOISE_MESSAGE_MAX], got[NOISE_PAYLOAD_MAX];
        for (unsigned i = 0; i < 4; i++)
            unhex(v->keys[i], keys[i], 32);
        if (v->psk)
            unhex(v->psk, psk, sizeof psk);
        size_t prologue_len = unhex(v->prologue, prologue, sizeof prologue);
        struct noise ends[2];
        for (unsigned i = 0; i < 2; i++) {
            struct noise_pair own;
            memcpy(own.secret, keys[2 * i], sizeof own.secret);
            crypto_scalarmult_base(own.public, own.secret);
            noise_init(&ends[i], i == 0, v->psk ? psk : NULL, &own, keys[2 * i + 1], prologue, prologue_len);
        }
        for (unsigned i = 0; i < 3; i++) {
            size_t len = unhex(v->messages[i].payload, payload, sizeof payload), message_len, got_len;
            size_t wanted_len = unhex(v->messages[i].message, wanted, sizeof wanted);
            assert_false(noise_done(&ends[i % 2]));
            assert_int_equal(noise_write(&ends[i % 2], payload, len, message, &message_len), 0);
            assert_int_equal(message_len, wanted_len);
            assert_memory_equal(message, wanted, wanted_len);
            assert_int_equal(noise_read(&ends[!(i % 2)], message, message_len, got, &got_len), 0);
            assert_int_equal(got_len, len);
            assert_memory_equal(got, payload, len);
        }
        assert_true(noise_done(&ends[0]) && noise_done(&ends[1]));
        assert_memory_equal(ends[0].hash, ends[1].hash, NOISE_HASH_BYTES);
        if (v->hash) {
            unhex(v->hash, wanted, sizeof wanted);
            assert_memory_equal(ends[0].hash, wanted, NOISE_HASH_BYTES);
        }
        assert_memory_equal(ends[0].their, ends[1].own.public, NOISE_KEY_BYTES);
        check_transport(&ends[0], v);
        check_transport(&ends[1], v);
    }
}

/* ---- two ends of a link */

struct ends {
    struct secure_keys keys[2];
    struct secure link[2];
    struct buf out[2]; /* written by that end */
    int said[2];       /* what secure_shake returned last */
};

static void secret_set(struct secure_keys *k, unsigned i, int psk) {
    k->secrets[i] = (struct secure_secret){.closed = psk != 0};
    memset(k->secrets[i].psk, psk, SECURE_SECRET_BYTES);
    k->secrets_count = i + 1;
}

static void keys_make(struct secure_keys *k, uint8_t who) {
    uint8_t seed[32] = {who}, key[NODE_KEY_BYTES], secret[NODE_SECRET_BYTES];
    crypto_sign_seed_keypair(key, secret, seed);
    secure_keys_init(k, key, secret);
}

static void ends_init(struct ends *e, int dialler_psk, int other_psk) {
    memset(e, 0, sizeof *e);
    for (unsigned i = 0; i < 2; i++) {
        keys_make(&e->keys[i], (uint8_t)(i + 1));
        secret_set(&e->keys[i], 0, i == 0 ? dialler_psk : other_psk);
        buf_init(&e->out[i], 1 << 20);
    }
}

static void ends_start(struct ends *e) {
    for (unsigned i = 0; i < 2; i++) {
        uint8_t random[SECURE_RANDOM_BYTES];
        memset(random, 17 + (int)i, sizeof random);
        random[NOISE_KEY_BYTES] = 99; /* the second ephemeral key is another */
        secure_init(&e->link[i], &e->keys[i], i == 0, random, &e->out[i]);
    }
}

static void ends_release(struct ends *e) {
    for (unsigned i = 0; i < 2; i++) {
        secure_release(&e->link[i]);
        buf_release(&e->out[i]);
    }
}

/* What `from` wrote goes to the other end, in pieces of `piece` bytes; byte `spoil` of it (from 1) is changed on the way. */
static void pass(struct ends *e, unsigned from, size_t piece, size_t spoil) {
    struct buf way = e->out[from];
    buf_init(&e->out[from], 1 << 20);
    if (spoil > 0 && spoil <= way.len)
        way.data[spoil - 1] ^= 0x40;
    for (size_t at = 0; at < way.len && e->link[!from].state < SECURE_OPEN;) {
        const uint8_t *data = way.data + at;
        size_t len = piece < way.len - at ? piece : way.len - at, before = len;
        e->said[!from] = secure_shake(&e->link[!from], &e->keys[!from], &data, &len, &e->out[!from]);
        at += before - len;
        assert_true(e->said[!from] != 0 || len == 0);
    }
    buf_release(&way);
}

static void shake(struct ends *e, size_t piece) {
    ends_start(e);
    for (unsigned i = 0; i < 8; i++)
        pass(e, i % 2, piece, 0);
}

static void a_connection_says_what_it_is_for(void **state) {
    (void)state;
    for (int content = 0; content < 2; content++) {
        struct ends e;
        ends_init(&e, 0, 0);
        ends_start(&e);
        e.link[0].purpose = content ? SECURE_CONTENT : SECURE_LINK;
        for (unsigned i = 0; i < 4; i++)
            pass(&e, i % 2, 1000, 0);
        assert_int_equal(e.link[1].state, SECURE_OPEN);
        assert_int_equal(e.link[1].purpose, e.link[0].purpose);
        ends_release(&e);
    }
    struct ends e; /* of a purpose that nobody knows */
    ends_init(&e, 0, 0);
    ends_start(&e);
    e.link[0].purpose = SECURE_PURPOSES;
    for (unsigned i = 0; i < 4; i++)
        pass(&e, i % 2, 1000, 0);
    assert_int_equal(e.link[1].state, SECURE_FAILED);
    ends_release(&e);
}

static void links_open_and_know_who(void **state) {
    (void)state;
    for (int psk = 0; psk < 2; psk++)
        for (size_t piece = 1; piece < 300; piece += 149) {
            struct ends e;
            ends_init(&e, psk, psk);
            shake(&e, piece);
            for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(e.said[i], 1);
                assert_int_equal(e.link[i].state, SECURE_OPEN);
                assert_memory_equal(e.link[i].peer, e.keys[!i].key, NODE_KEY_BYTES);
                assert_null(secure_why(&e.link[i]));
            }
            ends_release(&e);
        }
}

static void other_secrets_are_refused_on_both_sides(void **state) {
    (void)state;
    static const struct {
        int dialler, other;
        enum secure_reason reason;
    } cases[] = {{1, 2, SECURE_OTHER_SECRET}, {0, 1, SECURE_NEEDS_SECRET}, {1, 0, SECURE_HAS_SECRET}};
    for (unsigned i = 0; i < 3; i++) {
        struct ends e;
        ends_init(&e, cases[i].dialler, cases[i].other);
        shake(&e, 1000);
        assert_int_equal(e.link[0].state, SECURE_FAILED);
        assert_true(e.link[0].refused);
        assert_int_equal(e.link[0].reason, cases[i].reason);
        assert_int_equal(e.link[1].state, SECURE_FIRST); /* waits for another secret; the line is closed meanwhile */
        assert_int_equal(e.link[1].reason, cases[i].reason);
        assert_non_null(secure_why(&e.link[1]));
        ends_release(&e);
    }
}

/* While secrets change, each side may have the old, the new, or both in either order. */
static void changing_secrets_meet(void **state) {
    (void)state;
    static const int sets[][2] = {{1, 1}, {2, 2}, {2, 1}, {1, 2}, {0, 0}, {2, 0}, {0, 2}};
    for (unsigned a = 0; a < 7; a++)
        for (unsigned b = 0; b < 7; b++) {
            struct ends e;
            ends_init(&e, sets[a][0], sets[b][0]);
            if (sets[a][1] != sets[a][0])
                secret_set(&e.keys[0], 1, sets[a][1]);
            if (sets[b][1] != sets[b][0])
                secret_set(&e.keys[1], 1, sets[b][1]);
            bool common = false;
            for (unsigned i = 0; i < 4; i++)
                common = common || sets[a][i / 2] == sets[b][i % 2];
            shake(&e, 1000);
            assert_int_equal(e.link[0].state == SECURE_OPEN, common);
            assert_int_equal(e.link[1].state == SECURE_OPEN, common);
            ends_release(&e);
        }
}

/* Any byte of any message changed: at least one side notices, and it does not open. */
static void a_changed_handshake_does_not_open(void **state) {
    (void)state;
    for (int psk = 0; psk < 2; psk++)
        for (unsigned message = 0; message < 3; message++)
            for (size_t spoil = 1; spoil <= 200; spoil++) {
                struct ends e;
                ends_init(&e, psk, psk);
                ends_start(&e);
                size_t len = 0;
                for (unsigned i = 0; i < 3; i++) {
                    len = i == message ? e.out[i % 2].len : len;
                    pass(&e, i % 2, 1000, i == message ? spoil : 0);
                }
                if (spoil <= len) {
                    bool open = e.link[0].state == SECURE_OPEN && e.link[1].state == SECURE_OPEN;
                    if (open)
                        print_error("psk %d, message %u, byte %zu of %zu\n", psk, message, spoil, len);
                    assert_false(open);
                }
                ends_release(&e);
            }
}

/* Who has A's name on his lips needs A's key: another Ed25519 key in the payload than the exchange was made with. */
static void posing_as_another_does_not_open(void **state) {
    (void)state;
    for (unsigned liar = 0; liar < 2; liar++) {
        struct ends e;
        struct secure_keys victim;
        ends_init(&e, 0, 0);
        keys_make(&victim, 7);
        memcpy(e.keys[liar].key, victim.key, sizeof victim.key);
        shake(&e, 1000);
        assert_int_equal(e.link[!liar].state, SECURE_FAILED);
        assert_int_equal(e.link[!liar].reason, SECURE_BROKEN);
        ends_release(&e);
    }
}

static void garbage_and_other_versions(void **state) {
    (void)state;
    static const char *const garbage[] = {"GET / HTTP/1.1\r\n", "\0\0\1\0aaaaaaaaa", "starlin:", "\x16\3\1"};
    for (unsigned i = 0; i < 4; i++)
        for (unsigned end = 0; end < 2; end++) {
            struct ends e;
            ends_init(&e, 0, 0);
            ends_start(&e);
            const uint8_t *data = (const uint8_t *)garbage[i];
            size_t len = i == 1 ? 12 : strlen(garbage[i]);
            assert_int_equal(secure_shake(&e.link[end], &e.keys[end], &data, &len, &e.out[end]), ERR_MALFORMED);
            assert_int_equal(e.link[end].reason, SECURE_GARBAGE);
            ends_release(&e);
        }
    struct ends e;
    ends_init(&e, 0, 0);
    ends_start(&e);
    e.out[0].data[8] = 9;
    pass(&e, 0, 1000, 0);
    assert_int_equal(e.link[1].reason, SECURE_OTHER_VERSION);
    pass(&e, 1, 1000, 0);
    assert_int_equal(e.link[0].reason, SECURE_OTHER_VERSION);
    assert_true(e.link[0].refused && !e.link[1].refused);
    ends_release(&e);
}

static void a_stranger_gets_nothing_for_much(void **state) {
    (void)state;
    struct ends e;
    ends_init(&e, 1, 2);
    ends_start(&e);
    uint8_t first[512];
    size_t first_len = e.out[0].len;
    memcpy(first, e.out[0].data, first_len);
    pass(&e, 0, 1000, 0);
    const uint8_t *data = first + SECURE_PREAMBLE_BYTES;
    size_t len = first_len - SECURE_PREAMBLE_BYTES;
    assert_int_equal(secure_shake(&e.link[1], &e.keys[1], &data, &len, &e.out[1]), ERR_DENIED); /* no third guess */
    assert_int_equal(e.link[1].state, SECURE_FAILED);
    assert_true(e.out[1].len < 20); /* and not a word of who we are */
    ends_release(&e);

    ends_init(&e, 0, 0);
    ends_start(&e);
    static const uint8_t huge[] = {'s', 't', 'a', 'r', 'l', 'i', 'n', 'g', 1, 1, 0xff, 0xff};
    data = huge;
    len = sizeof huge;
    assert_int_equal(secure_shake(&e.link[1], &e.keys[1], &data, &len, &e.out[1]), ERR_TOOBIG);
    ends_release(&e);
}

/* ---- records */

static int take(struct secure *s, const uint8_t *record, size_t len, uint8_t *plain, size_t *plain_len) {
    return secure_open(s, &record, &len, plain, plain_len);
}

static void records_keep_their_order(void **state) {
    (void)state;
    struct ends e;
    static uint8_t record[4][SECURE_RECORD_MAX + SECURE_RECORD_EXTRA], plain[SECURE_RECORD_MAX], got[SECURE_RECORD_MAX];
    size_t len[4], got_len;
    memset(plain, 'p', sizeof plain);
    enum { REPLAYED, SWAPPED, MISSING, CHANGED, CUT, REFLECTED, AFTER_THE_LAST, CASES };
    for (int what = 0; what < CASES; what++) {
        ends_init(&e, 1, 1);
        shake(&e, 1000);
        struct secure *a = &e.link[0], *b = &e.link[1];
        for (unsigned i = 0; i < 3; i++)
            len[i] = secure_seal(a, plain, 10 + i, false, record[i]);
        len[3] = secure_seal(a, plain, 0, true, record[3]);
        assert_int_equal(take(b, record[0], len[0], got, &got_len), 1);
        assert_int_equal(got_len, 10);
        int r = 0;
        switch (what) {
        case REPLAYED: r = take(b, record[0], len[0], got, &got_len); break;
        case SWAPPED: r = take(b, record[2], len[2], got, &got_len); break;
        case MISSING: r = take(b, record[3], len[3], got, &got_len); break;
        case CHANGED:
            record[1][len[1] - 1] ^= 1;
            r = take(b, record[1], len[1], got, &got_len);
            break;
        case CUT: /* the line ends amid it: nothing comes, and the stream was not finished */
            assert_int_equal(take(b, record[1], len[1] - 1, got, &got_len), 0);
            assert_false(b->finished);
            r = ERR_SIGNATURE;
            break;
        case REFLECTED: r = take(a, record[0], len[0], got, &got_len); break;
        default:
            for (unsigned i = 1; i < 4; i++)
                assert_int_equal(take(b, record[i], len[i], got, &got_len), 1);
            assert_true(b->finished);
            len[0] = secure_seal(a, plain, 5, false, record[0]); /* who made the end may not go on, either */
            r = take(b, record[0], len[0], got, &got_len);
        }
        assert_int_equal(r, ERR_SIGNATURE);
        ends_release(&e);
    }
}

static void records_of_any_size_in_any_pieces(void **state) {
    (void)state;
    struct ends e;
    static uint8_t stream[8 * (SECURE_RECORD_MAX + SECURE_RECORD_EXTRA)], plain[SECURE_RECORD_MAX], got[SECURE_RECORD_MAX];
    static const size_t sizes[] = {0, 1, 17, 4096, SECURE_RECORD_MAX - 1, SECURE_RECORD_MAX};
    for (unsigned i = 0; i < sizeof plain; i++)
        plain[i] = (uint8_t)(i * 7);
    for (size_t piece = 1; piece < sizeof stream; piece = piece * 3 + 1) {
        ends_init(&e, 0, 0);
        shake(&e, 1000);
        size_t len = 0, got_len;
        unsigned seen = 0;
        for (unsigned i = 0; i < 6; i++)
            len += secure_seal(&e.link[1], plain, sizes[i], false, stream + len);
        for (size_t at = 0; at < len;) {
            const uint8_t *data = stream + at;
            size_t left = piece < len - at ? piece : len - at, before = left;
            int r;
            while ((r = secure_open(&e.link[0], &data, &left, got, &got_len)) == 1) {
                assert_int_equal(got_len, sizes[seen]);
                assert_memory_equal(got, plain, got_len);
                seen++;
            }
            assert_int_equal(r, 0);
            assert_int_equal(left, 0);
            at += before;
        }
        assert_int_equal(seen, 6);
        ends_release(&e);
    }
    static const uint8_t huge[] = {0xff, 0xff, 0};
    size_t got_len;
    ends_init(&e, 0, 0);
    shake(&e, 1000);
    assert_int_equal(take(&e.link[0], huge, sizeof huge, got, &got_len), ERR_TOOBIG);
    ends_release(&e);
}

static void keys_are_renewed(void **state) {
    (void)state;
    struct ends e;
    uint8_t record[64], got[SECURE_RECORD_MAX], before[crypto_secretstream_xchacha20poly1305_KEYBYTES];
    size_t got_len;
    ends_init(&e, 0, 0);
    shake(&e, 1000);
    memcpy(before, e.link[0].push.k, sizeof before);
    for (unsigned i = 1; i <= SECURE_REKEY_RECORDS + 3; i++) {
        size_t len = secure_seal(&e.link[0], (const uint8_t *)&i, sizeof i, false, record);
        assert_int_equal(take(&e.link[1], record, len, got, &got_len), 1);
        assert_memory_equal(got, &i, sizeof i);
        if (i == SECURE_REKEY_RECORDS - 1)
            assert_memory_equal(before, e.link[0].push.k, sizeof before);
    }
    assert_memory_not_equal(before, e.link[0].push.k, sizeof before);
    assert_memory_equal(e.link[1].pull.k, e.link[0].push.k, sizeof before);
    ends_release(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors_pass),
        cmocka_unit_test(links_open_and_know_who),
        cmocka_unit_test(a_connection_says_what_it_is_for),
        cmocka_unit_test(other_secrets_are_refused_on_both_sides),
        cmocka_unit_test(changing_secrets_meet),
        cmocka_unit_test(a_changed_handshake_does_not_open),
        cmocka_unit_test(posing_as_another_does_not_open),
        cmocka_unit_test(garbage_and_other_versions),
        cmocka_unit_test(a_stranger_gets_nothing_for_much),
        cmocka_unit_test(records_keep_their_order),
        cmocka_unit_test(records_of_any_size_in_any_pieces),
        cmocka_unit_test(keys_are_renewed),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
