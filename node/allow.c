/* The happy path for allow is:
 *   allow_open reads peers.json -> a timer looks names up every LOOKUP_MS -> resolved_cb keeps what they lead to -> allow_permits compares.
 * Possible failure modes are:
 *   - a name does not resolve: the addresses that it had stay, until it resolves again;
 *   - peers.json cannot be read: the node does not start, since what was denied would be let in;
 *   - it cannot be written: the decision is refused. */
#include "node/allow.h"

#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/address.h"
#include "node/identity.h"
#include "node/statefile.h"
#include "proto/core.h"
#include "proto/err.h"

#define LOOKUP_MS 30000
#define FOUND_MAX 16
#define RULES_MAX 1024
#define BITS 128

enum rule_kind { RULE_NETWORK, RULE_PRIVATE, RULE_ANY, RULE_NAME };

struct rule {
    char text[ADDRESS_HOST_MAX];
    enum rule_kind kind;
    enum rule_from from;
    bool deny;
    uint8_t network[16]; /* IPv4 as it is written inside IPv6 */
    unsigned bits;
    struct sockaddr_storage found[FOUND_MAX]; /* RULE_NAME: where it leads */
    unsigned found_count;
};

struct blocked {
    uint8_t id[NODE_ID_BYTES];
    char name[CORE_NAME_MAX];
};

struct allow {
    uv_loop_t *loop;
    uv_timer_t timer;
    char *path;
    struct rule *rules;
    uint32_t count;
    struct blocked *blocked;
    uint32_t blocked_count;
    unsigned lookups; /* under way */
    bool closed;
};

/* ---- one rule */

static bool name_ok(const char *text) {
    size_t len = strlen(text);
    return len > 0 && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == len &&
           strspn(text, "0123456789.") != len;
}

static bool rule_parse(const char *text, struct rule *out) {
    struct sockaddr_storage address;
    char host[ADDRESS_HOST_MAX];
    const char *slash = strchr(text, '/');
    size_t host_len = slash == NULL ? strlen(text) : (size_t)(slash - text);
    *out = (struct rule){0};
    if (host_len == 0 || strlen(text) >= sizeof(out->text))
        return false;
    snprintf(out->text, sizeof(out->text), "%s", text);
    snprintf(host, sizeof(host), "%.*s", (int)host_len, text);
    if (strcmp(text, "any") == 0 || strcmp(text, "private") == 0) {
        out->kind = text[0] == 'a' ? RULE_ANY : RULE_PRIVATE;
        return true;
    }
    if (!address_numeric(host, 0, &address)) {
        out->kind = RULE_NAME;
        return slash == NULL && name_ok(text);
    }
    unsigned most = address.ss_family == AF_INET ? 32 : BITS, bits = most;
    if (slash != NULL) {
        char *end = NULL;
        unsigned long n = strtoul(slash + 1, &end, 10);
        if (slash[1] < '0' || slash[1] > '9' || *end != 0 || n > most)
            return false;
        bits = (unsigned)n;
    }
    address_bytes((struct sockaddr *)&address, out->network);
    out->bits = BITS - most + bits;
    return true;
}

bool allow_valid(const char *rule) {
    struct rule parsed;
    return rule_parse(rule, &parsed);
}

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits) {
    if (memcmp(a, b, bits / 8) != 0)
        return false;
    return bits % 8 == 0 || (a[bits / 8] ^ b[bits / 8]) >> (8 - bits % 8) == 0;
}

static bool rule_covers(const struct rule *rule, const struct sockaddr *address) {
    uint8_t bytes[16], found[16];
    address_bytes(address, bytes);
    switch (rule->kind) {
    case RULE_ANY: return true;
    case RULE_PRIVATE: return address_private(address);
    case RULE_NETWORK: return same_bits(rule->network, bytes, rule->bits);
    case RULE_NAME: break;
    }
    for (unsigned i = 0; i < rule->found_count; i++) {
        address_bytes((const struct sockaddr *)&rule->found[i], found);
        if (memcmp(found, bytes, sizeof(found)) == 0)
            return true;
    }
    return false;
}

/* ---- the list */

