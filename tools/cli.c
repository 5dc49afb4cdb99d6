/* Starling: the tool's main: the table of verbs, parsing against it, and help from it. */
#include "tools/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct option cli_options[] = {
    {"--instance", "DIR", "the node that serves this folder (also STARLING_INSTANCE)", false},
    {"--socket", "PATH", "the node that listens on this socket", false},
    {"--json", NULL, "print one JSON object (streams: one a line)", false},
    {"--no-color", NULL, "no colours (also NO_COLOR, and when not a terminal)", false},
    {"--help", NULL, "this help, or that of a verb", false},
    {"--version", NULL, "print the version", false},
    {NULL, NULL, NULL, false},
};

static const struct option wait_options[] = {
    {"--converged", NULL, "until all alive members have equal versions and digests (this is the default)", false},
    {"--members", "N", "and at least N members are alive, this node counted", false},
    {"--timeout", "S", "give up after S seconds (60)", false},
    {NULL, NULL, NULL, false},
};

static const struct option log_options[] = {
    {"-n", "N", "the last N lines (50)", false},
    {"--follow", NULL, "and those that come", false},
    {"--db", "DB", "of this database only", false},
    {NULL, NULL, NULL, false},
};

static const struct option conflicts_options[] = {
    {"--keep", "winner|loser", "resolve: what won stays, or what lost comes back", false},
    {"--set", "COL=VALUE", "resolve: write this instead (VALUE is JSON, else text; may be given again)", true},
    {"--split", NULL, "resolve: one row becomes two again", false},
    {NULL, NULL, NULL, false},
};

static const struct option files_options[] = {
    {"--version", "V", "restore: this version of the path (without it: what was replaced or deleted last)", false},
    {"--list", NULL, "restore: show which versions are kept here", false},
    {NULL, NULL, NULL, false},
};

static const struct option doctor_options[] = {
    {"--join", "HOST[:PORT]", "what joining that cluster would do to the rows here; nothing is changed", false},
    {"--adopt", "keep-both|match", "with --join: as starlingd would be started", false},
    {"--secret-file", "FILE", "likewise", false},
    {"--cluster", "NAME", "likewise", false},
    {"--config", "FILE", "likewise", false},
    {NULL, NULL, NULL, false},
};

static const struct option rotate_options[] = {
    {"--finish", NULL, "do not accept the old secret any longer, whoever has not the new one", false},
    {NULL, NULL, NULL, false},
};

const struct verb cli_verbs[] = {
    {"status", "", "this node, its databases and peers, at a glance", 0, 0, verb_status, NULL},
    {"members", "", "every known member: state, round trip, what we lack and they lack", 0, 0, verb_members, NULL},
    {"join", "HOST[:PORT]...", "meet a cluster", 1, 64, verb_join, NULL},
    {"leave", "", "leave the cluster for good", 0, 0, verb_leave, NULL},
    {"forget", "NODE", "stop waiting for a member that will not return", 1, 1, verb_forget, NULL},
    {"wait", "", "until everything committed here is on all alive members", 0, 0, verb_wait, wait_options},
    {"verify", "[DB[/TABLE] | files]", "compare what all alive members really hold", 0, 1, verb_verify, NULL},
    {"tables", "[DB | accept DB/TABLE | restore DB/TABLE]", "each table; what to do with rows that are gone unseen", 0, 2, verb_tables,
     NULL},
    {"conflicts", "list|show|resolve [ID]", "what lost, to whom, and bringing it back", 0, -1, verb_conflicts, conflicts_options},
    {"why", "DB TABLE KEY [COL]", "who wrote this value, when, and what it beat", 3, 4, verb_why, NULL},
    {"log", "", "the activity log", 0, 0, verb_log, log_options},
    {"watch", "[DB[/TABLE]...]", "each change as it happens, one JSON object a line", 0, 64, verb_watch, NULL},
    {"files", "[list | status | verify | restore PATH | accept PATH]",
     "the replicated files, their transfers, and bringing back what was replaced", 0, 2, verb_files, files_options},
    {"pause", "", "stop exchanging data; capture goes on, nothing is lost", 0, 0, verb_pause, NULL},
    {"resume", "", "exchange data again", 0, 0, verb_resume, NULL},
    {"snapshot", "DEST", "a consistent copy of all databases and files", 0, -1, NULL, NULL},
    {"restore", "SRC", "take a snapshot back", 0, -1, NULL, NULL},
    {"peers", "[list | allow|deny ADDRESS... | block|unblock NODE...]", "who may connect: addresses, networks, names; members", 0, 64,
     verb_peers, NULL},
    {"keygen", "", "make a cluster secret: starling keygen > FILE", 0, 0, verb_keygen, NULL},
    {"rotate", "[FILE]", "change the cluster secret while all runs: to FILE's, or a new one that is printed", 0, 1, verb_rotate,
     rotate_options},
    {"doctor", "", "look for trouble, and say how to mend it", 0, 0, verb_doctor, doctor_options},
    {"uninstall", "", "stop the node and remove all that is ours from the databases", 0, 0, verb_uninstall, NULL},
    {"completion", "bash|zsh|fish", "print a completion script for your shell", 1, 1, verb_completion, NULL},
    {"version", "", "print the version", 0, 0, verb_version, NULL},
    {"help", "[VERB]", "this help, or that of a verb", 0, 1, verb_help, NULL},
    {NULL, NULL, NULL, 0, 0, NULL, NULL},
};

