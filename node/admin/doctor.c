/* Starling node: `doctor`: what is wrong or will be, and how to mend it. The machine first, then the peers' clocks, then each database. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include "node/admin/conn.h"
#include "node/clock.h"
#include "node/files/files.h"

#define CLOCKS_MS 1500
#define STORES_MS 90000
#define CLOCK_WARN_MS 1000
#define CLOCK_ERROR_MS 60000
#define DISK_WARN_BYTES (1024ull << 20)
#define DISK_ERROR_BYTES (64ull << 20)
#define WATCHES_FEW 8192
#define SANE_WALL_MS 1700000000000ull /* November 2023: before this was written */

enum finding { FINDING_OK, FINDING_WARN, FINDING_ERROR };

struct doctor {
    json_t *checks, *problems, *checked;
    bool errors;
    struct clock_asked {
        uint64_t number, sent_ms;
        char name[CORE_NAME_MAX];
    } * clocks;
    uint32_t clocks_count, clocks_left;
};

static void doctor_release(struct conn *c) {
    struct doctor *d = c->task;
    json_decref(d->checks);
    json_decref(d->problems);
    json_decref(d->checked);
    free(d->clocks);
    free(d);
}

static void found(struct doctor *d, enum finding finding, const char *what, const char *mend) {
    static const char *const STATES[] = {"ok", "warn", "error"};
    json_array_append_new(
        d->checks, json_pack("{s:s, s:s, s:s?}", "what", what, "state", STATES[finding], "mend", finding == FINDING_OK ? NULL : mend));
    if (finding == FINDING_OK)
        json_array_append_new(d->checked, json_string(what));
    else
        json_array_append_new(d->problems, json_pack("{s:s, s:s?, s:b}", "what", what, "mend", mend, "note", finding == FINDING_WARN));
    d->errors = d->errors || finding == FINDING_ERROR;
}

/* ---- the machine */

static void look_clock(struct doctor *d) {
    struct timex t = {0};
    if (clock_wall_ms() < SANE_WALL_MS)
        found(d, FINDING_ERROR, "clock: it is years behind", "set the time: new writes would count as older than all others");
    else if (adjtimex(&t) == TIME_ERROR)
        found(d, FINDING_WARN, "clock: nothing keeps it right",
              "run a time service (systemd-timesyncd, chrony): the later write wins by the clock");
    else
        found(d, FINDING_OK, "clock", NULL);
}

static void look_disk(struct doctor *d, const char *what, const char *path) {
    struct statvfs fs;
    char text[200];
    if (statvfs(path, &fs) != 0) {
        snprintf(text, sizeof(text), "disk of the %s: %s", what, strerror(errno));
        found(d, FINDING_ERROR, text, "see whether it is mounted");
        return;
    }
    unsigned long long free_bytes = (unsigned long long)fs.f_bavail * fs.f_frsize;
    snprintf(text, sizeof(text), "disk of the %s: %llu MiB free", what, free_bytes >> 20);
    found(d,
          free_bytes < DISK_ERROR_BYTES  ? FINDING_ERROR
          : free_bytes < DISK_WARN_BYTES ? FINDING_WARN
                                         : FINDING_OK,
          text, "free some space");
}

static void look_state(struct doctor *d, const char *state) {
    char path[4096], text[4200];
    struct stat st;
    if (access(state, R_OK | W_OK | X_OK) != 0)
        found(d, FINDING_ERROR, "state folder: cannot be written", "give the user who runs starlingd the right to");
    else
        found(d, FINDING_OK, "state folder", NULL);
    snprintf(path, sizeof(path), "%s/node.key", state);
    if (stat(path, &st) == 0 && (st.st_mode & 077) == 0) {
        found(d, FINDING_OK, "node.key", NULL);
        return;
    }
    snprintf(text, sizeof(text), "chmod 600 %s", path);
    found(d, FINDING_ERROR, "node.key: others can read it, or it is gone", text);
}

static void look_limits(struct doctor *d) {
    unsigned long watches = 0;
    char text[120];
    FILE *f = fopen("/proc/sys/fs/inotify/max_user_watches", "re");
    if (f == NULL)
        return;
    if (fscanf(f, "%lu", &watches) == 1) {
        snprintf(text, sizeof(text), "inotify: %lu watches a user", watches);
        found(d, watches < WATCHES_FEW ? FINDING_WARN : FINDING_OK, text, "sysctl fs.inotify.max_user_watches=65536");
    }
    fclose(f);
}

