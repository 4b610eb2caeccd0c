/* SPDX-License-Identifier: Apache-2.0 */
/* Redis: one connection per loop.
 *
 * A command is appended to what is to be sent, a record of it to the queue of answers awaited, and its fiber
 * waits. What has gathered is sent with one system call before the loop waits again; answers are read by the loop
 * itself, when bytes come, and wake the fiber whose record is oldest.
 * Dialling is done by a fiber of its own, so that calls wait for it no longer than for anything else.
 *
 * The hard thing is an answer that comes too late. Its fiber is gone, but its place in the order is not:
 * the record stays, without a fiber, until the answer has come or the connection is given up. */
#include "store/redis.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "store/redis_dial.h"

#define MAX_FAILURES  5    /* in a row: then Redis is left alone */
#define RETRY_MS      750  /* until the next try to connect; with DIAL_MS it is back within 2 s */
#define DIAL_MS       1000 /* for one */
#define MAX_OUT_BYTES ((size_t)4 * 1024 * 1024)
#define MS_PER_MINUTE 60000

/* A fiber's wait for an answer; on its stack. */
struct waiter {
    struct fiber *fiber;
    struct arena *arena;
    struct redis_reply *reply; /* done without one: the connection is gone, or there is no memory */
    bool is_done;
};

/* An answer to come. */
struct pending {
    struct list link;
    struct waiter *waiter; /* NULL: nobody waits (any more) */
};

struct redis {
    struct sock sock;
    struct redis_target *target;
    uint64_t version; /* of the target */
    struct redis_reader reader;
    struct buf out;      /* what is still to be sent */
    struct list pending; /* oldest first */
    struct fiber *dialler;
    struct timer retry; /* while out */
    struct timer soon;  /* set while there is something to send */
    unsigned failures;  /* in a row */
    bool is_ready, is_out, is_leaving;
    char reason[160]; /* why there is no connection */
};

static struct {
    pthread_mutex_t lock;
    struct redis_target *target;
    _Atomic uint64_t version; /* grows with each change of it */
    atomic_int out_count;     /* threads that leave Redis alone */
    _Atomic uint64_t told_ms; /* when the log was last told that it is back */
} settings = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct redis *here;

static void dial(struct redis *r);
static void follow_settings(struct redis *r);

/* ---- failures ---- */

static void note_state(void)
{
    metric_set(metric_series_get(METRIC_REDIS_UP, NULL), atomic_load(&settings.out_count) == 0);
}

static void note_reason(struct redis *r, const char *text)
{
    snprintf(r->reason, sizeof(r->reason), "%s", text);
}

/* Wake everyone who waits, with nothing, and forget what was to be sent. */
static void fail_pending(struct redis *r)
{
    list_each (it, &r->pending) {
        struct pending *p = container_of(it, struct pending, link);

        list_remove(it);
        if (p->waiter) {
            p->waiter->is_done = true;
            fiber_wake(p->waiter->fiber);
        }
        mem_free(MEM_UPSTREAM, p, sizeof(*p));
    }
    r->out.len = 0;
}

/* Give the connection up. One that is still being dialled is left to its fiber. */
static void drop(struct redis *r)
{
    fail_pending(r);
    if (r->dialler)
        return;
    r->is_ready = false;
    sock_close(&r->sock);
    redis_reader_fini(&r->reader);
    buf_fini(&r->out);
}

static void retry(struct timer *timer)
{
    struct redis *r = container_of(timer, struct redis, retry);

    follow_settings(r);
    if (r->is_out && !r->dialler && !r->is_ready)
        dial(r);
}

static void retry_later(struct redis *r)
{
    err_t err = timer_set(&r->retry, loop_now_ms() + RETRY_MS, retry);

    check(!err); /* set once before, by open_here */
}

static void leave_alone(struct redis *r)
{
    r->is_out = true;
    atomic_fetch_add(&settings.out_count, 1);
    note_state();
    drop(r);
    if (!r->dialler)
        retry_later(r);
}

static void note_failure(struct redis *r)
{
    if (++r->failures >= MAX_FAILURES && !r->is_out)
        leave_alone(r);
}

/* ---- reading and writing ---- */

static void lose(struct redis *r, const char *why)
{
    note_reason(r, why);
    drop(r);
}

/* Send what the kernel takes; the rest goes when the loop tells of room. */
static void flush(struct redis *r)
{
    struct iovec iov = {r->out.ptr, r->out.len};
    size_t n = 1;
    err_t err = NULL;

    while (r->out.len > 0 && n > 0 && !err) {
        err = sock_try_write(&r->sock, &iov, 1, &n);
        buf_drop(&r->out, n);
        iov = (struct iovec){r->out.ptr, r->out.len};
    }
    if (err)
        lose(r, "the connection was lost");
}

static void flush_now(struct timer *timer)
{
    struct redis *r = container_of(timer, struct redis, soon);

    if (r->is_ready)
        flush(r);
}

