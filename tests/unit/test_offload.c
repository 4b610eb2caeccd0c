/* SPDX-License-Identifier: Apache-2.0 */
/* Thread pools: results and errors come back, waits can be given up, nothing is lost or freed
 * twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/mem.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"

static struct loop *loop;
static int ended; /* fibers */

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};

static int set_up(void **state)
{
    ended = 0;
    return loop_open(&loop) == NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    offload_stop_all();
    loop_close(loop);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

static struct fiber *start(void (*fn)(void *arg), void *arg)
{
    struct fiber *fiber = NULL;

    assert_null(fiber_start("test", fn, arg, &fiber));
    return fiber;
}

static void end_fiber(int expected)
{
    if (++ended == expected)
        loop_stop(loop);
}

/* ---- offload_run ---- */

struct sum {
    int a, b, result;
    pthread_t thread;
};

static err_t add(void *arg)
{
    struct sum *sum = arg;

    sum->thread = pthread_self();
    if (sum->a < 0)
        return err_new(ERR_STORE, "cannot add to %d", sum->a);
    sum->result = sum->a + sum->b;
    return NULL;
}

static void adds(void *arg)
{
    for (int i = 0; i < 100; i++) {
        struct sum sum = {.a = i, .b = 1};
        assert_null(offload_run(OFFLOAD_FILE, add, &sum));
        assert_int_equal(sum.result, i + 1);
        assert_false(pthread_equal(sum.thread, pthread_self()));
    }
    end_fiber(20);
}

static void results_come_back(void **state)
{
    for (int i = 0; i < 20; i++)
        start(adds, NULL);
    loop_run(loop);
}

static void adds_in_vain(void *arg)
{
    struct sum sum = {.a = -3};
    struct arena *arena = arena_new(MEM_REQUEST, 4096);

    fiber_set_arena(arena);
    err_t err = offload_run(OFFLOAD_FILE, add, &sum);
    assert_true(err_is(err, ERR_STORE));
    assert_string_equal(err->text, "cannot add to -3");
    fiber_set_arena(NULL);
    arena_free(arena);
    end_fiber(1);
}

static void errors_are_made_in_the_fibers_arena(void **state)
{
    start(adds_in_vain, NULL);
    loop_run(loop);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
}

static void job_runs_directly_outside_a_fiber(void **state)
{
    struct sum sum = {.a = 1, .b = 2};

    assert_null(offload_run(OFFLOAD_FILE, add, &sum));
    assert_int_equal(sum.result, 3);
    assert_true(pthread_equal(sum.thread, pthread_self()));
}

static err_t sleep_a_little(void *arg)
{
    usleep(20000);
    return NULL;
}

static void waits_though_cancelled(void *arg)
{
    uint64_t began_ms = loop_now_ms();

    fiber_cancel(fiber_self(), &gone);
    assert_null(offload_run(OFFLOAD_FILE, sleep_a_little, NULL));
    assert_true(loop_now_ms() >= began_ms + 19);
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    end_fiber(1);
}

static void run_is_not_cancellable(void **state)
{
    start(waits_though_cancelled, NULL);
    loop_run(loop);
}

/* ---- offload_run_until ---- */

struct slow {
    atomic_bool may_end, has_begun;
    bool fails;
};

static atomic_int abandoned;

static struct slow *slow_new(void)
{
    return mem_alloc_zero(MEM_TOOL, sizeof(struct slow));
}

static void slow_free(struct slow *slow)
{
    mem_free(MEM_TOOL, slow, sizeof *slow);
}

static err_t run_slow(void *arg)
{
    struct slow *slow = arg;

    slow->has_begun = true;
    while (!slow->may_end)
        usleep(1000);
    return slow->fails ? err_new(ERR_NOT_FOUND, "no such %s", "host") : NULL;
}

static void abandon_slow(void *arg)
{
    slow_free(arg);
    abandoned++;
}

static void waits_to_the_end(void *arg)
{
    struct slow *slow = slow_new();
    struct arena *arena = arena_new(MEM_REQUEST, 4096);

    slow->may_end = slow->fails = true;
    fiber_set_arena(arena);
    err_t err = offload_run_until(OFFLOAD_DNS, run_slow, slow, abandon_slow, FIBER_FOREVER);
    assert_true(err_is(err, ERR_NOT_FOUND));
    assert_string_equal(err->text, "no such host");
    slow->fails = false;
    assert_null(offload_run_until(OFFLOAD_DNS, run_slow, slow, abandon_slow, FIBER_FOREVER));
    fiber_set_arena(NULL);
    arena_free(arena);
    slow_free(slow);
    end_fiber(1);
}

static void job_that_ends_in_time_is_the_callers(void **state)
{
    abandoned = 0;
    start(waits_to_the_end, NULL);
    loop_run(loop);
    assert_int_equal(abandoned, 0);
}

static void gives_up_at_time(void *arg)
{
    struct slow *slow = arg;

    uint64_t at_ms = loop_now_ms() + 20;

    err_t err = offload_run_until(OFFLOAD_DNS, run_slow, slow, abandon_slow, at_ms);
    assert_ptr_equal(err, &fiber_wait_over);
    slow->may_end = true; /* its thread frees it after this */
    end_fiber(1);
}

static void abandoned_job_is_freed_by_its_thread(void **state)
{
    abandoned = 0;
    start(gives_up_at_time, slow_new());
    loop_run(loop);
    offload_stop_all();
    assert_int_equal(abandoned, 1);
}

static void gives_up_when_cancelled(void *arg)
{
    err_t err = offload_run_until(OFFLOAD_FILE, run_slow, arg, abandon_slow, FIBER_FOREVER);

    assert_ptr_equal(err, &gone);
    end_fiber(4);
}

/* Two jobs run, two are still queued behind them (the pool has two threads). */
static void cancelled_waits_abandon_running_and_queued_jobs(void **state)
{
    struct slow *slow[4];
    struct fiber *fibers[4];

    abandoned = 0;
    for (int i = 0; i < 4; i++) {
        slow[i] = slow_new();
        fibers[i] = start(gives_up_when_cancelled, slow[i]);
    }
    while (!slow[0]->has_begun || !slow[1]->has_begun)
        usleep(1000);
    for (int i = 0; i < 4; i++)
        fiber_cancel(fibers[i], &gone);
    loop_run(loop);
    slow[0]->may_end = slow[1]->may_end = true;
    offload_stop_all();
    assert_int_equal(abandoned, 4);
}

static void races_with_its_time(void *arg)
{
    for (int i = 0; i < 50; i++) {
        struct slow *slow = slow_new();
        uint64_t at_ms = loop_now_ms() + (i & 1);
        slow->may_end = true;
        err_t err = offload_run_until(OFFLOAD_DNS, run_slow, slow, abandon_slow, at_ms);
        if (err)
            assert_ptr_equal(err, &fiber_wait_over);
        else
            slow_free(slow);
        assert_null(fiber_yield());
    }
    end_fiber(10);
}

static void job_has_one_owner_however_the_race_ends(void **state)
{
    for (int i = 0; i < 10; i++)
        start(races_with_its_time, NULL);
    loop_run(loop);
}

static void fails_without_memory(void *arg)
{
    for (uint64_t n = 1;; n++) {
        struct slow *slow = slow_new();
        slow->may_end = true;
        mem_fail_nth(n);
        err_t err = offload_run_until(OFFLOAD_DNS, run_slow, slow, abandon_slow, FIBER_FOREVER);
        mem_fail_nth(0);
        slow_free(slow);
        if (!err)
            break;
        assert_true(err_is(err, ERR_BUSY));
    }
    end_fiber(1);
}

static void every_failing_allocation_is_reported(void **state)
{
    start(fails_without_memory, NULL);
    loop_run(loop);
}

/* ---- offload_run_stoppable ---- */

struct stoppable {
    struct slow slow;
    err_t err;
    bool is_told, has_ended;
};

static void tell_slow(void *arg)
{
    struct stoppable *s = arg;

    s->is_told = true;
    s->slow.may_end = true;
}

static err_t run_stoppable(void *arg)
{
    struct stoppable *s = arg;

    return run_slow(&s->slow);
}

static void waits_for_stoppable(void *arg)
{
    struct stoppable *s = arg;

    s->err = offload_run_stoppable(OFFLOAD_FILE, run_stoppable, s, tell_slow);
    s->has_ended = true;
    end_fiber(6);
}

static void cancels_stoppable(void *arg)
{
    struct stoppable *s = arg;

    /* The fifth is taken back out of the queue while two run. */
    fiber_cancel(start(waits_for_stoppable, &s[4]), &gone);
    while (!s[4].has_ended)
        assert_null(fiber_yield());
    assert_false(s[4].is_told || s[4].slow.has_begun);
    assert_ptr_equal(s[4].err, &gone);
    end_fiber(6);
}

/* Of five jobs in two threads one ends in time, one fails when it is told to end, one succeeds all the same, one
 * waits until there is a thread for it, and one is never begun. */
static void stoppable_jobs_end_when_told(void **state)
{
    struct stoppable s[5] = {{.slow.fails = true}, {.slow.fails = false}};
    struct fiber *fibers[4];

    for (int i = 0; i < 4; i++)
        fibers[i] = start(waits_for_stoppable, &s[i]);
    while (!s[0].slow.has_begun || !s[1].slow.has_begun)
        usleep(1000);
    s[2].slow.may_end = s[3].slow.may_end = true;
    start(cancels_stoppable, s);
    fiber_cancel(fibers[0], &gone);
    fiber_cancel(fibers[1], &gone);
    loop_run(loop);
    for (int i = 0; i < 4; i++)
        assert_int_equal(s[i].is_told, i < 2);
    assert_ptr_equal(s[0].err, &gone);
    for (int i = 1; i < 4; i++)
        assert_null(s[i].err);
}

#define QUEUE_MAX 1024

static int refused;

static void may_be_refused(void *arg)
{
    err_t err = offload_run(OFFLOAD_FILE, run_slow, arg);

    assert_true(!err || err_is(err, ERR_BUSY));
    refused += err != NULL;
    end_fiber(QUEUE_MAX + 10);
}

static void full_queue_refuses(void **state)
{
    struct slow slow = {0};

    for (int i = 0; i < QUEUE_MAX + 10; i++)
        start(may_be_refused, &slow);
    assert_in_range(refused, 8, 10); /* up to two of them run already */
    slow.may_end = true;
    loop_run(loop);
}

#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_LOOP(results_come_back),
        WITH_LOOP(errors_are_made_in_the_fibers_arena),
        WITH_LOOP(job_runs_directly_outside_a_fiber),
        WITH_LOOP(run_is_not_cancellable),
        WITH_LOOP(job_that_ends_in_time_is_the_callers),
        WITH_LOOP(abandoned_job_is_freed_by_its_thread),
        WITH_LOOP(cancelled_waits_abandon_running_and_queued_jobs),
        WITH_LOOP(job_has_one_owner_however_the_race_ends),
        WITH_LOOP(every_failing_allocation_is_reported),
        WITH_LOOP(stoppable_jobs_end_when_told),
        WITH_LOOP(full_queue_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
