/* SPDX-License-Identifier: Apache-2.0 */
/* Fibers: order of running, every way to end a wait, limits, memory, and stacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"

static struct loop *loop;
static char trail[64]; /* what happened, a letter each */

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};
static const struct err late = {.kind = ERR_TIMED_OUT, .text = "late"};
static const struct err other = {.kind = ERR_KILLED, .text = "other"};

static void mark(char c)
{
    size_t len = strlen(trail);

    assert_true(len + 1 < sizeof trail);
    trail[len] = c;
    trail[len + 1] = '\0';
}

static int set_up(void **state)
{
    trail[0] = '\0';
    return loop_open(&loop) == NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    struct loop_stats stats;

    loop_stats(loop, &stats);
    assert_int_equal(stats.fibers, 0);
    loop_close(loop);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    return 0;
}

/* Fibers take a plain pointer; here it mostly points to letters. */
static void *arg_of(const char *letters)
{
    return (void *)(uintptr_t)letters;
}

static struct fiber *start(void (*fn)(void *arg), void *arg)
{
    struct fiber *fiber = NULL;

    assert_null(fiber_start("test", fn, arg, &fiber));
    return fiber;
}

static struct fiber *start_later(void (*fn)(void *arg), void *arg)
{
    struct fiber *fiber = NULL;

    assert_null(fiber_start_later("test", fn, arg, &fiber));
    return fiber;
}

static void stop_fiber(void *arg)
{
    loop_stop(loop);
}

/* Run everything that is runnable now, then return. */
static void run_a_little(void)
{
    start_later(stop_fiber, NULL);
    loop_run(loop);
}

/* ---- order ---- */

static void parks_once(void *arg)
{
    const char *letters = arg;

    mark(letters[0]);
    assert_null(fiber_park(FIBER_FOREVER));
    mark(letters[1]);
}

static void start_runs_until_the_first_park(void **state)
{
    assert_null(fiber_self());
    struct fiber *a = start(parks_once, arg_of("aA"));
    struct fiber *b = start(parks_once, arg_of("bB"));
    assert_string_equal(trail, "ab");
    assert_null(fiber_self());
    fiber_wake(b);
    fiber_wake(a);
    fiber_wake(a);
    assert_string_equal(trail, "ab"); /* waking only queues */
    run_a_little();
    assert_string_equal(trail, "abBA");
}

static void start_later_runs_in_the_loop(void **state)
{
    struct fiber *a = start_later(parks_once, arg_of("aA"));
    assert_string_equal(trail, "");
    run_a_little();
    assert_string_equal(trail, "a");
    fiber_wake(a);
    run_a_little();
    assert_string_equal(trail, "aA");
}

static void starts_another(void *arg)
{
    struct fiber *self = fiber_self();

    mark('1');
    struct fiber *inner = start(parks_once, arg_of("aA"));
    assert_ptr_equal(fiber_self(), self);
    mark('2');
    fiber_wake(inner);
    mark('3');
}

static void fiber_started_in_a_fiber_runs_at_once(void **state)
{
    start(starts_another, NULL);
    assert_string_equal(trail, "1a23");
    run_a_little();
    assert_string_equal(trail, "1a23A");
}

static void nests(void *arg)
{
    const char *letters = arg;

    if (*letters) {
        start(nests, arg_of(letters + 1));
        assert_null(fiber_yield());
        mark(*letters);
    }
}

static void nested_starts_return_one_by_one(void **state)
{
    start(nests, arg_of("abc"));
    run_a_little();
    run_a_little();
    assert_int_equal(strlen(trail), 3);
}

static void wakes_itself_first(void *arg)
{
    fiber_wake(fiber_self());
    assert_null(fiber_park(FIBER_FOREVER)); /* remembered: returns at once */
    mark('a');
    assert_null(fiber_park(FIBER_FOREVER)); /* used up */
    mark('b');
}

