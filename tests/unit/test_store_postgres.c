/* SPDX-License-Identifier: Apache-2.0 */
/* What PostgreSQL adds to the contract of store/db.h: servers that go, stop and come back, connections that are cut or
 * too few, notices between processes, and refusals that say what to do. All against a real server of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "postgres.h"
#include "store/db_postgres.h"

#define ARENA_BYTES   ((size_t)16 * 1024 * 1024)
#define CONNECTIONS   8
#define AWAY_AFTER_MS 2500 /* when callers are not left waiting for a restart any more */

static struct db *db;    /* under test; its connections are called "victim" */
static struct db *other; /* another process, as far as the server knows */
static struct arena *arena;
static char url[192];

/* ---- helpers ---- */

static const char insert[] = "INSERT INTO faults (id, n) VALUES ($1, 0)";
static const char count_all[] = "SELECT count(*) FROM faults";
static const char count_victims[] =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim' AND state = 'active'";
static const char end_victims[] = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                  "WHERE application_name = 'victim' AND pid <> pg_backend_pid()";

static void assert_code(err_t err, const char *code)
{
    if (!err)
        fail_msg("an error with code %s is missing", code);
    if (!err->code || strcmp(err->code, code) != 0)
        fail_msg("%s instead of %s: %s", err->code, code, err->text);
}

static struct db_rows run(struct db *at, enum db_mode mode, struct db_ask ask)
{
    struct db_rows rows = {0};
    err_t err = db_run(at, mode, ask, arena, &rows);

    if (err)
        fail_msg("%s: %s", ask.sql, err->text);
    return rows;
}

static int64_t ask_number(struct db *at, const char *sql)
{
    struct db_rows rows = run(at, DB_READ, DB_ASK_PLAIN(sql));

    return db_int(&rows, 0, 0);
}

static void sleep_ms(uint64_t ms)
{
    if (fiber_self())
        assert_null(fiber_sleep(ms));
    else
        usleep((useconds_t)ms * 1000);
}

static bool comes_true(bool (*condition)(void), uint64_t within_ms)
{
    uint64_t until_ms = sys_now_ms() + within_ms;

    while (!condition() && sys_now_ms() < until_ms)
        sleep_ms(10);
    return condition();
}

static bool is_up(void)
{
    return db_is_up(db);
}

static bool nobody_works(void)
{
    return ask_number(other, count_victims) == 0;
}

static bool somebody_works(void)
{
    return ask_number(other, count_victims) == 1;
}

static err_t open_db(const char *address, unsigned connections, bool is_tool, struct db **out)
{
    return db_open(&(struct db_options){str_from(address), connections, is_tool}, out);
}

static void in_fiber(void *arg)
{
    void (*test)(void) = *(void (**)(void))arg;

    fiber_set_arena(arena);
    test();
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

static void run_in_fiber(void (*test)(void))
{
    struct loop *loop;

    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("test", in_fiber, &test, NULL));
    loop_run(loop);
    loop_close(loop);
}

/* ---- refusals ---- */

static void assert_refused(const char *address, const char *hint)
{
    struct db *refused;
    err_t err = open_db(address, 2, false, &refused);

    assert_non_null(err);
    if (!strstr(err->text, hint))
        fail_msg("no \"%s\" in: %s", hint, err->text);
    assert_null(strstr(err->text, "hush"));
    assert_null(refused);
}

static void what_is_wrong_at_the_start_is_said(void **state)
{
    char text[256];

    snprintf(text, sizeof(text), "postgresql://postgres:hush@127.0.0.1:%u/no_such_db",
             postgres.child.port);
    assert_refused(text, "database \"no_such_db\" does not exist");
    snprintf(text, sizeof(text), "postgresql://nobody:hush@127.0.0.1:%u/postgres",
             postgres.child.port);
    assert_refused(text, "role \"nobody\" does not exist");
    assert_refused("postgresql://postgres:hush@127.0.0.1:1/postgres", "Connection refused");
    assert_refused("postgresql://postgres:hush@no.such.host.invalid/postgres",
                   "could not translate host name");
    assert_refused("postgresql://postgres:hush@127.0.0.1/postgres?no_such=1",
                   "invalid URI query parameter");
    run(other, DB_WRITE,
        DB_ASK_PLAIN("INSERT INTO schema_migrations VALUES (999, '999-later', 0)"));
    assert_refused(url, "newer schema (999-later)");
    run(other, DB_WRITE, DB_ASK_PLAIN("DELETE FROM schema_migrations WHERE number = 999"));
}

