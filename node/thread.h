/* Starling node: threads of ours. Signals belong to the loop: no other thread takes one. */
#ifndef NODE_THREAD_H
#define NODE_THREAD_H

#include <pthread.h>

int thread_start(pthread_t *out, void *(*run)(void *arg), void *arg); /* 0, or a number of errno */

#endif
