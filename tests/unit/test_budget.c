/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets over a real store: reserved, settled, leased, given back, lost and found; and never overspent. */
#include "govern_world.h"

#include <pthread.h>

#define PER_PROJECT(tokens) "budgets: {per_project: {tokens: " tokens "/total}}"

static bool is_sound = true;

/* leased = credit + reserved + unbooked, of every account. */
static bool look_at(struct budget_account *a, void *arg)
{
    int64_t parts = a->credit + (int64_t)a->reserved + (int64_t)a->unbooked;

    if ((int64_t)a->leased != parts) {
        print_error("%s: leased %lld, credit %lld, reserved %llu, unbooked %llu\n", a->name,
                    (long long)a->leased, (long long)a->credit, (unsigned long long)a->reserved,
                    (unsigned long long)a->unbooked);
        is_sound = false;
    }
    return false;
}

static void assert_sound(void)
{
    budget_account_each(look_at, NULL);
    assert_true(is_sound);
    /* what leases say is what their sums say, and no budget is over its cap by our doing */
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_periods p WHERE leased <> (SELECT "
                                "coalesce(SUM(amount), 0) FROM budget_leases l WHERE l.account = "
                                "p.account) OR leased < 0"),
                     0);
}

static void wait_booked(void)
{
    wait_until(ledger_waiting() == 0);
    assert_sound();
    assert_int_equal(ask_number(DRIFT_OF_TOKENS), 0);
}

/* ---- one call after the other ---- */

static void reserve_and_settle(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_int_equal(c.reservation.count, 1);
    assert_false(budget_wants_money(&c.reservation));
    assert_ok(reserve_call(&c, 100));
    assert_sound();
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"),
                     100); /* more than 5 % of 1000 */
    settle_call(&c, 60);
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 60);
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 40);
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 500));
    end_call(&c); /* void: nothing was asked */
    assert_sound();
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 940));
    settle_call(&c, 940);
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 1000);
}

static void test_reserve_and_settle(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(reserve_and_settle);
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 0);
    end_world();
}

/* Settled twice, or void after that: once. */
static void exactly_once(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 100));
    settle_call(&c, 30);
    budget_settle(&c.reservation, 30, 0);
    budget_settle(&c.reservation, 0, 0);
    end_call(&c);
    budget_settle(&(struct reservation){0}, 5, 5); /* one that never was */
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 30);
}

static void test_exactly_once(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(exactly_once);
    end_world();
}

static void assert_refused(err_t err, const char *code)
{
    assert_non_null(err);
    assert_string_equal(err->code, code);
}

static void spent_out(void)
{
    struct call_of_test c, other;

    begin_call(&c, "key", "");
    assert_refused(reserve_call(&c, 1001), "budget_exceeded");
    assert_ok(reserve_call(&c, 1000));
    begin_call(&other, "key", "");
    assert_refused(reserve_call(&other, 1), "budget_exceeded");
    assert_int_equal(other.retry_ms, 0); /* it never begins anew */
    end_call(&other);
    settle_call(&c, 1000);
    end_call(&c);
    wait_booked();
    begin_call(&c, "key", "");
    assert_refused(reserve_call(&c, 1), "budget_exceeded");
    end_call(&c);
    assert_int_equal(
        metric_value(metric_series_get(METRIC_BUDGET_REFUSED, "project", "tokens", NULL)),
        2); /* the first came through in the end */
}

static void test_spent_out(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(spent_out);
    end_world();
}

static void overdraft(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 900));
    settle_call(&c, 1500); /* the answer was longer than it should have been */
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 1500);
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 0);
    begin_call(&c, "key", "");
    assert_refused(reserve_call(&c, 1), "budget_exceeded");
    end_call(&c);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_alerts"), 3); /* 50, 80 and 100 % */
}

/* Bad input 148. */
static void test_n148_overdraft(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(overdraft);
    end_world();
}

static void unbooked_debt(void)
{
    struct call_of_test c, other;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 100));
    budget_settle(&c.reservation, 1500, 0); /* its row is still on its way to the store */
    begin_call(&other, "key", "");
    assert_refused(reserve_call(&other, 1), "budget_exceeded");
    end_call(&other);
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 1000); /* all there is */
    settle_call(&c, 1500);
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 1500);
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 0);
}

