/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's life: open what it needs, run the loop, close it again, all in its own thread. */
#include "worker.h"

#include <semaphore.h>
#include <signal.h>

#include "base/check.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "govern/limit.h"
#include "net/resolve.h"

/* What worker_start and the new thread share until it runs. */
struct start {
    struct worker *worker;
    sem_t done;
};

static err_t listen_all(struct worker *w)
{
    while (w->listener_count > 0)
        TRY(http_server_listen(w->gateway.server, w->listeners[--w->listener_count], w->tls));
    return NULL;
}

static err_t open_worker(struct worker *w)
{
    struct http_server_options options;

    TRY(loop_open(&w->loop));
    TRY(http_pool_open(&w->gateway.pool));
    gateway_server_options(&w->gateway, w->conf, &options);
    TRY(http_server_open(&options, &w->gateway.server));
    return listen_all(w);
}

static void close_worker(struct worker *w)
{
    if (w->gateway.server)
        http_server_close(w->gateway.server);
    if (w->gateway.pool)
        http_pool_close(w->gateway.pool);
    resolve_close();
    limit_leave();
    if (w->loop)
        loop_close(w->loop);
    conf_unref(w->conf);
    tls_context_unref(w->tls);
}

static void *run_worker(void *arg)
{
    struct start *start = arg;
    struct worker *w = start->worker;

    check_catch_signals();
    w->error = open_worker(w);
    w->is_running = !w->error;
    sem_post(&start->done); /* `start` is gone after this */
    if (w->is_running)
        loop_run(w->loop);
    close_worker(w);
    return NULL;
}

err_t worker_start(struct worker *w)
{
    struct start start = {.worker = w};
    sigset_t all, before;
    int failed;

    list_init(&w->gateway.requests);
    w->gateway.listener = GATEWAY_PUBLIC;
    conf_ref(w->conf);
    if (w->tls)
        tls_context_ref(w->tls);
    sem_init(&start.done, 0, 0);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    failed = pthread_create(&w->thread, NULL, run_worker, &start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return err_system(failed, "starting a worker thread");
    while (sem_wait(&start.done))
        continue;
    sem_destroy(&start.done);
    if (w->error)
        pthread_join(w->thread, NULL);
    return w->error;
}

/* ---- messages ---- */

/* A call under way: goes to the worker's loop and comes back. Lives on the caller's stack. */
struct call_message {
    struct loop_message message;
    struct worker *worker;
    struct loop *home;
    struct fiber *caller;
    void (*fn)(struct worker *worker, void *arg);
    void *arg;
    bool is_done;
};

static void come_home(struct loop_message *message)
{
    struct call_message *call = container_of(message, struct call_message, message);

    call->is_done = true;
    fiber_wake(call->caller);
}

static void run_call(struct loop_message *message)
{
    struct call_message *call = container_of(message, struct call_message, message);

    call->fn(call->worker, call->arg);
    call->message.fn = come_home;
    loop_post(call->home, &call->message);
}

void worker_call(struct worker *w, void (*fn)(struct worker *worker, void *arg), void *arg)
{
    struct call_message call = {.message.fn = run_call,
                                .worker = w,
                                .home = loop_self(),
                                .caller = fiber_self(),
                                .fn = fn,
                                .arg = arg};

    check(call.caller != NULL);
    fiber_shield(FIBER_FOREVER);
    loop_post(w->loop, &call.message);
    while (!call.is_done)
        if (fiber_park(FIBER_FOREVER))
            break;
    fiber_unshield();
}

static void leave_loop(struct loop_message *message)
{
    (void)message;
    loop_stop(loop_self());
}

void worker_stop(struct worker *w)
{
    struct loop_message message = {.fn = leave_loop};

    if (!w->is_running)
        return;
    loop_post(w->loop, &message);
    pthread_join(w->thread, NULL);
    w->is_running = false;
}