static struct rule *rule_find(struct allow *a, const char *text, bool deny, enum rule_from from) {
    for (uint32_t i = 0; i < a->count; i++)
        if (a->rules[i].deny == deny && a->rules[i].from == from && strcmp(a->rules[i].text, text) == 0)
            return &a->rules[i];
    return NULL;
}

static void timer_cb(uv_timer_t *timer);

static int rule_add(struct allow *a, const char *text, bool deny, enum rule_from from) {
    struct rule rule;
    if (!rule_parse(text, &rule))
        return ERR_MALFORMED;
    if (rule_find(a, text, deny, from) != NULL)
        return 0;
    struct rule *more = a->count >= RULES_MAX ? NULL : realloc(a->rules, (a->count + 1) * sizeof(*more));
    if (more == NULL)
        return ERR_NOMEM;
    rule.deny = deny;
    rule.from = from;
    a->rules = more;
    a->rules[a->count++] = rule;
    if (rule.kind == RULE_NAME)
        uv_timer_start(&a->timer, timer_cb, 0, LOOKUP_MS);
    return 0;
}

static void rule_remove(struct allow *a, const struct rule *rule) {
    size_t at = (size_t)(rule - a->rules);
    memmove(&a->rules[at], &a->rules[at + 1], (--a->count - at) * sizeof(*rule));
}

void allow_configure(struct allow *a, char *const *rules, uint32_t count) {
    for (uint32_t i = a->count; i-- > 0;)
        if (a->rules[i].from == RULE_DEFAULT || a->rules[i].from == RULE_CONFIGURATION)
            rule_remove(a, &a->rules[i]);
    for (uint32_t i = 0; i < count; i++)
        rule_add(a, rules[i], false, RULE_CONFIGURATION);
    if (count == 0)
        rule_add(a, "private", false, RULE_DEFAULT);
}

void allow_seed(struct allow *a, const char *address) {
    char host[ADDRESS_HOST_MAX];
    uint16_t port;
    if (address_parse(address, ADDRESS_PORT, host, &port) == 0 && host[0] != 0)
        rule_add(a, host, false, RULE_SEED);
}

bool allow_permits(const struct allow *a, const struct sockaddr *address) {
    bool permitted = address_loopback(address);
    for (uint32_t i = 0; i < a->count; i++) {
        if (!rule_covers(&a->rules[i], address))
            continue;
        if (a->rules[i].deny)
            return false;
        permitted = true;
    }
    return permitted;
}

bool allow_named(const struct allow *a, const char *host) {
    for (uint32_t i = 0; i < a->count; i++)
        if (!a->rules[i].deny && a->rules[i].kind == RULE_NAME && strcmp(a->rules[i].text, host) == 0)
            return true;
    return false;
}

/* ---- names */

struct lookup {
    struct allow *allow;
    uv_getaddrinfo_t request;
    char name[ADDRESS_HOST_MAX];
};

static void release(struct allow *a) {
    if (!a->closed || a->lookups > 0)
        return;
    free(a->rules);
    free(a->blocked);
    free(a->path);
    free(a);
}

static void take_found(struct rule *rule, const struct addrinfo *found) {
    rule->found_count = 0;
    for (; found != NULL && rule->found_count < FOUND_MAX; found = found->ai_next)
        if (found->ai_addrlen <= sizeof(rule->found[0]) && (found->ai_family == AF_INET || found->ai_family == AF_INET6))
            memcpy(&rule->found[rule->found_count++], found->ai_addr, found->ai_addrlen);
}

static void resolved_cb(uv_getaddrinfo_t *request, int status, struct addrinfo *found) {
    struct lookup *l = request->data;
    struct allow *a = l->allow;
    for (uint32_t i = 0; status == 0 && found != NULL && i < a->count; i++)
        if (a->rules[i].kind == RULE_NAME && strcmp(a->rules[i].text, l->name) == 0)
            take_found(&a->rules[i], found);
    uv_freeaddrinfo(found);
    free(l);
    a->lookups--;
    release(a);
}