/* What was overdrawn is lent to nobody, although the store does not know yet that it is spent. */
static void test_unbooked_debt(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(unbooked_debt);
    end_world();
}

static void absurd_usage(void)
{
    struct call_of_test c;

    for (int i = 0; i < 5; i++) {
        begin_call(&c, "key", "");
        (void)reserve_call(&c, UINT64_MAX / 1000);
        settle_call(&c, UINT64_MAX / 1000);
        end_call(&c);
    }
    wait_until(ledger_waiting() == 0);
    assert_sound();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 5000000000000000);
}

static void refused_then(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    wait_until(ask_number("SELECT leased FROM budget_periods") == 0);
    assert_refused(reserve_call(&c, 1), "budget_exceeded");
    end_call(&c);
}

/* What a provider says may be any number: nothing overflows. A budget that is lowered holds at once, whatever is leased of it. */
static void test_absurd_usage(void **state)
{
    begin_world("budgets: {dry_run: true, per_project: {tokens: 4000000000000000000/total}}");
    in_world(absurd_usage);
    read_conf(PER_PROJECT("1000"));
    in_world(refused_then);
    end_world();
}

static void dry_run(void)
{
    struct call_of_test c;

    for (int i = 0; i < 3; i++) {
        begin_call(&c, "key", "");
        assert_ok(reserve_call(&c, 600));
        if (i > 0)
            assert_string_equal(c.reservation.warning.ptr, "project tokens 100% of 1000/total");
        settle_call(&c, 600);
        end_call(&c);
    }
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 1800);
}

static void test_dry_run(void **state)
{
    begin_world("budgets: {dry_run: true, per_project: {tokens: 1000/total}}");
    in_world(dry_run);
    end_world();
}

/* ---- leases ---- */

static void lease_growth(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 10));
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 5000); /* 5 % */
    assert_int_equal(c.reservation.percent, 0);
    end_call(&c);
    for (int i = 0; i < 100; i++) { /* out of memory, without a row being written */
        begin_call(&c, "key", "");
        assert_ok(reserve_call(&c, 40));
        settle_call(&c, 40);
        end_call(&c);
    }
    assert_int_equal(ask_number("SELECT leased + spent FROM budget_periods"), 5000);
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 50000)); /* at once, though it is more than 5 % */
    assert_non_null(strstr(c.reservation.warning.ptr, "% of 100000/total"));
    assert_in_range(c.reservation.percent, 50, 60);
    end_call(&c);
    wait_booked();
}

static void test_lease_growth(void **state)
{
    begin_world(PER_PROJECT("100000"));
    in_world(lease_growth);
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 4000);
    ledger_service.close(world.db);
    budget_service.close(world.db); /* gives the rest back */
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 0);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_leases"), 0);
    end_world();
}

static void reserve_more(void)
{
    struct call_of_test c, other;

    begin_call(&c, "key", "alice");
    begin_call(&other, "key", "alice");
    assert_ok(reserve_call(&c, 600));
    assert_ok(reserve_call(&c, 300));
    assert_refused(reserve_call(&c, 101), "budget_exceeded");
    assert_true(c.reservation.is_open);
    assert_int_equal(c.reservation.claims[0].reserved, 900);
    assert_sound();
    assert_ok(reserve_call(&other, 100)); /* nothing of what was refused is held */
    settle_call(&c, 850);
    settle_call(&other, 100);
    end_call(&c);
    end_call(&other);
    wait_booked();
    assert_sound();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 950);
}

/* Once more while it is open: both are settled as one, and a refusal leaves the first. */
static void test_reserve_more(void **state)
{
    begin_world("budgets: {per_project: {tokens: 1000/total}}");
    in_world(reserve_more);
    end_world();
}

static void give_back(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 10));
    settle_call(&c, 10);
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 40);
    wait_until(ask_number("SELECT leased FROM budget_periods") == 0);
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 10);
    assert_sound();
}

/* What is not used for lease_ttl is there for other processes again. */
static void test_give_back(void **state)
{
    begin_world("budgets: {lease_ttl: 1s, per_project: {tokens: 1000/total}}");
    in_world(give_back);
    end_world();
}

