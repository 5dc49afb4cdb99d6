#include "node/rtt.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

uint32_t rtt_us(int fd) {
    struct tcp_info info;
    socklen_t len = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
        return 0;
    /* The smoothed figure holds the other side's delayed acknowledgements; the least one of the last minutes does not. */
    if (len >= offsetof(struct tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt) && info.tcpi_min_rtt != 0 &&
        info.tcpi_min_rtt != UINT32_MAX)
        return info.tcpi_min_rtt;
    return info.tcpi_rtt;
}
