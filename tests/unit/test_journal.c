/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: every stream that a crash breaks off has one row; damaged and hostile files; system calls that fail. */
#include "govern_world.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "govern/journal.h"
#include "govern/journal_file.h"
#include "govern/journal_recovery.h"

#define OUTCOME_COUNT(outcome) "SELECT COUNT(*) FROM ledger WHERE outcome = '" outcome "'"
#define ALL_ROWS               "SELECT COUNT(*) FROM ledger"

/* ---- a journal beside the world's store ---- */

static const char *conf_here(void)
{
    static char text[256];

    snprintf(text, sizeof(text), "store: \"sqlite:%s/sluice.db\"", world.folder);
    return text;
}

static void begin(void)
{
    begin_world(conf_here());
    assert_ok(journal_service.open(world.db, world.conf));
}

/* What a process does that is then killed. */
static void in_killed_process(void (*body)(void))
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        begin();
        body();
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void end(void)
{
    journal_close();
    end_world();
}

static void restart(void)
{
    end();
    begin();
}

static const char *file_path(unsigned number)
{
    static char path[JOURNAL_PATH_BYTES];

    assert_ok(journal_file_path(world.conf, number, path));
    return path;
}

/* ---- streams ---- */

static struct ledger_row row_of(const char *id)
{
    return (struct ledger_row){.at_ms = sys_wall_ms(),
                               .request_id = str_from(id),
                               .org = STR("org"),
                               .project = STR("proj"),
                               .key = STR("key"),
                               .user = STR("alice"),
                               .model = STR("smart"),
                               .provider = STR("fake"),
                               .upstream_model = STR("m-1"),
                               .route = STR("/v1/chat/completions"),
                               .attempts = 1,
                               .input = 21};
}

static struct journal_slot *open_stream(const char *id, unsigned booked)
{
    struct ledger_row row = row_of(id);

    return journal_open(&row, booked, world.arena);
}

static void end_stream(struct journal_slot *slot, const char *id)
{
    struct ledger_row row = row_of(id);

    row.outcome = STR("completed");
    row.status = 200;
    row.ms = 1234;
    row.output = 7;
    row.has_cost = true;
    row.cost_nano = 99;
    ledger_add_stream(&row, NULL, slot);
}

/* ---- one row for each ---- */

static void open_one(void)
{
    assert_non_null(open_stream("req-1", 0));
}

static void test_open_stream_is_killed(void **state)
{
    in_killed_process(open_one);
    begin();
    assert_int_equal(ask_number(ALL_ROWS), 1);
    assert_int_equal(
        ask_number("SELECT COUNT(*) FROM ledger WHERE request_id = 'req-1' AND org_id = 'org' AND "
                   "project_id = 'proj' AND key_id = 'key' AND user_id = 'alice' AND model = "
                   "'smart' AND provider = 'fake' AND upstream_model = 'm-1' AND route = "
                   "'/v1/chat/completions' AND outcome = 'killed' AND status = 503 AND attempts = "
                   "1 AND input = 21 AND output = 0 AND is_estimated = 1 AND cost_nano IS NULL"),
        1);
    assert_int_equal(ask_number("SELECT SUM(calls) FROM usage_hours"), 1);
    restart();
    assert_int_equal(ask_number(ALL_ROWS), 1);
    end();
}

static void add_and_wait(void)
{
    end_stream(open_stream("done", 0), "done");
    end_stream(NULL, "not noted");
    wait_until(ledger_waiting() == 0);
}

static void commit_one(void)
{
    in_world(add_and_wait);
}

static void test_committed_stream_has_one_row(void **state)
{
    in_killed_process(commit_one);
    begin();
    assert_int_equal(ask_number(ALL_ROWS), 2);
    assert_int_equal(ask_number(OUTCOME_COUNT("completed")), 2);
    end();
}

/* Their rows wait in memory when the process dies. */
static void commit_one_and_not_another(void)
{
    in_world(add_and_wait);
    end_stream(open_stream("late", 0), "late");
}

static void test_row_that_waited_is_entered(void **state)
{
    in_killed_process(commit_one_and_not_another);
    begin();
    assert_int_equal(ask_number(ALL_ROWS), 3);
    assert_int_equal(
        ask_number("SELECT COUNT(*) FROM ledger WHERE request_id = 'late' AND outcome = "
                   "'completed' AND status = 200 AND duration_ms = 1234 AND input = 21 AND output "
                   "= 7 AND cost_nano = 99 AND is_estimated = 0"),
        1);
    end();
}

/* What leases are booked for is in no row twice; who is said to have completed is charged to the token. */
static void reserve_and_die(void)
{
    (void)open_stream("t", JOURNAL_BOOKED_TOKENS);
    (void)open_stream("c", JOURNAL_BOOKED_COST);
    end_stream(open_stream("ended", JOURNAL_BOOKED_TOKENS | JOURNAL_BOOKED_COST), "ended");
}

