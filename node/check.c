#include "node/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/address.h"
#include "node/databases.h"
#include "node/secret.h"
#include "node/store/store.h"
#include "proto/err.h"

#define READ_WHOLE_MAX (64ll << 20) /* larger files: their schema only, since --check is to be quick */
#define LOCKED_MS 2000

struct check {
    const struct config *config;
    bool ok;
    int databases;
};

static void report(struct check *c, bool ok, const char *what, const char *mend) {
    printf("%-7s %s%s%s\n", ok ? "ok" : "error", what, ok ? "" : ": ", ok ? "" : mend);
    c->ok = c->ok && ok;
}

/* ---- what is inside, without changing anything: no rollback of a journal, no -wal or -shm made */

bool check_quiet_uri(const char *path, char *uri, size_t uri_len) {
    char beside[PATH_MAX];
    struct stat st;
    uint8_t header[20] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool wal = fd >= 0 && pread(fd, header, sizeof(header), 0) == sizeof(header) && header[19] == 2;
    if (fd >= 0)
        close(fd);
    bool wal_there = snprintf(beside, sizeof(beside), "%s-wal", path) < (int)sizeof(beside) && stat(beside, &st) == 0;
    bool wal_filled = wal_there && st.st_size > 0;
    bool shm_there = snprintf(beside, sizeof(beside), "%s-shm", path) < (int)sizeof(beside) && stat(beside, &st) == 0;
    if (wal && wal_filled && !shm_there)
        return false;
    size_t at = (size_t)snprintf(uri, uri_len, "file:");
    for (const char *p = path; *p != 0 && at + 32 < uri_len; p++)
        at += (size_t)snprintf(uri + at, uri_len - at, strchr("%?#", *p) != NULL ? "%%%02X" : "%c", (unsigned char)*p);
    /* In WAL mode without its -wal nobody has the file open. */
    snprintf(uri + at, uri_len - at, "?mode=ro%s", wal && !(wal_there && shm_there) ? "&immutable=1" : "");
    return true;
}

static bool is_damage(int code) {
    int r = code & 0xff;
    return r == SQLITE_CORRUPT || r == SQLITE_NOTADB || r == SQLITE_IOERR || r == SQLITE_FORMAT;
}

/* Runs sql to its end; the first column of its last row in said. */
static int read_all(sqlite3 *db, const char *sql, char *said, size_t said_len) {
    sqlite3_stmt *q = NULL;
    int r = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    while (r == SQLITE_OK && (r = sqlite3_step(q)) == SQLITE_ROW) {
        const unsigned char *text = sqlite3_column_text(q, 0);
        snprintf(said, said_len, "%s", text != NULL ? (const char *)text : "");
        r = SQLITE_OK;
    }
    sqlite3_finalize(q);
    return r == SQLITE_DONE ? SQLITE_OK : r;
}

enum inside { INSIDE_FINE, INSIDE_DAMAGED, INSIDE_UNSEEN };

/* INSIDE_UNSEEN: it is locked, or would first have to be recovered. why gets the reason for all but INSIDE_FINE. */
static enum inside look_inside(const char *path, char *why, size_t why_len) {
    char uri[3 * PATH_MAX + 64], said[400] = "";
    struct stat st;
    sqlite3 *db = NULL;
    if (stat(path, &st) != 0 || !check_quiet_uri(path, uri, sizeof(uri))) {
        snprintf(why, why_len, "not looked into: it is recovered when it is next opened");
        return INSIDE_UNSEEN;
    }
    int r = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
    sqlite3_busy_timeout(db, LOCKED_MS);
    if (r == SQLITE_OK)
        r = read_all(db, "SELECT count(*) FROM sqlite_schema", said, sizeof(said));
    snprintf(said, sizeof(said), "ok");
    if (r == SQLITE_OK && st.st_size <= READ_WHOLE_MAX)
        r = read_all(db, "PRAGMA quick_check(1)", said, sizeof(said));
    bool damaged = is_damage(r) || (r == SQLITE_OK && strcmp(said, "ok") != 0);
    if (damaged)
        snprintf(why, why_len, "damaged (%s): stop the application and restore the file from a backup, or with sqlite3's .recover",
                 is_damage(r) ? sqlite3_errmsg(db) : said);
    else if (r != SQLITE_OK) /* also collations and modules of the application's own, which only it can check */
        snprintf(why, why_len, "not looked into: %s", sqlite3_errmsg(db));
    for (char *p = why; *p != 0; p++)
        *p = *p == '\n' ? ' ' : *p;
    sqlite3_close(db);
    return damaged ? INSIDE_DAMAGED : r != SQLITE_OK ? INSIDE_UNSEEN : INSIDE_FINE;
}

