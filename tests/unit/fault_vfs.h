/* SPDX-License-Identifier: Apache-2.0 */
/* A file system for SQLite that fails on demand: the n-th write, sync, truncation or deletion fails with an errno, or
 * kills the process with SIGKILL, after having done half of what it was asked.
 *
 * It wraps the default VFS and takes its place, so the code under test opens its files as always. Use by one test
 * program at a time. SQLite's threads may be at work while it is armed: a call under way then counts before or after. */
#ifndef TEST_FAULT_VFS_H
#define TEST_FAULT_VFS_H

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include <sqlite3.h>

enum { FAULT_WRITE = 1, FAULT_SYNC = 2, FAULT_TRUNCATE = 4, FAULT_DELETE = 8, FAULT_ALL = 15 };

static struct {
    atomic_int kinds;       /* which calls count */
    atomic_int number;      /* errno; 0: SIGKILL */
    atomic_bool is_lasting; /* all from the n-th on fail */
    atomic_int left;        /* until it strikes; <= 0: has struck */
    atomic_int count;       /* calls that counted since it was armed */
    atomic_bool is_armed;   /* written last, as it makes the others good */
    atomic_int last_number; /* for xGetLastError */
    sqlite3_vfs *real;
    sqlite3_vfs own;
} fault_io;

struct fault_file {
    sqlite3_file base;
    sqlite3_file *real;
};

/* Let the n-th call of these kinds fail from now on (n = 0: none). */
__attribute__((unused)) static void fault_arm_io(int kinds, int n, int number, bool is_lasting)
{
    atomic_store(&fault_io.is_armed, false);
    atomic_store(&fault_io.kinds, kinds);
    atomic_store(&fault_io.number, number);
    atomic_store(&fault_io.is_lasting, is_lasting);
    atomic_store(&fault_io.left, n);
    atomic_store(&fault_io.count, 0);
    atomic_store(&fault_io.is_armed, n > 0);
}

/* Whether this call shall fail; *dies: it must kill when it has done its half. */
static bool fault_strikes_io(int kind, bool *dies)
{
    int left;

    *dies = false;
    if (!(atomic_load(&fault_io.kinds) & kind))
        return false;
    atomic_fetch_add(&fault_io.count, 1);
    if (!atomic_load(&fault_io.is_armed))
        return false;
    left = atomic_fetch_sub(&fault_io.left, 1);
    if (left > 1 || (left < 1 && !atomic_load(&fault_io.is_lasting)))
        return false;
    *dies = atomic_load(&fault_io.number) == 0;
    atomic_store(&fault_io.last_number, atomic_load(&fault_io.number));
    return true;
}

#define FAULT_REAL(file) (((struct fault_file *)(file))->real)

static int fault_close(sqlite3_file *file)
{
    return FAULT_REAL(file)->pMethods->xClose(FAULT_REAL(file));
}

static int fault_read(sqlite3_file *file, void *to, int size, sqlite3_int64 at)
{
    return FAULT_REAL(file)->pMethods->xRead(FAULT_REAL(file), to, size, at);
}

static int fault_write(sqlite3_file *file, const void *from, int size, sqlite3_int64 at)
{
    bool dies, strikes = fault_strikes_io(FAULT_WRITE, &dies);
    int code =
        FAULT_REAL(file)->pMethods->xWrite(FAULT_REAL(file), from, strikes ? size / 2 : size, at);

    if (dies)
        kill(getpid(), SIGKILL);
    if (strikes)
        return atomic_load(&fault_io.number) == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    return code;
}

static int fault_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    bool dies, strikes = fault_strikes_io(FAULT_TRUNCATE, &dies);

    if (dies)
        kill(getpid(), SIGKILL);
    return strikes ? SQLITE_IOERR_TRUNCATE
                   : FAULT_REAL(file)->pMethods->xTruncate(FAULT_REAL(file), size);
}

