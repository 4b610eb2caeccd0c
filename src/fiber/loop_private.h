/* SPDX-License-Identifier: Apache-2.0 */
/* What a loop consists of: shared by loop.c, timer.c and fiber.c, and nobody else's business. */
#ifndef FIBER_LOOP_PRIVATE_H
#define FIBER_LOOP_PRIVATE_H

#include <stdatomic.h>
#include <sys/epoll.h>
#include <uv.h>

#include "fiber/fiber.h"
#include "fiber/loop.h"

/* Events taken and fibers run in one round, at most: neither may starve the other. */
#define LOOP_EVENTS_PER_ROUND 256
#define LOOP_FIBERS_PER_ROUND 256

/* The fibers of a loop. A fiber that is parked is only in `all`. */
struct fibers {
    struct list all;
    struct list runnable;
    struct list yielded; /* runnable again, but only after the next look at events */
    struct list free;    /* records with stacks, kept for the next fibers, warm ones first */
    unsigned count, limit;
    unsigned free_count, warm_count;
    unsigned ended;           /* fibers that have ended, for sampling their stacks */
    struct fiber *running;    /* or NULL in callbacks */
    uint64_t may_complain_ns; /* when the next warning about a long run may be logged */
};

/* Written by the loop's thread, read by any. */
struct loop_counters {
    _Atomic uint64_t rounds, events, wakes, messages, lag_us_max, long_runs;
    _Atomic uint64_t fibers, fibers_high, stacks_free, stack_high_water_bytes;
};

/* timer.c */
struct timers {
    uv_timer_t uv;              /* set for due_ms, if that is not UINT64_MAX */
    uint64_t due_ms;            /* not after the first handle fires */
    struct timer_handle **heap; /* those that are armed, the first to fire first */
    size_t armed, room;         /* used and allocated */
    size_t made, in_use;        /* handles; of them with an owner */
    struct timer_handle *free;  /* the others */
};

struct loop {
    int epoll_fd;
    bool is_running, is_stopping;
    uint64_t now_ms;
    uint64_t began_ns, ended_ns; /* of the last round */
    uint64_t recent_ns;          /* the last look at the clock, but for that at the round's end */

    uv_loop_t uv;
    uv_prepare_t uv_anchor; /* keeps uv "alive", so that uv_backend_timeout tells of timers alone */
    struct watch uv_watch;  /* uv's backend descriptor */
    int uv_turns;           /* rounds in which uv shall run even if no timer is due */

    struct watch inbox_watch;             /* an eventfd */
    _Atomic(struct loop_message *) inbox; /* newest first */
    atomic_uint posting;                  /* threads inside loop_post */

    int event_count, event_at;
    struct epoll_event events[LOOP_EVENTS_PER_ROUND];

    struct timers timers;

    struct fibers fibers;
    struct loop_counters counters;
    void *slots[LOOP_SLOT_COUNT];
    char *scratch;
};

/* The counters have one writer, so a plain addition suffices. */
static inline void counter_set(_Atomic uint64_t *counter, uint64_t value)
{
    atomic_store_explicit(counter, value, memory_order_relaxed);
}

static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
    counter_set(counter, atomic_load_explicit(counter, memory_order_relaxed) + n);
}

static inline void counter_raise(_Atomic uint64_t *counter, uint64_t value)
{
    if (atomic_load_explicit(counter, memory_order_relaxed) < value)
        counter_set(counter, value);
}

/* ---- loop.c ---- */

/* Make `loop` the calling thread's loop; NULL unbinds. For threads that stand in for fibers. */
void loop_bind(struct loop *loop);

/* ---- timer.c ---- */

/* Give `timer` its handle now, so that setting it cannot fail later. */
err_t timer_reserve(struct timer *timer) ERR_MUST_CHECK;

/* No timers yet; uv must be open. */
void timers_open(struct loop *loop);

/* Free all handles, and have uv close its timer at its next turn. All timers must be cleared. */
void timers_close(struct loop *loop);

/* ---- fiber.c ---- */

/* No fibers yet. */
void fibers_init(struct fibers *fibers);

/* Free all kept records and stacks. No fiber may be left. */
void fibers_fini(struct fibers *fibers);

/* Run what is runnable, within LOOP_FIBERS_PER_ROUND. */
void fibers_run(struct loop *loop);

/* Whether fibers_run would find something to do after the next look at events. */
static inline bool fibers_are_waiting(const struct fibers *fibers)
{
    return !list_is_empty(&fibers->runnable) || !list_is_empty(&fibers->yielded);
}

#endif