static void test_booked_charge_is_left_out(void **state)
{
    in_killed_process(reserve_and_die);
    begin();
    assert_int_equal(ask_number(OUTCOME_COUNT("killed")), 3);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE request_id = 't' AND input = 0 "
                                "AND cost_nano IS NULL"),
                     1);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE request_id = 'c' AND input = "
                                "21 AND cost_nano = 0"),
                     1);
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE request_id = 'ended' AND input "
                                "+ output + cost_nano = 0 AND duration_ms = 1234"),
                     1);
    end();
}

static void ask_others(void)
{
    struct journal_slot *slot = open_stream("moved", 0);
    struct ledger_row row = row_of("moved");
    char name[16];

    for (int n = 2; n < 100; n++) { /* more than have room: the last that fits is kept */
        snprintf(name, sizeof(name), "m-%d", n);
        row.upstream_model = str_from(name);
        row.attempts = (uint64_t)n;
        journal_name_target(slot, &row);
    }
}

static void test_who_was_asked_last(void **state)
{
    in_killed_process(ask_others);
    begin();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE attempts > 2 AND upstream_model "
                                "= 'm-' || attempts AND provider = 'fake'"),
                     1);
    end();
}

/* The longest texts that may come. */
static void open_long(void)
{
    static char text[2048];
    struct ledger_row row = row_of("long");

    memset(text, 'x', sizeof(text));
    row.request_id = (struct str){text, 128};
    row.user = row.model = row.upstream_model = (struct str){text, sizeof(text)};
    assert_non_null(journal_open(&row, 0, world.arena));
    row.project = (struct str){text, sizeof(text)};
    assert_null(journal_open(&row, 0, world.arena));
}

static void test_long_texts_are_cut(void **state)
{
    in_killed_process(open_long);
    begin();
    assert_int_equal(ask_number("SELECT COUNT(*) FROM ledger WHERE length(user_id) = 512 AND "
                                "length(model) = 200 AND length(upstream_model) = 200 AND "
                                "length(request_id) = 128"),
                     1);
    end();
}

/* ---- room ---- */

#define MANY 9000 /* more than a segment holds */

static void open_many(void)
{
    static struct journal_slot *slots[MANY];
    char id[32];

    for (int i = 0; i < MANY; i++) {
        snprintf(id, sizeof(id), "req-%d", i);
        assert_non_null(slots[i] = open_stream(id, 0));
    }
    assert_true(journal_used() == MANY);
    for (int i = 0; i < MANY; i += 3)
        end_stream(slots[i], "ended");
}

static void test_file_grows(void **state)
{
    in_killed_process(open_many);
    begin();
    assert_int_equal(ask_number(OUTCOME_COUNT("completed")), MANY / 3);
    assert_int_equal(ask_number(OUTCOME_COUNT("killed")), MANY - MANY / 3);
    assert_int_equal(ask_number("SELECT COUNT(DISTINCT request_id) FROM ledger"), MANY);
    end();
}

static void come_and_go(void)
{
    for (int i = 0; i < 20000; i++) {
        struct journal_slot *slot = open_stream("req", 0);
        assert_non_null(slot);
        end_stream(slot, "req");
        if (i % 500 == 0)
            wait_until(ledger_waiting() == 0);
    }
    wait_until(ledger_waiting() == 0);
    assert_int_equal(journal_used(), 0);
}

/* What is committed is free again. */
static void test_room_comes_back(void **state)
{
    struct stat info;

    begin();
    in_world(come_and_go);
    assert_int_equal(stat(file_path(0), &info), 0);
    assert_int_equal(info.st_size, JOURNAL_HEAD_BYTES + JOURNAL_SEGMENT_BYTES);
    restart();
    assert_int_equal(ask_number(ALL_ROWS), 20000);
    end();
}

#define THREADS     4
#define OF_A_THREAD 1500

static void *open_in_thread(void *name)
{
    struct arena *arena = arena_new(MEM_TOOL, 1024 * 1024);
    char id[32];

    for (int i = 0; i < OF_A_THREAD; i++) {
        struct ledger_row row;
        snprintf(id, sizeof(id), "%s-%d", (const char *)name, i);
        row = row_of(id);
        end_stream(journal_open(&row, 0, arena), id);
        assert_non_null(journal_open(&row, 0, arena));
    }
    return NULL;
}

