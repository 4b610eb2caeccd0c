/* SPDX-License-Identifier: Apache-2.0 */
/* What only a file can suffer: a disk that fails at any call, SIGKILL at any call, damage, a second server, a lock that
 * somebody else holds; and copies of it.
 *
 * The invariant after everything: what was acknowledged is there, and no transaction is there by half. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fault_vfs.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "observe/log.h"
#include "store/db_sqlite.h"

#define TURNS 6

static char folder[64], path[128], url[160];
static struct arena *arena;

/* ---- helpers ---- */

static char *name(const char *suffix)
{
    static char names[4][160];
    static int at;

    at = (at + 1) % 4;
    snprintf(names[at], sizeof(names[at]), "%s%s", path, suffix);
    return names[at];
}

static void shell(const char *command)
{
    char line[256];

    snprintf(line, sizeof(line), "cd %s && %s", folder, command);
    assert_int_equal(system(line), 0);
}

static err_t open_as(bool is_tool, struct db **db)
{
    struct db_options options = {.url = str_from(url), .is_tool = is_tool};

    return db_open(&options, db);
}

static struct db *open_db(void)
{
    struct db *db = NULL;
    err_t err = open_as(false, &db);

    if (err)
        fail_msg("%s", err->text);
    return db;
}

/* It is refused as a server's, with a text that says this. */
static void assert_refused(const char *text)
{
    struct db *db = NULL;
    err_t err = open_as(false, &db);

    if (!err) {
        db_close(db);
        fail_msg("opened, although: %s", text);
    }
    assert_null(db);
    if (err->kind != ERR_STORE || !strstr(err->text, text))
        fail_msg("'%s' is missing in: %s", text, err->text);
}

static err_t make_tables(struct db_tx *tx, void *arg)
{
    TRY(db_tx_run(tx,
                  DB_ASK_PLAIN("CREATE TABLE IF NOT EXISTS pair_a (n BIGINT PRIMARY KEY, x TEXT)"),
                  NULL, NULL));
    return db_tx_run(tx, DB_ASK_PLAIN("CREATE TABLE IF NOT EXISTS pair_b (n BIGINT PRIMARY KEY)"),
                     NULL, NULL);
}

/* Both tables get the next number, or none does. */
static err_t add_pair(struct db_tx *tx, void *arg)
{
    static const char a[] = "INSERT INTO pair_a SELECT coalesce(max(n), 0) + 1, $1 FROM pair_a";
    static const char b[] = "INSERT INTO pair_b SELECT coalesce(max(n), 0) + 1 FROM pair_b";

    TRY(db_tx_run(tx, DB_ASK(a, DB_OF_TEXT(STR("some text to take up space"))), NULL, NULL));
    return db_tx_run(tx, DB_ASK_PLAIN(b), NULL, NULL);
}

static err_t read_number(struct db *db, const char *sql, int64_t *out)
{
    struct db_rows rows;

    TRY(db_run(db, DB_READ, DB_ASK_PLAIN(sql), arena, &rows));
    *out = db_int(&rows, 0, 0);
    return NULL;
}

static int64_t count_pairs(struct db *db)
{
    int64_t a = -1, b = -2;

    assert_null(read_number(db, "SELECT count(*) FROM pair_a", &a));
    assert_null(read_number(db, "SELECT count(*) FROM pair_b", &b));
    assert_int_equal(a, b);
    return a;
}

static struct db *open_with_pairs(int count)
{
    struct db *db = open_db();

    assert_null(db_transact(db, DB_WRITE, make_tables, NULL));
    for (int i = 0; i < count; i++)
        assert_null(db_transact(db, DB_WRITE, add_pair, NULL));
    return db;
}

static void assert_code(err_t err, const char *code)
{
    assert_non_null(err);
    if (!err_is(err, ERR_STORE) || !err->code || strcmp(err->code, code) != 0)
        fail_msg("%s is missing in: %s", code, err->text);
}

