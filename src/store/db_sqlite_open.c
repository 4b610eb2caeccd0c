/* SPDX-License-Identifier: Apache-2.0 */
/* Opening an SQLite database: the lock, the first look, three connections; and closing it.
 *
 * A file is refused rather than guessed at: another program's database, a damaged one, one that cannot be written, one
 * whose log is missing. Every connection syncs at each commit (synchronous=FULL): callers group their writes. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/sys.h"
#include "observe/log.h"
#include "store/db_sqlite.h"

#define APPLICATION_ID  1397511497 /* "SLUI" */
#define BUSY_MS         1000
#define LOG_LIMIT_BYTES "67108864"

/* ---- the library ---- */

static void *take(int size)
{
    return mem_library_alloc(MEM_STORE, (size_t)size);
}

static void *resize(void *ptr, int size)
{
    return mem_library_resize(MEM_STORE, ptr, (size_t)size);
}

static void give(void *ptr)
{
    mem_library_free(MEM_STORE, ptr);
}

static int size_of(void *ptr)
{
    return (int)mem_library_size(ptr);
}

static int round_up(int size)
{
    return (size + 7) & ~7;
}

static int start(void *arg)
{
    return SQLITE_OK;
}

static void stop(void *arg)
{
}

/* SQLite's own lines: what it recovered from, what the system refused. Statements in them are ours, without values. */
static void on_log(void *arg, int code, const char *text)
{
    int kind = code & 0xff;

    /* our callers learn of these; a table that another connection has just made is looked for twice */
    if (kind == SQLITE_CONSTRAINT || kind == SQLITE_BUSY || kind == SQLITE_SCHEMA ||
        kind == SQLITE_ERROR)
        return;
    log_begin(kind == SQLITE_NOTICE ? LOG_INFO : LOG_WARN, "sqlite");
    log_cstr("text", text);
    log_u64("code", (uint64_t)code);
    log_end();
}

static int adopted = SQLITE_ERROR;

static void adopt(void)
{
    static const sqlite3_mem_methods methods = {take,     give,  resize, size_of,
                                                round_up, start, stop,   NULL};

    /* Threads are what Debian's library is built for; without them its locks are left out. */
    if (!sqlite3_threadsafe())
        return;
    adopted = sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
    if (adopted == SQLITE_OK)
        adopted = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    if (adopted == SQLITE_OK)
        adopted = sqlite3_config(SQLITE_CONFIG_LOG, on_log, NULL);
}

err_t db_sqlite_adopt(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, adopt);
    if (adopted != SQLITE_OK)
        return err_new(ERR_CONFIG, "this SQLite library (%s) is built without threads",
                       sqlite3_libversion());
    /* Repeated when it failed for want of memory. */
    return sqlite3_initialize() == SQLITE_OK ? NULL : err_no_memory();
}

/* ---- one connection ---- */

int db_sqlite_ask_int(sqlite3 *handle, const char *sql, int64_t *out)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(handle, sql, -1, &statement, NULL);

    if (code != SQLITE_OK)
        return code;
    if (out)
        *out = 0;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        if (out)
            *out = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

/* Whether the first row's first column is `wanted`. */
static int ask_text(sqlite3 *handle, const char *sql, const char *wanted, bool *is_so)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(handle, sql, -1, &statement, NULL);

    *is_so = false;
    if (code != SQLITE_OK)
        return code;
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        *is_so = text && strcmp(text, wanted) == 0;
    }
    sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

/* What every connection is told, and a first look at the file. */
static int set_up(sqlite3 *handle)
{
    static const char *const pragmas[] = {
        "PRAGMA synchronous=FULL",
        "PRAGMA foreign_keys=ON",
        "PRAGMA temp_store=MEMORY",
        "PRAGMA cell_size_check=ON",
        "PRAGMA journal_size_limit=" LOG_LIMIT_BYTES,
        "PRAGMA schema_version",
    };
    int code = SQLITE_OK;

    sqlite3_extended_result_codes(handle, 1);
    sqlite3_busy_timeout(handle, BUSY_MS);
    sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    for (size_t i = 0; i < sizeof(pragmas) / sizeof(*pragmas) && code == SQLITE_OK; i++)
        code = db_sqlite_ask_int(handle, pragmas[i], NULL);
    return code;
}