static int fault_sync(sqlite3_file *file, int flags)
{
    bool dies, strikes = fault_strikes_io(FAULT_SYNC, &dies);

    if (dies)
        kill(getpid(), SIGKILL);
    /* The kernel's own sync would only make the tests slow: SIGKILL loses no written page. */
    return strikes ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static int fault_size(sqlite3_file *file, sqlite3_int64 *size)
{
    return FAULT_REAL(file)->pMethods->xFileSize(FAULT_REAL(file), size);
}

static int fault_lock(sqlite3_file *file, int level)
{
    return FAULT_REAL(file)->pMethods->xLock(FAULT_REAL(file), level);
}

static int fault_unlock(sqlite3_file *file, int level)
{
    return FAULT_REAL(file)->pMethods->xUnlock(FAULT_REAL(file), level);
}

static int fault_is_reserved(sqlite3_file *file, int *out)
{
    return FAULT_REAL(file)->pMethods->xCheckReservedLock(FAULT_REAL(file), out);
}

static int fault_control(sqlite3_file *file, int op, void *arg)
{
    return FAULT_REAL(file)->pMethods->xFileControl(FAULT_REAL(file), op, arg);
}

static int fault_sector_size(sqlite3_file *file)
{
    return FAULT_REAL(file)->pMethods->xSectorSize(FAULT_REAL(file));
}

static int fault_traits(sqlite3_file *file)
{
    return FAULT_REAL(file)->pMethods->xDeviceCharacteristics(FAULT_REAL(file));
}

static int fault_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **out)
{
    return FAULT_REAL(file)->pMethods->xShmMap(FAULT_REAL(file), page, size, extend, out);
}

static int fault_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
    return FAULT_REAL(file)->pMethods->xShmLock(FAULT_REAL(file), offset, n, flags);
}

static void fault_shm_barrier(sqlite3_file *file)
{
    FAULT_REAL(file)->pMethods->xShmBarrier(FAULT_REAL(file));
}

static int fault_shm_unmap(sqlite3_file *file, int deletes)
{
    return FAULT_REAL(file)->pMethods->xShmUnmap(FAULT_REAL(file), deletes);
}

static const sqlite3_io_methods fault_methods = {
    .iVersion = 2,
    .xClose = fault_close,
    .xRead = fault_read,
    .xWrite = fault_write,
    .xTruncate = fault_truncate,
    .xSync = fault_sync,
    .xFileSize = fault_size,
    .xLock = fault_lock,
    .xUnlock = fault_unlock,
    .xCheckReservedLock = fault_is_reserved,
    .xFileControl = fault_control,
    .xSectorSize = fault_sector_size,
    .xDeviceCharacteristics = fault_traits,
    .xShmMap = fault_shm_map,
    .xShmLock = fault_shm_lock,
    .xShmBarrier = fault_shm_barrier,
    .xShmUnmap = fault_shm_unmap,
};

static int fault_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct fault_file *own = (struct fault_file *)file;
    int code;

    own->real = (sqlite3_file *)(own + 1);
    own->base.pMethods = NULL;
    code = fault_io.real->xOpen(fault_io.real, name, own->real, flags, out);
    if (own->real->pMethods)
        own->base.pMethods = &fault_methods;
    return code;
}

static int fault_delete(sqlite3_vfs *vfs, const char *name, int syncs)
{
    bool dies, strikes = fault_strikes_io(FAULT_DELETE, &dies);

    if (dies)
        kill(getpid(), SIGKILL);
    return strikes ? SQLITE_IOERR_DELETE : fault_io.real->xDelete(fault_io.real, name, syncs);
}

static int fault_last_error(sqlite3_vfs *vfs, int size, char *text)
{
    int number = atomic_exchange(&fault_io.last_number, 0);

    return number ? number : fault_io.real->xGetLastError(fault_io.real, size, text);
}

/* Put it in the default's place. After db_sqlite_adopt, before the first database is opened. */
static void fault_install_io(void)
{
    if (fault_io.real)
        return;
    fault_io.real = sqlite3_vfs_find(NULL);
    fault_io.own = *fault_io.real;
    fault_io.own.zName = "fault";
    fault_io.own.szOsFile = (int)sizeof(struct fault_file) + fault_io.real->szOsFile;
    fault_io.own.xOpen = fault_open;
    fault_io.own.xDelete = fault_delete;
    fault_io.own.xGetLastError = fault_last_error;
    sqlite3_vfs_register(&fault_io.own, 1);
}

#endif