static int set_up(void **state)
{
    snprintf(folder, sizeof(folder), "/tmp/sluice-sqlite-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/sluice.db", folder);
    snprintf(url, sizeof(url), "sqlite:%s", path);
    arena = arena_new(MEM_TOOL, (size_t)64 * 1024 * 1024);
    err_scope_set(arena);
    fault_arm_io(0, 0, 0, false);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    fault_arm_io(0, 0, 0, false);
    offload_stop_all();
    err_scope_set(NULL);
    arena_free(arena);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void begin_anew(void)
{
    arena_reset(arena);
    shell("rm -rf ./*");
}

/* ---- a disk that fails ---- */

/* Open, write, close; returns how many pairs were acknowledged. *met: an error was reported. */
static int work(bool *met)
{
    struct db *db;
    int acknowledged = 0;

    *met = true;
    if (open_as(false, &db))
        return 0;
    *met = db_transact(db, DB_WRITE, make_tables, NULL) != NULL;
    for (int i = 0; i < TURNS; i++)
        if (db_transact(db, DB_WRITE, add_pair, NULL))
            *met = true;
        else
            acknowledged++;
    db_close(db);
    return acknowledged;
}

/* `may_have`: one more than was acknowledged may be there for each error. */
static void assert_holds(int acknowledged, int may_have)
{
    struct db *db = open_db();
    int64_t count;

    assert_null(db_transact(db, DB_WRITE, make_tables, NULL));
    count = count_pairs(db);
    assert_in_range(count, acknowledged, may_have);
    assert_null(db_transact(db, DB_WRITE, add_pair, NULL));
    db_close(db);
}

static void fail_every(int kinds, int number, bool is_lasting)
{
    bool has_struck = true;

    for (int n = 1; has_struck; n++) {
        bool met;
        int acknowledged;
        fault_arm_io(kinds, n, number, is_lasting);
        acknowledged = work(&met);
        has_struck = atomic_load(&fault_io.left) <= 0;
        fault_arm_io(0, 0, 0, false);
        if (!has_struck)
            assert_int_equal(acknowledged, TURNS);
        assert_holds(acknowledged, met ? TURNS : acknowledged);
        begin_anew();
        assert_true(n < 2000);
    }
}

static void every_write_may_fail(void **state)
{
    fail_every(FAULT_WRITE, EIO, false);
}

static void every_write_may_find_no_space(void **state)
{
    fail_every(FAULT_WRITE, ENOSPC, true);
}

static void every_sync_may_fail(void **state)
{
    fail_every(FAULT_SYNC, EIO, false);
    fail_every(FAULT_SYNC, ENOSPC, true);
}

static void every_truncation_and_deletion_may_fail(void **state)
{
    fail_every(FAULT_TRUNCATE | FAULT_DELETE, EIO, false);
}

static void full_disk_refuses_writes_and_recovers(void **state)
{
    struct db *db = open_with_pairs(2);
    err_t err;

    fault_arm_io(FAULT_WRITE, 1, ENOSPC, true);
    for (int i = 0; i < 5; i++) {
        err = db_transact(db, DB_WRITE, add_pair, NULL);
        assert_code(err, "storage_full");
        assert_int_equal(err_status(err), 507);
        assert_int_equal(count_pairs(db), 2);
    }
    fault_arm_io(0, 0, 0, false);
    assert_null(db_transact(db, DB_WRITE, add_pair, NULL));
    assert_int_equal(count_pairs(db), 3);
    assert_true(db_is_up(db));
    db_close(db);
}

static void failed_sync_makes_the_store_suspect(void **state)
{
    struct db *db = open_with_pairs(2);

    fault_arm_io(FAULT_SYNC, 1, EIO, false);
    assert_code(db_transact(db, DB_WRITE, add_pair, NULL), "store_damaged");
    assert_false(db_is_up(db));
    /* The disk would say yes now; we do not ask it. */
    assert_code(db_transact(db, DB_WRITE, add_pair, NULL), "store_damaged");
    assert_code(db_run(db, DB_WRITE, DB_ASK_PLAIN("DELETE FROM pair_a"), NULL, NULL),
                "store_damaged");
    assert_int_equal(count_pairs(db), 2);
    assert_false(db_is_up(db));
    db_close(db);
    assert_holds(2, 3);
}

static err_t add_much(struct db_tx *tx, void *arg)
{
    for (int i = 0; i < 300; i++)
        TRY(db_tx_run(
            tx, DB_ASK_PLAIN("INSERT INTO pair_a SELECT max(n) + 1, zeroblob(16000) FROM pair_a"),
            NULL, NULL));
    return NULL;
}

/* The commit that brings the log to its limit is safe; what fails is carrying the log over. */
static void failed_sync_of_the_file_makes_it_suspect_too(void **state)
{
    struct db *db = open_with_pairs(1);

    /* The second sync is the log's again, before pages are copied; the third is the file's. */
    fault_arm_io(FAULT_SYNC, 3, EIO, false);
    assert_null(db_transact(db, DB_WRITE, add_much, NULL));
    assert_true(atomic_load(&fault_io.left) <= 0);
    assert_false(db_is_up(db));
    assert_code(db_transact(db, DB_WRITE, add_pair, NULL), "store_damaged");
    db_close(db);
    fault_arm_io(0, 0, 0, false);
    db = open_db();
    int64_t count = 0;
    assert_null(read_number(db, "SELECT count(*) FROM pair_a", &count));
    assert_int_equal(count, 301);
    db_close(db);
}

/* ---- SIGKILL ---- */

/* In a child: work, and tell the parent of each acknowledgement. */
static void work_and_die(int n, int to_parent)
{
    struct db *db;

    fault_arm_io(FAULT_ALL, n, 0, false);
    if (open_as(false, &db))
        _exit(2);
    if (db_transact(db, DB_WRITE, make_tables, NULL))
        _exit(2);
    for (int i = 0; i < TURNS; i++) {
        if (db_transact(db, DB_WRITE, add_pair, NULL) || write(to_parent, "x", 1) != 1)
            _exit(2);
    }
    db_close(db);
    _exit(0);
}

static bool kill_at(int n)
{
    char acknowledged[TURNS + 1];
    int pipes[2], status, count = 0;
    ssize_t got;
    pid_t pid;

    assert_int_equal(pipe(pipes), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        work_and_die(n, pipes[1]);
    close(pipes[1]);
    while ((got = read(pipes[0], acknowledged, sizeof(acknowledged))) > 0)
        count += (int)got;
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    assert_holds(count, WIFSIGNALED(status) ? count + 1 : count);
    begin_anew();
    return WIFSIGNALED(status);
}

static void killed_at_any_call_nothing_is_lost_or_half_done(void **state)
{
    int n = 1;

    while (kill_at(n))
        n++;
    assert_in_range(n, 20, 2000);
}

/* ---- migrations ---- */

static const char half_way[] = "CREATE TABLE half_a (x TEXT);\n"
                               "CREATE TABLE half_b (x TEXT);\n"
                               "INSERT INTO half_a SELECT zeroblob(4000);\n"
                               "CREATE INDEX half_i ON half_a (x);\n";

static void migrate_and_die(int n)
{
    struct db_migration list[65];
    struct db *db;

    if (open_as(false, &db))
        _exit(2);
    memcpy(list, db_migrations, db_migration_count * sizeof(*list));
    list[db_migration_count] = (struct db_migration){901, "901-half", half_way};
    fault_arm_io(FAULT_ALL, n, 0, false);
    _exit(db_schema_update(db, list, db_migration_count + 1) ? 2 : 0);
}

static void migration_killed_half_way_is_done_or_not_begun(void **state)
{
    bool was_killed = true;

    for (int n = 1; was_killed; n++) {
        int status;
        int64_t tables = 0, noted = 0;
        sqlite3 *handle;
        pid_t pid = fork();
        if (pid == 0)
            migrate_and_die(n);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        was_killed = WIFSIGNALED(status);
        assert_true(was_killed || WEXITSTATUS(status) == 0);
        assert_null(db_sqlite_open_handle(path, SQLITE_OPEN_READWRITE, &handle));
        db_sqlite_ask_int(handle, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'half_%'",
                          &tables);
        db_sqlite_ask_int(handle, "SELECT count(*) FROM schema_migrations WHERE number = 901",
                          &noted);
        sqlite3_close(handle);
        assert_int_equal(tables, noted * 3);
        assert_true(was_killed || noted == 1);
        begin_anew();
    }
}

/* ---- files that are refused ---- */

static void close_with_pairs(int count)
{
    db_close(open_with_pairs(count));
}

static void files_are_private_and_folders_made(void **state)
{
    struct stat info;
    char deep[192];
    struct db_options options;
    struct db *db;

    snprintf(deep, sizeof(deep), "sqlite://%s/a/b/sluice.db", folder);
    options = (struct db_options){.url = str_from(deep)};
    assert_null(db_open(&options, &db));
    assert_int_equal(stat(deep + strlen("sqlite://"), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    db_close(db);
    options.url = STR("sqlite:relative.db");
    assert_true(err_is(db_open(&options, &db), ERR_CONFIG));
    options.url = STR("sqlite::memory:");
    assert_true(err_is(db_open(&options, &db), ERR_CONFIG));
    options.url = STR("mysql://x");
    assert_true(err_is(db_open(&options, &db), ERR_CONFIG));
}

static void what_is_no_database_is_refused(void **state)
{
    shell("head -c 20000 /dev/urandom > sluice.db");
    assert_refused("is not a database");
    begin_anew();
    shell("echo 'listen: 127.0.0.1:8080' > sluice.db");
    assert_refused("is not a database");
}

static void databases_of_others_are_refused(void **state)
{
    sqlite3 *handle;

    assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
    assert_int_equal(db_sqlite_ask_int(handle, "CREATE TABLE t (x)", NULL), SQLITE_OK);
    sqlite3_close(handle);
    assert_refused("of another program");
}

static void truncated_files_are_refused(void **state)
{
    struct stat info;
    static const int cuts[] = {50, 99, 100, 512, 4095, 4096, 8192};

    close_with_pairs(200);
    assert_int_equal(stat(path, &info), 0);
    shell("mkdir kept && cp sluice.db kept/");
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts) + 2; i++) {
        off_t size = i < sizeof(cuts) / sizeof(*cuts) ? cuts[i] : info.st_size - (i % 2 ? 1 : 4096);
        assert_int_equal(truncate(path, size), 0);
        assert_refused("sluice restore");
        shell("cp kept/sluice.db sluice.db");
    }
    for (int size = 0; size < 2; size++) {
        assert_int_equal(truncate(path, size), 0);
        assert_refused("is empty, but it was in use");
    }
}

/* Either it is refused, or everything that is read is a row or an error; a flip inside a text cannot be seen. */
static void flipped_bits_are_refused_or_harmless(void **state)
{
    struct stat info;
    int refused = 0;

    close_with_pairs(100);
    assert_int_equal(stat(path, &info), 0);
    shell("mkdir kept && cp sluice.db kept/");
    for (off_t at = 0; at < info.st_size; at += at < 110 ? 3 : 601) {
        struct db *db;
        int fd = open(path, O_RDWR);
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (unsigned char)(1U << (at % 8));
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        if (open_as(false, &db)) {
            refused++;
        } else {
            int64_t sum;
            err_t err = read_number(db, "SELECT sum(n + length(x)) FROM pair_a", &sum);
            assert_true(!err || err_is(err, ERR_STORE) || err_is(err, ERR_BUG));
            db_close(db);
        }
        shell("cp kept/sluice.db sluice.db; rm -f sluice.db-wal sluice.db-shm");
        arena_reset(arena);
    }
    assert_true(refused > 10);
}

/* Killed with changes in the log, which then disappears. */
static void missing_log_is_noticed(void **state)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        open_with_pairs(5);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, &status, 0);
    shell("mkdir kept && cp sluice.db* kept/ && rm sluice.db-wal sluice.db-shm");
    assert_refused("its log");
    shell("cp kept/sluice.db-wal . && mv sluice.db away");
    assert_refused("is missing or empty, but its log");
    shell("mv away sluice.db");
    assert_holds(5, 5);
}

