/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger: rows committed in groups, once each; sums that equal them; a store that fails; retention; questions. */
#include "govern_world.h"

#include "base/json_members.h"
#include "govern/ledger_commit.h"
#include "govern/ledger_fold.h"
#include "govern/ledger_query.h"
#include "govern/ledger_retire.h"

#define HOUR_MS UINT64_C(3600000)
#define DAY_MS  (24 * HOUR_MS)
#define NOON_MS (UINT64_C(1793491200000) + DAY_MS / 2) /* 2026-11-01T12:00:00Z */

static struct ledger_row row_of(const char *key, const char *user, uint64_t at_ms, uint64_t tokens)
{
    return (struct ledger_row){.at_ms = at_ms,
                               .request_id = STR("req"),
                               .org = STR("org"),
                               .project = STR("proj"),
                               .key = str_from(key),
                               .user = str_from(user),
                               .model = STR("m"),
                               .provider = STR("fake"),
                               .upstream_model = STR("up"),
                               .route = STR("POST /v1/messages"),
                               .outcome = STR("completed"),
                               .status = tokens % 7 == 0 ? 502 : 200,
                               .input = tokens,
                               .output = 2 * tokens,
                               .has_cost = tokens % 3 != 0,
                               .cost_nano = tokens * 5};
}

static void add(const char *key, const char *user, uint64_t at_ms, uint64_t tokens)
{
    struct ledger_row row = row_of(key, user, at_ms, tokens);

    ledger_add(&row, NULL);
}

static void wait_written(void)
{
    wait_until(ledger_waiting() == 0);
    assert_int_equal(ledger_bytes(), 0);
}

/* By the machine's clock, which the store goes by, too. */
static uint64_t real_ms(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- sums ---- */

#define SUMS_OF(table)                                                                             \
    "SELECT COUNT(*) FROM (SELECT SUM(calls) AS c, SUM(failed) AS f, SUM(unpriced) AS u, "         \
    "SUM(input) AS i, SUM(output) AS o, SUM(cost_nano) AS n FROM " table ") s JOIN "               \
    "(SELECT COUNT(*) AS c, SUM(status >= 400) AS f, SUM(cost_nano IS NULL) AS u, SUM(input) AS "  \
    "i, "                                                                                          \
    "SUM(output) AS o, SUM(cost_nano) AS n FROM ledger) l ON s.c = l.c AND s.f = l.f AND "         \
    "s.u = l.u AND s.i = l.i AND s.o = l.o AND s.n = l.n"

static void groups_and_sums(void)
{
    static const char *const keys[] = {"k1", "k2", "k3"};
    static const char *const users[] = {"", "alice", "bob"};

    for (uint64_t i = 1; i <= 3000; i++)
        add(keys[i % 3], users[i % 7 % 3], NOON_MS + i * 60000, i % 100);
    wait_written();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 3000);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE cost_nano IS NULL AND "
                                "input % 3 <> 0"),
                     0);
    assert_int_equal(ask_number(SUMS_OF("usage_hours")), 1);
    assert_int_equal(ask_number(SUMS_OF("usage_days")), 1);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM usage_days WHERE begins_ms % 86400000 <> 0"),
                     0);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM usage_hours WHERE begins_ms % 3600000 <> 0"),
                     0);
    /* each hour's sums, too */
    assert_int_equal(
        ask_number(
            "SELECT COUNT(*) FROM usage_hours u WHERE input <> (SELECT SUM(l.input) FROM "
            "ledger l WHERE l.at_ms - l.at_ms % 3600000 = u.begins_ms AND l.key_id = u.key_id "
            "AND l.user_id = u.user_id)"),
        0);
    assert_int_equal(ask_number("SELECT CAST(SUM(last) AS BIGINT) > 0 FROM ledger_writers"), 1);
}

static void test_groups_and_sums(void **state)
{
    begin_world("{}");
    in_world(groups_and_sums);
    end_world();
}

/* Rows of one kind name it; every other kind is one of its own, in whichever group it comes. */
static void kinds(void)
{
    struct ledger_row row = row_of("k1", "alice", NOON_MS, 1);

    for (int group = 0; group < 3; group++) {
        for (int i = 0; i < 40; i++)
            ledger_add(&row, NULL);
        row.user = STR("bob"); /* is the row's own */
        wait_written();
    }
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger_kinds"), 1);
    row.outcome = STR("cancelled");
    ledger_add(&row, NULL);
    row.status = 499;
    ledger_add(&row, NULL);
    row.route = STR("POST /v1/responses");
    ledger_add(&row, NULL);
    row.provider = row.upstream_model = STR("");
    ledger_add(&row, NULL);
    wait_written();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger_kinds"), 5);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE user_id = 'alice' AND "
                                "outcome = 'completed' AND status = 200"),
                     40);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE user_id = 'bob' AND "
                                "outcome = 'cancelled' AND key_id = 'k1'"),
                     4);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE status = 499"), 3);
    assert_int_equal(ask_number(SUMS_OF("usage_hours")), 1);
}

