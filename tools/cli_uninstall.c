/* Starling: `uninstall`: ends the node, then lets `starlingd --uninstall` take everything of ours out of the databases.
 *
 * The happy path: ask the node to stop, wait until its process is gone and nobody answers on its socket, run starlingd in our place.
 * Possible failures: it does not end in time, or starlingd is not found: nothing was changed then. */
#include "tools/cli.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>

#define STOP_SILENCE_S 30
#define STOP_MS 15000
#define LOOK_MS 20

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* True once the process has ended and nobody answers on the socket. */
static bool ended(const struct place *place, pid_t pid) {
    int64_t deadline = now_ms() + STOP_MS;
    int process = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (process >= 0) {
        struct pollfd wait = {.fd = process, .events = POLLIN};
        int ready = poll(&wait, 1, STOP_MS);
        close(process);
        if (ready != 1)
            return false;
    }
    for (;;) {
        int fd = cli_connect(place->socket);
        if (fd < 0)
            return true;
        close(fd);
        if (now_ms() >= deadline)
            return false;
        poll(NULL, 0, LOOK_MS);
    }
}

/* 0 when no node runs (any more), else an exit code. */
static int stop_node(struct cli *cli, const struct place *place) {
    int fd = cli_connect(place->socket);
    if (fd == -ENOENT || fd == -ECONNREFUSED || fd == -ENOTDIR)
        return EXIT_YES;
    if (fd < 0) {
        complain("%s: %s: run as the user who runs starlingd, or as root", place->socket, strerror(-fd));
        return EXIT_NO;
    }
    pid_t pid = cli_peer_pid(fd);
    close(fd);
    struct answer answer;
    cli_ask(cli, &(struct request){.verb = "stop", .silence_s = STOP_SILENCE_S}, &answer);
    /* The node may end before its answer is out: what counts is that it has gone. */
    int code = answer.said ? EXIT_YES : answer.exit;
    if (code)
        complain("the node does not stop: %s: stop it with SIGTERM, then run this again", answer.error ? answer.error : "no reason given");
    answer_release(&answer);
    if (!code && !ended(place, pid)) {
        complain("the node does not end within %d s: see its log, or stop it with SIGTERM, then run this again", STOP_MS / 1000);
        code = EXIT_NO;
    }
    return code;
}

void become_daemon(char **argv) {
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
    if (len > 0) {
        path[len] = 0;
        char *slash = strrchr(path, '/');
        char *beside = text_format("%.*s/starlingd", (int)(slash ? slash - path : 0), path);
        execv(beside, argv);
        free(beside);
    }
    execvp("starlingd", argv);
}

int verb_uninstall(struct cli *cli) {
    struct place place;
    int code = place_find(cli, &place);
    if (code) {
        place_release(&place);
        return code;
    }
    char *state = text_dup(place.socket);
    char *slash = strrchr(state, '/');
    if (slash)
        *slash = 0;
    const char *instance = place.instance ? place.instance : cli->instance;
    if (!instance) {
        complain("%s does not tell the instance folder: stop the node, then run `starlingd --uninstall --instance DIR --state %s`",
                 place.socket, slash ? state : ".");
        code = EXIT_USAGE;
    } else {
        code = stop_node(cli, &place);
    }
    if (!code) {
        char *argv[] = {"starlingd", "--uninstall", "--instance", text_dup(instance), NULL};
        fflush(stdout);
        become_daemon(argv);
        complain("starlingd is neither beside this tool nor in PATH (%s): the node is stopped, run `starlingd --uninstall --instance %s`",
                 strerror(errno), instance);
        free(argv[3]);
        code = EXIT_NO;
    }
    free(state);
    place_release(&place);
    return code;
}
