/* Starling: one request to the running node over its local socket, and its answer.
 *
 * The happy path: connect, send one line, read lines (progress, items) until the one with "exit".
 * Possible failures: nobody listens, no permission, the node ends or falls silent midway (all exit 3), an answer that is not the
 * protocol's (exit 1). */
#include "tools/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "node/admin/admin.h"

#define LINE_BYTES_MAX (256u << 20)

int cli_connect(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    char *folder = slash ? text_format("%.*s/", (int)(slash - path), path) : text_dup(".");
    /* The path may be longer than a socket address can hold; the name in its folder is not. */
    int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int r = dir < 0 ? -errno : 0;
    free(folder);
    if (r)
        return r;
    int len = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", dir, name);
    int fd = -1;
    if (len < 0 || (size_t)len >= sizeof address.sun_path) {
        r = -ENAMETOOLONG;
        goto out;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        goto out;
    }
    r = fd;
out:
    close(dir);
    return r;
}

pid_t cli_peer_pid(int fd) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ? 0 : peer.pid;
}

static void complain_no_node(const struct place *place, int error) {
    if (error == -EACCES || error == -EPERM)
        complain("%s: permission denied: run as the user who runs starlingd, or as root", place->socket);
    else if (error != -ENOENT && error != -ECONNREFUSED && error != -ENOTDIR)
        complain("%s: %s: is this a node's socket?", place->socket, strerror(-error));
    else if (place->instance)
        complain("no node answers for %s: start it with `starlingd --instance %s` (or give --socket if its state is elsewhere)",
                 place->instance, place->instance);
    else
        complain("no node answers at %s: start it, or give --instance DIR", place->socket);
}

/* ---- lines */
struct lines {
    int fd, silence_s;
    char *data;
    size_t len, room;
    int error; /* why the last call returned NULL: 0 the other side closed, -ETIMEDOUT, or another -errno */
};

static bool lines_more(struct lines *l) {
    struct pollfd wait = {.fd = l->fd, .events = POLLIN};
    int ready;
    do {
        ready = poll(&wait, 1, l->silence_s ? l->silence_s * 1000 : -1);
    } while (ready < 0 && errno == EINTR);
    if (ready <= 0) {
        l->error = ready ? -errno : -ETIMEDOUT;
        return false;
    }
    if (l->len == l->room) {
        size_t room = l->room ? l->room * 2 : 65536;
        char *data = room <= LINE_BYTES_MAX ? realloc(l->data, room) : NULL;
        if (!data) {
            l->error = -EMSGSIZE;
            return false;
        }
        l->data = data;
        l->room = room;
    }
    ssize_t got = read(l->fd, l->data + l->len, l->room - l->len);
    if (got <= 0) {
        l->error = got ? -errno : 0;
        return false;
    }
    l->len += (size_t)got;
    return true;
}

/* The next line as an object, owned by the caller; NULL at the end. */
static json_t *lines_next(struct lines *l) {
    size_t seen = 0;
    for (;;) {
        char *end = l->len > seen ? memchr(l->data + seen, '\n', l->len - seen) : NULL;
        if (end) {
            json_t *object = json_loadb(l->data, (size_t)(end - l->data), JSON_ALLOW_NUL, NULL);
            l->len -= (size_t)(end + 1 - l->data);
            memmove(l->data, end + 1, l->len);
            if (!json_is_object(object)) {
                json_decref(object);
                object = NULL;
                l->error = -EPROTO;
            }
            return object;
        }
        seen = l->len;
        if (!lines_more(l))
            return NULL;
    }
}

static int send_line(int fd, const struct request *request) {
    json_t *line = json_pack("{s:s, s:o}", "verb", request->verb, "args", request->args ? request->args : json_object());
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (!text)
        return -EINVAL;
    int r = 0;
    size_t len = strlen(text), sent = 0;
    text[len++] = '\n'; /* in place of the end mark: only len counts below */
    if (len > ADMIN_REQUEST_MAX)
        r = -EMSGSIZE;
    while (!r && sent < len) {
        ssize_t n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            r = -errno;
        sent += n > 0 ? (size_t)n : 0;
    }
    free(text);
    return r;
}

