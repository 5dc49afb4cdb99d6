/* Starling node: the configuration. One table (options.def) and one precedence: flag > STARLING_* environment > file > default.
 *
 * A value that this build cannot act on is an error and not ignored: a policy that is silently not followed is a lie. */
#ifndef NODE_CONFIG_H
#define NODE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "node/config_files.h"
#include "node/store/policy.h"

enum option_id {
#define OPTION(id, name, kind, fallback, values, only, places, argument, help) OPTION_##id,
#include "node/options.def"
#undef OPTION
    OPTIONS_COUNT
};

enum option_kind { OPTION_TEXT, OPTION_LIST, OPTION_NUMBER, OPTION_CHOICE, OPTION_WORD, OPTION_ADDRESS };
enum { AS_FLAG = 1, AS_SET = 2 };

struct option_spec {
    const char *name, *fallback, *values, *only, *argument, *help;
    enum option_kind kind;
    int places;
};

enum source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG };

struct setting {
    char **values; /* LIST: any number; others: one, or none when unset */
    uint32_t count;
    enum source source;
};

struct table_policy {
    char *table;
    bool replicate;
};

struct database_policy {
    char *db;
    bool replicate; /* no: this server neither sends nor takes it */
    struct table_policy *tables;
    uint32_t tables_count;
    struct policy_line *policies; /* owned */
    uint32_t policies_count;
    const char **excluded; /* NULL-terminated names of tables with replicate = no, borrowed from tables; NULL: none */
};

/* ddl = … of one database; apart from the above, since it may change while running. */
struct ddl_policy {
    char *db;
    bool follow;
};

enum command { COMMAND_RUN, COMMAND_CHECK, COMMAND_PREVIEW, COMMAND_PRINT_CONFIG, COMMAND_UNINSTALL, COMMAND_VERSION, COMMAND_HELP };

struct config {
    enum command command;
    char *file; /* --config; NULL none */
    struct setting settings[OPTIONS_COUNT];
    struct database_policy *databases;
    uint32_t databases_count;
    struct ddl_policy *ddl;
    uint32_t ddl_count;
    struct files_policy files;
};

/* Reads all sources and validates. On failure why has one line, and c is released. 0 or ERR_USAGE, ERR_NOMEM. */
int config_load(struct config *c, int argc, char **argv, char *why, size_t why_len);
void config_release(struct config *c);

const struct option_spec *config_spec(enum option_id id);
const char *config_text(const struct config *c, enum option_id id); /* "" when unset; not for lists */
uint64_t config_number(const struct config *c, enum option_id id);
bool config_same(const struct config *a, const struct config *b, enum option_id id);
bool config_replicates(const struct config *c, const char *db);
/* NULL, or the NULL-terminated names of the tables of db that are not replicated. */
const char *const *config_excluded(const struct config *c, const char *db);
/* What it says of the tables of db; *count may be 0. */
const struct policy_line *config_policies(const struct config *c, const char *db, uint32_t *count);
/* Are schema changes of other servers followed in db? What is said of it, or else of all. */
bool config_follows(const struct config *c, const char *db);

void config_print(const struct config *c, FILE *out); /* a valid configuration file with sources */
void config_help(FILE *out);

/* For the file reader: adds a value from a source; a stronger source's values replace weaker ones. */
int config_put(struct config *c, enum option_id id, enum source source, const char *value);
/* config_file.c: reads c->file into c with SOURCE_FILE. */
int config_file_read(struct config *c, char *why, size_t why_len);

#endif
