/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: rounds, watches, messages. See loop.h for the idea.
 *
 * A round is: wait for events, call the watches they name, give libuv a turn if it needs one, run
 * the woken fibers. Everything of ours that has a descriptor is a watch, also libuv's backend and
 * the eventfd by which other threads announce messages.
 *
 * The hard thing is libuv inside: its clock is brought up to date once per round, so that timers
 * set in the round and the time to wait are computed from the same moment, and it takes up new
 * handles only when it runs, so whoever asks for it (loop_uv) gives it a turn before the next
 * wait. */
#include <errno.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fiber/loop_private.h"

static _Thread_local struct loop *self;

void loop_bind(struct loop *loop)
{
    self = loop;
}

struct loop *loop_self(void)
{
    return self;
}

uint64_t loop_now_ms(void)
{
    return self && self->is_running ? self->now_ms : sys_now_ms();
}

uint64_t loop_recent_ns(void)
{
    return self && self->is_running ? self->recent_ns : sys_now_ns();
}

char *loop_scratch(void)
{
    return self->scratch;
}

void **loop_slot(enum loop_slot slot)
{
    return &self->slots[slot];
}

struct uv_loop_s *loop_uv(struct loop *loop)
{
    if (loop->uv_turns == 0)
        loop->uv_turns = 1;
    return &loop->uv;
}

/* ---- watches ---- */