static void wake_of_a_running_fiber_is_remembered(void **state)
{
    struct fiber *a = start(wakes_itself_first, NULL);
    assert_string_equal(trail, "a");
    fiber_wake(a);
    run_a_little();
    assert_string_equal(trail, "ab");
}

static void is_busy(void *arg)
{
    uint64_t *began_ns = arg, end_ns = sys_now_ns() + 3000000;

    *began_ns = loop_recent_ns();
    while (sys_now_ns() < end_ns)
        ;
}

/* Each begins its turn with a fresh look at the clock, which is its own to the end of the turn. */
static void fibers_find_a_recent_time(void **state)
{
    uint64_t began_ns[2], before_ns = sys_now_ns();

    start_later(is_busy, &began_ns[0]);
    start_later(is_busy, &began_ns[1]);
    run_a_little();
    assert_true(began_ns[0] >= before_ns);
    assert_true(began_ns[1] >= began_ns[0] + 3000000);
    assert_true(began_ns[1] + 3000000 <= sys_now_ns());
}

static void yields_thrice(void *arg)
{
    const char *letters = arg;

    for (int i = 0; i < 3; i++) {
        mark(letters[0]);
        assert_null(fiber_yield());
    }
    loop_stop(loop);
}

static void yielding_fibers_take_turns(void **state)
{
    start_later(yields_thrice, arg_of("a"));
    start_later(yields_thrice, arg_of("b"));
    loop_run(loop);
    assert_string_equal(trail, "ababab");
}

static void yields_until_told(void *arg)
{
    const bool *told = arg;

    while (!*told)
        assert_null(fiber_yield());
    loop_stop(loop);
}

static void tell(struct loop_message *message)
{
    *(bool *)(message + 1) = true;
}

static void yielding_fiber_lets_events_in(void **state)
{
    struct {
        struct loop_message message;
        bool told;
    } telling = {.message.fn = tell};

    start(yields_until_told, &telling.told);
    loop_post(loop, &telling.message);
    loop_run(loop);
}

/* ---- cancelling ---- */

static void cancelled_before(void *arg)
{
    fiber_cancel(fiber_self(), &gone);
    fiber_cancel(fiber_self(), &other); /* the first reason wins */
    fiber_wake(fiber_self());
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    assert_ptr_equal(fiber_sleep(0), &gone);
    assert_ptr_equal(fiber_yield(), &gone);
    assert_ptr_equal(fiber_cancelled(fiber_self()), &gone);
    mark('x');
}

static void cancel_before_a_park(void **state)
{
    start(cancelled_before, NULL);
    assert_string_equal(trail, "x");
}

static void cancelled_while_parked(void *arg)
{
    assert_null(fiber_cancelled(fiber_self()));
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    mark('x');
}

static void cancel_during_a_park(void **state)
{
    struct fiber *a = start(cancelled_while_parked, NULL);
    fiber_wake(a);
    fiber_cancel(a, &gone); /* in the same round as a wake: the cancellation wins */
    run_a_little();
    assert_string_equal(trail, "x");
}

static void parks_twice(void *arg)
{
    assert_null(fiber_park(FIBER_FOREVER));
    mark('w');
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    mark('x');
}

static void cancel_after_a_park(void **state)
{
    struct fiber *a = start(parks_twice, NULL);
    fiber_wake(a);
    run_a_little();
    fiber_cancel(a, &gone);
    run_a_little();
    assert_string_equal(trail, "wx");
}

static void cancel_of_a_fiber_that_has_not_begun(void **state)
{
    struct fiber *a = start_later(cancelled_before, NULL);
    fiber_cancel(a, &gone);
    run_a_little();
    assert_string_equal(trail, "x");
}

/* ---- times ---- */

