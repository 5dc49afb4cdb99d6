/* Starling node: the configuration file, in libconfuse's syntax. The keywords come from the table; below databases and files there are
 * sections. Keywords with '_' may also be written with '-', as the flags are. */
#include "node/config.h"

#include <confuse.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/err.h"

/* libconfuse hands no context to its error function. Set only while this thread parses a file. */
struct parse_error {
    char *why;
    size_t why_len;
    bool said;
};
static _Thread_local struct parse_error *parse_error;

static void on_error(cfg_t *cfg, const char *format, va_list ap) {
    if (parse_error == NULL || parse_error->said)
        return; /* the first one is what the user has to mend */
    int n = snprintf(parse_error->why, parse_error->why_len, "%s:%d: ", cfg->filename != NULL ? cfg->filename : "configuration", cfg->line);
    if (n > 0 && (size_t)n < parse_error->why_len)
        vsnprintf(parse_error->why + n, parse_error->why_len - (size_t)n, format, ap);
    parse_error->said = true;
}

static cfg_opt_t TABLE_OPTIONS[] = {CFG_BOOL("replicate", cfg_true, CFGF_NODEFAULT), CFG_STR_LIST("key", NULL, CFGF_NODEFAULT),
                                    CFG_STR_LIST("refs", NULL, CFGF_NODEFAULT),      CFG_STR("unique", NULL, CFGF_NODEFAULT),
                                    CFG_STR("orphans", NULL, CFGF_NODEFAULT),        CFG_END()};
