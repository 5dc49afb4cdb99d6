/* The happy path for node is:
 *   node_open: folder, members, core, transport, databases, admin socket -> node_run: the loop -> node_stop (signal, `stop`, `leave`): workers
 *   finish the turn at hand, peers are told, links close -> the loop ends -> node_close.
 * Possible failure modes are:
 *   - anything in node_open: what was opened is closed again and why has the line;
 *   - a worker does not end within DRAIN_MS, or a link within PART_MS: the node ends without them. What is durable stays, the rest comes
 *     again: that is what the store is made for. */
#include "node/node.h"

#include <assert.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/admin/admin.h"
#include "node/allow.h"
#include "node/clock.h"
#include "node/files/files.h"
#include "node/rotate.h"
#include "proto/err.h"

#define DRAIN_MS 2500
#define PART_MS 1500
#define SAVE_MS 500
#define CHORES_MS 250
#define MESSAGES_PER_ROUND 256
#define MESSAGES_PER_SETTLE 32

/* ---- stepping */

void node_step(struct node *n, struct event *e) {
    struct effect effect;
    assert(!n->stepping);
    n->stepping = true;
    e->now_ms = clock_mono_ms();
    e->wall_ms = clock_wall_ms();
    core_step(n->core, e);
    while (core_poll(n->core, &effect))
        node_effect(n, &effect);
    n->stepping = false;
}

static void tick_cb(uv_timer_t *timer) {
    struct node *n = timer->data;
    struct event e = {.type = EVENT_TICK};
    n->tick_at = UINT64_MAX;
    activity_tick(n);
    adoption_look(n);
    node_step(n, &e);
    node_settle(n);
}

/* What waits for a tick of ours, whatever the core's next one is: an idle core has none for seconds. */
static bool chores(const struct node *n) {
    for (const struct database *db = databases_first(n->databases); db != NULL; db = db->hh.next)
        if ((db->untold && !db->internal) || db->fetching)
            return true;
    return false;
}

static void tick_set(struct node *n) {
    uint64_t at = core_deadline(n->core), now = uv_now(&n->loop);
    if (at > now + CHORES_MS && chores(n))
        at = n->tick_at < now + CHORES_MS ? n->tick_at : now + CHORES_MS;
    if (at == n->tick_at)
        return;
    n->tick_at = at;
    if (at == UINT64_MAX)
        uv_timer_stop(&n->tick);
    else
        uv_timer_start(&n->tick, tick_cb, at > now ? at - now : 0, 0);
}

static bool all_opened(const struct node *n) {
    for (struct database *db = databases_app_first(n->databases); db != NULL; db = databases_app_next(db))
        if (db->state == DB_OPENING)
            return false;
    return true;
}

/* A name that is misspelt in the configuration would go unnoticed otherwise. */
static void say_unused(struct node *n) {
    for (uint32_t i = 0; i < n->config.databases_count; i++)
        if (databases_find(n->databases, n->config.databases[i].db) == NULL)
            log_line(n->log, LOG_WARNING, NULL,
                     "%s: there is no database \"%s\" in the instance folder: what is said of it holds once there is one",
                     n->config.file != NULL ? n->config.file : "the configuration", n->config.databases[i].db);
}

static void end_check(struct node *n);

/* A thread of ours has not ended yet. */
static bool working(const struct node *n) { return databases_running(n->databases) || (n->files != NULL && files_running(n->files)); }

void node_settle(struct node *n) {
    if (n->settling || n->state == NODE_ENDED)
        return; /* from within an answer: the round under way goes on */
    n->settling = true;
    for (bool more = true; more;) {
        struct event e;
        more = false;
        while (transport_settle(n->transport, &e)) {
            if (!content_peers_failed(n, &e))
                node_step(n, &e);
            more = true;
        }
        if (n->answered != NULL) {
            questions_deliver(n);
            more = true;
        }
    }
    n->settling = false;
    content_peers_look(n);
    if (n->files != NULL)
        files_tick(n->files);
    if (n->state == NODE_STARTING && all_opened(n)) {
        n->state = NODE_RUNNING;
        say_unused(n);
    }
    tick_set(n);
    end_check(n);
}

