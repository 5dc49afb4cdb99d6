/* Starling node: the log on standard error, and the activity that `starling log` shows. Loop thread only: workers send their lines
 * over as messages. */
#ifndef NODE_LOG_H
#define NODE_LOG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define LOG_RING_ENTRIES 2000
#define LOG_TEXT_MAX 1024

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

struct log_entry {
    uint64_t number; /* from 1 */
    uint64_t wall_ms;
    enum log_level level;
    char *db; /* NULL: not about one database */
    char *text;
};

struct log;
struct log_reader; /* one follower */

struct log *log_new(void); /* NULL without memory */
void log_free(struct log *log);
void log_configure(struct log *log, const char *level, const char *format);
/* Writes a line if its level is asked for, and keeps it unless it is LOG_DEBUG. db may be NULL. */
__attribute__((format(printf, 4, 5))) void log_line(struct log *log, enum log_level level, const char *db, const char *format, ...);
/* Activity: what happens all the time (batches). Kept for `starling log`, written only at level debug. */
void log_activity(struct log *log, const char *db, const char *text);

/* The last n entries, oldest first, optionally of one database: an array of {"number","time_ms","level","db","text"}. */
json_t *log_tail(const struct log *log, uint32_t n, const char *db);
/* Calls `entry` for each later entry until closed. */
struct log_reader *log_follow(struct log *log, void (*entry)(void *ctx, const struct log_entry *e), void *ctx);
void log_unfollow(struct log *log, struct log_reader *reader);
json_t *log_entry_json(const struct log_entry *e);

#endif