static cfg_opt_t DATABASE_OPTIONS[] = {CFG_SEC("table", TABLE_OPTIONS, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
                                       CFG_BOOL("replicate", cfg_true, CFGF_NODEFAULT),
                                       CFG_STR("unique", NULL, CFGF_NODEFAULT),
                                       CFG_STR("orphans", NULL, CFGF_NODEFAULT),
                                       CFG_STR("ddl", NULL, CFGF_NODEFAULT),
                                       CFG_END()};
static cfg_opt_t PATH_OPTIONS[] = {CFG_STR("run", NULL, CFGF_NODEFAULT), CFG_INT("run_s", 0, CFGF_NODEFAULT),
                                   CFG_STR("merge", NULL, CFGF_NODEFAULT), CFG_END()};
static cfg_opt_t FOLDER_OPTIONS[] = {CFG_STR("path", NULL, CFGF_NODEFAULT), CFG_END()};
static cfg_opt_t FILES_OPTIONS[] = {CFG_STR_LIST("exclude", NULL, CFGF_NODEFAULT),
                                    CFG_STR_LIST("include", NULL, CFGF_NODEFAULT),
                                    CFG_INT("max_mb", 0, CFGF_NODEFAULT),
                                    CFG_INT("quota_mb", 0, CFGF_NODEFAULT),
                                    CFG_STR("owner", NULL, CFGF_NODEFAULT),
                                    CFG_STR("modes", NULL, CFGF_NODEFAULT),
                                    CFG_SEC("path", PATH_OPTIONS, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
                                    CFG_SEC("folder", FOLDER_OPTIONS, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
                                    CFG_END()};

/* One policy, refused where it can never be one. `table` "": all of the database. */
static int policy_add(struct config *c, struct database_policy *db, cfg_t *section, const char *table, const char *name, const char *value,
                      char *why, size_t why_len) {
    char where[600];
    const char *wants = policy_refuse(name, value);
    snprintf(where, sizeof(where), "%.500s:%d", c->file, section->line);
    if (wants != NULL) {
        snprintf(why, why_len, "%s: %s %s: %s = %.100s: %s", where, table[0] != 0 ? "table" : "database", cfg_title(section), name, value,
                 wants);
        for (char *p = why; *p != 0; p++)
            *p = *p == '\n' ? ',' : *p;
        return ERR_USAGE;
    }
    struct policy_line *more = realloc(db->policies, (db->policies_count + 1) * sizeof(*more));
    if (more == NULL)
        return ERR_NOMEM;
    db->policies = more;
    struct policy_line *l = &more[db->policies_count++];
    *l = (struct policy_line){strdup(table), strdup(name), strdup(value), strdup(where)};
    return l->table != NULL && l->name != NULL && l->value != NULL && l->where != NULL ? 0 : ERR_NOMEM;
}

/* unique and orphans, of a table or of all. */
static int choices_read(struct config *c, struct database_policy *db, cfg_t *section, const char *table, char *why, size_t why_len) {
    static const char *const NAMES[] = {"unique", "orphans"};
    int r = 0;
    for (int i = 0; i < 2 && r == 0; i++)
        if (cfg_size(section, NAMES[i]) > 0 && cfg_getstr(section, NAMES[i]) != NULL)
            r = policy_add(c, db, section, table, NAMES[i], cfg_getstr(section, NAMES[i]), why, why_len);
    return r;
}

/* key and refs: one item a line. */
static int lists_read(struct config *c, struct database_policy *db, cfg_t *section, char *why, size_t why_len) {
    static const char *const NAMES[] = {"key", "refs"};
    int r = 0;
    for (int i = 0; i < 2 && r == 0; i++) {
        char *text = NULL;
        size_t len = 0;
        FILE *out = cfg_size(section, NAMES[i]) > 0 ? open_memstream(&text, &len) : NULL;
        if (out == NULL)
            continue;
        for (unsigned n = 0; n < cfg_size(section, NAMES[i]); n++)
            fprintf(out, "%s%s", n > 0 ? "\n" : "", cfg_getnstr(section, NAMES[i], n)[0] != 0 ? cfg_getnstr(section, NAMES[i], n) : "\n");
        r = fclose(out) == 0 ? policy_add(c, db, section, cfg_title(section), NAMES[i], text, why, why_len) : ERR_NOMEM;
        free(text);
    }
    return r;
}

static int table_read(struct config *c, struct database_policy *db, cfg_t *section, char *why, size_t why_len) {
    struct table_policy *tables = realloc(db->tables, (db->tables_count + 1) * sizeof(*tables));
    if (tables == NULL)
        return ERR_NOMEM;
    db->tables = tables;
    struct table_policy *t = &tables[db->tables_count];
    t->replicate = cfg_size(section, "replicate") == 0 || cfg_getbool(section, "replicate");
    if ((t->table = strdup(cfg_title(section))) == NULL)
        return ERR_NOMEM;
    db->tables_count++;
    int r = choices_read(c, db, section, t->table, why, why_len);
    return r != 0 ? r : lists_read(c, db, section, why, why_len);
}

static int ddl_read(struct config *c, cfg_t *section, char *why, size_t why_len) {
    const char *value = cfg_size(section, "ddl") > 0 ? cfg_getstr(section, "ddl") : NULL;
    if (value == NULL)
        return 0;
    bool follow = strcmp(value, "follow") == 0;
    if (!follow && strcmp(value, "local") != 0) {
        snprintf(why, why_len, "%s: database %s: ddl = %s: it is one of local|follow", c->file, cfg_title(section), value);
        return ERR_USAGE;
    }
    struct ddl_policy *ddl = realloc(c->ddl, (c->ddl_count + 1) * sizeof(*ddl));
    char *db = strdup(cfg_title(section));
    if (ddl != NULL)
        c->ddl = ddl;
    if (ddl == NULL || db == NULL) {
        free(db);
        return ERR_NOMEM;
    }
    ddl[c->ddl_count++] = (struct ddl_policy){db, follow};
    return 0;
}

static int database_read(struct config *c, cfg_t *section, char *why, size_t why_len) {
    struct database_policy *databases = realloc(c->databases, (c->databases_count + 1) * sizeof(*databases));
    uint32_t excluded = 0;
    if (databases == NULL)
        return ERR_NOMEM;
    c->databases = databases;
    struct database_policy *db = &databases[c->databases_count];
    memset(db, 0, sizeof(*db));
    if ((db->db = strdup(cfg_title(section))) == NULL)
        return ERR_NOMEM;
    c->databases_count++;
    db->replicate = cfg_size(section, "replicate") == 0 || cfg_getbool(section, "replicate");
    int r = choices_read(c, db, section, "", why, why_len);
    if (r == 0)
        r = ddl_read(c, section, why, why_len);
    for (unsigned i = 0; i < cfg_size(section, "table") && r == 0; i++)
        r = table_read(c, db, cfg_getnsec(section, "table", i), why, why_len);
    if (r != 0)
        return r;
    if ((db->excluded = calloc(db->tables_count + 1, sizeof(*db->excluded))) == NULL)
        return ERR_NOMEM;
    for (uint32_t t = 0; t < db->tables_count; t++)
        if (!db->tables[t].replicate)
            db->excluded[excluded++] = db->tables[t].table;
    return 0;
}

static int options_take(struct config *c, cfg_t *cfg, char *why, size_t why_len) {
    int r = 0;
    for (int i = 0; i < OPTIONS_COUNT; i++) {
        const struct option_spec *spec = config_spec((enum option_id)i);
        char dashed[64];
        snprintf(dashed, sizeof(dashed), "%s", spec->name);
        for (char *p = dashed; *p != 0; p++)
            *p = *p == '_' ? '-' : *p;
        for (int form = 0; form < (strcmp(dashed, spec->name) == 0 ? 1 : 2); form++)
            for (unsigned v = 0; v < cfg_size(cfg, form == 0 ? spec->name : dashed) && r == 0; v++)
                r = config_put(c, (enum option_id)i, SOURCE_FILE, cfg_getnstr(cfg, form == 0 ? spec->name : dashed, v));
    }
    for (unsigned i = 0; i < cfg_size(cfg, "database") && r == 0; i++)
        r = database_read(c, cfg_getnsec(cfg, "database", i), why, why_len);
    cfg_t *files = cfg_size(cfg, "files") > 0 ? cfg_getsec(cfg, "files") : NULL;
    if (r == 0 && files != NULL)
        r = config_files_read(&c->files, files, c->file, why, why_len);
    return r;
}

int config_file_read(struct config *c, char *why, size_t why_len) {
    struct stat st;
    if (stat(c->file, &st) == 0 && S_ISDIR(st.st_mode)) { /* its scanner would end the process */
        snprintf(why, why_len, "cannot read the configuration %s: it is a folder: name a file in it", c->file);
        return ERR_USAGE;
    }
    char dashed[OPTIONS_COUNT][64];
    cfg_opt_t options[2 * OPTIONS_COUNT + 3];
    size_t n = 0;
    for (int i = 0; i < OPTIONS_COUNT; i++) {
        const struct option_spec *spec = config_spec((enum option_id)i);
        snprintf(dashed[i], sizeof(dashed[i]), "%s", spec->name);
        for (char *p = dashed[i]; *p != 0; p++)
            *p = *p == '_' ? '-' : *p;
        const cfg_opt_t text = CFG_STR(spec->name, NULL, CFGF_NODEFAULT), list = CFG_STR_LIST(spec->name, NULL, CFGF_NODEFAULT);
        options[n++] = spec->kind == OPTION_LIST ? list : text;
        if (strcmp(dashed[i], spec->name) == 0)
            continue;
        options[n] = options[n - 1];
        options[n++].name = dashed[i];
    }
    const cfg_opt_t sections[] = {CFG_SEC("database", DATABASE_OPTIONS, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
                                  CFG_SEC("files", FILES_OPTIONS, CFGF_NONE), CFG_END()};
    memcpy(options + n, sections, sizeof(sections));

    struct parse_error error = {why, why_len, false};
    cfg_t *cfg = cfg_init(options, CFGF_NONE);
    if (cfg == NULL)
        return ERR_NOMEM;
    cfg_set_error_function(cfg, on_error);
    parse_error = &error;
    int parsed = cfg_parse(cfg, c->file), r = ERR_USAGE;
    parse_error = NULL;
    if (parsed == CFG_FILE_ERROR)
        snprintf(why, why_len, "cannot read the configuration %s: check its name and permissions", c->file);
    else if (parsed != CFG_SUCCESS && !error.said)
        snprintf(why, why_len, "%s: not a valid configuration: see starlingd --print-config", c->file);
    else if (parsed == CFG_SUCCESS)
        r = options_take(c, cfg, why, why_len);
    cfg_free(cfg);
    return r;
}