static void write_rules(const char *rules)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/data/pg_hba.conf", postgres.child.folder);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(rules, file);
    fclose(file);
    kill(postgres.child.pid, SIGHUP);
    sleep_ms(300);
}

static void passwords_are_asked_for_and_checked(void **state)
{
    struct db *opened;
    char text[256];

    run(other, DB_WRITE,
        DB_ASK_PLAIN("CREATE ROLE secretive SUPERUSER LOGIN PASSWORD 'hush hush'"));
    write_rules("host all secretive all scram-sha-256\nhost all all all trust\n");
    snprintf(text, sizeof(text), "postgresql://secretive:hush@127.0.0.1:%u/postgres",
             postgres.child.port);
    assert_refused(text, "password authentication failed");
    snprintf(text, sizeof(text), "postgresql://secretive@127.0.0.1:%u/postgres",
             postgres.child.port);
    assert_refused(text, "$PGPASSWORD");
    snprintf(text, sizeof(text), "postgres://secretive:hush%%20hush@127.0.0.1:%u/postgres",
             postgres.child.port);
    assert_null(open_db(text, 2, false, &opened));
    db_close(opened);
    write_rules("host all all all trust\n");
    run(other, DB_WRITE, DB_ASK_PLAIN("DROP ROLE secretive"));
}

static void failing_allocations_at_the_start_are_reported(void **state)
{
    struct db *opened;
    uint64_t n = 0;
    err_t err;

    do {
        mem_fail_nth(++n);
        err = open_db(url, 2, false, &opened);
        mem_fail_nth(0);
    } while (err && n < 1000);
    assert_null(err);
    db_close(opened);
}

/* ---- types ---- */

static void types_are_those_of_the_values(void **state)
{
    static const char either[] =
        "SELECT COALESCE($1, 0), $1 IS NULL, n = 0 FROM faults WHERE id = $2 OR id = $3";
    struct db_rows rows;

    run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(1)));
    rows = run(db, DB_READ, DB_ASK(either, DB_OF_NULL, DB_OF_INT(1), DB_OF_NULL));
    assert_int_equal(db_int(&rows, 0, 1), 1);
    rows = run(db, DB_READ, DB_ASK(either, DB_OF_INT(INT64_MAX), DB_OF_NULL, DB_OF_INT(1)));
    assert_true(db_int(&rows, 0, 0) == INT64_MAX);
    assert_int_equal(db_int(&rows, 0, 1), 0);
    assert_int_equal(db_int(&rows, 0, 2), 1);
}

static void a_changed_schema_is_seen(void **state)
{
    static const char all[] = "SELECT * FROM changing";

    run(other, DB_WRITE, DB_ASK_PLAIN("CREATE TABLE changing (a BIGINT)"));
    assert_int_equal(run(db, DB_READ, DB_ASK_PLAIN(all)).columns, 1);
    run(other, DB_WRITE, DB_ASK_PLAIN("ALTER TABLE changing ADD COLUMN b TEXT"));
    assert_int_equal(run(db, DB_READ, DB_ASK_PLAIN(all)).columns, 2);
    run(other, DB_WRITE, DB_ASK_PLAIN("DROP TABLE changing"));
}

/* ---- connections that are cut ---- */

struct cut {
    int runs;
    const char *sql; /* what cuts it in the first run */
};