static void test_kinds(void **state)
{
    begin_world("{}");
    in_world(kinds);
    end_world();
}

/* More kinds than are kept in memory: the store still knows them. */
static void many_kinds(void)
{
    char key[16];

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 20000; i++) {
            snprintf(key, sizeof(key), "key-%d", i);
            add(key, "", NOON_MS, 1);
            if (i % 1000 == 999)
                assert_ok(fiber_sleep(1));
        }
        wait_written();
        assert_true(mem_in_use(MEM_GOVERN) < 16 * 1024 * 1024);
    }
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger_kinds"), 20000);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 40000);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM usage_hours WHERE calls <> 2"), 0);
}

static void test_many_kinds(void **state)
{
    begin_world("{}");
    in_world(many_kinds);
    end_world();
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
}

/* Sums that are not those of the ledger's rows, one by one, and rows whose sum is missing. */
#define KEYS "org_id, project_id, key_id, user_id, model, provider, upstream_model"
#define SUMS(table)                                                                                \
    "SELECT begins_ms, " KEYS ", calls, failed, unpriced, input, output, cost_nano FROM " table
#define ADDED(span)                                                                                \
    "SELECT at_ms - at_ms % " span ", " KEYS ", COUNT(*), SUM(status >= 400), "                    \
    "SUM(cost_nano IS NULL), SUM(input), SUM(output), coalesce(SUM(cost_nano), 0) FROM ledger "    \
    "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
#define DIFFERING(table, span)                                                                     \
    "SELECT (SELECT COUNT(*) FROM (" SUMS(table) " EXCEPT " ADDED(                                 \
        span) ")) + "                                                                              \
              "(SELECT COUNT(*) FROM (" ADDED(span) " EXCEPT " SUMS(table) "))"

static void assert_sums_are_right(void)
{
    assert_int_equal(ask_number(DIFFERING("usage_hours", "3600000")), 0);
    assert_int_equal(ask_number(DIFFERING("usage_days", "86400000")), 0);
    assert_int_equal(ask_number(SUMS_OF("usage_hours")), 1);
    assert_int_equal(ask_number(SUMS_OF("usage_days")), 1);
}

#define COUNT(table) ask_number("SELECT COUNT(*) FROM " table)

/* Users of all slots, at random, within two days; and rows without any, of very many kinds. */
static void add_users(uint64_t *seed, int count)
{
    char user[32], model[32];

    for (int i = 0; i < count; i++) {
        *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        snprintf(user, sizeof(user), "user-%d", (int)(*seed >> 33) % 3000);
        snprintf(model, sizeof(model), "model-%d", i);
        add(i % 2 ? "k1" : "k2", user, NOON_MS + (*seed >> 40) % DAY_MS, *seed >> 60);
        struct ledger_row row = row_of("k1", "", NOON_MS + (uint64_t)i, 1);
        row.model = str_from(model);
        ledger_add(&row, NULL);
    }
    wait_written();
}

static void sums_are_brought_together(void)
{
    uint64_t seed = 1;

    for (int round = 0; round < 25; round++) {
        add("k3", "", NOON_MS, 1); /* a group of few kinds */
        wait_written();
        add_users(&seed, 300);
        if (round % 10 != 5)
            continue;
        assert_sums_are_right();
        assert_true(COUNT("usage_recent") > 0);
        assert_true(COUNT("usage_left") > 0);
        assert_ok(ledger_fold(world.db));
        assert_int_equal(COUNT("usage_pending"), 0);
        assert_int_equal(COUNT("usage_left"), 0);
        assert_int_equal(COUNT("usage_open_sums"), 0); /* all of the past */
        assert_sums_are_right();
    }
    assert_true(COUNT("usage_recent") > 0); /* the last ones still wait */
    assert_int_equal(COUNT("usage_hour_sums WHERE slot < 0 OR slot > 31"), 0);
    assert_int_equal(ask_number("SELECT COUNT(DISTINCT slot) FROM usage_hour_sums"), 32);
    assert_sums_are_right();
}

static void test_sums_are_brought_together(void **state)
{
    begin_world("{}");
    in_world(sums_are_brought_together);
    end_world();
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
}

/* More sums than one write has, and few rows for each. */
static void add_many_users(void)
{
    char user[32];

    for (int i = 0; i < 10000; i++) {
        snprintf(user, sizeof(user), "user-%d", i);
        add("k1", user, NOON_MS, (uint64_t)i);
    }
    wait_written();
}

