/* Starling simulator: a script, a command a line, words apart by blanks, `#` begins a comment. README.md has the commands.
 *
 * Numbers may carry a unit: us ms s min h (times, kept in us), % (kept in millionths), KiB MiB (bytes), /s (a rate). A range of nodes is
 * `all`, `7`, `0..9`, or `80%`: so many, drawn by chance. A number may be drawn by the seed: `2..6`. */
#ifndef TOOLS_SIM_SCRIPT_H
#define TOOLS_SIM_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/sim/sim.h"

#define SCRIPT_WORDS 16u

struct line {
    unsigned number; /* from 1 */
    unsigned count;
    char text[256]; /* of which word[] are pieces */
    char *word[SCRIPT_WORDS];
};

/* The next line that says something. 1, 0 at the end, -1: too long. */
int line_next(const char **script, struct line *l);
/* The word at i, "" beyond the end. */
const char *line_word(const struct line *l, unsigned i);
bool line_is(const struct line *l, unsigned i, const char *word);
bool script_time(const char *word, uint64_t *us);                  /* 10ms */
bool script_share(const char *word, uint32_t *millionth);          /* 20% */
bool script_rate(const char *word, double *per_s);                 /* 10/s */
bool script_bytes(const char *word, size_t *bytes);                /* 64KiB */
bool script_span(const char *word, uint64_t *low, uint64_t *high); /* 2..6, or 4; times too */
bool script_number(const char *word, double *n);                   /* 1.1, or with % or a time's unit */

#endif
