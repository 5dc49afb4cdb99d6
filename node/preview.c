/* The happy path for preview is:
 *   preview_run: this server's key, or one for this visit -> caller_open -> "hello" -> each database that both have: compare.h -> one JSON object.
 * Possible failure modes are:
 *   - nobody answers, or one side refuses the other: {"error"}, as caller.h has it;
 *   - the connection is lost amid it: {"error"}; a file that cannot be read: "error" of that database alone. */
#include "node/preview.h"

#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/caller.h"
#include "node/check.h"
#include "node/databases.h"
#include "node/identity.h"
#include "node/secret.h"
#include "node/store/compare.h"

#define BUSY_MS 5000

struct preview {
    const struct config *config;
    struct caller caller;
    bool match; /* adopt = match */
    bool lost;  /* the connection; why says how */
    char why[600];
};

/* An answer without an error, or NULL and why. Takes question. */
static json_t *ask(void *ctx, json_t *question, char *why, size_t why_len) {
    struct preview *p = ctx;
    json_t *a = caller_ask(&p->caller, question, why, why_len);
    const char *error = json_string_value(json_object_get(a, "error"));
    p->lost = a == NULL;
    if (error == NULL)
        return a;
    snprintf(why, why_len, "%.200s: %.300s", p->caller.address, error);
    json_decref(a);
    return NULL;
}

static const json_t *named(const json_t *list, const char *name) {
    size_t i;
    json_t *each;
    json_array_foreach(list, i, each) {
        const char *other = json_string_value(json_object_get(each, "name"));
        if (other != NULL && strcmp(other, name) == 0)
            return each;
    }
    return NULL;
}

/* ---- databases */

static json_t *compare_file(struct preview *p, const char *name, const char *path) {
    char uri[3 * PATH_MAX + 64];
    if (!check_quiet_uri(path, uri, sizeof(uri))) {
        snprintf(p->why, sizeof(p->why), "it must first be recovered: open it once with the application, then ask again");
        return NULL;
    }
    struct compare_config config = {name, config_excluded(p->config, name), p->match, ask, p};
    sqlite3 *db = NULL;
    json_t *tables = NULL;
    if (sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(db, BUSY_MS);
        tables = compare_database(db, &config, p->why, sizeof(p->why));
    } else {
        snprintf(p->why, sizeof(p->why), "it cannot be read: %.300s", sqlite3_errmsg(db));
    }
    sqlite3_close(db);
    return tables;
}

struct listing {
    struct preview *p;
    json_t *names, *results;
};

static void list_database(void *ctx, const char *name, const char *path, bool alien) {
    struct listing *l = ctx;
    struct preview *p = l->p;
    json_t *tables = NULL;
    bool both = named(l->names, name) != NULL;
    if (p->lost)
        return;
    p->why[0] = 0;
    if (alien)
        snprintf(p->why, sizeof(p->why), "not a SQLite database: move it away or restore it");
    else if (both)
        tables = compare_file(p, name, path);
    json_t *j =
        json_pack("{s:s, s:s, s:o}", "name", name, "where", both ? "both" : "here", "tables", tables != NULL ? tables : json_array());
    if (both)
        json_object_set(j, "base", json_object_get(named(l->names, name), "base"));
    if (p->why[0] != 0)
        json_object_set_new(j, "error", json_string(p->why));
    json_array_append_new(l->results, j);
}

static void list_closed(void *ctx, const char *folder, int error) { (void)ctx, (void)folder, (void)error; }

static json_t *compare_all(struct preview *p, const json_t *hello) {
    json_t *names = json_object_get(hello, "databases"), *each;
    struct listing l = {.p = p, .names = names, .results = json_array()};
    size_t i;
    databases_list(config_text(p->config, OPTION_INSTANCE), config_text(p->config, OPTION_STATE),
                   &(struct databases_listing){&l, list_database, list_closed});
    json_array_foreach(names, i, each) {
        if (named(l.results, json_string_value(json_object_get(each, "name"))) == NULL)
            json_array_append_new(l.results,
                                  json_pack("{s:O, s:s, s:[]}", "name", json_object_get(each, "name"), "where", "there", "tables"));
    }
    return l.results;
}

/* ---- the visit */

/* This server's key, if it has one already; else one for this visit. */
static int who_asks(struct preview *p, struct secure_keys *keys, struct secrets *secrets) {
    const char *state = config_text(p->config, OPTION_STATE);
    char path[PATH_MAX];
    struct identity id = {.lock_fd = -1};
    snprintf(path, sizeof(path), "%s/node.key", state);
    int r = 0;
    if (access(path, F_OK) == 0)
        r = identity_load(&id, state, p->why, sizeof(p->why));
    else
        crypto_sign_keypair(id.key, id.secret);
    if (r == 0)
        secure_keys_init(keys, id.key, id.secret);
    identity_release(&id);
    return r != 0 ? r : secrets_open(secrets, keys, config_text(p->config, OPTION_SECRET_FILE), state, p->why, sizeof(p->why));
}

static json_t *visit(struct preview *p, const char *address, const struct secure_keys *keys) {
    json_t *result = NULL, *hello = NULL;
    if (caller_open(&p->caller, address, keys, p->why, sizeof(p->why)) == 0) {
        hello = ask(p, json_pack("{s:s, s:s}", "ask", "hello", "cluster", config_text(p->config, OPTION_CLUSTER)), p->why, sizeof(p->why));
        if (p->lost)
            snprintf(p->why, sizeof(p->why),
                     "%.200s: it ends the connection: see its log; an older starlingd takes no such visits: run the same version on both",
                     address);
    }
    if (hello != NULL) {
        result = json_deep_copy(hello);
        json_object_set_new(result, "host", json_string(address));
        json_object_set_new(result, "adopt", json_string(config_text(p->config, OPTION_ADOPT)));
        json_object_set_new(result, "databases", json_is_true(json_object_get(hello, "member")) ? json_array() : compare_all(p, hello));
    }
    if (p->lost) {
        json_decref(result);
        result = NULL;
    }
    json_decref(hello);
    caller_close(&p->caller);
    return result;
}

bool preview_run(const struct config *config) {
    const struct setting *join = &config->settings[OPTION_JOIN];
    struct preview *p = calloc(1, sizeof(*p));
    struct secure_keys keys = {0};
    struct secrets secrets = {0};
    json_t *result = NULL;
    if (p == NULL)
        return false;
    p->config = config;
    p->match = strcmp(config_text(config, OPTION_ADOPT), "match") == 0;
    snprintf(p->why, sizeof(p->why), "whom to ask? say --join HOST");
    if (join->count > 0 && who_asks(p, &keys, &secrets) == 0)
        for (uint32_t i = 0; i < join->count && result == NULL; i++)
            result = visit(p, join->values[i], &keys);
    bool done = result != NULL;
    if (!done)
        result = json_pack("{s:s}", "error", p->why);
    json_dumpf(result, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(result);
    sodium_memzero(&keys, sizeof(keys));
    secrets_close(&secrets);
    free(p);
    return done;
}
