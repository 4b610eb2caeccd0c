/* SPDX-License-Identifier: Apache-2.0 */
/* Breakers, probes, limits, retry budgets and latencies, with a clock made up here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/health.h"

#define START 1000000

static const struct conf_breaker breaker = {.failures = 5,
                                            .ratio_percent = 50,
                                            .window_ms = 10000,
                                            .open_ms = 5000,
                                            .max_open_ms = 300000,
                                            .recheck_ms = 60000};
static const struct conf_retry retry = {.attempts = 2, .budget_percent = 20};

static struct health *health;
static uint64_t now;

static int set_up(void **state)
{
    now = START;
    return health_get(STR("p/m"), &breaker, &retry, &health) ? -1 : 0;
}

static int tear_down(void **state)
{
    assert_int_equal(health_in_flight(health), 0);
    health_unref(health);
    health_forget();
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    return 0;
}

static enum health_verdict admit(void)
{
    uint64_t until_ms;

    return health_admit(health, now, &until_ms);
}

static uint64_t until(void)
{
    uint64_t until_ms;

    (void)health_look(health, now, &until_ms);
    return until_ms;
}

/* A call as the verdict has it. */
static void call(enum health_verdict verdict, enum health_sign sign)
{
    health_begin(health, verdict);
    health_end(health, verdict, sign, now, 0, sign == HEALTH_GOOD ? 10 : 0);
}

static void calls(size_t count, enum health_sign sign)
{
    while (count--)
        call(HEALTH_ASK, sign);
}

static void see_state(const struct health_view *view, void *arg)
{
    *(const char **)arg = view->state;
}

static void assert_state(const char *expected)
{
    const char *is = NULL;

    health_each(now, see_state, &is);
    assert_non_null(is);
    assert_string_equal(is, expected);
}

/* ---- opening ---- */

static void test_five_failures_in_a_row_open(void **state)
{
    calls(4, HEALTH_FAILED);
    calls(1, HEALTH_GOOD);
    calls(4, HEALTH_FAILED);
    assert_int_equal(admit(), HEALTH_ASK);
    assert_state("closed");
    calls(1, HEALTH_FAILED);
    assert_int_equal(admit(), HEALTH_AVOID);
    assert_state("open");
    assert_in_range(until(), now + 4000, now + 6000);
}

static void test_half_of_twenty_open(void **state)
{
    for (size_t i = 0; i < 9; i++) {
        calls(1, HEALTH_GOOD);
        calls(1, HEALTH_FAILED);
    }
    calls(1, HEALTH_GOOD);
    assert_int_equal(admit(), HEALTH_ASK);
    calls(1, HEALTH_FAILED);
    assert_int_equal(admit(), HEALTH_AVOID);
}

static void test_old_failures_do_not_count(void **state)
{
    for (size_t i = 0; i < 9; i++) {
        calls(1, HEALTH_FAILED);
        calls(1, HEALTH_GOOD);
    }
    now += 11000;
    calls(1, HEALTH_GOOD);
    calls(1, HEALTH_FAILED);
    assert_int_equal(admit(), HEALTH_ASK);
}

/* What says nothing about the target's health does not open it. */
static void test_what_never_opens(void **state)
{
    calls(50, HEALTH_UNKNOWN);
    assert_int_equal(admit(), HEALTH_ASK);
    calls(4, HEALTH_FAILED);
    calls(50, HEALTH_LIMITED);
    now += 6000;
    assert_int_equal(admit(), HEALTH_ASK);
}

/* Results of calls that were under way when it opened change nothing. */
static void test_late_results_are_ignored(void **state)
{
    for (size_t i = 0; i < 3; i++)
        health_begin(health, HEALTH_ASK);
    calls(5, HEALTH_FAILED);
    uint64_t before = until();
    health_end(health, HEALTH_ASK, HEALTH_GOOD, now, 0, 10);
    health_end(health, HEALTH_ASK, HEALTH_FAILED, now, 0, 0);
    assert_int_equal(admit(), HEALTH_AVOID);
    assert_true(until() == before);
    now = before;
    assert_int_equal(admit(), HEALTH_PROBE);
    health_begin(health, HEALTH_PROBE);
    health_end(health, HEALTH_ASK, HEALTH_FAILED, now, 0, 0);
    assert_state("half_open");
    health_end(health, HEALTH_PROBE, HEALTH_GOOD, now, 0, 10);
    assert_int_equal(admit(), HEALTH_ASK);
}