static const struct verb *verb_find(const char *name) {
    for (const struct verb *v = cli_verbs; v->name; v++) {
        if (!strcmp(v->name, name))
            return v;
    }
    return NULL;
}

const char *cli_option(const struct cli *cli, const char *name) {
    for (int i = 0; cli->verb->options && cli->verb->options[i].name; i++) {
        if (!strcmp(cli->verb->options[i].name, name))
            return cli->given[i];
    }
    return NULL;
}

long cli_number(const char *what, const char *text, long min, long max) {
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno || end == text || *end || n < min || n > max) {
        complain("%s takes a number from %ld to %ld, not \"%s\"", what, min, max, text);
        exit(EXIT_USAGE);
    }
    return n;
}

static void print_options(const struct option *options) {
    for (const struct option *o = options; o && o->name; o++) {
        char left[TEXT_MAX];
        snprintf(left, sizeof left, "%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-18s %s\n", left, o->summary);
    }
}

static int help_verb(const struct verb *v) {
    printf("starling %s%s%s%s: %s\n", v->name, *v->words ? " " : "", v->words, v->options ? " [OPTION]..." : "", v->summary);
    if (!v->run)
        printf("Not in this build.\n");
    if (v->options)
        printf("\n");
    print_options(v->options);
    return EXIT_YES;
}

static int help_all(void) {
    printf("usage: starling [--instance DIR | --socket PATH] [--json] [--no-color] VERB ...\n\n");
    for (const struct verb *v = cli_verbs; v->name; v++) {
        char left[TEXT_MAX];
        snprintf(left, sizeof left, "%s%s%s", v->name, *v->words ? " " : "", v->words);
        if (v->run)
            printf("  %-25s %s\n", left, v->summary);
    }
    printf("\nOptions, before or after the verb:\n");
    print_options(cli_options);
    printf("\nNot in this build:");
    for (const struct verb *v = cli_verbs; v->name; v++) {
        if (!v->run)
            printf(" %s", v->name);
    }
    printf("\nExit: 0 yes or done, 1 no or failed, 2 wrong usage, 3 no node answers.\n");
    return EXIT_YES;
}

int verb_help(struct cli *cli) {
    if (!cli->words_count)
        return help_all();
    const struct verb *v = verb_find(cli->words[0]);
    if (v)
        return help_verb(v);
    complain("no verb is called \"%s\": see `starling help`", cli->words[0]);
    return EXIT_USAGE;
}

int verb_version(struct cli *cli) {
    if (!cli->json) {
        printf("starling %s\n", STARLING_VERSION);
        return EXIT_YES;
    }
    json_t *version = json_pack("{s:s}", "version", STARLING_VERSION);
    print_json(version);
    json_decref(version);
    return EXIT_YES;
}

/* The place of word's option in the list, or -1. A value after '=' goes to *value. */
static int option_find(const struct option *options, const char *word, const char **value) {
    size_t len = strcspn(word, "=");
    *value = word[len] ? word + len + 1 : NULL;
    for (int i = 0; options && options[i].name; i++) {
        if (strlen(options[i].name) == len && !memcmp(options[i].name, word, len))
            return i;
    }
    return -1;
}

