#include "node/thread.h"

#include <signal.h>

#define STACK_BYTES (1u << 20)

int thread_start(pthread_t *out, void *(*run)(void *arg), void *arg) {
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    sigdelset(&all, SIGSEGV); /* blocked, a fault ends the process without a word from anybody */
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(out, &attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r;
}
