/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of an SQLite database: a backup while others write, and a backup put back.
 *
 * A backup is made page by page from a connection that stays in one read transaction: it is the database as of that
 * moment, and neither holds up writers nor begins again when they write. It is made under another name, checked, and
 * takes its own name last. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "observe/log.h"
#include "store/db_sqlite.h"

/* Copied at once; then other copies have a turn, and it is seen whether anybody waits for this one: 2 MB. */
#define CHUNK_PAGES 512
#define BUSY_TURNS  100

#define JOURNALS_MAX 64 /* beside one database */

struct copy {
    const char *from_path, *to_path;
    int from_flags;
    sqlite3 *from, *to;
    sqlite3_backup *backup;
    bool is_done;
    atomic_bool is_unwanted; /* nobody waits for it any more */
};

/* ---- copying; each step may run in another thread ---- */

static err_t open_copy(void *arg)
{
    struct copy *copy = arg;
    int code;

    TRY(db_sqlite_open_handle(copy->from_path, copy->from_flags, &copy->from));
    code = db_sqlite_ask_int(copy->from, "BEGIN", NULL);
    if (code == SQLITE_OK)
        code = db_sqlite_ask_int(copy->from, "SELECT count(*) FROM sqlite_schema", NULL);
    if (code != SQLITE_OK)
        return db_sqlite_refusal(copy->from_path, copy->from, code);
    TRY(db_sqlite_open_handle(copy->to_path, SQLITE_OPEN_READWRITE, &copy->to));
    copy->backup = sqlite3_backup_init(copy->to, "main", copy->from, "main");
    return copy->backup
               ? NULL
               : db_sqlite_refusal(copy->to_path, copy->to, sqlite3_extended_errcode(copy->to));
}

static err_t copy_chunk(void *arg)
{
    struct copy *copy = arg;
    int code = SQLITE_BUSY;

    for (int turn = 0; turn < BUSY_TURNS && (code == SQLITE_BUSY || code == SQLITE_LOCKED); turn++)
        code = sqlite3_backup_step(copy->backup, CHUNK_PAGES);
    copy->is_done = code == SQLITE_DONE;
    return copy->is_done || code == SQLITE_OK ? NULL
                                              : db_sqlite_refusal(copy->to_path, copy->to, code);
}

static int is_unwanted(void *arg)
{
    const struct copy *copy = arg;

    return atomic_load(&copy->is_unwanted);
}

/* SQLite ends a check half-way when it is interrupted, but forgets that if the check has not begun; then is_unwanted
 * tells, which it asks at the check's first steps. */
static void stop_copy(void *arg)
{
    struct copy *copy = arg;

    atomic_store(&copy->is_unwanted, true);
    sqlite3_interrupt(copy->to);
}

/* Make the copy a file that stands alone, and read it once: a backup that nobody could read is none. That takes about a
 * second for a gigabyte. */
static err_t finish_copy(void *arg)
{
    struct copy *copy = arg;
    int code = sqlite3_backup_finish(copy->backup);

    copy->backup = NULL;
    sqlite3_progress_handler(copy->to, 1, is_unwanted, copy);
    if (code == SQLITE_OK)
        code = db_sqlite_ask_int(copy->to, "PRAGMA journal_mode=DELETE", NULL);
    if (code != SQLITE_OK)
        return db_sqlite_refusal(copy->to_path, copy->to, code);
    TRY(db_sqlite_check_file(copy->to_path, copy->to, "PRAGMA integrity_check(1)"));
    if (is_unwanted(copy)) /* whatever the check then found */
        return err_new(ERR_CANCELLED, "nobody waits for the copy any more");
    return db_sqlite_sync(copy->to_path);
}

static void close_copy(struct copy *copy)
{
    sqlite3_backup_finish(copy->backup);
    sqlite3_close(copy->to);
    sqlite3_close(copy->from);
}

/* PARKS: all of it. */
static err_t make_copy(struct copy *copy)
{
    err_t err = offload_run(OFFLOAD_DB_COPY, open_copy, copy);

    while (!err && !copy->is_done) {
        err = offload_run(OFFLOAD_DB_COPY, copy_chunk, copy);
        if (!err && fiber_self())
            err = fiber_yield();
    }
    if (!err)
        err = offload_run_stoppable(OFFLOAD_DB_COPY, finish_copy, copy, stop_copy);
    close_copy(copy);
    return err;
}

/* A copy that was cut off, with what SQLite kept beside it. */
static void remove_copy(const char *path)
{
    static const char *const suffixes[] = {"", "-journal", "-wal", "-shm"};
    char space[DB_SQLITE_PATH_MAX];

    for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++)
        if (!db_sqlite_beside(path, suffixes[i], space))
            unlink(space);
}

/* ---- backup ---- */

/* link(2) rather than rename(2): it never replaces a file that came to be in the meantime. */
static err_t name_file(const char *temporary, const char *path)
{
    if (link(temporary, path) < 0)
        return err_new(errno == EEXIST ? ERR_BAD_REQUEST : ERR_STORE, "%s cannot be written: %s",
                       path, strerrordesc_np(errno));
    return db_sqlite_sync_folder(path);
}

static err_t back_up(const char *from_path, const char *path, const char *temporary)
{
    struct copy copy = {
        .from_path = from_path, .to_path = temporary, .from_flags = SQLITE_OPEN_READWRITE};
    err_t err;

    if (access(path, F_OK) == 0)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "file_exists"), "%s exists already", path);
    remove_copy(temporary);
    TRY(db_sqlite_make_file(temporary, true));
    err = make_copy(&copy);
    if (!err)
        err = name_file(temporary, path);
    remove_copy(temporary);
    return err;
}

