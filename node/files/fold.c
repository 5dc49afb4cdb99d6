#include "node/files/fold.h"

#include <sodium.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

static const struct {
    uint16_t whole, base, mark;
} PARTS[] = {
#include "node/files/fold_table.h"
};

#define HANGUL 0xac00
#define HANGUL_COUNT 11172
#define HANGUL_VOWELS 21
#define HANGUL_ENDS 28
#define MARKS_MAX 32

struct folding {
    crypto_generichash_state hash;
    locale_t locale;
    uint32_t marks[MARKS_MAX]; /* after one letter: sorted, since their order is no difference */
    int marks_count;
};

/* The character at *p, and p beyond it. What is no UTF-8: the byte, as a number that no character has. */
static uint32_t next(const unsigned char **p) {
    const unsigned char *s = *p;
    int more = s[0] >= 0xf0 && s[0] < 0xf5 ? 3 : s[0] >= 0xe0 ? 2 : s[0] >= 0xc2 ? 1 : 0;
    uint32_t c = more == 3 ? s[0] & 7u : more == 2 ? s[0] & 15u : more == 1 ? s[0] & 31u : s[0];
    for (int i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            more = 0;
            break;
        }
        c = c << 6 | (s[i] & 63u);
    }
    *p += 1 + more;
    return more == 0 && s[0] >= 0x80 ? 0x80000000u | s[0] : c;
}

static void put(struct folding *f, uint32_t c) { crypto_generichash_update(&f->hash, (const uint8_t *)&c, sizeof(c)); }

static void flush(struct folding *f) {
    for (int i = 0; i < f->marks_count; i++)
        put(f, f->marks[i]);
    f->marks_count = 0;
}

static bool is_mark(uint32_t c) { return (c >= 0x300 && c < 0x370) || (c >= 0x3099 && c <= 0x309a); }

static void letter(struct folding *f, uint32_t c) {
    if (!is_mark(c) || f->marks_count == MARKS_MAX) {
        flush(f);
        put(f, c < 0x80000000u ? (uint32_t)towlower_l((wint_t)towupper_l((wint_t)c, f->locale), f->locale) : c);
        return;
    }
    int at = f->marks_count++;
    for (; at > 0 && f->marks[at - 1] > c; at--)
        f->marks[at] = f->marks[at - 1];
    f->marks[at] = c;
}

/* One level of the table after the other: what a character begins with may have parts itself. */
static void parts(struct folding *f, uint32_t c) {
    size_t low = 0, high = sizeof(PARTS) / sizeof(PARTS[0]);
    if (c >= HANGUL && c < HANGUL + HANGUL_COUNT) {
        uint32_t n = c - HANGUL;
        letter(f, 0x1100 + n / (HANGUL_VOWELS * HANGUL_ENDS));
        letter(f, 0x1161 + n % (HANGUL_VOWELS * HANGUL_ENDS) / HANGUL_ENDS);
        if (n % HANGUL_ENDS != 0)
            letter(f, 0x11a7 + n % HANGUL_ENDS);
        return;
    }
    while (c >= 0xc0 && low < high) {
        size_t at = (low + high) / 2;
        if (PARTS[at].whole == c) {
            parts(f, PARTS[at].base);
            if (PARTS[at].mark != 0)
                letter(f, PARTS[at].mark);
            return;
        }
        if (PARTS[at].whole < c)
            low = at + 1;
        else
            high = at;
    }
    letter(f, c);
}

locale_t fold_open(void) {
    locale_t letters = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    return letters != (locale_t)0 ? letters : newlocale(LC_CTYPE_MASK, "C", (locale_t)0);
}

uint64_t fold_hash(locale_t letters, const char *path) {
    struct folding f = {.locale = letters};
    uint8_t out[crypto_generichash_BYTES_MIN];
    uint64_t hash;
    crypto_generichash_init(&f.hash, NULL, 0, sizeof(out));
    for (const unsigned char *p = (const unsigned char *)path; *p != 0;)
        parts(&f, next(&p));
    flush(&f);
    crypto_generichash_final(&f.hash, out, sizeof(out));
    memcpy(&hash, out, sizeof(hash));
    return hash;
}