static err_t is_cut(struct db_tx *tx, void *arg)
{
    struct cut *cut = arg;

    TRY(db_tx_run(tx, DB_ASK(insert, DB_OF_INT(1)), NULL, NULL));
    if (cut->runs++ == 0)
        TRY(db_tx_run(tx, DB_ASK_PLAIN(cut->sql), NULL, NULL));
    return db_tx_run(tx, DB_ASK(insert, DB_OF_INT(2)), NULL, NULL);
}

static void what_is_cut_before_the_commit_runs_again(void)
{
    struct cut cut = {.sql = "SELECT pg_terminate_backend(pg_backend_pid())"};

    assert_null(db_transact(db, DB_WRITE, is_cut, &cut));
    assert_int_equal(cut.runs, 2);
    assert_int_equal(ask_number(db, count_all), 2);
}

static void what_is_cut_in_the_commit_does_not_run_again(void)
{
    struct cut cut = {.sql = "SELECT 1"};

    run(other, DB_WRITE,
        DB_ASK_PLAIN("CREATE FUNCTION cut() RETURNS TRIGGER LANGUAGE plpgsql AS "
                     "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"));
    run(other, DB_WRITE,
        DB_ASK_PLAIN("CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON faults DEFERRABLE INITIALLY "
                     "DEFERRED FOR EACH ROW EXECUTE FUNCTION cut()"));
    assert_code(db_transact(db, DB_WRITE, is_cut, &cut), "store_lost");
    assert_int_equal(cut.runs, 1);
    assert_false(db_is_up(db));
    run(other, DB_WRITE, DB_ASK_PLAIN("DROP FUNCTION cut CASCADE"));
    assert_int_equal(ask_number(db, count_all), 0);
    assert_true(db_is_up(db));
}

static void cut_while_idle_is_not_even_noticed(void)
{
    for (int i = 0; i < 5; i++) {
        run(other, DB_WRITE, DB_ASK_PLAIN(end_victims));
        sleep_ms(20);
        assert_null(db_run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(i)), NULL, NULL));
    }
    assert_int_equal(ask_number(db, count_all), 5);
}

/* A process that is being started holds copies of all our descriptors until it runs its own program. */
static pid_t start_holding_copies(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return pid;
}

static err_t is_cut_beside_a_start(struct db_tx *tx, void *arg)
{
    pid_t *child = arg;

    TRY(db_tx_run(tx, DB_ASK(insert, DB_OF_INT(1)), NULL, NULL));
    if (*child == 0) {
        *child = start_holding_copies();
        run(other, DB_WRITE, DB_ASK_PLAIN(end_victims));
        sleep_ms(100); /* the loop has seen the end; what is sent now is answered by a reset */
    }
    return db_tx_run(tx, DB_ASK(insert, DB_OF_INT(2)), NULL, NULL);
}

/* libpq closes what is cut, and the copies still cause events: for nobody any more. */
static void what_is_cut_leaves_the_loop(void)
{
    pid_t child = 0;

    assert_null(db_transact(db, DB_WRITE, is_cut_beside_a_start, &child));
    sleep_ms(100);
    assert_true(child > 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(ask_number(db, count_all), 2);
}

/* ---- cancelled and stopped ---- */

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};

struct sleeper {
    err_t err;
    bool has_ended;
};

static void sleeps(void *arg)
{
    struct sleeper *sleeper = arg;

    fiber_set_arena(arena);
    sleeper->err = db_run(db, DB_READ, DB_ASK_PLAIN("SELECT pg_sleep(12)"), NULL, NULL);
    sleeper->has_ended = true;
    fiber_set_arena(NULL);
}

static void cancelled_statements_end_on_both_sides(void)
{
    struct sleeper sleeper = {0};
    struct fiber *fiber;
    uint64_t began_ms;

    assert_null(fiber_start("sleeper", sleeps, &sleeper, &fiber));
    assert_true(comes_true(somebody_works, 10000));
    began_ms = sys_now_ms();
    fiber_cancel(fiber, &gone);
    while (!sleeper.has_ended)
        sleep_ms(1);
    assert_true(sys_now_ms() - began_ms < 4000); /* of twelve seconds */
    assert_ptr_equal(sleeper.err, &gone);
    assert_true(comes_true(nobody_works, 4000));
}