static void transport_event(void *ctx, struct event *e) {
    struct node *n = ctx;
    if (n->state == NODE_ENDED)
        return;
    if (!content_peers_failed(n, e))
        node_step(n, e);
    if (e->type == EVENT_LINK_CLOSED)
        content_peers_look(n);
    node_settle(n);
}

static void transport_handed(void *ctx, struct transport_handed *h) {
    if (h->secure.purpose == SECURE_VISIT)
        visits_handed(ctx, h);
    else
        content_peers_handed(ctx, h);
}

static bool link_greeted(void *ctx, uint64_t link) {
    const struct node *n = ctx;
    return core_linked(n->core, link);
}

static void inbox_cb(uv_async_t *async) {
    struct node *n = async->data;
    for (int i = 0; i < MESSAGES_PER_ROUND / MESSAGES_PER_SETTLE && n->state != NODE_ENDED; i++) {
        if (!node_inbox(n, MESSAGES_PER_SETTLE)) {
            node_settle(n);
            return;
        }
        node_settle(n);
    }
    if (n->state != NODE_ENDED)
        uv_async_send(async); /* links and timers have their turn in between */
}

/* ---- ending */

static void everything_close(struct node *n) {
    admin_close(n->admin);
    n->admin = NULL;
    transport_close(n->transport);
    databases_close(n->databases);
    content_peers_shut(n);
    visits_shut(n);
    if (n->files != NULL)
        files_close(n->files);
    rotation_close(n->rotation);
    allow_close(n->allow);
    inbox_end(&n->inbox);
    uv_close((uv_handle_t *)&n->inbox.async, NULL);
    uv_close((uv_handle_t *)&n->tick, NULL);
    uv_close((uv_handle_t *)&n->saving, NULL);
    uv_close((uv_handle_t *)&n->ending, NULL);
    for (int i = 0; i < 3; i++)
        uv_close((uv_handle_t *)&n->signals[i], NULL);
}

static void end(struct node *n) {
    n->state = NODE_ENDED;
    if (n->left)
        members_clear(n->members); /* the core has said the last of them: a later start stays alone until it is told to join */
    bool running = working(n);
    if (running)
        log_line(n->log, LOG_WARNING, NULL, "a database did not finish in time: it continues where it was at the next start");
    if (running || transport_resolving(n->transport) || allow_resolving(n->allow)) {
        members_save(n->members);
        admin_unlink(n->admin);
        _exit(0); /* a thread that cannot be joined, and what it holds must not be freed under it */
    }
    everything_close(n);
}

static void part(struct node *n) {
    struct event e = {.type = n->left ? EVENT_LEAVE : EVENT_STOP};
    n->state = NODE_PARTING;
    uv_timer_stop(&n->ending);
    node_step(n, &e);
}

static void ending_cb(uv_timer_t *timer) {
    struct node *n = timer->data;
    if (n->state == NODE_DRAINING) {
        part(n);
        uv_timer_start(&n->ending, ending_cb, PART_MS, 0);
        node_settle(n);
    } else if (n->state == NODE_PARTING) {
        end(n);
    }
}

static void end_check(struct node *n) {
    if (n->state == NODE_DRAINING && !working(n))
        uv_timer_start(&n->ending, ending_cb, 0, 0); /* not from within whatever called node_settle() */
    else if (n->state == NODE_PARTING && transport_links(n->transport) == 0)
        uv_timer_start(&n->ending, ending_cb, 0, 0);
}