static void open_in_threads(void)
{
    static char names[THREADS][2] = {"a", "b", "c", "d"};
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_in_thread, names[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

/* That share slots, as threads without a loop do. */
static void test_threads(void **state)
{
    in_killed_process(open_in_threads);
    begin();
    assert_int_equal(ask_number(OUTCOME_COUNT("completed")), THREADS * OF_A_THREAD);
    assert_int_equal(ask_number(OUTCOME_COUNT("killed")), THREADS * OF_A_THREAD);
    assert_int_equal(ask_number("SELECT COUNT(DISTINCT request_id) FROM ledger"),
                     THREADS * OF_A_THREAD);
    end();
}

/* A row for which the ledger had no room is lost, and its record is not kept for ever. */
static void test_record_of_a_lost_row_goes(void **state)
{
    struct ledger_row row;
    struct journal_slot *slot;

    begin();
    row = row_of("lost");
    slot = open_stream("lost", 0);
    assert_int_equal(journal_used(), 1);
    row.outcome = STR("completed");
    journal_end(slot, &row);
    journal_seal(slot, 0);
    assert_int_equal(journal_used(), 0);
    restart();
    assert_int_equal(ask_number(ALL_ROWS), 0);
    end();
}

static void test_full_disk(void **state)
{
    char id[32];

    begin();
    sys_set_clock_ms(1000);
    for (int i = 0; open_stream("req", 0); i++) {
        snprintf(id, sizeof(id), "%d", i);
        sys_fail_nth(1);
        assert_true(i < MANY);
    }
    sys_fail_nth(0);
    assert_null(open_stream("too soon", 0));
    sys_set_clock_ms(3000);
    assert_non_null(open_stream("there is room again", 0));
    sys_set_clock_ms(0);
    end();
}

/* ---- files of others, and damaged ones ---- */

static void test_file_of_a_live_process_is_left_alone(void **state)
{
    int fd, other;

    in_killed_process(open_one);
    open_store(conf_here());
    assert_ok(journal_file_lock(file_path(0), false, &fd));
    assert_true(fd >= 0);
    assert_ok(journal_file_lock(file_path(0), false, &other));
    assert_int_equal(other, -1);
    close_store();
    begin();
    assert_int_equal(ask_number(ALL_ROWS), 0);
    assert_int_equal(access(file_path(1), F_OK), 0);
    end();
    sys_close(fd);
    begin(); /* both are nobody's now: one is removed */
    assert_int_equal(ask_number(ALL_ROWS), 1);
    assert_int_not_equal(access(file_path(1), F_OK), 0);
    end();
}

static char *image;
static size_t image_bytes;

static void load_image(void)
{
    struct stat info;
    int fd = open(file_path(0), O_RDONLY);

    assert_true(fd >= 0 && fstat(fd, &info) == 0);
    image_bytes = (size_t)info.st_size;
    image = malloc(image_bytes);
    assert_int_equal(read(fd, image, image_bytes), image_bytes);
    close(fd);
}

static void save_image(size_t bytes)
{
    int fd = open(file_path(0), O_WRONLY | O_TRUNC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, image, bytes), bytes);
    close(fd);
}

static struct journal_recovery enter_image(err_t *err)
{
    struct journal_recovery found;
    int fd = open(file_path(0), O_RDONLY);

    assert_true(fd >= 0);
    *err = journal_recovery_enter(world.db, fd, &found);
    close(fd);
    return found;
}

/* Of a process that died with three streams. */
static void with_image(void (*body)(void))
{
    in_killed_process(reserve_and_die);
    open_store(conf_here());
    load_image();
    body();
    free(image);
    ledger_service.close(world.db);
    close_store();
}

static void enter_twice(void)
{
    err_t err;

    for (int i = 0; i < 3; i++) { /* as if the start had been killed before the file was emptied */
        assert_int_equal(enter_image(&err).killed, 2);
        assert_ok(err);
        assert_int_equal(ask_number(ALL_ROWS), 3);
    }
    assert_ok(db_run(world.db, DB_WRITE, DB_ASK_PLAIN("DELETE FROM ledger_writers"), NULL, NULL));
    assert_int_equal(enter_image(&err).restored, 0); /* nobody knows: that is long ago */
}

static void test_start_that_is_killed_enters_nothing_twice(void **state)
{
    with_image(enter_twice);
}

static void cut_anywhere(void)
{
    size_t first = JOURNAL_HEAD_BYTES, i;
    struct journal_recovery found;
    err_t err;

    for (i = 0; i <= first + 8192; i += i < 200 || i > first ? 61 : 6007) {
        save_image(i);
        found = enter_image(&err);
        assert_ok(err);
        assert_true(found.killed + found.restored + found.damaged <= 3);
    }
    assert_int_equal(found.killed + found.restored, 3);
    assert_true(ask_number(ALL_ROWS) >= 3);
}

static void test_cut_file(void **state)
{
    with_image(cut_anywhere);
}

/* A byte that is wrong costs one stream, or none. */
static void spoil_anywhere(void)
{
    struct journal_stream stream;
    char *chunk = image + JOURNAL_HEAD_BYTES;
    int good = 0, rows;

    for (size_t at = 0; at < 8 * JOURNAL_SLOT_BYTES; at++) {
        for (int bit = 0; bit < 8; bit += 3) {
            chunk[at] ^= (char)(1 << bit);
            rows = 0;
            for (size_t slot = JOURNAL_FIRST_SLOT; slot < JOURNAL_SLOTS; slot += stream.slots) {
                enum journal_kind kind = journal_read(chunk, slot, &stream);
                rows += kind == JOURNAL_OPEN || kind == JOURNAL_ENDED;
            }
            assert_true(rows == 2 || rows == 3);
            good += rows == 3;
            chunk[at] ^= (char)(1 << bit);
        }
    }
    assert_true(good > 0); /* what lies behind texts is of no matter */
}

static void test_wrong_bytes(void **state)
{
    with_image(spoil_anywhere);
}

static void spoil_head(void)
{
    struct journal_recovery found;
    err_t err;

    for (size_t at = 0; at < sizeof(struct journal_head); at += 3) {
        image[at] ^= 4;
        save_image(image_bytes);
        image[at] ^= 4;
        found = enter_image(&err);
        assert_ok(err);
        assert_true(found.damaged == 1 && found.killed + found.restored == 0);
    }
    assert_int_equal(ask_number(ALL_ROWS), 0);
}

static void test_wrong_head(void **state)
{
    with_image(spoil_head);
}

/* ---- what fails ---- */

/* The server starts, and now or at a later start each stream has its row. The first calls are all tried, then fewer. */
static void test_failing_calls(void **state)
{
    bool is_over = false;
    int64_t rounds = 0;

    for (uint64_t n = 1; !is_over; n += 1 + n / 32, rounds++) {
        in_killed_process(reserve_and_die);
        open_store(conf_here());
        assert_ok(ledger_service.open(world.db, world.conf));
        sys_fail_nth(n);
        assert_ok(journal_service.open(world.db, world.conf));
        is_over = sys_fail_count() < n;
        sys_fail_nth(0);
        (void)open_stream("another", 0); /* there may be a journal, or not */
        journal_close();
        ledger_service.close(world.db);
        close_store();
        open_store(conf_here());
        assert_ok(journal_service.open(world.db, world.conf));
        assert_int_equal(ask_number(OUTCOME_COUNT("killed") " AND request_id <> 'another'"),
                         3 * (rounds + 1));
        journal_close();
        ledger_service.close(world.db);
        close_store();
        metrics_close();
    }
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
}

static void test_failing_allocations(void **state)
{
    bool is_over = false;
    int64_t rounds = 0;

    for (uint64_t n = 1; !is_over; n += 1 + n / 16, rounds++) {
        in_killed_process(reserve_and_die);
        open_store(conf_here());
        assert_ok(ledger_service.open(world.db, world.conf));
        mem_fail_nth(n);
        assert_ok(journal_service.open(world.db, world.conf));
        is_over = mem_fail_count() < n;
        mem_fail_nth(0);
        journal_close();
        ledger_service.close(world.db);
        close_store();
        open_store(conf_here());
        assert_ok(journal_service.open(world.db, world.conf));
        assert_int_equal(ask_number(OUTCOME_COUNT("killed")), 3 * (rounds + 1));
        journal_close();
        ledger_service.close(world.db);
        close_store();
        metrics_close();
    }
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
}

/* Nothing is logged: the level outlasts the writer, whose thread the processes that are killed shall not have. */
static int begin_alone(void **state)
{
    const struct log_options nothing = {.level = LOG_ERROR + 1, .path = "/dev/null"};

    if (db_sqlite_adopt() || log_open(&nothing))
        return -1;
    log_close();
    fault_install_io();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_open_stream_is_killed),
        TEST(test_committed_stream_has_one_row),
        TEST(test_row_that_waited_is_entered),
        TEST(test_booked_charge_is_left_out),
        TEST(test_who_was_asked_last),
        TEST(test_long_texts_are_cut),
        TEST(test_file_grows),
        TEST(test_room_comes_back),
        TEST(test_threads),
        TEST(test_record_of_a_lost_row_goes),
        TEST(test_full_disk),
        TEST(test_file_of_a_live_process_is_left_alone),
        TEST(test_start_that_is_killed_enters_nothing_twice),
        TEST(test_cut_file),
        TEST(test_wrong_bytes),
        TEST(test_wrong_head),
        TEST(test_failing_calls),
        TEST(test_failing_allocations),
    };

    return cmocka_run_group_tests_name("journal", tests, begin_alone, NULL);
}
