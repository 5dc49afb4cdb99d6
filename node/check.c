#include "node/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/address.h"
#include "node/databases.h"
#include "node/store/store.h"
#include "proto/err.h"

struct check {
    const struct config *config;
    bool ok;
    int databases;
};

static void report(struct check *c, bool ok, const char *what, const char *mend) {
    printf("%-7s %s%s%s\n", ok ? "ok" : "error", what, ok ? "" : ": ", ok ? "" : mend);
    c->ok = c->ok && ok;
}

static void check_database(void *ctx, const char *name, const char *path, bool alien) {
    struct check *c = ctx;
    char what[PATH_MAX + 64], folder[PATH_MAX];
    c->databases++;
    snprintf(what, sizeof(what), "database %s", name);
    snprintf(folder, sizeof(folder), "%s", path);
    *strrchr(folder, '/') = 0;
    if (alien)
        report(c, false, what, "not a SQLite database: move it away or restore it");
    else if (access(path, R_OK | W_OK) != 0)
        report(c, false, what, "give the user who runs starlingd the right to read and write it");
    else if (access(folder, W_OK) != 0)
        report(c, false, what, "give the user who runs starlingd the right to write in its folder");
    else
        report(c, true, what, "");
}

/* 1: a daemon runs on the state folder; 0: none; nothing is made. */
static int daemon_runs(const char *state) {
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/lock", state);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int runs = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return runs;
}

static void check_state(struct check *c, const char *state, const char *instance) {
    char what[PATH_MAX + 64];
    snprintf(what, sizeof(what), "state folder %s", state);
    bool there = access(state, F_OK) == 0;
    report(c, access(there ? state : instance, R_OK | W_OK | X_OK) == 0, what, "give the user who runs starlingd the right to write there");
}

static void check_port(struct check *c) {
    char host[ADDRESS_HOST_MAX], what[ADDRESS_HOST_MAX + 64];
    uint16_t port;
    struct sockaddr_storage address;
    const char *listen_text = config_text(c->config, OPTION_LISTEN);
    snprintf(what, sizeof(what), "listen on %s", listen_text);
    if (address_parse(listen_text, ADDRESS_PORT, host, &port) != 0 || !address_numeric(host[0] != 0 ? host : "0.0.0.0", port, &address))
        return; /* a name: resolved when it starts */
    int on = 1, fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    socklen_t len = address.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    bool free_port = fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 && listen(fd, 1) == 0;
    const char *mend = errno == EADDRINUSE ? "address already in use: stop the other program or choose another port with --listen"
                                           : "choose an address of this machine and a free port above 1023 with --listen";
    report(c, free_port, what, mend);
    if (fd >= 0)
        close(fd);
}

static void check_seeds(const struct check *c) {
    const struct setting *join = &c->config->settings[OPTION_JOIN];
    for (uint32_t i = 0; i < join->count; i++) {
        char host[ADDRESS_HOST_MAX];
        uint16_t port;
        struct addrinfo *found = NULL;
        int r = address_parse(join->values[i], ADDRESS_PORT, host, &port) != 0 ? EAI_NONAME : getaddrinfo(host, NULL, NULL, &found);
        if (r == 0)
            freeaddrinfo(found);
        printf("%-7s join %s%s%s\n", r == 0 ? "ok" : "warning", join->values[i], r == 0 ? "" : ": ", r == 0 ? "" : gai_strerror(r));
    }
}

bool check_run(const struct config *config) {
    struct check c = {config, true, 0};
    const char *instance = config_text(config, OPTION_INSTANCE), *state = config_text(config, OPTION_STATE);
    report(&c, true, "configuration", "");
    check_state(&c, state, instance);
    if (databases_list(instance, state, check_database, &c) != 0)
        report(&c, false, instance, "give the user who runs starlingd the right to read it");
    if (c.databases == 0)
        printf("%-7s no database yet: the first one that appears is taken up\n", "ok");
    if (daemon_runs(state))
        printf("%-7s starlingd runs on this state folder, so its port was not tried\n", "ok");
    else
        check_port(&c);
    check_seeds(&c);
    return c.ok;
}

struct removal {
    int databases, failed;
};

static void remove_one(void *ctx, const char *name, const char *path, bool alien) {
    struct removal *r = ctx;
    char why[1024] = "";
    if (alien)
        return;
    int error = store_uninstall(path, why, sizeof(why));
    r->databases++;
    r->failed += error != 0;
    if (error == 0)
        printf("%s: as it was\n", name);
    else
        fprintf(stderr, "starlingd: %s: not cleaned: %s\n", name, why[0] != 0 ? why : err_text(error));
}

int uninstall_run(const struct config *c) {
    struct removal r = {0, 0};
    const char *instance = config_text(c, OPTION_INSTANCE), *state = config_text(c, OPTION_STATE);
    if (daemon_runs(state)) {
        fprintf(stderr, "starlingd: a starlingd runs on the state folder %s: stop it first, or say `starling uninstall`\n", state);
        return 2;
    }
    if (databases_list(instance, state, remove_one, &r) != 0) {
        fprintf(stderr, "starlingd: %s cannot be read: give the user who runs starlingd the right to\n", instance);
        return 2;
    }
    if (r.failed == 0)
        printf("removed from %d database%s; the state folder %s is no longer needed\n", r.databases, r.databases == 1 ? "" : "s", state);
    return r.failed == 0 ? 0 : 1;
}