static void look_peers(struct doctor *d, struct node *n) {
    struct peer_info peer;
    char text[700];
    if (core_twin(n->core) != NULL)
        found(d, FINDING_ERROR, core_twin(n->core), NULL);
    snprintf(text, sizeof(text), "port: listening on %s", transport_listen_text(n->transport));
    found(d, FINDING_OK, text, NULL);
    found(d, FINDING_OK,
          secrets_changing(&n->secrets) ? "members: the cluster's secret is being changed, old and new are accepted"
          : n->keys.secrets[0].closed
              ? "members: who has the cluster's secret"
              : "members: whoever connects from where `starling peers` allows it; a secret (starling keygen) would close the cluster",
          NULL);
    for (uint32_t i = 0; core_peer(n->core, i, &peer); i++) {
        if (peer.member->state == MEMBER_BLOCKED)
            continue;
        if (peer.refused != NULL) {
            snprintf(text, sizeof(text), "%s: no exchange: %.500s", peer.member->name, peer.refused);
            found(d, FINDING_ERROR, text, NULL);
        } else if (peer.member->state == MEMBER_DEAD || peer.member->state == MEMBER_SUSPECT) {
            snprintf(text, sizeof(text), "%s is %s", peer.member->name, member_state_text(peer.member->state));
            found(d, FINDING_WARN, text, "start starlingd there, or open its port on the way");
        }
    }
}

static void look_seeds(struct doctor *d, struct node *n) {
    struct seed_info seed;
    char text[700];
    for (uint32_t i = 0; core_seed(n->core, i, &seed); i++) {
        if (seed.failed == NULL)
            continue;
        snprintf(text, sizeof(text), "%s cannot be %s: %.500s", seed.address, seed.refused ? "joined" : "reached", seed.failed);
        found(d, seed.refused ? FINDING_ERROR : FINDING_WARN, text,
              seed.refused ? NULL : "start starlingd there, open its port on the way, or mend the address given to --join");
    }
}

static void look_files(struct doctor *d, struct node *n) {
    struct files_summary s;
    char text[400];
    if (n->files == NULL) {
        found(d, FINDING_ERROR, "files: not replicated: see the log", "mend what it says and start starlingd again");
        return;
    }
    files_summary(n->files, &s);
    snprintf(text, sizeof(text), "files: %llu, %llu pending", (unsigned long long)s.count, (unsigned long long)s.pending);
    found(d, FINDING_OK, text, NULL);
    snprintf(text, sizeof(text), "files: %s", s.error);
    if (s.error[0] != 0)
        found(d, FINDING_ERROR, text, "see `starling files status`");
    snprintf(text, sizeof(text),
             "files: %llu name%s that differ%s only in case, or in how accents are written: some file systems take them for one",
             (unsigned long long)s.namesakes, s.namesakes == 1 ? "" : "s", s.namesakes == 1 ? "s" : "");
    if (s.namesakes > 0)
        found(d, FINDING_WARN, text, "see `starling files status`, and rename one of each");
    if (s.blind)
        found(d, FINDING_WARN, "files: not all folders can be watched: changes are found by looking, later",
              "sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=1024, then start starlingd again");
}

static void look_databases(struct doctor *d, struct node *n) {
    for (struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next)
        if (database_broken(db))
            found(d, FINDING_ERROR, db->error != NULL ? db->error : db->name, NULL);
    for (uint32_t i = 0; i < n->config.databases_count; i++) {
        const struct database_policy *p = &n->config.databases[i];
        char text[400];
        snprintf(text, sizeof(text), "%.300s: replicate = no: this server neither sends nor takes it", p->db);
        if (!p->replicate)
            found(d, FINDING_OK, text, NULL);
    }
}

/* What the configuration says of a database that is not there is in force for none: mostly its name is misspelt. */
static void look_configuration(struct doctor *d, struct node *n) {
    char text[600];
    for (uint32_t i = 0; i < n->config.databases_count; i++) {
        const char *name = n->config.databases[i].db;
        if (databases_find(n->databases, name) != NULL)
            continue;
        snprintf(text, sizeof(text), "configuration: there is no database \"%.400s\" in the instance folder", name);
        found(d, FINDING_WARN, text, "correct the name, as `starling status` shows it, or leave it: what it says holds once there is one");
    }
}

/* ---- databases, then the end */

static void stores_done(struct conn *c, json_t *answers) {
    struct doctor *d = c->task;
    for (struct database *db = databases_app_first(c->node->databases); db != NULL; db = databases_app_next(db)) {
        json_t *answer = json_object_get(answers, db->name), *problems = json_object_get(answer, "problems"), *problem;
        char text[1400];
        size_t i;
        if (database_broken(db))
            continue;
        if (answer == NULL) {
            snprintf(text, sizeof(text), "%s: no answer in time: it is busy", db->name);
            found(d, FINDING_WARN, text, "try again");
        } else {
            const char *about = json_string_value(json_object_get(answer, "about"));
            snprintf(text, sizeof(text), "database %.250s%s%.300s", db->name, about != NULL ? ": " : "", about != NULL ? about : "");
            found(d, FINDING_OK, text, NULL);
        }
        json_array_foreach(problems, i, problem) {
            const char *what = json_string_value(json_object_get(problem, "what"));
            snprintf(text, sizeof(text), "%s: %.800s", db->name, what != NULL ? database_words(db, what) : "?");
            found(d, json_is_true(json_object_get(problem, "note")) ? FINDING_WARN : FINDING_ERROR, text,
                  json_string_value(json_object_get(problem, "mend")));
        }
    }
    json_decref(answers);
    bool errors = d->errors;
    conn_done(c, errors ? 1 : 0, json_pack("{s:O, s:O, s:O}", "checks", d->checks, "problems", d->problems, "checked", d->checked), NULL);
}

