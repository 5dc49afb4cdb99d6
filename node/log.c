#include "node/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utlist.h>

#include "node/clock.h"

static const char *const LEVELS[] = {"error", "warning", "info", "debug"};

struct log_reader {
    void (*entry)(void *ctx, const struct log_entry *e);
    void *ctx;
    struct log_reader *next;
};

struct log {
    enum log_level level;
    bool json;
    uint64_t count; /* entries ever; the newest is ring[(count - 1) % LOG_RING_ENTRIES] */
    struct log_entry ring[LOG_RING_ENTRIES];
    struct log_reader *readers;
};

struct log *log_new(void) {
    struct log *log = calloc(1, sizeof(*log));
    if (log != NULL)
        log->level = LOG_INFO;
    return log;
}

void log_free(struct log *log) {
    if (log == NULL)
        return;
    assert(log->readers == NULL);
    for (int i = 0; i < LOG_RING_ENTRIES; i++) {
        free(log->ring[i].db);
        free(log->ring[i].text);
    }
    free(log);
}

void log_configure(struct log *log, const char *level, const char *format) {
    for (int i = 0; i < 4; i++)
        if (strcmp(level, LEVELS[i]) == 0)
            log->level = (enum log_level)i;
    log->json = strcmp(format, "json") == 0;
}

json_t *log_entry_json(const struct log_entry *e) {
    return json_pack("{s:I, s:I, s:s, s:s?, s:s}", "number", (json_int_t)e->number, "time_ms", (json_int_t)e->wall_ms, "level",
                     LEVELS[e->level], "db", e->db, "text", e->text);
}

static void write_line(const struct log *log, const struct log_entry *e) {
    if (log->json) {
        json_t *object = log_entry_json(e);
        char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
        fprintf(stderr, "%s\n", text != NULL ? text : "{\"level\":\"error\",\"text\":\"a log line could not be written as JSON\"}");
        free(text);
        json_decref(object);
        return;
    }
    time_t seconds = (time_t)(e->wall_ms / 1000);
    struct tm tm;
    char when[32];
    localtime_r(&seconds, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(stderr, "%s.%03u %s %s%s%s\n", when, (unsigned)(e->wall_ms % 1000), LEVELS[e->level], e->db != NULL ? e->db : "",
            e->db != NULL ? ": " : "", e->text);
}

/* Bytes of the UTF-8 character at p; 0 if it is not one. */
static size_t character(const unsigned char *p) {
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
        return 0;
    return n;
}

/* Lines hold text of peers: nothing in it may look like another line, steer a terminal or break JSON. */
static void make_plain(char *text) {
    for (unsigned char *p = (unsigned char *)text; *p != 0;) {
        size_t n = character(p);
        if (n == 0 || *p < 0x20 || *p == 0x7f)
            *p = n == 0 ? '?' : ' ';
        p += n == 0 ? 1 : n;
    }
}

static void keep(struct log *log, struct log_entry *e) {
    struct log_entry *slot = &log->ring[log->count % LOG_RING_ENTRIES];
    e->number = ++log->count;
    free(slot->db);
    free(slot->text);
    *slot = *e;
    slot->db = e->db == NULL ? NULL : strdup(e->db);
    slot->text = strdup(e->text);
    if (slot->text == NULL)
        return; /* without memory this entry is missing from the list */
    struct log_reader *reader, *next;
    LL_FOREACH_SAFE(log->readers, reader, next) { reader->entry(reader->ctx, slot); }
}

void log_line(struct log *log, enum log_level level, const char *db, const char *format, ...) {
    char text[LOG_TEXT_MAX];
    va_list ap;
    if (level == LOG_DEBUG && log->level < LOG_DEBUG)
        return;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    make_plain(text);
    struct log_entry e = {0, clock_wall_ms(), level, (char *)db, text};
    if (level != LOG_DEBUG)
        keep(log, &e); /* gives it its number */
    if (level <= log->level)
        write_line(log, &e);
}

void log_activity(struct log *log, const char *db, const char *text) {
    char plain[LOG_TEXT_MAX];
    snprintf(plain, sizeof(plain), "%s", text);
    make_plain(plain);
    struct log_entry e = {0, clock_wall_ms(), LOG_INFO, (char *)db, plain};
    keep(log, &e);
    if (log->level == LOG_DEBUG)
        write_line(log, &e);
}

json_t *log_tail(const struct log *log, uint32_t n, const char *db) {
    json_t *list = json_array();
    uint64_t have = log->count < LOG_RING_ENTRIES ? log->count : LOG_RING_ENTRIES;
    for (uint64_t i = 0; i < have && json_array_size(list) < n; i++) {
        const struct log_entry *e = &log->ring[(log->count - 1 - i) % LOG_RING_ENTRIES];
        if (e->text != NULL && (db == NULL || (e->db != NULL && strcmp(db, e->db) == 0)))
            json_array_insert_new(list, 0, log_entry_json(e));
    }
    return list;
}

struct log_reader *log_follow(struct log *log, void (*entry)(void *ctx, const struct log_entry *e), void *ctx) {
    struct log_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        return NULL;
    reader->entry = entry;
    reader->ctx = ctx;
    LL_PREPEND(log->readers, reader);
    return reader;
}

void log_unfollow(struct log *log, struct log_reader *reader) {
    LL_DELETE(log->readers, reader);
    free(reader);
}
