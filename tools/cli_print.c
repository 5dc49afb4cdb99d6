/* Starling: what the tool shows: tones, tables, human sizes and times, progress. */
#include "tools/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GRID_COLUMNS_MAX 16
#define BAR_WIDTH 30

static const char *const tone_codes[] = {
    [TONE_PLAIN] = "",       [TONE_GOOD] = "\033[32m", [TONE_WARN] = "\033[33m",
    [TONE_BAD] = "\033[31m", [TONE_FAINT] = "\033[2m", [TONE_HEAD] = "\033[1m",
};

/* ---- text */
char *text_dup(const char *text) { return text_format("%s", text); }

static char *text_formatv(const char *format, va_list ap) {
    char *text = NULL;
    if (vasprintf(&text, format, ap) < 0)
        abort();
    return text;
}

char *text_format(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *text = text_formatv(format, ap);
    va_end(ap);
    return text;
}

/* Control characters (C0, DEL, and C1 in UTF-8) become '?': text may come from another machine. */
static char *make_harmless(char *text) {
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7f)
            *c = '?';
        else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
            c[0] = c[1] = '?';
    }
    return text;
}

const char *text_count(char out[TEXT_MAX], json_int_t n) {
    char digits[TEXT_MAX];
    int len = snprintf(digits, sizeof digits, "%" JSON_INTEGER_FORMAT, n), o = 0;
    for (int i = 0; i < len; i++) {
        if (i && digits[i - 1] != '-' && (len - i) % 3 == 0)
            out[o++] = ',';
        out[o++] = digits[i];
    }
    out[o] = 0;
    return out;
}

const char *text_bytes(char out[TEXT_MAX], json_int_t n) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double size = (double)n;
    size_t unit = 0;
    while (size >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        size /= 1024;
        unit++;
    }
    snprintf(out, TEXT_MAX, unit && size < 10 ? "%.1f %s" : "%.0f %s", size, units[unit]);
    return out;
}