/* Wherever the store fails in it, a row is in the sums or waits. */
static void rows_wait_or_are_in_the_sums(void)
{
    int failed = 0, halfway = 0, moving = 0;

    add_many_users();
    for (int nth = 1; COUNT("usage_pending") + COUNT("usage_open_sums") > 0; nth += nth / 3 + 1) {
        fault_arm_io(FAULT_WRITE, nth, ENOSPC, false);
        failed += ledger_fold(world.db) != NULL;
        fault_arm_io(FAULT_ALL, 0, 0, false);
        assert_int_equal(ask_number(SUMS_OF("usage_hours")), 1);
        assert_int_equal(ask_number(SUMS_OF("usage_days")), 1);
        if (COUNT("usage_pending WHERE done > 0") > 0 && halfway++ == 0)
            add("k1", "user-1", NOON_MS, 1); /* beside groups with marks */
        moving += COUNT("usage_open_sums") > 0 && COUNT("usage_day_sums") > 0;
        wait_written();
    }
    assert_true(failed > 5);
    assert_true(halfway > 0);
    assert_true(moving > 0);
    assert_sums_are_right();
}

static void test_rows_wait_or_are_in_the_sums(void **state)
{
    begin_world("{}");
    in_world(rows_wait_or_are_in_the_sums);
    end_world();
}

static void sums_fail_without_memory(void)
{
    uint64_t seed = 3;
    int failed = 0;

    for (uint64_t nth = 1; nth < 100; nth += 1 + nth / 8) {
        mem_fail_nth(nth); /* as groups are added up, too */
        add_users(&seed, 3);
        mem_fail_nth(0);
    }
    assert_ok(ledger_fold(world.db));
    assert_int_equal(COUNT("usage_pending"), 0);
    add_users(&seed, 100);
    for (int nth = 1; COUNT("usage_pending") + COUNT("usage_open_sums") > 0; nth += nth / 4 + 1) {
        mem_fail_nth((uint64_t)nth);
        failed += ledger_fold(world.db) != NULL;
        mem_fail_nth(0);
        assert_sums_are_right();
    }
    assert_true(failed > 5);
}

static void test_sums_fail_without_memory(void **state)
{
    begin_world("{}");
    in_world(sums_fail_without_memory);
    end_world();
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
}

/* Sums of an hour are open until it has been over for another; what comes later all the same is added. */
static void hours_are_closed(void)
{
    uint64_t now_ms = real_ms(CLOCK_REALTIME), hour_ms = now_ms - now_ms % HOUR_MS;

    for (int round = 1; round <= 3; round++) {
        add("k1", "alice", hour_ms, 1); /* may be of the day before's last hour by now */
        add("k1", "alice", hour_ms - HOUR_MS - DAY_MS, 1);
        add("k1", "alice", hour_ms - 2 * HOUR_MS - DAY_MS, 1);
        add("k1", "bob", NOON_MS + (uint64_t)round * HOUR_MS, 1);
        wait_written();
        assert_ok(ledger_fold(world.db));
        assert_sums_are_right();
        assert_int_equal(ask_number("SELECT SUM(calls) FROM usage_open_sums"), round);
        assert_int_equal(ask_number("SELECT SUM(calls) FROM usage_hour_sums"), 3 * round);
        assert_int_equal(ask_number("SELECT SUM(calls) FROM usage_day_sums"), 3 * round);
        assert_int_equal(COUNT("usage_hour_sums WHERE user_id = 'alice'"), 2);
        assert_int_equal(COUNT("usage_day_sums WHERE user_id = 'bob'"), 1);
    }
}

static void test_hours_are_closed(void **state)
{
    begin_world("{}");
    in_world(hours_are_closed);
    end_world();
}

/* Rows of a process that handed them over, or has been gone for long, are somebody else's. */
static void rows_are_taken_over(void)
{
    static const char *const others[] = {"UPDATE usage_pending SET writer = 'gone'",
                                         "UPDATE usage_pending SET at_ms = at_ms - 7300000"};

    for (int i = 0; i < 50; i++)
        add("k1", i % 2 ? "alice" : "", NOON_MS, 1);
    wait_written();
    assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN(others[0]), NULL, NULL));
    err_t err = ledger_fold(world.db); /* they are not its own any more */
    assert_true(err && err->kind == ERR_BUSY);
    assert_ok(ledger_fold(world.db));
    assert_true(COUNT("usage_pending") > 0); /* the other may come back */
    assert_sums_are_right();
    assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN(others[1]), NULL, NULL));
    assert_ok(ledger_fold(world.db));
    assert_int_equal(COUNT("usage_pending"), 0);
    assert_sums_are_right();
    add("k1", "bob", NOON_MS, 1);
    wait_written();
    fold_service.close(world.db);
    assert_int_equal(COUNT("usage_pending WHERE at_ms = 0"), 1);
}

static void test_rows_are_taken_over(void **state)
{
    begin_world("{}");
    in_world(rows_are_taken_over);
    end_world();
}

