/* SPDX-License-Identifier: Apache-2.0 */
/* Who runs when: starting, parking, waking and cancelling fibers.
 *
 * All decisions are made here, in the loop's thread; strand.h is how control gets onto a fiber's
 * stack and back. A parked fiber is in no queue: whoever wakes it puts it there. All reasons to go
 * on (woken, cancelled, a time came) merely make it runnable, and fiber_park finds out on its own
 * stack which of them hold.
 *
 * The hard thing is that a wake must not get lost between "nothing to do" and the park: it is
 * remembered in the fiber, and the next park returns at once. */
#include "base/check.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fiber/loop_private.h"
#include "fiber/strand.h"
#include "observe/log.h"

/* How many ended fibers' records and stacks are kept for the next ones; and how many of these
 * with all the pages they have touched, while the others' stacks are trimmed. */
#define FREE_MAX      1024
#define FREE_WARM_MAX 256

#define DEFAULT_LIMIT 20000

#if defined(STRAND_ASAN) || defined(STRAND_TSAN)
#define LONG_RUN_NS 100000000u
#else
#define LONG_RUN_NS 10000000u
#endif

/* One in so many ended fibers has its stack measured. */
#if defined(SLUICE_FAULTS) || defined(STRAND_ASAN) || defined(STRAND_TSAN)
#define MEASURE_EVERY 1
#else
#define MEASURE_EVERY 1024
#endif

enum fiber_state { FIBER_RUNNABLE, FIBER_RUNNING, FIBER_PARKED, FIBER_ENDED };

struct fiber {
    struct list queue; /* in runnable or yielded, or in none */
    struct list all;   /* in fibers.all, or in fibers.free */
    enum fiber_state state;
    bool is_woken; /* fiber_wake came and no park has used it up */
    bool is_shielded;
    bool is_warm; /* on the free list with an untrimmed stack */
    struct strand *strand;
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;

    struct timer timer; /* when the present park ends at the latest */
    uint64_t deadline_ms, shield_ms;
    err_t deadline_reason, cancel_reason;

    struct arena *arena;       /* where its errors are made */
    struct arena *outer_scope; /* where errors were made by whoever entered it */

    const char *name, *step;
    void *owner;
    uint64_t started_ms;
};

const struct err fiber_wait_over = {
    .kind = ERR_TIMED_OUT, .where = ERR_HERE, .text = "the time to wait is over"};
static const struct err shield_over = {
    .kind = ERR_TIMED_OUT, .where = ERR_HERE, .text = "the time to clean up is over"};
static const struct err too_many = {
    .kind = ERR_BUSY, .where = ERR_HERE, .text = "too many fibers at once"};

struct fiber *fiber_self(void)
{
    struct loop *loop = loop_self();

    return loop ? loop->fibers.running : NULL;
}

/* For what only a fiber may do. */
static struct fiber *running_fiber(void)
{
    struct fiber *fiber = fiber_self();

    check(fiber);
    return fiber;
}

/* ---- records ---- */

/* The bottom of every fiber's stack. */
static void run_fiber(void *arg)
{
    struct fiber *fiber = arg;

    fiber->outer_scope = err_scope_set(fiber->arena);
    fiber->fn(fiber->arg);
    err_scope_set(fiber->outer_scope);
    fiber->state = FIBER_ENDED;
}

static void record_free(struct fiber *fiber)
{
    timer_clear(&fiber->timer);
    strand_free(fiber->strand); /* and the record with it */
}

static struct fiber *record_new(struct loop *loop)
{
    struct fiber *fiber;
    void *record;
    struct strand *strand = strand_new(run_fiber, sizeof *fiber, &record);

    if (!strand)
        return NULL;
    fiber = record;
    list_init(&fiber->queue);
    list_init(&fiber->all);
    fiber->loop = loop;
    fiber->strand = strand;
    if (timer_reserve(&fiber->timer)) {
        record_free(fiber);
        return NULL;
    }
    return fiber;
}

/* A record with a stack: a warm one, a trimmed one, or a new one. NULL without memory. */
static struct fiber *record_take(struct loop *loop)
{
    struct fibers *fibers = &loop->fibers;
    struct list *link = list_first(&fibers->free);

    if (!link)
        return record_new(loop);
    struct fiber *fiber = container_of(link, struct fiber, all);
    list_remove(link);
    fibers->warm_count -= fiber->is_warm;
    counter_set(&loop->counters.stacks_free, --fibers->free_count);
    return fiber;
}

static void record_give(struct fiber *fiber)
{
    struct fibers *fibers = &fiber->loop->fibers;

    if (fibers->free_count >= FREE_MAX) {
        record_free(fiber);
        return;
    }
    fiber->is_warm = fibers->warm_count < FREE_WARM_MAX;
    if (fiber->is_warm) {
        fibers->warm_count++;
        list_push_front(&fibers->free, &fiber->all);
    } else {
        strand_trim(fiber->strand);
        list_push(&fibers->free, &fiber->all);
    }
    counter_set(&fiber->loop->counters.stacks_free, ++fibers->free_count);
}