err_t db_sqlite_backup(struct db *db, struct str path)
{
    struct arena *arena;
    char *target, *temporary;
    err_t err;

    if (!str_starts(path, STR("/")) || str_ends(path, STR("/")) ||
        path.len > DB_SQLITE_PATH_MAX / 2 || memchr(path.ptr, 0, path.len))
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "path"),
                              "path must be an absolute file name");
    arena = arena_new(MEM_STORE, (size_t)4 * DB_SQLITE_PATH_MAX);
    if (!arena)
        return err_no_memory();
    target = arena_cstr(arena, path);
    temporary = arena_printf(arena, "%.*s.partial", STR_ARG(path));
    err = target && temporary ? back_up(((struct db_sqlite *)db)->path, target, temporary)
                              : arena_err(arena);
    arena_free(arena);
    return err;
}

/* ---- restore ---- */

/* The backup's schema must not be newer than ours: older ones are brought up to date at the next start. */
static err_t check_schema(const char *path, sqlite3 *handle)
{
    int64_t newest = 0;
    unsigned own = db_migration_count ? db_migrations[db_migration_count - 1].number : 0;
    int code = db_sqlite_ask_int(handle, "SELECT max(number) FROM schema_migrations", &newest);

    if (code != SQLITE_OK)
        return err_new(ERR_STORE, "%s is no backup of Sluice", path);
    if (newest > own)
        return err_new(ERR_STORE,
                       "%s has a newer schema (%lld) than this version of Sluice (%u): restore it "
                       "with a newer version",
                       path, (long long)newest, own);
    return NULL;
}

static err_t check_backup(const char *path)
{
    sqlite3 *handle = NULL;
    err_t err = db_sqlite_open_handle(path, SQLITE_OPEN_READONLY, &handle);

    if (!err)
        err = db_sqlite_check_file(path, handle, "PRAGMA integrity_check(1)");
    if (!err)
        err = check_schema(path, handle);
    sqlite3_close(handle);
    return err;
}

/* Carry a log that was left over into the old file, so that one file is the whole of it. What is too damaged for that
 * is kept as it is, with its log. */
static void settle_old(const char *path)
{
    sqlite3 *handle = NULL;

    if (access(path, F_OK) == 0 && !db_sqlite_open_handle(path, SQLITE_OPEN_READWRITE, &handle))
        sqlite3_wal_checkpoint_v2(handle, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_close(handle);
}

/* Journals of streams (govern/journal_file.h) are about the old file: beside the backup they would bring back calls that it does
 * not know, and not all of them. */
static err_t keep_journals(const char *path, const char *name, struct arena *arena)
{
    for (unsigned n = 0; n < JOURNALS_MAX; n++) {
        char *from = arena_printf(arena, "%s.streams.%u", path, n);
        char *to = arena_printf(arena, "%s.streams.%u", name, n);
        if (!from || !to)
            return arena_err(arena);
        if (rename(from, to) < 0 && errno != ENOENT)
            return err_new(ERR_STORE, "cannot keep %s aside: %s", from, strerrordesc_np(errno));
    }
    return NULL;
}

/* Give the old file, and its log if it has one, a second name. */
static err_t keep_old(const char *path, struct arena *arena, struct str *kept)
{
    char *name = arena_printf(arena, "%s.before-%llu", path, (unsigned long long)sys_wall_ms());
    char *log = name ? arena_printf(arena, "%s-wal", name) : NULL;
    char own_log[DB_SQLITE_PATH_MAX], index[DB_SQLITE_PATH_MAX];

    if (!log)
        return arena_err(arena);
    TRY(db_sqlite_beside(path, "-wal", own_log));
    TRY(db_sqlite_beside(path, "-shm", index));
    if (link(path, name) < 0 && errno != ENOENT)
        return err_new(ERR_STORE, "cannot keep %s aside: %s", path, strerrordesc_np(errno));
    if (access(name, F_OK) == 0)
        *kept = str_from(name);
    if (rename(own_log, log) < 0 && errno != ENOENT)
        return err_new(ERR_STORE, "cannot keep %s aside: %s", own_log, strerrordesc_np(errno));
    unlink(index);
    return keep_journals(path, name, arena);
}

static err_t replace(const char *path, const char *temporary, struct arena *arena, struct str *kept)
{
    settle_old(path);
    TRY(keep_old(path, arena, kept));
    if (rename(temporary, path) < 0)
        return err_new(ERR_STORE, "cannot put %s in place: %s", path, strerrordesc_np(errno));
    return db_sqlite_sync_folder(path);
}

static err_t restore(const char *path, const char *file, struct arena *arena, struct str *kept)
{
    char *temporary = arena_printf(arena, "%s.restoring", path);
    struct copy copy = {
        .from_path = file, .to_path = temporary, .from_flags = SQLITE_OPEN_READONLY};
    int lock_fd;
    err_t err;

    if (!temporary)
        return arena_err(arena);
    TRY(check_backup(file));
    TRY(db_sqlite_make_folder(path));
    TRY(db_sqlite_lock(path, &lock_fd));
    remove_copy(temporary);
    err = db_sqlite_make_file(temporary, true);
    if (!err)
        err = make_copy(&copy);
    if (!err)
        err = replace(path, temporary, arena, kept);
    if (!err)
        db_sqlite_mark(lock_fd, false);
    else
        remove_copy(temporary);
    sys_close(lock_fd);
    return err;
}

err_t db_sqlite_restore(struct str url, struct str file, struct arena *arena, struct str *kept)
{
    char *path, *from;

    *kept = (struct str){0};
    TRY(db_sqlite_adopt());
    TRY(db_sqlite_path(url, arena, &path));
    from = arena_cstr(arena, file);
    return from ? restore(path, from, arena, kept) : arena_err(arena);
}
