#include "node/config_files.h"

#include <confuse.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

#define MAX_MB_MAX 100000000

static int list_read(char ***out, cfg_t *section, const char *name) {
    unsigned n = cfg_size(section, name);
    if (n == 0)
        return 0;
    if ((*out = calloc(n + 1, sizeof(**out))) == NULL)
        return ERR_NOMEM;
    for (unsigned i = 0; i < n; i++)
        if (((*out)[i] = strdup(cfg_getnstr(section, name, i))) == NULL)
            return ERR_NOMEM;
    return 0;
}

int config_files_read(struct files_policy *p, cfg_t *section, const char *file, char *why, size_t why_len) {
    unsigned n = cfg_size(section, "path");
    long max_mb = cfg_size(section, "max_mb") > 0 ? cfg_getint(section, "max_mb") : 0;
    if (max_mb < 0 || max_mb > MAX_MB_MAX) {
        snprintf(why, why_len, "%s: files: max_mb = %ld: it is a whole number of megabytes; 0: no limit", file, max_mb);
        return ERR_USAGE;
    }
    p->max_mb = (uint64_t)max_mb;
    int r = list_read(&p->exclude, section, "exclude");
    if (r == 0)
        r = list_read(&p->include, section, "include");
    if (r != 0 || n == 0)
        return r;
    if ((p->hooks = calloc(n, sizeof(*p->hooks))) == NULL)
        return ERR_NOMEM;
    for (unsigned i = 0; i < n; i++) {
        cfg_t *path = cfg_getnsec(section, "path", i);
        const char *run = cfg_size(path, "run") > 0 ? cfg_getstr(path, "run") : "",
                   *merge = cfg_size(path, "merge") > 0 ? cfg_getstr(path, "merge") : "none";
        struct files_hook *hook = &p->hooks[p->hooks_count++];
        hook->json = strcmp(merge, "json") == 0;
        if (!hook->json && strcmp(merge, "none") != 0) {
            snprintf(why, why_len, "%s: files: path %s: merge = %s: it is one of none|json", file, cfg_title(path), merge);
            return ERR_USAGE;
        }
        if ((hook->pattern = strdup(cfg_title(path))) == NULL || (run[0] != 0 && (hook->run = strdup(run)) == NULL))
            return ERR_NOMEM;
    }
    return 0;
}

static void list_release(char **list) {
    for (char **each = list; each != NULL && *each != NULL; each++)
        free(*each);
    free(list);
}

void config_files_release(struct files_policy *p) {
    list_release(p->exclude);
    list_release(p->include);
    for (uint32_t i = 0; i < p->hooks_count; i++) {
        free(p->hooks[i].pattern);
        free(p->hooks[i].run);
    }
    free(p->hooks);
    memset(p, 0, sizeof(*p));
}

static void quoted(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\' || *text == '$')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void list_print(char **list, const char *name, FILE *out) {
    if (list == NULL)
        return;
    fprintf(out, "    %s = {", name);
    for (char **each = list; *each != NULL; each++) {
        fputs(each == list ? "" : ", ", out);
        quoted(out, *each);
    }
    fputs("}\n", out);
}

void config_files_print(const struct files_policy *p, FILE *out) {
    if (p->exclude == NULL && p->include == NULL && p->max_mb == 0 && p->hooks_count == 0)
        return;
    fputs("\nfiles {\n", out);
    list_print(p->exclude, "exclude", out);
    list_print(p->include, "include", out);
    if (p->max_mb > 0)
        fprintf(out, "    max_mb = %llu\n", (unsigned long long)p->max_mb);
    for (uint32_t i = 0; i < p->hooks_count; i++) {
        fputs("    path ", out);
        quoted(out, p->hooks[i].pattern);
        fputs(p->hooks[i].json ? " { merge = json" : " {", out);
        if (p->hooks[i].run != NULL) {
            fputs(" run = ", out);
            quoted(out, p->hooks[i].run);
        }
        fputs(" }\n", out);
    }
    fputs("}\n", out);
}
