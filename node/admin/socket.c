/* The happy path for admin is:
 *   admin_open binds and listens -> connection_cb -> read_cb collects a line -> the verb starts -> conn_item, conn_progress -> conn_done ->
 *   written_cb -> close_cb twice -> freed. admin_close closes everything, and frees itself with the last close callback.
 * Possible failure modes are:
 *   - the line is no JSON object, longer than ADMIN_REQUEST_MAX, or names no verb: exit 2 with one line;
 *   - the client goes: the verb's release runs, its questions are cancelled;
 *   - the client does not read: cut off after QUEUE_MAX;
 *   - too many clients: the new one is closed at once. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#include "node/admin/admin.h"
#include "node/admin/conn.h"
#include "proto/err.h"

#define CONNS_MAX 64
#define QUEUE_MAX (4u << 20)

struct admin {
    struct node *node;
    uv_pipe_t pipe;
    struct conn *conns;
    int conns_count, handles;
    bool closing;
    int folder_fd;
};

static const struct verb VERBS[] = {
    {"status", verb_status, false},   {"members", verb_members, false},
    {"peers", verb_peers, false},     {"join", verb_join, false},
    {"leave", verb_leave, false},     {"forget", verb_forget, false},
    {"wait", verb_wait, false},       {"verify", verb_verify, false},
    {"tables", verb_tables, false},   {"log", verb_log, true},
    {"watch", verb_watch, true},      {"pause", verb_pause, false},
    {"resume", verb_resume, false},   {"doctor", verb_doctor, false},
    {"stop", verb_stop, false},       {"conflicts", verb_conflicts, false},
    {"resolve", verb_resolve, false}, {"why", verb_why, false},
    {"rotate", verb_rotate, false},   {"files", verb_files, false},
};

/* ---- one connection */

static void admin_release(struct admin *a) {
    if (!a->closing || a->handles > 0 || a->conns_count > 0)
        return;
    close(a->folder_fd);
    free(a);
}

static void conn_closed_cb(uv_handle_t *handle) {
    struct conn *c = handle->data;
    struct admin *a = c->admin;
    assert(c->handles > 0);
    if (--c->handles > 0)
        return;
    DL_DELETE(a->conns, c);
    a->conns_count--;
    free(c->input);
    free(c);
    admin_release(a);
}

/* The verb is over, whoever ended it. */
static void task_end(struct conn *c) {
    uv_timer_stop(&c->timer);
    gather_release(c);
    node_ask_cancel(c->node, c);
    if (c->release != NULL)
        c->release(c);
    c->release = NULL;
    c->task = NULL;
}

static void conn_close(struct conn *c) {
    if (c->state == CONN_CLOSING)
        return;
    task_end(c);
    c->state = CONN_CLOSING;
    uv_close((uv_handle_t *)&c->pipe, conn_closed_cb);
    uv_close((uv_handle_t *)&c->timer, conn_closed_cb);
}

struct line {
    uv_write_t request;
    char *text;
};

static void written_cb(uv_write_t *request, int status) {
    struct line *line = request->data;
    struct conn *c = request->handle->data;
    free(line->text);
    free(line);
    if (status != 0 || (c->state == CONN_ENDING && uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) == 0))
        conn_close(c);
}

static void line_write(struct conn *c, json_t *object) {
    struct line *line = calloc(1, sizeof(*line));
    char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
    json_decref(object);
    size_t len = text == NULL ? 0 : strlen(text);
    if (line == NULL || text == NULL || c->state == CONN_CLOSING ||
        uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) + len > QUEUE_MAX + ADMIN_REQUEST_MAX) {
        free(text);
        free(line);
        conn_close(c);
        return;
    }
    text[len] = '\n'; /* in place of the terminator */
    line->text = text;
    line->request.data = line;
    uv_buf_t buf = uv_buf_init(text, (unsigned)len + 1);
    if (uv_write(&line->request, (uv_stream_t *)&c->pipe, &buf, 1, written_cb) != 0) {
        free(text);
        free(line);
        conn_close(c);
    }
}

void conn_item(struct conn *c, json_t *item) {
    if (c->state != CONN_WORKING) {
        json_decref(item);
        return;
    }
    line_write(c, json_pack("{s:o}", "item", item));
}

void conn_progress(struct conn *c, const char *text, uint64_t done, int64_t total) {
    if (c->state == CONN_WORKING)
        line_write(c, json_pack("{s:{s:s, s:I, s:o}}", "progress", "text", text, "done", (json_int_t)done, "total",
                                total < 0 ? json_null() : json_integer(total)));
}

void conn_done(struct conn *c, int exit, json_t *result, const char *error) {
    if (c->state == CONN_CLOSING || c->state == CONN_ENDING) {
        json_decref(result);
        return;
    }
    json_t *last = json_pack("{s:i}", "exit", exit);
    if (result != NULL)
        json_object_set_new(last, "result", result);
    if (error != NULL)
        json_object_set_new(last, "error", json_string(error));
    task_end(c);
    c->state = CONN_ENDING;
    line_write(c, last);
}

static void conn_timed_cb(uv_timer_t *timer) {
    struct conn *c = timer->data;
    struct node *n = c->node;
    if (c->state == CONN_WORKING && c->timed != NULL)
        c->timed(c);
    node_settle(n);
}

