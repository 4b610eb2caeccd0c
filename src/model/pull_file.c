/* SPDX-License-Identifier: Apache-2.0 */
/* Files that grow until their hash is right. The lock is on the open FILE.part, so it goes with the
 * process.
 *
 * The hard thing is a run that waits at the door while another finishes: the FILE.part that it
 * has opened is then the file itself under its new name. So after locking we look whether the
 * name still means what we opened. */
#include "model/pull_file.h"

#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/sys.h"
#include "fiber/offload.h"

#define HASH_PIECE_BYTES ((size_t)64 * 1024)

/* ---- opening ---- */

static err_t make_folders(const char *path, struct arena *arena)
{
    char *copy = arena_cstr(arena, str_from(path));

    if (!copy)
        return arena_err(arena);
    for (char *at = copy + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = 0;
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return err_system(errno, copy);
        *at = '/';
    }
    return mkdir(copy, 0755) < 0 && errno != EEXIST ? err_system(errno, copy) : NULL;
}

/* Open and lock. *is_current: the name still means what was opened. */
static err_t lock_part(struct pull_file *file, bool *is_current)
{
    struct stat named, opened;

    file->fd = sys_open(file->part, O_RDWR | O_CREAT | O_APPEND, 0644);
    if (file->fd < 0)
        return err_system(errno, file->part);
    if (flock(file->fd, LOCK_EX | LOCK_NB) < 0) {
        sys_close(file->fd);
        return err_new(ERR_BUSY, "%s is being fetched by another process", file->path);
    }
    *is_current = fstat(file->fd, &opened) == 0 && stat(file->part, &named) == 0 &&
                  named.st_ino == opened.st_ino;
    if (!*is_current)
        sys_close(file->fd);
    return NULL;
}

err_t pull_file_open(struct pull_file *file, struct str data_dir, const char *name,
                     struct arena *arena)
{
    bool is_current = false;

    *file = (struct pull_file){.arena = arena, .fd = -1};
    file->folder = arena_printf(arena, "%.*s/models", STR_ARG(data_dir));
    file->path = arena_printf(arena, "%.*s/models/%s", STR_ARG(data_dir), name);
    file->part = arena_printf(arena, "%.*s/models/%s.part", STR_ARG(data_dir), name);
    if (!file->folder || !file->path || !file->part)
        return arena_err(arena);
    TRY(make_folders(file->folder, arena));
    while (!is_current)
        TRY(lock_part(file, &is_current));
    return pull_file_look(file);
}

void pull_file_close(struct pull_file *file)
{
    if (file->fd < 0)
        return;
    if (file->have == 0)
        unlink(file->part);
    sys_close(file->fd);
    file->fd = -1;
}

/* ---- growing ---- */

err_t pull_file_cut(struct pull_file *file, uint64_t bytes)
{
    if (ftruncate(file->fd, (off_t)bytes) < 0)
        return err_system(errno, file->part);
    file->have = bytes;
    return NULL;
}

err_t pull_file_add(struct pull_file *file, struct str bytes)
{
    if (file->bytes && bytes.len > file->bytes - file->have)
        return err_new(ERR_UPSTREAM, "there is more than the %llu bytes expected",
                       (unsigned long long)file->bytes);
    while (bytes.len > 0) {
        ssize_t n = sys_write(file->fd, bytes.ptr, bytes.len);
        if (n < 0)
            return err_system(errno, file->part);
        bytes = str_after(bytes, (size_t)n);
        file->have += (uint64_t)n;
    }
    return NULL;
}

err_t pull_file_look(struct pull_file *file)
{
    struct stat info;

    if (fstat(file->fd, &info) < 0)
        return err_system(errno, file->part);
    file->have = (uint64_t)info.st_size;
    return NULL;
}

err_t pull_file_need_room(const struct pull_file *file, uint64_t more)
{
    struct statvfs disk;
    uint64_t there;

    if (statvfs(file->folder, &disk) < 0)
        return err_system(errno, file->folder);
    there = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (more <= there)
        return NULL;
    return err_new(ERR_SYSTEM, "too little room in %s: %llu MB are needed, %llu MB are free",
                   file->folder, (unsigned long long)(more / 1000000 + 1),
                   (unsigned long long)(there / 1000000));
}

/* ---- the end ---- */

static err_t hash_part(const struct pull_file *file, EVP_MD_CTX *hash, char *piece)
{
    off_t at = 0;

    if (!EVP_DigestInit_ex(hash, EVP_sha256(), NULL))
        return err_new(ERR_SYSTEM, "cannot compute a sha256");
    for (;;) {
        ssize_t n = pread(file->fd, piece, HASH_PIECE_BYTES, at);
        if (n < 0)
            return err_system(errno, file->part);
        if (n == 0)
            return NULL;
        if (!EVP_DigestUpdate(hash, piece, (size_t)n))
            return err_new(ERR_SYSTEM, "cannot compute a sha256");
        at += n;
    }
}

/* The hash of FILE.part, worked out beside the loop. */
struct hash_job {
    const struct pull_file *file;
    char hex[65];
};

static err_t read_hash(void *arg)
{
    struct hash_job *job = arg;
    const struct pull_file *file = job->file;
    unsigned char raw[EVP_MAX_MD_SIZE];
    char *piece = arena_alloc(file->arena, HASH_PIECE_BYTES);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    err_t err = piece && hash ? hash_part(file, hash, piece) : err_no_memory();

    if (!err && !EVP_DigestFinal_ex(hash, raw, NULL))
        err = err_new(ERR_SYSTEM, "cannot compute a sha256");
    EVP_MD_CTX_free(hash);
    for (int i = 0; i < 32 && !err; i++) {
        job->hex[2 * i] = "0123456789abcdef"[raw[i] >> 4];
        job->hex[2 * i + 1] = "0123456789abcdef"[raw[i] & 15];
    }
    job->hex[64] = 0;
    return err;
}

static err_t refuse(struct pull_file *file, err_t err)
{
    TRY(pull_file_cut(file, 0));
    return err;
}

err_t pull_file_finish(struct pull_file *file)
{
    struct hash_job job = {.file = file};

    TRY(pull_file_look(file));
    if (file->bytes && file->have != file->bytes)
        return refuse(file,
                      err_new(ERR_UPSTREAM, "it has %llu bytes instead of %llu",
                              (unsigned long long)file->have, (unsigned long long)file->bytes));
    TRY(offload_run(OFFLOAD_FILE, read_hash, &job));
    if (!str_eq_nocase(str_from(job.hex), str_from(file->sha256)))
        return refuse(file, err_new(ERR_UPSTREAM, "it has the sha256 %s instead of %s", job.hex,
                                    file->sha256));
    if (fsync(file->fd) < 0 || rename(file->part, file->path) < 0)
        return err_system(errno, file->path);
    return NULL;
}
