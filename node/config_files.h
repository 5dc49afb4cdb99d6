/* Starling node: the section `files` of the configuration file:
 *   files {
 *       exclude = { "*.cache", "secrets/" }    never replicated, in or out; patterns as in files/rules.h
 *       include = { "*.log" }                  replicated although the usual exclusions name it
 *       max_mb = 2048                          larger files are left alone; 0: no limit
 *       quota_mb = 100000                      what others wrote is not fetched beyond that, of all files here together; 0: no limit
 *       owner = "www-data:www-data"            whose files are that are put here; else whose what is replaced was, or the folder is (as root)
 *       modes = local                          permissions are this server's own affair; replicate (the default): as where it was written
 *       folder "photos" { path = "/srv/photos" } replicated as well, with whoever has an extra folder of this name
 *       path "*.json" { run = "…" }             a command after a change of others arrived there: sh -c, with STARLING_PATH and STARLING_OP
 *       path "chat/" { merge = json }          where two servers changed it at once; none: both versions are kept (the default)
 *   } */
#ifndef NODE_CONFIG_FILES_H
#define NODE_CONFIG_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct files_hook {
    char *pattern, *run; /* run: NULL none */
    uint32_t run_s;      /* at most */
    bool json;           /* both sides changed: merged by what is in it */
};

struct files_folder {
    char *name, *path;
};

struct files_policy {
    char **exclude, **include; /* NULL-terminated; NULL: none */
    uint64_t max_mb, quota_mb;
    char *owner; /* NULL: as what is there */
    uint32_t uid, gid;
    bool modes_local;
    struct files_hook *hooks;
    uint32_t hooks_count;
    struct files_folder *folders; /* outside of the instance folder */
    uint32_t folders_count;
};

struct cfg_t;
/* section: of libconfuse. 0, ERR_NOMEM, or ERR_USAGE: why has a line. */
int config_files_read(struct files_policy *p, struct cfg_t *section, const char *file, char *why, size_t why_len);
void config_files_release(struct files_policy *p);
void config_files_print(const struct files_policy *p, FILE *out); /* nothing where nothing is set */

#endif
