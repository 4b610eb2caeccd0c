/* SPDX-License-Identifier: Apache-2.0 */
/* Marks and kept answers of Idempotency-Keys: whose clock they go by, and what becomes of an answer when the store or
 * memory fails. Run with each database; what callers see of it is the end-to-end tests'.
 *
 * SQLite gets a file, PostgreSQL a server of its own; or TEST_POSTGRES_URL names a database to be filled. */
#include "arena_scope.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "gateway/idempotency.h"
#include "gateway/idempotency_outcome.h"
#include "gateway/replica.h"
#include "gateway/request.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "postgres.h"

#define HOUR_MS INT64_C(3600000)
#define TTL_MS  (24 * HOUR_MS)

static struct str url;
static struct db *db;

/* ---- the store ---- */

static void run(struct db_ask ask)
{
    assert_ok(db_run(db, DB_WRITE, ask, NULL, NULL));
}

static int64_t count(const char *sql)
{
    struct db_rows rows;

    assert_ok(db_run(db, DB_READ, DB_ASK_PLAIN(sql), arena, &rows));
    return db_int(&rows, 0, 0);
}

/* A statement that PostgreSQL knows already needs none of ours. */
static bool needs_memory(void)
{
    return strcmp(db_backend(db), "sqlite") == 0;
}

/* All that is in the store becomes older. */
static void time_passes(int64_t ms)
{
    run(DB_ASK("UPDATE idempotency SET expires_ms = expires_ms - $1", DB_OF_INT(ms)));
}

/* As of now this process's clock shows 2023, until it is right again. */
static void be_years_behind(void)
{
    sys_set_clock_ms(sys_now_ms());
    assert_true(sys_wall_ms() < SYS_FROZEN_WALL_MS + 1000 * (uint64_t)TTL_MS);
}

static void be_right(void)
{
    sys_set_clock_ms(0);
}

/* The table is out of reach, as in a store that fails; and back. */
static void break_store(void)
{
    run(DB_ASK_PLAIN("ALTER TABLE idempotency RENAME TO idempotency_away"));
}

static void mend_store(void)
{
    run(DB_ASK_PLAIN("ALTER TABLE idempotency_away RENAME TO idempotency"));
}

/* ---- requests ---- */

static struct http_header header = {{"Idempotency-Key", 15}, {"k", 1}};
static struct conf conf = {.idempotency = {.ttl_ms = TTL_MS, .max_bytes = 1024}};

#define ANSWER STR("{\"a\":1}")

struct one {
    struct exchange exchange;
    struct request request;
};

/* A request with the key; it is marked, answered already, or refused. */
static err_t begin_one(struct one *one)
{
    *one = (struct one){
        .exchange = {.id = "req",
                     .head = {.path = STR("/v1/x"), .headers = &header, .header_count = 1}},
        .request = {.arena = arena, .conf = &conf, .ask.body = STR("{}"), .caller = STR("a")}};
    one->request.exchange = &one->exchange;
    return idempotency_begin(&one->request);
}

static bool is_free(struct one *one)
{
    return begin_one(one) == NULL && !idempotency_is_answered(&one->request);
}

static bool is_answered(void)
{
    struct one one;

    return begin_one(&one) == NULL && idempotency_is_answered(&one.request);
}

static bool is_refused(const char *code)
{
    struct one one;
    err_t err = begin_one(&one);

    return err && err->code && strcmp(err->code, code) == 0;
}

static bool is_running(void)
{
    return is_refused("idempotency_key_running");
}

/* ---- clocks ---- */

static void a_mark_stands_whatever_time_others_have(void)
{
    struct one one;

    be_years_behind();
    assert_true(is_free(&one));
    be_right();
    assert_true(is_running());
    be_years_behind();
    assert_true(is_running());
    be_right();
    time_passes(HOUR_MS + 1);
    be_years_behind();
    assert_true(is_free(&one));
}

static void an_answer_is_kept_whatever_time_others_have(void)
{
    struct one one;
    bool is_done;

    be_years_behind();
    assert_true(is_free(&one));
    idempotency_keep(&one.request, ANSWER);
    be_right();
    assert_true(is_answered());
    assert_ok(idempotency_clean(&is_done));
    assert_true(is_answered());
    time_passes(TTL_MS - HOUR_MS);
    assert_true(is_answered());
    time_passes(HOUR_MS + 1);
    be_years_behind();
    assert_ok(idempotency_clean(&is_done));
    assert_int_equal(count("SELECT count(*) FROM idempotency"), 0);
}

