#include "node/dbname.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "proto/batch.h"

static bool ends_with(const char *name, const char *end) {
    size_t name_len = strlen(name), end_len = strlen(end);
    return name_len > end_len && strcasecmp(name + name_len - end_len, end) == 0;
}

bool dbname_usual(const char *name) { return ends_with(name, ".db") || ends_with(name, ".sqlite") || ends_with(name, ".sqlite3"); }

bool dbname_companion(const char *name) { return ends_with(name, "-wal") || ends_with(name, "-shm") || ends_with(name, "-journal"); }

/* Well-formed UTF-8 without control characters: names appear in JSON and in log lines. */
static bool text_ok(const char *text) {
    for (const uint8_t *p = (const uint8_t *)text; *p != 0;) {
        int more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : *p >= 0xf0 && *p < 0xf5 ? 3 : -1;
        if (more < 0 || *p < 0x20 || *p == 0x7f || *p == '\\')
            return false;
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] >= 0xa0) || (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] >= 0x90))
            return false; /* overlong, surrogates, beyond U+10FFFF */
        for (p++; more > 0; more--, p++)
            if ((*p & 0xc0) != 0x80)
                return false;
    }
    return true;
}

bool dbname_ok(const char *name) {
    size_t len = strlen(name);
    if (len == 0 || len > BATCH_DB_NAME_MAX || dbname_companion(name) || !text_ok(name))
        return false;
    for (const char *part = name;; part = strchr(part, '/') + 1) {
        size_t part_len = strcspn(part, "/");
        if (part_len == 0 || (part_len == 1 && part[0] == '.') || (part_len == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        if (part_len == strlen(DBNAME_STATE_FOLDER) && strncasecmp(part, DBNAME_STATE_FOLDER, part_len) == 0)
            return false;
        if (part[part_len] == 0)
            return true;
    }
}

bool dbname_escape(const char *name, char *out, size_t out_max) {
    size_t at = 0;
    for (; *name != 0; name++) {
        bool odd = *name == '/' || *name == '%';
        if (at + (odd ? 3 : 1) >= out_max)
            return false;
        if (odd) {
            memcpy(out + at, *name == '/' ? "%2F" : "%25", 3);
            at += 3;
        } else {
            out[at++] = *name;
        }
    }
    out[at] = 0;
    return true;
}
