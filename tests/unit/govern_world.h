/* SPDX-License-Identifier: Apache-2.0 */
/* A process as budgets and the ledger know it: a real SQLite store, a loop, the fibers that keep them going.
 *
 *     begin_world("budgets: {per_project: {tokens: 100/day}}");
 *     in_world(body);           the test's body, as a fiber beside them
 *     kill_world();             ends it as kill -9 would: nothing is given back; then begin again
 *     end_world();              ends it as shutting down does
 *
 * ask_number(sql) asks the store. Wait for what other fibers do with wait_until. */
#ifndef TEST_GOVERN_WORLD_H
#define TEST_GOVERN_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fault_vfs.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "govern/admission.h"
#include "govern/budget_account.h"
#include "govern/budget_lease.h"
#include "govern/service.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "store/db.h"
#include "store/db_sqlite.h"

static struct {
    char folder[64];
    struct arena *arena;
    struct conf *conf;
    struct db *db;
    struct loop *loop;
    struct fiber *budgets, *ledger;
    void (*body)(void);
} world;

static const struct err world_ends = {.kind = ERR_KILLED, .where = ERR_HERE, .text = "the end"};

static void assert_ok(err_t err)
{
    if (err)
        fail_msg("%s (%s)", err->text, err->where);
}

static void make_folder(void)
{
    snprintf(world.folder, sizeof(world.folder), "/tmp/govern.XXXXXX");
    assert_non_null(mkdtemp(world.folder));
}

static void remove_folder(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -r %s", world.folder);
    assert_int_equal(system(command), 0);
}

static void read_conf(const char *text)
{
    char path[96];
    FILE *file;

    snprintf(path, sizeof(path), "%s/sluice.yaml", world.folder);
    file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%s\n", text);
    fclose(file);
    conf_unref(world.conf);
    world.conf = NULL;
    assert_ok(conf_load(str_from(path), NULL, &world.conf));
}

/* In the folder, which may hold what an earlier world has left. */
static void open_store(const char *conf)
{
    char url[96];

    world.arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);
    err_scope_set(world.arena);
    read_conf(conf);
    snprintf(url, sizeof(url), "sqlite:%s/sluice.db", world.folder);
    assert_ok(db_open(&(struct db_options){.url = str_from(url)}, &world.db));
}

__attribute__((unused)) static void begin_world(const char *conf)
{
    open_store(conf);
    assert_ok(budget_service.open(world.db, world.conf));
    assert_ok(fold_service.open(world.db, world.conf));
    assert_ok(ledger_service.open(world.db, world.conf));
}

static void run_one(const struct govern_service *service, struct fiber **fiber)
{
    struct arena *arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);

    fiber_set_arena(arena);
    service->run(world.db);
    fiber_set_arena(NULL);
    arena_free(arena);
    *fiber = NULL;
}

static void run_budgets(void *arg)
{
    run_one(&budget_service, &world.budgets);
}

static void run_ledger(void *arg)
{
    run_one(&ledger_service, &world.ledger);
}

static void run_body(void *arg)
{
    struct arena *arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);

    fiber_set_arena(arena);
    world.body();
    fiber_cancel(world.budgets, &world_ends);
    fiber_cancel(world.ledger, &world_ends);
    while (world.budgets || world.ledger)
        assert_ok(fiber_sleep(1));
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(world.loop);
}

/* Run a test's body while the services work. */
__attribute__((unused)) static void in_world(void (*body)(void))
{
    world.body = body;
    assert_ok(loop_open(&world.loop));
    assert_ok(fiber_start_later("budgets", run_budgets, NULL, &world.budgets));
    assert_ok(fiber_start_later("ledger", run_ledger, NULL, &world.ledger));
    assert_ok(fiber_start_later("test", run_body, NULL, NULL));
    loop_run(world.loop);
    loop_close(world.loop);
}

static void close_store(void)
{
    db_close(world.db);
    world.db = NULL;
    offload_stop_all();
    conf_unref(world.conf);
    world.conf = NULL;
    err_scope_set(NULL);
    arena_free(world.arena);
}

static bool forget_account(struct budget_account *a, void *arg)
{
    a->references = 0;
    return true;
}