/* A connection whose server process has stopped: whoever uses it may leave, and others go on. */
static void a_stopped_server_process_holds_up_nobody_else(void)
{
    static const char pid_of[] = "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity "
                                 "WHERE application_name = 'victim' AND state = 'active'";
    struct sleeper sleeper = {0};
    struct fiber *fiber;
    pid_t pid;

    assert_null(fiber_start("sleeper", sleeps, &sleeper, &fiber));
    assert_true(comes_true(somebody_works, 10000));
    pid = (pid_t)ask_number(other, pid_of);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    for (int i = 0; i < 20; i++)
        run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(i)));
    fiber_cancel(fiber, &gone);
    while (!sleeper.has_ended)
        sleep_ms(1);
    kill(pid, SIGCONT);
    assert_true(comes_true(nobody_works, 4000));
}

/* ---- too few connections ---- */

#define CROWD 60

struct crowd {
    int left, failed, busy;
    uint64_t hold_ms;
};

static err_t hold(struct db_tx *tx, void *arg)
{
    const struct crowd *crowd = arg;

    TRY(db_tx_run(tx, DB_ASK_PLAIN("SELECT 1"), NULL, NULL));
    return fiber_sleep(crowd->hold_ms);
}

static void holds(void *arg)
{
    struct crowd *crowd = arg;
    struct arena *own = arena_new(MEM_TOOL, ARENA_BYTES);
    err_t err;

    fiber_set_arena(own);
    err = db_transact(db, DB_WRITE, hold, crowd);
    if (err && err->kind == ERR_BUSY)
        crowd->busy++;
    else if (err)
        crowd->failed++;
    crowd->left--;
    fiber_set_arena(NULL);
    arena_free(own);
}

static void gather(struct crowd *crowd, int count)
{
    crowd->left = count;
    for (int i = 0; i < count; i++)
        assert_null(fiber_start("holder", holds, crowd, NULL));
    while (crowd->left > 0)
        sleep_ms(5);
}

static void a_crowd_takes_turns(void)
{
    struct crowd crowd = {.hold_ms = 20};

    gather(&crowd, CROWD);
    assert_int_equal(crowd.failed + crowd.busy, 0);
}

static void who_waits_too_long_is_told(void)
{
    struct crowd crowd = {.hold_ms = 2600};
    uint64_t began_ms = sys_now_ms();

    gather(&crowd, CONNECTIONS + 3);
    assert_int_equal(crowd.failed, 0);
    assert_int_equal(crowd.busy, 4);                    /* one connection listens */
    assert_true(sys_now_ms() - began_ms < 2600 + 2600); /* no two that follow each other */
    assert_true(db_is_up(db));
}

/* Send a signal to the server's side of all our connections. */
static void signal_victims(const struct db_rows *pids, int number)
{
    for (size_t i = 0; i < pids->count; i++)
        assert_int_equal(kill((pid_t)db_int(pids, i, 0), number), 0);
}

#define ASKERS (CONNECTIONS + 2)

struct asker {
    err_t err;
    int *left;
};

static void asks(void *arg)
{
    struct asker *asker = arg;

    fiber_set_arena(arena);
    asker->err = db_run(db, DB_READ, DB_ASK_PLAIN(count_all), NULL, NULL);
    --*asker->left;
    fiber_set_arena(NULL);
}

static void start_askers(struct asker askers[ASKERS], int *left)
{
    *left = ASKERS;
    for (int i = 0; i < ASKERS; i++) {
        askers[i] = (struct asker){.left = left};
        assert_null(fiber_start("asker", asks, &askers[i], NULL));
    }
}

