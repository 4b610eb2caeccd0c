/* SPDX-License-Identifier: Apache-2.0 */
/* Thread pools: a queue each, threads that start when there is work and none is idle, and the way
 * back by loop_post.
 *
 * The job of offload_run lies on the waiting fiber's stack and may use the fiber's arena. That of
 * offload_run_until may outlive the wait, so it lies on the heap and has a small arena of its own,
 * from which an error is copied when somebody still wants it.
 *
 * The hard thing is who frees an abandoned job: under the pool's lock either the fiber marks it
 * abandoned, and the thread frees it, or the thread marks it finished, and the fiber does. */
#include "fiber/offload.h"

#include <pthread.h>
#include <signal.h>

#include "base/arena.h"
#include "base/check.h"
#include "fiber/fiber.h"
#include "fiber/loop_private.h"

#define WAITING_MAX     1024
#define THREADS_MAX     8
#define JOB_ARENA_BYTES 4096

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_FINISHED, JOB_ABANDONED };

struct job {
    struct list link;
    enum job_state state; /* under the pool's lock */
    err_t (*fn)(void *arg);
    void *arg;
    void (*abandon)(void *arg);
    err_t result;
    struct arena *arena; /* where fn's errors are made */
    struct loop *loop;
    struct fiber *fiber;
    struct loop_message message;
    bool is_done; /* in the loop's thread: the message has come */
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    struct list queue;
    unsigned queued, thread_count, idle_count, thread_limit;
    bool is_stopping;
    pthread_t threads[THREADS_MAX];
    const char *name;
};