/* What is in memory is lost. */
__attribute__((unused)) static void kill_world(void)
{
    budget_account_each(forget_account, NULL);
    close_store();
}

__attribute__((unused)) static void end_world(void)
{
    ledger_service.close(world.db);
    fold_service.close(world.db);
    budget_service.close(world.db);
    close_store();
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
}

/* A fiber's wait for what others bring about. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        for (int waits_ = 0; !(condition); waits_++) {                                             \
            assert_ok(fiber_sleep(2));                                                             \
            assert_true(waits_ < 10000);                                                           \
        }                                                                                          \
    } while (0)

/* The number that a question has for an answer. */
static int64_t ask_number(const char *sql)
{
    struct arena *arena = arena_new(MEM_TOOL, 1024 * 1024);
    struct db_rows rows;
    int64_t number;

    assert_ok(db_run(world.db, DB_READ, DB_ASK_PLAIN(sql), arena, &rows));
    number = rows.count ? db_int(&rows, 0, 0) : -1;
    arena_free(arena);
    return number;
}

/* What is booked of all budgets, against the rows that name them. */
#define DRIFT_OF_TOKENS                                                                            \
    "SELECT coalesce(SUM(abs(p.spent - (SELECT coalesce(SUM(l.input + l.output), 0) FROM ledger "  \
    "l "                                                                                           \
    "WHERE ' ' || l.booked || ' ' LIKE '% ' || p.scope || '/' || p.unit || '/' || p.period || "    \
    "'/' "                                                                                         \
    "|| p.begins_s || ' %' AND (p.scope <> 'key' OR l.key_id = p.owner) AND (p.scope <> 'user' "   \
    "OR p.owner = l.project_id || '/' || l.user_id)))), 0) FROM budget_periods p "                 \
    "WHERE p.unit = 'tokens'"

/* ---- the tests ---- */

static int set_up(void **state)
{
    make_folder();
    return 0;
}

static int tear_down(void **state)
{
    remove_folder();
    metrics_close();
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* For the group. What is logged below an error is not of interest. */
__attribute__((unused)) static int begin_process(void **state)
{
    const struct log_options only_errors = {.level = LOG_ERROR, .path = "/dev/null"};

    if (db_sqlite_adopt() || log_open(&only_errors))
        return -1;
    fault_install_io();
    return 0;
}

__attribute__((unused)) static int end_process(void **state)
{
    log_close();
    return 0;
}

/* ---- a call ---- */

struct call_of_test {
    struct arena *arena;
    struct subject subject;
    struct reservation reservation;
    uint64_t retry_ms;
};

__attribute__((unused)) static void begin_call(struct call_of_test *c, const char *key,
                                               const char *user)
{
    c->arena = arena_new(MEM_TOOL, 1024 * 1024);
    c->retry_ms = 0;
    c->subject = (struct subject){.org = STR("org"),
                                  .project = STR("proj"),
                                  .key = str_from(key),
                                  .user = str_from(user),
                                  .user_is_limited = user[0] != 0};
    assert_ok(
        budget_find(&c->reservation, world.conf, &c->subject, sys_wall_ms() / 1000, c->arena));
}

__attribute__((unused)) static err_t reserve_call(struct call_of_test *c, uint64_t tokens)
{
    return budget_reserve(&c->reservation, tokens, tokens * 1000, &c->retry_ms);
}

__attribute__((unused)) static void settle_call(struct call_of_test *c, uint64_t tokens)
{
    struct ledger_row row = {.at_ms = sys_wall_ms(),
                             .request_id = STR("req"),
                             .org = c->subject.org,
                             .project = c->subject.project,
                             .key = c->subject.key,
                             .user = c->subject.user,
                             .model = STR("m"),
                             .provider = STR("fake"),
                             .upstream_model = STR("m"),
                             .route = STR("POST /v1/chat/completions"),
                             .outcome = STR("completed"),
                             .status = 200,
                             .input = tokens,
                             .has_cost = true,
                             .cost_nano = tokens * 1000};

    budget_settle(&c->reservation, tokens, tokens * 1000);
    ledger_add(&row, &c->reservation);
}

__attribute__((unused)) static void end_call(struct call_of_test *c)
{
    arena_free(c->arena);
}

#endif