err_t db_sqlite_open_handle(const char *path, int flags, sqlite3 **out)
{
    int code = sqlite3_open_v2(path, out, flags | SQLITE_OPEN_NOMUTEX, NULL);
    err_t err;

    if (code == SQLITE_OK)
        code = set_up(*out);
    if (code == SQLITE_OK && (flags & SQLITE_OPEN_READWRITE) && sqlite3_db_readonly(*out, "main"))
        code = SQLITE_READONLY;
    if (code == SQLITE_OK)
        return NULL;
    err = db_sqlite_refusal(path, *out, code);
    sqlite3_close(*out);
    *out = NULL;
    return err;
}

static int on_commit(void *arg, sqlite3 *handle, const char *name, int pages)
{
    struct db_sqlite_connection *connection = arg;

    connection->wal_pages = pages;
    return SQLITE_OK;
}

/* Write-ahead logging is remembered in the file; readers find it there. */
static err_t use_log(const char *path, struct db_sqlite_connection *writer)
{
    bool has_log;
    int code = ask_text(writer->handle, "PRAGMA journal_mode=WAL", "wal", &has_log);

    if (code != SQLITE_OK)
        return db_sqlite_refusal(path, writer->handle, code);
    if (!has_log)
        return err_new(ERR_STORE,
                       "the file system of %s has no shared memory, which the store needs: use a "
                       "local disk, or PostgreSQL",
                       path);
    sqlite3_wal_hook(writer->handle, on_commit, writer);
    return NULL;
}

static err_t open_connections(struct db_sqlite *db, bool is_tool)
{
    err_t err = db_sqlite_open_handle(db->path, SQLITE_OPEN_READWRITE, &db->writer.handle);

    if (!err)
        err = db_sqlite_check_file(db->path, db->writer.handle,
                                   is_tool ? NULL : "PRAGMA quick_check(1)");
    if (!err)
        err = use_log(db->path, &db->writer);
    for (int i = 0; !err && i < DB_SQLITE_READERS + DB_SQLITE_REPORTERS; i++) {
        sqlite3 **handle = &db->readers[i].handle;
        err = db_sqlite_open_handle(db->path, SQLITE_OPEN_READWRITE, handle);
        if (!err && db_sqlite_ask_int(*handle, "PRAGMA query_only=ON", NULL) != SQLITE_OK)
            err = err_no_memory();
    }
    return err;
}

/* ---- is it ours, is it whole? ---- */

static err_t check_is_ours(const char *path, sqlite3 *handle)
{
    int64_t id = 0, tables = 0;
    int code = db_sqlite_ask_int(handle, "PRAGMA application_id", &id);

    if (code == SQLITE_OK && id == APPLICATION_ID)
        return NULL;
    if (code == SQLITE_OK)
        code = db_sqlite_ask_int(handle, "SELECT count(*) FROM sqlite_schema", &tables);
    if (code == SQLITE_OK && (id != 0 || tables > 0))
        return err_new(ERR_STORE,
                       "%s is a database of another program: set `store` to another file", path);
    if (code == SQLITE_OK && !sqlite3_db_readonly(handle, "main")) {
        char sql[64];
        snprintf(sql, sizeof(sql), "PRAGMA application_id=%d", APPLICATION_ID);
        code = db_sqlite_ask_int(handle, sql, NULL);
    }
    return code == SQLITE_OK ? NULL : db_sqlite_refusal(path, handle, code);
}

err_t db_sqlite_check_file(const char *path, sqlite3 *handle, const char *check_sql)
{
    bool is_whole = true;
    int code = SQLITE_OK;

    if (db_sqlite_is_cut(path))
        return db_sqlite_refusal(path, handle, SQLITE_CORRUPT);
    TRY(check_is_ours(path, handle));
    if (check_sql)
        code = ask_text(handle, check_sql, "ok", &is_whole);
    if (code == SQLITE_OK && !is_whole)
        code = SQLITE_CORRUPT;
    return code == SQLITE_OK ? NULL : db_sqlite_refusal(path, handle, code);
}

