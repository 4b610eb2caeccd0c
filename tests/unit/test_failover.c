/* SPDX-License-Identifier: Apache-2.0 */
/* Who is tried next: order, breakers, another try, special fallbacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/failover.h"

#define TARGETS 3

/* A plan over three targets of one provider with one key each. */
struct fixture {
    struct conf_provider conf;
    struct credential credential;
    struct provider provider;
    struct target targets[TARGETS];
    struct health *health[TARGETS];
    struct target *order[TARGETS];
    struct plan plan;
    uint64_t now_ms;
};

static const struct conf_breaker breaker = {.failures = 5,
                                            .ratio_percent = 50,
                                            .window_ms = 10000,
                                            .open_ms = 5000,
                                            .max_open_ms = 300000,
                                            .recheck_ms = 60000};
static const struct conf_retry retry = {.attempts = 2, .budget_percent = 20};

static int setup(void **state)
{
    static const struct str names[] = {{"p/a", 3}, {"p/b", 3}, {"p/c", 3}};
    static struct fixture f;

    f = (struct fixture){.conf = {.name = STR("p")}, .now_ms = 1000000};
    f.provider.conf = &f.conf;
    f.provider.credentials = &f.credential;
    f.provider.credential_count = 1;
    for (size_t i = 0; i < TARGETS; i++) {
        assert_null(health_get(names[i], &breaker, &retry, &f.health[i]));
        f.targets[i] = (struct target){.provider = &f.provider,
                                       .model = str_after(names[i], 2),
                                       .label = names[i],
                                       .health = &f.health[i],
                                       .retry = retry};
        f.order[i] = &f.targets[i];
    }
    f.plan = (struct plan){.targets = f.order, .target_count = TARGETS};
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < TARGETS; i++)
        health_unref(f->health[i]);
    health_forget();
    return 0;
}

/* Ask the candidate, with this result. */
static bool ends(struct fixture *f, struct failover *failover, const struct candidate *c,
                 enum attempt_result result)
{
    health_begin(c->health, c->verdict);
    health_end(c->health, c->verdict, attempt_sign(result), f->now_ms, 0, 0);
    return failover_goes_on(failover, result);
}

/* Let a target fail until its breaker opens. */
static void open_breaker(struct fixture *f, size_t i, enum health_sign sign)
{
    for (int n = 0; n < 5; n++) {
        health_begin(f->health[i], HEALTH_ASK);
        health_end(f->health[i], HEALTH_ASK, sign, f->now_ms, 0, 0);
    }
}

static void the_next_target_is_tried_at_once(void **state)
{
    struct fixture *f = *state;
    struct failover failover = failover_begin(&f->plan, f->now_ms + 60000);
    struct candidate c;

    for (size_t i = 0; i < TARGETS; i++) {
        assert_true(failover_next(&failover, f->now_ms, &c));
        assert_ptr_equal(c.target, f->order[i]);
        assert_int_equal(c.pause_ms, 0);
        assert_true(ends(f, &failover, &c, ATTEMPT_STATUS));
    }
}

static void when_all_have_failed_each_gets_one_more_try_after_a_pause(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;

    f->plan.target_count = 1;
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_true(ends(f, &failover, &c, ATTEMPT_STATUS));
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_ptr_equal(c.target, f->order[0]);
    assert_in_range(c.pause_ms, 100, 2000);
    assert_true(ends(f, &failover, &c, ATTEMPT_STATUS));
    assert_false(failover_next(&failover, f->now_ms, &c));
}

static void what_timed_out_is_not_asked_again(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;

    f->plan.target_count = 1;
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_true(ends(f, &failover, &c, ATTEMPT_TIMEOUT));
    assert_false(failover_next(&failover, f->now_ms, &c));
}

static void the_callers_own_mistake_ends_it(void **state)
{
    struct fixture *f = *state;
    struct failover failover = failover_begin(&f->plan, f->now_ms + 60000);
    struct candidate c;

    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_false(ends(f, &failover, &c, ATTEMPT_REFUSED));
}

static void an_open_target_is_skipped(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;

    open_breaker(f, 0, HEALTH_FAILED);
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_null(c.credential);
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_ptr_equal(c.target, f->order[1]);
    assert_non_null(c.credential);
}

static void of_open_targets_one_is_asked_all_the_same_but_only_once(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;
    int asked = 0;

    for (size_t i = 0; i < TARGETS; i++)
        open_breaker(f, i, HEALTH_FAILED);
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    while (failover_next(&failover, f->now_ms, &c)) {
        if (!c.credential)
            continue;
        asked++;
        assert_int_equal(c.verdict, HEALTH_AVOID);
        assert_true(ends(f, &failover, &c, ATTEMPT_STATUS));
    }
    assert_int_equal(asked, 1);
}

static void those_that_refuse_connections_are_not_asked(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;

    for (size_t i = 0; i < TARGETS; i++)
        open_breaker(f, i, HEALTH_UNREACHABLE);
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    while (failover_next(&failover, f->now_ms, &c))
        assert_null(c.credential);
    assert_in_range(failover.until_ms, f->now_ms + 1, f->now_ms + 10000);
}

static void a_pause_never_reaches_beyond_the_deadline(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;

    f->plan.target_count = 1;
    failover = failover_begin(&f->plan, f->now_ms + 50);
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_true(ends(f, &failover, &c, ATTEMPT_STATUS));
    assert_false(failover_next(&failover, f->now_ms, &c));
}

static void a_limit_is_waited_for_as_long_as_it_says(void **state)
{
    struct fixture *f = *state;
    struct failover failover;
    struct candidate c;

    f->plan.target_count = 1;
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    assert_true(failover_next(&failover, f->now_ms, &c));
    health_begin(c.health, c.verdict);
    health_end(c.health, c.verdict, HEALTH_LIMITED, f->now_ms, f->now_ms + 7000, 0);
    assert_true(failover_goes_on(&failover, ATTEMPT_LIMITED));
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_in_range(c.pause_ms, 6900, 7100);
}

static void a_prompt_that_is_too_long_goes_to_its_fallbacks_once(void **state)
{
    struct fixture *f = *state;
    struct target *longer[] = {&f->targets[2]};
    struct failover failover;
    struct candidate c;

    f->plan.target_count = 2;
    f->plan.context_fallbacks = longer;
    f->plan.context_fallback_count = 1;
    failover = failover_begin(&f->plan, f->now_ms + 60000);
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_true(ends(f, &failover, &c, ATTEMPT_CONTEXT));
    assert_true(failover_next(&failover, f->now_ms, &c));
    assert_ptr_equal(c.target, &f->targets[2]);
    assert_false(ends(f, &failover, &c, ATTEMPT_CONTEXT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(the_next_target_is_tried_at_once),
        T(when_all_have_failed_each_gets_one_more_try_after_a_pause),
        T(what_timed_out_is_not_asked_again),
        T(the_callers_own_mistake_ends_it),
        T(an_open_target_is_skipped),
        T(of_open_targets_one_is_asked_all_the_same_but_only_once),
        T(those_that_refuse_connections_are_not_asked),
        T(a_pause_never_reaches_beyond_the_deadline),
        T(a_limit_is_waited_for_as_long_as_it_says),
        T(a_prompt_that_is_too_long_goes_to_its_fallbacks_once),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