static int folds_running, folds_refused;

static void fold_beside(void *arg)
{
    struct arena *arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);

    fiber_set_arena(arena);
    err_t err = ledger_fold(world.db);
    assert_true(!err || err->kind == ERR_BUSY);
    folds_refused += err != NULL;
    fiber_set_arena(NULL);
    arena_free(arena);
    folds_running--;
}

/* Whoever comes too late with the sums of rows that somebody else has brought writes none of them. */
static void two_bring_the_same_rows(void)
{
    uint64_t seed = 5;

    add_users(&seed, 1000);
    assert_ok(db_run(world.db, DB_WRITE,
                     DB_ASK_PLAIN("UPDATE usage_pending SET writer = 'gone', at_ms = 0"), NULL,
                     NULL));
    folds_running = 3;
    folds_refused = 0;
    for (int i = 0; i < 3; i++)
        assert_ok(fiber_start("fold", fold_beside, NULL, NULL));
    while (folds_running > 0)
        assert_ok(fiber_sleep(1));
    assert_true(folds_refused > 0);
    assert_int_equal(COUNT("usage_pending"), 0);
    assert_sums_are_right();
}

static void test_two_bring_the_same_rows(void **state)
{
    begin_world("{}");
    in_world(two_bring_the_same_rows);
    end_world();
}

/* ---- trouble ---- */

static void store_fails(void)
{
    uint64_t lost = ledger_lost();

    add("k1", "", NOON_MS, 1);
    wait_written();
    fault_arm_io(FAULT_ALL, 1, ENOSPC, true);
    for (int i = 0; i < 10; i++)
        add("k1", "", NOON_MS, 1);
    assert_ok(fiber_sleep(400));
    assert_int_equal(ledger_waiting(), 10);
    assert_true(ledger_bytes() > 0);
    fault_arm_io(FAULT_ALL, 0, 0, false);
    wait_written();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 11);
    assert_int_equal(ask_number(SUMS_OF("usage_hours")), 1);
    assert_int_equal(ledger_lost(), lost);
}

static void test_store_fails(void **state)
{
    begin_world("{}");
    in_world(store_fails);
    end_world();
}

static void nothing(void)
{
    assert_ok(fiber_sleep(1));
}

/* What comes after the fiber has ended is written when the service is closed. */
static void test_last_rows(void **state)
{
    begin_world("{}");
    in_world(nothing);
    for (int i = 0; i < 2000; i++)
        add("k1", "", NOON_MS, 1);
    ledger_service.close(world.db);
    assert_int_equal(ledger_waiting(), 0);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 2000);
    end_world();
}

static void bad_texts(void)
{
    struct ledger_row row = row_of("k1", "", NOON_MS, UINT64_MAX);
    static char long_model[5000];

    memset(long_model, 'x', sizeof(long_model));
    row.model = (struct str){"a\0b", 3};
    row.user = STR("caf\xc3\xa9 \xff\xfe \xe2\x82");
    row.upstream_model = (struct str){long_model, sizeof(long_model)};
    row.has_cost = true;
    row.cost_nano = UINT64_MAX;
    for (int i = 0; i < 100; i++)
        ledger_add(&row, NULL);
    add("k1", "", NOON_MS, 1);
    wait_written();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE model = 'a?b' AND user_id = "
                                "'caf\xc3\xa9 ?"
                                "? ?"
                                "?' AND length(upstream_model) = 200"),
                     100);
    assert_int_equal(
        ask_number("SELECT COUNT(*) FROM usage_days WHERE typeof(cost_nano) <> 'integer' "
                   "OR typeof(input) <> 'integer'"),
        0);
}

/* One row that no store would take does not hold up the others. */
static void test_bad_texts(void **state)
{
    begin_world("{}");
    in_world(bad_texts);
    end_world();
}

/* A commit that happened although its answer was lost is not done again. */
static void commit_in_doubt(void)
{
    static struct ledger_group group;
    struct ledger_row row = row_of("k1", "", NOON_MS, 5);
    struct ledger_entry entry = {.kind = ledger_kind_take(&row), .at_ms = NOON_MS, .input = 5};
    struct call_of_test c;

    begin_call(&c, "k1", "");
    assert_ok(reserve_call(&c, 15));
    budget_settle(&c.reservation, 15, 0);
    struct budget_booking booking = {c.reservation.claims[0].account, 15};
    entry.bookings = &booking;
    entry.booking_count = 1;
    for (int tries = 0; tries < 2; tries++) {
        group.entries[0] = &entry;
        group.count = 1;
        group.number = 1;
        group.writer = "writer";
        if (tries == 1) { /* memory has not heard of the first try */
            booking.account->unbooked += 15;
            booking.account->leased += 15;
        }
        assert_ok(ledger_commit(world.db, &group));
    }
    ledger_group_end(&group);
    end_call(&c);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 1);
    assert_int_equal(ask_number("SELECT spent FROM budget_periods"), 15);
    assert_int_equal(ask_number("SELECT CAST(SUM(calls) AS BIGINT) FROM usage_days"), 1);
    group.number = 2;
    group.booking_count = 0;
    entry.booking_count = 0;
    assert_ok(ledger_commit(world.db, &group));
    ledger_group_end(&group);
    ledger_kind_give(entry.kind);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 2);
}