/* Asked for want of another, it answers: it is well again. */
static void test_an_avoided_target_that_answers_closes(void **state)
{
    calls(5, HEALTH_FAILED);
    call(HEALTH_AVOID, HEALTH_FAILED);
    assert_int_equal(admit(), HEALTH_AVOID);
    call(HEALTH_AVOID, HEALTH_GOOD);
    assert_int_equal(admit(), HEALTH_ASK);
    assert_state("closed");
}

/* ---- probing ---- */

/* Waits double from 5 s; from the third failed probe on it is unhealthy, and they double from
 * 60 s up to 300 s; each give or take a fifth. */
static void test_probes_are_spaced(void **state)
{
    static const uint64_t waits[] = {5000, 10000, 20000, 60000, 120000, 240000, 300000, 300000};

    calls(5, HEALTH_FAILED);
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
        uint64_t wait = until() - now, most = waits[i] * 12 / 10;
        assert_in_range(wait, waits[i] * 8 / 10, most < 300000 ? most : 300000);
        assert_state(i < 3 ? "open" : "unhealthy");
        now += wait - 1;
        assert_int_equal(admit(), HEALTH_AVOID);
        now++;
        assert_int_equal(admit(), HEALTH_PROBE);
        assert_int_equal(admit(), HEALTH_AVOID);
        call(HEALTH_PROBE, HEALTH_FAILED);
    }
    now = until();
    assert_int_equal(admit(), HEALTH_PROBE);
    call(HEALTH_PROBE, HEALTH_GOOD);
    assert_state("closed");
    calls(5, HEALTH_FAILED);
    assert_in_range(until() - now, 4000, 6000);
}

/* A probe whose caller leaves says nothing: the next caller is the probe. */
static void test_a_probe_without_result_is_free_again(void **state)
{
    calls(5, HEALTH_FAILED);
    now = until();
    assert_int_equal(admit(), HEALTH_PROBE);
    call(HEALTH_PROBE, HEALTH_UNKNOWN);
    assert_int_equal(admit(), HEALTH_PROBE);
}

/* So is one that was never begun, but only after a while. */
static void test_a_probe_that_never_begins_lapses(void **state)
{
    calls(5, HEALTH_FAILED);
    now = until();
    assert_int_equal(admit(), HEALTH_PROBE);
    now += 4999;
    assert_int_equal(admit(), HEALTH_AVOID);
    now++;
    assert_int_equal(admit(), HEALTH_PROBE);
    health_begin(health, HEALTH_PROBE);
    now += 100000;
    assert_int_equal(admit(), HEALTH_AVOID);
    health_end(health, HEALTH_PROBE, HEALTH_GOOD, now, 0, 10);
    assert_int_equal(admit(), HEALTH_ASK);
}

/* A target that limits or refuses us has answered. */
static void test_a_probe_that_is_limited_closes(void **state)
{
    calls(5, HEALTH_FAILED);
    now = until();
    assert_int_equal(admit(), HEALTH_PROBE);
    call(HEALTH_PROBE, HEALTH_LIMITED);
    assert_state("out");
    now += 5000;
    assert_int_equal(admit(), HEALTH_ASK);
}

static void test_looking_takes_nothing(void **state)
{
    uint64_t until_ms;

    calls(5, HEALTH_FAILED);
    now = until();
    assert_int_equal(health_look(health, now, &until_ms), HEALTH_PROBE);
    assert_int_equal(health_look(health, now, &until_ms), HEALTH_PROBE);
    assert_int_equal(admit(), HEALTH_PROBE);
    assert_int_equal(health_look(health, now, &until_ms), HEALTH_AVOID);
    assert_true(until_ms > now);
}

#define THREADS 8
#define ROUNDS  2000

static atomic_uint probing, most_probing, probes;

/* Ask as often as possible; what is a probe mostly fails, now and then without result. */
static void *ask_without_end(void *arg)
{
    for (size_t i = 0; i < ROUNDS; i++) {
        uint64_t until_ms, at = START + 7000000 + i * 1000;
        if (health_admit(health, at, &until_ms) != HEALTH_PROBE)
            continue;
        health_begin(health, HEALTH_PROBE);
        unsigned before = atomic_fetch_add(&probing, 1);
        if (before >= atomic_load(&most_probing))
            atomic_store(&most_probing, before + 1);
        atomic_fetch_add(&probes, 1);
        atomic_fetch_sub(&probing, 1);
        health_end(health, HEALTH_PROBE, i % 3 ? HEALTH_FAILED : HEALTH_UNKNOWN, at, 0, 0);
    }
    return NULL;
}

