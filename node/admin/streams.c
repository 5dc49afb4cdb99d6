/* Starling node: `log` and `watch`. Bounded: a client that does not read is cut off (socket.c). */
#include <stdlib.h>
#include <string.h>

#include "node/admin/conn.h"

struct stream {
    struct log_reader *reader;
    struct watcher *watcher;
    char *db;        /* log: only of this database */
    json_t *filters; /* watch: "db" or "db/table" */
};

static void stream_release(struct conn *c) {
    struct stream *s = c->task;
    if (s->reader != NULL)
        log_unfollow(c->node->log, s->reader);
    if (s->watcher != NULL)
        node_unwatch(c->node, s->watcher);
    json_decref(s->filters);
    free(s->db);
    free(s);
}

static struct stream *stream_new(struct conn *c) {
    struct stream *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        conn_done(c, 1, NULL, "out of memory");
        return NULL;
    }
    c->task = s;
    c->release = stream_release;
    return s;
}

static void on_entry(void *ctx, const struct log_entry *e) {
    struct conn *c = ctx;
    const struct stream *s = c->task;
    if (s->db == NULL || (e->db != NULL && strcmp(s->db, e->db) == 0))
        conn_item(c, log_entry_json(e));
}

void verb_log(struct conn *c, const json_t *args) {
    const json_t *n = json_object_get(args, "n");
    const char *db = json_string_value(json_object_get(args, "db"));
    struct stream *s = stream_new(c);
    size_t i;
    json_t *entry;
    if (s == NULL)
        return;
    json_int_t count = json_is_integer(n) ? json_integer_value(n) : 50;
    json_t *tail = log_tail(c->node->log, count < 0 ? 0 : count > LOG_RING_ENTRIES ? LOG_RING_ENTRIES : (uint32_t)count, db);
    json_array_foreach(tail, i, entry) { conn_item(c, json_incref(entry)); }
    json_decref(tail);
    if (c->state != CONN_WORKING)
        return; /* cut off */
    if (!json_is_true(json_object_get(args, "follow"))) {
        conn_done(c, 0, NULL, NULL);
        return;
    }
    s->db = db == NULL ? NULL : strdup(db);
    if ((s->reader = log_follow(c->node->log, on_entry, c)) == NULL)
        conn_done(c, 1, NULL, "out of memory");
}

/* "db" or "db/table", where a database's name may itself hold slashes. */
static bool matches(const json_t *filters, const json_t *change) {
    const char *db = json_string_value(json_object_get(change, "db")), *table = json_string_value(json_object_get(change, "table"));
    size_t i;
    json_t *filter;
    if (json_array_size(filters) == 0)
        return true;
    json_array_foreach(filters, i, filter) {
        const char *text = json_string_value(filter);
        size_t db_len = db == NULL ? 0 : strlen(db);
        if (text == NULL || db_len == 0 || strncmp(text, db, db_len) != 0)
            continue;
        if (text[db_len] == 0 || (text[db_len] == '/' && table != NULL && strcmp(text + db_len + 1, table) == 0))
            return true;
    }
    return false;
}

static void on_change(void *ctx, const json_t *change) {
    struct conn *c = ctx;
    const struct stream *s = c->task;
    if (matches(s->filters, change))
        conn_item(c, json_incref((json_t *)change));
}

void verb_watch(struct conn *c, const json_t *args) {
    struct stream *s = stream_new(c);
    if (s == NULL)
        return;
    s->filters = json_incref(json_object_get(args, "filters"));
    if ((s->watcher = node_watch(c->node, on_change, c)) == NULL)
        conn_done(c, 1, NULL, "out of memory");
}