/* A command that reads a database whose server was killed must not make it look incomplete. */
static void tools_leave_the_log(void **state)
{
    struct db *tool;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        open_with_pairs(5);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, &status, 0);
    assert_null(open_as(true, &tool));
    assert_int_equal(count_pairs(tool), 5);
    db_close(tool);
    assert_holds(5, 5);
}

static void tools_change_no_schema(void **state)
{
    struct db *db;
    err_t err;

    assert_true(err_is(open_as(true, &db), ERR_STORE));
    assert_int_not_equal(access(path, F_OK), 0);
    shell("touch sluice.db");
    err = open_as(true, &db);
    assert_true(err_is(err, ERR_STORE) && strstr(err->text, "sluice serve"));
    shell("rm sluice.db*");
    close_with_pairs(1);
    assert_holds(1, 1);
}

static void second_server_is_refused(void **state)
{
    struct db *first = open_with_pairs(1), *tool;
    char text[64];

    snprintf(text, sizeof(text), "another Sluice (process %d)", (int)getpid());
    assert_refused(text);
    assert_null(open_as(true, &tool));
    assert_int_equal(count_pairs(tool), 1);
    db_close(tool);
    assert_null(db_transact(first, DB_WRITE, add_pair, NULL));
    db_close(first);
    assert_holds(2, 2);
}