/* More connections would not help: it is not their number that is to blame. */
static void a_server_that_is_frozen_is_named(void)
{
    static const char pids_of[] = "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity "
                                  "WHERE application_name = 'victim'";
    struct crowd crowd = {.hold_ms = 200};
    struct asker askers[ASKERS];
    struct db_rows pids;
    int left;

    gather(&crowd, CONNECTIONS - 1); /* one listens; now all are open */
    pids = run(other, DB_READ, DB_ASK_PLAIN(pids_of));
    assert_int_equal(pids.count, CONNECTIONS);
    signal_victims(&pids, SIGSTOP);
    start_askers(askers, &left);
    while (left > CONNECTIONS - 1) /* whoever found no connection */
        sleep_ms(5);
    assert_false(db_is_up(db));
    signal_victims(&pids, SIGCONT);
    while (left > 0)
        sleep_ms(5);
    for (int i = 0; i < ASKERS; i++) {
        if (i < CONNECTIONS - 1) {
            assert_null(askers[i].err);
            continue;
        }
        assert_code(askers[i].err, "store_away");
        assert_non_null(strstr(askers[i].err->text, "PostgreSQL has answered on none"));
    }
    assert_true(db_is_up(db));
}

/* Hold a table so long that nobody else has an answer about it. */
static err_t hold_table(struct db_tx *tx, void *arg)
{
    const int *left = arg;

    TRY(db_tx_run(tx, DB_ASK_PLAIN("LOCK TABLE faults IN ACCESS EXCLUSIVE MODE"), NULL, NULL));
    while (*left > CONNECTIONS - 1) /* whoever found no connection */
        TRY(fiber_sleep(5));
    return NULL;
}

static void holds_table(void *arg)
{
    fiber_set_arena(arena);
    assert_null(db_transact(other, DB_WRITE, hold_table, arg));
    fiber_set_arena(NULL);
}

static bool is_table_held(void)
{
    return ask_number(db, "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND "
                          "relation = CAST('faults' AS regclass) AND granted") == 1;
}

/* A server that is well, and locks of somebody else's: who cannot tell that from one that hangs must not blame it. */
static void locks_of_others_are_named(void)
{
    struct asker askers[ASKERS];
    int left = ASKERS;

    assert_null(fiber_start("holder", holds_table, &left, NULL));
    assert_true(comes_true(is_table_held, 10000));
    start_askers(askers, &left);
    while (left > 0)
        sleep_ms(5);
    for (int i = 0; i < ASKERS; i++) {
        if (i < CONNECTIONS - 1) {
            assert_null(askers[i].err);
            continue;
        }
        assert_code(askers[i].err, "store_away");
        assert_non_null(strstr(askers[i].err->text, "or all of them wait for locks"));
    }
    assert_true(db_is_up(db));
}

/* Nor where there are none yet, and none can be made. */
static void a_server_that_takes_no_connections_is_named(void)
{
    struct asker askers[ASKERS];
    int left;

    run(other, DB_WRITE, DB_ASK_PLAIN(end_victims));
    assert_int_equal(kill(postgres.child.pid, SIGSTOP), 0);
    sleep_ms(1100); /* since one was of use */
    start_askers(askers, &left);
    while (left > 0)
        sleep_ms(5);
    kill(postgres.child.pid, SIGCONT);
    for (int i = 0; i < ASKERS; i++)
        assert_true(err_is(askers[i].err, ERR_STORE)); /* not BUSY, which tells of their number */
    assert_true(comes_true(is_up, 10000));
}

static void leaving_the_queue_loses_no_turn(void)
{
    struct fiber *fibers[CROWD];
    struct crowd crowd = {.left = CROWD, .hold_ms = 3};

    for (int i = 0; i < CROWD; i++)
        assert_null(fiber_start("holder", holds, &crowd, &fibers[i]));
    for (int i = CROWD - 1; i >= CROWD / 2; i--) {
        fiber_cancel(fibers[i], &gone);
        if (i % 4 == 0)
            sleep_ms(1);
    }
    while (crowd.left > 0)
        sleep_ms(1);
    assert_int_equal(crowd.busy, 0);
    for (int i = 0; i < CONNECTIONS; i++)
        run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(i)));
}

