#include "node/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/err.h"

static int port_parse(const char *text, uint16_t *port) {
    char *end = NULL;
    if (text[0] < '0' || text[0] > '9')
        return ERR_MALFORMED;
    long value = strtol(text, &end, 10);
    if (*end != 0 || value > 65535)
        return ERR_MALFORMED;
    *port = (uint16_t)value;
    return 0;
}

int address_parse(const char *text, uint16_t port_default, char host[ADDRESS_HOST_MAX], uint16_t *port) {
    size_t len = strlen(text);
    const char *host_at = text, *port_at = NULL;
    size_t host_len = len;

    *port = port_default;
    if (len == 0 || strchr(text, '/') != NULL)
        return ERR_MALFORMED;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f)
            return ERR_MALFORMED;
    if (text[0] == '[') {
        const char *close = strchr(text, ']');
        if (close == NULL || (close[1] != 0 && close[1] != ':') || close == text + 1)
            return ERR_MALFORMED;
        host_at = text + 1;
        host_len = (size_t)(close - host_at);
        if (close[1] == ':')
            port_at = close + 2;
    } else {
        const char *colon = strchr(text, ':');
        if (colon != NULL && strchr(colon + 1, ':') == NULL) { /* two colons: a bare IPv6 address */
            host_len = (size_t)(colon - text);
            port_at = colon + 1;
        }
    }
    if (host_len >= ADDRESS_HOST_MAX)
        return ERR_MALFORMED;
    memcpy(host, host_at, host_len);
    host[host_len] = 0;
    if (host_len > 0 && strspn(host, "0123456789") == host_len)
        return ERR_MALFORMED; /* a port alone; the system would take it for the address 0.0.27.239 */
    return port_at == NULL ? 0 : port_parse(port_at, port);
}

bool address_numeric(const char *host, uint16_t port, struct sockaddr_storage *out) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    char bare[ADDRESS_HOST_MAX];

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return true;
    }
    snprintf(bare, sizeof(bare), "%s", host);
    char *scope = strchr(bare, '%');
    if (scope != NULL)
        *scope++ = 0;
    if (inet_pton(AF_INET6, bare, &v6->sin6_addr) != 1)
        return false;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    if (scope != NULL)
        v6->sin6_scope_id = scope[0] >= '0' && scope[0] <= '9' ? (uint32_t)strtoul(scope, NULL, 10) : if_nametoindex(scope);
    return true;
}

static bool private_v4(uint32_t a) {
    return a >> 24 == 127 || a >> 24 == 10 || a >> 20 == 0xac1 || a >> 16 == 0xc0a8 || a >> 16 == 0xa9fe ||
           a >> 22 == 0x191; /* 100.64/10, as carriers and overlay networks use it */
}

bool address_private(const struct sockaddr *sa) {
    if (sa->sa_family == AF_INET)
        return private_v4(ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr));
    if (sa->sa_family != AF_INET6)
        return false;
    const struct in6_addr *a = &((const struct sockaddr_in6 *)sa)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(a)) {
        uint32_t v4;
        memcpy(&v4, a->s6_addr + 12, 4);
        return private_v4(ntohl(v4));
    }
    return IN6_IS_ADDR_LOOPBACK(a) || (a->s6_addr[0] & 0xfe) == 0xfc || (a->s6_addr[0] == 0xfe && (a->s6_addr[1] & 0xc0) == 0x80);
}

void address_bytes(const struct sockaddr *sa, uint8_t out[16]) {
    memset(out, 0, 16);
    if (sa->sa_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
    } else if (sa->sa_family == AF_INET) {
        out[10] = out[11] = 0xff;
        memcpy(out + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
    }
}

static bool is_v4(const uint8_t bytes[16]) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(bytes, mapped, sizeof(mapped)) == 0;
}

bool address_loopback(const struct sockaddr *sa) {
    uint8_t bytes[16];
    address_bytes(sa, bytes);
    return is_v4(bytes) ? bytes[12] == 127
                        : sa->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

bool address_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    uint8_t x[16], y[16];
    address_bytes((const struct sockaddr *)a, x);
    address_bytes((const struct sockaddr *)b, y);
    return memcmp(x, y, is_v4(x) ? 16 : 8) == 0;
}

const char *address_text(const struct sockaddr *sa, char out[ADDRESS_TEXT_MAX]) {
    char host[INET6_ADDRSTRLEN] = "?";
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sa;
        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
            inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, host, sizeof(host));
            snprintf(out, ADDRESS_TEXT_MAX, "%s:%u", host, ntohs(v6->sin6_port));
            return out;
        }
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        if (v6->sin6_scope_id != 0) {
            /* The number of the interface, not its name: it is only of use on this machine either way. */
            snprintf(out, ADDRESS_TEXT_MAX, "[%s%%%u]:%u", host, v6->sin6_scope_id, ntohs(v6->sin6_port));
            return out;
        }
        snprintf(out, ADDRESS_TEXT_MAX, "[%s]:%u", host, ntohs(v6->sin6_port));
        return out;
    }
    if (sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, host, sizeof(host));
    snprintf(out, ADDRESS_TEXT_MAX, "%s:%u", host, address_port(sa));
    return out;
}

const char *address_host_text(const struct sockaddr *sa, char out[ADDRESS_TEXT_MAX]) {
    address_text(sa, out);
    *strrchr(out, ':') = 0;
    size_t len = strlen(out);
    if (out[0] == '[') {
        memmove(out, out + 1, len - 2);
        out[len - 2] = 0;
    }
    return out;
}

uint16_t address_port(const struct sockaddr *sa) {
    if (sa->sa_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)sa)->sin6_port);
    return sa->sa_family == AF_INET ? ntohs(((const struct sockaddr_in *)sa)->sin_port) : 0;
}