static void test_one_probe_at_a_time_among_threads(void **state)
{
    pthread_t threads[THREADS];

    calls(5, HEALTH_FAILED);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_without_end, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&most_probing), 1);
    assert_true(atomic_load(&probes) > 3);
}

static void *ask_once(void *arg)
{
    uint64_t until_ms;

    if (health_admit(health, now, &until_ms) == HEALTH_PROBE)
        atomic_fetch_add(&probes, 1);
    return NULL;
}

static void test_all_at_once_one_is_the_probe(void **state)
{
    pthread_t threads[THREADS];

    calls(5, HEALTH_FAILED);
    now = until();
    atomic_store(&probes, 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_once, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&probes), 1);
}

/* ---- out ---- */

static void test_limits(void **state)
{
    health_begin(health, HEALTH_ASK);
    health_end(health, HEALTH_ASK, HEALTH_LIMITED, now, now + 20000, 0);
    assert_int_equal(admit(), HEALTH_REFUSING);
    assert_true(until() == now + 20000);
    call(HEALTH_ASK, HEALTH_LIMITED); /* another one, without a time: the later one counts */
    assert_true(until() == now + 20000);
    now += 20000;
    assert_int_equal(admit(), HEALTH_ASK);
    health_begin(health, HEALTH_ASK);
    health_end(health, HEALTH_ASK, HEALTH_LIMITED, now, UINT64_MAX, 0);
    assert_true(until() == now + 3600000);
}

static void test_refused_keys(void **state)
{
    call(HEALTH_ASK, HEALTH_OUT);
    assert_int_equal(admit(), HEALTH_REFUSING);
    assert_state("out");
    assert_true(until() == now + 300000);
    health_forgive();
    assert_int_equal(admit(), HEALTH_ASK);
    call(HEALTH_ASK, HEALTH_LIMITED);
    health_forgive();
    assert_int_equal(admit(), HEALTH_REFUSING);
}

static void test_refused_connections(void **state)
{
    calls(5, HEALTH_UNREACHABLE);
    assert_int_equal(admit(), HEALTH_REFUSING);
    now = until();
    assert_int_equal(admit(), HEALTH_PROBE);
    call(HEALTH_PROBE, HEALTH_FAILED); /* there is somebody now */
    assert_int_equal(admit(), HEALTH_AVOID);
}

/* ---- retries ---- */

static void test_three_retries_are_free(void **state)
{
    calls(1, HEALTH_FAILED);
    for (size_t i = 0; i < 3; i++)
        assert_true(health_take_retry(health, now));
    assert_false(health_take_retry(health, now));
    now += 11000;
    assert_true(health_take_retry(health, now));
}

/* Of a thousand calls of which every third fails, a fifth may be repeated. */
static void test_a_fifth_of_the_calls_may_be_repeated(void **state)
{
    size_t retries = 0;

    for (size_t i = 0; i < 1000; i++) {
        now += i % 2; /* 500 ms in all: within the window */
        calls(1, i % 3 ? HEALTH_GOOD : HEALTH_FAILED);
        if (i % 3 == 0 && health_take_retry(health, now)) {
            retries++;
            calls(1, HEALTH_GOOD);
        }
    }
    assert_in_range(retries, 195, 203);
}

/* Attempts of a thousand requests to a target that answers nothing, as failover makes them: each
 * tries once more if it may, and is turned away while the breaker is open. */
static void test_an_outage_is_not_made_worse(void **state)
{
    size_t attempts = 0;

    for (size_t i = 0; i < 1000; i++) {
        now += 100;
        enum health_verdict verdict = admit();
        if (verdict != HEALTH_ASK && verdict != HEALTH_PROBE)
            continue;
        call(verdict, HEALTH_FAILED);
        attempts++;
        if (health_take_retry(health, now)) {
            call(HEALTH_ASK, HEALTH_FAILED);
            attempts++;
        }
    }
    assert_in_range(attempts, 6, 20);
}