/* What OpenSSL has read ahead of libpq shows at no socket. A read that is stuck ends with an error after 17 s. */
static void answers_by_tls_are_never_stuck(void)
{
    struct db *by_tls;

    assert_null(open_db(postgres.tls_url, 2, true, &by_tls));
    for (int64_t size = 1000; size < 150000; size += 1021) {
        struct arena *scope = arena_new(MEM_TOOL, ARENA_BYTES);
        struct db_rows rows;
        err_t err = db_run(by_tls, DB_READ,
                           DB_ASK("SELECT repeat('x', CAST($1 AS INTEGER)), $1 FROM "
                                  "generate_series(1, 3)",
                                  DB_OF_INT(size)),
                           scope, &rows);
        if (err)
            fail_msg("%lld bytes: %s", (long long)size, err->text);
        assert_int_equal(db_text(&rows, 2, 0).len, size);
        arena_free(scope);
    }
    db_close(by_tls);
}

/* The server has fewer than we may make: those that there are must do. */
static void fewer_than_wished_for_must_do(void)
{
    struct crowd crowd = {.hold_ms = 5};

    db_close(db);
    assert_null(open_db(url, 100, false, &db));
    gather(&crowd, CROWD);
    db_close(db);
    assert_null(open_db(url, CONNECTIONS, false, &db));
    assert_int_equal(crowd.failed + crowd.busy, 0);
}

struct locker {
    int64_t first, second;
    int runs, *left, *locked;
    err_t err;
};

static err_t lock_both(struct db_tx *tx, void *arg)
{
    static const char lock[] = "SELECT n FROM faults WHERE id = $1 {{for_update}}";
    struct locker *locker = arg;

    locker->runs++;
    TRY(db_tx_run(tx, DB_ASK(lock, DB_OF_INT(locker->first)), NULL, NULL));
    ++*locker->locked;
    while (*locker->locked < 2 && *locker->left == 2) /* until the other one has its first, too */
        TRY(fiber_sleep(1));
    return db_tx_run(tx, DB_ASK(lock, DB_OF_INT(locker->second)), NULL, NULL);
}

static void locks(void *arg)
{
    struct locker *locker = arg;

    fiber_set_arena(arena);
    locker->err = db_transact(db, DB_WRITE, lock_both, locker);
    --*locker->left;
    fiber_set_arena(NULL);
}

static void deadlocks_are_run_again(void)
{
    int left = 2, locked = 0;
    struct locker one = {.first = 1, .second = 2, .left = &left, .locked = &locked};
    struct locker two = {.first = 2, .second = 1, .left = &left, .locked = &locked};

    run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(1)));
    run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(2)));
    assert_null(fiber_start("one", locks, &one, NULL));
    assert_null(fiber_start("two", locks, &two, NULL));
    while (left > 0)
        sleep_ms(5);
    assert_null(one.err);
    assert_null(two.err);
    assert_true(one.runs + two.runs >= 3); /* the one that lost may meet the other once more */
}

/* ---- notices ---- */

static uint64_t seen;

static bool topic_rose(void)
{
    return db_topic_version(db, "faults_topic") > seen;
}

static err_t tell(struct db_tx *tx, void *arg)
{
    return db_tx_notify(tx, "faults_topic");
}

static void topics_reach_other_processes(void **state)
{
    struct db *process;

    assert_null(open_db(url, 2, false, &process));
    sleep_ms(300); /* hearing raises all once */
    seen = db_topic_version(db, "faults_topic");
    assert_null(db_transact(process, DB_WRITE, tell, NULL));
    assert_true(comes_true(topic_rose, 10000));
    sleep_ms(50);
    seen = db_topic_version(db, "faults_topic");
    run(other, DB_WRITE, DB_ASK_PLAIN(end_victims)); /* what is told meanwhile is missed */
    assert_true(comes_true(topic_rose, 10000));
    db_close(process);
}

/* ---- the server goes away ---- */

