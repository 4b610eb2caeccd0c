/* SPDX-License-Identifier: Apache-2.0 */
/* What takes long in an SQLite store, reports and copies: nobody else waits for it, few run at once, it has an end, and it
 * ends early when nobody waits for it any more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "observe/log.h"
#include "store/db_sqlite.h"

/* Without end, and without growing. */
#define FOREVER                                                                                    \
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c WHERE n < 0"
#define MOST 6 /* reports of a test */

static char folder[64], url[96], backup[96], partial[112];
static struct arena *arena;
static struct db *db;

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};

/* ---- in a fiber ---- */

static int set_up(void **state)
{
    struct db_options options = {0};

    snprintf(folder, sizeof(folder), "/tmp/sluice-report-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(url, sizeof(url), "sqlite:%s/sluice.db", folder);
    snprintf(backup, sizeof(backup), "%s/copy.db", folder);
    snprintf(partial, sizeof(partial), "%s.partial", backup);
    arena = arena_new(MEM_TOOL, (size_t)64 * 1024 * 1024);
    options.url = str_from(url);
    err_t err = db_open(&options, &db);
    return err ? -1 : 0;
}

static int tear_down(void **state)
{
    char command[128];

    sys_set_clock_ms(0);
    db_close(db);
    offload_stop_all();
    arena_free(arena);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void run_body(void *arg)
{
    void (**body)(void) = arg;

    fiber_set_arena(arena);
    (*body)();
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

static void in_fiber(void (*body)(void))
{
    struct loop *loop;

    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("test", run_body, &body, NULL));
    loop_run(loop);
    loop_close(loop);
}

/* A test in a fiber, as it is named. */
#define TEST(name)                                                                                 \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        in_fiber(name);                                                                            \
    }

/* ---- reports ---- */

struct report {
    struct arena *arena;
    struct fiber *fiber;
    err_t err;
    bool has_ended;
};

static void make_report(void *arg)
{
    struct report *r = arg;

    fiber_set_arena(r->arena);
    r->err = db_run(db, DB_REPORT, DB_ASK_PLAIN(FOREVER), NULL, NULL);
    fiber_set_arena(NULL);
    r->has_ended = true;
}

static void begin_reports(struct report *reports, int count)
{
    for (int i = 0; i < count; i++) {
        reports[i] = (struct report){.arena = arena_new(MEM_TOOL, 64 * 1024)};
        assert_null(fiber_start_later("report", make_report, &reports[i], &reports[i].fiber));
    }
    assert_null(fiber_sleep(50));
}

/* All of them, by whoever waited going away. */
static void end_reports(struct report *reports, int count)
{
    for (int i = 0; i < count; i++)
        if (!reports[i].has_ended)
            fiber_cancel(reports[i].fiber, &gone);
    for (int i = 0; i < count; i++) {
        while (!reports[i].has_ended)
            assert_null(fiber_sleep(1));
        arena_free(reports[i].arena);
    }
}

/* So much time passes, and it ends. */
static void await_report(const struct report *report, uint64_t ms)
{
    sys_set_clock_ms(sys_now_ms() + ms);
    while (!report->has_ended)
        assert_null(fiber_yield());
    sys_set_clock_ms(0);
    assert_null(fiber_yield()); /* the present round still has that time */
}

static int64_t read_something(void)
{
    struct db_rows rows;

    assert_null(db_run(db, DB_READ, DB_ASK_PLAIN("SELECT 7"), arena, &rows));
    return db_int(&rows, 0, 0);
}

static void others_read_and_write_beside_reports(void)
{
    struct report reports[MOST];

    begin_reports(reports, MOST);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(read_something(), 7);
        assert_null(db_run(db, DB_WRITE, DB_ASK_PLAIN("DELETE FROM ledger_rows"), NULL, NULL));
    }
    assert_false(reports[0].has_ended);
    assert_false(reports[1].has_ended);
    end_reports(reports, MOST);
}

TEST(others_read_and_write_beside_reports)

/* Whoever gets no turn is told after some seconds, and nothing is the matter with the store. */
static void few_reports_run_at_once(void)
{
    struct report reports[3];

    begin_reports(reports, 3);
    assert_false(reports[2].has_ended);
    await_report(&reports[2], 6000);
    assert_true(err_is(reports[2].err, ERR_BUSY));
    assert_string_equal(reports[2].err->code, "reports_busy");
    assert_int_equal(err_status(reports[2].err), 503);
    assert_false(reports[0].has_ended);
    assert_true(db_is_up(db));
    end_reports(reports, 3);
}