static struct pool pools[] = {
#define X(id, count, work)                                                                         \
    [OFFLOAD_##id] = {.lock = PTHREAD_MUTEX_INITIALIZER,                                           \
                      .wanted = PTHREAD_COND_INITIALIZER,                                          \
                      .queue = {&pools[OFFLOAD_##id].queue, &pools[OFFLOAD_##id].queue},           \
                      .thread_limit = count,                                                       \
                      .name = #id},
    OFFLOAD_POOLS(X)
#undef X
};

#define X(id, count, work) _Static_assert((count) <= THREADS_MAX, #id " has too many threads");
OFFLOAD_POOLS(X)
#undef X

static const struct err pool_full = {
    .kind = ERR_BUSY, .where = ERR_HERE, .text = "too many jobs wait for a thread"};
static const struct err no_thread = {
    .kind = ERR_BUSY, .where = ERR_HERE, .text = "cannot start a thread"};

/* ---- in a pool's thread ---- */

static void job_free(struct job *job)
{
    arena_free(job->arena);
    mem_free(MEM_FIBER, job, sizeof *job);
}

/* Run a job that was taken from the queue and hand it back. Called and returns with the lock
 * held. */
static void run_job(struct pool *pool, struct job *job)
{
    bool is_wanted = job->state == JOB_QUEUED;

    if (is_wanted) {
        job->state = JOB_RUNNING;
        pthread_mutex_unlock(&pool->lock);
        err_scope_set(job->arena);
        job->result = job->fn(job->arg);
        err_scope_set(NULL);
        pthread_mutex_lock(&pool->lock);
        is_wanted = job->state == JOB_RUNNING;
    }
    if (is_wanted)
        job->state = JOB_FINISHED;
    pthread_mutex_unlock(&pool->lock);
    if (is_wanted) {
        loop_post(job->loop, &job->message); /* the job may be gone now */
    } else {
        job->abandon(job->arg);
        job_free(job);
    }
    pthread_mutex_lock(&pool->lock);
}

static void *pool_main(void *arg)
{
    struct pool *pool = arg;

    pthread_setname_np(pthread_self(), pool->name);
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct list *link = list_first(&pool->queue);
        if (link) {
            list_remove(link);
            pool->queued--;
            run_job(pool, container_of(link, struct job, link));
        } else if (pool->is_stopping) {
            break;
        } else {
            pool->idle_count++;
            pthread_cond_wait(&pool->wanted, &pool->lock);
            pool->idle_count--;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* ---- in the loop's thread ---- */

/* Start one more thread, with all signals blocked: they are the main thread's. Lock held. */
static void start_thread(struct pool *pool)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&pool->threads[pool->thread_count], NULL, pool_main, pool) == 0)
        pool->thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void on_done(struct loop_message *message)
{
    struct job *job = container_of(message, struct job, message);

    job->is_done = true;
    fiber_wake(job->fiber);
}

static err_t enqueue(struct pool *pool, struct job *job)
{
    err_t err = NULL;

    job->loop = loop_self();
    job->fiber = fiber_self();
    job->message.fn = on_done;
    pthread_mutex_lock(&pool->lock);
    if (pool->idle_count <= pool->queued && pool->thread_count < pool->thread_limit)
        start_thread(pool);
    if (pool->thread_count == 0) {
        err = &no_thread;
    } else if (pool->queued >= WAITING_MAX) {
        err = &pool_full;
    } else {
        list_push(&pool->queue, &job->link);
        pool->queued++;
        pthread_cond_signal(&pool->wanted);
    }
    pthread_mutex_unlock(&pool->lock);
    return err;
}

static void wait_done(struct job *job)
{
    while (!job->is_done)
        fiber_park_until_woken();
}

err_t offload_run(enum offload_pool pool, err_t (*fn)(void *arg), void *arg)
{
    if (!fiber_self())
        return fn(arg);

    struct job job = {.fn = fn, .arg = arg, .arena = fiber_arena()};
    TRY(enqueue(&pools[pool], &job));
    wait_done(&job);
    return job.result;
}

/* Take a job out of the queue. False when it has begun. */
static bool take_back(struct pool *pool, struct job *job)
{
    pthread_mutex_lock(&pool->lock);
    bool is_queued = job->state == JOB_QUEUED;
    if (is_queued) {
        list_remove(&job->link);
        pool->queued--;
    }
    pthread_mutex_unlock(&pool->lock);
    return is_queued;
}

err_t offload_run_stoppable(enum offload_pool pool, err_t (*fn)(void *arg), void *arg,
                            void (*stop)(void *arg))
{
    if (!fiber_self())
        return fn(arg);

    struct job job = {.fn = fn, .arg = arg, .arena = fiber_arena()};
    TRY(enqueue(&pools[pool], &job));
    err_t err = NULL;
    while (!job.is_done && !err)
        err = fiber_park(FIBER_FOREVER);
    if (job.is_done)
        return job.result;
    if (take_back(&pools[pool], &job))
        return err;
    stop(arg);
    wait_done(&job);
    return job.result ? err : NULL;
}

/* Leave the job to its thread. False when it has finished: its message is on the way. */
static bool give_up(struct pool *pool, struct job *job)
{
    pthread_mutex_lock(&pool->lock);
    bool is_unfinished = job->state != JOB_FINISHED;
    if (is_unfinished)
        job->state = JOB_ABANDONED;
    pthread_mutex_unlock(&pool->lock);
    return is_unfinished;
}

/* `err` made anew in the fiber's scope. */
static err_t copy_error(err_t err)
{
    struct err_detail detail;

    if (!err)
        return NULL;
    detail = (struct err_detail){.status = err->status, .code = err->code, .param = err->param};
    return err_make(err->kind, detail, err->where, "%s", err->text);
}

static struct job *job_new(void)
{
    struct job *job = mem_alloc_zero(MEM_FIBER, sizeof *job);
    struct arena *arena = arena_new(MEM_FIBER, JOB_ARENA_BYTES);

    if (job && arena) {
        job->arena = arena;
        return job;
    }
    arena_free(arena);
    mem_free(MEM_FIBER, job, sizeof *job);
    return NULL;
}

err_t offload_run_until(enum offload_pool pool, err_t (*fn)(void *arg), void *arg,
                        void (*abandon)(void *arg), uint64_t at_ms)
{
    if (!fiber_self())
        return fn(arg);

    struct job *job = job_new();
    if (!job)
        return err_no_memory();
    job->fn = fn;
    job->arg = arg;
    job->abandon = abandon;
    err_t err = enqueue(&pools[pool], job);
    if (err) {
        job_free(job);
        return err;
    }
    while (!job->is_done && !err)
        err = fiber_park(at_ms);
    if (!job->is_done && give_up(&pools[pool], job))
        return err;
    wait_done(job);
    err = copy_error(job->result);
    job_free(job);
    return err;
}

void offload_stop_all(void)
{
    for (int i = 0; i < OFFLOAD_POOL_COUNT; i++) {
        struct pool *pool = &pools[i];
        pthread_mutex_lock(&pool->lock);
        pool->is_stopping = true;
        pthread_cond_broadcast(&pool->wanted);
        pthread_mutex_unlock(&pool->lock);
        for (unsigned t = 0; t < pool->thread_count; t++)
            pthread_join(pool->threads[t], NULL);
        pool->thread_count = 0;
        pool->is_stopping = false;
    }
}