/* ---- the whole ---- */

err_t db_sqlite_path(struct str url, struct arena *arena, char **path)
{
    struct str rest = str_after(url, STR("sqlite:").len);

    if (str_starts(rest, STR("//")))
        rest = str_after(rest, 2);
    if (!str_starts(rest, STR("/")) || str_ends(rest, STR("/")))
        return err_new(ERR_CONFIG, "store: an absolute path must follow sqlite:, as in "
                                   "sqlite:/var/lib/sluice/sluice.db");
    *path = arena_cstr(arena, rest);
    return *path ? NULL : arena_err(arena);
}

static err_t open_files(struct db_sqlite *db, bool is_tool)
{
    if (!is_tool) {
        TRY(db_sqlite_make_folder(db->path));
        TRY(db_sqlite_lock(db->path, &db->lock_fd));
        TRY(db_sqlite_look(db->path, db->lock_fd));
        TRY(db_sqlite_make_file(db->path, false));
    }
    TRY(open_connections(db, is_tool));
    if (is_tool) {
        /* The last to close deletes the log; a command must not do that to a server that was killed. */
        int keep = 1;
        sqlite3_file_control(db->writer.handle, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
        return NULL;
    }
    /* A disk that fails while the log is being introduced leaves none; then none may be missed. */
    if (!db_sqlite_has_log(db->path))
        return db_sqlite_refusal(db->path, db->writer.handle, SQLITE_IOERR);
    db_sqlite_mark(db->lock_fd, true);
    return NULL;
}

static struct db_sqlite *db_new(const char *path)
{
    struct db_sqlite *db = mem_alloc_zero(MEM_STORE, sizeof(*db));
    size_t size = strlen(path) + 1;

    if (!db)
        return NULL;
    db->path = mem_alloc(MEM_STORE, size);
    if (!db->path) {
        mem_free(MEM_STORE, db, sizeof(*db));
        return NULL;
    }
    memcpy(db->path, path, size);
    db->lock_fd = -1;
    pthread_mutex_init(&db->writer.lock, NULL);
    for (int i = 0; i < DB_SQLITE_READERS + DB_SQLITE_REPORTERS; i++)
        pthread_mutex_init(&db->readers[i].lock, NULL);
    return db;
}

static void close_connection(struct db_sqlite_connection *connection, bool is_suspect)
{
    db_sqlite_forget(connection);
    /* What the disk did with our last writes is unknown: leave log and file as they are. */
    if (is_suspect && connection->handle)
        sqlite3_db_config(connection->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(connection->handle);
    pthread_mutex_destroy(&connection->lock);
}

/* `is_whole`: it was opened all the way. */
static void db_free(struct db_sqlite *db, bool is_whole)
{
    bool is_suspect = atomic_load(&db->base.is_suspect);

    for (int i = 0; i < DB_SQLITE_READERS + DB_SQLITE_REPORTERS; i++)
        close_connection(&db->readers[i], true);
    if (db->lock_fd >= 0 && is_whole && !is_suspect)
        db_sqlite_mark(db->lock_fd, false); /* before the log goes, so that nobody misses it */
    close_connection(&db->writer, is_suspect || !is_whole);
    if (db->lock_fd >= 0)
        sys_close(db->lock_fd);
    mem_free(MEM_STORE, db->path, strlen(db->path) + 1);
    mem_free(MEM_STORE, db, sizeof(*db));
}

err_t db_sqlite_open(const struct db_options *options, struct db **out)
{
    struct arena *arena;
    struct db_sqlite *db = NULL;
    char *path;
    err_t err;

    TRY(db_sqlite_adopt());
    arena = arena_new(MEM_STORE, DB_SQLITE_PATH_MAX * 4);
    if (!arena)
        return err_no_memory();
    err = db_sqlite_path(options->url, arena, &path);
    if (!err && !(db = db_new(path)))
        err = err_no_memory();
    arena_free(arena);
    if (!err)
        err = open_files(db, options->is_tool);
    if (err && db)
        db_free(db, false);
    *out = err ? NULL : &db->base;
    return err;
}

void db_sqlite_close(struct db *db)
{
    db_free((struct db_sqlite *)db, true);
}