/* ---- running ---- */

static void complain(const struct fiber *fiber, uint64_t run_ns, uint64_t now_ns)
{
    struct fibers *fibers = &fiber->loop->fibers;

    counter_add(&fiber->loop->counters.long_runs, 1);
    if (now_ns < fibers->may_complain_ns)
        return;
    fibers->may_complain_ns = now_ns + 1000000000;
    log_begin(LOG_WARN, "a fiber kept its thread busy");
    log_cstr("fiber", fiber->name);
    log_cstr("step", fiber->step);
    log_u64("ms", run_ns / 1000000);
    log_end();
}

static void measure_stack(struct fiber *fiber)
{
    counter_raise(&fiber->loop->counters.stack_high_water_bytes, strand_depth_bytes(fiber->strand));
}

static void bury(struct fiber *fiber)
{
    struct loop *loop = fiber->loop;
    struct fibers *fibers = &loop->fibers;

    if (++fibers->ended % MEASURE_EVERY == 0)
        measure_stack(fiber);
    list_remove(&fiber->all);
    counter_set(&loop->counters.fibers, --fibers->count);
    record_give(fiber);
}

/* Run a fiber until it parks or ends. The loop has looked at the clock just now, and does so afterwards. */
static void resume(struct fiber *fiber)
{
    struct loop *loop = fiber->loop;
    struct fibers *fibers = &loop->fibers;
    struct fiber *outer = fibers->running;
    uint64_t began_ns = loop_recent_ns();

    list_remove(&fiber->queue);
    fiber->state = FIBER_RUNNING;
    fibers->running = fiber;
    strand_enter(fiber->strand);
    fibers->running = outer;

    loop->recent_ns = sys_now_ns();
    if (loop->recent_ns - began_ns > LONG_RUN_NS)
        complain(fiber, loop->recent_ns - began_ns, loop->recent_ns);
    if (fiber->state == FIBER_ENDED)
        bury(fiber);
}

static void make_runnable(struct fiber *fiber)
{
    fiber->state = FIBER_RUNNABLE;
    list_push(&fiber->loop->fibers.runnable, &fiber->queue);
}

void fibers_run(struct loop *loop)
{
    struct fibers *fibers = &loop->fibers;

    loop->recent_ns = sys_now_ns();
    for (int i = 0; i < LOOP_FIBERS_PER_ROUND; i++) {
        struct list *link = list_first(&fibers->runnable);
        if (!link)
            break;
        resume(container_of(link, struct fiber, queue));
    }
    /* Those who yielded come after all that were runnable and after the next events. */
    list_each (link, &fibers->yielded) {
        list_remove(link);
        list_push(&fibers->runnable, link);
    }
}

/* ---- starting ---- */

static err_t prepare(const char *name, void (*fn)(void *arg), void *arg, struct fiber **out)
{
    struct loop *loop = loop_self();
    struct fibers *fibers = &loop->fibers;

    if (fibers->count >= fibers->limit)
        return &too_many;
    struct fiber *fiber = record_take(loop);
    if (!fiber)
        return err_no_memory();

    fiber->fn = fn;
    fiber->arg = arg;
    fiber->name = fiber->step = name;
    fiber->owner = NULL;
    fiber->arena = NULL;
    fiber->is_woken = fiber->is_shielded = false;
    fiber->deadline_ms = FIBER_FOREVER;
    fiber->deadline_reason = fiber->cancel_reason = NULL;
    fiber->started_ms = loop_now_ms();
    list_push(&fibers->all, &fiber->all);
    counter_set(&loop->counters.fibers, ++fibers->count);
    counter_raise(&loop->counters.fibers_high, fibers->count);
    *out = fiber;
    return NULL;
}

err_t fiber_start(const char *name, void (*fn)(void *arg), void *arg, struct fiber **out)
{
    struct fiber *fiber;

    TRY(prepare(name, fn, arg, &fiber));
    if (out)
        *out = fiber;
    resume(fiber);
    return NULL;
}

err_t fiber_start_later(const char *name, void (*fn)(void *arg), void *arg, struct fiber **out)
{
    struct fiber *fiber;

    TRY(prepare(name, fn, arg, &fiber));
    if (out)
        *out = fiber;
    make_runnable(fiber);
    return NULL;
}

/* ---- waiting ---- */

/* Leave the stack until somebody makes the fiber runnable. */
static void suspend(struct fiber *self)
{
    err_scope_set(self->outer_scope);
    strand_leave(self->strand);
    self->outer_scope = err_scope_set(self->arena);
}

static void on_timer(struct timer *timer)
{
    struct fiber *fiber = container_of(timer, struct fiber, timer);

    if (fiber->state == FIBER_PARKED)
        make_runnable(fiber);
}

/* Leave the stack until woken, cancelled or `at_ms`. */
static void suspend_until(struct fiber *self, uint64_t at_ms)
{
    /* The handle was reserved with the record, so this cannot fail. */
    check(!timer_set(&self->timer, at_ms, on_timer));
    self->state = FIBER_PARKED;
    suspend(self);
}