static void look_up(struct allow *a, const char *name) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct lookup *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return;
    l->allow = a;
    l->request.data = l;
    snprintf(l->name, sizeof(l->name), "%s", name);
    if (uv_getaddrinfo(a->loop, &l->request, resolved_cb, name, NULL, &hints) == 0)
        a->lookups++;
    else
        free(l);
}

static void timer_cb(uv_timer_t *timer) {
    struct allow *a = timer->data;
    for (uint32_t i = 0; i < a->count; i++)
        if (a->rules[i].kind == RULE_NAME)
            look_up(a, a->rules[i].text);
}

/* ---- STATE/peers.json */

static json_t *rules_json(const struct allow *a, bool deny) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < a->count; i++)
        if (a->rules[i].deny == deny && a->rules[i].from == RULE_COMMAND)
            json_array_append_new(list, json_string(a->rules[i].text));
    return list;
}

static json_t *blocked_json(const struct allow *a) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < a->blocked_count; i++) {
        char id[2 * NODE_ID_BYTES + 1];
        json_array_append_new(list, json_pack("{s:s, s:s}", "id", identity_hex(a->blocked[i].id, id), "name", a->blocked[i].name));
    }
    return list;
}

static int save(const struct allow *a, char *why, size_t why_len) {
    int r = statefile_write(
        a->path, json_pack("{s:o, s:o, s:o}", "allow", rules_json(a, false), "deny", rules_json(a, true), "blocked", blocked_json(a)));
    if (r != 0)
        snprintf(why, why_len, "%s could not be written: %s", a->path, err_text(r));
    return r;
}

static bool blocked_add(struct allow *a, const uint8_t id[NODE_ID_BYTES], const char *name) {
    struct blocked *more = a->blocked_count >= RULES_MAX ? NULL : realloc(a->blocked, (a->blocked_count + 1) * sizeof(*more));
    if (more == NULL)
        return false;
    a->blocked = more;
    struct blocked *b = &more[a->blocked_count++];
    *b = (struct blocked){0};
    memcpy(b->id, id, sizeof(b->id));
    snprintf(b->name, sizeof(b->name), "%s", name);
    return true;
}

static void take_file(struct allow *a, const json_t *file) {
    const json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(file, "allow"), i, entry) if (json_is_string(entry))
        rule_add(a, json_string_value(entry), false, RULE_COMMAND);
    json_array_foreach(json_object_get(file, "deny"), i, entry) if (json_is_string(entry))
        rule_add(a, json_string_value(entry), true, RULE_COMMAND);
    json_array_foreach(json_object_get(file, "blocked"), i, entry) {
        uint8_t id[NODE_ID_BYTES];
        size_t len = 0;
        const char *hex = json_string_value(json_object_get(entry, "id")), *name = json_string_value(json_object_get(entry, "name"));
        if (hex != NULL && sodium_hex2bin(id, sizeof(id), hex, strlen(hex), NULL, &len, NULL) == 0 && len == sizeof(id))
            blocked_add(a, id, name != NULL ? name : "");
    }
}

struct allow *allow_open(uv_loop_t *loop, const char *state, char *why, size_t why_len) {
    bool bad = false;
    struct allow *a = calloc(1, sizeof(*a));
    snprintf(why, why_len, "out of memory");
    if (a == NULL || asprintf(&a->path, "%s/peers.json", state) < 0) {
        free(a);
        return NULL;
    }
    a->loop = loop;
    json_t *file = statefile_read(a->path, &bad);
    if (bad) {
        snprintf(why, why_len,
                 "%s could not be read and was put aside as peers.json.bad: say again whom to deny and block, then start again", a->path);
        free(a->path);
        free(a);
        return NULL;
    }
    uv_timer_init(loop, &a->timer);
    a->timer.data = a;
    uv_timer_start(&a->timer, timer_cb, 0, LOOKUP_MS);
    take_file(a, file);
    json_decref(file);
    return a;
}

static void closed_cb(uv_handle_t *handle) {
    struct allow *a = handle->data;
    a->closed = true;
    release(a);
}

void allow_close(struct allow *a) { uv_close((uv_handle_t *)&a->timer, closed_cb); }

/* ---- decisions */

