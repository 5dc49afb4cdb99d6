/* Starling node: starlingd's life: read the configuration, open, say ready, run, end. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "node/check.h"
#include "node/memory.h"
#include "node/node.h"
#include "node/preview.h"
#include "proto/err.h"

enum { END_OK = 0, END_FAILED = 1, END_USAGE = 2 };

static int complain(const char *why) {
    fprintf(stderr, "starlingd: %s\n", why);
    return END_USAGE;
}

/* What systemd's sd_notify() does: one datagram. */
static void tell_service_manager(const char *text) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, strlen(path));
    if (path[0] == '@')
        address.sun_path[0] = 0; /* Linux's abstract names */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, len) < 0)
        fprintf(stderr, "starlingd: %s could not be told: %s\n", path, strerror(errno));
    close(fd);
}

static void say_ready(const struct node *n) {
    char id[2 * NODE_ID_BYTES + 1], socket_path[PATH_MAX];
    printf("ready name=%s id=%s listen=%s http=off socket=%s\n", n->name, identity_hex(n->identity.id, id),
           transport_listen_text(n->transport), node_socket_path(n, socket_path, sizeof(socket_path)));
    fflush(stdout);
    tell_service_manager("READY=1");
}

static int serve(struct node *n) {
    char why[1024];
    const char *state = config_text(&n->config, OPTION_STATE);
    if (identity_folder(state, why, sizeof(why)) != 0 || identity_lock(&n->identity, state, why, sizeof(why)) != 0)
        return complain(why);
    if (identity_load(&n->identity, state, why, sizeof(why)) != 0 || node_open(n, why, sizeof(why)) != 0)
        return complain(why);
    say_ready(n);
    node_run(n);
    node_close(n);
    return END_OK;
}

static int run(struct config *config, int argc, char **argv) {
    struct node *n = calloc(1, sizeof(*n));
    if (n == NULL || (n->log = log_new()) == NULL)
        return complain("out of memory");
    n->argc = argc;
    n->argv = argv;
    n->config = *config;
    n->identity.lock_fd = -1;
    log_configure(n->log, config_text(config, OPTION_LOG_LEVEL), config_text(config, OPTION_LOG_FORMAT));
    int code = serve(n);
    if (code != END_OK)
        _exit(code); /* half opened: the system closes it more surely than code that never runs otherwise */
    identity_release(&n->identity);
    log_free(n->log);
    config_release(&n->config);
    free(n);
    return code;
}

int main(int argc, char **argv) {
    struct config config;
    struct stat st;
    char why[1024];

    signal(SIGPIPE, SIG_IGN);
    memory_init();
    if (sodium_init() < 0)
        return complain("libsodium cannot start");
    json_object_seed(0); /* before there are threads */
    if (config_load(&config, argc, argv, why, sizeof(why)) != 0)
        return complain(why);
    const char *instance = config.command == COMMAND_VERSION || config.command == COMMAND_HELP ? "" : config_text(&config, OPTION_INSTANCE);
    int code = END_OK;
    if (config.command == COMMAND_VERSION) {
        printf("starlingd %s\n", STARLING_VERSION);
    } else if (config.command == COMMAND_HELP) {
        config_help(stdout);
    } else if (config.command == COMMAND_PRINT_CONFIG) {
        config_print(&config, stdout);
    } else if (stat(instance, &st) != 0 || !S_ISDIR(st.st_mode)) {
        snprintf(why, sizeof(why), "instance folder %s: %s: name the folder in which the application keeps its databases", instance,
                 errno == 0 || S_ISREG(st.st_mode) ? "not a folder" : strerror(errno));
        code = complain(why);
    } else if (config.command == COMMAND_CHECK) {
        code = check_run(&config) ? END_OK : END_USAGE;
    } else if (config.command == COMMAND_PREVIEW) {
        code = preview_run(&config) ? END_OK : END_FAILED;
    } else if (config.command == COMMAND_UNINSTALL) {
        code = uninstall_run(&config);
    } else {
        return run(&config, argc, argv); /* takes the configuration */
    }
    config_release(&config);
    return code;
}