static void a_server_that_is_away_is_not_waited_for(void **state)
{
    uint64_t began_ms;

    postgres_end(SIGINT);
    sleep_ms(AWAY_AFTER_MS);
    began_ms = sys_now_ms();
    for (int i = 0; i < 20; i++)
        assert_code(db_run(db, DB_READ, DB_ASK_PLAIN(count_all), NULL, NULL), "store_away");
    assert_true(sys_now_ms() - began_ms < 3000); /* one that waits takes longer */
    assert_false(db_is_up(db));
    assert_true(postgres_start("max_connections=12"));
    assert_true(comes_true(is_up, 10000)); /* without a call */
    assert_null(db_run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(1)), NULL, NULL));
}

#define WRITERS  6
#define MOST_IDS 200000

/* Writers that note what was acknowledged, while the server is taken away under them. */
static struct {
    atomic_bool is_over;
    atomic_int next_id;
    _Atomic uint64_t last_error_ms, last_success_ms;
    uint8_t is_acknowledged[MOST_IDS];
    int left[2];
} load;

static void writes(void *arg)
{
    int *left = arg;
    struct arena *own = arena_new(MEM_TOOL, ARENA_BYTES);

    fiber_set_arena(own);
    while (!atomic_load(&load.is_over)) {
        int id = atomic_fetch_add(&load.next_id, 1);
        err_t err = id < MOST_IDS ? db_run(db, DB_WRITE, DB_ASK(insert, DB_OF_INT(id)), NULL, NULL)
                                  : fiber_sleep(10);
        if (!err && id < MOST_IDS)
            load.is_acknowledged[id] = 1;
        atomic_store(err ? &load.last_error_ms : &load.last_success_ms, sys_now_ms());
        if (err)
            assert_null(fiber_sleep(5));
    }
    fiber_set_arena(NULL);
    arena_free(own);
    if (--*left == 0)
        loop_stop(loop_self());
}

/* For a while now. */
static bool writes_go_well(void)
{
    return atomic_load(&load.last_success_ms) > atomic_load(&load.last_error_ms) + 200;
}

static void *write_in_thread(void *arg)
{
    struct loop *loop;

    assert_null(loop_open(&loop));
    for (int i = 0; i < WRITERS; i++)
        assert_null(fiber_start_later("writer", writes, arg, NULL));
    loop_run(loop);
    loop_close(loop);
    return NULL;
}

static void assert_all_acknowledged_are_there(void)
{
    static const char ids[] = "SELECT id FROM faults ORDER BY id";
    struct db_rows rows = run(db, DB_READ, DB_ASK_PLAIN(ids));
    size_t at = 0, acknowledged = 0;

    for (int64_t id = 0; id < MOST_IDS; id++) {
        while (at < rows.count && db_int(&rows, at, 0) < id)
            at++;
        acknowledged += load.is_acknowledged[id];
        if (load.is_acknowledged[id] && (at == rows.count || db_int(&rows, at, 0) != id))
            fail_msg("row %lld was acknowledged and is lost", (long long)id);
    }
    print_message("%zu rows acknowledged, %zu there\n", acknowledged, rows.count);
    assert_true(acknowledged > 20 && rows.count - acknowledged <= 2 * 2 * WRITERS);
}

static void go_away_under_load(int number)
{
    pthread_t threads[2];
    uint64_t began_ms;

    memset(&load, 0, sizeof(load));
    for (int i = 0; i < 2; i++) {
        load.left[i] = WRITERS;
        assert_int_equal(pthread_create(&threads[i], NULL, write_in_thread, &load.left[i]), 0);
    }
    sleep_ms(500);
    postgres_end(number);
    assert_true(postgres_start("max_connections=12"));
    began_ms = sys_now_ms();
    sleep_ms(2500);
    assert_true(comes_true(writes_go_well, 10000));
    atomic_store(&load.is_over, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&load.last_error_ms) < began_ms + 5000);
    assert_true(atomic_load(&load.last_success_ms) > atomic_load(&load.last_error_ms));
    assert_all_acknowledged_are_there();
}