void node_stop(struct node *n, bool leave) {
    if (n->state >= NODE_DRAINING)
        return;
    n->left = leave;
    n->state = NODE_DRAINING;
    log_line(n->log, LOG_INFO, NULL, leave ? "leaving the cluster" : "stopping");
    transport_quiet(n->transport);
    databases_stop(n->databases);
    if (n->files != NULL)
        files_stop(n->files);
    uv_timer_start(&n->ending, ending_cb, working(n) ? DRAIN_MS : 0, 0);
}

static void signal_cb(uv_signal_t *signal, int number) {
    struct node *n = signal->data;
    if (number == SIGHUP)
        node_reload(n);
    else
        node_stop(n, false);
    node_settle(n);
}

/* ---- opening */

static int core_open(struct node *n, char *why, size_t why_len) {
    struct core_config config = {0};
    char port[16];
    memcpy(config.key, n->identity.key, sizeof(config.key));
    memcpy(config.secret, n->identity.secret, sizeof(config.secret));
    snprintf(config.name, sizeof(config.name), "%s", n->name);
    snprintf(config.cluster, sizeof(config.cluster), "%s", config_text(&n->config, OPTION_CLUSTER));
    snprintf(port, sizeof(port), ":%u", transport_port(n->transport));
    const char *advertise = config_text(&n->config, OPTION_ADVERTISE);
    char host[ADDRESS_HOST_MAX];
    uint16_t advertised_port = 0;
    if (advertise[0] == 0)
        snprintf(config.advertise, sizeof(config.advertise), "%s", port);
    else if (address_parse(advertise, transport_port(n->transport), host, &advertised_port) == 0)
        snprintf(config.advertise, sizeof(config.advertise), strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, advertised_port);
    config.clocks = true;
    config.incarnation = members_incarnation(n->members, clock_wall_ms());
    randombytes_buf(&config.seed, sizeof(config.seed));
    n->core = core_new(&config);
    sodium_memzero(&config, sizeof(config));
    if (n->core == NULL)
        snprintf(why, why_len, "out of memory");
    return n->core == NULL ? ERR_NOMEM : 0;
}

static void core_begin(struct node *n) {
    for (uint32_t i = 0; i < members_count(n->members); i++) {
        struct event e = {.type = EVENT_MEMBER, .member = members_at(n->members, i)};
        node_step(n, &e);
    }
    const struct setting *join = &n->config.settings[OPTION_JOIN];
    const uint8_t *blocked;
    for (uint32_t i = 0; (blocked = allow_blocked(n->allow, i)) != NULL; i++) {
        struct event e = {.type = EVENT_BLOCK, .peer = blocked};
        node_step(n, &e);
    }
    for (uint32_t i = 0; i < join->count; i++)
        node_join(n, join->values[i]);
}

void node_join(struct node *n, const char *address) {
    struct event e = {.type = EVENT_SEED, .text = address};
    allow_seed(n->allow, address);
    node_step(n, &e);
}

static void saving_cb(uv_timer_t *timer) {
    struct node *n = timer->data;
    if (members_save(n->members) != 0)
        log_line(n->log, LOG_WARNING, NULL, "the list of members could not be saved in %s", config_text(&n->config, OPTION_STATE));
}

void node_members_changed(struct node *n) {
    if (!uv_is_active((uv_handle_t *)&n->saving))
        uv_timer_start(&n->saving, saving_cb, SAVE_MS, 0);
}

static int handles_open(struct node *n) {
    static const int SIGNALS[3] = {SIGTERM, SIGINT, SIGHUP};
    if (inbox_init(&n->inbox, &n->loop, inbox_cb, n) != 0)
        return ERR_IO;
    uv_timer_init(&n->loop, &n->tick);
    uv_timer_init(&n->loop, &n->saving);
    uv_timer_init(&n->loop, &n->ending);
    n->tick.data = n->saving.data = n->ending.data = n;
    for (int i = 0; i < 3; i++) {
        uv_signal_init(&n->loop, &n->signals[i]);
        n->signals[i].data = n;
        uv_signal_start(&n->signals[i], signal_cb, SIGNALS[i]);
    }
    return 0;
}

