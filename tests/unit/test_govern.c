/* SPDX-License-Identifier: Apache-2.0 */
/* The services' fibers: whichever allocation fails while they start, each of them works afterwards. */
#include "govern_world.h"

#include "govern/govern.h"

#define CONF                                                                                       \
    "budgets: {webhook: {url: \"http://127.0.0.1:9/\", secret: s}, per_key: {tokens: 100000/day}}"

/* The fibers' own allocations come first; then the store's, of which not each is tried. */
#define FIRST  24
#define STRIDE 23

static uint64_t nth; /* allocation that fails; 0: none was left to fail */

/* An alert that is due, for the webhook's fiber to try. */
static void leave_alert(void)
{
    assert_ok(db_run(
        world.db, DB_WRITE,
        DB_ASK("INSERT INTO budget_alerts (account, percent, at_ms, spent, cap, tries, next_ms) "
               "VALUES ('gone', $1, 0, 1, 2, 0, 0)",
               DB_OF_INT((int64_t)nth)),
        NULL, NULL));
}

/* The leases' fiber gives the credit, the ledger's writes the row. */
static void spend_some(void)
{
    int64_t rows = ask_number("SELECT COUNT(*) FROM ledger");
    struct call_of_test call;

    begin_call(&call, "k", "");
    assert_ok(reserve_call(&call, 10));
    settle_call(&call, 10);
    end_call(&call);
    wait_until(ask_number("SELECT COUNT(*) FROM ledger") == rows + 1);
}

static void body(void *arg)
{
    struct arena *arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);
    uint64_t armed = nth;

    fiber_set_arena(arena);
    leave_alert();
    mem_fail_nth(armed);
    if (!govern_start()) {
        for (int i = 0; i < 10; i++) /* until the fibers wait for work */
            assert_ok(fiber_sleep(1));
        if (mem_fail_count() < armed)
            nth = 0;
        mem_fail_nth(0);
        spend_some();
        wait_until(ask_number("SELECT COUNT(*) FROM budget_alerts WHERE tries = 0") == 0);
    }
    mem_fail_nth(0);
    govern_close();
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(world.loop);
}

static void run_world(void)
{
    open_store(CONF);
    assert_ok(govern_open(world.db, world.conf));
    assert_ok(loop_open(&world.loop));
    assert_ok(fiber_start_later("test", body, NULL, NULL));
    loop_run(world.loop);
    loop_close(world.loop);
    close_store();
    metrics_close(); /* each world registers its own again */
}

static void services_outlive_a_failed_start(void **state)
{
    int starts = 0;

    for (nth = 1; nth > 0 && nth < 10000; nth += nth < FIRST ? nth > 0 : STRIDE, starts++)
        run_world();
    print_message("%d starts\n", starts);
    assert_int_equal(nth, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(services_outlive_a_failed_start)};

    return cmocka_run_group_tests(tests, begin_process, end_process);
}
