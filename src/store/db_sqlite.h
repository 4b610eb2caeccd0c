/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the SQLite backend: shared by its files and its tests, and nobody else's business.
 *
 * One connection writes, in the one thread of pool DB_WRITE, so writers queue instead of fighting for the lock; two
 * read, in the threads of DB_READ, each its own snapshot (WAL); and two report, in those of DB_REPORT. */
#ifndef STORE_DB_SQLITE_H
#define STORE_DB_SQLITE_H

#include <sqlite3.h>

#include "store/db_private.h"

#define DB_SQLITE_READERS   2
#define DB_SQLITE_REPORTERS 2
#define DB_SQLITE_BUCKETS   64

/* A prepared statement, found by the address of its text. */
struct db_sqlite_statement {
    struct db_sqlite_statement *next;
    const char *text;
    sqlite3_stmt *handle;
    size_t count;      /* of its parameters */
    uint16_t values[]; /* which value each of them is, from 0; DB_SQLITE_NO_VALUE: none */
};

#define DB_SQLITE_NO_VALUE UINT16_MAX

struct db_sqlite_connection {
    pthread_mutex_t lock; /* held by the thread that uses the connection */
    sqlite3 *handle;
    struct db_sqlite_statement *statements[DB_SQLITE_BUCKETS];
    int wal_pages; /* in the log as of the last commit */
};

struct db_sqlite {
    struct db base;
    char *path;
    int lock_fd; /* -1: a command's, without the lock */
    /* The reporters come last. */
    struct db_sqlite_connection writer, readers[DB_SQLITE_READERS + DB_SQLITE_REPORTERS];
};

struct db_sqlite_tx {
    struct db_tx base;
    struct db_sqlite_connection *connection;
};

/* ---- db_sqlite_open.c ---- */

/* Give SQLite our allocator and log. Once per process, before its first use; later calls do nothing. Errors: CONFIG for a
 * library built without threads. */
err_t db_sqlite_adopt(void) ERR_MUST_CHECK;

/* The path of a URL in the arena, NUL-terminated. Errors: CONFIG. */
err_t db_sqlite_path(struct str url, struct arena *arena, char **path) ERR_MUST_CHECK;

/* Open a file that exists and look at its first page. Errors: as db_open. */
err_t db_sqlite_open_handle(const char *path, int flags, sqlite3 **out) ERR_MUST_CHECK;

/* Run a PRAGMA or the like, for what its first row's first column says (`out` NULL: not wanted); NULL counts as 0.
 * Returns SQLite's code. */
int db_sqlite_ask_int(sqlite3 *handle, const char *sql, int64_t *out);

/* Whether a file is one of ours and whole: application id, then the given check ("PRAGMA quick_check(1)"). Errors:
 * STORE. */
err_t db_sqlite_check_file(const char *path, sqlite3 *handle, const char *check_sql) ERR_MUST_CHECK;

/* The functions of struct db_ops. */
err_t db_sqlite_open(const struct db_options *options, struct db **out);
void db_sqlite_close(struct db *db);

/* ---- db_sqlite_file.c ---- */

/* Make the folder of `path` and those above it that are missing. */
err_t db_sqlite_make_folder(const char *path) ERR_MUST_CHECK;

/* Take the lock that one server or restore holds; released by closing *fd. Errors: STORE naming the process that holds
 * it. */
err_t db_sqlite_lock(const char *path, int *fd) ERR_MUST_CHECK;

/* Refuse what SQLite would take for an empty database, although it is a lost one. Errors: STORE. */
err_t db_sqlite_look(const char *path, int lock_fd) ERR_MUST_CHECK;

/* Whether the file ends within a page, which SQLite would fill up with zeros. */
bool db_sqlite_is_cut(const char *path);

/* Whether the write-ahead log is there, be it empty. */
bool db_sqlite_has_log(const char *path);

/* Note in the lock file that the database is open now, so that a log must be there, or that it was closed. */
void db_sqlite_mark(int lock_fd, bool is_open);

/* Make an empty file that only this user may read; NULL if it is there already (is_new: then an error). */
err_t db_sqlite_make_file(const char *path, bool is_new) ERR_MUST_CHECK;

/* Put a file's, or a folder's, content on the disk; the folder of `path` for what was renamed in it. */
err_t db_sqlite_sync(const char *path) ERR_MUST_CHECK;
err_t db_sqlite_sync_folder(const char *path) ERR_MUST_CHECK;

/* `path` and `suffix` in `space`. Errors: CONFIG if it does not fit; SQLite takes no longer names either. */
#define DB_SQLITE_PATH_MAX 512
err_t db_sqlite_beside(const char *path, const char *suffix,
                       char space[DB_SQLITE_PATH_MAX]) ERR_MUST_CHECK;

/* ---- db_sqlite_error.c ---- */

/* What a failed call means while the database is in use. */
err_t db_sqlite_err(sqlite3 *handle, int code, enum db_trouble *trouble);

/* What it means while it is opened: a text that says what to do. */
err_t db_sqlite_refusal(const char *path, sqlite3 *handle, int code);

/* ---- db_sqlite_statement.c ---- */

/* Run a statement on a connection that the calling thread holds. Errors: as db_run. */
err_t db_sqlite_step(struct db_sqlite_connection *connection, struct db_ask ask,
                     struct arena *arena, struct db_rows *rows,
                     enum db_trouble *trouble) ERR_MUST_CHECK;

/* Free the prepared statements. */
void db_sqlite_forget(struct db_sqlite_connection *connection);

/* ---- db_sqlite_backup.c ---- */

/* db_backup for this backend. */
err_t db_sqlite_backup(struct db *db, struct str path);

#endif
