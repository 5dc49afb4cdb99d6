/* Starling: which node the tool speaks to: the one named by --socket, --instance or STARLING_INSTANCE; else the one whose instance
 * folder we stand in; else the only one that runs here. */
#include "tools/cli.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_FOLDER ".starling"
#define SOCKET_NAME "admin.sock"
#define FOUND_MAX 64

static bool is_socket(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISSOCK(st.st_mode);
}

/* The instance folder of .../DIR/.starling/admin.sock; NULL when the state is elsewhere. */
static char *instance_of(const char *socket_path) {
    static const char tail[] = "/" STATE_FOLDER "/" SOCKET_NAME;
    size_t len = strlen(socket_path), tail_len = sizeof tail - 1;
    if (len <= tail_len || strcmp(socket_path + len - tail_len, tail))
        return NULL;
    char *instance = text_dup(socket_path);
    instance[len - tail_len] = 0;
    return instance;
}

/* ---- nodes that run here. A node holds files of its state folder open, so its descriptors lead to its socket, whatever its command
 * line, environment or configuration said. */
struct found {
    char *sockets[FOUND_MAX];
    int count;
};

static void found_add(struct found *found, const char *socket_path) {
    for (int i = 0; i < found->count; i++) {
        if (!strcmp(found->sockets[i], socket_path))
            return;
    }
    if (found->count < FOUND_MAX)
        found->sockets[found->count++] = text_dup(socket_path);
}

/* Looks beside the file, and one folder up. */
static void look_beside(struct found *found, char *file) {
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(file, '/');
        if (!slash || slash == file)
            return;
        *slash = 0;
        char *path = text_format("%s/" SOCKET_NAME, file);
        bool there = is_socket(path);
        if (there)
            found_add(found, path);
        free(path);
        if (there)
            return;
    }
}

static void look_at_process(struct found *found, const char *pid) {
    char name[64], target[PATH_MAX], comm[32] = "";
    struct stat st;
    snprintf(name, sizeof name, "/proc/%.16s", pid);
    if (stat(name, &st) || (geteuid() && st.st_uid != geteuid()))
        return;
    snprintf(name, sizeof name, "/proc/%.16s/comm", pid);
    FILE *f = fopen(name, "re");
    bool ours = f && fgets(comm, sizeof comm, f) && !strcmp(comm, "starlingd\n");
    if (f)
        fclose(f);
    if (!ours)
        return;
    snprintf(name, sizeof name, "/proc/%.16s/fd", pid);
    DIR *fds = opendir(name);
    for (struct dirent *e; fds && (e = readdir(fds));) {
        ssize_t len = readlinkat(dirfd(fds), e->d_name, target, sizeof target - 1);
        if (len > 0 && target[0] == '/') {
            target[len] = 0;
            look_beside(found, target);
        }
    }
    if (fds)
        closedir(fds);
}

static void look_at_processes(struct found *found) {
    DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));) {
        if (isdigit((unsigned char)e->d_name[0]))
            look_at_process(found, e->d_name);
    }
    if (proc)
        closedir(proc);
}

/* The instance folder that we stand in, or below. */
static char *socket_upward(void) {
    char folder[PATH_MAX];
    if (!getcwd(folder, sizeof folder))
        return NULL;
    for (;;) {
        char *path = text_format("%s/" STATE_FOLDER "/" SOCKET_NAME, folder);
        if (is_socket(path))
            return path;
        free(path);
        char *slash = strrchr(folder, '/');
        if (!slash)
            return NULL;
        *slash = 0;
    }
}

/* The only node that runs here; several are named, for the user to choose. */
static int place_running(struct place *out) {
    struct found found = {.count = 0};
    int code = EXIT_YES;
    look_at_processes(&found);
    if (found.count == 1) {
        out->socket = text_dup(found.sockets[0]);
    } else if (!found.count) {
        complain("no node runs here: start one with `starlingd --instance DIR`, or say which with --instance DIR");
        code = EXIT_NO_NODE;
    } else {
        char *list = text_dup("");
        for (int i = 0; i < found.count; i++) {
            char *instance = instance_of(found.sockets[i]);
            char *longer =
                text_format("%s%s%s %s", list, i ? ", " : "", instance ? "--instance" : "--socket", instance ? instance : found.sockets[i]);
            free(instance);
            free(list);
            list = longer;
        }
        complain("%d nodes run here, say which: %s", found.count, list);
        free(list);
        code = EXIT_USAGE;
    }
    for (int i = 0; i < found.count; i++)
        free(found.sockets[i]);
    return code;
}

static int place_instance(struct place *out, const char *folder) {
    struct stat st;
    if (stat(folder, &st) || !S_ISDIR(st.st_mode)) {
        complain("%s: %s: give the application's instance folder", folder, errno && errno != ENOTDIR ? strerror(errno) : "not a folder");
        return EXIT_USAGE;
    }
    out->instance = realpath(folder, NULL);
    if (!out->instance) {
        complain("%s: %s", folder, strerror(errno));
        return EXIT_USAGE;
    }
    out->socket = text_format("%s/" STATE_FOLDER "/" SOCKET_NAME, out->instance);
    return EXIT_YES;
}

int place_find(const struct cli *cli, struct place *out) {
    const char *named = getenv("STARLING_INSTANCE");
    int code = EXIT_YES;
    *out = (struct place){NULL, NULL};
    if (cli->socket && cli->instance) {
        complain("--instance and --socket both name a node: give one of them");
        return EXIT_USAGE;
    }
    errno = 0;
    if (cli->socket)
        out->socket = text_dup(cli->socket);
    else if (cli->instance)
        return place_instance(out, cli->instance);
    else if (named && *named)
        return place_instance(out, named);
    else
        out->socket = socket_upward();
    if (!out->socket)
        code = place_running(out);
    if (out->socket)
        out->instance = instance_of(out->socket);
    return code;
}

void place_release(struct place *place) {
    free(place->instance);
    free(place->socket);
    *place = (struct place){NULL, NULL};
}
