/* SPDX-License-Identifier: Apache-2.0 */
/* Gates: who is let through, in which order, and what a lost wait leaves behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/mem.h"
#include "fiber/fiber.h"
#include "fiber/gate.h"

static struct loop *loop;
static struct gate gate;
static char trail[64];

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};

static int set_up(void **state)
{
    trail[0] = '\0';
    gate_init(&gate);
    return loop_open(&loop) == NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    assert_true(list_is_empty(&gate.waiters));
    loop_close(loop);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
    return 0;
}

/* Note what has become of a wait ('p' passed, 't' time over, 'x' cancelled) and whose it was. */
static void mark(char what, const char *number)
{
    size_t len = strlen(trail);

    assert_true(len + 2 < sizeof trail);
    trail[len] = what;
    trail[len + 1] = number[0];
    trail[len + 2] = '\0';
}

static void passes(void *arg)
{
    err_t err = gate_wait(&gate, FIBER_FOREVER);

    mark(err == &gone ? 'x' : 'p', arg);
}

static void passes_soon(void *arg)
{
    err_t err = gate_wait(&gate, loop_now_ms() + 10);

    mark(err == &fiber_wait_over ? 't' : 'p', arg);
    loop_stop(loop);
}

static void stops(void *arg)
{
    loop_stop(loop);
}

static struct fiber *start(void (*fn)(void *arg), const char *number)
{
    struct fiber *fiber = NULL;

    assert_null(fiber_start("test", fn, (void *)(uintptr_t)number, &fiber));
    return fiber;
}

static void run_a_little(void)
{
    assert_null(fiber_start_later("stop", stops, NULL, NULL));
    loop_run(loop);
}

static void opening_lets_all_through_in_order(void **state)
{
    start(passes, "1");
    start(passes, "2");
    gate_open(&gate);
    start(passes, "3"); /* it is open: does not wait */
    assert_string_equal(trail, "p3");
    run_a_little();
    assert_string_equal(trail, "p3p1p2");
    gate_close(&gate);
    start(passes, "4");
    run_a_little();
    assert_string_equal(trail, "p3p1p2");
    gate_open(&gate);
    run_a_little();
    assert_string_equal(trail, "p3p1p2p4");
}

static void closing_does_not_hold_back_the_admitted(void **state)
{
    start(passes, "1");
    gate_open(&gate);
    gate_close(&gate);
    run_a_little();
    assert_string_equal(trail, "p1");
}

static void admitting_one_takes_the_oldest(void **state)
{
    assert_false(gate_admit_one(&gate));
    start(passes, "1");
    start(passes, "2");
    assert_true(gate_admit_one(&gate));
    run_a_little();
    assert_string_equal(trail, "p1");
    assert_true(gate_admit_one(&gate));
    assert_false(gate_admit_one(&gate));
    run_a_little();
    assert_string_equal(trail, "p1p2");
}

static void waiting_ends_at_its_time(void **state)
{
    start(passes_soon, "1");
    loop_run(loop);
    assert_string_equal(trail, "t1");
    assert_false(gate_admit_one(&gate));
}

static void cancelled_waiter_leaves_the_queue(void **state)
{
    struct fiber *first = start(passes, "1");
    start(passes, "2");
    fiber_cancel(first, &gone);
    run_a_little();
    assert_string_equal(trail, "x1");
    assert_true(gate_admit_one(&gate));
    run_a_little();
    assert_string_equal(trail, "x1p2");
}

static void admission_is_not_lost_to_a_cancellation(void **state)
{
    struct fiber *first = start(passes, "1");
    assert_true(gate_admit_one(&gate));
    fiber_cancel(first, &gone);
    run_a_little();
    assert_string_equal(trail, "p1");
}

static void stray_wake_does_not_pass(void **state)
{
    struct fiber *first = start(passes, "1");
    fiber_wake(first);
    run_a_little();
    assert_string_equal(trail, "");
    gate_open(&gate);
    run_a_little();
    assert_string_equal(trail, "p1");
}

#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_LOOP(opening_lets_all_through_in_order),
        WITH_LOOP(closing_does_not_hold_back_the_admitted),
        WITH_LOOP(admitting_one_takes_the_oldest),
        WITH_LOOP(waiting_ends_at_its_time),
        WITH_LOOP(cancelled_waiter_leaves_the_queue),
        WITH_LOOP(admission_is_not_lost_to_a_cancellation),
        WITH_LOOP(stray_wake_does_not_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
