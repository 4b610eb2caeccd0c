/* SPDX-License-Identifier: Apache-2.0 */
/* Paths, locks, segments. */
#include "govern/journal_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "base/text.h"

/* ---- where ---- */

/* A store's address without the name and password in it, which may change. */
static uint64_t hash_of_store(struct str url)
{
    struct str rest = str_after(url, str_find(url, STR("://")));
    size_t at = str_index(rest, '@');

    return text_hash(at < rest.len ? str_after(rest, at) : rest, 0);
}

err_t journal_file_path(const struct conf *conf, unsigned number, char path[JOURNAL_PATH_BYTES])
{
    struct str url = conf->store.url;
    int len;

    if (str_starts(url, STR("sqlite:"))) {
        struct str rest = str_after(url, STR("sqlite:").len);
        if (str_starts(rest, STR("//")))
            rest = str_after(rest, 2);
        len = snprintf(path, JOURNAL_PATH_BYTES, "%.*s.streams.%u", STR_ARG(rest), number);
    } else {
        len = snprintf(path, JOURNAL_PATH_BYTES, "%.*s/streams-%016" PRIx64 ".%u",
                       STR_ARG(conf->data_dir), hash_of_store(url), number);
    }
    if (len < 0 || len >= (int)JOURNAL_PATH_BYTES)
        return err_new(ERR_CONFIG, "the path of the journal of streams is too long");
    return NULL;
}

/* ---- whose ---- */

/* Whether the file that was opened is still there by its name: who has done with one removes it. */
static bool is_at(const char *path, int fd)
{
    struct stat opened, named;

    return fstat(fd, &opened) == 0 && S_ISREG(opened.st_mode) && stat(path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

err_t journal_file_lock(const char *path, bool is_made, int *fd)
{
    *fd = sys_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | (is_made ? O_CREAT : 0), 0600);
    if (*fd < 0)
        return errno == ENOENT && !is_made ? NULL : err_system(errno, path);
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0 && is_at(path, *fd))
        return NULL;
    sys_close(*fd);
    *fd = -1;
    return NULL;
}

/* ---- what ---- */

err_t journal_file_read(int fd, size_t at, void *out, size_t bytes, bool *is_there)
{
    size_t len = 0;
    ssize_t n = 1;

    while (len < bytes && n > 0) {
        if (sys_fault(EIO))
            n = -1;
        else
            SYS_RETRY(n, pread(fd, (char *)out + len, sys_cut(bytes - len), (off_t)(at + len)));
        if (n < 0)
            return err_system(errno, "reading a journal of streams");
        len += (size_t)n;
    }
    memset((char *)out + len, 0, bytes - len);
    *is_there = len > 0;
    return NULL;
}

static err_t write_head(int fd, const struct journal_head *head)
{
    ssize_t n = -1;

    if (sys_fault(ENOSPC))
        return err_system(ENOSPC, "writing a journal of streams");
    SYS_RETRY(n, pwrite(fd, head, sizeof(*head), 0));
    if (n < 0)
        return err_system(errno, "writing a journal of streams");
    return n == (ssize_t)sizeof(*head) ? NULL : err_system(ENOSPC, "writing a journal of streams");
}

err_t journal_file_begin(struct journal_file *file, const struct journal_head *head)
{
    if (sys_fault(EIO) || ftruncate(file->fd, 0) < 0)
        return err_system(errno, file->path);
    return write_head(file->fd, head);
}

err_t journal_file_grow(struct journal_file *file)
{
    off_t at = (off_t)(JOURNAL_HEAD_BYTES + file->segment_count * JOURNAL_SEGMENT_BYTES);
    int failed;
    void *ptr;

    if (file->segment_count == JOURNAL_SEGMENTS_MAX)
        return err_system(EFBIG, file->path);
    do
        failed = sys_fault(ENOSPC) ? ENOSPC
                                   : posix_fallocate(file->fd, at, (off_t)JOURNAL_SEGMENT_BYTES);
    while (failed == EINTR);
    if (failed)
        return err_system(failed, file->path);
    if (sys_fault(ENOMEM))
        return err_system(ENOMEM, file->path);
    ptr = mmap(NULL, JOURNAL_SEGMENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, at);
    if (ptr == MAP_FAILED)
        return err_system(errno, file->path);
    file->segments[file->segment_count++] = ptr;
    return NULL;
}

void journal_file_close(struct journal_file *file)
{
    for (size_t i = 0; i < file->segment_count; i++)
        munmap(file->segments[i], JOURNAL_SEGMENT_BYTES);
    if (file->fd >= 0)
        sys_close(file->fd);
    file->segment_count = 0;
    file->fd = -1;
}
