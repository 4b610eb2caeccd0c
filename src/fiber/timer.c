/* SPDX-License-Identifier: Apache-2.0 */
/* Lazy one-shot timers: a heap of their own over one timer of libuv's.
 *
 * Nearly all timers are deadlines that never come: a request sets one at every wait and is done
 * long before. So a handle that is armed for an earlier time than wanted stays as it is; when it
 * fires too early it looks at the owner's wish and arms itself again. Clearing only parts the
 * timer from its handle, which goes to a free list still armed, for the next timer to take over.
 * The heap is touched only when a handle has to fire sooner than it would. It has room for every
 * handle there is, so that arming cannot fail. */
#include "base/check.h"
#include "base/mem.h"
#include "fiber/loop_private.h"

#define NEVER      UINT64_MAX
#define FIRST_ROOM 64

struct timer_handle {
    union {
        struct timer *owner;
        struct timer_handle *next_free; /* on the free list */
    };
    uint64_t fires_ms; /* when it is armed for, in loop_now_ms scale; else NEVER */
    uint32_t place;    /* in the heap, when armed */
    bool is_free;
};

/* ---- the heap: who fires first is first ---- */

static void put(struct timers *timers, size_t place, struct timer_handle *handle)
{
    timers->heap[place] = handle;
    handle->place = (uint32_t)place;
}

/* Put a handle where it belongs, at `place` or before. */
static void move_up(struct timers *timers, size_t place, struct timer_handle *handle)
{
    for (size_t parent; place > 0; place = parent) {
        parent = (place - 1) / 2;
        if (timers->heap[parent]->fires_ms <= handle->fires_ms)
            break;
        put(timers, place, timers->heap[parent]);
    }
    put(timers, place, handle);
}

/* Put a handle where it belongs, at `place` or behind. */
static void move_down(struct timers *timers, size_t place, struct timer_handle *handle)
{
    for (size_t child; (child = 2 * place + 1) < timers->armed; place = child) {
        if (child + 1 < timers->armed &&
            timers->heap[child + 1]->fires_ms < timers->heap[child]->fires_ms)
            child++;
        if (timers->heap[child]->fires_ms >= handle->fires_ms)
            break;
        put(timers, place, timers->heap[child]);
    }
    put(timers, place, handle);
}

static struct timer_handle *take_first(struct timers *timers)
{
    struct timer_handle *first = timers->heap[0];
    struct timer_handle *last = timers->heap[--timers->armed];

    if (last != first)
        move_down(timers, 0, last);
    first->fires_ms = NEVER;
    return first;
}

/* ---- firing ---- */

static void on_due(uv_timer_t *uv);

/* See to it that libuv calls when the first handle is to fire. */
static void await_first(struct loop *loop)
{
    struct timers *timers = &loop->timers;
    uint64_t now_ms = loop_now_ms(), at_ms;

    if (timers->armed == 0 || timers->heap[0]->fires_ms >= timers->due_ms)
        return;
    if (!loop->is_running) /* within a round uv's clock is that of the round */
        uv_update_time(&loop->uv);
    at_ms = timers->due_ms = timers->heap[0]->fires_ms;
    uv_timer_start(&timers->uv, on_due, at_ms > now_ms ? at_ms - now_ms : 0, 0);
}

/* For a handle that is not armed, or for a later time. */
static void arm(struct loop *loop, struct timer_handle *handle, uint64_t at_ms)
{
    struct timers *timers = &loop->timers;
    size_t place = handle->fires_ms == NEVER ? timers->armed++ : handle->place;

    handle->fires_ms = at_ms;
    move_up(timers, place, handle);
    await_first(loop);
}

static void fire(struct loop *loop, struct timer_handle *handle)
{
    struct timer *timer = handle->owner;

    if (handle->is_free || timer->at_ms == NEVER)
        return;
    if (timer->at_ms > loop_now_ms()) {
        arm(loop, handle, timer->at_ms);
        return;
    }
    timer->at_ms = NEVER;
    timer->fn(timer);
}

static void on_due(uv_timer_t *uv)
{
    struct loop *loop = container_of(uv, struct loop, timers.uv);
    struct timers *timers = &loop->timers;

    timers->due_ms = NEVER;
    /* those that are set meanwhile wait for the next round, even if they are due at once */
    for (size_t n = timers->armed; n > 0 && timers->armed > 0; n--) {
        if (timers->heap[0]->fires_ms > loop_now_ms())
            break;
        fire(loop, take_first(timers));
    }
    await_first(loop);
}

/* ---- handles ---- */

/* Room in the heap for one more handle. */
static err_t make_room(struct timers *timers)
{
    size_t room = timers->room ? 2 * timers->room : FIRST_ROOM;
    struct timer_handle **heap;

    if (timers->made < timers->room)
        return NULL;
    heap =
        mem_resize(MEM_PROCESS, timers->heap, timers->room * sizeof(*heap), room * sizeof(*heap));
    if (!heap)
        return err_no_memory();
    timers->heap = heap;
    timers->room = room;
    return NULL;
}

static err_t handle_make(struct timers *timers, struct timer_handle **out)
{
    TRY(make_room(timers));
    *out = mem_alloc_zero(MEM_PROCESS, sizeof(**out));
    if (!*out)
        return err_no_memory();
    (*out)->fires_ms = NEVER;
    timers->made++;
    return NULL;
}

err_t timer_reserve(struct timer *timer)
{
    struct timers *timers = &loop_self()->timers;
    struct timer_handle *handle = timers->free;

    if (handle)
        timers->free = handle->next_free;
    else
        TRY(handle_make(timers, &handle));
    timers->in_use++;
    handle->is_free = false;
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
        arm(loop_self(), timer->handle, at_ms);
    return NULL;
}

void timer_clear(struct timer *timer)
{
    struct timer_handle *handle = timer->handle;
    struct timers *timers = &loop_self()->timers;

    timer->at_ms = NEVER;
    if (!handle)
        return;
    timer->handle = NULL;
    handle->is_free = true;
    handle->next_free = timers->free;
    timers->free = handle;
    timers->in_use--;
}

/* ---- all of them ---- */

void timers_open(struct loop *loop)
{
    loop->timers.due_ms = NEVER;
    uv_timer_init(&loop->uv, &loop->timers.uv);
}

void timers_close(struct loop *loop)
{
    struct timers *timers = &loop->timers;

    check(timers->in_use == 0);
    while (timers->free) {
        struct timer_handle *handle = timers->free;
        timers->free = handle->next_free;
        mem_free(MEM_PROCESS, handle, sizeof(*handle));
    }
    mem_free(MEM_PROCESS, timers->heap, timers->room * sizeof(*timers->heap));
    timers->armed = 0;
    uv_close((uv_handle_t *)&timers->uv, NULL);
}
