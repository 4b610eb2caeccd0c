/* SPDX-License-Identifier: Apache-2.0 */
/* A model file that is being fetched: FILE.part, which grows, is checked, and then takes its
 * name. */
#ifndef MODEL_PULL_FILE_H
#define MODEL_PULL_FILE_H

#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

struct pull_file {
    struct arena *arena;
    const char *folder, *path, *part; /* data_dir/models, the file, the file while it is fetched */
    const char *sha256;               /* hex, in any case */
    uint64_t bytes;                   /* expected; 0: not known */
    uint64_t have;                    /* bytes in FILE.part */
    int fd;                           /* of FILE.part, locked */
};

/* Open or go on with data_dir/models/`name`.part; strs and paths live in the arena. Errors:
 * SYSTEM, BUSY when another process is fetching it. */
err_t pull_file_open(struct pull_file *file, struct str data_dir, const char *name,
                     struct arena *arena) ERR_MUST_CHECK;

/* Close. What was fetched stays for the next run. */
void pull_file_close(struct pull_file *file);

/* Keep only the first `bytes`. */
err_t pull_file_cut(struct pull_file *file, uint64_t bytes) ERR_MUST_CHECK;

/* Append. Errors: UPSTREAM when there is more than expected, SYSTEM. */
err_t pull_file_add(struct pull_file *file, struct str bytes) ERR_MUST_CHECK;

/* See what another program has appended. */
err_t pull_file_look(struct pull_file *file) ERR_MUST_CHECK;

/* Whether `more` bytes fit on the disk. Errors: SYSTEM naming both numbers. */
err_t pull_file_need_room(const struct pull_file *file, uint64_t more) ERR_MUST_CHECK;

/* PARKS: check size and hash, and give it its name; a file that is wrong is emptied. Errors: UPSTREAM
 * (wrong), SYSTEM. */
err_t pull_file_finish(struct pull_file *file) ERR_MUST_CHECK;

#endif