static void test_commit_in_doubt(void **state)
{
    begin_world("budgets: {per_project: {tokens: 1000/total}}");
    in_world(commit_in_doubt);
    end_world();
}

/* ---- retention ---- */

static void retention(void)
{
    uint64_t now_ms = sys_wall_ms();

    for (int i = 0; i < 100; i++)
        add("k1", "", now_ms - 3 * HOUR_MS, 1);
    add("k1", "", now_ms, 1);
    wait_until(ask_number("SELECT COUNT(*) FROM ledger") == 1);
    assert_int_equal(ask_number("SELECT CAST(SUM(calls) AS BIGINT) FROM usage_hours"), 101);
}

static void test_retention(void **state)
{
    begin_world("ledger: {retention: 1h}");
    in_world(retention);
    end_world();
}

/* What is too old, but in no sum yet, stays until it is. */
static void retention_waits_for_sums(void)
{
    uint64_t now_ms = sys_wall_ms();
    bool is_done = false;

    for (int i = 0; i < 10; i++)
        add("k1", "alice", now_ms - 3 * HOUR_MS, 1);
    wait_written();
    while (!is_done)
        assert_ok(ledger_retire(world.db, &is_done));
    assert_int_equal(COUNT("ledger"), 10);
    assert_ok(ledger_fold(world.db));
    assert_ok(ledger_retire(world.db, &is_done));
    assert_int_equal(COUNT("ledger"), 0);
    assert_int_equal(ask_number("SELECT CAST(SUM(calls) AS BIGINT) FROM usage_hours"), 10);
}

static void test_retention_waits_for_sums(void **state)
{
    begin_world("ledger: {retention: 1h}");
    in_world(retention_waits_for_sums);
    end_world();
}

#define OLD_ROWS  40000
#define COUNT_OLD "SELECT COUNT(*) FROM ledger WHERE key_id = 'old'"

static void rows_beside_retention(void)
{
    uint64_t now_ms = sys_wall_ms();

    for (int i = 0; i < OLD_ROWS; i++)
        add("old", "", now_ms - 3 * HOUR_MS, 1);
    wait_written();
    add("k1", "", now_ms, 1);
    wait_written();
    assert_true(ask_number(COUNT_OLD) > 0);
    wait_until(ask_number(COUNT_OLD) == 0);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger"), 1);
}

/* However much there is to delete, what calls cost does not wait for it. */
static void test_rows_beside_retention(void **state)
{
    begin_world("ledger: {retention: 1h}");
    in_world(rows_beside_retention);
    end_world();
}

static void retire_all(void)
{
    bool is_done = false;

    while (!is_done)
        assert_ok(ledger_retire(world.db, &is_done));
}

/* A kind was noted so long ago. */
static void note_kind(const char *key, uint64_t ago_ms)
{
    assert_ok(db_run(world.db, DB_WRITE,
                     DB_ASK("UPDATE ledger_kinds SET seen_ms = $1 WHERE key_id = $2",
                            DB_OF_INT(real_ms(CLOCK_REALTIME) - ago_ms), DB_OF_TEXT(str_from(key))),
                     NULL, NULL));
}

/* Of the past hours nothing but days are left, of the past days nothing; and kinds go last. */
static void sums_and_kinds(void)
{
    uint64_t now_ms = sys_wall_ms();

    add("past-day", "", now_ms - 5 * DAY_MS, 1);
    add("past-hour", "", now_ms - 30 * HOUR_MS, 1); /* its day may have begun 54 hours ago */
    add("now", "", now_ms, 1);
    wait_written();
    assert_ok(ledger_fold(world.db));
    retire_all();
    assert_int_equal(COUNT("ledger_rows"), 1);
    assert_int_equal(COUNT("usage_hours WHERE key_id = 'now'"), 1);
    assert_int_equal(COUNT("usage_hours"), 1);
    assert_int_equal(COUNT("usage_days WHERE key_id = 'past-hour'"), 1);
    assert_int_equal(COUNT("usage_days"), 2);

    assert_int_equal(COUNT("ledger_kinds"), 3);
    note_kind("past-day", 5 * DAY_MS);
    note_kind("past-hour", 4 * DAY_MS); /* 3 of them are kept */
    retire_all();
    assert_int_equal(COUNT("ledger_kinds WHERE key_id = 'past-day'"), 0);
    assert_int_equal(COUNT("ledger_kinds"), 2);
}

