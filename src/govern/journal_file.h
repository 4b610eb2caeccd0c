/* SPDX-License-Identifier: Apache-2.0 */
/* The journal's files: where they are, whose they are, and the memory that lies over one.
 *
 * Beside an SQLite database, or in the data directory: one for each process that uses the store at a time, numbered, because with
 * PostgreSQL several may share a folder. A process holds the lock of its own; one that can be locked is nobody's any more.
 *
 * The hard thing is a full disk: storing into memory that has no place on the disk is fatal. So places are reserved before a
 * part of the file is laid over memory. */
#ifndef GOVERN_JOURNAL_FILE_H
#define GOVERN_JOURNAL_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "conf/conf.h"
#include "govern/journal_format.h"

#define JOURNAL_FILES_MAX      64 /* processes that share a folder and a store */
#define JOURNAL_PATH_BYTES     512
#define JOURNAL_SEGMENT_BYTES  ((size_t)1024 * 1024)
#define JOURNAL_SEGMENT_CHUNKS (JOURNAL_SEGMENT_BYTES / JOURNAL_CHUNK_BYTES)
/* Half a million streams that are open, or wait for a store that is away. */
#define JOURNAL_SEGMENTS_MAX 256

struct journal_file {
    char path[JOURNAL_PATH_BYTES];
    int fd; /* -1: none; holds the lock */
    char *segments[JOURNAL_SEGMENTS_MAX];
    size_t segment_count;
};

/* The path of file `number` of this configuration's store. Errors: CONFIG if it is too long. */
err_t journal_file_path(const struct conf *conf, unsigned number,
                        char path[JOURNAL_PATH_BYTES]) ERR_MUST_CHECK;

/* Open and lock a file. *fd is -1 without an error if it is another process's, or (unless `is_made`) if there is none. It is released by
 * closing it. Errors: SYSTEM. */
err_t journal_file_lock(const char *path, bool is_made, int *fd) ERR_MUST_CHECK;

/* Read up to so many bytes at a place; what the file does not have is zero. False at or behind its end. Errors: SYSTEM. */
err_t journal_file_read(int fd, size_t at, void *out, size_t bytes, bool *is_there) ERR_MUST_CHECK;

/* Empty the file, of which fd is set, and give it a head. Errors: SYSTEM. */
err_t journal_file_begin(struct journal_file *file, const struct journal_head *head) ERR_MUST_CHECK;

/* Reserve the next segment and lay it over memory, zeroed. Blocks. Errors: SYSTEM, as on a full disk. */
err_t journal_file_grow(struct journal_file *file) ERR_MUST_CHECK;

/* Leave the file as it is, unlocked. */
void journal_file_close(struct journal_file *file);

#endif
