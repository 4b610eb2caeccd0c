/* SPDX-License-Identifier: Apache-2.0 */
/* Lazy one-shot timers over libuv's.
 *
 * Nearly all timers are deadlines that never come: a request sets one at every wait and is done
 * long before. So a handle that is armed for an earlier time than wanted stays as it is; when it
 * fires too early it looks at the owner's wish and arms itself again. Clearing only parts the
 * timer from its handle, which goes to a free list still armed, for the next timer to take over.
 * The heap in libuv is touched only when a handle has to fire sooner than it would. */
#include "base/check.h"
#include "base/mem.h"
#include "fiber/loop_private.h"

#define NEVER UINT64_MAX

struct timer_handle {
    uv_timer_t uv;
    struct loop *loop;
    struct timer *owner; /* NULL on the free list */
    uint64_t fires_ms;   /* what uv was told, in loop_now_ms scale; NEVER when not armed */
    struct timer_handle *next_free;
};

static void on_fire(uv_timer_t *uv);

static void handle_arm(struct timer_handle *handle, uint64_t at_ms)
{
    uint64_t now_ms = loop_now_ms();

    if (!handle->loop->is_running) /* within a round uv's clock is that of the round */
        uv_update_time(&handle->loop->uv);
    handle->fires_ms = at_ms;
    uv_timer_start(&handle->uv, on_fire, at_ms > now_ms ? at_ms - now_ms : 0, 0);
}

static void on_fire(uv_timer_t *uv)
{
    struct timer_handle *handle = container_of(uv, struct timer_handle, uv);
    struct timer *timer = handle->owner;

    handle->fires_ms = NEVER;
    if (!timer || timer->at_ms == NEVER)
        return;
    if (timer->at_ms > loop_now_ms()) {
        handle_arm(handle, timer->at_ms);
        return;
    }
    timer->at_ms = NEVER;
    timer->fn(timer);
}

err_t timer_reserve(struct timer *timer)
{
    struct loop *loop = loop_self();
    struct timer_handle *handle = loop->free_timers;

    if (handle) {
        loop->free_timers = handle->next_free;
    } else {
        handle = mem_alloc_zero(MEM_PROCESS, sizeof *handle);
        if (!handle)
            return err_no_memory();
        uv_timer_init(&loop->uv, &handle->uv);
        handle->loop = loop;
        handle->fires_ms = NEVER;
    }
    loop->timers_in_use++;
    handle->owner = timer;
    timer->handle = handle;
    timer->at_ms = NEVER;
    return NULL;
}

err_t timer_set(struct timer *timer, uint64_t at_ms, void (*fn)(struct timer *timer))
{
    if (!timer->handle)
        TRY(timer_reserve(timer));
    timer->at_ms = at_ms;
    timer->fn = fn;
    if (at_ms < timer->handle->fires_ms)
        handle_arm(timer->handle, at_ms);
    return NULL;
}

void timer_clear(struct timer *timer)
{
    struct timer_handle *handle = timer->handle;

    timer->at_ms = NEVER;
    if (!handle)
        return;
    timer->handle = NULL;
    handle->owner = NULL;
    handle->next_free = handle->loop->free_timers;
    handle->loop->free_timers = handle;
    handle->loop->timers_in_use--;
}

static void on_closed(uv_handle_t *uv)
{
    struct timer_handle *handle = container_of((uv_timer_t *)uv, struct timer_handle, uv);

    mem_free(MEM_PROCESS, handle, sizeof *handle);
}

void timer_close_all(struct loop *loop)
{
    check(loop->timers_in_use == 0);
    while (loop->free_timers) {
        struct timer_handle *handle = loop->free_timers;
        loop->free_timers = handle->next_free;
        uv_close((uv_handle_t *)&handle->uv, on_closed);
    }
}