/* ---- the peers' clocks */

static void clocks_done(struct conn *c) { gather_start(c, QUESTION_DOCTOR, NULL, STORES_MS, stores_done); }

static void clock_answered(void *ctx, uint64_t number, json_t *answer) {
    struct conn *c = ctx;
    struct doctor *d = c->task;
    const json_t *wall = json_object_get(answer, "wall_ms");
    uint64_t now = clock_wall_ms();
    for (uint32_t i = 0; i < d->clocks_count && json_is_integer(wall); i++) {
        if (d->clocks[i].number != number)
            continue;
        int64_t middle = (int64_t)(d->clocks[i].sent_ms / 2 + now / 2), off = json_integer_value(wall) - middle,
                size = off < 0 ? -off : off;
        char text[200];
        snprintf(text, sizeof(text), "clock of %s: %lld ms %s", d->clocks[i].name, (long long)size,
                 off < 0 ? "behind ours" : "ahead of ours");
        found(d,
              size > CLOCK_ERROR_MS  ? FINDING_ERROR
              : size > CLOCK_WARN_MS ? FINDING_WARN
                                     : FINDING_OK,
              text, "set both by a time service: the later write wins by the clock");
    }
    json_decref(answer);
    if (--d->clocks_left == 0)
        conn_timer(c, 0, clocks_done); /* not from within the list of answers */
}

static void ask_clocks(struct conn *c) {
    struct doctor *d = c->task;
    struct peer_info peer;
    d->clocks = calloc(core_peers(c->node->core) + 1, sizeof(*d->clocks));
    uint32_t peers = d->clocks == NULL ? 0 : core_peers(c->node->core);
    for (uint32_t i = 0; i < peers && core_peer(c->node->core, i, &peer); i++) {
        struct clock_asked *asked = &d->clocks[d->clocks_count];
        if (peer.member->state != MEMBER_ALIVE || !peer.linked)
            continue;
        uint8_t id[NODE_ID_BYTES]; /* what core_peer() gave does not outlive the step */
        memcpy(id, peer.member->id, sizeof(id));
        snprintf(asked->name, sizeof(asked->name), "%s", peer.member->name);
        asked->sent_ms = clock_wall_ms();
        asked->number = node_ask_peer(c->node, id, json_pack("{s:s}", "ask", "clock"), clock_answered, c);
        d->clocks_count += asked->number != 0;
    }
    d->clocks_left = d->clocks_count;
    conn_timer(c, d->clocks_left == 0 ? 0 : CLOCKS_MS, clocks_done);
}

/* As what `starling doctor --join` has to ask other servers: flags for a starlingd that does not serve. */
static json_t *flags_json(const struct node *n) {
    static const enum option_id OPTIONS[] = {OPTION_INSTANCE, OPTION_STATE, OPTION_CLUSTER, OPTION_ADOPT, OPTION_SECRET_FILE};
    static const char *const FLAGS[] = {"--instance", "--state", "--cluster", "--adopt", "--secret-file"};
    json_t *flags = json_array();
    for (size_t i = 0; i <= sizeof(OPTIONS) / sizeof(*OPTIONS); i++) {
        bool last = i == sizeof(OPTIONS) / sizeof(*OPTIONS), path = last || OPTIONS[i] == OPTION_SECRET_FILE;
        const char *value = !last ? config_text(&n->config, OPTIONS[i]) : n->config.file != NULL ? n->config.file : "";
        char *whole = path && value[0] != 0 ? realpath(value, NULL) : NULL;
        if (value[0] != 0) {
            json_array_append_new(flags, json_string(last ? "--config" : FLAGS[i]));
            json_array_append_new(flags, json_string(whole != NULL ? whole : value));
        }
        free(whole);
    }
    return flags;
}

void verb_doctor(struct conn *c, const json_t *args) {
    struct doctor *d = json_is_true(json_object_get(args, "flags")) ? NULL : calloc(1, sizeof(*d));
    struct node *n = c->node;
    if (json_is_true(json_object_get(args, "flags"))) {
        json_t *bases = json_object();
        for (struct database *db = databases_app_first(n->databases); db != NULL; db = databases_app_next(db))
            json_object_set_new(bases, db->name, base_json(core_database_base(n->core, db->name)));
        conn_done(c, 0, json_pack("{s:o, s:o}", "flags", flags_json(n), "bases", bases), NULL);
        return;
    }
    if (d == NULL) {
        conn_done(c, 1, NULL, "out of memory");
        return;
    }
    d->checks = json_array();
    d->problems = json_array();
    d->checked = json_array();
    c->task = d;
    c->release = doctor_release;
    look_clock(d);
    look_disk(d, "instance folder", config_text(&n->config, OPTION_INSTANCE));
    look_disk(d, "state folder", config_text(&n->config, OPTION_STATE));
    look_state(d, config_text(&n->config, OPTION_STATE));
    look_limits(d);
    look_peers(d, n);
    look_seeds(d, n);
    look_configuration(d, n);
    look_databases(d, n);
    look_files(d, n);
    ask_clocks(c);
}
