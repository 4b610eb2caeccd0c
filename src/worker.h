/* SPDX-License-Identifier: Apache-2.0 */
/* One worker: a thread with its loop, listener, fibers and upstream connections. Workers share
 * nothing hot.
 *
 * The main thread tells workers what to do by messages; worker_call waits for the answer. */
#ifndef WORKER_H
#define WORKER_H

#include <pthread.h>

#include "base/err.h"
#include "conf/conf.h"
#include "gateway/gateway.h"
#include "net/tls.h"

struct worker {
    struct gateway gateway;
    struct loop *loop;
    const struct conf *conf; /* whose options the server has; one reference */
    struct tls_context *tls; /* one reference; NULL: plain */
    int *listeners;          /* descriptors to listen on, taken over */
    size_t listener_count;
    pthread_t thread;
    err_t error; /* why it did not start; static or process memory */
    bool is_running;
};

/* Start a worker's thread and wait until it accepts connections. gateway.service and .thread,
 * listeners, conf and tls must be set (references are taken). Errors: SYSTEM, BUSY. Main thread,
 * before its loop runs. */
err_t worker_start(struct worker *worker) ERR_MUST_CHECK;

/* PARKS (a fiber of the main thread) while fn(worker, arg) runs in the worker's loop. Not
 * cancellable. */
void worker_call(struct worker *worker, void (*fn)(struct worker *worker, void *arg), void *arg);

/* Leave the loop and join the thread; no exchange may be running. Main thread. */
void worker_stop(struct worker *worker);

#endif