static void waits_for_times(void *arg)
{
    uint64_t began_ms = loop_now_ms();

    assert_ptr_equal(fiber_park(began_ms), &fiber_wait_over); /* at once */
    assert_ptr_equal(fiber_park(began_ms + 10), &fiber_wait_over);
    assert_true(loop_now_ms() >= began_ms + 10);

    fiber_set_deadline(began_ms + 200, &late); /* far enough for a machine that is busy elsewhere */
    assert_ptr_equal(fiber_park(began_ms + 15), &fiber_wait_over);
    assert_ptr_equal(fiber_park(began_ms + 1000000), &late);
    assert_true(loop_now_ms() >= began_ms + 200);
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &late);
    assert_ptr_equal(fiber_yield(), &late);

    fiber_set_deadline(FIBER_FOREVER, NULL);
    assert_null(fiber_sleep(10));
    assert_true(loop_now_ms() >= began_ms + 210);
    mark('t');
    loop_stop(loop);
}

static void deadline_and_wait_time_are_told_apart(void **state)
{
    start(waits_for_times, NULL);
    loop_run(loop);
    assert_string_equal(trail, "t");
}

static void waits_often(void *arg)
{
    for (int i = 0; i < 50; i++)
        assert_null(fiber_park(loop_now_ms() + 100000 - (uint64_t)i)); /* woken long before */
    uint64_t at_ms = loop_now_ms() + 5;
    assert_ptr_equal(fiber_park(at_ms), &fiber_wait_over);
    assert_true(loop_now_ms() >= at_ms);
    loop_stop(loop);
}

static void wakes_often(void *arg)
{
    for (int i = 0; i < 50; i++) {
        fiber_wake(arg);
        assert_null(fiber_yield());
    }
}

static void timer_left_armed_ends_no_later_wait(void **state)
{
    struct fiber *a = start(waits_often, NULL);
    start(wakes_often, a);
    loop_run(loop);
}

static void sleeps_though_woken(void *arg)
{
    uint64_t at_ms = loop_now_ms() + 10;

    fiber_wake(fiber_self());
    assert_null(fiber_sleep(10));
    assert_true(loop_now_ms() >= at_ms);
    loop_stop(loop);
}

static void sleep_is_not_cut_short_by_a_wake(void **state)
{
    start(sleeps_though_woken, NULL);
    loop_run(loop);
}

/* ---- shield ---- */

static void cleans_up(void *arg)
{
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    fiber_shield(loop_now_ms() + 20);
    assert_null(fiber_sleep(5));
    mark('s');
    err_t err = fiber_park(FIBER_FOREVER);
    assert_true(err_is(err, ERR_TIMED_OUT) && err != &fiber_wait_over);
    assert_ptr_equal(fiber_yield(), err);
    fiber_unshield();
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    mark('u');
    loop_stop(loop);
}

static void shielded_fiber_waits_though_cancelled(void **state)
{
    struct fiber *a = start(cleans_up, NULL);
    fiber_cancel(a, &gone);
    loop_run(loop);
    assert_string_equal(trail, "su");
}

static void cancelled_in_shield(void *arg)
{
    fiber_shield(FIBER_FOREVER);
    assert_null(fiber_park(FIBER_FOREVER));
    mark('w');
    fiber_unshield();
    assert_ptr_equal(fiber_park(FIBER_FOREVER), &gone);
    mark('x');
}

static void cancel_in_a_shield_works_after_it(void **state)
{
    struct fiber *a = start(cancelled_in_shield, NULL);
    fiber_cancel(a, &gone);
    run_a_little();
    assert_string_equal(trail, "");
    fiber_wake(a);
    run_a_little();
    assert_string_equal(trail, "wx");
}

/* ---- scope of errors ---- */

static void makes_error_in_arena(void *arg)
{
    struct arena *arena = arena_new(MEM_REQUEST, 4096);

    fiber_set_arena(arena);
    assert_ptr_equal(fiber_arena(), arena);
    err_t before = err_new(ERR_NOT_FOUND, "number %d", 1);
    assert_null(fiber_park(FIBER_FOREVER));
    err_t after = err_new(ERR_NOT_FOUND, "number %d", 2);
    assert_string_equal(before->text, "number 1");
    assert_string_equal(after->text, "number 2");
    fiber_set_arena(NULL);
    arena_free(arena);
    mark('e');
}