static void newer_schemas_are_refused(void **state)
{
    struct db *db = open_with_pairs(1);

    assert_null(db_run(db, DB_WRITE,
                       DB_ASK_PLAIN("INSERT INTO schema_migrations VALUES (999, '999-future', 0)"),
                       NULL, NULL));
    db_close(db);
    assert_refused("newer schema (999-future)");
}

/* Root may write anything, so a child that is nobody tries. Exit code 0: refused with the right text. */
static int try_as_nobody(void)
{
    struct db *db;
    err_t err;

    if (geteuid() == 0 &&
        (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
        return 3;
    err = open_as(false, &db);
    return err && err_is(err, ERR_STORE) && strstr(err->text, "writable for this user") ? 0
           : err && strstr(err->text, "read-only for this user")                        ? 0
                                                                                        : 4;
}

static void read_only_files_are_refused(void **state)
{
    static const char *const modes[] = {
        "chmod 777 . && chmod 666 sluice.db.lock && chmod 444 sluice.db",
        "chmod 555 . && chmod 666 sluice.db.lock && chmod 666 sluice.db",
        "chmod 555 . && chmod 444 sluice.db && chmod 400 sluice.db.lock",
    };

    for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
        int status;
        close_with_pairs(1);
        shell(modes[i]);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
            _exit(try_as_nobody());
        waitpid(pid, &status, 0);
        assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
        shell("chmod 700 . && rm -rf ./*");
    }
}

/* ---- a lock that somebody else holds ---- */

struct holder {
    sqlite3 *handle;
    unsigned ms;
};

static void *let_go(void *arg)
{
    struct holder *holder = arg;

    usleep(holder->ms * 1000);
    db_sqlite_ask_int(holder->handle, "ROLLBACK", NULL);
    return NULL;
}

/* Milliseconds that a write took while another program held the lock for `ms`. */
static uint64_t write_against(struct db *db, unsigned ms, err_t *err)
{
    struct holder holder = {.ms = ms};
    uint64_t began_ms = sys_now_ms();
    pthread_t thread;

    assert_null(db_sqlite_open_handle(path, SQLITE_OPEN_READWRITE, &holder.handle));
    assert_int_equal(db_sqlite_ask_int(holder.handle, "BEGIN IMMEDIATE", NULL), SQLITE_OK);
    assert_int_equal(pthread_create(&thread, NULL, let_go, &holder), 0);
    *err = db_transact(db, DB_WRITE, add_pair, NULL);
    began_ms = sys_now_ms() - began_ms;
    pthread_join(thread, NULL);
    sqlite3_close(holder.handle);
    return began_ms;
}

static void busy_file_is_waited_for_within_a_bound(void **state)
{
    struct db *db = open_with_pairs(0);
    uint64_t took_ms;
    err_t err;

    took_ms = write_against(db, 1500, &err);
    assert_null(err);
    assert_true(took_ms >= 1500);
    took_ms = write_against(db, 7500, &err);
    assert_code(err, "store_busy");
    assert_int_equal(err_status(err), 503);
    assert_in_range(took_ms, 4000, 7400);
    assert_int_equal(count_pairs(db), 1);
    assert_null(db_transact(db, DB_WRITE, add_pair, NULL));
    assert_true(db_is_up(db));
    db_close(db);
}

/* ---- copies ---- */

struct copying {
    struct db *db;
    err_t err;
    bool has_ended;
    int written;
};

static void backs_up(void *arg)
{
    struct copying *copying = arg;

    copying->err = db_backup(copying->db, str_from(name(".backup")));
    copying->has_ended = true;
}

static void writes_meanwhile(void *arg)
{
    struct copying *copying = arg;

    assert_null(fiber_start_later("backup", backs_up, copying, NULL));
    while (!copying->has_ended) {
        assert_null(db_transact(copying->db, DB_WRITE, add_pair, NULL));
        copying->written++;
        assert_null(fiber_sleep(1));
    }
    loop_stop(loop_self());
}

static void restore(const char *file)
{
    struct str kept;
    err_t err = db_restore(str_from(url), str_from(file), arena, &kept);

    if (err)
        fail_msg("%s", err->text);
    assert_true(kept.len > 0);
    assert_int_equal(access(kept.ptr, F_OK), 0);
}

static void backup_is_of_one_moment_while_others_write(void **state)
{
    struct copying copying = {.db = open_with_pairs(3)};
    struct loop *loop;
    int64_t count;

    assert_null(
        db_run(copying.db, DB_WRITE, DB_ASK_PLAIN("CREATE TABLE bulk (b BLOB)"), NULL, NULL));
    for (int i = 0; i < 40; i++)
        assert_null(db_run(copying.db, DB_WRITE,
                           DB_ASK_PLAIN("INSERT INTO bulk VALUES (randomblob(1000000))"), NULL,
                           NULL));
    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("writer", writes_meanwhile, &copying, NULL));
    loop_run(loop);
    loop_close(loop);
    if (copying.err)
        fail_msg("%s", copying.err->text);
    assert_true(copying.written > 5);
    db_close(copying.db);
    assert_int_not_equal(access(name(".backup-wal"), F_OK), 0);
    assert_int_not_equal(access(name(".backup.partial"), F_OK), 0);
    restore(name(".backup"));
    copying.db = open_db();
    count = count_pairs(copying.db);
    assert_in_range(count, 3, 3 + copying.written);
    assert_null(db_transact(copying.db, DB_WRITE, add_pair, NULL));
    db_close(copying.db);
}

