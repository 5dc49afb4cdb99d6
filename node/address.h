/* Starling node: addresses as text and as sockets have them. */
#ifndef NODE_ADDRESS_H
#define NODE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_HOST_MAX 256
#define ADDRESS_TEXT_MAX 72 /* "[ipv6%scope]:port" with terminator */
#define ADDRESS_PORT 7171

/* Takes apart host, host:port, [ipv6], [ipv6]:port, a bare IPv6 address, and :port (host becomes empty). The port is `port_default` when
 * it is left out. 0 or ERR_MALFORMED. */
int address_parse(const char *text, uint16_t port_default, char host[ADDRESS_HOST_MAX], uint16_t *port);
/* Reads a numeric host, without asking any server. False when it is a name. */
bool address_numeric(const char *host, uint16_t port, struct sockaddr_storage *out);
/* Loopback, or a private or link-local network; IPv4 inside IPv6 counts as the IPv4 address. */
bool address_private(const struct sockaddr *sa);
/* The 16 bytes of an address, IPv4 as it is written inside IPv6. */
void address_bytes(const struct sockaddr *sa, uint8_t out[16]);
bool address_loopback(const struct sockaddr *sa);
/* One machine, as far as addresses tell: of IPv6 the first 64 bits, since the others are its own choice. */
bool address_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b);
/* host:port, IPv6 in brackets, IPv4 inside IPv6 as IPv4. Returns out. */
const char *address_text(const struct sockaddr *sa, char out[ADDRESS_TEXT_MAX]);
const char *address_host_text(const struct sockaddr *sa, char out[ADDRESS_TEXT_MAX]); /* without the port and brackets */
uint16_t address_port(const struct sockaddr *sa);

#endif
