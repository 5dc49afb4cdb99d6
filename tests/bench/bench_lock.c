/* Starling bench: how long somebody holds the write lock of a database in WAL mode.
 *
 *   bench_lock PATH SECONDS PID          PID 0: whoever it is; SIGTERM ends it before SECONDS are over, with what it saw
 * Asks every 50 us who holds it (F_GETLK on its byte of the -shm: asking disturbs nobody, where BEGIN IMMEDIATE in a loop would itself be a
 * reader and a writer that the node waits for). A hold of PID is as long as it was seen without a gap; precise to 50 us. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define WAL_WRITE_LOCK_BYTE 120

int main(int argc, char **argv) {
    if (argc != 4) {
        bench_die("usage: PATH SECONDS PID");
    }
    char name[4096];
    snprintf(name, sizeof name, "%s-shm", argv[1]);
    int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        bench_die("%s: cannot be opened", name);
    }
    pid_t pid = (pid_t)bench_number(argv[3], 0, 1 << 30);
    uint64_t start = bench_ns(), end = start + (uint64_t)bench_number(argv[2], 1, 3600) * 1000000000u, held_since = 0;
    struct samples holds = {0};
    bool told = false;
    const struct timespec pause = {.tv_nsec = 50000};
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGTERM);
    sigprocmask(SIG_BLOCK, &ended, NULL);
    bench_exact_timers();
    for (uint64_t now = start; now < end && !told; now = bench_ns()) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WAL_WRITE_LOCK_BYTE, .l_len = 1};
        if (fcntl(fd, F_GETLK, &lock) != 0) {
            bench_die("%s: cannot be asked", name);
        }
        bool held = lock.l_type != F_UNLCK && (pid == 0 || lock.l_pid == pid);
        if (held && held_since == 0) {
            held_since = now;
        } else if (!held && held_since != 0) {
            samples_add(&holds, (double)(now - held_since) / 1e6);
            held_since = 0;
        }
        told = sigtimedwait(&ended, NULL, &pause) == SIGTERM;
    }
    printf("{\"holds\":%zu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n", holds.count, samples_at(&holds, 0.5),
           samples_at(&holds, 0.99), samples_at(&holds, 1));
    samples_release(&holds);
    close(fd);
    return 0;
}