static void test_no_budget_no_retry(void **state)
{
    struct conf_retry none = {.attempts = 2, .budget_percent = 0};
    struct health *same;

    assert_null(health_get(STR("p/m"), &breaker, &none, &same));
    assert_ptr_equal(same, health);
    assert_false(health_take_retry(health, now));
    health_unref(same);
}

/* ---- latency ---- */

static void good(uint64_t first_ms)
{
    health_begin(health, HEALTH_ASK);
    health_end(health, HEALTH_ASK, HEALTH_GOOD, now, 0, first_ms);
}

static void test_latency(void **state)
{
    assert_int_equal(health_latency_ms(health, now), 0);
    good(100);
    assert_int_equal(health_latency_ms(health, now), 100);
    good(900);
    assert_int_equal(health_latency_ms(health, now), 200);
    for (size_t i = 0; i < 100; i++)
        good(50);
    assert_in_range(health_latency_ms(health, now), 50, 54);
    calls(1, HEALTH_FAILED);
    assert_in_range(health_latency_ms(health, now), 100, 108);
    now += 59999;
    assert_true(health_latency_ms(health, now) > 0);
    now++;
    assert_int_equal(health_latency_ms(health, now), 0); /* worth another look */
}

/* ---- records ---- */

static void test_records_outlive_their_users(void **state)
{
    struct health *other;

    calls(5, HEALTH_FAILED);
    health_unref(health);
    assert_null(health_get(STR("p/m"), &breaker, &retry, &health));
    assert_int_equal(admit(), HEALTH_AVOID);
    assert_null(health_get(STR("p/n"), &breaker, &retry, &other));
    assert_ptr_not_equal(other, health);
    health_unref(other);
}

/* Names may come from callers: they must not fill the memory, nor open what others share. */
static void test_names_without_end(void **state)
{
    static struct health *held[5000];
    char name[32];
    size_t before = 0;

    calls(5, HEALTH_FAILED);
    for (size_t i = 0; i < 20000; i++) {
        struct health *h;
        snprintf(name, sizeof name, "p/%zu", i);
        assert_null(health_get(str_from(name), &breaker, &retry, &h));
        health_unref(h);
    }
    before = mem_in_use(MEM_PROCESS);
    assert_true(before < 4096 * 2048);
    for (size_t i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "q/%zu", i);
        assert_null(health_get(str_from(name), &breaker, &retry, &held[i]));
    }
    assert_ptr_equal(held[4998], held[4999]);
    uint64_t until_ms;
    for (size_t i = 0; i < 10; i++) {
        health_begin(held[4999], HEALTH_ASK);
        health_end(held[4999], HEALTH_ASK, HEALTH_FAILED, now, 0, 0);
    }
    assert_int_equal(health_admit(held[4999], now, &until_ms), HEALTH_ASK);
    for (size_t i = 0; i < 5000; i++)
        health_unref(held[i]);
    assert_int_equal(admit(), HEALTH_AVOID); /* what is open was not forgotten */
}

static void test_no_memory(void **state)
{
#ifdef SLUICE_FAULTS
    struct health *other;

    mem_fail_nth(1);
    err_t err = health_get(STR("p/other"), &breaker, &retry, &other);
    mem_fail_nth(0);
    assert_true(err_is(err, ERR_BUSY));
#endif
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(five_failures_in_a_row_open),
        TEST(half_of_twenty_open),
        TEST(old_failures_do_not_count),
        TEST(what_never_opens),
        TEST(late_results_are_ignored),
        TEST(an_avoided_target_that_answers_closes),
        TEST(probes_are_spaced),
        TEST(a_probe_without_result_is_free_again),
        TEST(a_probe_that_never_begins_lapses),
        TEST(a_probe_that_is_limited_closes),
        TEST(looking_takes_nothing),
        TEST(one_probe_at_a_time_among_threads),
        TEST(all_at_once_one_is_the_probe),
        TEST(limits),
        TEST(refused_keys),
        TEST(refused_connections),
        TEST(three_retries_are_free),
        TEST(a_fifth_of_the_calls_may_be_repeated),
        TEST(an_outage_is_not_made_worse),
        TEST(no_budget_no_retry),
        TEST(latency),
        TEST(records_outlive_their_users),
        TEST(names_without_end),
        TEST(no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