/* Why `fiber` may not wait any more, or NULL. */
static err_t refusal(const struct fiber *fiber)
{
    if (fiber->is_shielded)
        return loop_now_ms() >= fiber->shield_ms ? &shield_over : NULL;
    if (fiber->cancel_reason)
        return fiber->cancel_reason;
    return loop_now_ms() >= fiber->deadline_ms ? fiber->deadline_reason : NULL;
}

err_t fiber_park(uint64_t at_ms)
{
    struct fiber *self = running_fiber();
    uint64_t end_ms = self->is_shielded ? self->shield_ms : self->deadline_ms;

    for (;;) {
        TRY(refusal(self));
        if (self->is_woken) {
            self->is_woken = false;
            return NULL;
        }
        if (loop_now_ms() >= at_ms)
            return &fiber_wait_over;
        suspend_until(self, at_ms < end_ms ? at_ms : end_ms);
    }
}

void fiber_park_until_woken(void)
{
    struct fiber *self = running_fiber();

    while (!self->is_woken)
        suspend_until(self, FIBER_FOREVER);
    self->is_woken = false;
}

err_t fiber_sleep(uint64_t ms)
{
    uint64_t now_ms = loop_now_ms();
    uint64_t at_ms = ms < FIBER_FOREVER - now_ms ? now_ms + ms : FIBER_FOREVER;
    err_t err;

    do
        err = fiber_park(at_ms);
    while (!err);
    return err == &fiber_wait_over ? NULL : err;
}

err_t fiber_yield(void)
{
    struct fiber *self = running_fiber();

    TRY(refusal(self));
    self->state = FIBER_RUNNABLE;
    list_push(&self->loop->fibers.yielded, &self->queue);
    suspend(self);
    return refusal(self);
}

void fiber_wake(struct fiber *fiber)
{
    check(fiber->loop == loop_self());
    fiber->is_woken = true;
    counter_add(&fiber->loop->counters.wakes, 1);
    if (fiber->state == FIBER_PARKED)
        make_runnable(fiber);
}

void fiber_cancel(struct fiber *fiber, err_t reason)
{
    check(fiber->loop == loop_self() && reason);
    if (fiber->cancel_reason)
        return;
    fiber->cancel_reason = reason;
    if (fiber->state == FIBER_PARKED)
        make_runnable(fiber); /* it parks again if it is shielded */
}

err_t fiber_cancelled(const struct fiber *fiber)
{
    return fiber->cancel_reason;
}

/* ---- the running fiber's properties ---- */

void fiber_set_deadline(uint64_t at_ms, err_t reason)
{
    struct fiber *self = running_fiber();

    check(reason || at_ms == FIBER_FOREVER);
    self->deadline_ms = at_ms;
    self->deadline_reason = reason;
}

void fiber_shield(uint64_t until_ms)
{
    struct fiber *self = running_fiber();

    check(!self->is_shielded);
    self->is_shielded = true;
    self->shield_ms = until_ms;
}

void fiber_unshield(void)
{
    running_fiber()->is_shielded = false;
}

void fiber_set_arena(struct arena *arena)
{
    running_fiber()->arena = arena;
    err_scope_set(arena);
}

struct arena *fiber_arena(void)
{
    struct fiber *self = fiber_self();

    return self ? self->arena : NULL;
}

void fiber_set_step(const char *step)
{
    running_fiber()->step = step;
}

void fiber_set_owner(struct fiber *fiber, void *owner)
{
    fiber->owner = owner;
}

void fiber_trim_stack(void)
{
    struct fiber *self = running_fiber();

    measure_stack(self); /* while it can be seen */
    strand_trim(self->strand);
}

/* ---- seeing inside ---- */

void fiber_each(void (*visit)(const struct fiber_view *view, void *arg), void *arg)
{
    static const char *const names[] = {"runnable", "running", "parked", "ended"};
    struct loop *loop = loop_self();

    if (!loop)
        return;
    list_each (link, &loop->fibers.all) {
        const struct fiber *fiber = container_of(link, struct fiber, all);
        struct fiber_view view = {
            .name = fiber->name,
            .step = fiber->step,
            .owner = fiber->owner,
            .started_ms = fiber->started_ms,
            .state = names[fiber->state],
        };
        visit(&view, arg);
    }
}

void fiber_set_limit(struct loop *loop, unsigned limit)
{
    loop->fibers.limit = limit;
}

/* ---- the loop's part ---- */

void fibers_init(struct fibers *fibers)
{
    *fibers = (struct fibers){.limit = DEFAULT_LIMIT};
    list_init(&fibers->all);
    list_init(&fibers->runnable);
    list_init(&fibers->yielded);
    list_init(&fibers->free);
}

void fibers_fini(struct fibers *fibers)
{
    check(fibers->count == 0);
    list_each (link, &fibers->free) {
        list_remove(link);
        record_free(container_of(link, struct fiber, all));
    }
}