/* Send when all fibers that can run have run. */
static void flush_soon(struct redis *r)
{
    err_t err = timer_set(&r->soon, loop_now_ms(), flush_now);

    check(!err); /* set once before, by open_here */
}

/* Hand an answer to whom it is for. */
static void deliver(struct redis *r, const struct redis_reply *reply)
{
    struct pending *p = container_of(list_first(&r->pending), struct pending, link);

    list_remove(&p->link);
    if (p->waiter) {
        p->waiter->reply = redis_reply_copy(reply, p->waiter->arena);
        p->waiter->is_done = true;
        fiber_wake(p->waiter->fiber);
    }
    mem_free(MEM_UPSTREAM, p, sizeof(*p));
}

/* Errors that another server would not give: ask anew where the master is. */
static bool is_wrong_server(const struct redis_reply *reply)
{
    return redis_reply_is_error(reply, STR("READONLY")) ||
           redis_reply_is_error(reply, STR("MASTERDOWN"));
}

/* Whether the connection goes on. */
static bool take_in(struct redis *r, struct str bytes)
{
    struct redis_reply *reply;
    bool is_wrong = false;

    if (redis_reader_feed(&r->reader, bytes) || redis_reader_next(&r->reader, &reply)) {
        lose(r, "what it answers is not Redis' protocol");
        return false;
    }
    while (reply) {
        if (list_is_empty(&r->pending)) {
            lose(r, "an answer came that nobody had asked for");
            return false;
        }
        is_wrong |= is_wrong_server(reply);
        deliver(r, reply);
        if (redis_reader_next(&r->reader, &reply)) {
            lose(r, "what it answers is not Redis' protocol");
            return false;
        }
    }
    if (is_wrong)
        lose(r, "the server is no master");
    return !is_wrong;
}

static void on_ready(struct sock *sock)
{
    struct redis *r = container_of(sock, struct redis, sock);
    bool again = false;
    size_t n;

    while (r->is_ready && !again && sock_may_read(sock)) {
        err_t err = sock_try_read(sock, loop_scratch(), LOOP_SCRATCH_BYTES, &n, &again);

        if (err || (n == 0 && !again))
            lose(r, err ? "the connection was lost" : "the server hung up");
        else if (n > 0 && !take_in(r, (struct str){loop_scratch(), n}))
            return;
    }
    if (r->is_ready)
        flush(r);
}

/* ---- connecting ---- */

static void come_back(struct redis *r)
{
    uint64_t now_ms = sys_now_ms(), told_ms = atomic_load(&settings.told_ms);

    if (r->is_out && atomic_fetch_sub(&settings.out_count, 1) == 1 &&
        (!told_ms || now_ms - told_ms >= MS_PER_MINUTE)) {
        atomic_store(&settings.told_ms, now_ms);
        log_info("redis is back");
    }
    /* What comes next decides: one more failure, and it is left alone again. */
    r->failures = r->is_out ? MAX_FAILURES - 1 : r->failures;
    r->is_out = false;
    note_state();
}

/* Body of the dialling fiber. */
static void run_dial(void *arg)
{
    struct redis *r = arg;
    struct arena *arena = arena_new(MEM_UPSTREAM, 64 * 1024);
    err_t err;

    fiber_set_arena(arena);
    err = redis_dial(&r->sock, &r->reader, r->target, loop_now_ms() + DIAL_MS);
    if (err)
        note_reason(r, err->text ? err->text : "no connection");
    fiber_set_arena(NULL);
    arena_free(arena);
    r->dialler = NULL;
    if (r->is_leaving) {
        loop_stop(loop_self());
        return;
    }
    if (err) {
        drop(r);
        if (r->is_out)
            retry_later(r);
        return;
    }
    r->is_ready = true;
    r->sock.on_ready = on_ready;
    come_back(r);
    on_ready(&r->sock);
}

static void dial(struct redis *r)
{
    if (!fiber_start_later("redis", run_dial, r, &r->dialler))
        return;
    lose(r, "no memory for a fiber");
    if (r->is_out)
        retry_later(r);
}

static err_t open_here(void)
{
    struct redis *r = mem_alloc_zero(MEM_UPSTREAM, sizeof(*r));

    if (!r)
        return err_no_memory();
    sock_init(&r->sock);
    list_init(&r->pending);
    r->out = buf_make(MEM_UPSTREAM, MAX_OUT_BYTES);
    if (timer_set(&r->retry, UINT64_MAX - 1, retry) ||
        timer_set(&r->soon, UINT64_MAX - 1, flush_now)) {
        timer_clear(&r->retry);
        mem_free(MEM_UPSTREAM, r, sizeof(*r));
        return err_no_memory();
    }
    here = r;
    return NULL;
}

/* Follow what is configured; while a connection is being dialled, that goes first. */
static void follow_settings(struct redis *r)
{
    if (r->version == atomic_load(&settings.version) || r->dialler)
        return;
    drop(r);
    redis_target_unref(r->target);
    pthread_mutex_lock(&settings.lock);
    r->target = redis_target_ref(settings.target);
    r->version = atomic_load(&settings.version);
    pthread_mutex_unlock(&settings.lock);
    if (r->is_out)
        come_back(r); /* what is known is of the other one */
    r->failures = 0;
}