void conn_timer(struct conn *c, uint64_t ms, void (*timed)(struct conn *c)) {
    if (c->state != CONN_WORKING)
        return;
    c->timed = timed;
    uv_update_time(&c->node->loop);
    uv_timer_start(&c->timer, conn_timed_cb, ms, 0);
}

/* ---- reading the request */

static void request_start(struct conn *c) {
    json_error_t error;
    char why[160];
    json_t *request = json_loadb(c->input, c->input_len, 0, &error), *empty = json_object();
    const char *name = json_string_value(json_object_get(request, "verb"));
    const json_t *args = json_object_get(request, "args");
    c->state = CONN_WORKING;
    if (name == NULL) {
        conn_done(c, 2, NULL, "the request is not a JSON object with a verb");
    } else {
        const struct verb *verb = NULL;
        for (size_t i = 0; i < sizeof(VERBS) / sizeof(VERBS[0]); i++)
            if (strcmp(VERBS[i].name, name) == 0)
                verb = &VERBS[i];
        if (verb != NULL) {
            c->stream = verb->stream;
            verb->start(c, json_is_object(args) ? args : empty);
        } else {
            snprintf(why, sizeof(why), "%.60s: not in this build", name);
            conn_done(c, 2, NULL, why);
        }
    }
    json_decref(request);
    json_decref(empty);
}

static void conn_alloc_cb(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    struct conn *c = handle->data;
    (void)suggested;
    size_t want = c->state == CONN_READING ? c->input_len + 1024 : 1024;
    char *input = want > ADMIN_REQUEST_MAX + 1024 ? NULL : realloc(c->input, want);
    if (input == NULL) {
        *buf = uv_buf_init(NULL, 0); /* read_cb gets UV_ENOBUFS */
        return;
    }
    c->input = input;
    *buf = c->state == CONN_READING ? uv_buf_init(input + c->input_len, 1024) : uv_buf_init(input, 1024);
}

static void conn_read_cb(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct conn *c = stream->data;
    struct node *node = c->node;
    if (n == UV_ENOBUFS && c->state == CONN_READING) {
        c->state = CONN_WORKING;
        conn_done(c, 2, NULL, "the request is too long");
    } else if (n == UV_EOF && c->state == CONN_WORKING && !c->stream) {
        uv_read_stop(stream); /* it said all it has to say, and waits for the answer */
    } else if (n < 0) {
        conn_close(c);
    } else if (c->state == CONN_READING) {
        c->input_len += (size_t)n;
        char *end = memchr(buf->base, '\n', (size_t)n);
        if (end != NULL) {
            c->input_len = (size_t)(end - c->input);
            request_start(c);
        }
    }
    node_settle(node);
}

static void connection_cb(uv_stream_t *server, int status) {
    struct admin *a = server->data;
    struct conn *c = status != 0 ? NULL : calloc(1, sizeof(*c));
    if (c == NULL)
        return;
    c->admin = a;
    c->node = a->node;
    uv_pipe_init(&a->node->loop, &c->pipe, 0);
    uv_timer_init(&a->node->loop, &c->timer);
    c->pipe.data = c->timer.data = c;
    c->handles = 2;
    DL_APPEND(a->conns, c);
    a->conns_count++;
    if (uv_accept(server, (uv_stream_t *)&c->pipe) != 0 || a->conns_count > CONNS_MAX ||
        uv_read_start((uv_stream_t *)&c->pipe, conn_alloc_cb, conn_read_cb) != 0)
        conn_close(c);
}

/* ---- the socket */

static void admin_closed_cb(uv_handle_t *handle) {
    struct admin *a = handle->data;
    a->handles--;
    admin_release(a);
}

/* A bound, listening socket with mode 0600. The path goes through /proc since a socket path has at most 107 bytes. */
static int socket_bind(int folder_fd) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/admin.sock", folder_fd);
    unlinkat(folder_fd, "admin.sock", 0); /* we hold the lock of the folder: it is of a node that ended */
    mode_t before = umask(0177);
    int r = bind(fd, (struct sockaddr *)&address, sizeof(address));
    umask(before);
    if (r == 0)
        return fd;
    close(fd);
    return -1;
}

int admin_open(struct admin **out, struct node *node) {
    struct admin *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return ERR_NOMEM;
    a->node = node;
    a->folder_fd = open(config_text(&node->config, OPTION_STATE), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = a->folder_fd < 0 ? -1 : socket_bind(a->folder_fd);
    if (fd < 0) {
        if (a->folder_fd >= 0)
            close(a->folder_fd);
        free(a);
        return errno == EACCES ? ERR_DENIED : ERR_IO;
    }
    uv_pipe_init(&node->loop, &a->pipe, 0);
    a->pipe.data = a;
    a->handles = 1;
    *out = a;
    if (uv_pipe_open(&a->pipe, fd) != 0 || uv_listen((uv_stream_t *)&a->pipe, 16, connection_cb) != 0)
        return ERR_IO;
    return 0;
}

void admin_unlink(struct admin *a) { unlinkat(a->folder_fd, "admin.sock", 0); }

void admin_close(struct admin *a) {
    struct conn *c, *next;
    admin_unlink(a);
    a->closing = true;
    DL_FOREACH_SAFE(a->conns, c, next) { conn_close(c); }
    uv_close((uv_handle_t *)&a->pipe, admin_closed_cb);
}