static int decide(struct allow *a, const char *text, bool deny, char *why, size_t why_len) {
    struct rule *opposite;
    if (!allow_valid(text)) {
        snprintf(why, why_len, "%.200s: say an address, a network like 192.168.1.0/24, a name, private or any", text);
        return ERR_USAGE;
    }
    if ((opposite = rule_find(a, text, !deny, RULE_COMMAND)) != NULL)
        rule_remove(a, opposite);
    int r = rule_add(a, text, deny, RULE_COMMAND);
    if (r != 0) {
        snprintf(why, why_len, "%s", err_text(r));
        return r;
    }
    return save(a, why, why_len);
}

int allow_add(struct allow *a, const char *rule, char *why, size_t why_len) { return decide(a, rule, false, why, why_len); }
int allow_deny(struct allow *a, const char *rule, char *why, size_t why_len) { return decide(a, rule, true, why, why_len); }

int allow_block(struct allow *a, const uint8_t id[NODE_ID_BYTES], const char *name, char *why, size_t why_len) {
    for (uint32_t i = 0; i < a->blocked_count; i++)
        if (memcmp(a->blocked[i].id, id, NODE_ID_BYTES) == 0)
            return 0;
    if (!blocked_add(a, id, name)) {
        snprintf(why, why_len, "too many are blocked");
        return ERR_FULL;
    }
    int r = save(a, why, why_len);
    a->blocked_count -= r != 0;
    return r;
}

int allow_unblock(struct allow *a, const char *who, uint8_t id[NODE_ID_BYTES], char *why, size_t why_len) {
    struct blocked *found = NULL;
    unsigned matches = 0;
    for (uint32_t i = 0; i < a->blocked_count; i++) {
        char hex[2 * NODE_ID_BYTES + 1];
        identity_hex(a->blocked[i].id, hex);
        if (strcmp(a->blocked[i].name, who) != 0 && (strlen(who) < 4 || strncmp(hex, who, strlen(who)) != 0))
            continue;
        found = &a->blocked[i];
        matches++;
    }
    if (matches != 1) {
        snprintf(why, why_len, matches == 0 ? "nobody of that name is blocked: see `starling peers`" : "several match: give the id");
        return ERR_NOTFOUND;
    }
    struct blocked gone = *found;
    memcpy(id, gone.id, NODE_ID_BYTES);
    *found = a->blocked[--a->blocked_count];
    int r = save(a, why, why_len);
    if (r != 0)
        blocked_add(a, gone.id, gone.name);
    return r;
}

int allow_join(struct allow *a, const char *address, char *why, size_t why_len) {
    char host[ADDRESS_HOST_MAX];
    uint16_t port;
    struct sockaddr_storage numeric;
    if (address_parse(address, ADDRESS_PORT, host, &port) != 0)
        return ERR_USAGE;
    if (address_numeric(host, port, &numeric) && allow_permits(a, (struct sockaddr *)&numeric))
        return 0;
    return allow_add(a, host, why, why_len);
}

bool allow_resolving(const struct allow *a) { return a->lookups > 0; }

const uint8_t *allow_blocked(const struct allow *a, uint32_t i) { return i < a->blocked_count ? a->blocked[i].id : NULL; }

void allow_json(const struct allow *a, json_t *object) {
    static const char *const FROM[] = {"default", "configuration", "join", "command"};
    json_t *lists[2] = {json_array(), json_array()};
    for (uint32_t i = 0; i < a->count; i++) {
        const struct rule *rule = &a->rules[i];
        json_t *entry = json_pack("{s:s, s:s}", "rule", rule->text, "from", FROM[rule->from]), *addresses = json_array();
        for (unsigned k = 0; k < rule->found_count; k++) {
            char text[ADDRESS_TEXT_MAX];
            json_array_append_new(addresses, json_string(address_host_text((const struct sockaddr *)&rule->found[k], text)));
        }
        if (rule->kind == RULE_NAME)
            json_object_set(entry, "addresses", addresses);
        json_decref(addresses);
        json_array_append_new(lists[rule->deny], entry);
    }
    json_object_set_new(object, "allow", lists[0]);
    json_object_set_new(object, "deny", lists[1]);
    json_object_set_new(object, "blocked", blocked_json(a));
}