/* ---- calls ---- */

err_t redis_check(void)
{
    if (!here)
        TRY(open_here());
    follow_settings(here);
    if (!here->target)
        return err_new(ERR_STORE, "redis: none is configured");
    if (here->is_out)
        return err_new(ERR_STORE, "redis: %s", here->reason);
    return NULL;
}

/* Put a command into the queue. Errors: BUSY, TOO_BIG. */
static err_t enqueue(struct redis *r, const struct str *args, size_t count, struct waiter *waiter,
                     struct pending **out)
{
    size_t before = r->out.len;
    struct pending *p;

    TRY(redis_format(&r->out, args, count));
    p = mem_alloc(MEM_UPSTREAM, sizeof(*p));
    if (!p) {
        r->out.len = before;
        return err_no_memory();
    }
    p->waiter = waiter;
    list_push(&r->pending, &p->link);
    *out = p;
    return NULL;
}

/* PARKS until the answer is there or the connection is gone. */
static err_t await_answer(struct redis *r, struct waiter *waiter, struct pending *p)
{
    uint64_t at_ms = loop_now_ms() + r->target->timeout_ms;
    err_t err = NULL;

    while (!waiter->is_done && !err)
        err = fiber_park(at_ms);
    if (waiter->is_done)
        return NULL;
    p->waiter = NULL;
    if (err == &fiber_wait_over) {
        if (r->is_ready)
            note_reason(r, "no answer in time");
        note_failure(r);
        return err_new(ERR_STORE, "redis: no answer in time");
    }
    return err;
}

err_t redis_call(const struct str *args, size_t count, struct arena *arena,
                 struct redis_reply **out)
{
    struct waiter waiter = {.fiber = fiber_self(), .arena = arena};
    struct pending *pending;
    struct redis *r;

    TRY(redis_check());
    r = here;
    if (!r->is_ready && !r->dialler)
        dial(r);
    TRY(enqueue(r, args, count, &waiter, &pending));
    if (r->is_ready)
        flush_soon(r);
    TRY(await_answer(r, &waiter, pending));
    *out = waiter.reply;
    if (!*out || ((*out)->kind == REDIS_ERROR && !redis_reply_is_error(*out, STR("NOSCRIPT")))) {
        note_failure(r);
        return *out ? err_new(ERR_STORE, "redis: %.*s", STR_ARG((*out)->text))
                    : err_new(ERR_STORE, "redis: %s", r->reason);
    }
    r->failures = 0;
    return NULL;
}

void redis_send(const struct str *args, size_t count)
{
    struct redis *r = here;
    struct pending *pending;

    if (!r || !r->is_ready || enqueue(r, args, count, NULL, &pending))
        return;
    flush_soon(r);
}

err_t redis_reject(const char *why)
{
    lose(here, why);
    note_failure(here);
    return err_new(ERR_STORE, "redis: %s", why);
}

/* ---- life ---- */

static bool is_in_force(struct str url, uint64_t timeout_ms)
{
    const struct redis_target *target;
    bool result;

    pthread_mutex_lock(&settings.lock);
    target = settings.target;
    result = target ? str_eq(target->url, url) && target->timeout_ms == timeout_ms : url.len == 0;
    pthread_mutex_unlock(&settings.lock);
    return result;
}

err_t redis_configure(struct str url, uint64_t timeout_ms)
{
    struct redis_target *fresh = NULL, *old;

    if (is_in_force(url, timeout_ms))
        return NULL;
    if (url.len > 0)
        TRY(redis_target_make(url, timeout_ms, &fresh));
    pthread_mutex_lock(&settings.lock);
    old = settings.target;
    settings.target = fresh;
    atomic_fetch_add(&settings.version, 1);
    pthread_mutex_unlock(&settings.lock);
    redis_target_unref(old);
    if (fresh)
        note_state();
    return NULL;
}

void redis_leave(void)
{
    struct redis *r = here;

    if (!r)
        return;
    r->is_leaving = true;
    if (r->dialler) {
        static const struct err leaving = {.kind = ERR_CANCELLED, .text = "the thread ends"};

        fiber_cancel(r->dialler, &leaving);
        loop_run(loop_self());
    }
    if (r->is_ready)
        flush(r); /* what was given back last */
    drop(r);
    if (r->is_out)
        atomic_fetch_sub(&settings.out_count, 1);
    timer_clear(&r->retry);
    timer_clear(&r->soon);
    redis_target_unref(r->target);
    mem_free(MEM_UPSTREAM, r, sizeof(*r));
    here = NULL;
}

void redis_close(void)
{
    err_t err = redis_configure((struct str){0}, 0);

    check(!err);
    atomic_store(&settings.told_ms, 0);
}
