/* SPDX-License-Identifier: Apache-2.0 */
/* Credit that a process holds and the store does not know of: a standby that was behind has taken over. It is not spent
 * further, what it was spent for is booked, and what calls have reserved of it is not given to others. */
#include "govern_world.h"

#include "govern/budget_doubt.h"
#include "govern/ledger.h"

/* Half of what there is is leased at once, so that most of it lies idle. */
#define CONF "budgets: {lease: 50%, per_project: {tokens: 1000/total}}"
#define MANY "budgets: {lease: 50%, per_key: {tokens: 1000/total}}"

static void store(const char *sql)
{
    assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN(sql), NULL, NULL));
}

/* The store has become one in which of our lease there is so much, and `others` have leased that. */
static void forget_all_but(int64_t amount, int64_t others)
{
    store("DELETE FROM budget_leases");
    assert_ok(db_run(world.db, DB_WRITE,
                     DB_ASK("INSERT INTO budget_leases (account, holder, amount, expires_ms) "
                            "SELECT account, 'other', $1, 9000000000000 FROM budget_periods",
                            DB_OF_INT(others)),
                     NULL, NULL));
    if (amount > 0)
        assert_ok(
            db_run(world.db, DB_WRITE,
                   DB_ASK("INSERT INTO budget_leases (account, holder, amount, expires_ms) SELECT "
                          "account, $1, $2, 9000000000000 FROM budget_periods",
                          DB_OF_TEXT(str_from(budget_lease_holder())), DB_OF_INT(amount)),
                   NULL, NULL));
    store("UPDATE budget_periods SET leased = (SELECT SUM(amount) FROM budget_leases)");
}

static bool is_sound;

/* leased = credit + reserved + unbooked, of every account. */
static bool look_at(struct budget_account *a, void *arg)
{
    is_sound &= (int64_t)a->leased == a->credit + (int64_t)a->reserved + (int64_t)a->unbooked;
    is_sound &= (int64_t)a->leased >= 0;
    return false;
}

static void assert_sound(void)
{
    is_sound = true;
    budget_account_each(look_at, NULL);
    assert_true(is_sound);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_periods p WHERE leased < 0 OR "
                                "spent + leased > cap OR leased <> (SELECT coalesce(SUM(amount), "
                                "0) FROM budget_leases l WHERE l.account = p.account)"),
                     0);
    assert_int_equal(ask_number(DRIFT_OF_TOKENS), 0);
}

static void wait_booked(void)
{
    wait_until(ledger_waiting() == 0);
    assert_sound();
}

/* A call that ends at once. */
static err_t spend(uint64_t reserved, uint64_t used)
{
    struct call_of_test c;
    err_t err;

    begin_call(&c, "key", "");
    err = reserve_call(&c, reserved);
    if (!err)
        settle_call(&c, used);
    end_call(&c);
    wait_booked();
    return err;
}

static void assert_refused(err_t err)
{
    assert_non_null(err);
    assert_string_equal(err->code, "budget_exceeded");
}

static bool add_credit(struct budget_account *a, void *credit)
{
    *(int64_t *)credit += a->credit;
    return false;
}

static int64_t credit(void)
{
    int64_t sum = 0;

    budget_account_each(add_credit, &sum);
    return sum;
}

#define SPENT ask_number("SELECT spent FROM budget_periods")

/* ---- noticed where it is booked ---- */

static void booked_without_a_lease(void)
{
    assert_ok(spend(100, 100));
    assert_int_equal(credit(), 400);
    forget_all_but(0, 800);
    assert_ok(spend(50, 50)); /* nobody can know yet */
    assert_int_equal(SPENT, 150);
    assert_int_equal(credit(), 0);
    assert_refused(spend(51, 51));
    assert_ok(spend(50, 50));
    assert_int_equal(SPENT, 200);
}

static void booked_with_a_part_of_it(void)
{
    assert_ok(spend(100, 100));
    forget_all_but(30, 800);
    assert_ok(spend(40, 40));
    assert_int_equal(SPENT, 140);
    assert_int_equal(credit(), 0);
    assert_refused(spend(61, 61));
    assert_ok(spend(60, 60));
}

/* Accounts are booked sixteen at a time: what some lack is no matter of the others. */
static void booked_among_many(void)
{
    struct call_of_test calls[40];
    char keys[40][16];

    for (int i = 0; i < 40; i++) {
        snprintf(keys[i], sizeof(keys[i]), "key-%d", i);
        begin_call(&calls[i], keys[i], "");
        assert_ok(reserve_call(&calls[i], 10));
    }
    store("UPDATE budget_leases SET amount = 4 WHERE account LIKE '%5'");
    store("DELETE FROM budget_leases WHERE account LIKE '%7'");
    store("UPDATE budget_periods SET leased = (SELECT coalesce(SUM(amount), 0) FROM budget_leases "
          "l WHERE l.account = budget_periods.account)");
    for (int i = 0; i < 40; i++) {
        settle_call(&calls[i], 10);
        end_call(&calls[i]);
    }
    wait_booked();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_periods WHERE spent = 10"), 40);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM budget_leases WHERE amount = 490"), 32);
    assert_int_equal(credit(), 32 * 490);
}

/* What calls in progress have reserved nobody else is given, nor their own process once more. */
static void booked_beside_calls_in_progress(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 100));
    forget_all_but(0, 700);
    assert_ok(spend(10, 10));
    assert_int_equal(credit(), -100);
    assert_refused(spend(200, 200));
    assert_ok(spend(190, 150));
    settle_call(&c, 100);
    end_call(&c);
    wait_booked();
    assert_int_equal(SPENT, 260);
    assert_ok(spend(40, 40));
    assert_refused(spend(1, 1));
    assert_int_equal(SPENT, 300);
}

