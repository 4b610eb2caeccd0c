/* SPDX-License-Identifier: Apache-2.0 */
/* Fibers: functions that wait.
 *
 * A fiber is a stackful coroutine pinned to the loop (thread) that started it. It runs until it
 * parks; nothing else in its thread runs meanwhile, so thread-local state needs no locks between
 * two parks. A function that may suspend says PARKS in its header comment.
 *
 * Cancellation and deadlines are errors that the waiting call returns; a stack is never destroyed
 * under a running function. Once cancelled, every further wait returns the same error at once,
 * except inside fiber_shield.
 *
 * Stacks are 64 KiB (256 KiB under sanitizers) with a guard page, reused through a free list.
 * The switch is Boost.Context's; AddressSanitizer, ThreadSanitizer and valgrind are told of
 * every stack. strand_thread.c puts each fiber on a thread of its own instead, for tools that
 * dislike stack switching. */
#ifndef FIBER_FIBER_H
#define FIBER_FIBER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "fiber/loop.h"

struct fiber;

#define FIBER_FOREVER UINT64_MAX

/* Start fn(arg) in a new fiber of this thread's loop. fiber_start runs it at once, until its
 * first park, before returning, also when called inside another fiber (which stays "running"
 * meanwhile); with fiber_start_later it runs after the current events. `name` is static text for
 * views. The fiber is gone when fn returns; *out (`out` may be NULL) is set before fn begins and
 * not touched afterwards. Errors: BUSY without memory or above the fiber limit. */
err_t fiber_start(const char *name, void (*fn)(void *arg), void *arg,
                  struct fiber **out) ERR_MUST_CHECK;
err_t fiber_start_later(const char *name, void (*fn)(void *arg), void *arg,
                        struct fiber **out) ERR_MUST_CHECK;

/* The running fiber, or NULL in loop callbacks and plain threads. */
struct fiber *fiber_self(void);

/* PARKS until fiber_wake, the time `at_ms` (loop_now_ms scale; FIBER_FOREVER for none), the
 * fiber's own deadline or cancellation. NULL = woken (perhaps for another reason than the
 * caller's: wait in a loop on a condition). Errors: the reason of fiber_cancel, the reason of
 * fiber_set_deadline, or TIMED_OUT when at_ms came (static error fiber_wait_over); in this
 * order, and a wake goes before fiber_wait_over. */
err_t fiber_park(uint64_t at_ms) ERR_MUST_CHECK;

/* PARKS until fiber_wake, whatever else happens: no deadline, no cancellation. The wait must be
 * bounded by other means. */
void fiber_park_until_woken(void);

/* What fiber_park returns when its own at_ms came: compare by pointer to tell it from a deadline
 * of the whole. */
extern const struct err fiber_wait_over;

/* Make a parked fiber runnable; remembered if it is running or runnable (its next park returns
 * at once). Only queues: the fiber runs after the current events. Same thread only; another
 * thread posts a message (loop_post) whose handler calls this. */
void fiber_wake(struct fiber *fiber);

/* Make every wait of `fiber` fail with `reason` from now on (first reason wins). `reason` must
 * be static or outlive the fiber. Same thread only. */
void fiber_cancel(struct fiber *fiber, err_t reason);

/* The reason it was cancelled for, or NULL. */
err_t fiber_cancelled(const struct fiber *fiber);

/* From `at_ms` on every wait of the running fiber fails with `reason` (static); FIBER_FOREVER
 * lifts it. */
void fiber_set_deadline(uint64_t at_ms, err_t reason);

/* Between on and off, waits of the running fiber are not cancelled, know no deadline, and end at
 * `until_ms` at the latest (TIMED_OUT, not fiber_wait_over): for clean-up that must talk to the
 * outside (a last error event). Do not nest. */
void fiber_shield(uint64_t until_ms);
void fiber_unshield(void);

/* PARKS for the given time. Errors: as fiber_park, but NULL when the time is over. Uses up
 * wakes. */
err_t fiber_sleep(uint64_t ms) ERR_MUST_CHECK;

/* PARKS until the other runnable fibers and ready events have had a turn. Errors: as fiber_park,
 * without fiber_wait_over. */
err_t fiber_yield(void) ERR_MUST_CHECK;

/* Make errors (and fiber_arena) of the running fiber use `arena` until changed; NULL for none.
 * Set NULL before the arena is freed. */
void fiber_set_arena(struct arena *arena);
struct arena *fiber_arena(void);

/* Name what the running fiber is doing, static text: shown in views and crash reports. */
void fiber_set_step(const char *step);

/* A pointer of the owner's (its request), for views. */
void fiber_set_owner(struct fiber *fiber, void *owner);

/* Give unused stack pages below the current depth back to the system: for fibers that will wait
 * long. */
void fiber_trim_stack(void);

/* ---- seeing inside: for views and the crash report ---- */

struct fiber_view {
    const char *name, *step;
    void *owner;
    uint64_t started_ms;
    const char *state; /* "running", "runnable", "parked" */
};

/* Call visit for each fiber of the calling thread's loop. Async-signal-safe for the crash
 * report. */
void fiber_each(void (*visit)(const struct fiber_view *view, void *arg), void *arg);

/* Most fibers one loop may have (default 20,000); more give BUSY. */
void fiber_set_limit(struct loop *loop, unsigned limit);

#endif