#define PERIOD(name, ends_s, leased)                                                               \
    "INSERT INTO budget_periods (account, scope, owner, project_id, unit, period, begins_s, "      \
    "ends_s, cap, spent, leased, opened_ms) VALUES ('" name                                        \
    "', 'key', 'k', 'p', 'tokens', 'day', 0, " ends_s ", 9, 1, " leased ", 0)"

/* Of budgets what ended days ago, but not while somebody still has credit of it. */
static void periods_of_budgets(void)
{
    static const char *const periods[] = {
        PERIOD("old", "{{now_ms}} / 1000 - 4 * 86400", "0"),
        PERIOD("leased", "{{now_ms}} / 1000 - 4 * 86400", "5"),
        PERIOD("over", "{{now_ms}} / 1000 - 2 * 86400", "0"),
        PERIOD("total", "9223372036854775807", "0"),
    };

    for (size_t i = 0; i < sizeof(periods) / sizeof(*periods); i++)
        assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN(periods[i]), NULL, NULL));
    retire_all();
    assert_int_equal(COUNT("budget_periods"), 3);
    assert_int_equal(COUNT("budget_periods WHERE account = 'old'"), 0);
}

static void test_periods_of_budgets(void **state)
{
    begin_world("ledger: {retention: 1h}");
    in_world(periods_of_budgets);
    end_world();
}

static void test_sums_and_kinds(void **state)
{
    begin_world("ledger: {retention: 1h, hourly_sums: 1d, daily_sums: 3d}");
    in_world(sums_and_kinds);
    end_world();
}

/* A row is written when the clock is that much ahead. It goes on from there, and not back. */
static void add_later(uint64_t ahead_ms)
{
    add("k1", "", NOON_MS, 1);
    while (ledger_waiting() > 0) {
        sys_set_clock_ms(real_ms(CLOCK_MONOTONIC) + ahead_ms);
        assert_ok(fiber_yield());
    }
}

#define SEEN_AGO                                                                                   \
    (real_ms(CLOCK_REALTIME) -                                                                     \
     (uint64_t)ask_number("SELECT seen_ms FROM ledger_kinds WHERE key_id = 'k1'"))

/* What is in use is noted again, but not each time; and a kind that is gone is entered again. */
static void kinds_in_use(void)
{
    add("k1", "", NOON_MS, 1);
    wait_written();
    assert_true(SEEN_AGO < HOUR_MS);
    note_kind("k1", 11 * HOUR_MS);
    add_later(2 * HOUR_MS);
    assert_true(SEEN_AGO >= 11 * HOUR_MS);
    note_kind("k1", 13 * HOUR_MS);
    add_later(2 * HOUR_MS + HOUR_MS / 2); /* its number is known */
    assert_true(SEEN_AGO >= 13 * HOUR_MS);
    add_later(4 * HOUR_MS);
    assert_true(SEEN_AGO < HOUR_MS);
    assert_int_equal(COUNT("ledger_kinds"), 1);

    assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN("DELETE FROM ledger_kinds"), NULL, NULL));
    add_later(6 * HOUR_MS);
    assert_int_equal(COUNT("ledger_kinds"), 1);
    assert_int_equal(COUNT("ledger"), 1);
    assert_int_equal(COUNT("ledger_rows"), 5);
    sys_set_clock_ms(0);
    assert_ok(fiber_yield()); /* the present round still has that time */
}

static void test_kinds_in_use(void **state)
{
    begin_world("ledger: {retention: 3650d}");
    in_world(kinds_in_use);
    end_world();
}

/* ---- questions ---- */

static struct buf out;
static struct arena *query_arena;

static struct ledger_query query_of(unsigned by)
{
    out.len = 0;
    return (struct ledger_query){.realm_org = STR(""),
                                 .realm_project = STR(""),
                                 .project = STR(""),
                                 .key = STR(""),
                                 .user = STR(""),
                                 .model = STR(""),
                                 .cursor = STR(""),
                                 .by = by,
                                 .from_ms = NOON_MS - DAY_MS / 2,
                                 .to_ms = NOON_MS + 10 * DAY_MS,
                                 .limit = 100,
                                 .retention_ms = DAY_MS,
                                 .conf = world.conf,
                                 .arena = query_arena,
                                 .out = &out};
}

static size_t rows_of(struct str body)
{
    struct str data = json_get(body, STR("data")), row;
    size_t count = 0;

    assert_ok(json_check(body));
    for (size_t at = 0; json_array_next(data, &at, &row);)
        count++;
    return count;
}

static size_t usage_rows(const struct ledger_query *q)
{
    assert_ok(ledger_query_usage(world.db, q));
    return rows_of(buf_str(&out));
}

