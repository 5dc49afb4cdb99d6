/* Starling: the command line tool. One verb a file (cli_<verb>.c, or a small group that shares its answer), one table of verbs (cli.c)
 * from which parsing, help and shell completion follow.
 *
 * A verb asks the running node over its local socket (node/admin/admin.h), prints the answer and returns the exit code: 0 yes or done,
 * 1 no or failed, 2 wrong usage, 3 no node answers. Errors go to standard error, one line, with what to do next. */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum cli_exit { EXIT_YES = 0, EXIT_NO = 1, EXIT_USAGE = 2, EXIT_NO_NODE = 3 };

#define CLI_OPTIONS_MAX 16

/* ---- the call: what the user typed, after parsing against the table */
struct option {
    const char *name;  /* "--timeout", or "-n" */
    const char *value; /* what the value is called in help ("S"); NULL: a switch */
    const char *summary;
    bool many; /* may be given again: its values are added to the words */
};

struct cli {
    const char *instance, *socket; /* as given; NULL: found by cli_find.c */
    bool json, color, terminal;    /* terminal: standard error is one, so progress may be drawn */
    const struct verb *verb;
    const char *given[CLI_OPTIONS_MAX]; /* values of the verb's options, by place in the table; "" for a switch that was given */
    char **words;
    int words_count;
};

struct verb {
    const char *name, *words, *summary; /* words: how the arguments are called in help */
    int words_min, words_max;           /* words_max -1: any number */
    int (*run)(struct cli *cli);        /* NULL: this verb is not in this build */
    const struct option *options;       /* ends with a name of NULL; may be NULL */
};

extern const struct verb cli_verbs[];                            /* ends with a name of NULL */
extern const struct option cli_options[];                        /* the global ones */
const char *cli_option(const struct cli *cli, const char *name); /* NULL when not given; the verb must declare it */
/* A whole number within the bounds; else says so and exits 2. */
long cli_number(const char *what, const char *text, long min, long max);

/* ---- cli_find.c: which node */
struct place {
    char *instance; /* absolute; NULL when it cannot be told from the socket's path */
    char *socket;
};
/* 0; or has said why not and returns the exit code. Needs no running node when the user named one. */
int place_find(const struct cli *cli, struct place *out);
void place_release(struct place *place);

/* ---- cli_client.c: one request */
struct request {
    const char *verb;
    json_t *args;                                                            /* owned: taken by cli_ask(); may be NULL */
    int silence_s;                                                           /* give up when the node says nothing for so long; 0: never */
    bool quiet;                                                              /* say nothing when there is no answer */
    void (*on_item)(struct cli *cli, json_t *item, void *ctx);               /* item is borrowed */
    void (*on_progress)(struct cli *cli, const json_t *progress, void *ctx); /* NULL: it is shown as it comes */
    void *ctx;
};

struct answer {
    int exit;       /* 0, 1 or 2 from the node; 3 when there is none */
    bool said;      /* no answer came, and why has been said */
    json_t *result; /* owned; may be NULL */
    char *error;    /* owned; one line; may be NULL */
};

void cli_ask(struct cli *cli, const struct request *request, struct answer *out);
void answer_release(struct answer *answer);
/* The end of most verbs: with --json prints the result (or an object with the error), else calls print (if there is a result). Says the
 * error, releases the answer, returns the exit code. */
int cli_answer(struct cli *cli, struct answer *answer, void (*print)(const struct cli *cli, const json_t *result));
/* Runs the starlingd that stands beside this tool, else the one in PATH. Returns only when there is none (cli_uninstall.c). */
void become_daemon(char **argv);
/* A connected socket: a descriptor, or -errno. */
int cli_connect(const char *path);
pid_t cli_peer_pid(int fd); /* 0 when unknown */

/* ---- cli_print.c: everything that is shown. Text from a node is shown without control characters: a peer chooses its own name. */
enum tone { TONE_PLAIN, TONE_GOOD, TONE_WARN, TONE_BAD, TONE_FAINT, TONE_HEAD };

struct grid; /* a table whose columns are as wide as they must be */
/* Headings separated by '|'; one that starts with '>' is aligned to the right. */
struct grid *grid_new(const char *headings);
void grid_cell(struct grid *g, enum tone tone, const char *format, ...) __attribute__((format(printf, 3, 4)));
void grid_count(struct grid *g, enum tone when_not_zero, json_int_t n); /* with thousands separators */
void grid_print(struct grid *g, const struct cli *cli);                 /* and frees it */
struct grid *peers_grid(const json_t *peers);                           /* of `members`, also a part of `status` (cli_members.c) */

/* Prints in a tone when standard output has colours. */
void say(const struct cli *cli, enum tone tone, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* "starling: …" in one line on standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A problem and its mend, one line. */
void say_problem(const struct cli *cli, enum tone tone, const char *what, const char *mend);
void print_json(const json_t *object); /* one line */

#define TEXT_MAX 64
const char *text_count(char out[TEXT_MAX], json_int_t n);        /* 12,345 */
const char *text_bytes(char out[TEXT_MAX], json_int_t n);        /* 4.2 MiB */
const char *text_duration_ms(char out[TEXT_MAX], json_int_t ms); /* 120 ms, 3.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h */
const char *text_clock(char out[TEXT_MAX], json_int_t wall_ms);  /* local time; with the date when not today */

/* The progress line of a terminal; nothing elsewhere. */
void progress_show(const struct cli *cli, const json_t *progress);
void progress_clear(const struct cli *cli);

/* Fields that may be absent. */
const char *field_text(const json_t *object, const char *name, const char *otherwise);
json_int_t field_count(const json_t *object, const char *name);
bool field_true(const json_t *object, const char *name);
char *text_dup(const char *text); /* never NULL; ends the tool without memory */
char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- the verbs */
int verb_status(struct cli *cli);
int verb_members(struct cli *cli);
int verb_join(struct cli *cli);
int verb_leave(struct cli *cli);
int verb_forget(struct cli *cli);
int verb_wait(struct cli *cli);
int verb_verify(struct cli *cli);
int verb_tables(struct cli *cli);
int verb_conflicts(struct cli *cli);
int verb_why(struct cli *cli);
int verb_peers(struct cli *cli);
int verb_keygen(struct cli *cli);
int verb_rotate(struct cli *cli);
int verb_log(struct cli *cli);
int verb_watch(struct cli *cli);
int verb_pause(struct cli *cli);
int verb_resume(struct cli *cli);
int verb_files(struct cli *cli);
int verify_files(struct cli *cli); /* `verify`, of the files alone */
int verb_doctor(struct cli *cli);
int doctor_join(struct cli *cli, const char *host);
int verb_uninstall(struct cli *cli);
int verb_completion(struct cli *cli);
int verb_version(struct cli *cli);
int verb_help(struct cli *cli);

#endif
