/* SPDX-License-Identifier: Apache-2.0 */
/* The files around an SQLite database: its folder, the lock beside it, and what that remembers.
 *
 * One server holds the lock (flock on PATH.lock) from opening to closing; its process id in there is for people. The
 * hard thing is a loss that SQLite cannot see: without its write-ahead log a database looks whole and lacks the last
 * commits. So the lock file also says whether the database was left open, and then the log must be there. */
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "store/db_sqlite.h"

/* Lines of one length, so that writing over one needs no space. */
#define MARK_BYTES 18
#define MARK_OPEN  "in use"
#define MARK_SHUT  "closed"

err_t db_sqlite_beside(const char *path, const char *suffix, char space[DB_SQLITE_PATH_MAX])
{
    int len = snprintf(space, DB_SQLITE_PATH_MAX, "%s%s", path, suffix);

    if (len < 0 || len >= DB_SQLITE_PATH_MAX)
        return err_new(ERR_CONFIG, "the store's path is too long");
    return NULL;
}

err_t db_sqlite_make_folder(const char *path)
{
    char space[DB_SQLITE_PATH_MAX];

    TRY(db_sqlite_beside(path, "", space));
    for (char *slash = strchr(space + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(space, 0700) < 0 && errno != EEXIST)
            return err_new(ERR_STORE, "cannot make the folder %s of the store: %s", space,
                           strerrordesc_np(errno));
        *slash = '/';
    }
    return NULL;
}

err_t db_sqlite_make_file(const char *path, bool is_new)
{
    int fd = sys_open(path, O_RDWR | O_CREAT | (is_new ? O_EXCL : 0), 0600);

    if (fd < 0 && is_new && errno == EEXIST)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "file_exists"), "%s exists already", path);
    if (fd < 0)
        return err_new(ERR_STORE,
                       "%s cannot be opened (%s): the file and its folder must be writable for "
                       "this user",
                       path, strerrordesc_np(errno));
    sys_close(fd);
    return NULL;
}

err_t db_sqlite_sync(const char *path)
{
    int fd = sys_open(path, O_RDONLY, 0), failed;

    if (fd < 0)
        return err_system(errno, path);
    failed = fsync(fd) < 0 ? errno : 0;
    sys_close(fd);
    return failed ? err_system(failed, path) : NULL;
}

err_t db_sqlite_sync_folder(const char *path)
{
    char space[DB_SQLITE_PATH_MAX];
    char *slash;

    TRY(db_sqlite_beside(path, "", space));
    slash = strrchr(space, '/');
    if (slash)
        slash[slash == space] = '\0';
    return db_sqlite_sync(slash ? space : ".");
}

/* ---- the lock ---- */

/* What the lock file says: a process id and one of the marks. */
static void read_mark(int fd, char line[MARK_BYTES + 1])
{
    ssize_t len = lseek(fd, 0, SEEK_SET) == 0 ? sys_read(fd, line, MARK_BYTES) : 0;

    line[len > 0 ? len : 0] = '\0';
}

err_t db_sqlite_lock(const char *path, int *fd)
{
    char space[DB_SQLITE_PATH_MAX], line[MARK_BYTES + 1];
    int pid = 0;

    TRY(db_sqlite_beside(path, ".lock", space));
    *fd = sys_open(space, O_RDWR | O_CREAT, 0600);
    if (*fd < 0)
        return err_new(
            ERR_STORE,
            "%s cannot be opened (%s): the store's folder must be writable for this user", space,
            strerrordesc_np(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
        return NULL;
    read_mark(*fd, line);
    sscanf(line, "%d", &pid);
    sys_close(*fd);
    *fd = -1;
    return err_new(ERR_STORE,
                   "%s is in use by another Sluice (process %d): stop that one first, or give this "
                   "one its own `store` or data_dir",
                   path, pid);
}

void db_sqlite_mark(int lock_fd, bool is_open)
{
    char line[MARK_BYTES + 1];

    snprintf(line, sizeof(line), "%10d %s\n", (int)getpid() % 1000000000,
             is_open ? MARK_OPEN : MARK_SHUT);
    /* A mark that cannot be written only makes the next start less watchful. */
    if (pwrite(lock_fd, line, MARK_BYTES, 0) == MARK_BYTES)
        (void)!fdatasync(lock_fd);
}

/* Size of PATH + suffix, or -1. */
static int64_t size_of(const char *path, const char *suffix)
{
    char space[DB_SQLITE_PATH_MAX];
    struct stat info;
    err_t err = db_sqlite_beside(path, suffix, space);

    return !err && stat(space, &info) == 0 ? (int64_t)info.st_size : -1;
}

err_t db_sqlite_look(const char *path, int lock_fd)
{
    char line[MARK_BYTES + 1];
    int64_t size = size_of(path, ""), log_size = size_of(path, "-wal");

    read_mark(lock_fd, line);
    if (size == 1)
        size = 0; /* SQLite takes a file of one byte for an empty one */
    if (size <= 0 && log_size > 0)
        return err_new(ERR_STORE,
                       "%s is missing or empty, but its log %s-wal is there: put the file back, or "
                       "`sluice restore` the last backup",
                       path, path);
    if (size == 0 && line[0])
        return err_new(ERR_STORE,
                       "%s is empty, but it was in use: `sluice restore` the last backup, or "
                       "delete it to begin anew",
                       path);
    if (size > 0 && log_size < 0 && strstr(line, MARK_OPEN))
        return err_new(ERR_STORE,
                       "%s was not closed, and its log %s-wal with the last changes is missing: "
                       "put it back, or `sluice restore` the last backup, or delete %s.lock to go "
                       "on without those changes",
                       path, path, path);
    return NULL;
}

bool db_sqlite_is_cut(const char *path)
{
    /* 512 bytes is SQLite's smallest page. While there is a log, it may make the last page whole. */
    return size_of(path, "-wal") <= 0 && size_of(path, "") % 512 != 0;
}

bool db_sqlite_has_log(const char *path)
{
    return size_of(path, "-wal") >= 0;
}
