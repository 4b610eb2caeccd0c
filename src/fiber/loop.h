/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's event loop: our own edge-triggered epoll with a libuv loop inside.
 *
 * Sockets are registered once, for all events, and tried before they are waited for. libuv (timers,
 * children, signals) is embedded by its backend descriptor: it runs, without waiting, when that
 * descriptor is ready or a timer is due. Fibers that were woken run after the events of a round.
 * Other threads reach a loop only through loop_post.
 *
 * The hard thing is a watch that is closed while later events of the same round still name it:
 * watch_close erases them. */
#ifndef FIBER_LOOP_H
#define FIBER_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"

struct loop;
struct uv_loop_s;

/* Make a loop and bind it to the calling thread (loop_self), which must have none. Errors:
 * SYSTEM, BUSY without memory. */
err_t loop_open(struct loop **out) ERR_MUST_CHECK;

/* Close it: no fiber may be left, every watch must be closed, every timer cleared. Messages that
 * are still queued are delivered first. Call in the thread that opened it. */
void loop_close(struct loop *loop);

/* Run until loop_stop. Call in the loop's thread, outside fibers. */
void loop_run(struct loop *loop);

/* Leave loop_run after the current round (or at once, if it is not running yet). In the loop's
 * thread; from others post a message that calls it. */
void loop_stop(struct loop *loop);

/* The calling thread's loop, or NULL. */
struct loop *loop_self(void);

/* Monotonic milliseconds, as of this round's start (or sys_now_ms outside loop_run). */
uint64_t loop_now_ms(void);

/* When the loop last looked at the clock, on the scale of sys_now_ns: at this round's start, or when a fiber
 * last came to its turn or gave it up. So some microseconds ago, and without a call of the system. */
uint64_t loop_recent_ns(void);

/* The libuv loop inside, for children and signals (and timers of libraries). Ask for it at every
 * use instead of keeping the pointer: libuv takes up new handles only when it runs, and asking
 * makes it run. */
struct uv_loop_s *loop_uv(struct loop *loop);

/* A 64 KiB buffer for reads in this loop's thread. Its content is good only until the fiber
 * parks or the callback returns: consume or copy it before. */
#define LOOP_SCRATCH_BYTES (64 * 1024)
char *loop_scratch(void);

/* ---- what a loop's fibers share ---- */

/* Places of modules above in a loop. */
enum loop_slot { LOOP_SLOT_NAMES, LOOP_SLOT_REDIS, LOOP_SLOT_LEASES, LOOP_SLOT_COUNT };

/* Where a module hangs what it has once per loop; there is NULL at first, and must be again when the loop is
 * closed. The calling thread must have a loop. (A _Thread_local will not do: where fibers are threads, each
 * would see its own.) */
void **loop_slot(enum loop_slot slot);

/* ---- messages from any thread ---- */

struct loop_message {
    struct loop_message *next;
    void (*fn)(struct loop_message *message);
};

/* Run message->fn(message) in the loop's thread soon, outside fibers, in order of posting. The
 * message belongs to the caller and must live until fn is called (fn may free it); the loop must
 * live until then too. Never fails. Any thread. */
void loop_post(struct loop *loop, struct loop_message *message);

/* ---- descriptors: call these in the loop's thread ---- */

/* One registered descriptor; embedded in its owner. */
struct watch {
    int fd; /* -1 when closed */
    /* An edge came and no try has used it up; whoever gets EAGAIN clears it. */
    bool readable, writable;
    bool hung_up; /* the peer has closed its sending side, or an error is pending */
    /* Called in the loop after the flags changed, outside any fiber; it must not park. */
    void (*on_ready)(struct watch *watch);
};

/* Register `fd` (non-blocking) for everything, edge-triggered; flags start as readable =
 * writable = true, so the owner tries first. A socket that shall connect is registered after
 * connect(), because an unconnected one counts as hung up. Errors: SYSTEM. On error the fd stays
 * open and belongs to the caller. */
err_t watch_open(struct watch *watch, int fd, void (*on_ready)(struct watch *watch)) ERR_MUST_CHECK;

/* Register a listening (level-triggered, readable only) descriptor: on_ready is called in every
 * round until nothing is left to accept. */
err_t watch_open_listener(struct watch *watch, int fd,
                          void (*on_ready)(struct watch *watch)) ERR_MUST_CHECK;

/* Stop or resume a listener without closing it (descriptors exhausted, connection limit, drain). */
void watch_pause(struct watch *watch, bool paused);

/* Close the descriptor and forget it, also in events of the current round that are still to
 * come. Harmless when closed. */
void watch_close(struct watch *watch);

/* Forget the descriptor without closing it; returns it. */
int watch_release(struct watch *watch);

/* ---- timers: call these in the loop's thread ---- */

struct timer_handle;

/* A one-shot timer embedded in its owner; clear it (zero bytes) before first use. Lazy: moving
 * it to a later time, or clearing and setting it again, costs nothing. */
struct timer {
    struct timer_handle *handle; /* private */
    uint64_t at_ms;              /* UINT64_MAX when unset */
    void (*fn)(struct timer *timer);
};

/* Call timer->fn(timer) in the loop, outside any fiber, once `at_ms` (loop_now_ms scale) is
 * reached. Replaces an earlier setting. Errors: BUSY without memory, then the timer is not set;
 * this can happen only to a timer that was never set or was cleared. */
err_t timer_set(struct timer *timer, uint64_t at_ms,
                void (*fn)(struct timer *timer)) ERR_MUST_CHECK;

/* Unset; harmless when unset. Must be called before the owner is freed. */
void timer_clear(struct timer *timer);

/* ---- seeing inside ---- */

struct loop_stats {
    uint64_t rounds, events, wakes, messages;
    uint64_t lag_us_max; /* longest round since the last look */
    uint64_t long_runs;  /* times a fiber ran over 10 ms (100 under sanitizers) without parking */
    uint64_t fibers, fibers_high, stacks_free;
    /* Deepest stack seen. Looked at when a stack is trimmed and when a fiber ends: every one in
     * builds with sanitizers or fault injection, else one in 1,024. */
    uint64_t stack_high_water_bytes;
};

/* Counters of a loop; readable from any thread (values may be a little old). */
void loop_stats(struct loop *loop, struct loop_stats *out);

#endif
