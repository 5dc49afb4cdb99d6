#include "node/config_files.h"

#include <confuse.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/err.h"

#define RUN_S 60
#define RUN_S_MAX 3600

#define MAX_MB_MAX 100000000
#define FOLDER_NAME_MAX 100

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

static int megabytes(uint64_t *out, cfg_t *section, const char *name, const char *file, char *why, size_t why_len) {
    long mb = cfg_size(section, name) > 0 ? cfg_getint(section, name) : 0;
    if (mb < 0 || mb > MAX_MB_MAX) {
        snprintf(why, why_len, "%s: files: %s = %ld: it is a whole number of megabytes; 0: no limit", file, name, mb);
        return ERR_USAGE;
    }
    *out = (uint64_t)mb;
    return 0;
}

/* A number, or what the system calls so. */
static bool id_of(const char *text, bool group, uint32_t *out) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == 0 && n < UINT32_MAX) {
        *out = (uint32_t)n;
        return true;
    }
    struct passwd *pw = group ? NULL : getpwnam(text);
    struct group *gr = group ? getgrnam(text) : NULL;
    if (pw != NULL)
        *out = pw->pw_uid;
    if (gr != NULL)
        *out = gr->gr_gid;
    return pw != NULL || gr != NULL;
}

/* USER, or USER:GROUP. */
static int owner_read(struct files_policy *p, cfg_t *section, const char *file, char *why, size_t why_len) {
    const char *text = cfg_size(section, "owner") > 0 ? cfg_getstr(section, "owner") : "";
    if (text[0] == 0)
        return 0;
    if ((p->owner = strdup(text)) == NULL)
        return ERR_NOMEM;
    char *copy = strdup(text), *group = copy == NULL ? NULL : strchr(copy, ':');
    if (group != NULL)
        *group++ = 0;
    p->gid = UINT32_MAX; /* none given: as it is */
    bool ok = copy != NULL && id_of(copy, false, &p->uid) && (group == NULL || id_of(group, true, &p->gid));
    free(copy);
    if (ok && geteuid() == 0)
        return 0;
    snprintf(why, why_len,
             ok ? "%s: files: owner = %s: only root can give files away" : "%s: files: owner = %s: there is no such user, or group", file,
             text);
    return ERR_USAGE;
}

static int choice_read(bool *out, cfg_t *section, const char *file, char *why, size_t why_len) {
    const char *text = cfg_size(section, "modes") > 0 ? cfg_getstr(section, "modes") : "replicate";
    *out = strcmp(text, "local") == 0;
    if (*out || strcmp(text, "replicate") == 0)
        return 0;
    snprintf(why, why_len, "%s: files: modes = %s: it is one of replicate|local", file, text);
    return ERR_USAGE;
}

static int folders_read(struct files_policy *p, cfg_t *section, const char *file, char *why, size_t why_len) {
    unsigned n = cfg_size(section, "folder");
    if (n > 0 && (p->folders = calloc(n, sizeof(*p->folders))) == NULL)
        return ERR_NOMEM;
    for (unsigned i = 0; i < n; i++) {
        cfg_t *folder = cfg_getnsec(section, "folder", i);
        const char *name = cfg_title(folder), *path = cfg_size(folder, "path") > 0 ? cfg_getstr(folder, "path") : "";
        if (name[0] == 0 || strlen(name) > FOLDER_NAME_MAX || strchr(name, '/') != NULL || path[0] != '/') {
            snprintf(why, why_len, "%s: files: folder %s: it has a name without /, and path = the whole path of a folder, from /", file,
                     name);
            return ERR_USAGE;
        }
        struct files_folder *f = &p->folders[p->folders_count++];
        if ((f->name = strdup(name)) == NULL || (f->path = strdup(path)) == NULL)
            return ERR_NOMEM;
    }
    return 0;
}

int config_files_read(struct files_policy *p, cfg_t *section, const char *file, char *why, size_t why_len) {
    unsigned n = cfg_size(section, "path");
    int r = megabytes(&p->max_mb, section, "max_mb", file, why, why_len);
    if (r == 0)
        r = megabytes(&p->quota_mb, section, "quota_mb", file, why, why_len);
    if (r == 0)
        r = owner_read(p, section, file, why, why_len);
    if (r == 0)
        r = choice_read(&p->modes_local, section, file, why, why_len);
    if (r == 0)
        r = folders_read(p, section, file, why, why_len);
    if (r == 0)
        r = list_read(&p->exclude, section, "exclude");
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
        long run_s = cfg_size(path, "run_s") > 0 ? cfg_getint(path, "run_s") : RUN_S;
        if (run_s < 1 || run_s > RUN_S_MAX) {
            snprintf(why, why_len, "%s: files: path %s: run_s = %ld: it is a number of seconds, from 1 to %d", file, cfg_title(path), run_s,
                     RUN_S_MAX);
            return ERR_USAGE;
        }
        hook->run_s = (uint32_t)run_s;
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
    for (uint32_t i = 0; i < p->folders_count; i++) {
        free(p->folders[i].name);
        free(p->folders[i].path);
    }
    free(p->folders);
    free(p->owner);
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
    if (p->exclude == NULL && p->include == NULL && p->max_mb == 0 && p->quota_mb == 0 && p->owner == NULL && !p->modes_local &&
        p->folders_count == 0 && p->hooks_count == 0)
        return;
    fputs("\nfiles {\n", out);
    list_print(p->exclude, "exclude", out);
    list_print(p->include, "include", out);
    if (p->max_mb > 0)
        fprintf(out, "    max_mb = %llu\n", (unsigned long long)p->max_mb);
    if (p->quota_mb > 0)
        fprintf(out, "    quota_mb = %llu\n", (unsigned long long)p->quota_mb);
    if (p->owner != NULL) {
        fputs("    owner = ", out);
        quoted(out, p->owner);
        fputc('\n', out);
    }
    if (p->modes_local)
        fputs("    modes = local\n", out);
    for (uint32_t i = 0; i < p->folders_count; i++) {
        fputs("    folder ", out);
        quoted(out, p->folders[i].name);
        fputs(" { path = ", out);
        quoted(out, p->folders[i].path);
        fputs(" }\n", out);
    }
    for (uint32_t i = 0; i < p->hooks_count; i++) {
        fputs("    path ", out);
        quoted(out, p->hooks[i].pattern);
        fputs(p->hooks[i].json ? " { merge = json" : " {", out);
        if (p->hooks[i].run != NULL) {
            fputs(" run = ", out);
            quoted(out, p->hooks[i].run);
            if (p->hooks[i].run_s != RUN_S)
                fprintf(out, " run_s = %u", (unsigned)p->hooks[i].run_s);
        }
        fputs(" }\n", out);
    }
    fputs("}\n", out);
}
