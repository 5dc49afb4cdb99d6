/* The words of a script: lines, numbers, units. */
#include <stdlib.h>
#include <string.h>

#include "tools/sim/script.h"

int line_next(const char **script, struct line *l) {
    while (**script) {
        size_t n = strcspn(*script, "\n");
        if (n >= sizeof l->text)
            return -1;
        memcpy(l->text, *script, n);
        l->text[n] = 0;
        *script += n + ((*script)[n] == '\n');
        l->number++;
        l->text[strcspn(l->text, "#")] = 0;
        l->count = 0;
        char *rest = NULL;
        for (char *w = strtok_r(l->text, " \t\r", &rest); w; w = strtok_r(NULL, " \t\r", &rest)) {
            if (l->count == SCRIPT_WORDS)
                return -1;
            l->word[l->count++] = w;
        }
        if (l->count)
            return 1;
    }
    return 0;
}

const char *line_word(const struct line *l, unsigned i) { return i < l->count ? l->word[i] : ""; }

bool line_is(const struct line *l, unsigned i, const char *word) { return strcmp(line_word(l, i), word) == 0; }

static const struct {
    const char *name;
    double factor;
} units[] = {{"", 1},    {"us", 1}, {"ms", 1e3},   {"s", 1e6},       {"min", 6e7}, {"h", 3.6e9},
             {"%", 1e4}, {"/s", 1}, {"KiB", 1024}, {"MiB", 1 << 20}, {"B", 1},     {"ppm", 1}};

/* The number in front, and behind it. */
static bool number(const char *word, double *n, const char **unit) {
    char *end;
    *n = strtod(word, &end);
    *unit = end;
    return end != word;
}

static bool scaled(const char *word, double *n, const char *kinds) {
    const char *unit;
    if (!number(word, n, &unit))
        return false;
    for (unsigned i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(unit, units[i].name) != 0 || (*unit && !strstr(kinds, unit)))
            continue;
        *n *= units[i].factor;
        return true;
    }
    return false;
}

bool script_number(const char *word, double *n) { return scaled(word, n, "us ms s min h % KiB MiB ppm"); }

bool script_time(const char *word, uint64_t *us) {
    double n;
    if (!scaled(word, &n, "us ms s min h") || n < 0)
        return false;
    *us = (uint64_t)n;
    return true;
}

bool script_share(const char *word, uint32_t *millionth) {
    double n;
    if (!strchr(word, '%') || !scaled(word, &n, "%") || n < 0 || n > 1e6)
        return false;
    *millionth = (uint32_t)n;
    return true;
}

bool script_rate(const char *word, double *per_s) { return scaled(word, per_s, "/s") && *per_s > 0; }

bool script_bytes(const char *word, size_t *bytes) {
    double n;
    if (!scaled(word, &n, "B KiB MiB") || n < 0)
        return false;
    *bytes = (size_t)n;
    return true;
}

bool script_span(const char *word, uint64_t *low, uint64_t *high) {
    char first[64];
    const char *dots = strstr(word, "..");
    double a, b;
    if (!dots) {
        if (!script_number(word, &a) || a < 0)
            return false;
        *low = *high = (uint64_t)a;
        return true;
    }
    snprintf(first, sizeof first, "%.*s", (int)(dots - word), word);
    const char *unit;
    if (!number(dots + 2, &b, &unit) || !script_number(dots + 2, &b))
        return false;
    size_t len = strlen(first);
    snprintf(first + len, sizeof first - len, "%s", first[len ? len - 1 : 0] >= '0' && first[len ? len - 1 : 0] <= '9' ? unit : "");
    if (!script_number(first, &a) || a < 0 || b < a)
        return false;
    *low = (uint64_t)a;
    *high = (uint64_t)b;
    return true;
}
