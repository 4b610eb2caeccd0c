/* SPDX-License-Identifier: Apache-2.0 */
/* What SQLite's result codes mean to us (https://sqlite.org/rescode.html).
 *
 * The hard thing is a failed fsync: the kernel may have dropped the pages and call the next fsync a success, so
 * nothing that is written afterwards can be trusted. Such a store is suspect until it is opened again. */
#include <errno.h>
#include <string.h>

#include "store/db_sqlite.h"

static bool is_out_of_space(sqlite3 *handle)
{
    int number = sqlite3_system_errno(handle);

    return number == ENOSPC || number == EDQUOT;
}

static enum db_trouble trouble_of_io(sqlite3 *handle, int code)
{
    switch (code) {
    case SQLITE_IOERR_NOMEM:
        return DB_FAILED;
    case SQLITE_IOERR_FSYNC:
    case SQLITE_IOERR_DIR_FSYNC:
        return DB_SUSPECT;
    default:
        return is_out_of_space(handle) ? DB_FULL : DB_SUSPECT;
    }
}

static enum db_trouble trouble_of(sqlite3 *handle, int code)
{
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
    case SQLITE_SCHEMA:
        return DB_AGAIN;
    case SQLITE_FULL:
        return DB_FULL;
    case SQLITE_IOERR:
        return trouble_of_io(handle, code);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return DB_SUSPECT;
    case SQLITE_CONSTRAINT:
        return DB_REFUSED;
    case SQLITE_READONLY:
        if (code == SQLITE_READONLY_DBMOVED)
            return DB_SUSPECT;
        /* The plain code is what a connection for reading says to a statement that writes. */
        return code == SQLITE_READONLY ? DB_WRONG : DB_FAILED;
    case SQLITE_NOMEM:
    case SQLITE_CANTOPEN:
    case SQLITE_TOOBIG:
    case SQLITE_INTERRUPT:
    case SQLITE_INTERNAL:
        return DB_FAILED;
    default:
        return DB_WRONG;
    }
}

err_t db_sqlite_err(sqlite3 *handle, int code, enum db_trouble *trouble)
{
    *trouble = trouble_of(handle, code);
    if ((code & 0xff) == SQLITE_NOMEM || code == SQLITE_IOERR_NOMEM)
        return err_no_memory();
    /* The handle's message is that of its last call, and may be about something else by now. */
    return db_err(*trouble, sqlite3_extended_errcode(handle) == code ? sqlite3_errmsg(handle)
                                                                     : sqlite3_errstr(code));
}

err_t db_sqlite_refusal(const char *path, sqlite3 *handle, int code)
{
    int number = handle ? sqlite3_system_errno(handle) : 0;
    char space[128];
    const char *why = number ? strerror_r(number, space, sizeof(space)) : sqlite3_errstr(code);

    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return err_no_memory();
    case SQLITE_NOTADB:
        return err_new(ERR_STORE,
                       "%s is not a database: set `store` to another file, or move this one away",
                       path);
    case SQLITE_CORRUPT:
        return err_new(ERR_STORE,
                       "%s is damaged: keep a copy of it, then `sluice restore` the last backup",
                       path);
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return err_new(ERR_STORE,
                       "%s is read-only for this user: the file and its folder must be writable",
                       path);
    case SQLITE_CANTOPEN:
        return err_new(ERR_STORE,
                       "%s cannot be opened (%s): the file and its folder must be writable for "
                       "this user",
                       path, why);
    case SQLITE_FULL:
        return err_new_detail(ERR_STORE, (.status = 507, .code = "storage_full"),
                              "%s: there is no space left on its disk", path);
    case SQLITE_BUSY:
        return err_new(ERR_STORE, "%s is locked by another program", path);
    default:
        return err_new(ERR_STORE, "%s cannot be opened: %s", path, why);
    }
}