/* Gives option its value, from "=VALUE" or the next word. */
static const char *option_value(const struct option *option, const char *value, int argc, char **argv, int *i) {
    if (!option->value) {
        if (!value)
            return "";
        complain("%s takes no value", option->name);
        exit(EXIT_USAGE);
    }
    if (!value && *i + 1 < argc)
        value = argv[++*i];
    if (value && *value)
        return value;
    complain("%s needs a value: %s %s", option->name, option->name, option->value);
    exit(EXIT_USAGE);
}

struct switches {
    bool help, version;
};

static void take_global(struct cli *cli, struct switches *sw, const char *name, const char *value) {
    if (!strcmp(name, "--instance"))
        cli->instance = value;
    else if (!strcmp(name, "--socket"))
        cli->socket = value;
    else if (!strcmp(name, "--json"))
        cli->json = true;
    else if (!strcmp(name, "--no-color"))
        cli->color = false;
    else if (!strcmp(name, "--help"))
        sw->help = true;
    else
        sw->version = true;
}

/* Walks the words once: global options anywhere, the verb is the first other word, its options after it. */
static void parse(struct cli *cli, struct switches *sw, int argc, char **argv) {
    bool options_over = false;
    for (int i = 1; i < argc; i++) {
        const char *value;
        char *word = argv[i];
        if (!options_over && !strcmp(word, "--")) {
            options_over = true;
        } else if (!options_over && word[0] == '-' && word[1]) {
            int at = cli->verb ? option_find(cli->verb->options, word, &value) : -1; /* a verb's own option comes before one of all */
            int global = at < 0 ? option_find(cli_options, strcmp(word, "-h") ? word : "--help", &value) : -1;
            if (global >= 0) {
                take_global(cli, sw, cli_options[global].name, option_value(&cli_options[global], value, argc, argv, &i));
                continue;
            }
            if (at >= 0) {
                cli->given[at] = option_value(&cli->verb->options[at], value, argc, argv, &i);
                if (cli->verb->options[at].many)
                    cli->words[cli->words_count++] = (char *)(uintptr_t)cli->given[at];
            } else if (!cli->verb || cli->verb->run) { /* for a verb of another build, that is the news */
                complain("unknown option %s: see `starling help%s%s`", word, cli->verb ? " " : "", cli->verb ? cli->verb->name : "");
                exit(EXIT_USAGE);
            }
        } else if (!cli->verb) {
            cli->verb = verb_find(word);
            if (!cli->verb) {
                complain("no verb is called \"%s\": see `starling help`", word);
                exit(EXIT_USAGE);
            }
        } else {
            cli->words[cli->words_count++] = word;
        }
    }
}

int main(int argc, char **argv) {
    const char *no_color = getenv("NO_COLOR");
    struct switches sw = {false, false};
    struct cli cli = {
        .color = isatty(STDOUT_FILENO) && !(no_color && *no_color),
        .terminal = isatty(STDERR_FILENO),
        .words = calloc((size_t)argc + 1, sizeof(char *)),
    };
    if (!cli.words)
        abort();
    parse(&cli, &sw, argc, argv);
    int code;
    if (sw.help) {
        code = cli.verb ? help_verb(cli.verb) : help_all();
    } else if (sw.version) {
        code = verb_version(&cli);
    } else if (!cli.verb) {
        complain("say what to do: `starling status`, or see `starling help`");
        code = EXIT_USAGE;
    } else if (!cli.verb->run) {
        complain("%s: not in this build", cli.verb->name);
        code = EXIT_USAGE;
    } else if (cli.words_count < cli.verb->words_min || (cli.verb->words_max >= 0 && cli.words_count > cli.verb->words_max)) {
        complain("usage: starling %s%s%s: see `starling help %s`", cli.verb->name, *cli.verb->words ? " " : "", cli.verb->words,
                 cli.verb->name);
        code = EXIT_USAGE;
    } else {
        code = cli.verb->run(&cli);
    }
    free(cli.words);
    if (fflush(stdout) || ferror(stdout)) {
        complain("cannot write the output: %s", strerror(errno));
        code = EXIT_NO;
    }
    return code;
}