/* ---- noticed where it goes back ---- */

static void given_back_without_a_lease(void)
{
    struct call_of_test c;

    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 100));
    forget_all_but(0, 700);
    read_conf("budgets: {lease: 50%, per_project: {tokens: 900/total}}");
    assert_refused(spend(101, 101)); /* 900 - 700 - 100 */
    assert_ok(spend(100, 100));
    settle_call(&c, 100);
    end_call(&c);
    wait_booked();
    assert_int_equal(SPENT, 200);
}

/* ---- noticed by what else was lost ---- */

/* The store knows less rows of the ledger than were committed: all leases are held against it. */
static void told_by_the_ledger(void)
{
    struct call_of_test c;

    assert_ok(spend(100, 100)); /* leaves 400 */
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 150));
    forget_all_but(300, 500);
    store("UPDATE ledger_writers SET last = last - 1");
    assert_ok(spend(20, 20)); /* which is in the lease */
    wait_until(credit() == 280 - 150);
    assert_ok(spend(230, 230)); /* with the last 100 */
    assert_refused(spend(1, 1));
    settle_call(&c, 150);
    end_call(&c);
    wait_booked();
    assert_int_equal(SPENT, 500);
}

/* The lease server finds that its latest round is not known. */
static void told_by_fetching(void)
{
    struct call_of_test c;

    assert_ok(spend(100, 100)); /* leaves 400 */
    begin_call(&c, "key", "");
    assert_ok(reserve_call(&c, 150));
    forget_all_but(0, 400);
    assert_ok(db_run(world.db, DB_WRITE,
                     DB_ASK("DELETE FROM ledger_writers WHERE writer = $1",
                            DB_OF_TEXT(str_from(budget_lease_holder()))),
                     NULL, NULL));
    assert_ok(spend(300, 300));
    wait_until(credit() == -150);
    assert_refused(spend(51, 51));
    assert_ok(spend(50, 50));
    settle_call(&c, 150);
    end_call(&c);
    wait_booked();
    assert_int_equal(SPENT, 600);
}

/* Without any lease, and without memory, it is found all the same, in the end. */
static void resolved_in_the_end(void)
{
    struct arena *scratch = arena_new(MEM_TOOL, 1024 * 1024);
    uint64_t nth = 0;
    err_t err;

    assert_ok(spend(100, 100));
    do {
        forget_all_but(credit() - 10, 500);
        mem_fail_nth(++nth);
        err = budget_doubt_resolve(world.db, budget_lease_holder(), scratch);
        mem_fail_nth(0);
        arena_reset(scratch);
        if (err)
            assert_ok(budget_doubt_resolve(world.db, budget_lease_holder(), scratch));
        assert_int_equal(credit(),
                         ask_number("SELECT amount FROM budget_leases WHERE holder <> 'other'"));
        assert_sound();
    } while (err);
    assert_true(nth > 1);
    forget_all_but(0, 500);
    assert_ok(budget_doubt_resolve(world.db, budget_lease_holder(), scratch));
    assert_int_equal(credit(), 0);
    arena_free(scratch);
}

/* More than are compared at a time. */
static void many_are_compared(void)
{
    struct arena *scratch = arena_new(MEM_TOOL, 16 * 1024 * 1024);
    struct call_of_test c;
    char key[16];

    for (int i = 0; i < 1500; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        begin_call(&c, key, "");
        assert_ok(reserve_call(&c, 10));
        end_call(&c);
    }
    assert_int_equal(credit(), 1500 * 500);
    store("UPDATE budget_leases SET amount = amount - 100 WHERE account LIKE '%5'");
    store("DELETE FROM budget_leases WHERE account LIKE '%7'");
    store("UPDATE budget_periods SET leased = (SELECT coalesce(SUM(amount), 0) FROM budget_leases "
          "l WHERE l.account = budget_periods.account)");
    assert_ok(budget_doubt_resolve(world.db, budget_lease_holder(), scratch));
    assert_int_equal(credit(), 1500 * 500 - 150 * 100 - 150 * 500);
    assert_sound();
    arena_free(scratch);
}

/* ---- the runner ---- */

static void run_world(const char *conf, void (*body)(void))
{
    begin_world(conf);
    in_world(body);
    store("DELETE FROM budget_leases WHERE holder = 'other'");
    end_world();
}

#define WORLD_TEST(body, conf)                                                                     \
    static void test_##body(void **state)                                                          \
    {                                                                                              \
        run_world(conf, body);                                                                     \
    }

WORLD_TEST(booked_without_a_lease, CONF)
WORLD_TEST(booked_with_a_part_of_it, CONF)
WORLD_TEST(booked_among_many, MANY)
WORLD_TEST(booked_beside_calls_in_progress, CONF)
WORLD_TEST(given_back_without_a_lease, CONF)
WORLD_TEST(told_by_the_ledger, CONF)
WORLD_TEST(told_by_fetching, CONF)
WORLD_TEST(resolved_in_the_end, CONF)
WORLD_TEST(many_are_compared, MANY)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_booked_without_a_lease),     TEST(test_booked_with_a_part_of_it),
        TEST(test_booked_among_many),          TEST(test_booked_beside_calls_in_progress),
        TEST(test_given_back_without_a_lease), TEST(test_told_by_the_ledger),
        TEST(test_told_by_fetching),           TEST(test_resolved_in_the_end),
        TEST(test_many_are_compared),
    };

    return cmocka_run_group_tests(tests, begin_process, end_process);
}