static void a_forgotten_answer_is_forgotten_by_all(void)
{
    struct one one;

    assert_true(is_free(&one));
    idempotency_keep(&one.request, ANSWER);
    time_passes(TTL_MS + 1);
    be_years_behind();
    assert_true(is_free(&one));
}

/* ---- failures ---- */

static err_t catch_up(void)
{
    return idempotency_outcome_catch_up(db, sys_now_ms() + 60 * 1000);
}

/* Begin anew, with a mark of one's own. */
static void mark_again(struct one *one)
{
    run(DB_ASK_PLAIN("DELETE FROM idempotency"));
    assert_true(is_free(one));
}

static void an_answer_waits_for_the_store(void)
{
    struct one one;

    mark_again(&one);
    break_store();
    idempotency_keep(&one.request, ANSWER);
    assert_non_null(catch_up());
    mend_store();
    assert_true(is_running());
    assert_ok(catch_up());
    assert_true(is_answered());
}

static void a_key_waits_for_the_store_to_be_free(void)
{
    struct one one;

    mark_again(&one);
    break_store();
    idempotency_finish(&one.request);
    mend_store();
    assert_true(is_running());
    assert_ok(catch_up());
    assert_true(is_free(&one));
}

/* What waits is forgotten at the end, and the mark stands. */
static void what_waits_may_be_forgotten(void)
{
    struct one one;

    mark_again(&one);
    break_store();
    idempotency_keep(&one.request, ANSWER);
    mend_store();
    assert_true(mem_in_use(MEM_BODY) > 0);
    idempotency_outcome_forget();
    assert_int_equal(mem_in_use(MEM_BODY), 0);
    assert_ok(catch_up());
    assert_true(is_running());
}

/* However the writing of an answer fails, it is there when it is caught up with. */
static void no_answer_is_lost_for_want_of_memory(void)
{
    uint64_t nth = 0, count_of_calls, late = 0;
    struct one one;

    do {
        mark_again(&one);
        mem_fail_nth(++nth);
        idempotency_keep(&one.request, ANSWER);
        count_of_calls = mem_fail_count();
        mem_fail_nth(0);
        late += !is_answered();
        assert_ok(catch_up());
        assert_true(is_answered());
        arena_reset(arena);
    } while (count_of_calls >= nth);
    assert_true(nth < 10000);
    assert_true(late > 0 || !needs_memory());
}

static void no_key_is_held_for_want_of_memory(void)
{
    uint64_t nth = 0, count_of_calls;
    struct one one;

    do {
        mark_again(&one);
        mem_fail_nth(++nth);
        idempotency_finish(&one.request);
        count_of_calls = mem_fail_count();
        mem_fail_nth(0);
        assert_ok(catch_up());
        assert_true(is_free(&one));
        arena_reset(arena);
    } while (count_of_calls >= nth);
    assert_true(nth < 10000);
}

/* The store fails, and there is no room to keep the answer until it is well: at least it is known that there was one. */
static void an_answer_for_which_there_is_no_room_is_known(void)
{
    uint64_t nth = 0, count_of_calls, lost = 0;
    struct one one;

    do {
        mark_again(&one);
        break_store();
        mem_fail_nth(++nth);
        idempotency_keep(&one.request, ANSWER);
        count_of_calls = mem_fail_count();
        mem_fail_nth(0);
        mend_store();
        assert_ok(catch_up());
        if (!is_answered()) {
            assert_true(is_refused("idempotency_answer_not_kept"));
            lost++;
        }
        arena_reset(arena);
    } while (count_of_calls >= nth);
    assert_int_equal(lost, 1);
}

/* Catching up fails at each allocation, goes on where it was, and gives back all that waited. */
static void catching_up_fails_and_goes_on(void)
{
    uint64_t nth = 0, count_of_calls, failed = 0;
    struct one one;
    err_t err;

    do {
        mark_again(&one);
        break_store();
        idempotency_keep(&one.request, ANSWER);
        mend_store();
        mem_fail_nth(++nth);
        err = catch_up();
        count_of_calls = mem_fail_count();
        mem_fail_nth(0);
        failed += err != NULL;
        assert_int_equal(mem_in_use(MEM_BODY) > 0, err != NULL);
        assert_ok(catch_up());
        assert_int_equal(mem_in_use(MEM_BODY), 0);
        assert_true(is_answered());
        arena_reset(arena);
    } while (count_of_calls >= nth);
    assert_true(failed > 0 || !needs_memory());
}

#define MANY      40
#define BODY_SIZE ((size_t)1024 * 1024)