static void several_budgets(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "alice");
    assert_int_equal(c.reservation.count, 4);
    assert_true(budget_wants_money(&c.reservation));
    assert_refused(reserve_call(&c, 60), "budget_exceeded"); /* the user's */
    assert_sound();
    for (size_t i = 0; i < c.reservation.count; i++)
        assert_int_equal(c.reservation.claims[i].reserved, 0);
    assert_ok(reserve_call(&c, 40));
    settle_call(&c, 40);
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_periods WHERE spent = 40"), 3);
    assert_int_equal(ask_number("SELECT spent FROM budget_periods WHERE unit = 'money'"), 40000);
}

/* All or none: a budget that does not suffice leaves the others as they were. */
static void test_several_budgets(void **state)
{
    begin_world("budgets:\n"
                "  per_key: {tokens: 1000/day}\n"
                "  per_project: {tokens: 100000/month, money: 0.5/month}\n"
                "  per_user: {tokens: 50/day}\n");
    in_world(several_budgets);
    end_world();
}

/* ---- trouble ---- */

static void store_away(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 10)); /* 50 are leased */
    fault_arm_io(FAULT_ALL, 1, ENOSPC, true);
    settle_call(&c, 10);
    end_call(&c);
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 30)); /* what is leased can be used */
    settle_call(&c, 30);
    end_call(&c);
    begin_call(&c, "key", "");
    assert_refused(reserve_call(&c, 30), "budget_unavailable");
    end_call(&c);
    assert_int_equal(ledger_waiting(), 2);
    fault_arm_io(FAULT_ALL, 0, 0, false);
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 30));
    settle_call(&c, 30);
    end_call(&c);
    wait_booked();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 70);
}

static void test_store_away(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(store_away);
    end_world();
}

static void leave_open(void)
{
    static struct call_of_test lost; /* goes down with its process */
    struct call_of_test c;

    begin_call(&c, "key", "alice");
    assert_ok(reserve_call(&c, 10));
    settle_call(&c, 10);
    end_call(&c);
    wait_booked();
    begin_call(&lost, "key", "alice");
    assert_ok(reserve_call(&lost, 300));
    lost.reservation.count = 0;
    lost.reservation.is_open = false;
    end_call(&lost);
}

/* Bad input 146: what was reserved is a row "killed" after the next start, and reserved no more. */
static void test_n146_killed(void **state)
{
    begin_world("budgets: {per_project: {tokens: 1000/total}, per_user: {money: 1/total}}");
    in_world(leave_open);
    kill_world();
    begin_world("budgets: {per_project: {tokens: 1000/total}, per_user: {money: 1/total}}");
    assert_int_equal(ask_number("SELECT SUM(leased) FROM budget_periods"), 0);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_leases"), 0);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE outcome = 'killed'"), 2);
    assert_int_equal(ask_number("SELECT input FROM ledger WHERE outcome = 'killed' AND booked = "
                                "'project/tokens/total/0' AND project_id = 'proj' AND key_id = ''"),
                     340); /* with what was leased on top */
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE outcome = 'killed' AND booked = "
                                "'user/money/total/0' AND user_id = 'alice' AND cost_nano > 0"),
                     1);
    assert_int_equal(ask_number("SELECT spent FROM budget_periods WHERE unit = 'tokens'"), 350);
    assert_int_equal(ask_number(DRIFT_OF_TOKENS), 0);
    end_world();
    /* restarting once more changes nothing: known failure 17 */
    begin_world(PER_PROJECT("1000"));
    assert_int_equal(ask_number("SELECT spent FROM budget_periods WHERE unit = 'tokens'"), 350);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 3);
    end_world();
}

static void outlive_lease(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 100));
    /* another process took this one for dead, and booked its lease */
    assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN("DELETE FROM budget_leases"), NULL, NULL));
    assert_ok(db_run(world.db, DB_WRITE,
                     DB_ASK_PLAIN("UPDATE budget_periods SET spent = spent + leased, leased = 0"),
                     NULL, NULL));
    settle_call(&c, 80);
    end_call(&c);
    wait_until(ledger_waiting() == 0);
    assert_sound();
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 180); /* rather too much */
    assert_int_equal(ask_number("SELECT leased FROM budget_periods"), 0);
}