static size_t count_files(void)
{
    DIR *dir = opendir(folder);
    size_t count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void failed_backups_leave_nothing(void **state)
{
    struct db *db = open_with_pairs(50);
    size_t files = count_files();
    bool has_failed = true;

    assert_true(err_is(db_backup(db, STR("relative.backup")), ERR_BAD_REQUEST));
    assert_true(err_is(db_backup(db, str_from(path)), ERR_BAD_REQUEST)); /* it exists */
    assert_true(err_is(db_backup(db, str_from(name("/x"))), ERR_STORE));
    for (int n = 1; has_failed; n++) {
        fault_arm_io(FAULT_WRITE, n, ENOSPC, true);
        err_t err = db_backup(db, str_from(name(".backup")));
        fault_arm_io(0, 0, 0, false);
        has_failed = err != NULL;
        assert_int_equal(count_files(), files + !has_failed);
        assert_true(!err || (err_is(err, ERR_STORE) && err_status(err) == 507));
        assert_null(db_transact(db, DB_WRITE, add_pair, NULL));
    }
    assert_true(db_is_up(db));
    db_close(db);
}

static void restore_refuses_what_is_no_good(void **state)
{
    struct db *db = open_with_pairs(4);
    struct str kept;
    err_t err;

    assert_null(db_backup(db, str_from(name(".backup"))));
    assert_null(db_transact(db, DB_WRITE, add_pair, NULL));
    err = db_restore(str_from(url), str_from(name(".backup")), arena, &kept);
    assert_true(err && strstr(err->text, "another Sluice"));
    db_close(db);

    shell("head -c 9000 sluice.db.backup > cut");
    shell("head -c 9000 /dev/urandom > noise");
    for (int i = 0; i < 3; i++) {
        char file[128];
        snprintf(file, sizeof(file), "%s/%s", folder, i == 0 ? "cut" : i == 1 ? "noise" : "none");
        err = db_restore(str_from(url), str_from(file), arena, &kept);
        assert_true(err_is(err, ERR_STORE) && strstr(err->text, file));
    }
    assert_holds(5, 5);
    restore(name(".backup"));
    assert_holds(4, 4);
}

static void restore_refuses_newer_schemas(void **state)
{
    struct db *db = open_with_pairs(1);
    struct str kept;
    err_t err;

    assert_null(db_run(db, DB_WRITE,
                       DB_ASK_PLAIN("INSERT INTO schema_migrations VALUES (999, '999-future', 0)"),
                       NULL, NULL));
    assert_null(db_backup(db, str_from(name(".backup"))));
    db_close(db);
    err = db_restore(str_from(url), str_from(name(".backup")), arena, &kept);
    assert_true(err_is(err, ERR_STORE) && strstr(err->text, "newer schema"));
}

/* After a crash, with a log, and over a file that is beyond repair: the old one is kept, whole. */
static void restore_keeps_the_old_file(void **state)
{
    struct db *db = open_with_pairs(2);
    struct str kept;
    int status;
    pid_t pid;

    assert_null(db_backup(db, str_from(name(".backup"))));
    db_close(db);
    pid = fork();
    if (pid == 0) {
        db = open_with_pairs(7);
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, &status, 0);
    assert_null(db_restore(str_from(url), str_from(name(".backup")), arena, &kept));
    assert_holds(2, 2);
    assert_int_equal(rename(kept.ptr, path), 0); /* and back again */
    assert_holds(9, 9);

    shell("head -c 9000 /dev/urandom > sluice.db");
    restore(name(".backup"));
    assert_holds(2, 2);
}

/* ---- memory ---- */

static void every_failing_allocation_while_opening_is_reported(void **state)
{
    size_t before;
    err_t err = NULL;

    close_with_pairs(1);
    before = mem_in_use(MEM_STORE);
    for (uint64_t n = 1; n == 1 || err; n += 1 + n / 8) {
        struct db *db = NULL;
        mem_fail_nth(n);
        err = open_as(false, &db);
        mem_fail_nth(0);
        db_close(db);
        assert_true(n < 100000);
    }
    assert_holds(1, 1);
    assert_int_equal(mem_in_use(MEM_STORE), before);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(every_write_may_fail),
        IN_FOLDER(every_write_may_find_no_space),
        IN_FOLDER(every_sync_may_fail),
        IN_FOLDER(every_truncation_and_deletion_may_fail),
        IN_FOLDER(full_disk_refuses_writes_and_recovers),
        IN_FOLDER(failed_sync_makes_the_store_suspect),
        IN_FOLDER(failed_sync_of_the_file_makes_it_suspect_too),
        IN_FOLDER(killed_at_any_call_nothing_is_lost_or_half_done),
        IN_FOLDER(migration_killed_half_way_is_done_or_not_begun),
        IN_FOLDER(files_are_private_and_folders_made),
        IN_FOLDER(what_is_no_database_is_refused),
        IN_FOLDER(databases_of_others_are_refused),
        IN_FOLDER(truncated_files_are_refused),
        IN_FOLDER(flipped_bits_are_refused_or_harmless),
        IN_FOLDER(missing_log_is_noticed),
        IN_FOLDER(tools_leave_the_log),
        IN_FOLDER(tools_change_no_schema),
        IN_FOLDER(second_server_is_refused),
        IN_FOLDER(newer_schemas_are_refused),
        IN_FOLDER(read_only_files_are_refused),
        IN_FOLDER(busy_file_is_waited_for_within_a_bound),
        IN_FOLDER(backup_is_of_one_moment_while_others_write),
        IN_FOLDER(failed_backups_leave_nothing),
        IN_FOLDER(restore_refuses_what_is_no_good),
        IN_FOLDER(restore_refuses_newer_schemas),
        IN_FOLDER(restore_keeps_the_old_file),
        IN_FOLDER(every_failing_allocation_while_opening_is_reported),
    };
    const struct log_options only_errors = {.level = LOG_ERROR, .format = LOG_TEXT};

    /* The level outlasts the writer, which the children that are killed shall not have. */
    if (db_sqlite_adopt() || log_open(&only_errors))
        return 1;
    log_close();
    fault_install_io();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