static void take_answer(struct answer *out, const json_t *line) {
    json_int_t code = field_count(line, "exit");
    const char *error = field_text(line, "error", NULL);
    out->exit = code >= EXIT_YES && code <= EXIT_USAGE ? (int)code : EXIT_NO;
    out->result = json_incref(json_object_get(line, "result"));
    out->error = error ? text_dup(error) : NULL;
}

static void read_answer(struct cli *cli, const struct request *request, struct lines *lines, struct answer *out) {
    json_t *line;
    while ((line = lines_next(lines))) {
        const json_t *progress = json_object_get(line, "progress");
        json_t *item = json_object_get(line, "item");
        if (json_object_get(line, "exit")) {
            if (!request->quiet)
                progress_clear(cli);
            take_answer(out, line);
            json_decref(line);
            return;
        }
        if (progress && request->on_progress)
            request->on_progress(cli, progress, request->ctx);
        else if (progress)
            progress_show(cli, progress);
        if (item && request->on_item)
            request->on_item(cli, item, request->ctx);
        json_decref(line);
    }
    out->said = true;
    out->exit = lines->error == -EPROTO || lines->error == -EMSGSIZE ? EXIT_NO : EXIT_NO_NODE;
    if (request->quiet)
        return;
    progress_clear(cli);
    if (lines->error == -ETIMEDOUT)
        complain("the node has said nothing for %d s: see its log; it may be stopped (kill -STOP) or overloaded", lines->silence_s);
    else if (lines->error == -EPROTO || lines->error == -EMSGSIZE)
        complain("the node's answer is not understood: is its version %s too?", STARLING_VERSION);
    else
        complain("the node ended before it answered: see its log");
}

void cli_ask(struct cli *cli, const struct request *request, struct answer *out) {
    struct place place;
    struct lines lines = {.fd = -1, .silence_s = request->silence_s};
    *out = (struct answer){.exit = place_find(cli, &place)};
    if (out->exit) {
        out->said = true;
        json_decref(request->args);
        goto out;
    }
    int fd = cli_connect(place.socket);
    if (fd < 0) {
        json_decref(request->args);
        if (!request->quiet)
            complain_no_node(&place, fd);
        out->exit = EXIT_NO_NODE;
        out->said = true;
        goto out;
    }
    lines.fd = fd;
    int r = send_line(fd, request);
    if (r == -EMSGSIZE) {
        complain("too many words: a request has at most %d bytes", ADMIN_REQUEST_MAX);
        out->exit = EXIT_USAGE;
        out->said = true;
    } else {
        /* A node that refused the line has said why before it closed: read that first. */
        read_answer(cli, request, &lines, out);
    }
out:
    if (lines.fd >= 0)
        close(lines.fd);
    free(lines.data);
    place_release(&place);
}

void answer_release(struct answer *answer) {
    json_decref(answer->result);
    free(answer->error);
    answer->result = NULL;
    answer->error = NULL;
}

int cli_answer(struct cli *cli, struct answer *answer, void (*print)(const struct cli *cli, const json_t *result)) {
    if (answer->said)
        return answer->exit;
    if (cli->json && answer->result) {
        print_json(answer->result);
    } else if (cli->json && answer->error) {
        json_t *object = json_pack("{s:s}", "error", answer->error);
        print_json(object);
        json_decref(object);
    } else if (answer->result && print) {
        print(cli, answer->result);
    }
    if (answer->error) {
        fflush(stdout);
        complain("%s", answer->error);
    } else if (answer->exit && !answer->result) {
        complain("%s failed, and the node did not say why: see its log", cli->verb->name);
    }
    int code = answer->exit;
    answer_release(answer);
    return code;
}