static void test_outlived_lease(void **state)
{
    begin_world(PER_PROJECT("1000"));
    in_world(outlive_lease);
    end_world();
}

/* ---- many at once ---- */

#define THREADS 8
#define FIBERS  8
#define CALLS   40
#define TIGHT   20000 /* tokens; the calls want three times as much */

static atomic_int running;
static atomic_uint passed, refused, wrong;
static atomic_uint_fast64_t used;

struct hammer {
    struct loop *loop;
    int left;
};

static void hammer_once(unsigned *seed)
{
    uint64_t wants = 1 + (*seed = *seed * 1103515245 + 12345) / 65536 % 40;
    struct call_of_test c;
    err_t err;

    begin_call(&c, wants % 2 ? "odd" : "even", "");
    err = reserve_call(&c, wants);
    if (err) {
        atomic_fetch_add(strcmp(err->code, "budget_exceeded") == 0 ? &refused : &wrong, 1);
    } else if (fiber_yield() == NULL) {
        if (wants % 5 == 0) { /* void */
            end_call(&c);
            return;
        }
        settle_call(&c, wants);
        atomic_fetch_add(&used, wants);
        atomic_fetch_add(&passed, 1);
    }
    end_call(&c);
}

static void hammer_fiber(void *arg)
{
    struct hammer *h = arg;
    struct arena *arena = arena_new(MEM_TOOL, 16 * 1024 * 1024);
    unsigned seed = (unsigned)(uintptr_t)arena;

    fiber_set_arena(arena);
    for (int i = 0; i < CALLS; i++)
        hammer_once(&seed);
    fiber_set_arena(NULL);
    arena_free(arena);
    if (--h->left == 0)
        loop_stop(h->loop);
}

static void *hammer_thread(void *arg)
{
    struct hammer h = {.left = FIBERS};

    assert_ok(loop_open(&h.loop));
    for (int i = 0; i < FIBERS; i++)
        assert_ok(fiber_start_later("hammer", hammer_fiber, &h, NULL));
    loop_run(h.loop);
    loop_close(h.loop);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void hammer(void)
{
    pthread_t threads[THREADS];

    atomic_store(&running, THREADS);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer_thread, NULL), 0);
    while (atomic_load(&running) > 0) {
        assert_ok(fiber_sleep(5));
        budget_account_each(look_at, NULL);
        assert_true(is_sound);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    wait_booked();
    assert_int_equal(atomic_load(&wrong), 0);
    assert_true(atomic_load(&refused) > 0);
    assert_true(atomic_load(&used) <= TIGHT);
    assert_true(atomic_load(&used) > TIGHT * 9 / 10);
    assert_int_equal(ask_number("SELECT spent FROM budget_periods WHERE scope = 'project'"),
                     (int64_t)atomic_load(&used));
    assert_int_equal(ask_number("SELECT CAST(SUM(spent) AS BIGINT) FROM budget_periods WHERE "
                                "scope = 'key'"),
                     (int64_t)atomic_load(&used));
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), atomic_load(&passed));
}

static void test_many_at_once(void **state)
{
    begin_world("budgets: {per_project: {tokens: 20000/total}, per_key: {tokens: 15000/total}}");
    in_world(hammer);
    end_world();
}

/* ---- routing ---- */

static void left_percent(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_int_equal(budget_left_percent(world.conf, &c.subject), 100);
    assert_ok(reserve_call(&c, 750));
    settle_call(&c, 750);
    assert_int_equal(budget_left_percent(world.conf, &c.subject), 25);
    end_call(&c);
    wait_booked();
}

static void test_left_percent(void **state)
{
    begin_world("budgets: {per_project: {money: 0.001/total}}");
    in_world(left_percent);
    end_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reserve_and_settle), TEST(test_exactly_once), TEST(test_spent_out),
        TEST(test_n148_overdraft),     TEST(test_absurd_usage), TEST(test_dry_run),
        TEST(test_lease_growth),       TEST(test_reserve_more), TEST(test_give_back),
        TEST(test_several_budgets),    TEST(test_store_away),   TEST(test_n146_killed),
        TEST(test_outlived_lease),     TEST(test_many_at_once), TEST(test_left_percent),
        TEST(test_unbooked_debt),
    };

    return cmocka_run_group_tests(tests, begin_process, end_process);
}