/* Through all pages: how many rows, and that no row comes twice. */
static size_t pages_of(struct ledger_query q)
{
    size_t count = 0;

    q.limit = 7;
    for (;;) {
        out.len = 0;
        count += usage_rows(&q);
        if (!json_text(json_get(buf_str(&out), STR("next_cursor")), query_arena, &q.cursor))
            return count;
        q.cursor = arena_copy(query_arena, q.cursor);
    }
}

static void questions(void)
{
    struct ledger_query q;

    for (uint64_t i = 0; i < 240; i++)
        add(i % 2 ? "k1" : "k2",
            i % 3 ? "alice"
                  : "b\xc3\xb6"
                    "b, \"x\"",
            NOON_MS + i * HOUR_MS, i + 1);
    wait_written();
    q = query_of(0);
    assert_int_equal(usage_rows(&q), 1);
    assert_non_null(strstr(arena_cstr(query_arena, buf_str(&out)), "\"calls\":240"));
    q = query_of(LEDGER_BY_KEY);
    assert_int_equal(usage_rows(&q), 2);
    q = query_of(LEDGER_BY_KEY | LEDGER_BY_USER | LEDGER_BY_DAY);
    assert_int_equal(usage_rows(&q), 44); /* 10 days from noon to noon */
    assert_int_equal(pages_of(q), 44);
    q = query_of(LEDGER_BY_HOUR);
    q.limit = 1000;
    q.to_ms = NOON_MS + 20 * DAY_MS;
    assert_int_equal(usage_rows(&q), 240);
    q = query_of(LEDGER_BY_HOUR);
    q.from_ms = NOON_MS + 5 * HOUR_MS + 1;
    q.to_ms = NOON_MS + 7 * HOUR_MS - 1;
    assert_int_equal(usage_rows(&q), 2); /* whole hours */
    q = query_of(0);
    q.hourly_ms = 2 * DAY_MS;
    q.from_ms = sys_wall_ms() - 5 * DAY_MS;
    q.from_ms -= q.from_ms % DAY_MS;
    q.to_ms = q.from_ms + DAY_MS;
    assert_ok(ledger_query_usage(world.db, &q));
    q.to_ms += HOUR_MS; /* no whole days, and their hours are gone */
    err_t err = ledger_query_usage(world.db, &q);
    assert_true(err_is(err, ERR_BAD_REQUEST));
    assert_string_equal(err->code, "hours_not_kept");
    q = query_of(LEDGER_BY_USER);
    q.realm_project = STR("other");
    assert_int_equal(usage_rows(&q), 0);
    q = query_of(LEDGER_BY_USER);
    q.realm_org = STR("org");
    q.key = STR("k1");
    q.user = STR("alice");
    assert_int_equal(usage_rows(&q), 1);
    assert_int_equal(pages_of(q), 1);
    q = query_of(LEDGER_BY_USER);
    q.as_csv = true;
    assert_ok(ledger_query_usage(world.db, &q));
    assert_true(str_starts(buf_str(&out), STR("user,calls,failed,unpriced,input,")));
    assert_non_null(strstr(arena_cstr(query_arena, buf_str(&out)), "\r\n\"b\xc3\xb6"
                                                                   "b, \"\"x\"\"\","));
    q = query_of(LEDGER_BY_DAY);
    q.cursor = STR("00");
    assert_non_null(ledger_query_usage(world.db, &q));
}

static void rows_in_pages(void)
{
    struct ledger_query q;
    size_t count = 0;

    for (uint64_t i = 0; i < 50; i++)
        add("k1", "=HYPERLINK()", NOON_MS + i, i);
    wait_written();
    q = query_of(0);
    q.limit = 20;
    for (;;) {
        out.len = 0;
        assert_ok(ledger_query_rows(world.db, &q));
        count += rows_of(buf_str(&out));
        if (!json_text(json_get(buf_str(&out), STR("next_cursor")), query_arena, &q.cursor))
            break;
        q.cursor = arena_copy(query_arena, q.cursor);
        add("k1", "new", NOON_MS, 1); /* moves no page */
        wait_written();
    }
    assert_int_equal(count, 50);
    q = query_of(0);
    q.as_csv = true;
    assert_ok(ledger_query_rows(world.db, &q));
    assert_non_null(strstr(arena_cstr(query_arena, buf_str(&out)), ",\"'=HYPERLINK()\","));
}

