/* Starling node: a connection's round trip as the kernel measures it. A file of its own, since <linux/tcp.h> cannot stand beside libuv's headers. */
#ifndef NODE_RTT_H
#define NODE_RTT_H

#include <stdint.h>

/* Microseconds; 0 unknown. */
uint32_t rtt_us(int fd);

#endif