/* Who may be a member, and who may connect. */
static int guards_open(struct node *n, const char *state, char *why, size_t why_len) {
    const struct setting *allow = &n->config.settings[OPTION_ALLOW];
    secure_keys_init(&n->keys, n->identity.key, n->identity.secret);
    int r = secrets_open(&n->secrets, &n->keys, config_text(&n->config, OPTION_SECRET_FILE), state, why, why_len);
    if (r != 0)
        return r;
    if ((n->allow = allow_open(&n->loop, state, why, why_len)) == NULL)
        return ERR_NOMEM;
    allow_configure(n->allow, allow->values, allow->count);
    if (n->keys.secrets[0].closed && secret_exposed(config_text(&n->config, OPTION_SECRET_FILE)))
        log_line(n->log, LOG_WARNING, NULL, "other users can read the secret file: chmod 600 %s",
                 config_text(&n->config, OPTION_SECRET_FILE));
    if ((n->rotation = rotation_open(n)) == NULL) {
        snprintf(why, why_len, "out of memory");
        return ERR_NOMEM;
    }
    return 0;
}

int node_open(struct node *n, char *why, size_t why_len) {
    const char *state = config_text(&n->config, OPTION_STATE);
    n->started_ms = clock_mono_ms();
    n->tick_at = UINT64_MAX;
    held_init(&n->held);
    snprintf(n->name, sizeof(n->name), "%s", config_text(&n->config, OPTION_NAME));
    if (uv_loop_init(&n->loop) != 0 || (n->members = members_open(state, why, why_len)) == NULL) {
        snprintf(why, why_len, "out of memory or descriptors: see ulimit -n");
        return ERR_NOMEM;
    }
    if (why[0] != 0)
        log_line(n->log, LOG_WARNING, NULL, "%s", why);
    int r = guards_open(n, state, why, why_len);
    if (r != 0)
        return r;
    struct transport_config config = {
        &n->loop, n->log, config_text(&n->config, OPTION_LISTEN), &n->keys, n->allow, n, transport_event, link_greeted, transport_handed};
    r = transport_open(&n->transport, &config, why, why_len);
    if (r != 0)
        return r;
    r = core_open(n, why, why_len);
    if (r != 0)
        return r;
    if (handles_open(n) != 0 || (n->databases = databases_open(n, config_text(&n->config, OPTION_INSTANCE), state)) == NULL) {
        snprintf(why, why_len, "out of memory or descriptors: see ulimit -n");
        return ERR_NOMEM;
    }
    r = admin_open(&n->admin, n);
    if (r != 0) {
        snprintf(why, why_len, "cannot serve %s/admin.sock: %s: see the permissions of the state folder", state, err_text(r));
        return r;
    }
    r = files_open(&n->files, n, why, why_len);
    if (r == ERR_NOMEM)
        return r;
    if (r != 0)
        log_line(n->log, LOG_ERROR, NULL, "files are not replicated: %s", why);
    core_begin(n);
    databases_start(n->databases); /* settles */
    return 0;
}

void node_run(struct node *n) { uv_run(&n->loop, UV_RUN_DEFAULT); }

void node_close(struct node *n) {
    assert(n->state == NODE_ENDED);
    questions_release(n);
    content_peers_free(n);
    transport_free(n->transport);
    secrets_close(&n->secrets);
    databases_free(n->databases);
    if (n->files != NULL)
        files_free(n->files);
    inbox_release(&n->inbox);
    held_release(&n->held);
    core_free(n->core);
    members_close(n->members);
    int busy = uv_loop_close(&n->loop);
    assert(busy == 0);
    (void)busy;
}

const char *node_socket_path(const struct node *n, char *out, size_t out_len) {
    snprintf(out, out_len, "%s/admin.sock", config_text(&n->config, OPTION_STATE));
    return out;
}
