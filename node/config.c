#include "node/config.h"

#include <assert.h>
#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/address.h"
#include "node/allow.h"
#include "proto/core.h"
#include "proto/err.h"

#define TEXT OPTION_TEXT
#define LIST OPTION_LIST
#define NUMBER OPTION_NUMBER
#define CHOICE OPTION_CHOICE
#define WORD OPTION_WORD
#define ADDRESS OPTION_ADDRESS
static const struct option_spec SPECS[OPTIONS_COUNT] = {
#define OPTION(id, name, kind, fallback, values, only, places, argument, help)                                                             \
    [OPTION_##id] = {#name, fallback, values, only, argument, help, kind, places},
#include "node/options.def"
#undef OPTION
};
#undef TEXT
#undef LIST
#undef NUMBER
#undef CHOICE
#undef WORD
#undef ADDRESS

static const char *const SOURCE_NAMES[] = {"default", "file", "environment", "flag"};

const struct option_spec *config_spec(enum option_id id) {
    assert(id < OPTIONS_COUNT);
    return &SPECS[id];
}

const char *config_text(const struct config *c, enum option_id id) {
    assert(SPECS[id].kind != OPTION_LIST);
    return c->settings[id].count > 0 ? c->settings[id].values[0] : "";
}

uint64_t config_number(const struct config *c, enum option_id id) {
    assert(SPECS[id].kind == OPTION_NUMBER);
    return strtoull(config_text(c, id), NULL, 10);
}

bool config_same(const struct config *a, const struct config *b, enum option_id id) {
    const struct setting *x = &a->settings[id], *y = &b->settings[id];
    if (x->count != y->count)
        return false;
    for (uint32_t i = 0; i < x->count; i++)
        if (strcmp(x->values[i], y->values[i]) != 0)
            return false;
    return true;
}

bool config_replicates(const struct config *c, const char *db) {
    for (uint32_t i = 0; i < c->databases_count; i++)
        if (strcmp(c->databases[i].db, db) == 0)
            return c->databases[i].replicate;
    return true;
}

const char *const *config_excluded(const struct config *c, const char *db) {
    for (uint32_t i = 0; i < c->databases_count; i++)
        if (strcmp(c->databases[i].db, db) == 0)
            return c->databases[i].excluded;
    return NULL;
}

const struct policy_line *config_policies(const struct config *c, const char *db, uint32_t *count) {
    *count = 0;
    for (uint32_t i = 0; i < c->databases_count; i++)
        if (strcmp(c->databases[i].db, db) == 0) {
            *count = c->databases[i].policies_count;
            return c->databases[i].policies;
        }
    return NULL;
}

static const struct ddl_policy *ddl_of(const struct config *c, const char *db) {
    for (uint32_t i = 0; i < c->ddl_count; i++)
        if (strcmp(c->ddl[i].db, db) == 0)
            return &c->ddl[i];
    return NULL;
}

bool config_follows(const struct config *c, const char *db) {
    const struct ddl_policy *said = ddl_of(c, db);
    return said != NULL ? said->follow : strcmp(config_text(c, OPTION_DDL), "follow") == 0;
}

static void setting_clear(struct setting *s) {
    for (uint32_t i = 0; i < s->count; i++)
        free(s->values[i]);
    free(s->values);
    *s = (struct setting){0};
}

void config_release(struct config *c) {
    for (int i = 0; i < OPTIONS_COUNT; i++)
        setting_clear(&c->settings[i]);
    for (uint32_t i = 0; i < c->databases_count; i++) {
        for (uint32_t t = 0; t < c->databases[i].tables_count; t++)
            free(c->databases[i].tables[t].table);
        for (uint32_t p = 0; p < c->databases[i].policies_count; p++) {
            free((void *)(uintptr_t)c->databases[i].policies[p].table);
            free((void *)(uintptr_t)c->databases[i].policies[p].name);
            free((void *)(uintptr_t)c->databases[i].policies[p].value);
            free((void *)(uintptr_t)c->databases[i].policies[p].where);
        }
        free(c->databases[i].policies);
        free(c->databases[i].tables);
        free(c->databases[i].excluded);
        free(c->databases[i].db);
    }
    free(c->databases);
    for (uint32_t i = 0; i < c->ddl_count; i++)
        free(c->ddl[i].db);
    free(c->ddl);
    config_files_release(&c->files);
    free(c->file);
    memset(c, 0, sizeof(*c));
}

int config_put(struct config *c, enum option_id id, enum source source, const char *value) {
    struct setting *s = &c->settings[id];
    if (source < s->source)
        return 0;
    if (source > s->source || SPECS[id].kind != OPTION_LIST)
        setting_clear(s);
    s->source = source;
    if (value[0] == 0)
        return 0;
    char **values = realloc(s->values, (s->count + 1) * sizeof(*values));
    if (values == NULL)
        return ERR_NOMEM;
    s->values = values;
    if ((values[s->count] = strdup(value)) == NULL)
        return ERR_NOMEM;
    s->count++;
    return 0;
}

__attribute__((format(printf, 3, 4))) static int usage(char *why, size_t why_len, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(why, why_len, format, ap);
    va_end(ap);
    for (char *p = why; *p != 0; p++) /* one line, and none that steers a terminal, whatever the value was */
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    return ERR_USAGE;
}

/* ---- sources */

static bool spelled(const struct option_spec *spec, const char *word, size_t len) {
    if (strlen(spec->name) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (word[i] != (spec->name[i] == '_' ? '-' : spec->name[i]))
            return false;
    return true;
}

/* Items separated by commas or blanks. */
static int list_put(struct config *c, enum option_id id, enum source source, const char *value) {
    char *copy = strdup(value), *rest = NULL;
    int r = copy == NULL ? ERR_NOMEM : 0;
    for (char *item = r != 0 ? NULL : strtok_r(copy, ", ", &rest); item != NULL && r == 0; item = strtok_r(NULL, ", ", &rest))
        r = config_put(c, id, source, item);
    free(copy);
    return r;
}

static int set_read(struct config *c, const char *pair, char *why, size_t why_len) {
    const char *equals = strchr(pair, '=');
    if (equals == NULL)
        return usage(why, why_len, "--set %s: say --set KEY=VALUE", pair);
    for (int i = 0; i < OPTIONS_COUNT; i++)
        if ((SPECS[i].places & AS_SET) != 0 && strncmp(SPECS[i].name, pair, (size_t)(equals - pair)) == 0 &&
            SPECS[i].name[equals - pair] == 0)
            return config_put(c, (enum option_id)i, SOURCE_FLAG, equals + 1);
    return usage(why, why_len, "--set %s: unknown key: it takes ddl, history_mb, bandwidth_kib, still_ms and log_level", pair);
}

static int commands_read(struct config *c, const char *word) {
    static const struct {
        const char *word;
        enum command command;
    } COMMANDS[] = {{"--check", COMMAND_CHECK},
                    {"--print-config", COMMAND_PRINT_CONFIG},
                    {"--uninstall", COMMAND_UNINSTALL},
                    {"--version", COMMAND_VERSION},
                    {"--preview", COMMAND_PREVIEW},
                    {"--help", COMMAND_HELP},
                    {"-h", COMMAND_HELP}};
    for (size_t i = 0; i < sizeof(COMMANDS) / sizeof(COMMANDS[0]); i++)
        if (strcmp(word, COMMANDS[i].word) == 0) {
            c->command = COMMANDS[i].command;
            return 0;
        }
    return ERR_NOTFOUND;
}

/* One flag with its value. *used: how many arguments it took. */
static int flag_read(struct config *c, const char *word, const char *next, int *used, char *why, size_t why_len) {
    *used = 1;
    if (commands_read(c, word) == 0)
        return 0;
    if (strncmp(word, "--", 2) != 0 || word[2] == 0)
        return usage(why, why_len, "unexpected argument \"%s\": see starlingd --help", word);
    size_t len = strcspn(word + 2, "=");
    bool is_set = len == 3 && strncmp(word + 2, "set", 3) == 0, is_file = len == 6 && strncmp(word + 2, "config", 6) == 0;
    int found = -1;
    for (int i = 0; i < OPTIONS_COUNT && found < 0; i++)
        if ((SPECS[i].places & AS_FLAG) != 0 && spelled(&SPECS[i], word + 2, len))
            found = i;
    if (found < 0 && !is_set && !is_file)
        return usage(why, why_len, "unknown flag \"%s\": see starlingd --help", word);
    const char *value = word[2 + len] == '=' ? word + 3 + len : next;
    if (value == NULL ||
        (value[0] == 0 && found == OPTION_JOIN)) /* --join "$FIRST" with nothing in it must not start a server that is alone */
        return usage(why, why_len, "%s needs a value: see starlingd --help", word);
    *used = word[2 + len] == '=' ? 1 : 2;
    if (is_set)
        return set_read(c, value, why, why_len);
    if (found == OPTION_ALLOW && value[0] != 0)
        return list_put(c, OPTION_ALLOW, SOURCE_FLAG, value);
    if (!is_file)
        return config_put(c, (enum option_id)found, SOURCE_FLAG, value);
    free(c->file);
    return (c->file = strdup(value)) == NULL ? ERR_NOMEM : 0;
}

static int environment_read(struct config *c) {
    for (int i = 0; i < OPTIONS_COUNT; i++) {
        char name[64] = "STARLING_";
        size_t at = strlen(name);
        for (const char *p = SPECS[i].name; *p != 0 && at + 1 < sizeof(name); p++)
            name[at++] = (char)toupper((unsigned char)*p);
        name[at] = 0;
        const char *value = getenv(name);
        if (value == NULL || value[0] == 0)
            continue;
        if (SPECS[i].kind != OPTION_LIST) {
            if (config_put(c, (enum option_id)i, SOURCE_ENVIRONMENT, value) != 0)
                return ERR_NOMEM;
            continue;
        }
        int r = list_put(c, (enum option_id)i, SOURCE_ENVIRONMENT, value);
        if (r != 0)
            return r;
    }
    if (c->file == NULL && getenv("STARLING_CONFIG") != NULL && getenv("STARLING_CONFIG")[0] != 0)
        return (c->file = strdup(getenv("STARLING_CONFIG"))) == NULL ? ERR_NOMEM : 0;
    return 0;
}

/* ---- validation */

static bool word_ok(const char *value) {
    size_t len = strlen(value);
    return len > 0 && len < CORE_NAME_MAX && strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+@") == len;
}

static bool choice_ok(const char *values, const char *value) {
    size_t len = strlen(value);
    for (const char *at = values; at != NULL; at = strchr(at, '|') == NULL ? NULL : strchr(at, '|') + 1)
        if (strcspn(at, "|") == len && strncmp(at, value, len) == 0)
            return true;
    return false;
}

/* How the user wrote this option, for messages. */
static const char *option_spelling(const struct config *c, enum option_id id, char out[96]) {
    size_t at;
    switch (c->settings[id].source) {
    case SOURCE_ENVIRONMENT:
        at = (size_t)snprintf(out, 96, "STARLING_");
        for (const char *p = SPECS[id].name; *p != 0; p++)
            out[at++] = (char)toupper((unsigned char)*p);
        out[at] = 0;
        break;
    case SOURCE_FLAG:
        if ((SPECS[id].places & AS_FLAG) == 0) {
            snprintf(out, 96, "--set %s", SPECS[id].name);
            break;
        }
        snprintf(out, 96, "--%s", SPECS[id].name);
        for (char *p = out; *p != 0; p++)
            *p = *p == '_' ? '-' : *p;
        break;
    case SOURCE_FILE:
    case SOURCE_DEFAULT: snprintf(out, 96, "%s: %s", c->file != NULL ? c->file : "default", SPECS[id].name); break;
    }
    return out;
}

static int value_check(const struct config *c, enum option_id id, const char *value, char *why, size_t why_len) {
    const struct option_spec *spec = &SPECS[id];
    char said[PATH_MAX], host[ADDRESS_HOST_MAX];
    uint16_t port;
    char spelling[96];
    snprintf(said, sizeof(said), "%s %s", option_spelling(c, id, spelling), value);

    if (spec->kind == OPTION_CHOICE && !choice_ok(spec->values, value))
        return usage(why, why_len, "%s: it is one of %s", said, spec->values);
    if (spec->kind == OPTION_WORD && !word_ok(value))
        return usage(why, why_len, "%s: up to %d letters, digits and . _ - + @ are possible", said, CORE_NAME_MAX - 1);
    if (spec->kind == OPTION_NUMBER && (strlen(value) > 12 || strspn(value, "0123456789") != strlen(value)))
        return usage(why, why_len, "%s: a whole number is needed", said);
    if (spec->kind == OPTION_ADDRESS && address_parse(value, ADDRESS_PORT, host, &port) != 0)
        return usage(why, why_len, "%s: say HOST:PORT", said);
    if (id == OPTION_JOIN && (address_parse(value, ADDRESS_PORT, host, &port) != 0 || host[0] == 0 || port == 0))
        return usage(why, why_len, "%s: say HOST or HOST:PORT", said);
    if (id == OPTION_ALLOW && !allow_valid(value))
        return usage(why, why_len, "%s: say addresses, networks like 192.168.1.0/24, names, private or any", said);
    if (spec->only != NULL && strcmp(value, spec->only) != 0 && value[0] != 0) {
        if (spec->only[0] == 0)
            return usage(why, why_len, "%s: not in this build: leave it out", said);
        return usage(why, why_len, "%s: not in this build: leave it out, or say %s", said, spec->only);
    }
    return 0;
}

static int validate(const struct config *c, char *why, size_t why_len) {
    for (int i = 0; i < OPTIONS_COUNT; i++)
        for (uint32_t v = 0; v < c->settings[i].count; v++) {
            int r = value_check(c, (enum option_id)i, c->settings[i].values[v], why, why_len);
            if (r != 0)
                return r;
        }
    return 0;
}

/* The host name, with what names may not have left out. */
static int name_default(struct config *c) {
    char host[HOST_NAME_MAX + 1] = "", name[CORE_NAME_MAX] = "";
    size_t at = 0;
    if (c->settings[OPTION_NAME].count > 0)
        return 0;
    gethostname(host, sizeof(host) - 1);
    for (const char *p = host; *p != 0 && at + 1 < sizeof(name); p++)
        if (isalnum((unsigned char)*p) || strchr("._-", *p) != NULL)
            name[at++] = *p;
    name[at] = 0;
    c->settings[OPTION_NAME].source = SOURCE_DEFAULT;
    return config_put(c, OPTION_NAME, SOURCE_DEFAULT, at > 0 ? name : "node");
}

/* Instance and state as absolute paths, as far as they exist: the daemon's working directory then does not matter. */
static int paths_resolve(struct config *c) {
    char path[PATH_MAX], real[PATH_MAX];
    struct setting *instance = &c->settings[OPTION_INSTANCE], *state = &c->settings[OPTION_STATE];
    if (instance->count > 0 && realpath(instance->values[0], real) != NULL) {
        enum source source = instance->source;
        if (config_put(c, OPTION_INSTANCE, source, real) != 0)
            return ERR_NOMEM;
    }
    if (state->count == 0 && instance->count > 0) {
        if (snprintf(path, sizeof(path), "%s/.starling", instance->values[0]) >= (int)sizeof(path))
            return ERR_TOOBIG;
        state->source = SOURCE_DEFAULT;
        return config_put(c, OPTION_STATE, SOURCE_DEFAULT, path);
    }
    if (state->count > 0 && state->values[0][0] != '/' && getcwd(real, sizeof(real)) != NULL) {
        if (snprintf(path, sizeof(path), "%s/%s", real, state->values[0]) >= (int)sizeof(path))
            return ERR_TOOBIG;
        return config_put(c, OPTION_STATE, state->source, path);
    }
    return 0;
}

int config_load(struct config *c, int argc, char **argv, char *why, size_t why_len) {
    int r = 0;
    memset(c, 0, sizeof(*c));
    snprintf(why, why_len, "out of memory");
    for (int i = 0; i < OPTIONS_COUNT && r == 0; i++)
        r = config_put(c, (enum option_id)i, SOURCE_DEFAULT, SPECS[i].fallback);
    for (int i = 1, used = 0; i < argc && r == 0; i += used)
        r = flag_read(c, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &used, why, why_len);
    if (r == 0 && (c->command == COMMAND_HELP || c->command == COMMAND_VERSION))
        return 0;
    if (r == 0)
        r = environment_read(c);
    if (r == 0 && c->file != NULL)
        r = config_file_read(c, why, why_len);
    if (r == 0)
        r = validate(c, why, why_len);
    if (r == 0)
        r = name_default(c);
    if (r == 0)
        r = paths_resolve(c);
    if (r == 0 && c->command != COMMAND_PRINT_CONFIG && c->settings[OPTION_INSTANCE].count == 0)
        r = usage(why, why_len, "--instance DIR is missing: name the application's instance folder");
    if (r != 0)
        config_release(c);
    return r;
}

/* ---- printing */

static void print_quoted(FILE *out, const char *value) {
    fputc('"', out);
    for (; *value != 0; value++) {
        if (strchr("\"\\$", *value) != NULL)
            fputc('\\', out); /* "${X}" would otherwise be read as an environment variable */
        fputc(*value, out);
    }
    fputc('"', out);
}

static void print_policies(const struct database_policy *db, const char *table, const char *before, FILE *out) {
    for (uint32_t i = 0; i < db->policies_count; i++) {
        const struct policy_line *p = &db->policies[i];
        bool list = strcmp(p->name, "key") == 0 || strcmp(p->name, "refs") == 0;
        if (strcmp(p->table, table) != 0)
            continue;
        fprintf(out, "%s%s = %s", before, p->name, list ? "{" : p->value);
        char *copy = list ? strdup(p->value) : NULL, *rest = NULL;
        for (char *item = copy == NULL ? NULL : strtok_r(copy, "\n", &rest), *sep = ""; item != NULL;
             item = strtok_r(NULL, "\n", &rest), sep = ", ") {
            fputs(sep, out);
            print_quoted(out, item);
        }
        fputs(list ? "}" : "", out);
        free(copy);
    }
}

void config_print(const struct config *c, FILE *out) {
    fprintf(out, "# Starling configuration in force. It can be given back with --config FILE.\n");
    for (int i = 0; i < OPTIONS_COUNT; i++) {
        const struct setting *s = &c->settings[i];
        fprintf(out, "\n# %s\n# from: %s%s%s\n%s = ", SPECS[i].help, SOURCE_NAMES[s->source], s->source == SOURCE_FILE ? " " : "",
                s->source == SOURCE_FILE ? c->file : "", SPECS[i].name);
        if (SPECS[i].kind != OPTION_LIST) {
            print_quoted(out, config_text(c, (enum option_id)i));
        } else {
            fputc('{', out);
            for (uint32_t v = 0; v < s->count; v++) {
                fputs(v == 0 ? "" : ", ", out);
                print_quoted(out, s->values[v]);
            }
            fputc('}', out);
        }
        fputc('\n', out);
    }
    for (uint32_t i = 0; i < c->databases_count; i++) {
        fprintf(out, "\n# from: file %s\ndatabase ", c->file);
        print_quoted(out, c->databases[i].db);
        fputs(c->databases[i].replicate ? " {\n" : " {\n    replicate = no\n", out);
        const struct ddl_policy *ddl = ddl_of(c, c->databases[i].db);
        if (ddl != NULL)
            fprintf(out, "    ddl = %s\n", ddl->follow ? "follow" : "local");
        print_policies(&c->databases[i], "", "\n    ", out);
        fputc('\n', out);
        for (uint32_t t = 0; t < c->databases[i].tables_count; t++) {
            fputs("    table ", out);
            print_quoted(out, c->databases[i].tables[t].table);
            fprintf(out, " { replicate = %s", c->databases[i].tables[t].replicate ? "yes" : "no");
            print_policies(&c->databases[i], c->databases[i].tables[t].table, " ", out);
            fputs(" }\n", out);
        }
        fputs("}\n", out);
    }
    config_files_print(&c->files, out);
}

void config_help(FILE *out) {
    fprintf(out, "starlingd: keeps an application's SQLite databases and files the same on every server that runs it\n\n"
                 "usage: starlingd --instance DIR [--join HOST[:PORT]]... [flags]\n\n");
    for (int i = 0; i < OPTIONS_COUNT; i++) {
        if ((SPECS[i].places & AS_FLAG) == 0)
            continue;
        char flag[96];
        snprintf(flag, sizeof(flag), "--%s %s", SPECS[i].name, SPECS[i].argument);
        for (char *p = flag; *p != 0 && *p != ' '; p++)
            *p = *p == '_' ? '-' : *p;
        fprintf(out, "  %-26s %s%s%s%s\n", flag, SPECS[i].help, SPECS[i].fallback[0] != 0 ? " (default: " : "", SPECS[i].fallback,
                SPECS[i].fallback[0] != 0 ? ")" : "");
    }
    fprintf(out, "  %-26s %s\n  %-26s %s\n", "--config FILE", "configuration file; --print-config shows its form", "--set KEY=VALUE",
            "global keys:");
    for (int i = 0; i < OPTIONS_COUNT; i++)
        if ((SPECS[i].places & AS_SET) != 0)
            fprintf(out, "    %-24s %s (default: %s)\n", SPECS[i].name, SPECS[i].help, SPECS[i].fallback);
    fprintf(out, "  %-26s %s\n  %-26s %s\n  %-26s %s\n  %-26s %s\n  %-26s %s\n\n", "--check",
            "look at configuration, databases, ports and permissions; change nothing", "--print-config",
            "print the configuration in force, each value with its source", "--preview",
            "ask --join HOST what joining would do to the rows here, as JSON (starling doctor --join HOST shows it); change nothing",
            "--uninstall", "remove every trigger and table of ours from the databases", "--version, --help", "");
    fprintf(out, "Each setting is also an environment variable (STARLING_NAME, …) and a keyword of the file; flag > environment > file > "
                 "default.\nExit: 0 asked to stop, 1 failed while running, 2 wrong usage, configuration, or port taken.\n");
}