const char *text_duration_ms(char out[TEXT_MAX], json_int_t ms) {
    long long s = (long long)ms / 1000;
    if (ms < 60000 && ms % 1000 == 0)
        snprintf(out, TEXT_MAX, "%lld s", s);
    else if (ms < 1000)
        snprintf(out, TEXT_MAX, "%lld ms", (long long)ms);
    else if (s < 60)
        snprintf(out, TEXT_MAX, "%.1f s", (double)ms / 1000);
    else if (s < 3600)
        snprintf(out, TEXT_MAX, "%lld min %lld s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, TEXT_MAX, "%lld h %lld min", s / 3600, s / 60 % 60);
    else
        snprintf(out, TEXT_MAX, "%lld d %lld h", s / 86400, s / 3600 % 24);
    return out;
}

const char *text_clock(char out[TEXT_MAX], json_int_t wall_ms) {
    time_t at = (time_t)(wall_ms / 1000), now = time(NULL);
    struct tm then, today;
    localtime_r(&at, &then);
    localtime_r(&now, &today);
    bool is_today = then.tm_yday == today.tm_yday && then.tm_year == today.tm_year;
    char text[TEXT_MAX / 2];
    strftime(text, sizeof text, is_today ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &then);
    snprintf(out, TEXT_MAX, "%s.%03d", text, (int)(wall_ms % 1000));
    return out;
}

/* ---- lines */
void say(const struct cli *cli, enum tone tone, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *text = make_harmless(text_formatv(format, ap));
    va_end(ap);
    bool toned = cli->color && tone != TONE_PLAIN;
    printf("%s%s%s", toned ? tone_codes[tone] : "", text, toned ? "\033[0m" : "");
    free(text);
}

void complain(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *text = make_harmless(text_formatv(format, ap));
    va_end(ap);
    fprintf(stderr, "starling: %s\n", text);
    free(text);
}

void say_problem(const struct cli *cli, enum tone tone, const char *what, const char *mend) {
    say(cli, tone, "%s %s", tone == TONE_BAD ? "problem:" : "note:", what);
    if (mend && *mend)
        say(cli, TONE_PLAIN, ": %s", mend);
    printf("\n");
}

void print_json(const json_t *object) {
    json_dumpf(object, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    printf("\n");
    fflush(stdout); /* a stream's reader wants it now */
}

/* ---- grid */
struct cell {
    char *text;
    enum tone tone;
};

struct grid {
    int columns;
    bool right[GRID_COLUMNS_MAX];
    struct cell *cells; /* the headings first, then row by row */
    size_t count, room;
};

static void grid_take(struct grid *g, enum tone tone, char *text) {
    if (g->count == g->room) {
        g->room = g->room ? g->room * 2 : 64;
        g->cells = realloc(g->cells, g->room * sizeof *g->cells);
        if (!g->cells)
            abort();
    }
    g->cells[g->count++] = (struct cell){make_harmless(text), tone};
}

struct grid *grid_new(const char *headings) {
    struct grid *g = calloc(1, sizeof *g);
    if (!g)
        abort();
    for (const char *h = headings; *h && g->columns < GRID_COLUMNS_MAX;) {
        size_t len = strcspn(h, "|");
        g->right[g->columns] = *h == '>';
        bool mark = g->right[g->columns++];
        grid_take(g, TONE_FAINT, text_format("%.*s", (int)(len - mark), h + mark));
        h += len + (h[len] == '|');
    }
    return g;
}

void grid_cell(struct grid *g, enum tone tone, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    grid_take(g, tone, text_formatv(format, ap));
    va_end(ap);
}

void grid_count(struct grid *g, enum tone when_not_zero, json_int_t n) {
    char text[TEXT_MAX];
    grid_cell(g, n ? when_not_zero : TONE_PLAIN, "%s", text_count(text, n));
}

/* Characters, not bytes: all but UTF-8 continuations. */
static int width_of(const char *text) {
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

void grid_print(struct grid *g, const struct cli *cli) {
    int widths[GRID_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < g->count; i++) {
        int width = width_of(g->cells[i].text), column = (int)(i % (size_t)g->columns);
        widths[column] = width > widths[column] ? width : widths[column];
    }
    for (size_t i = 0; i < g->count; i++) {
        int column = (int)(i % (size_t)g->columns), pad = widths[column] - width_of(g->cells[i].text);
        bool last = column == g->columns - 1;
        printf("%*s", g->right[column] ? pad : 0, "");
        say(cli, g->cells[i].tone, "%s", g->cells[i].text);
        printf("%*s%s", g->right[column] || last ? 0 : pad, "", last ? "\n" : "  ");
        free(g->cells[i].text);
    }
    free(g->cells);
    free(g);
}

/* ---- progress */
void progress_show(const struct cli *cli, const json_t *progress) {
    if (!cli->terminal || cli->json)
        return;
    char *text = make_harmless(text_dup(field_text(progress, "text", "")));
    json_int_t done = field_count(progress, "done"), total = field_count(progress, "total");
    char a[TEXT_MAX], b[TEXT_MAX];
    fprintf(stderr, "\r\033[K%.60s", text);
    if (total > 0) {
        int filled = done >= total ? BAR_WIDTH : (int)((double)done / (double)total * BAR_WIDTH);
        fprintf(stderr, " [");
        for (int i = 0; i < BAR_WIDTH; i++)
            fputc(i < filled ? '#' : '-', stderr);
        fprintf(stderr, "] %s of %s", text_count(a, done), text_count(b, total));
    } else if (done > 0) {
        fprintf(stderr, " %s", text_count(a, done));
    }
    fflush(stderr);
    free(text);
}

void progress_clear(const struct cli *cli) {
    if (cli->terminal && !cli->json)
        fprintf(stderr, "\r\033[K");
}

/* ---- fields */
const char *field_text(const json_t *object, const char *name, const char *otherwise) {
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : otherwise;
}

json_int_t field_count(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return json_is_real(value) ? (json_int_t)json_real_value(value) : json_integer_value(value);
}

bool field_true(const json_t *object, const char *name) { return json_is_true(json_object_get(object, name)); }