TEST(few_reports_run_at_once)

static void reports_have_an_end(void)
{
    struct report report;

    begin_reports(&report, 1);
    await_report(&report, 61000);
    assert_true(err_is(report.err, ERR_BAD_REQUEST));
    assert_string_equal(report.err->code, "too_long");
    assert_true(db_is_up(db));
    end_reports(&report, 1);
    begin_reports(&report, 1); /* with all the time again */
    assert_false(report.has_ended);
    end_reports(&report, 1);
}

TEST(reports_have_an_end)

static void reports_that_nobody_awaits_end(void)
{
    struct report reports[3];
    struct db_rows rows;

    begin_reports(reports, 3);
    end_reports(reports, 3);
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(reports[i].err, &gone);
    assert_null(db_run(db, DB_REPORT, DB_ASK_PLAIN("SELECT 8"), arena, &rows));
    assert_int_equal(db_int(&rows, 0, 0), 8);
    assert_true(db_is_up(db));
}

TEST(reports_that_nobody_awaits_end)

/* ---- copies ---- */

struct copying {
    struct fiber *fiber;
    uint64_t copied_ms,
        ended_ms; /* when all was copied, and only the check was left; when all was done */
    err_t err;
};

static void copies(void *arg)
{
    struct copying *copying = arg;

    copying->err = db_backup(db, str_from(backup));
    copying->ended_ms = sys_now_ms();
}

/* Begin a copy and wait until it is to be checked. */
static void begin_copy(struct copying *copying, off_t bytes)
{
    struct stat info = {0};

    *copying = (struct copying){0};
    assert_null(fiber_start_later("copy", copies, copying, &copying->fiber));
    do
        assert_null(fiber_sleep(1));
    while (!copying->ended_ms && (stat(partial, &info) < 0 || info.st_size < bytes));
    copying->copied_ms = sys_now_ms();
}

static void await_copy(const struct copying *copying)
{
    while (!copying->ended_ms)
        assert_null(fiber_sleep(1));
}

/* Rows that are small, and in two indices: long to check for their size. */
static off_t fill(void)
{
    static const char *const statements[] = {
        "CREATE TABLE bulk (a BIGINT, b BIGINT)",
        "INSERT INTO bulk WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < "
        "1500000) SELECT n * 7919 % 1500007, n * 104729 % 1500007 FROM c",
        "CREATE INDEX bulk_a ON bulk (a)", "CREATE INDEX bulk_b ON bulk (b)"};
    char file[96];
    struct stat info;

    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++)
        assert_null(db_run(db, DB_WRITE, DB_ASK_PLAIN(statements[i]), NULL, NULL));
    snprintf(file, sizeof(file), "%s/sluice.db", folder);
    assert_int_equal(stat(file, &info), 0);
    return info.st_size;
}

static void copies_that_nobody_awaits_end(void)
{
    off_t bytes = fill();
    struct copying copying;
    uint64_t check_ms;

    begin_copy(&copying, bytes);
    await_copy(&copying);
    assert_null(copying.err);
    check_ms = copying.ended_ms - copying.copied_ms;
    assert_in_range(check_ms, 300, 60000); /* else this proves nothing */
    assert_int_equal(remove(backup), 0);

    begin_copy(&copying, bytes);
    assert_null(fiber_sleep(check_ms / 8));
    assert_int_equal(copying.ended_ms, 0);
    fiber_cancel(copying.fiber, &gone);
    await_copy(&copying);
    assert_ptr_equal(copying.err, &gone);
    assert_in_range(copying.ended_ms - copying.copied_ms, 0, check_ms / 2);
    assert_true(access(backup, F_OK) < 0 && access(partial, F_OK) < 0);
    assert_true(db_is_up(db));
}

TEST(copies_that_nobody_awaits_end)

#define WITH_STORE(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(others_read_and_write_beside_reports),
        WITH_STORE(few_reports_run_at_once),
        WITH_STORE(reports_have_an_end),
        WITH_STORE(reports_that_nobody_awaits_end),
        WITH_STORE(copies_that_nobody_awaits_end),
    };
    const struct log_options only_errors = {.level = LOG_ERROR, .format = LOG_TEXT};

    if (db_sqlite_adopt() || log_open(&only_errors))
        return 1;
    log_close();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