/* Of a long outage answers are kept up to 16 MiB; of those that come then it is kept that they were too large. */
static void many_answers_wait_within_bounds(void)
{
    char name[16], *body = arena_alloc_zero(arena, BODY_SIZE);
    struct idempotency_outcome outcome = {.end = IDEMPOTENCY_KEPT,
                                          .owner = STR("o"),
                                          .mark = STR("m"),
                                          .target = STR(""),
                                          .body = {body, BODY_SIZE},
                                          .ttl_ms = TTL_MS};

    run(DB_ASK("INSERT INTO idempotency (owner, name, hash, state, holder, mark, expires_ms, "
               "target, is_stream, body) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 "
               "FROM n WHERE i < $1) SELECT 'o', CAST(i AS TEXT), $2, 'running', 'h', 'm', "
               "{{now_ms}} + 60000, '', 0, $2 FROM n",
               DB_OF_INT(MANY), DB_OF_BLOB(STR(""))));
    break_store();
    for (int i = 1; i <= MANY; i++) {
        snprintf(name, sizeof(name), "%d", i);
        outcome.name = str_from(name);
        assert_non_null(idempotency_outcome_write(db, &outcome));
    }
    assert_true(mem_in_use(MEM_BODY) < 17 * BODY_SIZE);
    mend_store();
    assert_ok(catch_up());
    assert_int_equal(count("SELECT count(*) FROM idempotency WHERE state = 'kept'"), 15);
    assert_int_equal(count("SELECT count(*) FROM idempotency WHERE state = 'large'"), MANY - 15);
}

/* ---- the runner ---- */

static const struct check {
    const char *name;
    void (*run)(void);
} checks[] = {
#define CHECK(name) {#name, name}
    CHECK(a_mark_stands_whatever_time_others_have),
    CHECK(an_answer_is_kept_whatever_time_others_have),
    CHECK(a_forgotten_answer_is_forgotten_by_all),
    CHECK(an_answer_waits_for_the_store),
    CHECK(a_key_waits_for_the_store_to_be_free),
    CHECK(what_waits_may_be_forgotten),
    CHECK(no_answer_is_lost_for_want_of_memory),
    CHECK(no_key_is_held_for_want_of_memory),
    CHECK(an_answer_for_which_there_is_no_room_is_known),
    CHECK(catching_up_fails_and_goes_on),
    CHECK(many_answers_wait_within_bounds),
};
#define CHECK_COUNT (sizeof(checks) / sizeof(*checks))

static void run_as_fiber(void *check)
{
    fiber_set_arena(arena);
    ((const struct check *)check)->run();
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

static void run_in_fiber(void **state)
{
    struct loop *loop;

    run(DB_ASK_PLAIN("DELETE FROM idempotency"));
    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("check", run_as_fiber, *state, NULL));
    loop_run(loop);
    loop_close(loop);
}

static int open_backend(void **state)
{
    const struct log_options only_errors = {.level = LOG_ERROR, .path = "/dev/null"};

    if (begin_arena(state) || log_open(&only_errors))
        return -1;
    assert_ok(db_open(&(struct db_options){.url = url, .connections = 4}, &db));
    assert_ok(replica_open(db));
    idempotency_use(db);
    return 0;
}

static int end_check(void **state)
{
    be_right();
    arena_reset(arena);
    assert_int_equal(mem_in_use(MEM_BODY), 0);
    return 0;
}

static int close_backend(void **state)
{
    idempotency_use(NULL);
    replica_close(db);
    db_close(db);
    offload_stop_all();
    log_close();
    metrics_close();
    return end_arena(state);
}

static int run_backend(struct str at)
{
    struct CMUnitTest tests[CHECK_COUNT];

    url = at;
    for (size_t i = 0; i < CHECK_COUNT; i++)
        tests[i] = (struct CMUnitTest){checks[i].name, run_in_fiber, NULL, end_check,
                                       (void *)(uintptr_t)&checks[i]};
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}

int main(void)
{
    char folder[] = "/tmp/idempotency.XXXXXX", path[64], command[64];
    const char *server = getenv("TEST_POSTGRES_URL");
    int failed;

    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "sqlite:%s/sluice.db", folder);
    failed = run_backend(str_from(path));
    snprintf(command, sizeof(command), "rm -r %s", folder);
    failed += system(command) != 0;
    if (!server || !*server)
        server = postgres_open(NULL);
    if (server)
        failed += run_backend(str_from(server));
    else
        fprintf(stderr, "\n*** PostgreSQL is NOT tested: it is not installed ***\n");
    postgres_close();
    return failed > 0;
}