static void check_inside(struct check *c, const char *what, const char *path) {
    char why[600] = "";
    switch (look_inside(path, why, sizeof(why))) {
    case INSIDE_FINE: report(c, true, what, ""); break;
    case INSIDE_DAMAGED: report(c, false, what, why); break;
    case INSIDE_UNSEEN: printf("%-7s %s: %s\n", "warning", what, why); break;
    }
}

static void check_closed(void *ctx, const char *folder, int error) {
    (void)ctx; /* as in a running node: the rest is replicated */
    printf("%-7s folder %s: %s: databases in it are not replicated: %s\n", "warning", folder, strerror(error),
           databases_closed_mend(error));
}

static void check_database(void *ctx, const char *name, const char *path, bool alien) {
    struct check *c = ctx;
    char what[PATH_MAX + 64], folder[PATH_MAX];
    snprintf(what, sizeof(what), "database %s%s", name, config_replicates(c->config, name) ? "" : ": replicate = no");
    if (!config_replicates(c->config, name)) {
        report(c, true, what, "");
        return;
    }
    c->databases++;
    snprintf(folder, sizeof(folder), "%s", path);
    *strrchr(folder, '/') = 0;
    if (alien)
        report(c, false, what, "not a SQLite database: move it away, restore it, or say replicate = no of it");
    else if (access(path, R_OK | W_OK) != 0)
        report(c, false, what, "give the user who runs starlingd the right to read and write it");
    else if (access(folder, W_OK) != 0)
        report(c, false, what, "give the user who runs starlingd the right to write in its folder");
    else
        check_inside(c, what, path);
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

static void check_secret(struct check *c) {
    struct secure_secret secret;
    char what[PATH_MAX + 200];
    const char *file = config_text(c->config, OPTION_SECRET_FILE);
    if (file[0] == 0)
        return;
    bool good = secret_read(file, &secret, what, sizeof(what)) == 0;
    sodium_memzero(&secret, sizeof(secret));
    if (!good) {
        report(c, false, "secret", what);
        return;
    }
    snprintf(what, sizeof(what), "secret %s", file);
    report(c, true, what, "");
    if (secret_exposed(file))
        printf("warning %s: other users can read it: chmod 600 %s\n", file, file);
}

bool check_run(const struct config *config) {
    struct check c = {config, true, 0};
    const char *instance = config_text(config, OPTION_INSTANCE), *state = config_text(config, OPTION_STATE);
    report(&c, true, "configuration", "");
    check_secret(&c);
    check_state(&c, state, instance);
    if (databases_list(instance, state, &(struct databases_listing){&c, check_database, check_closed}) != 0)
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

static void not_looked_into(void *ctx, const char *folder, int error) {
    (void)ctx;
    fprintf(stderr, "starlingd: folder %s: not looked into: %s\n", folder, strerror(error));
}

int uninstall_run(const struct config *c) {
    struct removal r = {0, 0};
    const char *instance = config_text(c, OPTION_INSTANCE), *state = config_text(c, OPTION_STATE);
    if (daemon_runs(state)) {
        fprintf(stderr, "starlingd: a starlingd runs on the state folder %s: stop it first, or say `starling uninstall`\n", state);
        return 2;
    }
    if (databases_list(instance, state, &(struct databases_listing){&r, remove_one, not_looked_into}) != 0) {
        fprintf(stderr, "starlingd: %s cannot be read: give the user who runs starlingd the right to\n", instance);
        return 2;
    }
    if (r.failed == 0)
        printf("removed from %d database%s; the state folder %s is no longer needed\n", r.databases, r.databases == 1 ? "" : "s", state);
    return r.failed == 0 ? 0 : 1;
}