static void a_restart_loses_nothing_acknowledged(void **state)
{
    go_away_under_load(SIGINT);
}

static void a_killed_server_loses_nothing_acknowledged(void **state)
{
    go_away_under_load(SIGKILL);
}

/* ---- the runner ---- */

static int begin(void **state)
{
    arena = arena_new(MEM_TOOL, ARENA_BYTES);
    err_scope_set(arena);
    if (db_run(other, DB_WRITE, DB_ASK_PLAIN("DROP TABLE IF EXISTS faults"), NULL, NULL))
        return -1;
    run(other, DB_WRITE, DB_ASK_PLAIN("CREATE TABLE faults (id BIGINT PRIMARY KEY, n BIGINT)"));
    return 0;
}

static int end(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    return 0;
}

static int open_all(void **state)
{
    const char *address = postgres_open("max_connections=12");

    if (!address) {
        fprintf(stderr, "\n*** PostgreSQL is NOT tested: it is not installed ***\n");
        exit(0);
    }
    snprintf(url, sizeof(url), "%s?application_name=victim", address);
    if (open_db(url, CONNECTIONS, false, &db) || open_db(address, 1, true, &other))
        return -1;
    return 0;
}

static int close_all(void **state)
{
    db_close(db);
    db_close(other);
    offload_stop_all();
    postgres_close();
    return mem_in_use(MEM_TOOL) == 0 ? 0 : -1;
}

static void run_inside(void **state)
{
    run_in_fiber(*(void (**)(void))*state);
}

/* The server ends a statement after a while: of a report that means that it asks for too much. */
static void reports_have_an_end(void **state)
{
    run(db, DB_READ, DB_ASK_PLAIN("SELECT set_config('statement_timeout', '50ms', false)"));
    err_t err = db_run(db, DB_REPORT, DB_ASK_PLAIN("SELECT CAST(pg_sleep(5) AS TEXT)"), NULL, NULL);

    assert_true(err_is(err, ERR_BAD_REQUEST));
    assert_string_equal(err->code, "too_long");
    assert_true(db_is_up(db));
    err = db_run(db, DB_READ, DB_ASK_PLAIN("SELECT CAST(pg_sleep(5) AS TEXT)"), NULL, NULL);
    assert_true(err_is(err, ERR_STORE));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
#define INSIDE(test)                                                                               \
    {                                                                                              \
        #test, run_inside, begin, end, &(void (*)(void))                                           \
        {                                                                                          \
            test                                                                                   \
        }                                                                                          \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_wrong_at_the_start_is_said),
        TEST(passwords_are_asked_for_and_checked),
        TEST(failing_allocations_at_the_start_are_reported),
        TEST(types_are_those_of_the_values),
        TEST(a_changed_schema_is_seen),
        TEST(reports_have_an_end),
        INSIDE(what_is_cut_before_the_commit_runs_again),
        INSIDE(what_is_cut_in_the_commit_does_not_run_again),
        INSIDE(cut_while_idle_is_not_even_noticed),
        INSIDE(what_is_cut_leaves_the_loop),
        INSIDE(cancelled_statements_end_on_both_sides),
        INSIDE(a_stopped_server_process_holds_up_nobody_else),
        INSIDE(a_crowd_takes_turns),
        INSIDE(who_waits_too_long_is_told),
        INSIDE(a_server_that_is_frozen_is_named),
        INSIDE(locks_of_others_are_named),
        INSIDE(a_server_that_takes_no_connections_is_named),
        INSIDE(leaving_the_queue_loses_no_turn),
        INSIDE(answers_by_tls_are_never_stuck),
        INSIDE(fewer_than_wished_for_must_do),
        INSIDE(deadlocks_are_run_again),
        TEST(topics_reach_other_processes),
        TEST(a_server_that_is_away_is_not_waited_for),
        TEST(a_restart_loses_nothing_acknowledged),
        TEST(a_killed_server_loses_nothing_acknowledged),
    };

    return cmocka_run_group_tests(tests, open_all, close_all);
}