static void budgets_and_drift(void)
{
    struct ledger_query q;
    struct call_of_test c;
    uint64_t drifted;

    begin_call(&c, "k1", "alice");
    assert_ok(reserve_call(&c, 100));
    settle_call(&c, 60);
    end_call(&c);
    wait_written();
    q = query_of(0);
    q.is_checked = true;
    assert_ok(ledger_query_budgets(world.db, &q, &drifted));
    assert_int_equal(drifted, 0);
    assert_int_equal(rows_of(buf_str(&out)), 3);
    assert_non_null(
        strstr(arena_cstr(query_arena, buf_str(&out)),
               "\"cap\":0.5,\"spent\":0.00006,\"leased\":0.02494,\"drift\":0,\"left\":0.475,"
               "\"percent\":0"));
    assert_ok(
        db_run(world.db, DB_WRITE,
               DB_ASK_PLAIN("UPDATE budget_periods SET spent = spent + 1 WHERE unit = 'money'"),
               NULL, NULL));
    out.len = 0;
    assert_ok(ledger_query_budgets(world.db, &q, &drifted));
    assert_int_equal(drifted, 1);
    q = query_of(0);
    q.realm_project = STR("other");
    assert_ok(ledger_query_budgets(world.db, &q, &drifted));
    assert_int_equal(rows_of(buf_str(&out)), 0);
    q = query_of(0);
    q.user = STR("alice");
    assert_ok(ledger_query_budgets(world.db, &q, &drifted));
    assert_int_equal(rows_of(buf_str(&out)), 1);
}

static size_t budgets_shown(bool is_all, bool is_checked, uint64_t limit)
{
    struct ledger_query q = query_of(0);
    uint64_t drifted;

    q.is_all = is_all;
    q.is_checked = is_checked;
    q.limit = limit;
    assert_ok(ledger_query_budgets(world.db, &q, &drifted));
    return rows_of(buf_str(&out));
}

/* What was spent of them stays, for when they come back. */
static void budgets_that_were_taken_away(void)
{
    struct call_of_test c;

    begin_call(&c, "k1", "alice");
    assert_ok(reserve_call(&c, 100));
    settle_call(&c, 60);
    end_call(&c);
    wait_written();
    assert_int_equal(budgets_shown(false, false, 100), 3);
    read_conf("budgets:\n  per_project: {tokens: 2000/day, money: 0.5/month}\n");
    assert_int_equal(budgets_shown(false, false, 100), 1);
    assert_int_equal(budgets_shown(true, false, 100), 3);
    assert_int_equal(budgets_shown(false, false, 1), 0); /* the first one is another's page */
    assert_non_null(strstr(arena_cstr(query_arena, buf_str(&out)), "\"next_cursor\":\""));
    read_conf("budgets: {timezone: \"+02:00\", per_project: {tokens: 2000/day}}\n");
    assert_int_equal(budgets_shown(false, false, 100), 0); /* that of another midnight */
    assert_int_equal(budgets_shown(true, false, 100), 3);
    assert_ok(
        db_run(world.db, DB_WRITE,
               DB_ASK_PLAIN("UPDATE budget_periods SET spent = spent + 1 WHERE unit = 'money'"),
               NULL, NULL));
    assert_int_equal(budgets_shown(false, true, 100), 1); /* whose sum is wrong */
}

static void ask(void (*body)(void), const char *conf)
{
    query_arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);
    out = buf_make(MEM_TOOL, 64 * 1024 * 1024);
    begin_world(conf);
    in_world(body);
    end_world();
    buf_fini(&out);
    arena_free(query_arena);
}

static void test_questions(void **state)
{
    ask(questions, "{}");
}

static void test_rows_in_pages(void **state)
{
    ask(rows_in_pages, "{}");
}

static void test_budgets_and_drift(void **state)
{
    ask(budgets_and_drift, "budgets:\n  per_project: {tokens: 1000/day, money: 0.5/total}\n"
                           "  per_user: {tokens: 500/month}\n");
}

static void test_budgets_that_were_taken_away(void **state)
{
    ask(budgets_that_were_taken_away,
        "budgets:\n  per_project: {tokens: 1000/day, money: 0.5/total}\n"
        "  per_user: {tokens: 500/month}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_groups_and_sums),
        TEST(test_kinds),
        TEST(test_many_kinds),
        TEST(test_sums_are_brought_together),
        TEST(test_rows_wait_or_are_in_the_sums),
        TEST(test_sums_fail_without_memory),
        TEST(test_hours_are_closed),
        TEST(test_rows_are_taken_over),
        TEST(test_two_bring_the_same_rows),
        TEST(test_retention_waits_for_sums),
        TEST(test_store_fails),
        TEST(test_last_rows),
        TEST(test_bad_texts),
        TEST(test_commit_in_doubt),
        TEST(test_retention),
        TEST(test_rows_beside_retention),
        TEST(test_sums_and_kinds),
        TEST(test_periods_of_budgets),
        TEST(test_kinds_in_use),
        TEST(test_questions),
        TEST(test_rows_in_pages),
        TEST(test_budgets_and_drift),
        TEST(test_budgets_that_were_taken_away),
    };

    return cmocka_run_group_tests(tests, begin_process, end_process);
}