static err_t watch_add(struct watch *watch, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    if (epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return err_system(errno, "epoll_ctl");
    watch->fd = fd;
    return NULL;
}

err_t watch_open(struct watch *watch, int fd, void (*on_ready)(struct watch *watch))
{
    *watch = (struct watch){.fd = -1, .readable = true, .writable = true, .on_ready = on_ready};
    return watch_add(watch, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

err_t watch_open_listener(struct watch *watch, int fd, void (*on_ready)(struct watch *watch))
{
    *watch = (struct watch){.fd = -1, .readable = true, .on_ready = on_ready};
    return watch_add(watch, fd, EPOLLIN);
}

/* Take `watch` out of the events of this round that are still to come. */
static void erase_events(struct loop *loop, const struct watch *watch)
{
    for (int i = loop->event_at + 1; i < loop->event_count; i++) {
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
    }
}

void watch_pause(struct watch *watch, bool paused)
{
    struct epoll_event event = {.events = paused ? 0 : EPOLLIN, .data.ptr = watch};

    check(watch->fd >= 0);
    epoll_ctl(self->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
    if (paused)
        erase_events(self, watch);
}

int watch_release(struct watch *watch)
{
    int fd = watch->fd;

    /* Closing alone would not do: a child that has been forked but has not called exec yet may
     * hold a copy of the descriptor, and as long as it does, epoll reports events for the watch. */
    if (fd >= 0) {
        epoll_ctl(self->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        erase_events(self, watch);
    }
    watch->fd = -1;
    return fd;
}

void watch_close(struct watch *watch)
{
    int fd = watch_release(watch);

    if (fd >= 0)
        sys_close(fd);
}

/* Note what `events` says and call the owner. The owner may be gone afterwards. */
static void watch_notify(struct watch *watch, uint32_t events)
{
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        watch->hung_up = true;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        watch->readable = true; /* trying to read tells of the end or the error */
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        watch->writable = true;
    watch->on_ready(watch);
}

/* ---- messages ---- */

void loop_post(struct loop *loop, struct loop_message *message)
{
    /* Once the message is in the inbox its handler may run and the loop may be closed, while we
     * are yet to write to the eventfd: loop_close waits until nobody is here. */
    atomic_fetch_add_explicit(&loop->posting, 1, memory_order_relaxed);
    struct loop_message *head = atomic_load_explicit(&loop->inbox, memory_order_relaxed);
    do
        message->next = head;
    while (!atomic_compare_exchange_weak_explicit(&loop->inbox, &head, message,
                                                  memory_order_release, memory_order_relaxed));
    /* Whoever finds it empty says so; the message may be gone by now. */
    if (!head)
        sys_announce(loop->inbox_watch.fd);
    atomic_fetch_sub_explicit(&loop->posting, 1, memory_order_release);
}

static void deliver_messages(struct loop *loop)
{
    struct loop_message *newest, *oldest = NULL;

    newest = atomic_exchange_explicit(&loop->inbox, NULL, memory_order_acquire);
    while (newest) { /* turn them round */
        struct loop_message *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct loop_message *next = oldest->next;
        counter_add(&loop->counters.messages, 1);
        oldest->fn(oldest);
        oldest = next;
    }
}

static void on_inbox(struct watch *watch)
{
    uint64_t ignored;

    /* Emptied before the messages are taken: one that comes in between causes a round too many,
     * not a round too few. */
    (void)!sys_read(watch->fd, &ignored, sizeof ignored);
    deliver_messages(container_of(watch, struct loop, inbox_watch));
}

/* ---- libuv inside ---- */

static void on_uv(struct watch *watch)
{
    /* Two turns: callbacks of the first may start handles that only the second takes up. */
    container_of(watch, struct loop, uv_watch)->uv_turns = 2;
}

static void do_nothing(uv_prepare_t *handle)
{
    (void)handle;
}

static void run_uv(struct loop *loop)
{
    if (loop->uv_turns == 0 && uv_backend_timeout(&loop->uv) != 0)
        return;
    if (loop->uv_turns > 0)
        loop->uv_turns--;
    uv_run(&loop->uv, UV_RUN_NOWAIT);
}

static void uv_part_close(struct loop *loop)
{
    watch_release(&loop->uv_watch);
    timers_close(loop);
    uv_close((uv_handle_t *)&loop->uv_anchor, NULL);
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    check(uv_loop_close(&loop->uv) == 0); /* else somebody has left a handle */
}

static err_t uv_part_open(struct loop *loop)
{
    int rc = uv_loop_init(&loop->uv);

    if (rc < 0)
        return err_system(-rc, "uv_loop_init");
    uv_prepare_init(&loop->uv, &loop->uv_anchor);
    uv_prepare_start(&loop->uv_anchor, do_nothing);
    timers_open(loop);
    loop->uv_watch = (struct watch){.fd = -1, .on_ready = on_uv};
    err_t err = watch_add(&loop->uv_watch, uv_backend_fd(&loop->uv), EPOLLIN);
    if (err)
        uv_part_close(loop);
    return err;
}

/* ---- rounds ---- */

/* How long epoll may wait; -1 means until something happens. */
static int wait_ms(struct loop *loop)
{
    if (loop->uv_turns > 0 || loop->is_stopping || fibers_are_waiting(&loop->fibers))
        return 0;

    /* uv answers as of the start of the last round. */
    int timeout_ms = uv_backend_timeout(&loop->uv);
    uint64_t elapsed_ms = (loop->ended_ns - loop->began_ns) / 1000000;
    if (timeout_ms <= 0)
        return timeout_ms;
    return (uint64_t)timeout_ms > elapsed_ms ? timeout_ms - (int)elapsed_ms : 0;
}

static void dispatch_events(struct loop *loop)
{
    for (loop->event_at = 0; loop->event_at < loop->event_count; loop->event_at++) {
        const struct epoll_event *event = &loop->events[loop->event_at];
        if (event->data.ptr)
            watch_notify(event->data.ptr, event->events);
    }
    counter_add(&loop->counters.events, (uint64_t)loop->event_count);
    loop->event_count = loop->event_at = 0;
}

static void run_round(struct loop *loop)
{
    int n = epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS_PER_ROUND, wait_ms(loop));

    loop->event_count = n > 0 ? n : 0; /* a signal is a round without events */
    loop->began_ns = loop->recent_ns = sys_now_ns();
    loop->now_ms = loop->began_ns / 1000000;
    uv_update_time(&loop->uv);
    dispatch_events(loop);
    run_uv(loop);
    fibers_run(loop);
    loop->ended_ns = sys_now_ns();
    counter_add(&loop->counters.rounds, 1);
    counter_raise(&loop->counters.lag_us_max, (loop->ended_ns - loop->began_ns) / 1000);
}

void loop_run(struct loop *loop)
{
    check(loop == self && !loop->is_running && !fiber_self());
    uv_update_time(&loop->uv);
    loop->began_ns = loop->ended_ns = loop->recent_ns = sys_now_ns();
    loop->now_ms = loop->began_ns / 1000000;
    loop->is_running = true;
    while (!loop->is_stopping)
        run_round(loop);
    loop->is_running = false;
    loop->is_stopping = false;
}

void loop_stop(struct loop *loop)
{
    loop->is_stopping = true;
}

/* ---- open and close ---- */

static err_t inbox_open(struct loop *loop)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    if (fd < 0)
        return err_system(errno, "eventfd");
    loop->inbox_watch = (struct watch){.fd = -1, .on_ready = on_inbox};
    err_t err = watch_add(&loop->inbox_watch, fd, EPOLLIN);
    if (err)
        sys_close(fd);
    return err;
}

static void free_memory(struct loop *loop)
{
    mem_free(MEM_PROCESS, loop->scratch, LOOP_SCRATCH_BYTES);
    mem_free(MEM_PROCESS, loop, sizeof *loop);
    loop_bind(NULL);
}

/* Undo as much of loop_open as was done. */
static void give_up(struct loop *loop)
{
    watch_close(&loop->inbox_watch);
    sys_close(loop->epoll_fd);
    free_memory(loop);
}

err_t loop_open(struct loop **out)
{
    check(!self);
    struct loop *loop = mem_alloc_zero(MEM_PROCESS, sizeof *loop);
    char *scratch = mem_alloc(MEM_PROCESS, LOOP_SCRATCH_BYTES);

    if (!loop || !scratch) {
        mem_free(MEM_PROCESS, scratch, LOOP_SCRATCH_BYTES);
        mem_free(MEM_PROCESS, loop, sizeof *loop);
        return err_no_memory();
    }
    loop->scratch = scratch;
    loop->inbox_watch.fd = -1;
    fibers_init(&loop->fibers);
    loop_bind(loop);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        err_t err = err_system(errno, "epoll_create1");
        free_memory(loop);
        return err;
    }
    err_t err = inbox_open(loop);
    if (!err)
        err = uv_part_open(loop);
    if (err) {
        give_up(loop);
        return err;
    }
    *out = loop;
    return NULL;
}

void loop_close(struct loop *loop)
{
    check(loop == self && !loop->is_running);
    deliver_messages(loop);
    fibers_fini(&loop->fibers);
    for (int i = 0; i < LOOP_SLOT_COUNT; i++)
        check(!loop->slots[i]);
    uv_part_close(loop);
    while (atomic_load_explicit(&loop->posting, memory_order_acquire) > 0)
        sched_yield();
    give_up(loop);
}

/* ---- seeing inside ---- */

static uint64_t counter_get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void loop_stats(struct loop *loop, struct loop_stats *out)
{
    struct loop_counters *counters = &loop->counters;

    *out = (struct loop_stats){
        .rounds = counter_get(&counters->rounds),
        .events = counter_get(&counters->events),
        .wakes = counter_get(&counters->wakes),
        .messages = counter_get(&counters->messages),
        .lag_us_max = atomic_exchange_explicit(&counters->lag_us_max, 0, memory_order_relaxed),
        .long_runs = counter_get(&counters->long_runs),
        .fibers = counter_get(&counters->fibers),
        .fibers_high = counter_get(&counters->fibers_high),
        .stacks_free = counter_get(&counters->stacks_free),
        .stack_high_water_bytes = counter_get(&counters->stack_high_water_bytes),
    };
}
