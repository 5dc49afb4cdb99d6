#include "node/files/rules.h"

#include <fnmatch.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "node/dbname.h"
#include "node/files/beneath.h"

static const char *const USUAL[] = {
    ".*",           "*.bak",        "*.bak[0-9]", "*.backup",      "*.old",       "*.orig",    "*~",          "backup/", "backups/",
    "*.log",        "*.log.[0-9]*", "logs/",      "*.lock",        "*.lck",       "*.pid",     "*.sock",      "lock/",   "locks/",
    "*.tmp",        "*.temp",       "*.part",     "*.swp",         "*.swo",       "#*#",       "tmp/",        "temp/",   "cache/",
    "__pycache__/", "*.pyc",        "*.pyo",      "node_modules/", "lost+found/", "Thumbs.db", "desktop.ini", NULL,
};

/* As fnmatch(), which is slow at what nearly all patterns are: "name", "*.end". */
static bool text_matches(const char *pattern, size_t n, const char *text, size_t len) {
    char a[BENEATH_PATH_MAX + 1], b[BENEATH_PATH_MAX + 1];
    size_t star = n > 0 && pattern[0] == '*', wild = star;
    while (wild < n && strchr("*?[\\/", pattern[wild]) == NULL)
        wild++;
    if (wild == n && memchr(text, '/', len) == NULL)
        return star != 0 ? len >= n - 1 && memcmp(text + len - (n - 1), pattern + 1, n - 1) == 0
                         : len == n && memcmp(text, pattern, n) == 0;
    memcpy(a, pattern, n);
    memcpy(b, text, len);
    a[n] = b[len] = 0;
    return fnmatch(a, b, FNM_PATHNAME) == 0;
}

/* One component [part, part + len) of path, that begins at its start or after a '/'; folder: whether it is one. */
static bool matches(const char *pattern, const char *path, size_t upto, size_t part, bool folder) {
    size_t n = strlen(pattern);
    if (n == 0 || n > BENEATH_PATH_MAX || upto > BENEATH_PATH_MAX)
        return false;
    if (pattern[n - 1] == '/') {
        if (!folder)
            return false;
        n--;
    }
    size_t from = memchr(pattern, '/', n) != NULL ? 0 : part, rooted = pattern[0] == '/';
    return text_matches(pattern + rooted, n - rooted, path + from, upto - from);
}

static const char *any(const char *const *patterns, const char *path, size_t upto, size_t part, bool folder) {
    for (; patterns != NULL && *patterns != NULL; patterns++)
        if (matches(*patterns, path, upto, part, folder))
            return *patterns;
    return NULL;
}

/* The bytes of an extra folder's name at the beginning of path, with its '/'; 0: it is none that is here. */
static size_t extra_of(const struct rules *r, const char *path) {
    for (const char *const *e = r->extra; e != NULL && *e != NULL; e++)
        if (strncmp(path, *e, strlen(*e)) == 0 && (path[strlen(*e)] == '/' || path[strlen(*e)] == 0))
            return strlen(*e) + (path[strlen(*e)] == '/');
    return 0;
}

bool rules_take(const struct rules *r, const char *path, bool folder, const char **why) {
    const char *rule = NULL;
    bool included = false;
    path += extra_of(r, path);
    if (*path == 0) /* an extra folder itself */
        return folder;
    for (size_t part = 0;;) {
        size_t upto = part + strcspn(path + part, "/");
        bool last = path[upto] == 0, dir = !last || folder;
        size_t len = upto - part;
        size_t ours = strlen(DBNAME_STATE_FOLDER);
        if (len >= ours && strncasecmp(path + part, DBNAME_STATE_FOLDER, ours) == 0 &&
            (len == ours || path[part + ours] == '-' || path[part + ours] == '+'))
            rule = "our own";
        else if (last && !folder && (dbname_usual(path + part) || dbname_companion(path + part)))
            rule = "a database, or a part of one: it is replicated by rows";
        if (rule == NULL && any(r->include, path, upto, part, dir) != NULL)
            included = true;
        else if (rule == NULL && (rule = any(r->exclude, path, upto, part, dir)) == NULL && !included)
            rule = any(USUAL, path, upto, part, dir);
        if (rule != NULL || last)
            break;
        part = upto + 1;
    }
    if (why != NULL)
        *why = rule;
    return rule == NULL;
}
