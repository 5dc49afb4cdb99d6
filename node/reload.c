/* Starling node: SIGHUP. What can change while running does (log level and format, ddl, more addresses to join, who may connect, the
 * cluster's secret, what it says of files); of the rest it is said that it needs a restart. A configuration with an error changes nothing. */
#include "node/node.h"

#include <string.h>

#include "node/allow.h"
#include "node/files/files.h"
#include "node/rotate.h"

static const enum option_id TAKEN[] = {OPTION_JOIN,      OPTION_DDL,        OPTION_ALLOW,    OPTION_SECRET_FILE,
                                       OPTION_LOG_LEVEL, OPTION_LOG_FORMAT, OPTION_STILL_MS, OPTION_BANDWIDTH_KIB};

static bool taken(enum option_id id) {
    for (size_t i = 0; i < sizeof(TAKEN) / sizeof(TAKEN[0]); i++)
        if (TAKEN[i] == id)
            return true;
    return false;
}

static bool has(const struct setting *list, const char *value) {
    for (uint32_t i = 0; i < list->count; i++)
        if (strcmp(list->values[i], value) == 0)
            return true;
    return false;
}

/* Does b say the same of every database and table that a names? What is not named is replicated. */
static bool covers(const struct config *a, const struct config *b) {
    for (uint32_t i = 0; i < a->databases_count; i++)
        if (a->databases[i].replicate != config_replicates(b, a->databases[i].db))
            return false;
    for (uint32_t i = 0; i < a->databases_count; i++)
        for (uint32_t t = 0; t < a->databases[i].tables_count; t++) {
            const struct table_policy *p = &a->databases[i].tables[t];
            bool replicate = true;
            for (const char *const *e = config_excluded(b, a->databases[i].db); e != NULL && *e != NULL; e++)
                replicate = replicate && strcmp(*e, p->table) != 0;
            if (replicate != p->replicate)
                return false;
        }
    for (uint32_t i = 0; i < a->databases_count; i++)
        for (uint32_t n = 0; n < a->databases[i].policies_count; n++) {
            const struct policy_line *p = &a->databases[i].policies[n];
            uint32_t count;
            const struct policy_line *others = config_policies(b, a->databases[i].db, &count);
            bool same = false;
            for (uint32_t k = 0; k < count; k++)
                same = same || (strcmp(others[k].table, p->table) == 0 && strcmp(others[k].name, p->name) == 0 &&
                                strcmp(others[k].value, p->value) == 0);
            if (!same)
                return false;
        }
    return true;
}

static void take(struct node *n, struct config *fresh, enum option_id id) {
    struct setting keep = n->config.settings[id];
    n->config.settings[id] = fresh->settings[id];
    fresh->settings[id] = keep;
}

static void take_ddl(struct node *n, struct config *fresh) {
    struct ddl_policy *ddl = n->config.ddl;
    uint32_t count = n->config.ddl_count;
    n->config.ddl = fresh->ddl;
    n->config.ddl_count = fresh->ddl_count;
    fresh->ddl = ddl;
    fresh->ddl_count = count;
    databases_follow(n->databases);
}

/* Another secret in the file is a change of it, begun here. */
static void secret_again(struct node *n) {
    struct secure_secret fresh;
    char why[1024];
    if (secret_read(config_text(&n->config, OPTION_SECRET_FILE), &fresh, why, sizeof(why)) != 0)
        log_line(n->log, LOG_ERROR, NULL, "the cluster's secret stays what it was: %s", why);
    else if (!fresh.closed && n->keys.secrets[0].closed && secrets_given_anew(&n->secrets, &fresh))
        log_line(n->log, LOG_WARNING, NULL, "the cluster's secret stays while this runs: restart starlingd to go without one");
    else if (secrets_given_anew(&n->secrets, &fresh) && !secret_equal(&fresh, &n->keys.secrets[0]) &&
             rotation_begin(n->rotation, &fresh, why, sizeof(why)) != 0)
        log_line(n->log, LOG_ERROR, NULL, "the cluster's secret stays what it was: %s", why);
}

void node_reload(struct node *n) {
    struct config fresh;
    char why[1024];
    if (config_load(&fresh, n->argc, n->argv, why, sizeof(why)) != 0) {
        log_line(n->log, LOG_ERROR, NULL, "the configuration was not read again: %s", why);
        return;
    }
    for (uint32_t i = 0; i < fresh.settings[OPTION_JOIN].count; i++)
        if (!has(&n->config.settings[OPTION_JOIN], fresh.settings[OPTION_JOIN].values[i]))
            node_join(n, fresh.settings[OPTION_JOIN].values[i]);
    allow_configure(n->allow, fresh.settings[OPTION_ALLOW].values, fresh.settings[OPTION_ALLOW].count);
    transport_recheck(n->transport);
    if (n->files != NULL)
        files_reload(n->files, &fresh);
    for (size_t i = 0; i < sizeof(TAKEN) / sizeof(TAKEN[0]); i++)
        take(n, &fresh, TAKEN[i]);
    take_ddl(n, &fresh);
    secret_again(n);
    log_configure(n->log, config_text(&n->config, OPTION_LOG_LEVEL), config_text(&n->config, OPTION_LOG_FORMAT));
    log_line(n->log, LOG_INFO, NULL, "the configuration was read again");
    for (int i = 0; i < OPTIONS_COUNT; i++)
        if (!taken((enum option_id)i) && !config_same(&n->config, &fresh, (enum option_id)i))
            log_line(n->log, LOG_WARNING, NULL, "%s has changed: restart starlingd for it", config_spec((enum option_id)i)->name);
    if (!covers(&n->config, &fresh) || !covers(&fresh, &n->config))
        log_line(n->log, LOG_WARNING, NULL, "the settings of databases or tables have changed: restart starlingd for them");
    config_release(&fresh);
}