static void errors_are_made_in_the_running_fibers_arena(void **state)
{
    struct arena *outer = arena_new(MEM_REQUEST, 4096);

    assert_null(err_scope_set(outer));
    struct fiber *a = start(makes_error_in_arena, NULL);
    struct fiber *b = start(makes_error_in_arena, NULL);
    fiber_wake(a);
    fiber_wake(b);
    run_a_little();
    assert_string_equal(trail, "ee");
    assert_ptr_equal(err_scope_set(NULL), outer);
    arena_free(outer);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
}

/* ---- many, limits, memory ---- */

/* ThreadSanitizer can tell only so many fibers apart. */
#if defined(__SANITIZE_THREAD__)
#define MANY 1000
#else
#define MANY 10000
#endif

static size_t resident_bytes(void)
{
    unsigned long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file && fscanf(file, "%lu %lu", &pages, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void parks_only(void *arg)
{
    unsigned *ended = arg;

    assert_null(fiber_park(loop_now_ms() + 1000000));
    ++*ended;
}

/* How many to start: $FIBERS for tools that cannot bear so many (valgrind with threads as
 * fibers). */
static unsigned how_many(void)
{
    const char *value = getenv("FIBERS");
    unsigned n = value ? (unsigned)strtoul(value, NULL, 10) : MANY;

    return n < MANY ? n : MANY;
}

static void thousands_of_parked_fibers(void **state)
{
    static struct fiber *fibers[MANY];
    unsigned n = 0, ended = 0;
    struct loop_stats stats;
    size_t before = resident_bytes();

    while (n < how_many() && !fiber_start("test", parks_only, &ended, &fibers[n]))
        n++;
    assert_true(n >= 100); /* threads that stand in for fibers may be limited */
    print_message("%u parked fibers: %zu bytes resident each\n", n,
                  (resident_bytes() - before) / n);
    loop_stats(loop, &stats);
    assert_int_equal(stats.fibers, n);
    assert_int_equal(stats.fibers_high, n);
    for (unsigned i = 0; i < n; i++)
        fiber_wake(fibers[i]);
    while (ended < n)
        run_a_little();
    loop_stats(loop, &stats);
    assert_int_equal(stats.fibers, 0);
    assert_true(stats.stacks_free <= 1024);
    print_message("deepest stack: %lu bytes\n", (unsigned long)stats.stack_high_water_bytes);
}

static void more_fibers_than_allowed_are_refused(void **state)
{
    struct fiber *fiber = NULL;
    unsigned ended = 0;

    fiber_set_limit(loop, 2);
    struct fiber *a = start(parks_only, &ended);
    struct fiber *b = start(parks_only, &ended);
    assert_true(err_is(fiber_start("third", parks_only, &ended, &fiber), ERR_BUSY));
    assert_null(fiber);
    fiber_wake(a);
    fiber_wake(b);
    fiber_set_limit(loop, 10);
    run_a_little();
    assert_int_equal(ended, 2);
}

static void starting_reports_every_failing_allocation(void **state)
{
    unsigned ended = 0;
    struct fiber *fiber = NULL;
    uint64_t n = 1;

    for (;; n++) {
        mem_fail_nth(n);
        err_t err = fiber_start("test", parks_only, &ended, &fiber);
        mem_fail_nth(0);
        if (!err)
            break;
        assert_true(err_is(err, ERR_BUSY));
        assert_int_equal(mem_in_use(MEM_FIBER), 0);
    }
#ifdef SLUICE_FAULTS
    assert_true(n > 2);
#endif
    fiber_wake(fiber);
    run_a_little();
    assert_int_equal(ended, 1);
}

/* ---- stacks ---- */

/* Use about 512 bytes per level. */
__attribute__((noinline)) static int use_stack(int depth)
{
    volatile char frame[448];

    for (size_t i = 0; i < sizeof frame; i++)
        frame[i] = (char)(depth | 1);
    return depth > 0 ? use_stack(depth - 1) + frame[3] : frame[7];
}

static void trims_its_stack(void *arg)
{
    int keep[64];

    memset(keep, 5, sizeof keep);
    use_stack(60);
    size_t before = resident_bytes();
    fiber_trim_stack();
    print_message("trimming gave back %zd bytes\n", (ssize_t)(before - resident_bytes()));
    for (size_t i = 0; i < sizeof keep / sizeof keep[0]; i++)
        assert_int_equal(keep[i], 0x05050505);
    use_stack(60);
    assert_null(fiber_yield());
    fiber_trim_stack();
    mark('t');
}

static void trimmed_stack_still_works(void **state)
{
    struct loop_stats stats;

    start(trims_its_stack, NULL);
    run_a_little();
    run_a_little();
    assert_string_equal(trail, "t");
    loop_stats(loop, &stats);
    print_message("deepest stack: %lu bytes\n", (unsigned long)stats.stack_high_water_bytes);
}

static void overflows(void *arg)
{
    use_stack(100000);
}

static void overflow_hits_the_guard(void **state)
{
    pid_t pid = fork();

    if (pid == 0) {
        close(2);
        start(overflows, NULL);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
}

/* ---- seeing inside ---- */

static void is_looked_at(void *arg)
{
    fiber_set_step("looking");
    fiber_set_owner(fiber_self(), arg);
    assert_null(fiber_park(FIBER_FOREVER));
}

static void look(const struct fiber_view *view, void *arg)
{
    assert_string_equal(view->name, "test");
    assert_string_equal(view->step, "looking");
    assert_string_equal(view->state, "parked");
    assert_ptr_equal(view->owner, arg);
    mark('v');
}

static void views_show_name_step_and_owner(void **state)
{
    int owner = 0;
    struct fiber *a = start(is_looked_at, &owner);
    fiber_each(look, &owner);
    assert_string_equal(trail, "v");
    fiber_wake(a);
    run_a_little();
    fiber_each(look, NULL);
    assert_string_equal(trail, "v");
}

static void keeps_the_thread(void *arg)
{
    uint64_t until_ms = sys_now_ms() + 120;

    fiber_set_step("hogging");
    while (sys_now_ms() < until_ms)
        ;
}

static void long_run_is_counted(void **state)
{
    struct loop_stats stats;

    start(keeps_the_thread, NULL);
    loop_stats(loop, &stats);
    assert_int_equal(stats.long_runs, 1);
}

#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_LOOP(start_runs_until_the_first_park),
        WITH_LOOP(start_later_runs_in_the_loop),
        WITH_LOOP(fiber_started_in_a_fiber_runs_at_once),
        WITH_LOOP(nested_starts_return_one_by_one),
        WITH_LOOP(wake_of_a_running_fiber_is_remembered),
        WITH_LOOP(fibers_find_a_recent_time),
        WITH_LOOP(yielding_fibers_take_turns),
        WITH_LOOP(yielding_fiber_lets_events_in),
        WITH_LOOP(cancel_before_a_park),
        WITH_LOOP(cancel_during_a_park),
        WITH_LOOP(cancel_after_a_park),
        WITH_LOOP(cancel_of_a_fiber_that_has_not_begun),
        WITH_LOOP(deadline_and_wait_time_are_told_apart),
        WITH_LOOP(timer_left_armed_ends_no_later_wait),
        WITH_LOOP(sleep_is_not_cut_short_by_a_wake),
        WITH_LOOP(shielded_fiber_waits_though_cancelled),
        WITH_LOOP(cancel_in_a_shield_works_after_it),
        WITH_LOOP(errors_are_made_in_the_running_fibers_arena),
        WITH_LOOP(thousands_of_parked_fibers),
        WITH_LOOP(more_fibers_than_allowed_are_refused),
        WITH_LOOP(starting_reports_every_failing_allocation),
        WITH_LOOP(trimmed_stack_still_works),
        WITH_LOOP(overflow_hits_the_guard),
        WITH_LOOP(views_show_name_step_and_owner),
        WITH_LOOP(long_run_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
